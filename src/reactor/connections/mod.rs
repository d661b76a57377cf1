//! All connections, by slot: a socket, what is known of its readiness, what the connection is and where it stands in
//! life; which two are paired; which are to be served; which have a deadline; and what the machine is to be told.
//!
//! Invariants, each kept here:
//! - pairing is mutual: `peer(peer(x)) == x` ([`Connections::pair`], [`Connections::unpair`]);
//! - [`Connections::close`] only marks, and the first reason wins; [`Connections::take_doomed`] frees nothing but what
//!   was marked.

mod connection;

use std::collections::VecDeque;
use std::time::Instant;

use slab::Slab;

use super::pulse::least;
use super::relay::patience::Patience;
use super::runnable::{Pace, Runnable};
use super::world::network::Socket;
use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, kind};
use crate::base::table::{SLOTS_KEPT, room_for};
use crate::machine::{CloseReason, Input};
use crate::wire::frame::Sid;
use crate::wire::record::{Channel, Plain};
use connection::Turn;
pub(super) use connection::{Connection, Kind, Life, Local, Message, Reading, Ready, Side, Writing};

/// All connections; see the module.
pub(super) struct Connections<S: Socket> {
    slots: Slab<Connection<S>>,
    serial: u64,
    /// Connections that may make progress.
    runnable: Runnable,
    deadlines: Deadlines<kind::Connection>,
    /// Marked for closing, to be reaped at the end of this turn or of one of the next.
    doomed: VecDeque<ConnId>,
    /// The least heartbeat of sessions that have begun since this was last taken.
    pub begun: Option<u16>,
    /// What the machine is to be told.
    inbox: VecDeque<Input>,
    /// The time of this turn.
    pub now: Instant,
}

type Two<'a, S> = (&'a mut Connection<S>, &'a mut Connection<S>);

impl<S: Socket> Connections<S> {
    pub fn new(now: Instant) -> Connections<S> {
        Connections {
            slots: Slab::with_capacity(SLOTS_KEPT),
            serial: 0,
            runnable: Runnable::default(),
            deadlines: Deadlines::default(),
            doomed: VecDeque::new(),
            begun: None,
            inbox: VecDeque::new(),
            now,
        }
    }

    // Coming and going.

    /// The id of the next connection; `None` if there are as many as ids can name.
    pub fn next_id(&mut self) -> Option<ConnId> {
        let id = ConnId::new(self.slots.vacant_key() as u32, self.serial + 1)?;
        self.serial = id.serial();
        Some(id)
    }

    /// Puts a connection into the slot of `id`, which [`Connections::next_id`] has just given.
    pub fn insert(&mut self, id: ConnId, socket: S, kind: Kind, life: Life) {
        let ready = if life == Life::Connecting { Ready::default() } else { Ready::UNTRIED };
        let capacity = self.slots.capacity();
        self.slots.reserve(room_for(self.slots.len() + 1, capacity) - self.slots.len());
        let turn = Turn::None;
        let key = self.slots.insert(Connection {
            id,
            socket,
            ready,
            turn,
            life,
            patience: Patience::default(),
            piped: None,
            out: None,
            kind,
        });
        debug_assert_eq!(key, id.index(), "the id was made for the vacant slot");
    }

    /// Marks a connection for closing: with RST, or in peace. The first reason wins; the reaper does the rest.
    pub fn doom(&mut self, id: ConnId, reason: CloseReason, resets: bool) {
        if let Some(connection) = self.find(id) {
            connection.life = Life::Doomed { reason, resets };
            self.doomed.push_back(id);
        }
    }

    /// Marks a connection for closing with RST: what its peer has received is not whole.
    pub fn reset(&mut self, id: ConnId, reason: CloseReason) {
        self.doom(id, reason, true);
    }

    /// Marks a connection for closing in peace: nothing is left to say, or no peer is left to read it.
    pub fn end(&mut self, id: ConnId, reason: CloseReason) {
        self.doom(id, reason, false);
    }

