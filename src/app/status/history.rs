//! The last ten minutes of each service, for the lines of the page: rings of a fixed size.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::view::View;
use crate::app::json::Json;
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::machine::status::{Figures, ServiceStatus, WAIT_BOUNDS_US};

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Samples that are kept: ten minutes.
const SAMPLES: usize = 60;

/// What was measured in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    users: u32,
    refused: u32,
    /// Bytes a second.
    received: f32,
    sent: f32,
    /// The wait that 99 of 100 users did not exceed, in microseconds; 0 without any user.
    wait_us: u32,
}

/// One service's samples, and its counts at the last one.
#[derive(Debug)]
struct Line {
    samples: [Sample; SAMPLES],
    /// How many were taken, ever.
    taken: usize,
    received: u64,
    sent: u64,
    refused: u64,
    waits: [u64; WAIT_BOUNDS_US.len() + 1],
}

type Key = (Name, Option<Name>);

/// All lines.
#[derive(Debug, Default)]
pub struct History {
    lines: HashMap<Key, Box<Line>>,
    /// When the last sample was taken.
    last: Option<Instant>,
}

impl History {
    /// When the next sample is due.
    pub fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + INTERVAL)
    }

    /// Takes a sample, if it is time. Services that are gone are forgotten.
    pub fn take(&mut self, view: &View) {
        if view.at < self.due(view.at) {
            return;
        }
        let passed = self.last.map_or(INTERVAL, |last| view.at.saturating_duration_since(last));
        self.last = Some(view.at);
        let mut before = std::mem::take(&mut self.lines);
        for service in &view.snapshot.services {
            let key = key(service);
            let line = match before.remove(&key) {
                Some(mut line) => {
                    line.add(&service.figures, passed);
                    line
                }
                None => Box::new(Line::of(&service.figures)),
            };
            self.lines.insert(key, line);
        }
    }

    /// The lines as JSON, oldest sample first.
    pub fn write(&self) -> String {
        let mut json = Json::default();
        json.open('{').key("every_s").plain(&INTERVAL.as_secs()).key("samples").plain(&SAMPLES);
        json.key("services").open('[');
        for ((name, key), line) in &self.lines {
            json.open('{').key("name").text(name.as_str());
            json.key("key").text_or_null(key.as_ref().map(Name::as_str));
            line.write("users", |it| Some(Decimal::whole(it.users.into())), &mut json);
            line.write("in", |it| Some(Decimal::whole(it.received.round() as u64)), &mut json);
            line.write("out", |it| Some(Decimal::whole(it.sent.round() as u64)), &mut json);
            line.write(
                "wait_ms",
                |it| {
                    let wait = Duration::from_micros(it.wait_us.into());
                    (it.wait_us > 0).then(|| Decimal::milliseconds(wait))
                },
                &mut json,
            );
            line.write("refused", |it| Some(Decimal::whole(it.refused.into())), &mut json);
            json.close('}');
        }
        json.close(']').close('}');
        json.finish() + "\n"
    }
}

fn key(service: &ServiceStatus) -> Key {
    (service.name.clone(), service.exposed_by.clone())
}

impl Line {
    /// A line without samples; the counts so far are of no interval.
    fn of(figures: &Figures) -> Line {
        let mut line = Line {
            samples: [Sample::default(); SAMPLES],
            taken: 0,
            received: 0,
            sent: 0,
            refused: 0,
            waits: [0; WAIT_BOUNDS_US.len() + 1],
        };
        line.count(figures);
        line
    }

    fn count(&mut self, figures: &Figures) {
        (self.received, self.sent) = (figures.traffic.received, figures.traffic.sent);
        self.refused = figures.refused.iter().sum();
        self.waits = figures.waits.counts;
    }

    fn add(&mut self, figures: &Figures, passed: Duration) {
        let a_second =
            |now: u64, before: u64| now.saturating_sub(before) as f32 / passed.as_secs_f32().max(0.001);
        let mut waits = figures.waits.clone();
        waits.counts.iter_mut().zip(self.waits).for_each(|(now, before)| *now = now.saturating_sub(before));
        let refused = figures.refused.iter().sum::<u64>().saturating_sub(self.refused);
        let sample = Sample {
            users: u32::try_from(figures.users).unwrap_or(u32::MAX),
            refused: u32::try_from(refused).unwrap_or(u32::MAX),
            received: a_second(figures.traffic.received, self.received),
            sent: a_second(figures.traffic.sent, self.sent),
            wait_us: waits.quantile(0.99).map_or(0, |wait| wait.as_micros() as u32),
        };
        self.samples[self.taken % SAMPLES] = sample;
        self.taken += 1;
        self.count(figures);
    }

    fn write(&self, name: &str, value: fn(&Sample) -> Option<Decimal>, json: &mut Json) {
        json.key(name).open('[');
        for number in self.taken.saturating_sub(SAMPLES)..self.taken {
            json.decimal_or_null(value(&self.samples[number % SAMPLES]));
        }
        json.close(']');
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::{mixed, view};
    use super::*;

    #[test]
    fn a_service_costs_at_most_2_kib() {
        // A table is filled to seven eighths at most, and doubles.
        let entry = size_of::<(Key, Box<Line>)>() + 1;
        assert!(size_of::<Line>() + 16 + entry * 16 / 7 <= 2_048, "{}", size_of::<Line>());
    }

    #[test]
    fn a_sample_is_what_an_interval_brought_and_old_ones_go() {
        let (mut history, mut view) = (History::default(), mixed());
        history.take(&view);
        for round in 0..SAMPLES as u64 + 5 {
            view.at += INTERVAL;
            let web = &mut view.snapshot.services[0].figures;
            web.traffic.received += 10 * round;
            web.refused[1] += 1;
            history.take(&view);
            view.at += INTERVAL / 2;
            history.take(&view);
            view.at -= INTERVAL / 2;
        }
        let text = history.write();
        let web = text.split('{').find(|part| part.contains("\"web\"")).expect("it is there");
        assert!(web.contains("\"users\":[2,2,"), "{web}");
        assert!(web.contains("\"in\":[5,6,7,") && web.contains(",63,64]"), "{web}");
        assert!(web.contains("\"refused\":[1,1,") && web.contains("\"wait_ms\":[null,"), "{web}");
        assert_eq!(web.matches(',').count(), 5 * SAMPLES + 1 + usize::from(web.ends_with(',')), "{web}");
    }

    #[test]
    fn a_service_that_is_gone_is_forgotten() {
        let (mut history, first) = (History::default(), mixed());
        history.take(&first);
        let mut later = view(|_| Vec::new());
        later.at = first.at + INTERVAL;
        history.take(&later);
        assert!(history.lines.is_empty());
    }
}
