//! The server's rules.

mod offers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::story::{Outputs, Story, millis, name, secs};
use skyorg::base::address::Listen;
use skyorg::base::id::{ConnId, ListenerId};
use skyorg::config::limits::Limits;
use skyorg::config::{Key, ServerConfig};
use skyorg::machine::{
    CloseReason, Door, Fact, Input, LINK_RANDOM_BYTES, Manner, Output, Proof, SessionEvent,
};
use skyorg::server::Server;
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Transports, VERSIONS,
    Versions, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Start};
use skyorg::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};

const POOL: usize = 2;
const WEB: u16 = 33333;
const SSH: u16 = 33340;
const MESSAGE: u16 = 33334;
const CONTROL: u16 = 33335;
/// The client's time to dial its local server.
const DIAL: Duration = Duration::from_secs(5);

/// A server whose listeners listen.
struct Stage {
    story: Story<Server>,
    listeners: Vec<(ListenerId, u16, Door)>,
    links: u8,
}

impl Deref for Stage {
    type Target = Story<Server>;

    fn deref(&self) -> &Story<Server> {
        &self.story
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Story<Server> {
        &mut self.story
    }
}

/// A client as the server knows it, and the tickets that it may bring.
struct Client {
    control: ConnId,
    link: KeyId,
    tickets: VecDeque<u64>,
}

fn limits() -> Limits {
    Limits { pool: POOL, ..Limits::default() }
}

fn office() -> KeyId {
    key_id(&Secret::new([7; 32]))
}

fn user_address(id: ConnId) -> SocketAddr {
    ([198, 51, 100, 1], 1024 + id.slot() as u16).into()
}

fn peer() -> SocketAddr {
    ([192, 0, 2, 9], 1024).into()
}

fn at(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn hello(instance: u8) -> Hello {
    Hello {
        versions: VERSIONS,
        capabilities: Capabilities::default(),
        heartbeat: secs(30),
        instance: [instance; 16],
    }
}

fn publish(number: u32, service: &str) -> ControlFrame {
    ControlFrame::Publish(Publish {
        number,
        name: name(service),
        want: Want::Service,
        transports: Transports::Tcp,
        dial_time: DIAL,
    })
}

fn new_server(limits: Limits) -> Story<Server> {
    let config = ServerConfig {
        services: vec![(name("web"), Listen::Any(WEB)), (name("ssh"), Listen::Any(SSH))],
        message: Listen::Any(MESSAGE),
        control: Listen::Any(CONTROL),
        keys: vec![Key { name: name("office"), secret: Secret::new([7; 32]) }],
        plain: false,
        limits: limits.clone(),
    };
    let now = Instant::now();
    Story::new(Server::new(config, Arc::new(limits), [2; 16], fastrand::Rng::with_seed(1), now), now)
}

fn begin() -> Stage {
    begin_with(limits())
}

fn begin_with(limits: Limits) -> Stage {
    let mut story = new_server(limits);
    let mut listeners = Vec::new();
    for output in story.wait(Duration::ZERO).0 {
        if let Output::Listen { id, at: listen, door } = output {
            listeners.push((id, listen.port(), door));
            story.tell(Input::Listening { id, address: at(listen.port()) });
        }
    }
    Stage { story, listeners, links: 0 }
}

impl Stage {
    fn stranger(&mut self, purpose: Purpose, key_id: KeyId) -> (ConnId, Outputs) {
        let id = self.id();
        self.tell(Input::Accepted { id, door: Door::Clients, peer: peer(), asked: peer() });
        let hello = ClearHello { suite: Suite::AesGcm, purpose, key_id };
        (id, self.tell(Input::Greeted { id, hello }))
    }

    /// A connection at the control port has proved the key.
    fn control(&mut self) -> (ConnId, Outputs) {
        self.links += 1;
        let (id, _) = self.stranger(Purpose::Control, office());
        (id, self.prove(id, Proof::control(&[self.links; LINK_RANDOM_BYTES], self.links.into())))
    }

    /// A connection at the message port has proved a link's key and shown this ticket.
    fn message(&mut self, link: KeyId, ticket: u64) -> (ConnId, Outputs) {
        let (id, _) = self.stranger(Purpose::Message, link);
        (id, self.prove(id, Proof::Message { ticket }))
    }

    /// A stranger proves a secret, and is answered if the server wants it to be.
    fn prove(&mut self, id: ConnId, proof: Proof) -> Outputs {
        let mut outputs = self.tell(Input::Proved { id, proof });
        if outputs.answered() == [id] {
            outputs.0.extend(self.tell(Input::Answered { id }).0);
        }
        outputs
    }

    /// A client says this and is welcome.
    fn greet(&mut self, hello: Hello) -> (Client, Outputs) {
        let (control, _) = self.control();
        let outputs = self.hear(control, ControlFrame::Hello(hello));
        let mut client = Client { control, link: [self.links; 16], tickets: VecDeque::new() };
        client.note(&outputs);
        (client, outputs)
    }

    /// A client that publishes `web` and has answered the first ping.
    fn client(&mut self, instance: u8) -> Client {
        let (client, _) = self.greet(hello(instance));
        self.hear(client.control, publish(1, "web"));
        self.hear(client.control, ControlFrame::Pong);
        client
    }

    /// A client brings a message connection.
    fn bring(&mut self, client: &mut Client) -> (ConnId, Outputs) {
        let ticket = client.tickets.pop_front().expect("a ticket is left");
        let (id, outputs) = self.message(client.link, ticket);
        client.note(&outputs);
        (id, outputs)
    }

    fn user(&mut self) -> (ConnId, Outputs) {
        self.user_at(WEB)
    }

    fn user_at(&mut self, port: u16) -> (ConnId, Outputs) {
        let door = self.listeners.iter().find(|it| it.1 == port).expect("it listens").2;
        let id = self.id();
        (id, self.tell(Input::Accepted { id, door, peer: user_address(id), asked: at(port) }))
    }

    /// The process is asked to end, and its listeners stop.
    fn drain(&mut self) -> Outputs {
        let mut outputs = self.tell(Input::Drain);
        for id in outputs.stopped() {
            outputs.0.extend(self.tell(Input::Stopped { id }).0);
        }
        outputs
    }

    fn accepted_and_started(&mut self, message: ConnId) {
        self.session(message, SessionEvent::Accepted);
        self.session(message, SessionEvent::Started);
    }

    /// Time passes, second by second; each ping is answered, and what is closed is gone. Returns what was closed.
    fn live(&mut self, seconds: u64) -> Vec<(ConnId, CloseReason, Manner)> {
        let mut closed = Vec::new();
        for _ in 0..seconds {
            for output in self.wait(secs(1)).0 {
                match output {
                    Output::Ping(id) => drop(self.session(id, SessionEvent::Pong)),
                    Output::Send { id, frame: ControlFrame::Ping } => {
                        self.hear(id, ControlFrame::Pong);
                    }
                    Output::Close { id, reason, manner } => {
                        closed.push((id, reason, manner));
                        self.gone(id, reason);
                    }
                    _ => {}
                }
            }
        }
        closed
    }
}

impl Client {
    fn note(&mut self, outputs: &Outputs) {
        for (first, count) in outputs.asked(self.control) {
            self.tickets.extend(first..first + u64::from(count));
        }
    }
}

impl Outputs {
    /// Listeners that are to stop.
    fn stopped(&self) -> Vec<ListenerId> {
        let stopped = |output: &Output| match output {
            Output::StopListening(id) => Some(*id),
            _ => None,
        };
        self.0.iter().filter_map(stopped).collect()
    }
}

fn returned(id: ConnId, refused: bool, spoken: bool) -> Input {
    Input::Returned { id, refused, spoken }
}

// Listeners and strangers.

#[test]
fn a_listener_is_asked_for_per_service_and_for_messages_and_controls() {
    let outputs = new_server(limits()).wait(Duration::ZERO);
    assert_eq!(outputs.users_limit(), Some(limits().users_max));
    let listen = outputs.0.iter().filter(|output| !matches!(output, Output::LimitUsers(_)));
    let listen = listen.map(|output| match output {
        Output::Listen { at, door, .. } => (at.port(), *door == Door::Clients),
        other => panic!("{other:?}"),
    });
    assert_eq!(listen.collect::<Vec<_>>(), [(WEB, false), (SSH, false), (MESSAGE, true), (CONTROL, true)]);
}

#[test]
fn a_stranger_with_an_unknown_key_or_link_is_discarded_and_told_nothing() {
    let mut stage = begin();
    for purpose in [Purpose::Control, Purpose::Message] {
        let (id, outputs) = stage.stranger(purpose, [0; 16]);
        assert_eq!(outputs.closes(), [(id, CloseReason::unknown(purpose), Manner::Discard)]);
        assert_eq!(outputs.0.len(), 1, "{outputs:?}");
    }
}

#[test]
fn a_key_is_no_link_and_a_link_is_no_key() {
    let mut stage = begin();
    let client = stage.client(1);
    for (purpose, key_id) in [(Purpose::Control, client.link), (Purpose::Message, office())] {
        let (id, outputs) = stage.stranger(purpose, key_id);
        assert_eq!(outputs.closes(), [(id, CloseReason::unknown(purpose), Manner::Discard)]);
    }
}

#[test]
fn a_stranger_that_names_a_key_is_verified_against_its_secret() {
    let (id, outputs) = begin().stranger(Purpose::Control, office());
    let [Output::Verify { id: verified, secret }] = &outputs.0[..] else { panic!("{outputs:?}") };
    assert_eq!((*verified, secret.bytes()), (id, &[7; 32]));
}

#[test]
fn a_stranger_that_leaves_is_told_of() {
    let mut stage = begin();
    let (id, _) = stage.stranger(Purpose::Control, office());
    let reason = CloseReason::HandshakeTimedOut;
    assert_eq!(stage.gone(id, reason).facts(), [&Fact::NotAdmitted { peer: peer(), reason }]);
}

#[test]
fn a_good_ticket_admits_once_and_a_used_or_unknown_one_is_discarded() {
    let mut stage = begin();
    let client = stage.client(1);
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.answered(), [id]);
    for ticket in [1, 0, 99] {
        let (id, outputs) = stage.message(client.link, ticket);
        assert_eq!(outputs.closes(), [(id, CloseReason::UnknownLink, Manner::Discard)]);
        assert_eq!(outputs.answered(), []);
    }
}

#[test]
fn a_ticket_that_was_used_counts_until_its_connection_is_answered_or_gone() {
    let mut stage = begin();
    let client = stage.client(1);
    let (id, _) = stage.stranger(Purpose::Message, client.link);
    let outputs = stage.tell(Input::Proved { id, proof: Proof::Message { ticket: 1 } });
    assert_eq!((outputs.answered(), outputs.asked(client.control)), (vec![id], vec![]));
    let outputs = stage.gone(id, CloseReason::PeerClosed);
    assert_eq!(outputs.asked(client.control), [(3, 1)], "another in its place");
}

#[test]
fn a_recorded_first_flight_is_not_answered() {
    let mut stage = begin();
    stage.control();
    let (id, _) = stage.stranger(Purpose::Control, office());
    let outputs = stage.prove(id, Proof::control(&[9; LINK_RANDOM_BYTES], 1));
    assert_eq!(outputs.closes(), [(id, CloseReason::Replayed, Manner::Discard)]);
    assert_eq!(outputs.answered(), []);
}

#[test]
fn a_client_that_is_refused_counts_as_a_stranger_to_its_end() {
    let mut stage = begin();
    let (control, _) = stage.control();
    let versions = Versions { least: VERSIONS.most + 1, most: VERSIONS.most + 1 };
    let outputs = stage.hear(control, ControlFrame::Hello(Hello { versions, ..hello(1) }));
    assert_eq!(outputs.admitted(), []);
    let (client, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.admitted(), [client.control]);
}

#[test]
fn a_ticket_expires_and_another_is_issued_in_its_place() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.wait(limits().ticket);
    let expired = Fact::TicketsExpired { key: name("office"), count: POOL };
    assert!(outputs.facts().contains(&&expired), "{outputs:?}");
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
}

