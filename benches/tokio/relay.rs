//! The task of a message connection: the sessions on it, and while one runs the bytes of its local side. Both
//! sockets belong to one task, so nothing is shared and nothing is locked.
//!
//! Each turn does all that can be done without waiting ([`Relay::advance`]) and then waits for any reason to go
//! on. The steps follow the product's relay: read as much as can be passed on, write at once, keep in a ring what
//! the socket did not take, read a side only while the other one takes bytes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use skyorg::base::id::ConnId;
use skyorg::base::ring::{Ring, Rings};
use skyorg::machine::{CloseReason, Input, Manner, Traffic};
use skyorg::session::{End, Session};
use skyorg::wire::frame::{AbortReason, Frame, Start};
use skyorg::wire::record::{Channel, HEADROOM, SMALL_RECORD_BYTES_MAX};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::control;
use super::hub::{Command, Event, Shared};
use super::scratch::{Scratch, with_scratch, write};
use super::sockets;

pub use super::local::Local;
use super::local::Writing;

/// Bytes of the out ring that `Data` leaves to small frames.
const SMALL_FRAMES_ROOM: usize = 16 * SMALL_RECORD_BYTES_MAX;

#[path = "pump.rs"]
mod pump;

type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A message connection.
pub struct Relay {
    id: ConnId,
    end: End,
    heartbeat: Duration,
    stream: TcpStream,
    channel: Channel,
    session: Session,
    commands: UnboundedReceiver<Command>,
    shared: Shared,
    /// Bytes that arrived and cannot be opened or delivered yet.
    input: Option<Ring>,
    /// Bytes that the socket did not take.
    out: Option<Ring>,
    /// The socket has said that it takes no more for now.
    blocked: bool,
    local: Option<Local>,
    /// Dials of its local server: the first that stands is used.
    dialling: Vec<(ConnId, Dialling)>,
    deadline: Option<Pin<Box<Sleep>>>,
    announced_idle: bool,
    /// When `Alive` is due: it tells the other end that a session which says nothing still runs.
    alive: Option<Pin<Box<Sleep>>>,
}

enum Wake {
    Ready,
    Command(Option<Command>),
    Dialled(ConnId, io::Result<TcpStream>),
    Deadline,
    Alive,
}

impl Relay {
    /// An idle message connection.
    pub fn new(
        id: ConnId,
        (end, heartbeat): (End, Duration),
        stream: TcpStream,
        channel: Channel,
        commands: UnboundedReceiver<Command>,
        shared: Shared,
    ) -> Relay {
        Relay {
            id,
            end,
            heartbeat,
            stream,
            channel,
            session: Session::new(end),
            commands,
            shared,
            input: None,
            out: None,
            blocked: false,
            local: None,
            dialling: Vec::new(),
            deadline: None,
            announced_idle: true,
            alive: None,
        }
    }

    /// Carries sessions until the connection ends.
    pub async fn run(mut self) {
        let (reason, manner) = loop {
            match with_scratch(|scratch| self.advance(scratch)) {
                Err(reason) => break (reason, Manner::Reset),
                // Other tasks have their turn.
                Ok(true) => yield_now().await,
                Ok(false) => {
                    let wake = poll_fn(|context| self.poll_wake(context)).await;
                    if let Wake::Command(Some(Command::Close(reason, manner))) = wake {
                        break (reason, manner);
                    }
                    if let Err(reason) = with_scratch(|scratch| self.obey(wake, scratch)) {
                        break (reason, Manner::Reset);
                    }
                }
            }
        };
        with_scratch(|scratch| self.let_go(scratch));
        if manner == Manner::Whole {
            control::linger(&self.stream, &self.shared).await;
        }
        control::end(self.stream, manner);
        self.shared.closed(self.id, reason, Traffic::default());
    }

