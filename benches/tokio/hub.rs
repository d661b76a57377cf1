//! The task that owns a machine: it tells the machine what the other tasks have met, and passes on to them what the
//! machine asks for.
//!
//! ```text
//!  accept loops ─┐            ┌─▶ control task   (a control connection, or a stranger)
//!  names        ─┼─▶  hub  ───┼─▶ relay task     (a message connection, and the local side of its session)
//!  every task   ─┘  (machine) └─▶ users who wait stay here
//! ```

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use log::warn;
use skyorg::config::HostPort;
use skyorg::limits::Limits;
use skyorg::machine::{
    CloseReason, ConnId, Dial, Dialled, Input, ListenerId, Machine, NameId, Origin, Output, SessionEvent,
    Traffic,
};
use skyorg::reactor::sockets::set_accepted_options;
use skyorg::wire::frame::{AbortReason, ControlFrame, Start};
use skyorg::wire::handshake::Secret;
use slab::Slab;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::sleep_until;

use super::control;
use super::relay::Local;
use super::scratch::with_scratch;

/// Pause after an accept that failed for want of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// A time that never comes: without a deadline the hub sleeps until then, or until an event.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What tasks tell the hub.
pub enum Event {
    /// Somebody has connected.
    Accepted(ListenerId, Origin, TcpStream, SocketAddr),
    /// Something that the machine wants to know as it is.
    Input(Input),
    /// A user who lost his message connection before his session was accepted, or was refused.
    Returned(Box<Local>, bool),
}

/// What the hub tells the task of a connection. Small, because a channel holds room for 32 of them.
pub enum Command {
    /// Verify the first flight.
    Verify(Box<Secret>),
    /// Answer it.
    Admit(bool),
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
    /// Ask whether the connection is alive.
    Ping,
    /// End.
    Close(CloseReason),
}

/// What every task needs.
#[derive(Clone)]
pub struct Shared {
    events: UnboundedSender<Event>,
    /// Bounds.
    pub limits: Arc<Limits>,
}

impl Shared {
    /// Tells the hub. It fails only when the hub is gone, and then nobody wants to know.
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

/// Who has a connection.
enum Owner {
    Task(UnboundedSender<Command>),
    /// A user who waits.
    Hub(Box<Local>),
    /// The local side of a session, with the relay of its message connection.
    Relay,
}

struct Slot {
    serial: u32,
    owner: Owner,
}

/// The machine's task.
pub struct Hub<M> {
    machine: M,
    names: Vec<HostPort>,
    shared: Shared,
    inbox: UnboundedReceiver<Event>,
    slots: Slab<Slot>,
    serial: u32,
    acceptors: Vec<JoinHandle<()>>,
    now: Instant,
    exit: bool,
}

impl<M: Machine> Hub<M> {
    /// A hub without listeners. `names` are what a `NameId` counts.
    pub fn new(machine: M, names: Vec<HostPort>, limits: Limits) -> Hub<M> {
        let (events, inbox) = unbounded_channel();
        let shared = Shared { events, limits: Arc::new(limits) };
        Hub {
            machine,
            names,
            shared,
            inbox,
            slots: Slab::new(),
            serial: 0,
            acceptors: Vec::new(),
            now: Instant::now(),
            exit: false,
        }
    }

