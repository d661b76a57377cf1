//! Hostile users, strangers and clients: one kind is drawn in each world, and what it does goes on until the faults
//! of that world are over. `served.rs` says who must be served meanwhile.
//!
//! The counts are small, and so are the limits of the processes in these worlds: a few dozen connections fill here what
//! thousands fill in the open.

pub mod clients;
pub mod crowd;
pub mod servers;
pub mod users;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use skyorg::config::limits::Limits;

use crate::process::{HOSTILE_KEY, client_address, key};
use crate::tcp::{Net, Time};
use crate::world::{CONTROL_PORT, MESSAGE_PORT, SERVER_IP, VACANT_PORT};
use clients::{Conduct, HostileClient, Swallowed};
use crowd::{Crowd, Habit};

/// What besieges a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users of one address wait at a service that nobody serves: more than may wait.
    Waiting,
    /// Users of one address connect to that service and break off at once.
    Leaping,
    /// Users of one address, see [`users::Conduct`].
    Users(users::Conduct),
    /// Strangers of one address, at the control and message ports; or of the victim's own address.
    Strangers(Habit, bool),
    /// So many clients with a key of their own; or with the victim's.
    Clients(Conduct, usize, bool),
}

/// Connections of a crowd, and clients of one who brings many.
const CROWD: usize = 40;
const WAITING: usize = 150;
const CLIENTS: usize = 10;

/// A link that has not served a session goes behind the others for this time, from when the server knows.
const BEHIND: Duration = Duration::from_secs(10);
/// How much later a session may still arrive that was given to it before.
const BEHIND_SLACK: Duration = Duration::from_millis(400);

/// Links at once, and those that one of three keys may have.
const LINKS: usize = 8;
const LINKS_OF_KEY: usize = LINKS - 2;

/// The limits of a besieged world: what a crowd fills, and the honest do not.
pub fn besieged(limits: Limits) -> Limits {
    Limits {
        users_max: 140,
        links_max: LINKS,
        // Fewer than one address may have of all users.
        waiting_max: 96,
        messages_per_client_max: 400,
        strangers_max: 48,
        strangers_per_address_max: 16,
        strangers_per_key_max: 16,
        room: 600,
        ..limits
    }
}

impl Kind {
    /// The kind that besieges a world.
    pub fn draw(rng: &mut Rng) -> Kind {
        let conducts = [
            Conduct::Pings,
            Conduct::Refuses,
            Conduct::NeverStarts,
            Conduct::NeverDials,
            Conduct::Mute,
            Conduct::Fickle,
            Conduct::Returns,
        ];
        let users = [users::Conduct::Lingers, users::Conduct::Leaps, users::Conduct::Deaf];
        let habits = [Habit::Silent, Habit::Leaps, Habit::Replays, Habit::Babbles];
        match rng.u8(..8) {
            0 => [Kind::Waiting, Kind::Leaping][rng.usize(..2)],
            1 => Kind::Users(users[rng.usize(..3)]),
            2 | 3 => Kind::Strangers(habits[rng.usize(..4)], rng.bool()),
            _ => {
                let count = [1, 2, CLIENTS][rng.usize(..3)];
                Kind::Clients(conducts[rng.usize(..conducts.len())], count, rng.bool())
            }
        }
    }

    /// A client of the victim's key may be refused a link while another holds all of that key's.
    pub fn takes_victims_links(self) -> bool {
        matches!(self, Kind::Clients(_, CLIENTS, true))
    }
}

/// What goes on in a besieged world.
pub struct Siege {
    crowd: Option<Crowd>,
    clients: Vec<HostileClient>,
    /// Users whom a hostile client was given and did not serve: they alone may be lost.
    pub swallowed: Vec<Swallowed>,
    /// When one of them acts by itself.
    pub due: Option<Time>,
}

impl Siege {
    /// It begins at `from`.
    pub fn new(kind: Kind, plain: bool, from: Time, mut rng: Rng) -> Siege {
        let doors = [MESSAGE_PORT, CONTROL_PORT].map(|port| SocketAddr::new(SERVER_IP, port));
        let vacant = [SocketAddr::new(SERVER_IP, VACANT_PORT)];
        let away: SocketAddr = (Ipv4Addr::new(203, 0, 113, 66), 40_000).into();
        let mut siege = Siege { crowd: None, clients: Vec::new(), swallowed: Vec::new(), due: Some(from) };
        let mut gather = |habit, count, address, doors: &[SocketAddr]| {
            Some(Crowd::new(habit, count, address, doors, from, rng.fork()))
        };
        match kind {
            Kind::Waiting => siege.crowd = gather(Habit::Silent, WAITING, away, &vacant),
            Kind::Leaping => siege.crowd = gather(Habit::Leaps, CROWD, away, &vacant),
            Kind::Users(_) => siege.due = None,
            Kind::Strangers(habit, near) => {
                siege.crowd = gather(habit, CROWD, if near { client_address(0) } else { away }, &doors);
            }
            Kind::Clients(conduct, count, stolen) => {
                let secret = key(if stolen { 0 } else { HOSTILE_KEY }).secret;
                for number in 0..count {
                    let from = from + Duration::from_millis(rng.u64(..500));
                    let (conduct, secret) = ((number, conduct), secret.clone());
                    let client = HostileClient::new(conduct, secret, away, plain, from, rng.fork());
                    siege.clients.push(client);
                }
            }
        }
        siege
    }

    /// Lets all act who may. `has_room` says that the honest could have been given any user that comes now.
    pub fn step(&mut self, net: &mut Net, has_room: bool) {
        let before = self.swallowed.len();
        self.act(net);
        for index in before..self.swallowed.len() {
            let Swallowed { at, link, .. } = self.swallowed[index];
            let earlier = self.swallowed[..before].iter().find(|it| it.link == link);
            let behind = earlier.is_some_and(|it| {
                let known = it.at + it.known_after + BEHIND_SLACK;
                (known..it.at + it.known_after + BEHIND).contains(&at)
            });
            assert!(
                !(behind && has_room),
                "a client that failed is not behind the others: {:?}",
                self.swallowed
            );
        }
    }

    fn act(&mut self, net: &mut Net) {
        let crowd = self.crowd.as_mut().and_then(|crowd| crowd.step(net));
        let Siege { clients, swallowed, .. } = self;
        let clients = clients.iter_mut().map(|client| client.step(net, swallowed)).min();
        self.due = crowd.into_iter().chain(clients).min();
    }

    /// It is over.
    pub fn end(&mut self, net: &mut Net) {
        self.crowd.take().into_iter().for_each(|mut crowd| crowd.leave(net));
        self.clients.drain(..).for_each(|mut client| client.leave(net));
        self.due = None;
    }

    /// Links that hostile clients may have at once.
    pub fn links(&self) -> usize {
        self.clients.len().min(LINKS_OF_KEY)
    }

    /// When a hostile client was first given this user and did not serve it.
    pub fn swallowed(&self, user: SocketAddr) -> bool {
        self.swallowed.iter().any(|it| it.user == user)
    }
}
