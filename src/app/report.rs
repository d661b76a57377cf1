//! Facts become log lines. Facts whose pace a peer sets are throttled, each cause and key by itself: no peer fills a
//! log, and no cause hides another.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::base::name::Name;
use crate::machine::{Fact, Throttle};

/// Facts of one cause and key are told once in this time, or as often as the fact says, with a count of those left out.
const INTERVAL: Duration = Duration::from_secs(10);
/// Causes and keys that are told apart; beyond them, only causes are.
const APART_MAX: usize = 256;

type Cause = (&'static str, Option<Name>);

/// What was told lately.
#[derive(Default)]
pub(super) struct Report(HashMap<Cause, Told>);

struct Told {
    /// When the first of them was told.
    at: Instant,
    told: u32,
    left_out: u32,
}

impl Report {
    /// Tells a fact, or counts it.
    pub fn take(&mut self, fact: &Fact, now: Instant) {
        if let Some(left_out) = self.left_out(fact, now) {
            match left_out {
                0 => log::log!(fact.level(), "{fact}"),
                _ => log::log!(fact.level(), "{fact} (and {left_out} more like it)"),
            }
        }
    }

    /// How many facts like this one were left out since the last that was told; `None` if this one is left out, too.
    fn left_out(&mut self, fact: &Fact, now: Instant) -> Option<u32> {
        let Some(Throttle { cause, key, at_once }) = fact.throttle() else { return Some(0) };
        if self.0.len() >= APART_MAX {
            self.0.retain(|_, told| now < told.at + INTERVAL);
        }
        let key = key.filter(|_| self.0.len() < APART_MAX).cloned();
        let told = self.0.get_mut(&(cause, key.clone()));
        match told {
            Some(told) if now < told.at + INTERVAL && told.told < at_once => {
                told.told += 1;
                Some(0)
            }
            Some(told) if now < told.at + INTERVAL => {
                told.left_out += 1;
                None
            }
            Some(told) => {
                (told.at, told.told) = (now, 1);
                Some(std::mem::take(&mut told.left_out))
            }
            None => {
                self.0.insert((cause, key), Told { at: now, told: 1, left_out: 0 });
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

    #[test]
    fn users_that_were_never_served_are_counted_and_sessions_are_told() {
        let (now, mut report) = (Instant::now(), Report::default());
        let left = |served, reason| Fact::UserLeft {
            number: 1,
            user: ([192, 0, 2, 1], 1).into(),
            service: "web".parse().expect("a name"),
            traffic: crate::machine::Traffic::default(),
            lasted: INTERVAL,
            served,
            reason,
        };
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
    fn what_is_told_apart_is_bounded() {
        let (now, mut report) = (Instant::now(), Report::default());
        for number in 0..10 * APART_MAX {
            let key = format!("key{number}").parse().expect("a name");
            let fact = Fact::TicketsExpired { key, count: 1 };
            report.left_out(&fact, now);
        }
        assert!(report.0.len() <= APART_MAX + 1, "{}", report.0.len());
    }

    #[test]
    fn an_ended_session_is_always_told() {
        let (now, mut report) = (Instant::now(), Report::default());
        let fact = Fact::Draining { sessions: 1, time: INTERVAL };
        (0..3).for_each(|_| assert_eq!(report.left_out(&fact, now), Some(0)));
    }
}
