//! The loop. It owns sockets, rings, slots and the clock, knows nothing of pools or services, and does what its
//! machine asks.
//!
//! | file | what it owns |
//! |---|---|
//! | [`sockets`] | everything but the machine: which file serves which connection, what an output does |
//! | [`connections`] | every connection: readiness, kind, life, pairs; the run queue, deadlines, what is told |
//! | [`listeners`] | listeners that come and go, and which of them are tried |
//! | [`errands`], [`dial_cost`] | outputs that cost a system call of their own; what dials cost |
//! | [`strangers`], [`greeting`] | the handshake, at the server and at the client |
//! | [`control`], [`relay`], [`leaving`] | what is done with a control connection, a session, an end |
//! | [`fence`] | when a control ping is answered |
//! | [`rates`], [`meters`] | how many bytes the sessions of a key may pass; how many have passed |
//! | [`idle`], [`pulse`], [`rounds`] | sessions on which no byte moves; who is not there any more |
//! | [`buffers`], [`crowd`] | rings, pipes and scratch, leased while bytes wait; when memory is given back |
//! | [`world`] | the system: sockets, clock, names, signals, allocator |
//!
//! Readiness bits are set by events and cleared by `WouldBlock` only, so what makes progress possible (frees a ring,
//! delivers an event) puts the connection into the run queue.

mod buffers;
mod connections;
mod control;
mod crowd;
mod dial_cost;
mod errands;
mod fence;
mod greeting;
mod idle;
mod leaving;
mod listeners;
mod meters;
mod pulse;
mod rates;
mod relay;
mod rounds;
mod runnable;
mod sockets;
mod strangers;
pub mod world;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::base::clocks::Clocks;
use crate::base::table::SLOTS_KEPT;
use crate::config::limits::Limits;
use crate::machine::status::Snapshot;
use crate::machine::{Fact, Input, Machine, Place, Survey, drive, drive_timeout};
use crowd::Crowd;
use rates::{Direction, TURN_CALLS};
use sockets::Sockets;
use world::network::{Event, Network, Socket};
use world::trim;

/// A system that was suspended for longer than that has lost touch with its peers.
const SUSPENDED: Duration = Duration::from_secs(3);
/// A clock on the wall that is as far from where it was expected has been set.
const SET: Duration = Duration::from_secs(1);
/// Errands of one turn.
const TURN_ERRANDS: usize = 16;
/// Connections that are closed in one turn, beside as many as have come since the last one: one input may end the
/// sessions of thousands, and closing each costs a few system calls.
const TURN_REAPS: u64 = 32;
/// Rows of a snapshot that are gathered in one turn.
const TURN_ROWS: usize = 64;

/// The loop: a machine that decides, and the sockets that it decides about.
pub struct Reactor<M, N: Network> {
    machine: M,
    sockets: Sockets<N>,
    events: Vec<Event>,
    crowd: Crowd,
    /// Connections that had ever come when some were last closed.
    came: u64,
    /// How long the system had been suspended when that was noticed last.
    asleep: Duration,
    /// What the machine was told of the clock on the wall.
    clocks: Option<Clocks>,
    terminated: bool,
    hung_up: bool,
    /// When a turn is wanted from outside, if nothing else brings one.
    wake_at: Option<Instant>,
    /// What is being gathered for somebody who looks.
    survey: Option<Survey>,
}

impl<M: Machine, N: Network> Reactor<M, N> {
    /// A loop around a machine and a network.
    pub fn new(machine: M, mut network: N, limits: Arc<Limits>, jitter: fastrand::Rng) -> Self {
        let now = network.now();
        Reactor {
            machine,
            asleep: network.asleep(),
            clocks: None,
            sockets: Sockets::new(network, limits, jitter, now),
            events: Vec::new(),
            crowd: Crowd::new(now),
            came: 0,
            terminated: false,
            hung_up: false,
            wake_at: None,
            survey: None,
        }
    }

    /// The machine, to be asked.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Carries out everything that the machine wants before the first turn: all listeners are there, or have failed.
    pub fn begin(&mut self) {
        self.settle();
        while let Some(errand) = self.sockets.errands.next() {
            self.sockets.run_errand(errand);
            self.settle();
        }
    }

