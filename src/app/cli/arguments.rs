//! What may be typed: argh's description of every command, and the values of its options.
//!
//! A value that parses is good on its own; whether the values of one command fit together is decided by
//! [`super`].

use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::str::FromStr;

use argh::FromArgs;
use log::LevelFilter;

use super::{CONTROL_PORT, MESSAGE_PORT};
use crate::base::address::{BadAddress, HostPort, Listen, Zoned};
use crate::base::name::{BadName, Name};

/// Makes a server in a private network reachable at a port of a public host.
#[derive(FromArgs, Debug)]
#[argh(
    usage = "server|client|keygen|demo [<options>]",
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
    /// FILE with one 'NAME SECRET' per line [default: ~/.config/skyorg/key, made if it is missing]
    #[argh(option)]
    pub(super) keys: Option<PathBuf>,
    /// idle message connections kept ready per client, 1 to 1000 [default: 10]
    #[argh(option)]
    pub(super) pool: Option<Within<1, 1_000>>,
    /// do not seal payload on message connections, for traffic that is encrypted already; both sides must
    /// say so
    #[argh(switch)]
    pub(super) plain: bool,
    /// seconds of silence after which a client is given up, 2 to 3600 [default: 30]
    #[argh(option)]
    pub(super) heartbeat: Option<Within<2, 3_600>>,
    /// seconds that running sessions get to finish after SIGTERM or SIGINT, 0 to 86400 [default: 5]
    #[argh(option)]
    pub(super) drain: Option<Within<0, 86_400>>,
    /// users served at once, 1 to 1000000 [default: 10000]
    #[argh(option)]
    pub(super) max_users: Option<Within<1, 1_000_000>>,
    /// least serious lines to log: off, error, warn, info, debug or trace [default: info]
    #[argh(option, default = "LevelFilter::Info", from_str_fn(log_level))]
    pub(super) log_level: LevelFilter,
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
    note = "ADDR is HOST:PORT, [IPv6]:PORT, or PORT for localhost.\n\
        The key: SKYORG_KEY may hold its line 'NAME SECRET' instead; a file is safer."
)]
pub(super) struct ClientArguments {
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
    /// FILE with the key, the first line 'NAME SECRET' of it [default: ~/.config/skyorg/key]
    #[argh(option)]
    pub(super) key: Option<PathBuf>,
    /// do not seal payload on message connections, for traffic that is encrypted already; both sides must
    /// say so
    #[argh(switch)]
    pub(super) plain: bool,
    /// seconds of silence after which the server is given up, 2 to 3600 [default: 30]
    #[argh(option)]
    pub(super) heartbeat: Option<Within<2, 3_600>>,
    /// seconds that running sessions get to finish after SIGTERM or SIGINT, 0 to 86400 [default: 5]
    #[argh(option)]
    pub(super) drain: Option<Within<0, 86_400>>,
    /// least serious lines to log: off, error, warn, info, debug or trace [default: info]
    #[argh(option, default = "LevelFilter::Info", from_str_fn(log_level))]
    pub(super) log_level: LevelFilter,
    /// FILE to append the log to, instead of standard error
    #[argh(option)]
    pub(super) log_file: Option<PathBuf>,
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
        let Some(Zoned { host, port }) = Zoned::parse(text) else { return text.parse() };
        // No name server is asked: it is a number, and the system looks up its interface (getaddrinfo(3)).
        let found = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
        found.map(Listen::At).ok_or(BadAddress::Zone)
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

/// What is wrong with an option's value; argh says which option and which value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadValue {
    Number(u32, u32),
    Level,
    NoName(&'static str),
    Name(BadName),
    Address(BadAddress),
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(least, most) => write!(f, "wanted a whole number from {least} to {most}"),
            Self::Level => f.write_str("wanted off, error, warn, info, debug or trace"),
            Self::NoName(example) => write!(f, "wanted NAME=ADDR, such as {example}"),
            Self::Name(error) => write!(f, "{error}"),
            Self::Address(error) => write!(f, "behind NAME=, {error}"),
        }
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    Listen::read(text).map_err(|error| error.to_string())
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| BadValue::Level.to_string())
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
            assert_eq!(server(&["--log-level", text]).expect(text).log_level, level);
        }
        assert!(client(&["--log-level", "loud"]).expect_err("no level").output.contains("debug or trace"));
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let arguments = server(&[]).expect("nothing is required");
        assert_eq!((arguments.message, arguments.control), (Listen::Any(33334), Listen::Any(33335)));
        assert_eq!(arguments.log_level, LevelFilter::Info);
        let arguments = client(&["--server", "public.example"]).expect("reads");
        assert_eq!(arguments.server.expect("given").0.to_string(), "public.example:33335");
    }

    #[test]
    fn help_names_every_option_and_fits_a_terminal() {
        for command in ["server", "client", "keygen", "demo"] {
            let exit = Arguments::from_args(&["skyorg"], &[command, "--help"]).expect_err("help");
            assert_eq!(exit.status, Ok(()));
            assert!(exit.output.starts_with(&format!("Usage: skyorg {command}")), "{}", exit.output);
            assert!(exit.output.lines().all(|line| line.len() <= 80), "{}", exit.output);
        }
    }
}
