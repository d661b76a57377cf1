//! One step with ports that clients ask for: what is done about what was decided.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::asks::{Ask, Behind, Stage};
use super::deciding::{Deciding, Decision, Until};
use super::grants::{Owner, State};
use super::permitted::{Place, behind};
use super::{Decided, Exposed};
use crate::base::clocks::Clocks;
use crate::base::id::{AskId, LinkId, ListenerId, ServiceId};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::config::ServerConfig;
use crate::config::policy::UserRules;
use crate::machine::{Agenda, CloseReason, Fact, Fault, Output};
use crate::server::links::PING_INTERVAL;
use crate::server::listeners::{Listeners, Use};
use crate::server::matching::Matching;
use crate::server::publishing::remove_service;
use crate::wire::control::{ControlFrame, Denial, GrantedAddress, Publish, Want};

/// Asks that are looked at again in one turn.
const LOOKS_MAX: usize = 16;

/// It borrows what it works on.
pub(in crate::server) struct Exposing<'s> {
    pub exposed: &'s mut Exposed,
    pub matching: &'s mut Matching,
    pub listeners: &'s mut Listeners,
    pub agenda: &'s mut Agenda,
}

/// How a client stopped serving its ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Its link was lost.
    Lost,
    /// It has said that it leaves.
    Drained,
    /// It does not want them any more, or may not have them: their users are reset for this reason.
    Ended(CloseReason),
}

