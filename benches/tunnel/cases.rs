//! What is measured: each case runs once per round and contender, and notes its figures.

use std::io;
use std::time::{Duration, Instant};

use super::contenders::{Contender, Running};
use super::line::Shape;
use super::load::{self, Bulk, Outcome, Plan};
use super::process::Process;
use super::results::{Note, Results};

/// Users at once in the case of requests.
const REQUESTING: usize = 64;
/// Users at once in the case of new connections.
pub const CONNECTING: usize = 50;
/// Users of the burst.
const BURST: usize = 500;
/// Users of a burst over the slow link, and lone users before it.
const LINK_BURST: usize = 100;
const LINK_LONE: usize = 20;
/// Pause after a lone user, so that the next one is alone as well and finds the pool filled.
const LINK_PAUSE_ROUND_TRIPS: u32 = 5;
const BETWEEN_BURSTS: Duration = Duration::from_secs(1);
/// A line that only delays, one that loses packets, and one whose rate is small and whose queue is long.
const CLEAN: Shape =
    Shape { round_trip: Duration::from_millis(50), loss: 0.0, rate: 0, buffer: Duration::ZERO };
const LOSSY: Shape =
    Shape { round_trip: Duration::from_millis(60), loss: 0.01, rate: 0, buffer: Duration::ZERO };
const SLOW: Shape = Shape {
    round_trip: Duration::from_millis(40),
    loss: 0.0,
    rate: 20_000_000,
    buffer: Duration::from_secs(2),
};
/// Bulk users of the slow line.
const QUEUED: usize = 8;
/// How long they pour before anybody looks.
const QUEUE_FILLS: Duration = Duration::from_secs(3);
/// Points of the curve of memory over sessions.
const MEMORY_STEPS: usize = 8;
/// A process needs a moment to come to rest after its start, and after its users have left.
const CALM: Duration = Duration::from_millis(500);

/// One case.
pub struct Case {
    /// Its name for `--cases` and in tables.
    pub name: &'static str,
    /// Its title in pictures.
    pub title: &'static str,
    /// How it is run.
    pub kind: Kind,
}

/// How a case is run.
#[derive(Clone, Copy)]
pub enum Kind {
    /// All contenders run at once, and one at a time is used.
    Beside(fn(&Setting, &Running) -> io::Result<()>),
    /// Each contender is started afresh and alone, in the first round only: memory and sizes do not vary.
    AloneOnce(fn(&Setting, &Running) -> io::Result<()>),
    /// Each contender is started afresh for each round, with the slow link between its halves.
    OverLink(fn(&Setting, &Running) -> io::Result<()>),
    /// Each contender is started afresh for each round, with a line of this shape between its halves.
    OverLine(Shape, fn(&Setting, &Running) -> io::Result<()>),
    /// Each contender is started afresh for each point, see [`super::growth`].
    Growth,
}

/// What a run needs to know.
pub struct Setting<'a> {
    /// Where figures go.
    pub results: &'a Results,
    /// Which case.
    pub case: &'static str,
    /// Which contender has its turn.
    pub contender: &'a Contender,
    /// How long a timed case takes.
    pub time: Duration,
    /// Most idle sessions, in the cases of memory and growth.
    pub sessions: usize,
    /// How long memory may take to go back to the system.
    pub settle: Duration,
    /// The slow link's round trip.
    pub round_trip: Duration,
}

/// All of them, in the order of the table.
pub const CASES: [Case; 17] = [
    Case { name: "up-1", title: "bulk to the origin, 1 stream", kind: Kind::Beside(up_1) },
    Case { name: "up-8", title: "bulk to the origin, 8 streams", kind: Kind::Beside(up_8) },
    Case { name: "down-1", title: "bulk to the user, 1 stream", kind: Kind::Beside(down_1) },
    Case { name: "down-8", title: "bulk to the user, 8 streams", kind: Kind::Beside(down_8) },
    Case { name: "echo", title: "echo of one user, 64 B", kind: Kind::Beside(echo) },
    Case { name: "requests", title: "requests of 64 users, 64 B", kind: Kind::Beside(requests) },
    Case {
        name: "connections",
        title: "new connection per request, 50 at a time",
        kind: Kind::Beside(connections),
    },
    Case { name: "first-byte", title: "connect to first byte of lone users", kind: Kind::Beside(first_byte) },
    Case { name: "burst", title: "500 users at once", kind: Kind::Beside(burst) },
    Case { name: "memory", title: "memory of both processes", kind: Kind::AloneOnce(memory) },
    Case { name: "rest", title: "at rest", kind: Kind::AloneOnce(rest) },
    Case { name: "size", title: "size of the executable", kind: Kind::AloneOnce(size) },
    Case { name: "link", title: "first byte over a slow link", kind: Kind::OverLink(link) },
    Case { name: "line", title: "first byte over a line of 50 ms", kind: Kind::OverLine(CLEAN, bursts) },
    Case {
        name: "loss",
        title: "first byte over a line that loses 1 %",
        kind: Kind::OverLine(LOSSY, bursts),
    },
    Case {
        name: "queue",
        title: "echo of one user beside 8 streams over 20 Mbit/s with a queue of 2 s",
        kind: Kind::OverLine(SLOW, queue),
    },
    Case {
        name: "growth",
        title: "CPU time beside many clients, services and idle sessions",
        kind: Kind::Growth,
    },
];

