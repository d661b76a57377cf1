//! What became of a user, in the few words by which users are counted. It follows from the very reason that is told of
//! it, so that the log and the counters cannot disagree.

use super::close::CloseReason;
use super::ending::Ending;
use super::status::{CAUSES, ENDS, HELLO_CAUSES};
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
    /// Too many came at once. No rule does this yet; scripts know the word.
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
/// Why a hello was refused: the places of [`HELLO_CAUSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloCause {
    /// Its key is unknown, or was not proved.
    UnknownKey,
    /// It belongs to a link that there is not, or its ticket is not good.
    UnknownLink,
    /// It was said before.
    Replayed,
    /// It did not come in time.
    NoHandshake,
    /// Others needed its place.
    Evicted,
    /// The versions of both sides, or their options, do not fit.
    Version,
    /// It is no hello of ours.
    NotSkyorg,
    /// Its key may do nothing.
    Policy,
    /// Its key may not come from there.
    From,
    /// Its key has expired.
    Expired,
    /// Its key has as many links as it may have.
    Links,
    /// Anything else.
    Other,
}

const _: () = assert!(
    End::Idle as usize + 1 == ENDS.len()
        && Cause::Other as usize + 1 == CAUSES.len()
        && HelloCause::Other as usize + 1 == HELLO_CAUSES.len()
);

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
        CloseReason::Removed | CloseReason::Aborted(AbortReason::Removed) => End::Removed,
        reason if reason.bars_a_client() => End::Removed,
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
        CloseReason::Removed | CloseReason::Aborted(AbortReason::Removed) => Cause::Removed,
        reason if reason.bars_a_client() => Cause::Removed,
        CloseReason::Shutdown | CloseReason::Drained | CloseReason::Aborted(AbortReason::Shutdown) => {
            Cause::Drained
        }
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::handshake::HandshakeError;
    use std::io::ErrorKind;

    fn word(outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Ended(end) => ENDS[end as usize],
            Outcome::Refused(cause) => CAUSES[cause as usize],
        }
    }

    /// By each reason: what is counted of a user that was served and of one that was not, at the server and at the
    /// client.
    #[test]
    fn every_reason_is_counted_by_one_word() {
        use AbortReason::*;
        use CloseReason::*;
        let (reset, refused) = (ErrorKind::ConnectionReset.into(), ErrorKind::ConnectionRefused.into());
        let same = |word| [word; 4];
        let lost = ["link_lost", "no_client", "link_lost", "no_client"];
        let other = ["link_lost", "other", "link_lost", "other"];
        let broke = ["user_reset", "left", "local_reset", "left"];
        let removed = ["removed"; 4];
        let drained = ["drained"; 4];
        let idle = ["idle", "other", "idle", "other"];
        for (reason, words) in [
            (Finished, ["finished", "other", "finished", "other"]),
            (PeerClosed, broke),
            (Io(reset), broke),
            (EndTimedOut, broke),
            (Unacknowledged, broke),
            (Overflow, ["user_reset", "other", "local_reset", "other"]),
            (Aborted(Reset), ["local_reset", "left", "user_reset", "left"]),
            (Aborted(Refused), same("local_refused")),
            (Aborted(Duplicate), lost),
            (Aborted(AbortReason::Shutdown), drained),
            (Aborted(AbortReason::Idle), idle),
            (Aborted(AbortReason::Removed), removed),
            (DialFailed(refused), same("local_refused")),
            (LinkLost, lost),
            (Truncated, lost),
            (NoClient, same("no_client")),
            (NotReached, same("wait_over")),
            (NotAccepted, same("wait_over")),
            (NotStarted, same("wait_over")),
            (UsersLimit, same("users_limit")),
            (AddressLimit, same("address_limit")),
            (KeyUsersLimit, same("key_users_limit")),
            (Full, same("full")),
            (From, same("from")),
            (CloseReason::Idle, idle),
            (CloseReason::Removed, removed),
            (Policy, removed),
            (KeyRevoked, removed),
            (KeyExpired, removed),
            (CloseReason::Shutdown, drained),
            (Drained, drained),
            // None of these ends a user or a session, but by a fault of the program.
            (ProtocolError, other),
            (BadRecord, other),
            (Stranger(HandshakeError::NotSkyorg), other),
            (UnknownKey, other),
            (UnknownLink, other),
            (UnknownTicket, other),
            (Replayed, other),
            (HandshakeTimedOut, other),
            (Evicted, other),
            (NoPong, other),
            (HeartbeatLost, other),
            (Replaced, other),
            (Retired, other),
        ] {
            let both = [Ending::User(reason), Ending::Proxy(reason)];
            let [user, proxy] =
                both.map(|ending| [true, false].map(|served| word(Outcome::of(ending, served))));
            assert_eq!([user[0], user[1], proxy[0], proxy[1]], words, "{reason:?}");
        }
    }
}
