//! What a client knows of names, and which address it dials.

use std::io::ErrorKind;

use super::*;
use skyorg::machine::NameFault;

const NO_SUCH_NAME: &str = "no such name";
const SERVFAIL: &str = "Temporary failure in name resolution";

/// Something is wrong with the name of the local server of `config_with_local("db.lan:80")`.
fn name_fault(fault: NameFault) -> Fact {
    Fact::LocalName { service: name("web"), local: host("db.lan:80"), fault }
}

#[test]
fn another_name_is_resolved_anew_when_a_link_was_lost() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    assert_eq!(outputs.dials().len(), 0);
    let [server] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    assert_eq!(stage.resolved(server, &["192.0.2.7:33335"]).controls(), [address("192.0.2.7:33335")]);
    let pause = stage.lose_link();
    let outputs = stage.wait(pause);
    assert_eq!((outputs.resolves(), outputs.dials().len()), (vec![server], 0));
    assert_eq!(stage.resolved(server, &["192.0.2.8:33335"]).controls(), [address("192.0.2.8:33335")]);
}

#[test]
fn a_server_name_that_is_not_found_is_told_of_and_tried_again() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    let outputs = stage.resolved(outputs.resolves()[0], &[]);
    let unresolved =
        Fact::Unresolved { host: host("sky.example:33335"), purpose: "the server", why: NO_SUCH_NAME.into() };
    assert_eq!(outputs.facts()[0], &unresolved);
    assert_eq!(stage.wait(outputs.pause()).resolves().len(), 1);
}

#[test]
fn a_server_name_that_cannot_be_resolved_is_asked_for_every_half_second_however_long_that_is_so() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    let [server] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    let begun = stage.now;
    while stage.now < begun + secs(600) {
        let lookup = Lookup::Failed(SERVFAIL.into());
        let pause = stage.tell(Input::Resolved { name: server, lookup }).pause();
        assert!((millis(375)..=millis(625)).contains(&pause), "{pause:?}");
        assert_eq!(stage.wait(pause).resolves(), [server]);
    }
}

#[test]
fn a_server_name_that_is_known_is_asked_for_once_a_second_while_nobody_answers() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    let [server] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.resolved(server, &["192.0.2.7:33335"]);
    let (begun, mut asked) = (stage.now, 0);
    while stage.now < begun + secs(60) {
        let control = stage.dialling(Dialled::Control);
        let pause = stage.gone(control, REFUSED).pause();
        if stage.wait(pause).resolves() == [server] {
            stage.resolved(server, &["192.0.2.7:33335"]);
            asked += 1;
        }
    }
    assert!((30..=60).contains(&asked), "{asked}");
}

#[test]
fn addresses_of_the_server_are_tried_one_after_the_other_before_a_pause() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    stage.resolved(outputs.resolves()[0], &["192.0.2.7:33335", "192.0.2.8:33335"]);
    let control = stage.dialling(Dialled::Control);
    assert_eq!(stage.gone(control, REFUSED).controls(), [address("192.0.2.8:33335")]);
    stage.fail();
}

#[test]
fn another_address_for_message_connections_is_used_and_the_next_one_after_a_failure() {
    let message = Some(host("pool.example:1"));
    let (mut stage, outputs) = begin(ClientConfig { message, ..config() });
    assert_eq!(outputs.dials().len(), 0, "the name is resolved first");
    stage.resolved(outputs.resolves()[0], &["192.0.2.7:1", "192.0.2.8:1"]);
    let control = stage.link();
    let open = |first_ticket| ControlFrame::Open { first_ticket, count: 1 };
    let outputs = stage.hear(control, open(1));
    assert_eq!(outputs.dials()[0].1, address("192.0.2.7:1"));
    let id = stage.dialling(Dialled::Message(outputs.message_links()[0]));
    let outputs = stage.gone(id, REFUSED);
    let failed = Fact::MessageFailed { address: address("192.0.2.7:1"), reason: REFUSED };
    assert_eq!(outputs.facts(), [&failed]);
    assert_eq!(stage.hear(control, open(2)).dials().len(), 0);
    assert_eq!(stage.wait(millis(500)).dials()[0].1, address("192.0.2.8:1"));
}

