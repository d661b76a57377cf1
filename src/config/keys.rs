//! The key file: one `NAME SECRET` per line, blank lines and `#` comments allowed. The server reads all of
//! its keys, and makes a file where there is none at the default place; the client uses one.
//!
//! A secret leaves this module only as a [`Secret`] or as a line that was asked for: no error and no log
//! holds one, nor the text of a line, which may be a secret in the wrong place. Text that was read or made here is
//! wiped before its memory is given back.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use zeroize::Zeroizing;

use super::fault::{looks_secret, without_whole_secrets};
use super::key_place::{access_of_others, default_place};
use super::opening::Patient;
use crate::base::name::Name;
use crate::config::Key;
use crate::wire::handshake::{Secret, key_id};

/// Largest key file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Characters of a secret in its text form.
const SECRET_CHARACTERS: usize = 43;

/// What some editors write at the beginning of a text; it means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The variable that may hold the client's line.
pub const VARIABLE: &str = "SKYORG_KEY";

/// Name of the key that a server makes for itself.
pub fn made_name() -> Name {
    "default".parse().expect("a good name") // invariant: the constant is one
}

/// Where key lines were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The environment variable [`VARIABLE`].
    Variable,
    /// A key file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Variable => f.write_str(VARIABLE),
            Origin::File(path) => f.write_str(&without_whole_secrets(&path.to_string_lossy())),
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLine {
    /// Not UTF-8.
    Text,
    /// Not two words.
    Words,
    /// The first word is no name.
    Name,
    /// The second word is no secret.
    Secret,
    /// An earlier line has the same name.
    Duplicate,
    /// An earlier line has the same secret.
    SameSecret,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "not UTF-8 text; wanted NAME SECRET, as 'skyorg keygen' prints it",
            Self::Words => "wanted NAME SECRET, as 'skyorg keygen' prints it",
            Self::Name => "the name is not 1 to 64 letters, digits, '.', '_' or '-'",
            Self::Secret => "the secret is not 43 characters of base64url; make one with 'skyorg keygen'",
            Self::SameSecret => {
                "an earlier line has the same secret; a key is known by its secret, so each needs its own"
            }
            Self::Duplicate => "an earlier line has the same name; each key needs its own",
        })
    }
}

/// Why there is no key.
#[derive(Debug)]
pub enum KeyError {
    /// No environment variable says where the default file is.
    NoHome,
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// The client's file is not there.
    Missing(PathBuf),
    /// The file that the server was told is not there.
    MissingKeys(PathBuf),
    /// The file is larger than [`FILE_BYTES_MAX`].
    TooLarge(PathBuf),
    /// A line is malformed.
    Line {
        /// Where the line is.
        origin: Origin,
        /// Its number, from 1.
        number: usize,
        /// What is wrong.
        problem: BadLine,
    },
    /// Nothing but comments and blank lines.
    Empty(Origin),
    /// The server's first key file cannot be made.
    Make(PathBuf, io::Error),
    /// The operating system gave no random bytes.
    Random,
    /// A key stands where the name of a file is wanted.
    NotAFile,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHome => f.write_str(
                "no place for the key file: neither XDG_CONFIG_HOME nor HOME is an absolute path; name the \
                 file with --keys (server) or --key (client)",
            ),
            Self::Read(path, error) => write!(f, "cannot read the key file {}: {error}", path.display()),
            Self::Missing(path) => write!(
                f,
                "no key file at {}: copy the server's there, name another with --key, or put its line in \
                 {VARIABLE}",
                path.display()
            ),
            Self::MissingKeys(path) => write!(
                f,
                "no key file at {0}: a file that is named must exist; make it with: (umask 077; skyorg keygen > {0})",
                path.display()
            ),
            Self::TooLarge(path) => write!(
                f,
                "the key file {} is larger than {FILE_BYTES_MAX} bytes; wanted one NAME SECRET per line",
                path.display()
            ),
            Self::Line { origin, number, problem } => write!(f, "{origin}, line {number}: {problem}"),
            Self::Empty(origin) => {
                write!(f, "{origin} holds no key; add a line that 'skyorg keygen' prints")
            }
            Self::Make(path, error) => write!(
                f,
                "cannot make the key file {}: {error}; make one at another place with 'skyorg keygen > FILE', and \
                 name it with --keys FILE",
                path.display()
            ),
            Self::Random => f.write_str("the operating system gave no random bytes for a new key; try again"),
            Self::NotAFile => write!(
                f,
                "a key stands where something else is wanted, and is not safe there; put it in a file that --keys or \
                 --key names, or in {VARIABLE}"
            ),
        }
    }
}

