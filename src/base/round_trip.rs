//! A measured round trip, which every wait for a peer follows.

use std::time::Duration;

/// A round trip counts as no longer than this.
const CAP: Duration = Duration::from_secs(10);

/// A round trip as smoothed by RFC 6298, section 2: the mean and its variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    smoothed: Option<Duration>,
    variance: Duration,
}

impl RoundTrip {
    /// A round trip took this long.
    pub fn measured(&mut self, sample: Duration) {
        let sample = sample.min(CAP);
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variance) = (Some(sample), sample / 2);
            return;
        };
        let off = smoothed.abs_diff(sample);
        self.variance = (self.variance * 3 + off) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
    }

    /// The smoothed round trip; zero before the first was measured.
    pub fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or_default()
    }

    /// How long a peer is waited for that answers in `least` where it is near: four round trips if they take longer.
    pub fn wait(&self, least: Duration) -> Duration {
        least.max(self.smoothed() * 4)
    }

    /// The time in which this many round trips have ended, almost certainly: four variances are added.
    pub fn times(&self, count: u32) -> Duration {
        self.smoothed() * count + self.variance * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(samples_ms: &[u64]) -> RoundTrip {
        let mut round_trip = RoundTrip::default();
        samples_ms.iter().for_each(|&sample| round_trip.measured(Duration::from_millis(sample)));
        round_trip
    }

    #[test]
    fn the_first_sample_counts_whole_and_half_of_it_as_variance() {
        let round_trip = measured(&[80]);
        assert_eq!(round_trip.smoothed(), Duration::from_millis(80));
        assert_eq!(round_trip.times(3), Duration::from_millis(3 * 80 + 4 * 40));
    }

    #[test]
    fn a_steady_line_needs_no_margin_and_a_jump_brings_one() {
        let mut round_trip = measured(&[80; 60]);
        assert!(round_trip.times(1) < Duration::from_millis(81), "{round_trip:?}");
        round_trip.measured(Duration::from_millis(400));
        assert!(round_trip.times(1) > Duration::from_millis(400), "{round_trip:?}");
    }

    #[test]
    fn who_is_far_away_is_waited_for_longer() {
        let wait_ms = |sample_ms| measured(&[sample_ms]).wait(Duration::from_secs(5)).as_millis();
        assert_eq!([10, 1_250, 2_000, 60_000].map(wait_ms), [5_000, 5_000, 8_000, 40_000]);
    }

    #[test]
    fn it_is_capped() {
        assert_eq!(measured(&[100_000]).smoothed(), CAP);
        assert_eq!(measured(&[]).times(3), Duration::ZERO);
    }
}
