//! Sessions that clients were offered and have not accepted yet.
//!
//! A session is *late* when it was not accepted within three round trips and four variances (RFC 6298), although its
//! client has answered a control ping that was sent after its `Start`. Then it is not the client that is slow, but
//! something is wrong with that message connection: one more copy of the session is sent on another. The first copy
//! stays as it is, because it may have arrived. The client serves the copy that it reads first, and answers the
//! others as duplicates, each on its own connection.
//!
//! Rules, each needed (`tests/offer_search.rs` shows what happens without it):
//! - the copy that is accepted first is served, and the others are aborted alone;
//! - a duplicate says that another copy lives. If none does, the user is reset;
//! - a copy that lives was accepted before the duplicate was sent. If that cannot be heard, the user is reset, because
//!   no other copy can take its place: the client keeps nothing of what it has said, and it may arrive all the same.
//!   TCP has sent it again before twice the time is over in which the duplicate came;
//! - a session all of whose copies were lost with their connections is offered again.

use std::time::{Duration, Instant};

use super::links::Link;
use crate::base::id::{ConnId, LinkId, kind};
use crate::base::round_trip::RoundTrip;
use crate::base::table::Table;
use crate::config::limits::Limits;

/// Copies of a session that may live at once.
const COPIES_MAX: usize = 3;
/// A client that a late session waits for is asked for a sign of life so often in the time that it has.
const ASKED_IN_TIME: u32 = 4;

/// A session that is offered.
pub(super) struct Offer {
    pub link: LinkId,
    /// When its first `Start` was sent.
    began: Instant,
    /// When its last `Start` was sent.
    pub sent: Instant,
    /// How long the client tries to connect to its local server.
    pub dial_ms: u32,
    /// The copy that the user is paired with.
    paired: Option<ConnId>,
    others: [Option<ConnId>; COPIES_MAX - 1],
    state: State,
    /// When the client first called a copy a duplicate.
    duplicate: Option<Instant>,
}

/// How long it has been awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its last copy may still be accepted in time.
    InTime,
    /// It may not, and what the client says about that is not known yet.
    Overdue,
    Late,
}

/// What is to be done about a session whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing until then.
    Later(Instant),
    /// Its client is asked for a sign of life, and it is looked at again then.
    Ask(Instant),
    /// The same, and it is overdue, `newly` or still: it is looked at after that sign of life, too.
    Overdue { again: Instant, newly: bool },
    /// The same, and it is late: it may be offered again.
    Late { again: Instant, newly: bool },
    /// Nobody answers: it is given up.
    GivenUp,
}

/// What is left of a session that has lost a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Another copy is with the client.
    Copies,
    /// None, and the client has served none.
    Nothing,
    /// None, and the client has seen one that was lost.
    Duplicate,
}

impl Offer {
    /// A session that is sent for the first time.
    fn new(link: LinkId, message: ConnId, dial_ms: u32, now: Instant) -> Offer {
        Offer {
            link,
            began: now,
            sent: now,
            dial_ms,
            paired: Some(message),
            others: [None; COPIES_MAX - 1],
            state: State::InTime,
            duplicate: None,
        }
    }

    /// The copies that live.
    pub fn copies(&self) -> impl Iterator<Item = ConnId> {
        self.paired.into_iter().chain(self.others.into_iter().flatten())
    }

    /// The copy that the user is paired with.
    pub fn paired(&self) -> Option<ConnId> {
        self.paired
    }

    /// Whether it was offered once. Only then the time until it is accepted tells of the line.
    pub fn is_only(&self) -> bool {
        self.began == self.sent
    }

    /// One more copy is sent.
    fn add(&mut self, message: ConnId, now: Instant) {
        (self.sent, self.state) = (now, State::InTime);
        match self.others.iter_mut().find(|copy| copy.is_none()) {
            _ if self.paired.is_none() => self.paired = Some(message),
            Some(free) => *free = Some(message),
            None => debug_assert!(false, "there is room for it"),
        }
    }

