//! A key's rate over real sockets: what all its sessions pass together, each way.
//!
//! It is never more than the rate and a burst, whatever the machine does. That it is not much less holds where the
//! machine has time for both ends, which are asked for little here.

mod in_process;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use in_process::{Ends, come};
use skyorg::base::rate::Rate;
use skyorg::config::Policies;
use skyorg::config::limits::Limits;
use skyorg::config::policy::{Policy, Services, UserRules};
use socket2::SockRef;

/// How long is measured, and how often at most: a machine that is busy otherwise has less time for both ends.
const TIME: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 6;
/// What a user says first: in which direction the bytes of its session go.
const UP: u8 = b'u';
const DOWN: u8 = b'd';

/// One is measured at a time: what hundreds of sessions hold back makes the kernel short of memory for all.
static ALONE: Mutex<()> = Mutex::new(());

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

/// Answers the first byte with itself, and then talks or hears.
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
                if first[0] == UP { hear(stream, &arrived.up) } else { talk(stream) }
            });
        }
    });
    address
}

/// This many sessions in each direction at once pass this rate together.
fn holds(text: &str, sessions: usize, plain: bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let rate: Rate = text.parse().expect("a rate");
    let policy = Policy { services: Services::All, rate: Some(rate), ..Policy::default() };
    let policies = Policies::Each(BTreeMap::from([("default".parse().expect("a name"), policy)]));
    let arrived = Arc::new(Arrived::default());
    let local = start_local_server(arrived.clone());
    let request = Ends::with(local, plain, &Limits::default(), UserRules::default(), policies).run();
    drop(come(request, UP));
    let mut users = Vec::new();
    for direction in [UP, DOWN].into_iter().cycle().take(2 * sessions) {
        let user = come(request, direction);
        users.push(user.try_clone().expect("cloned"));
        let arrived = arrived.clone();
        thread::spawn(move || if direction == UP { talk(user) } else { hear(user, &arrived.down) });
    }
    let count = || [UP, DOWN].map(|direction| arrived.of(direction).load(Ordering::Relaxed) as f64);
    for _ in 0..ATTEMPTS {
        let (before, began) = (count(), Instant::now());
        thread::sleep(TIME); // paces: it is measured over this time
        let (after, lasted) = (count(), began.elapsed().as_secs_f64());
        let wanted = rate.bytes_per_second() as f64 * lasted;
        let shares = [0, 1].map(|way| (after[way] - before[way]) / wanted);
        println!("{text}, {sessions} sessions, plain: {plain}: {shares:.4?} of the rate");
        assert!(shares.iter().all(|&share| share <= 1.05), "{text}: {shares:?} of the rate");
        if shares.iter().all(|&share| share >= 0.95) {
            users.iter().for_each(|user| user.shutdown(Shutdown::Both).expect("it stands"));
            return;
        }
    }
    panic!("{text}, {sessions} sessions, plain: {plain}: less than the rate each time");
}

#[test]
fn one_sealed_session_has_the_whole_rate() {
    holds("8 Mbit/s", 1, false);
}

#[test]
fn one_plain_session_has_the_whole_rate() {
    // So much comes at once that it is spliced.
    holds("32 Mbit/s", 1, true);
}

#[test]
fn a_hundred_sealed_sessions_share_the_rate() {
    holds("8 Mbit/s", 100, false);
}

#[test]
fn a_hundred_plain_sessions_share_the_rate() {
    holds("8 Mbit/s", 100, true);
}
