//! The life of sessions on one message connection, seen from one of its ends.
//!
//! [`Session`] is the table of session states and nothing else: it takes frames and local events, and
//! says what to do and what to send. It moves no bytes, knows no clock and holds no flag beside its state, so
//! the exhaustive search in `tests/session_search.rs` drives this very code.
//!
//! Invariants:
//! - each direction of a session ends with exactly one `Fin` or `Abort` (`Abort` may follow `Fin`, once);
//! - the connection is idle again only when its end was both sent and received;
//! - `sid` only grows.

use crate::wire::frame::{AbortReason, Frame, Sid, Start};

/// Which end of the message connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// Sends `Start`.
    Server,
    /// Answers `Accepted` and `Started`.
    Client,
}

/// One direction of a running session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Bytes may come.
    Open,
    /// Ended whole.
    Fin,
    /// Ended broken.
    Aborted,
}

/// How far the client has come with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// `Start` was sent or received.
    Assigned,
    /// The client has read `Start`.
    Accepted,
    /// The proxy connection stands.
    Started,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Server: idle, and a ping is on its way.
    Pinged,
    Busy {
        sending: Direction,
        receiving: Direction,
        stage: Stage,
    },
}

/// The session, or the pause between two, on one message connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    end: End,
    /// The running session, or the last one; 0 before the first.
    sid: Sid,
    phase: Phase,
}

/// What the relay does about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it was late, or its session is being thrown away.
    Ignore,
    /// Client: a session has begun.
    Begin(Start),
    /// Server: the client has read `Start`.
    Accepted,
    /// Server: the proxy connection stands.
    Started,
    /// Give the frame's bytes to the local side.
    Deliver,
    /// Shut down the local side's writing once everything is flushed.
    Finish,
    /// Server: no byte reached a local server; the user may go elsewhere.
    Returned,
    /// Server: the client has seen this session before, on another connection.
    Duplicate,
    /// Reset the local side, after a short flush.
    Abort(AbortReason),
    /// Server: the ping was answered.
    Pong,
    /// Server: close this idle connection.
    Drain,
}

/// A frame that the table does not allow here. The TCP connection is closed; nothing is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

impl Session {
    /// A fresh message connection: idle.
    pub fn new(end: End) -> Session {
        Session { end, sid: 0, phase: Phase::Idle }
    }

    /// The number of the running session, or of the last one.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    /// No session is running: the next one may begin (on the server: unless a ping is on its way).
    pub fn is_idle(&self) -> bool {
        !matches!(self.phase, Phase::Busy { .. })
    }

    /// Server: a user may be assigned.
    pub fn is_free(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// How far the running session has come.
    pub fn stage(&self) -> Option<Stage> {
        match self.phase {
            Phase::Busy { stage, .. } => Some(stage),
            _ => None,
        }
    }

    /// Whether local bytes may be sent as `Data` now.
    pub fn may_send(&self) -> bool {
        match self.phase {
            Phase::Busy { sending: Direction::Open, stage, .. } => {
                self.end == End::Server || stage == Stage::Started
            }
            _ => false,
        }
    }

    /// Server: the client has not said that it read `Start`, so the user may still be sent elsewhere.
    pub fn is_unaccepted(&self) -> bool {
        match self.phase {
            Phase::Busy { sending, stage: Stage::Assigned, .. } => {
                self.end == End::Server && sending != Direction::Aborted
            }
            _ => false,
        }
    }

    /// Whether `Data` that arrives must be delivered to a local side.
    pub fn delivers(&self) -> bool {
        match self.phase {
            Phase::Busy { sending, receiving: Direction::Open, .. } => sending != Direction::Aborted,
            _ => false,
        }
    }

    /// Server: assigns a user. `None` unless the connection is free and the number is new to it.
    pub fn start(&mut self, start: Start) -> Option<Frame<'static>> {
        if self.end != End::Server || !self.is_free() || start.sid <= self.sid {
            return None;
        }
        self.sid = start.sid;
        self.phase = busy(Direction::Open, Direction::Open, Stage::Assigned);
        Some(Frame::Start(start))
    }

