//! What is published: numbers, grants, and publications that come, change and go.

mod changes;

use std::slice::from_ref;

use super::*;

const WEB: u32 = 1;
const SSH: u32 = 2;
const NEW: u32 = 3;

fn ports(first: u16, last: u16) -> Ports {
    Ports { first, last }
}

fn at(ip: [u8; 4], ports: Ports) -> GrantedAddress {
    GrantedAddress { ip: ip.into(), ports }
}

fn granted(number: u32, port: u16) -> ControlFrame {
    ControlFrame::Granted { number, addresses: vec![at([0; 4], Ports::one(port))], is_probed: false }
}

fn of(publication: u32, sid: u64) -> Start {
    Start { publication, ..start(sid, 0) }
}

/// The publications of [`config`].
fn both() -> [Publication; 2] {
    let Ok(both) = config().publications.try_into() else { panic!("it has two") };
    both
}

/// A range of ten ports, and its local servers.
fn range() -> Publication {
    let want = Want::Ports(ports(27_000, 27_009));
    Publication { want, ..Publication::of_service(name("game"), host("127.0.0.1:7000")) }
}

fn config_of(publications: &[Publication]) -> ClientConfig {
    ClientConfig { publications: publications.into(), ..config() }
}

fn refused(message: ConnId) -> Vec<(ConnId, AbortReason)> {
    vec![(message, AbortReason::Refused)]
}

impl Stage {
    /// The client gets another configuration.
    pub fn configure(&mut self, old: &ClientConfig, new: &ClientConfig) -> Outputs {
        let difference = ClientDifference::of(old, new);
        let (source, difference) = ("client.toml".into(), Box::new(difference));
        let configuration = Configuration::Client { source, difference: difference.clone() };
        let mut outputs = self.tell(Input::Configure(Box::new(configuration)));
        let Some(Output::Fact(fact)) = outputs.0.pop() else { panic!("{outputs:?}") };
        assert_eq!(fact.to_string(), format!("reloaded client.toml: {difference}"));
        outputs
    }

    /// What two of its publications become.
    fn publish(&mut self, publications: &[Publication]) -> Outputs {
        self.configure(&config(), &config_of(publications))
    }

    /// The local server of a session is reached.
    fn found(&mut self, message: ConnId) -> ConnId {
        let proxy = self.dialling(Dialled::Proxy(message));
        self.connected(proxy);
        proxy
    }
}

impl Outputs {
    /// Numbers and names that were published on a control connection, and numbers that are not any more.
    fn published(&self, on: ConnId) -> (Vec<(u32, String)>, Vec<u32>) {
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for frame in self.said(on) {
            match frame {
                ControlFrame::Publish(publish) => new.push((publish.number, publish.name.to_string())),
                ControlFrame::Unpublish(number) => gone.push(number),
                _ => {}
            }
        }
        (new, gone)
    }
}

// Ports and times.

#[test]
fn what_is_asked_for_goes_out_as_it_was_said_and_what_any_port_will_do_for_last() {
    let any = Publication {
        want: Want::AnyPort,
        dial_time: secs(1),
        share: true,
        probe: false,
        ..both()[0].clone()
    };
    let (mut stage, _) = begin(config_of(&[any, range()]));
    let control = stage.dialling(Dialled::Control);
    let outputs = stage.connected(control);
    let said = |frame| match frame {
        ControlFrame::Publish(it) => Some((it.number, it.want, it.dial_time, it.share, it.probe)),
        _ => None,
    };
    let said: Vec<_> = outputs.said(control).into_iter().filter_map(said).collect();
    let game = (1, Want::Ports(ports(27_000, 27_009)), DIAL_TIME, false, true);
    assert_eq!(said, [game, (2, Want::AnyPort, secs(1), true, false)]);
}

