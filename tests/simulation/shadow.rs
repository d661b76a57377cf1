//! The shadow model: which party said each byte, and which ends are true.
//!
//! Every stream, a user's and a local server's, has bytes that only it can have said: the first is its number, the
//! others follow from side, number and offset. So the receiver of a byte can tell at once which party must have sent
//! it, and the model holds the pairs together: one user, one proxy connection, both ways, for ever.

use std::collections::{BTreeSet, VecDeque};

use super::reloads::Gone;
use super::world::SERVICES;

/// Numbers that a first byte can say.
const NUMBERS: usize = 256;

/// Which side of the tunnel a party stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    User,
    Local,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::User => Side::Local,
            Side::Local => Side::User,
        }
    }
}

/// The byte at `offset` of a stream.
pub fn byte(side: Side, number: usize, offset: u64) -> u8 {
    if offset == 0 {
        return number as u8;
    }
    let mut mixed = (offset / 8) ^ ((number as u64) << 40) ^ ((side as u64) << 56);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> (8 * (offset % 8))) as u8
}

/// How the stream that a party receives has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By an end: it must be whole.
    Whole,
    /// By an error.
    Broken,
}

/// A user, or a local server's end of one proxy connection.
#[derive(Debug, Default)]
pub struct Party {
    pub service: usize,
    /// Of a local server: the client that reaches it.
    pub client: Option<usize>,
    /// This model does not say whether it must be served: it means no good, or another model says it.
    pub apart: bool,
    /// Bytes handed to its kernel.
    pub sent: u64,
    /// It said that this was all, by FIN.
    pub finished: bool,
    /// It broke off, or may have made its kernel send RST.
    pub aborted: bool,
    pub received: u64,
    pub ended: Option<Ended>,
    /// The party whose bytes it received, or that received its bytes.
    pub bound: Option<usize>,
}

#[derive(Default)]
pub struct Shadow {
    users: Vec<Party>,
    locals: Vec<Party>,
    /// Connections of ours, and the network itself, were left alone so far: no stream may be broken without cause.
    pub strict: bool,
    /// Probes reach local servers: those see connections without a byte that no user made.
    pub probed: bool,
    /// Empty streams that ended whole, by side and service.
    empty: BTreeSet<(Side, usize)>,
    /// Local servers' ends of connections that are over, and over which no byte came: the oldest first. A number is used
    /// again when all are taken.
    silent: VecDeque<usize>,
    /// Empty streams of those whose numbers were used again, by service.
    forgotten: [usize; SERVICES.len()],
}

impl Shadow {
    pub fn new(strict: bool) -> Shadow {
        Shadow { strict, ..Shadow::default() }
    }

    fn parties(&mut self, side: Side) -> &mut Vec<Party> {
        match side {
            Side::User => &mut self.users,
            Side::Local => &mut self.locals,
        }
    }

    pub fn party(&mut self, side: Side, number: usize) -> &mut Party {
        &mut self.parties(side)[number]
    }

    /// Local servers of a client's service to which connections stand, and the users whose bytes they got.
    pub fn served_by(&self, client: usize, service: usize) -> Vec<(Side, usize)> {
        let locals = self.locals.iter().enumerate().filter(|(_, it)| {
            (it.client, it.service) == (Some(client), service) && it.ended.is_none() && !it.aborted
        });
        locals
            .flat_map(|(number, it)| {
                let user = it.bound.map(|user| (Side::User, user));
                user.into_iter().chain([(Side::Local, number)])
            })
            .collect()
    }

    /// Numbers a new party.
    pub fn enter(&mut self, side: Side, service: usize) -> usize {
        if side == Side::Local && self.locals.len() == NUMBERS {
            let is_unbound = |&number: &usize| self.locals[number].bound.is_none();
            let number = std::iter::from_fn(|| self.silent.pop_front()).find(is_unbound);
            let number = number.expect("the first byte of a stream is its number");
            let before = std::mem::replace(&mut self.locals[number], Party { service, ..Party::default() });
            self.forgotten[before.service] += usize::from(before.finished && before.sent == 0);
            return number;
        }
        let parties = self.parties(side);
        assert!(parties.len() < NUMBERS, "the first byte of a stream is its number");
        parties.push(Party { service, ..Party::default() });
        parties.len() - 1
    }

