//! The part of HTTP/1.1 (RFC 9112) that is spoken here: one request for each connection, GET or HEAD.

use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Request as Head, Status};

use super::screen::Format;

/// Longest head of a request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Most header fields of a request.
const FIELDS_MAX: usize = 64;

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The unix socket, which only its owner may open.
    Socket,
    /// TCP, at this address of ours.
    Tcp(IpAddr),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Prometheus' text.
    Metrics,
    /// Whether users are served, by all or by one service.
    Health(Option<String>),
    /// JSON.
    Document,
    /// Text for a terminal.
    Screen(Format),
    /// The last ten minutes.
    History,
    /// The page and its parts.
    Page,
    /// Its script.
    Script,
    /// Its style.
    Style,
}

impl Wanted {
    /// Whether it is for people's eyes in a browser: then another site's page, which a name server leads to this
    /// address, must not read it.
    fn is_for_browsers(&self) -> bool {
        match self {
            Wanted::Metrics | Wanted::Health(_) | Wanted::Screen(_) => false,
            Wanted::Document | Wanted::History | Wanted::Page | Wanted::Script | Wanted::Style => true,
        }
    }
}

/// A request that may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub wanted: Wanted,
    /// Only the head of the answer is wanted.
    pub is_head: bool,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code and its phrase.
    pub status: &'static str,
    /// The type of the body.
    pub kind: &'static str,
    /// The body.
    pub body: String,
    /// Further fields, each with its line's end.
    pub fields: String,
}

/// Plain text.
const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    /// All is well.
    pub fn good(kind: &'static str, body: String) -> Answer {
        Answer { status: "200 OK", kind, body, fields: String::new() }
    }

    /// A line of text.
    pub fn text(status: &'static str, body: impl Into<String>) -> Answer {
        Answer { status, kind: TEXT, body: body.into(), fields: String::new() }
    }

    /// There is nothing of this name.
    pub fn not_found() -> Answer {
        Answer::text("404 Not Found", "there is nothing here\n")
    }

    /// The loop has not said in time what it knows.
    pub fn late() -> Answer {
        Answer::text("503 Service Unavailable", "the process does not answer\n")
    }

    /// Its bytes.
    pub fn encode(self, is_head: bool) -> Vec<u8> {
        let Answer { status, kind, body, fields } = self;
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n{fields}\r\n"
        );
        let mut bytes = head.into_bytes();
        if !is_head {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

/// What came so far.
#[derive(Debug)]
pub enum Parsed {
    /// More is to come.
    Partial,
    /// It is answered so, whatever is known.
    Refused(Answer),
    /// A request.
    Good(Request),
}

/// Reads the head of a request. A body that comes behind it is not looked at.
pub fn parse(bytes: &[u8], door: Door) -> Parsed {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut head = Head::new(&mut fields);
    match head.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Parsed::Partial,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse("431 Request Header Fields Too Large", "the request is too long\n");
        }
        Err(_) => return refuse("400 Bad Request", "this is no request of HTTP/1.1\n"),
    }
    let is_head = match head.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => {
            let fields = "Allow: GET, HEAD\r\n".to_owned();
            let answer = Answer::text("405 Method Not Allowed", "only GET and HEAD\n");
            return Parsed::Refused(Answer { fields, ..answer });
        }
    };
    let Some(wanted) = wanted(head.path.unwrap_or_default(), door) else {
        return Parsed::Refused(Answer::not_found());
    };
    if let (Door::Tcp(own), true) = (door, wanted.is_for_browsers()) {
        let mut hosts = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
        let host = hosts.next().and_then(|field| str::from_utf8(field.value).ok()).unwrap_or_default();
        if hosts.next().is_some() || !is_ours(host.trim(), own) {
            return refuse("403 Forbidden", "ask by the address itself, or by localhost\n");
        }
    }
    Parsed::Good(Request { wanted, is_head })
}

fn refuse(status: &'static str, body: &'static str) -> Parsed {
    Parsed::Refused(Answer::text(status, body))
}

