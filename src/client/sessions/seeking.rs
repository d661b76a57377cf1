//! Seeking the local server of a session: its name's addresses are dialled one after the other, and the name is asked
//! for again when a dial is late or fails.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sessions;
use crate::base::id::ConnId;
use crate::client::names::{Consulted, Names};
use crate::client::publications::at_offset;
use crate::client::session::{Session, Stage, State, refuse};
use crate::machine::{Agenda, CloseReason, Dial, NameFault, Output, PROBE_TIME, Reason};
use crate::wire::frame::Sid;

/// Least time between a probe and its end where the server gives it up: the probe may have come later than it was sent.
const GIVEN_UP_AFTER: Duration = PROBE_TIME.saturating_sub(Duration::from_secs(1));

impl Sessions {
    /// Seeks a session's local server: dials it, or waits for its name's addresses first.
    pub(super) fn dial(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.state(id) else { return };
        let Some(offer) = self.publications.offer(session.user.offer) else {
            return refuse(id, agenda);
        };
        // A session that must wait for a name waits no longer than for a local server.
        let last = session.user.since(self.began) + offer.publication.dial_time;
        let until = match names.consult(offer.name, agenda) {
            Consulted::Go => return self.dial_next(id, names, agenda),
            Consulted::WaitUntil(until) => until.min(last),
            Consulted::Wait => last,
        };
        names.wait(offer.name, id, session.sid);
        agenda.at(id, Some(until));
    }

    /// Dials the first address of the session's local server that was not tried, if there is one.
    fn dial_next(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else { return };
        let Some(offer) = self.publications.offer(session.user.offer) else {
            return refuse(id, agenda);
        };
        let found = names.found(offer.name);
        if let Some(why) = names.failure(offer.name) {
            let fault = if found.is_empty() { NameFault::Unresolved } else { NameFault::Outdated };
            offer.tell_name(fault(why.into()), agenda);
        }
        let attempt = session.attempt.get_or_insert_with(|| self.attempts.begin());
        let Some((address, left)) = attempt.next(found) else {
            if attempt.last().is_none() {
                self.give_up_seeking(id, names, agenda);
            }
            return;
        };
        // Each address gets its share of what is left of the time.
        let last = session.user.since(self.began) + offer.publication.dial_time;
        let share = last.saturating_duration_since(agenda.now) / (1 + left as u32);
        attempt.dial(address, agenda.now);
        self.attempts.asked += 1;
        let late_at = agenda.now + names.late_after(offer.name, address, agenda);
        agenda.at(id, Some(late_at).filter(|_| left > 0 || names.is_looked_up(offer.name)));
        let deadline = agenda.now + share;
        let address = at_offset(address, session.user.port_offset);
        let dial = Dial::Proxy(id, session.sid, session.user.account(&self.publications));
        agenda.push(Output::Dial { dial, address, deadline });
    }

    /// A dial of a session's local server is late: another address is dialled beside it, or in its place if that one
    /// has been reached meanwhile. The name may lead elsewhere by now, so it is asked for again.
    fn dial_late(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else { return };
        let Some(offer) = self.publications.offer(session.user.offer) else { return };
        let Some(attempt) = &mut session.attempt else { return };
        let Some(late) = attempt.last() else { return };
        names.ask_again(offer.name, agenda);
        let Some((next, _)) = attempt.next(names.found(offer.name)) else {
            if names.is_asked(offer.name) {
                names.wait(offer.name, id, session.sid);
            } else {
                agenda.at(id, names.rests_until(offer.name));
            }
            return;
        };
        if attempt.may_have_rival() && self.attempts.rivals.spend() {
            return self.dial_next(id, names, agenda);
        }
        if names.has_worked_since(offer.name, next, late.at)
            && let Some(proxy) = attempt.give_up_older()
        {
            agenda.reset(proxy, CloseReason::Retired);
            return self.dial_next(id, names, agenda);
        }
        agenda.after(id, agenda.limits.late);
    }

    /// A name was looked up: the sessions that waited for it go on.
    pub fn resolved(&mut self, waiting: BTreeMap<ConnId, Sid>, names: &mut Names, agenda: &mut Agenda) {
        for (id, sid) in waiting {
            match self.state(id) {
                Some(State::Busy(session)) if session.sid == sid && session.is_dialled() => {
                    self.dial_late(id, names, agenda);
                }
                Some(State::Busy(session)) if session.sid == sid => {
                    agenda.at(id, None);
                    // A name that leads nowhere is not asked for again on behalf of sessions that have waited for it.
                    self.dial_next(id, names, agenda);
                }
                _ => {}
            }
        }
    }

