//! Sets of addresses, as `203.0.113.0/24` and `2001:db8::/32` name them (RFC 4632, RFC 4291).

use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Bits in front of an IPv4 address that is mapped into IPv6.
const MAPPED: u32 = 96;

/// A network: all addresses that share its first bits. An IPv4-mapped address is its IPv4 address, and every IPv4
/// address is less than any of IPv6. So no network of one family has addresses of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    first: IpAddr,
    last: IpAddr,
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// How many bits all addresses of the same family have.
fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS }
}

/// The address of these bits, of the same family as another one.
fn like(other: IpAddr, bits: u128) -> IpAddr {
    match other {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The address behind this one in its family, if there is one.
fn next(ip: IpAddr) -> Option<IpAddr> {
    bits(ip).checked_add(1).filter(|&bits| bits <= ones(width(ip))).map(|bits| like(ip, bits))
}

/// As many bits that are set.
fn ones(count: u32) -> u128 {
    1u128.checked_shl(count).map_or(u128::MAX, |end| end - 1)
}

impl Network {
    /// The addresses whose first bits are those of this one.
    fn of(ip: IpAddr, length: u32) -> Network {
        let rest = ones(width(ip) - length);
        Network { first: like(ip, bits(ip) & !rest), last: like(ip, bits(ip) | rest) }
    }

    /// Whether an address belongs to it.
    pub fn contains(self, ip: IpAddr) -> bool {
        (self.first..=self.last).contains(&ip.to_canonical())
    }
}

/// Not a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadNetwork;

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an address, or a network with as many bits as count, such as 203.0.113.0/24 or 2001:db8::/32",
        )
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    /// Reads `ADDRESS` or `ADDRESS/BITS`. Bits of the address behind those that count are ignored.
    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length)));
        let ip: IpAddr = ip.parse().map_err(|_| BadNetwork)?;
        let all = width(ip);
        let length = match length {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|&length| length <= all).ok_or(BadNetwork)?
            }
            Some(_) => return Err(BadNetwork),
            None => all,
        };
        Ok(match (ip, ip.to_canonical()) {
            (IpAddr::V6(_), ipv4 @ IpAddr::V4(_)) if length >= MAPPED => Network::of(ipv4, length - MAPPED),
            _ => Network::of(ip, length),
        })
    }
}

/// A set of addresses. Whether one belongs to it takes as many steps as the count of networks has binary digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Arc<[Network]>);

impl Networks {
    /// All addresses of these networks.
    pub fn of(networks: Vec<Network>) -> Networks {
        let networks = BinaryHeap::from(networks).into_sorted_vec();
        let mut apart: Vec<Network> = Vec::with_capacity(networks.len());
        for network in networks {
            match apart.last_mut() {
                Some(before) if network.first <= before.last || next(before.last) == Some(network.first) => {
                    before.last = before.last.max(network.last);
                }
                _ => apart.push(network),
            }
        }
        Networks(apart.into())
    }

    /// All addresses.
    pub fn all() -> Networks {
        let families = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        Networks(families.map(|ip| Network::of(ip, 0)).into())
    }

    /// Whether an address belongs to one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let behind = self.0.partition_point(|network| network.first <= ip.to_canonical());
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|network| network.contains(ip))
    }
}

impl Networks {
    /// The fewest networks that have these addresses and no other.
    pub fn shown(&self) -> Vec<String> {
        self.0.iter().flat_map(|&range| pieces(range)).collect()
    }
}

/// The networks that a range of addresses consists of, from its first: each as large as its bits allow.
fn pieces(range: Network) -> Vec<String> {
    let (last, width) = (bits(range.last), width(range.last));
    let mut begin = Some(range.first);
    let mut shown = Vec::new();
    while let Some(first) = begin.filter(|&first| first <= range.last) {
        let fits = |&count: &u32| {
            let rest = ones(count);
            bits(first) & rest == 0 && last - bits(first) >= rest
        };
        let count = (0..=width).rev().find(fits).unwrap_or(0);
        shown.push(if count == 0 { first.to_string() } else { format!("{first}/{}", width - count) });
        begin = next(like(first, bits(first) | ones(count)));
    }
    shown
}

impl Default for Networks {
    fn default() -> Networks {
        Networks::all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks::of(texts.iter().map(|text| text.parse().expect("a network")).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_belongs_to_the_networks_whose_bits_it_shares() {
        let some =
            networks(&["203.0.113.0/24", "10.1.2.3", "2001:db8::/32", "10.0.0.0/9", "198.51.100.77/30"]);
        for inside in [
            "203.0.113.0",
            "203.0.113.255",
            "10.1.2.3",
            "::ffff:10.1.2.3",
            "2001:db8:ffff::1",
            "198.51.100.79",
        ] {
            assert!(some.contains(ip(inside)), "{inside}");
        }
        for outside in ["203.0.112.255", "203.0.114.0", "10.128.0.0", "2001:db9::", "::1", "198.51.100.80"] {
            assert!(!some.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn all_of_one_family_is_not_all_of_the_other() {
        let ipv4 = networks(&["0.0.0.0/0"]);
        assert!(ipv4.contains(ip("255.255.255.255")) && !ipv4.contains(ip("::1")));
        for text in ["::/0", "::/8", "::/64", "::fffe:0:0/95"] {
            let ipv6 = networks(&[text]);
            assert!(ipv6.contains(ip("::fffe:0:1")), "{text}");
            assert!(!ipv6.contains(ip("192.0.2.1")) && !ipv6.contains(ip("::ffff:192.0.2.1")), "{text}");
        }
        for text in ["::ffff:0:0/96", "::ffff:192.0.2.0/120", "::ffff:192.0.2.1"] {
            assert!(networks(&[text]).contains(ip("192.0.2.1")), "{text}");
        }
        assert!(!Networks::of(Vec::new()).contains(ip("::1")));
        assert!(Networks::all().contains(ip("::")) && Networks::all().contains(ip("192.0.2.1")));
    }

    #[test]
    fn networks_are_shown_as_few_as_they_are() {
        let some =
            networks(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.7", "2001:db8::/32", "::1", "198.51.100.2/31"]);
        assert_eq!(some.shown(), ["10.0.0.0/8", "192.0.2.7", "198.51.100.2/31", "::1", "2001:db8::/32"]);
        assert_eq!(networks(&["::/1", "8000::/1", "::ffff:0:0/96"]), Networks::all());
        assert_eq!(Networks::all().shown(), ["0.0.0.0/0", "::/0"]);
        assert_eq!(networks(&["0.0.0.0/0"]).shown(), ["0.0.0.0/0"]);
        assert_eq!(networks(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]).shown(), ["10.0.0.1", "10.0.0.2/31"]);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "10.0.0/8",
            "host",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(BadNetwork), "{bad:?}");
        }
    }
}
