//! Sessions on which no byte moves end after a while, if their service has a limit.
//!
//! A user's connection that has a limit is looked at several times in it. Its bytes are counted anyway, so that a byte
//! that moves costs nothing more, and one without a limit is never looked at.

use std::time::{Duration, Instant};

use super::connections::{Connections, Kind};
use super::world::network::Socket;
use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, kind};
use crate::base::table::Table;
use crate::machine::CloseReason;

/// How often a session is looked at in the time that it may be idle. It ends up to one of these parts later.
const LOOKS: u32 = 8;
/// Sessions that are looked at in one turn.
const TURN_LOOKS: usize = 64;

/// A session that may not be idle for ever.
struct Limited {
    limit: Duration,
    /// Bytes that had moved when it was last looked at, and since when no more have.
    moved: u64,
    since: Instant,
}

/// Sessions that have a limit, and when they are looked at.
#[derive(Default)]
pub(super) struct Idle {
    limited: Table<kind::Connection, Limited>,
    looks: Deadlines<kind::Connection>,
}

impl Idle {
    /// A user's session begins. It keeps its limit if it begins again.
    pub fn begin(&mut self, user: ConnId, limit: Duration, now: Instant) {
        if !self.limited.contains(user) {
            self.limited.insert(user, Limited { limit, moved: 0, since: now });
            self.looks.set(user, Some(now + limit / LOOKS));
        }
    }

    /// A user is gone.
    pub fn forget(&mut self, user: ConnId) {
        self.limited.remove(user);
        self.looks.set(user, None);
    }

    /// When somebody is looked at next.
    pub fn due(&self) -> Option<Instant> {
        self.looks.next()
    }

    /// Looks at some whose time has come, and ends the sessions that have been idle for too long.
    pub fn sweep<S: Socket>(&mut self, all: &mut Connections<S>) {
        let now = all.now;
        for _ in 0..TURN_LOOKS {
            let Some(id) = self.looks.pop_due(now) else { return };
            let (Some(limited), Some(connection)) = (self.limited.get_mut(id), all.find(id)) else {
                continue;
            };
            let Kind::Local(local) = &connection.kind else { continue };
            let moved = local.traffic.received + local.traffic.sent;
            // Who waits, and who only flushes, has limits of its own. One that its rate holds up is not idle.
            if moved != limited.moved || !local.is_paired() || local.waits.waits_at_all() {
                (limited.moved, limited.since) = (moved, now);
            }
            if now.saturating_duration_since(limited.since) >= limited.limit {
                all.reset(id, CloseReason::Idle);
            } else {
                self.looks.set(id, Some(now + limited.limit / LOOKS));
            }
        }
    }
}
