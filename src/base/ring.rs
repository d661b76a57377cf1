//! A bounded byte ring, and the free list that rings are leased from.
//!
//! A connection leases a ring only while it holds bytes that could not be passed on, and gives it back empty;
//! an idle connection owns none. Rings have three sizes. A small one holds a few frames or a short request, which is
//! enough for most connections; one of middle size holds the first part of a record whose rest has not come. A
//! connection that must hold more changes to a larger ring.
//!
//! ```text
//!        head            head + len            capacity
//!  ┌──────┬──────────────────┬──────────────────┐
//!  │ room │ bytes, in order  │ room             │     and the same wrapped around the end
//!  └──────┴──────────────────┴──────────────────┘
//! ```

/// Bytes that a connection's ring holds at most.
pub const RING_BYTES: usize = 64 * 1024;
/// Bytes of the rings of each size. A record is shorter than 17 KiB.
const SIZES: [usize; 3] = [1024, 17 * 1024, RING_BYTES];

/// A FIFO of bounded size. It is one pointer in size, because most connections own none.
pub struct Ring(Box<Storage>);

struct Storage {
    bytes: Box<[u8]>,
    head: usize,
    len: usize,
}

impl Ring {
    fn new(capacity: usize) -> Ring {
        Ring(Box::new(Storage { bytes: vec![0; capacity].into_boxed_slice(), head: 0, len: 0 }))
    }

    fn capacity(&self) -> usize {
        self.0.bytes.len()
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether no byte is held.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Appends as many of `bytes` as there is room for; returns how many.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let capacity = self.capacity();
        let Storage { bytes: stored, head, len } = &mut *self.0;
        let count = bytes.len().min(capacity - *len);
        let tail = (*head + *len) % capacity;
        let first = count.min(capacity - tail);
        stored[tail..tail + first].copy_from_slice(&bytes[..first]);
        stored[..count - first].copy_from_slice(&bytes[first..count]);
        *len += count;
        count
    }

    /// The bytes held, in order; the second slice is empty unless they wrap.
    pub fn slices(&self) -> [&[u8]; 2] {
        let Storage { bytes, head, len } = &*self.0;
        let first = (*len).min(bytes.len() - head);
        [&bytes[*head..head + first], &bytes[..len - first]]
    }

