//! The users: one thread, on mio, with as little work per request as possible, so that the load generator is never what
//! is measured.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as BlockingStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::origin::{CHUNK_BYTES, ECHO, SINK, SOURCE};

/// Bytes of a request, and of its answer.
pub const REQUEST_BYTES: usize = 64;
/// How long one request may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Sessions that [`hold`] opens at once.
const HELD_AT_ONCE: usize = 100;
/// Largest latency that a histogram holds, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Addresses of loopback to which users connect in turn. Between two addresses there are some 28,000 ports. Each stays
/// taken for a second or more after its connection has ended (TIME_WAIT).
const ADDRESSES: u64 = 16;

const REQUEST: [u8; REQUEST_BYTES] = [ECHO; REQUEST_BYTES];

/// Users that each send a request, wait for the answer and send the next.
pub struct Plan {
    /// Where they connect: at this port, at this address and those that follow.
    pub address: SocketAddr,
    /// How many at once.
    pub users: usize,
    /// Whether every request has a connection of its own. The time to connect is then part of the request's.
    pub fresh: bool,
    /// No request begins later than this.
    pub time: Duration,
    /// No more requests than this.
    pub requests: u64,
}

/// What the users of a plan have met.
pub struct Outcome {
    /// Latencies in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Requests that got no answer, or another one.
    pub failures: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Connections that are still open, if they were not `fresh`.
    pub open: Vec<TcpStream>,
}

impl Outcome {
    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile, in seconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.latencies.value_at_percentile(percent) as f64 / 1e9
    }
}

/// An empty histogram of latencies in nanoseconds, three digits exact.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("bounds that are constants and good")
}

struct User {
    stream: Option<TcpStream>,
    began: Instant,
    /// The request has been sent; until then the connection is being made.
    sent: bool,
    received: usize,
}

struct Users<'a> {
    plan: &'a Plan,
    poll: Poll,
    users: Vec<User>,
    latencies: Histogram<u64>,
    began: Instant,
    asked: u64,
    failures: u64,
    busy: usize,
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> io::Result<Outcome> {
    let now = Instant::now();
    let user = |_| User { stream: None, began: now, sent: false, received: 0 };
    let mut users = Users {
        plan,
        poll: Poll::new()?,
        users: (0..plan.users).map(user).collect(),
        latencies: latencies(),
        began: now,
        asked: 0,
        failures: 0,
        busy: 0,
    };
    let mut events = Events::with_capacity(1024);
    for index in 0..plan.users {
        users.ask(index)?;
    }
    let mut last = now;
    while users.busy > 0 {
        users.poll.poll(&mut events, Some(Duration::from_secs(1)))?;
        for event in &events {
            users.serve(event.token().0)?;
        }
        last = Instant::now();
        if events.is_empty() {
            users.give_up(last);
        }
    }
    let open = users.users.into_iter().filter_map(|user| user.stream).collect();
    Ok(Outcome { latencies: users.latencies, failures: users.failures, elapsed: last - now, open })
}

impl Users<'_> {
    /// The next request of a user, if there is to be one.
    fn ask(&mut self, index: usize) -> io::Result<()> {
        let now = Instant::now();
        if self.asked >= self.plan.requests || now - self.began >= self.plan.time {
            return Ok(());
        }
        self.asked += 1;
        self.busy += 1;
        let user = &mut self.users[index];
        (user.began, user.received, user.sent) = (now, 0, false);
        match &mut user.stream {
            Some(stream) => match stream.write(&REQUEST) {
                Ok(REQUEST_BYTES) => user.sent = true,
                _ => self.fail(index),
            },
            None => match TcpStream::connect(nth_address(self.plan.address, self.asked)) {
                Ok(mut stream) => {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut stream, Token(index), interest)?;
                    user.stream = Some(stream);
                }
                Err(_) => self.fail(index),
            },
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) -> io::Result<()> {
        let user = &mut self.users[index];
        let Some(stream) = &mut user.stream else { return Ok(()) };
        if !user.sent {
            let connected = matches!(stream.take_error(), Ok(None)) && stream.set_nodelay(true).is_ok();
            match connected.then(|| stream.write(&REQUEST)) {
                Some(Ok(REQUEST_BYTES)) => user.sent = true,
                Some(Err(error)) if is_early(&error) => return Ok(()),
                _ => {
                    self.fail(index);
                    return self.ask(index);
                }
            }
        }
        let mut answer = [0; 2 * REQUEST_BYTES];
        loop {
            match stream.read(&mut answer) {
                Ok(count) if count > 0 && user.received + count <= REQUEST_BYTES => user.received += count,
                Err(error) if is_early(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                _ => {
                    // An end, an error or too much: a failure, unless nothing was being waited for.
                    if user.received < REQUEST_BYTES {
                        self.fail(index);
                    }
                    return self.ask(index);
                }
            }
            if user.received == REQUEST_BYTES {
                let latency = user.began.elapsed().as_nanos() as u64;
                self.latencies.saturating_record(latency);
                self.busy -= 1;
                if self.plan.fresh {
                    user.stream = None;
                }
                return self.ask(index);
            }
        }
    }

    fn fail(&mut self, index: usize) {
        self.users[index].stream = None;
        self.failures += 1;
        self.busy -= 1;
    }

    /// Requests that were not answered in time.
    fn give_up(&mut self, now: Instant) {
        for index in 0..self.users.len() {
            let user = &self.users[index];
            let waits = user.stream.is_some() && user.received < REQUEST_BYTES;
            if waits && now - user.began > PATIENCE {
                self.fail(index);
            }
        }
    }
}

