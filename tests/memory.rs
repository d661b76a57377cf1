//! What sessions cost in memory of the two processes: little while they are idle, nothing that adds up, and not
//! much while their users do not read. Measured from outside, on the real program.
//!
//! Sizes do not depend on the profile that the program was built in.

mod pair;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use pair::{PATIENCE, Pair, raise_descriptor_limit};
use rustix::process::{Pid, Signal, kill_process};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Sessions that have spoken once and are idle.
const IDLE_SESSIONS: usize = 2_000;
/// Sessions that are there before what they hold is measured.
const FIRST_SESSIONS: usize = 40;
/// What a burst needed is given back within this time.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);
/// Users that do not read.
const STALLED_USERS: usize = 100;
/// A session stalls when nothing has moved for this long.
const STANDSTILL: Duration = Duration::from_millis(500);
const MESSAGE: &[u8; 64] = &[b'm'; 64];

/// A listener of a local server.
fn local_server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// A local server that echoes one message per session, and hands the session out.
fn start_echo(listener: TcpListener) -> Receiver<Arc<TcpStream>> {
    let (sender, sessions) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let stream = Arc::new(listener.accept().expect("a session").0);
            let mut message = [0; MESSAGE.len()];
            if (&*stream).read_exact(&mut message).is_err() {
                continue;
            }
            // Before the answer: a user that was answered may end its session.
            if sender.send(stream.clone()).is_err() {
                return;
            }
            let _ = (&*stream).write_all(&message);
        }
    });
    sessions
}

