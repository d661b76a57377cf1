//! Which ports a key may ask for, and where among them the search for *any* begins.

use std::net::IpAddr;

use blake2::{Blake2s256, Digest};

use crate::base::address::Listen;
use crate::base::name::Name;
use crate::base::ports::{Ports, PortsAt};
use crate::config::policy::PortRules;

/// Where a listener is: an address, or all interfaces.
pub(super) type Place = Option<IpAddr>;

/// What `"*"` means.
const ALL: PortsAt = PortsAt { ip: None, ports: Ports { first: 1024, last: u16::MAX } };

/// An address as it is compared: an unspecified one is all interfaces.
pub(super) fn place(ip: Option<IpAddr>) -> Place {
    ip.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified())
}

/// Where a listener is that was asked for there.
pub(super) fn place_of(at: Listen) -> Place {
    match at {
        Listen::Any(_) => None,
        Listen::At(address) => place(Some(address.ip())),
    }
}

/// The ports that a key may ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Permitted {
    rules: Vec<PortsAt>,
    /// Those that the server chooses from, in the order of the rules, none twice.
    any: Vec<Ports>,
}

impl Permitted {
    /// What these rules permit. The system takes the ports of its own connections from `local`: where any port will
    /// do, it is none of those, unless a rule names no others.
    pub fn new(rules: &PortRules, local: Option<Ports>) -> Permitted {
        let rules = match rules {
            PortRules::All => vec![ALL],
            PortRules::These(rules) => rules.to_vec(),
        };
        let mut any: Vec<Ports> = Vec::new();
        for rule in &rules {
            let within = |local: &Ports| local.first <= rule.ports.first && rule.ports.last <= local.last;
            let local = local.filter(|local| !within(local));
            let mut pieces = vec![rule.ports];
            for other in any.iter().copied().chain(local) {
                pieces = pieces.into_iter().flat_map(|piece| without(piece, other)).collect();
            }
            any.extend(pieces);
        }
        Permitted { rules, any }
    }

    /// The places at which all of these ports are permitted; none if they are not.
    pub fn places(&self, ports: Ports) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.ports.overlaps(ports)) {
            let at = place(rule.ip);
            if !places.contains(&at) && self.is_permitted_at(ports, at) {
                places.push(at);
            }
        }
        // All interfaces are every address as well.
        if places.contains(&None) { vec![None] } else { places }
    }

    /// Whether all of these ports are permitted at each of these places.
    pub fn permits(&self, ports: Ports, places: &[Place]) -> bool {
        let permitted = self.places(ports);
        places.iter().all(|place| permitted.contains(place) || permitted.contains(&None))
    }

    /// Whether these are all places at which all of these ports are permitted, in any order.
    pub fn are(&self, ports: Ports, places: &[Place]) -> bool {
        let permitted = self.places(ports);
        permitted.len() == places.len() && places.iter().all(|place| permitted.contains(place))
    }

    /// Whether rules for this very place name all of these ports between them.
    fn is_permitted_at(&self, ports: Ports, at: Place) -> bool {
        let mut left = vec![ports];
        for rule in self.rules.iter().filter(|rule| place(rule.ip) == at) {
            left = left.into_iter().flat_map(|piece| without(piece, rule.ports)).collect();
        }
        left.is_empty()
    }

    /// How many ports the server chooses from where any will do.
    pub fn count(&self) -> usize {
        self.any.iter().map(|ports| ports.count()).sum()
    }

    /// The ports that the server chooses from for this publication, in the order in which they are tried: from the
    /// one that the names say upwards, and once around.
    pub fn any(&self, key: &Name, publication: &Name) -> Vec<Ports> {
        let Some(mut left) = (first_of(key, publication) as usize).checked_rem(self.count()) else {
            return Vec::new();
        };
        let mut at = 0;
        while left >= self.any[at].count() {
            left -= self.any[at].count();
            at += 1;
        }
        let Ports { first, last } = self.any[at];
        let middle = first + left as u16;
        let mut order = vec![Ports { first: middle, last }];
        order.extend(&self.any[at + 1..]);
        order.extend(&self.any[..at]);
        if middle > first {
            order.push(Ports { first, last: middle - 1 });
        }
        order
    }
}

/// What is left of an order of ports behind this one.
pub(super) fn behind(order: Vec<Ports>, port: u16) -> Vec<Ports> {
    let from = order.iter().position(|ports| ports.contains(port)).unwrap_or(order.len());
    let first = order.get(from).filter(|ports| ports.last > port);
    let rest = order.iter().skip(from + 1).copied();
    first.map(|ports| Ports { first: port + 1, last: ports.last }).into_iter().chain(rest).collect()
}

