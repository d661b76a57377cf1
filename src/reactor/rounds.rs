//! Rounds over all connections, a few slots each turn: what may be noticed a little later costs nothing per byte.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Slots that are looked at in one turn.
const TURN_SLOTS: u32 = 64;

/// Where a round is.
pub(super) struct Round {
    /// When the last round ended.
    ended: Instant,
    slot: u32,
}

impl Round {
    pub fn new(now: Instant) -> Round {
        Round { ended: now, slot: 0 }
    }

    /// When it goes on, or the next one begins after a pause.
    pub fn due(&self, pause: Duration) -> Instant {
        if self.is_new() { self.ended + pause } else { self.ended }
    }

    /// Whether the next slots are the first of a round.
    pub fn is_new(&self) -> bool {
        self.slot == 0
    }

    /// The slots of this turn, all of them below `end`.
    pub fn next_slots(&mut self, end: u32, now: Instant) -> Range<u32> {
        let from = self.slot.min(end);
        let to = end.min(from + TURN_SLOTS);
        self.slot = to;
        if to == end {
            (self.slot, self.ended) = (0, now);
        }
        from..to
    }
}