/// A client of which so many users wait for a message connection.
fn crowded(users: usize) -> (Stage, Client) {
    let mut stage = begin_with(Limits { pool: 10, ..limits() });
    let mut client = stage.greet(hello(1)).0;
    stage.hear(client.control, publish(1, "web"));
    stage.hear(client.control, ControlFrame::Pong);
    for _ in 0..users {
        let (_, outputs) = stage.user();
        client.note(&outputs);
    }
    (stage, client)
}

/// It brings a message connection, and its session starts.
fn serve(stage: &mut Stage, client: &mut Client) {
    let message = stage.bring(client).0;
    stage.accepted_and_started(message);
}

#[test]
fn for_what_is_late_while_others_come_a_few_more_are_asked_for_as_a_share_of_those() {
    let (mut stage, mut client) = crowded(50);
    stage.wait(millis(100));
    let mut brought = 0;
    while client.tickets.len() > 10 {
        serve(&mut stage, &mut client);
        brought += 1;
    }
    let late: Vec<u64> = client.tickets.drain(..).collect();
    let outputs = stage.wait(limits().late);
    let asked: u32 = outputs.asked(client.control).iter().map(|it| it.1).sum();
    assert_eq!(asked, 1 + brought / 10, "one, and one of ten that came: {outputs:?}");
    assert_eq!(stage.wait(secs(1)).asked(client.control), [], "once");
    let answered = late.iter().filter(|&&it| stage.message(client.link, it).1.answered().len() == 1).count();
    assert_eq!(answered, late.len(), "the late ones are good all the same");
}

