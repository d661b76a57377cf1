//! The client's rules.

mod addresses;
mod dials;
mod end;
mod figures;
mod gateway;
mod names;
mod probes;
mod publications;
mod renewal;
mod sessions;
mod silence;

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::story::{Outputs, Story, millis, name, secs};
use skyorg::base::address::HostPort;
use skyorg::base::id::{ConnId, LinkId, NameId};
use skyorg::client::Client;
use skyorg::config::client_difference::ClientDifference;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, DIAL_TIME, Key, Publication};
use skyorg::machine::{
    CloseReason, Configuration, Dial, Dialled, Fact, Fault, Input, Lookup, Manner, Output, SessionEvent,
};
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Transports, VERSIONS,
    Versions, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Start};
use skyorg::wire::handshake::{Purpose, Secret, key_id};

const HEARTBEAT: Duration = Duration::from_secs(30);
const ECONNREFUSED: u16 = 111;
const REFUSED: CloseReason = CloseReason::DialFailed(Fault::of_number(ECONNREFUSED));

/// A client whose names and dials are answered by the test.
struct Stage(Story<Client>);

impl Deref for Stage {
    type Target = Story<Client>;

    fn deref(&self) -> &Story<Client> {
        &self.0
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Story<Client> {
        &mut self.0
    }
}

fn host(text: &str) -> HostPort {
    HostPort::parse(text, None, None).expect("a host and a port")
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn config() -> ClientConfig {
    ClientConfig {
        server: host("192.0.2.1:33335"),
        message: None,
        publications: [("web", "127.0.0.1:80"), ("ssh", "127.0.0.1:22")]
            .map(|(service, local)| Publication::of_service(name(service), host(local)))
            .into(),
        key: Key { name: name("office"), secret: Secret::new([7; 32]) },
        plain: false,
        limits: Limits::default(),
    }
}

/// `web` is served at this place.
fn config_with_local(local: &str) -> ClientConfig {
    ClientConfig { publications: vec![Publication::of_service(name("web"), host(local))], ..config() }
}

fn welcome() -> Welcome {
    Welcome {
        version: VERSIONS.most,
        capabilities: Capabilities::default(),
        heartbeat: HEARTBEAT,
        instance: [2; 16],
        link: [4; 16],
        pool_key: Secret::new([5; 32]),
        message_port: 33334,
    }
}

fn start(sid: u64, first_sid: u64) -> Start {
    let (user, asked) = (address("198.51.100.1:1024"), address("192.0.2.1:33333"));
    Start { sid, first_sid, publication: 1, port_offset: 0, user, asked, number: 9 }
}

fn begin(config: ClientConfig) -> (Stage, Outputs) {
    let (now, limits) = (Instant::now(), Arc::new(config.limits.clone()));
    let client = Client::new(config, limits, [1; 16], fastrand::Rng::with_seed(1), now);
    let mut story = Story::new(client, now);
    let outputs = story.wait(Duration::ZERO);
    (Stage(story), outputs)
}

/// A client that is welcome; its control connection.
fn linked(config: ClientConfig) -> (Stage, ConnId) {
    let (mut stage, outputs) = begin(config);
    outputs.resolves().iter().for_each(|name| drop(stage.resolved(*name, &["192.0.2.1:33335"])));
    let control = stage.link();
    (stage, control)
}

/// A client that is welcome and has one message connection; both.
fn ready(config: ClientConfig) -> (Stage, ConnId, ConnId) {
    let (mut stage, control) = linked(config);
    let message = stage.message(control, 1);
    (stage, control, message)
}

impl Stage {
    fn dialling(&mut self, purpose: Dialled) -> ConnId {
        let id = self.id();
        self.tell(Input::Dialling { id, purpose });
        id
    }

    fn connected(&mut self, id: ConnId) -> Outputs {
        self.tell(Input::Connected { id })
    }

    /// A name leads to these addresses; to none if there is no such name.
    fn resolved(&mut self, name: NameId, addresses: &[&str]) -> Outputs {
        let found: Vec<SocketAddr> = addresses.iter().map(|text| address(text)).collect();
        let lookup = if found.is_empty() { Lookup::NoSuchName } else { Lookup::Found(found) };
        self.tell(Input::Resolved { name, lookup })
    }

    /// The server that was dialled takes the client.
    fn link(&mut self) -> ConnId {
        let control = self.dialling(Dialled::Control);
        self.connected(control);
        self.hear(control, ControlFrame::Welcome(welcome()));
        control
    }

    /// What was dialled does not prove to be the server; how long the client pauses.
    fn fail(&mut self) -> Duration {
        let control = self.dialling(Dialled::Control);
        self.gone(control, CloseReason::PeerClosed).pause()
    }

    /// The server that was dialled takes the client, and is lost a second later; how long the client pauses.
    fn lose_link(&mut self) -> Duration {
        let control = self.link();
        self.wait(secs(1));
        self.gone(control, CloseReason::PeerClosed).pause()
    }

    /// Nobody answers at the server's address for this time; how long the client pauses at last. It dials then.
    fn wait_unanswered(&mut self, time: Duration) -> Duration {
        let until = self.now + time;
        loop {
            let control = self.dialling(Dialled::Control);
            let pause = self.gone(control, REFUSED).pause();
            self.wait(pause);
            if self.now >= until {
                return pause;
            }
        }
    }

    /// The server asks for a message connection, and it stands.
    fn message(&mut self, control: ConnId, ticket: u64) -> ConnId {
        let outputs = self.hear(control, ControlFrame::Open { first_ticket: ticket, count: 1 });
        let [link] = outputs.message_links()[..] else { panic!("{outputs:?}") };
        let id = self.dialling(Dialled::Message(link));
        self.connected(id);
        id
    }

    fn start(&mut self, message: ConnId, start: Start) -> Outputs {
        self.session(message, SessionEvent::Start(start))
    }
}

impl Outputs {
    /// Addresses that were dialled, and what for.
    fn dials(&self) -> Vec<(&Dial, SocketAddr)> {
        let dial = |output| match output {
            &Output::Dial { ref dial, address, .. } => Some((dial, address)),
            _ => None,
        };
        self.0.iter().filter_map(dial).collect()
    }

    /// Tickets of message connections that were dialled, and where.
    fn tickets(&self) -> Vec<(u64, SocketAddr)> {
        let ticket = |(dial, address): (&Dial, _)| match dial {
            Dial::Message(_, greeting) => Some((greeting.ticket, address)),
            _ => None,
        };
        self.dials().into_iter().filter_map(ticket).collect()
    }

    /// The link of each message connection that was dialled.
    fn message_links(&self) -> Vec<LinkId> {
        let link = |(dial, _): (&Dial, _)| match dial {
            Dial::Message(link, _) => Some(*link),
            _ => None,
        };
        self.dials().into_iter().filter_map(link).collect()
    }

    /// Local servers that were dialled, and for which message connections.
    fn proxies(&self) -> Vec<(ConnId, SocketAddr)> {
        let proxy = |(dial, address)| match dial {
            &Dial::Proxy(message, ..) => Some((message, address)),
            _ => None,
        };
        self.dials().into_iter().filter_map(proxy).collect()
    }

    /// Addresses at which a control connection was dialled.
    fn controls(&self) -> Vec<SocketAddr> {
        let control = |(dial, address): (&Dial, _)| matches!(dial, Dial::Control(_)).then_some(address);
        self.dials().into_iter().filter_map(control).collect()
    }

    fn resolves(&self) -> Vec<NameId> {
        let resolve = |output: &Output| match output {
            Output::Resolve { name, .. } => Some(*name),
            _ => None,
        };
        self.0.iter().filter_map(resolve).collect()
    }

    fn accepts(&self) -> Vec<ConnId> {
        let accept = |output: &Output| match output {
            Output::Accept(id) => Some(*id),
            _ => None,
        };
        self.0.iter().filter_map(accept).collect()
    }

    /// The pause before the next attempt.
    fn pause(&self) -> Duration {
        let pause = |fact: &&Fact| match fact {
            Fact::NextAttempt { pause } => Some(*pause),
            _ => None,
        };
        self.facts().iter().find_map(pause).expect("an attempt follows")
    }
}
