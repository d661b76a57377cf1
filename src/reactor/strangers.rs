//! Connections at the control and message ports that are not admitted yet: how many there may be, what they are read,
//! and how they are answered or not.
//!
//! A stranger is *silent* until its first flight is whole, and again once it has failed. It is *judged* while the
//! machine looks for its secret, and *proved* from then on. Each kind has a line of its own: who sends nothing pushes
//! out the silent ones only, and who holds a key pushes out only those of that key.
//!
//! Nothing here decides which stranger is admitted: the machine is asked, with what was read and proved so far.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::buffers::Buffers;
use super::connections::{Connections, Kind, Life, Message};
use super::control::Control;
use super::greeting::{Progress, read_exact};
use super::world::network::{Network, Socket};
use crate::base::address::Origin;
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::machine::{CloseReason, Input, LINK_RANDOM_BYTES, Proof};
use crate::session::End;
use crate::wire::handshake::{
    ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, HandshakeError, KeyId, Purpose, Responder, Secret,
};
use crate::wire::record::Channel;

/// Bytes that a failed stranger may still send before its connection is no longer read.
const DISCARDED_BYTES_MAX: u32 = 64 * 1024;

/// The server's half of a handshake in progress.
pub(super) struct Stranger {
    flight: [u8; FIRST_FLIGHT_BYTES],
    filled: usize,
    stage: Stage,
}

/// How far a stranger's handshake has come.
enum Stage {
    /// Its first flight is awaited.
    Awaited,
    /// Its hello is judged by the machine.
    Judged(Purpose),
    /// It holds the secret.
    Proved(Responder, Purpose),
    /// It is to be answered.
    Answering(Responder, Purpose, Manners),
    /// It proved nothing.
    Failed,
}

/// How a stranger that is answered will be spoken with.
pub(super) struct Manners {
    /// Payload travels unsealed.
    pub plain: bool,
    /// How long it may be silent.
    pub heartbeat: Duration,
}

impl Default for Stranger {
    fn default() -> Stranger {
        Stranger { flight: [0; FIRST_FLIGHT_BYTES], filled: 0, stage: Stage::Awaited }
    }
}

impl Stranger {
    pub fn is_to_be_answered(&self) -> bool {
        matches!(self.stage, Stage::Answering(..))
    }

    /// Whether serving it is a long task. An answer takes as long as many a short task; that to a message connection
    /// was asked for, and a user waits for it, so that it is no longer than the work that it is made for.
    pub fn is_long(&self) -> bool {
        matches!(self.stage, Stage::Answering(_, Purpose::Control, _))
    }
}

/// Where a stranger stands, and where it came from.
struct Standing {
    origin: Origin,
    line: Option<InLine>,
}

/// The line in which a stranger stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InLine {
    Silent,
    Proved(KeyId),
}

/// Strangers, oldest first. It may hold ids of some that have left it. They are dropped when they come to its front,
/// or when they outnumber those that stay. So the cost of counting one in or out does not depend on how many there are.
#[derive(Default)]
struct Line {
    count: usize,
    ids: VecDeque<ConnId>,
}

/// All strangers; see the module.
pub(super) struct Strangers {
    known: HashMap<ConnId, Standing>,
    silent: Line,
    of_address: HashMap<Origin, Line>,
    of_key: HashMap<KeyId, Line>,
    max: usize,
    per_address_max: usize,
    per_key_max: usize,
    /// Least and most time for a first flight; a failed stranger stays until then.
    flight: (Duration, Duration),
    /// How long one that proved a secret may take for the rest.
    rest: Duration,
    jitter: fastrand::Rng,
}

impl Strangers {
    pub fn new(limits: &Limits, jitter: fastrand::Rng) -> Strangers {
        Strangers {
            known: HashMap::new(),
            silent: Line::default(),
            of_address: HashMap::new(),
            of_key: HashMap::new(),
            max: limits.strangers_max.max(1),
            per_address_max: limits.strangers_per_address_max.max(1),
            per_key_max: limits.strangers_per_key_max.max(1),
            flight: limits.flight,
            rest: limits.handshake,
            jitter,
        }
    }

