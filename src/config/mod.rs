//! Validated configuration: what the command line, the configuration file and the key file have become.

pub mod client_difference;
pub mod difference;
mod document;
pub mod fault;
pub mod file;
mod key_faults;
pub mod key_place;
pub mod keys;
pub mod limits;
pub mod meaning;
pub mod moment;
pub mod opening;
pub mod options;
pub mod places;
pub mod policy;
pub mod restart;
pub mod source;
mod syntax;
pub mod values;

use std::time::Duration;

use crate::base::address::{HostPort, Listen};
use crate::base::name::Name;
use crate::base::sorted::Map;
use crate::wire::handshake::Secret;
use crate::wire::publication::Want;
use limits::Limits;
use policy::{Policy, PortRules, Services, UserRules};

/// Port of the service `default`.
pub const REQUEST_PORT: u16 = 33333;
/// Port for message connections.
pub const MESSAGE_PORT: u16 = 33334;
/// Port for control connections.
pub const CONTROL_PORT: u16 = 33335;

/// A key: a client that proves the secret is admitted under the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, in logs and the key file.
    pub name: Name,
    /// Its 32 bytes.
    pub secret: Secret,
}

/// A service that the server declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name; no other one has it.
    pub name: Name,
    /// Where its users connect, at least one place.
    pub listen: Vec<Listen>,
    /// Which users it takes.
    pub rules: UserRules,
}

impl Service {
    /// A service with one listener that takes any user.
    pub fn new(name: Name, at: Listen) -> Service {
        Service { name, listen: vec![at], rules: UserRules::default() }
    }
}

/// What the holders of keys may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policies {
    /// Any key may serve any declared service, and ask for these ports.
    Alike(PortRules),
    /// Each key has a policy of its own; one without may do nothing.
    Each(Map<Name, Policy>),
}

impl Policies {
    /// What the holder of a key may do; `None`: nothing.
    pub fn of(&self, key: &Name) -> Option<Policy> {
        match self {
            Policies::Alike(ports) => {
                let (services, ports) = (Services::All, ports.clone());
                Some(Policy { services, ports, ..Policy::default() })
            }
            Policies::Each(policies) => policies.get(key).cloned(),
        }
    }
}

impl Default for Policies {
    fn default() -> Policies {
        Policies::Alike(PortRules::default())
    }
}

/// What `skyorg server` runs with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The services.
    pub services: Vec<Service>,
    /// What the holders of keys may do.
    pub policies: Policies,
    /// Where clients bring message connections.
    pub message: Listen,
    /// Where clients bring control connections.
    pub control: Listen,
    /// The keys of the clients that may connect.
    pub keys: Vec<Key>,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
}

impl ServerConfig {
    /// Whether one listener takes both message and control connections. Port 0 is a new port each time.
    pub fn shares_a_port(&self) -> bool {
        self.message == self.control && self.message.port() != 0
    }
}

/// How long a client tries to connect to a local server, unless something else is said.
pub const DIAL_TIME: Duration = Duration::from_secs(5);

/// A client's offer to serve a service, or ports that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The service's name, or the name of what is exposed; no other one of the client has it.
    pub name: Name,
    /// What is asked for.
    pub want: Want,
    /// The local server; that of the first port, if `want` is a range.
    pub local: HostPort,
    /// How long it tries to connect to the local server, names included.
    pub dial_time: Duration,
    /// Whether the server may prove it by probes, where no user does.
    pub probe: bool,
    /// Whether other clients with the same key may serve the same ports.
    pub share: bool,
}

impl Publication {
    /// The offer to serve a service, with what holds unless something else is said.
    pub fn of_service(name: Name, local: HostPort) -> Publication {
        let (want, dial_time) = (Want::Service, DIAL_TIME);
        Publication { name, want, local, dial_time, probe: true, share: false }
    }
}

/// What `skyorg client` runs with.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The server's control port.
    pub server: HostPort,
    /// Where to dial message connections instead of the server's host at the port it names.
    pub message: Option<HostPort>,
    /// What it serves.
    pub publications: Vec<Publication>,
    /// Which key to prove.
    pub key: Key,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
}
