//! Which connections may make progress, and in which order. A turn serves some control connections, and all short tasks
//! that stand in the queue as it begins. It serves one long task at its end, and one after every [`SHORTS_PER_LONG`]
//! short ones, so that neither kind starves. A connection that is queued meanwhile is served in the next turn.

use std::collections::VecDeque;

use crate::base::id::ConnId;
use crate::base::table::SLOTS_KEPT;

/// Control connections that go before all others in a turn.
const CONTROLS_PER_TURN: usize = 8;
/// One long task runs after this many short ones.
const SHORTS_PER_LONG: usize = 4;

/// How a connection stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A control connection.
    Control,
    /// It has little to do.
    Short,
    /// A handshake, but for the answer to a message connection, or a flow that has used up the bytes of its last turn.
    Long,
}

/// The run queue, and what is left of the turn.
#[derive(Default)]
pub(super) struct Runnable {
    controls: VecDeque<ConnId>,
    shorts: VecDeque<ConnId>,
    longs: VecDeque<ConnId>,
    controls_left: usize,
    shorts_left: usize,
    shorts_since_long: usize,
    long_left: bool,
}

impl Runnable {
    /// Puts a connection at the end of those of its pace.
    pub fn push(&mut self, id: ConnId, pace: Pace) {
        match pace {
            Pace::Control => self.controls.push_back(id),
            Pace::Short => self.shorts.push_back(id),
            Pace::Long => self.longs.push_back(id),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.shorts.is_empty() && self.longs.is_empty()
    }

    pub fn begin_turn(&mut self) {
        (self.controls_left, self.shorts_left) =
            (CONTROLS_PER_TURN.min(self.controls.len()), self.shorts.len());
        (self.shorts_since_long, self.long_left) = (0, true);
    }

    /// The connection that is served next; none when the turn is over.
    pub fn next_of_turn(&mut self) -> Option<ConnId> {
        if self.controls_left > 0 {
            self.controls_left -= 1;
            return self.controls.pop_front();
        }
        if self.shorts_since_long == SHORTS_PER_LONG {
            self.shorts_since_long = 0;
            if let Some(long) = self.longs.pop_front() {
                return Some(long);
            }
        }
        if self.shorts_left > 0 {
            self.shorts_left -= 1;
            self.shorts_since_long += 1;
            return self.shorts.pop_front();
        }
        if std::mem::take(&mut self.long_left) { self.longs.pop_front() } else { None }
    }

    /// Gives up room that a burst needed.
    pub fn shrink(&mut self) {
        for queue in [&mut self.controls, &mut self.shorts, &mut self.longs] {
            queue.shrink_to(SLOTS_KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: u32 = 100;
    const LONG: u32 = 200;

    fn id(slot: u32) -> ConnId {
        ConnId::new(slot, 1).expect("it can be named")
    }

    fn queued(controls: u32, shorts: u32, longs: u32) -> Runnable {
        let mut runnable = Runnable::default();
        (0..longs).for_each(|number| runnable.push(id(LONG + number), Pace::Long));
        (0..shorts).for_each(|number| runnable.push(id(number), Pace::Short));
        (0..controls).for_each(|number| runnable.push(id(CONTROL + number), Pace::Control));
        runnable
    }

    fn turn(runnable: &mut Runnable) -> Vec<u32> {
        runnable.begin_turn();
        std::iter::from_fn(|| runnable.next_of_turn()).map(ConnId::slot).collect()
    }

    #[test]
    fn controls_come_first_and_one_long_comes_last() {
        let mut runnable = queued(2, 3, 3);
        assert_eq!(turn(&mut runnable), [100, 101, 0, 1, 2, 200]);
        assert_eq!(turn(&mut runnable), [201]);
        assert_eq!(turn(&mut runnable), [202]);
        assert!(runnable.is_empty());
        assert_eq!(turn(&mut runnable), [0; 0]);
    }

    #[test]
    fn many_controls_leave_the_turn_to_others() {
        let mut runnable = queued(20, 1, 0);
        assert_eq!(turn(&mut runnable), [100, 101, 102, 103, 104, 105, 106, 107, 0]);
        assert_eq!(turn(&mut runnable).len() + turn(&mut runnable).len(), 12);
    }

    #[test]
    fn a_long_comes_behind_every_four_shorts() {
        assert_eq!(turn(&mut queued(0, 9, 9)), [0, 1, 2, 3, 200, 4, 5, 6, 7, 201, 8, 202]);
        assert_eq!(turn(&mut queued(0, 4, 9)), [0, 1, 2, 3, 200, 201]);
        assert_eq!(turn(&mut queued(0, 9, 1)), [0, 1, 2, 3, 200, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_few_that_are_always_runnable_starve_none() {
        let mut runnable = queued(1, 3, 1);
        for _ in 0..10 {
            let served = turn(&mut runnable);
            assert_eq!(served, [100, 0, 1, 2, 200]);
            runnable.push(id(CONTROL), Pace::Control);
            (0..3).for_each(|number| runnable.push(id(number), Pace::Short));
            runnable.push(id(LONG), Pace::Long);
        }
    }

    #[test]
    fn what_is_queued_meanwhile_waits_for_the_next_turn() {
        let mut runnable = queued(1, 1, 0);
        runnable.begin_turn();
        assert_eq!(runnable.next_of_turn(), Some(id(CONTROL)));
        runnable.push(id(CONTROL), Pace::Control);
        assert_eq!(runnable.next_of_turn(), Some(id(0)));
        runnable.push(id(0), Pace::Short);
        assert_eq!(runnable.next_of_turn(), None);
        assert_eq!(turn(&mut runnable), [100, 0]);
    }
}
