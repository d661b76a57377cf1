//! What a server is told, but for its keys.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::settings::Settings;
use super::{Running, for_metrics, inside, missing};
use crate::base::address::Listen;
use crate::base::name::Name;
use crate::base::sorted::tree;
use crate::config::document::{Document, Entry, TableId};
use crate::config::fault::{Collector, quoted};
use crate::config::limits::Limits;
use crate::config::moment::Shown;
use crate::config::options::{Section, Side};
use crate::config::places::Places;
use crate::config::policy::{Policy, PortRules, Services, UserRules};
use crate::config::values::{Setting, name, tables, unknown};
use crate::config::{CONTROL_PORT, Key, MESSAGE_PORT, Policies, ServerConfig, Service};

/// What a server's file or command line says. The keys stand elsewhere.
#[derive(Clone, Debug)]
pub struct ServerSaid {
    /// The services.
    pub services: Vec<Service>,
    /// What the holders of keys may do.
    pub policies: Policies,
    /// Where clients bring message connections.
    pub message: Listen,
    /// Where clients bring control connections.
    pub control: Listen,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
    /// The key file, as it is written, and where.
    pub keys: Option<(String, usize)>,
    /// Log and so on.
    pub running: Running,
    /// The keys that have a policy, and where that stands.
    pub policies_at: Vec<(Name, usize)>,
}

impl ServerSaid {
    #[cold]
    pub(super) fn read(
        document: &Document,
        top: &Settings,
        now: SystemTime,
        faults: &mut Collector,
        warnings: &mut Collector,
    ) -> ServerSaid {
        let mut limits = Limits::default();
        limits.pool = top.count("pool").unwrap_or(limits.pool);
        limits.users_max = top.count("max-users").unwrap_or(limits.users_max);
        limits.users_max_is_said = top.has("max-users");
        limits.heartbeat = top.time("heartbeat").unwrap_or(limits.heartbeat);
        limits.drain = top.time("drain").unwrap_or(limits.drain);
        let mut places = Places::default();
        let message = for_clients(top, "message", MESSAGE_PORT);
        let control = for_clients(top, "control", CONTROL_PORT);
        places.add_clients(message, control);
        let (message, control) = (
            message.map_or(Listen::Any(MESSAGE_PORT), |it| it.0),
            control.map_or(Listen::Any(CONTROL_PORT), |it| it.0),
        );
        let running = Running::read(top);
        if let Some(at) = running.metrics {
            places.add(for_metrics(at), top.at("metrics"), "metrics".to_owned());
        }
        let services = services(document, &limits, &mut places, faults);
        places.tell_overlaps(faults);
        let declared = tree(services.iter().map(|(name, _)| name.clone()));
        let policies = policies(document, limits.policies_max, &declared, now, faults, warnings);
        let ports = match top.get("ports") {
            Some(Setting::Ports(ports)) => Some(ports.clone()),
            _ => None,
        };
        let key_table = document.entry(Document::ROOT, Section::Key.name());
        if let (Some(at), Some(key)) = (top.key_at("ports"), key_table) {
            let (first, second, what) = if at < key.at {
                (
                    at,
                    key.at,
                    "no [key] table beside 'ports', which is for all keys; say 'ports' in each [key.NAME]",
                )
            } else {
                (key.at, at, "'ports' in each [key.NAME], because there are such tables")
            };
            faults.tell_clash(second, first, |first| {
                format!("wanted {what}, found both; the first is at {first}")
            });
        }
        if services.is_empty()
            && ports.is_none()
            && policies.as_ref().is_none_or(|all| !all.iter().any(|it| it.may_ask))
        {
            warnings.tell(0, || {
                "no service is declared and no port may be asked for: no user is served".to_owned()
            });
        }
        let policies_at = policies.iter().flatten().map(|it| (it.name.clone(), it.at)).collect();
        let policies = match policies {
            None => Policies::Alike(ports.unwrap_or_default()),
            Some(all) => Policies::Each(all.into_iter().map(|it| (it.name, it.policy)).collect()),
        };
        let services = services.into_iter().filter_map(|(_, service)| service).collect();
        let keys = top.text("keys").map(|path| (path.to_owned(), top.at("keys").unwrap_or(0)));
        let plain = top.switch("plain").unwrap_or(false);
        ServerSaid { services, policies, message, control, plain, limits, keys, running, policies_at }
    }

    /// With these keys it is a configuration.
    pub fn with(self, keys: Vec<Key>) -> ServerConfig {
        let ServerSaid { services, policies, message, control, plain, limits, .. } = self;
        ServerConfig { services, policies, message, control, keys, plain, limits }
    }
}

/// Where clients bring one kind of connection, and the place that says so; nowhere if what is said is wrong.
fn for_clients(top: &Settings, name: &str, default: u16) -> Option<(Listen, Option<usize>)> {
    match top.get(name) {
        Some(Setting::Places(places)) => places.first().map(|&(at, said)| (at, Some(said))),
        _ if top.has(name) => None,
        _ => Some((Listen::Any(default), None)),
    }
}