    /// Accepts from a listener for as long as the machine wants it.
    pub fn accept_from(&mut self, id: ListenerId, origin: Origin, listener: TcpListener) {
        let shared = self.shared.clone();
        self.acceptors.push(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        // If it is over already, whoever reads or writes will find out.
                        let _ = set_accepted_options(&SockRef::from(&stream), peer);
                        shared.tell(Event::Accepted(id, origin, stream, peer));
                    }
                    Err(error) => {
                        warn!("cannot take connections for now: {error}");
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }));
    }

    /// Runs until the machine says `Exit`.
    pub async fn run(mut self) -> io::Result<()> {
        let mut sleep = pin!(sleep_until(self.now.into()));
        while !self.exit {
            let due = self.machine.poll_timeout().unwrap_or(self.now + NEVER);
            if sleep.deadline() != due.into() {
                sleep.as_mut().reset(due.into());
            }
            let event = poll_fn(|context| match self.inbox.poll_recv(context) {
                Poll::Ready(event) => Poll::Ready(event),
                Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
            })
            .await;
            self.now = Instant::now();
            let mut next = event;
            while let Some(event) = next {
                self.take(event);
                next = self.inbox.try_recv().ok();
            }
            if self.machine.poll_timeout().is_some_and(|at| at < self.now) {
                // What has arrived counts, even if its task has not come to tell of it: one turn for the tasks that
                // are ready, and one for those that the driver finds.
                yield_now().await;
                yield_now().await;
                while let Ok(event) = self.inbox.try_recv() {
                    self.take(event);
                }
            }
            if self.machine.poll_timeout().is_some_and(|at| at <= self.now) {
                self.machine.handle_timeout(self.now);
                self.drain_outputs();
            }
        }
        self.acceptors.iter().for_each(JoinHandle::abort);
        Ok(())
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Accepted(listener, origin, stream, peer) => self.accepted(listener, origin, stream, peer),
            Event::Returned(user, refused) => self.returned(user, refused),
            Event::Input(input) => {
                if let Input::Closed { id, .. } = input
                    && self.slot(id).is_some()
                {
                    self.slots.remove(id.slot as usize);
                }
                self.tell(input);
            }
        }
    }

    fn accepted(&mut self, listener: ListenerId, origin: Origin, stream: TcpStream, peer: SocketAddr) {
        let id = match origin {
            Origin::User => {
                let id = self.next_id();
                self.insert(Owner::Hub(Box::new(Local::new(id, stream))));
                id
            }
            Origin::Stranger => {
                let (sender, commands) = unbounded_channel();
                let id = self.insert(Owner::Task(sender));
                tokio::spawn(control::stranger(id, stream, commands, self.shared.clone()));
                id
            }
        };
        self.tell(Input::Accepted { id, listener, peer });
    }

    fn returned(&mut self, user: Box<Local>, refused: bool) {
        let (id, spoken) = (user.id, user.traffic.received > 0);
        if let Some(slot) = self.slot(id) {
            slot.owner = Owner::Hub(user);
            self.tell(Input::Returned { id, refused, spoken });
        }
    }

    fn next_id(&self) -> ConnId {
        ConnId { slot: self.slots.vacant_key() as u32, serial: self.serial + 1 }
    }

    fn insert(&mut self, owner: Owner) -> ConnId {
        let id = self.next_id();
        self.serial = id.serial;
        self.slots.insert(Slot { serial: id.serial, owner });
        id
    }

    fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(input, self.now);
        self.drain_outputs();
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            self.execute(output);
        }
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::StopListening(ListenerId(index)) => self.acceptors[index].abort(),
            Output::Verify { id, secret } => drop(self.command(id, Command::Verify(Box::new(secret)))),
            Output::Admit { id, plain } => drop(self.command(id, Command::Admit(plain))),
            Output::Resolve(name) => self.resolve(name),
            Output::Dial { dial, address, deadline } => self.dial(dial, address, deadline),
            Output::Send { id, frame } => drop(self.command(id, Command::Send(Box::new(frame)))),
            Output::Start { message, user, start } => self.start(message, user, start),
            Output::Accept(id) => drop(self.command(id, Command::Accept)),
            Output::Abort { message, reason } => drop(self.command(message, Command::Abort(reason))),
            Output::Ping(id) => drop(self.command(id, Command::Ping)),
            Output::Close { id, reason } => self.close(id, reason),
            Output::Exit => self.exit = true,
        }
    }

    /// Tells the task of a connection; gives the command back if it has ended.
    fn command(&mut self, id: ConnId, command: Command) -> Result<(), Command> {
        match self.slot(id) {
            Some(Slot { owner: Owner::Task(sender), .. }) => sender.send(command).map_err(|error| error.0),
            _ => Err(command),
        }
    }

    fn resolve(&self, name: NameId) {
        let Some(HostPort { host, port }) = self.names.get(name.0).cloned() else { return };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let addresses = found.map_or(Vec::new(), Iterator::collect);
            shared.input(Input::Resolved { name, addresses });
        });
    }

    fn dial(&mut self, dial: Dial, address: SocketAddr, deadline: Instant) {
        let (greeting, purpose) = match dial {
            Dial::Control(greeting) => (greeting, Dialled::Control),
            Dial::Message(greeting) => (greeting, Dialled::Message),
            Dial::Proxy(message) => {
                let id = self.insert(Owner::Relay);
                self.machine.handle(Input::Dialling { id, purpose: Dialled::Proxy(message) }, self.now);
                if self.command(message, Command::Dial(Box::new((id, address, deadline)))).is_err() {
                    self.shared.closed(id, CloseReason::Truncated, Traffic::default());
                }
                return;
            }
        };
        let (sender, commands) = unbounded_channel();
        let id = self.insert(Owner::Task(sender));
        self.machine.handle(Input::Dialling { id, purpose }, self.now);
        let control = matches!(purpose, Dialled::Control);
        let shared = self.shared.clone();
        tokio::spawn(control::dial(id, address, deadline, greeting, control, commands, shared));
    }

    fn start(&mut self, message: ConnId, user: ConnId, start: Start) {
        let Some(slot) = self.slot(user) else {
            // He has just gone; the connection is still free.
            return self.machine.handle(
                Input::Session { id: message, event: SessionEvent::Idle { settled: true } },
                self.now,
            );
        };
        let Owner::Hub(local) = std::mem::replace(&mut slot.owner, Owner::Relay) else { return };
        if let Err(Command::Start(lost)) = self.command(message, Command::Start(Box::new((*local, start)))) {
            self.shared.tell(Event::Returned(Box::new(lost.0), false));
        }
    }

    fn close(&mut self, id: ConnId, reason: CloseReason) {
        let Some(slot) = self.slot(id) else { return };
        match &slot.owner {
            Owner::Task(sender) => drop(sender.send(Command::Close(reason))),
            Owner::Hub(_) => {
                if let Owner::Hub(local) = std::mem::replace(&mut slot.owner, Owner::Relay) {
                    with_scratch(|scratch| local.close(reason, &mut scratch.rings, &self.shared));
                }
            }
            // It ends with its message connection.
            Owner::Relay => {}
        }
    }
}
