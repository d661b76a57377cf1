//! Bytes on their way out of a connection: first what lies in a pipe, then what lies in its out ring. And the buffers
//! that all connections share.
//!
//! A pipe holds bytes of one spliced record (splice(2)): they go from socket to socket without passing through this
//! process. Pipes are leased like rings, each costs two file descriptors, and where the kernel offers none the ring
//! does it all.

use std::io::{self, IoSlice};

use super::connections::{Connection, Connections, Kind, Writing};
use super::world::network::Socket;
use crate::base::buffer::Buffer;
use crate::base::id::ConnId;
use crate::base::ring::{RING_BYTES, Ring, Rings};
use crate::config::limits::Limits;
use crate::machine::{CloseReason, Fault};
use crate::wire::record::HEADROOM;

/// Pieces of payload that go into one write.
pub(super) const PIECES_MAX: usize = 16;

/// A spliced piece of a session on its way out.
pub(super) struct Piped<P> {
    pub pipe: P,
    /// Bytes in the pipe.
    pub held: usize,
    /// Length and head of the record that the bytes belong to, if they go to a message connection.
    pub header: [u8; HEADROOM],
    /// Bytes of the header that are still to be written before them.
    pub header_left: usize,
}

/// Buffers of all connections.
pub(super) struct Buffers<S: Socket> {
    pub rings: Rings,
    pub pipes: Pipes<S::Pipe>,
    /// Holds something only within one step of serving a connection.
    pub scratch: Scratch,
}

/// Where bytes are read, sealed and opened.
pub(super) struct Scratch {
    pub raw: Buffer,
    pub clear: Buffer,
    pub control: Vec<u8>,
}

impl<S: Socket> Buffers<S> {
    pub fn new(limits: &Limits) -> Buffers<S> {
        Buffers {
            rings: Rings::new(limits.rings_kept),
            pipes: Pipes { free: Vec::new(), leased: 0, max: limits.pipes_max },
            scratch: Scratch {
                raw: Buffer::raw(RING_BYTES),
                // Sealing adds to what was read, so this one is larger.
                clear: Buffer::clear(2 * RING_BYTES),
                // A Welcome fits, so that its growth leaves no copy of the pool key behind.
                control: Vec::with_capacity(256),
            },
        }
    }

    /// Frees what no connection has leased.
    pub fn forget_free(&mut self) {
        self.rings.forget_free();
        self.pipes.free = Vec::new();
    }

    /// Appends bytes to a connection's out ring; the caller sees to a flush.
    pub fn send_bytes(&mut self, all: &mut Connections<S>, id: ConnId, bytes: &[u8]) {
        let Some(connection) = all.find(id) else { return };
        if self.rings.push(&mut connection.out, bytes) < bytes.len() {
            all.reset(id, CloseReason::Overflow);
        }
    }

    /// Writes what a connection has to write, which is no local side; true if nothing is left. A write that fails ends
    /// it, see [`Buffers::fail`].
    pub fn flush(&mut self, all: &mut Connections<S>, id: ConnId) -> bool {
        let Some(connection) = all.find(id) else { return false };
        if !connection.is_flushed()
            && let Kind::Message(message) = &mut connection.kind
        {
            message.pulse.said();
        }
        match connection.flush(self, usize::MAX) {
            Ok(_) => connection.is_flushed(),
            Err(error) => {
                self.fail(all, id, error.into());
                false
            }
        }
    }

    /// A connection that is no local side failed. It is reset; a message connection is first read to its end, because
    /// its peer may have said more before it closed it.
    pub fn fail(&mut self, all: &mut Connections<S>, id: ConnId, fault: Fault) {
        let Some(connection) = all.open(id) else { return all.reset(id, CloseReason::Io(fault)) };
        connection.forget_unsent(self);
        let Kind::Message(message) = &mut connection.kind else {
            return all.reset(id, CloseReason::Io(fault));
        };
        if message.failed.is_none() {
            message.failed = Some(fault);
            connection.ready.readable = true;
            all.queue(id);
        }
    }
}

/// The pipes that no connection has leased.
pub(super) struct Pipes<P> {
    free: Vec<Box<Piped<P>>>,
    leased: usize,
    max: usize,
}

impl<P> Pipes<P> {
    /// An empty pipe, if the limit and the kernel allow one.
    pub fn lease<S: Socket<Pipe = P>>(&mut self, socket: &S) -> Option<Box<Piped<P>>> {
        if self.leased == self.max {
            return None;
        }
        let made = |pipe| Box::new(Piped { pipe, held: 0, header: [0; HEADROOM], header_left: 0 });
        let pipe = self.free.pop().or_else(|| socket.pipe().map(made));
        self.leased += usize::from(pipe.is_some());
        pipe
    }