    /// Client: `Start` was read and is no duplicate.
    pub fn accept(&mut self) -> Option<Frame<'static>> {
        self.advance(Stage::Assigned, Stage::Accepted).then_some(Frame::Accepted(self.sid))
    }

    /// Client: the proxy connection stands.
    pub fn started(&mut self) -> Option<Frame<'static>> {
        self.advance(Stage::Accepted, Stage::Started).then_some(Frame::Started(self.sid))
    }

    fn advance(&mut self, from: Stage, to: Stage) -> bool {
        if self.end != End::Client {
            return false;
        }
        match &mut self.phase {
            Phase::Busy { stage, sending, .. } if *stage == from && *sending != Direction::Aborted => {
                *stage = to;
                true
            }
            _ => false,
        }
    }

    /// The local side has ended whole.
    pub fn finish(&mut self) -> Option<Frame<'static>> {
        if !self.may_send() {
            return None;
        }
        self.set_sending(Direction::Fin);
        Some(Frame::Fin(self.sid))
    }

    /// The local side broke, cannot be written to, or is not wanted: sends `Abort`, at most once, unless both
    /// directions have ended already.
    pub fn abort(&mut self, reason: AbortReason) -> Option<Frame<'static>> {
        match self.phase {
            Phase::Busy { sending: Direction::Open | Direction::Fin, .. } => {
                self.set_sending(Direction::Aborted);
                Some(Frame::Abort(self.sid, reason))
            }
            _ => None,
        }
    }

    /// Says that the session still runs, though nothing else is to be said.
    pub fn alive(&self) -> Option<Frame<'static>> {
        (!self.is_idle()).then_some(Frame::Alive(self.sid))
    }

    /// Server: asks an idle connection whether it is alive. It is not free until it has answered.
    pub fn ping(&mut self) -> Option<Frame<'static>> {
        if self.end != End::Server || !self.is_free() {
            return None;
        }
        self.phase = Phase::Pinged;
        Some(Frame::Ping)
    }

    /// Takes a frame: what to do, and what to answer.
    pub fn receive(&mut self, frame: &Frame) -> Result<(Step, Option<Frame<'static>>), Violation> {
        let step = match (self.end, self.phase, *frame) {
            (_, _, Frame::Skipped) => Step::Ignore,
            // Of this session, or late of one before: the other end is alive, and nothing else follows.
            (_, _, Frame::Alive(sid)) if sid > 0 && sid <= self.sid => Step::Ignore,
            // The only other frame that may come late: an abort of the sid before, or of the last one when idle.
            (_, _, Frame::Abort(sid, _)) if sid < self.sid => Step::Ignore,
            (_, Phase::Idle | Phase::Pinged, Frame::Abort(sid, _)) if sid == self.sid => Step::Ignore,

            (End::Client, Phase::Idle, Frame::Start(start)) if start.sid > self.sid => {
                self.sid = start.sid;
                self.phase = busy(Direction::Open, Direction::Open, Stage::Assigned);
                Step::Begin(start)
            }
            (End::Client, Phase::Idle, Frame::Ping) => return Ok((Step::Ignore, Some(Frame::Pong))),
            (End::Server, Phase::Pinged, Frame::Pong) => {
                self.phase = Phase::Idle;
                Step::Pong
            }
            (End::Server, Phase::Idle | Phase::Pinged, Frame::Drain) => Step::Drain,

            (_, Phase::Busy { sending, receiving, stage }, frame) => {
                return self.receive_busy(sending, receiving, stage, frame);
            }
            _ => return Err(Violation),
        };
        Ok((step, None))
    }

    fn receive_busy(
        &mut self,
        sending: Direction,
        receiving: Direction,
        stage: Stage,
        frame: Frame,
    ) -> Result<(Step, Option<Frame<'static>>), Violation> {
        let discarding = sending == Direction::Aborted;
        // What the client sends before its proxy connection stands can only be a refusal.
        let before_started = self.end == End::Server && stage < Stage::Started;
        let open = receiving == Direction::Open;
        let mut reply = None;
        let step = match frame {
            Frame::Accepted(sid)
                if self.end == End::Server && sid == self.sid && open && stage == Stage::Assigned =>
            {
                self.phase = busy(sending, receiving, Stage::Accepted);
                if discarding { Step::Ignore } else { Step::Accepted }
            }
            Frame::Started(sid)
                if self.end == End::Server && sid == self.sid && open && stage == Stage::Accepted =>
            {
                self.phase = busy(sending, receiving, Stage::Started);
                if discarding { Step::Ignore } else { Step::Started }
            }
            Frame::Data(sid, _) if sid == self.sid && open && !before_started => {
                if discarding {
                    Step::Ignore
                } else {
                    Step::Deliver
                }
            }
            Frame::Fin(sid) if sid == self.sid && open && !before_started => {
                self.set_receiving(Direction::Fin);
                if discarding { Step::Ignore } else { Step::Finish }
            }
            Frame::Abort(sid, reason) if sid == self.sid && receiving != Direction::Aborted => {
                if sending == Direction::Open {
                    self.set_sending(Direction::Aborted);
                    reply = Some(Frame::Abort(sid, AbortReason::Reset));
                }
                self.set_receiving(Direction::Aborted);
                match reason {
                    _ if discarding => Step::Ignore,
                    AbortReason::Refused if before_started => Step::Returned,
                    AbortReason::Duplicate if before_started && stage == Stage::Assigned => Step::Duplicate,
                    _ => Step::Abort(reason),
                }
            }
            _ => return Err(Violation),
        };
        Ok((step, reply))
    }

    fn set_sending(&mut self, to: Direction) {
        if let Phase::Busy { receiving, stage, .. } = self.phase {
            self.phase = busy(to, receiving, stage);
        }
    }

    fn set_receiving(&mut self, to: Direction) {
        if let Phase::Busy { sending, stage, .. } = self.phase {
            self.phase = busy(sending, to, stage);
        }
    }
}

