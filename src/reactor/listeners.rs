//! Listeners that come and go, and the connections that wait at them: taken in turns, within the limits, and again
//! when the system has run out of something.
//!
//! A listener is *ready* when it may have a connection, and *paused* when it is ready and may not be tried yet. Only
//! ready ones are touched in a turn.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::world::network::{Accepted, Network};
use crate::base::deadlines::Deadlines;
use crate::base::id::{ListenerId, ServiceId, kind};
use crate::base::table::Table;
use crate::machine::{Door, Fact, Fault};

/// Pause after accepting failed, before a listener is tried again.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// Errors in a row after which a listener pauses. Fewer may be those of connections that died in its queue: accept(2)
/// tells of them one by one, and of some under names that belong to networks.
const FAILURES_MAX: u32 = 8;

/// A listener.
struct Entry<L> {
    listener: L,
    address: SocketAddr,
    door: Door,
    /// It refuses whoever comes.
    suspended: bool,
    /// It is to listen again, and that was not taken back since.
    may_resume: bool,
    ready: bool,
    /// Since when it does not accept because as many users are served as may be.
    full_since: Option<Instant>,
    /// Accepting has failed so many times in a row.
    failures: u32,
}

/// All listeners, and how many users they have let in.
pub(super) struct Listeners<L> {
    table: Table<kind::Listener, Entry<L>>,
    ready: VecDeque<ListenerId>,
    paused: Deadlines<kind::Listener>,
    users: usize,
    users_max: usize,
    /// Nobody is let in yet.
    is_shut: bool,
    /// The system had no descriptor for the last connection that was tried.
    is_exhausted: bool,
    /// How long a user may wait in the queue of a full server before it is reset.
    wait: Duration,
}