    /// Whether nobody is let in: a server that does not listen everywhere yet may have to end, and would cut all off.
    pub fn shut(&mut self, is_shut: bool) {
        self.sockets.listeners.shut(is_shut);
    }

    /// One turn of the loop; false once the machine has said `Exit`.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.give_memory_back();
        self.sleep()?;
        self.note_events();
        self.accept();
        self.serve_runnable();
        self.serve_rated();
        self.sockets.answer_pings();
        self.fire_deadlines();
        self.run_errands();
        self.reap();
        self.go_on_with_survey();
        Ok(!self.sockets.exit)
    }

    /// The time of the last turn.
    pub fn now(&self) -> Instant {
        self.sockets.all.now
    }

    /// What has happened since the last call, for people.
    pub fn facts(&mut self) -> impl Iterator<Item = Fact> {
        self.sockets.facts.drain(..)
    }

    /// Whether the operator has asked since the last call that what may have changed is read again.
    pub fn take_hang_up(&mut self) -> bool {
        std::mem::take(&mut self.hung_up)
    }

    /// Whether the operator has asked the process to end.
    pub fn is_asked_to_end(&self) -> bool {
        self.terminated
    }

    /// The next turn comes at this time, or earlier.
    pub fn wake_at(&mut self, at: Option<Instant>) {
        self.wake_at = at;
    }

    /// Tells the machine something that does not come from the network.
    pub fn tell(&mut self, input: Input) {
        self.sockets.all.now = self.sockets.network.now();
        self.sockets.all.tell(input);
        self.settle();
    }

    /// Somebody looks: a few rows of a snapshot are gathered in each turn from now on. It must not be asked to sleep
    /// before the first.
    pub fn begin_survey(&mut self) {
        self.survey = Some(Survey::new(self.now()));
    }

    /// The snapshot that was gathered, once it is whole.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.survey.take_if(|survey| survey.place == Place::Over).map(|survey| survey.snapshot)
    }

    /// Ends: closes what is whole in peace, so that its last bytes still arrive; a session that still runs is reset.
    pub fn abandon(&mut self) {
        for connection in self.sockets.all.drain() {
            if connection.is_in_session() {
                drop(connection);
            } else {
                connection.socket.close();
            }
        }
    }

    /// What the clock on the wall says.
    pub fn wall(&mut self) -> SystemTime {
        self.sockets.network.wall()
    }

    /// How many connections there are, of all kinds.
    pub fn connection_count(&self) -> usize {
        self.sockets.all.count()
    }

    // The steps of a turn.

    /// Gives memory back to the system when a crowd has come or left. Their facts are told by now.
    fn give_memory_back(&mut self) {
        let all = &mut self.sockets.all;
        if self.crowd.note(all.count(), all.came(), all.now) {
            all.shrink();
            self.sockets.buffers.forget_free();
            self.sockets.facts.shrink_to(SLOTS_KEPT);
            self.events.shrink_to(SLOTS_KEPT);
            all.repack(trim::trim);
            // What moving took.
            trim::trim();
        }
    }

    fn sleep(&mut self) -> io::Result<()> {
        let sockets = &mut self.sockets;
        let now = sockets.all.now;
        let until = [
            sockets.all.next_deadline(),
            self.machine.poll_timeout(),
            sockets.listeners.next_try(now),
            self.crowd.due(sockets.all.count()),
            sockets.idle.due(),
            sockets.rates.due(),
            sockets.pulses.due(sockets.all.begun),
            self.wake_at,
        ];
        let has_work = sockets.all.has_work()
            || sockets.rates.has_work()
            || !sockets.errands.is_empty()
            || self.survey.is_some()
            || sockets.fence.is_waiting();
        let timeout = if has_work {
            Some(Duration::ZERO)
        } else {
            until.into_iter().flatten().min().map(|at| at.saturating_duration_since(sockets.network.now()))
        };
        match sockets.network.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => sockets.all.now = sockets.network.now(),
        }
        let asleep = sockets.network.asleep();
        let clocks = Clocks { now: sockets.all.now, wall: sockets.network.wall() };
        if self.clocks.is_none_or(|told| told.apart(clocks) > SET) {
            self.clocks = Some(clocks);
            sockets.all.tell(Input::ClockSet { wall: clocks.wall });
        }
        if asleep > self.asleep + SUSPENDED {
            sockets.all.tell(Input::Woken);
        }
        self.asleep = self.asleep.max(asleep);
        Ok(())
    }

    fn note_events(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::Ready { slot, readable, writable, ended, error } => {
                    let Some(connection) = self.sockets.all.at(slot) else { continue };
                    let id = connection.id;
                    let freed = writable && !connection.ready.writable;
                    connection.ready.readable |= readable;
                    connection.ready.writable |= writable;
                    connection.ready.ended |= ended;
                    connection.ready.error |= error;
                    self.sockets.all.queue(id);
                    // The bytes that wait to be written to it wait at its peer.
                    if freed && let Some(peer) = self.sockets.all.peer(id) {
                        self.sockets.all.queue(peer);
                    }
                }
                Event::Acceptable(slot) => self.sockets.listeners.note_ready(slot),
                Event::Resolved(name, lookup) => self.sockets.all.tell(Input::Resolved { name, lookup }),
                Event::Terminate if self.terminated => self.sockets.all.tell(Input::GiveUp),
                Event::Terminate => {
                    self.terminated = true;
                    self.sockets.all.tell(Input::Drain);
                }
                Event::HangUp => self.hung_up = true,
                Event::OptionMissing { name, fault } => {
                    self.sockets.facts.push_back(Fact::OptionMissing { name, fault });
                }
            }
        }
        self.settle();
    }

    fn accept(&mut self) {
        self.sockets.accept();
        self.settle();
    }

    fn serve_runnable(&mut self) {
        self.sockets.all.begin_turn();
        while let Some(id) = self.sockets.all.next_of_turn() {
            let was_stranger = self.sockets.serve(id);
            self.settle();
            // The answer leaves before the next stranger is judged, together with the first session if a user
            // waits. So no stranger of a burst waits for the handshakes of the others.
            if was_stranger && self.sockets.all.message(id).is_some() {
                self.sockets.serve(id);
                self.settle();
            }
        }
    }

    /// Serves some of those who waited for their turn to pass bytes at a rate.
    fn serve_rated(&mut self) {
        for direction in [Direction::Up, Direction::Down] {
            for _ in 0..TURN_CALLS {
                if !self.sockets.serve_rated(direction) {
                    break;
                }
                self.settle();
            }
        }
    }

    fn fire_deadlines(&mut self) {
        self.sockets.fire_deadlines();
        self.sockets.idle.sweep(&mut self.sockets.all);
        self.sockets.feel_pulses();
        self.settle();
        let now = self.sockets.all.now;
        drive_timeout(&mut self.machine, &mut self.sockets, now);
    }

    fn run_errands(&mut self) {
        let mut left = TURN_ERRANDS;
        while left > 0
            && let Some(errand) = self.sockets.errands.next()
        {
            // Those that are not wanted any more cost nothing, so that no peer can pile them up.
            left -= usize::from(self.sockets.run_errand(errand));
            self.settle();
        }
    }

    /// Frees some of what was marked. Those that wait never grow by those that come, and after the last turn there is
    /// no other. Telling the machine may mark more.
    fn reap(&mut self) {
        let came = self.sockets.all.came();
        let mut left = TURN_REAPS + (came - std::mem::replace(&mut self.came, came));
        while (left > 0 || self.sockets.exit) && self.sockets.reap_one() {
            left = left.saturating_sub(1);
            self.settle();
        }
    }

    /// Gathers a few rows of a snapshot. Every input is told and every fact is counted by now.
    fn go_on_with_survey(&mut self) {
        let Some(survey) = &mut self.survey else { return };
        survey.now = self.sockets.all.now;
        let before = survey.snapshot.services.len();
        self.machine.survey(survey, TURN_ROWS);
        for (service, account) in survey.added(before) {
            let running = self.sockets.meters.of(account);
            service.figures.traffic.received += running.received;
            service.figures.traffic.sent += running.sent;
        }
        survey.snapshot.totals.is_out_of_descriptors |= self.sockets.listeners.is_exhausted();
    }

    /// The one place where the machine is called.
    fn settle(&mut self) {
        let now = self.sockets.all.now;
        drive(&mut self.machine, &mut self.sockets, now);
    }
}
