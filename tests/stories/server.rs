//! The server's rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skyorg::base::address::Listen;
use skyorg::base::id::{ConnId, ServiceId};
use skyorg::config::limits::Limits;
use skyorg::config::{Key, ServerConfig};
use skyorg::machine::{CloseReason, Door, Input, LINK_RANDOM_BYTES, Output, Proof, SessionEvent, Traffic};
use skyorg::server::Server;
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, Hello, Publish, Refusal, Transports, VERSIONS, Versions, Want,
};
use skyorg::wire::frame::Start;
use skyorg::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};

use super::{Story, closes, frames};

const POOL: usize = 2;
const DIAL: Duration = Duration::from_secs(5);

fn secret() -> Secret {
    Secret::new([7; 32])
}

fn limits() -> Limits {
    Limits { pool: POOL, waiting_max: 2, ..Limits::default() }
}

/// A server with the services `web` and `db` that listens.
fn server() -> Story<Server> {
    let config = ServerConfig {
        services: vec![
            ("web".parse().expect("a name"), Listen::Any(80)),
            ("db".parse().expect("a name"), Listen::Any(5432)),
        ],
        message: Listen::Any(33334),
        control: Listen::Any(33335),
        keys: vec![Key { name: "office".parse().expect("a name"), secret: secret() }],
        plain: false,
        limits: limits(),
    };
    let (now, limits) = (Instant::now(), Arc::new(limits()));
    let machine = Server::new(config, limits, [2; 16], fastrand::Rng::with_seed(1), now);
    let mut story = Story::of(machine, now);
    for output in story.wait(Duration::ZERO) {
        if let Output::Listen { id, at: Listen::Any(port), .. } = output {
            story.tell(Input::Listening { id, address: ([192, 0, 2, 2], port).into() });
        }
    }
    story
}

/// A client that is connected.
struct Client {
    control: ConnId,
    link: KeyId,
    /// Tickets of message connections that it was asked for.
    tickets: Vec<u64>,
}

fn hello(instance: u8) -> Hello {
    Hello {
        versions: VERSIONS,
        capabilities: Capabilities::default(),
        heartbeat: Duration::from_secs(30),
        instance: [instance; 16],
    }
}

fn publish(number: u32, name: &str) -> ControlFrame {
    let name = name.parse().expect("a name");
    let (want, transports) = (Want::Service, Transports::Tcp);
    ControlFrame::Publish(Publish { number, name, want, transports, dial_time: DIAL })
}

/// A service's id: the server numbers its services in their order.
fn service(place: u32) -> ServiceId {
    ServiceId::new(place, u64::from(place) + 1).expect("it can be named")
}

fn peer() -> SocketAddr {
    ([198, 51, 100, 1], 1024).into()
}

fn asked() -> SocketAddr {
    ([192, 0, 2, 2], 80).into()
}

impl Story<Server> {
    fn comes(&mut self, door: Door) -> (ConnId, Vec<Output>) {
        let id = self.id();
        let outputs = self.tell(Input::Accepted { id, door, peer: peer(), asked: asked() });
        (id, outputs)
    }

    fn greets(&mut self, purpose: Purpose, key_id: KeyId) -> (ConnId, Vec<Output>) {
        let (id, _) = self.comes(Door::Clients);
        let hello = ClearHello { suite: Suite::AesGcm, purpose, key_id };
        (id, self.tell(Input::Greeted { id, hello }))
    }

    /// A control connection that has proved its key.
    fn control(&mut self) -> ConnId {
        let (id, _) = self.greets(Purpose::Control, key_id(&secret()));
        self.tell(Input::Proved {
            id,
            proof: Proof::Control { random: [id.slot() as u8; LINK_RANDOM_BYTES] },
        });
        id
    }

    fn says(&mut self, id: ConnId, frame: ControlFrame) -> Vec<Output> {
        self.tell(Input::Control { id, frame })
    }

    /// A client that publishes `web`.
    fn client(&mut self, instance: u8) -> Client {
        let control = self.control();
        let mut outputs = self.says(control, ControlFrame::Hello(hello(instance)));
        outputs.extend(self.says(control, publish(1, "web")));
        let (mut link, mut tickets) = ([0; 16], Vec::new());
        for frame in frames(&outputs) {
            match frame {
                ControlFrame::Welcome(welcome) => link = welcome.link,
                ControlFrame::Open { first_ticket, count } => {
                    tickets.extend(first_ticket..first_ticket + u64::from(count));
                }
                _ => {}
            }
        }
        Client { control, link, tickets }
    }

    fn brings(&mut self, client: &Client, ticket: u64) -> (ConnId, Vec<Output>) {
        let (id, _) = self.greets(Purpose::Message, client.link);
        (id, self.tell(Input::Proved { id, proof: Proof::Message { ticket } }))
    }

