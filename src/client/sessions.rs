//! Message connections and the sessions on them: begun by the server, each served by a proxy connection to a local
//! server.
//!
//! A local server is dialled at most once per session that has not been seen before.

mod seeking;

use std::collections::HashMap;
use std::time::Instant;

use super::attempt::Attempts;
use super::names::Names;
use super::publications::Publications;
use super::seen::Seen;
use super::session::{Counts, Message, Proxy, Session, Stage, State};
use super::user::UserOf;
use crate::base::id::{ConnId, LinkId, kind};
use crate::base::sorted::by_rank;
use crate::base::table::Table;
use crate::config::client_difference::ClientDifference;
use crate::machine::{Agenda, CloseReason, Fact, Output, Traffic};
use crate::wire::control::PublicationNumber;
use crate::wire::frame::{AbortReason, Start};

/// All message connections, sessions and proxy connections.
pub(super) struct Sessions {
    pub publications: Publications,
    messages: Table<kind::Connection, Message>,
    proxies: Table<kind::Connection, Proxy>,
    /// How many of both keep an offer of each publication: those of which none does cost nothing when they go.
    keeping: HashMap<PublicationNumber, usize>,
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
            keeping: HashMap::new(),
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
        if let State::Busy(session) = &state {
            self.keeps_no_more(session.user);
        }
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
        let ids = by_rank(own.map(|(id, _)| id), |id| id.serial());
        ids.for_each(|id| agenda.reset(id, CloseReason::LinkLost));
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
        self.keeps(user);
        if let State::Busy(mut before) = before {
            self.keeps_no_more(before.user);
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

    /// Both directions of a session have ended.
    pub fn ended(&mut self, id: ConnId, names: &Names, agenda: &mut Agenda) {
        agenda.at(id, None);
        let Some(message) = self.messages.get_mut(id) else { return };
        let before = std::mem::replace(&mut message.state, State::Idle);
        self.counts.turn(message.link, Some(&before), Some(&message.state));
        if let State::Busy(mut session) = before {
            self.keeps_no_more(session.user);
            session.not_served(CloseReason::Aborted(AbortReason::Reset), &self.publications, agenda);
            self.note_given_up(id, &session, names, agenda);
            self.attempts.end(session.attempt, CloseReason::Retired, agenda);
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
                let user = session.user;
                self.keeps(user);
            }
            // Its message connection is gone; so will it be.
            _ => agenda.reset(id, CloseReason::LinkLost),
        }
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
        for number in self.publications.change(difference, leaving, names, agenda) {
            self.end_sessions(number, None, names, agenda);
        }
        let sessions = self.messages.iter().filter_map(|(_, message)| match &message.state {
            State::Busy(session) => session.user.offer,
            State::Coming | State::Idle => None,
        });
        let in_use = sessions.chain(self.proxies.iter().filter_map(|(_, proxy)| proxy.user.offer)).collect();
        self.publications.forget_unused(in_use, names);
    }

    /// A publication is over: its sessions end at once, all or those on this link.
    pub fn end_sessions(
        &mut self,
        number: PublicationNumber,
        link: Option<LinkId>,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        if !self.keeping.contains_key(&number) {
            return;
        }
        let is_over = |message: ConnId, user: &UserOf| {
            self.publications.number_of(user.offer) == Some(number)
                && (link.is_none() || self.link_of(message) == link)
        };
        let messages = self.messages.iter().filter(|(id, message)| match &message.state {
            State::Busy(session) => is_over(*id, &session.user),
            State::Coming | State::Idle => false,
        });
        let messages: Vec<ConnId> = messages.map(|(id, _)| id).collect();
        let proxies = self
            .proxies
            .iter()
            .filter(|(id, proxy)| is_over(proxy.message, &proxy.user) && !self.is_sought(*id, proxy.message));
        let proxies: Vec<ConnId> = proxies.map(|(id, _)| id).collect();
        // A session that is served ends with its proxy connection.
        by_rank(proxies, |id| id.serial()).for_each(|id| agenda.reset(id, CloseReason::Removed));
        for id in by_rank(messages, |id| id.serial()) {
            let Some(State::Busy(session)) = self.messages.get_mut(id).map(|it| &mut it.state) else {
                continue;
            };
            if session.stage == Stage::Served {
                continue;
            }
            if let Some(offer) = self.publications.offer(session.user.offer) {
                names.stop_waiting(offer.name, id);
            }
            agenda.at(id, None);
            session.not_served(CloseReason::Removed, &self.publications, agenda);
            self.attempts.end(session.attempt.take(), CloseReason::Removed, agenda);
            let reason = if session.user.is_probe() { AbortReason::Removed } else { AbortReason::Refused };
            agenda.push(Output::Abort { message: id, reason });
        }
    }

    /// One more keeps the offer of this user.
    fn keeps(&mut self, user: UserOf) {
        if let Some(number) = self.publications.number_of(user.offer) {
            *self.keeping.entry(number).or_default() += 1;
        }
    }

    fn keeps_no_more(&mut self, user: UserOf) {
        let Some(number) = self.publications.number_of(user.offer) else { return };
        if let Some(count) = self.keeping.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.keeping.remove(&number);
            }
        }
    }

    /// Whether a proxy connection is being dialled for the session on this message connection.
    fn is_sought(&self, proxy: ConnId, message: ConnId) -> bool {
        match self.state(message) {
            Some(State::Busy(session)) => session.attempt.as_ref().is_some_and(|attempt| attempt.has(proxy)),
            _ => false,
        }
    }

    /// The time of the drain is over: local servers that are left are told, and their users are by that.
    pub fn give_up(&mut self, agenda: &mut Agenda) {
        let proxies = self.proxies.iter().map(|(id, proxy)| (id, proxy.message));
        for (id, message) in by_rank(proxies, |it| it.0.serial()) {
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
        self.keeps_no_more(user);
        if !is_served {
            user.passed(traffic, &self.publications, agenda);
        }
        if let CloseReason::DialFailed(_) = reason {
            self.dial_failed(id, message, reason, names, agenda);
        } else if reason == CloseReason::Retired {
            // Another one has served its session, or nobody waits for it.
        } else {
            proxy.asked(traffic, &mut self.publications);
            user.ended(is_served, reason, (traffic, self.began), &self.publications, agenda);
        }
        true
    }
}
