//! Message connections.

use super::*;

#[test]
fn open_dials_as_many_as_asked_with_consecutive_tickets() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 3 });
    let mut tickets = Vec::new();
    for (dial, to) in outputs.dials() {
        let Dial::Message(_, greeting) = dial else { panic!("{dial:?}") };
        assert_eq!(to, address("192.0.2.1:33334"), "the port is the one of the welcome");
        assert_eq!((greeting.hello.purpose, greeting.hello.key_id), (Purpose::Message, [4; 16]));
        assert_eq!(greeting.secret.bytes(), &[5; 32]);
        tickets.push(greeting.ticket);
    }
    assert_eq!(tickets, [5, 6, 7]);
}

#[test]
fn open_dials_no_more_than_may_be() {
    let limits = Limits { messages_per_client_max: 2, ..Limits::default() };
    let (mut stage, control) = linked(ClientConfig { limits, ..config() });
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: u32::MAX });
    assert_eq!(outputs.dials().len(), 2);
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 9, count: 1 });
    assert_eq!(outputs.dials().len(), 0);
}

#[test]
fn no_more_than_so_many_message_connections_are_on_their_way_whatever_is_asked() {
    let (mut stage, control) = linked(config());
    let asked = |first_ticket, count| ControlFrame::Open { first_ticket, count };
    assert_eq!(stage.hear(control, asked(1, u32::MAX)).dials().len(), 128);
    let outputs = stage.hear(control, asked(1_000, 50));
    assert!(outputs.is_silent(), "{outputs:?}");
}

#[test]
fn one_that_is_proved_makes_room_for_one_that_waits() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 130 });
    assert_eq!(outputs.dials().len(), 128);
    let id = stage.dialling(Dialled::Message(outputs.message_links()[0]));
    let outputs = stage.connected(id);
    let [(Dial::Message(_, greeting), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
    assert_eq!(greeting.ticket, 129);
}

/// A link whose message port has just failed once; its name at the client.
fn failing() -> (Stage, ConnId, LinkId) {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let link = outputs.message_links()[0];
    let id = stage.dialling(Dialled::Message(link));
    let outputs = stage.gone(id, REFUSED);
    let (address, reason) = (address("192.0.2.1:33334"), REFUSED);
    assert_eq!((outputs.facts(), outputs.dials().len()), (vec![&Fact::MessageFailed { address, reason }], 0));
    (stage, control, link)
}

#[test]
fn while_the_message_port_fails_one_dial_every_half_second_stands_for_all_at_both_ports() {
    let (mut stage, control, link) = failing();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 10 });
    assert_eq!(outputs.dials().len(), 0);
    for port in ["33335", "33334", "33335"] {
        assert_eq!(stage.wait(millis(499)).dials().len(), 0);
        let outputs = stage.wait(millis(1));
        let [(_, to)] = outputs.dials()[..] else { panic!("{outputs:?}") };
        assert_eq!(to, address(&format!("192.0.2.1:{port}")));
        let id = stage.dialling(Dialled::Message(link));
        let outputs = stage.gone(id, REFUSED);
        assert_eq!(outputs.facts(), [&Fact::MessageFailed { address: to, reason: REFUSED }]);
    }
}

#[test]
fn the_first_message_connection_that_is_proved_ends_the_pause_and_its_port_is_used_from_then_on() {
    let (mut stage, control, link) = failing();
    stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 3 });
    stage.wait(millis(500));
    let id = stage.dialling(Dialled::Message(link));
    let outputs = stage.connected(id);
    let arrived = Fact::MessageArrived { address: address("192.0.2.1:33335") };
    assert_eq!(outputs.facts(), [&arrived]);
    let dials = outputs.dials();
    assert_eq!(dials.len(), 3, "those that waited, and the one that no server has seen: {dials:?}");
    assert!(dials.iter().all(|&(_, to)| to == address("192.0.2.1:33335")), "{dials:?}");
}

