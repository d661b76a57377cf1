//! Validated configuration: what the command line and the key file have become.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::Limits;
use crate::wire::frame::Name;
use crate::wire::handshake::Secret;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// All interfaces, IPv6 and IPv4, at this port.
    Any(u16),
    /// One address.
    At(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Any(port) => write!(f, "*:{port}"),
            Listen::At(address) => write!(f, "{address}"),
        }
    }
}

/// A host and a port that someone dials: `db.lan:5432`, `[::1]:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or a numeric address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// The address, if the host is numeric.
    pub fn numeric(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A key: whoever holds the secret may be this client.
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
    /// Who may be a client.
    pub keys: Vec<Key>,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
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

/// The addresses to try for [`Listen::Any`], best first: dual stack, then IPv4 where there is no IPv6.
pub fn any_addresses(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}
