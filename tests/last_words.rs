//! Who breaks a session off has often said something before: that arrives, as it does over a direct connection.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::relay::{DOWN, Rules, UP};
use common::{MODES, Mode, Records, Setup, Tunnel, serve};

const USERS: usize = 40;
const UPLOAD_BYTES: usize = 20 * 1024 * 1024;
const ANSWER: &[u8; 73] =
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n\n";
const LAST: &[u8] = b"LAST";

/// A local server that reads a little of what a user sends, answers, and closes over the rest.
fn early_answers() -> SocketAddr {
    serve(|mut user| {
        user.read_exact(&mut [0; 4096]).expect("an upload");
        user.write_all(ANSWER).expect("it is small");
    })
}

/// Sends as much as is taken, and returns what came back.
fn upload(mut user: TcpStream) -> Vec<u8> {
    let chunk = [7; 64 * 1024];
    for _ in 0..UPLOAD_BYTES / chunk.len() {
        if user.write_all(&chunk).is_err() {
            break;
        }
    }
    read_all(&mut user)
}

/// What can be read up to the end, however that comes.
fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let (mut read, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        read.extend(&buffer[..count]);
    }
    read
}

fn answered(tunnel: &Tunnel) -> usize {
    (0..USERS).filter(|_| upload(tunnel.user()) == ANSWER).count()
}

#[test]
fn an_answer_that_comes_before_the_upload_is_over_arrives() {
    for mode in MODES {
        let tunnel = Tunnel::start(mode, early_answers());
        assert_eq!(answered(&tunnel), USERS, "{mode:?}");
    }
}

/// Bytes a second of a slow line, and users who share none of it: each has a connection of its own.
const SLOW: u32 = 1024 * 1024;
const SLOW_USERS: usize = 6;

/// A tunnel whose message connections are slow one way.
fn slow_tunnel(mode: Mode, way: usize, local: SocketAddr) -> Tunnel {
    let tunnel = Setup::new(mode).relayed().start(local);
    tunnel.relay().wait_for_pool(10);
    let mut rules = Rules::default();
    rules.rate[way] = Some(SLOW);
    tunnel.relay().with(move |links| {
        links.rules = rules;
        links.links.iter_mut().for_each(|link| link.rules = rules);
    });
    tunnel
}

#[test]
fn an_early_answer_arrives_while_the_upload_stands_in_a_slow_line() {
    for mode in MODES {
        let tunnel = slow_tunnel(mode, DOWN, early_answers());
        let users: Vec<_> = (0..SLOW_USERS).map(|_| tunnel.user()).collect();
        let uploads: Vec<_> = users.into_iter().map(|user| thread::spawn(|| upload(user))).collect();
        for answered in uploads {
            assert_eq!(answered.join().expect("it reads"), ANSWER, "{mode:?}");
        }
    }
}

/// A local server that pours until it cannot, and records the last bytes that each user sent.
fn pouring() -> (SocketAddr, Arc<Records<Vec<u8>>>) {
    let records = Records::new();
    let to = records.clone();
    let local = serve(move |mut user| {
        while user.write_all(&[9; 64 * 1024]).is_ok() {}
        to.push(read_all(&mut user));
    });
    (local, records)
}

fn last_words_of_users(mode: Mode) {
    let (address, records) = pouring();
    let tunnel = Tunnel::start(mode, address);
    for _ in 0..USERS {
        let mut user = tunnel.user();
        user.read_exact(&mut [0; 256 * 1024]).expect("it pours");
        user.write_all(LAST).expect("it is small");
        // Closed with bytes unread: the kernel says RST.
        drop(user);
    }
    let heard = records.wait(USERS).into_iter().filter(|last| last == LAST).count();
    assert_eq!(heard, USERS, "{mode:?}");
}

#[test]
fn what_a_user_said_last_arrives_though_it_reads_no_more() {
    MODES.into_iter().for_each(last_words_of_users);
}

#[test]
fn what_a_user_said_last_arrives_though_a_slow_line_is_full_of_what_it_does_not_read() {
    for mode in MODES {
        let (address, records) = pouring();
        let tunnel = slow_tunnel(mode, UP, address);
        let users: Vec<_> = (0..SLOW_USERS).map(|_| tunnel.user()).collect();
        for mut user in users {
            user.read_exact(&mut [0; 256 * 1024]).expect("it pours");
            user.write_all(LAST).expect("it is small");
            drop(user);
        }
        let heard = records.wait(SLOW_USERS).into_iter().filter(|last| last == LAST).count();
        assert_eq!(heard, SLOW_USERS, "{mode:?}");
    }
}

/// A user that takes little at a time: most of an answer stands in the server's kernel when the local server breaks
/// the session off.
#[test]
fn what_was_read_from_a_local_server_reaches_a_slow_user_before_the_reset() {
    const ANSWER_BYTES: usize = 300 * 1024;
    for mode in MODES {
        let local = serve(|mut user| {
            user.read_exact(&mut [0]).expect("a request");
            user.write_all(&[5; ANSWER_BYTES]).expect("taken");
            user.read_exact(&mut [0]).expect("the user has a part of it");
            common::reset(user);
        });
        let tunnel = Tunnel::start(mode, local);
        // Little room, so that the server's kernel holds the rest.
        let user =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        user.set_recv_buffer_size(16 * 1024).expect("settable");
        user.connect(&tunnel.users.into()).expect("connects");
        let mut user = TcpStream::from(user);
        user.write_all(b"?").expect("it is small");
        let (mut read, mut told) = (0, false);
        let mut buffer = [0; 8 * 1024];
        while let Ok(count @ 1..) = user.read(&mut buffer) {
            read += count;
            // By now the client has read it all.
            if read > ANSWER_BYTES / 3 && !std::mem::replace(&mut told, true) {
                user.write_all(b"!").expect("it is small");
            }
            thread::sleep(Duration::from_millis(20)); // paces: a user that takes little at a time
        }
        assert_eq!(read, ANSWER_BYTES, "{mode:?}");
    }
}
