//! One client as the server sees it: its pool, its tickets, its heartbeat.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::id::ConnId;
use crate::base::name::Name;
use crate::config::limits::Limits;
use crate::wire::frame::Sid;
use crate::wire::handshake::{KeyId, Secret};

/// A client that is connected.
pub(super) struct Client {
    pub control: ConnId,
    pub name: Name,
    pub peer: SocketAddr,
    pub instance: [u8; 16],
    pub session_id: KeyId,
    pub pool_key: Secret,
    /// Which of our services each of its services is.
    pub services: Vec<Option<usize>>,
    /// Its idle message connections; the one used last is at the back.
    pub idle: VecDeque<ConnId>,
    /// Idle ones that are being pinged as a matter of routine.
    pub pinged: usize,
    /// All its message connections.
    pub total: usize,
    pub tickets: Tickets,
    pub draining: bool,
    pub last_heard: Instant,
    pub ping_at: Instant,
    pub ping_sent: Option<Instant>,
    /// When the last ping that was answered had been sent.
    pub answered_ping_of: Instant,
    round_trip: Duration,
    last_sid: Sid,
    running: usize,
    /// Most sessions at once, in this period and in the one before.
    peaks: [usize; 2],
    peak_since: Instant,
}

impl Client {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        control: ConnId,
        name: Name,
        peer: SocketAddr,
        instance: [u8; 16],
        session_id: KeyId,
        pool_key: Secret,
        services: Vec<Option<usize>>,
        now: Instant,
    ) -> Client {
        Client {
            control,
            name,
            peer,
            instance,
            session_id,
            pool_key,
            services,
            idle: VecDeque::new(),
            pinged: 0,
            total: 0,
            tickets: Tickets::default(),
            draining: false,
            last_heard: now,
            ping_at: now,
            ping_sent: None,
            answered_ping_of: now,
            round_trip: Duration::ZERO,
            last_sid: 0,
            running: 0,
            peaks: [0; 2],
            peak_since: now,
        }
    }

    /// The number of the next session.
    pub fn next_sid(&mut self) -> Sid {
        self.last_sid += 1;
        self.last_sid
    }

    /// The heartbeat was answered.
    pub fn answered(&mut self, now: Instant) {
        self.last_heard = now;
        if let Some(sent) = self.ping_sent.take() {
            self.answered_ping_of = sent;
            self.measured(now.saturating_duration_since(sent));
        }
    }

    /// A round trip took this long. The estimate rises at once and falls by an eighth: to send a session again too
    /// early costs more than to wait (RFC 6298, section 2, smooths both ways).
    pub fn measured(&mut self, round_trip: Duration) {
        self.round_trip = round_trip.max((self.round_trip * 7 + round_trip) / 8);
    }

    /// How long it may take to accept a session.
    pub fn accept_time(&self, limits: &Limits) -> Duration {
        (self.round_trip * 3).clamp(limits.accept.0, limits.accept.1)
    }

    pub fn session_began(&mut self, now: Instant, period: Duration) {
        self.running += 1;
        self.turn_peaks(now, period);
        self.peaks[0] = self.peaks[0].max(self.running);
    }

    pub fn session_ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Most sessions at once in the last one to two periods.
    pub fn recent_peak(&mut self, now: Instant, period: Duration) -> usize {
        self.turn_peaks(now, period);
        self.peaks[0].max(self.peaks[1])
    }

    fn turn_peaks(&mut self, now: Instant, period: Duration) {
        let elapsed = now.saturating_duration_since(self.peak_since);
        if elapsed >= period {
            let before = if elapsed >= period * 2 { self.running } else { self.peaks[0] };
            self.peaks = [self.running, before];
            self.peak_since = now;
        }
    }
}

/// The tickets of one control session: each admits one message connection, once, for a while.
#[derive(Default)]
pub(super) struct Tickets {
    last: u64,
    /// Issued and neither redeemed nor expired, in order.
    open: VecDeque<(u64, Instant)>,
}

impl Tickets {
    /// Issues `count` consecutive tickets; returns the first.
    pub fn issue(&mut self, count: usize, expiry: Instant) -> u64 {
        let first = self.last + 1;
        for _ in 0..count {
            self.last += 1;
            self.open.push_back((self.last, expiry));
        }
        first
    }

    /// Uses a ticket up; false if it is not good.
    pub fn redeem(&mut self, ticket: u64) -> bool {
        match self.open.binary_search_by_key(&ticket, |entry| entry.0) {
            Ok(place) => self.open.remove(place).is_some(),
            Err(_) => false,
        }
    }

    /// Drops the tickets whose time is over; true if there were any.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.open.len();
        while self.open.front().is_some_and(|entry| entry.1 <= now) {
            self.open.pop_front();
        }
        self.open.len() < before
    }

    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.open.front().map(|entry| entry.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_for_a_while() {
        let now = Instant::now();
        let mut tickets = Tickets::default();
        assert_eq!(tickets.issue(3, now + Duration::from_secs(1)), 1);
        assert_eq!(tickets.issue(1, now + Duration::from_secs(2)), 4);
        assert!(tickets.redeem(2) && !tickets.redeem(2) && !tickets.redeem(5) && !tickets.redeem(0));
        assert_eq!(tickets.outstanding(), 3);
        assert!(tickets.expire(now + Duration::from_secs(1)));
        assert!(!tickets.redeem(1) && !tickets.redeem(3) && tickets.redeem(4));
    }
}
