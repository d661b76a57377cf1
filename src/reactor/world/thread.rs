//! Threads beside the loop.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with a stack of this size. What it does is boxed, so that starting one is in the executable once.
pub fn start(
    name: &str,
    stack_bytes: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let run: Box<dyn FnOnce() + Send> = Box::new(run);
    Builder::new().name(name.to_owned()).stack_size(stack_bytes).spawn(run)
}
