//! Everything that is not the machine: it carries out the machine's outputs, and hands each connection that may make
//! progress to the file that knows its kind.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::connections::{Connections, Kind, Life, Local, Side};
use super::dial_cost::DialCost;
use super::errands::{Errand, Errands};
use super::fence::Fence;
use super::greeting::Greeter;
use super::idle::Idle;
use super::listeners::{Listeners, Tried};
use super::meters::Meters;
use super::pulse::Pulses;
use super::rates::{Direction, Rates};
use super::relay::Relay;
use super::strangers::{Manners, Strangers};
use super::world::network::{Accepted, BACKLOG, Network, Socket};
use super::{control, greeting, leaving, strangers};
use crate::base::id::{ConnId, ListenerId, ServiceId};
use crate::config::limits::Limits;
use crate::machine::{
    CloseReason, Dial, Dialled, Door, Fact, Fault, Input, Manner, Measured, Output, Surroundings, Traffic,
};
use crate::wire::control::ControlFrame;

/// Everything that is not the machine.
pub(super) struct Sockets<N: Network> {
    pub network: N,
    limits: Arc<Limits>,
    pub all: Connections<N::Socket>,
    pub listeners: Listeners<N::Listener>,
    strangers: Strangers,
    pub buffers: Buffers<N::Socket>,
    pub rates: Rates,
    pub meters: Meters,
    pub errands: Errands,
    pub fence: Fence,
    dial_cost: DialCost,
    pub idle: Idle,
    pub pulses: Pulses,
    pub facts: VecDeque<Fact>,
    pub exit: bool,
}

impl<N: Network> Surroundings for Sockets<N> {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Listen { id, at, door } => self.errands.push(Errand::Listen { id, at, door }),
            Output::StopListening(id) => self.errands.push(Errand::StopListening(id)),
            Output::SetDoor { id, door } => self.listeners.set_door(id, door),
            Output::Suspend(id) => {
                self.empty_queue(id);
                self.listeners.suspend(id, &mut self.network);
            }
            Output::Resume(id) => {
                self.listeners.may_resume(id);
                self.errands.push(Errand::Resume(id));
            }
            Output::Verify { id, secret } => {
                self.strangers.verify(&mut self.network, &mut self.all, id, &secret);
            }
            Output::Answer { id, plain, heartbeat } => {
                self.strangers.answer(&mut self.all, id, Manners { plain, heartbeat });
            }
            Output::Admit(id) => {
                self.strangers.count_out(id);
                self.all.set_deadline(id, None);
            }
            Output::Resolve { name, host } => self.errands.push(Errand::Resolve { name, host }),
            Output::Dial { dial, address, deadline } => {
                self.errands.push(Errand::Dial { dial, address, deadline });
            }
            Output::Send { id, frame: ControlFrame::Pong } => self.fence.pinged(id),
            Output::Send { id, frame } => control::send(&mut self.all, &mut self.buffers, id, frame),
            Output::Measure(id) => self.measure(id),
            Output::Start { message, user, start, terms } => {
                if let Some(limit) = terms.idle
                    && self.all.local(user).is_some()
                {
                    self.idle.begin(user, limit, self.all.now);
                }
                self.relay().start(message, user, start, terms);
            }
            Output::Probe { message, start } => self.relay().probe(message, start),
            Output::Rate { id, rate } => self.rates.set(id, rate, self.all.now),
            Output::Take { message, user } => self.relay().take(message, user),
            Output::AbortCopy(message) => self.relay().abort_copy(message),
            Output::Accept(id) => self.relay().with_session(id, |session| session.accept()),
            Output::Abort { message, reason } => self.relay().abort(message, reason),
            Output::Ping(id) => self.relay().with_session(id, |session| session.ping()),
            Output::Close { id, reason, manner } => self.close(id, reason, manner),
            Output::LimitUsers(most) => self.listeners.limit_users(most),
            Output::Fact(fact) => self.facts.push_back(fact),
            Output::Exit => self.exit = true,
        }
    }

    fn next_input(&mut self) -> Option<Input> {
        self.all.next_input()
    }
}

