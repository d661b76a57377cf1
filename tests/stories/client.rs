//! The client's rules.

mod names;

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::story::{Outputs, Story, millis, name, secs};
use skyorg::base::address::HostPort;
use skyorg::base::id::{ConnId, LinkId, NameId};
use skyorg::client::Client;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Key};
use skyorg::machine::{CloseReason, Dial, Dialled, Fact, Fault, Input, Lookup, Manner, Output, SessionEvent};
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
        services: vec![(name("web"), host("127.0.0.1:80")), (name("ssh"), host("127.0.0.1:22"))],
        key: Key { name: name("office"), secret: Secret::new([7; 32]) },
        plain: false,
        limits: Limits::default(),
    }
}

/// `web` is served at this place.
fn config_with_local(local: &str) -> ClientConfig {
    ClientConfig { services: vec![(name("web"), host(local))], ..config() }
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

    /// The server that was dialled cannot be reached; how long the client pauses.
    fn fail(&mut self) -> Duration {
        let control = self.dialling(Dialled::Control);
        self.gone(control, REFUSED).pause()
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
            &Dial::Proxy(message, _) => Some((message, address)),
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

// The way to the server.

#[test]
fn the_server_is_dialled_at_once_and_a_numeric_name_is_not_resolved() {
    let (_, outputs) = begin(config());
    assert_eq!(outputs.resolves(), []);
    let [(Dial::Control(greeting), to)] = outputs.dials()[..] else { panic!("{outputs:?}") };
    assert_eq!(to, address("192.0.2.1:33335"));
    assert_eq!((greeting.hello.purpose, greeting.ticket), (Purpose::Control, 0));
    assert_eq!(greeting.hello.key_id, key_id(&Secret::new([7; 32])));
    assert_eq!(outputs.facts(), [&Fact::Connecting { server: host("192.0.2.1:33335") }]);
}

#[test]
fn a_server_has_the_heartbeat_to_take_the_connection_and_again_to_welcome() {
    let (mut stage, outputs) = begin(config());
    let [Output::Dial { deadline, .. }] = outputs.0[1..] else { panic!("{outputs:?}") };
    assert_eq!(deadline, stage.now + Limits::default().heartbeat);
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert_eq!(stage.wait(Limits::default().heartbeat - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(control, CloseReason::HandshakeTimedOut, Manner::Reset)]);
}

#[test]
fn a_server_that_is_late_is_dialled_again_beside_and_only_the_first_that_is_proved_is_greeted() {
    for first_wins in [true, false] {
        let (mut stage, _) = begin(config());
        let first = stage.dialling(Dialled::Control);
        let outputs = stage.wait(Limits::default().late);
        assert_eq!((outputs.facts().len(), outputs.controls().len()), (0, 1));
        let second = stage.dialling(Dialled::Control);
        let outputs = stage.wait(Limits::default().late_told);
        let unreachable = Fact::ServerUnreachable {
            server: host("192.0.2.1:33335"),
            reason: CloseReason::HandshakeTimedOut,
        };
        assert_eq!(outputs.facts(), [&unreachable], "people are told after a while");
        assert_eq!(outputs.controls(), [], "one rival and no more");
        let (winner, loser) = if first_wins { (first, second) } else { (second, first) };
        let outputs = stage.connected(winner);
        assert!(matches!(outputs.said(winner)[0], ControlFrame::Hello(_)));
        assert_eq!(outputs.closes(), [(loser, CloseReason::Retired, Manner::Reset)]);
        assert_eq!(stage.gone(loser, CloseReason::Retired).dials().len(), 0);
        stage.hear(winner, ControlFrame::Welcome(welcome()));
        stage.message(winner, 1);
    }
}

#[test]
fn where_a_late_dial_fails_at_last_the_other_one_may_have_a_rival() {
    let (mut stage, _) = begin(config());
    let first = stage.dialling(Dialled::Control);
    stage.wait(Limits::default().late);
    stage.dialling(Dialled::Control);
    stage.wait(Limits::default().late);
    let outputs = stage.gone(first, CloseReason::DialFailed(std::io::ErrorKind::TimedOut.into()));
    assert_eq!(outputs.controls().len(), 1);
}

#[test]
fn a_server_is_late_after_twice_what_it_took_last() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.wait(millis(200));
    stage.connected(control);
    stage.hear(control, ControlFrame::Welcome(welcome()));
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    stage.wait(outputs.pause());
    stage.dialling(Dialled::Control);
    assert_eq!(stage.wait(millis(399)).controls(), []);
    assert_eq!(stage.wait(millis(1)).controls().len(), 1);
}

#[test]
fn pauses_grow_with_failures_up_to_the_most() {
    let (mut stage, _) = begin(config());
    let (least, most) = Limits::default().reconnect;
    let mut pauses = Vec::new();
    for failures in 0..30 {
        let pause = stage.fail();
        let cap = least.saturating_mul(2u32.pow(failures.min(16))).min(most);
        assert!(least <= pause && pause <= cap, "{pause:?} after {failures} failures");
        assert_eq!(stage.wait(pause - Duration::from_nanos(1)).dials().len(), 0);
        assert_eq!(stage.wait(Duration::from_nanos(1)).dials().len(), 1);
        pauses.push(pause);
    }
    assert!(pauses.into_iter().max() > Some(most / 2));
}

#[test]
fn pauses_are_short_again_after_a_link_that_stood_ten_times_as_long_as_the_last() {
    for (stood, short) in [(9, false), (10, true)] {
        let (mut stage, _) = begin(config());
        let mut pause = Duration::ZERO;
        for _ in 0..5 {
            pause = stage.fail();
            stage.wait(pause);
        }
        let control = stage.link();
        stage.wait(pause * stood);
        let pause = stage.gone(control, CloseReason::PeerClosed).pause();
        assert_eq!(pause == Limits::default().reconnect.0, short, "{pause:?} after {stood} times");
    }
}

#[test]
fn a_server_that_admits_and_leaves_at_once_is_not_dialled_for_ever() {
    let (mut stage, _) = begin(config());
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let control = stage.link();
        let pause = stage.gone(control, CloseReason::PeerClosed).pause();
        stage.wait(pause);
        pauses.push(pause);
    }
    assert!(pauses.iter().sum::<Duration>() > secs(60), "{pauses:?}");
}

