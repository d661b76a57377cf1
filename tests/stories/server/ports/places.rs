//! Ports that clients asked for, and the addresses at which policies permit them.

use super::*;

/// The stage's configuration, where the clients of `office` may ask for these ports and those of `guest` for these.
fn permitting(office: &[&str], guest: &[&str]) -> ServerConfig {
    let policies = [(name("office"), policy(office)), (name("guest"), policy(guest))];
    let keys = vec![key("office", 7), key("guest", 8)];
    ServerConfig { policies: Policies::Each(policies.into()), keys, ..config(limits()) }
}

/// A client is told that its first publication has these ports at these addresses.
fn granted_at(ips: &[&str], of: &str) -> ControlFrame {
    let address = |ip: &&str| GrantedAddress { ip: ip.parse().expect("an address"), ports: ports(of) };
    ControlFrame::Granted { number: 1, addresses: ips.iter().map(address).collect(), is_probed: false }
}

impl Stage {
    /// A client asks for these ports and gets them, and serves a user there.
    fn serves(&mut self, key: KeyId, wanted: &str) -> (Client, ConnId) {
        let mut client = self.joins(key, 1);
        let outputs = self.hear(client.control, expose(1, "web", wanted, false));
        self.listen(outputs, |_| true);
        let (message, _) = self.bring(&mut client);
        let (user, outputs) = self.user_at(ports(wanted).first);
        assert_eq!(outputs.pairs(), [(message, user)]);
        client.note(&outputs);
        self.accepted_and_started(message);
        (client, user)
    }

    /// How many listeners take users of these ports; no other one is there.
    fn open(&self, of: &str) -> usize {
        let its = self.listeners.iter().filter(|it| ports(of).contains(it.1));
        its.inspect(|it| assert!(matches!(it.2, Door::Users(_)), "{it:?}")).count()
    }
}

#[test]
fn other_addresses_end_no_session_and_the_client_is_told() {
    for wanted in ["20005", "20005-20007"] {
        let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &[]));
        let (client, _) = stage.serves(office(), wanted);
        let both = ["127.0.0.1:20000-20019", "127.0.0.2:20000-20019"];
        for (permitted, addresses) in [
            (&both[..], &["127.0.0.1", "127.0.0.2"][..]),
            (&both[1..], &["127.0.0.2"]),
            (&both, &["127.0.0.2", "127.0.0.1"]),
            (&["20000-20019"], &["192.0.2.1"]),
            (&both[..1], &["127.0.0.1"]),
            (&both[1..], &["127.0.0.2"]),
        ] {
            let outputs = stage.reload(permitting(permitted, &[]));
            assert_eq!(outputs.told(&client), [granted_at(addresses, wanted)], "{permitted:?}");
            assert_eq!(outputs.closes(), [], "{permitted:?}");
            assert_eq!(stage.open(wanted), addresses.len() * ports(wanted).count(), "{permitted:?}");
            let outputs = stage.reload(permitting(permitted, &[]));
            assert_eq!((outputs.told(&client), outputs.places()), (vec![], vec![]), "the same once more");
        }
        // All of them are closed when it goes.
        let stopped = stage.hear(client.control, ControlFrame::Unpublish(1)).stopped().len();
        assert_eq!(stopped, ports(wanted).count());
    }
}

#[test]
fn an_address_that_cannot_be_had_refuses_the_reload_and_nothing_changes() {
    for wider in [&["20000-20019"][..], &["127.0.0.2:20000-20019"]] {
        let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &[]));
        let (client, user) = stage.serves(office(), "20005");
        let outputs = stage.configure(permitting(wider, &[]));
        let outputs = stage.listen(outputs, |at| at.port() != 20_005);
        let told = outputs.reloaded().expect("it is told");
        assert!(told.starts_with("refused") && told.contains("20005"), "{told}");
        assert_eq!((outputs.told(&client), outputs.closes()), (vec![], vec![]), "and not {user}");
        assert_eq!(stage.open("20005"), 1);
        assert_eq!(stage.user_at(20_005).1.closes(), []);
        // The same reload works once the address is free.
        let told = stage.reload(permitting(wider, &[])).told(&client);
        assert!(matches!(told[..], [ControlFrame::Granted { .. }]), "{told:?}");
    }
}

#[test]
fn ports_that_are_permitted_nowhere_are_withdrawn() {
    let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &[]));
    let (client, user) = stage.serves(office(), "20005");
    let outputs = stage.reload(permitting(&["127.0.0.1:20006", "127.0.0.2:20004"], &[]));
    let reason = Denial::Policy;
    assert_eq!(outputs.told(&client), [ControlFrame::Withdrawn { number: 1, reason }]);
    assert_eq!(outputs.closes(), [(user, CloseReason::Policy, Manner::Reset)]);
    assert_eq!(stage.open("20000-20019"), 0);
}

