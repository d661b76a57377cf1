//! Sending users' sessions to clients, and what comes of it until a client has accepted them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::holders::Holders;
use super::links::{Links, PING_INTERVAL};
use super::offers::{Due, Offer, Offers};
use super::pool::{Place, Pools, STARTED_MARGIN, State};
use super::rates::Rates;
use super::refill::{self, Burst, Refills};
use super::refused::Standing;
use super::services::{Publication, Readiness};
use super::users::{User, Users};
use crate::base::id::{ConnId, HolderId, LinkId, PublicationId};
use crate::base::name::Name;
use crate::base::rate::Rate;
use crate::config::Key;
use crate::config::policy::Policy;
use crate::machine::{Agenda, CloseReason, Output, Terms};
use crate::wire::control::ControlFrame;

/// Who sends, to whom, and on what.
#[derive(Default)]
pub(super) struct Sending {
    pub holders: Holders,
    pub links: Links,
    pub rates: Rates,
    pub pools: Pools,
    pub users: Users,
    pub offers: Offers,
    pub refills: Refills,
}

impl Sending {
    /// There is a key, and its holder may do this; `None`: nothing.
    pub fn add_key(&mut self, key: &Key, policy: Option<Policy>, agenda: &mut Agenda) {
        self.rates.set(&key.name, rate_of(policy.as_ref()), agenda);
        self.holders.add(key.clone(), policy);
    }

    /// The holder of a key may do this from now on; `None`: nothing. Returns links of it that may take users now.
    pub fn set_policy(&mut self, id: HolderId, policy: Option<Policy>, agenda: &mut Agenda) -> Vec<LinkId> {
        let Some(holder) = self.holders.get(id) else { return Vec::new() };
        self.rates.set(&holder.key.name, rate_of(policy.as_ref()), agenda);
        self.holders.set_policy(id, policy)
    }

    /// There is no such key any more; returns its links.
    pub fn remove_key(&mut self, key: &Name, agenda: &mut Agenda) -> BTreeSet<LinkId> {
        self.rates.set(key, None, agenda);
        self.holders.remove(key)
    }

    /// The sessions of a link share the rate of its key.
    pub fn share_rate(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(link) {
            link.rate = self.rates.link_came(link.key());
        }
    }

    /// Each link, and each port that a client asked for, takes room from users.
    pub fn limit_users(&mut self, agenda: &mut Agenda) {
        self.users.limit(agenda.limits.users_at_most(self.links.count(), self.links.ports), agenda);
    }

    pub fn may_serve(&self, link: LinkId) -> bool {
        self.links.may_serve(link)
    }

    /// Whether the key of a link may have no further user.
    pub fn is_full(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(|link| self.holders.is_full(link.identity.holder))
    }

    /// Whether the key of a link may have no user that comes now.
    pub fn is_full_for_new(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(|link| self.holders.is_full_for_new(link.identity.holder))
    }

    /// Whether a link may be given a user that no key counts yet.
    pub fn may_take(&self, link: LinkId) -> bool {
        self.may_serve(link) && !self.is_full(link)
    }

    /// A user counts for the key of this link, and for no other.
    pub fn charge(&mut self, id: ConnId, link: LinkId) -> Vec<LinkId> {
        let holder = self.links.get(link).map(|link| link.identity.holder);
        let Some(user) = self.users.get_mut(id) else { return Vec::new() };
        let was_expected = user.is_new();
        if user.charged == holder && !was_expected {
            return Vec::new();
        }
        if let Some(holder) = holder {
            self.holders.charge(holder);
        }
        let before = std::mem::replace(&mut user.charged, holder);
        before.map_or_else(Vec::new, |before| self.holders.release(before, was_expected))
    }

    /// A user that has come waits for a connection of this link.
    pub fn expects(&mut self, id: ConnId, link: LinkId) {
        let holder = self.links.get(link).map(|link| link.identity.holder);
        let Some(user) = self.users.get_mut(id).filter(|user| user.charged.is_none()) else { return };
        user.charged = holder;
        holder.into_iter().for_each(|holder| self.holders.expects(holder));
    }

    /// The name of the key that a user counts for.
    pub fn key_of(&self, charged: Option<HolderId>) -> Option<Name> {
        charged.and_then(|holder| Some(self.holders.get(holder)?.key.name.clone()))
    }

    pub fn is_ready(&self, link: LinkId) -> bool {
        self.may_serve(link) && self.pools.idle(link) > 0
    }

