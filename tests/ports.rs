//! Ports that clients ask for, with the kernel's sockets: a range comes back after its client was killed, its users
//! wait meanwhile, and thousands of ports cost a turn of the loop nothing.
//!
//! The client is a few lines here. It needs a network of its own, so that its ports are nobody else's.
#![cfg(target_os = "linux")]

#[path = "common/own_network.rs"]
mod own_network;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use own_network::in_own_network;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use skyorg::app::run::{Bound, Client, Server};
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::name::Name;
use skyorg::base::ports::Ports;
use skyorg::config::limits::Limits;
use skyorg::config::policy::PortRules;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Publish, Transports, VERSIONS, Want,
};
use skyorg::wire::handshake::{ANSWER_BYTES, ClearHello, Initiator, Purpose, Secret, Suite, key_id};
use skyorg::wire::record::{Channel, RECORD_BYTES_MAX};
use socket2::SockRef;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// In this time a client has its ports back.
const BACK: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn key() -> Key {
    Key { name: name("office"), secret: Secret::new([7; 32]) }
}

/// A server at which any key may ask for any port, and which runs until the test ends.
fn server() -> Bound {
    let at = |port| Listen::At((Ipv4Addr::LOCALHOST, port).into());
    let server = Server::bind(ServerConfig {
        services: vec![Service::new(name("default"), at(0))],
        policies: Policies::Alike(PortRules::All),
        message: at(0),
        control: at(0),
        keys: vec![key()],
        plain: false,
        limits: Limits::default(),
    });
    let server = server.unwrap_or_else(|error| panic!("{error}"));
    let bound = server.bound().clone();
    thread::spawn(move || server.run().expect("runs"));
    bound
}

/// A client's control connection.
struct Control {
    stream: TcpStream,
    channel: Channel,
    input: Vec<u8>,
    number: u32,
}

impl Control {
    fn new(server: SocketAddr, instance: u8) -> Control {
        let mut stream = TcpStream::connect(server).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.set_nodelay(true).expect("an option");
        let secret = key().secret;
        let hello =
            ClearHello { suite: Suite::preferred(), purpose: Purpose::Control, key_id: key_id(&secret) };
        let (initiator, flight) = Initiator::begin(hello, &secret, 0).expect("begins");
        stream.write_all(&flight).expect("it is read");
        let mut answer = [0; ANSWER_BYTES];
        stream.read_exact(&mut answer).expect("an answer");
        let proved = initiator.finish(&answer).expect("the server holds the secret");
        let channel = Channel::new(proved, false);
        let mut control = Control { stream, channel, input: Vec::new(), number: 0 };
        control.say(&ControlFrame::Hello(Hello {
            versions: VERSIONS,
            capabilities: Capabilities::default(),
            heartbeat: Duration::from_secs(30),
            instance: [instance; 16],
            resumes: None,
        }));
        control
    }

    fn say(&mut self, frame: &ControlFrame) {
        let (mut clear, mut record) = (Vec::new(), [0; RECORD_BYTES_MAX]);
        frame.encode(&mut clear);
        let count = self.channel.seal(&clear, &mut record).expect("seals");
        self.stream.write_all(&record[..count]).expect("it is read");
    }

    /// Asks for ports, and waits until it knows what it gets.
    fn ask(&mut self, publication: &str, want: Want) -> Result<Vec<GrantedAddress>, Denial> {
        self.number += 1;
        self.say(&ControlFrame::Publish(Publish {
            number: self.number,
            name: name(publication),
            want,
            transports: Transports::Tcp,
            dial_time: Duration::from_secs(5),
            share: false,
            probe: true,
        }));
        loop {
            match self.hear() {
                ControlFrame::Granted { number, addresses, .. } if number == self.number => {
                    return Ok(addresses);
                }
                ControlFrame::Denied { number, reason } if number == self.number => return Err(reason),
                _ => {}
            }
        }
    }

    fn hear(&mut self) -> ControlFrame {
        loop {
            let mut clear = vec![0; self.input.len()];
            let opened = self.channel.open_sealed(&self.input, &mut &mut clear[..]).expect("a record");
            if let Some((consumed, clear)) = opened {
                let frame = ControlFrame::decode(clear).expect("a frame");
                self.input.drain(..consumed);
                if frame == ControlFrame::Ping {
                    self.say(&ControlFrame::Pong);
                }
                return frame;
            }
            let mut buffer = [0; 4_096];
            let count = self.stream.read(&mut buffer).expect("the server says something");
            assert!(count > 0, "the server has ended the link");
            self.input.extend(&buffer[..count]);
        }
    }

    /// What the kernel does for a process that is killed.
    fn kill(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("an option");
    }
}

