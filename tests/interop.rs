//! The product and its tokio twin (benches/tokio) speak the same wire: either server with either client carries
//! TCP whole. So what the benchmark compares does the same work.

#[path = "../benches/tokio/control.rs"]
mod control;
#[path = "../benches/tokio/hub.rs"]
mod hub;
#[path = "../benches/tokio/local.rs"]
mod local;
#[path = "../benches/tokio/relay.rs"]
mod relay;
#[path = "../benches/tokio/scratch.rs"]
mod scratch;
#[path = "../benches/tokio/sockets.rs"]
mod sockets;
#[path = "../benches/tokio/start.rs"]
mod start;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use skyorg::base::address::{HostPort, Listen};
use skyorg::config::keys;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use socket2::SockRef;
use tokio::runtime::{Builder, Runtime};

/// Longer than anything here takes on a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
const LARGE_BYTES: usize = 4 * 1024 * 1024;

/// Which program plays a part.
#[derive(Clone, Copy, Debug)]
enum Program {
    Product,
    Tokio { threads: bool },
}

use Program::{Product, Tokio};

/// Server and client: each mixture, and the twin alone, because the benchmark runs it alone.
const MIXTURES: [(Program, Program); 4] = [
    (Product, Tokio { threads: false }),
    (Tokio { threads: false }, Product),
    (Tokio { threads: false }, Tokio { threads: false }),
    (Tokio { threads: true }, Tokio { threads: true }),
];

/// A tunnel to a local server that the test plays itself.
struct Tunnel {
    request: SocketAddr,
    /// Connections that reached the local server.
    arrivals: Receiver<TcpStream>,
    /// Message connections that the client has dialled so far.
    dialled: Arc<AtomicUsize>,
}

fn in_every_mixture(test: impl Fn(&Tunnel)) {
    for plain in [false, true] {
        for (server, client) in MIXTURES {
            eprintln!("server {server:?}, client {client:?}, plain: {plain}");
            test(&tunnel(server, client, plain));
        }
    }
}

fn tunnel(server: Program, client: Program, plain: bool) -> Tunnel {
    let key = keys::generate("interop".parse().expect("a good name")).expect("random bytes");
    let (request, message, control) = start_server(server, key.clone(), plain);
    let (local, arrivals) = local_server();
    let (counted, dialled) = count_connections(message);
    start_client(client, key, plain, control, counted, local);
    let tunnel = Tunnel { request, arrivals, dialled };
    // A user may be reset as long as there is no client.
    let deadline = Instant::now() + DEADLINE;
    while tunnel.echo().is_err() {
        assert!(Instant::now() < deadline, "no user got through");
        thread::sleep(Duration::from_millis(20)); // paces: attempts against a deadline
    }
    tunnel
}

/// The heartbeat is as long as a busy machine needs.
fn limits() -> Limits {
    Limits { heartbeat: HEARTBEAT, ..Limits::default() }
}

fn runtime(threads: bool) -> Runtime {
    let mut builder = if threads { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_all().build().expect("a runtime")
}

fn start_server(program: Program, key: Key, plain: bool) -> (SocketAddr, SocketAddr, SocketAddr) {
    let free = Listen::At((Ipv4Addr::LOCALHOST, 0).into());
    let name = "default".parse().expect("a good name");
    let (services, limits) = (vec![Service::new(name, free)], limits());
    let policies = Policies::default();
    let config =
        ServerConfig { services, policies, message: free, control: free, keys: vec![key], plain, limits };
    match program {
        Product => {
            let server = skyorg::app::run::Server::bind(config).expect("binds");
            let bound = server.bound().clone();
            thread::spawn(move || server.run());
            (bound.services[0].1, bound.message, bound.control)
        }
        Tokio { threads } => {
            let (tell, told) = channel();
            thread::spawn(move || {
                runtime(threads).block_on(async {
                    let server = start::Server::bind(config).expect("binds");
                    tell.send(server.addresses.clone()).expect("the test listens");
                    server.run().await
                })
            });
            let addresses = told.recv_timeout(DEADLINE).expect("binds");
            (addresses[0], addresses[1], addresses[2])
        }
    }
}

fn start_client(
    program: Program,
    key: Key,
    plain: bool,
    control: SocketAddr,
    message: SocketAddr,
    local: SocketAddr,
) {
    let at = |address: SocketAddr| HostPort { host: address.ip().to_string().into(), port: address.port() };
    let service = Publication::of_service("default".parse().expect("a good name"), at(local));
    let config = ClientConfig {
        server: at(control),
        message: Some(at(message)),
        // Each session at the local server is that of a user.
        publications: vec![Publication { probe: false, ..service }],
        key,
        plain,
        limits: limits(),
    };
    match program {
        Product => {
            let client = skyorg::app::run::Client::new(config).expect("starts");
            thread::spawn(move || client.run());
        }
        Tokio { threads } => {
            thread::spawn(move || runtime(threads).block_on(start::run_client(config)));
        }
    }
}

/// A local server that hands its connections to the test.
fn local_server() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    let (tell, arrivals) = channel();
    thread::spawn(move || listener.incoming().flatten().all(|stream| tell.send(stream).is_ok()));
    (address, arrivals)
}

