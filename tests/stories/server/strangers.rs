//! Listeners and strangers.

use super::*;

#[test]
fn a_listener_is_asked_for_per_service_and_for_messages_and_controls() {
    let outputs = new_server(limits()).wait(Duration::ZERO);
    assert_eq!(outputs.users_limit(), Some(limits().users_max));
    let listen = outputs.0.iter().filter(|output| !matches!(output, Output::LimitUsers(_)));
    let listen = listen.map(|output| match output {
        Output::Listen { at, door, .. } => (at.port(), *door == Door::Clients),
        other => panic!("{other:?}"),
    });
    assert_eq!(listen.collect::<Vec<_>>(), [(WEB, false), (SSH, false), (MESSAGE, true), (CONTROL, true)]);
}

#[test]
fn a_stranger_with_an_unknown_key_or_link_is_discarded_and_told_nothing() {
    let mut stage = begin();
    for purpose in [Purpose::Control, Purpose::Message] {
        let (id, outputs) = stage.stranger(purpose, [0; 16]);
        assert_eq!(outputs.closes(), [(id, CloseReason::unknown(purpose), Manner::Discard)]);
        assert_eq!(outputs.0.len(), 1, "{outputs:?}");
    }
}

#[test]
fn a_key_is_no_link_and_a_link_is_no_key() {
    let mut stage = begin();
    let client = stage.client(1);
    for (purpose, key_id) in [(Purpose::Control, client.link), (Purpose::Message, office())] {
        let (id, outputs) = stage.stranger(purpose, key_id);
        assert_eq!(outputs.closes(), [(id, CloseReason::unknown(purpose), Manner::Discard)]);
    }
}

#[test]
fn a_stranger_that_names_a_key_is_verified_against_its_secret() {
    let (id, outputs) = begin().stranger(Purpose::Control, office());
    let [Output::Verify { id: verified, secret }] = &outputs.0[..] else { panic!("{outputs:?}") };
    assert_eq!((*verified, secret.bytes()), (id, &[7; 32]));
}

#[test]
fn a_stranger_that_leaves_is_told_of() {
    let mut stage = begin();
    let (id, _) = stage.stranger(Purpose::Control, office());
    let reason = CloseReason::HandshakeTimedOut;
    assert_eq!(stage.gone(id, reason).facts(), [&Fact::NotAdmitted { peer: peer(), reason }]);
}

#[test]
fn a_good_ticket_admits_once_and_a_used_or_unknown_one_is_discarded() {
    let mut stage = begin();
    let client = stage.client(1);
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.answered(), [id]);
    for ticket in [1, 0, 99] {
        let (id, outputs) = stage.message(client.link, ticket);
        assert_eq!(outputs.closes(), [(id, CloseReason::UnknownTicket, Manner::Discard)]);
        assert_eq!(outputs.answered(), []);
    }
}

#[test]
fn a_client_that_cannot_be_asked_may_bring_the_next_tickets_of_its_own_accord_once_each() {
    let mut stage = begin();
    let client = stage.client(1);
    let mut answered = |ticket| !stage.message(client.link, ticket).1.answered().is_empty();
    assert_eq!([4, 4, 3, 3, 1, 99].map(&mut answered), [true, false, true, false, true, false]);
    let asked: Vec<_> = (0..3).flat_map(|_| stage.user().1.asked(client.control)).collect();
    assert!(
        !asked.is_empty() && asked.iter().all(|asked| asked.0 > 4),
        "later ones are behind it: {asked:?}"
    );
}

#[test]
fn message_connections_that_were_not_asked_for_are_few() {
    let mut stage = begin();
    let client = stage.client(1);
    let came = (1..100).filter(|&ticket| !stage.message(client.link, ticket).1.answered().is_empty());
    assert_eq!(came.count(), 32);
}