    /// Where a link stands that may serve a refused user.
    pub fn standing(&self, link: LinkId, now: Instant) -> Standing {
        match self.links.readiness(link, now) {
            Readiness::Ready if self.pools.idle(link) > 0 => Standing::Ready,
            Readiness::Ready | Readiness::Not => Standing::Busy,
            Readiness::Failing => Standing::Failing,
        }
    }

    /// Sends `Start` on this connection; its link says whose rate the session shares beside these terms.
    pub fn begin_on(
        &mut self,
        message: ConnId,
        id: ConnId,
        (publication, of): (PublicationId, &Publication),
        terms: Terms,
        agenda: &mut Agenda,
    ) {
        let lasted = self.users.get(id).map(|user| self.users.lasted(user, agenda.now));
        let &Publication { link: link_id, number, dial_ms, ports, .. } = of;
        let (Some(link), Some(user)) = (self.links.get_mut(link_id), self.users.get_mut(id)) else { return };
        match (user.served_by.replace(publication), terms.account, lasted) {
            (None, Some(account), Some(wait)) => agenda.tally.waited(account, wait),
            (None, ..) => {}
            (Some(_), ..) => agenda.tally.redelivered(),
        }
        if std::mem::take(&mut user.waits) {
            terms.account.into_iter().for_each(|account| agenda.tally.user_waits(account, false));
        }
        let start = user.start(link_id, link.next_sid(), number, ports.map(|ports| ports.first));
        let terms = Terms { rate: link.rate, ..terms };
        Burst::note(&mut link.burst, &link.round_trip, agenda.now);
        let looked_at = self.offers.add(id, message, (link_id, link), dial_ms, (agenda.now, &agenda.limits));
        self.pools.set(message, State::Offered(id), Place::Back);
        self.pools.recent_peak(link_id, agenda.now, agenda.limits.retire);
        agenda.at(message, None);
        agenda.at(id, Some(looked_at));
        self.want_refill(link_id);
        agenda.push(Output::Start { message, user: id, start, terms });
    }

    /// A user's session is offered no more: its copies are aborted, but for the one on this message connection.
    pub fn end_offer(&mut self, user: ConnId, message: Option<ConnId>, agenda: &mut Agenda) -> Option<Offer> {
        let offer = self.offers.remove(user)?;
        agenda.at(user, None);
        for copy in offer.copies() {
            self.pools.set(copy, State::Busy, Place::Back);
            if Some(copy) != message {
                agenda.push(Output::AbortCopy(copy));
            }
        }
        Some(offer)
    }

    /// A client has accepted this copy of a user's session first: it is served, and the others are aborted alone.
    pub fn accepted(&mut self, id: ConnId, link: LinkId, user: ConnId, agenda: &mut Agenda) {
        let Some(link) = self.links.get_mut(link) else { return };
        let Some(offer) = self.offers.get(user) else { return };
        if offer.is_only() {
            link.round_trip.measured(agenda.now.saturating_duration_since(offer.sent));
        } else {
            agenda.push(Output::Take { message: id, user });
        }
        link.session_accepted(agenda.now);
        let margin = link.round_trip.times(0).max(STARTED_MARGIN);
        let Some(offer) = self.end_offer(user, Some(id), agenda) else { return };
        let it = self.users.get(user);
        let (publication, port) = (it.and_then(|it| it.served_by), it.map_or(0, User::asked_port));
        self.pools.set(id, State::Accepted { user, publication, port }, Place::Back);
        agenda.after(id, Duration::from_millis(offer.dial_ms.into()) + margin);
    }

    /// The time of a session that is not accepted has come. Returns its link if it is late.
    pub fn offer_due(&mut self, id: ConnId, agenda: &mut Agenda) -> Option<LinkId> {
        let link_id = self.offers.get(id)?.link;
        let link = self.links.get_mut(link_id)?;
        let due = self.offers.due(id, link, agenda.now, &agenda.limits)?;
        if let Due::Overdue { newly: true, .. } | Due::Late { newly: true, .. } = due {
            link.session_failed(agenda.now);
        }
        let again = match due {
            Due::GivenUp => {
                agenda.reset(id, CloseReason::NotAccepted);
                return None;
            }
            Due::Later(at) | Due::Ask(at) | Due::Overdue { again: at, .. } | Due::Late { again: at, .. } => {
                at
            }
        };
        agenda.at(id, Some(again));
        if let Due::Later(_) = due {
            return None;
        }
        self.ping_link(link_id, agenda);
        if let Due::Overdue { .. } = due
            && let Some(link) = self.links.get_mut(link_id)
        {
            link.overdue.insert(id);
            if !link.is_pinged() {
                // The last ping was sent too short a time ago.
                agenda.after(id, PING_INTERVAL);
            }
        }
        matches!(due, Due::Late { .. }).then_some(link_id)
    }

