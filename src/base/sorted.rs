//! Few things in the order of their keys, in one piece of memory.
//!
//! Finding one takes as many steps as the count has binary digits. Putting one in and taking one out move those behind
//! it, so that this is for what a configuration bounds: thousands at most. A tree is for more; it costs the executable
//! ten times as much for each type that is kept in it, and so does a sort.

use std::collections::{BTreeSet, BinaryHeap};

/// Values by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map<K, V>(Vec<(K, V)>);

impl<K, V> Default for Map<K, V> {
    fn default() -> Map<K, V> {
        Map(Vec::new())
    }
}

impl<K: Ord, V> Map<K, V> {
    /// Where a key is, or where it would be.
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|entry| entry.0.cmp(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|place| &self.0[place].1)
    }

    /// The value of a key, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|place| &mut self.0[place].1)
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// Gives a key this value; returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(place) => Some(std::mem::replace(&mut self.0[place].1, value)),
            Err(place) => {
                self.0.insert(place, (key, value));
                None
            }
        }
    }

    /// The value of a key, to change it; the default one if it has none.
    pub fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let (Ok(place) | Err(place)) = self.find(&key).inspect_err(|&place| {
            self.0.insert(place, (key, V::default()));
        });
        &mut self.0[place].1
    }

    /// Takes out the value of a key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|place| self.0.remove(place).1)
    }

    /// Keeps those for which this is said.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| is_kept(key, value));
    }

    /// All of this key and above.
    pub fn range_from(&self, key: K) -> impl Iterator<Item = (&K, &V)> {
        let (Ok(place) | Err(place)) = self.find(&key);
        self.0.iter().skip(place).map(|(key, value)| (key, value))
    }
}

impl<K, V> Map<K, V> {
    /// All, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + DoubleEndedIterator {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All, by key, to change the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, by key, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// The values alone, by key.
    pub fn into_values(self) -> impl Iterator<Item = V> {
        self.0.into_iter().map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Map<K, V> {
    /// Of equal keys the last one holds.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Map<K, V> {
        let mut map = Map::default();
        for (key, value) in all {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for Map<K, V> {
    fn from(all: [(K, V); N]) -> Map<K, V> {
        all.into_iter().collect()
    }
}

impl<K, V> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Each thing once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<T>(Vec<T>);

impl<T> Default for Set<T> {
    fn default() -> Set<T> {
        Set(Vec::new())
    }
}

impl<T: Ord> Set<T> {
    /// Puts one in; false if it is there already.
    pub fn insert(&mut self, one: T) -> bool {
        let found = self.0.binary_search(&one);
        if let Err(place) = found {
            self.0.insert(place, one);
        }
        found.is_err()
    }

    /// Takes one out; false if it is not there.
    pub fn remove(&mut self, one: &T) -> bool {
        let found = self.0.binary_search(one);
        found.is_ok_and(|place| {
            self.0.remove(place);
            true
        })
    }

    /// Whether one is there.
    pub fn contains(&self, one: &T) -> bool {
        self.0.binary_search(one).is_ok()
    }
}

impl<T> Set<T> {
    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least one.
    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }

    /// Takes out the least one.
    pub fn pop_first(&mut self) -> Option<T> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

impl<T: Ord> Extend<T> for Set<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, all: I) {
        for one in all {
            self.insert(one);
        }
    }
}

impl<T: Ord> FromIterator<T> for Set<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Set<T> {
        let mut set = Set::default();
        set.extend(all);
        set
    }
}

impl<T> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Any number of things, each once. `collect` would do the same with a sort.
pub fn tree<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut tree = BTreeSet::new();
    tree.extend(all);
    tree
}

/// Any number of things in the order of their ranks; those of one rank stay as they were.
pub fn by_rank<T>(all: impl IntoIterator<Item = T>, rank: impl Fn(&T) -> u64) -> impl Iterator<Item = T> {
    let mut all: Vec<Option<T>> = all.into_iter().map(Some).collect();
    let ranks = all.iter().flatten().map(rank).zip(0..).collect();
    in_order(ranks).into_iter().filter_map(move |place| all.get_mut(place)?.take())
}

/// The places of these ranks, in their order.
fn in_order(ranks: BinaryHeap<(u64, usize)>) -> Vec<usize> {
    ranks.into_sorted_vec().into_iter().map(|(_, place)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_in_order_and_each_key_has_the_last_value() {
        let mut map: Map<u8, &str> = [(3, "c"), (1, "a"), (3, "C"), (2, "b")].into_iter().collect();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &"a"), (&2, &"b"), (&3, &"C")]);
        assert_eq!((map.insert(2, "B"), map.insert(0, "z")), (Some("b"), None));
        assert_eq!((map.get(&2), map.get(&4), map.contains_key(&0)), (Some(&"B"), None, true));
        assert_eq!(map.range_from(2).map(|it| *it.1).collect::<String>(), "BC");
        assert_eq!((map.remove(&1), map.remove(&1), map.len()), (Some("a"), None, 3));
        map.retain(|key, _| *key != 0);
        assert_eq!(map.keys().copied().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_set_has_each_once_and_in_order() {
        let mut set: Set<u8> = [3, 1, 2, 3].into_iter().collect();
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(
            [set.insert(2), set.insert(4), set.remove(&9), set.remove(&3)],
            [false, true, false, true]
        );
        assert_eq!((set.first().copied(), set.pop_first(), set.contains(&1)), (Some(1), Some(1), false));
    }

    #[test]
    fn those_of_one_rank_stay_as_they_were() {
        let words = ["two", "by", "one", "in", "threes"];
        let ranked: Vec<&str> = by_rank(words, |word| word.len() as u64).collect();
        assert_eq!(ranked, ["by", "in", "two", "one", "threes"]);
    }
}
