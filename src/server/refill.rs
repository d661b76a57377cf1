//! How many message connections a link lacks, and asking its client for them.

use std::time::{Duration, Instant};

use super::links::{Link, Links};
use super::pool::Pools;
use crate::base::id::LinkId;
use crate::base::round_trip::RoundTrip;
use crate::config::limits::Limits;
use crate::machine::{Agenda, Output};
use crate::wire::control::ControlFrame;

/// Message connections that a client is asked for at once; one that brought none of the last is asked for one.
const ASKED_MAX: usize = 128;

/// A client may bring message connections that it was not asked for while fewer than this wait for users.
const UNASKED_MAX: usize = 32;

/// A burst of users is over when none has come for this part of a round trip, and for this time.
const PAUSE_OF_ROUND_TRIP: u32 = 64;
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// It is asked for after this part of a round trip at the latest. So what is asked for in a round trip fits the ten
/// packets that a connection may have on their way at first (RFC 6928).
const BURST_OF_ROUND_TRIP: u32 = 8;

/// With every so many message connections that users wait for, one more is asked for.
const MORE_OF: usize = 20;
/// The same for a while after one was late.
const MORE_OF_LATE: usize = 10;
const MORE_FOR: Duration = Duration::from_secs(60);

/// Users of a link that come one upon another. Of many small packets, the later ones wait for those that are lost, and
/// for the acknowledgement of those that are not. So the first user is asked for at once, and others once they are as
/// many as all before them, or once no more come: a burst of 128 is asked for in eight `Open`s, and those of its first
/// users are on their way while the last ones come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    /// When the first came that is not asked for yet.
    first: Instant,
    last: Instant,
    /// How many have come since its client was asked.
    waiting: usize,
    asked_for: usize,
}

impl Burst {
    /// One more user has come.
    pub fn note(burst: &mut Option<Burst>, round_trip: &RoundTrip, now: Instant) {
        let standing = burst.filter(|burst| burst.waiting > 0 || now <= burst.last + pause(round_trip));
        let it = burst.insert(standing.unwrap_or(Burst { first: now, last: now, waiting: 0, asked_for: 0 }));
        if it.waiting == 0 {
            it.first = now;
        }
        it.last = now;
        it.waiting += 1;
    }

    /// When it is to be asked for. Where a round trip is short, there is nothing to be won by waiting.
    pub fn due(&self, round_trip: &RoundTrip) -> Option<Instant> {
        let longest = round_trip.smoothed() / BURST_OF_ROUND_TRIP;
        let pause = pause(round_trip);
        let is_due = longest < pause || self.waiting >= self.asked_for;
        let at = if is_due { self.first } else { (self.last + pause).min(self.first + longest) };
        (self.waiting > 0).then_some(at)
    }

    /// All that have come are asked for.
    fn ask(&mut self) {
        self.asked_for += std::mem::take(&mut self.waiting);
    }
}

/// A burst is over when no user has come for this time.
fn pause(round_trip: &RoundTrip) -> Duration {
    (round_trip.smoothed() / PAUSE_OF_ROUND_TRIP).max(PAUSE_MIN)
}

/// How many more message connections are asked for than users wait for, who take what comes first: some may be lost.
#[derive(Default)]
pub(super) struct More {
    /// When one was late last while others came.
    late_at: Option<Instant>,
    /// How many users have waited for one since one more was asked for.
    waited: usize,
}

impl More {
    /// One is late while others come.
    pub fn late(&mut self, now: Instant) {
        self.late_at = Some(now);
    }

    /// How many more than these that users wait for.
    fn than(&mut self, awaited: usize, now: Instant) -> usize {
        if awaited == 0 {
            return 0;
        }
        let is_lossy = self.late_at.is_some_and(|at| now < at + MORE_FOR);
        let of = if is_lossy { MORE_OF_LATE } else { MORE_OF };
        let waited = self.waited + awaited;
        self.waited = waited % of;
        waited / of
    }
}

/// Links whose pool may need more; they are looked at once per turn.
#[derive(Default)]
pub(super) struct Refills(Vec<LinkId>);