#[test]
fn a_refusal_for_its_version_names_both_versions() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    let server = Versions { least: VERSIONS.most + 1, most: VERSIONS.most + 2 };
    let outputs = stage.hear(control, ControlFrame::Refused(Refusal::Versions(server)));
    let told = outputs.facts().first().expect("a fact").to_string();
    let (least, most) = (server.least, server.most);
    let expected = format!("the server speaks {least} to {most}, this client {};", VERSIONS.most);
    assert!(told.contains(&expected), "{told}");
}

#[test]
fn a_refusal_is_told_of_and_makes_long_pauses() {
    let (mut stage, _) = begin(config());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let control = stage.dialling(Dialled::Control);
        stage.connected(control);
        let refusal = Refusal::Plain(true);
        let outputs = stage.hear(control, ControlFrame::Refused(refusal));
        assert_eq!(outputs.facts(), [&Fact::Refused { refusal }]);
        assert_eq!(outputs.closes(), [(control, CloseReason::Drained, Manner::Whole)]);
        let pause = stage.gone(control, CloseReason::Drained).pause();
        assert!(pause >= secs(1), "{pause:?}");
        stage.wait(pause);
        pauses.push(pause);
    }
    assert!(pauses.iter().sum::<Duration>() > secs(40), "{pauses:?}");
}

#[test]
fn a_server_that_does_not_prove_itself_is_told_of() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    let reason = CloseReason::PeerClosed;
    let outputs = stage.gone(control, reason);
    let unproved = Fact::ServerUnproved { server: host("192.0.2.1:33335"), key: name("office"), reason };
    assert_eq!(outputs.facts()[0], &unproved);
}

#[test]
fn hello_is_followed_by_one_publish_per_service_with_the_dial_time() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    let hello = ControlFrame::Hello(Hello {
        versions: VERSIONS,
        capabilities: Capabilities::default(),
        heartbeat: HEARTBEAT,
        instance: [1; 16],
    });
    let publish = |number, service| {
        ControlFrame::Publish(Publish {
            number,
            name: name(service),
            want: Want::Service,
            transports: Transports::Tcp,
            dial_time: Limits::default().local_dial,
        })
    };
    assert_eq!(stage.connected(control).said(control), [hello, publish(1, "web"), publish(2, "ssh")]);
}

#[test]
fn a_granted_service_is_told_of_with_its_port() {
    let (mut stage, control) = linked(config());
    let ports = Ports { first: 33340, last: 33340 };
    let addresses = vec![GrantedAddress { ip: [192, 0, 2, 1].into(), ports }];
    let outputs = stage.hear(control, ControlFrame::Granted { number: 2, addresses });
    let granted = Fact::Granted { service: name("ssh"), port: 33340, local: host("127.0.0.1:22") };
    assert_eq!(outputs.facts(), [&granted]);
}

#[test]
fn a_denied_service_is_told_of_and_the_rest_goes_on() {
    let (mut stage, control) = linked(config());
    let reason = Denial::UnknownService;
    let outputs = stage.hear(control, ControlFrame::Denied { number: 1, reason });
    assert_eq!(outputs.facts(), [&Fact::Denied { service: name("web"), reason }]);
    assert_eq!(outputs.closes(), []);
    let message = stage.message(control, 1);
    let outputs = stage.start(message, Start { publication: 2, ..start(1, 0) });
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:22"))]);
}

#[test]
fn unknown_frames_of_a_later_server_are_skipped() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert!(stage.hear(control, ControlFrame::Skipped).is_silent());
    stage.hear(control, ControlFrame::Welcome(welcome()));
    assert!(stage.hear(control, ControlFrame::Skipped).is_silent());
}

#[test]
fn a_frame_that_only_clients_send_is_a_protocol_error() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Unpublish(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::ProtocolError, Manner::Reset)]);
}

#[test]
fn a_ping_gets_a_pong() {
    let (mut stage, control) = linked(config());
    assert_eq!(stage.hear(control, ControlFrame::Ping).said(control), [ControlFrame::Pong]);
}

