//! Why a configuration that came while the server runs does not hold.

use std::fmt;

use super::fault::{Advised, Fault};
use crate::base::address::Listen;
use crate::base::name::Name;
use crate::config::difference::NeedsRestart;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub enum ReloadFault {
    /// Options cannot change while the server runs.
    NeedsRestart(NeedsRestart),
    /// The server cannot listen: at least one place.
    Listen(Vec<CannotListen>),
    /// The server is about to end.
    Draining,
}

/// A place where a server cannot listen.
#[derive(Clone, Debug, PartialEq)]
pub struct CannotListen {
    /// For the users of this service.
    pub service: Option<Name>,
    /// Where.
    pub at: Listen,
    /// What the system said.
    pub fault: Fault,
}

impl From<NeedsRestart> for ReloadFault {
    fn from(options: NeedsRestart) -> ReloadFault {
        ReloadFault::NeedsRestart(options)
    }
}

impl fmt::Display for ReloadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadFault::NeedsRestart(options) => write!(f, "{options}"),
            ReloadFault::Listen(all) => {
                all.first().map_or(Ok(()), |first| write!(f, "{first}"))?;
                match all.len().saturating_sub(1) {
                    0 => Ok(()),
                    others => write!(f, ", and {others} more"),
                }
            }
            ReloadFault::Draining => f.write_str("the server is draining"),
        }
    }
}

impl fmt::Display for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CannotListen { service, at, fault } = self;
        write!(f, "cannot listen on {at}")?;
        if let Some(service) = service {
            write!(f, " for users of service {service}")?;
        }
        write!(f, ": {}", Advised(*fault))
    }
}
