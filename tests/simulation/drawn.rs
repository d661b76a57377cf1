//! What a seed says of a world: its network, its limits, what goes wrong, who comes, and who besieges it.

use std::time::Duration;

use fastrand::Rng;
use skyorg::config::Policies;
use skyorg::config::limits::Limits;

use super::actors::{self, Siege, servers, users};
use super::faults;
use super::line::Line;
use super::tale::{Coming, Tale};
use super::tcp::{Shape, Time};
use super::trace;
use super::world::PATIENCE;

/// Steady users of a world.
const STEADY_MAX: usize = 60;

/// What all processes of a world are started with.
pub struct Settings {
    pub plain: bool,
    pub limits: Limits,
    /// Local servers are known by name.
    pub named: bool,
    pub policies: Policies,
    /// What clients publish is probed.
    pub probes: bool,
}

/// A world before it begins.
pub struct Drawn {
    /// For what is drawn while it lives.
    pub rng: Rng,
    pub clients: usize,
    pub shape: Shape,
    pub line: Line,
    pub settings: Settings,
    /// What comes when, the last first.
    pub coming: Vec<(Time, Coming)>,
    pub siege: Option<Siege>,
    /// Nothing is to go wrong with connections of ours.
    pub strict: bool,
    /// Longest stream of one party.
    pub bytes_max: u64,
}

impl Drawn {
    /// Draws a world of this tale.
    pub fn new(seed: u64, tale: Tale) -> Drawn {
        let mut rng = Rng::with_seed(seed);
        let calm = rng.u8(..6) < 2 || tale != Tale::Anything;
        let clients = 1 + usize::from(rng.u8(..4) == 0 && tale != Tale::Misled);
        let segment_bytes = pick(&mut rng, &[3, 100, 1_448, 1_448, 65_536]);
        let segment_bytes =
            if matches!(tale, Tale::Bloated | Tale::Republished) { 1_448 } else { segment_bytes };
        let shape = shape(&mut rng, segment_bytes, calm, tale);
        let line = if tale.is_of_a_line() { Line::draw(tale, &mut rng) } else { Line::default() };
        let limits = Limits { pool: pick(&mut rng, &[1, 2, 3, 10]), ..Limits::default() };
        let drain = if tale == Tale::Replaced { PATIENCE } else { limits.drain };
        let limits = Limits { drain, ..limits };
        let limits = match tale {
            Tale::Anything => actors::besieged(limits),
            Tale::Misled => servers::misled(limits),
            Tale::Distant => distant(limits, &mut rng),
            _ => limits,
        };
        let settings = Settings {
            plain: rng.u8(..4) == 0 || tale == Tale::Unspliced,
            limits,
            named: rng.u8(..4) == 0,
            policies: Policies::default(),
            probes: seed % 2 == 1 && tale.has_probes(),
        };
        let settings = Settings {
            named: settings.named || matches!(tale, Tale::SlowName | Tale::Nameless | Tale::Moved),
            ..settings
        };
        let long = rng.u8(..4) == 0;
        let until = Duration::from_secs(rng.u64(5..if long { 70 } else { 30 }));
        let faults = if calm { Vec::new() } else { faults::plan(&mut rng, until, clients) };
        let mut coming: Vec<(Time, Coming)> =
            faults.into_iter().map(|(at, fault)| (at, Coming::Fault(fault))).collect();
        let burst = rng.bool().then(|| until.mul_f64(rng.f64()));
        for _ in 0..rng.usize(1..30) {
            let at = burst.filter(|_| rng.bool()).unwrap_or(until.mul_f64(rng.f64()));
            coming.push((at.max(Duration::from_secs(1)), Coming::User));
        }
        for _ in 0..if rng.u8(..3) == 0 { rng.usize(..12) } else { 0 } {
            coming.push((until.mul_f64(rng.f64()), Coming::Stranger));
        }
        let bytes_max = if segment_bytes < 100 { 3_000 } else { u64::MAX };
        let siege = if tale == Tale::Anything {
            Some(besiege(&mut rng, &mut coming, calm, settings.plain, until, bytes_max))
        } else {
            coming = tale.coming(&mut rng, clients, &line);
            None
        };
        coming.sort_by_key(|entry| std::cmp::Reverse(entry.0));
        trace!(Duration::ZERO, "calm {calm}, {clients} clients, {shape:?}, plain {}", settings.plain);
        let faultless = !coming.iter().any(|entry| matches!(entry.1, Coming::Fault(_)));
        let strict = matches!(
            tale,
            Tale::Holed
                | Tale::PartlyHoled
                | Tale::Starved
                | Tale::Failed
                | Tale::SlowName
                | Tale::Replaced
                | Tale::Forbidden
                | Tale::Nameless
                | Tale::Moved
                | Tale::Reloaded
        ) || tale != Tale::Misled && faultless && shape.accept_errors == 0.0;
        if tale.is_of_a_line() {
            trace!(Duration::ZERO, "{line:?}");
        }
        Drawn { rng, clients, shape, line, settings, coming, siege, strict, bytes_max }
    }
}

