//! What may be typed: argh's description of every command, and the values of its options.
//!
//! A value that parses is good on its own; whether the values of one command fit together is decided by
//! [`super`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use argh::FromArgs;
use log::LevelFilter;

use crate::app::journal::Format;
use crate::base::address::{BadAddress, HostPort, Listen};
use crate::base::name::{BadName, NAME_BYTES_MAX, Name};
use crate::base::ports::{BadPorts, Ports, PortsAt};
use crate::config::options::Side;
use crate::config::policy::PortRules;
use crate::config::{CONTROL_PORT, MESSAGE_PORT, options, values};
use crate::wire::publication::Want;

/// Makes a server in a private network reachable at a port of a public host.
#[derive(FromArgs, Debug)]
#[argh(
    usage = "server|client|check|status|unit|keygen|demo [<options>]",
    help_triggers("-h", "--help", "help"),
    example = "skyorg demo\n    See a request travel through a tunnel on this machine.",
    example = "skyorg server\n    On the public host: users connect to port 33333.",
    example = "skyorg client --server public.example --local localhost:8080\n\
        \x20   In the private network: users reach localhost:8080.",
    note = "'skyorg server --help' and so on tell more."
)]
pub(super) struct Arguments {
    /// print the version
    #[argh(switch)]
    pub(super) version: bool,
    #[argh(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(super) enum Command {
    Server(ServerArguments),
    Client(ClientArguments),
    Check(CheckArguments),
    Status(StatusArguments),
    Unit(UnitArguments),
    Keygen(KeygenArguments),
    Demo(DemoArguments),
}

/// Run on the public host: accept users, and clients that serve them.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "server",
    usage = "[<options>]",
    help_triggers("-h", "--help", "help"),
    example = "skyorg server",
    example = "skyorg server --request 127.0.0.1:8080 --service db=5432",
    note = "ADDR is PORT for all interfaces (IPv4 and IPv6), or IP:PORT, or [IPv6]:PORT.\n\
        Clients must reach the message and the control port, users the request ports."
)]
pub(super) struct ServerArguments {
    /// FILE that says all this instead; no other option beside it but --status and the log's
    #[argh(option)]
    pub(super) config: Option<PathBuf>,
    /// ADDR where users of the service 'default' connect [default: 33333]
    #[argh(option, from_str_fn(listen))]
    pub(super) request: Option<Listen>,
    /// ADDR where clients bring message connections [default: 33334]
    #[argh(option, default = "Listen::Any(MESSAGE_PORT)", from_str_fn(listen))]
    pub(super) message: Listen,
    /// ADDR where clients bring control connections; may equal --message [default: 33335]
    #[argh(option, default = "Listen::Any(CONTROL_PORT)", from_str_fn(listen))]
    pub(super) control: Listen,
    /// NAME=ADDR, one more service and where its users connect; may be repeated
    #[argh(option)]
    pub(super) service: Vec<Service<Listen>>,
    /// [ADDR:]PORT[-PORT] that any key may ask for, or '*' for all from 1024 up; may be repeated
    #[argh(option)]
    pub(super) ports: Vec<Askable>,
    /// FILE with one 'NAME SECRET' per line [default: ~/.config/skyorg/key, made if it is missing]
    #[argh(option)]
    pub(super) keys: Option<PathBuf>,
    /// idle message connections kept ready per client, 1 to 1000 [default: 10]
    #[argh(option)]
    pub(super) pool: Option<Within<{ options::POOL.0 }, { options::POOL.1 }>>,
    /// do not seal payload on message connections, for traffic that is encrypted already; both sides must
    /// say so
    #[argh(switch)]
    pub(super) plain: bool,
    /// seconds of silence after which a client is given up, 2 to 3600 [default: 30]
    #[argh(option)]
    pub(super) heartbeat: Option<Within<{ options::HEARTBEAT.0 }, { options::HEARTBEAT.1 }>>,
    /// seconds that running sessions get to finish after SIGTERM or SIGINT, 0 to 86400 [default: 5]
    #[argh(option)]
    pub(super) drain: Option<Within<{ options::DRAIN.0 }, { options::DRAIN.1 }>>,
    /// users served at once, 1 to 1000000 [default: 10000]
    #[argh(option)]
    pub(super) max_users: Option<Within<{ options::USERS.0 }, { options::USERS.1 }>>,
    /// [ADDR:]PORT where a browser, Prometheus and health checks ask for the status; PORT alone is for this host
    #[argh(option, from_str_fn(listen))]
    pub(super) metrics: Option<Listen>,
    /// PATH of the socket where 'skyorg status' asks, or 'none' [default: server.sock in /run/skyorg or in
    /// $XDG_RUNTIME_DIR/skyorg]
    #[argh(option)]
    pub(super) status: Option<PathBuf>,
    /// least serious lines to log: off, error, warn, info, debug or trace [default: info]
    #[argh(option, from_str_fn(log_level))]
    pub(super) log_level: Option<LevelFilter>,
    /// how a line of the log looks: text or json [default: text]
    #[argh(option, from_str_fn(log_format))]
    pub(super) log_format: Option<String>,
    /// FILE to append the log to, instead of standard error
    #[argh(option)]
    pub(super) log_file: Option<PathBuf>,
}

