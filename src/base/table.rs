//! Entries found by an id that somebody else gives: what a machine knows of each connection. A stale id finds nothing.

use super::id::Id;

/// Slots that a table has from the start, and never gives up.
pub const SLOTS_KEPT: usize = 128;
/// Slots that it grows to when these are not enough: so many that the allocator maps them apart (mallopt(3),
/// `M_MMAP_THRESHOLD`). Pages that were never touched cost nothing, and growing further moves pages instead of
/// copying bytes and leaving holes behind.
const SLOTS_OF_A_CROWD: usize = 4096;

/// Entries by slot, each guarded by its id.
pub struct Table<K, T> {
    entries: Vec<Option<(Id<K>, T)>>,
    len: usize,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Table<K, T> {
        Table { entries: Vec::with_capacity(SLOTS_KEPT), len: 0 }
    }
}

impl<K, T> Table<K, T> {
    /// Puts an entry in, in place of whatever had its slot.
    pub fn insert(&mut self, id: Id<K>, entry: T) {
        let slot = id.index();
        if self.entries.len() <= slot {
            make_room(&mut self.entries, slot + 1);
            self.entries.resize_with(slot + 1, || None);
        }
        self.len += usize::from(self.entries[slot].is_none());
        self.entries[slot] = Some((id, entry));
    }

    /// The entry of this connection.
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        match self.entries.get(id.index())? {
            Some((known, entry)) if *known == id => Some(entry),
            _ => None,
        }
    }

    /// The entry of this connection, to change it.
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        match self.entries.get_mut(id.index())? {
            Some((known, entry)) if *known == id => Some(entry),
            _ => None,
        }
    }

    /// Takes the entry of this connection out.
    pub fn remove(&mut self, id: Id<K>) -> Option<T> {
        self.get(id)?;
        self.len -= 1;
        let taken = self.entries[id.index()].take().map(|(_, entry)| entry);
        while let Some(None) = self.entries.last() {
            self.entries.pop();
        }
        shrink_after_a_crowd(&mut self.entries);
        taken
    }

    /// The id that has this slot.
    pub fn at(&self, slot: u32) -> Option<Id<K>> {
        self.entries.get(slot as usize)?.as_ref().map(|entry| entry.0)
    }

    /// All entries, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        self.entries.iter().flatten().map(|(id, entry)| (*id, entry))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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

/// Gives up what a vector no longer uses since a crowd has left.
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
        assert!(table.entries.capacity() <= SLOTS_KEPT, "{} slots", table.entries.capacity());
        assert_eq!((table.len(), table.get(id(9))), (10, Some(&9)));
    }
}
