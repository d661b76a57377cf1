//! Keys, and what each has and may do: its policy, its links, the users of all its publications together.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Instant;

use super::strangers::Flights;
use crate::base::clocks::Clocks;
use crate::base::id::{HolderId, LinkId, kind};
use crate::base::name::Name;
use crate::base::slots::Slots;
use crate::config::Key;
use crate::config::limits::Limits;
use crate::config::policy::Policy;
use crate::wire::control::Refusal;
use crate::wire::handshake::{KeyId, key_id};

/// Links of a key that are told of one free place for a user.
const TOLD_MAX: usize = 8;

/// Whoever holds a key: all its clients.
pub(super) struct Holder {
    pub key: Key,
    /// What follows from its secret.
    pub key_id: KeyId,
    /// What it may do; `None`: nothing.
    pub policy: Option<Policy>,
    pub links: BTreeSet<LinkId>,
    pub flights: Flights,
    /// Users that its clients serve, or were offered.
    users: usize,
    /// Links that were passed over by a user because the key had no place for it. Their services do not list them as
    /// ready until there is one.
    hidden: BTreeSet<LinkId>,
    /// The link that was last told of a free place.
    told: Option<LinkId>,
}

impl Holder {
    /// When it may do nothing any more.
    pub fn expires(&self, clocks: Clocks) -> Option<Instant> {
        clocks.when(self.policy.as_ref()?.expires?)
    }

    /// Why its client may not be linked from this address, if it may not.
    pub fn refusal(&self, peer: SocketAddr, clocks: Clocks, now: Instant) -> Option<Refusal> {
        match &self.policy {
            None => Some(Refusal::Policy),
            Some(policy) if !policy.from.contains(peer.ip()) => Some(Refusal::From),
            Some(_) => self.expires(clocks).filter(|&at| at <= now).map(|_| Refusal::Expired),
        }
    }

    /// Whether it may serve a service that the server declares.
    pub fn may_serve(&self, service: &Name) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.services.contain(service))
    }

    fn is_full(&self) -> bool {
        let most = self.policy.as_ref().and_then(|policy| policy.users);
        most.is_some_and(|most| self.users >= most)
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
        self.hidden.remove(&link);
    }

    /// Some of its links, which are told of a free place: those that were passed over first.
    fn tell(&mut self) -> Vec<LinkId> {
        let mut told: Vec<LinkId> = (0..TOLD_MAX).map_while(|_| self.hidden.pop_first()).collect();
        let behind = (self.told.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let circle = self.links.range(behind).chain(&self.links).take(self.links.len());
        told.extend(circle.take(TOLD_MAX - told.len()));
        self.told = told.last().copied();
        told
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Holders {
    slots: Slots<kind::Holder, Holder>,
    key_ids: HashMap<KeyId, HolderId>,
    names: HashMap<Name, HolderId>,
}

impl Holders {
    pub fn add(&mut self, key: Key, policy: Option<Policy>) {
        let (key_id, name) = (key_id(&key.secret), key.name.clone());
        let (links, flights) = (BTreeSet::new(), Flights::default());
        let holder =
            Holder { key, key_id, policy, links, flights, users: 0, hidden: BTreeSet::new(), told: None };
        if let Ok(id) = self.slots.insert(holder) {
            self.key_ids.insert(key_id, id);
            self.names.insert(name, id);
        }
    }

    /// A key is good no more; returns the links that are to end.
    pub fn remove(&mut self, name: &Name) -> BTreeSet<LinkId> {
        let Some(holder) = self.names.remove(name).and_then(|id| self.slots.remove(id)) else {
            return BTreeSet::new();
        };
        self.key_ids.remove(&holder.key_id);
        holder.links
    }

    pub fn get(&self, id: HolderId) -> Option<&Holder> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: HolderId) -> Option<&mut Holder> {
        self.slots.get_mut(id)
    }

    /// The key that a hello names.
    pub fn of_key_id(&self, key_id: &KeyId) -> Option<HolderId> {
        self.key_ids.get(key_id).copied()
    }

    pub fn of_name(&self, name: &Name) -> Option<HolderId> {
        self.names.get(name).copied()
    }

    /// Why there is no room for one more link of this key, beside so many links of all keys and so many ports that
    /// they asked for, if there is none.
    pub fn no_room(&self, id: HolderId, (links, ports): (usize, usize), limits: &Limits) -> Option<Refusal> {
        let holder = self.get(id)?;
        let own = holder.links.len();
        let most = holder.policy.as_ref().and_then(|policy| policy.links).unwrap_or(usize::MAX);
        if links >= limits.links_at_most(ports) {
            Some(Refusal::Links { count: links as u32, of_key: false })
        } else if own >= limits.links_of_key_at_most(self.slots.len(), ports).min(most) {
            Some(Refusal::Links { count: own as u32, of_key: true })
        } else {
            None
        }
    }

    // Users of all links of a key together.

    /// Whether a key may have no further user.
    pub fn is_full(&self, id: HolderId) -> bool {
        self.get(id).is_some_and(Holder::is_full)
    }

    /// One more user counts for a key.
    pub fn charge(&mut self, id: HolderId) {
        if let Some(holder) = self.get_mut(id) {
            holder.users += 1;
        }
    }

    /// A user counts for a key no more; returns some of its links, in turn, if there was no place before.
    pub fn release(&mut self, id: HolderId) -> Vec<LinkId> {
        let Some(holder) = self.get_mut(id) else { return Vec::new() };
        let was_full = holder.is_full();
        holder.users -= 1;
        if was_full && !holder.is_full() { holder.tell() } else { Vec::new() }
    }

    /// The holder of a key may do this from now on; returns some of its links, if it has a place for users that it had
    /// not.
    pub fn set_policy(&mut self, id: HolderId, policy: Option<Policy>) -> Vec<LinkId> {
        let Some(holder) = self.get_mut(id) else { return Vec::new() };
        let was_full = holder.is_full();
        holder.policy = policy;
        if was_full && !holder.is_full() { holder.tell() } else { Vec::new() }
    }

    /// Whether a key may have no further user; then this link of it is passed over until it may.
    pub fn hides(&mut self, id: HolderId, link: LinkId) -> bool {
        self.get_mut(id).filter(|holder| holder.is_full()).is_some_and(|holder| {
            holder.hidden.insert(link);
            true
        })
    }

    /// The next link of a key that was passed over and need not be any more.
    pub fn next_hidden(&mut self, id: HolderId) -> Option<LinkId> {
        self.get_mut(id).filter(|holder| !holder.is_full())?.hidden.pop_first()
    }
}
