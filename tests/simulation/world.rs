//! A world: one server, its clients, users, local servers, strangers and faults, on one virtual clock.
//!
//! The processes are the product's own reactors and machines. Each is turned when its network has events for it or
//! when the time has come that it asked for in its last poll; nothing happens in between, so minutes pass in
//! milliseconds. What a world does follows from its seed alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use skyorg::config::ClientConfig;
use skyorg::config::client_difference::ClientDifference;
use skyorg::machine::status::PublicationState;

use super::actors::{Siege, servers, users};
use super::drawn::{Drawn, Settings};
use super::faults::{self, Fault};
use super::process::{Process, client_config, drawn_config, key};
use super::reloads::{AT_ONCE, Gone, Reloads};
use super::served::{Life, Served};
use super::shadow::{Ended, Shadow, Side};
use super::strangers::{Approach, Stranger};
use super::tale::{Coming, Tale};
use super::talker::{Ending, Script, Talker, user_address};
use super::tcp::{EndId, Host, Kind, Listener, Net, Time};
use super::trace;

pub const MESSAGE_PORT: u16 = 33334;
pub const CONTROL_PORT: u16 = 33335;
pub const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Users of the last one are steady: they, and what they reach, speak plainly.
pub const SERVICES: [&str; 3] = ["default", "other", "steady"];
pub const STEADY: usize = 2;
/// The one that clients give up and take up again, where they get other configurations.
pub const REMOVED: usize = 1;
/// A publication that is removed has lost its sessions after this time.
const REMOVAL: Duration = Duration::from_millis(100);
/// Users get what was on its way to them before that; whether it has arrived is looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// Where users connect to a service that nobody serves.
pub const VACANT_PORT: u16 = 33338;

/// After the faults are over, every user must be served or refused in this time.
pub const PATIENCE: Duration = Duration::from_secs(400);
/// In this time the pool is as it was: what a burst left over is retired.
const RECOVERY: Duration = Duration::from_secs(260);

/// Where users of a service connect.
pub fn request_address(service: usize) -> SocketAddr {
    SocketAddr::new(SERVER_IP, [33333, 33336, 33337][service])
}

/// Where a client finds the local server of a service, and another one after a reload.
pub fn local_address(client: usize, service: usize, another: bool) -> SocketAddr {
    (Ipv4Addr::new(10, 0, client as u8, 2 + u8::from(another)), 8080 + service as u16).into()
}

/// A proof is good for a minute, and what proves it may have taken some time to be told.
const PROVED_FOR: Duration = Duration::from_secs(80);

/// What is known of proofs.
#[derive(Default)]
struct Proofs {
    /// When the local server of a client's service last took a connection.
    taken: BTreeMap<(usize, usize), Time>,
    /// When they are looked at next.
    next: Time,
}

enum Actor {
    Talker(Box<Talker>),
    Stranger(Box<Stranger>),
}

/// What each steady user does.
fn steady_script() -> Script {
    Script::plain(500, false, Ending::FinWhenSent)
}

/// A user who talks for some seconds.
fn flowing(rng: &mut Rng) -> Script {
    let script = Script::plain(rng.u64(1_000..150_000), false, Ending::FinWhenSent);
    Script { chunk: 1_000, pause: Duration::from_millis(rng.u64(1..40)), ..script }
}

pub struct World {
    net: Rc<RefCell<Net>>,
    rng: Rng,
    base: Instant,
    settings: Settings,
    processes: Vec<Process>,
    /// What each client runs with.
    configs: Vec<ClientConfig>,
    actors: BTreeMap<usize, Actor>,
    timers: BTreeMap<(Time, usize), ()>,
    coming: Vec<(Time, Coming)>,
    shadow: Shadow,
    siege: Option<Siege>,
    misled_by: Option<servers::HostileServer>,
    served: Served,
    reloads: Reloads,
    bytes_max: u64,
    tale: Tale,
    /// The longest time from a user's coming to its leaving.
    pub longest_stay: Duration,
    /// The longest time from a user's coming to its first byte, of those who had to be served.
    pub longest_wait: Duration,
    /// When the first user came.
    first_came: Option<Time>,
    /// When a user first got a byte.
    first_served: Option<Time>,
    /// All users have left; only fresh ones come.
    fresh: bool,
    proofs: Proofs,
}

