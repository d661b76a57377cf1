//! What a client is told, but for its key.

use super::server::{fit, of};
use super::settings::Settings;
use super::{Running, inside, missing};
use crate::base::address::HostPort;
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::base::sorted::Map;
use crate::config::document::Document;
use crate::config::fault::{Collector, quoted};
use crate::config::limits::Limits;
use crate::config::options::{Section, Side};
use crate::config::values::{Setting, name};
use crate::config::{ClientConfig, DIAL_TIME, Key, Publication};
use crate::wire::publication::Want;

/// What a client's file or command line says. The key stands elsewhere.
#[derive(Clone, Debug)]
pub struct ClientSaid {
    /// The server's control port; none if that is at fault.
    pub server: Option<HostPort>,
    /// Where to dial message connections instead.
    pub message: Option<HostPort>,
    /// What it serves.
    pub publications: Vec<Publication>,
    /// Whether message connections carry plain data.
    pub plain: bool,
    /// Bounds.
    pub limits: Limits,
    /// The key file, as it is written, and where.
    pub key: Option<(String, usize)>,
    /// Log and so on.
    pub running: Running,
}

impl ClientSaid {
    #[cold]
    pub(super) fn read(
        document: &Document,
        top: &Settings,
        faults: &mut Collector,
        warnings: &mut Collector,
    ) -> ClientSaid {
        if !top.has("server") {
            faults.tell(0, || "wanted server = \"HOST\", found none".to_owned());
        }
        let mut limits = Limits::default();
        limits.heartbeat = top.time("heartbeat").unwrap_or(limits.heartbeat);
        limits.drain = top.time("drain").unwrap_or(limits.drain);
        let publications = publications(document, limits.publications_per_client_max, faults);
        if document.entry(Document::ROOT, "publish").or(document.entry(Document::ROOT, "expose")).is_none() {
            warnings.tell(0, || {
                "nothing is published: there is no [publish.NAME] and no [expose.NAME]".to_owned()
            });
        }
        ClientSaid {
            server: top.address("server"),
            message: top.address("message"),
            publications,
            plain: top.switch("plain").unwrap_or(false),
            limits,
            key: top.text("key").map(|path| (path.to_owned(), top.at("key").unwrap_or(0))),
            running: Running::read(top),
        }
    }

    /// With this key it is a configuration; only one without faults names a server.
    pub fn with(self, key: Key) -> Option<ClientConfig> {
        let ClientSaid { server, message, publications, plain, limits, .. } = self;
        Some(ClientConfig { server: server?, message, publications, key, plain, limits })
    }
}

#[cold]
fn publications(document: &Document, most: usize, faults: &mut Collector) -> Vec<Publication> {
    let mut all: Vec<Publication> = Vec::new();
    let mut names: Map<Name, usize> = Map::default();
    let mut ranges: Vec<(Ports, usize)> = Vec::new();
    let tables = [Section::Publish, Section::Expose].into_iter().flat_map(|section| {
        of(document, section, faults).into_iter().map(move |(entry, table)| (section, entry, table))
    });
    let tables: Vec<_> = tables.collect();
    if !fit(most, "publications", tables.get(most).map(|it| it.1), faults) {
        return all;
    }
    for (section, entry, table) in tables {
        let name = name(&entry.key, entry.at, faults);
        let settings = inside(document, table, (Side::Client, section), faults);
        if !settings.has("local") {
            faults.tell(entry.at, || missing("local", section, &entry.key));
        }
        let want = match settings.get("ports") {
            _ if section == Section::Publish => Want::Service,
            Some(Setting::Range(ports)) => Want::Ports(*ports),
            _ => Want::AnyPort,
        };
        let local = settings.address("local");
        if let (Want::Ports(ports), Some(local)) = (want, &local)
            && usize::from(local.port) + ports.count() - 1 > usize::from(u16::MAX)
        {
            let at = settings.at("local").unwrap_or(entry.at);
            faults.tell(at, || past_the_last_port(local.port, ports.count()));
        }
        if let Want::Ports(ports) = want {
            let at = settings.at("ports").unwrap_or(entry.at);
            if let Some(&(other, first)) = ranges.iter().find(|(other, _)| other.overlaps(ports)) {
                faults.tell_clash(at, first, |first| {
                    format!("wanted ports of its own, found {ports}, where {other} is asked for at {first}")
                });
            }
            ranges.push((ports, at));
        }
        let Some(name) = name else { continue };
        if let Some(&other) = names.get(&name) {
            let (first, second) = (other.min(entry.at), other.max(entry.at));
            faults.tell_clash(second, first, |first| {
                format!(
                    "wanted a name of its own, found {} again; the first is at {first}",
                    quoted(&entry.key)
                )
            });
        } else {
            names.insert(name.clone(), entry.at);
        }
        all.extend(local.map(|local| Publication {
            name,
            want,
            local,
            dial_time: settings.time("dial-time").unwrap_or(DIAL_TIME),
            probe: settings.switch("probe").unwrap_or(true),
            share: settings.switch("share").unwrap_or(false),
        }));
    }
    all
}

/// What is said of a range whose local ports would pass the last one.
pub fn past_the_last_port(first: u16, count: usize) -> String {
    format!("wanted {count} local ports up to 65535, found {first} as the first of them")
}