#[test]
fn addresses_of_a_local_server_are_tried_one_after_the_other() {
    let (mut stage, _, message) = ready(config_with_local("db.lan:80"));
    let outputs = stage.start(message, start(1, 0));
    let outputs = stage.resolved(outputs.resolves()[0], &["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(outputs.proxies(), [(message, address("10.0.0.1:80"))]);
    let proxy = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(proxy, REFUSED);
    assert_eq!(outputs.proxies(), [(message, address("10.0.0.2:80"))]);
    assert_eq!(outputs.aborts(), []);
    let proxy = stage.dialling(Dialled::Proxy(message));
    assert_eq!(stage.gone(proxy, REFUSED).aborts(), [(message, AbortReason::Refused)]);
}

#[test]
fn each_address_gets_its_share_of_the_dial_time() {
    let (mut stage, _, message) = ready(config_with_local("db.lan:80"));
    let outputs = stage.start(message, start(1, 0));
    let outputs = stage.resolved(outputs.resolves()[0], &["10.0.0.1:80", "10.0.0.2:80"]);
    let [Output::Dial { deadline, .. }] = outputs.0[..] else { panic!("{outputs:?}") };
    assert_eq!(deadline - stage.now, DIAL_TIME / 2);
}

/// A session whose local server has so many addresses, 10.0.0.1 and so on; the first one is dialled.
fn seeking(count: usize) -> (Stage, ConnId, ConnId) {
    let (mut stage, _, message) = ready(config_with_local("db.lan:80"));
    let outputs = stage.start(message, start(1, 0));
    let addresses = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    assert_eq!(stage.resolved(outputs.resolves()[0], &addresses[..count]).proxies().len(), 1);
    let proxy = stage.dialling(Dialled::Proxy(message));
    (stage, message, proxy)
}

#[test]
fn a_local_server_s_address_that_is_late_gets_a_rival_and_the_first_that_stands_is_used() {
    for late_stands_first in [true, false] {
        let (mut stage, message, late) = seeking(3);
        assert!(stage.wait(Limits::default().late - millis(1)).is_silent());
        assert_eq!(stage.wait(millis(1)).proxies(), to(message, "10.0.0.2:80"));
        let rival = stage.dialling(Dialled::Proxy(message));
        assert_eq!(stage.wait(secs(1)).proxies(), [], "two at once and no more");
        let (winner, loser) = if late_stands_first { (late, rival) } else { (rival, late) };
        assert_eq!(stage.connected(winner).closes(), [(loser, CloseReason::Retired, Manner::Reset)]);
        assert!(stage.gone(loser, CloseReason::Retired).is_silent());
        assert!(stage.wait(secs(3)).is_silent());
    }
}

#[test]
fn of_three_addresses_two_are_silent_and_the_last_is_dialled_when_one_of_them_is_given_up() {
    let (mut stage, message, first) = seeking(3);
    assert_eq!(stage.wait(Limits::default().late).proxies(), to(message, "10.0.0.2:80"));
    stage.dialling(Dialled::Proxy(message));
    stage.wait(secs(1));
    let outputs = stage.gone(first, CloseReason::DialFailed(std::io::ErrorKind::TimedOut.into()));
    assert_eq!(outputs.proxies(), to(message, "10.0.0.3:80"));
    let third = stage.dialling(Dialled::Proxy(message));
    assert_eq!(stage.connected(third).closes().len(), 1);
}

#[test]
fn an_address_that_fails_beside_one_that_may_still_answer_refuses_nobody() {
    let (mut stage, message, first) = seeking(2);
    stage.wait(Limits::default().late);
    let second = stage.dialling(Dialled::Proxy(message));
    assert_eq!(stage.gone(second, REFUSED).aborts(), []);
    let outputs = stage.gone(first, REFUSED);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert_eq!(outputs.facts().len(), 1, "it is told of once");
}

#[test]
fn dials_of_a_session_that_is_over_are_reset_and_one_of_them_is_told_of() {
    let (mut stage, message, first) = seeking(2);
    stage.wait(Limits::default().late);
    let second = stage.dialling(Dialled::Proxy(message));
    let outputs = stage.gone(message, CloseReason::PeerClosed);
    let (truncated, retired) = (CloseReason::Truncated, CloseReason::Retired);
    assert_eq!(outputs.closes(), [(first, truncated, Manner::Reset), (second, retired, Manner::Reset)]);
    assert_eq!(stage.gone(first, truncated).facts().len(), 1);
    assert_eq!(stage.gone(second, retired).facts().len(), 0);
}

#[test]
fn users_pay_once_for_a_silent_address_also_those_who_have_no_rival_left() {
    let mut db = Db::known(&["10.0.0.1:80", "10.0.0.2:80"]);
    let sessions: Vec<ConnId> = (0..30).map(|_| db.session().0).collect();
    let late: Vec<ConnId> =
        sessions.iter().map(|&message| db.stage.dialling(Dialled::Proxy(message))).collect();
    let rivals = db.stage.wait(Limits::default().late).proxies();
    assert_eq!(rivals.len(), 10, "a few, and one more for ten that were reached");
    assert!(rivals.iter().all(|&(_, to)| to == address("10.0.0.2:80")));
    let rival = db.stage.dialling(Dialled::Proxy(rivals[0].0));
    rivals[1..].iter().for_each(|&(message, _)| {
        db.stage.dialling(Dialled::Proxy(message));
    });
    db.stage.connected(rival);
    let outputs = db.stage.wait(Limits::default().late);
    assert_eq!(outputs.proxies().len(), 20, "the others go where it was reached");
    let given_up = outputs.closes().iter().filter(|close| late.contains(&close.0)).count();
    assert_eq!(given_up, 20, "in place of their first dial");
    let (message, outputs) = db.session();
    assert_eq!(outputs.proxies(), to(message, "10.0.0.2:80"));
}

#[test]
fn a_name_that_is_resolved_late_serves_the_sessions_that_waited() {
    let (mut stage, control, one) = ready(config_with_local("db.lan:80"));
    let two = stage.message(control, 2);
    let outputs = stage.start(one, start(1, 0));
    let [db] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    assert_eq!((outputs.accepts(), outputs.dials().len()), (vec![one], 0));
    assert_eq!(stage.start(two, start(2, 0)).resolves(), [], "it is asked for already");
    let to = address("10.0.0.1:80");
    assert_eq!(stage.resolved(db, &["10.0.0.1:80"]).proxies(), [(one, to), (two, to)]);
}

#[test]
fn a_name_that_is_not_found_refuses_the_sessions_that_waited() {
    let (mut stage, _, message) = ready(config_with_local("db.lan:80"));
    let outputs = stage.start(message, start(1, 0));
    let outputs = stage.resolved(outputs.resolves()[0], &[]);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Unresolved(NO_SUCH_NAME.into()))]);
}

