//! An exhaustive search of sessions that are offered again: a real server's machine, a real client's machine, and
//! between them up to three message connections with a real [`Session`] at each end. One user comes. Each connection
//! may break at any moment, and any part of what is on its way is lost then; its session may be late at any moment. One
//! may fall mute before that: what its client says on it is lost from then on, and so is its end.
//!
//! In every order of events
//! - the local server is dialled once at most;
//! - nobody waits for nobody: a user waits for a copy that lives or is told, and what the client serves is its user's;
//! - no user is reset unless a connection broke.
//!
//! Machines cannot be copied, so each state is reached anew by its trace. The search then breaks the rules on purpose
//! and must find out, so that its silence means something.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use skyorg::base::address::{HostPort, Listen};
use skyorg::base::clocks::Clocks;
use skyorg::base::id::ConnId;
use skyorg::base::name::Name;
use skyorg::client::Client;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use skyorg::machine::{
    CloseReason, Dial, Dialled, Door, Input, LINK_RANDOM_BYTES, Machine, Output, Proof, SessionEvent, Traffic,
};
use skyorg::server::Server;
use skyorg::session::{End, Session, Step};
use skyorg::wire::control::{
    Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Frame, Start};
use skyorg::wire::handshake::{ClearHello, Purpose, Secret, Suite, key_id};

/// Message connections.
const CONNECTIONS: usize = 3;
/// Longer than a user waits for anything.
const FOREVER: Duration = Duration::from_secs(120);
/// Longer than a user waits that its client serves unheard.
const UNHEARD: Duration = Duration::from_secs(5);
/// Where users and clients come from. It does not matter.
const HERE: ([u8; 4], u16) = ([192, 0, 2, 1], 1024);

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    No,
    /// A duplicate ends the copy that is served, too.
    AbortBoth,
    /// A copy does not say which session it is a copy of.
    NoMemory,
    /// The server resets the first connection as it offers a session again.
    ResetFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The session is late, and whatever can be offered again is.
    Late,
    /// A connection breaks, and so many frames to the client and to the server still arrive.
    Break {
        connection: usize,
        to_client: usize,
        to_server: usize,
    },
    /// What the client says on a connection is lost from now on, but for so many frames.
    Mute {
        connection: usize,
        to_server: usize,
    },
    /// A user waits that its client serves, and for so long that the server must see that it cannot hear that.
    Unheard,
    ClientReads(usize),
    ServerReads(usize),
}

/// What is on its way: a frame, or the end of a broken connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Frame(Frame<'static>),
    Broke,
}

#[derive(Clone, Debug)]
struct Connection {
    server: Session,
    client: Session,
    to_client: VecDeque<Sent>,
    to_server: VecDeque<Sent>,
    is_broken: bool,
    is_mute: bool,
    /// The server has given its machine no session on it yet.
    is_unused: bool,
    /// The machines know of its end.
    is_gone: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Waits,
    Served(usize),
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    None,
    By(usize),
    Ended,
}

/// Everything, after some events.
struct World {
    broken: Broken,
    server: Server,
    client: Client,
    now: Instant,
    connections: Vec<Connection>,
    user: User,
    /// The copy that the user is paired with.
    paired: Option<usize>,
    served: Served,
    dials: usize,
    starts: usize,
    /// A connection has broken that the server did not reset.
    broke: bool,
    pinged: bool,
    /// The client has answered a copy as a duplicate, and the server has read it.
    is_duplicate: bool,
}

fn id(number: usize) -> ConnId {
    ConnId::new(number as u32, number as u64).expect("it can be named")
}

/// The ids of the control connection, of a user, and of the message connections, at either end.
const CONTROL: usize = 1;
const USER: usize = 2;
const MESSAGES: usize = 10;

fn message(connection: usize) -> ConnId {
    id(MESSAGES + connection)
}

