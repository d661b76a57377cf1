//! How far the way to a link, or to another control connection for the current one, has come.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::id::ConnId;

/// A dial that has begun.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub id: ConnId,
    pub address: SocketAddr,
    pub at: Instant,
}

/// See the module.
pub(super) enum Stage {
    /// Nothing, until the gateway is due, if it is.
    Pause,
    /// Names are resolved.
    Resolving,
    /// A control connection is asked for, to this address.
    Asked(SocketAddr),
    /// A control connection is on its way.
    Dialling(Begun),
    /// Proved, and Hello is said at this time; waiting for `Welcome`.
    Greeted(Begun, Instant),
}

impl Stage {
    /// The control connection that is on its way, or proved.
    pub fn begun(&self) -> Option<Begun> {
        match *self {
            Stage::Dialling(begun) | Stage::Greeted(begun, _) => Some(begun),
            Stage::Pause | Stage::Resolving | Stage::Asked(_) => None,
        }
    }
}
