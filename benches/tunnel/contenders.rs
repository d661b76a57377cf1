//! The contenders, and how each is started. A contender is a way from the address that users connect to, through
//! processes that can be looked at, to the origin.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use skyorg::config::keys;

use super::line;
use super::load;
use super::process::{CpuTime, Folder, Process, free_port, installed, loopback, output_of};

/// How long a contender may take until a request goes through it.
const READY: Duration = Duration::from_secs(15);
/// Pause between two requests that ask whether it is ready.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// A crowd of clients comes one by one: the server bounds the handshakes that run at once.
const BETWEEN_CLIENTS: Duration = Duration::from_millis(5);
const CLIENTS_READY: Duration = Duration::from_secs(120);
/// A client's control connection, and one message connection.
const CONNECTIONS_PER_CLIENT: usize = 2;
/// How long it may be busy after its turn, and how long it must have done nothing to be at rest.
const BUSY_MAX: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_millis(50);
/// A contender that takes less than this part of a core is at rest.
const REST_LOAD: f64 = 0.02;

/// A program that can carry a user to the origin.
pub struct Contender {
    /// Its name in tables, flags and pictures.
    pub name: &'static str,
    kind: Kind,
}

enum Kind {
    Direct,
    Skyorg { program: PathBuf, plain: bool, threads: Option<&'static str> },
    Haproxy { program: PathBuf, splice: bool },
    Rathole { program: PathBuf, noise: bool },
    Frp { server: PathBuf, client: PathBuf },
    Chisel { program: PathBuf },
}

/// A contender that runs; it ends when this is dropped.
pub struct Running {
    /// Where users connect.
    pub address: SocketAddr,
    /// Its processes; none for the direct way.
    pub processes: Vec<Process>,
    /// The origin and the slow link, which do not count as its own.
    around: Vec<Process>,
    /// Descriptors of the product's server before the first connection.
    server_alone: usize,
}

impl Running {
    /// Adds up a figure over the processes.
    pub fn sum(&self, of: impl Fn(&Process) -> io::Result<f64>) -> io::Result<f64> {
        self.processes.iter().map(of).sum()
    }

    /// How many connections the product's server has, those of users included.
    pub fn connections(&self) -> io::Result<usize> {
        let open = self.processes.first().map_or(Ok(0), Process::descriptors)?;
        Ok(open.saturating_sub(self.server_alone))
    }

    /// CPU time of the users, which are this process, and of the origin.
    pub fn ends_cpu_time(&self) -> io::Result<CpuTime> {
        let users = CpuTime::of(std::process::id())?;
        self.around.iter().map(Process::cpu_time).try_fold(users, |sum, time| Ok(sum + time?))
    }

    /// What the first process that has ended wrote last, if one has.
    fn last_words(&mut self) -> io::Result<Option<String>> {
        for process in &mut self.processes {
            if let Some(words) = process.last_words()? {
                return Ok(Some(words));
            }
        }
        Ok(None)
    }

    /// Waits until it is at rest, so that the next one has the machine to itself. Returns how long it went on being
    /// busy, if it did.
    pub fn calm_down(&self) -> io::Result<Option<Duration>> {
        let began = Instant::now();
        let cpu_seconds = || -> io::Result<f64> {
            self.processes.iter().chain(&self.around).map(Process::cpu_seconds).sum()
        };
        let mut before = cpu_seconds()?;
        loop {
            thread::sleep(REST);
            let after = cpu_seconds()?;
            if after - before < REST.as_secs_f64() * REST_LOAD || began.elapsed() > BUSY_MAX {
                let elapsed = began.elapsed();
                return Ok((elapsed > 4 * REST).then_some(elapsed));
            }
            before = after;
        }
    }
}

/// What a start needs to know.
pub struct Surroundings<'a> {
    /// For keys, configurations and logs.
    pub folder: &'a Folder,
    /// What lies between the two halves.
    pub between: Between,
    /// How many clients and services the product gets.
    pub size: Size,
}

/// What lies between the two halves of a contender.
#[derive(Clone, Copy)]
pub enum Between {
    /// They are on one host.
    Nothing,
    /// A link of this round trip, see [`super::link`].
    Link(Duration),
    /// A line, see [`super::line`]. It is there already.
    Line,
}

impl Between {
    /// Where a server listens for the other half: not at loopback, which no line leads to.
    fn listen(self) -> &'static str {
        if let Between::Line = self { "0.0.0.0:0" } else { "127.0.0.1:0" }
    }
}

/// How large a tunnel is.
#[derive(Clone, Copy)]
pub struct Size {
    /// Client processes that publish every service.
    pub clients: usize,
    /// Client processes that publish a service of their own, which has no users.
    pub bystanders: usize,
    /// Services. Users connect to the last one, which a walk over all of them would find last.
    pub services: usize,
    /// Idle message connections per client; `None` is the product's default.
    pub pool: Option<usize>,
}

