//! A slow link, in a process of its own: a relay that delivers every chunk half a round trip after it came, in
//! order, and a new connection's first chunk one more round trip later, because that is what a TCP handshake
//! costs on a real link.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way in one direction before no more are read.
const CHUNKS_MAX: usize = 1024;
/// What epoll can sleep: it counts whole milliseconds, so that the last one before a delivery is waited for awake.
const TICK: Duration = Duration::from_millis(1);

/// One direction: from stream `from` of the pair to the other.
struct Direction {
    /// Bytes with the time of their delivery; an empty chunk is the end.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    readable: bool,
    ended: bool,
}

struct Pair {
    /// Who dialled the link, and whom the link dialled, which exists half a round trip later.
    ends: [Option<TcpStream>; 2],
    dial_at: Instant,
    opens_at: Instant,
    directions: [Direction; 2],
}

/// Relays between a listener and an address for ever.
pub fn run(mut listener: TcpListener, to: SocketAddr, round_trip: Duration) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry().register(&mut listener, Token(usize::MAX), Interest::READABLE)?;
    let mut pairs: Slab<Pair> = Slab::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let due = pairs.iter().filter_map(|(_, pair)| pair.due()).min();
        let pause = due.map(|at| at.saturating_duration_since(Instant::now()).saturating_sub(TICK));
        poll.poll(&mut events, pause.map(|pause| if pause < TICK { Duration::ZERO } else { pause }))?;
        let now = Instant::now();
        for event in &events {
            let Token(token) = event.token();
            if let Some(pair) = pairs.get_mut(token / 2) {
                pair.directions[token % 2].readable = true;
            }
        }
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true)?;
            let entry = pairs.vacant_entry();
            register(&poll, &mut stream, entry.key(), 0)?;
            entry.insert(Pair::new(stream, now, round_trip));
        }
        let mut over = Vec::new();
        for (key, pair) in &mut pairs {
            if pair.ends[1].is_none() && pair.dial_at <= now {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                register(&poll, &mut stream, key, 1)?;
                pair.ends[1] = Some(stream);
            }
            let moved = (0..2).try_for_each(|from| {
                pair.take_in(from, now, round_trip / 2, &mut buffer)?;
                pair.deliver(from, now)
            });
            if moved.is_err() || pair.is_over() {
                over.push(key);
            }
        }
        for key in over {
            pairs.remove(key);
        }
    }
}

fn register(poll: &Poll, stream: &mut TcpStream, key: usize, end: usize) -> io::Result<()> {
    poll.registry().register(stream, Token(key * 2 + end), Interest::READABLE | Interest::WRITABLE)
}

impl Pair {
    fn new(stream: TcpStream, now: Instant, round_trip: Duration) -> Pair {
        let direction = || Direction { chunks: VecDeque::new(), readable: true, ended: false };
        Pair {
            ends: [Some(stream), None],
            dial_at: now + round_trip / 2,
            opens_at: now + round_trip,
            directions: [direction(), direction()],
        }
    }

    fn take_in(&mut self, from: usize, now: Instant, delay: Duration, buffer: &mut [u8]) -> io::Result<()> {
        let (Some(stream), direction) = (&mut self.ends[from], &mut self.directions[from]) else {
            return Ok(());
        };
        // Whoever dialled cannot speak before the handshake is over.
        let sent_at = if from == 0 { now.max(self.opens_at) } else { now };
        while direction.readable && !direction.ended && direction.chunks.len() < CHUNKS_MAX {
            match stream.read(buffer) {
                Ok(count) => {
                    direction.ended = count == 0;
                    direction.chunks.push_back((sent_at + delay, buffer[..count].to_vec()));
                }
                Err(error) => match error.kind() {
                    // A stream that is still connecting is not readable either.
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => direction.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn deliver(&mut self, from: usize, now: Instant) -> io::Result<()> {
        let Some(stream) = &mut self.ends[1 - from] else { return Ok(()) };
        let chunks = &mut self.directions[from].chunks;
        while chunks.front().is_some_and(|chunk| chunk.0 <= now) {
            let Some((_, bytes)) = chunks.front_mut() else { break };
            if bytes.is_empty() {
                stream.shutdown(Shutdown::Write)?;
                chunks.pop_front();
                continue;
            }
            match stream.write(bytes) {
                Ok(count) if count == bytes.len() => drop(chunks.pop_front()),
                Ok(count) => drop(bytes.drain(..count)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => return Ok(()),
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// When something must be done, unless an event comes first. What the far side does not take is not due.
    fn due(&self) -> Option<Instant> {
        let dial = self.ends[1].is_none().then_some(self.dial_at);
        let now = Instant::now();
        let fronts = self.directions.iter().filter_map(|direction| Some(direction.chunks.front()?.0));
        dial.into_iter().chain(fronts.map(|at| at.max(now))).min()
    }

    fn is_over(&self) -> bool {
        self.directions.iter().all(|direction| direction.ended && direction.chunks.is_empty())
    }
}
