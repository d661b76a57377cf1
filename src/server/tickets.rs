//! Tickets: each admits one message connection of a link, once, for a while.

use std::collections::VecDeque;
use std::time::Instant;

/// The tickets of one link.
#[derive(Default)]
pub(super) struct Tickets {
    last: u64,
    /// Issued and neither redeemed nor expired, in order.
    open: VecDeque<(u64, Instant)>,
}

impl Tickets {
    /// Issues `count` consecutive tickets; returns the first.
    pub fn issue(&mut self, count: usize, expiry: Instant) -> u64 {
        let first = self.last + 1;
        for _ in 0..count {
            self.last += 1;
            self.open.push_back((self.last, expiry));
        }
        first
    }

    /// Uses a ticket up; false if it is not good.
    pub fn redeem(&mut self, ticket: u64) -> bool {
        match self.open.binary_search_by_key(&ticket, |entry| entry.0) {
            Ok(place) => self.open.remove(place).is_some(),
            Err(_) => false,
        }
    }

    /// Drops the tickets whose time is over; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let before = self.open.len();
        while self.open.front().is_some_and(|entry| entry.1 <= now) {
            self.open.pop_front();
        }
        before - self.open.len()
    }

    /// How many are good.
    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.open.front().map(|entry| entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let now = Instant::now();
        let mut tickets = Tickets::default();
        assert_eq!(tickets.issue(3, now + Duration::from_secs(1)), 1);
        assert_eq!(tickets.issue(1, now + Duration::from_secs(2)), 4);
        assert!(tickets.redeem(2) && !tickets.redeem(2) && !tickets.redeem(5) && !tickets.redeem(0));
        assert_eq!(tickets.outstanding(), 3);
        assert_eq!(tickets.expire(now + Duration::from_secs(1)), 2);
        assert!(!tickets.redeem(1) && !tickets.redeem(3) && tickets.redeem(4));
    }
}
