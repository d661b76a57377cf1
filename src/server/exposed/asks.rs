//! What clients ask for: ports, each with what became of it. What was denied is remembered as long as its link stands.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::base::deadlines::Deadlines;
use crate::base::id::{AskId, LinkId, ServiceId, kind};
use crate::base::slots::Slots;
use crate::base::table::Table;
use crate::wire::control::{Denial, PublicationNumber, Publish};

/// What became of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing yet, or the client was told why it does not get what it wants.
    Denied(Option<Denial>),
    /// Another client has it. It is pinged, and has until then to answer.
    Contesting { holder: LinkId, since: Instant, until: Instant },
    /// It is a member of this grant, and is told when that one is open.
    Member(ServiceId),
    /// It serves this grant.
    Granted(ServiceId),
}

/// A client asks for ports.
#[derive(Debug)]
pub(super) struct Ask {
    pub link: LinkId,
    pub publish: Publish,
    pub stage: Stage,
}

impl Ask {
    /// The grant that it is a member of.
    pub fn grant(&self) -> Option<ServiceId> {
        match self.stage {
            Stage::Member(id) | Stage::Granted(id) => Some(id),
            Stage::Denied(_) | Stage::Contesting { .. } => None,
        }
    }
}

/// What a link asks for.
#[derive(Default)]
struct OfLink {
    numbers: HashMap<PublicationNumber, AskId>,
    /// Those of them that serve something.
    granted: usize,
    /// Asks of others that contest what this link has. Some may do so no more.
    contests: Vec<AskId>,
}

/// All asks.
#[derive(Default)]
pub(super) struct Asks {
    slots: Slots<kind::Ask, Ask>,
    of_link: Table<kind::Link, OfLink>,
    /// When contests are looked at.
    looked_at: Deadlines<kind::Ask>,
    /// Asks to be looked at again, each as often as something changed for it.
    again: VecDeque<AskId>,
    /// Asks that wait for any port, or for room. Some may want nothing any more.
    hungry: Vec<AskId>,
}

impl Asks {
    /// Adds an ask; `None` if there are as many as can be named.
    pub fn add(&mut self, link: LinkId, publish: Publish) -> Option<AskId> {
        let number = publish.number;
        let id = self.slots.insert(Ask { link, publish, stage: Stage::Denied(None) }).ok()?;
        self.of_link(link).numbers.insert(number, id);
        Some(id)
    }

    fn of_link(&mut self, link: LinkId) -> &mut OfLink {
        if self.of_link.get(link).is_none() {
            self.of_link.insert(link, OfLink::default());
        }
        self.of_link.get_mut(link).expect("it was just inserted")
    }

    pub fn get(&self, id: AskId) -> Option<&Ask> {
        self.slots.get(id)
    }

    /// The ask that has this number on a link.
    pub fn of(&self, link: LinkId, number: PublicationNumber) -> Option<AskId> {
        self.of_link.get(link)?.numbers.get(&number).copied()
    }

    /// How many of a link's asks serve nothing.
    pub fn unserved(&self, link: LinkId) -> usize {
        self.of_link.get(link).map_or(0, |of| of.numbers.len() - of.granted)
    }

    /// Moves an ask from one stage to another.
    pub fn set(&mut self, id: AskId, stage: Stage) {
        let Some(ask) = self.slots.get_mut(id) else { return };
        let (link, before) = (ask.link, std::mem::replace(&mut ask.stage, stage));
        let serves = |stage| usize::from(matches!(stage, Stage::Granted(_)));
        if let Some(of) = self.of_link.get_mut(link) {
            of.granted = of.granted + serves(stage) - serves(before);
        }
        match stage {
            Stage::Contesting { holder, .. } => self.of_link(holder).contests.push(id),
            _ => self.looked_at.set(id, None),
        }
    }

    pub fn remove(&mut self, id: AskId) -> Option<Ask> {
        self.set(id, Stage::Denied(None));
        let ask = self.slots.remove(id)?;
        if let Some(of) = self.of_link.get_mut(ask.link) {
            of.numbers.remove(&ask.publish.number);
        }
        Some(ask)
    }

    /// Forgets a link and returns its asks, the oldest first. Those who contested what it had are looked at again.
    pub fn remove_link(&mut self, link: LinkId) -> Vec<Ask> {
        let Some(of) = self.of_link.remove(link) else { return Vec::new() };
        self.again.extend(of.contests);
        let mut ids: Vec<AskId> = of.numbers.into_values().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    // Contests.

    /// Asks of others that contest what this link has. Each of them is in the answer once.
    pub fn take_contests(&mut self, holder: LinkId) -> Vec<AskId> {
        let Some(of) = self.of_link.get_mut(holder) else { return Vec::new() };
        let contests = std::mem::take(&mut of.contests);
        let is_so = |id: &AskId| match self.slots.get(*id).map(|ask| ask.stage) {
            Some(Stage::Contesting { holder: of, .. }) => of == holder,
            _ => false,
        };
        contests.into_iter().filter(is_so).collect()
    }

    /// A contest goes on.
    pub fn keep_contest(&mut self, id: AskId, holder: LinkId) {
        self.of_link(holder).contests.push(id);
    }

    /// A contest is looked at then.
    pub fn look_at(&mut self, id: AskId, at: Instant) {
        self.looked_at.set(id, Some(at));
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.looked_at.next()
    }

    /// A contest that is to be looked at.
    pub fn pop_due(&mut self, now: Instant) -> Option<AskId> {
        self.looked_at.pop_due(now)
    }

    // Those that are looked at again.

    /// An ask is looked at when a port or room becomes free.
    pub fn is_hungry(&mut self, id: AskId) {
        self.hungry.push(id);
    }

    /// A port or room is free.
    pub fn feed(&mut self) {
        self.again.append(&mut std::mem::take(&mut self.hungry).into());
    }

    /// These are looked at again.
    pub fn look_again(&mut self, ids: Vec<AskId>) {
        self.again.extend(ids);
    }

    /// All that serve nothing are looked at again.
    pub fn look_at_all_again(&mut self) {
        self.hungry.clear();
        self.again.clear();
        let unserved = self.slots.iter().filter(|(_, ask)| ask.grant().is_none());
        self.again.extend(unserved.map(|(id, _)| id));
    }

    /// The next one that is looked at again, if it still wants something.
    pub fn next_again(&mut self) -> Option<AskId> {
        while let Some(id) = self.again.pop_front() {
            if self.slots.get(id).is_some_and(|ask| ask.grant().is_none()) {
                return Some(id);
            }
        }
        None
    }

    /// Whether some are to be looked at again.
    pub fn wait_for_a_look(&self) -> bool {
        !self.again.is_empty()
    }
}
