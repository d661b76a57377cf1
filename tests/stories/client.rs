//! The client's rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skyorg::base::address::HostPort;
use skyorg::base::id::{ConnId, NameId};
use skyorg::client::Client;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Key};
use skyorg::machine::{CloseReason, Dial, Dialled, Fact, Input, Output, SessionEvent, Traffic};
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, Publish, Refusal, Transports, VERSIONS, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Start};
use skyorg::wire::handshake::Secret;

use super::{Story, closes, frames};

const SERVER: &str = "192.0.2.2:33335";

fn host(text: &str) -> HostPort {
    HostPort::parse(text, None, None).expect("a host and a port")
}

/// A client of `server` that publishes `web` at `local`.
fn client_of(server: &str, local: &str) -> Story<Client> {
    let config = ClientConfig {
        server: host(server),
        message: None,
        services: vec![("web".parse().expect("a name"), host(local))],
        key: Key { name: "office".parse().expect("a name"), secret: Secret::new([7; 32]) },
        plain: false,
        limits: Limits::default(),
    };
    let now = Instant::now();
    let limits = Arc::new(Limits::default());
    Story::of(Client::new(config, limits, [1; 16], fastrand::Rng::with_seed(1), now), now)
}

fn client() -> Story<Client> {
    client_of(SERVER, "127.0.0.1:8080")
}

fn welcome() -> ControlFrame {
    ControlFrame::Welcome(Welcome {
        version: VERSIONS.most,
        capabilities: Capabilities::default(),
        heartbeat: Duration::from_secs(10),
        instance: [2; 16],
        link: [3; 16],
        pool_key: Secret::new([4; 32]),
        message_port: 33334,
    })
}

/// The addresses that are dialled.
fn dials(outputs: &[Output]) -> Vec<SocketAddr> {
    let dial = |output: &Output| match output {
        Output::Dial { address, .. } => Some(*address),
        _ => None,
    };
    outputs.iter().filter_map(dial).collect()
}

/// The names that are asked for.
fn questions(outputs: &[Output]) -> Vec<(NameId, String)> {
    let question = |output: &Output| match output {
        Output::Resolve { name, host } => Some((*name, host.to_string())),
        _ => None,
    };
    outputs.iter().filter_map(question).collect()
}

fn aborts(outputs: &[Output]) -> Vec<(ConnId, AbortReason)> {
    let abort = |output: &Output| match output {
        Output::Abort { message, reason } => Some((*message, *reason)),
        _ => None,
    };
    outputs.iter().filter_map(abort).collect()
}

fn start(sid: u64) -> Start {
    let user = ([198, 51, 100, 1], 1024).into();
    let asked = ([192, 0, 2, 2], 80).into();
    Start { sid, first_sid: 0, publication: 1, port_offset: 0, user, asked, number: 70 + sid }
}

impl Story<Client> {
    fn dialled(&mut self, purpose: Dialled) -> ConnId {
        let id = self.id();
        self.tell(Input::Dialling { id, purpose });
        id
    }

    /// A control connection that has been answered; what is said on it.
    fn greeted(&mut self) -> (ConnId, Vec<ControlFrame>) {
        let id = self.dialled(Dialled::Control);
        let outputs = self.tell(Input::Connected { id });
        (id, frames(&outputs))
    }

    fn says(&mut self, id: ConnId, frame: ControlFrame) -> Vec<Output> {
        self.tell(Input::Control { id, frame })
    }

    /// A link that stands.
    fn linked(&mut self) -> ConnId {
        self.wait(Duration::ZERO);
        let (id, _) = self.greeted();
        self.says(id, welcome());
        id
    }

    /// A message connection that stands.
    fn message(&mut self) -> ConnId {
        let id = self.dialled(Dialled::Message);
        self.tell(Input::Connected { id });
        id
    }

    fn begins(&mut self, message: ConnId, start: Start) -> Vec<Output> {
        self.tell(Input::Session { id: message, event: SessionEvent::Start(start) })
    }

    fn is_gone(&mut self, id: ConnId, reason: CloseReason) -> Vec<Output> {
        self.tell(Input::Closed { id, reason, traffic: Traffic::default() })
    }
}

const REFUSED: CloseReason = CloseReason::DialFailed(std::io::ErrorKind::ConnectionRefused);

