//! From a configuration to a running loop: hands the machine to the reactor, binds the ports, and has the facts heard.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, error, info, warn};

use super::announce::Announcer;
use super::descriptors::{Shortage, fit_descriptors, fit_server};
use super::in_use;
use super::journal;
use super::notify::Notifier;
use super::reload::{News, Opened, Reader, Reload, Reloadable};
use super::report::Report;
use super::standing::Standing;
use super::status::desk;
use super::status::exchange::{Doors, Showing, Wish};
use super::status::view::Head;
use super::status::ways::{WayError, Ways};
use crate::base::address::{Listen, any_addresses};
use crate::base::clocks::Clocks;
use crate::base::name::Name;
use crate::client::Client as ClientMachine;
use crate::config::file::Running;
use crate::config::{ClientConfig, ServerConfig};
use crate::machine::{Advised, Fact, Fault, Input, Machine};
use crate::reactor::Reactor;
use crate::reactor::world::inherited::Inherited;
use crate::reactor::world::mio_network::MioNetwork;
use crate::server::{ListenerState, ListenerUse, Server as ServerMachine};

/// How long an address in use is tried at the start, as those of all other listeners, and how soon again.
const TRY_TIME: Duration = Duration::from_secs(5);
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// Where a server listens.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Each service and the address for its users.
    pub services: Vec<(Name, SocketAddr)>,
    /// Message connections.
    pub message: SocketAddr,
    /// Control connections.
    pub control: SocketAddr,
}

impl Bound {
    /// Where a server's listeners are, if it could listen at all of them.
    fn of(machine: &ServerMachine) -> Result<Bound, StartError> {
        let nowhere = any_addresses(0)[0];
        let mut bound = Bound { services: Vec::new(), message: nowhere, control: nowhere };
        for listener in machine.listeners().iter() {
            let name = machine.service_name(listener);
            let address = match &listener.state {
                ListenerState::Listening(address) | ListenerState::Suspended(address) => *address,
                ListenerState::Asked | ListenerState::InUse => continue,
                ListenerState::Failed(error) => {
                    let what = match (listener.serves, name) {
                        (ListenerUse::Message, _) => "message connections".into(),
                        (ListenerUse::Control, _) => "control connections".into(),
                        (ListenerUse::Clients, _) => "message and control connections".into(),
                        (ListenerUse::Users(_) | ListenerUse::Nobody, name) => {
                            format!("users of service {}", name.map_or("", Name::as_str))
                        }
                    };
                    return Err(StartError::Listen { what, at: listener.at, fault: error.into() });
                }
            };
            match (listener.serves, name) {
                (ListenerUse::Message, _) => bound.message = address,
                (ListenerUse::Control, _) => bound.control = address,
                (ListenerUse::Clients, _) => (bound.message, bound.control) = (address, address),
                (ListenerUse::Users(_) | ListenerUse::Nobody, name) => {
                    bound.services.extend(name.map(|name| (name.clone(), address)));
                }
            }
        }
        Ok(bound)
    }
}

/// Why a server or a client does not start.
#[derive(Debug)]
pub enum StartError {
    /// The server cannot listen.
    Listen {
        /// For whom.
        what: String,
        /// Where.
        at: Listen,
        /// What the system said.
        fault: Fault,
    },
    /// The system does not give what every process of ours needs.
    System(&'static str, Fault),
    /// Nobody could look at the status where that is wanted.
    Way(WayError),
    /// The process was asked to end before it could listen everywhere.
    AskedToEnd,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen { what, at, fault } => {
                let advice = in_use::Advice(at.port(), fault.kind());
                write!(f, "cannot listen on {at} for {what}: {}{advice}", Advised(*fault))
            }
            StartError::System(what, fault) => write!(f, "the system gives no {what}: {}", Advised(*fault)),
            StartError::Way(error) => write!(f, "{error}"),
            StartError::AskedToEnd => f.write_str("asked to end"),
        }
    }
}

/// The network of a process, which hears from now on what is asked of the process.
pub fn network() -> Result<MioNetwork, StartError> {
    MioNetwork::new().map_err(no_events)
}

fn no_events(error: io::Error) -> StartError {
    StartError::System("events", error.into())
}

