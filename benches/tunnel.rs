//! The benchmark: every contender on loopback as processes of its own, driven by the same users in turn.
//!
//! `cargo bench --bench tunnel -- --help` shows what can be chosen; benches/README.md says what each case measures.
//!
//! ```text
//!  users (this process) ──▶ contender's processes ──▶ its origin (a helper process of this program)
//! ```
//!
//! Within a case the contenders take turns, round by round (A B C A B C …), so that other work of the machine meets
//! all of them alike. Figures of different runs are not compared.

#[path = "tunnel/alarm.rs"]
mod alarm;
#[path = "tunnel/awake.rs"]
mod awake;
#[path = "tunnel/cases.rs"]
mod cases;
#[path = "tunnel/contenders.rs"]
mod contenders;
#[path = "tunnel/draw.rs"]
mod draw;
#[path = "tunnel/growth.rs"]
mod growth;
#[path = "tunnel/line.rs"]
mod line;
#[path = "tunnel/link.rs"]
mod link;
#[path = "tunnel/load.rs"]
mod load;
#[path = "tunnel/origin.rs"]
mod origin;
#[path = "tunnel/process.rs"]
mod process;
#[path = "tunnel/results.rs"]
mod results;
#[path = "tunnel/start.rs"]
mod start;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use argh::FromArgs;

use cases::{CASES, Case, Kind, Setting};
use contenders::{Between, Contender, NAMES, Running, Size, Surroundings};
use line::Shape;
use process::{Folder, Process};
use results::Results;
use start::{Outcome, raise_descriptors};

/// Compares skyorg with other ways through.
#[derive(FromArgs)]
struct Arguments {
    /// contenders, divided by commas [default: all that are installed]
    #[argh(option, default = "String::new()")]
    contenders: String,
    /// cases, divided by commas [default: all]
    #[argh(option, default = "String::new()")]
    cases: String,
    /// rounds per case [default: 5]
    #[argh(option, default = "5")]
    rounds: usize,
    /// seconds of one round of a timed case [default: 3]
    #[argh(option, default = "3.0")]
    seconds: f64,
    /// most idle sessions in the cases of memory and growth [default: 8000]
    #[argh(option, default = "8000")]
    sessions: usize,
    /// seconds that memory may take to go back after they ended [default: 150]
    #[argh(option, default = "150.0")]
    settle: f64,
    /// milliseconds that the slow link's round trip takes [default: 50]
    #[argh(option, default = "50")]
    round_trip: u64,
    /// another build of skyorg, which becomes the contenders before and before-plain
    #[argh(option)]
    before: Option<PathBuf>,
    /// FILE for every figure of every round
    #[argh(option)]
    json: Option<PathBuf>,
    /// FOLDER for keys, configurations and logs of the contenders, which is kept
    #[argh(option)]
    logs: Option<PathBuf>,
    /// draw no pictures into benches/results
    #[argh(switch)]
    no_pictures: bool,
}

fn main() -> ExitCode {
    let own = |words: &[&str]| match *words {
        ["line", round_trip, loss, rate, buffer] => Some(run_line([round_trip, loss, rate, buffer])),
        [awake::WORD] => awake::run(),
        _ => None,
    };
    start::start("tunnel", own, run)
}

fn run_line(words: [&str; 4]) -> Outcome {
    process::end_with_parent();
    Ok(line::run(Shape::parse(words).ok_or("no shape of a line")?)?)
}

