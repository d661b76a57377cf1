//! Ranges of ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A range of ports, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The first one.
    pub first: u16,
    /// The last one, not below the first.
    pub last: u16,
}

impl Ports {
    /// One port.
    pub fn one(port: u16) -> Ports {
        Ports { first: port, last: port }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Whether a port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether some port is one of both.
    pub fn overlaps(self, other: Ports) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// All of them, upwards.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports { first, last } if first == last => write!(f, "{first}"),
            Ports { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

/// Not a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPorts;

impl fmt::Display for BadPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port or a range of ports from 1 to 65535, such as 8080 or 20000-20999")
    }
}

impl FromStr for Ports {
    type Err = BadPorts;

    /// Reads `PORT` or `FIRST-LAST`; port 0 is none.
    fn from_str(text: &str) -> Result<Ports, BadPorts> {
        let port = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten().filter(|&port| port > 0).ok_or(BadPorts)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Ports { first: port(first)?, last: port(last)? };
        if ports.first <= ports.last { Ok(ports) } else { Err(BadPorts) }
    }
}

/// Ports at one address, or at all interfaces: `20000-20999`, `192.0.2.1:20000-20999`, `[::1]:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortsAt {
    /// The address; `None` is all interfaces.
    pub ip: Option<IpAddr>,
    /// The ports.
    pub ports: Ports,
}

impl fmt::Display for PortsAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.ports),
            Some(ip) => write!(f, "{ip}:{}", self.ports),
            None => write!(f, "{}", self.ports),
        }
    }
}

impl FromStr for PortsAt {
    type Err = BadPorts;

    /// Reads `[ADDRESS:]PORTS`, IPv6 in brackets; `*:PORTS` is all interfaces.
    fn from_str(text: &str) -> Result<PortsAt, BadPorts> {
        let Some((host, ports)) = text.rsplit_once(':') else {
            return Ok(PortsAt { ip: None, ports: text.parse()? });
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let ip = match (host, bracketed) {
            ("*", _) => None,
            (_, Some(ipv6)) => Some(IpAddr::V6(ipv6.parse().map_err(|_| BadPorts)?).to_canonical()),
            (ipv4, None) => Some(IpAddr::V4(ipv4.parse().map_err(|_| BadPorts)?)),
        };
        Ok(PortsAt { ip, ports: ports.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!("8080".parse(), Ok(Ports::one(8080)));
        assert_eq!("1-65535".parse(), Ok(Ports { first: 1, last: 65535 }));
        for bad in ["", "0", "0-9", "9-8", "-", "8-", "-8", "1-2-3", "+1", "65536", "1 - 2"] {
            assert_eq!(bad.parse::<Ports>(), Err(BadPorts), "{bad:?}");
        }
        let ports = Ports { first: 20, last: 29 };
        assert_eq!((ports.count(), ports.contains(29), ports.contains(30)), (10, true, false));
        assert_eq!(ports.iter().last(), Some(29));
        let overlap = |text: &str| ports.overlaps(text.parse().expect("ports"));
        assert!(overlap("1-20") && overlap("29") && overlap("22-23") && overlap("1-99"));
        assert!(!overlap("1-19") && !overlap("30-99"));
    }

    #[test]
    fn ports_may_stand_at_one_address() {
        for text in ["20000-20999", "192.0.2.1:443", "[2001:db8::1]:8000-8001"] {
            assert_eq!(text.parse::<PortsAt>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("[::ffff:192.0.2.1]:8-9".parse::<PortsAt>(), "192.0.2.1:8-9".parse());
        assert_eq!("*:80".parse(), Ok(PortsAt { ip: None, ports: Ports::one(80) }));
        for bad in ["host:80", "::1:80", "[192.0.2.1]:80", ":", "192.0.2.1:", "192.0.2.1:0"] {
            assert_eq!(bad.parse::<PortsAt>(), Err(BadPorts), "{bad:?}");
        }
    }
}
