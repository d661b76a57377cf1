//! Clients that ask for ports of one server: any, fixed ones, ranges. They come and go, race for the same ports, share
//! them or not, fall silent, leave and are killed; the server is killed, and permits the same ports at other addresses;
//! another program has some of the ports.
//!
//! What must hold: nobody is granted what it did not ask for, other addresses take nothing that was granted, no port
//! belongs to two owners at once, everybody is answered soon, each granted port is open, and a day after all have left
//! nothing is.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use skyorg::base::ports::{Ports, PortsAt};
use skyorg::config::Policies;
use skyorg::config::limits::Limits;
use skyorg::config::policy::PortRules;
use skyorg::wire::control::{Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want};
use skyorg::wire::handshake::{ClearHello, Purpose, Suite, key_id};

use super::actors::wire::Wire;
use super::drawn::Settings;
use super::line::Line;
use super::process::{Process, key, server_config};
use super::tcp::{Host, Listener, Net, Shape, Time};
use super::trace;
use super::world::{CONTROL_PORT, SERVER_IP};

/// What any key may ask for. They are few, so that askers are in each other's way.
const PERMITTED: Ports = Ports { first: 20_000, last: 20_023 };
/// Another address of the server.
const OTHER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));
/// How long a reload may take.
const MOVED: Duration = Duration::from_millis(100);
const ASKERS: usize = 6;
const PUBLICATIONS: [&str; 4] = ["game", "web", "preview", "ssh"];
/// Publications of one asker at once.
const ASKS_MAX: usize = 4;
/// How long everybody does as it likes.
const LASTS: Duration = Duration::from_secs(60);
/// An ask is answered in this time, the time for a client that does not answer included.
const ANSWERED: Duration = Duration::from_secs(4);
/// How long one that was silent may believe what is not true any more.
const DOUBT: Duration = Duration::from_secs(3);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What became of an ask, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Since(Time),
    Granted(Ports),
    Denied,
    /// It is wanted no more, and an answer may be on its way.
    Unpublished,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    publication: &'static str,
    want: Want,
    share: bool,
    answer: Answer,
    /// When it was granted last.
    granted_at: Time,
}

/// A client that asks for ports and serves nobody.
struct Asker {
    number: usize,
    key: usize,
    wire: Option<Wire>,
    said_hello: bool,
    is_welcome: bool,
    /// It has said that it leaves.
    leaves: bool,
    asks: BTreeMap<u32, Ask>,
    last_number: u32,
    /// Until then it reads and says nothing.
    silent_until: Time,
    at: Time,
    rng: Rng,
}

impl Asker {
    fn new(number: usize, mut rng: Rng) -> Asker {
        Asker {
            number,
            key: number % 2,
            wire: None,
            said_hello: false,
            is_welcome: false,
            leaves: false,
            asks: BTreeMap::new(),
            last_number: 0,
            silent_until: Time::ZERO,
            at: Duration::from_millis(rng.u64(..2_000)),
            rng,
        }
    }

    /// Whether what it believes may be wrong.
    fn is_in_doubt(&self, now: Time) -> bool {
        self.silent_until > Time::ZERO && self.silent_until + DOUBT > now
    }

    fn come(&mut self, net: &mut Net) {
        let secret = key(self.key).secret;
        let hello =
            ClearHello { suite: Suite::preferred(), purpose: Purpose::Control, key_id: key_id(&secret) };
        let from: SocketAddr = (Ipv4Addr::new(203, 0, 113, self.number as u8 + 1), 40_000).into();
        let way = (from, SocketAddr::new(SERVER_IP, CONTROL_PORT));
        self.wire = Some(Wire::dial(net, way, hello, &secret, 0, false));
        (self.said_hello, self.is_welcome, self.leaves) = (false, false, false);
        self.asks.clear();
        self.last_number = 0;
    }

    fn go(&mut self, net: &mut Net) {
        if let Some(mut wire) = self.wire.take() {
            wire.close(net, true);
        }
        self.asks.clear();
    }

    fn say(&mut self, net: &mut Net, frame: &ControlFrame) {
        if let Some(wire) = &mut self.wire {
            wire.say_control(net, frame);
        }
    }