/// Run in the private network: join local servers to the public host.
#[derive(FromArgs, Clone, Debug)]
#[argh(
    subcommand,
    name = "client",
    usage = "--server <HOST> --local <ADDR> [<options>]",
    help_triggers("-h", "--help", "help"),
    example = "skyorg client --server public.example --local localhost:8080",
    example = "skyorg client --server public.example --publish db=db.lan:5432",
    example = "skyorg client --server public.example --expose 27000-27100=localhost:27000",
    note = "ADDR is HOST:PORT, [IPv6]:PORT, or PORT for localhost.\n\
        The key: SKYORG_KEY may hold its line 'NAME SECRET' instead; a file is safer."
)]
pub(super) struct ClientArguments {
    /// FILE that says all this instead; no other option beside it but --ready-file, --status and the log's
    #[argh(option)]
    pub(super) config: Option<PathBuf>,
    /// HOST or HOST:PORT of the server's control port [default port: 33335]
    #[argh(option)]
    pub(super) server: Option<ServerAddress>,
    /// HOST:PORT to dial for message connections, where the server's are forwarded [default: HOST at the port
    /// that the server names]
    #[argh(option)]
    pub(super) message: Option<FullAddress>,
    /// ADDR of the local server behind the service 'default'
    #[argh(option)]
    pub(super) local: Option<LocalAddress>,
    /// NAME=ADDR, one more service and the local server behind it; may be repeated
    #[argh(option)]
    pub(super) publish: Vec<Service<LocalAddress>>,
    /// [PORT[-PORT]=]ADDR, ask the server for this port, a range or any port for users of a local server; may be
    /// repeated
    #[argh(option)]
    pub(super) expose: Vec<Expose>,
    /// FILE with the key, the first line 'NAME SECRET' of it [default: ~/.config/skyorg/key]
    #[argh(option)]
    pub(super) key: Option<PathBuf>,
    /// do not seal payload on message connections, for traffic that is encrypted already; both sides must
    /// say so
    #[argh(switch)]
    pub(super) plain: bool,
    /// seconds of silence after which the server is given up, 2 to 3600 [default: 30]
    #[argh(option)]
    pub(super) heartbeat: Option<Within<{ options::HEARTBEAT.0 }, { options::HEARTBEAT.1 }>>,
    /// seconds that running sessions get to finish after SIGTERM or SIGINT, 0 to 86400 [default: 5]
    #[argh(option)]
    pub(super) drain: Option<Within<{ options::DRAIN.0 }, { options::DRAIN.1 }>>,
    /// FILE to write the addresses of all that is served into, as JSON, once all was granted
    #[argh(option)]
    pub(super) ready_file: Option<PathBuf>,
    /// [ADDR:]PORT where a browser, Prometheus and health checks ask for the status; PORT alone is for this host
    #[argh(option, from_str_fn(listen))]
    pub(super) metrics: Option<Listen>,
    /// PATH of the socket where 'skyorg status' asks, or 'none' [default: client.sock in /run/skyorg or in
    /// $XDG_RUNTIME_DIR/skyorg]
    #[argh(option)]
    pub(super) status: Option<PathBuf>,
    /// least serious lines to log: off, error, warn, info, debug or trace [default: info]
    #[argh(option, from_str_fn(log_level))]
    pub(super) log_level: Option<LevelFilter>,
    /// how a line of the log looks: text or json [default: text]
    #[argh(option, from_str_fn(log_format))]
    pub(super) log_format: Option<String>,
    /// FILE to append the log to, instead of standard error
    #[argh(option)]
    pub(super) log_file: Option<PathBuf>,
}