impl Size {
    /// What every case but that of growth uses.
    pub const USUAL: Size = Size { clients: 1, bystanders: 0, services: 1, pool: None };
}

/// Every name that `--contenders` knows, in the order of the table.
pub const NAMES: [&str; 15] = [
    "direct",
    "skyorg",
    "skyorg-plain",
    "before",
    "before-plain",
    "tokio",
    "tokio-plain",
    "tokio-multi",
    "tokio-multi-plain",
    "haproxy",
    "haproxy-splice",
    "rathole",
    "rathole-noise",
    "frp",
    "chisel",
];

/// The contenders of these names that are installed; says which are not. `before` is another build of the product to be
/// compared with.
pub fn find(names: &[&'static str], before: Option<&Path>) -> io::Result<Vec<Contender>> {
    let mut tokio = None;
    let mut found = Vec::new();
    for &name in names {
        let skyorg = || PathBuf::from(env!("CARGO_BIN_EXE_skyorg"));
        let kind = match name {
            "direct" => Some(Kind::Direct),
            "skyorg" => Some(Kind::Skyorg { program: skyorg(), plain: false, threads: None }),
            "skyorg-plain" => Some(Kind::Skyorg { program: skyorg(), plain: true, threads: None }),
            "before" | "before-plain" => match before {
                Some(program) => {
                    let plain = name == "before-plain";
                    Some(Kind::Skyorg { program: program.to_owned(), plain, threads: None })
                }
                None => continue,
            },
            "haproxy" | "haproxy-splice" => {
                let splice = name == "haproxy-splice";
                installed("haproxy").map(|program| Kind::Haproxy { program, splice })
            }
            "rathole" | "rathole-noise" => {
                let noise = name == "rathole-noise";
                installed("rathole").map(|program| Kind::Rathole { program, noise })
            }
            "frp" => {
                installed("frps").zip(installed("frpc")).map(|(server, client)| Kind::Frp { server, client })
            }
            "chisel" => installed("chisel").map(|program| Kind::Chisel { program }),
            _ => {
                if tokio.is_none() {
                    tokio = Some(build_tokio()?);
                }
                let threads = Some(if name.contains("multi") { "multi" } else { "current" });
                tokio.clone().map(|program| Kind::Skyorg { program, plain: name.ends_with("plain"), threads })
            }
        };
        match kind {
            Some(kind) => found.push(Contender { name, kind }),
            None => eprintln!("{name} is left out: it is not installed"),
        }
    }
    Ok(found)
}

/// Has the tokio version built with the product's own profile, and finds it beside the product.
fn build_tokio() -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let arguments = ["build", "--release", "--example", "tokio_tunnel", "--manifest-path", manifest];
    let mut build = Command::new(cargo);
    build.args(arguments);
    // Cargo sets these for the benchmark. Dependencies that look at them would be built again.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    let status = build.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("building the tokio version failed: {status}")));
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_skyorg")).parent().unwrap_or(Path::new("."));
    Ok(folder.join("examples/tokio_tunnel"))
}

/// Whether a variable of the environment tells of the package that cargo runs.
fn is_of_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

impl Contender {
    /// Whether nothing is between the user and the origin.
    pub fn is_direct(&self) -> bool {
        matches!(self.kind, Kind::Direct)
    }

    /// Whether it is a build of the product.
    pub fn is_product(&self) -> bool {
        matches!(self.kind, Kind::Skyorg { threads: None, .. })
    }

    /// Starts it, and waits until a request went through.
    pub fn start(&self, around: &Surroundings) -> io::Result<Running> {
        let mut origin = Process::helper(&["origin"], around.folder.file("origin.log"))?;
        let to = origin.address_after("listening ")?;
        let mut running = match &self.kind {
            Kind::Direct => {
                let (address, links) = link(around, to)?;
                Ok(Running { address, processes: Vec::new(), around: links, server_alone: 0 })
            }
            Kind::Skyorg { program, plain, threads } => start_skyorg(around, to, program, *plain, *threads),
            Kind::Haproxy { program, splice } => start_haproxy(around, to, program, *splice),
            Kind::Rathole { program, noise } => start_rathole(around, to, program, *noise),
            Kind::Frp { server, client } => start_frp(around, to, server, client),
            Kind::Chisel { program } => start_chisel(around, to, program),
        }?;
        running.around.push(origin);
        let deadline = Instant::now() + READY;
        while let Err(error) = load::ask_once(running.address) {
            if let Some(words) = running.last_words()? {
                return Err(io::Error::other(format!("{} has ended: {words}", self.name)));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(error.kind(), format!("{} does not work: {error}", self.name)));
            }
            thread::sleep(ASK_AGAIN);
        }
        Ok(running)
    }
}

