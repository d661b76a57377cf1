//! Why a session ended, in the words of those who run the two ends. One event has the same words in both logs, though
//! it closes a user's connection at the server for one reason and the proxy connection at the client for another.

use std::fmt;
use std::io::ErrorKind;

use super::close::CloseReason;
use super::fault::Fault;
use crate::wire::frame::AbortReason;

/// Why the local side of a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At the server: why a user's connection was closed.
    User(CloseReason),
    /// At the client: why a proxy connection was closed.
    Proxy(CloseReason),
}

/// What breaks one of the two connections of a session, outside of skyorg.
fn write_broken(f: &mut fmt::Formatter<'_>, who: &str, fault: Fault) -> fmt::Result {
    match fault.kind() {
        // Linux says EPIPE if a FIN came before the RST (tcp(7)).
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => write!(f, "{who} reset"),
        _ => write!(f, "{who} lost: {fault}"),
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (here, there, reason) = match self {
            Ending::User(reason) => (("user", "server"), ("local server", "client"), reason),
            Ending::Proxy(reason) => (("local server", "client"), ("user", "server"), reason),
        };
        match (self, reason) {
            (_, CloseReason::Io(fault)) => write_broken(f, here.0, *fault),
            (_, CloseReason::Aborted(AbortReason::Reset)) => write!(f, "{} reset", there.0),
            (_, CloseReason::Aborted(AbortReason::Shutdown)) => write!(f, "{} ended", there.1),
            (_, CloseReason::Aborted(reason)) => write!(f, "{reason}"),
            (_, CloseReason::Shutdown) => write!(f, "{} ended", here.1),
            (_, CloseReason::EndTimedOut) => write!(f, "{} did not read in time", here.0),
            (_, CloseReason::Unacknowledged) => write!(f, "{} acknowledged nothing", here.0),
            (Ending::User(_), CloseReason::Truncated) => write!(f, "{}", CloseReason::LinkLost),
            // A server that lives ends a message connection whose user is gone while the local server does not read.
            (Ending::Proxy(_), CloseReason::Truncated) => f.write_str("ended by the server"),
            (_, reason) => write!(f, "{reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_has_the_same_words_at_both_ends() {
        let reset = CloseReason::Io(ErrorKind::ConnectionReset.into());
        let aborted = CloseReason::Aborted;
        for (words, user, proxy) in [
            ("finished", CloseReason::Finished, CloseReason::Finished),
            ("user reset", reset, aborted(AbortReason::Reset)),
            ("user reset", CloseReason::Io(ErrorKind::BrokenPipe.into()), aborted(AbortReason::Reset)),
            ("local server reset", aborted(AbortReason::Reset), reset),
            ("idle", CloseReason::Idle, aborted(AbortReason::Idle)),
            ("removed from the configuration", aborted(AbortReason::Removed), CloseReason::Removed),
            (
                "local server reset",
                aborted(AbortReason::Reset),
                CloseReason::Io(ErrorKind::BrokenPipe.into()),
            ),
            ("link lost", CloseReason::LinkLost, CloseReason::LinkLost),
            ("server ended", CloseReason::Shutdown, aborted(AbortReason::Shutdown)),
            ("client ended", aborted(AbortReason::Shutdown), CloseReason::Shutdown),
            (
                "a duplicate of a session already seen",
                aborted(AbortReason::Duplicate),
                aborted(AbortReason::Duplicate),
            ),
        ] {
            assert_eq!(Ending::User(user).to_string(), words);
            assert_eq!(Ending::Proxy(proxy).to_string(), words);
        }
    }

    #[test]
    fn what_one_end_alone_knows_has_its_own_words() {
        let timed_out = CloseReason::Io(ErrorKind::TimedOut.into());
        for (ending, words) in [
            (Ending::User(CloseReason::Truncated), "link lost"),
            (Ending::Proxy(CloseReason::Truncated), "ended by the server"),
            (Ending::User(timed_out), "user lost: timed out"),
            (Ending::Proxy(timed_out), "local server lost: timed out"),
            (Ending::User(CloseReason::EndTimedOut), "user did not read in time"),
            (Ending::Proxy(CloseReason::EndTimedOut), "local server did not read in time"),
            (Ending::User(CloseReason::NoClient), "no client took the user in time"),
            (Ending::User(CloseReason::NotReached), "no message connection came for the user in time"),
            (
                Ending::User(CloseReason::Aborted(AbortReason::Refused)),
                "the local server did not take the connection",
            ),
        ] {
            assert_eq!(ending.to_string(), words);
        }
    }
}
