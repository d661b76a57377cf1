//! Notices that the system was suspended. The monotonic clock, by which everything here is timed, stands still
//! meanwhile; `CLOCK_BOOTTIME` goes on (clock_gettime(2)). While only the process is stopped, both go on.

use std::os::fd::OwnedFd;
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// An alarm goes off so often, and at once where the system was suspended when it should have.
#[cfg(target_os = "linux")]
const ALARM_S: i64 = 5;

/// A file that becomes readable when the system wakes, within a moment (timerfd_create(2)): a poll would sleep on for
/// as long as it had to before. `None` where the system has none; a suspension is then noticed at the next event.
#[cfg(target_os = "linux")]
pub fn alarm() -> Option<OwnedFd> {
    let alarm =
        timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC).ok()?;
    let each = Timespec { tv_sec: ALARM_S, tv_nsec: 0 };
    let times = Itimerspec { it_interval: each, it_value: each };
    timerfd_settime(&alarm, TimerfdTimerFlags::empty(), &times).ok()?;
    Some(alarm)
}

/// How long the system has been suspended since it started.
#[cfg(target_os = "linux")]
pub fn asleep() -> Duration {
    let since_start = |clock| {
        let time = clock_gettime(clock);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    // In this order: a process that is stopped in between finds less than there was, and never more.
    let all = since_start(ClockId::Boottime);
    all.saturating_sub(since_start(ClockId::Monotonic))
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub fn alarm() -> Option<OwnedFd> {
    None
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub fn asleep() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn a_process_that_waits_was_not_suspended() {
        let before = asleep();
        let alarm = alarm().expect("Linux has it");
        let patience = Timespec { tv_sec: 3 * ALARM_S, tv_nsec: 0 };
        let ready =
            poll(&mut [PollFd::new(&alarm, PollFlags::IN)], Some(&patience)).expect("it can be polled");
        assert_eq!(ready, 1, "the alarm goes off");
        let more = asleep().saturating_sub(before);
        assert!(more < Duration::from_millis(500), "{more:?}");
    }
}
