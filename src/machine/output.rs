//! What a machine asks of the reactor.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::close::{CloseReason, Manner};
use super::fact::Fact;
use crate::base::address::{HostPort, Listen};
use crate::base::id::{AccountId, ConnId, LinkId, ListenerId, NameId, RateId, ServiceId};
use crate::base::rate::Rate;
use crate::wire::control::ControlFrame;
use crate::wire::frame::{AbortReason, Sid, Start};
use crate::wire::handshake::{ClearHello, Secret};

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Users of this service.
    Users(ServiceId),
    /// Clients, with message or control connections: strangers until they prove a secret.
    Clients,
    /// Nobody yet: who connects waits in its queue.
    Shut,
}

/// What a dialled connection is for.
#[derive(Clone, Debug)]
pub enum Dial {
    /// A control connection.
    Control(Greeting),
    /// A message connection of this link, which is the client's own name for it.
    Message(LinkId, Greeting),
    /// A proxy connection for the session of this number that has begun on this message connection. It is not made if
    /// another session has taken its place meanwhile: that one may be of another service. Its bytes are counted there.
    Proxy(ConnId, Sid, Option<AccountId>),
}

/// What a connection that is being dialled is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// A control connection.
    Control,
    /// A message connection of this link.
    Message(LinkId),
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
    /// How long its peer may be silent.
    pub heartbeat: Duration,
}

/// What holds for a user's session beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whose rate it shares.
    pub rate: Option<RateId>,
    /// How long it may go on without a byte in either direction. What its first copy began with holds to its end.
    pub idle: Option<Duration>,
    /// Where its bytes are counted.
    pub account: Option<AccountId>,
}

/// What a machine asks of the reactor. An output that names a connection already marked for closing does nothing.
#[derive(Debug)]
pub enum Output {
    /// Listen at an address. Answered by `Listening` or `ListenFailed`.
    Listen {
        /// Names the listener.
        id: ListenerId,
        /// Where.
        at: Listen,
        /// What connects to it.
        door: Door,
    },
    /// Take what waits in a listener's queue, and close the listener. Answered by `Accepted` for each connection that
    /// was there, and by `Stopped`.
    StopListening(ListenerId),
    /// What a listener takes from now on is for this. Who waits in its queue is taken, if it was shut.
    SetDoor {
        /// The listener.
        id: ListenerId,
        /// What connects to it.
        door: Door,
    },
    /// Take what waits in a listener's queue, and let it refuse whoever comes. Its port stays ours.
    Suspend(ListenerId),
    /// Let a suspended listener listen again. Answered by `Listening` or `ListenFailed`.
    Resume(ListenerId),
    /// Verify a stranger's first flight against this secret.
    Verify {
        /// The stranger.
        id: ConnId,
        /// What it must prove.
        secret: Secret,
    },
    /// Answer a stranger that proved its secret. Answered by `Answered`.
    Answer {
        /// The connection.
        id: ConnId,
        /// Whether its payload travels unsealed.
        plain: bool,
        /// How long its peer may be silent.
        heartbeat: Duration,
    },
    /// This control connection is the head of a link: it no longer counts as a stranger.
    Admit(ConnId),
    /// Find a name's addresses. Answered by `Resolved`.
    Resolve {
        /// Names the question.
        name: NameId,
        /// The host, and the port that its addresses get.
        host: HostPort,
    },
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
    /// Begin a user's session on an idle message connection. They are paired, unless the user is paired already: then
    /// this is one more copy of its session, which gets what the user has said so far.
    Start {
        /// The message connection.
        message: ConnId,
        /// The user.
        user: ConnId,
        /// What to tell the client.
        start: Start,
        /// What holds for it.
        terms: Terms,
    },
    /// Begin a session without a user on an idle message connection, and end its own direction at once. What comes of
    /// it is told by session events, and what the local server says is thrown away. `Abort` ends it.
    Probe {
        /// The message connection.
        message: ConnId,
        /// What to tell the client.
        start: Start,
    },
    /// All sessions that share this rate may pass so many bytes of users each way, or as many as they will; those that
    /// run, too. It comes to be by this, and without a rate it is forgotten.
    Rate {
        /// Names it.
        id: RateId,
        /// How many.
        rate: Option<Rate>,
    },
    /// Pair a user with the copy of its session that the client has accepted, and with no other.
    Take {
        /// The message connection.
        message: ConnId,
        /// The user.
        user: ConnId,
    },
    /// End the copy of a session on this message connection by `Abort`, and leave its user alone.
    AbortCopy(ConnId),
    /// Tell the server that its `Start` was read.
    Accept(ConnId),
    /// End the session on a message connection by `Abort`, and its local side by RST.
    Abort {
        /// The message connection.
        message: ConnId,
        /// Why.
        reason: AbortReason,
    },
    /// Ask what the kernel knows of a control connection. Answered by `Measured`.
    Measure(ConnId),
    /// Ping an idle message connection.
    Ping(ConnId),
    /// Close a connection.
    Close {
        /// The connection.
        id: ConnId,
        /// Why.
        reason: CloseReason,
        /// How.
        manner: Manner,
    },
    /// Let in no more users at once than this.
    LimitUsers(usize),
    /// Tell people.
    Fact(Fact),
    /// Everything is done: leave the loop.
    Exit,
}
