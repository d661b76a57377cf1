//! Users: who waits, who is given which message connection, and who goes where when that fails.

use super::*;

/// A service: where its users connect, who serves them, and who waits.
pub(super) struct Service {
    pub name: Name,
    pub port: u16,
    pub clients: Vec<usize>,
    /// Which client is tried first for the next user.
    pub turn: usize,
    pub waiting: VecDeque<ConnId>,
}

impl Server {
    pub(super) fn user_came(&mut self, id: ConnId, service: usize, peer: SocketAddr) {
        let (since, state) = (self.now, UserState::Waiting);
        let user = User { service, peer, since, state, first: None, tied: false };
        self.parts.insert(id, Part::User(user));
        self.users += 1;
        if self.waiting >= self.limits.waiting_max {
            return self.close(id, CloseReason::Full);
        }
        self.deadlines.set(id.slot(), Some(self.now + self.limits.wait));
        self.waiting += 1;
        self.services[service].waiting.push_back(id);
        self.assign(service);
    }

    /// A user lost his message connection before his session was accepted, or was refused.
    pub(super) fn returned(&mut self, id: ConnId, refused: bool, spoken: bool) {
        let Some(Part::User(user)) = self.parts.get_mut(id) else { return };
        let gone = match user.first {
            Some((control, _)) => !self.clients.iter().any(|(_, client)| client.control == control),
            None => true,
        };
        if refused {
            // It is certain that nothing was delivered: he is as good as new, but not to that client.
            let client = user.first.take().map(|(control, _)| control);
            self.refusals.entry(id).or_default().extend(client);
            user.tied = false;
        } else {
            user.tied = spoken;
        }
        if user.tied && gone {
            return self.close(id, CloseReason::ClientGone);
        }
        let (service, since) = (user.service, user.since);
        let willing = self.services[service].clients.iter().any(|&client| {
            let client = &self.clients[client];
            !client.draining && !self.has_refused(client.control, id)
        });
        if refused && !willing {
            return self.close(id, CloseReason::Aborted(AbortReason::Refused));
        }
        if self.draining.is_some() {
            return self.close(id, CloseReason::Shutdown);
        }
        if let Some(Part::User(user)) = self.parts.get_mut(id) {
            user.state = UserState::Waiting;
        }
        self.deadlines.set(id.slot(), Some(since + self.limits.wait));
        self.waiting += 1;
        // He has waited longest.
        self.services[service].waiting.push_front(id);
        self.refill.extend(&self.services[service].clients);
        self.assign(service);
    }

    /// Gives waiting users of a service their message connections, as far as there are any.
    pub(super) fn assign(&mut self, service: usize) {
        let mut place = 0;
        while let Some(&id) = self.services[service].waiting.get(place) {
            let Some(Part::User(user)) = self.parts.get(id) else { return };
            match self.choose(id, user) {
                Some(client) => {
                    self.services[service].waiting.remove(place);
                    self.begin(id, client);
                }
                // Somebody behind him may be welcome elsewhere.
                None if user.tied || self.refusals.contains_key(&id) => place += 1,
                None => break,
            }
        }
        if self.services[service].waiting.front().is_some() {
            self.refill.extend(&self.services[service].clients);
        }
    }

    /// A client with an idle connection that this user may have, each in turn.
    pub(super) fn choose(&self, id: ConnId, user: &User) -> Option<usize> {
        let service = &self.services[user.service];
        let count = service.clients.len();
        (0..count).map(|step| service.clients[(service.turn + step) % count]).find(|&index| {
            let client = &self.clients[index];
            let tied_elsewhere = user.tied && user.first.is_none_or(|(control, _)| control != client.control);
            let refused = self.has_refused(client.control, id);
            !client.draining && !client.idle.is_empty() && !refused && !tied_elsewhere
        })
    }

    /// Whether the client with this control connection has refused this user.
    pub(super) fn has_refused(&self, control: ConnId, user: ConnId) -> bool {
        self.refusals.get(&user).is_some_and(|clients| clients.contains(&control))
    }

    /// Sends `Start` on the client's connection that was used last.
    pub(super) fn begin(&mut self, user_id: ConnId, index: usize) {
        let client = &mut self.clients[index];
        let Some(message) = client.idle.pop_back() else { return };
        let sid = client.next_sid();
        let accept_time = client.accept_time(&self.limits);
        client.session_began(self.now, self.limits.retire);
        self.waiting -= 1;
        let Some(Part::User(user)) = self.parts.get_mut(user_id) else { return };
        user.state = UserState::Paired;
        let first_sid = match user.first {
            Some((control, first)) if control == client.control => first,
            _ => {
                user.first = Some((client.control, sid));
                0
            }
        };
        let (service, peer) = (user.service, user.peer);
        // invariant: `choose` picks only clients that publish the service.
        let position = client.services.iter().position(|&published| published == Some(service)).unwrap_or(0);
        let start = Start { sid, first_sid, service: position as u16, user: peer };
        self.services[service].turn = self.services[service].turn.wrapping_add(1);
        self.parts.insert(message, Part::Message { client: index, state: MessageState::Offered(self.now) });
        self.deadlines.set(user_id.slot(), None);
        self.deadlines.set(message.slot(), Some(self.now + accept_time));
        self.refill.push(index);
        self.outputs.push_back(Output::Start { message, user: user_id, start });
    }

    pub(super) fn user_gone(&mut self, id: ConnId, user: User, reason: CloseReason, traffic: Traffic) {
        self.users -= 1;
        self.refusals.remove(&id);
        if user.state == UserState::Waiting {
            let queue = &mut self.services[user.service].waiting;
            if let Some(place) = queue.iter().position(|&other| other == id) {
                queue.remove(place);
                self.waiting -= 1;
            }
        }
        let Traffic { received, sent } = traffic;
        let seconds = self.now.saturating_duration_since(user.since).as_secs_f64();
        let (name, peer) = (&self.services[user.service].name, user.peer);
        info!("{id} user {peer} of {name}: {received} bytes in, {sent} bytes out, {seconds:.3} s, {reason}");
    }
}
