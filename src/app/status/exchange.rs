//! What the loop and the desk leave for each other. Neither waits for the other.
//!
//! Several readers who ask at once are answered by one look at the machine, which began after each of them had asked.

use std::mem;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use mio::Waker;

use super::socket::SocketFile;
use super::view::{Head, RefusedConfiguration};
use crate::app::reload::Refusal;
use crate::machine::Fact;
use crate::machine::status::Snapshot;

/// The place between both. See the module.
pub struct Exchange {
    inside: Mutex<Inside>,
    /// Something is asked that the loop has not taken. It is looked at in each turn of the loop.
    is_asked: AtomicBool,
    wake_loop: Box<dyn Fn() + Send + Sync>,
    wake_desk: Waker,
}

#[derive(Default)]
struct Inside {
    /// The number of what was asked last.
    asked: u64,
    /// The loop has begun with it.
    is_begun: bool,
    /// Somebody looks, and nothing only keeps a record.
    is_look: bool,
    gathered: Option<Gathered>,
    /// Other ways in that the desk has not taken.
    doors: Doors,
}

/// What the loop has gathered.
pub struct Gathered {
    /// Everything up to this number is answered by it.
    pub number: u64,
    /// What the machine and its reactor say.
    pub snapshot: Snapshot,
    /// What the process says.
    pub head: Head,
    /// When the last of it was gathered.
    pub at: Instant,
    /// The same on the wall's clock.
    pub wall: SystemTime,
}

/// Where readers come from now on.
#[derive(Debug, Default)]
pub struct Doors {
    /// The unix socket.
    pub socket: Door<UnixListener>,
    /// The TCP listener.
    pub metrics: Door<TcpListener>,
}

/// A way in.
#[derive(Debug, Default)]
pub enum Door<T> {
    /// The one that there is stays.
    #[default]
    Same,
    /// This takes its place.
    New(T),
    /// There is none.
    Closed,
}

impl<T> Door<T> {
    /// What comes of it where this holds afterwards.
    fn change(&mut self, later: Door<T>) {
        if !matches!(later, Door::Same) {
            *self = later;
        }
    }
}

impl Exchange {
    /// An exchange with nothing in it.
    pub fn new(wake_loop: impl Fn() + Send + Sync + 'static, wake_desk: Waker) -> Exchange {
        let (inside, is_asked) = (Mutex::default(), AtomicBool::new(false));
        Exchange { inside, is_asked, wake_loop: Box::new(wake_loop), wake_desk }
    }

    /// Asks the loop for what it knows, and returns the number of the answer. `is_look`: somebody wants to see it now.
    pub fn ask(&self, is_look: bool) -> u64 {
        let mut inside = self.lock();
        if inside.asked == 0 || inside.is_begun {
            inside.asked += 1;
            inside.is_begun = false;
        }
        inside.is_look |= is_look;
        let number = inside.asked;
        drop(inside);
        self.is_asked.store(true, Ordering::Release);
        (self.wake_loop)();
        number
    }

    /// What the loop has left.
    pub fn take(&self) -> (Option<Gathered>, Doors) {
        let mut inside = self.lock();
        (inside.gathered.take(), mem::take(&mut inside.doors))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // No holder can leave it half changed.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the loop is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Somebody wants to see it now: what is not proved lately is to be proved.
    pub is_look: bool,
}

/// The loop's end of it.
pub struct Showing {
    exchange: Arc<Exchange>,
    head: Head,
    /// The number of what is being gathered.
    gathering: Option<u64>,
    /// The unix socket's file, which goes with this.
    file: Option<SocketFile>,
}

impl Showing {
    /// The loop's end of an exchange.
    pub fn new(exchange: Arc<Exchange>, head: Head) -> Showing {
        Showing { exchange, head, gathering: None, file: None }
    }

    /// What is to be gathered, if something is asked for that was not begun.
    pub fn begin(&mut self) -> Option<Wish> {
        if self.gathering.is_some() || !self.exchange.is_asked.swap(false, Ordering::Acquire) {
            return None;
        }
        let mut inside = self.exchange.lock();
        inside.is_begun = true;
        self.gathering = Some(inside.asked);
        Some(Wish { is_look: mem::take(&mut inside.is_look) })
    }

    /// Hands over what was gathered.
    pub fn deliver(&mut self, snapshot: Snapshot, at: Instant, wall: SystemTime) {
        let Some(number) = self.gathering.take() else { return };
        let gathered = Gathered { number, snapshot, head: self.head.clone(), at, wall };
        self.exchange.lock().gathered = Some(gathered);
        self.wake_desk();
        // What was asked meanwhile is begun in the next turn.
        if self.exchange.is_asked.load(Ordering::Acquire) {
            (self.exchange.wake_loop)();
        }
    }

