//! Both processes live long: reuse, verified pools, frozen and killed peers, replays, draining, rest.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::relay::{Cut, Link, UP};
use common::{
    Ending, MODES, Mode, PATIENCE, Records, Setup, Tunnel, connect, converse, echo_server, finish_writing,
    measure, read_out, serve, try_converse,
};
use rustix::process::Signal;

const POOL: usize = 10;
/// The length of a user's request, which tells the user's number.
const ID_BYTES: usize = 8;

/// A local server that answers each request with itself, and records it.
fn counting_server() -> (SocketAddr, Arc<Records<u64>>) {
    let records = Records::new();
    let to = records.clone();
    let local = serve(move |mut stream| {
        let mut id = [0; ID_BYTES];
        while stream.read_exact(&mut id).is_ok() {
            to.push(u64::from_be_bytes(id));
            if stream.write_all(&id).is_err() {
                return;
            }
        }
    });
    (local, records)
}

/// How many requests the local server got more than once.
fn repeated(records: &Records<u64>) -> Vec<u64> {
    let mut counts = HashMap::new();
    records.all().into_iter().for_each(|id| *counts.entry(id).or_insert(0) += 1);
    counts.into_iter().filter(|&(_, count)| count > 1).map(|(id, _)| id).collect()
}

#[test]
fn a_thousand_users_in_a_row_open_no_message_connection_after_the_first_pool() {
    for mode in MODES {
        let tunnel = Setup::new(mode).relayed().start(echo_server());
        let relay = tunnel.relay();
        relay.wait_for_pool(POOL);
        visit(&tunnel, b"the first");
        // One connection is in use while the first user is there, so that one more is asked for.
        relay.wait_for_pool(POOL + 1);
        let before = relay.count();
        for number in 0..1_000u64 {
            visit(&tunnel, &number.to_be_bytes());
        }
        assert_eq!(relay.count(), before, "{mode:?}");
    }
}

/// A user that comes, is answered, and is gone when this returns.
fn visit(tunnel: &Tunnel, text: &[u8]) {
    let mut user = tunnel.user();
    converse(&mut user, text);
    finish_writing(&user);
    assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean));
}

#[test]
fn a_burst_that_comes_again_finds_its_connections_waiting() {
    let tunnel = Setup::new(Mode::Sealed).start(echo_server());
    let burst = || {
        let mut users: Vec<TcpStream> = (0..500).map(|_| tunnel.user()).collect();
        for (number, user) in users.iter_mut().enumerate() {
            user.write_all(&number.to_be_bytes()).expect("writes");
        }
        for (number, user) in users.iter_mut().enumerate() {
            let mut answer = [0; 8];
            user.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, number.to_be_bytes());
        }
    };
    burst();
    tunnel.server.wait_for_count(" of default: 8 bytes in", 500);
    measure(Duration::from_secs(1));
    let first = newest_connection(&tunnel);
    burst();
    let last = newest_connection(&tunnel);
    // Numbers count the connections of the process: users and nothing else came between these two.
    assert_eq!(last - first, 501);
}

/// The number of a user that comes now.
fn newest_connection(tunnel: &Tunnel) -> u64 {
    let before = tunnel.server.lines().iter().filter(|line| line.contains(" 3 bytes in")).count();
    converse(&mut tunnel.user(), b"num");
    let line = tunnel.server.wait_for_count(" 3 bytes in", before + 1).pop().expect("counted");
    let number = line.split('#').nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).expect("each line names its connection")
}

#[test]
fn a_pool_that_was_black_holed_loses_no_user_and_none_waits_two_seconds() {
    for mode in MODES {
        let (local, records) = counting_server();
        let tunnel = Setup::new(mode).relayed().start(local);
        tunnel.relay().wait_for_pool(POOL);
        tunnel.relay().with(|links| links.links.iter_mut().for_each(|link| link.rules.hold = [true, true]));
        let answers = ask_at_once(&tunnel, 0..30);
        for (id, waited, result) in answers {
            assert!(result.is_ok(), "{mode:?}: user {id} was lost after {waited:?}: {result:?}");
            assert!(waited < Duration::from_secs(2), "{mode:?}: user {id} waited {waited:?}");
        }
        // The held bytes come late, when every request has been served.
        tunnel.relay().with(|links| links.links.iter_mut().for_each(|link| link.rules.hold = [false, false]));
        converse(&mut tunnel.user(), &999u64.to_be_bytes());
        assert_eq!(repeated(&records), [], "{mode:?}");
    }
}