/// Opens the ways in for those who look, but for a listener that was handed over. An address in use is waited for: a
/// process before this one gives it up as it begins to drain, and a connection that goes out from it ends.
pub fn open(
    ways: &Ways,
    mut handed_over: Option<TcpListener>,
    network: &mut MioNetwork,
) -> Result<Opened, StartError> {
    let mut left = TRY_TIME;
    let metrics = loop {
        match ways.open_metrics(None, handed_over.take()) {
            Err(WayError::Metrics(address, error))
                if error.kind() == io::ErrorKind::AddrInUse && !left.is_zero() =>
            {
                if left == TRY_TIME {
                    warn!("{}", Fact::AddressInUse { at: Listen::At(address), time: left });
                }
                if !network.pause(TRY_INTERVAL).map_err(no_events)? {
                    return Err(StartError::AskedToEnd);
                }
                left = left.saturating_sub(TRY_INTERVAL);
            }
            opened => break opened.map_err(StartError::Way)?,
        }
    };
    let (socket, file) = ways.open_socket(None).map_err(StartError::Way)?;
    Ok((Doors { socket, metrics }, file))
}

/// 16 random bytes that name this process.
fn random_instance() -> Result<[u8; 16], StartError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(|error| {
        let error = error.raw_os_error().map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
        StartError::System("random bytes", error.into())
    })?;
    Ok(instance)
}

/// A server that is bound and not yet running.
pub struct Server {
    bound: Bound,
    shortage: Option<Shortage>,
    reactor: Reactor<ServerMachine, MioNetwork>,
    config: ServerConfig,
    companions: Companions<ServerConfig>,
}

impl Server {
    /// Binds all ports, and waits for some seconds for those that are in use.
    pub fn bind(config: ServerConfig) -> Result<Server, StartError> {
        Server::bind_with(network()?, config, Inherited::default())
    }

    /// The same in this network, with listeners that were handed to this process. Those that have no use are closed,
    /// and told.
    pub fn bind_with(
        mut network: MioNetwork,
        mut config: ServerConfig,
        inherited: Inherited,
    ) -> Result<Server, StartError> {
        let shortage = fit_server(&mut config);
        let limits = Arc::new(config.limits.clone());
        let instance = random_instance()?;
        let services = config.services.iter().flat_map(|service| service.listen.iter().copied());
        let (wanted, others) = inherited.part(services.chain([config.message, config.control]));
        network.inherit(wanted);
        close_unused(others);
        let clocks = Clocks { now: Instant::now(), wall: SystemTime::now() };
        let jitter = fastrand::Rng::new();
        let machine = ServerMachine::new(config.clone(), limits.clone(), instance, jitter, clocks);
        let mut companions = Companions::new(Arc::new(network.waker()), limits.readers_max);
        let mut reactor = Reactor::new(machine, network, limits, fastrand::Rng::new());
        reactor.begin();
        reactor.shut(true);
        while !reactor.machine().listeners().are_settled() {
            match turn(&mut reactor, &mut companions) {
                Ok(true) => {}
                Ok(false) => return Err(StartError::AskedToEnd),
                Err(error) => return Err(no_events(error)),
            }
        }
        let bound = Bound::of(reactor.machine())?;
        reactor.shut(false);
        Ok(Server { bound, shortage, reactor, config, companions })
    }

    /// What an operator is to be warned of: fewer users fit than may come.
    pub fn shortage(&self) -> Option<Shortage> {
        self.shortage
    }

    /// Where it listens; ports are the real ones.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Shows itself to those who look, by these ways, which are open; `file` says all else.
    pub fn show(&mut self, ways: Ways, opened: Opened, file: Option<Arc<str>>) -> Result<(), StartError> {
        self.companions.show(ways, opened, file, self.reactor.wall())
    }

    /// Runs until it is drained, or until the loop itself fails. At SIGHUP `source` is read again by this reader; what
    /// is not the machine's business is as `said` until then.
    pub fn run_and_reload(
        mut self,
        source: Arc<str>,
        said: Running,
        reader: Reader<ServerConfig>,
    ) -> io::Result<()> {
        self.companions.reload(source, (self.config.clone(), said), reader);
        self.companions.notifier = Notifier::of_environment(Standing::of_server(), self.reactor.now());
        self.run()
    }

