//! The line between clients and the server: as long, as narrow and as faulty as a seed says. Control and message
//! connections cross it; users and local servers are near.
//!
//! What it loses, TCP sends again: at first after a round trip and [`RTO_MIN`], then after twice that, and so on (RFC
//! 6298, 5.5). What is said meanwhile waits behind it. So after an outage nothing arrives until the next attempt.

use std::time::Duration;

use fastrand::Rng;

use super::tale::Tale;
use super::tcp::Time;

/// What is added to the round trip before something is sent again; kernels allow no less for its variance.
const RTO_MIN: Duration = Duration::from_millis(200);
/// What it is for the first packet of a connection, whose round trip nobody knows.
const RTO_FIRST: Duration = Duration::from_secs(1);
/// TCP pauses no longer than that (`TCP_RTO_MAX`).
const RTO_MAX: Duration = Duration::from_secs(120);
/// Longest round trip of a world.
const ROUND_TRIP_MAX_MS: u64 = 10_000;
/// A round trip grows so many times at once, at most.
const GROWS_MAX: u32 = 4;

/// What a middlebox does with a connection that was quiet for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgets {
    /// It drops what comes from then on.
    Silently,
    /// It resets both ends.
    Loudly,
}

/// The line. By default it has no length, no bound and no fault.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Time of one way, and since when.
    ways: Vec<(Time, Duration)>,
    /// Bytes a second in each direction, and the longest time that a packet waits for its turn; beyond that it is lost.
    rate: Option<(u64, Duration)>,
    /// When each direction has sent what waits.
    busy: [Time; 2],
    /// Times in which everything is lost.
    outages: Vec<(Time, Time)>,
    /// Chance that a connect is never answered.
    pub unanswered: f64,
    /// After how much quiet a middlebox forgets a connection, and what it does then.
    middlebox: Option<(Duration, Forgets)>,
}

/// What TCP does about a loss, in one direction of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery {
    lost_at: Time,
    rto: Duration,
    /// When the attempt leaves that arrives.
    until: Time,
    /// What was sent again before that loss.
    before: u32,
}

impl Recovery {
    /// What was lost, and what waits behind it, has not left again by now.
    pub fn lasts(&self, now: Time) -> bool {
        now < self.until
    }

    /// How many attempts have left so far, each again.
    pub fn sent_again(&self, now: Time) -> u32 {
        let (mut count, mut rto) = (self.before, self.rto);
        let mut at = self.lost_at + rto;
        while !rto.is_zero() && at <= now.min(self.until) {
            count += 1;
            rto = (rto * 2).min(RTO_MAX);
            at += rto;
        }
        count
    }

    /// The pause before the attempt that follows the present one, while nothing was acknowledged; else this one.
    pub fn rto(&self, now: Time, round_trip: Duration) -> Duration {
        if self.rto.is_zero() || now >= self.until + round_trip {
            return round_trip + RTO_MIN;
        }
        let mut rto = self.rto;
        let mut at = self.lost_at + rto;
        while at <= now.min(self.until) && rto < RTO_MAX {
            rto = (rto * 2).min(RTO_MAX);
            at += rto;
        }
        rto
    }
}

impl Line {
    /// The line of a world of this tale.
    pub fn draw(tale: Tale, rng: &mut Rng) -> Line {
        let near = Duration::from_millis(rng.u64(1..60));
        let steady = |way| vec![(Time::ZERO, way)];
        let ways = match tale {
            Tale::Distant => journey(rng),
            Tale::Interrupted | Tale::Unnoticed | Tale::Bloated | Tale::Unanswered | Tale::Forgetful => {
                steady(near)
            }
            _ => Vec::new(),
        };
        let second = Duration::from_secs;
        let outages = match tale {
            Tale::Interrupted | Tale::Unnoticed => {
                let from = second(30) + Duration::from_millis(rng.u64(..30_000));
                let lasts_ms = if tale == Tale::Unnoticed { 15_000..60_000 } else { 1_000..20_000 };
                vec![(from, from + Duration::from_millis(rng.u64(lasts_ms)))]
            }
            _ => Vec::new(),
        };
        let forgets = if rng.bool() { Forgets::Silently } else { Forgets::Loudly };
        Line {
            ways,
            rate: (tale == Tale::Bloated).then(|| (250_000, second(3))),
            busy: [Time::ZERO; 2],
            outages,
            unanswered: if tale == Tale::Unanswered { 0.1 + 0.4 * rng.f64() } else { 0.0 },
            middlebox: (tale == Tale::Forgetful).then(|| (second(rng.u64(20..60)), forgets)),
        }
    }

