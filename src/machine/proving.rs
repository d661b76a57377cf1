//! What is known of a publication: when it was last proved, and why it fails if it does.

use std::time::{Duration, Instant};

use super::reason::Reason;
use super::status::PublicationState;

/// How long a probe may take to be started, where the round trip is short.
pub const PROBE_TIME: Duration = Duration::from_secs(3);
/// A proof is good for this time.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// When a proof is good no longer.
pub fn end_of_proof(proof: Instant) -> Instant {
    proof + GOOD_FOR
}

/// See the module. A failure lasts until the next proof.
#[derive(Debug)]
pub struct Proving {
    /// When a session or a probe was last started.
    proof: Option<Instant>,
    /// When it was granted.
    since: Instant,
    failure: Option<Reason>,
    /// The last sessions of users that sent bytes and got none, in a row.
    unanswered: u32,
}

impl Proving {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Proving {
        Proving { proof: None, since: now, failure: None, unanswered: 0 }
    }

    /// A session or a probe was started. Returns whether it failed before.
    pub fn proved(&mut self, now: Instant) -> bool {
        self.proof = Some(now);
        self.failure.take().is_some()
    }

    /// It is looked at no more: that it failed once need not be so.
    pub fn forget_failure(&mut self) {
        self.failure = None;
    }

    /// It was found at this time to fail. Returns whether that is news.
    pub fn failed(&mut self, reason: Reason) -> bool {
        let is_news = self.failure.as_ref().is_none_or(|before| !before.is_like(&reason));
        self.failure = Some(reason);
        is_news
    }

    /// The session of a user has ended. It had sent bytes and got some, or not.
    pub fn ended(&mut self, sent: bool, answered: bool) {
        match (sent, answered) {
            (_, true) => self.unanswered = 0,
            (true, false) => self.unanswered = self.unanswered.saturating_add(1),
            (false, false) => {}
        }
    }

    /// When a session or a probe was last started.
    pub fn proof(&self) -> Option<Instant> {
        self.proof
    }

    /// The last sessions of users that sent bytes and got none, in a row.
    pub fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Whether it is proved, and does not fail.
    pub fn is_proved(&self, now: Instant) -> bool {
        self.failure.is_none() && self.proof.is_some_and(|proof| now < end_of_proof(proof))
    }

    /// What is known, while `other` would make it fail, too.
    pub fn state(&self, other: Option<Reason>, now: Instant) -> PublicationState {
        match other.as_ref().or(self.failure.as_ref()) {
            Some(reason) => PublicationState::Failing(reason.words()),
            None if self.is_proved(now) => PublicationState::Proven,
            None => PublicationState::Unproven(self.proof.map_or(self.since, end_of_proof)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_proof_is_good_for_a_minute() {
        let now = Instant::now();
        let mut proving = Proving::new(now);
        assert_eq!(proving.state(None, now + SECOND), PublicationState::Unproven(now));
        assert!(!proving.proved(now + SECOND));
        assert_eq!(proving.state(None, now + 60 * SECOND), PublicationState::Proven);
        assert_eq!(proving.state(None, now + 61 * SECOND), PublicationState::Unproven(now + 61 * SECOND));
    }

    #[test]
    fn a_failure_is_told_once_and_lasts_until_the_next_proof() {
        let now = Instant::now();
        let mut proving = Proving::new(now);
        proving.proved(now);
        let failing = PublicationState::Failing("client silent for 5 s".into());
        let silent = |seconds| Reason::ClientSilent(SECOND * seconds);
        assert_eq!((proving.failed(silent(4)), proving.failed(silent(5))), (true, false));
        assert_eq!(proving.state(None, now + SECOND), failing);
        assert!(proving.failed(Reason::LocalRefused), "that is another cause");
        assert!(proving.proved(now + SECOND) && proving.is_proved(now + SECOND));
        assert_eq!(proving.state(Some(silent(5)), now + SECOND), failing);
    }

    #[test]
    fn sessions_without_an_answer_are_counted_in_a_row() {
        let mut proving = Proving::new(Instant::now());
        for (sent, answered) in [(true, false), (false, false), (true, false)] {
            proving.ended(sent, answered);
        }
        assert_eq!(proving.unanswered(), 2);
        proving.ended(false, true);
        assert_eq!(proving.unanswered(), 0);
    }
}
