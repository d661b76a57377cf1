//! Ports that clients have asked for: who has which, and how long they are kept while no client is there.
//!
//! A grant belongs to a key and the name of a publication, whichever client comes with them, and has a service of its
//! own. Its ports are taken from the moment at which it is made until it is removed. So two grants never have a port in
//! common, and none has one of the server itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::permitted::{Permitted, Place, place_of};
use crate::base::address::Listen;
use crate::base::deadlines::Deadlines;
use crate::base::id::{AskId, ServiceId, kind};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::base::sorted::Set;
use crate::base::table::Table;
use crate::wire::control::{ADDRESSES_MAX, GrantedAddress};

/// The last place in the order of places.
const LAST_PLACE: Place = Some(IpAddr::V6(Ipv6Addr::new(!0, !0, !0, !0, !0, !0, !0, !0)));

/// To whom ports belong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub key: Name,
    pub publication: Name,
}

/// Where a grant stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Listeners were asked for, and of so many it is not known what becomes of them.
    Opening(usize),
    /// It listens. Without members it does so for a client that is away.
    Open,
    /// It does not listen: its client has said that it leaves.
    Kept,
}

impl State {
    fn is_opening(self) -> bool {
        matches!(self, State::Opening(_))
    }
}

/// Ports that belong to somebody.
#[derive(Debug)]
pub(super) struct Grant {
    pub owner: Owner,
    pub ports: Ports,
    pub places: Vec<Place>,
    pub state: State,
    /// Those who serve it, or will once it is open; the oldest first.
    pub members: Vec<AskId>,
}

impl Grant {
    /// How many listeners it takes.
    pub fn count(&self) -> usize {
        self.ports.count() * self.places.len()
    }

    /// How many listeners it has.
    pub fn listening(&self) -> usize {
        if self.state == State::Kept { 0 } else { self.count() }
    }

    /// Where its users connect, as its clients are told; the system gave its listeners these addresses.
    pub fn granted(&self, addresses: &[SocketAddr]) -> Vec<GrantedAddress> {
        // The first listener of each place says how the system names it.
        let firsts = addresses.iter().step_by(self.ports.count()).take(ADDRESSES_MAX);
        firsts.map(|address| GrantedAddress { ip: address.ip(), ports: self.ports }).collect()
    }

    /// Where it listens: all ports of one place, then those of the next.
    pub fn addresses(&self) -> impl Iterator<Item = Listen> {
        addresses(self.ports, &self.places)
    }
}

/// All of these ports at the first of these places, then at the next.
pub(super) fn addresses(ports: Ports, places: &[Place]) -> impl Iterator<Item = Listen> {
    places.iter().flat_map(move |&place| {
        ports.iter().map(move |port| place.map_or(Listen::Any(port), |ip| Listen::At((ip, port).into())))
    })
}

/// Who has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The server itself: a service that it declares, or clients' connections.
    Ours,
    /// The grant with this service.
    Grant(ServiceId),
}

/// All grants.
#[derive(Default)]
pub(super) struct Grants {
    table: Table<kind::Service, Grant>,
    of_owner: HashMap<Owner, ServiceId>,
    taken: BTreeMap<(u16, Place), Holder>,
    /// The server's own, also where a grant had one before.
    ours: HashSet<(u16, Place)>,
    /// How often something may have become free.
    freed: u64,
    /// When those are freed that have no members.
    kept_until: Deadlines<kind::Service>,
    /// How many are opening.
    opening: usize,
}

impl Grants {
    /// Notes which addresses are the server's own from now on. Grants that have one keep it.
    pub fn set_ours(&mut self, ours: impl Iterator<Item = Listen>) {
        self.freed += 1;
        for at in self.ours.drain() {
            if self.taken.get(&at) == Some(&Holder::Ours) {
                self.taken.remove(&at);
            }
        }
        self.reserve(ours);
    }

    /// Nobody gets these addresses any more, until it is said anew which are the server's own.
    pub fn reserve(&mut self, ours: impl Iterator<Item = Listen>) {
        // The system chooses where port 0 is.
        for listen in ours.filter(|listen| listen.port() != 0) {
            let at = (listen.port(), place_of(listen));
            self.ours.insert(at);
            self.taken.entry(at).or_insert(Holder::Ours);
        }
    }

    /// Changes whenever a port may have become free for somebody.
    pub fn freed(&self) -> u64 {
        self.freed
    }

    pub fn get(&self, id: ServiceId) -> Option<&Grant> {
        self.table.get(id)
    }

    pub fn get_mut(&mut self, id: ServiceId) -> Option<&mut Grant> {
        self.table.get_mut(id)
    }

    /// Moves a grant from one state to another.
    pub fn set_state(&mut self, id: ServiceId, state: State) {
        let Some(grant) = self.table.get_mut(id) else { return };
        let was = std::mem::replace(&mut grant.state, state);
        self.opening += usize::from(state.is_opening());
        self.opening -= usize::from(was.is_opening());
    }

