//! A TCP relay that does what networks do: holds bytes, is late, flips bits, cuts.
//!
//! One thread owns all sockets; a test edits its rules through [`Relay::with`] and waits for what it sees through
//! [`Relay::wait`].

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::SockRef;

use super::PATIENCE;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Bytes that one direction may keep back.
const QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// From the client to the server.
pub const UP: usize = 0;
/// From the server to the client.
pub const DOWN: usize = 1;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Rst,
    Fin,
}

/// What a middlebox does about a link on which nothing has moved for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgets {
    /// It resets both ends.
    Resets,
    /// It passes nothing on any more, and tells nobody.
    Drops,
}

/// What happens on a link; pairs are for [`UP`] and [`DOWN`].
#[derive(Clone, Copy, Default)]
pub struct Rules {
    /// Bytes are taken and not passed on.
    pub hold: [bool; 2],
    /// Bytes are passed on after this time.
    pub late: [Duration; 2],
    /// So many bytes are passed on in a second.
    pub rate: [Option<u32>; 2],
    /// After so many bytes both ends are cut.
    pub cut: [Option<(u64, Cut)>; 2],
    /// One bit of this byte is flipped.
    pub flip: [Option<u64>; 2],
    /// What becomes of it when nothing has moved for this time.
    pub forgets: Option<(Duration, Forgets)>,
}

enum Piece {
    Bytes(Vec<u8>),
    End(Cut),
}

/// One direction of a link.
#[derive(Default)]
struct Lane {
    queue: VecDeque<(Instant, Piece)>,
    queued_bytes: usize,
    /// When what was read so far has been passed on at its rate.
    free_at: Option<Instant>,
    read: u64,
    passed: u64,
    /// Its reading has ended; then also its writing.
    ended: [bool; 2],
}

/// A connection of the client and the one to the server that belongs to it.
pub struct Link {
    pub rules: Rules,
    /// The client's side and the server's.
    sides: [Option<TcpStream>; 2],
    lanes: [Lane; 2],
    /// When something was last passed on.
    moved: Instant,
    /// The first bytes from the client.
    pub recorded: Vec<u8>,
}

impl Link {
    /// Bytes that were passed on.
    pub fn passed(&self, way: usize) -> u64 {
        self.lanes[way].passed
    }

    /// Whether both ends stand.
    pub fn stands(&self) -> bool {
        self.sides.iter().all(Option::is_some) && self.lanes.iter().all(|lane| !lane.ended[0])
    }

    /// Cuts both ends; what either still says is not heard.
    pub fn cut(&mut self, how: Cut) {
        for side in [UP, DOWN] {
            self.cut_side(side, how);
            self.lanes[side].ended[0] = true;
        }
    }