    /// A dial of a session's local server is late, or it has waited for the name as long as it may: what was known
    /// before is good enough, unless it has failed.
    pub fn due(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.state(id) else { return };
        if session.is_dialled() {
            return self.dial_late(id, names, agenda);
        }
        if session.attempt.is_some() {
            return self.give_up_seeking(id, names, agenda);
        }
        let Some(offer) = self.publications.offer(session.user.offer) else {
            return refuse(id, agenda);
        };
        names.stop_waiting(offer.name, id);
        if names.found(offer.name).is_empty() {
            offer.tell_name(NameFault::Late, agenda);
            return self.give_up_seeking(id, names, agenda);
        }
        self.dial_next(id, names, agenda);
    }

    /// No local server is found for a session: people are told why, and its user goes elsewhere.
    fn give_up_seeking(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else { return };
        let (user, is_uncounted) = (session.user, session.take_uncounted());
        let failed = session.attempt.as_ref().and_then(|attempt| attempt.reason());
        if let Some(offer) = self.publications.offer(user.offer) {
            names.stop_waiting(offer.name, id);
        }
        agenda.at(id, None);
        let reason = match failed {
            Some(reason) => user.not_served(reason, &mut self.publications, agenda),
            None => user.not_resolved(is_uncounted, names, &mut self.publications, agenda),
        };
        agenda.push(Output::Abort { message: id, reason });
    }

    /// The server has given a probe up whose local server is still sought: it has waited for it long enough.
    pub(super) fn note_given_up(
        &mut self,
        id: ConnId,
        session: &Session,
        names: &Names,
        agenda: &mut Agenda,
    ) {
        let user = session.user;
        if !user.is_probe() || agenda.now < user.since(self.began) + GIVEN_UP_AFTER {
            return;
        }
        let name = self.publications.offer(user.offer).map(|offer| offer.name);
        if session.is_dialled() {
            user.failed(Reason::LocalUnanswered, &mut self.publications, agenda);
        } else if name.is_some_and(|name| names.is_awaited(name, id)) {
            match session.attempt.as_ref().and_then(|attempt| attempt.reason()) {
                Some(reason) => user.not_served(reason, &mut self.publications, agenda),
                None => user.not_resolved(false, names, &mut self.publications, agenda),
            };
        }
    }

    /// A proxy connection stands: its address is tried first from now on, and its rival is not wanted any more.
    pub fn proxy_connected(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(message) = self.proxies.get(id).map(|proxy| proxy.message) else { return };
        let Some(State::Busy(session)) = self.messages.get_mut(message).map(|it| &mut it.state) else {
            return;
        };
        let Some(mut attempt) = session.attempt.take_if(|attempt| attempt.has(id)) else { return };
        if let (Some(offer), Some(dialled)) = (self.publications.offer(session.user.offer), attempt.take(id))
        {
            names.worked(offer.name, dialled.address, dialled.at, agenda.now);
            names.stop_waiting(offer.name, message);
        }
        agenda.at(message, None);
        if session.take_uncounted() {
            session.stage = Stage::Served;
            self.proxies.get_mut(id).into_iter().for_each(|proxy| proxy.is_served = true);
        }
        session.user.proved(&mut self.publications, agenda);
        self.attempts.rivals.earn();
        self.attempts.end(Some(attempt), CloseReason::Retired, agenda);
    }

    /// A dial of a session's local server failed: the next address is dialled. After the last one the session waits for
    /// an answer that is on its way, because the name may lead elsewhere by now.
    pub(super) fn dial_failed(
        &mut self,
        id: ConnId,
        message: ConnId,
        reason: CloseReason,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let Some(State::Busy(session)) = self.messages.get_mut(message).map(|it| &mut it.state) else {
            return;
        };
        let offer = self.publications.offer(session.user.offer);
        let (Some(offer), Some(attempt)) = (offer, session.attempt.as_mut()) else { return };
        let Some(dialled) = attempt.take(id) else { return };
        names.ask_again(offer.name, agenda);
        attempt.fail(dialled.address, reason);
        let last = session.user.since(self.began) + offer.publication.dial_time;
        let is_in_time = agenda.now < last;
        let has_more = attempt.next(names.found(offer.name)).is_some();
        match attempt.last() {
            // There is one beside it, which may be late as well.
            Some(_) if has_more && is_in_time => self.dial_late(message, names, agenda),
            Some(_) => {}
            None if has_more && is_in_time => self.dial_next(message, names, agenda),
            None if is_in_time && names.is_asked(offer.name) => {
                names.wait(offer.name, message, session.sid);
                agenda.at(message, Some(last));
            }
            None => self.give_up_seeking(message, names, agenda),
        }
    }
}