#[test]
fn a_session_of_a_range_goes_to_the_local_port_that_lies_as_far_behind_the_first() {
    let (mut stage, _, message) = ready(config_of(&[range()]));
    let outputs = stage.start(message, Start { port_offset: 9, ..start(1, 0) });
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:7009"))]);
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(proxy, REFUSED);
    let [Fact::LocalFailed { local, .. }] = outputs.facts()[..] else { panic!("{outputs:?}") };
    assert_eq!(*local, host("127.0.0.1:7009"));
}

#[test]
fn a_session_of_no_port_of_the_range_is_refused() {
    let near_the_end = Publication { local: host("127.0.0.1:65530"), ..range() };
    for (publication, offset) in
        [(range(), 10), (range(), u16::MAX), (near_the_end, 6), (both()[0].clone(), 1)]
    {
        let (mut stage, _, message) = ready(config_of(&[publication]));
        let outputs = stage.start(message, Start { port_offset: offset, ..start(1, 0) });
        assert_eq!((outputs.aborts(), outputs.dials().len()), (refused(message), 0), "{offset}");
        assert!(outputs.accepts().is_empty());
    }
}

#[test]
fn a_local_server_has_the_dial_time_of_its_publication() {
    let patient = Publication { dial_time: secs(17), ..both()[0].clone() };
    let (mut stage, _, message) = ready(config_of(from_ref(&patient)));
    let outputs = stage.start(message, start(1, 0));
    let [Output::Accept(_), Output::Dial { deadline, .. }] = outputs.0[..] else { panic!("{outputs:?}") };
    assert_eq!(deadline, stage.now + secs(17));

    let named = Publication { local: host("web.lan:80"), ..patient };
    let (mut stage, _, message) = ready(config_of(&[named]));
    stage.start(message, start(1, 0));
    assert_eq!(stage.wait(secs(17) - millis(1)).aborts(), []);
    assert_eq!(stage.wait(millis(1)).aborts(), refused(message));
}

// What the server says.

#[test]
fn a_granted_publication_is_told_of_with_its_addresses() {
    let (mut stage, control) = linked(config());
    let addresses = vec![at([192, 0, 2, 1], Ports::one(33340)), at([0; 4], ports(80, 89))];
    let outputs = stage
        .hear(control, ControlFrame::Granted { number: SSH, addresses: addresses.clone(), is_probed: false });
    let fact = Fact::Granted { service: name("ssh"), addresses, local: host("127.0.0.1:22") };
    assert_eq!(outputs.facts(), [&fact]);
    assert_eq!(fact.to_string(), "service ssh: users of ports 80-89, 33340 reach 127.0.0.1:22");
}

#[test]
fn a_new_grant_takes_the_place_of_the_one_before() {
    let (mut stage, control) = linked(config());
    for port in [80, 81] {
        let outputs = stage.hear(control, granted(WEB, port));
        let [Fact::Granted { addresses, .. }] = outputs.facts()[..] else { panic!("{outputs:?}") };
        assert_eq!(addresses[..], [at([0; 4], Ports::one(port))]);
    }
}

#[test]
fn a_denied_publication_is_told_of_and_the_rest_goes_on() {
    let (mut stage, control) = linked(config());
    let reason = Denial::UnknownService;
    let outputs = stage.hear(control, ControlFrame::Denied { number: WEB, reason });
    let denied = Fact::Denied { service: name("web"), reason, withdrawn: false };
    assert_eq!((outputs.facts(), outputs.closes()), (vec![&denied], vec![]));
    let message = stage.message(control, 1);
    let outputs = stage.start(message, of(SSH, 1));
    assert_eq!(outputs.proxies(), [(message, address("127.0.0.1:22"))]);
}

#[test]
fn a_denial_is_told_once_of_each_cause_until_it_is_granted() {
    let (mut stage, control) = linked(config());
    let deny = |reason| ControlFrame::Denied { number: WEB, reason };
    let told = |outputs: Outputs| outputs.facts().len();
    assert_eq!(told(stage.hear(control, deny(Denial::PortTaken))), 1);
    assert_eq!(told(stage.hear(control, deny(Denial::PortTaken))), 0);
    assert_eq!(told(stage.hear(control, deny(Denial::Policy))), 1);
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.wait(pause);
    let control = stage.link();
    assert_eq!(told(stage.hear(control, deny(Denial::Policy))), 0, "the next link says the same");
    assert_eq!(told(stage.hear(control, granted(WEB, 80))), 1);
    assert_eq!(told(stage.hear(control, deny(Denial::Policy))), 1);
}