impl Setting<'_> {
    /// Notes a figure of this contender in this case.
    pub fn note(&self, metric: &'static str, value: f64) {
        let (case, contender) = (self.case, self.contender.name);
        self.results.note(Note { case, metric, contender, value });
    }

    fn users(&self, running: &Running, users: usize, fresh: bool) -> io::Result<Outcome> {
        let plan = Plan { address: running.address, users, fresh, time: self.time, requests: u64::MAX };
        let outcome = load::run(&plan)?;
        self.results.add_latencies(self.case, self.contender.name, &outcome.latencies);
        Ok(outcome)
    }
}

fn up_1(setting: &Setting, running: &Running) -> io::Result<()> {
    bulk(setting, running, Bulk::Up, 1)
}

fn up_8(setting: &Setting, running: &Running) -> io::Result<()> {
    bulk(setting, running, Bulk::Up, 8)
}

fn down_1(setting: &Setting, running: &Running) -> io::Result<()> {
    bulk(setting, running, Bulk::Down, 1)
}

fn down_8(setting: &Setting, running: &Running) -> io::Result<()> {
    bulk(setting, running, Bulk::Down, 8)
}

fn bulk(setting: &Setting, running: &Running, way: Bulk, streams: usize) -> io::Result<()> {
    let before = running.sum(Process::cpu_seconds)?;
    let (bytes, elapsed) = load::bulk(running.address, way, streams, setting.time)?;
    let gigabytes = bytes as f64 / 1e9;
    setting.note("GB/s", gigabytes / elapsed.as_secs_f64());
    if !running.processes.is_empty() {
        setting.note("CPU s/GB", (running.sum(Process::cpu_seconds)? - before) / gigabytes);
    }
    Ok(())
}

fn echo(setting: &Setting, running: &Running) -> io::Result<()> {
    let outcome = setting.users(running, 1, false)?;
    setting.note("p50 µs", outcome.percentile(50.0) * 1e6);
    setting.note("p99 µs", outcome.percentile(99.0) * 1e6);
    setting.note("p99.9 µs", outcome.percentile(99.9) * 1e6);
    Ok(())
}

fn requests(setting: &Setting, running: &Running) -> io::Result<()> {
    let before = running.sum(Process::cpu_seconds)?;
    let outcome = setting.users(running, REQUESTING, false)?;
    setting.note("1/s", outcome.rate());
    setting.note("p99 ms", outcome.percentile(99.0) * 1e3);
    note_cpu_per_request(setting, running, before, &outcome)
}

fn connections(setting: &Setting, running: &Running) -> io::Result<()> {
    let before = running.sum(Process::cpu_seconds)?;
    let outcome = setting.users(running, CONNECTING, true)?;
    setting.note("1/s", outcome.rate());
    setting.note("p99 ms", outcome.percentile(99.0) * 1e3);
    setting.note("failures", outcome.failures as f64);
    note_cpu_per_request(setting, running, before, &outcome)
}

fn note_cpu_per_request(
    setting: &Setting,
    running: &Running,
    before: f64,
    outcome: &Outcome,
) -> io::Result<()> {
    if !running.processes.is_empty() {
        let seconds = running.sum(Process::cpu_seconds)? - before;
        setting.note("CPU µs each", seconds * 1e6 / outcome.latencies.len() as f64);
    }
    Ok(())
}

fn first_byte(setting: &Setting, running: &Running) -> io::Result<()> {
    let outcome = setting.users(running, 1, true)?;
    setting.note("p50 µs", outcome.percentile(50.0) * 1e6);
    setting.note("p99 µs", outcome.percentile(99.0) * 1e6);
    setting.note("failures", outcome.failures as f64);
    Ok(())
}

/// Users that come all at once, ask once and leave.
fn at_once(running: &Running, users: usize) -> io::Result<Outcome> {
    let time = Duration::from_secs(10);
    load::run(&Plan { address: running.address, users, fresh: true, time, requests: users as u64 })
}

fn burst(setting: &Setting, running: &Running) -> io::Result<()> {
    let outcome = at_once(running, BURST)?;
    setting.note("p50 ms", outcome.percentile(50.0) * 1e3);
    setting.note("last ms", outcome.elapsed.as_secs_f64() * 1e3);
    setting.note("failures", outcome.failures as f64);
    Ok(())
}

