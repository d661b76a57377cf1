//! Ports that several keys may ask for, and how many of them each key has.
//!
//! A *common* is all ports that the very same keys may ask for, if these are more than one. Those from which the
//! system takes its own connections are a common of their own, because the server chooses none of them where any port
//! will do.
//!
//! A key may have all of a common until three quarters are taken, by whomever. From then on a key gets no more of it
//! that would have more than a quarter. So no key can take all from the others, and one port is still had by one key.
//! A quarter is sure, the rest is lent: once all is taken, ports of a client that is away give way to another key, if
//! its own key has more than a quarter.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::permitted::{Place, place};
use crate::base::name::Name;
use crate::base::ports::{Ports, PortsAt};

/// Ports that the same keys may ask for. A port counts at each place that rules name.
#[derive(Debug, Default)]
struct Common {
    total: usize,
    taken: usize,
    of_key: HashMap<Name, usize>,
}

impl Common {
    fn of(&self, key: &Name) -> usize {
        self.of_key.get(key).copied().unwrap_or(0)
    }

    fn quarter(&self) -> usize {
        self.total.div_ceil(4)
    }

    /// Whether a key may have so many more, if it gives so many of its own and others give so many back.
    fn has_room(&self, key: &Name, change: Change) -> bool {
        let Change { wanted, own, others } = change;
        let taken = (self.taken + wanted).saturating_sub(own + others);
        wanted <= own
            || taken <= self.total - self.quarter()
            || (self.of(key) + wanted).saturating_sub(own) <= self.quarter()
    }
}

/// Ports of one common that change hands.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// Those that a key asks for.
    wanted: usize,
    /// Those that it gives back.
    own: usize,
    /// Those that others give back.
    others: usize,
}

/// Ports that somebody has, or that are nobody's but asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'g> {
    pub key: &'g Name,
    pub ports: Ports,
    pub places: &'g [Place],
}

/// All commons; see the module.
#[derive(Debug, Default)]
pub(super) struct Commons {
    commons: Vec<Common>,
    /// Which common ports are of, at each place that rules name, upwards.
    pieces: BTreeMap<Place, Vec<(Ports, usize)>>,
}

impl Commons {
    /// The commons of keys that may ask for these ports, so many keys for the same. The system takes the ports of its
    /// own connections from `local`. Nothing is taken.
    pub fn new(rules: &[(&[PortsAt], usize)], local: Option<Ports>) -> Commons {
        let mut all = Commons::default();
        let mut known: HashMap<(BTreeSet<usize>, bool), usize> = HashMap::new();
        let places: BTreeSet<Place> =
            rules.iter().flat_map(|it| it.0).map(|rule| place(rule.ip)).chain([None]).collect();
        for at in places {
            let (mut asking, mut edges) = (BTreeMap::<usize, usize>::new(), edges(rules, local, at));
            while let Some((first, changes)) = edges.pop_first() {
                for (asks, begins) in changes {
                    let count = asking.entry(asks).or_default();
                    *count = if begins { *count + 1 } else { count.saturating_sub(1) };
                }
                asking.retain(|_, count| *count > 0);
                let Some((&next, _)) = edges.first_key_value() else { break };
                if asking.keys().map(|&asks| rules[asks].1).sum::<usize>() < 2 {
                    continue;
                }
                let ports = Ports { first: first as u16, last: (next - 1) as u16 };
                let is_local = local.is_some_and(|local| local.contains(ports.first));
                let common =
                    *known.entry((asking.keys().copied().collect(), is_local)).or_insert_with(|| {
                        all.commons.push(Common::default());
                        all.commons.len() - 1
                    });
                all.commons[common].total += ports.count();
                all.pieces.entry(at).or_default().push((ports, common));
            }
        }
        all
    }

    /// How many of these ports are of which common.
    fn parts<'c>(&'c self, ports: Ports, places: &'c [Place]) -> impl Iterator<Item = (usize, usize)> + 'c {
        let is_there = |at: &Place| places.iter().any(|place| place.is_none() || place == at);
        let pieces = self.pieces.iter().filter(move |(at, _)| is_there(at));
        pieces.flat_map(move |(_, pieces)| {
            let from = pieces.partition_point(|piece| piece.0.last < ports.first);
            let common =
                pieces[from..].iter().map_while(move |&(of, common)| Some((of.both(ports)?, common)));
            common.map(|(both, common)| (common, both.count()))
        })
    }

