//! One deadline per slot, earliest first: a binary heap that knows where each slot's entry lies, so that setting
//! and clearing cost O(log n), nothing goes stale and nothing is allocated once warm.
//!
//! Invariant: `heap[places[slot]]` is the entry of that slot, for every slot that has a deadline.

use std::time::Instant;

use super::id::Id;
use super::table::{Places, shrink_after_a_crowd};

/// The deadlines of a reactor or a machine, one per thing.
pub struct Deadlines<K> {
    heap: Vec<(Instant, Id<K>)>,
    places: Places,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Deadlines<K> {
        Deadlines { heap: Vec::new(), places: Places::default() }
    }
}

impl<K> Deadlines<K> {
    /// Sets, moves or (with `None`) clears the deadline of `id`. A deadline of the thing that had its slot before is
    /// replaced, and not cleared by it.
    pub fn set(&mut self, id: Id<K>, at: Option<Instant>) {
        match (at, self.places.get(id.index())) {
            (Some(at), None) => {
                self.heap.push((at, id));
                self.settle(self.heap.len() - 1);
            }
            (Some(at), Some(place)) => {
                self.heap[place] = (at, id);
                self.settle(place);
            }
            (None, Some(place)) if self.heap[place].1 == id => self.remove(place),
            (None, _) => {}
        }
    }

    /// The deadline of `id`.
    pub fn get(&self, id: Id<K>) -> Option<Instant> {
        let (at, of) = self.heap[self.places.get(id.index())?];
        (of == id).then_some(at)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Clears and returns the earliest deadline's thing, whether its time has come or not.
    pub fn pop(&mut self) -> Option<Id<K>> {
        let &(_, id) = self.heap.first()?;
        self.remove(0);
        Some(id)
    }

    /// Clears and returns one thing whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<Id<K>> {
        let &(at, _) = self.heap.first()?;
        if at <= now { self.pop() } else { None }
    }

    fn remove(&mut self, place: usize) {
        let (_, id) = self.heap.swap_remove(place);
        self.places.clear(id.index());
        if place < self.heap.len() {
            self.settle(place);
        }
        shrink_after_a_crowd(&mut self.heap);
    }

    /// Moves the entry at `place` up or down to where it belongs.
    fn settle(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.heap[child] < self.heap[least] {
                    least = child;
                }
            }
            if least == place {
                break;
            }
            self.swap(place, least);
            place = least;
        }
        self.places.set(self.heap[place].1.index(), place);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places.set(self.heap[a].1.index(), a);
        self.places.set(self.heap[b].1.index(), b);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::id::{ConnId, SLOTS_MAX, kind};
    use super::*;
    use proptest::prelude::*;

    fn id(slot: u32) -> ConnId {
        ConnId::new(slot, 1).expect("it can be named")
    }

    #[derive(Clone, Copy, Debug)]
    enum Operation {
        Set(u32, u64),
        Clear(u32),
        PopDue(u64),
    }

    /// Few slots and few times, so that moves, clears and equal deadlines are frequent.
    fn operations() -> impl Strategy<Value = Operation> {
        prop_oneof![
            4 => (0..24u32, 0..40u64).prop_map(|(slot, at_s)| Operation::Set(slot, at_s)),
            1 => (0..32u32).prop_map(Operation::Clear),
            2 => (0..40u64).prop_map(Operation::PopDue),
        ]
    }

    fn assert_invariants(deadlines: &Deadlines<kind::Connection>, model: &BTreeMap<u32, Instant>) {
        for (place, &(at, found)) in deadlines.heap.iter().enumerate() {
            assert_eq!(deadlines.places.get(found.index()), Some(place));
            assert_eq!(model.get(&found.slot()), Some(&at));
            assert!(place == 0 || deadlines.heap[(place - 1) / 2] <= deadlines.heap[place]);
        }
        let placed = (0..deadlines.places.len()).filter(|&slot| deadlines.places.get(slot).is_some()).count();
        assert_eq!((placed, deadlines.heap.len()), (model.len(), model.len()));
        assert_eq!(deadlines.next(), model.values().min().copied());
    }

    proptest! {
        #[test]
        fn the_earliest_deadline_comes_first(operations in proptest::collection::vec(operations(), 1..120)) {
            let epoch = Instant::now();
            let time = |at_s| epoch + Duration::from_secs(at_s);
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::new();
            for operation in operations {
                match operation {
                    Operation::Set(slot, at_s) => {
                        deadlines.set(id(slot), Some(time(at_s)));
                        model.insert(slot, time(at_s));
                    }
                    Operation::Clear(slot) => {
                        deadlines.set(id(slot), None);
                        model.remove(&slot);
                    }
                    Operation::PopDue(now_s) => {
                        let earliest = model.values().min().copied().filter(|&at| at <= time(now_s));
                        let popped = deadlines.pop_due(time(now_s));
                        // Of equal deadlines any may come first.
                        prop_assert_eq!(popped.and_then(|id| model.remove(&id.slot())), earliest);
                    }
                }
                assert_invariants(&deadlines, &model);
            }
        }
    }

    #[test]
    fn each_due_slot_comes_once_and_those_to_come_stay() {
        let epoch = Instant::now();
        let mut deadlines = Deadlines::default();
        for (slot, after_s) in [(0, 3), (1, 1), (2, 2), (3, 9)] {
            deadlines.set(id(slot), Some(epoch + Duration::from_secs(after_s)));
        }
        let now = epoch + Duration::from_secs(3);
        let due: Vec<u32> = std::iter::from_fn(|| deadlines.pop_due(now)).map(Id::slot).collect();
        assert_eq!(due, [1, 2, 0], "a deadline has come when its time is now, not only when it is over");
        assert_eq!(deadlines.next(), Some(epoch + Duration::from_secs(9)));
    }

    #[test]
    fn clearing_a_slot_that_was_never_set_allocates_nothing() {
        let mut deadlines: Deadlines<kind::Connection> = Deadlines::default();
        deadlines.set(id(SLOTS_MAX - 1), None);
        assert_eq!((deadlines.places.len(), deadlines.next()), (0, None));
    }

    #[test]
    fn a_thing_that_is_gone_does_not_clear_the_deadline_of_the_next_in_its_slot() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        let [old, new] = [1, 2].map(|serial| ConnId::new(5, serial).expect("it can be named"));
        deadlines.set(old, Some(now));
        deadlines.set(new, Some(now));
        deadlines.set(old, None);
        assert_eq!((deadlines.pop_due(now), deadlines.pop_due(now)), (Some(new), None));
    }
}
