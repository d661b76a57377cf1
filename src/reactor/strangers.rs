//! Connections at the control and message ports that have proved nothing yet: how many there may be, what they are
//! read, and how they are answered or not.
//!
//! Nothing here decides which stranger is admitted: the machine is asked, with what was read and proved so far.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::buffers::Buffers;
use super::connections::{Connections, Kind, Life, Message};
use super::control::Control;
use super::greeting::{Progress, read_exact};
use super::world::network::{Network, Socket};
use crate::base::id::ConnId;
use crate::config::limits::Limits;
use crate::machine::{CloseReason, Input, LINK_RANDOM_BYTES, Proof};
use crate::session::End;
use crate::wire::handshake::{
    ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, HandshakeError, Purpose, Responder, Secret,
};
use crate::wire::record::Channel;

/// Bytes that a failed stranger may still send before its connection is no longer read.
const DISCARDED_BYTES_MAX: u32 = 64 * 1024;

/// The server's half of a handshake in progress.
pub(super) struct Stranger {
    since: Instant,
    flight: [u8; FIRST_FLIGHT_BYTES],
    filled: usize,
    responder: Option<Responder>,
    purpose: Purpose,
}

impl Stranger {
    pub fn new(since: Instant) -> Stranger {
        let (flight, purpose) = ([0; FIRST_FLIGHT_BYTES], Purpose::Message);
        Stranger { since, flight, filled: 0, responder: None, purpose }
    }
}

/// An address by which strangers are counted. An IPv6 host owns at least a /64, so a /64 counts as one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Origin(u128);

impl Origin {
    fn of(peer: SocketAddr) -> Origin {
        Origin(match peer.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        })
    }
}

/// The strangers, oldest first: how many there may be, in all and per address.
///
/// A queue may hold ids of strangers that have left. They are dropped when they come to its front, or when they
/// outnumber those that stay. So the cost of counting one in or out does not depend on how many there are.
pub(super) struct Strangers {
    counted: HashMap<ConnId, Origin>,
    queue: VecDeque<ConnId>,
    of_address: HashMap<Origin, Counted>,
    max: usize,
    per_address_max: usize,
    discard: (Duration, Duration),
    jitter: fastrand::Rng,
}

#[derive(Default)]
struct Counted {
    count: usize,
    queue: VecDeque<ConnId>,
}

impl Strangers {
    pub fn new(limits: &Limits, jitter: fastrand::Rng) -> Strangers {
        Strangers {
            counted: HashMap::new(),
            queue: VecDeque::new(),
            of_address: HashMap::new(),
            max: limits.strangers_max.max(1),
            per_address_max: limits.strangers_per_address_max.max(1),
            discard: (limits.stranger_min, limits.handshake),
            jitter,
        }
    }

    /// Counts a stranger in; returns the one that must make room.
    pub fn count_in(&mut self, id: ConnId, peer: SocketAddr) -> Option<ConnId> {
        let origin = Origin::of(peer);
        self.counted.insert(id, origin);
        self.queue.push_back(id);
        let same = self.of_address.entry(origin).or_default();
        same.count += 1;
        same.queue.push_back(id);
        let oldest = if same.count > self.per_address_max {
            oldest(&mut same.queue, &self.counted)
        } else if self.counted.len() > self.max {
            oldest(&mut self.queue, &self.counted)
        } else {
            None
        };
        oldest.inspect(|&id| self.count_out(id))
    }

    /// Counts a stranger out, if it is counted.
    pub fn count_out(&mut self, id: ConnId) {
        let Some(origin) = self.counted.remove(&id) else { return };
        if let Some(same) = self.of_address.get_mut(&origin) {
            same.count -= 1;
            if same.count == 0 {
                self.of_address.remove(&origin);
            } else {
                tidy(&mut same.queue, &self.counted, same.count);
            }
        }
        let count = self.counted.len();
        tidy(&mut self.queue, &self.counted, count);
    }

