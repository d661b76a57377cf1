//! Clients that go behind the others, because they do not serve what they are given.

use std::time::{Duration, Instant};

/// How long a client that did not accept or start a session goes behind the others, the first time.
const FAILING_PAUSE: Duration = Duration::from_secs(10);
/// How often that time doubles.
const FAILING_DOUBLINGS_MAX: u32 = 5;

/// A client that does not accept or start what it is given: each time it goes behind the others for twice as long.
#[derive(Default)]
pub(super) struct Failing {
    times: u32,
    until: Option<Instant>,
}

impl Failing {
    pub fn failed(&mut self, now: Instant) {
        self.until = Some(now + FAILING_PAUSE * 2u32.pow(self.times));
        self.times = (self.times + 1).min(FAILING_DOUBLINGS_MAX);
    }

    /// Whether it goes behind the others now.
    pub fn is_so(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_fails_again_goes_behind_for_longer() {
        let (now, mut failing) = (Instant::now(), Failing::default());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            failing.failed(now);
            pauses.extend(failing.until.map(|until| (until - now).as_secs()));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 320, 320]);
    }
}