#[test]
fn without_loss_nothing_more_is_asked_for_and_where_nothing_comes_neither() {
    for brings in [true, false] {
        let (mut stage, mut client) = crowded(50);
        stage.wait(millis(100));
        while brings && !client.tickets.is_empty() {
            serve(&mut stage, &mut client);
        }
        assert_eq!(stage.wait(secs(2)).asked(client.control), [], "{brings}");
    }
}

#[test]
fn after_one_was_late_one_more_is_asked_for_with_every_ten_for_a_minute() {
    let (mut stage, mut client) = crowded(50);
    while client.tickets.len() > 1 {
        serve(&mut stage, &mut client);
    }
    let late = client.tickets.pop_back().expect("one is left");
    client.note(&stage.wait(limits().late));
    assert_eq!(client.tickets.len(), 2, "in its place, and one more");
    serve(&mut stage, &mut client);
    stage.message(client.link, late);
    let mut asked = Vec::new();
    for _ in 0..20 {
        let (_, outputs) = stage.user();
        asked.extend(outputs.asked(client.control).iter().map(|it| it.1));
    }
    assert!(asked.contains(&2), "{asked:?}");
}

#[test]
fn for_tickets_that_are_given_back_one_is_asked_for_at_once_and_the_rest_when_it_has_come() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let used = stage.bring(&mut client).0;
    assert!(stage.hear(client.control, ControlFrame::Void { first_ticket: 1, count: 1 }).is_silent());
    let outputs = stage.hear(client.control, ControlFrame::Void { first_ticket: 2, count: 1 });
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
    let (id, outputs) = stage.message(client.link, 2);
    assert_eq!(
        outputs.closes(),
        [(id, CloseReason::UnknownLink, Manner::Discard)],
        "it is not good any more"
    );
    stage.gone(used, CloseReason::PeerClosed);
    let outputs = stage.hear(client.control, ControlFrame::Void { first_ticket: 3, count: 1 });
    assert_eq!(outputs.asked(client.control), [(4, 1)], "however often");
    let (_, outputs) = stage.message(client.link, 4);
    assert_eq!(outputs.asked(client.control), [(5, POOL as u32 - 1)]);
}

#[test]
fn a_message_connection_that_is_late_is_admitted_though_another_was_asked_for_in_its_place() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.wait(limits().ticket);
    let late = limits().heartbeat - secs(1);
    for _ in 0..late.as_secs() {
        stage.hear(client.control, ControlFrame::Ping);
        stage.wait(secs(1));
    }
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.answered(), [id]);
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.closes(), [(id, CloseReason::UnknownLink, Manner::Discard)], "once");
    stage.hear(client.control, ControlFrame::Ping);
    stage.wait(limits().ticket);
    let (id, outputs) = stage.message(client.link, 2);
    assert_eq!(outputs.closes(), [(id, CloseReason::UnknownLink, Manner::Discard)], "and not for ever");
}

// Clients.

#[test]
fn hello_gets_welcome_with_the_message_port_and_open_for_the_whole_pool() {
    let (client, outputs) = begin().greet(hello(1));
    let said = outputs.said(client.control);
    let ControlFrame::Welcome(Welcome { version, message_port, heartbeat, instance, link, .. }) = said[0]
    else {
        panic!("{said:?}")
    };
    assert_eq!((version, message_port, heartbeat), (VERSIONS.most, MESSAGE, secs(30)));
    assert_eq!((instance, link), ([2; 16], client.link));
    assert_eq!(outputs.asked(client.control), [(1, POOL as u32)]);
}

#[test]
fn the_smaller_heartbeat_holds() {
    for (server, client) in [(30, 3), (3, 30)] {
        let mut stage = begin_with(Limits { heartbeat: secs(server), ..limits() });
        let (it, _) = stage.greet(Hello { heartbeat: secs(client), ..hello(1) });
        assert_eq!(stage.wait(millis(2_999)).closes(), []);
        assert_eq!(stage.wait(millis(1)).closes(), [(it.control, CloseReason::HeartbeatLost, Manner::Reset)]);
    }
}

