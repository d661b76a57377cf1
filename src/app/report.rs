//! Facts become log lines. Facts whose pace a peer sets are throttled, each cause and key by itself: no peer fills a
//! log, and no cause hides another. What is left out is told when its time has come, even if nothing like it happens
//! again: a failure that comes soon after another one, and stays, is not hidden by that.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::journal;
use super::json::Json;
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::machine::{Fact, Fields, Throttle};

/// Facts of one cause and key are told once in this time, or as often as the fact says, with a count of those left out.
const INTERVAL: Duration = Duration::from_secs(10);
/// Causes and keys that are told apart; beyond them, only causes are.
const APART_MAX: usize = 256;

type Cause = (&'static str, Option<Name>);

/// What was told lately.
#[derive(Default)]
pub(super) struct Report {
    told: HashMap<Cause, Told>,
    /// When the first of what was left out is told, at the latest.
    due: Option<Instant>,
}

struct Told {
    /// When the first of them was told.
    at: Instant,
    told: u32,
    /// Those that were left out since the last that was told: how many, and the last one.
    left_out: Option<(u32, Fact)>,
}

impl Told {
    fn once(now: Instant) -> Told {
        Told { at: now, told: 1, left_out: None }
    }
}

fn tell(fact: &Fact, left_out: u32) {
    let fields = |json: &mut Json| {
        fact.fields(&mut FieldsOf(json));
        if left_out > 0 {
            json.key("more").plain(&left_out);
        }
    };
    match left_out {
        0 => journal::tell(fact.level(), format_args!("{fact}"), fact.event(), &fields),
        _ => {
            let sentence = format_args!("{fact} (and {left_out} more like it)");
            journal::tell(fact.level(), sentence, fact.event(), &fields);
        }
    }
}

/// The fields of a fact within an object.
struct FieldsOf<'j>(&'j mut Json);

impl Fields for FieldsOf<'_> {
    fn text(&mut self, name: &'static str, value: fmt::Arguments<'_>) {
        self.0.key(name).shown(&value);
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.0.key(name).plain(&value);
    }

    fn seconds(&mut self, name: &'static str, value: Duration) {
        self.0.key(name).decimal_or_null(Some(Decimal::seconds(value)));
    }
}

impl Report {
    /// Tells a fact, or counts it.
    pub fn take(&mut self, fact: &Fact, now: Instant) {
        if let Some(left_out) = self.left_out(fact, now) {
            tell(fact, left_out);
        }
    }

    /// Tells what was left out and has waited for as long as it may.
    pub fn tell_left_out(&mut self, now: Instant) {
        self.take_due(now).iter().for_each(|(fact, others)| tell(fact, *others));
    }