#[test]
fn a_publication_that_is_withdrawn_is_told_of_and_may_be_granted_again() {
    let (mut stage, control) = linked(config());
    stage.hear(control, granted(WEB, 80));
    let reason = Denial::Policy;
    let outputs = stage.hear(control, ControlFrame::Withdrawn { number: WEB, reason });
    let withdrawn = Fact::Denied { service: name("web"), reason, withdrawn: true };
    assert_eq!(outputs.facts(), [&withdrawn]);
    assert_eq!(withdrawn.to_string(), "web: withdrawn: policy");
    // A session may overtake the grant.
    let message = stage.message(control, 1);
    assert_eq!(stage.start(message, of(WEB, 1)).proxies().len(), 1);
    assert!(matches!(stage.hear(control, granted(WEB, 80)).facts()[..], [Fact::Granted { .. }]));
}

#[test]
fn a_denial_on_the_next_link_is_a_denial_whatever_the_link_before_was_granted() {
    let (mut stage, control) = linked(config());
    stage.hear(control, granted(WEB, 80));
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.wait(pause);
    let control = stage.link();
    let outputs = stage.hear(control, ControlFrame::Denied { number: WEB, reason: Denial::PortTaken });
    let [denied] = outputs.facts()[..] else { panic!("{outputs:?}") };
    assert_eq!(denied.to_string(), "web: denied: port taken");
}

#[test]
fn what_the_server_withdraws_loses_its_local_servers_at_once_on_that_link_alone() {
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    for number in [WEB, SSH] {
        stage.hear(control, granted(number, 80));
    }
    stage.start(one, of(WEB, 1));
    stage.start(two, of(SSH, 2));
    let (proxy, _) = (stage.found(one), stage.found(two));
    let withdrawn = ControlFrame::Withdrawn { number: WEB, reason: Denial::Policy };
    let outputs = stage.hear(control, withdrawn.clone());
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Removed, Manner::Reset)]);
    assert_eq!(outputs.aborts(), [], "the server hears of it as that closes");
    assert!(stage.hear(control, withdrawn).is_silent(), "that is known");
}

#[test]
fn what_the_current_link_was_granted_counts_and_not_what_one_says_that_drains() {
    let (mut stage, old) = linked(config());
    stage.hear(old, granted(WEB, 80));
    stage.wait(Limits::default().drain_sudden);
    stage.hear(old, ControlFrame::Drain);
    let reason = Denial::Policy;
    assert!(stage.hear(old, ControlFrame::Withdrawn { number: WEB, reason }).facts().is_empty());
    let new = stage.link();
    assert!(stage.hear(old, granted(SSH, 22)).facts().is_empty());
    assert_eq!(stage.hear(new, granted(WEB, 81)).facts().len(), 1);
}

#[test]
fn what_is_said_of_a_number_that_means_nothing_is_nothing() {
    let (mut stage, control) = linked(config());
    let reason = Denial::Limit;
    for number in [0, NEW, u32::MAX] {
        assert!(stage.hear(control, granted(number, 80)).is_silent());
        assert!(stage.hear(control, ControlFrame::Denied { number, reason }).is_silent());
        assert!(stage.hear(control, ControlFrame::Withdrawn { number, reason }).is_silent());
    }
    let nowhere = ControlFrame::Granted { number: WEB, addresses: Vec::new(), is_probed: false };
    assert!(stage.hear(control, nowhere).is_silent());
}

// Another configuration.

#[test]
fn the_same_configuration_again_changes_nothing() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, of(WEB, 1));
    stage.found(message);
    let outputs = stage.publish(&both());
    assert!(outputs.is_silent(), "{outputs:?}");
}