/// The number that says where the search for *any* begins: the first 4 bytes of BLAKE2s (RFC 7693) over both names with
/// a zero between them. So it is the same after a restart of either side.
fn first_of(key: &Name, publication: &Name) -> u32 {
    let names = [key.as_str().as_bytes(), &[0], publication.as_str().as_bytes()].concat();
    let digest = Blake2s256::digest(names);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// What is left of a range without another one: nothing, one piece or two.
fn without(ports: Ports, other: Ports) -> impl Iterator<Item = Ports> {
    let below = (other.first > ports.first)
        .then(|| Ports { first: ports.first, last: ports.last.min(other.first - 1) });
    let above =
        (other.last < ports.last).then(|| Ports { first: ports.first.max(other.last + 1), last: ports.last });
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> PortRules {
        PortRules::These(texts.iter().map(|text| text.parse().expect("ports")).collect())
    }

    fn permitted(texts: &[&str]) -> Permitted {
        Permitted::new(&rules(texts), None)
    }

    fn ports(text: &str) -> Ports {
        text.parse().expect("ports")
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn at(ip: &str) -> Place {
        Some(ip.parse().expect("an address"))
    }

    #[test]
    fn what_is_left_of_a_range_is_what_the_other_does_not_hold() {
        for (other, left) in [
            ("1-9", &["10-20"][..]),
            ("1-15", &["16-20"]),
            ("12-15", &["10-11", "16-20"]),
            ("15-30", &["10-14"]),
            ("21-30", &["10-20"]),
            ("10-20", &[]),
            ("1-65535", &[]),
        ] {
            let pieces: Vec<String> =
                without(ports("10-20"), ports(other)).map(|piece| piece.to_string()).collect();
            assert_eq!(pieces, left, "{other}");
        }
    }

    #[test]
    fn a_range_is_permitted_where_rules_of_one_address_name_all_of_it() {
        let some = permitted(&["8080", "20000-20499", "20500-20999", "192.0.2.1:443", "192.0.2.2:443-500"]);
        assert_eq!(some.places(ports("20400-20600")), [None]);
        assert_eq!(some.places(ports("443")), [at("192.0.2.1"), at("192.0.2.2")]);
        assert_eq!(some.places(ports("443-444")), [at("192.0.2.2")]);
        for forbidden in ["8079-8080", "20999-21000", "442", "1-65535"] {
            assert!(some.places(ports(forbidden)).is_empty(), "{forbidden}");
        }
        assert_eq!(permitted(&["192.0.2.1:443", "0.0.0.0:443"]).places(ports("443")), [None]);
        assert!(permitted(&[]).places(ports("8080")).is_empty());
    }

    #[test]
    fn everything_is_what_needs_no_right_of_its_own() {
        let all = Permitted::new(&PortRules::All, None);
        assert_eq!((all.places(ports("1024-65535")), all.count()), (vec![None], 64_512));
        assert!(all.places(ports("1023")).is_empty());
    }

    #[test]
    fn any_begins_where_the_names_say_and_goes_once_around() {
        let some = permitted(&["100-109", "105-119", "50"]);
        assert_eq!(some.count(), 21);
        let begins: Vec<u16> = (0..200)
            .map(|number| {
                let order = some.any(&name("office"), &name(&format!("p{number}")));
                let all: Vec<u16> = order.iter().flat_map(|ports| ports.iter()).collect();
                let circle: Vec<u16> = (100..=119).chain([50]).collect();
                let from = circle.iter().position(|&port| port == all[0]).expect("one of them");
                assert_eq!(all, [&circle[from..], &circle[..from]].concat());
                all[0]
            })
            .collect();
        assert!(circle_is_used(&begins), "{begins:?}");
        assert!(permitted(&[]).any(&name("a"), &name("b")).is_empty());
    }

    #[test]
    fn behind_a_port_of_an_order_are_those_that_are_tried_after_it() {
        let order = || vec![ports("104-109"), ports("50"), ports("100-103")];
        let left =
            |port| behind(order(), port).into_iter().map(|ports| ports.to_string()).collect::<Vec<_>>();
        assert_eq!(left(104), ["105-109", "50", "100-103"]);
        assert_eq!(left(109), ["50", "100-103"]);
        assert_eq!(left(102), ["103"]);
        assert!(left(103).is_empty() && left(7).is_empty());
    }

    fn circle_is_used(begins: &[u16]) -> bool {
        (100..=119).chain([50]).all(|port| begins.contains(&port))
    }

    #[test]
    fn the_beginning_is_the_same_for_ever() {
        // By another implementation: Python's hashlib.blake2s(b"office\0preview").
        assert_eq!(first_of(&name("office"), &name("preview")), 1_688_459_132);
        assert_ne!(first_of(&name("a"), &name("b")), first_of(&name("b"), &name("a")));
        let some = permitted(&["20000-20999"]);
        assert_eq!(some.any(&name("office"), &name("preview"))[0].first, 20_132);
    }

    #[test]
    fn any_is_no_port_of_the_system_s_own_connections_unless_a_rule_names_no_other() {
        let local = Some(ports("32768-60999"));
        let count = |texts: &[&str]| Permitted::new(&rules(texts), local).count();
        assert_eq!(count(&["32000-33000"]), 768);
        assert_eq!(count(&["60000-61000"]), 1);
        assert_eq!(count(&["40000-40999"]), 1_000, "it lies wholly within");
        assert_eq!(Permitted::new(&PortRules::All, local).count(), 64_512 - 28_232);
        let all = Permitted::new(&rules(&["32000-33000"]), local);
        assert_eq!(all.places(ports("32900")), [None], "whoever asks for it gets it");
    }
}
