//! The attackers. Those with a key speak the real wire and hold the rival's key, not the victim's.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skyorg::config::Key;
use skyorg::wire::control::{Capabilities, ControlFrame, Hello, VERSIONS, Versions, Welcome};
use skyorg::wire::frame::Frame;
use skyorg::wire::handshake::{ANSWER_BYTES, ClearHello, Initiator, KeyId, Purpose, Secret, Suite, key_id};
use skyorg::wire::publication::{Publish, Transports, Want};
use skyorg::wire::record::Channel;
use socket2::{Domain, Socket, Type};

/// Whom they attack, and the key that they hold.
pub struct Target {
    pub control: SocketAddr,
    pub message: SocketAddr,
    /// Users of a service that is not the victim's connect there.
    pub other: SocketAddr,
    /// Users of the victim's service connect there.
    pub web: SocketAddr,
    /// Where attackers come from that need not share the client's address.
    pub from: Ipv4Addr,
    pub key: Key,
    /// Where the status is asked for: its socket, and by TCP.
    pub status: PathBuf,
    pub metrics: SocketAddr,
}

type Outcome = io::Result<()>;

/// Attacks for this time.
pub fn run(name: &str, target: &Target, time: Duration) -> Outcome {
    let end = Instant::now() + time;
    let here = Ipv4Addr::LOCALHOST;
    let ports = [target.control, target.message];
    match name {
        "waiting" => stand_silent(&[target.other], target.from, 3_000, 4_200, end),
        "strangers" => stand_silent(&ports, here, 3_000, 15_000, end),
        "strangers-fast" => stand_silent(&ports, here, 8_000, 15_000, end),
        "silent-users" => stand_silent(&[target.web], target.from, 1_000, 18_000, end),
        "refusing" => stand_silent(&[target.other], target.from, 1_000, 4_000, end),
        "passers" => until(end, || connect(target.other, target.from).map(drop)),
        "links" => take_all(target, end),
        "comers" => until(end, || Control::connect(target, VERSIONS).map(drop)),
        "pings" => ping(target, end),
        "refused" => be_refused(target, end),
        "publishers" => publish_again_and_again(target, end),
        "watchers" => watch(target, end),
        _ => Err(io::Error::other(format!("no attack '{name}'"))),
    }
}

/// Does something again and again.
fn until(end: Instant, mut act: impl FnMut() -> io::Result<()>) -> Outcome {
    while Instant::now() < end {
        act()?;
    }
    Ok(())
}

/// A connection from this address. It begins; whether it stands is not waited for.
fn connect(to: SocketAddr, from: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    // An end by reset leaves no port taken.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(socket),
    }
}

/// Connects so often a second, says nothing, and keeps the newest.
fn stand_silent(to: &[SocketAddr], from: Ipv4Addr, per_second: u32, kept: usize, end: Instant) -> Outcome {
    let (began, mut silent) = (Instant::now(), VecDeque::new());
    for number in 0u32.. {
        let due = began + Duration::from_secs(1) * number / per_second;
        if due > end {
            break;
        }
        thread::sleep(due.saturating_duration_since(Instant::now())); // paces: connections a second
        if silent.len() == kept {
            silent.pop_front();
        }
        silent.extend(connect(to[number as usize % to.len()], from).ok());
    }
    Ok(())
}

/// A proved connection, blocking.
struct Control {
    stream: TcpStream,
    channel: Channel,
    unread: Vec<u8>,
}

impl Control {
    fn prove(
        to: SocketAddr,
        from: Ipv4Addr,
        purpose: Purpose,
        key_id: KeyId,
        secret: &Secret,
        ticket: u64,
    ) -> io::Result<Control> {
        let mut stream: TcpStream = {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
            socket.connect(&to.into())?;
            socket.into()
        };
        let hello = ClearHello { suite: Suite::preferred(), purpose, key_id };
        let (initiator, flight) =
            Initiator::begin(hello, secret, ticket).map_err(|_| io::Error::other("no handshake"))?;
        stream.write_all(&flight)?;
        let mut answer = [0; ANSWER_BYTES];
        stream.read_exact(&mut answer)?;
        let proved = initiator.finish(&answer).map_err(|_| io::Error::other("no proof"))?;
        Ok(Control { stream, channel: Channel::new(proved, false), unread: Vec::new() })
    }

