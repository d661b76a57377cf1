//! `skyorg unit`: a unit of systemd for a command line, on standard output. What it cannot do is told on standard
//! error.
//!
//! The process gets a user of its own that owns nothing, sees no home, and may do no more than serve. Its key is handed
//! over by systemd, so that the file stays its owner's.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{ClientArguments, ServerArguments, UnitSide};
use super::beside::Given;
use super::{Failure, print, said};
use crate::base::address::Listen;
use crate::base::sorted::Set;
use crate::config::fault::without_whole_secrets;
use crate::config::file::Running;
use crate::config::options::{Kind, Side};
use crate::config::policy::PortRules;
use crate::config::source::{Occasion, Source};
use crate::config::{Policies, ServerConfig, key_place, keys};

/// From here up a process needs no right to a port (capabilities(7), `CAP_NET_BIND_SERVICE`).
const FIRST_FREE_PORT: u16 = 1024;
/// Folders of people, which a hardened process does not see.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// Descriptors beside those of users, and most of all that Linux allows unless told otherwise (`fs.nr_open`).
const DESCRIPTORS: (usize, usize) = (65_536, 1_048_576);
/// How long sessions may outlast their time to end before systemd kills the process.
const STOP_SPARE: Duration = Duration::from_secs(10);

/// What a unit depends on.
struct Wanted {
    side: Side,
    program: PathBuf,
    arguments: Vec<String>,
    /// The key file that systemd hands over.
    key: PathBuf,
    /// Whether it listens at a port for which it needs a right.
    needs_port: bool,
    drain: Duration,
    descriptors: usize,
    /// Files that it writes.
    written: Vec<PathBuf>,
    /// A key file that it reads itself, as its configuration names it.
    own_key: Option<PathBuf>,
}

/// Prints the unit of a command line that would be taken.
#[cold]
pub(super) fn run(side: Option<UnitSide>, given: &[Given]) -> Result<(), Failure> {
    let wanted = match side {
        Some(UnitSide::Server(arguments)) => server(arguments, given)?,
        Some(UnitSide::Client(arguments)) => client(arguments, given)?,
        None => return refuse("'server' or 'client' was not said".to_owned()),
    };
    if !wanted.key.exists() {
        warn(&format!("there is no key file at {0}; make it: skyorg keygen > {0}", wanted.key.display()));
    }
    print(&wanted.text()?)
}

#[cold]
fn server(arguments: ServerArguments, given: &[Given]) -> Result<Wanted, Failure> {
    let source = said::server(arguments, given)?;
    let read = source.read(Occasion::Check)?;
    let own_key = own_key(&source, read.key_file.as_deref(), "keys");
    let limits = &read.config.limits;
    Ok(Wanted {
        needs_port: ports(&read.config)
            .chain(read.running.metrics.map(Listen::port))
            .any(|port| (1..FIRST_FREE_PORT).contains(&port)),
        drain: limits.drain,
        descriptors: (2 * limits.users_max + DESCRIPTORS.0 / 4).clamp(DESCRIPTORS.0, DESCRIPTORS.1),
        own_key,
        ..Wanted::new(Side::Server, given, read.key_file, &read.running)?
    })
}

#[cold]
fn client(arguments: ClientArguments, given: &[Given]) -> Result<Wanted, Failure> {
    let source = said::client(arguments, given)?;
    let read = source.read(Occasion::Check)?;
    let own_key = own_key(&source, read.key_file.as_deref(), "key");
    if read.key_file.is_none() && std::env::var_os(keys::VARIABLE).is_some_and(|line| !line.is_empty()) {
        warn(&format!("a unit can be read by all, so the key in {} does not stand in it", keys::VARIABLE));
    }
    Ok(Wanted {
        needs_port: read.running.metrics.is_some_and(|at| (1..FIRST_FREE_PORT).contains(&at.port())),
        drain: read.config.limits.drain,
        own_key,
        ..Wanted::new(Side::Client, given, read.key_file, &read.running)?
    })
}

/// The key file that a configuration names, with a warning: what systemd hands over is read only where none does.
#[cold]
fn own_key<Said>(source: &Source<Said>, key_file: Option<&Path>, key: &str) -> Option<PathBuf> {
    let (Source::File { path: file, .. }, Some(path)) = (source, key_file) else { return None };
    warn(&format!(
        "{} names the key file {}, which the unit's own user may not be able to read; without '{key}' there, \
             the process takes what LoadCredential= hands over",
        file.display(),
        path.display()
    ));
    Some(absolute(path))
}

fn refuse<T>(problem: String) -> Result<T, Failure> {
    Err(Failure::Usage { command: "skyorg unit", problem })
}

fn warn(sentence: &str) {
    let _ =
        io::stderr().write_all(without_whole_secrets(&format!("skyorg: warning: {sentence}\n")).as_bytes());
}

