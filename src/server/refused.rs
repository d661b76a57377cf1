//! Where a refused user goes: around the circle of its service's publications, once or twice.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::services::LOOKED_AT_MAX;
use crate::base::id::{LinkId, PublicationId};

/// The publications that have refused a user: all from the first to the last, in the circle of its service, which is
/// walked from the newer to the older. So what is published meanwhile does not make the walk longer.
///
/// The first walk passes over those that are not ready, if one that is stands near. If it did, and none has served the
/// user, a second walk passes over none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    first: PublicationId,
    last: PublicationId,
    walk: Walk,
}

/// Which walk around the circle it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// The first; whether it has passed over one.
    First(bool),
    Second,
}

impl Refused {
    /// One publication has refused a user.
    pub fn by(publication: PublicationId) -> Refused {
        Refused { first: publication, last: publication, walk: Walk::First(false) }
    }

    /// The publication to which the user goes next, which is noted. `link` is that of a publication, unless it may
    /// serve nobody.
    pub fn next(
        &mut self,
        publications: &BTreeSet<PublicationId>,
        link: impl Fn(PublicationId) -> Option<LinkId>,
        is_ready: impl Fn(LinkId) -> bool,
    ) -> Option<PublicationId> {
        let mut next = self.next_of_walk(publications, &link, &is_ready);
        if next.is_none() && self.walk == Walk::First(true) {
            (self.last, self.walk) = (self.first, Walk::Second);
            next = self.next_of_walk(publications, &link, &is_ready);
        }
        self.last = next?;
        next
    }

    fn next_of_walk(
        &mut self,
        publications: &BTreeSet<PublicationId>,
        link: impl Fn(PublicationId) -> Option<LinkId>,
        is_ready: impl Fn(LinkId) -> bool,
    ) -> Option<PublicationId> {
        let Refused { first, last, .. } = *self;
        let wrapped = last > first;
        let older = (!wrapped).then(|| publications.range(..last).rev());
        let to = if wrapped { Bound::Excluded(last) } else { Bound::Unbounded };
        let newer = publications.range((Bound::Excluded(first), to)).rev();
        let circle = older.into_iter().flatten().chain(newer);
        let mut found = None;
        for (id, link) in circle.filter_map(|&id| Some((id, link(id)?))).take(LOOKED_AT_MAX) {
            let Walk::First(passed_over) = self.walk else { return Some(id) };
            if is_ready(link) {
                self.walk = Walk::First(passed_over || found.is_some());
                return Some(id);
            }
            found = found.or(Some(id));
        }
        found
    }
}
