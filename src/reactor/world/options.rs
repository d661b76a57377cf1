//! The options of sockets. What the rules of sessions need fails a socket where the system does not have it (socket(7),
//! tcp(7)). Everything else is tried: emulated and sandboxed systems do without some of it, and it is told once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use socket2::SockRef;

use crate::machine::{Fault, Needed, OptionFailed};

/// With this, a user or local server that vanished without a FIN or RST is noticed after about three minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 3;
/// A probe may take the longest round trip to be answered, whatever the heartbeat is.
const SILENCE_MIN: Duration = Duration::from_secs(30);

/// Bytes that a socket holds and has not sent (tcp(7), `TCP_NOTSENT_LOWAT`). The kernel would hold megabytes of a
/// stream whose reader has stopped. Measured where `tcp_wmem` ends at 4 MiB and `tcp_rmem` at 32 MiB: a session that
/// was stalled from its beginning pinned 9 to 11 MiB in our four sockets and pins 1 to 4 MiB now; one that was fast
/// before pinned 35 to 65 MiB and pins 17 to 21 MiB. It costs no throughput over loopback: a gigabyte takes 1.5 s of
/// both processes' time, and took 1.7 s. What is left was received and not read. Only the kernel can bound it
/// (`net.ipv4.tcp_rmem`): a smaller receive buffer would slow down long paths.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Congestion control of connections within this host (tcp(7), `TCP_CONGESTION`), which no router can congest. Where
/// the system's choice is BBR, they would be paced by a timer per packet: a gigabyte of spliced bulk then takes 1.6 s
/// of both processes' time, and 0.6 s like this. Every process may choose this one, and every kernel has it.
const UNPACED: &[u8] = b"reno";

/// Which side of a connection a socket is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is accepted, or accepts: what a listener has costs nothing per connection.
    Accepted,
    /// It is dialled, and keeps the system's interval and count of keepalive: that saves two calls per session.
    Dialled,
}

/// Sets options, and remembers which of them this system does not have.
#[derive(Default)]
pub struct Options {
    /// Each with what the system said when it was first tried.
    missing: Vec<(&'static str, Fault)>,
    /// So many of them were told of.
    told: usize,
}

impl Options {
    /// The options of every connection, set before it is made: nothing waits for more bytes, a peer that vanished is
    /// noticed, and close(2) sends RST and drops what was not sent (linger 0, socket(7)), as it must when the process
    /// is killed in mid-session. `address` is its own or its peer's.
    pub fn set(&mut self, socket: &SockRef, address: SocketAddr, way: Way) -> io::Result<()> {
        unpace(socket, address);
        needed(Needed::Linger, socket.set_linger(Some(Duration::ZERO)))?;
        self.try_to("TCP_NODELAY", || socket.set_tcp_nodelay(true));
        self.try_to("TCP_NOTSENT_LOWAT", || socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
        self.try_to("SO_KEEPALIVE", || socket.set_keepalive(true));
        let socket = &**socket;
        self.try_to("TCP_KEEPIDLE", || Ok(set_tcp_keepidle(socket, KEEPALIVE_IDLE)?));
        if way == Way::Accepted {
            self.try_to("TCP_KEEPINTVL", || Ok(set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?));
            self.try_to("TCP_KEEPCNT", || Ok(set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?));
        }
        Ok(())
    }

    /// The options of an accepted connection. Linux hands on the listener's own (tcp(7)); others may not. But a
    /// listener on all interfaces does not know which peers will connect.
    pub fn set_accepted(&mut self, socket: &SockRef, peer: SocketAddr) -> io::Result<()> {
        if cfg!(target_os = "linux") {
            unpace(socket, peer);
            return Ok(());
        }
        self.set(socket, peer, Way::Accepted)
    }

    /// Sets an option that is good to have, unless this system does not have it.
    pub fn try_to(&mut self, name: &'static str, set: impl FnOnce() -> io::Result<()>) {
        if self.missing.iter().any(|&(missing, _)| missing == name) {
            return;
        }
        if let Err(error) = set() {
            self.missing.push((name, error.into()));
        }
    }

    /// An option that was found missing and not told of.
    pub fn next_missing(&mut self) -> Option<(&'static str, Fault)> {
        let missing = self.missing.get(self.told).copied()?;
        self.told += 1;
        Some(missing)
    }
}

/// Asks a peer that was silent for this time, at least [`SILENCE_MIN`], whether it is there, and gives it up after as
/// long again. Where the system
/// has no such option, [`Options`] has told of it.
pub fn keep_alive(socket: &impl AsFd, silence: Duration) {
    let silence = silence.max(SILENCE_MIN);
    let interval = silence / KEEPALIVE_PROBES;
    let _ = set_tcp_keepidle(socket, silence);
    let _ = set_tcp_keepintvl(socket, interval);
    let _ = set_tcp_keepcnt(socket, KEEPALIVE_PROBES);
}

/// Names an option without which a socket is of no use.
pub fn needed(option: Needed, outcome: io::Result<()>) -> io::Result<()> {
    outcome.map_err(|error| io::Error::new(error.kind(), OptionFailed { option, error }))
}

/// Turns off pacing for a connection within this host.
fn unpace(socket: &SockRef, address: SocketAddr) {
    if cfg!(target_os = "linux") && address.ip().to_canonical().is_loopback() {
        // If this fails, the system's own choice stays.
        let _ = socket.set_tcp_congestion(UNPACED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    const HERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    #[test]
    fn a_socket_has_all_options_where_the_system_has_them() {
        let mut options = Options::default();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        options.set(&SockRef::from(&socket), HERE.into(), Way::Accepted).expect("what is needed is there");
        assert_eq!(options.next_missing(), None);
        assert!(socket.tcp_nodelay().expect("readable") && socket.keepalive().expect("readable"));
        assert_eq!(socket.linger().expect("readable"), Some(Duration::ZERO));
        assert_eq!(socket.tcp_keepalive_time().expect("readable"), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().expect("readable"), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().expect("readable"), KEEPALIVE_PROBES);
        if cfg!(target_os = "linux") {
            let congestion = socket.tcp_congestion().expect("readable");
            assert!(congestion.starts_with(UNPACED), "{congestion:?} within this host");
        }
    }

    /// A datagram socket lingers, and has no option of TCP, like a stream socket of an emulated system.
    #[test]
    fn options_that_are_good_to_have_fail_no_socket_and_are_told_once() {
        let mut options = Options::default();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        for way in [Way::Accepted, Way::Dialled, Way::Accepted] {
            options.set(&SockRef::from(&socket), HERE.into(), way).expect("what is needed is there");
        }
        let mut told = Vec::new();
        while let Some((name, fault)) = options.next_missing() {
            assert!(fault.to_string().contains("os error"), "{fault}");
            told.push(name);
        }
        assert_eq!(
            told,
            ["TCP_NODELAY", "TCP_NOTSENT_LOWAT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"]
        );
        assert_eq!(socket.linger().expect("readable"), Some(Duration::ZERO));
    }

    #[test]
    fn an_option_that_is_needed_is_named_where_it_fails() {
        let failed =
            needed(Needed::Linger, Err(io::ErrorKind::Unsupported.into())).expect_err("it is missing");
        assert!(failed.to_string().starts_with("SO_LINGER: "), "{failed}");
    }
}
