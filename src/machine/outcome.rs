//! What became of a user, in the few words by which users are counted. It follows from the very reason that is told of
//! it, so that the log and the counters cannot disagree.

use super::close::CloseReason;
use super::ending::Ending;
use super::status::{CAUSES, ENDS};
use crate::wire::frame::AbortReason;

/// How a session ended: the places of [`ENDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions ended whole.
    Finished,
    /// The user's connection broke.
    UserReset,
    /// The local server's connection broke.
    LocalReset,
    /// What lies between the two processes broke, or one of them.
    LinkLost,
    /// What it belonged to was removed from a configuration.
    Removed,
    /// A process ended that had waited for it as long as it may.
    Drained,
    /// No byte of it moved for as long as its service lets it be idle.
    Idle,
}

/// Why a user was not served: the places of [`CAUSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No client serves its service.
    NoClient,
    /// No local server took it.
    LocalRefused,
    /// No client took it in the time that it had.
    WaitOver,
    /// The service has as many users as it may have.
    UsersLimit,
    /// Its address has as many users of the service as it may have.
    AddressLimit,
    /// The keys of those that could serve it have as many users as they may have.
    KeyUsersLimit,
    /// The process serves as many users as it may, or as many wait.
    Full,
    /// The service takes no users from there.
    From,
    /// Too many came at once.
    Rate,
    /// The system has no more file descriptors.
    Descriptors,
    /// It left before it was served.
    Left,
    /// Its service was removed from the configuration.
    Removed,
    /// The process ends.
    Drained,
    /// Something else.
    Other,
}

// A place without a word would be a panic.
const _: () = assert!(End::Idle as usize + 1 == ENDS.len() && Cause::Other as usize + 1 == CAUSES.len());

/// What became of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was served.
    Ended(End),
    /// It was not.
    Refused(Cause),
}

impl Outcome {
    /// What became of a user that is gone, by why its connection, or the proxy connection of its session, was closed;
    /// and whether it was served.
    pub fn of(ending: Ending, served: bool) -> Outcome {
        let (reason, here, there) = match ending {
            Ending::User(reason) => (reason, End::UserReset, End::LocalReset),
            Ending::Proxy(reason) => (reason, End::LocalReset, End::UserReset),
        };
        match refusal(reason) {
            Some(cause) => Outcome::Refused(cause),
            None if served => Outcome::Ended(end(reason, here, there)),
            None => Outcome::Refused(unserved(reason)),
        }
    }
}

/// Why a user was refused, where the reason says that it was.
fn refusal(reason: CloseReason) -> Option<Cause> {
    Some(match reason {
        CloseReason::NoClient => Cause::NoClient,
        CloseReason::DialFailed(_) | CloseReason::Aborted(AbortReason::Refused) => Cause::LocalRefused,
        CloseReason::NotAccepted | CloseReason::NotStarted | CloseReason::NotReached => Cause::WaitOver,
        CloseReason::UsersLimit => Cause::UsersLimit,
        CloseReason::AddressLimit => Cause::AddressLimit,
        CloseReason::KeyUsersLimit => Cause::KeyUsersLimit,
        CloseReason::Full => Cause::Full,
        CloseReason::From => Cause::From,
        _ => return None,
    })
}

/// How a session ended; `here` if its local side broke, `there` if that at the other end did.
fn end(reason: CloseReason, here: End, there: End) -> End {
    match reason {
        CloseReason::Finished => End::Finished,
        CloseReason::Io(_)
        | CloseReason::PeerClosed
        | CloseReason::EndTimedOut
        | CloseReason::Unacknowledged
        | CloseReason::Overflow => here,
        CloseReason::Aborted(AbortReason::Reset) => there,
        CloseReason::Idle | CloseReason::Aborted(AbortReason::Idle) => End::Idle,
        CloseReason::Removed | CloseReason::Policy | CloseReason::Aborted(AbortReason::Removed) => {
            End::Removed
        }
        CloseReason::Shutdown | CloseReason::Drained | CloseReason::Aborted(AbortReason::Shutdown) => {
            End::Drained
        }
        _ => End::LinkLost,
    }
}

/// Why a user was not served, where the reason does not say so by itself.
fn unserved(reason: CloseReason) -> Cause {
    match reason {
        CloseReason::Io(_)
        | CloseReason::PeerClosed
        | CloseReason::EndTimedOut
        | CloseReason::Unacknowledged
        | CloseReason::Aborted(AbortReason::Reset) => Cause::Left,
        CloseReason::LinkLost | CloseReason::Truncated | CloseReason::Aborted(AbortReason::Duplicate) => {
            Cause::NoClient
        }
        CloseReason::Removed | CloseReason::Policy | CloseReason::Aborted(AbortReason::Removed) => {
            Cause::Removed
        }
        CloseReason::Shutdown | CloseReason::Drained | CloseReason::Aborted(AbortReason::Shutdown) => {
            Cause::Drained
        }
        _ => Cause::Other,
    }
}