/// Users that come at once, each with a request: how long each waited for what.
fn ask_at_once(tunnel: &Tunnel, ids: std::ops::Range<u64>) -> Vec<(u64, Duration, std::io::Result<()>)> {
    let users: Vec<(u64, TcpStream)> = ids.map(|id| (id, tunnel.user())).collect();
    let since = Instant::now();
    thread::scope(|scope| {
        let ask = |(id, mut user): (u64, TcpStream)| {
            scope.spawn(move || {
                let result = try_converse(&mut user, &id.to_be_bytes());
                (id, since.elapsed(), result)
            })
        };
        let asking: Vec<_> = users.into_iter().map(ask).collect();
        asking.into_iter().map(|user| user.join().expect("no user panics")).collect()
    })
}

const LATE: Duration = Duration::from_millis(1_500);

#[test]
fn no_byte_reaches_the_local_server_twice_when_half_of_the_pool_is_late_both_ways() {
    half_of_the_pool_is_late([LATE, LATE], true);
}

#[test]
fn no_byte_reaches_the_local_server_twice_when_half_of_the_pool_is_late_towards_the_client() {
    half_of_the_pool_is_late([Duration::ZERO, LATE], true);
}

#[test]
fn no_byte_reaches_the_local_server_twice_when_half_of_the_pool_is_late_towards_the_server() {
    // A request that was accepted and not answered may be done already, so its user is reset and not served twice.
    half_of_the_pool_is_late([LATE, Duration::ZERO], false);
}

fn half_of_the_pool_is_late(late: [Duration; 2], all_are_served: bool) {
    for mode in MODES {
        let (local, records) = counting_server();
        let tunnel = Setup::new(mode).relayed().start(local);
        tunnel.relay().wait_for_pool(POOL);
        tunnel.relay().with(move |links| {
            links.links.iter_mut().step_by(2).for_each(|link| link.rules.late = late);
        });
        let mut served = 0;
        for round in 0..3 {
            for (id, waited, result) in ask_at_once(&tunnel, round * 100..round * 100 + 10) {
                assert!(waited < Duration::from_secs(6), "{mode:?}: user {id} waited {waited:?}");
                match result {
                    Ok(()) => served += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{mode:?}: user {id}");
                        assert!(!all_are_served, "{mode:?}: user {id} was lost after {waited:?}");
                    }
                }
            }
        }
        assert!(served >= 15, "{mode:?}: only {served} were served");
        // Late requests get time to arrive.
        measure(LATE + Duration::from_millis(200));
        assert_eq!(repeated(&records), [], "{mode:?}");
    }
}

#[test]
fn a_frozen_client_costs_a_new_user_ten_seconds_and_no_more() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    converse(&mut tunnel.user(), b"awake");
    tunnel.client().signal(Signal::STOP);
    let since = Instant::now();
    let mut users = [tunnel.user(), tunnel.user()];
    users[0].write_all(b"anybody?").expect("writes");
    for user in &mut users {
        assert_eq!(read_out(user), (Vec::new(), Ending::Reset));
    }
    // Ten seconds, and what a busy machine takes.
    assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    tunnel.client().signal(Signal::CONT);
    serves_again(&tunnel);
}