    /// Hears what was said to it; returns what it was granted.
    fn hear(&mut self, net: &mut Net) -> Vec<u32> {
        let mut granted = Vec::new();
        if self.silent_until > net.now {
            return granted;
        }
        let Some(wire) = &mut self.wire else { return granted };
        wire.pump(net);
        if wire.is_over() {
            self.go(net);
            return granted;
        }
        if wire.is_proved() && !std::mem::replace(&mut self.said_hello, true) {
            let hello = Hello {
                versions: VERSIONS,
                capabilities: Capabilities::default(),
                heartbeat: Duration::from_secs(30),
                instance: std::array::from_fn(|_| self.rng.u8(..)),
                resumes: None,
            };
            wire.say_control(net, &ControlFrame::Hello(hello));
        }
        while let Some(frame) = self.wire.as_mut().and_then(Wire::next_control) {
            match frame {
                ControlFrame::Welcome(_) => self.is_welcome = true,
                ControlFrame::Ping => self.say(net, &ControlFrame::Pong),
                ControlFrame::Granted { number, addresses, .. } => {
                    let ports = addresses.first().expect("users connect somewhere").ports;
                    assert!(addresses.iter().all(|address| address.ports == ports), "{addresses:?}");
                    let Some(ask) = self.asks.get_mut(&number) else { panic!("nobody asked for {number}") };
                    if ask.answer != Answer::Unpublished {
                        if !matches!(ask.answer, Answer::Granted(_)) {
                            ask.granted_at = net.now;
                        }
                        ask.answer = Answer::Granted(ports);
                        granted.push(number);
                    }
                }
                ControlFrame::Denied { number, .. } => {
                    let Some(ask) = self.asks.get_mut(&number) else { panic!("nobody asked for {number}") };
                    if ask.answer != Answer::Unpublished {
                        ask.answer = Answer::Denied;
                    }
                }
                // What was being opened as a reload began comes back without being asked for again.
                ControlFrame::Withdrawn { number, .. } => {
                    let Some(ask) = self.asks.get_mut(&number) else { panic!("nobody asked for {number}") };
                    if ask.answer != Answer::Unpublished {
                        assert!(net.now < ask.granted_at + MOVED, "its ports are permitted: {ask:?}");
                        ask.answer = Answer::Since(net.now);
                    }
                }
                _ => {}
            }
        }
        granted
    }

