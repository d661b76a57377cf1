//! Where a configuration comes from, to be read at the start and again at each reload: a file, or what the command line
//! said. The key file is part of both.
//!
//! Nothing changes by reading, except that a server that starts makes its first key file.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::fault::{Collector, Fault, Faults, Place, Warning, without_whole_secrets};
use super::file::{self, ClientSaid, FILE_BYTES_MAX, Parsed, Running, ServerSaid, Text, What};
use super::key_faults::{KeyFaults, of_lines, place_of, told};
use super::key_place;
use super::keys::{self, KeyError, Lines, Origin};
use super::opening::Patient;
use super::options::{OPTIONS, Section};
use super::values::unknown;
use super::{ClientConfig, Key, ServerConfig};
use crate::base::name::Name;
use crate::base::sorted::{Map, tree};

/// Where a server's or a client's configuration comes from.
#[derive(Debug)]
pub enum Source<Said> {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// What flags say beside it, which comes before what it says.
        flags: Running,
    },
    /// The command line.
    Flags {
        /// What it said.
        said: Said,
        /// The key file that it named.
        keys: Option<PathBuf>,
    },
}

/// What a configuration is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The process starts: a server that was told no key file makes one at the default place.
    Start,
    /// The process runs, and goes on with what it has if this cannot be read.
    Reload,
    /// It is to be judged only. A server's key file at the default place may be missing.
    Check,
}

/// A configuration that may be used.
#[derive(Debug)]
pub struct Read<Config> {
    /// It.
    pub config: Config,
    /// What is said of the log and so on.
    pub running: Running,
    /// What should be known.
    pub warnings: Vec<Warning>,
    /// The key file that was made.
    pub made: Option<PathBuf>,
    /// Where the keys come from.
    pub keys_from: String,
    /// The key file that was named, if one was.
    pub key_file: Option<PathBuf>,
    /// Where options stand.
    pub places: Places,
}

/// Where the options of a configuration stand.
#[derive(Clone, Debug, Default)]
pub struct Places {
    file: Option<Arc<str>>,
    keys: Vec<(&'static str, Place)>,
    /// Where each service says where its users connect.
    listen: Map<Name, Place>,
}

impl Places {
    fn of(file: &Arc<str>, parsed: &Parsed) -> Places {
        let tops = OPTIONS.iter().filter(|option| option.section == Section::Top);
        let keys = tops.filter_map(|option| {
            parsed.place(Section::Top, "", option.name).map(|place| (option.name, place))
        });
        let services = match &parsed.what {
            What::Server(said) => &said.services[..],
            What::Client(_) => &[],
        };
        let listen = services.iter().filter_map(|service| {
            let place = parsed.place(Section::Service, service.name.as_str(), "listen")?;
            Some((service.name.clone(), place))
        });
        Places { file: Some(file.clone()), keys: keys.collect(), listen: listen.collect() }
    }

    /// Where a file says an option of the top, right or wrong.
    pub fn of_option(&self, option: &str) -> Option<Place> {
        self.keys.iter().find(|(name, _)| *name == option).map(|&(_, place)| place)
    }

    /// Whether a file says them, and not a command line.
    pub fn are_of_a_file(&self) -> bool {
        self.file.is_some()
    }

    /// What is said against an option of the top: with its place where a file says it.
    pub fn told(&self, option: &str, what: String) -> String {
        match self.of_option(option) {
            Some(_) => self.fault(option, what).to_string(),
            None => what,
        }
    }

    /// Where a service says where its users connect, or the beginning where nothing does.
    pub fn listen(&self, service: Option<&Name>) -> Place {
        service.and_then(|name| self.listen.get(name)).copied().unwrap_or(Place::BEGIN)
    }

