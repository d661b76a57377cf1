//! Rates that the sessions of a key share, one bucket for each direction of a rate.
//!
//! A session passes bytes while its bucket has some and no other one waits. Else it waits, and reads nothing more in
//! that direction. Those who wait are called in turn once enough has gathered, each for an equal part and for no less
//! than a slice. A called session is served at once, for that part; if it has more to pass, it waits again, behind the
//! others. So there is one deadline per bucket, and at most one call for each slice that passes.
//!
//! A session whose user has no rate is not looked up here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::connections::Local;
use crate::base::bucket::{BURST, Bucket};
use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, RateId, kind};
use crate::base::rate::Rate;
use crate::base::table::{SLOTS_KEPT, Table};

/// What gathers in this time is shared among those who wait.
const GATHER: Duration = Duration::from_millis(10);
/// A slice is what the rate brings in this time, within these limits.
const SLICE: Duration = Duration::from_millis(1);
const SLICE_BYTES: (u64, u64) = (512, 64 * 1024);
/// Of what one is called for, a smaller part than one in this many is not passed alone.
const REST: u64 = 8;
/// Sessions that are called in one turn, for each direction.
pub(super) const TURN_CALLS: usize = 32;

/// A direction of users' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From users.
    Up,
    /// To users.
    Down,
}

/// In which directions a session waits for its rate. One byte, because every session has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waits {
    #[default]
    No,
    Up,
    Down,
    Both,
}

impl Waits {
    fn of(up: bool, down: bool) -> Waits {
        match (up, down) {
            (false, false) => Waits::No,
            (true, false) => Waits::Up,
            (false, true) => Waits::Down,
            (true, true) => Waits::Both,
        }
    }

    pub fn waits(self, direction: Direction) -> bool {
        match direction {
            Direction::Up => matches!(self, Waits::Up | Waits::Both),
            Direction::Down => matches!(self, Waits::Down | Waits::Both),
        }
    }

    pub fn waits_at_all(self) -> bool {
        self != Waits::No
    }

    /// It stands in a queue, or no longer does.
    pub fn set(&mut self, direction: Direction, waits: bool) {
        *self = match direction {
            Direction::Up => Waits::of(waits, self.waits(Direction::Down)),
            Direction::Down => Waits::of(self.waits(Direction::Up), waits),
        };
    }
}

/// One direction of a rate.
struct Shared {
    bucket: Bucket,
    /// Those who wait, each once: their [`Waits`] says so.
    waiting: VecDeque<ConnId>,
    /// What each is called for while those who wait are called.
    part: Option<u64>,
}

impl Shared {
    fn slice(&self) -> u64 {
        let (least, most) = SLICE_BYTES;
        self.bucket.bytes_in(SLICE).clamp(least, most).min(self.bucket.bytes_in(BURST / 2))
    }

    /// When those who wait are called.
    fn due(&self) -> Option<Instant> {
        let gathered = self.bucket.bytes_in(GATHER).max(self.slice());
        (!self.waiting.is_empty()).then(|| self.bucket.time_of(gathered))
    }
}

/// All rates in one direction.
#[derive(Default)]
struct Way {
    shared: Table<kind::Rate, Shared>,
    deadlines: Deadlines<kind::Rate>,
    /// Those who waited for a rate that is gone.
    released: VecDeque<ConnId>,
}

/// Who is being served because it was called.
struct Called {
    user: ConnId,
    direction: Direction,
    /// Its rate, unless that is gone.
    rate: Option<RateId>,
    left: u64,
    /// A rest of fewer bytes is for others: it would take a read and a packet of its own.
    least: u64,
}

/// All rates; see the module.
#[derive(Default)]
pub(super) struct Rates {
    up: Way,
    down: Way,
    called: Option<Called>,
}

impl Rates {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Makes, changes or forgets a rate.
    pub fn set(&mut self, id: RateId, rate: Option<Rate>, now: Instant) {
        for way in [&mut self.up, &mut self.down] {
            way.set(id, rate, now);
        }
    }

