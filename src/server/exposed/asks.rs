//! What clients ask for: ports, each with what became of it. What was denied is remembered as long as its link stands.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::base::deadlines::Deadlines;
use crate::base::id::{AskId, LinkId, ServiceId, kind};
use crate::base::slots::Slots;
use crate::base::sorted::{Map, Set, by_rank};
use crate::base::table::Table;
use crate::wire::control::{Denial, PublicationNumber, Publish};

/// How often the pause doubles after which a port is tried again that the system does not give.
const RETRY_DOUBLINGS_MAX: u32 = 7;

/// What became of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It does not get what it wants, or nothing is decided yet.
    Denied,
    /// The client of this link has it. It is pinged, and has until then to answer.
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
    /// Why it does not get what it wants, as its client was told.
    pub told: Option<Denial>,
    /// The grant in whose way it stands back, and how.
    behind: Option<(ServiceId, Behind)>,
    /// How often in a row the system did not give its ports.
    failures: u32,
}

/// How an ask stands behind a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Behind {
    /// It has the same names, and serves the same ports as soon as it may.
    Heir,
    /// It wants some of its ports.
    Other,
}

impl Ask {
    /// The grant that it is a member of.
    pub fn grant(&self) -> Option<ServiceId> {
        match self.stage {
            Stage::Member(id) | Stage::Granted(id) => Some(id),
            Stage::Denied | Stage::Contesting { .. } => None,
        }
    }
}

impl From<Denial> for Behind {
    /// How one stands behind a grant that is denied some of its ports for this reason.
    fn from(reason: Denial) -> Behind {
        if reason == Denial::PortTaken { Behind::Other } else { Behind::Heir }
    }
}

/// What a link asks for.
#[derive(Default)]
struct OfLink {
    numbers: Map<PublicationNumber, AskId>,
    /// Asks of others that contest what this link has. Some may do so no more.
    contests: Set<AskId>,
}

/// All asks.
#[derive(Default)]
pub(super) struct Asks {
    slots: Slots<kind::Ask, Ask>,
    links: Table<kind::Link, OfLink>,
    /// When contests are looked at, and those whose ports the system does not give.
    looked_at: Deadlines<kind::Ask>,
    /// Asks to be looked at again, each as often as something changed for it.
    again: VecDeque<AskId>,
    /// Asks that wait for any port, or for room.
    hungry: Set<AskId>,
    /// Those that wait for a grant to change, the oldest first.
    behind: HashMap<(ServiceId, Behind), Set<AskId>>,
}

impl Asks {
    /// Adds an ask; `None` if there are as many as can be named.
    pub fn add(&mut self, link: LinkId, publish: Publish) -> Option<AskId> {
        let number = publish.number;
        let ask = Ask { link, publish, stage: Stage::Denied, told: None, behind: None, failures: 0 };
        let id = self.slots.insert(ask).ok()?;
        self.with_link(link, |of| of.numbers.insert(number, id));
        Some(id)
    }

    fn with_link<T>(&mut self, link: LinkId, change: impl FnOnce(&mut OfLink) -> T) {
        if !self.links.contains(link) {
            self.links.insert(link, OfLink::default());
        }
        self.links.get_mut(link).map(change);
    }