#[test]
fn a_silent_server_is_pinged_and_then_given_up() {
    let (mut stage, control) = linked(config());
    assert!(stage.wait(HEARTBEAT / 2 - millis(1)).is_silent());
    assert_eq!(stage.wait(millis(1)).said(control), [ControlFrame::Ping]);
    assert!(stage.wait(HEARTBEAT / 2 - millis(1)).is_silent());
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    assert_eq!(outputs.facts(), [&Fact::ServerSilent { silence: HEARTBEAT }]);
}

#[test]
fn a_silent_server_is_waited_for_until_it_could_be_heard() {
    let (mut stage, control) = linked(config());
    stage.sends_again_in(secs(3));
    assert_eq!(stage.wait(HEARTBEAT + secs(3) - millis(1)).closes(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    assert_eq!(outputs.facts(), [&Fact::ServerSilent { silence: HEARTBEAT + secs(3) }]);
}

#[test]
fn a_server_that_is_heard_after_the_heartbeat_has_another() {
    let (mut stage, control) = linked(config());
    stage.sends_again_in(secs(3));
    stage.wait(HEARTBEAT + secs(1));
    stage.hear(control, ControlFrame::Pong);
    assert_eq!(stage.wait(HEARTBEAT + secs(3) - millis(1)).closes(), []);
}

#[test]
fn after_a_suspension_a_server_is_pinged_at_once_and_soon_given_up() {
    let (mut stage, control) = linked(config());
    assert_eq!(stage.tell(Input::Woken).said(control), [ControlFrame::Ping]);
    assert_eq!(stage.wait(Limits::default().woken - millis(1)).closes(), []);
    let closes = stage.wait(millis(1)).closes();
    assert_eq!(closes, [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn after_a_suspension_a_server_that_answers_keeps_its_link() {
    let (mut stage, control) = linked(config());
    stage.tell(Input::Woken);
    stage.wait(secs(1));
    stage.hear(control, ControlFrame::Pong);
    assert_eq!(stage.wait(HEARTBEAT - millis(1)).closes(), []);
}

#[test]
fn after_a_suspension_a_pause_is_over() {
    let (mut stage, control, _) = ready(config());
    stage.gone(control, CloseReason::HeartbeatLost);
    assert_eq!(stage.tell(Input::Woken).controls().len(), 1);
}

#[test]
fn a_server_that_answers_is_not_given_up() {
    let (mut stage, control) = linked(config());
    for _ in 0..10 {
        assert_eq!(stage.wait(HEARTBEAT / 2).said(control), [ControlFrame::Ping]);
        assert!(stage.hear(control, ControlFrame::Pong).is_silent());
    }
}

#[test]
fn the_smaller_heartbeat_holds() {
    for (client, server) in [(30, 4), (4, 30)] {
        let limits = Limits { heartbeat: secs(client), ..Limits::default() };
        let (mut stage, _) = begin(ClientConfig { limits, ..config() });
        let control = stage.dialling(Dialled::Control);
        stage.connected(control);
        let welcome = Welcome { heartbeat: secs(server), ..welcome() };
        stage.hear(control, ControlFrame::Welcome(welcome));
        assert_eq!(stage.wait(millis(3_999)).closes(), []);
        assert_eq!(stage.wait(millis(1)).closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    }
}

#[test]
fn a_lost_link_closes_all_message_connections_and_a_new_attempt_follows() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(two, start(1, 0));
    let reason = CloseReason::PeerClosed;
    let outputs = stage.gone(control, reason);
    assert_eq!(
        outputs.closes(),
        [(one, CloseReason::LinkLost, Manner::Reset), (two, CloseReason::LinkLost, Manner::Reset)]
    );
    assert!(outputs.facts().contains(&&Fact::LinkLost { server: host("192.0.2.1:33335"), reason }));
    assert_eq!(stage.wait(outputs.pause()).controls(), [address("192.0.2.1:33335")]);
}

// Message connections.

#[test]
fn open_dials_as_many_as_asked_with_consecutive_tickets() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 3 });
    let mut tickets = Vec::new();
    for (dial, to) in outputs.dials() {
        let Dial::Message(_, greeting) = dial else { panic!("{dial:?}") };
        assert_eq!(to, address("192.0.2.1:33334"), "the port is the one of the welcome");
        assert_eq!((greeting.hello.purpose, greeting.hello.key_id), (Purpose::Message, [4; 16]));
        assert_eq!(greeting.secret.bytes(), &[5; 32]);
        tickets.push(greeting.ticket);
    }
    assert_eq!(tickets, [5, 6, 7]);
}

#[test]
fn open_dials_no_more_than_may_be() {
    let limits = Limits { messages_per_client_max: 2, ..Limits::default() };
    let (mut stage, control) = linked(ClientConfig { limits, ..config() });
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: u32::MAX });
    assert_eq!(outputs.dials().len(), 2);
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 9, count: 1 });
    assert_eq!(outputs.dials().len(), 0);
}

