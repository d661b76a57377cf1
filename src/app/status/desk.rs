//! The thread that answers those who look.
//!
//! It has a poll of its own, so that a reader waits for no other reader, and the loop for none. A reader has ten
//! seconds in all, whatever it does: a byte a minute, nothing, or half an answer. Readers at once are bounded for each
//! way in; one more takes the place of the oldest. What waits to be read is bounded as well.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Registry, Token, Waker};
use slab::Slab;

use super::exchange::{Door, Exchange, Gathered};
use super::history::History;
use super::http::{Answer, Request, Wanted};
use super::judge::{self, Health};
use super::reader::{Reader, Step, Stream};
use super::view::View;
use super::{document, metrics, page, screen, system};
use crate::machine::Fault;
use crate::reactor::world::thread;

/// How long a reader may stay.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the loop may take to say what it knows. A reader that is told of it is still there.
const LOOP_TIME: Duration = Duration::from_millis(1_500);
/// Most bytes of answers that wait to be read; beyond it the oldest reader goes.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Readers that are taken at once.
const ACCEPTS: usize = 32;
/// How soon accepting is tried again after it failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// What was seen before is compared with now where it is as old as this, so that a rate is of about a second.
const COMPARED: [Duration; 2] = [Duration::from_millis(700), Duration::from_secs(15)];
/// The thread writes texts, and keeps them elsewhere.
const STACK_BYTES: usize = 256 * 1024;

const WAKER: Token = Token(usize::MAX);
const SOCKET: Token = Token(usize::MAX - 1);
const METRICS: Token = Token(usize::MAX - 2);

/// File descriptors that the thread takes: one for each reader of both ways in and for one more that takes the place of
/// the oldest, the two ways in and those that take their place, the poll, its second handle and what wakes it, a
/// file of the system that is read, and the spare one.
pub fn descriptors(readers_max: usize) -> usize {
    2 * readers_max + 1 + 4 + 3 + 1 + 1
}

/// Starts the thread, with no way in yet. `wake_loop` ends the loop's sleep.
pub fn start(readers_max: usize, wake_loop: impl Fn() + Send + Sync + 'static) -> io::Result<Arc<Exchange>> {
    let poll = Poll::new()?;
    let exchange = Arc::new(Exchange::new(wake_loop, Waker::new(poll.registry(), WAKER)?));
    let desk = Desk {
        exchange: exchange.clone(),
        registry: poll.registry().try_clone()?,
        socket: None,
        metrics: None,
        readers: Slab::new(),
        readers_max,
        history: History::default(),
        sampling: None,
        seen: [None, None],
        came: 0,
        spare: None,
    };
    thread::start("status", STACK_BYTES, move || desk.serve(poll))?;
    Ok(exchange)
}

/// A listener, and whether somebody may stand at it.
struct Entrance<L> {
    listener: L,
    is_ready: bool,
    /// It failed, and is tried again then.
    retry: Option<Instant>,
}

struct Desk {
    exchange: Arc<Exchange>,
    registry: Registry,
    socket: Option<Entrance<mio::net::UnixListener>>,
    metrics: Option<Entrance<mio::net::TcpListener>>,
    readers: Slab<Reader>,
    /// Most of them at once, of each way in.
    readers_max: usize,
    history: History,
    /// The number of what was asked for a sample.
    sampling: Option<u64>,
    /// What was seen last, and what was seen about a second before.
    seen: [Option<Arc<View>>; 2],
    /// Readers so far.
    came: u64,
    /// A descriptor that one reader gets when the process has no other, so that it can be told of that. None while that
    /// reader is there, or while there is none for this either.
    spare: Option<File>,
}

