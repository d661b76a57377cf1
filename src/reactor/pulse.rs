//! Whether those at the far ends of a session are still there.
//!
//! A message connection says `Alive` when nothing else was said for a third of the heartbeat, and is given up when
//! nothing came for the heartbeat, or for four round trips if they take longer, while this end was reading it. Like a
//! link, it may be silent for longer after an outage: see [`longest`]. It is asked for a sign of life when nothing came
//! for half the heartbeat; where TCP had to send again since then, the line was down. So a quiet session keeps its
//! place in NATs and proxies, also while its user reads nothing, and a dead one ends.
//!
//! A user or local server is given up when it has acknowledged nothing for [`Limits::unacknowledged`] while bytes were
//! on their way to it: TCP alone would send them again for a quarter of an hour. One that merely does not read answers
//! the kernel's probes, and stays.
//!
//! Time is counted in rounds, and only in those that were made: a process that was stopped gives nobody up for what it
//! could not hear. No clock is read and no timer set for a byte.
//!
//! [`Limits::unacknowledged`]: crate::config::limits::Limits::unacknowledged

use std::time::{Duration, Instant};

use super::connections::{Connection, Kind, Life, Local, Message};
use super::relay::Relay;
use super::relay::patience::time;
use super::rounds::Round;
use super::world::network::Socket;
use super::world::tcp_info::TcpInfo;
use crate::base::id::ConnId;
use crate::machine::{CloseReason, longest, quiet_for};

/// A tick, in which time is counted here.
const TICK: Duration = Duration::from_micros(62_500);
/// Rounds in the least heartbeat, and the longest time between two.
const ROUNDS: u16 = 16;
const PACE_MAX: Duration = Duration::from_secs(3);

/// A time in ticks, as far as it fits.
fn ticks(time: Duration) -> u16 {
    (time.as_micros() / TICK.as_micros()).min(u16::MAX.into()) as u16
}

/// What is known of both directions of a message connection while a session runs on it.
pub(super) struct Pulse {
    /// In ticks.
    heartbeat: u16,
    unheard: u16,
    unsaid: u8,
    /// How often TCP had sent something again when nothing was heard for half the heartbeat: the last bits.
    sent_again: u8,
}

impl Pulse {
    pub fn new(heartbeat: Duration) -> Pulse {
        Pulse { heartbeat: ticks(heartbeat), unheard: 0, unsaid: 0, sent_again: 0 }
    }

    /// Its heartbeat in ticks.
    pub fn heartbeat(&self) -> u16 {
        self.heartbeat
    }

    /// Something was written, or waits for room.
    pub fn said(&mut self) {
        self.unsaid = 0;
    }

    /// Something was read, or nothing could be.
    pub fn heard(&mut self) {
        self.unheard = 0;
    }

    /// How long it may be silent, in ticks; this is what the kernel knows of it.
    fn limit(&self, info: Option<TcpInfo>) -> u16 {
        let again = info.map_or(Duration::ZERO, |info| info.rto + info.rtt);
        let is_back = info.is_some_and(|info| info.unacked == 0 && info.sent_again as u8 != self.sent_again);
        ticks(longest(time(TICK * u32::from(self.heartbeat), info), again, is_back))
    }
}

/// How long a user or local server has acknowledged nothing of what was sent to it, in ticks; 0 while nothing is known
/// to be on its way.
#[derive(Default)]
pub(super) struct Debt(u16);

impl Debt {
    /// Something was sent.
    pub fn begin(&mut self) {
        self.0 = self.0.max(1);
    }
}

/// The smaller of two that may be missing.
pub(super) fn least(one: Option<u16>, other: Option<u16>) -> Option<u16> {
    [one, other].into_iter().flatten().min()
}

/// The round in which connections of running sessions are looked at.
pub(super) struct Pulses {
    round: Round,
    /// Ticks between the round before this one and this one.
    pace: u16,
    /// The least heartbeat of sessions when this round began, and among those that it meets; none if no session runs.
    met: Option<u16>,
    meets: Option<u16>,
}

impl Pulses {
    pub fn new(now: Instant) -> Pulses {
        Pulses { round: Round::new(now), pace: 0, met: None, meets: None }
    }

    /// When it goes on; `begun` is the least heartbeat of sessions that have begun meanwhile.
    pub fn due(&self, begun: Option<u16>) -> Option<Instant> {
        least(self.met, begun).map(|heartbeat| self.round.due(TICK * u32::from(pace(heartbeat))))
    }

    /// Looks at the next slots.
    pub fn feel<S: Socket>(&mut self, relay: &mut Relay<S>) {
        let (now, begun) = (relay.all.now, relay.all.begun);
        let Some(heartbeat) =
            least(self.met, begun).filter(|_| self.due(begun).is_some_and(|due| due <= now))
        else {
            return;
        };
        if self.round.is_new() {
            (self.met, self.pace, self.meets) = (Some(heartbeat), pace(heartbeat), relay.all.begun.take());
        }
        for slot in self.round.next_slots(relay.all.slots_end(), now) {
            let Some(Connection { id, kind, life: Life::Open, .. }) = relay.all.at(slot) else { continue };
            let id = *id;
            match kind {
                Kind::Message(message) if !message.session.is_idle() => {
                    self.meets = least(self.meets, Some(message.pulse.heartbeat));
                    self.feel_message(relay, id);
                }
                Kind::Local(local) if local.debt.0 > 0 => self.feel_local(relay, id),
                _ => {}
            }
        }
        if self.round.is_new() {
            self.met = self.meets;
        }
    }