    /// When somebody is called next.
    pub fn due(&self) -> Option<Instant> {
        [self.up.deadlines.next(), self.down.deadlines.next()].into_iter().flatten().min()
    }

    /// Whether somebody is to be called without a deadline.
    pub fn has_work(&self) -> bool {
        !self.up.released.is_empty() || !self.down.released.is_empty()
    }

    /// How many bytes of this user's may pass now. If none may, it waits and will be called.
    pub fn allow(&mut self, id: ConnId, local: &mut Local, direction: Direction, now: Instant) -> usize {
        let Some(rate) = local.rate else { return usize::MAX };
        let left = self.allow_shared(id, rate, &mut local.waits, direction, now);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    fn allow_shared(
        &mut self,
        user: ConnId,
        rate: RateId,
        waits: &mut Waits,
        direction: Direction,
        now: Instant,
    ) -> u64 {
        if let Some(called) = self.called.as_ref().filter(|it| it.user == user && it.direction == direction)
            && called.rate == Some(rate)
            && called.left >= called.least
        {
            return called.left;
        }
        let way = self.way(direction);
        let Some(shared) = way.shared.get_mut(rate) else { return u64::MAX };
        if waits.waits(direction) {
            return 0;
        }
        if shared.waiting.is_empty() {
            let level = shared.bucket.level(now);
            if level >= shared.slice() {
                return level;
            }
        }
        waits.set(direction, true);
        shared.waiting.push_back(user);
        if shared.part.is_none() {
            way.deadlines.set(rate, shared.due());
        }
        0
    }

    /// Bytes have passed, no more than were allowed.
    pub fn spend(&mut self, id: ConnId, local: &Local, direction: Direction, bytes: usize) {
        if let Some(rate) = local.rate {
            self.spend_shared(id, rate, direction, bytes as u64);
        }
    }

    fn spend_shared(&mut self, user: ConnId, rate: RateId, direction: Direction, bytes: u64) {
        if let Some(called) = self.called.as_mut().filter(|it| it.user == user && it.direction == direction) {
            called.left = called.left.saturating_sub(bytes);
        }
        if let Some(shared) = self.way(direction).shared.get_mut(rate) {
            shared.bucket.take(bytes);
        }
    }

    /// The next user whose turn it is, which may be gone. It is served now, and then
    /// [`Rates::end_call`] is called.
    pub fn call(&mut self, direction: Direction, now: Instant) -> Option<ConnId> {
        let way = self.way(direction);
        let (user, rate, left) = match way.released.pop_front() {
            Some(user) => (user, None, 0),
            None => {
                let rate = way.deadlines.pop_due(now)?;
                let shared = way.shared.get_mut(rate)?;
                let (level, count) = (shared.bucket.level_owed(now), shared.waiting.len().max(1) as u64);
                let slice = shared.slice();
                let part = *shared.part.get_or_insert_with(|| slice.max(level / count));
                (shared.waiting.pop_front()?, Some(rate), part.min(level))
            }
        };
        self.called = Some(Called { user, direction, rate, left, least: left.div_ceil(REST).max(1) });
        Some(user)
    }

    /// The user that was called has been served.
    pub fn end_call(&mut self, now: Instant) {
        let Some(Called { rate: Some(rate), direction, .. }) = self.called.take() else { return };
        let way = self.way(direction);
        let Some(shared) = way.shared.get_mut(rate) else { return };
        let level = shared.bucket.level_owed(now);
        // What one left goes to the next.
        let goes_on = !shared.waiting.is_empty() && shared.part.is_some_and(|part| level >= part);
        if !goes_on {
            shared.part = None;
        }
        if shared.waiting.is_empty() {
            shared.waiting.shrink_to(SLOTS_KEPT);
        }
        let due = if goes_on { Some(now) } else { shared.due() };
        way.deadlines.set(rate, due);
    }
}

impl Way {
    fn set(&mut self, id: RateId, rate: Option<Rate>, now: Instant) {
        match (rate, self.shared.get_mut(id)) {
            (Some(rate), Some(shared)) => {
                shared.bucket.set_rate(rate, now);
                shared.part = None;
                self.deadlines.set(id, shared.due());
            }
            (Some(rate), None) => {
                let bucket = Bucket::full(rate, now);
                self.shared.insert(id, Shared { bucket, waiting: VecDeque::new(), part: None });
            }
            (None, _) => {
                if let Some(shared) = self.shared.remove(id) {
                    self.deadlines.set(id, None);
                    self.released.extend(shared.waiting);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    /// Sessions that share a rate, and a clock.
    struct Sessions {
        rates: Rates,
        waits: Vec<Waits>,
        passed: Vec<u64>,
        /// What each has to pass before it has nothing more for now.
        has: Vec<u64>,
        now: Instant,
        /// How late the clock is each time, as that of a loop is.
        late: Duration,
    }

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    fn id() -> RateId {
        RateId::new(0, 1).expect("it can be named")
    }

    fn user(slot: usize) -> ConnId {
        ConnId::new(slot as u32, 1).expect("it can be named")
    }

    impl Sessions {
        fn new(count: usize, text: &str) -> Sessions {
            let (mut rates, now) = (Rates::default(), Instant::now());
            rates.set(id(), Some(rate(text)), now);
            let (waits, passed, has) = (vec![Waits::default(); count], vec![0; count], vec![u64::MAX; count]);
            Sessions { rates, waits, passed, has, now, late: Duration::from_micros(700) }
        }

        /// A session passes what it may and has, in reads of 64 KiB.
        fn serve(&mut self, at: usize, direction: Direction) {
            while self.has[at] > 0 {
                let waits = &mut self.waits[at];
                let may = self.rates.allow_shared(user(at), id(), waits, direction, self.now);
                let count = may.min(self.has[at]).min(64 * 1024);
                if count == 0 {
                    return;
                }
                self.rates.spend_shared(user(at), id(), direction, count);
                self.passed[at] += count;
                self.has[at] -= count;
            }
        }

        /// Time passes. Returns how often somebody was called.
        fn live(&mut self, time: Duration, direction: Direction) -> usize {
            let (until, mut calls) = (self.now + time, 0);
            (0..self.waits.len()).for_each(|at| self.serve(at, direction));
            while let Some(due) = self.rates.due().filter(|&due| due < until) {
                self.now = self.now.max(due + self.late);
                for _ in 0..TURN_CALLS {
                    let Some(called) = self.rates.call(direction, self.now) else { break };
                    calls += 1;
                    self.waits[called.index()].set(direction, false);
                    self.serve(called.index(), direction);
                    self.rates.end_call(self.now);
                }
            }
            self.now = until;
            calls
        }

        fn total(&self) -> u64 {
            self.passed.iter().sum()
        }
    }

    fn holds(sessions: &Sessions, text: &str, time: Duration) {
        let wanted = rate(text).bytes_per_second() as f64 * time.as_secs_f64();
        let share = sessions.total() as f64 / wanted;
        assert!((0.99..=1.011).contains(&share), "{text}, {} sessions: {share}", sessions.waits.len());
    }

    #[test]
    fn a_rate_holds_for_one_session_and_for_a_hundred() {
        for text in ["8 kbit/s", "1 Mbit/s", "8 Mbit/s", "50 Mbit/s", "1 Gbit/s", "10 Gbit/s"] {
            for count in [1, 2, 3, 100, 1_000] {
                for direction in [Direction::Up, Direction::Down] {
                    let mut sessions = Sessions::new(count, text);
                    let calls = sessions.live(TEN_SECONDS, direction);
                    holds(&sessions, text, TEN_SECONDS);
                    let slices = sessions.total() / sessions.rates.way(direction).slice();
                    assert!(
                        calls <= 2 * slices as usize + 1_000,
                        "{text}, {count}: {calls} calls, {slices} slices"
                    );
                }
            }
        }
    }

    impl Way {
        fn slice(&self) -> u64 {
            self.shared.get(id()).expect("it is there").slice()
        }
    }

    #[test]
    fn sessions_have_equal_parts() {
        for text in ["80 kbit/s", "8 Mbit/s", "1 Gbit/s"] {
            for count in [2, 3, 100] {
                let mut sessions = Sessions::new(count, text);
                sessions.live(Duration::from_secs(60), Direction::Down);
                let (least, most) = (sessions.passed.iter().min(), sessions.passed.iter().max());
                let (least, most) = (*least.expect("some") as f64, *most.expect("some") as f64);
                // The first to come has had the burst.
                let burst = rate(text).bytes_per_second() as f64 / 10.0;
                assert!(most - least <= burst * 1.5 + least * 0.1, "{text}, {count}: {least} to {most}");
            }
        }
    }

    #[test]
    fn what_one_does_not_need_the_others_have() {
        let mut sessions = Sessions::new(100, "8 Mbit/s");
        sessions.has = vec![1; 100];
        sessions.has[99] = u64::MAX;
        let mut time = Duration::ZERO;
        while time < TEN_SECONDS {
            sessions.live(Duration::from_millis(20), Direction::Up);
            time += Duration::from_millis(20);
            sessions.has[..99].fill(1);
        }
        holds(&sessions, "8 Mbit/s", TEN_SECONDS);
        assert!(sessions.passed[..99].iter().all(|&count| count > 100), "{:?}", sessions.passed);
    }

    #[test]
    fn a_session_that_has_had_its_burst_waits_and_its_other_direction_does_not() {
        let mut sessions = Sessions::new(1, "8 Mbit/s");
        sessions.serve(0, Direction::Up);
        assert_eq!((sessions.total(), sessions.waits[0].waits(Direction::Up)), (100_000, true));
        assert_eq!(sessions.rates.due(), Some(sessions.now + GATHER));
        sessions.serve(0, Direction::Down);
        assert_eq!(sessions.total(), 200_000);
    }

    #[test]
    fn a_loop_that_is_late_costs_no_part_of_the_rate() {
        let mut sessions = Sessions::new(3, "8 Mbit/s");
        sessions.late = Duration::from_millis(290);
        sessions.live(TEN_SECONDS, Direction::Up);
        let share = sessions.total() as f64 / 10e6;
        assert!((0.95..=1.05).contains(&share), "{share}");
    }

    #[test]
    fn nothing_is_due_where_nobody_waits() {
        let mut sessions = Sessions::new(10, "8 kbit/s");
        sessions.has = vec![10; 10];
        sessions.live(TEN_SECONDS, Direction::Up);
        assert_eq!((sessions.total(), sessions.rates.due()), (100, None));
    }

    #[test]
    fn a_changed_rate_holds_at_once() {
        let mut sessions = Sessions::new(10, "8 kbit/s");
        sessions.live(Duration::from_secs(1), Direction::Down);
        let before = sessions.total();
        sessions.rates.set(id(), Some(rate("8 Mbit/s")), sessions.now);
        sessions.live(TEN_SECONDS, Direction::Down);
        let share = (sessions.total() - before) as f64 / 10e6;
        assert!((0.99..1.01).contains(&share), "{share}");
    }

    #[test]
    fn those_who_waited_go_on_when_the_rate_is_gone() {
        let mut sessions = Sessions::new(3, "8 kbit/s");
        sessions.live(Duration::from_secs(1), Direction::Down);
        sessions.rates.set(id(), None, sessions.now);
        assert!(sessions.rates.has_work() && sessions.rates.due().is_none());
        sessions.has = vec![1_000_000; 3];
        for _ in 0..3 {
            let called = sessions.rates.call(Direction::Down, sessions.now).expect("it waited").index();
            sessions.waits[called] = Waits::default();
            sessions.serve(called, Direction::Down);
            sessions.rates.end_call(sessions.now);
        }
        assert_eq!((sessions.has, sessions.rates.has_work()), (vec![0; 3], false));
    }
}