fn memory(setting: &Setting, running: &Running) -> io::Result<()> {
    if running.processes.is_empty() {
        return Ok(());
    }
    std::thread::sleep(CALM);
    let at_rest = running.sum(Process::memory_kib)?;
    setting.note("MiB at rest", at_rest / 1024.0);
    setting.results.add_memory(setting.contender.name, 0, at_rest);
    let mut held = Vec::new();
    let mut most = at_rest;
    for step in 1..=MEMORY_STEPS {
        let wanted = setting.sessions * step / MEMORY_STEPS;
        held.extend(load::hold(running.address, wanted - held.len())?);
        std::thread::sleep(CALM);
        most = running.sum(Process::memory_kib)?;
        setting.results.add_memory(setting.contender.name, held.len(), most);
    }
    setting.note("KiB per idle session", (most - at_rest) / setting.sessions as f64);
    drop(held);
    let ended = Instant::now();
    let after = loop {
        std::thread::sleep(CALM);
        let now = running.sum(Process::memory_kib)?;
        if now <= at_rest * 1.2 || ended.elapsed() >= setting.settle {
            break now;
        }
    };
    setting.note("of rest after they ended", after / at_rest);
    setting.note("seconds until then", ended.elapsed().as_secs_f64());
    Ok(())
}

fn rest(setting: &Setting, running: &Running) -> io::Result<()> {
    if running.processes.is_empty() {
        return Ok(());
    }
    std::thread::sleep(CALM);
    let cpu_before = running.sum(Process::cpu_seconds)?;
    let sleeps_before = running.sum(|process| process.sleeps().map(|count| count as f64))?;
    let began = Instant::now();
    std::thread::sleep(setting.time * 5);
    let seconds = began.elapsed().as_secs_f64();
    let sleeps = running.sum(|process| process.sleeps().map(|count| count as f64))? - sleeps_before;
    setting.note("CPU ms/s", (running.sum(Process::cpu_seconds)? - cpu_before) * 1e3 / seconds);
    setting.note("wake-ups/s", sleeps / seconds);
    Ok(())
}

fn size(setting: &Setting, running: &Running) -> io::Result<()> {
    if let Some(process) = running.processes.first() {
        setting.note("MB", process.executable_bytes()? as f64 / 1e6);
    }
    Ok(())
}

fn link(setting: &Setting, running: &Running) -> io::Result<()> {
    let round_trips = |seconds: f64| seconds / setting.round_trip.as_secs_f64();
    let pause = setting.round_trip * LINK_PAUSE_ROUND_TRIPS;
    // The pool is not filled yet, and the request that showed that the contender works has used one of it.
    std::thread::sleep(pause.max(CALM));
    let mut lone = load::latencies();
    let mut failures = 0;
    for _ in 0..LINK_LONE {
        let outcome = at_once(running, 1)?;
        failures += outcome.failures;
        lone += outcome.latencies;
        std::thread::sleep(pause);
    }
    setting.note("lone p50", round_trips(lone.value_at_percentile(50.0) as f64 / 1e9));
    for (p50, p99) in [("burst p50", "burst p99"), ("again p50", "again p99")] {
        let outcome = at_once(running, LINK_BURST)?;
        failures += outcome.failures;
        setting.note(p50, round_trips(outcome.percentile(50.0)));
        setting.note(p99, round_trips(outcome.percentile(99.0)));
        std::thread::sleep(BETWEEN_BURSTS);
    }
    setting.note("failures", failures as f64);
    Ok(())
}

fn bursts(setting: &Setting, running: &Running) -> io::Result<()> {
    std::thread::sleep((setting.round_trip * LINK_PAUSE_ROUND_TRIPS).max(CALM));
    let mut failures = 0;
    let metrics = [["first p50", "first p95", "first p99"], ["again p50", "again p95", "again p99"]];
    for names in metrics {
        let outcome = at_once(running, LINK_BURST)?;
        failures += outcome.failures;
        for (name, percent) in names.into_iter().zip([50.0, 95.0, 99.0]) {
            setting.note(name, outcome.percentile(percent) / setting.round_trip.as_secs_f64());
        }
        std::thread::sleep(BETWEEN_BURSTS);
    }
    setting.note("failures", failures as f64);
    Ok(())
}

fn queue(setting: &Setting, running: &Running) -> io::Result<()> {
    std::thread::scope(|scope| {
        let time = setting.time + QUEUE_FILLS;
        let bulk = scope.spawn(move || load::bulk(running.address, Bulk::Down, QUEUED, time));
        std::thread::sleep(QUEUE_FILLS);
        let outcome = setting.users(running, 1, true)?;
        setting.note("p50 ms", outcome.percentile(50.0) * 1e3);
        setting.note("p99 ms", outcome.percentile(99.0) * 1e3);
        setting.note("failures", outcome.failures as f64);
        let (bytes, elapsed) = bulk.join().map_err(|_| io::Error::other("a bulk user panicked"))??;
        setting.note("bulk Mbit/s", bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64());
        Ok(())
    })
}
