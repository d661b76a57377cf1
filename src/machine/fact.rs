//! What happened, for people: machines and reactor say it, and never write a line themselves.

use std::fmt;
use std::net::SocketAddr;

use log::Level;

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A user was reset at accept, because as many are served as may be.
    UserShed {
        /// The user.
        peer: SocketAddr,
        /// Users that are served.
        users: usize,
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
        Level::Warn
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::UserShed { peer, users } => {
                write!(f, "user {peer} was reset: {users} users are served, the most allowed")
            }
            Fact::AcceptPaused { error } => write!(f, "cannot take connections for now: {error}"),
            Fact::NotWatched { error } => write!(f, "a connection cannot be watched: {error}"),
        }
    }
}
