//! How many message connections a link lacks, and asking its client for them.

use super::links::Links;
use super::pool::Pools;
use crate::base::id::LinkId;
use crate::machine::{Agenda, Output};
use crate::wire::control::ControlFrame;

/// Message connections that a client is asked for at once; one that brought none of the last is asked for one.
const ASKED_MAX: usize = 128;

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

    /// The next link to look at.
    pub fn next(&mut self, links: &mut Links) -> Option<LinkId> {
        let link = self.0.pop()?;
        if let Some(it) = links.get_mut(link) {
            it.refilling = false;
        }
        Some(link)
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

fn missing(link: LinkId, links: &mut Links, pools: &mut Pools, is_wanted: bool, agenda: &Agenda) -> usize {
    let limits = &agenda.limits;
    let held = pools.total() + links.outstanding();
    let most = limits.messages_at_most(links.count(), links.ports);
    let peak = pools.recent_peak(link, agenda.now, limits.retire);
    let (total, idle) = (pools.total_of(link), pools.idle(link) + pools.pinged(link));
    // What other links are sure of is lent to nobody.
    let lent = most.saturating_sub(limits.messages_sure * links.count()).saturating_sub(held);
    let Some(it) = links.get_mut(link) else { return 0 };
    if !is_wanted || it.refuses {
        it.wanted = 0;
    }
    let outstanding = it.outstanding();
    let sure = limits.messages_sure.saturating_sub(total + outstanding);
    // However often connections fail and are replaced, there are no more than this.
    let own = (peak + it.wanted + 2 * limits.pool).min(limits.messages_per_client_max);
    let room = own.saturating_sub(total + outstanding).min(lent.max(sure));
    let at_once = if it.brings_none { 1 } else { ASKED_MAX };
    let missing = limits.pool.saturating_sub(idle + outstanding) + it.wanted;
    let missing = missing.min(room).min(at_once.saturating_sub(outstanding));
    let more = if it.brings_none { 0 } else { it.more_than(missing, agenda.now) };
    (missing + more).min(room)
}
