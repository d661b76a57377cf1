//! Connections at the control and message ports that are not admitted yet: what each claims to be, and which first
//! flights have been seen before.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use crate::base::id::{ConnId, LinkId, kind};
use crate::base::name::Name;
use crate::base::table::Table;

/// First flights of a key that are remembered.
const FLIGHTS_MAX: usize = 256;

/// What a stranger says it is, or has shown to be.
#[derive(Clone)]
pub(super) enum Claim {
    /// Its hello has not been read.
    None,
    /// A client with this key.
    Key(Name),
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
pub(super) struct Strangers {
    table: Table<kind::Connection, Stranger>,
    /// The last first flights of each key's control connections, oldest first.
    flights: HashMap<Name, VecDeque<u64>>,
}

impl Strangers {
    pub fn came(&mut self, id: ConnId, peer: SocketAddr) {
        self.table.insert(id, Stranger { peer, claim: Claim::None });
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Stranger> {
        self.table.get_mut(id)
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Stranger> {
        self.table.remove(id)
    }

    /// Notes a verified first flight of a key; false if it was seen before: it is a recording.
    pub fn is_new(&mut self, key: &Name, flight: u64) -> bool {
        let seen = self.flights.entry(key.clone()).or_default();
        if seen.contains(&flight) {
            return false;
        }
        if seen.len() == FLIGHTS_MAX {
            seen.pop_front();
        }
        seen.push_back(flight);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_is_new_once_and_the_last_ones_are_remembered() {
        let (mut strangers, office): (_, Name) = (Strangers::default(), "office".parse().expect("a name"));
        for flight in 0..FLIGHTS_MAX as u64 {
            assert!(strangers.is_new(&office, flight) && !strangers.is_new(&office, flight));
        }
        assert!(strangers.is_new(&"home".parse().expect("a name"), 0), "each key has its own");
        assert!(!strangers.is_new(&office, 0));
        assert!(strangers.is_new(&office, 1_000) && strangers.is_new(&office, 0), "the oldest is forgotten");
    }
}
