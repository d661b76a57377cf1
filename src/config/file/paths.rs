//! The files that a configuration names: no two may be one, because each is read or written in its own way.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Parsed, What};

impl Parsed<'_> {
    /// Tells of each file that is the same as one that was named before, or as the configuration at this path itself.
    #[cold]
    pub fn tell_same_files(&mut self, config: &Path) {
        let folder = config.parent().unwrap_or(Path::new(""));
        let option = match self.what {
            What::Server(_) => "keys",
            What::Client(_) => "key",
        };
        let mut known: Vec<(PathBuf, &str, usize)> = vec![(identity(config), "", 0)];
        let mut named: Vec<_> = [option, "log-file", "ready-file", "status"]
            .into_iter()
            .filter_map(|option| self.path(option).map(|(path, at)| (path, option, at)))
            .filter(|&(path, option, _)| (option, path) != ("status", "none"))
            .map(|(path, option, at)| (identity(&folder.join(path)), option, at))
            .collect();
        named.sort_by_key(|&(_, _, at)| at);
        for (path, option, at) in named {
            match known.iter().find(|(other, _, _)| *other == path) {
                Some((_, "", _)) => {
                    self.faults.tell(at, || "wanted a file of its own, found this file itself".to_owned());
                }
                Some(&(_, other, first)) => self.faults.tell_clash(at, first, |first| {
                    format!("wanted a file of its own, found that of '{other}' at {first}")
                }),
                None => known.push((path, option, at)),
            }
        }
    }
}

/// What is equal for two paths of one file, also where nothing stands there yet.
fn identity(path: &Path) -> PathBuf {
    let below = |path: &Path| {
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(|| below(path)).unwrap_or_else(|| path.to_owned())
}
