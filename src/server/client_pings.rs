//! How often a client pings its control connection, each of which costs an answer.

use std::time::{Duration, Instant};

/// Mean time between pings that a client may keep up.
const INTERVAL: Duration = Duration::from_millis(50);
/// Pings beyond that pace before the link is closed.
const BEYOND: u32 = 50;

/// The pings of a link's client.
pub(super) struct ClientPings {
    /// When all of them so far were due, had it kept to its pace.
    due: Instant,
}

impl ClientPings {
    /// It has sent none.
    pub fn begin(now: Instant) -> ClientPings {
        ClientPings { due: now }
    }

    /// One more; false if there have been more than may be.
    pub fn take(&mut self, now: Instant) -> bool {
        self.due = self.due.max(now) + INTERVAL;
        self.due <= now + INTERVAL * BEYOND
    }
}
