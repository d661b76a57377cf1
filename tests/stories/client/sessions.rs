//! Sessions.

use super::*;

#[test]
fn a_session_is_accepted_and_its_local_server_dialled_once() {
    let (mut stage, _, message) = ready(config());
    let outputs = stage.start(message, start(1, 0));
    assert_eq!(outputs.accepts(), [message]);
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:80"))]);
    let proxy = stage.dialling(Dialled::Proxy(message));
    assert!(stage.connected(proxy).is_silent());
}

#[test]
fn a_message_connection_serves_one_session_after_the_other() {
    let (mut stage, _, message) = ready(config());
    for sid in 1..4 {
        assert_eq!(stage.start(message, start(sid, 0)).proxies().len(), 1);
        stage.dialling(Dialled::Proxy(message));
        stage.idle(message);
    }
}

#[test]
fn the_same_session_again_is_a_duplicate_and_is_not_dialled_twice() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, start(1, 0));
    let outputs = stage.start(two, start(1, 0));
    assert_eq!(outputs.aborts(), [(two, AbortReason::Duplicate)]);
    assert_eq!(outputs.facts(), [&Fact::Duplicate { number: 9 }]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty());
}

#[test]
fn a_session_that_is_offered_again_while_it_runs_goes_on_and_its_copy_is_a_duplicate() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, start(1, 0));
    let outputs = stage.start(two, start(2, 1));
    assert_eq!(outputs.aborts(), [(two, AbortReason::Duplicate)]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty() && outputs.closes().is_empty());
}

#[test]
fn a_session_that_is_offered_again_and_was_never_seen_is_served_and_its_first_copy_is_late() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    assert_eq!(stage.start(two, start(2, 1)).proxies().len(), 1);
    let outputs = stage.start(one, start(1, 0));
    assert_eq!(outputs.aborts(), [(one, AbortReason::Duplicate)]);
    assert!(outputs.dials().is_empty());
}

#[test]
fn numbers_of_sessions_begin_anew_with_a_link() {
    let (mut stage, control, message) = ready(config());
    stage.start(message, start(1, 0));
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.gone(message, CloseReason::LinkLost);
    stage.wait(pause);
    let control = stage.link();
    let message = stage.message(control, 1);
    assert_eq!(stage.start(message, start(1, 0)).proxies().len(), 1);
}

#[test]
fn an_unknown_publication_is_refused_without_a_dial() {
    let (mut stage, _, message) = ready(config());
    let outputs = stage.start(message, Start { publication: 7, ..start(1, 0) });
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert!(outputs.dials().is_empty() && outputs.accepts().is_empty());
}

#[test]
fn a_local_server_that_refuses_gives_an_abort_and_a_fact() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(proxy, REFUSED);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    let failed = Fact::LocalFailed {
        number: 9,
        user: start(1, 0).user,
        service: name("web"),
        local: host("127.0.0.1:80"),
        reason: REFUSED,
    };
    assert_eq!(outputs.facts(), [&failed]);
}

#[test]
fn a_session_that_has_ended_is_told_of() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    stage.wait(secs(2));
    let outputs = stage.gone(proxy, CloseReason::Finished);
    let [Fact::SessionEnded { number: 9, lasted, reason: CloseReason::Finished, .. }] = outputs.facts()[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*lasted, secs(2));
}

#[test]
fn a_proxy_connection_whose_message_connection_is_gone_is_reset() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, start(1, 0));
    stage.gone(message, CloseReason::PeerClosed);
    let (id, purpose) = (stage.id(), Dialled::Proxy(message));
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::LinkLost, Manner::Reset)]);
}

#[test]
fn sessions_that_begin_before_the_end_of_the_one_before_is_told_cost_the_next_ones_nothing() {
    let limits = Limits { proxies_spare: 3, ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    for sid in 1..100 {
        // A server that aborts and begins in one breath: the end is not told of, and no dial has begun.
        assert_eq!(stage.start(message, start(sid, 0)).accepts(), [message], "session {sid}");
    }
    // The dial of one such session has begun: it is not wanted by the next one.
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.start(message, start(100, 0));
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn a_server_that_lets_one_message_connection_in_now_and_then_makes_no_more_of_them_than_may_be() {
    const AT_ONCE: usize = 4;
    let limits = Limits { messages_at_once: AT_ONCE, ..Limits::default() };
    let (mut stage, control) = linked(ClientConfig { limits, ..config() });
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 100 });
    let link = outputs.message_links()[0];
    let (mut asked, mut coming) = (outputs.tickets().len(), Vec::new());
    // Until the tickets expire.
    for _ in 0..4 {
        coming.extend((0..asked).map(|_| stage.dialling(Dialled::Message(link))));
        stage.wait(millis(1));
        let mut outputs = stage.connected(coming.pop().expect("one is on its way"));
        outputs.0.extend(stage.wait(secs(2)).0);
        outputs.closes().iter().for_each(|(retired, ..)| coming.retain(|id| id != retired));
        asked = outputs.tickets().len();
        // Rivals are a share of those that come: four at first, and one more for ten.
        assert!(coming.len() + asked <= AT_ONCE + 4 + 2, "{} and {asked}", coming.len());
    }
}

#[test]
fn a_server_that_begins_and_aborts_sessions_takes_a_bounded_number_of_proxy_connections() {
    let limits = Limits { proxies_spare: 3, ..Limits::default() };
    let (mut stage, _, message) = ready(ClientConfig { limits, ..config() });
    let mut proxies = Vec::new();
    for sid in 1..20 {
        let outputs = stage.start(message, start(sid, 0));
        if outputs.proxies().is_empty() {
            assert_eq!(
                (outputs.aborts(), outputs.accepts()),
                (vec![(message, AbortReason::Refused)], vec![])
            );
            let [Fact::LocalFailed { reason: CloseReason::Full, .. }] = outputs.facts()[..] else {
                panic!("{outputs:?}")
            };
        } else {
            // It does not end while its last bytes wait for a local server that reads nothing.
            proxies.push(stage.dialling(Dialled::Proxy(message)));
        }
        stage.idle(message);
    }
    assert_eq!(proxies.len(), 2 + 3, "two per message connection, and some to spare");
    stage.gone(proxies[0], CloseReason::EndTimedOut);
    assert_eq!(stage.start(message, start(20, 0)).proxies().len(), 1);
}

#[test]
fn a_dial_names_its_session_so_that_no_other_gets_its_local_server() {
    let (mut stage, _, message) = ready(config());
    for sid in [1, 2] {
        let outputs = stage.start(message, start(sid, 0));
        let [(&Dial::Proxy(of, number, _), _)] = outputs.dials()[..] else { panic!("{outputs:?}") };
        assert_eq!((of, number), (message, sid));
        stage.idle(message);
    }
}
