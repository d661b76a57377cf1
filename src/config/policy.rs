//! What the holder of a key may do, and which users a service takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::base::name::Name;
use crate::base::network::Networks;
use crate::base::ports::PortsAt;
use crate::base::rate::Rate;

/// What the holder of a key may do: `[key.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The declared services that it may serve.
    pub services: Services,
    /// The ports that it may ask for.
    pub ports: PortRules,
    /// Where its client may connect from.
    pub from: Networks,
    /// Users of all its publications together, at most.
    pub users: Option<usize>,
    /// Links at once, at most.
    pub links: Option<usize>,
    /// Bytes of all its sessions together, each way.
    pub rate: Option<Rate>,
    /// It may do nothing from then on.
    pub expires: Option<SystemTime>,
}

/// Services that a key may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Services {
    /// Each that the server declares.
    All,
    /// These.
    Named(BTreeSet<Name>),
}

impl Services {
    /// Whether it is one of them.
    pub fn contain(&self, name: &Name) -> bool {
        match self {
            Services::All => true,
            Services::Named(names) => names.contains(name),
        }
    }
}

impl Default for Services {
    fn default() -> Services {
        Services::Named(BTreeSet::new())
    }
}

/// Ports that a key may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRules {
    /// Ports 1024 and above, at all interfaces, but for those of the server itself.
    All,
    /// These.
    These(Arc<[PortsAt]>),
}

impl Default for PortRules {
    fn default() -> PortRules {
        PortRules::These(Arc::from([]))
    }
}

/// Which users a service takes, and how long they may stay: `[service.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRules {
    /// Where they may connect from.
    pub from: Networks,
    /// How many at once.
    pub users: Option<usize>,
    /// How many at once from one address; a /64 of IPv6 counts as one.
    pub users_per_address: Option<usize>,
    /// How long a session may go on without a byte in either direction. It ends up to a quarter of this time later.
    pub idle: Option<Duration>,
    /// Whether the server proves the service by probes, where no user does.
    pub probe: bool,
    /// Whether its ports are closed while no client serves it.
    pub close_when_unserved: bool,
}

impl Default for UserRules {
    fn default() -> UserRules {
        UserRules {
            from: Networks::all(),
            users: None,
            users_per_address: None,
            idle: None,
            probe: true,
            close_when_unserved: false,
        }
    }
}
