//! Message connections: what becomes of one between two sessions, and how many there are.

use super::*;

impl Server {
    pub(super) fn message_state(&mut self, id: ConnId) -> Option<(usize, &mut MessageState)> {
        match self.parts.get_mut(id)? {
            Part::Message { client, state } => Some((*client, state)),
            _ => None,
        }
    }

    pub(super) fn session_event(&mut self, id: ConnId, event: SessionEvent) {
        let Some((index, state)) = self.message_state(id) else { return };
        match event {
            SessionEvent::Accepted => {
                if let MessageState::Offered(sent) = std::mem::replace(state, MessageState::Busy) {
                    self.clients[index].measured(self.now.saturating_duration_since(sent));
                    self.deadlines.set(id.slot(), None);
                }
            }
            SessionEvent::Started | SessionEvent::Start(_) => {}
            SessionEvent::Idle { settled } => {
                self.clients[index].session_ended();
                if settled || self.draining.is_some() || self.clients[index].draining {
                    self.became_idle(id);
                } else {
                    // Nobody is put behind what the client may not have read: it answers when it has.
                    self.ping(id, MessageState::Suspect(self.now), self.limits.settle);
                }
            }
            SessionEvent::Pong => {
                let (MessageState::Pinged(since) | MessageState::Suspect(since)) = *state else { return };
                let before = std::mem::replace(state, MessageState::Idle(since));
                self.clients[index].pinged -= usize::from(before == MessageState::Pinged(since));
                self.pool(id, index, since, false);
            }
            SessionEvent::Drain => self.retire(id, CloseReason::Drained),
        }
    }

    /// A message connection is free: for whoever waits, or for the pool.
    pub(super) fn became_idle(&mut self, id: ConnId) {
        let Some((index, _)) = self.message_state(id) else { return };
        self.pool(id, index, self.now, true);
    }

    pub(super) fn pool(&mut self, id: ConnId, index: usize, since: Instant, used: bool) {
        if self.draining.is_some() || self.clients[index].draining {
            self.retire(id, CloseReason::Drained);
            return self.close_if_drained(index);
        }
        self.parts.insert(id, Part::Message { client: index, state: MessageState::Idle(since) });
        let client = &mut self.clients[index];
        // What was used last is used first; a ping is no use.
        if used {
            client.idle.push_back(id)
        } else {
            client.idle.push_front(id)
        }
        let pause = self.limits.idle_ping.mul_f64(0.75 + 0.5 * self.jitter.f64());
        self.deadlines.set(id.slot(), Some(self.now + pause));
        for service in 0..self.services.len() {
            if self.services[service].clients.contains(&index) && !self.services[service].waiting.is_empty() {
                self.assign(service);
            }
        }
    }

    pub(super) fn message_due(&mut self, id: ConnId) {
        let Some((index, state)) = self.message_state(id) else { return };
        match *state {
            MessageState::Offered(sent) => {
                // A client that does not answer on its control connection either is slow, not cut off from this
                // message connection: the round trip is longer than it was, and so is the time to accept. And one
                // that answers serves its control connection first: it may still be on its way to the Start.
                let last = sent + self.limits.accept.1;
                let client = &self.clients[index];
                let had_its_turn = self.now >= client.last_heard + self.limits.accept.0;
                if (client.answered_ping_of >= sent && had_its_turn) || self.now >= last {
                    self.close(id, CloseReason::NotAccepted);
                    return self.suspect_idle(index);
                }
                if client.answered_ping_of < sent {
                    self.ping_client(index);
                }
                self.deadlines.set(id.slot(), Some(last.min(self.now + ACCEPT_RECHECK)));
            }
            MessageState::Idle(since) => {
                let idle_for = self.now.saturating_duration_since(since);
                let client = &mut self.clients[index];
                client.idle.retain(|&other| other != id);
                let surplus =
                    client.total > client.recent_peak(self.now, self.limits.retire) + self.limits.pool;
                if surplus && idle_for >= self.limits.retire {
                    // Of the two ends of the tables the upper one goes, so that they can shrink.
                    let highest = client.idle.iter().copied().max_by_key(|other| other.slot());
                    let going = highest.filter(|other| other.slot() > id.slot()).unwrap_or(id);
                    if going != id {
                        client.idle.push_front(id);
                        self.deadlines.set(id.slot(), Some(self.now + RETIRE_RECHECK));
                    }
                    self.retire(going, CloseReason::Retired);
                } else {
                    client.pinged += 1;
                    self.ping(id, MessageState::Pinged(since), self.limits.pong);
                }
            }
            MessageState::Pinged(_) | MessageState::Suspect(_) => self.close(id, CloseReason::NoPong),
            MessageState::Busy | MessageState::Leaving => {}
        }
    }