    /// Runs until it is drained, or until the loop itself fails.
    pub fn run(self) -> io::Result<()> {
        let tell = |sentence: fmt::Arguments<'_>, name: Option<&Name>, address: SocketAddr| {
            journal::tell(Level::Info, sentence, "listening", &|json| {
                match name {
                    Some(name) => json.key("service").text(name.as_str()),
                    None => json.key("for").text("clients"),
                };
                json.key("address").shown(&address);
            });
        };
        for (name, address) in &self.bound.services {
            tell(format_args!("service {name}: users connect to {address}"), Some(name), *address);
        }
        let Bound { message, control, .. } = self.bound;
        tell(format_args!("message connections: {message}"), None, message);
        tell(format_args!("control connections: {control}"), None, control);
        run(self.reactor, self.companions)
    }
}

/// A client that is not yet running.
pub struct Client {
    reactor: Reactor<ClientMachine, MioNetwork>,
    config: ClientConfig,
    companions: Companions<ClientConfig>,
}

impl Client {
    /// Prepares everything but the first attempt to connect.
    pub fn new(config: ClientConfig) -> Result<Client, StartError> {
        Client::new_in(network()?, config)
    }

    /// The same in this network.
    pub fn new_in(network: MioNetwork, mut config: ClientConfig) -> Result<Client, StartError> {
        fit_descriptors(&mut config.limits, 0);
        let instance = random_instance()?;
        let limits = Arc::new(config.limits.clone());
        let (jitter, now) = (fastrand::Rng::new(), Instant::now());
        let machine = ClientMachine::new(config.clone(), limits.clone(), instance, jitter, now);
        let companions = Companions::new(Arc::new(network.waker()), limits.readers_max);
        let reactor = Reactor::new(machine, network, limits, fastrand::Rng::new());
        Ok(Client { reactor, config, companions })
    }

    /// Shows itself to those who look, by these ways, which are open; `file` says all else.
    pub fn show(&mut self, ways: Ways, opened: Opened, file: Option<Arc<str>>) -> Result<(), StartError> {
        self.companions.show(ways, opened, file, self.reactor.wall())
    }

    /// Has it tell on standard output, and in the ready file if there is one, where users connect.
    pub fn announce(&mut self, ready_file: Option<PathBuf>) -> io::Result<()> {
        self.companions.announcer = Some(Announcer::new(&self.config, ready_file)?);
        Ok(())
    }

    /// Runs until it is drained, or until the loop itself fails. At SIGHUP `source` is read again by this reader; what
    /// is not the machine's business is as `said` until then.
    pub fn run_and_reload(
        mut self,
        source: Arc<str>,
        said: Running,
        reader: Reader<ClientConfig>,
    ) -> io::Result<()> {
        let standing = Standing::of_client(self.config.server.to_string(), self.config.publications.len());
        self.companions.notifier = Notifier::of_environment(standing, self.reactor.now());
        self.companions.reload(source, (self.config, said), reader);
        run(self.reactor, self.companions)
    }

    /// Runs until it is drained, or until the loop itself fails.
    pub fn run(self) -> io::Result<()> {
        run(self.reactor, self.companions)
    }
}

/// Those who hear the facts, and what they ask of the loop.
struct Companions<C> {
    report: Report,
    announcer: Option<Announcer>,
    reload: Option<Reload<C>>,
    notifier: Option<Notifier>,
    showing: Option<Showing>,
    /// How those who look come in at the start.
    ways: Option<Ways>,
    /// Most of them at once, of each way in.
    readers_max: usize,
    wake: Wake,
}

/// What wakes the loop from other threads.
type Wake = Arc<dyn Fn() + Send + Sync>;

impl<C> Companions<C> {
    fn new(wake: Wake, readers_max: usize) -> Companions<C> {
        let (announcer, reload, notifier, showing, ways) = (None, None, None, None, None);
        Companions {
            report: Report::default(),
            announcer,
            reload,
            notifier,
            showing,
            ways,
            readers_max,
            wake,
        }
    }

    /// Has those who look be answered.
    fn show(
        &mut self,
        ways: Ways,
        opened: Opened,
        file: Option<Arc<str>>,
        now: SystemTime,
    ) -> Result<(), StartError> {
        let role = ways.role();
        let head = Head { role, since: now, file, configured: now, refused: None, is_draining: false };
        self.showing = Some(begin_to_show(self.wake.clone(), self.readers_max, head, opened)?);
        self.ways = Some(ways);
        Ok(())
    }
}

