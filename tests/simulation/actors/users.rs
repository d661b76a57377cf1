//! Hostile users of services that are served: what they come for is a session. All come from one address.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use crate::talker::{Ending, Script};
use crate::tcp::Time;

/// What they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// They say nothing, and stay: as many as there may be users.
    Lingers,
    /// They break off at once.
    Leaps,
    /// They say much that is echoed, and read nothing of it.
    Deaf,
}

/// Where they come from.
pub fn address() -> SocketAddr {
    (Ipv4Addr::new(203, 0, 113, 67), 40_000).into()
}

/// When each of them comes, and what it does; all leave at `until`.
pub fn coming(
    conduct: Conduct,
    from: Time,
    until: Time,
    bytes_max: u64,
    rng: &mut Rng,
) -> Vec<(Time, Script)> {
    let count = match conduct {
        Conduct::Lingers => 140,
        Conduct::Leaps => 60,
        Conduct::Deaf => 12,
    };
    let come = |rng: &mut Rng| match conduct {
        Conduct::Leaps => from + (until.saturating_sub(from)).mul_f64(rng.f64()),
        _ => from + Duration::from_millis(rng.u64(..1_000)),
    };
    let mut users = Vec::new();
    for _ in 0..count {
        let at = come(rng);
        let stays = until.saturating_sub(at);
        let script = match conduct {
            Conduct::Lingers => Script::plain(0, false, Ending::Stay(stays)),
            Conduct::Leaps => {
                Script::plain(0, false, Ending::Leave(Duration::from_millis(rng.u64(..100)), true))
            }
            Conduct::Deaf => {
                let script = Script::bulk(bytes_max, false, Ending::Leave(stays, true));
                Script { read_chunk: 1, read_pause: stays, ..script }
            }
        };
        users.push((at, Script { patience: stays + Duration::from_secs(1), ..script }));
    }
    users
}