/// Say whether configuration files would be taken, and what they mean.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help", "help"),
    example = "skyorg check server.toml",
    note = "Exit status: 0 if all would be taken, else 2."
)]
pub(super) struct CheckArguments {
    /// FILE of a server or a client
    #[argh(positional, arg_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
}

/// Show what the processes that run here do, and what fails.
#[derive(FromArgs, Clone, Debug)]
#[argh(
    subcommand,
    name = "status",
    usage = "[server|client] [<options>]",
    help_triggers("-h", "--help", "help"),
    example = "skyorg status -f",
    example = "skyorg status client --wait 10 && start-what-needs-it",
    note = "Exit status: 0 if everything is proven, 1 if something is, 2 if nothing is\n\
        or no process answers."
)]
pub(super) struct StatusArguments {
    /// only servers or only clients
    #[argh(positional, arg_name = "server|client", from_str_fn(role))]
    pub(super) role: Option<Side>,
    /// JSON for scripts
    #[argh(switch)]
    pub(super) json: bool,
    /// show it live; q leaves
    #[argh(switch, short = 'f')]
    pub(super) follow: bool,
    /// SECONDS to wait for everything to be proven
    #[argh(option)]
    pub(super) wait: Option<Within<0, 86_400>>,
    /// PATH of the socket to ask at, as said to the process
    #[argh(option)]
    pub(super) status: Option<PathBuf>,
}

/// Print a hardened unit of systemd for this command line.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "unit",
    usage = "server|client [<options>]",
    help_triggers("-h", "--help", "help"),
    example = "skyorg unit server --keys /etc/skyorg/keys > /etc/systemd/system/skyorg-server.service",
    note = "The options are those of the command."
)]
pub(super) struct UnitArguments {
    #[argh(subcommand)]
    pub(super) side: Option<UnitSide>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(super) enum UnitSide {
    Server(ServerArguments),
    Client(ClientArguments),
}

/// Print a new key: one line for the key files of the server and of one client.
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "keygen",
    help_triggers("-h", "--help", "help"),
    example = "skyorg keygen office >> ~/.config/skyorg/key"
)]
pub(super) struct KeygenArguments {
    /// the key's name in logs: 1 to 64 letters, digits, '.', '_' or '-' [default: default]
    #[argh(positional, from_str_fn(name))]
    pub(super) name: Option<Name>,
}

/// Show a request going through a server and a client, both on this machine.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "demo", help_triggers("-h", "--help", "help"), example = "skyorg demo --once")]
pub(super) struct DemoArguments {
    /// end after one request instead of waiting for yours
    #[argh(switch)]
    pub(super) once: bool,
    /// least serious lines to log: off, error, warn, info, debug or trace [default: warn]
    #[argh(option, default = "LevelFilter::Warn", from_str_fn(log_level))]
    pub(super) log_level: LevelFilter,
}