#[cold]
fn begin_to_show(
    wake: Wake,
    readers_max: usize,
    head: Head,
    (doors, made): Opened,
) -> Result<Showing, StartError> {
    let exchange = desk::start(readers_max, move || wake());
    let exchange = exchange.map_err(|error| StartError::System("thread for the status", error.into()))?;
    let mut showing = Showing::new(exchange, head);
    showing.open(doors, made);
    Ok(showing)
}

impl<C: Reloadable> Companions<C> {
    /// Has `source` be read again at SIGHUP.
    fn reload(&mut self, source: Arc<str>, running: (C, Running), reader: Reader<C>) {
        let (wake, ways) = (self.wake.clone(), self.ways.take());
        self.reload = Some(Reload::new(source, running, ways, reader, move || wake()));
    }
}

/// One turn of the loop, and what it has to tell; false once the machine is done.
fn turn<M: Machine, C: Reloadable>(
    reactor: &mut Reactor<M, MioNetwork>,
    companions: &mut Companions<C>,
) -> io::Result<bool> {
    let Companions { report, announcer, reload, notifier, showing, .. } = companions;
    let turned = reactor.turn();
    if let Some(reload) = reload {
        if reactor.take_hang_up() {
            notifier.iter_mut().for_each(Notifier::reloading);
            reload.begin();
        }
        if let Some(input) = reload.poll() {
            reactor.tell(input);
        }
    }
    let now = reactor.now();
    for mut fact in reactor.facts() {
        // The line about a reload is the first of a new log file.
        reload.iter_mut().for_each(|reload| reload.take(&mut fact));
        showing.iter_mut().for_each(|showing| showing.take(&fact));
        report.take(&fact, now);
        announcer.iter_mut().for_each(|announcer| announcer.take(&fact));
        notifier.iter_mut().for_each(|notifier| notifier.take(&fact));
    }
    report.tell_left_out(now);
    if let Some(News { opened: (doors, file), ready_file }) = reload.as_mut().and_then(Reload::take_news) {
        if let Some(showing) = showing {
            showing.open(doors, file);
        }
        let moved = announcer.as_mut().map(|announcer| announcer.move_ready_file(ready_file));
        if let Some(Err(error)) = moved {
            error!("no thread for the ready file: {error}");
        }
    }
    announcer.iter_mut().for_each(Announcer::settle);
    if let Some(notifier) = notifier {
        if let Some(reload) = reload.as_ref().filter(|reload| notifier.is_reloading() && reload.is_at_rest())
        {
            notifier.ready(reload.refused().map(|refusal| refusal.line.as_str()), now);
        }
        if reactor.is_asked_to_end() {
            notifier.stopping(now);
        }
        notifier.settle(now);
    }
    reload.iter_mut().for_each(|reload| reload.settle(now));
    let due = [notifier.as_ref().and_then(Notifier::due), reload.as_ref().and_then(Reload::due)];
    reactor.wake_at(due.into_iter().flatten().min());
    if let Some(showing) = showing {
        if let Some(reload) = reload {
            showing.note_refused(reload.refused());
        }
        show(reactor, showing);
    }
    turned
}

/// Gathers what those who look have asked for.
fn show<M: Machine>(reactor: &mut Reactor<M, MioNetwork>, showing: &mut Showing) {
    if let Some(Wish { is_look }) = showing.begin() {
        if is_look {
            reactor.tell(Input::Look);
        }
        reactor.begin_survey();
    }
    if let Some(snapshot) = reactor.take_snapshot() {
        showing.deliver(snapshot, reactor.now(), reactor.wall());
    }
}

fn run<M: Machine, C: Reloadable>(
    mut reactor: Reactor<M, MioNetwork>,
    mut companions: Companions<C>,
) -> io::Result<()> {
    if let Some(notifier) = &mut companions.notifier {
        notifier.ready(None, reactor.now());
        notifier.settle(reactor.now());
    }
    // What was asked for before, as a reload while ports were waited for, is done at once.
    reactor.wake_at(Some(reactor.now()));
    let result = loop {
        match turn(&mut reactor, &mut companions) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    reactor.abandon();
    if let Some(announcer) = companions.announcer {
        announcer.close();
    }
    info!("ended");
    result
}

/// Closes listeners that were handed to this process and have no use in it.
#[cold]
pub fn close_unused(inherited: Inherited) {
    for address in inherited.addresses() {
        warn!("the service manager opened {address}, and nothing here listens there: it is closed");
    }
}
