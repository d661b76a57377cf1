//! The client's half: staying connected to the server, keeping the pool filled as the server asks, and dialling
//! local servers.
//!
//! It holds no socket and reads no clock. It never closes an idle message connection of its own accord, opens one
//! only for a ticket, and dials a local server at most once per session that it has not seen before.

mod link;
mod seen;
mod sessions;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use log::{debug, error, info, warn};

use crate::base::address::HostPort;
use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, NameId, kind};
use crate::base::name::Name;
use crate::base::table::Table;
use crate::config::limits::Limits;
use crate::config::{ClientConfig, Key};
use crate::machine::{
    CloseReason, Dial, Dialled, Greeting, Input, Machine, Manner, Output, SessionEvent, Traffic,
};
use crate::wire::frame::{
    AbortReason, ControlFrame, Grant, Hello, PROTOCOL_VERSION, SERVICES_MAX, Sid, Start, Welcome,
};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};
use seen::Seen;

/// The name of the server's host.
const SERVER: usize = 0;
/// The name of the host for message connections, if it is another.
const MESSAGE: usize = 1;
/// Names before those of local servers.
const FIXED_NAMES: usize = 2;

/// A service and the local server behind it.
struct Service {
    name: Name,
    local: HostPort,
}

/// Where a host name leads.
struct Addresses {
    host: HostPort,
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
    limits: Arc<Limits>,
    jitter: fastrand::Rng,
    link: Link,
    /// Attempts since the last good frame.
    failures: u32,
    parts: Table<kind::Connection, Part>,
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
    pub fn new(
        config: ClientConfig,
        limits: Arc<Limits>,
        instance: [u8; 16],
        jitter: fastrand::Rng,
        now: Instant,
    ) -> Client {
        let mut client = Client {
            key: config.key,
            suite: Suite::preferred(),
            instance,
            names: Client::names_of(&config.server, config.message.as_ref(), &config.services)
                .iter()
                .map(|name| Addresses {
                    found: name.numeric().into_iter().collect(),
                    host: name.clone(),
                    resolved: None,
                    asked: false,
                })
                .collect(),
            services: config.services.into_iter().map(|(name, local)| Service { name, local }).collect(),
            server: config.server,
            message_override: config.message,
            plain: config.plain,
            limits,
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

    fn names_of(
        server: &HostPort,
        message: Option<&HostPort>,
        services: &[(Name, HostPort)],
    ) -> Vec<HostPort> {
        let locals = services.iter().map(|(_, local)| local.clone());
        [server.clone(), message.unwrap_or(server).clone()].into_iter().chain(locals).collect()
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
                self.deadlines.set(id.slot(), None);
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
        self.exit_if_drained();
    }

    fn drain(&mut self) {
        self.draining = Some(self.now + self.limits.drain);
        match &self.link {
            Link::Up(up) => {
                info!("draining: running sessions have up to {} s to finish", self.limits.drain.as_secs());
                self.outputs.push_back(Output::Send { id: up.control, frame: ControlFrame::Drain });
            }
            Link::Greeted(..) => {}
            _ => self.pause(),
        }
    }

    /// Ends a draining client that has left the server, once local servers have taken the last bytes of sessions that
    /// are over.
    fn exit_if_drained(&mut self) {
        let left = self.draining.is_some() && matches!(self.link, Link::Pause);
        if left && !self.parts.iter().any(|(_, part)| matches!(part, Part::Proxy { .. })) {
            self.outputs.push_back(Output::Exit);
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        let manner = if reason == CloseReason::Drained { Manner::Whole } else { Manner::Reset };
        self.outputs.push_back(Output::Close { id, reason, manner });
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
            Input::Resolved { name, addresses } => self.resolved(name.index(), addresses),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            // A client listens nowhere.
            Input::Accepted { .. }
            | Input::Greeted { .. }
            | Input::Proved { .. }
            | Input::Listening { .. }
            | Input::ListenFailed { .. }
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
