//! One deadline per slot, earliest first: a binary heap that knows where each slot's entry lies, so that setting
//! and clearing cost O(log n), nothing goes stale and nothing is allocated once warm.
//!
//! Invariant: `heap[places[slot]].1 == slot` for every slot that has a deadline.

use std::time::Instant;

const NOWHERE: u32 = u32::MAX;

/// The deadlines of a reactor or a machine, by slot.
#[derive(Default)]
pub struct Deadlines {
    heap: Vec<(Instant, u32)>,
    places: Vec<u32>,
}

impl Deadlines {
    /// Sets, moves or (with `None`) clears the deadline of `slot`.
    pub fn set(&mut self, slot: u32, at: Option<Instant>) {
        let index = slot as usize;
        if self.places.len() <= index {
            if at.is_none() {
                return;
            }
            self.places.resize(index + 1, NOWHERE);
        }
        let place = self.places[index];
        match (at, place) {
            (Some(at), NOWHERE) => {
                self.heap.push((at, slot));
                self.settle(self.heap.len() - 1);
            }
            (Some(at), place) => {
                self.heap[place as usize].0 = at;
                self.settle(place as usize);
            }
            (None, NOWHERE) => {}
            (None, place) => self.remove(place as usize),
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Clears and returns one slot whose deadline has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(at, slot) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(0);
        Some(slot)
    }

    fn remove(&mut self, place: usize) {
        let (_, slot) = self.heap.swap_remove(place);
        self.places[slot as usize] = NOWHERE;
        if place < self.heap.len() {
            self.settle(place);
        }
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
        self.places[self.heap[place].1 as usize] = place as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }
}
