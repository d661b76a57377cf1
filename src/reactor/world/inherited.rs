//! Listeners that the service manager opened for this process (sd_listen_fds(3)): it names them by their addresses, as
//! any other listener of ours.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::os::fd::FromRawFd;
use std::os::fd::{OwnedFd, RawFd};

#[cfg(target_os = "linux")]
use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Domain, SockRef, Type};

use crate::base::address::Listen;

/// The first of them; the others follow.
const FIRST: RawFd = 3;

/// Listeners that were handed to this process and have no use yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Inherited {
    /// Takes those that the environment speaks of, if it speaks to this process. What is no listener of TCP is closed,
    /// and told.
    ///
    /// It is called once, before anything else: a second call would take descriptors that belong to others by then.
    pub fn of_environment() -> (Inherited, Vec<String>) {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        match (number("LISTEN_PID"), number("LISTEN_FDS")) {
            (Some(pid), Some(count)) if pid == std::process::id() => Inherited::of(count),
            _ => Default::default(),
        }
    }

    fn of(count: u32) -> (Inherited, Vec<String>) {
        let (mut listeners, mut others) = (Vec::new(), Vec::new());
        let numbers = i32::try_from(count).ok().and_then(|count| FIRST.checked_add(count));
        for number in FIRST..numbers.unwrap_or(FIRST) {
            // One that is not open ends the list, however long that was said to be.
            let Some(descriptor) = adopt(number) else { break };
            match listener(descriptor) {
                Ok(found) => listeners.push(found),
                Err(error) => others.push(format!("descriptor {number} is no listener of TCP: {error}")),
            }
        }
        (Inherited(listeners), others)
    }

    /// The listener at this place, if it was handed over.
    pub fn take(&mut self, at: Listen) -> Option<(SocketAddr, TcpListener)> {
        let is_there = |address: &SocketAddr| match at {
            Listen::At(at) => at == *address,
            // Of one for both families and one for IPv4, the first serves both.
            Listen::Any(port) => address.port() == port && address.ip().is_unspecified() && port != 0,
        };
        let mut places = (0..self.0.len()).filter(|&place| is_there(&self.0[place].0));
        let first = places.clone().find(|&place| self.0[place].0.is_ipv6()).or_else(|| places.next())?;
        Some(self.0.remove(first))
    }

    /// Parts them: those at these places, and the others.
    pub fn part(mut self, places: impl Iterator<Item = Listen>) -> (Inherited, Inherited) {
        let wanted = places.filter_map(|at| self.take(at)).collect();
        (Inherited(wanted), self)
    }

    /// The addresses of those that have no use.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|(address, _)| *address)
    }
}

/// Owns a descriptor from now on, and closes it in programs that this one starts. `None` if it is not open.
#[cfg(target_os = "linux")]
fn adopt(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: the call reads flags, and fails where no such descriptor is open (fcntl(2)).
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the service manager left it to this process (LISTEN_PID is its number). Nothing else owns
    // it, because it was open before this process began, and is adopted once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // It cannot fail on a descriptor that is open.
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    Some(descriptor)
}

#[cfg(not(target_os = "linux"))]
fn adopt(_: RawFd) -> Option<OwnedFd> {
    None
}

/// A descriptor as a listener that never blocks.
fn listener(descriptor: OwnedFd) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = SockRef::from(&descriptor);
    let is_tcp = [Domain::IPV4, Domain::IPV6].contains(&socket.domain()?) && socket.r#type()? == Type::STREAM;
    if !is_tcp || !socket.is_listener()? {
        return Err(io::Error::other("it does not listen for connections of TCP"));
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("it has no address of IP"))?;
    Ok((address, descriptor.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn at(text: &str) -> Listen {
        Listen::At(text.parse().expect("an address"))
    }

    #[test]
    fn a_listener_is_found_by_its_address_once() {
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let entry = |address: &str| (address.parse().expect("an address"), listener());
        let addresses = ["0.0.0.0:443", "[::]:443", "127.0.0.1:80", "[::1]:80"];
        let mut all = Inherited(addresses.iter().map(|address| entry(address)).collect());
        let mut take = |at| all.take(at).map(|(address, _)| address.to_string());
        assert_eq!(take(Listen::Any(80)), None);
        assert_eq!(take(Listen::Any(443)).as_deref(), Some("[::]:443"));
        assert_eq!(take(at("127.0.0.1:80")).as_deref(), Some("127.0.0.1:80"));
        assert_eq!(take(at("127.0.0.1:80")), None);
        assert_eq!(take(at("0.0.0.0:443")).as_deref(), Some("0.0.0.0:443"));
        assert_eq!(take(Listen::Any(443)), None);
        assert_eq!(all.addresses().map(|it| it.to_string()).collect::<Vec<_>>(), ["[::1]:80"]);
    }

    #[test]
    fn what_listens_for_tcp_is_taken_and_nothing_else() {
        let listening = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listening.local_addr().expect("bound");
        let number = listening.into_raw_fd();
        let adopted = adopt(number).expect("it is open");
        assert_eq!(listener(adopted).expect("it listens").0, address);
        let connected = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert!(listener(adopt(connected.into_raw_fd()).expect("it is open")).is_err());
        assert!(adopt(RawFd::MAX).is_none());
    }
}
