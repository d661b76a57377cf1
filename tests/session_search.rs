//! An exhaustive search of the session table: two real [`Session`]s joined by two bounded pipes, in every order
//! of local events and deliveries.
//!
//! Every frame travels with the number of the session in which it was sent, which the ends do not see: it says
//! what must not happen, namely that anything sent in one session has an effect on another. The search then
//! breaks the rules on purpose and must find out, so that its silence means something.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use End::{Client, Server};
use skyorg::session::{End, Session, Stage, Step, Violation};
use skyorg::wire::frame::{AbortReason, Frame, Sid, Start};

/// What a frame says, without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Word {
    Start,
    Accepted,
    Started,
    Data,
    Fin,
    Abort(AbortReason),
    Ping,
    Pong,
    Alive,
}

/// A frame on its way, with the session in which it was sent. A ping belongs to the session before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Sent {
    word: Word,
    session: Sid,
}

impl Sent {
    /// Notes a frame that an end with this session has just sent.
    fn note(frame: Frame, session: Sid) -> Sent {
        let word = match frame {
            Frame::Start(_) => Word::Start,
            Frame::Accepted(_) => Word::Accepted,
            Frame::Started(_) => Word::Started,
            Frame::Data(..) => Word::Data,
            Frame::Fin(_) => Word::Fin,
            Frame::Abort(_, reason) => Word::Abort(reason),
            Frame::Ping => Word::Ping,
            Frame::Pong => Word::Pong,
            Frame::Alive(_) => Word::Alive,
            Frame::Drain | Frame::Skipped => unreachable!("no end of this search sends it"),
        };
        Sent { word, session }
    }

    /// The frame again, with this number.
    fn frame(self, sid: Sid) -> Frame<'static> {
        match self.word {
            Word::Start => Frame::Start(start(self.session)),
            Word::Accepted => Frame::Accepted(sid),
            Word::Started => Frame::Started(sid),
            Word::Data => Frame::Data(sid, b"x"),
            Word::Fin => Frame::Fin(sid),
            Word::Abort(reason) => Frame::Abort(sid, reason),
            Word::Ping => Frame::Ping,
            Word::Pong => Frame::Pong,
            Word::Alive => Frame::Alive(sid),
        }
    }
}

fn start(sid: Sid) -> Start {
    let address = ([192, 0, 2, 1], 4000).into();
    Start { sid, first_sid: 0, publication: 1, port_offset: 0, user: address, asked: address, number: sid }
}

/// How one direction of a session has ended so far, as an observer of the wire sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ending {
    None,
    Fin,
    Abort,
    FinAbort,
}

/// One end of the message connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Side {
    end: End,
    session: Session,
    /// How the sending of its current session has ended.
    ending: Ending,
    /// What it has sent and the other side has not received.
    pipe: Vec<Sent>,
}

impl Side {
    fn new(end: End) -> Side {
        // Before the first session there is nothing to end.
        Side { end, session: Session::new(end), ending: Ending::Fin, pipe: Vec::new() }
    }

    /// Puts a frame into the pipe and checks that the direction ends as it must.
    fn send(&mut self, frame: Frame) -> Result<(), String> {
        let sent = Sent::note(frame, self.session.sid());
        self.ending = match (sent.word, self.ending) {
            (Word::Fin, Ending::None) => Ending::Fin,
            (Word::Abort(_), Ending::None) => Ending::Abort,
            (Word::Abort(_), Ending::Fin) => Ending::FinAbort,
            (Word::Accepted | Word::Started | Word::Data, Ending::None) => Ending::None,
            (Word::Start, Ending::None) => return Err("a session began before the last one had ended".into()),
            (Word::Start, _) => Ending::None,
            // Also after this end's own `Fin`, while the other direction goes on.
            (Word::Alive, ending) => ending,
            (Word::Ping | Word::Pong, ending) if ending != Ending::None => ending,
            (word, ending) => return Err(format!("{:?} sent {word:?} after {ending:?}", self.end)),
        };
        self.pipe.push(sent);
        Ok(())
    }
}

/// The whole connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    server: Side,
    client: Side,
}

impl State {
    fn new() -> State {
        State { server: Side::new(Server), client: Side::new(Client) }
    }

    fn is_quiet(&self) -> bool {
        [&self.server, &self.client].iter().all(|side| side.session.is_free() && side.pipe.is_empty())
    }

    /// An end, and the other one.
    fn sides(&mut self, end: End) -> (&mut Side, &mut Side) {
        match end {
            Server => (&mut self.server, &mut self.client),
            Client => (&mut self.client, &mut self.server),
        }
    }
}

