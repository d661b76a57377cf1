//! Message connections: which state each is in, how many of a link's are in which, and which idle one is used next.
//!
//! Invariant: every message connection stands in exactly one list of its link, and [`Pools::set`] alone moves it: it
//! leaves the old state, and enters the new one. Counts are kept there and nowhere else.

use std::time::{Duration, Instant};

use crate::base::id::{ConnId, LinkId, PublicationId, kind};
use crate::base::table::Table;
use crate::machine::{Agenda, CloseReason, Manner, Output};

/// Least margin beyond a publication's dial time in which a session must have started.
pub(super) const STARTED_MARGIN: Duration = Duration::from_secs(1);
/// A surplus connection is looked at again after this, while one above it goes first.
const RETIRE_RECHECK: Duration = Duration::from_secs(1);

/// Slots that are looked at for an idle connection near the top of the table.
const LOOKED_AT_MAX: usize = 64;

/// What a message connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In the pool; it was last heard then.
    Idle(Instant),
    /// Idle, and pinged as a matter of routine.
    Pinged,
    /// Idle, and pinged because something may be wrong with it.
    Suspect,
    /// The session of this user was sent on it, and the client has not answered.
    Offered(ConnId),
    /// The client connects to its local server, for this user, who came to this port of this publication.
    Accepted { user: ConnId, publication: Option<PublicationId>, port: u16 },
    /// A probe of this publication was sent on it, and was not started.
    Probing(PublicationId),
    /// A probe on it was started, or has failed, and ends.
    Probed,
    /// A session runs on it, or is being aborted.
    Busy,
    /// Asked to close.
    Leaving,
}

/// States that are counted.
#[derive(Clone, Copy)]
enum Count {
    Idle,
    Pinged,
    Suspect,
    Offered,
    Running,
    Probing,
    Leaving,
}

impl State {
    fn count(self) -> Count {
        match self {
            State::Idle(_) => Count::Idle,
            State::Pinged => Count::Pinged,
            State::Suspect => Count::Suspect,
            State::Offered(_) => Count::Offered,
            State::Accepted { .. } | State::Busy => Count::Running,
            State::Probing(_) | State::Probed => Count::Probing,
            State::Leaving => Count::Leaving,
        }
    }
}

/// Which end of the idle ones a connection joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was used just now: it is used first.
    Front,
    /// It was pinged only: the others go before it.
    Back,
}

/// A message connection, and its neighbours in the list that it stands in.
struct Message {
    link: LinkId,
    state: State,
    /// When it came, or a user last had it: see [`Pools::moment`].
    used_ms: u32,
    before: Neighbour,
    after: Neighbour,
}

/// The slot of another message connection in the same list, if there is one. It takes half of the room of an id, and
/// never is stale: who goes leaves the list first.
#[derive(Clone, Copy)]
struct Neighbour(u32);

impl Neighbour {
    /// No id has this slot.
    const NONE: Neighbour = Neighbour(u32::MAX);

    fn of(id: Option<ConnId>) -> Neighbour {
        id.map_or(Neighbour::NONE, |id| Neighbour(id.slot()))
    }

    fn id(self, messages: &Table<kind::Connection, Message>) -> Option<ConnId> {
        messages.at(self.0)
    }
}

/// A list through the table of messages.
#[derive(Clone, Copy, Default)]
struct List {
    first: Option<ConnId>,
    last: Option<ConnId>,
}

/// The message connections of one link.
#[derive(Default)]
struct Pool {
    /// The idle ones; the one that is used next is the first.
    idle: List,
    others: List,
    counts: [usize; 7],
    peaks: Peaks,
}

/// Most sessions at once, in this period and in the one before.
#[derive(Default)]
struct Peaks {
    most: [usize; 2],
    since: Option<Instant>,
}

impl Peaks {
    fn turn(&mut self, running: usize, now: Instant, period: Duration) {
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        if elapsed >= period {
            let before = if elapsed >= period * 2 { running } else { self.most[0] };
            *self = Peaks { most: [running, before], since: Some(now) };
        }
        self.most[0] = self.most[0].max(running);
    }
}

/// The message connections of all links.
#[derive(Default)]
pub(super) struct Pools {
    messages: Table<kind::Connection, Message>,
    pools: Table<kind::Link, Pool>,
    /// When the first message connection came.
    began: Option<Instant>,
}