#[test]
fn a_range_of_a_thousand_comes_back_within_a_second_after_its_client_was_killed() {
    if !in_own_network("a_range_of_a_thousand_comes_back_within_a_second_after_its_client_was_killed") {
        return;
    }
    let bound = server();
    let ports = Ports { first: 27_000, last: 27_999 };
    let (mut client, asked) = (Control::new(bound.control, 1), Instant::now());
    let granted = client.ask("game", Want::Ports(ports)).expect("it may");
    let took = asked.elapsed();
    assert!(matches!(granted[..], [GrantedAddress { ports: all, .. }] if all == ports), "{granted:?}");
    assert!(took < BACK, "{took:?} for 1,000 listeners");
    client.kill();
    let mut user = TcpStream::connect((Ipv4Addr::LOCALHOST, 27_500)).expect("it listens");
    user.set_read_timeout(Some(Duration::from_millis(500))).expect("a time");
    let waits = user.read(&mut [0]).expect_err("nobody serves it");
    assert!(matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "it waits: {waits}");
    let again = Instant::now();
    let mut client = Control::new(bound.control, 2);
    let granted = client.ask("game", Want::Ports(ports)).expect("they are its own");
    let back = again.elapsed();
    assert!(matches!(granted[..], [GrantedAddress { ports: all, .. }] if all == ports), "{granted:?}");
    assert!(back < BACK, "{back:?} until it had them back");
    println!("1,000 ports were open after {took:?}, and back after {back:?}");
    // What another program has is not granted, and neither is the rest of its range.
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 28_003)).expect("nobody has it");
    assert_eq!(
        client.ask("taken", Want::Ports(Ports { first: 28_000, last: 28_009 })),
        Err(Denial::PortTaken)
    );
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 28_000)).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    drop(other);
}

/// Time that all threads of this process have taken of the processors.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_bytes() -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("Linux says it");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says it");
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1_024
}

/// Time of the processors that so many round trips take over one session: the least of some measurements, because
/// others may use the machine as well.
fn round_trips(users_at: SocketAddr, count: usize) -> Duration {
    let mut user = TcpStream::connect(users_at).expect("it listens");
    user.set_nodelay(true).expect("an option");
    user.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut trip = || user.write_all(b"x").and_then(|()| user.read_exact(&mut [0])).expect("an echo");
    trip();
    let measured = (0..20).map(|_| {
        let before = cpu();
        (0..count).for_each(|_| trip());
        cpu() - before
    });
    measured.min().expect("there are some")
}

/// Serves the server's service with an echo.
fn serve_echoes(bound: &Bound) {
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let local = echo.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in echo.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).expect("an option");
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
            });
        }
    });
    let host_port =
        |address: SocketAddr| HostPort { host: address.ip().to_string().into(), port: address.port() };
    let client = Client::new(ClientConfig {
        server: host_port(bound.control),
        message: None,
        publications: vec![Publication::of_service(name("default"), host_port(local))],
        key: key(),
        plain: false,
        limits: Limits::default(),
    });
    let client = client.expect("a client");
    thread::spawn(move || client.run().expect("runs"));
}

#[test]
fn thousands_of_ports_cost_a_turn_nothing() {
    if !in_own_network("thousands_of_ports_cost_a_turn_nothing") {
        return;
    }
    const TRIPS: usize = 500;
    const REST: Duration = Duration::from_secs(3);
    // Some systems let nobody raise it: fewer ports then show the same.
    let more = Rlimit { current: Some(60_000), maximum: Some(60_000) };
    let _ = setrlimit(Resource::Nofile, more);
    let room = getrlimit(Resource::Nofile).maximum.unwrap_or(60_000);
    // Half of the room is left to users.
    let ranges = ((room / 2).saturating_sub(1_000) / 1_000).min(10) as u16;
    let bound = server();
    serve_echoes(&bound);
    let users_at = bound.services[0].1;
    round_trips(users_at, TRIPS);
    let (without, before) = (round_trips(users_at, TRIPS), resident_bytes());
    let mut client = Control::new(bound.control, 1);
    let opening = Instant::now();
    for range in 0..ranges {
        let first = 10_000 + 1_000 * range;
        let ports = Ports { first, last: first + 999 };
        let granted = client.ask(&format!("range{range}"), Want::Ports(ports));
        assert!(granted.is_ok(), "{range}: {granted:?}");
    }
    let (took, count) = (opening.elapsed(), 1_000 * usize::from(ranges));
    let bytes = resident_bytes().saturating_sub(before) / count.max(1);
    let with = round_trips(users_at, TRIPS);
    let idle = cpu();
    thread::sleep(REST); // paces: what is measured is that nothing happens
    let idle = cpu() - idle;
    println!(
        "{count} ports: open after {took:?}, {bytes} bytes each; {TRIPS} round trips take {without:?} of the \
         processors without and {with:?} with them; {idle:?} in {REST:?} at rest"
    );
    assert!(count >= 1_000, "{room} descriptors");
    // Looking at each port once a turn takes ten times as long; the rest is what others do on this machine.
    assert!(with < without * 3, "{with:?} with them, {without:?} without");
    assert!(idle < REST / 50, "{idle:?} at rest");
    assert!(bytes < 2_048, "{bytes} bytes each");
    // The loop still hears.
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, 10_999)).is_ok());
}