impl World {
    pub fn new(seed: u64) -> World {
        World::tell(seed, Tale::Anything)
    }

    /// Splices that moved bytes, and those that the kernel refused.
    pub fn spliced(&self) -> [usize; 2] {
        self.net.borrow().spliced
    }

    /// From the coming of the first user to the first byte that one gets.
    pub fn first_wait(&self) -> Option<Duration> {
        Some(self.first_served? - self.first_came?)
    }

    /// Between a client and the server and back, while nothing waits.
    pub fn round_trip(&self) -> Duration {
        let net = self.net.borrow();
        net.shape.round_trip_max() + net.line.round_trip(Time::ZERO)
    }

    /// Configurations that took hold, and those that were refused.
    pub fn reloads(&self) -> [usize; 2] {
        self.reloads.outcomes
    }

    /// A world in which one thing goes wrong, and what is promised then.
    pub fn tell(seed: u64, tale: Tale) -> World {
        let Drawn { mut rng, clients, shape, line, settings, coming, siege, strict, bytes_max } =
            Drawn::new(seed, tale);
        let served = Served::new(&shape, siege.as_ref().map_or(0, Siege::links));
        let net = Rc::new(RefCell::new(Net::new(Rng::with_seed(rng.u64(..)), shape, line)));
        let mut world = World {
            net,
            rng,
            base: Instant::now(),
            settings,
            processes: Vec::new(),
            configs: Vec::new(),
            actors: BTreeMap::new(),
            timers: BTreeMap::new(),
            coming,
            shadow: Shadow::new(strict),
            siege,
            misled_by: None,
            served,
            reloads: Reloads::new(clients),
            bytes_max,
            tale,
            longest_stay: Duration::ZERO,
            longest_wait: Duration::ZERO,
            first_came: None,
            first_served: None,
            fresh: false,
            proofs: Proofs::default(),
        };
        world.shadow.probed = world.settings.probes;
        // So long an outage may cost the link.
        let outage = world.net.borrow().line.outage();
        if outage.is_some_and(|(from, until)| until - from > world.settings.limits.heartbeat) {
            world.served.strike();
        }
        for client in 0..clients {
            world.configs.push(client_config(client, &world.settings).0);
            let both = (0..SERVICES.len()).flat_map(|service| [(service, false), (service, true)]);
            for (service, another) in both {
                let listener = Listener {
                    host: Host::Outside,
                    slot: (client * SERVICES.len() + service) as u32,
                    backlog: Default::default(),
                    refuses: None,
                };
                world.net.borrow_mut().listeners.insert(local_address(client, service, another), listener);
            }
        }
        let hosts = [Host::Server].into_iter().chain((0..clients).map(Host::Client));
        world.processes = hosts.map(Process::new).collect();
        if tale == Tale::Misled {
            let (plain, rng) = (world.settings.plain, world.rng.fork());
            world.misled_by =
                Some(servers::HostileServer::new(&mut world.net.borrow_mut(), plain, seed, rng));
        }
        for index in usize::from(tale == Tale::Misled)..world.processes.len() {
            world.start(index);
        }
        world
    }

    fn start(&mut self, index: usize) {
        let rng = Rng::with_seed(self.rng.u64(..));
        self.processes[index].start(&self.net, self.base, &self.settings, rng);
    }

    fn clients(&self) -> usize {
        self.processes.iter().filter(|process| matches!(process.host, Host::Client(_))).count()
    }

    fn now(&self) -> Time {
        self.net.borrow().now
    }

