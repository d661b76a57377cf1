//! Connections at the message and control port on their way to be admitted, and what a control connection is then.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::id::LinkId;
use crate::base::name::Name;
use crate::machine::LINK_RANDOM_BYTES;

/// At the control or message port, and not admitted yet.
pub(super) struct Stranger {
    pub peer: SocketAddr,
    pub claim: Option<Claim>,
}

/// What a stranger's hello says.
#[derive(Clone)]
pub(super) enum Claim {
    Key(Name),
    Link(LinkId),
}

/// A proved control connection.
pub(super) struct Control {
    pub peer: SocketAddr,
    pub key: Name,
    pub admitted: Instant,
    pub stage: Stage,
}

/// How far a control connection has come.
pub(super) enum Stage {
    /// Its Hello is awaited; with the random bytes of the link that may begin.
    Proved([u8; LINK_RANDOM_BYTES]),
    /// It is the head of a link.
    Linked(LinkId),
    /// It closes, and is not listened to.
    Closing,
}
