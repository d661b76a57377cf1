//! Which sessions of a link have been seen: a window of the last [`WINDOW`] numbers.

use crate::wire::frame::Sid;

/// Numbers that are remembered; older ones count as seen.
pub const WINDOW: u64 = 65_536;

const WORD_BITS: u64 = 64;

/// The window, as a ring of bits.
pub struct Seen {
    bits: Box<[u64]>,
    highest: Sid,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { bits: vec![0; (WINDOW / WORD_BITS) as usize].into_boxed_slice(), highest: 0 }
    }
}

impl Seen {
    /// Notes a number; true if it is new.
    pub fn insert(&mut self, sid: Sid) -> bool {
        if sid > self.highest {
            self.forget_before(sid);
            self.highest = sid;
        } else if self.highest - sid >= WINDOW {
            return false;
        }
        let word = self.word(sid);
        let new = *word & bit(sid) == 0;
        *word |= bit(sid);
        new
    }

    /// Makes room for the numbers up to `sid`, a word at a time: a server that jumps costs no more than another.
    fn forget_before(&mut self, sid: Sid) {
        let (mut at, mut left) = (self.highest, sid - self.highest);
        if left >= WINDOW {
            return self.bits.fill(0);
        }
        while left > 0 {
            let whole = (at + 1) % WORD_BITS == 0 && left >= WORD_BITS;
            if whole {
                *self.word(at + 1) = 0;
            } else {
                *self.word(at + 1) &= !bit(at + 1);
            }
            let step = if whole { WORD_BITS } else { 1 };
            (at, left) = (at + step, left - step);
        }
    }

    fn word(&mut self, sid: Sid) -> &mut u64 {
        &mut self.bits[(sid % WINDOW / WORD_BITS) as usize]
    }
}

fn bit(sid: Sid) -> u64 {
    1 << (sid % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn it_agrees_with_a_set_and_forgets_on_the_safe_side(
            sids in proptest::collection::vec(prop_oneof![1..200u64, 1..70_000u64, 1..200_000u64], 1..200)
        ) {
            let (mut seen, mut set, mut highest) = (Seen::default(), HashSet::new(), 0);
            for sid in sids {
                let too_old = sid + WINDOW <= highest;
                highest = highest.max(sid);
                prop_assert_eq!(seen.insert(sid), set.insert(sid) && !too_old, "sid {}", sid);
            }
        }
    }

    #[test]
    fn a_far_jump_forgets_everything_at_bounded_cost() {
        let mut seen = Seen::default();
        assert!(seen.insert(5) && !seen.insert(5));
        assert!(seen.insert(u64::MAX) && !seen.insert(u64::MAX) && !seen.insert(5));
        assert!(seen.insert(u64::MAX - WINDOW + 1) && !seen.insert(u64::MAX - WINDOW));
        let mut seen = Seen::default();
        assert!(seen.insert(u64::MAX - 100) && seen.insert(u64::MAX) && seen.insert(u64::MAX - 1));
    }
}
