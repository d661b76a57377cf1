//! A service's limit of idle sessions: one without a byte for that long is ended by RST at both its ends and told of as
//! idle, and one that talks is not, in either direction.

mod in_process;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use in_process::{Ends, PATIENCE, come};
use log::{LevelFilter, Log, Metadata, Record};
use skyorg::config::Policies;
use skyorg::config::limits::Limits;
use skyorg::config::policy::UserRules;

const IDLE: Duration = Duration::from_millis(800);
/// Pause between two bytes of a session that talks.
const PACE: Duration = Duration::from_millis(50);
/// More sessions than are looked at in one turn.
const SESSIONS: usize = 100;
/// What a user says first: who talks in its session from then on.
const NOBODY: u8 = b'n';
const LOCAL_SERVER: u8 = b'l';
const USER: u8 = b'u';

/// Keeps every line.
struct Lines(Mutex<Vec<String>>);

impl Log for Lines {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        self.0.lock().expect("nobody panicked").push(record.args().to_string());
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(Mutex::new(Vec::new()));

/// Answers the first byte with itself; then it talks, or hears what is said. How its session ended goes to `ends`.
fn start_local_server(ends: std::sync::mpsc::Sender<(u8, io::Result<usize>)>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let ends = ends.clone();
            thread::spawn(move || {
                let mut first = [0];
                if stream.read_exact(&mut first).and_then(|()| stream.write_all(&first)).is_err() {
                    return;
                }
                while first[0] == LOCAL_SERVER && stream.write_all(b".").is_ok() {
                    thread::sleep(PACE); // paces: the session talks
                }
                let end = loop {
                    match stream.read(&mut [0; 64]) {
                        Ok(1..) => {}
                        end => break end,
                    }
                };
                let _ = ends.send((first[0], end));
            });
        }
    });
    address
}

#[test]
fn a_session_without_a_byte_ends_and_one_that_talks_does_not() {
    log::set_logger(&LINES).expect("the only test here");
    log::set_max_level(LevelFilter::Info);
    let (sender, ends) = std::sync::mpsc::channel();
    let rules = UserRules { idle: Some(IDLE), ..UserRules::default() };
    let (local, limits) = (start_local_server(sender), Limits::default());
    let request = Ends::with(local, false, &limits, rules, Policies::default()).run();

    let mut talker = come(request, USER);
    let mut listener = come(request, LOCAL_SERVER);
    let talking = thread::spawn(move || {
        let until = Instant::now() + 4 * IDLE;
        while Instant::now() < until {
            talker.write_all(b".").expect("its session goes on");
            thread::sleep(PACE); // paces: the session talks
        }
        talker
    });
    let hearing = thread::spawn(move || {
        let until = Instant::now() + 4 * IDLE;
        while Instant::now() < until {
            listener.read_exact(&mut [0]).expect("its session goes on");
        }
        listener
    });
    let quiet: Vec<(TcpStream, Instant)> =
        (0..SESSIONS).map(|_| (come(request, NOBODY), Instant::now())).collect();
    for (mut user, answered) in quiet {
        let error = user.read(&mut [0]).expect_err("it is ended");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // The answer came a little before.
        assert!(answered.elapsed() > IDLE - PACE, "{:?}", answered.elapsed());
        let (first, end) = ends.recv_timeout(PATIENCE).expect("the local server hears of it");
        assert_eq!((first, end.map_err(|error| error.kind())), (NOBODY, Err(io::ErrorKind::ConnectionReset)));
    }
    // Both sessions that talk go on, and end well.
    let users = [talking.join().expect("a user"), hearing.join().expect("a user")];
    assert!(ends.try_recv().is_err(), "no other session has ended");
    drop(users);
    let told = || {
        let lines = LINES.0.lock().expect("nobody panicked");
        lines.iter().filter(|line| line.ends_with(" s, idle")).count()
    };
    let deadline = Instant::now() + PATIENCE;
    while told() < 2 * SESSIONS && Instant::now() < deadline {
        thread::sleep(PACE); // paces: the log is looked at again
    }
    assert_eq!(told(), 2 * SESSIONS, "both ends tell of each");
}