fn wanted(target: &str, door: Door) -> Option<Wanted> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(match path {
        "/metrics" => Wanted::Metrics,
        "/health" => Wanted::Health(None),
        "/status.json" => Wanted::Document,
        "/status.txt" if door == Door::Socket => Wanted::Screen(Format::of(query)),
        "/history.json" => Wanted::History,
        "/" => Wanted::Page,
        "/page.js" => Wanted::Script,
        "/page.css" => Wanted::Style,
        // A service's name has no character that would be escaped.
        path => Wanted::Health(Some(path.strip_prefix("/health/")?.to_owned())),
    })
}

/// Whether a Host is the address that was connected to, or `localhost`. The port may be that of a forwarded one.
fn is_ours(host: &str, own: IpAddr) -> bool {
    let ip = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || ip(name) == Some(own.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Door = Door::Tcp(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn answered(text: &str, door: Door) -> Result<Request, String> {
        match parse(text.as_bytes(), door) {
            Parsed::Good(request) => Ok(request),
            Parsed::Partial => Err("partial".to_owned()),
            Parsed::Refused(answer) => Err(answer.status[..3].to_owned()),
        }
    }

    fn get(path: &str, host: &str, door: Door) -> Result<Wanted, String> {
        answered(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"), door).map(|request| request.wanted)
    }

    #[test]
    fn paths_are_those_that_scripts_rely_on() {
        for (path, wanted) in [
            ("/metrics", Wanted::Metrics),
            ("/metrics?a=b", Wanted::Metrics),
            ("/health", Wanted::Health(None)),
            ("/health/web", Wanted::Health(Some("web".to_owned()))),
            ("/status.json", Wanted::Document),
            ("/", Wanted::Page),
        ] {
            assert_eq!(get(path, "localhost", TCP), Ok(wanted), "{path}");
        }
        for path in ["/nothing", "/status.txt", "/metrics/", "//"] {
            assert_eq!(get(path, "localhost", TCP), Err("404".to_owned()), "{path}");
        }
        assert!(get("/status.txt?width=100", "x", Door::Socket).is_ok());
    }

    #[test]
    fn other_methods_are_refused_and_head_is_taken() {
        let asked = |method: &str| answered(&format!("{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n"), TCP);
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "get"] {
            assert_eq!(asked(method), Err("405".to_owned()), "{method}");
        }
        assert_eq!(asked("HEAD"), Ok(Request { wanted: Wanted::Page, is_head: true }));
        let bytes = Answer::text("200 OK", "body").encode(true);
        assert!(bytes.ends_with(b"\r\n\r\n") && bytes.windows(17).any(|part| part == b"Content-Length: 4"));
    }

    #[test]
    fn a_foreign_host_reads_no_page_and_no_document() {
        for (host, own, is_taken) in [
            ("localhost", "127.0.0.1", true),
            ("LocalHost:9100", "127.0.0.1", true),
            ("127.0.0.1:9100", "127.0.0.1", true),
            ("127.0.0.1:9100", "::ffff:127.0.0.1", true),
            ("[::1]:9100", "::1", true),
            ("10.0.0.1", "127.0.0.1", false),
            ("localhost.evil.example", "127.0.0.1", false),
            ("evil.example:9100", "127.0.0.1", false),
            ("[::1", "::1", false),
            ("", "127.0.0.1", false),
        ] {
            let door = Door::Tcp(own.parse().expect("an address"));
            for path in ["/", "/status.json", "/history.json", "/page.js"] {
                assert_eq!(get(path, host, door).is_ok(), is_taken, "{path} {host}");
            }
            assert!(get("/metrics", host, door).is_ok() && get("/health", host, door).is_ok(), "{host}");
        }
        assert_eq!(answered("GET / HTTP/1.0\r\n\r\n", TCP), Err("403".to_owned()));
        let twice = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
        assert_eq!(answered(twice, TCP), Err("403".to_owned()));
        assert!(answered("GET / HTTP/1.1\r\n\r\n", Door::Socket).is_ok());
    }

    #[test]
    fn what_is_no_request_is_refused_and_what_is_none_yet_is_waited_for() {
        assert_eq!(answered("GET / HT", TCP), Err("partial".to_owned()));
        assert_eq!(answered("\x16\x03\x01\x02\x00", TCP), Err("400".to_owned()));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(REQUEST_BYTES_MAX));
        assert_eq!(answered(&long, TCP), Err("431".to_owned()));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(answered(&many, TCP), Err("431".to_owned()));
    }
}
