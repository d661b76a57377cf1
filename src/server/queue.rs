//! Users who wait for the same connections: addresses take turns, and the users of one address are served as they came.
//!
//! Each user gets a time of a virtual clock at which it is due (start-time fair queueing, Goyal, Vin and Cheng 1996,
//! with one session as the unit): now, or one round after the last user of its address. A round is over when as many
//! were served as wait. So an address with a thousand users costs another's only user one turn, and nobody who came is
//! behind all who come later.

use std::collections::{BTreeMap, HashMap};

use crate::base::address::Origin;
use crate::base::id::ConnId;

/// What the clock counts in a round.
const ROUND: u64 = 1 << 20;
/// Addresses that a queue may remember beyond those that it needs.
const STALE_MAX: usize = 8;

/// Where in its queue a user stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    due: u64,
    order: i64,
}

/// Users in the order in which they are served.
#[derive(Default)]
pub(super) struct Queue {
    users: BTreeMap<Turn, ConnId>,
    clock: u64,
    /// When the last user of each address is due.
    last: HashMap<Origin, u64>,
    /// Addresses beyond which those are forgotten that need not be remembered.
    last_max: usize,
    /// How many came.
    came: i64,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// When the next user of this address is due. One without an address that counts is due now.
    fn next_due(&self, origin: Option<Origin>) -> u64 {
        let last = origin.and_then(|origin| self.last.get(&origin));
        last.map_or(self.clock, |last| self.clock.max(last + ROUND))
    }

    /// A user waits; `first` if it has waited longest.
    pub fn push(&mut self, user: ConnId, origin: Option<Origin>, first: bool) -> Turn {
        self.came += 1;
        let turn = if first {
            Turn { due: 0, order: -self.came }
        } else {
            Turn { due: self.next_due(origin), order: self.came }
        };
        if let Some(origin) = origin.filter(|_| !first) {
            self.last.insert(origin, turn.due);
        }
        self.users.insert(turn, user);
        turn
    }

    /// The user that is served next; it no longer waits.
    pub fn pop(&mut self) -> Option<ConnId> {
        let waiting = self.users.len() as u64;
        let (turn, user) = self.users.pop_first()?;
        self.clock = self.clock.max(turn.due) + ROUND / waiting;
        self.forget();
        Some(user)
    }

    /// The user of this turn no longer waits.
    pub fn leave(&mut self, turn: Turn) {
        self.users.remove(&turn);
        self.forget();
    }

    /// Addresses whose next user is due now anyway are forgotten, each time that they may be half of all.
    fn forget(&mut self) {
        if self.users.is_empty() {
            self.last.clear();
        } else if self.last.len() > self.last_max {
            let clock = self.clock;
            self.last.retain(|_, last| *last + ROUND > clock);
        } else {
            return;
        }
        self.last_max = 2 * self.last.len() + STALE_MAX;
        self.last.shrink_to(self.last_max);
    }

    /// The user that is served last, if one of `origin` would be served before it.
    pub fn behind(&self, origin: Option<Origin>) -> Option<ConnId> {
        let (turn, &user) = self.users.last_key_value()?;
        (turn.due > self.next_due(origin)).then_some(user)
    }

    /// The user that is served last.
    pub fn last(&self) -> Option<ConnId> {
        self.users.last_key_value().map(|(_, &user)| user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(slot: u32) -> ConnId {
        ConnId::new(slot, 1).expect("it can be named")
    }

    fn origin(last: u8) -> Option<Origin> {
        Some(Origin::of(([192, 0, 2, last], 1).into()))
    }

    fn come(queue: &mut Queue, slots: std::ops::RangeInclusive<u32>, origin: Option<Origin>) {
        slots.for_each(|slot| {
            queue.push(user(slot), origin, false);
        });
    }

    fn order(queue: &mut Queue) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).map(ConnId::slot).collect()
    }

    #[test]
    fn addresses_take_turns_and_each_is_served_as_it_came() {
        let mut queue = Queue::default();
        come(&mut queue, 1..=4, origin(1));
        queue.push(user(10), origin(2), false);
        queue.push(user(11), origin(2), false);
        queue.push(user(20), origin(3), false);
        assert_eq!(order(&mut queue), [1, 10, 20, 2, 11, 3, 4]);
    }

    #[test]
    fn who_comes_late_is_served_in_the_present_round() {
        let mut queue = Queue::default();
        come(&mut queue, 1..=100, origin(1));
        (1..=50).for_each(|slot| assert_eq!(queue.pop(), Some(user(slot))));
        queue.push(user(200), origin(2), false);
        assert_eq!([queue.pop(), queue.pop()], [Some(user(200)), Some(user(51))]);
    }

    #[test]
    fn who_has_waited_longest_is_first_and_who_has_no_share_waits_one_round() {
        let mut queue = Queue::default();
        come(&mut queue, 1..=3, origin(1));
        come(&mut queue, 10..=12, None);
        queue.push(user(20), origin(2), true);
        assert_eq!(order(&mut queue), [20, 1, 10, 11, 12, 2, 3]);
    }

    #[test]
    fn who_would_be_served_last_makes_room_for_who_would_not() {
        let mut queue = Queue::default();
        come(&mut queue, 1..=3, origin(1));
        assert_eq!((queue.behind(origin(2)), queue.behind(origin(1))), (Some(user(3)), None));
        assert_eq!(queue.last(), Some(user(3)));
    }

    #[test]
    fn nobody_stands_behind_all_who_come_later() {
        let mut queue = Queue::default();
        come(&mut queue, 1..=3, origin(1));
        let mut served = Vec::new();
        for later in 10..30 {
            queue.push(user(u32::from(later)), origin(later), false);
            served.extend(queue.pop());
        }
        assert!([1, 2, 3].iter().all(|&slot| served.contains(&user(slot))), "{served:?}");
    }

    #[test]
    fn addresses_that_came_and_went_are_forgotten() {
        let mut queue = Queue::default();
        for number in 0..10_000u32 {
            let origin = Some(Origin::of((number.to_be_bytes(), 1).into()));
            let turn = queue.push(user(number), origin, false);
            if number % 2 == 0 {
                queue.leave(turn);
            } else {
                assert_eq!(queue.pop(), Some(user(number)));
            }
        }
        assert!(queue.is_empty() && queue.last.len() <= STALE_MAX, "{}", queue.last.len());
    }
}