#[test]
fn users_of_a_client_that_brings_message_connections_and_owes_a_pong_wait_longer() {
    for owes in [false, true] {
        let mut stage = begin();
        let mut client = stage.client(1);
        while !owes && stage.wait(millis(500)).said(client.control).is_empty() {}
        if !owes {
            stage.hear(client.control, ControlFrame::Pong);
        }
        stage.wait(if owes { secs(11) } else { secs(1) });
        client.tickets.clear();
        let users: Vec<ConnId> = (0..2).map(|_| stage.user().0).collect();
        stage.wait(secs(1));
        let (_, outputs) = stage.message(client.link, 10);
        assert_eq!(outputs.starts().len(), 1);
        let mut closed = Vec::new();
        let came = stage.now;
        while closed.is_empty() {
            let outputs = stage.wait(millis(100));
            closed.extend(outputs.closes().into_iter().filter(|close| close.0 == users[1]));
        }
        assert_eq!(closed, [(users[1], CloseReason::NotReached, Manner::Reset)]);
        assert_eq!((stage.now - came).as_secs(), if owes { 9 } else { 4 });
    }
}

#[test]
fn a_ticket_that_was_used_counts_until_its_connection_is_answered_or_gone() {
    let mut stage = begin();
    let client = stage.client(1);
    let (id, _) = stage.stranger(Purpose::Message, client.link);
    let outputs = stage.tell(Input::Proved { id, proof: Proof::Message { ticket: 1 } });
    assert_eq!((outputs.answered(), outputs.asked(client.control)), (vec![id], vec![]));
    let outputs = stage.gone(id, CloseReason::PeerClosed);
    assert_eq!(outputs.asked(client.control), [(3, 1)], "another in its place");
}

#[test]
fn a_recorded_first_flight_is_not_answered() {
    let mut stage = begin();
    stage.control();
    let (id, _) = stage.stranger(Purpose::Control, office());
    let outputs = stage.prove(id, Proof::control(&[9; LINK_RANDOM_BYTES], 1));
    assert_eq!(outputs.closes(), [(id, CloseReason::Replayed, Manner::Discard)]);
    assert_eq!(outputs.answered(), []);
}

#[test]
fn a_client_that_is_refused_counts_as_a_stranger_to_its_end() {
    let mut stage = begin();
    let (control, _) = stage.control();
    let versions = Versions { least: VERSIONS.most + 1, most: VERSIONS.most + 1 };
    let outputs = stage.hear(control, ControlFrame::Hello(Hello { versions, ..hello(1) }));
    assert_eq!(outputs.admitted(), []);
    let (client, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.admitted(), [client.control]);
}

#[test]
fn a_ticket_expires_and_another_is_issued_in_its_place() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.wait(limits().ticket);
    let expired = Fact::TicketsExpired { key: name("office"), count: POOL };
    assert!(outputs.facts().contains(&&expired), "{outputs:?}");
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
}

#[test]
fn people_are_not_told_that_a_silent_client_brings_no_message_connections() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.wait(limits().ticket);
    let outputs = stage.wait(limits().ticket * 2);
    assert!(!outputs.asked(client.control).is_empty());
    let told = |fact: &&Fact| matches!(fact, Fact::TicketsExpired { .. });
    assert_eq!(outputs.facts().into_iter().filter(told).count(), 0, "its silence is told of elsewhere");
}

/// A client of which so many users wait for a message connection.
fn crowded(users: usize) -> (Stage, Client) {
    let mut stage = begin_with(Limits { pool: 10, ..limits() });
    let mut client = stage.greet(hello(1)).0;
    stage.hear(client.control, publish(1, "web"));
    stage.hear(client.control, ControlFrame::Pong);
    for _ in 0..users {
        let (_, outputs) = stage.user();
        client.note(&outputs);
    }
    (stage, client)
}

/// It brings a message connection, and its session starts.
fn serve(stage: &mut Stage, client: &mut Client) {
    let message = stage.bring(client).0;
    stage.accepted_and_started(message);
}

/// A burst of so many users, turn by turn, at a client whose pool is full; how many wait.
fn burst(users: usize) -> (Stage, Client, usize) {
    let mut stage = begin_with(Limits { pool: 10, ..limits() });
    let mut client = stage.client(1);
    (0..10).for_each(|_| drop(stage.bring(&mut client)));
    let mut waiting = 0;
    for _ in 0..users {
        let (_, outputs) = stage.user();
        waiting += usize::from(outputs.pairs().is_empty());
        client.note(&outputs);
        assert!(client.tickets.len() >= waiting, "{} for {waiting}", client.tickets.len());
    }
    (stage, client, waiting)
}

