//! Answers to control pings. A `Pong` is a fence: it leaves after each `Start` that could be read when the `Ping` was
//! read has been read, and its `Accepted` written. So who has it, and no `Accepted`, knows that something is wrong with
//! that message connection.
//!
//! What could be read is known after the next poll, is read in the turn that follows, and is answered in the turn after
//! that. A connection that has much to do takes a few turns more; its session is then taken for late, which costs an
//! offer and nothing else.

use std::collections::VecDeque;

use crate::base::id::ConnId;

/// Turns from the one in which a ping is read to the one at whose end it is answered.
const TURNS: u32 = 2;

/// Control connections that owe an answer.
#[derive(Default)]
pub(super) struct Fence {
    turn: u32,
    /// Each with the turn at whose end it is answered, in order.
    owed: VecDeque<(u32, ConnId)>,
}

impl Fence {
    /// A ping was read on this connection.
    pub fn pinged(&mut self, id: ConnId) {
        self.owed.push_back((self.turn.wrapping_add(TURNS), id));
    }

    /// Whether turns are waited for.
    pub fn is_waiting(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The turn ends. What may be answered now is [`Fence::next`].
    pub fn end_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// The next connection on which a ping is answered.
    pub fn next(&mut self) -> Option<ConnId> {
        let ended = self.turn.wrapping_sub(1);
        self.owed.front().filter(|entry| entry.0 == ended)?;
        self.owed.pop_front().map(|entry| entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_answered_at_the_end_of_the_second_turn_after_its_own() {
        let [one, other] = [1, 2].map(|slot| ConnId::new(slot, 1).expect("it can be named"));
        let mut fence = Fence { turn: u32::MAX, ..Fence::default() };
        fence.pinged(one);
        let mut answered = Vec::new();
        for _ in 0..4 {
            fence.end_turn();
            answered.push(std::iter::from_fn(|| fence.next()).collect::<Vec<_>>());
            if answered.len() == 1 {
                fence.pinged(other);
            }
        }
        assert_eq!(answered, [vec![], vec![], vec![one], vec![other]]);
        assert!(!fence.is_waiting());
    }
}
