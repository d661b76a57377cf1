//! Bulk flows of plain sessions, which cross both processes through pipes (splice(2)): nothing is lost in a pipe, none
//! is left over, and there are no more of them than allowed. The simulation tests short splices, missing pipes
//! and kernels that refuse to splice.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::{
    Ending, Mode, Pattern, Process, Records, Setup, Tunnel, converse, read_out, reset, serve, write_pattern,
};
use skyorg::config::limits::Limits;
use socket2::SockRef;

/// Enough for a flow to become bulk and to stay bulk for a while. The sockets on the way may hold all of it: how much a
/// kernel keeps for a peer that does not read differs from host to host (tcp(7), `tcp_rmem`).
const BYTES: u64 = 8 * 1024 * 1024;
/// Numbers from here on ask for a pattern without end.
const ENDLESS: u8 = 128;

/// A local server that pours the pattern that a user asks for by its number, and records when it could not.
fn pouring_server() -> (SocketAddr, Arc<Records<u8>>) {
    let broken = Records::new();
    let to = broken.clone();
    let local = serve(move |mut stream| {
        let mut seed = [0];
        stream.read_exact(&mut seed).expect("a number");
        let bytes = if seed[0] < ENDLESS { BYTES } else { u64::MAX };
        if write_pattern(&mut stream, seed[0].into(), bytes).is_err() {
            to.push(seed[0]);
        }
    });
    (local, broken)
}

/// Pipes that a process made for itself: it has both ends open. Of other pipes, such as its log, it has one end.
fn pipes(process: &Process) -> usize {
    let folder = format!("/proc/{}/fd", process.pid().as_raw_nonzero());
    let links =
        fs::read_dir(folder).expect("it runs").filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut ends: Vec<_> = links.filter(|link| link.to_string_lossy().starts_with("pipe:")).collect();
    ends.sort();
    ends.windows(2).filter(|two| two[0] == two[1]).count()
}

/// A user that has asked for a pattern, and reads it piece by piece.
struct Reader {
    stream: TcpStream,
    pattern: Pattern,
    read: u64,
}

impl Reader {
    fn new(tunnel: &Tunnel, seed: u8) -> Reader {
        let mut stream = tunnel.user();
        stream.write_all(&[seed]).expect("writes");
        Reader { stream, pattern: Pattern::new(seed.into()), read: 0 }
    }

    /// Reads a piece; false at the end.
    fn read_on(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        let count = self.stream.read(&mut piece).expect("a whole stream");
        assert!(self.pattern.matches(&piece[..count]), "wrong bytes after {}", self.read);
        self.read += count as u64;
        count > 0
    }

    fn read_to_the_end(mut self, bytes: u64) {
        while self.read_on() {}
        assert_eq!(self.read, bytes, "the stream ended");
    }
}

/// Reads until both processes splice: a flow that stopped early has not proved to be bulk.
fn read_until_spliced(tunnel: &mut Tunnel, reader: &mut Reader) {
    while pipes(&tunnel.server) == 0 || pipes(tunnel.client()) == 0 {
        assert!(reader.read_on(), "neither process splices");
    }
}

#[test]
fn flows_that_find_no_pipe_are_as_whole_as_those_that_do() {
    let most = Limits::default().pipes_max;
    let (local, _) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    let mut readers: Vec<Reader> = (0..most as u8 + 8).map(|seed| Reader::new(&tunnel, seed)).collect();
    read_until_spliced(&mut tunnel, &mut readers[0]);
    for reader in readers {
        reader.read_to_the_end(BYTES);
        let counts = [pipes(&tunnel.server), pipes(tunnel.client())];
        assert!(counts.iter().all(|&count| count <= most), "{counts:?} pipes");
    }
}

#[test]
fn few_descriptors_mean_few_pipes() {
    let (local, _) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).descriptors(80).start(local);
    let mut readers: Vec<Reader> = (0..6).map(|seed| Reader::new(&tunnel, seed)).collect();
    read_until_spliced(&mut tunnel, &mut readers[0]);
    readers.into_iter().for_each(|reader| reader.read_to_the_end(BYTES));
    assert_eq!([pipes(&tunnel.server), pipes(tunnel.client())], [1, 1]);
}

#[test]
fn a_user_who_resets_takes_the_bytes_in_the_pipes_with_him() {
    let (local, broken) = pouring_server();
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    for seed in 0..5 {
        let mut leaving = Reader::new(&tunnel, ENDLESS + seed);
        read_until_spliced(&mut tunnel, &mut leaving);
        reset(leaving.stream);
        broken.wait(usize::from(seed) + 1);
        // The next user, perhaps on the same connection and through the same pipe, gets its own bytes.
        Reader::new(&tunnel, seed).read_to_the_end(BYTES);
    }
    assert!(pipes(&tunnel.server) <= 2, "{} pipes are left", pipes(&tunnel.server));
}

