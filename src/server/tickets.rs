//! Tickets: each admits one message connection of a link, once, for a while.
//!
//! Their numbers are consecutive. A client that does not hear the server cannot be asked for message connections. It
//! brings some of its own accord, with the next numbers: those that it was not told of yet, and some *ahead* of the
//! last one issued.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So far may a client run ahead of the last ticket that was issued.
const AHEAD_MAX: u64 = 64;
/// Late tickets that are remembered.
const LATE_MAX: usize = 1_024;

/// A ticket that was handed out.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    issued: Instant,
    /// Until when it is good.
    until: Instant,
}

/// The tickets of one link.
#[derive(Default)]
pub(super) struct Tickets {
    last: u64,
    /// Issued and neither redeemed nor expired, in order.
    open: VecDeque<Ticket>,
    /// Expired or late, and not redeemed, in order: others were issued in their place, but their connections may still
    /// come. Those that a client left out when it ran ahead are here, too.
    late: VecDeque<Ticket>,
    /// Those up to this one have been looked at: whether they are late.
    looked_at: u64,
}

/// What became of a ticket that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redeemed {
    /// It is good, and was issued then.
    InTime(Instant),
    /// It is good, and did not count: another was issued in its place, or it was ahead of all.
    Uncounted,
    /// It is not good.
    No,
}

impl Tickets {
    /// Issues `count` consecutive tickets; returns the first.
    pub fn issue(&mut self, count: usize, issued: Instant, until: Instant) -> u64 {
        let first = self.last + 1;
        for _ in 0..count {
            self.last += 1;
            self.open.push_back(Ticket { number: self.last, issued, until });
        }
        first
    }

    /// Uses a ticket up.
    pub fn redeem(&mut self, ticket: u64) -> Redeemed {
        let take = |from: &mut VecDeque<Ticket>| {
            let place = from.binary_search_by_key(&ticket, |ticket| ticket.number).ok()?;
            from.remove(place)
        };
        match take(&mut self.open) {
            Some(ticket) => Redeemed::InTime(ticket.issued),
            None if take(&mut self.late).is_some() => Redeemed::Uncounted,
            None => Redeemed::No,
        }
    }

    /// Uses up a ticket that is ahead of the last one issued; those between them are good until then. Returns whether
    /// it is ahead, and not too far.
    pub fn run_ahead(&mut self, ticket: u64, now: Instant, until: Instant) -> bool {
        if ticket <= self.last || ticket - self.last > AHEAD_MAX {
            return false;
        }
        self.late.extend((self.last + 1..ticket).map(|number| Ticket { number, issued: now, until }));
        self.late.drain(..self.late.len().saturating_sub(LATE_MAX));
        self.last = ticket;
        true
    }

    /// Expires the tickets whose time is over; returns how many. They are good for `rest` more.
    pub fn expire(&mut self, now: Instant, rest: Duration) -> usize {
        let before = self.open.len();
        while self.open.front().is_some_and(|ticket| ticket.until <= now) {
            let Some(ticket) = self.open.pop_front() else { break };
            self.note_late(ticket, rest);
        }
        while self.late.front().is_some_and(|ticket| ticket.until <= now) {
            self.late.pop_front();
        }
        before - self.open.len()
    }

    /// Those that were issued may be lost on their way to the client: none of them counts any more. They are good for
    /// `rest` more, and those that were late are not: however often that happens, few are good. Returns how many.
    pub fn let_go(&mut self, rest: Duration) -> usize {
        let open = self.open.drain(..);
        self.late = open.map(|ticket| Ticket { until: ticket.until + rest, ..ticket }).collect();
        self.late.len()
    }

    fn note_late(&mut self, ticket: Ticket, rest: Duration) {
        let place = self.late.partition_point(|other| other.number < ticket.number);
        self.late.insert(place, Ticket { until: ticket.until + rest, ..ticket });
    }

    /// Looks once at each ticket issued by `issued_by`, which is late. `lets_go` is told when it was issued: if it says
    /// so, the ticket counts no more, and is good for `rest` more.
    pub fn look_at_late(
        &mut self,
        issued_by: Instant,
        rest: Duration,
        mut lets_go: impl FnMut(Instant) -> bool,
    ) {
        let mut place = self.open.partition_point(|ticket| ticket.number <= self.looked_at);
        while let Some(&ticket) = self.open.get(place).filter(|ticket| ticket.issued <= issued_by) {
            self.looked_at = ticket.number;
            if lets_go(ticket.issued) {
                self.open.remove(place);
                self.note_late(ticket, rest);
            } else {
                place += 1;
            }
        }
    }

