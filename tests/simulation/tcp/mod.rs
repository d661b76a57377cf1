//! Virtual TCP: connections as two bounded byte pipes, with the habits of a kernel that matter to a reactor.
//!
//! What is sent travels as segments that arrive in order, each at its time. A pipe may be stalled (delivers later),
//! holed (holds everything and stays up), slow, or cut at any byte. Readiness is edge-triggered: an event is given
//! when something arrives or room appears, once. After RST, bytes that were received may still be read, then the
//! error is told once, and further reads look like an end (tcp(7)); closing with unread input sends RST.

mod calls;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use skyorg::base::round_trip::RoundTrip;
use skyorg::reactor::world::network::Event;
use skyorg::reactor::world::tcp_info::TcpInfo;

use super::line::{Forgets, Line, Recovery};

/// Virtual time since the world began.
pub type Time = Duration;

/// One end of a connection; the other is `end ^ 1`. Even ones dialled.
pub type EndId = usize;

/// What owns an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Server,
    Client(usize),
    /// The process that takes the place of the server, at its addresses.
    Successor,
    /// Users, strangers and local servers: driven by the world itself.
    Outside,
}

/// Hosts that can be told apart.
pub const HOSTS: usize = 5;

impl Host {
    pub fn index(self) -> usize {
        match self {
            Host::Server => 0,
            Host::Client(index) => 1 + index,
            Host::Successor => HOSTS - 2,
            Host::Outside => HOSTS - 1,
        }
    }
}

/// What a connection is for, known by where it was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    User,
    Message,
    Control,
    Proxy,
}

/// How a connection is cut by something between its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Reset,
    Fin,
    TimedOut,
}

#[derive(Debug)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    Refuse,
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// A segment on its way.
struct Flying {
    segment: Segment,
    /// When it arrives.
    at: Time,
    /// When it was sent, if it was sent once: then a kernel knows by its acknowledgement what the round trip took (RFC
    /// 6298, section 3).
    sent: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its SYN has not arrived yet.
    Embryo,
    Connecting,
    Open,
    Closed,
}

/// One end, and the pipe that leads to it.
pub struct End {
    pub host: Host,
    pub kind: Kind,
    pub address: SocketAddr,
    state: State,
    /// Its slot in the reactor that has it.
    slot: Option<u32>,
    inbox: VecDeque<u8>,
    fin: bool,
    reset: bool,
    error: Option<ErrorKind>,
    shut: bool,
    /// A write met a full pipe: room is an event.
    want_room: bool,
    /// Readable, writable, error: told at the next poll.
    marks: [bool; 3],
    marked: bool,
    first_flight: Vec<u8>,
    // The pipe.
    flight: VecDeque<Flying>,
    flight_bytes: usize,
    last_at: Time,
    pub delay: Duration,
    /// What became of what the line lost on the way to it.
    recovery: Recovery,
    /// When something last came to it, or what it said was acknowledged.
    heard_at: Time,
    /// As its kernel has measured it. What the line is like by now, a kernel knows when something is acknowledged.
    round_trip: RoundTrip,
    /// Bytes that have come to it.
    taken: u64,
    /// When something was last sent to it.
    moved_at: Time,
    pub stalled_until: Time,
    pub holed: bool,
    /// Cut when this many more bytes have arrived.
    pub cut: Option<(usize, Cut)>,
    severed: bool,
}

/// How connections behave in this world.
#[derive(Clone, Debug)]
pub struct Shape {
    pub pipe_bytes: usize,
    pub segment_bytes: usize,
    pub delay: Duration,
    pub jitter: Duration,
    /// How long a local server takes to take a connection.
    pub local_delay: Duration,
    /// Chance per call, of short reads and writes, interruptions, and hints without cause.
    pub short: f64,
    pub spurious: f64,
    pub accept_errors: f64,
    /// Chance that a socket cannot be spliced (splice(2), EINVAL).
    pub splice_errors: f64,
    /// Chance that a connect to a local server completes at once, as it does on one host.
    pub instant: f64,
    /// How long a name takes to be resolved.
    pub name_delay: Duration,
    /// How often a lookup fails of a name that was found before.
    pub name_failures: f64,
}

