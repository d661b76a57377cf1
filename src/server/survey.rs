//! What the server shows of itself, a few rows at a time.

use std::time::Instant;

use super::Server;
use super::exposed::Exposed;
use super::links::Link;
use super::listeners::{Listener, Listeners};
use super::matching::{Condition, Matching};
use super::publishing::Asked;
use crate::base::clocks::Clocks;
use crate::base::id::{LinkId, PublicationId, ServiceId};
use crate::base::name::Name;
use crate::machine::status::{LinkStatus, ServiceStatus, Totals};
use crate::machine::{Agenda, Place, Survey};

/// Looks, and changes nothing.
pub(super) struct Surveyor<'s> {
    matching: &'s Matching,
    listeners: &'s Listeners,
    exposed: &'s Exposed,
    asked: &'s Asked,
    clocks: Clocks,
    agenda: &'s Agenda,
}

impl Surveyor<'_> {
    pub fn of(server: &Server) -> Surveyor<'_> {
        let Server { matching, listeners, exposed, asked, agenda, clocks, .. } = server;
        Surveyor { matching, listeners, exposed, asked, clocks: *clocks, agenda }
    }

    /// Adds rows until there are so many more, or all are there. A service, a publication and a link are one each.
    pub fn go_on(&self, survey: &mut Survey, rows: usize) {
        if survey.place == Place::Service(0) {
            survey.reserve(self.matching.admission.count());
        }
        let mut left = rows;
        while left > 0 {
            left -= 1;
            survey.place = match survey.place {
                Place::Service(slot) => match self.matching.services.iter_from(slot).next() {
                    Some((id, name)) => self.service(id, name, &mut left, survey),
                    None => Place::Link(0),
                },
                Place::Publication(slot, last) => match self.matching.services.iter_from(slot).next() {
                    // Another service may have taken its slot.
                    Some((id, name)) if survey.snapshot.services.last().map(|it| &it.name) == Some(name) => {
                        self.publications(id, Some(last), &mut left, survey)
                    }
                    _ => Place::Service(slot),
                },
                Place::Link(slot) => match self.matching.sending.links.iter_from(slot).next() {
                    Some((id, link)) => {
                        survey.snapshot.links.push(self.link(id, link, survey.now));
                        Place::Link(id.slot() + 1)
                    }
                    None => {
                        let asked = self.agenda.limits.users_asked;
                        survey.snapshot.totals = Totals {
                            is_out_of_descriptors: self.matching.sending.users.is_short(asked),
                            ..self.agenda.tally.totals(survey.now)
                        };
                        Place::Over
                    }
                },
                Place::Over => return,
            };
        }
    }

    fn service(&self, id: ServiceId, name: &Name, left: &mut usize, survey: &mut Survey) -> Place {
        let (account, tally) = (self.matching.admission.account(id), &self.agenda.tally);
        let figures = account.and_then(|account| tally.figures(account)).cloned().unwrap_or_default();
        let listeners = self.listeners.of_service(id).iter().filter_map(|&id| self.listeners.get(id));
        let addresses = || listeners.map(Listener::place).map(|place| place.to_string()).collect();
        let condition = self.condition(survey.now);
        let service = ServiceStatus {
            name: name.clone(),
            exposed_by: account.and_then(|account| tally.exposed_by(account)).cloned(),
            is_probed: condition.is_probed(id),
            addresses: self.exposed.addresses(id).unwrap_or_else(addresses),
            publications: Vec::new(),
            reason: condition.unserved((id, name), self.asked, self.clocks).map(|reason| reason.words()),
            figures,
        };
        survey.add(service, account);
        self.publications(id, None, left, survey)
    }

    /// Adds publications of the service that was added last.
    fn publications(
        &self,
        id: ServiceId,
        mut last: Option<PublicationId>,
        left: &mut usize,
        survey: &mut Survey,
    ) -> Place {
        let Some(service) = survey.snapshot.services.last_mut() else { return Place::Over };
        let condition = self.condition(survey.now);
        // One is looked at however few rows are left: else a look would not get on.
        let mut has_begun = false;
        for publication in self.matching.services.publications_behind(id, last) {
            match last {
                Some(last) if *left == 0 && has_begun => return Place::Publication(id.slot(), last),
                _ => {}
            }
            service.publications.extend(condition.publication(publication));
            (last, *left, has_begun) = (Some(publication), left.saturating_sub(1), true);
        }
        Place::Service(id.slot() + 1)
    }

    fn condition(&self, now: Instant) -> Condition<'_> {
        self.matching.condition(now, &self.agenda.limits)
    }

    fn link(&self, id: LinkId, link: &Link, now: Instant) -> LinkStatus {
        let pools = &self.matching.sending.pools;
        LinkStatus {
            key: link.key().clone(),
            address: Some(link.peer),
            since: Some(link.since),
            round_trip: Some(link.round_trip.smoothed()).filter(|time| !time.is_zero()),
            idle: pools.staying(id) - pools.busy(id),
            busy: pools.busy(id),
            coming: link.outstanding(),
            expires_in: link.expires.map(|at| at.saturating_duration_since(now)),
            reason: None,
        }
    }
}