#[test]
fn a_silent_client_is_waited_for_until_it_could_be_heard() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.sends_again_in(secs(13));
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(stage.wait(secs(30 + 13) - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(client.control, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn after_a_suspension_clients_are_pinged_at_once_and_soon_given_up() {
    let mut stage = begin();
    let [silent, answers] = [1, 2].map(|instance| stage.client(instance));
    for client in [&silent, &answers] {
        stage.hear(client.control, ControlFrame::Pong);
    }
    stage.wait(secs(1));
    let outputs = stage.tell(Input::Woken);
    for client in [&silent, &answers] {
        assert_eq!(outputs.said(client.control), [ControlFrame::Ping]);
    }
    stage.hear(answers.control, ControlFrame::Pong);
    assert_eq!(stage.wait(limits().woken - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(silent.control, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn a_heartbeat_is_never_shorter_than_the_least() {
    let mut stage = begin();
    let (it, _) = stage.greet(Hello { heartbeat: millis(1), ..hello(1) });
    assert_eq!(stage.wait(limits().heartbeat_min - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(it.control, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn a_client_without_a_common_version_is_refused_with_the_servers_range() {
    let mut stage = begin();
    let versions = Versions { least: VERSIONS.most + 1, most: VERSIONS.most + 1 };
    let (client, outputs) = stage.greet(Hello { versions, ..hello(1) });
    let refusal = Refusal::Versions(VERSIONS);
    assert_eq!(outputs.said(client.control), [ControlFrame::Refused(refusal)]);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::Drained, Manner::Whole)]);
    let fact = Fact::ClientRefused { key: name("office"), peer: peer(), versions, refusal };
    assert_eq!(outputs.facts(), [&fact]);
    let expected = format!(
        "no protocol version in common: this server speaks {}, the client {}; install the same skyorg on both sides",
        VERSIONS.most,
        VERSIONS.most + 1
    );
    assert!(fact.to_string().ends_with(&expected), "{fact}");
}

#[test]
fn a_client_that_is_plain_beside_a_sealed_server_is_refused() {
    let (client, outputs) = begin().greet(Hello { capabilities: Capabilities::PLAIN, ..hello(1) });
    assert_eq!(outputs.said(client.control), [ControlFrame::Refused(Refusal::Plain(false))]);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::Drained, Manner::Whole)]);
}

#[test]
fn a_refused_client_is_not_heard_again() {
    let mut stage = begin();
    let (client, _) = stage.greet(Hello { capabilities: Capabilities::PLAIN, ..hello(1) });
    assert!(stage.hear(client.control, ControlFrame::Hello(hello(1))).is_silent());
}

#[test]
fn one_client_too_many_is_refused_with_the_number() {
    let mut stage = begin_with(Limits { links_max: 1, ..limits() });
    stage.client(1);
    let (other, outputs) = stage.greet(hello(2));
    let refusal = Refusal::Links { count: 1, of_key: false };
    assert_eq!(outputs.said(other.control), [ControlFrame::Refused(refusal)]);
    assert_eq!(outputs.closes(), [(other.control, CloseReason::Drained, Manner::Whole)]);
    assert_eq!(
        outputs.facts(),
        [&Fact::ClientRefused { key: name("office"), peer: peer(), versions: VERSIONS, refusal }]
    );
}

#[test]
fn each_link_takes_room_from_users_and_gives_it_back() {
    // A link is promised its control connection and its pool.
    let mut stage = begin_with(Limits { room: 100, users_max: 1_000, ..limits() });
    let users = |links: usize| (100 - links * (1 + POOL)) / 2;
    let (first, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.users_limit(), Some(users(1)));
    let (_, outputs) = stage.greet(hello(2));
    assert_eq!(outputs.users_limit(), Some(users(2)));
    assert_eq!(stage.gone(first.control, CloseReason::PeerClosed).users_limit(), Some(users(1)));
}

#[test]
fn no_link_takes_the_two_message_connections_that_another_is_sure_of() {
    let pool = 10;
    let mut stage = begin_with(Limits { room: 60, pool, ..limits() });
    let mut greedy = stage.client(1);
    // Users wait, so that it is asked for more than its pool.
    (0..20).for_each(|_| drop(stage.user()));
    while !greedy.tickets.is_empty() {
        stage.bring(&mut greedy);
    }
    let (_, outputs) = stage.greet(hello(2));
    let asked: u32 = outputs
        .0
        .iter()
        .map(|output| match output {
            Output::Send { frame: ControlFrame::Open { count, .. }, .. } => *count,
            _ => 0,
        })
        .sum();
    assert!(asked >= 2, "{outputs:?}");
}

#[test]
fn a_client_that_brought_none_of_what_it_was_asked_for_is_asked_for_one() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let outputs = stage.wait(limits().ticket);
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
    client.tickets.clear();
    client.note(&outputs);
    let (_, outputs) = stage.bring(&mut client);
    assert_eq!(outputs.asked(client.control), [(4, POOL as u32 - 1)], "it brings them again");
}

#[test]
fn a_service_whose_users_wait_leaves_their_share_of_places_to_others() {
    let mut stage = begin_with(Limits { waiting_max: 20, waiting_sure: 2, ..limits() });
    let hogs: Vec<ConnId> = (0..20).map(|_| stage.user_at(WEB).0).collect();
    let (one_more, outputs) = stage.user_at(WEB);
    assert_eq!(outputs.closes(), [(one_more, CloseReason::Full, Manner::Reset)], "its own queue is full");
    for newest in hogs.iter().rev().take(10) {
        let (_, outputs) = stage.user_at(SSH);
        assert_eq!(outputs.closes(), [(*newest, CloseReason::Full, Manner::Reset)]);
        stage.gone(*newest, CloseReason::Full);
    }
    let (one_more, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.closes(), [(one_more, CloseReason::Full, Manner::Reset)], "both have their share");
}

#[test]
fn the_same_instance_replaces_its_old_self() {
    let mut stage = begin();
    let mut old = stage.client(1);
    let (message, _) = stage.bring(&mut old);
    let (new, outputs) = stage.greet(hello(1));
    assert_eq!(
        outputs.closes(),
        [
            (old.control, CloseReason::Replaced, Manner::Reset),
            (message, CloseReason::LinkLost, Manner::Reset)
        ]
    );
    assert!(matches!(outputs.said(new.control)[0], ControlFrame::Welcome(_)));
    assert_eq!(stage.hear(new.control, publish(1, "web")).said(new.control).len(), 1);
}

#[test]
fn another_instance_with_the_same_key_is_a_second_client() {
    let mut stage = begin();
    let old = stage.client(1);
    let (new, outputs) = stage.greet(hello(2));
    assert_eq!(outputs.closes(), []);
    assert!(matches!(outputs.said(new.control)[0], ControlFrame::Welcome(_)));
    let outputs = stage.hear(old.control, ControlFrame::Ping);
    assert_eq!(outputs.said(old.control), [ControlFrame::Pong]);
}

#[test]
fn a_lost_heartbeat_closes_the_link_and_its_message_connections() {
    let mut stage = begin();
    let (mut client, _) = stage.greet(Hello { heartbeat: secs(3), ..hello(1) });
    let (message, _) = stage.bring(&mut client);
    let outputs = stage.wait(secs(3));
    assert_eq!(
        outputs.closes(),
        [
            (client.control, CloseReason::HeartbeatLost, Manner::Reset),
            (message, CloseReason::LinkLost, Manner::Reset)
        ]
    );
    let reason = CloseReason::HeartbeatLost;
    let gone = Fact::ClientGone { link: client.control, key: name("office"), peer: peer(), reason };
    assert!(outputs.facts().contains(&&gone));
    let (_, outputs) = stage.message(client.link, 2);
    assert_eq!(outputs.answered(), [], "its tickets are void");
}

#[test]
fn a_client_that_pings_more_than_fifty_times_beyond_twenty_a_second_is_closed() {
    let mut stage = begin();
    let client = stage.client(1);
    for _ in 0..100 {
        stage.wait(millis(50));
        assert_eq!(stage.hear(client.control, ControlFrame::Ping).said(client.control), [ControlFrame::Pong]);
    }
    let closed = |stage: &mut Stage| !stage.hear(client.control, ControlFrame::Ping).closes().is_empty();
    let burst = (1..100).find(|_| closed(&mut stage));
    assert!(burst.is_some_and(|count| (49..=51).contains(&count)), "{burst:?}");
}

#[test]
fn a_client_that_answers_pings_stays() {
    let mut stage = begin();
    stage.client(1);
    assert_eq!(stage.live(300), []);
}

#[test]
fn a_control_connection_that_breaks_takes_its_message_connections_along() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let outputs = stage.gone(client.control, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(message, CloseReason::LinkLost, Manner::Reset)]);
}

#[test]
fn frames_after_a_protocol_error_are_not_heard() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, ControlFrame::Hello(hello(1)));
    assert_eq!(outputs.closes(), [(client.control, CloseReason::ProtocolError, Manner::Reset)]);
    for frame in [ControlFrame::Ping, publish(2, "ssh"), ControlFrame::Hello(hello(1)), ControlFrame::Drain] {
        assert!(stage.hear(client.control, frame).is_silent());
    }
}