#[test]
fn what_another_key_has_at_an_address_stays_its_own() {
    let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &["127.0.0.2:20000-20019"]));
    let (client, _) = stage.serves(office(), "20005");
    let other = stage.joins(guest(), 1);
    let outputs = stage.hear(other.control, expose(1, "web", "20005", false));
    assert_eq!(stage.listen(outputs, |_| true).told(&other), [granted_at(&["127.0.0.2"], "20005")]);
    let both = &["127.0.0.1:20000-20019", "127.0.0.2:20000-20019"];
    let outputs = stage.reload(permitting(both, &both[1..]));
    assert!(outputs.reloaded().is_some_and(|told| told.starts_with("reloaded")), "{outputs:?}");
    assert_eq!((outputs.told(&client), outputs.told(&other)), (vec![], vec![]));
    assert_eq!(outputs.closes(), []);
}

#[test]
fn ports_that_are_kept_for_a_client_that_is_away_move_as_well() {
    let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &[]));
    for leaves in [false, true] {
        let client = stage.joins(office(), 1);
        let outputs = stage.hear(client.control, expose(1, "web", "20005", false));
        stage.listen(outputs, |_| true);
        if leaves {
            let outputs = stage.hear(client.control, ControlFrame::Drain);
            stage.listen(outputs, |_| true);
        }
        stage.killed(&client);
        let permitted = if leaves { "127.0.0.1:20005" } else { "127.0.0.2:20005" };
        stage.reload(permitting(&[permitted], &[]));
        assert_eq!(stage.open("20005"), usize::from(!leaves));
        let client = stage.joins(office(), 1);
        let outputs = stage.hear(client.control, expose(1, "web", "20005", false));
        let told = stage.listen(outputs, |_| true).told(&client);
        assert_eq!(told, [granted_at(&[&permitted[..9]], "20005")], "{leaves}");
        let outputs = stage.hear(client.control, ControlFrame::Unpublish(1));
        stage.listen(outputs, |_| true);
        stage.reload(permitting(&["127.0.0.1:20000-20019"], &[]));
        stage.killed(&client);
    }
}

#[test]
fn a_client_that_leaves_while_its_ports_move_leaves_no_listener_behind() {
    for holds in [true, false] {
        let mut stage = begin_as(permitting(&["20000-20019"], &[]));
        let (client, _) = stage.serves(office(), "20005");
        let mut outputs = stage.configure(permitting(&["127.0.0.1:20000-20019"], &[]));
        outputs.0.extend(stage.hear(client.control, ControlFrame::Unpublish(1)).0);
        let outputs = stage.listen(outputs, |at| holds || at.port() != 20_005);
        assert_eq!(outputs.reloaded().is_some_and(|told| told.starts_with("reloaded")), holds);
        assert_eq!(stage.open("20000-20019"), 0);
    }
}

#[test]
fn ports_that_are_being_opened_when_a_reload_comes_are_granted_first_and_stay_where_they_are_permitted() {
    let both = ["127.0.0.1:20000-20019", "127.0.0.2:20000-20019"];
    for (permitted, ips) in [(&both[1..], &["127.0.0.2"][..]), (&both[..], &["127.0.0.1", "127.0.0.2"])] {
        let mut stage = begin_as(permitting(&both[..1], &[]));
        let client = stage.joins(office(), 1);
        let mut outputs = stage.hear(client.control, expose(1, "web", "20005", false));
        outputs.0.extend(stage.configure(permitting(permitted, &[])).0);
        let outputs = stage.listen(outputs, |_| true);
        assert!(outputs.reloaded().is_some_and(|told| told.starts_with("reloaded")), "{outputs:?}");
        let told = outputs.told(&client);
        assert_eq!(told, [granted_at(&["127.0.0.1"], "20005"), granted_at(ips, "20005")]);
        assert_eq!((stage.open("20005"), outputs.closes()), (ips.len(), vec![]));
    }
}

#[test]
fn what_is_asked_for_during_a_reload_is_decided_by_what_holds_then() {
    for holds in [true, false] {
        let mut stage = begin_as(permitting(&["127.0.0.1:20000-20019"], &[]));
        let (client, _) = stage.serves(office(), "20005");
        let mut outputs = stage.configure(permitting(&["127.0.0.2:20000-20019"], &[]));
        outputs.0.extend(stage.hear(client.control, expose(2, "late", "20006", false)).0);
        assert_eq!(outputs.told(&client), []);
        let outputs = stage.listen(outputs, |at| holds || at.port() != 20_005);
        let told = outputs.told(&client);
        let ip = if holds { "127.0.0.2" } else { "127.0.0.1" };
        let is_late = |frame: &ControlFrame| match frame {
            ControlFrame::Granted { number: 2, addresses, .. } => addresses[0].ip.to_string() == ip,
            _ => false,
        };
        assert!(told.last().is_some_and(is_late) && told.len() == 1 + usize::from(holds), "{told:?}");
    }
}
