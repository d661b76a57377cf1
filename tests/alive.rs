//! A session that says nothing keeps its message connection alive, also while its user reads nothing; one whose line is
//! dead ends. Whoever acknowledges nothing is given up, and whoever merely does not read is not.

mod common;
mod in_process;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::relay::{Forgets, Rules};
use common::{MODES, Mode, PATIENCE, Setup, Tunnel, connect, measure, serve};
use in_process::Ends;
use skyorg::config::limits::Limits;
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

const HEARTBEAT: Duration = Duration::from_secs(6);
/// Longer than a third of the heartbeat, and shorter than the heartbeat.
const FORGOTTEN: Duration = Duration::from_secs(4);
/// More than two heartbeats.
const PAUSE: Duration = Duration::from_secs(13);
const POURED_BYTES: usize = 24 * 1024 * 1024;
const POUR: u8 = b'p';
const ECHO: u8 = b'e';

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [ECHO];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Pours when it is asked to, and ends; answers anything else.
fn local_server() -> SocketAddr {
    serve(|mut user| {
        let mut byte = [0];
        while user.read_exact(&mut byte).is_ok() {
            let answered = match byte[0] {
                POUR => return drop(user.write_all(&vec![7; POURED_BYTES])),
                _ => user.write_all(&byte),
            };
            if answered.is_err() {
                return;
            }
        }
    })
}

fn tunnel(mode: Mode, heartbeat: Duration) -> Tunnel {
    let seconds = heartbeat.as_secs().to_string();
    // The smaller heartbeat holds for both ends.
    let setup = Setup::new(mode).client(&["--heartbeat", &seconds]).relayed();
    let tunnel = setup.start(local_server());
    tunnel.relay().wait_for_pool(10);
    tunnel
}

/// Users are quiet behind a middlebox that forgets quiet connections: one has been served and waits, one waits for the
/// rest of a download.
fn sessions_outlive(forgets: Forgets) {
    let tunnels = MODES.map(|mode| {
        let tunnel = tunnel(mode, HEARTBEAT);
        let (mut quiet, mut paused) = (tunnel.user(), tunnel.user());
        echo(&mut quiet).expect("it is served");
        paused.write_all(&[POUR]).expect("it is small");
        paused.read_exact(&mut [0]).expect("it pours");
        let rules = Rules { forgets: Some((FORGOTTEN, forgets)), ..Rules::default() };
        tunnel.relay().with(move |links| {
            links.rules = rules;
            links.links.iter_mut().for_each(|link| link.rules = rules);
        });
        (tunnel, quiet, paused)
    });
    measure(PAUSE);
    for (tunnel, mut quiet, mut paused) in tunnels {
        echo(&mut quiet).expect("its session goes on");
        let mut rest = Vec::new();
        paused.read_to_end(&mut rest).expect("the download goes on");
        assert_eq!(rest.len(), POURED_BYTES - 1);
        drop(tunnel);
    }
}

#[test]
fn sessions_outlive_a_proxy_that_resets_quiet_connections() {
    sessions_outlive(Forgets::Resets);
}

#[test]
fn sessions_outlive_a_nat_that_forgets_quiet_connections() {
    sessions_outlive(Forgets::Drops);
}

#[test]
fn a_quiet_session_on_a_dead_line_ends_at_both_ends() {
    let heartbeat = Duration::from_secs(2);
    for mode in MODES {
        let (ended, end) = channel();
        let local = serve(move |mut user| {
            let mut byte = [0];
            user.read_exact(&mut byte).and_then(|()| user.write_all(&byte)).expect("a user");
            let _ = ended.send(user.read(&mut byte).map_err(|error| error.kind()));
        });
        let seconds = heartbeat.as_secs().to_string();
        let setup = Setup::new(mode).server(&["--heartbeat", &seconds]).relayed();
        let tunnel = setup.start(local);
        let mut user = tunnel.user();
        echo(&mut user).expect("it is served");
        // The control connection goes on.
        tunnel.relay().with(|links| {
            links.links.iter_mut().for_each(|link| link.rules.hold = [true, true]);
        });
        let since = Instant::now();
        user.set_read_timeout(Some(PATIENCE)).expect("a time");
        let error = user.read(&mut [0]).expect_err("its session is broken");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{mode:?}");
        let heard = end.recv_timeout(PATIENCE).expect("the local server hears of it");
        assert_eq!(heard, Err(io::ErrorKind::ConnectionReset), "{mode:?}");
        // What was said before may have come a third later.
        assert!(since.elapsed() > heartbeat / 2, "{:?}, {mode:?}", since.elapsed());
        assert!(since.elapsed() < 3 * heartbeat, "{:?}, {mode:?}", since.elapsed());
    }
}

// Users and local servers. The limit is no flag, so both ends run in this process.

const UNACKNOWLEDGED: Duration = Duration::from_secs(6);

const FINISH: Duration = Duration::from_secs(4);
const RECEIVED_BYTES: usize = 16 * 1024;

fn tunnel_in_process(local: SocketAddr, plain: bool) -> SocketAddr {
    let limits = Limits { unacknowledged: UNACKNOWLEDGED, finish: FINISH, ..Limits::default() };
    Ends::new(local, plain, &limits).run()
}

