//! A snapshot in the making. A machine adds a few rows in each turn of the loop, so that nobody waits for somebody who
//! looks: each row is true at one moment, and the whole need not be.

use std::time::Instant;

use super::status::{ServiceStatus, Snapshot};
use crate::base::id::{AccountId, PublicationId};

/// How far a survey has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Services from this slot on, or at the client publications from this number on, are next.
    Service(u32),
    /// Publications behind this one, of the service in this slot, are next.
    Publication(u32, PublicationId),
    /// Links from this slot on are next.
    Link(u32),
    /// Everything is there.
    Over,
}

/// A snapshot in the making; see the module.
#[derive(Debug)]
pub struct Survey {
    /// What is there so far.
    pub snapshot: Snapshot,
    /// What is next.
    pub place: Place,
    /// The time of this turn.
    pub now: Instant,
    /// Where the users of each service are counted.
    accounts: Vec<Option<AccountId>>,
}

impl Survey {
    /// A survey that has seen nothing yet.
    pub fn new(now: Instant) -> Survey {
        Survey { snapshot: Snapshot::default(), place: Place::Service(0), now, accounts: Vec::new() }
    }

    /// So many services are to come. Without room for all they would be moved, and the turn that did it would be long.
    pub fn reserve(&mut self, services: usize) {
        self.snapshot.services.reserve(services);
        self.accounts.reserve(services);
    }

    /// Adds a service, whose users are counted there.
    pub fn add(&mut self, service: ServiceStatus, account: Option<AccountId>) {
        self.snapshot.services.push(service);
        self.accounts.push(account);
    }

    /// The services that were added from this place on, and where their users are counted.
    pub fn added(&mut self, from: usize) -> impl Iterator<Item = (&mut ServiceStatus, AccountId)> {
        let added = self.snapshot.services.iter_mut().zip(&self.accounts).skip(from);
        added.filter_map(|(service, account)| Some((service, (*account)?)))
    }
}
