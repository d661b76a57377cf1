//! What a configuration means, in plain words.

use std::fmt::Write as _;

use super::fault::without_secrets;
use super::moment::Shown;
use super::options::in_words;
use super::policy::{Policy, PortRules, Services, UserRules};
use super::source::Read;
use super::{ClientConfig, Policies, Publication, ServerConfig, Service};
use crate::base::network::Networks;
use crate::wire::publication::Want;

/// A list as people say it.
fn list(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().collect();
    match parts.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// A server's configuration.
#[cold]
pub fn server(read: &Read<ServerConfig>) -> String {
    let ServerConfig { services, policies, message, control, keys, plain, limits } = &read.config;
    let mut text = "a server's file\n".to_owned();
    if message == control {
        _ = writeln!(text, "  clients connect to {message}");
    } else {
        _ = writeln!(
            text,
            "  clients bring control connections to {control}, message connections to {message}"
        );
    }
    let sealed = if *plain { "is not sealed (plain)" } else { "is sealed" };
    _ = writeln!(
        text,
        "  payload {sealed}; {} message connections are kept ready for each client",
        limits.pool
    );
    _ = writeln!(
        text,
        "  at most {} users at once; a client is given up after {} of silence; sessions get {} to drain",
        limits.users_max,
        in_words(limits.heartbeat),
        in_words(limits.drain)
    );
    match keys.len() {
        0 => {
            _ = writeln!(
                text,
                "  no key file is named and there is none: the server makes {}",
                read.keys_from
            )
        }
        _ => {
            _ = writeln!(
                text,
                "  keys in {}: {}",
                read.keys_from,
                list(keys.iter().map(|key| key.name.to_string()))
            )
        }
    }
    services.iter().for_each(|service| text.push_str(&of_service(service)));
    match policies {
        Policies::Alike(ports) => {
            let asked = asked(ports).map_or("ask for no port".to_owned(), |ports| format!("ask for {ports}"));
            _ = writeln!(text, "  any key may serve each of the services and may {asked}");
        }
        Policies::Each(policies) => {
            for (name, policy) in policies.iter() {
                _ = writeln!(text, "  key {name} {}", of_policy(policy));
            }
            _ = writeln!(text, "  any other key may do nothing");
        }
    }
    without_secrets(&text)
}

#[cold]
fn of_service(service: &Service) -> String {
    let Service { name, listen, rules } = service;
    let UserRules { from, users, users_per_address, idle, probe, close_when_unserved } = rules;
    let mut text =
        format!("  service {name}: users connect to {}", list(listen.iter().map(ToString::to_string)));
    text.push_str(&origin(from));
    if let Some(users) = users {
        _ = write!(text, "; at most {users} at once");
    }
    if let Some(users) = users_per_address {
        _ = write!(text, "; at most {users} from one address");
    }
    if let Some(idle) = idle {
        _ = write!(text, "; a session without a byte for {} ends", in_words(*idle));
    }
    if !probe {
        text.push_str("; only users prove it");
    }
    if *close_when_unserved {
        text.push_str("; closed while no client serves it");
    }
    text + "\n"
}

fn origin(from: &Networks) -> String {
    if *from == Networks::all() { String::new() } else { format!("; only from {}", list(from.shown())) }
}

/// The ports that may be asked for, in words; none if there are none.
fn asked(ports: &PortRules) -> Option<String> {
    match ports {
        PortRules::All => Some("any port from 1024 up".to_owned()),
        PortRules::These(ports) if ports.is_empty() => None,
        PortRules::These(ports) => Some(format!("ports {}", list(ports.iter().map(ToString::to_string)))),
    }
}

#[cold]
fn of_policy(policy: &Policy) -> String {
    let Policy { services, ports, from, users, links, rate, expires } = policy;
    let services = match services {
        Services::All => Some("each service".to_owned()),
        Services::Named(names) if names.is_empty() => None,
        Services::Named(names) => Some(list(names.iter().map(ToString::to_string))),
    };
    let mut text = match (services, asked(ports)) {
        (None, None) => "may do nothing".to_owned(),
        (Some(services), None) => format!("may serve {services}"),
        (None, Some(ports)) => format!("may ask for {ports}"),
        (Some(services), Some(ports)) => format!("may serve {services}, and ask for {ports}"),
    };
    text.push_str(&origin(from));
    if let Some(users) = users {
        _ = write!(text, "; at most {users} users at once");
    }
    if let Some(links) = links {
        _ = write!(text, "; at most {links} clients at once");
    }
    if let Some(rate) = rate {
        _ = write!(text, "; {rate} each way");
    }
    if let Some(moment) = expires {
        _ = write!(text, "; until {}", Shown(*moment));
    }
    text
}

/// A client's configuration.
#[cold]
pub fn client(read: &Read<ClientConfig>) -> String {
    let ClientConfig { server, message, publications, key: _, plain, limits } = &read.config;
    let mut text = format!("a client's file\n  it connects to {server} with {}\n", read.keys_from);
    if let Some(message) = message {
        _ = writeln!(text, "  it brings message connections to {message}");
    }
    let sealed = if *plain { "is not sealed (plain)" } else { "is sealed" };
    _ = writeln!(
        text,
        "  payload {sealed}; the server is given up after {} of silence; sessions get {} to drain",
        in_words(limits.heartbeat),
        in_words(limits.drain)
    );
    publications.iter().for_each(|publication| text.push_str(&of_publication(publication)));
    without_secrets(&text)
}

#[cold]
fn of_publication(publication: &Publication) -> String {
    let Publication { name, want, local, dial_time, probe, share } = publication;
    let mut text = match want {
        Want::Service => format!("  service {name}: its users reach {local}"),
        Want::AnyPort => format!("  {name}: users of a port that the server chooses reach {local}"),
        Want::Ports(ports) if ports.count() == 1 => format!("  {name}: users of port {ports} reach {local}"),
        Want::Ports(ports) => {
            let last = usize::from(local.port) + ports.count() - 1;
            format!("  {name}: users of ports {ports} reach {local} to {last}")
        }
    };
    if *dial_time != super::DIAL_TIME {
        _ = write!(text, "; it has {} to connect", in_words(*dial_time));
    }
    if !probe {
        text.push_str("; only users prove it");
    }
    if *share {
        text.push_str("; shared with other clients of the key");
    }
    text + "\n"
}