    /// Does something, as it likes.
    fn act(&mut self, net: &mut Net) {
        let now = net.now;
        self.at = now + Duration::from_millis(self.rng.u64(5..600));
        if self.silent_until > now {
            return;
        }
        if self.wire.is_none() {
            return self.come(net);
        }
        if !self.is_welcome {
            return;
        }
        if self.leaves {
            return self.go(net);
        }
        let wanted = self.asks.values().filter(|ask| ask.answer != Answer::Unpublished).count();
        match self.rng.u8(..40) {
            0 => self.go(net),
            1 => {
                self.leaves = true;
                self.say(net, &ControlFrame::Drain);
            }
            2 => self.silent_until = now + Duration::from_millis(self.rng.u64(500..6_000)),
            3..16 if wanted < ASKS_MAX => self.ask(net),
            16..24 => {
                let choice = self.rng.usize(..ASKS_MAX);
                let mut wanted = self.asks.iter_mut().filter(|(_, ask)| ask.answer != Answer::Unpublished);
                if let Some((&number, ask)) = wanted.nth(choice) {
                    ask.answer = Answer::Unpublished;
                    self.say(net, &ControlFrame::Unpublish(number));
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, net: &mut Net) {
        let mut port = || self.rng.u16(PERMITTED.first..=PERMITTED.last);
        let (one, other) = (port(), port());
        let want = match self.rng.u8(..3) {
            0 => Want::AnyPort,
            1 => Want::Ports(Ports::one(one)),
            _ => Want::Ports(Ports { first: one.min(other), last: one.max(other).min(one.min(other) + 6) }),
        };
        let publication = PUBLICATIONS[self.rng.usize(..PUBLICATIONS.len())];
        let share = self.rng.bool();
        self.last_number += 1;
        let ask = Ask { publication, want, share, answer: Answer::Since(net.now), granted_at: net.now };
        self.asks.insert(self.last_number, ask);
        let frame = ControlFrame::Publish(Publish {
            number: self.last_number,
            name: publication.parse().expect("a name"),
            want,
            transports: Transports::Tcp,
            dial_time: Duration::from_secs(5),
            share,
            probe: true,
        });
        self.say(net, &frame);
    }

    /// What it holds, as far as it knows.
    fn held(&self) -> impl Iterator<Item = (&Ask, Ports)> {
        let holds = self.wire.is_some() && !self.leaves;
        self.asks.values().filter(move |_| holds).filter_map(|ask| match ask.answer {
            Answer::Granted(ports) => Some((ask, ports)),
            _ => None,
        })
    }
}

/// Any key may ask for the same ports, at one of some addresses or at several.
fn permitted(rng: &mut Rng) -> Policies {
    let at = |ip: IpAddr| PortsAt { ip: Some(ip), ports: PERMITTED };
    let rules = match rng.u8(..4) {
        0 => vec![PortsAt { ip: None, ports: PERMITTED }],
        1 => vec![at(SERVER_IP)],
        2 => vec![at(OTHER_IP)],
        _ => vec![at(OTHER_IP), at(SERVER_IP)],
    };
    Policies::Alike(PortRules::These(rules.into()))
}

/// A server and those who ask it for ports.
pub struct Market {
    net: Rc<RefCell<Net>>,
    rng: Rng,
    base: Instant,
    settings: Settings,
    server: Process,
    askers: Vec<Asker>,
    /// When the server gets its next configuration.
    reload_at: Time,
    /// Grants that were told.
    pub granted: usize,
}

impl Market {
    pub fn new(seed: u64) -> Market {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape {
            pipe_bytes: 65_536,
            segment_bytes: 1_448,
            delay: Duration::from_micros(rng.u64(20..40_000)),
            jitter: Duration::from_micros(rng.u64(1..10_000)),
            local_delay: Duration::ZERO,
            short: if rng.bool() { 0.3 } else { 0.0 },
            spurious: 0.0,
            accept_errors: 0.0,
            splice_errors: 0.0,
            instant: 0.0,
            name_delay: Duration::ZERO,
            name_failures: 0.0,
        };
        let local_ports = rng.bool().then_some(Ports { first: 20_016, last: 40_000 });
        let limits = Limits { local_ports, ..Limits::default() };
        let policies = permitted(&mut rng);
        let settings = Settings { plain: false, limits, named: false, policies, probes: false };
        let net = Rc::new(RefCell::new(Net::new(rng.fork(), shape, Line::default())));
        let askers = (0..ASKERS).map(|number| Asker::new(number, rng.fork())).collect();
        let server = Process::new(Host::Server);
        let (base, reload_at, granted) = (Instant::now(), Duration::from_secs(1), 0);
        let mut market = Market { net, rng, base, settings, server, askers, reload_at, granted };
        market.start();
        market
    }

    fn start(&mut self) {
        let rng = self.rng.fork();
        self.server.start(&self.net, self.base, &self.settings, rng);
    }

    /// The same ports are permitted at other addresses.
    fn reload(&mut self) {
        let now = self.net.borrow().now;
        self.reload_at = now + Duration::from_millis(self.rng.u64(50..15_000));
        self.settings.policies = permitted(&mut self.rng);
        self.server.configure(server_config(&self.settings), now);
    }

    /// Another program listens at some ports, or ends.
    fn occupy(&mut self, ports: &BTreeSet<u16>, comes: bool) {
        let mut net = self.net.borrow_mut();
        for at in ports.iter().map(|&port| SocketAddr::new(SERVER_IP, port)) {
            if comes {
                let listener =
                    Listener { host: Host::Outside, slot: 0, backlog: Default::default(), refuses: None };
                net.listeners.entry(at).or_insert(listener);
            } else if net.listeners.get(&at).is_some_and(|listener| listener.host == Host::Outside) {
                net.listeners.remove(&at);
            }
        }
    }

    /// Lives from the first ask until long after the last.
    pub fn live(&mut self) {
        let occupied: BTreeSet<u16> =
            (0..self.rng.usize(..5)).map(|_| self.rng.u16(PERMITTED.first..=PERMITTED.last)).collect();
        self.occupy(&occupied, true);
        let killed = self.rng.bool().then(|| LASTS.mul_f64(self.rng.f64()));
        if let Some(killed) = killed {
            self.advance(killed, true);
            let back = killed + Duration::from_millis(self.rng.u64(..1_000));
            self.server.crash(&self.net, true, back);
        }
        self.advance(LASTS / 2, true);
        self.occupy(&occupied, false);
        self.advance(LASTS, true);
        for asker in &mut self.askers {
            asker.silent_until = asker.silent_until.min(LASTS);
        }
        self.advance(LASTS + ANSWERED + DOUBT, false);
        self.check_open();
        let net = self.net.clone();
        self.askers.iter_mut().for_each(|asker| asker.go(&mut net.borrow_mut()));
        // Each is kept for a day from the moment when its client was lost.
        self.advance(LASTS + DAY - Duration::from_secs(10), false);
        self.advance(LASTS + DAY + Duration::from_secs(60), false);
        let open = self.open();
        assert!(open.is_empty(), "a day after all have left: {open:?}");
    }

    /// The permitted ports at which the server listens.
    fn open(&self) -> BTreeSet<u16> {
        let net = self.net.borrow();
        let ours = net.listeners.iter().filter(|(_, listener)| listener.host == Host::Server);
        ours.map(|(at, _)| at.port()).filter(|&port| PERMITTED.contains(port)).collect()
    }

    /// Everybody is answered, and what was granted is open.
    fn check_open(&self) {
        let open = self.open();
        for asker in &self.askers {
            for (number, ask) in &asker.asks {
                assert!(!matches!(ask.answer, Answer::Since(_)), "{} {number} {ask:?}", asker.number);
            }
            for (ask, ports) in asker.held() {
                assert!(ports.iter().all(|port| open.contains(&port)), "{} {ask:?}: {open:?}", asker.number);
            }
        }
    }

    /// An asker was told that it has something.
    fn check_granted(&self, asker: &Asker, number: u32) {
        let (now, ask) = (self.net.borrow().now, &asker.asks[&number]);
        let Answer::Granted(ports) = ask.answer else { return };
        match ask.want {
            Want::Ports(wanted) => assert_eq!(ports, wanted, "{ask:?}"),
            _ => assert!(ports.count() == 1 && PERMITTED.contains(ports.first), "{ask:?}"),
        }
        if asker.is_in_doubt(now) {
            return;
        }
        for other in self.askers.iter().filter(|it| it.number != asker.number && !it.is_in_doubt(now)) {
            for (its, held) in other.held().filter(|(_, held)| held.overlaps(ports)) {
                let same = other.key == asker.key && its.publication == ask.publication && held == ports;
                assert!(
                    same && its.share && ask.share,
                    "{} has {its:?}, and {} has {ask:?} at {now:?}",
                    other.number,
                    asker.number
                );
            }
        }
    }

    fn advance(&mut self, until: Time, acts: bool) {
        loop {
            let net = self.net.clone();
            net.borrow_mut().deliver_due();
            self.server.note_events(&net, &mut self.rng);
            if self.server.turn(&net, &mut self.rng) {
                self.start();
            }
            self.server.facts.clear();
            net.borrow_mut().take_marked_outside();
            if acts && self.reload_at <= net.borrow().now {
                self.reload();
            }
            for index in 0..self.askers.len() {
                let now = net.borrow().now;
                let granted = self.askers[index].hear(&mut net.borrow_mut());
                self.granted += granted.len();
                for number in granted {
                    self.check_granted(&self.askers[index], number);
                }
                let asker = &mut self.askers[index];
                for (number, ask) in asker.asks.iter().filter(|_| !asker.is_in_doubt(now)) {
                    let late = matches!(ask.answer, Answer::Since(at) if at + ANSWERED < now);
                    assert!(!late || asker.leaves, "{} waits for {number}: {ask:?}", asker.number);
                }
                if acts && asker.at <= now {
                    asker.act(&mut net.borrow_mut());
                }
            }
            let net = net.borrow();
            let (now, mut next) = (net.now, until);
            next = next.min(net.next_due().unwrap_or(until)).min(self.server.due(&net).unwrap_or(until));
            if acts {
                next = self.askers.iter().map(|asker| asker.at).fold(next.min(self.reload_at), Time::min);
            }
            let busy = net.kernels[Host::Outside.index()].has_events() || next <= now;
            drop(net);
            if busy && now < until {
                continue;
            }
            if now >= until {
                return;
            }
            self.net.borrow_mut().now = next;
            trace::set_now(next);
        }
    }
}