    /// When the first ticket was issued that was not looked at.
    pub fn first_not_looked_at(&self) -> Option<Instant> {
        let place = self.open.partition_point(|ticket| ticket.number <= self.looked_at);
        self.open.get(place).map(|ticket| ticket.issued)
    }

    /// Takes back consecutive tickets that will not come; returns how many of them counted.
    pub fn void(&mut self, first: u64, count: u32) -> usize {
        let stays = |ticket: &Ticket| ticket.number.wrapping_sub(first) >= count.into();
        let before = self.open.len();
        self.open.retain(stays);
        self.late.retain(stays);
        before - self.open.len()
    }

    /// When the oldest that counts was issued.
    pub fn oldest(&self) -> Option<Instant> {
        self.open.front().map(|ticket| ticket.issued)
    }

    /// How many count.
    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// When the next one expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.open.front().map(|ticket| ticket.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let (now, rest) = (Instant::now(), Duration::from_secs(30));
        let mut tickets = Tickets::default();
        assert_eq!(tickets.issue(3, now, now + Duration::from_secs(1)), 1);
        assert_eq!(tickets.issue(1, now, now + Duration::from_secs(2)), 4);
        let redeemed = [2, 2, 5, 0].map(|ticket| tickets.redeem(ticket));
        assert_eq!(redeemed, [Redeemed::InTime(now), Redeemed::No, Redeemed::No, Redeemed::No]);
        assert_eq!(tickets.outstanding(), 3);
        assert_eq!(tickets.expire(now + Duration::from_secs(1), rest), 2);
        assert_eq!(
            (tickets.outstanding(), tickets.redeem(1), tickets.redeem(1)),
            (1, Redeemed::Uncounted, Redeemed::No)
        );
        assert_eq!(tickets.expire(now + Duration::from_secs(31), rest), 1);
        assert_eq!([3, 4].map(|ticket| tickets.redeem(ticket)), [Redeemed::No, Redeemed::Uncounted]);
    }

    #[test]
    fn late_tickets_stay_good_in_whatever_order_they_were_given_up() {
        let (now, rest) = (Instant::now(), Duration::from_secs(30));
        let until = now + Duration::from_secs(10);
        let mut tickets = Tickets::default();
        tickets.issue(4, now, until);
        let mut turns = [false, true, false, true].into_iter();
        tickets.look_at_late(now, rest, |_| turns.next().unwrap_or(false));
        assert_eq!((tickets.outstanding(), tickets.first_not_looked_at()), (2, None));
        tickets.look_at_late(now, rest, |_| unreachable!("each is looked at once"));
        assert_eq!(tickets.expire(until, rest), 2);
        assert_eq!([1, 2, 3, 4].map(|ticket| tickets.redeem(ticket)), [Redeemed::Uncounted; 4]);
    }

    #[test]
    fn those_that_may_be_lost_stay_good_until_others_may_be() {
        let (now, rest) = (Instant::now(), Duration::from_secs(30));
        let mut tickets = Tickets::default();
        tickets.issue(2, now, now);
        assert_eq!((tickets.let_go(rest), tickets.outstanding()), (2, 0));
        assert_eq!(tickets.issue(1, now, now), 3, "the numbers go on");
        assert_eq!(tickets.redeem(1), Redeemed::Uncounted);
        assert_eq!((tickets.let_go(rest), tickets.outstanding()), (1, 0));
        assert_eq!([2, 3].map(|ticket| tickets.redeem(ticket)), [Redeemed::No, Redeemed::Uncounted]);
    }

    #[test]
    fn a_number_ahead_is_good_once_and_not_too_far_and_those_before_it_too() {
        let now = Instant::now();
        let until = now + Duration::from_secs(30);
        let mut tickets = Tickets::default();
        tickets.issue(2, now, until);
        let ahead = [2, 3 + AHEAD_MAX, 0, 5, 5].map(|ticket| tickets.run_ahead(ticket, now, until));
        assert_eq!(ahead, [false, false, false, true, false]);
        assert_eq!((tickets.outstanding(), tickets.redeem(5)), (2, Redeemed::No));
        assert_eq!([4, 4].map(|ticket| tickets.redeem(ticket)), [Redeemed::Uncounted, Redeemed::No]);
        assert_eq!(tickets.issue(1, now, until), 6, "those that follow begin behind it");
        tickets.expire(until, Duration::ZERO);
        assert_eq!(tickets.redeem(3), Redeemed::No);
    }

    #[test]
    fn those_left_out_by_a_client_that_runs_ahead_for_ever_are_few() {
        let now = Instant::now();
        let mut tickets = Tickets::default();
        for round in 1..1_000 {
            assert!(tickets.run_ahead(round * AHEAD_MAX, now, now));
        }
        assert_eq!(tickets.late.len(), LATE_MAX);
    }
}