fn run(arguments: &Arguments) -> Outcome {
    raise_descriptors();
    let folder = Folder::new(arguments.logs.as_deref())?;
    let contenders = contenders::find(&chosen(&arguments.contenders, &NAMES)?, arguments.before.as_deref())?;
    let names = chosen(&arguments.cases, &CASES.map(|case| case.name))?;
    let around = Surroundings { folder: &folder, between: Between::Nothing, size: Size::USUAL };
    let results = Results::default();
    for case in CASES.iter().filter(|case| names.contains(&case.name)) {
        eprintln!("{}", case.title);
        run_case(case, arguments, &contenders, &around, &results)?;
    }
    println!("{}", results.table(&names));
    if let Some(path) = &arguments.json {
        fs::write(path, results.json())?;
    }
    if !arguments.no_pictures {
        draw::all(&results, &Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results"))?;
    }
    Ok(())
}

fn run_case(
    case: &Case,
    arguments: &Arguments,
    contenders: &[Contender],
    around: &Surroundings,
    results: &Results,
) -> Result<(), Box<dyn Error>> {
    let setting = |contender| Setting {
        results,
        case: case.name,
        contender,
        time: Duration::from_secs_f64(arguments.seconds),
        sessions: arguments.sessions,
        settle: Duration::from_secs_f64(arguments.settle),
        round_trip: Duration::from_millis(arguments.round_trip),
    };
    match case.kind {
        Kind::Beside(run) => {
            let start = |contender: &Contender| contender.start(around);
            let running: Vec<Running> = contenders.iter().map(start).collect::<Result<_, _>>()?;
            for _ in 0..arguments.rounds {
                for (contender, running) in contenders.iter().zip(&running) {
                    survive(case, contender, run(&setting(contender), running));
                    let rested = running.calm_down().map(|busy| {
                        if let Some(busy) = busy {
                            let (case, contender) = (case.name, contender.name);
                            eprintln!("  {case:<12} {contender:<18} was busy for {busy:.1?} after its turn");
                        }
                    });
                    survive(case, contender, rested);
                }
            }
        }
        Kind::AloneOnce(run) => {
            for contender in contenders.iter().filter(|contender| !contender.is_direct()) {
                let outcome = contender.start(around).and_then(|running| run(&setting(contender), &running));
                survive(case, contender, outcome);
            }
        }
        Kind::OverLink(run) => {
            let between = Between::Link(Duration::from_millis(arguments.round_trip));
            let around = Surroundings { between, ..*around };
            for _ in 0..arguments.rounds {
                for contender in contenders {
                    let outcome =
                        contender.start(&around).and_then(|running| run(&setting(contender), &running));
                    survive(case, contender, outcome);
                }
            }
        }
        Kind::OverLine(shape, run) => {
            let around = Surroundings { between: Between::Line, ..*around };
            let setting = |contender| Setting { round_trip: shape.round_trip, ..setting(contender) };
            let _awake = awake::keep(around.folder)
                .inspect_err(|error| eprintln!("  the cores may sleep, and packets come late: {error}"));
            for _ in 0..arguments.rounds {
                for contender in contenders {
                    let outcome =
                        over_line(&shape, &around, contender, |running| run(&setting(contender), running));
                    survive(case, contender, outcome);
                }
            }
        }
        Kind::Growth => growth::run(contenders, around, setting),
    }
    Ok(())
}

/// Runs a contender with a line of its own between its halves.
fn over_line(
    shape: &Shape,
    around: &Surroundings,
    contender: &Contender,
    run: impl FnOnce(&Running) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let arguments = shape.arguments();
    let words: Vec<&str> = ["line"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let mut line = Process::helper(&words, around.folder.file("line.log"))?;
    line.address_after("listening ")?;
    run(&contender.start(around)?)
}

/// Says that a contender has failed a round. It has a figure less, and the others go on.
fn survive(case: &Case, contender: &Contender, outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("  {:<12} {:<18} FAILED: {error}", case.name, contender.name);
    }
}

/// The names in a list that is divided by commas; all of them if it is empty.
fn chosen(list: &str, known: &[&'static str]) -> Result<Vec<&'static str>, String> {
    if list.is_empty() {
        return Ok(known.to_vec());
    }
    let find = |word: &str| known.iter().copied().find(|&name| name == word);
    let wanted = list.split(',').map(str::trim);
    wanted.map(|word| find(word).ok_or(format!("'{word}' is none of: {}", known.join(", ")))).collect()
}