    /// A client with a whole pool.
    fn client_with_pool(&mut self, instance: u8) -> (Client, Vec<ConnId>) {
        let client = self.client(instance);
        let messages =
            client.tickets.clone().into_iter().map(|ticket| self.brings(&client, ticket).0).collect();
        (client, messages)
    }

    fn session(&mut self, id: ConnId, event: SessionEvent) -> Vec<Output> {
        self.tell(Input::Session { id, event })
    }

    fn is_gone(&mut self, id: ConnId, reason: CloseReason) -> Vec<Output> {
        self.tell(Input::Closed { id, reason, traffic: Traffic::default() })
    }
}

/// The sessions that begin: message connection, user, and what the client is told.
fn starts(outputs: &[Output]) -> Vec<(ConnId, ConnId, Start)> {
    let start = |output: &Output| match output {
        Output::Start { message, user, start } => Some((*message, *user, *start)),
        _ => None,
    };
    outputs.iter().filter_map(start).collect()
}

fn opened(outputs: &[Output]) -> u32 {
    let count = |frame: &ControlFrame| match frame {
        ControlFrame::Open { count, .. } => *count,
        _ => 0,
    };
    frames(outputs).iter().map(count).sum()
}

#[test]
fn an_unknown_key_is_told_nothing() {
    let mut story = server();
    let (id, outputs) = story.greets(Purpose::Control, [9; 16]);
    assert_eq!(closes(&outputs), [(id, "Discard: stranger: unknown key, link or ticket".into())]);
    assert!(frames(&outputs).is_empty());
}

#[test]
fn a_ticket_admits_one_message_connection_once() {
    let mut story = server();
    let client = story.client(1);
    assert_eq!(client.tickets.len(), POOL);
    let (first, outputs) = story.brings(&client, client.tickets[0]);
    assert!(matches!(outputs[0], Output::Admit { id, plain: false } if id == first));
    for ticket in [client.tickets[0], 0, 999] {
        let (id, outputs) = story.brings(&client, ticket);
        assert_eq!(closes(&outputs)[0].0, id, "ticket {ticket}");
    }
}

#[test]
fn a_known_service_is_granted_with_its_address_once() {
    let mut story = server();
    let client = story.client(1);
    let answer = |story: &mut Story<Server>, frame| frames(&story.says(client.control, frame)).remove(0);
    let granted = answer(&mut story, publish(2, "db"));
    assert!(
        matches!(granted, ControlFrame::Granted { number: 2, addresses } if addresses[0].ports.first == 5432)
    );
    let denied = |number, reason| ControlFrame::Denied { number, reason };
    assert_eq!(answer(&mut story, publish(3, "mail")), denied(3, Denial::UnknownService));
    assert_eq!(answer(&mut story, publish(4, "db")), denied(4, Denial::AlreadyPublished));
}

#[test]
fn a_client_without_a_common_version_is_told_the_servers_and_closed() {
    let mut story = server();
    let control = story.control();
    let versions = Versions { least: 90, most: 91 };
    let outputs = story.says(control, ControlFrame::Hello(Hello { versions, ..hello(1) }));
    assert_eq!(frames(&outputs), [ControlFrame::Refused(Refusal::Versions(VERSIONS))]);
    assert_eq!(closes(&outputs), [(control, "Whole: drained".into())]);
    assert!(story.says(control, ControlFrame::Hello(hello(1))).is_empty(), "it is not heard any more");
}

