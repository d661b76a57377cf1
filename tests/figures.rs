//! What both processes count of many mixed sessions is what their users and local servers have counted, to the byte.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{
    Ending, Folder, MODES, Mode, Process, closed_port, connect, converse, finish_writing, read_out, reset,
    serve,
};

/// Sessions in each mode; `SKYORG_TEST_SESSIONS` asks for another number.
const SESSIONS: usize = 5_000;
/// Users at once.
const AT_ONCE: usize = 8;
/// One session in so many is bulk, and has so many bytes each way.
const BULK_OF: usize = 100;
const BULK_BYTES: usize = 1_000_000;
/// The word by which a user asks its local server to abort.
const ABORT: u8 = b'!';

/// What users can meet, and how often each of ten does.
const KINDS: [Kind; 10] = [
    Kind::Finishes,
    Kind::Finishes,
    Kind::Finishes,
    Kind::Finishes,
    Kind::Resets,
    Kind::Resets,
    Kind::IsReset,
    Kind::MeetsDeadServer,
    Kind::IsOneTooMany,
    Kind::IsFromElsewhere,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It says something, hears it again, and ends as it should.
    Finishes,
    /// It says something, hears it again, and aborts.
    Resets,
    /// It says something, and its local server aborts.
    IsReset,
    /// Its local server is down.
    MeetsDeadServer,
    /// Its service has as many users as it may have.
    IsOneTooMany,
    /// Its service takes no users from there.
    IsFromElsewhere,
}