#[test]
fn a_name_that_was_not_found_is_asked_for_again_a_second_later() {
    let (mut stage, control, one) = ready(config_with_local("db.lan:80"));
    let (two, three) = (stage.message(control, 2), stage.message(control, 3));
    let outputs = stage.start(one, start(1, 0));
    stage.resolved(outputs.resolves()[0], &[]);
    stage.wait(secs(1) - millis(1));
    let outputs = stage.start(two, start(2, 0));
    assert_eq!((outputs.resolves().len(), outputs.aborts()), (0, vec![(two, AbortReason::Refused)]));
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Unresolved(NO_SUCH_NAME.into()))]);
    stage.wait(millis(1));
    let outputs = stage.start(three, start(3, 0));
    let outputs = stage.resolved(outputs.resolves()[0], &["10.0.0.1:80"]);
    assert_eq!(outputs.proxies(), [(three, address("10.0.0.1:80"))]);
    assert_eq!(outputs.facts(), Vec::<&Fact>::new());
}

#[test]
fn a_session_waits_for_a_name_no_longer_than_for_a_local_server() {
    let (mut stage, _, message) = ready(config_with_local("db.lan:80"));
    stage.start(message, start(1, 0));
    assert_eq!(stage.wait(DIAL_TIME - millis(1)).aborts(), []);
    let outputs = stage.wait(millis(1));
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Late)]);
}

/// What one session after the other does with the name of its local server; each ends before the next.
struct Db {
    stage: Stage,
    control: ConnId,
    count: u64,
    name: NameId,
}

impl Db {
    /// The first session finds these addresses, and the first of them works.
    fn known(addresses: &[&str]) -> Db {
        let (mut stage, control, message) = ready(config_with_local("db.lan:80"));
        let outputs = stage.start(message, start(1, 0));
        let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
        stage.resolved(name, addresses);
        let proxy = stage.dialling(Dialled::Proxy(message));
        stage.connected(proxy);
        Db { stage, control, count: 1, name }
    }

