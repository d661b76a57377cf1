//! Proofs: what a client knows of what it publishes.

use skyorg::machine::Traffic;
use skyorg::machine::status::PublicationState;

use super::*;

const TIMED_OUT: u16 = 110;
const NO_FILES: u16 = 24;

fn failed(number: u16) -> CloseReason {
    CloseReason::DialFailed(Fault::of_number(number))
}

impl Stage {
    /// In what state a publication is.
    fn state(&self, service: &str) -> PublicationState {
        self.service(service).publications.remove(0).state
    }

    fn reason(&self) -> String {
        match self.state("web") {
            PublicationState::Failing(reason) => reason.into(),
            state => format!("{state:?}"),
        }
    }

    /// A session begins whose local server is dialled, and ends so.
    fn dial_ends(&mut self, message: ConnId, start: Start, reason: CloseReason) -> Outputs {
        self.start(message, start);
        let proxy = self.dialling(Dialled::Proxy(message));
        let outputs = self.gone(proxy, reason);
        self.idle(message);
        outputs
    }
}

#[test]
fn a_probe_proves_and_is_not_told_as_a_user() {
    let (mut stage, _, message) = ready(config());
    assert!(matches!(stage.state("web"), PublicationState::Unproven(_)));
    let outputs = stage.start(message, Start::probe(1, 1, 0));
    assert_eq!((outputs.accepts(), outputs.proxies().len()), (vec![message], 1));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    assert_eq!(stage.state("web"), PublicationState::Proven);
    let traffic = Traffic { received: 20, sent: 0 };
    let outputs = stage.tell(Input::Closed { id: proxy, reason: CloseReason::Finished, traffic });
    assert!(outputs.facts().is_empty(), "{outputs:?}");
    assert!(matches!(stage.state("ssh"), PublicationState::Unproven(_)));
    stage.idle(message);
    let outputs = stage.tell(Input::Drain);
    assert!(outputs.facts().iter().any(|it| matches!(it, Fact::Draining { sessions: 0, .. })));
}

#[test]
fn a_probe_that_fails_says_why_to_people_and_to_the_server() {
    for (number, told, words) in [
        (ECONNREFUSED, AbortReason::Refused, "local server refuses connections"),
        (TIMED_OUT, AbortReason::Unanswered, "local server does not answer"),
        (NO_FILES, AbortReason::NoDescriptor, "out of file descriptors"),
        (113, AbortReason::Unreachable, "local server: No route to host (os error 113)"),
    ] {
        let (mut stage, _, message) = ready(config());
        let outputs = stage.dial_ends(message, Start::probe(1, 1, 0), failed(number));
        assert_eq!(outputs.aborts(), [(message, told)]);
        assert_eq!(stage.reason(), words);
        let facts: Vec<_> = outputs.facts().into_iter().map(Fact::to_string).collect();
        assert_eq!(facts, [format!("web: failing: {words}")]);
        stage.start(message, Start::probe(2, 1, 0));
        let proxy = stage.dialling(Dialled::Proxy(message));
        let facts: Vec<_> = stage.connected(proxy).facts().into_iter().map(Fact::to_string).collect();
        assert_eq!((stage.state("web"), facts), (PublicationState::Proven, vec!["web: proven again".into()]));
    }
}

#[test]
fn a_user_is_refused_in_one_word_and_only_what_no_user_brings_about_counts() {
    for (number, is_known) in [(ECONNREFUSED, true), (113, true), (TIMED_OUT, false), (NO_FILES, false)] {
        let (mut stage, _, message) = ready(config());
        let outputs = stage.dial_ends(message, start(1, 0), failed(number));
        assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
        assert_eq!(matches!(stage.state("web"), PublicationState::Failing(_)), is_known, "{number}");
    }
}

#[test]
fn users_who_are_refused_at_a_port_of_a_range_call_nothing_failing() {
    let want = Want::Ports(Ports { first: 27_000, last: 27_009 });
    let range = Publication { want, ..config().publications[0].clone() };
    let (mut stage, _, message) = ready(ClientConfig { publications: vec![range], ..config() });
    for (sid, port_offset) in [(1, 0), (2, 7)] {
        let outputs = stage.dial_ends(message, Start { port_offset, ..start(sid, 0) }, REFUSED);
        assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
        assert!(matches!(stage.state("web"), PublicationState::Unproven(_)), "{port_offset}");
    }
}

#[test]
fn of_a_range_only_a_probe_of_the_first_port_calls_it_failing_because_that_one_is_tried_last() {
    let want = Want::Ports(Ports { first: 27_000, last: 27_009 });
    let range = Publication { want, ..config().publications[0].clone() };
    let (mut stage, _, message) = ready(ClientConfig { publications: vec![range], ..config() });
    let outputs = stage.dial_ends(message, Start::probe(1, 1, 7), REFUSED);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert!(matches!(stage.state("web"), PublicationState::Unproven(_)));
    stage.dial_ends(message, Start::probe(2, 1, 0), REFUSED);
    assert_eq!(stage.reason(), "local server refuses connections");
}

