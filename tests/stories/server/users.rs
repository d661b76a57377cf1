//! Users.

use super::*;

#[test]
fn a_user_is_started_at_once_with_its_number_its_address_and_the_one_it_asked_for() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user();
    let start = Start {
        sid: 1,
        first_sid: 0,
        publication: 1,
        port_offset: 0,
        user: user_address(user),
        asked: at(WEB),
        number: 1,
    };
    assert_eq!(outputs.starts(), [(message, user, start)]);
    assert_eq!(outputs.asked(client.control), [(3, 1)], "the pool is filled up");
}

#[test]
fn start_names_the_first_number_when_it_is_offered_again() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((one, _), (two, _)) = (stage.bring(&mut client), stage.bring(&mut client));
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(two, user)]);
    let outputs = stage.tell(returned(user, false, true));
    let [(message, again, start)] = outputs.starts()[..] else { panic!("{outputs:?}") };
    assert_eq!((message, again), (one, user));
    assert_eq!((start.sid, start.first_sid, start.number), (2, 1, 1));
}

#[test]
fn a_user_without_a_connection_waits_for_one_more_and_is_reset_in_the_end() {
    let mut stage = begin();
    let client = stage.client(1);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
    assert_eq!(stage.wait(limits().wait - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(user, CloseReason::NotReached, Manner::Reset)]);
}

#[test]
fn a_user_that_waits_is_given_the_next_connection_that_comes() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let ((first, _), (second, _)) = (stage.user(), stage.user());
    for user in [first, second] {
        let (message, outputs) = stage.bring(&mut client);
        assert_eq!(outputs.pairs(), [(message, user)]);
    }
}

#[test]
fn a_user_that_waits_for_a_client_is_served_by_one_that_comes_later() {
    let mut stage = begin();
    let (user, _) = stage.user();
    let mut client = stage.client(1);
    let (message, outputs) = stage.bring(&mut client);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_that_left_while_it_waited_is_not_served() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (user, _) = stage.user();
    stage.gone(user, CloseReason::PeerClosed);
    assert_eq!(stage.bring(&mut client).1.pairs(), []);
}

#[test]
fn more_than_may_wait_are_reset_but_one_who_can_be_served_is_served() {
    let mut stage = begin_with(Limits { waiting_max: 1, ..limits() });
    assert_eq!(stage.user_at(SSH).1.closes(), []);
    let (late, outputs) = stage.user_at(SSH);
    assert_eq!(outputs.closes(), [(late, CloseReason::Full, Manner::Reset)]);
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn the_connection_used_last_is_used_first() {
    for order in [[0, 1], [1, 0]] {
        let mut stage = begin();
        let mut client = stage.client(1);
        let messages = [stage.bring(&mut client).0, stage.bring(&mut client).0];
        for _ in messages {
            stage.user();
        }
        messages.iter().for_each(|&id| stage.accepted_and_started(id));
        order.iter().for_each(|&place| drop(stage.idle(messages[place])));
        let (user, outputs) = stage.user();
        assert_eq!(outputs.pairs(), [(messages[order[1]], user)]);
    }
}

#[test]
fn clients_that_publish_the_same_service_take_turns() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    let of_one = [stage.bring(&mut one).0, stage.bring(&mut one).0];
    let _ = (stage.bring(&mut two), stage.bring(&mut two));
    let served: Vec<bool> = (0..4).map(|_| of_one.contains(&stage.user().1.pairs()[0].0)).collect();
    assert_eq!(served, [true, false, true, false]);
}

#[test]
fn a_refused_user_goes_once_to_each_other_client_and_is_then_reset() {
    let mut stage = begin();
    let mut clients = [stage.client(1), stage.client(2), stage.client(3)];
    let messages = clients.each_mut().map(|client| stage.bring(client).0);
    let (user, outputs) = stage.user();
    let mut served: Vec<ConnId> = outputs.pairs().iter().map(|pair| pair.0).collect();
    for _ in 0..2 {
        let outputs = stage.tell(returned(user, true, false));
        let [(message, _, Start { first_sid: 0, .. })] = outputs.starts()[..] else { panic!("{outputs:?}") };
        served.push(message);
    }
    served.sort();
    assert_eq!(served, messages);
    let outputs = stage.tell(returned(user, true, false));
    assert_eq!(outputs.closes(), [(user, CloseReason::Aborted(AbortReason::Refused), Manner::Reset)]);
}

#[test]
fn a_user_costs_four_offers_at_most_however_many_clients_refuse() {
    let mut stage = begin();
    (1..=30).for_each(|instance| {
        let mut client = stage.client(instance);
        stage.bring(&mut client);
    });
    let (user, outputs) = stage.user();
    let mut offered = outputs.starts().len();
    let outputs = loop {
        let outputs = stage.tell(returned(user, true, false));
        if outputs.starts().is_empty() {
            break outputs;
        }
        offered += outputs.starts().len();
    };
    assert_eq!(offered, 4);
    assert_eq!(outputs.closes(), [(user, CloseReason::Aborted(AbortReason::Refused), Manner::Reset)]);
}

#[test]
fn a_client_that_has_refused_gets_no_user_while_another_one_may_serve_it() {
    let mut stage = begin();
    let (mut bad, mut good) = (stage.client(1), stage.client(2));
    let [of_bad, of_good] =
        [&mut bad, &mut good].map(|client| [stage.bring(client).0, stage.bring(client).0]);
    let (user, outputs) = stage.user();
    let of_bad = if of_bad.contains(&outputs.pairs()[0].0) { of_bad } else { of_good };
    stage.tell(returned(user, true, false));
    let (_, outputs) = stage.user();
    assert!(!of_bad.contains(&outputs.pairs()[0].0));
}

