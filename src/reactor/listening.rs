//! Taking connections: in turns, within the limits, and again when the system has run out of something.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::warn;

use super::connection::{Local, Ready, Role};
use super::network::Network;
use super::{COMPLAINT_INTERVAL, EXHAUSTED_PAUSE, Reactor, sockets};
use crate::machine::{CloseReason, Input, ListenerId, Machine, Origin};

impl<M: Machine, N: Network> Reactor<M, N> {
    /// When a listener that has connections wants to be tried; in the past if at once.
    pub(super) fn next_accept(&self) -> Option<Instant> {
        let ready = self.listeners.iter().filter(|listener| listener.open && listener.ready);
        ready.map(|listener| listener.resume_at.unwrap_or(self.now)).min()
    }

    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..self.limits.turn_accepts {
                let listener = &mut self.listeners[index];
                let paused = listener.resume_at.is_some_and(|at| at > self.now);
                if !listener.open || !listener.ready || paused || !self.accept_one(ListenerId(index)) {
                    break;
                }
            }
        }
    }

    /// Takes one connection; false if there is none, or no room.
    pub(super) fn accept_one(&mut self, id: ListenerId) -> bool {
        let listener = &mut self.listeners[id.0];
        let origin = listener.origin;
        let full = origin == Origin::User && self.users >= self.limits.users_max;
        if full {
            // Whoever waits in the queue may wait as long as any user, and is then told that he is not served.
            let shed_at = *listener.full_since.get_or_insert(self.now) + self.limits.wait;
            if shed_at > self.now {
                listener.resume_at = Some(shed_at);
                return false;
            }
        } else {
            listener.full_since = None;
        }
        listener.resume_at = None;
        match self.network.accept(id) {
            Ok((socket, peer)) if full => {
                let users = self.users;
                self.complain(|| warn!("user {peer} was reset: {users} users are served, the most allowed"));
                drop(socket);
            }
            Ok((socket, peer)) => self.welcome(socket, peer, id, origin),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.listeners[id.0].ready = false;
                self.listeners[id.0].full_since = None;
                return false;
            }
            Err(error) if sockets::is_exhausted(&error) => {
                self.complain(|| warn!("cannot take connections for now: {error}"));
                self.listeners[id.0].resume_at = Some(self.now + EXHAUSTED_PAUSE);
                return false;
            }
            // The connection died in the queue (accept(2), ERRORS): the next one is another.
            Err(_) => {}
        }
        true
    }

    /// Says what it has to say, if nothing was said for a while: nobody may fill a log by filling the server.
    pub(super) fn complain(&mut self, say: impl FnOnce()) {
        if self.complained.is_none_or(|at| self.now >= at + COMPLAINT_INTERVAL) {
            self.complained = Some(self.now);
            say();
        }
    }

    pub(super) fn welcome(
        &mut self,
        socket: N::Socket,
        peer: SocketAddr,
        listener: ListenerId,
        origin: Origin,
    ) {
        let role = match origin {
            Origin::User => Role::Local(Local::new(None)),
            Origin::Stranger => self.stranger(),
        };
        // Whoever connects has often spoken already: try to read at once.
        let Some(id) = self.insert(socket, role, Ready::UNTRIED) else {
            return;
        };
        match origin {
            Origin::User => self.users += 1,
            Origin::Stranger => {
                self.set_deadline(id, Some(self.now + self.limits.handshake));
                if let Some(oldest) = self.strangers.admit(id, peer) {
                    self.close(oldest, CloseReason::Evicted);
                }
            }
        }
        self.queue(id);
        self.tell(Input::Accepted { id, listener, peer });
    }
}
