//! What people's clocks say, in terms of the one that machines go by.

use std::time::{Instant, SystemTime};

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_on_the_wall_is_as_far_away_as_it_looks() {
        let (now, wall, hour) = (Instant::now(), SystemTime::UNIX_EPOCH, Duration::from_secs(3_600));
        let clocks = Clocks { now, wall: wall + hour };
        assert_eq!(clocks.when(wall + 2 * hour), Some(now + hour));
        assert_eq!(clocks.when(wall), Some(now), "it has passed");
    }
}
