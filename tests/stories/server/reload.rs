//! Configurations that come while the server runs.

use super::*;
use skyorg::machine::ReloadFault;

const MAIL: u16 = 33350;

fn service(text: &str, places: &[u16]) -> Service {
    let listen = places.iter().map(|&port| Listen::Any(port)).collect();
    Service { listen, ..Service::new(name(text), Listen::Any(0)) }
}

/// The configuration of the stage with these services.
fn with(services: &[(&str, &[u16])]) -> ServerConfig {
    let services = services.iter().map(|(text, places)| service(text, places)).collect();
    ServerConfig { services, ..config(limits()) }
}

fn granted(number: u32, ports: &[u16]) -> ControlFrame {
    let address = |&port: &u16| GrantedAddress { ip: at(port).ip(), ports: Ports::one(port) };
    ControlFrame::Granted { number, addresses: ports.iter().map(address).collect(), is_probed: false }
}

fn withdrawn(number: u32, reason: Denial) -> ControlFrame {
    ControlFrame::Withdrawn { number, reason }
}

/// A user that is served.
fn served(stage: &mut Stage, client: &mut Client, port: u16) -> ConnId {
    let (message, _) = stage.bring(client);
    let (user, outputs) = stage.user_at(port);
    assert_eq!(outputs.pairs(), [(message, user)]);
    stage.accepted_and_started(message);
    user
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut stage = begin();
    let mut client = stage.client(1);
    served(&mut stage, &mut client, WEB);
    let outputs = stage.reload(config(limits()));
    assert_eq!((outputs.places(), outputs.closes(), outputs.said(client.control)), (vec![], vec![], vec![]));
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: nothing changed"));
}

#[test]
fn a_new_service_gives_nobody_away_before_everything_is_there_and_is_then_granted_to_who_was_denied() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.hear(client.control, publish(2, "mail"));
    let outputs = stage.configure(with(&[("web", &[WEB]), ("ssh", &[SSH]), ("mail", &[MAIL, MAIL + 1])]));
    assert_eq!(outputs.places(), [Listen::Any(MAIL), Listen::Any(MAIL + 1)]);
    let shut = |output: &Output| matches!(output, Output::Listen { door: Door::Shut, .. });
    assert_eq!(outputs.0.iter().filter(|output| shut(output)).count(), 2);
    assert_eq!(outputs.reloaded(), None, "their answers are waited for");
    let outputs = stage.listen(outputs, |_| true);
    assert_eq!(outputs.said(client.control), [granted(2, &[MAIL, MAIL + 1])]);
    assert!(stage.listeners.iter().all(|it| it.2 != Door::Shut), "{:?}", stage.listeners);
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: 1 service added"));
}

#[test]
fn a_removed_service_loses_its_users_and_listeners_at_once_and_the_links_stand() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.hear(client.control, publish(2, "ssh"));
    let kept = served(&mut stage, &mut client, SSH);
    let gone = served(&mut stage, &mut client, WEB);
    let (waiting, _) = stage.user_at(WEB);
    let before = stage.listeners.clone();
    let outputs = stage.reload(with(&[("ssh", &[SSH])]));
    let removed = |user| (user, CloseReason::Removed, Manner::Reset);
    assert_eq!(outputs.closes(), [removed(gone), removed(waiting)], "and not {kept}");
    assert_eq!(outputs.said(client.control), [withdrawn(1, Denial::UnknownService)]);
    let web = before.iter().find(|it| it.1 == WEB).expect("it listened");
    assert_eq!(outputs.stopped(), [web.0]);
    for user in [gone, waiting] {
        let told = stage.gone(user, CloseReason::Removed);
        assert!(matches!(told.facts()[..], [Fact::UserLeft { .. }]), "{told:?}");
    }
    // One that was accepted before the listener closed.
    let id = stage.id();
    let outputs = stage.tell(Input::Accepted { id, door: web.2, peer: user_address(id), asked: at(WEB) });
    assert_eq!(outputs.closes(), [removed(id)]);
}

#[test]
fn a_service_that_comes_back_is_granted_without_being_asked_for_again() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.reload(with(&[("ssh", &[SSH])]));
    let outputs = stage.reload(config(limits()));
    assert_eq!(outputs.said(client.control), [granted(1, &[WEB])]);
    served(&mut stage, &mut client, WEB);
}

#[test]
fn what_was_withdrawn_or_denied_may_be_unpublished_and_is_not_granted_then() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.hear(client.control, publish(2, "mail"));
    stage.reload(with(&[("ssh", &[SSH])]));
    for number in [1, 2] {
        assert_eq!(stage.hear(client.control, ControlFrame::Unpublish(number)).closes(), []);
    }
    let outputs = stage.reload(with(&[("web", &[WEB]), ("mail", &[MAIL])]));
    assert_eq!(outputs.said(client.control), []);
}