#[test]
fn a_local_server_that_breaks_is_a_reset_behind_the_bytes_in_the_pipes() {
    // It pours for the first user until that stops reading and the second one has come. Then it breaks.
    let words = Records::new();
    let heard = words.clone();
    let local = serve(move |mut stream| {
        let mut seed = [0];
        stream.read_exact(&mut seed).expect("a word");
        if seed == [2] {
            stream.write_all(&seed).expect("writes");
            heard.push(());
            return;
        }
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("not zero");
        let mut pattern = Pattern::new(seed[0].into());
        while heard.all().is_empty() {
            let (mut piece, mut written) = ([0; 16 * 1024], 0);
            pattern.fill(&mut piece);
            while written < piece.len() {
                match stream.write(&piece[written..]) {
                    Ok(count) => written += count,
                    Err(_) if heard.all().is_empty() => {}
                    Err(_) => break,
                }
            }
        }
        reset(stream);
    });
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    let mut reader = Reader::new(&tunnel, 1);
    read_until_spliced(&mut tunnel, &mut reader);
    converse(&mut tunnel.user(), &[2]);
    let (bytes, ending) = read_out(&mut reader.stream);
    assert!(reader.pattern.matches(&bytes), "wrong bytes");
    assert_eq!(ending, Ending::Reset, "after {} bytes", bytes.len());
}

#[test]
fn a_reader_who_stops_finds_all_that_waited_in_full_pipes() {
    // It pours until nothing goes on any more though the reader has stopped; then it says how much it wrote, and ends.
    let (stopped, full) = (Records::new(), Records::new());
    let (heard, to) = (stopped.clone(), full.clone());
    let local = serve(move |mut stream| {
        let mut seed = [0];
        stream.read_exact(&mut seed).expect("a number");
        stream.set_write_timeout(Some(Duration::from_millis(100))).expect("not zero");
        let mut pattern = Pattern::new(seed[0].into());
        let (mut piece, mut written) = (vec![0; 64 * 1024], 0);
        loop {
            pattern.fill(&mut piece);
            let mut left = &piece[..];
            while !left.is_empty() {
                match stream.write(left) {
                    Ok(count) => (left, written) = (&left[count..], written + count as u64),
                    Err(error) if error.kind() != ErrorKind::WouldBlock => {
                        panic!("after {written} bytes: {error}")
                    }
                    Err(_) if heard.all().is_empty() => {}
                    Err(_) => return to.push(written),
                }
            }
        }
    });
    let mut tunnel = Setup::new(Mode::Plain).start(local);
    let mut reader = Reader::new(&tunnel, 3);
    read_until_spliced(&mut tunnel, &mut reader);
    stopped.push(());
    let written = full.wait(1)[0];
    assert!(written > reader.read, "nothing waits");
    reader.read_to_the_end(written);
}

/// Writes the pattern with an urgent byte in its middle, and ends.
fn write_with_urgent_byte(stream: &mut TcpStream, seed: u64) {
    let mut pattern = Pattern::new(seed);
    let mut piece = vec![0; (BYTES / 2) as usize];
    for half in 0..2 {
        if half == 1 {
            assert_eq!(SockRef::from(&*stream).send_out_of_band(b"!").expect("sends"), 1);
        }
        pattern.fill(&mut piece);
        stream.write_all(&piece).expect("writes");
    }
    stream.shutdown(Shutdown::Write).expect("ends");
}

/// All but the urgent byte, to the end.
fn read_past_urgent_byte(stream: &mut TcpStream, seed: u64) {
    let (bytes, ending) = read_out(stream);
    assert_eq!((bytes.len() as u64, ending), (BYTES, Ending::Clean));
    assert!(Pattern::new(seed).matches(&bytes), "wrong bytes");
}

#[test]
fn bytes_behind_urgent_data_arrive_from_a_local_server() {
    let local = serve(|mut stream| write_with_urgent_byte(&mut stream, 1));
    let tunnel = Setup::new(Mode::Plain).start(local);
    for _ in 0..4 {
        read_past_urgent_byte(&mut tunnel.user(), 1);
    }
}

#[test]
fn bytes_behind_urgent_data_arrive_from_a_user() {
    let local = serve(|mut stream| {
        read_past_urgent_byte(&mut stream, 2);
        stream.write_all(b"all").expect("writes");
    });
    let tunnel = Setup::new(Mode::Plain).start(local);
    for _ in 0..4 {
        let mut user = tunnel.user();
        write_with_urgent_byte(&mut user, 2);
        assert_eq!(read_out(&mut user), (b"all".to_vec(), Ending::Clean));
    }
}
