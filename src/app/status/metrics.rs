//! The status in Prometheus' text format, version 0.0.4.
//!
//! Labels are names of the operator's own file. What clients name is counted together for each key, with an empty
//! service.

use std::fmt::{Display, Write as _};
use std::time::{Duration, SystemTime};

use super::judge::{self, State};
use super::view::View;
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::base::sorted::Map;
use crate::machine::status::{CAUSES, ENDS, Figures, LinkStatus, ServiceStatus, WAIT_BOUNDS_US};

/// Writes all families.
pub fn write(view: &View) -> String {
    let rows = Row::all(view);
    let mut text = Families(String::with_capacity(16 * 1024 + rows.len() * 2_048));
    services(&rows, &mut text);
    waits(view, &mut text);
    links(&view.snapshot.links, &mut text);
    totals(view, &mut text);
    process(view, &mut text);
    text.0
}

/// What stands in one set of labels: a service of the operator's, or all that the holder of a key has asked for.
struct Row {
    labels: String,
    figures: Figures,
    /// Whether all of it is; nothing is said of what is away.
    is_proven: Option<bool>,
    /// Of what is proven least.
    proof_age_s: Option<Decimal>,
}

impl Row {
    fn all(view: &View) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut of_keys: Map<&str, Box<Row>> = Map::default();
        for service in &view.snapshot.services {
            match &service.exposed_by {
                None => rows.push(Row::of(view, service, format!("service=\"{}\"", service.name))),
                Some(key) => {
                    let row = Row::of(view, service, of_key(key));
                    match of_keys.get_mut(&key.as_str()) {
                        Some(all) => all.add(row),
                        None => drop(of_keys.insert(key.as_str(), Box::new(row))),
                    }
                }
            }
        }
        for (key, figures) in &view.snapshot.totals.gone {
            // What is gone has counts, and neither users nor a state.
            match of_keys.get_mut(&key.as_str()) {
                Some(all) => all.figures.add(figures),
                None => drop(of_keys.insert(key.as_str(), Box::new(Row::gone(key, figures)))),
            }
        }
        rows.extend(of_keys.into_values().map(|row| *row));
        rows
    }

    fn of(view: &View, service: &ServiceStatus, labels: String) -> Row {
        let judgement = judge::of_service(service, view.at);
        let proof_age_s = judgement.proof.map(|proof| Decimal::seconds(view.age(proof)));
        let is_there = service.exposed_by.is_none() || !service.publications.is_empty();
        let is_proven = is_there.then_some(judgement.state == State::Proven);
        Row { labels, figures: service.figures.clone(), is_proven, proof_age_s }
    }

    /// A key whose holder has asked for nothing that is still there.
    fn gone(key: &Name, figures: &Figures) -> Row {
        let (labels, figures) = (of_key(key), figures.clone());
        Row { labels, figures, is_proven: None, proof_age_s: None }
    }

    /// Counts another one beside it.
    fn add(&mut self, other: Row) {
        self.figures.add(&other.figures);
        self.is_proven = match (self.is_proven, other.is_proven) {
            (Some(one), Some(another)) => Some(one && another),
            (one, another) => one.or(another),
        };
        self.proof_age_s = self.proof_age_s.zip(other.proof_age_s).map(|(one, another)| one.max(another));
    }
}

fn of_key(key: &Name) -> String {
    format!("service=\"\",key=\"{key}\"")
}

/// Families one after the other, each with its head.
struct Families(String);

impl Families {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: &dyn Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    /// A family of one sample.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: &dyn Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }
}

fn services(rows: &[Row], text: &mut Families) {
    // One label more, for each of a list of words.
    let mut counted = |name, help, label, words: &[&str], counts: fn(&Figures) -> &[u64]| {
        text.family(name, "counter", help);
        for row in rows {
            for (word, count) in words.iter().zip(counts(&row.figures)) {
                let _ = writeln!(text.0, "{name}{{{},{label}=\"{word}\"}} {count}", row.labels);
            }
        }
    };
    let help = "Sessions that ended, by their end.";
    counted("skyorg_sessions_total", help, "end", &ENDS, |it| &it.ended);
    let help = "Users that were refused, by cause.";
    counted("skyorg_refused_total", help, "cause", &CAUSES, |it| &it.refused);
    let name = "skyorg_bytes_total";
    text.family(name, "counter", "Bytes read from users (in) and taken by the system towards them (out).");
    for Row { labels, figures, .. } in rows {
        let _ = writeln!(text.0, "{name}{{{labels},direction=\"in\"}} {}", figures.traffic.received);
        let _ = writeln!(text.0, "{name}{{{labels},direction=\"out\"}} {}", figures.traffic.sent);
    }
    let mut gauge = |name, help, value: &dyn Fn(&Row) -> Option<Decimal>| {
        text.family(name, "gauge", help);
        for row in rows {
            if let Some(value) = value(row) {
                text.sample(name, &row.labels, &value);
            }
        }
    };
    gauge("skyorg_users", "Users that are there.", &|row| Some(Decimal::whole(row.figures.users)));
    gauge("skyorg_waiting", "Users that wait for a message connection.", &|row| {
        Some(Decimal::whole(row.figures.waiting))
    });
    let help = "Whether a session or a probe was started within a minute.";
    gauge("skyorg_proven", help, &|row| row.is_proven.map(|it| Decimal::whole(it.into())));
    let help = "Time since a session or a probe was last started.";
    gauge("skyorg_proof_age_seconds", help, &|row| row.proof_age_s);
}

