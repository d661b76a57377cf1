//! The pool, and sessions that are not started in time. Those that are not accepted: see `offers`.

use super::*;

#[test]
fn a_client_that_does_not_start_what_it_accepts_goes_behind_the_others() {
    let mut stage = begin();
    let (mut bad, mut good) = (stage.client(1), stage.client(2));
    let (message, _) = stage.bring(&mut bad);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
    stage.session(message, SessionEvent::Accepted);
    assert!(!stage.wait(DIAL + secs(1)).closes().is_empty());
    bad.note(&stage.gone(message, CloseReason::NotStarted));
    let ((of_bad, _), (first, _), (second, _)) =
        (stage.bring(&mut bad), stage.bring(&mut good), stage.bring(&mut good));
    let mut served: Vec<ConnId> = (0..3).map(|_| stage.user().1.pairs()[0].0).collect();
    assert_eq!(served.pop(), Some(of_bad), "better than none");
    served.sort();
    let mut all = [first, second];
    all.sort();
    assert_eq!(served, all);
}

#[test]
fn a_session_that_is_accepted_and_never_started_is_reset_after_the_dial_time_and_a_margin() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.user();
    stage.session(message, SessionEvent::Accepted);
    assert_eq!(stage.wait(DIAL + millis(999)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(message, CloseReason::NotStarted, Manner::Reset)]);
}

#[test]
fn a_session_that_has_started_lasts() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.user();
    stage.accepted_and_started(message);
    assert_eq!(stage.live(300), []);
}

#[test]
fn an_idle_connection_is_pinged_and_a_missing_pong_closes_it() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    // A third of the heartbeat, jittered by a quarter.
    assert_eq!(stage.wait(millis(7_499)).pings(), []);
    let mut pinged = false;
    for _ in 0..=5_000 {
        let outputs = stage.wait(millis(1));
        if outputs.pings() == [message] {
            pinged = true;
            break;
        }
    }
    assert!(pinged);
    assert_eq!(stage.wait(limits().pong - millis(2)).closes(), []);
    assert_eq!(stage.wait(millis(2)).closes(), [(message, CloseReason::NoPong, Manner::Reset)]);
}

#[test]
fn an_idle_connection_that_answers_stays() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    assert_eq!(stage.live(300), []);
}

#[test]
fn a_connection_that_broke_is_asked_for_anew() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((message, _), _) = (stage.bring(&mut client), stage.bring(&mut client));
    let outputs = stage.gone(message, CloseReason::PeerClosed);
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
}

#[test]
fn a_connection_behind_which_much_may_be_unread_serves_nobody_until_it_answers() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.accepted_and_started(message);
    stage.gone(user, CloseReason::Finished);
    let outputs = stage.session(message, SessionEvent::Idle { settled: false });
    assert_eq!(outputs.pings(), [message]);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), []);
    assert_eq!(stage.session(message, SessionEvent::Pong).pairs(), [(message, user)]);
}

#[test]
fn surplus_connections_are_retired_after_the_retire_time() {
    let mut stage = begin_with(Limits { pool: 1, ..limits() });
    let mut client = stage.client(1);
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (message, _) = stage.bring(&mut client);
        let (user, outputs) = stage.user();
        client.note(&outputs);
        stage.accepted_and_started(message);
        busy.push((message, user));
    }
    stage.bring(&mut client);
    for (message, user) in busy {
        stage.gone(user, CloseReason::Finished);
        stage.idle(message);
    }
    let retire = limits().retire.as_secs();
    assert_eq!(stage.live(retire - 1), []);
    let closed = stage.live(2 * retire);
    assert_eq!(closed.len(), 3);
    assert!(closed.iter().all(|it| it.1 == CloseReason::Retired && it.2 == Manner::Whole), "{closed:?}");
    assert_eq!(stage.live(retire), [], "the pool stays");
}

#[test]
fn a_connection_that_the_client_wants_closed_is_closed() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let outputs = stage.session(message, SessionEvent::Drain);
    assert_eq!(outputs.closes(), [(message, CloseReason::Drained, Manner::Whole)]);
    assert_eq!(stage.user().1.pairs(), []);
}