impl Shape {
    /// The longest time there and back, where the line is not what goes wrong.
    pub fn round_trip_max(&self) -> Duration {
        2 * (self.delay + self.jitter)
    }
}

pub struct Listener {
    pub host: Host,
    /// Its slot in the reactor that has it; of a local server, its number.
    pub slot: u32,
    pub backlog: VecDeque<EndId>,
    /// What becomes of a SYN: `Some(true)` is refused, `Some(false)` is never answered.
    pub refuses: Option<bool>,
}

/// What a host's kernel keeps for the next poll.
#[derive(Default)]
pub struct Kernel {
    marked: Vec<EndId>,
    pub alarms: Vec<Event>,
    /// Whether it answers packets for which there is no socket.
    pub up: bool,
    /// The timeout of the last poll, and whether that poll had events.
    pub asked: Option<Duration>,
    pub had_events: bool,
    /// Something came since the last turn.
    pub arrived: bool,
}

impl Kernel {
    pub fn has_events(&self) -> bool {
        !self.marked.is_empty() || !self.alarms.is_empty()
    }
}

/// All connections of the world.
pub struct Net {
    pub now: Time,
    pub rng: Rng,
    pub shape: Shape,
    pub line: Line,
    pub ends: Vec<End>,
    pub listeners: BTreeMap<SocketAddr, Listener>,
    /// Names lead elsewhere by now.
    pub names_moved: bool,
    pub kernels: [Kernel; HOSTS],
    /// Counts everything that moves. A host that turns and moves nothing is spinning.
    pub progress: u64,
    /// Until then, every accept(2) fails with this error.
    pub accept_fails: (Time, i32),
    /// Splices that moved bytes, and those that were refused.
    pub spliced: [usize; 2],
    /// What clients have dialled, and when.
    pub dialled: Vec<(Time, Kind)>,
    /// Control connections that clients have dialled.
    pub controls: usize,
    /// First flights that the server has read, as a wire-tapper knows them.
    pub recorded: Vec<(Kind, Vec<u8>)>,
    due: BinaryHeap<Reverse<(Time, u64, EndId)>>,
    /// Answers of name servers that are on their way.
    answers: BTreeMap<(Time, u64), (Host, Event)>,
    sequence: u64,
}

impl Net {
    pub fn new(rng: Rng, shape: Shape, line: Line) -> Net {
        let mut kernels: [Kernel; HOSTS] = Default::default();
        kernels.iter_mut().for_each(|kernel| kernel.up = true);
        Net {
            now: Time::ZERO,
            rng,
            shape,
            line,
            ends: Vec::new(),
            listeners: BTreeMap::new(),
            names_moved: false,
            kernels,
            progress: 0,
            spliced: [0; 2],
            accept_fails: (Time::ZERO, 0),
            dialled: Vec::new(),
            controls: 0,
            recorded: Vec::new(),
            due: BinaryHeap::new(),
            answers: BTreeMap::new(),
            sequence: 0,
        }
    }

    // Time.

    /// When the next segment arrives.
    pub fn next_due(&self) -> Option<Time> {
        let answer = self.answers.first_key_value().map(|entry| entry.0.0);
        self.due.peek().map(|entry| entry.0.0).into_iter().chain(answer).min()
    }

    /// A name server answers a host after a while.
    pub fn answer_later(&mut self, host: Host, answer: Event) {
        self.sequence += 1;
        self.answers.insert((self.now + self.shape.name_delay, self.sequence), (host, answer));
    }

