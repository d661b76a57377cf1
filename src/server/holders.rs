//! Keys, and what each has and may do: its policy, its links, the users of all its publications together.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Instant;

use super::links::Links;
use super::strangers::Flights;
use super::users::Places;
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
    /// Users that have come and wait for a connection of its clients.
    expected: usize,
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

    /// Whether it may have no user that comes now; these places are shared with other keys, if they are.
    fn is_full_for_new(&self, shared: Option<Places>) -> bool {
        let own = self.users + self.expected + 1;
        self.is_full() || shared.is_some_and(|places| places.is_beyond_share(own))
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
    /// Keys that have links.
    linked: usize,
    places: Places,
    /// Keys with many users, a few: they may have been refused some.
    large: Vec<HolderId>,
}

impl Holders {
    pub fn add(&mut self, key: Key, policy: Option<Policy>) {
        let (key_id, name) = (key_id(&key.secret), key.name.clone());
        let (links, flights) = (BTreeSet::new(), Flights::default());
        let holder = Holder {
            key,
            key_id,
            policy,
            links,
            flights,
            users: 0,
            expected: 0,
            hidden: BTreeSet::new(),
            told: None,
        };
        if let Ok(id) = self.slots.insert(holder) {
            self.key_ids.insert(key_id, id);
            self.names.insert(name, id);
        }
    }

    /// A key is good no more; returns the links that are to end.
    pub fn remove(&mut self, name: &Name) -> BTreeSet<LinkId> {
        let Some(id) = self.names.remove(name) else { return BTreeSet::new() };
        let Some(holder) = self.slots.remove(id) else { return BTreeSet::new() };
        self.large.retain(|&large| large != id);
        self.key_ids.remove(&holder.key_id);
        self.linked -= usize::from(!holder.links.is_empty());
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

    /// Why there is no room for one more link of this key beside these, if there is none. A link that drains takes
    /// descriptors, but its client is leaving: for the policy it counts no more.
    pub fn no_room(&self, id: HolderId, links: &Links, limits: &Limits) -> Option<Refusal> {
        let holder = self.get(id)?;
        let (all, own) = (links.count(), holder.links.len());
        let most = holder.policy.as_ref().and_then(|policy| policy.links).unwrap_or(usize::MAX);
        let standing = || holder.links.iter().filter(|&&link| links.may_serve(link)).count();
        let refused = |count: usize, of_key| Some(Refusal::Links { count: count as u32, of_key });
        if all >= limits.links_at_most(links.ports) {
            refused(all, false)
        } else if own >= limits.links_of_key_at_most(self.slots.len(), links.ports) {
            refused(own, true)
        } else if own >= most && standing() >= most {
            refused(standing(), true)
        } else {
            None
        }
    }

    // Users of all links of a key together.

    /// A link of a key came.
    pub fn link_came(&mut self, id: HolderId, link: LinkId) {
        let Some(holder) = self.slots.get_mut(id) else { return };
        self.linked += usize::from(holder.links.is_empty());
        holder.links.insert(link);
    }

    /// A link of a key is gone; returns some of others, if they may have users again.
    pub fn link_gone(&mut self, id: HolderId, link: LinkId) -> Vec<LinkId> {
        let before = self.shared();
        let Some(holder) = self.slots.get_mut(id) else { return Vec::new() };
        holder.hidden.remove(&link);
        if holder.links.remove(&link) && holder.links.is_empty() {
            self.linked -= 1;
        }
        self.freed(before)
    }

    /// So many places are taken now; returns links that may have users again.
    pub fn share(&mut self, places: Places) -> Vec<LinkId> {
        let before = self.shared();
        self.places = places;
        self.freed(before)
    }

    /// Whether several keys share the places for users.
    pub fn are_places_shared(&self) -> bool {
        self.shared().is_some()
    }

    /// Places that several keys share; one alone may have them all.
    fn shared(&self) -> Option<Places> {
        Some(self.places).filter(|_| self.linked > 1)
    }

    /// Some links of keys that have a place for a user, and had none when they shared these.
    fn freed(&mut self, before: Option<Places>) -> Vec<LinkId> {
        let (mut told, shared) = (Vec::new(), self.shared());
        for &id in &self.large {
            if let Some(holder) = self.slots.get_mut(id)
                && holder.is_full_for_new(before)
                && !holder.is_full_for_new(shared)
            {
                told.extend(holder.tell());
            }
        }
        told
    }

    /// The users of a key are more or fewer; returns some of its links, in turn, if there was no place before.
    fn count(&mut self, id: HolderId, change: impl FnOnce(&mut Holder)) -> Vec<LinkId> {
        let shared = self.shared();
        let Some(holder) = self.slots.get_mut(id) else { return Vec::new() };
        let is_full = |holder: &Holder| [holder.is_full(), holder.is_full_for_new(shared)];
        let was_full = is_full(holder);
        change(holder);
        // Half of what is judged: how many places there are changes a little with each link.
        let is_large = holder.users + holder.expected > self.places.most / 8;
        match self.large.iter().position(|&large| large == id) {
            None if is_large => self.large.push(id),
            Some(at) if !is_large => drop(self.large.swap_remove(at)),
            _ => {}
        }
        let has_place = was_full.into_iter().zip(is_full(holder)).any(|(was, is)| was && !is);
        if has_place { holder.tell() } else { Vec::new() }
    }

    /// Whether a key may have no user that comes now.
    pub fn is_full_for_new(&self, id: HolderId) -> bool {
        self.get(id).is_some_and(|holder| holder.is_full_for_new(self.shared()))
    }

    /// Whether a key may have no further user.
    pub fn is_full(&self, id: HolderId) -> bool {
        self.get(id).is_some_and(Holder::is_full)
    }

    /// One more user counts for a key.
    pub fn charge(&mut self, id: HolderId) {
        self.count(id, |holder| holder.users += 1);
    }

    /// A user that has come waits for a connection of a key's clients.
    pub fn expects(&mut self, id: HolderId) {
        self.count(id, |holder| holder.expected += 1);
    }

    /// A user counts for a key no more, or is not expected any more; returns some of its links, in turn, if there was
    /// no place before.
    pub fn release(&mut self, id: HolderId, was_expected: bool) -> Vec<LinkId> {
        self.count(id, |holder| match was_expected {
            true => holder.expected -= 1,
            false => holder.users -= 1,
        })
    }

    /// The holder of a key may do this from now on; returns some of its links, if it has a place for users that it had
    /// not.
    pub fn set_policy(&mut self, id: HolderId, policy: Option<Policy>) -> Vec<LinkId> {
        self.count(id, |holder| holder.policy = policy)
    }

    /// Whether a key may have no further user, `new` or not; then this link of it is passed over until it may.
    pub fn hides(&mut self, id: HolderId, link: LinkId, new: bool) -> bool {
        let shared = self.shared().filter(|_| new);
        self.get_mut(id).filter(|holder| holder.is_full_for_new(shared)).is_some_and(|holder| {
            holder.hidden.insert(link);
            true
        })
    }

    /// The next link of a key that was passed over and need not be any more.
    pub fn next_hidden(&mut self, id: HolderId) -> Option<LinkId> {
        let shared = self.shared();
        self.get_mut(id).filter(|holder| !holder.is_full_for_new(shared))?.hidden.pop_first()
    }
}
