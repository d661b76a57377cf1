//! The command line: what was typed becomes a validated configuration, and that runs.
//!
//! Exit status: 0 for a good end, 2 for bad usage or configuration, 1 for everything that fails later.
//! Every failure is one sentence on standard error.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use argh::FromArgs;
use log::{Level, LevelFilter};

use crate::app::demo;
use crate::app::descriptors::forbid_core_dumps;
use crate::app::journal::{self, Format, Place};
use crate::app::ready_file;
use crate::app::reload::{Refusal, Reread};
use crate::app::run::{self, Client, Server, StartError};
use crate::app::status::ways::Ways;
use crate::base::address::Listen;
use crate::base::name::Name;
use crate::config::fault::{Fault, Faults, without_whole_secrets};
use crate::config::file::Running;
use crate::config::keys::{self, KeyError};
use crate::config::options::Side;
use crate::config::source::{Occasion, Read, Refused, Source};
use crate::config::{ClientConfig, ServerConfig, restart};
use crate::reactor::world::inherited::Inherited;

mod arguments;
mod beside;
mod check;
mod said;
mod status;
mod unit;

use arguments::{
    Arguments, CheckArguments, ClientArguments, Command, DemoArguments, KeygenArguments, ServerArguments,
    UnitArguments, UnitSide,
};
use beside::Given;

/// Runs the program.
pub fn main() -> ExitCode {
    // A file at the limit of its size (setrlimit(2), RLIMIT_FSIZE) is as a full disk, and does not end the process.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let outcome = read_arguments(std::env::args_os().skip(1)).and_then(run);
    let status = match outcome {
        Ok(()) | Err(Failure::Start(StartError::AskedToEnd)) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.status())
        }
    };
    journal::close();
    status
}

/// What was asked for: a text to print, or a command to run.
#[derive(Debug)]
enum Asked {
    Text(String),
    Command(Box<Command>, Vec<Given>),
}

#[cold]
fn read_arguments(arguments: impl Iterator<Item = OsString>) -> Result<Asked, Failure> {
    let usage = |command, problem| Failure::Usage { command, problem };
    let mut words = Vec::new();
    for argument in arguments {
        let text = argument.into_string();
        words.push(text.map_err(|_| usage("skyorg", "an argument is not UTF-8 text".to_owned()))?);
    }
    // No word of it reaches a log or the unit of a service manager.
    if words.iter().any(|word| keys::holds_secret(word)) {
        return Err(Failure::Key(KeyError::NotAFile));
    }
    let typed = words;
    let words: Vec<&str> = typed.iter().flat_map(|word| split_option(word)).collect();
    let words = if words.is_empty() { vec!["--help"] } else { words };
    match Arguments::from_args(&["skyorg"], &words) {
        Ok(Arguments { version: true, .. }) => {
            Ok(Asked::Text(format!("skyorg {}", env!("CARGO_PKG_VERSION"))))
        }
        Ok(Arguments { command: Some(command), .. }) => {
            let given = match &command {
                Command::Server(_) | Command::Unit(UnitArguments { side: Some(UnitSide::Server(_)) }) => {
                    Given::all(Side::Server, &typed)
                }
                Command::Client(_) | Command::Unit(UnitArguments { side: Some(UnitSide::Client(_)) }) => {
                    Given::all(Side::Client, &typed)
                }
                _ => Vec::new(),
            };
            Ok(Asked::Command(Box::new(command), given))
        }
        Ok(Arguments { command: None, .. }) => Err(usage("skyorg", "no command was given".to_owned())),
        Err(exit) if exit.status.is_ok() => Ok(Asked::Text(exit.output.trim_end().to_owned())),
        Err(exit) => {
            Err(usage(named_command(&words), exit.output.trim_end().trim_end_matches('.').to_owned()))
        }
    }
}

/// `--option=value` as two words, which argh wants; only the first `=` counts.
fn split_option(word: &str) -> impl Iterator<Item = &str> {
    let (option, value) = match word.split_once('=') {
        Some((option, value)) if option.starts_with("--") => (option, Some(value)),
        _ => (word, None),
    };
    std::iter::once(option).chain(value)
}

