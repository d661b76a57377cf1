//! The configuration file: its text becomes what a server or a client is to do, or the list of all its faults.
//!
//! Nothing is read here but text that is handed in. The key file, which a file only names, is [`super::source`]'s.

mod client;
mod paths;
mod server;
mod settings;

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

pub use client::ClientSaid;
pub use paths::same_file_of_flags;
pub use server::ServerSaid;

use super::document::{Document, Entry, Item, Value};
use super::fault::{Collector, Fault, Faults, Place, quoted};
use super::options::{Described, Section, Side, keys};
use super::values::{Setting, unknown};
use crate::base::address::Listen;
use settings::Settings;

/// Largest file that is parsed, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// What makes a file a client's.
const MAKES_CLIENT: [&str; 3] = ["server", "publish", "expose"];

/// What some editors write at the beginning of a text; it means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What a file or a command line says that is not the machine's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// How much is logged, one of [`super::options::LEVELS`].
    pub log_level: Option<String>,
    /// How its lines look, one of [`super::options::FORMATS`].
    pub log_format: Option<String>,
    /// Where the log goes.
    pub log_file: Option<PathBuf>,
    /// Where a client writes what it was granted.
    pub ready_file: Option<PathBuf>,
    /// Where the status is asked for by TCP.
    pub metrics: Option<Listen>,
    /// The socket by which the status is asked for, or `none`.
    pub status: Option<PathBuf>,
}

impl Running {
    /// What flags say beside a file, which says the rest.
    pub fn beside(self, file: Running) -> Running {
        Running {
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            log_file: self.log_file.or(file.log_file),
            ready_file: self.ready_file.or(file.ready_file),
            metrics: self.metrics.or(file.metrics),
            status: self.status.or(file.status),
        }
    }

    /// The options that say something else in the next one.
    #[cold]
    pub fn changed_in(&self, next: &Running) -> Vec<&'static str> {
        let options = [
            ("log-level", self.log_level != next.log_level),
            ("log-format", self.log_format != next.log_format),
            ("log-file", self.log_file != next.log_file),
            ("ready-file", self.ready_file != next.ready_file),
            ("metrics", self.metrics != next.metrics),
            ("status", self.status != next.status),
        ];
        options.into_iter().filter(|it| it.1).map(|it| it.0).collect()
    }

    /// What stands before all tables.
    #[cold]
    fn read(top: &Settings) -> Running {
        let path = |name| top.text(name).map(PathBuf::from);
        let metrics = match top.get("metrics") {
            Some(Setting::Places(places)) => places.first().map(|&(at, _)| at),
            _ => None,
        };
        Running {
            log_level: top.text("log-level").map(str::to_owned),
            log_format: top.text("log-format").map(str::to_owned),
            log_file: path("log-file"),
            ready_file: path("ready-file"),
            metrics,
            status: path("status"),
        }
    }
}

/// Where those come who ask for the status by TCP. What a process says of itself is not everybody's: a port alone is
/// for this host.
pub fn metrics_address(at: Listen) -> SocketAddr {
    match at {
        Listen::Any(port) => (Ipv4Addr::LOCALHOST, port).into(),
        Listen::At(address) => address,
    }
}

/// The same as a place to listen.
pub fn for_metrics(at: Listen) -> Listen {
    Listen::At(metrics_address(at))
}

/// What a file says.
#[derive(Debug)]
pub enum What {
    /// It is a server's.
    Server(ServerSaid),
    /// It is a client's.
    Client(ClientSaid),
}

/// A file whose syntax is good.
#[derive(Debug)]
pub struct Parsed<'t> {
    /// What it says, as far as it is without fault.
    pub what: What,
    /// Its faults; it may be used only if there is none.
    pub faults: Collector<'t>,
    /// What is taken and should be known.
    pub warnings: Collector<'t>,
    /// Its tables.
    document: Document<'t>,
}

/// A file's bytes as text. What is not UTF-8 is told with its place, and then nothing else is.
#[derive(Debug)]
pub struct Text<'b>(Cow<'b, str>);

