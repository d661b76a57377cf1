//! A bounded byte ring, and the free list that rings are leased from.
//!
//! A connection leases a ring only while it holds bytes that could not be passed on, and gives it back empty;
//! an idle connection owns none.
//!
//! ```text
//!        head            head + len            RING_BYTES
//!  ┌──────┬──────────────────┬──────────────────┐
//!  │ room │ bytes, in order  │ room             │     and the same wrapped around the end
//!  └──────┴──────────────────┴──────────────────┘
//! ```

/// Bytes that one ring holds.
pub const RING_BYTES: usize = 64 * 1024;

/// A FIFO of at most [`RING_BYTES`] bytes.
pub struct Ring {
    bytes: Box<[u8; RING_BYTES]>,
    head: u32,
    len: u32,
}

impl Ring {
    fn new() -> Ring {
        // From a vector, because a boxed array would pass over the stack; zeroed pages are touched only when used.
        let zeroed = vec![0; RING_BYTES].into_boxed_slice();
        let bytes = zeroed.try_into().unwrap_or_else(|_| Box::new([0; RING_BYTES]));
        Ring { bytes, head: 0, len: 0 }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can still be pushed.
    pub fn room(&self) -> usize {
        RING_BYTES - self.len()
    }

    /// Appends as many of `bytes` as there is room for; returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let tail = (self.head as usize + self.len()) % RING_BYTES;
        let first = count.min(RING_BYTES - tail);
        self.bytes[tail..tail + first].copy_from_slice(&bytes[..first]);
        self.bytes[..count - first].copy_from_slice(&bytes[first..count]);
        self.len += count as u32;
        count
    }

    /// The bytes held, in order; the second slice is empty unless they wrap.
    pub fn slices(&self) -> [&[u8]; 2] {
        let head = self.head as usize;
        let first = self.len().min(RING_BYTES - head);
        [&self.bytes[head..head + first], &self.bytes[..self.len() - first]]
    }

    /// Drops `count` bytes (at most all) from the front.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len());
        self.len -= count as u32;
        // An empty ring starts again at the front, so that short use touches few pages.
        self.head = if self.len == 0 { 0 } else { ((self.head as usize + count) % RING_BYTES) as u32 };
    }

    /// Moves all bytes to the front of `out`, which must have room for them; returns how many.
    pub fn drain_into(&mut self, out: &mut [u8]) -> usize {
        let [first, second] = self.slices();
        let count = self.len();
        out[..first.len()].copy_from_slice(first);
        out[first.len()..count].copy_from_slice(second);
        self.consume(count);
        count
    }
}

/// The free list.
pub struct Rings {
    free: Vec<Ring>,
    kept: usize,
}

impl Rings {
    /// An empty list that keeps up to `kept` rings for the next lease.
    pub fn new(kept: usize) -> Rings {
        Rings { free: Vec::with_capacity(kept), kept }
    }

    /// An empty ring; allocates only when none is kept.
    pub fn lease(&mut self) -> Ring {
        self.free.pop().unwrap_or_else(Ring::new)
    }

    /// Takes a ring back, with whatever it still holds.
    pub fn give_back(&mut self, mut ring: Ring) {
        ring.consume(ring.len());
        if self.free.len() < self.kept {
            self.free.push(ring);
        }
    }

    /// Gives back `slot`'s ring if it is empty.
    pub fn tidy(&mut self, slot: &mut Option<Ring>) {
        if let Some(ring) = slot.take_if(|ring| ring.is_empty()) {
            self.give_back(ring);
        }
    }
}