#[test]
fn an_added_publication_is_published_under_the_next_number_and_served() {
    let [web, ssh] = both();
    let (mut stage, control, message) = ready(config());
    assert_eq!(stage.start(message, of(NEW, 1)).aborts(), refused(message));
    stage.idle(message);
    let outputs = stage.publish(&[web, ssh, range()]);
    assert_eq!(outputs.published(control), (vec![(NEW, "game".into())], vec![]));
    assert_eq!(outputs.facts(), [&Fact::Asked { service: name("game") }]);
    assert_eq!(stage.start(message, of(NEW, 2)).proxies(), [(message, address("127.0.0.1:7000"))]);
}

#[test]
fn a_removed_publication_loses_its_sessions_at_once_and_the_others_lose_nothing() {
    let [web, ssh] = both();
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, of(WEB, 1));
    stage.start(two, of(SSH, 2));
    let (proxy, _) = (stage.found(one), stage.found(two));
    let outputs = stage.publish(&[ssh]);
    assert_eq!(outputs.published(control), (vec![], vec![WEB]));
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Removed, Manner::Reset)]);
    assert_eq!(outputs.aborts(), [], "the server hears of it as that closes");
    assert_eq!(outputs.facts(), [&Fact::Unpublished { service: name("web") }]);
    let outputs = stage.gone(proxy, CloseReason::Removed);
    let [Fact::SessionEnded { service, local, reason: CloseReason::Removed, .. }] = outputs.facts()[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((service, local), (&name("web"), &web.local));
}

#[test]
fn a_removed_publication_loses_sessions_that_began_before_it_changed_as_well() {
    let [web, ssh] = both();
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, of(WEB, 1));
    let first = stage.found(one);
    let moved = config_of(&[Publication { local: host("127.0.0.1:8080"), ..web }, ssh.clone()]);
    stage.configure(&config(), &moved);
    stage.start(two, of(WEB, 2));
    let second = stage.found(two);
    let outputs = stage.configure(&moved, &config_of(&[ssh]));
    let removed = |proxy| (proxy, CloseReason::Removed, Manner::Reset);
    assert_eq!(outputs.closes(), [removed(first), removed(second)]);
}

#[test]
fn sessions_of_a_removed_publication_that_seek_their_local_server_may_be_served_elsewhere() {
    let [web, ssh] = both();
    let named = Publication { local: host("web.lan:80"), ..web.clone() };
    let two_ways = Publication { local: host("localhost:80"), ..web };
    for publication in [named, two_ways] {
        let old = config_of(&[publication, ssh.clone()]);
        let (mut stage, _, message) = ready(old.clone());
        let names = stage.start(message, of(WEB, 1)).resolves();
        let dials = if names.is_empty() {
            let first = stage.dialling(Dialled::Proxy(message));
            stage.wait(Limits::default().late);
            vec![first, stage.dialling(Dialled::Proxy(message))]
        } else {
            vec![]
        };
        let outputs = stage.configure(&old, &config_of(from_ref(&ssh)));
        assert_eq!(outputs.aborts(), refused(message));
        let closed: Vec<ConnId> = outputs.closes().into_iter().map(|(id, ..)| id).collect();
        assert_eq!(closed, dials);
        // Nothing comes of what was on its way.
        for name in names {
            assert!(stage.resolved(name, &["10.0.0.1:80"]).is_silent());
        }
        assert!(stage.wait(DIAL_TIME).aborts().is_empty());
    }
}

#[test]
fn a_dial_that_was_asked_for_before_its_publication_went_is_not_wanted() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, of(WEB, 1));
    stage.publish(&[both()[1].clone()]);
    let (id, purpose) = (stage.id(), Dialled::Proxy(message));
    let outputs = stage.tell(Input::Dialling { id, purpose });
    assert_eq!(outputs.closes(), [(id, CloseReason::Retired, Manner::Reset)]);
}