    /// Lives from the first user to the last check.
    pub fn live(&mut self) {
        while !self.coming.is_empty() {
            let until = self.coming.last().map_or(Time::ZERO, |entry| entry.0);
            self.advance(until, |_| false);
            self.come();
        }
        if self.tale.is_of_a_line() {
            let end = self.now() + PATIENCE;
            self.advance(end, |world| world.actors.is_empty());
        } else if !matches!(
            self.tale,
            Tale::Anything
                | Tale::Failed
                | Tale::Unspliced
                | Tale::SlowName
                | Tale::Replaced
                | Tale::Republished
                | Tale::Forbidden
                | Tale::Misled
                | Tale::Nameless
                | Tale::Moved
                | Tale::Reloaded
        ) {
            // A server outlasts a client whose line may be down: two heartbeats and a third.
            let wait_s = if self.tale == Tale::Gone { 75 } else { 40 };
            let end = self.now() + Duration::from_secs(wait_s);
            self.advance(end, |_| false);
        }
        if self.tale == Tale::Gone {
            assert_eq!(self.processes[0].connection_count(), 0, "connections of clients that are gone");
        }
        if let Some(siege) = &mut self.siege {
            siege.end(&mut self.net.borrow_mut());
        }
        self.relent();
        let end = self.now() + PATIENCE;
        self.advance(end, |world| world.actors.is_empty());
        for actor in self.actors.values() {
            if let Actor::Talker(talker) = actor {
                panic!("{:?} {} hangs: {:?}", talker.side, talker.number, talker.script);
            }
        }
        self.shadow.check_empty_ends();
        let end = self.now() + RECOVERY;
        self.advance(end, |_| false);
        self.check_whole("after all users left", 0);
        self.expect_proofs("after all users left");
        if self.shadow.strict && self.tale == Tale::Anything {
            let clients = self.clients();
            assert_eq!(self.net.borrow().controls, clients, "control connections, and nothing went wrong");
        }
        self.serve_fresh_users();
        self.shadow.check_empty_ends();
        // What was left of the fresh users is over.
        let end = self.now() + Duration::from_secs(30);
        self.advance(end, |_| false);
        self.processes.iter_mut().for_each(Process::check_counts);
    }

    /// A user that comes after all faults is served like the first one.
    fn serve_fresh_users(&mut self) {
        (self.shadow.strict, self.fresh) = (true, true);
        for (service, name) in SERVICES.iter().enumerate() {
            let number = self.user(service, Script::plain(500, false, Ending::FinWhenSent));
            let end = self.now() + Duration::from_secs(20);
            self.advance(end, |world| world.actors.is_empty());
            let party = self.shadow.party(Side::User, number);
            let served = party.ended == Some(Ended::Whole) && party.received == 500;
            assert!(served, "a fresh user of {} is not served: {party:?}", name);
        }
        let end = self.now() + Duration::from_secs(1);
        self.advance(end, |_| false);
        self.check_whole("after the last users", SERVICES.len());
    }

    /// Each client has its control connection and its pool, and `surplus` more at most; the server has the same, and
    /// there is nothing else.
    fn check_whole(&mut self, when: &str, surplus: usize) {
        let clients = self.clients();
        let pool = self.settings.limits.pool;
        let net = self.net.borrow();
        let open = |kind| net.open(kind).len();
        let probes = if self.settings.probes { clients * SERVICES.len() } else { 0 };
        assert_eq!(open(Kind::User), 0, "users {when}");
        assert!(open(Kind::Proxy) <= probes, "proxies {when}: {}", open(Kind::Proxy));
        // Where the message port failed, message connections went to the control port.
        assert!(open(Kind::Control) >= clients, "control connections {when}");
        let messages = open(Kind::Message) + open(Kind::Control) - clients;
        // A probe leaves one place to users, and may be on its way.
        let (pool, surplus) = match self.settings.probes {
            true => (pool.max(2), surplus + clients),
            false => (pool, surplus),
        };
        let wanted = clients * pool..=clients * pool + surplus;
        assert!(wanted.contains(&messages), "message connections {when}: {messages}, not {wanted:?}");
        let (server, others) = self.processes.split_first().expect("the server comes first");
        let counted: usize = others.iter().map(Process::connection_count).sum();
        assert_eq!(server.connection_count(), clients + messages, "connections of the server {when}");
        let counted_wanted = clients + messages..=clients + messages + probes;
        assert!(
            counted_wanted.contains(&counted),
            "connections of the clients {when}: {counted}, not {counted_wanted:?}"
        );
    }

