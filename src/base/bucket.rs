//! A token bucket: how many bytes may pass now, at a rate and with a burst of [`BURST`].

use std::time::{Duration, Instant};

use super::rate::Rate;

/// What was not used stays for this time, so that a short flow is not held up.
pub const BURST: Duration = Duration::from_millis(100);
/// What gathers while somebody waits for it stays for this time: a loop that is late costs nobody a part of the rate.
/// Over ten seconds it is less than one part in twenty.
pub const OWED: Duration = Duration::from_millis(400);
/// Parts of a byte in which a level is counted: at any rate, each nanosecond brings whole ones.
const PARTS: u128 = 1_000_000_000;

/// A bucket. Time that goes backwards brings nothing.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    /// In parts of bytes, as of `at`.
    level: u128,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now: Instant) -> Bucket {
        let mut bucket = Bucket { bytes_per_second: rate.bytes_per_second(), level: 0, at: now };
        bucket.level = bucket.parts_in(BURST);
        bucket
    }

    fn parts_in(&self, time: Duration) -> u128 {
        u128::from(self.bytes_per_second) * time.as_nanos()
    }

    /// Bytes that the rate brings in a time of seconds at most.
    pub fn bytes_in(&self, time: Duration) -> u64 {
        (self.parts_in(time) / PARTS) as u64
    }

    /// From now on it fills at another rate. What it holds stays, as far as it is no more than a burst.
    pub fn set_rate(&mut self, rate: Rate, now: Instant) {
        self.fill(now, BURST);
        self.bytes_per_second = rate.bytes_per_second();
        self.level = self.level.min(self.parts_in(BURST));
    }

    fn fill(&mut self, now: Instant, kept: Duration) {
        let passed = now.saturating_duration_since(self.at).min(kept);
        self.at = self.at.max(now);
        self.level = (self.level + self.parts_in(passed)).min(self.parts_in(kept));
    }

    /// Whole bytes that may pass now.
    pub fn level(&mut self, now: Instant) -> u64 {
        self.fill(now, BURST);
        (self.level / PARTS) as u64
    }

    /// Whole bytes that may pass now, where somebody has waited for them since they were last asked for.
    pub fn level_owed(&mut self, now: Instant) -> u64 {
        self.fill(now, OWED);
        (self.level / PARTS) as u64
    }

    /// Bytes have passed, which were no more than the level.
    pub fn take(&mut self, bytes: u64) {
        debug_assert!(u128::from(bytes) * PARTS <= self.level, "no more pass than may");
        self.level = self.level.saturating_sub(u128::from(bytes) * PARTS);
    }

    /// When the level will be so many bytes, which are no more than a burst, if none passes meanwhile.
    pub fn time_of(&self, bytes: u64) -> Instant {
        let missing = (u128::from(bytes) * PARTS).saturating_sub(self.level);
        self.at + Duration::from_nanos(missing.div_ceil(self.bytes_per_second.into()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().expect("a rate")
    }

    #[test]
    fn it_holds_a_tenth_of_a_second_and_no_more() {
        let now = Instant::now();
        for (text, burst) in [("8 kbit/s", 100), ("8 Mbit/s", 100_000), ("10 Gbit/s", 125_000_000)] {
            let mut bucket = Bucket::full(rate(text), now);
            assert_eq!(bucket.level(now), burst, "{text}");
            bucket.take(burst);
            assert_eq!(bucket.level(now + BURST / 2), burst / 2, "{text}");
            assert_eq!(bucket.level(now + 100 * BURST), burst, "{text}");
        }
    }

    #[test]
    fn what_somebody_waits_for_stays_for_longer() {
        let now = Instant::now();
        let mut bucket = Bucket::full(rate("8 Mbit/s"), now);
        bucket.take(100_000);
        assert_eq!(bucket.level_owed(now + 2 * BURST), 200_000);
        assert_eq!(bucket.level_owed(now + 10 * BURST), 400_000);
        assert_eq!(bucket.level(now + 10 * BURST), 100_000, "nobody waits any more");
    }

    #[test]
    fn no_part_of_a_byte_is_lost() {
        let (mut now, mut passed) = (Instant::now(), 0);
        let start = now;
        let mut bucket = Bucket::full(rate("10 kbit/s"), now);
        bucket.take(bucket.bytes_in(BURST));
        while now < start + Duration::from_secs(10) {
            now += Duration::from_nanos(777_777);
            let level = bucket.level(now);
            bucket.take(level);
            passed += level;
        }
        assert_eq!(passed, 12_500, "10 s at 1,250 bytes a second");
    }

    #[test]
    fn its_level_is_there_at_the_time_that_was_said_and_not_before() {
        let now = Instant::now();
        let mut bucket = Bucket::full(rate("50 Mbit/s"), now);
        let burst = bucket.level(now);
        bucket.take(burst);
        let at = bucket.time_of(1_000);
        assert_eq!(bucket.level(at - Duration::from_nanos(1)), 999);
        assert_eq!((bucket.level(at), bucket.time_of(1_000)), (1_000, at));
    }

    #[test]
    fn another_rate_holds_at_once_and_brings_no_burst_of_its_own() {
        let now = Instant::now();
        let mut bucket = Bucket::full(rate("8 Mbit/s"), now);
        bucket.set_rate(rate("80 kbit/s"), now);
        assert_eq!(bucket.level(now), 1_000);
        bucket.set_rate(rate("8 Mbit/s"), now);
        assert_eq!(bucket.level(now), 1_000);
        assert_eq!(bucket.level(now + BURST / 10), 11_000);
    }

    #[test]
    fn the_most_that_can_be_said_fits() {
        let now = Instant::now();
        let mut bucket = Bucket::full(rate("1000000 Gbit/s"), now);
        let burst = bucket.level(now);
        assert_eq!(burst, 12_500_000_000_000);
        bucket.take(burst);
        assert_eq!(bucket.time_of(burst), now + BURST);
    }
}
