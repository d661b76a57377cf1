//! What the client shows of itself, a few rows at a time.

use std::time::Instant;

use super::gateway::Gateway;
use super::link::Links;
use super::publications::{Publications, Shown};
use super::sessions::Sessions;
use crate::base::ports::PortsAt;
use crate::machine::status::{LinkStatus, PublicationStatus, ServiceStatus, Totals};
use crate::machine::{Agenda, Place, Reason, Survey};
use crate::wire::control::GrantedAddress;

/// Looks, and changes nothing.
pub(super) struct Surveyor<'s> {
    pub gateway: &'s Gateway,
    pub links: &'s Links,
    pub sessions: &'s Sessions,
    pub agenda: &'s Agenda,
    /// Why nothing that is published can be served, if that is so.
    pub fault: Option<Reason>,
}

impl Surveyor<'_> {
    /// Adds so many publications, or the links, of which there are few.
    pub fn go_on(&self, survey: &mut Survey, rows: usize) {
        if survey.place == Place::Service(0) {
            survey.reserve(self.publications().count());
        }
        match survey.place {
            Place::Service(number) => {
                let mut next = Place::Link(0);
                for (place, number) in self.publications().numbers_from(number).enumerate() {
                    if place == rows {
                        next = Place::Service(number);
                        break;
                    }
                    self.publication(number, survey);
                }
                survey.place = next;
            }
            Place::Publication(..) | Place::Link(_) => {
                survey.snapshot.links = self.links(survey.now);
                survey.snapshot.totals = Totals {
                    is_out_of_descriptors: self.fault == Some(Reason::NoDescriptor),
                    ..self.agenda.tally.totals(survey.now)
                };
                survey.place = Place::Over;
            }
            Place::Over => {}
        }
    }

    fn publications(&self) -> &Publications {
        &self.sessions.publications
    }

    fn publication(&self, number: u32, survey: &mut Survey) {
        let (link, now) = (self.fault.clone(), survey.now);
        let Some(shown) = self.publications().numbered(number, link, now) else { return };
        let Shown { offer, addresses, is_probed, state, proving } = shown;
        let figures = offer.account.and_then(|account| self.agenda.tally.figures(account));
        let publication = PublicationStatus {
            key: self.gateway.key().clone(),
            client: self.gateway.address(),
            state,
            proof: proving.proof(),
            unanswered: proving.unanswered(),
        };
        let service = ServiceStatus {
            name: offer.publication.name.clone(),
            exposed_by: None,
            is_probed,
            addresses: self.shown(addresses),
            publications: vec![publication],
            reason: None,
            figures: figures.cloned().unwrap_or_default(),
        };
        survey.add(service, offer.account);
    }

    /// Addresses as people write them, each once: all interfaces of the server are what it was called.
    fn shown(&self, addresses: &[GrantedAddress]) -> Vec<String> {
        let host = &self.gateway.server().host;
        let mut all: Vec<String> = Vec::new();
        for &GrantedAddress { ip, ports } in addresses {
            let shown = match ip.is_unspecified() {
                false => PortsAt { ip: Some(ip), ports }.to_string(),
                true if host.contains(':') => format!("[{host}]:{ports}"),
                true => format!("{host}:{ports}"),
            };
            if !all.contains(&shown) {
                all.push(shown);
            }
        }
        all
    }

    /// The links that stand; in their place, where there is no current one, the one that is sought comes first.
    fn links(&self, now: Instant) -> Vec<LinkStatus> {
        let key = self.gateway.key();
        let sought = self.gateway.current().err().map(|reason| LinkStatus {
            key: key.clone(),
            address: self.gateway.address(),
            since: None,
            round_trip: None,
            idle: 0,
            busy: 0,
            coming: 0,
            expires_in: None,
            reason: reason.map(|reason| reason.words()),
        });
        let standing = self.links.iter().map(|(id, link)| {
            let [coming, idle, busy] = self.sessions.counts().of_link(id);
            LinkStatus {
                key: key.clone(),
                address: Some(link.address()),
                since: Some(link.welcomed),
                round_trip: Some(link.round_trip()).filter(|time| !time.is_zero()),
                idle,
                busy,
                coming,
                expires_in: None,
                // Sessions may come through the control port.
                reason: link.message_fault(now).map(|reason| reason.words()),
            }
        });
        sought.into_iter().chain(standing).collect()
    }
}