/// From now on nothing arrives at this socket, as if its cable were unplugged (socket(7), `SO_ATTACH_FILTER`).
fn unplug(stream: &TcpStream) {
    const RETURN: u16 = 6;
    let drop_all = [SockFilter::new(RETURN, 0, 0, 0)];
    SockRef::from(stream).attach_filter(&drop_all).expect("a filter");
}

/// A local server that pours, and tells when it could not go on.
fn pouring() -> (SocketAddr, Receiver<io::ErrorKind>) {
    let (ended, ends) = channel();
    let local = serve(move |mut user| {
        let error = loop {
            if let Err(error) = user.write_all(&[9; 64 * 1024]) {
                break error.kind();
            }
        };
        let _ = ended.send(error);
    });
    (local, ends)
}

/// A user that downloads. Until the tunnel stands users may be reset.
fn download(request: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut user = connect(request);
        if user.read_exact(&mut [0]).is_ok() {
            return user;
        }
        assert!(Instant::now() < deadline, "no session in time");
    }
}

/// A user whose kernel takes little, which has asked for so many bytes and has the first.
fn download_of(request: SocketAddr, count: usize) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(RECEIVED_BYTES).expect("before it connects");
        socket.connect(&request.into()).expect("the server listens");
        let mut user = TcpStream::from(socket);
        let said = user.write_all(count.to_string().as_bytes()).and_then(|()| user.shutdown(Shutdown::Write));
        if said.is_ok() && user.read_exact(&mut [0]).is_ok() {
            return user;
        }
        assert!(Instant::now() < deadline, "no session in time");
    }
}

#[test]
fn an_unplugged_downloader_is_given_up_and_a_paused_one_is_not() {
    let (local, ends) = pouring();
    let request = tunnel_in_process(local, false);
    let (unplugged, mut paused) = (download(request), download(request));
    // Sessions of tries that failed before the tunnel stood are over.
    while ends.try_recv().is_ok() {}
    unplug(&unplugged);
    let since = Instant::now();
    let end = ends.recv_timeout(PATIENCE).expect("it is given up");
    assert_eq!(end, io::ErrorKind::ConnectionReset);
    let took = since.elapsed();
    assert!(took > UNACKNOWLEDGED && took < 2 * UNACKNOWLEDGED, "{took:?}");
    // The kernel probes it, after pauses that double.
    assert!(ends.try_recv().is_err(), "the one that pauses stays");
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..1_000 {
        paused.read_exact(&mut buffer).expect("the download goes on");
    }
    drop(unplugged);
}

#[test]
fn an_unplugged_local_server_is_given_up() {
    let local = serve(|mut user| {
        user.write_all(b".").expect("it is small");
        user.read_exact(&mut [0]).expect("an upload");
        unplug(&user);
        measure(PATIENCE);
    });
    let mut user = download(tunnel_in_process(local, true));
    user.write_all(b"?").expect("it is small");
    let since = Instant::now();
    let error = loop {
        if let Err(error) = user.write_all(&[9; 64 * 1024]) {
            break error.kind();
        }
    };
    assert!(matches!(error, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    let took = since.elapsed();
    assert!(took > UNACKNOWLEDGED && took < 2 * UNACKNOWLEDGED, "{took:?}");
}

/// Each user has said its end, and so has the local server: the last bytes wait for the user alone. How many of them
/// the kernels hold is theirs to say, so users ask for different counts.
#[test]
fn who_reads_the_last_bytes_slowly_has_them_all_and_who_reads_none_is_reset() {
    let local = serve(|mut user| {
        let mut asked = String::new();
        user.read_to_string(&mut asked).expect("a user");
        let count: usize = asked.parse().expect("a number");
        drop(user.write_all(&vec![7; count]));
    });
    let request = tunnel_in_process(local, false);
    drop(download_of(request, 1));
    let counts = || (128..320).step_by(16).map(|count| count * 1024);
    let paused: Vec<TcpStream> = counts().map(|count| download_of(request, count)).collect();
    let readers = counts().map(|count| {
        let mut user = download_of(request, count);
        thread::spawn(move || {
            // The kernel asks for more when half of what it holds is gone: that takes longer than the limit.
            let mut buffer = vec![0; 8 * 1024];
            for _ in 0..15 {
                user.read_exact(&mut buffer).expect("it reads all the time");
                measure(Duration::from_secs(1));
            }
            let mut rest = Vec::new();
            user.read_to_end(&mut rest).expect("its answer is whole");
            assert_eq!(1 + rest.len() + 15 * buffer.len(), count);
        })
    });
    let readers: Vec<_> = readers.collect();
    readers.into_iter().for_each(|reader| reader.join().expect("it has read all"));
    let reset = paused.into_iter().filter_map(|mut user| user.read_to_end(&mut Vec::new()).err());
    let reset: Vec<_> = reset.map(|error| error.kind()).collect();
    assert!(!reset.is_empty() && reset.iter().all(|&it| it == io::ErrorKind::ConnectionReset), "{reset:?}");
}
