//! TCP is carried whole: half-closes, servers that speak first, aborts as aborts, bytes intact. By the product, and by
//! the tokio version that it is measured against.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Ending, Mode, PATIENCE, Program, Records, Setup, Tunnel, closed_port, converse, echo, echo_server,
    finish_writing, read_out, read_pattern, reset, serve, serve_at, write_pattern,
};

/// Each program, on either wire: what the benchmark compares does the same work.
const WAYS: [(Program, Mode); 6] = [
    (Program::Skyorg, Mode::Sealed),
    (Program::Skyorg, Mode::Plain),
    (Program::Tokio("current"), Mode::Sealed),
    (Program::Tokio("current"), Mode::Plain),
    (Program::Tokio("multi"), Mode::Sealed),
    (Program::Tokio("multi"), Mode::Plain),
];

fn start((program, mode): (Program, Mode), local: SocketAddr) -> Tunnel {
    Setup::new(mode).program(program).start(local)
}

const REQUEST: &[u8] = b"a request";
const ANSWER: &[u8] = b"an answer that comes after the end of the request";

/// Bytes each way of the large transfer.
fn large_bytes() -> u64 {
    let asked = std::env::var("SKYORG_TEST_BYTES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(64 * 1024 * 1024)
}

/// What each session brought, and how it ended.
type Endings = Arc<Records<(Vec<u8>, Ending)>>;

/// A local server that only listens.
fn recording_server() -> (SocketAddr, Endings) {
    let records = Records::new();
    let to = records.clone();
    (serve(move |mut stream| to.push(read_out(&mut stream))), records)
}

#[test]
fn the_answer_comes_whole_after_the_user_has_finished_writing() {
    for way in WAYS {
        let local = serve(|mut stream| {
            let (request, ending) = read_out(&mut stream);
            assert_eq!((request.as_slice(), ending), (REQUEST, Ending::Clean));
            stream.write_all(ANSWER).expect("the other direction is open");
        });
        let tunnel = start(way, local);
        let mut user = tunnel.user();
        user.write_all(REQUEST).expect("writes");
        finish_writing(&user);
        assert_eq!(read_out(&mut user), (ANSWER.to_vec(), Ending::Clean), "{way:?}");
    }
}

#[test]
fn the_request_comes_whole_after_the_local_server_has_finished_writing() {
    for way in WAYS {
        let records = Records::new();
        let to = records.clone();
        let local = serve(move |mut stream| {
            stream.write_all(ANSWER).expect("writes");
            finish_writing(&stream);
            to.push(read_out(&mut stream));
        });
        let tunnel = start(way, local);
        let mut user = tunnel.user();
        assert_eq!(read_out(&mut user), (ANSWER.to_vec(), Ending::Clean), "{way:?}");
        user.write_all(REQUEST).expect("the other direction is open");
        drop(user);
        assert_eq!(records.wait(1), [(REQUEST.to_vec(), Ending::Clean)], "{way:?}");
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_by_a_silent_user() {
    for way in WAYS {
        let local = serve(|mut stream| {
            stream.write_all(b"220 ready\r\n").expect("writes");
            echo(stream);
        });
        let tunnel = start(way, local);
        let mut user = tunnel.user();
        let mut banner = [0; 11];
        user.read_exact(&mut banner).expect("a banner");
        assert_eq!(&banner, b"220 ready\r\n");
        converse(&mut user, b"EHLO");
    }
}

#[test]
fn a_session_without_a_byte_ends_clean_at_both_ends() {
    for way in WAYS {
        let (local, records) = recording_server();
        let tunnel = start(way, local);
        for count in 1..=20 {
            let mut user = tunnel.user();
            finish_writing(&user);
            assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean), "{way:?}");
            assert_eq!(records.wait(count)[count - 1], (Vec::new(), Ending::Clean), "{way:?}");
        }
        // And the other way round: a server that hangs up at once.
        let local = serve(drop);
        let tunnel = start(way, local);
        for _ in 0..20 {
            assert_eq!(read_out(&mut tunnel.user()), (Vec::new(), Ending::Clean), "{way:?}");
        }
    }
}

#[test]
fn large_streams_cross_each_other_intact_in_odd_pieces() {
    for way in WAYS {
        let count = large_bytes();
        let both = move |stream: &TcpStream, mine: u64, other: u64| {
            let (mut reader, mut writer) = (stream.try_clone().expect("clones"), stream);
            thread::scope(|scope| {
                scope.spawn(move || read_pattern(&mut reader, other, count));
                let mut clone = writer.try_clone().expect("clones");
                write_pattern(&mut clone, mine, count).expect("writes");
                writer.flush().expect("writes");
                finish_writing(writer);
            });
        };
        let done = Records::new();
        let to = done.clone();
        let local = serve(move |stream| {
            both(&stream, 1, 2);
            to.push(());
        });
        let tunnel = start(way, local);
        both(&tunnel.user(), 2, 1);
        done.wait(1);
    }
}

#[test]
fn many_users_at_once_get_their_own_bytes_back() {
    for way in WAYS {
        let tunnel = start(way, echo_server());
        thread::scope(|scope| {
            for seed in 0..100u64 {
                let stream = tunnel.user();
                scope.spawn(move || {
                    let mut writer = stream.try_clone().expect("clones");
                    let count = 50_000 + seed * 1_001;
                    let writing = thread::spawn(move || {
                        write_pattern(&mut writer, seed << 32, count).expect("writes");
                        finish_writing(&writer);
                    });
                    read_pattern(&mut { stream }, seed << 32, count);
                    writing.join().expect("writes");
                });
            }
        });
    }
}

#[test]
fn a_users_reset_reaches_the_local_server_as_a_reset() {
    for way in WAYS {
        let records = Records::new();
        let to = records.clone();
        let local = serve(move |mut stream| {
            let mut request = [0; REQUEST.len()];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(&request).expect("writes");
            to.push(read_out(&mut stream));
        });
        let tunnel = start(way, local);
        for count in 1..=10 {
            let mut user = tunnel.user();
            converse(&mut user, REQUEST);
            reset(user);
            assert_eq!(records.wait(count)[count - 1].1, Ending::Reset, "{way:?}");
        }
        // The connection that carried it is good for the next user.
        let mut user = tunnel.user();
        converse(&mut user, REQUEST);
    }
}

#[test]
fn a_users_reset_reaches_a_local_server_that_has_finished_writing() {
    for way in WAYS {
        let records = Records::new();
        let to = records.clone();
        let local = serve(move |mut stream| {
            stream.write_all(ANSWER).expect("writes");
            finish_writing(&stream);
            to.push(read_out(&mut stream).1);
        });
        let tunnel = start(way, local);
        let mut user = tunnel.user();
        assert_eq!(read_out(&mut user).1, Ending::Clean, "{way:?}");
        reset(user);
        assert_eq!(records.wait(1), [Ending::Reset], "{way:?}");
    }
}

#[test]
fn a_local_servers_reset_reaches_the_user_as_a_reset_after_the_bytes_before_it() {
    for way in WAYS {
        let local = serve(|mut stream| {
            write_pattern(&mut stream, 3, 16_000).expect("writes");
            reset(stream);
        });
        let tunnel = start(way, local);
        for _ in 0..20 {
            let (bytes, ending) = read_out(&mut tunnel.user());
            assert_eq!(ending, Ending::Reset, "{way:?}");
            assert_eq!(bytes.len(), 16_000, "{way:?}");
            assert!(common::Pattern::new(3).matches(&bytes), "{way:?}");
        }
    }
}

#[test]
fn a_local_servers_reset_reaches_a_user_who_has_finished_writing() {
    for way in WAYS {
        let local = serve(|mut stream| {
            assert_eq!(read_out(&mut stream).1, Ending::Clean);
            stream.write_all(ANSWER).expect("writes");
            reset(stream);
        });
        let tunnel = start(way, local);
        let mut user = tunnel.user();
        finish_writing(&user);
        assert_eq!(read_out(&mut user), (ANSWER.to_vec(), Ending::Reset), "{way:?}");
    }
}

#[test]
fn a_local_server_that_is_down_is_a_reset_within_a_second() {
    for way in WAYS {
        let (_socket, local) = closed_port();
        let tunnel = start(way, local);
        for _ in 0..5 {
            let mut user = tunnel.user();
            let since = Instant::now();
            let (bytes, ending) = read_out(&mut user);
            assert_eq!((bytes.len(), ending), (0, Ending::Reset), "{way:?}");
            assert!(since.elapsed() < Duration::from_secs(1), "{way:?}: {:?}", since.elapsed());
        }
    }
}

#[test]
fn a_local_server_is_found_by_name_and_at_either_family() {
    let v6 = serve_at("[::1]:0", echo);
    let v4 = serve_at("127.0.0.1:0", echo);
    // `localhost` may have both addresses, and each of these servers stands at one of them only.
    let named = [format!("localhost:{}", v4.port()), v6.to_string(), v4.to_string()];
    for local in named {
        let tunnel = Setup::new(Mode::Sealed).start_named(&local);
        for _ in 0..3 {
            converse(&mut tunnel.user(), local.as_bytes());
        }
    }
}

#[test]
fn a_name_that_leads_nowhere_is_a_reset_and_not_a_wait() {
    // RFC 6761, section 6.4: no name below `invalid` exists.
    let tunnel = Setup::new(Mode::Sealed).start_named("nobody.invalid:80");
    let since = Instant::now();
    assert_eq!(read_out(&mut tunnel.user()).1, Ending::Reset);
    assert!(since.elapsed() < PATIENCE);
}