    /// A stranger has connected. It is read at once: a client's first flight is there when it is accepted, or nearly.
    pub fn came<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId, peer: SocketAddr) {
        let (least, most) = self.flight;
        let stay = least + most.saturating_sub(least).mul_f64(self.jitter.f64());
        let until = all.now + stay;
        all.set_deadline(id, Some(until));
        self.count_in(id, peer);
        self.read(all, id);
        while let Some(oldest) = self.too_many_silent(peer) {
            // Its first flight may have arrived since it was last read.
            self.read(all, oldest);
            if self.is_silent(oldest) {
                self.count_out(oldest);
                all.end(oldest, CloseReason::Evicted);
            }
        }
    }

    /// Serves a stranger that may have sent something, or is to be answered.
    pub fn serve<S: Socket>(&mut self, all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
        let Some(connection) = all.open(id) else { return };
        match &connection.kind {
            Kind::Stranger(stranger) if stranger.is_to_be_answered() => self.send_answer(all, buffers, id),
            _ => self.read(all, id),
        }
    }

    /// Reads a first flight, and has the machine judge it once it is whole.
    fn read<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId) {
        let Some(connection) = all.open(id) else { return };
        let Kind::Stranger(stranger) = &mut connection.kind else { return };
        if !matches!(stranger.stage, Stage::Awaited) {
            return;
        }
        let progress = read_exact(&mut connection.socket, &mut stranger.flight, &mut stranger.filled);
        if matches!(progress, Progress::Partly) {
            connection.ready.readable = false;
        }
        let hello = match stranger.flight.first_chunk::<HELLO_BYTES>() {
            Some(clear) if stranger.filled >= HELLO_BYTES => Some(ClearHello::decode(clear)),
            _ => None,
        };
        match (progress, hello) {
            // Bytes that cannot become a hello are rejected at once.
            (_, Some(Err(error))) => self.discard(all, id, CloseReason::Stranger(error)),
            (Progress::Over(reason), _) => {
                let reason = unspoken(reason, stranger.filled);
                self.discard(all, id, reason);
            }
            (Progress::Whole, Some(Ok(hello))) => {
                stranger.stage = Stage::Judged(hello.purpose);
                self.leave_line(id);
                all.tell(Input::Greeted { id, hello });
            }
            (Progress::Partly | Progress::Whole, _) => {}
        }
    }

    /// Checks a first flight against the secret that the machine found.
    pub fn verify<N: Network>(
        &mut self,
        network: &mut N,
        all: &mut Connections<N::Socket>,
        id: ConnId,
        secret: &Secret,
    ) {
        let Some(Kind::Stranger(stranger)) = all.open(id).map(|connection| &mut connection.kind) else {
            return;
        };
        let Stage::Judged(purpose) = stranger.stage else { return };
        let hello = stranger.flight.first_chunk::<HELLO_BYTES>().ok_or(HandshakeError::NotSkyorg);
        let proved = hello.and_then(ClearHello::decode).and_then(|hello| {
            let (responder, ticket) = Responder::verify(hello, secret, &stranger.flight)?;
            Ok((hello.key_id, responder, ticket))
        });
        let (key, responder, ticket) = match proved {
            Ok(proved) => proved,
            Err(error) => return self.discard(all, id, CloseReason::Stranger(error)),
        };
        let proof = match purpose {
            Purpose::Message => Proof::Message { ticket },
            Purpose::Control => {
                let (mut random, flight) =
                    (Zeroizing::new([0; LINK_RANDOM_BYTES]), Responder::flight_mark(&stranger.flight));
                if let Err(error) = network.random(&mut *random) {
                    return self.discard(all, id, CloseReason::Io(error.into()));
                }
                Proof::control(&random, flight)
            }
        };
        stranger.stage = Stage::Proved(responder, purpose);
        let until = all.now + self.rest;
        all.set_deadline(id, Some(until));
        all.tell(Input::Proved { id, proof });
        if let Some(oldest) = self.prove(id, key) {
            all.end(oldest, CloseReason::Evicted);
        }
    }

    /// Answers a stranger when its turn comes: it takes as long as many a short task.
    pub fn answer<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId, manners: Manners) {
        let Some(Kind::Stranger(stranger)) = all.open(id).map(|connection| &mut connection.kind) else {
            return;
        };
        stranger.stage = match std::mem::replace(&mut stranger.stage, Stage::Failed) {
            Stage::Proved(responder, purpose) => Stage::Answering(responder, purpose, manners),
            other => other,
        };
        all.queue(id);
    }

    /// Sends the answer. The connection is now what it came to be.
    fn send_answer<S: Socket>(&mut self, all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
        let now = all.now;
        let Some(connection) = all.open(id) else { return };
        let Kind::Stranger(stranger) = &mut connection.kind else { return };
        let stage = std::mem::replace(&mut stranger.stage, Stage::Failed);
        let Stage::Answering(responder, purpose, Manners { plain, heartbeat }) = stage else { return };
        let Ok((answer, proved)) = responder.answer() else {
            return all.end(id, CloseReason::Stranger(HandshakeError::Unproved));
        };
        connection.kind = match purpose {
            Purpose::Control => Kind::Control(Box::new(Control::new(proved, now))),
            Purpose::Message => {
                Kind::Message(Message::new(End::Server, Channel::new(proved, plain), heartbeat))
            }
        };
        connection.socket.keep_alive(heartbeat);
        buffers.send_bytes(all, id, &answer);
        // A control connection's first flight may be a recording: it stays a stranger until the machine admits it.
        if purpose == Purpose::Message {
            self.count_out(id);
            all.set_deadline(id, None);
        }
        all.tell(Input::Answered { id });
        all.queue(id);
    }

    /// Says nothing to a stranger that failed: it is read until the time that was drawn when it came, or that it has
    /// for the rest of its handshake, and then closed.
    pub fn discard<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId, reason: CloseReason) {
        let Some(connection) = all.open(id) else { return all.end(id, reason) };
        let Kind::Stranger(stranger) = &mut connection.kind else { return all.end(id, reason) };
        let was_proved = matches!(stranger.stage, Stage::Proved(..));
        stranger.stage = Stage::Failed;
        connection.life = Life::Discarding { reason, left_bytes: DISCARDED_BYTES_MAX };
        if was_proved {
            let (least, most) = self.flight;
            let until = all.now + least + most.saturating_sub(least).mul_f64(self.jitter.f64());
            all.set_deadline(id, Some(until));
        }
        self.fail(id);
        all.queue(id);
    }

    // Lines.

    fn count_in(&mut self, id: ConnId, peer: SocketAddr) {
        self.known.insert(id, Standing { origin: Origin::of(peer), line: None });
        self.join(id, InLine::Silent, false);
    }

    /// Counts a stranger out, if it is counted: it was admitted, or its descriptor is closed.
    pub fn count_out(&mut self, id: ConnId) {
        self.leave_line(id);
        self.known.remove(&id);
    }

    fn is_silent(&self, id: ConnId) -> bool {
        self.known.get(&id).is_some_and(|standing| standing.line == Some(InLine::Silent))
    }

    /// The silent stranger that goes first, if there are too many in all or from this address.
    fn too_many_silent(&mut self, peer: SocketAddr) -> Option<ConnId> {
        let Strangers { known, silent, of_address, .. } = self;
        let same = of_address.get_mut(&Origin::of(peer));
        if let Some(same) = same.filter(|same| same.count > self.per_address_max) {
            same.oldest(known, InLine::Silent)
        } else if silent.count > self.max {
            silent.oldest(known, InLine::Silent)
        } else {
            None
        }
    }

    /// A stranger holds the secret of this key; returns the one of that key that must make room.
    fn prove(&mut self, id: ConnId, key: KeyId) -> Option<ConnId> {
        self.join(id, InLine::Proved(key), false);
        let line = self.of_key.get_mut(&key).filter(|line| line.count > self.per_key_max)?;
        line.oldest(&self.known, InLine::Proved(key)).inspect(|&oldest| self.count_out(oldest))
    }

    /// A stranger failed: it is the first of the silent ones to go.
    fn fail(&mut self, id: ConnId) {
        self.leave_line(id);
        self.join(id, InLine::Silent, true);
    }

    fn join(&mut self, id: ConnId, line: InLine, first: bool) {
        let Some(standing) = self.known.get_mut(&id) else { return };
        standing.line = Some(line);
        match line {
            InLine::Silent => {
                self.silent.push(id, first);
                self.of_address.entry(standing.origin).or_default().push(id, first);
            }
            InLine::Proved(key) => self.of_key.entry(key).or_default().push(id, first),
        }
    }

    fn leave_line(&mut self, id: ConnId) {
        let Some(standing) = self.known.get_mut(&id) else { return };
        let origin = standing.origin;
        match standing.line.take() {
            Some(InLine::Silent) => {
                self.silent.leave(&self.known, InLine::Silent);
                if let Some(same) = self.of_address.get_mut(&origin)
                    && same.leave(&self.known, InLine::Silent)
                {
                    self.of_address.remove(&origin);
                }
            }
            Some(InLine::Proved(key)) => {
                if let Some(line) = self.of_key.get_mut(&key)
                    && line.leave(&self.known, InLine::Proved(key))
                {
                    self.of_key.remove(&key);
                }
            }
            None => {}
        }
    }
}

