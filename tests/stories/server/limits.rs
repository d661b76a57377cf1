//! Which users services take, and when they listen.

use skyorg::base::network::Networks;
use skyorg::config::policy::UserRules;

use super::*;

/// The configuration of the stage, where users of `web` keep to these rules.
fn ruled(rules: UserRules) -> ServerConfig {
    let mut config = config(limits());
    config.services[0].rules = rules;
    config
}

fn come(stage: &mut Stage, peer: &str) -> (ConnId, Outputs) {
    let door = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").2;
    let (id, peer) = (stage.id(), peer.parse().expect("an address"));
    (id, stage.tell(Input::Accepted { id, door, peer, asked: at(WEB) }))
}

/// Users from these addresses come; which of them are taken, and why others are not.
fn taken(stage: &mut Stage, peers: &[&str]) -> Vec<Option<CloseReason>> {
    peers.iter().map(|peer| come(stage, peer).1.closes().first().map(|it| it.1)).collect()
}

#[test]
fn a_user_from_elsewhere_is_reset_before_anything_is_spent_on_it() {
    let networks = ["198.51.100.0/24", "2001:db8::/32"].map(|text| text.parse().expect("a network"));
    let mut stage =
        begin_as(ruled(UserRules { from: Networks::of(networks.into()), ..UserRules::default() }));
    let mut client = stage.client(1);
    stage.bring(&mut client);
    let (user, outputs) = come(&mut stage, "203.0.113.1:1");
    assert_eq!((outputs.closes(), outputs.pairs()), (vec![(user, CloseReason::From, Manner::Reset)], vec![]));
    let [fact] = outputs.facts()[..] else { panic!("{outputs:?}") };
    let throttle = skyorg::machine::Throttle::of(fact).expect("others set its pace");
    assert_eq!((throttle.cause, throttle.key, throttle.at_once), ("from", Some(&name("web")), 1));
    assert!(stage.gone(user, CloseReason::From).is_silent());
    let peers = ["198.51.100.7:1", "[2001:db8::1]:1", "[::1]:1"];
    assert_eq!(taken(&mut stage, &peers), [None, None, Some(CloseReason::From)]);
}

#[test]
fn a_service_has_no_more_users_than_its_number_and_another_comes_when_one_has_left() {
    let mut stage = begin_as(ruled(UserRules { users: Some(2), ..UserRules::default() }));
    let (first, _) = come(&mut stage, "192.0.2.1:1");
    assert_eq!(taken(&mut stage, &["192.0.2.2:1", "192.0.2.3:1"]), [None, Some(CloseReason::UsersLimit)]);
    stage.gone(first, CloseReason::PeerClosed);
    assert_eq!(taken(&mut stage, &["192.0.2.3:1", "192.0.2.4:1"]), [None, Some(CloseReason::UsersLimit)]);
    assert_eq!(stage.user_at(SSH).1.closes(), [], "other services have numbers of their own");
}

#[test]
fn an_address_has_no_more_users_of_a_service_than_its_number_and_a_network_of_64_bits_is_one() {
    let mut stage = begin_as(ruled(UserRules { users_per_address: Some(1), ..UserRules::default() }));
    let full = Some(CloseReason::AddressLimit);
    let peers = [
        "192.0.2.1:1",
        "192.0.2.1:2",
        "192.0.2.2:1",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
        "[2001:db8:0:1::1]:1",
    ];
    assert_eq!(taken(&mut stage, &peers), [None, full, None, None, full, None]);
    assert_eq!(taken(&mut stage, &["127.0.0.1:1", "127.0.0.1:2"]), [None, full], "a number spares nobody");
}

#[test]
fn limits_that_a_reload_sets_count_who_is_there_and_hold_for_who_comes() {
    let mut stage = begin();
    assert_eq!(taken(&mut stage, &["192.0.2.1:1", "192.0.2.1:2"]), [None, None]);
    let outputs = stage.reload(ruled(UserRules { users_per_address: Some(2), ..UserRules::default() }));
    assert_eq!(outputs.closes(), []);
    let full = Some(CloseReason::AddressLimit);
    assert_eq!(taken(&mut stage, &["192.0.2.1:3", "192.0.2.2:1"]), [full, None]);
    stage.reload(ruled(UserRules { users: Some(3), ..UserRules::default() }));
    assert_eq!(taken(&mut stage, &["192.0.2.3:1"]), [Some(CloseReason::UsersLimit)]);
    stage.reload(config(limits()));
    assert_eq!(taken(&mut stage, &["192.0.2.1:4"]), [None]);
}

fn suspends(outputs: &Outputs) -> Vec<(ListenerId, bool)> {
    let what = |output: &Output| match output {
        Output::Suspend(id) => Some((*id, true)),
        Output::Resume(id) => Some((*id, false)),
        _ => None,
    };
    outputs.0.iter().filter_map(what).collect()
}

fn closes_when_unserved() -> ServerConfig {
    ruled(UserRules { close_when_unserved: true, ..UserRules::default() })
}

#[test]
fn a_service_may_refuse_users_while_nobody_serves_it_and_keeps_its_port() {
    let mut story = server_of(closes_when_unserved());
    let outputs = story.wait(Duration::ZERO);
    let mut stage = Stage { story, listeners: Vec::new(), links: 0 };
    let outputs = stage.listen(outputs, |_| true);
    let web = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").0;
    assert_eq!(suspends(&outputs), [(web, true)], "nobody serves it yet");
    let clients = [1, 2].map(|instance| stage.greet(hello(instance)).0);
    let outputs = stage.hear(clients[0].control, publish(1, "web"));
    assert_eq!(suspends(&outputs), [(web, false)]);
    let address = GrantedAddress { ip: at(WEB).ip(), ports: Ports::one(WEB) };
    let granted = ControlFrame::Granted { number: 1, addresses: vec![address], is_probed: false };
    assert_eq!(outputs.said(clients[0].control), [granted]);
    stage.tell(Input::Listening { id: web, address: at(WEB) });
    assert_eq!(suspends(&stage.hear(clients[1].control, publish(1, "web"))), []);
    assert_eq!(suspends(&stage.hear(clients[0].control, ControlFrame::Unpublish(1))), []);
    let outputs = stage.hear(clients[1].control, ControlFrame::Drain);
    assert_eq!(suspends(&outputs), [(web, true)], "one that leaves serves nobody who comes");
}

#[test]
fn a_listener_that_cannot_listen_again_is_tried_again_as_long_as_it_is_wanted() {
    let mut stage = begin_as(closes_when_unserved());
    let web = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").0;
    let client = stage.client(1);
    let fails = |stage: &mut Stage| {
        stage.tell(Input::ListenFailed { id: web, error: std::io::ErrorKind::AddrInUse.into() })
    };
    assert!(fails(&mut stage).facts()[0].to_string().starts_with("cannot listen on *:33333 again: "));
    assert_eq!(suspends(&stage.wait(limits().listen_retry)), [(web, false)]);
    fails(&mut stage);
    assert_eq!(suspends(&stage.hear(client.control, ControlFrame::Unpublish(1))), [(web, true)]);
    assert_eq!(suspends(&stage.wait(secs(1))), []);
}

#[test]
fn a_reload_may_say_that_a_service_closes_or_no_longer() {
    let mut stage = begin();
    let web = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").0;
    assert_eq!(suspends(&stage.reload(closes_when_unserved())), [(web, true)]);
    assert_eq!(suspends(&stage.reload(config(limits()))), [(web, false)]);
}
