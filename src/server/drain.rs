//! How far the server's own drain has come.

/// A server that drains takes no user any more, and keeps idle message connections for as long as a session that is
/// not accepted yet may need another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Drain {
    /// The server does not drain.
    #[default]
    No,
    /// Users wait, or their sessions are not accepted yet.
    Begun,
    /// Every session was accepted: connections close when they are idle.
    Retiring,
}

impl Drain {
    /// Takes how many users wait or are not accepted; true if idle connections close from now on.
    pub fn retires_at(&mut self, unaccepted: usize) -> bool {
        let retires = *self == Drain::Begun && unaccepted == 0;
        if retires {
            *self = Drain::Retiring;
        }
        retires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_close_once_no_session_is_unaccepted() {
        let mut drain = Drain::No;
        assert!(!drain.retires_at(0));
        drain = Drain::Begun;
        assert!(!drain.retires_at(1) && drain.retires_at(0));
        assert_eq!(drain, Drain::Retiring);
        assert!(!drain.retires_at(0), "once");
    }
}
