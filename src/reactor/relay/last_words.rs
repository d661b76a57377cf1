//! What a message connection that broke still had to say. Its peer aborts the session before it closes the connection,
//! and a failed write is noticed before that frame is read: so it is looked for behind the bytes that nobody gets.

use std::io;

use crate::reactor::buffers::Scratch;
use crate::reactor::connections::{Connection, Kind};
use crate::reactor::world::network::Socket;
use crate::wire::frame::{AbortReason, Frame};

/// Bytes that are read at most: what a receive buffer may hold.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why the peer has aborted the session on a connection that is about to be closed, if it said so. The bytes before it
/// are lost.
pub(super) fn abort<S: Socket>(connection: &mut Connection<S>, scratch: &mut Scratch) -> Option<AbortReason> {
    let Kind::Message(message) = &mut connection.kind else { return None };
    let sid = message.session.sid();
    let Scratch { raw, clear, .. } = scratch;
    let mut filled = message.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
    let mut left = BYTES_MAX;
    loop {
        let mut consumed = 0;
        loop {
            let opened = message.channel.open(&raw[consumed..filled], &mut &mut clear[..]).ok()?;
            match opened.frame {
                Some(Frame::Abort(aborted, reason)) if aborted == sid => return Some(reason),
                _ if opened.consumed == 0 => break,
                _ => consumed += opened.consumed,
            }
        }
        raw.copy_within(consumed..filled, 0);
        filled -= consumed;
        match connection.socket.read(&mut raw[filled..]) {
            Ok(count) if count > 0 && left > 0 => {
                filled += count;
                left = left.saturating_sub(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}
