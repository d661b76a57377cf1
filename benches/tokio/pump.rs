//! The bytes of a session, both ways, and what the frames between them ask for.

use std::io::{self, IoSlice};

use skyorg::base::ring::{RING_BYTES, Ring};
use skyorg::machine::{CloseReason, Input, SessionEvent};
use skyorg::session::{Stage, Step};
use skyorg::wire::frame::{AbortReason, Frame};
use skyorg::wire::record::{HEADROOM, payload_fitting};
use tokio::time::Instant;

use super::super::scratch::read;
use super::{Local, Relay, SMALL_FRAMES_ROOM, Scratch, Writing};

/// Pieces of payload that go into one write.
const PIECES_MAX: usize = 16;

/// Whether there is more to do at once.
type Again = bool;

/// What a frame asks of the relay, and what is answered.
type Asked = (Step, Option<Frame<'static>>);

impl Relay {
    pub(super) fn advance(&mut self, scratch: &mut Scratch) -> Result<Again, CloseReason> {
        if self.blocked {
            self.flush(scratch)?;
        }
        self.flush_local(scratch)?;
        let mut again = self.pump_up(scratch)?;
        again |= self.pump_down(scratch)?;
        // What was opened may have been answered: one write for all of it.
        self.flush(scratch)?;
        self.flush_local(scratch)?;
        if self.local.as_ref().is_some_and(Local::is_over) {
            self.drop_local(CloseReason::Finished, scratch);
        }
        if self.session.is_idle() && self.out.is_none() && !self.announced_idle {
            self.announced_idle = true;
            self.deadline = None;
            self.shared.input(Input::Session { id: self.id, event: SessionEvent::Idle { settled: true } });
        }
        Ok(again)
    }

    /// Bytes that the local side may say now: none if they are not wanted, or cannot be passed on.
    pub(super) fn payload_room(&self) -> usize {
        let Some(local) = &self.local else { return 0 };
        if local.read_ended || self.blocked || !self.session.may_send() {
            return 0;
        }
        let room = RING_BYTES - SMALL_FRAMES_ROOM;
        let room_here = payload_fitting(room.saturating_sub(self.out.as_ref().map_or(0, Ring::len)));
        if self.session.stage() < Some(Stage::Started) {
            return room_here.min(payload_fitting(room) - local.retained.as_ref().map_or(0, Ring::len));
        }
        room_here
    }

    /// Local side → message connection.
    fn pump_up(&mut self, scratch: &mut Scratch) -> Result<Again, CloseReason> {
        let mut budget = self.shared.limits.turn_bytes;
        loop {
            if budget == 0 {
                return Ok(true);
            }
            let limit = self.payload_room();
            let Some(local) = self.local.as_mut().filter(|_| limit > 0) else {
                return Ok(false);
            };
            let count = match read(&local.stream, &mut scratch.raw[HEADROOM..HEADROOM + limit]) {
                Ok(0) => {
                    self.local_ended(scratch)?;
                    return Ok(false);
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => {
                    self.local_broke(error.kind(), scratch)?;
                    return Ok(false);
                }
            };
            // The last read of a turn may be a full one, as the product's.
            budget = budget.saturating_sub(count);
            local.traffic.received += count as u64;
            let raw = &mut scratch.raw[..HEADROOM + count];
            if self.session.stage() < Some(Stage::Started) {
                scratch.rings.push(&mut local.retained, &raw[HEADROOM..]);
            }
            let sealed = self.channel.seal_data(self.session.sid(), raw, &mut scratch.clear);
            self.write(sealed.map_err(|_| CloseReason::BadRecord)?, &mut scratch.rings)?;
        }
    }

    /// Message connection → local side, and whatever else the frames say.
    fn pump_down(&mut self, scratch: &mut Scratch) -> Result<Again, CloseReason> {
        let mut budget = self.shared.limits.turn_bytes;
        let mut need_more = false;
        while self.may_open() {
            if budget == 0 {
                return Ok(true);
            }
            let raw = &mut scratch.raw;
            let mut filled = self.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
            scratch.rings.tidy(&mut self.input);
            if need_more || filled == 0 {
                match read(&self.stream, &mut raw[filled..]) {
                    Ok(0) => return Err(CloseReason::PeerClosed),
                    Ok(count) => {
                        filled += count;
                        budget = budget.saturating_sub(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        scratch.rings.push(&mut self.input, &raw[..filled]);
                        return Ok(false);
                    }
                    Err(error) => return Err(CloseReason::Io(error.into())),
                }
            }
            let (consumed, asked) = self.open_records(filled, scratch)?;
            need_more = consumed == 0;
            if let Some((step, reply)) = asked {
                self.follow(step, reply, scratch)?;
                self.part_if_over(scratch);
            }
        }
        Ok(false)
    }

    /// Whether what arrives may be opened now: no local side gets it, or the local side takes it.
    pub(super) fn may_open(&self) -> bool {
        !self.session.delivers() || self.local.as_ref().is_some_and(|local| local.out.is_none())
    }

    /// Opens records up to a frame that is more than payload, and gives the payload to the local side.
    fn open_records(
        &mut self,
        filled: usize,
        scratch: &mut Scratch,
    ) -> Result<(usize, Option<Asked>), CloseReason> {
        let raw = &scratch.raw[..filled];
        let mut clear = &mut scratch.clear[..];
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let (mut count, mut consumed, mut asked) = (0, 0, None);
        while count < PIECES_MAX {
            let opened =
                self.channel.open(&raw[consumed..], &mut clear).map_err(|_| CloseReason::BadRecord)?;
            consumed += opened.consumed;
            let Some(frame) = opened.frame else { break };
            match (self.session.receive(&frame), frame) {
                (Ok((Step::Deliver, _)), Frame::Data(_, bytes)) => {
                    pieces[count] = IoSlice::new(bytes);
                    count += 1;
                }
                (Ok((Step::Ignore, None)), Frame::Data(..)) => {}
                (Ok(taken), _) => {
                    asked = Some(taken);
                    break;
                }
                (Err(_), _) => return Err(CloseReason::ProtocolError),
            }
        }
        scratch.rings.push(&mut self.input, &raw[consumed..]);
        if count > 0
            && let Some(local) = self.local.as_mut().filter(|local| local.takes_bytes())
            && let Err(error) = local.write(&pieces[..count], &mut scratch.rings)
        {
            self.local_failed(error.kind(), scratch)?;
        }
        Ok((consumed, asked))
    }

    /// Does what a frame that is more than payload asks for.
    fn follow(
        &mut self,
        step: Step,
        reply: Option<Frame<'static>>,
        scratch: &mut Scratch,
    ) -> Result<(), CloseReason> {
        if let Some(reply) = reply {
            self.send_frame(&reply, scratch)?;
            if matches!(reply, Frame::Abort(..)) {
                self.clock_abort();
            }
        }
        let event = match step {
            Step::Ignore | Step::Deliver => return Ok(()),
            Step::Begin(start) => {
                self.announced_idle = false;
                self.expect_silence();
                SessionEvent::Start(start)
            }
            Step::Accepted => SessionEvent::Accepted,
            Step::Started => {
                let retained = self.local.as_mut().and_then(|local| local.retained.take());
                retained.into_iter().for_each(|ring| scratch.rings.give_back(ring));
                SessionEvent::Started
            }
            Step::Finish => {
                if let Some(local) = self.local.as_mut().filter(|local| local.writing == Writing::Open) {
                    local.writing = Writing::Finishing;
                }
                self.flush_local(scratch)?;
                return Ok(());
            }
            Step::Returned => {
                let user = self.local.take().map(Box::new);
                user.into_iter().for_each(|user| self.return_user(user, true));
                return Ok(());
            }
            // No session is sent twice while its first connection lives; see `hub`.
            Step::Duplicate => {
                self.drop_local(CloseReason::Aborted(AbortReason::Duplicate), scratch);
                return Ok(());
            }
            Step::Abort(reason) => {
                match self.local.take() {
                    Some(local) if local.out.is_some() && local.failed.is_none() => {
                        let deadline = Instant::now() + self.shared.limits.abort;
                        let reason = CloseReason::Aborted(reason);
                        tokio::spawn(local.finish_alone(deadline, reason, self.shared.clone()));
                    }
                    local => {
                        self.local = local;
                        self.drop_local(CloseReason::Aborted(reason), scratch);
                    }
                }
                return Ok(());
            }
            Step::Pong => SessionEvent::Pong,
            Step::Drain => SessionEvent::Drain,
        };
        self.shared.input(Input::Session { id: self.id, event });
        Ok(())
    }
}
