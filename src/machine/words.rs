//! What facts are in words.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;

use super::close::CloseReason;
use super::ending::Ending;
use super::fact::Fact;
use super::fault::Advised;
use super::input::Traffic;
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::base::sorted::Set;
use crate::wire::control::{Denial, GrantedAddress, Ports, Refusal};

/// The system has no local port left for a dial (connect(2), EADDRNOTAVAIL).
pub(super) fn has_no_port(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::DialFailed(fault) if fault.kind() == ErrorKind::AddrNotAvailable)
}

/// Why local ports are scarce, and what helps (ip-sysctl).
const PORTS_ADVICE: &str = "too many connections from this host to it are open or in TIME_WAIT; \
                            net.ipv4.tcp_tw_reuse=1 and a wider net.ipv4.ip_local_port_range help";

/// The ports at which users connect, each once: `port 443`, `ports 443, 8000-8099`.
struct PortsOf<'a>(&'a [GrantedAddress]);

impl fmt::Display for PortsOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Set<Ports> = self.0.iter().map(|address| address.ports).collect();
        let count: usize = ports.iter().map(|ports| ports.count()).sum();
        f.write_str(if count > 1 { "ports" } else { "port" })?;
        for (place, ports) in ports.into_iter().enumerate() {
            write!(f, "{} {ports}", if place > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// How the server would know a service that it does not.
struct Declared<'a>(&'a Name, &'a Denial);

impl fmt::Display for Declared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Declared(name, Denial::UnknownService) = self else { return Ok(()) };
        write!(
            f,
            "; start the server with --service {name}=ADDR, or write [service.{}] into its file",
            name.in_file()
        )
    }
}