    /// Cuts the end towards the client ([`UP`]) or the server ([`DOWN`]). What it answers to that is passed on.
    pub fn cut_side(&mut self, side: usize, how: Cut) {
        self.lanes[1 - side].ended[1] = true;
        self.lanes[1 - side].queue.clear();
        match how {
            Cut::Rst => {
                self.lanes[side].ended[0] = true;
                if let Some(stream) = self.sides[side].take() {
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
            }
            Cut::Fin => {
                if let Some(stream) = &self.sides[side] {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
        }
    }

    /// When it is forgotten, if nothing moves.
    fn forgotten_at(&self) -> Option<Instant> {
        self.rules.forgets.filter(|_| self.stands()).map(|(time, _)| self.moved + time)
    }

    /// Forgets it if nothing has moved for too long.
    fn forget(&mut self, now: Instant) {
        if self.forgotten_at().is_some_and(|at| at <= now) {
            match self.rules.forgets.take() {
                Some((_, Forgets::Resets)) => self.cut(Cut::Rst),
                _ => self.rules.hold = [true, true],
            }
        }
    }

    fn pump(&mut self, way: usize, now: Instant) {
        while self.read(way, now) | self.write(way, now) {}
        if self.lanes.iter().all(|lane| lane.ended == [true, true]) {
            self.sides = [None, None];
        }
    }

    /// Takes bytes from one side; true if there may be more.
    fn read(&mut self, way: usize, now: Instant) -> bool {
        let lane = &mut self.lanes[way];
        let Some(from) = &mut self.sides[way] else { return false };
        if lane.ended[0] || lane.queued_bytes >= QUEUE_BYTES_MAX {
            return false;
        }
        let mut bytes = vec![0; 64 * 1024];
        let mut due = now + self.rules.late[way];
        match from.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Ok(count @ 1..) => {
                bytes.truncate(count);
                if let Some(rate) = self.rules.rate[way] {
                    due = due.max(lane.free_at.unwrap_or(now));
                    lane.free_at = Some(due + Duration::from_secs(1).mul_f64(count as f64 / f64::from(rate)));
                }
                if let Some(at) = self.rules.flip[way].and_then(|at| at.checked_sub(lane.read))
                    && let Some(byte) = bytes.get_mut(at as usize)
                {
                    *byte ^= 0x10;
                }
                if way == UP && self.recorded.len() < 4096 {
                    self.recorded.extend_from_slice(&bytes);
                }
                lane.read += count as u64;
                lane.queued_bytes += count;
                lane.queue.push_back((due, Piece::Bytes(bytes)));
            }
            ended => {
                lane.ended[0] = true;
                due = due.max(lane.free_at.unwrap_or(now));
                let how = if ended.is_ok() { Cut::Fin } else { Cut::Rst };
                lane.queue.push_back((due, Piece::End(how)));
            }
        }
        true
    }

    /// Passes the oldest piece on; true if the next may follow.
    fn write(&mut self, way: usize, now: Instant) -> bool {
        let cut = self.rules.cut[way];
        let lane = &mut self.lanes[way];
        if self.rules.hold[way] || lane.ended[1] {
            return false;
        }
        let Some((due, piece)) = lane.queue.front_mut() else { return false };
        let Some(to) = &mut self.sides[1 - way] else { return false };
        if *due > now {
            return false;
        }
        let bytes = match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::End(Cut::Fin) => {
                let _ = to.shutdown(Shutdown::Write);
                lane.ended[1] = true;
                return false;
            }
            Piece::End(Cut::Rst) => {
                self.cut_side(1 - way, Cut::Rst);
                return false;
            }
        };
        let limit = cut.map_or(usize::MAX, |(at, _)| at.saturating_sub(lane.passed) as usize);
        match to.write(&bytes[..bytes.len().min(limit)]) {
            Ok(count) => {
                bytes.drain(..count);
                if bytes.is_empty() {
                    lane.queue.pop_front();
                }
                lane.passed += count as u64;
                self.moved = now;
                lane.queued_bytes -= count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => {
                self.cut(Cut::Rst);
                return false;
            }
        }
        if let Some((_, how)) = cut.filter(|&(at, _)| self.lanes[way].passed >= at) {
            self.cut(how);
            return false;
        }
        true
    }

    /// When a piece that is late is due.
    fn due(&self, now: Instant) -> Option<Instant> {
        let fronts = (0..2).filter(|&way| !self.rules.hold[way] && !self.lanes[way].ended[1]);
        fronts
            .filter_map(|way| self.lanes[way].queue.front())
            .map(|front| front.0)
            .filter(|&due| due > now)
            .min()
    }
}

/// All links that ever were, in the order of their coming.
pub struct Links {
    pub links: Vec<Link>,
    /// For links that come.
    pub rules: Rules,
    target: SocketAddr,
}

type Act = Box<dyn FnOnce(&mut Links) + Send>;
type Wish = Box<dyn FnMut(&Links) -> bool + Send>;

enum Asked {
    Act(Act),
    Wish(Wish),
}

/// A relay that runs until the test's process ends.
pub struct Relay {
    pub address: SocketAddr,
    asks: Sender<Asked>,
    waker: Waker,
}

/// Starts a relay to `target`.
pub fn start(target: SocketAddr) -> Relay {
    let poll = Poll::new().expect("an epoll");
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("a fresh listener");
    let waker = Waker::new(poll.registry(), WAKER).expect("a fresh epoll");
    let (asks, asked) = channel();
    let links = Links { links: Vec::new(), rules: Rules::default(), target };
    thread::spawn(move || run(poll, &listener, links, &asked));
    Relay { address, asks, waker }
}

impl Relay {
    /// Looks at the links, or changes them.
    pub fn with<R: Send + 'static>(&self, act: impl FnOnce(&mut Links) -> R + Send + 'static) -> R {
        let (answer, answered) = channel();
        self.ask(Asked::Act(Box::new(move |links| drop(answer.send(act(links))))));
        answered.recv_timeout(PATIENCE).expect("the relay lives")
    }

    /// Waits until the links are as wished.
    pub fn wait(&self, what: &str, mut wish: impl FnMut(&Links) -> bool + Send + 'static) {
        let (answer, answered) = channel();
        self.ask(Asked::Wish(Box::new(move |links| {
            let fulfilled = wish(links);
            if fulfilled {
                let _ = answer.send(());
            }
            fulfilled
        })));
        answered.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the relay never saw {what}"));
    }

    /// Where links lead that come from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.with(move |links| links.target = target);
    }

