//! Lines of the log that wait to be written, and what finds no room among them.

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{DROPPED, Place};

/// Most bytes of lines that wait: those of some 4,000 sessions that end at once. As many again may be on their way to
/// the log's place.
pub(super) const WAITING_BYTES_MAX: usize = 512 * 1024;
/// Room that each of the two buffers keeps when a burst of lines is over.
const KEPT_BYTES: usize = 8 * 1024;

/// Lines that wait to be written.
#[derive(Default)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    /// There is something to do.
    filled: Condvar,
    /// There is nothing more to do; told only while somebody waits for that.
    drained: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines after these that found no room. Until they are told of there is room for none, however short: what is
    /// dropped is one gap.
    dropped: u64,
    /// The log goes on in this place after so many bytes of these lines.
    next: Option<(usize, Place)>,
    /// The writing thread sleeps.
    idle: bool,
    /// The process ends.
    ends: bool,
}

/// What there is to do besides writing the lines.
pub(super) struct Taken {
    pub dropped: u64,
    /// The log goes on in this place after so many bytes of the lines.
    pub next: Option<(usize, Place)>,
}

impl Buffer {
    /// Adds whole lines, or drops them if there is no room.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.dropped == 0 && waiting.make_room(line.len()) {
            waiting.lines.extend_from_slice(line);
        } else {
            // It is counted now: the writing thread may hang for as long as lines are dropped.
            let dropped = count_lines(line);
            waiting.dropped += dropped;
            DROPPED.fetch_add(dropped, Ordering::Relaxed);
        }
        self.wake(waiting);
    }

    pub fn ask_to_go_on_in(&self, place: Place) {
        let mut waiting = self.lock();
        waiting.next = Some((waiting.lines.len(), place));
        self.wake(waiting);
    }

    /// Wakes the writing thread if it sleeps and was not woken yet, which spares a system call per line.
    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let idle = mem::take(&mut waiting.idle);
        drop(waiting);
        if idle {
            self.filled.notify_one();
        }
    }

    /// Sleeps until there is something to do, and swaps the lines for an empty buffer.
    pub fn take(&self, lines: &mut Vec<u8>) -> Taken {
        lines.clear();
        lines.shrink_to(KEPT_BYTES);
        let mut waiting = self.lock();
        while waiting.is_empty() {
            waiting.idle = true;
            if waiting.ends {
                self.drained.notify_all();
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        mem::swap(&mut waiting.lines, lines);
        Taken { dropped: mem::take(&mut waiting.dropped), next: waiting.next.take() }
    }

    /// Waits until everything is written, or until the time is over.
    pub fn drain(&self, time: Duration) {
        let mut waiting = self.lock();
        waiting.ends = true;
        let is_busy = |waiting: &mut Waiting| !(waiting.idle && waiting.is_empty());
        let _ = self.drained.wait_timeout_while(waiting, time, is_busy);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No holder can leave it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0 && self.next.is_none()
    }

    /// Makes room for this many bytes more; false if that would be too many.
    fn make_room(&mut self, bytes: usize) -> bool {
        let (wanted, capacity) = (self.lines.len() + bytes, self.lines.capacity());
        if wanted > WAITING_BYTES_MAX {
            return false;
        }
        if wanted > capacity {
            let room = wanted.max(2 * capacity).clamp(KEPT_BYTES, WAITING_BYTES_MAX);
            self.lines.reserve_exact(room - self.lines.len());
        }
        true
    }
}

/// How many lines these are.
pub(super) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Buffer {
        /// Bytes that wait, in no more memory than there may be, and lines that were dropped after them.
        pub fn held(&self) -> (usize, u64) {
            let waiting = self.lock();
            assert!(waiting.lines.capacity() <= WAITING_BYTES_MAX);
            (waiting.lines.len(), waiting.dropped)
        }
    }

    #[test]
    fn room_is_given_back() {
        let (buffer, mut batch) = (Buffer::default(), Vec::new());
        for _ in 0..2 {
            buffer.push(b"z\n");
            buffer.take(&mut batch);
            assert!(batch.capacity() <= KEPT_BYTES, "{}", batch.capacity());
            batch.reserve(10 * KEPT_BYTES);
        }
    }

    #[test]
    fn after_a_gap_no_shorter_line_slips_in() {
        let buffer = Buffer::default();
        buffer.push(&[b'a'; WAITING_BYTES_MAX - 1]);
        buffer.push(b"too long\n");
        buffer.push(b"\n");
        assert_eq!(buffer.take(&mut Vec::new()).dropped, 2);
        buffer.push(b"there is room\n");
        let mut lines = Vec::new();
        assert_eq!((buffer.take(&mut lines).dropped, &lines[..]), (0, &b"there is room\n"[..]));
    }
}
