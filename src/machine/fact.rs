//! What happened, for people. Machines and reactor say it, and never write a line themselves: one consumer makes log
//! lines of facts, others may count them, and they cannot disagree.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use log::Level;

use super::close::CloseReason;
use super::ending::Ending;
use super::input::Traffic;
use super::name_fault::NameFault;
use crate::base::address::HostPort;
use crate::base::id::ConnId;
use crate::base::name::Name;
use crate::wire::control::{Denial, Refusal, Versions};

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    // The server.
    /// A client was admitted.
    ClientCame {
        /// Its control connection.
        link: ConnId,
        /// The key that it holds.
        key: Name,
        /// Where it comes from.
        peer: SocketAddr,
    },
    /// A client's link has ended.
    ClientGone {
        /// Its control connection.
        link: ConnId,
        /// The key that it holds.
        key: Name,
        /// Where it came from.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// A client has said that it leaves.
    ClientLeaves {
        /// Its control connection.
        link: ConnId,
        /// The key that it holds.
        key: Name,
    },
    /// A client that has proved its key was refused.
    ClientRefused {
        /// The key that it holds.
        key: Name,
        /// Where it comes from.
        peer: SocketAddr,
        /// The protocol versions that it speaks.
        versions: Versions,
        /// Why.
        refusal: Refusal,
    },
    /// A client serves a service now.
    Published {
        /// Its control connection.
        link: ConnId,
        /// The key that it holds.
        key: Name,
        /// The service.
        service: Name,
    },
    /// A client may not serve what it asked for.
    PublicationDenied {
        /// The key that it holds.
        key: Name,
        /// What it asked for.
        service: Name,
        /// Why.
        reason: Denial,
    },
    /// A connection at the control or message port was not admitted.
    NotAdmitted {
        /// Where it came from.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// A client did not bring all message connections that it was asked for.
    TicketsExpired {
        /// The key that it holds.
        key: Name,
        /// How many it did not bring.
        count: usize,
    },
    /// A user's connection has ended.
    UserLeft {
        /// The user's number.
        number: u64,
        /// Where it came from.
        user: SocketAddr,
        /// The service.
        service: Name,
        /// What passed its connection.
        traffic: Traffic,
        /// How long it was there.
        lasted: Duration,
        /// Whether a client served it, as far as the server knows: one that was refused is served once it gets a byte.
        served: bool,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A user was reset at accept, because as many are served as may be.
    UserShed {
        /// The user.
        peer: SocketAddr,
        /// Users that are served.
        users: usize,
    },
    /// The process was asked to end; running sessions have some time.
    Draining {
        /// Sessions that run.
        sessions: usize,
        /// Their time.
        time: Duration,
    },
    /// The time is over, and sessions that still run are reset.
    DrainOver {
        /// How many.
        sessions: usize,
    },

    // The client.
    /// It begins to connect to its server.
    Connecting {
        /// The server.
        server: HostPort,
    },
    /// The link stands.
    Connected {
        /// Its control connection.
        link: ConnId,
        /// The server.
        server: HostPort,
        /// At this address.
        address: SocketAddr,
        /// The key that was proved.
        key: Name,
    },
    /// A service is published.
    Granted {
        /// The service.
        service: Name,
        /// Where its users connect.
        port: u16,
        /// Where its local server is.
        local: HostPort,
    },
    /// A service is not, or no longer, published.
    Denied {
        /// The service.
        service: Name,
        /// Why.
        reason: Denial,
    },
    /// The server refuses this client.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The server cannot be reached.
    ServerUnreachable {
        /// The server.
        server: HostPort,
        /// Why.
        reason: CloseReason,
    },
    /// The server does not answer the handshake.
    ServerUnproved {
        /// The server.
        server: HostPort,
        /// The key that was tried.
        key: Name,
        /// How the connection ended.
        reason: CloseReason,
    },
    /// The server ended the connection before it admitted this client.
    NotWelcomed {
        /// The server.
        server: HostPort,
        /// How the connection ended.
        reason: CloseReason,
    },
    /// The server was silent for as long as its heartbeat allows.
    ServerSilent {
        /// How long.
        silence: Duration,
    },
    /// The server says that it drains.
    ServerDrains {
        /// The server.
        server: HostPort,
    },
    /// The link has ended.
    LinkLost {
        /// The server.
        server: HostPort,
        /// Why.
        reason: CloseReason,
    },
    /// The next attempt to connect comes after this.
    NextAttempt {
        /// The pause.
        pause: Duration,
    },
    /// A name could not be resolved.
    Unresolved {
        /// The name.
        host: HostPort,
        /// What it is for.
        purpose: &'static str,
    },
    /// A session needs the name of its local server, and something is wrong with it.
    LocalName {
        /// The service.
        service: Name,
        /// Its local server.
        local: HostPort,
        /// What is wrong.
        fault: NameFault,
    },
    /// A message connection could not be made.
    MessageFailed {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// A message connection was made where it could not be before, or at another address.
    MessageArrived {
        /// Where.
        address: SocketAddr,
    },
    /// A local server could not be reached, and the user was refused.
    LocalFailed {
        /// The user's number at the server.
        number: u64,
        /// The user.
        user: SocketAddr,
        /// The service.
        service: Name,
        /// Its local server.
        local: HostPort,
        /// Why.
        reason: CloseReason,
    },
    /// A session has ended.
    SessionEnded {
        /// The user's number at the server.
        number: u64,
        /// The user.
        user: SocketAddr,
        /// The service.
        service: Name,
        /// Its local server.
        local: HostPort,
        /// What passed the proxy connection.
        traffic: Traffic,
        /// How long it lasted.
        lasted: Duration,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A session came again that has been seen already.
    Duplicate {
        /// The user's number at the server.
        number: u64,
    },

    // The reactor.
    /// The system takes long to begin connections to local servers, and the loop stands meanwhile.
    DialsSlow {
        /// Where the last one goes.
        address: SocketAddr,
        /// How long one of the last took in the middle.
        mean: Duration,
    },
    /// The system has run out of something that accepting takes.
    AcceptPaused {
        /// What it said.
        error: String,
    },
    /// A new connection cannot be watched, and was dropped.
    NotWatched {
        /// What the system said.
        error: String,
    },
}

impl Fact {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Fact::NextAttempt { .. } | Fact::Duplicate { .. } => Level::Debug,
            Fact::ClientCame { .. }
            | Fact::ClientGone { .. }
            | Fact::ClientLeaves { .. }
            | Fact::Published { .. }
            | Fact::UserLeft { .. }
            | Fact::Draining { .. }
            | Fact::Connecting { .. }
            | Fact::Connected { .. }
            | Fact::Granted { .. }
            | Fact::ServerDrains { .. }
            | Fact::LinkLost { .. }
            | Fact::MessageArrived { .. }
            | Fact::SessionEnded { .. } => Level::Info,
            Fact::Refused { .. } | Fact::Denied { .. } => Level::Error,
            _ => Level::Warn,
        }
    }

    /// The cause by which it is throttled, and the key that it concerns, where strangers or peers set its pace.
    ///
    /// `None` if it is told each time.
    pub fn throttle(&self) -> Option<Throttle<'_>> {
        let once = |cause, key| Some(Throttle { cause, key, at_once: 1 });
        let some = |cause, key, at_once| Some(Throttle { cause, key: Some(key), at_once });
        match self {
            Fact::NotAdmitted { reason, .. } => once(reason.cause(), None),
            Fact::UserShed { .. } => once("user shed", None),
            Fact::UserLeft { service, reason, .. } if reason.is_refusal() => {
                once(reason.cause(), Some(service))
            }
            Fact::UserLeft { service, served: false, .. } => once("user left unserved", Some(service)),
            Fact::AcceptPaused { .. } => once("accept paused", None),
            Fact::NotWatched { .. } => once("not watched", None),
            Fact::ClientCame { key, .. } => some("client came", key, LINKS_AT_ONCE),
            Fact::ClientGone { key, .. } => some("client gone", key, LINKS_AT_ONCE),
            Fact::ClientLeaves { key, .. } => some("client leaves", key, LINKS_AT_ONCE),
            Fact::Published { key, .. } => some("published", key, PUBLICATIONS_AT_ONCE),
            Fact::ClientRefused { key, .. } => once("client refused", Some(key)),
            Fact::PublicationDenied { service, .. } => once("publication denied", Some(service)),
            Fact::TicketsExpired { key, .. } => once("tickets expired", Some(key)),
            Fact::ServerUnreachable { .. } => once("server unreachable", None),
            Fact::MessageFailed { .. } => once("message failed", None),
            Fact::LocalName { service, fault, .. } => once(fault.cause(), Some(service)),
            Fact::LocalFailed { service, reason: NO_LOCAL_PORT, .. } => once("no local port", Some(service)),
            Fact::LocalFailed { service, .. } => once("local failed", Some(service)),
            Fact::DialsSlow { .. } => once("dials slow", None),
            Fact::Duplicate { .. } => once("duplicate", None),
            _ => None,
        }
    }
}

/// By what a fact is throttled: its cause, whose it is, and how many of both are told before the others are counted.
#[derive(Clone, Copy, Debug)]
pub struct Throttle<'f> {
    /// What happened.
    pub cause: &'static str,
    /// The key or the service that it happened to.
    pub key: Option<&'f Name>,
    /// How many are told at once.
    pub at_once: u32,
}

