//! A process of the product in the virtual world: its reactor, when it is due, and its deaths.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::clocks::Clocks;
use skyorg::base::name::Name;
use skyorg::client::Client;
use skyorg::config::client_difference::ClientDifference;
use skyorg::config::{ClientConfig, Key, Publication, ServerConfig, Service};
use skyorg::machine::status::{ServiceStatus, Snapshot};
use skyorg::machine::{Configuration, Fact, Input, Machine, Survey};
use skyorg::reactor::Reactor;
use skyorg::reactor::world::network::Event;
use skyorg::server::Server;
use skyorg::wire::handshake::Secret;

use super::counted::Counted;
use super::drawn::Settings;
use super::network::VirtualNetwork;
use super::tcp::{Host, Net, Time};
use super::trace;
use super::world::{
    CONTROL_PORT, MESSAGE_PORT, REMOVED, SERVER_IP, SERVICES, VACANT_PORT, local_address, request_address,
};

/// Turns that move nothing, within one second of virtual time, after which a loop is said to spin.
const IDLE_TURNS_MAX: usize = 400;

enum Program {
    Server(Box<Reactor<Server, VirtualNetwork>>),
    Client(Box<Reactor<Client, VirtualNetwork>>),
}

pub struct Process {
    pub host: Host,
    program: Option<Program>,
    /// When it is turned next, unless events come first.
    wake_at: Option<Time>,
    frozen_until: Time,
    restart_at: Option<Time>,
    idle_turns: usize,
    /// Turns of its loop since it was made.
    pub turns: usize,
    idle_since: Time,
    /// It was asked to end for good.
    retires: bool,
    /// What the last turn told, if it is a server.
    pub facts: Vec<Fact>,
    counted: Counted,
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The place of the key that the hostile hold.
pub const HOSTILE_KEY: usize = 8;

pub fn key(client: usize) -> Key {
    Key { name: name(&format!("key{client}")), secret: Secret::new([client as u8 + 1; 32]) }
}

/// Where a client dials from.
pub fn client_address(client: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 10 + client as u8), 60_000).into()
}

impl Process {
    pub fn new(host: Host) -> Process {
        let (frozen_until, idle_since) = (Time::ZERO, Time::ZERO);
        Process {
            host,
            program: None,
            wake_at: None,
            frozen_until,
            restart_at: None,
            idle_turns: 0,
            turns: 0,
            idle_since,
            retires: false,
            facts: Vec::new(),
            counted: Counted::default(),
        }
    }

    pub fn connection_count(&self) -> usize {
        match &self.program {
            Some(Program::Server(reactor)) => reactor.connection_count(),
            Some(Program::Client(reactor)) => reactor.connection_count(),
            None => 0,
        }
    }

    pub fn start(&mut self, net: &Rc<RefCell<Net>>, base: Instant, settings: &Settings, mut rng: Rng) {
        let now = net.borrow().now;
        trace!(now, "{:?} starts", self.host);
        net.borrow_mut().revive(self.host);
        self.restart_at = None;
        self.wake_at = Some(now);
        self.counted = Counted::default();
        let network = |address, names| VirtualNetwork {
            net: net.clone(),
            host: self.host,
            base,
            address,
            names,
            answered: BTreeSet::new(),
        };
        self.program = Some(match self.host {
            Host::Client(client) => {
                let address = client_address(client);
                let (config, names) = client_config(client, settings);
                let instance: [u8; 16] = std::array::from_fn(|_| rng.u8(..));
                let limits = Arc::new(settings.limits.clone());
                let machine = Client::new(config, limits.clone(), instance, rng.fork(), base + now);
                let network = network(address, names);
                Program::Client(Box::new(Reactor::new(machine, network, limits, rng)))
            }
            _ => {
                let limits = Arc::new(settings.limits.clone());
                let instance: [u8; 16] = std::array::from_fn(|_| rng.u8(..));
                let config = server_config(settings);
                let clocks = Clocks { now: base + now, wall: SystemTime::UNIX_EPOCH + now };
                let machine = Server::new(config, limits.clone(), instance, rng.fork(), clocks);
                let network = network(SocketAddr::new(SERVER_IP, 0), BTreeMap::new());
                let mut reactor = Reactor::new(machine, network, limits, rng);
                reactor.begin();
                Program::Server(Box::new(reactor))
            }
        });
    }

