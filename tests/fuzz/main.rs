//! Fuzz targets: whatever reads bytes from outside is driven for ten seconds with bytes drawn from a seed.
//!
//! - `cargo test --test fuzz` drives each target for ten seconds;
//! - `SKYORG_FUZZ_SECONDS=600 cargo test --test fuzz records` drives one for longer;
//! - `SKYORG_SEED=17 cargo test --test fuzz records` runs that one input again.

mod targets;

use std::time::{Duration, Instant};

use fastrand::Rng;

/// Inputs between two looks at the clock.
const BATCH: u64 = 64;
/// Longest input.
const BYTES_MAX: usize = 400;

/// Says which seed it was when its input fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nseed {0}: run it again with SKYORG_SEED={0} cargo test --test fuzz\n", self.0);
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: wanted a number")))
}

/// An input: a good one that was damaged, or bytes at random.
fn input(rng: &mut Rng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match rng.u8(..4) {
        0 => (0..rng.usize(..BYTES_MAX)).map(|_| rng.u8(..)).collect(),
        _ => rng.choice(samples.iter()).cloned().unwrap_or_default(),
    };
    for _ in 0..rng.usize(..4) {
        let place = rng.usize(..=bytes.len());
        match rng.u8(..5) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, rng.u8(..)),
            2 => bytes.extend((0..rng.usize(..20)).map(|_| rng.u8(..)).collect::<Vec<u8>>()),
            3 => {
                let other = rng.choice(samples.iter()).cloned().unwrap_or_default();
                bytes.splice(place.., other);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
        }
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn drive(samples: Vec<Vec<u8>>, target: fn(&[u8], &mut Rng)) {
    let run = |seed: u64| {
        let _seed = Seed(seed);
        let mut rng = Rng::with_seed(seed);
        let bytes = input(&mut rng, &samples);
        target(&bytes, &mut rng);
    };
    if let Some(seed) = variable("SKYORG_SEED") {
        return run(seed);
    }
    let end = Instant::now() + Duration::from_secs(variable("SKYORG_FUZZ_SECONDS").unwrap_or(10));
    let mut seed = 0;
    while Instant::now() < end {
        (seed..seed + BATCH).for_each(run);
        seed += BATCH;
    }
    println!("{seed} inputs");
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            drive(targets::$name::samples(), targets::$name::run);
        })*
    };
}

targets! {
    session_frames
    control_frames
    hellos
    records
    key_files
    configuration_files
    addresses
    requests
}
