//! One of those who look: a connection with one request and one answer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::time::Instant;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use super::http::{Door, Parsed, REQUEST_BYTES_MAX, Request, parse};

/// Most that is read of what comes behind a request, so that closing does not destroy the answer.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;

/// Its connection.
#[derive(Debug)]
pub enum Stream {
    /// By the unix socket.
    Socket(UnixStream),
    /// By TCP.
    Tcp(TcpStream),
}

impl Stream {
    /// Whether it came by TCP.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }

    fn door(&self) -> Door {
        match self {
            Stream::Socket(_) => Door::Socket,
            Stream::Tcp(stream) => {
                let own = stream.local_addr().map(|address| address.ip());
                Door::Tcp(own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Socket(stream) => stream.read(bytes),
            Stream::Tcp(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Socket(stream) => stream.write(bytes),
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        match self {
            Stream::Socket(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// Its request comes.
    Asking(Vec<u8>),
    /// It waits for what the loop knows, until a moment.
    Waiting { request: Request, number: u64, until: Instant },
    /// It reads its answer.
    Reading { answer: Vec<u8>, read: usize },
    /// It has all of it, and is to close.
    Leaving { discarded: usize },
}

/// What comes of a step.
#[derive(Debug)]
pub enum Step {
    /// Nothing more happens until its connection is ready, or the loop has answered.
    Waits,
    /// It wants this.
    Asks(Request),
    /// It is done with.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    /// Its place among all who ever came.
    pub number: u64,
    stream: Stream,
    stage: Stage,
    deadline: Instant,
}

impl Reader {
    /// A reader that has asked for nothing yet and may stay until a moment.
    pub fn new(stream: Stream, number: u64, deadline: Instant) -> Reader {
        Reader { number, stream, stage: Stage::Asking(Vec::new()), deadline }
    }

    /// Whether it came by TCP.
    pub fn is_tcp(&self) -> bool {
        self.stream.is_tcp()
    }

    /// Has its events come under this token.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.stream {
            Stream::Socket(stream) => stream.register(registry, token, interest),
            Stream::Tcp(stream) => stream.register(registry, token, interest),
        }
    }

    /// When it is to be looked at, whatever happens.
    pub fn due(&self) -> Instant {
        match self.stage {
            Stage::Waiting { until, .. } => until.min(self.deadline),
            _ => self.deadline,
        }
    }

    /// Bytes of its answer that it has not read.
    pub fn waiting_bytes(&self) -> usize {
        match &self.stage {
            Stage::Reading { answer, .. } => answer.capacity(),
            _ => 0,
        }
    }

    /// It waits for what the loop says under this number, until a moment.
    pub fn wait(&mut self, request: Request, number: u64, until: Instant) {
        self.stage = Stage::Waiting { request, number, until };
    }

    /// What it wants, if it waits for this number or an earlier one.
    pub fn waits_for(&mut self, answered: u64) -> Option<Request> {
        match &self.stage {
            Stage::Waiting { request, number, .. } if *number <= answered => Some(request.clone()),
            _ => None,
        }
    }

    /// What it wants, if it still waits for the loop.
    pub fn waits_for_loop(&mut self) -> Option<Request> {
        self.waits_for(u64::MAX)
    }

    /// It is to read this.
    pub fn write(&mut self, answer: Vec<u8>) {
        self.stage = Stage::Reading { answer, read: 0 };
    }

    /// Goes on as far as its connection lets it.
    pub fn step(&mut self) -> Step {
        let outcome = match self.stage {
            Stage::Asking(_) => self.hear(),
            Stage::Waiting { .. } => return Step::Waits,
            Stage::Reading { .. } => self.speak(),
            Stage::Leaving { .. } => self.leave(),
        };
        match outcome {
            Ok(step) => step,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Waits,
            Err(_) => Step::Ended,
        }
    }

    fn hear(&mut self) -> io::Result<Step> {
        let Stage::Asking(heard) = &mut self.stage else { return Ok(Step::Waits) };
        loop {
            let mut bytes = [0; 2_048];
            let room = bytes.len().min(REQUEST_BYTES_MAX - heard.len());
            let count = retry(|| self.stream.read(&mut bytes[..room]))?;
            if count == 0 {
                return Ok(Step::Ended);
            }
            heard.extend_from_slice(&bytes[..count]);
            match parse(heard, self.stream.door()) {
                Parsed::Partial => {}
                Parsed::Good(request) => return Ok(Step::Asks(request)),
                Parsed::Refused(answer) => {
                    let is_head = heard.starts_with(b"HEAD ");
                    self.write(answer.encode(is_head));
                    return self.speak();
                }
            }
        }
    }

    fn speak(&mut self) -> io::Result<Step> {
        let Stage::Reading { answer, read } = &mut self.stage else { return Ok(Step::Waits) };
        while *read < answer.len() {
            *read += retry(|| self.stream.write(&answer[*read..]))?;
        }
        self.stream.shut_down()?;
        self.stage = Stage::Leaving { discarded: 0 };
        self.leave()
    }

    /// Closing with unread bytes would destroy what was written.
    fn leave(&mut self) -> io::Result<Step> {
        let Stage::Leaving { discarded } = &mut self.stage else { return Ok(Step::Waits) };
        while *discarded < DISCARDED_BYTES_MAX {
            match retry(|| self.stream.read(&mut [0; 2_048]))? {
                0 => break,
                count => *discarded += count,
            }
        }
        Ok(Step::Ended)
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_refused_head_is_answered_without_a_body() {
        for (method, has_body) in [("GET", true), ("HEAD", false)] {
            let (own, mut other) = std::os::unix::net::UnixStream::pair().expect("the system gives them");
            own.set_nonblocking(true).expect("a socket");
            write!(other, "{method} /nothing HTTP/1.1\r\n\r\n").expect("there is room");
            let stream = Stream::Socket(UnixStream::from_std(own));
            let mut reader = Reader::new(stream, 1, Instant::now() + Duration::from_secs(60));
            assert!(matches!(reader.step(), Step::Waits));
            drop(reader);
            let mut answer = String::new();
            other.read_to_string(&mut answer).expect("it is text");
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            assert_eq!(!answer.ends_with("\r\n\r\n"), has_body, "{answer}");
        }
    }
}
