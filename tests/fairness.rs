//! Bulk users do not starve an interactive one, nor each other. Only progress is asserted here; times are measured
//! by `cargo bench --bench fairness`.

mod pair;

use std::time::{Duration, Instant};

use pair::load::{Bulk, Interactive, start_local_server};
use pair::{PATIENCE, Pair};

const BULK_USERS: usize = 4;
const QUESTIONS: u64 = 100;
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

fn everybody_makes_progress(arguments: &[&str]) {
    let pair = Pair::start(start_local_server(), arguments);
    let mut interactive = Interactive::echo(pair.request);
    interactive.ask(0);
    let bulk: Vec<Bulk> = (0..BULK_USERS).map(|_| Bulk::start(pair.request)).collect();
    let before: Vec<_> = bulk.iter().map(Bulk::moved).collect();
    for number in 1..=QUESTIONS {
        let asked = Instant::now();
        interactive.ask(number);
        assert!(asked.elapsed() < ANSWER, "answer {number} beside bulk took {:?}", asked.elapsed());
    }
    // Each of the bulk users moves on in both directions while the questions go on.
    let deadline = Instant::now() + PATIENCE;
    let mut number = QUESTIONS;
    while bulk.iter().zip(&before).any(|(user, before)| (0..2).any(|way| user.moved()[way] <= before[way])) {
        let moved: Vec<_> = bulk.iter().map(Bulk::moved).collect();
        assert!(Instant::now() < deadline, "a bulk user stands still: {before:?}, {moved:?}");
        number += 1;
        interactive.ask(number);
    }
}

#[test]
fn everybody_makes_progress_beside_bulk_sealed() {
    everybody_makes_progress(&[]);
}

#[test]
fn everybody_makes_progress_beside_bulk_plain() {
    everybody_makes_progress(&["--plain"]);
}
