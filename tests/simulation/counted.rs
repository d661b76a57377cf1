//! What a process counts is what it has told: each user once, and every byte.

use std::collections::BTreeMap;

use skyorg::base::name::Name;
use skyorg::machine::status::{Figures, Snapshot};
use skyorg::machine::{Fact, Traffic};

/// What was told of the users of each service.
#[derive(Default)]
pub struct Counted {
    told: BTreeMap<Name, Told>,
    /// A service may have gone since, and its counts with it, and may have come again.
    is_reloaded: bool,
}

#[derive(Default)]
struct Told {
    users: u64,
    traffic: Traffic,
}

impl Counted {
    pub fn note(&mut self, fact: &Fact) {
        let (service, traffic) = match fact {
            Fact::UserLeft { service, traffic, .. } => (service, *traffic),
            Fact::UserShed { service: Some(service), .. } => (service, Traffic::default()),
            Fact::SessionEnded { service, traffic, .. } => (service, traffic.mirrored()),
            Fact::Reloaded { .. } | Fact::ClientReloaded { .. } => return self.is_reloaded = true,
            _ => return,
        };
        let told = self.told.entry(service.clone()).or_default();
        told.users += 1;
        told.traffic.received += traffic.received;
        told.traffic.sent += traffic.sent;
    }

    /// All users are gone; a server tells of each of them, a client of those that were served.
    pub fn check(&self, snapshot: &Snapshot, tells_of_all: bool) {
        for service in &snapshot.services {
            let Figures { users, peak, total, traffic, ended, refused, .. } = &service.figures;
            let (name, nobody) = (&service.name, Told::default());
            let told = self.told.get(name).unwrap_or(&nobody);
            let gone: u64 = ended.iter().chain(refused).sum();
            assert_eq!((*users, *total), (0, gone), "{name}: {:?}", service.figures);
            assert!(peak <= total, "{name}: {:?}", service.figures);
            if self.is_reloaded {
                assert!(traffic.received <= told.traffic.received && traffic.sent <= told.traffic.sent);
                continue;
            }
            assert_eq!(*traffic, told.traffic, "{name}: bytes that were told of");
            assert!(*total >= told.users, "{name}: {total} users, and {} were told of", told.users);
            assert!(!tells_of_all || *total == told.users, "{name}: {total}, not {}", told.users);
        }
    }
}
