//! The real world: mio's epoll, sockets with their options, signals and the resolver.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use super::inherited::Inherited;
use super::network::{Accepted, BACKLOG, Event, Network, Socket};
use super::options::{self, Options, Way, needed};
use super::ports::Windows;
use super::resolver::Resolver;
use super::suspend;
use super::tcp_info::{TcpInfo, tcp_info};
use crate::base::address::{HostPort, Listen, any_addresses};
use crate::base::id::{ConnId, ListenerId, NameId, SLOTS_MAX};
use crate::machine::Needed;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// All kinds of readiness. Urgent data counts: a read stops short at its mark though more bytes follow (tcp(7)).
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// Bytes that a pipe holds.
const PIPE_BYTES: usize = 256 * 1024;
const WAKER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
const ALARM: Token = Token(usize::MAX - 2);
/// Tokens of connections are their slots; those of listeners begin here.
const LISTENERS: usize = SLOTS_MAX as usize;

/// Binds and listens (socket(7), ipv6(7)).
fn listen(at: Listen, options: &mut Options) -> io::Result<(TcpListener, SocketAddr)> {
    let mut bound = |address: SocketAddr| {
        let socket = new_socket(address)?;
        options.try_to("SO_REUSEADDR", || socket.set_reuse_address(true));
        if address.is_ipv6() {
            // All interfaces means both families; one address means itself.
            let only = !address.ip().is_unspecified() || matches!(at, Listen::At(_));
            needed(Needed::V6Only, socket.set_only_v6(only))?;
        }
        options.set(&SockRef::from(&socket), address, Way::Accepted)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    let mut bind = |mut address: SocketAddr| {
        let mut socket = bound(address)?;
        if address.port() == 0
            && let Some(found) = socket.local_addr()?.as_socket()
        {
            // A listener that is suspended gives a port up that was not asked for by its number.
            address.set_port(found.port());
            socket = bound(address)?;
        }
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into());
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    match at {
        Listen::At(address) => bind(address),
        Listen::Any(port) => {
            let [both, v4] = any_addresses(port);
            bind(both).or_else(|error| match error.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
                // No IPv6 on this host.
                _ => bind(v4),
            })
        }
    }
}

/// Has a listener that another process opened be as one of ours.
#[cold]
fn go_on_with(
    listener: std::net::TcpListener,
    address: SocketAddr,
    options: &mut Options,
) -> io::Result<TcpListener> {
    let socket = SockRef::from(&listener);
    options.set(&socket, address, Way::Accepted)?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(listener))
}

/// An IPv4 address as such, though it came through a socket for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn new_socket(address: SocketAddr) -> io::Result<RawSocket> {
    RawSocket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// epoll, listeners, names and signals.
pub struct MioNetwork {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    resolver: Resolver,
    signals: Signals,
    windows: Windows,
    options: Options,
    inherited: Inherited,
    /// What came before the loop began.
    early: Vec<Event>,
    /// Wakes the loop when the system wakes.
    _alarm: Option<OwnedFd>,
}

impl MioNetwork {
    /// Ends a sleep of the loop, from any thread.
    pub fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        wakes(&self.waker)
    }

    /// Where one of these listens already, no other listener is made.
    pub fn inherit(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }

    /// Waits before the loop begins, at most this long; false once the process is asked to end. The loop hears later
    /// what else is asked for.
    #[cold]
    pub fn pause(&mut self, time: Duration) -> io::Result<bool> {
        let mut events = std::mem::take(&mut self.early);
        let outcome = self.poll(&mut events, Some(time));
        self.early = events;
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(!self.early.iter().any(|event| matches!(event, Event::Terminate))),
        }
    }

    /// Watches signals. Those that mean nothing here are watched as well: unwatched, they would end the process.
    pub fn new() -> io::Result<MioNetwork> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
        registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(registry, WAKER)?);
        let resolver = Resolver::new(wakes(&waker));
        let alarm = suspend::alarm();
        if let Some(alarm) = &alarm {
            registry.register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        }
        Ok(MioNetwork {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            resolver,
            signals,
            windows: Windows::new(),
            options: Options::default(),
            inherited: Inherited::default(),
            early: Vec::new(),
            _alarm: alarm,
        })
    }
}

