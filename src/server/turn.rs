//! What one turn of the loop may begin for users that waited or were refused; the turns that follow begin the rest.
//!
//! Without it, a thousand connections on which sessions are refused as fast as they are begun would all be ready at
//! once, and everybody else's bytes would wait for a thousand of them.

use std::collections::VecDeque;

use super::links::Links;
use super::queue::Queue;
use crate::base::address::Origin;
use crate::base::id::{ConnId, LinkId};

/// Sessions that are begun in one turn for users that did not just come.
const BEGUN_MAX: usize = 32;

/// See the module.
pub(super) struct Turn {
    left: usize,
    /// Users that were refused and go elsewhere.
    refused: Queue,
    /// Links that have idle connections for users who wait, each once.
    links: VecDeque<LinkId>,
}

impl Default for Turn {
    fn default() -> Turn {
        Turn { left: BEGUN_MAX, refused: Queue::default(), links: VecDeque::new() }
    }
}

impl Turn {
    /// Another turn begins.
    pub fn renew(&mut self) {
        self.left = BEGUN_MAX;
    }

    /// Whether one more session may be begun; it is counted then.
    pub fn takes_one(&mut self) -> bool {
        let takes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        takes
    }

    /// Whether something waits for another turn.
    pub fn is_wanted(&self) -> bool {
        !self.refused.is_empty() || !self.links.is_empty()
    }

    /// Refused users that are offered nowhere yet.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// A refused user of this address goes elsewhere in a later turn.
    pub fn put_off(&mut self, user: ConnId, origin: Option<Origin>) {
        self.refused.push(user, origin, false);
    }

    /// A link's connections are given to users in a later turn.
    pub fn list(&mut self, link: LinkId, links: &mut Links) {
        if let Some(it) = links.get_mut(link)
            && !std::mem::replace(&mut it.listed, true)
        {
            self.links.push_back(link);
        }
    }

    /// The next refused user, which may be gone.
    pub fn next_refused(&mut self) -> Option<ConnId> {
        if self.refused.is_empty() || !self.takes_one() { None } else { self.refused.pop() }
    }

    /// The next link that was listed, which may be gone.
    pub fn next_link(&mut self, links: &mut Links) -> Option<LinkId> {
        let link = if self.left > 0 { self.links.pop_front()? } else { return None };
        if let Some(it) = links.get_mut(link) {
            it.listed = false;
        }
        Some(link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_so_many_and_the_next_goes_on() {
        let mut turn = Turn::default();
        let user = |slot| ConnId::new(slot, 1).expect("it can be named");
        (0..100).for_each(|slot| turn.put_off(user(slot), None));
        let mut turns = Vec::new();
        while turn.is_wanted() {
            turn.renew();
            turns.push(std::iter::from_fn(|| turn.next_refused()).count());
        }
        assert_eq!(turns, [BEGUN_MAX, BEGUN_MAX, BEGUN_MAX, 100 - 3 * BEGUN_MAX]);
    }
}