#[test]
fn for_each_user_of_a_burst_that_waits_one_is_asked_for_at_once_and_one_more_for_every_twenty() {
    let (mut stage, mut client, waiting) = burst(100);
    assert_eq!(waiting, 90);
    assert_eq!(client.tickets.len(), 10 + 90 + 90 / 20, "the pool's, one for each, and a few more");
    client.tickets.drain(..90 / 20);
    let mut served = 0;
    for _ in 0..90 {
        served += stage.bring(&mut client).1.pairs().len();
    }
    assert_eq!(served, 90, "though some of those that were asked for are lost");
}

#[test]
fn for_a_pool_none_more_is_asked_for_than_are_missing() {
    let mut stage = begin_with(Limits { pool: 10, ..limits() });
    let mut client = stage.client(1);
    let mut asked = client.tickets.len();
    for _ in 0..50 {
        let message = stage.bring(&mut client).0;
        let (_, outputs) = stage.user();
        client.note(&outputs);
        asked += outputs.asked(client.control).iter().map(|it| it.1 as usize).sum::<usize>();
        stage.accepted_and_started(message);
    }
    assert_eq!(asked, 10 + 50);
}

#[test]
fn for_what_is_late_while_others_come_a_few_more_are_asked_for_as_a_share_of_those() {
    let (mut stage, mut client) = crowded(19);
    stage.wait(millis(100));
    let mut brought = 0;
    while client.tickets.len() > 10 {
        serve(&mut stage, &mut client);
        brought += 1;
    }
    let late: Vec<u64> = client.tickets.drain(..).collect();
    let outputs = stage.wait(limits().late);
    let asked: u32 = outputs.asked(client.control).iter().map(|it| it.1).sum();
    assert_eq!(asked, 1 + brought / 10, "one, and one of ten that came: {outputs:?}");
    assert_eq!(stage.wait(secs(1)).asked(client.control), [], "once");
    let answered = late.iter().filter(|&&it| stage.message(client.link, it).1.answered().len() == 1).count();
    assert_eq!(answered, late.len(), "the late ones are good all the same");
}

#[test]
fn without_loss_none_is_asked_for_in_the_place_of_others_and_where_none_comes_neither() {
    for brings in [true, false] {
        let (mut stage, mut client) = crowded(50);
        stage.wait(millis(100));
        while brings && !client.tickets.is_empty() {
            serve(&mut stage, &mut client);
        }
        assert_eq!(stage.wait(secs(2)).asked(client.control), [], "{brings}");
    }
}

#[test]
fn after_one_was_late_one_more_is_asked_for_with_every_ten_for_a_minute() {
    let (mut stage, mut client) = crowded(50);
    while client.tickets.len() > 1 {
        serve(&mut stage, &mut client);
    }
    client.tickets.clear();
    client.note(&stage.wait(limits().late));
    for (minutes, of) in [(0, 10), (1, 20)] {
        while !client.tickets.is_empty() {
            serve(&mut stage, &mut client);
        }
        stage.live(60 * minutes);
        let mut waiting = 0;
        for _ in 0..100 {
            let (_, outputs) = stage.user();
            waiting += usize::from(outputs.pairs().is_empty());
            outputs.pairs().iter().for_each(|&(message, _)| stage.accepted_and_started(message));
            client.note(&outputs);
        }
        client.note(&stage.wait(millis(50)));
        let more = client.tickets.len() - 10 - waiting;
        assert!((waiting / of..=waiting / of + 1).contains(&more), "{more} more for {waiting}");
    }
}

/// A client whose round trip is so long.
fn far_away(round_trip: Duration) -> (Stage, Client) {
    let mut stage = begin_with(Limits { pool: 10, ..limits() });
    let mut client = stage.client(1);
    (0..10).for_each(|_| drop(stage.bring(&mut client)));
    for _ in 0..60 {
        let (user, outputs) = stage.user();
        let message = outputs.pairs()[0].0;
        client.note(&outputs);
        client.note(&stage.wait(round_trip));
        stage.accepted_and_started(message);
        stage.gone(user, CloseReason::Finished);
        stage.idle(message);
    }
    while !client.tickets.is_empty() {
        stage.bring(&mut client);
    }
    (stage, client)
}