impl Line {
    fn push(&mut self, id: ConnId, first: bool) {
        self.count += 1;
        if first { self.ids.push_front(id) } else { self.ids.push_back(id) }
    }

    /// The oldest one. It stays in the line.
    fn oldest(&mut self, known: &HashMap<ConnId, Standing>, line: InLine) -> Option<ConnId> {
        loop {
            let id = *self.ids.front()?;
            if known.get(&id).is_some_and(|standing| standing.line == Some(line)) {
                return Some(id);
            }
            self.ids.pop_front();
        }
    }

    /// One has left; true if it was the last.
    fn leave(&mut self, known: &HashMap<ConnId, Standing>, line: InLine) -> bool {
        self.count -= 1;
        if self.ids.len() > 2 * self.count + 8 {
            self.ids.retain(|id| known.get(id).is_some_and(|standing| standing.line == Some(line)));
            self.ids.shrink_to(2 * self.count + 8);
        }
        self.count == 0
    }
}

/// Why a stranger failed that ended after so many bytes: one that said nothing has only looked whether the port is
/// open, however it left, and one that left in mid-sentence does not speak our language.
fn unspoken(reason: CloseReason, said_bytes: usize) -> CloseReason {
    match reason {
        CloseReason::Io(fault) if said_bytes == 0 && fault.kind() == io::ErrorKind::ConnectionReset => {
            CloseReason::PeerClosed
        }
        CloseReason::PeerClosed if said_bytes > 0 => CloseReason::Stranger(HandshakeError::NotSkyorg),
        reason => reason,
    }
}