/// The server's keys.
#[derive(Debug, Default)]
pub struct ServerKeys {
    /// All keys of the file, at least one.
    pub keys: Vec<Key>,
    /// What should be known of the file.
    pub warning: Option<String>,
    /// The file that was made, if there was none before.
    pub made: Option<PathBuf>,
}

/// The client's key.
#[derive(Debug)]
pub struct ClientKey {
    /// The first key found.
    pub key: Key,
    /// Where.
    pub origin: Origin,
    /// How many more keys stand there.
    pub others: usize,
    /// What should be known of the file.
    pub warning: Option<String>,
}

/// Reads the server's keys, from the default file unless told otherwise. Only the default file is made if it is
/// missing.
#[cold]
pub fn server_keys(path: Option<&Path>) -> Result<ServerKeys, KeyError> {
    match path {
        Some(path) => match read_file(named_path(path)?) {
            Err(KeyError::Read(path, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(KeyError::MissingKeys(path))
            }
            read => read.map(|read| read.of_server(None)),
        },
        None => read_or_make(default_place()?),
    }
}

fn read_or_make(path: PathBuf) -> Result<ServerKeys, KeyError> {
    let made = match read_file(&path) {
        Err(KeyError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => make_file(&path, &WAYS)?,
        Err(error) => return Err(error),
        Ok(read) => return Ok(read.of_server(None)),
    };
    // Read back, because another server may have made the file first.
    let read = read_file(&path)?;
    Ok(read.of_server(made.then_some(path)))
}

/// Finds the client's key: the file it was told, else the environment's line, which is wiped, else the default file.
/// Of several it is the first, so that a client beside its server works with the server's file.
#[cold]
pub fn client_key(path: Option<&Path>, line: Option<OsString>) -> Result<ClientKey, KeyError> {
    // Wiped also where it is not used.
    let line = line.map(|line| Zeroizing::new(line.into_encoded_bytes()));
    let (origin, Found { keys, warning }) = match line.filter(|line| path.is_none() && !line.is_empty()) {
        Some(line) => (Origin::Variable, Found { keys: parse(&line, &Origin::Variable)?, warning: None }),
        None => {
            let path = path.map_or_else(default_place, |path| named_path(path).map(Path::to_owned))?;
            let keys = match read_file(&path) {
                Err(KeyError::Read(path, error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(KeyError::Missing(path));
                }
                read => read?,
            };
            (Origin::File(path), keys)
        }
    };
    let others = keys.len() - 1;
    let key = keys.into_iter().next().ok_or_else(|| KeyError::Empty(origin.clone()))?;
    Ok(ClientKey { key, origin, others, warning })
}

/// Makes a new key from 32 random bytes.
pub fn generate(name: Name) -> Result<Key, KeyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| KeyError::Random)?;
    Ok(Key { name, secret: Secret::copy_of(&bytes) })
}

/// The key as a line of a key file, with its end.
pub fn line(key: &Key) -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; SECRET_CHARACTERS]);
    let encoded = URL_SAFE_NO_PAD.encode_slice(key.secret.bytes(), &mut *secret);
    debug_assert_eq!(encoded.ok(), Some(SECRET_CHARACTERS));
    // It has its size from the beginning, because growing would leave copies.
    let mut line = Zeroizing::new(String::with_capacity(key.name.as_str().len() + SECRET_CHARACTERS + 2));
    line.push_str(key.name.as_str());
    line.push(' ');
    line.extend(secret.iter().map(|&letter| char::from(letter)));
    line.push('\n');
    line
}