impl Desk {
    fn serve(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(128);
        loop {
            let timeout = self.timeout(Instant::now());
            if let Err(error) = poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("the status cannot go on: {error}");
                return;
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    SOCKET => self.socket.iter_mut().for_each(|it| it.is_ready = true),
                    METRICS => self.metrics.iter_mut().for_each(|it| it.is_ready = true),
                    Token(place) => self.drive(place),
                }
            }
            let now = Instant::now();
            self.spare = self.spare.take().or_else(|| File::open("/dev/null").ok());
            self.take_from_loop(now);
            self.accept(now);
            self.sample(now);
            self.dismiss(now);
        }
    }

    /// How long to sleep.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let readers = self.readers.iter().map(|(_, reader)| reader.due());
        let accepts = [
            self.socket.as_ref().and_then(|it| it.due(now)),
            self.metrics.as_ref().and_then(|it| it.due(now)),
        ];
        let is_sampled = self.metrics.is_some() && self.sampling.is_none();
        let sample = is_sampled.then(|| self.history.due(now));
        let due = readers.chain(accepts.into_iter().flatten()).chain(sample).min()?;
        // A millisecond more, as the kernel's time is cut to whole ones.
        let left = due.saturating_duration_since(now);
        Some(if left.is_zero() { left } else { left + Duration::from_millis(1) })
    }

    /// Takes what the loop has left: other ways in, and what it knows.
    fn take_from_loop(&mut self, now: Instant) {
        let (gathered, doors) = self.exchange.take();
        match doors.socket {
            Door::Same => {}
            Door::New(listener) => self.socket = self.entrance_of_socket(listener),
            Door::Closed => self.socket = None,
        }
        match doors.metrics {
            Door::Same => {}
            Door::New(listener) => self.metrics = self.entrance_of_metrics(listener),
            Door::Closed => {
                self.metrics = None;
                self.history = History::default();
            }
        }
        if let Some(gathered) = gathered {
            self.answer(gathered, now);
        }
    }

    fn entrance_of_socket(&self, listener: UnixListener) -> Option<Entrance<mio::net::UnixListener>> {
        let mut listener = mio::net::UnixListener::from_std(listener);
        let registered = self.registry.register(&mut listener, SOCKET, Interest::READABLE);
        registered.inspect_err(tell_unheard).ok()?;
        Some(Entrance { listener, is_ready: true, retry: None })
    }

    fn entrance_of_metrics(&self, listener: TcpListener) -> Option<Entrance<mio::net::TcpListener>> {
        let mut listener = mio::net::TcpListener::from_std(listener);
        let registered = self.registry.register(&mut listener, METRICS, Interest::READABLE);
        registered.inspect_err(tell_unheard).ok()?;
        Some(Entrance { listener, is_ready: true, retry: None })
    }

    /// Lets readers in.
    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(entrance) = &mut self.socket else { break };
            let Some(stream) =
                entrance.accept(now, &mut self.spare, |listener| listener.accept().map(|it| it.0))
            else {
                break;
            };
            self.admit(Stream::Socket(stream), now);
        }
        for _ in 0..ACCEPTS {
            let Some(entrance) = &mut self.metrics else { break };
            let Some(stream) =
                entrance.accept(now, &mut self.spare, |listener| listener.accept().map(|it| it.0))
            else {
                break;
            };
            self.admit(Stream::Tcp(stream), now);
        }
    }

    fn admit(&mut self, stream: Stream, now: Instant) {
        let is_tcp = stream.is_tcp();
        let alike = self.readers.iter().filter(|(_, reader)| reader.is_tcp() == is_tcp);
        if alike.clone().count() >= self.readers_max {
            let oldest = alike.min_by_key(|(_, reader)| reader.number).map(|(place, _)| place);
            oldest.map(|place| self.readers.remove(place));
        }
        self.came += 1;
        let mut reader = Reader::new(stream, self.came, now + PATIENCE);
        let entry = self.readers.vacant_entry();
        let place = entry.key();
        if reader.register(&self.registry, Token(place)).is_ok() {
            entry.insert(reader);
            self.drive(place);
        }
    }

    /// Has a reader go as far as it can.
    fn drive(&mut self, place: usize) {
        loop {
            let Some(reader) = self.readers.get_mut(place) else { return };
            match reader.step() {
                Step::Waits => return,
                Step::Asks(request) => {
                    if let Some(answer) = self.known(&request) {
                        self.reply(place, answer, request.is_head);
                    } else {
                        let number = self.exchange.ask(true);
                        let Some(reader) = self.readers.get_mut(place) else { return };
                        return reader.wait(request, number, Instant::now() + LOOP_TIME);
                    }
                }
                Step::Ended => {
                    self.readers.remove(place);
                    return;
                }
            }
        }
    }

    /// What can be answered without the loop.
    fn known(&self, request: &Request) -> Option<Answer> {
        match request.wanted {
            Wanted::Page => Some(page::page()),
            Wanted::Script => Some(page::script()),
            Wanted::Style => Some(page::style()),
            Wanted::History => Some(Answer::good(JSON, self.history.write())),
            _ => None,
        }
    }

    fn reply(&mut self, place: usize, answer: Answer, is_head: bool) {
        let Some(reader) = self.readers.get_mut(place) else { return };
        reader.write(answer.encode(is_head));
        let mut waiting: usize = self.readers.iter().map(|(_, reader)| reader.waiting_bytes()).sum();
        while waiting > WAITING_BYTES_MAX {
            let readers =
                self.readers.iter().filter(|(other, reader)| *other != place && reader.waiting_bytes() > 0);
            let oldest = readers.min_by_key(|(_, reader)| reader.number).map(|(place, _)| place);
            let Some(oldest) = oldest else { return };
            waiting -= self.readers.remove(oldest).waiting_bytes();
        }
    }

    /// Writes for all who have waited for this.
    fn answer(&mut self, gathered: Gathered, now: Instant) {
        let Gathered { number, mut snapshot, head, at, wall } = gathered;
        // The loop knows of it only once a user has come.
        snapshot.totals.is_out_of_descriptors |= self.spare.is_none();
        let view = Arc::new(View { snapshot, head, system: system::look(), at, wall });
        if self.metrics.is_some() {
            self.history.take(&view);
        }
        self.sampling = self.sampling.filter(|&wanted| wanted > number);
        let is_old =
            |view: &Option<Arc<View>>| view.as_ref().is_none_or(|it| view_age(it, now) >= COMPARED[0]);
        if is_old(&self.seen[0]) {
            self.seen[1] = self.seen[0].take();
        }
        let before = self.seen[1].clone().filter(|before| view_age(before, now) <= COMPARED[1]);
        let waiting: Vec<(usize, Request)> = self
            .readers
            .iter_mut()
            .filter_map(|(place, reader)| Some((place, reader.waits_for(number)?)))
            .collect();
        for (place, request) in waiting {
            self.reply(place, written(&request.wanted, &view, before.as_deref()), request.is_head);
            self.drive(place);
        }
        self.seen[0] = Some(view);
    }

    /// Asks for a sample of the page's lines, if it is time. That is no look: nothing is proved for it.
    fn sample(&mut self, now: Instant) {
        if self.metrics.is_some() && self.sampling.is_none() && now >= self.history.due(now) {
            self.sampling = Some(self.exchange.ask(false));
        }
    }

    /// Tells those who have waited too long for the loop, and leaves those who have stayed too long.
    fn dismiss(&mut self, now: Instant) {
        let due: Vec<usize> =
            self.readers.iter().filter(|(_, reader)| now >= reader.due()).map(|(place, _)| place).collect();
        for place in due {
            match self.readers.get_mut(place).and_then(Reader::waits_for_loop) {
                Some(request) => {
                    self.reply(place, Answer::late(), request.is_head);
                    self.drive(place);
                }
                None => drop(self.readers.try_remove(place)),
            }
        }
        // What nobody compares with is not kept.
        for seen in &mut self.seen {
            if seen.as_ref().is_some_and(|view| view_age(view, now) > COMPARED[1]) {
                *seen = None;
            }
        }
    }
}