#[test]
fn a_message_connection_that_is_late_gets_a_rival_at_once_and_the_first_that_is_proved_wins() {
    for late_arrives_first in [true, false] {
        let (mut stage, control) = linked(config());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
        let link = outputs.message_links()[0];
        let handshake = Limits::default().handshake;
        assert!(outputs.0.iter().any(
            |output| matches!(output, Output::Dial { deadline, .. } if *deadline == stage.now + handshake)
        ));
        let late = stage.dialling(Dialled::Message(link));
        assert!(stage.wait(Limits::default().late - millis(1)).is_silent());
        let outputs = stage.wait(millis(1));
        assert_eq!(outputs.facts().len(), 0, "it may still arrive");
        assert_eq!(outputs.tickets(), [(1, address("192.0.2.1:33335"))]);
        let rival = stage.dialling(Dialled::Message(link));
        let (winner, loser) = if late_arrives_first { (late, rival) } else { (rival, late) };
        let outputs = stage.connected(winner);
        assert_eq!(outputs.closes(), [(loser, CloseReason::Retired, Manner::Reset)]);
        let told = if late_arrives_first { 0 } else { 2 };
        assert_eq!(outputs.facts().len(), told, "where they go from now on: {outputs:?}");
        assert!(stage.gone(loser, CloseReason::Retired).is_silent());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 2, count: 128 });
        assert_eq!(outputs.dials().len(), 128, "and every place is free again");
    }
}

#[test]
fn a_rival_that_is_not_begun_when_the_late_one_arrives_is_not_wanted() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let purpose = Dialled::Message(outputs.message_links()[0]);
    let late = stage.dialling(purpose);
    assert_eq!(stage.wait(Limits::default().late).tickets().len(), 1);
    stage.connected(late);
    let id = stage.id();
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::Retired, Manner::Reset)]);
}

/// A link on which so many message connections are on their way; these.
fn coming(count: u32) -> (Stage, ConnId, LinkId, Vec<ConnId>) {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count });
    let link = outputs.message_links()[0];
    let ids = (0..count).map(|_| stage.dialling(Dialled::Message(link))).collect();
    (stage, control, link, ids)
}

#[test]
fn what_is_late_while_others_arrive_was_lost_and_rivals_are_a_tenth_of_what_arrives_and_a_few() {
    let (mut stage, control, _, ids) = coming(60);
    stage.wait(millis(50));
    ids[..40].iter().for_each(|&id| drop(stage.connected(id)));
    let outputs = stage.wait(Limits::default().late);
    assert_eq!(outputs.tickets().len(), 8, "{outputs:?}");
    assert!(outputs.tickets().iter().all(|&(_, to)| to == address("192.0.2.1:33334")), "{outputs:?}");
    assert_eq!((outputs.facts().len(), outputs.closes().len()), (0, 0));
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 100, count: 5 });
    assert_eq!(outputs.tickets().len(), 5, "that is no reason to pause");
}

#[test]
fn where_all_are_late_the_other_port_is_tried_and_all_go_there_once_it_answers() {
    let (mut stage, _, link, ids) = coming(10);
    let outputs = stage.wait(Limits::default().late);
    assert_eq!(outputs.tickets(), [(10, address("192.0.2.1:33335"))], "one stands for all");
    let probe = stage.dialling(Dialled::Message(link));
    stage.wait(millis(20));
    let mut outputs = stage.connected(probe);
    let failed =
        Fact::MessageFailed { address: address("192.0.2.1:33334"), reason: CloseReason::HandshakeTimedOut };
    let arrived = Fact::MessageArrived { address: address("192.0.2.1:33335") };
    assert_eq!(outputs.facts(), [&failed, &arrived]);
    let mut replaced: Vec<ConnId> = outputs.closes().iter().map(|it| it.0).collect();
    replaced.sort();
    assert_eq!(replaced, ids, "the late ones are not needed any more");
    outputs.0.retain(|output| matches!(output, Output::Dial { .. }));
    let mut tickets = outputs.tickets();
    tickets.sort();
    assert_eq!(tickets, (1..10).map(|it| (it, address("192.0.2.1:33335"))).collect::<Vec<_>>());
}

#[test]
fn where_the_port_has_worked_the_first_rival_goes_there_again_and_the_next_one_to_the_other_port() {
    let (mut stage, control, link, ids) = coming(1);
    stage.connected(ids[0]);
    stage.wait(secs(1));
    stage.hear(control, ControlFrame::Open { first_ticket: 2, count: 3 });
    for _ in 0..3 {
        stage.dialling(Dialled::Message(link));
    }
    for (wait, port) in [(millis(250), "33334"), (millis(500), "33335"), (millis(500), "33334")] {
        let outputs = stage.wait(wait);
        let [(_, to)] = outputs.tickets()[..] else { panic!("{outputs:?}") };
        assert_eq!(to, address(&format!("192.0.2.1:{port}")));
        stage.dialling(Dialled::Message(link));
    }
}

