//! Clients that would serve a service, and may not.
//!
//! What is kept is who it was. Why it may not follows from the rules as they are when somebody looks, so what changes
//! them need not come here. A client that leaves by itself is none of them.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::clocks::Clocks;
use crate::base::id::{ServiceId, kind};
use crate::base::name::Name;
use crate::base::table::Table;
use crate::config::policy::{Policy, Services as Allowed};
use crate::machine::Reason;
use crate::server::holders::{Holder, Holders};
use crate::server::services::Services;
use crate::wire::control::{Denial, Refusal};
use crate::wire::handshake::KeyId;

/// The last one of each service that nobody serves; see the module.
#[derive(Default)]
pub(in crate::server) struct Barred(Table<kind::Service, (KeyId, SocketAddr)>);

impl Barred {
    /// A client of this key and address would serve a service.
    pub fn note(&mut self, service: ServiceId, client: (KeyId, SocketAddr), services: &Services) {
        if !services.is_served(service) {
            self.0.insert(service, client);
        }
    }

    /// A client that holds a key came from this address. It would serve what the policy of the key names.
    pub fn came(&mut self, holder: &Holder, peer: SocketAddr, services: &Services) {
        let named = match &holder.policy {
            Some(Policy { services: Allowed::Named(names), .. }) => names,
            _ => return,
        };
        for service in named.iter().filter_map(|name| services.id(name)) {
            self.note(service, (holder.key_id, peer), services);
        }
    }

    /// Somebody serves a service, or it is gone.
    pub fn forget(&mut self, service: ServiceId) {
        self.0.remove(service);
    }

    /// Why the client may not serve the service of this name, if there is one and it may not.
    pub fn reason(
        &self,
        (service, name): (ServiceId, &Name),
        holders: &Holders,
        (clocks, now): (Clocks, Instant),
    ) -> Option<Reason> {
        let (key, peer) = self.0.get(service)?;
        let Some(holder) = holders.of_key_id(key).and_then(|id| holders.get(id)) else {
            return Some(Reason::KeyRevoked);
        };
        match holder.refusal(*peer, clocks, now) {
            Some(Refusal::Expired) => Some(Reason::KeyExpired),
            Some(_) => Some(Reason::Denied(Denial::Policy)),
            None => (!holder.may_serve(name)).then_some(Reason::Denied(Denial::Policy)),
        }
    }
}