    /// Lets time pass until `until` or until `done`.
    fn advance(&mut self, until: Time, done: impl Fn(&World) -> bool) {
        while !done(self) {
            self.net.borrow_mut().deliver_due();
            let order = self.rng.usize(..=self.processes.len());
            for turn in 0..=self.processes.len() {
                match (turn + order) % (self.processes.len() + 1) {
                    0 => self.act(),
                    index => self.turn(index - 1),
                }
            }
            let net = self.net.borrow();
            let mut next = until;
            next = next.min(net.next_due().unwrap_or(until));
            next = next.min(self.misled_by.as_ref().map_or(until, |server| server.due));
            next = next.min(self.siege.as_ref().and_then(|siege| siege.due).unwrap_or(until));
            next = next.min(self.timers.first_key_value().map_or(until, |(&(at, _), ())| at));
            for process in &self.processes {
                next = next.min(process.due(&net).unwrap_or(until));
            }
            let outside = net.kernels[Host::Outside.index()].has_events();
            let now = net.now;
            drop(net);
            self.check_proofs();
            if outside || next <= now {
                if now >= until {
                    return;
                }
                continue;
            }
            self.net.borrow_mut().now = next;
            trace::set_now(next);
            if next >= until {
                return;
            }
        }
    }

    /// Nothing is said to be proved that no local server has taken a connection of lately.
    fn check_proofs(&mut self) {
        let now = self.now();
        if !self.settings.probes || now < self.proofs.next {
            return;
        }
        self.proofs.next = now + Duration::from_secs(1);
        if now.as_secs() % 60 < 20 {
            self.processes[0].look(now);
        }
        for shown in self.processes[0].services(self.base + now) {
            let text = shown.name.as_str();
            let Some(service) = SERVICES.iter().position(|name| *name == text) else { continue };
            for it in shown.publications {
                let key = |client: &usize| key(*client).name == it.key;
                let Some(client) = (0..self.clients()).find(key) else { continue };
                let taken = self.proofs.taken.get(&(client, service));
                if it.state == PublicationState::Proven {
                    let taken = *taken.unwrap_or_else(|| panic!("{text} is proved by nothing"));
                    assert!(now < taken + PROVED_FOR, "{text} is proved at {now:?} by {taken:?}");
                }
            }
        }
    }

    /// All that clients publish is proved.
    fn expect_proofs(&self, when: &str) {
        if !self.settings.probes {
            return;
        }
        let shown = self.processes[0].services(self.base + self.now());
        for text in SERVICES {
            let shown = shown.iter().find(|it| it.name.as_str() == text).expect("it is shown");
            let own = shown
                .publications
                .iter()
                .filter(|it| (0..self.clients()).any(|client| key(client).name == it.key));
            let states: Vec<_> = own.map(|it| &it.state).collect();
            let is_proved = |state: &&PublicationState| **state == PublicationState::Proven;
            assert!(
                states.len() == self.clients() && states.iter().all(is_proved),
                "{text} {when}: {states:?}"
            );
        }
    }

    fn turn(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.note_events(&self.net, &mut self.rng);
        let starts = process.turn(&self.net, &mut self.rng);
        let facts = std::mem::take(&mut process.facts);
        for fact in facts.iter().filter(|_| index == 0) {
            if let Some(gone) = self.reloads.note(fact) {
                self.reloaded(&gone);
            }
        }
        facts.iter().for_each(|fact| self.served.note(fact));
        if starts {
            self.start(index);
        }
    }

    /// Another configuration holds: the sessions of what it has taken away must be reset at once.
    fn reloaded(&mut self, gone: &Gone) {
        let ended = self.shadow.end_some(gone);
        let of_user = |actor: &Actor| match actor {
            Actor::Talker(talker) if talker.side == Side::User => Some((talker.number, talker.end)),
            _ => None,
        };
        let users = self.actors.values().filter_map(of_user).filter(|it| ended.contains(&it.0));
        let ends: Vec<EndId> = users.map(|it| it.1 ^ 1).collect();
        trace!(self.now(), "sessions that must end: {ends:?}");
        self.later(AT_ONCE, Coming::Reset(ends));
    }

    // Users and strangers come.

