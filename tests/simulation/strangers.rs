//! Strangers: they connect to the control and message ports, and prove nothing.

use std::io::{ErrorKind, IoSlice};
use std::time::Duration;

use fastrand::Rng;
use skyorg::wire::handshake::{ANSWER_BYTES, HELLO_BYTES};

use super::tcp::{EndId, Kind, Net, Time};

/// What a stranger sends.
#[derive(Clone, Copy, Debug)]
pub enum Approach {
    Silence,
    Garbage(usize),
    /// A hello that was recorded, and garbage after it.
    HelloAndGarbage,
    /// A first flight that was recorded, with one bit flipped.
    Flipped,
    /// A first flight that was recorded, as it was.
    Replay,
}

impl Approach {
    pub fn draw(rng: &mut Rng) -> Approach {
        match rng.u8(..8) {
            0 => Approach::Silence,
            1 => Approach::Garbage(rng.usize(..300)),
            2 => Approach::HelloAndGarbage,
            3 => Approach::Flipped,
            _ => Approach::Replay,
        }
    }
}

pub struct Stranger {
    pub end: EndId,
    kind: Kind,
    says: Vec<u8>,
    /// Most bytes that it may be answered.
    allowed: usize,
    answered: usize,
    came: Time,
    /// When the server took it, if the server was there.
    leaves: Time,
    gone: bool,
}

/// A stranger is closed by the server in five seconds; the world waits no longer than this for it.
const STAY: Duration = Duration::from_secs(30);

impl Stranger {
    pub fn new(net: &mut Net, end: EndId, kind: Kind, approach: Approach) -> Stranger {
        let recorded: Vec<&Vec<u8>> =
            net.recorded.iter().filter(|it| it.0 == kind).map(|(_, flight)| flight).collect();
        let flight = net.rng.choice(recorded).cloned().unwrap_or_default();
        let mut garbage: Vec<u8> = (0..300).map(|_| net.rng.u8(..)).collect();
        let mut allowed = 0;
        let says = match approach {
            Approach::Silence => Vec::new(),
            Approach::Garbage(count) => garbage[..count.min(300)].to_vec(),
            Approach::HelloAndGarbage => {
                let hello = &flight[..HELLO_BYTES.min(flight.len())];
                garbage.splice(..0, hello.iter().copied());
                garbage
            }
            Approach::Flipped => {
                let mut flipped = flight;
                if !flipped.is_empty() {
                    let place = net.rng.usize(..flipped.len());
                    flipped[place] ^= 1 << net.rng.u8(..8);
                }
                flipped
            }
            Approach::Replay => {
                // A control handshake can be replayed, and its answer tells nothing without the secret. A
                // message handshake is good once.
                if kind == Kind::Control && !flight.is_empty() {
                    allowed = ANSWER_BYTES;
                }
                flight
            }
        };
        let (came, leaves) = (net.now, net.now + STAY.mul_f64(net.rng.f64()));
        Stranger { end, kind, says, allowed, answered: 0, came, leaves, gone: false }
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn step(&mut self, net: &mut Net) -> Option<Time> {
        if self.gone {
            return None;
        }
        if !matches!(net.is_connected(self.end), Ok(true)) {
            self.gone = net.now >= self.leaves;
        } else {
            self.talk(net);
        }
        if self.gone || net.now >= self.leaves {
            self.gone = true;
            net.close(self.end, false);
            return None;
        }
        Some(self.leaves)
    }

    fn talk(&mut self, net: &mut Net) {
        while !self.says.is_empty() {
            match net.write(self.end, &[IoSlice::new(&self.says)]) {
                Ok(count) => drop(self.says.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.gone = true,
            }
        }
        let mut buffer = [0; 1024];
        loop {
            match net.read(self.end, &mut buffer) {
                Ok(0) => return self.gone = true,
                Ok(count) => {
                    self.answered += count;
                    assert!(
                        self.answered <= self.allowed,
                        "a stranger on the {:?} port that came at {:?} was answered {} bytes",
                        self.kind,
                        self.came,
                        self.answered
                    );
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.gone = true,
            }
        }
    }
}