fn wakes(waker: &Arc<Waker>) -> impl Fn() + Send + Sync + use<> {
    let waker = waker.clone();
    move || {
        // It fails only if the counter is full, and then a wake-up is on its way already.
        let _ = waker.wake();
    }
}

/// What an operator asks for by a signal.
fn asked_by(signal: i32) -> Option<Event> {
    match signal {
        SIGTERM | SIGINT => Some(Event::Terminate),
        SIGHUP => Some(Event::HangUp),
        _ => None,
    }
}

/// A listener of mio. Closing or dropping it ends its registration.
pub struct MioListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Network for MioNetwork {
    type Socket = MioSocket;
    type Listener = MioListener;

    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn wall(&mut self) -> SystemTime {
        SystemTime::now()
    }

    fn asleep(&mut self) -> Duration {
        suspend::asleep()
    }

    fn poll(&mut self, out: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = if self.early.is_empty() { timeout } else { Some(Duration::ZERO) };
        out.append(&mut self.early);
        self.poll.poll(&mut self.events, timeout)?;
        for event in &self.events {
            match event.token() {
                WAKER => {
                    let answers = self.resolver.answers().into_iter();
                    out.extend(answers.map(|(name, lookup)| Event::Resolved(name, lookup)));
                }
                // It only ends a sleep.
                ALARM => {}
                SIGNALS => out.extend(self.signals.pending().filter_map(asked_by)),
                Token(place) => out.push(match place.checked_sub(LISTENERS) {
                    Some(slot) => Event::Acceptable(slot as u32),
                    None => Event::Ready {
                        slot: place as u32,
                        readable: event.is_readable() || event.is_read_closed(),
                        writable: event.is_writable() || event.is_write_closed(),
                        ended: event.is_read_closed() || event.is_error() || event.is_priority(),
                        error: event.is_error(),
                    },
                }),
            }
        }
        while let Some((name, fault)) = self.options.next_missing() {
            out.push(Event::OptionMissing { name, fault });
        }
        Ok(())
    }

    fn listen(&mut self, id: ListenerId, at: Listen) -> io::Result<(MioListener, SocketAddr)> {
        let (mut listener, address) = match self.inherited.take(at) {
            Some((address, listener)) => (go_on_with(listener, address, &mut self.options)?, address),
            None => listen(at, &mut self.options)?,
        };
        let token = Token(LISTENERS + id.index());
        self.poll.registry().register(&mut listener, token, Interest::READABLE)?;
        Ok((MioListener { listener, address }, address))
    }

    // A listener that was shut down keeps its port, and whoever connects is refused (Linux: inet_csk_listen_stop).
    fn suspend(&mut self, listener: &mut MioListener) -> io::Result<()> {
        SockRef::from(&listener.listener).shutdown(Shutdown::Both)
    }

    fn resume(&mut self, listener: &mut MioListener) -> io::Result<()> {
        SockRef::from(&listener.listener).listen(BACKLOG)
    }

