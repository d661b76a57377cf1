//! Services that the server declares at ports that clients asked for.

use super::*;

/// The stage's configuration with one more service, at these places.
fn declaring(places: &[&str], texts: &[&str]) -> ServerConfig {
    let mut config = ServerConfig {
        policies: Policies::Alike(rules(texts)),
        keys: vec![key("office", 7), key("guest", 8)],
        ..config(limits())
    };
    let listen = places.iter().map(|place| place.parse().expect("a place")).collect();
    config.services.push(Service { listen, ..Service::new(name("new"), Listen::Any(0)) });
    config
}

#[test]
fn a_service_that_is_declared_at_a_granted_port_gets_it_and_the_grant_is_withdrawn() {
    for place in ["20005", "192.0.2.1:20005"] {
        let mut stage = begin_with_ports(&["20000-20099"]);
        let mut client = stage.joins(office(), 1);
        stage.ask(&client, expose(1, "game", "20000-20009", false));
        stage.ask(&client, expose(2, "stays", "20010", false));
        let mut users = Vec::new();
        for port in [20_005, 20_010] {
            let (message, _) = stage.bring(&mut client);
            let (user, outputs) = stage.user_at(port);
            client.note(&outputs);
            users.push(user);
            stage.accepted_and_started(message);
        }
        let outputs = stage.reload(declaring(&[place], &["20000-20099"]));
        assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: 1 service added"), "{place}");
        let reason = Denial::PortTaken;
        assert_eq!(outputs.told(&client), [ControlFrame::Withdrawn { number: 1, reason }]);
        assert_eq!(outputs.closes(), [(users[0], CloseReason::Removed, Manner::Reset)]);
        // The very same place changes hands, and another one is opened in its stead.
        let (opened, closed) = if place == "20005" { (0, 9) } else { (1, 10) };
        assert_eq!((outputs.listens().len(), outputs.stopped().len()), (opened, closed), "{place}");
        let outputs = stage.hear(client.control, publish(3, "new"));
        assert!(matches!(outputs.told(&client)[..], [ControlFrame::Granted { number: 3, .. }]));
        let (message, _) = stage.bring(&mut client);
        let (user, outputs) = stage.user_at(20_005);
        assert_eq!(outputs.pairs(), [(message, user)]);
        // What was withdrawn comes back by itself once the service is gone.
        let gone =
            ServerConfig { services: config(limits()).services, ..declaring(&[place], &["20000-20099"]) };
        let told = stage.reload(gone).told(&client);
        assert_eq!(told.last(), Some(&granted(1, "20000-20009")), "{told:?}");
    }
}

#[test]
fn any_is_another_port_once_a_service_is_declared_there() {
    let mut stage = begin_with_ports(&["20000-20999"]);
    let client = stage.joins(office(), 1);
    assert_eq!(stage.ask(&client, expose(1, "preview", "any", false)).told(&client), [granted(1, "20132")]);
    let outputs = stage.reload(declaring(&["20132"], &["20000-20999"]));
    let reason = Denial::PortTaken;
    assert_eq!(outputs.told(&client), [ControlFrame::Withdrawn { number: 1, reason }, granted(1, "20133")]);
}

#[test]
fn a_reload_that_is_refused_leaves_granted_ports_as_they_are() {
    let mut stage = begin_with_ports(&["20000-20099"]);
    let (mut client, other) = (stage.joins(office(), 1), stage.joins(guest(), 2));
    stage.ask(&client, expose(1, "game", "20000-20009", false));
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user_at(20_005);
    stage.accepted_and_started(message);
    let outputs = stage.configure(declaring(&["20005", "192.0.2.1:20006", "20010", "7"], &["20000-20099"]));
    // Meanwhile nobody gets what may be declared then.
    assert_eq!(stage.ask(&other, expose(1, "x", "20010", false)).told(&other), []);
    let outputs = stage.listen(outputs, |at| at.port() != 7);
    assert!(outputs.reloaded().is_some_and(|told| told.starts_with("refused")), "{outputs:?}");
    assert_eq!((outputs.told(&client), outputs.closes()), (vec![], vec![]), "and not {user}");
    assert!(matches!(outputs.told(&other)[..], [ControlFrame::Granted { number: 1, .. }]), "{outputs:?}");
    stage.gone(user, CloseReason::Finished);
    stage.idle(message);
    assert_eq!(stage.user_at(20_006).1.pairs().len(), 1);
    // All of its ports are closed when it goes.
    assert_eq!(stage.hear(client.control, ControlFrame::Unpublish(1)).stopped().len(), 10);
}

#[test]
fn a_port_that_is_being_opened_is_not_had_where_a_service_is_declared() {
    let mut stage = begin_with_ports(&["20000-20099"]);
    let client = stage.joins(office(), 1);
    let asked = stage.hear(client.control, expose(1, "web", "20000", false));
    let outputs = stage.configure(declaring(&["20000"], &["20000-20099"]));
    assert!(outputs.reloaded().is_none() && outputs.listens().is_empty(), "{outputs:?}");
    let outputs = stage.bind(asked, &[]);
    let withdrawn = ControlFrame::Withdrawn { number: 1, reason: Denial::PortTaken };
    assert_eq!(outputs.told(&client), [granted(1, "20000"), withdrawn]);
    assert_eq!(outputs.reloaded().as_deref(), Some("reloaded server.toml: 1 service added"));
    assert_eq!((outputs.listens().len(), outputs.stopped()), (1, vec![]), "the listener changes hands");
}
