//! SIGTERM: running sessions finish and no new one begins. A second signal ends the process at once, and its sessions
//! never look whole; the log tells of each.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{
    Ending, MODES, Mode, Process, Records, Setup, Tunnel, converse, echo_server, finish_writing, read_out,
    serve,
};
use rustix::process::Signal;

#[test]
fn a_server_lets_running_sessions_finish_and_ends_well() {
    for mode in MODES {
        for signal in [Signal::TERM, Signal::INT] {
            let mut tunnel = Tunnel::start(mode, echo_server());
            let mut user = tunnel.user();
            converse(&mut user, b"before");
            tunnel.server.signal(signal);
            tunnel.server.wait_for("draining: 1 running sessions have up to 5 s to finish");
            tunnel.server.wait_until("no new user is taken", || TcpStream::connect(tunnel.users).is_err());
            converse(&mut user, b"after");
            finish_writing(&user);
            assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean), "{mode:?}");
            assert!(tunnel.server.ended().success(), "{mode:?}");
        }
    }
}

#[test]
fn an_open_session_stays_whole_through_a_restart_and_new_users_are_served_at_once() {
    for mode in MODES {
        let mut tunnel = Setup::new(mode).server(&["--drain", "30"]).start(echo_server());
        tunnel.outlive_a_sudden_drain();
        let mut user = tunnel.user();
        converse(&mut user, b"before");
        let (mut old, began) = tunnel.succeed_server();
        converse(&mut tunnel.user(), b"served by the new one");
        assert!(began.elapsed() < Duration::from_secs(1), "{mode:?}: {:?}", began.elapsed());
        let text = vec![7; 1_000_000];
        converse(&mut user, &text);
        finish_writing(&user);
        assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean), "{mode:?}");
        assert!(old.ended().success(), "{mode:?}");
        converse(&mut tunnel.user(), b"after");
    }
}

#[test]
fn users_in_the_queue_of_a_server_that_is_asked_to_end_are_served() {
    const USERS: usize = 200;
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    // It is stopped, so that all of them stand in the queue of its listener when it hears the signal.
    tunnel.server.signal(Signal::STOP);
    let mut users: Vec<TcpStream> = (0..USERS).map(|_| tunnel.user()).collect();
    users.iter_mut().for_each(|user| user.write_all(b"hello").expect("the kernel takes it"));
    tunnel.server.signal(Signal::TERM);
    tunnel.server.signal(Signal::CONT);
    for user in &mut users {
        let mut word = [0; 5];
        user.read_exact(&mut word).expect("it is served");
        assert_eq!(&word, b"hello");
        finish_writing(user);
        assert_eq!(read_out(user), (Vec::new(), Ending::Clean));
    }
    assert!(tunnel.server.ended().success());
}

#[test]
fn the_time_to_drain_is_an_option_of_both_sides() {
    let mut tunnel =
        Setup::new(Mode::Sealed).server(&["--drain", "0"]).client(&["--drain", "86400"]).start(echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"before");
    tunnel.client().signal(Signal::TERM);
    tunnel.client().wait_for("up to 86400 s to finish");
    tunnel.server.signal(Signal::TERM);
    assert_eq!(read_out(&mut user).1, Ending::Reset);
    assert!(tunnel.server.ended().success());
}

#[test]
fn a_server_without_users_ends_at_once() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    tunnel.server.signal(Signal::TERM);
    let status = tunnel.server.ended_within(Duration::from_secs(2));
    assert!(status.expect("it ends").success());
}

#[test]
fn a_client_lets_running_sessions_finish_and_ends_well() {
    for mode in MODES {
        let mut tunnel = Tunnel::start(mode, echo_server());
        let mut user = tunnel.user();
        converse(&mut user, b"before");
        tunnel.client().signal(Signal::TERM);
        tunnel.server.wait_for("is leaving");
        // A user that comes now waits for another client.
        let mut next = tunnel.user();
        converse(&mut user, b"after");
        finish_writing(&user);
        assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean), "{mode:?}");
        assert!(tunnel.client().ended().success(), "{mode:?}");
        tunnel.start_client();
        converse(&mut next, b"served by the next");
    }
}

#[test]
fn a_client_without_sessions_ends_at_once() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    converse(&mut tunnel.user(), b"before");
    tunnel.client().signal(Signal::TERM);
    let status = tunnel.client().ended_within(Duration::from_secs(2));
    assert!(status.expect("it ends").success());
}

#[test]
fn a_client_that_is_not_connected_ends_at_once() {
    let tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let (_socket, nowhere) = common::closed_port();
    let arguments = ["client", "--server", &nowhere.to_string(), "--local", "1", "--key", &tunnel.key];
    let mut client = Process::skyorg(&arguments, None);
    client.wait_for("trying again");
    client.signal(Signal::TERM);
    assert!(client.ended_within(Duration::from_secs(2)).expect("it ends").success());
}

/// A tunnel with one session, and how it ends at the local server.
fn with_session(mode: Mode) -> (Tunnel, TcpStream, std::sync::Arc<Records<Ending>>) {
    let ends = Records::new();
    let to = ends.clone();
    let local = serve(move |mut stream| {
        let mut word = [0; 5];
        stream.read_exact(&mut word).expect("a word");
        stream.write_all(&word).expect("writes");
        to.push(read_out(&mut stream).1);
    });
    let tunnel = Setup::new(mode).start(local);
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    (tunnel, user, ends)
}

#[test]
fn a_second_signal_ends_a_server_at_once_and_resets_both_ends() {
    for mode in MODES {
        let (mut tunnel, mut user, ends) = with_session(mode);
        let address = user.local_addr().expect("connected");
        tunnel.server.signal(Signal::TERM);
        tunnel.server.wait_for("draining");
        tunnel.server.signal(Signal::TERM);
        assert!(tunnel.server.ended_within(Duration::from_secs(2)).is_some(), "{mode:?}");
        assert_eq!(read_out(&mut user).1, Ending::Reset, "{mode:?}: the user");
        assert_eq!(ends.wait(1), [Ending::Reset], "{mode:?}: the local server");
        let line = tunnel.server.wait_for(&format!("user {address} of default: "));
        assert!(line.contains("5 bytes in, 5 bytes out") && line.ends_with("server ended"), "{line}");
    }
}

#[test]
fn a_second_signal_ends_a_client_at_once_and_resets_both_ends() {
    for mode in MODES {
        let (mut tunnel, mut user, ends) = with_session(mode);
        let address = user.local_addr().expect("connected");
        tunnel.client().signal(Signal::TERM);
        tunnel.client().wait_for("draining");
        tunnel.client().signal(Signal::TERM);
        assert!(tunnel.client().ended_within(Duration::from_secs(2)).is_some(), "{mode:?}");
        assert_eq!(read_out(&mut user).1, Ending::Reset, "{mode:?}: the user");
        assert_eq!(ends.wait(1), [Ending::Reset], "{mode:?}: the local server");
        let line = tunnel.client().wait_for(&format!("user {address} of default at "));
        assert!(line.contains("5 bytes in, 5 bytes out") && line.ends_with("client ended"), "{line}");
    }
}
