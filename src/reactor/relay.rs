//! Bytes, both ways, between a message connection and its local side.
//!
//! Up (local side → message connection): read as much as the out ring could hold, seal, write at once, and keep in
//! the ring what the socket did not take. Down: read, open every record, write the payload at once, keep the rest
//! in the local side's out ring. A side is read only while the other takes bytes, so a session never holds more
//! than one ring in each direction.

use std::io::{self, IoSlice};

use super::Reactor;
use super::connection::{Local, Reading, Role, Writing};
use super::network::{Network, Socket};
use super::outgoing::stash;
use super::splice::Spliced;
use crate::machine::{CloseReason, ConnId, Input, Machine, SessionEvent};
use crate::ring::{RING_BYTES, Ring};
use crate::session::{Stage, Step};
use crate::wire::frame::Frame;
use crate::wire::record::{HEADROOM, SMALL_RECORD_BYTES_MAX, payload_fitting};

/// Bytes of every message connection's out ring that `Data` leaves to small frames.
pub(super) const SMALL_FRAMES_ROOM: usize = 16 * SMALL_RECORD_BYTES_MAX;
/// Pieces of payload that go into one write.
pub(super) const PIECES_MAX: usize = 16;
/// A read of so many bytes, in a session that has had so many, makes a flow bulk: it is spliced from then on.
const BULK_READ_BYTES: usize = 32 * 1024;
const BULK_SESSION_BYTES: u64 = 256 * 1024;
/// A splice of fewer bytes ends that: reading them would have been cheaper.
pub(super) const SPARSE_BYTES: usize = 16 * 1024;

impl<M: Machine, N: Network> Reactor<M, N> {
    // The local side.

    pub(super) fn serve_local(&mut self, id: ConnId) {
        let had_bytes = self.connections.find(id).is_some_and(|connection| !connection.is_flushed());
        let flushed = self.flush(id);
        if flushed
            && had_bytes
            && let Some(peer) = self.connections.peer(id)
        {
            self.queue(peer);
        }
        self.end_local_writing(id, had_bytes);
        self.pump_up(id);
        self.note_local_error(id);
        self.end_local(id);
    }

    /// Shuts down or resets a local side whose last bytes are flushed; else gives them their time.
    fn end_local_writing(&mut self, id: ConnId, progressed: bool) {
        let deadline = self.now + self.limits.finish;
        let Some(connection) = self.connections.find(id) else { return };
        let flushed = connection.is_flushed();
        let Role::Local(local) = &mut connection.role else { return };
        match local.writing {
            // Closing it, which is next, ends it as well.
            Writing::Finishing if flushed && local.reading == Reading::Ended => {
                local.writing = Writing::Ended
            }
            Writing::Finishing if flushed => {
                local.writing = Writing::Ended;
                if let Err(error) = connection.socket.shutdown_write() {
                    return self.fail_local_writing(id, error.kind());
                }
                if !matches!(local.reading, Reading::Failed(_)) {
                    self.set_deadline(id, None);
                }
            }
            Writing::Finishing if progressed && local.peer.is_none() => self.set_deadline(id, Some(deadline)),
            Writing::Aborting(reason) if flushed => self.close(id, reason),
            _ => {}
        }
    }

    /// Closes a local side once both its directions have ended.
    fn end_local(&mut self, id: ConnId) {
        if let Some(local) = self.connections.local(id)
            && local.reading == Reading::Ended
            && local.writing == Writing::Ended
        {
            self.close(id, CloseReason::Finished);
        }
    }

    /// An event told of an error on a local side that is not being read: nobody else would notice.
    fn note_local_error(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        if !std::mem::take(&mut connection.ready.error) {
            return;
        }
        if let Some(error) = connection.socket.take_error() {
            self.fail_local(id, error.kind());
        }
    }

    /// The local side broke. What it sent before that is still passed on, if it can be within a short time.
    pub(super) fn fail_local(&mut self, id: ConnId, kind: io::ErrorKind) {
        let deadline = self.now + self.limits.abort_flush;
        let Some(local) = self.connections.local(id) else { return };
        if local.reading == Reading::Ended || local.peer.is_none() {
            return self.close(id, CloseReason::Io(kind));
        }
        if local.reading == Reading::Open {
            local.reading = Reading::Failed(kind);
            self.set_deadline(id, Some(deadline));
            self.queue(id);
        }
    }

