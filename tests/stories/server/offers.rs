//! Sessions that are not accepted in time, and are offered again.

use super::*;

/// A server with a client that has answered all pings, some time ago.
fn begin_served() -> (Stage, Client) {
    let mut stage = begin();
    let client = stage.client(1);
    stage.wait(secs(1));
    (stage, client)
}

impl Stage {
    /// Time passes until a session that was offered just now is late: its client answers on its control connection.
    fn late(&mut self, client: &Client) -> Outputs {
        let outputs = self.wait(limits().accept / 2);
        assert_eq!(outputs.said(client.control), [ControlFrame::Ping]);
        assert_eq!((outputs.closes(), outputs.starts()), (vec![], vec![]));
        self.hear(client.control, ControlFrame::Pong);
        self.wait(limits().accept / 2)
    }

    /// A control ping takes 2 s, again and again: the variance is gone.
    fn slow_down(&mut self, client: &mut Client) {
        for _ in 0..60 {
            let mut pinged = false;
            while !pinged {
                let outputs = self.wait(millis(100));
                if !outputs.asked(client.control).is_empty() {
                    // The tickets before have expired.
                    client.tickets.clear();
                    client.note(&outputs);
                }
                pinged = outputs.said(client.control).contains(&ControlFrame::Ping);
            }
            self.wait(secs(2));
            self.hear(client.control, ControlFrame::Pong);
        }
    }

    /// A user whose session is late, and was offered again: the user, its first copy and the second one.
    fn offered_twice(&mut self, client: &mut Client) -> (ConnId, ConnId, ConnId) {
        let (first, _) = self.bring(client);
        let (user, outputs) = self.user();
        client.note(&outputs);
        assert_eq!(outputs.pairs(), [(first, user)]);
        let (second, _) = self.bring(client);
        let outputs = self.late(client);
        client.note(&outputs);
        assert_eq!(outputs.pairs(), [(second, user)]);
        (user, first, second)
    }

    /// A user is given back by the reactor, because the message connection that it is paired with is gone.
    fn lose(&mut self, user: ConnId, message: ConnId, spoken: bool) -> Outputs {
        let mut outputs = self.tell(returned(user, false, spoken));
        outputs.0.extend(self.gone(message, CloseReason::PeerClosed).0);
        outputs
    }
}

// When a session is late.

#[test]
fn a_late_session_is_offered_again_and_its_first_connection_is_untouched() {
    let (mut stage, mut client) = begin_served();
    let ((idle, _), (first, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    stage.wait(secs(1));
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(first, user)]);
    let outputs = stage.late(&client);
    assert_eq!((outputs.pings(), outputs.starts()), (vec![idle], vec![]), "it must have been heard since");
    let outputs = stage.session(idle, SessionEvent::Pong);
    let [(message, again, Start { sid: 2, first_sid: 1, number: 1, .. })] = outputs.starts()[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((message, again), (idle, user));
    assert!(outputs.closes().is_empty() && outputs.aborted_copies().is_empty());
}

#[test]
fn a_connection_that_was_heard_since_the_start_needs_no_ping() {
    let (mut stage, mut client) = begin_served();
    let (_, _, second) = stage.offered_twice(&mut client);
    assert_eq!(stage.session(second, SessionEvent::Accepted).pings(), []);
}

#[test]
fn a_client_whose_control_connection_is_silent_too_is_slow_and_its_user_waits() {
    let (mut stage, mut client) = begin_served();
    let (_, _) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, _) = stage.user();
    let outputs = stage.wait(limits().unheard - millis(1));
    assert_eq!((outputs.starts(), outputs.pings(), outputs.closes()), (vec![], vec![], vec![]));
    assert_eq!(outputs.said(client.control), [ControlFrame::Ping], "one is enough");
    assert_eq!(stage.wait(millis(1)).closes(), [(user, CloseReason::NotAccepted, Manner::Reset)]);
}

#[test]
fn a_session_that_a_client_has_not_accepted_when_it_answers_late_is_offered_again() {
    let (mut stage, mut client) = begin_served();
    stage.bring(&mut client);
    let (_, outputs) = stage.user();
    client.note(&outputs);
    let (second, _) = stage.bring(&mut client);
    assert_eq!(stage.wait(secs(1)).starts(), []);
    let outputs = stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(outputs.pairs().iter().map(|pair| pair.0).collect::<Vec<_>>(), [second]);
}

#[test]
fn a_client_that_is_heard_from_keeps_its_user_for_as_long_as_a_user_waits_at_all() {
    let (mut stage, mut client) = begin_served();
    stage.bring(&mut client);
    let (user, _) = stage.user();
    assert_eq!(stage.live(59), []);
    assert_eq!(stage.live(1), [(user, CloseReason::NotAccepted, Manner::Reset)]);
}

