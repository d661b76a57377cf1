//! Host names: what is known of each, since when, what was learnt by dialling, and which sessions wait to hear.
//!
//! Only an answer replaces an answer (RFC 8767): addresses do, and "no such name" does once it has come twice, a second
//! apart. Any other failure keeps what is known for a day. A name in use is asked for again before its answer is old,
//! so that nobody waits for it; one that was not in use for a while is waited for, a moment. The address that worked
//! last is tried first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::address::HostPort;
use crate::base::id::{ConnId, NameId, kind};
use crate::base::slots::Slots;
use crate::machine::{Agenda, Fact, Lookup, Output};
use crate::wire::frame::Sid;

/// Part of its time after which an answer that is in use is renewed.
const RENEWED_AFTER: f64 = 0.75;
/// What is told of a name that does not exist.
const NO_SUCH_NAME: &str = "no such name";

/// A host name.
struct Entry {
    host: HostPort,
    /// It is looked up: its addresses are not known without that.
    is_looked_up: bool,
    /// Its addresses; the one that worked last comes first.
    found: Vec<SocketAddr>,
    /// The address that worked last.
    worked: Option<Worked>,
    /// When its addresses were found; `None` while none are known, and for what needs no resolver.
    found_at: Option<Instant>,
    /// When it was first said that there is no such name; no addresses have been found since.
    absent_since: Option<Instant>,
    /// Why the last lookup failed, if it did: what was found before it is still used.
    failure: Option<Box<str>>,
    /// Since when a lookup is on its way.
    asked_at: Option<Instant>,
    /// It is not asked for again before that on behalf of sessions.
    rests_until: Option<Instant>,
    /// Message connections whose sessions wait for the answer, and the sessions' numbers.
    waiting: BTreeMap<ConnId, Sid>,
}

/// An address that was reached.
#[derive(Clone, Copy)]
struct Worked {
    address: SocketAddr,
    at: Instant,
    /// How long connecting took.
    took: Duration,
}

/// What a session does about the name of its local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consulted {
    /// It uses what is known, if anything is.
    Go,
    /// What is known is old: it waits for an answer until then, and uses it after that.
    WaitUntil(Instant),
    /// Nothing is known: it waits for the answer.
    Wait,
}

/// All host names of a client.
#[derive(Default)]
pub(super) struct Names(Slots<kind::Name, Entry>);

impl Names {
    /// Adds a name; `None` if there are as many as can be named.
    pub fn add(&mut self, host: &HostPort) -> Option<NameId> {
        let found = host.known();
        let entry = Entry {
            host: host.clone(),
            is_looked_up: found.is_empty(),
            found,
            worked: None,
            found_at: None,
            absent_since: None,
            failure: None,
            asked_at: None,
            rests_until: None,
            waiting: BTreeMap::new(),
        };
        self.0.insert(entry).ok()
    }

    /// Forgets a name that nobody needs any more.
    pub fn remove(&mut self, id: NameId) {
        self.0.remove(id);
    }

    /// The addresses that are known, in the order in which they are tried.
    pub fn found(&self, id: NameId) -> &[SocketAddr] {
        self.0.get(id).map_or(&[], |entry| &entry.found)
    }

    /// Why the last lookup of a name failed, if it did.
    pub fn failure(&self, id: NameId) -> Option<&str> {
        self.0.get(id)?.failure.as_deref()
    }

    /// The name.
    pub fn host(&self, id: NameId) -> Option<Arc<str>> {
        self.0.get(id).map(|entry| entry.host.host.clone())
    }

