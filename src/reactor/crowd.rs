//! When memory is given back to the system: a crowd of connections has come or has left, and what it needed on the way
//! is free again. Each time walks the whole heap, so that it happens seldom.

use std::time::{Duration, Instant};

/// Fewer connections than these do not make a crowd.
const CROWD: usize = 16;
/// At or above this count memory is given back when a quarter has left, and below it when half has: a session is two
/// connections, and its message connection stays.
const LARGE_CROWD: usize = 1_024;
/// Least time between two times.
const INTERVAL: Duration = Duration::from_secs(1);
/// A crowd has come when no connection has come for this long. Its handshakes and first messages are over then.
const QUIET: Duration = Duration::from_secs(1);

/// How many connections there were.
pub(super) struct Crowd {
    /// Most since memory was last given back.
    most: usize,
    /// Least since then.
    least: usize,
    given_back: Instant,
    /// Connections that have ever come, and since when there are no more.
    came: u64,
    quiet_since: Instant,
}

impl Crowd {
    pub fn new(now: Instant) -> Crowd {
        Crowd { most: 0, least: 0, given_back: now, came: 0, quiet_since: now }
    }

    /// Notes how many connections there are, and how many have ever come; true if memory is to be given back.
    pub fn note(&mut self, count: usize, came: u64, now: Instant) -> bool {
        (self.most, self.least) = (self.most.max(count), self.least.min(count));
        if came != self.came {
            (self.came, self.quiet_since) = (came, now);
        }
        let stay_max = if self.most >= LARGE_CROWD { self.most / 4 * 3 } else { self.most / 2 };
        let has_left = self.most >= CROWD && count <= stay_max && now >= self.given_back + INTERVAL;
        let has_come = self.is_larger(count) && now >= self.quiet_since + QUIET;
        if has_left || has_come {
            (self.most, self.least, self.given_back) = (count, count, now);
        }
        has_left || has_come
    }

    /// When to note again, though nothing may have happened until then.
    pub fn due(&self, count: usize) -> Option<Instant> {
        self.is_larger(count).then(|| self.quiet_since + QUIET)
    }

    fn is_larger(&self, count: usize) -> bool {
        count >= self.least + self.least / 16 + CROWD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes these counts, and says at which of the seconds memory is given back. A count above the one before means
    /// that connections came.
    fn given_back(counts: &[usize]) -> Vec<usize> {
        let now = Instant::now();
        let (mut crowd, mut came, mut last) = (Crowd::new(now), 0, 0);
        let mut seconds = Vec::new();
        for (second, &count) in counts.iter().enumerate() {
            came += count.saturating_sub(last) as u64;
            last = count;
            if crowd.note(count, came, now + Duration::from_secs(second as u64)) {
                seconds.push(second);
            }
        }
        seconds
    }

    #[test]
    fn memory_is_given_back_when_a_crowd_has_come_and_when_it_has_left() {
        assert_eq!(given_back(&[0, 100, 100, 100, 100]), [2], "once");
        assert_eq!(given_back(&[0, 100, 200, 300, 300]), [4], "not while more come");
        assert_eq!(given_back(&[0, 100, 100, 60, 50, 50]), [2, 4], "half have left");
        assert_eq!(given_back(&[0, 4_000, 4_000, 3_100, 2_999]), [2, 4], "of many, a quarter");
    }

    #[test]
    fn a_few_connections_are_no_crowd() {
        assert_eq!(given_back(&[0, 15, 15, 0, 15, 15, 0]), [0; 0]);
        assert_eq!(
            given_back(&[0, 1_600, 1_600, 1_700, 1_700, 1_600, 1_700, 1_700]),
            [2],
            "nor are a few more"
        );
    }

    #[test]
    fn it_says_when_to_look_again() {
        let now = Instant::now();
        let mut crowd = Crowd::new(now);
        assert_eq!(crowd.due(0), None);
        crowd.note(100, 100, now);
        assert_eq!(crowd.due(100), Some(now + QUIET));
        assert!(crowd.note(100, 100, now + QUIET));
        assert_eq!(crowd.due(100), None);
    }
}
