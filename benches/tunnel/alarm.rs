//! A timer for what is due next, in nanoseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The times at which something has something to do, and a timer for the first of them. The wait of epoll itself counts
/// whole milliseconds.
pub struct Alarm {
    /// When which is due.
    pub due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// It is readable once something is due.
    pub timer: OwnedFd,
    set_for: Option<Instant>,
}

impl Alarm {
    /// Nothing is due.
    pub fn new() -> io::Result<Alarm> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Alarm { due: BinaryHeap::new(), timer, set_for: None })
    }

    /// Setting it again makes its next expiry an event again.
    pub fn set(&mut self) -> io::Result<()> {
        let Some(&Reverse((at, _))) = self.due.peek() else { return Ok(()) };
        if self.set_for == Some(at) {
            return Ok(());
        }
        self.set_for = Some(at);
        // Zero would switch it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