    /// Whether some are opening.
    pub fn are_opening(&self) -> bool {
        self.opening > 0
    }

    pub fn of(&self, owner: &Owner) -> Option<ServiceId> {
        self.of_owner.get(owner).copied()
    }

    pub fn ids(&self) -> Vec<ServiceId> {
        self.table.iter().map(|(id, _)| id).collect()
    }

    /// Those of a key.
    pub fn of_key(&self, key: &Name) -> Vec<ServiceId> {
        self.table.iter().filter(|(_, grant)| grant.owner.key == *key).map(|(id, _)| id).collect()
    }

    /// Those with an address that the server has for itself by now.
    pub fn in_the_way(&self) -> Set<ServiceId> {
        let holders = self.ours.iter().flat_map(|&(port, at)| self.holders(Ports::one(port), [at]));
        let grants = holders.filter_map(|holder| match holder {
            Holder::Ours => None,
            Holder::Grant(id) => Some(id),
        });
        grants.collect()
    }

    /// Who has some of these ports at one of these places.
    pub fn holders<'g>(
        &'g self,
        ports: Ports,
        places: impl AsRef<[Place]> + 'g,
    ) -> impl Iterator<Item = Holder> + 'g {
        let all = (ports.first, None)..=(ports.last, LAST_PLACE);
        let overlaps = move |at: Place| {
            at.is_none() || places.as_ref().iter().any(|place| place.is_none() || *place == at)
        };
        self.taken.range(all).filter(move |((_, at), _)| overlaps(*at)).map(|(_, holder)| *holder)
    }

    /// The first port of an order that nobody has at the places where it is permitted, but for grants that may be
    /// dropped.
    pub fn first(
        &self,
        order: &[Ports],
        permitted: &Permitted,
        may_be_dropped: impl Fn(&Grant) -> bool,
    ) -> Option<(u16, Vec<Place>)> {
        let blocks = |holder: Holder| match holder {
            Holder::Ours => true,
            Holder::Grant(id) => !self.table.get(id).is_some_and(&may_be_dropped),
        };
        for ports in order {
            let mut taken = self.taken.range((ports.first, None)..=(ports.last, LAST_PLACE)).peekable();
            for port in ports.iter() {
                let (mut is_taken, mut everywhere) = (false, false);
                while let Some(((_, at), &holder)) = taken.next_if(|((of, _), _)| *of == port) {
                    let blocks = blocks(holder);
                    is_taken |= blocks;
                    everywhere |= blocks && at.is_none();
                }
                if everywhere {
                    continue;
                }
                let places = permitted.places(Ports::one(port));
                if !is_taken || !self.holders(Ports::one(port), &places).any(blocks) {
                    return Some((port, places));
                }
            }
        }
        None
    }

    /// Adds a grant that is opening; its ports are nobody's.
    pub fn add(&mut self, id: ServiceId, owner: Owner, ports: Ports, places: Vec<Place>) {
        self.take(id, ports, &places);
        self.of_owner.insert(owner.clone(), id);
        let (members, state) = (Vec::new(), State::Opening(0));
        self.opening += 1;
        self.table.insert(id, Grant { owner, ports, places, state, members });
    }

    /// A grant has other ports than before, or has them at other places.
    pub fn change(&mut self, id: ServiceId, ports: Ports, places: Vec<Place>) {
        let Some(grant) = self.table.get_mut(id) else { return };
        let (old_ports, old_places) = (
            std::mem::replace(&mut grant.ports, ports),
            std::mem::replace(&mut grant.places, places.clone()),
        );
        self.give_back(old_ports, &old_places);
        self.take(id, ports, &places);
    }

    pub fn remove(&mut self, id: ServiceId) -> Option<Grant> {
        let grant = self.table.remove(id)?;
        self.opening -= usize::from(grant.state.is_opening());
        self.give_back(grant.ports, &grant.places);
        self.of_owner.remove(&grant.owner);
        self.kept_until.set(id, None);
        Some(grant)
    }

    /// Until when a grant without members stays; `None` for one that has some.
    pub fn keep_until(&mut self, id: ServiceId, until: Option<Instant>) {
        self.kept_until.set(id, until);
        self.freed += 1;
    }

    /// Until when a grant stays that has no members.
    pub fn kept_until(&self, grant: &Grant) -> Option<Instant> {
        self.kept_until.get(self.of(&grant.owner)?)
    }

    /// When a grant's time is over next.
    pub fn next_due(&self) -> Option<Instant> {
        self.kept_until.next()
    }

    /// A grant whose time is over.
    pub fn pop_due(&mut self, now: Instant) -> Option<ServiceId> {
        self.kept_until.pop_due(now)
    }

    fn take(&mut self, id: ServiceId, ports: Ports, places: &[Place]) {
        for port in ports.iter() {
            self.taken.extend(places.iter().map(|&place| ((port, place), Holder::Grant(id))));
        }
    }

    fn give_back(&mut self, ports: Ports, places: &[Place]) {
        self.freed += 1;
        for port in ports.iter() {
            for at in places.iter().map(|&place| (port, place)) {
                if self.ours.contains(&at) {
                    self.taken.insert(at, Holder::Ours);
                } else {
                    self.taken.remove(&at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy::PortRules;
    use std::time::Duration;

    fn ports(text: &str) -> Ports {
        text.parse().expect("ports")
    }

    fn owner(publication: &str) -> Owner {
        Owner { key: "office".parse().expect("a name"), publication: publication.parse().expect("a name") }
    }

    fn at(ip: &str) -> Place {
        Some(ip.parse().expect("an address"))
    }

    fn id(slot: u32) -> ServiceId {
        ServiceId::new(slot, 1).expect("it can be named")
    }

    fn permitted(texts: &[&str]) -> Permitted {
        let rules = texts.iter().map(|text| text.parse().expect("ports")).collect();
        Permitted::new(&PortRules::These(rules), None)
    }

    fn holders(grants: &Grants, of: &str, places: &[Place]) -> Vec<Holder> {
        grants.holders(ports(of), places).collect()
    }

    #[test]
    fn a_port_is_taken_at_its_own_places_and_a_wildcard_is_all_of_them() {
        let mut grants = Grants::default();
        grants.add(id(1), owner("one"), ports("80"), vec![at("192.0.2.1")]);
        grants.add(id(2), owner("two"), ports("90-92"), vec![None]);
        grants.set_ours(
            ["*:443", "192.0.2.1:22", "0.0.0.0:33"].map(|at| at.parse().expect("a place")).into_iter(),
        );
        let other = [at("192.0.2.2")];
        assert_eq!(holders(&grants, "80", &other), []);
        assert_eq!(holders(&grants, "80", &[at("192.0.2.1")]), [Holder::Grant(id(1))]);
        assert_eq!(holders(&grants, "70-80", &[None]), [Holder::Grant(id(1))]);
        assert_eq!(holders(&grants, "92-443", &other), [Holder::Grant(id(2)), Holder::Ours]);
        assert_eq!(holders(&grants, "22", &other), []);
        assert_eq!(holders(&grants, "33", &other), [Holder::Ours], "unspecified is all");
        assert_eq!(holders(&grants, "23-32", &[None]), []);
    }

    #[test]
    fn what_is_removed_is_free_again_but_for_what_became_the_server_s_own() {
        let mut grants = Grants::default();
        grants.add(id(1), owner("one"), ports("80-82"), vec![None]);
        grants.keep_until(id(1), Some(Instant::now()));
        grants.set_ours(std::iter::once(Listen::Any(81)));
        assert_eq!(holders(&grants, "81", &[None]), [Holder::Grant(id(1))], "it keeps what it has");
        assert!(grants.remove(id(1)).is_some() && grants.of(&owner("one")).is_none());
        assert_eq!(holders(&grants, "1-65535", &[None]), [Holder::Ours]);
        assert_eq!(grants.next_due(), None);
        grants.set_ours(std::iter::empty());
        assert!(grants.taken.is_empty());
    }

    #[test]
    fn any_is_the_first_of_its_order_that_nobody_has_there() {
        let mut grants = Grants::default();
        let some = permitted(&["192.0.2.1:100-109", "192.0.2.2:105-109"]);
        let order = [ports("104-109"), ports("100-103")];
        let mut take = |slot: u32, of: &str, places: Vec<Place>| {
            grants.add(id(slot), owner(of), ports(of), places);
            grants.first(&order, &some, |_| false)
        };
        let (one, two) = (at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(take(1, "103", vec![None]), Some((104, vec![one])));
        assert_eq!(take(2, "104", vec![two]), Some((104, vec![one])), "it is taken elsewhere");
        assert_eq!(take(3, "104-105", vec![one]), Some((106, vec![one, two])));
        assert_eq!(take(4, "106-108", vec![two]), Some((109, vec![one, two])));
        assert_eq!(take(5, "109", vec![None]), Some((100, vec![one])));
        assert_eq!(take(6, "100-102", vec![None]), None);
        let of_four = |grant: &Grant| grant.owner == owner("106-108");
        assert_eq!(grants.first(&order, &some, of_four), Some((106, vec![one, two])));
        grants.change(id(6), ports("200"), vec![None]);
        assert_eq!(grants.first(&order, &some, |_| false), Some((100, vec![one])));
    }

    #[test]
    fn grants_are_due_in_the_order_of_their_times() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        for slot in 1..4 {
            grants.add(id(slot), owner(&slot.to_string()), Ports::one(slot as u16), vec![None]);
            grants.keep_until(id(slot), Some(now + Duration::from_secs(10 - u64::from(slot))));
        }
        grants.keep_until(id(3), None);
        assert_eq!(grants.next_due(), Some(now + Duration::from_secs(8)));
        assert_eq!(grants.pop_due(now), None);
        assert_eq!(grants.pop_due(now + Duration::from_secs(8)), Some(id(2)));
    }
}
