//! At their limits the processes live, serve as many as fit, and are whole again when room comes.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Ending, MODES, Mode, Setup, converse, echo_server, measure, read_out, serve, try_converse};

const USERS: usize = 200;
/// Users that fit beside the pool, strangers, listeners and a reserve, with some room for other divisions.
const FIT: usize = 20;

/// How many of these users have been answered by now.
fn answered(users: &mut [TcpStream]) -> usize {
    let got_answer = |user: &mut &mut TcpStream| {
        user.set_nonblocking(true).expect("an open socket");
        matches!(user.peek(&mut [0; 1]), Ok(1))
    };
    users.iter_mut().filter_map(|mut user| got_answer(&mut user).then_some(())).count()
}

#[test]
fn a_hundred_descriptors_and_two_hundred_users() {
    for mode in MODES {
        let mut tunnel = Setup::new(mode).descriptors(100).start(echo_server());
        let mut users: Vec<TcpStream> = (0..USERS).map(|_| tunnel.user()).collect();
        for user in &mut users {
            user.write_all(b"!").expect("writes");
        }
        // It is stuck for as long as a user may wait, and longer; meanwhile it does not spin.
        tunnel.server.wait_until("as many as fit are served", || answered(&mut users) >= FIT);
        let before = [tunnel.server.ticks(), tunnel.client().ticks()];
        measure(Duration::from_secs(2));
        let after = [tunnel.server.ticks(), tunnel.client().ticks()];
        for (before, after) in before.iter().zip(after) {
            assert!(after - before <= 20, "{mode:?}: {} ticks in two seconds", after - before);
        }
        // No user is answered and then forgotten, and none is turned away by a clean end.
        for user in &mut users {
            match user.read(&mut [0; 2]) {
                Ok(1) => {}
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset].contains(&error.kind()) => {
                }
                other => panic!("{mode:?}: {other:?}"),
            }
        }
        drop(users);
        let since = Instant::now();
        converse(&mut tunnel.user(), b"whole again");
        assert!(since.elapsed() < Duration::from_secs(1), "{mode:?}: {:?}", since.elapsed());
        assert!(tunnel.server.is_running() && tunnel.client().is_running());
    }
}

#[test]
fn the_bytes_of_a_stuck_crowd_arrive_when_it_is_their_turn() {
    let tunnel = Setup::new(Mode::Sealed).server(&["--max-users", "5"]).start(echo_server());
    let mut users: Vec<TcpStream> = (0..20).map(|_| tunnel.user()).collect();
    for (number, user) in users.iter_mut().enumerate() {
        user.write_all(&[number as u8]).expect("writes");
    }
    // Each user that is served leaves, and makes room for the next.
    for (number, mut user) in users.into_iter().enumerate() {
        let mut answer = [0];
        user.read_exact(&mut answer).expect("an answer");
        assert_eq!(usize::from(answer[0]), number);
    }
}

#[test]
fn users_beyond_the_most_allowed_are_reset_when_they_have_waited() {
    let tunnel = Setup::new(Mode::Sealed).server(&["--max-users", "2"]).start(echo_server());
    let mut served = [tunnel.user(), tunnel.user()];
    for user in &mut served {
        converse(user, b"served");
    }
    let since = Instant::now();
    let mut beyond = [tunnel.user(), tunnel.user(), tunnel.user()];
    for user in &mut beyond {
        assert_eq!(read_out(user), (Vec::new(), Ending::Reset));
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    for user in &mut served {
        converse(user, b"still there");
    }
}

#[test]
fn users_who_do_not_read_keep_nobody_else_waiting() {
    for mode in MODES {
        // A user that says "pour" gets more than any buffer holds.
        let local = serve(|mut stream| {
            let mut word = [0; 4];
            while stream.read_exact(&mut word).is_ok() {
                if word == *b"pour" {
                    let _ = stream.write_all(&vec![0; 32 * 1024 * 1024]);
                } else if stream.write_all(&word).is_err() {
                    return;
                }
            }
        });
        let tunnel = Setup::new(mode).start(local);
        let mut pouring: Vec<TcpStream> = (0..20).map(|_| tunnel.user()).collect();
        for user in &mut pouring {
            user.write_all(b"pour").expect("writes");
        }
        for _ in 0..50 {
            converse(&mut tunnel.user(), b"word");
        }
        // The bytes that were poured are there for a user that reads at last.
        let mut user = pouring.pop().expect("one of twenty");
        let mut poured = vec![0; 32 * 1024 * 1024];
        user.read_exact(&mut poured).expect("all of it");
        drop(pouring);
        assert!(try_converse(&mut tunnel.user(), b"more").is_ok());
    }
}