/// The path of a file that was named.
fn named_path(path: &Path) -> Result<&Path, KeyError> {
    let name = path.file_name().and_then(|name| name.to_str());
    if name.is_some_and(holds_secret) { Err(KeyError::NotAFile) } else { Ok(path) }
}

/// A key file that was read and is good.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    keys: Vec<Key>,
    warning: Option<String>,
}

impl Found {
    fn of_server(self, made: Option<PathBuf>) -> ServerKeys {
        ServerKeys { keys: self.keys, warning: self.warning, made }
    }
}

fn read_file(path: &Path) -> Result<Found, KeyError> {
    let (text, warning) = read_bytes(path)?;
    Ok(Found { keys: parse(&text, &Origin::File(path.to_owned()))?, warning })
}

/// The bytes of a key file, and what should be known of it.
pub fn read_bytes(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<String>), KeyError> {
    let path = named_path(path)?;
    let failed = |error| KeyError::Read(path.to_owned(), error);
    let file = Patient::open(path).map_err(failed)?;
    let metadata = file.file().metadata().map_err(failed)?;
    let others = access_of_others(path);
    let is_open = metadata.is_file() && metadata.permissions().mode() & others != 0;
    let text = read_text(file, metadata.len()).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(KeyError::TooLarge(path.to_owned()));
    }
    let warning = is_open
        .then(|| format!("others have access to the key file {0}; run: chmod 600 {0}", path.display()));
    Ok((text, warning))
}

/// Reads a file, and at most one byte more than [`FILE_BYTES_MAX`]. No copy is left where the text did not fit.
fn read_text(mut file: impl Read, length: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let max = FILE_BYTES_MAX as usize + 1;
    let mut text = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(max).saturating_add(1).min(max)]);
    let mut filled = 0;
    loop {
        if filled == text.len() && filled < max {
            // A pipe does not tell its length, and a file may grow.
            let mut larger = Zeroizing::new(vec![0; (2 * filled).clamp(4_096, max)]);
            larger[..filled].copy_from_slice(&text);
            text = larger;
        }
        match file.read(&mut text[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(text)
}

/// A place in a key file: its line and its column in characters, from 1.
pub type LinePlace = (usize, usize);

/// What the lines of a key file are.
#[derive(Debug, Default)]
pub struct Lines {
    /// The keys, and where each stands.
    pub keys: Vec<(Key, LinePlace)>,
    /// What is wrong, at which word, and which earlier line it clashes with.
    pub faults: Vec<(BadLine, LinePlace, Option<usize>)>,
}

impl Lines {
    /// Reads lines, all of them.
    #[cold]
    pub fn of(text: &[u8]) -> Lines {
        let mut lines = Lines::default();
        let mut names = std::collections::HashMap::new();
        let mut ids = std::collections::HashMap::new();
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((key, [name_at, secret_at]))) => {
                    let id = key_id(&key.secret);
                    let clash = match (names.get(&key.name), ids.get(&id)) {
                        (Some(&first), _) => Some((BadLine::Duplicate, name_at, first)),
                        (None, Some(&first)) => Some((BadLine::SameSecret, secret_at, first)),
                        (None, None) => None,
                    };
                    if let Some((problem, column, first)) = clash {
                        lines.faults.push((problem, (number, column), Some(first)));
                        continue;
                    }
                    names.insert(key.name.clone(), number);
                    ids.insert(id, number);
                    lines.keys.push((key, (number, name_at)));
                }
                Err((problem, column)) => lines.faults.push((problem, (number, column), None)),
            }
        }
        lines
    }
}

/// Reads lines; there is at least one key if it succeeds. `origin` is named in errors.
pub fn parse(text: &[u8], origin: &Origin) -> Result<Vec<Key>, KeyError> {
    let Lines { keys, faults } = Lines::of(text);
    if let Some(&(problem, (number, _), _)) = faults.first() {
        return Err(KeyError::Line { origin: origin.clone(), number, problem });
    }
    if keys.is_empty() {
        return Err(KeyError::Empty(origin.clone()));
    }
    Ok(keys.into_iter().map(|(key, _)| key).collect())
}

