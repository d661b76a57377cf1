//! Another control connection takes the place of a silent one.

use skyorg::wire::control::Resumes;

use super::*;

/// A server owes a ping after this time, and an answer after `late` more.
fn owed() -> Duration {
    HEARTBEAT / 3 + Limits::default().late
}

fn late() -> Duration {
    Limits::default().late
}

fn able() -> Welcome {
    Welcome { capabilities: Capabilities::new(false), ..welcome() }
}

/// A client with one message connection, at a server that lets links go on; its control connection.
fn standing() -> (Stage, ConnId, ConnId) {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.wait(millis(1));
    stage.connected(control);
    stage.hear(control, ControlFrame::Welcome(able()));
    let message = stage.message(control, 1);
    (stage, control, message)
}

/// The same, and the server owes an answer: another control connection is on its way.
fn sought() -> (Stage, ConnId, ConnId, ConnId) {
    let (mut stage, control, message) = standing();
    let outputs = stage.wait(owed() + late());
    assert_eq!(outputs.controls(), [address("192.0.2.1:33335")]);
    let rival = stage.dialling(Dialled::Control);
    (stage, control, message, rival)
}

/// The same, and that one has said Hello.
fn greeted() -> (Stage, ConnId, ConnId, ConnId) {
    let (mut stage, control, message, rival) = sought();
    assert_eq!(stage.connected(rival).said(rival).len(), 3);
    (stage, control, message, rival)
}

#[test]
fn a_server_that_owes_an_answer_is_dialled_at_its_control_port_unless_it_is_too_old_for_that() {
    for capabilities in [Capabilities::new(false), Capabilities::default()] {
        let (mut stage, _) = begin(config());
        let control = stage.dialling(Dialled::Control);
        stage.connected(control);
        stage.hear(control, ControlFrame::Welcome(Welcome { capabilities, ..welcome() }));
        assert_eq!(stage.wait(owed() + late() - millis(1)).controls(), []);
        let dials = stage.wait(millis(1)).controls().len();
        assert_eq!(dials, usize::from(capabilities.resumes()));
    }
}