impl<N: Network> Sockets<N> {
    pub fn new(network: N, limits: Arc<Limits>, jitter: fastrand::Rng, now: Instant) -> Sockets<N> {
        Sockets {
            network,
            all: Connections::new(now),
            listeners: Listeners::new(limits.users_max, limits.wait),
            strangers: Strangers::new(&limits, jitter),
            buffers: Buffers::new(&limits),
            rates: Rates::default(),
            meters: Meters::default(),
            errands: Errands::default(),
            fence: Fence::default(),
            dial_cost: DialCost::default(),
            idle: Idle::default(),
            pulses: Pulses::new(now),
            facts: VecDeque::new(),
            exit: false,
            limits,
        }
    }

    fn relay(&mut self) -> Relay<'_, N::Socket> {
        Relay {
            all: &mut self.all,
            buffers: &mut self.buffers,
            rates: &mut self.rates,
            meters: &mut self.meters,
            limits: &self.limits,
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason, manner: Manner) {
        match manner {
            Manner::Reset => self.all.reset(id, reason),
            Manner::Discard => self.strangers.discard(&mut self.all, id, reason),
            Manner::Whole => {
                self.relay().detach(id, reason);
                let until = self.all.now + self.relay().linger(id);
                self.all.leave(id, reason, until);
            }
        }
    }

    fn measure(&mut self, id: ConnId) {
        let now = self.all.now;
        let Some(connection) = self.all.open(id) else { return };
        let Kind::Control(control) = &connection.kind else { return };
        let said = now.saturating_duration_since(control.said_at);
        // Where the kernel says nothing, only the heartbeat counts.
        let nothing = Measured { again: Duration::ZERO, acknowledged: Duration::MAX, said };
        let it = connection.socket.tcp_info().map_or(nothing, |info| Measured {
            again: info.rto + info.rtt,
            acknowledged: info.last_ack_recv,
            said,
        });
        self.all.tell(Input::Measured { id, it });
    }

    pub fn accept(&mut self) {
        let now = self.all.now;
        for _ in 0..self.listeners.begin_turn(now) {
            let Some(id) = self.listeners.next_ready() else { return };
            let mut left = self.limits.turn_accepts;
            loop {
                if left == 0 {
                    self.listeners.again(id);
                    break;
                }
                left -= 1;
                match self.listeners.try_one(id, &mut self.network, now, &mut self.facts) {
                    Tried::Taken(accepted, door) => self.welcome(accepted, door),
                    Tried::Shed(service, peer) => self.turn_away(service, peer, None),
                    Tried::Lost => {}
                    Tried::Nothing => break,
                }
            }
        }
    }

    fn turn_away(&mut self, service: ServiceId, peer: SocketAddr, fault: Option<Fault>) {
        self.all.tell(Input::TurnedAway { service, peer, fault });
    }

    /// Takes what waits in the queue of a listener that ends, as long as there is room for it: those who came before
    /// the end are not turned away.
    fn empty_queue(&mut self, id: ListenerId) {
        let now = self.all.now;
        // While they are taken others may come, and a queue holds no more than this.
        for _ in 0..BACKLOG {
            match self.listeners.try_one(id, &mut self.network, now, &mut self.facts) {
                Tried::Taken(accepted, door) => self.welcome(accepted, door),
                Tried::Shed(service, peer) => self.turn_away(service, peer, None),
                Tried::Lost => {}
                Tried::Nothing => break,
            }
        }
    }

    fn welcome(&mut self, accepted: Accepted<N::Socket>, door: Door) {
        let Accepted { socket, peer, asked } = accepted;
        let kind = match door {
            Door::Users(_) => Kind::Local(Local::new(Side::User, None)),
            Door::Clients | Door::Shut => Kind::Stranger(Box::default()),
        };
        // A peer that connects has often spoken already: it is read at once.
        let id = match self.insert(socket, kind, Life::Open) {
            Ok(id) => id,
            Err(fault) => {
                if let Door::Users(service) = door {
                    self.listeners.user_left();
                    self.turn_away(service, peer, Some(fault));
                }
                return;
            }
        };
        self.all.tell(Input::Accepted { id, door, peer, asked });
        match door {
            Door::Users(_) => self.all.queue(id),
            Door::Clients | Door::Shut => self.strangers.came(&mut self.all, id, peer),
        }
    }

