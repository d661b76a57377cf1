//! What the system allows: file descriptors, which are divided among those who need them, and no core dumps.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::status::desk;
use crate::config::ServerConfig;
use crate::config::limits::Limits;
use crate::reactor::world::ports::local_ports;

/// Forbids the kernel to write this process's memory, and the secrets in it, into a file when it crashes (core(5)). It
/// stays readable to its owner, so that its memory can be measured without root.
pub(super) fn forbid_core_dumps() {
    // Lowering a limit needs no right (getrlimit(2)); where it is refused all the same, the operator's limit stays.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// The system allows fewer file descriptors than as many users take as were asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    descriptors: usize,
    users: usize,
    asked: usize,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { descriptors, users, asked } = self;
        write!(
            f,
            "{descriptors} file descriptors are enough for {users} users at once, not for {asked}; raise the limit \
             (ulimit -n, or LimitNOFILE= of a systemd unit) or lower --max-users"
        )
    }
}

/// Lowers what a server may have to what the system gives.
pub(super) fn fit_server(config: &mut ServerConfig) -> Option<Shortage> {
    config.limits.local_ports = local_ports();
    let listeners: usize = config.services.iter().map(|service| service.listen.len()).sum();
    fit_descriptors(&mut config.limits, listeners + 2)
}

/// Raises the soft limit of file descriptors to the hard one (getrlimit(2)), and divides what there is: control
/// and message connections first, then users, and a reserve.
pub(super) fn fit_descriptors(limits: &mut Limits, listeners: usize) -> Option<Shortage> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let granted = if setrlimit(Resource::Nofile, raised).is_ok() { found.maximum } else { found.current };
    let granted = granted.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    limits.readers_max = limits.readers_max.min((granted / 64).max(2));
    let kept = limits.descriptor_reserve + listeners + desk::descriptors(limits.readers_max);
    let room = granted.saturating_sub(kept);
    let asked = limits.users_max;
    limits.share_descriptors(room);
    let users = limits.users_max;
    (limits.users_max_is_said && users < asked).then_some(Shortage { descriptors: granted, users, asked })
}