#[test]
fn last_bytes_that_a_local_server_has_not_taken_go_with_their_publication() {
    let (mut stage, _, message) = ready(config());
    stage.start(message, of(WEB, 1));
    let proxy = stage.found(message);
    stage.idle(message);
    stage.start(message, of(SSH, 2));
    let outputs = stage.publish(&[both()[1].clone()]);
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Removed, Manner::Reset)]);
    assert!(outputs.aborts().is_empty(), "the next session on the same connection is of another one");
}

#[test]
fn a_session_of_a_withdrawn_number_is_refused_and_given_to_no_other() {
    let [web, ssh] = both();
    let (mut stage, control, message) = ready(config());
    // It comes back, and so do its number's sessions that are still on their way.
    stage.publish(from_ref(&ssh));
    let outputs = stage.configure(&config_of(from_ref(&ssh)), &config_of(&[ssh, web]));
    assert_eq!(outputs.published(control), (vec![(NEW, "web".into())], vec![]));
    assert_eq!(stage.start(message, of(WEB, 1)).aborts(), refused(message));
    stage.idle(message);
    assert_eq!(stage.start(message, of(NEW, 2)).proxies(), [(message, address("127.0.0.1:80"))]);
}

#[test]
fn a_changed_local_address_holds_for_new_sessions() {
    let [web, ssh] = both();
    let (mut stage, control, one) = ready(config());
    let two = stage.message(control, 2);
    stage.start(one, of(WEB, 1));
    let proxy = stage.found(one);
    let moved = Publication { local: host("127.0.0.1:8080"), dial_time: secs(1), ..web.clone() };
    let outputs = stage.publish(&[moved, ssh]);
    assert!(outputs.is_silent(), "nobody is told and nothing closed: {outputs:?}");
    let outputs = stage.start(two, of(WEB, 2));
    assert_eq!(outputs.proxies(), [(two, address("127.0.0.1:8080"))]);
    let [.., Output::Dial { deadline, .. }] = outputs.0[..] else { panic!("{outputs:?}") };
    assert_eq!(deadline, stage.now + secs(1));
    let outputs = stage.gone(proxy, CloseReason::Finished);
    let [Fact::SessionEnded { local, .. }] = outputs.facts()[..] else { panic!("{outputs:?}") };
    assert_eq!(*local, web.local, "the one that it had");
}

#[test]
fn a_session_that_waits_for_the_name_of_its_local_server_goes_where_it_was_to_go() {
    let old = config_with_local("old.lan:80");
    let (mut stage, _, message) = ready(old.clone());
    let [name] = stage.start(message, start(1, 0)).resolves()[..] else { panic!("one name") };
    stage.configure(&old, &config_with_local("new.lan:80"));
    let outputs = stage.resolved(name, &["10.0.0.1:80"]);
    assert_eq!(outputs.proxies(), [(message, address("10.0.0.1:80"))]);
}

#[test]
fn changed_ports_are_unpublished_and_then_asked_for_under_a_new_number() {
    let old = config_of(&[range(), both()[1].clone()]);
    let moved = Publication { want: Want::Ports(ports(28_000, 28_009)), ..range() };
    let (mut stage, control, message) = ready(old.clone());
    stage.start(message, of(1, 1));
    let proxy = stage.found(message);
    let outputs = stage.configure(&old, &config_of(&[moved, both()[1].clone()]));
    assert_eq!(outputs.published(control), (vec![(NEW, "game".into())], vec![1]));
    let said = outputs.said(control);
    assert!(matches!(said[..], [ControlFrame::Unpublish(1), ControlFrame::Publish(_)]), "{said:?}");
    assert_eq!(outputs.closes(), [(proxy, CloseReason::Removed, Manner::Reset)]);
}

#[test]
fn two_publications_that_swap_their_ports_free_both_before_they_ask() {
    let of_ports = |name, port| {
        let want = Want::Ports(Ports::one(port));
        Publication { want, ..Publication::of_service(super::name(name), host("127.0.0.1:80")) }
    };
    let old = config_of(&[of_ports("a", 1), of_ports("b", 2)]);
    let (mut stage, control) = linked(old.clone());
    let outputs = stage.configure(&old, &config_of(&[of_ports("a", 2), of_ports("b", 1)]));
    let said = outputs.said(control);
    use ControlFrame::{Publish, Unpublish};
    assert!(matches!(said[..], [Unpublish(1), Unpublish(2), Publish(_), Publish(_)]), "{said:?}");
}