    /// Connections so far.
    pub fn count(&self) -> usize {
        self.with(|links| links.links.len())
    }

    /// Waits until `count` message connections stand and are admitted.
    pub fn wait_for_pool(&self, count: usize) {
        self.wait("a whole pool", move |links| {
            let admitted = |link: &&Link| link.stands() && link.passed(DOWN) >= 48;
            links.links.iter().filter(admitted).count() >= count
        });
    }

    fn ask(&self, asked: Asked) {
        self.asks.send(asked).expect("the relay lives");
        self.waker.wake().expect("an open eventfd");
    }
}

fn run(mut poll: Poll, listener: &TcpListener, mut links: Links, asked: &Receiver<Asked>) {
    let mut events = Events::with_capacity(1024);
    let mut wishes: Vec<Wish> = Vec::new();
    loop {
        let now = Instant::now();
        let dues = links.links.iter().flat_map(|link| [link.due(now), link.forgotten_at()]);
        let due = dues.flatten().min();
        let timeout = due.map(|due| due.saturating_duration_since(now) + Duration::from_millis(1));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return,
            _ => {}
        }
        let now = Instant::now();
        links.links.iter_mut().for_each(|link| link.forget(now));
        let mut all = timeout.is_some();
        for event in &events {
            match event.token() {
                LISTENER => accept(&poll, listener, &mut links),
                WAKER => {
                    for asked in asked.try_iter() {
                        match asked {
                            Asked::Act(act) => act(&mut links),
                            Asked::Wish(wish) => wishes.push(wish),
                        }
                    }
                    all = true;
                }
                Token(token) => {
                    for way in [UP, DOWN] {
                        links.links[token / 2].pump(way, now);
                    }
                }
            }
        }
        if all {
            links
                .links
                .iter_mut()
                .for_each(|link| [UP, DOWN].into_iter().for_each(|way| link.pump(way, now)));
        }
        wishes.retain_mut(|wish| !wish(&links));
    }
}

fn accept(poll: &Poll, listener: &TcpListener, links: &mut Links) {
    while let Ok((mut client, _)) = listener.accept() {
        // On loopback this does not wait.
        let Ok(server) = std::net::TcpStream::connect(links.target) else { continue };
        server.set_nonblocking(true).expect("an open socket");
        let mut server = TcpStream::from_std(server);
        for (side, stream) in [&mut client, &mut server].into_iter().enumerate() {
            let token = Token(2 * links.links.len() + side);
            stream.set_nodelay(true).expect("an open socket");
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(stream, token, interest).expect("a fresh socket");
        }
        links.links.push(Link {
            rules: links.rules,
            sides: [Some(client), Some(server)],
            lanes: Default::default(),
            moved: Instant::now(),
            recorded: Vec::new(),
        });
    }
}
