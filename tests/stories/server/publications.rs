//! Publications.

use super::*;

#[test]
fn publishing_a_known_service_is_granted_with_its_address() {
    let mut stage = begin();
    let (client, _) = stage.greet(hello(1));
    let outputs = stage.hear(client.control, publish(9, "ssh"));
    let addresses = vec![GrantedAddress { ip: at(SSH).ip(), ports: Ports { first: SSH, last: SSH } }];
    assert_eq!(
        outputs.said(client.control),
        [ControlFrame::Granted { number: 9, addresses, is_probed: false }]
    );
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
    for (number, want, transports) in
        [(2, Want::AnyPort, Transports::Tcp), (3, Want::Service, Transports::Udp)]
    {
        let asked = Publish {
            number,
            name: name("ssh"),
            want,
            transports,
            dial_time: DIAL,
            share: false,
            probe: false,
        };
        let outputs = stage.hear(client.control, ControlFrame::Publish(asked));
        let reason = Denial::Policy;
        assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number, reason }]);
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
fn unpublishing_resets_at_once_whom_the_local_server_has_taken_and_nobody_else() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    let user_at = |stage: &mut Stage, client: &mut Client| {
        let (message, _) = stage.bring(client);
        let (user, outputs) = stage.user();
        assert_eq!(outputs.pairs(), [(message, user)]);
        (message, user)
    };
    let (taken, offered, elsewhere) =
        (user_at(&mut stage, &mut one), user_at(&mut stage, &mut one), user_at(&mut stage, &mut two));
    for (message, _) in [taken, elsewhere] {
        stage.session(message, SessionEvent::Accepted);
        stage.session(message, SessionEvent::Started);
    }
    stage.session(offered.0, SessionEvent::Accepted);
    let outputs = stage.hear(one.control, ControlFrame::Unpublish(1));
    assert_eq!(outputs.closes(), [(taken.1, CloseReason::Removed, Manner::Reset)]);
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
fn what_was_denied_for_good_may_be_unpublished_and_the_link_stands() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, publish(2, "web"));
    let reason = Denial::AlreadyPublished;
    assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 2, reason }]);
    assert_eq!(stage.hear(client.control, ControlFrame::Unpublish(2)).closes(), []);
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

#[test]
fn a_publication_that_is_said_again_changes_its_dial_time_for_sessions_that_come() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let waits = |stage: &mut Stage, client: &mut Client, time: Duration| {
        let (message, _) = stage.bring(client);
        let (user, outputs) = stage.user();
        client.note(&outputs);
        stage.session(message, SessionEvent::Accepted);
        assert!(stage.wait(time + secs(1) - millis(1)).closes().iter().all(|close| close.0 != message));
        assert!(stage.wait(millis(1)).closes().iter().any(|close| close.0 == message));
        stage.gone(message, CloseReason::LinkLost);
        stage.gone(user, CloseReason::LinkLost);
    };
    waits(&mut stage, &mut client, DIAL);
    let ControlFrame::Publish(again) = publish(1, "web") else { panic!("it is one") };
    let outputs = stage.hear(client.control, ControlFrame::Publish(Publish { dial_time: secs(9), ..again }));
    assert_eq!((outputs.said(client.control), outputs.closes()), (vec![], vec![]));
    stage.hear(client.control, ControlFrame::Pong);
    waits(&mut stage, &mut client, secs(9));
}
