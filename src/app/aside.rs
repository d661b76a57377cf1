//! Words for standard error that do not go through the log.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Writes to standard error, and waits no longer than this until it is done. Where no thread can be made it waits as
/// long as that takes: no loop runs then.
pub(super) fn write_aside(text: String, time: Duration) {
    let (done, is_done) = channel();
    let words: Arc<str> = text.into();
    let to_write = words.clone();
    let write = move || {
        let _ = io::stderr().write_all(to_write.as_bytes());
        let _ = done.send(());
    };
    match thread::Builder::new().name("failure".into()).spawn(write) {
        Ok(_) => drop(is_done.recv_timeout(time)),
        Err(_) => drop(io::stderr().write_all(words.as_bytes())),
    }
}
