//! Links: a client's control connection and what hangs on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client_pings::ClientPings;
use super::failing::Failing;
use super::identity::{Identity, Life};
use super::refill::{Burst, More};
use super::services::Readiness;
use super::tickets::{Redeemed, Tickets};
use crate::base::id::{ConnId, LinkId, RateId, kind};
use crate::base::name::Name;
use crate::base::round_trip::RoundTrip;
use crate::base::share::Share;
use crate::base::slots::Slots;
use crate::base::sorted::Set;
use crate::config::limits::Limits;
use crate::machine::{Agenda, Fact, Measured, Output, SILENT_AFTER, Silence, Verdict, quiet_for};
use crate::wire::control::{Capabilities, ControlFrame};
use crate::wire::frame::Sid;
use crate::wire::handshake::{KeyId, Secret};

/// Least time between two pings of a link.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(100);

/// How often sessions may be offered again for each place of the pool.
const OFFERS_PER_PLACE: u32 = 2;

/// A link.
pub(super) struct Link {
    pub control: ConnId,
    pub identity: Identity,
    pub peer: SocketAddr,
    pub capabilities: Capabilities,
    /// When it began.
    pub since: Instant,
    /// Names it in the hello of message connections.
    pub wire_id: KeyId,
    pub pool_key: Secret,
    /// What its sessions share with those of other links of its key.
    pub rate: Option<RateId>,
    pub life: Life,
    /// Silence after which it is given up, if its round trip is not long.
    pub heartbeat: Duration,
    pub heard: Instant,
    /// When its key is good no more.
    pub expires: Option<Instant>,
    silence: Silence,
    pub ping_at: Instant,
    ping_sent: Option<Instant>,
    last_ping: Option<Instant>,
    pub client_pings: ClientPings,
    /// When the last ping that was answered had been sent.
    pub answered_ping_of: Instant,
    pub round_trip: RoundTrip,
    /// Connections that users wait for, beyond those of the pool.
    pub wanted: usize,
    /// It stands in the list of links whose pools are looked at.
    pub refilling: bool,
    /// Users that have come since its client was asked last.
    pub burst: Option<Burst>,
    last_sid: Sid,
    tickets: Tickets,
    /// Message connections that have used a ticket up and are not answered yet.
    coming: usize,
    /// How long the last one took to come after it was asked for, and when it came.
    came: Option<(Duration, Instant)>,
    /// What may be asked for in the place of others that are late.
    instead: Share,
    /// How many more are asked for than users wait for.
    pub more: More,
    /// What may be spent on offering late sessions again, so that no client is made later by it.
    offers: Share,
    /// When its client last accepted a session of a user.
    pub accepted_at: Option<Instant>,
    failing: Failing,
    /// It has refused a session, and started none since: more connections would serve nobody.
    pub refuses: bool,
    /// It stands in the list of links whose idle connections are given to users in a later turn.
    pub listed: bool,
    /// Users whose sessions are overdue, and are looked at again when the client gives a sign of life.
    pub overdue: Set<ConnId>,
    /// The last tickets expired or were given back, and none has brought a message connection since.
    pub brings_none: bool,
    /// An idle message connection was lost, and none has come since.
    pub has_lost_idle: bool,
    /// What it publishes is probed.
    pub is_probed: bool,
}

impl Link {
    /// A link whose client has been heard just now, with a pool of this size.
    pub fn new(
        control: ConnId,
        identity: Identity,
        peer: SocketAddr,
        (wire_id, pool_key): (KeyId, Secret),
        heartbeat: Duration,
        (pool, now): (usize, Instant),
    ) -> Link {
        Link {
            control,
            identity,
            peer,
            capabilities: Capabilities::default(),
            since: now,
            wire_id,
            pool_key,
            rate: None,
            life: Life::Standing,
            heartbeat,
            heard: now,
            expires: None,
            silence: Silence::default(),
            ping_at: now,
            ping_sent: None,
            last_ping: None,
            client_pings: ClientPings::begin(now),
            answered_ping_of: now,
            round_trip: RoundTrip::default(),
            wanted: 0,
            refilling: false,
            burst: None,
            last_sid: 0,
            tickets: Tickets::default(),
            coming: 0,
            came: None,
            instead: Share::new(1),
            more: More::default(),
            offers: Share::full(OFFERS_PER_PLACE * pool as u32),
            accepted_at: None,
            failing: Failing::default(),
            refuses: false,
            listed: false,
            overdue: Set::default(),
            brings_none: false,
            has_lost_idle: false,
            is_probed: false,
        }
    }

    pub fn key(&self) -> &Name {
        &self.identity.key
    }