    fn insert(&mut self, mut socket: N::Socket, kind: Kind, life: Life) -> Result<ConnId, Fault> {
        let id = self.all.next_id().ok_or(Fault::from(io::ErrorKind::OutOfMemory))?;
        if let Err(error) = self.network.register(&mut socket, id) {
            let fault = Fault::from(error);
            self.facts.push_back(Fact::NotWatched { fault });
            return Err(fault);
        }
        self.all.insert(id, socket, kind, life);
        Ok(id)
    }

    /// Serves one connection; true if it was a stranger before.
    pub fn serve(&mut self, id: ConnId) -> bool {
        let Some(connection) = self.all.find(id) else { return false };
        match (connection.life, &connection.kind) {
            (Life::Doomed { .. }, _) => {}
            (Life::Discarding { .. }, _) => {
                strangers::serve_discarding(&mut self.all, &mut self.buffers, id);
            }
            (Life::Leaving { .. }, _) => leaving::serve(&mut self.all, &mut self.buffers, id),
            (Life::Connecting, Kind::Greeting(_)) => self.serve_connecting_greeting(id),
            // Nothing else is dialled.
            (Life::Connecting | Life::Open, Kind::Proxy(..)) | (Life::Connecting, _) => {
                self.relay().serve_connecting(id);
            }
            (Life::Open, Kind::Greeting(_)) => greeting::serve(&mut self.all, &mut self.buffers, id),
            (Life::Open, Kind::Stranger(_)) => {
                self.strangers.serve(&mut self.all, &mut self.buffers, id);
                return true;
            }
            (Life::Open, Kind::Control(_)) => {
                control::serve(&mut self.all, &mut self.buffers, id);
            }
            (Life::Open, Kind::Message(_)) => self.relay().serve_message(id),
            (Life::Open, Kind::Local(_)) => self.relay().serve_local(id),
        }
        false
    }

    /// A control or message connection that is dialled may have been made, or have failed.
    fn serve_connecting_greeting(&mut self, id: ConnId) {
        let Some(connection) = self.all.find(id) else { return };
        match connection.socket.is_connected() {
            Ok(false) => {}
            Ok(true) => {
                (connection.ready.readable, connection.ready.writable) = (true, true);
                greeting::begin(&mut self.all, &mut self.buffers, id, self.limits.handshake);
            }
            Err(error) => self.all.reset(id, CloseReason::DialFailed(error.into())),
        }
    }

    pub fn fire_deadlines(&mut self) {
        while let Some(id) = self.all.next_due() {
            let Some(connection) = self.all.find(id) else { continue };
            match (connection.life, &connection.kind) {
                (Life::Connecting, _) => {
                    self.all.reset(id, CloseReason::DialFailed(io::ErrorKind::TimedOut.into()));
                }
                (Life::Discarding { reason, .. }, _) => self.all.end(id, reason),
                (Life::Leaving { reason, .. }, _) => self.all.end(id, reason),
                (_, Kind::Greeting(_) | Kind::Stranger(_) | Kind::Control(_)) => {
                    self.all.end(id, CloseReason::HandshakeTimedOut);
                }
                (_, Kind::Message(_) | Kind::Local(_)) => self.relay().look_again(id),
                (_, Kind::Proxy(..)) => self.all.reset(id, CloseReason::EndTimedOut),
            }
        }
    }

    /// Looks at some of those who may not be there any more.
    pub fn feel_pulses(&mut self) {
        let mut relay = Relay {
            all: &mut self.all,
            buffers: &mut self.buffers,
            rates: &mut self.rates,
            meters: &mut self.meters,
            limits: &self.limits,
        };
        self.pulses.feel(&mut relay);
    }

    /// The turn ends: answers pings that may be answered by now.
    pub fn answer_pings(&mut self) {
        self.fence.end_turn();
        while let Some(id) = self.fence.next() {
            control::send(&mut self.all, &mut self.buffers, id, ControlFrame::Pong);
        }
    }

    /// Serves the next user that waited for its turn to pass bytes in this direction; false if there is none.
    pub fn serve_rated(&mut self, direction: Direction) -> bool {
        let now = self.all.now;
        let Some(user) = self.rates.call(direction, now) else { return false };
        self.relay().serve_called(user, direction);
        self.rates.end_call(now);
        true
    }

