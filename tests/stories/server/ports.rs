//! Ports that clients ask for.

mod declared;
mod places;

use std::io;

use skyorg::base::ports::Ports;
use skyorg::config::policy::{Policy, PortRules, Services};
use skyorg::machine::status::PublicationState;
use skyorg::wire::control::{PublicationNumber, Resumes};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn rules(texts: &[&str]) -> PortRules {
    PortRules::These(texts.iter().map(|text| text.parse().expect("ports")).collect())
}

/// A server at which any key may ask for these ports.
fn begin_with_ports(texts: &[&str]) -> Stage {
    begin_with_rules(rules(texts), limits())
}

fn begin_with_rules(rules: PortRules, limits: Limits) -> Stage {
    begin_with_policies(Policies::Alike(rules), limits)
}

fn begin_with_policies(policies: Policies, limits: Limits) -> Stage {
    begin_as(ServerConfig { policies, keys: vec![key("office", 7), key("guest", 8)], ..config(limits) })
}

fn guest() -> KeyId {
    key_id(&Secret::new([8; 32]))
}

fn ports(text: &str) -> Ports {
    text.parse().expect("ports")
}

/// A client asks for ports, or for any one.
fn expose(number: PublicationNumber, publication: &str, wanted: &str, share: bool) -> ControlFrame {
    ControlFrame::Publish(Publish {
        number,
        name: name(publication),
        want: if wanted == "any" { Want::AnyPort } else { Want::Ports(ports(wanted)) },
        transports: Transports::Tcp,
        dial_time: DIAL,
        share,
        probe: false,
    })
}

fn granted(number: PublicationNumber, of: &str) -> ControlFrame {
    let addresses = vec![GrantedAddress { ip: at(0).ip(), ports: ports(of) }];
    ControlFrame::Granted { number, addresses, is_probed: false }
}

fn denied(number: PublicationNumber, reason: Denial) -> ControlFrame {
    ControlFrame::Denied { number, reason }
}

impl Stage {
    /// The system gives what was asked for, but for these ports.
    fn bind(&mut self, mut outputs: Outputs, taken: &[u16]) -> Outputs {
        let mut asked: VecDeque<(ListenerId, u16, Door)> = outputs.listens().into();
        while let Some((id, port, door)) = asked.pop_front() {
            let input = if taken.contains(&port) {
                Input::ListenFailed { id, error: io::ErrorKind::AddrInUse.into() }
            } else {
                self.listeners.retain(|it| it.1 != port);
                self.listeners.push((id, port, door));
                Input::Listening { id, address: at(port) }
            };
            let more = self.tell(input);
            asked.extend(more.listens());
            outputs.0.extend(more.0);
        }
        outputs
    }

    /// Other policies and keys hold from now on.
    fn change(&mut self, policies: Policies, keys: Vec<Key>) -> Outputs {
        let outputs = self.configure(ServerConfig { policies, keys, ..config(limits()) });
        self.bind(outputs, &[])
    }

    fn ask(&mut self, client: &Client, frame: ControlFrame) -> Outputs {
        let outputs = self.hear(client.control, frame);
        self.bind(outputs, &[])
    }

    /// A client that has answered the first ping and publishes nothing.
    fn joins(&mut self, key: KeyId, instance: u8) -> Client {
        let (client, _) = self.greet_with(key, hello(instance));
        self.hear(client.control, ControlFrame::Pong);
        client
    }

    /// A client is killed.
    fn killed(&mut self, client: &Client) -> Outputs {
        self.gone(client.control, CloseReason::PeerClosed)
    }
}

impl Outputs {
    /// What a client was told about its publications.
    fn told(&self, client: &Client) -> Vec<ControlFrame> {
        let mut said = self.said(client.control);
        said.retain(|frame| {
            matches!(
                frame,
                ControlFrame::Granted { .. } | ControlFrame::Denied { .. } | ControlFrame::Withdrawn { .. }
            )
        });
        said
    }

    fn pinged(&self, client: &Client) -> bool {
        self.said(client.control).contains(&ControlFrame::Ping)
    }

    fn listens(&self) -> Vec<(ListenerId, u16, Door)> {
        let listen = |output: &Output| match output {
            Output::Listen { id, at, door } => Some((*id, at.port(), *door)),
            _ => None,
        };
        self.0.iter().filter_map(listen).collect()
    }

    fn listens_at(&self) -> Vec<u16> {
        self.listens().into_iter().map(|listen| listen.1).collect()
    }
}

#[test]
fn a_port_is_granted_once_it_is_open() {
    let mut stage = begin_with_ports(&["8080"]);
    let client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "web", "8080", false));
    assert_eq!((asked.listens_at(), asked.told(&client)), (vec![8080], vec![]));
    let outputs = stage.bind(asked, &[]);
    assert_eq!(outputs.told(&client), [granted(1, "8080")]);
    let told = Fact::Exposed {
        link: client.control,
        key: name("office"),
        publication: name("web"),
        ports: ports("8080"),
    };
    assert!(outputs.facts().contains(&&told));
}

