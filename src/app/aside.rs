//! Words for standard error that do not go through the log.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::base::mailbox::Mailbox;

/// Writes to standard error, and waits no longer than this until it is done. Where no thread can be made it waits as
/// long as that takes: no loop runs then.
pub(super) fn write_aside(text: String, time: Duration) {
    let words = Arc::new(Mailbox::default());
    words.leave(|content| *content = text);
    let to_write = words.clone();
    match thread::Builder::new().name("failure".into()).spawn(move || to_write.serve(write)) {
        Ok(_) => drop(words.wait_until_done(time)),
        Err(_) => write(words.take()),
    }
}

fn write(text: String) {
    let _ = io::stderr().write_all(text.as_bytes());
}
