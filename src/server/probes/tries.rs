//! Publications that are not proved, or fail, and when each is tried. Links take turns: one whose publications all fail
//! costs another's only one a turn, and one without a message connection to spare costs none.

use std::time::Instant;

use crate::base::deadlines::Deadlines;
use crate::base::id::{LinkId, PublicationId, kind};
use crate::base::sorted::Set;
use crate::base::table::Table;

/// What is to be tried of one link.
struct Of {
    /// When, and what.
    tries: Set<(Instant, PublicationId)>,
    /// Its last turn, or the end of its rest.
    not_before: Instant,
}

/// All of them.
#[derive(Default)]
pub struct Tries {
    links: Table<kind::Link, Of>,
    turns: Deadlines<kind::Link>,
}

impl Tries {
    /// A publication of this link is to be tried then.
    pub fn add(&mut self, link: LinkId, id: PublicationId, at: Instant) {
        if !self.links.contains(link) {
            self.links.insert(link, Of { tries: Set::default(), not_before: at });
        }
        if let Some(of) = self.links.get_mut(link) {
            of.tries.insert((at, id));
        }
        self.schedule(link);
    }

    /// A publication that was to be tried then is not.
    pub fn remove(&mut self, link: LinkId, id: PublicationId, at: Instant) {
        if let Some(of) = self.links.get_mut(link) {
            of.tries.remove(&(at, id));
        }
        self.schedule(link);
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(link);
        self.turns.set(link, None);
    }

    /// When it is the turn of a link.
    pub fn next_due(&self) -> Option<Instant> {
        self.turns.next()
    }

    /// What is tried now, if it is time for anything.
    pub fn pop(&mut self, now: Instant) -> Option<PublicationId> {
        let link = self.turns.pop_due(now)?;
        let of = self.links.get_mut(link)?;
        let (_, id) = of.tries.pop_first()?;
        // Those behind wait longer by now.
        of.not_before = now;
        self.schedule(link);
        Some(id)
    }

    /// Nothing of a link can be tried until then.
    pub fn rest(&mut self, link: LinkId, until: Instant) {
        if let Some(of) = self.links.get_mut(link) {
            of.not_before = until;
        }
        self.schedule(link);
    }

    /// What is to be tried of a link may be tried now.
    pub fn end_rest(&mut self, link: LinkId, now: Instant) {
        if self.links.get(link).is_some_and(|of| of.not_before > now) {
            self.rest(link, now);
        }
    }

    fn schedule(&mut self, link: LinkId) {
        let first = self.links.get(link).and_then(|of| Some((of.tries.first()?.0, of.not_before)));
        self.turns.set(link, first.map(|(at, not_before)| at.max(not_before)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn publication(slot: u32) -> PublicationId {
        PublicationId::new(slot, 1).expect("it can be named")
    }

    fn link(slot: u32) -> LinkId {
        LinkId::new(slot, 1).expect("it can be named")
    }

    #[test]
    fn links_take_turns_however_much_each_has_to_be_tried() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        (0..100).for_each(|slot| tries.add(link(0), publication(slot), now));
        (100..103).for_each(|slot| tries.add(link(1), publication(slot), now + SECOND));
        let tried = |tries: &mut Tries, at: u32| {
            let now = now + 2 * SECOND + Duration::from_millis(20) * at;
            tries.pop(now).map(|id| id.slot())
        };
        let first: Vec<_> = (0..6).filter_map(|at| tried(&mut tries, at)).collect();
        assert_eq!(first, [0, 100, 1, 101, 2, 102]);
    }

    #[test]
    fn a_link_that_rests_is_passed_over_until_it_is_ready() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        tries.add(link(0), publication(0), now);
        tries.rest(link(0), now + 5 * SECOND);
        assert_eq!((tries.pop(now), tries.next_due()), (None, Some(now + 5 * SECOND)));
        tries.end_rest(link(0), now + SECOND);
        assert_eq!(tries.pop(now + SECOND), Some(publication(0)));
        assert_eq!(tries.next_due(), None);
    }

    #[test]
    fn what_is_not_to_be_tried_any_more_is_not() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        tries.add(link(0), publication(0), now);
        tries.add(link(1), publication(1), now);
        tries.remove(link(0), publication(0), now);
        tries.forget(link(1));
        assert_eq!((tries.next_due(), tries.pop(now)), (None, None));
    }
}