/// The command whose help explains the words.
fn named_command(words: &[&str]) -> &'static str {
    match words.first() {
        Some(&"server") => "skyorg server",
        Some(&"client") => "skyorg client",
        Some(&"check") => "skyorg check",
        Some(&"status") => "skyorg status",
        Some(&"unit") => "skyorg unit",
        Some(&"keygen") => "skyorg keygen",
        Some(&"demo") => "skyorg demo",
        _ => "skyorg",
    }
}

#[cold]
fn run(asked: Asked) -> Result<(), Failure> {
    forbid_core_dumps();
    let (command, given) = match asked {
        Asked::Text(text) => return print(&text),
        Asked::Command(command, given) => (*command, given),
    };
    match command {
        Command::Server(arguments) => serve(arguments, &given),
        Command::Client(arguments) => connect(arguments, &given),
        Command::Check(CheckArguments { files }) => check::run(&files),
        Command::Status(arguments) => status::run(arguments),
        Command::Unit(UnitArguments { side }) => unit::run(side, &given),
        Command::Keygen(KeygenArguments { name }) => {
            let name = name.unwrap_or_else(default_service);
            print_line(&keys::line(&keys::generate(name)?))
        }
        Command::Demo(DemoArguments { once, log_level }) => {
            start_log(&Running { log_level: Some(log_level.to_string()), ..Running::default() })?;
            demo::run(once).map_err(Failure::Demo)
        }
    }
}

/// Prints a text and the end of its last line.
fn print(text: &str) -> Result<(), Failure> {
    print_line(&format!("{text}\n"))
}