impl<L> Entrance<L> {
    fn due(&self, now: Instant) -> Option<Instant> {
        self.is_ready.then(|| self.retry.unwrap_or(now))
    }

    fn accept<S>(
        &mut self,
        now: Instant,
        spare: &mut Option<File>,
        accept: impl Fn(&L) -> io::Result<S>,
    ) -> Option<S> {
        if !self.is_ready || self.retry.is_some_and(|retry| now < retry) {
            return None;
        }
        self.retry = None;
        let mut accepted = accept(&self.listener);
        let is_short = |error| Fault::from(error).is_exhaustion();
        if accepted.as_ref().is_err_and(is_short) && spare.take().is_some() {
            accepted = accept(&self.listener);
        }
        match accepted {
            Ok(stream) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_ready = false;
                None
            }
            // It left meanwhile, or there is no descriptor for it.
            Err(_) => {
                self.retry = Some(now + ACCEPT_RETRY);
                None
            }
        }
    }
}

fn tell_unheard(error: &io::Error) {
    log::error!("nobody can ask for the status: {error}");
}

fn view_age(view: &View, now: Instant) -> Duration {
    now.saturating_duration_since(view.at)
}

const JSON: &str = "application/json";
const HEALTHY: &str = "200 OK";
const UNHEALTHY: &str = "503 Service Unavailable";

/// The form that is wanted.
fn written(wanted: &Wanted, view: &View, before: Option<&View>) -> Answer {
    let checked =
        |health: Health| Answer::text(if health.is_well { HEALTHY } else { UNHEALTHY }, health.text);
    let answer = match wanted {
        Wanted::Metrics => Answer::good("text/plain; version=0.0.4; charset=utf-8", metrics::write(view)),
        Wanted::Health(None) => checked(judge::health(view)),
        Wanted::Health(Some(name)) => judge::health_of(view, name).map_or_else(Answer::not_found, checked),
        Wanted::Screen(format) => Answer::text(HEALTHY, screen::write(view, before, *format)),
        _ => Answer::good(JSON, document::write(view)),
    };
    let (status, role) = (judge::exit_status(view), view.head.role.name());
    Answer { fields: format!("{EXIT_STATUS}: {status}\r\n{ROLE}: {role}\r\n"), ..answer }
}

/// The field that tells `skyorg status` how to exit.
pub const EXIT_STATUS: &str = "Skyorg-Exit-Status";
/// The field that tells whether a server or a client answers.
pub const ROLE: &str = "Skyorg-Role";
