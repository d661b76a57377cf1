//! Rates of keys: what all sessions of a key may pass together. The reactor holds them; here is who shares which.

use std::collections::HashMap;

use crate::base::id::{RateId, kind};
use crate::base::name::Name;
use crate::base::rate::Rate;
use crate::base::slots::Slots;
use crate::machine::{Agenda, Output};

/// A key that has a rate, or a link.
struct Shared {
    key: Name,
    rate: Option<Rate>,
    links: usize,
}

/// What each key's sessions share. A key without a rate has an id, too, while it has links: a rate that it gets then
/// holds for sessions that run.
#[derive(Default)]
pub(super) struct Rates {
    shared: Slots<kind::Rate, Shared>,
    of_key: HashMap<Name, RateId>,
}

impl Rates {
    /// A key has this rate from now on.
    pub fn set(&mut self, key: &Name, rate: Option<Rate>, agenda: &mut Agenda) {
        let known = self.of_key.contains_key(key);
        if !known && rate.is_none() {
            return;
        }
        let Some(id) = self.id(key) else { return };
        if let Some(shared) = self.shared.get_mut(id)
            && std::mem::replace(&mut shared.rate, rate) != rate
        {
            agenda.push(Output::Rate { id, rate });
        }
        self.forget_if_unused(id);
    }

    /// A key has one more link; returns what its sessions share, unless there are as many keys as can be named.
    pub fn link_came(&mut self, key: &Name) -> Option<RateId> {
        let id = self.id(key)?;
        self.shared.get_mut(id)?.links += 1;
        Some(id)
    }

    /// A link is gone whose sessions shared this.
    pub fn link_gone(&mut self, id: RateId) {
        if let Some(shared) = self.shared.get_mut(id) {
            shared.links -= 1;
        }
        self.forget_if_unused(id);
    }

    fn id(&mut self, key: &Name) -> Option<RateId> {
        if let Some(&id) = self.of_key.get(key) {
            return Some(id);
        }
        let id = self.shared.insert(Shared { key: key.clone(), rate: None, links: 0 }).ok()?;
        self.of_key.insert(key.clone(), id);
        Some(id)
    }

    fn forget_if_unused(&mut self, id: RateId) {
        if self.shared.get(id).is_some_and(|shared| shared.rate.is_none() && shared.links == 0)
            && let Some(shared) = self.shared.remove(id)
        {
            self.of_key.remove(&shared.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn a_key_that_has_neither_rate_nor_link_is_forgotten() {
        let mut agenda =
            Agenda::new(Arc::new(Limits::default()), fastrand::Rng::with_seed(1), Instant::now());
        let (key, rate) = ("office".parse().expect("a name"), "8 Mbit/s".parse().ok());
        let mut rates = Rates::default();
        rates.set(&key, None, &mut agenda);
        assert!(rates.of_key.is_empty() && agenda.next_output().is_none());
        rates.set(&key, rate, &mut agenda);
        let id = rates.link_came(&key).expect("there is room");
        rates.set(&key, None, &mut agenda);
        assert_eq!(rates.of_key.len(), 1, "it has a link");
        rates.link_gone(id);
        assert!(rates.of_key.is_empty() && rates.shared.is_empty());
        let told = std::iter::from_fn(|| agenda.next_output()).map(|output| match output {
            Output::Rate { rate, .. } => rate,
            other => panic!("{other:?}"),
        });
        assert_eq!(told.collect::<Vec<_>>(), [rate, None]);
    }
}
