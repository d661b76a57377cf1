//! Users who come: whether they may, and whether they are served at once.

use std::net::SocketAddr;
use std::time::Duration;

use super::Matching;
use super::waiting::Asked;
use crate::base::id::{ConnId, ServiceId};
use crate::machine::{Agenda, Cause, CloseReason, Fact, Fault, Outcome, Traffic};
use crate::server::users::User;

/// One step with a user who comes: it borrows what it works on.
pub(in crate::server) struct Coming<'m> {
    pub(super) all: &'m mut Matching,
    pub(super) agenda: &'m mut Agenda,
}

impl Coming<'_> {
    /// A user came from `peer`, and asked for the service at this address.
    pub fn came(&mut self, id: ConnId, service: ServiceId, (peer, asked): (SocketAddr, SocketAddr)) {
        let Coming { all, agenda } = self;
        all.last_number += 1;
        let account = all.admission.account(service);
        account.into_iter().for_each(|account| agenda.tally.user_came(account));
        if let Err(reason) = all.admission.take(service, peer) {
            return self.refuse(id, service, peer, reason);
        }
        account.into_iter().for_each(|account| agenda.tally.user_stays(account));
        all.sending.users.insert(id, User::new(service, peer, asked, all.last_number), agenda.now);
        all.share_places();
        if all.sending.users.is_beyond_share(id, all.sending.holders.are_places_shared()) {
            return agenda.reset(id, CloseReason::Full);
        }
        if let Some(publication) = all.next_ready(service, true, agenda.now) {
            return all.begin(id, publication, agenda);
        }
        let asked = match all.next_to_ask(service, true) {
            Asked::None { all_full: true } => return agenda.reset(id, CloseReason::KeyUsersLimit),
            Asked::None { .. } => None,
            Asked::Link(link) => Some(link),
        };
        // Only a user who has to wait counts as waiting.
        if all.services.waiting_count() >= agenda.limits.waiting_max {
            match all.services.must_make_room(service, all.sending.users.origin(id), &agenda.limits) {
                Some(last) => {
                    all.services.stop_waiting(last);
                    agenda.reset(last, CloseReason::Full);
                }
                None => return agenda.reset(id, CloseReason::Full),
            }
        }
        asked.into_iter().for_each(|link| all.sending.expects(id, link));
        all.services.wait(id, all.sending.users.origin(id), service, false);
        all.waiting(agenda).wait_asked(id, asked);
    }

    /// A user may not come: it is reset before anything is spent on it.
    fn refuse(&mut self, id: ConnId, service: ServiceId, user: SocketAddr, reason: CloseReason) {
        self.agenda.reset(id, reason);
        let account = self.all.admission.account(service);
        let Some(service) = self.all.admission.name(service).cloned() else { return };
        let (number, traffic, lasted) = (self.all.last_number, Traffic::default(), Duration::ZERO);
        let (key, served) = (None, false);
        let exposed_by = account.and_then(|it| self.agenda.tally.exposed_by(it)).cloned();
        let fact = Fact::UserLeft { number, user, service, exposed_by, key, traffic, lasted, served, reason };
        self.agenda.fact_of(account, fact);
    }

    /// A user was turned away at accept: there is no room, or the system has said this.
    pub fn turned_away(&mut self, service: ServiceId, peer: SocketAddr, fault: Option<Fault>) {
        let Coming { all, agenda } = self;
        let (account, name) = (all.admission.account(service), all.admission.name(service).cloned());
        match (fault, account) {
            (None, _) => {
                let (users, is_short) =
                    (all.user_count(), all.sending.users.is_short(agenda.limits.users_asked));
                let exposed_by = account.and_then(|it| agenda.tally.exposed_by(it)).cloned();
                let fact = Fact::UserShed { peer, service: name, exposed_by, users, is_short };
                agenda.fact_of(account, fact);
            }
            // What the system said is told of.
            (Some(_), Some(account)) => {
                agenda.tally.user_came(account);
                agenda.tally.user_gone(account, Outcome::Refused(Cause::Descriptors), Traffic::default());
            }
            (Some(_), None) => {}
        }
    }
}
