//! Ports that are blocked for a while, in a network of our own: packets are rejected or dropped by nft(8). Users who come
//! meanwhile are served, and service is back within a second of the port.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::own_network::{in_own_network, is_installed};
use common::{Mode, PATIENCE, Setup, Tunnel, converse, echo, echo_server, measure};

const USERS: usize = 30;
/// In a test's program other processes take time as well.
const SLACK: Duration = Duration::from_millis(500);

/// Ways in which packets to a port are blocked.
const WAYS: [&str; 3] = ["reject", "reject with tcp reset", "drop"];

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("it reads");
    assert!(nft.wait().expect("it ends").success(), "{rules}");
}

/// No connection to these ports can be made from now on.
fn block(ports: &[SocketAddr], way: &str) {
    let rule = |port: &SocketAddr| format!("tcp dport {} tcp flags & (syn|ack) == syn {way};", port.port());
    let rules: String = ports.iter().map(rule).collect();
    nft(&format!("table inet blocked {{ chain input {{ type filter hook input priority 0; {rules} }}\n}}\n"));
}

fn unblock() {
    nft("delete table inet blocked");
}

/// Runs a test in a network of its own, where nft works.
fn blocks_in_own_network(test: &str) -> bool {
    let has_nft = is_installed("nft", &["--version"]);
    let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
    assert!(has_nft || !required, "nft is not installed");
    has_nft && in_own_network(test)
}

/// A user that was served.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// How long it had waited.
    waited: Duration,
    /// When it heard its word.
    at: Instant,
}

/// A user that comes now, says something and hears it again. `None` if it was lost.
fn user(at: SocketAddr) -> thread::JoinHandle<Option<Served>> {
    thread::spawn(move || {
        let since = Instant::now();
        let mut stream = TcpStream::connect(at).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"hello").ok()?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).ok()?;
        let served = Served { waited: since.elapsed(), at: Instant::now() };
        // It stays, so that its message connection serves nobody else.
        measure(Duration::from_secs(1));
        Some(served)
    })
}

/// Users who come all the time of a block; what each waited.
fn users(tunnel: &Tunnel, count: usize, time: Duration) -> Vec<Option<Served>> {
    let users: Vec<_> = (0..count)
        .map(|_| {
            let user = user(tunnel.users);
            measure(time / count as u32);
            user
        })
        .collect();
    users.into_iter().map(|user| user.join().expect("it does not panic")).collect()
}

#[test]
fn users_who_come_while_the_message_port_is_blocked_are_served_by_the_control_port() {
    if !blocks_in_own_network(
        "users_who_come_while_the_message_port_is_blocked_are_served_by_the_control_port",
    ) {
        return;
    }
    for way in WAYS {
        for time in [Duration::from_millis(800), Duration::from_secs(5)] {
            let tunnel = Tunnel::start(Mode::Sealed, echo_server());
            converse(&mut tunnel.user(), b"before");
            block(&[tunnel.message], way);
            let waited = users(&tunnel, USERS, time);
            unblock();
            let most = waited.iter().map(|it| it.map_or(PATIENCE, |it| it.waited)).max().expect("users came");
            println!("{way} for {time:?}: the slowest waited {most:?}");
            assert!(waited.iter().all(Option::is_some), "{way} for {time:?}: {waited:?}");
            assert!(most <= Duration::from_secs(1) + SLACK, "{way} for {time:?}: {waited:?}");
        }
    }
}

#[test]
fn service_is_back_within_a_second_of_the_ports_where_both_were_blocked() {
    if !blocks_in_own_network("service_is_back_within_a_second_of_the_ports_where_both_were_blocked") {
        return;
    }
    for way in WAYS {
        // Tickets live for ten seconds.
        for time in [Duration::from_millis(800), Duration::from_secs(3), Duration::from_secs(13)] {
            let tunnel = Setup::new(Mode::Sealed).server(&["--pool", "2"]).start(echo_server());
            converse(&mut tunnel.user(), b"before");
            block(&[tunnel.message, tunnel.control], way);
            let early: Vec<_> = (0..USERS).map(|_| user(tunnel.users)).collect();
            measure(time);
            // Those are lost that have waited as long as a user may.
            let late: Vec<_> = (0..USERS).map(|_| user(tunnel.users)).collect();
            unblock();
            // Packets pass before nft(8) ends, and so some users may be served before this.
            let since = Instant::now();
            let served = |users: Vec<thread::JoinHandle<Option<Served>>>| {
                users.into_iter().map(|user| user.join().expect("it does not panic")).collect::<Vec<_>>()
            };
            let late = served(late);
            assert!(late.iter().all(Option::is_some), "{way} for {time:?}: {late:?}");
            let last = late.iter().flatten().map(|user| user.at).max().expect("users came");
            let back = last.saturating_duration_since(since);
            println!("{way} for {time:?}: service is back after {back:?}");
            assert!(back <= Duration::from_secs(1) + SLACK, "{way} for {time:?}: {late:?}");
            let early = served(early);
            assert!(
                time > Duration::from_secs(5) || early.iter().all(Option::is_some),
                "{way}, {time:?}: {early:?}"
            );
        }
    }
}

