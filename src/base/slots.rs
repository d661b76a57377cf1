//! Things that come and go, in slots that are used again. The table names what is put into it.

use slab::Slab;

use super::id::{Id, SLOTS_MAX};

/// Entries by slot, each with the serial that it alone has.
pub struct Slots<K, T> {
    entries: Slab<(Id<K>, T)>,
    serial: u64,
}

impl<K, T> Default for Slots<K, T> {
    fn default() -> Slots<K, T> {
        Slots { entries: Slab::new(), serial: 0 }
    }
}

impl<K, T> Slots<K, T> {
    /// Puts an entry in and names it; gives it back if there are as many as can be named.
    pub fn insert(&mut self, entry: T) -> Result<Id<K>, T> {
        if self.entries.len() >= SLOTS_MAX as usize {
            return Err(entry);
        }
        let vacant = self.entries.vacant_entry();
        match Id::new(vacant.key() as u32, self.serial + 1) {
            Some(id) => {
                self.serial = id.serial();
                vacant.insert((id, entry));
                Ok(id)
            }
            None => Err(entry),
        }
    }

    /// The entry of this id.
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        self.entries.get(id.index()).filter(|entry| entry.0 == id).map(|entry| &entry.1)
    }

    /// The entry of this id, to change it.
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        self.entries.get_mut(id.index()).filter(|entry| entry.0 == id).map(|entry| &mut entry.1)
    }

    /// Takes the entry of this id out.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        self.entries.try_remove(id.index()).map(|entry| entry.1)
    }

    /// The id that has this slot.
    pub fn at(&self, slot: u32) -> Option<Id<K>> {
        self.entries.get(slot as usize).map(|entry| entry.0)
    }

    /// All entries, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.entries.iter().map(|(_, entry)| (entry.0, &entry.1))
    }

    /// The entries of this slot and of those behind it, by slot.
    pub fn iter_from(&self, slot: u32) -> impl Iterator<Item = (Id<K>, &T)> {
        let slots = slot as usize..self.entries.capacity();
        slots.filter_map(|slot| self.entries.get(slot)).map(|entry| (entry.0, &entry.1))
    }

    /// The entries.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id<K>, &mut T)> {
        self.entries.iter_mut().map(|(_, entry)| (entry.0, &mut entry.1))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::kind;
    use super::*;

    #[test]
    fn a_stale_id_finds_nothing_though_its_slot_is_used_again() {
        let mut slots: Slots<kind::Link, &str> = Slots::default();
        let old = slots.insert("old").expect("there is room");
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new").expect("there is room");
        assert_eq!(old.slot(), new.slot());
        assert_eq!((slots.get(old).copied(), slots.remove(old)), (None, None));
        assert_eq!((slots.get(new), slots.at(new.slot()), slots.len()), (Some(&"new"), Some(new), 1));
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(new, &"new")]);
        assert_eq!((slots.iter_from(new.slot()).count(), slots.iter_from(new.slot() + 1).count()), (1, 0));
    }
}
