//! Which users services take, and how many they have.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::address::Origin;
use crate::base::id::{AccountId, ServiceId};
use crate::base::name::Name;
use crate::config::policy::UserRules;
use crate::machine::{CloseReason, Terms};

/// A service, from its users' side.
struct Entry {
    name: Name,
    /// Where its users are counted.
    account: Option<AccountId>,
    /// What new users must keep to; `None` if the service is gone, and takes none.
    rules: Option<UserRules>,
    users: usize,
    /// How many of them come from each address; counted only where there is a rule about it.
    of_address: HashMap<Origin, usize>,
}

/// All services that take users, and those that are gone and whose last users are about to be.
#[derive(Default)]
pub(super) struct Admission(HashMap<ServiceId, Entry>);

impl Admission {
    /// A service takes users who keep to these rules.
    pub fn add(&mut self, id: ServiceId, name: Name, rules: UserRules, account: Option<AccountId>) {
        let of_address = HashMap::new();
        self.0.insert(id, Entry { name, account, rules: Some(rules), users: 0, of_address });
    }

    /// A service takes no user any more; returns whether it has some.
    pub fn remove(&mut self, id: ServiceId) -> bool {
        let Some(entry) = self.0.get_mut(&id) else { return false };
        entry.rules = None;
        let has_users = entry.users > 0;
        if !has_users {
            self.0.remove(&id);
        }
        has_users
    }

    /// The name of a service, which may be gone, but for its last users.
    pub fn name(&self, id: ServiceId) -> Option<&Name> {
        self.0.get(&id).map(|entry| &entry.name)
    }

    /// How many services there are, and those that are gone and have users.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Where the users of a service are counted.
    pub fn account(&self, id: ServiceId) -> Option<AccountId> {
        self.0.get(&id)?.account
    }

    /// What holds for sessions of a service, whosever rate they share.
    pub fn terms(&self, id: ServiceId) -> Terms {
        let Some(entry) = self.0.get(&id) else { return Terms::default() };
        let idle = entry.rules.as_ref().and_then(|rules| rules.idle);
        Terms { rate: None, idle, account: entry.account }
    }

    /// The rules that users of a service keep to.
    pub fn rules(&self, id: ServiceId) -> Option<&UserRules> {
        self.0.get(&id)?.rules.as_ref()
    }

    /// A user comes to a service from this address; why it may not, if it may not.
    pub fn take(&mut self, id: ServiceId, peer: SocketAddr) -> Result<(), CloseReason> {
        let entry = self.0.get_mut(&id).ok_or(CloseReason::Removed)?;
        let rules = entry.rules.as_ref().ok_or(CloseReason::Removed)?;
        if !rules.from.contains(peer.ip()) {
            return Err(CloseReason::From);
        }
        if rules.users.is_some_and(|most| entry.users >= most) {
            return Err(CloseReason::UsersLimit);
        }
        if let Some(most) = rules.users_per_address {
            let count = entry.of_address.entry(Origin::of(peer)).or_default();
            if *count >= most {
                return Err(CloseReason::AddressLimit);
            }
            *count += 1;
        }
        entry.users += 1;
        Ok(())
    }

    /// A user of a service has left.
    pub fn left(&mut self, id: ServiceId, peer: SocketAddr) {
        let Some(entry) = self.0.get_mut(&id) else { return };
        entry.users -= 1;
        let origin = Origin::of(peer);
        if let Some(count) = entry.of_address.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                entry.of_address.remove(&origin);
            }
        }
        if entry.rules.is_none() && entry.users == 0 {
            self.0.remove(&id);
        }
    }

    /// New users of a service keep to other rules; those that it has come from these addresses.
    pub fn set_rules(&mut self, id: ServiceId, rules: UserRules, peers: impl Iterator<Item = SocketAddr>) {
        let Some(entry) = self.0.get_mut(&id) else { return };
        let counts = rules.users_per_address.is_some();
        let counted = entry.rules.as_ref().is_some_and(|it| it.users_per_address.is_some());
        entry.rules = Some(rules);
        if counts != counted {
            entry.of_address = HashMap::new();
        }
        if counts && !counted {
            for peer in peers {
                *entry.of_address.entry(Origin::of(peer)).or_default() += 1;
            }
        }
    }
}
