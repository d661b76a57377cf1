//! Proofs: what is known of a publication, and the probes that prove it.

use skyorg::config::policy::UserRules;
use skyorg::machine::status::{PublicationState, PublicationStatus};
use skyorg::machine::{Fields, Traffic};

use super::*;

/// Offers of services that may be probed, under these numbers and names.
fn probed(number: u32, service: &str) -> ControlFrame {
    let ControlFrame::Publish(publish) = publish(number, service) else { panic!("it is a Publish") };
    ControlFrame::Publish(Publish { probe: true, ..publish })
}

/// A server with a client that publishes `web` and has brought so many message connections; what was said last.
fn begin_probed(limits: Limits, messages: usize) -> (Stage, Client, Outputs) {
    let mut stage = begin_with(limits);
    let (mut client, _) = stage.greet(hello(1));
    client.note(&stage.hear(client.control, probed(1, "web")));
    stage.hear(client.control, ControlFrame::Pong);
    let mut outputs = Outputs::default();
    for _ in 0..messages {
        outputs.0.extend(stage.bring(&mut client).1.0);
    }
    outputs.0.extend(stage.wait(millis(100)).0);
    client.note(&outputs);
    (stage, client, outputs)
}

/// A server whose client has just proved `web`, and the message connection that did.
fn begin_proved() -> (Stage, Client, ConnId) {
    begin_proved_with(2)
}

/// The same, with so many message connections.
fn begin_proved_with(pool: usize) -> (Stage, Client, ConnId) {
    let (mut stage, client, outputs) = begin_probed(Limits { pool, ..Limits::default() }, pool);
    let [(message, _)] = outputs.probes()[..] else { panic!("{outputs:?}") };
    stage.hear(client.control, ControlFrame::Pong);
    stage.started(message);
    stage.idle(message);
    (stage, client, message)
}

impl Stage {
    fn status(&self, service: &str) -> PublicationStatus {
        let mut publications = self.service(service).publications;
        assert_eq!(publications.len(), 1, "{publications:?}");
        publications.remove(0)
    }

    fn is_proved(&self) -> bool {
        self.status("web").state == PublicationState::Proven
    }

    /// Why `web` fails.
    fn reason(&self) -> String {
        match self.status("web").state {
            PublicationState::Failing(reason) => reason.into(),
            state => format!("{state:?}"),
        }
    }

    fn started(&mut self, message: ConnId) -> Outputs {
        self.session(message, SessionEvent::Accepted);
        self.session(message, SessionEvent::Started)
    }

    /// Time passes until a probe begins, for so long at most; pings are answered. The connection, and how long it took.
    fn until_probed(&mut self, client: &Client, at_most: Duration) -> Option<(ConnId, Duration)> {
        let began = self.now;
        while self.now < began + at_most {
            let outputs = self.wait(millis(100));
            if let Some(&(message, _)) = outputs.probes().first() {
                if outputs.said(client.control).contains(&ControlFrame::Ping) {
                    self.hear(client.control, ControlFrame::Pong);
                }
                return Some((message, self.now - began));
            }
            for id in outputs.pings() {
                self.session(id, SessionEvent::Pong);
            }
            if outputs.said(client.control).contains(&ControlFrame::Ping) {
                self.hear(client.control, ControlFrame::Pong);
            }
        }
        None
    }
}

#[test]
fn what_is_published_is_proved_at_once_by_a_session_without_a_user() {
    let (mut stage, _, outputs) = begin_probed(limits(), 2);
    let [(message, start)] = outputs.probes()[..] else { panic!("{outputs:?}") };
    assert!(start.is_probe() && start.publication == 1 && outputs.starts().is_empty());
    assert!(matches!(stage.status("web").state, PublicationState::Unproven(_)));
    stage.started(message);
    assert!(stage.is_proved() && stage.idle(message).facts().is_empty());
}