#[test]
fn on_a_slow_line_three_round_trips_are_no_delay() {
    let (mut stage, mut client) = begin_served();
    stage.slow_down(&mut client);
    stage.bring(&mut client);
    let (user, _) = stage.user();
    client.note(&stage.wait(millis(100)));
    stage.bring(&mut client);
    // The ping leaves half-way, so that its answer is there in time.
    let outputs = stage.wait(millis(2_800));
    assert_eq!((outputs.said(client.control), outputs.starts()), (vec![], vec![]));
    assert_eq!(stage.wait(millis(200)).said(client.control), [ControlFrame::Ping]);
    stage.wait(secs(2));
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(stage.wait(millis(800)).starts(), []);
    assert_eq!(stage.wait(millis(500)).pairs().len(), 1);
    // Four round trips are less than the least time for which nothing may be heard.
    assert_eq!(stage.wait(millis(8_600)).closes(), []);
    assert_eq!(stage.wait(millis(200)).closes(), [(user, CloseReason::NotAccepted, Manner::Reset)]);
}

#[test]
fn late_sessions_are_offered_again_as_often_as_there_are_tokens_and_then_wait() {
    let (mut stage, mut client) = begin_served();
    // Two tokens for each place of the pool; none is earned, because nothing is accepted.
    for _ in 0..2 * POOL {
        let (user, first, second) = stage.offered_twice(&mut client);
        stage.gone(user, CloseReason::PeerClosed);
        for message in [first, second] {
            client.note(&stage.gone(message, CloseReason::EndTimedOut));
        }
    }
    let (_, _) = stage.bring(&mut client);
    let (_, outputs) = stage.user();
    client.note(&outputs);
    stage.bring(&mut client);
    let outputs = stage.late(&client);
    assert_eq!((outputs.starts(), outputs.closes()), (vec![], vec![]), "it waits for its first connection");
}

#[test]
fn a_client_that_does_not_accept_what_it_is_given_goes_behind_the_others() {
    let (mut stage, mut bad) = begin_served();
    let mut good = stage.client(2);
    stage.wait(secs(1));
    stage.bring(&mut bad);
    let (_, outputs) = stage.user();
    bad.note(&outputs);
    stage.late(&bad);
    let (of_bad, outputs) = stage.bring(&mut bad);
    assert_eq!(outputs.pairs().len(), 1);
    bad.note(&stage.session(of_bad, SessionEvent::Accepted));
    let ((of_bad, _), (first, _), (second, _)) =
        (stage.bring(&mut bad), stage.bring(&mut good), stage.bring(&mut good));
    let served: Vec<ConnId> = (0..2).map(|_| stage.user().1.pairs()[0].0).collect();
    assert!(!served.contains(&of_bad) && served.contains(&first) && served.contains(&second), "{served:?}");
}

// Which copy is served.

#[test]
fn the_copy_that_is_accepted_first_is_taken_and_the_other_is_aborted_alone() {
    for first_wins in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, second) = stage.offered_twice(&mut client);
        let (winner, loser) = if first_wins { (first, second) } else { (second, first) };
        let outputs = stage.session(winner, SessionEvent::Accepted);
        assert_eq!((outputs.takes(), outputs.aborted_copies()), (vec![(winner, user)], vec![loser]));
        assert_eq!(outputs.closes(), []);
        assert!(stage.session(loser, SessionEvent::Accepted).is_silent());
        stage.session(winner, SessionEvent::Started);
        // The connection of the other is used again once it has drained.
        stage.idle(loser);
        let (next, outputs) = stage.user();
        assert_eq!(outputs.pairs(), [(loser, next)]);
    }
}

#[test]
fn a_session_that_was_offered_once_is_not_taken() {
    let (mut stage, mut client) = begin_served();
    let (message, _) = stage.bring(&mut client);
    stage.user();
    let outputs = stage.session(message, SessionEvent::Accepted);
    assert_eq!((outputs.takes(), outputs.aborted_copies()), (vec![], vec![]));
}

#[test]
fn a_duplicate_says_that_the_other_copy_lives() {
    for first_is_duplicate in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, second) = stage.offered_twice(&mut client);
        let (duplicate, other) = if first_is_duplicate { (first, second) } else { (second, first) };
        let outputs = stage.session(duplicate, SessionEvent::Duplicate);
        assert_eq!((outputs.closes(), outputs.aborted_copies()), (vec![], vec![]));
        let outputs = stage.session(other, SessionEvent::Accepted);
        assert_eq!((outputs.takes(), outputs.aborted_copies()), (vec![(other, user)], vec![]));
    }
}

#[test]
fn a_user_is_reset_if_the_copy_that_the_client_has_seen_is_lost() {
    let (mut stage, mut client) = begin_served();
    let (user, first, second) = stage.offered_twice(&mut client);
    stage.session(second, SessionEvent::Duplicate);
    let outputs = stage.lose(user, first, true);
    let reason = CloseReason::Aborted(AbortReason::Duplicate);
    assert_eq!(outputs.closes(), [(user, reason, Manner::Reset)]);
    assert_eq!(outputs.starts(), []);
}

