//! Users, and how many of them may be let in.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::refused::Refused;
use crate::base::address::{Origin, PackedAddress};
use crate::base::id::{ConnId, HolderId, LinkId, PublicationId, ServiceId, kind};
use crate::base::sorted::by_rank;
use crate::base::table::Table;
use crate::machine::{Agenda, Output};
use crate::wire::control::PublicationNumber;
use crate::wire::frame::{Sid, Start};

/// A user.
pub(super) struct User {
    pub service: ServiceId,
    peer: PackedAddress,
    asked: PackedAddress,
    /// Microseconds from the first user that ever came: half as long as an `Instant`.
    since_us: u64,
    /// Its number in the logs of both sides.
    pub number: u64,
    /// The link that its session was sent to, and its first number there.
    pub first: Option<(LinkId, Sid)>,
    /// The publication by which it was served last. It may have been withdrawn since.
    pub served_by: Option<PublicationId>,
    /// The key that it counts for: a client that holds it serves it, was offered it, or is to be.
    pub charged: Option<HolderId>,
    /// It may go to no other link than `first`: bytes of it were sent.
    pub tied: bool,
    /// It is counted as one that waits: no message connection is its own yet, or any more.
    pub waits: bool,
    /// It has said all that it will, some bytes, and had got none by then.
    pub has_ended: bool,
    /// Its local server has taken it. With the above: it was counted as one that sent bytes and got none.
    pub is_taken: bool,
    /// Boxed, because few users are refused and live on.
    pub refused: Option<Box<Refused>>,
}

impl User {
    pub fn new(service: ServiceId, peer: SocketAddr, asked: SocketAddr, number: u64) -> User {
        let (peer, asked) = (peer.into(), asked.into());
        User {
            service,
            peer,
            asked,
            since_us: 0,
            number,
            first: None,
            served_by: None,
            charged: None,
            tied: false,
            waits: false,
            has_ended: false,
            is_taken: false,
            refused: None,
        }
    }

    /// It came, and has been offered to nobody yet.
    pub fn is_new(&self) -> bool {
        self.served_by.is_none()
    }

    /// Where it comes from.
    pub fn peer(&self) -> SocketAddr {
        self.peer.into()
    }

    /// The port that it connected to.
    pub fn asked_port(&self) -> u16 {
        SocketAddr::from(self.asked).port()
    }

    /// What a client is told as its session begins on this link, with the next number of that link. If the client
    /// asked for ports, `first_port` is the first of them.
    pub fn start(
        &mut self,
        link: LinkId,
        sid: Sid,
        publication: PublicationNumber,
        first_port: Option<u16>,
    ) -> Start {
        let first_sid = match self.first {
            Some((first, sid)) if first == link => sid,
            _ => 0,
        };
        if first_sid == 0 {
            self.first = Some((link, sid));
        }
        let (user, asked, number): (_, SocketAddr, _) = (self.peer.into(), self.asked.into(), self.number);
        let port_offset = first_port.map_or(0, |first| asked.port().wrapping_sub(first));
        Start { sid, first_sid, publication, port_offset, user, asked, number }
    }
}

/// Places for users.
///
/// One key of several that have clients may have all until three quarters are taken. From then on one that has more
/// than a quarter gets no other. The same holds for one address, among the places that one key may have: so an address
/// takes them neither from other keys nor from other users of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub taken: usize,
    pub most: usize,
}

impl Places {
    /// Whether the last one of these is more than who has them may have.
    pub fn is_beyond_share(self, own: usize) -> bool {
        self.taken > self.most / 4 * 3 && own > (self.most / 4).max(1)
    }
}

/// All users. Those that come from this host are of no address: what connects from it may stand for many.
#[derive(Default)]
pub(super) struct Users {
    table: Table<kind::Connection, User>,
    /// When the first one came.
    began: Option<Instant>,
    of_address: HashMap<Origin, usize>,
    most: usize,
}

impl Users {
    /// So many users may be let in at once.
    pub fn limit(&mut self, most: usize, agenda: &mut Agenda) {
        if std::mem::replace(&mut self.most, most) != most {
            agenda.push(Output::LimitUsers(most));
        }
    }

    /// Whether there are as many as may be, and fewer than were asked for.
    pub fn is_short(&self, asked: usize) -> bool {
        self.most < asked && self.table.len() >= self.most
    }

