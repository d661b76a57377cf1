//! What is counted of users, and what is shown of it.

use std::time::Duration;

use super::*;
use skyorg::base::network::Networks;
use skyorg::config::policy::UserRules;
use skyorg::machine::status::{CAUSES, ENDS, Figures, ServiceStatus};
use skyorg::machine::{Fault, Traffic};

/// Counts that are not zero, by their words.
fn counted(figures: &Figures) -> Vec<(&'static str, u64)> {
    let ended = ENDS.into_iter().zip(figures.ended);
    let refused = CAUSES.into_iter().zip(figures.refused);
    let counts: Vec<_> = ended.chain(refused).filter(|(_, count)| *count > 0).collect();
    let gone: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(figures.total, figures.users + gone, "{figures:?}");
    counts
}

impl Stage {
    fn web(&self) -> ServiceStatus {
        self.service("web")
    }

    /// A user is gone for this reason, and its message connection is free.
    fn leave(&mut self, user: ConnId, message: ConnId, reason: CloseReason) {
        self.gone(user, reason);
        self.idle(message);
    }

    /// A user that is served.
    fn serve(&mut self, client: &mut Client) -> (ConnId, ConnId) {
        let (message, _) = self.bring(client);
        let (user, _) = self.user();
        self.accepted_and_started(message);
        (user, message)
    }
}

#[test]
fn a_user_is_counted_while_it_is_there_and_then_by_its_end() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (one, message) = stage.serve(&mut client);
    let (two, other) = stage.serve(&mut client);
    let figures = stage.web().figures;
    assert_eq!((figures.users, figures.peak, figures.total, counted(&figures)), (2, 2, 2, vec![]));
    let traffic = Traffic { received: 10, sent: 20 };
    stage.tell(Input::Closed { id: one, reason: CloseReason::Finished, traffic });
    stage.idle(message);
    stage.leave(two, other, CloseReason::Aborted(AbortReason::Reset));
    let figures = stage.web().figures;
    assert_eq!((figures.users, figures.peak, figures.total), (0, 2, 2));
    assert_eq!(counted(&figures), [("finished", 1), ("local_reset", 1)]);
    assert_eq!(figures.traffic, traffic);
    assert_eq!(stage.service("ssh").figures, Figures::default(), "that is another service");
}

#[test]
fn users_that_are_turned_away_are_counted_by_cause() {
    let rules = UserRules {
        users: Some(1),
        from: Networks::of(vec!["198.51.100.0/24".parse().expect("a network")]),
        ..UserRules::default()
    };
    let services = vec![Service { rules, ..Service::new(name("web"), Listen::Any(WEB)) }];
    let mut stage = begin_as(ServerConfig { services, ..config(limits()) });
    let mut client = stage.client(1);
    let (user, message) = stage.serve(&mut client);
    let (one_too_many, _) = stage.user();
    stage.gone(one_too_many, CloseReason::UsersLimit);
    let (id, door) = (stage.id(), stage.listeners.iter().find(|it| it.1 == WEB).expect("it listens").2);
    stage.tell(Input::Accepted { id, door, peer: ([203, 0, 113, 1], 1).into(), asked: at(WEB) });
    stage.gone(id, CloseReason::From);
    let Door::Users(service) = door else { panic!("{door:?}") };
    let shed = stage.tell(Input::TurnedAway { service, peer: user_address(id), fault: None });
    assert_eq!(shed.facts().len(), 1);
    let fault = Some(Fault::of_number(24));
    assert!(stage.tell(Input::TurnedAway { service, peer: user_address(id), fault }).facts().is_empty());
    stage.leave(user, message, CloseReason::Finished);
    let figures = stage.web().figures;
    let causes = [("finished", 1), ("users_limit", 1), ("full", 1), ("from", 1), ("descriptors", 1)];
    assert_eq!((counted(&figures), figures.peak, figures.total), (causes.to_vec(), 1, 5));
}

#[test]
fn users_that_no_client_serves_are_counted_by_cause() {
    let mut stage = begin();
    let (nobody, _) = stage.user();
    stage.live(10);
    let mut client = stage.client(1);
    stage.user();
    stage.live(20);
    let (message, _) = stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.session(message, SessionEvent::Accepted);
    let outputs = stage.tell(Input::Returned { id: user, refused: true, spoken: false });
    assert_eq!(outputs.closes(), [(user, CloseReason::Aborted(AbortReason::Refused), Manner::Reset)]);
    stage.leave(user, message, CloseReason::Aborted(AbortReason::Refused));
    let (left, _) = stage.user_at(SSH);
    stage.gone(left, CloseReason::Io(std::io::ErrorKind::ConnectionReset.into()));
    let figures = stage.web().figures;
    assert_eq!(counted(&figures), [("no_client", 1), ("local_refused", 1), ("wait_over", 1)], "{nobody}");
    assert_eq!(counted(&stage.service("ssh").figures), [("left", 1)]);
}