/// How long users waited, of all services together.
fn waits(view: &View, text: &mut Families) {
    let all = &view.snapshot.totals.waits;
    let name = "skyorg_wait_seconds";
    text.family(name, "histogram", "How long users waited for a message connection.");
    let mut below = 0;
    for (bound, count) in WAIT_BOUNDS_US.iter().zip(all.counts) {
        below += count;
        let bound = Decimal::seconds(Duration::from_micros(*bound));
        let _ = writeln!(text.0, "{name}_bucket{{le=\"{bound}\"}} {below}");
    }
    let (sum, count) = (Decimal::seconds(all.sum), all.count());
    let _ = writeln!(text.0, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
}

fn links(links: &[LinkStatus], text: &mut Families) {
    let mut of_keys: Map<&str, u64> = Map::default();
    for link in links {
        *of_keys.or_default(link.key.as_str()) += u64::from(link.since.is_some());
    }
    text.family("skyorg_links", "gauge", "Links that stand, by their key.");
    for (key, count) in of_keys {
        text.sample("skyorg_links", &format!("key=\"{key}\""), &count);
    }
    let name = "skyorg_message_connections";
    text.family(name, "gauge", "Message connections, by what they do.");
    let sum = |of: fn(&LinkStatus) -> usize| links.iter().map(of).sum::<usize>();
    text.sample(name, "state=\"idle\"", &sum(|link| link.idle));
    text.sample(name, "state=\"busy\"", &sum(|link| link.busy));
    text.sample(name, "state=\"coming\"", &sum(|link| link.coming));
}

fn totals(view: &View, text: &mut Families) {
    let totals = &view.snapshot.totals;
    let name = "skyorg_hellos_refused_total";
    text.family(name, "counter", "Hellos that were refused, by cause.");
    for (cause, count) in &totals.hellos_refused {
        text.sample(name, &format!("cause=\"{cause}\""), count);
    }
    let help = "Sessions that were offered to a client again.";
    text.single("skyorg_redeliveries_total", "counter", help, &totals.redeliveries);
    let help = "Lines of the log that were dropped because it was not read in time.";
    text.single("skyorg_log_lines_dropped_total", "counter", help, &view.system.log_lines_dropped);
    let help = "Whether the last configuration that was read is refused.";
    let is_refused = u8::from(view.head.refused.is_some());
    text.single("skyorg_configuration_refused", "gauge", help, &is_refused);
    text.family("skyorg_build_info", "gauge", "The program, in its labels.");
    text.sample("skyorg_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), &1);
}

fn process(view: &View, text: &mut Families) {
    let system = &view.system;
    let seconds = Decimal::seconds(system.processor);
    text.single("process_cpu_seconds_total", "counter", "Processor time used.", &seconds);
    let started = view.head.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let started = Decimal::seconds(started);
    let help = "Start of the process since the Unix epoch.";
    text.single("process_start_time_seconds", "gauge", help, &started);
    for (name, help, value) in [
        ("process_open_fds", "File descriptors in use.", system.descriptors),
        ("process_max_fds", "Most file descriptors.", system.descriptors_max),
        ("process_resident_memory_bytes", "Memory held.", system.memory),
        ("process_virtual_memory_bytes", "Addresses mapped.", system.mapped),
    ] {
        if let Some(value) = value {
            text.single(name, "gauge", help, &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::{mixed, publication, service, view};
    use super::*;
    use crate::machine::status::PublicationState;

    #[test]
    fn families_have_their_samples_and_names_are_the_operators() {
        let text = write(&mixed());
        for line in [
            "# TYPE skyorg_sessions_total counter",
            "skyorg_sessions_total{service=\"web\",end=\"finished\"} 8",
            "skyorg_refused_total{service=\"web\",cause=\"no_client\"} 2",
            "skyorg_users{service=\"web\"} 2",
            "skyorg_bytes_total{service=\"web\",direction=\"in\"} 1234567",
            "skyorg_proven{service=\"web\"} 1",
            "skyorg_proven{service=\"db\"} 0",
            "skyorg_proof_age_seconds{service=\"web\"} 4",
            "skyorg_wait_seconds_bucket{le=\"0.0001\"} 1",
            "skyorg_wait_seconds_count 1",
            "skyorg_links{key=\"office\"} 1",
            "skyorg_message_connections{state=\"idle\"} 9",
            "skyorg_configuration_refused 0",
            "process_open_fds 20",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains("skyorg_proof_age_seconds{service=\"mail\"}"), "nothing was proven yet");
    }

    #[test]
    fn what_clients_name_is_counted_for_their_key() {
        let text = write(&view(|at| {
            let exposed = |name, proof| {
                let mut service = service(name, vec![publication(PublicationState::Proven, Some(proof), at)]);
                service.exposed_by = "office".parse().ok();
                service.figures.users = 2;
                service
            };
            vec![exposed("game", 3), exposed("other", 5)]
        }));
        for line in [
            "skyorg_users{service=\"\",key=\"office\"} 4",
            "skyorg_proof_age_seconds{service=\"\",key=\"office\"} 5",
            "skyorg_proven{service=\"\",key=\"office\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(!text.contains("game"));
    }
}
