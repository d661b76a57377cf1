//! A key's rate over real sockets: what all its sessions pass together, each way.
//!
//! It is never more than the rate and a burst, whatever the machine does. That it is not much less holds where the
//! machine has time for both ends, which are asked for little here.

mod in_process;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use in_process::{Ends, come};
use skyorg::base::rate::Rate;
use skyorg::config::Policies;
use skyorg::config::limits::Limits;
use skyorg::config::policy::{Policy, Services, UserRules};
use socket2::SockRef;

/// The rate holds over this many seconds. Each span of them is measured until one has all of the rate, because a machine
/// that is busy otherwise has less time for both ends.
const SPAN: usize = 10;
const SECONDS_MAX: usize = 18;
/// What a user says first: in which direction the bytes of its session go.
const UP: u8 = b'u';
const DOWN: u8 = b'd';

/// Bytes that have arrived at the far end of a direction.
#[derive(Default)]
struct Arrived {
    up: AtomicU64,
    down: AtomicU64,
}

impl Arrived {
    fn of(&self, direction: u8) -> &AtomicU64 {
        if direction == UP { &self.up } else { &self.down }
    }
}

/// Reads, and counts, until the end.
fn hear(mut stream: TcpStream, count: &AtomicU64) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Writes as much as it can, until the end.
fn talk(mut stream: TcpStream) {
    SockRef::from(&stream).set_send_buffer_size(64 * 1024).expect("a size");
    let bytes = vec![7; 64 * 1024];
    while stream.write_all(&bytes).is_ok() {}
}

/// Answers the first byte with itself, and then hears, or talks once it is told to.
fn start_local_server(arrived: Arc<Arrived>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let arrived = arrived.clone();
            thread::spawn(move || {
                let mut first = [0];
                if stream.read_exact(&mut first).and_then(|()| stream.write_all(&first)).is_err() {
                    return;
                }
                if first[0] == UP {
                    hear(stream, &arrived.up);
                } else if stream.read_exact(&mut first).is_ok() {
                    talk(stream);
                }
            });
        }
    });
    address
}

/// This many sessions in each direction at once pass this rate together.
fn holds(text: &str, sessions: usize, plain: bool) {
    let rate: Rate = text.parse().expect("a rate");
    let policy = Policy { services: Services::All, rate: Some(rate), ..Policy::default() };
    let policies = Policies::Each([("default".parse().expect("a name"), policy)].into());
    let arrived = Arc::new(Arrived::default());
    let local = start_local_server(arrived.clone());
    let request = Ends::with(local, plain, &Limits::default(), UserRules::default(), policies).run();
    drop(come(request, UP));
    // All are there before the first one says more: who comes to a rate that is used up waits for its turn.
    let directions = [UP, DOWN].into_iter().cycle().take(2 * sessions);
    let users: Vec<_> = directions.map(|direction| (direction, come(request, direction))).collect();
    for (direction, user) in &users {
        let (direction, arrived) = (*direction, arrived.clone());
        let mut user = user.try_clone().expect("cloned");
        thread::spawn(move || match direction {
            UP => talk(user),
            _ => user.write_all(&[DOWN]).map_or((), |()| hear(user, &arrived.down)),
        });
    }
    let count = || [UP, DOWN].map(|direction| arrived.of(direction).load(Ordering::Relaxed) as f64);
    let mut samples = VecDeque::from([(Instant::now(), count())]);
    for _ in 0..SECONDS_MAX {
        thread::sleep(Duration::from_secs(1)); // paces: it is measured over this time
        let (now, after) = (Instant::now(), count());
        samples.push_back((now, after));
        if samples.len() <= SPAN {
            continue;
        }
        let Some((began, before)) = samples.pop_front() else { break };
        let wanted = rate.bytes_per_second() as f64 * (now - began).as_secs_f64();
        let shares = [0, 1].map(|way| (after[way] - before[way]) / wanted);
        println!("{text}, {sessions} sessions, plain: {plain}: {shares:.4?} of the rate");
        assert!(shares.iter().all(|&share| share <= 1.05), "{text}: {shares:?} of the rate");
        if shares.iter().all(|&share| share >= 0.95) {
            users.iter().for_each(|(_, user)| user.shutdown(Shutdown::Both).expect("it stands"));
            return;
        }
    }
    panic!("{text}, {sessions} sessions, plain: {plain}: less than the rate in each span");
}

#[test]
fn one_session_has_the_whole_rate_and_a_hundred_share_it() {
    // So much comes at once in one plain session that it is spliced.
    let cases =
        [("8 Mbit/s", 1, false), ("32 Mbit/s", 1, true), ("8 Mbit/s", 100, false), ("8 Mbit/s", 100, true)];
    thread::scope(|scope| {
        for (text, sessions, plain) in cases {
            scope.spawn(move || holds(text, sessions, plain));
        }
    });
}