/// Limits of a world of long round trips: the heartbeat may be far shorter than one.
fn distant(limits: Limits, rng: &mut Rng) -> Limits {
    let heartbeat = Duration::from_secs(pick(rng, &[1, 2, 5, 30]) as u64);
    Limits { heartbeat, ..limits }
}

/// How connections behave.
fn shape(rng: &mut Rng, segment_bytes: usize, calm: bool, tale: Tale) -> Shape {
    let mut shape = Shape {
        pipe_bytes: pick(rng, &[300, 4_096, 65_536, 200_000]).max(segment_bytes.min(4_096)),
        segment_bytes,
        delay: Duration::from_micros(rng.u64(20..40_000)),
        jitter: Duration::from_micros(rng.u64(1..10_000)),
        local_delay: Duration::from_millis(if rng.u8(..4) == 0 && !calm { rng.u64(..2_000) } else { 0 }),
        short: if rng.bool() { 0.3 } else { 0.0 },
        spurious: if rng.bool() && !calm { 0.05 } else { 0.0 },
        accept_errors: if rng.u8(..4) == 0 && !calm { 0.3 } else { 0.0 },
        splice_errors: 0.0,
        instant: if rng.bool() { 0.7 } else { 0.0 },
        name_delay: Duration::from_millis(match rng.u8(..3) {
            0 if tale == Tale::Anything => rng.u64(..3_000),
            _ => 0,
        }),
        name_failures: if calm { 0.0 } else { 0.5 },
    };
    if tale == Tale::SlowName {
        (shape.instant, shape.name_delay) = (1.0, Duration::from_secs(3));
    }
    if tale == Tale::Moved {
        (shape.name_delay, shape.name_failures) = (Duration::from_millis(rng.u64(..1_000)), 0.0);
    }
    if tale == Tale::Nameless {
        (shape.name_delay, shape.name_failures) = (Duration::from_millis(rng.u64(..3_000)), 1.0);
    }
    if matches!(tale, Tale::Bloated | Tale::Republished) {
        // The bulk users together have more on its way than the line takes in its longest wait.
        shape.pipe_bytes = 200_000;
    }
    shape.splice_errors = if tale == Tale::Unspliced { 1.0 } else { shape.accept_errors };
    shape
}

/// Draws who besieges a world from some moment on, whom the victim serves meanwhile, and whether its client is killed.
fn besiege(
    rng: &mut Rng,
    coming: &mut Vec<(Time, Coming)>,
    calm: bool,
    plain: bool,
    until: Time,
    bytes_max: u64,
) -> Siege {
    let kind = actors::Kind::draw(rng);
    let from = Duration::from_millis(rng.u64(1_000..3_000));
    if let actors::Kind::Users(conduct) = kind {
        let users = users::coming(conduct, from, until, bytes_max, rng);
        coming.extend(users.into_iter().map(|(at, script)| (at, Coming::Hostile(script))));
    }
    if calm && !kind.takes_victims_links() && rng.bool() {
        coming.push((from + (until - from).mul_f64(rng.f64() / 2.0), Coming::Kill));
    }
    coming.extend(steady(rng, until));
    trace!(Duration::ZERO, "besieged by {kind:?} from {from:?} on");
    Siege::new(kind, plain, from, rng.fork())
}

fn pick(rng: &mut Rng, choices: &[usize]) -> usize {
    choices[rng.usize(..choices.len())]
}

/// When steady users come: one by one, and some of them together.
fn steady(rng: &mut Rng, until: Time) -> Vec<(Time, Coming)> {
    let mut at = Duration::from_secs(1);
    let mut users = Vec::new();
    while users.len() < STEADY_MAX && at < until {
        let together = if rng.u8(..6) == 0 { rng.usize(1..5) } else { 1 };
        users.extend((0..together).map(|_| (at, Coming::Steady)));
        at += until.mul_f64(rng.f64() * 2.0 / 30.0);
    }
    users
}