#[test]
fn a_lost_heartbeat_aborts_the_sessions_of_a_frozen_client() {
    for mode in MODES {
        let ends = Records::new();
        let to = ends.clone();
        let local = serve(move |mut stream| {
            let mut word = [0; 5];
            stream.read_exact(&mut word).expect("a word");
            stream.write_all(&word).expect("writes");
            to.push(read_out(&mut stream).1);
        });
        let mut tunnel = Setup::new(mode).server(&["--heartbeat", "2"]).start(local);
        let mut user = tunnel.user();
        converse(&mut user, b"hello");
        tunnel.client().signal(Signal::STOP);
        let since = Instant::now();
        assert_eq!(read_out(&mut user).1, Ending::Reset, "{mode:?}");
        assert!(since.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", since.elapsed());
        // The link is given up a little later than the session: TCP may have been about to try again.
        tunnel.server.wait_for("is gone");
        // Its half of the session ends the same way when it wakes up.
        tunnel.client().signal(Signal::CONT);
        assert_eq!(ends.wait(1), [Ending::Reset], "{mode:?}");
        tunnel.client().wait_for_count("connected to", 2);
        let mut user = tunnel.user();
        converse(&mut user, b"hello");
    }
}

#[test]
fn a_link_goes_on_with_a_new_connection_when_the_network_forgets_the_old_ones() {
    let local = echo_server();
    let mut tunnel = Setup::new(Mode::Sealed).client(&["--heartbeat", "2"]).relayed().start(local);
    converse(&mut tunnel.user(), b"hello");
    // The network delivers nothing more and keeps every connection up. A new dial gets through.
    let dark = |links: &mut common::relay::Links| {
        links.links.iter_mut().for_each(|link| link.rules.hold = [true, true]);
    };
    tunnel.control_relay().with(dark);
    tunnel.relay().with(dark);
    tunnel.client().wait_for("on a new connection in the place of");
    serves_again(&tunnel);
    assert!(!tunnel.client().lines().iter().any(|line| line.contains("ended")), "the link goes on");
}

/// Waits until a user is served; users that come too early may be reset.
fn serves_again(tunnel: &Tunnel) {
    let deadline = Instant::now() + PATIENCE;
    while try_converse(&mut tunnel.user(), b"again").is_err() {
        assert!(Instant::now() < deadline, "no service");
    }
}

#[test]
fn a_client_that_was_killed_is_back_when_it_is_started_again() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    for _ in 0..3 {
        converse(&mut tunnel.user(), b"before");
        tunnel.client().kill();
        // The user comes while no client serves, and is served by the next one.
        let mut early = tunnel.user();
        tunnel.start_client();
        converse(&mut early, b"early");
        converse(&mut tunnel.user(), b"after");
    }
}

#[test]
fn a_client_comes_back_to_a_server_that_was_killed_and_started_again() {
    let mut tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    for round in 1..=3 {
        let mut session = tunnel.user();
        converse(&mut session, b"before");
        tunnel.restart_server();
        tunnel.client().wait_for_count("] #", 1);
        tunnel.client().wait_for_count("connected to", round + 1);
        converse(&mut tunnel.user(), b"after");
    }
}

#[test]
fn a_client_waits_for_a_server_that_is_not_there_yet() {
    let mut tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    tunnel.client().kill();
    let (_socket, nowhere) = common::closed_port();
    tunnel.control_relay().lead_to(nowhere);
    let server = tunnel.control_relay().address.to_string();
    let client = common::Process::skyorg(
        &["client", "--server", &server, "--local", &echo_server().to_string(), "--key", &tunnel.key],
        None,
    );
    client.wait_for("did not answer the handshake");
    tunnel.control_relay().lead_to(tunnel.control);
    client.wait_for("connected to");
    converse(&mut tunnel.user(), b"at last");
}

#[test]
fn the_same_client_coming_back_replaces_its_old_self_at_once() {
    let mut tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"before");
    // The client sees a reset, and the server nothing.
    tunnel.control_relay().with(|links| {
        links.links.iter_mut().for_each(|link| {
            link.rules.hold = [true, true];
            link.cut_side(UP, Cut::Rst);
        });
    });
    tunnel.relay().with(|links| links.links.iter_mut().for_each(|link| link.rules.hold = [true, true]));
    tunnel.client().wait_for_count("connected to", 2);
    let gone = tunnel.server.wait_for("is gone: ");
    assert!(gone.contains("replaced by a newer connection of the same client"), "{gone}");
    assert_eq!(read_out(&mut user).1, Ending::Reset);
    converse(&mut tunnel.user(), b"after");
}

#[test]
fn another_client_with_the_same_key_is_a_second_one() {
    let tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"before");
    let second = common::Process::skyorg(
        &[
            "client",
            "--server",
            &tunnel.control.to_string(),
            "--local",
            &echo_server().to_string(),
            "--key",
            &tunnel.key,
        ],
        None,
    );
    second.wait_for("connected to");
    for _ in 0..10 {
        converse(&mut tunnel.user(), b"either");
    }
    converse(&mut user, b"still there");
    // Clients take turns, so the second one had its share.
    drop(user);
    second.wait_for_count(" user ", 2);
}

