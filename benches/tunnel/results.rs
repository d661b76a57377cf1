//! The figures, a table of their medians, and all of them as JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;

use hdrhistogram::Histogram;

use super::load;

/// The contender that ratios refer to.
const REFERENCE: &str = "direct";

/// One figure of one round.
#[derive(Clone, Copy)]
pub struct Note {
    /// Which case.
    pub case: &'static str,
    /// Which of its figures, with the unit.
    pub metric: &'static str,
    /// Which contender.
    pub contender: &'static str,
    /// How much.
    pub value: f64,
}

/// All figures of a run, in the order in which they came.
#[derive(Default)]
pub struct Results {
    notes: RefCell<Vec<Note>>,
    latencies: RefCell<BTreeMap<Subject, Histogram<u64>>>,
    memory: RefCell<BTreeMap<&'static str, Vec<(usize, f64)>>>,
    remarks: RefCell<Vec<String>>,
}

/// A case and a contender.
type Subject = (&'static str, &'static str);

/// A figure of one contender over all rounds.
#[derive(Clone, Copy)]
pub struct Summary {
    /// The middle round, or the mean of the middle two.
    pub median: f64,
    /// The round with the least.
    pub min: f64,
    /// The round with the most.
    pub max: f64,
}

impl Results {
    /// Notes a figure, and shows it at once.
    pub fn note(&self, note: Note) {
        let Note { case, metric, contender, value } = note;
        eprintln!("  {case:<12} {contender:<18} {metric:<40} {}", short(value));
        self.notes.borrow_mut().push(note);
    }

    /// Keeps what stands below the table, such as why a figure is missing, and shows it at once.
    pub fn remark(&self, text: String) {
        eprintln!("  {text}");
        self.remarks.borrow_mut().push(text);
    }

    /// Adds a round's latencies to the curve of a case.
    pub fn add_latencies(&self, case: &'static str, contender: &'static str, round: &Histogram<u64>) {
        *self.latencies.borrow_mut().entry((case, contender)).or_insert_with(load::latencies) += round;
    }

    /// Adds a point to the curve of memory over sessions.
    pub fn add_memory(&self, contender: &'static str, sessions: usize, kib: f64) {
        self.memory.borrow_mut().entry(contender).or_default().push((sessions, kib));
    }

    /// The curves of a case: latency in seconds at each percentile.
    pub fn latency_curves(&self, case: &str, percentiles: &[f64]) -> Vec<(&'static str, Vec<f64>)> {
        let seconds =
            |histogram: &Histogram<u64>, percent| histogram.value_at_percentile(percent) as f64 / 1e9;
        let curve = |histogram| percentiles.iter().map(|&percent| seconds(histogram, percent)).collect();
        let latencies = self.latencies.borrow();
        let of_case = latencies.iter().filter(|((of, _), _)| *of == case);
        of_case.map(|((_, contender), histogram)| (*contender, curve(histogram))).collect()
    }

    /// The curves of memory in KiB over sessions.
    pub fn memory_curves(&self) -> BTreeMap<&'static str, Vec<(usize, f64)>> {
        self.memory.borrow().clone()
    }

    /// The metrics of a case, in order.
    pub fn metrics(&self, case: &str) -> Vec<&'static str> {
        self.distinct(|note| (note.case == case).then_some(note.metric))
    }

    /// The contenders that have figures, in order.
    pub fn contenders(&self) -> Vec<&'static str> {
        self.distinct(|note| Some(note.contender))
    }

    fn distinct(&self, of: impl Fn(&Note) -> Option<&'static str>) -> Vec<&'static str> {
        let mut found = Vec::new();
        for name in self.notes.borrow().iter().filter_map(of) {
            if !found.contains(&name) {
                found.push(name);
            }
        }
        found
    }

    fn values(&self, case: &str, metric: &str, contender: &str) -> Vec<f64> {
        let notes = self.notes.borrow();
        let wanted = |note: &&Note| note.case == case && note.metric == metric && note.contender == contender;
        notes.iter().filter(wanted).map(|note| note.value).collect()
    }

    /// A figure of one contender over all rounds; `None` if no round has it.
    pub fn summary(&self, case: &str, metric: &str, contender: &str) -> Option<Summary> {
        let mut values = self.values(case, metric, contender);
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some(Summary { median, min, max })
    }

    /// The table: median, least to most, and the ratio to the direct way in the same run. Remarks stand below it.
    pub fn table(&self, cases: &[&'static str]) -> String {
        let mut text = String::new();
        text.push_str("| case | figure | contender | median | min–max | of direct |\n");
        text.push_str("|---|---|---|--:|--:|--:|\n");
        for &case in cases {
            for metric in self.metrics(case) {
                for contender in self.contenders() {
                    let Some(Summary { median, min, max }) = self.summary(case, metric, contender) else {
                        continue;
                    };
                    let reference = self.summary(case, metric, REFERENCE).filter(|it| it.median != 0.0);
                    let ratio = reference.map_or(String::new(), |it| format!("{:.2}", median / it.median));
                    let (median, min, max) = (short(median), short(min), short(max));
                    // Writing to a string cannot fail.
                    let _ = writeln!(
                        text,
                        "| {case} | {metric} | {contender} | {median} | {min}–{max} | {ratio} |"
                    );
                }
            }
        }
        for remark in self.remarks.borrow().iter() {
            let _ = writeln!(text, "\n{remark}");
        }
        text
    }

    /// Every figure of every round. Names are ours and hold nothing that JSON would want escaped.
    pub fn json(&self) -> String {
        let mut text = String::from("[\n");
        for (index, note) in self.notes.borrow().iter().enumerate() {
            let Note { case, metric, contender, value } = note;
            let comma = if index == 0 { "" } else { ",\n" };
            let _ = write!(
                text,
                "{comma}  {{\"case\": \"{case}\", \"metric\": \"{metric}\", \"contender\": \"{contender}\", \
                 \"value\": {value:.6}}}"
            );
        }
        text.push_str("\n]\n");
        text
    }
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}
