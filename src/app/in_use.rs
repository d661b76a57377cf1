//! Who has a port that a server cannot listen at, as far as Linux tells (proc(5), `/proc/net/tcp`).

use std::fmt;
use std::fs;
use std::io;

/// The tables of this system's TCP sockets.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// A socket that listens (tcp_states.h), as the tables write it.
const LISTENS: &str = "0A";

/// Who has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Another program that listens at it.
    Listener,
    /// This process, which listens at it.
    Own,
    /// A connection that goes out from it, because the system gives such ports to those.
    Connection,
    /// The system does not tell.
    Unknown,
}

impl Holder {
    /// Who has this port now.
    pub fn of(port: u16) -> Holder {
        let tables = TABLES.map(|path| fs::read_to_string(path).unwrap_or_default());
        Holder::read(&tables.concat(), port, &own_sockets())
    }

    /// Reads tables: `sl local_address rem_address st …`, with the port in hexadecimal behind the address and the
    /// socket's number in the tenth column.
    fn read(tables: &str, port: u16, own: &[String]) -> Holder {
        let mut listeners = Vec::new();
        let mut holder = Holder::Unknown;
        for line in tables.lines() {
            let mut words = line.split_whitespace().skip(1);
            let (Some(local), Some(state)) = (words.next(), words.nth(1)) else { continue };
            let found = local.rsplit(':').next().and_then(|digits| u16::from_str_radix(digits, 16).ok());
            match (found == Some(port), state) {
                (false, _) => {}
                (true, LISTENS) => listeners.extend(words.nth(5)),
                (true, _) => holder = Holder::Connection,
            }
        }
        match listeners.is_empty() {
            true => holder,
            false if listeners.iter().any(|&socket| own.iter().any(|own| own == socket)) => Holder::Own,
            false => Holder::Listener,
        }
    }
}

/// The numbers of this process's sockets (proc(5), `/proc/pid/fd`).
fn own_sockets() -> Vec<String> {
    let files = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    let numbers =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()));
    numbers.collect()
}

/// What to do where a port cannot be listened at for a reason of this kind: nothing, or `; ` and a sentence.
pub struct Advice(pub u16, pub io::ErrorKind);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Advice(port, kind) = self;
        match kind {
            io::ErrorKind::AddrInUse => f.write_str("; ")?,
            io::ErrorKind::PermissionDenied if *port < 1024 => {
                return f.write_str("; choose a port above 1023, or run with the right to it");
            }
            io::ErrorKind::AddrNotAvailable => return f.write_str("; choose an address of this host"),
            _ => return Ok(()),
        }
        match Holder::of(*port) {
            Holder::Listener => f.write_str("another program listens there: end it, or choose another port"),
            Holder::Own => f.write_str(
                "this process listens there itself, and closes nothing before all that is new is open: choose another \
                 port, or restart",
            ),
            Holder::Connection => write!(
                f,
                "a connection that goes out from this host has the port: wait for its end or choose another port, and \
                 keep the port free from now on with: sysctl net.ipv4.ip_local_reserved_ports={port}"
            ),
            Holder::Unknown => write!(
                f,
                "end the program that has the port, or choose another; if a connection that goes out from this host \
                 has it, keep it free with: sysctl net.ipv4.ip_local_reserved_ports={port}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn who_has_a_port_is_found_in_the_system_s_tables() {
        if fs::exists(TABLES[0]).is_ok_and(|there| there) {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let at = listener.local_addr().expect("bound");
            let stream = TcpStream::connect(at).expect("it listens");
            assert_eq!(Holder::of(at.port()), Holder::Own);
            let tables = TABLES.map(|path| fs::read_to_string(path).unwrap_or_default()).concat();
            assert_eq!(Holder::read(&tables, at.port(), &[]), Holder::Listener);
            assert_eq!(Holder::of(stream.local_addr().expect("connected").port()), Holder::Connection);
        }
        assert_eq!(Holder::read("no table\n  0: 0100007F:ZZ x 0A\n", 80, &[]), Holder::Unknown);
    }
}