fn connection(message: ConnId) -> usize {
    message.slot() as usize - MESSAGES
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

impl World {
    fn new(broken: Broken) -> World {
        let now = Instant::now();
        let limits = Limits { pool: CONNECTIONS, ..Limits::default() };
        let key = || Key { name: name("office"), secret: Secret::new([7; 32]) };
        let server = ServerConfig {
            services: vec![Service::new(name("web"), Listen::Any(33333))],
            policies: Policies::default(),
            message: Listen::Any(33334),
            control: Listen::Any(33335),
            keys: vec![key()],
            plain: false,
            limits: limits.clone(),
        };
        let host = |text: &str| HostPort::parse(text, None, None).expect("a host and a port");
        let client = ClientConfig {
            server: host("192.0.2.1:33335"),
            message: None,
            publications: vec![Publication::of_service(name("web"), host("127.0.0.1:80"))],
            key: key(),
            plain: false,
            limits: limits.clone(),
        };
        let limits = Arc::new(limits);
        let rng = || fastrand::Rng::with_seed(1);
        let new = Connection {
            server: Session::new(End::Server),
            client: Session::new(End::Client),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            is_broken: false,
            is_mute: false,
            is_unused: true,
            is_gone: [false; 2],
        };
        let mut world = World {
            broken,
            server: Server::new(
                server,
                limits.clone(),
                [2; 16],
                rng(),
                Clocks { now, wall: SystemTime::UNIX_EPOCH },
            ),
            client: Client::new(client, limits, [1; 16], rng(), now),
            now,
            connections: vec![new; CONNECTIONS],
            user: User::Waits,
            paired: None,
            served: Served::None,
            dials: 0,
            starts: 0,
            broke: false,
            pinged: false,
            is_duplicate: false,
        };
        world.begin();
        world
    }

    /// A link with idle message connections, and a user.
    fn begin(&mut self) {
        let mut door = None;
        while let Some(output) = self.server.poll_output() {
            if let Output::Listen { id, at, door: Door::Users(service) } = output {
                door = Some(Door::Users(service));
                let address = (HERE.0, at.port()).into();
                self.server.handle(Input::Listening { id, address }, self.now);
            }
        }
        let (key, link) = (key_id(&Secret::new([7; 32])), [1; 16]);
        self.greet(id(CONTROL), Purpose::Control, key, Proof::control(&[1; LINK_RANDOM_BYTES], 1));
        let heartbeat = Duration::from_secs(30);
        let (capabilities, versions) = (Capabilities::default(), VERSIONS);
        let hello = Hello { versions, capabilities, heartbeat, instance: [1; 16], resumes: None };
        let dial_time = Duration::from_secs(5);
        let (want, transports) = (Want::Service, Transports::Tcp);
        let publish =
            Publish { number: 1, name: name("web"), want, transports, dial_time, share: false, probe: false };
        for frame in [ControlFrame::Hello(hello), ControlFrame::Publish(publish)] {
            self.tell_server(Input::Control { id: id(CONTROL), frame });
        }
        self.pass(Duration::ZERO);
        self.answer_ping();
        for number in 0..CONNECTIONS {
            let ticket = number as u64 + 1;
            self.greet(message(number), Purpose::Message, link, Proof::Message { ticket });
        }
        self.pass(Duration::from_secs(1));

        self.client.handle_timeout(self.now);
        self.tell_client(Input::Dialling { id: id(CONTROL), purpose: Dialled::Control });
        self.tell_client(Input::Connected { id: id(CONTROL) });
        let welcome = Welcome {
            version: VERSIONS.most,
            capabilities: Capabilities::default(),
            heartbeat,
            instance: [2; 16],
            link,
            pool_key: Secret::new([5; 32]),
            message_port: 33334,
        };
        self.client
            .handle(Input::Control { id: id(CONTROL), frame: ControlFrame::Welcome(welcome) }, self.now);
        let open = ControlFrame::Open { first_ticket: 1, count: CONNECTIONS as u32 };
        self.client.handle(Input::Control { id: id(CONTROL), frame: open }, self.now);
        self.client.handle_timeout(self.now);
        let mut links = Vec::new();
        while let Some(output) = self.client.poll_output() {
            if let Output::Dial { dial: Dial::Message(link, _), .. } = output {
                links.push(link);
            }
        }
        assert_eq!(links.len(), CONNECTIONS);
        for (number, link) in links.into_iter().enumerate() {
            let id = message(number);
            self.tell_client(Input::Dialling { id, purpose: Dialled::Message(link) });
            self.tell_client(Input::Connected { id });
        }

        let door = door.expect("users have a door");
        let user = Input::Accepted { id: id(USER), door, peer: HERE.into(), asked: HERE.into() };
        self.tell_server(user);
        assert_eq!(self.starts, 1);
    }

    /// A stranger at the server proves what it must.
    fn greet(&mut self, id: ConnId, purpose: Purpose, key_id: [u8; 16], proof: Proof) {
        let (peer, asked) = (HERE.into(), HERE.into());
        self.tell_server(Input::Accepted { id, door: Door::Clients, peer, asked });
        let hello = ClearHello { suite: Suite::AesGcm, purpose, key_id };
        self.tell_server(Input::Greeted { id, hello });
        self.tell_server(Input::Proved { id, proof });
        self.tell_server(Input::Answered { id });
    }

    /// Time passes at the server.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.server.poll_timeout().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            self.obey_server();
        }
        self.now = until;
    }

    fn answer_ping(&mut self) {
        if std::mem::take(&mut self.pinged) {
            self.tell_server(Input::Control { id: id(CONTROL), frame: ControlFrame::Pong });
        }
    }

    // The server's end. It does what the relay does.

    fn tell_server(&mut self, input: Input) {
        self.server.handle(input, self.now);
        self.obey_server();
    }

    fn obey_server(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Start { message, start, .. } => self.start(connection(message), start),
                Output::Take { message, .. } => self.paired = Some(connection(message)),
                Output::AbortCopy(message) => {
                    let number = connection(message);
                    self.paired = self.paired.filter(|&paired| paired != number);
                    self.abort_at_server(number, AbortReason::Duplicate);
                }
                Output::Close { id: closed, reason, .. } if closed == id(USER) => self.reset_user(reason),
                // An idle connection answers at once, unless it is broken.
                Output::Ping(message) if !self.connections[connection(message)].is_broken => {
                    let event = SessionEvent::Pong;
                    self.server.handle(Input::Session { id: message, event }, self.now);
                }
                Output::Send { frame: ControlFrame::Ping, .. } => self.pinged = true,
                _ => {}
            }
        }
    }

    fn start(&mut self, number: usize, start: Start) {
        let it = &mut self.connections[number];
        let frame = it.server.start(start).expect("the connection is free");
        it.is_unused = false;
        self.starts += 1;
        self.paired = self.paired.or(Some(number));
        self.send_to_client(number, frame);
    }

    fn send_to_client(&mut self, number: usize, frame: Frame<'static>) {
        let it = &mut self.connections[number];
        if !it.is_broken {
            it.to_client.push_back(Sent::Frame(frame));
        }
    }

    fn abort_at_server(&mut self, number: usize, reason: AbortReason) {
        if let Some(frame) = self.connections[number].server.abort(reason) {
            self.send_to_client(number, frame);
        }
    }

    fn reset_user(&mut self, reason: CloseReason) {
        if self.user == User::Reset {
            return;
        }
        self.user = User::Reset;
        if let Some(number) = self.paired.take() {
            self.abort_at_server(number, AbortReason::Reset);
        }
        self.tell_server(Input::Closed { id: id(USER), reason, traffic: Traffic::default() });
    }

    fn server_reads(&mut self, number: usize) {
        let it = &mut self.connections[number];
        let id = message(number);
        let Some(Sent::Frame(frame)) = it.to_server.pop_front() else {
            it.is_gone[0] = true;
            let unaccepted = it.server.is_unaccepted();
            if self.paired == Some(number) {
                self.paired = None;
                if unaccepted {
                    let user = self::id(USER);
                    self.tell_server(Input::Returned { id: user, refused: false, spoken: true });
                } else {
                    self.reset_user(CloseReason::Truncated);
                }
            }
            let (reason, traffic) = (CloseReason::PeerClosed, Traffic::default());
            return self.tell_server(Input::Closed { id, reason, traffic });
        };
        let (step, reply) = it.server.receive(&frame).expect("it is no violation");
        if let Some(reply) = reply {
            self.send_to_client(number, reply);
        }
        match step {
            Step::Accepted => {
                self.tell_server(Input::Session { id, event: SessionEvent::Accepted });
                if self.paired == Some(number) {
                    assert_eq!(self.user, User::Waits, "it is served once");
                    self.user = User::Served(number);
                }
            }
            Step::Duplicate => {
                self.is_duplicate = true;
                self.paired = self.paired.filter(|&paired| paired != number);
                self.tell_server(Input::Session { id, event: SessionEvent::Duplicate });
            }
            Step::Abort(reason) if self.paired == Some(number) => {
                self.paired = None;
                self.reset_user(CloseReason::Aborted(reason));
            }
            Step::Abort(_) | Step::Ignore => {}
            other => panic!("{other:?}"),
        }
        // A connection that has drained is not used again here: that is the matter of the search of sessions.
    }

    // The client's end.

    fn tell_client(&mut self, input: Input) {
        self.client.handle(input, self.now);
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Accept(message) => {
                    let number = connection(message);
                    let frame = self.connections[number].client.accept().expect("it has begun");
                    self.send_to_server(number, frame);
                }
                Output::Dial { dial: Dial::Proxy(message, ..), .. } => {
                    self.dials += 1;
                    self.served = Served::By(connection(message));
                }
                Output::Abort { message, reason } => {
                    let number = connection(message);
                    self.abort_at_client(number, reason);
                    if self.broken == Broken::AbortBoth
                        && let Served::By(other) = self.served
                    {
                        self.served = Served::Ended;
                        self.abort_at_client(other, reason);
                    }
                }
                _ => {}
            }
        }
    }

    fn send_to_server(&mut self, number: usize, frame: Frame<'static>) {
        let it = &mut self.connections[number];
        if !it.is_broken && !it.is_mute {
            it.to_server.push_back(Sent::Frame(frame));
        }
    }

    fn abort_at_client(&mut self, number: usize, reason: AbortReason) {
        if let Some(frame) = self.connections[number].client.abort(reason) {
            self.send_to_server(number, frame);
        }
    }

    fn client_reads(&mut self, number: usize) {
        let it = &mut self.connections[number];
        let id = message(number);
        let Some(Sent::Frame(frame)) = it.to_client.pop_front() else {
            it.is_gone[1] = true;
            self.end_served(number);
            let (reason, traffic) = (CloseReason::PeerClosed, Traffic::default());
            return self.tell_client(Input::Closed { id, reason, traffic });
        };
        let (step, reply) = it.client.receive(&frame).expect("it is no violation");
        if let Some(reply) = reply {
            self.send_to_server(number, reply);
        }
        match step {
            Step::Begin(mut start) => {
                if self.broken == Broken::NoMemory {
                    start.first_sid = 0;
                }
                self.tell_client(Input::Session { id, event: SessionEvent::Start(start) });
            }
            Step::Abort(_) => self.end_served(number),
            Step::Ignore => {}
            other => panic!("{other:?}"),
        }
        if self.connections[number].client.is_idle() {
            self.tell_client(Input::Session { id, event: SessionEvent::Idle { settled: true } });
        }
    }

    fn end_served(&mut self, number: usize) {
        if self.served == Served::By(number) {
            self.served = Served::Ended;
        }
    }

    // Events.

    fn is_live(&self, number: usize) -> bool {
        let it = &self.connections[number];
        it.server.is_unaccepted() && !it.is_gone[0]
    }

    fn has_live(&self) -> bool {
        (0..CONNECTIONS).any(|number| self.is_live(number))
    }

    /// Whether the user waits for a copy that can be accepted.
    fn has_hope(&self) -> bool {
        (0..CONNECTIONS).any(|number| self.is_live(number) && !self.connections[number].is_mute)
    }

    fn is_quiet(&self) -> bool {
        self.connections.iter().all(|it| it.to_client.is_empty() && it.to_server.is_empty())
    }

    /// What may happen next.
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let is_free = |it: &Connection| it.is_unused && !it.is_broken;
        let can_be_late = self.user == User::Waits && self.has_live() && !self.is_duplicate;
        if can_be_late && self.connections.iter().any(is_free) {
            events.push(Event::Late);
        }
        if self.user == User::Waits && self.is_duplicate && self.is_quiet() && !self.has_hope() {
            events.push(Event::Unheard);
        }
        for (connection, it) in self.connections.iter().enumerate() {
            if !it.is_broken && !it.is_unused && !self.broke {
                let kept = 0..=it.to_server.len();
                events.extend(kept.map(|to_server| Event::Mute { connection, to_server }));
            }
            if !it.is_broken && !it.is_unused && !it.is_mute {
                for to_client in 0..=it.to_client.len() {
                    for to_server in 0..=it.to_server.len() {
                        events.push(Event::Break { connection, to_client, to_server });
                    }
                }
            }
            if !it.to_client.is_empty() {
                events.push(Event::ClientReads(connection));
            }
            if !it.to_server.is_empty() {
                events.push(Event::ServerReads(connection));
            }
        }
        events
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Late => {
                let (starts, first) = (self.starts, self.paired);
                for _ in 0..100 {
                    if self.starts == starts {
                        self.pass(Limits::default().accept / 10);
                        self.answer_ping();
                    }
                }
                assert_eq!(self.starts, starts + 1, "a late session is offered again");
                if let Some(first) = first.filter(|_| self.broken == Broken::ResetFirst) {
                    self.break_off(first, 0, 0);
                }
            }
            Event::Break { connection, to_client, to_server } => {
                self.broke = true;
                self.break_off(connection, to_client, to_server);
            }
            Event::Mute { connection, to_server } => {
                self.broke = true;
                let it = &mut self.connections[connection];
                it.is_mute = true;
                it.to_server.truncate(to_server);
            }
            Event::Unheard => {
                // The control connection is heard all the time.
                for _ in 0..UNHEARD.as_millis() / 100 {
                    self.pass(Duration::from_millis(100));
                    self.answer_ping();
                }
                assert_eq!(self.user, User::Reset, "a user that cannot be heard is told soon");
            }
            Event::ClientReads(number) => self.client_reads(number),
            Event::ServerReads(number) => self.server_reads(number),
        }
    }

    fn break_off(&mut self, number: usize, to_client: usize, to_server: usize) {
        let it = &mut self.connections[number];
        it.is_broken = true;
        for (pipe, left) in [(&mut it.to_client, to_client), (&mut it.to_server, to_server)] {
            pipe.truncate(left);
            pipe.push_back(Sent::Broke);
        }
    }

    /// What tells one state from another.
    fn key(&self) -> String {
        let World { connections, user, paired, served, dials, .. } = self;
        let known = (self.broke, self.is_duplicate);
        format!("{connections:?}{user:?}{paired:?}{served:?}{dials}{known:?}")
    }

    /// What is wrong with this state, if anything is. Time may pass.
    fn harm(&mut self) -> Option<&'static str> {
        if self.dials > 1 {
            return Some("the local server was dialled twice");
        }
        if !self.is_quiet() {
            return None;
        }
        if let Served::By(number) = self.served
            && self.user != User::Served(number)
            && !(self.user == User::Waits && self.connections[number].is_mute)
        {
            return Some("the client serves nobody");
        }
        if self.user == User::Reset && !self.broke {
            return Some("a user is reset although no connection broke");
        }
        if self.user == User::Waits && !self.has_hope() {
            self.pass(FOREVER);
            if self.user == User::Waits {
                return Some("a user waits for nobody");
            }
        }
        None
    }
}