#[test]
fn a_range_is_one_publication_and_a_session_says_which_of_its_ports_was_asked() {
    let mut stage = begin_with_ports(&["27000-27999"]);
    let mut client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "game", "27000-27999", false));
    assert_eq!(asked.listens_at(), (27_000..28_000).collect::<Vec<_>>());
    let outputs = stage.bind(asked, &[]);
    assert_eq!(outputs.told(&client), [granted(1, "27000-27999")]);
    for (port, offset) in [(27_000, 0), (27_999, 999)] {
        let (message, _) = stage.bring(&mut client);
        let (user, outputs) = stage.user_at(port);
        let [(of, by, start)] = outputs.starts()[..] else { panic!("{:?}", outputs.starts()) };
        assert_eq!((of, by, start.publication, start.port_offset), (message, user, 1, offset));
    }
}

impl Stage {
    /// Which ports behind the first one are probed next, one after the other: each refuses but those that listen.
    fn probed_next(&mut self, client: &Client, mut outputs: Outputs, listening: &[u16]) -> Vec<u16> {
        let mut probed = Vec::new();
        for _ in 0..400 {
            outputs.0.extend(self.wait(millis(100)).0);
            for id in outputs.pings() {
                self.session(id, SessionEvent::Pong);
            }
            self.hear(client.control, ControlFrame::Pong);
            match outputs.probes().first() {
                Some(&(message, start)) => {
                    probed.push(start.port_offset);
                    self.session(message, SessionEvent::Accepted);
                    self.session(
                        message,
                        match listening.contains(&start.port_offset) {
                            true => SessionEvent::Started,
                            false => SessionEvent::ProbeAborted(AbortReason::Refused),
                        },
                    );
                    self.idle(message);
                }
                None if probed.is_empty() => {}
                None => break,
            }
            outputs = Outputs::default();
        }
        probed
    }

    /// A user comes to this port and is served.
    fn serve_at(&mut self, client: &mut Client, port: u16) {
        let (user, outputs) = self.user_at(port);
        let (message, _) = outputs.pairs()[0];
        client.note(&outputs);
        self.accepted_and_started(message);
        self.gone(user, CloseReason::Finished);
        self.idle(message);
    }
}

#[test]
fn a_range_fails_only_where_no_port_does_better_than_the_one_that_a_user_was_served_at() {
    let mut stage = begin_with_ports(&["20000-20009"]);
    let mut client = stage.joins(office(), 1);
    let is_failing = |stage: &Stage| {
        let state = &stage.service("game").publications[0].state;
        matches!(state, PublicationState::Failing(_))
    };
    let ControlFrame::Publish(publish) = expose(1, "game", "20000-20009", false) else { panic!("it is one") };
    (0..2).for_each(|_| drop(stage.bring(&mut client)));
    let outputs = stage.ask(&client, ControlFrame::Publish(Publish { probe: true, ..publish }));
    assert_eq!((stage.probed_next(&client, outputs, &[]), is_failing(&stage)), (vec![0], true));
    for (served, listening, tried) in
        [(7, 7, vec![7]), (9, 7, vec![7]), (9, 9, vec![7, 9]), (5, 0, vec![9, 5, 0]), (5, 0, vec![5, 0])]
    {
        stage.serve_at(&mut client, 20_000 + served);
        let probed = stage.probed_next(&client, Outputs::default(), &[listening]);
        assert_eq!((probed, is_failing(&stage)), (tried, false));
    }
    let probed = stage.probed_next(&client, Outputs::default(), &[]);
    assert_eq!((probed, is_failing(&stage)), (vec![0], true));
}

#[test]
fn a_single_port_that_nobody_probes_fails_after_three_refused_users_and_a_range_does_not() {
    for (wanted, fails) in [("20000", true), ("any", true), ("20000-20001", false)] {
        let mut stage = begin_with_ports(&["20000-20001"]);
        let mut client = stage.joins(office(), 1);
        let port = stage.ask(&client, expose(1, "game", wanted, false)).listens_at()[0];
        let (message, _) = stage.bring(&mut client);
        for _ in 0..3 {
            let (user, outputs) = stage.user_at(port);
            assert_eq!(outputs.pairs(), [(message, user)]);
            stage.session(message, SessionEvent::Accepted);
            stage.tell(returned(user, true, false));
            stage.gone(user, CloseReason::Aborted(AbortReason::Refused));
            stage.idle(message);
        }
        let state = &stage.service("game").publications[0].state;
        assert_eq!(matches!(state, PublicationState::Failing(_)), fails, "{wanted}: {state:?}");
    }
}

#[test]
fn a_range_is_had_whole_or_not_at_all() {
    let mut stage = begin_with_ports(&["100-109"]);
    let client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "game", "100-109", false));
    let opened = asked.listens();
    let outputs = stage.bind(asked, &[105]);
    assert_eq!(outputs.told(&client), [denied(1, Denial::PortTaken)]);
    let open: Vec<ListenerId> = opened.iter().filter(|it| it.1 != 105).map(|it| it.0).collect();
    assert_eq!(outputs.stopped(), open);
}

