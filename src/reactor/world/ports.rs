//! Local ports of dialled connections, from small windows of the system's range.
//!
//! Where users close first, this host keeps the port of each proxy connection for a minute (TIME_WAIT, RFC 9293). With
//! thousands of them connect(2) walks over the whole range for a free port: 1.6 ms a call, where 18,000 of 28,000 ports
//! are taken. In a window it looks at few ports, and a second window is drawn where the first has none free. So a dial
//! costs the same at any load, and where no port is left it fails at once.
//!
//! The option is Linux's since 6.3 (ip(7), `IP_LOCAL_PORT_RANGE`), and no crate offers it. An older system ignores all
//! of this.
#![allow(unsafe_code)]

use std::fs;
use std::io;

use socket2::Socket;

use super::options::Options;
use crate::base::ports::Ports;

/// Ports in a window.
const WINDOW: u16 = 64;
/// Windows that are tried for one connection. With 19 of 20 ports taken, all of them fail once in 10^11 dials.
const WINDOWS: usize = 8;
/// Where Linux says which local ports it gives (ip(7)).
const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The ports that the system takes for connections that are dialled, if it says so.
pub fn local_ports() -> Option<Ports> {
    parse(&fs::read_to_string(RANGE_FILE).unwrap_or_default())
}

/// Draws windows for dialled connections.
pub(super) struct Windows {
    range: Option<Ports>,
    random: fastrand::Rng,
}

impl Windows {
    /// Reads the system's range, once. One that is no larger than a window is left to the system.
    pub fn new() -> Windows {
        let range = local_ports().filter(|range| range.count() > usize::from(WINDOW));
        Windows { range, random: fastrand::Rng::new() }
    }

    /// Connects a socket, with a local port from a window; `connect` may be called several times.
    pub fn connect(
        &mut self,
        socket: &Socket,
        options: &mut Options,
        mut connect: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(range) = self.range else { return connect() };
        let mut outcome = Ok(());
        for _ in 0..WINDOWS {
            let first = self.random.u16(range.first..=range.last - (WINDOW - 1));
            let mut is_set = false;
            options.try_to("IP_LOCAL_PORT_RANGE", || {
                set_range(socket, Ports { first, last: first + (WINDOW - 1) })?;
                is_set = true;
                Ok(())
            });
            if !is_set {
                self.range = None;
                return connect();
            }
            outcome = connect();
            let full = outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable);
            if !full {
                break;
            }
        }
        outcome
    }
}

/// Reads two port numbers.
fn parse(text: &str) -> Option<Ports> {
    let mut numbers = text.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) else { return None };
    (first > 0 && last >= first).then_some(Ports { first, last })
}

/// Sets the range from which connect(2) takes the local port.
#[cfg(target_os = "linux")]
fn set_range(socket: &Socket, range: Ports) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    /// From linux/in.h; of level IPPROTO_IP for IPv6 sockets, too.
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
    let value = u32::from(range.last) << 16 | u32::from(range.first);
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads as many bytes of `value` as
    // the length says, which is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            IP_LOCAL_PORT_RANGE,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn set_range(_: &Socket, _: Ports) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

    fn dial(windows: &mut Windows, to: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        windows.connect(&socket, &mut Options::default(), || socket.connect(&to.into()))?;
        Ok(socket.local_addr()?.as_socket().expect("an IP address"))
    }

    #[test]
    fn a_connection_gets_a_port_of_the_system_s_range() {
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = TcpListener::bind(SocketAddr::new(ip, 0)) else { continue };
            let mut windows = Windows::new();
            let whole = windows.range;
            let port = dial(&mut windows, listener.local_addr().expect("bound")).expect("it listens").port();
            if let Some(range) = whole {
                assert!(range.contains(port), "{port}");
            }
        }
    }

    #[test]
    fn a_window_without_a_free_port_gives_way_to_another() {
        let mut windows = Windows { range: Some(Ports { first: 40_000, last: 50_000 }), ..Windows::new() };
        let mut calls = 0;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let mut outcomes = |failures| {
            calls = 0;
            let outcome = windows.connect(&socket, &mut Options::default(), || {
                calls += 1;
                if calls > failures { Ok(()) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
            });
            (outcome.map_err(|error| error.kind()), calls)
        };
        // An older system has no windows, and is asked once.
        if outcomes(1).1 > 1 {
            assert_eq!(outcomes(3), (Ok(()), 4));
            assert_eq!(outcomes(99), (Err(io::ErrorKind::AddrNotAvailable), WINDOWS), "it fails at once");
        }
    }

    #[test]
    fn the_range_is_two_ports() {
        assert_eq!(parse("32768\t60999\n"), Some(Ports { first: 32_768, last: 60_999 }));
        for text in ["", "x y", "1024", "60999 32768", "0 60999", "1 65536"] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
