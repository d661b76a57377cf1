//! Where the server is, and what is proved to it.

use crate::base::address::HostPort;
use crate::base::id::NameId;
use crate::config::Key;

/// What the way leads to, and what is proved there.
pub(super) struct Settings {
    pub key: Key,
    /// Random per process.
    pub instance: [u8; 16],
    pub plain: bool,
    pub server: HostPort,
    /// The server's name.
    pub name: NameId,
    /// The name of the host for message connections, if it is another.
    pub message_name: Option<NameId>,
}

impl Settings {
    /// All names that lead to the server.
    pub fn names(&self) -> impl Iterator<Item = NameId> + use<> {
        [Some(self.name), self.message_name].into_iter().flatten()
    }
}