/// The key of a line and the columns of its two words; or what is wrong, and the column of that word.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
#[cold]
fn parse_line(line: &[u8]) -> Result<Option<(Key, [usize; 2])>, (BadLine, usize)> {
    let text = str::from_utf8(line).map_err(|error| {
        let before = line.get(..error.valid_up_to()).and_then(|valid| str::from_utf8(valid).ok());
        (BadLine::Text, before.map_or(0, |valid| valid.chars().count()) + 1)
    })?;
    let column = |word: &str| {
        text.chars().count() - text.get(offset(text, word)..).map_or(0, |it| it.chars().count()) + 1
    };
    let line = text.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(secret), None) = (words.next(), words.next(), words.next()) else {
        return Err((BadLine::Words, column(line)));
    };
    let columns = [column(name), column(secret)];
    let parsed = name.parse().ok().filter(|_| !holds_secret(name));
    let name = parsed.ok_or((BadLine::Name, columns[0]))?;
    let secret = read_secret(secret).ok_or((BadLine::Secret, columns[1]))?;
    Ok(Some((Key { name, secret }, columns)))
}

/// Where a part of a text begins in it.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize).min(text.len())
}

/// Whether a word of a text is a secret in its text form: a key stands where something else is wanted.
pub fn holds_secret(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    text.split(|letter| !is_letter(letter)).any(|word| looks_secret(word) && read_secret(word).is_some())
}

fn read_secret(text: &str) -> Option<Secret> {
    // The decoder may want room for one byte more than it writes.
    let mut bytes = Zeroizing::new([0; 33]);
    let decoded = URL_SAFE_NO_PAD.decode_slice(text, &mut *bytes).ok()?;
    let secret = bytes.first_chunk().filter(|_| decoded == 32)?;
    Some(Secret::copy_of(secret))
}

/// A way to put a file that is written in its place, where none may be.
type Way = fn(&Path, &Path) -> io::Result<()>;

/// The ways, best first. With the first two a file appears whole or not at all. Not every file system has hard links
/// (those of memory cards and of some shares have not), nor renames that replace nothing; all have the last.
const WAYS: [Way; 3] = [
    |draft, path| fs::hard_link(draft, path),
    |draft, path| Ok(renameat_with(CWD, draft, CWD, path, RenameFlags::NOREPLACE)?),
    copy_into_new,
];

