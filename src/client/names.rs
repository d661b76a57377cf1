//! Host names: what is known of each, since when, and which sessions wait to hear.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::address::HostPort;
use crate::base::id::{ConnId, NameId, kind};
use crate::base::slots::Slots;
use crate::machine::{Agenda, Fact, Output};
use crate::wire::frame::Sid;

/// A host name.
struct Entry {
    host: HostPort,
    found: Vec<SocketAddr>,
    /// Until when it need not be asked for again; `None` for a name that was never asked for.
    fresh_until: Option<Instant>,
    /// The last lookup failed: what was found before it is still used.
    failed: bool,
    asked: bool,
    /// Message connections whose sessions wait for the answer, and the sessions' numbers.
    waiting: BTreeMap<ConnId, Sid>,
}

/// All host names of a client.
#[derive(Default)]
pub(super) struct Names(Slots<kind::Name, Entry>);

impl Names {
    /// Adds a name; `None` if there are as many as can be named.
    pub fn add(&mut self, host: &HostPort) -> Option<NameId> {
        let found = host.known();
        let (host, waiting) = (host.clone(), BTreeMap::new());
        self.0.insert(Entry { host, found, fresh_until: None, failed: false, asked: false, waiting }).ok()
    }

    /// The addresses that are known.
    pub fn found(&self, id: NameId) -> &[SocketAddr] {
        self.0.get(id).map_or(&[], |entry| &entry.found)
    }

    /// Whether a name must be asked for, and what is known of it may be old.
    pub fn is_stale(&self, id: NameId, agenda: &Agenda) -> bool {
        let Some(entry) = self.0.get(id) else { return false };
        let fresh = entry.fresh_until.is_some_and(|until| agenda.now < until);
        entry.host.known().is_empty() && !fresh
    }

    /// Whether a name must be asked for anew with each attempt: it is not numeric.
    pub fn must_be_asked(&self, id: NameId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.host.known().is_empty())
    }

    /// Whether the last lookup of a name failed.
    pub fn has_failed(&self, id: NameId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.failed)
    }

    /// Whether an answer is on its way.
    pub fn is_asked(&self, id: NameId) -> bool {
        self.0.get(id).is_some_and(|entry| entry.asked)
    }

    /// Asks for a name's addresses, unless that is done already.
    pub fn ask(&mut self, id: NameId, agenda: &mut Agenda) {
        if let Some(entry) = self.0.get_mut(id)
            && !std::mem::replace(&mut entry.asked, true)
        {
            agenda.push(Output::Resolve { name: id, host: entry.host.clone() });
        }
    }

    /// Tells that a name leads nowhere, and what it is for.
    pub fn tell_unresolved(&self, id: NameId, purpose: &'static str, agenda: &mut Agenda) {
        if let Some(entry) = self.0.get(id) {
            agenda.fact(Fact::Unresolved { host: entry.host.clone(), purpose });
        }
    }

    /// A session waits for the answer.
    pub fn wait(&mut self, id: NameId, message: ConnId, sid: Sid) {
        if let Some(entry) = self.0.get_mut(id) {
            entry.waiting.insert(message, sid);
        }
    }

    /// Notes an answer; returns the message connections and the sessions that waited for it.
    ///
    /// A lookup that failed is no answer: addresses that are known stay, and the name may be asked for again soon.
    pub fn answer(
        &mut self,
        id: NameId,
        addresses: Vec<SocketAddr>,
        agenda: &Agenda,
    ) -> BTreeMap<ConnId, Sid> {
        let Some(entry) = self.0.get_mut(id) else { return BTreeMap::new() };
        (entry.asked, entry.failed) = (false, addresses.is_empty());
        let good_for = if entry.failed { agenda.limits.resolve_retry } else { agenda.limits.resolved };
        entry.fresh_until = Some(agenda.now + good_for);
        if !addresses.is_empty() {
            entry.found = addresses;
        }
        std::mem::take(&mut entry.waiting)
    }
}