/// Visits every state; returns how many there are, or the way to the first that does harm.
fn search(broken: Broken) -> Result<usize, (&'static str, Vec<Event>)> {
    let mut seen = HashSet::from([World::new(broken).key()]);
    let mut traces = VecDeque::from([Vec::new()]);
    while let Some(trace) = traces.pop_front() {
        let reach = |trace: &[Event]| {
            let mut world = World::new(broken);
            trace.iter().for_each(|&event| world.happen(event));
            world
        };
        let mut world = reach(&trace);
        let events = world.events();
        if let Some(harm) = world.harm() {
            return Err((harm, trace));
        }
        for event in events {
            let mut next = trace.clone();
            next.push(event);
            if seen.insert(reach(&next).key()) {
                traces.push_back(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn whatever_breaks_one_copy_is_served_and_nobody_waits_for_nobody() {
    let states = search(Broken::No).unwrap_or_else(|(harm, trace)| panic!("{harm}: {trace:#?}"));
    println!("{states} states");
    assert!(states > 5_000, "{states} states are too few");
}

#[test]
fn a_duplicate_that_ended_both_copies_would_lose_a_user_that_is_served() {
    let (harm, _) = search(Broken::AbortBoth).expect_err("the rule is needed");
    assert_eq!(harm, "a user is reset although no connection broke");
}

#[test]
fn a_copy_that_did_not_name_the_first_would_be_served_as_well() {
    let (harm, _) = search(Broken::NoMemory).expect_err("the rule is needed");
    assert_eq!(harm, "the local server was dialled twice");
}

#[test]
fn a_first_connection_that_was_reset_would_take_its_user_with_it() {
    let (harm, _) = search(Broken::ResetFirst).expect_err("the rule is needed");
    assert_eq!(harm, "a user is reset although no connection broke");
}
