//! Bulk flows on plain message connections: from socket to socket through a pipe (splice(2)).
//!
//! A flow counts as bulk once its reads fill, and as sparse again once a splice is short; see the constants of
//! [`super::relay`]. Everything else about it is the relay's: a side is spliced from only while the other has
//! nothing left to write, and what does not fit stays in the pipe.

use std::io;

use super::Reactor;
use super::connection::{Message, Role, Writing};
use super::network::{Network, Socket};
use super::relay::SPARSE_BYTES;
use crate::machine::{CloseReason, ConnId, Machine};
use crate::session::Stage;
use crate::wire::record::{Channel, HEADROOM, plain_data_header};

/// Most bytes of one splice, and of one spliced record: what a pipe holds.
const SPLICE_BYTES_MAX: usize = 256 * 1024;

impl Message {
    /// Whether payload may go out as it is, and need not be kept for sending it again.
    pub fn splices(&self) -> bool {
        matches!(self.channel, Channel::Plain { .. }) && self.session.stage() == Some(Stage::Started)
    }
}

/// What became of an attempt to splice.
pub(super) enum Spliced {
    /// Bytes moved: go on.
    Moved,
    /// Nothing more to do for now.
    Stopped,
    /// Not here: read and write instead.
    Unavailable,
}

impl<M: Machine, N: Network> Reactor<M, N> {
    /// Local side → message connection, as one `Data` record.
    pub(super) fn splice_up(&mut self, id: ConnId, budget: &mut usize) -> Spliced {
        let Some(mut piped) = self.pipes.lease(&mut self.network) else { return Spliced::Unavailable };
        let Some((local, message)) = self.connections.couple(id) else {
            self.pipes.give_back(piped);
            return Spliced::Stopped;
        };
        let (Role::Local(half), Role::Message(other)) = (&mut local.role, &mut message.role) else {
            self.pipes.give_back(piped);
            return Spliced::Stopped;
        };
        let held = match local.socket.splice_in(&mut piped.pipe, SPLICE_BYTES_MAX) {
            Ok(count) if count > 0 => count,
            result => {
                self.pipes.give_back(piped);
                return self.unspliced(id, result);
            }
        };
        *budget = budget.saturating_sub(held);
        half.traffic.received += held as u64;
        other.carried_bytes = other.carried_bytes.saturating_add(held as u32);
        half.is_bulk = held >= SPARSE_BYTES;
        (piped.held, piped.header_left) = (held, HEADROOM);
        piped.header = plain_data_header(other.session.sid(), held);
        message.piped = Some(piped);
        let message = message.id;
        if !self.flush(message) {
            self.queue(message);
        }
        Spliced::Moved
    }

    /// Message connection → local side: payload of a `Data` record whose head has been read.
    pub(super) fn splice_down(&mut self, id: ConnId, budget: &mut usize) -> Spliced {
        let Some((message, Some(local))) = self.connections.with_peer(id) else {
            return Spliced::Unavailable;
        };
        let Role::Message(half) = &mut message.role else { return Spliced::Unavailable };
        let Channel::Plain { remaining, .. } = &mut half.channel else { return Spliced::Unavailable };
        let takes = matches!(&local.role, Role::Local(to) if to.writing == Writing::Open);
        let left = *remaining as usize;
        let wanted = left >= SPARSE_BYTES && half.input.is_none() && half.session.delivers();
        if !wanted || !takes || !message.ready.readable || !local.is_flushed() {
            return Spliced::Unavailable;
        }
        let Some(mut piped) = self.pipes.lease(&mut self.network) else { return Spliced::Unavailable };
        let held = match message.socket.splice_in(&mut piped.pipe, left.min(SPLICE_BYTES_MAX)) {
            Ok(count) if count > 0 => count,
            result => {
                self.pipes.give_back(piped);
                return self.unspliced(id, result);
            }
        };
        *remaining -= held as u32;
        half.expects_head = *remaining == 0;
        *budget = budget.saturating_sub(held);
        (piped.held, piped.header_left) = (held, 0);
        local.piped = Some(piped);
        let local = local.id;
        if !self.flush(local) {
            self.queue(local);
        }
        Spliced::Moved
    }

    /// What to do when nothing was spliced out of a socket. At an urgent mark splice(2) says that there is nothing to
    /// read, or that the stream has ended: read(2) passes it, and decides.
    fn unspliced(&mut self, id: ConnId, result: io::Result<usize>) -> Spliced {
        match result {
            Ok(_) => Spliced::Unavailable,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Spliced::Moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Spliced::Unavailable,
            Err(error) if cannot_splice(&error) => Spliced::Unavailable,
            // Told once: reading would now see a clean end.
            Err(error) => {
                self.close(id, CloseReason::Io(error.kind()));
                Spliced::Stopped
            }
        }
    }
}

/// Whether the kernel cannot splice this socket at all (splice(2): EINVAL, ENOSYS; EPERM where a sandbox forbids the
/// call, seccomp(2)), rather than the connection having failed.
fn cannot_splice(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied)
}
