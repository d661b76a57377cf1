//! Message connections of a link on their way: tickets that the server has handed out, and where they are taken.
//!
//! While dials fail, one every half second stands for all, at one address after the other; the control port is one of
//! them, because it admits message connections, too. The first that is proved ends the pause, and its address is used
//! from then on.
//!
//! A dial that is late counts as one that failed, and its ticket is dialled for again: whichever arrives first uses it.
//! The late one goes on until the heartbeat is over, because the line may be that slow.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::address::PackedAddress;
use crate::base::id::LinkId;
use crate::base::round_trip::RoundTrip;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Greeting, Output};

/// A ticket that the server has handed out.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    /// The server takes it no longer than that.
    until: Instant,
}

/// A message connection on its way: where it goes, and what it shows there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    address: PackedAddress,
    ticket: Ticket,
}

/// A dial that has begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    way: Way,
    at: Instant,
    late_at: Instant,
}

/// The message connections of a link that are not proved yet.
pub(super) struct Dials {
    /// Where they are dialled: the address that is tried next comes first.
    addresses: VecDeque<SocketAddr>,
    /// Tickets that wait for the end of the pause, or for their turn; the newest last.
    tickets: VecDeque<Ticket>,
    /// Asked of the reactor and not begun, in that order.
    asked: VecDeque<Way>,
    /// Dialled and not proved, in that order.
    coming: VecDeque<Begun>,
    /// Dialled, not proved and late.
    late: VecDeque<Begun>,
    /// While dials fail: when the next one is made.
    pause: Option<Instant>,
}

impl Dials {
    /// No dials, and these addresses for those to come.
    pub fn new(addresses: impl Iterator<Item = SocketAddr>) -> Dials {
        Dials {
            addresses: addresses.collect(),
            tickets: VecDeque::new(),
            asked: VecDeque::new(),
            coming: VecDeque::new(),
            late: VecDeque::new(),
            pause: None,
        }
    }

    /// Message connections that are on their way or wait to be.
    fn count(&self) -> usize {
        self.tickets.len() + self.asked.len() + self.coming.len() + self.late.len()
    }

    /// When it wants to dial, or to look for dials that are late.
    pub fn due(&self) -> Option<Instant> {
        let retry = self.pause.filter(|_| !self.tickets.is_empty());
        let late = self.coming.front().map(|begun| begun.late_at);
        retry.into_iter().chain(late).min()
    }

    /// These addresses lead there from now on. New ones are tried first; the others keep their turns.
    pub fn lead_to(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses.retain(|address| addresses.contains(address));
        for address in addresses.into_iter().rev() {
            if !self.addresses.contains(&address) {
                self.addresses.push_front(address);
            }
        }
    }

    /// Drops tickets: nothing more is dialled.
    pub fn stop(&mut self) {
        self.tickets.clear();
        self.pause = None;
    }

    /// Takes consecutive tickets, and leaves what is beyond the bounds: beside these there are so many `others`.
    ///
    /// A server that asks for more at once is not cut off: tickets that nobody brings expire, and it asks again.
    pub fn take(
        &mut self,
        (first, count): (u64, u32),
        others: usize,
        round_trip: RoundTrip,
        agenda: &Agenda,
    ) {
        self.drop_expired(agenda);
        let limits = &agenda.limits;
        let room = limits.tickets_max.saturating_sub(self.tickets.len());
        let room = room.min(limits.messages_per_client_max.saturating_sub(others + self.count()));
        let until = agenda.now + round_trip.wait(limits.ticket);
        for index in 0..room.min(count as usize) as u64 {
            self.tickets.push_back(Ticket { number: first.wrapping_add(index), until });
        }
    }

    fn drop_expired(&mut self, agenda: &Agenda) {
        self.tickets.retain(|ticket| ticket.until > agenda.now);
    }