/// The address at which the user of this number connects.
fn nth_address(first: SocketAddr, number: u64) -> SocketAddr {
    match first {
        SocketAddr::V4(v4) => {
            let ip = Ipv4Addr::from_bits(v4.ip().to_bits() + (number % ADDRESSES) as u32);
            (ip, v4.port()).into()
        }
        v6 => v6,
    }
}

/// Not connected yet, or nothing to read.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Opens sessions that have spoken once, and holds them.
pub fn hold(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    while open.len() < count {
        let users = HELD_AT_ONCE.min(count - open.len());
        let requests = users as u64;
        let outcome = run(&Plan { address, users, fresh: false, time: PATIENCE, requests })?;
        if outcome.failures > 0 {
            let error = format!("{} of {users} users failed beside {}", outcome.failures, open.len());
            return Err(io::Error::other(error));
        }
        open.extend(outcome.open);
    }
    Ok(open)
}

/// Asks once on a connection of its own; fails if no answer comes.
pub fn ask_once(address: SocketAddr) -> io::Result<()> {
    let mut stream = BlockingStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&REQUEST)?;
    let mut answer = [0; REQUEST_BYTES];
    stream.read_exact(&mut answer)
}

/// Which way bulk travels.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// From the users to the origin; what the origin counted is what counts.
    Up,
    /// From the origin to the users.
    Down,
}

/// Moves as many bytes as go through in `time`; returns how many, and how long it took until the last one arrived.
pub fn bulk(address: SocketAddr, way: Bulk, streams: usize, time: Duration) -> io::Result<(u64, Duration)> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(64);
    let mut users = Vec::new();
    for index in 0..streams {
        let stream = BlockingStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        stream.write_all(&[if way == Bulk::Up { SINK } else { SOURCE }])?;
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        users.push(stream);
    }
    let began = Instant::now();
    let mut buffer = vec![SINK; CHUNK_BYTES];
    let mut ready = vec![true; streams];
    let mut bytes = 0;
    while began.elapsed() < time {
        let pause = if ready.contains(&true) { Duration::ZERO } else { time };
        poll.poll(&mut events, Some(pause))?;
        events.iter().for_each(|event| ready[event.token().0] = true);
        for (stream, ready) in users.iter_mut().zip(&mut ready).filter(|(_, ready)| **ready) {
            let moved = match way {
                Bulk::Up => stream.write(&buffer),
                Bulk::Down => stream.read(&mut buffer),
            };
            match moved {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => *ready = false,
                Err(error) => return Err(error),
            }
        }
    }
    if way == Bulk::Up {
        bytes = finish(&mut poll, &mut users)?;
    }
    Ok((bytes, began.elapsed()))
}

/// Ends all streams, and adds up what the origin says it has received.
fn finish(poll: &mut Poll, users: &mut [TcpStream]) -> io::Result<u64> {
    let mut events = Events::with_capacity(64);
    let deadline = Instant::now() + PATIENCE;
    let mut counts = vec![[0; 8]; users.len()];
    let mut filled = vec![0; users.len()];
    for stream in users.iter() {
        stream.shutdown(std::net::Shutdown::Write)?;
    }
    while filled.iter().any(|&count| count < 8) {
        if Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        for (index, stream) in users.iter_mut().enumerate() {
            match stream.read(&mut counts[index][filled[index]..]) {
                Ok(0) if filled[index] < 8 => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled[index] += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        poll.poll(&mut events, Some(Duration::from_millis(1)))?;
    }
    Ok(counts.into_iter().map(u64::from_be_bytes).sum())
}
