//! Configurations that come while a world lives, and whom each concerns.
//!
//! A session whose service, key and publication stay loses nothing: the shadow model holds it to that. The sessions of
//! those that go are reset within [`AT_ONCE`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use skyorg::base::address::Listen;
use skyorg::base::id::ConnId;
use skyorg::base::name::Name;
use skyorg::config::policy::{Policy, Services, UserRules};
use skyorg::config::{Key, Policies, ServerConfig, Service};
use skyorg::machine::Fact;
use skyorg::wire::handshake::Secret;

use super::drawn::Settings;
use super::process::{key, server_config};
use super::tale::Coming;
use super::tcp::Time;
use super::world::{CONTROL_PORT, SERVER_IP, SERVICES, request_address};

/// How soon what is not allowed any more has ended.
pub const AT_ONCE: Duration = Duration::from_millis(100);
/// No user is on its way to a port while that may change hands.
const BEFORE: Duration = Duration::from_millis(400);
const AFTER: Duration = Duration::from_millis(100);
/// Ports that services may have, beside their own.
const MORE_PORTS: [u16; 3] = [33_340, 33_341, 33_342];

/// What a server's configuration says in this world.
#[derive(Clone, Debug)]
struct Declared {
    /// Where each service has its users.
    places: [Option<Listen>; SERVICES.len()],
    rules: [UserRules; SERVICES.len()],
    /// Whether each client's key is good.
    keys: Vec<bool>,
    /// What each key may serve, where there are tables.
    tables: Option<Vec<[bool; SERVICES.len()]>>,
    /// A service that cannot be had.
    impossible: bool,
}

impl Declared {
    fn original(clients: usize) -> Declared {
        Declared {
            places: std::array::from_fn(|service| Some(Listen::At(request_address(service)))),
            rules: std::array::from_fn(|_| UserRules::default()),
            keys: vec![true; clients],
            tables: None,
            impossible: false,
        }
    }

    /// Whether users of a service may be served by a client.
    fn serves(&self, client: usize, service: usize) -> bool {
        let table = self.tables.as_ref().is_none_or(|tables| tables[client][service]);
        self.places[service].is_some() && self.keys[client] && table
    }

    fn draw(&self, rng: &mut Rng) -> Declared {
        let mut next = Declared { impossible: rng.u8(..6) == 0, ..self.clone() };
        for _ in 0..rng.usize(1..4) {
            match rng.u8(..6) {
                // Two services swap their places, or one takes another's.
                0 | 1 => next.places.swap(rng.usize(..SERVICES.len()), rng.usize(..SERVICES.len())),
                2 => next.places[rng.usize(..SERVICES.len())] = None,
                3 => {
                    next.keys.iter_mut().for_each(|good| *good = rng.u8(..4) > 0);
                }
                4 => {
                    let table = |rng: &mut Rng| std::array::from_fn(|_| rng.u8(..4) > 0);
                    let tables: Vec<_> = next.keys.iter().map(|_| table(rng)).collect();
                    next.tables = rng.bool().then_some(tables);
                }
                // Rules that are kept by all, and must count all the same.
                _ => {
                    let (users, users_per_address) = (Some(1_000), rng.bool().then_some(100));
                    let rules = UserRules { users, users_per_address, ..UserRules::default() };
                    next.rules[rng.usize(..SERVICES.len())] = rules;
                }
            }
        }
        let own = (0..SERVICES.len()).map(|service| request_address(service).port());
        let ports: Vec<u16> = own.chain(MORE_PORTS).collect();
        for service in 0..SERVICES.len() {
            let taken = |port| next.places.iter().flatten().any(|place| place.port() == port);
            let free: Vec<u16> = ports.iter().copied().filter(|&port| !taken(port)).collect();
            let place = &mut next.places[service];
            match (*place, rng.u8(..4)) {
                (None, 0) => {}
                (None, _) | (Some(_), 0) => *place = Some(at(free[rng.usize(..free.len())])),
                // The same port at all interfaces, or no longer at all of them.
                (Some(Listen::At(address)), 1) => *place = Some(Listen::Any(address.port())),
                (Some(Listen::Any(port)), 1) => *place = Some(at(port)),
                _ => {}
            }
        }
        next
    }