#[test]
fn a_client_that_changes_whether_it_is_probed_is_told_and_so_it_is() {
    let (mut stage, client, _) = begin_proved();
    let granted = |outputs: &Outputs| {
        let said = outputs.said(client.control).into_iter();
        let probed = said.filter_map(|frame| match frame {
            ControlFrame::Granted { number: 1, is_probed, .. } => Some(is_probed),
            _ => None,
        });
        probed.collect::<Vec<_>>()
    };
    assert_eq!(granted(&stage.hear(client.control, publish(1, "web"))), [false]);
    assert_eq!(granted(&stage.hear(client.control, publish(1, "web"))), [], "that is known");
    assert_eq!(stage.until_probed(&client, secs(40)), None);
    let outputs = stage.hear(client.control, probed(1, "web"));
    assert_eq!((granted(&outputs), outputs.probes().len()), (vec![true], 1), "{outputs:?}");
}

#[test]
fn a_proof_is_renewed_after_thirty_seconds_and_soon_while_somebody_looks() {
    let (mut stage, client, _) = begin_proved();
    let (message, after) = stage.until_probed(&client, secs(40)).expect("it is probed");
    assert!(after > secs(29) && after <= secs(31), "{after:?}");
    stage.started(message);
    stage.idle(message);
    stage.wait(secs(1));
    assert!(stage.tell(Input::Look).probes().is_empty(), "it was proved a moment ago");
    let (message, after) = stage.until_probed(&client, secs(40)).expect("it is probed");
    assert!(after > secs(3) && after <= secs(5), "{after:?}");
    stage.started(message);
    stage.idle(message);
    let (_, after) = stage.until_probed(&client, secs(40)).expect("it is probed");
    assert!(after <= secs(6), "{after:?}");
}

#[test]
fn who_looks_long_after_a_proof_has_it_renewed_at_once() {
    let (mut stage, _, message) = begin_proved();
    stage.wait(secs(7));
    assert_eq!(stage.tell(Input::Look).probes().first().map(|it| it.0), Some(message));
}

#[test]
fn a_proof_is_good_for_a_minute() {
    let (mut stage, _, _) = begin_proved();
    stage.now += secs(59);
    assert!(stage.is_proved());
    stage.now += secs(1);
    assert!(!stage.is_proved());
}

#[test]
fn the_session_of_a_user_proves_as_well() {
    let (mut stage, client, _) = begin_proved();
    stage.live(20);
    let (_, outputs) = stage.user();
    let (message, _) = outputs.pairs()[0];
    stage.started(message);
    stage.idle(message);
    assert_eq!(stage.status("web").proof, Some(stage.now));
    let (_, after) = stage.until_probed(&client, secs(40)).expect("it is probed");
    assert!(after > secs(28), "{after:?}");
}

#[test]
fn a_probe_leaves_an_idle_connection_to_users() {
    let (mut stage, mut client, outputs) = begin_probed(limits(), 1);
    assert!(outputs.probes().is_empty());
    let (_, mut outputs) = stage.bring(&mut client);
    outputs.0.extend(stage.wait(millis(100)).0);
    let [(message, _)] = outputs.probes()[..] else { panic!("{outputs:?}") };
    let (user, outputs) = stage.user();
    assert!(outputs.pairs().iter().all(|pair| pair.0 != message && pair.1 == user));
    assert_eq!(outputs.pairs().len(), 1);
}

#[test]
fn a_pool_of_one_place_has_another_for_probes() {
    let (mut stage, mut client, _) = begin_probed(Limits { pool: 1, ..Limits::default() }, 1);
    assert_eq!(client.tickets.len(), 1, "one more is asked for");
    let (_, mut outputs) = stage.bring(&mut client);
    outputs.0.extend(stage.wait(millis(100)).0);
    assert_eq!(outputs.probes().len(), 1);
}

#[test]
fn a_pool_that_is_probed_is_not_asked_for_more() {
    let (_, client, _) = begin_probed(limits(), 2);
    assert!(client.tickets.is_empty());
}