    /// Drops `count` bytes (at most all) from the front.
    pub fn consume(&mut self, count: usize) {
        let capacity = self.capacity();
        let Storage { head, len, .. } = &mut *self.0;
        let count = count.min(*len);
        *len -= count;
        // An empty ring starts again at the front, so that short use touches few pages.
        *head = if *len == 0 { 0 } else { (*head + count) % capacity };
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

/// The free lists, one per size.
pub struct Rings {
    free: [Vec<Ring>; SIZES.len()],
    kept: usize,
}

impl Rings {
    /// Empty lists that keep up to `kept` rings of each size for the next lease.
    pub fn new(kept: usize) -> Rings {
        Rings { free: SIZES.map(|_| Vec::with_capacity(kept)), kept }
    }

    /// An empty ring for `count` bytes, or for [`RING_BYTES`] if that is less; allocates only when none is kept.
    pub fn lease(&mut self, count: usize) -> Ring {
        let capacity = SIZES.into_iter().find(|&size| size >= count).unwrap_or(RING_BYTES);
        self.of_size(capacity).pop().unwrap_or_else(|| Ring::new(capacity))
    }

    /// Appends as many of `bytes` to `slot` as [`RING_BYTES`] have room for, leasing a ring that holds them if
    /// it has none; returns how many.
    pub fn push(&mut self, slot: &mut Option<Ring>, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let needed = slot.as_ref().map_or(0, Ring::len) + bytes.len();
        let fits = |ring: &Ring| needed <= ring.capacity() || ring.capacity() == RING_BYTES;
        match slot {
            Some(ring) if fits(ring) => ring.push(bytes),
            _ => {
                let mut ring = self.lease(needed);
                if let Some(outgrown) = slot.take() {
                    for held in outgrown.slices() {
                        ring.push(held);
                    }
                    self.give_back(outgrown);
                }
                slot.insert(ring).push(bytes)
            }
        }
    }

    /// Takes a ring back, with whatever it still holds.
    pub fn give_back(&mut self, mut ring: Ring) {
        ring.consume(ring.len());
        let kept = self.kept;
        let free = self.of_size(ring.capacity());
        if free.len() < kept {
            free.push(ring);
        }
    }

    /// Frees the rings that are kept for the next lease.
    pub fn forget_free(&mut self) {
        self.free.iter_mut().for_each(Vec::clear);
    }

    /// The free rings of one of the sizes.
    fn of_size(&mut self, capacity: usize) -> &mut Vec<Ring> {
        &mut self.free[SIZES.partition_point(|&size| size < capacity)]
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
            let mut ring = Ring::new(RING_BYTES);
            let mut model = VecDeque::new();
            let mut pushed = 0;
            for operation in operations {
                match operation {
                    Operation::Push(_) | Operation::Fill(_) => {
                        let offered = match operation {
                            Operation::Push(count) => count,
                            Operation::Fill(beyond) => RING_BYTES - ring.len() + beyond,
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
                prop_assert!(!ring.is_empty() || ring.0.head == 0, "an empty ring starts again at the front");
            }
        }
    }

    #[test]
    fn a_wrapped_ring_shows_two_slices_in_order() {
        let mut ring = Ring::new(RING_BYTES);
        assert_eq!(ring.push(&vec![0; RING_BYTES]), RING_BYTES);
        assert_eq!(ring.push(&[1]), 0, "a full ring takes nothing");
        ring.consume(RING_BYTES - 2);
        assert_eq!(ring.push(&[1, 2, 3]), 3);
        assert_eq!(ring.slices(), [&[0, 0][..], &[1, 2, 3][..]]);
    }

    /// Free rings of each size.
    fn free(rings: &Rings) -> [usize; SIZES.len()] {
        rings.free.each_ref().map(Vec::len)
    }

    #[test]
    fn no_more_rings_are_kept_than_asked_for() {
        for size in SIZES {
            let mut rings = Rings::new(2);
            let leased: Vec<Ring> = (0..4).map(|_| rings.lease(size)).collect();
            for (given_back, mut ring) in leased.into_iter().enumerate() {
                ring.push(b"left over");
                rings.give_back(ring);
                assert_eq!(free(&rings).iter().sum::<usize>(), 2.min(given_back + 1));
            }
            for _ in 0..3 {
                assert!(rings.lease(size).is_empty(), "what one connection left must not reach the next");
            }
            assert_eq!(free(&rings), [0; 3]);
        }
    }

    #[test]
    fn free_rings_are_forgotten() {
        for size in SIZES {
            let ring = Rings::new(1).lease(size);
            let mut rings = Rings::new(1);
            rings.give_back(ring);
            rings.forget_free();
            assert_eq!(free(&rings), [0; 3]);
        }
    }

    #[test]
    fn a_ring_is_kept_as_long_as_it_holds_bytes() {
        let (mut rings, mut slot) = (Rings::new(2), None);
        rings.push(&mut slot, b"x");
        rings.tidy(&mut slot);
        slot.as_mut().expect("still leased").consume(1);
        rings.tidy(&mut slot);
        assert!(slot.is_none());
        assert_eq!(free(&rings), [1, 0, 0]);
        rings.tidy(&mut slot);
        assert_eq!(free(&rings), [1, 0, 0]);
    }

    #[test]
    fn bytes_that_outgrow_a_ring_are_kept_in_a_larger_one() {
        let (mut rings, mut slot) = (Rings::new(2), None);
        let bytes = pattern(0, RING_BYTES + 1_000);
        assert_eq!(rings.push(&mut slot, &bytes[..700]), 700);
        slot.as_mut().expect("leased").consume(600);
        // Around the end of the small one.
        assert_eq!(rings.push(&mut slot, &bytes[700..1_600]), 900);
        assert_eq!(rings.push(&mut slot, &bytes[1_600..1_700]), 100);
        assert_eq!(free(&rings), [1, 0, 0], "the small one was given back");
        assert_eq!(rings.push(&mut slot, &bytes[1_700..18_100]), 16_400);
        assert_eq!(free(&rings), [1, 1, 0], "and the middle one");
        assert_eq!(rings.push(&mut slot, &bytes[18_100..]), RING_BYTES - 17_500, "no ring is larger");
        assert_eq!(slot.expect("leased").slices().concat(), bytes[600..RING_BYTES + 600]);
    }

    #[test]
    fn a_list_that_keeps_none_still_leases() {
        let mut rings = Rings::new(0);
        let ring = rings.lease(1);
        rings.give_back(ring);
        assert_eq!(free(&rings), [0; 3]);
        assert!(rings.lease(RING_BYTES).is_empty());
    }
}