/// Counts by service and by the rest of what tells one from another, as `/metrics` names both.
type Counts = BTreeMap<(&'static str, String), u64>;

/// Both processes, and where they are asked.
struct Pair {
    server: Process,
    _client: Process,
    asked: [SocketAddr; 2],
    _folder: Folder,
}

const SERVICES: [&str; 4] = ["echo", "dead", "full", "elsewhere"];

impl Pair {
    fn start(mode: Mode, echo: SocketAddr, dead: SocketAddr) -> Pair {
        let folder = Folder::new();
        let key = folder.key();
        let plain = mode == Mode::Plain;
        let places = format!(
            "message = '127.0.0.1:0'\ncontrol = '127.0.0.1:0'\nkeys = '{key}'\nplain = {plain}\nmetrics = '127.0.0.1:0'\n"
        );
        let mut text = places;
        for service in SERVICES {
            let rule = match service {
                "full" => "users = 1",
                "elsewhere" => "from = '203.0.113.0/24'",
                _ => "",
            };
            let _ = writeln!(text, "[service.{service}]\nlisten = '127.0.0.1:0'\n{rule}");
        }
        let file = folder.file("server.toml", text);
        let server = Process::skyorg(&["server", "--config", &file, "--status", "none"], None);
        let control = server.address("control connections: ");
        let message = server.address("message connections: ");
        let mut text = format!(
            "server = '{control}'\nmessage = '{message}'\nkey = '{key}'\nplain = {plain}\nmetrics = '127.0.0.1:0'\n"
        );
        for service in SERVICES {
            let local = if service == "dead" { dead } else { echo };
            let _ = writeln!(text, "[publish.{service}]\nlocal = '{local}'");
        }
        let file = folder.file("client.toml", text);
        let client = Process::skyorg(&["client", "--config", &file, "--status", "none"], None);
        client.wait_for_count("users of port", SERVICES.len());
        let asked = [&server, &client].map(|process| {
            let line = process.wait_for("metrics: http://");
            let place = line.split("http://").nth(1).expect("a place").trim_end_matches('/');
            place.parse().expect("an address")
        });
        Pair { server, _client: client, asked, _folder: folder }
    }

    fn users(&self, service: &str) -> SocketAddr {
        self.server.address(&format!("service {service}: users connect to "))
    }

    /// The samples of some families that one of both has, but for those that are 0.
    fn samples(&self, of: usize, families: [&'static str; 3]) -> Counts {
        let mut stream = connect(self.asked[of]);
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let mut samples = Counts::new();
        for line in answer.lines() {
            for family in families {
                if let Some(rest) = line.strip_prefix(family)
                    && let Some((labels, value)) = rest.split_once("} ")
                    && value != "0"
                {
                    samples.insert((family, labels.to_owned()), value.parse().expect("a number"));
                }
            }
        }
        samples
    }

    /// How many users of a service are there, as one of both says.
    fn users_of(&self, of: usize, service: &str) -> u64 {
        let users = self.samples(of, ["skyorg_users{", "nothing", "nothing"]);
        users.get(&("skyorg_users{", format!("service=\"{service}\""))).copied().unwrap_or(0)
    }
}

/// A local server that echoes, and aborts when it is asked to.
fn local_server() -> SocketAddr {
    serve(|mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if buffer[..count].contains(&ABORT) {
                return reset(stream);
            }
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// What a user has counted, for its service: bytes that it said and heard, and how it ended.
struct Told {
    service: &'static str,
    said: u64,
    heard: u64,
    outcome: &'static str,
}

/// A user that says `bytes` and hears them again.
fn talk(mut user: TcpStream, bytes: usize) -> TcpStream {
    let mut writer = user.try_clone().expect("a descriptor");
    let writing = thread::spawn(move || writer.write_all(&vec![b'a'; bytes]));
    let mut heard = vec![0; bytes];
    user.read_exact(&mut heard).expect("its echo");
    writing.join().expect("no panic").expect("taken");
    user
}

fn live(kind: Kind, number: usize, users: &BTreeMap<&str, SocketAddr>) -> Told {
    let service = match kind {
        Kind::Finishes | Kind::Resets | Kind::IsReset => "echo",
        Kind::MeetsDeadServer => "dead",
        Kind::IsOneTooMany => "full",
        Kind::IsFromElsewhere => "elsewhere",
    };
    let bytes = if number.is_multiple_of(BULK_OF) { BULK_BYTES } else { 1 + number % 3_000 };
    match kind {
        Kind::Finishes => {
            let mut user = talk(connect(users[service]), bytes);
            finish_writing(&user);
            assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean), "user {number}");
            Told { service, said: bytes as u64, heard: bytes as u64, outcome: "finished" }
        }
        Kind::Resets => {
            reset(talk(connect(users[service]), bytes));
            Told { service, said: bytes as u64, heard: bytes as u64, outcome: "user_reset" }
        }
        Kind::IsReset => {
            let mut user = connect(users[service]);
            user.write_all(&[ABORT]).expect("taken");
            assert_eq!(read_out(&mut user), (Vec::new(), Ending::Reset), "user {number}");
            Told { service, said: 1, heard: 0, outcome: "local_reset" }
        }
        Kind::MeetsDeadServer | Kind::IsOneTooMany | Kind::IsFromElsewhere => {
            match TcpStream::connect(users[service]) {
                Ok(mut user) => assert_eq!(read_out(&mut user), (Vec::new(), Ending::Reset), "user {number}"),
                // It was reset before the system had told of its connection.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "user {number}"),
            }
            let outcome = match kind {
                Kind::MeetsDeadServer => "local_refused",
                Kind::IsOneTooMany => "users_limit",
                _ => "from",
            };
            Told { service, said: 0, heard: 0, outcome }
        }
    }
}

const SESSIONS_TOTAL: &str = "skyorg_sessions_total{";
const REFUSED_TOTAL: &str = "skyorg_refused_total{";
const BYTES_TOTAL: &str = "skyorg_bytes_total{";

/// What `/metrics` should say of these users.
fn wanted(told: &[Told]) -> Counts {
    let mut counts = Counts::new();
    for Told { service, said, heard, outcome } in told {
        let (family, label) = match *outcome {
            "local_refused" | "users_limit" | "from" => (REFUSED_TOTAL, "cause"),
            _ => (SESSIONS_TOTAL, "end"),
        };
        *counts.entry((family, format!("service=\"{service}\",{label}=\"{outcome}\""))).or_default() += 1;
        for (direction, bytes) in [("in", said), ("out", heard)].into_iter().filter(|it| *it.1 > 0) {
            let labels = format!("service=\"{service}\",direction=\"{direction}\"");
            *counts.entry((BYTES_TOTAL, labels)).or_default() += bytes;
        }
    }
    counts
}

fn count_sessions(mode: Mode) {
    let sessions = std::env::var("SKYORG_TEST_SESSIONS").ok().and_then(|text| text.parse().ok());
    let sessions: usize = sessions.unwrap_or(SESSIONS);
    let (_kept, dead) = closed_port();
    let pair = Arc::new(Pair::start(mode, local_server(), dead));
    let users: BTreeMap<&str, SocketAddr> =
        SERVICES.into_iter().map(|service| (service, pair.users(service))).collect();

    // Bytes of a session that runs are counted while it runs; it is the only user that its service may have.
    let mut running = connect(users["full"]);
    let bytes = || {
        let all = [0, 1].map(|of| pair.samples(of, [BYTES_TOTAL, "nothing", "nothing"]));
        all.map(|samples| {
            ["in", "out"].map(|way| {
                samples.get(&(BYTES_TOTAL, format!("service=\"full\",direction=\"{way}\""))).copied()
            })
        })
    };
    converse(&mut running, &[b'a'; 700]);
    pair.server.wait_until("both have counted what has passed", || bytes() == [[Some(700); 2]; 2]);
    converse(&mut running, &[b'a'; 300]);
    pair.server.wait_until("and what passed after that", || bytes() == [[Some(1_000); 2]; 2]);

    let (next, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let threads: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (next, all, users) = (next.clone(), all.clone(), users.clone());
            thread::spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= sessions {
                        return;
                    }
                    let told = live(KINDS[number % KINDS.len()], number, &users);
                    all.lock().expect("no panic").push(told);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no user was met by something else"));
    finish_writing(&running);
    assert_eq!(read_out(&mut running).1, Ending::Clean);
    let mut told = std::mem::take(&mut *all.lock().expect("no panic"));
    told.push(Told { service: "full", said: 1_000, heard: 1_000, outcome: "finished" });

    for of in [0, 1] {
        pair.server.wait_until("all users are gone", || {
            SERVICES.into_iter().all(|service| pair.users_of(of, service) == 0)
        });
        let mut wanted = wanted(&told);
        if of == 1 {
            // The client never hears of users that the server turns away.
            wanted.retain(|(family, labels), _| *family != REFUSED_TOTAL || labels.contains("local_refused"));
        }
        assert_eq!(pair.samples(of, [SESSIONS_TOTAL, REFUSED_TOTAL, BYTES_TOTAL]), wanted, "{mode:?}, {of}");
    }
}

#[test]
fn both_processes_count_what_users_and_local_servers_have_counted() {
    for mode in MODES {
        count_sessions(mode);
    }
}
