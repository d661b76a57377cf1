//! The shadow model of who must be served while a world is besieged, and how soon.
//!
//! Users of the service [`STEADY`](super::world::STEADY) and its local servers speak plainly: what a user says comes
//! back to it. So it can be told of each one whether it was served, and when it was. Nobody is lost and nobody waits
//! longer than [`Served::within`], unless
//! - a fault of the world had struck before the user left, or calls may fail in this world;
//! - the user's life touched the time in which the victim's client, killed and started again, may be away;
//! - a hostile client was given the user and swallowed it, or lost its link with it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use skyorg::machine::{CloseReason, Fact};

use super::process::client_address;
use super::tcp::{Shape, Time};

/// What comes on top of alone's bound while a world is besieged.
const SLACK: Duration = Duration::from_millis(100);
/// What is asked of a client that was killed: it serves again in five round trips and this.
const BACK: Duration = Duration::from_secs(1);

/// A steady user's life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub came: Time,
    pub gone: Time,
    /// When its first byte came back.
    pub first_byte: Option<Time>,
    /// All came back.
    pub whole: bool,
}

/// The model; see the module.
pub struct Served {
    /// Longest time from a user's connect to its first byte.
    within: Duration,
    /// How long a client that was killed may be away.
    back: Duration,
    /// A fault has struck.
    struck: bool,
    /// The last time in which the victim's client was away.
    away: Option<(Time, Time)>,
    /// Users who were lost with the link of a hostile client.
    lost_with_link: HashSet<SocketAddr>,
}

impl Served {
    pub fn new(shape: &Shape, hostile_links: usize) -> Served {
        let way = shape.delay + shape.jitter;
        let local = shape.local_delay + shape.name_delay;
        Served {
            // Alone: connect, Start, the local connection and its bytes there and back are eight ways, and a message
            // connection that must be dialled first takes six more. What is read in pieces takes a few more turns.
            // Each hostile link may refuse a user twice.
            within: (14 + 4 * hostile_links as u32) * way + local + SLACK,
            back: 10 * way + BACK,
            // A local server that takes nearly as long as the client waits for it is a fault of its own.
            struck: shape.accept_errors > 0.0 || local > Duration::from_secs(4),
            away: None,
            lost_with_link: HashSet::new(),
        }
    }

    /// A fault strikes.
    pub fn strike(&mut self) {
        self.struck = true;
    }

    /// The victim's client is killed, and starts again at `back`.
    pub fn killed(&mut self, now: Time, back: Time) {
        self.away = Some((now, back + self.back));
    }

    /// A fault has struck, or the victim's client was killed.
    pub fn is_disturbed(&self) -> bool {
        self.struck || self.away.is_some()
    }

    fn is_excused(&self, life: &Life) -> bool {
        self.struck || self.away.is_some_and(|(from, until)| life.came < until && life.gone >= from)
    }

    /// The server tells something.
    pub fn note(&mut self, fact: &Fact) {
        match fact {
            // The honest have not lost their links, see below.
            Fact::UserLeft { user, reason: CloseReason::LinkLost, .. } => {
                self.lost_with_link.insert(*user);
            }
            Fact::ClientGone { reason: CloseReason::KeyRevoked, .. } => {}
            Fact::ClientGone { peer, reason, .. } if is_honest(*peer) => {
                assert!(self.is_disturbed(), "the client at {peer} lost its link: {reason}");
            }
            _ => {}
        }
    }

    /// A steady user has left.
    pub fn judge(&mut self, user: SocketAddr, life: Life, swallowed: bool) {
        if self.is_excused(&life) || swallowed || self.lost_with_link.contains(&user) {
            return;
        }
        assert!(life.whole, "steady user {user} is lost: {life:?}");
        let waited = life.first_byte.expect("it has all its bytes") - life.came;
        assert!(waited <= self.within, "steady user {user} waited {waited:?}, not {:?}", self.within);
    }
}

fn is_honest(peer: SocketAddr) -> bool {
    (0..2).any(|client| client_address(client).ip() == peer.ip())
}