/// Reads a failed stranger and throws away what it says.
pub(super) fn serve_discarding<S: Socket>(all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
    let Some(connection) = all.find(id) else { return };
    let Life::Discarding { reason, left_bytes } = &mut connection.life else { return };
    let reason = *reason;
    while connection.ready.readable && *left_bytes > 0 {
        let raw = &mut buffers.scratch.raw;
        let limit = (*left_bytes as usize).min(raw.len());
        match connection.socket.read(&mut raw[..limit]) {
            Ok(0) => return all.end(id, reason),
            Ok(count) => *left_bytes = left_bytes.saturating_sub(count as u32),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.ready.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return all.end(id, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(serial: u64) -> ConnId {
        ConnId::new(serial as u32, serial).expect("it can be named")
    }

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("an address"), 1000)
    }

    fn strangers(strangers_max: usize, strangers_per_address_max: usize) -> Strangers {
        let limits = Limits {
            strangers_max,
            strangers_per_address_max,
            strangers_per_key_max: 2,
            ..Limits::default()
        };
        Strangers::new(&limits, fastrand::Rng::with_seed(1))
    }

    /// Counts a stranger in; returns the one that made room.
    fn came(strangers: &mut Strangers, serial: u64, ip: &str) -> Option<ConnId> {
        strangers.count_in(id(serial), at(ip));
        strangers.too_many_silent(at(ip)).inspect(|&oldest| strangers.count_out(oldest))
    }

    #[test]
    fn a_look_at_the_port_is_told_from_garbage() {
        let reset = CloseReason::Io(io::ErrorKind::ConnectionReset.into());
        let garbage = CloseReason::Stranger(HandshakeError::NotSkyorg);
        assert_eq!(
            [reset, CloseReason::PeerClosed].map(|reason| unspoken(reason, 0)),
            [CloseReason::PeerClosed; 2]
        );
        assert_eq!([reset, CloseReason::PeerClosed].map(|reason| unspoken(reason, 5)), [reset, garbage]);
    }

    #[test]
    fn the_oldest_silent_stranger_makes_room() {
        let mut strangers = strangers(2, 2);
        assert_eq!(came(&mut strangers, 1, "192.0.2.1"), None);
        assert_eq!(came(&mut strangers, 2, "192.0.2.2"), None);
        assert_eq!(came(&mut strangers, 3, "192.0.2.3"), Some(id(1)));
        strangers.count_out(id(2));
        assert_eq!(came(&mut strangers, 4, "192.0.2.4"), None);
    }

    #[test]
    fn one_address_pushes_out_only_its_own() {
        let mut strangers = strangers(100, 2);
        assert_eq!(came(&mut strangers, 1, "192.0.2.1"), None);
        assert_eq!(came(&mut strangers, 2, "2001:db8::1"), None);
        assert_eq!(came(&mut strangers, 3, "2001:db8::2"), None);
        assert_eq!(came(&mut strangers, 4, "2001:db8:0:0:1::"), Some(id(2)));
        assert_eq!(came(&mut strangers, 5, "2001:db8:0:1::"), None, "another /64 is another address");
    }

    #[test]
    fn one_that_proved_a_secret_is_pushed_out_by_its_own_key_only() {
        let (mut strangers, [key, other]) = (strangers(2, 2), [[1; 16], [2; 16]]);
        for serial in 1..=2 {
            assert_eq!(came(&mut strangers, serial, "192.0.2.1"), None);
            strangers.leave_line(id(serial));
            assert_eq!(strangers.prove(id(serial), key), None);
        }
        for serial in 3..100 {
            came(&mut strangers, serial, "192.0.2.1");
        }
        assert!(strangers.known.contains_key(&id(1)), "the silent do not push it out");
        strangers.leave_line(id(99));
        assert_eq!(strangers.prove(id(99), other), None, "nor does another key");
        strangers.leave_line(id(98));
        assert_eq!(strangers.prove(id(98), key), Some(id(1)));
    }

    #[test]
    fn one_that_failed_is_the_first_to_go() {
        let mut strangers = strangers(2, 2);
        assert_eq!(came(&mut strangers, 1, "192.0.2.1"), None);
        assert_eq!(came(&mut strangers, 2, "192.0.2.2"), None);
        strangers.leave_line(id(2));
        strangers.fail(id(2));
        assert_eq!(came(&mut strangers, 3, "192.0.2.3"), Some(id(2)));
    }

    #[test]
    fn strangers_that_come_and_go_leave_nothing_behind() {
        let mut strangers = strangers(1_000, 1_000);
        assert_eq!(came(&mut strangers, 1, "192.0.2.1"), None);
        for serial in 2..10_000 {
            assert_eq!(came(&mut strangers, serial, "192.0.2.1"), None);
            strangers.leave_line(id(serial));
            assert_eq!(strangers.prove(id(serial), [1; 16]), None);
            strangers.count_out(id(serial));
        }
        assert!(strangers.silent.ids.len() < 20 && strangers.of_address.len() == 1);
        strangers.count_out(id(1));
        assert!(strangers.known.is_empty() && strangers.of_address.is_empty() && strangers.of_key.is_empty());
    }
}
