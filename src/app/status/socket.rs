//! The unix socket by which `skyorg status` reaches a process: where it stands, and who may have it.

use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::base::sorted::Set;
use crate::config::options::Side;

/// Where sockets stand if nobody says where.
const SYSTEM_FOLDER: &str = "/run/skyorg";
/// Most sockets that are asked at once.
const FOUND_MAX: usize = 64;

/// Where the operator wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where it is looked for. A process that may not write there runs without.
    #[default]
    Usual,
    /// Here. A process that cannot make it does not start.
    At(PathBuf),
    /// Nowhere.
    Nowhere,
}

impl Place {
    /// What `--status` says.
    pub fn of(said: Option<&Path>) -> Place {
        match said {
            None => Place::Usual,
            Some(path) if path.as_os_str() == "none" => Place::Nowhere,
            Some(path) => Place::At(path.to_owned()),
        }
    }

    /// The path of a process of this role; `None` for nowhere.
    fn path(&self, role: Side) -> Option<PathBuf> {
        match self {
            Place::Usual => Some(usual_folder().join(format!("{}.sock", role.name()))),
            Place::At(path) => Some(path.clone()),
            Place::Nowhere => None,
        }
    }
}

/// A socket's file, which is removed with this value.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number: another process may have put its own there meanwhile.
    identity: (u64, u64),
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A socket that cannot be made.
#[derive(Debug)]
pub struct SocketError {
    /// Where it should have been.
    pub path: PathBuf,
    /// Why it is not.
    pub error: io::Error,
    /// The operator has named the place.
    pub is_named: bool,
}

/// Makes the socket of a process. A dead one that stands there is replaced. Where one of a living process stands, it is
/// made beside it, under the name of this process.
pub fn open(role: Side, place: &Place) -> Result<Option<(UnixListener, SocketFile)>, SocketError> {
    let Some(path) = place.path(role) else { return Ok(None) };
    let is_named = *place != Place::Usual;
    let made = fits(&path).and_then(|()| make_folder(&path, is_named));
    let outcome = made.and_then(|()| match is_taken(&path)? {
        false => listen(path.clone()),
        true => {
            let own = path.with_file_name(format!("{}-{}.sock", role.name(), std::process::id()));
            log::warn!(
                "the socket {} is that of another process; this one has {}",
                path.display(),
                own.display()
            );
            listen(own)
        }
    });
    outcome.map(Some).map_err(|error| SocketError { path, error, is_named })
}

/// The folder of a user or of the system, which the first process makes.
fn make_folder(path: &Path, is_named: bool) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !is_named && !folder.exists()) else { return Ok(()) };
    fs::DirBuilder::new().mode(0o755).create(folder).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })
}

/// A socket can be renamed to where nobody can ask for it (unix(7): `sun_path`).
fn fits(path: &Path) -> io::Result<()> {
    if SockAddr::unix(path).is_ok() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "its path is longer than a socket's may be (107 bytes)"))
}

/// Whether a living process has this socket.
fn is_taken(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket stands there",
            ));
        }
        Ok(_) => {}
    }
    match connect(path) {
        Ok(_) => Ok(true),
        // Its queue is full: the process may be frozen, and lives.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Connects without waiting.
pub fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Listens under another name first, so that the socket stands there only once nobody but its owner may connect.
/// Renaming replaces a dead one in one step.
fn listen(path: PathBuf) -> io::Result<(UnixListener, SocketFile)> {
    let new = path.with_file_name(format!(".{}", std::process::id()));
    [&path, &new].into_iter().try_for_each(|path| fits(path))?;
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    let place = || {
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let found = fs::symlink_metadata(&new)?;
        fs::rename(&new, &path)?;
        Ok((found.dev(), found.ino()))
    };
    match place() {
        Ok(identity) => Ok((listener, SocketFile { path, identity })),
        Err(error) => {
            let _ = fs::remove_file(&new);
            Err(error)
        }
    }
}

fn usual_folder() -> PathBuf {
    folders().into_iter().next().unwrap_or_else(|| SYSTEM_FOLDER.into())
}

/// Where sockets may be, the best place first.
fn folders() -> Vec<PathBuf> {
    let runtime = env::var_os("RUNTIME_DIRECTORY").and_then(|all| env::split_paths(&all).next());
    let user = env::var_os("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("skyorg"));
    let named = [runtime, user].into_iter().flatten().filter(|folder| folder.is_absolute());
    named.chain([SYSTEM_FOLDER.into()]).collect()
}

/// The sockets of running and of ended processes, of one role or of both.
pub fn find(role: Option<Side>) -> Vec<PathBuf> {
    let mut all = folders();
    // Each unit has a folder of its own there.
    all.extend(entries(Path::new(SYSTEM_FOLDER)).filter(|path| path.is_dir()));
    let mut found = Vec::new();
    for folder in all {
        let is_wanted = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_of = |role: Side| {
                let rest = name.strip_prefix(role.name()).and_then(|rest| rest.strip_suffix(".sock"));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            };
            [Side::Server, Side::Client].into_iter().any(|it| role.is_none_or(|role| role == it) && is_of(it))
        };
        let here: Set<PathBuf> = entries(&folder).filter(is_wanted).collect();
        // Servers first.
        for path in here.iter().rev().filter_map(|path| path.canonicalize().ok()) {
            // The same folder may have two names.
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found.truncate(FOUND_MAX);
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = env::temp_dir().join(format!("skyorg-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("ours");
            Folder(path)
        }

        fn place(&self) -> Place {
            Place::At(self.0.join("server.sock"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn opened(place: &Place) -> (UnixListener, SocketFile) {
        open(Side::Server, place).expect("it can be made").expect("one is wanted")
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_goes_with_its_process() {
        let folder = Folder::new("socket-owner");
        let (_listener, file) = opened(&folder.place());
        let mode = fs::metadata(file.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let path = file.path().to_owned();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = Folder::new("socket-dead");
        let (listener, first) = opened(&folder.place());
        let (_second_listener, second) = opened(&folder.place());
        let own = format!("server-{}.sock", std::process::id());
        assert_eq!(second.path().file_name().and_then(|name| name.to_str()), Some(own.as_str()));
        drop(listener);
        // Its process has ended without a word: the file is still there.
        let (_third_listener, third) = opened(&folder.place());
        assert_eq!(third.path(), first.path());
        drop(first);
        assert!(third.path().exists(), "it is another one's by now");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("socket-file");
        let Place::At(path) = folder.place() else { panic!("it is named") };
        fs::write(&path, "precious").expect("writes");
        let failure = open(Side::Server, &folder.place()).expect_err("it is taken");
        assert!(failure.is_named && failure.error.to_string().contains("no socket"), "{failure:?}");
        assert_eq!(fs::read_to_string(path).expect("it is there"), "precious");
    }

    #[test]
    fn a_path_that_nobody_could_ask_is_refused() {
        let folder = Folder::new("socket-long");
        let Place::At(path) = folder.place() else { panic!("it is named") };
        let long = path.with_file_name("z".repeat(120));
        let failure = open(Side::Server, &Place::At(long.clone())).expect_err("it is too long");
        assert!(failure.is_named && failure.error.to_string().contains("longer"), "{failure:?}");
        assert!(!long.exists());
    }

    #[test]
    fn none_is_nowhere() {
        assert_eq!(Place::of(Some(Path::new("none"))), Place::Nowhere);
        assert!(open(Side::Client, &Place::Nowhere).expect("nothing fails").is_none());
    }
}