#[test]
fn a_numeric_server_is_dialled_at_once_and_a_name_is_asked_for_with_each_attempt() {
    assert_eq!(dials(&client().wait(Duration::ZERO)), [SERVER.parse().expect("an address")]);
    let mut story = client_of("gw.example:33335", "127.0.0.1:8080");
    for _ in 0..2 {
        let outputs = story.wait(Duration::from_secs(1));
        let [(name, host)] = &questions(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!((host.as_str(), dials(&outputs).len()), ("gw.example:33335", 0));
        let addresses = vec![SERVER.parse().expect("an address")];
        assert_eq!(dials(&story.tell(Input::Resolved { name: *name, addresses })).len(), 1);
        let id = story.dialled(Dialled::Control);
        story.is_gone(id, REFUSED);
    }
}

#[test]
fn pauses_grow_with_each_failure() {
    let mut story = client();
    story.wait(Duration::ZERO);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let id = story.dialled(Dialled::Control);
        story.is_gone(id, REFUSED);
        let pause = story.facts().into_iter().find_map(|fact| match fact {
            Fact::NextAttempt { pause } => Some(pause),
            _ => None,
        });
        pauses.push(pause.expect("it pauses"));
        assert_eq!(dials(&story.wait(Limits::default().reconnect.1)).len(), 1, "it tries again");
    }
    assert!(pauses.iter().all(|&pause| pause >= Limits::default().reconnect.0));
    assert!(pauses[..3].iter().max() < pauses[9..].iter().max(), "{pauses:?}");
}

#[test]
fn hello_is_followed_by_what_is_published_with_its_dial_time() {
    let mut story = client();
    story.wait(Duration::ZERO);
    let (_, said) = story.greeted();
    assert!(matches!(&said[0], ControlFrame::Hello(hello) if hello.versions == VERSIONS));
    let publish = Publish {
        number: 1,
        name: "web".parse().expect("a name"),
        want: Want::Service,
        transports: Transports::Tcp,
        dial_time: Limits::default().local_dial,
    };
    assert_eq!(said[1..], [ControlFrame::Publish(publish)]);
}

#[test]
fn a_refusal_is_told_and_followed_by_a_long_pause() {
    let mut story = client();
    story.wait(Duration::ZERO);
    let (id, _) = story.greeted();
    let refusal = Refusal::Plain(true);
    let outputs = story.says(id, ControlFrame::Refused(refusal));
    assert_eq!(closes(&outputs), [(id, "Whole: drained".into())]);
    assert!(story.facts().contains(&Fact::Refused { refusal }));
    story.is_gone(id, CloseReason::Drained);
    assert!(story.facts().iter().any(|fact| matches!(fact, Fact::NextAttempt { .. })));
}

#[test]
fn a_server_that_does_not_welcome_in_time_is_given_up() {
    let mut story = client();
    story.wait(Duration::ZERO);
    let (id, _) = story.greeted();
    assert!(story.says(id, ControlFrame::Skipped).is_empty(), "a later version may say something first");
    assert_eq!(
        closes(&story.wait(Limits::default().handshake)),
        [(id, "Reset: no handshake in time".into())]
    );
}

#[test]
fn as_many_message_connections_are_dialled_as_tickets_were_given() {
    let mut story = client();
    let control = story.linked();
    let outputs = story.says(control, ControlFrame::Open { first_ticket: 5, count: 3 });
    let tickets: Vec<u64> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Dial { dial: Dial::Message(greeting), .. } => Some(greeting.ticket),
            _ => None,
        })
        .collect();
    assert_eq!(tickets, [5, 6, 7]);
    assert!(dials(&outputs).iter().all(|address| address.port() == 33334));
}

#[test]
fn a_denied_service_is_told_of_and_the_link_stands() {
    let mut story = client();
    let control = story.linked();
    let reason = Denial::UnknownService;
    assert!(story.says(control, ControlFrame::Denied { number: 1, reason }).is_empty());
    let service = "web".parse().expect("a name");
    assert!(story.facts().contains(&Fact::Denied { service, reason }));
    assert_eq!(frames(&story.says(control, ControlFrame::Ping)), [ControlFrame::Pong]);
    assert!(story.says(control, ControlFrame::Skipped).is_empty(), "a later version may say more");
}

#[test]
fn a_silent_server_is_asked_and_then_given_up() {
    let mut story = client();
    let control = story.linked();
    assert_eq!(frames(&story.wait(Duration::from_secs(5))), [ControlFrame::Ping]);
    let outputs = story.wait(Duration::from_secs(5));
    assert_eq!(closes(&outputs), [(control, "Reset: heartbeat lost".into())], "the smaller heartbeat holds");
}

#[test]
fn a_session_is_accepted_and_its_local_server_dialled() {
    let mut story = client();
    story.linked();
    let message = story.message();
    let outputs = story.begins(message, start(1));
    assert!(matches!(outputs[0], Output::Accept(id) if id == message));
    assert_eq!(dials(&outputs), [SocketAddr::from(([127, 0, 0, 1], 8080))]);
}

