//! The way to the server.

use super::*;

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
fn a_server_has_the_time_of_a_handshake_to_take_the_connection_and_again_to_welcome() {
    let (mut stage, outputs) = begin(config());
    let [Output::Dial { deadline, .. }] = outputs.0[1..] else { panic!("{outputs:?}") };
    assert_eq!(deadline, stage.now + Limits::default().handshake);
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert_eq!(stage.wait(Limits::default().handshake - millis(1)).closes(), []);
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
fn while_no_dial_is_answered_others_follow_at_a_steady_pace_and_the_first_goes_on() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    let took = millis(200);
    stage.wait(took);
    stage.connected(control);
    stage.hear(control, ControlFrame::Welcome(welcome()));
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.wait(pause);
    let first = stage.dialling(Dialled::Control);
    stage.wait(2 * took);
    let mut rival = stage.dialling(Dialled::Control);
    for _ in 0..60 {
        assert_eq!(stage.wait(4 * took - millis(1)).controls(), []);
        let outputs = stage.wait(millis(1));
        assert_eq!(outputs.controls().len(), 1);
        assert_eq!(outputs.closes(), [(rival, CloseReason::Retired, Manner::Reset)], "the line may be slow");
        assert_eq!(stage.gone(rival, CloseReason::Retired).dials().len(), 0);
        rival = stage.dialling(Dialled::Control);
    }
    let outputs = stage.connected(rival);
    assert_eq!(outputs.closes(), [(first, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn where_no_server_was_ever_found_each_dial_has_as_long_as_all_before_it() {
    let (mut stage, _) = begin(config());
    let mut dials = vec![stage.dialling(Dialled::Control)];
    let begun = stage.now;
    let mut told = Vec::new();
    while stage.now < begun + HEARTBEAT {
        let outputs = stage.wait(millis(250));
        if outputs.controls().len() == 1 {
            told.push((stage.now - begun).as_millis());
            dials.push(stage.dialling(Dialled::Control));
        }
    }
    assert_eq!(told, [250, 750, 1_500, 3_000, 6_000, 12_000, 24_000]);
}

#[test]
fn people_are_told_once_of_a_server_that_does_not_answer() {
    let (mut stage, _) = begin(config());
    stage.dialling(Dialled::Control);
    let begun = stage.now;
    let mut told = 0;
    while stage.now < begun + HEARTBEAT {
        let outputs = stage.wait(millis(250));
        told += outputs.facts().len();
        assert!(told == 0 || stage.now >= begun + Limits::default().late_told);
        for _ in outputs.controls() {
            stage.dialling(Dialled::Control);
        }
    }
    assert_eq!(told, 1);
}

#[test]
fn of_several_addresses_each_is_dialled_in_turn_while_none_answers() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("gw.example:33335"), ..config() });
    let [id] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    let mut dialled = stage.resolved(id, &["192.0.2.1:33335", "192.0.2.2:33335"]).controls();
    for _ in 0..40 {
        stage.dialling(Dialled::Control);
        dialled.extend(stage.wait(secs(1)).controls());
    }
    let first = dialled.iter().filter(|&&it| it == dialled[0]).count();
    assert!(first >= 3 && dialled.len() - first >= 3, "{dialled:?}");
}

#[test]
fn a_dial_that_was_given_up_and_is_proved_at_that_moment_changes_nothing() {
    let (mut stage, _) = begin(config());
    let first = stage.dialling(Dialled::Control);
    stage.wait(Limits::default().late);
    let rival = stage.dialling(Dialled::Control);
    stage.wait(Limits::default().retry);
    let next = stage.dialling(Dialled::Control);
    assert!(stage.connected(rival).is_silent());
    let outputs = stage.connected(next);
    assert_eq!(outputs.closes(), [(first, CloseReason::Retired, Manner::Reset)]);
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
fn a_server_that_takes_a_dial_and_does_not_answer_is_left_for_a_pause_though_another_is_on_its_way() {
    let (mut stage, _) = begin(config());
    let late = stage.dialling(Dialled::Control);
    stage.wait(Limits::default().late);
    let rival = stage.dialling(Dialled::Control);
    let outputs = stage.gone(late, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(rival, CloseReason::Retired, Manner::Reset)]);
    let [Fact::ServerUnproved { .. }, Fact::NextAttempt { .. }] = outputs.facts()[..] else {
        panic!("{outputs:?}")
    };
    assert!(stage.gone(rival, CloseReason::Retired).facts().is_empty());
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
fn a_server_that_nobody_answers_for_is_sought_every_half_second_however_long_it_is_away() {
    let (mut stage, _) = begin(config());
    let pause = stage.wait_unanswered(secs(600));
    assert!((millis(375)..=millis(625)).contains(&pause), "{pause:?}");
    let control = stage.link();
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    assert_eq!(pause, Limits::default().reconnect.0, "what was not answered is no failure of the server");
}

#[test]
fn pauses_grow_where_one_address_answers_wrongly_and_no_other_does() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("gw.example:33335"), ..config() });
    let [id] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    let (begun, mut attempts) = (stage.now, 0);
    while stage.now < begun + secs(600) {
        stage.resolved(id, &["192.0.2.1:33335", "192.0.2.2:33335"]);
        let wrong = stage.dialling(Dialled::Control);
        stage.gone(wrong, CloseReason::PeerClosed);
        let other = stage.dialling(Dialled::Control);
        let pause = stage.gone(other, REFUSED).pause();
        stage.wait(pause);
        attempts += 1;
    }
    assert!(attempts < 80, "{attempts}");
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
        let pause = outputs.pause();
        assert_eq!(outputs.facts(), [&Fact::Refused { refusal }, &Fact::NextAttempt { pause }]);
        assert_eq!(outputs.closes(), [(control, CloseReason::Drained, Manner::Whole)]);
        assert!(stage.gone(control, CloseReason::Drained).is_silent());
        assert!(pause >= secs(1), "{pause:?}");
        stage.wait(pause);
        pauses.push(pause);
    }
    assert!(pauses.iter().sum::<Duration>() > secs(40), "{pauses:?}");
}

