//! The ready file on the disk. What a process before this one has left in its place gives way, and so does an empty
//! file. What else may stand there does not: any other file, a device, a link or a folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How every ready file begins that names a publication, and how one is that names none.
const BEGIN: &[u8] = b"[{\"publication\":\"";
const NONE: &[u8] = b"[]\n";

/// Whether a ready file or an empty one is there; an error if something else is.
fn is_there(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    if metadata.is_file() {
        let mut begin = Vec::new();
        File::open(path)?.take(BEGIN.len() as u64).read_to_end(&mut begin)?;
        if [b"", NONE, BEGIN].contains(&&begin[..]) {
            return Ok(true);
        }
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
    fn nothing_but_an_empty_file_and_a_ready_file_gives_way_to_a_ready_file() {
        let folder = std::env::temp_dir().join(format!("skyorg-ready-file-{}", std::process::id()));
        fs::create_dir(&folder).expect("a new folder");
        let path = folder.join("ready");
        let key = format!("office {}\n", "aB3".repeat(15));
        for other in
            [key.as_bytes(), b"from before", b"\n", b"[]", b"[1]\n", b"[server]\n", b"[{\"publication\":\xff"]
        {
            fs::write(&path, other).expect("writes");
            let error = claim(&path).expect_err("it is another's");
            assert!(error.contains("is no ready file, and is left as it is"), "{error}");
            assert!(remove(&path).is_err() && replace(&path, "[]\n").is_err());
            assert_eq!(fs::read(&path).expect("it is there"), other);
            fs::remove_file(&path).expect("ours");
        }
        std::os::unix::fs::symlink("/dev/null", &path).expect("a link");
        for other in [&path, &folder, Path::new("/dev/null"), Path::new("/"), &folder.join("none/ready")] {
            let error = claim(other).expect_err("it is not to give way");
            assert!(error.contains("the ready file cannot be written"), "{error}");
            assert!(replace(other, "[]\n").is_err(), "{}", other.display());
        }
        assert!(fs::exists("/dev/null").is_ok_and(|there| there));
        fs::remove_file(&path).expect("ours");
        for text in ["", "[]\n", "[{\"publication\":\"web\",\"addresses\":[\"gw:1\"]}]\n"] {
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