    fn accept(&mut self, listener: &mut MioListener) -> io::Result<Accepted<MioSocket>> {
        let (stream, peer) = listener.listener.accept()?;
        let peer = canonical(peer);
        self.options.set_accepted(&SockRef::from(&stream), peer)?;
        // Only a listener on all interfaces does not know which address was asked for.
        let asked = if listener.address.ip().is_unspecified() {
            stream.local_addr().map_or(listener.address, canonical)
        } else {
            listener.address
        };
        Ok(Accepted { socket: MioSocket(stream), peer, asked })
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<MioSocket> {
        let socket = new_socket(address)?;
        self.options.set(&SockRef::from(&socket), address, Way::Dialled)?;
        let connect = || socket.connect(&address.into());
        // Within this host the system takes a port again that waits (`tcp_tw_reuse` of ip-sysctl is 2).
        let outcome = match address.ip().to_canonical().is_loopback() {
            true => connect(),
            false => self.windows.connect(&socket, &mut self.options, connect),
        };
        match outcome {
            // The connection is being made (connect(2)).
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
            _ => Ok(MioSocket(TcpStream::from_std(socket.into()))),
        }
    }

    fn register(&mut self, socket: &mut MioSocket, id: ConnId) -> io::Result<()> {
        self.poll.registry().register(&mut socket.0, Token(id.index()), INTEREST)
    }

    fn random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }

    fn resolve(&mut self, name: NameId, host: HostPort) {
        self.resolver.ask(name, host);
    }
}

/// A TCP connection of mio. Closing or dropping it ends its registration.
pub struct MioSocket(TcpStream);

/// Whether a dialled connection has met itself. Where nobody listens at a port from which the system also gives local
/// ports, a dial may get that very port, and both of its ends are then one (simultaneous open, RFC 9293, 3.5).
fn is_itself(peer: SocketAddr, local: SocketAddr) -> bool {
    (peer.ip(), peer.port()) == (local.ip(), local.port())
}

/// A pipe (pipe(2)) for splicing.
pub struct Pipe {
    into: OwnedFd,
    out_of: OwnedFd,
}

