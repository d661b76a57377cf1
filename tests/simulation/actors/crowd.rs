//! Crowds: many connections from one address, by people who hold no key. Each that is closed comes again.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use skyorg::wire::handshake::ANSWER_BYTES;

use crate::tcp::{EndId, Host, Kind, Net, Time};

/// How long one that was closed stays away, in milliseconds.
const AWAY_MS: std::ops::Range<u64> = 20..100;
/// How long one waits for a connection to stand.
const CONNECTS_MAX: Duration = Duration::from_secs(5);

/// What a member does once its connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Says nothing.
    Silent,
    /// Breaks off at once.
    Leaps,
    /// Repeats a first flight that was recorded at that port.
    Replays,
    /// Says what means nothing.
    Babbles,
}

struct Member {
    end: Option<EndId>,
    to: SocketAddr,
    /// It stands, and has said what it has to say.
    said: bool,
    /// Bytes that it may be answered.
    allowed: usize,
    /// When it acts again by itself.
    at: Time,
}

/// One crowd.
pub struct Crowd {
    habit: Habit,
    from: SocketAddr,
    members: Vec<Member>,
    rng: Rng,
}

impl Crowd {
    /// So many, from this address, at these doors in turn. All come in the first moment from `at` on.
    pub fn new(
        habit: Habit,
        count: usize,
        from: SocketAddr,
        doors: &[SocketAddr],
        at: Time,
        mut rng: Rng,
    ) -> Crowd {
        let doors = doors.iter().copied().cycle().take(count);
        let members = doors.map(|to| {
            let at = at + Duration::from_millis(rng.u64(AWAY_MS));
            Member { end: None, to, said: false, allowed: 0, at }
        });
        Crowd { habit, from, members: members.collect(), rng }
    }

    /// Lets all act who may; returns when one acts next by itself.
    pub fn step(&mut self, net: &mut Net) -> Option<Time> {
        for index in 0..self.members.len() {
            self.act(index, net);
        }
        self.members.iter().map(|member| member.at).min()
    }

    fn act(&mut self, index: usize, net: &mut Net) {
        let member = &mut self.members[index];
        match member.end {
            None if member.at <= net.now => {
                member.end = Some(net.connect(Host::Outside, self.from, member.to));
                (member.said, member.at) = (false, net.now + CONNECTS_MAX);
            }
            None => {}
            Some(end) => {
                let over = match net.is_connected(end) {
                    Ok(true) => !self.talk(index, end, net),
                    Ok(false) => self.members[index].at <= net.now,
                    Err(_) => true,
                };
                if over {
                    net.close(end, true);
                    let away = Duration::from_millis(self.rng.u64(AWAY_MS));
                    let member = &mut self.members[index];
                    (member.end, member.at) = (None, net.now + away);
                }
            }
        }
    }

    /// A connection stands; false if it is over.
    fn talk(&mut self, index: usize, end: EndId, net: &mut Net) -> bool {
        if !std::mem::replace(&mut self.members[index].said, true) {
            if self.habit == Habit::Leaps {
                return false;
            }
            let (says, allowed) = self.words(net, end);
            let member = &mut self.members[index];
            (member.allowed, member.at) = (allowed, Time::MAX);
            // What does not fit is not said.
            if !says.is_empty() && net.write(end, &[IoSlice::new(&says)]).is_err() {
                return false;
            }
        }
        let mut buffer = [0; 256];
        loop {
            match net.read(end, &mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    let left = self.members[index].allowed.checked_sub(count);
                    self.members[index].allowed = left.expect("strangers get no answer");
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// What is said on this connection, and how many bytes may be answered.
    fn words(&mut self, net: &Net, end: EndId) -> (Vec<u8>, usize) {
        let kind = net.ends[end].kind;
        match self.habit {
            Habit::Silent | Habit::Leaps => (Vec::new(), 0),
            Habit::Babbles => ((0..self.rng.usize(1..300)).map(|_| self.rng.u8(..)).collect(), 0),
            Habit::Replays => {
                let recorded = net.recorded.iter().filter(|it| it.0 == kind).map(|it| &it.1);
                let flight = self.rng.choice(recorded.collect::<Vec<_>>()).cloned().unwrap_or_default();
                // A server that has not seen it, because another was there, answers it without letting anyone in.
                (flight, if kind == Kind::Control { ANSWER_BYTES } else { 0 })
            }
        }
    }

    /// All leave.
    pub fn leave(&mut self, net: &mut Net) {
        for end in self.members.drain(..).filter_map(|member| member.end) {
            net.close(end, true);
        }
    }
}