impl<'b> Text<'b> {
    /// Takes bytes as text, without the mark at its beginning.
    pub fn of(file: &Arc<str>, bytes: &'b [u8]) -> Result<Text<'b>, Faults> {
        if bytes.len() > FILE_BYTES_MAX {
            let what = format!("wanted at most {FILE_BYTES_MAX} bytes, found more");
            return Err(alone(file, what));
        }
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        match String::from_utf8_lossy(bytes) {
            Cow::Borrowed(text) => Ok(Text(Cow::Borrowed(text))),
            Cow::Owned(shown) => {
                let mut faults = Collector::new(file, &shown);
                let mut at = 0;
                for chunk in bytes.utf8_chunks() {
                    at += chunk.valid().len();
                    if let Some(byte) = chunk.invalid().first() {
                        faults.tell(at, || format!("wanted UTF-8 text, found the byte 0x{byte:02x}"));
                        at += char::REPLACEMENT_CHARACTER.len_utf8();
                    }
                }
                Err(faults.finish())
            }
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One fault of a whole file.
#[cold]
pub fn alone(file: &Arc<str>, what: String) -> Faults {
    let mut faults = Faults::default();
    faults.push(Fault { file: file.clone(), place: Place::BEGIN, what });
    faults
}

/// Reads a file's text. `file` is named in faults. What has expired by `now` is warned of.
#[cold]
pub fn parse<'t>(file: &Arc<str>, text: &'t str, now: SystemTime) -> Result<Parsed<'t>, Faults> {
    let mut faults = Collector::new(file, text);
    // One is left out with the bytes, and the parser leaves out another.
    if text.starts_with('\u{feff}') {
        faults.tell(0, || "wanted one byte order mark at most, found two".to_owned());
    }
    let document = Document::read(text, &mut faults);
    if !faults.is_empty() {
        return Err(faults.finish());
    }
    let mut warnings = faults.beside();
    let side = side_of(&document);
    let top = top(&document, side, &mut faults);
    let what = match side {
        Side::Server => What::Server(ServerSaid::read(&document, &top, now, &mut faults, &mut warnings)),
        Side::Client => What::Client(ClientSaid::read(&document, &top, &mut faults, &mut warnings)),
    };
    Ok(Parsed { what, faults, warnings, document })
}

impl Parsed<'_> {
    fn side(&self) -> Side {
        match self.what {
            What::Server(_) => Side::Server,
            What::Client(_) => Side::Client,
        }
    }

    /// What an option of the top names, and where.
    fn path(&self, option: &str) -> Option<(&str, usize)> {
        match &self.document.entry(Document::ROOT, option)?.item {
            Item { value: Value::Text(path), span } => Some((path, span.start)),
            _ => None,
        }
    }

    /// The place of a key at the top, or of one in a table.
    pub fn place(&self, section: Section, name: &str, key: &str) -> Option<Place> {
        let entry = match section {
            Section::Top => self.document.entry(Document::ROOT, key)?,
            section => {
                let tables = table(self.document.entry(Document::ROOT, section.name())?)?;
                self.document.entry(table(self.document.entry(tables, name)?)?, key)?
            }
        };
        Some(self.faults.place(entry.at))
    }
}

fn table(entry: &Entry) -> Option<super::document::TableId> {
    match entry.item.value {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

/// A file with what only clients have is a client's, any other a server's.
fn side_of(document: &Document) -> Side {
    let is_client = MAKES_CLIENT.iter().any(|key| document.entry(Document::ROOT, key).is_some());
    if is_client { Side::Client } else { Side::Server }
}

/// What stands in front of all tables. Tables that the side has are left to it.
#[cold]
fn top(document: &Document, side: Side, faults: &mut Collector) -> Settings {
    let mut settings = Settings::default();
    let mut is_told = false;
    for entry in document.entries(Document::ROOT) {
        let is_table = matches!(entry.item.value, Value::Table(_) | Value::Tables);
        let section = |side| {
            let mut tables = Section::TABLES.iter().filter(move |(_, of)| *of == side);
            tables.any(|(section, _)| section.name() == entry.key)
        };
        let key = |side| keys(side, Section::Top).find(|option| option.name == entry.key);
        let other = if side == Side::Server { Side::Client } else { Side::Server };
        // `key` is a file at a client and a table at a server.
        let own = key(side);
        let is_foreign = match (own, section(side)) {
            (None, false) => key(other).is_some() || section(other),
            (Some(_), false) => is_table && section(other),
            _ => false,
        };
        match own {
            _ if is_foreign => {
                if !is_told {
                    let makes = MAKES_CLIENT.iter().find_map(|key| document.entry(Document::ROOT, key));
                    let makes = makes.map(|makes| (&*makes.key, faults.place(makes.at)));
                    faults.tell(entry.at, || both_kinds(side, makes, other, &entry.key));
                }
                is_told = true;
            }
            Some(option) => settings.add(option, entry, faults),
            None if section(side) => {}
            None => faults.tell(entry.at, || unknown_key(side, Section::Top, &entry.key)),
        }
    }
    settings
}

#[cold]
fn both_kinds(side: Side, makes: Option<(&str, Place)>, other: Side, key: &str) -> String {
    let why = makes.map_or(String::new(), |(key, place)| format!(", because of '{key}' at {place}"));
    format!(
        "wanted a {}'s keys and tables alone{why}, found {} of a {}'s file",
        side.name(),
        quoted(key),
        other.name()
    )
}

/// What is said of a key that a section does not have.
#[cold]
fn unknown_key(side: Side, section: Section, key: &str) -> String {
    let known = keys(side, section).map(|option| option.name);
    match section {
        Section::Top => {
            let tables =
                Section::TABLES.iter().filter(|(_, of)| *of == side).map(|(section, _)| section.name());
            unknown(&format!("a key or table of a {}'s file", side.name()), key, known.chain(tables))
        }
        section => unknown(&format!("a key of [{}.NAME]", section.name()), key, known),
    }
}

/// What stands in one table of a section.
#[cold]
fn inside(
    document: &Document,
    table: super::document::TableId,
    (side, section): (Side, Section),
    faults: &mut Collector,
) -> Settings {
    let mut settings = Settings::default();
    for entry in document.entries(table) {
        let option: Option<&Described> = keys(side, section).find(|option| option.name == entry.key);
        match option {
            Some(option) => settings.add(option, entry, faults),
            None => faults.tell(entry.at, || unknown_key(side, section, &entry.key)),
        }
    }
    settings
}

/// What is told of a key that must be there.
#[cold]
fn missing(key: &str, section: Section, name: &str) -> String {
    // The name may be anything: it is shown as any other text that was found.
    let name = quoted(name);
    format!("wanted '{key}' in it, found [{}.{}] without", section.name(), name.trim_matches('\''))
}
