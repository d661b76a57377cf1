//! What it costs to begin a connection to a local server. Where local ports are scarce, the system may look for a free
//! one for long (`world/ports.rs`), and the loop stands meanwhile.

use std::time::Duration;

/// Dials of which the mean is taken.
const DIALS: u32 = 64;
/// A mean above this is slow: a thousand users a second would take all of the loop's time.
const SLOW: Duration = Duration::from_millis(1);

/// What the last dials took together.
#[derive(Default)]
pub(super) struct DialCost {
    dials: u32,
    sum: Duration,
}

impl DialCost {
    /// Counts a dial; returns the mean of as many as are taken together if they were slow.
    pub fn note(&mut self, took: Duration) -> Option<Duration> {
        (self.dials, self.sum) = (self.dials + 1, self.sum + took);
        if self.dials < DIALS {
            return None;
        }
        let mean = std::mem::take(self).sum / DIALS;
        (mean > SLOW).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slow_dials_are_told_of_and_a_few_are_not() {
        const NONE: [Duration; 0] = [];
        let mut cost = DialCost::default();
        let mut told = |slow, ms| {
            let dials =
                (0..DIALS).map(|dial| if dial < slow { Duration::from_millis(ms) } else { SLOW / 20 });
            dials.filter_map(|took| cost.note(took)).collect::<Vec<_>>()
        };
        assert_eq!(told(0, 0), NONE);
        assert_eq!(told(3, 10), NONE, "the process did not run for a moment");
        assert_eq!(told(DIALS, 2), [SLOW * 2]);
        assert_eq!(told(0, 0), NONE, "what was slow before does not count");
    }
}
