//! What changes when a client that runs gets another configuration.

use std::fmt;
use std::time::Duration;

use super::{ClientConfig, Publication};
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::base::sorted::Map;

/// What is to be done so that one configuration takes the place of another.
///
/// A publication is its name: one that is renamed is removed, and another one is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientDifference {
    /// Publications that are new.
    pub added: Vec<Publication>,
    /// Those that are no more, and lose their sessions.
    pub removed: Vec<Name>,
    /// Those that ask the server for other ports: they are removed, and added under the same name.
    pub asked_anew: Vec<Publication>,
    /// Those whose sessions go on while new ones find something else, such as another local server.
    pub changed: Vec<Publication>,
    /// The heartbeat of later links, if it is another.
    pub heartbeat: Option<Duration>,
    /// How long running sessions get at the end, if it is another time.
    pub drain: Option<Duration>,
    /// Other options that have other values. The machine has no business with them.
    pub options: Vec<&'static str>,
}

impl ClientDifference {
    /// What is to be done so that `new` takes the place of `old`, which do not differ in what needs a restart.
    pub fn of(old: &ClientConfig, new: &ClientConfig) -> ClientDifference {
        let limits = (&old.limits, &new.limits);
        let mut difference = ClientDifference {
            heartbeat: Some(limits.1.heartbeat).filter(|&time| time != limits.0.heartbeat),
            drain: Some(limits.1.drain).filter(|&time| time != limits.0.drain),
            ..ClientDifference::default()
        };
        let mut before: Map<&Name, &Publication> =
            old.publications.iter().map(|publication| (&publication.name, publication)).collect();
        for publication in &new.publications {
            match before.remove(&&publication.name) {
                None => difference.added.push(publication.clone()),
                Some(old) if old == publication => {}
                Some(old) if old.want != publication.want => {
                    difference.asked_anew.push(publication.clone());
                }
                Some(_) => difference.changed.push(publication.clone()),
            }
        }
        difference.removed = before.keys().map(|&name| name.clone()).collect();
        difference
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        *self == ClientDifference::default()
    }
}

impl fmt::Display for ClientDifference {
    /// Says what changes: `2 publications added, 1 removed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let changed = self.changed.len() + self.asked_anew.len();
        let counts = [(self.added.len(), "added"), (self.removed.len(), "removed"), (changed, "changed")];
        let mut parts = Vec::new();
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            parts.push(match (parts.is_empty(), count) {
                (true, 1) => format!("1 publication {what}"),
                (true, _) => format!("{count} publications {what}"),
                (false, _) => format!("{count} {what}"),
            });
        }
        parts.extend(self.heartbeat.map(|time| format!("heartbeat {} s", Decimal::seconds(time))));
        parts.extend(self.drain.map(|time| format!("drain {} s", Decimal::seconds(time))));
        parts.extend(self.options.iter().map(|option| format!("{option} changed")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::base::address::HostPort;
    use crate::config::Key;
    use crate::config::limits::Limits;
    use crate::wire::publication::{Ports, Want};

    fn publication(name: &str, local: &str) -> Publication {
        let local = HostPort::parse(local, None, None).expect("a place");
        Publication::of_service(name.parse().expect("a name"), local)
    }

    fn config(publications: &[Publication]) -> ClientConfig {
        ClientConfig {
            server: HostPort::parse("192.0.2.1:33335", None, None).expect("a place"),
            message: None,
            publications: publications.into(),
            key: Key {
                name: "office".parse().expect("a name"),
                secret: crate::wire::handshake::Secret::new([1; 32]),
            },
            plain: false,
            limits: Limits::default(),
        }
    }

    #[test]
    fn the_same_is_no_difference_in_any_order() {
        let (a, b) = (publication("a", "h:1"), publication("b", "h:2"));
        let difference = ClientDifference::of(&config(&[a.clone(), b.clone()]), &config(&[b, a]));
        assert!(difference.is_empty());
        assert_eq!(difference.to_string(), "nothing changed");
    }

    #[test]
    fn a_publication_is_its_name() {
        let old = config(&[publication("a", "h:1"), publication("b", "h:2"), publication("c", "h:3")]);
        let new = config(&[publication("a", "h:9"), publication("d", "h:2"), publication("c", "h:3")]);
        let difference = ClientDifference::of(&old, &new);
        assert_eq!(difference.added, [publication("d", "h:2")]);
        assert_eq!(difference.removed, ["b".parse().expect("a name")]);
        assert_eq!(difference.changed, [publication("a", "h:9")]);
        assert_eq!(difference.to_string(), "1 publication added, 1 removed, 1 changed");
    }

    #[test]
    fn only_other_ports_are_asked_for_anew() {
        let old = publication("a", "h:1");
        let ports = Publication { want: Want::Ports(Ports::one(80)), ..old.clone() };
        let difference = ClientDifference::of(&config(from_ref(&old)), &config(from_ref(&ports)));
        assert_eq!((&difference.asked_anew[..], &difference.changed[..]), (from_ref(&ports), &[][..]));
        let patient = Publication { dial_time: Duration::from_secs(9), probe: false, ..old.clone() };
        let shared = Publication { share: true, ..ports.clone() };
        for (from, to) in [(&old, &patient), (&ports, &shared)] {
            let difference = ClientDifference::of(&config(from_ref(from)), &config(from_ref(to)));
            assert_eq!((&difference.asked_anew[..], &difference.changed[..]), (&[][..], from_ref(to)));
        }
    }

    #[test]
    fn what_holds_for_later_links_is_told_with_its_value() {
        let (old, mut new) = (config(&[]), config(&[]));
        (new.limits.heartbeat, new.limits.drain) = (Duration::from_secs(10), Duration::from_millis(1_500));
        let difference = ClientDifference::of(&old, &new);
        assert_eq!(difference.to_string(), "heartbeat 10 s, drain 1.5 s");
    }
}
