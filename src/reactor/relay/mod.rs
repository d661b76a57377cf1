//! Sessions on message connections: frames, pairs and ends. The bytes between them move in [`up`] and [`down`].
//!
//! Up (local side → message connection): read as much as the out ring could hold, seal, write at once, and keep in
//! the ring what the socket did not take. Down: read, open every record, write the payload at once, keep the rest
//! in the local side's out ring. A side is read only while the other takes bytes, so a session never holds more
//! than one ring in each direction.

mod down;
pub(super) mod patience;
mod rated;
mod splice;
mod up;

use std::io;

use super::buffers::{Buffers, Scratch, stash};
use super::connections::{Connections, Kind, Life, Local, Message, Reading, Side, Writing};
use super::meters::Meters;
use super::rates::{Direction, Rates};
use super::world::network::Socket;
use crate::base::id::ConnId;
use crate::base::ring::RING_BYTES;
use crate::config::limits::Limits;
use crate::machine::{CloseReason, Fault, Input, SessionEvent, Terms, Traffic};
use crate::session::Session;
use crate::wire::frame::{AbortReason, Frame, Start};
use crate::wire::record::{HEADROOM, SMALL_RECORD_BYTES_MAX, payload_fitting};
use down::Down;
use up::Up;

/// Bytes of every message connection's out ring that `Data` leaves to small frames.
const SMALL_FRAMES_ROOM: usize = 16 * SMALL_RECORD_BYTES_MAX;

/// One step of relaying: it borrows what it works on.
pub(super) struct Relay<'a, S: Socket> {
    pub all: &'a mut Connections<S>,
    pub buffers: &'a mut Buffers<S>,
    pub rates: &'a mut Rates,
    pub meters: &'a mut Meters,
    pub limits: &'a Limits,
}

