//! The one table of options: flags, the keys of a file, README's table and what `skyorg check` says come from it.
//!
//! argh reads the words of a command line; a test compares its help with this table.

use std::time::Duration;

/// Which command an option belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `skyorg server`.
    Server,
    /// `skyorg client`.
    Client,
}

impl Side {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Server => "server",
            Side::Client => "client",
        }
    }
}

/// Where an option stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Before all tables.
    Top,
    /// In `[service.NAME]`.
    Service,
    /// In `[key.NAME]`.
    Key,
    /// In `[publish.NAME]`.
    Publish,
    /// In `[expose.NAME]`.
    Expose,
}

impl Section {
    /// The name of its tables.
    pub fn name(self) -> &'static str {
        match self {
            Section::Top => "",
            Section::Service => "service",
            Section::Key => "key",
            Section::Publish => "publish",
            Section::Expose => "expose",
        }
    }

    /// Those with tables, and whose files have them.
    pub const TABLES: [(Section, Side); 4] = [
        (Section::Service, Side::Server),
        (Section::Key, Side::Server),
        (Section::Publish, Side::Client),
        (Section::Expose, Side::Client),
    ];

    /// Whether it is the name of one with tables.
    pub fn has_tables(name: &str) -> bool {
        Section::TABLES.iter().any(|(section, _)| section.name() == name)
    }
}

/// What values an option has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One place to listen.
    Place,
    /// Places to listen, at least one.
    Places,
    /// Addresses and networks.
    Networks,
    /// Ports that may be asked for, or `*`.
    Ports,
    /// Names of services, or `*`.
    Services,
    /// One port or range.
    Range,
    /// A whole number of this range.
    Count(u32, u32),
    /// A time, said in whole seconds on the command line.
    Seconds(u32, u32),
    /// A time of this range.
    Time(Duration, Duration),
    /// A flag without a value, or `true` and `false`.
    Switch,
    /// The path of a file.
    File,
    /// How much is logged.
    Level,
    /// How a line of the log looks.
    Format,
    /// `HOST[:PORT]` of a control port.
    Server,
    /// `HOST:PORT`.
    Address,
    /// `[HOST:]PORT` of a local server.
    Local,
    /// Bits a second.
    Rate,
    /// A day or a moment.
    Date,
    /// `NAME=ADDR` and the like, on the command line only.
    Words,
}

/// How an option is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// By flag or by key, alike.
    Both,
    /// By key only.
    InFile,
    /// By flag; a file says it so.
    AsFlag(&'static str),
    /// By flag only, also beside a file.
    FlagOnly,
    /// By flag or by key; the flag wins.
    FlagBesideFile,
}

/// When a changed value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At a reload.
    Reload,
    /// At a reload, for links that come later.
    LaterLinks,
    /// After a restart only; the reload is refused.
    Restart,
    /// It is read once.
    Never,
}

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// The flag without dashes, and the key.
    pub name: &'static str,
    /// The command.
    pub side: Side,
    /// Where it stands in a file.
    pub section: Section,
    /// How it is said.
    pub said: Said,
    /// Its values.
    pub kind: Kind,
    /// What holds if nothing is said; empty if nothing does.
    pub default: &'static str,
    /// When a change holds.
    pub change: Change,
    /// What it means, without range and default.
    pub help: &'static str,
}

/// `--pool`.
pub const POOL: (u32, u32) = (1, 1_000);
/// `--heartbeat`, in seconds.
pub const HEARTBEAT: (u32, u32) = (2, 3_600);
/// `--drain`, in seconds.
pub const DRAIN: (u32, u32) = (0, 86_400);
/// `--max-users`, and users of a service, of an address or of a key.
pub const USERS: (u32, u32) = (1, 1_000_000);
/// Links of a key.
pub const LINKS: (u32, u32) = (1, 100_000);
/// A session's time without a byte.
pub const IDLE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// The time to connect to a local server.
pub const DIAL_TIME: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// The words for how much is logged.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The words for how a line of the log looks.
pub const FORMATS: [&str; 2] = ["text", "json"];

const fn seconds(range: (u32, u32)) -> Kind {
    Kind::Seconds(range.0, range.1)
}

const fn count(range: (u32, u32)) -> Kind {
    Kind::Count(range.0, range.1)
}