#[test]
fn what_another_program_has_is_tried_again_less_and_less_often() {
    let mut stage = begin_with_ports(&["100"]);
    let client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "web", "100", false));
    stage.bind(asked, &[100]);
    let mut pauses = Vec::new();
    for seconds in 1..120 {
        let outputs = stage.wait(secs(1));
        for output in &outputs.0 {
            if let Output::Send { id, frame: ControlFrame::Ping } = *output {
                stage.hear(id, ControlFrame::Pong);
            }
        }
        if !outputs.listens().is_empty() {
            pauses.push(seconds);
            let taken = if pauses.len() < 4 { &[100][..] } else { &[] };
            let told = stage.bind(outputs, taken).told(&client);
            assert_eq!(told, if taken.is_empty() { vec![granted(1, "100")] } else { vec![] });
        }
    }
    assert_eq!(pauses, [5, 15, 35, 75]);
}

#[test]
fn any_is_the_port_that_the_names_say_or_the_next_one_that_is_free() {
    // The same at every start: BLAKE2s says 132 for these names.
    for _ in 0..2 {
        let mut stage = begin_with_ports(&["20000-20999"]);
        let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
        stage.ask(&other, expose(1, "x", "20133", false));
        let outputs = stage.ask(&client, expose(1, "preview", "any", false));
        assert_eq!(outputs.told(&client), [granted(1, "20132")]);
        // What another program has is passed over as well.
        stage.hear(client.control, ControlFrame::Unpublish(1));
        let asked = stage.hear(client.control, expose(2, "preview", "any", false));
        let outputs = stage.bind(asked, &[20_132]);
        assert_eq!(outputs.told(&client), [granted(2, "20134")]);
    }
}

#[test]
fn any_is_none_of_the_ports_of_the_system_s_own_connections() {
    let limits = Limits { local_ports: Some(ports("20100-20999")), ..limits() };
    let mut stage = begin_with_rules(rules(&["20000-20999"]), limits);
    let client = stage.joins(office(), 1);
    let outputs = stage.ask(&client, expose(1, "preview", "any", false));
    // 1688459132 modulo 100
    assert_eq!(outputs.told(&client), [granted(1, "20032")]);
}

#[test]
fn only_permitted_ports_are_granted_and_never_the_server_s_own() {
    let mut stage = begin_with_rules(PortRules::All, limits());
    let client = stage.joins(office(), 1);
    for (number, wanted, reason) in [
        (1, "1023", Denial::Policy),
        (2, &WEB.to_string(), Denial::PortTaken),
        (3, &MESSAGE.to_string(), Denial::PortTaken),
        (4, "33000-33999", Denial::PortTaken),
    ] {
        let outputs = stage.ask(&client, expose(number, &format!("p{number}"), wanted, false));
        assert_eq!((outputs.told(&client), outputs.listens().len()), (vec![denied(number, reason)], 0));
    }
    let mut stage = begin();
    let client = stage.joins(office(), 1);
    for (number, wanted) in [(1, "8080"), (2, "any")] {
        let outputs = stage.ask(&client, expose(number, "p", wanted, false));
        assert_eq!(outputs.told(&client), [denied(number, Denial::Policy)]);
    }
}

#[test]
fn each_key_has_the_ports_of_its_own_policy() {
    let each = [(name("office"), policy(&["8080"])), (name("guest"), policy(&[]))];
    let policies = Policies::Each(each.into());
    let mut stage = begin_with_policies(policies, limits());
    let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    assert_eq!(stage.ask(&other, expose(1, "web", "8080", false)).told(&other), [denied(1, Denial::Policy)]);
    assert_eq!(stage.ask(&client, expose(1, "web", "8080", false)).told(&client), [granted(1, "8080")]);
}

