//! The server's half: clients, services, pools and waiting users — who gets which message connection, and when
//! to ask for more.
//!
//! Its rules:
//! - `pool` message connections per client are idle or on their way; what is missing is asked for in one `Open`;
//! - a user is given the connection that was used last, and `Start` goes out at once;
//! - a session that is not accepted in time is sent again, on a connection that has proved to be alive;
//! - a user whose bytes may have reached a client never goes to another one, unless that one refused him.

mod draining;
mod listeners;
mod messages;
mod pool;
mod users;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use slab::Slab;

use crate::base::address::Listen;
use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, ListenerId, ServiceId, kind};
use crate::base::name::Name;
use crate::base::table::{SLOTS_KEPT, Table};
use crate::config::limits::Limits;
use crate::config::{Key, ServerConfig};
use crate::machine::{CloseReason, Door, Input, Machine, Manner, Output, SessionEvent, Traffic};
use crate::wire::frame::{
    AbortReason, ControlFrame, Grant, Hello, PROTOCOL_VERSION, Refusal, Sid, Start, Welcome,
};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, key_id};
use listeners::Use;
pub use listeners::{Listener, Listeners, State as ListenerState, Use as ListenerUse};
use pool::Client;
use users::Service;

/// Complaints about strangers are logged at most once in this time, with a count of those left out.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A session that is late to be accepted is looked at so often while its client is being asked for a sign of life.
const ACCEPT_RECHECK: Duration = Duration::from_millis(50);
/// A surplus connection is looked at again after this, while one above it goes first.
const RETIRE_RECHECK: Duration = Duration::from_secs(1);

/// What the server knows of one connection.
enum Part {
    /// At the control or message port, and not admitted yet.
    Stranger {
        peer: SocketAddr,
        claim: Option<Claim>,
    },
    /// A proved control connection; a client once its `Hello` was read.
    Control {
        peer: SocketAddr,
        key: usize,
        admitted: Instant,
        client: Option<usize>,
    },
    Message {
        client: usize,
        state: MessageState,
    },
    User(User),
}