    /// When it must be turned.
    pub fn due(&self, net: &Net) -> Option<Time> {
        match (&self.program, self.restart_at) {
            (None, restart_at) => restart_at,
            (Some(_), _) if net.kernels[self.host.index()].has_events() && self.wake_at.is_none() => {
                Some(net.now.max(self.frozen_until))
            }
            _ => self.wake_at.map(|at| at.max(self.frozen_until)),
        }
    }

    /// Events are met some microseconds after they came, so that several are met at once.
    pub fn note_events(&mut self, net: &Rc<RefCell<Net>>, rng: &mut Rng) {
        let net = net.borrow();
        if net.kernels[self.host.index()].has_events() {
            let soon = net.now + Duration::from_micros(rng.u64(..300));
            if self.wake_at.is_none_or(|at| at > soon + Duration::from_micros(300)) {
                self.wake_at = Some(soon);
            }
        }
    }

    /// Turns it if it is due. True if it is to be started again.
    pub fn turn(&mut self, net: &Rc<RefCell<Net>>, rng: &mut Rng) -> bool {
        let now = net.borrow().now;
        if self.due(&net.borrow()).is_none_or(|at| at > now) {
            return false;
        }
        let before = net.borrow().progress;
        let arrived = std::mem::take(&mut net.borrow_mut().kernels[self.host.index()].arrived);
        let result = match &mut self.program {
            None => return !self.retires,
            Some(Program::Server(reactor)) => turn(reactor, &mut self.facts, &mut self.counted),
            Some(Program::Client(reactor)) => turn(reactor, &mut Vec::new(), &mut self.counted),
        };
        let goes_on = result.expect("the virtual poll never fails");
        if !goes_on {
            trace!(now, "{:?} has ended", self.host);
            match &mut self.program {
                Some(Program::Server(reactor)) => reactor.abandon(),
                Some(Program::Client(reactor)) => reactor.abandon(),
                None => {}
            }
            self.program = None;
            net.borrow_mut().crash(self.host, true);
            self.restart_at = Some(now + Duration::from_millis(rng.u64(1..2_000))).filter(|_| !self.retires);
            return false;
        }
        let (moved, asked, had_events) = {
            let net = net.borrow();
            let kernel = &net.kernels[self.host.index()];
            (net.progress != before, kernel.asked, kernel.had_events)
        };
        if moved || arrived || now > self.idle_since + Duration::from_secs(1) {
            (self.idle_turns, self.idle_since) = (0, now);
        }
        self.idle_turns += 1;
        self.turns += 1;
        assert!(
            self.idle_turns < IDLE_TURNS_MAX,
            "{:?} spins: it asked for {asked:?}, had events: {had_events}",
            self.host
        );
        self.wake_at = match asked {
            Some(timeout) if !had_events && !timeout.is_zero() => Some(now + timeout),
            None if !had_events => None,
            // It did something, so only another turn tells what it waits for now.
            _ => Some(now + Duration::from_micros(rng.u64(1..20))),
        };
        false
    }

    /// What a server knows of its services.
    pub fn services(&self, now: Instant) -> Vec<ServiceStatus> {
        let mut survey = Survey::new(now);
        if let Some(Program::Server(reactor)) = &self.program {
            reactor.machine().survey(&mut survey, usize::MAX);
        }
        survey.snapshot.services
    }

    /// Somebody looks at what a server knows.
    pub fn look(&mut self, now: Time) {
        if let Some(Program::Server(reactor)) = &mut self.program {
            reactor.tell(Input::Look);
            self.wake_at = Some(now);
        }
    }

    /// All users are gone, and it is not turned any more: what it counts is what it has told.
    pub fn check_counts(&mut self) {
        match &mut self.program {
            Some(Program::Server(reactor)) => self.counted.check(&snapshot(reactor), true),
            Some(Program::Client(reactor)) => self.counted.check(&snapshot(reactor), false),
            None => {}
        }
    }

    /// The client gets another configuration.
    pub fn reload(&mut self, net: &Rc<RefCell<Net>>, difference: ClientDifference) {
        if let Some(Program::Client(reactor)) = &mut self.program {
            let (source, difference) = ("world".into(), Box::new(difference));
            reactor.tell(Input::Configure(Box::new(Configuration::Client { source, difference })));
            self.wake_at = Some(net.borrow().now);
        }
    }

    pub fn freeze(&mut self, until: Time) {
        self.frozen_until = self.frozen_until.max(until);
    }

    pub fn crash(&mut self, net: &Rc<RefCell<Net>>, loudly: bool, back: Time) {
        if self.program.is_none() {
            return;
        }
        net.borrow_mut().crash(self.host, loudly);
        self.program = None;
        self.restart_at = Some(back);
    }

