//! Clients that come back to a link whose control connection was silent.

use skyorg::wire::control::Resumes;

use super::*;

impl Stage {
    /// A client comes back to its link on another control connection, and announces so many publications.
    fn come_back(&mut self, client: &mut Client, publications: u32) -> Outputs {
        let (control, _) = self.control();
        let resumes = Some(Resumes { link: client.link, publications });
        let outputs = self.hear(control, ControlFrame::Hello(Hello { resumes, ..hello(1) }));
        client.control = control;
        client.note(&outputs);
        outputs
    }
}

/// What the Welcome names: the link, and its pool key.
fn named(outputs: &Outputs, control: ConnId) -> (KeyId, Secret) {
    match &outputs.said(control)[..] {
        [ControlFrame::Welcome(welcome), ..] => (welcome.link, welcome.pool_key.clone()),
        said => panic!("{said:?}"),
    }
}

fn is_open(outputs: &Outputs, ids: &[ConnId]) -> bool {
    outputs.closes().iter().all(|(id, ..)| !ids.contains(id))
}

#[test]
fn a_client_that_comes_back_keeps_its_link_with_its_message_connections_and_sessions() {
    let mut stage = begin();
    let (mut client, welcomed) = stage.greet(hello(1));
    stage.hear(client.control, publish(1, "web"));
    let (busy, _) = stage.bring(&mut client);
    let (idle, _) = stage.bring(&mut client);
    let (user, outputs) = stage.user();
    let (first, ..) = outputs.starts()[0];
    stage.accepted_and_started(first);
    let names = named(&welcomed, client.control);
    let old = client.control;
    let since = stage.snapshot().links[0].since;
    stage.wait(secs(1));
    let outputs = stage.come_back(&mut client, 1);
    assert_eq!(named(&outputs, client.control), names);
    assert_eq!(outputs.admitted(), [client.control]);
    assert!(is_open(&outputs, &[busy, idle, user, old]), "{outputs:?}");
    let (peer, key) = (peer(), name("office"));
    assert_eq!(outputs.facts(), [&Fact::ClientReturned { link: client.control, before: old, key, peer }]);
    assert!(outputs.said(client.control).contains(&ControlFrame::Ping));
    // One that may be as dead as the old control connection serves once it has answered.
    let other = if first == busy { idle } else { busy };
    stage.session(other, SessionEvent::Pong);
    assert_eq!(stage.user().1.starts()[0].0, other);
    assert_eq!(stage.snapshot().links[0].since, since);
    assert_eq!(stage.idle(first).closes(), []);
}

#[test]
fn its_new_address_is_shown() {
    let mut stage = begin();
    let client = stage.client(1);
    let (id, peer) = (stage.id(), SocketAddr::from(([192, 0, 2, 77], 5_000)));
    stage.tell(Input::Accepted { id, door: Door::Clients, peer, asked: at(CONTROL) });
    let hello = ClearHello { suite: Suite::AesGcm, purpose: Purpose::Control, key_id: office() };
    stage.tell(Input::Greeted { id, hello });
    stage.prove(id, Proof::control(&[77; LINK_RANDOM_BYTES], 77));
    let resumes = Some(Resumes { link: client.link, publications: 1 });
    let outputs = stage.hear(id, ControlFrame::Hello(Hello { resumes, ..super::hello(1) }));
    let (before, key) = (client.control, name("office"));
    assert_eq!(outputs.facts(), [&Fact::ClientReturned { link: id, before, key, peer }]);
    assert_eq!(stage.snapshot().links[0].address, Some(peer));
    assert_eq!(stage.service("web").publications[0].client, Some(peer));
}

#[test]
fn the_old_control_connection_is_not_listened_to_and_closed_once_the_welcome_must_be_there() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let first = client.control;
    stage.come_back(&mut client, 1);
    stage.hear(client.control, ControlFrame::Pong);
    assert_eq!(stage.hear(first, ControlFrame::Ping).said(first), []);
    stage.hear(first, ControlFrame::Drain);
    let second = client.control;
    let outputs = stage.come_back(&mut client, 1);
    assert_eq!(outputs.closes(), [(first, CloseReason::Replaced, Manner::Reset)], "there is one at most");
    stage.gone(first, CloseReason::Replaced);
    let closed = stage.live(31);
    assert_eq!(closed, [(second, CloseReason::Replaced, Manner::Reset)]);
    assert_eq!(stage.hear(client.control, ControlFrame::Ping).said(client.control), [ControlFrame::Pong]);
}

