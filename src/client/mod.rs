//! The client's half: staying connected to the server, keeping the pool filled as the server asks, and dialling
//! local servers.
//!
//! It holds no socket and reads no clock. It never closes an idle message connection of its own accord, opens one
//! only for a ticket, and dials a local server at most once per session that it has not seen before.

mod seen;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, error, info, warn};

use crate::config::{ClientConfig, HostPort, Key};
use crate::deadlines::Deadlines;
use crate::limits::Limits;
use crate::machine::{
    CloseReason, ConnId, Dial, Dialled, Greeting, Input, Machine, NameId, Output, SessionEvent, Traffic,
};
use crate::table::Table;
use crate::wire::frame::{
    AbortReason, ControlFrame, Grant, Hello, Name, PROTOCOL_VERSION, SERVICES_MAX, Sid, Start, Welcome,
};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};
use seen::Seen;

/// The name of the server's host.
const SERVER: NameId = NameId(0);
/// The name of the host for message connections, if it is another.
const MESSAGE: NameId = NameId(1);
/// Names before those of local servers.
const FIXED_NAMES: usize = 2;

/// A service and the local server behind it.
struct Service {
    name: Name,
    local: HostPort,
}

/// Where a host name leads.
#[derive(Default)]
struct Addresses {
    found: Vec<SocketAddr>,
    /// When; `None` for a numeric address, which never changes.
    resolved: Option<Instant>,
    asked: bool,
}

/// The way to the server.
enum Link {
    /// Nothing, until `link_due`.
    Pause,
    /// The server's name is being resolved.
    Resolving,
    /// A control connection is on its way to the address with this index.
    Dialling(usize),
    /// Proved; waiting for `Welcome`.
    Greeted(ConnId, SocketAddr),
    /// Admitted.
    Up(Up),
}

/// A control session.
struct Up {
    control: ConnId,
    session_id: KeyId,
    pool_key: Secret,
    /// Where message connections are dialled: the address that is tried next comes first.
    message_addresses: VecDeque<SocketAddr>,
    last_heard: Instant,
    seen: Seen,
    message_failed: bool,
}

/// What the client knows of one connection.
enum Part {
    Control,
    Message(MessageState),
    /// Dialled or standing, for the session that began with `start`; the session itself may be over before it.
    Proxy {
        message: ConnId,
        start: Start,
        since: Instant,
    },
}

enum MessageState {
    /// Dialled, not yet proved.
    Coming(SocketAddr),
    Idle,
    Busy(Session),
}

struct Session {
    start: Start,
    since: Instant,
    /// The proxy connection, once one is being dialled.
    proxy: Option<ConnId>,
    /// Index of the next address to try.
    next_address: usize,
}

impl Session {
    /// The number under which the user's bytes were first sent.
    fn first_sid(&self) -> Sid {
        if self.start.first_sid == 0 { self.start.sid } else { self.start.first_sid }
    }
}

/// The client's machine.
pub struct Client {
    key: Key,
    suite: Suite,
    instance: [u8; 16],
    services: Vec<Service>,
    /// The server, the message host, and one per service; see [`Client::names`].
    names: Vec<Addresses>,
    server: HostPort,
    message_override: Option<HostPort>,
    plain: bool,
    limits: Limits,
    jitter: fastrand::Rng,
    link: Link,
    /// Attempts since the last good frame.
    failures: u32,
    parts: Table<Part>,
    messages: usize,
    /// Until when a session waits for the name of its local server, by the slot of its message connection.
    deadlines: Deadlines,
    /// When the link wants attention: the end of a pause, or of the server's silence.
    link_due: Option<Instant>,
    draining: Option<Instant>,
    outputs: VecDeque<Output>,
    now: Instant,
}

impl Client {
    /// A client that begins to connect as soon as it is polled. `instance` is random per process.
    pub fn new(config: ClientConfig, instance: [u8; 16], jitter: fastrand::Rng, now: Instant) -> Client {
        let mut client = Client {
            key: config.key,
            suite: Suite::preferred(),
            instance,
            names: Client::names_of(&config.server, config.message.as_ref(), &config.services)
                .iter()
                .map(|name| Addresses { found: name.numeric().into_iter().collect(), ..Addresses::default() })
                .collect(),
            services: config.services.into_iter().map(|(name, local)| Service { name, local }).collect(),
            server: config.server,
            message_override: config.message,
            plain: config.plain,
            limits: config.limits,
            jitter,
            link: Link::Pause,
            failures: 0,
            parts: Table::default(),
            messages: 0,
            deadlines: Deadlines::default(),
            link_due: Some(now),
            draining: None,
            outputs: VecDeque::new(),
            now,
        };
        client.services.truncate(SERVICES_MAX);
        client
    }

