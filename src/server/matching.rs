//! Who gets which message connection, and when to ask for more.
//!
//! Rules:
//! - `pool` message connections per link are idle or on their way; what is missing is asked for in one `Open`;
//! - a user is given the connection that was used last, and `Start` goes out at once;
//! - a session that is not accepted in time is sent again, on a connection that has proved to be alive;
//! - a user whose bytes may have reached a client goes to no other one, unless that one refused it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::drain::Drain;
use super::links::{Life, Links};
use super::pool::{ACCEPT_RECHECK, Place, Pools, STARTED_MARGIN, State};
use super::refill::{self, Refills};
use super::refused::Refused;
use super::services::{Readiness, Services};
use super::users::{User, Users};
use crate::base::id::{ConnId, LinkId, PublicationId, ServiceId};
use crate::machine::{Agenda, CloseReason, Fact, Manner, Output, SessionEvent, Traffic};
use crate::wire::control::ControlFrame;
use crate::wire::frame::AbortReason;

/// Users, message connections, and what joins them.
#[derive(Default)]
pub(super) struct Matching {
    pub services: Services,
    pub links: Links,
    pools: Pools,
    users: Users,
    pub refills: Refills,
    last_number: u64,
    drain: Drain,
}

impl Matching {
    /// A link was opened: its pool is filled.
    pub fn add_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        self.services.add_link(link);
        self.pools.add_link(link);
        self.want_refill(link);
        self.limit_users(agenda);
    }

    /// Each link takes room from users.
    pub fn limit_users(&mut self, agenda: &mut Agenda) {
        self.users.limit(agenda.limits.users_at_most(self.links.count()), agenda);
    }

    /// A link is gone: its message connections close, and users who waited for it go elsewhere or are told.
    pub fn remove_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        for id in self.pools.remove_link(link) {
            agenda.at(id, None);
            agenda.reset(id, CloseReason::LinkLost);
        }
        let users = self.services.remove_link(link);
        self.links.remove(link);
        self.limit_users(agenda);
        self.move_on(users, agenda);
    }

    /// Users who waited for one link alone cannot wait for it any more: they go elsewhere, or are told.
    fn move_on(&mut self, users: Vec<ConnId>, agenda: &mut Agenda) {
        for id in users {
            let Some(user) = self.users.get(id) else { continue };
            match user.refused.filter(|_| !user.tied) {
                Some(refused) => self.offer_elsewhere(id, refused, agenda),
                None => agenda.reset(id, CloseReason::LinkLost),
            }
        }
    }

    /// A link no longer serves what it published under this number; false if it did not.
    pub fn unpublish(&mut self, link: LinkId, number: u32, agenda: &mut Agenda) -> bool {
        let known = self.services.unpublish(link, number);
        for id in self.services.take_waiting(link) {
            let Some(service) = self.users.get(id).map(|user| user.service) else { continue };
            if self.services.publication_of(link, service).is_some() {
                self.offer_to(id, service, link, false, agenda);
            } else {
                self.move_on(vec![id], agenda);
            }
        }
        known
    }

    /// The client of a link is leaving: its idle connections go, its running sessions go on.
    pub fn drain_link(&mut self, link: LinkId, agenda: &mut Agenda) {
        if let Some(link) = self.links.get_mut(link) {
            link.life = Life::Draining;
        }
        self.pools.retire_idle(link, agenda);
        let users = self.services.take_waiting(link);
        self.move_on(users, agenda);
        self.close_if_drained(link, agenda);
    }

    fn close_if_drained(&mut self, link: LinkId, agenda: &mut Agenda) {
        if let Some(it) = self.links.get(link)
            && it.life == Life::Draining
            && self.pools.staying(link) == 0
        {
            agenda.close(it.control, CloseReason::Drained, Manner::Whole);
        }
    }

    fn may_serve(&self, link: LinkId) -> bool {
        self.links.may_serve(link)
    }

    fn is_ready(&self, link: LinkId) -> bool {
        self.may_serve(link) && self.pools.idle(link) > 0
    }

    // Users.

    /// A user came.
    pub fn user_came(
        &mut self,
        id: ConnId,
        service: ServiceId,
        (peer, asked): (SocketAddr, SocketAddr),
        agenda: &mut Agenda,
    ) {
        self.last_number += 1;
        self.users.insert(id, User::new(service, peer, asked, agenda.now, self.last_number));
        if self.users.is_beyond_share(id) {
            return agenda.reset(id, CloseReason::Full);
        }
        if let Some(publication) = self.next_ready(service, agenda.now) {
            return self.begin(id, publication, agenda);
        }
        // Only a user who has to wait counts as waiting.
        if self.services.waiting_count() >= agenda.limits.waiting_max {
            match self.services.must_make_room(service, self.users.origin(id), &agenda.limits) {
                Some(last) => {
                    self.services.stop_waiting(last);
                    agenda.reset(last, CloseReason::Full);
                }
                None => return agenda.reset(id, CloseReason::Full),
            }
        }
        self.services.wait(id, self.users.origin(id), service, false);
        let asked = self.ask_for_one(service);
        agenda.after(id, self.links.wait_for(asked, agenda.limits.wait));
    }

    fn next_ready(&mut self, service: ServiceId, now: Instant) -> Option<PublicationId> {
        let Matching { services, links, pools, .. } = self;
        services.next_ready(service, |link| match pools.idle(link) {
            0 => Readiness::Not,
            _ => links.readiness(link, now),
        })
    }

    /// One more connection is asked for, because a user of this service waits.
    fn ask_for_one(&mut self, service: ServiceId) -> Option<LinkId> {
        let Matching { services, links, .. } = self;
        let link = services.next_to_ask(service, |link| links.may_serve(link))?;
        self.want_one(link);
        Some(link)
    }

    fn want_one(&mut self, link: LinkId) {
        if let Some(it) = self.links.get_mut(link) {
            it.wanted += 1;
            self.want_refill(link);
        }
    }

    /// A user lost its message connection before its session was accepted, or was refused.
    pub fn returned(&mut self, id: ConnId, refused: bool, spoken: bool, agenda: &mut Agenda) {
        let Some(user) = self.users.get_mut(id) else { return };
        let (since, served_by) = (user.since, user.served_by);
        let link = served_by.and_then(|it| self.services.publication(it)).map(|it| it.link);
        agenda.at(id, Some(since + self.links.wait_for(link, agenda.limits.wait)));
        let Some(user) = self.users.get_mut(id) else { return };
        if refused {
            // It is certain that nothing was delivered: it is as good as new, but not to that client.
            (user.first, user.tied) = (None, false);
            let Some(served_by) = user.served_by else { return };
            let refused = *user.refused.get_or_insert(Refused::by(served_by));
            return self.offer_elsewhere(id, refused, agenda);
        }
        user.tied = spoken;
        let (service, first) = (user.service, user.first.map(|(link, _)| link));
        match first {
            Some(link) if spoken => self.offer_to(id, service, link, true, agenda),
            _ if spoken => agenda.reset(id, CloseReason::LinkLost),
            _ => match self.next_ready(service, agenda.now) {
                Some(publication) => self.begin(id, publication, agenda),
                None => {
                    // It has waited longest.
                    self.services.wait(id, self.users.origin(id), service, true);
                    self.ask_for_one(service);
                }
            },
        }
    }

    /// A user that was refused goes to the next publication of its service, or is told.
    fn offer_elsewhere(&mut self, id: ConnId, mut refused: Refused, agenda: &mut Agenda) {
        let Some(service) = self.users.get(id).map(|user| user.service) else { return };
        let (may_serve, is_ready) = (|link| self.may_serve(link), |link| self.is_ready(link));
        let next = self.services.next_after(service, &mut refused, may_serve, is_ready);
        match next.and_then(|next| self.services.publication(next)).map(|it| it.link) {
            Some(link) => {
                if let Some(user) = self.users.get_mut(id) {
                    user.refused = Some(refused);
                }
                self.offer_to(id, service, link, false, agenda);
            }
            None => agenda.reset(id, CloseReason::Aborted(AbortReason::Refused)),
        }
    }

    /// A user is given this link's next connection, at once or when there is one.
    fn offer_to(&mut self, id: ConnId, service: ServiceId, link: LinkId, first: bool, agenda: &mut Agenda) {
        match self.services.publication_of(link, service) {
            Some(publication) if self.is_ready(link) => self.begin(id, publication, agenda),
            Some(_) if self.may_serve(link) => {
                self.services.wait_for_link(id, self.users.origin(id), link, first);
                self.want_one(link);
            }
            _ => agenda.reset(id, CloseReason::LinkLost),
        }
    }

    /// Sends `Start` on the link's connection that was used last.
    fn begin(&mut self, id: ConnId, publication_id: PublicationId, agenda: &mut Agenda) {
        let Some(&publication) = self.services.publication(publication_id) else { return };
        let link_id = publication.link;
        let (Some(link), Some(message)) = (self.links.get_mut(link_id), self.pools.next_idle(link_id)) else {
            return;
        };
        let Some(user) = self.users.get_mut(id) else { return };
        user.served_by = Some(publication_id);
        let start = user.start(link_id, link.next_sid(), publication.number);
        let (least, most) = agenda.limits.accept;
        let accept_time = link.round_trip.times(3).clamp(least, most);
        let offered = State::Offered { sent: agenda.now, dial_ms: publication.dial_ms };
        self.pools.set(message, offered, Place::Back);
        self.pools.recent_peak(link_id, agenda.now, agenda.limits.retire);
        agenda.at(id, None);
        agenda.after(message, accept_time);
        self.want_refill(link_id);
        agenda.push(Output::Start { message, user: id, start });
    }

    /// A user's connection is gone.
    pub fn user_gone(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic, agenda: &mut Agenda) {
        let Some(user) = self.users.remove(id) else { return };
        self.services.stop_waiting(id);
        let Some(service) = self.services.name(user.service).cloned() else { return };
        agenda.fact(Fact::UserLeft {
            number: user.number,
            user: user.peer(),
            service,
            traffic,
            lasted: agenda.now.saturating_duration_since(user.since),
            served: traffic.sent > 0 || user.first.is_some() && user.refused.is_none(),
            reason,
        });
    }

    /// A user has waited as long as it may.
    pub fn user_due(&mut self, id: ConnId, agenda: &mut Agenda) {
        if self.services.is_waiting(id) {
            agenda.reset(id, CloseReason::NoClient);
        }
    }

    pub fn is_user(&self, id: ConnId) -> bool {
        self.users.contains(id)
    }

    // Message connections.

    pub fn is_message(&self, id: ConnId) -> bool {
        self.pools.get(id).is_some()
    }

    /// A message connection of this link stands.
    pub fn message_came(&mut self, id: ConnId, link: LinkId, agenda: &mut Agenda) {
        if !self.links.arrived(link) {
            return agenda.reset(id, CloseReason::LinkLost);
        }
        if let Some(link) = self.links.get_mut(link) {
            link.brings_none = false;
        }
        self.pools.add(id, link, agenda.now);
        // There is room for one more on its way.
        self.want_refill(link);
        self.became_idle(id, agenda.now, Place::Front, agenda);
    }

    /// A message connection that had a good ticket will not come.
    pub fn message_not_come(&mut self, link: LinkId) {
        self.links.arrived(link);
        self.want_refill(link);
    }

    /// Something happened to the session on a message connection.
    pub fn session_event(&mut self, id: ConnId, event: SessionEvent, agenda: &mut Agenda) {
        let Some((link, state)) = self.pools.get(id) else { return };
        match (event, state) {
            (SessionEvent::Accepted, State::Offered { sent, dial_ms }) => {
                let Some(link) = self.links.get_mut(link) else { return };
                link.round_trip.measured(agenda.now.saturating_duration_since(sent));
                link.session_accepted();
                let margin = link.round_trip.times(0).max(STARTED_MARGIN);
                self.pools.set(id, State::Accepted, Place::Back);
                agenda.after(id, Duration::from_millis(dial_ms.into()) + margin);
            }
            (SessionEvent::Started, State::Accepted) => {
                self.pools.set(id, State::Busy, Place::Back);
                agenda.at(id, None);
                if let Some(link) = self.links.get_mut(link) {
                    link.session_started();
                }
            }
            (SessionEvent::Idle { settled }, _) => {
                if settled || self.drain == Drain::Retiring || !self.may_serve(link) {
                    self.became_idle(id, agenda.now, Place::Front, agenda);
                } else {
                    // No session stands behind what the client may not have read: it answers when it has.
                    self.pools.ping(id, State::Suspect(agenda.now), agenda.limits.settle, agenda);
                }
            }
            (SessionEvent::Pong, State::Pinged(since) | State::Suspect(since)) => {
                self.became_idle(id, since, Place::Back, agenda);
            }
            (SessionEvent::Drain, State::Idle(_) | State::Pinged(_) | State::Suspect(_)) => {
                self.pools.retire(id, CloseReason::Drained, agenda);
            }
            _ => {}
        }
    }

    /// A message connection is free: for a user who waits, or for the pool.
    fn became_idle(&mut self, id: ConnId, since: Instant, place: Place, agenda: &mut Agenda) {
        let Some((link, _)) = self.pools.get(id) else { return };
        if !self.may_serve(link) {
            self.pools.retire(id, CloseReason::Drained, agenda);
            return self.close_if_drained(link, agenda);
        }
        self.pools.set(id, State::Idle(since), place);
        let pause = agenda.jittered(agenda.limits.idle_ping);
        agenda.after(id, pause);
        self.use_idle(link, agenda);
        if self.drain == Drain::Retiring {
            self.pools.retire_idle(link, agenda);
        }
    }

    /// A link serves a service now: users may wait for it, and it may have idle connections.
    pub fn published(&mut self, link: LinkId, agenda: &mut Agenda) {
        self.use_idle(link, agenda);
        if self.pools.idle(link) == 0 && self.services.is_wanted(link) {
            self.want_one(link);
        }
    }

    /// A link's idle connections are for users who wait, and else for the next ones.
    fn use_idle(&mut self, link: LinkId, agenda: &mut Agenda) {
        while self.pools.idle(link) > 0 {
            let Some(user) = self.services.next_user(link) else { break };
            let service = self.users.get(user).map(|user| user.service);
            match service.and_then(|service| self.services.publication_of(link, service)) {
                Some(publication) => self.begin(user, publication, agenda),
                None => agenda.reset(user, CloseReason::NoClient),
            }
        }
        if self.pools.idle(link) > 0 {
            self.services.became_ready(link);
        }
    }

    /// A message connection's deadline has come.
    pub fn message_due(&mut self, id: ConnId, agenda: &mut Agenda) {
        let Some((link, state)) = self.pools.get(id) else { return };
        match state {
            State::Offered { sent, .. } => self.late(id, link, sent, agenda),
            State::Idle(since) => {
                self.pools.idle_due(id, (link, self.links.pong_time(link, &agenda.limits)), since, agenda)
            }
            State::Pinged(_) | State::Suspect(_) => agenda.reset(id, CloseReason::NoPong),
            State::Accepted => {
                agenda.reset(id, CloseReason::NotStarted);
                if let Some(link) = self.links.get_mut(link) {
                    link.session_failed(agenda.now);
                }
            }
            State::Busy | State::Leaving => {}
        }
    }

    /// A session is late to be accepted.
    ///
    /// A client that does not answer on its control connection either is slow, not cut off from this message
    /// connection: the round trip is longer than it was, and so is the time to accept. And one that answers serves its
    /// control connection first: it may still be on its way to the `Start`.
    fn late(&mut self, id: ConnId, link_id: LinkId, sent: Instant, agenda: &mut Agenda) {
        let (least, most) = agenda.limits.accept;
        let last = sent + most;
        let Some(link) = self.links.get_mut(link_id) else { return };
        let had_its_turn = agenda.now >= link.heard + least;
        let answered = link.answered_ping_of >= sent;
        if answered && had_its_turn || agenda.now >= last {
            link.session_failed(agenda.now);
            if link.spend_offer(agenda.limits.pool) {
                agenda.reset(id, CloseReason::NotAccepted);
                return self.suspect_idle(link_id, agenda);
            }
            // Too many were late: it waits for its first connection.
            return agenda.after(id, least);
        }
        if !answered {
            self.ping_link(link_id, agenda);
        }
        agenda.at(id, Some(last.min(agenda.now + ACCEPT_RECHECK)));
    }

    /// A connection of this link has failed: its idle ones must prove that they are alive.
    fn suspect_idle(&mut self, link: LinkId, agenda: &mut Agenda) {
        let wait = self.links.pong_time(link, &agenda.limits);
        while let Some(id) = self.pools.next_idle(link) {
            let Some((_, State::Idle(since))) = self.pools.get(id) else { break };
            self.pools.ping(id, State::Suspect(since), wait, agenda);
        }
        self.want_refill(link);
    }

    /// A message connection is gone.
    pub fn message_gone(&mut self, id: ConnId, agenda: &mut Agenda) {
        let Some((link, _)) = self.pools.remove(id) else { return };
        if self.may_serve(link) {
            self.want_refill(link);
        } else {
            self.close_if_drained(link, agenda);
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

    pub fn want_refill(&mut self, link: LinkId) {
        self.refills.want(link, &mut self.links);
    }

    /// Asks each client that may need it for as many message connections as are missing.
    pub fn refill(&mut self, agenda: &mut Agenda) {
        while let Some(link) = self.refills.next(&mut self.links) {
            // A server that drains has no port where they could come.
            if self.drain == Drain::No && self.may_serve(link) {
                refill::ask(link, &mut self.links, &mut self.pools, self.services.is_wanted(link), agenda);
            }
        }
    }

    /// No user comes any more: clients are told, so that they look for another server while their sessions go on.
    pub fn drain(&mut self, agenda: &mut Agenda) {
        self.drain = Drain::Begun;
        for link in self.links.ids().into_iter().filter_map(|link| self.links.get(link)) {
            agenda.push(Output::Send { id: link.control, frame: ControlFrame::Drain });
        }
    }

    /// Closes idle connections of a server that drains, once every session is accepted.
    pub fn go_on_draining(&mut self, agenda: &mut Agenda) {
        if self.drain.retires_at(self.services.waiting_count() + self.pools.offered()) {
            self.links.ids().into_iter().for_each(|link| self.pools.retire_idle(link, agenda));
        }
    }

    /// The time of the drain is over: users who are left are told. Returns how many.
    pub fn give_up(&mut self, agenda: &mut Agenda) -> usize {
        let mut users: Vec<ConnId> = self.users.iter().map(|(id, _)| id).collect();
        users.sort();
        users.iter().for_each(|&id| agenda.reset(id, CloseReason::Shutdown));
        users.len()
    }

    pub fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Whether all sessions have ended, and their last bytes were read: a message connection that closes with the
    /// process may lose what it sent.
    pub fn is_over(&self) -> bool {
        self.users.is_empty() && self.pools.total() == 0
    }
}
