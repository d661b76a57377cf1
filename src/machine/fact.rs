//! What happened, for people. Machines and reactor say it, and never write a line themselves: one consumer makes log
//! lines of facts, others may count them, and they cannot disagree.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use super::close::CloseReason;
use super::fault::Fault;
use super::input::Traffic;
use super::name_fault::NameFault;
use super::reason::Reason;
use super::reload_fault::ReloadFault;
use crate::base::address::{HostPort, Listen};
use crate::base::id::ConnId;
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::config::client_difference::ClientDifference;
use crate::config::difference::Difference;
use crate::wire::control::{Denial, GrantedAddress, Refusal, Versions};

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
    /// A client has come back to its link, whose control connection was silent.
    ClientReturned {
        /// Its new control connection.
        link: ConnId,
        /// The one in whose place that came.
        before: ConnId,
        /// The key that it holds.
        key: Name,
        /// Where it comes from now.
        peer: SocketAddr,
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
    /// A client serves ports that it asked for now.
    Exposed {
        /// Its control connection.
        link: ConnId,
        /// The key that it holds.
        key: Name,
        /// What it exposes.
        publication: Name,
        /// Where its users connect.
        ports: Ports,
    },
    /// The system does not give a port that a client may have.
    PortNotOpened {
        /// The key that the client holds.
        key: Name,
        /// Where.
        at: Listen,
        /// What the system said.
        fault: Fault,
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
        /// The key whose client made the service's name up, if the server did not declare it.
        exposed_by: Option<Name>,
        /// The key of the client that served it last, or was offered it.
        key: Option<Name>,
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
        /// The service that it came to.
        service: Option<Name>,
        /// The key whose client made that name up, if the server did not declare it.
        exposed_by: Option<Name>,
        /// Users that are served.
        users: usize,
        /// More were asked for than file descriptors allow.
        is_short: bool,
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

    /// A server that starts cannot listen yet, because the address is in use.
    AddressInUse {
        /// Where.
        at: Listen,
        /// How long it tries.
        time: Duration,
    },

    /// A listener that was suspended cannot listen again, and is tried again after a pause.
    NotListening {
        /// Where.
        at: Listen,
        /// What the system said.
        fault: Fault,
    },
    /// Another configuration holds.
    Reloaded {
        /// Where it comes from.
        source: Arc<str>,
        /// What has changed.
        difference: Box<Difference>,
    },
    /// Another configuration does not hold: nothing has changed.
    ReloadRefused {
        /// Where it comes from, and where in it the first fault is, if that is known.
        source: Arc<str>,
        /// Why.
        fault: ReloadFault,
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
    /// A service is asked for that was not before, or for something else than before.
    Asked {
        /// The service.
        service: Name,
    },
    /// A service is published no longer, because the client does not want to.
    Unpublished {
        /// The service.
        service: Name,
    },
    /// A service is published.
    Granted {
        /// The service.
        service: Name,
        /// Where its users connect; at least one place.
        addresses: Vec<GrantedAddress>,
        /// Where its local server is.
        local: HostPort,
    },
    /// A service is not, or no longer, published.
    Denied {
        /// The service.
        service: Name,
        /// Why.
        reason: Denial,
        /// Whether the server has withdrawn what it granted on this link.
        withdrawn: bool,
    },
    /// Another configuration holds.
    ClientReloaded {
        /// Where it comes from.
        source: Arc<str>,
        /// What has changed.
        difference: Box<ClientDifference>,
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
    /// The server owes an answer for some seconds; or it was silent for as long as its heartbeat allows.
    ServerSilent {
        /// The link's control connection.
        link: ConnId,
        /// How long it has been silent.
        silence: Duration,
    },
    /// The server is heard again that was silent.
    ServerBack {
        /// The link's control connection.
        link: ConnId,
        /// The silent one in whose place that came, if it is a new one.
        before: Option<ConnId>,
        /// Where the server is.
        address: SocketAddr,
        /// How long it was silent.
        silence: Duration,
    },
    /// The server says that it drains.
    ServerDrains {
        /// The server.
        server: HostPort,
    },
    /// The link has ended.
    LinkLost {
        /// Its control connection.
        link: ConnId,
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
        /// Why.
        why: Box<str>,
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

    // Both.
    /// What users of a service need does not work.
    ServiceFails {
        /// The service.
        service: Name,
        /// At the server: the key and the address of the client that offers it.
        client: Option<(Name, SocketAddr)>,
        /// Why.
        reason: Reason,
    },
    /// A service that failed is proved again.
    ServiceProved {
        /// The service.
        service: Name,
        /// At the server: the key and the address of the client that offers it.
        client: Option<(Name, SocketAddr)>,
    },

    // The reactor.
    /// The system takes long to begin connections to local servers, and the loop stands meanwhile.
    DialsSlow {
        /// Where the last one goes.
        address: SocketAddr,
        /// How long one of the last took in the middle.
        mean: Duration,
    },
    /// A listener cannot take connections, and is tried again after a pause.
    AcceptPaused {
        /// Where it listens.
        at: SocketAddr,
        /// What the system said.
        fault: Fault,
    },
    /// A new connection cannot be watched, and was dropped.
    NotWatched {
        /// What the system said.
        fault: Fault,
    },
    /// The system does not have a socket option that is good to have.
    OptionMissing {
        /// The option.
        name: &'static str,
        /// What the system said.
        fault: Fault,
    },
}

impl Fact {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            // Who only looks whether the port is open is a health check, and who has proved a secret no attacker.
            Fact::NotAdmitted { reason: CloseReason::PeerClosed | CloseReason::UnknownTicket, .. } => {
                Level::Debug
            }
            Fact::NextAttempt { .. } | Fact::Duplicate { .. } | Fact::OptionMissing { .. } => Level::Debug,
            Fact::Asked { .. } | Fact::Unpublished { .. } => Level::Debug,
            // That the server was silent is told by then.
            Fact::LinkLost { reason: CloseReason::HeartbeatLost, .. } => Level::Debug,
            Fact::ClientCame { .. }
            | Fact::ClientGone { .. }
            | Fact::ClientReturned { .. }
            | Fact::ClientLeaves { .. }
            | Fact::ServerBack { .. }
            | Fact::Published { .. }
            | Fact::Exposed { .. }
            | Fact::UserLeft { .. }
            | Fact::Draining { .. }
            | Fact::Reloaded { .. }
            | Fact::Connecting { .. }
            | Fact::Connected { .. }
            | Fact::Granted { .. }
            | Fact::ClientReloaded { .. }
            | Fact::ServerDrains { .. }
            | Fact::LinkLost { .. }
            | Fact::MessageArrived { .. }
            | Fact::ServiceProved { .. }
            | Fact::SessionEnded { .. } => Level::Info,
            Fact::Refused { .. } | Fact::Denied { .. } | Fact::ReloadRefused { .. } => Level::Error,
            _ => Level::Warn,
        }
    }
}
