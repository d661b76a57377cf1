//! Bulk flows on plain message connections: from socket to socket through a pipe (splice(2)).
//!
//! A flow counts as bulk once its reads fill, and as sparse again once a splice is short. Everything else about it is
//! the relay's: a side is spliced from only while the other has nothing left to write, and what does not fit stays in
//! the pipe.

use std::io;

use crate::base::id::ConnId;
use crate::machine::CloseReason;
use crate::reactor::connections::{Connections, Message};
use crate::reactor::world::network::Socket;
use crate::session::Stage;

/// Most bytes of one splice, and of one spliced record: what a pipe holds.
pub(super) const SPLICE_BYTES_MAX: usize = 256 * 1024;
/// A splice of fewer bytes makes a flow sparse: reading them would have been cheaper.
pub(super) const SPARSE_BYTES: usize = 16 * 1024;

/// What became of an attempt to splice.
pub(super) enum Spliced {
    /// Bytes moved: go on.
    Moved,
    /// Nothing more to do for now.
    Stopped,
    /// Not here: read and write instead.
    Unavailable,
}

/// Whether a message connection's payload may go out as it is, and need not be kept for sending it again.
pub(super) fn splices(message: &Message) -> bool {
    message.channel.is_plain() && message.session.stage() == Some(Stage::Started)
}

/// What to do when nothing was spliced out of a socket. At an urgent mark splice(2) says that there is nothing to
/// read, or that the stream has ended: read(2) passes it, and decides.
pub(super) fn unspliced<S: Socket>(
    all: &mut Connections<S>,
    id: ConnId,
    result: io::Result<usize>,
) -> Spliced {
    match result {
        Ok(_) => Spliced::Unavailable,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Spliced::Moved,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Spliced::Unavailable,
        Err(error) if cannot_splice(&error) => Spliced::Unavailable,
        // Told once: reading would now see a clean end.
        Err(error) => {
            all.reset(id, CloseReason::Io(error.into()));
            Spliced::Stopped
        }
    }
}

/// Whether the kernel cannot splice this socket at all (splice(2): EINVAL, ENOSYS; EPERM where a sandbox forbids the
/// call, seccomp(2)), rather than the connection having failed.
fn cannot_splice(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied)
}