impl Refills {
    /// A link's pool may need more.
    pub fn want(&mut self, link: LinkId, links: &mut Links) {
        if let Some(it) = links.get_mut(link)
            && !std::mem::replace(&mut it.refilling, true)
        {
            self.0.push(link);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next link to look at. One whose users still come is looked at later.
    pub fn next(&mut self, links: &mut Links, agenda: &mut Agenda) -> Option<LinkId> {
        while let Some(link) = self.0.pop() {
            let Some(it) = links.get_mut(link) else { continue };
            it.refilling = false;
            let due = it.burst.and_then(|burst| burst.due(&it.round_trip));
            if due.is_none_or(|at| at <= agenda.now) {
                it.burst.iter_mut().for_each(Burst::ask);
                return Some(link);
            }
            links.schedule(link, agenda);
        }
        None
    }
}

/// Asks a client for the message connections that its link lacks. `is_wanted` says whether users wait for it.
pub(super) fn ask(link: LinkId, links: &mut Links, pools: &mut Pools, is_wanted: bool, agenda: &mut Agenda) {
    let missing = missing(link, links, pools, is_wanted, agenda);
    if missing == 0 {
        return;
    }
    let Some(round_trip) = links.get(link).map(|link| link.round_trip) else { return };
    let until = agenda.now + round_trip.wait(agenda.limits.ticket);
    let Some(first_ticket) = links.issue(link, missing, agenda.now, until) else { return };
    if let Some(link) = links.get_mut(link) {
        link.wanted = link.wanted.saturating_sub(missing);
        let frame = ControlFrame::Open { first_ticket, count: missing as u32 };
        agenda.push(Output::Send { id: link.control, frame });
        let due = link.next_due(&agenda.limits);
        agenda.at(link.control, Some(due));
    }
}

/// Whether a link may have a message connection that its client was not asked for.
pub(super) fn has_room_unasked(link: LinkId, links: &Links, pools: &Pools, limits: &Limits) -> bool {
    let Some(it) = links.get(link) else { return false };
    let most = if it.refuses { it.places(limits) } else { UNASKED_MAX };
    pools.usable(link) < most
        && held(link, links, pools) < limits.messages_per_client_max
        && lent(link, links, pools, limits) > 0
}

/// How many more message connections a link may have for all that others have, and are sure of.
fn lent(link: LinkId, links: &Links, pools: &Pools, limits: &Limits) -> usize {
    let most = limits.messages_at_most(links.count(), links.ports);
    // What other links are sure of is lent to nobody.
    let most = most.saturating_sub(limits.messages_sure * links.count());
    let lent = most.saturating_sub(pools.total() + links.outstanding());
    lent.max(limits.messages_sure.saturating_sub(held(link, links, pools)))
}

/// How many message connections a link has, on their way or not.
fn held(link: LinkId, links: &Links, pools: &Pools) -> usize {
    pools.total_of(link) + links.get(link).map_or(0, Link::outstanding)
}

fn missing(link: LinkId, links: &mut Links, pools: &mut Pools, is_wanted: bool, agenda: &Agenda) -> usize {
    let limits = &agenda.limits;
    let peak = pools.recent_peak(link, agenda.now, limits.retire);
    let (total, idle) = (pools.total_of(link), pools.usable(link));
    let lent = lent(link, links, pools, limits);
    let Some(it) = links.get_mut(link) else { return 0 };
    if !is_wanted || it.refuses {
        it.wanted = 0;
    }
    let outstanding = it.outstanding();
    // However often connections fail and are replaced, there are no more than this. Those on their way beyond the pool
    // are for users who wait.
    let users = it.wanted + outstanding.saturating_sub(limits.pool);
    let own = (peak + users + 2 * limits.pool).min(limits.messages_per_client_max);
    let room = own.saturating_sub(total + outstanding).min(lent);
    let at_once = if it.brings_none { 1 } else { ASKED_MAX };
    let missing = it.places(limits).saturating_sub(idle + outstanding) + it.wanted;
    let missing = missing.min(room).min(at_once.saturating_sub(outstanding));
    let more = if it.brings_none { 0 } else { it.more.than(missing.min(it.wanted), agenda.now) };
    (missing + more).min(room)
}
