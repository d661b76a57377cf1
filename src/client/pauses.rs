//! Pauses before the next attempt to reach a server that failed ones cost work.

use std::time::{Duration, Instant};

use crate::machine::Agenda;

/// Failures that a refusal counts for: nothing changes by itself, so the pauses are long at once.
const REFUSAL_FAILURES: u32 = 8;
/// A link that stood so many times as long as the last pause was no failure: pauses are short again after it.
const STOOD_PAUSES: u32 = 10;

/// How long they are.
#[derive(Default)]
pub(super) struct Pauses {
    /// Attempts that were answered and failed, and links that did not stand long, since the last link that did.
    failures: u32,
    last: Duration,
    /// A server that leaves has another one come after it, which is sought until then.
    soon_until: Option<Instant>,
}

impl Pauses {
    /// The next one. Full jitter between `least` and a cap that doubles with each failure.
    pub fn next(&mut self, least: Duration, agenda: &mut Agenda) -> Duration {
        let (first, most) = agenda.limits.reconnect;
        let cap = first.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(most);
        let pause = least + cap.saturating_sub(least).mul_f64(agenda.chance());
        (self.failures, self.last) = (self.failures.saturating_add(1), pause);
        pause
    }

    /// The next one, where no other rule holds.
    pub fn usual(&mut self, agenda: &mut Agenda) -> Duration {
        match self.soon_until {
            Some(until) if agenda.now < until => agenda.jittered(agenda.limits.drain_retry),
            _ => self.next(agenda.limits.reconnect.0, agenda),
        }
    }

    /// The server has said no: they are long from now on.
    pub fn refused(&mut self) {
        self.failures = self.failures.max(REFUSAL_FAILURES);
    }

    /// The next one, because the server has said no.
    pub fn after_refusal(&mut self, agenda: &mut Agenda) -> Duration {
        self.refused();
        self.soon_until = None;
        self.next(agenda.limits.refused, agenda)
    }

    /// They are short until then.
    pub fn soon_until(&mut self, until: Instant) {
        self.soon_until = Some(until);
    }

    /// They are as usual.
    pub fn not_soon(&mut self) {
        self.soon_until = None;
    }

    /// A link stood for this time. A server that admits and leaves at once is not dialled ten times a second for ever.
    pub fn forgive(&mut self, stood: Duration) {
        if stood >= self.last * STOOD_PAUSES {
            self.failures = 0;
        }
    }
}
