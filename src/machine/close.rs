//! How and why a connection ends.

use std::fmt;

use super::fault::{Advised, Fault};
use crate::wire::frame::AbortReason;
use crate::wire::handshake::{HandshakeError, Purpose};

/// How a connection is closed. A machine says it; it does not follow from the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By RST, at once: what its peer received is not whole.
    Reset,
    /// What was sent is flushed and read by the peer; then it ends.
    Whole,
    /// A stranger is told nothing: it is read, not answered, and closed at a time that was drawn when it came.
    Discard,
}

/// Why a connection was closed. Each connection has exactly one: the first that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both directions ended and were flushed.
    Finished,
    /// The peer closed it.
    PeerClosed,
    /// The operating system reported this error.
    Io(Fault),
    /// Dialling it failed.
    DialFailed(Fault),
    /// The other end of the session aborted it.
    Aborted(AbortReason),
    /// The message connection under the session broke.
    Truncated,
    /// The peer did what the session table does not allow.
    ProtocolError,
    /// A seal did not open, or a length was out of bounds.
    BadRecord,
    /// The first flight proved nothing.
    Stranger(HandshakeError),
    /// The hello names no key that exists.
    UnknownKey,
    /// The hello names no link that exists.
    UnknownLink,
    /// It proved the secret of its link, and its ticket is used up or not good: one of two dials of a client that is on
    /// a lossy line.
    UnknownTicket,
    /// A recorded first flight came again.
    Replayed,
    /// The handshake took longer than its limit.
    HandshakeTimedOut,
    /// There are too many strangers at once, and this one made room.
    Evicted,
    /// The client's `Start` was not accepted in time.
    NotAccepted,
    /// The client connected to no local server in time, and did not say so.
    NotStarted,
    /// A ping was not answered.
    NoPong,
    /// The peer was silent for as long as the heartbeat allows.
    HeartbeatLost,
    /// A user or local server acknowledged nothing that it was sent for too long.
    Unacknowledged,
    /// The same instance came back on a new connection.
    Replaced,
    /// The link that it belonged to is gone.
    LinkLost,
    /// No client could take the user in time.
    NoClient,
    /// A client could take the user, and no message connection came for it in time.
    NotReached,
    /// Too many users are waiting, or too many are served.
    Full,
    /// What was aborted did not end, or a good ending was not read, in time.
    EndTimedOut,
    /// The policy does not allow it any more.
    Policy,
    /// The service takes no users from there.
    From,
    /// The service has as many users as it may have.
    UsersLimit,
    /// The user's address has as many users of the service as it may have.
    AddressLimit,
    /// The clients that could serve the user have as many users as their key allows.
    KeyUsersLimit,
    /// The key was taken out of the key file, or has another secret now.
    KeyRevoked,
    /// The key is good no longer.
    KeyExpired,
    /// No byte of the session moved for as long as it may be idle.
    Idle,
    /// A peer does not read what it is sent.
    Overflow,
    /// More idle connections than the pool needs.
    Retired,
    /// What it belonged to was removed from the configuration.
    Removed,
    /// The client is leaving, or was refused.
    Drained,
    /// The process ends.
    Shutdown,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::PeerClosed => f.write_str("closed by the peer"),
            Self::Io(fault) => write!(f, "{fault}"),
            Self::DialFailed(fault) => write!(f, "could not connect: {}", Advised(*fault)),
            Self::Aborted(reason) => write!(f, "aborted: {reason}"),
            Self::Truncated => f.write_str("its message connection broke"),
            Self::ProtocolError => f.write_str("protocol error"),
            Self::BadRecord => f.write_str("a record that does not open"),
            Self::Stranger(error) => write!(f, "stranger: {error}"),
            Self::UnknownKey => f.write_str("stranger: unknown key"),
            Self::UnknownLink => f.write_str("stranger: unknown link"),
            Self::UnknownTicket => f.write_str("its ticket is used up or unknown"),
            Self::Replayed => f.write_str("stranger: a recorded handshake came again"),
            Self::HandshakeTimedOut => f.write_str("no handshake in time"),
            Self::Evicted => f.write_str("made room for a newer stranger"),
            Self::NotAccepted => f.write_str("the client did not accept a session in time"),
            Self::NotStarted => f.write_str("the client did not start a session in time"),
            Self::NoPong => f.write_str("ping not answered"),
            Self::Unacknowledged => f.write_str("acknowledges nothing"),
            Self::HeartbeatLost => f.write_str("heartbeat lost"),
            Self::Replaced => f.write_str("replaced by a newer connection of the same client"),
            Self::LinkLost => f.write_str("link lost"),
            Self::NoClient => f.write_str("no client took the user in time"),
            Self::NotReached => f.write_str("no message connection came for the user in time"),
            Self::Full => f.write_str("the limit is reached"),
            Self::EndTimedOut => f.write_str("the other side did not end in time"),
            Self::Policy => f.write_str("the policy does not allow it any more"),
            Self::From => f.write_str("the service takes no users from there"),
            Self::UsersLimit => f.write_str("the service has as many users as it may have"),
            Self::AddressLimit => f.write_str("its address has as many users as it may have"),
            Self::KeyUsersLimit => f.write_str("the key that serves it has as many users as it may have"),
            Self::KeyRevoked => f.write_str("key revoked"),
            Self::KeyExpired => f.write_str("key expired"),
            Self::Idle => write!(f, "{}", AbortReason::Idle),
            Self::Overflow => f.write_str("the peer does not read"),
            Self::Retired => f.write_str("no longer needed"),
            Self::Removed => write!(f, "{}", AbortReason::Removed),
            Self::Drained => f.write_str("drained"),
            Self::Shutdown => f.write_str("shutting down"),
        }
    }
}

