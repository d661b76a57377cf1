//! What changes from one configuration of a server to another. A service or key is its name: a rename is a removal and
//! an addition.

use std::collections::HashMap;
use std::fmt;

use super::restart::options_of_server;
use super::{Policies, ServerConfig};
use crate::base::name::Name;

/// The option that says what all keys may ask for.
const PORTS: &str = "ports";

/// What has come, has gone, and has stayed and is not the same, each by its name and in the order of its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What has come.
    pub added: Vec<Name>,
    /// What has gone.
    pub removed: Vec<Name>,
    /// What has stayed, with other contents.
    pub changed: Vec<Name>,
}

impl Changes {
    fn between<T>(
        before: &[T],
        after: &[T],
        name: fn(&T) -> &Name,
        same: impl Fn(&T, &T) -> bool,
    ) -> Changes {
        let (old, new) = (by_name(before, name), by_name(after, name));
        let mut changes = Changes::default();
        for (it, name) in after.iter().map(|it| (it, name(it))) {
            match old.get(name).map(|&place| &before[place]) {
                None => changes.added.push(name.clone()),
                Some(before) if !same(before, it) => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let gone = before.iter().map(name).filter(|name| !new.contains_key(name));
        changes.removed.extend(gone.cloned());
        changes
    }

    /// How many changes there are.
    pub fn counts(&self) -> [usize; 3] {
        [&self.added, &self.removed, &self.changed].map(Vec::len)
    }
}

/// Where each name is.
fn by_name<T>(all: &[T], name: fn(&T) -> &Name) -> HashMap<&Name, usize> {
    all.iter().map(name).zip(0..).collect()
}

/// What changes from one configuration of a server to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Services; those that stay are changed if their rules or places are others.
    pub services: Changes,
    /// Keys; those that stay are changed if their secrets are others.
    pub keys: Changes,
    /// Keys that stay, with another policy.
    pub policies: Vec<Name>,
    /// Options that have other values.
    pub options: Vec<&'static str>,
}

/// Options that have other values, and cannot change while the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedsRestart(pub Vec<&'static str>);

impl fmt::Display for NeedsRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: needs a restart", self.0.join(", "))
    }
}

impl Difference {
    /// What changes from one configuration to the next; refused if a running server cannot change so.
    pub fn between(before: &ServerConfig, after: &ServerConfig) -> Result<Difference, NeedsRestart> {
        let changed = |options: &[(&'static str, bool)]| {
            options.iter().filter(|it| it.1).map(|it| it.0).collect::<Vec<_>>()
        };
        let fixed: Vec<_> = options_of_server(before, after).collect();
        if !fixed.is_empty() {
            return Err(NeedsRestart(fixed));
        }
        let services =
            Changes::between(&before.services, &after.services, |service| &service.name, PartialEq::eq);
        let keys = Changes::between(&before.keys, &after.keys, |key| &key.name, PartialEq::eq);
        let known = by_name(&before.keys, |key| &key.name);
        let staying = after.keys.iter().map(|key| &key.name).filter(|name| known.contains_key(name));
        // What holds for all keys alike is compared once.
        let alike = before.policies == after.policies;
        let policies =
            staying.filter(|name| !alike && before.policies.of(name) != after.policies.of(name)).cloned();
        let (old, new) = (&before.limits, &after.limits);
        let ([old_pool, old_users], [new_pool, new_users]) = (old.asked(), new.asked());
        let are_for_all =
            matches!((&before.policies, &after.policies), (Policies::Alike(_), Policies::Alike(_)));
        Ok(Difference {
            services,
            keys,
            policies: policies.collect(),
            options: changed(&[
                ("pool", old_pool != new_pool),
                ("heartbeat", old.heartbeat != new.heartbeat),
                ("max-users", old_users != new_users),
                (PORTS, are_for_all && !alike),
                ("drain", old.drain != new.drain),
            ]),
        })
    }
}

/// `2 services added, 1 removed, 1 key changed, pool changed`.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        // Where one option is for all keys, no key has a policy of its own.
        let policies = [0, 0, if self.options.contains(&PORTS) { 0 } else { self.policies.len() }];
        for (counts, one, many) in [
            (self.services.counts(), "service", "services"),
            (self.keys.counts(), "key", "keys"),
            (policies, "policy", "policies"),
        ] {
            let said = counts.into_iter().zip(["added", "removed", "changed"]).filter(|it| it.0 > 0);
            parts.extend(said.enumerate().map(|(place, (count, what))| match (place, count) {
                (0, 1) => format!("1 {one} {what}"),
                (0, _) => format!("{count} {many} {what}"),
                _ => format!("{count} {what}"),
            }));
        }
        parts.extend(self.options.iter().map(|option| format!("{option} changed")));
        match parts.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::Listen;
    use crate::config::limits::Limits;
    use crate::config::policy::{Policy, PortRules, Services};
    use crate::config::{Key, Policies, Service};
    use crate::wire::handshake::Secret;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn key(text: &str, secret: u8) -> Key {
        Key { name: name(text), secret: Secret::new([secret; 32]) }
    }