impl Pools {
    /// Milliseconds since the first message connection came. They begin anew after 49 days, because there is one such
    /// number for each: where that shows, a surplus connection stays for a minute more.
    fn moment(&mut self, now: Instant) -> u32 {
        now.saturating_duration_since(*self.began.get_or_insert(now)).as_millis() as u32
    }

    /// Adds a link without connections.
    pub fn add_link(&mut self, link: LinkId) {
        self.pools.insert(link, Pool::default());
    }

    /// Forgets a link and its connections; returns these, and their last states.
    pub fn remove_link(&mut self, link: LinkId) -> Vec<(ConnId, State)> {
        let ids = self.all(link).into_iter();
        let removed = ids.filter_map(|id| self.remove(id).map(|(_, state)| (id, state))).collect();
        self.pools.remove(link);
        removed
    }

    /// A message connection of this link stands, and is idle.
    pub fn add(&mut self, id: ConnId, link: LinkId, now: Instant) {
        let (state, used_ms) = (State::Idle(now), self.moment(now));
        self.messages
            .insert(id, Message { link, state, used_ms, before: Neighbour::NONE, after: Neighbour::NONE });
        self.enter(id, Place::Front);
    }

    /// A message connection is gone; returns its link and its last state.
    pub fn remove(&mut self, id: ConnId) -> Option<(LinkId, State)> {
        self.messages.get(id)?;
        self.leave(id);
        self.messages.remove(id).map(|message| (message.link, message.state))
    }

    /// The link and the state of a message connection.
    pub fn get(&self, id: ConnId) -> Option<(LinkId, State)> {
        self.messages.get(id).map(|message| (message.link, message.state))
    }

    /// Moves a message connection into another state. `place` matters for an idle one.
    pub fn set(&mut self, id: ConnId, state: State, place: Place) {
        if self.messages.get(id).is_none() {
            return;
        }
        self.leave(id);
        if let Some(message) = self.messages.get_mut(id) {
            message.state = state;
        }
        self.enter(id, place);
    }

    /// A user had it until now.
    pub fn used(&mut self, id: ConnId, now: Instant) {
        let used_ms = self.moment(now);
        self.messages.get_mut(id).into_iter().for_each(|message| message.used_ms = used_ms);
    }

    /// The idle connection of a link that is used next.
    pub fn next_idle(&self, link: LinkId) -> Option<ConnId> {
        self.pools.get(link)?.idle.first
    }

    /// The idle connections of a link, those that are used first before the others, and when each was last heard.
    pub fn all_idle(&self, link: LinkId) -> impl Iterator<Item = (ConnId, Instant)> {
        let next = |id: &ConnId| self.messages.get(*id).and_then(|message| message.after.id(&self.messages));
        std::iter::successors(self.next_idle(link), next).filter_map(|id| match self.get(id)? {
            (_, State::Idle(heard)) => Some((id, heard)),
            _ => None,
        })
    }

    /// The idle connection of a link that has the highest slot, if it is near the top of the table, and above `id`.
    pub fn highest_idle(&self, link: LinkId, id: ConnId) -> Option<ConnId> {
        let above = self.messages.highest(LOOKED_AT_MAX).take_while(|other| other.slot() > id.slot());
        above.into_iter().find(|&other| matches!(self.get(other), Some((it, State::Idle(_))) if it == link))
    }

    /// An idle message connection is pinged, or retired if there are more than the link needs: as many as were used at
    /// once lately, and these places.
    pub fn idle_due(
        &mut self,
        id: ConnId,
        (link, places, pong_time): (LinkId, usize, Duration),
        agenda: &mut Agenda,
    ) {
        let (now, limits) = (agenda.now, agenda.limits.clone());
        let needed = self.recent_peak(link, now, limits.retire) + places;
        let is_surplus = self.staying(link) > needed;
        let moment = self.moment(now);
        let unused_ms = self.messages.get(id).map_or(0, |message| moment.wrapping_sub(message.used_ms));
        if is_surplus && Duration::from_millis(unused_ms.into()) >= limits.retire {
            // Of the two ends of the tables the upper one goes, so that they can shrink: a lower one waits for it.
            match self.highest_idle(link, id) {
                Some(other) => {
                    agenda.after(id, RETIRE_RECHECK);
                    self.retire(other, CloseReason::Retired, agenda);
                }
                None => self.retire(id, CloseReason::Retired, agenda),
            }
        } else {
            self.ping(id, State::Pinged, pong_time, agenda);
        }
    }