    /// Reads a first flight, and has the machine judge it once it is whole.
    pub fn serve<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId) {
        let Some(connection) = all.open(id) else { return };
        let Kind::Stranger(stranger) = &mut connection.kind else { return };
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
            (Progress::Over(reason), _) => self.discard(all, id, reason),
            (Progress::Whole, Some(Ok(hello))) => {
                stranger.purpose = hello.purpose;
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
        let proved = match stranger.flight.first_chunk::<HELLO_BYTES>() {
            Some(clear) => {
                ClearHello::decode(clear).and_then(|hello| Responder::verify(hello, secret, &stranger.flight))
            }
            None => Err(HandshakeError::NotSkyorg),
        };
        match proved {
            Ok((responder, ticket)) => {
                stranger.responder = Some(responder);
                let proof = match stranger.purpose {
                    Purpose::Message => Proof::Message { ticket },
                    Purpose::Control => {
                        let mut random = Zeroizing::new([0; LINK_RANDOM_BYTES]);
                        if let Err(error) = network.random(&mut *random) {
                            return self.discard(all, id, CloseReason::Io(error.kind()));
                        }
                        Proof::control(&random)
                    }
                };
                all.tell(Input::Proved { id, proof });
            }
            Err(error) => self.discard(all, id, CloseReason::Stranger(error)),
        }
    }

    /// Answers a stranger. The connection is now what it came to be.
    pub fn admit<S: Socket>(
        &mut self,
        all: &mut Connections<S>,
        buffers: &mut Buffers<S>,
        id: ConnId,
        plain: bool,
    ) {
        let Some(connection) = all.open(id) else { return };
        let Kind::Stranger(stranger) = &mut connection.kind else { return };
        let purpose = stranger.purpose;
        let Some((answer, proved)) = stranger.responder.take().and_then(|it| it.answer().ok()) else {
            return all.end(id, CloseReason::Stranger(HandshakeError::Unproved));
        };
        connection.kind = match purpose {
            Purpose::Control => Kind::Control(Box::new(Control::new(proved))),
            Purpose::Message => Kind::Message(Message::new(End::Server, Channel::new(proved, plain))),
        };
        buffers.send_bytes(all, id, &answer);
        // A control connection's first flight may be a recording: it stays a stranger until its first frame.
        if purpose == Purpose::Message {
            self.count_out(id);
            all.set_deadline(id, None);
        }
        all.queue(id);
    }

    /// Says nothing to a stranger that failed, and closes it at a time that tells nothing.
    pub fn discard<S: Socket>(&mut self, all: &mut Connections<S>, id: ConnId, reason: CloseReason) {
        let since = match all.open(id).map(|connection| &connection.kind) {
            Some(Kind::Stranger(stranger)) => stranger.since,
            _ => return all.end(id, reason),
        };
        let (least, most) = self.discard;
        let pause = least + most.saturating_sub(least).mul_f64(self.jitter.f64());
        if let Some(connection) = all.find(id) {
            connection.life = Life::Discarding { reason, left_bytes: DISCARDED_BYTES_MAX };
        }
        let at = (since + pause).max(all.now);
        all.set_deadline(id, Some(at));
        all.queue(id);
    }
}

/// Takes the oldest one that is still counted.
fn oldest(queue: &mut VecDeque<ConnId>, counted: &HashMap<ConnId, Origin>) -> Option<ConnId> {
    loop {
        let id = queue.pop_front()?;
        if counted.contains_key(&id) {
            return Some(id);
        }
    }
}

/// Drops ids that have left, once they are more than those that stay.
fn tidy(queue: &mut VecDeque<ConnId>, counted: &HashMap<ConnId, Origin>, count: usize) {
    if queue.len() > 2 * count + 8 {
        queue.retain(|id| counted.contains_key(id));
        queue.shrink_to(2 * count + 8);
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
        let limits = Limits { strangers_max, strangers_per_address_max, ..Limits::default() };
        Strangers::new(&limits, fastrand::Rng::with_seed(1))
    }

    #[test]
    fn the_oldest_stranger_makes_room() {
        let mut strangers = strangers(2, 2);
        assert_eq!(strangers.count_in(id(1), at("192.0.2.1")), None);
        assert_eq!(strangers.count_in(id(2), at("192.0.2.2")), None);
        assert_eq!(strangers.count_in(id(3), at("192.0.2.3")), Some(id(1)));
        strangers.count_out(id(2));
        assert_eq!(strangers.count_in(id(4), at("192.0.2.4")), None);
    }

    #[test]
    fn one_address_pushes_out_only_its_own() {
        let mut strangers = strangers(100, 2);
        assert_eq!(strangers.count_in(id(1), at("192.0.2.1")), None);
        assert_eq!(strangers.count_in(id(2), at("2001:db8::1")), None);
        assert_eq!(strangers.count_in(id(3), at("2001:db8::2")), None);
        assert_eq!(strangers.count_in(id(4), at("2001:db8:0:0:1::")), Some(id(2)));
        assert_eq!(strangers.count_in(id(5), at("2001:db8:0:1::")), None, "another /64 is another address");
    }

    #[test]
    fn strangers_that_come_and_go_leave_nothing_behind() {
        let mut strangers = strangers(1_000, 1_000);
        assert_eq!(strangers.count_in(id(1), at("192.0.2.1")), None);
        for serial in 2..10_000 {
            assert_eq!(strangers.count_in(id(serial), at("192.0.2.1")), None);
            strangers.count_out(id(serial));
        }
        assert!(strangers.queue.len() < 20 && strangers.of_address.len() == 1);
        strangers.count_out(id(1));
        assert!(strangers.counted.is_empty() && strangers.of_address.is_empty());
    }
}