/// What may happen at an end of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Start,
    Accept,
    Started,
    Bytes,
    Finish,
    Abort,
    Refuse,
    Ping,
    Alive,
}

const LOCAL: [Local; 9] = [
    Local::Start,
    Local::Accept,
    Local::Started,
    Local::Bytes,
    Local::Finish,
    Local::Abort,
    Local::Refuse,
    Local::Ping,
    Local::Alive,
];

/// One step of a trace.
#[derive(Clone, Copy)]
enum Event {
    Local(End, Local, Sid),
    Receive(End, Sent),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Local(end, local, sid) => write!(f, "{end:?}: {local:?} ({sid})"),
            Event::Receive(end, sent) => write!(f, "{end:?} receives {:?} ({})", sent.word, sent.session),
        }
    }
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// Anything that must not happen.
    Any,
    /// Bytes of one session delivered into another. Whatever else goes wrong first only ends its trace, as if the
    /// connection had been closed.
    BytesAstray,
}

/// What is searched, and which rules are broken.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// Sessions on the connection.
    sessions: Sid,
    /// Frames that a pipe takes; an answer to an abort or a ping may be one more.
    capacity: usize,
    /// Frames bear no number: each is taken for the session at hand.
    numberless: bool,
    /// An end that has sent an abort takes its session to be over, and ignores what is late.
    reset_means_over: bool,
    /// An abort is not answered by one.
    unanswered: bool,
    /// Ends say that quiet sessions are alive.
    alive: bool,
    /// What ends the search.
    harm: Harm,
}

/// What went wrong in one step.
struct Wrong {
    harm: Harm,
    what: String,
}

impl From<String> for Wrong {
    fn from(what: String) -> Wrong {
        Wrong { harm: Harm::Any, what }
    }
}

impl Search {
    fn sound(sessions: Sid, capacity: usize) -> Search {
        let harm = Harm::Any;
        Search {
            sessions,
            capacity,
            numberless: false,
            reset_means_over: false,
            unanswered: false,
            alive: false,
            harm,
        }
    }

    /// Lets something happen at an end. `None` if it cannot happen now.
    fn local(&self, state: &State, end: End, local: Local) -> Result<Option<State>, Wrong> {
        let mut next = state.clone();
        let (side, _) = next.sides(end);
        if side.pipe.len() >= self.capacity {
            return Ok(None);
        }
        let sid = side.session.sid();
        let frame = match local {
            Local::Start if sid < self.sessions => side.session.start(start(sid + 1)),
            Local::Start => None,
            Local::Accept => side.session.accept(),
            Local::Started => side.session.started(),
            // Two in a row are like one: this keeps the search small.
            Local::Bytes if side.pipe.last() == Some(&Sent { word: Word::Data, session: sid }) => None,
            Local::Bytes => side.session.may_send().then_some(Frame::Data(sid, b"x")),
            Local::Finish => side.session.finish(),
            Local::Abort => side.session.abort(AbortReason::Reset),
            Local::Refuse if end == Client && side.session.stage() < Some(Stage::Started) => {
                side.session.abort(AbortReason::Refused)
            }
            Local::Refuse => None,
            Local::Ping => side.session.ping(),
            Local::Alive if !self.alive => None,
            Local::Alive if side.pipe.last() == Some(&Sent { word: Word::Alive, session: sid }) => None,
            Local::Alive => side.session.alive(),
        };
        let Some(frame) = frame else { return Ok(None) };
        side.send(frame)?;
        if self.reset_means_over && matches!(frame, Frame::Abort(..)) {
            side.session = idle_after(end, sid);
        }
        Ok(Some(next))
    }

    /// Delivers the oldest frame on its way to `end`. `None` if an answer would find no room.
    fn receive(&self, state: &State, end: End) -> Result<Option<State>, Wrong> {
        let mut next = state.clone();
        let (side, other) = next.sides(end);
        let sent = other.pipe.remove(0);
        let before = side.session;
        let of_a_session = !matches!(sent.word, Word::Start | Word::Ping | Word::Pong);
        if self.reset_means_over && before.is_idle() && of_a_session {
            return Ok(Some(next));
        }
        let sid = if self.numberless { before.sid() } else { sent.session };
        let (step, reply) = side
            .session
            .receive(&sent.frame(sid))
            .map_err(|Violation| format!("{end:?} refuses {sent:?} in {before:?}"))?;

        let had_an_effect = step != Step::Ignore || reply.is_some() || side.session != before;
        let delivered = step == Step::Deliver;
        // While only bytes are watched, a wrong effect of other frames must not hide what follows from it.
        let harmful = delivered || (had_an_effect && of_a_session && self.harm == Harm::Any);
        if harmful && sent.session != before.sid() {
            let (word, from, into) = (sent.word, sent.session, before.sid());
            let harm = if delivered { Harm::BytesAstray } else { Harm::Any };
            return Err(Wrong {
                harm,
                what: format!("{word:?} of session {from} reached session {into}: {step:?}"),
            });
        }
        // The relay asks beforehand whether it needs room for what is to be delivered.
        assert!(!delivered || before.delivers(), "{before:?}");
        if let Step::Begin(_) = step {
            if side.ending == Ending::None {
                return Err(format!("session {} began before the last one had ended", sent.session).into());
            }
            side.ending = Ending::None;
        }
        if let Some(reply) = reply
            && !(self.unanswered && matches!(reply, Frame::Abort(..)))
        {
            if side.pipe.len() > self.capacity {
                return Ok(None);
            }
            side.send(reply)?;
        }
        Ok(Some(next))
    }

