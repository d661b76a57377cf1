//! The user of a session, as the server tells of it; a probe has none.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::names::Names;
use super::publications::{OfferId, Publications};
use crate::base::address::PackedAddress;
use crate::base::id::AccountId;
use crate::machine::{Agenda, CloseReason, Ending, Fact, Outcome, Reason, Traffic};
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
    /// Microseconds from when the client began: half as long as an `Instant`.
    since_us: u64,
}

impl UserOf {
    /// The user of a session that begins now.
    pub fn new(start: &Start, publications: &Publications, began: Instant, now: Instant) -> UserOf {
        UserOf {
            number: start.number,
            address: start.user.into(),
            offer: publications.offer_of(start.publication),
            port_offset: start.port_offset,
            since_us: now.saturating_duration_since(began).as_micros() as u64,
        }
    }

    /// When its session began, at a client that began then.
    pub fn since(&self, began: Instant) -> Instant {
        began + Duration::from_micros(self.since_us)
    }

    // Counting. A probe is not counted.

    /// Where it is counted, and so are its bytes.
    pub fn account(&self, publications: &Publications) -> Option<AccountId> {
        publications.offer(self.offer).filter(|_| !self.is_probe())?.account
    }

    /// Its local server is sought; returns whether it is counted.
    pub fn came(&self, publications: &Publications, agenda: &mut Agenda) -> bool {
        let account = self.account(publications);
        if let Some(account) = account {
            agenda.tally.user_came(account);
            agenda.tally.user_stays(account);
        }
        account.is_some()
    }

    /// Its session has ended, for this reason, before its local server was found.
    pub fn left(&self, reason: CloseReason, publications: &Publications, agenda: &mut Agenda) {
        if let Some(account) = self.account(publications) {
            let outcome = Outcome::of(Ending::Proxy(reason), false);
            agenda.tally.user_gone(account, outcome, Traffic::default());
        }
    }

    /// A proxy connection that served nobody has passed this: what came with it was sent as it stood.
    pub fn passed(&self, traffic: Traffic, publications: &Publications, agenda: &mut Agenda) {
        if let Some(account) = self.account(publications) {
            agenda.tally.passed(account, traffic.mirrored());
        }
    }

    // What comes of it.

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
        match self.failure(reason, publications) {
            Some(failure) => self.failed(failure, publications, agenda),
            None if self.is_probe() => AbortReason::Reset,
            None => AbortReason::Refused,
        }
    }

    /// The local server's name leads nowhere. Its user is counted now, if it was not.
    pub fn not_resolved(
        &self,
        is_uncounted: bool,
        names: &Names,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) -> AbortReason {
        if is_uncounted {
            self.left(CloseReason::Aborted(AbortReason::Refused), publications, agenda);
        }
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
        // Of a range the server goes on to other ports, and tries the first one last.
        if self.port_offset == 0 || !reason.is_of_local_port() {
            publications.failed(self.offer, reason, !is_told, agenda);
        }
        told
    }

    /// What an end that came before the local server was reached says of what is published. A user may come to a port
    /// of a range where nothing is meant to be, and with many others: so of its session only that counts which no user
    /// brings about.
    fn failure(&self, reason: CloseReason, publications: &Publications) -> Option<Reason> {
        let CloseReason::DialFailed(fault) = reason else { return None };
        let failure = match fault.kind() {
            _ if fault.is_exhaustion() => Reason::NoDescriptor,
            ErrorKind::ConnectionRefused => Reason::LocalRefused,
            ErrorKind::TimedOut => Reason::LocalUnanswered,
            _ => Reason::Local(fault),
        };
        let by_nobody = match fault.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                publications.offer(self.offer).is_some_and(|offer| offer.port_count() == 1)
            }
            _ => false,
        };
        (self.is_probe() || by_nobody).then_some(failure)
    }

    /// Tells that a local server could not be reached.
    pub fn tell_failed(&self, reason: CloseReason, publications: &Publications, agenda: &mut Agenda) {
        let offer = publications.offer(self.offer).filter(|_| !self.is_probe());
        if let Some((offer, local)) = offer.and_then(|it| Some((it, it.local(self.port_offset)?))) {
            let fact = Fact::LocalFailed {
                number: self.number,
                user: self.address.into(),
                service: offer.publication.name.clone(),
                local,
                reason,
            };
            agenda.fact_of(offer.account, fact);
        }
    }

    /// It has sent bytes, and was answered, or not.
    pub fn asked(&self, sent: bool, answered: bool, publications: &mut Publications) {
        if !self.is_probe() {
            publications.session_ended(self.offer, sent, answered);
        }
    }

    /// A proxy connection is gone. The session that it served has ended; one that served none was not needed any more
    /// when it stood, and its user is counted otherwise.
    pub fn ended(
        &self,
        is_served: bool,
        reason: CloseReason,
        (traffic, began): (Traffic, Instant),
        publications: &Publications,
        agenda: &mut Agenda,
    ) {
        if self.is_probe() {
            return;
        }
        let offer = publications.offer(self.offer);
        if let Some((offer, local)) = offer.and_then(|it| Some((it, it.local(self.port_offset)?))) {
            let account = offer.account.filter(|_| is_served);
            let fact = Fact::SessionEnded {
                number: self.number,
                user: self.address.into(),
                service: offer.publication.name.clone(),
                local,
                traffic,
                lasted: agenda.now.saturating_duration_since(self.since(began)),
                reason,
            };
            agenda.fact_of(account, fact);
        }
    }
}