    fn come(&mut self) {
        let now = self.now();
        while let Some((_, coming)) = self.coming.pop_if(|entry| entry.0 <= now) {
            match coming {
                Coming::User => {
                    let service = self.rng.usize(..STEADY);
                    if self.reloads.address(service).is_none() {
                        continue;
                    }
                    let script = match self.tale {
                        Tale::Republished => flowing(&mut self.rng),
                        Tale::Anything | Tale::Replaced | Tale::Reloaded => {
                            Script::random(&mut self.rng, Side::User, self.bytes_max)
                        }
                        Tale::Unspliced => Script::bulk(self.bytes_max, false, Ending::FinWhenSent),
                        _ => self.patient(Script::plain(500, false, Ending::FinWhenSent)),
                    };
                    self.user(service, script);
                }
                Coming::Bulk => {
                    let script = Script::bulk(self.bytes_max, false, Ending::FinWhenSent);
                    self.user(0, self.patient(script));
                }
                Coming::Quiet(pause) => {
                    self.user(0, self.patient(Script::quiet(pause)));
                }
                Coming::Lasting => {
                    self.user(0, self.patient(Script::lasting()));
                }
                Coming::Forget { restart } => {
                    self.shadow.set_all_apart();
                    let mut net = self.net.borrow_mut();
                    for kind in [Kind::Control, Kind::Message] {
                        faults::strike(&mut net, &Fault::Hole { kind, share: 1.0 });
                    }
                    drop(net);
                    if restart {
                        let back = now + Duration::from_millis(self.rng.u64(..2_000));
                        self.processes[0].crash(&self.net, true, back);
                    }
                }
                Coming::Steady => {
                    let number = self.user(STEADY, steady_script());
                    self.shadow.party(Side::User, number).apart = true;
                }
                Coming::Hostile(script) => self.hostile_user(script),
                Coming::Kill => self.kill(),
                Coming::Stranger => self.stranger(),
                Coming::Fault(fault) => self.fault(&fault),
                Coming::Locals => self.locals_refuse(None),
                Coming::Honest => {
                    if let Some(mut server) = self.misled_by.take() {
                        server.end(&mut self.net.borrow_mut(), self.processes[1].turns);
                    }
                    self.start(0);
                }
                Coming::Republish { client, drawn } => self.reload(client, drawn),
                Coming::Gone(parties) => {
                    for (side, number) in parties {
                        let is_there = |actor: &Actor| matches!(actor, Actor::Talker(it) if (it.side, it.number) == (side, number));
                        assert!(
                            !self.actors.values().any(is_there),
                            "{side:?} {number} outlives its publication"
                        );
                    }
                }
                Coming::Reload { last } => {
                    let config = self.reloads.next(last, &mut self.rng, &self.settings);
                    trace!(
                        now,
                        "another configuration: {:?}, {:?}, {:?}",
                        config.services,
                        config.policies,
                        config.keys
                    );
                    self.processes[0].configure(config, now);
                }
                Coming::Reset(ends) => {
                    let net = self.net.borrow();
                    let left: Vec<EndId> = ends.into_iter().filter(|&end| net.is_open(end)).collect();
                    assert!(left.is_empty(), "connections of users that must have been reset: {left:?}");
                }
                Coming::Retirement => self.processes[0].retire(&self.net),
                Coming::Successor => {
                    let successor = Process::new(Host::Successor);
                    let old = std::mem::replace(&mut self.processes[0], successor);
                    self.processes.push(old);
                    self.start(0);
                }
            }
        }
    }

    /// A client gets another configuration. The sessions of what it publishes no more end, and no others.
    fn reload(&mut self, client: usize, drawn: bool) {
        let (settings, rng) = (&self.settings, &mut self.rng);
        let new = match drawn {
            true => drawn_config(client, settings, rng),
            false => client_config(client, settings).0,
        };
        let difference = ClientDifference::of(&self.configs[client], &new);
        trace!(self.now(), "client {client} gets another configuration: {difference}");
        if difference.removed.len() + difference.asked_anew.len() > 0 {
            let parties = self.shadow.served_by(client, REMOVED);
            let (locals, users): (Vec<_>, Vec<_>) = parties.into_iter().partition(|it| it.0 == Side::Local);
            self.later(REMOVAL, Coming::Gone(locals));
            // It is told over the line.
            let line = self.net.borrow().shape.round_trip_max();
            self.later(REMOVAL + LOOK + line, Coming::Gone(users));
        }
        self.configs[client] = new;
        self.processes[Host::Client(client).index()].reload(&self.net, difference);
    }

    /// How long parties wait for something to be heard.
    fn patience(&self) -> Duration {
        if self.tale.is_of_a_line() { PATIENCE } else { Duration::from_secs(9) }
    }

    fn patient(&self, script: Script) -> Script {
        Script { patience: self.patience(), ..script }
    }

    fn user(&mut self, service: usize, script: Script) -> usize {
        let number = self.shadow.enter(Side::User, service);
        // Nobody promises anything where nobody serves it.
        let is_unserved = self.tale == Tale::Reloaded && !self.reloads.is_served(service);
        self.shadow.party(Side::User, number).apart |= self.is_apart(service) || is_unserved;
        self.user_from(number, user_address(number), script)
    }

