//! `skyorg demo`: a server, a client and a small local web server in one process, joined by a real tunnel
//! over loopback, and one request that travels through it.
//!
//! Every port is a free one and the key lives in memory only, so the demo touches nothing that is configured.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::app::cli::default_service;
use crate::app::run::{Client, Server, StartError};
use crate::base::address::{HostPort, Listen};
use crate::base::decimal::Decimal;
use crate::base::mailbox::Mailbox;
use crate::config::keys::{self, KeyError};
use crate::config::limits::Limits;
use crate::config::{ClientConfig, Policies, Publication, ServerConfig, Service};
use crate::reactor::world::thread::start;

mod web;

/// How long the tunnel may take until the first answer.
const READY: Duration = Duration::from_secs(10);
/// Pause between attempts until then.
const RETRY: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(6);
/// Server and client each have a stack of the usual size.
const STACK_BYTES: usize = 2 * 1024 * 1024;
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why the demo failed.
#[derive(Debug)]
pub enum DemoError {
    /// No key could be made.
    Key(KeyError),
    /// The server or the client cannot start.
    Start(StartError),
    /// The operating system refused something.
    Io(&'static str, io::Error),
    /// The server or the client ended.
    Ended(&'static str, io::Error),
    /// No whole answer came through the tunnel in time.
    NoAnswer(BadAnswer),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(error) => write!(f, "{error}"),
            Self::Start(error) => write!(f, "{error}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
            Self::Ended(who, error) => write!(f, "the {who} cannot go on: {error}"),
            Self::NoAnswer(error) => {
                write!(
                    f,
                    "no answer came through the tunnel ({error}); 'skyorg demo --log-level debug' shows more"
                )
            }
        }
    }
}

/// Why an answer is not a good one.
#[derive(Debug)]
pub enum BadAnswer {
    /// The connection failed.
    Io(io::Error),
    /// It ended early, or it is not HTTP.
    Malformed,
    /// Its status is not 200.
    Status(String),
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Malformed => f.write_str("what came is not a whole HTTP answer"),
            Self::Status(status) => write!(f, "the answer was {status}"),
        }
    }
}

/// The addresses of the demo's ports.
#[derive(Clone, Copy)]
struct Places {
    request: SocketAddr,
    message: SocketAddr,
    control: SocketAddr,
    local: SocketAddr,
}

/// Which side ended, and how.
type End = (&'static str, io::Result<()>);

/// The ends that have come. The thread of the demo is unparked after each.
type Ends = Arc<Mailbox<Vec<End>>>;

/// Runs the demo until its request was answered (`once`), or until the process is asked to end.
pub fn run(once: bool) -> Result<(), DemoError> {
    let local = web::start().map_err(|error| DemoError::Io("the local web server cannot start", error))?;
    let (places, ends) = start_tunnel(local)?;
    if !wait_until_ready(places.request, &ends)? {
        return Ok(());
    }
    let answer = ask(places.request, "/hello", ANSWER).map_err(DemoError::NoAnswer)?;
    say(&story(&places, &answer));
    if once {
        return Ok(());
    }
    say(&format!("\nNow you: open http://{0}/ in a browser, or run: curl http://{0}/", places.request));
    say("Ctrl-C ends the demo.");
    // Server and client both end when the process is asked to; an error of either ends the demo.
    let mut running = 2;
    while running > 0 {
        thread::park();
        for (who, end) in ends.take() {
            end.map_err(|error| DemoError::Ended(who, error))?;
            running -= 1;
        }
    }
    Ok(())
}

/// Starts a server and a client with a key that only they know, each on a thread of its own.
fn start_tunnel(local: SocketAddr) -> Result<(Places, Ends), DemoError> {
    let key = keys::generate(default_service()).map_err(DemoError::Key)?;
    let free_port = Listen::At((Ipv4Addr::LOCALHOST, 0).into());
    let server = Server::bind(ServerConfig {
        services: vec![Service::new(default_service(), free_port)],
        policies: Policies::default(),
        message: free_port,
        control: free_port,
        keys: vec![key.clone()],
        plain: false,
        limits: Limits::default(),
    })
    .map_err(DemoError::Start)?;
    let bound = server.bound();
    let Some(&(_, request)) = bound.services.first() else {
        return Err(DemoError::Io("the server has no request port", io::ErrorKind::AddrNotAvailable.into()));
    };
    let places = Places { request, message: bound.message, control: bound.control, local };
    let client = Client::new(ClientConfig {
        server: host_port(places.control),
        message: None,
        publications: vec![Publication::of_service(default_service(), host_port(local))],
        key,
        plain: false,
        limits: Limits::default(),
    })
    .map_err(DemoError::Start)?;
    let ends = Ends::default();
    spawn("server", &ends, move || server.run())?;
    spawn("client", &ends, move || client.run())?;
    Ok((places, ends))
}

fn host_port(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string().into(), port: address.port() }
}

