//! Seeking a session's local server: which of its addresses are dialled, which have failed, and why.
//!
//! It remembers addresses, because those of a name may change. A dial that is late gets a rival at the next address:
//! no more than two are on their way at once. The first that stands is used.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::id::ConnId;
use crate::base::share::Share;
use crate::machine::{Agenda, CloseReason};

/// Dials of one session that are on their way at once.
const AT_ONCE: usize = 2;
/// Rivals that there may be before a local server was reached.
const RIVALS_FIRST: u32 = 10;
/// Attempts that are kept when they are over.
const KEPT: usize = 16;

/// A dial on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialled {
    pub address: SocketAddr,
    pub at: Instant,
    /// The proxy connection, once it has an id.
    proxy: Option<ConnId>,
}

/// How far a session has come in seeking its local server.
#[derive(Default)]
pub(super) struct Attempt {
    /// The older one first.
    dials: Vec<Dialled>,
    /// Addresses that failed, or were given up.
    failed: Vec<SocketAddr>,
    /// Why the first of them failed that tells something of the local server.
    reason: Option<CloseReason>,
}

impl Attempt {
    /// The address to be dialled next of these, if one is left, and how many are left after it.
    pub fn next(&self, found: &[SocketAddr]) -> Option<(SocketAddr, usize)> {
        let dialled = |address| self.dials.iter().any(|dial| dial.address == address);
        let mut left = found.iter().filter(|&&address| !dialled(address) && !self.failed.contains(&address));
        let next = *left.next()?;
        Some((next, left.count()))
    }

    /// The dial that is on its way and was begun last.
    pub fn last(&self) -> Option<Dialled> {
        self.dials.last().copied()
    }

    pub fn may_have_rival(&self) -> bool {
        self.dials.len() < AT_ONCE
    }

    /// An address is dialled.
    pub fn dial(&mut self, address: SocketAddr, at: Instant) {
        self.dials.push(Dialled { address, at, proxy: None });
    }

    /// The dial that was asked for first has begun; false if none was.
    pub fn begun(&mut self, proxy: ConnId) -> bool {
        let dial = self.dials.iter_mut().find(|dial| dial.proxy.is_none());
        dial.map(|dial| dial.proxy = Some(proxy)).is_some()
    }

    /// Whether this proxy connection is one of its dials.
    pub fn has(&self, proxy: ConnId) -> bool {
        self.dials.iter().any(|dial| dial.proxy == Some(proxy))
    }

    /// A dial is over.
    pub fn take(&mut self, proxy: ConnId) -> Option<Dialled> {
        let place = self.dials.iter().position(|dial| dial.proxy == Some(proxy))?;
        Some(self.dials.remove(place))
    }

    /// An address failed.
    pub fn fail(&mut self, address: SocketAddr, reason: CloseReason) {
        self.failed.push(address);
        let told = self.reason.get_or_insert(reason);
        if is_of_this_host(*told) {
            *told = reason;
        }
    }

    /// Why it has failed so far.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// Gives up the older of its dials; returns its proxy connection.
    pub fn give_up_older(&mut self) -> Option<ConnId> {
        let dial = self.dials.first()?;
        let proxy = dial.proxy?;
        self.failed.push(dial.address);
        self.dials.remove(0);
        Some(proxy)
    }

    /// Dials that were asked for and have not begun.
    fn asked(&self) -> usize {
        self.dials.iter().filter(|dial| dial.proxy.is_none()).count()
    }

    /// It is over; returns the proxy connections of the dials that are left.
    fn end(&mut self) -> impl Iterator<Item = ConnId> {
        self.failed.clear();
        self.reason = None;
        self.dials.drain(..).filter_map(|dial| dial.proxy)
    }
}

/// What attempts share.
pub(super) struct Attempts {
    /// What may be spent on rivals.
    pub rivals: Share,
    /// Dials that were asked for and have not begun: proxy connections that are to be.
    pub asked: usize,
    /// Some attempts that are over, for the next ones to use.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    kept: Vec<Box<Attempt>>,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts { rivals: Share::new(RIVALS_FIRST), asked: 0, kept: Vec::new() }
    }
}

impl Attempts {
    /// A new attempt.
    pub fn begin(&mut self) -> Box<Attempt> {
        self.kept.pop().unwrap_or_default()
    }

    /// An attempt is over, and its dials are not wanted any more. People are told of one of them, for this reason.
    pub fn end(&mut self, attempt: Option<Box<Attempt>>, reason: CloseReason, agenda: &mut Agenda) {
        let Some(mut attempt) = attempt else { return };
        self.asked -= attempt.asked();
        let mut reason = Some(reason);
        attempt.end().for_each(|proxy| agenda.reset(proxy, reason.take().unwrap_or(CloseReason::Retired)));
        if self.kept.len() < KEPT {
            self.kept.push(attempt);
        }
    }
}

/// Whether a dial failed before it left this host, which tells nothing of a local server elsewhere.
fn is_of_this_host(reason: CloseReason) -> bool {
    let CloseReason::DialFailed(fault) = reason else { return false };
    matches!(
        fault.kind(),
        ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable | ErrorKind::Unsupported
    )
}
