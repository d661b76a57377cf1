//! The seam between the reactor and the machines: what may be said across it, and in which direction.
//!
//! The reactor owns every socket and the clock and does not know what a pool is; a [`Machine`] knows what
//! everything means and never touches a socket or a clock. Bytes of sessions do not pass here: the relay moves
//! them. Four kinds of call, no callbacks: the reactor drains outputs after every input.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::wire::frame::{AbortReason, ControlFrame, Start};
use crate::wire::handshake::{ClearHello, HandshakeError, Secret};

/// Names a connection: its slot in the reactor's slab and a serial number that is never used again, so that a
/// stale id finds nothing. Printed as `#serial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index into the slab; reused.
    pub slot: u32,
    /// Counts the connections of this process, from 1.
    pub serial: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

/// Names a listener, in the order in which the reactor was given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub usize);

/// Names a host name that the machine wants resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameId(pub usize);

/// What is at the far end of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A user; his bytes are relayed.
    User,
    /// Whoever connects to the control or message port: a stranger until he proves a secret.
    Stranger,
}

/// What a dialled connection is for.
#[derive(Clone, Debug)]
pub enum Dial {
    /// A control connection.
    Control(Greeting),
    /// A message connection.
    Message(Greeting),
    /// A proxy connection for the session that has begun on this message connection.
    Proxy(ConnId),
}

/// What a connection that is being dialled is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A control connection.
    Control,
    /// A message connection.
    Message,
    /// A proxy connection for the session on this message connection.
    Proxy(ConnId),
}

/// What a dialling client proves, and with what.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// The clear hello.
    pub hello: ClearHello,
    /// The secret that the hello names.
    pub secret: Secret,
    /// The ticket of a message connection; 0 on the control port.
    pub ticket: u64,
    /// Whether payload travels unsealed after the handshake; message connections only.
    pub plain: bool,
}

/// Bytes of one session that passed a user's or a proxy connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read from it.
    pub received: u64,
    /// Bytes written to it.
    pub sent: u64,
}

