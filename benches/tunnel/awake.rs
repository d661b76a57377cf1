//! Keeps the machine's cores awake while something over a line is measured.
//!
//! A core of a virtual machine that has nothing to do is taken away by its host, and comes back 0.1 to 3 ms after its
//! timer was due. A line's packets would be late by that, at each of the six stages of a burst. So each core gets a
//! process that is always ready and gives way to all others (SCHED_IDLE, sched(7)).

use std::io;
use std::path::Path;
use std::thread::available_parallelism;

use super::process::{Folder, Process, end_with_parent};

/// The helper's word.
pub const WORD: &str = "awake";

/// Starts a process for each core, by taskset(1) and chrt(1). Dropping them lets the cores sleep again.
pub fn keep(folder: &Folder) -> io::Result<Vec<Process>> {
    let this = std::env::current_exe()?;
    let this = this.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let start = |core: usize| {
        let arguments = ["--cpu-list", &core.to_string(), "chrt", "--idle", "0", this, WORD];
        Process::start(Path::new("taskset"), &arguments, folder.file("awake.log"))
    };
    (0..available_parallelism()?.get()).map(start).collect()
}

/// Is ready for ever.
pub fn run() -> ! {
    end_with_parent();
    loop {
        std::hint::spin_loop();
    }
}