#[test]
fn a_burst_is_asked_for_whenever_it_has_doubled_and_once_no_user_has_come_for_a_moment() {
    let (mut stage, client) = far_away(millis(64));
    let (mut asked_at, mut asked) = (Vec::new(), 0);
    for number in 1..=50 {
        let (_, mut outputs) = stage.user();
        outputs.0.extend(stage.wait(millis(1) / 10).0);
        let opens = outputs.asked(client.control);
        asked_at.extend(opens.iter().map(|_| number));
        asked += opens.iter().map(|it| it.1).sum::<u32>();
    }
    assert_eq!(asked_at, [2, 4, 8, 16, 32], "the first takes the one that is left over");
    assert_eq!(stage.wait(millis(1) / 2).asked(client.control), []);
    asked += stage.wait(millis(1) / 2).asked(client.control).iter().map(|it| it.1).sum::<u32>();
    // One of the pool's eleven was used before.
    assert_eq!(asked, 10 + 39 + 39 / 20);
    stage.wait(millis(1));
    let (_, mut outputs) = stage.user();
    outputs.0.extend(stage.wait(Duration::ZERO).0);
    assert_eq!(outputs.asked(client.control).len(), 1, "the next burst begins anew");
}

#[test]
fn a_burst_that_goes_on_is_asked_for_eight_times_more_in_a_round_trip_and_where_that_is_short_at_once() {
    for (round_trip, fewest, most) in [(80, 8, 15), (16, 8, 15), (7, 95, 100)] {
        let (mut stage, client) = far_away(millis(round_trip));
        let (mut asked, step) = (0, millis(round_trip) / 100);
        for _ in 0..100 {
            let (_, mut outputs) = stage.user();
            outputs.0.extend(stage.wait(step).0);
            asked += outputs.asked(client.control).len();
        }
        assert!((fewest..=most).contains(&asked), "{asked} in {round_trip} ms");
    }
}

#[test]
fn for_tickets_that_are_given_back_one_is_asked_for_at_once_and_the_rest_when_it_has_come() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let used = stage.bring(&mut client).0;
    assert!(stage.hear(client.control, ControlFrame::Void { first_ticket: 1, count: 1 }).is_silent());
    let outputs = stage.hear(client.control, ControlFrame::Void { first_ticket: 2, count: 1 });
    assert_eq!(outputs.asked(client.control), [(3, 1)]);
    let (id, outputs) = stage.message(client.link, 2);
    assert_eq!(
        outputs.closes(),
        [(id, CloseReason::UnknownTicket, Manner::Discard)],
        "it is not good any more"
    );
    stage.gone(used, CloseReason::PeerClosed);
    let outputs = stage.hear(client.control, ControlFrame::Void { first_ticket: 3, count: 1 });
    assert_eq!(outputs.asked(client.control), [(4, 1)], "however often");
    let (_, outputs) = stage.message(client.link, 4);
    assert_eq!(outputs.asked(client.control), [(5, POOL as u32 - 1)]);
}

#[test]
fn a_message_connection_that_is_late_is_admitted_though_another_was_asked_for_in_its_place() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.wait(limits().ticket);
    let late = limits().heartbeat - secs(1);
    for _ in 0..late.as_secs() {
        stage.hear(client.control, ControlFrame::Ping);
        stage.wait(secs(1));
    }
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.answered(), [id]);
    let (id, outputs) = stage.message(client.link, 1);
    assert_eq!(outputs.closes(), [(id, CloseReason::UnknownTicket, Manner::Discard)], "once");
    stage.hear(client.control, ControlFrame::Ping);
    stage.wait(limits().ticket);
    let (id, outputs) = stage.message(client.link, 2);
    assert_eq!(outputs.closes(), [(id, CloseReason::UnknownTicket, Manner::Discard)], "and not for ever");
}