const fn time(range: (Duration, Duration)) -> Kind {
    Kind::Time(range.0, range.1)
}

const fn top(
    side: Side,
    said: Said,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    change: Change,
    help: &'static str,
) -> Described {
    Described { name, side, section: Section::Top, said, kind, default, change, help }
}

const fn inside(
    side: Side,
    section: Section,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Described {
    Described { name, side, section, said: Said::InFile, kind, default, change: Change::Reload, help }
}

const PLAIN: &str = "do not seal payload on message connections, for traffic that is encrypted already; both sides \
                     must say so";
const DRAINED: &str = "seconds that running sessions get to finish after SIGTERM or SIGINT";
const LEVEL: &str = "least serious lines to log: off, error, warn, info, debug or trace";
const LOG_FORMAT: &str = "how a line of the log looks: text or json";
const LOG_FILE: &str = "FILE to append the log to, instead of standard error";
const CONFIG: &str = "FILE that says all this instead; no other option beside it but --status and the log's";
const CLIENT_CONFIG: &str =
    "FILE that says all this instead; no other option beside it but --ready-file, --status and the log's";
const METRICS: &str = "[ADDR:]PORT where a browser, Prometheus and health checks ask for the status; PORT alone is for \
                       this host";
const STATUS: &str = "PATH of the socket where 'skyorg status' asks, or 'none'";

/// All of them, in the order of the help and of README.
#[rustfmt::skip]
pub const OPTIONS: &[Described] = {
    use self::Change::{LaterLinks, Never, Reload, Restart};
    use self::Said::{AsFlag, Both, FlagBesideFile, FlagOnly};
    use self::Section::{Expose, Key, Publish, Service};
    use self::Side::{Client, Server};
    &[
        top(Server, FlagOnly, "config", Kind::File, "", Never, CONFIG),
        top(Server, AsFlag("[service.default] listen"), "request", Kind::Place, "33333", Reload,
            "ADDR where users of the service 'default' connect"),
        top(Server, Both, "message", Kind::Place, "33334", Restart, "ADDR where clients bring message connections"),
        top(Server, Both, "control", Kind::Place, "33335", Restart,
            "ADDR where clients bring control connections; may equal --message"),
        top(Server, AsFlag("[service.NAME] listen"), "service", Kind::Words, "", Reload,
            "NAME=ADDR, one more service and where its users connect; may be repeated"),
        top(Server, Both, "ports", Kind::Ports, "", Reload,
            "[ADDR:]PORT[-PORT] that any key may ask for, or '*' for all from 1024 up; may be repeated"),
        top(Server, Both, "keys", Kind::File, "~/.config/skyorg/key, made if it is missing", Reload,
            "FILE with one 'NAME SECRET' per line"),
        top(Server, Both, "pool", count(POOL), "10", Reload,
            "idle message connections kept ready per client"),
        top(Server, Both, "plain", Kind::Switch, "", Restart, PLAIN),
        top(Server, Both, "heartbeat", seconds(HEARTBEAT), "30", LaterLinks,
            "seconds of silence after which a client is given up"),
        top(Server, Both, "drain", seconds(DRAIN), "5", Reload, DRAINED),
        top(Server, Both, "max-users", count(USERS), "10000", Reload, "users served at once"),
        top(Server, Both, "metrics", Kind::Place, "", Reload, METRICS),
        top(Server, FlagBesideFile, "status", Kind::File, "server.sock in /run/skyorg or in $XDG_RUNTIME_DIR/skyorg",
            Reload, STATUS),
        top(Server, FlagBesideFile, "log-level", Kind::Level, "info", Reload, LEVEL),
        top(Server, FlagBesideFile, "log-format", Kind::Format, "text", Reload, LOG_FORMAT),
        top(Server, FlagBesideFile, "log-file", Kind::File, "", Reload, LOG_FILE),
        inside(Server, Service, "listen", Kind::Places, "", "ADDR where its users connect, or a list"),
        inside(Server, Service, "from", Kind::Networks, "everywhere", "networks that its users come from"),
        inside(Server, Service, "users", count(USERS), "", "users at once"),
        inside(Server, Service, "users-per-address", count(USERS), "",
            "users at once from one address, or from one /64 of IPv6"),
        inside(Server, Service, "idle", time(IDLE), "", "a session without a byte for this time ends"),
        inside(Server, Service, "probe", Kind::Switch, "true",
            "prove it by a connection without bytes where no user does"),
        inside(Server, Service, "close-when-unserved", Kind::Switch, "false",
            "close its ports while no client serves it"),
        inside(Server, Key, "services", Kind::Services, "none", "services that it may serve, or '*'"),
        inside(Server, Key, "ports", Kind::Ports, "none", "ports that it may ask for, or '*' for all from 1024 up"),
        inside(Server, Key, "from", Kind::Networks, "everywhere", "networks that its client connects from"),
        inside(Server, Key, "users", count(USERS), "", "users at once of all that it serves"),
        inside(Server, Key, "links", count(LINKS), "", "clients at once"),
        inside(Server, Key, "rate", Kind::Rate, "", "bits a second each way, all its sessions together"),
        inside(Server, Key, "expires", Kind::Date, "",
            "its last day (UTC), or the moment from which it may do nothing"),
        top(Client, FlagOnly, "config", Kind::File, "", Never, CLIENT_CONFIG),
        top(Client, Both, "server", Kind::Server, "port 33335", Restart,
            "HOST or HOST:PORT of the server's control port"),
        top(Client, Both, "message", Kind::Address, "HOST at the port that the server names", Restart,
            "HOST:PORT to dial for message connections, where the server's are forwarded"),
        top(Client, AsFlag("[publish.default] local"), "local", Kind::Local, "", Reload,
            "ADDR of the local server behind the service 'default'"),
        top(Client, AsFlag("[publish.NAME] local"), "publish", Kind::Words, "", Reload,
            "NAME=ADDR, one more service and the local server behind it; may be repeated"),
        top(Client, AsFlag("[expose.NAME] local and ports"), "expose", Kind::Words, "", Reload,
            "[PORT[-PORT]=]ADDR, ask the server for this port, a range or \
             any port for users of a local server; may be repeated"),
        top(Client, Both, "key", Kind::File, "~/.config/skyorg/key", Restart,
            "FILE with the key, the first line 'NAME SECRET' of it"),
        top(Client, Both, "plain", Kind::Switch, "", Restart, PLAIN),
        top(Client, Both, "heartbeat", seconds(HEARTBEAT), "30", LaterLinks,
            "seconds of silence after which the server is given up"),
        top(Client, Both, "drain", seconds(DRAIN), "5", Reload, DRAINED),
        top(Client, FlagBesideFile, "ready-file", Kind::File, "", Reload,
            "FILE to write the addresses of all that is served into, as JSON, once all was granted"),
        top(Client, Both, "metrics", Kind::Place, "", Reload, METRICS),
        top(Client, FlagBesideFile, "status", Kind::File, "client.sock in /run/skyorg or in $XDG_RUNTIME_DIR/skyorg",
            Reload, STATUS),
        top(Client, FlagBesideFile, "log-level", Kind::Level, "info", Reload, LEVEL),
        top(Client, FlagBesideFile, "log-format", Kind::Format, "text", Reload, LOG_FORMAT),
        top(Client, FlagBesideFile, "log-file", Kind::File, "", Reload, LOG_FILE),
        inside(Client, Publish, "local", Kind::Local, "", "ADDR of the local server"),
        inside(Client, Publish, "dial-time", time(DIAL_TIME), "5 s", "time to connect to the local server"),
        inside(Client, Publish, "probe", Kind::Switch, "true",
            "whether the server may prove it by a connection without bytes"),
        inside(Client, Expose, "local", Kind::Local, "", "ADDR of the local server; of a range that of its first port"),
        inside(Client, Expose, "ports", Kind::Range, "any one", "PORT or PORT-PORT to ask for"),
        inside(Client, Expose, "dial-time", time(DIAL_TIME), "5 s", "time to connect to the local server"),
        inside(Client, Expose, "probe", Kind::Switch, "true",
            "whether the server may prove it by a connection without bytes"),
        inside(Client, Expose, "share", Kind::Switch, "false",
            "let other clients with the same key serve the same ports"),
    ]
};

impl Described {
    /// Whether a file may say it under its name.
    pub fn is_key(&self) -> bool {
        matches!(self.said, Said::Both | Said::InFile | Said::FlagBesideFile)
    }

    /// Whether the command line may say it.
    pub fn is_flag(&self) -> bool {
        self.said != Said::InFile
    }

    /// The range of its values in words, if it has one.
    pub fn range(&self) -> Option<String> {
        match self.kind {
            Kind::Count(least, most) | Kind::Seconds(least, most) => Some(format!("{least} to {most}")),
            Kind::Time(least, most) => Some(format!("{} to {}", in_words(least), in_words(most))),
            _ => None,
        }
    }

    /// Its help on the command line: what it means, its range and its default.
    pub fn flag_help(&self) -> String {
        let mut help = self.help.to_owned();
        if let Some(range) = self.range() {
            help = format!("{help}, {range}");
        }
        match (self.default, self.kind) {
            ("", _) => help,
            (default, Kind::Server) => format!("{help} [default {}]", default.replacen(' ', ": ", 1)),
            (default, _) => format!("{help} [default: {default}]"),
        }
    }
}

/// The keys that a file of one side may have in a section.
pub fn keys(side: Side, section: Section) -> impl Iterator<Item = &'static Described> {
    OPTIONS.iter().filter(move |option| option.side == side && option.section == section && option.is_key())
}

