//! How a loop closes many connections that one input has ended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use skyorg::base::address::Listen;
use skyorg::base::id::{ConnId, ListenerId, ServiceId};
use skyorg::config::limits::Limits;
use skyorg::machine::{CloseReason, Door, Input, Machine, Manner, Output, Survey};
use skyorg::reactor::Reactor;

use super::line::Line;
use super::network::VirtualNetwork;
use super::tcp::{Host, Net, Shape, Time};
use super::world::{SERVER_IP, request_address};

const USERS: usize = 1_000;
/// Most that one turn closes, if nobody comes in it.
const AT_ONCE: usize = 32;

/// It lets everybody in until somebody looks. Then all have to go, and so has everybody who comes.
#[derive(Default)]
struct Bouncer {
    users: BTreeSet<ConnId>,
    is_over: bool,
    outputs: VecDeque<Output>,
}

impl Bouncer {
    fn close(&mut self, id: ConnId) {
        self.outputs.push_back(Output::Close { id, reason: CloseReason::Removed, manner: Manner::Reset });
    }
}

impl Machine for Bouncer {
    fn handle(&mut self, input: Input, _: Instant) {
        match input {
            Input::Accepted { id, .. } => {
                self.users.insert(id);
                if self.is_over {
                    self.close(id);
                }
            }
            Input::Look => {
                self.is_over = true;
                self.users.clone().into_iter().for_each(|id| self.close(id));
            }
            Input::GiveUp => self.outputs.push_back(Output::Exit),
            Input::Closed { id, .. } => drop(self.users.remove(&id)),
            _ => {}
        }
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn survey(&self, _: &mut Survey, _: usize) {}
}

struct Stage {
    net: Rc<RefCell<Net>>,
    reactor: Reactor<Bouncer, VirtualNetwork>,
}

impl Stage {
    /// A loop that has so many users, at one listener.
    fn with(users: usize) -> Stage {
        let shape = Shape {
            pipe_bytes: 65_536,
            segment_bytes: 1_448,
            delay: Duration::from_micros(20),
            jitter: Duration::ZERO,
            local_delay: Duration::ZERO,
            short: 0.0,
            spurious: 0.0,
            accept_errors: 0.0,
            splice_errors: 0.0,
            instant: 0.0,
            name_delay: Duration::ZERO,
            name_failures: 0.0,
        };
        let net = Rc::new(RefCell::new(Net::new(Rng::with_seed(1), shape, Line::default())));
        let network = VirtualNetwork {
            net: net.clone(),
            host: Host::Server,
            base: Instant::now(),
            address: SocketAddr::new(SERVER_IP, 0),
            names: BTreeMap::new(),
            answered: BTreeSet::new(),
        };
        let (id, service) = (ListenerId::new(0, 1), ServiceId::new(0, 1));
        let door = Door::Users(service.expect("it can be named"));
        let (id, at) = (id.expect("it can be named"), Listen::At(request_address(0)));
        let machine = Bouncer { outputs: [Output::Listen { id, at, door }].into(), ..Bouncer::default() };
        let mut reactor = Reactor::new(machine, network, Limits::default().into(), Rng::with_seed(1));
        reactor.begin();
        let mut stage = Stage { net, reactor };
        (0..users).for_each(|_| stage.connect());
        while stage.users() < users {
            stage.turn();
        }
        stage
    }

    fn connect(&self) {
        let (from, to) = (SocketAddr::new(SERVER_IP, 60_000), request_address(0));
        self.net.borrow_mut().connect(Host::Outside, from, to);
    }

    /// A turn, a millisecond later; false if it was the last.
    fn turn(&mut self) -> bool {
        self.net.borrow_mut().now += Time::from_millis(1);
        self.net.borrow_mut().deliver_due();
        self.reactor.turn().expect("the virtual poll never fails")
    }

    /// Whether the last poll was not to wait.
    fn polled_at_once(&self) -> bool {
        self.net.borrow().kernels[Host::Server.index()].asked == Some(Duration::ZERO)
    }

    fn users(&self) -> usize {
        self.reactor.machine().users.len()
    }
}

#[test]
fn a_thousand_that_are_closed_at_once_go_a_few_in_each_turn() {
    let mut stage = Stage::with(USERS);
    stage.reactor.tell(Input::Look);
    for turn in 1..=USERS.div_ceil(AT_ONCE) {
        stage.turn();
        assert_eq!(stage.users(), USERS.saturating_sub(turn * AT_ONCE));
        assert!(stage.users() == 0 || stage.polled_at_once(), "the rest is work");
    }
    stage.turn();
    assert!(!stage.polled_at_once());
}

#[test]
fn they_are_no_more_though_others_come_that_have_to_go() {
    let mut stage = Stage::with(USERS);
    stage.reactor.tell(Input::Look);
    let mut before = USERS;
    while stage.users() > 0 {
        (0..20).for_each(|_| {
            if before > AT_ONCE {
                stage.connect()
            }
        });
        stage.turn();
        assert!(stage.users() == 0 || stage.users() + AT_ONCE == before, "{} of {before}", stage.users());
        before = stage.users();
    }
}

#[test]
fn a_loop_that_ends_closes_all_of_them_before() {
    let mut stage = Stage::with(USERS);
    stage.reactor.tell(Input::Look);
    stage.reactor.tell(Input::GiveUp);
    assert!(!stage.turn());
    assert_eq!((stage.users(), stage.reactor.connection_count()), (0, 0));
}
