//! Users who wait, or were refused: where they go next, and how many of them in one turn.

use super::Matching;
use crate::base::id::{ConnId, LinkId, ServiceId};
use crate::machine::{Agenda, CloseReason};
use crate::server::offers::{Left, Offer};
use crate::server::pool::{Place, State};
use crate::server::refused::Refused;
use crate::server::sending::Sending;
use crate::server::users::User;
use crate::wire::frame::AbortReason;

/// Who was asked for one more connection.
pub(super) enum Asked {
    Link(LinkId),
    /// Nobody serves the service now; or all do whose keys have as many users as they may have.
    None {
        all_full: bool,
    },
}

/// One step with users who wait: it borrows what it works on.
pub(in crate::server) struct Waiting<'m> {
    pub(super) all: &'m mut Matching,
    pub(super) agenda: &'m mut Agenda,
}

impl Waiting<'_> {
    /// A user lost the message connection that it was paired with before its session was accepted, or was refused.
    pub fn returned(&mut self, id: ConnId, refused: bool, spoken: bool) {
        let sending = &mut self.all.sending;
        let Some(user) = sending.users.get_mut(id) else { return };
        let message = sending.offers.get(id).and_then(Offer::paired);
        if refused {
            return self.refused(id, message);
        }
        user.tied = spoken;
        if let Some(message) = message {
            sending.pools.set(message, State::Leaving, Place::Back);
        }
        let left = sending.offers.lost_paired(id);
        self.lost(id, left);
    }

    /// A client has refused a user's session, in its copy on this message connection. It is certain that nothing was
    /// delivered: the user is as good as new, but goes to another client.
    pub fn refused(&mut self, id: ConnId, message: Option<ConnId>) {
        self.all.services.stop_waiting(id);
        self.all.sending.end_offer(id, message, self.agenda);
        let Some(user) = self.all.sending.users.get_mut(id) else { return };
        (user.first, user.tied) = (None, false);
        let charged = user.charged.take();
        self.all.release(charged, false);
        let Some(user) = self.all.sending.users.get_mut(id) else { return };
        let Some(served_by) = user.served_by else { return };
        user.refused.get_or_insert_with(|| Box::new(Refused::by(served_by)));
        // What it could not be served by is looked at, and only that may call it failing.
        self.all.probes.suspect(served_by, self.agenda.now);
        self.all.probing(self.agenda).refused(served_by);
        if let Some(link) = self.all.services.publication(served_by).map(|it| it.link)
            && let Some(link) = self.all.sending.links.get_mut(link)
        {
            link.session_refused(self.agenda.now);
        }
        match self.all.turn.takes_one() {
            true => self.offer_elsewhere(id),
            false => {
                self.note_waiting(id);
                self.all.turn.put_off(id, self.all.sending.users.origin(id));
            }
        }
    }

    /// A late session is offered again on a connection that was heard since its last `Start`. Those that were not may
    /// have failed likewise, and are pinged.
    pub fn offer_again(&mut self, id: ConnId, link_id: LinkId) {
        let Matching { services, sending, .. } = &mut *self.all;
        let Some(offer) = sending.offers.get(id).filter(|offer| offer.has_room()) else { return };
        let Some(service) = sending.users.get(id).map(|user| user.service) else { return };
        let Some(publication) = services.publication_of(link_id, service) else { return };
        let sent = offer.sent;
        if services.is_waiting(id) || !sending.may_serve(link_id) {
            return;
        }
        // Without a token it waits for the copies that it has.
        if sending.links.get_mut(link_id).is_none_or(|link| !link.spend_offer()) {
            return;
        }
        sending.ping_unheard(link_id, sent, self.agenda);
        if sending.is_ready(link_id) {
            return self.all.begin(id, publication, self.agenda);
        }
        services.wait_for_link(id, sending.users.origin(id), link_id, true);
        sending.want_one(link_id, self.agenda.now);
    }

    /// The client has another copy of a user's session, if one is left: it is offered no more.
    pub fn duplicate(&mut self, id: ConnId, left: Left) {
        if left == Left::Copies {
            self.all.services.stop_waiting(id);
            self.agenda.at(id, Some(self.agenda.now));
        }
        self.lost(id, left);
    }

    /// A user's session has lost a copy.
    pub fn lost(&mut self, id: ConnId, left: Left) {
        if left == Left::Copies {
            return;
        }
        self.all.services.stop_waiting(id);
        if left == Left::Duplicate {
            return self.agenda.reset(id, CloseReason::Aborted(AbortReason::Duplicate));
        }
        let Some(&User { service, first, tied, .. }) = self.all.sending.users.get(id) else { return };
        match first {
            Some((link, _)) if tied => self.offer_to(id, service, link, true),
            _ => match self.all.next_ready(service, false, self.agenda.now) {
                Some(publication) => self.all.begin(id, publication, self.agenda),
                None => {
                    let charged = self.all.sending.users.get_mut(id).and_then(|user| user.charged.take());
                    self.all.release(charged, false);
                    // It has waited longest.
                    self.all.services.wait(id, self.all.sending.users.origin(id), service, true);
                    let asked = match self.all.next_to_ask(service, false) {
                        Asked::Link(link) => Some(link),
                        Asked::None { .. } => None,
                    };
                    self.wait_asked(id, asked);
                }
            },
        }
    }

    /// A user that was refused goes to the next publication of its service, or is told.
    pub fn offer_elsewhere(&mut self, id: ConnId) {
        let Some(user) = self.all.sending.users.get_mut(id) else { return };
        let (Some(mut refused), service) = (user.refused.take(), user.service) else { return };
        let sending = &self.all.sending;
        let (may_serve, now) = (|link| sending.may_take(link), self.agenda.now);
        let standing = |link| sending.standing(link, now);
        let next = self.all.services.next_after(service, &mut refused, may_serve, standing);
        match next.and_then(|next| self.all.services.publication(next)).map(|it| it.link) {
            Some(link) => {
                if let Some(user) = self.all.sending.users.get_mut(id) {
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
            Some(publication) if self.all.sending.is_ready(link) => {
                self.all.begin(id, publication, self.agenda);
            }
            Some(_) if self.all.sending.may_serve(link) => {
                let origin = self.all.sending.users.origin(id);
                self.all.charge(id, link);
                self.all.services.wait_for_link(id, origin, link, first);
                self.wait_asked(id, Some(link));
            }
            _ => self.agenda.reset(id, CloseReason::LinkLost),
        }
    }

    /// A user waits for a connection, which this link is asked for if there is one.
    pub fn wait_asked(&mut self, id: ConnId, asked: Option<LinkId>) {
        if let Some(link) = asked {
            self.all.sending.want_one(link, self.agenda.now);
        }
        self.note_waiting(id);
        self.all.sending.wait_at_most(id, asked, self.agenda);
    }

    /// A user has no message connection for now.
    fn note_waiting(&mut self, id: ConnId) {
        if let Some(user) = self.all.sending.users.get_mut(id).filter(|user| !user.waits) {
            user.waits = true;
            let account = self.all.admission.account(user.service);
            account.into_iter().for_each(|account| self.agenda.tally.user_waits(account, true));
        }
    }

    /// A link's idle connections are for users who wait, and else for the next ones.
    pub fn use_idle(&mut self, link: LinkId, most: usize) {
        let mut begun = 0;
        while self.all.sending.pools.idle(link) > 0 && self.all.services.is_wanted(link) {
            if begun == most || !self.all.turn.takes_one() {
                return self.all.turn.list(link, &mut self.all.sending.links);
            }
            begun += 1;
            let own = self.all.sending.is_full(link);
            let Some(user) = self.all.services.next_user(link, own) else { break };
            let service = self.all.sending.users.get(user).map(|user| user.service);
            match service.and_then(|service| self.all.services.publication_of(link, service)) {
                Some(publication) => self.all.begin(user, publication, self.agenda),
                None if self.all.sending.offers.contains(user) => {}
                None => self.agenda.reset(user, CloseReason::NoClient),
            }
        }
        if self.all.sending.pools.idle(link) > 0 {
            self.all.services.became_ready(link);
        }
    }

    /// While the key of a link has places, its links that were passed over are listed again, one after the other.
    fn list_next_hidden(&mut self, link: LinkId) {
        let Sending { links, holders, .. } = &mut self.all.sending;
        let next = links.get(link).and_then(|it| holders.next_hidden(it.identity.holder));
        if let Some(next) = next {
            self.all.turn.list(next, links);
        }
    }

    /// Another turn begins: refused users and links that were put off take turns.
    pub fn begin_more(&mut self) {
        self.all.turn.renew();
        loop {
            let (user, link) =
                (self.all.turn.next_refused(), self.all.turn.next_link(&mut self.all.sending.links));
            if let Some(user) = user {
                self.offer_elsewhere(user);
            }
            if let Some(link) = link {
                self.use_idle(link, 1);
                self.list_next_hidden(link);
            }
            if user.is_none() && link.is_none() {
                return;
            }
        }
    }
}
