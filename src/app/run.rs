//! From a configuration to a running loop: binds the ports, lowers the limits to what the system allows, and hands
//! the machine to the reactor.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use log::info;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::journal;
use super::report::Report;
use crate::base::address::{Listen, any_addresses};
use crate::base::name::Name;
use crate::client::Client as ClientMachine;
use crate::config::limits::Limits;
use crate::config::{ClientConfig, ServerConfig};
use crate::machine::Machine;
use crate::reactor::Reactor;
use crate::reactor::world::mio_network::MioNetwork;
use crate::server::{ListenerState, ListenerUse, Server as ServerMachine};

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Each service and the address for its users.
    pub services: Vec<(Name, SocketAddr)>,
    /// Message connections.
    pub message: SocketAddr,
    /// Control connections.
    pub control: SocketAddr,
}

impl Bound {
    /// Where a server's listeners are, if it could listen at all of them.
    fn of(machine: &ServerMachine) -> Result<Bound, BindError> {
        let nowhere = any_addresses(0)[0];
        let mut bound = Bound { services: Vec::new(), message: nowhere, control: nowhere };
        for listener in machine.listeners().iter() {
            let name = machine.service_name(listener);
            let address = match &listener.state {
                ListenerState::Listening(address) => *address,
                ListenerState::Asked => continue,
                ListenerState::Failed(error) => {
                    let what = match (listener.serves, name) {
                        (ListenerUse::Message, _) => "message connections".into(),
                        (ListenerUse::Control, _) => "control connections".into(),
                        (ListenerUse::Clients, _) => "message and control connections".into(),
                        (ListenerUse::Users(_), name) => {
                            format!("users of service {}", name.map_or("", Name::as_str))
                        }
                    };
                    let (error, kind) = (error.to_string(), error.kind());
                    return Err(BindError { what, at: listener.at, error, kind });
                }
            };
            match (listener.serves, name) {
                (ListenerUse::Message, _) => bound.message = address,
                (ListenerUse::Control, _) => bound.control = address,
                (ListenerUse::Clients, _) => (bound.message, bound.control) = (address, address),
                (ListenerUse::Users(_), name) => {
                    bound.services.extend(name.map(|name| (name.clone(), address)));
                }
            }
        }
        Ok(bound)
    }
}

/// 16 random bytes that name this process.
fn random_instance() -> io::Result<[u8; 16]> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(instance)
}

/// A port that the server cannot listen on.
#[derive(Debug)]
pub struct BindError {
    what: String,
    at: Listen,
    error: String,
    kind: io::ErrorKind,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { what, at, error, kind } = self;
        write!(f, "cannot listen on {at} for {what}: {error}; ")?;
        match kind {
            io::ErrorKind::AddrInUse => f.write_str("end the program that has the port, or choose another"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("choose a port above 1023, or run with the right to it")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("choose an address of this host"),
            _ => f.write_str("choose another address"),
        }
    }
}

/// A server that is bound and not yet running.
pub struct Server {
    bound: Bound,
    shortage: Option<Shortage>,
    reactor: Reactor<ServerMachine, MioNetwork>,
}

impl Server {
    /// Binds all ports.
    pub fn bind(mut config: ServerConfig) -> Result<Server, BindError> {
        let (control, listeners) = (config.control, config.services.len() + 2);
        let shortage = bound_by_descriptors(&mut config.limits, listeners);
        let limits = Arc::new(config.limits.clone());
        let network = MioNetwork::new().map_err(|error| BindError {
            what: "events".into(),
            at: control,
            error: error.to_string(),
            kind: error.kind(),
        })?;
        let instance = random_instance().map_err(|error| BindError {
            what: "random bytes".into(),
            at: control,
            error: error.to_string(),
            kind: error.kind(),
        })?;
        let (jitter, now) = (fastrand::Rng::new(), Instant::now());
        let machine = ServerMachine::new(config, limits.clone(), instance, jitter, now);
        let mut reactor = Reactor::new(machine, network, limits, fastrand::Rng::new());
        reactor.begin();
        let bound = Bound::of(reactor.machine())?;
        Ok(Server { bound, shortage, reactor })
    }

    /// What an operator is to be warned of: fewer users fit than may come.
    pub fn shortage(&self) -> Option<Shortage> {
        self.shortage
    }

    /// Where it listens; ports are the real ones.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Runs until it is drained, or until the loop itself fails.
    pub fn run(self) -> io::Result<()> {
        for (name, address) in &self.bound.services {
            info!("service {name}: users connect to {address}");
        }
        info!("message connections: {}", self.bound.message);
        info!("control connections: {}", self.bound.control);
        run(self.reactor)
    }
}

/// A client that is not yet running.
pub struct Client {
    reactor: Reactor<ClientMachine, MioNetwork>,
}

impl Client {
    /// Prepares everything but the first attempt to connect.
    pub fn new(config: ClientConfig) -> io::Result<Client> {
        let instance = random_instance()?;
        let mut config = config;
        bound_by_descriptors(&mut config.limits, 0);
        let network = MioNetwork::new()?;
        let limits = Arc::new(config.limits.clone());
        let (jitter, now) = (fastrand::Rng::new(), Instant::now());
        let machine = ClientMachine::new(config, limits.clone(), instance, jitter, now);
        Ok(Client { reactor: Reactor::new(machine, network, limits, fastrand::Rng::new()) })
    }

    /// Runs until it is drained, or until the loop itself fails.
    pub fn run(self) -> io::Result<()> {
        run(self.reactor)
    }
}

fn run<M: Machine>(mut reactor: Reactor<M, MioNetwork>) -> io::Result<()> {
    let mut report = Report::default();
    let result = loop {
        let turned = reactor.turn();
        let now = reactor.now();
        for fact in reactor.facts() {
            report.take(&fact, now);
        }
        if reactor.take_hang_up() {
            journal::open_again();
        }
        match turned {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    reactor.abandon();
    info!("ended");
    result
}

/// Forbids the kernel to write this process's memory, and the secrets in it, into a file when it crashes (core(5)). It
/// stays readable to its owner, so that its memory can be measured without root.
pub fn forbid_core_dumps() {
    // Lowering a limit needs no right (getrlimit(2)); where it is refused all the same, the operator's limit stays.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// The system allows fewer file descriptors than as many users take as were asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    descriptors: usize,
    users: usize,
    asked: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { descriptors, users, asked } = self;
        write!(
            f,
            "{descriptors} file descriptors are enough for {users} users at once, not for {asked}; raise the limit \
             (ulimit -n) or lower --max-users"
        )
    }
}

/// Raises the soft limit of file descriptors to the hard one (getrlimit(2)), and divides what there is: control
/// and message connections first, then users, and a reserve.
fn bound_by_descriptors(limits: &mut Limits, listeners: usize) -> Option<Shortage> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let granted = if setrlimit(Resource::Nofile, raised).is_ok() { found.maximum } else { found.current };
    let granted = granted.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let room = granted.saturating_sub(limits.descriptor_reserve + listeners);
    let asked = limits.users_max;
    limits.share_descriptors(room);
    let users = limits.users_max;
    (listeners > 0 && users < asked).then_some(Shortage { descriptors: granted, users, asked })
}