#[test]
fn a_client_that_was_killed_finds_its_ports_open_and_its_users_waiting() {
    let mut stage = begin_with_ports(&["27000-27999"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "game", "27000-27999", false));
    assert_eq!(stage.killed(&client).stopped(), []);
    let (user, outputs) = stage.user_at(27_500);
    assert_eq!(outputs.closes(), []);
    let mut again = stage.joins(office(), 2);
    let outputs = stage.hear(again.control, expose(1, "game", "27000-27999", false));
    assert_eq!((outputs.told(&again), outputs.listens()), (vec![granted(1, "27000-27999")], vec![]));
    let (message, outputs) = stage.bring(&mut again);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_of_a_client_that_is_away_waits_no_longer_than_any_other() {
    let mut stage = begin_with_ports(&["8080"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "web", "8080", false));
    stage.killed(&client);
    let (user, _) = stage.user_at(8080);
    assert_eq!(stage.wait(secs(5)).closes(), [(user, CloseReason::NoClient, Manner::Reset)]);
}

#[test]
fn ports_of_a_client_that_stays_away_are_free_after_a_day() {
    let mut stage = begin_with_ports(&["8080"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "web", "8080", false));
    stage.killed(&client);
    assert_eq!(stage.wait(DAY - secs(1)).stopped(), []);
    assert_eq!(stage.wait(secs(1)).stopped().len(), 1);
    let other = stage.joins(guest(), 2);
    let outputs = stage.ask(&other, expose(1, "mine", "8080", false));
    assert_eq!(outputs.told(&other), [granted(1, "8080")]);
}

#[test]
fn a_client_that_leaves_has_its_ports_closed_and_kept_for_its_key() {
    let mut stage = begin_with_ports(&["8080-8089"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "web", "8080", false));
    assert_eq!(stage.hear(client.control, ControlFrame::Drain).stopped().len(), 1);
    stage.gone(client.control, CloseReason::Drained);
    let other = stage.joins(guest(), 2);
    let outputs = stage.ask(&other, expose(1, "mine", "8080-8089", false));
    assert_eq!(outputs.told(&other), [denied(1, Denial::PortTaken)]);
    // Another publication of its key may have them, and so may the same one.
    let again = stage.joins(office(), 3);
    let outputs = stage.ask(&again, expose(1, "renamed", "8080", false));
    assert_eq!((outputs.listens_at(), outputs.told(&again)), (vec![8080], vec![granted(1, "8080")]));
    stage.hear(again.control, ControlFrame::Drain);
    let same = stage.joins(office(), 4);
    let outputs = stage.ask(&same, expose(1, "renamed", "8080", false));
    assert_eq!((outputs.listens_at(), outputs.told(&same)), (vec![8080], vec![granted(1, "8080")]));
    stage.hear(same.control, ControlFrame::Drain);
    // A day later they are free, and who was denied is told so.
    let mut outputs = Outputs::default();
    for _ in 0..24 * 3600 / 20 {
        let more = stage.wait(secs(20));
        if more.pinged(&other) {
            stage.hear(other.control, ControlFrame::Pong);
        }
        outputs.0.extend(stage.bind(more, &[]).0);
    }
    assert_eq!(outputs.told(&other), [granted(1, "8080-8089")]);
}

#[test]
fn running_sessions_of_a_client_that_leaves_go_on_though_its_port_has_another_name() {
    let mut stage = begin_with_ports(&["8080"]);
    let mut client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "web", "8080", false));
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user_at(8080);
    stage.accepted_and_started(message);
    stage.hear(client.control, ControlFrame::Drain);
    let again = stage.joins(office(), 2);
    let outputs = stage.ask(&again, expose(1, "renamed", "8080", false));
    assert_eq!(outputs.told(&again), [granted(1, "8080")]);
    assert!(outputs.closes().iter().all(|close| close.0 != user));
}