impl<S: Socket> Relay<'_, S> {
    // The machine's outputs.

    /// Begins a user's session on an idle message connection, and pairs them unless the user is paired with another
    /// copy of it.
    pub fn start(&mut self, message: ConnId, user: ConnId, start: Start, terms: Terms) {
        let Some(local) = self.all.local(user) else {
            // The user has just gone, and the machine is about to hear of it. The connection is still free.
            let event = SessionEvent::Idle { settled: true };
            return self.all.tell(Input::Session { id: message, event });
        };
        (local.rate, local.account) = (terms.rate, terms.account);
        let Some(it) = self.all.message_even_closing(message) else {
            // It never came to be a message connection.
            return self.give_back_user(user, false);
        };
        (it.announced_idle, it.is_probe, it.carried_bytes) = (false, false, 0);
        it.pulse.heard();
        let frame = it.session.start(start);
        if self.all.peer(user).is_none() {
            self.all.pair(message, user);
        }
        if let Some(frame) = frame {
            self.send_frame(message, &frame);
            self.send_retained(message, user);
        }
        // The user is queued first, so that its first bytes leave in one write with `Start`.
        self.all.queue(user);
        self.all.queue(message);
    }

    /// Begins a session without a user on an idle message connection. Its local server sees a connection that ends at
    /// once.
    pub fn probe(&mut self, message: ConnId, start: Start) {
        let Some(it) = self.all.message(message) else { return };
        (it.announced_idle, it.is_probe, it.carried_bytes) = (false, true, 0);
        it.pulse.heard();
        self.with_session(message, |session| session.start(start));
        self.with_session(message, |session| session.finish());
        self.all.queue(message);
    }

    /// Pairs a user with the copy of its session that was accepted first. Until then that copy gets what the user had
    /// said as it was offered, and from now on the rest.
    pub fn take(&mut self, message: ConnId, user: ConnId) {
        if self.all.peer(user) == Some(message) {
            return;
        }
        if self.all.local(user).is_none() {
            // The user has just gone.
            return self.abort_session(message, AbortReason::Reset);
        }
        self.all.unpair(user);
        // A connection that is closing already is paired, too: so the user hears of it.
        self.all.pair(message, user);
        self.send_retained(message, user);
        self.all.queue(user);
        self.all.queue(message);
    }

    /// Ends one copy of a session by `Abort`, because another is served or its user is gone.
    pub fn abort_copy(&mut self, message: ConnId) {
        self.all.unpair(message);
        self.abort_session(message, AbortReason::Duplicate);
    }

    /// Ends the session on a message connection by `Abort`, and its local side by RST.
    pub fn abort(&mut self, message: ConnId, reason: AbortReason) {
        if let Some(local) = self.all.unpair(message) {
            self.all.reset(local, CloseReason::Aborted(reason));
        }
        self.abort_session(message, reason);
    }

    /// A proxy connection may have been made, or have failed.
    pub fn serve_connecting(&mut self, id: ConnId) {
        let Some(connection) = self.all.find(id) else { return };
        let broken = match connection.socket.is_connected() {
            Ok(false) => return,
            Ok(true) => None,
            // The connection stood, since a refusal is another error. What the local server said before still counts.
            Err(error) if is_end_of_connection(error.kind()) => Some(error.into()),
            Err(error) => return self.all.reset(id, CloseReason::DialFailed(error.into())),
        };
        let Kind::Proxy(message, sid, account) = connection.kind else { return };
        if !self.all.wants_proxy(message, sid) {
            // Its rival was first, or the session is over.
            return self.all.reset(id, CloseReason::Retired);
        }
        let Some(connection) = self.all.find(id) else { return };
        connection.kind = Kind::Local(Local::new(Side::Proxy, account));
        // An end or an error that the event told of stays noted.
        (connection.ready.readable, connection.ready.writable) = (true, true);
        connection.ready.ended |= broken.is_some();
        connection.life = Life::Open;
        self.all.set_deadline(id, None);
        self.all.pair(message, id);
        self.with_session(message, |session| session.started());
        self.all.queue(message);
        self.all.queue(id);
        self.all.tell(Input::Connected { id });
        if let Some(fault) = broken {
            self.fail_local(id, fault);
        }
    }

    // The local side.

    /// Serves a user's or a proxy connection.
    pub fn serve_local(&mut self, id: ConnId) {
        let before = self.all.open(id).map(|local| local.traffic());
        let had_bytes = self.all.open(id).is_some_and(|connection| !connection.is_flushed());
        let flushed = self.flush_local(id);
        if flushed
            && had_bytes
            && let Some(peer) = self.all.peer(id)
        {
            self.all.queue(peer);
        }
        self.end_local_writing(id);
        Up::new(self, id).pump();
        self.note_local_error(id);
        if let Some(local) = self.all.open(id)
            && before != Some(local.traffic())
        {
            local.patience.renew();
        }
        self.end_local(id);
    }

    /// Shuts down or resets a local side whose last bytes are flushed.
    fn end_local_writing(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        let (flushed, has_aborted) = (connection.is_flushed(), connection.has_aborted());
        let Kind::Local(local) = &mut connection.kind else { return };
        match local.writing {
            // Closing it, which is next, ends it as well.
            Writing::Finishing if flushed && local.reading == Reading::Ended => {
                local.writing = Writing::Ended;
            }
            Writing::Finishing if flushed => {
                local.writing = Writing::Ended;
                let Traffic { received, sent } = local.traffic;
                let is_unanswered = local.side == Side::Proxy && sent > 0 && received == 0;
                if let Err(error) = connection.socket.shutdown_write() {
                    return self.fail_local_writing(id, error.into());
                }
                if !matches!(local.reading, Reading::Failed(_)) {
                    self.all.set_deadline(id, None);
                }
                if is_unanswered {
                    self.all.tell(Input::Unanswered { id });
                }
            }
            Writing::Aborting(reason) if has_aborted => self.all.reset(id, reason),
            _ => {}
        }
    }

    /// Closes a local side once both its directions have ended.
    fn end_local(&mut self, id: ConnId) {
        if let Some(local) = self.all.local(id)
            && local.reading == Reading::Ended
            && local.writing == Writing::Ended
        {
            self.all.end(id, CloseReason::Finished);
        }
    }

    /// An event told of an error on a local side that is not being read: nothing else would notice.
    fn note_local_error(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        if !std::mem::take(&mut connection.ready.error) {
            return;
        }
        if let Some(error) = connection.socket.take_error() {
            self.fail_local(id, error.into());
        }
    }

    /// The local side broke. What it sent before that is still passed on, if it can be within a short time.
    fn fail_local(&mut self, id: ConnId, fault: Fault) {
        let Some(local) = self.all.local(id) else { return };
        if local.reading == Reading::Ended || !local.is_paired() {
            return self.all.reset(id, CloseReason::Io(fault));
        }
        if local.reading == Reading::Open {
            local.reading = Reading::Failed(fault);
            self.begin_patience(id);
            self.all.queue(id);
        }
    }

    fn fail_local_writing(&mut self, id: ConnId, fault: Fault) {
        let Some(connection) = self.all.open(id) else { return };
        connection.forget_unsent(self.buffers);
        connection.ready.readable = true;
        let Kind::Local(local) = &mut connection.kind else { return };
        if let Writing::Aborting(reason) = local.writing {
            return self.all.reset(id, reason);
        }
        local.writing = Writing::Failed;
        let peer = self.all.peer(id);
        self.fail_local(id, fault);
        if let Some(peer) = peer {
            self.all.queue(peer);
        }
    }

    /// The end of what the local side says: whole, or, if an error was latched, broken.
    fn local_ended(&mut self, id: ConnId) {
        let Some(local) = self.all.local(id) else { return };
        if let Reading::Failed(fault) = local.reading {
            return self.all.reset(id, CloseReason::Io(fault));
        }
        local.reading = Reading::Ended;
        if local.side == Side::User && local.traffic.received > 0 && local.traffic.sent == 0 {
            self.all.tell(Input::Unanswered { id });
        }
        if let Some(peer) = self.all.peer(id) {
            self.with_session(peer, |session| session.finish());
            // No later bytes could share its write, and many sessions that end at once would need a ring each.
            self.buffers.flush(self.all, peer);
        }
    }

    /// Resets a local side, which is unpaired already, once the bytes before the abort have arrived.
    fn abort_local(&mut self, id: ConnId, reason: CloseReason) {
        match self.all.local(id) {
            Some(local) if local.writing != Writing::Failed => local.writing = Writing::Aborting(reason),
            _ => return self.all.reset(id, reason),
        }
        if self.all.open(id).is_some_and(|connection| connection.has_aborted()) {
            return self.all.reset(id, reason);
        }
        self.begin_patience(id);
        self.all.queue(id);
    }

    /// Hands a user back to the machine, unpaired, with what it said.
    fn give_back_user(&mut self, user: ConnId, refused: bool) {
        let Some(local) = self.all.local(user) else { return };
        let spoken = local.traffic.received > 0;
        if matches!(local.reading, Reading::Failed(_)) || local.writing != Writing::Open {
            return self.all.reset(user, CloseReason::Truncated);
        }
        self.all.tell(Input::Returned { id: user, refused, spoken });
    }

    // The message connection.

    /// Gives the local side what has arrived on a message connection.
    pub fn deliver(&mut self, id: ConnId) {
        Down::new(self, id).pump();
    }

    /// Whether what arrives may be opened now: no local side gets it, or the local side takes it.
    pub fn reads_message(&mut self, id: ConnId) -> bool {
        match self.all.message(id) {
            None => return false,
            Some(message) if !message.session.delivers() || message.is_probe => return true,
            // No byte of the local server comes before `Accepted`, and a copy has no local side until then.
            Some(message) if message.session.is_unaccepted() => return true,
            Some(_) => {}
        }
        let Some(local) = self.all.peer(id) else { return false };
        match self.all.open(local) {
            // Reaping will abort the session.
            None => false,
            Some(connection) => match &connection.kind {
                Kind::Local(local) => !local.waits.waits(Direction::Down) && connection.is_flushed(),
                _ => false,
            },
        }
    }

    /// Serves a message connection.
    pub fn serve_message(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        let had_bytes = !connection.is_flushed();
        let had_frames = connection.out.as_ref().is_some_and(|ring| ring.len() <= SMALL_FRAMES_ROOM);
        let peer = self.all.peer(id);
        // What the local side has to say leaves in one write with the frames before it.
        if had_frames && let Some(peer) = peer {
            Up::new(self, peer).pump();
        }
        // Its local side may have found the ring full and wait for room: no event would tell.
        if self.buffers.flush(self.all, id)
            && had_bytes
            && let Some(peer) = peer
        {
            self.all.queue(peer);
        }
        Down::new(self, id).pump();
        self.settle(id);
        self.note_message_error(id);
        self.end_failed_message(id);
    }

    /// An event told of an error, which reading need not meet while its local side takes nothing.
    fn note_message_error(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        if std::mem::take(&mut connection.ready.error)
            && let Some(error) = connection.socket.take_error()
        {
            self.buffers.fail(self.all, id, error.into());
        }
    }

    /// A message connection that failed ends once nothing more comes.
    fn end_failed_message(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        let Kind::Message(Message { failed: Some(fault), .. }) = connection.kind else { return };
        if !connection.ready.readable {
            self.all.reset(id, CloseReason::Io(fault));
        } else if !self.all.has_deadline(id) {
            // Its local side may take nothing, for ever.
            self.begin_patience(id);
        }
    }

    /// Tells the machine once the connection is free for the next session.
    fn settle(&mut self, id: ConnId) {
        let Some(connection) = self.all.open(id) else { return };
        let flushed = connection.is_flushed();
        let Kind::Message(message) = &mut connection.kind else { return };
        if flushed && message.session.is_idle() && !message.announced_idle {
            message.announced_idle = true;
            let settled = message.carried_bytes as usize <= RING_BYTES;
            self.all.set_deadline(id, None);
            self.all.tell(Input::Session { id, event: SessionEvent::Idle { settled } });
        }
    }

    /// Seals a small frame into the out ring.
    fn send_frame(&mut self, id: ConnId, frame: &Frame) {
        let mut record = [0; SMALL_RECORD_BYTES_MAX];
        let Some(message) = self.all.message(id) else { return };
        match message.channel.seal(&frame.encode(), &mut record) {
            Ok(count) => {
                self.buffers.send_bytes(self.all, id, &record[..count]);
                self.all.queue(id);
            }
            Err(_) => self.all.reset(id, CloseReason::BadRecord),
        }
    }

    /// Lets `act` move the session on, and sends the frame that comes of it.
    pub fn with_session(&mut self, id: ConnId, act: impl FnOnce(&mut Session) -> Option<Frame<'static>>) {
        let Some(message) = self.all.message(id) else { return };
        if let Some(frame) = act(&mut message.session) {
            self.send_frame(id, &frame);
            self.part_if_over(id);
        }
    }

    /// Parts a message connection whose session is over from the local side, which may go on flushing alone: the
    /// next session may begin with the very next frame.
    fn part_if_over(&mut self, id: ConnId) {
        if self.all.message(id).is_none_or(|message| !message.session.is_idle()) {
            return;
        }
        if let Some(local) = self.all.unpair(id) {
            self.all.queue(local);
            // One that is flushed ends as soon as it is served.
            let waits = self.all.open(local).is_some_and(|it| {
                !it.is_flushed()
                    && matches!(&it.kind, Kind::Local(half) if half.writing == Writing::Finishing)
            });
            if waits {
                self.begin_patience(local);
            }
        }
    }

    /// Ends our direction of the session by `Abort`, and starts the clock by which both ends must be done.
    fn abort_session(&mut self, id: ConnId, reason: AbortReason) {
        let Some(message) = self.all.message(id) else { return };
        if let Some(frame) = message.session.abort(reason) {
            self.send_frame(id, &frame);
            self.begin_patience(id);
        }
        self.all.queue(id);
    }

    /// Sends a copy of a session what its user has said so far and this copy has not had yet.
    fn send_retained(&mut self, message: ConnId, user: ConnId) {
        let Some((local, message)) = self.all.both(user, message) else { return };
        let (Kind::Local(half), Kind::Message(other)) = (&local.kind, &mut message.kind) else { return };
        let (message_id, had) = (message.id, other.carried_bytes as usize);
        if let Some(ring) = half.retained.as_ref().filter(|ring| ring.len() > had) {
            let Scratch { raw, clear, .. } = &mut self.buffers.scratch;
            let count = ring.len();
            debug_assert!(count <= payload_fitting(RING_BYTES - SMALL_FRAMES_ROOM), "it fits behind Start");
            let [first, second] = ring.slices();
            raw[HEADROOM..HEADROOM + first.len()].copy_from_slice(first);
            raw[HEADROOM + first.len()..HEADROOM + count].copy_from_slice(second);
            // The head takes the place of what was sent before.
            let rest = &mut raw[had..HEADROOM + count];
            other.carried_bytes = count as u32;
            match other.channel.seal_data(other.session.sid(), rest, clear) {
                Ok(sealed) => stash(&mut message.out, &mut self.buffers.rings, sealed),
                Err(_) => return self.all.reset(message_id, CloseReason::BadRecord),
            }
        }
        if half.reading == Reading::Ended {
            self.with_session(message_id, |session| session.finish());
        }
    }

    /// Parts a closing connection from its peer: each half of a pair has a rule for losing the other.
    pub fn detach(&mut self, id: ConnId, reason: CloseReason) {
        let Some(connection) = self.all.any(id) else { return };
        match &mut connection.kind {
            Kind::Message(message) => {
                let unaccepted = message.session.is_unaccepted();
                let Some(local) = self.all.unpair(id) else { return };
                match reason {
                    _ if unaccepted => self.give_back_user(local, false),
                    CloseReason::LinkLost | CloseReason::HeartbeatLost => {
                        self.all.reset(local, CloseReason::LinkLost);
                    }
                    reason if reason.bars_a_client() => self.all.reset(local, reason),
                    // It never reached a local server.
                    CloseReason::NotStarted => self.abort_local(local, reason),
                    _ => self.abort_local(local, CloseReason::Truncated),
                }
            }
            Kind::Local(_) => {
                let Some(message) = self.all.unpair(id) else { return };
                match reason {
                    CloseReason::Shutdown => self.abort_session(message, AbortReason::Shutdown),
                    CloseReason::Idle => self.abort_session(message, AbortReason::Idle),
                    CloseReason::Removed => self.abort_session(message, AbortReason::Removed),
                    // No side has broken it.
                    reason if reason.bars_a_client() => self.abort_session(message, AbortReason::Removed),
                    _ => self.abort_session(message, AbortReason::Reset),
                }
            }
            _ => {}
        }
    }
}

/// Whether an error ends a connection that stood: Linux says ECONNRESET, or EPIPE if a FIN came before the RST,
/// and ECONNREFUSED to a socket that is still connecting (tcp(7)).
fn is_end_of_connection(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
