//! Addresses as people write them: where to listen, and what to dial.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// All interfaces, IPv6 and IPv4, at this port.
    Any(u16),
    /// One address.
    At(SocketAddr),
}

impl Listen {
    /// One address. What is IPv4-mapped is the IPv4 address: no IPv6 socket that leaves IPv4 alone takes it.
    pub fn at(address: SocketAddr) -> Listen {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Listen::At((ip, address.port()).into()),
            IpAddr::V6(_) => Listen::At(address),
        }
    }

    /// The TCP port; 0 is any free one.
    pub fn port(self) -> u16 {
        match self {
            Listen::Any(port) => port,
            Listen::At(address) => address.port(),
        }
    }

    /// Whether both take one connection: the port and any address are the same, and a wildcard is all of them. Port 0
    /// is another one each time.
    pub fn overlaps(self, other: Listen) -> bool {
        let ip = |it: Listen| match it {
            Listen::At(address) if !address.ip().is_unspecified() => Some(address.ip().to_canonical()),
            _ => None,
        };
        let alike = ip(self).zip(ip(other)).is_none_or(|(one, another)| one == another);
        alike && self.port() == other.port() && self.port() != 0
    }
}

/// An IPv6 address with the name of its interface, and a port: `[fe80::1%eth0]:80` (RFC 4007, section 11). Only the
/// system knows the interface's number.
pub struct Zoned<'t> {
    /// `fe80::1%eth0`.
    pub host: &'t str,
    /// TCP port; 0 is any free one.
    pub port: u16,
}

impl<'t> Zoned<'t> {
    /// Reads such an address; `None` if the text is another one.
    pub fn parse(text: &'t str) -> Option<Zoned<'t>> {
        let (host, port) = text.strip_prefix('[')?.split_once("]:")?;
        let (address, zone) = host.split_once('%')?;
        address.parse::<Ipv6Addr>().ok().filter(|_| !zone.is_empty())?;
        read_port(port).map(|port| Zoned { host, port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Any(port) => write!(f, "*:{port}"),
            Listen::At(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = BadAddress;

    /// Reads `PORT`, `:PORT` or `*:PORT` as all interfaces, `IP:PORT` and `[IPv6]:PORT` as one address. `localhost` is
    /// loopback (RFC 6761, section 6.3): its IPv4 address, because that is there on every host and is tried by all who
    /// connect to the name.
    fn from_str(text: &str) -> Result<Listen, BadAddress> {
        let port = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
        match (read_port(port), text.parse()) {
            (Some(port), _) => Ok(Listen::Any(port)),
            (None, Ok(address)) => Ok(Listen::at(address)),
            (None, Err(_)) => {
                let named = text.rsplit_once(':').filter(|(host, _)| is_localhost(host));
                let port = named.and_then(|(_, port)| read_port(port)).ok_or(BadAddress::Listen)?;
                Ok(Listen::At((Ipv4Addr::LOCALHOST, port).into()))
            }
        }
    }
}

/// An address by which connections are counted. An IPv6 host owns at least a /64, so a /64 counts as one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(u128);

impl Origin {
    /// Where a connection from this address counts.
    pub fn of(peer: SocketAddr) -> Origin {
        Origin(match peer.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        })
    }
}

/// A host and a port to dial: `db.lan:5432`, `[::1]:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or a numeric address, without brackets. A clone shares the text.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

impl HostPort {
    /// Reads `HOST:PORT`, `IPv4:PORT` or `[IPv6]:PORT`. Without a host (`PORT`, `:PORT`) or without a port it
    /// is the default, if there is one.
    pub fn parse(text: &str, host: Option<&str>, port: Option<u16>) -> Result<HostPort, BadAddress> {
        if text.contains('/') {
            return Err(BadAddress::Slash);
        }
        let (found_host, found_port) = split_host(text, host.is_some())?;
        let host = if found_host.is_empty() { host.ok_or(BadAddress::NoHost)? } else { found_host };
        let port = match found_port {
            Some(digits) => read_port(digits).filter(|&port| port > 0).ok_or(BadAddress::Port)?,
            // Not one in brackets, whose port is missing as that of a name.
            None if port.is_none() && text.parse::<Ipv6Addr>().is_ok() => return Err(BadAddress::Brackets),
            None => port.ok_or(BadAddress::NoPort)?,
        };
        Ok(HostPort { host: host.into(), port })
    }

    /// The addresses, if they are known without a resolver: those of a numeric host, and of `localhost` and all names
    /// below it (RFC 6761, section 6.3). None if the name must be asked for.
    pub fn known(&self) -> Vec<SocketAddr> {
        let ips = match self.host.parse::<IpAddr>() {
            Ok(ip) => vec![ip.to_canonical()],
            Err(_) if is_localhost(&self.host) => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Err(_) => Vec::new(),
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// Whether a name is `localhost` or below it, in any case, with the root's dot or without.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A socket address in little space: 18 bytes instead of 32. An IPv4 address is mapped into IPv6; a scope is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedAddress {
    ip: [u8; 16],
    port: [u8; 2],
}

impl From<SocketAddr> for PackedAddress {
    fn from(address: SocketAddr) -> PackedAddress {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        PackedAddress { ip: ip.octets(), port: address.port().to_be_bytes() }
    }
}

impl From<PackedAddress> for SocketAddr {
    fn from(packed: PackedAddress) -> SocketAddr {
        let ip = Ipv6Addr::from(packed.ip).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes(packed.port))
    }
}

/// What is wrong with an address: what was wanted and how to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddress {
    /// Not a place to listen.
    Listen,
    /// No interface of this system has the name that stands behind `%`.
    Zone,
    /// A URL or a path.
    Slash,
    /// Nothing before the port.
    NoHost,
    /// Not a host name and not an address.
    Host,
    /// Nothing after the host.
    NoPort,
    /// An IPv6 address whose last part may be meant as a port.
    Brackets,
    /// Not a TCP port.
    Port,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listen => {
                "wanted PORT, or IP:PORT, such as 8080, 127.0.0.1:8080 or [::1]:8080"
            }
            Self::Zone => {
                "no network interface of this host has the name behind '%', or the address is not one of a link, such \
                 as [fe80::1%eth0]:8080"
            }
            Self::Slash => "wanted HOST:PORT, such as localhost:8080; leave out http:// and any path",
            Self::NoHost => "the host is missing: wanted HOST:PORT, such as db.lan:5432",
            Self::Host => {
                "the host is not a name, an IPv4 address or an IPv6 address in brackets, such as [::1]:8080"
            }
            Self::NoPort => "the port is missing: wanted HOST:PORT, such as db.lan:5432",
            Self::Brackets => "wanted brackets around an IPv6 address in front of its port, such as [::1]:8080",
            Self::Port => "the port is not a number from 1 to 65535",
        })
    }
}

/// Digits only: Rust's own parser takes a sign.
fn read_port(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Whether it is an IPv6 address, with a zone (`fe80::1%eth0`) or without. Whether a network interface has that name is
/// for the resolver to judge; a character that none may have, or that ends an address, is in no zone.
fn is_ipv6(host: &str) -> bool {
    let is_ill =
        |one: char| matches!(one, '/' | ':' | '%' | '[' | ']') || one.is_whitespace() || one.is_control();
    let (address, zone) = host.split_once('%').unwrap_or((host, ""));
    address.parse::<Ipv6Addr>().is_ok() && !zone.contains(is_ill)
}

/// The host without brackets, and the text of the port if there is one. Where a host may be left out, digits
/// alone are a port.
fn split_host(text: &str, digits_are_port: bool) -> Result<(&str, Option<&str>), BadAddress> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(BadAddress::Host)?;
        if !is_ipv6(host) {
            return Err(BadAddress::Host);
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BadAddress::Port),
        };
    }
    if is_ipv6(text) {
        return Ok((text, None));
    }
    if digits_are_port && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(("", Some(text)));
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // RFC 1035, section 2.3.4: a name has at most 255 bytes on the wire, 253 as text.
    if host.len() <= 253 && host.bytes().all(good) { Ok((host, port)) } else { Err(BadAddress::Host) }
}

