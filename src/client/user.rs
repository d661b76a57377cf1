//! The user of a session, as the server tells of it; a probe has none.

use std::io::ErrorKind;
use std::time::Instant;

use super::names::Names;
use super::publications::{OfferId, Publications};
use crate::base::address::PackedAddress;
use crate::machine::{Agenda, CloseReason, Fact, Reason, Traffic};
use crate::wire::frame::{AbortReason, Start};

/// The user of a session, or a probe.
#[derive(Clone, Copy)]
pub(super) struct UserOf {
    /// Its number at the server.
    pub number: u64,
    address: PackedAddress,
    /// `None` if there is no such publication.
    pub offer: Option<OfferId>,
    pub port_offset: u16,
    pub since: Instant,
}

impl UserOf {
    /// The user of a session that begins now.
    pub fn new(start: &Start, publications: &Publications, now: Instant) -> UserOf {
        UserOf {
            number: start.number,
            address: start.user.into(),
            offer: publications.offer_of(start.publication),
            port_offset: start.port_offset,
            since: now,
        }
    }

    /// Whether it is a probe, and no user.
    pub fn is_probe(&self) -> bool {
        Start::is_nobody(self.address.into())
    }

    /// The session has found its local server.
    pub fn proved(&self, publications: &mut Publications, agenda: &mut Agenda) {
        publications.proved(self.offer, agenda);
    }

    /// The session has not found its local server: people are told, and the server hears this.
    pub fn not_served(
        &self,
        reason: CloseReason,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) -> AbortReason {
        if !self.is_probe() {
            self.tell_failed(reason, publications, agenda);
        }
        match self.failure(reason) {
            Some(failure) => self.failed(failure, publications, agenda),
            None if self.is_probe() => AbortReason::Reset,
            None => AbortReason::Refused,
        }
    }

    /// The local server's name leads nowhere.
    pub fn not_resolved(
        &self,
        names: &Names,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) -> AbortReason {
        let host = publications.offer(self.offer).and_then(|offer| names.host(offer.name));
        self.failed(Reason::Unresolved(host), publications, agenda)
    }

    /// What is published fails. Returns what the server is told: only one that has sent a probe knows more than one
    /// word.
    pub fn failed(
        &self,
        reason: Reason,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) -> AbortReason {
        let told = match reason {
            _ if !self.is_probe() => AbortReason::Refused,
            Reason::Unresolved(_) => AbortReason::Unresolved,
            Reason::LocalUnanswered => AbortReason::Unanswered,
            Reason::NoDescriptor => AbortReason::NoDescriptor,
            Reason::Local(_) => AbortReason::Unreachable,
            _ => AbortReason::Refused,
        };
        // People are told of a user that is not served, and of a name that leads nowhere, by that fact.
        let is_told = !self.is_probe() || matches!(reason, Reason::Unresolved(_));
        publications.failed(self.offer, reason, !is_told, agenda);
        told
    }

    /// What an end that came before the local server was reached says of what is published. A user may come to a port
    /// of a range where nothing is meant to be, and with many others: so of its session only that counts which no user
    /// brings about.
    fn failure(&self, reason: CloseReason) -> Option<Reason> {
        let CloseReason::DialFailed(fault) = reason else { return None };
        let failure = match fault.kind() {
            _ if fault.is_exhaustion() => Reason::NoDescriptor,
            ErrorKind::ConnectionRefused => Reason::LocalRefused,
            ErrorKind::TimedOut => Reason::LocalUnanswered,
            _ => Reason::Local(fault),
        };
        let by_nobody = match fault.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                self.port_offset == 0
            }
            _ => false,
        };
        (self.is_probe() || by_nobody).then_some(failure)
    }

    /// Tells that a local server could not be reached.
    pub fn tell_failed(&self, reason: CloseReason, publications: &Publications, agenda: &mut Agenda) {
        let offer = publications.offer(self.offer).filter(|_| !self.is_probe());
        if let Some((offer, local)) = offer.and_then(|it| Some((it, it.local(self.port_offset)?))) {
            agenda.fact(Fact::LocalFailed {
                number: self.number,
                user: self.address.into(),
                service: offer.publication.name.clone(),
                local,
                reason,
            });
        }
    }

    /// The session of a user has ended that had found its local server.
    pub fn ended(
        &self,
        reason: CloseReason,
        traffic: Traffic,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) {
        if self.is_probe() {
            return;
        }
        publications.session_ended(self.offer, traffic.sent > 0, traffic.received > 0);
        let offer = publications.offer(self.offer);
        if let Some((offer, local)) = offer.and_then(|it| Some((it, it.local(self.port_offset)?))) {
            agenda.fact(Fact::SessionEnded {
                number: self.number,
                user: self.address.into(),
                service: offer.publication.name.clone(),
                local,
                traffic,
                lasted: agenda.now.saturating_duration_since(self.since),
                reason,
            });
        }
    }
}