/// A relay in front of the message port that counts connections.
fn count_connections(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    thread::spawn(move || {
        for inner in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
            let outer = TcpStream::connect(to).expect("connects");
            let (inner, outer) = (undelayed(inner), undelayed(outer));
            let ends = [(&inner, &outer), (&outer, &inner)];
            for (from, to) in ends.map(|(from, to)| (from.try_clone(), to.try_clone())) {
                let (mut from, mut to) = (from.expect("clones"), to.expect("clones"));
                thread::spawn(move || {
                    let copied = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                    copied
                });
            }
        }
    });
    (address, count)
}

impl Tunnel {
    fn user(&self) -> TcpStream {
        prepared(TcpStream::connect(self.request).expect("connects"))
    }

    fn arrival(&self) -> TcpStream {
        prepared(self.arrivals.recv_timeout(DEADLINE).expect("the user reaches the local server"))
    }

    /// A user and its connection at the local server.
    fn both(&self) -> (TcpStream, TcpStream) {
        let user = self.user();
        (user, self.arrival())
    }

    /// One short session, from a user that may find that there is no client yet.
    fn echo(&self) -> io::Result<()> {
        let mut user = self.user();
        let mut local = self.arrivals.recv_timeout(Duration::from_secs(1)).map_err(io::Error::other)?;
        user.write_all(b"hello")?;
        let mut bytes = [0; 5];
        local.read_exact(&mut bytes)?;
        local.write_all(&bytes)?;
        user.read_exact(&mut bytes)
    }
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("a time that is not zero");
    undelayed(stream)
}

fn undelayed(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("an open connection");
    stream
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open connection");
}

fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a clean end");
    bytes
}

fn read_to_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).expect_err("an abort must not look whole");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    bytes
}

/// A shifted, lost or repeated piece shows: 251 is prime to every size of buffer.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

#[test]
fn either_side_may_end_first_and_nothing_is_lost() {
    in_every_mixture(|tunnel| {
        let (mut user, mut local) = tunnel.both();
        user.write_all(b"question").expect("writes");
        user.shutdown(Shutdown::Write).expect("shuts down");
        assert_eq!(read_to_end(&mut local), b"question");
        local.write_all(b"answer").expect("writes");
        drop(local);
        assert_eq!(read_to_end(&mut user), b"answer");

        let (mut user, mut local) = tunnel.both();
        local.write_all(b"greeting").expect("a server may speak first");
        local.shutdown(Shutdown::Write).expect("shuts down");
        assert_eq!(read_to_end(&mut user), b"greeting");
        user.write_all(b"farewell").expect("writes");
        drop(user);
        assert_eq!(read_to_end(&mut local), b"farewell");
    });
}

#[test]
fn much_travels_both_ways_at_once() {
    in_every_mixture(|tunnel| {
        let (user, local) = tunnel.both();
        let ends = [user, local].map(|stream| {
            thread::spawn(move || {
                let mut writer = stream.try_clone().expect("clones");
                let written = thread::spawn(move || {
                    writer.write_all(&pattern(LARGE_BYTES)).expect("writes");
                    writer.shutdown(Shutdown::Write).expect("shuts down");
                });
                let mut stream = stream;
                assert!(read_to_end(&mut stream) == pattern(LARGE_BYTES));
                written.join().expect("written");
            })
        });
        ends.into_iter().for_each(|end| end.join().expect("whole"));
    });
}

#[test]
fn a_reset_arrives_as_one_behind_what_was_said_before_it() {
    in_every_mixture(|tunnel| {
        let (user, mut local) = tunnel.both();
        reset(user);
        assert_eq!(read_to_reset(&mut local), b"");

        let (mut user, mut local) = tunnel.both();
        local.write_all(b"half an ans").expect("writes");
        let mut before = [0; 4];
        // The bytes have left before the reset: a reset destroys what its own kernel has not sent.
        user.read_exact(&mut before).expect("reads");
        reset(local);
        assert_eq!([&before[..], &read_to_reset(&mut user)[..]].concat(), b"half an ans");
    });
}

#[test]
fn message_connections_are_used_again() {
    in_every_mixture(|tunnel| {
        for _ in 0..100 {
            tunnel.echo().expect("each user is served");
        }
        let dialled = tunnel.dialled.load(Ordering::Relaxed);
        // The pool, and one for each session that was not over when the next began.
        assert!(dialled <= Limits::default().pool + 6, "{dialled} message connections");
    });
}

/// All tunnels at once, because each must be quiet for longer than the heartbeat.
#[test]
fn a_quiet_session_outlives_the_heartbeat() {
    let mut quiet = Vec::new();
    for plain in [false, true] {
        for (server, client) in MIXTURES {
            let tunnel = tunnel(server, client, plain);
            let mut user = tunnel.user();
            let mut local = tunnel.arrivals.recv_timeout(DEADLINE).expect("a session");
            user.write_all(b"?").and_then(|()| local.read_exact(&mut [0])).expect("it is served");
            quiet.push((tunnel, user, local, (server, client, plain)));
        }
    }
    thread::sleep(HEARTBEAT * 2); // paces: nothing is said for that long
    for (_tunnel, mut user, mut local, mixture) in quiet {
        let said = user.write_all(b"!").and_then(|()| local.read_exact(&mut [0]));
        said.and_then(|()| local.write_all(b".")).unwrap_or_else(|error| panic!("{mixture:?}: {error}"));
        user.read_exact(&mut [0]).unwrap_or_else(|error| panic!("{mixture:?}: {error}"));
    }
}
