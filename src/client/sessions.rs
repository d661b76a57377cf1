//! Message connections and the sessions on them: begun by the server, each served by a proxy connection to a local
//! server.
//!
//! A local server is dialled at most once per session that has not been seen before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::attempt::Attempts;
use super::names::{Consulted, Names};
use super::publications::{Publications, at_offset};
use super::seen::Seen;
use super::session::{Counts, Message, Proxy, Session, Stage, State, refuse};
use super::user::UserOf;
use crate::base::id::{ConnId, LinkId, kind};
use crate::base::table::Table;
use crate::config::client_difference::ClientDifference;
use crate::machine::{Agenda, CloseReason, Dial, Fact, NameFault, Output, PROBE_TIME, Reason, Traffic};
use crate::wire::control::PublicationNumber;
use crate::wire::frame::{AbortReason, Sid, Start};

/// Least time between a probe and its end where the server gives it up: the probe may have come later than it was sent.
const GIVEN_UP_AFTER: Duration = PROBE_TIME.saturating_sub(Duration::from_secs(1));

/// All message connections, sessions and proxy connections.
pub(super) struct Sessions {
    pub publications: Publications,
    messages: Table<kind::Connection, Message>,
    proxies: Table<kind::Connection, Proxy>,
    counts: Counts,
    attempts: Attempts,
    /// When the client began.
    began: Instant,
}

impl Sessions {
    /// No sessions of these publications, at a client that begins now.
    pub fn new(publications: Publications, now: Instant) -> Sessions {
        Sessions {
            publications,
            messages: Table::default(),
            proxies: Table::default(),
            counts: Counts::default(),
            attempts: Attempts::default(),
            began: now,
        }
    }

    // Message connections.

    /// How many message connections do what.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A message connection is dialled for a link.
    pub fn dialling(&mut self, id: ConnId, link: LinkId) {
        self.counts.turn(link, None, Some(&State::Coming));
        self.messages.insert(id, Message { link, state: State::Coming });
    }

    pub fn is_proxy(&self, id: ConnId) -> bool {
        self.proxies.contains(id)
    }

    pub fn is_message(&self, id: ConnId) -> bool {
        self.messages.contains(id)
    }

    /// The link that a message connection belongs to.
    pub fn link_of(&self, id: ConnId) -> Option<LinkId> {
        self.messages.get(id).map(|message| message.link)
    }

    /// A message connection is proved; returns its link.
    pub fn connected(&mut self, id: ConnId) -> Option<LinkId> {
        let message = self.messages.get_mut(id)?;
        let State::Coming = message.state else { return None };
        message.state = State::Idle;
        self.counts.turn(message.link, Some(&State::Coming), Some(&State::Idle));
        Some(message.link)
    }

    /// A message connection is gone; returns its link, if it was never proved.
    pub fn message_gone(&mut self, id: ConnId, reason: CloseReason, agenda: &mut Agenda) -> Option<LinkId> {
        let Message { link, state } = self.messages.remove(id)?;
        self.counts.turn(link, Some(&state), None);
        if let State::Coming = state {
            return Some(link);
        }
        if let State::Busy(mut session) = state {
            let reason = if reason == CloseReason::LinkLost { reason } else { CloseReason::Truncated };
            session.not_served(reason, &self.publications, agenda);
            self.attempts.end(session.attempt, reason, agenda);
        }
        None
    }

