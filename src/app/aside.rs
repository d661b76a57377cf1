//! Words for standard error that do not go through the log.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::base::mailbox::Mailbox;
use crate::reactor::world::thread::start;

const STACK_BYTES: usize = 64 * 1024;

/// Writes to standard error, and waits no longer than this until it is done. Where no thread can be made it waits as
/// long as that takes: no loop runs then.
pub(super) fn write_aside(text: String, time: Duration) {
    let words = Arc::new(Mailbox::default());
    words.leave(|content| *content = text);
    let to_write = words.clone();
    match start("failure", STACK_BYTES, move || to_write.serve(write)) {
        Ok(_) => drop(words.wait_until_done(time)),
        Err(_) => write(words.take()),
    }
}

fn write(text: String) {
    let _ = io::stderr().write_all(text.as_bytes());
}
