//! What travels between server and client, without any I/O: the [`handshake`] that proves a key, the [`record`]s that
//! carry frames, the [`frame`]s of sessions and the frames of the [`control`] connection.
//!
//! Everything that arrives from the network is parsed here into typed values. A length is checked before
//! anything is buffered, and nothing is allocated by a length that a peer sent.

pub mod control;
pub mod frame;
pub mod handshake;
mod primitives;
pub mod publication;
pub mod record;
mod resuming;
mod tags;

use std::net::IpAddr;

/// Unknown frames of this kind and above may be skipped.
const FIRST_SKIPPED_KIND: u8 = 128;
/// Bytes of an IP address on the wire: IPv6, or IPv4 mapped into it.
const MAPPED_IP_BYTES: usize = 16;

fn mapped(ip: IpAddr) -> [u8; MAPPED_IP_BYTES] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Passes over extensions to the end of the frame, of which this version knows none.
fn skip_extensions(fields: &mut Fields) -> Option<()> {
    while extension(fields)?.is_some() {}
    Some(())
}

/// The next extension, its type and its bytes; `Some(None)` at the end of the frame, `None` if it is broken.
#[allow(clippy::option_option)]
fn extension<'a>(fields: &mut Fields<'a>) -> Option<Option<(u16, &'a [u8])>> {
    if fields.is_empty() {
        return Some(None);
    }
    let (kind, length) = (fields.u16()?, fields.u16()?);
    Some(Some((kind, fields.take(length.into())?)))
}

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
