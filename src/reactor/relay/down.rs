//! Message connection → local side, and what the frames say.

use std::io::{self, IoSlice};

use super::Relay;
use super::rated::write_rated;
use super::splice::{SPARSE_BYTES, SPLICE_BYTES_MAX, Spliced, unspliced};
use crate::base::id::ConnId;
use crate::machine::{CloseReason, Input, SessionEvent};
use crate::reactor::buffers::{PIECES_MAX, stash};
use crate::reactor::connections::{Kind, Writing};
use crate::reactor::rates::Direction;
use crate::reactor::world::network::Socket;
use crate::session::Step;
use crate::wire::frame::{AbortReason, Frame};
use crate::wire::record::{HEADROOM, RECORD_BYTES_MAX};

/// What a frame asks of the relay, and what is answered.
type Asked = (Step, Option<Frame<'static>>);

/// A turn of one message connection's bytes.
pub(super) struct Down<'r, 'a, S: Socket> {
    relay: &'r mut Relay<'a, S>,
    id: ConnId,
    /// Bytes that are left of the turn.
    budget: usize,
}

impl<'r, 'a, S: Socket> Down<'r, 'a, S> {
    pub fn new(relay: &'r mut Relay<'a, S>, id: ConnId) -> Down<'r, 'a, S> {
        let budget = relay.limits.turn_bytes;
        Down { relay, id, budget }
    }

    /// Moves bytes until a side has no more or takes no more, or the turn is over.
    pub fn pump(mut self) {
        let id = self.id;
        let mut need_more = false;
        loop {
            if self.budget == 0 {
                return self.relay.all.queue_again(id);
            }
            if !self.relay.reads_message(id) {
                return;
            }
            let allowed = self.relay.allowed_down(id);
            if allowed == 0 {
                return;
            }
            match self.splice(allowed) {
                Spliced::Moved => continue,
                Spliced::Stopped => return,
                Spliced::Unavailable => {}
            }
            let Some(connection) = self.relay.all.open(id) else { return };
            let Kind::Message(message) = &mut connection.kind else { return };
            let raw = &mut self.relay.buffers.scratch.raw;
            let mut filled = message.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
            self.relay.buffers.rings.tidy(&mut message.input);
            if need_more || filled == 0 {
                // What may not pass now would wait in a ring. Only a whole record can be opened.
                let least = if message.channel.is_plain() { HEADROOM } else { RECORD_BYTES_MAX };
                let most = if message.expects_head { HEADROOM } else { allowed.max(least) };
                let end = raw.len().min(filled.saturating_add(most));
                let read = match connection.ready.readable {
                    true => connection.socket.read(&mut raw[filled..end]),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                };
                match read {
                    Ok(0) => return self.ended(CloseReason::PeerClosed),
                    Ok(count) => {
                        connection.ready.note_read(count, end - filled);
                        message.expects_head = false;
                        message.pulse.heard();
                        connection.patience.renew();
                        filled += count;
                        self.budget = self.budget.saturating_sub(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        connection.ready.readable = false;
                        return stash(&mut message.input, &mut self.relay.buffers.rings, &raw[..filled]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        stash(&mut message.input, &mut self.relay.buffers.rings, &raw[..filled]);
                        continue;
                    }
                    Err(error) => return self.ended(CloseReason::Io(error.into())),
                }
            }
            let Some((consumed, met)) = self.open_records(filled) else { return };
            need_more = consumed == 0;
            if let Some(met) = met {
                self.follow(met);
                self.relay.part_if_over(id);
            }
        }
    }

    /// Everything was read that came: the connection ends, by what went wrong first.
    fn ended(&mut self, reason: CloseReason) {
        match (self.relay.all.message(self.id).and_then(|message| message.failed), reason) {
            (Some(fault), _) => self.relay.all.reset(self.id, CloseReason::Io(fault)),
            (None, CloseReason::PeerClosed) => self.relay.all.end(self.id, reason),
            (None, _) => self.relay.all.reset(self.id, reason),
        }
    }

    /// Opens the records in the first `filled` bytes of scratch up to a frame that is more than payload, gives the
    /// payload to the local side and puts the unopened rest into the input ring. Returns the bytes consumed and
    /// what that frame asks for; `None` if the connection is closed.
    fn open_records(&mut self, filled: usize) -> Option<(usize, Option<Asked>)> {
        let (id, now) = (self.id, self.relay.all.now);
        let raw = &self.relay.buffers.scratch.raw[..filled];
        let mut clear = &mut self.relay.buffers.scratch.clear[..];
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let (mut count, mut consumed, mut asked) = (0, 0, None);
        let (message, local) = self.relay.all.with_peer(id)?;
        let Kind::Message(half) = &mut message.kind else { return None };
        let outcome = loop {
            let opened = match half.channel.open(&raw[consumed..], &mut clear) {
                Ok(opened) => opened,
                Err(_) => break Err(CloseReason::BadRecord),
            };
            consumed += opened.consumed;
            let Some(frame) = opened.frame else { break Ok(()) };
            match (half.session.receive(&frame), frame) {
                (Ok((Step::Deliver, _)), Frame::Data(_, bytes)) => {
                    pieces[count] = IoSlice::new(bytes);
                    count += 1;
                }
                (Ok((Step::Ignore, None)), Frame::Data(..)) => {}
                (Ok(taken), _) => {
                    asked = Some(taken);
                    break Ok(());
                }
                (Err(_), _) => break Err(CloseReason::ProtocolError),
            }
            if count == PIECES_MAX {
                break Ok(());
            }
        };
        stash(&mut half.input, &mut self.relay.buffers.rings, &raw[consumed..]);
        if count > 0
            && let Some(local) = local
            && local.takes_bytes()
        {
            let rings = &mut self.relay.buffers.rings;
            let written = write_rated(local, self.relay.rates, self.relay.meters, now, |local, most| {
                local.write(rings, &pieces[..count], most)
            });
            let (local, left) = (local.id, local.out.is_some());
            match written {
                Ok(()) if left => self.relay.all.queue(local),
                Ok(()) => {}
                Err(error) => self.relay.fail_local_writing(local, error.into()),
            }
        }
        if let Err(reason) = outcome {
            self.relay.all.reset(id, reason);
        }
        Some((consumed, asked))
    }

    /// Does what a frame that is more than payload asks for.
    fn follow(&mut self, (step, reply): Asked) {
        let id = self.id;
        if let Some(reply) = reply {
            self.relay.send_frame(id, &reply);
            if matches!(reply, Frame::Abort(..)) {
                self.relay.begin_patience(id);
            }
        }
        let event = match step {
            Step::Ignore | Step::Deliver => return,
            Step::Begin(start) => {
                // The server has seen the end of the session before: its abort is no longer waited for.
                self.relay.all.set_deadline(id, None);
                if let Some(message) = self.relay.all.message(id) {
                    message.announced_idle = false;
                }
                SessionEvent::Start(start)
            }
            Step::Accepted => SessionEvent::Accepted,
            Step::Started => {
                if let Some(user) = self.relay.all.peer(id) {
                    let retained = self.relay.all.local(user).and_then(|local| local.retained.take());
                    retained.into_iter().for_each(|ring| self.relay.buffers.rings.give_back(ring));
                    self.relay.all.queue(user);
                }
                SessionEvent::Started
            }
            Step::Finish => {
                let Some(peer) = self.relay.all.peer(id) else { return };
                if let Some(local) = self.relay.all.local(peer)
                    && local.writing == Writing::Open
                {
                    local.writing = Writing::Finishing;
                }
                return self.relay.all.queue(peer);
            }
            Step::Abort(reason) if self.is_probe() => SessionEvent::ProbeAborted(reason),
            Step::Returned if self.is_probe() => SessionEvent::ProbeAborted(AbortReason::Refused),
            Step::Returned => match self.relay.all.unpair(id) {
                Some(user) => return self.relay.give_back_user(user, true),
                None => SessionEvent::Refused,
            },
            Step::Duplicate => {
                self.relay.all.unpair(id);
                SessionEvent::Duplicate
            }
            Step::Abort(reason) => {
                if let Some(local) = self.relay.all.unpair(id) {
                    self.relay.abort_local(local, CloseReason::Aborted(reason));
                }
                return;
            }
            Step::Pong => SessionEvent::Pong,
            Step::Drain => SessionEvent::Drain,
        };
        self.relay.all.tell(Input::Session { id, event });
    }

    fn is_probe(&mut self) -> bool {
        self.relay.all.message(self.id).is_some_and(|message| message.is_probe)
    }

    /// Message connection → local side: payload of a `Data` record whose head has been read, no more than these bytes.
    fn splice(&mut self, allowed: usize) -> Spliced {
        let id = self.id;
        let Some((message, Some(local))) = self.relay.all.with_peer(id) else {
            return Spliced::Unavailable;
        };
        let Kind::Message(half) = &mut message.kind else { return Spliced::Unavailable };
        let takes = matches!(&local.kind, Kind::Local(to) if to.writing == Writing::Open);
        let left = half.channel.plain_left();
        let wanted = left.min(allowed) >= SPARSE_BYTES && half.input.is_none() && half.session.delivers();
        if !wanted || !takes || !message.ready.readable || !local.is_flushed() {
            return Spliced::Unavailable;
        }
        let Some(mut piped) = self.relay.buffers.pipes.lease(&message.socket) else {
            return Spliced::Unavailable;
        };
        let held = match message.socket.splice_in(&mut piped.pipe, left.min(allowed).min(SPLICE_BYTES_MAX)) {
            Ok(count) if count > 0 => count,
            result => {
                self.relay.buffers.pipes.give_back(piped);
                return unspliced(self.relay.all, id, result);
            }
        };
        half.pulse.heard();
        message.patience.renew();
        half.channel.take_plain(held);
        half.expects_head = left == held;
        self.budget = self.budget.saturating_sub(held);
        if let Kind::Local(to) = &local.kind {
            self.relay.rates.spend(local.id, to, Direction::Down, held);
        }
        (piped.held, piped.header_left) = (held, 0);
        local.piped = Some(piped);
        let local = local.id;
        if !self.relay.flush_local(local) {
            self.relay.all.queue(local);
        }
        Spliced::Moved
    }
}
