//! One connection: a socket, what is known of its readiness, what it is and where it stands in life.

use std::time::Duration;

use crate::base::id::{AccountId, ConnId, RateId};
use crate::base::ring::Ring;
use crate::machine::{CloseReason, Fault, Traffic};
use crate::reactor::buffers::Piped;
use crate::reactor::control::Control;
use crate::reactor::greeting::Greeter;
use crate::reactor::pulse::{Debt, Pulse};
use crate::reactor::rates::Waits;
use crate::reactor::relay::patience::Patience;
use crate::reactor::strangers::Stranger;
use crate::reactor::world::network::Socket;
use crate::session::{End, Session};
use crate::wire::frame::Sid;
use crate::wire::record::Channel;

/// Readiness as last seen. Events set bits. `WouldBlock` clears `readable` and `writable`, and only `take_error`
/// clears `error`.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::reactor) struct Ready {
    pub readable: bool,
    pub writable: bool,
    /// There is an end to be read after the bytes; never cleared.
    pub ended: bool,
    pub error: bool,
}

impl Ready {
    /// A new connection is tried before any event has come.
    pub const UNTRIED: Ready = Ready { readable: true, writable: true, ended: false, error: false };

    /// Notes that a read gave `count` bytes where `limit` were asked for. A short read has emptied the socket: what
    /// arrives after it makes an event of its own (epoll(7), questions and answers, 9), and so does an end, unless
    /// its event has come already. This saves every small request a read that finds nothing.
    pub fn note_read(&mut self, count: usize, limit: usize) {
        if count < limit && !self.ended {
            self.readable = false;
        }
    }
}

/// A connection of any kind.
pub(in crate::reactor) struct Connection<S: Socket> {
    pub id: ConnId,
    pub socket: S,
    pub ready: Ready,
    pub(super) turn: Turn,
    pub life: Life,
    /// How long an end may still take, if it is awaited.
    pub patience: Patience,
    /// Spliced bytes that its socket did not take yet; they go before those of `out`.
    pub piped: Option<Box<Piped<S::Pipe>>>,
    /// Bytes that its socket did not take yet.
    pub out: Option<Ring>,
    pub kind: Kind,
}

/// Where a connection stands in the run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is not queued.
    None,
    /// It is not queued, and used up the bytes of its last turn.
    NoneButLong,
    Queued,
}

/// What a connection is.
pub(in crate::reactor) enum Kind {
    /// Client: a control or message connection that is not proved yet.
    Greeting(Box<Greeter>),
    /// Server: the first flight is awaited, or being judged.
    Stranger(Box<Stranger>),
    /// A control connection.
    Control(Box<Control>),
    /// A message connection.
    Message(Message),
    /// Client: a proxy connection on its way, for the session of this number on this message connection. It may have a
    /// rival, and only the first that stands is paired. Its bytes are counted there.
    Proxy(ConnId, Sid, Option<AccountId>),
    /// The local side of a session: a user's connection on the server, a proxy connection on the client.
    Local(Local),
}

/// Where a connection stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Life {
    /// Dialled, not yet connected.
    Connecting,
    Open,
    /// A stranger that failed: it is read and not answered until its deadline.
    Discarding {
        reason: CloseReason,
        left_bytes: u32,
    },
    /// Nothing more is said: flush, shut down writing, read to the end, close.
    Leaving {
        reason: CloseReason,
        shut: bool,
    },
    /// Marked for closing. Only the reaper touches it any more.
    Doomed {
        reason: CloseReason,
        resets: bool,
    },
}

/// A message connection: the session on it, and its local side while one is paired.
pub(in crate::reactor) struct Message {
    pub session: Session,
    pub channel: Channel,
    pub(super) peer: Option<ConnId>,
    /// Bytes that arrived and cannot be opened or delivered yet.
    pub input: Option<Ring>,
    /// The last record was spliced, so the next one will be, once its head has been read.
    pub expects_head: bool,
    /// Its socket failed. What the peer said before is still read.
    pub failed: Option<Fault>,
    /// Payload sent on it in this session, as far as it fits.
    pub carried_bytes: u32,
    /// What its local side says fills the reads: worth splicing.
    pub is_bulk: bool,
    /// The machine has been told that the session which it knows of is over.
    pub announced_idle: bool,
    /// Its session is a probe: nobody gets what the local server says.
    pub is_probe: bool,
    pub pulse: Pulse,
}