    /// Whether parties of this service may lose their sessions.
    fn is_apart(&self, service: usize) -> bool {
        self.tale == Tale::Republished && service == REMOVED && !self.fresh
    }

    fn hostile_user(&mut self, script: Script) {
        let service = self.rng.usize(..STEADY);
        let number = self.shadow.enter(Side::User, service);
        self.shadow.party(Side::User, number).apart = true;
        self.user_from(number, users::address(), script);
    }

    fn user_from(&mut self, number: usize, from: SocketAddr, script: Script) -> usize {
        let service = self.shadow.party(Side::User, number).service;
        let to = self.reloads.address(service).unwrap_or_else(|| request_address(service));
        let now = self.now();
        self.first_came.get_or_insert(now);
        trace!(now, "user {number} comes to {}: {script:?}", SERVICES[service]);
        let end = self.net.borrow_mut().connect(Host::Outside, from, to);
        let talker = Talker::new(Side::User, number, end, script, now);
        self.actors.insert(end, Actor::Talker(Box::new(talker)));
        self.timers.insert((now, end), ());
        number
    }

    fn stranger(&mut self) {
        let kind = if self.rng.bool() { Kind::Message } else { Kind::Control };
        let port = if kind == Kind::Message { MESSAGE_PORT } else { CONTROL_PORT };
        let approach = Approach::draw(&mut self.rng);
        trace!(self.now(), "stranger at {kind:?}: {approach:?}");
        let mut net = self.net.borrow_mut();
        let from = (Ipv4Addr::new(203, 0, 113, 9), 50_000).into();
        let end = net.connect(Host::Outside, from, SocketAddr::new(SERVER_IP, port));
        let stranger = Stranger::new(&mut net, end, kind, approach);
        self.timers.insert((net.now + Duration::from_millis(1), end), ());
        self.actors.insert(end, Actor::Stranger(Box::new(stranger)));
    }

    // What users, local servers and strangers do.