    /// Whether the session on this message connection waits for the answer.
    pub fn is_awaited(&self, id: NameId, message: ConnId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.waiting.contains_key(&message))
    }

    /// Until when it is not asked for again, if its last answer is as new as that.
    pub fn rests_until(&self, id: NameId) -> Option<Instant> {
        self.0.get(id)?.rests_until
    }

    /// Whether its addresses are not known without a resolver.
    pub fn is_looked_up(&self, id: NameId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.is_looked_up)
    }

    /// Whether an answer is on its way.
    pub fn is_asked(&self, id: NameId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.asked_at.is_some())
    }

    /// Asks for a name's addresses, unless that is done already or it needs no resolver.
    pub fn ask(&mut self, id: NameId, agenda: &mut Agenda) {
        if let Some(entry) = self.0.get_mut(id)
            && entry.asked_at.is_none()
            && entry.is_looked_up
        {
            if entry.age(agenda).is_some_and(|age| age >= agenda.limits.resolved_kept) {
                entry.forget();
            }
            entry.asked_at = Some(agenda.now);
            agenda.push(Output::Resolve { name: id, host: entry.host.clone() });
        }
    }

    /// Asks, unless the last answer is no older than a moment: for a session, or because a dial failed and the address
    /// may be another one by now.
    pub fn ask_again(&mut self, id: NameId, agenda: &mut Agenda) {
        if self.0.get(id).is_some_and(|entry| entry.rests_until.is_none_or(|until| until <= agenda.now)) {
            self.ask(id, agenda);
        }
    }

    /// A session needs the addresses: asks for them where it is time for that, and says whether it waits.
    pub fn consult(&mut self, id: NameId, agenda: &mut Agenda) -> Consulted {
        let fresh_for = agenda.limits.resolved;
        let Some(entry) = self.0.get(id).filter(|entry| entry.is_looked_up) else { return Consulted::Go };
        let age = entry.age(agenda);
        if age.is_none_or(|age| age >= fresh_for.mul_f64(RENEWED_AFTER)) {
            self.ask_again(id, agenda);
        }
        let is_fresh = age.is_some_and(|age| age < fresh_for);
        let Some(entry) = self.0.get(id) else { return Consulted::Go };
        match entry.asked_at {
            Some(asked_at) if !is_fresh && !entry.found.is_empty() => {
                let until = asked_at + agenda.limits.resolve_wait;
                if agenda.now < until { Consulted::WaitUntil(until) } else { Consulted::Go }
            }
            Some(_) if entry.found.is_empty() => Consulted::Wait,
            _ => Consulted::Go,
        }
    }

    /// An address was reached: it is tried first from now on.
    pub fn worked(&mut self, id: NameId, address: SocketAddr, dialled: Instant, at: Instant) {
        if let Some(entry) = self.0.get_mut(id) {
            let took = at.saturating_duration_since(dialled);
            entry.worked = Some(Worked { address, at, took });
            entry.prefer_worked();
        }
    }

    /// When a dial of this address is late.
    pub fn late_after(&self, id: NameId, address: SocketAddr, agenda: &Agenda) -> Duration {
        let worked = self.0.get(id).and_then(|entry| entry.worked).filter(|it| it.address == address);
        agenda.limits.late_after(worked.map_or(Duration::ZERO, |it| it.took))
    }

    /// Whether an address was reached since then.
    pub fn has_worked_since(&self, id: NameId, address: SocketAddr, since: Instant) -> bool {
        let worked = self.0.get(id).and_then(|entry| entry.worked);
        worked.is_some_and(|it| it.address == address && it.at >= since)
    }

    /// Tells that a name leads nowhere, and what it is for.
    pub fn tell_unresolved(&self, id: NameId, purpose: &'static str, agenda: &mut Agenda) {
        if let Some(entry) = self.0.get(id) {
            let why = entry.failure.as_deref().unwrap_or(NO_SUCH_NAME).into();
            agenda.fact(Fact::Unresolved { host: entry.host.clone(), purpose, why });
        }
    }

    /// A session waits for the answer.
    pub fn wait(&mut self, id: NameId, message: ConnId, sid: Sid) {
        if let Some(entry) = self.0.get_mut(id) {
            entry.waiting.insert(message, sid);
        }
    }

    /// A session waits no longer.
    pub fn stop_waiting(&mut self, id: NameId, message: ConnId) {
        if let Some(entry) = self.0.get_mut(id) {
            entry.waiting.remove(&message);
        }
    }

    /// Notes an answer; returns the message connections and the sessions that waited for it.
    pub fn answer(&mut self, id: NameId, lookup: Lookup, agenda: &Agenda) -> BTreeMap<ConnId, Sid> {
        let Some(entry) = self.0.get_mut(id) else { return BTreeMap::new() };
        let (now, retry) = (agenda.now, agenda.limits.resolve_retry);
        (entry.asked_at, entry.rests_until) = (None, Some(now + retry));
        match lookup {
            Lookup::Found(addresses) => {
                (entry.found, entry.found_at) = (addresses, Some(now));
                (entry.absent_since, entry.failure) = (None, None);
                entry.prefer_worked();
            }
            Lookup::NoSuchName => {
                if now >= *entry.absent_since.get_or_insert(now) + retry {
                    entry.forget();
                }
                entry.failure = Some(NO_SUCH_NAME.into());
            }
            Lookup::Failed(why) => entry.failure = Some(why),
        }
        std::mem::take(&mut entry.waiting)
    }
}

impl Entry {
    /// How long ago its addresses were found.
    fn age(&self, agenda: &Agenda) -> Option<Duration> {
        self.found_at.map(|at| agenda.now.saturating_duration_since(at))
    }

    fn forget(&mut self) {
        (self.found, self.found_at) = (Vec::new(), None);
    }

    fn prefer_worked(&mut self) {
        let worked = self.worked.map(|worked| worked.address);
        if let Some(place) = self.found.iter().position(|&address| Some(address) == worked) {
            self.found[..=place].rotate_right(1);
        }
    }
}
