//! `skyorg status`: asks the processes that run here, and shows what they say.
//!
//! Exit status: 0 where everything is proven, 1 where something is, 2 where nothing is or a process does not answer; of
//! several processes the worst.

mod asking;
mod live;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use super::arguments::StatusArguments;
use crate::app::status::document::{FRAME, processes};
use crate::app::status::socket;
use crate::base::mailbox::Mailbox;
use crate::config::fault::without_whole_secrets;
use crate::reactor::world::thread;
use asking::Answer;

/// Time between two questions while somebody waits for everything to be proven.
const WAIT_STEP: Duration = Duration::from_millis(250);
/// An answer is not on the stack of the thread that asks.
const STACK_BYTES: usize = 256 * 1024;
/// The exit status where no process answers.
const NOTHING: u8 = 2;

/// Shows what was asked for.
#[cold]
pub(super) fn run(arguments: StatusArguments) -> Result<(), Failure> {
    if arguments.follow && (arguments.json || arguments.wait.is_some()) {
        let problem = "-f stands without --json and --wait".to_owned();
        return Err(Failure::Usage { command: "skyorg status", problem });
    }
    if arguments.follow && io::stdout().is_terminal() {
        return end(live::run(&arguments)?);
    }
    if arguments.follow {
        return follow(&arguments);
    }
    let deadline = arguments.wait.map(|wait| Instant::now() + Duration::from_secs(wait.0.into()));
    let told = loop {
        let told = Told::ask(&arguments, false);
        match deadline {
            Some(deadline) if told.status != 0 && Instant::now() < deadline => {
                std::thread::sleep(WAIT_STEP.min(deadline.saturating_duration_since(Instant::now())));
            }
            _ => break told,
        }
    };
    let complaints: String = told.complaints.iter().map(|line| format!("skyorg: {line}\n")).collect();
    let complaints = without_whole_secrets(&complaints);
    let _ = io::stderr().write_all(complaints.as_bytes());
    super::print_line(&told.text)?;
    end(told.status)
}

/// Shows a screen each second to a reader that is no terminal, for as long as it reads.
fn follow(arguments: &StatusArguments) -> Result<(), Failure> {
    loop {
        let told = Told::ask(arguments, true);
        let mut text = told.text;
        told.complaints.iter().for_each(|line| text += &format!("{line}\n"));
        if io::stdout().write_all((text + "\n").as_bytes()).is_err() {
            return end(told.status);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn end(status: u8) -> Result<(), Failure> {
    if status == 0 { Ok(()) } else { Err(Failure::NotProven(status)) }
}

/// What all processes have said together.
struct Told {
    text: String,
    /// Of processes that did not answer.
    complaints: Vec<String>,
    /// The worst exit status.
    status: u8,
}

impl Told {
    /// Asks all that run.
    fn ask(arguments: &StatusArguments, is_live: bool) -> Told {
        let paths = match &arguments.status {
            Some(path) => vec![path.clone()],
            None => socket::find(arguments.role),
        };
        let target = match arguments.json {
            true => "/status.json".to_owned(),
            false => {
                let (colours, live) = (u8::from(has_colours()), u8::from(is_live));
                format!("/status.txt?width={}&colours={colours}&live={live}", width())
            }
        };
        let (mut bodies, mut complaints, mut status) = (Vec::new(), Vec::new(), 0);
        for (path, answer) in paths.iter().zip(ask_all(&paths, &target)) {
            match answer {
                Answer::Told { role, .. } if arguments.role.is_some_and(|asked| asked.name() != role) => {
                    status = NOTHING;
                    complaints.push(format!("the process at {} is a {role}", path.display()));
                }
                Answer::Told { body, exit_status, .. } => {
                    status = status.max(exit_status);
                    bodies.push(body);
                }
                Answer::Silent(process) => {
                    status = NOTHING;
                    complaints.push(format!("{process} does not answer"));
                }
                Answer::Gone(error) => {
                    let (verdict, complaint) = gone(path, &error, arguments.status.is_some());
                    status = status.max(verdict);
                    complaints.extend(complaint);
                }
            }
        }
        if bodies.is_empty() {
            status = NOTHING;
            if complaints.is_empty() {
                complaints
                    .push(format!("no {} runs here", arguments.role.map_or("process", |role| role.name())));
            }
        }
        let text = if arguments.json {
            let all: Vec<&str> = bodies.iter().filter_map(|body| processes(body)).collect();
            [FRAME.0, &all.join(","), FRAME.1].concat()
        } else {
            bodies.join("\n")
        };
        Told { text, complaints, status }
    }
}

/// The exit status and the complaint about a socket that cannot be asked. One that was named has to answer.
fn gone(path: &Path, error: &io::Error, is_named: bool) -> (u8, Option<String>) {
    let path = path.display();
    match error.kind() {
        // An ended process has left it.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound if !is_named => (0, None),
        // Its process may well serve, and is another user's.
        io::ErrorKind::PermissionDenied if !is_named => (0, Some(format!("{path} was not asked: {error}"))),
        _ => (NOTHING, Some(format!("no process answers at {path}: {error}"))),
    }
}

/// All at once: one that does not answer delays no other.
fn ask_all(paths: &[PathBuf], target: &str) -> Vec<Answer> {
    let begin = |path: &PathBuf| {
        let answer = Arc::new(Mailbox::default());
        let (path, target, to_leave) = (path.clone(), target.to_owned(), answer.clone());
        let ask = move || {
            let told = asking::ask(&path, &target);
            to_leave.leave(|answer| *answer = Some(told));
        };
        (thread::start("asking", STACK_BYTES, ask), answer)
    };
    let asked: Vec<_> = paths.iter().map(begin).collect();
    let answers = asked.into_iter().zip(paths).map(|((thread, answer), path)| match thread {
        Ok(thread) => {
            let _ = thread.join();
            answer.take().unwrap_or_else(Answer::lost)
        }
        // No thread can be made.
        Err(_) => asking::ask(path, target),
    });
    answers.collect()
}

/// How wide a line may be.
fn width() -> usize {
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    live::size().map(|size| size.columns).or_else(columns).filter(|&width| width > 0).unwrap_or(80)
}

/// Colours are for terminals, and for those who want them (no-color.org).
fn has_colours() -> bool {
    let is_said = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
    io::stdout().is_terminal() && !is_said("NO_COLOR") && !is_dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_was_named_has_to_answer() {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        for (kind, found, has_complaint) in [
            (ConnectionRefused, 0, false),
            (NotFound, 0, false),
            (PermissionDenied, 0, true),
            (io::ErrorKind::Other, NOTHING, true),
        ] {
            let (path, error) = (Path::new("/run/skyorg/server.sock"), io::Error::from(kind));
            let (status, complaint) = gone(path, &error, false);
            assert_eq!((status, complaint.is_some()), (found, has_complaint), "{kind:?}");
            assert_eq!(gone(path, &error, true).0, NOTHING, "{kind:?}");
        }
    }
}