    /// Takes a fact into account.
    pub fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Reloaded { .. } | Fact::ClientReloaded { .. } => {
                self.head.configured = SystemTime::now();
            }
            Fact::Draining { .. } => {
                self.head.is_draining = true;
                // The process that comes after this one may want it already.
                self.open(Doors { metrics: Door::Closed, ..Doors::default() }, None);
            }
            _ => {}
        }
    }

    /// The configuration that was read last does not hold, or does.
    pub fn note_refused(&mut self, refusal: Option<&Refusal>) {
        let is_known = match (&self.head.refused, refusal) {
            (None, None) => true,
            (Some(known), Some(refusal)) => Arc::ptr_eq(&known.faults, &refusal.faults),
            _ => false,
        };
        if !is_known {
            let since = self.head.refused.as_ref().map_or_else(SystemTime::now, |refused| refused.since);
            self.head.refused =
                refusal.map(|refusal| RefusedConfiguration { since, faults: refusal.faults.clone() });
        }
    }

    /// Readers come by other ways from now on.
    pub fn open(&mut self, doors: Doors, file: Option<SocketFile>) {
        if !matches!(doors.socket, Door::Same) {
            self.file = file;
        }
        let mut inside = self.exchange.lock();
        inside.doors.socket.change(doors.socket);
        inside.doors.metrics.change(doors.metrics);
        drop(inside);
        self.wake_desk();
    }

    fn wake_desk(&self) {
        // It fails only if the desk is gone, and then nobody reads.
        let _ = self.exchange.wake_desk.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::view;
    use super::*;
    use mio::{Poll, Token};

    fn exchange() -> (Arc<Exchange>, Showing, Poll) {
        let poll = Poll::new().expect("the system gives one");
        let waker = Waker::new(poll.registry(), Token(0)).expect("the system gives one");
        let exchange = Arc::new(Exchange::new(|| (), waker));
        let showing = Showing::new(exchange.clone(), view(|_| Vec::new()).head);
        (exchange, showing, poll)
    }

    fn deliver(showing: &mut Showing) {
        showing.deliver(Snapshot::default(), Instant::now(), SystemTime::now());
    }

    #[test]
    fn readers_who_ask_at_once_are_answered_by_one_look() {
        let (exchange, mut showing, _poll) = exchange();
        assert_eq!(showing.begin(), None);
        assert_eq!([exchange.ask(false), exchange.ask(true), exchange.ask(false)], [1; 3]);
        assert_eq!(showing.begin(), Some(Wish { is_look: true }));
        assert_eq!(showing.begin(), None);
        deliver(&mut showing);
        assert_eq!(exchange.take().0.map(|gathered| gathered.number), Some(1));
        assert!(exchange.take().0.is_none());
    }

    #[test]
    fn what_is_asked_while_it_is_gathered_is_gathered_anew() {
        let (exchange, mut showing, _poll) = exchange();
        exchange.ask(true);
        showing.begin();
        assert_eq!([exchange.ask(false), exchange.ask(false)], [2; 2]);
        assert_eq!(showing.begin(), None, "one after the other");
        deliver(&mut showing);
        assert_eq!(showing.begin(), Some(Wish { is_look: false }));
        deliver(&mut showing);
        assert_eq!(exchange.take().0.map(|gathered| gathered.number), Some(2));
    }

    #[test]
    fn a_way_in_that_the_desk_has_not_taken_outlives_a_reload_that_leaves_it() {
        let (exchange, mut showing, _poll) = exchange();
        let listener = TcpListener::bind("127.0.0.1:0").expect("any port");
        showing.open(Doors { metrics: Door::New(listener), ..Doors::default() }, None);
        showing.open(Doors { socket: Door::Closed, ..Doors::default() }, None);
        let (_, doors) = exchange.take();
        assert!(matches!(doors, Doors { socket: Door::Closed, metrics: Door::New(_) }), "{doors:?}");
        assert!(matches!(exchange.take().1, Doors { socket: Door::Same, metrics: Door::Same }));
    }

    #[test]
    fn a_refused_configuration_is_told_of_since_the_first_time_and_until_one_holds() {
        let (_, mut showing, _poll) = exchange();
        showing.note_refused(Some(&"f:1:1: a".to_owned().into()));
        let since = showing.head.refused.as_ref().expect("it is").since;
        showing.note_refused(Some(&"f:2:1: b".to_owned().into()));
        let refused = showing.head.refused.clone().expect("it is");
        assert_eq!((refused.since, &refused.faults[0]), (since, &"f:2:1: b".to_owned()));
        let before = showing.head.configured;
        showing.note_refused(None);
        showing.take(&Fact::ClientReloaded { source: "f".into(), difference: Box::default() });
        assert!(showing.head.refused.is_none() && showing.head.configured != before);
    }
}