    /// A link is gone: so are its message connections.
    pub fn reset_all_of(&mut self, link: LinkId, agenda: &mut Agenda) {
        let own = self.messages.iter().filter(|(_, message)| message.link == link);
        let mut ids: Vec<ConnId> = own.map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| agenda.reset(id, CloseReason::LinkLost));
    }

    fn state(&self, id: ConnId) -> Option<&State> {
        self.messages.get(id).map(|message| &message.state)
    }

    fn session_mut(&mut self, id: ConnId) -> Option<&mut Session> {
        self.messages.get_mut(id)?.state.session_mut()
    }

    /// Whether the user of the session on a message connection is still to be counted. It is, from now on.
    fn is_uncounted(&mut self, id: ConnId) -> bool {
        self.session_mut(id).is_some_and(Session::take_uncounted)
    }

    // Sessions.

    /// A session has begun on a message connection; `seen` is its link's.
    pub fn begin(
        &mut self,
        id: ConnId,
        start: Start,
        seen: &mut Seen,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let Some(message) = self.messages.get_mut(id) else { return };
        agenda.at(id, None);
        let first_new = start.first_sid == 0 || seen.insert(start.first_sid);
        let new = seen.insert(start.sid);
        let user = UserOf::new(&start, &self.publications, self.began, agenda.now);
        let session = Session { user, sid: start.sid, stage: Stage::Over, attempt: None };
        agenda.at(id, None);
        let before = std::mem::replace(&mut message.state, State::Busy(session));
        self.counts.turn(message.link, Some(&before), Some(&message.state));
        if let State::Busy(mut before) = before {
            // Its end was not told of yet.
            before.not_served(CloseReason::Aborted(AbortReason::Reset), &self.publications, agenda);
            self.attempts.end(before.attempt, CloseReason::Retired, agenda);
        }
        if !first_new || !new {
            // The copy that was read first is served, or has been. This one ends alone.
            agenda.push(Output::Abort { message: id, reason: AbortReason::Duplicate });
            return agenda.fact(Fact::Duplicate { number: start.number });
        }
        if self.publications.offer(user.offer).is_none_or(|offer| offer.local(user.port_offset).is_none()) {
            // What a probe would tell of is not published any more.
            let reason = if user.is_probe() { AbortReason::Removed } else { AbortReason::Refused };
            return agenda.push(Output::Abort { message: id, reason });
        }
        if user.came(&self.publications, agenda)
            && let Some(session) = self.session_mut(id)
        {
            session.stage = Stage::Seeking;
        }
        if self.proxies.len() + self.attempts.asked >= self.proxies_max(agenda) {
            self.is_uncounted(id);
            let reason = user.not_served(CloseReason::Full, &mut self.publications, agenda);
            return agenda.push(Output::Abort { message: id, reason });
        }
        agenda.push(Output::Accept(id));
        self.dial(id, names, agenda);
    }

    /// Most proxy connections at once. Those of sessions that were aborted stay for a moment, and a server that begins
    /// and aborts sessions for ever must not take all descriptors with them.
    fn proxies_max(&self, agenda: &Agenda) -> usize {
        let limits = &agenda.limits;
        (2 * self.counts.proved() + limits.proxies_spare).min(limits.messages_per_client_max)
    }

    /// Seeks a session's local server: dials it, or waits for its name's addresses first.
    fn dial(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
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
    fn dial_next(&mut self, id: ConnId, names: &Names, agenda: &mut Agenda) {
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
                let (user, is_uncounted) = (session.user, session.take_uncounted());
                let reason = user.not_resolved(is_uncounted, names, &mut self.publications, agenda);
                agenda.push(Output::Abort { message: id, reason });
            }
            return;
        };
        // Each address gets its share of what is left of the time.
        let last = session.user.since(self.began) + offer.publication.dial_time;
        let share = last.saturating_duration_since(agenda.now) / (1 + left as u32);
        attempt.dial(address, agenda.now);
        self.attempts.asked += 1;
        let late_at = agenda.now + names.late_after(offer.name, address, agenda);
        agenda.at(id, Some(late_at).filter(|_| left > 0));
        let deadline = agenda.now + share;
        let address = at_offset(address, session.user.port_offset);
        let dial = Dial::Proxy(id, session.sid, session.user.account(&self.publications));
        agenda.push(Output::Dial { dial, address, deadline });
    }

    /// A dial of a session's local server is late: another address is dialled beside it, or in its place if that one
    /// has been reached meanwhile.
    fn dial_late(&mut self, id: ConnId, names: &Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else { return };
        let Some(offer) = self.publications.offer(session.user.offer) else { return };
        let Some(attempt) = &mut session.attempt else { return };
        let (Some(late), Some((next, _))) = (attempt.last(), attempt.next(names.found(offer.name))) else {
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
            let Some(State::Busy(session)) = self.state(id) else { continue };
            if session.sid == sid && session.attempt.is_none() {
                agenda.at(id, None);
                // A name that leads nowhere is not asked for again on behalf of sessions that have waited for it.
                self.dial_next(id, names, agenda);
            }
        }
    }

    /// A dial of a session's local server is late, or it has waited for the name as long as it may: what was known
    /// before is good enough.
    pub fn due(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(State::Busy(session)) = self.state(id) else { return };
        if session.attempt.is_some() {
            return self.dial_late(id, names, agenda);
        }
        let Some(offer) = self.publications.offer(session.user.offer) else {
            return refuse(id, agenda);
        };
        names.stop_waiting(offer.name, id);
        if names.found(offer.name).is_empty() {
            offer.tell_name(NameFault::Late, agenda);
            let (user, is_uncounted) = (session.user, self.is_uncounted(id));
            let reason = user.not_resolved(is_uncounted, names, &mut self.publications, agenda);
            return agenda.push(Output::Abort { message: id, reason });
        }
        self.dial_next(id, names, agenda);
    }

    /// Both directions of a session have ended.
    pub fn ended(&mut self, id: ConnId, names: &Names, agenda: &mut Agenda) {
        agenda.at(id, None);
        let Some(message) = self.messages.get_mut(id) else { return };
        let before = std::mem::replace(&mut message.state, State::Idle);
        self.counts.turn(message.link, Some(&before), Some(&message.state));
        if let State::Busy(mut session) = before {
            session.not_served(CloseReason::Aborted(AbortReason::Reset), &self.publications, agenda);
            self.note_given_up(id, &session, names, agenda);
            self.attempts.end(session.attempt, CloseReason::Retired, agenda);
        }
    }

    /// The server has given a probe up whose local server is still sought: it has waited for it long enough.
    fn note_given_up(&mut self, id: ConnId, session: &Session, names: &Names, agenda: &mut Agenda) {
        let user = session.user;
        if !user.is_probe() || agenda.now < user.since(self.began) + GIVEN_UP_AFTER {
            return;
        }
        let is_dialled = session.attempt.as_ref().is_some_and(|attempt| attempt.last().is_some());
        let name = self.publications.offer(user.offer).map(|offer| offer.name);
        if is_dialled {
            user.failed(Reason::LocalUnanswered, &mut self.publications, agenda);
        } else if name.is_some_and(|name| names.is_awaited(name, id)) {
            user.not_resolved(false, names, &mut self.publications, agenda);
        }
    }

    // Proxy connections.

    /// A proxy connection is dialled for the session on `message`.
    pub fn dialling_proxy(&mut self, id: ConnId, message: ConnId, agenda: &mut Agenda) {
        match self.messages.get_mut(message).map(|message| &mut message.state) {
            Some(State::Busy(session)) => {
                self.proxies.insert(id, Proxy::new(message, session.user));
                match session.attempt.as_mut().is_some_and(|attempt| attempt.begun(id)) {
                    true => self.attempts.asked -= 1,
                    false => agenda.reset(id, CloseReason::Retired),
                }
            }
            // Its message connection is gone; so will it be.
            _ => agenda.reset(id, CloseReason::LinkLost),
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

    // Publications.

    /// Makes the publications what they are to be. Those that are no more lose their sessions at once: the user of one
    /// that has not found its local server may still be served elsewhere.
    pub fn change(
        &mut self,
        difference: &ClientDifference,
        leaving: bool,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let removed = self.publications.change(difference, leaving, names, agenda);
        self.end_sessions(|_, number| removed.contains(&number), names, agenda);
    }

    /// Ends at once the sessions on these links of publications that are over.
    pub fn end_sessions(
        &mut self,
        is_over: impl Fn(Option<LinkId>, PublicationNumber) -> bool,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let mut used = BTreeSet::new();
        let publications = &self.publications;
        let is_removed = |message: ConnId, user: &UserOf| {
            publications.number_of(user.offer).is_some_and(|number| is_over(self.link_of(message), number))
        };
        let (mut proxies, mut messages) = (Vec::new(), BTreeMap::new());
        for (id, message) in self.messages.iter() {
            let State::Busy(session) = &message.state else { continue };
            used.extend(session.user.offer);
            if is_removed(id, &session.user) {
                messages.insert(id, AbortReason::Refused);
            }
        }
        for (id, proxy) in self.proxies.iter() {
            used.extend(proxy.user.offer);
            let attempt = match self.state(proxy.message) {
                Some(State::Busy(session)) => session.attempt.as_ref(),
                _ => None,
            };
            let is_sought = attempt.is_some_and(|attempt| attempt.has(id));
            if is_removed(proxy.message, &proxy.user) && !is_sought {
                proxies.push(id);
                messages.entry(proxy.message).and_modify(|reason| *reason = AbortReason::Removed);
            }
        }
        proxies.sort_unstable();
        proxies.into_iter().for_each(|id| agenda.reset(id, CloseReason::Removed));
        for (id, reason) in messages {
            let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else {
                continue;
            };
            if let Some(offer) = self.publications.offer(session.user.offer) {
                names.stop_waiting(offer.name, id);
            }
            agenda.at(id, None);
            session.not_served(CloseReason::Removed, &self.publications, agenda);
            self.attempts.end(session.attempt.take(), CloseReason::Removed, agenda);
            agenda.push(Output::Abort { message: id, reason });
        }
        self.publications.forget_unused(used, names);
    }

    /// The time of the drain is over: local servers that are left are told, and their users are by that.
    pub fn give_up(&mut self, agenda: &mut Agenda) {
        let mut proxies: Vec<(ConnId, ConnId)> =
            self.proxies.iter().map(|(id, proxy)| (id, proxy.message)).collect();
        proxies.sort_unstable();
        for (id, message) in proxies {
            if let Some(State::Busy(Session { attempt: Some(attempt), .. })) = self.state(message)
                && attempt.has(id)
            {
                agenda.push(Output::Abort { message, reason: AbortReason::Shutdown });
            }
            agenda.reset(id, CloseReason::Shutdown);
        }
    }

    pub fn has_proxies(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// A local server was told all that a user has to say, and has said nothing so far.
    pub fn unanswered(&mut self, id: ConnId) {
        if let Some(proxy) = self.proxies.get_mut(id) {
            proxy.unanswered(&mut self.publications);
        }
    }

    /// A proxy connection is gone; false if there is none of this id.
    pub fn proxy_gone(
        &mut self,
        id: ConnId,
        reason: CloseReason,
        traffic: Traffic,
        names: &mut Names,
        agenda: &mut Agenda,
    ) -> bool {
        let Some(proxy) = self.proxies.remove(id) else { return false };
        let Proxy { message, user, is_served, .. } = proxy;
        if !is_served {
            user.passed(traffic, &self.publications, agenda);
        }
        if let CloseReason::DialFailed(_) = reason {
            self.dial_failed(id, message, user, reason, names, agenda);
        } else if reason == CloseReason::Retired {
            // Another one has served its session, or nobody waits for it.
        } else {
            proxy.asked(traffic, &mut self.publications);
            user.ended(is_served, reason, (traffic, self.began), &self.publications, agenda);
        }
        true
    }

    fn dial_failed(
        &mut self,
        id: ConnId,
        message: ConnId,
        user: UserOf,
        reason: CloseReason,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let began = self.began;
        let Some(State::Busy(session)) = self.messages.get_mut(message).map(|it| &mut it.state) else {
            return;
        };
        let (Some(offer), Some(attempt)) = (self.publications.offer(user.offer), session.attempt.as_mut())
        else {
            return;
        };
        let Some(dialled) = attempt.take(id) else { return };
        names.ask_again(offer.name, agenda);
        let told = attempt.fail(dialled.address, reason);
        let has_more = attempt.next(names.found(offer.name)).is_some();
        if has_more && agenda.now < user.since(began) + offer.publication.dial_time {
            return match attempt.last() {
                // There was one beside it, which may be late as well.
                Some(_) => self.dial_late(message, names, agenda),
                None => self.dial_next(message, names, agenda),
            };
        }
        if attempt.last().is_some() {
            return;
        }
        agenda.at(message, None);
        session.stage = Stage::Over;
        let reason = user.not_served(told, &mut self.publications, agenda);
        agenda.push(Output::Abort { message, reason });
    }
}