    /// Dials for as many tickets as may be dialled for now.
    pub fn go(&mut self, link: LinkId, greeting: &Greeting, agenda: &mut Agenda) {
        while let Some(&begun) = self.coming.front().filter(|begun| begun.late_at <= agenda.now) {
            self.coming.pop_front();
            self.late.push_back(begun);
            self.try_elsewhere(begun.way, CloseReason::HandshakeTimedOut, agenda);
            self.tickets.push_back(begun.way.ticket);
        }
        self.drop_expired(agenda);
        let most = match self.pause {
            // Those that are proved at the server, and have not heard it, count as well.
            None => agenda.limits.messages_at_once.saturating_sub(self.asked.len() + self.coming.len()),
            Some(at) => usize::from(at <= agenda.now),
        };
        let deadline = agenda.now + agenda.limits.heartbeat;
        for _ in 0..most {
            // The newest is good for longest.
            let ticket =
                if self.pause.is_some() { self.tickets.pop_back() } else { self.tickets.pop_front() };
            let (Some(ticket), Some(&address)) = (ticket, self.addresses.front()) else { return };
            if self.pause.is_some() {
                self.pause = Some(agenda.now + agenda.limits.message_retry);
                self.addresses.rotate_left(1);
            }
            self.asked.push_back(Way { address: address.into(), ticket });
            let greeting = Greeting { ticket: ticket.number, ..greeting.clone() };
            agenda.push(Output::Dial { dial: Dial::Message(link, greeting), address, deadline });
        }
    }

    /// The dial that was asked for first has begun.
    pub fn begun(&mut self, round_trip: RoundTrip, agenda: &Agenda) -> Option<Way> {
        let way = self.asked.pop_front()?;
        // The ones behind it are late no earlier than it.
        let late_at = agenda.now + agenda.limits.late + round_trip.times(4);
        let late_at = self.coming.back().map_or(late_at, |begun| late_at.max(begun.late_at));
        self.coming.push_back(Begun { way, at: agenda.now, late_at });
        Some(way)
    }

    /// A dial is over, well or not: when it had begun, and whether it was late.
    fn is_over(&mut self, way: Way) -> Option<(Instant, bool)> {
        let is_it = |begun: &Begun| begun.way.ticket.number == way.ticket.number;
        if let Some(place) = self.coming.iter().position(is_it) {
            return self.coming.remove(place).map(|begun| (begun.at, false));
        }
        let place = self.late.iter().position(is_it)?;
        self.late.remove(place).map(|begun| (begun.at, true))
    }

    /// A message connection is proved: its address works. Returns when it was dialled.
    pub fn arrived(&mut self, way: Way, agenda: &mut Agenda) -> Option<Instant> {
        let begun = self.is_over(way);
        if begun.is_some_and(|begun| begun.1) {
            self.tickets.retain(|ticket| ticket.number != way.ticket.number);
        }
        let address = way.address.into();
        if self.pause.take().is_some() {
            if let Some(place) =
                self.addresses.iter().position(|&other| PackedAddress::from(other) == way.address)
            {
                self.addresses.rotate_left(place);
            }
            agenda.fact(Fact::MessageArrived { address });
        }
        begun.map(|begun| begun.0)
    }

    /// A message connection could not be made.
    pub fn failed(&mut self, way: Way, reason: CloseReason, agenda: &mut Agenda) {
        if self.is_over(way).is_some_and(|begun| !begun.1) {
            self.try_elsewhere(way, reason, agenda);
            // No server has seen the ticket.
            if let CloseReason::DialFailed(_) = reason {
                self.tickets.push_back(way.ticket);
            }
        }
    }

    /// A dial failed, or is late.
    fn try_elsewhere(&mut self, way: Way, reason: CloseReason, agenda: &mut Agenda) {
        let address = way.address.into();
        agenda.fact(Fact::MessageFailed { address, reason });
        if self.pause.is_none() {
            self.pause = Some(agenda.now + agenda.limits.message_retry);
            if self.addresses.front().is_some_and(|&front| PackedAddress::from(front) == way.address) {
                self.addresses.rotate_left(1);
            }
        }
    }
}
