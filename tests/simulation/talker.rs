//! Users and local servers: parties that talk over one connection, by a script that the seed wrote.

use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use super::shadow::{Ended, Shadow, Side, byte};
use super::tcp::{EndId, Net, Time};

/// Longest stream of one party, in bytes.
const STREAM_BYTES_MAX: u64 = 300 * 1024;

/// Where a user comes from, hostile ones aside.
pub fn user_address(number: usize) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, number as u8), 40_000).into()
}

/// How a party ends what it says.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// FIN when everything is said.
    FinWhenSent,
    /// FIN after the other's.
    FinAfterEnd,
    /// FIN after so many bytes received, whatever is still to say.
    FinAfter(u64),
    /// Closes after so many bytes received: by FIN, or by RST if something was unread.
    CloseAfter(u64),
    /// RST after so many bytes sent.
    ResetSent(u64),
    /// RST after so many bytes received.
    ResetReceived(u64),
    /// Leaves so long after it came.
    Leave(Duration, bool),
    /// Breaks off so long after it came, and says no end before that, whatever it hears.
    Stay(Duration),
}

#[derive(Clone, Debug)]
pub struct Script {
    /// Bytes said unasked.
    pub first: u64,
    /// Whether as many bytes are answered as come.
    pub echo: bool,
    /// Bytes said after the other's end.
    pub tail: u64,
    pub ending: Ending,
    pub chunk: usize,
    pub pause: Duration,
    pub read_chunk: usize,
    pub read_pause: Duration,
    /// Silence after which a party ends what it says in any case.
    pub patience: Duration,
}

impl Script {
    /// A party that says so many bytes, and ends whole.
    pub fn plain(first: u64, echo: bool, ending: Ending) -> Script {
        Script {
            first,
            echo,
            tail: 0,
            ending,
            chunk: 1000,
            pause: Duration::ZERO,
            read_chunk: 4096,
            read_pause: Duration::ZERO,
            patience: Duration::from_secs(9),
        }
    }

    /// A party that says a little, is quiet for so long each time, and ends whole.
    pub fn quiet(pause: Duration) -> Script {
        Script { chunk: 100, pause, ..Script::plain(300, false, Ending::FinWhenSent) }
    }

    /// A party that says a little every few seconds, for minutes, and ends whole.
    pub fn lasting() -> Script {
        let pause = Duration::from_secs(3);
        Script { chunk: 100, pause, ..Script::plain(5_000, false, Ending::FinWhenSent) }
    }

    /// The same as fast as it can, and as much as proves to be bulk unless `bytes_max` is less.
    pub fn bulk(bytes_max: u64, echo: bool, ending: Ending) -> Script {
        let script = Script::plain(STREAM_BYTES_MAX.min(bytes_max), echo, ending);
        Script { chunk: 64 * 1024, read_chunk: 64 * 1024, ..script }
    }

    pub fn random(rng: &mut Rng, side: Side, bytes_max: u64) -> Script {
        let bytes = |rng: &mut Rng| match rng.u8(..8) {
            0 | 1 => 0,
            2..=5 => rng.u64(1..2_000),
            6 => rng.u64(1..40_000),
            _ => rng.u64(1..STREAM_BYTES_MAX),
        };
        let size = |rng: &mut Rng| bytes(rng).min(bytes_max);
        let near = size(rng);
        let ending = match rng.u8(..20) {
            0..=7 => Ending::FinWhenSent,
            8..=13 => Ending::FinAfterEnd,
            14 => Ending::FinAfter(near),
            15 => Ending::CloseAfter(near),
            16 => Ending::ResetSent(near),
            17 => Ending::ResetReceived(near),
            18 => Ending::Leave(Duration::from_millis(rng.u64(..3_000)), rng.bool()),
            _ => Ending::FinWhenSent,
        };
        let millis =
            |rng: &mut Rng, most: u64| Duration::from_millis(if rng.bool() { 0 } else { rng.u64(..most) });
        let mut script = Script {
            first: size(rng),
            echo: side == Side::Local && rng.u8(..4) > 0,
            tail: if rng.u8(..4) == 0 { size(rng) } else { 0 },
            ending,
            chunk: if rng.bool() { 1 + rng.usize(..64 * 1024) } else { 200 + rng.usize(..3_000) },
            pause: millis(rng, 40),
            read_chunk: 1_000 + rng.usize(..64 * 1024),
            read_pause: millis(rng, 40),
            patience: Duration::from_millis(rng.u64(4_000..12_000)),
        };
        // No party talks for minutes.
        if script.chunk < 500 {
            script.pause = Duration::ZERO;
        }
        script
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Connecting,
    Talking,
    Gone,
}

/// One party in the middle of its script.
pub struct Talker {
    pub side: Side,
    pub number: usize,
    pub end: EndId,
    pub script: Script,
    life: Life,
    pub came: Time,
    /// When it received its first byte.
    pub first_byte: Option<Time>,
    moved: Time,
    may_send_at: Time,
    may_read_at: Time,
    saw_end: bool,
}

impl Talker {
    pub fn new(side: Side, number: usize, end: EndId, script: Script, now: Time) -> Talker {
        let life = if side == Side::User { Life::Connecting } else { Life::Talking };
        let [moved, may_send_at, may_read_at] = [now; 3];
        Talker {
            side,
            number,
            end,
            script,
            life,
            came: now,
            first_byte: None,
            moved,
            may_send_at,
            may_read_at,
            saw_end: false,
        }
    }

    pub fn is_gone(&self) -> bool {
        self.life == Life::Gone
    }

