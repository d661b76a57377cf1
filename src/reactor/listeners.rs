//! Listeners that come and go, and the connections that wait at them: taken in turns, within the limits, and again
//! when the system has run out of something.
//!
//! A listener is *ready* when it may have a connection, and *paused* when it is ready and may not be tried yet. Only
//! ready ones are touched in a turn.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::world::network::{Accepted, Network};
use crate::base::deadlines::Deadlines;
use crate::base::id::{ListenerId, kind};
use crate::base::table::Table;
use crate::machine::{Door, Fact};

/// Pause after accepting failed, before a listener is tried again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A listener.
struct Entry<L> {
    listener: L,
    door: Door,
    ready: bool,
    /// Since when it does not accept because as many users are served as may be.
    full_since: Option<Instant>,
}

/// All listeners, and how many users they have let in.
pub(super) struct Listeners<L> {
    table: Table<kind::Listener, Entry<L>>,
    ready: VecDeque<ListenerId>,
    paused: Deadlines<kind::Listener>,
    users: usize,
    users_max: usize,
    /// How long a user may wait in the queue of a full server before it is reset.
    wait: Duration,
}

/// What trying a ready listener came to.
pub(super) enum Tried<S> {
    /// A connection to serve.
    Taken(Accepted<S>, Door),
    /// A connection was turned away, or died in the queue: the next one is another.
    Lost,
    /// The listener has no more, or may not be tried for a while.
    Nothing,
}

impl<L> Listeners<L> {
    pub fn new(users_max: usize, wait: Duration) -> Listeners<L> {
        Listeners {
            table: Table::default(),
            ready: VecDeque::new(),
            paused: Deadlines::default(),
            users: 0,
            users_max,
            wait,
        }
    }

    /// Adds a listener. Connections may wait at it already.
    pub fn insert(&mut self, id: ListenerId, listener: L, door: Door) {
        self.table.insert(id, Entry { listener, door, ready: false, full_since: None });
        self.wake(id);
    }

    /// Closes a listener.
    pub fn remove(&mut self, id: ListenerId) {
        self.paused.set(id, None);
        self.table.remove(id);
    }

    /// The listener in this slot may have a connection.
    pub fn note_ready(&mut self, slot: u32) {
        if let Some(id) = self.table.at(slot) {
            self.wake(id);
        }
    }

    fn wake(&mut self, id: ListenerId) {
        if let Some(entry) = self.table.get_mut(id)
            && !std::mem::replace(&mut entry.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// When a ready listener wants to be tried; `now` if at once.
    pub fn next_try(&self, now: Instant) -> Option<Instant> {
        if self.ready.is_empty() { self.paused.next() } else { Some(now) }
    }

    /// The ready listeners of this turn.
    pub fn begin_turn(&mut self, now: Instant) -> usize {
        while let Some(id) = self.paused.pop_due(now) {
            self.ready.push_back(id);
        }
        self.ready.len()
    }

    /// The next ready listener.
    pub fn next_ready(&mut self) -> Option<ListenerId> {
        self.ready.pop_front()
    }

    /// Puts a listener that was tried, and may have more, behind the others.
    pub fn again(&mut self, id: ListenerId) {
        if self.table.get(id).is_some() {
            self.ready.push_back(id);
        }
    }

    /// Tries a ready listener once.
    pub fn try_one<N: Network<Listener = L>>(
        &mut self,
        id: ListenerId,
        network: &mut N,
        now: Instant,
        facts: &mut VecDeque<Fact>,
    ) -> Tried<N::Socket> {
        let Some(entry) = self.table.get_mut(id) else { return Tried::Nothing };
        let full = matches!(entry.door, Door::Users(_)) && self.users >= self.users_max;
        if full {
            // A user may wait in the queue as long as any other; then it is told that it is not served.
            let shed_at = *entry.full_since.get_or_insert(now) + self.wait;
            if shed_at > now {
                self.paused.set(id, Some(shed_at));
                return Tried::Nothing;
            }
        } else {
            entry.full_since = None;
        }
        match network.accept(&mut entry.listener) {
            // Dropping it resets it.
            Ok(accepted) if full => {
                facts.push_back(Fact::UserShed { peer: accepted.peer, users: self.users });
                Tried::Lost
            }
            Ok(accepted) => {
                self.users += usize::from(matches!(entry.door, Door::Users(_)));
                Tried::Taken(accepted, entry.door)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                (entry.ready, entry.full_since) = (false, None);
                // Another connection may use this room.
                self.resume_one();
                Tried::Nothing
            }
            // The connection died in the queue (accept(2), ERRORS): the next one is another.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Tried::Lost,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Tried::Lost,
            // The system has run out of something, or forbids it: whatever it is may last.
            Err(error) => {
                facts.push_back(Fact::AcceptPaused { error: error.to_string() });
                self.paused.set(id, Some(now + EXHAUSTED_PAUSE));
                Tried::Nothing
            }
        }
    }

    /// No more users are let in at once than this.
    pub fn limit_users(&mut self, most: usize) {
        if most > self.users_max {
            self.resume_one();
        }
        self.users_max = most;
    }

    /// A user's connection is gone.
    pub fn user_left(&mut self) {
        self.users -= 1;
    }

    /// A descriptor is free again: a listener that waits for one is tried before its time.
    pub fn resume_one(&mut self) {
        self.ready.extend(self.paused.pop());
    }
}
