//! The life of sessions on one message connection, seen from one of its ends.
//!
//! [`Session`] is the table of design.md section 4 and nothing else: it takes frames and local events, and
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
pub enum Step<'a> {
    /// Nothing: it was late, or its session is being thrown away.
    Ignore,
    /// Client: a session has begun.
    Begin(Start),
    /// Server: the client has read `Start`.
    Accepted,
    /// Server: the proxy connection stands.
    Started,
    /// Give these bytes to the local side.
    Deliver(&'a [u8]),
    /// Shut down the local side's writing once everything is flushed.
    Finish,
    /// Server: no byte reached a local server; the user may go elsewhere.
    Returned,
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

    /// Whether this end has sent `Abort` and throws away what still arrives.
    pub fn discards(&self) -> bool {
        matches!(self.phase, Phase::Busy { sending: Direction::Aborted, receiving: Direction::Open, .. })
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

    /// Server: asks an idle connection whether it is alive. It is not free until it has answered.
    pub fn ping(&mut self) -> Option<Frame<'static>> {
        if self.end != End::Server || !self.is_free() {
            return None;
        }
        self.phase = Phase::Pinged;
        Some(Frame::Ping)
    }

    /// Takes a frame: what to do, and what to answer.
    pub fn receive<'a>(&mut self, frame: Frame<'a>) -> Result<(Step<'a>, Option<Frame<'static>>), Violation> {
        let step = match (self.end, self.phase, frame) {
            // The only frame that may come late: an abort of the sid before, or of the last one when idle.
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

    fn receive_busy<'a>(
        &mut self,
        sending: Direction,
        receiving: Direction,
        stage: Stage,
        frame: Frame<'a>,
    ) -> Result<(Step<'a>, Option<Frame<'static>>), Violation> {
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
            Frame::Data(sid, bytes) if sid == self.sid && open && !before_started => {
                if discarding { Step::Ignore } else { Step::Deliver(bytes) }
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
                match (discarding, before_started, reason) {
                    (true, ..) => Step::Ignore,
                    (false, true, AbortReason::Refused) => Step::Returned,
                    (false, ..) => Step::Abort(reason),
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