    fn act(&mut self) {
        self.answer();
        let now = self.now();
        let mut called = self.net.borrow_mut().take_marked_outside();
        while let Some(timer) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            called.push(timer.remove_entry().0.1);
        }
        let mut besieged = false;
        for end in called {
            let Some(actor) = self.actors.get_mut(&end) else {
                besieged = true;
                continue;
            };
            let mut net = self.net.borrow_mut();
            let (again, gone) = match actor {
                Actor::Talker(talker) => (talker.step(&mut net, &mut self.shadow), talker.is_gone()),
                Actor::Stranger(stranger) => (stranger.step(&mut net), stranger.is_gone()),
            };
            drop(net);
            if let Some(at) = again {
                self.timers.insert((at, end), ());
            }
            if gone && let Some(Actor::Talker(talker)) = self.actors.remove(&end) {
                let party = self.shadow.party(talker.side, talker.number);
                trace!(now, "{:?} {} is gone: {party:?}", talker.side, talker.number);
                if talker.side == Side::User {
                    self.longest_stay = self.longest_stay.max(now - talker.came);
                    if !party.apart
                        && let Some(first_byte) = talker.first_byte
                    {
                        self.longest_wait = self.longest_wait.max(first_byte - talker.came);
                    }
                    self.first_served = [self.first_served, talker.first_byte].into_iter().flatten().min();
                    self.judge(&talker);
                }
            }
        }
        if let Some(server) = &mut self.misled_by {
            server.step(&mut self.net.borrow_mut());
        }
        if let Some(siege) = &mut self.siege
            && (besieged || siege.due.is_some_and(|at| at <= now))
        {
            let user = |actor: &&Actor| matches!(actor, Actor::Talker(talker) if talker.side == Side::User);
            let users = self.actors.values().filter(user).count();
            let has_room = !self.served.is_disturbed() && users + 6 < self.settings.limits.pool;
            siege.step(&mut self.net.borrow_mut(), has_room);
        }
    }

    /// Whether a user that left was served as it must be.
    fn judge(&mut self, user: &Talker) {
        let number = user.number;
        let party = self.shadow.party(Side::User, number);
        if party.service != STEADY || self.fresh {
            return;
        }
        let whole = party.ended == Some(Ended::Whole) && party.received == steady_script().first;
        let life = Life { came: user.came, gone: self.now(), first_byte: user.first_byte, whole };
        let swallowed = self.siege.as_ref().is_some_and(|siege| siege.swallowed(user_address(number)));
        self.served.judge(user_address(number), life, swallowed);
    }

    /// The victim's client is killed, and started again.
    fn kill(&mut self) {
        let now = self.now();
        let back = now + Duration::from_millis(50);
        trace!(now, "the victim's client is killed");
        self.processes[Host::Client(0).index()].crash(&self.net, true, back);
        // Other users may have been there.
        self.shadow.strict = false;
        self.served.killed(now, back);
    }

    /// Local servers take their connections.
    fn answer(&mut self) {
        let mut net = self.net.borrow_mut();
        net.kernels[Host::Outside.index()].alarms.clear();
        let mut came = Vec::new();
        let locals =
            |listener: &&mut Listener| listener.host == Host::Outside && listener.slot != servers::SLOT;
        for listener in net.listeners.values_mut().filter(locals) {
            let (client, service) =
                (listener.slot as usize / SERVICES.len(), listener.slot as usize % SERVICES.len());
            came.extend(listener.backlog.drain(..).map(|end| (end, client, service)));
        }
        // What a hostile server begins, local servers let stand.
        for (end, client, service) in came.into_iter().filter(|_| self.misled_by.is_none()) {
            self.proofs.taken.insert((client, service), net.now);
            let number = self.shadow.enter(Side::Local, service);
            let apart = self.is_apart(service);
            let party = self.shadow.party(Side::Local, number);
            (party.client, party.apart) = (Some(client), apart);
            let script = match self.tale {
                Tale::Anything | Tale::Replaced | Tale::Reloaded if !self.fresh && service != STEADY => {
                    Script::random(&mut self.rng, Side::Local, self.bytes_max)
                }
                Tale::Unspliced => Script::bulk(0, true, Ending::FinAfterEnd),
                _ => self.patient(Script::plain(0, true, Ending::FinAfterEnd)),
            };
            trace!(net.now, "local {number} of {} takes a connection: {script:?}", SERVICES[service]);
            let talker = Talker::new(Side::Local, number, end, script, net.now);
            self.actors.insert(end, Actor::Talker(Box::new(talker)));
            self.timers.insert((net.now, end), ());
        }
    }

    // Faults.

    fn fault(&mut self, fault: &Fault) {
        let now = self.now();
        trace!(now, "fault: {fault:?}");
        self.served.strike();
        faults::strike(&mut self.net.borrow_mut(), fault);
        match *fault {
            Fault::Freeze { host, lasts } => self.processes[host.index()].freeze(now + lasts),
            Fault::Crash { host, loudly, lasts } => {
                self.processes[host.index()].crash(&self.net, loudly, now + lasts);
            }
            Fault::Terminate { host, again } => {
                self.processes[host.index()].terminate(&self.net);
                if let Some(after) = again {
                    self.later(after, Coming::Fault(Fault::Terminate { host, again: None }));
                }
            }
            Fault::LocalsAway { refuse, lasts } => {
                self.locals_refuse(Some(refuse));
                self.later(lasts, Coming::Locals);
            }
            Fault::NamesMove { refuse } => {
                let mut net = self.net.borrow_mut();
                net.names_moved = true;
                for (client, service) in
                    (0..2).flat_map(|client| (0..SERVICES.len()).map(move |it| (client, it)))
                {
                    let old = net.listeners.get_mut(&local_address(client, service, false));
                    old.into_iter().for_each(|listener| listener.refuses = Some(refuse));
                }
            }
            _ => {}
        }
    }

    fn later(&mut self, after: Duration, coming: Coming) {
        let at = self.now() + after;
        self.coming.push((at, coming));
        self.coming.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    }

    fn locals_refuse(&mut self, refuse: Option<bool>) {
        let mut net = self.net.borrow_mut();
        for listener in net.listeners.values_mut().filter(|it| it.host == Host::Outside) {
            listener.refuses = refuse;
        }
    }

    fn relent(&mut self) {
        trace!(self.now(), "faults are over");
        let now = self.now();
        self.processes.iter_mut().for_each(|process| process.relent(now));
        faults::relent(&mut self.net.borrow_mut());
    }
}
