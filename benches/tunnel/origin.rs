//! The local server behind a contender, in a process of its own. Each contender has its own origin: the ports of ended
//! connections stay taken there for a while (TIME_WAIT), and no contender must find those of another one taken.
//!
//! The first byte of a connection says what it is for: [`ECHO`] sends everything back, [`SINK`] reads to the end
//! and answers with the count of bytes, [`SOURCE`] pours until it is closed.

use std::io::{self, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

/// All bytes are sent back.
pub const ECHO: u8 = b'E';
/// The count of bytes comes back, after the end.
pub const SINK: u8 = b'U';
/// Bytes come without end.
pub const SOURCE: u8 = b'D';

/// Bytes moved by one system call; not a multiple of a page. The kernel appends what is sent to what was sent before.
/// With whole pages, every copy would lie to its source as the copy before it did. A copy whose target is 1 to 31 bytes
/// behind its source within a page is many times slower on some EPYC (see [`skyorg::base::buffer`]). With this size such
/// places come and go.
pub const CHUNK_BYTES: usize = 256 * 1024 + 1_037;
/// Chunks that one connection moves before the next one has its turn.
const TURN_CHUNKS: usize = 4;
const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: TcpStream,
    purpose: Option<u8>,
    /// Bytes read.
    count: u64,
    /// Echoed bytes that the socket did not take.
    unsent: Vec<u8>,
}

enum Served {
    Waiting,
    Again,
    Over,
}

/// Serves for ever.
pub fn run(mut listener: TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Slab<Connection> = Slab::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut runnable, mut again) = (Vec::new(), Vec::new());
    loop {
        poll.poll(&mut events, (!again.is_empty()).then_some(std::time::Duration::ZERO))?;
        runnable.append(&mut again);
        for event in &events {
            match event.token() {
                LISTENER => accept(&listener, &poll, &mut connections)?,
                Token(key) => runnable.push(key),
            }
        }
        for key in runnable.drain(..) {
            let Some(connection) = connections.get_mut(key) else { continue };
            match connection.serve(&mut buffer) {
                Ok(Served::Waiting) => {}
                Ok(Served::Again) => again.push(key),
                Ok(Served::Over) | Err(_) => drop(connections.remove(key)),
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => continue,
        };
        stream.set_nodelay(true)?;
        let entry = connections.vacant_entry();
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(entry.key()), interest)?;
        entry.insert(Connection { stream, purpose: None, count: 0, unsent: Vec::new() });
    }
}

impl Connection {
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Served> {
        if self.purpose == Some(SOURCE) {
            return self.pour(buffer);
        }
        for _ in 0..TURN_CHUNKS {
            if !self.flush()? {
                return Ok(Served::Waiting);
            }
            let count = match self.stream.read(buffer) {
                Ok(0) => return self.ended(),
                Ok(count) => count,
                Err(error) => return waiting(error),
            };
            self.count += count as u64;
            match *self.purpose.get_or_insert(buffer[0]) {
                ECHO => self.unsent.extend_from_slice(&buffer[..count]),
                SOURCE => return self.pour(buffer),
                _ => {}
            }
        }
        Ok(Served::Again)
    }

    fn pour(&mut self, buffer: &[u8]) -> io::Result<Served> {
        for _ in 0..TURN_CHUNKS {
            if let Err(error) = self.stream.write(buffer) {
                return waiting(error);
            }
        }
        Ok(Served::Again)
    }

    fn ended(&mut self) -> io::Result<Served> {
        if self.purpose == Some(SINK) {
            self.stream.write_all(&self.count.to_be_bytes())?;
        }
        Ok(Served::Over)
    }

    /// True once nothing is left to be sent. What is echoed is small, so that it almost always leaves at once.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) => return waiting(error).map(|_| false),
            }
        }
        Ok(true)
    }
}

fn waiting(error: io::Error) -> io::Result<Served> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Served::Waiting),
        io::ErrorKind::Interrupted => Ok(Served::Again),
        _ => Err(error),
    }
}