/// The services by their names; one at fault is none.
#[cold]
fn services(
    document: &Document,
    limits: &Limits,
    places: &mut Places,
    faults: &mut Collector,
) -> Vec<(Name, Option<Service>)> {
    let mut services = Vec::new();
    let mut placed = 0;
    let (tables, most) = (of(document, Section::Service, faults), limits.services_max);
    if !fit(most, "services", tables.get(most).map(|it| it.0), faults) {
        return services;
    }
    for (entry, table) in tables {
        let name = name(&entry.key, entry.at, faults);
        let settings = inside(document, table, (Side::Server, Section::Service), faults);
        let listen = match settings.get("listen") {
            Some(Setting::Places(listen)) => Some(listen),
            _ => None,
        };
        if !settings.has("listen") {
            faults.tell(entry.at, || missing("listen", Section::Service, &entry.key));
        }
        for (at, place) in listen.into_iter().flatten() {
            let most = limits.places_max;
            if placed == most {
                faults
                    .tell(*place, || format!("wanted at most {most} addresses to listen at, found one more"));
            }
            if placed < most {
                let whom = name.as_ref().map_or_else(|| quoted(&entry.key), Name::to_string);
                places.add(*at, Some(*place), format!("service {whom}"));
            }
            placed += 1;
        }
        let Some(name) = name else { continue };
        let rules = UserRules {
            from: from(&settings),
            users: settings.count("users"),
            users_per_address: settings.count("users-per-address"),
            idle: settings.time("idle"),
            probe: settings.switch("probe").unwrap_or(true),
            close_when_unserved: settings.switch("close-when-unserved").unwrap_or(false),
        };
        let listen = listen.map(|listen| listen.iter().map(|&(at, _)| at).collect());
        let service = listen.map(|listen| Service { name: name.clone(), listen, rules });
        services.push((name, service));
    }
    services
}

fn from(settings: &Settings) -> crate::base::network::Networks {
    match settings.get("from") {
        Some(Setting::Networks(networks)) => networks.clone(),
        _ => Default::default(),
    }
}

/// The tables of a section, in their order.
pub(super) fn of<'d>(
    document: &'d Document<'d>,
    section: Section,
    faults: &mut Collector,
) -> Vec<(&'d Entry<'d>, TableId)> {
    match document.entry(Document::ROOT, section.name()) {
        Some(entry) => tables(document, &entry.item, section.name(), faults),
        None => Vec::new(),
    }
}

/// Tells of the first table beyond as many as there may be. None of them is read then: this is what matters.
#[cold]
pub(super) fn fit(most: usize, what: &str, beyond: Option<&Entry>, faults: &mut Collector) -> bool {
    if let Some(entry) = beyond {
        faults.tell(entry.at, || format!("wanted at most {most} {what}, found one more"));
    }
    beyond.is_none()
}

struct Found {
    name: Name,
    at: usize,
    policy: Policy,
    may_ask: bool,
}

/// The policies, if there are tables of them.
#[cold]
fn policies(
    document: &Document,
    most: usize,
    declared: &BTreeSet<Name>,
    now: SystemTime,
    faults: &mut Collector,
    warnings: &mut Collector,
) -> Option<Vec<Found>> {
    document.entry(Document::ROOT, Section::Key.name())?;
    let mut all = Vec::new();
    let tables = of(document, Section::Key, faults);
    if !fit(most, "tables [key.NAME]", tables.get(most).map(|it| it.0), faults) {
        return Some(all);
    }
    for (entry, table) in tables {
        let name = name(&entry.key, entry.at, faults);
        let settings = inside(document, table, (Side::Server, Section::Key), faults);
        let mut policy = Policy {
            from: from(&settings),
            users: settings.count("users"),
            links: settings.count("links"),
            ..Policy::default()
        };
        if let Some(Setting::Services(services, named)) = settings.get("services") {
            policy.services = services.clone();
            for (service, at) in named.iter().filter(|(service, _)| !declared.contains(service)) {
                warnings.tell(*at, || {
                    let declared = declared.iter().map(Name::as_str);
                    unknown("a service that is declared", service.as_str(), declared)
                });
            }
        }
        if let Some(Setting::Ports(ports)) = settings.get("ports") {
            policy.ports = ports.clone();
        }
        if let Some(Setting::Rate(rate)) = settings.get("rate") {
            policy.rate = Some(*rate);
        }
        if let Some(Setting::Moment(moment)) = settings.get("expires") {
            policy.expires = Some(*moment);
            if *moment <= now {
                let at = settings.at("expires").unwrap_or(entry.at);
                warnings.tell(at, || {
                    format!("the key {} may do nothing since {}", quoted(&entry.key), Shown(*moment))
                });
            }
        }
        let may_ask = policy.ports != PortRules::default() || policy.services != Services::default();
        all.extend(name.map(|name| Found { name, at: entry.at, policy, may_ask }));
    }
    Some(all)
}