/// The phase of a session with these directions: idle once neither is open.
fn busy(sending: Direction, receiving: Direction, stage: Stage) -> Phase {
    if sending != Direction::Open && receiving != Direction::Open {
        Phase::Idle
    } else {
        Phase::Busy { sending, receiving, stage }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use End::{Client, Server};
    use proptest::prelude::*;

    /// The session before the running one, the running one, and the one after it.
    const LAST: Sid = 4;
    const SID: Sid = 5;
    const NEXT: Sid = 6;
    const BYTES: &[u8] = b"hello";
    const RESET: AbortReason = AbortReason::Reset;
    const REFUSED: AbortReason = AbortReason::Refused;
    const ENDS: [End; 2] = [Server, Client];

    type Received = Result<(Step, Option<Frame<'static>>), Violation>;

    fn start(sid: Sid) -> Start {
        Start {
            sid,
            first_sid: 0,
            publication: 1,
            port_offset: 0,
            user: ([192, 0, 2, 1], 4000).into(),
            asked: ([192, 0, 2, 2], 80).into(),
            number: sid,
        }
    }

    /// One fixture per state. Each has had session `LAST`; the busy ones are in session `SID`.
    fn idle(end: End) -> Session {
        let mut session = assigned_to(Session::new(end), LAST);
        assert!(session.receive(&Frame::Abort(LAST, RESET)).is_ok());
        assert!(session.is_idle() && session.is_free() && session.sid() == LAST);
        session
    }

    fn pinged() -> Session {
        let mut session = idle(Server);
        assert_eq!(session.ping(), Some(Frame::Ping));
        session
    }

    fn assigned(end: End) -> Session {
        assigned_to(idle(end), SID)
    }

    fn assigned_to(mut session: Session, sid: Sid) -> Session {
        match session.end {
            Server => assert_eq!(session.start(start(sid)), Some(Frame::Start(start(sid)))),
            Client => assert_eq!(session.receive(&Frame::Start(start(sid))), does(Step::Begin(start(sid)))),
        }
        assert!(!session.is_idle() && !session.is_free() && session.sid() == sid);
        session
    }

    fn accepted(end: End) -> Session {
        let mut session = assigned(end);
        match end {
            Server => assert_eq!(session.receive(&Frame::Accepted(SID)), does(Step::Accepted)),
            Client => assert_eq!(session.accept(), Some(Frame::Accepted(SID))),
        }
        session
    }

    fn started(end: End) -> Session {
        let mut session = accepted(end);
        match end {
            Server => assert_eq!(session.receive(&Frame::Started(SID)), does(Step::Started)),
            Client => assert_eq!(session.started(), Some(Frame::Started(SID))),
        }
        session
    }

    fn sent_fin(end: End) -> Session {
        let mut session = started(end);
        assert_eq!(session.finish(), Some(Frame::Fin(SID)));
        session
    }

    fn received_fin(end: End) -> Session {
        let mut session = started(end);
        assert_eq!(session.receive(&Frame::Fin(SID)), does(Step::Finish));
        session
    }

    fn discarding(end: End) -> Session {
        let mut session = started(end);
        assert_eq!(session.abort(RESET), Some(Frame::Abort(SID, RESET)));
        session
    }

    fn does(step: Step) -> Received {
        Ok((step, None))
    }

    fn answers(step: Step, reply: Frame<'static>) -> Received {
        Ok((step, Some(reply)))
    }

    fn every_frame() -> Vec<Frame<'static>> {
        let numbered = |sid| {
            let aborts = [Frame::Abort(sid, RESET), Frame::Abort(sid, REFUSED)];
            let others =
                [Frame::Accepted(sid), Frame::Started(sid), Frame::Data(sid, BYTES), Frame::Fin(sid)];
            [&aborts[..], &others[..], &[Frame::Start(start(sid)), Frame::Alive(sid)]].concat()
        };
        let mut frames = vec![Frame::Ping, Frame::Pong, Frame::Drain, Frame::Skipped];
        frames.extend([LAST, SID, NEXT].into_iter().flat_map(numbered));
        frames
    }

    /// Every frame does what its row says, and every other one is a violation that changes nothing. An abort of the
    /// session before may come late in any state; `Alive` of this session or of the one before, and a frame of a later
    /// version, say nothing.
    fn knows_only(session: Session, rows: &[(Frame<'static>, Received)]) {
        for frame in every_frame() {
            let mut after = session;
            let row = rows.iter().find(|row| row.0 == frame);
            let late = match frame {
                Frame::Abort(LAST, _) | Frame::Skipped => true,
                Frame::Alive(sid) => sid <= session.sid(),
                _ => false,
            };
            let expected = match row {
                Some((_, received)) => *received,
                None if late => does(Step::Ignore),
                None => Err(Violation),
            };
            assert_eq!(after.receive(&frame), expected, "{frame:?} in {session:?}");
            assert!(row.is_some() || after == session, "{frame:?} in {session:?} left {after:?}");
        }
    }

    /// The session after a frame.
    fn after(mut session: Session, frame: Frame<'static>) -> Session {
        assert!(session.receive(&frame).is_ok(), "{frame:?} in {session:?}");
        session
    }

    /// A local event does nothing unless its answer is named here.
    fn sends_only(session: Session, frames: &[Frame<'static>]) {
        let abort = |session: &mut Session| session.abort(RESET);
        let start = |session: &mut Session| session.start(start(NEXT));
        type Event<'a> = &'a dyn Fn(&mut Session) -> Option<Frame<'static>>;
        let events: [Event; 6] =
            [&start, &Session::accept, &Session::started, &Session::finish, &abort, &Session::ping];
        let mut sent = Vec::new();
        for event in events {
            let mut after = session;
            match event(&mut after) {
                Some(frame) => sent.push(frame),
                None => assert_eq!(after, session, "what sends nothing changes nothing"),
            }
        }
        assert_eq!(sent, frames, "{session:?}");
    }

    mod idle_server {
        use super::*;

        #[test]
        fn knows_only_drain_and_late_aborts() {
            knows_only(idle(Server), &[(Frame::Drain, does(Step::Drain))]);
        }

        #[test]
        fn may_be_assigned_a_user_or_pinged() {
            sends_only(idle(Server), &[Frame::Start(start(NEXT)), Frame::Ping]);
        }

        #[test]
        fn never_takes_a_number_twice_or_a_lower_one() {
            for sid in [0, LAST - 1, LAST] {
                assert_eq!(idle(Server).start(start(sid)), None);
            }
        }

        #[test]
        fn ignores_a_late_abort() {
            assert_eq!(after(idle(Server), Frame::Abort(LAST, RESET)), idle(Server));
            assert_eq!(after(idle(Server), Frame::Abort(LAST - 1, RESET)), idle(Server));
        }
    }

    mod pinged_server {
        use super::*;

        #[test]
        fn waits_for_the_answer() {
            knows_only(pinged(), &[(Frame::Pong, does(Step::Pong)), (Frame::Drain, does(Step::Drain))]);
            sends_only(pinged(), &[]);
            assert!(pinged().is_idle() && !pinged().is_free());
        }

        #[test]
        fn is_free_once_it_was_answered() {
            assert_eq!(after(pinged(), Frame::Pong), idle(Server));
        }
    }

    mod idle_client {
        use super::*;

        #[test]
        fn knows_only_new_sessions_pings_and_late_aborts() {
            knows_only(
                idle(Client),
                &[
                    (Frame::Start(start(SID)), does(Step::Begin(start(SID)))),
                    (Frame::Start(start(NEXT)), does(Step::Begin(start(NEXT)))),
                    (Frame::Ping, answers(Step::Ignore, Frame::Pong)),
                ],
            );
            sends_only(idle(Client), &[]);
        }

        #[test]
        fn stays_idle_when_pinged_or_aborted_late() {
            for frame in [Frame::Ping, Frame::Abort(LAST, RESET), Frame::Abort(LAST - 1, RESET)] {
                assert_eq!(after(idle(Client), frame), idle(Client));
            }
        }
    }

    mod assigned_session {
        use super::*;

        #[test]
        fn a_server_sends_at_once_and_waits_for_accepted() {
            assert!(assigned(Server).may_send());
            sends_only(assigned(Server), &[Frame::Fin(SID), Frame::Abort(SID, RESET)]);
        }

        #[test]
        fn a_user_may_be_sent_elsewhere_until_accepted_though_it_has_ended() {
            let mut ended = assigned(Server);
            assert!(ended.is_unaccepted() && ended.finish().is_some() && ended.is_unaccepted());
            assert!(ended.abort(RESET).is_some());
            let elsewhere =
                [ended, idle(Server), pinged(), accepted(Server), started(Server), assigned(Client)];
            assert!(elsewhere.iter().all(|session| !session.is_unaccepted()));
        }

        #[test]
        fn a_server_takes_nothing_before_accepted_but_an_abort() {
            let reply = Frame::Abort(SID, RESET);
            knows_only(
                assigned(Server),
                &[
                    (Frame::Accepted(SID), does(Step::Accepted)),
                    (Frame::Abort(SID, RESET), answers(Step::Abort(RESET), reply)),
                    (Frame::Abort(SID, REFUSED), answers(Step::Returned, reply)),
                ],
            );
        }

        #[test]
        fn a_client_may_accept_or_abort_but_not_send() {
            assert!(!assigned(Client).may_send());
            sends_only(assigned(Client), &[Frame::Accepted(SID), Frame::Abort(SID, RESET)]);
        }

        #[test]
        fn a_client_takes_bytes_for_the_local_server_that_it_has_not_reached() {
            knows_only(assigned(Client), &client_rows());
            assert!(assigned(Client).delivers());
        }
    }

    /// What a client takes while both directions are open, however far it has come.
    fn client_rows() -> Vec<(Frame<'static>, Received)> {
        let reply = Frame::Abort(SID, RESET);
        vec![
            (Frame::Data(SID, BYTES), does(Step::Deliver)),
            (Frame::Fin(SID), does(Step::Finish)),
            (Frame::Abort(SID, RESET), answers(Step::Abort(RESET), reply)),
            (Frame::Abort(SID, REFUSED), answers(Step::Abort(REFUSED), reply)),
        ]
    }

    mod accepted_session {
        use super::*;

        #[test]
        fn a_server_takes_nothing_before_started_but_an_abort() {
            let reply = Frame::Abort(SID, RESET);
            knows_only(
                accepted(Server),
                &[
                    (Frame::Started(SID), does(Step::Started)),
                    (Frame::Abort(SID, RESET), answers(Step::Abort(RESET), reply)),
                    (Frame::Abort(SID, REFUSED), answers(Step::Returned, reply)),
                ],
            );
            sends_only(accepted(Server), &[Frame::Fin(SID), Frame::Abort(SID, RESET)]);
        }

        #[test]
        fn a_user_who_has_ended_already_is_returned_without_an_answer() {
            let mut session = accepted(Server);
            assert_eq!(session.finish(), Some(Frame::Fin(SID)));
            assert_eq!(session.receive(&Frame::Abort(SID, REFUSED)), does(Step::Returned));
            assert!(session.is_free());
        }

        #[test]
        fn a_client_dials_and_does_not_send_yet() {
            assert!(!accepted(Client).may_send());
            sends_only(accepted(Client), &[Frame::Started(SID), Frame::Abort(SID, RESET)]);
            knows_only(accepted(Client), &client_rows());
        }

        #[test]
        fn a_client_may_be_finished_before_it_has_started() {
            let mut session = after(accepted(Client), Frame::Fin(SID));
            assert_eq!(session.started(), Some(Frame::Started(SID)));
            assert_eq!(session, received_fin(Client));
        }
    }

    mod started_session {
        use super::*;

        #[test]
        fn both_ends_send_bytes_one_fin_or_one_abort() {
            for end in ENDS {
                assert!(started(end).may_send() && started(end).delivers());
                sends_only(started(end), &[Frame::Fin(SID), Frame::Abort(SID, RESET)]);
            }
        }

        #[test]
        fn both_ends_take_bytes_one_fin_or_one_abort() {
            for end in ENDS {
                // Too late to be returned: bytes may have reached the local server.
                knows_only(started(end), &client_rows());
            }
        }

        #[test]
        fn an_abort_is_answered_and_ends_both_directions() {
            for end in ENDS {
                let session = after(started(end), Frame::Abort(SID, RESET));
                assert!(session.is_free() && session.sid() == SID && session.stage().is_none());
            }
        }
    }

    mod sending_ended_by_fin {
        use super::*;

        #[test]
        fn only_an_abort_may_follow_and_only_once() {
            for end in ENDS {
                assert!(!sent_fin(end).may_send() && sent_fin(end).delivers());
                sends_only(sent_fin(end), &[Frame::Abort(SID, RESET)]);
                let mut session = sent_fin(end);
                assert!(session.abort(RESET).is_some());
                sends_only(session, &[]);
            }
        }

        #[test]
        fn what_arrives_is_still_delivered_and_an_abort_is_not_answered() {
            for end in ENDS {
                knows_only(
                    sent_fin(end),
                    &[
                        (Frame::Data(SID, BYTES), does(Step::Deliver)),
                        (Frame::Fin(SID), does(Step::Finish)),
                        (Frame::Abort(SID, RESET), does(Step::Abort(RESET))),
                        (Frame::Abort(SID, REFUSED), does(Step::Abort(REFUSED))),
                    ],
                );
            }
        }

        #[test]
        fn the_end_of_the_other_direction_ends_the_session() {
            for end in ENDS {
                assert!(!after(sent_fin(end), Frame::Data(SID, BYTES)).is_idle());
                assert!(after(sent_fin(end), Frame::Fin(SID)).is_free());
                assert!(after(sent_fin(end), Frame::Abort(SID, RESET)).is_free());
            }
        }
    }

    mod receiving_ended_by_fin {
        use super::*;

        #[test]
        fn only_an_abort_may_still_come() {
            let reply = Frame::Abort(SID, RESET);
            for end in ENDS {
                assert!(!received_fin(end).delivers());
                knows_only(
                    received_fin(end),
                    &[
                        (Frame::Abort(SID, RESET), answers(Step::Abort(RESET), reply)),
                        (Frame::Abort(SID, REFUSED), answers(Step::Abort(REFUSED), reply)),
                    ],
                );
            }
        }

        #[test]
        fn the_end_of_sending_ends_the_session() {
            for end in ENDS {
                sends_only(received_fin(end), &[Frame::Fin(SID), Frame::Abort(SID, RESET)]);
                let mut finished = received_fin(end);
                finished.finish();
                let mut aborted = received_fin(end);
                aborted.abort(RESET);
                for session in [finished, aborted, after(received_fin(end), Frame::Abort(SID, RESET))] {
                    assert!(session.is_free() && session.sid() == SID);
                }
            }
        }
    }

    mod discarding_session {
        use super::*;

        #[test]
        fn whatever_arrives_is_thrown_away() {
            for end in ENDS {
                assert!(!discarding(end).delivers() && !discarding(end).may_send());
                sends_only(discarding(end), &[]);
                knows_only(
                    discarding(end),
                    &[
                        (Frame::Data(SID, BYTES), does(Step::Ignore)),
                        (Frame::Fin(SID), does(Step::Ignore)),
                        (Frame::Abort(SID, RESET), does(Step::Ignore)),
                        (Frame::Abort(SID, REFUSED), does(Step::Ignore)),
                    ],
                );
            }
        }

        #[test]
        fn it_is_over_when_the_other_end_has_ended_and_not_before() {
            for end in ENDS {
                assert_eq!(after(discarding(end), Frame::Data(SID, BYTES)), discarding(end));
                assert!(after(discarding(end), Frame::Fin(SID)).is_free());
                assert!(after(discarding(end), Frame::Abort(SID, RESET)).is_free());
            }
        }

        #[test]
        fn a_server_that_gave_up_early_still_follows_how_far_the_client_comes() {
            let mut session = assigned(Server);
            assert!(session.abort(RESET).is_some());
            for frame in [Frame::Accepted(SID), Frame::Started(SID), Frame::Data(SID, BYTES), Frame::Fin(SID)]
            {
                assert_eq!(session.receive(&frame), does(Step::Ignore), "{frame:?}");
            }
            assert!(session.is_free());
        }

        #[test]
        fn a_refusal_that_crosses_an_abort_returns_nobody() {
            let mut session = assigned(Server);
            assert!(session.abort(RESET).is_some());
            assert_eq!(session.receive(&Frame::Abort(SID, REFUSED)), does(Step::Ignore));
            assert!(session.is_free());
        }

        #[test]
        fn a_client_that_refused_comes_no_further() {
            for mut session in [assigned(Client), accepted(Client)] {
                assert_eq!(session.abort(REFUSED), Some(Frame::Abort(SID, REFUSED)));
                sends_only(session, &[]);
            }
        }
    }

    #[test]
    fn only_a_running_session_is_said_to_be_alive() {
        for end in ENDS {
            assert_eq!(idle(end).alive(), None);
            for session in [assigned(end), started(end), sent_fin(end), received_fin(end), discarding(end)] {
                assert_eq!(session.alive(), Some(Frame::Alive(SID)));
            }
        }
    }

    #[test]
    fn an_abort_of_a_session_to_come_is_refused_in_every_state() {
        let busy = ENDS.into_iter().flat_map(|end| {
            [
                idle(end),
                assigned(end),
                accepted(end),
                started(end),
                sent_fin(end),
                received_fin(end),
                discarding(end),
            ]
        });
        for mut session in busy.chain([pinged()]) {
            assert_eq!(session.receive(&Frame::Abort(NEXT, RESET)), Err(Violation), "{session:?}");
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Receive(Frame<'static>),
        Start(Sid),
        Accept,
        Started,
        Finish,
        Abort,
        Ping,
    }

    fn events() -> impl Strategy<Value = Event> {
        // Few different numbers, so that sequences get far into sessions.
        let frames = (1..4 as Sid, 0..10).prop_map(|(sid, kind)| match kind {
            0 => Frame::Start(start(sid)),
            1 => Frame::Accepted(sid),
            2 => Frame::Started(sid),
            3 => Frame::Data(sid, BYTES),
            4 => Frame::Fin(sid),
            5 => Frame::Abort(sid, RESET),
            6 => Frame::Ping,
            7 => Frame::Pong,
            8 => Frame::Alive(sid),
            _ => Frame::Drain,
        });
        prop_oneof![
            4 => frames.prop_map(Event::Receive),
            2 => (1..4 as Sid).prop_map(Event::Start),
            1 => Just(Event::Accept),
            1 => Just(Event::Started),
            1 => Just(Event::Finish),
            1 => Just(Event::Abort),
            1 => Just(Event::Ping),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn idle_means_that_neither_direction_is_open_and_numbers_only_grow(
            server in any::<bool>(),
            events in proptest::collection::vec(events(), 0..60),
        ) {
            let mut session = Session::new(if server { Server } else { Client });
            // Only what passes the session counts.
            let (mut sending, mut receiving) = (false, false);
            for event in events {
                let sid_before = session.sid();
                let (received, sent) = match event {
                    Event::Receive(frame) => match session.receive(&frame) {
                        Ok((_, reply)) => (Some(frame), reply),
                        Err(Violation) => (None, None),
                    },
                    Event::Start(sid) => (None, session.start(start(sid))),
                    Event::Accept => (None, session.accept()),
                    Event::Started => (None, session.started()),
                    Event::Finish => (None, session.finish()),
                    Event::Abort => (None, session.abort(RESET)),
                    Event::Ping => (None, session.ping()),
                };
                for frame in received.into_iter().chain(sent) {
                    if let Frame::Start(start) = frame {
                        prop_assert!(start.sid > sid_before && !sending && !receiving);
                        (sending, receiving) = (true, true);
                    }
                }
                match received {
                    Some(Frame::Fin(sid) | Frame::Abort(sid, _)) if sid == sid_before => receiving = false,
                    _ => {}
                }
                if let Some(Frame::Fin(_) | Frame::Abort(..)) = sent {
                    sending = false;
                }
                prop_assert!(session.sid() >= sid_before);
                prop_assert_eq!(session.is_idle(), !sending && !receiving, "after {:?}: {:?}", event, session);
                prop_assert!(!session.may_send() || sending);
                prop_assert!(!session.delivers() || receiving);
                prop_assert_eq!(session.stage().is_none(), session.is_idle());
            }
        }
    }
}