    // Errands.

    /// Does what was asked for; false if that was not wanted any more.
    pub fn run_errand(&mut self, errand: Errand) -> bool {
        match errand {
            Errand::Listen { id, at, door } => match self.network.listen(id, at) {
                Ok((listener, address)) => {
                    self.listeners.insert(id, listener, address, door);
                    self.all.tell(Input::Listening { id, address });
                }
                Err(error) => self.all.tell(Input::ListenFailed { id, error }),
            },
            Errand::StopListening(id) => {
                self.empty_queue(id);
                self.listeners.remove(id);
                self.all.tell(Input::Stopped { id });
            }
            Errand::Resume(id) => {
                if let Some(outcome) = self.listeners.resume(id, &mut self.network) {
                    self.all.tell(match outcome {
                        Ok(address) => Input::Listening { id, address },
                        Err(error) => Input::ListenFailed { id, error },
                    });
                }
            }
            Errand::Resolve { name, host } => self.network.resolve(name, host),
            Errand::Dial { dial, address, deadline } => return self.dial(dial, address, deadline),
        }
        true
    }

    fn dial(&mut self, dial: Dial, address: SocketAddr, deadline: Instant) -> bool {
        let (kind, purpose) = match dial {
            Dial::Control(greeting) => (Kind::Greeting(Box::new(Greeter::new(greeting))), Dialled::Control),
            Dial::Message(link, greeting) => {
                (Kind::Greeting(Box::new(Greeter::new(greeting))), Dialled::Message(link))
            }
            Dial::Proxy(message, sid, account) => {
                // The session may have ended since it was asked for; the machine has heard, or is about to.
                if !self.all.wants_proxy(message, sid) {
                    return false;
                }
                (Kind::Proxy(message, sid, account), Dialled::Proxy(message))
            }
        };
        let began = self.network.now();
        let connected = self.network.connect(address);
        // Within this host the system finds a port at once.
        if let Dialled::Proxy(_) = purpose
            && !address.ip().to_canonical().is_loopback()
            && let Some(mean) = self.dial_cost.note(self.network.now().saturating_duration_since(began))
        {
            self.facts.push_back(Fact::DialsSlow { address, mean });
        }
        let connected = connected.map_err(Fault::from);
        match connected.and_then(|socket| self.insert(socket, kind, Life::Connecting)) {
            Ok(id) => {
                self.all.tell(Input::Dialling { id, purpose });
                self.all.set_deadline(id, Some(deadline));
                // A local server on this host has answered by now. What came with the session goes to it at once: its
                // answer may then leave in one write with `Started`.
                self.serve(id);
                if let Dialled::Proxy(message) = purpose
                    && self.all.local(id).is_some()
                {
                    self.relay().deliver(message);
                }
            }
            Err(fault) => {
                // It never had a slot; the machine hears of it like of any other failure.
                let Some(id) = self.all.next_id() else { return true };
                self.all.tell(Input::Dialling { id, purpose });
                let (reason, traffic) = (CloseReason::DialFailed(fault), Traffic::default());
                self.all.tell(Input::Closed { id, reason, traffic });
            }
        }
        true
    }

    // Ends.

    /// Frees one connection that was marked, and tells the machine; false if there is none.
    pub fn reap_one(&mut self) -> bool {
        let Some(id) = self.all.next_doomed() else { return false };
        let reason = match self.all.any(id).map(|connection| connection.life) {
            Some(Life::Doomed { reason, .. }) => reason,
            _ => return true,
        };
        self.relay().detach(id, reason);
        let Some((mut connection, reason, resets)) = self.all.take_doomed(id) else { return true };
        self.strangers.count_out(id);
        connection.forget_unsent(&mut self.buffers);
        for ring in connection.take_rings().into_iter().flatten() {
            self.buffers.rings.give_back(ring);
        }
        if let Kind::Local(local) = &connection.kind {
            self.meters.end(local);
            if local.side == Side::User {
                self.listeners.user_left();
                self.idle.forget(id);
            }
        }
        let traffic = connection.traffic();
        if resets {
            drop(connection);
        } else {
            connection.socket.close();
        }
        self.listeners.resume_one();
        self.all.tell(Input::Closed { id, reason, traffic });
        true
    }
}