    /// The number of the next session.
    pub fn next_sid(&mut self) -> Sid {
        self.last_sid += 1;
        self.last_sid
    }

    /// Whether a ping may be sent: none is on its way, and the last one was not sent just now. It is, from now on.
    pub fn may_ping(&mut self, now: Instant) -> bool {
        let paced = self.last_ping.is_none_or(|last| now >= last + PING_INTERVAL);
        let may = paced && self.ping_sent.is_none();
        if may {
            (self.ping_sent, self.last_ping) = (Some(now), Some(now));
        }
        may
    }

    /// Whether a ping is on its way.
    pub fn is_pinged(&self) -> bool {
        self.ping_sent.is_some()
    }

    /// When it was pinged, if the pong is late.
    pub fn owes_pong_since(&self, now: Instant, limits: &Limits) -> Option<Instant> {
        let late_after = self.round_trip.times(3).max(limits.accept);
        self.ping_sent.filter(|&sent| now >= sent + late_after)
    }

    /// How long it may be silent.
    fn patience(&self) -> Duration {
        self.round_trip.wait(self.heartbeat)
    }

    /// Places of its pool. A probe leaves one to users, so that a pool of one place has another for it.
    pub fn places(&self, limits: &Limits) -> usize {
        if self.is_probed { limits.pool.max(limits.messages_sure) } else { limits.pool }
    }

    /// When it is called silent, if a ping is on its way that it has said nothing after.
    pub fn silent_at(&self) -> Option<Instant> {
        let sent = self.ping_sent.filter(|&sent| self.heard <= sent)?;
        Some(sent + self.round_trip.wait(SILENT_AFTER))
    }

    /// How long it has been silent, if it is called so.
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.silent_at().filter(|&at| at <= now).map(|_| now.saturating_duration_since(self.heard))
    }

    /// Whether its client does not bring the message connections that it was asked for.
    pub fn lacks_messages(&self, now: Instant, limits: &Limits) -> bool {
        let patience = self.late_after(limits).max(SILENT_AFTER);
        let is_late = |issued| now >= issued + patience && self.came.is_none_or(|(_, at)| at < issued);
        self.brings_none || self.tickets.oldest().is_some_and(is_late)
    }

    /// Whether it was silent for too long. If it may be, the kernel is asked.
    pub fn is_gone(&mut self, agenda: &mut Agenda) -> bool {
        let verdict = self.silence.judge(self.heard, self.patience(), agenda.now);
        if verdict == Verdict::Ask {
            agenda.push(Output::Measure(self.control));
        }
        verdict == Verdict::GiveUp
    }

    /// The ping was answered.
    pub fn answered(&mut self, now: Instant) {
        self.heard = now;
        if let Some(sent) = self.ping_sent.take() {
            self.answered_ping_of = sent;
            self.round_trip.measured(now.saturating_duration_since(sent));
        }
    }

    /// Whether a late session may be offered again; it is counted, if it may.
    pub fn spend_offer(&mut self) -> bool {
        self.offers.spend()
    }

    /// The client has accepted a session.
    pub fn session_accepted(&mut self, now: Instant) {
        self.accepted_at = Some(now);
        self.offers.earn();
    }

    /// The client did not accept a session in time, or did not start it: it goes behind the others for a while.
    pub fn session_failed(&mut self, now: Instant) {
        self.failing.failed(now);
    }

    /// The client has refused a session. It goes behind the others for a while, unless it does so already.
    pub fn session_refused(&mut self, now: Instant) {
        self.refuses = true;
        if !self.failing.is_so(now) {
            self.failing.failed(now);
        }
    }

    /// The client has started a session.
    pub fn session_started(&mut self) {
        (self.failing, self.refuses) = (Failing::default(), false);
    }

    /// Tickets that may still bring a message connection.
    pub fn outstanding(&self) -> usize {
        self.tickets.outstanding() + self.coming
    }

    /// When the link wants attention next: for a ping, for a ticket or its key that expires, or for its silence.
    pub fn next_due(&self, limits: &Limits) -> Instant {
        let due = self.ping_at.min(self.silence.until(self.heard, self.patience()));
        // What stands in the list is looked at anyway.
        let burst = self.burst.filter(|_| !self.refilling).and_then(|burst| burst.due(&self.round_trip));
        let late = self.tickets.first_not_looked_at().map(|issued| issued + self.late_after(limits));
        let all = [self.tickets.next_expiry(), late, burst, self.expires];
        all.into_iter().flatten().fold(due, Instant::min)
    }

    /// Tells of tickets that the client did not bring.
    fn tell_not_brought(&self, count: usize, agenda: &mut Agenda) {
        if count > 0 && self.life == Life::Standing {
            agenda.fact(Fact::TicketsExpired { key: self.key().clone(), count });
        }
    }

    /// When a message connection is late that was asked for.
    fn late_after(&self, limits: &Limits) -> Duration {
        let took = self.came.map_or(Duration::ZERO, |(took, _)| took);
        limits.late_after(took).max(self.round_trip.times(3))
    }

    /// Others are asked for in the place of message connections that are late, as a share of those that come. Where
    /// none has come since they were asked for, the port may be blocked, and more would not come either.
    fn give_up_late(&mut self, now: Instant, limits: &Limits) -> usize {
        let Some(issued_by) = now.checked_sub(self.late_after(limits)) else { return 0 };
        let rest = self.patience();
        let Link { tickets, instead, came, more, ping_sent, .. } = self;
        let before = tickets.outstanding();
        tickets.look_at_late(issued_by, rest, |issued| {
            // A client that owes a pong is slow.
            let others_come = ping_sent.is_none() && came.is_some_and(|(_, at)| at >= issued);
            if others_come {
                more.late(now);
            }
            others_come && instead.spend()
        });
        let after = tickets.outstanding();
        // Those beyond the pool were meant for users, who wait for others now.
        self.wanted += before.saturating_sub(limits.pool) - after.saturating_sub(limits.pool);
        before - after
    }
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    slots: Slots<kind::Link, Link>,
    wire_ids: HashMap<KeyId, LinkId>,
    identities: HashMap<Identity, LinkId>,
    outstanding: usize,
    /// Listeners of ports that their clients asked for: they take room as links do.
    pub ports: usize,
}

