//! Probes: sessions without a user and without bytes, which prove that a publication's local server is reached through
//! a pooled message connection.
//!
//! A probe counts for no limit and is offered once. It takes a connection only where another one stays idle, so that a
//! user who comes meanwhile does not wait. Its own direction ends at once. What the local server says is thrown away,
//! and if that does not end by itself it is aborted.

use std::net::SocketAddr;
use std::time::Instant;

use super::Matching;
use crate::base::id::{ConnId, LinkId, PublicationId, ServiceId};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::machine::{Agenda, Fact, Output, PROBE_TIME, Reason, SessionEvent};
use crate::server::pool::{Place, State};
use crate::server::probes::{DOUBT, END_TIME, Probe};
use crate::wire::frame::{AbortReason, Start};

/// Idle connections of a link of which a probe takes one.
const SPARE: usize = 2;

/// One step with probes: it borrows what it works on.
pub(in crate::server) struct Probing<'m> {
    pub(super) all: &'m mut Matching,
    pub(super) agenda: &'m mut Agenda,
}

impl Probing<'_> {
    /// Probes what is to be probed now.
    pub fn go_on(&mut self) {
        while let Some(id) = self.all.probes.next(self.agenda.now) {
            self.attempt(id);
        }
    }

    fn attempt(&mut self, id: PublicationId) {
        let now = self.agenda.now;
        let Some(of) = self.all.services.publication(id) else { return self.all.probes.forget(id) };
        let (link_id, number) = (of.link, of.number);
        if !self.all.takes_users(link_id) {
            return self.all.probes.retry(id, false, now);
        }
        let Matching { sending, probes, .. } = &mut *self.all;
        let spare = sending.pools.next_idle(link_id).filter(|_| sending.pools.idle(link_id) >= SPARE);
        let Some(link) = sending.links.get_mut(link_id) else { return };
        link.is_probed = true;
        match spare {
            Some(message) => {
                let start = Start::probe(link.next_sid(), number, probes.begin(id, message, now));
                let doubted = link.round_trip.times(3).max(DOUBT);
                sending.pools.set(message, State::Probing(id), Place::Back);
                self.agenda.after(message, doubted);
                self.agenda.push(Output::Probe { message, start });
            }
            None => {
                sending.want_refill(link_id);
                probes.wait(id, link_id, now);
            }
        }
        // Its answer tells a client that is gone from message connections that are.
        sending.ping_link(link_id, self.agenda);
        if spare.is_none()
            && let Some(reason) = self.all.condition(now, &self.agenda.limits).fault(link_id)
            && self.all.probes.cannot(id, reason.clone())
        {
            self.tell_failed(id, reason);
        }
    }

    /// Something happened to the probe of this publication.
    pub fn heard(&mut self, message: ConnId, id: PublicationId, event: SessionEvent) {
        match event {
            SessionEvent::Accepted => self.all.probes.accepted(id),
            SessionEvent::Started => {
                let probe = self.all.probes.end(id, message);
                self.over(message, Some(self.agenda.now + END_TIME));
                probe.into_iter().for_each(|probe| self.all.probes.started(id, probe));
                self.proved(id);
                self.all.probes.rest(id);
            }
            SessionEvent::ProbeAborted(reason) => {
                let probe = self.all.probes.end(id, message);
                self.over(message, None);
                self.failed(id, probe, Reason::of_probe(reason));
            }
            _ => {}
        }
    }

    /// Nothing more is awaited of a probe but its end, until then.
    fn over(&mut self, message: ConnId, until: Option<Instant>) {
        self.all.sending.pools.set(message, State::Probed, Place::Back);
        self.agenda.at(message, until);
    }

    /// A probe is lost with its message connection, or by no fault of the client's.
    pub fn lost(&mut self, message: ConnId, id: PublicationId) {
        let probe = self.all.probes.end(id, message);
        self.failed(id, probe, None);
    }

    /// The time of a probe has come: to doubt its message connection, or to give it up.
    pub fn due(&mut self, message: ConnId, id: PublicationId) {
        let (now, Matching { sending, probes, .. }) = (self.agenda.now, &mut *self.all);
        let (Some(probe), Some((link_id, _))) = (probes.probe(id, message), sending.pools.get(message))
        else {
            return self.abort(message);
        };
        let Some(link) = sending.links.get(link_id) else { return };
        let silent = link.silent_for(now).map(Reason::ClientSilent);
        let until = probe.began + link.round_trip.wait(PROBE_TIME);
        let judged = if probe.accepted { until } else { link.silent_at().map_or(until, |at| until.max(at)) };
        if now < judged && silent.is_none() {
            if !probe.accepted && link.answered_ping_of >= probe.began {
                sending.ping_unheard(link_id, probe.began, self.agenda);
            }
            sending.ping_link(link_id, self.agenda);
            return self.agenda.at(message, Some(if now < until { until } else { judged }));
        }
        let is_since = |at: Instant| at > probe.began;
        let others_are_heard = link.accepted_at.is_some_and(is_since)
            || sending.pools.all_idle(link_id).any(|(_, heard)| is_since(heard));
        let reason = match silent {
            Some(silent) => Some(silent),
            None if probe.accepted => Some(Reason::LocalUnanswered),
            // A user would have been served on one of them, or was.
            None => (!others_are_heard).then_some(Reason::MessagesSilent),
        };
        let probe = probes.end(id, message);
        let is_lost = reason.is_none();
        self.abort(message);
        self.failed(id, probe, reason);
        if is_lost {
            self.all.probes.retry(id, true, now);
        }
    }

    /// Ends a probe that does not end by itself.
    pub fn abort(&mut self, message: ConnId) {
        self.over(message, None);
        self.agenda.push(Output::Abort { message, reason: AbortReason::Reset });
    }

    /// A session or a probe of a publication was started.
    pub fn proved(&mut self, id: PublicationId) {
        if !self.all.probes.proved(id, self.agenda.now) {
            return;
        }
        if let Some(of) = self.all.services.publication(id)
            && let Some(link) = self.all.sending.links.get_mut(of.link)
        {
            // Users may be given to it again.
            link.session_started();
        }
        if let Some((service, client)) = self.names(id) {
            self.agenda.fact(Fact::ServiceProved { service, client });
        }
    }

    /// The session of a user was started that came to this port.
    pub fn served(&mut self, id: PublicationId, port: u16) {
        if let Some(ports) = self.all.services.publication(id).and_then(|of| of.ports) {
            self.all.probes.served_at(id, port.wrapping_sub(ports.first));
        }
        self.proved(id);
    }

    /// The client has refused a user. It need not serve all ports of a range, and a user may choose one.
    pub fn refused(&mut self, id: PublicationId) {
        let is_alone = |ports: Ports| ports.count() == 1;
        let is_alone = self.all.services.publication(id).is_some_and(|of| of.ports.is_none_or(is_alone));
        if is_alone && self.all.probes.refused(id, Reason::LocalRefused) {
            self.tell_failed(id, Reason::LocalRefused);
        }
    }

    fn failed(&mut self, id: PublicationId, probe: Option<Probe>, reason: Option<Reason>) {
        let (probes, now) = (&mut self.all.probes, self.agenda.now);
        let (Some(probe), Some(reason)) = (probe, reason) else { return probes.retry(id, false, now) };
        let has_another_port = probes.has_another_port(id, probe, &reason);
        probes.retry(id, has_another_port, now);
        if !has_another_port && probes.failed(id, probe, reason.clone()) {
            self.tell_failed(id, reason);
        }
    }

    fn tell_failed(&mut self, id: PublicationId, reason: Reason) {
        if let Some((service, client)) = self.names(id) {
            self.agenda.fact(Fact::ServiceFails { service, client, reason });
        }
    }

    /// The service of a publication, and the key and the address of its client.
    fn names(&self, id: PublicationId) -> Option<(Name, Option<(Name, SocketAddr)>)> {
        let of = self.all.services.publication(id)?;
        let client = self.all.sending.links.get(of.link).map(|link| (link.key().clone(), link.peer));
        Some((self.all.services.name(of.service)?.clone(), client))
    }

    /// A link has one more idle connection.
    pub fn idle(&mut self, link: LinkId) {
        if self.all.sending.pools.idle(link) >= SPARE {
            self.all.probes.spare(link, self.agenda.now);
        }
    }

    /// A link serves a service now; its client lets that be probed, or not.
    pub fn published(&mut self, link: LinkId, service: ServiceId, client_lets: bool) {
        if self.all.services.is_served(service) {
            self.all.barred.forget(service);
        }
        if let Some(id) = self.all.services.publication_of(link, service) {
            let lets = (client_lets, self.service_lets(service));
            self.all.probes.add((link, id), lets, self.agenda.now);
        }
    }

    fn service_lets(&self, service: ServiceId) -> bool {
        self.all.admission.rules(service).is_some_and(|rules| rules.probe)
    }

    /// The rules of a service may let it be probed now, or not any more.
    pub fn rules_changed(&mut self, service: ServiceId) {
        let lets = self.service_lets(service);
        for id in self.all.services.publication_ids(service).collect::<Vec<_>>() {
            self.all.probes.service_lets(id, lets, self.agenda.now);
        }
    }
}