#[test]
fn a_probe_that_does_not_end_is_aborted() {
    let (mut stage, _, outputs) = begin_probed(limits(), 2);
    let (message, _) = outputs.probes()[0];
    stage.started(message);
    assert_eq!(stage.wait(secs(1)).aborts(), [(message, AbortReason::Reset)]);
    assert!(stage.is_proved());
}

#[test]
fn what_a_probe_is_refused_for_is_told_until_one_is_started() {
    for (reason, words) in [
        (AbortReason::Refused, "local server refuses connections"),
        (AbortReason::Unanswered, "local server does not answer"),
        (AbortReason::Unreachable, "local server cannot be reached"),
        (AbortReason::Unresolved, "the name of the local server does not resolve: see the client's status"),
        (AbortReason::NoDescriptor, "out of file descriptors"),
    ] {
        let (mut stage, client, _) = begin_proved();
        let (message, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
        stage.session(message, SessionEvent::Accepted);
        let outputs = stage.session(message, SessionEvent::ProbeAborted(reason));
        stage.idle(message);
        assert_eq!(stage.reason(), words);
        assert_eq!(
            outputs.facts().iter().map(|it| it.to_string()).collect::<Vec<_>>(),
            [format!("web of client office from 192.0.2.9:1024: failing: {words}")]
        );
        let (message, after) = stage.until_probed(&client, secs(40)).expect("it is tried again");
        assert!(after <= secs(6), "{after:?}");
        let outputs = stage.started(message);
        assert!(stage.is_proved());
        let told = outputs.facts().into_iter().map(Fact::to_string).collect::<Vec<_>>();
        assert_eq!(told, ["web of client office from 192.0.2.9:1024: proven again"]);
    }
}

#[test]
fn of_two_clients_with_one_key_the_one_that_fails_is_told_by_its_address() {
    let (mut stage, _, good) = begin_proved();
    let address: SocketAddr = ([192, 0, 2, 77], 4000).into();
    let control = stage.id();
    stage.tell(Input::Accepted { id: control, door: Door::Clients, peer: address, asked: peer() });
    let clear = ClearHello { suite: Suite::AesGcm, purpose: Purpose::Control, key_id: office() };
    stage.tell(Input::Greeted { id: control, hello: clear });
    stage.prove(control, Proof::control(&[9; LINK_RANDOM_BYTES], 9));
    let mut outputs = stage.hear(control, ControlFrame::Hello(hello(2)));
    outputs.0.extend(stage.hear(control, probed(1, "web")).0);
    outputs.0.extend(stage.hear(control, ControlFrame::Pong).0);
    let mut client = Client { control, link: [9; 16], tickets: VecDeque::new() };
    client.note(&outputs);
    let mut outputs = Outputs::default();
    (0..2).for_each(|_| outputs.0.extend(stage.bring(&mut client).1.0));
    outputs.0.extend(stage.wait(millis(100)).0);
    let (message, _) = outputs.probes()[0];
    assert_ne!(message, good);
    let outputs = stage.session(message, SessionEvent::ProbeAborted(AbortReason::Refused));
    let [fact] = outputs.facts()[..] else { panic!("{outputs:?}") };
    let words = "web of client office from 192.0.2.77:4000: failing: local server refuses connections";
    assert_eq!(fact.to_string(), words);
    let mut fields = Texts::default();
    fact.fields(&mut fields);
    assert!(
        fields.0.contains(&("key", "office".into())) && fields.0.contains(&("client", address.to_string()))
    );
}

/// The fields of a fact that are text.
#[derive(Default)]
struct Texts(Vec<(&'static str, String)>);

impl Fields for Texts {
    fn text(&mut self, name: &'static str, value: std::fmt::Arguments<'_>) {
        self.0.push((name, value.to_string()));
    }

    fn number(&mut self, _: &'static str, _: u64) {}

    fn seconds(&mut self, _: &'static str, _: Duration) {}
}

#[test]
fn a_probe_that_ends_for_another_reason_says_nothing() {
    let (mut stage, client, _) = begin_proved();
    let (message, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    stage.session(message, SessionEvent::ProbeAborted(AbortReason::Removed));
    assert!(stage.is_proved());
}

#[test]
fn a_local_server_that_does_not_answer_in_three_seconds_fails() {
    let (mut stage, client, _) = begin_proved();
    let (message, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    stage.session(message, SessionEvent::Accepted);
    let outputs = stage.wait(secs(3));
    assert_eq!(outputs.aborts(), [(message, AbortReason::Reset)]);
    assert_eq!(stage.reason(), "local server does not answer");
}

#[test]
fn a_client_that_answers_nothing_is_silent() {
    let (mut stage, _, _) = begin_proved();
    stage.wait(secs(6));
    stage.tell(Input::Look);
    stage.wait(secs(3));
    assert_eq!(stage.reason(), "client silent for 9 s");
}

#[test]
fn a_client_that_answers_on_its_control_connection_alone_has_silent_message_connections() {
    let (mut stage, client, _) = begin_proved();
    stage.until_probed(&client, secs(40)).expect("it is probed");
    let outputs = stage.wait(secs(1));
    assert_eq!(outputs.pings().len(), 1, "the other one is suspected");
    stage.hear(client.control, ControlFrame::Pong);
    stage.wait(secs(2));
    assert_eq!(stage.reason(), "message connections silent");
}

#[test]
fn one_message_connection_that_is_silent_alone_is_no_failure() {
    let (mut stage, client, _) = begin_proved();
    let (silent, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    let outputs = stage.wait(secs(1));
    stage.hear(client.control, ControlFrame::Pong);
    stage.session(outputs.pings()[0], SessionEvent::Pong);
    assert_eq!(stage.wait(secs(2)).aborts(), [(silent, AbortReason::Reset)]);
    assert!(stage.is_proved());
}

#[test]
fn no_message_connection_is_called_silent_while_users_are_served_on_the_others() {
    let (mut stage, client, _) = begin_proved();
    let (silent, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    stage.wait(millis(10));
    let (_, outputs) = stage.user();
    stage.session(outputs.pairs()[0].0, SessionEvent::Accepted);
    stage.wait(secs(1));
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(stage.wait(secs(2)).aborts(), [(silent, AbortReason::Reset)]);
    assert!(stage.is_proved(), "{}", stage.reason());
}

#[test]
fn a_client_that_brings_no_message_connection_does_not_reach_the_port() {
    let (mut stage, client, _) = begin_probed(limits(), 0);
    for _ in 0..8 {
        if stage.wait(secs(1)).said(client.control).contains(&ControlFrame::Ping) {
            stage.hear(client.control, ControlFrame::Pong);
        }
    }
    assert_eq!(stage.reason(), "message port does not answer");
}

#[test]
fn users_who_have_all_message_connections_of_a_client_do_not_make_it_fail() {
    let (mut stage, _, _) = begin_proved();
    for _ in 0..2 {
        let (_, outputs) = stage.user();
        stage.accepted_and_started(outputs.pairs()[0].0);
    }
    stage.live(30);
    assert!(stage.is_proved(), "{}", stage.reason());
}

#[test]
fn a_message_port_that_is_blocked_is_told_of_while_a_session_runs() {
    let (mut stage, client, _) = begin_proved();
    let (_, outputs) = stage.user();
    let (message, _) = outputs.pairs()[0];
    stage.accepted_and_started(message);
    let pinged = stage.wait(secs(20)).pings();
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(pinged.len(), 1);
    stage.gone(pinged[0], CloseReason::NoPong);
    for _ in 0..8 {
        stage.wait(secs(1));
        stage.hear(client.control, ControlFrame::Pong);
    }
    assert_eq!(stage.reason(), "message port does not answer");
}

#[test]
fn a_user_that_is_refused_has_it_probed_at_once_and_calls_nothing_failing() {
    let (mut stage, _, _) = begin_proved_with(3);
    stage.wait(secs(2));
    let (user, outputs) = stage.user();
    let (message, _) = outputs.pairs()[0];
    stage.session(message, SessionEvent::Accepted);
    let mut outputs = stage.tell(returned(user, true, false));
    outputs.0.extend(stage.wait(millis(20)).0);
    assert!(stage.is_proved());
    let (probed, _) = outputs.probes()[0];
    stage.session(probed, SessionEvent::ProbeAborted(AbortReason::Refused));
    assert_eq!(stage.reason(), "local server refuses connections");
}

#[test]
fn a_failure_is_outdated_by_a_session_that_was_started_after_its_probe_began() {
    let (mut stage, client, _) = begin_proved();
    let (probed, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    let (_, outputs) = stage.user();
    stage.started(outputs.pairs()[0].0);
    stage.session(probed, SessionEvent::ProbeAborted(AbortReason::Refused));
    assert!(stage.is_proved());
}

#[test]
fn fifty_are_probed_in_a_second_and_failing_ones_leave_half_of_that_to_the_others() {
    let names: Vec<String> = (0..200).map(|place| format!("s{place}")).collect();
    let service =
        |(place, text): (usize, &String)| Service::new(name(text), Listen::Any(10_000 + place as u16));
    let services = names.iter().enumerate().map(service).collect();
    let limits = Limits { pool: 100, ..Limits::default() };
    let mut stage = begin_as(ServerConfig { services, ..config(limits) });
    let (mut client, _) = stage.greet(hello(1));
    (0..100).for_each(|_| drop(stage.bring(&mut client)));
    for (place, text) in names.iter().enumerate() {
        stage.hear(client.control, probed(place as u32 + 1, text));
    }
    let mut probed = Vec::new();
    for _ in 0..20 {
        let outputs = stage.wait(millis(100));
        for (message, start) in outputs.probes() {
            probed.push(start.publication);
            match start.publication <= 150 {
                true => drop(stage.session(message, SessionEvent::ProbeAborted(AbortReason::Refused))),
                false => drop(stage.started(message)),
            }
            stage.idle(message);
        }
    }
    assert!(probed.len() >= 98 && probed.len() <= 102, "{}", probed.len());
    probed.sort_unstable();
    probed.dedup();
    assert!(probed.len() >= 98, "each once: {}", probed.len());
}

#[test]
fn a_client_whose_publications_all_fail_keeps_no_other_one_waiting() {
    let names: Vec<String> = (0..300).map(|place| format!("s{place}")).collect();
    let service =
        |(place, text): (usize, &String)| Service::new(name(text), Listen::Any(10_000 + place as u16));
    let services = names.iter().enumerate().map(service).collect();
    let mut stage = begin_as(ServerConfig { services, ..config(Limits { pool: 10, ..Limits::default() }) });
    let (mut failing, _) = stage.greet(hello(1));
    (0..10).for_each(|_| drop(stage.bring(&mut failing)));
    for (place, text) in names.iter().enumerate() {
        stage.hear(failing.control, probed(place as u32 + 1, text));
    }
    let (mut other, _) = stage.greet(hello(2));
    let own: Vec<ConnId> = (0..10).map(|_| stage.bring(&mut other).0).collect();
    let mut outputs = stage.hear(other.control, probed(1, "s0"));
    let mut waited = Duration::ZERO;
    while !outputs.probes().iter().any(|it| own.contains(&it.0)) {
        for (message, _) in outputs.probes() {
            stage.session(message, SessionEvent::ProbeAborted(AbortReason::Refused));
            stage.idle(message);
        }
        waited += millis(10);
        outputs = stage.wait(millis(10));
    }
    assert!(waited <= millis(50), "{waited:?}");
}

#[test]
fn what_is_not_to_be_probed_is_not() {
    let mut unprobed = config(limits());
    unprobed.services[0].rules = UserRules { probe: false, ..UserRules::default() };
    for (mut stage, publish) in [(begin_as(unprobed), probed(1, "web")), (begin(), publish(1, "web"))] {
        let (mut client, _) = stage.greet(hello(1));
        stage.hear(client.control, publish);
        stage.hear(client.control, ControlFrame::Pong);
        (0..2).for_each(|_| drop(stage.bring(&mut client)));
        stage.tell(Input::Look);
        assert_eq!(stage.until_probed(&client, secs(60)), None);
        assert!(matches!(stage.status("web").state, PublicationState::Unproven(_)));
    }
}

#[test]
fn what_nobody_probes_fails_after_three_refused_users_in_a_row_until_one_is_served() {
    let mut unprobed = config(limits());
    unprobed.services[0].rules = UserRules { probe: false, ..UserRules::default() };
    let mut stage = begin_as(unprobed);
    let (mut client, _) = stage.greet(hello(1));
    client.note(&stage.hear(client.control, probed(1, "web")));
    (0..2).for_each(|_| drop(stage.bring(&mut client)));
    let mut visit = |is_served: bool| {
        let (user, outputs) = stage.user();
        let (message, _) = outputs.pairs()[0];
        if is_served {
            stage.started(message);
        } else {
            stage.session(message, SessionEvent::Accepted);
            stage.tell(returned(user, true, false));
        }
        stage.gone(user, CloseReason::Finished);
        stage.idle(message);
        stage.status("web").state
    };
    let failing = PublicationState::Failing("local server refuses connections".into());
    assert_eq!(visit(true), PublicationState::Proven);
    for _ in 0..2 {
        assert_eq!([false, false].map(&mut visit), [PublicationState::Proven, PublicationState::Proven]);
        assert_eq!([false, false].map(&mut visit), [failing.clone(), failing.clone()]);
        assert_eq!(visit(true), PublicationState::Proven);
    }
}

#[test]
fn another_configuration_may_have_it_probed_or_not() {
    let (mut stage, client, _) = begin_proved();
    let mut unprobed = config(limits());
    unprobed.services[0].rules = UserRules { probe: false, ..UserRules::default() };
    stage.reload(unprobed);
    assert_eq!(stage.until_probed(&client, secs(60)), None);
    assert_eq!(stage.reload(config(limits())).probes().len(), 1);
}

#[test]
fn what_is_probed_no_more_fails_no_more() {
    let (mut stage, client, _) = begin_proved();
    let (message, _) = stage.until_probed(&client, secs(40)).expect("it is probed");
    stage.session(message, SessionEvent::ProbeAborted(AbortReason::Refused));
    stage.idle(message);
    let (message, _) = stage.until_probed(&client, secs(40)).expect("it is tried again");
    let mut unprobed = config(limits());
    unprobed.services[0].rules = UserRules { probe: false, ..UserRules::default() };
    stage.reload(unprobed);
    assert!(stage.is_proved(), "{}", stage.reason());
    stage.session(message, SessionEvent::ProbeAborted(AbortReason::Refused));
    assert!(stage.is_proved(), "{}", stage.reason());
}

#[test]
fn what_a_client_published_that_is_gone_takes_no_turn_of_a_probe() {
    let names: Vec<String> = (0..500).map(|place| format!("s{place}")).collect();
    let service =
        |(place, text): (usize, &String)| Service::new(name(text), Listen::Any(10_000 + place as u16));
    let services = names.iter().enumerate().map(service).collect();
    let mut stage = begin_as(ServerConfig { services, ..config(Limits { pool: 4, ..limits() }) });
    let (mut gone, _) = stage.greet(hello(1));
    (0..4).for_each(|_| drop(stage.bring(&mut gone)));
    for (place, text) in names.iter().enumerate() {
        stage.hear(gone.control, probed(place as u32 + 1, text));
    }
    for _ in 0..names.len() {
        for (message, _) in stage.wait(millis(20)).probes() {
            stage.started(message);
            stage.idle(message);
        }
        stage.hear(gone.control, ControlFrame::Pong);
    }
    let (mut other, _) = stage.greet(hello(2));
    (0..2).for_each(|_| drop(stage.bring(&mut other)));
    let mut outputs = stage.hear(other.control, probed(1, "s0"));
    outputs.0.extend(stage.wait(millis(100)).0);
    let [(message, _)] = outputs.probes()[..] else { panic!("{outputs:?}") };
    stage.started(message);
    stage.idle(message);
    stage.gone(gone.control, CloseReason::PeerClosed);
    stage.hear(other.control, ControlFrame::Pong);
    stage.live(6);
    assert_eq!(stage.tell(Input::Look).probes().len(), 1);
}

#[test]
fn a_client_is_told_whether_it_is_probed_if_it_reads_that() {
    let is_told = |outputs: &Outputs, client: &Client| {
        let told = |frame| match frame {
            ControlFrame::Granted { is_probed, .. } => Some(is_probed),
            _ => None,
        };
        outputs.said(client.control).into_iter().filter_map(told).collect::<Vec<_>>()
    };
    let mut unprobed = config(limits());
    unprobed.services[0].rules = UserRules { probe: false, ..UserRules::default() };
    let mut stage = begin();
    let (client, _) = stage.greet(hello(1));
    assert_eq!(is_told(&stage.hear(client.control, probed(1, "web")), &client), [true]);
    assert_eq!(is_told(&stage.reload(unprobed), &client), [false]);
    assert_eq!(is_told(&stage.reload(config(limits())), &client), [true]);
    let mut stage = begin();
    let (old, _) = stage.greet(Hello { capabilities: Capabilities::default(), ..hello(1) });
    assert_eq!(is_told(&stage.hear(old.control, probed(1, "web")), &old), [false]);
}

#[test]
fn sessions_without_an_answer_are_counted_in_a_row_and_are_no_failure() {
    let (mut stage, _, message) = begin_proved();
    for sent in [0, 0, 5] {
        let before = stage.status("web").unanswered;
        let (user, outputs) = stage.user();
        assert_eq!(outputs.pairs(), [(message, user)]);
        stage.started(message);
        let traffic = Traffic { received: 9, sent };
        stage.tell(Input::Closed { id: user, reason: CloseReason::Finished, traffic });
        stage.idle(message);
        assert_eq!(stage.status("web").unanswered, if sent == 0 { before + 1 } else { 0 });
        assert!(stage.is_proved());
    }
}

#[test]
fn a_user_that_has_said_all_counts_as_unanswered_once_its_local_server_has_taken_it() {
    let (mut stage, _, message) = begin_proved_with(6);
    let unanswered = |stage: &Stage| stage.status("web").unanswered;
    // It was not accepted, or not started, before it was refused.
    for is_accepted in [false, true] {
        let (user, outputs) = stage.user();
        let [(message, _)] = outputs.pairs()[..] else { panic!("{outputs:?}") };
        if is_accepted {
            stage.session(message, SessionEvent::Accepted);
        }
        stage.tell(Input::Unanswered { id: user });
        stage.tell(returned(user, true, false));
        let traffic = Traffic { received: 9, sent: 0 };
        let reason = CloseReason::Aborted(AbortReason::Refused);
        stage.tell(Input::Closed { id: user, reason, traffic });
        stage.idle(message);
        assert_eq!(unanswered(&stage), 0);
    }
    for ends_first in [true, false] {
        let (user, outputs) = stage.user();
        let (message, _) = outputs.pairs()[0];
        let before = unanswered(&stage);
        if ends_first {
            stage.tell(Input::Unanswered { id: user });
            assert_eq!(unanswered(&stage), before);
            stage.started(message);
        } else {
            stage.started(message);
            stage.tell(Input::Unanswered { id: user });
        }
        assert_eq!(unanswered(&stage), before + 1, "while it waits for an answer");
        let traffic = Traffic { received: 9, sent: 0 };
        stage.tell(Input::Closed { id: user, reason: CloseReason::Finished, traffic });
        assert_eq!(unanswered(&stage), before + 1, "once");
    }
    // Its client was lost before it took it.
    let (user, _) = stage.user();
    let traffic = Traffic { received: 9, sent: 0 };
    stage.tell(Input::Closed { id: user, reason: CloseReason::NotAccepted, traffic });
    assert_eq!(unanswered(&stage), 2, "{message}");
}

#[test]
fn a_service_that_nobody_serves_says_why() {
    let (mut stage, client, _) = begin_proved();
    let unserved = |stage: &Stage| stage.service("web").reason.map(String::from);
    assert_eq!(unserved(&stage), None);
    stage.gone(client.control, CloseReason::PeerClosed);
    assert_eq!(unserved(&stage).as_deref(), Some("no client"));
    let client = stage.client(2);
    assert_eq!(unserved(&stage), None);
    let mut revoked = config(limits());
    revoked.keys = vec![key("other", 8)];
    stage.reload(revoked);
    stage.gone(client.control, CloseReason::KeyRevoked);
    assert_eq!(unserved(&stage).as_deref(), Some("key revoked"));
}

#[test]
fn a_key_that_was_revoked_is_not_why_nobody_serves_once_another_client_has_left() {
    let mut both = config(limits());
    both.keys.push(key("other", 8));
    let mut stage = begin_as(both);
    let (revoked, other) = (stage.client(1), stage.client_of(key_id(&Secret::new([8; 32])), 2));
    stage.gone(revoked.control, CloseReason::KeyRevoked);
    stage.gone(other.control, CloseReason::PeerClosed);
    assert_eq!(stage.service("web").reason.as_deref(), Some("no client"));
}

#[test]
fn a_client_that_leaves_serves_nobody_while_its_sessions_go_on() {
    let (mut stage, client, message) = begin_proved();
    let (_, outputs) = stage.user();
    assert_eq!(outputs.pairs()[0].0, message);
    stage.started(message);
    stage.hear(client.control, ControlFrame::Drain);
    let service = stage.service("web");
    assert_eq!((service.publications, service.reason.as_deref()), (vec![], Some("no client")));
    stage.client(2);
    assert_eq!(stage.service("web").publications.len(), 1);
}

#[test]
fn a_server_that_ends_serves_nobody_and_probes_nobody() {
    let (mut stage, client, _) = begin_proved();
    stage.drain();
    let service = stage.service("web");
    assert_eq!((service.publications, service.reason.as_deref()), (vec![], Some("draining")));
    stage.tell(Input::Look);
    assert_eq!(stage.until_probed(&client, secs(4)), None);
}

#[test]
fn what_a_burst_left_is_retired_however_often_probes_take_it() {
    let heartbeat = secs(2);
    let (mut stage, mut client, _) = begin_probed(Limits { pool: 2, heartbeat, ..limits() }, 2);
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (user, outputs) = stage.user();
        let message = outputs.pairs()[0].0;
        client.note(&outputs);
        stage.started(message);
        busy.push((message, user));
        stage.bring(&mut client);
    }
    for (message, user) in busy {
        stage.gone(user, CloseReason::Finished);
        stage.idle(message);
    }
    let mut retired = 0;
    for _ in 0..3 * limits().retire.as_secs() {
        stage.tell(Input::Look);
        let outputs = stage.wait(secs(1));
        stage.hear(client.control, ControlFrame::Pong);
        outputs.pings().into_iter().for_each(|id| drop(stage.session(id, SessionEvent::Pong)));
        for (message, _) in outputs.probes() {
            stage.started(message);
            stage.idle(message);
        }
        let closes = outputs.closes();
        assert!(closes.iter().all(|close| close.1 == CloseReason::Retired), "{closes:?}");
        retired += closes.len();
    }
    assert_eq!(retired, 3);
}
