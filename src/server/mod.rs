//! The server's half: clients, services, pools and waiting users — who gets which message connection, and when
//! to ask for more.
//!
//! It holds no socket and reads no clock. Its rules (design.md, section 4):
//! - `pool` message connections per client are idle or on their way; what is missing is asked for in one `Open`;
//! - a user is given the connection that was used last, and `Start` goes out at once;
//! - a session that is not accepted in time is sent again, on a connection that has proved to be alive;
//! - a user whose bytes may have reached a client never goes to another one, unless that one refused him.

mod pool;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use slab::Slab;

use crate::config::Key;
use crate::deadlines::Deadlines;
use crate::limits::Limits;
use crate::machine::{CloseReason, ConnId, Input, ListenerId, Machine, Output, SessionEvent, Traffic};
use crate::table::Table;
use crate::wire::frame::{
    AbortReason, ControlFrame, Grant, Hello, Name, PROTOCOL_VERSION, Refusal, Sid, Start, Welcome,
};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, key_id};
use pool::Client;

/// Complaints about strangers are logged at most once in this time, with a count of those left out.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A session that is late to be accepted is looked at so often while its client is being asked for a sign of life.
const ACCEPT_RECHECK: Duration = Duration::from_millis(50);

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Users of the service with this index.
    Users(usize),
    /// Clients, with message or control connections.
    Clients,
}

/// A service: where its users connect, who serves them, and who waits.
struct Service {
    name: Name,
    port: u16,
    clients: Vec<usize>,
    /// Which client is tried first for the next user.
    turn: usize,
    waiting: VecDeque<ConnId>,
}

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
    doors: Vec<Door>,
    message_port: u16,
    plain: bool,
    limits: Limits,
    jitter: fastrand::Rng,
    parts: Table<Part>,
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

/// What [`Server::new`] needs to know of its surroundings.
pub struct Setup {
    /// Services with the port that their users connect to.
    pub services: Vec<(Name, u16)>,
    /// What each listener is for, by its id.
    pub doors: Vec<Door>,
    /// Port for message connections, as the clients are told.
    pub message_port: u16,
    /// Who may be a client.
    pub keys: Vec<Key>,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
}

impl Server {
    /// A server without clients.
    pub fn new(setup: Setup, jitter: fastrand::Rng, now: Instant) -> Server {
        let service =
            |(name, port)| Service { name, port, clients: Vec::new(), turn: 0, waiting: VecDeque::new() };
        let ids = setup.keys.iter().enumerate().map(|(index, key)| (key_id(key.name.as_str()), index));
        Server {
            key_ids: ids.collect(),
            keys: setup.keys,
            services: setup.services.into_iter().map(service).collect(),
            doors: setup.doors,
            message_port: setup.message_port,
            plain: setup.plain,
            limits: setup.limits,
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
        }
    }

    // Strangers and clients.