#[test]
fn waits_for_a_first_message_connection_are_counted_and_those_who_wait_now() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.user();
    assert_eq!(stage.web().figures.waiting, 1);
    stage.wait(millis(40));
    stage.bring(&mut client);
    stage.bring(&mut client);
    stage.user();
    let waits = stage.web().figures.waits;
    assert_eq!((waits.count(), waits.sum, waits.quantile(1.0)), (2, millis(40), Some(millis(50))));
    assert_eq!((stage.web().figures.waiting, stage.snapshot().totals.waits), (0, waits));
}

#[test]
fn a_session_that_is_offered_again_is_a_redelivery_and_no_second_user() {
    let mut stage = begin();
    let mut client = stage.client(1);
    stage.bring(&mut client);
    stage.bring(&mut client);
    let (user, _) = stage.user();
    stage.tell(Input::Returned { id: user, refused: false, spoken: true });
    let snapshot = stage.snapshot();
    assert_eq!((snapshot.totals.redeliveries, snapshot.services[0].figures.total), (1, 1));
    assert_eq!(snapshot.services[0].figures.waits.count(), 1);
}

#[test]
fn counts_live_as_long_as_the_name() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (user, message) = stage.serve(&mut client);
    stage.leave(user, message, CloseReason::Finished);
    let moved = |services: Vec<Service>| ServerConfig { services, ..config(limits()) };
    stage.reload(moved(vec![Service::new(name("web"), Listen::Any(WEB + 1))]));
    assert_eq!(counted(&stage.web().figures), [("finished", 1)], "it has moved");
    stage.reload(moved(vec![]));
    assert!(stage.snapshot().services.is_empty());
    stage.reload(config(limits()));
    assert_eq!(stage.web().figures, Figures::default(), "another one has its name now");
}

#[test]
fn users_that_a_removed_service_still_has_are_not_counted_for_another_one() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (user, message) = stage.serve(&mut client);
    let only = |text| ServerConfig {
        services: vec![Service::new(name(text), Listen::Any(WEB))],
        ..config(limits())
    };
    stage.reload(only("mail"));
    stage.leave(user, message, CloseReason::Removed);
    assert_eq!(stage.service("mail").figures, Figures::default());
}

#[test]
fn what_is_shown_says_where_users_connect_and_who_serves_them() {
    let mut stage = begin();
    let client = stage.client(1);
    stage.wait(secs(3));
    let web = stage.web();
    assert_eq!(web.addresses, [format!("*:{WEB}")]);
    assert_eq!((web.publications.len(), web.reason), (1, None));
    assert_eq!((&web.publications[0].key, web.publications[0].client), (&name("office"), Some(peer())));
    let ssh = stage.service("ssh");
    assert_eq!((ssh.publications.len(), ssh.reason.as_deref()), (0, Some("no client")));
    let [link] = &stage.snapshot().links[..] else { panic!("{:?}", stage.snapshot()) };
    assert_eq!(
        (&link.key, link.address, link.since),
        (&name("office"), Some(peer()), Some(stage.now - secs(3)))
    );
    assert_eq!((link.idle, link.busy, link.coming), (0, 0, client.tickets.len()));
}

#[test]
fn message_connections_of_a_link_are_shown_by_what_they_do() {
    let mut stage = begin();
    let mut client = stage.client(1);
    let (_, message) = stage.serve(&mut client);
    stage.bring(&mut client);
    let shown = |stage: &Stage| {
        let snapshot = stage.snapshot();
        (snapshot.links[0].idle, snapshot.links[0].busy, snapshot.links[0].coming)
    };
    assert_eq!(shown(&stage), (1, 1, 1));
    stage.idle(message);
    assert_eq!(shown(&stage), (2, 0, 1));
}

#[test]
fn hellos_that_are_refused_are_counted_by_cause_and_unknown_keys_with_the_last_address() {
    let mut stage = begin();
    let (unknown, _) = stage.stranger(Purpose::Control, [9; 16]);
    assert_eq!(stage.snapshot().totals.unknown_hellos, None, "it is not told yet");
    stage.gone(unknown, CloseReason::UnknownKey);
    let versions = Versions { least: 900, most: 901 };
    stage.greet(Hello { versions, ..hello(1) });
    let totals = stage.snapshot().totals;
    let refused = totals.hellos_refused.into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(refused.collect::<Vec<_>>(), [("unknown_key", 1), ("version", 1)]);
    assert_eq!(totals.unknown_hellos, Some((1, peer())));
    stage.wait(Duration::from_secs(11 * 60));
    assert_eq!(stage.snapshot().totals.unknown_hellos, None);
}