    /// Another session begins.
    fn session(&mut self) -> (ConnId, Outputs) {
        self.count += 1;
        let message = self.stage.message(self.control, self.count);
        (message, self.stage.start(message, start(self.count, 0)))
    }

    /// The first dial of a session succeeds.
    fn reached(&mut self, message: ConnId) {
        let proxy = self.stage.dialling(Dialled::Proxy(message));
        self.stage.connected(proxy);
    }

    fn looked_up(&mut self, lookup: Lookup) -> Outputs {
        let name = self.name;
        self.stage.tell(Input::Resolved { name, lookup })
    }

    /// The link goes on.
    fn wait(&mut self, time: Duration) -> Outputs {
        let mut outputs = Outputs::default();
        let until = self.stage.now + time;
        while self.stage.now < until {
            let control = self.control;
            outputs.0.extend(self.stage.hear(control, ControlFrame::Ping).0);
            let step = secs(10).min(until - self.stage.now);
            outputs.0.extend(self.stage.wait(step).0);
        }
        outputs
    }

    /// Long enough for what is known to be old.
    fn wait_until_old(&mut self) {
        self.wait(Limits::default().resolved);
    }
}

fn to(message: ConnId, text: &str) -> Vec<(ConnId, SocketAddr)> {
    vec![(message, address(text))]
}

#[test]
fn a_name_in_use_is_asked_for_again_before_its_answer_is_old_and_nobody_waits() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(7));
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.proxies()), (0, to(message, "10.0.0.1:80")));
    db.reached(message);
    db.wait(millis(500));
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.proxies()), (1, to(message, "10.0.0.1:80")));
    db.reached(message);
    db.stage.resolved(db.name, &["10.0.0.2:80"]);
    db.wait(secs(7));
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.proxies()), (0, to(message, "10.0.0.2:80")));
}

#[test]
fn the_first_session_after_a_pause_goes_where_the_name_leads_now() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(3 * 3600));
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.dials().len()), (1, 0));
    db.stage.wait(millis(50));
    assert_eq!(db.stage.resolved(db.name, &["10.0.0.2:80"]).proxies(), to(message, "10.0.0.2:80"));
}

#[test]
fn an_old_address_is_used_where_no_answer_comes_in_a_moment() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait_until_old();
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.dials().len()), (1, 0));
    assert_eq!(db.stage.wait(millis(99)).dials().len(), 0);
    assert_eq!(db.stage.wait(millis(1)).proxies(), to(message, "10.0.0.1:80"));
    // The moment is the lookup's, and not each session's.
    let (message, outputs) = db.session();
    assert_eq!(outputs.proxies(), to(message, "10.0.0.1:80"));
    // An answer that comes after it dials no session again.
    assert_eq!(db.stage.resolved(db.name, &["10.0.0.2:80"]).dials().len(), 0);
}

#[test]
fn no_such_name_counts_when_it_comes_twice_a_second_apart() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait_until_old();
    let (message, _) = db.session();
    let outputs = db.looked_up(Lookup::NoSuchName);
    assert_eq!(outputs.proxies(), to(message, "10.0.0.1:80"));
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Outdated(NO_SUCH_NAME.into()))]);
    db.reached(message);
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.proxies()), (0, to(message, "10.0.0.1:80")));
    db.reached(message);
    db.wait(secs(1));
    let (message, outputs) = db.session();
    assert_eq!(outputs.resolves().len(), 1);
    let outputs = db.looked_up(Lookup::NoSuchName);
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Unresolved(NO_SUCH_NAME.into()))]);
}

#[test]
fn addresses_that_come_between_two_times_no_such_name_stay() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    for _ in 0..3 {
        db.wait_until_old();
        let (message, _) = db.session();
        db.looked_up(Lookup::NoSuchName);
        db.reached(message);
        db.wait(secs(1));
        let (message, _) = db.session();
        db.stage.resolved(db.name, &["10.0.0.1:80"]);
        db.reached(message);
    }
    db.wait_until_old();
    let (message, _) = db.session();
    assert_eq!(db.looked_up(Lookup::NoSuchName).proxies(), to(message, "10.0.0.1:80"));
}