#[test]
fn on_a_line_that_became_slow_the_late_ones_are_waited_for() {
    let (mut stage, _, link, ids) = coming(10);
    let mut dials = 0;
    for _ in 0..16 {
        let count = stage.wait(millis(250)).tickets().len();
        for _ in 0..count {
            stage.dialling(Dialled::Message(link));
        }
        dials += count;
    }
    assert!((7..=8).contains(&dials), "one each half second: {dials}");
    let outputs = stage.connected(ids[0]);
    assert_eq!(outputs.tickets(), [], "those take no longer than the first one");
    ids[1..].iter().for_each(|&id| assert_eq!(stage.connected(id).tickets(), []));
    assert_eq!(stage.wait(secs(3)).tickets(), []);
}

#[test]
fn where_the_oldest_arrives_first_the_others_go_on_though_they_are_late() {
    let (mut stage, _, link, ids) = coming(50);
    assert_eq!(stage.wait(Limits::default().late).tickets().len(), 1);
    stage.dialling(Dialled::Message(link));
    for &id in &ids[..49] {
        stage.wait(millis(5));
        let outputs = stage.connected(id);
        assert_eq!(
            (outputs.tickets().len(), outputs.closes().len()),
            (0, 0),
            "the server is busy: {outputs:?}"
        );
    }
}

#[test]
fn while_all_are_late_no_ticket_has_more_than_two_dials_and_people_are_told_after_a_while() {
    let (mut stage, control, link, ids) = coming(1);
    let (mut standing, mut told) = (ids, Vec::new());
    for step in 0..40 {
        stage.hear(control, ControlFrame::Ping);
        let outputs = stage.wait(millis(250));
        standing.retain(|id| outputs.closes().iter().all(|close| close.0 != *id));
        for (ticket, _) in outputs.tickets() {
            assert_eq!(ticket, 1);
            standing.push(stage.dialling(Dialled::Message(link)));
        }
        assert!(standing.len() <= 2, "{standing:?}");
        told.extend(outputs.facts().iter().map(|_| step));
    }
    assert!(told.first().is_some_and(|&step| (19..=24).contains(&step)), "after five seconds: {told:?}");
}

#[test]
fn a_ticket_that_a_server_may_have_seen_is_given_back_and_one_that_none_has_seen_is_kept() {
    let (mut stage, control, _, ids) = coming(2);
    let outputs = stage.gone(ids[0], CloseReason::PeerClosed);
    assert_eq!(outputs.said(control), [ControlFrame::Void { first_ticket: 1, count: 1 }]);
    assert_eq!(stage.gone(ids[1], REFUSED).said(control), []);
    assert_eq!(stage.wait(millis(500)).tickets(), [(2, address("192.0.2.1:33335"))]);
}

#[test]
fn a_name_for_message_connections_that_leads_nowhere_leaves_the_control_port() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    stage.resolved(outputs.resolves()[0], &[]);
    let control = stage.link();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 2 });
    let control_port = address("192.0.2.1:33335");
    assert_eq!(outputs.tickets(), [(1, control_port), (2, control_port)]);
}

#[test]
fn a_ticket_that_waits_is_dropped_when_its_time_is_over() {
    let (mut stage, control, link) = failing();
    stage.hear(control, ControlFrame::Open { first_ticket: 5, count: 100 });
    for _ in 0..30 {
        stage.hear(control, ControlFrame::Ping);
        let dials = stage.wait(millis(500)).dials().len();
        (0..dials).for_each(|_| {
            let id = stage.dialling(Dialled::Message(link));
            stage.gone(id, CloseReason::PeerClosed);
        });
    }
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 500, count: 1 });
    let [(Dial::Message(_, greeting), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
    assert_eq!(greeting.ticket, 500);
}

#[test]
fn opens_for_a_closed_port_are_not_dialled_faster_than_the_pause() {
    let (mut stage, control, link) = failing();
    let mut dials = 0;
    for step in 0..1_000 {
        let mut outputs = stage.hear(control, ControlFrame::Open { first_ticket: step, count: 1_000 });
        outputs.0.extend(stage.wait(millis(10)).0);
        for _ in outputs.dials() {
            dials += 1;
            let id = stage.dialling(Dialled::Message(link));
            stage.gone(id, REFUSED);
        }
    }
    assert!((18..=20).contains(&dials), "{dials} dials in 10 s");
}

#[test]
fn a_message_connection_that_is_dialled_for_a_lost_link_is_reset() {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    stage.gone(control, CloseReason::PeerClosed);
    let (id, purpose) = (stage.id(), Dialled::Message(outputs.message_links()[0]));
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::LinkLost, Manner::Reset)]);
}
