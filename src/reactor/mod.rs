//! The loop. It owns sockets, rings, slots and the clock, knows nothing of pools or services, and does what its
//! machine asks.
//!
//! Invariants, each kept in one place:
//! - pairing is mutual: `peer(peer(x)) == x` (`pair`, `unpair`);
//! - `close` only marks; `reap` alone frees a slot, and tells the machine `Closed` as the last input to name it;
//! - the scratch buffers hold nothing across a call of the machine;
//! - readiness bits are set by events and cleared by `WouldBlock` only, so whoever makes progress possible
//!   (frees a ring, delivers an event) puts the connection into the run queue.

mod closing;
mod connection;
mod greet;
mod listening;
pub mod network;
mod outgoing;
mod relay;
pub mod resolver;
mod runnable;
mod sending;
pub mod sockets;
mod splice;
mod trim;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::warn;

use crate::buffer::Buffer;
use crate::deadlines::Deadlines;
use crate::limits::Limits;
use crate::machine::{
    CloseReason, ConnId, Dial, Dialled, Input, ListenerId, Machine, Origin, Output, SessionEvent, Traffic,
};
use crate::ring::{RING_BYTES, Rings};
use crate::table::SLOTS_KEPT;
use crate::wire::frame::Start;
use connection::{Connection, Connections, Local, Ready, Role, Strangers, Target};
use network::{Event, Network, Socket};
use outgoing::Pipes;
use runnable::{Pace, Runnable};

/// Pause after the operating system ran out of something, before a listener is tried again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// So many connections are a crowd: once half of them have left, their memory is given back.
const CROWD: usize = 16;
/// Memory is given back no more often: it walks the whole heap.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(1);
/// Full servers and missing descriptors are complained about no more often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

struct Listener {
    origin: Origin,
    open: bool,
    ready: bool,
    /// Not tried before this time, or before a slot is freed.
    resume_at: Option<Instant>,
    /// Since when it does not accept because `users_max` are served.
    full_since: Option<Instant>,
}

/// Buffers shared by all connections, live only within one relay step.
struct Scratch {
    raw: Buffer,
    clear: Buffer,
    control: Vec<u8>,
}

/// The loop and everything in it. `machine` decides; `network` is the world.
pub struct Reactor<M, N: Network> {
    machine: M,
    network: N,
    limits: Limits,
    now: Instant,
    connections: Connections<N::Socket>,
    listeners: Vec<Listener>,
    strangers: Strangers,
    users: usize,
    deadlines: Deadlines,
    /// Who may make progress.
    runnable: Runnable,
    /// Marked for closing, to be reaped at the end of the turn.
    doomed: Vec<ConnId>,
    events: Vec<Event>,
    rings: Rings,
    pipes: Pipes<<N::Socket as Socket>::Pipe>,
    scratch: Scratch,
    serial: u32,
    jitter: fastrand::Rng,
    complained: Option<Instant>,
    /// The most connections since memory was last given back, and when that was.
    crowd: usize,
    given_back: Instant,
    terminated: bool,
    exit: bool,
}

impl<M: Machine, N: Network> Reactor<M, N> {
    /// A loop over the network's listeners, whose origins are given in the order of their ids.
    pub fn new(
        machine: M,
        mut network: N,
        origins: &[Origin],
        limits: Limits,
        jitter: fastrand::Rng,
    ) -> Self {
        let listener =
            |&origin| Listener { origin, open: true, ready: true, resume_at: None, full_since: None };
        let now = network.now();
        Reactor {
            machine,
            now,
            network,
            connections: Connections::new(),
            listeners: origins.iter().map(listener).collect(),
            strangers: Strangers::new(limits.strangers_max, limits.strangers_per_address_max),
            users: 0,
            deadlines: Deadlines::default(),
            runnable: Runnable::default(),
            doomed: Vec::new(),
            events: Vec::new(),
            rings: Rings::new(limits.rings_kept),
            pipes: Pipes::new(limits.pipes_max),
            scratch: Scratch {
                raw: Buffer::raw(RING_BYTES),
                // Sealing adds to what was read, so this one is larger.
                clear: Buffer::clear(2 * RING_BYTES),
                control: Vec::new(),
            },
            limits,
            serial: 0,
            jitter,
            complained: None,
            crowd: 0,
            given_back: now,
            terminated: false,
            exit: false,
        }
    }

    /// Turns until the machine says `Exit` or the operator asks a second time.
    pub fn run(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        while !self.exit && result.is_ok() {
            result = self.turn();
        }
        self.abandon();
        result
    }

    /// Closes what is whole in peace, so that its last bytes still arrive; a session that is still running is reset.
    fn abandon(&mut self) {
        for connection in self.connections.drain() {
            if connection.is_in_session() {
                drop(connection);
            } else {
                connection.socket.close();
            }
        }
    }