#[test]
fn unpublishing_frees_ports_for_who_was_denied_and_ends_their_sessions() {
    let mut stage = begin_with_ports(&["8080"]);
    let (mut client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    stage.ask(&client, expose(1, "web", "8080", false));
    let outputs = stage.ask(&other, expose(7, "mine", "8080", false));
    assert_eq!(outputs.told(&other), [denied(7, Denial::PortTaken)]);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user_at(8080);
    stage.accepted_and_started(message);
    let outputs = stage.hear(client.control, ControlFrame::Unpublish(1));
    assert_eq!((outputs.stopped().len(), outputs.listens_at()), (1, vec![8080]));
    assert_eq!(outputs.closes(), [(user, CloseReason::Removed, Manner::Reset)]);
    assert_eq!(stage.bind(outputs, &[]).told(&other), [granted(7, "8080")]);
}

#[test]
fn whoever_comes_with_a_key_after_a_client_of_it_was_lost_may_have_its_ports() {
    let mut stage = begin_with_ports(&["27000-27001"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "old", "27000", false));
    // What is denied to one that is there stays kept for the other, which may come back.
    let beside = stage.joins(office(), 2);
    let outputs = stage.ask(&beside, expose(1, "both", "27000-27001", false));
    assert_eq!(outputs.told(&beside), [denied(1, Denial::PortTaken)]);
    stage.wait(millis(1));
    let outputs = stage.killed(&client);
    assert_eq!(stage.bind(outputs, &[]).told(&beside), []);
    let outputs = stage.ask(&beside, expose(2, "more", "27000-27001", false));
    assert_eq!(outputs.told(&beside), [denied(2, Denial::PortTaken)]);
    stage.killed(&beside);
    let again = stage.joins(office(), 3);
    let outputs = stage.ask(&again, expose(1, "new", "27000-27001", false));
    assert_eq!(outputs.told(&again), [granted(1, "27000-27001")]);
    // Other keys have no right to it.
    stage.killed(&again);
    let other = stage.joins(guest(), 4);
    let outputs = stage.ask(&other, expose(1, "new", "27000", false));
    assert_eq!(outputs.told(&other), [denied(1, Denial::PortTaken)]);
}

#[test]
fn of_two_keys_that_race_for_a_port_one_wins_and_the_other_is_told() {
    let mut stage = begin_with_ports(&["8080"]);
    let (one, two) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    let asked = stage.hear(one.control, expose(1, "web", "8080", false));
    let outputs = stage.hear(two.control, expose(1, "web", "8080", false));
    assert_eq!(outputs.told(&two), [denied(1, Denial::PortTaken)]);
    assert_eq!(stage.bind(asked, &[]).told(&one), [granted(1, "8080")]);
}

#[test]
fn a_second_client_is_denied_what_the_first_has_once_that_one_answers_a_ping() {
    let mut stage = begin_with_ports(&["8080"]);
    let (one, two) = (stage.joins(office(), 1), stage.joins(office(), 2));
    stage.ask(&one, expose(1, "web", "8080", false));
    let outputs = stage.ask(&two, expose(1, "web", "8080", false));
    assert!(!outputs.pinged(&one) && outputs.told(&two).is_empty(), "it was pinged just now");
    assert!(stage.wait(millis(100)).pinged(&one));
    let outputs = stage.hear(one.control, ControlFrame::Pong);
    assert_eq!(outputs.told(&two), [denied(1, Denial::AlreadyPublishedBy(peer()))]);
    let old = stage.greet(Hello { capabilities: Capabilities::default(), ..hello(3) }).0;
    stage.ask(&old, expose(1, "web", "8080", false));
    let outputs = stage.hear(one.control, ControlFrame::Pong);
    assert_eq!(outputs.told(&old), [denied(1, Denial::AlreadyPublished)], "it does not read addresses");
    stage.killed(&old);
    // As soon as the first one is gone the second has it.
    let outputs = stage.killed(&one);
    assert_eq!((outputs.told(&two), outputs.stopped()), (vec![granted(1, "8080")], vec![]));
}

#[test]
fn a_first_client_that_does_not_answer_is_given_up_and_the_second_has_its_ports() {
    let mut stage = begin_with_ports(&["8080"]);
    let (one, two) = (stage.joins(office(), 1), stage.joins(office(), 2));
    stage.ask(&one, expose(1, "web", "8080", false));
    stage.wait(secs(3));
    let asked = stage.ask(&two, expose(1, "web", "8080", false));
    assert!(asked.pinged(&one));
    assert_eq!(stage.wait(millis(999)).closes(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(one.control, CloseReason::NoPong, Manner::Reset)]);
    assert_eq!(outputs.told(&two), [granted(1, "8080")]);
}

#[test]
fn an_answer_to_an_older_ping_does_not_say_that_the_first_client_is_there() {
    let mut stage = begin_with_ports(&["8080"]);
    let (one, two) = (stage.joins(office(), 1), stage.joins(office(), 2));
    stage.ask(&one, expose(1, "web", "8080", false));
    assert!(stage.wait(secs(10)).pinged(&one));
    stage.wait(millis(10));
    stage.hear(two.control, ControlFrame::Pong);
    assert!(!stage.ask(&two, expose(1, "web", "8080", false)).pinged(&one));
    let outputs = stage.hear(one.control, ControlFrame::Pong);
    assert_eq!(outputs.told(&two), []);
    let outputs = stage.wait(secs(1));
    assert!(outputs.pinged(&one));
    assert_eq!(outputs.told(&two), [granted(1, "8080")]);
}

#[test]
fn clients_that_both_say_so_share_their_ports() {
    let mut stage = begin_with_ports(&["8080"]);
    let (mut one, mut two, three) =
        (stage.joins(office(), 1), stage.joins(office(), 2), stage.joins(office(), 3));
    stage.ask(&one, expose(1, "web", "8080", true));
    let outputs = stage.ask(&two, expose(4, "web", "8080", true));
    assert_eq!((outputs.told(&two), outputs.listens()), (vec![granted(4, "8080")], vec![]));
    let messages = [stage.bring(&mut one).0, stage.bring(&mut two).0];
    let mut served = [stage.user_at(8080).1, stage.user_at(8080).1].map(|outputs| outputs.pairs()[0].0);
    served.sort();
    assert_eq!(served, messages);
    messages.into_iter().for_each(|message| stage.accepted_and_started(message));
    stage.wait(secs(1));
    stage.ask(&three, expose(1, "web", "8080", false));
    let outputs = stage.hear(one.control, ControlFrame::Pong);
    assert_eq!(outputs.told(&three), [denied(1, Denial::AlreadyPublishedBy(peer()))], "it does not share");
    // The ports stay as long as one is there.
    assert_eq!(stage.hear(one.control, ControlFrame::Unpublish(1)).stopped(), []);
    assert_eq!(stage.hear(two.control, ControlFrame::Unpublish(4)).stopped().len(), 1);
}

#[test]
fn a_client_has_the_ports_of_one_that_leaves_without_a_moment_between() {
    let mut stage = begin_with_ports(&["8080"]);
    let (one, two) = (stage.joins(office(), 1), stage.joins(office(), 2));
    stage.ask(&one, expose(1, "web", "8080", false));
    stage.wait(secs(1));
    stage.ask(&two, expose(1, "web", "8080", false));
    stage.hear(one.control, ControlFrame::Pong);
    let outputs = stage.hear(one.control, ControlFrame::Drain);
    assert_eq!((outputs.told(&two), outputs.stopped()), (vec![granted(1, "8080")], vec![]));
    // One that comes after it was said does not wait for an answer.
    let mut stage = begin_with_ports(&["8080"]);
    let one = stage.joins(office(), 1);
    stage.ask(&one, expose(1, "web", "8080", false));
    stage.hear(one.control, ControlFrame::Drain);
    let two = stage.joins(office(), 2);
    assert_eq!(stage.ask(&two, expose(1, "web", "8080", false)).told(&two), [granted(1, "8080")]);
}

#[test]
fn a_publication_that_comes_again_with_other_ports_gives_the_old_ones_back() {
    let mut stage = begin_with_ports(&["100-119"]);
    let client = stage.joins(office(), 1);
    stage.ask(&client, expose(1, "game", "100-109", false));
    stage.killed(&client);
    let again = stage.joins(office(), 2);
    let outputs = stage.ask(&again, expose(1, "game", "105-119", false));
    assert_eq!((outputs.stopped().len(), outputs.listens().len()), (10, 15));
    assert_eq!(outputs.told(&again), [granted(1, "105-119")]);
}

#[test]
fn a_listener_that_is_wanted_no_more_is_closed_once_it_is_there() {
    let mut stage = begin_with_ports(&["8080"]);
    let client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "web", "8080", false)).listens();
    assert_eq!(stage.hear(client.control, ControlFrame::Unpublish(1)).stopped(), []);
    let outputs = stage.tell(Input::Listening { id: asked[0].0, address: at(8080) });
    assert_eq!((outputs.stopped(), outputs.told(&client)), (vec![asked[0].0], vec![]));
}