    /// Pings a message connection, which is idle no more until it answers.
    pub fn ping(&mut self, id: ConnId, state: State, wait: Duration, agenda: &mut Agenda) {
        self.set(id, state, Place::Back);
        agenda.after(id, wait);
        agenda.push(Output::Ping(id));
    }

    /// Closes an idle message connection, so that what was sent on it is read.
    pub fn retire(&mut self, id: ConnId, reason: CloseReason, agenda: &mut Agenda) {
        self.set(id, State::Leaving, Place::Back);
        agenda.at(id, None);
        agenda.close(id, reason, Manner::Whole);
    }

    /// Closes all idle connections of a link.
    pub fn retire_idle(&mut self, link: LinkId, agenda: &mut Agenda) {
        while let Some(id) = self.next_idle(link) {
            self.retire(id, CloseReason::Drained, agenda);
        }
    }

    /// All idle connections of a link, and all that do something else.
    pub fn all(&self, link: LinkId) -> Vec<ConnId> {
        let Some(pool) = self.pools.get(link) else { return Vec::new() };
        let mut ids = Vec::new();
        for list in [pool.idle, pool.others] {
            let mut next = list.first;
            while let Some(id) = next {
                ids.push(id);
                next = self.messages.get(id).and_then(|message| message.after.id(&self.messages));
            }
        }
        ids
    }

    /// How many of a link's connections are idle and proved.
    pub fn idle(&self, link: LinkId) -> usize {
        self.count(link, Count::Idle)
    }

    /// How many will be idle in a moment, if they are alive.
    pub fn soon_idle(&self, link: LinkId) -> usize {
        self.count(link, Count::Pinged) + self.count(link, Count::Probing)
    }

    /// How many are idle, or will be in a moment if they are alive.
    pub fn usable(&self, link: LinkId) -> usize {
        self.idle(link) + self.soon_idle(link)
    }

    /// How many are not asked to close.
    pub fn staying(&self, link: LinkId) -> usize {
        self.total_of(link) - self.count(link, Count::Leaving)
    }

    /// How many have a session.
    pub fn busy(&self, link: LinkId) -> usize {
        self.count(link, Count::Offered) + self.running(link)
    }

    /// How many have a session that the client has accepted.
    pub fn running(&self, link: LinkId) -> usize {
        self.count(link, Count::Running)
    }

    /// All message connections of a link.
    pub fn total_of(&self, link: LinkId) -> usize {
        self.pools.get(link).map_or(0, |pool| pool.counts.iter().sum())
    }

    /// All message connections.
    pub fn total(&self) -> usize {
        self.messages.len()
    }

    /// Most sessions of a link at once in the last one to two periods.
    pub fn recent_peak(&mut self, link: LinkId, now: Instant, period: Duration) -> usize {
        let busy = self.busy(link);
        let Some(pool) = self.pools.get_mut(link) else { return 0 };
        pool.peaks.turn(busy, now, period);
        pool.peaks.most[0].max(pool.peaks.most[1])
    }

    fn count(&self, link: LinkId, count: Count) -> usize {
        self.pools.get(link).map_or(0, |pool| pool.counts[count as usize])
    }

    fn enter(&mut self, id: ConnId, place: Place) {
        let Some(message) = self.messages.get(id) else { return };
        let (state, count) = (message.state, message.state.count());
        let Some(pool) = self.pools.get_mut(message.link) else { return };
        pool.counts[count as usize] += 1;
        let list = if matches!(state, State::Idle(_)) { &mut pool.idle } else { &mut pool.others };
        let [mut before, mut after] = [None; 2];
        let neighbour = match place {
            Place::Front => {
                after = list.first.replace(id);
                list.last = list.last.or(Some(id));
                after
            }
            Place::Back => {
                before = list.last.replace(id);
                list.first = list.first.or(Some(id));
                before
            }
        };
        if let Some(neighbour) = neighbour.and_then(|id| self.messages.get_mut(id)) {
            match place {
                Place::Front => neighbour.before = Neighbour::of(Some(id)),
                Place::Back => neighbour.after = Neighbour::of(Some(id)),
            }
        }
        if let Some(message) = self.messages.get_mut(id) {
            (message.before, message.after) = (Neighbour::of(before), Neighbour::of(after));
        }
    }