/// The addresses to try for [`Listen::Any`], best first: dual stack, then IPv4 where there is no IPv6.
pub fn any_addresses(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_listen_is_read_in_all_its_forms() {
        for text in ["8080", ":8080", "*:8080"] {
            assert_eq!(text.parse(), Ok(Listen::Any(8080)), "{text:?}");
        }
        assert_eq!("0".parse(), Ok(Listen::Any(0)));
        for text in ["127.0.0.1:0", "0.0.0.0:8080", "[::1]:8080", "[::]:65535"] {
            let address = text.parse().expect("a socket address");
            assert_eq!(text.parse(), Ok(Listen::At(address)), "{text:?}");
            assert_eq!(Listen::At(address).to_string(), text);
        }
        for text in ["localhost:8080", "LocalHost.:8080"] {
            assert_eq!(text.parse::<Listen>(), "127.0.0.1:8080".parse(), "{text:?}");
        }
        for (mapped, plain) in [("[::ffff:192.0.2.7]:80", "192.0.2.7:80"), ("[::ffff:0:0]:80", "0.0.0.0:80")]
        {
            assert_eq!(mapped.parse::<Listen>(), plain.parse(), "{mapped}");
        }
        for text in [
            "",
            ":",
            "*",
            "*:",
            "+80",
            "65536",
            "localhost",
            "db.lan:80",
            "::1:80",
            "127.0.0.1",
            "[::1]",
            "80 ",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(BadAddress::Listen), "{text:?}");
        }
    }

    #[test]
    fn places_overlap_where_one_connection_could_come_to_both() {
        let at = |text: &str| text.parse::<Listen>().expect("a place");
        for (one, another, overlap) in [
            ("443", "127.0.0.1:443", true),
            ("[::]:443", "127.0.0.1:443", true),
            ("0.0.0.0:443", "443", true),
            ("127.0.0.1:443", "127.0.0.1:443", true),
            ("127.0.0.1:443", "127.0.0.2:443", false),
            ("443", "444", false),
            ("0", "0", false),
        ] {
            assert_eq!(at(one).overlaps(at(another)), overlap, "{one} {another}");
            assert_eq!(at(another).overlaps(at(one)), overlap, "{another} {one}");
        }
    }

    #[test]
    fn an_address_with_the_name_of_an_interface_is_told_from_others() {
        let zoned = Zoned::parse("[fe80::1%eth0]:0").expect("one");
        assert_eq!((zoned.host, zoned.port), ("fe80::1%eth0", 0));
        for text in ["[::1]:80", "[fe80::1%]:80", "[fe80::1%eth0]", "fe80::1%eth0:80", "[x%eth0]:80", "80"] {
            assert!(Zoned::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn localhost_and_numbers_are_known_without_a_resolver() {
        let known = |host: &str| HostPort { host: host.into(), port: 80 }.known();
        let loopback = ["127.0.0.1:80", "[::1]:80"].map(|text| text.parse().expect("an address"));
        for name in ["localhost", "LocalHost", "localhost.", "db.localhost", "a.b.localhost."] {
            assert_eq!(known(name), loopback, "{name}");
        }
        for same in ["192.0.2.1", "::ffff:192.0.2.1"] {
            assert_eq!(known(same), ["192.0.2.1:80".parse().expect("an address")], "{same}");
        }
        for name in ["localhost.example", "mylocalhost", "db.lan", "fe80::1%eth0", "."] {
            assert_eq!(known(name), [], "{name}");
        }
    }

    #[test]
    fn a_packed_address_is_the_same_address() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:65535", "[::]:0"] {
            let address: SocketAddr = text.parse().expect("a socket address");
            assert_eq!(SocketAddr::from(PackedAddress::from(address)), address);
        }
        assert_eq!(size_of::<PackedAddress>(), 18);
    }

    #[test]
    fn a_host_and_port_are_read_and_printed_alike() {
        for (text, host, port) in [
            ("db.lan:5432", "db.lan", 5432),
            ("my_host-1:1", "my_host-1", 1),
            ("10.0.0.1:80", "10.0.0.1", 80),
            ("[::1]:80", "::1", 80),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ] {
            let read = HostPort::parse(text, None, None).expect(text);
            assert_eq!(read, HostPort { host: host.into(), port });
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn what_may_be_left_out_is_the_default() {
        let local = |text| HostPort::parse(text, Some("localhost"), None).map(|read| read.to_string());
        assert_eq!(local("8080").as_deref(), Ok("localhost:8080"));
        assert_eq!(local(":8080").as_deref(), Ok("localhost:8080"));
        assert_eq!(local("web:80").as_deref(), Ok("web:80"));
        assert_eq!(local("web"), Err(BadAddress::NoPort));
        assert_eq!((local("70000"), local("0")), (Err(BadAddress::Port), Err(BadAddress::Port)));
        let server = |text| HostPort::parse(text, None, Some(33335)).map(|read| read.to_string());
        assert_eq!(server("example.org").as_deref(), Ok("example.org:33335"));
        assert_eq!(server("example.org:1").as_deref(), Ok("example.org:1"));
        assert_eq!(server("::1").as_deref(), Ok("[::1]:33335"));
        assert_eq!(server("fe80::1%eth0").as_deref(), Ok("[fe80::1%eth0]:33335"));
        for text in ["::1%[::1]:80", "::1%a:80", "::1%a%b", "[::1%a b]:80", "[::1%a/b]"] {
            assert!(server(text).is_err(), "{text}: no interface has such a name");
        }
        assert_eq!(server("[::1]").as_deref(), Ok("[::1]:33335"));
        assert_eq!(server(":1"), Err(BadAddress::NoHost));
    }

    #[test]
    fn a_bad_address_says_which_part_is_bad() {
        for (text, expected) in [
            ("", BadAddress::NoHost),
            (":80", BadAddress::NoHost),
            ("host", BadAddress::NoPort),
            ("[::1]", BadAddress::NoPort),
            ("::1:80", BadAddress::Brackets),
            ("host:", BadAddress::Port),
            ("host:0", BadAddress::Port),
            ("host:+1", BadAddress::Port),
            ("host:65536", BadAddress::Port),
            ("host:80:80", BadAddress::Port),
            ("[::1]80", BadAddress::Port),
            ("[::1", BadAddress::Host),
            ("[host]:80", BadAddress::Host),
            ("my host:80", BadAddress::Host),
            ("h\u{f6}st:80", BadAddress::Host),
            ("http://host:80", BadAddress::Slash),
            ("host:80/path", BadAddress::Slash),
        ] {
            assert_eq!(HostPort::parse(text, None, None), Err(expected), "{text:?}");
        }
    }
}