/// The ports at which a server may listen.
fn ports(config: &ServerConfig) -> impl Iterator<Item = u16> {
    let own = config.services.iter().flat_map(|service| service.listen.iter().copied());
    let own = own.chain([config.message, config.control]).map(Listen::port);
    let rules: Vec<&PortRules> = match &config.policies {
        Policies::Alike(ports) => vec![ports],
        Policies::Each(policies) => policies.values().map(|policy| &policy.ports).collect(),
    };
    let asked = rules.into_iter().flat_map(|rules| match rules {
        // All are those that need no right.
        PortRules::All => &[],
        PortRules::These(ports) => &ports[..],
    });
    own.chain(asked.map(|at| at.ports.first))
}

impl Wanted {
    #[cold]
    fn new(
        side: Side,
        given: &[Given],
        key_file: Option<PathBuf>,
        running: &Running,
    ) -> Result<Wanted, Failure> {
        let program =
            std::env::current_exe().map_err(|error| Failure::Io("the program is nowhere", error))?;
        let mut arguments = vec![side.name().to_owned()];
        let status = running.status.as_ref().filter(|path| path.as_os_str() != "none");
        let written: Vec<PathBuf> = [running.log_file.as_ref(), running.ready_file.as_ref(), status]
            .into_iter()
            .flatten()
            .map(|path| absolute(path))
            .collect();
        for Given { option, value, .. } in given {
            // What systemd hands over takes its place.
            if ["key", "keys"].contains(&option.name) {
                continue;
            }
            let is_path = option.kind == Kind::File && value != "none";
            let value =
                if is_path { absolute(Path::new(value)).display().to_string() } else { value.clone() };
            arguments.push(format!("--{}", option.name));
            if option.kind != Kind::Switch {
                arguments.push(value);
            }
        }
        let key = match key_file {
            Some(path) => absolute(&path),
            None => key_place::own_place()?,
        };
        let (drain, descriptors) = (Duration::ZERO, DESCRIPTORS.0);
        let own_key = None;
        Ok(Wanted { side, program, arguments, key, needs_port: false, drain, descriptors, written, own_key })
    }

    /// The unit (systemd.service(5), systemd.exec(5)).
    #[cold]
    fn text(&self) -> Result<String, Failure> {
        let side = self.side.name();
        let arguments: Vec<String> = self.arguments.iter().map(|word| quoted(word)).collect();
        let (rights, users) = match self.needs_port {
            true => ("CAP_NET_BIND_SERVICE", ""),
            // A right to a port is one of the host, which a process with users of its own does not have.
            false => ("", "PrivateUsers=yes\n"),
        };
        let homes = if self.is_at_home() { "read-only" } else { "yes" };
        Ok(format!(
            "[Unit]\n\
             Description=skyorg {side}\n\
             Wants=network-online.target\n\
             After=network-online.target\n\
             StartLimitIntervalSec=0\n\
             \n\
             [Service]\n\
             # systemd before 253 takes the first of these: there, 'systemctl kill -s HUP' reloads.\n\
             Type=notify\n\
             Type=notify-reload\n\
             ExecStart={program} {arguments}\n\
             WatchdogSec=30s\n\
             Restart=always\n\
             RestartSec=1s\n\
             # A configuration that is refused is refused again.\n\
             RestartPreventExitStatus=2\n\
             TimeoutStopSec={stop}s\n\
             LimitNOFILE={descriptors}\n\
             LoadCredential={credential}:{key}\n\
             DynamicUser=yes\n\
             RuntimeDirectory=skyorg/{side}\n\
             {folders}\
             UMask=0077\n\
             AmbientCapabilities={rights}\n\
             CapabilityBoundingSet={rights}\n\
             {users}\
             ProtectHome={homes}\n\
             {SANDBOX}\
             \n\
             [Install]\n\
             WantedBy=multi-user.target",
            program = program(&self.program)?,
            arguments = arguments.join(" "),
            stop = (self.drain + STOP_SPARE).as_secs(),
            descriptors = self.descriptors,
            credential = key_place::CREDENTIAL,
            key = verbatim(&self.key)?,
            folders = self.folders()?,
        ))
    }

    /// Whether something that it reads or writes is in a home.
    fn is_at_home(&self) -> bool {
        let files = self.written.iter().chain(&self.own_key).chain([&self.program]).map(PathBuf::as_path);
        let mut paths = self.arguments.iter().map(Path::new).chain(files);
        paths.any(|path| HOMES.iter().any(|home| path.starts_with(home)))
    }