#[test]
fn a_lookup_that_fails_keeps_what_is_known_for_a_day_and_is_told_of() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    for _ in 0..23 {
        db.wait(secs(3600));
        let (message, outputs) = db.session();
        assert_eq!(outputs.resolves().len(), 1);
        let outputs = db.looked_up(Lookup::Failed(SERVFAIL.into()));
        assert_eq!(outputs.proxies(), to(message, "10.0.0.1:80"));
        assert_eq!(outputs.facts(), [&name_fault(NameFault::Outdated(SERVFAIL.into()))]);
        db.reached(message);
    }
    db.wait(secs(3600));
    let (message, _) = db.session();
    let outputs = db.looked_up(Lookup::Failed(SERVFAIL.into()));
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert_eq!(outputs.facts(), [&name_fault(NameFault::Unresolved(SERVFAIL.into()))]);
}

#[test]
fn one_failed_lookup_refuses_nobody_and_the_name_is_asked_for_again_a_second_later() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait_until_old();
    let (message, _) = db.session();
    db.looked_up(Lookup::Failed(SERVFAIL.into()));
    db.reached(message);
    for (after, asked) in [(millis(999), 0), (millis(1), 1)] {
        db.wait(after);
        let (message, outputs) = db.session();
        assert_eq!((outputs.resolves().len(), outputs.aborts()), (asked, vec![]));
        if asked == 0 {
            db.reached(message);
        }
    }
    let outputs = db.stage.resolved(db.name, &["10.0.0.1:80"]);
    assert_eq!((outputs.proxies().len(), outputs.facts().len()), (1, 0));
}

#[test]
fn a_session_remembers_addresses_and_not_places_in_a_list() {
    let mut db = Db::known(&["10.0.0.1:80", "10.0.0.2:80"]);
    db.wait(secs(8));
    let (message, outputs) = db.session();
    assert_eq!((outputs.resolves().len(), outputs.proxies()), (1, to(message, "10.0.0.1:80")));
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    // The name server gives the addresses in turns.
    db.stage.resolved(db.name, &["10.0.0.2:80", "10.0.0.1:80"]);
    assert_eq!(db.stage.gone(proxy, REFUSED).proxies(), to(message, "10.0.0.2:80"));
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    assert_eq!(db.stage.gone(proxy, REFUSED).aborts(), [(message, AbortReason::Refused)]);
}

#[test]
fn the_address_that_worked_last_is_tried_first_in_whatever_order_the_name_server_gives_them() {
    let mut db = Db::known(&["10.0.0.1:80", "10.0.0.2:80"]);
    let (message, _) = db.session();
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    db.stage.gone(proxy, REFUSED);
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    db.stage.connected(proxy);
    let (message, outputs) = db.session();
    assert_eq!(outputs.proxies(), to(message, "10.0.0.2:80"));
    db.reached(message);
    db.wait_until_old();
    let (message, _) = db.session();
    let outputs = db.stage.resolved(db.name, &["10.0.0.1:80", "10.0.0.2:80"]);
    assert_eq!(outputs.proxies(), to(message, "10.0.0.2:80"));
}

/// A session begins, and its dial of the one address that is known fails: the name is asked for again.
fn failing() -> (Db, ConnId) {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(2));
    let (message, outputs) = db.session();
    assert_eq!(outputs.resolves().len(), 0);
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    let outputs = db.stage.gone(proxy, REFUSED);
    assert_eq!((outputs.resolves(), outputs.aborts()), (vec![db.name], vec![]));
    (db, message)
}

#[test]
fn a_name_is_asked_for_again_when_a_dial_fails() {
    let (mut db, message) = failing();
    // The session whose dial showed it goes where the name leads now.
    let outputs = db.stage.resolved(db.name, &["10.0.0.2:80"]);
    assert_eq!(outputs.proxies(), to(message, "10.0.0.2:80"));
    let (message, outputs) = db.session();
    assert_eq!(outputs.proxies(), to(message, "10.0.0.2:80"));
    // Not with each dial that fails.
    let proxy = db.stage.dialling(Dialled::Proxy(message));
    assert_eq!(db.stage.gone(proxy, REFUSED).resolves(), []);
}

