//! Validated configuration: what the command line and the key file have become.

pub mod keys;
pub mod limits;

use crate::base::address::{HostPort, Listen};
use crate::base::name::Name;
use crate::wire::handshake::Secret;
use limits::Limits;

/// A key: a client that proves the secret is admitted under the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, in logs and the key file.
    pub name: Name,
    /// Its 32 bytes.
    pub secret: Secret,
}

/// What `skyorg server` runs with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Each service and where its users connect.
    pub services: Vec<(Name, Listen)>,
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

/// What `skyorg client` runs with.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The server's control port.
    pub server: HostPort,
    /// Where to dial message connections instead of the server's host at the port it names.
    pub message: Option<HostPort>,
    /// Each service and the local server behind it.
    pub services: Vec<(Name, HostPort)>,
    /// Which key to prove.
    pub key: Key,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
}
