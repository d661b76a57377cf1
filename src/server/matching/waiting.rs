//! Users who wait, or were refused: where they go next, and how many of them in one turn.

use super::Matching;
use crate::base::id::{ConnId, LinkId, ServiceId};
use crate::machine::{Agenda, CloseReason};
use crate::server::refused::Refused;
use crate::wire::frame::AbortReason;

/// One step with users who wait: it borrows what it works on.
pub(in crate::server) struct Waiting<'m> {
    pub(super) all: &'m mut Matching,
    pub(super) agenda: &'m mut Agenda,
}

impl Waiting<'_> {
    /// A user lost its message connection before its session was accepted, or was refused.
    pub fn returned(&mut self, id: ConnId, refused: bool, spoken: bool) {
        let Some(user) = self.all.users.get_mut(id) else { return };
        if refused {
            // It is certain that nothing was delivered: it is as good as new, but not to that client.
            (user.first, user.tied) = (None, false);
            let Some(served_by) = user.served_by else { return };
            user.refused.get_or_insert_with(|| Box::new(Refused::by(served_by)));
            if let Some(link) = self.all.services.publication(served_by).map(|it| it.link)
                && let Some(link) = self.all.links.get_mut(link)
            {
                link.refuses = true;
            }
            return match self.all.turn.takes_one() {
                true => self.offer_elsewhere(id),
                false => self.all.turn.put_off(id, self.all.users.origin(id)),
            };
        }
        let deadline = user.since + self.agenda.limits.wait;
        self.agenda.at(id, Some(deadline));
        user.tied = spoken;
        let (service, first) = (user.service, user.first.map(|(link, _)| link));
        match first {
            Some(link) if spoken => self.offer_to(id, service, link, true),
            _ if spoken => self.agenda.reset(id, CloseReason::LinkLost),
            _ => match self.all.next_ready(service, self.agenda.now) {
                Some(publication) => self.all.begin(id, publication, self.agenda),
                None => {
                    // It has waited longest.
                    self.all.services.wait(id, self.all.users.origin(id), service, true);
                    self.all.ask_for_one(service);
                }
            },
        }
    }

    /// A user that was refused goes to the next publication of its service, or is told.
    pub fn offer_elsewhere(&mut self, id: ConnId) {
        let Some(user) = self.all.users.get_mut(id) else { return };
        let (Some(mut refused), service) = (user.refused.take(), user.service) else { return };
        self.agenda.at(id, Some(user.since + self.agenda.limits.wait));
        let (may_serve, is_ready) = (|link| self.all.may_serve(link), |link| self.all.is_ready(link));
        let next = self.all.services.next_after(service, &mut refused, may_serve, is_ready);
        match next.and_then(|next| self.all.services.publication(next)).map(|it| it.link) {
            Some(link) => {
                if let Some(user) = self.all.users.get_mut(id) {
                    user.refused = Some(refused);
                }
                self.offer_to(id, service, link, false);
            }
            None => self.agenda.reset(id, CloseReason::Aborted(AbortReason::Refused)),
        }
    }

    /// A user is given this link's next connection, at once or when there is one.
    pub fn offer_to(&mut self, id: ConnId, service: ServiceId, link: LinkId, first: bool) {
        match self.all.services.publication_of(link, service) {
            Some(publication) if self.all.is_ready(link) => self.all.begin(id, publication, self.agenda),
            Some(_) if self.all.may_serve(link) => {
                self.all.services.wait_for_link(id, self.all.users.origin(id), link, first);
                self.all.want_one(link);
            }
            _ => self.agenda.reset(id, CloseReason::LinkLost),
        }
    }

    /// A link's idle connections are for users who wait, and else for the next ones.
    pub fn use_idle(&mut self, link: LinkId, most: usize) {
        let mut begun = 0;
        while self.all.pools.idle(link) > 0 && self.all.services.is_wanted(link) {
            if begun == most || !self.all.turn.takes_one() {
                return self.all.turn.list(link, &mut self.all.links);
            }
            begun += 1;
            let Some(user) = self.all.services.next_user(link) else { break };
            let service = self.all.users.get(user).map(|user| user.service);
            match service.and_then(|service| self.all.services.publication_of(link, service)) {
                Some(publication) => self.all.begin(user, publication, self.agenda),
                None => self.agenda.reset(user, CloseReason::NoClient),
            }
        }
        if self.all.pools.idle(link) > 0 {
            self.all.services.became_ready(link);
        }
    }

    /// Another turn begins: refused users and links that were put off take turns.
    pub fn begin_more(&mut self) {
        self.all.turn.renew();
        loop {
            let (user, link) = (self.all.turn.next_refused(), self.all.turn.next_link(&mut self.all.links));
            if let Some(user) = user {
                self.offer_elsewhere(user);
            }
            if let Some(link) = link {
                self.use_idle(link, 1);
            }
            if user.is_none() && link.is_none() {
                return;
            }
        }
    }
}
