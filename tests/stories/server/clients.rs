//! Clients.

use super::*;

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
fn a_link_whose_round_trip_is_longer_than_the_heartbeat_is_silent_for_four_round_trips() {
    let mut stage = begin_with(Limits { heartbeat: secs(2), ..limits() });
    let (control, _) = stage.control();
    stage.wait(secs(4));
    stage.hear(control, ControlFrame::Hello(hello(1)));
    assert_eq!(stage.wait(secs(16) - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
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
fn a_client_whose_system_acknowledges_what_it_is_told_is_given_up_after_the_heartbeat() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    stage.hear(client.control, ControlFrame::Pong);
    let mut asked = 0;
    for _ in 0..29 {
        let outputs = stage.wait(secs(1));
        outputs.closes().into_iter().for_each(|(id, reason, _)| drop(stage.gone(id, reason)));
        asked += outputs.asked(client.control).len();
    }
    assert!(asked > 0, "its idle connection did not answer a ping");
    assert_eq!(stage.wait(secs(1) - millis(1)).closes(), []);
    assert_eq!(
        stage.wait(millis(1)).closes().first(),
        Some(&(client.control, CloseReason::HeartbeatLost, Manner::Reset))
    );
}

#[test]
fn no_connection_of_a_link_is_quiet_for_more_than_a_proxy_bears_however_long_the_heartbeat_is() {
    let mut stage = begin_with(Limits { heartbeat: secs(3_600), ..limits() });
    let (mut client, _) = stage.greet_with(office(), Hello { heartbeat: secs(3_600), ..hello(1) });
    stage.hear(client.control, publish(1, "web"));
    let (message, _) = stage.bring(&mut client);
    let mut pinged_at = [stage.now; 2];
    for _ in 0..400 {
        let outputs = stage.wait(millis(250));
        let pinged =
            [outputs.said(client.control).contains(&ControlFrame::Ping), outputs.pings() == [message]];
        stage.hear(client.control, ControlFrame::Pong);
        for (at, _) in pinged_at.iter_mut().zip(pinged).filter(|it| it.1) {
            *at = stage.now;
        }
        if pinged[1] {
            stage.session(message, SessionEvent::Pong);
        }
        assert!(pinged_at.iter().all(|&at| stage.now < at + secs(20)), "{pinged_at:?}");
    }
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
