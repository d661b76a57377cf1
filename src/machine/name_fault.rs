//! What may be wrong with the name of a local server.

use std::fmt;

/// What is wrong with the name of a local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// It could not be resolved, and never was.
    Unresolved,
    /// It could not be resolved; the addresses that it had before are used.
    Outdated,
    /// It was not resolved in time.
    Late,
}

impl NameFault {
    /// The fault alone, by which complaints are throttled.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Unresolved => "name unresolved",
            Self::Outdated => "name outdated",
            Self::Late => "name late",
        }
    }
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unresolved => "could not be resolved; its users are refused",
            Self::Outdated => "could not be resolved; the addresses that it had are used",
            Self::Late => "was not resolved in time; its users are refused",
        })
    }
}
