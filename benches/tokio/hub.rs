//! The task that owns a machine: it tells the machine what the other tasks have met, and passes on to them what the
//! machine asks for.
//!
//! ```text
//!  accept loops ─┐            ┌─▶ control task   (a control connection, or a stranger)
//!  names        ─┼─▶  hub  ───┼─▶ relay task     (a message connection, and the local side of its session)
//!  every task   ─┘  (machine) └─▶ users that wait stay here
//! ```

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use log::warn;
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::id::{ConnId, ListenerId, NameId, kind};
use skyorg::base::slots::Slots;
use skyorg::config::limits::Limits;
use skyorg::machine::{
    CloseReason, Dial, Dialled, Door, Input, Lookup, Machine, Manner, Measured, Output, SessionEvent,
    Surroundings, Traffic, drive, drive_timeout,
};
use skyorg::reactor::world::options::Options;
use skyorg::wire::control::ControlFrame;
use skyorg::wire::frame::{AbortReason, Start};
use skyorg::wire::handshake::Secret;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep_until;

use super::control;
use super::relay::Local;
use super::scratch::with_scratch;
use super::sockets;

/// Pause after an accept that failed for want of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// A time that never comes. Without a deadline the hub sleeps until then, or until an event.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What tasks tell the hub.
pub enum Event {
    /// A listener took a connection.
    Accepted(Door, TcpStream, SocketAddr),
    /// Something that the machine wants to know as it is.
    Input(Input),
    /// A user that lost its message connection before its session was accepted, or was refused.
    Returned(Box<Local>, bool),
}

/// What the hub tells the task of a connection. Small, because a channel holds room for 32 of them.
pub enum Command {
    /// Verify the first flight.
    Verify(Box<Secret>),
    /// Answer it.
    Answer(Box<(bool, Duration)>),
    /// Say this on the control connection.
    Send(Box<ControlFrame>),
    /// Begin a session for this user.
    Start(Box<(Local, Start)>),
    /// Say that `Start` was read.
    Accept,
    /// Dial the local server.
    Dial(Box<(ConnId, SocketAddr, Instant)>),
    /// End the session.
    Abort(AbortReason),
    /// Reset this local side, and end its session.
    Reset(ConnId, CloseReason),
    /// Ask whether the connection is alive.
    Ping,
    /// End.
    Close(CloseReason, Manner),
}

/// What every task needs.
#[derive(Clone)]
pub struct Shared {
    events: UnboundedSender<Event>,
    /// Bounds.
    pub limits: Arc<Limits>,
}

impl Shared {
    /// Tells the hub. It fails only when the hub is gone, and then the event is not needed.
    pub fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Tells the machine.
    pub fn input(&self, input: Input) {
        self.tell(Event::Input(input));
    }

    /// Tells the machine that a connection is gone.
    pub fn closed(&self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        self.input(Input::Closed { id, reason, traffic });
    }
}

/// What has a connection.
enum Owner {
    Task(UnboundedSender<Command>),
    /// A user that waits.
    Hub(Box<Local>),
    /// The local side of a session, with the relay of this message connection.
    Relay(ConnId),
}

/// The machine's task.
pub struct Hub<M> {
    machine: M,
    tasks: Tasks,
    events: UnboundedReceiver<Event>,
    now: Instant,
}

/// Everything that is not the machine.
struct Tasks {
    shared: Shared,
    slots: Slots<kind::Connection, Owner>,
    acceptors: HashMap<ListenerId, JoinHandle<()>>,
    inbox: VecDeque<Input>,
    exit: bool,
}

impl<M: Machine> Hub<M> {
    /// A hub around a machine. Must be called within a runtime.
    pub fn new(machine: M, limits: Arc<Limits>) -> Hub<M> {
        let (sender, events) = unbounded_channel();
        let tasks = Tasks {
            shared: Shared { events: sender, limits },
            slots: Slots::default(),
            acceptors: HashMap::new(),
            inbox: VecDeque::new(),
            exit: false,
        };
        let mut hub = Hub { machine, tasks, events, now: Instant::now() };
        hub.settle();
        hub
    }

