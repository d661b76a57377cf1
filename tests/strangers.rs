//! A stranger that has proved no key gets no byte, is closed in time, and keeps no other connection out.

mod common;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ending, Mode, Process, Setup, Tunnel, connect, converse, echo_server, read_out};
use rustix::process::Signal;

/// The time that a stranger may have, and a second for a machine that is busy.
const GONE_AFTER: Duration = Duration::from_secs(6);
const COUNT: usize = 400;

/// Waits for the end of a connection on which not a byte may come.
fn ends_without_a_byte(stream: &mut TcpStream, by: Instant) {
    let left = by.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).expect("not zero");
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Ok(count) => panic!("a stranger was told {count} bytes"),
        Err(error) => panic!("a stranger is still there: {error}"),
    }
}

#[test]
fn silent_slow_and_noisy_strangers_get_nothing_and_a_client_gets_in_beside_them() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    tunnel.client().kill();
    tunnel.server.wait_for("is gone");
    let ports = [tunnel.control, tunnel.message];
    let since = Instant::now();
    let mut strangers: Vec<TcpStream> = (0..COUNT).map(|number| connect(ports[number % 2])).collect();
    // A beginning that could become a hello, for the slow ones; and noise that cannot.
    let hello = b"SKYO\x01\x01\x01\x00";
    let noise: Vec<u8> =
        (0..2_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (number, stranger) in strangers.iter_mut().enumerate() {
        // Those that were evicted already may not take it.
        let _ = match number % 6 / 2 {
            0 => Ok(()),
            1 => stranger.write_all(&hello[..1]),
            _ => stranger.write_all(&noise),
        };
    }
    // A real client gets in beside them, while they are all there.
    let started = Instant::now();
    tunnel.start_client();
    converse(&mut tunnel.user(), b"beside strangers");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    for byte in &hello[1..] {
        for stranger in strangers.iter_mut().skip(2).step_by(6) {
            let _ = stranger.write_all(&[*byte]);
        }
    }
    for stranger in &mut strangers {
        ends_without_a_byte(stranger, since + GONE_AFTER);
    }
    converse(&mut tunnel.user(), b"after strangers");
}

/// Connects silently some 3,000 times a second until it is told to stop, at most for 20 seconds, and keeps the newest.
fn flood(ports: [SocketAddr; 2], stop: &AtomicBool) {
    let (began, mut kept) = (Instant::now(), VecDeque::new());
    while !stop.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(20) {
        for port in ports.iter().cycle().take(3) {
            kept.extend(TcpStream::connect(*port));
        }
        kept.drain(..kept.len().saturating_sub(600));
        thread::sleep(Duration::from_millis(1)); // paces: a flood of so many a second
    }
}

#[test]
fn twenty_clients_get_in_at_once_beside_a_flood_from_their_own_address() {
    const CLIENTS: usize = 20;
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    tunnel.client().kill();
    tunnel.server.wait_for("is gone");
    let (ports, stop) = ([tunnel.control, tunnel.message], AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| flood(ports, &stop));
        let (server, local) = (tunnel.control.to_string(), tunnel.local());
        let arguments = ["client", "--server", &server, "--local", &local, "--key", &tunnel.key];
        let clients: Vec<Process> = (0..CLIENTS).map(|_| Process::skyorg(&arguments, None)).collect();
        for client in &clients {
            client.wait_for("service default: users of port");
        }
        // As many users at once as there are connections in all pools.
        let since = Instant::now();
        let mut users: Vec<TcpStream> = (0..10 * CLIENTS).map(|_| tunnel.user()).collect();
        users.iter_mut().for_each(|user| converse(user, b"beside a flood"));
        let taken = since.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(taken < Duration::from_secs(4), "{taken:?}");
        for client in &clients {
            let lines = client.lines();
            assert!(lines.iter().all(|line| !line.contains("WARN")), "{lines:?}");
        }
    });
}