#[test]
fn a_local_server_that_does_not_answer_until_the_server_gives_the_probe_up_fails() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, Start::probe(1, 1, 0));
    stage.dialling(Dialled::Proxy(message));
    stage.wait(secs(3));
    stage.idle(message);
    assert_eq!(stage.reason(), "local server does not answer");
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    let (mut stage, _, message) = ready(config_with_local("db.example:80"));
    let outputs = stage.start(message, Start::probe(1, 1, 0));
    let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    let outputs = stage.resolved(name, &[]);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Unresolved)]);
    assert_eq!(stage.reason(), "db.example does not resolve");
}

#[test]
fn what_the_server_does_not_say_it_probes_is_not_probed_and_until_it_answers_it_may_be() {
    let (mut stage, control, _) = ready(config());
    let address = GrantedAddress { ip: [0, 0, 0, 0].into(), ports: Ports::one(80) };
    assert!(stage.service("web").is_probed);
    for is_probed in [true, false] {
        stage.hear(control, ControlFrame::Granted { number: 1, addresses: vec![address], is_probed });
        assert_eq!(stage.service("web").is_probed, is_probed);
    }
    let quiet = Publication { probe: false, ..config().publications[0].clone() };
    let (mut stage, control, _) = ready(ClientConfig { publications: vec![quiet], ..config() });
    stage.hear(control, ControlFrame::Granted { number: 1, addresses: vec![address], is_probed: true });
    assert!(!stage.service("web").is_probed);
}

#[test]
fn what_the_server_denies_fails() {
    let (mut stage, control, _) = ready(config());
    stage.hear(control, ControlFrame::Denied { number: 1, reason: Denial::Policy });
    assert_eq!(stage.reason(), "denied: policy");
}

#[test]
fn a_link_that_cannot_be_made_says_why() {
    for (reason, words) in [
        (REFUSED, "server refuses connections"),
        (CloseReason::PeerClosed, "the server does not take this key: wrong, unknown or revoked"),
        (CloseReason::HandshakeTimedOut, "server does not answer"),
    ] {
        let (mut stage, _) = begin(config());
        let control = stage.dialling(Dialled::Control);
        stage.gone(control, reason);
        assert_eq!(stage.reason(), words);
        stage.wait(secs(2));
        stage.link();
        assert!(matches!(stage.state("web"), PublicationState::Unproven(_)));
    }
}

#[test]
fn a_client_that_is_refused_says_why() {
    for (refusal, words) in [(Refusal::Expired, "key expired"), (Refusal::Policy, "denied: policy")] {
        let (mut stage, _) = begin(config());
        let control = stage.dialling(Dialled::Control);
        stage.connected(control);
        stage.hear(control, ControlFrame::Refused(refusal));
        assert_eq!(stage.reason(), words);
    }
}

#[test]
fn nothing_is_proved_without_a_link() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, Start::probe(1, 1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    stage.gone(control, CloseReason::PeerClosed);
    assert_eq!(stage.reason(), "not connected to the server");
}

#[test]
fn a_server_that_does_not_answer_who_looks_is_silent() {
    let (mut stage, control, _) = ready(config());
    stage.wait(secs(5));
    let outputs = stage.tell(Input::Look);
    assert_eq!(outputs.said(control), [ControlFrame::Ping]);
    assert!(stage.tell(Input::Look).said(control).is_empty(), "it is asked already");
    stage.wait(secs(3));
    assert_eq!(stage.reason(), "server silent for 8 s");
    stage.hear(control, ControlFrame::Pong);
    assert!(matches!(stage.state("web"), PublicationState::Unproven(_)));
}

#[test]
fn a_message_port_that_does_not_work_is_told_of_until_it_does() {
    for (reason, words) in
        [(REFUSED, "message port refused"), (failed(TIMED_OUT), "message port does not answer")]
    {
        let (mut stage, control) = linked(config());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
        let [link] = outputs.message_links()[..] else { panic!("{outputs:?}") };
        let message = stage.dialling(Dialled::Message(link));
        stage.gone(message, reason);
        assert_eq!(stage.reason(), words);
        let outputs = stage.wait(secs(1));
        assert_eq!(outputs.tickets()[0].1.port(), 33335, "the control port is tried");
        let message = stage.dialling(Dialled::Message(link));
        stage.connected(message);
        assert!(matches!(stage.state("web"), PublicationState::Unproven(_)), "sessions come through");
        assert_eq!(stage.snapshot().links[0].reason.as_deref(), Some(words));
    }
}

#[test]
fn a_client_whose_users_have_all_that_its_descriptors_allow_is_out_of_them() {
    let limits = Limits { messages_per_client_max: 2, messages_meant: 3, ..Limits::default() };
    let (mut stage, control, first) = ready(ClientConfig { limits, ..config() });
    let second = stage.message(control, 2);
    stage.start(first, start(1, 0));
    let is_out = |stage: &Stage| stage.snapshot().totals.is_out_of_descriptors;
    assert!(!is_out(&stage) && matches!(stage.state("web"), PublicationState::Unproven(_)));
    stage.start(second, start(2, 0));
    assert!(is_out(&stage) && stage.reason() == "out of file descriptors");
    stage.idle(second);
    assert!(!is_out(&stage) && matches!(stage.state("web"), PublicationState::Unproven(_)));
}
