//! In what condition services, publications and links are, for people.

use std::time::Instant;

use super::Matching;
use crate::base::clocks::Clocks;
use crate::base::id::{LinkId, PublicationId, ServiceId};
use crate::base::name::Name;
use crate::config::limits::Limits;
use crate::machine::Reason;
use crate::machine::status::PublicationStatus;
use crate::server::drain::Drain;
use crate::server::publishing::Asked;
use crate::wire::control::Denial;

/// A look at what is known now.
pub(in crate::server) struct Condition<'m> {
    pub(super) all: &'m Matching,
    pub(super) now: Instant,
    pub(super) limits: &'m Limits,
}

impl Condition<'_> {
    /// Why nothing that a link publishes can be served, if that is so.
    pub fn fault(&self, link_id: LinkId) -> Option<Reason> {
        let link = self.all.sending.links.get(link_id)?;
        if let Some(time) = link.silent_for(self.now) {
            return Some(Reason::ClientSilent(time));
        }
        let pools = &self.all.sending.pools;
        // A client that has as many sessions as it may have brings no more, and users must not make anything fail.
        let may_be_full = pools.running(link_id) > 0 && !link.has_lost_idle;
        let is_lacking = pools.usable(link_id) == 0 && link.lacks_messages(self.now, self.limits);
        (is_lacking && !may_be_full).then_some(Reason::MessagePortUnanswered)
    }

    /// What is known of a publication. One whose client is leaving is none: it serves no user that comes.
    pub fn publication(&self, id: PublicationId) -> Option<PublicationStatus> {
        let of = self.all.services.publication(id).filter(|of| self.all.takes_users(of.link))?;
        let link = self.all.sending.links.get(of.link)?;
        let proving = self.all.probes.proving(id)?;
        Some(PublicationStatus {
            key: link.key().clone(),
            client: Some(link.peer),
            state: proving.state(self.fault(of.link), self.now),
            proof: proving.proof(),
            unanswered: proving.unanswered(),
        })
    }

    /// Why nobody serves the users of a service that come, if nobody does: the rules forbid it to a client that is
    /// there and `asked` for it, or to the last one that was not let stay, or there is no client.
    pub fn unserved(
        &self,
        (service, name): (ServiceId, &Name),
        asked: &Asked,
        clocks: Clocks,
    ) -> Option<Reason> {
        let Matching { sending, services, barred, drain, .. } = self.all;
        if *drain != Drain::No {
            return Some(Reason::Draining);
        }
        if services.is_served(service) {
            return None;
        }
        let holder = |link| sending.holders.get(sending.links.get(link)?.identity.holder);
        let mut denied = asked.denied(name).filter(|&link| sending.may_serve(link)).filter_map(holder);
        if denied.any(|holder| !holder.may_serve(name)) {
            return Some(Reason::Denied(Denial::Policy));
        }
        let barred = barred.reason((service, name), &sending.holders, (clocks, self.now));
        barred.or(Some(Reason::NoClient))
    }

    /// Whether a service is probed, as far as its rules and its clients say.
    pub fn is_probed(&self, service: ServiceId) -> bool {
        let lets = self.all.admission.rules(service).is_some_and(|rules| rules.probe);
        let mut ids = self.all.services.publication_ids(service).peekable();
        lets && (ids.peek().is_none() || ids.any(|id| self.all.probes.is_probed(id)))
    }
}