#[test]
fn a_recording_of_a_control_connection_gets_nothing() {
    let tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    let recorded = tunnel.control_relay().with(|links| links.links[0].recorded.clone());
    let since = Instant::now();
    let mut strangers: Vec<TcpStream> = (0..50).map(|_| connect(tunnel.control)).collect();
    strangers.iter_mut().for_each(|stranger| stranger.write_all(&recorded[..80]).expect("writes"));
    for stranger in &mut strangers {
        ends_without_a_byte(stranger, since + GONE_AFTER);
    }
    assert!(since.elapsed() >= Duration::from_secs(2), "its end tells nothing: {:?}", since.elapsed());
    converse(&mut tunnel.user(), b"served");
}

#[test]
fn a_stranger_who_speaks_the_protocol_gets_nothing() {
    let tunnel = Setup::new(Mode::Sealed).relayed().start(echo_server());
    let recorded = tunnel.control_relay().with(|links| links.links[0].recorded.clone());
    let flight = &recorded[..80];
    // Each has one thing wrong: magic, version, suite, purpose, key, proof; or is cut short.
    let mut flights: Vec<(SocketAddr, Vec<u8>)> = [0, 4, 5, 6, 8, 23, 24, 60, 79]
        .iter()
        .map(|&place| {
            let mut flight = flight.to_vec();
            flight[place] ^= 0x40;
            (tunnel.control, flight)
        })
        .collect();
    flights.extend([1, 24, 79].map(|count| (tunnel.control, flight[..count].to_vec())));
    // The right flight at the wrong port counts as a recording.
    flights.push((tunnel.control, flight[..40].to_vec()));
    let since = Instant::now();
    let mut strangers: Vec<TcpStream> = flights
        .iter()
        .map(|(port, flight)| {
            let mut stranger = connect(*port);
            stranger.write_all(flight).expect("writes");
            stranger
        })
        .collect();
    for stranger in &mut strangers {
        ends_without_a_byte(stranger, since + GONE_AFTER);
    }
    converse(&mut tunnel.user(), b"served");
}

#[test]
fn a_client_with_another_key_is_a_stranger_and_says_so() {
    let tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let keygen = std::process::Command::new(common::SKYORG).args(["keygen", "default"]).output();
    let other = tunnel.folder.file("other", keygen.expect("it runs").stdout);
    let client = Process::skyorg(
        &["client", "--server", &tunnel.control.to_string(), "--local", "1", "--key", &other],
        None,
    );
    let line = client.wait_for("did not answer the handshake");
    assert!(line.contains("compare the key lines on both sides"), "{line}");
    tunnel.server.wait_for("was not admitted: stranger: ");
    converse(&mut tunnel.user(), b"served");
}

#[test]
fn a_key_added_to_a_running_server_is_told_to_need_a_restart_beside_any_number_of_health_checks() {
    let tunnel = Tunnel::start(Mode::Sealed, echo_server());
    for number in 0..25 {
        let check = connect([tunnel.control, tunnel.message][number % 2]);
        if number % 3 == 0 {
            common::reset(check);
        }
    }
    let keygen = std::process::Command::new(common::SKYORG).args(["keygen", "added"]).output();
    let line = keygen.expect("it runs").stdout;
    let lines = [std::fs::read(&tunnel.key).expect("the server's keys"), line.clone()].concat();
    std::fs::write(&tunnel.key, lines).expect("it is ours");
    let added = tunnel.folder.file("added", line);
    let client = Process::skyorg(
        &["client", "--server", &tunnel.control.to_string(), "--local", "1", "--key", &added],
        None,
    );
    let line = client.wait_for("did not answer the handshake");
    assert!(line.contains("SIGHUP"), "{line}");
    let line = tunnel.server.wait_for("was not admitted: stranger: unknown key; ");
    assert!(line.contains("SIGHUP has the server read it again"), "{line}");
    let told = tunnel.server.lines().into_iter().filter(|line| line.contains("was not admitted"));
    assert_eq!(told.count(), 1, "health checks are no warnings");
    tunnel.server.signal(Signal::HUP);
    tunnel.server.wait_for("reloaded keys: ");
    client.wait_for(" connected to ");
}

#[test]
fn a_user_of_a_service_without_a_client_is_reset_in_time() {
    // No client at all.
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    tunnel.client().kill();
    tunnel.server.wait_for("is gone");
    let since = Instant::now();
    let mut user = tunnel.user();
    user.write_all(b"anybody?").expect("writes");
    assert_eq!(read_out(&mut user), (Vec::new(), Ending::Reset));
    assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
}
