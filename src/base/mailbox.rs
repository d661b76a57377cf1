//! What one thread leaves for another that may be slow. Leaving never waits: what was left before and is not taken yet
//! is changed, so that it is the newest that is taken.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A place for something to be taken; its default is nothing.
#[derive(Default)]
pub struct Mailbox<T> {
    inside: Mutex<Inside<T>>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside<T> {
    content: T,
    /// What was taken is not done with.
    is_busy: bool,
}

impl<T: Default> Mailbox<T> {
    /// Leaves something, beside or in place of what is there.
    pub fn leave(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock().content);
        self.changed.notify_all();
    }

    /// Takes all that is left, which may be nothing.
    pub fn take(&self) -> T {
        std::mem::take(&mut self.lock().content)
    }
}

impl<T: Default + PartialEq> Mailbox<T> {
    /// Does something with all that is left, for ever.
    pub fn serve(&self, mut act: impl FnMut(T)) {
        let nothing = T::default();
        loop {
            let mut inside = self.lock();
            inside.is_busy = false;
            self.changed.notify_all();
            while inside.content == nothing {
                inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
            }
            inside.is_busy = true;
            let content = std::mem::take(&mut inside.content);
            drop(inside);
            act(content);
        }
    }

    /// Waits until something is left, but no longer than this.
    pub fn wait_for_more(&self, time: Duration) {
        let nothing = T::default();
        let waited = self.changed.wait_timeout_while(self.lock(), time, |inside| inside.content == nothing);
        drop(waited);
    }

    /// Waits until everything is done with; false if that takes longer.
    pub fn wait_until_done(&self, time: Duration) -> bool {
        let nothing = T::default();
        let is_open = |inside: &mut Inside<T>| inside.is_busy || inside.content != nothing;
        let waited = self.changed.wait_timeout_while(self.lock(), time, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, Inside<T>> {
        // No holder can leave it half changed.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
