//! How many message connections a link lacks, and asking its client for them.

use super::links::Links;
use super::pool::Pools;
use crate::base::id::LinkId;
use crate::machine::{Agenda, Output};
use crate::wire::control::ControlFrame;

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
    let expiry = agenda.now + agenda.limits.ticket;
    let Some(first_ticket) = links.issue(link, missing, expiry) else { return };
    if let Some(link) = links.get_mut(link) {
        link.wanted = link.wanted.saturating_sub(missing);
        let frame = ControlFrame::Open { first_ticket, count: missing as u32 };
        agenda.push(Output::Send { id: link.control, frame });
        agenda.at(link.control, Some(link.next_due()));
    }
}

fn missing(link: LinkId, links: &mut Links, pools: &mut Pools, is_wanted: bool, agenda: &Agenda) -> usize {
    let limits = &agenda.limits;
    let held = pools.total() + links.outstanding();
    let peak = pools.recent_peak(link, agenda.now, limits.retire);
    let (total, idle) = (pools.total_of(link), pools.idle(link) + pools.pinged(link));
    let Some(it) = links.get_mut(link) else { return 0 };
    if !is_wanted {
        it.wanted = 0;
    }
    let outstanding = it.outstanding();
    // However often connections fail and are replaced, there are no more than this.
    let own = (peak + it.wanted + 2 * limits.pool).min(limits.messages_per_client_max);
    let most = own.saturating_sub(total + outstanding).min(limits.messages_max.saturating_sub(held));
    // All of them are strangers at first, from one address: more at once would push each other out.
    let strangers = limits.strangers_max.min(limits.strangers_per_address_max);
    let at_once = (strangers / 2).max(1).saturating_sub(outstanding);
    let missing = limits.pool.saturating_sub(idle + outstanding) + it.wanted;
    missing.min(most).min(at_once)
}
