//! One slot of the reactor's slab: a socket, what is known of its readiness, and which part it plays.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use slab::Slab;

use super::network::Socket;
use super::outgoing::Piped;
use crate::machine::{CloseReason, ConnId, Greeting, Traffic};
use crate::ring::Ring;
use crate::session::{End, Session};
use crate::table::{SLOTS_KEPT, room_for};
use crate::wire::handshake::{ANSWER_BYTES, FIRST_FLIGHT_BYTES, Initiator, Responder};
use crate::wire::record::Channel;

/// Readiness as last seen. Events set bits. `WouldBlock` clears `readable` and `writable`, and only `take_error`
/// clears `error`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
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
pub(super) struct Connection<S: Socket> {
    pub id: ConnId,
    pub socket: S,
    pub ready: Ready,
    /// It stands in the run queue.
    pub queued: bool,
    /// It used up the bytes of its last turn, and stands behind those who do not.
    pub takes_long: bool,
    /// Marked for closing; the first reason wins. Nothing but `reap` touches it any more.
    pub closing: Option<CloseReason>,
    /// Spliced bytes that its socket did not take yet; they go before those of `out`.
    pub piped: Option<Box<Piped<S::Pipe>>>,
    /// Bytes that its socket did not take yet.
    pub out: Option<Ring>,
    pub role: Role,
}

/// What a connection is in life.
pub(super) enum Role {
    /// Dialled, not yet connected.
    Connecting(Target),
    /// Client: the first flight is sent, the answer is awaited.
    Greeting(Box<Greeter>),
    /// Server: the first flight is awaited, or being judged.
    Stranger(Box<Stranger>),
    /// A stranger who failed: reads nothing into the program, answers nothing, waits for his deadline.
    Discarding { reason: CloseReason, left_bytes: usize },
    /// A control connection.
    Control(Box<Control>),
    /// A message connection.
    Message(Message),
    /// The local side of a session: a user's connection on the server, a proxy connection on the client.
    Local(Local),
    /// Nothing more is said: flush, shut down writing, read to the end, close.
    Leaving { reason: CloseReason, shut: bool },
}

/// What becomes of a connection that is being dialled.
pub(super) enum Target {
    Greeting(Box<Greeting>),
    Proxy(Local),
}

/// The client's half of a handshake in progress.
pub(super) struct Greeter {
    pub initiator: Initiator,
    pub plain: bool,
    pub control: bool,
    pub answer: [u8; ANSWER_BYTES],
    pub filled: usize,
}

/// The server's half of a handshake in progress.
pub(super) struct Stranger {
    pub since: std::time::Instant,
    pub flight: [u8; FIRST_FLIGHT_BYTES],
    pub filled: usize,
    pub responder: Option<Responder>,
    pub control: bool,
}

/// A control connection's channel and the record that has not arrived whole.
pub(super) struct Control {
    pub channel: Channel,
    pub input: Option<Ring>,
}

/// A message connection: the session on it, and its local side while one is paired.
pub(super) struct Message {
    pub session: Session,
    pub channel: Channel,
    pub peer: Option<ConnId>,
    /// Bytes that arrived and cannot be opened or delivered yet.
    pub input: Option<Ring>,
    /// The last record was spliced, so the next one will be, once its head has been read.
    pub expects_head: bool,
    /// Payload thrown away since the last abort.
    pub discarded_bytes: u32,
    /// Payload sent on it in this session, as far as it fits.
    pub carried_bytes: u32,
    /// The machine has been told that the session which it knows of is over.
    pub announced_idle: bool,
}

impl Message {
    pub fn new(end: End, channel: Channel) -> Message {
        Message {
            session: Session::new(end),
            channel,
            peer: None,
            input: None,
            expects_head: false,
            discarded_bytes: 0,
            carried_bytes: 0,
            announced_idle: true,
        }
    }
}

/// The direction from the local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Open,
    /// Its end was read, and `Fin` sent if it is paired.
    Ended,
    /// An error was met, latched here because the kernel tells it once; what was received before it may still be
    /// passed on, for a short time.
    Failed(io::ErrorKind),
}

/// The direction to the local side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
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