#[test]
fn a_place_that_another_client_has_is_asked_for_again_soon_and_then_more_rarely() {
    let (mut stage, _) = begin(config());
    let mut pauses = Vec::new();
    let mut control = stage.dialling(Dialled::Control);
    // Attempts that failed before say nothing of a server that answers.
    for _ in 0..12 {
        let pause = stage.gone(control, REFUSED).pause();
        stage.wait(pause);
        control = stage.dialling(Dialled::Control);
    }
    for _ in 0..12 {
        stage.connected(control);
        let refusal = Refusal::Links { count: 1, of_key: true };
        let pause = stage.hear(control, ControlFrame::Refused(refusal)).pause();
        stage.gone(control, CloseReason::Drained);
        stage.wait(pause);
        pauses.push(pause);
        control = stage.dialling(Dialled::Control);
    }
    // The server gives another client one second to answer.
    assert!(pauses[..3].iter().all(|pause| *pause == secs(2)), "{pauses:?}");
    assert!(pauses.iter().max() > Some(&secs(5)), "{pauses:?}");
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
        capabilities: Capabilities::new(false),
        heartbeat: HEARTBEAT,
        instance: [1; 16],
        resumes: None,
    });
    let publish = |number, service| {
        ControlFrame::Publish(Publish {
            number,
            name: name(service),
            want: Want::Service,
            transports: Transports::Tcp,
            dial_time: DIAL_TIME,
            share: false,
            probe: true,
        })
    };
    assert_eq!(stage.connected(control).said(control), [hello, publish(1, "web"), publish(2, "ssh")]);
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
    let late = HEARTBEAT / 3 + Limits::default().late;
    assert!(stage.wait(late - millis(1)).is_silent());
    assert_eq!(stage.wait(millis(1)).said(control), [ControlFrame::Ping]);
    assert_eq!(stage.wait(HEARTBEAT - late - millis(1)).closes(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    assert_eq!(outputs.facts(), [&Fact::ServerSilent { link: control, silence: HEARTBEAT }]);
}

#[test]
fn a_silent_server_is_waited_for_until_it_could_be_heard() {
    let (mut stage, control) = linked(config());
    stage.sends_again_in(secs(3));
    assert_eq!(stage.wait(HEARTBEAT + secs(3) - millis(1)).closes(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    assert_eq!(outputs.facts(), [&Fact::ServerSilent { link: control, silence: HEARTBEAT + secs(3) }]);
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
        assert_eq!(stage.wait(HEARTBEAT / 3 + millis(300)).said(control), [ControlFrame::Ping]);
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
fn a_link_whose_round_trip_is_longer_than_the_heartbeat_is_silent_for_four_round_trips() {
    let limits = Limits { heartbeat: secs(1), ..Limits::default() };
    let (mut stage, _) = begin(ClientConfig { limits, ..config() });
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert_eq!(stage.wait(secs(2)).closes(), [], "it may be welcome later than the heartbeat");
    stage.hear(control, ControlFrame::Welcome(welcome()));
    assert_eq!(stage.wait(secs(8) - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
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
    assert!(outputs.facts().contains(&&Fact::LinkLost {
        link: control,
        server: host("192.0.2.1:33335"),
        reason
    }));
    assert_eq!(stage.wait(outputs.pause()).controls(), [address("192.0.2.1:33335")]);
}
