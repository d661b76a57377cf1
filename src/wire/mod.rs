//! What travels between server and client, without any I/O: the [`handshake`] that proves a key, the
//! [`record`]s that carry frames, and the [`frame`]s themselves.
//!
//! Everything that arrives from the network is parsed here into typed values. A length is checked before
//! anything is buffered, and nothing is allocated by a length that a peer sent.

pub mod frame;
pub mod handshake;
mod primitives;
pub mod record;

/// A field reader over one decoded frame. Running out of bytes is an error, never a panic.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
