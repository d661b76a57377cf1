//! All places where a server is to listen: no two of them may be one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::fault::Collector;
use crate::base::address::Listen;

/// The places, in the order in which they were said.
#[derive(Debug, Default)]
pub struct Places(Vec<Wanted>);

/// A place and what it is for.
#[derive(Debug)]
pub struct Wanted {
    /// The place.
    pub at: Listen,
    /// Where a file says it; a default stands nowhere.
    pub said: Option<usize>,
    /// Who connects there.
    pub whom: String,
}

/// Who has a port.
#[derive(Default)]
struct Taken<'w> {
    first: Option<&'w Wanted>,
    all: Option<&'w Wanted>,
    one: HashMap<(IpAddr, u32), &'w Wanted>,
}

impl Places {
    /// Adds one.
    pub fn add(&mut self, at: Listen, said: Option<usize>, whom: String) {
        self.0.push(Wanted { at, said, whom });
    }

    /// Adds those for message and control connections, which may be one place: a client says what it comes for.
    pub fn add_clients(&mut self, message: (Listen, Option<usize>), control: (Listen, Option<usize>)) {
        self.add(message.0, message.1, "message connections".to_owned());
        if control.0 != message.0 {
            self.add(control.0, control.1, "control connections".to_owned());
        }
    }

    /// Tells of each place that overlaps with an earlier one, in the order of the text.
    pub fn tell_overlaps(mut self, faults: &mut Collector) {
        self.0.sort_by_key(|wanted| wanted.said);
        for (first, second) in self.overlaps() {
            let at = match first.said {
                Some(place) => format!("at {}", faults.place(place)),
                None => "by default".to_owned(),
            };
            faults.tell(second.said.unwrap_or(0), || {
                let (place, whom) = (second.at, &first.whom);
                format!("wanted an address of its own, found {place}, where {} of {whom} is {at}", first.at)
            });
        }
    }

    /// Each place that overlaps with an earlier one, and that one before it: where the port and any address are equal.
    /// All interfaces equal each address.
    pub fn overlaps(&self) -> Vec<(&Wanted, &Wanted)> {
        let mut ports: HashMap<u16, Taken> = HashMap::new();
        let mut found = Vec::new();
        // Port 0 is a new port each time.
        for wanted in self.0.iter().filter(|wanted| wanted.at.port() != 0) {
            let taken = ports.entry(wanted.at.port()).or_default();
            let address = match wanted.at {
                Listen::At(at) if !at.ip().is_unspecified() => Some((at.ip().to_canonical(), scope(at))),
                _ => None,
            };
            let earlier = match address {
                None => taken.first,
                Some(address) => taken.all.or(taken.one.get(&address).copied()),
            };
            found.extend(earlier.map(|earlier| (earlier, wanted)));
            taken.first.get_or_insert(wanted);
            match address {
                None => _ = taken.all.get_or_insert(wanted),
                Some(address) => _ = taken.one.entry(address).or_insert(wanted),
            }
        }
        found
    }
}

fn scope(at: SocketAddr) -> u32 {
    match at {
        SocketAddr::V6(at) => at.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(places: &[&str]) -> Vec<(usize, usize)> {
        let mut all = Places::default();
        for (number, place) in places.iter().enumerate() {
            all.add(place.parse().expect("a place"), Some(number), String::new());
        }
        all.overlaps()
            .iter()
            .map(|(first, second)| (first.said.unwrap_or(9), second.said.unwrap_or(9)))
            .collect()
    }

    #[test]
    fn places_overlap_where_the_port_and_any_address_are_equal() {
        for one in ["80", "0.0.0.0:80", "[::]:80"] {
            for other in ["80", "[::]:80", "0.0.0.0:80", "192.0.2.1:80", "[::1]:80"] {
                assert_eq!(overlaps(&[one, other]), [(0, 1)], "{one} {other}");
                assert_eq!(overlaps(&[other, one]), [(0, 1)], "{other} {one}");
            }
        }
        assert_eq!(overlaps(&["192.0.2.1:80", "[::ffff:192.0.2.1]:80"]), [(0, 1)]);
        assert_eq!(overlaps(&["192.0.2.1:80", "192.0.2.2:80", "[::1]:80", "81"]), []);
        assert_eq!(overlaps(&["0", "0", "[::1]:0", "[::1]:0"]), []);
        assert_eq!(overlaps(&["[::1]:80", "192.0.2.1:80", "80", "[::1]:80"]), [(0, 2), (2, 3)]);
    }
}
