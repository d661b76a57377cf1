//! One question to one process, over its socket.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::app::status::desk::{EXIT_STATUS, ROLE};
use crate::app::status::socket;

/// How long a process has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon a socket whose queue is full is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// Longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What comes of it.
pub enum Answer {
    /// It says this, and what it is.
    Told { body: String, exit_status: u8, role: String },
    /// A process is there and says nothing in time.
    Silent(String),
    /// No process is there.
    Gone(io::Error),
}

impl Answer {
    /// Nobody could ask.
    pub fn lost() -> Answer {
        Answer::Gone(ErrorKind::Other.into())
    }
}

/// Asks.
pub fn ask(path: &Path, target: &str) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match socket::connect(path) {
            Ok(stream) => break stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return Answer::Silent(process_of(path, None));
                }
                thread::sleep(RETRY);
            }
            Err(error) => return Answer::Gone(error),
        }
    };
    match exchange(&stream, target, deadline).ok().as_deref().and_then(told) {
        Some(told) => told,
        None => Answer::Silent(process_of(path, Some(&stream))),
    }
}

fn exchange(mut stream: &Socket, target: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    stream.set_nonblocking(false)?;
    let left = || Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    stream.set_write_timeout(left())?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let (mut answer, mut bytes) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        stream.set_read_timeout(left())?;
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if answer.len() > ANSWER_BYTES_MAX || Instant::now() > deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// The body and the exit status, if the answer is one.
fn told(answer: &[u8]) -> Option<Answer> {
    let answer = str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    lines.next().filter(|line| line.starts_with("HTTP/1.1 200 "))?;
    let field = |wanted: &str| {
        lines
            .clone()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| *name == wanted)
            .map(|it| it.1)
    };
    let length: usize = field("Content-Length")?.parse().ok()?;
    let exit_status = field(EXIT_STATUS)?.parse().ok()?;
    let role = field(ROLE)?.to_owned();
    (body.len() == length).then(|| Answer::Told { body: body.to_owned(), exit_status, role })
}

/// `process PID`, as the system or the socket's name knows it.
fn process_of(path: &Path, stream: Option<&Socket>) -> String {
    #[cfg(target_os = "linux")]
    if let Some(peer) = stream.and_then(|stream| rustix::net::sockopt::socket_peercred(stream).ok()) {
        return format!("process {}", peer.pid);
    }
    let _ = stream;
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rsplit_once('-').filter(|(_, pid)| pid.parse::<u32>().is_ok()) {
        Some((_, pid)) => format!("process {pid}"),
        None => format!("the process at {}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_none() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSkyorg-Exit-Status: 1\r\nSkyorg-Role: client\r\n\r\nhello";
        let Some(Answer::Told { body, exit_status, role }) = told(text.as_bytes()) else {
            panic!("it is good")
        };
        assert_eq!((body.as_str(), exit_status, role.as_str()), ("hello", 1, "client"));
        assert!(told(&text.as_bytes()[..text.len() - 1]).is_none());
        assert!(told(text.replace("200", "503").as_bytes()).is_none());
        assert!(told(b"").is_none());
    }

    #[test]
    fn a_process_is_named_by_its_socket_where_the_system_does_not_say() {
        assert_eq!(process_of(Path::new("/run/skyorg/client-12.sock"), None), "process 12");
        assert_eq!(process_of(Path::new("/run/x-y.sock"), None), "the process at /run/x-y.sock");
    }
}
