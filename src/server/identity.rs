//! Whose a link is, and where it stands in its life.

use crate::base::id::HolderId;
use crate::base::name::Name;
use crate::wire::handshake::KeyId;

/// Whose link it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// The key that the client holds.
    pub key: Name,
    /// What follows from its secret: a key of this name may have another one later.
    pub key_id: KeyId,
    /// Whoever holds it.
    pub holder: HolderId,
    /// Random per process of the client.
    pub instance: [u8; 16],
}

/// Where a link stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Standing,
    /// The client is leaving: it is given no user.
    Draining,
}
