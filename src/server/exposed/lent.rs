//! Listeners that grants give up, and get, for a configuration that is to hold.
//!
//! Services that it declares are to have some; and where it permits the ports of a grant at other addresses, those of
//! the addresses that go are closed, and others opened. Those that are given up take nobody while it is not known
//! whether that configuration will hold: who connects waits in their queues. No grant is opening, and none begins to.

use super::deciding::Deciding;
use super::exposing::Exposing;
use super::grants::{Holder, State, addresses};
use super::permitted::{Place, place_of};
use super::{Exposed, Rights};
use crate::base::address::Listen;
use crate::base::id::{ListenerId, ServiceId};
use crate::config::ServerConfig;
use crate::server::listeners::Use;

/// See the module.
#[derive(Default)]
pub(in crate::server) struct Lent {
    given_up: Vec<(ListenerId, ServiceId)>,
    /// Grants whose ports are permitted at these places then.
    moves: Vec<(ServiceId, Vec<Place>)>,
    /// Where they need listeners that they have not.
    wanted: Vec<(ServiceId, Listen)>,
}

impl Lent {
    /// What grants give up for this configuration. Nobody gets a place any more that it declares, or that another
    /// grant is to have.
    pub fn to(config: &ServerConfig, exposing: &mut Exposing<'_>) -> Lent {
        let places = config.services.iter().flat_map(|service| &service.listen);
        exposing.exposed.grants.reserve(places.copied());
        let (mut lent, in_the_way) = (Lent::default(), exposing.exposed.grants.in_the_way());
        for &service in in_the_way.iter() {
            lent.give_up(service, &[], exposing);
        }
        let rights = Rights::new(config, exposing.exposed.local);
        let others = exposing.exposed.grants.ids().into_iter().filter(|id| !in_the_way.contains(id));
        for service in others {
            if let Some((places, kept)) = moved(service, &rights, exposing) {
                lent.give_up(service, &places[..kept], exposing);
                lent.want(service, &places[kept..], exposing.exposed);
                lent.moves.push((service, places));
            }
        }
        lent
    }

    /// A grant gives all its listeners up but those at these places.
    fn give_up(&mut self, service: ServiceId, kept: &[Place], exposing: &mut Exposing<'_>) {
        let Some(grant) = exposing.exposed.grants.get(service) else { return };
        let key = grant.owner.key.clone();
        for id in exposing.listeners.of_service(service).to_vec() {
            let at = exposing.listeners.get(id).map(|listener| listener.at);
            if at.is_none_or(|at| !kept.contains(&place_of(at))) {
                exposing.listeners.set_use(id, Use::Nobody, exposing.agenda);
                exposing.count_listeners(&key, -1);
                self.given_up.push((id, service));
            }
        }
    }

    /// A grant is to listen at these places as well.
    fn want(&mut self, service: ServiceId, places: &[Place], exposed: &mut Exposed) {
        let Some(&super::Grant { ports, state, .. }) = exposed.grants.get(service) else { return };
        exposed.grants.reserve(addresses(ports, places));
        if state == State::Open {
            self.wanted.extend(addresses(ports, places).map(|at| (service, at)));
        }
    }

    /// Those that are given up.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerId> {
        self.given_up.iter().map(|given_up| given_up.0)
    }

    /// Where grants need listeners that they have not.
    pub fn wanted(&self) -> impl Iterator<Item = (ServiceId, Listen)> {
        self.wanted.iter().copied()
    }

    /// That configuration does not hold: they take users again, if somebody has their ports still.
    pub fn give_back(self, exposing: &mut Exposing<'_>) {
        for (id, service) in self.given_up {
            give(service, id, exposing);
        }
    }

    /// That configuration holds, and grants have the listeners that they needed. Returns those whose users connect
    /// elsewhere now.
    pub fn end(self, exposing: &mut Exposing<'_>) -> Vec<ServiceId> {
        let mut moved = Vec::new();
        for (service, places) in self.moves {
            let Some(grant) = exposing.exposed.grants.get(service) else { continue };
            exposing.exposed.grants.change(service, grant.ports, places);
            moved.push(service);
        }
        moved
    }
}

/// A grant gets a listener, if it listens still.
pub(in crate::server) fn give(service: ServiceId, id: ListenerId, exposing: &mut Exposing<'_>) {
    let grant = exposing.exposed.grants.get(service).filter(|grant| grant.state == State::Open);
    let Some(key) = grant.map(|grant| grant.owner.key.clone()) else {
        return exposing.listeners.close(id, exposing.agenda);
    };
    exposing.listeners.set_use(id, Use::Users(service), exposing.agenda);
    exposing.listeners.resume(id, exposing.agenda);
    exposing.count_listeners(&key, 1);
}

/// The places at which these rights permit the ports of a grant, if they are others than before, and how many of them
/// it has already: those come first. `None` also where somebody else has one of the others.
fn moved(service: ServiceId, rights: &Rights, exposing: &Exposing<'_>) -> Option<(Vec<Place>, usize)> {
    let exposed = &*exposing.exposed;
    let grant = exposed.grants.get(service)?;
    let permitted = rights.permitted(&grant.owner.key)?;
    if permitted.are(grant.ports, &grant.places) {
        return None;
    }
    let permitted = permitted.places(grant.ports);
    let is_new = |place: &Place| !grant.places.contains(place);
    let more: Vec<Place> = permitted.iter().copied().filter(is_new).collect();
    // Listeners are in the order of the places.
    let mut places = grant.places.clone();
    places.retain(|place| permitted.contains(place));
    let kept = places.len();
    if grant.state == State::Open {
        let opened = (more.len() + kept).saturating_sub(grant.places.len()) * grant.ports.count();
        let (links, now) = (&exposing.matching.sending.links, exposing.agenda.now);
        let deciding = Deciding { exposed, links, limits: &exposing.agenda.limits, now };
        if deciding.room(&grant.owner.key, opened).is_some() {
            return None;
        }
    }
    let is_free = exposed.grants.holders(grant.ports, &more).all(|it| it == Holder::Grant(service));
    places.extend(more);
    (is_free && !places.is_empty()).then_some((places, kept))
}
