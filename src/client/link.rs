//! The way to the server: dialling it, being admitted, message connections as it asks for them, and its silence.

use super::*;

impl Client {
    /// Begins an attempt: resolves the server's name anew, unless it is numeric.
    pub(super) fn connect(&mut self) {
        let mut pending = false;
        for id in [SERVER, MESSAGE] {
            let name = if id == SERVER { Some(&self.server) } else { self.message_override.as_ref() };
            if name.is_some_and(|name| name.numeric().is_none()) {
                self.resolve(id);
                pending = true;
            }
        }
        self.link_due = None;
        if pending {
            self.link = Link::Resolving;
        } else {
            self.dial_server(0);
        }
    }

    pub(super) fn dial_server(&mut self, index: usize) {
        let Some(&address) = self.names[SERVER].found.get(index) else {
            if index == 0 {
                warn!("the server's name {} could not be resolved", self.server.host);
            }
            return self.pause();
        };
        self.link = Link::Dialling(index);
        let hello = ClearHello {
            suite: self.suite,
            purpose: Purpose::Control,
            key_id: key_id(self.key.name.as_str()),
        };
        let greeting = Greeting { hello, secret: self.key.secret.clone(), ticket: 0, plain: false };
        let deadline = self.now + self.limits.handshake;
        self.outputs.push_back(Output::Dial { dial: Dial::Control(greeting), address, deadline });
    }

    /// Waits before the next attempt: full jitter below a cap that doubles with each failure.
    pub(super) fn pause(&mut self) {
        if self.draining.is_some() {
            (self.link, self.link_due) = (Link::Pause, None);
            return self.exit_if_drained();
        }
        let (least, most) = self.limits.reconnect;
        let cap = least.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(most);
        let pause = least + cap.saturating_sub(least).mul_f64(self.jitter.f64());
        self.failures = self.failures.saturating_add(1);
        debug!("next attempt in {:.1} s", pause.as_secs_f64());
        self.link = Link::Pause;
        self.link_due = Some(self.now + pause);
    }

    pub(super) fn greeted(&mut self, id: ConnId) {
        let Link::Dialling(index) = self.link else { return };
        let Some(&address) = self.names[SERVER].found.get(index) else { return };
        self.link = Link::Greeted(id, address);
        let services = self.services.iter().map(|service| service.name.clone()).collect();
        let hello = Hello { version: PROTOCOL_VERSION, plain: self.plain, instance: self.instance, services };
        self.outputs.push_back(Output::Send { id, frame: ControlFrame::Hello(hello) });
    }

    pub(super) fn control(&mut self, id: ConnId, frame: ControlFrame) {
        self.failures = 0;
        if let Link::Up(up) = &mut self.link {
            up.last_heard = self.now;
            self.link_due = Some(self.now + self.limits.heartbeat / 2);
        }
        match (&mut self.link, frame) {
            (&mut Link::Greeted(control, address), ControlFrame::Welcome(welcome)) if control == id => {
                self.welcomed(id, address, welcome);
            }
            (Link::Greeted(..), ControlFrame::Refused(refusal)) => {
                error!("{id} {refusal}");
                // Nothing changes by itself here: the pauses grow as if nobody had answered.
                self.failures = 8;
                self.close(id, CloseReason::Drained);
            }
            (Link::Up(_), ControlFrame::Open { first_ticket, count }) => self.open(first_ticket, count),
            (Link::Up(_), ControlFrame::Ping) => {
                self.outputs.push_back(Output::Send { id, frame: ControlFrame::Pong });
            }
            (Link::Up(_), ControlFrame::Pong) => {}
            _ => self.close(id, CloseReason::ProtocolError),
        }
    }

    pub(super) fn welcomed(&mut self, id: ConnId, address: SocketAddr, welcome: Welcome) {
        if welcome.grants.len() != self.services.len() {
            return self.close(id, CloseReason::ProtocolError);
        }
        info!("{id} connected to {} at {address} with key {}", self.server, self.key.name);
        for (service, grant) in self.services.iter().zip(&welcome.grants) {
            match grant {
                Grant::Port(port) => {
                    info!("{id} service {}: users of port {port} reach {}", service.name, service.local);
                }
                Grant::Unknown => error!(
                    "{id} service {}: the server does not have it; start the server with --service {}=ADDR",
                    service.name, service.name
                ),
            }
        }
        let message_addresses = match &self.message_override {
            Some(_) => self.names[MESSAGE].found.iter().copied().collect(),
            None => {
                // The same address, with its scope if it is a link-local one.
                let mut address = address;
                address.set_port(welcome.message_port);
                VecDeque::from([address])
            }
        };
        self.link_due = Some(self.now + self.limits.heartbeat / 2);
        self.link = Link::Up(Up {
            control: id,
            session_id: welcome.session_id,
            pool_key: welcome.pool_key,
            message_addresses,
            last_heard: self.now,
            seen: Seen::default(),
            message_failed: false,
        });
        if self.draining.is_some() {
            self.outputs.push_back(Output::Send { id, frame: ControlFrame::Drain });
        }
    }

