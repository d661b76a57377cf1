//! Frames and other small things, into the out ring of a message or control connection; and what a session's last frame
//! means for the pair that it joined.

use super::Reactor;
use super::Scratch;
use super::connection::{Reading, Role, Writing};
use super::network::Network;
use super::outgoing::stash;
use super::relay::SMALL_FRAMES_ROOM;
use crate::machine::{CloseReason, ConnId, Machine};
use crate::ring::RING_BYTES;
use crate::session::Session;
use crate::wire::frame::{AbortReason, Frame};
use crate::wire::record::{HEADROOM, SMALL_RECORD_BYTES_MAX, payload_fitting};

impl<M: Machine, N: Network> Reactor<M, N> {
    /// Writes what the out ring holds; true if it is empty afterwards. A failed write closes the connection, or
    /// fails the local side.
    pub(super) fn flush(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.connections.find(id) else { return false };
        let flushed = connection.flush(&mut self.rings, &mut self.pipes);
        match flushed {
            Ok(()) => connection.is_flushed(),
            Err(error) => {
                if matches!(connection.role, Role::Local(_)) {
                    self.fail_local_writing(id, error.kind());
                } else {
                    self.close(id, CloseReason::Io(error.kind()));
                }
                false
            }
        }
    }

    /// Appends bytes to the out ring; the caller sees to a flush.
    pub(super) fn send_bytes(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(connection) = self.connections.find(id) else { return };
        if self.rings.push(&mut connection.out, bytes) < bytes.len() {
            self.close(id, CloseReason::Overflow);
        }
    }

    /// Seals a small frame into the out ring.
    pub(super) fn send_frame(&mut self, id: ConnId, frame: &Frame) {
        let mut record = [0; SMALL_RECORD_BYTES_MAX];
        let Some(message) = self.connections.message(id) else { return };
        match message.channel.seal(&frame.encode(), &mut record) {
            Ok(count) => {
                self.send_bytes(id, &record[..count]);
                self.queue(id);
            }
            Err(_) => self.close(id, CloseReason::BadRecord),
        }
    }

    /// Lets `act` move the session on, and sends the frame that comes of it.
    pub(super) fn with_session(
        &mut self,
        id: ConnId,
        act: impl FnOnce(&mut Session) -> Option<Frame<'static>>,
    ) {
        let Some(message) = self.connections.message(id) else { return };
        if let Some(frame) = act(&mut message.session) {
            self.send_frame(id, &frame);
            self.part_if_over(id);
        }
    }

    /// Parts a message connection whose session is over from the local side, which may go on flushing alone: the
    /// next session may begin with the very next frame.
    pub(super) fn part_if_over(&mut self, id: ConnId) {
        if self.connections.message(id).is_none_or(|message| !message.session.is_idle()) {
            return;
        }
        let deadline = self.now + self.limits.finish;
        if let Some(local) = self.connections.unpair(id) {
            self.queue(local);
            if self.connections.local(local).is_some_and(|local| local.writing == Writing::Finishing) {
                self.set_deadline(local, Some(deadline));
            }
        }
    }

    /// Ends our direction of the session by `Abort`, and starts the clock by which both ends must be done.
    pub(super) fn abort_session(&mut self, id: ConnId, reason: AbortReason) {
        let Some(message) = self.connections.message(id) else { return };
        if let Some(frame) = message.session.abort(reason) {
            self.send_frame(id, &frame);
            self.clock_abort(id);
        }
        self.queue(id);
    }

    pub(super) fn clock_abort(&mut self, id: ConnId) {
        if let Some(message) = self.connections.message(id) {
            message.discarded_bytes = 0;
        }
        self.set_deadline(id, Some(self.now + self.limits.abort_drain));
    }

    /// Sends again what a user has said so far, on the message connection that he was just given.
    pub(super) fn send_retained(&mut self, user: ConnId) {
        let Some((local, message)) = self.connections.couple(user) else { return };
        let (Role::Local(half), Role::Message(other)) = (&local.role, &mut message.role) else { return };
        if let Some(ring) = &half.retained {
            let Scratch { raw, clear, .. } = &mut self.scratch;
            let count = ring.len();
            debug_assert!(count <= payload_fitting(RING_BYTES - SMALL_FRAMES_ROOM), "it fits behind Start");
            let [first, second] = ring.slices();
            raw[HEADROOM..HEADROOM + first.len()].copy_from_slice(first);
            raw[HEADROOM + first.len()..HEADROOM + count].copy_from_slice(second);
            match other.channel.seal_data(other.session.sid(), &mut raw[..HEADROOM + count], clear) {
                Ok(sealed) => stash(&mut message.out, &mut self.rings, sealed),
                Err(_) => {
                    let message = message.id;
                    return self.close(message, CloseReason::BadRecord);
                }
            }
        }
        if half.reading == Reading::Ended {
            let message = message.id;
            self.with_session(message, |session| session.finish());
        }
    }
}
