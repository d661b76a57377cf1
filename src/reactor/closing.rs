//! The one door out. `close` (in the parent) only marks; here what was marked is parted from its peer, freed and
//! reported; and `leave` closes what must still be read.

use std::io;

use log::debug;

use super::Reactor;
use super::connection::{Role, Target};
use super::network::{Network, Socket};
use crate::machine::{CloseReason, ConnId, Input, Machine, Origin, Traffic};
use crate::wire::frame::AbortReason;

impl<M: Machine, N: Network> Reactor<M, N> {
    /// Frees what was marked. Telling the machine may mark more.
    pub(super) fn reap(&mut self) {
        while let Some(id) = self.doomed.pop() {
            self.detach(id);
            let Some(mut connection) = self.connections.remove(id) else { continue };
            self.deadlines.set(id.slot, None);
            let reason = connection.closing.unwrap_or(CloseReason::Finished);
            self.strangers.remove(id);
            connection.forget_unsent(&mut self.rings, &mut self.pipes);
            let mut traffic = Traffic::default();
            let ring = match &mut connection.role {
                Role::Local(local) | Role::Connecting(Target::Proxy(local)) => {
                    traffic = local.traffic;
                    local.retained.take()
                }
                Role::Message(message) => message.input.take(),
                Role::Control(control) => control.input.take(),
                _ => None,
            };
            ring.into_iter().for_each(|ring| self.rings.give_back(ring));
            debug!("{id} closed: {reason}");
            if reason.resets() {
                drop(connection);
            } else {
                connection.socket.close();
            }
            for listener in &mut self.listeners {
                listener.resume_at = None;
            }
            self.tell(Input::Closed { id, reason, traffic });
        }
    }

    /// Parts a closing connection from its peer: each half of a pair has a rule for losing the other.
    pub(super) fn detach(&mut self, id: ConnId) {
        let Some(connection) = self.connections.at(id.slot) else { return };
        match &connection.role {
            Role::Message(message) => {
                let unaccepted = message.session.is_unaccepted();
                let Some(local) = self.connections.unpair(id) else { return };
                if unaccepted {
                    self.give_back_user(local, false);
                } else {
                    self.close(local, CloseReason::Truncated);
                }
            }
            Role::Local(_) => {
                if self.listeners.iter().any(|listener| listener.origin == Origin::User) {
                    self.users -= 1;
                }
                let reason = match connection.closing {
                    Some(CloseReason::Shutdown) => AbortReason::Shutdown,
                    _ => AbortReason::Reset,
                };
                if let Some(message) = self.connections.unpair(id) {
                    self.abort_session(message, reason);
                }
            }
            // The machine hears of it, and dials the next address or refuses the session.
            Role::Connecting(_) => {
                self.connections.unpair(id);
            }
            _ => {}
        }
    }

    /// Closes a connection so that what was sent on it is read: flush, shut down, read to the end.
    pub(super) fn leave(&mut self, id: ConnId, reason: CloseReason) {
        self.detach(id);
        let deadline = self.now + self.limits.linger;
        let Some(connection) = self.connections.find(id) else { return };
        let old = std::mem::replace(&mut connection.role, Role::Leaving { reason, shut: false });
        let input = match old {
            Role::Message(message) => message.input,
            Role::Control(control) => control.input,
            _ => None,
        };
        if let Some(ring) = input {
            self.rings.give_back(ring);
        }
        self.set_deadline(id, Some(deadline));
        self.queue(id);
    }

    pub(super) fn serve_leaving(&mut self, id: ConnId) {
        if !self.flush(id) {
            return;
        }
        let Some(connection) = self.connections.find(id) else { return };
        let Role::Leaving { reason, shut } = &mut connection.role else { return };
        let reason = *reason;
        if !*shut {
            *shut = true;
            if connection.socket.shutdown_write().is_err() {
                return self.close(id, reason);
            }
        }
        let Some(connection) = self.connections.find(id) else { return };
        for _ in 0..4 {
            if !connection.ready.readable {
                return;
            }
            match connection.socket.read(&mut self.scratch.raw) {
                Ok(0) => return self.close(id, reason),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.ready.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(id, reason),
            }
        }
        self.queue(id);
    }
}