#[test]
fn listeners_take_room_from_users_down_to_half_and_are_then_refused() {
    let mut few = limits();
    few.share_descriptors(1_000);
    let mut stage = begin_with_rules(PortRules::All, few.clone());
    let client = stage.joins(office(), 1);
    let most = few.ports_at_most(1, 2);
    let outputs = stage.ask(&client, expose(1, "a", &format!("2000-{}", 2000 + most), false));
    assert_eq!(outputs.told(&client), [denied(1, Denial::Limit)]);
    let outputs = stage.ask(&client, expose(2, "b", &format!("2000-{}", 2000 + most / 4 - 1), false));
    assert_eq!(outputs.users_limit(), Some(few.users_at_most(1, most / 4)));
    // Who has more than a quarter gets none of the last quarter, but others do.
    let outputs = stage.ask(&client, expose(3, "c", &format!("5000-{}", 5000 + most * 5 / 8), false));
    assert_eq!(outputs.told(&client), [denied(3, Denial::Limit)]);
    let other = stage.joins(guest(), 2);
    let outputs = stage.ask(&other, expose(3, "c", &format!("6000-{}", 6000 + most / 4 - 1), false));
    assert!(matches!(outputs.told(&other)[..], [ControlFrame::Granted { .. }]));
    // What was denied for want of room is granted when there is some.
    assert_eq!(stage.hear(client.control, ControlFrame::Unpublish(2)).told(&client), []);
    let outputs = stage.hear(other.control, ControlFrame::Unpublish(3));
    let said = stage.bind(outputs, &[]).told(&client);
    assert_eq!(said, [granted(3, &format!("5000-{}", 5000 + most * 5 / 8))]);
}

#[test]
fn a_number_names_one_publication_whatever_it_is_of() {
    let mut stage = begin_with_ports(&["8080-8081"]);
    let client = stage.client(1);
    let outputs = stage.ask(&client, expose(1, "x", "8080", false));
    assert_eq!(outputs.told(&client), [denied(1, Denial::AlreadyPublished)]);
    stage.ask(&client, expose(2, "x", "8080", true));
    for frame in [expose(2, "y", "8081", false), publish(2, "ssh")] {
        assert_eq!(stage.ask(&client, frame).told(&client), [denied(2, Denial::AlreadyPublished)]);
    }
    for (number, share) in [(3, false), (4, true)] {
        let outputs = stage.ask(&client, expose(number, "x", "8080", share));
        assert_eq!(
            outputs.told(&client),
            [denied(number, Denial::AlreadyPublishedBy(peer()))],
            "it has it itself"
        );
    }
}

#[test]
fn a_service_of_ports_cannot_be_named_by_others() {
    let mut stage = begin_with_ports(&["8080"]);
    let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    stage.ask(&client, expose(1, "private", "8080", false));
    let outputs = stage.ask(&other, publish(1, "private"));
    assert_eq!(outputs.told(&other), [denied(1, Denial::UnknownService)]);
}

#[test]
fn a_server_that_drains_grants_nothing_any_more() {
    let mut stage = begin_with_ports(&["8080"]);
    let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    stage.ask(&client, expose(1, "web", "8080", false));
    stage.ask(&other, expose(1, "web", "8080", false));
    stage.drain();
    let outputs = stage.hear(client.control, ControlFrame::Unpublish(1));
    assert_eq!((outputs.listens(), outputs.told(&other)), (vec![], vec![]));
    let outputs = stage.ask(&other, expose(2, "other", "8080", false));
    assert_eq!((outputs.listens(), outputs.told(&other)), (vec![], vec![]));
}

