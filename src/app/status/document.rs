//! The status as JSON.

use std::time::{Duration, SystemTime};

use super::judge::{self, Judgement};
use super::view::View;
use crate::app::json::Json;
use crate::base::decimal::Decimal;
use crate::config::moment::Shown;
use crate::machine::status::{CAUSES, Figures, LinkStatus, PublicationStatus, ServiceStatus};

/// What stands before the processes of a document, and behind them.
pub const FRAME: (&str, &str) = (r#"{"version":1,"processes":["#, "]}\n");

/// A document with one process.
pub fn write(view: &View) -> String {
    let mut json = Json::default();
    process(view, &mut json);
    [FRAME.0, &json.finish(), FRAME.1].concat()
}

/// The processes of a document of ours.
pub fn processes(document: &str) -> Option<&str> {
    document.strip_prefix(FRAME.0)?.strip_suffix(FRAME.1)
}

fn process(view: &View, json: &mut Json) {
    let View { snapshot, head, system, .. } = view;
    json.open('{').key("role").text(head.role.name()).key("pid").plain(&system.pid);
    json.key("since").text(&time(head.since));
    json.key("configuration").open('{').key("file").text_or_null(head.file.as_deref());
    json.key("since").text(&time(head.configured)).key("refused");
    match &head.refused {
        None => json.null(),
        Some(refused) => {
            json.open('{').key("since").text(&time(refused.since)).key("faults").open('[');
            for fault in refused.faults.iter() {
                json.text(fault);
            }
            json.close(']').close('}')
        }
    };
    json.close('}').key("services").open('[');
    snapshot.services.iter().for_each(|it| service(view, it, json));
    json.close(']').key("links").open('[');
    snapshot.links.iter().for_each(|it| link(view, it, json));
    json.close(']');
    match snapshot.totals.unknown_hellos {
        None => json.key("unknown_hellos").null(),
        Some((count, last)) => {
            json.key("unknown_hellos").open('{').key("count").plain(&count);
            json.key("last_from").text(&last.to_string()).close('}')
        }
    };
    json.key("out_of_descriptors").plain(&snapshot.totals.is_out_of_descriptors);
    json.key("process").open('{').key("descriptors").open('{');
    number_or_null(json.key("used"), system.descriptors);
    number_or_null(json.key("limit"), system.descriptors_max);
    json.close('}');
    number_or_null(json.key("memory_bytes"), system.memory);
    json.key("log_lines_dropped").plain(&system.log_lines_dropped).close('}').close('}');
}

fn service(view: &View, service: &ServiceStatus, json: &mut Json) {
    json.open('{').key("name").text(service.name.as_str());
    if let Some(key) = &service.exposed_by {
        json.key("key").text(key.as_str());
    }
    judgement(view, &judge::of_service(service, view.at), json);
    json.key("addresses").open('[');
    for address in &service.addresses {
        json.text(address);
    }
    json.close(']').key("publications").open('[');
    service.publications.iter().for_each(|it| publication(view, it, json));
    json.close(']');
    figures(&service.figures, json);
    json.close('}');
}

fn judgement(view: &View, judgement: &Judgement, json: &mut Json) {
    json.key("state").text(judgement.state.name()).key("reason").text_or_null(judgement.reason);
    let age = judgement.proof.map(|proof| Decimal::seconds(view.age(proof)));
    json.key("proof_age_s").decimal_or_null(age);
}

fn publication(view: &View, publication: &PublicationStatus, json: &mut Json) {
    json.open('{').key("key").text(publication.key.as_str());
    json.key("client").text_or_null(publication.client.map(|client| client.to_string()).as_deref());
    judgement(view, &judge::of_publication(publication, view.at), json);
    json.key("unanswered").plain(&publication.unanswered).close('}');
}

fn figures(figures: &Figures, json: &mut Json) {
    let Figures { users, peak, waiting, total, traffic, refused, waits, .. } = figures;
    json.key("users").open('{').key("now").plain(&users).key("peak").plain(&peak);
    json.key("waiting").plain(&waiting).key("total").plain(&total).close('}');
    let wait = |share| waits.quantile(share).map(Decimal::milliseconds);
    json.key("wait_ms").open('{').key("p50").decimal_or_null(wait(0.5));
    json.key("p99").decimal_or_null(wait(0.99)).close('}');
    json.key("bytes").open('{').key("in").plain(&traffic.received).key("out").plain(&traffic.sent).close('}');
    json.key("refused").open('{');
    for (cause, count) in CAUSES.iter().zip(refused).filter(|(_, count)| **count > 0) {
        json.key(cause).plain(&count);
    }
    json.close('}');
}

fn link(view: &View, link: &LinkStatus, json: &mut Json) {
    json.open('{').key("key").text(link.key.as_str());
    json.key("address").text_or_null(link.address.map(|address| address.to_string()).as_deref());
    json.key("since").text_or_null(link.since.map(|since| time(view.wall_of(since))).as_deref());
    json.key("reason").text_or_null(link.reason.as_deref());
    json.key("round_trip_ms").decimal_or_null(link.round_trip.map(Decimal::milliseconds));
    json.key("pool").open('{').key("idle").plain(&link.idle).key("busy").plain(&link.busy);
    json.key("coming").plain(&link.coming).close('}');
    let expires = link.expires_in.and_then(|left: Duration| view.wall.checked_add(left));
    json.key("expires").text_or_null(expires.map(time).as_deref()).close('}');
}

fn number_or_null(json: &mut Json, number: Option<u64>) {
    match number {
        Some(number) => json.plain(&number),
        None => json.null(),
    };
}

/// RFC 3339.
fn time(moment: SystemTime) -> String {
    Shown(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::{mixed, view};
    use super::*;

    #[test]
    fn a_document_says_what_scripts_rely_on() {
        let text = write(&mixed());
        for part in [
            r#"{"version":1,"processes":[{"role":"server","pid":4711,"since":"2027-01-15T07:00:00Z","#,
            r#""configuration":{"file":"server.toml","since":"2027-01-15T07:00:00Z","refused":null}"#,
            r#"{"name":"web","state":"proven","reason":null,"proof_age_s":4,"addresses":["*:443"],"#,
            r#"{"key":"office","client":"203.0.113.7:51034","state":"failing","reason":"local server refuses"#,
            r#""users":{"now":2,"peak":3,"waiting":0,"total":12},"wait_ms":{"p50":0.1,"p99":0.1}"#,
            r#""bytes":{"in":1234567,"out":99},"refused":{"no_client":2}"#,
            r#"{"name":"mail","state":"failing","reason":"no client","proof_age_s":null"#,
            r#""round_trip_ms":12.345,"pool":{"idle":9,"busy":1,"coming":0},"expires":null}"#,
            r#""process":{"descriptors":{"used":20,"limit":null},"memory_bytes":5242880,"log_lines_dropped":0}"#,
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn documents_can_be_put_together() {
        let text = write(&view(|_| Vec::new()));
        let one = processes(&text).expect("it is ours");
        assert!(one.starts_with("{\"role\"") && one.ends_with('}'));
    }
}
