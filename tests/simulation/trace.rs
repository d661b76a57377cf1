//! The story of one replayed world on stderr: what the world does, and what the product logs about it.

use std::cell::Cell;
use std::time::Duration;

use log::{Log, Metadata, Record};

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static ON: Cell<bool> = const { Cell::new(false) };
}

struct Tracer;

impl Log for Tracer {
    fn enabled(&self, _: &Metadata) -> bool {
        is_on()
    }

    fn log(&self, record: &Record) {
        if is_on() {
            eprintln!("{:>12.6} {:>24} {}", NOW.get().as_secs_f64(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Turns the trace on for this thread.
pub fn start() {
    ON.set(true);
    if log::set_logger(&Tracer).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}

pub fn is_on() -> bool {
    ON.get()
}

pub fn now() -> Duration {
    NOW.get()
}

pub fn set_now(now: Duration) {
    NOW.set(now);
}

/// Tells what the world does.
#[macro_export]
macro_rules! trace {
    ($now:expr, $($arg:tt)*) => {
        if $crate::trace::is_on() {
            eprintln!("{:>12.6} {:>24} {}", $now.as_secs_f64(), "world", format_args!($($arg)*));
        }
    };
}