    /// A connection of this client has failed: its idle ones must prove that they are alive.
    pub(super) fn suspect_idle(&mut self, index: usize) {
        while let Some(id) = self.clients[index].idle.pop_back() {
            if let Some((_, &mut MessageState::Idle(since))) = self.message_state(id) {
                self.ping(id, MessageState::Suspect(since), self.limits.pong);
            }
        }
        self.refill.push(index);
    }

    pub(super) fn ping(&mut self, id: ConnId, as_state: MessageState, wait: Duration) {
        if let Some((_, state)) = self.message_state(id) {
            *state = as_state;
            self.deadlines.set(id.slot(), Some(self.now + wait));
            self.outputs.push_back(Output::Ping(id));
        }
    }

    /// Closes an idle message connection gently; it is no longer in the pool.
    pub(super) fn retire(&mut self, id: ConnId, reason: CloseReason) {
        let Some((index, state)) = self.message_state(id) else { return };
        let before = std::mem::replace(state, MessageState::Leaving);
        let client = &mut self.clients[index];
        client.pinged -= usize::from(matches!(before, MessageState::Pinged(_)));
        client.idle.retain(|&other| other != id);
        if client.idle.len() < SLOTS_KEPT / 2 {
            client.idle.shrink_to(SLOTS_KEPT);
        }
        self.deadlines.set(id.slot(), None);
        self.close(id, reason);
    }

    pub(super) fn message_gone(&mut self, id: ConnId, index: usize, state: MessageState) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.total -= 1;
        match state {
            MessageState::Idle(_) => client.idle.retain(|&other| other != id),
            MessageState::Pinged(_) => client.pinged -= 1,
            MessageState::Offered(_) | MessageState::Busy => client.session_ended(),
            MessageState::Suspect(_) | MessageState::Leaving => {}
        }
        if self.clients[index].draining {
            self.close_if_drained(index);
        } else {
            self.refill.push(index);
        }
    }

    pub(super) fn close_if_drained(&mut self, index: usize) {
        let client = &self.clients[index];
        let staying = |(_, part): (ConnId, &Part)| match part {
            Part::Message { client, state } => *client == index && *state != MessageState::Leaving,
            _ => false,
        };
        if client.draining && !self.parts.iter().any(staying) {
            self.close(client.control, CloseReason::Drained);
        }
    }

    /// Asks each client that may need it for as many message connections as are missing.
    pub(super) fn refill_pools(&mut self) {
        while let Some(index) = self.refill.pop() {
            let held: usize =
                self.clients.iter().map(|(_, client)| client.total + client.tickets.outstanding()).sum();
            let Some(client) = self.clients.get_mut(index) else { continue };
            if client.draining || self.draining.is_some() {
                continue;
            }
            let published = |service: &&Service| service.clients.contains(&index);
            let waiting: usize =
                self.services.iter().filter(published).map(|service| service.waiting.len()).sum();
            let outstanding = client.tickets.outstanding();
            let coming = client.idle.len() + client.pinged + outstanding;
            // However often connections fail and are replaced, there are no more than this.
            let peak = client.recent_peak(self.now, self.limits.retire);
            let own = (peak + waiting + 2 * self.limits.pool).min(self.limits.messages_per_client_max);
            let most = own
                .saturating_sub(client.total + outstanding)
                .min(self.limits.messages_max.saturating_sub(held));
            // All of them are strangers at first, from one address: more at once would push each other out.
            let strangers = self.limits.strangers_max.min(self.limits.strangers_per_address_max);
            let at_once = (strangers / 2).max(1).saturating_sub(outstanding);
            let missing = (self.limits.pool + waiting).saturating_sub(coming).min(most).min(at_once);
            if missing > 0 {
                let expiry = self.now + self.limits.ticket;
                let client = &mut self.clients[index];
                let first_ticket = client.tickets.issue(missing, expiry);
                let frame = ControlFrame::Open { first_ticket, count: missing as u32 };
                self.outputs.push_back(Output::Send { id: client.control, frame });
                self.schedule_control(index);
            }
        }
    }
}