    /// Says no more on a connection: what was sent is flushed and read, and then it ends, `linger_until` at the latest.
    pub fn leave(&mut self, id: ConnId, reason: CloseReason, linger_until: Instant) {
        let Some(connection) = self.find(id) else { return };
        connection.life = Life::Leaving { reason, shut: false };
        self.set_deadline(id, Some(linger_until));
        self.queue(id);
    }

    /// The connection that was marked first.
    pub fn next_doomed(&mut self) -> Option<ConnId> {
        self.doomed.pop_front()
    }

    /// Takes a connection that is marked out of its slot.
    pub fn take_doomed(&mut self, id: ConnId) -> Option<(Connection<S>, CloseReason, bool)> {
        let Life::Doomed { reason, resets } = self.any(id)?.life else { return None };
        self.deadlines.set(id, None);
        let connection = self.slots.try_remove(id.index())?;
        Some((connection, reason, resets))
    }

    /// Takes all of them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Connection<S>> {
        self.slots.drain()
    }

    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Connections that have ever been.
    pub fn came(&self) -> u64 {
        self.serial
    }

    /// Gives up room that a burst needed.
    pub fn shrink(&mut self) {
        if self.slots.capacity() > SLOTS_KEPT {
            self.slots.shrink_to_fit();
            self.slots.reserve(SLOTS_KEPT.saturating_sub(self.slots.len()));
        }
        self.runnable.shrink();
        self.doomed.shrink_to(SLOTS_KEPT);
        self.inbox.shrink_to(SLOTS_KEPT);
    }

    /// Lays the small parts of plain message connections side by side. A burst has put them wherever there was room
    /// between what it needed on the way, and each of them alone would keep a page in use. `give_back` is called while
    /// they are out of its way.
    pub fn repack(&mut self, give_back: impl FnOnce()) {
        let mut unboxed: Vec<Plain> = self.channels().filter_map(Channel::unbox).collect();
        give_back();
        let plain = self.channels().filter(|channel| channel.is_plain());
        plain.zip(&mut unboxed).for_each(|(channel, plain)| channel.rebox(plain));
    }

    fn channels(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.slots.iter_mut().filter_map(|(_, it)| Some(&mut it.kind.message()?.channel))
    }

    // Finding.

    /// The connection, marked or not.
    pub fn any(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.slots.get_mut(id.index()).filter(|connection| connection.id == id)
    }

    /// The connection, unless it is gone or marked for closing.
    pub fn find(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.any(id).filter(|connection| !matches!(connection.life, Life::Doomed { .. }))
    }

    /// The connection in this slot, unless it is marked for closing.
    pub fn at(&mut self, slot: u32) -> Option<&mut Connection<S>> {
        let found = self.slots.get_mut(slot as usize)?;
        (!matches!(found.life, Life::Doomed { .. })).then_some(found)
    }

    /// Every connection is in a slot below this.
    pub fn slots_end(&self) -> u32 {
        self.slots.capacity() as u32
    }

    /// The connection, if it is open.
    pub fn open(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        self.any(id).filter(|connection| connection.life == Life::Open)
    }

    /// The message half of an open connection.
    pub fn message(&mut self, id: ConnId) -> Option<&mut Message> {
        self.open(id)?.kind.message()
    }

    pub fn message_even_closing(&mut self, id: ConnId) -> Option<&mut Message> {
        self.any(id)?.kind.message()
    }

    /// The local half of an open connection.
    pub fn local(&mut self, id: ConnId) -> Option<&mut Local> {
        match &mut self.open(id)?.kind {
            Kind::Local(local) => Some(local),
            _ => None,
        }
    }

    /// Whether the session of this number on a message connection waits for its proxy connection.
    pub fn wants_proxy(&mut self, message: ConnId, sid: Sid) -> bool {
        self.message(message)
            .is_some_and(|it| it.session.sid() == sid && it.peer().is_none() && it.session.delivers())
    }

    // Pairs.

    /// The peer field of either half, closing or not.
    fn peer_field(&mut self, id: ConnId) -> Option<&mut Option<ConnId>> {
        match &mut self.any(id)?.kind {
            Kind::Message(message) => Some(&mut message.peer),
            Kind::Local(local) => Some(&mut local.peer),
            _ => None,
        }
    }

    /// The connection that it is paired with.
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
        if let Some(it) = self.message_even_closing(message) {
            it.is_bulk = false;
            let heartbeat = it.pulse.heartbeat();
            self.begun = least(self.begun, Some(heartbeat));
        }
    }

    /// Parts a connection from its peer, and returns that.
    pub fn unpair(&mut self, id: ConnId) -> Option<ConnId> {
        let peer = self.peer_field(id)?.take()?;
        let back = self.peer_field(peer).and_then(Option::take);
        debug_assert_eq!(back, Some(id), "pairing is mutual");
        Some(peer)
    }

    /// A local side and its message connection, if both are open.
    pub fn couple(&mut self, local: ConnId) -> Option<Two<'_, S>> {
        let message = self.peer(local)?;
        self.both(local, message)
    }

    /// A local side and a message connection that need not be its peer, if both are open.
    pub fn both(&mut self, local: ConnId, message: ConnId) -> Option<Two<'_, S>> {
        let (local, message) = self.slots.get2_mut(local.index(), message.index())?;
        (local.life == Life::Open && message.life == Life::Open).then_some((local, message))
    }

    /// A message connection that is open, and its local side if it has one.
    pub fn with_peer(&mut self, message: ConnId) -> Option<(&mut Connection<S>, Option<&mut Connection<S>>)> {
        match self.peer(message) {
            None => Some((self.open(message)?, None)),
            Some(local) => {
                let (message, local) = self.slots.get2_mut(message.index(), local.index())?;
                (message.life == Life::Open).then_some((message, Some(local)))
            }
        }
    }

    // Turns and deadlines.

    /// Puts a connection into the run queue.
    pub fn queue(&mut self, id: ConnId) {
        let Some(connection) = self.find(id) else { return };
        let pace = match (&connection.kind, connection.turn) {
            (_, Turn::Queued) => return,
            (Kind::Control(_), _) => Pace::Control,
            (Kind::Stranger(stranger), _) if stranger.is_long() => Pace::Long,
            (Kind::Greeting(_), _) | (_, Turn::NoneButLong) => Pace::Long,
            _ => Pace::Short,
        };
        connection.turn = Turn::Queued;
        self.runnable.push(id, pace);
    }

    /// Queues a connection that has used up the bytes of its turn.
    pub fn queue_again(&mut self, id: ConnId) {
        if let Some(connection) = self.find(id)
            && connection.turn != Turn::Queued
        {
            connection.turn = Turn::NoneButLong;
            self.queue(id);
        }
    }

    pub fn has_work(&self) -> bool {
        !self.runnable.is_empty() || !self.doomed.is_empty()
    }

    pub fn begin_turn(&mut self) {
        self.runnable.begin_turn();
    }

    /// The connection that is served next; none when the turn is over.
    pub fn next_of_turn(&mut self) -> Option<ConnId> {
        loop {
            let id = self.runnable.next_of_turn()?;
            if let Some(connection) = self.find(id) {
                connection.turn = Turn::None;
                return Some(id);
            }
        }
    }

    pub fn set_deadline(&mut self, id: ConnId, at: Option<Instant>) {
        if self.find(id).is_some() {
            self.deadlines.set(id, at);
        }
    }

    pub fn has_deadline(&self, id: ConnId) -> bool {
        self.deadlines.get(id).is_some()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// A connection whose deadline has come; it has none now.
    pub fn next_due(&mut self) -> Option<ConnId> {
        loop {
            let id = self.deadlines.pop_due(self.now)?;
            if self.find(id).is_some() {
                return Some(id);
            }
        }
    }

    /// Adds an input for the machine.
    pub fn tell(&mut self, input: Input) {
        self.inbox.push_back(input);
    }

    /// The next input for the machine.
    pub fn next_input(&mut self) -> Option<Input> {
        self.inbox.pop_front()
    }
}
