//! How long a link may be silent, or a message connection while a session runs on it.
//!
//! It is the heartbeat, or four round trips if they take longer: that is the patience with it. It is longer where
//! nothing could be heard: after an outage, TCP sends again when its retransmission time is over, which has doubled
//! with each attempt that failed. So who finds that the patience is over asks for that time, and waits as much longer.
//! The peer's TCP pauses likewise. If it has acknowledged late what was said last, the line is back, and what the peer
//! says comes when its own pause is over. What is acknowledged at once says that the line was never down, whatever it
//! was: then the silence is the peer's own. [`longest`] is this rule.
//!
//! While the line is down no end hears that the other one has given the link up. A client that does comes anew; a
//! server that does would leave its client waiting for it. So the server outlasts its client.

use std::time::{Duration, Instant};

/// An end that does not answer for this time, or brings no message connection, is said to. It is given up later.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);

/// The longest time without a word where a connection is quiet: proxies and NATs forget or cut one soon after.
const QUIET_MAX: Duration = Duration::from_secs(15);

/// How long an end keeps quiet on a connection with this heartbeat before it says something.
pub fn quiet_for(heartbeat: Duration) -> Duration {
    (heartbeat / 3).min(QUIET_MAX)
}

/// How long a link may be silent, since it was last heard at a time that is said each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    longer: Option<Longer>,
}

/// It may be silent for longer, or shorter, than the patience lasts.
#[derive(Clone, Copy, Debug)]
struct Longer {
    /// When it was last heard.
    heard: Instant,
    until: Instant,
    /// It is asked about no more.
    last: bool,
}

/// What the kernel says of a link's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What was not acknowledged is sent again, and answered, in this time.
    pub again: Duration,
    /// Time since something was acknowledged.
    pub acknowledged: Duration,
    /// Time since something was said.
    pub said: Duration,
}

impl Measured {
    /// What was said last is not acknowledged, as far as the kernel says such things.
    fn is_awaited(&self) -> bool {
        !self.again.is_zero() && self.acknowledged > self.said
    }
}

/// What to do about a silent link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait.
    Wait,
    /// Ask how long TCP pauses before it sends again; see [`Silence::measured`].
    Ask,
    /// Give it up.
    GiveUp,
}

/// How long an end may be silent: as much longer than the patience lasts as it takes TCP to send `again`, or as long
/// again if its line was down and `is_back`, because the peer's TCP may still pause.
pub fn longest(patience: Duration, again: Duration, is_back: bool) -> Duration {
    patience + if is_back { patience } else { again.min(patience) }
}

impl Silence {
    fn longer(&mut self, heard: Instant) -> Option<&mut Longer> {
        self.longer.as_mut().filter(|longer| longer.heard == heard)
    }

    /// Until when a link may be silent.
    pub fn until(&self, heard: Instant, patience: Duration) -> Instant {
        let longer = self.longer.filter(|longer| longer.heard == heard);
        longer.map_or(heard + patience, |longer| longer.until)
    }

    /// Judges a link's silence. Without an answer, a link that is asked about has as long again.
    pub fn judge(&mut self, heard: Instant, patience: Duration, now: Instant) -> Verdict {
        if now < self.until(heard, patience) {
            return Verdict::Wait;
        }
        match self.longer(heard) {
            Some(longer) if longer.last || now >= heard + patience * 2 => Verdict::GiveUp,
            Some(longer) => {
                (longer.until, longer.last) = (heard + patience * 2, true);
                Verdict::Ask
            }
            None => {
                self.longer = Some(Longer { heard, until: heard + patience * 2, last: false });
                Verdict::Ask
            }
        }
    }

    /// The answer; it may be silent for twice the patience at most. An end that `outlasts` the other one waits that
    /// much longer where the line may be down.
    pub fn measured(
        &mut self,
        heard: Instant,
        patience: Duration,
        outlasts: Option<Duration>,
        it: Measured,
        now: Instant,
    ) {
        // It was heard meanwhile, unless it is there.
        let Some(longer) = self.longer(heard) else { return };
        let is_late = it.acknowledged.saturating_add(it.again) < it.said;
        let outlasts = outlasts.filter(|_| it.is_awaited());
        (longer.until, longer.last) = match (longer.last, outlasts) {
            (_, Some(more)) => (heard + patience * 2 + more, true),
            (true, None) if !is_late => (now, true),
            _ => (heard + longest(patience, it.again, is_late), is_late),
        };
    }

