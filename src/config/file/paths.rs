//! The files of one process: no two may be one, because each is read or written in its own way.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Parsed, Running};
use crate::base::sorted::by_rank;
use crate::config::fault::Place;
use crate::config::key_place;
use crate::config::options::Side;

/// The name of the configuration file among the options.
const CONFIG: &str = "config";

/// The name of a side's key file among the options.
fn key_option(side: Side) -> &'static str {
    match side {
        Side::Server => "keys",
        Side::Client => "key",
    }
}

/// A file and the option that names it.
struct Named {
    option: &'static str,
    identity: Identity,
    /// Where a configuration file says it; a flag and a default stand nowhere in it.
    said: Option<usize>,
}

impl Named {
    fn new(option: &'static str, path: &Path, said: Option<usize>) -> Named {
        Named { option, identity: identity(path), said }
    }
}

/// The files that flags name, and the key file.
#[cold]
fn of_flags(side: Side, flags: &Running, key: Option<&Path>) -> Vec<Named> {
    let key = key.map(Path::to_owned).or_else(|| key_place::default_place().ok());
    let status = flags.status.as_deref().filter(|path| *path != Path::new("none"));
    let paths = [
        (key_option(side), key.as_deref()),
        ("log-file", flags.log_file.as_deref()),
        ("ready-file", flags.ready_file.as_deref()),
        ("status", status),
    ];
    paths.into_iter().filter_map(|(option, path)| Some(Named::new(option, path?, None))).collect()
}

/// Each file that was named before, with what named it first.
fn same(all: &[Named]) -> impl Iterator<Item = (&Named, &Named)> {
    all.iter().enumerate().filter_map(|(number, second)| {
        let first = all.iter().take(number).find(|first| first.identity == second.identity)?;
        Some((first, second))
    })
}

/// What is said of a file that was named before, there where a place is known.
#[cold]
fn sentence(first: &Named, second: &Named, place: Option<Place>) -> String {
    let whose = second.said.map_or_else(|| format!(" for --{}", second.option), |_| String::new());
    let found = match (first.option, place) {
        (CONFIG, _) => "this file itself".to_owned(),
        (option, Some(place)) => format!("that of '{option}' at {place}"),
        (option, None) => format!("that of --{option}"),
    };
    format!("wanted a file of its own{whose}, found {found}")
}

/// What is said against a command line without a configuration file, if two of its files are one.
#[cold]
pub fn same_file_of_flags(side: Side, flags: &Running, key: Option<&Path>) -> Option<String> {
    let all = of_flags(side, flags, key);
    same(&all).next().map(|(first, second)| sentence(first, second, None))
}

impl Parsed<'_> {
    /// Tells of each file that is the same as one that was named before, or as the configuration at this path itself.
    /// The flags beside it name files, too, and come before it.
    #[cold]
    pub fn tell_same_files(&mut self, config: &Path, flags: &Running) {
        let side = self.side();
        let folder = config.parent().unwrap_or(Path::new(""));
        let key = self.path(key_option(side)).map(|(path, _)| folder.join(path));
        let mut all = vec![Named::new(CONFIG, config, None)];
        all.extend(of_flags(side, flags, key.as_deref()));
        let own = [key_option(side), "log-file", "ready-file", "status"].into_iter();
        for (option, (path, at)) in own.filter_map(|option| Some((option, self.path(option)?))) {
            match all.iter_mut().find(|named| named.option == option) {
                // The key file is one that the configuration names.
                Some(named) if option == key_option(side) => named.said = Some(at),
                Some(_) => {}
                None if (option, path) == ("status", "none") => {}
                None => all.push(Named::new(option, &folder.join(path), Some(at))),
            }
        }
        // What is not in the file comes before it.
        let all: Vec<Named> = by_rank(all, |named| named.said.map_or(0, |at| at as u64 + 1)).collect();
        for (first, second) in same(&all) {
            let at = second.said.unwrap_or(0);
            match first.said {
                Some(said) => {
                    self.faults.tell_clash(at, said, |place| sentence(first, second, Some(place)));
                }
                None => self.faults.tell(at, || sentence(first, second, None)),
            }
        }
    }
}

/// What is equal for two paths of one file: its numbers, or those of its folder and its name there.
type Identity = (Option<(u64, u64)>, PathBuf);

fn identity(path: &Path) -> Identity {
    let numbers = |path: &Path| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    match (numbers(path), numbers(folder), path.file_name()) {
        (own @ Some(_), ..) => (own, PathBuf::new()),
        (None, folder @ Some(_), Some(name)) => (folder, name.into()),
        _ => (None, path.to_owned()),
    }
}