    /// Takes a pipe back; one that holds bytes is dropped with them.
    pub fn give_back(&mut self, piped: Box<Piped<P>>) {
        self.leased -= 1;
        if piped.held == 0 {
            self.free.push(piped);
        }
    }
}

impl<S: Socket> Connection<S> {
    /// Whether nothing is left to write.
    pub fn is_flushed(&self) -> bool {
        self.out.is_none() && self.piped.is_none()
    }

    /// Writes what is left, until the socket takes no more, or `most` bytes of the out ring are written; returns how
    /// many of these were.
    pub fn flush(&mut self, buffers: &mut Buffers<S>, most: usize) -> io::Result<usize> {
        self.flush_pipe(&mut buffers.pipes)?;
        let mut written = 0;
        while self.out.is_some() && self.piped.is_none() && self.ready.writable && written < most {
            written += self.write(&mut buffers.rings, &[], most - written)?;
        }
        Ok(written)
    }

    fn flush_pipe(&mut self, pipes: &mut Pipes<S::Pipe>) -> io::Result<()> {
        while let Some(piped) = self.piped.as_deref_mut().filter(|_| self.ready.writable) {
            let moved = match piped.header_left {
                0 => self.socket.splice_out(&mut piped.pipe, piped.held),
                left => self.socket.write_before_more(&piped.header[HEADROOM - left..]),
            };
            match moved {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) if piped.header_left > 0 => piped.header_left -= count,
                Ok(count) => {
                    piped.held -= count;
                    if let Kind::Local(local) = &mut self.kind {
                        local.note_sent(count);
                    }
                    if let Some(piped) = self.piped.take_if(|piped| piped.held == 0) {
                        pipes.give_back(piped);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Drops what is left to write.
    pub fn forget_unsent(&mut self, buffers: &mut Buffers<S>) {
        if let Some(ring) = self.out.take() {
            buffers.rings.give_back(ring);
        }
        if let Some(piped) = self.piped.take() {
            buffers.pipes.give_back(piped);
        }
    }

    /// Whether it is a local side that can still be written to. Bytes for any other are thrown away.
    pub fn takes_bytes(&self) -> bool {
        matches!(&self.kind, Kind::Local(local) if local.writing == Writing::Open)
    }

    /// Writes `most` bytes of the out ring and then `pieces` in one call; what does not go, or the socket does not
    /// take, goes into the ring, whose room the caller has seen to. Returns how many bytes were written.
    pub fn write(&mut self, rings: &mut Rings, pieces: &[IoSlice], most: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX + 2];
        let held = self.out.as_ref().map_or(0, Ring::len);
        let ring = self.out.as_ref().map_or([&[][..]; 2], Ring::slices);
        let (mut count, mut left) = (0, most);
        for piece in ring.into_iter().chain(pieces.iter().map(|piece| &**piece)) {
            let piece = &piece[..piece.len().min(left)];
            if !piece.is_empty() {
                slices[count] = IoSlice::new(piece);
                count += 1;
                left -= piece.len();
            }
        }
        let gone = match self.ready.writable && self.piped.is_none() && count > 0 {
            true => match write_now(&mut self.socket, &slices[..count]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.writable = false;
                    0
                }
                result => result?,
            },
            false => 0,
        };
        if let Kind::Local(local) = &mut self.kind {
            local.note_sent(gone);
        }
        let mut written = gone;
        if let Some(ring) = &mut self.out {
            ring.consume(written.min(held));
            written = written.saturating_sub(held);
        }
        for piece in pieces {
            let taken = written.min(piece.len());
            written -= taken;
            stash(&mut self.out, rings, &piece[taken..]);
        }
        rings.tidy(&mut self.out);
        Ok(gone)
    }
}

/// Appends bytes to a ring that has room for them, leasing one if there are any.
pub(super) fn stash(slot: &mut Option<Ring>, rings: &mut Rings, bytes: &[u8]) {
    let pushed = rings.push(slot, bytes);
    debug_assert_eq!(pushed, bytes.len(), "the ring has room for what was read");
}

/// Writes all of `slices` that the socket takes now; returns how many bytes.
fn write_now<S: Socket>(socket: &mut S, slices: &[IoSlice]) -> io::Result<usize> {
    loop {
        match socket.write(slices) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