    /// It must be heard by then, whatever the heartbeat is.
    pub fn ends_at(&mut self, heard: Instant, until: Instant) {
        self.longer = Some(Longer { heard, until, last: true });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    /// A link that was heard at the start and pinged half a heartbeat later, if nothing else is said.
    struct Story {
        start: Instant,
        silence: Silence,
        outlasts: Option<Duration>,
    }

    impl Story {
        fn new() -> Story {
            Story { start: Instant::now(), silence: Silence::default(), outlasts: None }
        }

        fn judge(&mut self, at_s: u32) -> Verdict {
            self.silence.judge(self.start, HEARTBEAT, self.start + at_s * SECOND)
        }

        fn measured(&mut self, at_s: u32, again_s: u32, acknowledged_s: u32) {
            self.measured_since(15, at_s, again_s, acknowledged_s);
        }

        fn measured_since(&mut self, said_s: u32, at_s: u32, again_s: u32, acknowledged_s: u32) {
            let since = |then_s: u32| at_s.saturating_sub(then_s) * SECOND;
            let (acknowledged, said) = (since(acknowledged_s), since(said_s));
            let it = Measured { again: again_s * SECOND, acknowledged, said };
            self.silence.measured(self.start, HEARTBEAT, self.outlasts, it, self.start + at_s * SECOND);
        }
    }

    #[test]
    fn a_link_has_the_retransmission_time_beyond_its_heartbeat() {
        let mut story = Story::new();
        assert_eq!([29, 30].map(|at_s| story.judge(at_s)), [Verdict::Wait, Verdict::Ask]);
        story.measured(30, 13, 0);
        assert_eq!([42, 43].map(|at_s| story.judge(at_s)), [Verdict::Wait, Verdict::Ask]);
        story.measured(43, 26, 0);
        assert_eq!(story.judge(43), Verdict::GiveUp);
    }

    #[test]
    fn a_peer_that_acknowledged_late_may_still_pause() {
        let mut story = Story::new();
        assert_eq!(story.judge(30), Verdict::Ask);
        story.measured(30, 8, 0);
        assert_eq!(story.judge(38), Verdict::Ask);
        story.measured(38, 1, 31);
        assert_eq!([59, 60].map(|at_s| story.judge(at_s)), [Verdict::Wait, Verdict::GiveUp]);
    }

    #[test]
    fn a_peer_that_acknowledges_at_once_and_says_nothing_is_given_up() {
        let mut story = Story::new();
        assert_eq!(story.judge(30), Verdict::Ask);
        story.measured(30, 1, 15);
        assert_eq!(story.judge(31), Verdict::Ask);
        story.measured(31, 1, 15);
        assert_eq!(story.judge(31), Verdict::GiveUp);
    }

    #[test]
    fn a_peer_that_acknowledges_at_once_what_it_is_told_later_is_given_up_as_well() {
        let mut story = Story::new();
        assert_eq!(story.judge(30), Verdict::Ask);
        story.measured_since(25, 30, 1, 25);
        assert_eq!(story.judge(31), Verdict::Ask);
        story.measured_since(25, 31, 1, 25);
        assert_eq!(story.judge(31), Verdict::GiveUp);
    }

    #[test]
    fn what_is_heard_begins_the_heartbeat_anew() {
        let mut story = Story::new();
        assert_eq!(story.judge(30), Verdict::Ask);
        story.start += 31 * SECOND;
        story.measured(1, 1, 0);
        assert_eq!([29, 30].map(|at_s| story.judge(at_s)), [Verdict::Wait, Verdict::Ask]);
    }

    #[test]
    fn no_link_is_silent_for_more_than_two_heartbeats() {
        let mut story = Story::new();
        assert_eq!(story.judge(30), Verdict::Ask);
        story.measured(30, 100, 0);
        assert_eq!([59, 60].map(|at_s| story.judge(at_s)), [Verdict::Wait, Verdict::GiveUp]);
    }

    #[test]
    fn a_server_outlasts_its_client_where_the_line_may_be_down() {
        for (acknowledged_s, again_s, given_up_s) in [(10, 8, 70), (20, 8, 38), (0, 0, 30)] {
            let mut story = Story { outlasts: Some(10 * SECOND), ..Story::new() };
            assert_eq!(story.judge(30), Verdict::Ask);
            story.measured(30, again_s, acknowledged_s);
            if given_up_s < 70 {
                assert_eq!(story.judge(given_up_s), Verdict::Ask);
                story.measured(given_up_s, again_s, acknowledged_s);
            }
            assert_eq!(story.judge(given_up_s - 1), Verdict::Wait);
            assert_eq!(story.judge(given_up_s), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_link_that_must_be_heard_soon_is_not_asked_about() {
        let mut story = Story::new();
        story.silence.ends_at(story.start, story.start + SECOND);
        assert_eq!(story.judge(1), Verdict::GiveUp);
    }
}