    fn accepted(&mut self, id: ConnId, listener: ListenerId, peer: SocketAddr) {
        match self.doors.get(listener.0) {
            Some(&Door::Users(service)) => self.user_came(id, service, peer),
            _ => self.parts.insert(id, Part::Stranger { peer, claim: None }),
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
        let welcome =
            Welcome { session_id, pool_key: pool_key.clone(), message_port: self.message_port, grants };
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
            self.deadlines.set(id.slot, None);
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
        self.deadlines.set(client.control.slot, Some(at));
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

    // Users.

    fn user_came(&mut self, id: ConnId, service: usize, peer: SocketAddr) {
        let (since, state) = (self.now, UserState::Waiting);
        let user = User { service, peer, since, state, first: None, tied: false };
        self.parts.insert(id, Part::User(user));
        self.users += 1;
        if self.waiting >= self.limits.waiting_max {
            return self.close(id, CloseReason::Full);
        }
        self.deadlines.set(id.slot, Some(self.now + self.limits.wait));
        self.waiting += 1;
        self.services[service].waiting.push_back(id);
        self.assign(service);
    }

    /// A user lost his message connection before his session was accepted, or was refused.
    fn returned(&mut self, id: ConnId, refused: bool, spoken: bool) {
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
        self.deadlines.set(id.slot, Some(since + self.limits.wait));
        self.waiting += 1;
        // He has waited longest.
        self.services[service].waiting.push_front(id);
        self.refill.extend(&self.services[service].clients);
        self.assign(service);
    }

    /// Gives waiting users of a service their message connections, as far as there are any.
    fn assign(&mut self, service: usize) {
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
    fn choose(&self, id: ConnId, user: &User) -> Option<usize> {
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
    fn has_refused(&self, control: ConnId, user: ConnId) -> bool {
        self.refusals.get(&user).is_some_and(|clients| clients.contains(&control))
    }

    /// Sends `Start` on the client's connection that was used last.
    fn begin(&mut self, user_id: ConnId, index: usize) {
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
        self.deadlines.set(user_id.slot, None);
        self.deadlines.set(message.slot, Some(self.now + accept_time));
        self.refill.push(index);
        self.outputs.push_back(Output::Start { message, user: user_id, start });
    }

    fn user_gone(&mut self, id: ConnId, user: User, reason: CloseReason, traffic: Traffic) {
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

    // Message connections.

    fn message_state(&mut self, id: ConnId) -> Option<(usize, &mut MessageState)> {
        match self.parts.get_mut(id)? {
            Part::Message { client, state } => Some((*client, state)),
            _ => None,
        }
    }

    fn session_event(&mut self, id: ConnId, event: SessionEvent) {
        let Some((index, state)) = self.message_state(id) else { return };
        match event {
            SessionEvent::Accepted => {
                if let MessageState::Offered(sent) = std::mem::replace(state, MessageState::Busy) {
                    self.clients[index].measured(self.now.saturating_duration_since(sent));
                    self.deadlines.set(id.slot, None);
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
                if let MessageState::Pinged(since) | MessageState::Suspect(since) = *state {
                    if *state == MessageState::Pinged(since) {
                        self.clients[index].pinged -= 1;
                    }
                    self.pool(id, index, since, false);
                }
            }
            SessionEvent::Drain => self.retire(id, CloseReason::Drained),
        }
    }

    /// A message connection is free: for whoever waits, or for the pool.
    fn became_idle(&mut self, id: ConnId) {
        let Some((index, _)) = self.message_state(id) else { return };
        self.pool(id, index, self.now, true);
    }

    fn pool(&mut self, id: ConnId, index: usize, since: Instant, used: bool) {
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
        self.deadlines.set(id.slot, Some(self.now + pause));
        for service in 0..self.services.len() {
            if self.services[service].clients.contains(&index) && !self.services[service].waiting.is_empty() {
                self.assign(service);
            }
        }
    }

    fn message_due(&mut self, id: ConnId) {
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
                self.deadlines.set(id.slot, Some(last.min(self.now + ACCEPT_RECHECK)));
            }
            MessageState::Idle(since) => {
                let idle_for = self.now.saturating_duration_since(since);
                let client = &mut self.clients[index];
                client.idle.retain(|&other| other != id);
                let surplus =
                    client.total > client.recent_peak(self.now, self.limits.retire) + self.limits.pool;
                if surplus && idle_for >= self.limits.retire {
                    self.retire(id, CloseReason::Retired);
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
    fn suspect_idle(&mut self, index: usize) {
        while let Some(id) = self.clients[index].idle.pop_back() {
            if let Some((_, &mut MessageState::Idle(since))) = self.message_state(id) {
                self.ping(id, MessageState::Suspect(since), self.limits.pong);
            }
        }
        self.refill.push(index);
    }

    fn ping(&mut self, id: ConnId, as_state: MessageState, wait: Duration) {
        if let Some((_, state)) = self.message_state(id) {
            *state = as_state;
            self.deadlines.set(id.slot, Some(self.now + wait));
            self.outputs.push_back(Output::Ping(id));
        }
    }

    /// Closes an idle message connection gently; it is no longer in the pool.
    fn retire(&mut self, id: ConnId, reason: CloseReason) {
        let Some((index, state)) = self.message_state(id) else { return };
        let before = std::mem::replace(state, MessageState::Leaving);
        let client = &mut self.clients[index];
        client.pinged -= usize::from(matches!(before, MessageState::Pinged(_)));
        client.idle.retain(|&other| other != id);
        self.deadlines.set(id.slot, None);
        self.close(id, reason);
    }

    fn message_gone(&mut self, id: ConnId, index: usize, state: MessageState) {
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

    fn close_if_drained(&mut self, index: usize) {
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
    fn refill_pools(&mut self) {
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

    // Ends.

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        let part = self.parts.remove(id);
        self.deadlines.set(id.slot, None);
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

    fn drain(&mut self) {
        info!("draining: {} users have up to {} s to finish", self.users, self.limits.drain.as_secs());
        self.draining = Some(self.now + self.limits.drain);
        for listener in 0..self.doors.len() {
            self.outputs.push_back(Output::StopListening(ListenerId(listener)));
        }
        let waiting: Vec<ConnId> =
            self.services.iter().flat_map(|service| service.waiting.iter().copied()).collect();
        waiting.into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
        for index in 0..self.clients.capacity() {
            while let Some(id) = self.clients.get_mut(index).and_then(|client| client.idle.pop_back()) {
                self.retire(id, CloseReason::Drained);
            }
        }
        self.exit_if_drained();
    }

    fn exit_if_drained(&mut self) {
        let busy = |(_, part): (ConnId, &Part)| match part {
            Part::User(_) => true,
            Part::Message { state, .. } => matches!(state, MessageState::Offered(_) | MessageState::Busy),
            _ => false,
        };
        if self.draining.is_some() && !self.parts.iter().any(busy) {
            self.outputs.push_back(Output::Exit);
        }
    }

    fn drain_due(&mut self) {
        let users: Vec<ConnId> =
            self.parts.iter().filter(|(_, part)| matches!(part, Part::User(_))).map(|it| it.0).collect();
        warn!("{} users had not finished and are reset", users.len());
        users.into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
        self.outputs.push_back(Output::Exit);
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        self.outputs.push_back(Output::Close { id, reason });
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
            Input::Accepted { id, listener, peer } => self.accepted(id, listener, peer),
            Input::Greeted { id, hello } => self.greeted(id, hello),
            Input::Proved { id, ticket } => self.proved(id, ticket),
            Input::Control { id, frame } => self.control(id, frame),
            Input::Session { id, event } => self.session_event(id, event),
            Input::Returned { id, refused, spoken } => self.returned(id, refused, spoken),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            // A server dials nobody.
            Input::Dialling { .. } | Input::Connected { .. } | Input::Resolved { .. } => {}
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
