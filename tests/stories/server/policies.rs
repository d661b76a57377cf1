//! What keys may do.

use skyorg::base::network::Networks;
use skyorg::config::policy::{Policy, Services};

use super::*;

/// The configuration of the stage, where the key of its clients has this policy.
pub(super) fn allowed(policy: Policy) -> ServerConfig {
    ServerConfig { policies: Policies::Each([(name("office"), policy)].into()), ..config(limits()) }
}

pub(super) fn serves(services: &[&str]) -> Policy {
    let named = services.iter().map(|text| name(text)).collect();
    Policy { services: Services::Named(named), ..Policy::default() }
}

pub(super) fn web() -> Policy {
    serves(&["web"])
}

/// The clock on the wall when a story begins, and some time later.
pub(super) fn wall(seconds: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + secs(seconds))
}

pub(super) fn from(network: &str) -> Policy {
    let networks = Networks::of(vec![network.parse().expect("a network")]);
    Policy { from: networks, ..web() }
}

#[test]
fn a_key_without_a_table_where_there_are_tables_is_refused_and_told_so() {
    let none = ServerConfig { policies: Policies::Each(Default::default()), ..config(limits()) };
    for (config, refusal) in [
        (none, Refusal::Policy),
        (allowed(from("198.51.100.0/24")), Refusal::From),
        (allowed(Policy { expires: wall(0), ..web() }), Refusal::Expired),
    ] {
        let (client, outputs) = begin_as(config).greet(hello(1));
        assert_eq!(outputs.said(client.control), [ControlFrame::Refused(refusal)]);
        assert_eq!(outputs.closes(), [(client.control, CloseReason::Drained, Manner::Whole)]);
    }
    assert!(begin_as(allowed(from("192.0.2.0/24"))).greet(hello(1)).1.closes().is_empty());
}

#[test]
fn a_key_serves_what_its_policy_names_and_nothing_else() {
    let mut stage = begin_as(allowed(web()));
    let client = stage.client(1);
    let outputs = stage.hear(client.control, publish(2, "ssh"));
    let reason = Denial::Policy;
    assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 2, reason }]);
    let outputs = stage.reload(allowed(serves(&["web", "ssh"])));
    assert!(
        matches!(outputs.said(client.control)[..], [ControlFrame::Granted { number: 2, .. }]),
        "{outputs:?}"
    );
}

#[test]
fn a_service_that_a_policy_no_longer_names_is_withdrawn_and_its_users_there_are_reset() {
    let mut stage = begin_as(allowed(serves(&["web", "ssh"])));
    let mut client = stage.client(1);
    stage.hear(client.control, publish(2, "ssh"));
    let [kept, gone] = [SSH, WEB].map(|port| {
        let (message, _) = stage.bring(&mut client);
        let (user, outputs) = stage.user_at(port);
        assert_eq!(outputs.pairs(), [(message, user)]);
        stage.accepted_and_started(message);
        user
    });
    let (waiting, _) = stage.user_at(WEB);
    let outputs = stage.reload(allowed(serves(&["ssh"])));
    let reason = Denial::Policy;
    assert_eq!(outputs.said(client.control), [ControlFrame::Withdrawn { number: 1, reason }]);
    assert_eq!(outputs.closes(), [(gone, CloseReason::Policy, Manner::Reset)], "and not {kept} or {waiting}");
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: 1 policy changed"));
}

#[test]
fn a_number_that_was_denied_once_names_nothing_else_and_hides_nothing_from_a_policy() {
    let mut stage = begin_as(allowed(serves(&["web", "ssh"])));
    let (client, _) = stage.greet(hello(1));
    for (service, reason) in [("nobody", Denial::Policy), ("web", Denial::AlreadyPublished)] {
        let outputs = stage.hear(client.control, publish(1, service));
        assert_eq!(outputs.said(client.control), [ControlFrame::Denied { number: 1, reason }]);
    }
    stage.hear(client.control, publish(2, "web"));
    let outputs = stage.reload(allowed(serves(&["ssh"])));
    let reason = Denial::Policy;
    assert_eq!(outputs.said(client.control), [ControlFrame::Withdrawn { number: 2, reason }]);
}