    /// The host names behind the [`NameId`]s of this client, in order.
    pub fn names(config: &ClientConfig) -> Vec<HostPort> {
        Client::names_of(&config.server, config.message.as_ref(), &config.services)
    }

    fn names_of(
        server: &HostPort,
        message: Option<&HostPort>,
        services: &[(Name, HostPort)],
    ) -> Vec<HostPort> {
        let locals = services.iter().map(|(_, local)| local.clone());
        [server.clone(), message.unwrap_or(server).clone()].into_iter().chain(locals).collect()
    }

    // The way to the server.

    /// Begins an attempt: resolves the server's name anew, unless it is numeric.
    fn connect(&mut self) {
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

    fn dial_server(&mut self, index: usize) {
        let Some(&address) = self.names[SERVER.0].found.get(index) else {
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
    fn pause(&mut self) {
        if self.draining.is_some() {
            return self.outputs.push_back(Output::Exit);
        }
        let (least, most) = self.limits.reconnect;
        let cap = least.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(most);
        let pause = least + cap.saturating_sub(least).mul_f64(self.jitter.f64());
        self.failures = self.failures.saturating_add(1);
        debug!("next attempt in {:.1} s", pause.as_secs_f64());
        self.link = Link::Pause;
        self.link_due = Some(self.now + pause);
    }

    fn greeted(&mut self, id: ConnId) {
        let Link::Dialling(index) = self.link else { return };
        let Some(&address) = self.names[SERVER.0].found.get(index) else { return };
        self.link = Link::Greeted(id, address);
        let services = self.services.iter().map(|service| service.name.clone()).collect();
        let hello = Hello { version: PROTOCOL_VERSION, plain: self.plain, instance: self.instance, services };
        self.outputs.push_back(Output::Send { id, frame: ControlFrame::Hello(hello) });
    }

    fn control(&mut self, id: ConnId, frame: ControlFrame) {
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

    fn welcomed(&mut self, id: ConnId, address: SocketAddr, welcome: Welcome) {
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
            Some(_) => self.names[MESSAGE.0].found.iter().copied().collect(),
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
    fn open(&mut self, first_ticket: u64, count: u32) {
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

    fn dialling(&mut self, id: ConnId, purpose: Dialled) {
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

    fn link_due(&mut self) {
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

    fn control_closed(&mut self, id: ConnId, reason: CloseReason) {
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
                if next < self.names[SERVER.0].found.len() { self.dial_server(next) } else { self.pause() }
            }
            _ => {}
        }
    }

    // Sessions.

    fn begin(&mut self, id: ConnId, start: Start) {
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
    fn dial_local(&mut self, message: ConnId) {
        let Some(Part::Message(MessageState::Busy(session))) = self.parts.get_mut(message) else { return };
        let last = session.since + self.limits.local_dial;
        let name = NameId(FIXED_NAMES + usize::from(session.start.service));
        let addresses = &self.names[name.0];
        let stale = addresses.resolved.is_none_or(|at| self.now >= at + self.limits.resolved);
        let numeric = self.services[usize::from(session.start.service)].local.numeric().is_some();
        if !numeric && stale {
            let known = !addresses.found.is_empty();
            self.resolve(name);
            // What is known is used meanwhile; who must wait for a name waits no longer than for a local server.
            if !known {
                self.deadlines.set(message.slot, Some(last));
                return;
            }
        }
        let Some(Part::Message(MessageState::Busy(session))) = self.parts.get_mut(message) else { return };
        let addresses = &self.names[name.0];
        let left = addresses.found.len().saturating_sub(session.next_address);
        let Some(&address) = addresses.found.get(session.next_address) else { return self.refuse(message) };
        session.next_address += 1;
        // Each address gets its share of what is left of the time.
        let share = last.saturating_duration_since(self.now) / left.max(1) as u32;
        let deadline = self.now + share;
        self.outputs.push_back(Output::Dial { dial: Dial::Proxy(message), address, deadline });
    }

    fn refuse(&mut self, message: ConnId) {
        self.outputs.push_back(Output::Abort { message, reason: AbortReason::Refused });
    }

    fn resolve(&mut self, id: NameId) {
        if !std::mem::replace(&mut self.names[id.0].asked, true) {
            self.outputs.push_back(Output::Resolve(id));
        }
    }

    fn resolved(&mut self, id: NameId, addresses: Vec<SocketAddr>) {
        let name = &mut self.names[id.0];
        name.found = addresses;
        name.resolved = Some(self.now);
        name.asked = false;
        if id == MESSAGE
            && let Link::Up(up) = &mut self.link
        {
            up.message_addresses = self.names[MESSAGE.0].found.iter().copied().collect();
        }
        if id == SERVER || id == MESSAGE {
            if matches!(self.link, Link::Resolving)
                && !self.names[SERVER.0].asked
                && !self.names[MESSAGE.0].asked
            {
                self.dial_server(0);
            }
            return;
        }
        let waits = |(message, part): (ConnId, &Part)| match part {
            Part::Message(MessageState::Busy(session)) => (session.proxy.is_none()
                && session.next_address == 0
                && usize::from(session.start.service) + FIXED_NAMES == id.0)
                .then_some(message),
            _ => None,
        };
        let waiting: Vec<ConnId> = self.parts.iter().filter_map(waits).collect();
        for message in waiting {
            self.deadlines.set(message.slot, None);
            // A name that leads nowhere is not asked for again on behalf of those who have waited for it.
            if self.names[id.0].found.is_empty() { self.refuse(message) } else { self.dial_local(message) }
        }
    }

    fn dial_failed(&mut self, id: ConnId, message: ConnId, start: Start, kind: std::io::ErrorKind) {
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
    fn log_session(&self, id: ConnId, start: Start, since: Instant, reason: CloseReason, traffic: Traffic) {
        let Service { name, local } = &self.services[usize::from(start.service)];
        let Traffic { received, sent } = traffic;
        let seconds = self.now.saturating_duration_since(since).as_secs_f64();
        let user = start.user;
        info!(
            "{id} user {user} of {name} at {local}: {sent} bytes in, {received} bytes out, {seconds:.3} s, {reason}"
        );
    }

    fn session_event(&mut self, id: ConnId, event: SessionEvent) {
        match event {
            SessionEvent::Start(start) => self.begin(id, start),
            SessionEvent::Idle { .. } => {
                self.deadlines.set(id.slot, None);
                if let Some(Part::Message(state)) = self.parts.get_mut(id) {
                    *state = MessageState::Idle;
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, id: ConnId) {
        match self.parts.get_mut(id) {
            Some(Part::Control) => self.greeted(id),
            Some(Part::Message(state)) => *state = MessageState::Idle,
            Some(Part::Proxy { .. }) | None => {}
        }
    }

    // Ends.

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        match self.parts.remove(id) {
            Some(Part::Control) => self.control_closed(id, reason),
            Some(Part::Proxy { message, start, since }) => match reason {
                CloseReason::DialFailed(kind) => self.dial_failed(id, message, start, kind),
                _ => self.log_session(id, start, since, reason, traffic),
            },
            Some(Part::Message(state)) => {
                self.messages -= 1;
                self.deadlines.set(id.slot, None);
                if let (MessageState::Coming(address), Link::Up(up)) = (state, &mut self.link) {
                    // The next one tries another address, if the name has several.
                    if up.message_addresses.front() == Some(&address) {
                        up.message_addresses.rotate_left(1);
                    }
                    if !std::mem::replace(&mut up.message_failed, true) {
                        warn!(
                            "{id} message connection to {address}: {reason}; is that port reachable from here?"
                        );
                    }
                }
            }
            None => {}
        }
    }

    fn drain(&mut self) {
        self.draining = Some(self.now + self.limits.drain);
        match &self.link {
            Link::Up(up) => {
                info!("draining: running sessions have up to {} s to finish", self.limits.drain.as_secs());
                self.outputs.push_back(Output::Send { id: up.control, frame: ControlFrame::Drain });
            }
            Link::Greeted(..) => {}
            _ => self.outputs.push_back(Output::Exit),
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        self.outputs.push_back(Output::Close { id, reason });
    }
}

impl Machine for Client {
    fn handle(&mut self, input: Input, now: Instant) {
        self.now = now;
        match input {
            Input::Dialling { id, purpose } => self.dialling(id, purpose),
            Input::Connected { id } => self.connected(id),
            Input::Control { id, frame } => self.control(id, frame),
            Input::Session { id, event } => self.session_event(id, event),
            Input::Resolved { name, addresses } => self.resolved(name, addresses),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            // A client listens nowhere.
            Input::Accepted { .. }
            | Input::Greeted { .. }
            | Input::Proved { .. }
            | Input::Returned { .. } => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.link_due.is_some_and(|at| at <= now) {
            self.link_due();
        }
        while let Some(message) = self.deadlines.pop_due(now).and_then(|slot| self.parts.at(slot)) {
            self.refuse(message);
        }
        if self.draining.take_if(|at| *at <= now).is_some() {
            warn!("running sessions had not finished and are reset");
            self.outputs.push_back(Output::Exit);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.link_due, self.draining, self.deadlines.next()].into_iter().flatten().min()
    }
}