#[test]
fn a_client_that_publishes_before_its_hello_is_reset() {
    let mut stage = begin();
    let (control, _) = stage.control();
    let outputs = stage.hear(control, publish(1, "web"));
    assert_eq!(outputs.closes(), [(control, CloseReason::ProtocolError, Manner::Reset)]);
}

#[test]
fn a_client_that_begins_with_anything_but_hello_is_reset() {
    for frame in [ControlFrame::Skipped, ControlFrame::Ping, ControlFrame::Drain] {
        let mut stage = begin();
        let (control, _) = stage.control();
        let outputs = stage.hear(control, frame);
        assert_eq!(outputs.closes(), [(control, CloseReason::ProtocolError, Manner::Reset)]);
    }
}

#[test]
fn skipped_control_frames_are_ignored() {
    let mut stage = begin();
    let (control, _) = stage.control();
    let outputs = stage.hear(control, ControlFrame::Hello(hello(1)));
    assert!(matches!(outputs.said(control)[0], ControlFrame::Welcome(_)));
    assert!(stage.hear(control, ControlFrame::Skipped).is_silent());
    assert!(stage.hear(control, ControlFrame::Void { first_ticket: 99, count: u32::MAX }).is_silent());
}

// Publications.

#[test]
fn publishing_a_known_service_is_granted_with_its_address() {
    let mut stage = begin();
    let (client, _) = stage.greet(hello(1));
    let outputs = stage.hear(client.control, publish(9, "ssh"));
    let addresses = vec![GrantedAddress { ip: at(SSH).ip(), ports: Ports { first: SSH, last: SSH } }];
    assert_eq!(outputs.said(client.control), [ControlFrame::Granted { number: 9, addresses }]);
    let published = Fact::Published { link: client.control, key: name("office"), service: name("ssh") };
    assert_eq!(outputs.facts(), [&published]);
}

#[test]
fn publishing_an_unknown_service_is_denied_and_the_link_stands() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, publish(2, "mail"));
    let reason = Denial::UnknownService;
    assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 2, reason }]);
    assert_eq!(outputs.closes(), []);
}

#[test]
fn publishing_a_service_or_a_number_twice_is_denied() {
    let mut stage = begin();
    let client = stage.client(1);
    for (number, service) in [(2, "web"), (1, "ssh")] {
        let outputs = stage.hear(client.control, publish(number, service));
        let reason = Denial::AlreadyPublished;
        assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number, reason }]);
    }
}

#[test]
fn a_publication_beyond_the_limit_is_denied() {
    let mut stage = begin_with(Limits { publications_per_client_max: 1, ..limits() });
    let client = stage.client(1);
    let outputs = stage.hear(client.control, publish(2, "ssh"));
    assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 2, reason: Denial::Limit }]);
}

#[test]
fn a_publication_that_asks_for_ports_or_datagrams_is_denied() {
    let mut stage = begin();
    let client = stage.client(1);
    for (want, transports) in [(Want::AnyPort, Transports::Tcp), (Want::Service, Transports::Udp)] {
        let asked = Publish { number: 2, name: name("ssh"), want, transports, dial_time: DIAL };
        let outputs = stage.hear(client.control, ControlFrame::Publish(asked));
        let reason = Denial::Policy;
        assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 2, reason }]);
    }
}