#[test]
fn it_says_which_link_goes_on_and_all_that_is_published_and_that_once_it_is_proved() {
    let (mut stage, _, _, rival) = sought();
    let said = stage.connected(rival).said(rival);
    let [ControlFrame::Hello(hello), rest @ ..] = &said[..] else { panic!("{said:?}") };
    assert_eq!(hello.resumes, Some(Resumes { link: [4; 16], publications: 2 }));
    let numbers = rest.iter().map(|frame| match frame {
        ControlFrame::Publish(publish) => publish.number,
        _ => panic!("{frame:?}"),
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_first_link_goes_on_from_nothing() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    let said = stage.connected(control).said(control);
    assert!(matches!(&said[0], ControlFrame::Hello(Hello { resumes: None, .. })), "{said:?}");
}

#[test]
fn if_the_old_one_is_heard_before_that_nothing_has_changed() {
    let (mut stage, control, _, rival) = sought();
    let outputs = stage.hear(control, ControlFrame::Pong);
    assert_eq!(outputs.closes(), [(rival, CloseReason::Retired, Manner::Reset)]);
    assert!(stage.connected(rival).is_silent());
    stage.gone(rival, CloseReason::Retired);
    assert_eq!(stage.wait(owed() - millis(1)).controls(), []);
    assert_eq!(stage.hear(control, ControlFrame::Ping).said(control), [ControlFrame::Pong]);
}

#[test]
fn a_dial_that_is_asked_for_and_has_not_begun_is_not_wanted_either() {
    let (mut stage, control, _) = standing();
    stage.wait(owed() + late());
    stage.hear(control, ControlFrame::Pong);
    let rival = stage.id();
    let outputs = stage.tell(Input::Dialling { id: rival, purpose: Dialled::Control });
    assert_eq!(outputs.closes(), [(rival, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn it_takes_the_place_of_the_old_one_and_the_link_goes_on_with_its_sessions() {
    let (mut stage, control, message, rival) = greeted();
    stage.start(message, start(1, 0));
    let since = stage.snapshot().links[0].since;
    let outputs = stage.hear(rival, ControlFrame::Welcome(able()));
    assert_eq!(outputs.closes(), [(control, CloseReason::Replaced, Manner::Reset)]);
    let silence = owed() + late();
    let (link, before, address) = (rival, Some(control), address("192.0.2.1:33335"));
    assert_eq!(outputs.facts(), [&Fact::ServerBack { link, before, address, silence }]);
    assert!(stage.gone(control, CloseReason::Replaced).is_silent());
    assert_eq!(stage.snapshot().links[0].since, since);
    // What is asked for there is dialled, and the session that runs is known.
    let outputs = stage.hear(rival, ControlFrame::Open { first_ticket: 9, count: 1 });
    assert_eq!(outputs.tickets().len(), 1);
    let other = stage.dialling(Dialled::Message(outputs.message_links()[0]));
    stage.connected(other);
    assert_eq!(stage.start(other, start(2, 1)).aborts(), [(other, AbortReason::Duplicate)]);
    // The next silence is noticed as the first one was.
    stage.hear(rival, ControlFrame::Ping);
    assert_eq!(stage.wait(owed()).said(rival), [ControlFrame::Ping]);
    assert_eq!(stage.wait(late()).controls().len(), 1);
}

#[test]
fn what_the_old_one_says_after_hello_counts_and_holds_nothing_up() {
    let (mut stage, control, _, rival) = greeted();
    assert_eq!(stage.hear(control, ControlFrame::Ping).said(control), [ControlFrame::Pong]);
    let outputs = stage.hear(rival, ControlFrame::Welcome(able()));
    assert_eq!(outputs.closes(), [(control, CloseReason::Replaced, Manner::Reset)]);
}

#[test]
fn a_welcome_to_another_link_ends_the_old_one_at_once() {
    let (mut stage, control, message, rival) = greeted();
    let outputs = stage.hear(rival, ControlFrame::Welcome(Welcome { link: [6; 16], ..able() }));
    assert_eq!(outputs.closes(), [(control, CloseReason::LinkLost, Manner::Reset)]);
    let outputs = stage.gone(control, CloseReason::LinkLost);
    assert_eq!(outputs.closes(), [(message, CloseReason::LinkLost, Manner::Reset)]);
    assert_eq!(outputs.controls(), [], "the new link stands");
    assert_eq!(stage.hear(rival, ControlFrame::Ping).said(rival), [ControlFrame::Pong]);
    assert_eq!(stage.snapshot().links.len(), 1);
}

#[test]
fn an_old_one_that_ends_before_the_welcome_takes_the_link_with_it() {
    let (mut stage, control, message, rival) = greeted();
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    let reset =
        [(message, CloseReason::LinkLost, Manner::Reset), (rival, CloseReason::Retired, Manner::Reset)];
    assert_eq!(outputs.closes(), reset);
    stage.gone(rival, CloseReason::Retired);
    stage.wait(outputs.pause());
    let control = stage.dialling(Dialled::Control);
    let said = stage.connected(control).said(control);
    assert!(matches!(&said[0], ControlFrame::Hello(Hello { resumes: None, .. })), "{said:?}");
}

#[test]
fn while_none_is_proved_one_is_dialled_every_half_second_and_two_are_on_their_way_at_most() {
    let (mut stage, control, _, rival) = sought();
    let (mut standing, mut dials) = (vec![rival], 1);
    for _ in 0..40 {
        let outputs = stage.wait(millis(125));
        assert!(outputs.closes().iter().all(|it| it.0 != control), "{outputs:?}");
        standing.retain(|id| outputs.closes().iter().all(|close| close.0 != *id));
        for _ in outputs.controls() {
            dials += 1;
            standing.push(stage.dialling(Dialled::Control));
        }
        assert!(standing.len() <= 2, "{standing:?}");
    }
    assert!((9..=11).contains(&dials), "{dials} in 5 s");
}

#[test]
fn one_that_is_refused_is_dialled_again_and_people_hear_once_that_the_server_is_silent() {
    let (mut stage, control, _, mut rival) = sought();
    let mut told = Vec::new();
    for _ in 0..10 {
        let mut outputs = stage.gone(rival, REFUSED);
        outputs.0.extend(stage.wait(millis(700)).0);
        told.extend(outputs.facts().into_iter().cloned());
        assert_eq!(outputs.controls().len(), 1);
        rival = stage.dialling(Dialled::Control);
    }
    told.retain(|fact| !matches!(fact, Fact::NextAttempt { .. }));
    let silence = owed() + secs(3);
    assert_eq!(told, [Fact::ServerSilent { link: control, silence }]);
    let outputs = stage.hear(control, ControlFrame::Pong);
    let silence = owed() + late() + millis(7_000);
    let (before, address) = (None, address("192.0.2.1:33335"));
    assert_eq!(outputs.facts(), [&Fact::ServerBack { link: control, before, address, silence }]);
}

#[test]
fn what_is_granted_again_is_no_news_unless_it_is_elsewhere() {
    let (mut stage, control, _) = standing();
    let granted = |port| {
        let ports = Ports { first: port, last: port };
        let addresses = vec![GrantedAddress { ip: "::".parse().expect("an address"), ports }];
        ControlFrame::Granted { number: 1, addresses, is_probed: false }
    };
    assert_eq!(stage.hear(control, granted(80)).facts().len(), 1);
    stage.wait(owed() + late());
    let rival = stage.dialling(Dialled::Control);
    stage.connected(rival);
    stage.hear(rival, ControlFrame::Welcome(able()));
    assert_eq!(stage.hear(rival, granted(80)).facts().len(), 0);
    assert_eq!(stage.hear(rival, granted(81)).facts().len(), 1);
}

#[test]
fn a_client_that_leaves_says_so_on_the_one_that_took_the_place() {
    let (mut stage, _, _, rival) = greeted();
    stage.tell(Input::Drain);
    let outputs = stage.hear(rival, ControlFrame::Welcome(able()));
    assert_eq!(outputs.said(rival), [ControlFrame::Drain]);
}
