//! How a benchmark starts: as itself, or as one of its own helpers.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use argh::{EarlyExit, FromArgs};
use mio::net::TcpListener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{link, origin, process};

pub type Outcome = Result<(), Box<dyn Error>>;

/// Runs the benchmark of this name. If the command line is one of a helper, it runs that: the origin, the slow link, or
/// one of its `own`.
pub fn start<Arguments: FromArgs>(
    name: &str,
    own: impl FnOnce(&[&str]) -> Option<Outcome>,
    run: impl FnOnce(&Arguments) -> Outcome,
) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo adds `--bench` at the end.
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|&word| word != "--bench").collect();
    let outcome = match words[..] {
        ["origin"] => run_origin(),
        ["link", to, round_trip] => run_link(to, round_trip),
        _ => own(&words).unwrap_or_else(|| {
            match Arguments::from_args(&[&format!("cargo bench --bench {name} --")], &words) {
                Ok(arguments) => run(&arguments),
                Err(EarlyExit { output, status: Ok(()) }) => {
                    println!("{output}");
                    Ok(())
                }
                Err(EarlyExit { output, status: Err(()) }) => Err(output.into()),
            }
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_origin() -> Outcome {
    process::end_with_parent();
    Ok(origin::run(announced_listener()?)?)
}

fn run_link(to: &str, round_trip: &str) -> Outcome {
    process::end_with_parent();
    let round_trip = Duration::from_millis(round_trip.parse()?);
    Ok(link::run(announced_listener()?, to.parse()?, round_trip)?)
}

/// A new listener. Its address goes to the benchmark that started this helper.
fn announced_listener() -> io::Result<TcpListener> {
    let listener = process::listen()?;
    println!("listening {}", listener.local_addr()?);
    Ok(TcpListener::from_std(listener))
}

/// The users need one file descriptor each, and so does the origin, which inherits the limit.
pub fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Without it the cases with many sessions fail, and say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
