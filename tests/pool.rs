//! The server's pool, by its machine alone: the connections that a burst needed are retired from the top, so that
//! tables shrink.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use skyorg::base::address::Listen;
use skyorg::base::clocks::Clocks;
use skyorg::base::id::{ConnId, ListenerId, ServiceId};
use skyorg::base::name::Name;
use skyorg::config::limits::Limits;
use skyorg::config::{Key, Policies, ServerConfig, Service};
use skyorg::machine::{
    CloseReason, Door, Input, LINK_RANDOM_BYTES, Machine, Output, Proof, SessionEvent, Traffic,
};
use skyorg::server::Server;
use skyorg::wire::control::{
    Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want, Welcome,
};
use skyorg::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};

const POOL: usize = 3;
const CROWD: usize = 40;
/// Slots above those of message connections.
const USERS_FROM: u32 = 1_000;

/// A server and its one client. Whatever the server asks for happens at once.
struct Story {
    server: Server,
    now: Instant,
    session: KeyId,
    /// Message connections that stand.
    messages: BTreeSet<ConnId>,
    /// Message connections with the users that were given to them.
    started: VecDeque<(ConnId, ConnId)>,
    retired: Vec<ConnId>,
    serial: u64,
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

impl Story {
    fn begin() -> Story {
        let config = ServerConfig {
            services: vec![Service::new(name("default"), Listen::Any(33333))],
            policies: Policies::default(),
            message: Listen::Any(33334),
            control: Listen::Any(33335),
            keys: vec![Key { name: name("office"), secret: Secret::new([7; 32]) }],
            plain: false,
            limits: Limits { pool: POOL, ..Limits::default() },
        };
        let limits = Arc::new(config.limits.clone());
        let now = Instant::now();
        let mut story = Story {
            server: Server::new(
                config,
                limits,
                [2; 16],
                fastrand::Rng::with_seed(1),
                Clocks { now, wall: SystemTime::UNIX_EPOCH },
            ),
            now,
            session: key_id(&Secret::new([7; 32])),
            messages: BTreeSet::new(),
            started: VecDeque::new(),
            retired: Vec::new(),
            serial: 0,
        };
        let control = story.id(0);
        story.come(control, Purpose::Control, 0);
        for (place, port) in [33333, 33334, 33335].into_iter().enumerate() {
            let id = ListenerId::new(place as u32, place as u64 + 1).expect("it can be named");
            story.tell(Input::Listening { id, address: ([192, 0, 2, 1], port).into() });
        }
        let hello = Hello {
            versions: VERSIONS,
            capabilities: Capabilities::default(),
            heartbeat: Duration::from_secs(30),
            instance: [1; 16],
            resumes: None,
        };
        let publish = Publish {
            number: 1,
            name: name("default"),
            want: Want::Service,
            transports: Transports::Tcp,
            dial_time: Duration::from_secs(5),
            share: false,
            probe: true,
        };
        for frame in [ControlFrame::Hello(hello), ControlFrame::Publish(publish)] {
            story.tell(Input::Control { id: control, frame });
        }
        story.settle();
        story
    }

    fn id(&mut self, slot: u32) -> ConnId {
        self.serial += 1;
        ConnId::new(slot, self.serial).expect("it can be named")
    }

    /// A connection of the client's is accepted and proves its secret.
    fn come(&mut self, id: ConnId, purpose: Purpose, ticket: u64) {
        let peer = SocketAddr::from(([192, 0, 2, 9], 1024));
        let door = Door::Clients;
        self.server.handle(Input::Accepted { id, door, peer, asked: peer }, self.now);
        let hello = ClearHello { suite: Suite::AesGcm, purpose, key_id: self.session };
        self.server.handle(Input::Greeted { id, hello }, self.now);
        let proof = match purpose {
            Purpose::Control => Proof::control(&[3; LINK_RANDOM_BYTES], 1),
            Purpose::Message => Proof::Message { ticket },
        };
        self.tell(Input::Proved { id, proof });
        self.tell(Input::Answered { id });
    }

