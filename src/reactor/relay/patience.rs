//! How long an end may take after an abort or an error: as long as the peer acknowledges or says something, and not
//! much longer. And how long the last bytes of a session that ended well may wait for a local side that is slow: as
//! long as it takes some of them, and for a while where it takes none and answers the kernel's probes.
//!
//! A connection in such an end is looked at several times in the time that it has. What was written to a local side
//! before an abort is gone once the peer has acknowledged it, and not before: a reset would take it back.

use std::time::Duration;

use super::Relay;
use crate::base::id::ConnId;
use crate::machine::CloseReason;
use crate::reactor::connections::{Connection, Kind, Reading, Writing};
use crate::reactor::world::network::Socket;
use crate::reactor::world::tcp_info::TcpInfo;

/// How often a connection is looked at in the time that it has.
const LOOKS: u8 = 8;
/// It has at least so many round trips.
const ROUND_TRIPS: u32 = 4;

/// Longest round trip that is waited for.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);

/// Where a connection stands in the time that it has.
#[derive(Default)]
pub(in crate::reactor) struct Patience {
    /// Looks since something moved, and in all.
    still: u8,
    looks: u8,
    /// A mark of how many bytes its peer had acknowledged. Where two counts have one mark, the next look sees it.
    acknowledged: u8,
}

impl Patience {
    /// Something moved.
    pub fn renew(&mut self) {
        self.still = 0;
    }

    fn note(&mut self, info: Option<TcpInfo>) {
        let acknowledged = info.map_or(0, |info| mark(info.acknowledged_bytes));
        if acknowledged != self.acknowledged {
            (self.acknowledged, self.still) = (acknowledged, 0);
        }
    }
}

/// The upper bits of a product (Knuth, The Art of Computer Programming, 6.4): counts of whole segments differ in them.
fn mark(count: u64) -> u8 {
    (count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl<S: Socket> Relay<'_, S> {
    /// A connection ends unless something moves on it.
    pub(super) fn begin_patience(&mut self, id: ConnId) {
        let info = self.measured(id);
        let least = self.least(id);
        let Some(connection) = self.all.find(id) else { return };
        connection.patience = Patience::default();
        connection.patience.note(info);
        let pause = pause(least, info);
        self.all.set_deadline(id, Some(self.all.now + pause));
    }

    /// Looks at a connection whose deadline has come.
    pub fn look_again(&mut self, id: ConnId) {
        let info = self.measured(id);
        let pause = pause(self.least(id), info);
        let Some(connection) = self.all.find(id) else { return };
        let (reason, is_finishing) = match &connection.kind {
            Kind::Local(local) => (local.overdue(), !local.is_breaking_off()),
            _ => (CloseReason::EndTimedOut, false),
        };
        let patience = &mut connection.patience;
        patience.note(info);
        (patience.still, patience.looks) = (patience.still + 1, patience.looks.saturating_add(1));
        let (still, looks) = (u32::from(patience.still), u32::from(patience.looks));
        // Not even the kernel's probes were answered.
        let is_gone = is_finishing
            && pause * still >= self.limits.unacknowledged
            && info.is_some_and(|info| info.last_ack_recv > self.limits.unacknowledged);
        let reason = if is_gone { CloseReason::Unacknowledged } else { reason };
        let over = still > u32::from(LOOKS)
            || !is_finishing && (patience.looks == u8::MAX || pause * looks >= self.limits.abort_max);
        if over || is_gone || connection.has_aborted() {
            return self.all.reset(id, reason);
        }
        self.all.set_deadline(id, Some(self.all.now + pause));
    }

    /// What the kernel knows of the connection on which a move is awaited: what a local side that failed has said moves
    /// on its message connection.
    fn measured(&mut self, id: ConnId) -> Option<TcpInfo> {
        let failed = self.all.local(id).is_some_and(|local| matches!(local.reading, Reading::Failed(_)));
        let moving = if failed { self.all.peer(id).unwrap_or(id) } else { id };
        self.all.find(moving)?.socket.tcp_info()
    }

    /// How long nothing may move on it, if its round trip is short.
    fn least(&mut self, id: ConnId) -> Duration {
        let is_finishing = self.all.local(id).is_some_and(|local| !local.is_breaking_off());
        if is_finishing { self.limits.finish } else { self.limits.abort }
    }

    /// How long the good end of a connection may take.
    pub fn linger(&mut self, id: ConnId) -> Duration {
        time(self.limits.linger, self.measured(id))
    }
}

/// Time between two looks.
fn pause(least: Duration, info: Option<TcpInfo>) -> Duration {
    time(least, info) / u32::from(LOOKS)
}

/// This time, or [`ROUND_TRIPS`] if they take longer.
pub(in crate::reactor) fn time(least: Duration, info: Option<TcpInfo>) -> Duration {
    let round_trip = info.map_or(Duration::ZERO, |info| info.rtt.min(ROUND_TRIP_MAX));
    least.max(ROUND_TRIPS * round_trip)
}

impl<S: Socket> Connection<S> {
    /// Whether it is a local side that is to be reset, and everything said before has arrived.
    pub(super) fn has_aborted(&self) -> bool {
        let owes = |info: TcpInfo| info.unacked > 0 || info.notsent_bytes > 0;
        matches!(&self.kind, Kind::Local(local) if matches!(local.writing, Writing::Aborting(_)))
            && self.is_flushed()
            && !self.socket.tcp_info().is_some_and(owes)
    }
}
