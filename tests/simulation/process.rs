//! A process of the product in the virtual world: its reactor, when it is due, and its deaths.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use skyorg::client::Client;
use skyorg::config::{ClientConfig, HostPort, Key};
use skyorg::machine::{ListenerId, Origin};
use skyorg::reactor::Reactor;
use skyorg::reactor::network::Event;
use skyorg::server::{Door, Server, Setup};
use skyorg::wire::frame::Name;
use skyorg::wire::handshake::Secret;

use super::network::VirtualNetwork;
use super::tcp::{Host, Listener, Net, Time};
use super::trace;
use super::world::{
    CONTROL_PORT, MESSAGE_PORT, SERVER_IP, SERVICES, Settings, local_address, request_address,
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
    idle_since: Time,
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn key(client: usize) -> Key {
    Key { name: name(&format!("key{client}")), secret: Secret::new([client as u8 + 1; 32]) }
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
            idle_since,
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
        let network =
            |address, names| VirtualNetwork { net: net.clone(), host: self.host, base, address, names };
        self.program = Some(match self.host {
            Host::Client(client) => {
                let address = (Ipv4Addr::new(192, 0, 2, 10 + client as u8), 60_000).into();
                let (config, names) = client_config(client, settings);
                let instance: [u8; 16] = std::array::from_fn(|_| rng.u8(..));
                let machine = Client::new(config, instance, rng.fork(), base + now);
                let network = network(address, names);
                Program::Client(Box::new(Reactor::new(machine, network, &[], settings.limits.clone(), rng)))
            }
            _ => {
                let (setup, origins) = server_setup(settings);
                listen(&mut net.borrow_mut(), &setup.doors);
                let machine = Server::new(setup, rng.fork(), base + now);
                let network = network(SocketAddr::new(SERVER_IP, 0), Vec::new());
                let limits = settings.limits.clone();
                Program::Server(Box::new(Reactor::new(machine, network, &origins, limits, rng)))
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
            None => return true,
            Some(Program::Server(reactor)) => reactor.turn().map(|()| reactor.has_exited()),
            Some(Program::Client(reactor)) => reactor.turn().map(|()| reactor.has_exited()),
        };
        let exited = result.expect("the virtual poll never fails");
        if exited {
            trace!(now, "{:?} has ended", self.host);
            self.program = None;
            net.borrow_mut().crash(self.host, true);
            self.restart_at = Some(now + Duration::from_millis(rng.u64(1..2_000)));
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
        assert!(
            self.idle_turns < IDLE_TURNS_MAX,
            "{:?} spins: it asked for {asked:?}, had events: {had_events}",
            self.host
        );
        self.wake_at = match asked {
            Some(timeout) if !had_events && !timeout.is_zero() => Some(now + timeout),
            None if !had_events => None,
            // It did something: what it waits for now is known after another turn.
            _ => Some(now + Duration::from_micros(rng.u64(1..20))),
        };
        false
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

    pub fn relent(&mut self, now: Time) {
        self.frozen_until = now;
        self.restart_at = self.restart_at.map(|at| at.min(now));
    }
}

fn client_config(client: usize, settings: &Settings) -> (ClientConfig, Vec<Vec<SocketAddr>>) {
    let local = |(service, text): (usize, &&str)| {
        let address = local_address(client, service);
        let host = if settings.named { format!("{text}.lan") } else { address.ip().to_string() };
        (name(text), HostPort { host, port: address.port() })
    };
    let server = HostPort { host: SERVER_IP.to_string(), port: CONTROL_PORT };
    let config = ClientConfig {
        server,
        message: None,
        services: SERVICES.iter().enumerate().map(local).collect(),
        key: key(client),
        plain: settings.plain,
        limits: settings.limits.clone(),
    };
    let locals = (0..SERVICES.len()).map(|service| vec![local_address(client, service)]);
    (config, [vec![], vec![]].into_iter().chain(locals).collect())
}

fn server_setup(settings: &Settings) -> (Setup, Vec<Origin>) {
    let service = |(service, text): (usize, &&str)| (name(text), request_address(service).port());
    let doors = vec![Door::Users(0), Door::Users(1), Door::Clients, Door::Clients];
    let setup = Setup {
        services: SERVICES.iter().enumerate().map(service).collect(),
        doors,
        message_port: MESSAGE_PORT,
        keys: vec![key(0), key(1)],
        plain: settings.plain,
        limits: settings.limits.clone(),
    };
    (setup, vec![Origin::User, Origin::User, Origin::Stranger, Origin::Stranger])
}

fn listen(net: &mut Net, doors: &[Door]) {
    for (index, door) in doors.iter().enumerate() {
        let address = match (door, index) {
            (Door::Users(service), _) => request_address(*service),
            (Door::Clients, 2) => SocketAddr::new(SERVER_IP, MESSAGE_PORT),
            (Door::Clients, _) => SocketAddr::new(SERVER_IP, CONTROL_PORT),
        };
        let id = ListenerId(index);
        let listener = Listener { host: Host::Server, id, backlog: Default::default(), refuses: None };
        net.listeners.insert(address, listener);
    }
}
