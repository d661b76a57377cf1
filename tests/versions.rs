//! One side is a version ahead: what it adds is skipped, and it is served; if nothing is in common, both are told.
//!
//! Both machines, joined by the encoded frames of their control connection, which are changed on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use skyorg::base::address::{HostPort, Listen};
use skyorg::base::clocks::Clocks;
use skyorg::base::id::{ConnId, ServiceId};
use skyorg::base::name::Name;
use skyorg::client::Client;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use skyorg::machine::{
    CloseReason, Dial, Dialled, Door, Input, LINK_RANDOM_BYTES, Machine, Output, Proof, SessionEvent, Traffic,
};
use skyorg::server::Server;
use skyorg::wire::control::{ControlFrame, PublicationNumber, Refusal, VERSIONS};
use skyorg::wire::frame::{Frame, Start};
use skyorg::wire::handshake::Secret;

fn id(slot: u32) -> ConnId {
    ConnId::new(slot, slot.into()).expect("it can be named")
}

const CONTROL: u32 = 1;
const MESSAGE: u32 = 2;
const USER: u32 = 3;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn key() -> Key {
    Key { name: name("office"), secret: Secret::new([7; 32]) }
}

/// What a newer program writes where this one writes `frame`: an extension behind every frame that takes one, before it a frame
/// of an unknown kind, and in `Hello` versions up to `most`.
fn newer(frame: &ControlFrame, most: u16) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    if let ControlFrame::Hello(_) = frame {
        bytes[3..5].copy_from_slice(&most.to_be_bytes());
        // A capability that this version does not know.
        bytes[5] |= 0x80;
    }
    if let ControlFrame::Hello(_) | ControlFrame::Welcome(_) | ControlFrame::Publish(_) = frame {
        bytes.extend([0x12, 0x34, 0, 3, 1, 2, 3]);
    }
    match frame {
        // The first frame is a Hello in every version.
        ControlFrame::Hello(_) => vec![bytes],
        _ => vec![vec![222, 1, 2, 3], bytes],
    }
}

/// A server and a client of which one may be ahead of the other.
struct Story {
    now: Instant,
    server: Server,
    client: Client,
    /// What frames become on their way.
    change: fn(&ControlFrame) -> Vec<Vec<u8>>,
    granted: Vec<PublicationNumber>,
    opened: u32,
    starts: Vec<Start>,
    refusals: Vec<Refusal>,
    closed: Vec<(u32, CloseReason)>,
}

impl Story {
    fn of(change: fn(&ControlFrame) -> Vec<Vec<u8>>) -> Story {
        let now = Instant::now();
        let config = ServerConfig {
            services: vec![
                Service::new(name("db"), Listen::Any(33_332)),
                Service::new(name("web"), Listen::Any(33_333)),
            ],
            policies: Policies::default(),
            message: Listen::Any(33_334),
            control: Listen::Any(33_335),
            keys: vec![key()],
            plain: false,
            limits: Limits::default(),
        };
        let limits = Arc::new(Limits::default());
        let clocks = Clocks { now, wall: SystemTime::UNIX_EPOCH };
        let server = Server::new(config, limits.clone(), [9; 16], fastrand::Rng::with_seed(1), clocks);
        let local = |port| HostPort::parse("127.0.0.1", None, Some(port)).expect("an address");
        let config = ClientConfig {
            server: local(33_335),
            message: None,
            publications: vec![
                Publication::of_service(name("unknown"), local(1)),
                Publication::of_service(name("web"), local(8_080)),
            ],
            key: key(),
            plain: false,
            limits: Limits::default(),
        };
        let mut story = Story {
            now,
            server,
            client: Client::new(config, limits, [1; 16], fastrand::Rng::with_seed(2), now),
            change,
            granted: Vec::new(),
            opened: 0,
            starts: Vec::new(),
            refusals: Vec::new(),
            closed: Vec::new(),
        };
        // Listeners first: what is granted is where they are.
        while let Some(output) = story.server.poll_output() {
            if let Output::Listen { id, at: Listen::Any(port), .. } = output {
                story.server.handle(Input::Listening { id, address: ([192, 0, 2, 2], port).into() }, now);
            }
        }
        story.client.handle_timeout(now);
        story.settle();
        story
    }

    /// Carries out what both machines want, until neither wants anything.
    fn settle(&mut self) {
        loop {
            if let Some(output) = self.client.poll_output() {
                self.obey_client(output);
            } else if let Some(output) = self.server.poll_output() {
                self.obey_server(output);
            } else if self.server.poll_timeout().is_some_and(|at| at <= self.now) {
                self.server.handle_timeout(self.now);
            } else {
                return;
            }
        }
    }