    /// The last fact of each cause whose time has come, and how many like it came before.
    fn take_due(&mut self, now: Instant) -> Vec<(Fact, u32)> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let mut due = Vec::new();
        for told in self.told.values_mut().filter(|told| now >= told.at + INTERVAL) {
            if let Some((count, fact)) = told.left_out.take() {
                *told = Told::once(now);
                due.push((fact, count - 1));
            }
        }
        let waiting = self.told.values().filter(|told| told.left_out.is_some());
        self.due = waiting.map(|told| told.at + INTERVAL).min();
        due
    }

    /// How many facts like this one were left out since the last that was told; `None` if this one is left out, too.
    fn left_out(&mut self, fact: &Fact, now: Instant) -> Option<u32> {
        let Some(Throttle { cause, key, at_once }) = Throttle::of(fact) else { return Some(0) };
        if self.told.len() >= APART_MAX {
            self.told.retain(|_, told| now < told.at + INTERVAL || told.left_out.is_some());
        }
        let key = key.filter(|_| self.told.len() < APART_MAX).cloned();
        match self.told.get_mut(&(cause, key.clone())) {
            Some(told) if now < told.at + INTERVAL && told.told < at_once => {
                told.told += 1;
                Some(0)
            }
            Some(told) if now < told.at + INTERVAL => {
                let count = told.left_out.as_ref().map_or(1, |(count, _)| count + 1);
                told.left_out = Some((count, fact.clone()));
                let due = told.at + INTERVAL;
                self.due = Some(self.due.map_or(due, |at| at.min(due)));
                None
            }
            Some(told) => {
                let left_out = told.left_out.take().map_or(0, |(count, _)| count);
                *told = Told::once(now);
                Some(left_out)
            }
            None => {
                self.told.insert((cause, key), Told::once(now));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CloseReason;

    fn stranger(reason: CloseReason) -> Fact {
        Fact::NotAdmitted { peer: ([192, 0, 2, 1], 1).into(), reason }
    }

    #[test]
    fn one_cause_is_told_once_in_a_while_and_the_others_are_counted() {
        let (now, mut report) = (Instant::now(), Report::default());
        let fact = stranger(CloseReason::UnknownKey);
        assert_eq!(report.left_out(&fact, now), Some(0));
        (0..7).for_each(|_| assert_eq!(report.left_out(&fact, now + INTERVAL / 2), None));
        assert_eq!(report.left_out(&fact, now + INTERVAL), Some(7));
        assert_eq!(report.left_out(&fact, now + INTERVAL * 2), Some(0));
    }

    #[test]
    fn some_clients_of_a_key_may_come_at_once() {
        let (now, mut report) = (Instant::now(), Report::default());
        let link = crate::base::id::ConnId::new(1, 1).expect("it can be named");
        let came = Fact::ClientCame {
            link,
            key: "office".parse().expect("a name"),
            peer: ([192, 0, 2, 1], 1).into(),
        };
        let told = (0..1_000).filter(|_| report.left_out(&came, now) == Some(0)).count();
        assert_eq!((told, report.left_out(&came, now + INTERVAL)), (20, Some(980)));
    }

    fn user_left(exposed_by: Option<&str>, served: bool, reason: CloseReason) -> Fact {
        Fact::UserLeft {
            number: 1,
            user: ([192, 0, 2, 1], 1).into(),
            service: "web".parse().expect("a name"),
            exposed_by: exposed_by.map(|key| key.parse().expect("a name")),
            key: None,
            traffic: crate::machine::Traffic::default(),
            lasted: INTERVAL,
            served,
            reason,
        }
    }

    #[test]
    fn users_of_what_clients_name_hide_none_of_a_service_of_that_name() {
        let (now, mut report) = (Instant::now(), Report::default());
        for reason in [CloseReason::NoClient, CloseReason::PeerClosed] {
            let mut told = |exposed_by| report.left_out(&user_left(exposed_by, false, reason), now);
            told(Some("guest"));
            assert_eq!((told(Some("guest")), told(None)), (None, Some(0)), "{reason}");
        }
        let told = |exposed_by| user_left(exposed_by, false, CloseReason::NoClient);
        assert_eq!(report.left_out(&told(Some("office")), now), Some(0), "each key by itself");
    }

    #[test]
    fn users_that_were_never_served_are_counted_and_sessions_are_told() {
        let (now, mut report) = (Instant::now(), Report::default());
        let left = |served, reason| user_left(None, served, reason);
        for reason in [CloseReason::NoClient, CloseReason::PeerClosed] {
            assert_eq!(report.left_out(&left(false, reason), now), Some(0), "{reason}");
            assert_eq!(report.left_out(&left(false, reason), now), None, "{reason}");
        }
        for reason in [CloseReason::Finished, CloseReason::PeerClosed] {
            (0..9).for_each(|_| assert_eq!(report.left_out(&left(true, reason), now), Some(0), "{reason}"));
        }
    }

    #[test]
    fn a_cause_hides_no_other() {
        let (now, mut report) = (Instant::now(), Report::default());
        for reason in [CloseReason::PeerClosed, CloseReason::UnknownKey, CloseReason::HandshakeTimedOut] {
            assert_eq!(report.left_out(&stranger(reason), now), Some(0), "{reason}");
        }
    }

    #[test]
    fn a_failure_that_follows_another_and_stays_is_told_though_nothing_like_it_comes_again() {
        let (now, mut report) = (Instant::now(), Report::default());
        let failed = |port| Fact::MessageFailed {
            address: ([192, 0, 2, 1], port).into(),
            reason: CloseReason::HandshakeTimedOut,
        };
        assert_eq!(report.left_out(&failed(1), now), Some(0));
        assert_eq!(report.left_out(&failed(2), now + INTERVAL / 2), None);
        assert_eq!(report.left_out(&failed(3), now + INTERVAL / 2), None);
        assert_eq!(report.take_due(now + INTERVAL / 2), []);
        assert_eq!(report.take_due(now + INTERVAL), [(failed(3), 1)]);
        assert_eq!(report.left_out(&failed(4), now + INTERVAL), None, "that counts as told");
        assert_eq!(report.take_due(now + 2 * INTERVAL), [(failed(4), 0)]);
        assert_eq!(report.take_due(now + 9 * INTERVAL), []);
    }

    #[test]
    fn a_message_port_that_fails_is_told_of_as_long_as_it_does() {
        let (now, mut report) = (Instant::now(), Report::default());
        let reason = CloseReason::DialFailed(std::io::ErrorKind::TimedOut.into());
        let fact = Fact::MessageFailed { address: ([192, 0, 2, 1], 33334).into(), reason };
        // Two dials a second, for a minute.
        let lines = (0..120).filter(|&dial| {
            let now = now + INTERVAL / 20 * dial;
            usize::from(report.left_out(&fact, now).is_some()) + report.take_due(now).len() > 0
        });
        assert_eq!(lines.count(), 6);
    }

    #[test]
    fn health_checks_and_used_tickets_are_debug_and_hide_no_client_that_fails() {
        let (now, mut report) = (Instant::now(), Report::default());
        let mut lines = Vec::new();
        for _ in 0..25 {
            for reason in [
                CloseReason::PeerClosed,
                CloseReason::UnknownTicket,
                CloseReason::UnknownKey,
                CloseReason::UnknownLink,
            ] {
                let fact = stranger(reason);
                if report.left_out(&fact, now) == Some(0) && fact.level() <= log::Level::Warn {
                    lines.push(fact.to_string());
                }
            }
        }
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("unknown key; if this key was added to the key file"));
    }

    #[test]
    fn what_is_told_apart_is_bounded() {
        let (now, mut report) = (Instant::now(), Report::default());
        for number in 0..10 * APART_MAX {
            let key = format!("key{number}").parse().expect("a name");
            let fact = Fact::TicketsExpired { key, count: 1 };
            report.left_out(&fact, now);
        }
        assert!(report.told.len() <= APART_MAX + 1, "{}", report.told.len());
    }

    #[test]
    fn names_that_a_client_makes_up_fill_no_log_and_hide_nobody() {
        let (now, mut report) = (Instant::now(), Report::default());
        let name = |text: &str| text.parse::<Name>().expect("a name");
        let at = |key: &Name| Some((key.clone(), "192.0.2.1:5000".parse().expect("an address")));
        let made_up = |number: usize| {
            let (key, service) = (name("guest"), name(&format!("p{number}")));
            let reason = crate::wire::control::Denial::Policy;
            let fails = crate::machine::Reason::LocalRefused;
            [
                Fact::PublicationDenied { key: key.clone(), service: service.clone(), reason },
                Fact::ServiceFails { service: service.clone(), client: at(&key), reason: fails },
                Fact::ServiceProved { service, client: at(&key) },
            ]
        };
        let told = (0..20 * APART_MAX).flat_map(made_up).filter(|fact| report.left_out(fact, now).is_some());
        assert!(told.count() < 4_000);
        for service in ["web", "db"] {
            let reason = crate::machine::Reason::LocalRefused;
            let fails = Fact::ServiceFails { service: name(service), client: at(&name("office")), reason };
            assert_eq!(report.left_out(&fails, now), Some(0), "{service}");
        }
    }

    #[test]
    fn an_ended_session_is_always_told() {
        let (now, mut report) = (Instant::now(), Report::default());
        let fact = Fact::Draining { sessions: 1, time: INTERVAL };
        (0..3).for_each(|_| assert_eq!(report.left_out(&fact, now), Some(0)));
    }
}