#[test]
fn two_services_swap_their_ports_and_keep_their_sessions() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.hear(client.control, publish(2, "ssh"));
    served(&mut stage, &mut client, WEB);
    let outputs = stage.reload(with(&[("web", &[SSH]), ("ssh", &[WEB])]));
    assert_eq!((outputs.places(), outputs.stopped(), outputs.closes()), (vec![], vec![], vec![]));
    assert_eq!(outputs.said(client.control), [granted(1, &[SSH]), granted(2, &[WEB])]);
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: 2 services changed"));
    let (message, _) = stage.bring(&mut client);
    let (_, outputs) = stage.user_at(WEB);
    assert!(matches!(outputs.starts()[..], [(it, _, Start { publication: 2, .. })] if it == message));
}

#[test]
fn a_service_that_moves_takes_who_waits_at_its_old_port_and_its_clients_are_told() {
    let mut stage = begin();
    let client = stage.client(1);
    let door = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").2;
    let outputs = stage.reload(with(&[("web", &[MAIL]), ("ssh", &[SSH])]));
    assert_eq!((outputs.places(), outputs.stopped().len()), (vec![Listen::Any(MAIL)], 1));
    assert_eq!(outputs.said(client.control), [granted(1, &[MAIL])]);
    let id = stage.id();
    let outputs = stage.tell(Input::Accepted { id, door, peer: user_address(id), asked: at(WEB) });
    assert_eq!(outputs.closes(), [], "it came to the service");
}

#[test]
fn if_one_place_cannot_be_had_nothing_has_changed() {
    let mut stage = begin();
    let mut client = stage.client(1);
    served(&mut stage, &mut client, WEB);
    let before = stage.listeners.len();
    let outputs = stage.configure(with(&[("ssh", &[WEB]), ("mail", &[MAIL]), ("more", &[MAIL + 1])]));
    let outputs = stage.listen(outputs, |place| place != Listen::Any(MAIL + 1));
    assert_eq!((outputs.closes(), outputs.said(client.control)), (vec![], vec![]));
    assert_eq!(stage.listeners.len(), before, "what was opened is closed: {:?}", stage.listeners);
    assert_eq!(
        outputs.reloaded().as_deref(),
        Some(
            "refused server.toml: cannot listen on *:33351 for users of service more: address in use; the running \
             configuration stays"
        )
    );
    served(&mut stage, &mut client, WEB);
}

#[test]
fn every_place_that_cannot_be_had_is_told() {
    let mut stage = begin();
    let outputs = stage.configure(with(&[("web", &[WEB]), ("mail", &[MAIL]), ("more", &[MAIL + 1])]));
    let outputs = stage.listen(outputs, |_| false);
    let Some(Fact::ReloadRefused { fault: ReloadFault::Listen(all), .. }) = outputs.facts().pop() else {
        panic!("{outputs:?}")
    };
    let services: Vec<_> = all.iter().flat_map(|it| &it.service).map(|name| name.as_str()).collect();
    assert_eq!(services, ["mail", "more"]);
    let told = outputs.reloaded().expect("it is told");
    assert!(told.ends_with("address in use, and 1 more; the running configuration stays"), "{told}");
}

#[test]
fn a_reload_is_refused_once_all_have_answered_and_opens_nothing() {
    let mut stage = begin();
    let outputs = stage.configure(with(&[("web", &[WEB]), ("mail", &[MAIL]), ("more", &[MAIL + 1])]));
    let ids: Vec<ListenerId> = outputs
        .0
        .iter()
        .filter_map(|output| match output {
            Output::Listen { id, .. } => Some(*id),
            _ => None,
        })
        .collect();
    stage.tell(Input::ListenFailed { id: ids[0], error: std::io::ErrorKind::AddrInUse.into() });
    let outputs = stage.tell(Input::Listening { id: ids[1], address: at(MAIL + 1) });
    assert_eq!(outputs.stopped(), ids);
}

#[test]
fn a_place_that_overlaps_one_that_goes_waits_for_the_others_and_that_one_keeps_its_port_until_then() {
    let loopback = Listen::At(([127, 0, 0, 1], WEB).into());
    let mut narrow = with(&[("web", &[WEB]), ("ssh", &[SSH]), ("mail", &[MAIL])]);
    narrow.services[0].listen = vec![loopback];
    for succeeds in [true, false] {
        let mut stage = begin();
        let client = stage.client(1);
        let wide = stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").0;
        let outputs = stage.configure(narrow.clone());
        assert_eq!(outputs.places(), [Listen::Any(MAIL)]);
        let outputs = stage.listen(outputs, |place| succeeds || place != loopback);
        assert_eq!(outputs.places(), [Listen::Any(MAIL), loopback]);
        let about: Vec<&Output> = outputs
            .0
            .iter()
            .filter(|output| match output {
                Output::Suspend(id) | Output::Resume(id) | Output::StopListening(id) => *id == wide,
                _ => false,
            })
            .collect();
        match succeeds {
            true => assert!(matches!(about[..], [Output::Suspend(_), Output::StopListening(_)]), "{about:?}"),
            false => assert!(matches!(about[..], [Output::Suspend(_), Output::Resume(_)]), "{about:?}"),
        }
        let (user, outputs) = stage.user_at(WEB);
        assert_eq!((outputs.closes(), outputs.asked(client.control).len()), (vec![], 1), "{user} waits");
    }
}