#[test]
fn no_more_than_so_many_message_connections_are_on_their_way_whatever_is_asked() {
    let (mut stage, control) = linked(config());
    let asked = |first_ticket, count| ControlFrame::Open { first_ticket, count };
    assert_eq!(stage.hear(control, asked(1, u32::MAX)).dials().len(), 128);
    let outputs = stage.hear(control, asked(1_000, 50));
    assert!(outputs.is_silent(), "{outputs:?}");
}

#[test]
fn one_that_is_proved_makes_room_for_one_that_waits() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 130 });
    assert_eq!(outputs.dials().len(), 128);
    let id = stage.dialling(Dialled::Message(outputs.message_links()[0]));
    let outputs = stage.connected(id);
    let [(Dial::Message(_, greeting), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
    assert_eq!(greeting.ticket, 129);
}

/// A link whose message port has just failed once; its name at the client.
fn failing() -> (Stage, ConnId, LinkId) {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let link = outputs.message_links()[0];
    let id = stage.dialling(Dialled::Message(link));
    let outputs = stage.gone(id, REFUSED);
    let (address, reason) = (address("192.0.2.1:33334"), REFUSED);
    assert_eq!((outputs.facts(), outputs.dials().len()), (vec![&Fact::MessageFailed { address, reason }], 0));
    (stage, control, link)
}

#[test]
fn while_the_message_port_fails_one_dial_every_half_second_stands_for_all_at_both_ports() {
    let (mut stage, control, link) = failing();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 10 });
    assert_eq!(outputs.dials().len(), 0);
    for port in ["33335", "33334", "33335"] {
        assert_eq!(stage.wait(millis(499)).dials().len(), 0);
        let outputs = stage.wait(millis(1));
        let [(_, to)] = outputs.dials()[..] else { panic!("{outputs:?}") };
        assert_eq!(to, address(&format!("192.0.2.1:{port}")));
        let id = stage.dialling(Dialled::Message(link));
        let outputs = stage.gone(id, REFUSED);
        assert_eq!(outputs.facts(), [&Fact::MessageFailed { address: to, reason: REFUSED }]);
    }
}

#[test]
fn the_first_message_connection_that_is_proved_ends_the_pause_and_its_port_is_used_from_then_on() {
    let (mut stage, control, link) = failing();
    stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 3 });
    stage.wait(millis(500));
    let id = stage.dialling(Dialled::Message(link));
    let outputs = stage.connected(id);
    let arrived = Fact::MessageArrived { address: address("192.0.2.1:33335") };
    assert_eq!(outputs.facts(), [&arrived]);
    let dials = outputs.dials();
    assert_eq!(dials.len(), 3, "those that waited, and the one that no server has seen: {dials:?}");
    assert!(dials.iter().all(|&(_, to)| to == address("192.0.2.1:33335")), "{dials:?}");
}

#[test]
fn a_message_connection_that_is_late_gets_a_rival_at_once_and_the_first_that_is_proved_wins() {
    for late_arrives_first in [true, false] {
        let (mut stage, control) = linked(config());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
        let link = outputs.message_links()[0];
        let heartbeat = Limits::default().heartbeat;
        assert!(outputs.0.iter().any(
            |output| matches!(output, Output::Dial { deadline, .. } if *deadline == stage.now + heartbeat)
        ));
        let late = stage.dialling(Dialled::Message(link));
        assert!(stage.wait(Limits::default().late - millis(1)).is_silent());
        let outputs = stage.wait(millis(1));
        assert_eq!(outputs.facts().len(), 0, "it may still arrive");
        assert_eq!(outputs.tickets(), [(1, address("192.0.2.1:33335"))]);
        let rival = stage.dialling(Dialled::Message(link));
        let (winner, loser) = if late_arrives_first { (late, rival) } else { (rival, late) };
        let outputs = stage.connected(winner);
        assert_eq!(outputs.closes(), [(loser, CloseReason::Retired, Manner::Reset)]);
        let told = if late_arrives_first { 0 } else { 2 };
        assert_eq!(outputs.facts().len(), told, "where they go from now on: {outputs:?}");
        assert!(stage.gone(loser, CloseReason::Retired).is_silent());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 2, count: 128 });
        assert_eq!(outputs.dials().len(), 128, "and every place is free again");
    }
}

#[test]
fn a_rival_that_is_not_begun_when_the_late_one_arrives_is_not_wanted() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let purpose = Dialled::Message(outputs.message_links()[0]);
    let late = stage.dialling(purpose);
    assert_eq!(stage.wait(Limits::default().late).tickets().len(), 1);
    stage.connected(late);
    let id = stage.id();
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::Retired, Manner::Reset)]);
}

/// A link on which so many message connections are on their way; these.
fn coming(count: u32) -> (Stage, ConnId, LinkId, Vec<ConnId>) {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count });
    let link = outputs.message_links()[0];
    let ids = (0..count).map(|_| stage.dialling(Dialled::Message(link))).collect();
    (stage, control, link, ids)
}

#[test]
fn what_is_late_while_others_arrive_was_lost_and_rivals_are_a_tenth_of_what_arrives_and_a_few() {
    let (mut stage, control, _, ids) = coming(60);
    stage.wait(millis(50));
    ids[..40].iter().for_each(|&id| drop(stage.connected(id)));
    let outputs = stage.wait(Limits::default().late);
    assert_eq!(outputs.tickets().len(), 8, "{outputs:?}");
    assert!(outputs.tickets().iter().all(|&(_, to)| to == address("192.0.2.1:33334")), "{outputs:?}");
    assert_eq!((outputs.facts().len(), outputs.closes().len()), (0, 0));
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 100, count: 5 });
    assert_eq!(outputs.tickets().len(), 5, "that is no reason to pause");
}

