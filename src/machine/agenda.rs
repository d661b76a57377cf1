//! What the machine wants done, and when it wants to be called again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CloseReason, Fact, Manner, Output, Tally};
use crate::base::deadlines::Deadlines;
use crate::base::id::{AccountId, ConnId, kind};
use crate::config::limits::Limits;

/// Outputs, deadlines, and what every decision needs: the time, the limits and jitter.
pub struct Agenda {
    /// The time of the input at hand.
    pub now: Instant,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// What is counted.
    pub tally: Tally,
    jitter: fastrand::Rng,
    outputs: VecDeque<Output>,
    deadlines: Deadlines<kind::Connection>,
}

impl Agenda {
    /// An agenda with nothing on it.
    pub fn new(limits: Arc<Limits>, jitter: fastrand::Rng, now: Instant) -> Agenda {
        let (outputs, deadlines) = (VecDeque::new(), Deadlines::default());
        Agenda { now, limits, tally: Tally::default(), jitter, outputs, deadlines }
    }

    /// Adds an output.
    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// The next output.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Closes a connection.
    pub fn close(&mut self, id: ConnId, reason: CloseReason, manner: Manner) {
        self.push(Output::Close { id, reason, manner });
    }

    /// Closes a connection by RST.
    pub fn reset(&mut self, id: ConnId, reason: CloseReason) {
        self.close(id, reason, Manner::Reset);
    }

    /// Tells people, and counts it.
    pub fn fact(&mut self, fact: Fact) {
        self.tally.take(&fact, self.now);
        self.push(Output::Fact(fact));
    }

    /// Tells people what became of a user, and counts it there.
    pub fn fact_of(&mut self, account: Option<AccountId>, fact: Fact) {
        if let Some(account) = account {
            self.tally.take_of(account, &fact);
        }
        self.push(Output::Fact(fact));
    }

    /// Sets, moves or clears a connection's deadline.
    pub fn at(&mut self, id: ConnId, at: Option<Instant>) {
        self.deadlines.set(id, at);
    }

    /// Sets a connection's deadline to some time from now.
    pub fn after(&mut self, id: ConnId, wait: Duration) {
        self.at(id, Some(self.now + wait));
    }

    /// A connection whose deadline has come.
    pub fn next_due(&mut self) -> Option<ConnId> {
        self.deadlines.pop_due(self.now)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// A number from 0 to 1.
    pub fn chance(&mut self) -> f64 {
        self.jitter.f64()
    }

    /// A time, longer or shorter by up to a quarter.
    pub fn jittered(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.75 + 0.5 * self.jitter.f64())
    }
}
