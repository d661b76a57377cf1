//! Connections that belong together, by what they share: the users of a service, the sessions of a publication.
//!
//! A group is a list through its members, so that coming, going and walking over one group cost nothing for the others,
//! and nothing is allocated once warm.

use std::collections::HashMap;
use std::hash::Hash;
use std::iter;

use super::id::{ConnId, kind};
use super::table::Table;

/// A member of a group, and the slots of its neighbours there.
struct Member<G> {
    group: G,
    before: Option<u32>,
    behind: Option<u32>,
}

/// Which connections are in which group; each is in one at most.
///
/// Invariant: a neighbour of a member is a member of the same group, and has it as its neighbour.
pub struct Groups<G> {
    members: Table<kind::Connection, Member<G>>,
    /// The slot of the first member of each group that has some.
    first: HashMap<G, u32>,
}

impl<G> Default for Groups<G> {
    fn default() -> Groups<G> {
        Groups { members: Table::default(), first: HashMap::new() }
    }
}

impl<G: Copy + Eq + Hash> Groups<G> {
    /// A connection joins a group. It leaves the one that it is in, and so does one that had its slot before.
    pub fn join(&mut self, id: ConnId, group: G) {
        self.members.at(id.slot()).into_iter().for_each(|before| self.leave(before));
        let behind = self.first.insert(group, id.slot());
        self.members.insert(id, Member { group, before: None, behind });
        if let Some(behind) = behind.and_then(|slot| self.at_mut(slot)) {
            behind.before = Some(id.slot());
        }
    }

    /// A connection is in no group any more.
    pub fn leave(&mut self, id: ConnId) {
        let Some(Member { group, before, behind }) = self.members.remove(id) else { return };
        match (before.and_then(|slot| self.at_mut(slot)), behind) {
            (Some(before), _) => before.behind = behind,
            (None, Some(behind)) => drop(self.first.insert(group, behind)),
            (None, None) => drop(self.first.remove(&group)),
        }
        if let Some(behind) = behind.and_then(|slot| self.at_mut(slot)) {
            behind.before = before;
        }
    }

    /// The members of a group, the last one that joined first.
    pub fn of(&self, group: G) -> impl Iterator<Item = ConnId> {
        let first = self.first.get(&group).and_then(|&slot| self.members.at(slot));
        iter::successors(first, |&id| self.members.get(id)?.behind.and_then(|slot| self.members.at(slot)))
    }

    fn at_mut(&mut self, slot: u32) -> Option<&mut Member<G>> {
        self.members.at(slot).and_then(|id| self.members.get_mut(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32, serial: u64) -> ConnId {
        ConnId::new(slot, serial).expect("it can be named")
    }

    fn of(groups: &Groups<u32>, group: u32) -> Vec<u32> {
        groups.of(group).map(ConnId::slot).collect()
    }

    #[test]
    fn members_come_and_go_in_any_order() {
        let mut groups = Groups::default();
        (0..8).for_each(|slot| groups.join(id(slot, 1), slot % 2));
        assert_eq!((of(&groups, 0), of(&groups, 1)), (vec![6, 4, 2, 0], vec![7, 5, 3, 1]));
        // The one in the middle, the first and the last.
        for (slot, left) in [(4, vec![6, 2, 0]), (6, vec![2, 0]), (0, vec![2])] {
            groups.leave(id(slot, 1));
            assert_eq!(of(&groups, 0), left);
        }
        groups.leave(id(2, 1));
        assert_eq!((of(&groups, 0), of(&groups, 1)), (vec![], vec![7, 5, 3, 1]));
        assert_eq!(groups.first.len(), 1, "a group that has no members is forgotten");
        groups.join(id(0, 1), 0);
        assert_eq!(of(&groups, 0), [0]);
    }

    #[test]
    fn a_member_that_joins_another_group_leaves_its_own() {
        let mut groups = Groups::default();
        (0..3).for_each(|slot| groups.join(id(slot, 1), 0));
        groups.join(id(1, 1), 1);
        assert_eq!((of(&groups, 0), of(&groups, 1)), (vec![2, 0], vec![1]));
        groups.join(id(1, 1), 1);
        assert_eq!(of(&groups, 1), [1]);
    }

    #[test]
    fn a_slot_that_is_used_again_is_another_member() {
        let mut groups = Groups::default();
        (0..3).for_each(|slot| groups.join(id(slot, 1), 0));
        groups.join(id(1, 2), 1);
        assert_eq!((of(&groups, 0), of(&groups, 1)), (vec![2, 0], vec![1]));
        groups.leave(id(1, 1));
        assert_eq!(of(&groups, 1), [1], "a stale id is nobody");
    }
}