    /// Where it may write beside its own folder.
    #[cold]
    fn folders(&self) -> Result<String, Failure> {
        let own = Path::new("/run/skyorg").join(self.side.name());
        let folders = self.written.iter().filter_map(|path| path.parent());
        let folders: Set<&Path> = folders.filter(|folder| !folder.starts_with(&own)).collect();
        let mut text = String::new();
        for folder in folders {
            match folder.strip_prefix("/var/log") {
                Ok(inside) if inside != Path::new("") => {
                    text += &format!("LogsDirectory={}\n", folder_of_log(inside)?);
                }
                _ => {
                    warn(&format!("the unit's own user must be able to write into {}", folder.display()));
                    text += &format!("ReadWritePaths={}\n", folder_written(folder)?);
                }
            }
        }
        Ok(text)
    }
}

/// What holds for every command line.
const SANDBOX: &str = "\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
";

/// A path that does not depend on the folder that somebody is in.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `%` begins a specifier (systemd.unit(5)).
fn specifiers_escaped(text: &str) -> String {
    text.replace('%', "%%")
}

/// A path that a unit can say: its lines end with lines, and are UTF-8.
fn sayable(path: &Path) -> Result<&str, Failure> {
    match path.to_str().filter(|text| !text.contains(|letter: char| letter.is_control())) {
        Some(text) => Ok(text),
        None => refuse(format!("a unit cannot say the path {path:?}; give it another name")),
    }
}

/// A path that stands alone behind its key. Nothing in it means anything but `%`; what ends the line is cut off or
/// joins the next one to it.
fn verbatim(path: &Path) -> Result<String, Failure> {
    match sayable(path)? {
        text if text.ends_with([' ', '\\']) => refuse(format!(
            "systemd takes no key file at {text:?}, for its last character; give it another name"
        )),
        text => Ok(specifiers_escaped(text)),
    }
}

/// The path of a program. systemd takes none with a quote or a backslash, however they are written, and no variable
/// is expanded in it.
fn program(path: &Path) -> Result<String, Failure> {
    match sayable(path)? {
        text if text.contains(['"', '\'', '\\']) => refuse(format!(
            "systemd takes no program at {text:?}, for its quote or backslash; put it elsewhere"
        )),
        text if text.contains([' ', ';']) => Ok(format!("\"{}\"", specifiers_escaped(text))),
        text => Ok(specifiers_escaped(text)),
    }
}

/// A folder in a list of them. Quotes hold a word together; a backslash is one, and no variable is expanded.
fn folder_written(path: &Path) -> Result<String, Failure> {
    let text = specifiers_escaped(sayable(path)?);
    if !text.contains([' ', '"', '\'']) {
        return Ok(text);
    }
    // One kind of quotes holds the other.
    Ok(format!("\"{}\"", text.replace('"', "\"'\"'\"")))
}

/// A folder below that of logs. A colon would begin another name for it, and a backslash takes that from it.
fn folder_of_log(inside: &Path) -> Result<String, Failure> {
    let text = sayable(inside)?.replace('\\', "\\\\").replace(':', "\\:");
    folder_written(Path::new(&text))
}

/// A word of a command line as systemd reads it (systemd.service(5), COMMAND LINES).
fn quoted(word: &str) -> String {
    let word = specifiers_escaped(word).replace('$', "$$");
    let is_plain = |letter: char| letter.is_alphanumeric() || "%$-_./:=,@+*[]".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word;
    }
    let mut out = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_ascii_control() => out += &format!("\\x{:02x}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_and_mean_themselves() {
        for (word, expected) in [
            ("--service", "--service"),
            ("web=[::1]:80", "web=[::1]:80"),
            ("*", "*"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%$HOME", "100%%$$HOME"),
            (";", "\";\""),
            ("say \"x\\y\"\n", r#""say \"x\\y\"\x0a""#),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_path_is_written_as_the_place_where_it_stands_reads_it() {
        let written = |write: fn(&Path) -> Result<String, Failure>, path| write(Path::new(path)).ok();
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(written(program, "/a$b/%n c"), is("\"/a$b/%%n c\""));
        assert_eq!(written(program, "/a$b"), is("/a$b"));
        assert_eq!(written(verbatim, "/a$b \"c\"/%d"), is("/a$b \"c\"/%%d"));
        assert_eq!(written(folder_written, "/a$b\\c"), is("/a$b\\c"));
        assert_eq!(written(folder_written, "/a \"b'"), is("\"/a \"'\"'\"b'\""));
        assert_eq!(written(folder_of_log, "a:b\\c"), is("a\\:b\\\\c"));
        for path in ["/a\"b", "/a'b", "/a\\b", "/a\nb"] {
            assert_eq!(written(program, path), None, "{path}");
        }
        for path in ["/a\nb", "/a\\", "/a "] {
            assert_eq!(written(verbatim, path), None, "{path}");
        }
    }
}