impl Exposing<'_> {
    // What clients ask.

    /// A client asks for ports; it has room for one more publication.
    pub fn publish(&mut self, link: LinkId, publish: &Publish) {
        if self.exposed.decided == Decided::Never || !self.matching.sending.may_serve(link) {
            return;
        }
        if let Some(id) = self.exposed.asks.add(link, publish.clone()) {
            self.look(id);
        }
    }

    /// A client asks with other options for the ports that it asks for under this number; false if it asks for
    /// something else.
    pub fn change(&mut self, link: LinkId, publish: &Publish) -> bool {
        let Some(id) = self.exposed.asks.of(link, publish.number) else { return false };
        let Some(ask) = self.exposed.asks.get_mut(id).filter(|ask| publish.changes(&ask.publish)) else {
            return false;
        };
        let is_another = std::mem::replace(&mut ask.publish, publish.clone()).share != publish.share;
        // Whether it shares decides who has what it asks for, and nothing else does.
        match (is_another, ask.grant()) {
            (true, Some(service)) => self.look_at_heirs(service),
            (true, None) => self.look(id),
            (false, _) => {}
        }
        true
    }

    /// A client asks for ports no more that it asked for under this number; false if it did not.
    pub fn unpublish(&mut self, link: LinkId, number: u32) -> bool {
        let Some(id) = self.exposed.asks.of(link, number) else { return false };
        self.leave(id);
        if let Some(Ask { stage: Stage::Member(service) | Stage::Granted(service), .. }) =
            self.exposed.asks.remove(id)
        {
            self.left(service, Left::Ended(CloseReason::Removed));
        }
        true
    }

    /// The client of a link has said that it leaves: others may have its ports at once.
    pub fn link_drains(&mut self, link: LinkId) {
        self.remove_asks(link, Left::Drained);
    }

    /// A link is gone. Its ports are kept, unless its key may do nothing any more.
    pub fn link_gone(&mut self, link: LinkId, reason: CloseReason) {
        self.remove_asks(link, if reason.bars_a_client() { Left::Ended(reason) } else { Left::Lost });
        let Exposing { exposed, matching, agenda, .. } = self;
        exposed.leaving.retain(|&service| {
            let is_served = matching.services.publications_of(service).next().is_some();
            if !is_served {
                remove_service(service, CloseReason::Removed, matching, agenda);
            }
            is_served
        });
    }

    fn remove_asks(&mut self, link: LinkId, how: Left) {
        let ids = self.exposed.asks.of_link(link);
        let services: Vec<ServiceId> = ids.into_iter().filter_map(|id| self.leave(id)).collect();
        self.exposed.asks.remove_link(link);
        for service in services {
            self.left(service, how);
        }
    }

    /// An ask is no member of its grant any more, which is returned.
    fn leave(&mut self, id: AskId) -> Option<ServiceId> {
        let ask = self.exposed.asks.get(id)?;
        let (service, link, number) = (ask.grant()?, ask.link, ask.publish.number);
        if let Some(grant) = self.exposed.grants.get_mut(service) {
            grant.members.retain(|&member| member != id);
        }
        // One that leaves still serves the sessions that it has.
        if self.matching.sending.may_serve(link) {
            self.matching.unpublish(link, number, self.agenda);
        }
        Some(service)
    }

    /// A client serves a grant no more. If nobody else does, others may have it now.
    fn left(&mut self, service: ServiceId, how: Left) {
        let Some(grant) = self.exposed.grants.get_mut(service) else { return };
        if let Left::Ended(reason) = how
            && grant.members.is_empty()
        {
            return self.free(service, reason);
        }
        self.look_at_heirs(service);
        let others = self.exposed.asks.take_behind(service, Behind::Other);
        self.exposed.asks.look_again(others);
        if self.exposed.grants.get(service).is_none_or(|grant| !grant.members.is_empty()) {
            return;
        }
        if how == Left::Drained {
            self.exposed.grants.set_state(service, State::Kept);
            self.close_listeners(service);
            self.exposed.asks.feed();
        }
        let until = self.agenda.now + self.agenda.limits.ports_kept;
        self.exposed.grants.keep_until(service, Some(until));
    }

    /// Those that may have a grant as well, or after its client, are looked at before it is closed: a few at once.
    fn look_at_heirs(&mut self, service: ServiceId) {
        let heirs = self.exposed.asks.take_behind(service, Behind::Heir);
        heirs.iter().take(LOOKS_MAX).for_each(|&id| self.look(id));
        self.exposed.asks.look_again(heirs.into_iter().skip(LOOKS_MAX));
    }

    /// The client of a link has answered a ping: who contests what it has is denied, or asks it again.
    pub fn link_answered(&mut self, link: LinkId) {
        let Some(answered) = self.matching.sending.links.get(link).map(|link| link.answered_ping_of) else {
            return;
        };
        for (id, since) in self.exposed.asks.contests(link) {
            match self.exposed.owned(id, &self.matching.sending.links) {
                Some(service) if answered >= since => {
                    self.deny(id, Denial::AlreadyPublished, Until::Changed(service));
                }
                _ => self.matching.sending.ping_link(link, self.agenda),
            }
        }
    }

    /// Another configuration holds: what it does not permit is withdrawn, what it permits is granted.
    pub fn configure(&mut self, config: &ServerConfig, clocks: Clocks) {
        self.exposed.configure(config, clocks);
        for service in self.exposed.grants.ids() {
            let grant = self.exposed.grants.get(service);
            if let Some(reason) = grant.and_then(|grant| self.exposed.rights.forbid(grant)) {
                self.withdraw(service, Denial::Policy, reason);
            }
        }
        for service in self.exposed.grants.in_the_way() {
            self.withdraw(service, Denial::PortTaken, CloseReason::Removed);
        }
        self.exposed.reload_is_over();
    }

    /// A grant's clients may not have it any more: they are told the reason, and its users are reset for the other one.
    fn withdraw(&mut self, service: ServiceId, reason: Denial, of_users: CloseReason) {
        let members = self.exposed.grants.get_mut(service).map(|grant| std::mem::take(&mut grant.members));
        for id in members.into_iter().flatten() {
            let Some(ask) = self.exposed.asks.get(id) else { continue };
            let (link, number, was) = (ask.link, ask.publish.number, ask.stage);
            if let Stage::Granted(_) = was {
                self.matching.unpublish(link, number, self.agenda);
                self.say(link, ControlFrame::Withdrawn { number, reason });
                // That says it.
                self.exposed.asks.deny(id, reason);
            } else {
                self.deny(id, reason, Until::Configured);
            }
        }
        self.free(service, of_users);
    }

    // What is decided.

    /// Some asks are looked at again for which something may have changed.
    pub fn look_again(&mut self) {
        for _ in 0..LOOKS_MAX {
            let next = if self.exposed.has_work() { self.exposed.asks.next_again() } else { None };
            let Some(id) = next else { return };
            self.look(id);
        }
    }

    fn look(&mut self, id: AskId) {
        if self.exposed.decided != Decided::AtOnce {
            return;
        }
        let (exposed, links, now) = (&*self.exposed, &self.matching.sending.links, self.agenda.now);
        let Some(decision) = (Deciding { exposed, links, limits: &self.agenda.limits, now }).decide(id)
        else {
            return;
        };
        match decision {
            Decision::Deny(reason, until) => {
                self.exposed.note_full(id, until, &self.matching.sending.links);
                self.deny(id, reason, until);
            }
            Decision::Contest(holder, service) => self.contest(id, holder, service),
            // A contest is over by now.
            Decision::Wait(until) => {
                self.exposed.asks.set(id, Stage::Denied);
                self.exposed.asks.look_at(id, until);
            }
            Decision::Join(service) => self.join(id, service),
            Decision::Open { ports, places, dropped } => {
                if !dropped.is_empty() {
                    dropped.into_iter().for_each(|service| self.drop_grant(service));
                    self.exposed.asks.feed();
                }
                self.open_new(id, ports, places);
            }
        }
    }

    // What is done.

    fn deny(&mut self, id: AskId, reason: Denial, until: Until) {
        let reason = self.exposed.named(id, reason, until, &self.matching.sending.links);
        let is_news = self.exposed.asks.deny(id, reason);
        match until {
            Until::Changed(service) => self.exposed.asks.wait_behind(id, service, reason.into()),
            Until::Room | Until::AnyPort => self.exposed.asks.is_hungry(id),
            Until::Configured => {}
            Until::Later => self.exposed.asks.try_later(id, self.agenda.limits.port_retry, self.agenda.now),
        }
        let Some(ask) = self.exposed.asks.get(id).filter(|_| is_news) else { return };
        let (link, number, service) = (ask.link, ask.publish.number, ask.publish.name.clone());
        let Some(key) = self.matching.sending.links.get(link).map(|link| link.key().clone()) else { return };
        self.agenda.fact(Fact::PublicationDenied { key, service, reason });
        self.say(link, ControlFrame::Denied { number, reason });
    }

    fn contest(&mut self, id: AskId, holder: LinkId, service: ServiceId) {
        let Some(link) = self.matching.sending.links.get(holder) else { return };
        let since = self.agenda.now;
        let until = since + link.round_trip.wait(self.agenda.limits.contest);
        self.exposed.asks.set(id, Stage::Contesting { holder, since, until });
        self.exposed.asks.wait_behind(id, service, Behind::Heir);
        self.ping_holder(id, holder, until);
    }

    fn ping_holder(&mut self, id: AskId, holder: LinkId, until: Instant) {
        self.matching.sending.ping_link(holder, self.agenda);
        // It may have been pinged a moment ago, before the contest began.
        let again = (self.agenda.now + PING_INTERVAL).min(until);
        self.exposed.asks.look_at(id, again);
    }

    fn join(&mut self, id: AskId, service: ServiceId) {
        let Some(grant) = self.exposed.grants.get_mut(service) else { return };
        grant.members.push(id);
        self.exposed.asks.set(id, Stage::Member(service));
        self.exposed.grants.keep_until(service, None);
        match self.exposed.grants.get(service).map(|grant| grant.state) {
            Some(State::Open) => self.grant(id, service),
            Some(State::Kept) => self.open_listeners(service),
            Some(State::Opening(_)) | None => {}
        }
    }

    fn open_new(&mut self, id: AskId, ports: Ports, places: Vec<Place>) {
        let Some(ask) = self.exposed.asks.get(id) else { return };
        let Some(key) = self.matching.sending.links.get(ask.link).map(|link| link.key().clone()) else {
            return;
        };
        let owner = Owner { key, publication: ask.publish.name.clone() };
        let name = owner.publication.clone();
        let Some(service) = self.matching.services.add_exposed(&name) else {
            return self.deny(id, Denial::Limit, Until::Room);
        };
        let account = self.agenda.tally.open(Some(owner.key.clone()));
        self.matching.admission.add(service, name, UserRules::default(), account);
        self.exposed.grants.add(service, owner, ports, places);
        if let Some(grant) = self.exposed.grants.get_mut(service) {
            grant.members.push(id);
        }
        self.exposed.asks.set(id, Stage::Member(service));
        self.open_listeners(service);
    }

    fn open_listeners(&mut self, service: ServiceId) {
        let Some(grant) = self.exposed.grants.get(service) else { return };
        let (key, count) = (grant.owner.key.clone(), grant.count());
        self.matching.services.set_ports(service, grant.ports);
        for at in grant.addresses() {
            self.listeners.open(Use::Users(service), at, self.agenda);
        }
        self.exposed.grants.set_state(service, State::Opening(count));
        self.count_listeners(&key, count as isize);
        self.exposed.pay(&key, count, self.agenda.now);
    }

    /// It is known what became of a listener that was asked for; false if it is none of these.
    pub fn listening(&mut self, id: ListenerId, outcome: &io::Result<SocketAddr>) -> bool {
        if let Some(key) = self.exposed.closing.remove(&id) {
            if outcome.is_ok() {
                self.agenda.push(Output::StopListening(id));
            }
            self.count_listeners(&key, -1);
            if self.exposed.closing.is_empty() {
                self.exposed.asks.feed();
            }
            return true;
        }
        let Some(Use::Users(service)) = self.listeners.get(id).map(|listener| listener.serves) else {
            return false;
        };
        let Some(grant) = self.exposed.grants.get_mut(service) else { return false };
        let State::Opening(missing) = &mut grant.state else { return true };
        match outcome {
            Ok(address) => {
                *missing -= 1;
                let is_open = *missing == 0;
                self.listeners.note(id, Ok(*address), self.agenda);
                if is_open {
                    let members = grant.members.clone();
                    self.exposed.grants.set_state(service, State::Open);
                    members.into_iter().for_each(|member| self.grant(member, service));
                }
            }
            Err(error) => self.failed(id, service, error.into()),
        }
        true
    }

    /// The system does not give a port of a grant.
    fn failed(&mut self, id: ListenerId, service: ServiceId, fault: Fault) {
        let Some(grant) = self.exposed.grants.get(service) else { return };
        let (owner, port) = (grant.owner.clone(), grant.ports.first);
        let members = grant.members.clone();
        let at = self.listeners.get(id).map(|listener| listener.at);
        self.listeners.remove(id);
        self.count_listeners(&owner.key, -1);
        let wants = members.first().and_then(|&id| self.exposed.asks.get(id)).map(|ask| ask.publish.want);
        let is_taken = fault.kind() == io::ErrorKind::AddrInUse;
        if wants == Some(Want::AnyPort)
            && is_taken
            && let Some(permitted) = self.exposed.rights.permitted(&owner.key)
        {
            let order = behind(permitted.any(&owner.key, &owner.publication), port);
            if let Some((port, places)) = self.exposed.grants.first(&order, permitted, |_| false) {
                self.close_listeners(service);
                self.exposed.grants.change(service, Ports::one(port), places);
                return self.open_listeners(service);
            }
        }
        if let Some(at) = at.filter(|_| !is_taken) {
            self.agenda.fact(Fact::PortNotOpened { key: owner.key, at, fault });
        }
        let reason = if fault.is_exhaustion() { Denial::Limit } else { Denial::PortTaken };
        for id in members {
            self.deny(id, reason, Until::Later);
        }
        // What the system does not give was nobody's: no port has become free for others.
        self.drop_grant(service);
    }

    /// A client serves what it asked for from now on.
    fn grant(&mut self, id: AskId, service: ServiceId) {
        let Some(Ask { link, publish, .. }) = self.exposed.asks.get(id) else { return };
        let (link, number, name, probe) = (*link, publish.number, publish.name.clone(), publish.probe);
        let dial_ms = self.agenda.limits.dial_ms(publish.dial_time);
        if self.matching.services.publish(link, number, service, dial_ms).is_err() {
            return;
        }
        self.matching.probing(self.agenda).published(link, service, probe);
        self.exposed.asks.set(id, Stage::Granted(service));
        let Some(it) = self.matching.sending.links.get(link) else { return };
        let (control, key) = (it.control, it.key().clone());
        let addresses = self.listeners.addresses(service);
        let addresses = self.exposed.granted(service, &addresses).unwrap_or_default();
        if let Some(&GrantedAddress { ports, .. }) = addresses.first() {
            self.agenda.fact(Fact::Exposed { link: control, key, publication: name, ports });
        }
        self.say(link, self.matching.granted(link, number, addresses));
        self.matching.published(link, self.agenda);
    }

    /// Ports are free again, for whoever wants them.
    fn free(&mut self, service: ServiceId, reason: CloseReason) {
        self.remove_grant(service, reason);
        self.exposed.asks.feed();
    }

    fn remove_grant(&mut self, service: ServiceId, reason: CloseReason) {
        self.close_listeners(service);
        self.forget(service);
        for it in remove_service(service, reason, self.matching, self.agenda) {
            let frame = ControlFrame::Withdrawn { number: it.number, reason: Denial::Policy };
            self.say(it.link, frame);
        }
    }

    /// A grant without members makes room for another one of its key. Sessions of a client that leaves go on.
    fn drop_grant(&mut self, service: ServiceId) {
        if self.matching.services.publications_of(service).next().is_none() {
            return self.remove_grant(service, CloseReason::Removed);
        }
        self.close_listeners(service);
        self.forget(service);
        self.exposed.leaving.push(service);
    }

    fn forget(&mut self, service: ServiceId) {
        self.exposed.grants.remove(service);
        for how in [Behind::Heir, Behind::Other] {
            let behind = self.exposed.asks.take_behind(service, how);
            self.exposed.asks.look_again(behind);
        }
    }

    fn close_listeners(&mut self, service: ServiceId) {
        // The server's end closes them with all others.
        if self.exposed.decided == Decided::Never {
            return;
        }
        let Some(key) = self.exposed.grants.get(service).map(|grant| grant.owner.key.clone()) else { return };
        let (unknown, count) = self.listeners.close_service(service, self.agenda);
        self.count_listeners(&key, unknown.len() as isize - count as isize);
        self.exposed.closing.extend(unknown.into_iter().map(|id| (id, key.clone())));
    }

    pub(super) fn count_listeners(&mut self, key: &Name, more: isize) {
        self.exposed.count_listeners(key, more);
        let links = &mut self.matching.sending.links;
        links.ports = links.ports.saturating_add_signed(more);
        self.matching.sending.limit_users(self.agenda);
    }

    fn say(&mut self, link: LinkId, frame: ControlFrame) {
        if let Some(id) = self.matching.sending.links.get(link).map(|link| link.control) {
            self.agenda.push(Output::Send { id, frame });
        }
    }

    // Time.

    /// Does what is due.
    pub fn due(&mut self) {
        while let Some(service) = self.exposed.grants.pop_due(self.agenda.now) {
            self.free(service, CloseReason::Removed);
        }
        while let Some(key) = self.exposed.pop_expired(self.agenda.now) {
            for service in self.exposed.grants.of_key(&key) {
                self.withdraw(service, Denial::Policy, CloseReason::KeyExpired);
            }
        }
        while let Some(id) = self.exposed.asks.pop_due(self.agenda.now) {
            match self.exposed.asks.get(id).map(|ask| ask.stage) {
                Some(Stage::Contesting { holder, until, .. }) if until <= self.agenda.now => {
                    self.exposed.given_up.push(holder);
                }
                Some(Stage::Contesting { holder, until, .. }) => self.ping_holder(id, holder, until),
                // As many as may be are looked at in a turn, however many are due at once.
                Some(Stage::Denied) => self.exposed.asks.look_again([id]),
                _ => {}
            }
        }
    }
}
