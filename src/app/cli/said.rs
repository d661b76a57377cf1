//! What a command line says becomes what a file would say: whether its values fit together is decided here.

use std::path::Path;
use std::time::Duration;

use super::arguments::{Askable, ClientArguments, ServerArguments};
use super::beside::{self, Given};
use super::{Failure, default_service};
use crate::base::address::Listen;
use crate::base::name::Name;
use crate::base::sorted::Set;
use crate::config::file::{ClientSaid, Running, ServerSaid, for_metrics, same_file_of_flags};
use crate::config::limits::Limits;
use crate::config::options::Side;
use crate::config::places::Places;
use crate::config::policy::PortRules;
use crate::config::source::Source;
use crate::config::{Policies, Publication, REQUEST_PORT, Service};
use crate::wire::publication::{Ports, Want};

/// Where a server's command line has its configuration from: a file that it names, or itself.
#[cold]
pub(super) fn server(arguments: ServerArguments, given: &[Given]) -> Result<Source<ServerSaid>, Failure> {
    let flags = Running {
        log_level: arguments.log_level.map(|level| level.to_string()),
        log_format: arguments.log_format,
        log_file: arguments.log_file,
        ready_file: None,
        metrics: arguments.metrics,
        status: arguments.status,
    };
    if let Some(path) = arguments.config {
        beside::none(Side::Server, given, &path)?;
        return Ok(Source::File { path, flags });
    }
    all_files_differ(Side::Server, &flags, arguments.keys.as_deref())?;
    let mut services: Vec<(Name, Listen)> = Vec::new();
    let others = arguments.service.into_iter().map(|service| (service.name, service.address));
    services.extend(arguments.request.map(|address| (default_service(), address)));
    services.extend(others);
    if !services.iter().any(|(name, _)| *name == default_service()) {
        services.insert(0, (default_service(), Listen::Any(REQUEST_PORT)));
    }
    all_differ(services.iter().map(|(name, _)| name))?;
    let mut limits = Limits::default();
    if services.len() > limits.services_max {
        return Err(Failure::TooManyServices(services.len(), limits.services_max));
    }
    let mut places = Places::default();
    places.add_clients(Some((arguments.message, None)), Some((arguments.control, None)));
    if let Some(at) = arguments.metrics {
        places.add(for_metrics(at), None, "metrics".to_owned());
    }
    for (name, at) in &services {
        places.add(*at, None, format!("service {name}"));
    }
    if let Some((_, second)) = places.overlaps().first() {
        return Err(Failure::SamePlace(second.at));
    }

    if let Some(pool) = arguments.pool {
        limits.pool = pool.0 as usize;
    }
    if let Some(seconds) = arguments.heartbeat {
        limits.heartbeat = Duration::from_secs(seconds.0.into());
    }
    if let Some(seconds) = arguments.drain {
        limits.drain = Duration::from_secs(seconds.0.into());
    }
    if let Some(users) = arguments.max_users {
        (limits.users_max, limits.users_max_is_said) = (users.0 as usize, true);
    }
    let said = ServerSaid {
        services: services.into_iter().map(|(name, at)| Service::new(name, at)).collect(),
        policies: Policies::Alike(askable(arguments.ports)?),
        message: arguments.message,
        control: arguments.control,
        plain: arguments.plain,
        limits,
        keys: None,
        running: flags,
        policies_at: Vec::new(),
    };
    Ok(Source::Flags { said, keys: arguments.keys })
}

/// The ports of all flags together.
#[cold]
fn askable(flags: Vec<Askable>) -> Result<PortRules, Failure> {
    let mut all = Vec::new();
    let is_one = flags.len() == 1;
    for Askable(rules) in flags {
        match rules {
            PortRules::All if is_one => return Ok(PortRules::All),
            PortRules::All => {
                let problem = "wanted --ports '*' alone, or --ports without '*'".to_owned();
                return Err(Failure::Usage { command: "skyorg server", problem });
            }
            PortRules::These(ports) => all.extend(ports.iter().copied()),
        }
    }
    Ok(PortRules::These(all.into()))
}

/// Where a client's command line has its configuration from: a file that it names, or itself.
#[cold]
pub(super) fn client(arguments: ClientArguments, given: &[Given]) -> Result<Source<ClientSaid>, Failure> {
    let flags = Running {
        log_level: arguments.log_level.map(|level| level.to_string()),
        log_format: arguments.log_format,
        log_file: arguments.log_file,
        ready_file: arguments.ready_file,
        metrics: arguments.metrics,
        status: arguments.status,
    };
    if let Some(path) = arguments.config {
        beside::none(Side::Client, given, &path)?;
        return Ok(Source::File { path, flags });
    }
    all_files_differ(Side::Client, &flags, arguments.key.as_deref())?;
    let server = arguments.server.ok_or(Failure::NoServer)?.0;
    let local = arguments.local.map(|address| Publication::of_service(default_service(), address.0));
    let others = arguments.publish.into_iter();
    let others = others.map(|service| Publication::of_service(service.name, service.address.0));
    let exposed = arguments.expose.into_iter().map(|expose| Publication {
        want: expose.want,
        ..Publication::of_service(expose.name, expose.local)
    });
    let publications: Vec<Publication> = local.into_iter().chain(others).chain(exposed).collect();
    let mut limits = Limits::default();
    let max = limits.publications_per_client_max;
    match publications.len() {
        0 => return Err(Failure::NothingToPublish),
        count if count > max => return Err(Failure::TooManyPublications(count, max)),
        _ => all_differ(publications.iter().map(|publication| &publication.name))?,
    }
    let mut ranges: Vec<Ports> = Vec::new();
    for publication in &publications {
        let Want::Ports(ports) = publication.want else { continue };
        if let Some(other) = ranges.iter().find(|other| other.overlaps(ports)) {
            let problem = format!("wanted ports of its own for each --expose, found {ports} beside {other}");
            return Err(Failure::Usage { command: "skyorg client", problem });
        }
        ranges.push(ports);
    }

    if let Some(seconds) = arguments.heartbeat {
        limits.heartbeat = Duration::from_secs(seconds.0.into());
    }
    if let Some(seconds) = arguments.drain {
        limits.drain = Duration::from_secs(seconds.0.into());
    }
    let said = ClientSaid {
        server: Some(server),
        message: arguments.message.map(|address| address.0),
        publications,
        plain: arguments.plain,
        limits,
        key: None,
        running: flags,
    };
    Ok(Source::Flags { said, keys: arguments.key })
}

#[cold]
fn all_files_differ(side: Side, flags: &Running, key: Option<&Path>) -> Result<(), Failure> {
    same_file_of_flags(side, flags, key).map_or(Ok(()), |what| Err(Failure::SameFile(what)))
}

#[cold]
fn all_differ<'a>(names: impl Iterator<Item = &'a Name>) -> Result<(), Failure> {
    let mut seen = Set::default();
    for name in names {
        if !seen.insert(name) {
            return Err(Failure::SameService(name.clone()));
        }
    }
    Ok(())
}