fn spawn(
    who: &'static str,
    ends: &Ends,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), DemoError> {
    let (ends, demo) = (ends.clone(), thread::current());
    let started = start(who, STACK_BYTES, move || {
        let end = run();
        ends.leave(|ends| ends.push((who, end)));
        demo.unpark();
    });
    started.map(drop).map_err(|error| DemoError::Io("a thread cannot start", error))
}

/// Asks until an answer comes. False if the process was asked to end before.
fn wait_until_ready(request: SocketAddr, ends: &Ends) -> Result<bool, DemoError> {
    let deadline = Instant::now() + READY;
    loop {
        let Err(error) = ask(request, "/ready", ANSWER) else { return Ok(true) };
        thread::park_timeout(RETRY);
        match ends.take().into_iter().next() {
            Some((who, Err(error))) => return Err(DemoError::Ended(who, error)),
            Some((_, Ok(()))) => return Ok(false),
            None if Instant::now() >= deadline => return Err(DemoError::NoAnswer(error)),
            None => {}
        }
    }
}

/// What a user got.
struct Answer {
    user: SocketAddr,
    status: String,
    first_line: String,
    took: Duration,
}

/// One request as any user would send it.
fn ask(request: SocketAddr, path: &str, patience: Duration) -> Result<Answer, BadAnswer> {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let user = exchange(request, path, patience, &mut bytes).map_err(BadAnswer::Io)?;
    let took = began.elapsed();
    let (status, body) = read_answer(&bytes)?;
    let first_line = body.lines().next().unwrap_or_default().to_owned();
    Ok(Answer { user, status: status.to_owned(), first_line, took })
}

fn exchange(
    request: SocketAddr,
    path: &str,
    patience: Duration,
    answer: &mut Vec<u8>,
) -> io::Result<SocketAddr> {
    let mut stream = TcpStream::connect_timeout(&request, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {request}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let user = stream.local_addr()?;
    stream.take(ANSWER_BYTES_MAX).read_to_end(answer)?;
    Ok(user)
}

/// Status and body of an answer that is whole and good.
fn read_answer(bytes: &[u8]) -> Result<(&str, &str), BadAnswer> {
    let text = str::from_utf8(bytes).map_err(|_| BadAnswer::Malformed)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(BadAnswer::Malformed)?;
    let status =
        head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).ok_or(BadAnswer::Malformed)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    if length.and_then(|digits| digits.parse().ok()) != Some(body.len()) {
        return Err(BadAnswer::Malformed);
    }
    if status.starts_with("200 ") { Ok((status, body)) } else { Err(BadAnswer::Status(status.to_owned())) }
}

/// Describes the path of a request to people.
fn story(places: &Places, answer: &Answer) -> String {
    let Places { request, message, control, local } = places;
    let Answer { user, status, first_line, took } = answer;
    let milliseconds = Decimal::milliseconds(*took);
    format!(
        "A request went through the tunnel and back in {milliseconds:.2} ms:

  user          {user}  asks for /hello
    |
  server        {request}  request port
    #           a sealed message connection, which the client had opened before the user came
  client        dialled {message} (message port) and {control} (control port)
    |
  local server  {local}  answers

  status  {status}
  body    {first_line}"
    )
}

/// Prints a text. A closed standard output is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn the_local_web_server_answers_a_user() {
        let local = web::start().expect("starts");
        let answer = ask(local, "/a?b", ANSWER).expect("answers");
        assert_eq!(answer.status, "200 OK");
        assert!(answer.first_line.contains("/a?b"), "{}", answer.first_line);
        assert!(
            story(&Places { request: local, message: local, control: local, local }, &answer)
                .contains("200 OK")
        );
    }

    #[test]
    fn an_answer_that_is_cut_or_not_http_or_not_200_is_none() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read_answer(whole.as_bytes()).expect("whole"), ("200 OK", "hello"));
        for end in 0..whole.len() {
            assert!(matches!(read_answer(&whole.as_bytes()[..end]), Err(BadAnswer::Malformed)), "{end}");
        }
        assert!(matches!(read_answer(b"SSH-2.0\r\n\r\n"), Err(BadAnswer::Malformed)));
        assert!(matches!(read_answer(b"\xff"), Err(BadAnswer::Malformed)));
        let unwell = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(read_answer(unwell), Err(BadAnswer::Status(status)) if status == "503 Busy"));
    }

    #[test]
    fn a_server_that_ended_is_the_reason_and_one_that_was_asked_to_end_is_none() {
        // Bound but not listening: the port refuses, and no other process can take it.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("binds");
        let nobody = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        let ends = Ends::default();
        ends.leave(|ends| ends.push(("server", Err(io::ErrorKind::OutOfMemory.into()))));
        assert!(matches!(wait_until_ready(nobody, &ends), Err(DemoError::Ended("server", _))));
        ends.leave(|ends| ends.push(("client", Ok(()))));
        assert!(matches!(wait_until_ready(nobody, &ends), Ok(false)));
    }
}
