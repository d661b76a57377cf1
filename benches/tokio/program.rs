//! `tokio_tunnel`: skyorg's server and client on tokio, for the benchmark.
//!
//! It has the same wire, the same sessions and the same machines as the product, and the machines decide
//! everything. Only the code that moves the bytes is different. It takes the flags that the benchmark needs, and logs
//! what `skyorg` logs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use log::LevelFilter;
use simplelog::{ConfigBuilder, WriteLogger};
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::name::Name;
use skyorg::config::keys;
use skyorg::config::limits::Limits;
use skyorg::config::{ClientConfig, Policies, Publication, ServerConfig, Service};
use tokio::runtime::{Builder, Runtime};

mod control;
mod hub;
mod local;
mod relay;
mod scratch;
mod sockets;
mod start;

/// The tunnel on tokio.
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Server(ServerArguments),
    Client(ClientArguments),
}

/// The public half.
#[derive(FromArgs)]
#[argh(subcommand, name = "server")]
struct ServerArguments {
    /// where users connect
    #[argh(option)]
    request: SocketAddr,
    /// where clients bring message connections
    #[argh(option)]
    message: SocketAddr,
    /// where clients bring control connections
    #[argh(option)]
    control: SocketAddr,
    /// key file
    #[argh(option)]
    keys: PathBuf,
    /// do not seal payload
    #[argh(switch)]
    plain: bool,
    /// current or multi
    #[argh(option)]
    threads: String,
}

/// The private half.
#[derive(FromArgs)]
#[argh(subcommand, name = "client")]
struct ClientArguments {
    /// the server's control port
    #[argh(option)]
    server: SocketAddr,
    /// the server's message port
    #[argh(option)]
    message: Option<SocketAddr>,
    /// the local server
    #[argh(option)]
    local: SocketAddr,
    /// key file
    #[argh(option)]
    key: PathBuf,
    /// do not seal payload
    #[argh(switch)]
    plain: bool,
    /// current or multi
    #[argh(option)]
    threads: String,
}

fn main() -> ExitCode {
    let mut config = ConfigBuilder::new();
    config.set_thread_level(LevelFilter::Off).set_location_level(LevelFilter::Off).set_time_format_rfc3339();
    // It fails only if a logger is set already, and that one serves as well.
    let _ = WriteLogger::init(LevelFilter::Info, config.build(), io::LineWriter::new(io::stderr()));
    let arguments: Arguments = argh::from_env();
    let outcome = match arguments.command {
        Command::Server(arguments) => serve(arguments),
        Command::Client(arguments) => connect(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokio_tunnel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: &str) -> io::Result<Runtime> {
    match threads {
        "multi" => Builder::new_multi_thread().enable_all().build(),
        _ => Builder::new_current_thread().enable_all().build(),
    }
}

fn service() -> io::Result<Name> {
    "default".parse().map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn serve(arguments: ServerArguments) -> io::Result<()> {
    let found =
        keys::server_keys(Some(&arguments.keys)).map_err(|error| io::Error::other(error.to_string()))?;
    let config = ServerConfig {
        services: vec![Service::new(service()?, Listen::At(arguments.request))],
        policies: Policies::default(),
        message: Listen::At(arguments.message),
        control: Listen::At(arguments.control),
        keys: found.keys,
        plain: arguments.plain,
        limits: Limits::default(),
    };
    runtime(&arguments.threads)?.block_on(async { start::Server::bind(config)?.run().await })
}

fn connect(arguments: ClientArguments) -> io::Result<()> {
    let found =
        keys::client_key(Some(&arguments.key), None).map_err(|error| io::Error::other(error.to_string()))?;
    let host_port =
        |address: SocketAddr| HostPort { host: address.ip().to_string().into(), port: address.port() };
    let config = ClientConfig {
        server: host_port(arguments.server),
        message: arguments.message.map(host_port),
        publications: vec![Publication::of_service(service()?, host_port(arguments.local))],
        key: found.key,
        plain: arguments.plain,
        limits: Limits::default(),
    };
    runtime(&arguments.threads)?.block_on(start::run_client(config))
}