    /// Ports are taken, by this key or by the server itself.
    pub fn take(&mut self, key: Option<&Name>, ports: Ports, places: &[Place]) {
        for (common, count) in self.parts(ports, places).collect::<Vec<_>>() {
            let common = &mut self.commons[common];
            common.taken += count;
            if let Some(key) = key {
                *common.of_key.entry(key.clone()).or_default() += count;
            }
        }
    }

    /// A key has ports no more.
    pub fn give_back(&mut self, held: Held<'_>) {
        for (common, count) in self.parts(held.ports, held.places).collect::<Vec<_>>() {
            let common = &mut self.commons[common];
            common.taken = common.taken.saturating_sub(count);
            if let Some(own) = common.of_key.get_mut(held.key) {
                *own = own.saturating_sub(count);
                if *own == 0 {
                    common.of_key.remove(held.key);
                }
            }
        }
    }

    fn changes<'g>(&self, key: &Name, dropped: impl Iterator<Item = Held<'g>>) -> BTreeMap<usize, Change> {
        let mut changes: BTreeMap<usize, Change> = BTreeMap::new();
        for held in dropped {
            for (common, count) in self.parts(held.ports, held.places) {
                let change = changes.entry(common).or_default();
                *(if held.key == key { &mut change.own } else { &mut change.others }) += count;
            }
        }
        changes
    }

    /// Whether a key may have all of these ports, once others are dropped.
    pub fn have_room<'g>(&self, wanted: Held<'_>, dropped: impl Iterator<Item = Held<'g>>) -> bool {
        let mut changes = self.changes(wanted.key, dropped);
        for (common, count) in self.parts(wanted.ports, wanted.places) {
            changes.entry(common).or_default().wanted += count;
        }
        changes.into_iter().all(|(common, change)| self.commons[common].has_room(wanted.key, change))
    }

    /// Ports at these places of which a key may not have one more, once others are dropped.
    pub fn closed_to<'g>(
        &self,
        key: &Name,
        places: &[Place],
        dropped: impl Iterator<Item = Held<'g>>,
    ) -> Vec<Ports> {
        let changes = self.changes(key, dropped);
        let is_closed = |common: usize| {
            let change = changes.get(&common).copied().unwrap_or_default();
            !self.commons[common].has_room(key, Change { wanted: 1, ..change })
        };
        let is_there = |at: &Place| places.iter().any(|place| place.is_none() || place == at);
        let pieces = self.pieces.iter().filter(|(at, _)| is_there(at)).flat_map(|it| it.1);
        pieces.filter(|piece| is_closed(piece.1)).map(|piece| piece.0).collect()
    }

    /// Whether these ports were lent, and others want them: all is taken, and their key has more than a quarter.
    pub fn call_in(&self, held: Held<'_>) -> bool {
        self.parts(held.ports, held.places).any(|(common, _)| {
            let common = &self.commons[common];
            common.taken >= common.total && common.of(held.key) > common.quarter()
        })
    }
}