/// The system has no local port left for a dial (connect(2), EADDRNOTAVAIL).
const NO_LOCAL_PORT: CloseReason = CloseReason::DialFailed(io::ErrorKind::AddrNotAvailable);
/// Why local ports are scarce, and what helps (ip-sysctl).
const PORTS_ADVICE: &str = "too many connections from this host to it are open or in TIME_WAIT; \
                            net.ipv4.tcp_tw_reuse=1 and a wider net.ipv4.ip_local_port_range help";

/// Clients of one key that come or go, and are told of before the others are counted.
const LINKS_AT_ONCE: u32 = 20;
/// Publications of one key that are told of: a client may have 1,024.
const PUBLICATIONS_AT_ONCE: u32 = 1_100;

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::ClientCame { link, key, peer } => write!(f, "{link} client {key} connected from {peer}"),
            Fact::ClientGone { link, key, peer, reason } => {
                write!(f, "{link} client {key} from {peer} is gone: {reason}")
            }
            Fact::ClientLeaves { link, key } => {
                write!(f, "{link} client {key} is leaving; its running sessions go on")
            }
            Fact::ClientRefused { key, peer, versions, refusal } => {
                write!(f, "client {key} from {peer} was refused: ")?;
                match refusal {
                    Refusal::Versions(server) => write!(
                        f,
                        "no protocol version in common: this server speaks {server}, the client {versions}; install \
                         the same skyorg on both sides"
                    ),
                    refusal => write!(f, "{refusal}"),
                }
            }
            Fact::Published { link, key, service } => write!(f, "{link} client {key} publishes {service}"),
            Fact::PublicationDenied { key, service, reason } => {
                write!(f, "client {key} may not publish {service}: {reason}")?;
                match reason {
                    Denial::UnknownService => {
                        write!(f, "; start the server with --service {service}=ADDR")
                    }
                    _ => Ok(()),
                }
            }
            Fact::NotAdmitted { peer, reason } => write!(f, "{peer} was not admitted: {reason}"),
            Fact::TicketsExpired { key, count } => {
                write!(
                    f,
                    "client {key} did not bring {count} message connections that it was asked for; can it reach \
                     the message port?"
                )
            }
            Fact::UserLeft { number, user, service, traffic, lasted, reason, .. } => {
                let (Traffic { received, sent }, seconds) = (traffic, lasted.as_secs_f64());
                write!(
                    f,
                    "#{number} user {user} of {service}: {received} bytes in, {sent} bytes out, {seconds:.3} s, {}",
                    Ending::User(*reason)
                )
            }
            Fact::UserShed { peer, users } => {
                write!(f, "user {peer} was reset: {users} users are served, the most allowed")
            }
            Fact::Draining { sessions, time } => {
                write!(f, "draining: {sessions} running sessions have up to {} s to finish", time.as_secs())
            }
            Fact::DrainOver { sessions } => write!(f, "{sessions} sessions had not finished and are reset"),
            Fact::Connecting { server } => write!(f, "connecting to {server}"),
            Fact::Connected { link, server, address, key } => {
                write!(f, "{link} connected to {server} at {address} with key {key}")
            }
            Fact::Granted { service, port, local } => {
                write!(f, "service {service}: users of port {port} reach {local}")
            }
            Fact::Denied { service, reason: Denial::UnknownService } => write!(
                f,
                "service {service}: denied: unknown service; start the server with --service {service}=ADDR"
            ),
            Fact::Denied { service, reason } => write!(f, "service {service}: denied: {reason}"),
            Fact::Refused { refusal } => write!(f, "{refusal}"),
            Fact::ServerUnreachable { server, reason } => write!(f, "{server}: {reason}; trying again"),
            Fact::ServerUnproved { server, key, reason } => write!(
                f,
                "{server} did not answer the handshake ({reason}): it does not know key {key}, its secret there \
                 differs, or the port is not skyorg's control port; compare the key lines on both sides"
            ),
            Fact::NotWelcomed { server, reason } => {
                write!(f, "{server} ended the connection before it admitted this client: {reason}")
            }
            Fact::ServerSilent { silence } => {
                write!(f, "the server was silent for {} s", silence.as_secs())
            }
            Fact::ServerDrains { server } => write!(f, "{server} drains; its running sessions go on"),
            Fact::LinkLost { server, reason } => write!(f, "connection to {server} ended: {reason}"),
            Fact::NextAttempt { pause } => write!(f, "next attempt in {:.1} s", pause.as_secs_f64()),
            Fact::Unresolved { host, purpose } => {
                write!(f, "the name {} of {purpose} could not be resolved", host.host)
            }
            Fact::LocalName { service, local, fault } => {
                write!(f, "service {service}: the name {} of its local server {fault}", local.host)
            }
            Fact::MessageFailed { address, reason } => {
                write!(f, "message connection to {address}: {reason}; is that port reachable from here?")
            }
            Fact::MessageArrived { address } => {
                write!(f, "message connections come through at {address} now")
            }
            Fact::LocalFailed { number, user, service, local, reason: NO_LOCAL_PORT } => write!(
                f,
                "#{number} user {user} of {service}: no local port is left to connect to {local}: {PORTS_ADVICE}"
            ),
            Fact::LocalFailed { number, user, service, local, reason } => write!(
                f,
                "#{number} user {user} of {service}: local server {local} did not take the connection: {reason}"
            ),
            Fact::SessionEnded { number, user, service, local, traffic, lasted, reason } => {
                let (Traffic { received, sent }, seconds) = (traffic, lasted.as_secs_f64());
                write!(
                    f,
                    "#{number} user {user} of {service} at {local}: {sent} bytes in, {received} bytes out, \
                     {seconds:.3} s, {}",
                    Ending::Proxy(*reason)
                )
            }
            Fact::Duplicate { number } => write!(f, "#{number} came again and has been seen already"),
            Fact::DialsSlow { address, mean } => write!(
                f,
                "the system takes {:.1} ms to find a local port for each connection to {address}: {PORTS_ADVICE}",
                mean.as_secs_f64() * 1e3
            ),
            Fact::AcceptPaused { error } => write!(f, "cannot take connections for now: {error}"),
            Fact::NotWatched { error } => write!(f, "a connection cannot be watched: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local_failed(kind: io::ErrorKind) -> Fact {
        Fact::LocalFailed {
            number: 7,
            user: ([192, 0, 2, 1], 1234).into(),
            service: "web".parse().expect("a name"),
            local: HostPort::parse("10.0.0.5:80", None, None).expect("an address"),
            reason: CloseReason::DialFailed(kind),
        }
    }

    #[test]
    fn a_local_server_is_not_blamed_where_local_ports_are_scarce() {
        assert_eq!(
            local_failed(io::ErrorKind::AddrNotAvailable).to_string(),
            "#7 user 192.0.2.1:1234 of web: no local port is left to connect to 10.0.0.5:80: too many connections \
             from this host to it are open or in TIME_WAIT; net.ipv4.tcp_tw_reuse=1 and a wider \
             net.ipv4.ip_local_port_range help"
        );
        let slow =
            Fact::DialsSlow { address: ([10, 0, 0, 5], 80).into(), mean: Duration::from_micros(1_640) };
        assert!(slow.to_string().starts_with(
            "the system takes 1.6 ms to find a local port for each connection to 10.0.0.5:80: too many"
        ));
        assert!(
            local_failed(io::ErrorKind::ConnectionRefused)
                .to_string()
                .contains("did not take the connection")
        );
    }

    #[test]
    fn scarce_ports_hide_no_local_server_that_is_down() {
        let [scarce, down] =
            [io::ErrorKind::AddrNotAvailable, io::ErrorKind::ConnectionRefused].map(local_failed);
        let cause = |fact: &Fact| fact.throttle().map(|throttle| throttle.cause);
        assert!(cause(&scarce).is_some() && cause(&scarce) != cause(&down));
    }
}