#[test]
fn what_a_client_was_asked_for_is_asked_anew_and_may_come_too() {
    let mut stage = begin();
    let mut client = stage.client(1);
    assert_eq!(client.tickets, [1, 2]);
    let outputs = stage.come_back(&mut client, 1);
    assert_eq!(outputs.asked(client.control), [(3, POOL as u32)], "the numbers go on");
    for ticket in [2, 4, 3, 1] {
        assert_eq!(stage.message(client.link, ticket).1.closes(), [], "ticket {ticket}");
    }
}

#[test]
fn a_ping_that_was_not_answered_is_forgotten() {
    let mut stage = begin();
    let mut client = stage.client(1);
    assert!(stage.wait(secs(11)).said(client.control).contains(&ControlFrame::Ping));
    stage.wait(secs(15));
    let outputs = stage.come_back(&mut client, 1);
    assert!(outputs.said(client.control).contains(&ControlFrame::Ping));
    stage.wait(millis(40));
    stage.hear(client.control, ControlFrame::Pong);
    let round_trip = stage.snapshot().links[0].round_trip.expect("it is known");
    assert!(round_trip < millis(100), "{round_trip:?}");
    assert_eq!(stage.wait(secs(29)).closes(), []);
}

#[test]
fn what_a_client_asks_for_again_is_answered_again_and_nothing_changes() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let said = stage.hear(client.control, publish(2, "nothing")).said(client.control);
    let [denied @ ControlFrame::Denied { number: 2, reason: Denial::UnknownService }] = &said[..] else {
        panic!("{said:?}")
    };
    stage.come_back(&mut client, 3);
    let said = stage.hear(client.control, publish(1, "web")).said(client.control);
    let is_granted = |frame: &ControlFrame| matches!(frame, ControlFrame::Granted { number: 1, .. });
    assert!(said.len() == 1 && is_granted(&said[0]), "{said:?}");
    let outputs = stage.hear(client.control, publish(2, "nothing"));
    assert_eq!((outputs.said(client.control), outputs.facts().len()), (vec![denied.clone()], 0));
    // The first time it was lost.
    let said = stage.hear(client.control, publish(3, "ssh")).said(client.control);
    assert!(matches!(said[..], [ControlFrame::Granted { number: 3, .. }]), "{said:?}");
    // It has said all by now: options that do not change are not answered.
    assert_eq!(stage.hear(client.control, publish(1, "web")).said(client.control), []);
}

#[test]
fn what_a_client_does_not_ask_for_again_is_not_served_any_more() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.hear(client.control, publish(2, "ssh"));
    let (message, _) = stage.bring(&mut client);
    stage.come_back(&mut client, 1);
    stage.session(message, SessionEvent::Pong);
    stage.hear(client.control, publish(1, "web"));
    assert_eq!(stage.user_at(SSH).1.starts(), []);
    assert_eq!(stage.user_at(WEB).1.starts().len(), 1);
}

#[test]
fn a_client_that_asks_for_nothing_any_more_serves_nothing() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.come_back(&mut client, 0);
    stage.session(message, SessionEvent::Pong);
    assert_eq!(stage.user().1.starts(), []);
}

#[test]
fn a_link_that_is_not_there_or_another_s_or_drains_is_not_gone_back_to() {
    for case in 0..3 {
        let mut stage = begin();
        let mut client = stage.client(1);
        let (instance, link) = match case {
            0 => (1, [77; 16]),
            1 => (2, client.link),
            _ => {
                stage.bring(&mut client);
                let (_, outputs) = stage.user();
                stage.accepted_and_started(outputs.starts()[0].0);
                stage.hear(client.control, ControlFrame::Drain);
                (1, client.link)
            }
        };
        let (control, _) = stage.control();
        let resumes = Some(Resumes { link, publications: 1 });
        let outputs = stage.hear(control, ControlFrame::Hello(Hello { resumes, ..hello(instance) }));
        assert_ne!(named(&outputs, control).0, client.link, "case {case}");
        let is_replaced = !is_open(&outputs, &[client.control]);
        assert_eq!(is_replaced, case == 0, "case {case}");
        // What follows is as ever.
        let said = stage.hear(control, publish(1, "web")).said(control);
        assert!(matches!(said[..], [ControlFrame::Granted { .. }]), "case {case}: {said:?}");
    }
}

#[test]
fn a_server_that_drains_lets_nobody_come_back() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    let (_, outputs) = stage.user();
    stage.accepted_and_started(outputs.starts()[0].0);
    stage.drain();
    let old = client.control;
    let outputs = stage.come_back(&mut client, 1);
    assert_eq!(outputs.closes(), [(client.control, CloseReason::Shutdown, Manner::Reset)]);
    assert!(is_open(&outputs, &[old]));
}