/// Where rules for a place begin and end: which, and whether it begins.
fn edges(
    rules: &[(&[PortsAt], usize)],
    local: Option<Ports>,
    at: Place,
) -> BTreeMap<u32, Vec<(usize, bool)>> {
    let mut edges: BTreeMap<u32, Vec<(usize, bool)>> = BTreeMap::new();
    let ends = |ports: Ports| [u32::from(ports.first), u32::from(ports.last) + 1];
    for edge in local.into_iter().flat_map(ends) {
        edges.entry(edge).or_default();
    }
    for (asks, (rules, _)) in rules.iter().enumerate() {
        for rule in rules.iter().filter(|rule| [None, at].contains(&place(rule.ip))) {
            for (edge, begins) in ends(rule.ports).into_iter().zip([true, false]) {
                edges.entry(edge).or_default().push((asks, begins));
            }
        }
    }
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn ports(text: &str) -> Ports {
        text.parse().expect("ports")
    }

    fn rules(texts: &[&str]) -> Vec<PortsAt> {
        texts.iter().map(|text| text.parse().expect("ports")).collect()
    }

    /// The commons of these keys.
    fn commons(of: &[&[&str]], local: Option<Ports>) -> Commons {
        let rules: Vec<Vec<PortsAt>> = of.iter().map(|texts| rules(texts)).collect();
        let one_each: Vec<(&[PortsAt], usize)> = rules.iter().map(|rules| (&rules[..], 1)).collect();
        Commons::new(&one_each, local)
    }

    /// How many ports each common has.
    fn totals(of: &[&[&str]]) -> Vec<usize> {
        commons(of, None).commons.iter().map(|common| common.total).collect()
    }

    const EVERYWHERE: &[Place] = &[None];

    fn may_have(commons: &Commons, key: &str, wanted: &str) -> bool {
        let held = Held { key: &name(key), ports: ports(wanted), places: EVERYWHERE };
        commons.have_room(held, std::iter::empty())
    }

    #[test]
    fn a_common_is_all_ports_that_the_same_keys_may_ask_for() {
        assert_eq!(totals(&[&["100-199"], &["200-299"]]), [], "each has its own");
        assert_eq!(totals(&[&["100-199"], &["150-299"]]), [50]);
        assert_eq!(totals(&[&["100-199", "300"], &["300", "100-199"]]), [101]);
        assert_eq!(totals(&[&["100-199"], &["100-109"], &["110-199"]]), [10, 90]);
        assert_eq!(totals(&[&["100-150", "140-199"], &["190-200"]]), [10]);
        assert_eq!(totals(&[&["192.0.2.1:80"], &["192.0.2.2:80"]]), []);
        assert_eq!(totals(&[&["192.0.2.1:80"], &["80"]]), [1]);
        let all = rules(&["1024-65535"]);
        assert_eq!(Commons::new(&[(&all, 1)], None).commons.len(), 0);
        assert_eq!(Commons::new(&[(&all, 2)], None).commons[0].total, 64_512);
        let local = commons(&[&["100-199"], &["100-199"]], Some(ports("180-300")));
        assert_eq!(local.commons.iter().map(|it| it.total).collect::<Vec<_>>(), [80, 20]);
    }

    #[test]
    fn a_key_may_have_three_quarters_and_the_others_the_rest() {
        let mut commons = commons(&[&["100-199"], &["100-199"]], None);
        assert!(may_have(&commons, "a", "100-174") && !may_have(&commons, "a", "100-175"));
        commons.take(Some(&name("a")), ports("100-174"), EVERYWHERE);
        assert!(!may_have(&commons, "a", "175") && may_have(&commons, "a", "1-99"));
        assert!(may_have(&commons, "b", "175-199"));
        commons.take(Some(&name("b")), ports("175-198"), EVERYWHERE);
        assert!(may_have(&commons, "b", "199") && !may_have(&commons, "a", "199"));
        let (a, closed) = (name("a"), |key: &str| commons.closed_to(&name(key), EVERYWHERE, [].into_iter()));
        assert_eq!((closed("a"), closed("b")), (vec![ports("100-199")], vec![]));
        let held = Held { key: &a, ports: ports("100-174"), places: EVERYWHERE };
        assert!(commons.have_room(Held { ports: ports("100-150"), ..held }, [held].into_iter()));
        commons.give_back(held);
        assert!(may_have(&commons, "a", "100-150"));
    }

    #[test]
    fn of_few_ports_each_key_may_have_one() {
        for count in 1..=4 {
            let range = format!("1-{count}");
            let mut commons = commons(&[&[&range], &[&range]], None);
            let had = (1..=count).filter(|port| {
                let port = port.to_string();
                let may = may_have(&commons, "a", &port);
                may.then(|| commons.take(Some(&name("a")), ports(&port), EVERYWHERE)).is_some()
            });
            assert_eq!(had.count(), [1, 1, 2, 3][count - 1]);
            // One port is had by whoever comes first.
            assert!(count == 1 || may_have(&commons, "b", &count.to_string()), "{count}");
        }
    }

    #[test]
    fn what_was_lent_is_called_in_once_all_is_taken() {
        let mut commons = commons(&[&["100-107"], &["100-107"]], None);
        let (a, b) = (name("a"), name("b"));
        commons.take(Some(&a), ports("100-105"), EVERYWHERE);
        let calls = |commons: &Commons, key: &Name, of: &str| {
            commons.call_in(Held { key, ports: ports(of), places: EVERYWHERE })
        };
        commons.take(Some(&b), ports("106"), EVERYWHERE);
        assert!(!calls(&commons, &a, "100-105"), "one is free");
        commons.take(None, ports("107"), EVERYWHERE);
        assert!(calls(&commons, &a, "100-105") && !calls(&commons, &b, "106"));
    }
}