/// What trying a ready listener came to.
pub(super) enum Tried<S> {
    /// A connection to serve.
    Taken(Accepted<S>, Door),
    /// A user of this service, from this address, was reset: as many are served as may be.
    Shed(ServiceId, SocketAddr),
    /// A connection died in the queue: the next one is another.
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
            is_shut: false,
            is_exhausted: false,
            wait,
        }
    }

    /// Adds a listener. Connections may wait at it already.
    pub fn insert(&mut self, id: ListenerId, listener: L, address: SocketAddr, door: Door) {
        let entry = Entry {
            listener,
            address,
            door,
            suspended: false,
            may_resume: false,
            ready: false,
            full_since: None,
            failures: 0,
        };
        self.table.insert(id, entry);
        self.wake(id);
    }

    /// Closes a listener.
    pub fn remove(&mut self, id: ListenerId) {
        self.paused.set(id, None);
        self.table.remove(id);
    }

    /// What a listener takes from now on is for this. One that let nobody in is tried: its events were passed over.
    pub fn set_door(&mut self, id: ListenerId, door: Door) {
        if let Some(entry) = self.table.get_mut(id)
            && std::mem::replace(&mut entry.door, door) == Door::Shut
        {
            self.wake(id);
        }
    }

    /// Has a listener refuse whoever comes; where the system cannot, it goes on.
    pub fn suspend<N: Network<Listener = L>>(&mut self, id: ListenerId, network: &mut N) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.suspended = network.suspend(&mut entry.listener).is_ok();
            entry.may_resume = false;
        }
    }

    /// A listener is to listen again, after what was asked for before.
    pub fn may_resume(&mut self, id: ListenerId) {
        if let Some(entry) = self.table.get_mut(id) {
            entry.may_resume = true;
        }
    }

    /// Has a listener listen again; returns its address. `None` if it is gone, or was suspended anew.
    pub fn resume<N: Network<Listener = L>>(
        &mut self,
        id: ListenerId,
        network: &mut N,
    ) -> Option<io::Result<SocketAddr>> {
        let entry = self.table.get_mut(id).filter(|entry| entry.may_resume)?;
        if entry.suspended
            && let Err(error) = network.resume(&mut entry.listener)
        {
            return Some(Err(error));
        }
        entry.suspended = false;
        let address = entry.address;
        self.wake(id);
        Some(Ok(address))
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

    /// Lets nobody in until that is taken back.
    pub fn shut(&mut self, is_shut: bool) {
        self.is_shut = is_shut;
    }

    /// When a ready listener wants to be tried; `now` if at once.
    pub fn next_try(&self, now: Instant) -> Option<Instant> {
        if self.is_shut {
            return None;
        }
        if self.ready.is_empty() { self.paused.next() } else { Some(now) }
    }

    /// The ready listeners of this turn.
    pub fn begin_turn(&mut self, now: Instant) -> usize {
        if self.is_shut {
            return 0;
        }
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
        if entry.suspended || entry.door == Door::Shut {
            entry.ready = false;
            return Tried::Nothing;
        }
        let full = match entry.door {
            Door::Users(service) if self.users >= self.users_max => Some(service),
            _ => None,
        };
        if full.is_some() {
            // A user may wait in the queue as long as any other; then it is told that it is not served.
            let shed_at = *entry.full_since.get_or_insert(now) + self.wait;
            if shed_at > now {
                self.paused.set(id, Some(shed_at));
                return Tried::Nothing;
            }
        } else {
            entry.full_since = None;
        }
        let taken = network.accept(&mut entry.listener);
        let failed = taken.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        entry.failures = if failed { entry.failures.saturating_add(1) } else { 0 };
        if taken.is_ok() {
            self.is_exhausted = false;
        }
        match (taken, full) {
            // Dropping it resets it.
            (Ok(accepted), Some(service)) => Tried::Shed(service, accepted.peer),
            (Ok(accepted), None) => {
                self.users += usize::from(matches!(entry.door, Door::Users(_)));
                Tried::Taken(accepted, entry.door)
            }
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {
                (entry.ready, entry.full_since, self.is_exhausted) = (false, None, false);
                // Another connection may use this room.
                self.resume_one();
                Tried::Nothing
            }
            (Err(error), _) => {
                let (fault, at) = (Fault::from(error), entry.address);
                // The connection died in the queue (accept(2), ERRORS): the next one is another.
                if !fault.is_exhaustion() && entry.failures < FAILURES_MAX {
                    return Tried::Lost;
                }
                // The system has run out of something, or forbids it, or its network is down: that lasts.
                self.is_exhausted |= fault.is_exhaustion();
                facts.push_back(Fact::AcceptPaused { at, fault });
                self.paused.set(id, Some(now + FAILED_PAUSE));
                Tried::Nothing
            }
        }
    }

    /// Whether the system had no descriptor for the last connection that was tried.
    pub fn is_exhausted(&self) -> bool {
        self.is_exhausted
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Id;
    use std::net::Ipv4Addr;

    fn id<K>(slot: u32) -> Id<K> {
        Id::new(slot, 1).expect("it can be named")
    }

    /// All ready listeners are tried, and nobody waits at them.
    fn try_all(listeners: &mut Listeners<()>) -> Vec<ListenerId> {
        let tried: Vec<ListenerId> = std::iter::from_fn(|| listeners.next_ready()).collect();
        for &id in &tried {
            listeners.table.get_mut(id).expect("it is there").ready = false;
        }
        tried
    }

    #[test]
    fn a_listener_that_gets_another_service_is_tried_only_if_it_let_nobody_in_before() {
        let mut listeners = Listeners::new(1, Duration::ZERO);
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let (web, ssh, door) = (id(0), id(1), |service: u32| Door::Users(id(service)));
        listeners.insert(web, (), address, door(0));
        listeners.insert(ssh, (), address, Door::Shut);
        assert_eq!(try_all(&mut listeners), [web, ssh]);
        listeners.set_door(web, door(1));
        assert_eq!(try_all(&mut listeners), [], "an event tells of who comes");
        listeners.set_door(ssh, door(0));
        assert_eq!(try_all(&mut listeners), [ssh], "somebody may have come meanwhile");
        listeners.set_door(web, Door::Shut);
        listeners.set_door(web, door(0));
        assert_eq!(try_all(&mut listeners), [web]);
    }
}