    /// A fault of an option of the top: at its key, or at the beginning where it is silent.
    pub fn fault(&self, option: &str, what: String) -> Fault {
        let place = self.of_option(option).unwrap_or(Place::BEGIN);
        let file = self.file.clone().unwrap_or_else(|| format!("--{option}").into());
        Fault { file, place, what }
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum Refused {
    /// A file is at fault, or the key file that it names.
    File(Faults),
    /// The key that the command line speaks of.
    Key(KeyError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::File(faults) => write!(f, "{faults}"),
            Refused::Key(error) => write!(f, "{error}"),
        }
    }
}

impl Refused {
    /// The first fault, and how many more there are.
    pub fn in_one_line(&self) -> String {
        match self {
            Refused::File(faults) => faults.in_one_line(),
            Refused::Key(error) => without_whole_secrets(&format!("keys: {error}")),
        }
    }
}

impl From<Faults> for Refused {
    fn from(faults: Faults) -> Refused {
        Refused::File(faults)
    }
}

/// A key file whose lines are wrong, or that has none, is named as the command line names it.
impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Refused {
        let faults = match &error {
            KeyError::Line { origin: Origin::File(path), .. } | KeyError::Empty(Origin::File(path)) => {
                of_lines(path, &named(path))
            }
            _ => None,
        };
        faults.map_or(Refused::Key(error), Refused::File)
    }
}

/// A file of either kind.
#[derive(Debug)]
pub enum Either {
    /// A server's.
    Server(Read<ServerConfig>),
    /// A client's.
    Client(Read<ClientConfig>),
}

impl<Said> Source<Said> {
    /// The file, as it was typed, if it is one.
    pub fn file(&self) -> Option<Arc<str>> {
        match self {
            Source::File { path, .. } => Some(named(path)),
            Source::Flags { .. } => None,
        }
    }

