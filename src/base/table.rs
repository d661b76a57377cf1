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

/// For each slot, where in another list its entry is: four bytes a slot.
#[derive(Default)]
pub struct Places {
    places: Vec<u32>,
    /// Slots that were cleared since the unused ones behind the last were given up.
    cleared: usize,
}

impl Places {
    /// Where the entry of a slot is.
    pub fn get(&self, slot: usize) -> Option<usize> {
        self.places.get(slot).filter(|&&place| place != NOWHERE).map(|&place| place as usize)
    }

    /// Notes where the entry of a slot is.
    pub fn set(&mut self, slot: usize, place: usize) {
        if self.places.len() <= slot {
            make_room(&mut self.places, slot + 1);
            self.places.resize(slot + 1, NOWHERE);
        }
        self.places[slot] = place as u32;
    }

    /// Notes that a slot has no entry; returns where it was.
    pub fn clear(&mut self, slot: usize) -> Option<usize> {
        let place = self.get(slot)?;
        self.places[slot] = NOWHERE;
        self.cleared += 1;
        // Giving up slots walks over them, so that it waits until as many have been cleared, in proportion.
        if self.cleared > self.places.len() / 4 {
            self.cleared = 0;
            while let Some(&NOWHERE) = self.places.last() {
                self.places.pop();
            }
            shrink_after_a_crowd(&mut self.places);
        }
        Some(place)
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// Entries by id. A slot without an entry costs four bytes, so that a table may know of few among many.
///
/// Invariant: `entries[places[slot]]` is the entry of that slot, for every slot that has one.
pub struct Table<K, T> {
    places: Places,
    entries: Vec<(Id<K>, T)>,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Table<K, T> {
        Table { places: Places::default(), entries: Vec::with_capacity(SLOTS_KEPT) }
    }
}

impl<K, T> Table<K, T> {
    /// Puts an entry in, in place of the one that had its slot.
    pub fn insert(&mut self, id: Id<K>, entry: T) {
        match self.places.get(id.index()) {
            Some(place) => self.entries[place] = (id, entry),
            None => {
                let place = self.entries.len();
                make_room(&mut self.entries, place + 1);
                self.places.set(id.index(), place);
                self.entries.push((id, entry));
            }
        }
    }

    /// The entry of this id.
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        let entry = self.entries.get(self.places.get(id.index())?)?;
        (entry.0 == id).then_some(&entry.1)
    }

    /// The entry of this id, to change it.
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let entry = self.entries.get_mut(self.places.get(id.index())?)?;
        (entry.0 == id).then_some(&mut entry.1)
    }

    /// Whether there is an entry of this id.
    pub fn contains(&self, id: Id<K>) -> bool {
        self.get(id).is_some()
    }

    /// Takes the entry of this id out.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        let place = self.places.clear(id.index())?;
        // The last entry takes its place.
        let (_, taken) = self.entries.swap_remove(place);
        if let Some(&(moved, _)) = self.entries.get(place) {
            self.places.set(moved.index(), place);
        }
        shrink_after_a_crowd(&mut self.entries);
        Some(taken)
    }

    /// The id that has this slot.
    pub fn at(&self, slot: u32) -> Option<Id<K>> {
        self.entries.get(self.places.get(slot as usize)?).map(|entry| entry.0)
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
    fn an_entry_in_a_high_slot_that_comes_and_goes_costs_no_walk_each_time() {
        let mut places = Places::default();
        places.set(1_000_000, 1);
        let mut walks = 0;
        for _ in 0..1_000 {
            places.clear(1_000_000);
            walks += usize::from(places.len() < 1_000_000);
            places.set(1_000_000, 1);
        }
        assert_eq!(walks, 0, "slots are given up once as many were cleared, in proportion");
    }

    #[test]
    fn a_table_shrinks_when_a_crowd_has_left() {
        let mut table = Table::default();
        let id = |slot: usize| id(slot as u32, 1);
        (0..4 * SLOTS_OF_A_CROWD).for_each(|slot| table.insert(id(slot), slot));
        (10..4 * SLOTS_OF_A_CROWD).for_each(|slot| assert_eq!(table.remove(id(slot)), Some(slot)));
        assert!(table.entries.capacity() <= SLOTS_KEPT, "{} entries", table.entries.capacity());
        // The last slots are given up once a quarter as many have been cleared.
        for _ in 0..SLOTS_OF_A_CROWD {
            table.insert(id(10), 10);
            table.remove(id(10));
        }
        assert!(table.places.places.capacity() <= SLOTS_KEPT);
        assert_eq!((table.len(), table.get(id(9))), (10, Some(&9)));
    }
}