    /// A control connection that has said Hello.
    fn connect(target: &Target, versions: Versions) -> io::Result<Control> {
        let id = key_id(&target.key.secret);
        let secret = &target.key.secret;
        let mut control = Control::prove(target.control, target.from, Purpose::Control, id, secret, 0)?;
        let mut instance = [0; 16];
        fastrand::fill(&mut instance);
        let capabilities = Capabilities::new(false);
        let heartbeat = Duration::from_secs(30);
        control.send(&ControlFrame::Hello(Hello {
            versions,
            capabilities,
            heartbeat,
            instance,
            resumes: None,
        }))?;
        Ok(control)
    }

    fn send(&mut self, frame: &ControlFrame) -> io::Result<()> {
        let mut clear = Vec::new();
        frame.encode(&mut clear);
        self.send_clear(&clear)
    }

    fn send_clear(&mut self, clear: &[u8]) -> io::Result<()> {
        let mut sealed = [0; 1_024];
        let count = self.channel.seal(clear, &mut sealed).map_err(|_| io::Error::other("sealing"))?;
        self.stream.write_all(&sealed[..count])
    }

    /// The next frame's plaintext; blocks until it is there.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut clear = vec![0; self.unread.len()];
            let mut room = &mut clear[..];
            let opened = self.channel.open_sealed(&self.unread, &mut room);
            if let Some((consumed, clear)) = opened.map_err(|_| io::Error::other("a bad record"))? {
                let clear = clear.to_vec();
                self.unread.drain(..consumed);
                return Ok(clear);
            }
            let mut buffer = [0; 4_096];
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread.extend(&buffer[..count]);
        }
    }

    fn receive_frame(&mut self) -> io::Result<ControlFrame> {
        ControlFrame::decode(&self.receive()?).map_err(|_| io::Error::other("a bad frame"))
    }

    fn welcome(&mut self) -> io::Result<Welcome> {
        match self.receive_frame()? {
            ControlFrame::Welcome(welcome) => Ok(welcome),
            other => Err(io::Error::other(format!("{other:?} instead of Welcome"))),
        }
    }
}

/// Links that publish the other service, bring every message connection that they are asked for, and never serve.
fn take_all(target: &Target, end: Instant) -> Outcome {
    thread::scope(|scope| {
        for _ in 0..75 {
            scope.spawn(|| {
                until(end, || {
                    let _ = take_some(target, end);
                    thread::sleep(Duration::from_millis(100)); // paces: an attacker that comes again
                    Ok(())
                })
            });
        }
        stand_silent(&[target.other], target.from, 100, 10_000, end)
    })
}