impl Links {
    /// Adds a link; `None` if there are as many as can be named.
    pub fn add(&mut self, link: Link) -> Option<LinkId> {
        let (wire_id, identity) = (link.wire_id, link.identity.clone());
        let id = self.slots.insert(link).ok()?;
        self.wire_ids.insert(wire_id, id);
        self.identities.insert(identity, id);
        Some(id)
    }

    pub fn remove(&mut self, id: LinkId) -> Option<Link> {
        let link = self.slots.remove(id)?;
        self.outstanding -= link.outstanding();
        self.wire_ids.remove(&link.wire_id);
        if self.identities.get(&link.identity) == Some(&id) {
            self.identities.remove(&link.identity);
        }
        Some(link)
    }

    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id)
    }

    /// Whether a link may be given users.
    pub fn may_serve(&self, id: LinkId) -> bool {
        self.get(id).is_some_and(|link| link.life == Life::Standing)
    }

    /// Whether a link that has an idle connection may be given a user now.
    pub fn readiness(&self, id: LinkId, now: Instant) -> Readiness {
        match self.get(id) {
            Some(link) if link.life == Life::Standing && link.failing.is_so(now) => Readiness::Failing,
            Some(link) if link.life == Life::Standing => Readiness::Ready,
            _ => Readiness::Not,
        }
    }

    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The links of this slot and of those behind it.
    pub fn iter_from(&self, slot: u32) -> impl Iterator<Item = (LinkId, &Link)> {
        self.slots.iter_from(slot)
    }

    pub fn ids(&self) -> Vec<LinkId> {
        self.slots.iter().map(|(id, _)| id).collect()
    }

    /// The link that a message connection's hello names.
    pub fn of_wire_id(&self, wire_id: &KeyId) -> Option<LinkId> {
        self.wire_ids.get(wire_id).copied()
    }

    /// The link that a client's older self has. One that drains stays beside the new one.
    pub fn older_self(&self, identity: &Identity) -> Option<LinkId> {
        self.identities.get(identity).copied().filter(|&id| self.may_serve(id))
    }

    /// Sets when a link wants attention next.
    pub fn schedule(&self, id: LinkId, agenda: &mut Agenda) {
        let Some(link) = self.get(id) else { return };
        agenda.at(link.control, Some(link.next_due(&agenda.limits)));
    }

    // Silence.

    /// How long a ping of its message connections may go unanswered, whatever its round trip becomes meanwhile.
    pub fn pong_time(&self, id: LinkId, limits: &Limits) -> Duration {
        limits.pong + self.get(id).map_or(Duration::ZERO, |link| link.round_trip.times(4))
    }

    /// What the kernel knows of a link is known.
    pub fn known(&mut self, id: Option<LinkId>, it: Measured, agenda: &mut Agenda) {
        let Some(link) = id.and_then(|id| self.get_mut(id)) else { return };
        // Its client may have been heard for the last time so much sooner than it heard this server.
        let outlasts = Some(quiet_for(link.heartbeat));
        link.silence.measured(link.heard, link.patience(), outlasts, it, agenda.now);
        agenda.at(link.control, Some(link.next_due(&agenda.limits)));
    }

    /// The system was suspended: clients may have given their links up, or be where no packet finds the way.
    pub fn woken(&mut self, agenda: &mut Agenda) {
        for (_, link) in self.slots.iter_mut() {
            if link.may_ping(agenda.now) {
                agenda.push(Output::Send { id: link.control, frame: ControlFrame::Ping });
            }
            link.silence.ends_at(link.heard, agenda.now + link.round_trip.wait(agenda.limits.woken));
            agenda.at(link.control, Some(link.next_due(&agenda.limits)));
        }
    }

    /// Another client would have the place of a link that is pinged: it must be heard soon. One that is not pinged was
    /// heard a moment ago.
    pub fn contest(&mut self, id: LinkId, agenda: &mut Agenda) {
        let Some(link) = self.get_mut(id).filter(|link| link.is_pinged()) else { return };
        let until = agenda.now + link.round_trip.wait(agenda.limits.contest);
        let until = until.min(link.silence.until(link.heard, link.patience()));
        link.silence.ends_at(link.heard, until);
        self.schedule(id, agenda);
    }

    // Tickets; all of them are counted.

    /// Tickets of all links that may still bring a message connection.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Issues consecutive tickets of a link; returns the first.
    pub fn issue(&mut self, id: LinkId, count: usize, now: Instant, until: Instant) -> Option<u64> {
        let link = self.slots.get_mut(id)?;
        self.outstanding += count;
        Some(link.tickets.issue(count, now, until))
    }

    /// Uses a ticket of a link up; false if it is not good. One that was not issued yet is, if there `has_room` for it.
    pub fn redeem(&mut self, id: LinkId, ticket: u64, has_room: bool, now: Instant) -> bool {
        let Some(link) = self.slots.get_mut(id) else { return false };
        let until = now + link.patience();
        match link.tickets.redeem(ticket) {
            Redeemed::InTime(issued) => {
                link.came = Some((now.saturating_duration_since(issued), now));
                link.instead.earn();
            }
            Redeemed::Uncounted => self.outstanding += 1,
            Redeemed::No if has_room && link.tickets.run_ahead(ticket, now, until) => self.outstanding += 1,
            Redeemed::No => return false,
        }
        link.coming += 1;
        // Its client is there, even if TCP still pauses on the control connection.
        link.heard = now;
        true
    }

    /// Has a message connection answered that proved a secret of this link. The link's heartbeat holds for it.
    pub fn answer(&self, id: LinkId, message: ConnId, plain: bool, agenda: &mut Agenda) {
        if let Some(link) = self.get(id) {
            agenda.push(Output::Answer { id: message, plain, heartbeat: link.heartbeat });
        }
    }

    /// What had a ticket of this link has come, or will not; false if the link is gone.
    pub fn arrived(&mut self, id: LinkId) -> bool {
        let Some(link) = self.slots.get_mut(id) else { return false };
        link.coming -= 1;
        self.outstanding -= 1;
        true
    }

    /// Takes back tickets of a link that its client will not bring.
    pub fn void(&mut self, id: LinkId, first: u64, count: u32, agenda: &mut Agenda) {
        let Some(link) = self.slots.get_mut(id) else { return };
        let voided = link.tickets.void(first, count);
        self.outstanding -= voided;
        link.brings_none |= voided > 0;
        link.tell_not_brought(voided, agenda);
    }

    /// What a link's client was asked may be lost: it is asked anew.
    pub fn ask_anew(&mut self, id: LinkId, pool: usize) {
        let Some(link) = self.slots.get_mut(id) else { return };
        let asked = link.tickets.let_go(link.round_trip.wait(link.heartbeat));
        self.outstanding -= asked;
        // Those beyond the pool were meant for users, who wait for others now.
        link.wanted += asked.saturating_sub(pool);
        (link.ping_sent, link.brings_none) = (None, false);
    }

    /// Drops a link's tickets whose time is over, and tells of them, if they were `awaited`; returns whether there are
    /// any. Some of those that are late count no more.
    pub fn expire(&mut self, id: LinkId, awaited: bool, agenda: &mut Agenda) -> bool {
        let Some(link) = self.slots.get_mut(id) else { return false };
        self.outstanding -= link.give_up_late(agenda.now, &agenda.limits);
        let expired = link.tickets.expire(agenda.now, link.round_trip.wait(link.heartbeat));
        self.outstanding -= expired;
        link.brings_none |= expired > 0;
        // One that owes a pong may not have read what it was asked for.
        if awaited && link.owes_pong_since(agenda.now, &agenda.limits).is_none() {
            link.tell_not_brought(expired, agenda);
        }
        expired > 0
    }
}