/// Writes what a file holds into a new one, by one call, which is removed where that fails.
fn copy_into_new(draft: &Path, path: &Path) -> io::Result<()> {
    let text = Zeroizing::new(fs::read(draft)?);
    let mut file = new_file(path)?;
    file.write_all(&text).inspect_err(|_| drop(fs::remove_file(path)))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Puts a draft in its place by the first way that works.
fn put_in_place(draft: &Path, path: &Path, ways: &[Way]) -> io::Result<()> {
    let mut outcome = Err(io::ErrorKind::Unsupported.into());
    for way in ways {
        outcome = way(draft, path);
        match &outcome {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
            _ => break,
        }
    }
    outcome
}

/// Makes a key file with one new key, and the folders above it; tells whether this process was the one that
/// made it. The file is put in its place only after it was written: a server started at the same moment reads the same
/// keys.
fn make_file(path: &Path, ways: &[Way]) -> Result<bool, KeyError> {
    let text = line(&generate(made_name())?);
    let failed = |error| KeyError::Make(path.to_owned(), error);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.{:08x}", std::process::id(), fastrand::u32(..)));
    let draft = PathBuf::from(draft);
    let mut file = new_file(&draft).map_err(failed)?;
    let made = file.write_all(text.as_bytes()).and_then(|()| put_in_place(&draft, path, ways));
    let removed = match fs::remove_file(&draft) {
        // A rename leaves no draft.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    match made {
        Ok(()) => removed.map(|()| true).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder of its own for each test, removed at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name =
                format!("skyorg-keys-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).expect("a new folder");
            Folder(path)
        }

        fn file(&self, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join("key");
            fs::write(&path, text).expect("writes");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn secret(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; 32])
    }

    fn parsed(text: &str) -> Result<Vec<Key>, KeyError> {
        parse(text.as_bytes(), &Origin::Variable)
    }

    #[test]
    fn a_generated_line_is_read_back() {
        let key = generate("office".parse().expect("a name")).expect("a key");
        let text = line(&key);
        assert_eq!(text.len(), "office \n".len() + 43);
        assert_eq!(text.capacity(), text.len(), "it has not grown");
        assert_eq!(parsed(&text).expect("reads"), std::slice::from_ref(&key));
        assert_ne!(generate(key.name.clone()).expect("another key"), key);
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_line_ends_do_not_matter() {
        let text = format!("# keys\r\n\n  a {}\r\n\t# b\nb\t{}", secret(1), secret(2));
        let names: Vec<_> =
            parsed(&text).expect("reads").into_iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line_and_shifts_no_number() {
        let text = format!("\u{feff}a {}\r\nb {}\r\n", secret(1), secret(2));
        let names: Vec<_> =
            parsed(&text).expect("reads").into_iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["a", "b"]);
        let only = parsed(&format!("\u{feff}# a comment\na {}", secret(1))).expect("reads");
        assert_eq!(only.len(), 1);
        for (number, text) in [(1, "\u{feff}lonely\r\n"), (2, "\u{feff}\r\nlonely"), (1, "\u{feff}\u{feff}#")]
        {
            let error = parsed(text).expect_err("no key");
            assert!(matches!(error, KeyError::Line { number: found, .. } if found == number), "{text:?}");
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let text = format!("{}a {}\n", "# many comments\n".repeat(3_000), secret(1));
        let folder = Folder::new();
        let path = folder.file(&text);
        // As of a pipe: its length is told as 0.
        let read = read_text(File::open(path).expect("is there"), 0).expect("reads");
        assert!(*read == text.as_bytes());
    }

    #[test]
    fn a_malformed_line_is_named_by_file_and_number_and_never_shown() {
        let good = secret(7);
        for (line, expected) in [
            ("lonely".to_owned(), BadLine::Words),
            (format!("a {good} more"), BadLine::Words),
            (format!("a/b {good}"), BadLine::Name),
            (format!("a {}", &good[1..]), BadLine::Secret),
            (format!("a {good}="), BadLine::Secret),
            (format!("a {}+", &good[1..]), BadLine::Secret),
            (format!("first {good}"), BadLine::Duplicate),
            (format!("second {}", secret(1)), BadLine::SameSecret),
        ] {
            let text = format!("# one\nfirst {}\n{line}\n", secret(1));
            let origin = Origin::File("/etc/skyorg/key".into());
            let error = parse(text.as_bytes(), &origin).expect_err(&line);
            assert!(
                matches!(error, KeyError::Line { number: 3, problem, .. } if problem == expected),
                "{line}"
            );
            let message = error.to_string();
            assert!(message.starts_with("/etc/skyorg/key, line 3: "), "{message}");
            assert!(!message.contains(&good[1..]) && !message.contains("lonely"), "{message}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_named_by_line() {
        let error = parse(b"# one\n\xff\xfe\n", &Origin::Variable).expect_err("not text");
        assert!(matches!(error, KeyError::Line { number: 2, problem: BadLine::Text, .. }));
    }

    #[test]
    fn a_file_without_a_key_or_too_large_is_refused() {
        let folder = Folder::new();
        for text in ["", "\n# only a comment\n"] {
            let path = folder.file(text);
            assert!(matches!(server_keys(Some(&path)), Err(KeyError::Empty(_))));
            assert!(matches!(client_key(Some(&path), None), Err(KeyError::Empty(_))));
        }
        let path = folder.file(vec![b'\n'; FILE_BYTES_MAX as usize + 1]);
        assert!(matches!(server_keys(Some(&path)), Err(KeyError::TooLarge(_))));
    }

    #[test]
    fn a_server_without_a_file_makes_one_that_only_its_owner_reads() {
        let folder = Folder::new();
        let path = folder.0.join("new").join("key");
        let made = read_or_make(path.clone()).expect("makes");
        assert_eq!(made.made.as_deref(), Some(&*path));
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.0.join("new")).expect("is there").count(), 1, "the draft is gone");
        let again = server_keys(Some(&path)).expect("reads");
        assert_eq!((again.made, &again.keys), (None, &made.keys));
        assert_eq!(client_key(Some(&path), None).expect("reads").key, made.keys[0]);
    }

    #[test]
    fn each_way_makes_a_file_that_only_its_owner_reads_and_replaces_none() {
        let lacks: Way = |_, _| Err(io::ErrorKind::Unsupported.into());
        for (number, way) in WAYS.into_iter().enumerate() {
            let folder = Folder::new();
            let path = folder.0.join("key");
            let ways = [lacks, way, lacks];
            assert!(make_file(&path, &ways).expect("makes"), "way {number}");
            let made = read_file(&path).expect("it is whole");
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
            assert!(!make_file(&path, &ways).expect("another one is there"), "way {number}");
            assert_eq!(read_file(&path).expect("it is as it was"), made);
            let files = fs::read_dir(&folder.0).expect("readable").count();
            assert_eq!(files, 1, "way {number} leaves no draft");
        }
    }

    #[test]
    fn where_no_way_works_nothing_is_left() {
        let folder = Folder::new();
        let full: Way = |_, _| Err(io::ErrorKind::StorageFull.into());
        let error = make_file(&folder.0.join("key"), &[full; 3]).expect_err("no way works");
        assert!(matches!(error, KeyError::Make(_, error) if error.kind() == io::ErrorKind::StorageFull));
        assert_eq!(fs::read_dir(&folder.0).expect("readable").count(), 0);
    }

    #[test]
    fn servers_started_at_once_end_with_the_same_key() {
        let folder = Folder::new();
        let path = folder.0.join("key");
        let start = std::sync::Barrier::new(8);
        let begin = || {
            start.wait();
            read_or_make(path.clone()).expect("makes or reads")
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
        });
        assert!(all.iter().all(|each| each.keys == all[0].keys));
        assert_eq!(all.iter().filter(|each| each.made.is_some()).count(), 1);
    }

    #[test]
    fn a_client_uses_the_first_key_and_counts_the_others() {
        let folder = Folder::new();
        let path = folder.file(format!("a {}\nb {}\n", secret(1), secret(2)));
        let found = client_key(Some(&path), None).expect("reads");
        assert_eq!((found.key.name.as_str(), found.others), ("a", 1));
        assert_eq!(found.origin, Origin::File(path));
    }

    #[test]
    fn a_named_file_precedes_the_variable_and_the_variable_the_default_file() {
        let folder = Folder::new();
        let path = folder.file(format!("file {}", secret(1)));
        let line = || Some(OsString::from(format!("variable {}", secret(2))));
        assert_eq!(client_key(Some(&path), line()).expect("reads").key.name.as_str(), "file");
        let found = client_key(None, line()).expect("reads");
        assert_eq!((found.key.name.as_str(), found.origin), ("variable", Origin::Variable));
        assert_eq!(client_key(Some(&path), Some(OsString::new())).expect("reads").key.name.as_str(), "file");
    }

    #[test]
    fn a_missing_file_teaches_the_client_what_to_do() {
        let folder = Folder::new();
        let error = client_key(Some(&folder.0.join("none")), None).expect_err("missing");
        assert!(matches!(error, KeyError::Missing(_)));
        assert!(error.to_string().contains(VARIABLE));
        assert!(matches!(server_keys(Some(&folder.0)), Err(KeyError::Read(..))), "a folder is not a file");
    }

    #[test]
    fn a_file_that_a_server_was_told_must_exist() {
        let folder = Folder::new();
        let path = folder.0.join("none");
        let error = server_keys(Some(&path)).expect_err("missing");
        assert!(matches!(error, KeyError::MissingKeys(_)));
        let advice = format!("(umask 077; skyorg keygen > {})", path.display());
        assert!(error.to_string().contains(&advice), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_secret_given_as_a_file_name_is_not_repeated() {
        for path in [secret(9), format!("office {}", secret(9))] {
            let error = client_key(Some(Path::new(&path)), None).expect_err("not a file");
            assert!(matches!(error, KeyError::NotAFile));
            assert!(!error.to_string().contains(&secret(9)));
        }
    }
}