#[test]
fn a_link_that_is_made_later_hears_what_stands_then() {
    let [web, ssh] = both();
    let (mut stage, control) = linked(config());
    let pause = stage.gone(control, CloseReason::PeerClosed).pause();
    stage.publish(&[ssh, range()]);
    stage.wait(pause);
    let control = stage.dialling(Dialled::Control);
    let published = stage.connected(control).published(control);
    assert_eq!(published, (vec![(SSH, "ssh".into()), (NEW, "game".into())], vec![]));
    // It was said before the Welcome, and so is what changes.
    let outputs = stage.configure(&config_of(&[both()[1].clone(), range()]), &config_of(&[range(), web]));
    assert_eq!(outputs.published(control), (vec![(4, "web".into())], vec![SSH]));
}

#[test]
fn a_server_that_drains_hears_what_goes_and_not_what_comes() {
    let [web, ssh] = both();
    let (mut stage, old) = linked(config());
    stage.wait(Limits::default().drain_sudden);
    stage.hear(old, ControlFrame::Drain);
    let new = stage.link();
    let changed = config_of(&[ssh.clone(), range()]);
    let outputs = stage.configure(&config(), &changed);
    assert_eq!(outputs.published(old), (vec![], vec![WEB]));
    assert_eq!(outputs.published(new), (vec![(NEW, "game".into())], vec![WEB]));
    // What was never said there is not taken back.
    let outputs = stage.configure(&changed, &config_of(&[ssh, web]));
    assert_eq!(outputs.published(old), (vec![], vec![]));
    assert_eq!(outputs.published(new), (vec![(4, "web".into())], vec![NEW]));
}

#[test]
fn a_client_that_leaves_publishes_nothing_more() {
    let [web, _] = both();
    let (mut stage, control) = linked(config());
    stage.tell(Input::Drain);
    let outputs = stage.publish(&[web, range()]);
    assert_eq!(outputs.published(control), (vec![], vec![SSH]));
}

#[test]
fn another_heartbeat_and_drain_hold_for_what_begins_later() {
    let mut new = config();
    (new.limits.heartbeat, new.limits.drain) = (secs(10), secs(2));
    let (mut stage, control) = linked(config());
    stage.configure(&config(), &new);
    assert_eq!(stage.wait(HEARTBEAT - millis(1)).closes(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.closes(), [(control, CloseReason::HeartbeatLost, Manner::Reset)]);
    let pause = stage.gone(control, CloseReason::HeartbeatLost).pause();
    stage.wait(pause);
    let control = stage.dialling(Dialled::Control);
    let said = stage.connected(control).said(control);
    assert!(matches!(said[0], ControlFrame::Hello(Hello { heartbeat, .. }) if heartbeat == secs(10)));
    stage.hear(control, ControlFrame::Welcome(welcome()));
    let outputs = stage.tell(Input::Drain);
    assert!(outputs.facts().contains(&&Fact::Draining { sessions: 0, time: secs(2) }));
}

#[test]
fn offers_that_no_session_keeps_are_forgotten() {
    let (mut stage, _, message) = ready(config_with_local("1.lan:80"));
    let mut names = Vec::new();
    for sid in 1..100 {
        let names_asked = stage.start(message, start(sid, 0)).resolves();
        names.extend(names_asked);
        stage.idle(message);
        let local = |number: u64| config_with_local(&format!("{number}.lan:80"));
        stage.configure(&local(sid), &local(sid + 1));
    }
    let slots: std::collections::BTreeSet<u32> = names.iter().map(|name| name.slot()).collect();
    assert!(names.len() == 99 && slots.len() <= 3, "{} names in {} slots", names.len(), slots.len());
}
