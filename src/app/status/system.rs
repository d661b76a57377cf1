//! What the system says of this process (proc(5)). Elsewhere than on Linux most of it is unknown.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::view::System;
use crate::app::journal;

/// Asks it. That may take a while where many descriptors are open.
pub fn look() -> System {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    };
    // One of them is the folder itself, open while it is read.
    let descriptors = fs::read_dir("/proc/self/fd").ok().map(|all| (all.count() as u64).saturating_sub(1));
    let used = clock_gettime(ClockId::ProcessCPUTime);
    System {
        pid: std::process::id(),
        descriptors,
        descriptors_max: getrlimit(Resource::Nofile).current,
        memory: bytes("VmRSS"),
        mapped: bytes("VmSize"),
        processor: Duration::try_from(used).unwrap_or_default(),
        log_lines_dropped: journal::dropped_lines(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_open_files() {
        let System { pid, descriptors, memory, mapped, .. } = look();
        assert!(pid > 0 && descriptors > Some(2), "{descriptors:?}");
        assert!(memory > Some(1 << 20) && mapped >= memory, "{memory:?} {mapped:?}");
    }
}