#[test]
fn a_refused_user_goes_on_when_the_client_that_refused_it_has_withdrawn_its_publication() {
    let mut stage = begin();
    let (mut bad, mut good) = (stage.client(1), stage.client(2));
    stage.bring(&mut bad);
    let (user, _) = stage.user();
    let (message, _) = stage.bring(&mut good);
    stage.hear(bad.control, ControlFrame::Unpublish(1));
    assert_eq!(stage.tell(returned(user, true, true)).pairs(), [(message, user)]);
}

#[test]
fn a_refused_user_comes_to_a_client_that_had_no_connection_when_it_was_passed_over() {
    let mut stage = begin();
    let (mut good, mut one, mut two) = (stage.client(1), stage.client(2), stage.client(3));
    let bad = [stage.bring(&mut one).0, stage.bring(&mut two).0];
    let (user, outputs) = stage.user();
    assert!(bad.contains(&outputs.pairs()[0].0));
    let outputs = stage.tell(returned(user, true, false));
    assert!(bad.contains(&outputs.pairs()[0].0), "one that is ready comes first");
    let waiting = |stage: &Stage| stage.service("web").figures.waiting;
    assert_eq!(waiting(&stage), 0);
    stage.tell(returned(user, true, false));
    assert_eq!(waiting(&stage), 1, "it waits for that client alone");
    let (message, outputs) = stage.bring(&mut good);
    assert_eq!(outputs.pairs(), [(message, user)]);
    assert_eq!(waiting(&stage), 0);
}

#[test]
fn a_user_is_counted_as_waiting_once_until_it_is_served_or_leaves() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let waiting = |stage: &Stage| stage.service("web").figures.waiting;
    let users: Vec<ConnId> = (0..3).map(|_| stage.user().0).collect();
    assert_eq!(waiting(&stage), 3);
    stage.gone(users[2], CloseReason::PeerClosed);
    let (first, outputs) = stage.bring(&mut client);
    assert_eq!((outputs.pairs(), waiting(&stage)), (vec![(first, users[0])], 1));
    // Bytes of it were sent there, so it waits for this client alone once that connection is lost.
    stage.gone(first, CloseReason::Truncated);
    stage.tell(returned(users[0], false, true));
    assert_eq!(waiting(&stage), 2);
    let (second, outputs) = stage.bring(&mut client);
    assert_eq!((outputs.pairs(), waiting(&stage)), (vec![(second, users[0])], 1));
    stage.gone(users[0], CloseReason::PeerClosed);
    stage.gone(client.control, CloseReason::PeerClosed);
    assert_eq!(waiting(&stage), 1);
    stage.gone(users[1], CloseReason::PeerClosed);
    assert_eq!(waiting(&stage), 0);
}

#[test]
fn a_client_that_refuses_is_asked_for_no_more_than_its_pool_until_it_serves() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let messages = [stage.bring(&mut client).0, stage.bring(&mut client).0];
    let users = [stage.user().0, stage.user().0];
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control).len(), 1, "a user waits");
    stage.tell(returned(users[1], true, false));
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control), [], "it would refuse on another, too");
    stage.accepted_and_started(messages[1]);
    let (_, outputs) = stage.user();
    assert_eq!(outputs.asked(client.control).len(), 1);
}

#[test]
fn a_user_whose_bytes_were_sent_goes_to_no_other_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    stage.bring(&mut two);
    let outputs = stage.tell(returned(user, false, true));
    assert_eq!(outputs.pairs(), []);
    assert_eq!(outputs.asked(one.control).len(), 1, "its own client is asked for one more");
    let (message, outputs) = stage.bring(&mut one);
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_whose_bytes_were_sent_is_reset_with_its_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    stage.bring(&mut two);
    stage.tell(returned(user, false, true));
    let outputs = stage.gone(one.control, CloseReason::PeerClosed);
    assert!(outputs.closes().contains(&(user, CloseReason::LinkLost, Manner::Reset)), "{outputs:?}");
    assert_eq!(outputs.pairs(), []);
}

#[test]
fn a_user_that_said_nothing_yet_goes_to_another_client() {
    let mut stage = begin();
    let (mut one, mut two) = (stage.client(1), stage.client(2));
    stage.bring(&mut one);
    let (user, _) = stage.user();
    let (message, _) = stage.bring(&mut two);
    let outputs = stage.tell(returned(user, false, false));
    assert_eq!(outputs.pairs(), [(message, user)]);
}

#[test]
fn a_user_that_left_is_told_of() {
    let mut stage = begin();
    let (id, _) = stage.user();
    stage.wait(secs(1));
    let outputs = stage.gone(id, CloseReason::PeerClosed);
    let [Fact::UserLeft { number: 1, user, lasted, served: false, reason: CloseReason::PeerClosed, .. }] =
        outputs.facts()[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((*user, *lasted), (user_address(id), secs(1)));
}

#[test]
fn a_user_that_waits_is_given_longer_where_the_round_trip_has_grown_meanwhile() {
    let mut stage = begin();
    let client = stage.client(1);
    let pinged = (0..30).any(|_| stage.wait(secs(1)).said(client.control).contains(&ControlFrame::Ping));
    assert!(pinged);
    let (user, _) = stage.user();
    // The pong takes almost as long as the user may wait.
    assert_eq!(stage.wait(limits().wait - millis(100)).closes(), []);
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(stage.wait(secs(1)).closes(), []);
    let outputs = stage.wait(limits().user_patience);
    assert!(outputs.closes().contains(&(user, CloseReason::NotReached, Manner::Reset)), "{outputs:?}");
}