    /// The machine, to be asked.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    fn settle(&mut self) {
        drive(&mut self.machine, &mut self.tasks, self.now);
    }

    /// Runs until the machine says `Exit`.
    pub async fn run(mut self) -> io::Result<()> {
        let mut sleep = pin!(sleep_until(self.now.into()));
        while !self.tasks.exit {
            let due = self.machine.poll_timeout().unwrap_or(self.now + NEVER);
            if sleep.deadline() != due.into() {
                sleep.as_mut().reset(due.into());
            }
            let event = poll_fn(|context| match self.events.poll_recv(context) {
                Poll::Ready(event) => Poll::Ready(event),
                Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
            })
            .await;
            self.now = Instant::now();
            let mut next = event;
            while let Some(event) = next {
                self.tasks.take(event);
                self.settle();
                next = self.events.try_recv().ok();
            }
            if self.machine.poll_timeout().is_some_and(|at| at < self.now) {
                // What has arrived counts, even if its task has not come to tell of it: one turn for the tasks that
                // are ready, and one for those that the driver finds.
                yield_now().await;
                yield_now().await;
                while let Ok(event) = self.events.try_recv() {
                    self.tasks.take(event);
                    self.settle();
                }
            }
            drive_timeout(&mut self.machine, &mut self.tasks, self.now);
        }
        self.tasks.acceptors.values().for_each(JoinHandle::abort);
        Ok(())
    }
}

impl Surroundings for Tasks {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Listen { id, at, door } => self.listen(id, at, door),
            Output::StopListening(id) => {
                drop(self.acceptors.remove(&id).inspect(JoinHandle::abort));
                self.inbox.push_back(Input::Stopped { id });
            }
            // Its configuration stays.
            Output::SetDoor { .. } | Output::Suspend(_) | Output::Resume(_) => {}
            Output::Verify { id, secret } => drop(self.command(id, Command::Verify(Box::new(secret)))),
            Output::Answer { id, plain, heartbeat } => {
                drop(self.command(id, Command::Answer(Box::new((plain, heartbeat)))));
            }
            // It does not count strangers.
            Output::Admit(_) => {}
            Output::LimitUsers(_) => {}
            // It probes nobody: what this would have begun on is still free.
            Output::Probe { message: id, .. } => {
                let event = SessionEvent::Idle { settled: true };
                self.inbox.push_back(Input::Session { id, event });
            }
            // It passes bytes as they come.
            Output::Rate { .. } => {}
            // It asks no kernel.
            Output::Measure(id) => {
                let (again, acknowledged, said) = (Duration::ZERO, Duration::MAX, Duration::ZERO);
                let it = Measured { again, acknowledged, said };
                self.inbox.push_back(Input::Measured { id, it });
            }
            Output::Resolve { name, host } => self.resolve(name, host),
            Output::Dial { dial, address, deadline } => self.dial(dial, address, deadline),
            Output::Send { id, frame } => drop(self.command(id, Command::Send(Box::new(frame)))),
            Output::Start { message, user, start, .. } => self.start(message, user, start),
            // A user is with the relay of its only copy.
            Output::Take { .. } | Output::AbortCopy(_) => {}
            Output::Accept(id) => drop(self.command(id, Command::Accept)),
            Output::Abort { message, reason } => drop(self.command(message, Command::Abort(reason))),
            Output::Ping(id) => drop(self.command(id, Command::Ping)),
            Output::Close { id, reason, manner } => self.close(id, reason, manner),
            Output::Fact(fact) => log::log!(fact.level(), "{fact}"),
            Output::Exit => self.exit = true,
        }
    }

    fn next_input(&mut self) -> Option<Input> {
        self.inbox.pop_front()
    }
}

