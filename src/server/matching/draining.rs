//! The end of a server: no user comes any more, and those that are there have some time.

use super::Matching;
use crate::base::sorted::by_rank;
use crate::machine::{Agenda, CloseReason, Output};
use crate::server::drain::Drain;
use crate::wire::control::ControlFrame;

/// One step of the end: it borrows what it works on.
pub(in crate::server) struct Draining<'m> {
    pub(super) all: &'m mut Matching,
    pub(super) agenda: &'m mut Agenda,
}

impl Draining<'_> {
    /// No user comes any more: clients are told, so that they look for another server while their sessions go on.
    pub fn begin(&mut self) {
        self.all.drain = Drain::Begun;
        let links = &self.all.sending.links;
        for link in links.ids().into_iter().filter_map(|link| links.get(link)) {
            self.agenda.push(Output::Send { id: link.control, frame: ControlFrame::Drain });
        }
    }

    /// Closes idle connections, once every session is accepted.
    pub fn go_on(&mut self) {
        let Matching { services, turn, sending, drain, .. } = &mut *self.all;
        let unaccepted = services.waiting_count() + turn.refused() + sending.offers.len();
        if drain.retires_at(unaccepted) {
            let links = sending.links.ids();
            links.into_iter().for_each(|link| sending.pools.retire_idle(link, self.agenda));
        }
    }

    /// The time is over: users who are left are told. Returns how many.
    pub fn give_up(&mut self) -> usize {
        let users = self.all.sending.users.iter().map(|(id, _)| id);
        let oldest_first = by_rank(users, |id| id.serial());
        oldest_first.map(|id| self.agenda.reset(id, CloseReason::Shutdown)).count()
    }
}
