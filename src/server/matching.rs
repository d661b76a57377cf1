//! Who gets which message connection, and when to ask for more.
//!
//! Rules:
//! - `pool` message connections per link are idle or on their way; what is missing is asked for in one `Open`;
//! - a user is given the connection that was used last, and `Start` goes out at once;
//! - a session that is not accepted in time is offered again, on a connection that has proved to be alive;
//! - a user whose bytes may have reached a client goes to no other one, unless that one refused it.

mod barred;
mod coming;
mod condition;
mod draining;
mod probing;
mod waiting;

use std::cell::Cell;
use std::time::Instant;

use super::admission::Admission;
use super::drain::Drain;
use super::identity::Life;
use super::offers::{Left, Offer};
use super::pool::{Place, State};
use super::probes::Probes;
use super::refill;
use super::sending::Sending;
use super::services::{Readiness, Services};
use super::turn::Turn;
use crate::base::id::{ConnId, HolderId, LinkId, PublicationId, ServiceId};
use crate::base::name::Name;
use crate::config::limits::Limits;
use crate::config::policy::{Policy, UserRules};
use crate::machine::{Agenda, CloseReason, Fact, Manner, SessionEvent, Traffic, quiet_for};
use crate::wire::control::{ControlFrame, GrantedAddress, PublicationNumber};
use crate::wire::frame::AbortReason;
use barred::Barred;
use coming::Coming;
pub(super) use condition::Condition;
use draining::Draining;
use probing::Probing;
use waiting::{Asked, Waiting};

/// Users, message connections, and what joins them.
#[derive(Default)]
pub(super) struct Matching {
    pub services: Services,
    pub admission: Admission,
    pub sending: Sending,
    pub probes: Probes,
    pub barred: Barred,
    turn: Turn,
    last_number: u64,
    drain: Drain,
}

impl Matching {
    /// For users who come.
    pub fn coming<'m>(&'m mut self, agenda: &'m mut Agenda) -> Coming<'m> {
        Coming { all: self, agenda }
    }

    /// For users who wait, or were refused.
    pub fn waiting<'m>(&'m mut self, agenda: &'m mut Agenda) -> Waiting<'m> {
        Waiting { all: self, agenda }
    }

    /// For probes.
    pub fn probing<'m>(&'m mut self, agenda: &'m mut Agenda) -> Probing<'m> {
        Probing { all: self, agenda }
    }

    /// What is known now, for people.
    pub fn condition<'m>(&'m self, now: Instant, limits: &'m Limits) -> Condition<'m> {
        Condition { all: self, now, limits }
    }

    /// Whether users that come may be given to a link.
    fn takes_users(&self, link: LinkId) -> bool {
        self.drain == Drain::No && self.sending.may_serve(link)
    }

    /// For a server that ends.
    pub fn draining<'m>(&'m mut self, agenda: &'m mut Agenda) -> Draining<'m> {
        Draining { all: self, agenda }
    }

    /// Whether there is something to do in the next turn.
    pub fn has_work(&self) -> bool {
        !self.sending.refills.is_empty() || self.turn.is_wanted()
    }

