//! A byte buffer at a chosen place within a page. Where the target of a copy lies a few bytes behind its source within
//! a page, memcpy(3) by `rep movsb` is up to 25 times slower (seen on EPYC), and a record's length and tag put
//! plaintext just there if the buffers of both begin alike: opening then takes longer to copy than to decipher.

use std::ops::{Deref, DerefMut};

const PAGE_BYTES: usize = 4096;

/// Bytes that never move.
pub struct Buffer {
    bytes: Box<[u8]>,
    from: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros that begin `offset` bytes behind the beginning of a page.
    fn new(len: usize, offset: usize) -> Buffer {
        let bytes = vec![0; len + PAGE_BYTES].into_boxed_slice();
        let from = offset.wrapping_sub(bytes.as_ptr().addr()) % PAGE_BYTES;
        Buffer { bytes, from, len }
    }

    /// What was read, and the plaintext that is sealed: `len` bytes.
    pub fn raw(len: usize) -> Buffer {
        Buffer::new(len, 0)
    }

    /// What copies of [`Buffer::raw`] are made in, half a page apart from it: `len` bytes.
    pub fn clear(len: usize) -> Buffer {
        Buffer::new(len, PAGE_BYTES / 2)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..self.from + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_where_they_should_and_are_as_long() {
        for len in [0, 1, 1_000, 4_096, 64 * 1024, 128 * 1024] {
            let (mut raw, clear) = (Buffer::raw(len), Buffer::clear(len));
            assert_eq!((raw.len(), clear.len()), (len, len));
            assert_eq!(raw.as_ptr().addr() % PAGE_BYTES, 0);
            assert_eq!(clear.as_ptr().addr() % PAGE_BYTES, 2048);
            raw.fill(7);
            assert!(raw.iter().all(|&byte| byte == 7) && clear.iter().all(|&byte| byte == 0));
        }
    }
}
