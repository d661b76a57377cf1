//! Sessions: begun by the server on a message connection, served by a proxy connection to a local server.

use super::*;

impl Client {
    pub(super) fn begin(&mut self, id: ConnId, start: Start) {
        let Link::Up(up) = &mut self.link else { return };
        let first_new = start.first_sid == 0 || up.seen.insert(start.first_sid);
        let new = up.seen.insert(start.sid);
        let session = Session { start, since: self.now, proxy: None, next_address: 0 };
        let first_sid = session.first_sid();
        if !first_new || !new {
            // The server has given up every connection on which it sent this session before, and only those.
            let abandoned = self.parts.iter().find(|(_, part)| match part {
                Part::Message(MessageState::Busy(other)) => {
                    other.first_sid() == first_sid && other.start.sid < start.sid
                }
                _ => false,
            });
            for message in [abandoned.map(|(other, _)| other), Some(id)].into_iter().flatten() {
                self.outputs.push_back(Output::Abort { message, reason: AbortReason::Duplicate });
            }
            debug!("{id} session {} for {} is a duplicate of {first_sid}", start.sid, start.user);
            self.parts.insert(id, Part::Message(MessageState::Busy(session)));
            return;
        }
        self.parts.insert(id, Part::Message(MessageState::Busy(session)));
        if usize::from(start.service) >= self.services.len() {
            return self.refuse(id);
        }
        self.outputs.push_back(Output::Accept(id));
        self.dial_local(id);
    }

    /// Dials the next address of the session's local server, or has its name resolved first.
    pub(super) fn dial_local(&mut self, message: ConnId) {
        let Some(Part::Message(MessageState::Busy(session))) = self.parts.get_mut(message) else { return };
        let last = session.since + self.limits.local_dial;
        let name = FIXED_NAMES + usize::from(session.start.service);
        let addresses = &self.names[name];
        let stale = addresses.resolved.is_none_or(|at| self.now >= at + self.limits.resolved);
        let numeric = self.services[usize::from(session.start.service)].local.numeric().is_some();
        if !numeric && stale {
            let known = !addresses.found.is_empty();
            self.resolve(name);
            // What is known is used meanwhile; who must wait for a name waits no longer than for a local server.
            if !known {
                self.deadlines.set(message.slot(), Some(last));
                return;
            }
        }
        let Some(Part::Message(MessageState::Busy(session))) = self.parts.get_mut(message) else { return };
        let addresses = &self.names[name];
        let left = addresses.found.len().saturating_sub(session.next_address);
        let Some(&address) = addresses.found.get(session.next_address) else { return self.refuse(message) };
        session.next_address += 1;
        // Each address gets its share of what is left of the time.
        let share = last.saturating_duration_since(self.now) / left.max(1) as u32;
        let deadline = self.now + share;
        self.outputs.push_back(Output::Dial { dial: Dial::Proxy(message), address, deadline });
    }

    pub(super) fn refuse(&mut self, message: ConnId) {
        self.outputs.push_back(Output::Abort { message, reason: AbortReason::Refused });
    }

    pub(super) fn resolve(&mut self, id: usize) {
        if !std::mem::replace(&mut self.names[id].asked, true) {
            let host = self.names[id].host.clone();
            self.outputs.extend(NameId::new(id as u32, 1).map(|name| Output::Resolve { name, host }));
        }
    }

    pub(super) fn resolved(&mut self, id: usize, addresses: Vec<SocketAddr>) {
        let name = &mut self.names[id];
        name.found = addresses;
        name.resolved = Some(self.now);
        name.asked = false;
        if id == MESSAGE
            && let Link::Up(up) = &mut self.link
        {
            up.message_addresses = self.names[MESSAGE].found.iter().copied().collect();
        }
        if id == SERVER || id == MESSAGE {
            if matches!(self.link, Link::Resolving) && !self.names[SERVER].asked && !self.names[MESSAGE].asked
            {
                self.dial_server(0);
            }
            return;
        }
        let waits = |(message, part): (ConnId, &Part)| match part {
            Part::Message(MessageState::Busy(session)) => (session.proxy.is_none()
                && session.next_address == 0
                && usize::from(session.start.service) + FIXED_NAMES == id)
                .then_some(message),
            _ => None,
        };
        let waiting: Vec<ConnId> = self.parts.iter().filter_map(waits).collect();
        for message in waiting {
            self.deadlines.set(message.slot(), None);
            // A name that leads nowhere is not asked for again on behalf of those who have waited for it.
            if self.names[id].found.is_empty() { self.refuse(message) } else { self.dial_local(message) }
        }
    }

    pub(super) fn dial_failed(
        &mut self,
        id: ConnId,
        message: ConnId,
        start: Start,
        kind: std::io::ErrorKind,
    ) {
        let Some(Part::Message(MessageState::Busy(session))) = self.parts.get_mut(message) else { return };
        if session.proxy != Some(id) {
            return;
        }
        session.proxy = None;
        let service = &self.services[usize::from(start.service)];
        let more = session.next_address < self.names[FIXED_NAMES + usize::from(start.service)].found.len();
        if more && self.now < session.since + self.limits.local_dial {
            return self.dial_local(message);
        }
        warn!(
            "{id} user {} of {}: local server {} did not take the connection: {kind}",
            start.user, service.name, service.local
        );
        self.refuse(message);
    }

    /// One line per ended session.
    pub(super) fn log_session(
        &self,
        id: ConnId,
        start: Start,
        since: Instant,
        reason: CloseReason,
        traffic: Traffic,
    ) {
        let Service { name, local } = &self.services[usize::from(start.service)];
        let Traffic { received, sent } = traffic;
        let seconds = self.now.saturating_duration_since(since).as_secs_f64();
        let user = start.user;
        info!(
            "{id} user {user} of {name} at {local}: {sent} bytes in, {received} bytes out, {seconds:.3} s, {reason}"
        );
    }

    pub(super) fn session_event(&mut self, id: ConnId, event: SessionEvent) {
        match event {
            SessionEvent::Start(start) => self.begin(id, start),
            SessionEvent::Idle { .. } => {
                self.deadlines.set(id.slot(), None);
                if let Some(Part::Message(state)) = self.parts.get_mut(id) {
                    *state = MessageState::Idle;
                }
            }
            _ => {}
        }
    }
}