/// The flags of a command.
pub fn flags(side: Side) -> impl Iterator<Item = &'static Described> {
    OPTIONS.iter().filter(move |option| option.side == side && option.is_flag())
}

/// Names and milliseconds of the units of time, largest first.
pub const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

/// A time as a file says it.
pub fn in_words(time: Duration) -> String {
    let ms = time.as_millis() as u64;
    let unit = UNITS.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    unit.map_or_else(|| "0 s".to_owned(), |(name, unit)| format!("{} {name}", ms / unit))
}

/// The table of README.
pub fn readme() -> String {
    let mut text = String::new();
    for side in [Side::Server, Side::Client] {
        text.push_str(&format!("\n`skyorg {}`\n\n", side.name()));
        text.push_str("| flag | in the file | meaning | default | a change holds |\n|---|---|---|---|---|\n");
        for option in OPTIONS.iter().filter(|option| option.side == side) {
            let flag = if option.is_flag() { format!("`--{}`", option.name) } else { String::new() };
            let key = match (option.said, option.section) {
                (Said::FlagOnly, _) => String::new(),
                (Said::AsFlag(key), _) => format!("`{key}`"),
                (_, Section::Top) => format!("`{}`", option.name),
                (_, section) => format!("`[{}.NAME] {}`", section.name(), option.name),
            };
            let range = option.range().map_or(String::new(), |range| format!(", {range}"));
            let change = match option.change {
                Change::Reload => "at a reload",
                Change::LaterLinks => "for later links",
                Change::Restart => "after a restart",
                Change::Never => "",
            };
            let (help, default) = (option.help.replace('|', "\\|"), option.default);
            text.push_str(&format!("| {flag} | {key} | {help}{range} | {default} | {change} |\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    #[test]
    fn no_option_stands_twice() {
        for (number, option) in OPTIONS.iter().enumerate() {
            let same = |other: &&Described| {
                (other.name, other.side, other.section) == (option.name, option.side, option.section)
            };
            assert_eq!(OPTIONS.iter().skip(number).filter(same).count(), 1, "{option:?}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_limits() {
        let limits = Limits::default();
        let default = |name| OPTIONS.iter().find(|option| option.name == name).expect("an option").default;
        assert_eq!(default("pool"), limits.pool.to_string());
        assert_eq!(default("max-users"), limits.users_max.to_string());
        assert_eq!(default("heartbeat"), limits.heartbeat.as_secs().to_string());
        assert_eq!(default("drain"), limits.drain.as_secs().to_string());
        assert_eq!(default("dial-time"), in_words(crate::config::DIAL_TIME));
        assert_eq!(DIAL_TIME.1, limits.local_dial_max);
    }

    #[test]
    fn times_are_said_in_their_largest_unit() {
        for (ms, words) in
            [(100, "100 ms"), (1_000, "1 s"), (90_000, "90 s"), (2_592_000_000, "30 d"), (0, "0 s")]
        {
            assert_eq!(in_words(Duration::from_millis(ms)), words);
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&super::readme()), "put this into README.md:\n{}", super::readme());
    }
}
