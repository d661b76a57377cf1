//! Entries found by an id that another table has given: what a machine knows of each connection. A stale id finds
//! nothing.

use super::id::Id;

/// Slots that a table has from the start, and never gives up.
pub const SLOTS_KEPT: usize = 128;
/// Slots that it grows to when these are not enough: so many that the allocator maps them apart (mallopt(3),
/// `M_MMAP_THRESHOLD`). Pages that were never touched cost nothing, and growing further moves pages instead of
/// copying bytes and leaving holes behind.
const SLOTS_OF_A_CROWD: usize = 4096;

const NOWHERE: u32 = u32::MAX;

/// Entries by id. A slot without an entry costs four bytes, so that a table may know of few among many.
///
/// Invariant: `entries[places[slot]]` is the entry of that slot, for every slot that has one.
pub struct Table<K, T> {
    places: Vec<u32>,
    entries: Vec<(Id<K>, T)>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Table<K, T> {
        Table { places: Vec::with_capacity(SLOTS_KEPT), entries: Vec::with_capacity(SLOTS_KEPT) }
    }
}

impl<K, T> Table<K, T> {
    /// Puts an entry in, in place of the one that had its slot.
    pub fn insert(&mut self, id: Id<K>, entry: T) {
        if self.places.len() <= id.index() {
            make_room(&mut self.places, id.index() + 1);
            self.places.resize(id.index() + 1, NOWHERE);
        }
        match self.entries.get_mut(self.places[id.index()] as usize) {
            Some(old) => *old = (id, entry),
            None => {
                let wanted = self.entries.len() + 1;
                make_room(&mut self.entries, wanted);
                self.places[id.index()] = self.entries.len() as u32;
                self.entries.push((id, entry));
            }
        }
    }

    /// The entry of this id.
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        let place = *self.places.get(id.index())?;
        self.entries.get(place as usize).filter(|entry| entry.0 == id).map(|entry| &entry.1)
    }

    /// The entry of this id, to change it.
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let place = *self.places.get(id.index())?;
        self.entries.get_mut(place as usize).filter(|entry| entry.0 == id).map(|entry| &mut entry.1)
    }

    /// Whether there is an entry of this id.
    pub fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    /// Takes the entry of this id out.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        let place = std::mem::replace(&mut self.places[id.index()], NOWHERE);
        // The last entry takes its place.
        let (_, taken) = self.entries.swap_remove(place as usize);
        if let Some(&(moved, _)) = self.entries.get(place as usize) {
            self.places[moved.index()] = place;
        }
        while let Some(&NOWHERE) = self.places.last() {
            self.places.pop();
        }
        shrink_after_a_crowd(&mut self.places);
        shrink_after_a_crowd(&mut self.entries);
        Some(taken)
    }

    /// The id that has this slot.
    pub fn at(&self, slot: u32) -> Option<Id<K>> {
        let place = *self.places.get(slot as usize)?;
        self.entries.get(place as usize).map(|entry| entry.0)
    }

    /// All entries, in an order that depends only on the calls made before.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// The ids in the highest slots, from the top; slots that have no entry count as looked at.
    pub fn highest(&self, looked_at_max: usize) -> impl Iterator<Item = Id<K>> {
        let slots = (0..self.places.len() as u32).rev().take(looked_at_max);
        slots.filter_map(|slot| self.at(slot))
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

/// The capacity that a table should have for `wanted` slots, where it has `capacity` now.
pub fn room_for(wanted: usize, capacity: usize) -> usize {
    match wanted {
        _ if wanted <= capacity => capacity,
        _ if wanted <= SLOTS_KEPT => SLOTS_KEPT,
        _ => wanted.max(SLOTS_OF_A_CROWD),
    }
}

/// Makes room for `wanted` slots, which are no fewer than there are.
pub fn make_room<T>(entries: &mut Vec<T>, wanted: usize) {
    entries.reserve(room_for(wanted, entries.capacity()) - entries.len());
}

/// Frees the room that a vector no longer needs after a burst.
pub fn shrink_after_a_crowd<T>(entries: &mut Vec<T>) {
    let (len, capacity) = (entries.len(), entries.capacity());
    if capacity > SLOTS_KEPT && len < SLOTS_KEPT / 2 {
        entries.shrink_to(SLOTS_KEPT);
    } else if capacity > SLOTS_OF_A_CROWD && len < capacity / 4 {
        entries.shrink_to(2 * len);
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::ConnId;
    use super::*;

    fn id(slot: u32, serial: u64) -> ConnId {
        ConnId::new(slot, serial).expect("it can be named")
    }

    #[test]
    fn a_stale_id_finds_nothing() {
        let mut table = Table::default();
        let (old, new) = (id(3, 1), id(3, 2));
        table.insert(old, "old");
        assert_eq!(table.remove(old), Some("old"));
        table.insert(new, "new");
        assert_eq!((table.get(old), table.get(new), table.len()), (None, Some(&"new"), 1));
        assert_eq!(table.remove(old), None);
        assert_eq!(table.at(3), Some(new));
        assert_eq!(table.iter().collect::<Vec<_>>(), [(new, &"new")]);
    }

    #[test]
    fn a_table_shrinks_when_a_crowd_has_left() {
        let mut table = Table::default();
        let id = |slot: usize| id(slot as u32, 1);
        (0..4 * SLOTS_OF_A_CROWD).for_each(|slot| table.insert(id(slot), slot));
        (10..4 * SLOTS_OF_A_CROWD).for_each(|slot| assert_eq!(table.remove(id(slot)), Some(slot)));
        assert!(table.places.capacity() <= SLOTS_KEPT && table.entries.capacity() <= SLOTS_KEPT);
        assert_eq!((table.len(), table.get(id(9))), (10, Some(&9)));
    }
}