/// The local side of a session.
pub(super) struct Local {
    /// The paired message connection.
    pub peer: Option<ConnId>,
    pub reading: Reading,
    pub writing: Writing,
    /// Server: what was read before `Started`, kept in case it must be sent again.
    pub retained: Option<Ring>,
    pub traffic: Traffic,
    /// Its reads fill: worth splicing.
    pub is_bulk: bool,
}

impl Local {
    pub fn new(peer: Option<ConnId>) -> Local {
        Local {
            peer,
            reading: Reading::Open,
            writing: Writing::Open,
            retained: None,
            traffic: Traffic::default(),
            is_bulk: false,
        }
    }

    /// What its deadline means.
    pub fn overdue(&self) -> CloseReason {
        match (self.reading, self.writing) {
            (Reading::Failed(kind), _) => CloseReason::Io(kind),
            (_, Writing::Aborting(reason)) => reason,
            _ => CloseReason::EndTimedOut,
        }
    }
}

/// All connections, by slot, and the pairs among them.
pub(super) struct Connections<S: Socket>(Slab<Connection<S>>);

type Two<'a, S> = (&'a mut Connection<S>, &'a mut Connection<S>);

impl<S: Socket> Connections<S> {
    pub fn new() -> Connections<S> {
        Connections(Slab::with_capacity(SLOTS_KEPT))
    }

    /// Gives up the vacant slots behind the last connection.
    pub fn shrink(&mut self) {
        if self.0.capacity() > SLOTS_KEPT {
            self.0.shrink_to_fit();
            self.0.reserve(SLOTS_KEPT.saturating_sub(self.0.len()));
        }
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The slot that the next connection gets.
    pub fn vacant_slot(&self) -> u32 {
        self.0.vacant_key() as u32
    }

    pub fn insert(&mut self, connection: Connection<S>) {
        let slot = connection.id.slot;
        let capacity = self.0.capacity();
        self.0.reserve(room_for(self.0.len() + 1, capacity) - self.0.len());
        let key = self.0.insert(connection);
        debug_assert_eq!(key, slot as usize, "the id was made for the vacant slot");
    }

    /// Takes all of them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Connection<S>> {
        self.0.drain()
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Connection<S>> {
        self.any(id)?;
        self.0.try_remove(id.slot as usize)
    }

    /// Whoever has this slot.
    pub fn at(&self, slot: u32) -> Option<&Connection<S>> {
        self.0.get(slot as usize)
    }

    /// The connection, closing or not.
    fn any(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.0.get_mut(id.slot as usize).filter(|connection| connection.id == id)
    }

    /// The connection, unless it is gone or marked for closing.
    pub fn find(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.any(id).filter(|connection| connection.closing.is_none())
    }

    /// The message half of a connection that is not closing.
    pub fn message(&mut self, id: ConnId) -> Option<&mut Message> {
        self.find(id)?.role.message()
    }

    pub fn message_even_closing(&mut self, id: ConnId) -> Option<&mut Message> {
        self.any(id)?.role.message()
    }

    /// The local half of a connection that is not closing.
    pub fn local(&mut self, id: ConnId) -> Option<&mut Local> {
        match &mut self.find(id)?.role {
            Role::Local(local) => Some(local),
            _ => None,
        }
    }

    /// The peer field of either half, closing or not.
    fn peer_field(&mut self, id: ConnId) -> Option<&mut Option<ConnId>> {
        match &mut self.any(id)?.role {
            Role::Message(message) => Some(&mut message.peer),
            Role::Local(local) | Role::Connecting(Target::Proxy(local)) => Some(&mut local.peer),
            _ => None,
        }
    }

    /// Who is paired with it.
    pub fn peer(&mut self, id: ConnId) -> Option<ConnId> {
        self.peer_field(id).and_then(|peer| *peer)
    }

    /// Makes two connections each other's peer.
    pub fn pair(&mut self, message: ConnId, local: ConnId) {
        for (id, other) in [(message, local), (local, message)] {
            if let Some(peer) = self.peer_field(id) {
                debug_assert!(peer.is_none(), "a connection has one peer");
                *peer = Some(other);
            }
        }
        debug_assert_eq!(self.peer(message).and_then(|peer| self.peer(peer)), Some(message));
    }

    /// Parts a connection from its peer, and returns that.
    pub fn unpair(&mut self, id: ConnId) -> Option<ConnId> {
        let peer = self.peer_field(id)?.take()?;
        let back = self.peer_field(peer).and_then(Option::take);
        debug_assert_eq!(back, Some(id), "pairing is mutual");
        Some(peer)
    }

    /// A local side and its message connection, if neither is closing.
    pub fn couple(&mut self, local: ConnId) -> Option<Two<'_, S>> {
        let message = self.peer(local)?;
        let (local, message) = self.0.get2_mut(local.slot as usize, message.slot as usize)?;
        (local.closing.is_none() && message.closing.is_none()).then_some((local, message))
    }