#[test]
fn a_policy_that_no_longer_allows_ports_frees_them_at_once_and_one_that_does_grants_them() {
    let keys = || vec![key("office", 7), key("guest", 8)];
    let of = |texts: &[&str]| {
        Policies::Each([(name("office"), policy(texts)), (name("guest"), policy(&["8080"]))].into())
    };
    let mut stage = begin_as(ServerConfig { policies: of(&["8080-8089"]), keys: keys(), ..config(limits()) });
    let (mut client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    stage.ask(&client, expose(1, "web", "8080", false));
    stage.ask(&client, expose(2, "stays", "8089", false));
    assert_eq!(
        stage.ask(&other, expose(7, "mine", "8080", false)).told(&other),
        [denied(7, Denial::PortTaken)]
    );
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user_at(8080);
    stage.accepted_and_started(message);
    let outputs = stage.change(of(&["8089"]), keys());
    assert_eq!(outputs.told(&client), [ControlFrame::Withdrawn { number: 1, reason: Denial::Policy }]);
    assert_eq!(outputs.closes(), [(user, CloseReason::Policy, Manner::Reset)]);
    assert_eq!((outputs.stopped().len(), outputs.told(&other)), (1, vec![granted(7, "8080")]));
    // What was withdrawn comes back by itself.
    stage.hear(other.control, ControlFrame::Unpublish(7));
    let outputs = stage.change(of(&["8080-8089"]), keys());
    assert_eq!(outputs.told(&client), [granted(1, "8080")]);
}

fn policy(texts: &[&str]) -> Policy {
    Policy { ports: rules(texts), ..Policy::default() }
}

#[test]
fn a_key_that_is_revoked_loses_its_ports_at_once_those_of_an_absent_client_too() {
    let mut stage = begin_with_ports(&["8080-8089"]);
    let (gone, client, other) = (stage.joins(office(), 1), stage.joins(office(), 2), stage.joins(guest(), 3));
    stage.ask(&gone, expose(1, "web", "8080", false));
    stage.killed(&gone);
    stage.ask(&client, expose(1, "mine", "8081", false));
    stage.ask(&other, expose(1, "x", "8080-8081", false));
    let outputs = stage.change(Policies::Alike(rules(&["8080-8089"])), vec![key("guest", 8)]);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::KeyRevoked, Manner::Reset)]);
    assert_eq!((outputs.stopped().len(), outputs.told(&other)), (2, vec![granted(1, "8080-8081")]));
}