    /// Goes on with the script as far as possible now. Returns when to be called again at the latest.
    pub fn step(&mut self, net: &mut Net, shadow: &mut Shadow) -> Option<Time> {
        if self.life == Life::Connecting {
            match net.is_connected(self.end) {
                Ok(true) => self.life = Life::Talking,
                Ok(false) if net.now < self.came + self.script.patience => {
                    return Some(self.came + self.script.patience);
                }
                Ok(false) | Err(_) => {
                    self.life = Life::Gone;
                    shadow.party(self.side, self.number).aborted = true;
                    net.close(self.end, true);
                }
            }
        }
        self.read(net, shadow);
        self.write(net, shadow);
        self.end(net, shadow);
        if self.is_gone() {
            return None;
        }
        let mut times = vec![self.moved + self.script.patience];
        times.extend([self.may_read_at, self.may_send_at]);
        if let Ending::Leave(after, _) | Ending::Stay(after) = self.script.ending {
            times.push(self.came + after);
        }
        times.into_iter().filter(|&at| at > net.now).min()
    }

    fn read(&mut self, net: &mut Net, shadow: &mut Shadow) {
        let mut buffer = vec![0; self.script.read_chunk];
        while self.life == Life::Talking && !self.saw_end && net.now >= self.may_read_at {
            match net.read(self.end, &mut buffer) {
                Ok(0) => {
                    self.saw_end = true;
                    self.moved = net.now;
                    shadow.ended(self.side, self.number, Ended::Whole);
                }
                Ok(count) => {
                    self.first_byte.get_or_insert(net.now);
                    self.moved = net.now;
                    self.may_read_at = net.now + self.script.read_pause;
                    shadow.received(self.side, self.number, &buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.broken(net, shadow),
            }
        }
    }

    fn broken(&mut self, net: &mut Net, shadow: &mut Shadow) {
        if !self.saw_end {
            shadow.ended(self.side, self.number, Ended::Broken);
        }
        self.leave(net, shadow, true);
    }

    fn leave(&mut self, net: &mut Net, shadow: &mut Shadow, reset: bool) {
        self.life = Life::Gone;
        let fin = net.close(self.end, reset);
        let party = shadow.party(self.side, self.number);
        party.finished |= fin;
        // What arrives now is answered by RST, and that may overtake what was said.
        party.aborted |= !fin || !self.saw_end;
    }

    /// What may be said by now, in all.
    fn sayable(&self, shadow: &mut Shadow) -> u64 {
        let Script { first, echo, tail, .. } = self.script;
        let received = shadow.party(self.side, self.number).received;
        first + if echo { received } else { 0 } + if self.saw_end { tail } else { 0 }
    }

    fn write(&mut self, net: &mut Net, shadow: &mut Shadow) {
        while self.life == Life::Talking && net.now >= self.may_send_at {
            let sent = shadow.party(self.side, self.number).sent;
            let mut most = self.sayable(shadow);
            if let Ending::ResetSent(at) = self.script.ending {
                most = most.min(at);
            }
            let count = most.saturating_sub(sent).min(self.script.chunk as u64);
            if count == 0 || shadow.party(self.side, self.number).finished {
                return;
            }
            let bytes: Vec<u8> =
                (sent..sent + count).map(|offset| byte(self.side, self.number, offset)).collect();
            match net.write(self.end, &[IoSlice::new(&bytes)]) {
                Ok(count) => {
                    shadow.party(self.side, self.number).sent += count as u64;
                    self.moved = net.now;
                    self.may_send_at = net.now + self.script.pause;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It may still have something to read, or an end to see.
                Err(_) if !self.saw_end => {
                    self.script.ending = Ending::FinAfterEnd;
                    (self.script.first, self.script.echo, self.script.tail) = (0, false, 0);
                    shadow.party(self.side, self.number).aborted = true;
                    self.may_read_at = net.now;
                    return self.after_write_failed(net, shadow);
                }
                Err(_) => return self.leave(net, shadow, true),
            }
        }
    }

    /// The connection is dead: reads what is left, and the error is told already.
    fn after_write_failed(&mut self, net: &mut Net, shadow: &mut Shadow) {
        let mut buffer = [0; 4096];
        loop {
            match net.read(self.end, &mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // After an error that writing was told, an end proves nothing.
                Ok(0) | Err(_) => return self.broken(net, shadow),
                Ok(count) => shadow.received(self.side, self.number, &buffer[..count]),
            }
        }
    }

    fn end(&mut self, net: &mut Net, shadow: &mut Shadow) {
        if self.life != Life::Talking {
            return;
        }
        let party = shadow.party(self.side, self.number);
        let (sent, received, finished) = (party.sent, party.received, party.finished);
        let said = sent >= self.sayable(shadow);
        let bored = net.now >= self.moved + self.script.patience;
        let fin = match self.script.ending {
            Ending::FinWhenSent => said,
            Ending::FinAfterEnd => said && self.saw_end,
            Ending::FinAfter(at) => received >= at || self.saw_end,
            Ending::CloseAfter(at) if received >= at || self.saw_end => {
                return self.leave(net, shadow, false);
            }
            Ending::ResetSent(at) if sent >= at => return self.leave(net, shadow, true),
            Ending::ResetReceived(at) if received >= at => return self.leave(net, shadow, true),
            Ending::Leave(after, reset) if net.now >= self.came + after => {
                return self.leave(net, shadow, reset);
            }
            Ending::Stay(after) if net.now >= self.came + after => return self.leave(net, shadow, true),
            Ending::Stay(_) => return,
            _ => self.saw_end && said,
        };
        if (fin || bored) && !finished {
            self.moved = net.now;
            if net.shutdown_write(self.end).is_ok() {
                shadow.party(self.side, self.number).finished = true;
            } else {
                return self.broken(net, shadow);
            }
        }
        if self.saw_end && shadow.party(self.side, self.number).finished {
            self.leave(net, shadow, false);
        }
    }
}