    /// A user comes now.
    pub fn insert(&mut self, id: ConnId, mut user: User, now: Instant) {
        let began = *self.began.get_or_insert(now);
        user.since_us = now.saturating_duration_since(began).as_micros() as u64;
        if let Some(origin) = counted(&user) {
            *self.of_address.entry(origin).or_default() += 1;
        }
        self.table.insert(id, user);
    }

    pub fn remove(&mut self, id: ConnId) -> Option<User> {
        let user = self.table.remove(id)?;
        if let Some(origin) = counted(&user)
            && let Some(count) = self.of_address.get_mut(&origin)
        {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&origin);
            }
        }
        Some(user)
    }

    /// The address that a user counts for.
    pub fn origin(&self, id: ConnId) -> Option<Origin> {
        self.table.get(id).and_then(counted)
    }

    /// Whether a user that has just come takes more than its address may have.
    /// Several keys may share all places.
    pub fn is_beyond_share(&self, id: ConnId, are_shared: bool) -> bool {
        let Some(origin) = self.origin(id) else { return false };
        let own = self.of_address.get(&origin).copied().unwrap_or(0);
        let Places { taken, most } = self.places();
        Places { taken, most: if are_shared { most / 4 * 3 } else { most } }.is_beyond_share(own)
    }

    pub fn places(&self) -> Places {
        Places { taken: self.table.len(), most: self.most }
    }

    /// The users of a service, the oldest first. All users are looked at.
    pub fn of_service(&self, service: ServiceId) -> Vec<ConnId> {
        let of_service = self.table.iter().filter(|(_, user)| user.service == service);
        by_rank(of_service.map(|(id, _)| id), |id| id.serial()).collect()
    }

    /// When a user came.
    pub fn came(&self, user: &User) -> Option<Instant> {
        self.began.map(|began| began + Duration::from_micros(user.since_us))
    }

    /// How long a user has been there.
    pub fn lasted(&self, user: &User, now: Instant) -> Duration {
        self.came(user).map_or(Duration::ZERO, |came| now.saturating_duration_since(came))
    }

    /// A user has said all that it will, and has got nothing so far. Returns what leaves it without an answer, once.
    pub fn ended(&mut self, id: ConnId) -> Option<PublicationId> {
        let user = self.table.get_mut(id)?;
        let is_news = !std::mem::replace(&mut user.has_ended, true);
        user.served_by.filter(|_| is_news && user.is_taken)
    }

    /// A user's local server has taken it. Returns what leaves it without an answer, if it had said all by then.
    pub fn taken(&mut self, id: ConnId) -> Option<PublicationId> {
        let user = self.table.get_mut(id)?;
        user.is_taken = true;
        user.served_by.filter(|_| user.has_ended)
    }

    pub fn get(&self, id: ConnId) -> Option<&User> {
        self.table.get(id)
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut User> {
        self.table.get_mut(id)
    }

    pub fn contains(&self, id: ConnId) -> bool {
        self.table.contains(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &User)> {
        self.table.iter()
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

/// The address that a user counts for; none if it comes from this host.
fn counted(user: &User) -> Option<Origin> {
    let peer = user.peer();
    (!peer.ip().to_canonical().is_loopback()).then(|| Origin::of(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_a_quarter_to_others() {
        let (now, service) = (Instant::now(), ServiceId::new(0, 1).expect("it can be named"));
        let mut users = Users { most: 100, ..Users::default() };
        let mut come = |serial: u64, ip: [u8; 4]| {
            let id = ConnId::new(serial as u32, serial).expect("it can be named");
            users.insert(id, User::new(service, (ip, 1).into(), (ip, 2).into(), serial), now);
            let taken = !users.is_beyond_share(id, false);
            if !taken {
                users.remove(id);
            }
            taken
        };
        let hog = (1..=200).filter(|&serial| come(serial, [192, 0, 2, 1])).count();
        assert_eq!(hog, 75);
        let other = (201..=400).filter(|&serial| come(serial, [192, 0, 2, 2])).count();
        assert_eq!(other, 25);
        assert!((401..=500).all(|serial| come(serial, [127, 0, 0, 1])), "this host is exempt");
        (1..=500).for_each(|serial| {
            users.remove(ConnId::new(serial as u32, serial).expect("it can be named"));
        });
        assert!(users.of_address.is_empty());
    }
}