/// A user that has spoken once and was answered. On a machine that is starved a session may be accepted too late,
/// and the user is reset. It then comes again.
fn speak(request: SocketAddr) -> TcpStream {
    for _ in 0..10 {
        let mut user = TcpStream::connect(request).expect("the server listens");
        user.set_read_timeout(Some(PATIENCE)).expect("a time");
        let mut message = [0; MESSAGE.len()];
        match user.write_all(MESSAGE).and_then(|()| user.read_exact(&mut message)) {
            Ok(()) => {
                assert_eq!(message, *MESSAGE);
                return user;
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
    panic!("ten users were reset");
}

fn idle_sessions_hold_less_than(limit_bytes: usize, arguments: &[&str]) {
    raise_descriptor_limit();
    let (listener, local) = local_server();
    let pair = Pair::start(local, arguments);
    let sessions = start_echo(listener);
    // What the first ones take is not what each takes.
    let first: Vec<TcpStream> = (0..FIRST_SESSIONS).map(|_| speak(pair.request)).collect();
    let first = (first, sessions.try_iter().collect::<Vec<_>>());
    let before = pair.anonymous_bytes();
    let mut held = Vec::new();
    for _ in 0..3 {
        let users: Vec<TcpStream> = (0..IDLE_SESSIONS).map(|_| speak(pair.request)).collect();
        let (server, client) = (pair.server.anonymous_bytes(), pair.client.anonymous_bytes());
        held.push(server + client - before);
        println!("{arguments:?}: server {} KiB, client {} KiB", server / KIB, client / KIB);
        sessions.try_iter().for_each(drop);
        for mut user in users {
            assert_eq!(user.read(&mut [0]).expect("a clean end"), 0);
        }
    }
    let per_session = held[0] / IDLE_SESSIONS;
    println!("{arguments:?}: {per_session} bytes per idle session, both ends together; rounds {held:?}");
    assert!(per_session < limit_bytes, "{per_session} bytes per idle session");
    drop(first);
    assert!(held[2] < held[0] + held[0] / 4, "memory grows with every round: {held:?}");
}

#[test]
fn an_idle_session_holds_less_than_one_kib_plain() {
    idle_sessions_hold_less_than(KIB, &["--plain"]);
}

#[test]
fn an_idle_session_holds_less_than_four_kib_sealed() {
    idle_sessions_hold_less_than(4 * KIB, &[]);
}

/// Users that come all together, speak once and stay: what they needed on the way is given back soon after, though
/// none of them has left.
fn a_burst_leaves_less_than(limit_bytes: usize, arguments: &[&str]) {
    raise_descriptor_limit();
    let (listener, local) = local_server();
    let pair = Pair::start(local, arguments);
    let sessions = start_echo(listener);
    let first = speak(pair.request);
    let before = pair.anonymous_bytes();
    // All are connected before any is answered, because the client is stopped meanwhile.
    let client = Pid::from_raw(pair.client.id() as i32).expect("a process");
    kill_process(client, Signal::STOP).expect("it lives");
    let connect = |_| {
        let mut user = TcpStream::connect(pair.request).expect("the server listens");
        user.set_read_timeout(Some(PATIENCE)).expect("a time");
        user.write_all(MESSAGE).expect("taken");
        user
    };
    let mut users: Vec<TcpStream> = (0..IDLE_SESSIONS).map(connect).collect();
    kill_process(client, Signal::CONT).expect("it lives");
    for user in &mut users {
        let mut message = [0; MESSAGE.len()];
        user.read_exact(&mut message).expect("the answer, in time");
        assert_eq!(message, *MESSAGE);
    }
    let over = Instant::now();
    let mut per_session = usize::MAX;
    while per_session >= limit_bytes && over.elapsed() < GIVEN_BACK_WITHIN {
        thread::sleep(Duration::from_millis(100)); // paces: what both hold is looked at again
        per_session = pair.anonymous_bytes().saturating_sub(before) / IDLE_SESSIONS;
    }
    println!(
        "{arguments:?}: {per_session} bytes per session {} ms after a burst",
        over.elapsed().as_millis()
    );
    assert!(per_session < limit_bytes, "{per_session} bytes per session");
    drop((first, users, sessions));
}

#[test]
fn a_burst_leaves_less_than_one_and_a_quarter_kib_plain() {
    a_burst_leaves_less_than(5 * KIB / 4, &["--plain"]);
}

#[test]
fn a_burst_leaves_less_than_four_and_a_half_kib_sealed() {
    a_burst_leaves_less_than(9 * KIB / 2, &[]);
}

/// Writes into all sessions until none has taken a byte for a while; returns how many bytes they took.
fn pour(sessions: &mut [TcpStream]) -> usize {
    let bytes = [0; 64 * KIB];
    let (mut poured, mut moved, began) = (0, Instant::now(), Instant::now());
    while moved.elapsed() < STANDSTILL {
        assert!(began.elapsed() < PATIENCE, "it never stands still");
        for stream in sessions.iter_mut() {
            match stream.write(&bytes) {
                Ok(count) => {
                    poured += count;
                    moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("a stalled session broke: {error}"),
            }
        }
        thread::sleep(Duration::from_millis(1)); // paces: the sockets are polled
    }
    poured
}

fn stalled_users_hold_less_than(limit_bytes: usize, arguments: &[&str]) {
    raise_descriptor_limit();
    let (listener, local) = local_server();
    let pair = Pair::start(local, arguments);
    let accept = |_| {
        let user = TcpStream::connect(pair.request).expect("the server listens");
        let (session, _) = listener.accept().expect("its session");
        session.set_nonblocking(true).expect("a socket");
        (user, session)
    };
    let before = pair.anonymous_bytes();
    let (users, mut sessions): (Vec<TcpStream>, Vec<TcpStream>) = (0..STALLED_USERS).map(accept).unzip();
    let poured = pour(&mut sessions);
    let held = pair.anonymous_bytes() - before;
    println!(
        "{arguments:?}: {} KiB held for {STALLED_USERS} stalled users, {} KiB poured per user",
        held / KIB,
        poured / STALLED_USERS / KIB
    );
    assert!(held < limit_bytes, "{held} bytes");

    // When the users read at last, every byte comes. All read at once: a kernel short of TCP memory drops what a
    // full receiver is sent (`TcpExtTCPRcvQDrop`), and its sender tries again after twice the time each time. A user
    // that reads after all others would wait for as long as they took.
    sessions.iter().for_each(|session| session.shutdown(Shutdown::Write).expect("connected"));
    let read_all = |mut user: TcpStream| {
        user.set_read_timeout(Some(PATIENCE)).expect("a time");
        io::copy(&mut user, &mut io::sink()).expect("a clean end, in time") as usize
    };
    let readers: Vec<_> = users.into_iter().map(|user| thread::spawn(move || read_all(user))).collect();
    let read: usize = readers.into_iter().map(|reader| reader.join().expect("it read to the end")).sum();
    assert_eq!(read, poured);
}

#[test]
fn users_who_do_not_read_hold_less_than_sixteen_mib_plain() {
    stalled_users_hold_less_than(16 * MIB, &["--plain"]);
}

#[test]
fn users_who_do_not_read_hold_less_than_sixteen_mib_sealed() {
    stalled_users_hold_less_than(16 * MIB, &[]);
}