    /// Delivers what has arrived by now.
    pub fn deliver_due(&mut self) {
        while let Some(entry) = self.answers.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (host, answer) = entry.remove();
            self.kernels[host.index()].alarms.push(answer);
        }
        while self.next_due().is_some_and(|at| at <= self.now) {
            let Some(Reverse((_, _, end))) = self.due.pop() else { return };
            self.pump(end);
        }
    }

    fn schedule(&mut self, at: Time, end: EndId) {
        self.sequence += 1;
        self.due.push(Reverse((at, self.sequence, end)));
    }

    /// Delivers what its pipe may deliver now.
    pub fn pump(&mut self, to: EndId) {
        loop {
            let end = &mut self.ends[to];
            let stalled_until = end.stalled_until;
            match end.flight.front() {
                None => return,
                _ if end.holed => return,
                _ if stalled_until > self.now => return self.schedule(stalled_until, to),
                Some(&Flying { at, .. }) if at > self.now => return self.schedule(at, to),
                Some(_) => {}
            }
            let Some(flying) = end.flight.pop_front() else { return };
            self.arrive(to, flying);
        }
    }

    fn send(&mut self, to: EndId, segment: Segment) {
        let jitter = self.shape.jitter.mul_f64(self.rng.f64());
        let leaves = if self.crosses_line(to) { self.cross_line(to, &segment) } else { self.now };
        let end = &mut self.ends[to];
        let sent = Some(self.now).filter(|_| !end.recovery.lasts(self.now));
        let at = end.last_at.max(leaves + end.delay + jitter);
        end.last_at = at;
        if let Segment::Bytes(bytes) = &segment {
            end.flight_bytes += bytes.len();
        }
        end.flight.push_back(Flying { segment, at, sent });
        if end.flight.len() == 1 {
            self.schedule(at, to);
        }
    }

    // The line.

    /// Whether a pipe leads over the line.
    fn crosses_line(&self, to: EndId) -> bool {
        matches!(self.ends[to].kind, Kind::Control | Kind::Message)
    }

    /// When a segment has crossed the line.
    fn cross_line(&mut self, to: EndId, segment: &Segment) -> Time {
        let now = self.now;
        let quiet = now - self.ends[to].moved_at.max(self.ends[to ^ 1].moved_at);
        let first = matches!(segment, Segment::Syn);
        self.ends[to].moved_at = now;
        match self.line.forgets(quiet) {
            Some(Forgets::Silently) if !first => {
                (self.ends[to].holed, self.ends[to ^ 1].holed) = (true, true);
            }
            // What is being sent is lost with it.
            Some(Forgets::Loudly) if !first => self.cut(to, Cut::Reset),
            _ => {}
        }
        let bytes = match segment {
            Segment::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        self.line.cross(now, to % 2, bytes, first, &mut self.ends[to].recovery)
    }

    /// There and back at this moment.
    fn round_trip(&self, end: EndId) -> Time {
        let ways = self.ends[end].delay + self.ends[end ^ 1].delay;
        if self.crosses_line(end) { ways + self.line.round_trip(self.now) } else { ways }
    }

    /// What the kernel of an end knows of its connection.
    pub fn tcp_info(&self, end: EndId) -> TcpInfo {
        let (near, far) = (&self.ends[end], &self.ends[end ^ 1]);
        let rtt = near.round_trip.smoothed();
        TcpInfo {
            rto: far.recovery.rto(self.now, rtt),
            sent_again: far.recovery.sent_again(self.now),
            rtt,
            last_ack_recv: self.now.saturating_sub(near.heard_at),
            unacked: far.flight.len() as u32,
            notsent_bytes: 0,
            acknowledged_bytes: far.taken,
        }
    }

    // Arrivals.

    fn arrive(&mut self, to: EndId, Flying { segment, sent, .. }: Flying) {
        let from = to ^ 1;
        self.ends[to].heard_at = self.now;
        // A host that is gone acknowledges nothing.
        if self.kernels[self.ends[to].host.index()].up {
            self.ends[from].heard_at = self.now;
            let back = self.round_trip(to) / 2;
            sent.into_iter().for_each(|sent| self.ends[from].round_trip.measured(self.now - sent + back));
        }
        match segment {
            Segment::Syn => self.syn(to),
            Segment::SynAck if self.ends[to].state == State::Connecting => {
                self.ends[to].state = State::Open;
                self.send(from, Segment::Ack);
                self.mark(to, [false, true, false]);
            }
            Segment::Refuse => self.fail(to, ErrorKind::ConnectionRefused),
            Segment::SynAck => {}
            Segment::Ack => self.ack(to),
            Segment::Bytes(bytes) => {
                self.ends[to].taken += bytes.len() as u64;
                self.bytes(from, to, bytes);
            }
            Segment::Fin if !self.ends[to].severed && !self.ends[to].reset => {
                self.ends[to].fin = true;
                self.mark(to, [true, false, false]);
            }
            Segment::Fin => {}
            Segment::Reset => self.fail(to, ErrorKind::ConnectionReset),
        }
    }

    fn syn(&mut self, to: EndId) {
        let from = to ^ 1;
        if self.ends[from].state != State::Connecting {
            return;
        }
        if self.crosses_line(to) && self.rng.f64() < self.line.unanswered {
            return;
        }
        let address = self.ends[to].address;
        let Some(listener) = self.listeners.get_mut(&address) else {
            let host = self.ends[to].host;
            if self.kernels[host.index()].up {
                self.send(from, Segment::Refuse);
            }
            return;
        };
        match listener.refuses {
            Some(true) => return self.send(from, Segment::Refuse),
            Some(false) => return,
            None => {}
        }
        // Which of two servers it is shows only now.
        (self.ends[to].host, self.ends[to].state) = (listener.host, State::Open);
        self.send(from, Segment::SynAck);
    }

    /// The handshake is whole: only now the connection can be accepted, and what was said first comes right behind.
    fn ack(&mut self, to: EndId) {
        if self.ends[to].state != State::Open {
            return;
        }
        match self.listeners.get_mut(&self.ends[to].address) {
            Some(listener) if listener.host == self.ends[to].host => {
                listener.backlog.push_back(to);
                let kernel = &mut self.kernels[listener.host.index()];
                kernel.alarms.push(Event::Acceptable(listener.slot));
                kernel.arrived = true;
            }
            _ => drop(self.close(to, true)),
        }
    }

    fn bytes(&mut self, from: EndId, to: EndId, mut bytes: Vec<u8>) {
        self.ends[to].flight_bytes -= bytes.len();
        let host = self.ends[to].host;
        if self.ends[to].severed || (self.ends[to].state == State::Closed && !self.ends[to].reset) {
            if self.kernels[host.index()].up && !self.ends[from].reset {
                self.send(from, Segment::Reset);
            }
            return;
        }
        if self.ends[to].reset {
            return;
        }
        let cut = match &mut self.ends[to].cut {
            Some((left, cut)) if *left <= bytes.len() => {
                bytes.truncate(*left);
                Some(*cut)
            }
            Some((left, _)) => {
                *left -= bytes.len();
                None
            }
            None => None,
        };
        if !bytes.is_empty() {
            self.ends[to].inbox.extend(bytes);
            self.mark(to, [true, false, false]);
        }
        if let Some(cut) = cut {
            self.cut(to, cut);
        }
    }

    /// Ends a connection from between its ends: each is told so at once, and nothing in flight arrives.
    pub fn cut(&mut self, end: EndId, cut: Cut) {
        for end in [end, end ^ 1] {
            let this = &mut self.ends[end];
            (this.cut, this.severed, this.holed) = (None, true, false);
            this.flight.clear();
            this.flight_bytes = 0;
            if this.state != State::Open {
                continue;
            }
            match cut {
                Cut::Reset => self.fail(end, ErrorKind::ConnectionReset),
                Cut::TimedOut => self.fail(end, ErrorKind::TimedOut),
                Cut::Fin => {
                    this.fin = true;
                    self.mark(end, [true, false, false]);
                }
            }
        }
    }

    fn fail(&mut self, to: EndId, error: ErrorKind) {
        let discard = self.rng.f64() < 0.2;
        let end = &mut self.ends[to];
        if end.reset || !matches!(end.state, State::Open | State::Connecting) {
            return;
        }
        end.reset = true;
        end.error = Some(if end.fin { ErrorKind::BrokenPipe } else { error });
        // Some kernels keep what was received, some do not; none loses bytes before an end that was told.
        if discard && !end.fin {
            end.inbox.clear();
        }
        self.mark(to, [true, true, true]);
    }

    fn mark(&mut self, end: EndId, marks: [bool; 3]) {
        let this = &mut self.ends[end];
        if this.state == State::Closed || (this.slot.is_none() && this.host != Host::Outside) {
            return;
        }
        for (mark, new) in this.marks.iter_mut().zip(marks) {
            *mark |= new;
        }
        if !this.marked {
            this.marked = true;
            self.kernels[this.host.index()].marked.push(end);
            self.kernels[this.host.index()].arrived = true;
        }
    }

    // Hosts.

    /// What a poll of this host reports now.
    pub fn take_events(&mut self, host: Host, events: &mut Vec<Event>) {
        let kernel = &mut self.kernels[host.index()];
        events.append(&mut kernel.alarms);
        let mut marked = std::mem::take(&mut kernel.marked);
        self.rng.shuffle(&mut marked);
        for end in marked {
            let [mut readable, writable, mut error] = self.take_marks(end);
            readable |= self.rng.f64() < self.shape.spurious;
            error |= self.rng.f64() < self.shape.spurious;
            let this = &self.ends[end];
            let ended = this.fin || this.reset;
            if let Some(slot) = this.slot {
                events.push(Event::Ready { slot, readable, writable, ended, error });
            }
        }
    }

    fn take_marks(&mut self, end: EndId) -> [bool; 3] {
        let this = &mut self.ends[end];
        this.marked = false;
        std::mem::take(&mut this.marks)
    }

    /// Ends outside with news.
    pub fn take_marked_outside(&mut self) -> Vec<EndId> {
        let mut marked = std::mem::take(&mut self.kernels[Host::Outside.index()].marked);
        self.rng.shuffle(&mut marked);
        marked.iter().for_each(|&end| {
            self.take_marks(end);
        });
        marked
    }

    /// The process on this host dies. If it is loud, its connections are reset. Else the host itself vanishes silently.
    pub fn crash(&mut self, host: Host, loudly: bool) {
        self.kernels[host.index()] = Kernel { up: loudly, ..Kernel::default() };
        self.listeners.retain(|_, listener| listener.host != host);
        self.answers.retain(|_, answer| answer.0 != host);
        for end in 0..self.ends.len() {
            if self.ends[end].host != host {
                continue;
            }
            if loudly {
                self.close(end, true);
            } else {
                (self.ends[end].state, self.ends[end].inbox) = (State::Closed, VecDeque::new());
            }
        }
    }

    /// A host that was gone is back, and answers for connections that it does not know. Users and local servers
    /// have noticed by then; message and control connections may not have.
    pub fn revive(&mut self, host: Host) {
        self.kernels[host.index()].up = true;
        for end in 0..self.ends.len() {
            let far = &self.ends[end ^ 1];
            if self.ends[end].host == Host::Outside && far.host == host && far.state == State::Closed {
                self.fail(end, ErrorKind::TimedOut);
            }
        }
    }

    /// Open connections of a kind, by the end that dialled.
    /// Whether this end is still there.
    pub fn is_open(&self, end: EndId) -> bool {
        self.ends[end].state == State::Open
    }

    pub fn open(&self, kind: Kind) -> Vec<EndId> {
        let ends = (0..self.ends.len()).step_by(2);
        ends.filter(|&end| {
            let [a, b] = [&self.ends[end], &self.ends[end + 1]];
            a.kind == kind && a.host != b.host && a.state == State::Open && b.state == State::Open
        })
        .collect()
    }
}

impl End {
    /// A process has it.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Connecting | State::Open)
    }

    fn new(host: Host, kind: Kind, address: SocketAddr, state: State, delay: Duration) -> End {
        End {
            host,
            kind,
            address,
            state,
            slot: None,
            inbox: VecDeque::new(),
            fin: false,
            reset: false,
            error: None,
            shut: false,
            want_room: false,
            marks: [false; 3],
            marked: false,
            first_flight: Vec::new(),
            flight: VecDeque::new(),
            flight_bytes: 0,
            last_at: Time::ZERO,
            delay,
            recovery: Recovery::default(),
            heard_at: Time::ZERO,
            round_trip: RoundTrip::default(),
            taken: 0,
            moved_at: Time::ZERO,
            stalled_until: Time::ZERO,
            holed: false,
            cut: None,
            severed: false,
        }
    }
}