#[test]
fn where_all_are_late_the_other_port_is_tried_and_all_go_there_once_it_answers() {
    let (mut stage, _, link, ids) = coming(10);
    let outputs = stage.wait(Limits::default().late);
    assert_eq!(outputs.tickets(), [(10, address("192.0.2.1:33335"))], "one stands for all");
    let probe = stage.dialling(Dialled::Message(link));
    stage.wait(millis(20));
    let mut outputs = stage.connected(probe);
    let failed =
        Fact::MessageFailed { address: address("192.0.2.1:33334"), reason: CloseReason::HandshakeTimedOut };
    let arrived = Fact::MessageArrived { address: address("192.0.2.1:33335") };
    assert_eq!(outputs.facts(), [&failed, &arrived]);
    let mut replaced: Vec<ConnId> = outputs.closes().iter().map(|it| it.0).collect();
    replaced.sort();
    assert_eq!(replaced, ids, "the late ones are not needed any more");
    outputs.0.retain(|output| matches!(output, Output::Dial { .. }));
    let mut tickets = outputs.tickets();
    tickets.sort();
    assert_eq!(tickets, (1..10).map(|it| (it, address("192.0.2.1:33335"))).collect::<Vec<_>>());
}

#[test]
fn where_the_port_has_worked_the_first_rival_goes_there_again_and_the_next_one_to_the_other_port() {
    let (mut stage, control, link, ids) = coming(1);
    stage.connected(ids[0]);
    stage.wait(secs(1));
    stage.hear(control, ControlFrame::Open { first_ticket: 2, count: 3 });
    for _ in 0..3 {
        stage.dialling(Dialled::Message(link));
    }
    for (wait, port) in [(millis(250), "33334"), (millis(500), "33335"), (millis(500), "33334")] {
        let outputs = stage.wait(wait);
        let [(_, to)] = outputs.tickets()[..] else { panic!("{outputs:?}") };
        assert_eq!(to, address(&format!("192.0.2.1:{port}")));
        stage.dialling(Dialled::Message(link));
    }
}

#[test]
fn on_a_line_that_became_slow_the_late_ones_are_waited_for() {
    let (mut stage, _, link, ids) = coming(10);
    let mut dials = 0;
    for _ in 0..16 {
        let count = stage.wait(millis(250)).tickets().len();
        for _ in 0..count {
            stage.dialling(Dialled::Message(link));
        }
        dials += count;
    }
    assert!((7..=8).contains(&dials), "one each half second: {dials}");
    let outputs = stage.connected(ids[0]);
    assert_eq!(outputs.tickets(), [], "those take no longer than the first one");
    ids[1..].iter().for_each(|&id| assert_eq!(stage.connected(id).tickets(), []));
    assert_eq!(stage.wait(secs(3)).tickets(), []);
}

#[test]
fn where_the_oldest_arrives_first_the_others_go_on_though_they_are_late() {
    let (mut stage, _, link, ids) = coming(50);
    assert_eq!(stage.wait(Limits::default().late).tickets().len(), 1);
    stage.dialling(Dialled::Message(link));
    for &id in &ids[..49] {
        stage.wait(millis(5));
        let outputs = stage.connected(id);
        assert_eq!(
            (outputs.tickets().len(), outputs.closes().len()),
            (0, 0),
            "the server is busy: {outputs:?}"
        );
    }
}

#[test]
fn while_all_are_late_no_ticket_has_more_than_two_dials_and_people_are_told_after_a_while() {
    let (mut stage, control, link, ids) = coming(1);
    let (mut standing, mut told) = (ids, Vec::new());
    for step in 0..40 {
        stage.hear(control, ControlFrame::Ping);
        let outputs = stage.wait(millis(250));
        standing.retain(|id| outputs.closes().iter().all(|close| close.0 != *id));
        for (ticket, _) in outputs.tickets() {
            assert_eq!(ticket, 1);
            standing.push(stage.dialling(Dialled::Message(link)));
        }
        assert!(standing.len() <= 2, "{standing:?}");
        told.extend(outputs.facts().iter().map(|_| step));
    }
    assert!(told.first().is_some_and(|&step| (19..=24).contains(&step)), "after five seconds: {told:?}");
}

#[test]
fn a_ticket_that_a_server_may_have_seen_is_given_back_and_one_that_none_has_seen_is_kept() {
    let (mut stage, control, _, ids) = coming(2);
    let outputs = stage.gone(ids[0], CloseReason::PeerClosed);
    assert_eq!(outputs.said(control), [ControlFrame::Void { first_ticket: 1, count: 1 }]);
    assert_eq!(stage.gone(ids[1], REFUSED).said(control), []);
    assert_eq!(stage.wait(millis(500)).tickets(), [(2, address("192.0.2.1:33335"))]);
}