    fn feel_message<S: Socket>(&self, relay: &mut Relay<S>, id: ConnId) {
        let reads = relay.reads_message(id);
        let Some(connection) = relay.all.open(id) else { return };
        let flushed = connection.is_flushed();
        let Kind::Message(Message { pulse, .. }) = &mut connection.kind else { return };
        pulse.unsaid = pulse.unsaid.saturating_add(self.pace as u8);
        pulse.unheard = if reads { pulse.unheard.saturating_add(self.pace) } else { 0 };
        let mut mute = u16::from(pulse.unsaid) >= ticks(quiet_for(TICK * u32::from(pulse.heartbeat)));
        // Most are heard long before that, and the kernel is not asked about them.
        let half = pulse.heartbeat / 2;
        if pulse.unheard >= half && pulse.unheard - self.pace < half {
            mute = true;
            pulse.sent_again = connection.socket.tcp_info().map_or(0, |info| info.sent_again as u8);
        }
        let limit = match pulse.unheard >= pulse.heartbeat {
            true => pulse.limit(connection.socket.tcp_info()),
            false => u16::MAX,
        };
        if pulse.unheard >= limit {
            // In the round before, it was read once more.
            let was_silent = pulse.unheard - self.pace >= limit;
            if was_silent && !connection.ready.readable {
                return relay.all.reset(id, CloseReason::HeartbeatLost);
            }
            connection.ready.readable = true;
            relay.all.queue(id);
        }
        // Bytes that wait for room say as much.
        if mute && flushed {
            relay.with_session(id, |session| session.alive());
        }
    }

    fn feel_local<S: Socket>(&self, relay: &mut Relay<S>, id: ConnId) {
        let limit = ticks(relay.limits.unacknowledged);
        let Some(connection) = relay.all.open(id) else { return };
        let Kind::Local(Local { debt, .. }) = &mut connection.kind else { return };
        debt.0 = match connection.socket.tcp_info() {
            Some(info) if info.unacked > 0 || info.notsent_bytes > 0 => {
                // What was sent a moment ago is owed since then, however long nobody has spoken before.
                debt.0.saturating_add(self.pace).min(ticks(info.last_ack_recv)).max(1)
            }
            _ => 0,
        };
        if debt.0 > limit {
            relay.all.reset(id, CloseReason::Unacknowledged);
        }
    }
}

/// Ticks between two rounds.
fn pace(heartbeat: u16) -> u16 {
    (heartbeat / ROUNDS).clamp(1, ticks(PACE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_hears_something_long_before_its_heartbeat_is_over() {
        for heartbeat_s in 1..=3_600 {
            let heartbeat = ticks(Duration::from_secs(heartbeat_s));
            // What was said just after a round counts from the next one on, and `Alive` leaves in a round.
            let latest = ticks(quiet_for(TICK * u32::from(heartbeat))) + 2 * pace(heartbeat);
            assert!(latest < heartbeat / 2, "{heartbeat_s} s: {latest} of {heartbeat} ticks");
        }
    }

    #[test]
    fn a_quiet_session_has_a_chance_to_be_heard_after_an_outage() {
        let heartbeat = Duration::from_secs(30);
        let pulse = Pulse { sent_again: 7, ..Pulse::new(heartbeat) };
        let longer = |rto_s, unacked, sent_again| {
            let rto = Duration::from_secs(rto_s);
            let info = TcpInfo { rto, unacked, sent_again, ..TcpInfo::default() };
            TICK * u32::from(pulse.limit(Some(info))) - heartbeat
        };
        assert_eq!(longer(1, 0, 7), Duration::from_secs(1), "its line was not down");
        assert_eq!(longer(13, 1, 12), Duration::from_secs(13), "it is sent again by then");
        assert_eq!(longer(100, 1, 15), heartbeat, "but not much later");
        assert_eq!(longer(1, 0, 15), heartbeat, "its line is back, and the peer may pause as long");
        assert_eq!(TICK * u32::from(pulse.limit(None)), heartbeat, "the kernel does not say");
    }

    #[test]
    fn rounds_are_as_frequent_as_the_least_heartbeat_needs() {
        let start = Instant::now();
        let mut pulses = Pulses::new(start);
        assert_eq!(pulses.due(None), None, "no session runs");
        assert_eq!(pulses.due(Some(ticks(Duration::from_secs(2)))), Some(start + Duration::from_millis(125)));
        pulses.met = Some(ticks(Duration::from_secs(1)));
        assert_eq!(pulses.due(Some(ticks(Duration::from_secs(30)))), Some(start + TICK));
        assert_eq!(pace(ticks(Duration::from_secs(3_600))), ticks(PACE_MAX));
    }
}
