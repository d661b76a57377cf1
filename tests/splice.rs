//! Bulk flows of plain sessions, which cross both processes through pipes (splice(2)): nothing is lost in a pipe, none
//! is left over, and there are no more of them than allowed. Short splices, pipes that cannot be had and sockets that
//! cannot be spliced are the simulation's.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::{
    Ending, Mode, Process, Records, Setup, Tunnel, converse, read_out, read_pattern, reset, serve,
    write_pattern,
};
use skyorg::limits::Limits;

/// More than the sockets on the way can hold while nobody reads.
const BYTES: u64 = 8 * 1024 * 1024;

/// A local server that pours the pattern that a user asks for by its number, and records when it could not.
fn pouring_server() -> (SocketAddr, Arc<Records<u8>>) {
    let broken = Records::new();
    let to = broken.clone();
    let local = serve(move |mut stream| {
        let mut seed = [0];
        stream.read_exact(&mut seed).expect("a number");
        if write_pattern(&mut stream, seed[0].into(), BYTES).is_err() {
            to.push(seed[0]);
        }
    });
    (local, broken)
}

/// Pipes that a process made for itself: it has both ends open. Others, such as its log, it was given one end of.
fn pipes(process: &Process) -> usize {
    let folder = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let links =
        fs::read_dir(folder).expect("it runs").filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut ends: Vec<_> = links.filter(|link| link.to_string_lossy().starts_with("pipe:")).collect();
    ends.sort();
    ends.windows(2).filter(|two| two[0] == two[1]).count()
}

/// A user who has asked for a pattern, and reads nothing yet.
fn stalled_user(tunnel: &Tunnel, seed: u8) -> TcpStream {
    let mut user = tunnel.user();
    user.write_all(&[seed]).expect("writes");
    user
}

/// Waits until both processes have pipes in use.
fn wait_for_pipes(tunnel: &mut Tunnel) {
    tunnel.server.wait_until("the server splices", || pipes(&tunnel.server) > 0);
    let client = tunnel.client();
    client.wait_until("the client splices", || pipes(client) > 0);
}

#[test]
fn flows_that_find_no_pipe_are_as_whole_as_those_that_do() {
    let most = Limits::default().pipes_max;
    let (local, _) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    let users: Vec<TcpStream> = (0..most as u8 + 8).map(|seed| stalled_user(&tunnel, seed)).collect();
    wait_for_pipes(&mut tunnel);
    for (seed, mut user) in users.into_iter().enumerate() {
        read_pattern(&mut user, seed as u64, BYTES);
        let counts = [pipes(&tunnel.server), pipes(tunnel.client())];
        assert!(counts.iter().all(|&count| count <= most), "{counts:?} pipes");
    }
}

#[test]
fn few_descriptors_mean_few_pipes() {
    let (local, _) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).descriptors(64).start(local);
    let users: Vec<TcpStream> = (0..6).map(|seed| stalled_user(&tunnel, seed)).collect();
    wait_for_pipes(&mut tunnel);
    for (seed, mut user) in users.into_iter().enumerate() {
        read_pattern(&mut user, seed as u64, BYTES);
    }
    assert_eq!([pipes(&tunnel.server), pipes(tunnel.client())], [1, 1]);
}

#[test]
fn a_user_who_resets_takes_the_bytes_in_the_pipes_with_him() {
    let (local, broken) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    for seed in 0..5 {
        let leaving = stalled_user(&tunnel, seed);
        wait_for_pipes(&mut tunnel);
        reset(leaving);
        broken.wait(usize::from(seed) + 1);
        // Whoever is next, perhaps on the same connection and through the same pipe, gets his own bytes.
        let mut user = stalled_user(&tunnel, 100 + seed);
        read_pattern(&mut user, u64::from(seed) + 100, BYTES);
    }
    assert!(pipes(&tunnel.server) <= 2, "{} pipes are left", pipes(&tunnel.server));
}

#[test]
fn a_local_server_that_breaks_is_a_reset_behind_the_bytes_in_the_pipes() {
    // It pours into a user who does not read, and breaks at the second one's word.
    let words = Records::new();
    let heard = words.clone();
    let local = serve(move |mut stream| {
        let mut word = [0];
        stream.read_exact(&mut word).expect("a word");
        if word == *b"b" {
            heard.push(());
            return common::echo(stream);
        }
        let mut writer = stream.try_clone().expect("a descriptor");
        std::thread::spawn(move || write_pattern(&mut writer, 7, BYTES));
        heard.wait(1);
        reset(stream);
    });
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    let mut user = stalled_user(&tunnel, b'a');
    wait_for_pipes(&mut tunnel);
    let mut other = stalled_user(&tunnel, b'b');
    words.wait(1);
    converse(&mut other, b"still there");
    let (bytes, ending) = read_out(&mut user);
    assert_eq!(ending, Ending::Reset, "after {} bytes", bytes.len());
    assert!((bytes.len() as u64) < BYTES);
}
