//! Why something does not work, in the words of status and log. Scripts rely on some of them.

use std::fmt;
use std::io::ErrorKind;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use super::close::CloseReason;
use super::fault::Fault;
use crate::wire::control::{Denial, Refusal};
use crate::wire::frame::AbortReason;

/// Why a publication, or a whole link, fails. It is said by the side that can know it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The local server does not take connections (ECONNREFUSED).
    LocalRefused,
    /// The local server took no connection in time.
    LocalUnanswered,
    /// Connecting to the local server failed with this error of the system.
    Local(Fault),
    /// The same, as the server is told of it.
    LocalUnreachable,
    /// The host name of a local server or of the server leads nowhere. The server is not told which it is.
    Unresolved(Option<Arc<str>>),
    /// The client was heard so long ago, and does not answer.
    ClientSilent(Duration),
    /// The server was heard so long ago, and does not answer.
    ServerSilent(Duration),
    /// The client answers on its control connection, and on no message connection.
    MessagesSilent,
    /// The message port does not take connections.
    MessagePortRefused,
    /// No message connection comes through.
    MessagePortUnanswered,
    /// The server ends, and takes no user any more.
    Draining,
    /// Nobody serves the service.
    NoClient,
    /// The server does not answer the handshake.
    KeyNotTaken,
    /// The key is good no longer.
    KeyExpired,
    /// The key was taken out of the key file.
    KeyRevoked,
    /// The server does not grant the publication.
    Denied(Denial),
    /// The server refuses the client.
    Refused(Refusal),
    /// The server does not take connections.
    ServerRefused,
    /// The server took no connection in time, or ended it.
    ServerUnanswered,
    /// Connecting to the server failed with this error of the system.
    Server(Fault),
    /// There is no link to the server.
    NotConnected,
    /// The process has no file descriptor left for it.
    NoDescriptor,
}

impl Reason {
    /// What the end of a probe says of the client's side; `None` if it says nothing.
    pub fn of_probe(reason: AbortReason) -> Option<Reason> {
        match reason {
            AbortReason::Refused => Some(Reason::LocalRefused),
            AbortReason::Unresolved => Some(Reason::Unresolved(None)),
            AbortReason::Unanswered => Some(Reason::LocalUnanswered),
            AbortReason::Unreachable => Some(Reason::LocalUnreachable),
            AbortReason::NoDescriptor => Some(Reason::NoDescriptor),
            _ => None,
        }
    }

    /// Why the server cannot be reached, as a control connection that was not proved ended. One that takes connections
    /// and ends them without an answer does so with those that have not proved a key.
    pub fn of_server(reason: CloseReason) -> Reason {
        match reason {
            CloseReason::DialFailed(fault) if fault.is_exhaustion() => Reason::NoDescriptor,
            CloseReason::DialFailed(fault) => match fault.kind() {
                ErrorKind::ConnectionRefused => Reason::ServerRefused,
                ErrorKind::TimedOut => Reason::ServerUnanswered,
                _ => Reason::Server(fault),
            },
            CloseReason::HandshakeTimedOut => Reason::ServerUnanswered,
            _ => Reason::KeyNotTaken,
        }
    }

    /// Why a message connection did not come to be.
    pub fn of_message_port(reason: CloseReason) -> Reason {
        match reason {
            CloseReason::DialFailed(fault) if fault.is_exhaustion() => Reason::NoDescriptor,
            CloseReason::DialFailed(fault) if fault.kind() == ErrorKind::ConnectionRefused => {
                Reason::MessagePortRefused
            }
            _ => Reason::MessagePortUnanswered,
        }
    }

    /// Whether it need not hold for other ports of the local server.
    pub fn is_of_local_port(&self) -> bool {
        use Reason::{Local, LocalRefused, LocalUnanswered, LocalUnreachable};
        matches!(self, LocalRefused | LocalUnanswered | LocalUnreachable | Local(_))
    }

    /// Whether it is the same, but for how long it lasts.
    pub fn is_like(&self, other: &Reason) -> bool {
        discriminant(self) == discriminant(other)
    }

    /// In words.
    pub fn words(&self) -> Box<str> {
        self.to_string().into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::LocalRefused => "local server refuses connections",
            Reason::LocalUnanswered => "local server does not answer",
            Reason::LocalUnreachable => "local server cannot be reached",
            Reason::Local(fault) => return write!(f, "local server: {fault}"),
            Reason::Unresolved(Some(name)) => return write!(f, "{name} does not resolve"),
            Reason::Unresolved(None) => {
                "the name of the local server does not resolve: see the client's status"
            }
            Reason::ClientSilent(time) => return write!(f, "client silent for {} s", time.as_secs()),
            Reason::ServerSilent(time) => return write!(f, "server silent for {} s", time.as_secs()),
            Reason::MessagesSilent => "message connections silent",
            Reason::MessagePortRefused => "message port refused",
            Reason::MessagePortUnanswered => "message port does not answer",
            Reason::Draining => "draining",
            Reason::NoClient => "no client",
            Reason::KeyNotTaken => "the server does not take this key: wrong, unknown or revoked",
            Reason::KeyExpired | Reason::Refused(Refusal::Expired) => "key expired",
            Reason::KeyRevoked => "key revoked",
            Reason::Denied(denial) => return write!(f, "denied: {denial}"),
            Reason::Refused(Refusal::Policy | Refusal::From) => "denied: policy",
            Reason::Refused(refusal) => return write!(f, "{refusal}"),
            Reason::ServerRefused => "server refuses connections",
            Reason::ServerUnanswered => "server does not answer",
            Reason::Server(fault) => return write!(f, "server: {fault}"),
            Reason::NotConnected => "not connected to the server",
            Reason::NoDescriptor => "out of file descriptors",
        })
    }
}