    /// Everything that may happen next, and what comes of it.
    fn successors(&self, state: &State) -> Vec<(Event, Result<Option<State>, Wrong>)> {
        let mut next = Vec::new();
        for (end, here, there) in
            [(Server, &state.server, &state.client), (Client, &state.client, &state.server)]
        {
            let sid = here.session.sid();
            next.extend(LOCAL.map(|local| (Event::Local(end, local, sid), self.local(state, end, local))));
            let oldest = there.pipe.first();
            next.extend(oldest.map(|&sent| (Event::Receive(end, sent), self.receive(state, end))));
        }
        next
    }

    /// Visits every reachable state, nearest first, so that the trace to a failure is a shortest one.
    fn run(&self) -> Result<Visited, Failure> {
        let mut visited = Visited::default();
        let mut places = HashMap::from([(State::new(), 0)]);
        visited.add(State::new(), None);
        let mut place = 0;
        while place < visited.states.len() {
            for (event, outcome) in self.successors(&visited.states[place]) {
                let state = match outcome {
                    Ok(Some(state)) => state,
                    Ok(None) => continue,
                    Err(wrong) if self.harm == Harm::Any || wrong.harm == self.harm => {
                        return Err(visited.failure(wrong.what, place, Some(event)));
                    }
                    Err(_) => continue,
                };
                let next = match places.entry(state) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        let next = visited.add(entry.key().clone(), Some((place, event)));
                        *entry.insert(next)
                    }
                };
                visited.predecessors[next].push(place);
            }
            place += 1;
        }
        Ok(visited)
    }
}

/// The broken rule "reset means over": an end that is idle after session `sid`, whatever is on its way.
fn idle_after(end: End, sid: Sid) -> Session {
    let mut session = Session::new(end);
    match end {
        Server => assert!(session.start(start(sid)).is_some()),
        Client => assert!(session.receive(&Frame::Start(start(sid))).is_ok()),
    }
    assert!(session.receive(&Frame::Abort(sid, AbortReason::Reset)).is_ok());
    assert!(session.is_free() && session.sid() == sid);
    session
}

/// All states, and how they follow from each other.
#[derive(Default)]
struct Visited {
    states: Vec<State>,
    /// Where each state was first reached from, and by what.
    came_by: Vec<Option<(usize, Event)>>,
    predecessors: Vec<Vec<usize>>,
}

impl Visited {
    fn add(&mut self, state: State, came_by: Option<(usize, Event)>) -> usize {
        self.states.push(state);
        self.came_by.push(came_by);
        self.predecessors.push(Vec::new());
        self.states.len() - 1
    }

    /// What went wrong at a state, and the shortest way there.
    fn failure(&self, what: String, mut place: usize, last: Option<Event>) -> Failure {
        let mut trace: Vec<Event> = last.into_iter().collect();
        while let Some((before, event)) = self.came_by[place] {
            trace.push(event);
            place = before;
        }
        trace.reverse();
        Failure { what, trace }
    }

    /// From every state both ends can be idle again with nothing on its way.
    fn check_that_idle_is_always_within_reach(&self) -> Result<(), Failure> {
        let mut returns = vec![false; self.states.len()];
        let mut reached: Vec<usize> =
            (0..self.states.len()).filter(|&place| self.states[place].is_quiet()).collect();
        while let Some(place) = reached.pop() {
            if !std::mem::replace(&mut returns[place], true) {
                reached.extend(&self.predecessors[place]);
            }
        }
        match returns.iter().position(|returns| !returns) {
            Some(stuck) => Err(self.failure("never idle again".into(), stuck, None)),
            None => Ok(()),
        }
    }