    fn config() -> ServerConfig {
        ServerConfig {
            services: [("web", 1), ("ssh", 2), ("db", 3)]
                .map(|(text, port)| Service::new(name(text), Listen::Any(port)))
                .into(),
            policies: Policies::default(),
            message: Listen::Any(4),
            control: Listen::Any(5),
            keys: vec![key("office", 1), key("home", 2)],
            plain: false,
            limits: Limits::default(),
        }
    }

    #[test]
    fn what_is_the_same_is_no_change_in_whatever_order_it_stands() {
        let (before, mut after) = (config(), config());
        after.services.reverse();
        after.keys.reverse();
        let same = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!((same.to_string(), same), ("nothing changed".to_owned(), Difference::default()));
    }

    #[test]
    fn services_and_keys_are_compared_by_name_and_counted() {
        let (before, mut after) = (config(), config());
        after.services.remove(2);
        after.services[1].name = name("shell");
        after.services[0].rules.users = Some(9);
        after.services.push(Service::new(name("mail"), Listen::Any(7)));
        after.keys = vec![key("office", 9), key("lab", 3)];
        after.limits.pool += 1;
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!(it.services.added, ["shell", "mail"].map(name));
        assert_eq!(
            (it.services.removed.clone(), it.services.changed.clone()),
            (["ssh", "db"].map(name).into(), vec![name("web")])
        );
        assert_eq!(
            (it.keys.added.clone(), it.keys.removed.clone(), it.keys.changed.clone()),
            (vec![name("lab")], vec![name("home")], vec![name("office")])
        );
        assert_eq!(
            it.to_string(),
            "2 services added, 2 removed, 1 changed, 1 key added, 1 removed, 1 changed, pool changed"
        );
    }

    #[test]
    fn policies_are_compared_by_what_they_mean_for_each_key() {
        let (before, mut after) = (config(), config());
        let all = Policy { services: Services::All, ..Policy::default() };
        after.policies = Policies::Each([(name("office"), all)].into());
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!((&it.policies[..], it.to_string()), (&[name("home")][..], "1 policy changed".to_owned()));
        after.policies = Policies::Alike(PortRules::All);
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!(it.policies, ["office", "home"].map(name));
    }

    #[test]
    fn ports_for_all_keys_are_no_policies() {
        let (before, mut after) = (config(), config());
        after.policies = Policies::Alike(PortRules::All);
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!((it.policies.len(), it.to_string()), (2, "ports changed".to_owned()));
    }

    #[test]
    fn what_the_system_makes_of_a_limit_is_no_change_of_the_configuration() {
        let (mut before, mut after) = (config(), config());
        before.limits.share_descriptors(2_000);
        after.limits.share_descriptors(30);
        assert!(before.limits.pool != after.limits.pool && before.limits.users_max != after.limits.users_max);
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!(it.to_string(), "nothing changed");
        let mut after = config();
        (after.limits.pool, after.limits.users_max) = (9, 9);
        after.limits.share_descriptors(2_000);
        let it = Difference::between(&before, &after).expect("nothing needs a restart");
        assert_eq!(it.to_string(), "pool changed, max-users changed");
    }

    #[test]
    fn what_cannot_change_is_named() {
        let (before, mut after) = (config(), config());
        (after.message, after.plain) = (Listen::Any(9), true);
        let refused = Difference::between(&before, &after);
        assert_eq!(refused, Err(NeedsRestart(vec!["message", "plain"])));
    }
}