#[test]
fn a_name_for_message_connections_that_leads_nowhere_leaves_the_control_port() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    stage.resolved(outputs.resolves()[0], &[]);
    let control = stage.link();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 2 });
    let control_port = address("192.0.2.1:33335");
    assert_eq!(outputs.tickets(), [(1, control_port), (2, control_port)]);
}

#[test]
fn a_ticket_that_waits_is_dropped_when_its_time_is_over() {
    let (mut stage, control, link) = failing();
    stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 100 });
    for _ in 0..30 {
        stage.hear(control, ControlFrame::Ping);
        let dials = stage.wait(millis(500)).dials().len();
        (0..dials).for_each(|_| {
            let id = stage.dialling(Dialled::Message(link));
            stage.gone(id, CloseReason::PeerClosed);
        });
    }
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 500, count: 1 });
    let [(Dial::Message(_, greeting), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
    assert_eq!(greeting.ticket, 500);
}

#[test]
fn opens_for_a_closed_port_are_not_dialled_faster_than_the_pause() {
    let (mut stage, control, link) = failing();
    let mut dials = 0;
    for step in 0..1_000 {
        let mut outputs = stage.hear(control, ControlFrame::Open { first_ticket: step, count: 1_000 });
        outputs.0.extend(stage.wait(millis(10)).0);
        for _ in outputs.dials() {
            dials += 1;
            let id = stage.dialling(Dialled::Message(link));
            stage.gone(id, REFUSED);
        }
    }
    assert!((18..=20).contains(&dials), "{dials} dials in 10 s");
}

#[test]
fn a_message_connection_that_is_dialled_for_a_lost_link_is_reset() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    stage.gone(control, CloseReason::PeerClosed);
    let (id, purpose) = (stage.id(), Dialled::Message(outputs.message_links()[0]));
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::LinkLost, Manner::Reset)]);
}

// Sessions.

#[test]
fn a_session_is_accepted_and_its_local_server_dialled_once() {
    let (mut stage, _, message) = ready(config());
    let outputs = stage.start(message, start(1, 0));
    assert_eq!(outputs.accepts(), [message]);
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:80"))]);
    let proxy = stage.dialling(Dialled::Proxy(message));
    assert!(stage.connected(proxy).is_silent());
}

#[test]
fn a_message_connection_serves_one_session_after_the_other() {
    let (mut stage, _, message) = ready(config());
    for sid in 1..4 {
        assert_eq!(stage.start(message, start(sid, 0)).proxies().len(), 1);
        stage.dialling(Dialled::Proxy(message));
        stage.idle(message);
    }
}

#[test]
fn the_same_session_again_is_a_duplicate_and_is_not_dialled_twice() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, start(1, 0));
    let outputs = stage.start(two, start(1, 0));
    assert_eq!(outputs.aborts(), [(two, AbortReason::Duplicate)]);
    assert_eq!(outputs.facts(), [&Fact::Duplicate { number: 9 }]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty());
}

#[test]
fn a_session_that_is_offered_again_while_it_runs_goes_on_and_its_copy_is_a_duplicate() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, start(1, 0));
    let outputs = stage.start(two, start(2, 1));
    assert_eq!(outputs.aborts(), [(two, AbortReason::Duplicate)]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty() && outputs.closes().is_empty());
}

#[test]
fn a_session_that_is_offered_again_and_was_never_seen_is_served_and_its_first_copy_is_late() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    assert_eq!(stage.start(two, start(2, 1)).proxies().len(), 1);
    let outputs = stage.start(one, start(1, 0));
    assert_eq!(outputs.aborts(), [(one, AbortReason::Duplicate)]);
    assert!(outputs.dials().is_empty());
}

#[test]
fn numbers_of_sessions_begin_anew_with_a_link() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.gone(message, CloseReason::LinkLost);
    stage.wait(pause);
    let control = stage.link();
    let message = stage.message(control, 1);
    assert_eq!(stage.start(message, start(1, 0)).proxies().len(), 1);
}

#[test]
fn an_unknown_publication_is_refused_without_a_dial() {
    let (mut stage, _, message) = ready(config());
    let outputs = stage.start(message, Start { publication: 7, ..start(1, 0) });
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty());
}

#[test]
fn a_local_server_that_refuses_gives_an_abort_and_a_fact() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(proxy, REFUSED);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    let failed = Fact::LocalFailed {
        number: 9,
        user: start(1, 0).user,
        service: name("web"),
        local: host("127.0.0.1:80"),
        reason: REFUSED,
    };
    assert_eq!(outputs.facts(), [&failed]);
}

#[test]
fn a_session_that_has_ended_is_told_of() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.wait(secs(2));
    let outputs = stage.gone(proxy, CloseReason::Finished);
    let [Fact::SessionEnded { number: 9, lasted, reason: CloseReason::Finished, .. }] = outputs.facts()[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*lasted, secs(2));
}

#[test]
fn a_proxy_connection_whose_message_connection_is_gone_is_reset() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    stage.gone(message, CloseReason::PeerClosed);
    let (id, purpose) = (stage.id(), Dialled::Proxy(message));
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::LinkLost, Manner::Reset)]);
}

