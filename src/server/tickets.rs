//! Tickets: each admits one message connection of a link, once, for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The tickets of one link.
#[derive(Default)]
pub(super) struct Tickets {
    last: u64,
    /// Issued and neither redeemed nor expired, in order.
    open: VecDeque<(u64, Instant)>,
    /// Expired and not redeemed, in order, and until when each is still good: others were issued in their place, but
    /// their connections may only be late.
    late: VecDeque<(u64, Instant)>,
}

/// What became of a ticket that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redeemed {
    /// It is good.
    InTime,
    /// It is good, and another was issued in its place.
    Late,
    /// It is not good.
    No,
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

    /// Uses a ticket up.
    pub fn redeem(&mut self, ticket: u64) -> Redeemed {
        let take =
            |from: &mut VecDeque<(u64, Instant)>| match from.binary_search_by_key(&ticket, |entry| entry.0) {
                Ok(place) => from.remove(place).is_some(),
                Err(_) => false,
            };
        if take(&mut self.open) {
            Redeemed::InTime
        } else if take(&mut self.late) {
            Redeemed::Late
        } else {
            Redeemed::No
        }
    }

    /// Expires the tickets whose time is over; returns how many. They are good for `rest` more.
    pub fn expire(&mut self, now: Instant, rest: Duration) -> usize {
        let before = self.open.len();
        while let Some(&(ticket, expiry)) = self.open.front().filter(|entry| entry.1 <= now) {
            self.open.pop_front();
            self.late.push_back((ticket, expiry + rest));
        }
        while self.late.front().is_some_and(|entry| entry.1 <= now) {
            self.late.pop_front();
        }
        before - self.open.len()
    }

    /// Takes back consecutive tickets that will not come; returns how many of them counted.
    pub fn void(&mut self, first: u64, count: u32) -> usize {
        let stays = |&(ticket, _): &(u64, Instant)| ticket.wrapping_sub(first) >= count.into();
        let before = self.open.len();
        self.open.retain(stays);
        self.late.retain(stays);
        before - self.open.len()
    }

    /// How many count.
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

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let (now, rest) = (Instant::now(), Duration::from_secs(30));
        let mut tickets = Tickets::default();
        assert_eq!(tickets.issue(3, now + Duration::from_secs(1)), 1);
        assert_eq!(tickets.issue(1, now + Duration::from_secs(2)), 4);
        let redeemed = [2, 2, 5, 0].map(|ticket| tickets.redeem(ticket));
        assert_eq!(redeemed, [Redeemed::InTime, Redeemed::No, Redeemed::No, Redeemed::No]);
        assert_eq!(tickets.outstanding(), 3);
        assert_eq!(tickets.expire(now + Duration::from_secs(1), rest), 2);
        assert_eq!(
            (tickets.outstanding(), tickets.redeem(1), tickets.redeem(1)),
            (1, Redeemed::Late, Redeemed::No)
        );
        assert_eq!(tickets.expire(now + Duration::from_secs(31), rest), 1);
        assert_eq!([3, 4].map(|ticket| tickets.redeem(ticket)), [Redeemed::No, Redeemed::Late]);
    }
}