    /// What people are told is read again: the file as it was typed, or `keys`, as nothing else of a command line can
    /// change.
    pub fn name(&self) -> Arc<str> {
        match self {
            Source::File { path, .. } => named(path),
            Source::Flags { .. } => "keys".into(),
        }
    }
}

impl Source<ServerSaid> {
    /// Reads the configuration anew.
    pub fn read(&self, occasion: Occasion) -> Result<Read<ServerConfig>, Refused> {
        match self {
            Source::File { path, flags } => match read_file(path, flags, occasion)? {
                Either::Server(read) => Ok(read),
                Either::Client(_) => Err(other_kind(path, "server", "client").into()),
            },
            Source::Flags { said, keys } => {
                let found = flag_keys(keys.as_deref(), occasion)?;
                let warnings = found.warning.into_iter().map(|what| Warning { at: None, what }).collect();
                let (named_keys, made, keys) = (keys, found.made, found.keys);
                let running = said.running.clone();
                let config = said.clone().with(keys);
                Ok(Read {
                    config,
                    running,
                    warnings,
                    made,
                    keys_from: String::new(),
                    key_file: named_keys.clone(),
                    places: Places::default(),
                })
            }
        }
    }
}

impl Source<ClientSaid> {
    /// Reads the configuration anew.
    pub fn read(&self, occasion: Occasion) -> Result<Read<ClientConfig>, Refused> {
        match self {
            Source::File { path, flags } => match read_file(path, flags, occasion)? {
                Either::Client(read) => Ok(read),
                Either::Server(_) => Err(other_kind(path, "client", "server").into()),
            },
            Source::Flags { said, keys } => {
                let found = keys::client_key(keys.as_deref(), key_line())?;
                let (keys_from, warnings) = told_of(&found);
                let warnings = warnings.into_iter().map(|what| Warning { at: None, what }).collect();
                let running = said.running.clone();
                let config = said.clone().with(found.key).ok_or(Refused::Key(KeyError::NoHome))?;
                let (key_file, places) = (keys.clone(), Places::default());
                Ok(Read { config, running, warnings, made: None, keys_from, key_file, places })
            }
        }
    }
}

/// The keys of a server's command line.
#[cold]
fn flag_keys(named: Option<&Path>, occasion: Occasion) -> Result<keys::ServerKeys, KeyError> {
    if named.is_some() || occasion == Occasion::Start {
        return keys::server_keys(named);
    }
    let path = key_place::default_place()?;
    match (keys::server_keys(Some(&path)), occasion) {
        // The server that starts makes it.
        (Err(KeyError::MissingKeys(_)), Occasion::Check) => Ok(keys::ServerKeys::default()),
        (found, _) => found,
    }
}

/// Where a client's key comes from, in words, and what should be known.
fn told_of(found: &keys::ClientKey) -> (String, Option<String>) {
    let others =
        if found.others > 0 { format!(", the first of {}", found.others + 1) } else { String::new() };
    (format!("key '{}' from {}{others}", found.key.name, found.origin), found.warning.clone())
}

fn key_line() -> Option<OsString> {
    std::env::var_os(keys::VARIABLE)
}

fn other_kind(path: &Path, wanted: &str, found: &str) -> Faults {
    let clients = "; only clients have 'server', [publish] and [expose]";
    file::alone(&named(path), format!("wanted a {wanted}'s file, found a {found}'s{clients}"))
}

/// A file's name as it was typed.
pub fn named(path: &Path) -> Arc<str> {
    without_whole_secrets(&path.to_string_lossy()).into()
}

/// The bytes of a configuration file.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, Faults> {
    let file_name = named(path);
    let failed =
        |error: io::Error| file::alone(&file_name, format!("wanted a file that can be read, found: {error}"));
    let file = Patient::open(path).map_err(failed)?;
    let length = file.file().metadata().map_err(failed)?.len();
    if length > FILE_BYTES_MAX as u64 {
        return Err(file::alone(
            &file_name,
            format!("wanted at most {FILE_BYTES_MAX} bytes, found {length}"),
        ));
    }
    let mut bytes = Vec::new();
    // A pipe does not tell its length.
    let most = FILE_BYTES_MAX as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Reads a file and the key file that it names. These flags stand beside it.
#[cold]
pub fn read_file(path: &Path, flags: &Running, occasion: Occasion) -> Result<Either, Faults> {
    let name = named(path);
    let bytes = read_bytes(path)?;
    let text = Text::of(&name, &bytes)?;
    let mut parsed = file::parse(&name, text.as_str(), SystemTime::now())?;
    parsed.tell_same_files(path, flags);
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut places = Places::of(&name, &parsed);
    // What is wrong with a flag's value is no fault of the file.
    let by_flag = flags.changed_in(&Running::default());
    places.keys.retain(|(option, _)| !by_flag.contains(option));
    let mut either = match parsed.what {
        What::Server(_) => server(folder, parsed, places, occasion)?,
        What::Client(_) => client(folder, parsed, places)?,
    };
    let (Either::Server(Read { running, .. }) | Either::Client(Read { running, .. })) = &mut either;
    *running = flags.clone().beside(std::mem::take(running));
    Ok(either)
}

#[cold]
fn server(folder: &Path, parsed: Parsed, places: Places, occasion: Occasion) -> Result<Either, Faults> {
    let Parsed { what: What::Server(said), mut faults, mut warnings, .. } = parsed else {
        return Err(Faults::default());
    };
    if said.keys.is_none() && places.of_option("keys").is_some() {
        // It names no file, which was told. Another file says nothing of the keys that were meant.
        return Err(faults.finish());
    }
    let mut others = KeyFaults::default();
    let mut made = None;
    let mut found = Lines::default();
    let (written, at) = said.keys.clone().map_or((None, 0), |(path, at)| (Some(path), at));
    let path = match &written {
        Some(path) => Ok(folder.join(path)),
        None => key_place::default_place(),
    };
    // What faults in it are named by.
    let shown: Arc<str> = match (&written, &path) {
        (Some(written), _) => without_whole_secrets(written).into(),
        (None, Ok(path)) => path.display().to_string().into(),
        (None, Err(_)) => "".into(),
    };
    let is_missing = |path: &Path| path.try_exists().is_ok_and(|there| !there);
    let makes = written.is_none() && path.as_ref().is_ok_and(|path| is_missing(path));
    let is_known = if makes && occasion != Occasion::Reload {
        // The file that the server would make has one key.
        policies_without_key(&said, [&keys::made_name()].into_iter(), &shown, &mut faults);
        if occasion == Occasion::Start && faults.is_empty() {
            match keys::server_keys(None) {
                Ok(keys) => {
                    made = keys.made;
                    found.keys = keys.keys.into_iter().map(|key| (key, (1, 1))).collect();
                }
                Err(error) => told(error, at, &shown, &mut faults),
            }
        }
        false
    } else {
        match path.and_then(|path| keys::read_bytes(&path)) {
            Ok((text, warning)) => {
                found = Lines::of(&text);
                warnings_of(warning, at, &mut warnings);
                others.take(&found, &shown);
                others.0.is_empty()
            }
            Err(error) => {
                told(error, at, &shown, &mut faults);
                false
            }
        }
    };
    let mut others_warn = Faults::default();
    if is_known {
        policies_without_key(&said, found.keys.iter().map(|(key, _)| &key.name), &shown, &mut faults);
        if let super::Policies::Each(policies) = &said.policies {
            for (key, place) in found.keys.iter().filter(|(key, _)| !policies.contains_key(&key.name)) {
                others_warn.tell(|| {
                    let what = format!("the key {0} has no [key.{0}], so it may do nothing", key.name);
                    Fault { file: shown.clone(), place: place_of(*place), what }
                });
            }
        }
    }
    let mut all = faults.finish();
    all.extend(others.0);
    if !all.is_empty() {
        return Err(all);
    }
    let mut told = warnings.finish();
    told.extend(others_warn);
    let (running, keys_from) = (resolved(said.running.clone(), folder), shown.to_string());
    let config = said.with(found.keys.into_iter().map(|(key, _)| key).collect());
    let (warnings, key_file) = (told.into_warnings(), written.map(|path| folder.join(path)));
    Ok(Either::Server(Read { config, running, warnings, made, keys_from, key_file, places }))
}

#[cold]
fn client(folder: &Path, parsed: Parsed, places: Places) -> Result<Either, Faults> {
    let Parsed { what: What::Client(said), mut faults, mut warnings, .. } = parsed else {
        return Err(Faults::default());
    };
    if said.key.is_none() && places.of_option("key").is_some() {
        return Err(faults.finish());
    }
    let mut others = Faults::default();
    let (written, at) = said.key.clone().map_or((None, 0), |(path, at)| (Some(path), at));
    let path = written.as_ref().map(|written| folder.join(written));
    let mut key: Option<Key> = None;
    let mut keys_from = String::new();
    match keys::client_key(path.as_deref(), key_line()) {
        Ok(found) => {
            let (from, warning) = told_of(&found);
            keys_from = from;
            warnings_of(warning, at, &mut warnings);
            key = Some(found.key);
        }
        Err(error) => {
            let shown: Arc<str> = match (&written, &error) {
                (Some(written), _) => without_whole_secrets(written).into(),
                (None, KeyError::Line { origin, .. } | KeyError::Empty(origin)) => origin.to_string().into(),
                (None, _) => "".into(),
            };
            let of_lines = match &error {
                KeyError::Line { origin: Origin::File(path), .. } => of_lines(path, &shown),
                _ => None,
            };
            match of_lines {
                Some(faults) => others = faults,
                None => told(error, at, &shown, &mut faults),
            }
        }
    }
    let mut all = faults.finish();
    all.extend(others);
    let running = resolved(said.running.clone(), folder);
    match key.and_then(|key| said.with(key)) {
        Some(config) if all.is_empty() => {
            let warnings = warnings.finish().into_warnings();
            Ok(Either::Client(Read {
                config,
                running,
                warnings,
                made: None,
                keys_from,
                key_file: path,
                places,
            }))
        }
        _ => Err(all),
    }
}

/// Paths of a file are relative to the folder that it is in.
fn resolved(running: Running, folder: &Path) -> Running {
    let resolve = |path: Option<PathBuf>| path.map(|path| folder.join(path));
    Running {
        log_level: running.log_level,
        log_format: running.log_format,
        log_file: resolve(running.log_file),
        ready_file: resolve(running.ready_file),
        metrics: running.metrics,
        // The word is no path.
        status: running.status.map(|path| if path == Path::new("none") { path } else { folder.join(path) }),
    }
}

fn warnings_of(warning: Option<String>, at: usize, warnings: &mut Collector) {
    if let Some(what) = warning {
        warnings.tell(at, || what);
    }
}

/// A policy is for a key that there is.
fn policies_without_key<'k>(
    said: &ServerSaid,
    keys: impl Iterator<Item = &'k Name>,
    file: &str,
    faults: &mut Collector,
) {
    // In order, so that of two names that are as near the same one is told each time.
    let names = tree(keys.cloned());
    for (name, at) in said.policies_at.iter().filter(|(name, _)| !names.contains(name)) {
        let known = names.iter().map(|name| name.as_str());
        faults.tell(*at, || unknown(&format!("the name of a key in {file}"), name.as_str(), known));
    }
}