#[test]
fn a_key_that_opens_and_closes_without_end_waits_for_its_turn() {
    let mut stage = begin_with_ports(&["20000-20999", "30000"]);
    let (client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    let mut opened = 0;
    for number in 1..30 {
        opened += stage.ask(&client, expose(number, "game", "20000-20999", false)).listens().len();
        stage.hear(client.control, ControlFrame::Unpublish(number));
    }
    assert_eq!(opened, 11_000);
    assert_eq!(stage.ask(&other, expose(1, "web", "30000", false)).told(&other), [granted(1, "30000")]);
    let waits = stage.ask(&client, expose(30, "game", "20000-20999", false));
    assert_eq!((waits.listens(), waits.told(&client)), (vec![], vec![]));
    let outputs = stage.wait(secs(1));
    assert_eq!(outputs.listens().len(), 1_000);
    assert_eq!(stage.bind(outputs, &[]).told(&client), [granted(30, "20000-20999")]);
}

#[test]
fn users_of_ports_are_counted_for_the_publication_and_afterwards_for_its_key() {
    let mut stage = begin_with_ports(&["20000-20009"]);
    let client = stage.joins(guest(), 1);
    stage.ask(&client, expose(1, "game", "20000", false));
    let (user, _) = stage.user_at(20000);
    stage.gone(user, CloseReason::PeerClosed);
    let game = stage.service("game");
    assert_eq!((&game.exposed_by, game.addresses.join(",")), (&Some(name("guest")), "*:20000".into()));
    assert_eq!((game.figures.total, stage.snapshot().totals.gone), (1, vec![]));
    stage.hear(client.control, ControlFrame::Unpublish(1));
    let snapshot = stage.snapshot();
    assert!(snapshot.services.iter().all(|it| it.exposed_by.is_none()), "{snapshot:?}");
    assert_eq!(snapshot.totals.gone, [(name("guest"), game.figures)]);
}

#[test]
fn a_key_that_expires_loses_the_ports_of_an_absent_client_at_that_moment() {
    let wall = |seconds| Some(SystemTime::UNIX_EPOCH + secs(seconds));
    let until = |seconds| {
        let office = Policy { expires: wall(seconds), ..policy(&["8080-8089"]) };
        Policies::Each([(name("office"), office), (name("guest"), policy(&["8080-8089"]))].into())
    };
    for (state, stops) in [("lost", 1), ("drained", 0)] {
        let mut stage = begin_with_policies(until(20), limits());
        let (gone, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
        stage.ask(&gone, expose(1, "web", "8080", false));
        if state == "drained" {
            stage.hear(gone.control, ControlFrame::Drain);
        }
        stage.killed(&gone);
        let told = stage.ask(&other, expose(1, "x", "8080", false)).told(&other);
        assert_eq!(told, [denied(1, Denial::PortTaken)]);
        let keys = vec![key("office", 7), key("guest", 8)];
        assert_eq!(stage.change(until(25), keys).told(&other), [], "its end is put off");
        assert_eq!(stage.wait(secs(25) - millis(1)).told(&other), []);
        let outputs = stage.wait(millis(1));
        assert_eq!(outputs.stopped().len(), stops, "{state}");
        assert_eq!(stage.bind(outputs, &[]).told(&other), [granted(1, "8080")], "{state}");
    }
    // One that is over at a reload, and one that is over after the system slept.
    let mut stage = begin_with_policies(until(20), limits());
    let gone = stage.joins(office(), 1);
    stage.ask(&gone, expose(1, "web", "8080-8082", false));
    stage.killed(&gone);
    assert_eq!(stage.tell(Input::ClockSet { wall: SystemTime::UNIX_EPOCH + secs(19) }).stopped(), []);
    assert_eq!(stage.wait(secs(1)).stopped().len(), 3);
}

#[test]
fn users_of_a_key_that_may_do_nothing_any_more_are_told_why() {
    let until = |seconds| {
        let expires = Some(SystemTime::UNIX_EPOCH + secs(seconds));
        let office = Policy { expires, services: Services::All, ..policy(&["8080"]) };
        Policies::Each([(name("office"), office)].into())
    };
    for (reason, away) in [
        (CloseReason::KeyExpired, false),
        (CloseReason::KeyExpired, true),
        (CloseReason::KeyRevoked, false),
        (CloseReason::KeyRevoked, true),
    ] {
        let mut stage = begin_with_policies(until(3), limits());
        let mut client = stage.joins(office(), 1);
        stage.hear(client.control, publish(1, "ssh"));
        stage.ask(&client, expose(2, "web", "8080", false));
        let mut ending = Vec::new();
        // Users of declared services end with their message connection.
        for port in [8080, SSH] {
            let (message, _) = stage.bring(&mut client);
            if away && port == 8080 {
                stage.killed(&client);
            }
            let (user, outputs) = stage.user_at(port);
            client.note(&outputs);
            ending.push(if port == SSH { message } else { user });
            if away {
                break;
            }
            stage.accepted_and_started(message);
        }
        let outputs = match reason {
            CloseReason::KeyExpired => stage.wait(secs(3)),
            _ => stage.change(until(3), vec![key("guest", 8)]),
        };
        let closes = outputs.closes();
        for id in ending {
            let first = closes.iter().find(|close| close.0 == id);
            assert_eq!(first, Some(&(id, reason, Manner::Reset)), "{away}: {closes:?}");
        }
    }
}

#[test]
fn a_client_that_shares_from_now_on_loses_nothing_and_others_join_it() {
    let mut stage = begin_with_ports(&["8080"]);
    let (mut one, two) = (stage.joins(office(), 1), stage.joins(office(), 2));
    stage.ask(&one, expose(1, "web", "8080", false));
    let (message, _) = stage.bring(&mut one);
    let (user, _) = stage.user_at(8080);
    stage.accepted_and_started(message);
    stage.wait(secs(1));
    stage.ask(&two, expose(1, "web", "8080", false));
    let told = stage.hear(one.control, ControlFrame::Pong).told(&two);
    assert_eq!(told, [denied(1, Denial::AlreadyPublishedBy(peer()))]);
    // Both must say so, in whichever order.
    stage.wait(secs(1));
    let outputs = stage.ask(&two, expose(1, "web", "8080", true));
    assert!(outputs.told(&two).is_empty() && outputs.closes().is_empty());
    stage.hear(one.control, ControlFrame::Pong);
    let outputs = stage.ask(&one, expose(1, "web", "8080", true));
    assert_eq!((outputs.told(&one), outputs.closes()), (vec![], vec![]), "and not {user}");
    assert_eq!(outputs.told(&two), [granted(1, "8080")]);
}

#[test]
fn a_client_that_comes_back_has_its_ports_still_and_is_told_so_again() {
    let mut stage = begin_with_ports(&["100-200"]);
    let mut client = stage.client(1);
    stage.ask(&client, expose(2, "game", "100-101", false));
    let denial = denied(3, Denial::Policy);
    let said = stage.ask(&client, expose(3, "far", "300", false)).said(client.control);
    assert_eq!(said.first(), Some(&denial));
    let (control, _) = stage.control();
    let resumes = Some(Resumes { link: client.link, publications: 2 });
    let outputs = stage.hear(control, ControlFrame::Hello(Hello { resumes, ..hello(1) }));
    client.control = control;
    assert_eq!((outputs.listens_at(), outputs.stopped()), (vec![], vec![]));
    let outputs = stage.ask(&client, expose(2, "game", "100-101", false));
    assert_eq!((outputs.said(control), outputs.listens_at()), (vec![granted(2, "100-101")], vec![]));
    assert_eq!(stage.ask(&client, expose(3, "far", "300", false)).said(control), [denial]);
    // The declared service was not said again.
    assert_eq!(stage.user().1.starts(), []);
    let outputs = stage.hear(control, ControlFrame::Unpublish(2));
    assert_eq!(outputs.stopped().len(), 2);
}