/// What the reactor tells a machine.
#[derive(Debug)]
pub enum Input {
    /// A listener took a connection.
    Accepted {
        /// The new connection.
        id: ConnId,
        /// Where it came in.
        listener: ListenerId,
        /// Who it is.
        peer: SocketAddr,
    },
    /// A stranger's first flight is here; only its clear hello has been read. Answered by `Verify` or `Close`.
    Greeted {
        /// The stranger.
        id: ConnId,
        /// What he says of himself.
        hello: ClearHello,
    },
    /// The stranger holds the secret. Answered by `Admit` or `Close`.
    Proved {
        /// The stranger.
        id: ConnId,
        /// What his first flight carried.
        ticket: u64,
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
    /// Something happened to the session on a message connection.
    Session {
        /// The message connection.
        id: ConnId,
        /// What happened.
        event: SessionEvent,
    },
    /// A user lost his message connection before `Accepted`, or his session was refused before `Started`. He is
    /// unpaired, and his bytes are kept: start him elsewhere or close him.
    Returned {
        /// The user.
        id: ConnId,
        /// Whether a client refused him (it is certain that no byte of his was delivered), or silence did.
        refused: bool,
        /// Whether any `Data` of his was sent.
        spoken: bool,
    },
    /// A name was resolved; no addresses if it could not be.
    Resolved {
        /// The name.
        name: NameId,
        /// Its addresses, in the resolver's order.
        addresses: Vec<SocketAddr>,
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
    /// The operator asked the process to end, once; a second time never arrives here.
    Drain,
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
    /// Both directions have ended and everything is flushed: the connection is free.
    Idle {
        /// Server: so little was sent to the client that it has certainly been read. More than that may still stand
        /// in front of a slow local server, behind which nobody else should wait.
        settled: bool,
    },
    /// Server: the client answered a ping.
    Pong,
    /// Server: the client wants this idle connection closed.
    Drain,
}

/// What a machine asks of the reactor. An output that names a connection already marked for closing does nothing.
#[derive(Debug)]
pub enum Output {
    /// Take no more connections.
    StopListening(ListenerId),
    /// Verify a stranger's first flight against this secret.
    Verify {
        /// The stranger.
        id: ConnId,
        /// What he must prove.
        secret: Secret,
    },
    /// Answer a stranger who proved himself; from now on it is a control or a message connection.
    Admit {
        /// The connection.
        id: ConnId,
        /// Whether its payload travels unsealed.
        plain: bool,
    },
    /// Find a name's addresses.
    Resolve(NameId),
    /// Connect to an address.
    Dial {
        /// What for.
        dial: Dial,
        /// Where.
        address: SocketAddr,
        /// Until when.
        deadline: Instant,
    },
    /// Send a frame on a control connection.
    Send {
        /// The control connection.
        id: ConnId,
        /// What to say.
        frame: ControlFrame,
    },
    /// Pair a user with an idle message connection and begin a session.
    Start {
        /// The message connection.
        message: ConnId,
        /// The user.
        user: ConnId,
        /// What to tell the client.
        start: Start,
    },
    /// Tell the server that its `Start` was read.
    Accept(ConnId),
    /// End the session on a message connection by `Abort`, and its local side by RST.
    Abort {
        /// The message connection.
        message: ConnId,
        /// Why.
        reason: AbortReason,
    },
    /// Ping an idle message connection.
    Ping(ConnId),
    /// Close a connection.
    Close {
        /// The connection.
        id: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// Everything is done: leave the loop.
    Exit,
}

/// Why a connection was closed. Each connection has exactly one: the first that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both directions ended and were flushed.
    Finished,
    /// The peer closed it.
    PeerClosed,
    /// The operating system reported this error.
    Io(io::ErrorKind),
    /// Dialling it failed.
    DialFailed(io::ErrorKind),
    /// The other end of the session aborted it.
    Aborted(AbortReason),
    /// The message connection under the session broke.
    Truncated,
    /// The peer did what the session table does not know.
    ProtocolError,
    /// A seal did not open, or a length was out of bounds.
    BadRecord,
    /// The first flight proved nothing.
    Stranger(HandshakeError),
    /// The hello names no key or control session that exists, or its ticket is not good.
    UnknownKey,
    /// The handshake took longer than its limit.
    HandshakeTimedOut,
    /// Too many strangers at once: the oldest makes room.
    Evicted,
    /// The client's `Start` was not accepted in time.
    NotAccepted,
    /// A ping was not answered.
    NoPong,
    /// The control connection was silent for the heartbeat's time.
    HeartbeatLost,
    /// The same instance came back on a new connection.
    Replaced,
    /// The client that it belonged to is gone.
    ClientGone,
    /// No client could take the user in time.
    NoClient,
    /// Too many users are waiting, or too many are served.
    Full,
    /// What was aborted did not end, or a good ending was not read, in time.
    EndTimedOut,
    /// A peer does not read what it is sent.
    Overflow,
    /// More idle connections than the pool needs.
    Retired,
    /// The client is leaving, or was turned down.
    Drained,
    /// The process ends.
    Shutdown,
}

impl CloseReason {
    /// Whether the peer must see RST: what it received is not whole.
    pub fn resets(self) -> bool {
        !matches!(
            self,
            Self::Finished
                | Self::PeerClosed
                | Self::DialFailed(_)
                | Self::Stranger(_)
                | Self::UnknownKey
                | Self::HandshakeTimedOut
                | Self::Evicted
                | Self::Retired
                | Self::Drained
        )
    }

    /// Whether what was sent must be read before the connection goes.
    pub fn is_gentle(self) -> bool {
        matches!(self, Self::Retired | Self::Drained)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Io(kind) => write!(f, "{kind}"),
            Self::DialFailed(kind) => write!(f, "could not connect: {kind}"),
            Self::Aborted(reason) => write!(f, "aborted: {reason}"),
            Self::Truncated => f.write_str("its message connection broke"),
            Self::ProtocolError => f.write_str("protocol error"),
            Self::BadRecord => f.write_str("a record that does not open"),
            Self::Stranger(error) => write!(f, "stranger: {error}"),
            Self::UnknownKey => f.write_str("stranger: unknown key, control session or ticket"),
            Self::HandshakeTimedOut => f.write_str("no handshake in time"),
            Self::Evicted => f.write_str("made room for a newer stranger"),
            Self::NotAccepted => f.write_str("the client did not accept a session in time"),
            Self::NoPong => f.write_str("ping not answered"),
            Self::HeartbeatLost => f.write_str("heartbeat lost"),
            Self::Replaced => f.write_str("replaced by a newer connection of the same client"),
            Self::ClientGone => f.write_str("its client is gone"),
            Self::NoClient => f.write_str("no client took the user in time"),
            Self::Full => f.write_str("the limit is reached"),
            Self::EndTimedOut => f.write_str("the other side did not end in time"),
            Self::Overflow => f.write_str("the peer does not read"),
            Self::Retired => f.write_str("no longer needed"),
            Self::Drained => f.write_str("drained"),
            Self::Shutdown => f.write_str("shutting down"),
        }
    }
}

/// A role: the half that decides. See the module's text.
pub trait Machine {
    /// Takes what happened.
    fn handle(&mut self, input: Input, now: Instant);
    /// Takes that the time of [`Machine::poll_timeout`] has come.
    fn handle_timeout(&mut self, now: Instant);
    /// What to do next, until there is nothing more.
    fn poll_output(&mut self) -> Option<Output>;
    /// When to call [`Machine::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
}