    fn poll_wake(&mut self, context: &mut Context) -> Poll<Wake> {
        if let Poll::Ready(command) = self.commands.poll_recv(context) {
            return Poll::Ready(Wake::Command(command));
        }
        for place in 0..self.dialling.len() {
            if let Poll::Ready(dialled) = self.dialling[place].1.as_mut().poll(context) {
                let (id, _) = self.dialling.remove(place);
                return Poll::Ready(Wake::Dialled(id, dialled));
            }
        }
        if let Some(alive) = &mut self.alive
            && alive.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Wake::Alive);
        }
        let mut ready = self.may_open() && self.stream.poll_read_ready(context).is_ready();
        ready |= self.blocked && self.stream.poll_write_ready(context).is_ready();
        if let Some(local) = &self.local {
            ready |= self.payload_room() > 0 && local.stream.poll_read_ready(context).is_ready();
            ready |= local.out.is_some() && local.stream.poll_write_ready(context).is_ready();
        }
        if ready {
            return Poll::Ready(Wake::Ready);
        }
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(context).map(|()| Wake::Deadline),
            None => Poll::Pending,
        }
    }

    fn obey(&mut self, wake: Wake, scratch: &mut Scratch) -> Result<(), CloseReason> {
        match wake {
            Wake::Ready => Ok(()),
            Wake::Command(Some(command)) => self.command(command, scratch),
            Wake::Command(None) => Err(CloseReason::Shutdown),
            Wake::Dialled(id, Ok(stream)) => {
                self.local = Some(Local::new(id, stream));
                self.drop_dials(CloseReason::Retired);
                self.act(scratch, Session::started)?;
                self.shared.input(Input::Connected { id });
                Ok(())
            }
            Wake::Dialled(id, Err(error)) => {
                self.shared.closed(id, CloseReason::DialFailed(error.into()), Traffic::default());
                Ok(())
            }
            Wake::Alive => {
                self.expect_silence();
                // Bytes that wait for room say as much.
                if self.out.is_none() { self.act(scratch, |session| session.alive()) } else { Ok(()) }
            }
            Wake::Deadline => match self.local.as_ref().and_then(|local| local.failed) {
                Some(kind) => self.local_broke(kind, scratch),
                None => Err(CloseReason::EndTimedOut),
            },
        }
    }

    fn command(&mut self, command: Command, scratch: &mut Scratch) -> Result<(), CloseReason> {
        match command {
            Command::Start(begun) => self.start(begun.0, begun.1, scratch),
            Command::Accept => self.act(scratch, Session::accept),
            Command::Dial(dial) => {
                let (id, address, deadline) = *dial;
                if !self.session.delivers() || self.local.is_some() {
                    let reason = match self.local {
                        Some(_) => CloseReason::Retired,
                        None => CloseReason::Truncated,
                    };
                    self.shared.closed(id, reason, Traffic::default());
                    return Ok(());
                }
                let connected = timeout_at(deadline.into(), sockets::connect(address));
                let flat = async { connected.await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) };
                self.dialling.push((id, Box::pin(flat)));
                Ok(())
            }
            Command::Abort(reason) => {
                self.drop_local(CloseReason::Aborted(reason), scratch);
                self.abort(reason, scratch)
            }
            Command::Reset(id, reason) => {
                if self.local.as_ref().is_some_and(|local| local.id == id) {
                    self.drop_local(reason, scratch);
                    self.abort(AbortReason::Reset, scratch)?;
                }
                Ok(())
            }
            Command::Ping => self.act(scratch, Session::ping),
            Command::Close(reason, _) => Err(reason),
            // For connections that are not proved yet, and for control connections.
            Command::Verify(_) | Command::Answer(_) | Command::Send(_) => Ok(()),
        }
    }

    // Sending.

    fn send_frame(&mut self, frame: &Frame, scratch: &mut Scratch) -> Result<(), CloseReason> {
        let mut record = [0; SMALL_RECORD_BYTES_MAX];
        let sealed = self.channel.seal(&frame.encode(), &mut record);
        let count = sealed.map_err(|_| CloseReason::BadRecord)?;
        match scratch.rings.push(&mut self.out, &record[..count]) {
            pushed if pushed == count => Ok(()),
            _ => Err(CloseReason::Overflow),
        }
    }

    /// Lets `act` move the session on, and sends the frame that comes of it.
    fn act(
        &mut self,
        scratch: &mut Scratch,
        act: impl FnOnce(&mut Session) -> Option<Frame<'static>>,
    ) -> Result<(), CloseReason> {
        if let Some(frame) = act(&mut self.session) {
            self.send_frame(&frame, scratch)?;
            self.part_if_over(scratch);
        }
        Ok(())
    }

    fn abort(&mut self, reason: AbortReason, scratch: &mut Scratch) -> Result<(), CloseReason> {
        if let Some(frame) = self.session.abort(reason) {
            self.send_frame(&frame, scratch)?;
            self.clock_abort();
        }
        Ok(())
    }

    /// While a session runs, something is said in each third of the heartbeat.
    fn expect_silence(&mut self) {
        let third = (self.heartbeat / 3).min(Duration::from_secs(15));
        self.alive = (!self.session.is_idle()).then(|| Box::pin(sleep_until(Instant::now() + third)));
    }

    /// Both ends must be done with an aborted session in time.
    fn clock_abort(&mut self) {
        self.set_deadline(self.shared.limits.abort);
    }

    fn set_deadline(&mut self, after: Duration) {
        self.deadline = Some(Box::pin(sleep_until(Instant::now() + after)));
    }

    fn write(&mut self, sealed: &[u8], rings: &mut Rings) -> Result<(), CloseReason> {
        let written = write(&self.stream, &mut self.out, rings, &[IoSlice::new(sealed)]);
        self.blocked = self.out.is_some();
        written.map(drop).map_err(|error| CloseReason::Io(error.into()))
    }

    fn flush(&mut self, scratch: &mut Scratch) -> Result<(), CloseReason> {
        if self.out.is_some() { self.write(&[], &mut scratch.rings) } else { Ok(()) }
    }

    /// Server: begins a session, and sends again what the user has said so far.
    fn start(&mut self, mut user: Local, start: Start, scratch: &mut Scratch) -> Result<(), CloseReason> {
        let Some(frame) = self.session.start(start) else {
            self.shared.tell(Event::Returned(Box::new(user), false));
            return Ok(());
        };
        self.announced_idle = false;
        self.expect_silence();
        self.send_frame(&frame, scratch)?;
        if let Some(ring) = &user.retained {
            let count = ring.len();
            let [first, second] = ring.slices();
            let raw = &mut scratch.raw[..HEADROOM + count];
            raw[HEADROOM..HEADROOM + first.len()].copy_from_slice(first);
            raw[HEADROOM + first.len()..].copy_from_slice(second);
            let sealed = self.channel.seal_data(start.sid, raw, &mut scratch.clear);
            scratch.rings.push(&mut self.out, sealed.map_err(|_| CloseReason::BadRecord)?);
        }
        let ended = std::mem::take(&mut user.finish_again);
        self.local = Some(user);
        if ended { self.act(scratch, Session::finish) } else { Ok(()) }
    }

    // The local side's end.

    fn flush_local(&mut self, scratch: &mut Scratch) -> Result<(), CloseReason> {
        let flushed = self.local.as_mut().map_or(Ok(()), |local| local.flush(&mut scratch.rings));
        flushed.or_else(|error| self.local_failed(error.kind(), scratch))
    }

    /// Writing to the local side has failed. What it still says is passed on, if that can be within a short time.
    fn local_failed(&mut self, kind: io::ErrorKind, scratch: &mut Scratch) -> Result<(), CloseReason> {
        if self.local.as_ref().is_some_and(|local| local.read_ended) {
            return self.local_broke(kind, scratch);
        }
        self.set_deadline(self.shared.limits.abort);
        Ok(())
    }

    /// The end of what the local side says: whole, or, if writing to it has failed, broken.
    fn local_ended(&mut self, scratch: &mut Scratch) -> Result<(), CloseReason> {
        let Some(local) = &mut self.local else { return Ok(()) };
        if let Some(kind) = local.failed {
            return self.local_broke(kind, scratch);
        }
        local.read_ended = true;
        self.act(scratch, Session::finish)
    }

    fn local_broke(&mut self, kind: io::ErrorKind, scratch: &mut Scratch) -> Result<(), CloseReason> {
        self.drop_local(CloseReason::Io(kind.into()), scratch);
        self.abort(AbortReason::Reset, scratch)
    }

    /// Parts from the local side once the session is over; it goes on flushing alone, because the next session
    /// may begin with the very next frame.
    fn part_if_over(&mut self, scratch: &mut Scratch) {
        if !self.session.is_idle() {
            return;
        }
        if let Some(local) = &mut self.local {
            // A failure is remembered, and looked at below.
            let _ = local.flush(&mut scratch.rings);
        }
        match self.local.take() {
            Some(local) if local.writing == Writing::Finishing && local.failed.is_none() => {
                let deadline = Instant::now() + self.shared.limits.finish;
                tokio::spawn(local.finish_alone(deadline, CloseReason::Finished, self.shared.clone()));
            }
            local => {
                let failed = local.as_ref().and_then(|local| local.failed);
                self.local = local;
                self.drop_local(
                    failed.map_or(CloseReason::Finished, |kind| CloseReason::Io(kind.into())),
                    scratch,
                );
            }
        }
    }

    /// Closes the local side, or gives up dialling it.
    fn drop_local(&mut self, reason: CloseReason, scratch: &mut Scratch) {
        if let Some(local) = self.local.take() {
            local.close(reason, &mut scratch.rings, &self.shared);
        }
        self.drop_dials(reason);
    }

    fn drop_dials(&mut self, reason: CloseReason) {
        for (id, _) in self.dialling.drain(..) {
            self.shared.closed(id, reason, Traffic::default());
        }
    }

    fn return_user(&mut self, mut user: Box<Local>, refused: bool) {
        user.finish_again = user.read_ended;
        self.shared.tell(Event::Returned(user, refused));
    }

    /// The connection is over: its local side is aborted, or goes elsewhere if that is still possible.
    fn let_go(&mut self, scratch: &mut Scratch) {
        match self.local.take() {
            Some(user)
                if self.end == End::Server && self.session.is_unaccepted() && user.failed.is_none() =>
            {
                self.return_user(Box::new(user), false);
            }
            local => {
                self.local = local;
                self.drop_local(CloseReason::Truncated, scratch);
            }
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start(begun) => self.shared.tell(Event::Returned(Box::new(begun.0), false)),
                Command::Dial(dial) => {
                    self.shared.closed(dial.0, CloseReason::Truncated, Traffic::default());
                }
                _ => {}
            }
        }
        for ring in [self.input.take(), self.out.take()].into_iter().flatten() {
            scratch.rings.give_back(ring);
        }
    }
}
