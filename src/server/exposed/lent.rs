//! Listeners of ports that clients asked for and that services of another configuration are to have.
//!
//! They take nobody while it is not known whether that configuration will hold: who connects waits in their queues.

use super::deciding::Until;
use super::exposing::Exposing;
use super::grants::State;
use crate::base::address::Listen;
use crate::base::id::{ListenerId, ServiceId};
use crate::server::listeners::Use;
use crate::wire::control::Denial;

/// See the module.
#[derive(Default)]
pub(in crate::server) struct Lent(Vec<(ListenerId, ServiceId)>);

impl Lent {
    /// The listeners of all grants that have one of these places. Nobody gets such a place any more.
    pub fn at(places: impl Iterator<Item = Listen>, exposing: &mut Exposing<'_>) -> Lent {
        exposing.exposed.grants.reserve(places);
        let mut lent = Vec::new();
        for service in exposing.exposed.grants.in_the_way() {
            let Some(grant) = exposing.exposed.grants.get(service) else { continue };
            let key = grant.owner.key.clone();
            if let State::Opening(_) = grant.state {
                for id in grant.members.clone() {
                    exposing.deny(id, Denial::PortTaken, Until::Configured);
                }
                exposing.drop_grant(service);
                continue;
            }
            for id in exposing.listeners.of_service(service).to_vec() {
                exposing.listeners.set_use(id, Use::Nobody, exposing.agenda);
                exposing.count_listeners(&key, -1);
                lent.push((id, service));
            }
        }
        Lent(lent)
    }

    /// Which they are.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerId> {
        self.0.iter().map(|lent| lent.0)
    }

    /// That configuration does not hold: they take users again, if somebody has their ports still.
    pub fn give_back(self, exposing: &mut Exposing<'_>) {
        for (id, service) in self.0 {
            let grant = exposing.exposed.grants.get(service).filter(|grant| grant.state == State::Open);
            let Some(key) = grant.map(|grant| grant.owner.key.clone()) else {
                exposing.listeners.close(id, exposing.agenda);
                continue;
            };
            exposing.listeners.set_use(id, Use::Users(service), exposing.agenda);
            exposing.listeners.resume(id, exposing.agenda);
            exposing.count_listeners(&key, 1);
        }
    }
}
