//! What is wrong with a key file that a configuration names, as its faults.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fault::{Collector, Fault, Faults, Place};
use super::keys::{self, BadLine, KeyError, Lines};

/// A place in a key file.
pub(super) fn place_of((line, column): keys::LinePlace) -> Place {
    Place { line, column }
}

/// Tells at the place that names the key file why there is no key.
#[cold]
pub(super) fn told(error: KeyError, at: usize, shown: &Arc<str>, faults: &mut Collector) {
    faults.tell(at, || match error {
        KeyError::MissingKeys(_) | KeyError::Missing(_) if !shown.is_empty() => none_at(shown),
        KeyError::Read(_, error) if error.kind() == io::ErrorKind::NotFound => none_at(shown),
        KeyError::Read(_, error) => format!("wanted a key file that can be read, found at {shown}: {error}"),
        KeyError::TooLarge(_) => {
            let most = keys::FILE_BYTES_MAX;
            format!("wanted a key file of at most {most} bytes, found a larger one at {shown}")
        }
        KeyError::Empty(_) => {
            format!("wanted a key file with at least one line NAME SECRET, found none in {shown}")
        }
        KeyError::Line { number, problem, .. } => {
            format!("wanted a key, found in {shown}, line {number}: {problem}")
        }
        error => format!("wanted a key, found none: {error}"),
    });
}

fn none_at(shown: &str) -> String {
    let named = "a file that is named must exist; 'skyorg keygen' prints a key";
    format!("wanted a key file, found none at {shown}: {named}")
}

/// The faults of all lines of the key file at a path; none if it has none any more.
#[cold]
pub(super) fn of_lines(path: &Path, shown: &Arc<str>) -> Option<Faults> {
    let (text, _) = keys::read_bytes(path).ok()?;
    let mut faults = KeyFaults::default();
    faults.take(&Lines::of(&text), shown);
    (!faults.0.is_empty()).then_some(faults.0)
}

/// The faults of a key file. Nothing of a line is shown, because any word of it may be a secret.
#[derive(Default)]
pub(super) struct KeyFaults(pub Faults);

impl KeyFaults {
    /// Takes those of a file's lines.
    pub fn take(&mut self, lines: &Lines, file: &Arc<str>) {
        for &(problem, place, first) in &lines.faults {
            let earlier = first.map_or(String::new(), |line| format!(" that of line {line}"));
            let what = match problem {
                BadLine::Text => "wanted UTF-8 text, found other bytes".to_owned(),
                BadLine::Words => {
                    "wanted NAME SECRET, as 'skyorg keygen' prints it, found fewer or more words".to_owned()
                }
                BadLine::Name => {
                    "wanted a name of 1 to 64 letters, digits, '.', '_' or '-', found …".to_owned()
                }
                BadLine::Secret => "wanted a secret of 43 characters of base64url, found …".to_owned(),
                BadLine::Duplicate => format!("wanted a name of its own, found{earlier}"),
                BadLine::SameSecret => format!("wanted a secret of its own, found{earlier}"),
            };
            self.0.push(Fault { file: file.clone(), place: place_of(place), what });
        }
        if lines.faults.is_empty() && lines.keys.is_empty() {
            let what =
                "wanted at least one line NAME SECRET, as 'skyorg keygen' prints it, found none".to_owned();
            self.0.push(Fault { file: file.clone(), place: Place::BEGIN, what });
        }
    }
}