#[test]
fn a_user_is_started_at_once_on_the_connection_used_last() {
    let mut story = server();
    let (_, messages) = story.client_with_pool(1);
    let (user, outputs) = story.comes(Door::Users(service(0)));
    let [(message, started, start)] = starts(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!((message, started), (messages[1], user));
    assert_eq!((start.publication, start.user, start.asked, start.number), (1, peer(), asked(), 1));
    assert_eq!(opened(&outputs), 1, "the pool is filled again");
}

#[test]
fn a_user_without_a_connection_waits_and_one_more_is_asked_for() {
    let mut story = server();
    let client = story.client(1);
    let (user, outputs) = story.comes(Door::Users(service(0)));
    assert_eq!((starts(&outputs).len(), opened(&outputs)), (0, 1));
    let (message, outputs) = story.brings(&client, client.tickets[0]);
    assert_eq!(starts(&outputs)[0].0, message);
    assert_eq!(starts(&outputs)[0].1, user);
}

#[test]
fn a_user_whom_nobody_serves_in_time_is_reset() {
    let mut story = server();
    let (user, _) = story.comes(Door::Users(service(1)));
    assert_eq!(closes(&story.wait(limits().wait - Duration::from_millis(1))), []);
    let closed = closes(&story.wait(Duration::from_millis(1)));
    assert_eq!(closed, [(user, "Reset: no client took the user in time".into())]);
}

#[test]
fn only_a_user_who_must_wait_is_turned_away_when_too_many_wait() {
    let mut story = server();
    story.client_with_pool(1);
    (0..2).for_each(|_| assert!(closes(&story.comes(Door::Users(service(1))).1).is_empty()));
    let (user, outputs) = story.comes(Door::Users(service(1)));
    assert_eq!(closes(&outputs), [(user, "Reset: the limit is reached".into())]);
    assert_eq!(starts(&story.comes(Door::Users(service(0))).1).len(), 1, "it need not wait");
}

#[test]
fn a_refused_user_goes_once_to_each_other_client() {
    let mut story = server();
    let clients = [1, 2, 3].map(|instance| story.client_with_pool(instance));
    let (user, outputs) = story.comes(Door::Users(service(0)));
    let mut message = starts(&outputs)[0].0;
    let mut served_by = Vec::new();
    loop {
        served_by.push(clients.iter().position(|client| client.1.contains(&message)).expect("a pool's"));
        let outputs = story.tell(Input::Returned { id: user, refused: true, spoken: true });
        match starts(&outputs)[..] {
            [(next, _, start)] => {
                assert_eq!(start.first_sid, 0, "no byte of it was delivered");
                message = next;
            }
            _ => {
                let refused = "Reset: aborted: the local server did not take the connection";
                assert_eq!(closes(&outputs), [(user, refused.into())]);
                break;
            }
        }
    }
    served_by.sort();
    assert_eq!(served_by, [0, 1, 2]);
}

#[test]
fn a_user_whose_bytes_were_sent_goes_to_no_other_client() {
    let mut story = server();
    let (first, messages) = story.client_with_pool(1);
    let (user, outputs) = story.comes(Door::Users(service(0)));
    let sid = starts(&outputs)[0].2.sid;
    story.client_with_pool(2);
    let outputs = story.tell(Input::Returned { id: user, refused: false, spoken: true });
    let (message, _, start) = starts(&outputs)[0];
    assert!(messages.contains(&message), "the same client");
    assert_eq!(start.first_sid, sid, "it may have been seen");
    story.is_gone(first.control, CloseReason::PeerClosed);
    let outputs = story.tell(Input::Returned { id: user, refused: false, spoken: true });
    assert_eq!(closes(&outputs), [(user, "Reset: link lost".into())]);
}

#[test]
fn a_session_that_is_late_to_be_accepted_is_given_up_once_the_client_has_answered() {
    let mut story = server();
    let (client, _) = story.client_with_pool(1);
    // The first ping of a link goes out at once.
    story.says(client.control, ControlFrame::Pong);
    story.wait(Duration::from_millis(1));
    let (_, outputs) = story.comes(Door::Users(service(0)));
    let message = starts(&outputs)[0].0;
    let outputs = story.wait(limits().accept.0 + Duration::from_millis(60));
    assert!(frames(&outputs).contains(&ControlFrame::Ping), "the client is asked first");
    story.says(client.control, ControlFrame::Pong);
    let outputs = story.wait(Duration::from_millis(400));
    let late = "Reset: the client did not accept a session in time".to_string();
    assert!(closes(&outputs).contains(&(message, late)), "{outputs:?}");
    assert!(outputs.iter().any(|output| matches!(output, Output::Ping(_))), "idle ones prove that they live");
}

#[test]
fn a_session_that_is_accepted_and_never_started_is_given_up_after_the_dial_time() {
    let mut story = server();
    let (client, _) = story.client_with_pool(1);
    story.says(client.control, ControlFrame::Pong);
    let (_, outputs) = story.comes(Door::Users(service(0)));
    let message = starts(&outputs)[0].0;
    story.session(message, SessionEvent::Accepted);
    let never = (message, "Reset: the client did not start a session in time".to_string());
    assert!(!closes(&story.wait(DIAL)).contains(&never));
    assert!(closes(&story.wait(Duration::from_secs(2))).contains(&never));
}

#[test]
fn an_idle_connection_that_answers_no_ping_is_closed() {
    let mut story = server();
    let (client, messages) = story.client_with_pool(1);
    let mut closed = Vec::new();
    for _ in 0..25 {
        story.says(client.control, ControlFrame::Pong);
        closed.extend(closes(&story.wait(Duration::from_secs(1))));
    }
    closed.sort();
    let silent = |&id: &ConnId| (id, "Reset: ping not answered".to_string());
    assert_eq!(closed, messages.iter().map(silent).collect::<Vec<_>>());
}

#[test]
fn the_same_instance_replaces_its_old_self_and_another_one_does_not() {
    let mut story = server();
    let (old, messages) = story.client_with_pool(1);
    story.client(2);
    let control = story.control();
    let closed = closes(&story.says(control, ControlFrame::Hello(hello(1))));
    assert_eq!(closed[0], (old.control, "Reset: replaced by a newer connection of the same client".into()));
    let mut gone: Vec<ConnId> = closed[1..].iter().map(|close| close.0).collect();
    gone.sort();
    assert_eq!(gone, messages, "and nothing of the other client's");
}

#[test]
fn a_client_that_is_silent_for_the_smaller_heartbeat_is_given_up() {
    let mut story = server();
    let control = story.control();
    let heartbeat = Duration::from_secs(3);
    story.says(control, ControlFrame::Hello(Hello { heartbeat, ..hello(1) }));
    assert_eq!(closes(&story.wait(heartbeat - Duration::from_millis(1))), []);
    assert_eq!(closes(&story.wait(Duration::from_secs(1))), [(control, "Reset: heartbeat lost".into())]);
}

#[test]
fn a_client_that_leaves_is_closed_when_its_last_session_has_ended() {
    let mut story = server();
    let (client, messages) = story.client_with_pool(1);
    let (user, outputs) = story.comes(Door::Users(service(0)));
    let busy = starts(&outputs)[0].0;
    let outputs = story.says(client.control, ControlFrame::Drain);
    let idle = messages.iter().find(|&&id| id != busy).expect("the other one");
    assert_eq!(closes(&outputs), [(*idle, "Whole: drained".into())]);
    assert!(starts(&story.comes(Door::Users(service(0))).1).is_empty(), "it is given no user");
    story.is_gone(user, CloseReason::Finished);
    let outputs = story.session(busy, SessionEvent::Idle { settled: true });
    let closed = [(busy, "Whole: drained".to_string()), (client.control, "Whole: drained".to_string())];
    assert_eq!(closes(&outputs), closed);
}

#[test]
fn nothing_is_heard_after_a_protocol_error() {
    let mut story = server();
    let client = story.client(1);
    let outputs = story.says(client.control, ControlFrame::Hello(hello(1)));
    assert_eq!(closes(&outputs), [(client.control, "Reset: protocol error".into())]);
    assert!(story.says(client.control, ControlFrame::Ping).is_empty());
}

#[test]
fn a_client_that_begins_with_anything_but_hello_is_closed() {
    for frame in [ControlFrame::Skipped, ControlFrame::Ping, publish(1, "web")] {
        let mut story = server();
        let control = story.control();
        let outputs = story.says(control, frame);
        assert_eq!(closes(&outputs), [(control, "Reset: protocol error".into())]);
    }
}

#[test]
fn a_frame_of_a_later_version_is_skipped() {
    let mut story = server();
    let client = story.client(1);
    assert!(story.says(client.control, ControlFrame::Skipped).is_empty());
}

#[test]
fn a_service_that_is_unpublished_is_given_no_user() {
    let mut story = server();
    let (client, _) = story.client_with_pool(1);
    story.says(client.control, ControlFrame::Unpublish(1));
    assert!(starts(&story.comes(Door::Users(service(0))).1).is_empty());
    let outputs = story.says(client.control, ControlFrame::Unpublish(1));
    assert_eq!(closes(&outputs)[0].1, "Reset: protocol error", "it is not published");
}

#[test]
fn a_server_that_is_asked_to_end_waits_for_running_sessions_only() {
    let mut story = server();
    story.client_with_pool(1);
    let (running, outputs) = story.comes(Door::Users(service(0)));
    let message = starts(&outputs)[0].0;
    let (waiting, _) = story.comes(Door::Users(service(1)));
    let outputs = story.tell(Input::Drain);
    let stopped = outputs.iter().filter(|output| matches!(output, Output::StopListening(_)));
    assert_eq!(stopped.count(), 4);
    assert!(closes(&outputs).contains(&(waiting, "Reset: shutting down".into())));
    assert!(!closes(&outputs).iter().any(|close| close.0 == running));
    story.is_gone(waiting, CloseReason::Shutdown);
    story.is_gone(running, CloseReason::Finished);
    let outputs = story.session(message, SessionEvent::Idle { settled: true });
    let outputs = [outputs, story.is_gone(message, CloseReason::Drained)].concat_outputs();
    assert!(outputs.iter().any(|output| matches!(output, Output::Exit)));
}

#[test]
fn a_server_whose_time_to_drain_is_over_resets_the_rest_and_ends() {
    let mut story = server();
    story.client_with_pool(1);
    let (user, _) = story.comes(Door::Users(service(0)));
    story.tell(Input::Drain);
    let outputs = story.wait(limits().drain);
    assert!(closes(&outputs).contains(&(user, "Reset: shutting down".into())));
    assert!(outputs.iter().any(|output| matches!(output, Output::Exit)));
}

trait Concat {
    fn concat_outputs(self) -> Vec<Output>;
}

impl Concat for [Vec<Output>; 2] {
    fn concat_outputs(self) -> Vec<Output> {
        self.into_iter().flatten().collect()
    }
}