    /// Whether the loop has ended.
    pub fn has_exited(&self) -> bool {
        self.exit
    }

    /// How many connections there are, of all kinds.
    pub fn connection_count(&self) -> usize {
        self.connections.count()
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> io::Result<()> {
        self.sleep()?;
        self.note_events();
        self.accept();
        self.serve_runnable();
        self.fire_deadlines();
        self.reap();
        self.give_memory_back();
        Ok(())
    }

    /// When a crowd has left, what it needed goes back to the system.
    fn give_memory_back(&mut self) {
        let count = self.connections.count();
        self.crowd = self.crowd.max(count);
        if self.crowd >= CROWD && count <= self.crowd / 2 && self.now >= self.given_back + GIVE_BACK_INTERVAL
        {
            self.crowd = count;
            self.given_back = self.now;
            self.connections.shrink();
            self.runnable.shrink();
            self.doomed.shrink_to(SLOTS_KEPT);
            self.events.shrink_to(SLOTS_KEPT);
            self.rings.forget_free();
            self.pipes.forget_free();
            trim::trim();
        }
    }

    fn sleep(&mut self) -> io::Result<()> {
        let busy = !self.runnable.is_empty() || !self.doomed.is_empty();
        let until = [self.deadlines.next(), self.machine.poll_timeout(), self.next_accept()];
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            until.into_iter().flatten().min().map(|at| at.saturating_duration_since(self.network.now()))
        };
        match self.network.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => self.now = self.network.now(),
        }
        Ok(())
    }

    fn note_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Ready { id, readable, writable, ended, error } => {
                    let Some(connection) = self.connections.find(id) else { continue };
                    let freed = writable && !connection.ready.writable;
                    connection.ready.readable |= readable;
                    connection.ready.writable |= writable;
                    connection.ready.ended |= ended;
                    connection.ready.error |= error;
                    self.queue(id);
                    // Whoever waits to write to it is its peer.
                    if freed && let Some(peer) = self.connections.peer(id) {
                        self.queue(peer);
                    }
                }
                Event::Acceptable(ListenerId(index)) => {
                    if let Some(listener) = self.listeners.get_mut(index) {
                        listener.ready = true;
                    }
                }
                Event::Resolved(name, addresses) => self.tell(Input::Resolved { name, addresses }),
                Event::Terminate if self.terminated => self.exit = true,
                Event::Terminate => {
                    self.terminated = true;
                    self.tell(Input::Drain);
                }
            }
        }
        self.events = events;
    }

    /// The id of the next connection.
    fn next_id(&mut self) -> ConnId {
        self.serial = self.serial.wrapping_add(1);
        ConnId { slot: self.connections.vacant_slot(), serial: self.serial }
    }

    fn insert(&mut self, mut socket: N::Socket, role: Role, ready: Ready) -> Option<ConnId> {
        let id = self.next_id();
        if let Err(error) = self.network.register(&mut socket, id) {
            warn!("{id} cannot be watched: {error}");
            return None;
        }
        self.connections.insert(Connection {
            id,
            socket,
            ready,
            queued: false,
            takes_long: false,
            closing: None,
            piped: None,
            out: None,
            role,
        });
        Some(id)
    }

    fn serve_runnable(&mut self) {
        self.runnable.begin_turn();
        while let Some(id) = self.runnable.next_of_turn() {
            if let Some(connection) = self.connections.find(id) {
                (connection.queued, connection.takes_long) = (false, false);
                self.serve(id);
            }
        }
    }

    fn serve(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        match connection.role {
            Role::Connecting(_) => self.serve_connecting(id),
            Role::Greeting(_) => self.serve_greeting(id),
            Role::Stranger(_) => self.serve_stranger(id),
            Role::Discarding { .. } => self.serve_discarding(id),
            Role::Control(_) => self.serve_control(id),
            Role::Message(_) => self.serve_message(id),
            Role::Local(_) => self.serve_local(id),
            Role::Leaving { .. } => self.serve_leaving(id),
        }
    }

    fn fire_deadlines(&mut self) {
        while let Some(slot) = self.deadlines.pop_due(self.now) {
            let Some(connection) = self.connections.at(slot) else { continue };
            let id = connection.id;
            let reason = match &connection.role {
                Role::Connecting(_) => CloseReason::DialFailed(io::ErrorKind::TimedOut),
                Role::Greeting(_) | Role::Stranger(_) | Role::Control(_) => CloseReason::HandshakeTimedOut,
                Role::Discarding { reason, .. } | Role::Leaving { reason, .. } => *reason,
                Role::Message(_) => CloseReason::EndTimedOut,
                Role::Local(local) => local.overdue(),
            };
            self.close(id, reason);
        }
        if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.machine.handle_timeout(self.now);
            self.drain_outputs();
        }
    }

    // What the machine says.

    /// Tells the machine, and does what it asks.
    fn tell(&mut self, input: Input) {
        self.machine.handle(input, self.now);
        self.drain_outputs();
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            self.execute(output);
        }
    }

    /// Does one thing. Inputs that it causes are handled without draining: `drain_outputs` goes on.
    fn execute(&mut self, output: Output) {
        match output {
            Output::StopListening(id) => {
                self.listeners[id.0].open = false;
                self.network.stop_listening(id);
            }
            Output::Verify { id, secret } => self.verify(id, &secret),
            Output::Admit { id, plain } => self.admit(id, plain),
            Output::Resolve(name) => self.network.resolve(name),
            Output::Dial { dial, address, deadline } => self.dial(dial, address, deadline),
            Output::Send { id, frame } => self.send_control(id, &frame),
            Output::Start { message, user, start } => self.start(message, user, start),
            Output::Accept(id) => self.with_session(id, |session| session.accept()),
            Output::Abort { message, reason } => {
                if let Some(local) = self.connections.unpair(message) {
                    self.close(local, CloseReason::Aborted(reason));
                }
                self.abort_session(message, reason);
            }
            Output::Ping(id) => self.with_session(id, |session| session.ping()),
            Output::Close { id, reason } if reason.is_gentle() => self.leave(id, reason),
            Output::Close { id, reason: reason @ CloseReason::UnknownKey } => self.discard(id, reason),
            Output::Close { id, reason } => self.close(id, reason),
            Output::Exit => self.exit = true,
        }
    }

    fn dial(&mut self, dial: Dial, address: SocketAddr, deadline: Instant) {
        let (target, purpose) = match dial {
            Dial::Control(greeting) => (Target::Greeting(Box::new(greeting)), Dialled::Control),
            Dial::Message(greeting) => (Target::Greeting(Box::new(greeting)), Dialled::Message),
            Dial::Proxy(message) => {
                // The session may have ended in this very turn; the machine is about to hear of it.
                if self
                    .connections
                    .message(message)
                    .is_none_or(|it| it.peer.is_some() || !it.session.delivers())
                {
                    return;
                }
                (Target::Proxy(Local::new(None)), Dialled::Proxy(message))
            }
        };
        let connected = self.network.connect(address).map(|socket| {
            let role = Role::Connecting(target);
            self.insert(socket, role, Ready::default())
        });
        let (id, error) = match connected {
            Ok(Some(id)) => (id, None),
            failed => {
                // It never had a slot; the machine hears of it like of any other failure.
                let kind = failed.err().map_or(io::ErrorKind::Other, |error| error.kind());
                (self.next_id(), Some(kind))
            }
        };
        self.machine.handle(Input::Dialling { id, purpose }, self.now);
        match error {
            Some(kind) => {
                let (reason, traffic) = (CloseReason::DialFailed(kind), Traffic::default());
                self.machine.handle(Input::Closed { id, reason, traffic }, self.now);
            }
            None => {
                self.set_deadline(id, Some(deadline));
                if let Dialled::Proxy(message) = purpose {
                    self.connections.pair(message, id);
                }
                // A local server on this host has answered by now.
                self.serve_connecting(id);
            }
        }
    }

    fn start(&mut self, message: ConnId, user: ConnId, start: Start) {
        if self.connections.local(user).is_none() {
            // He has just gone, as the machine is about to hear; the connection is still free.
            self.machine.handle(
                Input::Session { id: message, event: SessionEvent::Idle { settled: true } },
                self.now,
            );
            return;
        }
        let frame = self.connections.message_even_closing(message).and_then(|it| {
            it.announced_idle = false;
            it.carried_bytes = 0;
            it.session.start(start)
        });
        self.connections.pair(message, user);
        if let Some(frame) = frame {
            self.send_frame(message, &frame);
            self.send_retained(user);
        }
        // The user first: his first bytes then leave in one write with `Start`.
        self.queue(user);
        self.queue(message);
    }

    // Marks and queues.

    fn queue(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        if connection.queued {
            return;
        }
        connection.queued = true;
        let pace = match connection.role {
            Role::Control(_) => Pace::Control,
            Role::Greeting(_) | Role::Stranger(_) | Role::Connecting(Target::Greeting(_)) => Pace::Long,
            _ if connection.takes_long => Pace::Long,
            _ => Pace::Short,
        };
        self.runnable.push(id, pace);
    }

    /// Queues a connection that has used up the bytes of its turn.
    fn queue_again(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.find(id) {
            connection.takes_long = true;
            self.queue(id);
        }
    }

    fn set_deadline(&mut self, id: ConnId, at: Option<Instant>) {
        if self.connections.find(id).is_some() {
            self.deadlines.set(id.slot, at);
        }
    }

    /// Marks a connection for closing. The first reason wins; `reap` does the rest.
    fn close(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(connection) = self.connections.find(id) {
            connection.closing = Some(reason);
            self.doomed.push(id);
        }
    }
}