#[test]
fn a_replayed_control_connection_neither_gets_in_nor_evicts() {
    let tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"before");
    let recorded = tunnel.control_relay().with(|links| links.links[0].recorded.clone());
    const FIRST_FLIGHT_BYTES: usize = 80;
    assert!(recorded.len() > FIRST_FLIGHT_BYTES, "the hello is recorded, too");
    let since = Instant::now();
    // The first flight alone, and with the records that followed it.
    let mut replays = [connect(tunnel.control), connect(tunnel.control)];
    replays[0].write_all(&recorded[..FIRST_FLIGHT_BYTES]).expect("writes");
    replays[1].write_all(&recorded).expect("writes");
    for replay in &mut replays {
        let mut answer = Vec::new();
        let _ = replay.read_to_end(&mut answer);
        // A flight that proves the key gets the server's 48 bytes of the handshake, and these tell nothing.
        assert!(answer.len() <= 48, "{} bytes", answer.len());
    }
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    converse(&mut user, b"still there");
    converse(&mut tunnel.user(), b"and served");
    let lines = tunnel.server.lines();
    assert_eq!(lines.iter().filter(|line| line.contains(" connected from ")).count(), 1);
    assert!(!lines.iter().any(|line| line.contains(" is gone: ")));
}

#[test]
fn a_replayed_message_connection_gets_no_byte() {
    let tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    tunnel.relay().wait_for_pool(POOL);
    let recorded: Vec<Vec<u8>> =
        tunnel.relay().with(|links| links.links.iter().map(|link: &Link| link.recorded.clone()).collect());
    let mut replays: Vec<TcpStream> = recorded.iter().map(|_| connect(tunnel.message)).collect();
    for (replay, bytes) in replays.iter_mut().zip(&recorded) {
        replay.write_all(bytes).expect("writes");
    }
    for replay in &mut replays {
        let mut answer = Vec::new();
        let _ = replay.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    converse(&mut tunnel.user(), b"served");
}

#[test]
fn at_rest_nothing_happens() {
    // So long a heartbeat leaves windows in which no connection has to show that it lives.
    let mut tunnel = Setup::new(Mode::Sealed)
        .server(&["--heartbeat", "60"])
        .client(&["--heartbeat", "60"])
        .start(echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"a session that is silent from now on");
    converse(&mut tunnel.user(), b"and one that has ended");
    let counts = |tunnel: &mut Tunnel| {
        let client = tunnel.client();
        let (client_ticks, client_wake_ups) = (client.ticks(), client.wake_ups());
        [client_ticks, client_wake_ups, tunnel.server.ticks(), tunnel.server.wake_ups()]
    };
    // The first window may see the last work of the start, and any window may see a heartbeat.
    let quiet = (0..4).any(|_| {
        let before = counts(&mut tunnel);
        measure(Duration::from_secs(3));
        let after = counts(&mut tunnel);
        before.iter().zip(&after).all(|(before, after)| after - before <= 2)
    });
    assert!(quiet, "more than two wake-ups in each of four windows of three seconds");
    converse(&mut user, b"it is still there");
}

#[test]
fn a_client_that_cannot_reach_the_message_port_brings_its_connections_to_the_control_port() {
    let (_socket, nowhere) = common::closed_port();
    let setup = Setup::new(Mode::Sealed).client(&["--message", &nowhere.to_string()]);
    let mut tunnel = setup.start(echo_server());
    let control = tunnel.control;
    tunnel.client().wait_for(&format!("message connection to {nowhere}: could not connect"));
    tunnel.client().wait_for(&format!("message connections come through at {control} now"));
    for _ in 0..3 * POOL {
        converse(&mut tunnel.user(), b"served");
    }
}

#[test]
fn a_client_that_reaches_no_port_for_message_connections_says_so_on_both_sides_as_long_as_it_lasts() {
    let mut tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    converse(&mut tunnel.user(), b"before");
    let relays = tunnel.relays.as_ref().expect("started with relays");
    let (_sockets, nowhere): (Vec<_>, Vec<_>) = (0..2).map(|_| common::closed_port()).unzip();
    // What stands goes on; what is dialled from now on finds nobody.
    relays.message.lead_to(nowhere[0]);
    relays.control.lead_to(nowhere[1]);
    relays.message.with(|links| links.links.iter_mut().for_each(|link| link.cut(Cut::Rst)));
    tunnel.client().wait_for_count("is that port reachable from here?", 2);
    tunnel.server.wait_for("message connections that it was asked for; can it reach the message port?");
}