    pub fn get(&self, id: AskId) -> Option<&Ask> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: AskId) -> Option<&mut Ask> {
        self.slots.get_mut(id)
    }

    /// The ask that has this number on a link.
    pub fn of(&self, link: LinkId, number: PublicationNumber) -> Option<AskId> {
        self.links.get(link)?.numbers.get(&number).copied()
    }

    /// How many asks a link has.
    pub fn count(&self, link: LinkId) -> usize {
        self.links.get(link).map_or(0, |of| of.numbers.len())
    }

    /// The asks of a link, the oldest first.
    pub fn of_link(&self, link: LinkId) -> Vec<AskId> {
        let numbers = self.links.get(link).map(|of| of.numbers.values().copied());
        by_rank(numbers.into_iter().flatten(), |id| id.serial()).collect()
    }

    /// Moves an ask from one stage to another.
    pub fn set(&mut self, id: AskId, stage: Stage) {
        self.wants_nothing(id);
        let Some(ask) = self.slots.get_mut(id) else { return };
        ask.stage = stage;
        match stage {
            Stage::Contesting { holder, .. } => return self.with_link(holder, |of| of.contests.insert(id)),
            Stage::Granted(_) => (ask.told, ask.failures) = (None, 0),
            Stage::Denied | Stage::Member(_) => {}
        }
        self.looked_at.set(id, None);
    }

    /// An ask does not get what it wants. Returns whether its client is to be told.
    pub fn deny(&mut self, id: AskId, reason: Denial) -> bool {
        self.set(id, Stage::Denied);
        let told = self.slots.get_mut(id).map(|ask| ask.told.replace(reason));
        told.is_some_and(|told| told != Some(reason))
    }

    pub fn remove(&mut self, id: AskId) -> Option<Ask> {
        self.looked_at.set(id, None);
        self.wants_nothing(id);
        let ask = self.slots.remove(id)?;
        if let Some(of) = self.links.get_mut(ask.link) {
            of.numbers.remove(&ask.publish.number);
        }
        Some(ask)
    }

    /// Forgets a link and its asks. Those who contested what it had are looked at again.
    pub fn remove_link(&mut self, link: LinkId) {
        let Some(of) = self.links.remove(link) else { return };
        self.again.extend(of.contests);
        for id in of.numbers.into_values() {
            self.remove(id);
        }
    }

    // Contests.

    /// Asks of others that contest what this link has, and since when.
    pub fn contests(&mut self, holder: LinkId) -> Vec<(AskId, Instant)> {
        let Some(of) = self.links.get_mut(holder).filter(|of| !of.contests.is_empty()) else {
            return Vec::new();
        };
        let contests = std::mem::take(&mut of.contests).into_iter();
        let contests: Vec<_> = contests
            .filter_map(|id| match self.slots.get(id)?.stage {
                Stage::Contesting { holder: of, since, .. } if of == holder => Some((id, since)),
                _ => None,
            })
            .collect();
        of.contests.extend(contests.iter().map(|contest| contest.0));
        contests
    }

    /// An ask is looked at then.
    pub fn look_at(&mut self, id: AskId, at: Instant) {
        self.looked_at.set(id, Some(at));
    }

    /// The system does not give the ports of an ask: it is looked at after this pause, and later each further time.
    pub fn try_later(&mut self, id: AskId, pause: Duration, now: Instant) {
        let Some(ask) = self.slots.get_mut(id) else { return };
        let pause = pause * 2u32.pow(ask.failures);
        ask.failures = (ask.failures + 1).min(RETRY_DOUBLINGS_MAX);
        self.looked_at.set(id, Some(now + pause));
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.looked_at.next()
    }

    /// An ask that is to be looked at.
    pub fn pop_due(&mut self, now: Instant) -> Option<AskId> {
        self.looked_at.pop_due(now)
    }

    // Those that wait for something.

    /// An ask waits for a grant to change.
    pub fn wait_behind(&mut self, id: AskId, service: ServiceId, how: Behind) {
        self.wants_nothing(id);
        if let Some(ask) = self.slots.get_mut(id) {
            ask.behind = Some((service, how));
            self.behind.entry((service, how)).or_default().insert(id);
        }
    }

    /// Those that wait for a grant to change; they are to be looked at.
    pub fn take_behind(&mut self, service: ServiceId, how: Behind) -> Set<AskId> {
        let ids = self.behind.remove(&(service, how)).unwrap_or_default();
        for &id in ids.iter() {
            self.slots.get_mut(id).into_iter().for_each(|ask| ask.behind = None);
        }
        ids
    }

    /// An ask waits for nothing any more.
    fn wants_nothing(&mut self, id: AskId) {
        self.hungry.remove(&id);
        let Some(behind) = self.slots.get_mut(id).and_then(|ask| ask.behind.take()) else { return };
        if let Some(ids) = self.behind.get_mut(&behind) {
            ids.remove(&id);
            if ids.is_empty() {
                self.behind.remove(&behind);
            }
        }
    }

    // Those that are looked at again.

    /// An ask is looked at when a port or room becomes free.
    pub fn is_hungry(&mut self, id: AskId) {
        self.hungry.insert(id);
    }

    /// A port or room is free.
    pub fn feed(&mut self) {
        self.again.extend(std::mem::take(&mut self.hungry));
    }

    /// These are looked at again.
    pub fn look_again(&mut self, ids: impl IntoIterator<Item = AskId>) {
        self.again.extend(ids);
    }

    /// All that serve nothing are looked at again.
    pub fn look_at_all_again(&mut self) {
        self.hungry = Set::default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::{Transports, Want};

    fn publish(number: PublicationNumber) -> Publish {
        Publish {
            number,
            name: "x".parse().expect("a name"),
            want: Want::AnyPort,
            transports: Transports::Tcp,
            dial_time: Duration::from_secs(5),
            share: false,
            probe: true,
        }
    }

    #[test]
    fn an_ask_that_is_gone_or_has_what_it_wants_waits_nowhere() {
        let mut asks = Asks::default();
        let (link, service) =
            (LinkId::new(1, 1).expect("it can be named"), ServiceId::new(1, 1).expect("it can be named"));
        for number in 1..100 {
            for ends in [false, true] {
                let id = asks.add(link, publish(number)).expect("there is room");
                asks.wait_behind(id, service, Behind::Other);
                asks.wait_behind(id, service, Behind::Heir);
                assert_eq!(asks.behind.len(), 1, "it waits in one place");
                asks.is_hungry(id);
                if ends {
                    asks.remove(id);
                } else {
                    asks.set(id, Stage::Granted(service));
                }
                assert!(asks.behind.is_empty() && asks.hungry.is_empty());
            }
        }
    }
}