#[test]
fn a_user_is_reset_soon_if_the_copy_that_its_client_has_cannot_be_heard() {
    let (mut stage, mut client) = begin_served();
    let (user, _, second) = stage.offered_twice(&mut client);
    let late = limits().accept;
    let outputs = stage.session(second, SessionEvent::Duplicate);
    assert_eq!(outputs.closes(), []);
    // TCP sends what was lost again before twice that time is over.
    let outputs = stage.wait(late + limits().abort - millis(1));
    assert_eq!((outputs.closes(), outputs.starts()), (vec![], vec![]), "it is offered no more");
    let outputs = stage.wait(millis(2));
    assert_eq!(outputs.closes(), [(user, CloseReason::NotAccepted, Manner::Reset)]);
}

#[test]
fn after_an_outage_the_copy_that_its_client_has_may_be_heard() {
    let (mut stage, mut client) = begin_served();
    let (user, first, second) = stage.offered_twice(&mut client);
    stage.wait(secs(8));
    stage.hear(client.control, ControlFrame::Pong);
    stage.session(second, SessionEvent::Duplicate);
    assert_eq!(stage.wait(secs(8)).closes(), []);
    let outputs = stage.session(first, SessionEvent::Accepted);
    assert_eq!(outputs.takes(), [(first, user)]);
}

// Copies that are lost.

#[test]
fn a_session_that_lost_one_copy_waits_for_the_other() {
    for first_is_lost in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, second) = stage.offered_twice(&mut client);
        let (outputs, left) = match first_is_lost {
            true => (stage.lose(user, first, true), second),
            false => (stage.gone(second, CloseReason::PeerClosed), first),
        };
        assert_eq!((outputs.starts(), outputs.closes()), (vec![], vec![]));
        assert_eq!(stage.session(left, SessionEvent::Accepted).takes(), [(left, user)]);
    }
}

#[test]
fn a_session_that_lost_all_copies_is_offered_again_whichever_goes_last() {
    for first_goes_last in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, second) = stage.offered_twice(&mut client);
        let outputs = if first_goes_last {
            stage.gone(second, CloseReason::PeerClosed);
            stage.lose(user, first, true)
        } else {
            stage.lose(user, first, true);
            stage.gone(second, CloseReason::PeerClosed)
        };
        client.note(&outputs);
        let (third, outputs) = stage.bring(&mut client);
        let [(message, again, Start { first_sid: 1, sid: 3, .. })] = outputs.starts()[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!((message, again), (third, user));
    }
}

#[test]
fn a_copy_that_goes_with_its_link_is_lost() {
    for spoken in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, _) = stage.offered_twice(&mut client);
        let mut other = stage.client(2);
        let (message, _) = stage.bring(&mut other);
        stage.lose(user, first, spoken);
        let outputs = stage.gone(client.control, CloseReason::PeerClosed);
        let lost = outputs.closes().contains(&(user, CloseReason::LinkLost, Manner::Reset));
        let moved = outputs.pairs() == [(message, user)];
        assert_eq!((lost, moved), (spoken, !spoken), "{outputs:?}");
    }
}

#[test]
fn a_copy_of_a_user_that_left_is_aborted() {
    let (mut stage, mut client) = begin_served();
    let (user, _, second) = stage.offered_twice(&mut client);
    assert_eq!(stage.gone(user, CloseReason::PeerClosed).aborted_copies(), [second]);
}

#[test]
fn a_client_that_refuses_one_copy_has_refused_the_session() {
    for first_is_refused in [true, false] {
        let (mut stage, mut client) = begin_served();
        let (user, first, second) = stage.offered_twice(&mut client);
        let mut other = stage.client(2);
        let (message, _) = stage.bring(&mut other);
        let (outputs, left) = match first_is_refused {
            true => (stage.tell(returned(user, true, true)), second),
            false => (stage.session(second, SessionEvent::Refused), first),
        };
        assert_eq!(outputs.aborted_copies(), [left]);
        let [(next, again, Start { first_sid: 0, .. })] = outputs.starts()[..] else { panic!("{outputs:?}") };
        assert_eq!((next, again), (message, user));
    }
}

#[test]
fn a_client_that_leaves_keeps_what_it_was_offered() {
    let (mut stage, mut client) = begin_served();
    stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.late(&client);
    let outputs = stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(outputs.closes(), []);
    assert!(!stage.live(5).iter().any(|closed| closed.0 == user));
}

// Waiting for a connection.

#[test]
fn a_user_waits_for_a_connection_of_a_slow_client_for_four_round_trips() {
    let (mut stage, mut client) = begin_served();
    stage.slow_down(&mut client);
    let (user, _) = stage.user();
    assert_eq!(stage.wait(millis(7_900)).closes(), []);
    assert_eq!(stage.wait(millis(600)).closes(), [(user, CloseReason::NotReached, Manner::Reset)]);
}