impl Socket for MioSocket {
    type Pipe = Pipe;

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }

    fn write(&mut self, slices: &[IoSlice]) -> io::Result<usize> {
        match slices {
            // send(2) costs the kernel less than writev(2).
            [slice] => self.0.write(slice),
            slices => self.0.write_vectored(slices),
        }
    }

    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::MORE)?)
    }

    fn splice_in(&mut self, pipe: &mut Pipe, limit: usize) -> io::Result<usize> {
        Ok(splice(&self.0, None, &pipe.into, None, limit, SpliceFlags::NONBLOCK)?)
    }

    fn splice_out(&mut self, pipe: &mut Pipe, held: usize) -> io::Result<usize> {
        Ok(splice(&pipe.out_of, None, &self.0, None, held, SpliceFlags::NONBLOCK)?)
    }

    fn pipe(&self) -> Option<Pipe> {
        let (out_of, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Without it the pipe is smaller, and works.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Some(Pipe { into, out_of })
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.shutdown(Shutdown::Write)
    }

    fn is_connected(&mut self) -> io::Result<bool> {
        // An error of a connection that stands is met by reading it.
        match self.0.peer_addr() {
            Ok(peer) if is_itself(peer, self.0.local_addr()?) => Err(Errno::CONNREFUSED.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.0.take_error()?.map_or(Ok(false), Err)
            }
            Err(error) => Err(error),
        }
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.0.take_error().ok().flatten()
    }

    fn tcp_info(&self) -> Option<TcpInfo> {
        tcp_info(&self.0)
    }

    fn keep_alive(&mut self, silence: Duration) {
        options::keep_alive(&self.0, silence);
    }

    fn close(self) {
        let _ = SockRef::from(&self.0).set_linger(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream as StdStream};

    #[test]
    fn accepted_and_dialled_connections_have_the_options() {
        let loopback = Listen::At(([127, 0, 0, 1], 0).into());
        let mut network = MioNetwork::new().expect("epoll works");
        let id = |slot| ListenerId::new(slot, 1).expect("it can be named");
        let mut listeners = [(0, loopback), (1, Listen::Any(0))]
            .map(|(slot, at)| network.listen(id(slot), at).expect("a port"));
        let addresses = [0, 1].map(|index| SocketAddr::from(([127, 0, 0, 1], listeners[index].1.port())));
        let users = addresses.map(|address| StdStream::connect(address).expect("connects"));
        let accepted = [0, 1].map(|index| {
            let accepted = network.accept(&mut listeners[index].0).expect("the connection is there");
            assert_eq!(accepted.peer, users[index].local_addr().expect("it has one"));
            assert_eq!(accepted.asked, addresses[index], "the address that was asked for");
            accepted.socket
        });
        let dialled = network.connect(addresses[0]).expect("begins to connect");
        for socket in accepted.iter().chain([&dialled]) {
            let socket = SockRef::from(&socket.0);
            assert!(socket.tcp_nodelay().expect("readable") && socket.keepalive().expect("readable"));
            assert_eq!(socket.linger().expect("readable"), Some(Duration::ZERO));
        }
    }

    #[test]
    fn all_interfaces_means_both_families() {
        let (_listener, address) = listen(Listen::Any(0), &mut Options::default()).expect("a port");
        let port = address.port();
        StdStream::connect(("127.0.0.1", port)).expect("IPv4");
        if address.is_ipv6() {
            StdStream::connect(("::1", port)).expect("IPv6");
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_and_not_another_address() {
        let (_listener, address) = listen(Listen::Any(0), &mut Options::default()).expect("a port");
        let again = listen(Listen::Any(address.port()), &mut Options::default()).map(|bound| bound.1);
        assert_eq!(again.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn a_suspended_listener_refuses_and_its_port_may_be_divided_until_it_listens_again() {
        let mut network = MioNetwork::new().expect("epoll works");
        let id = |slot| ListenerId::new(slot, 1).expect("it can be named");
        let (mut all, address) = network.listen(id(0), Listen::Any(0)).expect("a port");
        let loopback = SocketAddr::from(([127, 0, 0, 1], address.port()));
        assert!(network.listen(id(1), Listen::At(loopback)).is_err(), "a part of it is taken");
        let kind = |connected: io::Result<StdStream>| connected.map(drop).map_err(|error| error.kind());
        for _ in 0..2 {
            network.suspend(&mut all).expect("Linux can");
            assert_eq!(kind(StdStream::connect(loopback)), Err(io::ErrorKind::ConnectionRefused));
            drop(network.listen(id(1), Listen::At(loopback)).expect("nobody listens there"));
            network.resume(&mut all).expect("the port is still ours");
            let user = StdStream::connect(loopback).expect("it listens again");
            let mut events = Vec::new();
            network.poll(&mut events, Some(Duration::ZERO)).expect("epoll works");
            assert!(matches!(events[..], [Event::Acceptable(0)]), "{events:?}");
            let accepted = network.accept(&mut all).expect("the connection is there");
            assert_eq!(accepted.peer, user.local_addr().expect("it has one"));
        }
    }

    #[test]
    fn a_connection_to_itself_is_refused_and_leaves_its_port_free() {
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let nowhere = SocketAddr::new(ip, 0);
            let socket = new_socket(nowhere).expect("a socket");
            if socket.bind(&nowhere.into()).is_err() {
                continue;
            }
            Options::default().set(&SockRef::from(&socket), nowhere, Way::Dialled).expect("they are there");
            let itself = socket.local_addr().expect("bound").as_socket().expect("an IP address");
            let begun = socket.connect(&itself.into()).map_err(|error| Errno::from_io_error(&error));
            assert!(matches!(begun, Ok(()) | Err(Some(Errno::INPROGRESS))), "{begun:?}");
            let mut socket = MioSocket(TcpStream::from_std(socket.into()));
            assert!(socket.0.peer_addr().is_ok(), "it has met itself");
            let met = socket.is_connected().map_err(|error| error.kind());
            assert_eq!(met, Err(io::ErrorKind::ConnectionRefused));
            drop(socket);
            std::net::TcpListener::bind(itself).expect("a reset leaves nothing at the port");
        }
    }
}
