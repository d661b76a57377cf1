//! Buffers of a thread: what one step needs and no task owns across an await, and rings for what could not be
//! passed on. Like the product's, but one set per thread.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read};

use skyorg::base::buffer::Buffer;
use skyorg::base::ring::{RING_BYTES, Ring, Rings};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Rings that a thread keeps for the next lease, like the product's.
const RINGS_KEPT: usize = 64;
/// Slices of one write.
const SLICES_MAX: usize = 18;

/// The buffers.
pub struct Scratch {
    /// Bytes as they were read.
    pub raw: Buffer,
    /// Bytes that were sealed or opened.
    pub clear: Buffer,
    /// The free list.
    pub rings: Rings,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        raw: Buffer::raw(RING_BYTES),
        clear: Buffer::clear(2 * RING_BYTES),
        rings: Rings::new(RINGS_KEPT),
    });
}

/// Lends this thread's buffers to a step, which does not await and does not call this again.
pub fn with_scratch<T>(step: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(step)
}

/// Reads what there is. A short read has emptied the socket, so that the next one waits for an event instead of asking
/// the kernel in vain: what tokio's own `AsyncRead` does, for a buffer that belongs to no task.
pub fn read(stream: &TcpStream, out: &mut [u8]) -> io::Result<usize> {
    let mut count = None;
    let outcome = stream.try_io(Interest::READABLE, || {
        let read = (&*SockRef::from(stream)).read(out)?;
        count = Some(read);
        if read == 0 || read == out.len() { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    });
    match count {
        Some(count) => Ok(count),
        None => outcome.map(|()| 0),
    }
}

/// Writes what the ring holds and then `pieces`, in one call; what the socket does not take stays in the ring.
/// Returns the bytes written.
pub fn write(
    stream: &TcpStream,
    out: &mut Option<Ring>,
    rings: &mut Rings,
    pieces: &[IoSlice],
) -> io::Result<usize> {
    let mut total = 0;
    let mut held = out.as_ref().map_or(0, Ring::len);
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    if let Some(ring) = out {
        let [first, second] = ring.slices();
        (slices[0], slices[1]) = (IoSlice::new(first), IoSlice::new(second));
    }
    slices[2..2 + pieces.len()].copy_from_slice(pieces);
    let skip = if held == 0 { 2 } else { 0 };
    let tried = match &slices[skip..2 + pieces.len()] {
        // send(2) costs the kernel less than writev(2).
        [slice] => stream.try_write(slice),
        slices => stream.try_write_vectored(slices),
    };
    let mut written = match tried {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        result => result?,
    };
    total += written;
    if let Some(ring) = out {
        ring.consume(written.min(held));
        written = written.saturating_sub(held);
    }
    for piece in pieces {
        let taken = written.min(piece.len());
        written -= taken;
        rings.push(out, &piece[taken..]);
    }
    rings.tidy(out);
    // A short write: the socket may take more, and only it can say that it does not.
    while let Some(ring) = out {
        held = ring.len();
        match stream.try_write(ring.slices()[0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Ok(count) => {
                ring.consume(count);
                total += held - ring.len();
            }
            Err(error) => return Err(error),
        }
        rings.tidy(out);
    }
    Ok(total)
}
