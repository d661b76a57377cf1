//! Why nobody serves a service: it follows from the rules as they are now.

use skyorg::config::policy::Policy;

use super::policies::{allowed, from, serves, wall, web};
use super::*;

impl Stage {
    /// Why nobody serves `web`; nothing if somebody does.
    fn unserved(&self) -> String {
        self.service("web").reason.map_or(String::new(), String::from)
    }
}

fn two_keys() -> ServerConfig {
    let mut both = config(limits());
    both.keys.push(key("other", 8));
    both
}

fn without_office() -> ServerConfig {
    ServerConfig { keys: vec![key("other", 8)], ..config(limits()) }
}

fn other() -> KeyId {
    key_id(&Secret::new([8; 32]))
}

#[test]
fn a_client_that_asks_and_is_denied_is_the_reason_while_it_asks() {
    let mut stage = begin_as(allowed(serves(&["ssh"])));
    assert_eq!(stage.unserved(), "no client");
    let client = stage.client(1);
    assert_eq!(stage.unserved(), "denied: policy");
    stage.hear(client.control, ControlFrame::Unpublish(1));
    assert_eq!(stage.unserved(), "no client");
    stage.hear(client.control, publish(2, "web"));
    stage.reload(allowed(web()));
    assert_eq!(stage.unserved(), "", "it is granted now");
    stage.reload(allowed(serves(&["ssh"])));
    assert_eq!(stage.unserved(), "denied: policy");
    stage.hear(client.control, ControlFrame::Drain);
    assert_eq!(stage.unserved(), "no client", "it leaves");
}

#[test]
fn a_client_that_was_denied_and_is_gone_is_no_reason() {
    let mut stage = begin_as(allowed(serves(&["ssh"])));
    let client = stage.client(1);
    stage.gone(client.control, CloseReason::PeerClosed);
    assert_eq!(stage.unserved(), "no client");
}

#[test]
fn a_key_that_is_back_is_no_reason() {
    let mut stage = begin_as(two_keys());
    stage.client(1);
    stage.reload(without_office());
    assert_eq!(stage.unserved(), "key revoked");
    stage.reload(two_keys());
    assert_eq!(stage.unserved(), "no client");
    // Its secret is another one, and the client has that of before.
    stage.client(2);
    stage.reload(ServerConfig { keys: vec![key("office", 9), key("other", 8)], ..config(limits()) });
    assert_eq!(stage.unserved(), "key revoked");
}

#[test]
fn a_key_that_is_good_longer_or_from_elsewhere_is_no_reason() {
    let expired = Policy { expires: wall(20), ..web() };
    for (bad, words) in [(expired.clone(), "key expired"), (from("198.51.100.0/24"), "denied: policy")] {
        let mut stage = begin_as(allowed(web()));
        stage.client(1);
        stage.reload(allowed(bad.clone()));
        stage.wait(secs(20));
        assert_eq!(stage.unserved(), words);
        stage.reload(allowed(serves(&["ssh"])));
        assert_eq!(stage.unserved(), "denied: policy", "it would be denied now");
        stage.reload(allowed(web()));
        assert_eq!(stage.unserved(), "no client");
        stage.reload(allowed(bad));
        stage.wait(secs(20));
        // It may be refused only once it comes.
        stage.greet(hello(1));
        assert_eq!(stage.unserved(), words);
    }
    let mut stage = begin_as(allowed(expired));
    stage.wait(secs(20));
    assert_eq!(stage.unserved(), "no client", "none has come");
    stage.greet(hello(1));
    assert_eq!(stage.unserved(), "key expired");
}

#[test]
fn a_client_that_went_by_itself_after_one_that_was_not_let_stay_is_the_last() {
    for leave in [ControlFrame::Drain, ControlFrame::Unpublish(1)] {
        let mut stage = begin_as(two_keys());
        stage.client(1);
        let last = stage.client_of(other(), 2);
        stage.reload(without_office());
        assert_eq!(stage.unserved(), "");
        stage.hear(last.control, leave);
        assert_eq!(stage.unserved(), "no client");
    }
}

#[test]
fn a_client_that_had_left_before_its_key_was_revoked_is_no_reason() {
    let mut stage = begin_as(two_keys());
    let mut client = stage.client(1);
    let (message, _) = stage.bring(&mut client);
    stage.user();
    stage.accepted_and_started(message);
    stage.hear(client.control, ControlFrame::Drain);
    stage.reload(without_office());
    assert_eq!(stage.unserved(), "no client");
}

#[test]
fn a_client_whose_service_was_withdrawn_before_its_key_was_revoked_is_told_of_by_its_key() {
    let office = |policy| Policies::Each([(name("office"), policy)].into());
    let mut stage = begin_as(ServerConfig { policies: office(web()), ..two_keys() });
    stage.client(1);
    stage.reload(ServerConfig { policies: office(serves(&["ssh"])), ..two_keys() });
    assert_eq!(stage.unserved(), "denied: policy");
    stage.reload(ServerConfig { policies: office(serves(&["ssh"])), ..without_office() });
    assert_eq!(stage.unserved(), "key revoked");
}