#[test]
fn clients_of_a_service_whose_place_gave_way_to_another_service_are_told_where_its_users_connect_now() {
    let mut stage = begin_as(with(&[("web", &[WEB, MAIL])]));
    let client = stage.client(1);
    let mut changed = with(&[("web", &[MAIL]), ("mail", &[])]);
    changed.services[1].listen = vec![Listen::At(([127, 0, 0, 1], WEB).into())];
    assert_eq!(stage.reload(changed).said(client.control), [granted(1, &[MAIL])]);
}

#[test]
fn of_configurations_that_come_while_one_is_carried_out_the_newest_holds() {
    let mut stage = begin();
    let outputs = stage.configure(with(&[("a", &[MAIL])]));
    assert!(stage.configure(with(&[("b", &[MAIL + 1])])).is_silent());
    assert!(stage.configure(with(&[("c", &[MAIL + 2]), ("ssh", &[SSH])])).is_silent());
    let outputs = stage.listen(outputs, |_| true);
    let told: Vec<String> = outputs.facts().into_iter().map(Fact::to_string).collect();
    assert_eq!(
        told,
        [
            "reloaded server.toml: 1 service added, 2 removed",
            "reloaded server.toml: 2 services added, 1 removed"
        ]
    );
    let mut ports: Vec<u16> = stage.listeners.iter().map(|it| it.1).collect();
    ports.sort_unstable();
    assert_eq!(ports, [MESSAGE, CONTROL, SSH, MAIL + 2]);
}

#[test]
fn what_cannot_change_refuses_the_whole() {
    let mut stage = begin();
    let mut other = with(&[("web", &[WEB])]);
    (other.message, other.plain) = (Listen::Any(1), true);
    let outputs = stage.reload(other);
    assert_eq!(
        outputs.reloaded().as_deref(),
        Some("refused server.toml: message, plain: needs a restart; the running configuration stays")
    );
    assert_eq!(outputs.stopped(), []);
}

#[test]
fn a_server_that_drains_takes_no_configuration_and_closes_what_one_has_opened() {
    let mut stage = begin();
    let outputs = stage.configure(with(&[("web", &[WEB]), ("mail", &[MAIL])]));
    stage.listeners.clear();
    let drained = stage.tell(Input::Drain);
    let refused = "refused server.toml: the server is draining; the running configuration stays";
    assert_eq!(drained.reloaded().as_deref(), Some(refused));
    assert_eq!(drained.stopped().len(), 5);
    assert_eq!(stage.listen(outputs, |_| true).stopped().len(), 1, "the answer came later");
    assert_eq!(stage.reload(config(limits())).reloaded().as_deref(), Some(refused));
}

#[test]
fn a_larger_pool_is_filled_and_a_new_limit_of_users_holds() {
    let mut stage = begin();
    let client = stage.client(1);
    let outputs = stage.reload(config(Limits { pool: POOL + 3, users_max: 7, ..limits() }));
    assert_eq!(outputs.asked(client.control), [(3, 3)]);
    assert_eq!(outputs.users_limit(), Some(7));
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: pool changed, max-users changed"));
}

#[test]
fn a_heartbeat_holds_for_later_links() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.reload(config(Limits { heartbeat: secs(10), ..limits() }));
    let (later, _) = stage.greet(hello(2));
    assert_eq!(stage.wait(secs(29)).closes(), [(later.control, CloseReason::HeartbeatLost, Manner::Reset)]);
    assert_eq!(stage.wait(secs(1)).closes(), [(client.control, CloseReason::HeartbeatLost, Manner::Reset)]);
}

#[test]
fn a_removed_key_and_one_with_another_secret_lose_their_links_at_once_and_others_keep_them() {
    let key = |text: &str, secret: u8| Key { name: name(text), secret: Secret::new([secret; 32]) };
    for keys in [vec![key("home", 8)], vec![key("office", 9), key("home", 8)]] {
        let mut stage = begin();
        let mut client = stage.client(1);
        let (message, _) = stage.bring(&mut client);
        let mut both = config(limits());
        both.keys.push(key("home", 8));
        assert_eq!(stage.reload(both.clone()).closes(), [], "a new key changes nothing for others");
        let outputs = stage.reload(ServerConfig { keys, ..both });
        assert_eq!(
            outputs.closes(),
            [
                (client.control, CloseReason::KeyRevoked, Manner::Reset),
                (message, CloseReason::KeyRevoked, Manner::Reset)
            ]
        );
        let (stranger, outputs) = stage.stranger(Purpose::Control, office());
        assert_eq!(outputs.closes(), [(stranger, CloseReason::UnknownKey, Manner::Discard)]);
    }
}

#[test]
fn who_has_proved_a_key_that_is_removed_before_its_hello_is_not_welcome() {
    let mut stage = begin();
    let (control, _) = stage.control();
    let key = Key { name: name("office"), secret: Secret::new([9; 32]) };
    stage.reload(ServerConfig { keys: vec![key], ..config(limits()) });
    let outputs = stage.hear(control, ControlFrame::Hello(hello(1)));
    assert_eq!(outputs.closes(), [(control, CloseReason::KeyRevoked, Manner::Reset)]);
}
