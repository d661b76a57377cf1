//! Message connections and the sessions on them: begun by the server, each served by a proxy connection to a local
//! server.
//!
//! A local server is dialled at most once per session that has not been seen before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::names::Names;
use super::seen::Seen;
use crate::base::address::{HostPort, PackedAddress};
use crate::base::id::{ConnId, NameId, kind};
use crate::base::name::Name;
use crate::base::table::Table;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Output, Traffic};
use crate::wire::control::PublicationNumber;
use crate::wire::frame::{AbortReason, Sid, Start};

/// What the client publishes.
pub(super) struct Published {
    pub service: Name,
    pub local: HostPort,
    /// Where its local server's addresses are kept.
    pub name: NameId,
}

/// What a message connection does.
enum Message {
    /// It is dialled, to this address, and not proved yet.
    Coming(PackedAddress),
    Idle,
    Busy(Session),
}

/// A session that runs on a message connection.
struct Session {
    user: UserOf,
    sid: Sid,
    /// The number under which the user's bytes were first sent.
    first_sid: Sid,
    /// The proxy connection, once one is dialled.
    proxy: Option<ConnId>,
    /// How many of the local server's addresses were tried.
    tried: u16,
}

/// The user of a session.
#[derive(Clone, Copy)]
struct UserOf {
    number: u64,
    address: PackedAddress,
    publication: PublicationNumber,
    since: Instant,
}

/// A proxy connection; its session may be over before it.
struct Proxy {
    message: ConnId,
    user: UserOf,
}

/// All message connections, sessions and proxy connections.
pub(super) struct Sessions {
    pub published: BTreeMap<PublicationNumber, Published>,
    messages: Table<kind::Connection, Message>,
    /// Dialled and not begun to be.
    expected: usize,
    proxies: Table<kind::Connection, Proxy>,
    /// Sessions that run.
    running: usize,
    seen: Seen,
}

impl Sessions {
    /// No sessions of these publications.
    pub fn new(published: BTreeMap<PublicationNumber, Published>) -> Sessions {
        Sessions {
            published,
            messages: Table::default(),
            expected: 0,
            proxies: Table::default(),
            running: 0,
            seen: Seen::default(),
        }
    }

    // Message connections.

    /// How many message connections there are, or will be.
    pub fn message_count(&self) -> usize {
        self.messages.len() + self.expected
    }

    /// A message connection will be dialled.
    pub fn await_one(&mut self) {
        self.expected += 1;
    }

    /// A message connection is dialled.
    pub fn dialling(&mut self, id: ConnId, address: SocketAddr) {
        self.expected = self.expected.saturating_sub(1);
        self.messages.insert(id, Message::Coming(address.into()));
    }

    /// A message connection that was expected is dialled for a link that is gone.
    pub fn not_dialled(&mut self) {
        self.expected = self.expected.saturating_sub(1);
    }

    /// How many sessions run.
    pub fn running_count(&self) -> usize {
        self.running
    }

    pub fn is_proxy(&self, id: ConnId) -> bool {
        self.proxies.contains(id)
    }

    pub fn is_message(&self, id: ConnId) -> bool {
        self.messages.contains(id)
    }

    /// A message connection is proved.
    pub fn connected(&mut self, id: ConnId) {
        if let Some(message) = self.messages.get_mut(id) {
            *message = Message::Idle;
        }
    }

    /// A message connection is gone; returns the address that could not be reached, if it never stood.
    pub fn message_gone(&mut self, id: ConnId) -> Option<SocketAddr> {
        match self.messages.remove(id)? {
            Message::Coming(address) => Some(address.into()),
            Message::Busy(_) => {
                self.running -= 1;
                None
            }
            Message::Idle => None,
        }
    }

    /// The link is gone: its message connections are, and numbers of sessions begin anew.
    pub fn reset_all(&mut self, agenda: &mut Agenda) {
        let mut ids: Vec<ConnId> = self.messages.iter().map(|(id, _)| id).collect();
        ids.sort();
        ids.into_iter().for_each(|id| agenda.reset(id, CloseReason::LinkLost));
    }

    /// A link stands: numbers of sessions begin anew.
    pub fn begin_link(&mut self) {
        self.seen = Seen::default();
    }

    // Sessions.

    /// A session has begun on a message connection.
    pub fn begin(&mut self, id: ConnId, start: Start, names: &mut Names, agenda: &mut Agenda) {
        if !self.messages.contains(id) {
            return;
        }
        let first_sid = if start.first_sid == 0 { start.sid } else { start.first_sid };
        let first_new = start.first_sid == 0 || self.seen.insert(start.first_sid);
        let new = self.seen.insert(start.sid);
        let user = UserOf {
            number: start.number,
            address: start.user.into(),
            publication: start.publication,
            since: agenda.now,
        };
        let session = Session { user, sid: start.sid, first_sid, proxy: None, tried: 0 };
        // The end of the session before may not have been told of yet.
        let was_busy = matches!(self.messages.get(id), Some(Message::Busy(_)));
        self.running += usize::from(!was_busy);
        self.messages.insert(id, Message::Busy(session));
        if !first_new || !new {
            return self.abort_duplicate(id, start, first_sid, agenda);
        }
        if !self.published.contains_key(&start.publication) {
            return refuse(id, agenda);
        }
        agenda.push(Output::Accept(id));
        self.dial(id, names, agenda);
    }

