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
fn a_key_ends_by_the_clock_on_the_wall_also_when_that_is_set() {
    let mut stage = begin_as(allowed(Policy { expires: wall(3_600), ..web() }));
    let client = stage.client(1);
    let set = |stage: &mut Stage, wall| {
        stage.tell(Input::ClockSet { wall: SystemTime::UNIX_EPOCH + wall }).closes()
    };
    assert_eq!(set(&mut stage, secs(3_599)), []);
    assert_eq!(set(&mut stage, secs(3_600)), [(client.control, CloseReason::KeyExpired, Manner::Reset)]);
    let (refused, outputs) = stage.greet(hello(1));
    assert_eq!(outputs.said(refused.control), [ControlFrame::Refused(Refusal::Expired)]);
    assert_eq!(set(&mut stage, secs(3_000)), []);
    stage.client(1);
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
fn a_link_whose_client_leaves_takes_no_place_of_its_key_s_links() {
    let mut stage = begin_as(allowed(Policy { links: Some(1), ..web() }));
    let mut old = stage.client(1);
    let (message, _) = stage.bring(&mut old);
    stage.user();
    stage.accepted_and_started(message);
    stage.hear(old.control, ControlFrame::Drain);
    let new = stage.greet(hello(2));
    assert!(matches!(new.1.said(new.0.control)[0], ControlFrame::Welcome(_)), "{:?}", new.1);
    let third = stage.greet(hello(3));
    let refusal = Refusal::Links { count: 1, of_key: true };
    assert_eq!(third.1.said(third.0.control), [ControlFrame::Refused(refusal)]);
}

#[test]
fn a_link_that_drains_counts_where_descriptors_are_short() {
    let mut stage = begin_with(Limits { links_max: 1, ..limits() });
    let mut old = stage.client(1);
    let (message, _) = stage.bring(&mut old);
    stage.user();
    stage.accepted_and_started(message);
    stage.hear(old.control, ControlFrame::Drain);
    let (new, outputs) = stage.greet(hello(2));
    let refusal = Refusal::Links { count: 1, of_key: false };
    assert_eq!(outputs.said(new.control), [ControlFrame::Refused(refusal)]);
}

#[test]
fn where_a_key_has_all_its_links_the_one_not_heard_for_longest_must_say_that_it_is_there() {
    let mut stage = begin_as(allowed(Policy { links: Some(2), ..web() }));
    let dead = stage.client(1);
    stage.wait(secs(3));
    let alive = stage.client(2);
    let (refused, outputs) = stage.greet(hello(3));
    assert_eq!(outputs.said(dead.control), [ControlFrame::Ping]);
    assert_eq!(outputs.said(alive.control), []);
    let refusal = Refusal::Links { count: 2, of_key: true };
    assert_eq!(outputs.said(refused.control), [ControlFrame::Refused(refusal)]);
    // Others that come meanwhile give it no more time.
    assert_eq!(stage.wait(millis(500)).closes(), []);
    stage.greet(hello(4));
    assert_eq!(stage.wait(millis(499)).closes(), []);
    let given_up = (dead.control, CloseReason::HeartbeatLost, Manner::Reset);
    assert_eq!(stage.wait(millis(1)).closes(), [given_up]);
    let (new, outputs) = stage.greet(hello(3));
    assert!(matches!(outputs.said(new.control)[0], ControlFrame::Welcome(_)), "{outputs:?}");
}

#[test]
fn a_client_that_answers_keeps_its_link_however_often_others_come() {
    let mut stage = begin_as(allowed(Policy { links: Some(1), ..web() }));
    let client = stage.client(1);
    for instance in 2..20 {
        let (_, outputs) = stage.greet(hello(instance));
        let more = stage.wait(millis(40));
        if outputs.said(client.control).contains(&ControlFrame::Ping) {
            stage.hear(client.control, ControlFrame::Pong);
        }
        assert!(!more.closes().iter().any(|close| close.0 == client.control), "{more:?}");
    }
    assert_eq!(stage.wait(secs(2)).closes(), []);
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

// What keys have of all places for users.

/// Another key.
fn home() -> KeyId {
    key_id(&Secret::new([8; 32]))
}

/// A server with two keys, and places for so many users.
fn shared(places: usize) -> Stage {
    let mut config = config(Limits { users_max: places, pool: 10, ..limits() });
    config.keys.push(key("home", 8));
    begin_as(config)
}

impl Stage {
    /// Users come from this host to a port; why each is refused, if it is.
    fn local_users(&mut self, port: u16, count: usize) -> Vec<(ConnId, Option<CloseReason>)> {
        let door = self.listeners.iter().find(|it| it.1 == port).expect("it listens").2;
        let peer = ([127, 0, 0, 1], 1024).into();
        let one = |_| {
            let id = self.id();
            let outputs = self.tell(Input::Accepted { id, door, peer, asked: at(port) });
            let refused = outputs.closes().first().map(|it| it.1);
            refused.into_iter().for_each(|reason| drop(self.gone(id, reason)));
            (id, refused)
        };
        (0..count).map(one).collect()
    }
}

fn taken(users: &[(ConnId, Option<CloseReason>)]) -> usize {
    users.iter().filter(|it| it.1.is_none()).count()
}

#[test]
fn a_key_leaves_a_quarter_of_all_places_to_the_users_of_others_whether_they_are_served_or_wait() {
    for brings in [0, 3] {
        let mut stage = shared(40);
        let mut hog = stage.client(1);
        let (other, _) = stage.greet_with(home(), hello(2));
        stage.hear(other.control, publish(1, "ssh"));
        (0..brings).for_each(|_| drop(stage.bring(&mut hog)));
        let users = stage.local_users(WEB, 60);
        assert_eq!(taken(&users), 30);
        assert!(users[30..].iter().all(|it| it.1 == Some(CloseReason::KeyUsersLimit)));
        assert_eq!(taken(&stage.local_users(SSH, 10)), 10, "the other key has what is left");
        assert_eq!(taken(&stage.local_users(WEB, 1)), 0);
        // What runs goes on, and the key has no more before it has less than a quarter.
        users[..20].iter().for_each(|it| drop(stage.gone(it.0, CloseReason::Finished)));
        assert_eq!(taken(&stage.local_users(WEB, 20)), 10);
    }
}

#[test]
fn a_key_whose_clients_alone_are_linked_has_all_places() {
    let mut stage = shared(40);
    stage.client(1);
    assert_eq!(taken(&stage.local_users(WEB, 40)), 40);
}

#[test]
fn a_key_has_all_places_again_when_no_other_has_a_client() {
    let mut stage = shared(40);
    let mut hog = stage.client(1);
    let (other, _) = stage.greet_with(home(), hello(2));
    stage.bring(&mut hog);
    assert_eq!(taken(&stage.local_users(WEB, 40)), 30);
    stage.gone(other.control, CloseReason::PeerClosed);
    assert_eq!(taken(&stage.local_users(WEB, 10)), 10);
}

#[test]
fn a_user_that_two_keys_could_serve_goes_to_the_one_that_has_a_place() {
    let mut stage = shared(8);
    let mut full = stage.client(1);
    (0..6).for_each(|_| drop(stage.bring(&mut full)));
    assert_eq!(taken(&stage.local_users(WEB, 6)), 6);
    let mut other = stage.client_of(home(), 2);
    let elsewhere = [stage.bring(&mut other).0, stage.bring(&mut other).0];
    stage.bring(&mut full);
    let (user, outputs) = stage.user();
    assert!(outputs.pairs().iter().any(|it| elsewhere.contains(&it.0) && it.1 == user), "{outputs:?}");
    assert_eq!(taken(&stage.local_users(WEB, 1)), 1);
}

#[test]
fn a_link_that_was_passed_over_for_the_share_of_its_key_serves_again_when_places_are_free() {
    let mut stage = shared(8);
    let mut hog = stage.client(1);
    let (other, _) = stage.greet_with(home(), hello(2));
    stage.hear(other.control, publish(1, "ssh"));
    (0..7).for_each(|_| drop(stage.bring(&mut hog)));
    let users = stage.local_users(WEB, 6);
    let others = stage.local_users(SSH, 2);
    assert_eq!((taken(&users), taken(&others), taken(&stage.local_users(WEB, 1))), (6, 2, 0));
    [others[0].0, others[1].0, users[0].0]
        .into_iter()
        .for_each(|id| drop(stage.gone(id, CloseReason::Finished)));
    stage.wait(Duration::ZERO);
    assert_eq!(stage.user().1.pairs().len(), 1);
}

#[test]
fn one_address_leaves_places_to_other_users_of_its_key_and_to_other_keys() {
    let mut stage = shared(40);
    stage.client(1);
    let (other, _) = stage.greet_with(home(), hello(2));
    stage.hear(other.control, publish(1, "ssh"));
    for _ in 0..40 {
        let (user, outputs) = stage.user();
        outputs.closes().into_iter().for_each(|(_, reason, _)| drop(stage.gone(user, reason)));
    }
    let others = [stage.local_users(WEB, 20), stage.local_users(SSH, 20)].map(|users| taken(&users));
    assert!(others.iter().all(|&count| count >= 8), "{others:?}");
}
