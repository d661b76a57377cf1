//! A stream that was cut never looks whole: whatever breaks between the two ends, both see RST.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::relay::{Cut, DOWN, UP};
use common::{
    Ending, MODES, Mode, Pattern, Records, Setup, Tunnel, converse, read_out, reset, serve, write_pattern,
};

/// How a session ended at the local server, and what it had got.
type Endings = Arc<Records<(Vec<u8>, Ending)>>;

/// What makes the local server finish its writing.
const HANG_UP: &[u8] = b"hang up!";

/// A local server that echoes one byte, and then listens to the end, or hangs up when it is told to.
fn listening_server() -> (SocketAddr, Endings) {
    let records = Records::new();
    let to = records.clone();
    let local = serve(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).expect("a first byte");
        stream.write_all(&first).expect("writes");
        let mut word = vec![0; HANG_UP.len()];
        match stream.peek(&mut word) {
            Ok(count) if word[..count] == *HANG_UP => {
                stream.read_exact(&mut word).expect("it is there");
                to.push((word, Ending::Clean));
            }
            // An error is told once; to read again would look like an end.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => to.push((Vec::new(), Ending::Reset)),
            _ => to.push(read_out(&mut stream)),
        }
    });
    (local, records)
}

/// A user whose session stands.
fn user_in_session(tunnel: &Tunnel) -> TcpStream {
    let mut user = tunnel.user();
    converse(&mut user, b"!");
    user
}

fn both_see_a_reset(user: &mut TcpStream, endings: &Endings) {
    assert_eq!(read_out(user).1, Ending::Reset, "the user");
    assert_eq!(endings.wait(1)[0].1, Ending::Reset, "the local server");
}

#[test]
fn a_message_connection_that_is_cut_is_a_reset_at_both_ends() {
    for mode in MODES {
        for how in [Cut::Rst, Cut::Fin] {
            let (local, endings) = listening_server();
            let tunnel = Setup::new(mode).relayed().start(local);
            let mut user = user_in_session(&tunnel);
            tunnel.relay().with(move |links| links.links.iter_mut().for_each(|link| link.cut(how)));
            both_see_a_reset(&mut user, &endings);
        }
    }
}

#[test]
fn one_end_of_a_message_connection_that_is_cut_is_a_reset_at_both_ends() {
    for mode in MODES {
        for side in [UP, DOWN] {
            let (local, endings) = listening_server();
            let tunnel = Setup::new(mode).relayed().start(local);
            let mut user = user_in_session(&tunnel);
            tunnel.relay().with(move |links| {
                links.links.iter_mut().for_each(|link| link.cut_side(side, Cut::Fin));
            });
            both_see_a_reset(&mut user, &endings);
        }
    }
}

#[test]
fn a_stream_that_is_cut_at_any_byte_is_a_reset_after_a_true_beginning() {
    for mode in MODES {
        // In the middle of a record's length, of its payload, and far inside a bulk transfer.
        for at in [1, 3, 700, 60_000] {
            for how in [Cut::Rst, Cut::Fin] {
                upload_is_cut(mode, at, how);
                download_is_cut(mode, at, how);
            }
        }
    }
}

/// Cuts every link `at` bytes after now, in one direction.
fn cut_after(tunnel: &Tunnel, way: usize, at: u64, how: Cut) {
    tunnel.relay().with(move |links| {
        for link in &mut links.links {
            link.rules.cut[way] = Some((link.passed(way) + at, how));
        }
    });
}

fn upload_is_cut(mode: Mode, at: u64, how: Cut) {
    let (local, endings) = listening_server();
    let tunnel = Setup::new(mode).relayed().start(local);
    let mut user = user_in_session(&tunnel);
    cut_after(&tunnel, DOWN, at, how);
    // The write fails where the cut is noticed. How many bytes went through does not matter.
    let _ = write_pattern(&mut user, 5, 200_000);
    assert_eq!(read_out_late(&mut user), Ending::Reset, "{mode:?} {at} {how:?}");
    let (bytes, ending) = endings.wait(1).remove(0);
    assert_eq!(ending, Ending::Reset, "{mode:?} {at} {how:?}");
    assert!(bytes.len() as u64 <= at && Pattern::new(5).matches(&bytes), "{mode:?} {at} {how:?}");
}

