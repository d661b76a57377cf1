//! The end of a connection on which nothing more is said: flush, shut down writing, read to the end, close.

use std::io;

use super::buffers::Buffers;
use super::connections::{Connections, Life};
use super::world::network::Socket;
use crate::base::id::ConnId;

/// Reads of one turn.
const TURN_READS: usize = 4;

/// Goes on closing a connection.
pub(super) fn serve<S: Socket>(all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
    if !buffers.flush(all, id) {
        return;
    }
    let Some(connection) = all.find(id) else { return };
    let Life::Leaving { reason, shut } = &mut connection.life else { return };
    let reason = *reason;
    if !std::mem::replace(shut, true) && connection.socket.shutdown_write().is_err() {
        return all.end(id, reason);
    }
    for _ in 0..TURN_READS {
        if !connection.ready.readable {
            return;
        }
        match connection.socket.read(&mut buffers.scratch.raw) {
            Ok(0) => return all.end(id, reason),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.ready.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return all.end(id, reason),
        }
    }
    all.queue(id);
}
