//! One session at the client, the connections that carry it, and how many message connections do what.

use super::attempt::Attempt;
use super::publications::Publications;
use super::user::UserOf;
use crate::base::id::{ConnId, LinkId};
use crate::base::sorted::Map;
use crate::config::limits::Limits;
use crate::machine::{Agenda, CloseReason, Output, Traffic};
use crate::wire::frame::{AbortReason, Sid};

/// A message connection.
pub(super) struct Message {
    /// The link that it belongs to; its sessions are numbered there.
    pub link: LinkId,
    pub state: State,
}

/// What a message connection does.
pub(super) enum State {
    /// It is dialled, and not proved yet.
    Coming,
    Idle,
    Busy(Session),
}

impl State {
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            State::Busy(session) => Some(session),
            State::Coming | State::Idle => None,
        }
    }
}

/// Its user goes elsewhere: no local server can be had for the session on this message connection.
pub(super) fn refuse(message: ConnId, agenda: &mut Agenda) {
    agenda.push(Output::Abort { message, reason: AbortReason::Refused });
}

/// A session that runs on a message connection.
pub(super) struct Session {
    pub user: UserOf,
    pub sid: Sid,
    pub stage: Stage,
    /// While its local server is sought.
    pub attempt: Option<Box<Attempt>>,
}

impl Session {
    /// Whether its user is still to be counted. It is, from now on.
    pub fn take_uncounted(&mut self) -> bool {
        std::mem::replace(&mut self.stage, Stage::Over) == Stage::Seeking
    }

    /// Whether a dial of its local server is on its way.
    pub fn is_dialled(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.last().is_some())
    }

    /// It ends. If its local server is still sought, its user is not served.
    pub fn not_served(&mut self, reason: CloseReason, publications: &Publications, agenda: &mut Agenda) {
        if self.take_uncounted() {
            self.user.left(reason, publications, agenda);
        }
    }
}

/// How far a session has come. Its user is counted once: when it is not served, or as its proxy connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its local server is sought.
    Seeking,
    /// Its local server has taken the connection.
    Served,
    /// Its user is counted, or is not to be.
    Over,
}

/// A proxy connection; its session may be over before it.
pub(super) struct Proxy {
    pub message: ConnId,
    pub user: UserOf,
    /// It serves its session, and its user is counted by it.
    pub is_served: bool,
    /// It was counted as one whose user sent bytes and got none.
    is_unanswered: bool,
}

impl Proxy {
    /// A proxy connection that serves nobody yet.
    pub fn new(message: ConnId, user: UserOf) -> Proxy {
        Proxy { message, user, is_served: false, is_unanswered: false }
    }

    /// Its local server was told all that the user has to say, and has said nothing so far.
    pub fn unanswered(&mut self, publications: &mut Publications) {
        if !std::mem::replace(&mut self.is_unanswered, true) {
            self.user.asked(true, false, publications);
        }
    }

    /// It is gone, and has passed this.
    pub fn asked(&self, traffic: Traffic, publications: &mut Publications) {
        if traffic.received > 0 || !self.is_unanswered {
            self.user.asked(traffic.sent > 0, traffic.received > 0, publications);
        }
    }
}

/// What is counted of message connections.
#[derive(Clone, Copy)]
enum Count {
    Coming,
    Idle,
    Users,
    Probes,
}

impl State {
    fn count(&self) -> Count {
        match self {
            State::Coming => Count::Coming,
            State::Idle => Count::Idle,
            State::Busy(session) if session.user.is_probe() => Count::Probes,
            State::Busy(_) => Count::Users,
        }
    }
}

/// How many message connections do what: of each link, and of all.
#[derive(Default)]
pub(super) struct Counts {
    of_link: Map<LinkId, [usize; 4]>,
    all: [usize; 4],
}

impl Counts {
    /// One of a link leaves a state, or comes; and enters another, or is gone.
    pub fn turn(&mut self, link: LinkId, before: Option<&State>, after: Option<&State>) {
        let own = self.of_link.or_default(link);
        for counts in [&mut *own, &mut self.all] {
            before.into_iter().for_each(|state| counts[state.count() as usize] -= 1);
            after.into_iter().for_each(|state| counts[state.count() as usize] += 1);
        }
        if *own == [0; 4] {
            self.of_link.remove(&link);
        }
    }

    /// Those that are proved.
    pub fn proved(&self) -> usize {
        self.idle() + self.users() + self.all[Count::Probes as usize]
    }

    /// Whether all have sessions, and there are as many as file descriptors let it have.
    pub fn are_short(&self, limits: &Limits) -> bool {
        let most = limits.messages_per_client_max;
        most < limits.messages_meant && self.proved() >= most && self.idle() == 0
    }

    /// Those that wait for a session.
    pub fn idle(&self) -> usize {
        self.all[Count::Idle as usize]
    }

    /// Those with the session of a user.
    pub fn users(&self) -> usize {
        self.all[Count::Users as usize]
    }

    /// Those of a link that are coming, idle, and busy.
    pub fn of_link(&self, link: LinkId) -> [usize; 3] {
        let [coming, idle, users, probes] = self.of_link.get(&link).copied().unwrap_or_default();
        [coming, idle, users + probes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client holds one of these per idle session, and two of its user.
    #[test]
    fn a_session_takes_little_memory() {
        assert_eq!((size_of::<Message>(), size_of::<Proxy>()), (72, 56));
    }
}