/// Prints to standard output, whole lines in one piece: nothing of them stays in its buffer. A closed pipe is not a
/// failure, but a full disk is.
fn print_line(line: &str) -> Result<(), Failure> {
    match io::stdout().write_all(line.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Io("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

#[cold]
fn serve(arguments: ServerArguments, given: &[Given]) -> Result<(), Failure> {
    let source = said::server(arguments, given)?;
    if let Source::Flags { said, .. } = &source {
        start_log(&said.running)?;
    }
    let read = source.read(Occasion::Start)?;
    if let Source::File { .. } = &source {
        start_log(&read.running)?;
    }
    read.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if let Some(path) = read.made {
        // Printed at every log level: the operator needs these lines to go on.
        let lines = format!(
            "There was no key file, so one was made: {}\n\
             Copy it to ~/.config/skyorg/key on the client's machine; its one line is the client's key.\n",
            path.display()
        );
        let _ = io::stderr().write_all(lines.as_bytes());
    }
    let ways = Ways::of(Side::Server, &read.running);
    let (mut network, mut inherited) = (run::network()?, inherited());
    let metrics = ways.take(&mut inherited);
    // Before users can connect: a port that is in use is waited for.
    let opened = run::open(&ways, metrics, &mut network)?;
    let mut server = Server::bind_with(network, read.config, inherited)?;
    server.show(ways, opened, source.file())?;
    if let Some(shortage) = server.shortage() {
        log::warn!("{shortage}");
    }
    let name = source.name();
    let reader = move |running: &ServerConfig| {
        let read = source.read(Occasion::Reload).map_err(refusal)?;
        let faults = restart::of_server(running, &read);
        reread(Side::Server, read, faults)
    };
    let outcome = server.run_and_reload(name, read.running, Box::new(reader));
    outcome.map_err(|error| Failure::Io("the server cannot go on", error))
}

#[cold]
fn connect(arguments: ClientArguments, given: &[Given]) -> Result<(), Failure> {
    let source = said::client(arguments, given)?;
    if let Source::Flags { said, .. } = &source {
        start_log(&said.running)?;
    }
    let read = source.read(Occasion::Start)?;
    if let Source::File { .. } = &source {
        start_log(&read.running)?;
    }
    read.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    journal::tell(Level::Info, format_args!("{}", read.keys_from), "key", &|json| {
        let (key, said) = (&read.config.key.name, &read.keys_from);
        let from = said.split_once("' from ").map_or(said.as_str(), |(_, from)| from);
        json.key("key").text(key.as_str()).key("from").text(from);
    });
    if let Some(path) = &read.running.ready_file {
        ready_file::claim(path).map_err(|what| Failure::ReadyFile(read.places.told("ready-file", what)))?;
    }
    let ways = Ways::of(Side::Client, &read.running);
    let (mut network, mut inherited) = (run::network()?, inherited());
    let metrics = ways.take(&mut inherited);
    run::close_unused(inherited);
    let opened = run::open(&ways, metrics, &mut network)?;
    let mut client = Client::new_in(network, read.config)?;
    client.show(ways, opened, source.file())?;
    let announced = client.announce(read.running.ready_file.clone());
    announced.map_err(|error| Failure::Io("cannot tell where users connect", error))?;
    let name = source.name();
    let reader = move |running: &ClientConfig| {
        let read = source.read(Occasion::Reload).map_err(refusal)?;
        let faults = restart::of_client(running, &read);
        reread(Side::Client, read, faults)
    };
    let outcome = client.run_and_reload(name, read.running, Box::new(reader));
    outcome.map_err(|error| Failure::Io("the client cannot go on", error))
}

/// The listeners that the service manager opened for this process.
#[cold]
fn inherited() -> Inherited {
    let (inherited, others) = Inherited::of_environment();
    others.iter().for_each(|other| log::warn!("the service manager handed over what is of no use: {other}"));
    inherited
}

/// How much is logged, and in which form.
fn log_of(running: &Running) -> (LevelFilter, Format) {
    let level = running.log_level.as_deref().and_then(|level| level.parse().ok());
    let format = running.log_format.as_deref().and_then(|format| format.parse().ok());
    (level.unwrap_or(LevelFilter::Info), format.unwrap_or_default())
}

/// What was read while the process runs, unless it would have to restart for it.
fn reread<Config>(side: Side, read: Read<Config>, restarts: Vec<Fault>) -> Result<Reread<Config>, Refusal> {
    if let Some(first) = restarts.first() {
        // Of a command line only the keys are read again.
        let flags = format!("keys: {}", first.what);
        let mut faults = Faults::default();
        restarts.into_iter().for_each(|fault| faults.push(fault));
        return Err(if read.places.are_of_a_file() { faults.into() } else { flags.into() });
    }
    read.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    let Read { config, running, places, .. } = read;
    let ((level, format), ways) = (log_of(&running), Some(Ways::of(side, &running)));
    Ok(Reread { config, level, format, ways, running, places })
}

fn refusal(refused: Refused) -> Refusal {
    match refused {
        Refused::File(faults) => faults.into(),
        refused => refused.in_one_line().into(),
    }
}

/// The name of the service that needs no name.
pub(crate) fn default_service() -> Name {
    "default".parse().expect("a good name") // invariant: the constant is one
}

/// Sends the log to a file, or to standard error.
#[cold]
fn start_log(running: &Running) -> Result<(), Failure> {
    let place = match &running.log_file {
        None => Place::StandardError,
        Some(path) => Place::file(path).map_err(|error| Failure::LogFile(path.clone(), error))?,
    };
    let (level, format) = log_of(running);
    journal::start(level, format, place).map_err(|error| Failure::Io("the log cannot start", error))
}

/// Why the program fails.
#[derive(Debug)]
enum Failure {
    /// An argument that the command does not take, or a value that it cannot use.
    Usage { command: &'static str, problem: String },
    /// `client` without `--server`.
    NoServer,
    /// `client` without `--local` and without `--publish`.
    NothingToPublish,
    /// One name for two services.
    SameService(Name),
    /// More services than one server may declare.
    TooManyServices(usize, usize),
    /// More publications than one client may have.
    TooManyPublications(usize, usize),
    /// Two listeners at one address.
    SamePlace(Listen),
    /// One file for two things, and what to say of it.
    SameFile(String),
    /// Flags that may not stand beside a file: a sentence for each.
    Beside(Vec<String>),
    /// A configuration file is at fault, or the key file that it names.
    File(Faults),
    /// `check` found a file that would not be taken, and has said why.
    Checked,
    /// `status` found that not everything is proven, and has said what.
    NotProven(u8),
    /// The ready file cannot be written.
    ReadyFile(String),
    /// The log file cannot be opened.
    LogFile(PathBuf, io::Error),
    /// No usable key.
    Key(KeyError),
    /// The server or the client cannot start.
    Start(StartError),
    /// The demo failed.
    Demo(demo::DemoError),
    /// Something that the operating system refused while running.
    Io(&'static str, io::Error),
}

impl Failure {
    /// Says why, on standard error. A fault of a file is told as `check` does.
    fn tell(&self) {
        match self {
            Failure::File(faults) => check::tell(faults),
            Failure::Checked | Failure::NotProven(_) => {}
            failure => journal::tell_failure(failure),
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::NotProven(status) => *status,
            Self::Start(_)
            | Self::ReadyFile(_)
            | Self::Demo(_)
            | Self::Io(..)
            | Self::Key(KeyError::Random) => 1,
            _ => 2,
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::File(faults) => Failure::File(faults),
            Refused::Key(error) => Failure::Key(error),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        Failure::Start(error)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Failure {
        Failure::Key(error)
    }
}

/// Any of them may hold what was typed.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        f.write_str(&without_whole_secrets(&text))
    }
}

impl Failure {
    #[cold]
    fn write(&self, f: &mut String) -> fmt::Result {
        match self {
            Self::Usage { command, problem } => {
                write!(f, "{problem}; '{command} --help' shows what it takes")
            }
            Self::NoServer => {
                f.write_str("which server? Say --server HOST, the public host where 'skyorg server' runs")
            }
            Self::NothingToPublish => f.write_str(
                "nothing to publish: say --local ADDR, such as --local localhost:8080, or --expose ADDR",
            ),
            Self::SameService(name) => {
                write!(f, "the service '{name}' is given twice; each needs a name of its own")?;
                let is_default = *name == default_service();
                if is_default {
                    f.write_str(" (--request and --local are the service 'default')")
                } else {
                    Ok(())
                }
            }
            Self::TooManyServices(found, max) => write!(
                f,
                "{found} services are declared, and one server may have {max}; start a second server for the rest"
            ),
            Self::TooManyPublications(found, max) => write!(
                f,
                "{found} services are published, and one client may have {max}; start a second client for the rest"
            ),
            Self::SamePlace(listen) => write!(
                f,
                "{listen} is wanted for two things; give --request, --metrics and each --service a port of its own; \
                 only --message and --control may share one"
            ),
            Self::SameFile(what) => f.write_str(what),
            Self::Beside(sentences) => f.write_str(&sentences.join("\nskyorg: ")),
            Self::File(faults) => write!(f, "{faults}"),
            Self::Checked | Self::NotProven(_) => Ok(()),
            Self::LogFile(path, error) => write!(
                f,
                "cannot open the log file {}: {error}; give --log-file a file in a folder that exists and may \
                 be written to",
                path.display()
            ),
            Self::ReadyFile(what) => f.write_str(what),
            Self::Key(error) => write!(f, "{error}"),
            Self::Start(error) => write!(f, "{error}"),
            Self::Demo(error) => write!(f, "{error}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;
    use crate::config::{ClientConfig, ServerConfig, Service};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    const LINE: &str = "office AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn read(words: &[&str]) -> Result<Asked, Failure> {
        read_arguments(words.iter().map(OsString::from))
    }

    fn command(words: &[&str]) -> Result<Command, Failure> {
        match read(words)? {
            Asked::Command(command, _) => Ok(*command),
            Asked::Text(text) => panic!("{words:?} asked for {text}"),
        }
    }

    fn text(words: &[&str]) -> String {
        match read(words) {
            Ok(Asked::Text(text)) => text,
            other => panic!("{words:?} asked for {other:?}"),
        }
    }

    /// The path of a key file. Each has its own, so that no test reads the key file of the one that runs it.
    fn key_file() -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skyorg-cli-{}-{count}", std::process::id()));
        std::fs::write(&path, LINE).expect("writes");
        path
    }

    fn server(words: &[&str]) -> Result<ServerConfig, Failure> {
        let path = key_file();
        let file = path.display().to_string();
        let config = match command(&[&["server", "--keys", &file], words].concat())? {
            Command::Server(arguments) => {
                said::server(arguments, &[]).and_then(|source| Ok(source.read(Occasion::Start)?.config))
            }
            other => panic!("{words:?} asked for {other:?}"),
        };
        let _ = std::fs::remove_file(path);
        config
    }

    fn client(words: &[&str]) -> Result<ClientConfig, Failure> {
        let path = key_file();
        let file = path.display().to_string();
        let config = match command(&[&["client", "--key", &file], words].concat())? {
            Command::Client(arguments) => {
                said::client(arguments, &[]).and_then(|source| Ok(source.read(Occasion::Start)?.config))
            }
            other => panic!("{words:?} asked for {other:?}"),
        };
        let _ = std::fs::remove_file(path);
        config
    }

    fn shown(services: &[Service]) -> String {
        services.iter().map(|it| format!("{}={} ", it.name, it.listen[0])).collect()
    }

    #[test]
    fn the_version_needs_no_command_and_nothing_at_all_shows_the_help() {
        assert_eq!(text(&["--version"]), "skyorg 0.1.0");
        assert_eq!(text(&[]), text(&["--help"]));
        assert!(text(&[]).starts_with("Usage: skyorg server|client|check|status|unit|keygen|demo"));
        assert!(text(&["client", "-h"]).contains("--publish"));
    }

    #[test]
    fn every_mistake_is_one_sentence_that_says_where_help_is() {
        for (words, expected) in [
            (&["srever"][..], "Unrecognized argument: srever; 'skyorg --help' shows what it takes"),
            (&["--", "x"], "Unrecognized argument: x; 'skyorg --help' shows what it takes"),
            (
                &["demo", "--twice"],
                "Unrecognized argument: --twice; 'skyorg demo --help' shows what it takes",
            ),
            (
                &["server", "--pool"],
                "No value provided for option '--pool'; 'skyorg server --help' shows what it takes",
            ),
            (
                &["keygen", "a b"],
                "letters, digits, '.', '_' or '-'; 'skyorg keygen --help' shows what it takes",
            ),
            (&["client", "--local", "0"], "from 1 to 65535; 'skyorg client --help' shows what it takes"),
        ] {
            let failure = read(words).expect_err("a mistake");
            assert_eq!(failure.status(), 2);
            let message = failure.to_string();
            assert!(message.ends_with(expected) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_server_alone_has_the_default_service_on_the_default_ports() {
        let config = server(&[]).expect("nothing is required");
        assert_eq!(shown(&config.services), "default=*:33333 ");
        assert_eq!((config.message, config.control), (Listen::Any(33334), Listen::Any(33335)));
        assert_eq!((config.limits.pool, config.plain, config.keys.len()), (10, false, 1));
    }

    #[test]
    fn services_add_to_the_default_one_which_may_be_named_either_way() {
        let services = |words: &[&str]| shown(&server(words).expect("reads").services);
        assert_eq!(services(&["--service", "db=5432"]), "default=*:33333 db=*:5432 ");
        assert_eq!(services(&["--request=80", "--service=db=[::1]:5432"]), "default=*:80 db=[::1]:5432 ");
        assert_eq!(services(&["--service", "default=80"]), "default=*:80 ");
    }

    #[test]
    fn one_name_or_one_place_for_two_things_is_refused() {
        for words in
            [&["--request", "80", "--service", "default=81"][..], &["--service=a=1", "--service=a=2"]]
        {
            assert!(matches!(server(words), Err(Failure::SameService(_))), "{words:?}");
        }
        for words in [&["--request", "33334"][..], &["--message=127.0.0.1:1", "--service", "a=127.0.0.1:1"]] {
            assert!(matches!(server(words), Err(Failure::SamePlace(_))), "{words:?}");
        }
        let both = server(&["--message", "1", "--control", "1"]).expect("these two may share a port");
        assert!(both.shares_a_port());
        assert!(!server(&["--message", "0", "--control", "0"]).expect("reads").shares_a_port());
        assert!(matches!(
            server(&["--message=1", "--control=1", "--service=a=1"]),
            Err(Failure::SamePlace(_))
        ));
        assert!(server(&["--request=0", "--message=0", "--control=[::1]:0", "--service=a=[::1]:0"]).is_ok());
        let twice = ["--server", "host", "--local", "80", "--publish", "default=81"];
        assert!(matches!(client(&twice), Err(Failure::SameService(_))));
    }

    #[test]
    fn numbers_become_limits() {
        let words = ["--pool", "3", "--heartbeat", "2", "--max-users", "7", "--plain"];
        let config = server(&words).expect("reads");
        assert_eq!((config.limits.pool, config.limits.users_max, config.plain), (3, 7, true));
        assert_eq!(config.limits.heartbeat, Duration::from_secs(2));
        let config = client(&["--server=host", "--local=80", "--heartbeat=3600"]).expect("reads");
        assert_eq!((config.limits.heartbeat, config.plain), (Duration::from_secs(3600), false));
    }

    #[test]
    fn ports_that_may_be_asked_for_add_up_and_all_of_them_stand_alone() {
        let ports = |words: &[&str]| server(words).map(|config| format!("{:?}", config.policies));
        assert!(ports(&["--ports", "*"]).is_ok_and(|ports| ports == "Alike(All)"));
        assert!(ports(&["--ports=1-2", "--ports=[::1]:9"]).is_ok_and(|ports| ports.contains("last: 9")));
        for words in [["--ports=20000", "--ports=*"], ["--ports=*", "--ports=*"]] {
            let failure = ports(&words).expect_err("a contradiction");
            assert!(failure.to_string().starts_with("wanted --ports '*' alone"), "{failure}");
        }
    }

    #[test]
    fn a_client_publishes_what_it_was_told() {
        let words =
            ["--server", "::1", "--local", "8080", "--publish", "db=db.lan:5432", "--message", "nat.lan:9"];
        let config = client(&words).expect("reads");
        assert_eq!(config.server.to_string(), "[::1]:33335");
        assert_eq!(config.message.expect("given").to_string(), "nat.lan:9");
        let shown: String =
            config.publications.iter().map(|it| format!("{}={} ", it.name, it.local)).collect();
        assert_eq!(shown, "default=localhost:8080 db=db.lan:5432 ");
        assert_eq!(config.key.name.as_str(), "office");
    }

    #[test]
    fn ports_are_asked_for_once() {
        let apart = ["--server=host", "--expose=8000-8004=a:1", "--expose=8005=b:2", "--expose=3"];
        assert!(client(&apart).is_ok());
        let failure = client(&["--server=host", "--expose=8000-8010=a:1", "--expose=8005=b:2"]);
        let failure = failure.expect_err("8005 is wanted twice").to_string();
        assert!(failure.contains("found 8005 beside 8000-8010"), "{failure}");
    }

    #[test]
    fn a_client_without_a_server_or_a_service_is_taught() {
        let failure = client(&["--local", "80"]).expect_err("no server");
        assert!(failure.to_string().contains("--server HOST"), "{failure}");
        let failure = client(&["--server", "host"]).expect_err("nothing to publish");
        assert!(failure.to_string().contains("--local localhost:8080"), "{failure}");
        let max = Limits::default().publications_per_client_max;
        let many: Vec<_> = (0..=max).map(|number| format!("--publish=s{number}=80")).collect();
        let words: Vec<&str> = ["--server=host"].into_iter().chain(many.iter().map(String::as_str)).collect();
        assert!(matches!(client(&words), Err(Failure::TooManyPublications(found, _)) if found == max + 1));
    }
}