#[test]
fn unpublishing_ends_a_publication_and_users_go_elsewhere() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    let (_, (elsewhere, _)) = (stage.bring(&mut one), stage.bring(&mut two));
    assert!(stage.hear(one.control, ControlFrame::Unpublish(1)).said(one.control).is_empty());
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(elsewhere, user)]);
    let (_, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [], "the other client has no connection left");
}

#[test]
fn a_service_may_be_published_again_after_it_was_unpublished() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.hear(client.control, ControlFrame::Unpublish(1));
    let outputs = stage.hear(client.control, publish(2, "web"));
    assert!(matches!(outputs.said(client.control)[..], [ControlFrame::Granted { number: 2, .. }]));
}

#[test]
fn users_who_wait_are_served_by_a_full_pool_whose_link_publishes_late() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.pairs(), [], "nobody publishes it yet");
    let outputs = stage.hear(client.control, publish(2, "ssh"));
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_that_comes_after_a_late_publication_finds_the_idle_connections() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.hear(client.control, publish(2, "ssh"));
    let (user, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_refused_user_that_waits_for_a_client_moves_on_when_that_one_leaves() {
    let mut stage = begin();
    let (mut one, two, mut three) = (stage.client(1), stage.client(2), stage.client(3));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    // The second client has no connection: it waits there.
    assert_eq!(stage.tell(returned(user, true, true)).pairs(), []);
    assert_eq!(stage.hear(two.control, ControlFrame::Drain).pairs(), []);
    let (message, outputs) = stage.bring(&mut three);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn unpublishing_what_was_not_published_is_a_protocol_error() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, ControlFrame::Unpublish(7));
    assert_eq!(outputs.closes(), [(client.control, CloseReason::ProtocolError, Manner::Reset)]);
}

#[test]
fn a_user_of_a_service_that_nobody_publishes_is_not_served_by_another() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    let (_, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.pairs(), []);
}

// Users.

#[test]
fn a_user_is_started_at_once_with_its_number_its_address_and_the_one_it_asked_for() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user();
    let start = Start {
        sid: 1,
        first_sid: 0,
        publication: 1,
        port_offset: 0,
        user: user_address(user),
        asked: at(WEB),
        number: 1,
    };
    assert_eq!(outputs.starts(), [(message, user, start)]);
    assert_eq!(outputs.asked(client.control), [(3, 1)], "the pool is filled up");
}

#[test]
fn start_names_the_first_number_when_it_is_offered_again() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((one, _), (two, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(two, user)]);
    let outputs = stage.tell(returned(user, false, true));
    let [(message, again, start)] = outputs.starts()[..] else { panic!("{outputs:?}") };
    assert_eq!((message, again), (one, user));
    assert_eq!((start.sid, start.first_sid, start.number), (2, 1, 1));
}

#[test]
fn a_user_without_a_connection_waits_for_one_more_and_is_reset_in_the_end() {
    let mut stage = begin();
    let client = stage.client(1);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
    assert_eq!(stage.wait(limits().wait - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(user, CloseReason::NoClient, Manner::Reset)]);
}

#[test]
fn a_user_that_waits_is_given_the_next_connection_that_comes() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((first, _), (second, _)) = (stage.user(), stage.user());
    for user in [first, second] {
        let (message, outputs) = stage.bring(&mut client);
        assert_eq!(outputs.pairs(), [(message, user)]);
    }
}

#[test]
fn a_user_that_waits_for_a_client_is_served_by_one_that_comes_later() {
    let mut stage = begin();
    let (user, _) = stage.user();
    let mut client = stage.client(1);
    let (message, outputs) = stage.bring(&mut client);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_that_left_while_it_waited_is_not_served() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (user, _) = stage.user();
    stage.gone(user, CloseReason::PeerClosed);
    assert_eq!(stage.bring(&mut client).1.pairs(), []);
}

#[test]
fn more_than_may_wait_are_reset_but_one_who_can_be_served_is_served() {
    let mut stage = begin_with(Limits { waiting_max: 1, ..limits() });
    assert_eq!(stage.user_at(SSH).1.closes(), []);
    let (late, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.closes(), [(late, CloseReason::Full, Manner::Reset)]);
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn the_connection_used_last_is_used_first() {
    for order in [[0, 1], [1, 0]] {
        let mut stage = begin();
        let mut client = stage.client(1);
        let messages = [stage.bring(&mut client).0, stage.bring(&mut client).0];
        for _ in messages {
            stage.user();
        }
        messages.iter().for_each(|&id| stage.accepted_and_started(id));
        order.iter().for_each(|&place| drop(stage.idle(messages[place])));
        let (user, outputs) = stage.user();
        assert_eq!(outputs.pairs(), [(messages[order[1]], user)]);
    }
}

#[test]
fn clients_that_publish_the_same_service_take_turns() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    let of_one = [stage.bring(&mut one).0, stage.bring(&mut one).0];
    let _ = (stage.bring(&mut two), stage.bring(&mut two));
    let served: Vec<bool> = (0..4).map(|_| of_one.contains(&stage.user().1.pairs()[0].0)).collect();
    assert_eq!(served, [true, false, true, false]);
}

#[test]
fn a_refused_user_goes_once_to_each_other_client_and_is_then_reset() {
    let mut stage = begin();
    let mut clients = [stage.client(1), stage.client(2), stage.client(3)];
    let messages = clients.each_mut().map(|client| stage.bring(client).0);
    let (user, outputs) = stage.user();
    let mut served: Vec<ConnId> = outputs.pairs().iter().map(|pair| pair.0).collect();
    for _ in 0..2 {
        let outputs = stage.tell(returned(user, true, false));
        let [(message, _, Start { first_sid: 0, .. })] = outputs.starts()[..] else { panic!("{outputs:?}") };
        served.push(message);
    }
    served.sort();
    assert_eq!(served, messages);
    let outputs = stage.tell(returned(user, true, false));
    assert_eq!(outputs.closes(), [(user, CloseReason::Aborted(AbortReason::Refused), Manner::Reset)]);
}

