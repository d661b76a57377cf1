//! What the reactor tells a machine.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::close::CloseReason;
use super::fault::Fault;
use super::output::{Dialled, Door};
use super::silence::Measured;
use crate::base::id::{ConnId, ListenerId, NameId, ServiceId};
use crate::config::ServerConfig;
use crate::config::client_difference::ClientDifference;
use crate::wire::control::ControlFrame;
use crate::wire::frame::{AbortReason, Start};
use crate::wire::handshake::{ClearHello, KeyId, Secret};

/// Bytes of one session that passed a user's or a proxy connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read from it.
    pub received: u64,
    /// Bytes written to it.
    pub sent: u64,
}

impl Traffic {
    /// The same, seen from the other end: what passed a proxy connection, as its user would count it.
    pub fn mirrored(self) -> Traffic {
        Traffic { received: self.sent, sent: self.received }
    }
}

/// What the reactor tells a machine.
#[derive(Debug)]
pub enum Input {
    /// A listener took a connection.
    Accepted {
        /// The new connection.
        id: ConnId,
        /// What the listener is for.
        door: Door,
        /// Where it comes from.
        peer: SocketAddr,
        /// The address that it connected to.
        asked: SocketAddr,
    },
    /// A user was turned away at accept.
    TurnedAway {
        /// The service that it came to.
        service: ServiceId,
        /// Where it came from.
        peer: SocketAddr,
        /// What the system said to it; `None` if as many users are served as may be.
        fault: Option<Fault>,
    },
    /// A listener listens, for the first time or again.
    Listening {
        /// The listener.
        id: ListenerId,
        /// Its address; the port is the real one if 0 was asked for.
        address: SocketAddr,
    },
    /// A listener could not be opened, or cannot listen again.
    ListenFailed {
        /// The listener.
        id: ListenerId,
        /// What the system said.
        error: io::Error,
    },
    /// A listener is closed, and every connection that waited in its queue was told of.
    Stopped {
        /// The listener.
        id: ListenerId,
    },
    /// A stranger's first flight is here; only its clear hello has been read. Answered by `Verify` or `Close`.
    Greeted {
        /// The stranger.
        id: ConnId,
        /// What it says of itself.
        hello: ClearHello,
    },
    /// The stranger holds the secret. Answered by `Answer` or `Close`.
    Proved {
        /// The stranger.
        id: ConnId,
        /// What it brings.
        proof: Proof,
    },
    /// The stranger was answered: from now on it is a control or a message connection.
    Answered {
        /// The connection.
        id: ConnId,
    },
    /// A dial has begun; this names the connection.
    Dialling {
        /// The new connection.
        id: ConnId,
        /// What for.
        purpose: Dialled,
    },
    /// A dialled connection stands: greeted, if it is a control or message connection.
    Connected {
        /// The connection.
        id: ConnId,
    },
    /// A frame arrived on a control connection.
    Control {
        /// The control connection.
        id: ConnId,
        /// What it said.
        frame: ControlFrame,
    },
    /// What the kernel knows of a control connection.
    Measured {
        /// The control connection.
        id: ConnId,
        /// What it knows.
        it: Measured,
    },
    /// The system was suspended, and wakes.
    Woken,
    /// The clock on the wall is not where it was expected: it was set, or the system was suspended.
    ClockSet {
        /// What it says.
        wall: SystemTime,
    },
    /// Something happened to the session on a message connection.
    Session {
        /// The message connection.
        id: ConnId,
        /// What happened.
        event: SessionEvent,
    },
    /// A user lost the message connection that it is paired with before `Accepted`, or its session was refused there
    /// before `Started`. It is unpaired, and its bytes are kept: start it elsewhere or close it.
    Returned {
        /// The user.
        id: ConnId,
        /// True: a client refused it, so no byte of it was delivered. False: its message connection was lost.
        refused: bool,
        /// Whether any `Data` of it was sent.
        spoken: bool,
    },
    /// The user of a session has said all that it will, some bytes, and has got none so far. At the client: its local
    /// server was told all.
    Unanswered {
        /// The user's, or the proxy connection.
        id: ConnId,
    },
    /// A name was looked up.
    Resolved {
        /// The name.
        name: NameId,
        /// What came of it.
        lookup: Lookup,
    },
    /// The connection is gone. No later input names this id.
    Closed {
        /// The connection.
        id: ConnId,
        /// The first reason that was given.
        reason: CloseReason,
        /// What passed it, if it was a user's or a proxy connection.
        traffic: Traffic,
    },
    /// Another configuration is to take the place of the one before.
    Configure(Box<Configuration>),
    /// Somebody looks at what is known, now and for the next ten seconds: what was proved longer ago than a moment is
    /// proved again.
    Look,
    /// The operator asked the process to end.
    Drain,
    /// The operator asked again: the time that running sessions have is over now.
    GiveUp,
}

