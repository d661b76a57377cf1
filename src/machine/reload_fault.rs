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
    /// The server cannot listen.
    Listen {
        /// For the users of this service.
        service: Option<Name>,
        /// Where.
        at: Listen,
        /// What the system said.
        fault: Fault,
    },
    /// The server is about to end.
    Draining,
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
            ReloadFault::Listen { service, at, fault } => {
                write!(f, "cannot listen on {at}")?;
                if let Some(service) = service {
                    write!(f, " for users of service {service}")?;
                }
                write!(f, ": {}", Advised(*fault))
            }
            ReloadFault::Draining => f.write_str("the server is draining"),
        }
    }
}
