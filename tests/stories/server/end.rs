//! The end.

use super::*;

#[test]
fn a_client_that_leaves_keeps_its_running_sessions_and_then_its_control_connection_closes() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, _) = stage.user();
    stage.accepted_and_started(busy);
    let outputs = stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(idle, CloseReason::Drained, Manner::Whole)]);
    assert_eq!(stage.user().1.pairs(), [], "it is given no user");
    stage.gone(user, CloseReason::Finished);
    let closes = stage.idle(busy).closes();
    assert!(closes.contains(&(busy, CloseReason::Drained, Manner::Whole)), "{closes:?}");
    assert!(closes.contains(&(client.control, CloseReason::Drained, Manner::Whole)), "{closes:?}");
}

#[test]
fn a_client_that_leaves_without_sessions_is_closed_at_once() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::Drained, Manner::Whole)]);
}

#[test]
fn a_draining_server_stops_its_listeners_and_then_tells_its_clients() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    let outputs = stage.tell(Input::Drain);
    let stopped = outputs.stopped();
    assert_eq!(stopped.len(), stage.listeners.len());
    let (last, others) = stopped.split_last().expect("there are some");
    for &id in others {
        assert!(stage.tell(Input::Stopped { id }).is_silent());
    }
    let outputs = stage.tell(Input::Stopped { id: *last });
    assert_eq!(outputs.said(client.control), [ControlFrame::Drain]);
    assert_eq!(outputs.facts(), [&Fact::Draining { sessions: 1, time: limits().drain }]);
}

#[test]
fn users_who_stood_in_the_queue_of_a_draining_server_are_served() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let stopped = stage.tell(Input::Drain).stopped();
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
    for id in stopped {
        assert!(!stage.tell(Input::Stopped { id }).exits(), "it serves that user");
    }
}

#[test]
fn a_user_that_waits_at_a_draining_server_is_served_by_the_next_connection_within_its_time() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    let ((served, _), (late, _)) = (stage.user(), stage.user());
    let outputs = stage.drain();
    assert_eq!((outputs.closes(), outputs.asked(client.control)), (vec![], vec![]));
    assert_eq!(stage.idle(message).pairs(), [(message, served)]);
    let closes = stage.wait(limits().wait - millis(1)).closes();
    assert!(!closes.contains(&(late, CloseReason::NotReached, Manner::Reset)), "{closes:?}");
    let closes = stage.wait(millis(1)).closes();
    assert!(closes.contains(&(late, CloseReason::NotReached, Manner::Reset)), "{closes:?}");
}

#[test]
fn idle_connections_of_a_draining_server_close_once_every_session_is_accepted() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(busy, user)]);
    assert_eq!(stage.drain().closes(), [], "the session may have to be offered again");
    let outputs = stage.session(busy, SessionEvent::Accepted);
    assert_eq!(outputs.closes(), [(idle, CloseReason::Drained, Manner::Whole)]);
    stage.session(busy, SessionEvent::Started);
    assert_eq!(stage.idle(busy).closes(), [(busy, CloseReason::Drained, Manner::Whole)]);
}

#[test]
fn a_session_that_is_lost_before_it_is_accepted_is_offered_again_by_a_draining_server() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((idle, _), (busy, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, _) = stage.user();
    stage.drain();
    assert_eq!(stage.tell(returned(user, false, true)).pairs(), [(idle, user)]);
    assert_eq!(stage.gone(busy, CloseReason::PeerClosed).closes(), []);
}

#[test]
fn a_draining_server_admits_no_client_and_ends_no_link_for_it() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    stage.drain();
    let (control, _) = stage.control();
    let outputs = stage.hear(control, ControlFrame::Hello(hello(1)));
    assert_eq!(outputs.closes(), [(control, CloseReason::Shutdown, Manner::Reset)]);
    assert_eq!(outputs.said(control), []);
}

#[test]
fn a_hello_replaces_no_link_on_which_the_client_said_drain() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let _ = stage.user();
    stage.accepted_and_started(message);
    stage.hear(client.control, ControlFrame::Drain);
    let (_, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.closes(), []);
}

#[test]
fn a_draining_server_exits_when_the_last_user_has_left() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    let outputs = stage.drain();
    assert_eq!(outputs.closes(), []);
    assert!(!outputs.exits());
    assert_eq!(stage.idle(message).closes(), [(message, CloseReason::Drained, Manner::Whole)]);
    assert!(!stage.gone(user, CloseReason::Finished).exits(), "what was sent may not be read yet");
    assert!(stage.gone(message, CloseReason::Drained).exits());
}

#[test]
fn a_draining_server_without_users_exits_at_once() {
    assert!(begin().drain().exits());
}

#[test]
fn a_draining_server_resets_the_rest_at_the_limit() {
    let mut stage = begin_with(Limits { drain: secs(5), ..limits() });
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.drain();
    let outputs = stage.wait(millis(4_999));
    assert!(outputs.closes().is_empty() && !outputs.exits());
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(user, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
}

#[test]
fn a_server_that_is_asked_again_to_end_resets_the_rest_at_once_and_tells_of_each() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.tell(Input::Drain);
    let outputs = stage.tell(Input::GiveUp);
    assert_eq!(outputs.closes(), [(user, CloseReason::Shutdown, Manner::Reset)]);
    assert!(outputs.facts().contains(&&Fact::DrainOver { sessions: 1 }) && outputs.exits());
    let outputs = stage.gone(user, CloseReason::Shutdown);
    let left =
        |fact: &&Fact| matches!(fact, Fact::UserLeft { served: true, reason: CloseReason::Shutdown, .. });
    assert!(outputs.facts().iter().any(left));
}