/// Who offers a service, where that is to be told.
struct Of<'a>(Option<&'a (Name, SocketAddr)>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |(key, address)| write!(f, " of client {key} from {address}"))
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::ClientCame { link, key, peer } => write!(f, "{link} client {key} connected from {peer}"),
            Fact::ClientReturned { link, before, key, peer } => {
                write!(f, "{link} client {key} came back from {peer}, in the place of {before}")
            }
            Fact::ClientGone { link, key, peer, reason } => {
                write!(f, "{link} client {key} from {peer} is gone: {reason}")
            }
            Fact::ClientLeaves { link, key } => {
                write!(f, "{link} client {key} is leaving; its running sessions go on")
            }
            Fact::ClientRefused { key, peer, versions, refusal } => {
                write!(f, "client {key} from {peer} was refused: ")?;
                match refusal {
                    Refusal::Versions(server) => write!(
                        f,
                        "no protocol version in common: this server speaks {server}, the client {versions}; install \
                         the same skyorg on both sides"
                    ),
                    refusal => write!(f, "{refusal}"),
                }
            }
            Fact::Published { link, key, service } => write!(f, "{link} client {key} publishes {service}"),
            Fact::Exposed { link, key, publication, ports } => {
                write!(f, "{link} client {key} exposes {publication}: its users connect to port {ports}")
            }
            Fact::PortNotOpened { key, at, fault } => {
                write!(f, "cannot listen on {at} for client {key}: {}", Advised(*fault))
            }
            Fact::PublicationDenied { key, service, reason } => {
                write!(f, "client {key} may not publish {service}: {reason}{}", Declared(service, reason))
            }
            Fact::NotAdmitted { peer, reason } => {
                write!(f, "{peer} was not admitted: {reason}")?;
                reason.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            Fact::TicketsExpired { key, count } => {
                write!(
                    f,
                    "client {key} did not bring {count} message connections that it was asked for; can it reach \
                     the message port?"
                )
            }
            Fact::UserLeft { number, user, service, traffic, lasted, reason, .. } => {
                let (Traffic { received, sent }, seconds) = (traffic, Decimal::seconds(*lasted));
                write!(
                    f,
                    "#{number} user {user} of {service}: {received} bytes in, {sent} bytes out, {seconds:.3} s, {}",
                    Ending::User(*reason)
                )
            }
            Fact::UserShed { peer, users, is_short, .. } => {
                let most = if *is_short { "as many as file descriptors allow" } else { "the most allowed" };
                write!(f, "user {peer} was reset: {users} users are served, {most}")
            }
            Fact::Draining { sessions, time } => {
                write!(f, "draining: {sessions} running sessions have up to {} s to finish", time.as_secs())
            }
            Fact::DrainOver { sessions } => write!(f, "{sessions} sessions had not finished and are reset"),
            Fact::AddressInUse { at, time } => {
                write!(f, "cannot listen on {at} yet: the address is in use; trying for {} s", time.as_secs())
            }
            Fact::NotListening { at, fault } => {
                write!(f, "cannot listen on {at} again: {}; trying on", Advised(*fault))
            }
            Fact::Reloaded { source, difference } => write!(f, "reloaded {source}: {difference}"),
            Fact::ReloadRefused { source, fault } => {
                write!(f, "refused {source}: {fault}; the running configuration stays")
            }
            Fact::Connecting { server } => write!(f, "connecting to {server}"),
            Fact::Connected { link, server, address, key } => {
                write!(f, "{link} connected to {server} at {address} with key {key}")
            }
            Fact::Asked { service } => write!(f, "{service}: asked for"),
            Fact::Unpublished { service } => write!(f, "{service}: not published any more"),
            Fact::Granted { service, addresses, local } => {
                write!(f, "service {service}: users of {} reach {local}", PortsOf(addresses))
            }
            Fact::Denied { service, reason, withdrawn } => {
                let verb = if *withdrawn { "withdrawn" } else { "denied" };
                write!(f, "{service}: {verb}: {reason}{}", Declared(service, reason))
            }
            Fact::ClientReloaded { source, difference } => write!(f, "reloaded {source}: {difference}"),
            Fact::Refused { refusal } => write!(f, "{refusal}"),
            Fact::ServerUnreachable { server, reason } => write!(f, "{server}: {reason}; trying again"),
            Fact::ServerUnproved { server, key, reason } => write!(
                f,
                "{server} did not answer the handshake ({reason}): it does not know key {key}, its secret there \
                 differs, or the port is not skyorg's control port; compare the key lines on both sides, and send the \
                 server SIGHUP if its line is newer than its start"
            ),
            Fact::NotWelcomed { server, reason } => {
                write!(f, "{server} ended the connection before it admitted this client: {reason}")
            }
            Fact::ServerSilent { link, silence } => {
                write!(f, "{link} the server has been silent for {} s", silence.as_secs())
            }
            Fact::ServerBack { link, before, address, silence } => {
                write!(f, "{link} the server at {address} is heard again after {} s", silence.as_secs())?;
                before.map_or(Ok(()), |before| write!(f, ", on a new connection in the place of {before}"))
            }
            Fact::ServerDrains { server } => write!(f, "{server} drains; its running sessions go on"),
            Fact::LinkLost { link, server, reason } => {
                write!(f, "{link} connection to {server} ended: {reason}")
            }
            Fact::NextAttempt { pause } => write!(f, "next attempt in {:.1} s", Decimal::seconds(*pause)),
            Fact::Unresolved { host, purpose, why } => {
                write!(f, "the name {} of {purpose} could not be resolved ({why})", host.host)
            }
            Fact::LocalName { service, local, fault } => {
                write!(f, "service {service}: the name {} of its local server {fault}", local.host)
            }
            Fact::MessageFailed { address, reason } => {
                write!(f, "message connection to {address}: {reason}; is that port reachable from here?")
            }
            Fact::MessageArrived { address } => {
                write!(f, "message connections come through at {address} now")
            }
            Fact::LocalFailed { number, user, service, local, reason } if has_no_port(*reason) => write!(
                f,
                "#{number} user {user} of {service}: no local port is left to connect to {local}: {PORTS_ADVICE}"
            ),
            Fact::LocalFailed { number, user, service, local, reason } => write!(
                f,
                "#{number} user {user} of {service}: local server {local} did not take the connection: {reason}"
            ),
            Fact::SessionEnded { number, user, service, local, traffic, lasted, reason } => {
                let (Traffic { received, sent }, seconds) = (traffic, Decimal::seconds(*lasted));
                write!(
                    f,
                    "#{number} user {user} of {service} at {local}: {sent} bytes in, {received} bytes out, \
                     {seconds:.3} s, {}",
                    Ending::Proxy(*reason)
                )
            }
            Fact::Duplicate { number } => write!(f, "#{number} came again and has been seen already"),
            Fact::ServiceFails { service, client, reason } => {
                write!(f, "{service}{}: failing: {reason}", Of(client.as_ref()))
            }
            Fact::ServiceProved { service, client } => {
                write!(f, "{service}{}: proven again", Of(client.as_ref()))
            }
            Fact::DialsSlow { address, mean } => write!(
                f,
                "the system takes {:.1} ms to find a local port for each connection to {address}: {PORTS_ADVICE}",
                Decimal::milliseconds(*mean)
            ),
            Fact::AcceptPaused { at, fault } => {
                write!(f, "cannot take connections at {at} for now: {}", Advised(*fault))
            }
            Fact::NotWatched { fault } => write!(f, "a connection cannot be watched: {}", Advised(*fault)),
            Fact::OptionMissing { name, fault } => {
                write!(
                    f,
                    "this system does not have the socket option {name}, and sockets go without it: {fault}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::address::HostPort;

    fn local_failed(kind: ErrorKind) -> Fact {
        Fact::LocalFailed {
            number: 7,
            user: ([192, 0, 2, 1], 1234).into(),
            service: "web".parse().expect("a name"),
            local: HostPort::parse("10.0.0.5:80", None, None).expect("an address"),
            reason: CloseReason::DialFailed(kind.into()),
        }
    }

    #[test]
    fn a_local_server_is_not_blamed_where_local_ports_are_scarce() {
        assert_eq!(
            local_failed(ErrorKind::AddrNotAvailable).to_string(),
            "#7 user 192.0.2.1:1234 of web: no local port is left to connect to 10.0.0.5:80: too many connections \
             from this host to it are open or in TIME_WAIT; net.ipv4.tcp_tw_reuse=1 and a wider \
             net.ipv4.ip_local_port_range help"
        );
        let slow =
            Fact::DialsSlow { address: ([10, 0, 0, 5], 80).into(), mean: Duration::from_micros(1_640) };
        assert!(slow.to_string().starts_with(
            "the system takes 1.6 ms to find a local port for each connection to 10.0.0.5:80: too many"
        ));
        assert!(
            local_failed(ErrorKind::ConnectionRefused).to_string().contains("did not take the connection")
        );
    }

    #[test]
    fn scarce_ports_hide_no_local_server_that_is_down() {
        let [scarce, down] = [ErrorKind::AddrNotAvailable, ErrorKind::ConnectionRefused].map(local_failed);
        let cause = |fact: &Fact| crate::machine::Throttle::of(fact).map(|throttle| throttle.cause);
        assert!(cause(&scarce).is_some() && cause(&scarce) != cause(&down));
    }
}