    /// When the line is down.
    pub fn outage(&self) -> Option<(Time, Time)> {
        self.outages.first().copied()
    }

    /// Faults are over, and everybody is near.
    pub fn relent(&mut self) {
        *self = Line::default();
    }

    fn way(&self, now: Time) -> Duration {
        self.ways.iter().rev().find(|entry| entry.0 <= now).map_or(Duration::ZERO, |entry| entry.1)
    }

    /// A round trip at this moment, with what waits in both directions.
    pub fn round_trip(&self, now: Time) -> Duration {
        self.way(now) * 2 + self.busy.iter().map(|busy| busy.saturating_sub(now)).sum::<Duration>()
    }

    fn loses(&self, at: Time) -> bool {
        let arrives = at + self.way(at);
        self.outages.iter().any(|&(from, until)| arrives >= from && at < until)
    }

    /// What a middlebox does with what is said after so much quiet.
    pub fn forgets(&self, quiet: Duration) -> Option<Forgets> {
        self.middlebox.filter(|&(after, _)| quiet > after).map(|entry| entry.1)
    }

    /// When something arrives that leaves now, in direction 0 or 1.
    pub fn cross(
        &mut self,
        now: Time,
        direction: usize,
        bytes: usize,
        first: bool,
        recovery: &mut Recovery,
    ) -> Time {
        if recovery.lasts(now) {
            return recovery.until + self.way(recovery.until);
        }
        let queued = self.busy[direction].saturating_sub(now);
        let dropped = self.rate.is_some_and(|(_, longest)| queued > longest);
        if dropped || self.loses(now) {
            let rto = if first { RTO_FIRST } else { self.round_trip(now) + RTO_MIN };
            recovery.before = recovery.sent_again(now);
            (recovery.lost_at, recovery.rto, recovery.until) = (now, rto, now + rto);
            let mut pause = rto;
            while self.loses(recovery.until) {
                pause = (pause * 2).min(RTO_MAX);
                recovery.until += pause;
            }
            return recovery.until + self.way(recovery.until);
        }
        if let Some((rate, _)) = self.rate {
            let takes = Duration::from_micros(bytes as u64 * 1_000_000 / rate);
            self.busy[direction] = self.busy[direction].max(now) + takes;
            return self.busy[direction] + self.way(now);
        }
        now + self.way(now)
    }
}

/// Round trips that change while the world lives: at once by a factor, upwards not by more than [`GROWS_MAX`].
fn journey(rng: &mut Rng) -> Vec<(Time, Duration)> {
    let longest = Duration::from_millis(ROUND_TRIP_MAX_MS / 2);
    // As many short ones as long ones.
    let draw = |rng: &mut Rng| longest.mul_f64(10f64.powf(-4.0 * rng.f64()));
    let mut way = if rng.u8(..4) == 0 { longest } else { draw(rng) };
    let mut ways = vec![(Time::ZERO, way)];
    let mut at = Time::ZERO;
    for _ in 0..rng.usize(..4) {
        // The link has heard of the one before by then.
        at += Duration::from_secs(40) + Duration::from_millis(rng.u64(..30_000));
        way = draw(rng).min(way * GROWS_MAX);
        ways.push((at, way));
    }
    ways
}