#[test]
fn a_session_whose_dial_failed_fails_at_once_when_the_answer_holds_nothing_new() {
    for lookup in
        [Lookup::Found(vec![address("10.0.0.1:80")]), Lookup::Failed(SERVFAIL.into()), Lookup::NoSuchName]
    {
        let (mut db, message) = failing();
        let outputs = db.looked_up(lookup);
        assert_eq!((outputs.aborts(), outputs.dials().len()), (vec![(message, AbortReason::Refused)], 0));
        let told = |fact: &&&Fact| matches!(fact, Fact::LocalFailed { reason: REFUSED, .. });
        assert_eq!(outputs.facts().iter().filter(told).count(), 1, "{outputs:?}");
        // The next one does not wait, because the answer is new.
        let (message, _) = db.session();
        let proxy = db.stage.dialling(Dialled::Proxy(message));
        assert_eq!(db.stage.gone(proxy, REFUSED).aborts(), [(message, AbortReason::Refused)]);
    }
}

#[test]
fn a_session_whose_dial_failed_waits_for_the_answer_within_its_dial_time() {
    let (mut db, message) = failing();
    assert_eq!(db.stage.wait(DIAL_TIME - millis(1)).aborts(), []);
    let outputs = db.stage.wait(millis(1));
    assert_eq!(outputs.aborts(), [(message, AbortReason::Refused)]);
    assert!(matches!(outputs.facts()[..], [Fact::LocalFailed { reason: REFUSED, .. }]), "{outputs:?}");
    assert!(db.stage.resolved(db.name, &["10.0.0.2:80"]).is_silent());
}

#[test]
fn a_session_that_ends_while_it_waits_for_the_answer_is_dialled_nowhere() {
    let (mut db, message) = failing();
    db.stage.idle(message);
    assert!(db.stage.resolved(db.name, &["10.0.0.2:80"]).is_silent());
}

#[test]
fn a_dial_that_is_late_asks_for_the_name_again_and_where_it_leads_now_is_dialled_beside() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(2));
    let (message, _) = db.session();
    let late = db.stage.dialling(Dialled::Proxy(message));
    assert!(db.stage.wait(Limits::default().late - millis(1)).is_silent());
    let outputs = db.stage.wait(millis(1));
    assert_eq!((outputs.resolves(), outputs.dials().len()), (vec![db.name], 0));
    // It may move while the dial goes on.
    assert_eq!(db.stage.resolved(db.name, &["10.0.0.1:80"]).dials().len(), 0);
    assert_eq!(db.stage.wait(secs(2)).resolves(), [db.name]);
    assert_eq!(db.stage.resolved(db.name, &["10.0.0.2:80"]).proxies(), to(message, "10.0.0.2:80"));
    let moved = db.stage.dialling(Dialled::Proxy(message));
    assert_eq!(db.stage.connected(moved).closes(), [(late, CloseReason::Retired, Manner::Reset)]);
    assert!(db.stage.gone(late, CloseReason::Retired).is_silent());
}

#[test]
fn a_session_that_is_served_while_its_name_is_asked_for_is_dialled_nowhere_else() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(2));
    let (message, _) = db.session();
    let late = db.stage.dialling(Dialled::Proxy(message));
    assert_eq!(db.stage.wait(Limits::default().late).resolves(), [db.name]);
    db.stage.connected(late);
    assert!(db.stage.resolved(db.name, &["10.0.0.2:80"]).is_silent());
}

#[test]
fn a_dial_that_is_late_and_fails_waits_for_the_answer_that_is_on_its_way() {
    let mut db = Db::known(&["10.0.0.1:80"]);
    db.wait(secs(2));
    let (message, _) = db.session();
    let late = db.stage.dialling(Dialled::Proxy(message));
    db.stage.wait(Limits::default().late);
    assert!(db.stage.gone(late, REFUSED).is_silent());
    assert_eq!(db.stage.resolved(db.name, &["10.0.0.2:80"]).proxies(), to(message, "10.0.0.2:80"));
}

#[test]
fn where_no_name_is_looked_up_a_failure_is_told_of_at_once() {
    let (mut stage, _, message) = ready(config_with_local("10.0.0.1:80"));
    stage.start(message, start(1, 0));
    let proxy = stage.dialling(Dialled::Proxy(message));
    assert!(stage.wait(secs(2)).is_silent());
    assert_eq!(stage.gone(proxy, REFUSED).aborts(), [(message, AbortReason::Refused)]);
}