    fn config(&self, settings: &Settings) -> ServerConfig {
        let mut config = server_config(settings);
        let service = |service: usize| {
            let (place, rules) = (self.places[service]?, self.rules[service].clone());
            Some(Service { rules, ..Service::new(name(SERVICES[service]), place) })
        };
        config.services.retain(|it| it.name == name("vacant"));
        config.services.extend((0..SERVICES.len()).filter_map(service));
        if self.impossible {
            config.services.push(Service::new(name("impossible"), at(CONTROL_PORT)));
        }
        for (client, &good) in self.keys.iter().enumerate() {
            let other = Key { secret: Secret::new([0x99; 32]), ..key(client) };
            config.keys[client] = if good { key(client) } else { other };
        }
        if let Some(tables) = &self.tables {
            let policy = |(client, table): (usize, &[bool; SERVICES.len()])| {
                let services = (0..SERVICES.len()).filter(|&it| table[it]).map(|it| name(SERVICES[it]));
                let services = Services::Named(services.collect());
                (key(client).name, Policy { services, ..Policy::default() })
            };
            config.policies = Policies::Each(tables.iter().enumerate().map(policy).collect());
        }
        config
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn at(port: u16) -> Listen {
    Listen::At(SocketAddr::new(SERVER_IP, port))
}

/// What a configuration takes away.
pub struct Gone {
    services: [bool; SERVICES.len()],
    publications: Vec<[bool; SERVICES.len()]>,
}

impl Gone {
    /// Whether a session of this service at this client ends, if it is known where the session is.
    pub fn ends(&self, service: usize, client: Option<usize>) -> bool {
        self.services[service] || client.is_some_and(|client| self.publications[client][service])
    }

    /// Whether it may be a session of this service.
    pub fn concerns(&self, service: usize) -> bool {
        self.publications.iter().any(|client| client[service])
    }
}

/// The configurations of one world.
pub struct Reloads {
    now: Declared,
    asked: Option<Declared>,
    clients: usize,
    /// What is published, by which control connection and key.
    published: BTreeSet<(ConnId, Name, Name)>,
    /// How many took hold, and how many were refused.
    pub outcomes: [usize; 2],
}

impl Reloads {
    pub fn new(clients: usize) -> Reloads {
        let now = Declared::original(clients);
        Reloads { now, asked: None, clients, published: BTreeSet::new(), outcomes: [0; 2] }
    }

    /// The configuration that comes next; the first one again at the end.
    pub fn next(&mut self, last: bool, rng: &mut Rng, settings: &Settings) -> ServerConfig {
        assert!(self.asked.is_none(), "the last one was not answered");
        let next = if last { Declared::original(self.clients) } else { self.now.draw(rng) };
        let config = next.config(settings);
        self.asked = Some(next);
        config
    }

    /// Where users of a service connect now, if there is such a service.
    pub fn address(&self, service: usize) -> Option<SocketAddr> {
        self.now.places[service].map(|place| SocketAddr::new(SERVER_IP, place.port()))
    }

    /// Whether somebody serves a service.
    pub fn is_served(&self, service: usize) -> bool {
        self.published.iter().any(|it| it.2 == name(SERVICES[service]))
    }

    /// What the server tells; returns what a configuration that holds now has taken away.
    pub fn note(&mut self, fact: &Fact) -> Option<Gone> {
        match fact {
            Fact::Published { link, key, service } => {
                self.published.insert((*link, key.clone(), service.clone()));
            }
            Fact::ClientGone { link, .. } => self.published.retain(|it| it.0 != *link),
            Fact::ReloadRefused { .. } => {
                let refused = self.asked.take().expect("it was asked for");
                assert!(refused.impossible, "{fact}: {refused:?}");
                self.outcomes[1] += 1;
            }
            Fact::Reloaded { .. } => {
                let next = self.asked.take().expect("it was asked for");
                assert!(!next.impossible, "{fact}: {next:?}");
                self.outcomes[0] += 1;
                let before = std::mem::replace(&mut self.now, next);
                let lost = |client: usize, service: usize| {
                    before.serves(client, service) && !self.now.serves(client, service)
                };
                let publications: Vec<[bool; SERVICES.len()]> =
                    (0..self.clients).map(|client| std::array::from_fn(|it| lost(client, it))).collect();
                let removed =
                    |service: usize| before.places[service].is_some() && self.now.places[service].is_none();
                let gone = Gone { services: std::array::from_fn(removed), publications };
                let lasts = |it: &(ConnId, Name, Name)| {
                    let client = (0..self.clients).find(|&client| key(client).name == it.1);
                    let service = SERVICES.iter().position(|text| name(text) == it.2);
                    !client.zip(service).is_some_and(|(client, service)| gone.publications[client][service])
                };
                self.published.retain(lasts);
                return Some(gone);
            }
            _ => {}
        }
        None
    }
}

/// Users come for half a minute, and configurations meanwhile. The last one is the first one again.
pub fn coming(rng: &mut Rng) -> Vec<(Time, Coming)> {
    let millis = Duration::from_millis;
    let (mut at, mut reloads) = (millis(3_000), Vec::new());
    while at < millis(33_000) {
        reloads.push(at);
        at += millis(rng.u64(600..5_000));
    }
    let near = |user: Time| reloads.iter().chain([&at]).any(|&at| user + BEFORE > at && user < at + AFTER);
    let users = (0..rng.usize(20..120)).map(|_| millis(rng.u64(2_000..at.as_millis() as u64)));
    let users: Vec<Time> = users.filter(|&user| !near(user)).collect();
    let mut coming: Vec<_> = users.into_iter().map(|at| (at, Coming::User)).collect();
    coming.extend(reloads.into_iter().map(|at| (at, Coming::Reload { last: false })));
    coming.push((at, Coming::Reload { last: true }));
    coming
}