#[test]
fn a_refused_user_goes_on_when_the_client_that_refused_it_has_withdrawn_its_publication() {
    let mut stage = begin();
    let (mut bad, mut good) = (stage.client(1), stage.client(2));
    stage.bring(&mut bad);
    let (user, _) = stage.user();
    let (message, _) = stage.bring(&mut good);
    stage.hear(bad.control, ControlFrame::Unpublish(1));
    assert_eq!(stage.tell(returned(user, true, true)).pairs(), [(message, user)]);
}

#[test]
fn a_refused_user_comes_to_a_client_that_had_no_connection_when_it_was_passed_over() {
    let mut stage = begin();
    let (mut good, mut one, mut two) = (stage.client(1), stage.client(2), stage.client(3));
    let bad = [stage.bring(&mut one).0, stage.bring(&mut two).0];
    let (user, outputs) = stage.user();
    assert!(bad.contains(&outputs.pairs()[0].0));
    let outputs = stage.tell(returned(user, true, false));
    assert!(bad.contains(&outputs.pairs()[0].0), "one that is ready comes first");
    stage.tell(returned(user, true, false));
    let (message, outputs) = stage.bring(&mut good);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_client_that_refuses_is_asked_for_no_more_than_its_pool_until_it_serves() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let messages = [stage.bring(&mut client).0, stage.bring(&mut client).0];
    let users = [stage.user().0, stage.user().0];
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control).len(), 1, "a user waits");
    stage.tell(returned(users[1], true, false));
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control), [], "it would refuse on another, too");
    stage.accepted_and_started(messages[1]);
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control).len(), 1);
}

#[test]
fn a_user_whose_bytes_were_sent_goes_to_no_other_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    stage.bring(&mut two);
    let outputs = stage.tell(returned(user, false, true));
    assert_eq!(outputs.pairs(), []);
    assert_eq!(outputs.asked(one.control).len(), 1, "its own client is asked for one more");
    let (message, outputs) = stage.bring(&mut one);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_whose_bytes_were_sent_is_reset_with_its_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    stage.bring(&mut two);
    stage.tell(returned(user, false, true));
    let outputs = stage.gone(one.control, CloseReason::PeerClosed);
    assert!(outputs.closes().contains(&(user, CloseReason::LinkLost, Manner::Reset)), "{outputs:?}");
    assert_eq!(outputs.pairs(), []);
}

#[test]
fn a_user_that_said_nothing_yet_goes_to_another_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    let (message, _) = stage.bring(&mut two);
    let outputs = stage.tell(returned(user, false, false));
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_that_left_is_told_of() {
    let mut stage = begin();
    let (id, _) = stage.user();
    stage.wait(secs(1));
    let outputs = stage.gone(id, CloseReason::PeerClosed);
    let [Fact::UserLeft { number: 1, user, lasted, served: false, reason: CloseReason::PeerClosed, .. }] =
        outputs.facts()[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((*user, *lasted), (user_address(id), secs(1)));
}

// Sessions that are not started in time. Those that are not accepted: see `offers`.

#[test]
fn a_client_that_does_not_start_what_it_accepts_goes_behind_the_others() {
    let mut stage = begin();
    let (mut bad, mut good) = (stage.client(1), stage.client(2));
    let (message, _) = stage.bring(&mut bad);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
    stage.session(message, SessionEvent::Accepted);
    assert!(!stage.wait(DIAL + secs(1)).closes().is_empty());
    bad.note(&stage.gone(message, CloseReason::NotStarted));
    let ((of_bad, _), (first, _), (second, _)) =
        (stage.bring(&mut bad), stage.bring(&mut good), stage.bring(&mut good));
    let mut served: Vec<ConnId> = (0..3).map(|_| stage.user().1.pairs()[0].0).collect();
    assert_eq!(served.pop(), Some(of_bad), "better than none");
    served.sort();
    let mut all = [first, second];
    all.sort();
    assert_eq!(served, all);
}

#[test]
fn a_session_that_is_accepted_and_never_started_is_reset_after_the_dial_time_and_a_margin() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.user();
    stage.session(message, SessionEvent::Accepted);
    assert_eq!(stage.wait(DIAL + millis(999)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(message, CloseReason::NotStarted, Manner::Reset)]);
}

#[test]
fn a_session_that_has_started_lasts() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.user();
    stage.accepted_and_started(message);
    assert_eq!(stage.live(300), []);
}

// The pool.

#[test]
fn an_idle_connection_is_pinged_and_a_missing_pong_closes_it() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    assert_eq!(stage.wait(limits().idle_ping.mul_f64(0.75) - millis(1)).pings(), []);
    let mut pinged = false;
    for _ in 0..=limits().idle_ping.as_millis() / 2 {
        let outputs = stage.wait(millis(1));
        if outputs.pings() == [message] {
            pinged = true;
            break;
        }
    }
    assert!(pinged);
    assert_eq!(stage.wait(limits().pong - millis(2)).closes(), []);
    assert_eq!(stage.wait(millis(2)).closes(), [(message, CloseReason::NoPong, Manner::Reset)]);
}

#[test]
fn an_idle_connection_that_answers_stays() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    assert_eq!(stage.live(300), []);
}

#[test]
fn a_connection_that_broke_is_asked_for_anew() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((message, _), _) = (stage.bring(&mut client), stage.bring(&mut client));
    let outputs = stage.gone(message, CloseReason::PeerClosed);
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
}

#[test]
fn a_connection_behind_which_much_may_be_unread_serves_nobody_until_it_answers() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.gone(user, CloseReason::Finished);
    let outputs = stage.session(message, SessionEvent::Idle { settled: false });
    assert_eq!(outputs.pings(), [message]);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), []);
    assert_eq!(stage.session(message, SessionEvent::Pong).pairs(), [(message, user)]);
}

