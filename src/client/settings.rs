//! Where the server is, and what is proved to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::dials::Dials;
use super::link::Link;
use super::names::Names;
use crate::base::address::HostPort;
use crate::base::id::{ConnId, NameId};
use crate::base::round_trip::RoundTrip;
use crate::config::Key;
use crate::machine::{Agenda, CloseReason, Fact, Greeting};
use crate::wire::control::{Capabilities, Hello, Resumes, VERSIONS, Welcome};
use crate::wire::handshake::{ClearHello, Purpose, Suite, key_id};

/// What the way leads to, and what is proved there.
pub(super) struct Settings {
    pub key: Key,
    /// Random per process.
    pub instance: [u8; 16],
    pub plain: bool,
    pub suite: Suite,
    pub server: HostPort,
    /// The server's name.
    pub name: NameId,
    /// The name of the host for message connections, if it is another.
    pub message_name: Option<NameId>,
}

impl Settings {
    /// All names that lead to the server.
    pub fn names(&self) -> impl Iterator<Item = NameId> + use<> {
        [Some(self.name), self.message_name].into_iter().flatten()
    }

    /// What a control connection proves.
    pub fn greeting(&self, heartbeat: Duration) -> Greeting {
        let secret = self.key.secret.clone();
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Control, key_id: key_id(&secret) };
        Greeting { hello, secret, ticket: 0, plain: false, heartbeat }
    }

    /// What is said on it, once the server has proved itself.
    pub fn hello(&self, heartbeat: Duration, resumes: Option<Resumes>) -> Hello {
        let (capabilities, instance) = (Capabilities::new(self.plain), self.instance);
        Hello { versions: VERSIONS, capabilities, heartbeat, instance, resumes }
    }

    /// The link that begins with a Welcome on this control connection.
    pub fn link(
        &self,
        control: ConnId,
        welcome: Welcome,
        dials: Dials,
        round_trip: RoundTrip,
        agenda: &mut Agenda,
    ) -> Link {
        let limits = &agenda.limits;
        let heartbeat = limits.heartbeat.min(welcome.heartbeat).max(limits.heartbeat_min);
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Message, key_id: welcome.link };
        let (secret, plain) = (welcome.pool_key, self.plain);
        let greeting = Greeting { hello, secret, ticket: 0, plain, heartbeat };
        let (name, now) = (self.message_name, agenda.now);
        let mut link = Link::new(control, heartbeat, greeting, dials, name, round_trip, now);
        link.capabilities = welcome.capabilities;
        link.await_ping(agenda);
        link
    }

    /// Where message connections go, as far as is known, of a server that is reached at this address.
    pub fn message_addresses(
        &self,
        address: SocketAddr,
        welcome: &Welcome,
        names: &Names,
    ) -> Vec<SocketAddr> {
        // The same address, with its scope if it is a link-local one.
        let mut message_address = address;
        message_address.set_port(welcome.message_port);
        self.message_name.map_or(vec![message_address], |name| names.found(name).to_vec())
    }

    // What people are told.

    pub fn connected(&self, link: ConnId, address: SocketAddr) -> Fact {
        Fact::Connected { link, server: self.server.clone(), address, key: self.key.name.clone() }
    }

    pub fn unreachable(&self, reason: CloseReason) -> Fact {
        Fact::ServerUnreachable { server: self.server.clone(), reason }
    }

    pub fn unproved(&self, reason: CloseReason) -> Fact {
        Fact::ServerUnproved { server: self.server.clone(), key: self.key.name.clone(), reason }
    }

    pub fn not_welcomed(&self, reason: CloseReason) -> Fact {
        Fact::NotWelcomed { server: self.server.clone(), reason }
    }
}
