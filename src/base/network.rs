//! Sets of addresses, as `203.0.113.0/24` and `2001:db8::/32` name them (RFC 4632, RFC 4291).

use std::collections::BinaryHeap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A network: all addresses that share its first bits. IPv4 counts as IPv4-mapped IPv6, so both compare alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    first: u128,
    last: u128,
}

/// The bits of an address; IPv4 is mapped into IPv6.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

impl Network {
    /// Whether an address belongs to it.
    pub fn contains(self, ip: IpAddr) -> bool {
        (self.first..=self.last).contains(&bits(ip))
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
        let all = if ip.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|&length| length <= all).ok_or(BadNetwork)?
            }
            Some(_) => return Err(BadNetwork),
            None => all,
        };
        let rest = (1u128).checked_shl(all - length).map_or(u128::MAX, |end| end - 1);
        Ok(Network { first: bits(ip) & !rest, last: bits(ip) | rest })
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
                Some(before) if network.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(network.last);
                }
                _ => apart.push(network),
            }
        }
        Networks(apart.into())
    }

    /// All addresses.
    pub fn all() -> Networks {
        Networks::of(vec![Network { first: 0, last: u128::MAX }])
    }

    /// Whether an address belongs to one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let behind = self.0.partition_point(|network| network.first <= bits(ip));
        behind.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|network| network.contains(ip))
    }
}

impl Networks {
    /// The fewest networks that have these addresses and no other.
    pub fn shown(&self) -> Vec<String> {
        self.0.iter().flat_map(|range| pieces(range.first, range.last)).collect()
    }
}

/// The networks that a range of addresses consists of, from its first: each as large as its bits allow.
fn pieces(first: u128, last: u128) -> Vec<String> {
    let mut next = Some(first);
    let mut shown = Vec::new();
    while let Some(begin) = next.filter(|&begin| begin <= last) {
        let fits = |bits: &u32| {
            let rest = 1u128.checked_shl(*bits).map_or(u128::MAX, |end| end - 1);
            begin & rest == 0 && last - begin >= rest
        };
        let bits = (0..=128).rev().find(fits).unwrap_or(0);
        let ip = Ipv6Addr::from_bits(begin);
        shown.push(match (ip.to_canonical(), bits) {
            (ip, 0) => ip.to_string(),
            (IpAddr::V4(ip), 1..=32) => format!("{ip}/{}", 32 - bits),
            (_, _) => format!("{ip}/{}", 128 - bits),
        });
        next = 1u128.checked_shl(bits).and_then(|size| begin.checked_add(size));
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
        let all = networks(&["::/0"]);
        assert!(all.contains(ip("::1")) && all.contains(ip("192.0.2.1")));
        assert!(!Networks::of(Vec::new()).contains(ip("::1")));
        assert!(Networks::all().contains(ip("::")) && Networks::all().contains(ip("192.0.2.1")));
    }

    #[test]
    fn networks_are_shown_as_few_as_they_are() {
        let some =
            networks(&["10.0.0.0/9", "10.128.0.0/9", "192.0.2.7", "2001:db8::/32", "::1", "198.51.100.2/31"]);
        assert_eq!(some.shown(), ["::1", "10.0.0.0/8", "192.0.2.7", "198.51.100.2/31", "2001:db8::/32"]);
        assert_eq!(Networks::all().shown(), ["::/0"]);
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