impl Tasks {
    /// Accepts from a listener for as long as the machine wants it.
    fn listen(&mut self, id: ListenerId, at: Listen, door: Door) {
        let address = match at {
            Listen::At(address) => address,
            Listen::Any(port) => SocketAddr::from(([0, 0, 0, 0], port)),
        };
        let listener = match sockets::listen(address) {
            Ok(listener) => listener,
            Err(error) => return self.inbox.push_back(Input::ListenFailed { id, error }),
        };
        let address = listener.local_addr().unwrap_or(address);
        self.inbox.push_back(Input::Listening { id, address });
        let shared = self.shared.clone();
        let acceptor = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        // If it is over already, its reader or writer will find out.
                        let _ = Options::default().set_accepted(&SockRef::from(&stream), peer);
                        shared.tell(Event::Accepted(door, stream, peer));
                    }
                    Err(error) => {
                        warn!("cannot take connections for now: {error}");
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        });
        self.acceptors.insert(id, acceptor);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Accepted(door, stream, peer) => self.accepted(door, stream, peer),
            Event::Returned(user, refused) => self.returned(user, refused),
            Event::Input(input) => {
                if let Input::Closed { id, .. } = input {
                    self.slots.remove(id);
                }
                self.inbox.push_back(input);
            }
        }
    }

    fn accepted(&mut self, door: Door, stream: TcpStream, peer: SocketAddr) {
        let asked = stream.local_addr().unwrap_or(peer);
        let (sender, commands) = unbounded_channel();
        let Ok(id) = self.slots.insert(Owner::Task(sender)) else { return };
        match door {
            Door::Users(_) => {
                if let Some(owner) = self.slots.get_mut(id) {
                    *owner = Owner::Hub(Box::new(Local::new(id, stream)));
                }
            }
            Door::Clients | Door::Shut => {
                tokio::spawn(control::stranger(id, stream, commands, self.shared.clone()));
            }
        }
        self.inbox.push_back(Input::Accepted { id, door, peer, asked });
    }

    fn returned(&mut self, user: Box<Local>, refused: bool) {
        let (id, spoken) = (user.id, user.traffic.received > 0);
        if let Some(owner) = self.slots.get_mut(id) {
            *owner = Owner::Hub(user);
            self.inbox.push_back(Input::Returned { id, refused, spoken });
        }
    }

    /// Tells the task of a connection; gives the command back if it has ended.
    fn command(&mut self, id: ConnId, command: Command) -> Result<(), Command> {
        match self.slots.get(id) {
            Some(Owner::Task(sender)) => sender.send(command).map_err(|error| error.0),
            _ => Err(command),
        }
    }

    fn resolve(&self, name: NameId, host: HostPort) {
        let HostPort { host, port } = host;
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let lookup = match tokio::net::lookup_host((&*host, port)).await {
                Ok(found) => Lookup::Found(found.collect()),
                Err(error) => Lookup::Failed(error.to_string().into()),
            };
            shared.input(Input::Resolved { name, lookup });
        });
    }

    fn dial(&mut self, dial: Dial, address: SocketAddr, deadline: Instant) {
        let (greeting, purpose) = match dial {
            Dial::Control(greeting) => (greeting, Dialled::Control),
            Dial::Message(link, greeting) => (greeting, Dialled::Message(link)),
            Dial::Proxy(message, ..) => {
                let Ok(id) = self.slots.insert(Owner::Relay(message)) else { return };
                self.inbox.push_back(Input::Dialling { id, purpose: Dialled::Proxy(message) });
                if self.command(message, Command::Dial(Box::new((id, address, deadline)))).is_err() {
                    self.shared.closed(id, CloseReason::Truncated, Traffic::default());
                }
                return;
            }
        };
        let (sender, commands) = unbounded_channel();
        let Ok(id) = self.slots.insert(Owner::Task(sender)) else { return };
        self.inbox.push_back(Input::Dialling { id, purpose });
        let control = matches!(purpose, Dialled::Control);
        let shared = self.shared.clone();
        tokio::spawn(control::dial(id, address, deadline, greeting, control, commands, shared));
    }

    fn start(&mut self, message: ConnId, user: ConnId, start: Start) {
        let owner = self.slots.get_mut(user);
        let Some(owner) = owner.filter(|owner| matches!(owner, Owner::Hub(_))) else {
            // The user has just gone, or is with the relay of its first connection: this program offers no session
            // again while that lives. The connection is still free.
            let event = SessionEvent::Idle { settled: true };
            return self.inbox.push_back(Input::Session { id: message, event });
        };
        let Owner::Hub(local) = std::mem::replace(owner, Owner::Relay(message)) else { return };
        if let Err(Command::Start(lost)) = self.command(message, Command::Start(Box::new((*local, start)))) {
            self.shared.tell(Event::Returned(Box::new(lost.0), false));
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason, manner: Manner) {
        let Some(owner) = self.slots.get_mut(id) else { return };
        match owner {
            Owner::Task(sender) => drop(sender.send(Command::Close(reason, manner))),
            Owner::Hub(_) => {
                if let Owner::Hub(local) = std::mem::replace(owner, Owner::Relay(id)) {
                    with_scratch(|scratch| local.close(reason, &mut scratch.rings, &self.shared));
                }
            }
            Owner::Relay(message) => {
                let message = *message;
                drop(self.command(message, Command::Reset(id, reason)));
            }
        }
    }
}