    /// Whether one more copy may be sent.
    pub fn has_room(&self) -> bool {
        self.copies().count() < COPIES_MAX
    }
}

/// The time after which a session that is not accepted is late.
fn late_after(round_trip: &RoundTrip, limits: &Limits) -> Duration {
    round_trip.times(3).max(limits.accept)
}

/// All sessions that are offered, by their users.
#[derive(Default)]
pub(super) struct Offers(Table<kind::Connection, Offer>);

impl Offers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, user: ConnId) -> Option<&Offer> {
        self.0.get(user)
    }

    pub fn contains(&self, user: ConnId) -> bool {
        self.0.contains(user)
    }

    /// A copy of a user's session is sent; returns when the session is looked at.
    pub fn add(
        &mut self,
        user: ConnId,
        message: ConnId,
        (id, link): (LinkId, &Link),
        dial_ms: u32,
        (now, limits): (Instant, &Limits),
    ) -> Instant {
        match self.0.get_mut(user) {
            Some(offer) => offer.add(message, now),
            None => self.0.insert(user, Offer::new(id, message, dial_ms, now)),
        }
        // The answer to a ping that leaves half-way is there in time.
        now + late_after(&link.round_trip, limits) / 2
    }

    /// The session is accepted, refused, or its user is gone: it is offered no more.
    pub fn remove(&mut self, user: ConnId) -> Option<Offer> {
        self.0.remove(user)
    }

    /// The copy that a user was paired with is lost.
    pub fn lost_paired(&mut self, user: ConnId) -> Left {
        match self.0.get(user).map(|offer| offer.paired) {
            Some(Some(message)) => self.lost(user, message),
            Some(None) => Left::Copies,
            None => Left::Nothing,
        }
    }

    /// A copy is lost with its connection.
    pub fn lost(&mut self, user: ConnId, message: ConnId) -> Left {
        let Some(offer) = self.0.get_mut(user) else { return Left::Copies };
        if offer.paired == Some(message) {
            offer.paired = None;
        }
        offer.others.iter_mut().filter(|copy| **copy == Some(message)).for_each(|copy| *copy = None);
        if offer.copies().next().is_some() {
            return Left::Copies;
        }
        let left = if offer.duplicate.is_some() { Left::Duplicate } else { Left::Nothing };
        self.remove(user);
        left
    }

    /// The client has seen this session before it read this copy.
    pub fn duplicate(&mut self, user: ConnId, message: ConnId, now: Instant) -> Left {
        if let Some(offer) = self.0.get_mut(user) {
            offer.duplicate.get_or_insert(now);
        }
        self.lost(user, message)
    }

    /// The time of a session has come; `link` is its client's.
    pub fn due(&mut self, user: ConnId, link: &Link, now: Instant, limits: &Limits) -> Option<Due> {
        let offer = self.0.get_mut(user)?;
        let unheard = link.round_trip.times(4).clamp(limits.unheard, limits.user_patience);
        let last = (link.heard.max(offer.began) + unheard).min(offer.began + limits.user_patience);
        let last = offer.duplicate.map_or(last, |at| {
            let accepted = at + (at - offer.began) + link.round_trip.times(4).max(limits.abort);
            accepted.min(last)
        });
        if now >= last {
            return Some(Due::GivenUp);
        }
        if offer.duplicate.is_some() {
            return Some(Due::Later(last));
        }
        let late_at = offer.sent + late_after(&link.round_trip, limits);
        let answered = link.answered_ping_of >= offer.sent;
        if offer.state == State::InTime && now < late_at && answered {
            return Some(Due::Later(late_at.min(last)));
        }
        let before = offer.state;
        offer.state = match before {
            State::Late => State::Late,
            State::InTime if now < late_at => State::InTime,
            _ if answered => State::Late,
            _ => State::Overdue,
        };
        let newly = before == State::InTime;
        let again = (now + unheard / ASKED_IN_TIME).min(last);
        Some(match offer.state {
            State::InTime => Due::Ask(late_at.min(last)),
            State::Overdue => Due::Overdue { again, newly },
            State::Late => Due::Late { again, newly },
        })
    }
}