    /// Opens message connections, one per ticket.
    pub(super) fn open(&mut self, first_ticket: u64, count: u32) {
        let Link::Up(up) = &self.link else { return };
        let Some(&address) = up.message_addresses.front() else {
            warn!("{} the host for message connections could not be resolved; trying again", up.control);
            return self.resolve(MESSAGE);
        };
        let room = self.limits.messages_per_client_max.saturating_sub(self.messages);
        if room < count as usize {
            debug!("{} asked for {count} message connections; there is room for {room}", up.control);
        }
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Message, key_id: up.session_id };
        let deadline = self.now + self.limits.handshake;
        for index in 0..room.min(count as usize) as u64 {
            let ticket = first_ticket.wrapping_add(index);
            let greeting = Greeting { hello, secret: up.pool_key.clone(), ticket, plain: self.plain };
            self.messages += 1;
            self.outputs.push_back(Output::Dial { dial: Dial::Message(greeting), address, deadline });
        }
    }

    pub(super) fn dialling(&mut self, id: ConnId, purpose: Dialled) {
        let part = match purpose {
            Dialled::Control => Part::Control,
            Dialled::Message => match &self.link {
                Link::Up(Up { message_addresses, .. }) if !message_addresses.is_empty() => {
                    Part::Message(MessageState::Coming(message_addresses[0]))
                }
                _ => {
                    // The control session ended in the same turn; `parts` must know the connection to count it.
                    self.close(id, CloseReason::ClientGone);
                    Part::Message(MessageState::Idle)
                }
            },
            Dialled::Proxy(message) => match self.parts.get_mut(message) {
                Some(Part::Message(MessageState::Busy(session))) => {
                    session.proxy = Some(id);
                    Part::Proxy { message, start: session.start, since: session.since }
                }
                // Its message connection is gone; so will it be.
                _ => return self.close(id, CloseReason::ClientGone),
            },
        };
        self.parts.insert(id, part);
    }

    pub(super) fn link_due(&mut self) {
        match &self.link {
            Link::Pause => self.connect(),
            Link::Up(up) if self.now >= up.last_heard + self.limits.heartbeat => {
                let id = up.control;
                warn!("{id} the server was silent for {} s", self.limits.heartbeat.as_secs());
                self.link_due = None;
                self.close(id, CloseReason::HeartbeatLost);
            }
            // The server pings more often than that: it is asked only when it is late.
            Link::Up(up) => {
                self.link_due = Some(up.last_heard + self.limits.heartbeat);
                self.outputs.push_back(Output::Send { id: up.control, frame: ControlFrame::Ping });
            }
            _ => self.link_due = None,
        }
    }

    pub(super) fn control_closed(&mut self, id: ConnId, reason: CloseReason) {
        match &self.link {
            Link::Up(up) if up.control == id => {
                info!("{id} connection to {} ended: {reason}", self.server);
                let own = |(id, part): (ConnId, &Part)| matches!(part, Part::Message(_)).then_some(id);
                let messages: Vec<ConnId> = self.parts.iter().filter_map(own).collect();
                messages.into_iter().for_each(|id| self.close(id, CloseReason::ClientGone));
                self.pause();
            }
            Link::Greeted(control, _) if *control == id => {
                if reason != CloseReason::Drained {
                    warn!(
                        "{id} {} ended the connection before it admitted this client: {reason}",
                        self.server
                    );
                }
                self.pause();
            }
            &Link::Dialling(index) => {
                match reason {
                    CloseReason::DialFailed(_) => warn!("{id} {}: {reason}; trying again", self.server),
                    _ => warn!(
                        "{id} {} did not answer the handshake ({reason}): it does not know key {}, its secret there is \
                         another, or the port is not skyorg's control port; compare the key lines on both sides",
                        self.server, self.key.name
                    ),
                }
                // Other addresses of the name, then a pause.
                let next = index + 1;
                if next < self.names[SERVER].found.len() { self.dial_server(next) } else { self.pause() }
            }
            _ => {}
        }
    }
}
