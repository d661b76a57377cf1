//! From a configuration to a running loop: binds what must be bound, bounds what must be bounded, and hands the
//! machine to the reactor.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::Client as ClientMachine;
use crate::config::{ClientConfig, Listen, ServerConfig};
use crate::limits::Limits;
use crate::machine::{Machine, Origin};
use crate::reactor::Reactor;
use crate::reactor::sockets::{MioNetwork, listen};
use crate::server::{Door, Server as ServerMachine, Setup};
use crate::wire::frame::Name;

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

/// A port that could not be had.
#[derive(Debug)]
pub struct BindError {
    what: String,
    at: Listen,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { what, at, error } = self;
        write!(f, "cannot listen on {at} for {what}: {error}; ")?;
        match error.kind() {
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
    reactor: Reactor<ServerMachine, MioNetwork>,
}

impl Server {
    /// Binds all ports.
    pub fn bind(config: ServerConfig) -> Result<Server, BindError> {
        let bind = |what: String, at: Listen| listen(at).map_err(|error| BindError { what, at, error });
        let mut listeners = Vec::new();
        for (name, at) in &config.services {
            listeners.push(bind(format!("users of service {name}"), *at)?);
        }
        let message = bind("message connections".into(), config.message)?;
        let control = bind("control connections".into(), config.control)?;
        let names = config.services.iter().map(|(name, _)| name.clone());
        let bound = Bound {
            services: names.zip(listeners.iter().map(|listener| listener.address)).collect(),
            message: message.address,
            control: control.address,
        };
        let mut doors: Vec<Door> = (0..listeners.len()).map(Door::Users).collect();
        doors.extend([Door::Clients; 2]);
        listeners.extend([message, control]);
        let origin = |door: &Door| match door {
            Door::Users(_) => Origin::User,
            Door::Clients => Origin::Stranger,
        };
        let origins: Vec<Origin> = doors.iter().map(origin).collect();

        let mut limits = config.limits;
        bound_by_descriptors(&mut limits, listeners.len());
        let setup = Setup {
            services: bound.services.iter().map(|(name, address)| (name.clone(), address.port())).collect(),
            doors,
            message_port: bound.message.port(),
            keys: config.keys,
            plain: config.plain,
            limits: limits.clone(),
        };
        let machine = ServerMachine::new(setup, fastrand::Rng::new(), Instant::now());
        let network = MioNetwork::new(listeners, Vec::new()).map_err(|error| BindError {
            what: "events".into(),
            at: config.control,
            error,
        })?;
        let reactor = Reactor::new(machine, network, &origins, limits, fastrand::Rng::new());
        Ok(Server { bound, reactor })
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
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
        let mut config = config;
        bound_by_descriptors(&mut config.limits, 0);
        let network = MioNetwork::new(Vec::new(), ClientMachine::names(&config))?;
        let limits = config.limits.clone();
        info!("connecting to {}", config.server);
        let machine = ClientMachine::new(config, instance, fastrand::Rng::new(), Instant::now());
        Ok(Client { reactor: Reactor::new(machine, network, &[], limits, fastrand::Rng::new()) })
    }

    /// Runs until it is drained, or until the loop itself fails.
    pub fn run(self) -> io::Result<()> {
        run(self.reactor)
    }
}

fn run<M: Machine>(mut reactor: Reactor<M, MioNetwork>) -> io::Result<()> {
    let result = reactor.run();
    info!("ended");
    result
}

/// Raises the soft limit of file descriptors to the hard one (getrlimit(2)), and divides what there is: control
/// and message connections first, then users, and a reserve.
fn bound_by_descriptors(limits: &mut Limits, listeners: usize) {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let granted = if setrlimit(Resource::Nofile, raised).is_ok() { found.maximum } else { found.current };
    let granted = granted.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let room = granted.saturating_sub(limits.descriptor_reserve + listeners);
    let asked = limits.users_max;
    limits.share_descriptors(room);
    if listeners > 0 && limits.users_max < asked {
        warn!(
            "{granted} file descriptors are enough for {} users at once, not for {asked}; raise the limit (ulimit -n) \
             or lower --max-users",
            limits.users_max
        );
    }
}