#[test]
fn a_link_ends_at_once_when_its_key_may_not_connect_from_there_or_do_anything_any_more() {
    let none = ServerConfig { policies: Policies::Each(Default::default()), ..config(limits()) };
    for (config, reason) in [
        (none, CloseReason::Policy),
        (allowed(from("198.51.100.0/24")), CloseReason::Policy),
        (allowed(Policy { expires: wall(0), ..web() }), CloseReason::KeyExpired),
    ] {
        let mut stage = begin_as(allowed(web()));
        let client = stage.client(1);
        assert_eq!(stage.reload(config).closes(), [(client.control, reason, Manner::Reset)]);
    }
}

#[test]
fn a_link_ends_when_its_key_expires() {
    let mut stage = begin_as(allowed(Policy { expires: wall(20), ..web() }));
    let client = stage.client(1);
    assert_eq!(stage.wait(secs(20) - millis(1)).closes(), []);
    let expired = [(client.control, CloseReason::KeyExpired, Manner::Reset)];
    assert_eq!(stage.wait(millis(1)).closes(), expired);
    let (client, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.said(client.control), [ControlFrame::Refused(Refusal::Expired)]);
}

#[test]
fn a_key_whose_end_is_put_off_keeps_its_link() {
    let mut stage = begin_as(allowed(Policy { expires: wall(20), ..web() }));
    let client = stage.client(1);
    stage.reload(allowed(Policy { expires: wall(25), ..web() }));
    assert_eq!(stage.wait(secs(25) - millis(1)).closes(), []);
    assert_eq!(stage.wait(millis(1)).closes(), [(client.control, CloseReason::KeyExpired, Manner::Reset)]);
}

#[test]
fn the_time_that_the_system_was_suspended_counts() {
    let mut stage = begin_as(allowed(Policy { expires: wall(3_600), ..web() }));
    let client = stage.client(1);
    let outputs = stage.tell(Input::Woken { wall: SystemTime::UNIX_EPOCH + secs(3_600) });
    assert_eq!(outputs.closes(), [(client.control, CloseReason::KeyExpired, Manner::Reset)]);
}

#[test]
fn a_key_has_no_more_links_than_its_policy_says_and_a_lower_number_ends_none() {
    let mut stage = begin_as(allowed(Policy { links: Some(2), ..web() }));
    (1..=2).for_each(|instance| drop(stage.client(instance)));
    let refused = |stage: &mut Stage, count| {
        let (client, outputs) = stage.greet(hello(9));
        let refusal = Refusal::Links { count, of_key: true };
        assert_eq!(outputs.said(client.control), [ControlFrame::Refused(refusal)]);
    };
    refused(&mut stage, 2);
    assert_eq!(stage.reload(allowed(Policy { links: Some(1), ..web() })).closes(), []);
    refused(&mut stage, 2);
}

#[test]
fn a_key_has_no_more_users_than_its_policy_says_on_all_its_links_together() {
    let mut stage = begin_as(allowed(Policy { users: Some(2), ..serves(&["web", "ssh"]) }));
    let mut clients = [1, 2].map(|instance| stage.client(instance));
    clients.iter_mut().for_each(|client| drop((stage.bring(client), stage.bring(client))));
    let mut users = vec![stage.user(), stage.user()];
    assert!(users.iter().all(|it| it.1.pairs().len() == 1));
    let (third, outputs) = stage.user();
    assert_eq!(
        (outputs.pairs(), outputs.closes()),
        (vec![], vec![(third, CloseReason::KeyUsersLimit, Manner::Reset)])
    );
    stage.gone(third, CloseReason::KeyUsersLimit);
    let (first, _) = users.remove(0);
    stage.gone(first, CloseReason::Finished);
    assert_eq!(stage.user().1.pairs().len(), 1);
}

