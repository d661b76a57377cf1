//! What people's clocks say, in terms of the one that machines go by.

use std::time::{Duration, Instant, SystemTime};

/// What two clocks said at one moment: the one that machines go by, and the one on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The one that only goes on.
    pub now: Instant,
    /// The one that people set.
    pub wall: SystemTime,
}

impl Clocks {
    /// When the wall clock shows this time, as far as is known; that moment itself, if it has passed by then. `None` if
    /// it is too far away.
    pub fn when(self, time: SystemTime) -> Option<Instant> {
        let left = time.duration_since(self.wall).unwrap_or_default();
        self.now.checked_add(left)
    }

    /// How far the clock on the wall has gone apart from the other one until they were compared again.
    pub fn apart(self, later: Clocks) -> Duration {
        let expected = self.wall + later.now.saturating_duration_since(self.now);
        later.wall.duration_since(expected).unwrap_or_else(|before| before.duration())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_the_wall_is_as_far_away_as_it_looks() {
        let (now, wall, hour) = (Instant::now(), SystemTime::UNIX_EPOCH, Duration::from_secs(3_600));
        let clocks = Clocks { now, wall: wall + hour };
        assert_eq!(clocks.when(wall + 2 * hour), Some(now + hour));
        assert_eq!(clocks.when(wall), Some(now), "it has passed");
    }

    #[test]
    fn clocks_that_go_on_together_are_not_apart() {
        let (now, wall, hour) = (Instant::now(), SystemTime::UNIX_EPOCH, Duration::from_secs(3_600));
        let clocks = Clocks { now, wall: wall + hour };
        assert_eq!(clocks.apart(Clocks { now: now + hour, wall: wall + 2 * hour }), Duration::ZERO);
        assert_eq!(clocks.apart(Clocks { now: now + hour, wall: wall + 4 * hour }), 2 * hour, "set forward");
        assert_eq!(clocks.apart(Clocks { now: now + hour, wall }), 2 * hour, "set back");
    }
}