    fn user(&mut self) -> ConnId {
        let slot = USERS_FROM + self.serial as u32;
        let id = self.id(slot);
        let peer = SocketAddr::from(([198, 51, 100, 1], 1024));
        let service = ServiceId::new(0, 1).expect("it can be named");
        self.tell(Input::Accepted { id, door: Door::Users(service), peer, asked: peer });
        id
    }

    fn tell(&mut self, input: Input) {
        self.server.handle(input, self.now);
        self.drain_outputs();
    }

    /// Does what the machine asks.
    fn drain_outputs(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Send { frame: ControlFrame::Welcome(Welcome { link, .. }), .. } => {
                    self.session = link;
                }
                Output::Send { frame: ControlFrame::Open { first_ticket, count }, .. } => {
                    for ticket in first_ticket..first_ticket + u64::from(count) {
                        // The lowest slot that is free, as a slab gives it.
                        let taken = |slot| self.messages.iter().any(|id| id.slot() == slot);
                        let slot = (1..).find(|&slot| !taken(slot)).expect("some are free");
                        let id = self.id(slot);
                        self.messages.insert(id);
                        self.come(id, Purpose::Message, ticket);
                    }
                }
                Output::Send { id, frame: ControlFrame::Ping } => {
                    self.server.handle(Input::Control { id, frame: ControlFrame::Pong }, self.now);
                }
                Output::Ping(id) => {
                    self.server.handle(Input::Session { id, event: SessionEvent::Pong }, self.now);
                }
                Output::Start { message, user, .. } => {
                    self.started.push_back((message, user));
                    for event in [SessionEvent::Accepted, SessionEvent::Started] {
                        self.server.handle(Input::Session { id: message, event }, self.now);
                    }
                }
                Output::Probe { message: id, .. } => {
                    let idle = SessionEvent::Idle { settled: true };
                    for event in [SessionEvent::Accepted, SessionEvent::Started, idle] {
                        self.server.handle(Input::Session { id, event }, self.now);
                    }
                }
                Output::Close { id, reason, .. } => {
                    assert_eq!(reason, CloseReason::Retired, "{id}");
                    self.messages.remove(&id);
                    self.retired.push(id);
                    let traffic = Traffic::default();
                    self.server.handle(Input::Closed { id, reason, traffic }, self.now);
                }
                _ => {}
            }
        }
    }

    /// Does what is due now, until nothing is.
    fn settle(&mut self) {
        while self.server.poll_timeout().is_some_and(|at| at <= self.now) {
            self.server.handle_timeout(self.now);
            self.drain_outputs();
        }
    }

    fn wait(&mut self) {
        self.now = self.server.poll_timeout().expect("a heartbeat is always due");
        self.settle();
    }
}

#[test]
fn what_a_crowd_left_is_retired_from_the_top() {
    let mut story = Story::begin();
    assert_eq!(story.messages.len(), POOL);
    for _ in 0..CROWD {
        story.user();
        story.settle();
    }
    assert_eq!(story.started.len(), CROWD, "users that were served");
    while let Some((message, user)) = story.started.pop_front() {
        let (reason, traffic) = (CloseReason::Finished, Traffic::default());
        story.tell(Input::Closed { id: user, reason, traffic });
        story.tell(Input::Session { id: message, event: SessionEvent::Idle { settled: true } });
        story.settle();
    }
    let began = story.now;
    let mut slots: BTreeSet<u32> = story.messages.iter().map(|id| id.slot()).collect();
    let held = slots.len();
    assert!(held >= CROWD, "{held} message connections stand");

    let limits = Limits::default();
    let mut seen = 0;
    while story.messages.len() > POOL {
        story.wait();
        let waited = story.now - began;
        assert!(waited < 3 * limits.retire, "{} are left after {waited:?}", story.messages.len());
        for id in &story.retired[seen..] {
            assert!(waited >= limits.retire, "{id} went after {waited:?}");
            assert_eq!(slots.pop_last(), Some(id.slot()), "the highest goes first");
        }
        seen = story.retired.len();
    }
    assert_eq!(slots.into_iter().collect::<Vec<_>>(), [1, 2, 3], "the lowest stay");
}