#[test]
fn where_another_key_has_room_for_a_user_it_gets_it() {
    let mut two = allowed(Policy { users: Some(1), ..web() });
    two.keys.push(Key { name: name("home"), secret: Secret::new([8; 32]) });
    let Policies::Each(policies) = &mut two.policies else { panic!("there are tables") };
    policies.insert(name("home"), web());
    let mut stage = begin_as(two);
    let mut full = stage.client(1);
    (0..2).for_each(|_| drop(stage.bring(&mut full)));
    let mut other = stage.client_of(key_id(&Secret::new([8; 32])), 2);
    let elsewhere = [stage.bring(&mut other).0, stage.bring(&mut other).0];
    let mut messages: Vec<ConnId> = (0..3).flat_map(|_| stage.user().1.pairs()).map(|it| it.0).collect();
    messages.retain(|message| elsewhere.contains(message));
    assert_eq!(messages.len(), 2, "the first key serves one of three");
}

#[test]
fn links_of_a_full_key_hide_no_link_of_another_one_and_are_back_when_it_has_room() {
    let mut two = allowed(Policy { users: Some(1), ..web() });
    two.keys.push(Key { name: name("home"), secret: Secret::new([8; 32]) });
    let Policies::Each(policies) = &mut two.policies else { panic!("there are tables") };
    policies.insert(name("home"), Policy { users: Some(2), ..web() });
    let more = |mut config: ServerConfig| {
        let Policies::Each(policies) = &mut config.policies else { panic!("there are tables") };
        policies.insert(name("office"), Policy { users: Some(40), ..web() });
        config
    };
    let mut stage = begin_as(two.clone());
    let mut clients: Vec<Client> = (1..=20).map(|instance| stage.client(instance)).collect();
    clients.iter_mut().for_each(|client| drop(stage.bring(client)));
    assert_eq!(stage.user().1.pairs().len(), 1, "the key has one user now, and no place for more");
    let mut other = stage.client_of(key_id(&Secret::new([8; 32])), 21);
    let elsewhere = [stage.bring(&mut other).0, stage.bring(&mut other).0];
    let users: Vec<ConnId> = (0..2).flat_map(|_| stage.user().1.pairs()).map(|it| it.0).collect();
    assert!(users.len() == 2 && users.iter().all(|message| elsewhere.contains(message)), "{users:?}");
    stage.reload(more(two));
    stage.wait(Duration::ZERO);
    let served = (0..19).filter(|_| stage.user().1.pairs().len() == 1).count();
    assert_eq!(served, 19, "all its links that are idle");
}

#[test]
fn a_user_that_waited_is_served_once_its_key_has_room() {
    let mut stage = begin_as(allowed(Policy { users: Some(1), ..web() }));
    let mut client = stage.client(1);
    let ((first, _), (second, _)) = (stage.user(), stage.user());
    let (one, outputs) = stage.bring(&mut client);
    assert_eq!(outputs.pairs(), [(one, first)]);
    let (two, outputs) = stage.bring(&mut client);
    assert_eq!(outputs.pairs(), [], "the key has as many as it may have");
    let outputs = stage.gone(first, CloseReason::PeerClosed);
    assert_eq!(outputs.pairs(), [(two, second)]);
}

#[test]
fn a_lower_number_of_users_ends_no_session() {
    let mut stage = begin_as(allowed(web()));
    let mut client = stage.client(1);
    for _ in 0..2 {
        stage.bring(&mut client);
        let (_, outputs) = stage.user();
        client.note(&outputs);
    }
    let outputs = stage.reload(allowed(Policy { users: Some(1), ..web() }));
    assert_eq!(outputs.closes(), []);
    stage.bring(&mut client);
    let (user, outputs) = stage.user();
    assert_eq!(outputs.closes(), [(user, CloseReason::KeyUsersLimit, Manner::Reset)]);
}
