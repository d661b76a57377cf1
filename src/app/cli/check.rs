//! `skyorg check`: whether files would be taken, and what they mean. Nothing is bound, resolved or written.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Failure, print_line};
use crate::config::fault::{Faults, without_whole_secrets};
use crate::config::file::Running;
use crate::config::meaning;
use crate::config::source::{Either, Occasion, read_file};

/// Judges files, all of them.
#[cold]
pub(super) fn run(files: &[PathBuf]) -> Result<(), Failure> {
    if files.is_empty() {
        return Err(Failure::Usage { command: "skyorg check", problem: "no file was named".to_owned() });
    }
    let mut are_good = true;
    for (number, file) in files.iter().enumerate() {
        let shown = without_whole_secrets(&file.to_string_lossy());
        match read_file(file, &Running::default(), Occasion::Check) {
            Ok(read) => {
                let (warnings, text) = match &read {
                    Either::Server(read) => (&read.warnings, meaning::server(read)),
                    Either::Client(read) => (&read.warnings, meaning::client(read)),
                };
                let warnings: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
                let _ = io::stderr().write_all(warnings.as_bytes());
                let apart = if number > 0 { "\n" } else { "" };
                print_line(&format!("{apart}{shown}: {text}"))?;
            }
            Err(faults) => {
                tell(&faults);
                are_good = false;
            }
        }
    }
    if are_good { Ok(()) } else { Err(Failure::Checked) }
}

/// The faults of a file on standard error, a line for each.
#[cold]
pub(super) fn tell(faults: &Faults) {
    let _ = io::stderr().write_all(format!("{faults}\n").as_bytes());
}