    /// A client has given a sign of life. It had accepted by then what it could read, so what is overdue is looked at
    /// once everything is read that has come.
    pub fn link_answered(&mut self, link: LinkId, agenda: &mut Agenda) {
        let Some(link) = self.links.get_mut(link) else { return };
        link.answered(agenda.now);
        for id in std::mem::take(&mut link.overdue) {
            if self.offers.contains(id) {
                agenda.at(id, Some(agenda.now));
            }
        }
    }

    /// Asks a client whether it is alive, unless a ping is on its way already.
    pub fn ping_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        if let Some(link) = self.links.get_mut(link)
            && link.may_ping(agenda.now)
        {
            agenda.push(Output::Send { id: link.control, frame: ControlFrame::Ping });
        }
    }

    /// A client of this key finds no room. Of the key's other clients, the one that was not heard for longest has to
    /// say that it is there: its machine may have died, and it is the same one that comes back.
    pub fn contest_link(&mut self, holder: HolderId, agenda: &mut Agenda) {
        let Some(holder) = self.holders.get(holder) else { return };
        let standing = holder.links.iter().filter_map(|&id| Some((self.links.get(id)?.heard, id)));
        let standing = standing.filter(|it| self.links.may_serve(it.1));
        if let Some((_, id)) = standing.min() {
            self.ping_link(id, agenda);
            self.links.contest(id, agenda);
        }
    }

    pub fn want_refill(&mut self, link: LinkId) {
        self.refills.want(link, &mut self.links);
    }

    /// One more connection of this link is asked for, because a user waits.
    pub fn want_one(&mut self, link: LinkId, now: Instant) {
        if let Some(it) = self.links.get_mut(link) {
            it.wanted += 1;
            Burst::note(&mut it.burst, &it.round_trip, now);
            self.want_refill(link);
        }
    }

    /// A message connection shows this ticket of a link; false if it is not good.
    pub fn redeem(&mut self, link: LinkId, ticket: u64, agenda: &Agenda) -> bool {
        let has_room = refill::has_room_unasked(link, &self.links, &self.pools, &agenda.limits);
        self.links.redeem(link, ticket, has_room, agenda.now)
    }

    /// How long a user waits for a connection, which a link was asked for if there is one. Where its client is there
    /// and owes a pong, TCP pauses on the control connection.
    fn wait(&self, link: Option<LinkId>, agenda: &Agenda) -> Duration {
        let limits = &agenda.limits;
        let Some(link) = link.and_then(|link| self.links.get(link)) else { return limits.wait };
        let is_slow = link.owes_pong_since(agenda.now, limits).is_some_and(|sent| link.heard > sent);
        let least = if is_slow { limits.unheard } else { limits.wait };
        link.round_trip.times(4).clamp(least, limits.user_patience)
    }

    /// A user waits for a connection, which a link was asked for if there is one.
    pub fn wait_at_most(&self, id: ConnId, link: Option<LinkId>, agenda: &mut Agenda) {
        agenda.after(id, self.wait(link, agenda));
    }

    /// A user has waited as long as it seemed right: the round trip may have grown meanwhile. Resets it, or waits on.
    pub fn waited(&self, id: ConnId, link: Option<LinkId>, agenda: &mut Agenda) {
        let Some(user) = self.users.get(id) else { return };
        let until = self.users.came(user).map_or(agenda.now, |came| came + self.wait(link, agenda));
        if until > agenda.now {
            agenda.at(id, Some(until));
        } else {
            let is_served = link.is_some_and(|link| self.links.may_serve(link));
            agenda.reset(id, if is_served { CloseReason::NotReached } else { CloseReason::NoClient });
        }
    }

    /// Idle connections of a link that were not heard since this time may have failed, and are pinged.
    pub fn ping_unheard(&mut self, link: LinkId, since: Instant, agenda: &mut Agenda) {
        let pong_time = self.links.pong_time(link, &agenda.limits);
        let unheard = self.pools.all_idle(link).filter(|(_, heard)| *heard < since);
        for (id, _) in unheard.collect::<Vec<_>>() {
            self.pools.ping(id, State::Suspect, pong_time, agenda);
        }
        self.want_refill(link);
    }
}

fn rate_of(policy: Option<&Policy>) -> Option<Rate> {
    policy.and_then(|policy| policy.rate)
}
