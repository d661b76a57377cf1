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

/// What may be taken of a port.
#[derive(PartialEq, Eq, Hash)]
enum Spot {
    /// Any address of it.
    Some,
    /// All interfaces.
    All,
    /// One address, with the number of its interface.
    One(IpAddr, u32),
}

impl Places {
    /// Adds one.
    pub fn add(&mut self, at: Listen, said: Option<usize>, whom: String) {
        self.0.push(Wanted { at, said, whom });
    }

    /// Adds those for message and control connections, which may be one place: a client says what it comes for.
    pub fn add_clients(
        &mut self,
        message: Option<(Listen, Option<usize>)>,
        control: Option<(Listen, Option<usize>)>,
    ) {
        let mut all: Vec<_> = message.map(|it| (it, "message")).into_iter().collect();
        all.extend(control.map(|it| (it, "control")));
        // The one that a file says first is first; a default is before both.
        if let [first, second] = &mut all[..]
            && second.0.1 < first.0.1
        {
            std::mem::swap(first, second);
        }
        all.dedup_by_key(|&mut ((at, _), _)| at);
        for ((at, said), whom) in all {
            self.add(at, said, format!("{whom} connections"));
        }
    }

    /// Tells of each place that overlaps with an earlier one, in the order of the text.
    #[cold]
    pub fn tell_overlaps(self, faults: &mut Collector) {
        for (first, second) in self.overlaps() {
            let wanted = "wanted an address of its own, found";
            let (at, place, whom) = (second.said.unwrap_or(0), second.at, &first.whom);
            match first.said {
                Some(said) => faults.tell_clash(at, said, |said| {
                    format!("{wanted} {place}, where {} of {whom} is at {said}", first.at)
                }),
                None => faults
                    .tell(at, || format!("{wanted} {place}, where {} of {whom} is by default", first.at)),
            }
        }
    }

    /// Each place that overlaps with an earlier one, and that one before it: where the port and any address are equal.
    /// All interfaces equal each address.
    #[cold]
    pub fn overlaps(&self) -> Vec<(&Wanted, &Wanted)> {
        let mut taken: HashMap<(u16, Spot), &Wanted> = HashMap::new();
        let mut found = Vec::new();
        // Port 0 is a new port each time.
        for wanted in self.0.iter().filter(|wanted| wanted.at.port() != 0) {
            let port = wanted.at.port();
            let spot = || match wanted.at {
                Listen::At(at) if !at.ip().is_unspecified() => Spot::One(at.ip().to_canonical(), scope(at)),
                _ => Spot::All,
            };
            let earlier = match spot() {
                Spot::One(..) => taken.get(&(port, Spot::All)).or_else(|| taken.get(&(port, spot()))),
                _ => taken.get(&(port, Spot::Some)),
            };
            found.extend(earlier.map(|&earlier| (earlier, wanted)));
            for spot in [Spot::Some, spot()] {
                taken.entry((port, spot)).or_insert(wanted);
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

    #[cold]
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
