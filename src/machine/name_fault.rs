//! What may be wrong with the name of a local server.

use std::fmt;

/// What is wrong with the name of a local server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// It could not be resolved, for this reason, and leads nowhere.
    Unresolved(Box<str>),
    /// It could not be resolved, for this reason; the addresses that it had before are used.
    Outdated(Box<str>),
    /// It was not resolved in time.
    Late,
}

impl NameFault {
    /// The fault alone, by which complaints are throttled.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unresolved(_) => "name unresolved",
            Self::Outdated(_) => "name outdated",
            Self::Late => "name late",
        }
    }
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(why) => write!(f, "could not be resolved ({why}); its users are refused"),
            Self::Outdated(why) => {
                write!(f, "could not be resolved ({why}); the addresses that it had are used")
            }
            Self::Late => f.write_str("was not resolved in time; its users are refused"),
        }
    }
}