    /// An idle server is waiting for nothing: only an abort of an old session may still come, a word that it is alive,
    /// and the answer to a ping. The frames that came, the numbers of aborts aside.
    fn late_at_an_idle_server(&self) -> Result<Vec<Word>, Failure> {
        let mut late = Vec::new();
        for (place, state) in self.states.iter().enumerate() {
            let server = &state.server.session;
            if !server.is_idle() {
                continue;
            }
            for sent in &state.client.pipe {
                let expected = match sent.word {
                    Word::Abort(_) | Word::Alive => sent.session <= server.sid(),
                    Word::Pong => !server.is_free(),
                    _ => false,
                };
                if !expected {
                    return Err(self.failure(format!("{sent:?} may reach an idle server"), place, None));
                }
                if !late.contains(&sent.word) {
                    late.push(sent.word);
                }
            }
        }
        Ok(late)
    }

    /// An end is idle when both directions have ended, and says so itself.
    fn check_that_idle_means_ended(&self) -> Result<(), Failure> {
        for (place, state) in self.states.iter().enumerate() {
            for side in [&state.server, &state.client] {
                if side.session.is_idle() && side.ending == Ending::None {
                    let what = format!("{:?} is idle and has not ended its direction", side.end);
                    return Err(self.failure(what, place, None));
                }
            }
        }
        Ok(())
    }
}

/// What went wrong, and the shortest way there.
struct Failure {
    what: String,
    trace: Vec<Event>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        for (at, event) in self.trace.iter().enumerate() {
            writeln!(f, "{:4}. {event}", at + 1)?;
        }
        Ok(())
    }
}

/// Searches the rules as they are: none of the failures above may be found.
fn search_soundly(sessions: Sid, capacity: usize, alive: bool) -> Result<(), Failure> {
    let visited = Search { alive, ..Search::sound(sessions, capacity) }.run()?;
    visited.check_that_idle_is_always_within_reach()?;
    visited.check_that_idle_means_ended()?;
    let late = visited.late_at_an_idle_server()?;
    let states = visited.states.len();
    println!("{sessions} sessions, pipes of {capacity}: {states} states; late at an idle server: {late:?}");
    // What the rules are made for did happen.
    assert!(late.contains(&Word::Abort(AbortReason::Reset)));
    assert!(visited.states.iter().any(|state| state.client.ending == Ending::FinAbort));
    assert!(visited.states.iter().any(|state| state.is_quiet() && state.server.session.sid() == sessions));
    Ok(())
}

/// Searches broken rules, and must find something.
fn found_by(search: Search) -> String {
    let Err(failure) = search.run() else { panic!("nothing was found by {search:?}") };
    println!("{search:?}: {failure:?}");
    failure.what
}

#[test]
fn three_sessions_never_meet() -> Result<(), Failure> {
    search_soundly(3, 4, false)
}

#[test]
fn quiet_sessions_that_are_said_to_be_alive_never_meet() -> Result<(), Failure> {
    search_soundly(4, 4, true)
}

#[test]
fn six_sessions_never_meet() -> Result<(), Failure> {
    search_soundly(6, 4, false)
}

#[test]
fn longer_pipes_let_no_session_meet_another() -> Result<(), Failure> {
    search_soundly(6, 12, false)
}

#[test]
fn without_numbers_a_late_abort_kills_the_next_session() {
    let what = found_by(Search { numberless: true, ..Search::sound(3, 4) });
    assert!(what.starts_with("Abort(Reset) of session 1 reached session 2"), "{what}");
}

#[test]
fn if_a_reset_meant_that_all_is_over_late_frames_would_meet_the_next_session() {
    let what = found_by(Search { reset_means_over: true, ..Search::sound(3, 4) });
    assert!(what.starts_with("Server refuses Sent { word: Accepted, session: 1 }"), "{what}");
}

#[test]
fn if_a_reset_meant_that_all_is_over_one_users_bytes_would_reach_the_next_but_for_numbers() {
    let search = Search { reset_means_over: true, harm: Harm::BytesAstray, ..Search::sound(3, 4) };
    assert!(search.run().is_ok(), "numbers are a second line of defence");
    let what = found_by(Search { numberless: true, ..search });
    assert!(what.starts_with("Data of session 1 reached session 2"), "{what}");
}

#[test]
fn if_an_abort_were_not_answered_a_session_would_never_end() {
    let search = Search { unanswered: true, harm: Harm::BytesAstray, ..Search::sound(1, 4) };
    let visited = search.run().expect("no byte goes astray in the only session");
    assert!(visited.check_that_idle_is_always_within_reach().is_err());
    assert!(visited.check_that_idle_means_ended().is_err());
    let what = found_by(Search { harm: Harm::Any, ..search });
    assert_eq!(what, "Server sent Ping after None", "a ping is for idle connections");
}
