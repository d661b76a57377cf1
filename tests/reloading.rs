//! A server's configuration changes while it runs, on real sockets.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use skyorg::base::address::Listen;
use skyorg::base::clocks::Clocks;
use skyorg::base::name::Name;
use skyorg::config::limits::Limits;
use skyorg::config::policy::UserRules;
use skyorg::config::{Key, Policies, ServerConfig, Service};
use skyorg::machine::{Configuration, Fact, Input};
use skyorg::reactor::Reactor;
use skyorg::reactor::world::mio_network::MioNetwork;
use skyorg::server::Server;
use skyorg::wire::handshake::Secret;

/// One test at a time: a place that is taken over is free for a moment, and the system may give its port to another test
/// that asks for any.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tenth of this is promised; a test shares its machine with others.
const RELOAD_MAX: Duration = Duration::from_millis(500);

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn at(port: u16) -> Listen {
    Listen::At((Ipv4Addr::LOCALHOST, port).into())
}

fn config(services: Vec<Service>) -> ServerConfig {
    ServerConfig {
        services,
        policies: Policies::default(),
        message: at(0),
        control: at(0),
        keys: vec![Key { name: name("office"), secret: Secret::new([7; 32]) }],
        plain: false,
        limits: Limits::default(),
    }
}

struct Running(Reactor<Server, MioNetwork>);

impl Running {
    fn start(config: ServerConfig) -> Running {
        let limits = Arc::new(config.limits.clone());
        let clocks = Clocks { now: Instant::now(), wall: SystemTime::now() };
        let machine = Server::new(config, limits.clone(), [1; 16], fastrand::Rng::new(), clocks);
        let network = MioNetwork::new().expect("epoll works");
        let mut reactor = Reactor::new(machine, network, limits, fastrand::Rng::new());
        reactor.begin();
        Running(reactor)
    }

    /// What came of a configuration, and how long that took.
    fn reload(&mut self, config: ServerConfig) -> (String, Duration) {
        let begun = Instant::now();
        let (config, source, wall) = (Arc::new(config), "server.toml".into(), self.0.wall());
        self.0.tell(Input::Configure(Box::new(Configuration::Server { config, source, wall })));
        loop {
            let told =
                self.0.facts().find(|it| matches!(it, Fact::Reloaded { .. } | Fact::ReloadRefused { .. }));
            if let Some(fact) = told {
                return (fact.to_string(), begun.elapsed());
            }
            assert!(self.0.turn().expect("epoll works"), "it goes on");
        }
    }

    /// Where the users of a service connect.
    fn address(&self, service: &str) -> SocketAddr {
        let machine = self.0.machine();
        let its = |it: &&skyorg::server::Listener| machine.service_name(it) == Some(&name(service));
        let found = machine.listeners().iter().find(its).and_then(|it| it.address());
        found.expect("the service listens")
    }
}

fn refuses(address: SocketAddr) -> bool {
    match TcpStream::connect(address) {
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
        // It was reset between its handshake and the end of the listener.
        Ok(mut stream) => stream.read(&mut [0]).is_err(),
    }
}

#[test]
fn a_thousand_services_come_and_go_in_no_time() {
    let _alone = alone();
    let few = || vec![Service::new(name("web"), at(0))];
    let many = || (0..1_000).map(|it| Service::new(name(&format!("service{it}")), at(0))).chain(few());
    let mut running = Running::start(config(few()));
    for _ in 0..3 {
        let (told, came) = running.reload(config(many().collect()));
        assert_eq!(told, "reloaded server.toml: 1000 services added");
        let (told, same) = running.reload(config(many().collect()));
        assert_eq!(told, "reloaded server.toml: nothing changed");
        let (told, went) = running.reload(config(few()));
        assert_eq!(told, "reloaded server.toml: 1000 services removed");
        println!("1,000 services: came in {came:?}, stayed in {same:?}, went in {went:?}");
        assert!(came.max(same).max(went) < RELOAD_MAX);
    }
}

#[test]
fn a_place_that_overlaps_the_one_before_takes_its_port_over_and_gives_it_back() {
    let _alone = alone();
    let mut running = Running::start(config(vec![Service::new(name("web"), at(0))]));
    let port = running.address("web").port();
    for place in [Listen::Any(port), at(port), Listen::Any(port)] {
        let (told, _) = running.reload(config(vec![Service::new(name("web"), place)]));
        assert_eq!(told, "reloaded server.toml: 1 service changed", "{place}");
        assert_eq!(running.0.machine().listeners().iter().count(), 3);
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    }
}

#[test]
fn a_place_that_cannot_be_had_leaves_the_one_that_it_overlaps_as_it_was() {
    let _alone = alone();
    let mut running = Running::start(config(vec![Service::new(name("web"), Listen::Any(0))]));
    let (port, taken) = (running.address("web").port(), std::net::TcpListener::bind("127.0.0.1:0"));
    let taken = taken.and_then(|it| Ok((it.local_addr()?.port(), it))).expect("a port");
    let mut service = Service::new(name("web"), at(port));
    for (place, refused) in [(at(taken.0), true), (Listen::At(([192, 0, 2, 1], port).into()), true)] {
        service.listen = vec![at(port), place];
        let (told, _) = running.reload(config(vec![service.clone()]));
        assert_eq!(told.starts_with("refused server.toml: cannot listen on "), refused, "{told}");
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens as before");
    }
}

#[test]
fn a_service_that_nobody_serves_refuses_users_if_it_is_told_to_and_keeps_its_port() {
    let _alone = alone();
    let web = |close_when_unserved| {
        let rules = UserRules { close_when_unserved, ..UserRules::default() };
        config(vec![Service { rules, ..Service::new(name("web"), at(0)) }])
    };
    let mut running = Running::start(web(false));
    let address = running.address("web");
    for _ in 0..2 {
        running.reload(web(true));
        assert!(refuses(address), "nobody serves it");
        let others = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        assert_ne!(others.local_addr().expect("it has one").port(), address.port());
        running.reload(web(false));
        // The next turn of the loop has it listen again.
        assert!(running.0.turn().expect("epoll works"), "it goes on");
        TcpStream::connect(address).expect("it listens again");
    }
}
