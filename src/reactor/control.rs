//! A control connection: its channel, the record that has not arrived whole, and its frames both ways.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use zeroize::Zeroize;

use crate::wire::handshake::Proved;

use super::buffers::{Buffers, Scratch, stash};
use super::connections::{Connections, Kind};
use super::world::network::Socket;
use crate::base::id::ConnId;
use crate::base::ring::{RING_BYTES, Ring};
use crate::machine::{CloseReason, Input};
use crate::wire::control::ControlFrame;
use crate::wire::record::{Channel, LENGTH_BYTES, RECORD_BYTES_MAX};

/// Frames that may wait for room: what a peer asked for with as many publications as it may have, and as much again.
const WAITING_MAX: usize = 2_560;
/// Reads and frames of one control connection before others get their turn: a few, because control connections go
/// first.
const STEPS_MAX: usize = 4;
/// Bytes that sealing adds to a frame: a length and a tag.
const SEAL_BYTES: usize = LENGTH_BYTES + 16;

/// A control connection's own state.
pub(super) struct Control {
    channel: Channel,
    input: Option<Ring>,
    /// Frames for which the out ring has no room yet.
    waiting: VecDeque<ControlFrame>,
    /// When something was said last.
    pub said_at: Instant,
}

impl Control {
    pub fn new(proved: Proved, now: Instant) -> Control {
        let channel = Channel::new(proved, false);
        Control { channel, input: None, waiting: VecDeque::new(), said_at: now }
    }

    pub fn take_input(&mut self) -> Option<Ring> {
        self.input.take()
    }
}

/// Sends a control frame, at once or when the out ring has room for it.
pub(super) fn send<S: Socket>(
    all: &mut Connections<S>,
    buffers: &mut Buffers<S>,
    id: ConnId,
    frame: ControlFrame,
) {
    let Some(Kind::Control(control)) = all.open(id).map(|connection| &mut connection.kind) else { return };
    if control.waiting.len() >= WAITING_MAX {
        return all.reset(id, CloseReason::Overflow);
    }
    control.waiting.push_back(frame);
    send_waiting(all, buffers, id);
    all.queue(id);
}

/// Seals the frames that wait, as far as the out ring has room for them.
fn send_waiting<S: Socket>(all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
    let mut flushed = false;
    loop {
        let now = all.now;
        let Some(connection) = all.open(id) else { return };
        let held = connection.out.as_ref().map_or(0, Ring::len);
        let Kind::Control(control) = &mut connection.kind else { return };
        let Some(frame) = control.waiting.front() else { return };
        let clear = &mut buffers.scratch.control;
        clear.clear();
        frame.encode(clear);
        if held + clear.len() + SEAL_BYTES > RING_BYTES {
            // The socket takes more than the ring holds: it is written to once, and then waited for.
            if std::mem::replace(&mut flushed, true) || !buffers.flush(all, id) {
                return;
            }
            continue;
        }
        let mut record = [0; RECORD_BYTES_MAX];
        let sealed = control.channel.seal(clear, &mut record);
        // A Welcome holds the pool key.
        clear.as_mut_slice().zeroize();
        control.waiting.pop_front();
        control.said_at = now;
        match sealed {
            Ok(count) => buffers.send_bytes(all, id, &record[..count]),
            Err(_) => return all.reset(id, CloseReason::BadRecord),
        }
        flushed = false;
    }
}

/// Takes some steps, each a read or a frame, and tells the machine of the frames.
pub(super) fn serve<S: Socket>(all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
    buffers.flush(all, id);
    send_waiting(all, buffers, id);
    buffers.flush(all, id);
    let Buffers { rings, scratch: Scratch { raw, clear, .. }, .. } = buffers;
    let Some(Kind::Control(control)) = all.open(id).map(|connection| &mut connection.kind) else { return };
    let mut filled = control.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
    rings.tidy(&mut control.input);
    let (mut taken, mut goes_on) = (0, true);
    for _ in 0..STEPS_MAX {
        let Some(connection) = all.open(id) else { return };
        let Kind::Control(control) = &mut connection.kind else { return };
        match control.channel.open_sealed(&raw[taken..filled], &mut &mut clear[..]) {
            Ok(Some((consumed, opened))) => {
                let frame = ControlFrame::decode(opened);
                // A Welcome holds the pool key. What was opened is shorter than what was consumed.
                clear.iter_mut().take(consumed).for_each(Zeroize::zeroize);
                taken += consumed;
                match frame {
                    Ok(frame) => all.tell(Input::Control { id, frame }),
                    Err(_) => return all.reset(id, CloseReason::ProtocolError),
                }
            }
            Ok(None) if connection.ready.readable => {
                // The buffer is longer than a record, so it has room for the rest of this one.
                raw.copy_within(taken..filled, 0);
                (taken, filled) = (0, filled - taken);
                match connection.socket.read(&mut raw[filled..]) {
                    Ok(0) => return all.end(id, CloseReason::PeerClosed),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        connection.ready.readable = false;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return all.reset(id, CloseReason::Io(error.into())),
                }
            }
            Ok(None) => {
                goes_on = false;
                break;
            }
            Err(_) => return all.reset(id, CloseReason::BadRecord),
        }
    }
    if let Some(Kind::Control(control)) = all.open(id).map(|connection| &mut connection.kind) {
        stash(&mut control.input, rings, &raw[taken..filled]);
    }
    if goes_on {
        all.queue(id);
    }
}
