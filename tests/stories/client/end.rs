//! The end, also that of the server.

use super::*;

#[test]
fn a_client_that_leaves_says_drain_and_exits_when_the_link_has_ended() {
    let (mut stage, control) = linked(config());
    let outputs = stage.tell(Input::Drain);
    assert_eq!(outputs.said(control), [ControlFrame::Drain]);
    assert!(!outputs.exits());
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    assert!(outputs.exits());
    assert!(!outputs.facts().iter().any(|fact| matches!(fact, Fact::NextAttempt { .. })));
}

#[test]
fn a_client_that_leaves_waits_for_its_last_proxy_connection() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.tell(Input::Drain);
    assert!(!stage.gone(control, CloseReason::PeerClosed).exits());
    assert!(stage.gone(proxy, CloseReason::Finished).exits());
}

#[test]
fn a_client_that_leaves_during_a_pause_exits_at_once() {
    let (mut stage, _) = begin(config());
    stage.fail();
    assert!(stage.tell(Input::Drain).exits());
}

#[test]
fn a_client_that_leaves_before_its_welcome_says_so_after_it() {
    let (mut stage, _) = begin(config());
    let control = stage.dialling(Dialled::Control);
    stage.connected(control);
    assert!(!stage.tell(Input::Drain).exits());
    let outputs = stage.hear(control, ControlFrame::Welcome(welcome()));
    assert_eq!(outputs.said(control), [ControlFrame::Drain]);
}

#[test]
fn a_client_that_leaves_exits_at_the_limit() {
    let limits = Limits { drain: secs(5), ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    stage.start(message, start(1, 0));
    stage.tell(Input::Drain);
    assert!(!stage.wait(millis(4_999)).exits());
    let outputs = stage.wait(millis(1));
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
}

#[test]
fn a_client_that_is_asked_again_to_end_resets_its_proxy_connections_at_once_and_tells_of_each() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.connected(proxy);
    stage.tell(Input::Drain);
    let outputs = stage.tell(Input::GiveUp);
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
    let outputs = stage.gone(proxy, CloseReason::Shutdown);
    let ended = |fact: &&Fact| matches!(fact, Fact::SessionEnded { reason: CloseReason::Shutdown, .. });
    assert!(outputs.facts().iter().any(ended));
}

/// A client with a session on a link whose server drains after a good while; what it does at once. The link's control
/// connection and the session's message connection.
fn drained() -> (Stage, ConnId, ConnId, Outputs) {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    stage.wait(Limits::default().drain_sudden);
    let outputs = stage.hear(control, ControlFrame::Drain);
    (stage, control, message, outputs)
}

#[test]
fn a_server_that_drains_is_told_of_and_another_link_is_sought_at_once_while_sessions_go_on() {
    let (_, _, _, outputs) = drained();
    assert_eq!(outputs.facts(), [&Fact::ServerDrains { server: host("192.0.2.1:33335") }]);
    assert_eq!(outputs.controls(), [address("192.0.2.1:33335")]);
    assert_eq!((outputs.closes(), outputs.aborts()), (vec![], vec![]));
}

#[test]
fn another_link_is_sought_every_half_second_for_a_minute_and_then_with_growing_pauses() {
    let (mut stage, control, _, _) = drained();
    let began = stage.now;
    while stage.now < began + secs(60) {
        let pause = stage.fail();
        assert!((millis(375)..=millis(625)).contains(&pause), "{pause:?}");
        stage.wait(pause);
        stage.hear(control, ControlFrame::Ping);
    }
    assert_eq!(stage.fail(), Limits::default().reconnect.0);
}

#[test]
fn after_the_end_of_the_link_that_drains_pauses_grow_as_usual() {
    let (mut stage, control, message, _) = drained();
    let outputs = stage.gone(control, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(message, CloseReason::LinkLost, Manner::Reset)]);
    assert_eq!(outputs.facts().len(), 1, "the attempt goes on: {outputs:?}");
    assert_eq!(stage.fail(), Limits::default().reconnect.0);
}

#[test]
fn sessions_are_numbered_by_each_of_two_links_and_one_that_ends_takes_only_its_own() {
    let (mut stage, old, old_message, _) = drained();
    let new = stage.link();
    let new_message = stage.message(new, 1);
    assert_eq!(stage.start(new_message, start(1, 0)).proxies().len(), 1, "it is no duplicate");
    let outputs = stage.gone(old, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), [(old_message, CloseReason::LinkLost, Manner::Reset)]);
    assert!(outputs.controls().is_empty() && stage.wait(secs(20)).controls().is_empty());
}

#[test]
fn a_copy_on_another_link_is_another_session() {
    let (mut stage, _, _, _) = drained();
    let new = stage.link();
    let new_message = stage.message(new, 1);
    // The number that the first link's session has is the one that this session had first.
    let outputs = stage.start(new_message, start(2, 1));
    assert_eq!((outputs.aborts(), outputs.proxies().len()), (vec![], 1));
}

#[test]
fn the_current_link_may_end_before_the_one_that_drains() {
    let (mut stage, _, _, _) = drained();
    let new = stage.link();
    let outputs = stage.gone(new, CloseReason::PeerClosed);
    assert_eq!(outputs.closes(), []);
    assert_eq!(stage.wait(outputs.pause()).controls().len(), 1);
}

#[test]
fn both_links_have_a_heartbeat() {
    let (mut stage, old, _, _) = drained();
    let new = stage.link();
    stage.wait(HEARTBEAT / 2);
    stage.hear(new, ControlFrame::Ping);
    let closes = stage.wait(HEARTBEAT / 2).closes();
    assert_eq!(closes, [(old, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn no_message_connection_is_dialled_for_a_link_that_drains() {
    let (mut stage, control, _, _) = drained();
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 9, count: 3 });
    assert!(outputs.dials().is_empty());
}

#[test]
fn of_two_links_that_drain_the_older_one_ends() {
    let (mut stage, old, _, _) = drained();
    let new = stage.link();
    stage.wait(Limits::default().drain_sudden);
    let outputs = stage.hear(new, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(old, CloseReason::Replaced, Manner::Reset)]);
    assert_eq!(outputs.controls().len(), 1);
}

#[test]
fn drain_just_after_the_welcome_is_a_refusal() {
    let (mut stage, control) = linked(config());
    stage.wait(Limits::default().drain_sudden - millis(1));
    let outputs = stage.hear(control, ControlFrame::Drain);
    assert!(outputs.pause() >= secs(1) && outputs.controls().is_empty(), "{outputs:?}");
    assert_eq!(outputs.closes(), []);
    assert_eq!(stage.wait(outputs.pause()).controls().len(), 1);
}

#[test]
fn a_client_that_leaves_says_so_on_both_links_and_waits_for_both() {
    let (mut stage, old, message, _) = drained();
    let new = stage.link();
    let outputs = stage.tell(Input::Drain);
    assert_eq!(
        (outputs.said(old), outputs.said(new)),
        (vec![ControlFrame::Drain], vec![ControlFrame::Drain])
    );
    assert!(!stage.gone(new, CloseReason::PeerClosed).exits());
    stage.gone(message, CloseReason::Drained);
    assert!(stage.gone(old, CloseReason::PeerClosed).exits());
}

#[test]
fn a_client_that_leaves_seeks_no_other_link() {
    let (mut stage, control) = linked(config());
    stage.wait(Limits::default().drain_sudden);
    stage.tell(Input::Drain);
    let outputs = stage.hear(control, ControlFrame::Drain);
    assert!(outputs.controls().is_empty());
    assert!(stage.gone(control, CloseReason::PeerClosed).exits());
}
