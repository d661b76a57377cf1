//! The tags of a plain channel: what proves its frames where the payload travels unsealed.
//!
//! Every record but `Data` ends with a tag: keyed BLAKE2s (RFC 7693) over the direction, the number of records and of
//! `Data` bytes before it in that direction, and the frame. `Data` records carry none: the next tag proves how many
//! there were and how long they were together, heads included. So only a holder of the key can begin or end a session,
//! and no frame can be forged, changed, repeated, moved or left out.

use blake2::Blake2sMac;
use blake2::digest::consts::{U16, U32};
use blake2::digest::{FixedOutput, Mac};
use zeroize::Zeroizing;

use super::handshake::Secret;

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

/// The key of one connection's tags.
#[derive(Default)]
pub(super) struct TagKey(Zeroizing<[u8; 32]>);

impl TagKey {
    /// The key of the connection whose handshake had this psk and this hash.
    pub fn derive(psk: &Secret, hash: &[u8; 32]) -> TagKey {
        let mut mac = keyed::<Blake2sMac<U32>>(psk.bytes());
        mac.update(b"skyorg plain tags\0");
        mac.update(hash);
        let mut key = TagKey(Zeroizing::new([0; 32]));
        mac.finalize_into((&mut *key.0).into());
        key
    }
}

/// How far one direction has come.
#[derive(Default)]
pub(super) struct Progress {
    /// Records so far, `Data` and tagged ones.
    records: u64,
    /// Bytes of the `Data` records among them: length, head and payload.
    data_bytes: u64,
}

impl Progress {
    /// Counts a `Data` record of this length.
    pub fn note_data(&mut self, record_bytes: usize) {
        self.records += 1;
        self.data_bytes += record_bytes as u64;
    }

    /// Counts a tagged record.
    pub fn note_tagged(&mut self) {
        self.records += 1;
    }
}

/// Who sends in a direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The client, which began the handshake.
    Initiator,
    /// The server, which answered it.
    Responder,
}

impl Sender {
    /// The sender of the other direction.
    pub fn other(self) -> Sender {
        match self {
            Sender::Initiator => Sender::Responder,
            Sender::Responder => Sender::Initiator,
        }
    }
}

/// The tag of a frame that comes next in a direction.
pub(super) fn tag(key: &TagKey, sender: Sender, progress: &Progress, frame: &[u8]) -> [u8; TAG_BYTES] {
    mac(key, sender, progress, frame).finalize_fixed().into()
}

/// Whether this is the tag of the frame that comes next in a direction; the time it takes does not tell how much of it
/// is right.
pub(super) fn is_tag(key: &TagKey, sender: Sender, progress: &Progress, frame: &[u8], tag: &[u8]) -> bool {
    mac(key, sender, progress, frame).verify_slice(tag).is_ok()
}

fn mac(key: &TagKey, sender: Sender, progress: &Progress, frame: &[u8]) -> Blake2sMac<U16> {
    let mut mac = keyed::<Blake2sMac<U16>>(&key.0);
    mac.update(&[match sender {
        Sender::Initiator => 0,
        Sender::Responder => 1,
    }]);
    mac.update(&progress.records.to_be_bytes());
    mac.update(&progress.data_bytes.to_be_bytes());
    mac.update(frame);
    mac
}

fn keyed<M: blake2::digest::KeyInit<KeySize = U32>>(key: &[u8; 32]) -> M {
    M::new(key.into())
}