    /// A link was opened: its pool is filled.
    pub fn add_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        self.services.add_link(link);
        self.sending.pools.add_link(link);
        self.sending.share_rate(link);
        self.sending.want_refill(link);
        self.sending.limit_users(agenda);
    }

    /// A link is gone: its message connections close, and users who waited for it go elsewhere or are told.
    pub fn remove_link(&mut self, link: LinkId, reason: CloseReason, agenda: &mut Agenda) {
        let reason = if reason.bars_a_client() { reason } else { CloseReason::LinkLost };
        self.services.publications_on(link).for_each(|id| self.probes.forget(id));
        self.probes.forget_link(link);
        let messages = self.sending.pools.remove_link(link);
        for &(id, _) in &messages {
            agenda.at(id, None);
            agenda.reset(id, reason);
        }
        let users = self.services.remove_link(link);
        if let Some(it) = self.sending.links.remove(link) {
            if let Some(rate) = it.rate {
                self.sending.rates.link_gone(rate);
            }
            let freed = self.sending.holders.link_gone(it.identity.holder, link);
            self.list(freed);
        }
        self.sending.limit_users(agenda);
        self.share_places();
        self.move_on(users, agenda);
        for (id, state) in messages {
            // A user that is paired with its copy is given back.
            if let State::Offered(user) = state
                && self.sending.offers.get(user).is_some_and(|offer| offer.paired() != Some(id))
            {
                let left = self.sending.offers.lost(user, id);
                self.waiting(agenda).lost(user, left);
            }
        }
    }

    /// Users who waited for one link alone cannot wait for it any more: they go elsewhere, or are told.
    fn move_on(&mut self, users: Vec<ConnId>, agenda: &mut Agenda) {
        for id in users {
            let Some(user) = self.sending.users.get(id).filter(|_| !self.sending.offers.contains(id)) else {
                continue;
            };
            match user.refused.as_ref().filter(|_| !user.tied) {
                Some(_) => self.waiting(agenda).offer_elsewhere(id),
                None => agenda.reset(id, CloseReason::LinkLost),
            }
        }
    }

    /// What tells a client that it serves this: where users connect, and whether it is probed if it reads that.
    pub fn granted(
        &self,
        link: LinkId,
        number: PublicationNumber,
        addresses: Vec<GrantedAddress>,
    ) -> ControlFrame {
        let reads_probed = self.sending.links.get(link).is_some_and(|link| link.capabilities.reads_probed());
        let id = self.services.numbered(link, number).filter(|_| reads_probed);
        let is_probed = id.is_some_and(|(id, _)| self.probes.is_probed(id));
        ControlFrame::Granted { number, addresses, is_probed }
    }

    /// A link no longer serves what it published under this number; false if it did not.
    pub fn unpublish(&mut self, link: LinkId, number: u32, agenda: &mut Agenda) -> bool {
        self.services.numbered(link, number).into_iter().for_each(|(id, _)| self.probes.forget(id));
        let known = self.services.unpublish(link, number);
        for id in self.services.take_waiting(link) {
            let Some(service) = self.sending.users.get(id).map(|user| user.service) else { continue };
            if self.services.publication_of(link, service).is_some() {
                self.waiting(agenda).offer_to(id, service, link, false);
            } else {
                self.move_on(vec![id], agenda);
            }
        }
        known
    }

    /// The client of a link is leaving: its idle connections go, its running sessions go on.
    pub fn drain_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        if let Some(link) = self.sending.links.get_mut(link) {
            link.life = Life::Draining;
        }
        self.services.drain_link(link);
        self.sending.pools.retire_idle(link, agenda);
        let users = self.services.take_waiting(link);
        self.move_on(users, agenda);
        self.close_if_drained(link, agenda);
    }

    fn close_if_drained(&mut self, link: LinkId, agenda: &mut Agenda) {
        if let Some(it) = self.sending.links.get(link)
            && it.life == Life::Draining
            && self.sending.pools.staying(link) == 0
        {
            agenda.close(it.control, CloseReason::Drained, Manner::Whole);
        }
    }

    // Services.

    /// Adds a service; `None` if there are as many as can be named.
    pub fn add_service(&mut self, name: &Name, rules: UserRules, agenda: &mut Agenda) -> Option<ServiceId> {
        let id = self.services.add(name)?;
        self.admission.add(id, name.clone(), rules, agenda.tally.open(None));
        Some(id)
    }

    // Users.

    /// The publication that a user is given to at once; it comes now if it is `new`.
    fn next_ready(&mut self, service: ServiceId, new: bool, now: Instant) -> Option<PublicationId> {
        let Matching { services, sending: Sending { links, pools, holders, .. }, .. } = self;
        let mut hidden =
            |link| links.get(link).is_some_and(|it| holders.hides(it.identity.holder, link, new));
        services.next_ready(service, |link| match links.readiness(link, now) {
            _ if pools.idle(link) == 0 => Readiness::Not,
            Readiness::Ready | Readiness::Failing if hidden(link) => Readiness::Not,
            readiness => readiness,
        })
    }

    /// The link that is asked for one more connection, because a user of this service waits.
    fn next_to_ask(&mut self, service: ServiceId, new: bool) -> Asked {
        let Matching { services, sending, .. } = self;
        let full = Cell::new(false);
        let may_take = |link| {
            let is_full = if new { sending.is_full_for_new(link) } else { sending.is_full(link) };
            full.set(full.get() || sending.may_serve(link) && is_full);
            sending.may_serve(link) && !is_full
        };
        match services.next_to_ask(service, may_take) {
            Some(link) => Asked::Link(link),
            None => Asked::None { all_full: full.get() },
        }
    }

    /// A user counts for the key of this link. Where the key that it counted for had no place left, others may wait.
    fn charge(&mut self, id: ConnId, link: LinkId) {
        let freed = self.sending.charge(id, link);
        self.list(freed);
    }

    /// A user counts for no key.
    fn release(&mut self, charged: Option<HolderId>, was_expected: bool) {
        let release = |holder| self.sending.holders.release(holder, was_expected);
        let freed = charged.map_or_else(Vec::new, release);
        self.list(freed);
    }

    /// Users came or left, or there are more places or fewer: keys that share them may have a place again.
    fn share_places(&mut self) {
        let freed = self.sending.holders.share(self.sending.users.places());
        self.list(freed);
    }

    /// The holder of a key may do this from now on.
    pub fn set_policy(&mut self, id: HolderId, policy: Option<Policy>, agenda: &mut Agenda) {
        let freed = self.sending.set_policy(id, policy, agenda);
        self.list(freed);
    }

    fn list(&mut self, links: Vec<LinkId>) {
        links.into_iter().for_each(|link| self.turn.list(link, &mut self.sending.links));
    }

    /// Sends `Start` on the link's connection that was used last.
    fn begin(&mut self, id: ConnId, publication: PublicationId, agenda: &mut Agenda) {
        let Some(of) = self.services.publication_mut(publication) else { return };
        of.is_used = true;
        let link = of.link;
        let Some(message) = self.sending.pools.next_idle(link) else { return };
        self.charge(id, link);
        let Some(of) = self.services.publication(publication) else { return };
        self.sending.begin_on(message, id, (publication, of), self.admission.terms(of.service), agenda);
    }

    /// A user's connection is gone.
    pub fn user_gone(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic, agenda: &mut Agenda) {
        let Some(user) = self.sending.users.remove(id) else { return };
        self.release(user.charged, user.is_new());
        self.share_places();
        self.services.stop_waiting(id);
        let paired = self.sending.offers.get(id).and_then(Offer::paired);
        self.sending.end_offer(id, paired, agenda);
        let lasted = self.sending.users.lasted(&user, agenda.now);
        let (service, account) =
            (self.admission.name(user.service).cloned(), self.admission.account(user.service));
        if let Some(account) = account.filter(|_| user.waits) {
            agenda.tally.user_waits(account, false);
        }
        self.admission.left(user.service, user.peer());
        let Some(service) = service else { return };
        let served = traffic.sent > 0 || user.first.is_some() && user.refused.is_none();
        let (sent, answered) = (traffic.received > 0, traffic.sent > 0);
        let counts = answered || user.is_taken && !user.has_ended;
        if let Some(publication) = user.served_by.filter(|_| counts) {
            self.probes.session_ended(publication, sent, answered);
        }
        let key = self.sending.key_of(user.charged.filter(|_| !user.is_new()));
        let (number, user) = (user.number, user.peer());
        let exposed_by = account.and_then(|it| agenda.tally.exposed_by(it)).cloned();
        let fact = Fact::UserLeft { number, user, service, exposed_by, key, traffic, lasted, served, reason };
        agenda.fact_of(account, fact);
    }

    /// A user has said all that it will, and has got nothing so far.
    pub fn user_unanswered(&mut self, id: ConnId) {
        let unanswered = self.sending.users.ended(id);
        unanswered.into_iter().for_each(|it| self.probes.session_ended(it, true, false));
    }

    /// A user has waited as long as it may.
    pub fn user_due(&mut self, id: ConnId, agenda: &mut Agenda) {
        if self.sending.offers.contains(id) {
            if let Some(link) = self.sending.offer_due(id, agenda) {
                self.waiting(agenda).offer_again(id, link);
            }
        } else if self.services.is_waiting(id) {
            self.sending.waited(id, self.services.awaited(id), agenda);
        }
    }

    pub fn is_user(&self, id: ConnId) -> bool {
        self.sending.users.contains(id)
    }

    // Message connections.

    pub fn is_message(&self, id: ConnId) -> bool {
        self.sending.pools.get(id).is_some()
    }

    /// A message connection of this link stands.
    pub fn message_came(&mut self, id: ConnId, link: LinkId, agenda: &mut Agenda) {
        if !self.sending.links.arrived(link) {
            return agenda.reset(id, CloseReason::LinkLost);
        }
        if let Some(link) = self.sending.links.get_mut(link) {
            (link.brings_none, link.has_lost_idle) = (false, false);
        }
        self.sending.pools.add(id, link, agenda.now);
        // There is room for one more on its way.
        self.sending.want_refill(link);
        self.became_idle(id, Place::Front, agenda);
    }

    /// A message connection that had a good ticket will not come.
    pub fn message_not_come(&mut self, link: LinkId) {
        self.sending.links.arrived(link);
        self.sending.want_refill(link);
    }

    /// Something happened to the session on a message connection.
    pub fn session_event(&mut self, id: ConnId, event: SessionEvent, agenda: &mut Agenda) {
        let Some((link, state)) = self.sending.pools.get(id) else { return };
        match (event, state) {
            (SessionEvent::Accepted, State::Offered(user)) => {
                self.services.stop_waiting(user);
                self.sending.accepted(id, link, user, agenda);
            }
            (SessionEvent::Refused, State::Offered(user)) => {
                self.waiting(agenda).refused(user, Some(id));
            }
            (SessionEvent::Duplicate, State::Offered(user)) => {
                self.sending.pools.set(id, State::Busy, Place::Back);
                let left = self.sending.offers.duplicate(user, id, agenda.now);
                self.waiting(agenda).duplicate(user, left);
            }
            (SessionEvent::Started, State::Accepted { user, publication, port }) => {
                self.sending.pools.set(id, State::Busy, Place::Back);
                agenda.at(id, None);
                if let Some(link) = self.sending.links.get_mut(link) {
                    link.session_started();
                }
                publication.into_iter().for_each(|it| self.probing(agenda).served(it, port));
                let unanswered = self.sending.users.taken(user);
                unanswered.into_iter().for_each(|it| self.probes.session_ended(it, true, false));
            }
            (SessionEvent::Idle { settled }, state) => {
                if let State::Probing(publication) = state {
                    self.probing(agenda).lost(id, publication);
                }
                if !matches!(state, State::Probing(_) | State::Probed) {
                    self.sending.pools.used(id, agenda.now);
                }
                // It was aborted for another reason, or was never sent.
                if let State::Offered(user) = state
                    && self.sending.offers.lost(user, id) != Left::Copies
                {
                    agenda.reset(user, CloseReason::Aborted(AbortReason::Reset));
                }
                if settled || self.drain == Drain::Retiring || !self.sending.may_serve(link) {
                    self.became_idle(id, Place::Front, agenda);
                } else {
                    // No session stands behind what the client may not have read: it answers when it has.
                    self.sending.pools.ping(id, State::Suspect, agenda.limits.settle, agenda);
                }
            }
            (SessionEvent::Pong, State::Pinged | State::Suspect) => {
                self.became_idle(id, Place::Back, agenda);
            }
            (event, State::Probing(publication)) => self.probing(agenda).heard(id, publication, event),
            (SessionEvent::Drain, State::Idle(_) | State::Pinged | State::Suspect) => {
                self.sending.pools.retire(id, CloseReason::Drained, agenda);
            }
            _ => {}
        }
    }

    /// A message connection is free: for a user who waits, or for the pool.
    fn became_idle(&mut self, id: ConnId, place: Place, agenda: &mut Agenda) {
        let Some((link, _)) = self.sending.pools.get(id) else { return };
        let heartbeat = self.sending.links.get(link).map(|link| link.heartbeat);
        let Some(heartbeat) = heartbeat.filter(|_| self.sending.may_serve(link)) else {
            self.sending.pools.retire(id, CloseReason::Drained, agenda);
            return self.close_if_drained(link, agenda);
        };
        self.sending.pools.set(id, State::Idle(agenda.now), place);
        let pause = agenda.jittered(quiet_for(heartbeat));
        agenda.after(id, pause);
        self.waiting(agenda).use_idle(link, usize::MAX);
        self.probing(agenda).idle(link);
        if self.drain == Drain::Retiring {
            self.sending.pools.retire_idle(link, agenda);
        }
    }

    /// A link serves a service now: users may wait for it, and it may have idle connections.
    pub fn published(&mut self, link: LinkId, agenda: &mut Agenda) {
        self.waiting(agenda).use_idle(link, usize::MAX);
        if self.sending.pools.idle(link) == 0 && self.services.is_wanted(link) {
            self.sending.want_one(link, agenda.now);
        }
    }

    /// A message connection's deadline has come.
    pub fn message_due(&mut self, id: ConnId, agenda: &mut Agenda) {
        let Some((link, state)) = self.sending.pools.get(id) else { return };
        match state {
            State::Idle(_) => {
                let Sending { links, pools, .. } = &mut self.sending;
                let places = links.get(link).map_or(0, |link| link.places(&agenda.limits));
                let pong = links.pong_time(link, &agenda.limits);
                pools.idle_due(id, (link, places, pong), agenda);
            }
            State::Pinged | State::Suspect => agenda.reset(id, CloseReason::NoPong),
            State::Accepted { publication, .. } => {
                agenda.reset(id, CloseReason::NotStarted);
                if let Some(link) = self.sending.links.get_mut(link) {
                    link.session_failed(agenda.now);
                }
                publication.into_iter().for_each(|it| self.probes.suspect(it, agenda.now));
            }
            State::Probing(publication) => self.probing(agenda).due(id, publication),
            State::Probed => self.probing(agenda).abort(id),
            State::Offered(_) | State::Busy | State::Leaving => {}
        }
    }

    /// A message connection is gone.
    pub fn message_gone(&mut self, id: ConnId, agenda: &mut Agenda) {
        let Some((link, state)) = self.sending.pools.remove(id) else { return };
        if self.sending.may_serve(link) {
            self.sending.want_refill(link);
        } else {
            self.close_if_drained(link, agenda);
        }
        match state {
            State::Offered(user) => {
                let left = self.sending.offers.lost(user, id);
                self.waiting(agenda).lost(user, left);
            }
            State::Probing(publication) => self.probing(agenda).lost(id, publication),
            State::Idle(_) | State::Pinged | State::Suspect => {
                if let Some(link) = self.sending.links.get_mut(link) {
                    link.has_lost_idle = true;
                }
            }
            _ => {}
        }
    }

    /// Asks each client that may need it for as many message connections as are missing.
    pub fn refill(&mut self, agenda: &mut Agenda) {
        while let Some(link) = self.sending.refills.next(&mut self.sending.links, agenda) {
            // A server that drains has no port where they could come.
            if self.drain == Drain::No && self.sending.may_serve(link) {
                let Sending { links, pools, .. } = &mut self.sending;
                refill::ask(link, links, pools, self.services.is_wanted(link), agenda);
            }
        }
    }

    pub fn user_count(&self) -> usize {
        self.sending.users.len()
    }

    /// Whether all sessions have ended, and their last bytes were read: a message connection that closes with the
    /// process may lose what it sent.
    pub fn is_over(&self) -> bool {
        self.sending.users.is_empty() && self.sending.pools.total() == 0
    }
}
