//! What an ask for ports gets. Nothing is changed here.

use std::time::Instant;

use super::Exposed;
use super::asks::Ask;
use super::grants::{Grant, Holder, Owner, State};
use super::permitted::{Permitted, Place};
use crate::base::id::{AskId, LinkId, ServiceId};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::base::sorted::Set;
use crate::config::limits::Limits;
use crate::server::links::Links;
use crate::wire::control::{Denial, Want};

/// What may change so that a denied ask gets what it wants.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// This grant has other members, or is gone.
    Changed(ServiceId),
    /// Some port or room is free.
    Room,
    /// A port is free of those that its key may ask for.
    AnyPort,
    /// The configuration is another.
    Configured,
    /// The system gives what it did not.
    Later,
}

/// What is to be done about an ask.
pub(super) enum Decision {
    Deny(Denial, Until),
    /// It is looked at again then: its key opens more listeners than the loop is to bear.
    Wait(Instant),
    /// The client of this link has the grant, and must say that it is there.
    Contest(LinkId, ServiceId),
    /// It gets ports that its owner has.
    Join(ServiceId),
    /// It gets these ports. These grants make room.
    Open {
        ports: Ports,
        places: Vec<Place>,
        dropped: Set<ServiceId>,
    },
}

/// What a decision depends on.
pub(super) struct Deciding<'s> {
    pub exposed: &'s Exposed,
    pub links: &'s Links,
    pub limits: &'s Limits,
    pub now: Instant,
}

impl Deciding<'_> {
    /// What an ask gets that serves nothing; `None` if there is no such ask.
    pub fn decide(&self, id: AskId) -> Option<Decision> {
        let ask = self.exposed.asks.get(id).filter(|ask| ask.grant().is_none())?;
        let key = self.links.get(ask.link)?.key();
        let owner = Owner { key: key.clone(), publication: ask.publish.name.clone() };
        let Some(permitted) = self.exposed.rights.permitted(key) else {
            return Some(Decision::Deny(Denial::Policy, Until::Configured));
        };
        let own = self.exposed.grants.of(&owner);
        let joined = own.and_then(|service| self.join(ask, service, permitted));
        Some(joined.unwrap_or_else(|| self.open(ask, &owner, permitted).unwrap_or_else(|denied| denied)))
    }

    /// What an ask gets of a grant that has its names; `None` if it is to have other ports, and nobody serves these.
    fn join(&self, ask: &Ask, service: ServiceId, permitted: &Permitted) -> Option<Decision> {
        let grant = self.exposed.grants.get(service)?;
        let fits = match ask.publish.want {
            Want::AnyPort => grant.ports.count() == 1,
            Want::Ports(ports) => ports == grant.ports,
            Want::Service => false,
        };
        let fits = fits && permitted.are(grant.ports, &grant.places);
        let mut members = grant.members.iter().filter_map(|&member| self.exposed.asks.get(member));
        let Some(holder) = members.clone().next() else {
            let opens = if grant.state == State::Kept { grant.count() } else { 0 };
            let waits = self.room(&grant.owner.key, opens);
            return fits.then(|| waits.unwrap_or(Decision::Join(service)));
        };
        if members.clone().any(|it| it.link == ask.link) {
            Some(Decision::Deny(Denial::AlreadyPublished, Until::Changed(service)))
        } else if fits && ask.publish.share && members.all(|it| it.publish.share) {
            Some(Decision::Join(service))
        } else {
            Some(Decision::Contest(holder.link, service))
        }
    }

    /// What an ask gets that nobody has, or why it does not.
    fn open(&self, ask: &Ask, owner: &Owner, permitted: &Permitted) -> Result<Decision, Decision> {
        let is_own = |grant: &Grant| grant.owner == *owner;
        let makes_room =
            |grant: &Grant| is_own(grant) || grant.owner.key == owner.key && self.is_left_to(ask.link, grant);
        let grants = &self.exposed.grants;
        let (ports, places) = match ask.publish.want {
            Want::Ports(ports) => (ports, permitted.places(ports)),
            Want::Service | Want::AnyPort => {
                if self.exposed.is_full(&owner.key) && grants.of(owner).is_none() {
                    return Err(Decision::Deny(Denial::PortTaken, Until::AnyPort));
                }
                let order = permitted.any(&owner.key, &owner.publication);
                let found = grants.first(&order, permitted, is_own);
                match found.or_else(|| grants.first(&order, permitted, makes_room)) {
                    Some((port, places)) => (Ports::one(port), places),
                    None if order.is_empty() => {
                        return Err(Decision::Deny(Denial::Policy, Until::Configured));
                    }
                    None => return Err(Decision::Deny(Denial::PortTaken, Until::AnyPort)),
                }
            }
        };
        if places.is_empty() {
            return Err(Decision::Deny(Denial::Policy, Until::Configured));
        }
        let mut dropped: Set<ServiceId> = grants.of(owner).into_iter().collect();
        for holder in grants.holders(ports, &places) {
            match holder {
                Holder::Ours => return Err(Decision::Deny(Denial::PortTaken, Until::Configured)),
                Holder::Grant(service) if grants.get(service).is_some_and(makes_room) => {
                    dropped.insert(service);
                }
                Holder::Grant(service) => {
                    return Err(Decision::Deny(Denial::PortTaken, Until::Changed(service)));
                }
            }
        }
        let given_back: usize =
            dropped.iter().filter_map(|&service| grants.get(service)).map(Grant::listening).sum();
        match self.room(&owner.key, (ports.count() * places.len()).saturating_sub(given_back)) {
            Some(waits) => Err(waits),
            None => Ok(Decision::Open { ports, places, dropped }),
        }
    }

    /// Whether the client of a grant has said that it leaves, or was lost before this link came: whoever comes with its
    /// key then says what the key wants now. One that was there meanwhile does not take what is kept for another.
    fn is_left_to(&self, link: LinkId, grant: &Grant) -> bool {
        let lost_at = self.exposed.grants.kept_until(grant).map(|until| until - self.limits.ports_kept);
        let came_at = self.links.get(link).map(|link| link.since);
        grant.state == State::Kept || lost_at.is_some_and(|lost| came_at.is_some_and(|came| lost <= came))
    }

    /// Why a key may not have so many listeners more, or not yet, if it may not. One may have all of them until three
    /// quarters are taken. From then on a key that would have more than a quarter gets no more, if there are others.
    pub fn room(&self, key: &Name, more: usize) -> Option<Decision> {
        let Deciding { exposed, links, limits, now } = self;
        if more == 0 {
            return None;
        }
        let most = limits.ports_at_most(links.count(), exposed.rights.keys.len());
        let own = exposed.listeners.get(key).copied().unwrap_or(0) + more;
        let all = links.ports + more;
        let has_room =
            all <= most && (all <= most / 4 * 3 || own <= most / 4 || exposed.rights.keys.len() <= 1);
        if !has_room {
            return Some(Decision::Deny(Denial::Limit, Until::Room));
        }
        exposed.may_open_at(key).filter(|at| at > now).map(Decision::Wait)
    }
}