    /// What these services and clients were for is gone: from now on the model does not say what becomes of the sessions
    /// that may be concerned. Returns the users whose sessions must be.
    pub fn end_some(&mut self, gone: &Gone) -> Vec<usize> {
        let mut ended = Vec::new();
        for number in 0..self.users.len() {
            let (service, bound) = (self.users[number].service, self.users[number].bound);
            let client = bound.and_then(|local| self.locals[local].client);
            let ends = gone.ends(service, client);
            if ends {
                ended.push(number);
            }
            self.users[number].apart |= ends || bound.is_none() && gone.concerns(service);
        }
        for local in 0..self.locals.len() {
            let party = &self.locals[local];
            let user_ends = party.bound.is_some_and(|user| self.users[user].apart);
            let ends = gone.ends(party.service, party.client);
            self.locals[local].apart |= ends || user_ends;
        }
        for number in 0..self.users.len() {
            let local_ends = self.users[number].bound.is_some_and(|local| self.locals[local].apart);
            self.users[number].apart |= local_ends;
        }
        ended
    }

    /// Whoever is there may lose its session from now on.
    pub fn set_all_apart(&mut self) {
        self.users.iter_mut().chain(&mut self.locals).for_each(|party| party.apart = true);
    }

    /// A party received these bytes.
    pub fn received(&mut self, side: Side, number: usize, bytes: &[u8]) {
        let before = self.party(side, number).received;
        if before == 0 {
            self.bind(side, number, usize::from(bytes[0]));
        }
        let service = self.party(side, number).service;
        let from = self.party(side, number).bound.expect("bound by its first byte");
        for (place, &found) in bytes.iter().enumerate() {
            let wanted = byte(side.other(), from, before + place as u64);
            assert_eq!(
                found,
                wanted,
                "{side:?} {number}: byte {} is not what {from} sent there",
                before + place as u64
            );
        }
        let party = self.party(side, number);
        party.received += bytes.len() as u64;
        let received = party.received;
        let source = self.party(side.other(), from);
        assert!(received <= source.sent, "{side:?} {number} received more than {from} sent");
        assert_eq!(source.service, service, "{side:?} {number} is of another service than {from}");
    }

    fn bind(&mut self, side: Side, number: usize, from: usize) {
        assert!(
            from < self.parties(side.other()).len(),
            "{side:?} {number}: a first byte that no party sent ({from})"
        );
        for (side, number, other) in [(side, number, from), (side.other(), from, number)] {
            let bound = *self.party(side, number).bound.get_or_insert(other);
            assert_eq!(bound, other, "{side:?} {number} has bytes to do with two of the other side");
        }
    }

    /// The stream that a party receives has ended.
    pub fn ended(&mut self, side: Side, number: usize, ended: Ended) {
        let strict = self.strict;
        let party = self.party(side, number);
        assert_eq!(party.ended, None, "{side:?} {number} ends once");
        party.ended = Some(ended);
        let (received, service, bound) = (party.received, party.service, party.bound);
        let strict = strict && !party.apart;
        if side == Side::Local && bound.is_none() {
            self.silent.push_back(number);
            if self.probed {
                return;
            }
        }
        match (ended, bound) {
            (Ended::Whole, Some(from)) => {
                let source = self.party(side.other(), from);
                assert!(source.finished, "{side:?} {number} saw an end that {from} never made");
                assert_eq!(source.sent, received, "{side:?} {number} saw an end before all that {from} sent");
            }
            (Ended::Whole, None) => {
                // A user that says nothing but FIN may be offered to a second local server, or late to the first,
                // because it has no byte that could arrive twice.
                let mut others = self.parties(side.other()).iter();
                let made = others.any(|it| it.service == service && it.finished && it.sent == 0);
                assert!(made, "{side:?} {number} saw an end of a stream that no party ended empty");
                self.empty.insert((side, number));
            }
            (Ended::Broken, Some(from)) if strict => {
                let cause = self.party(side.other(), from).aborted;
                assert!(cause, "{side:?} {number} was broken off, and {from} had not done it");
            }
            (Ended::Broken, None) if strict => {
                let mut others = self.parties(side.other()).iter();
                let cause = others.any(|it| it.service == service && it.bound.is_none() && it.aborted);
                assert!(cause, "{side:?} {number} was broken off, and no party had done it");
            }
            (Ended::Broken, _) => {}
        }
    }

    /// What holds at the end of a world: no more users saw an empty stream end than local servers made.
    pub fn check_empty_ends(&mut self) {
        for service in 0..SERVICES.len() {
            let seen = self
                .empty
                .iter()
                .filter(|&&(side, number)| side == Side::User && self.users[number].service == service);
            let made = self.locals.iter().filter(|it| it.finished && it.sent == 0 && it.service == service);
            let made = made.count() + self.forgotten[service];
            assert!(seen.count() <= made, "more users saw an empty stream end than there were");
        }
    }
}