    /// The server has given up every connection on which it sent this session before, and only those.
    fn abort_duplicate(&mut self, id: ConnId, start: Start, first_sid: Sid, agenda: &mut Agenda) {
        // A walk over all sessions: it is rare, because the server offers few sessions again.
        let older = self.messages.iter().find(|(_, message)| match message {
            Message::Busy(other) => other.first_sid == first_sid && other.sid < start.sid,
            _ => false,
        });
        let older = older.map(|(message, _)| message);
        for message in older.into_iter().chain([id]) {
            agenda.push(Output::Abort { message, reason: AbortReason::Duplicate });
        }
        agenda.fact(Fact::Duplicate { number: start.number });
    }

    /// Dials the next address of the session's local server, or has its name resolved first.
    fn dial(&mut self, id: ConnId, names: &mut Names, agenda: &mut Agenda) {
        let Some(Message::Busy(session)) = self.messages.get_mut(id) else { return };
        let Some(published) = self.published.get(&session.user.publication) else {
            return refuse(id, agenda);
        };
        let last = session.user.since + agenda.limits.local_dial;
        if names.is_stale(published.name, agenda) {
            names.ask(published.name, agenda);
            // What is known is used meanwhile. A session that must wait for a name waits no longer than for a local
            // server.
            if names.found(published.name).is_empty() {
                names.wait(published.name, id, session.sid);
                return agenda.at(id, Some(last));
            }
        }
        let found = names.found(published.name);
        let left = found.len().saturating_sub(session.tried.into());
        let Some(&address) = found.get(usize::from(session.tried)) else { return refuse(id, agenda) };
        session.tried += 1;
        // Each address gets its share of what is left of the time.
        let share = last.saturating_duration_since(agenda.now) / left.max(1) as u32;
        let deadline = agenda.now + share;
        agenda.push(Output::Dial { dial: Dial::Proxy(id), address, deadline });
    }

    /// A name was resolved, or not: the sessions that waited for it go on.
    pub fn resolved(&mut self, waiting: BTreeMap<ConnId, Sid>, names: &mut Names, agenda: &mut Agenda) {
        for (id, sid) in waiting {
            let Some(Message::Busy(session)) = self.messages.get(id) else { continue };
            let waits = session.sid == sid && session.proxy.is_none() && session.tried == 0;
            let Some(published) = self.published.get(&session.user.publication).filter(|_| waits) else {
                continue;
            };
            agenda.at(id, None);
            // A name that leads nowhere is not asked for again on behalf of sessions that have waited for it.
            if names.found(published.name).is_empty() {
                refuse(id, agenda);
            } else {
                self.dial(id, names, agenda);
            }
        }
    }

    /// A session has waited for its local server's name as long as it may.
    pub fn due(&mut self, id: ConnId, agenda: &mut Agenda) {
        if let Some(Message::Busy(_)) = self.messages.get(id) {
            refuse(id, agenda);
        }
    }

    /// Both directions of a session have ended.
    pub fn ended(&mut self, id: ConnId, agenda: &mut Agenda) {
        agenda.at(id, None);
        if let Some(message) = self.messages.get_mut(id)
            && let Message::Busy(_) = std::mem::replace(message, Message::Idle)
        {
            self.running -= 1;
        }
    }

    // Proxy connections.

    /// A proxy connection is dialled for the session on `message`.
    pub fn dialling_proxy(&mut self, id: ConnId, message: ConnId, agenda: &mut Agenda) {
        match self.messages.get_mut(message) {
            Some(Message::Busy(session)) => {
                session.proxy = Some(id);
                self.proxies.insert(id, Proxy { message, user: session.user });
            }
            // Its message connection is gone; so will it be.
            _ => agenda.reset(id, CloseReason::LinkLost),
        }
    }

    /// The time of the drain is over: local servers that are left are told, and their users are by that.
    pub fn give_up(&mut self, agenda: &mut Agenda) {
        let mut ids: Vec<ConnId> = self.proxies.iter().map(|(id, _)| id).collect();
        ids.sort();
        ids.into_iter().for_each(|id| agenda.reset(id, CloseReason::Shutdown));
    }

    pub fn has_proxies(&self) -> bool {
        !self.proxies.is_empty()
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
        let Some(Proxy { message, user }) = self.proxies.remove(id) else { return false };
        if let CloseReason::DialFailed(_) = reason {
            self.dial_failed(id, message, user, reason, names, agenda);
        } else if let Some(Published { service, local, .. }) = self.published.get(&user.publication) {
            agenda.fact(Fact::SessionEnded {
                number: user.number,
                user: user.address.into(),
                service: service.clone(),
                local: local.clone(),
                traffic,
                lasted: agenda.now.saturating_duration_since(user.since),
                reason,
            });
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
        let Some(Message::Busy(session)) = self.messages.get_mut(message) else { return };
        if session.proxy != Some(id) {
            return;
        }
        session.proxy = None;
        let Some(published) = self.published.get(&user.publication) else { return };
        let more = usize::from(session.tried) < names.found(published.name).len();
        if more && agenda.now < user.since + agenda.limits.local_dial {
            return self.dial(message, names, agenda);
        }
        agenda.fact(Fact::LocalFailed {
            number: user.number,
            user: user.address.into(),
            service: published.service.clone(),
            local: published.local.clone(),
            reason,
        });
        refuse(message, agenda);
    }
}

fn refuse(message: ConnId, agenda: &mut Agenda) {
    agenda.push(Output::Abort { message, reason: AbortReason::Refused });
}
