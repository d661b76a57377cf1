//! Sessions on which no byte moves end after a while, if there is a limit.
//!
//! Users' connections are looked at in rounds. Their bytes are counted anyway, so that a byte that moves costs nothing
//! more, and without a limit nothing is done at all.

use std::time::{Duration, Instant};

use super::connections::{Connections, Kind, Side};
use super::rounds::Round;
use super::world::network::Socket;
use crate::machine::CloseReason;

/// Rounds in the time that a session may be idle.
const ROUNDS: u32 = 8;

/// The limit, and where the round is.
pub(super) struct Idle {
    limit: Option<Duration>,
    began: Instant,
    round: Round,
}

impl Idle {
    pub fn new(limit: Option<Duration>, now: Instant) -> Idle {
        Idle { limit, began: now, round: Round::new(now) }
    }

    /// When it goes on.
    pub fn due(&self) -> Option<Instant> {
        self.limit.map(|limit| self.round.due(limit / ROUNDS))
    }

    /// Looks at the next slots of the round, and ends the sessions that have been idle for too long.
    pub fn sweep<S: Socket>(&mut self, all: &mut Connections<S>) {
        let Some(limit) = self.limit.filter(|_| self.due().is_some_and(|due| due <= all.now)) else { return };
        let now_ms = all.now.saturating_duration_since(self.began).as_millis() as u32;
        for slot in self.round.next_slots(all.slots_end(), all.now) {
            let Some(connection) = all.at(slot) else { continue };
            let id = connection.id;
            // Who waits, and who only flushes, has limits of its own.
            if let Kind::Local(local) = &mut connection.kind
                && local.side == Side::User
                && local.is_paired()
                && u128::from(local.quiet_ms(now_ms)) >= limit.as_millis()
            {
                all.reset(id, CloseReason::Idle);
            }
        }
    }
}
