//! What facts are as fields, for programs that read the log. A fact has the same values here as in
//! [`words`](super::words).

use std::fmt::{self, Display};
use std::time::Duration;

use super::ending::Ending;
use super::fact::Fact;
use super::input::Traffic;
use crate::wire::control::GrantedAddress;

/// Who takes the fields of a fact, one by one.
pub trait Fields {
    /// A name, an address, a reason.
    fn text(&mut self, name: &'static str, value: fmt::Arguments<'_>);
    /// A count or a number.
    fn number(&mut self, name: &'static str, value: u64);
    /// A time.
    fn seconds(&mut self, name: &'static str, value: Duration);
}

/// Shows each value as text, under the name before it.
macro_rules! texts {
    ($to:ident, $($name:literal $value:expr),+) => {{
        $($to.text($name, format_args!("{}", $value));)+
    }};
}

/// Where users connect, separated by commas.
struct Addresses<'a>(&'a [GrantedAddress]);

impl Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, GrantedAddress { ip, ports }) in self.0.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            match ip.is_ipv6() {
                true => write!(f, "{comma}[{ip}]:{ports}")?,
                false => write!(f, "{comma}{ip}:{ports}")?,
            }
        }
        Ok(())
    }
}

impl Fact {
    /// What happened, in a few words that never change.
    #[cold]
    pub fn event(&self) -> &'static str {
        match self {
            Fact::ClientCame { .. } => "client came",
            Fact::ClientGone { .. } => "client gone",
            Fact::ClientReturned { .. } => "client returned",
            Fact::ClientLeaves { .. } => "client leaves",
            Fact::ClientRefused { .. } => "client refused",
            Fact::Published { .. } => "published",
            Fact::Exposed { .. } => "exposed",
            Fact::PortNotOpened { .. } => "port not opened",
            Fact::PublicationDenied { .. } => "publication denied",
            Fact::NotAdmitted { .. } => "not admitted",
            Fact::TicketsExpired { .. } => "message connections missing",
            Fact::UserLeft { reason, .. } if reason.is_refusal() => "user refused",
            Fact::UserLeft { served: false, .. } => "user left unserved",
            Fact::UserLeft { .. } | Fact::SessionEnded { .. } => "session ended",
            Fact::UserShed { .. } | Fact::LocalFailed { .. } => "user refused",
            Fact::ServiceFails { .. } => "service fails",
            Fact::ServiceProved { .. } => "service proved",
            Fact::Draining { .. } => "draining",
            Fact::DrainOver { .. } => "drain over",
            Fact::AddressInUse { .. } => "address in use",
            Fact::NotListening { .. } => "not listening",
            Fact::Reloaded { .. } | Fact::ClientReloaded { .. } => "reloaded",
            Fact::ReloadRefused { .. } => "reload refused",
            Fact::Connecting { .. } => "connecting",
            Fact::Connected { .. } => "connected",
            Fact::Asked { .. } => "asked",
            Fact::Unpublished { .. } => "unpublished",
            Fact::Granted { .. } => "granted",
            Fact::Denied { withdrawn: true, .. } => "withdrawn",
            Fact::Denied { .. } => "denied",
            Fact::Refused { .. } => "refused by the server",
            Fact::ServerUnreachable { .. } => "server unreachable",
            Fact::ServerUnproved { .. } => "handshake not answered",
            Fact::NotWelcomed { .. } => "not welcomed",
            Fact::ServerSilent { .. } => "server silent",
            Fact::ServerBack { .. } => "server heard again",
            Fact::ServerDrains { .. } => "server drains",
            Fact::LinkLost { .. } => "link lost",
            Fact::NextAttempt { .. } => "next attempt",
            Fact::Unresolved { .. } => "name not resolved",
            Fact::LocalName { .. } => "local name",
            Fact::MessageFailed { .. } => "message connection failed",
            Fact::MessageArrived { .. } => "message connections come through",
            Fact::Duplicate { .. } => "duplicate",
            Fact::DialsSlow { .. } => "dials slow",
            Fact::AcceptPaused { .. } => "accept paused",
            Fact::NotWatched { .. } => "not watched",
            Fact::OptionMissing { .. } => "option missing",
        }
    }

    /// Shows each field.
    #[cold]
    pub fn fields(&self, to: &mut impl Fields) {
        match self {
            Fact::ServiceFails { service, client, reason } => {
                texts!(to, "service" service, "reason" reason);
                client.iter().for_each(|(key, address)| texts!(to, "key" key, "client" address));
            }
            Fact::ServiceProved { service, client } => {
                texts!(to, "service" service);
                client.iter().for_each(|(key, address)| texts!(to, "key" key, "client" address));
            }
            Fact::ClientCame { link, key, peer } => texts!(to, "link" link, "key" key, "client" peer),
            Fact::ClientGone { link, key, peer, reason } => {
                texts!(to, "link" link, "key" key, "client" peer, "reason" reason);
            }
            Fact::ClientReturned { link, before, key, peer } => {
                texts!(to, "link" link, "before" before, "key" key, "client" peer);
            }
            Fact::ClientLeaves { link, key } => texts!(to, "link" link, "key" key),
            Fact::ClientRefused { key, peer, versions, refusal } => {
                texts!(to, "key" key, "client" peer, "versions" versions, "reason" refusal);
            }
            Fact::Published { link, key, service } => texts!(to, "link" link, "key" key, "service" service),
            Fact::Exposed { link, key, publication, ports } => {
                texts!(to, "link" link, "key" key, "service" publication, "ports" ports);
            }
            Fact::PortNotOpened { key, at, fault } => texts!(to, "key" key, "address" at, "reason" fault),
            Fact::PublicationDenied { key, service, reason } => {
                texts!(to, "key" key, "service" service, "reason" reason);
            }
            Fact::NotAdmitted { peer, reason } => texts!(to, "peer" peer, "reason" reason),
            Fact::TicketsExpired { key, count } => {
                texts!(to, "key" key);
                to.number("count", *count as u64);
            }
            Fact::UserLeft { number, user, service, key, traffic, lasted, reason, .. } => {
                let Traffic { received, sent } = *traffic;
                texts!(to, "service" service);
                key.iter().for_each(|key| texts!(to, "key" key));
                texts!(to, "user" user);
                session(to, *number, (received, sent), *lasted, Ending::User(*reason));
            }
            Fact::UserShed { peer, users, service, is_short, .. } => {
                service.iter().for_each(|service| texts!(to, "service" service));
                let allowed = "as many users are served as may be";
                let reason = if *is_short { "out of file descriptors" } else { allowed };
                texts!(to, "user" peer, "reason" reason);
                to.number("users", *users as u64);
            }
            Fact::Draining { sessions, time } => {
                to.number("sessions", *sessions as u64);
                to.seconds("seconds", *time);
            }
            Fact::DrainOver { sessions } => to.number("sessions", *sessions as u64),
            Fact::AddressInUse { at, time } => {
                texts!(to, "address" at);
                to.seconds("seconds", *time);
            }
            Fact::NotListening { at, fault } => texts!(to, "address" at, "reason" fault),
            Fact::Reloaded { source, difference } => texts!(to, "source" source, "changes" difference),
            Fact::ReloadRefused { source, fault } => texts!(to, "source" source, "reason" fault),
            Fact::Connecting { server } => texts!(to, "server" server),
            Fact::Connected { link, server, address, key } => {
                texts!(to, "link" link, "key" key, "server" server, "address" address);
            }
            Fact::Asked { service } | Fact::Unpublished { service } => texts!(to, "service" service),
            Fact::Granted { service, addresses, local } => {
                texts!(to, "service" service, "addresses" Addresses(addresses), "local" local);
            }
            Fact::Denied { service, reason, .. } => texts!(to, "service" service, "reason" reason),
            Fact::ClientReloaded { source, difference } => {
                texts!(to, "source" source, "changes" difference);
            }
            Fact::Refused { refusal } => texts!(to, "reason" refusal),
            Fact::ServerUnreachable { server, reason } | Fact::NotWelcomed { server, reason } => {
                texts!(to, "server" server, "reason" reason);
            }
            Fact::LinkLost { link, server, reason } => {
                texts!(to, "link" link, "server" server, "reason" reason);
            }
            Fact::ServerUnproved { server, key, reason } => {
                texts!(to, "server" server, "key" key, "reason" reason);
            }
            Fact::ServerSilent { link, silence } => {
                texts!(to, "link" link);
                to.seconds("seconds", *silence);
            }
            Fact::ServerBack { link, before, address, silence } => {
                texts!(to, "link" link, "address" address);
                before.iter().for_each(|before| texts!(to, "before" before));
                to.seconds("seconds", *silence);
            }
            Fact::ServerDrains { server } => texts!(to, "server" server),
            Fact::NextAttempt { pause } => to.seconds("seconds", *pause),
            Fact::Unresolved { host, purpose, why } => {
                texts!(to, "name" host.host, "purpose" purpose, "reason" why);
            }
            Fact::LocalName { service, local, fault } => {
                texts!(to, "service" service, "local" local, "reason" fault);
            }
            Fact::MessageFailed { address, reason } => texts!(to, "address" address, "reason" reason),
            Fact::MessageArrived { address } => texts!(to, "address" address),
            Fact::LocalFailed { number, user, service, local, reason } => {
                texts!(to, "service" service, "user" user, "local" local, "reason" reason);
                to.number("session", *number);
            }
            Fact::SessionEnded { number, user, service, local, traffic, lasted, reason } => {
                let Traffic { received, sent } = *traffic;
                texts!(to, "service" service, "user" user, "local" local);
                session(to, *number, (sent, received), *lasted, Ending::Proxy(*reason));
            }
            Fact::Duplicate { number } => to.number("session", *number),
            Fact::DialsSlow { address, mean } => {
                texts!(to, "address" address);
                to.seconds("seconds", *mean);
            }
            Fact::AcceptPaused { at, fault } => texts!(to, "address" at, "reason" fault),
            Fact::NotWatched { fault } => texts!(to, "reason" fault),
            Fact::OptionMissing { name, fault } => texts!(to, "option" name, "reason" fault),
        }
    }
}

/// What both sides say of a session: its bytes from the user and to it among others.
fn session(to: &mut impl Fields, number: u64, (from, towards): (u64, u64), lasted: Duration, ending: Ending) {
    to.number("session", number);
    to.number("in", from);
    to.number("out", towards);
    to.seconds("seconds", lasted);
    texts!(to, "reason" ending);
}