/// The kernel alone would dial again 16 s after its fourth attempt.
#[test]
fn service_is_back_within_a_second_of_a_control_port_that_was_silent_while_sessions_ran() {
    let test = "service_is_back_within_a_second_of_a_control_port_that_was_silent_while_sessions_ran";
    if !blocks_in_own_network(test) {
        return;
    }
    for time in [Duration::from_secs(6), Duration::from_secs(20)] {
        let setup = Setup::new(Mode::Sealed).client(&["--heartbeat", "2"]);
        let mut tunnel = setup.start(echo_server());
        let mut session = tunnel.user();
        converse(&mut session, b"before");
        let port = tunnel.control.port();
        nft(&format!(
            "table inet blocked {{ chain input {{ type filter hook input priority 0; \
             tcp dport {port} drop; tcp sport {port} drop;\n}}\n}}\n"
        ));
        measure(time);
        unblock();
        let since = Instant::now();
        converse(&mut tunnel.user(), b"after");
        let back = since.elapsed();
        println!("silent for {time:?}: service is back after {back:?}");
        assert!(back <= Duration::from_secs(1) + SLACK, "silent for {time:?}: {back:?}");
        let client = tunnel.client();
        let words = ["heartbeat lost", "has been silent for", "heard again"];
        let is_told = |line: &String| words.iter().any(|words| line.contains(words));
        client.wait_until("the link ends, or goes on", || client.lines().iter().any(is_told));
    }
}

#[test]
fn of_two_addresses_of_a_local_server_the_silent_one_delays_the_first_user_alone() {
    if !blocks_in_own_network("of_two_addresses_of_a_local_server_the_silent_one_delays_the_first_user_alone")
    {
        return;
    }
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return println!("skipped: no IPv6 here");
    };
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || listener.incoming().flatten().for_each(echo));
    nft(&format!(
        "table inet silent {{ chain input {{ type filter hook input priority 0; \
         ip daddr 127.0.0.1 tcp dport {port} drop;\n}}\n}}\n"
    ));
    // Its first address is the silent one.
    let tunnel = Setup::new(Mode::Sealed).start_named(&format!("localhost:{port}"));
    let waited = [(); 5].map(|()| {
        let since = Instant::now();
        converse(&mut tunnel.user(), b"hello");
        since.elapsed()
    });
    println!("users waited {waited:?}");
    let delay = Duration::from_millis(250);
    assert!((delay..delay + SLACK).contains(&waited[0]), "{waited:?}");
    assert!(waited[1..].iter().filter(|&&wait| wait < delay).count() >= 3, "{waited:?}");
}

#[test]
fn a_message_port_that_accepts_and_never_answers_leaves_the_control_port_at_the_first_start() {
    // Its queue takes connections, and nobody accepts them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let mut tunnel = Setup::new(Mode::Sealed).client(&["--message", &address]).start(echo_server());
    let since = Instant::now();
    converse(&mut tunnel.user(), b"served");
    assert!(since.elapsed() <= Duration::from_secs(1) + SLACK, "{:?}", since.elapsed());
    tunnel.client().wait_for("message connections come through at");
}

#[test]
fn a_name_for_message_connections_that_does_not_exist_leaves_the_control_port() {
    let mut tunnel =
        Setup::new(Mode::Sealed).client(&["--message", "nowhere.invalid:1"]).start(echo_server());
    converse(&mut tunnel.user(), b"served");
    tunnel.client().wait_for("nowhere.invalid");
}