/// The address that leads to `to`, over the link or the line if there is one.
fn link(around: &Surroundings, to: SocketAddr) -> io::Result<(SocketAddr, Vec<Process>)> {
    let round_trip = match around.between {
        Between::Nothing => return Ok((to, Vec::new())),
        Between::Line => return Ok((line::over(to), Vec::new())),
        Between::Link(round_trip) => round_trip,
    };
    let milliseconds = round_trip.as_millis().to_string();
    let arguments = ["link", &to.to_string(), &milliseconds];
    let mut process = Process::helper(&arguments, around.folder.file("link.log"))?;
    Ok((process.address_after("listening ")?, vec![process]))
}

fn start_skyorg(
    around: &Surroundings,
    origin: SocketAddr,
    program: &Path,
    plain: bool,
    threads: Option<&str>,
) -> io::Result<Running> {
    let folder = around.folder;
    let key = "bench".parse().ok().and_then(|name| keys::generate(name).ok());
    let key = key.ok_or_else(|| io::Error::other("no random bytes for a key"))?;
    let keys = folder.write_secret("key", &keys::line(&key))?;
    let keys = keys.display().to_string();
    let mut common = Vec::new();
    common.extend(plain.then_some("--plain"));
    common.extend(threads.into_iter().flat_map(|threads| ["--threads", threads]));

    let (any, here) = ("0.0.0.0:0", around.between.listen());
    let size = around.size;
    let (pool, others, last) = (size.pool.map(|pool| pool.to_string()), 1..size.services, size.services - 1);
    let mut arguments =
        vec!["server", "--request", any, "--message", here, "--control", here, "--keys", &keys];
    arguments.extend(pool.iter().flat_map(|pool| ["--pool", pool.as_str()]));
    let place = |number| format!("s{number}={}", if number == last { any } else { here });
    let services: Vec<String> = others.clone().map(place).collect();
    arguments.extend(services.iter().flat_map(|service| ["--service", service.as_str()]));
    let unused = format!("unused={here}");
    arguments.extend((size.bystanders > 0).then_some(["--service", &unused]).into_iter().flatten());
    arguments.extend(&common);
    let mut server = Process::start(program, &arguments, folder.file("server.log"))?;
    let name = if last == 0 { String::new() } else { format!("s{last}: ") };
    let address = server.address_after(&format!("{name}users connect to "))?;
    let (message, mut links) = link(around, server.address_after("message connections: ")?)?;
    let (control, more) = link(around, server.address_after("control connections: ")?)?;
    links.extend(more);

    let (control, message, origin) = (control.to_string(), message.to_string(), origin.to_string());
    let mut base = vec!["client", "--server", &control, "--message", &message, "--key", &keys];
    base.extend(&common);
    let services: Vec<String> = others.map(|number| format!("s{number}={origin}")).collect();
    let mut serves = [&base[..], &["--local", &origin]].concat();
    serves.extend(services.iter().flat_map(|service| ["--publish", service.as_str()]));
    let unused = format!("unused={origin}");
    let stands_by = [&base[..], &["--publish", &unused]].concat();

    let server_alone = server.descriptors()?;
    let mut running = Running { address, processes: vec![server], around: links, server_alone };
    let clients = size.clients + size.bystanders;
    for number in 0..clients {
        let arguments = if number < size.clients { &serves } else { &stands_by };
        running.processes.push(Process::start(program, arguments, folder.file("client.log"))?);
        if clients > 1 {
            thread::sleep(BETWEEN_CLIENTS);
        }
    }
    if clients > 1 {
        wait_for_clients(&mut running, CONNECTIONS_PER_CLIENT * clients)?;
    }
    Ok(running)
}

/// Waits until the server has so many connections: each client has brought its control connection and a message
/// connection.
fn wait_for_clients(running: &mut Running, wanted: usize) -> io::Result<()> {
    let deadline = Instant::now() + CLIENTS_READY;
    loop {
        let open = running.connections()?;
        if open >= wanted {
            return Ok(());
        }
        if let Some(words) = running.last_words()? {
            return Err(io::Error::other(words));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the server has {open} connections instead of {wanted}")));
        }
        thread::sleep(REST);
    }
}