fn download_is_cut(mode: Mode, at: u64, how: Cut) {
    let endings = Records::new();
    let to = endings.clone();
    let local = serve(move |mut stream| {
        let mut first = [0];
        stream.read_exact(&mut first).expect("a first byte");
        stream.write_all(&first).expect("writes");
        stream.read_exact(&mut first).expect("a second byte");
        let _ = write_pattern(&mut stream, 6, 200_000);
        to.push(read_out_late(&mut stream));
    });
    let tunnel = Setup::new(mode).relayed().start(local);
    let mut user = user_in_session(&tunnel);
    cut_after(&tunnel, UP, at, how);
    user.write_all(b"?").expect("writes");
    let (bytes, ending) = read_out(&mut user);
    assert_eq!(ending, Ending::Reset, "{mode:?} {at} {how:?}");
    assert!(bytes.len() as u64 <= at && Pattern::new(6).matches(&bytes), "{mode:?} {at} {how:?}");
    assert_eq!(endings.wait(1), [Ending::Reset], "{mode:?} {at} {how:?}");
}

/// How a stream ends whose writing may have met the reset already: an error is told once.
fn read_out_late(stream: &mut TcpStream) -> Ending {
    match stream.write_all(b".") {
        Err(_) => Ending::Reset,
        Ok(()) => read_out(stream).1,
    }
}

#[test]
fn one_flipped_bit_is_a_reset_at_both_ends() {
    for way in [UP, DOWN] {
        let (local, endings) = listening_server();
        let tunnel = Setup::new(Mode::Sealed).relayed().start(local);
        let mut user = user_in_session(&tunnel);
        tunnel.relay().with(move |links| {
            for link in &mut links.links {
                // In the next record, behind its length.
                link.rules.flip[way] = Some(link.passed(way) + 20);
            }
        });
        if way == DOWN {
            user.write_all(b"these bytes do not arrive as they were sent").expect("writes");
        } else {
            // The next record up tells how the local server ended, and the user must not take it for true.
            user.write_all(HANG_UP).expect("writes");
        }
        assert_eq!(read_out(&mut user).1, Ending::Reset, "the user");
        let (bytes, ending) = endings.wait(1).remove(0);
        match way {
            // Nothing of a broken record is delivered.
            DOWN => assert_eq!((bytes.as_slice(), ending), (&b""[..], Ending::Reset)),
            _ => assert_eq!(bytes, HANG_UP),
        }
    }
}

#[test]
fn a_client_that_is_killed_is_a_reset_at_both_ends() {
    for mode in MODES {
        let (local, endings) = listening_server();
        let mut tunnel = Tunnel::start(mode, local);
        let mut user = user_in_session(&tunnel);
        tunnel.client().kill();
        both_see_a_reset(&mut user, &endings);
    }
}

#[test]
fn a_server_that_is_killed_is_a_reset_at_both_ends() {
    for mode in MODES {
        let (local, endings) = listening_server();
        let mut tunnel = Tunnel::start(mode, local);
        let mut user = user_in_session(&tunnel);
        tunnel.server.kill();
        both_see_a_reset(&mut user, &endings);
    }
}

/// Pours 8 MB, waits until all of it has arrived, and resets: the reset then meets a flow that is bulk and at rest.
fn pour_and_reset(mut stream: TcpStream) {
    let mut word = [0; 4];
    stream.write_all(&vec![7; BULK_BYTES]).expect("pours");
    stream.read_exact(&mut word).expect("told that all of it has arrived");
    reset(stream);
}

fn drink(mut stream: TcpStream) -> Ending {
    stream.read_exact(&mut vec![0; BULK_BYTES]).expect("all of it");
    stream.write_all(b"done").expect("says so");
    read_out(&mut stream).1
}

const BULK_BYTES: usize = 8 * 1024 * 1024;

#[test]
fn a_bulk_stream_that_is_reset_never_looks_whole() {
    for mode in MODES {
        let tunnel = Tunnel::start(mode, serve(pour_and_reset));
        for _ in 0..5 {
            assert_eq!(drink(tunnel.user()), Ending::Reset, "{mode:?}, from the local server");
        }
        let endings = Records::new();
        let to = endings.clone();
        let tunnel = Tunnel::start(mode, serve(move |stream| to.push(drink(stream))));
        for _ in 0..5 {
            pour_and_reset(tunnel.user());
        }
        assert_eq!(endings.wait(5), [Ending::Reset; 5], "{mode:?}, from the user");
    }
}

#[test]
fn bytes_behind_urgent_data_arrive() {
    let arrived = Records::new();
    let to = arrived.clone();
    let local = serve(move |mut stream| {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).expect("all but the urgent byte");
        to.push(bytes);
    });
    let tunnel = Tunnel::start(MODES[0], local);
    // Often enough that a read of the server meets all three at once.
    let users: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut user = tunnel.user();
            user.write_all(b"abc").expect("writes");
            assert_eq!(socket2::SockRef::from(&user).send_out_of_band(b"X").expect("sends"), 1);
            user.write_all(b"defgh").expect("writes");
            user
        })
        .collect();
    assert_eq!(arrived.wait(users.len()), vec![*b"abcdefgh"; users.len()]);
}
