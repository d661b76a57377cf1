//! A server that is not heard, and cannot ask for message connections: the client brings some of its own accord.

use super::*;

/// A server owes a ping after this time, and its client asks for a sign of life.
fn owed() -> Duration {
    HEARTBEAT / 3 + Limits::default().late
}

/// A client with one message connection, whose server owes an answer; its link's name at the client.
fn unheard() -> (Stage, ConnId, LinkId) {
    let (mut stage, control) = linked(config());
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let link = outputs.message_links()[0];
    let id = stage.dialling(Dialled::Message(link));
    stage.connected(id);
    assert_eq!(stage.wait(owed()).said(control), [ControlFrame::Ping]);
    (stage, control, link)
}

/// The same, and a message connection has shown that the line is back, long after that.
fn back() -> (Stage, ConnId, LinkId, ConnId) {
    let (mut stage, control, link) = unheard();
    let (mut id, until) = (None, stage.now + secs(5));
    while stage.now < until {
        for _ in stage.wait(millis(250)).tickets() {
            id = Some(stage.dialling(Dialled::Message(link)));
        }
    }
    let id = id.expect("it is sought");
    stage.connected(id);
    (stage, control, link, id)
}

#[test]
fn a_server_that_owes_an_answer_is_sought_every_half_second_at_both_ports_with_the_next_ticket() {
    let (mut stage, _, link) = unheard();
    assert!(stage.wait(Limits::default().late - millis(1)).is_silent());
    let mut standing = Vec::new();
    for (wait, port) in [(1, "33334"), (500, "33335"), (500, "33334"), (500, "33335")] {
        let outputs = stage.wait(millis(wait));
        assert_eq!(outputs.tickets(), [(2, address(&format!("192.0.2.1:{port}")))]);
        assert_eq!(outputs.facts().len(), 0, "that the server is silent is told of elsewhere");
        standing.retain(|id| outputs.closes().iter().all(|close| close.0 != *id));
        standing.push(stage.dialling(Dialled::Message(link)));
        assert!(standing.len() <= 2, "{standing:?}");
    }
}

#[test]
fn a_ticket_that_brought_nothing_for_its_time_is_followed_by_the_next_and_nobody_is_told() {
    let (mut stage, _, link) = unheard();
    let mut tickets = Vec::new();
    for _ in 0..76 {
        let outputs = stage.wait(millis(250));
        for (ticket, _) in outputs.tickets() {
            tickets.push(ticket);
            stage.dialling(Dialled::Message(link));
        }
        let is_silence = |fact: &&Fact| matches!(fact, Fact::ServerSilent { .. });
        assert!(outputs.facts().iter().all(is_silence), "{outputs:?}");
    }
    tickets.dedup();
    assert_eq!(tickets, [2, 3]);
}

#[test]
fn a_server_that_is_heard_is_sought_no_more_and_what_it_asks_for_is_dialled_but_for_what_is_taken() {
    let (mut stage, control, link) = unheard();
    assert_eq!(stage.wait(millis(250)).tickets().len(), 1);
    let id = stage.dialling(Dialled::Message(link));
    stage.hear(control, ControlFrame::Pong);
    stage.connected(id);
    assert_eq!(stage.wait(owed() - millis(1)).tickets(), []);
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 2, count: 3 });
    let port = address("192.0.2.1:33334");
    assert_eq!(outputs.tickets(), [(3, port), (4, port)]);
}

#[test]
fn when_the_line_is_back_as_many_are_spare_as_have_sessions_until_the_server_asks() {
    let (mut stage, control, link, first) = back();
    let (mut idle, mut sid) = (vec![first], 0);
    for most in [1, 1, 2, 4] {
        assert_eq!(idle.len(), most);
        let mut outputs = Outputs::default();
        for id in std::mem::take(&mut idle) {
            sid += 1;
            outputs.0.extend(stage.start(id, start(sid, 0)).0);
        }
        for _ in outputs.tickets() {
            idle.push(stage.dialling(Dialled::Message(link)));
        }
        idle.iter().for_each(|&id| drop(stage.connected(id)));
    }
    stage.hear(control, ControlFrame::Pong);
    let tickets = idle.iter().flat_map(|&id| {
        sid += 1;
        stage.start(id, start(sid, 0)).tickets()
    });
    assert_eq!(tickets.count(), 0);
}

#[test]
fn the_first_user_after_the_line_is_back_brings_a_spare_one_however_soon_it_comes() {
    let (mut stage, _, link) = unheard();
    assert_eq!(stage.wait(millis(250)).tickets().len(), 1);
    let id = stage.dialling(Dialled::Message(link));
    stage.connected(id);
    assert_eq!(stage.start(id, start(1, 0)).tickets().len(), 1);
}

#[test]
fn a_line_that_is_back_may_be_down_again() {
    let (mut stage, _, _, _) = back();
    assert_eq!(stage.wait(owed() - millis(1)).tickets(), []);
    assert_eq!(stage.wait(millis(1)).tickets().len(), 1);
}

#[test]
fn a_server_is_given_up_a_heartbeat_after_the_line_was_back_and_no_sooner() {
    let (mut stage, control, link, _) = back();
    let mut closes = Vec::new();
    for _ in 0..299 {
        let outputs = stage.wait(millis(100));
        closes.extend(outputs.closes().into_iter().filter(|close| close.0 == control));
        for _ in outputs.tickets() {
            let id = stage.dialling(Dialled::Message(link));
            stage.connected(id);
        }
    }
    assert_eq!(closes, []);
    let outputs = stage.wait(millis(100));
    assert!(outputs.closes().contains(&(control, CloseReason::HeartbeatLost, Manner::Reset)), "{outputs:?}");
}

#[test]
fn a_server_is_not_given_up_while_a_message_connection_may_show_that_the_line_is_back() {
    for is_back in [false, true] {
        let (mut stage, control) = linked(config());
        let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
        let (link, heard) = (outputs.message_links()[0], stage.now);
        let mut id = stage.dialling(Dialled::Message(link));
        // The others have twice as long.
        stage.wait(millis(200));
        stage.connected(id);
        let again = millis(200);
        stage.sends_again_in(again);
        while stage.now < heard + HEARTBEAT + again {
            let outputs = stage.wait(millis(100));
            assert!(outputs.closes().iter().all(|close| close.0 != control), "{outputs:?}");
            outputs.tickets().iter().for_each(|_| id = stage.dialling(Dialled::Message(link)));
        }
        if is_back {
            stage.connected(id);
        }
        let outputs = stage.wait(secs(1));
        let given_up = outputs.closes().contains(&(control, CloseReason::HeartbeatLost, Manner::Reset));
        assert_eq!((given_up, outputs.tickets()), (!is_back, vec![]), "{outputs:?}");
    }
}

#[test]
fn a_server_that_drains_is_not_sought() {
    let (mut stage, control) = linked(config());
    stage.hear(control, ControlFrame::Drain);
    assert_eq!(stage.wait(owed() * 2).tickets(), []);
}
