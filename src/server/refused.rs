//! Where a refused user goes: around the circle of its service's publications, for a few steps.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::services::LOOKED_AT_MAX;
use crate::base::id::{LinkId, PublicationId};

/// Clients that one user is offered to, the first one included. Where thirty refuse, each user would otherwise cost
/// thirty sessions, and everybody else's bytes would wait for them.
pub(super) const OFFERED_TO_MAX: usize = 4;

/// Where a link stands that may serve a refused user; the better, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has an idle connection.
    Ready,
    /// It has none.
    Busy,
    /// It has refused a session lately, or not started it.
    Failing,
}

/// The publications that have refused a user: all from the first to the last, in the circle of its service, which is
/// walked from the newer to the older. So what is published meanwhile does not make the walk longer.
///
/// The first walk passes over some, if a better one stands near. If it did, and none has served the user, a second walk
/// passes over none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    first: PublicationId,
    last: PublicationId,
    walk: Walk,
    offered_to: usize,
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
        Refused { first: publication, last: publication, walk: Walk::First(false), offered_to: 1 }
    }

    /// The publication to which the user goes next, which is noted. `link` is that of a publication, unless it may
    /// serve nobody.
    pub fn next(
        &mut self,
        publications: &BTreeSet<PublicationId>,
        link: impl Fn(PublicationId) -> Option<LinkId>,
        standing: impl Fn(LinkId) -> Standing,
    ) -> Option<PublicationId> {
        if self.offered_to == OFFERED_TO_MAX {
            return None;
        }
        self.offered_to += 1;
        let mut next = self.next_of_walk(publications, &link, &standing);
        if next.is_none() && self.walk == Walk::First(true) {
            (self.last, self.walk) = (self.first, Walk::Second);
            next = self.next_of_walk(publications, &link, &standing);
        }
        self.last = next?;
        next
    }

    fn next_of_walk(
        &mut self,
        publications: &BTreeSet<PublicationId>,
        link: impl Fn(PublicationId) -> Option<LinkId>,
        standing: impl Fn(LinkId) -> Standing,
    ) -> Option<PublicationId> {
        let Refused { first, last, .. } = *self;
        let wrapped = last > first;
        let older = (!wrapped).then(|| publications.range(..last).rev());
        let to = if wrapped { Bound::Excluded(last) } else { Bound::Unbounded };
        let newer = publications.range((Bound::Excluded(first), to)).rev();
        let circle = older.into_iter().flatten().chain(newer);
        let mut near = circle.filter_map(|&id| Some((id, link(id)?))).take(LOOKED_AT_MAX);
        let Walk::First(passed_over) = self.walk else { return near.next().map(|(id, _)| id) };
        let (mut passed, mut best) = (0, None);
        for (place, (id, link)) in near.enumerate() {
            let standing = standing(link);
            if best.is_none_or(|(_, least)| standing < least) {
                (passed, best) = (place, Some((id, standing)));
            }
            if standing == Standing::Ready {
                break;
            }
        }
        self.walk = Walk::First(passed_over || passed > 0);
        best.map(|(id, _)| id)
    }
}