    pub(super) fn fail_local_writing(&mut self, id: ConnId, kind: io::ErrorKind) {
        let Some(connection) = self.connections.find(id) else { return };
        connection.forget_unsent(&mut self.rings, &mut self.pipes);
        let peer = self.connections.peer(id);
        let Some(local) = self.connections.local(id) else { return };
        if let Writing::Aborting(reason) = local.writing {
            return self.close(id, reason);
        }
        local.writing = Writing::Failed;
        if let Some(connection) = self.connections.find(id) {
            connection.ready.readable = true;
        }
        self.fail_local(id, kind);
        if let Some(peer) = peer {
            self.queue(peer);
        }
    }

    /// Local side → message connection.
    fn pump_up(&mut self, id: ConnId) {
        let mut budget = self.limits.turn_bytes;
        loop {
            let Some((local, message)) = self.connections.couple(id) else { return };
            let (Role::Local(half), Role::Message(other)) = (&mut local.role, &mut message.role) else {
                return;
            };
            let wanted = half.reads() && other.session.may_send();
            if !wanted || !local.ready.readable || !message.ready.writable || message.piped.is_some() {
                return;
            }
            if budget == 0 {
                return self.queue_again(id);
            }
            if half.is_bulk && other.splices() && message.is_flushed() {
                match self.splice_up(id, &mut budget) {
                    Spliced::Moved => continue,
                    Spliced::Stopped => return,
                    Spliced::Unavailable => {}
                }
            }
            let Some((local, message)) = self.connections.couple(id) else { return };
            let (Role::Local(half), Role::Message(other)) = (&mut local.role, &mut message.role) else {
                return;
            };
            let room = RING_BYTES - SMALL_FRAMES_ROOM;
            let held = message.out.as_ref().map_or(0, Ring::len);
            let mut limit = payload_fitting(room.saturating_sub(held));
            let unstarted = other.session.stage() < Some(Stage::Started);
            if unstarted {
                limit = limit.min(payload_fitting(room) - half.retained.as_ref().map_or(0, Ring::len));
            }
            if limit == 0 {
                return;
            }
            let raw = &mut self.scratch.raw[..HEADROOM + limit];
            let count = match local.socket.read(&mut raw[HEADROOM..]) {
                Ok(0) => return self.local_ended(id),
                Ok(count) => {
                    local.ready.note_read(count, limit);
                    count
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    local.ready.readable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Everything before it was passed on; `reap` sends the `Abort`.
                Err(error) => return self.close(id, CloseReason::Io(error.kind())),
            };
            budget = budget.saturating_sub(count);
            half.traffic.received += count as u64;
            other.carried_bytes = other.carried_bytes.saturating_add(count as u32);
            half.is_bulk = count >= BULK_READ_BYTES && half.traffic.received >= BULK_SESSION_BYTES;
            let raw = &mut raw[..HEADROOM + count];
            if unstarted {
                stash(&mut half.retained, &mut self.rings, &raw[HEADROOM..]);
            }
            let sealed = other.channel.seal_data(other.session.sid(), raw, &mut self.scratch.clear);
            let written = match sealed {
                // The end follows at once, and goes into the same write.
                Ok(sealed) if local.ready.ended && count < limit => {
                    stash(&mut message.out, &mut self.rings, sealed);
                    Ok(())
                }
                Ok(sealed) => message.write(&mut self.rings, &[IoSlice::new(sealed)]),
                Err(_) => Err(io::ErrorKind::InvalidData.into()),
            };
            let (message, left) = (message.id, message.out.is_some());
            if let Err(error) = written {
                return self.close(message, CloseReason::Io(error.kind()));
            }
            if left {
                self.queue(message);
            }
        }
    }

    /// The end of what the local side says: whole, or, if an error was latched, broken.
    pub(super) fn local_ended(&mut self, id: ConnId) {
        let Some(local) = self.connections.local(id) else { return };
        if let Reading::Failed(kind) = local.reading {
            return self.close(id, CloseReason::Io(kind));
        }
        local.reading = Reading::Ended;
        if let Some(peer) = self.connections.peer(id) {
            self.with_session(peer, |session| session.finish());
            // Nothing that could share its write will follow, and a crowd that leaves would need a ring each.
            self.flush(peer);
        }
    }

    /// Hands a user back to the machine, unpaired, with what he said.
    pub(super) fn give_back_user(&mut self, user: ConnId, refused: bool) {
        let Some(local) = self.connections.local(user) else { return };
        let spoken = local.traffic.received > 0;
        if matches!(local.reading, Reading::Failed(_)) || local.writing != Writing::Open {
            return self.close(user, CloseReason::Truncated);
        }
        self.tell(Input::Returned { id: user, refused, spoken });
    }

    // The message connection.

    pub(super) fn serve_message(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        let had_bytes = !connection.is_flushed();
        let had_frames = connection.out.as_ref().is_some_and(|ring| ring.len() <= SMALL_FRAMES_ROOM);
        let peer = self.connections.peer(id);
        // What the local side has to say leaves in one write with the frames before it.
        if had_frames && let Some(peer) = peer {
            self.pump_up(peer);
        }
        // Its local side may have found the ring full and wait for room: no event would tell.
        if self.flush(id)
            && had_bytes
            && let Some(peer) = peer
        {
            self.queue(peer);
        }
        self.pump_down(id);
        self.settle(id);
        self.note_message_error(id);
    }

    fn note_message_error(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        if std::mem::take(&mut connection.ready.error)
            && let Some(error) = connection.socket.take_error()
        {
            self.close(id, CloseReason::Io(error.kind()));
        }
    }

    /// Tells the machine once the connection is free for the next session.
    fn settle(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        let flushed = connection.is_flushed();
        let Role::Message(message) = &mut connection.role else { return };
        if flushed && message.session.is_idle() && !message.announced_idle {
            message.announced_idle = true;
            let settled = message.carried_bytes as usize <= RING_BYTES;
            self.set_deadline(id, None);
            self.tell(Input::Session { id, event: SessionEvent::Idle { settled } });
        }
    }

    /// Message connection → local side, and whatever else the frames say.
    fn pump_down(&mut self, id: ConnId) {
        let mut budget = self.limits.turn_bytes;
        let mut need_more = false;
        loop {
            if budget == 0 {
                return self.queue_again(id);
            }
            if !self.may_open(id) {
                return;
            }
            match self.splice_down(id, &mut budget) {
                Spliced::Moved => continue,
                Spliced::Stopped => return,
                Spliced::Unavailable => {}
            }
            let Some(connection) = self.connections.find(id) else { return };
            let Role::Message(message) = &mut connection.role else { return };
            let raw = &mut self.scratch.raw;
            let mut filled = message.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
            self.rings.tidy(&mut message.input);
            if need_more || filled == 0 {
                let end = if message.expects_head { raw.len().min(filled + HEADROOM) } else { raw.len() };
                let read = match connection.ready.readable {
                    true => connection.socket.read(&mut raw[filled..end]),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                };
                match read {
                    Ok(0) => return self.close(id, CloseReason::PeerClosed),
                    Ok(count) => {
                        connection.ready.note_read(count, end - filled);
                        message.expects_head = false;
                        filled += count;
                        budget = budget.saturating_sub(count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        connection.ready.readable = false;
                        return stash(&mut message.input, &mut self.rings, &raw[..filled]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        stash(&mut message.input, &mut self.rings, &raw[..filled]);
                        continue;
                    }
                    Err(error) => return self.close(id, CloseReason::Io(error.kind())),
                }
            }
            let Some((consumed, met)) = self.open_records(id, filled) else { return };
            need_more = consumed == 0;
            if let Some(met) = met {
                self.follow(id, met);
                self.part_if_over(id);
            }
        }
    }

    /// Whether what arrives may be opened now: there is nobody to deliver it to, or he takes it.
    fn may_open(&mut self, id: ConnId) -> bool {
        match self.connections.message(id) {
            None => return false,
            Some(message) if !message.session.delivers() => return true,
            Some(_) => {}
        }
        let Some(local) = self.connections.peer(id) else { return false };
        match self.connections.find(local) {
            // Reaping will abort the session.
            None => false,
            Some(connection) => matches!(connection.role, Role::Local(_)) && connection.is_flushed(),
        }
    }

    /// Opens the records in the first `filled` bytes of scratch up to a frame that is more than payload, gives the
    /// payload to the local side and puts the unopened rest into the input ring. Returns the bytes consumed and
    /// what that frame asks for; `None` if the connection is closed.
    fn open_records(&mut self, id: ConnId, filled: usize) -> Option<(usize, Option<Asked>)> {
        let raw = &self.scratch.raw[..filled];
        let mut clear = &mut self.scratch.clear[..];
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let (mut count, mut consumed, mut asked) = (0, 0, None);
        let (message, local) = self.connections.with_peer(id)?;
        let Role::Message(half) = &mut message.role else { return None };
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
                (Ok((Step::Ignore, None)), Frame::Data(_, bytes)) => {
                    half.discarded_bytes += bytes.len() as u32;
                    if half.discarded_bytes as usize > self.limits.abort_drain_bytes {
                        break Err(CloseReason::EndTimedOut);
                    }
                }
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
        stash(&mut half.input, &mut self.rings, &raw[consumed..]);
        if count > 0
            && let Some(local) = local
            && local.takes_bytes()
        {
            let written = local.write(&mut self.rings, &pieces[..count]);
            let (local, left) = (local.id, local.out.is_some());
            match written {
                Ok(()) if left => self.queue(local),
                Ok(()) => {}
                Err(error) => self.fail_local_writing(local, error.kind()),
            }
        }
        if let Err(reason) = outcome {
            self.close(id, reason);
        }
        Some((consumed, asked))
    }

    /// Does what a frame that is more than payload asks for.
    fn follow(&mut self, id: ConnId, (step, reply): Asked) {
        if let Some(reply) = reply {
            self.send_frame(id, &reply);
            if matches!(reply, Frame::Abort(..)) {
                self.clock_abort(id);
            }
        }
        let event = match step {
            Step::Ignore | Step::Deliver => return,
            Step::Begin(start) => {
                // The server has seen the end of the session before: its abort is no longer waited for.
                self.set_deadline(id, None);
                if let Some(message) = self.connections.message(id) {
                    message.announced_idle = false;
                }
                SessionEvent::Start(start)
            }
            Step::Accepted => SessionEvent::Accepted,
            Step::Started => {
                if let Some(user) = self.connections.peer(id) {
                    let retained = self.connections.local(user).and_then(|local| local.retained.take());
                    retained.into_iter().for_each(|ring| self.rings.give_back(ring));
                    self.queue(user);
                }
                SessionEvent::Started
            }
            Step::Finish => {
                let Some(peer) = self.connections.peer(id) else { return };
                if let Some(local) = self.connections.local(peer)
                    && local.writing == Writing::Open
                {
                    local.writing = Writing::Finishing;
                }
                return self.queue(peer);
            }
            Step::Returned => {
                if let Some(user) = self.connections.unpair(id) {
                    self.give_back_user(user, true);
                }
                return;
            }
            Step::Abort(reason) => {
                if let Some(local) = self.connections.unpair(id) {
                    self.abort_local(local, CloseReason::Aborted(reason));
                }
                return;
            }
            Step::Pong => SessionEvent::Pong,
            Step::Drain => SessionEvent::Drain,
        };
        self.tell(Input::Session { id, event });
    }

    /// Resets a local side, which is unpaired already, once the bytes before the abort are flushed.
    fn abort_local(&mut self, id: ConnId, reason: CloseReason) {
        let deadline = self.now + self.limits.abort_flush;
        let Some(connection) = self.connections.find(id) else { return };
        let flushed = connection.is_flushed();
        match &mut connection.role {
            Role::Local(local) if !flushed => {
                local.writing = Writing::Aborting(reason);
                self.set_deadline(id, Some(deadline));
                self.queue(id);
            }
            _ => self.close(id, reason),
        }
    }
}

/// What a frame asks of the relay, and what is answered.
type Asked = (Step, Option<Frame<'static>>);

impl Local {
    /// Whether its bytes are still wanted.
    fn reads(&self) -> bool {
        self.reading != Reading::Ended && !matches!(self.writing, Writing::Aborting(_))
    }
}
