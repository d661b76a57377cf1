//! Users who wait, or were refused: where they go next, and how many of them in one turn.

use super::Matching;
use crate::base::id::{ConnId, LinkId, ServiceId};
use crate::machine::{Agenda, CloseReason};
use crate::server::refused::Refused;
use crate::wire::frame::AbortReason;

impl Matching {
    /// A user lost its message connection before its session was accepted, or was refused.
    pub fn returned(&mut self, id: ConnId, refused: bool, spoken: bool, agenda: &mut Agenda) {
        let Some(user) = self.users.get_mut(id) else { return };
        if refused {
            // It is certain that nothing was delivered: it is as good as new, but not to that client.
            (user.first, user.tied) = (None, false);
            let Some(served_by) = user.served_by else { return };
            user.refused.get_or_insert(Refused::by(served_by));
            if let Some(link) = self.services.publication(served_by).map(|it| it.link)
                && let Some(link) = self.links.get_mut(link)
            {
                link.refuses = true;
            }
            return match self.turn.takes_one() {
                true => self.offer_elsewhere(id, agenda),
                false => self.turn.put_off(id, self.users.origin(id)),
            };
        }
        let deadline = user.since + agenda.limits.wait;
        agenda.at(id, Some(deadline));
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
    pub(super) fn offer_elsewhere(&mut self, id: ConnId, agenda: &mut Agenda) {
        let Some(user) = self.users.get(id) else { return };
        let (Some(mut refused), service) = (user.refused, user.service) else { return };
        agenda.at(id, Some(user.since + agenda.limits.wait));
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
    pub(super) fn offer_to(
        &mut self,
        id: ConnId,
        service: ServiceId,
        link: LinkId,
        first: bool,
        agenda: &mut Agenda,
    ) {
        match self.services.publication_of(link, service) {
            Some(publication) if self.is_ready(link) => self.begin(id, publication, agenda),
            Some(_) if self.may_serve(link) => {
                self.services.wait_for_link(id, self.users.origin(id), link, first);
                self.want_one(link);
            }
            _ => agenda.reset(id, CloseReason::LinkLost),
        }
    }

    /// A link's idle connections are for users who wait, and else for the next ones.
    pub(super) fn use_idle(&mut self, link: LinkId, most: usize, agenda: &mut Agenda) {
        let mut begun = 0;
        while self.pools.idle(link) > 0 && self.services.is_wanted(link) {
            if begun == most || !self.turn.takes_one() {
                return self.turn.list(link, &mut self.links);
            }
            begun += 1;
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

    /// Another turn begins: refused users and links that were put off take turns.
    pub fn begin_more(&mut self, agenda: &mut Agenda) {
        self.turn.renew();
        loop {
            let (user, link) = (self.turn.next_refused(), self.turn.next_link(&mut self.links));
            if let Some(user) = user {
                self.offer_elsewhere(user, agenda);
            }
            if let Some(link) = link {
                self.use_idle(link, 1, agenda);
            }
            if user.is_none() && link.is_none() {
                return;
            }
        }
    }

    /// Whether there is something to do in the next turn.
    pub fn has_work(&self) -> bool {
        !self.refills.is_empty() || self.turn.is_wanted()
    }
}