    /// A message connection, and its local side if it has one.
    pub fn with_peer(&mut self, message: ConnId) -> Option<(&mut Connection<S>, Option<&mut Connection<S>>)> {
        match self.peer(message) {
            None => Some((self.find(message)?, None)),
            Some(local) => {
                let (message, local) = self.0.get2_mut(message.slot as usize, local.slot as usize)?;
                Some((message, Some(local)))
            }
        }
    }
}

impl<S: Socket> Connection<S> {
    /// Whether a session would be broken if it closed now.
    pub fn is_in_session(&self) -> bool {
        match &self.role {
            Role::Local(_) | Role::Connecting(Target::Proxy(_)) => true,
            Role::Message(message) => !message.session.is_idle(),
            _ => false,
        }
    }
}

impl Role {
    fn message(&mut self) -> Option<&mut Message> {
        match self {
            Role::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// The connections that have proved nothing yet, oldest first: how many there may be, in all and per address.
pub(super) struct Strangers {
    queue: VecDeque<(ConnId, u128)>,
    max: usize,
    per_address_max: usize,
}

impl Strangers {
    pub fn new(max: usize, per_address_max: usize) -> Strangers {
        Strangers { queue: VecDeque::new(), max: max.max(1), per_address_max: per_address_max.max(1) }
    }

    /// Counts a stranger in; returns the one who must make room.
    pub fn admit(&mut self, id: ConnId, peer: SocketAddr) -> Option<ConnId> {
        // IPv6 hosts own a /64 at least, so that is what an address means there.
        let address = match peer.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        };
        self.queue.push_back((id, address));
        let same = self.queue.iter().filter(|entry| entry.1 == address).count();
        let oldest = if same > self.per_address_max {
            self.queue.iter().position(|entry| entry.1 == address)
        } else {
            (self.queue.len() > self.max).then_some(0)
        };
        self.queue.remove(oldest?).map(|entry| entry.0)
    }

    /// Counts one out, if he is counted.
    pub fn remove(&mut self, id: ConnId) {
        if let Some(place) = self.queue.iter().position(|entry| entry.0 == id) {
            self.queue.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(serial: u32) -> ConnId {
        ConnId { slot: serial, serial }
    }

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("an address"), 1000)
    }

    #[test]
    fn the_oldest_stranger_makes_room() {
        let mut strangers = Strangers::new(2, 2);
        assert_eq!(strangers.admit(id(1), at("192.0.2.1")), None);
        assert_eq!(strangers.admit(id(2), at("192.0.2.2")), None);
        assert_eq!(strangers.admit(id(3), at("192.0.2.3")), Some(id(1)));
        strangers.remove(id(2));
        assert_eq!(strangers.admit(id(4), at("192.0.2.4")), None);
    }

    #[test]
    fn one_address_pushes_out_only_its_own() {
        let mut strangers = Strangers::new(100, 2);
        assert_eq!(strangers.admit(id(1), at("192.0.2.1")), None);
        assert_eq!(strangers.admit(id(2), at("2001:db8::1")), None);
        assert_eq!(strangers.admit(id(3), at("2001:db8::2")), None);
        assert_eq!(strangers.admit(id(4), at("2001:db8:0:0:1::")), Some(id(2)));
        assert_eq!(strangers.admit(id(5), at("2001:db8:0:1::")), None, "another /64 is another address");
    }
}
