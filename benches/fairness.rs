//! How long an interactive user waits: alone, beside four bulk users that pour both ways, and for an answer in two
//! small writes. It asks directly and through the tunnel, in turns, and the tunnel is the real program.

#[path = "../tests/pair/mod.rs"]
mod pair;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use pair::Pair;
use pair::load::{Bulk, Interactive, start_local_server};

const BULK_USERS: usize = 4;
/// Questions per round.
const QUESTIONS: u64 = 500;
const ROUNDS: usize = 6;
/// Pause between two questions, as people and pollers make it.
const PAUSE: Duration = Duration::from_millis(2);

/// How long each of the answers took.
fn ask(mut user: Interactive) -> Vec<Duration> {
    let timed = |number| {
        thread::sleep(PAUSE);
        let asked = Instant::now();
        user.ask(number);
        asked.elapsed()
    };
    (0..QUESTIONS).map(timed).collect()
}

fn ask_beside_bulk(to: SocketAddr) -> Vec<Duration> {
    let user = Interactive::echo(to);
    let bulk: Vec<Bulk> = (0..BULK_USERS).map(|_| Bulk::start(to)).collect();
    let (began, before) = (Instant::now(), moved(&bulk));
    let times = ask(user);
    let rate = (moved(&bulk) - before) as f64 / began.elapsed().as_secs_f64();
    print!(" {:.0} MB/s", rate / 1e6);
    times
}

fn moved(bulk: &[Bulk]) -> u64 {
    bulk.iter().flat_map(Bulk::moved).sum()
}

fn measure(what: &str, ways: &[(&str, SocketAddr)], run: impl Fn(SocketAddr) -> Vec<Duration>) {
    let mut times: Vec<Vec<Duration>> = ways.iter().map(|_| Vec::new()).collect();
    print!("{what}:");
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            times.extend(run(way.1));
        }
    }
    println!();
    for ((name, _), mut times) in ways.iter().zip(times) {
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("  {name:<14} p50 {:6.3} ms   p99 {:6.3} ms   most {:7.3} ms", at(0.5), at(0.99), at(1.0));
    }
}

fn main() {
    let local = start_local_server();
    let (sealed, plain) = (Pair::start(local, &[]), Pair::start(local, &["--plain"]));
    let ways = [("direct", local), ("tunnel", sealed.request), ("tunnel, plain", plain.request)];
    measure("64 bytes, alone", &ways, |to| ask(Interactive::echo(to)));
    measure("64 bytes, an answer in two writes 2 ms apart", &ways, |to| ask(Interactive::two_writes(to)));
    measure("64 bytes, beside 4 bulk users", &ways, ask_beside_bulk);
}