#[test]
fn localhost_is_loopback_and_is_not_looked_up() {
    let (mut stage, _, message) = ready(config_with_local("localhost:80"));
    let outputs = stage.start(message, start(1, 0));
    assert_eq!((outputs.resolves(), outputs.proxies()), (vec![], to(message, "127.0.0.1:80")));
    let proxy = stage.dialling(Dialled::Proxy(message));
    assert_eq!(stage.gone(proxy, REFUSED).proxies(), to(message, "[::1]:80"));
    let proxy = stage.dialling(Dialled::Proxy(message));
    // This host has no IPv6, which says nothing of the local server.
    let nowhere = CloseReason::DialFailed(ErrorKind::AddrNotAvailable.into());
    let outputs = stage.gone(proxy, nowhere);
    let [Fact::LocalFailed { reason, .. }] = outputs.facts()[..] else { panic!("{outputs:?}") };
    assert_eq!((*reason, outputs.aborts().len()), (REFUSED, 1));
}

#[test]
fn a_server_whose_name_is_not_answered_in_a_moment_is_dialled_where_it_was_last() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    let [server] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.wait(secs(1));
    stage.resolved(server, &["192.0.2.7:33335"]);
    let pause = stage.lose_link();
    assert_eq!(stage.wait(pause).dials().len(), 0);
    assert_eq!(stage.wait(millis(99)).dials().len(), 0);
    assert_eq!(stage.wait(millis(1)).controls(), [address("192.0.2.7:33335")]);
    let pause = stage.lose_link();
    stage.wait(pause);
    let failed = Lookup::Failed(SERVFAIL.into());
    let outputs = stage.tell(Input::Resolved { name: server, lookup: failed });
    assert_eq!(outputs.controls(), [address("192.0.2.7:33335")]);
}

#[test]
fn the_server_s_address_that_worked_last_is_tried_first() {
    let (mut stage, outputs) = begin(ClientConfig { server: host("sky.example:33335"), ..config() });
    let [server] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    let both = ["192.0.2.7:33335", "192.0.2.8:33335"];
    stage.resolved(server, &both);
    let control = stage.dialling(Dialled::Control);
    stage.gone(control, REFUSED);
    let pause = stage.lose_link();
    stage.wait(pause);
    assert_eq!(stage.resolved(server, &both).controls(), [address("192.0.2.8:33335")]);
}

#[test]
fn the_name_for_message_connections_is_looked_up_again_when_their_dials_fail() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.resolved(name, &["192.0.2.7:1"]);
    let control = stage.link();
    stage.wait(secs(2));
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let id = stage.dialling(Dialled::Message(outputs.message_links()[0]));
    assert_eq!(stage.gone(id, REFUSED).resolves(), [name]);
    stage.resolved(name, &["192.0.2.9:1"]);
    assert_eq!(stage.wait(millis(500)).dials()[0].1, address("192.0.2.9:1"));
}

#[test]
fn the_name_for_message_connections_is_looked_up_again_when_one_of_them_is_late() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.resolved(name, &["192.0.2.7:1"]);
    let control = stage.link();
    stage.wait(secs(2));
    let outputs = stage.hear(control, ControlFrame::Open { first_ticket: 1, count: 1 });
    let link = outputs.message_links()[0];
    stage.dialling(Dialled::Message(link));
    let outputs = stage.wait(Limits::default().late);
    assert_eq!(outputs.resolves(), [name]);
    assert_eq!(outputs.message_links(), [link]);
    stage.dialling(Dialled::Message(link));
    stage.resolved(name, &["192.0.2.9:1"]);
    assert_eq!(stage.wait(millis(500)).dials()[0].1, address("192.0.2.9:1"));
}

#[test]
fn the_name_for_message_connections_is_asked_again_before_its_answer_is_old() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    let [name] = outputs.resolves()[..] else { panic!("{outputs:?}") };
    stage.resolved(name, &["192.0.2.7:1"]);
    let control = stage.link();
    let open = |first_ticket| ControlFrame::Open { first_ticket, count: 1 };
    assert_eq!(stage.hear(control, open(1)).resolves(), []);
    stage.wait(secs(8));
    assert_eq!(stage.hear(control, open(2)).resolves(), [name]);
}

#[test]
fn a_name_for_message_connections_that_is_late_keeps_nobody_from_the_control_port() {
    let (mut stage, outputs) = begin(ClientConfig { message: Some(host("pool.example:1")), ..config() });
    assert_eq!((outputs.resolves().len(), outputs.dials().len()), (1, 0));
    assert_eq!(stage.wait(millis(100)).controls(), [address("192.0.2.1:33335")]);
}