/// What a stranger's hello says.
#[derive(Clone, Copy)]
enum Claim {
    Key(usize),
    Client(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageState {
    /// In the pool since then.
    Idle(Instant),
    /// In the pool since then, and being asked whether it is alive; counted as idle.
    Pinged(Instant),
    /// Like `Pinged`, but not counted: a connection of the same client has just failed, or what the last session
    /// sent may not have been read.
    Suspect(Instant),
    /// Sent `Start` then, not accepted yet.
    Offered(Instant),
    /// Accepted.
    Busy,
    /// Asked to close.
    Leaving,
}

struct User {
    service: usize,
    peer: SocketAddr,
    since: Instant,
    state: UserState,
    /// The control connection of the client that his session was first sent to, and its number there.
    first: Option<(ConnId, Sid)>,
    /// He may go to no other client than `first`: bytes of his were sent.
    tied: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UserState {
    Waiting,
    Paired,
}

/// The server's machine.
pub struct Server {
    keys: Vec<Key>,
    key_ids: HashMap<KeyId, usize>,
    services: Vec<Service>,
    listeners: Listeners,
    plain: bool,
    limits: Arc<Limits>,
    jitter: fastrand::Rng,
    parts: Table<kind::Connection, Part>,
    clients: Slab<Client>,
    sessions: HashMap<KeyId, usize>,
    users: usize,
    waiting: usize,
    /// Users whom clients have refused, with the control connections of those clients. Few, so no room is kept for
    /// it in every user.
    refusals: HashMap<ConnId, Vec<ConnId>>,
    deadlines: Deadlines,
    /// Clients whose pool may need more; looked at once per turn.
    refill: Vec<usize>,
    outputs: VecDeque<Output>,
    now: Instant,
    draining: Option<Instant>,
    complained: Option<Instant>,
    complaints: u32,
}

impl Server {
    /// A server without clients. It asks for its listeners as soon as it is polled.
    pub fn new(config: ServerConfig, limits: Arc<Limits>, jitter: fastrand::Rng, now: Instant) -> Server {
        let service = |(name, _): &(Name, Listen)| Service {
            name: name.clone(),
            port: 0,
            clients: Vec::new(),
            turn: 0,
            waiting: VecDeque::new(),
        };
        let ids = config.keys.iter().enumerate().map(|(index, key)| (key_id(key.name.as_str()), index));
        let mut server = Server {
            key_ids: ids.collect(),
            keys: config.keys,
            services: config.services.iter().map(service).collect(),
            listeners: Listeners::default(),
            plain: config.plain,
            limits,
            jitter,
            parts: Table::default(),
            clients: Slab::new(),
            sessions: HashMap::new(),
            users: 0,
            waiting: 0,
            refusals: HashMap::new(),
            deadlines: Deadlines::default(),
            refill: Vec::new(),
            outputs: VecDeque::new(),
            now,
            draining: None,
            complained: None,
            complaints: 0,
        };
        let users = config.services.iter().enumerate().filter_map(|(index, &(_, at))| {
            ServiceId::new(index as u32, 1).map(|service| (Use::Users(service), at))
        });
        for (serves, at) in users.chain([(Use::Message, config.message), (Use::Control, config.control)]) {
            if let Some(id) = server.listeners.add(serves, at) {
                server.outputs.push_back(Output::Listen { id, at, door: serves.door() });
            }
        }
        server
    }

    /// Its listeners.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    fn listening(&mut self, id: ListenerId, outcome: io::Result<SocketAddr>) {
        self.listeners.note(id, outcome);
        if let Some(listener) = self.listeners.get(id)
            && let (Use::Users(service), Some(address)) = (listener.serves, listener.address())
        {
            self.services[service.index()].port = address.port();
        }
    }

    fn accepted(&mut self, id: ConnId, door: Door, peer: SocketAddr) {
        match door {
            Door::Users(service) => self.user_came(id, service.index(), peer),
            Door::Clients => self.parts.insert(id, Part::Stranger { peer, claim: None }),
        }
    }

    fn greeted(&mut self, id: ConnId, hello: ClearHello) {
        let found = match hello.purpose {
            Purpose::Control => self.key_ids.get(&hello.key_id).map(|&key| Claim::Key(key)),
            Purpose::Message => self.sessions.get(&hello.key_id).map(|&client| Claim::Client(client)),
        };
        let secret = match found {
            Some(Claim::Key(key)) => self.keys[key].secret.clone(),
            Some(Claim::Client(client)) => self.clients[client].pool_key.clone(),
            None => return self.close(id, CloseReason::UnknownKey),
        };
        if let Some(Part::Stranger { claim, .. }) = self.parts.get_mut(id) {
            *claim = found;
            self.outputs.push_back(Output::Verify { id, secret });
        }
    }

    fn proved(&mut self, id: ConnId, ticket: u64) {
        let Some(&Part::Stranger { peer, claim: Some(claim) }) = self.parts.get(id) else { return };
        match claim {
            Claim::Key(key) => {
                self.parts.insert(id, Part::Control { peer, key, admitted: self.now, client: None });
                self.outputs.push_back(Output::Admit { id, plain: false });
            }
            Claim::Client(client) if self.clients[client].tickets.redeem(ticket) => {
                self.parts.insert(id, Part::Message { client, state: MessageState::Leaving });
                self.clients[client].total += 1;
                // There is room for one more on its way.
                self.refill.push(client);
                self.outputs.push_back(Output::Admit { id, plain: self.plain });
                self.became_idle(id);
            }
            Claim::Client(_) => self.close(id, CloseReason::UnknownKey),
        }
    }

    fn control(&mut self, id: ConnId, frame: ControlFrame) {
        let Some(&Part::Control { peer, key, admitted, client }) = self.parts.get(id) else { return };
        match (client, frame) {
            (None, ControlFrame::Hello(hello)) => self.hello(id, peer, key, admitted, hello),
            (Some(client), ControlFrame::Ping) => {
                self.clients[client].last_heard = self.now;
                self.outputs.push_back(Output::Send { id, frame: ControlFrame::Pong });
            }
            (Some(client), ControlFrame::Pong) => self.clients[client].answered(self.now),
            (Some(client), ControlFrame::Drain) => {
                info!("{id} client {} is leaving; its running sessions go on", self.clients[client].name);
                self.clients[client].draining = true;
                while let Some(message) = self.clients[client].idle.pop_back() {
                    self.retire(message, CloseReason::Drained);
                }
                self.close_if_drained(client);
            }
            _ => self.close(id, CloseReason::ProtocolError),
        }
    }

    fn hello(&mut self, id: ConnId, peer: SocketAddr, key: usize, admitted: Instant, hello: Hello) {
        let refusal = if hello.version != PROTOCOL_VERSION {
            Some(Refusal::Version(PROTOCOL_VERSION))
        } else if hello.plain != self.plain {
            Some(Refusal::Plain(self.plain))
        } else {
            None
        };
        let name = self.keys[key].name.clone();
        if let Some(refusal) = refusal {
            warn!("{id} client {name} from {peer} was turned down: {refusal}");
            self.outputs.push_back(Output::Send { id, frame: ControlFrame::Refused(refusal) });
            return self.close(id, CloseReason::Drained);
        }
        let same = |client: &Client| client.name == name && client.instance == hello.instance;
        let old = self
            .clients
            .iter()
            .find(|(_, client)| same(client))
            .map(|(index, client)| (index, client.control));
        if let Some((index, control)) = old {
            self.close(control, CloseReason::Replaced);
            self.forget_client(index, CloseReason::Replaced);
        }
        if self.clients.len() >= self.limits.clients_max {
            warn!("{id} client {name} from {peer} is one too many: {} are connected", self.clients.len());
            return self.close(id, CloseReason::Full);
        }
        let mut secrets = [0; 48];
        if let Err(error) = getrandom::fill(&mut secrets) {
            warn!("{id} client {name} cannot be admitted: no random bytes: {error}");
            return self.close(id, CloseReason::Shutdown);
        }
        let (mut session_id, mut pool_key) = ([0; 16], [0; 32]);
        session_id.copy_from_slice(&secrets[..16]);
        pool_key.copy_from_slice(&secrets[16..]);
        let pool_key = Secret::new(pool_key);

        let find = |name: &Name| self.services.iter().position(|service| service.name == *name);
        let services: Vec<Option<usize>> = hello.services.iter().map(find).collect();
        let grant = |service: &Option<usize>| {
            service.map_or(Grant::Unknown, |index| Grant::Port(self.services[index].port))
        };
        let grants = services.iter().map(grant).collect();
        let list = |granted: bool| {
            let asked = hello.services.iter().zip(&services);
            let listed: Vec<_> = asked
                .filter(|(_, found)| found.is_some() == granted)
                .map(|(name, _)| name.as_str())
                .collect();
            listed.join(", ")
        };
        info!("{id} client {name} connected from {peer}; it publishes: {}", list(true));
        let unknown = list(false);
        if !unknown.is_empty() {
            warn!(
                "{id} client {name} also publishes what this server was not started with (--service): {unknown}"
            );
        }
        let welcome = Welcome {
            session_id,
            pool_key: pool_key.clone(),
            message_port: self.listeners.message_port(),
            grants,
        };
        self.outputs.push_back(Output::Send { id, frame: ControlFrame::Welcome(welcome) });
        let client = Client::new(id, name, peer, hello.instance, session_id, pool_key, services, self.now);
        let index = self.clients.insert(client);
        self.clients[index].measured(self.now.saturating_duration_since(admitted));
        for service in self.clients[index].services.clone().into_iter().flatten() {
            if !self.services[service].clients.contains(&index) {
                self.services[service].clients.push(index);
            }
        }
        self.sessions.insert(session_id, index);
        self.parts.insert(id, Part::Control { peer, key, admitted, client: Some(index) });
        self.schedule_control(index);
        self.refill.push(index);
    }

    /// Drops a client and everything that is its own. Its control connection is closing or gone.
    fn forget_client(&mut self, index: usize, reason: CloseReason) {
        let client = self.clients.remove(index);
        info!("{} client {} from {} is gone: {reason}", client.control, client.name, client.peer);
        self.sessions.remove(&client.session_id);
        for service in &mut self.services {
            service.clients.retain(|&other| other != index);
        }
        self.refill.retain(|&other| other != index);
        let own = |(id, part): (ConnId, &Part)| match part {
            Part::Message { client, .. } if *client == index => Some(id),
            _ => None,
        };
        let messages: Vec<ConnId> = self.parts.iter().filter_map(own).collect();
        for id in messages {
            // Whoever takes this client's place in the slab must not inherit them.
            self.parts.remove(id);
            self.deadlines.set(id.slot(), None);
            self.close(id, CloseReason::ClientGone);
        }
        self.parts.remove(client.control);
        let claims = |(id, part): (ConnId, &Part)| match part {
            Part::Stranger { claim: Some(Claim::Client(client)), .. } if *client == index => Some(id),
            _ => None,
        };
        let claimants: Vec<ConnId> = self.parts.iter().filter_map(claims).collect();
        claimants.into_iter().for_each(|id| self.close(id, CloseReason::UnknownKey));
    }

    fn schedule_control(&mut self, index: usize) {
        let client = &self.clients[index];
        let ticket = client.tickets.next_expiry();
        let at = ticket.map_or(client.ping_at, |ticket| ticket.min(client.ping_at));
        self.deadlines.set(client.control.slot(), Some(at));
    }

    fn control_due(&mut self, id: ConnId, index: usize) {
        let heartbeat = self.limits.heartbeat;
        let client = &mut self.clients[index];
        if self.now.saturating_duration_since(client.last_heard) >= heartbeat {
            self.close(id, CloseReason::HeartbeatLost);
            return self.forget_client(index, CloseReason::HeartbeatLost);
        }
        if client.tickets.expire(self.now) {
            debug!("{id} client {} did not bring all message connections that it was asked for", client.name);
            self.refill.push(index);
        }
        if client.ping_at <= self.now {
            client.ping_at = self.now + heartbeat / 3;
            self.ping_client(index);
        }
        self.schedule_control(index);
    }

    /// Asks a client whether it is alive, unless a ping is on its way already.
    fn ping_client(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.ping_sent.is_none() {
            client.ping_sent = Some(self.now);
            self.outputs.push_back(Output::Send { id: client.control, frame: ControlFrame::Ping });
        }
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        let part = self.parts.remove(id);
        self.deadlines.set(id.slot(), None);
        match part {
            Some(Part::Stranger { peer, .. }) => self.complain(id, peer, reason),
            Some(Part::Control { client: Some(index), .. }) => self.forget_client(index, reason),
            Some(Part::Control { peer, .. }) => self.complain(id, peer, reason),
            Some(Part::Message { client, state }) => self.message_gone(id, client, state),
            Some(Part::User(user)) => self.user_gone(id, user, reason, traffic),
            // It belonged to a client that is forgotten already.
            None => {}
        }
        self.exit_if_drained();
    }

    /// One line about strangers now and then: an operator must see a wrong key, and nobody may fill his disk.
    fn complain(&mut self, id: ConnId, peer: SocketAddr, reason: CloseReason) {
        self.complaints += 1;
        let quiet = self.complained.is_some_and(|last| self.now < last + COMPLAINT_INTERVAL);
        if quiet || reason == CloseReason::Drained {
            return;
        }
        let others = match self.complaints {
            1 => String::new(),
            count => format!(" (and {} more like it)", count - 1),
        };
        warn!("{id} from {peer} was not admitted: {reason}{others}");
        (self.complained, self.complaints) = (Some(self.now), 0);
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        use CloseReason::{Drained, Retired, UnknownKey};
        let manner = match reason {
            Retired | Drained => Manner::Whole,
            UnknownKey => Manner::Discard,
            _ => Manner::Reset,
        };
        self.outputs.push_back(Output::Close { id, reason, manner });
    }

    fn due(&mut self, id: ConnId) {
        match self.parts.get(id) {
            Some(&Part::Control { client: Some(index), .. }) => self.control_due(id, index),
            Some(Part::Message { .. }) => self.message_due(id),
            Some(Part::User(user)) if user.state == UserState::Waiting => {
                self.close(id, CloseReason::NoClient)
            }
            _ => {}
        }
    }
}

impl Machine for Server {
    fn handle(&mut self, input: Input, now: Instant) {
        self.now = now;
        match input {
            Input::Accepted { id, door, peer, .. } => self.accepted(id, door, peer),
            Input::Greeted { id, hello } => self.greeted(id, hello),
            Input::Proved { id, ticket } => self.proved(id, ticket),
            Input::Control { id, frame } => self.control(id, frame),
            Input::Session { id, event } => self.session_event(id, event),
            Input::Returned { id, refused, spoken } => self.returned(id, refused, spoken),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            Input::Dialling { .. } | Input::Connected { .. } | Input::Resolved { .. } => {}
            Input::Listening { id, address } => self.listening(id, Ok(address)),
            Input::ListenFailed { id, error } => self.listening(id, Err(error)),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(slot) = self.deadlines.pop_due(now) {
            if let Some(id) = self.parts.at(slot) {
                self.due(id);
            }
        }
        if self.draining.take_if(|at| *at <= now).is_some() {
            self.drain_due();
        }
        self.refill_pools();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.refill.is_empty() {
            return Some(self.now);
        }
        [self.deadlines.next(), self.draining].into_iter().flatten().min()
    }
}