    fn obey_client(&mut self, output: Output) {
        match output {
            Output::Dial { dial: Dial::Control(greeting), .. } => {
                self.client.handle(Input::Dialling { id: id(CONTROL), purpose: Dialled::Control }, self.now);
                self.come(CONTROL, Door::Clients);
                self.server.handle(Input::Greeted { id: id(CONTROL), hello: greeting.hello }, self.now);
            }
            Output::Dial { dial: Dial::Message(link, greeting), .. } if self.opened == 0 => {
                self.opened += 1;
                let purpose = Dialled::Message(link);
                self.client.handle(Input::Dialling { id: id(MESSAGE), purpose }, self.now);
                self.come(MESSAGE, Door::Clients);
                self.server.handle(Input::Greeted { id: id(MESSAGE), hello: greeting.hello }, self.now);
                self.server.handle(
                    Input::Proved { id: id(MESSAGE), proof: Proof::Message { ticket: greeting.ticket } },
                    self.now,
                );
            }
            Output::Send { id, frame } => {
                for bytes in (self.change)(&frame) {
                    let frame = ControlFrame::decode(&bytes).expect("a frame that means something");
                    self.server.handle(Input::Control { id, frame }, self.now);
                }
            }
            Output::Close { id, reason, .. } => self.closed.push((id.slot(), reason)),
            _ => {}
        }
    }

    fn obey_server(&mut self, output: Output) {
        match output {
            Output::Verify { id, .. } if id.slot() == CONTROL => {
                let proof = Proof::control(&[5; LINK_RANDOM_BYTES], 1);
                self.server.handle(Input::Proved { id, proof }, self.now);
            }
            Output::Answer { id, .. } => {
                self.server.handle(Input::Answered { id }, self.now);
                if id.slot() == CONTROL {
                    self.client.handle(Input::Connected { id }, self.now);
                }
            }
            Output::Send { id, frame } => {
                match &frame {
                    ControlFrame::Granted { number, .. } => self.granted.push(*number),
                    ControlFrame::Refused(refusal) => self.refusals.push(*refusal),
                    _ => {}
                }
                for bytes in (self.change)(&frame) {
                    let frame = ControlFrame::decode(&bytes).expect("a frame that means something");
                    self.client.handle(Input::Control { id, frame }, self.now);
                }
            }
            Output::Start { start, .. } => self.starts.push(start),
            Output::Close { id, reason, .. } => {
                self.closed.push((id.slot(), reason));
                let traffic = Traffic::default();
                self.server.handle(Input::Closed { id, reason, traffic }, self.now);
            }
            _ => {}
        }
    }

    fn come(&mut self, slot: u32, door: Door) {
        let peer = SocketAddr::from(([192, 0, 2, 9], 1024));
        let asked = SocketAddr::from(([192, 0, 2, 2], 33_333));
        self.server.handle(Input::Accepted { id: id(slot), door, peer, asked }, self.now);
    }

    /// A user of the second service comes; what the client is told of it, in the form of a newer server.
    fn user(&mut self) -> Start {
        self.come(USER, Door::Users(ServiceId::new(1, 2).expect("the second service")));
        self.settle();
        let start = self.starts.pop().expect("a session");
        let mut bytes = Frame::Start(start).encode().to_vec();
        bytes.extend([0x12, 0x34, 0, 3, 1, 2, 3]);
        assert_eq!(Frame::decode(&bytes), Ok(Frame::Start(start)));
        start
    }
}

fn same(frame: &ControlFrame) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    vec![bytes]
}

#[test]
fn a_side_that_is_a_version_ahead_is_served() {
    for change in [same, |frame: &ControlFrame| newer(frame, VERSIONS.most + 1)] {
        let mut story = Story::of(change);
        assert_eq!(story.closed, []);
        // The client's first service is unknown to the server.
        let second = 2;
        assert_eq!(story.granted, [second]);
        assert_eq!(story.opened, 1);
        let start = story.user();
        assert_eq!((start.publication, start.asked.port(), start.number), (second, 33_333, 1));
        assert_eq!(start.user, SocketAddr::from(([192, 0, 2, 9], 1024)));

        // The client dials the local server of that very publication.
        story.client.handle(Input::Connected { id: id(MESSAGE) }, story.now);
        story.client.handle(Input::Session { id: id(MESSAGE), event: SessionEvent::Start(start) }, story.now);
        let dialled = std::iter::from_fn(|| story.client.poll_output()).find_map(|output| match output {
            Output::Dial { dial: Dial::Proxy(message, ..), address, .. } if message == id(MESSAGE) => {
                Some(address)
            }
            _ => None,
        });
        assert_eq!(dialled, Some(SocketAddr::from(([127, 0, 0, 1], 8_080))));
    }
}

#[test]
fn without_a_common_version_the_client_is_told_the_servers() {
    let story = Story::of(|frame| {
        let mut frames = newer(frame, 9);
        if let ControlFrame::Hello(_) = frame {
            // It speaks 8 and 9 only.
            frames[0][1..3].copy_from_slice(&8u16.to_be_bytes());
        }
        frames
    });
    assert_eq!(story.refusals, [Refusal::Versions(VERSIONS)]);
    let (server, client) = ((CONTROL, CloseReason::Drained), (CONTROL, CloseReason::Drained));
    assert_eq!(story.closed, [client, server]);
    assert!(story.granted.is_empty() && story.opened == 0);
}