#[test]
fn surplus_connections_are_retired_after_the_retire_time() {
    let mut stage = begin_with(Limits { pool: 1, ..limits() });
    let mut client = stage.client(1);
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (message, _) = stage.bring(&mut client);
        let (user, outputs) = stage.user();
        client.note(&outputs);
        stage.accepted_and_started(message);
        busy.push((message, user));
    }
    stage.bring(&mut client);
    for (message, user) in busy {
        stage.gone(user, CloseReason::Finished);
        stage.idle(message);
    }
    let retire = limits().retire.as_secs();
    assert_eq!(stage.live(retire - 1), []);
    let closed = stage.live(2 * retire);
    assert_eq!(closed.len(), 3);
    assert!(closed.iter().all(|it| it.1 == CloseReason::Retired && it.2 == Manner::Whole), "{closed:?}");
    assert_eq!(stage.live(retire), [], "the pool stays");
}

#[test]
fn a_connection_that_the_client_wants_closed_is_closed() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let outputs = stage.session(message, SessionEvent::Drain);
    assert_eq!(outputs.closes(), [(message, CloseReason::Drained, Manner::Whole)]);
    assert_eq!(stage.user().1.pairs(), []);
}

// The end.

#[test]
fn a_client_that_leaves_keeps_its_running_sessions_and_then_its_control_connection_closes() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, _) = stage.user();
    stage.accepted_and_started(busy);
    let outputs = stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(idle, CloseReason::Drained, Manner::Whole)]);
    assert_eq!(stage.user().1.pairs(), [], "it is given no user");
    stage.gone(user, CloseReason::Finished);
    let closes = stage.idle(busy).closes();
    assert!(closes.contains(&(busy, CloseReason::Drained, Manner::Whole)), "{closes:?}");
    assert!(closes.contains(&(client.control, CloseReason::Drained, Manner::Whole)), "{closes:?}");
}

#[test]
fn a_client_that_leaves_without_sessions_is_closed_at_once() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::Drained, Manner::Whole)]);
}

#[test]
fn a_draining_server_stops_its_listeners_and_then_tells_its_clients() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    let outputs = stage.tell(Input::Drain);
    let stopped = outputs.stopped();
    assert_eq!(stopped.len(), stage.listeners.len());
    let (last, others) = stopped.split_last().expect("there are some");
    for &id in others {
        assert!(stage.tell(Input::Stopped { id }).is_silent());
    }
    let outputs = stage.tell(Input::Stopped { id: *last });
    assert_eq!(outputs.said(client.control), [ControlFrame::Drain]);
    assert_eq!(outputs.facts(), [&Fact::Draining { sessions: 1, time: limits().drain }]);
}

#[test]
fn users_who_stood_in_the_queue_of_a_draining_server_are_served() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let stopped = stage.tell(Input::Drain).stopped();
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
    for id in stopped {
        assert!(!stage.tell(Input::Stopped { id }).exits(), "it serves that user");
    }
}

#[test]
fn a_user_that_waits_at_a_draining_server_is_served_by_the_next_connection_within_its_time() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    let ((served, _), (late, _)) = (stage.user(), stage.user());
    let outputs = stage.drain();
    assert_eq!((outputs.closes(), outputs.asked(client.control)), (vec![], vec![]));
    assert_eq!(stage.idle(message).pairs(), [(message, served)]);
    let closes = stage.wait(limits().wait - millis(1)).closes();
    assert!(!closes.contains(&(late, CloseReason::NoClient, Manner::Reset)), "{closes:?}");
    let closes = stage.wait(millis(1)).closes();
    assert!(closes.contains(&(late, CloseReason::NoClient, Manner::Reset)), "{closes:?}");
}

#[test]
fn idle_connections_of_a_draining_server_close_once_every_session_is_accepted() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(busy, user)]);
    assert_eq!(stage.drain().closes(), [], "the session may have to be offered again");
    let outputs = stage.session(busy, SessionEvent::Accepted);
    assert_eq!(outputs.closes(), [(idle, CloseReason::Drained, Manner::Whole)]);
    stage.session(busy, SessionEvent::Started);
    assert_eq!(stage.idle(busy).closes(), [(busy, CloseReason::Drained, Manner::Whole)]);
}

#[test]
fn a_session_that_is_lost_before_it_is_accepted_is_offered_again_by_a_draining_server() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, _) = stage.user();
    stage.drain();
    assert_eq!(stage.tell(returned(user, false, true)).pairs(), [(idle, user)]);
    assert_eq!(stage.gone(busy, CloseReason::PeerClosed).closes(), []);
}

#[test]
fn a_draining_server_admits_no_client_and_ends_no_link_for_it() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    stage.drain();
    let (control, _) = stage.control();
    let outputs = stage.hear(control, ControlFrame::Hello(hello(1)));
    assert_eq!(outputs.closes(), [(control, CloseReason::Shutdown, Manner::Reset)]);
    assert_eq!(outputs.said(control), []);
}

#[test]
fn a_hello_replaces_no_link_on_which_the_client_said_drain() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    stage.hear(client.control, ControlFrame::Drain);
    let (_, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.closes(), []);
}

#[test]
fn a_draining_server_exits_when_the_last_user_has_left() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    let outputs = stage.drain();
    assert_eq!(outputs.closes(), []);
    assert!(!outputs.exits());
    assert_eq!(stage.idle(message).closes(), [(message, CloseReason::Drained, Manner::Whole)]);
    assert!(!stage.gone(user, CloseReason::Finished).exits(), "what was sent may not be read yet");
    assert!(stage.gone(message, CloseReason::Drained).exits());
}

#[test]
fn a_draining_server_without_users_exits_at_once() {
    assert!(begin().drain().exits());
}

#[test]
fn a_draining_server_resets_the_rest_at_the_limit() {
    let mut stage = begin_with(Limits { drain: secs(5), ..limits() });
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.drain();
    let outputs = stage.wait(millis(4_999));
    assert!(outputs.closes().is_empty() && !outputs.exits());
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(user, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
}

#[test]
fn a_server_that_is_asked_again_to_end_resets_the_rest_at_once_and_tells_of_each() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.tell(Input::Drain);
    let outputs = stage.tell(Input::GiveUp);
    assert_eq!(outputs.closes(), [(user, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
    let outputs = stage.gone(user, CloseReason::Shutdown);
    let left =
        |fact: &&Fact| matches!(fact, Fact::UserLeft { served: true, reason: CloseReason::Shutdown, .. });
    assert!(outputs.facts().iter().any(left));
}
