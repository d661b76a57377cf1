//! A slow link, in a process of its own. It is a relay that delivers every chunk in order, half a round trip after it
//! came. A new connection is dialled on, and its first chunk comes, one more round trip later: on a real link the TCP
//! handshake costs that, and a server sees a connection when the last packet of it has come.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::alarm::Alarm;

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way in one direction before no more are read.
const CHUNKS_MAX: usize = 1024;
const LISTENER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// One direction: from stream `from` of the pair to the other.
struct Direction {
    /// Bytes with the time of their delivery; an empty chunk is the end.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    readable: bool,
    ended: bool,
}

struct Pair {
    /// The connection that came in, and the one that the link dials for it.
    ends: [Option<TcpStream>; 2],
    dial_at: Instant,
    opens_at: Instant,
    directions: [Direction; 2],
}

/// Relays between a listener and an address for ever.
pub fn run(mut listener: TcpListener, to: SocketAddr, round_trip: Duration) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut alarm = Alarm::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&alarm.timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    let mut pairs: Slab<Pair> = Slab::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut touched = Vec::new();
    loop {
        alarm.set()?;
        poll.poll(&mut events, None)?;
        let now = Instant::now();
        for event in &events {
            let Token(token) = event.token();
            if let Some(pair) = pairs.get_mut(token / 2) {
                pair.directions[token % 2].readable = true;
                touched.push(token / 2);
            }
        }
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true)?;
            let entry = pairs.vacant_entry();
            let key = entry.key();
            register(&poll, &mut stream, key, 0)?;
            alarm.due.push(Reverse((entry.insert(Pair::new(stream, now, round_trip)).dial_at, key)));
            touched.push(key);
        }
        while alarm.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            touched.extend(alarm.due.pop().map(|Reverse((_, key))| key));
        }
        for key in touched.drain(..) {
            let Some(pair) = pairs.get_mut(key) else { continue };
            if pair.ends[1].is_none() && pair.dial_at <= now {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                register(&poll, &mut stream, key, 1)?;
                pair.ends[1] = Some(stream);
            }
            let moved = (0..2).try_for_each(|from| {
                pair.deliver(from, now)?;
                let due = pair.take_in(from, now, round_trip / 2, &mut buffer)?;
                alarm.due.extend(due.map(|at| Reverse((at, key))));
                Ok::<_, io::Error>(())
            });
            if moved.is_err() || pair.is_over() {
                pairs.remove(key);
            }
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
            dial_at: now + round_trip + round_trip / 2,
            opens_at: now + round_trip,
            directions: [direction(), direction()],
        }
    }

    /// Reads what has come; returns when it is to be delivered.
    fn take_in(
        &mut self,
        from: usize,
        now: Instant,
        delay: Duration,
        buffer: &mut [u8],
    ) -> io::Result<Option<Instant>> {
        let (Some(stream), direction) = (&mut self.ends[from], &mut self.directions[from]) else {
            return Ok(None);
        };
        let mut due = None;
        // The end that dialled cannot speak before its handshake is over.
        let sent_at = if from == 0 { now.max(self.opens_at) } else { now };
        while direction.readable && !direction.ended && direction.chunks.len() < CHUNKS_MAX {
            match stream.read(buffer) {
                Ok(count) => {
                    direction.ended = count == 0;
                    direction.chunks.push_back((sent_at + delay, buffer[..count].to_vec()));
                    due = Some(sent_at + delay);
                }
                Err(error) => match error.kind() {
                    // A stream that is still connecting is not readable either.
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => direction.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(due)
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

    fn is_over(&self) -> bool {
        self.directions.iter().all(|direction| direction.ended && direction.chunks.is_empty())
    }
}