fn take_some(target: &Target, end: Instant) -> io::Result<()> {
    let mut control = Control::connect(target, VERSIONS)?;
    control.send(&publish(1, "other"))?;
    let welcome = control.welcome()?;
    let mut messages = Vec::new();
    while Instant::now() < end {
        match control.receive_frame()? {
            ControlFrame::Open { first_ticket, count } => {
                for ticket in (first_ticket..).take(count as usize) {
                    let (link, secret) = (welcome.link, &welcome.pool_key);
                    let message =
                        Control::prove(target.message, target.from, Purpose::Message, link, secret, ticket);
                    messages.extend(message.ok());
                }
            }
            ControlFrame::Ping => {
                control.send(&ControlFrame::Pong)?;
                // Their pings, too: so that none of them is given up.
                for message in &mut messages {
                    pong(message)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn publish(number: u32, service: &str) -> ControlFrame {
    ControlFrame::Publish(Publish {
        number,
        name: service.parse().expect("a name"),
        want: Want::Service,
        transports: Transports::Tcp,
        dial_time: Duration::from_secs(5),
        share: false,
        probe: true,
    })
}

/// Links that publish the other service, and the victim's, and withdraw them, as fast as the server reads it.
fn publish_again_and_again(target: &Target, end: Instant) -> Outcome {
    const LINKS: usize = 30;
    thread::scope(|scope| {
        for _ in 0..LINKS {
            scope.spawn(|| {
                until(end, || {
                    let _ = publish_until_closed(target, end);
                    thread::sleep(Duration::from_millis(10)); // paces: an attacker that comes again
                    Ok(())
                })
            });
        }
    });
    Ok(())
}

fn publish_until_closed(target: &Target, end: Instant) -> io::Result<()> {
    let mut control = Control::connect(target, VERSIONS)?;
    control.stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    for number in (1u32..).step_by(2).take_while(|_| Instant::now() < end) {
        for frame in
            [publish(number, "other"), ControlFrame::Unpublish(number), publish(number + 1, "nobody")]
        {
            control.send(&frame)?;
        }
        read_away(&mut control)?;
    }
    Ok(())
}

fn pong(message: &mut Control) -> io::Result<()> {
    message.stream.set_read_timeout(Some(Duration::from_millis(1)))?;
    while let Ok(clear) = message.receive() {
        if let Ok(Frame::Ping) = Frame::decode(&clear) {
            message.send_clear(&Frame::Pong.encode())?;
        }
    }
    Ok(())
}

/// A thousand links that ping as often as they may.
fn ping(target: &Target, end: Instant) -> Outcome {
    const LINKS: usize = 1_000;
    let mut links = Vec::new();
    let mut began = Instant::now();
    while Instant::now() < end {
        if links.len() < LINKS {
            match Control::connect(target, VERSIONS) {
                Ok(control) => links.push(control),
                Err(_) => thread::sleep(Duration::from_millis(1)), // paces: an attacker that comes again
            }
            if links.len() < LINKS {
                continue;
            }
            began = Instant::now();
        }
        links.retain_mut(|link| link.send(&ControlFrame::Ping).is_ok() && read_away(link).is_ok());
        began += Duration::from_millis(50);
        thread::sleep(began.saturating_duration_since(Instant::now())); // paces: pings a second
    }
    Ok(())
}

/// Throws away what has come.
fn read_away(control: &mut Control) -> io::Result<()> {
    control.stream.set_nonblocking(true)?;
    let outcome = loop {
        match control.stream.read(&mut [0; 4_096]) {
            Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    control.stream.set_nonblocking(false)?;
    outcome
}

/// Says Hello in a version that the server does not speak, and stays as long as it may.
fn be_refused(target: &Target, end: Instant) -> Outcome {
    let versions = Versions { least: 40_000, most: 40_001 };
    let mut kept = VecDeque::new();
    until(end, || {
        if kept.len() == 10_000 {
            kept.pop_front();
        }
        kept.extend(Control::connect(target, versions).ok());
        Ok(())
    })
}

/// A hundred readers of the status that stop in the middle of their request or of its answer, and a hundred scrapers
/// that say a byte a minute. Each comes again once it is sent away.
fn watch(target: &Target, end: Instant) -> Outcome {
    const EACH: usize = 100;
    let (mut readers, mut scrapers) = (Vec::new(), Vec::new());
    until(end, || {
        // One that is answered may still read.
        readers.retain(|reader| !has(reader, PollFlags::HUP));
        for number in readers.len()..EACH {
            let mut reader = UnixStream::connect(&target.status)?;
            let request = b"GET /status.json HTTP/1.1\r\n\r\n";
            reader.write_all(&request[..if number % 2 == 0 { request.len() } else { 9 }])?;
            readers.push(reader);
        }
        // A minute is longer than one of them stays.
        scrapers.retain(|scraper| !has(scraper, PollFlags::RDHUP));
        for _ in scrapers.len()..EACH {
            let mut scraper = TcpStream::connect(target.metrics)?;
            scraper.write_all(b"G")?;
            scrapers.push(scraper);
        }
        thread::sleep(Duration::from_millis(100)); // paces: readers that come again
        Ok(())
    })
}

/// Whether this has happened to a connection.
fn has(stream: &impl AsFd, event: PollFlags) -> bool {
    let mut seen = [PollFd::new(stream, event)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut seen, Some(&none)).is_ok() && seen[0].revents().intersects(event | PollFlags::ERR)
}