/// A whole number of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Within<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<const LEAST: u32, const MOST: u32> FromStr for Within<LEAST, MOST> {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let number = text.parse().ok().filter(|number| (LEAST..=MOST).contains(number));
        number.map(Within).ok_or(BadValue::Number(LEAST, MOST))
    }
}

/// `HOST[:PORT]` of a control port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerAddress(pub(super) HostPort);

impl FromStr for ServerAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        HostPort::parse(text, None, Some(CONTROL_PORT)).map(ServerAddress)
    }
}

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FullAddress(pub(super) HostPort);

impl FromStr for FullAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        HostPort::parse(text, None, None).map(FullAddress)
    }
}

/// `[HOST:]PORT` of a local server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalAddress(pub(super) HostPort);

impl FromStr for LocalAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        HostPort::parse(text, Some("localhost"), None).map(LocalAddress)
    }
}

/// What stands behind the name of a service.
pub(super) trait Place: Sized {
    /// A whole `NAME=ADDR` that is taken.
    const EXAMPLE: &'static str;

    /// Reads it.
    fn read(text: &str) -> Result<Self, BadAddress>;
}

impl Place for Listen {
    const EXAMPLE: &'static str = "web=8080 or web=127.0.0.1:8080";

    fn read(text: &str) -> Result<Listen, BadAddress> {
        values::listen(text)
    }
}

impl Place for LocalAddress {
    const EXAMPLE: &'static str = "web=localhost:8080";

    fn read(text: &str) -> Result<LocalAddress, BadAddress> {
        text.parse()
    }
}

/// `NAME=ADDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service<Address> {
    pub(super) name: Name,
    pub(super) address: Address,
}

impl<Address: Place> FromStr for Service<Address> {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (name, address) = text.split_once('=').ok_or(BadValue::NoName(Address::EXAMPLE))?;
        let name = name.parse().map_err(BadValue::Name)?;
        Ok(Service { name, address: Address::read(address).map_err(BadValue::Address)? })
    }
}

/// Ports that any key may ask for: `[ADDR:]PORT[-PORT]` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Askable(pub(super) PortRules);

impl FromStr for Askable {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Askable, BadValue> {
        match text {
            "*" => Ok(Askable(PortRules::All)),
            text => text
                .parse::<PortsAt>()
                .map(|ports| Askable(PortRules::These([ports].into())))
                .map_err(BadValue::Ports),
        }
    }
}

/// `[PORT[-PORT]=][HOST:]PORT`: what is asked for, and the local server behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expose {
    /// What stands before `=`, else all of it.
    pub(super) name: Name,
    pub(super) want: Want,
    pub(super) local: HostPort,
}

impl FromStr for Expose {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Expose, BadValue> {
        let (name, want, local) = match text.split_once('=') {
            Some((ports, local)) => (ports, Want::Ports(ports.parse().map_err(BadValue::Ports)?), local),
            None => (text, Want::AnyPort, text),
        };
        let LocalAddress(local) = local.parse().map_err(BadValue::Local)?;
        if let Want::Ports(Ports { first, last }) = want
            && local.port.checked_add(last - first).is_none()
        {
            return Err(BadValue::PastTheLast(Ports { first, last }));
        }
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() || "._-".contains(letter) { letter } else { '-' }
        };
        let mut name: String = name.chars().map(plain).collect();
        if name.len() > NAME_BYTES_MAX {
            // The port stays where a long host is cut, so that two of one host have names of their own.
            let port = format!("-{}", local.port);
            name.truncate(NAME_BYTES_MAX - port.len());
            name += &port;
        }
        Ok(Expose { name: name.parse().map_err(BadValue::Name)?, want, local })
    }
}