/// Another configuration.
#[derive(Clone, Debug)]
pub enum Configuration {
    /// At the server. If one is being carried out, this one waits for it, in place of any other that waits.
    /// `Fact::Reloaded` or `Fact::ReloadRefused` tells what came of it.
    Server {
        /// The configuration.
        config: Arc<ServerConfig>,
        /// Where it comes from, for people.
        source: Arc<str>,
        /// What the clock on the wall says.
        wall: SystemTime,
    },
    /// At the client. `Fact::ClientReloaded` tells that it holds.
    Client {
        /// Where it comes from, for people.
        source: Arc<str>,
        /// What changes.
        difference: Box<ClientDifference>,
    },
}

/// What comes with a proved secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// At the control port. The reactor hands in random bytes for the link that may begin.
    Control {
        /// The link's id on the wire.
        link: KeyId,
        /// The link's pool key.
        pool_key: Secret,
        /// Tells one first flight from another: a recording that comes again has the same.
        flight: u64,
    },
    /// At the message port.
    Message {
        /// The ticket that the first flight carried.
        ticket: u64,
    },
}

/// Random bytes that a link needs: its id and its pool key.
pub const LINK_RANDOM_BYTES: usize = 16 + 32;

impl Proof {
    /// What comes to the control port with this flight, and with these random bytes; their owner wipes them.
    pub fn control(random: &[u8; LINK_RANDOM_BYTES], flight: u64) -> Proof {
        let (mut link, mut pool_key) = ([0; 16], Zeroizing::new([0; 32]));
        let (head, tail) = random.split_at(link.len());
        link.copy_from_slice(head);
        pool_key.copy_from_slice(tail);
        Proof::Control { link, pool_key: Secret::copy_of(&pool_key), flight }
    }
}

// The link's id is nobody else's business.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::Control { .. } => f.write_str("Control(..)"),
            Proof::Message { ticket } => write!(f, "Message({ticket})"),
        }
    }
}

/// What came of looking a name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its addresses, at least one, in the resolver's order.
    Found(Vec<SocketAddr>),
    /// There is no such name, or it has no address.
    NoSuchName,
    /// Nobody could be asked, for this reason.
    Failed(Box<str>),
}

/// What can happen to the session on a message connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// Client: a session has begun. Answered by `Accept` and `Dial`, or by `Abort`.
    Start(Start),
    /// Server: the client has read `Start`.
    Accepted,
    /// Server: the proxy connection stands.
    Started,
    /// Server: the client has seen this session before. Its user, if it was paired with this copy, is unpaired.
    Duplicate,
    /// Server: the client refuses the session, and its user is not paired with this copy; see [`Input::Returned`].
    Refused,
    /// Server: a probe was aborted, for this reason.
    ProbeAborted(AbortReason),
    /// Both directions have ended and everything is flushed: the connection is free.
    Idle {
        /// Server: so little was sent to the client that all of it has certainly been read. More than that may still
        /// wait for a slow local server, and no other user should wait behind it.
        settled: bool,
    },
    /// Server: the client answered a ping.
    Pong,
    /// Server: the client wants this idle connection closed.
    Drain,
}