    pub fn terminate(&mut self, net: &Rc<RefCell<Net>>) {
        if self.program.is_some() {
            net.borrow_mut().kernels[self.host.index()].alarms.push(Event::Terminate);
        }
    }

    /// The operator gives the server another configuration.
    pub fn configure(&mut self, config: ServerConfig, now: Time) {
        if let Some(Program::Server(reactor)) = &mut self.program {
            let (config, source, wall) =
                (Arc::new(config), "server.toml".into(), SystemTime::UNIX_EPOCH + now);
            reactor.tell(Input::Configure(Box::new(Configuration::Server { config, source, wall })));
            self.wake_at = Some(now);
        }
    }

    /// The operator asks it to end, and starts another in its place.
    pub fn retire(&mut self, net: &Rc<RefCell<Net>>) {
        self.retires = true;
        self.terminate(net);
    }

    pub fn relent(&mut self, now: Time) {
        self.frozen_until = now;
        self.restart_at = self.restart_at.map(|at| at.min(now));
    }
}

fn snapshot<M: Machine>(reactor: &mut Reactor<M, VirtualNetwork>) -> Snapshot {
    reactor.begin_survey();
    loop {
        reactor.turn().expect("the virtual poll never fails");
        if let Some(snapshot) = reactor.take_snapshot() {
            return snapshot;
        }
    }
}

fn turn<M: Machine>(
    reactor: &mut Reactor<M, VirtualNetwork>,
    facts: &mut Vec<Fact>,
    counted: &mut Counted,
) -> io::Result<bool> {
    let goes_on = reactor.turn();
    let told = facts.len();
    facts.extend(reactor.facts());
    facts[told..].iter().for_each(|fact| counted.note(fact));
    facts.iter().for_each(|fact| trace!(super::trace::now(), "{fact}"));
    goes_on
}

/// The local server of a client's service: the one that it has at first, or another one.
fn local(client: usize, service: usize, another: bool, settings: &Settings) -> HostPort {
    let address = local_address(client, service, another);
    let host = match settings.named {
        true => local_name(service, another),
        false => address.ip().to_string(),
    };
    HostPort { host: host.into(), port: address.port() }
}

fn local_name(service: usize, another: bool) -> String {
    format!("{}{}.lan", SERVICES[service], if another { "-2" } else { "" })
}

/// Another configuration for a client: the first service has one local server or the other, the second is there or
/// not, and the last is as it was.
pub fn drawn_config(client: usize, settings: &Settings, rng: &mut Rng) -> ClientConfig {
    let (mut config, _) = client_config(client, settings);
    for service in [0, REMOVED] {
        config.publications[service].local = local(client, service, rng.bool(), settings);
    }
    // The server must be asked anew.
    config.publications[REMOVED].share = rng.bool();
    if rng.bool() {
        config.publications.remove(REMOVED);
    }
    rng.shuffle(&mut config.publications);
    config
}

pub fn client_config(
    client: usize,
    settings: &Settings,
) -> (ClientConfig, BTreeMap<String, Vec<SocketAddr>>) {
    let publication = |(service, text): (usize, &&str)| {
        let publication = Publication::of_service(name(text), local(client, service, false, settings));
        Publication { probe: settings.probes, ..publication }
    };
    let server = HostPort { host: SERVER_IP.to_string().into(), port: CONTROL_PORT };
    let config = ClientConfig {
        server,
        message: None,
        publications: SERVICES.iter().enumerate().map(publication).collect(),
        key: key(client),
        plain: settings.plain,
        limits: settings.limits.clone(),
    };
    let both = (0..SERVICES.len()).flat_map(|service| [(service, false), (service, true)]);
    let lead =
        |(service, another)| (local_name(service, another), vec![local_address(client, service, another)]);
    (config, both.map(lead).collect())
}

pub fn server_config(settings: &Settings) -> ServerConfig {
    let at = |port| Listen::At(SocketAddr::new(SERVER_IP, port));
    let service =
        |(service, text): (usize, &&str)| Service::new(name(text), at(request_address(service).port()));
    let vacant = Service::new(name("vacant"), at(VACANT_PORT));
    ServerConfig {
        services: SERVICES.iter().enumerate().map(service).chain([vacant]).collect(),
        policies: settings.policies.clone(),
        message: at(MESSAGE_PORT),
        control: at(CONTROL_PORT),
        keys: vec![key(0), key(1), key(HOSTILE_KEY)],
        plain: settings.plain,
        limits: settings.limits.clone(),
    }
}
