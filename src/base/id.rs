//! Ids of things that come and go.
//!
//! An id is a slot, which is used again, and a serial, which is not: a stale id finds nothing. Each kind of thing has a
//! type of id of its own, so that none is taken for another.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::num::{NonZeroU32, NonZeroU64};

/// Bits of an id that say the slot; the others are the serial.
const SLOT_BITS: u32 = 24;
/// Slots that ids can name. More things of one kind at once are never made.
pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;
/// Serials that ids can hold. At 10,000 a second they come again after 3 years.
const SERIALS: u64 = 1 << (64 - SLOT_BITS);

/// Names one thing of kind `K`. Printed as `#serial`.
pub struct Id<K> {
    bits: NonZeroU64,
    kind: PhantomData<fn() -> K>,
}

/// Kinds of things.
pub mod kind {
    /// A connection of the reactor.
    pub enum Connection {}
    /// A link: a control connection and all that hangs on it.
    pub enum Link {}
    /// A service of the server.
    pub enum Service {}
    /// A publication: one client's offer to serve one service.
    pub enum Publication {}
    /// What a client asks for with a publication of ports.
    pub enum Ask {}
    /// Whoever holds a key.
    pub enum Holder {}
    /// A listener.
    pub enum Listener {}
    /// A host name that is resolved.
    pub enum Name {}
    /// What the sessions of one key share of its rate.
    pub enum Rate {}
}

/// Names a connection.
pub type ConnId = Id<kind::Connection>;
/// Names a link.
pub type LinkId = Id<kind::Link>;
/// Names a service.
pub type ServiceId = Id<kind::Service>;
/// Names a publication.
pub type PublicationId = Id<kind::Publication>;
/// Names what a client asks for with a publication of ports.
pub type AskId = Id<kind::Ask>;
/// Names whoever holds a key.
pub type HolderId = Id<kind::Holder>;
/// Names a listener.
pub type ListenerId = Id<kind::Listener>;
/// Names a host name.
pub type NameId = Id<kind::Name>;
/// Names what the sessions of one key share of its rate.
pub type RateId = Id<kind::Rate>;

/// Names what is counted together: the users of a service, or of a publication at the client.
///
/// It is a slot alone, because every connection that carries users' bytes has one: it is given to another account only
/// once no connection counts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(NonZeroU32);

impl AccountId {
    /// The account in this slot; `None` if it cannot be named.
    pub fn new(slot: usize) -> Option<AccountId> {
        u32::try_from(slot).ok()?.checked_add(1).and_then(NonZeroU32::new).map(AccountId)
    }

    /// Its slot, as an index.
    pub fn index(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

impl<K> Id<K> {
    /// Below all others. Nothing has it.
    pub const LEAST: Id<K> = Id { bits: NonZeroU64::MIN, kind: PhantomData };

    /// The id of the thing in `slot` that has this serial. A serial counts from 1 and wraps after 2^40.
    ///
    /// `None` if the slot is [`SLOTS_MAX`] or more: there are as many things as can be named.
    pub fn new(slot: u32, serial: u64) -> Option<Id<K>> {
        if slot >= SLOTS_MAX {
            return None;
        }
        // 0 is no serial, so that the bits are never all zero.
        let serial = serial % SERIALS;
        let bits = serial.max(1) << SLOT_BITS | u64::from(slot);
        NonZeroU64::new(bits).map(|bits| Id { bits, kind: PhantomData })
    }

    /// The slot.
    pub fn slot(self) -> u32 {
        (self.bits.get() & u64::from(SLOTS_MAX - 1)) as u32
    }

    /// The slot, as an index.
    pub fn index(self) -> usize {
        self.slot() as usize
    }

    /// The serial.
    pub fn serial(self) -> u64 {
        self.bits.get() >> SLOT_BITS
    }
}

// Derived, these would ask the same of the kind.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Id<K> {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Id<K>) -> bool {
        self.bits == other.bits
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Id<K>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Id<K>) -> Ordering {
        self.bits.cmp(&other.bits)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial())
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}@{}", self.serial(), self.slot())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_and_serial_come_back() {
        for slot in [0, 1, SLOTS_MAX - 1] {
            for serial in [1, 2, SERIALS - 1] {
                let id = ConnId::new(slot, serial).expect("it can be named");
                assert_eq!((id.slot(), id.serial()), (slot, serial));
            }
        }
        assert_eq!(ConnId::new(SLOTS_MAX, 1), None);
    }

    #[test]
    fn a_serial_that_wraps_is_never_zero() {
        assert_eq!(ConnId::new(7, SERIALS).map(Id::serial), Some(1));
        assert_eq!(ConnId::new(0, 0).map(Id::serial), Some(1));
    }

    #[test]
    fn an_account_is_its_slot() {
        assert_eq!(AccountId::new(7).map(AccountId::index), Some(7));
        assert_eq!((AccountId::new(usize::MAX), size_of::<Option<AccountId>>()), (None, 4));
    }

    #[test]
    fn an_id_that_may_be_missing_takes_eight_bytes() {
        assert_eq!(size_of::<Option<ConnId>>(), 8);
    }
}