#[test]
fn sessions_that_begin_before_the_end_of_the_one_before_is_told_cost_the_next_ones_nothing() {
    let limits = Limits { proxies_spare: 3, ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    for sid in 1..100 {
        // A server that aborts and begins in one breath: the end is not told of, and no dial has begun.
        assert_eq!(stage.start(message, start(sid, 0)).accepts(), [message], "session {sid}");
    }
    // The dial of one such session has begun: it is not wanted by the next one.
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.start(message, start(100, 0));
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn a_server_that_lets_one_message_connection_in_now_and_then_makes_no_more_of_them_than_may_be() {
    const AT_ONCE: usize = 4;
    let limits = Limits { messages_at_once: AT_ONCE, ..Limits::default() };
    let (mut stage, control) = linked(ClientConfig { limits, ..config() });
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 100 });
    let link = outputs.message_links()[0];
    let (mut asked, mut coming) = (outputs.tickets().len(), Vec::new());
    // Until the tickets expire.
    for _ in 0..4 {
        coming.extend((0..asked).map(|_| stage.dialling(Dialled::Message(link))));
        stage.wait(millis(1));
        let mut outputs = stage.connected(coming.pop().expect("one is on its way"));
        outputs.0.extend(stage.wait(secs(2)).0);
        outputs.closes().iter().for_each(|(retired, ..)| coming.retain(|id| id != retired));
        asked = outputs.tickets().len();
        // Rivals are a share of those that come: four at first, and one more for ten.
        assert!(coming.len() + asked <= AT_ONCE + 4 + 2, "{} and {asked}", coming.len());
    }
}

#[test]
fn a_server_that_begins_and_aborts_sessions_takes_a_bounded_number_of_proxy_connections() {
    let limits = Limits { proxies_spare: 3, ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    let mut proxies = Vec::new();
    for sid in 1..20 {
        let outputs = stage.start(message, start(sid, 0));
        if outputs.proxies().is_empty() {
            assert_eq!(
                (outputs.aborts(), outputs.accepts()),
                (vec![(message, AbortReason::Refused)], vec![])
            );
            let [Fact::LocalFailed { reason: CloseReason::Full, .. }] = outputs.facts()[..] else {
                panic!("{outputs:?}")
            };
        } else {
            // It does not end while its last bytes wait for a local server that reads nothing.
            proxies.push(stage.dialling(Dialled::Proxy(message)));
        }
        stage.idle(message);
    }
    assert_eq!(proxies.len(), 2 + 3, "two per message connection, and some to spare");
    stage.gone(proxies[0], CloseReason::EndTimedOut);
    assert_eq!(stage.start(message, start(20, 0)).proxies().len(), 1);
}

#[test]
fn a_dial_names_its_session_so_that_no_other_gets_its_local_server() {
    let (mut stage, _, message) = ready(config());
    for sid in [1, 2] {
        let outputs = stage.start(message, start(sid, 0));
        let [(&Dial::Proxy(of, number), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
        assert_eq!((of, number), (message, sid));
        stage.idle(message);
    }
}

// The end.

#[test]
fn a_client_that_leaves_says_drain_and_exits_when_the_link_has_ended() {
    let (mut stage, control) = linked(config());
    let outputs = stage.tell(Input::Drain);
    assert_eq!(outputs.said(control), [ControlFrame::Drain]);
    assert!(!outputs.exits());
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    assert!(outputs.exits());
    assert!(!outputs.facts().iter().any(|fact| matches!(fact, Fact::NextAttempt { .. })));
}

#[test]
fn a_client_that_leaves_waits_for_its_last_proxy_connection() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.tell(Input::Drain);
    assert!(!stage.gone(control, CloseReason::PeerClosed).exits());
    assert!(stage.gone(proxy, CloseReason::Finished).exits());
}

#[test]
fn a_client_that_leaves_during_a_pause_exits_at_once() {
    let (mut stage, _) = begin(config());
    stage.fail();
    assert!(stage.tell(Input::Drain).exits());
}

#[test]
fn a_client_that_leaves_before_its_welcome_says_so_after_it() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert!(!stage.tell(Input::Drain).exits());
    let outputs = stage.hear(control, ControlFrame::Welcome(welcome()));
    assert_eq!(outputs.said(control), [ControlFrame::Drain]);
}

#[test]
fn a_client_that_leaves_exits_at_the_limit() {
    let limits = Limits { drain: secs(5), ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    stage.start(message, start(1, 0));
    stage.tell(Input::Drain);
    assert!(!stage.wait(millis(4_999)).exits());
    let outputs = stage.wait(millis(1));
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
}

#[test]
fn a_client_that_is_asked_again_to_end_resets_its_proxy_connections_at_once_and_tells_of_each() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    stage.tell(Input::Drain);
    let outputs = stage.tell(Input::GiveUp);
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
    let outputs = stage.gone(proxy, CloseReason::Shutdown);
    let ended = |fact: &&Fact| matches!(fact, Fact::SessionEnded { reason: CloseReason::Shutdown, .. });
    assert!(outputs.facts().iter().any(ended));
}

// A server that drains.

/// A client with a session on a link whose server drains after a good while; what it does at once. The link's control
/// connection and the session's message connection.
fn drained() -> (Stage, ConnId, ConnId, Outputs) {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    stage.wait(Limits::default().drain_sudden);
    let outputs = stage.hear(control, ControlFrame::Drain);
    (stage, control, message, outputs)
}

#[test]
fn a_server_that_drains_is_told_of_and_another_link_is_sought_at_once_while_sessions_go_on() {
    let (_, _, _, outputs) = drained();
    assert_eq!(outputs.facts(), [&Fact::ServerDrains { server: host("192.0.2.1:33335") }]);
    assert_eq!(outputs.controls(), [address("192.0.2.1:33335")]);
    assert_eq!((outputs.closes(), outputs.aborts()), (vec![], vec![]));
}

#[test]
fn another_link_is_sought_every_half_second_for_a_minute_and_then_with_growing_pauses() {
    let (mut stage, control, _, _) = drained();
    let began = stage.now;
    while stage.now < began + secs(60) {
        let pause = stage.fail();
        assert!((millis(375)..=millis(625)).contains(&pause), "{pause:?}");
        stage.wait(pause);
        stage.hear(control, ControlFrame::Ping);
    }
    assert_eq!(stage.fail(), Limits::default().reconnect.0);
}

#[test]
fn after_the_end_of_the_link_that_drains_pauses_grow_as_usual() {
    let (mut stage, control, message, _) = drained();
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(message, CloseReason::LinkLost, Manner::Reset)]);
    assert_eq!(outputs.facts().len(), 1, "the attempt goes on: {outputs:?}");
    assert_eq!(stage.fail(), Limits::default().reconnect.0);
}