    fn leave(&mut self, id: ConnId) {
        let Some(message) = self.messages.get(id) else { return };
        let (before, after) = (message.before.id(&self.messages), message.after.id(&self.messages));
        let (state, count) = (message.state, message.state.count());
        let Some(pool) = self.pools.get_mut(message.link) else { return };
        pool.counts[count as usize] -= 1;
        let list = if matches!(state, State::Idle(_)) { &mut pool.idle } else { &mut pool.others };
        if list.first == Some(id) {
            list.first = after;
        }
        if list.last == Some(id) {
            list.last = before;
        }
        if let Some(neighbour) = before.and_then(|id| self.messages.get_mut(id)) {
            neighbour.after = Neighbour::of(after);
        }
        if let Some(neighbour) = after.and_then(|id| self.messages.get_mut(id)) {
            neighbour.before = Neighbour::of(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(slot: u32) -> ConnId {
        ConnId::new(slot, 1).expect("it can be named")
    }

    fn link(slot: u32) -> LinkId {
        LinkId::new(slot, 1).expect("it can be named")
    }

    #[test]
    fn what_was_used_last_is_used_first_and_a_ping_is_no_use() {
        let now = Instant::now();
        let mut pools = Pools::default();
        pools.add_link(link(0));
        (0..3).for_each(|slot| pools.add(id(slot), link(0), now));
        assert_eq!(pools.next_idle(link(0)), Some(id(2)));
        pools.set(id(2), State::Pinged, Place::Back);
        assert_eq!((pools.idle(link(0)), pools.soon_idle(link(0))), (2, 1));
        pools.set(id(2), State::Idle(now), Place::Back);
        assert_eq!(pools.next_idle(link(0)), Some(id(1)));
        pools.set(id(0), State::Busy, Place::Back);
        pools.set(id(0), State::Idle(now), Place::Front);
        assert_eq!(pools.all(link(0)), [id(0), id(1), id(2)]);
    }

    #[test]
    fn a_peak_is_remembered_for_one_to_two_periods() {
        let (now, period) = (Instant::now(), Duration::from_secs(60));
        let mut pools = Pools::default();
        pools.add_link(link(0));
        (0..3).for_each(|slot| pools.add(id(slot), link(0), now));
        (0..3).for_each(|slot| pools.set(id(slot), State::Busy, Place::Back));
        assert_eq!(pools.recent_peak(link(0), now, period), 3);
        (0..3).for_each(|slot| pools.set(id(slot), State::Idle(now), Place::Front));
        assert_eq!(pools.recent_peak(link(0), now + period, period), 3);
        assert_eq!(pools.recent_peak(link(0), now + period * 2, period), 0);
    }

    proptest! {
        #[test]
        fn lists_and_counts_agree_with_the_states(
            steps in proptest::collection::vec((0..12u32, 0..8u8, any::<bool>()), 1..200)
        ) {
            let now = Instant::now();
            let mut pools = Pools::default();
            (0..2).for_each(|slot| pools.add_link(link(slot)));
            let mut model: BTreeMap<u32, (u32, State)> = BTreeMap::new();
            for (slot, what, front) in steps {
                let state = match what {
                    0 => State::Idle(now),
                    1 => State::Pinged,
                    2 => State::Suspect,
                    3 => State::Offered(id(20)),
                    4 => State::Busy,
                    5 => State::Leaving,
                    6 => {
                        prop_assert_eq!(pools.remove(id(slot)).is_some(), model.remove(&slot).is_some());
                        continue;
                    }
                    _ => {
                        if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(slot) {
                            let of = u32::from(front);
                            pools.add(id(slot), link(of), now);
                            entry.insert((of, State::Idle(now)));
                        }
                        continue;
                    }
                };
                pools.set(id(slot), state, if front { Place::Front } else { Place::Back });
                if let Some(entry) = model.get_mut(&slot) {
                    entry.1 = state;
                }
                for of in 0..2 {
                    let own = || model.iter().filter(|(_, entry)| entry.0 == of);
                    let mut found = pools.all(link(of));
                    found.sort_unstable();
                    prop_assert_eq!(found, own().map(|(&slot, _)| id(slot)).collect::<Vec<_>>());
                    let idle = own().filter(|(_, entry)| matches!(entry.1, State::Idle(_))).count();
                    prop_assert_eq!(pools.idle(link(of)), idle);
                    prop_assert_eq!(pools.next_idle(link(of)).is_some(), idle > 0);
                    prop_assert_eq!(pools.total_of(link(of)), own().count());
                }
            }
        }
    }
}
