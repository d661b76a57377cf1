//! The ready file on the disk. A file in its place gives way, as one that a killed process has left. What may be a key,
//! a device, a link or a folder does not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::config::fault::without_whole_secrets;

/// No file of keys is longer.
const READ_MAX: u64 = 1 << 20;

/// Whether a file is there that may be a ready file; an error if something else is.
fn is_there(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    let mut bytes = Vec::new();
    if metadata.is_file() {
        File::open(path)?.take(READ_MAX).read_to_end(&mut bytes)?;
    }
    let text = String::from_utf8_lossy(&bytes);
    if metadata.is_file() && (text.starts_with('[') || without_whole_secrets(&text) == text) {
        return Ok(true);
    }
    let what =
        "what stands there is no ready file, and is left as it is; name a file that nothing else needs";
    Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
}

/// Looks whether a ready file may stand there, and be written: nothing is changed.
pub fn claim(path: &Path) -> Result<(), String> {
    let outcome = is_there(path).and_then(|_| {
        let new = draft(path)?;
        create(&new)?;
        fs::remove_file(new)
    });
    outcome.map_err(|error| format!("{}: the ready file cannot be written: {error}", path.display()))
}

/// Removes it, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    if is_there(path)? { fs::remove_file(path) } else { Ok(()) }
}

/// Puts a file in place of another in one step (rename(2)): nobody reads half of it.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    is_there(path)?;
    let new = draft(path)?;
    let mut file = create(&new)?;
    let outcome = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    if outcome.is_err() {
        let _ = fs::remove_file(&new);
    }
    outcome
}

/// Where it is written before it takes its place.
fn draft(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(name))
}

/// A new file, in place of what a killed process of the same number may have left.
fn create(path: &Path) -> io::Result<File> {
    remove(path)?;
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_and_a_file_gives_way_to_a_ready_file() {
        let folder = std::env::temp_dir().join(format!("skyorg-ready-file-{}", std::process::id()));
        fs::create_dir(&folder).expect("a new folder");
        let path = folder.join("ready");
        let key = format!("office {}\n", "aB3".repeat(15));
        fs::write(&path, &key).expect("writes");
        let error = claim(&path).expect_err("it may be a key");
        assert!(error.contains("is no ready file, and is left as it is"), "{error}");
        assert!(remove(&path).is_err() && replace(&path, "[]\n").is_err());
        assert_eq!(fs::read_to_string(&path).expect("it is there"), key);
        fs::remove_file(&path).expect("ours");
        std::os::unix::fs::symlink("/dev/null", &path).expect("a link");
        for other in [&path, &folder, Path::new("/dev/null"), Path::new("/"), &folder.join("none/ready")] {
            let error = claim(other).expect_err("it is not to give way");
            assert!(error.contains("the ready file cannot be written"), "{error}");
            assert!(replace(other, "[]\n").is_err(), "{}", other.display());
        }
        assert!(fs::exists("/dev/null").is_ok_and(|there| there));
        fs::remove_file(&path).expect("ours");
        for text in ["", "from before", "[]\n", "[{\"publication\":\"web\",\"addresses\":[\"gw:1\"]}]\n"] {
            fs::write(&path, text).expect("writes");
            claim(&path).expect("it may stand there");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
            replace(&path, text).expect("it is replaced");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
            remove(&path).expect("it is removed");
        }
        claim(&path)
            .and_then(|()| remove(&path).map_err(|error| error.to_string()))
            .expect("nothing is there");
        assert_eq!(fs::read_dir(&folder).expect("ours").count(), 0);
        fs::remove_dir(folder).expect("it is empty");
    }
}