#[test]
fn sessions_are_numbered_by_each_of_two_links_and_one_that_ends_takes_only_its_own() {
    let (mut stage, old, old_message, _) = drained();
    let new = stage.link();
    let new_message = stage.message(new, 1);
    assert_eq!(stage.start(new_message, start(1, 0)).proxies().len(), 1, "it is no duplicate");
    let outputs = stage.gone(old, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(old_message, CloseReason::LinkLost, Manner::Reset)]);
    assert!(outputs.controls().is_empty() && stage.wait(secs(20)).controls().is_empty());
}

#[test]
fn a_copy_on_another_link_is_another_session() {
    let (mut stage, _, _, _) = drained();
    let new = stage.link();
    let new_message = stage.message(new, 1);
    // The number that the first link's session has is the one that this session had first.
    let outputs = stage.start(new_message, start(2, 1));
    assert_eq!((outputs.aborts(), outputs.proxies().len()), (vec![], 1));
}

#[test]
fn the_current_link_may_end_before_the_one_that_drains() {
    let (mut stage, _, _, _) = drained();
    let new = stage.link();
    let outputs = stage.gone(new, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), []);
    assert_eq!(stage.wait(outputs.pause()).controls().len(), 1);
}

#[test]
fn both_links_have_a_heartbeat() {
    let (mut stage, old, _, _) = drained();
    let new = stage.link();
    stage.wait(HEARTBEAT / 2);
    stage.hear(new, ControlFrame::Ping);
    let closes = stage.wait(HEARTBEAT / 2).closes();
    assert_eq!(closes, [(old, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn no_message_connection_is_dialled_for_a_link_that_drains() {
    let (mut stage, control, _, _) = drained();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 9, count: 3 });
    assert!(outputs.dials().is_empty());
}

#[test]
fn of_two_links_that_drain_the_older_one_ends() {
    let (mut stage, old, _, _) = drained();
    let new = stage.link();
    stage.wait(Limits::default().drain_sudden);
    let outputs = stage.hear(new, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(old, CloseReason::Replaced, Manner::Reset)]);
    assert_eq!(outputs.controls().len(), 1);
}

#[test]
fn drain_just_after_the_welcome_is_a_refusal() {
    let (mut stage, control) = linked(config());
    stage.wait(Limits::default().drain_sudden - millis(1));
    let outputs = stage.hear(control, ControlFrame::Drain);
    assert!(outputs.pause() >= secs(1) && outputs.controls().is_empty(), "{outputs:?}");
    assert_eq!(outputs.closes(), []);
    assert_eq!(stage.wait(outputs.pause()).controls().len(), 1);
}

#[test]
fn a_client_that_leaves_says_so_on_both_links_and_waits_for_both() {
    let (mut stage, old, message, _) = drained();
    let new = stage.link();
    let outputs = stage.tell(Input::Drain);
    assert_eq!(
        (outputs.said(old), outputs.said(new)),
        (vec![ControlFrame::Drain], vec![ControlFrame::Drain])
    );
    assert!(!stage.gone(new, CloseReason::PeerClosed).exits());
    stage.gone(message, CloseReason::Drained);
    assert!(stage.gone(old, CloseReason::PeerClosed).exits());
}

#[test]
fn a_client_that_leaves_seeks_no_other_link() {
    let (mut stage, control) = linked(config());
    stage.wait(Limits::default().drain_sudden);
    stage.tell(Input::Drain);
    let outputs = stage.hear(control, ControlFrame::Drain);
    assert!(outputs.controls().is_empty());
    assert!(stage.gone(control, CloseReason::PeerClosed).exits());
}