/// Two chained TCP hops, one thread each: a proxy in C on the same way.
fn start_haproxy(
    around: &Surroundings,
    origin: SocketAddr,
    program: &Path,
    splice: bool,
) -> io::Result<Running> {
    let hop = |to: SocketAddr| -> io::Result<(SocketAddr, Process)> {
        let here = loopback(free_port()?);
        // `splice-auto` would decide against it.
        let splices = ("maxpipes 500", "option splice-request\n  option splice-response");
        let (global, option) = if splice { splices } else { ("nosplice", "") };
        let text = format!(
            "global\n  nbthread 1\n  maxconn 8500\n  {global}\n\
             defaults\n  mode tcp\n  {option}\n  maxconn 8500\n  backlog 4096\n\
             \x20 timeout connect 10s\n  timeout client 10m\n  timeout server 10m\n\
             listen hop\n  bind :{}\n  server next {to}\n",
            here.port()
        );
        let config = around.folder.write("haproxy.cfg", &text)?.display().to_string();
        let log = around.folder.file("haproxy.log");
        Ok((here, Process::start(program, &["-db", "-f", &config], log)?))
    };
    let (inner, second) = hop(origin)?;
    let (inner, links) = link(around, inner)?;
    let (address, first) = hop(inner)?;
    Ok(Running { address, processes: vec![first, second], around: links, server_alone: 0 })
}

fn start_rathole(
    around: &Surroundings,
    origin: SocketAddr,
    program: &Path,
    noise: bool,
) -> io::Result<Running> {
    let folder = around.folder;
    let (address, tunnel) = (loopback(free_port()?), loopback(free_port()?));
    let (mut of_server, mut of_client) = (String::new(), String::new());
    if noise {
        let keys = output_of(program, &["--genkey"])?;
        let after = |title: &str| {
            let at = keys.iter().position(|line| line.starts_with(title));
            at.and_then(|at| keys.get(at + 1)).cloned().unwrap_or_default()
        };
        let (private, public) = (after("Private Key"), after("Public Key"));
        let transport = |side: &str, key: String| {
            format!("[{side}.transport]\ntype = \"noise\"\n[{side}.transport.noise]\n{key}\n")
        };
        of_server = transport("server", format!("local_private_key = \"{private}\""));
        of_client = transport("client", format!("remote_public_key = \"{public}\""));
    }
    let text = format!(
        "[server]\nbind_addr = \"0.0.0.0:{}\"\ndefault_token = \"bench\"\n{of_server}\
         [server.services.bench]\nbind_addr = \"0.0.0.0:{}\"\n",
        tunnel.port(),
        address.port()
    );
    let config = folder.write("server.toml", &text)?.display().to_string();
    let server = Process::start(program, &["--server", &config], folder.file("rathole.log"))?;
    let (remote, links) = link(around, tunnel)?;
    let text = format!(
        "[client]\nremote_addr = \"{remote}\"\ndefault_token = \"bench\"\n{of_client}\
         [client.services.bench]\nlocal_addr = \"{origin}\"\n"
    );
    let config = folder.write("client.toml", &text)?.display().to_string();
    let client = Process::start(program, &["--client", &config], folder.file("rathole.log"))?;
    Ok(Running { address, processes: vec![server, client], around: links, server_alone: 0 })
}

/// One TCP connection between its halves carries all users, as is its default.
fn start_frp(around: &Surroundings, origin: SocketAddr, server: &Path, client: &Path) -> io::Result<Running> {
    let folder = around.folder;
    let (address, tunnel) = (loopback(free_port()?), loopback(free_port()?));
    let text = format!("bindPort = {}\nauth.token = \"bench\"\n", tunnel.port());
    let config = folder.write("frps.toml", &text)?.display().to_string();
    let server = Process::start(server, &["-c", &config], folder.file("frps.log"))?;
    let (remote, links) = link(around, tunnel)?;
    let text = format!(
        "serverAddr = \"{}\"\nserverPort = {}\nauth.token = \"bench\"\n\
         [[proxies]]\nname = \"bench\"\ntype = \"tcp\"\nlocalIP = \"{}\"\nlocalPort = {}\nremotePort = {}\n",
        remote.ip(),
        remote.port(),
        origin.ip(),
        origin.port(),
        address.port()
    );
    let config = folder.write("frpc.toml", &text)?.display().to_string();
    let client = Process::start(client, &["-c", &config], folder.file("frpc.log"))?;
    Ok(Running { address, processes: vec![server, client], around: links, server_alone: 0 })
}

/// SSH over a WebSocket: one TCP connection between its halves carries all users.
fn start_chisel(around: &Surroundings, origin: SocketAddr, program: &Path) -> io::Result<Running> {
    let folder = around.folder;
    let (address, tunnel) = (loopback(free_port()?), loopback(free_port()?));
    let port = tunnel.port().to_string();
    let arguments = ["server", "--reverse", "--host", "0.0.0.0", "--port", &port];
    let server = Process::start(program, &arguments, folder.file("chisel.log"))?;
    let (remote, links) = link(around, tunnel)?;
    let way = format!("R:0.0.0.0:{}:{origin}", address.port());
    let client = Process::start(program, &["client", &remote.to_string(), &way], folder.file("chisel.log"))?;
    Ok(Running { address, processes: vec![server, client], around: links, server_alone: 0 })
}
