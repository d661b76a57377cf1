//! Connections at the control and message ports that are not admitted yet: what each claims to be, and which first
//! flights have been seen before.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::base::id::{ConnId, HolderId, LinkId, kind};
use crate::base::table::Table;

/// First flights of a key that are remembered.
const FLIGHTS_MAX: usize = 256;

/// What a stranger says it is, or has shown to be.
#[derive(Clone)]
pub(super) enum Claim {
    /// Its hello has not been read.
    None,
    /// A client with this key.
    Key(HolderId),
    /// A message connection of this link.
    Link(LinkId),
    /// The same, with a good ticket: it is to be answered.
    Ticket(LinkId),
}

/// At the control or message port, and not admitted yet.
pub(super) struct Stranger {
    pub peer: SocketAddr,
    pub claim: Claim,
}

/// All strangers.
#[derive(Default)]
pub(super) struct Strangers(Table<kind::Connection, Stranger>);

impl Strangers {
    pub fn came(&mut self, id: ConnId, peer: SocketAddr) {
        self.0.insert(id, Stranger { peer, claim: Claim::None });
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Stranger> {
        self.0.get_mut(id)
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Stranger> {
        self.0.remove(id)
    }
}

/// The last first flights of a key's control connections, oldest first.
#[derive(Default)]
pub(super) struct Flights(VecDeque<u64>);

impl Flights {
    /// Notes a verified first flight; false if it was seen before: it is a recording.
    pub fn is_new(&mut self, flight: u64) -> bool {
        if self.0.contains(&flight) {
            return false;
        }
        if self.0.len() == FLIGHTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(flight);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_is_new_once_and_the_last_ones_are_remembered() {
        let mut flights = Flights::default();
        for flight in 0..FLIGHTS_MAX as u64 {
            assert!(flights.is_new(flight) && !flights.is_new(flight));
        }
        assert!(flights.is_new(1_000) && flights.is_new(0), "the oldest is forgotten");
    }
}
