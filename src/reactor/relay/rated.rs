//! What passes at a rate that others share: how much may go to a user now, and what is done when its turn has come.
//!
//! Bytes from users are counted as they are read, and bytes to users as they are written, because a sealed record is
//! opened whole: what may not go yet waits in the out ring, and until it has gone no more is read.

use std::io;
use std::time::Instant;

use super::Relay;
use crate::base::id::ConnId;
use crate::machine::Traffic;
use crate::reactor::connections::{Connection, Kind};
use crate::reactor::meters::Meters;
use crate::reactor::rates::{Direction, Rates};
use crate::reactor::world::network::Socket;

impl<S: Socket> Relay<'_, S> {
    /// Serves a user whose turn has come to pass bytes at a rate that others share.
    pub fn serve_called(&mut self, user: ConnId, direction: Direction) {
        let Some(local) = self.all.local(user) else { return };
        local.waits.set(direction, false);
        self.serve_local(user);
        if direction == Direction::Down
            && let Some(peer) = self.all.peer(user)
        {
            self.serve_message(peer);
        }
    }

    /// Writes what the out ring holds and its rate allows; true if it is empty afterwards.
    pub(super) fn flush_local(&mut self, id: ConnId) -> bool {
        let now = self.all.now;
        let Some(connection) = self.all.find(id) else { return false };
        while !connection.is_flushed() {
            let flush = |it: &mut Connection<S>, most| it.flush(self.buffers, most);
            if let Err(error) = write_rated(connection, self.rates, self.meters, now, flush) {
                self.fail_local_writing(id, error.into());
                return false;
            }
            let waits = matches!(&connection.kind, Kind::Local(local) if local.waits.waits(Direction::Down));
            if waits || !connection.ready.writable {
                return connection.is_flushed();
            }
        }
        true
    }

    /// How many bytes the local side of a message connection may be given now.
    pub(super) fn allowed_down(&mut self, message: ConnId) -> usize {
        let now = self.all.now;
        let Some((message, Some(local))) = self.all.with_peer(message) else { return usize::MAX };
        match (&message.kind, &mut local.kind) {
            // Else nothing that comes is for the local side.
            (Kind::Message(it), Kind::Local(half))
                if it.session.delivers()
                    && !it.session.is_unaccepted()
                    && (message.ready.readable || it.input.is_some()) =>
            {
                self.rates.allow(local.id, half, Direction::Down, now)
            }
            _ => usize::MAX,
        }
    }
}

/// Writes to a connection by `write`, which is told how many bytes may go now and says how many have gone. If it is a
/// user's that shares a rate, these are counted for it; and all that left are, whatever comes of the rest.
pub(super) fn write_rated<S: Socket>(
    to: &mut Connection<S>,
    rates: &mut Rates,
    meters: &mut Meters,
    now: Instant,
    mut write: impl FnMut(&mut Connection<S>, usize) -> io::Result<usize>,
) -> io::Result<()> {
    let (id, Kind::Local(local)) = (to.id, &mut to.kind) else { return write(to, usize::MAX).map(drop) };
    let (allowed, before) = (rates.allow(id, local, Direction::Down, now), local.traffic.sent);
    let written = write(to, allowed);
    if let Kind::Local(local) = &mut to.kind {
        meters.add(local, Traffic { received: 0, sent: local.traffic.sent - before });
        if let Ok(written) = written {
            rates.spend(id, local, Direction::Down, written);
        }
    }
    written.map(drop)
}