/// What is wrong with an option's value; argh says which option and which value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadValue {
    Number(u32, u32),
    Level,
    Format,
    NoName(&'static str),
    Name(BadName),
    Address(BadAddress),
    Local(BadAddress),
    Ports(BadPorts),
    PastTheLast(Ports),
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(least, most) => write!(f, "wanted a whole number from {least} to {most}"),
            Self::Level => f.write_str("wanted off, error, warn, info, debug or trace"),
            Self::Format => f.write_str("wanted text or json"),
            Self::NoName(example) => write!(f, "wanted NAME=ADDR, such as {example}"),
            Self::Name(error) => write!(f, "{error}"),
            Self::Address(error) => write!(f, "behind NAME=, {error}"),
            Self::Local(error) => write!(f, "{error}"),
            Self::Ports(error) => write!(f, "wanted {error}"),
            Self::PastTheLast(ports) => {
                write!(f, "wanted {} local ports up to 65535 behind '='", ports.count())
            }
        }
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    Listen::read(text).map_err(|error| error.to_string())
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| BadValue::Level.to_string())
}

fn role(text: &str) -> Result<Side, String> {
    let role = [Side::Server, Side::Client].into_iter().find(|role| role.name() == text);
    role.ok_or_else(|| "wanted server or client".to_owned())
}

fn log_format(text: &str) -> Result<String, String> {
    let format: Result<Format, ()> = text.parse();
    format.map(|_| text.to_owned()).map_err(|()| BadValue::Format.to_string())
}

fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: BadName| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(arguments: &[&str]) -> Result<ServerArguments, argh::EarlyExit> {
        ServerArguments::from_args(&["skyorg", "server"], arguments)
    }

    fn client(arguments: &[&str]) -> Result<ClientArguments, argh::EarlyExit> {
        ClientArguments::from_args(&["skyorg", "client"], arguments)
    }

    #[test]
    fn numbers_outside_their_range_are_refused_with_the_range() {
        for (option, inside, outside, range) in [
            ("--pool", ["1", "1000"], ["0", "1001"], "from 1 to 1000"),
            ("--heartbeat", ["2", "3600"], ["1", "3601"], "from 2 to 3600"),
            ("--max-users", ["1", "1000000"], ["0", "1000001"], "from 1 to 1000000"),
            ("--drain", ["0", "86400"], ["86401", "5s"], "from 0 to 86400"),
        ] {
            for value in inside {
                assert!(server(&[option, value]).is_ok(), "{option} {value}");
            }
            for value in outside.into_iter().chain(["", "-1", "1.5", "ten", "99999999999"]) {
                let exit = server(&[option, value]).expect_err(value);
                assert!(exit.status.is_err() && exit.output.contains(range), "{}", exit.output);
            }
        }
    }

    #[test]
    fn a_service_is_a_name_and_an_address() {
        let service = "db=[::1]:5432".parse::<Service<Listen>>().expect("reads");
        assert_eq!((service.name.as_str(), service.address.to_string().as_str()), ("db", "[::1]:5432"));
        let service = "web=8080".parse::<Service<LocalAddress>>().expect("reads");
        assert_eq!(service.address.0.to_string(), "localhost:8080");
        assert_eq!("8080".parse::<Service<Listen>>(), Err(BadValue::NoName(Listen::EXAMPLE)));
        assert_eq!("=8080".parse::<Service<Listen>>(), Err(BadValue::Name(BadName)));
        assert_eq!("a b=8080".parse::<Service<Listen>>(), Err(BadValue::Name(BadName)));
        assert_eq!("db=host".parse::<Service<Listen>>(), Err(BadValue::Address(BadAddress::Listen)));
        assert_eq!("db=".parse::<Service<LocalAddress>>(), Err(BadValue::Address(BadAddress::NoPort)));
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_as_the_mistake() {
        for text in ["[fe80::1%no-such-zone]:80", "[::1%no-such-zone]:80"] {
            assert_eq!(Listen::read(text), Err(BadAddress::Zone), "{text}");
            assert!(server(&["--request", text]).expect_err(text).output.contains("interface"));
        }
        assert_eq!(Listen::read("[::1]:80"), "[::1]:80".parse());
    }

    #[test]
    fn levels_are_read_in_any_case_and_others_listed() {
        for (text, level) in
            [("off", LevelFilter::Off), ("Trace", LevelFilter::Trace), ("WARN", LevelFilter::Warn)]
        {
            assert_eq!(server(&["--log-level", text]).expect(text).log_level, Some(level));
        }
        assert!(client(&["--log-level", "loud"]).expect_err("no level").output.contains("debug or trace"));
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let arguments = server(&[]).expect("nothing is required");
        assert_eq!((arguments.message, arguments.control), (Listen::Any(33334), Listen::Any(33335)));
        assert_eq!(arguments.log_level, None);
        let arguments = client(&["--server", "public.example"]).expect("reads");
        assert_eq!(arguments.server.expect("given").0.to_string(), "public.example:33335");
    }

    #[test]
    fn the_help_is_that_of_the_table_of_options() {
        for side in [options::Side::Server, options::Side::Client] {
            let exit = Arguments::from_args(&["skyorg"], &[side.name(), "--help"]).expect_err("help");
            let help = exit.output.split_whitespace().collect::<Vec<_>>().join(" ");
            for option in options::flags(side) {
                let described = format!("--{} {}", option.name, option.flag_help());
                assert!(help.contains(&described), "{described}\n{}", exit.output);
            }
            // Two spaces and no more stand before an option; further ones continue the line before.
            let is_option = |line: &&str| line.starts_with("  --");
            let shown = exit.output.lines().filter(is_option).count();
            assert_eq!(shown, options::flags(side).count(), "{}", exit.output);
        }
    }

    #[test]
    fn what_is_exposed_has_a_name_a_want_and_a_local_server() {
        let shown = |text: &str| {
            text.parse::<Expose>()
                .map(|it| (it.name.to_string(), it.want, it.local.to_string()))
                .map_err(|bad| bad.to_string())
        };
        let ports = |first, last| Want::Ports(Ports { first, last });
        for (text, name, want, local) in [
            ("3000", "3000", Want::AnyPort, "localhost:3000"),
            ("[::1]:80", "---1--80", Want::AnyPort, "[::1]:80"),
            ("8080=db.lan:3000", "8080", ports(8080, 8080), "db.lan:3000"),
            ("27000-27100=localhost:27000", "27000-27100", ports(27000, 27100), "localhost:27000"),
        ] {
            assert_eq!(shown(text), Ok((name.to_owned(), want, local.to_owned())), "{text}");
        }
        for (text, part) in [
            ("", "the port is missing"),
            ("0=80", "a port or a range"),
            ("9-8=80", "a port or a range"),
            ("80=", "the port is missing"),
            ("80=web", "the port is missing"),
            ("1-100=65437", "wanted 100 local ports up to 65535"),
        ] {
            assert!(shown(text).expect_err(text).contains(part), "{text}");
        }
        assert!("1-100=65436".parse::<Expose>().is_ok());
        let host = "mydb-instance-production-01.c9akciq32rjk.eu-central-1.rds.amazonaws.com";
        let name = |port| shown(&format!("{host}:{port}")).map(|(name, ..)| name);
        let begin = "mydb-instance-production-01.c9akciq32rjk.eu-central-1.rds.a";
        assert_eq!((name(5432), name(80)), (Ok(format!("{begin}-5432")), Ok(format!("{begin}ma-80"))));
    }

    #[test]
    fn help_names_every_option_and_fits_a_terminal() {
        for command in ["server", "client", "check", "status", "keygen", "demo"] {
            let exit = Arguments::from_args(&["skyorg"], &[command, "--help"]).expect_err("help");
            assert_eq!(exit.status, Ok(()));
            assert!(exit.output.starts_with(&format!("Usage: skyorg {command}")), "{}", exit.output);
            assert!(exit.output.lines().all(|line| line.len() <= 80), "{}", exit.output);
        }
    }
}
