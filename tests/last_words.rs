//! Who breaks a session off has often said something before: that arrives, as it does over a direct connection.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::{MODES, Mode, Records, Tunnel, serve};

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
