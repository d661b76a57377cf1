//! What the reactor needs of the world: sockets, a clock, names. The product gives it mio
//! ([`super::mio_network::MioNetwork`]); the simulation gives it a virtual network with seeded faults, so that both
//! run the same loop.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::tcp_info::TcpInfo;
use crate::base::address::{HostPort, Listen};
use crate::base::id::{ConnId, ListenerId, NameId};
use crate::machine::{Fault, Lookup};

/// Connections that the kernel holds for a listener until they are accepted; mio's own listeners have 128.
pub const BACKLOG: i32 = 4096;

/// What a poll reported.
#[derive(Debug)]
pub enum Event {
    /// Readiness of a connection: hints that only set bits; `read`, `write` and `take_error` decide.
    Ready {
        /// The connection's slot. Slots are freed after a batch of events, so that no event is for an earlier
        /// connection in the slot.
        slot: u32,
        /// It may be read.
        readable: bool,
        /// It may be written.
        writable: bool,
        /// Its peer has ended it, or it may hold an error or urgent data: a short read need not be the last.
        ended: bool,
        /// It may hold an error.
        error: bool,
    },
    /// The listener in this slot may have a connection.
    Acceptable(u32),
    /// A name was looked up.
    Resolved(NameId, Lookup),
    /// The operator asked the process to end.
    Terminate,
    /// The operator asked the process to read again what may have changed (SIGHUP).
    HangUp,
    /// The system does not have a socket option that is good to have.
    OptionMissing {
        /// The option.
        name: &'static str,
        /// What the system said.
        fault: Fault,
    },
}

/// One TCP connection, non-blocking and without Nagle's delay.
///
/// Dropping it makes the peer see RST: whatever ends the process, a stream that is not whole never looks whole.
pub trait Socket {
    /// A pipe that bytes can be spliced into and out of.
    type Pipe;
    /// Reads into `out`; 0 is the end of the stream.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize>;
    /// Writes from `slices` in order.
    fn write(&mut self, slices: &[IoSlice]) -> io::Result<usize>;
    /// Writes bytes that the next ones follow at once.
    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Moves at most `limit` bytes into an empty pipe; 0 is the end of the stream.
    fn splice_in(&mut self, pipe: &mut Self::Pipe, limit: usize) -> io::Result<usize>;
    /// Moves at most `held` bytes, all that the pipe holds, to the socket.
    fn splice_out(&mut self, pipe: &mut Self::Pipe, held: usize) -> io::Result<usize>;
    /// A new pipe; `None` if the system gives none.
    fn pipe(&self) -> Option<Self::Pipe>;
    /// Ends the outgoing direction (FIN).
    fn shutdown_write(&mut self) -> io::Result<()>;
    /// Whether a dialled connection stands: `Ok(false)` if it is still on its way.
    fn is_connected(&mut self) -> io::Result<bool>;
    /// Takes the pending error, which reading would then no longer see.
    fn take_error(&mut self) -> Option<io::Error>;
    /// What the kernel knows of it; `None` where it does not say.
    fn tcp_info(&self) -> Option<TcpInfo>;
    /// Has the kernel ask a peer that was silent for this time whether it is still there.
    fn keep_alive(&mut self, silence: Duration);
    /// Closes it in peace: what was sent still arrives, and then an end.
    fn close(self);
}

/// A connection that a listener took.
pub struct Accepted<S> {
    /// The connection.
    pub socket: S,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub asked: SocketAddr,
}

/// Sockets, clock and names.
pub trait Network {
    /// Its connections.
    type Socket: Socket;
    /// Its listeners. Dropping one closes it.
    type Listener;
    /// The time.
    fn now(&mut self) -> Instant;
    /// What the clock on the wall says.
    fn wall(&mut self) -> SystemTime;
    /// How long the system has been suspended so far. It may say less than that, and never says more.
    fn asleep(&mut self) -> Duration;
    /// Waits for events, at most `timeout` (`None`: for ever), and appends them to `events`.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()>;
    /// Listens, and reports under this id's slot; the address has the real port if 0 was asked for.
    fn listen(&mut self, id: ListenerId, at: Listen) -> io::Result<(Self::Listener, SocketAddr)>;
    /// Has a listener refuse whoever comes, without giving its port up. Who waits in its queue is reset.
    fn suspend(&mut self, listener: &mut Self::Listener) -> io::Result<()>;
    /// Has a suspended listener listen again.
    fn resume(&mut self, listener: &mut Self::Listener) -> io::Result<()>;
    /// Takes a connection from a listener.
    fn accept(&mut self, listener: &mut Self::Listener) -> io::Result<Accepted<Self::Socket>>;
    /// Begins to connect.
    fn connect(&mut self, address: SocketAddr) -> io::Result<Self::Socket>;
    /// Reports the socket's readiness, edge-triggered and in both directions, under this id's slot.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;
    /// Fills `bytes` with random bytes that cannot be guessed.
    fn random(&mut self, bytes: &mut [u8]) -> io::Result<()>;
    /// Begins to resolve a name; the answer is an event.
    fn resolve(&mut self, name: NameId, host: HostPort);
}
