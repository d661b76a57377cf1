//! Which users services take, and whom they have.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use crate::base::address::Origin;
use crate::base::id::{ConnId, ServiceId};
use crate::base::name::Name;
use crate::config::policy::UserRules;
use crate::machine::CloseReason;

/// A service, from its users' side.
struct Entry {
    name: Name,
    /// What new users must keep to; `None` if the service is gone, and takes none.
    rules: Option<UserRules>,
    users: HashSet<ConnId>,
    /// How many of them come from each address; counted only where there is a rule about it.
    of_address: HashMap<Origin, usize>,
}

/// All services that take users, and those that are gone and whose last users are about to be.
#[derive(Default)]
pub(super) struct Admission(HashMap<ServiceId, Entry>);

impl Admission {
    /// A service takes users who keep to these rules.
    pub fn add(&mut self, id: ServiceId, name: Name, rules: UserRules) {
        let (users, of_address) = (HashSet::new(), HashMap::new());
        self.0.insert(id, Entry { name, rules: Some(rules), users, of_address });
    }

    /// A service takes no user any more; returns those that it has.
    pub fn remove(&mut self, id: ServiceId) -> Vec<ConnId> {
        let Some(entry) = self.0.get_mut(&id) else { return Vec::new() };
        entry.rules = None;
        let users = self.users(id);
        if users.is_empty() {
            self.0.remove(&id);
        }
        users
    }

    /// The users of a service, the oldest first.
    pub fn users(&self, id: ServiceId) -> Vec<ConnId> {
        let mut users: Vec<ConnId> =
            self.0.get(&id).into_iter().flat_map(|it| it.users.iter().copied()).collect();
        users.sort_unstable_by_key(|id| id.serial());
        users
    }

    /// The name of a service, which may be gone, but for its last users.
    pub fn name(&self, id: ServiceId) -> Option<&Name> {
        self.0.get(&id).map(|entry| &entry.name)
    }

    /// The rules that users of a service keep to.
    pub fn rules(&self, id: ServiceId) -> Option<&UserRules> {
        self.0.get(&id)?.rules.as_ref()
    }

    /// A user comes to a service from this address; why it may not, if it may not.
    pub fn take(&mut self, id: ServiceId, user: ConnId, peer: SocketAddr) -> Result<(), CloseReason> {
        let entry = self.0.get_mut(&id).ok_or(CloseReason::Removed)?;
        let rules = entry.rules.as_ref().ok_or(CloseReason::Removed)?;
        if !rules.from.contains(peer.ip()) {
            return Err(CloseReason::From);
        }
        if rules.users.is_some_and(|most| entry.users.len() >= most) {
            return Err(CloseReason::UsersLimit);
        }
        if let Some(most) = rules.users_per_address {
            let count = entry.of_address.entry(Origin::of(peer)).or_default();
            if *count >= most {
                return Err(CloseReason::AddressLimit);
            }
            *count += 1;
        }
        entry.users.insert(user);
        Ok(())
    }

    /// A user of a service has left.
    pub fn left(&mut self, id: ServiceId, user: ConnId, peer: SocketAddr) {
        let Some(entry) = self.0.get_mut(&id) else { return };
        if !entry.users.remove(&user) {
            return;
        }
        let origin = Origin::of(peer);
        if let Some(count) = entry.of_address.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                entry.of_address.remove(&origin);
            }
        }
        shrink(&mut entry.users);
        if entry.rules.is_none() && entry.users.is_empty() {
            self.0.remove(&id);
        }
    }

    /// New users of a service keep to other rules. `peer` says where a user comes from.
    pub fn set_rules(
        &mut self,
        id: ServiceId,
        rules: UserRules,
        peer: impl Fn(ConnId) -> Option<SocketAddr>,
    ) {
        let Some(entry) = self.0.get_mut(&id) else { return };
        let counts = rules.users_per_address.is_some();
        let counted = entry.rules.as_ref().is_some_and(|it| it.users_per_address.is_some());
        entry.rules = Some(rules);
        if counts != counted {
            entry.of_address = HashMap::new();
        }
        if counts && !counted {
            for peer in entry.users.iter().filter_map(|&user| peer(user)) {
                *entry.of_address.entry(Origin::of(peer)).or_default() += 1;
            }
        }
    }
}

/// What a burst needed is given back once most of it has left.
fn shrink(users: &mut HashSet<ConnId>) {
    const KEPT: usize = 64;
    if users.capacity() > KEPT && users.len() < users.capacity() / 8 {
        users.shrink_to((2 * users.len()).max(KEPT));
    }
}
