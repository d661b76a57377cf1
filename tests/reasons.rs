//! Why a session ended: the logs of both ends give one event the same number and the same words.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use common::{MODES, Mode, Process, Records, Tunnel, converse, echo, echo_server, reset, serve};
use rustix::process::Signal;

/// The number of a user and why its session ended, by one end's line about it.
fn told(process: &Process, user: SocketAddr) -> (String, String) {
    let line = process.wait_for(&format!(" user {user} of default"));
    let (_, line) = line.split_once("] ").expect("a level");
    let number = line.trim().split(' ').next().expect("a number").to_owned();
    assert!(number.starts_with('#'), "{line}");
    (number, line.rsplit(" s, ").next().expect("a reason").to_owned())
}

/// Both ends say the same.
fn told_alike(tunnel: &mut Tunnel, user: SocketAddr) -> String {
    let (number, reason) = told(&tunnel.server, user);
    assert_eq!(told(tunnel.client(), user), (number, reason.clone()));
    reason
}

fn address(user: &TcpStream) -> SocketAddr {
    user.local_addr().expect("connected")
}

#[test]
fn a_user_that_resets_is_told_as_such_at_both_ends() {
    for mode in MODES {
        let mut tunnel = Tunnel::start(mode, echo_server());
        let mut user = tunnel.user();
        converse(&mut user, b"hello");
        let from = address(&user);
        reset(user);
        assert_eq!(told_alike(&mut tunnel, from), "user reset", "{mode:?}");
        let user = tunnel.user();
        let from = address(&user);
        drop(user);
        assert_eq!(told_alike(&mut tunnel, from), "finished", "{mode:?}");
    }
}

#[test]
fn a_user_that_leaves_in_the_middle_of_a_download_is_told_as_such_at_both_ends() {
    for mode in MODES {
        let local = serve(|mut stream| while stream.write_all(&[7; 65_536]).is_ok() {});
        let mut tunnel = Tunnel::start(mode, local);
        for _ in 0..5 {
            let mut user = tunnel.user();
            user.read_exact(&mut [0; 1_000_000]).expect("the local server sends without end");
            let from = address(&user);
            drop(user);
            assert_eq!(told_alike(&mut tunnel, from), "user reset", "{mode:?}");
        }
    }
}

#[test]
fn a_local_server_that_resets_is_told_as_such_at_both_ends() {
    let local = serve(|mut stream| {
        let _ = stream.read_exact(&mut [0; 5]);
        reset(stream);
    });
    for mode in MODES {
        let mut tunnel = Tunnel::start(mode, local);
        let mut user = tunnel.user();
        user.write_all(b"hello").expect("accepted");
        assert_eq!(told_alike(&mut tunnel, address(&user)), "local server reset", "{mode:?}");
    }
}

#[test]
fn a_client_that_dies_is_a_lost_link_and_a_server_that_dies_has_ended_the_session() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    tunnel.client().kill();
    assert_eq!(told(&tunnel.server, address(&user)).1, "link lost");

    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    tunnel.server.kill();
    told_of_a_dead_server(tunnel.client(), address(&user));
}

#[test]
fn a_user_whose_client_s_key_is_removed_is_told_as_such_by_the_server() {
    let tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    let other = std::process::Command::new(common::SKYORG).args(["keygen", "other"]).output();
    std::fs::write(&tunnel.key, other.expect("it runs").stdout).expect("it is ours");
    tunnel.server.signal(Signal::HUP);
    assert_eq!(told(&tunnel.server, address(&user)).1, "key revoked");
}

/// Its connections break in any order, and the client cannot know more than the first of them tells.
fn told_of_a_dead_server(client: &Process, user: SocketAddr) {
    let reason = told(client, user).1;
    assert!(["ended by the server", "link lost"].contains(&&*reason), "{reason}");
}

#[test]
fn a_user_that_left_while_the_local_server_does_not_read_is_no_lost_link() {
    // Held and never read.
    let held = Records::new();
    let holder = held.clone();
    let local = serve(move |stream| holder.push(std::sync::Arc::new(stream)));
    let mut tunnel = Tunnel::start(Mode::Sealed, local);
    let mut user = tunnel.user();
    user.set_write_timeout(Some(std::time::Duration::from_millis(200))).expect("not zero");
    while user.write_all(&[7; 65_536]).is_ok() {}
    let from = address(&user);
    reset(user);
    assert_eq!(told(&tunnel.server, from).1, "user reset");
    assert_eq!(told(tunnel.client(), from).1, "ended by the server");
}

#[test]
fn a_network_that_is_silent_is_a_lost_link_at_both_ends() {
    let setup = common::Setup::new(Mode::Sealed).server(&["--heartbeat", "2"]).client(&["--heartbeat", "2"]);
    let mut tunnel = setup.relayed().start(serve(echo));
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    for relay in [tunnel.control_relay(), tunnel.relay()] {
        relay.with(|links| links.links.iter_mut().for_each(|link| link.rules.hold = [true, true]));
    }
    assert_eq!(told_alike(&mut tunnel, address(&user)), "link lost");
}

#[test]
fn a_server_that_ends_at_once_is_told_of_like_one_that_died() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    tunnel.server.signal(Signal::TERM);
    tunnel.server.wait_for("draining");
    tunnel.server.signal(Signal::TERM);
    assert!(tunnel.server.ended().success());
    told_of_a_dead_server(tunnel.client(), address(&user));
}