impl CloseReason {
    /// What a stranger came for names nothing that is known.
    pub fn unknown(purpose: Purpose) -> CloseReason {
        match purpose {
            Purpose::Control => CloseReason::UnknownKey,
            Purpose::Message => CloseReason::UnknownLink,
        }
    }

    /// What an operator can do about a stranger that went for this reason, if it is a client.
    pub fn advice(self) -> Option<&'static str> {
        match self {
            Self::UnknownKey => Some(
                "if this key was added to the key file since the server started, SIGHUP has the server read it again",
            ),
            Self::Stranger(HandshakeError::Unproved) => {
                Some("its secret is another one: compare the key lines on both sides")
            }
            _ => None,
        }
    }

    /// Whether a client that goes for this reason may do nothing there any more.
    pub fn bars_a_client(self) -> bool {
        matches!(self, Self::KeyRevoked | Self::KeyExpired | Self::Policy)
    }

    /// Whether a user that goes for this reason was never served.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::NoClient
                | Self::NotReached
                | Self::Full
                | Self::NotStarted
                | Self::From
                | Self::UsersLimit
                | Self::AddressLimit
                | Self::KeyUsersLimit
                | Self::Aborted(AbortReason::Refused)
        )
    }

    /// The reason without its details, by which complaints are throttled.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::DialFailed(_) => "dial",
            Self::PeerClosed => "closed by the peer",
            Self::Stranger(HandshakeError::NotSkyorg) => "not skyorg",
            Self::Stranger(HandshakeError::Version(_)) => "handshake version",
            Self::Stranger(HandshakeError::Field) => "handshake field",
            Self::Stranger(HandshakeError::Unproved) => "wrong secret",
            Self::UnknownKey => "unknown key",
            Self::UnknownLink => "unknown link",
            Self::UnknownTicket => "unknown ticket",
            Self::Replayed => "replayed",
            Self::HandshakeTimedOut => "no handshake in time",
            Self::Evicted => "evicted",
            Self::ProtocolError => "protocol error",
            Self::BadRecord => "bad record",
            Self::NoClient => "no client",
            Self::NotReached => "not reached",
            Self::Full => "full",
            Self::From => "from",
            Self::UsersLimit => "users limit",
            Self::AddressLimit => "users per address",
            Self::KeyUsersLimit => "users limit of the key",
            Self::NotStarted => "not started",
            Self::Aborted(AbortReason::Refused) => "refused",
            _ => "other",
        }
    }
}
