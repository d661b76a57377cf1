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

/// A FIFO of at most [`RING_BYTES`] bytes. It is one pointer in size, for those who own none.
pub struct Ring(Box<Storage>);

struct Storage {
    bytes: Box<[u8; RING_BYTES]>,
    head: usize,
    len: usize,
}

impl Ring {
    fn new() -> Ring {
        // From a vector, because a boxed array would pass over the stack; zeroed pages are touched only when used.
        let zeroed = vec![0; RING_BYTES].into_boxed_slice();
        let bytes = zeroed.try_into().unwrap_or_else(|_| Box::new([0; RING_BYTES]));
        Ring(Box::new(Storage { bytes, head: 0, len: 0 }))
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Bytes that can still be pushed.
    pub fn room(&self) -> usize {
        RING_BYTES - self.len()
    }

    /// Appends as many of `bytes` as there is room for; returns how many.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let Storage { bytes: stored, head, len } = &mut *self.0;
        let tail = (*head + *len) % RING_BYTES;
        let first = count.min(RING_BYTES - tail);
        stored[tail..tail + first].copy_from_slice(&bytes[..first]);
        stored[..count - first].copy_from_slice(&bytes[first..count]);
        *len += count;
        count
    }

    /// The bytes held, in order; the second slice is empty unless they wrap.
    pub fn slices(&self) -> [&[u8]; 2] {
        let Storage { bytes, head, len } = &*self.0;
        let first = (*len).min(RING_BYTES - head);
        [&bytes[*head..head + first], &bytes[..len - first]]
    }

    /// Drops `count` bytes (at most all) from the front.
    pub fn consume(&mut self, count: usize) {
        let Storage { head, len, .. } = &mut *self.0;
        let count = count.min(*len);
        *len -= count;
        // An empty ring starts again at the front, so that short use touches few pages.
        *head = if *len == 0 { 0 } else { (*head + count) % RING_BYTES };
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Operation {
        Push(usize),
        /// Pushes as many bytes as there is room for, and so many more.
        Fill(usize),
        Consume(usize),
        ConsumeAll,
        Drain,
    }

    fn operations() -> impl Strategy<Value = Operation> {
        let sizes = || prop_oneof![0..4usize, 0..=RING_BYTES + 1, RING_BYTES - 2..=RING_BYTES];
        prop_oneof![
            4 => sizes().prop_map(Operation::Push),
            2 => (0..2usize).prop_map(Operation::Fill),
            4 => sizes().prop_map(Operation::Consume),
            1 => Just(Operation::ConsumeAll),
            1 => Just(Operation::Drain),
        ]
    }

    /// `count` bytes in which a shifted, lost or repeated piece shows: 251 is prime to the size of the ring.
    fn pattern(from: usize, count: usize) -> Vec<u8> {
        (from..from + count).map(|at| (at % 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_ring_is_a_bounded_queue(operations in proptest::collection::vec(operations(), 1..40)) {
            let mut ring = Ring::new();
            let mut model = VecDeque::new();
            let mut pushed = 0;
            for operation in operations {
                match operation {
                    Operation::Push(_) | Operation::Fill(_) => {
                        let offered = match operation {
                            Operation::Push(count) => count,
                            Operation::Fill(beyond) => ring.room() + beyond,
                            _ => 0,
                        };
                        let taken = offered.min(RING_BYTES - model.len());
                        let bytes = pattern(pushed, offered);
                        prop_assert_eq!(ring.push(&bytes), taken);
                        model.extend(&bytes[..taken]);
                        pushed += taken;
                    }
                    Operation::Consume(count) => {
                        ring.consume(count);
                        model.drain(..count.min(model.len()));
                    }
                    Operation::ConsumeAll => {
                        ring.consume(ring.len());
                        model.clear();
                    }
                    Operation::Drain => {
                        // One byte more than needed: it must stay as it was.
                        let mut out = vec![0xff; ring.len() + 1];
                        prop_assert_eq!(ring.drain_into(&mut out), model.len());
                        prop_assert_eq!(out.pop(), Some(0xff));
                        prop_assert!(model.make_contiguous() == out);
                        model.clear();
                    }
                }
                let [first, second] = ring.slices();
                prop_assert!([first, second].concat() == model.make_contiguous());
                // A writer that looks at the first slice only must see bytes whenever there are any.
                prop_assert!(!first.is_empty() || second.is_empty());
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.is_empty(), model.is_empty());
                prop_assert_eq!(ring.room(), RING_BYTES - model.len());
                prop_assert!(!ring.is_empty() || ring.0.head == 0, "an empty ring starts again at the front");
            }
        }
    }

    #[test]
    fn a_wrapped_ring_shows_two_slices_in_order() {
        let mut ring = Ring::new();
        assert_eq!(ring.push(&vec![0; RING_BYTES]), RING_BYTES);
        assert_eq!(ring.push(&[1]), 0, "a full ring takes nothing");
        ring.consume(RING_BYTES - 2);
        assert_eq!(ring.push(&[1, 2, 3]), 3);
        assert_eq!(ring.slices(), [&[0, 0][..], &[1, 2, 3][..]]);
    }

    #[test]
    fn no_more_rings_are_kept_than_asked_for() {
        let mut rings = Rings::new(2);
        let leased: Vec<Ring> = (0..4).map(|_| rings.lease()).collect();
        for (given_back, mut ring) in leased.into_iter().enumerate() {
            ring.push(b"left over");
            rings.give_back(ring);
            assert_eq!(rings.free.len(), 2.min(given_back + 1));
        }
        for _ in 0..3 {
            assert!(rings.lease().is_empty(), "what one connection left must not reach the next");
        }
        assert!(rings.free.is_empty());
    }

    #[test]
    fn a_ring_is_kept_as_long_as_it_holds_bytes() {
        let mut rings = Rings::new(2);
        let mut slot = Some(rings.lease());
        slot.as_mut().expect("leased").push(b"x");
        rings.tidy(&mut slot);
        slot.as_mut().expect("still leased").consume(1);
        rings.tidy(&mut slot);
        assert!(slot.is_none());
        assert_eq!(rings.free.len(), 1);
        rings.tidy(&mut slot);
        assert_eq!(rings.free.len(), 1);
    }

    #[test]
    fn a_list_that_keeps_none_still_leases() {
        let mut rings = Rings::new(0);
        let ring = rings.lease();
        rings.give_back(ring);
        assert!(rings.free.is_empty());
        assert_eq!(rings.lease().room(), RING_BYTES);
    }
}