#[test]
fn a_session_that_comes_again_is_aborted_on_both_connections_and_not_dialled() {
    let mut story = client();
    story.linked();
    let (first, second) = (story.message(), story.message());
    story.begins(first, start(1));
    let again = Start { first_sid: 1, ..start(2) };
    let outputs = story.begins(second, again);
    assert_eq!(aborts(&outputs), [(first, AbortReason::Duplicate), (second, AbortReason::Duplicate)]);
    assert!(dials(&outputs).is_empty());
}

#[test]
fn a_session_of_an_unknown_publication_is_refused_without_a_dial() {
    let mut story = client();
    story.linked();
    let message = story.message();
    let outputs = story.begins(message, Start { publication: 9, ..start(1) });
    assert_eq!(aborts(&outputs), [(message, AbortReason::Refused)]);
    assert!(dials(&outputs).is_empty());
}

#[test]
fn a_local_server_that_does_not_take_the_connection_refuses_the_session() {
    let mut story = client();
    story.linked();
    let message = story.message();
    story.begins(message, start(1));
    let proxy = story.dialled(Dialled::Proxy(message));
    let outputs = story.is_gone(proxy, REFUSED);
    assert_eq!(aborts(&outputs), [(message, AbortReason::Refused)]);
    let told = story.facts();
    assert!(told.iter().any(|fact| matches!(fact, Fact::LocalFailed { number: 71, .. })), "{told:?}");
}

#[test]
fn a_name_is_asked_for_once_and_all_sessions_that_wait_for_it_go_on() {
    let mut story = client_of(SERVER, "db.lan:5432");
    story.linked();
    let messages = [(); 3].map(|()| story.message());
    let outputs: Vec<Output> =
        (1..).zip(messages).flat_map(|(sid, message)| story.begins(message, start(sid))).collect();
    let [(name, _)] = questions(&outputs)[..] else { panic!("asked once: {outputs:?}") };
    let addresses: Vec<SocketAddr> = [1, 2].map(|last| ([10, 0, 0, last], 5432).into()).into();
    let outputs = story.tell(Input::Resolved { name, addresses: addresses.clone() });
    assert_eq!(dials(&outputs), [addresses[0]; 3]);
    let proxy = story.dialled(Dialled::Proxy(messages[0]));
    assert_eq!(dials(&story.is_gone(proxy, REFUSED)), [addresses[1]], "then the next address");
}

#[test]
fn a_name_that_leads_nowhere_refuses_the_sessions_that_wait_for_it() {
    let mut story = client_of(SERVER, "db.lan:5432");
    story.linked();
    let message = story.message();
    let outputs = story.begins(message, start(1));
    let name = questions(&outputs)[0].0;
    let outputs = story.tell(Input::Resolved { name, addresses: Vec::new() });
    assert_eq!(aborts(&outputs), [(message, AbortReason::Refused)]);
}

#[test]
fn a_session_waits_for_a_name_no_longer_than_for_a_local_server() {
    let mut story = client_of(SERVER, "db.lan:5432");
    let control = story.linked();
    let message = story.message();
    story.begins(message, start(1));
    let mut aborted = Vec::new();
    for _ in 0..5 {
        story.says(control, ControlFrame::Ping);
        aborted.extend(aborts(&story.wait(Duration::from_secs(1))));
    }
    assert_eq!(aborted, [(message, AbortReason::Refused)]);
}

#[test]
fn message_connections_end_with_their_link_and_a_new_attempt_follows() {
    let mut story = client();
    let control = story.linked();
    let message = story.message();
    let outputs = story.is_gone(control, CloseReason::PeerClosed);
    assert_eq!(closes(&outputs), [(message, "Reset: link lost".into())]);
    assert_eq!(dials(&story.wait(Duration::from_secs(1))).len(), 1);
}

#[test]
fn a_message_connection_that_fails_is_told_of() {
    let mut story = client();
    let control = story.linked();
    story.says(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let id = story.dialled(Dialled::Message);
    story.is_gone(id, REFUSED);
    assert!(story.facts().iter().any(|fact| matches!(fact, Fact::MessageFailed { .. })));
}

#[test]
fn a_client_that_is_asked_to_end_says_so_and_ends_with_its_link() {
    let mut story = client();
    let control = story.linked();
    assert_eq!(frames(&story.tell(Input::Drain)), [ControlFrame::Drain]);
    let outputs = story.is_gone(control, CloseReason::PeerClosed);
    assert!(outputs.iter().any(|output| matches!(output, Output::Exit)));
    assert!(dials(&story.wait(Duration::from_secs(60))).is_empty());
}

#[test]
fn a_client_without_a_link_ends_at_once() {
    let mut story = client();
    let outputs = story.tell(Input::Drain);
    assert!(outputs.iter().any(|output| matches!(output, Output::Exit)));
}