impl Message {
    pub fn new(end: End, channel: Channel, heartbeat: Duration) -> Message {
        Message {
            session: Session::new(end),
            channel,
            peer: None,
            input: None,
            expects_head: false,
            failed: None,
            carried_bytes: 0,
            is_bulk: false,
            announced_idle: true,
            is_probe: false,
            pulse: Pulse::new(heartbeat),
        }
    }

    pub fn peer(&self) -> Option<ConnId> {
        self.peer
    }
}

/// The direction from the local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Reading {
    Open,
    /// Its end was read, and `Fin` sent if it is paired.
    Ended,
    /// An error was met, latched here because the kernel tells it once; what was received before it may still be
    /// passed on, for a short time.
    Failed(Fault),
}

/// The direction to the local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Writing {
    Open,
    /// `Fin` has arrived: shut down once flushed.
    Finishing,
    /// Shut down.
    Ended,
    /// `Abort` has arrived: reset once flushed, or when the flush takes too long.
    Aborting(CloseReason),
    /// Writing failed: what arrives for it is thrown away.
    Failed,
}

/// Which local side it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Side {
    /// A user's connection, at the server.
    User,
    /// A proxy connection, at the client.
    Proxy,
}

/// The local side of a session.
pub(in crate::reactor) struct Local {
    pub side: Side,
    /// The paired message connection.
    pub(super) peer: Option<ConnId>,
    pub reading: Reading,
    pub writing: Writing,
    /// Server: what was read before `Started`, kept in case it must be sent again.
    pub retained: Option<Ring>,
    pub traffic: Traffic,
    /// Where its bytes are counted, too, once its session has begun.
    pub account: Option<AccountId>,
    /// Server: whose rate it shares.
    pub rate: Option<RateId>,
    pub waits: Waits,
    pub debt: Debt,
}

impl Local {
    pub fn new(side: Side, account: Option<AccountId>) -> Local {
        Local {
            side,
            peer: None,
            reading: Reading::Open,
            writing: Writing::Open,
            retained: None,
            traffic: Traffic::default(),
            account,
            rate: None,
            waits: Waits::default(),
            debt: Debt::default(),
        }
    }

    pub fn is_paired(&self) -> bool {
        self.peer.is_some()
    }

    /// Bytes were written to it.
    pub fn note_sent(&mut self, count: usize) {
        self.traffic.sent += count as u64;
        self.debt.begin();
    }

    /// Whether its bytes are still wanted.
    pub fn reads(&self) -> bool {
        self.reading != Reading::Ended && !matches!(self.writing, Writing::Aborting(_))
    }

    /// It is about to be reset, once what was said before has passed.
    pub fn is_breaking_off(&self) -> bool {
        matches!(self.reading, Reading::Failed(_)) || matches!(self.writing, Writing::Aborting(_))
    }

    /// What its deadline means.
    pub fn overdue(&self) -> CloseReason {
        match (self.reading, self.writing) {
            (Reading::Failed(fault), _) => CloseReason::Io(fault),
            (_, Writing::Aborting(reason)) => reason,
            _ => CloseReason::EndTimedOut,
        }
    }
}

impl<S: Socket> Connection<S> {
    /// Whether a session would be broken if it closed now.
    pub fn is_in_session(&self) -> bool {
        match &self.kind {
            Kind::Local(_) | Kind::Proxy(..) => true,
            Kind::Message(message) => !message.session.is_idle(),
            _ => false,
        }
    }

    /// Takes the rings that its kind leases.
    pub fn take_rings(&mut self) -> [Option<Ring>; 2] {
        match &mut self.kind {
            Kind::Local(local) => [local.retained.take(), None],
            Kind::Message(message) => [message.input.take(), None],
            Kind::Control(control) => [control.take_input(), None],
            _ => [None, None],
        }
    }

    /// What has passed it, if it is a local side.
    pub fn traffic(&self) -> Traffic {
        match &self.kind {
            Kind::Local(local) => local.traffic,
            _ => Traffic::default(),
        }
    }
}

impl Kind {
    pub fn message(&mut self) -> Option<&mut Message> {
        match self {
            Kind::Message(message) => Some(message),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process holds two of these per session.
    #[test]
    fn a_connection_takes_little_memory() {
        use crate::reactor::world::mio_network::MioSocket;
        assert_eq!(size_of::<Connection<MioSocket>>(), 120);
    }
}
