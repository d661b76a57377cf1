//! What the end-to-end tests share: the real binary as child processes, local servers and users.
//!
//! Everything listens on loopback at port 0. Nothing sleeps: a test waits for a log line, a record or a byte, each
//! by a deadline. Children are killed by their id when a test ends, and show their logs if it failed.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod json_line;
pub mod own_network;
pub mod relay;
mod streams;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use skyorg::config::keys;
use skyorg::config::limits::Limits;

pub use streams::*;

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test.
pub const SKYORG: &str = env!("CARGO_BIN_EXE_skyorg");

/// How message connections carry payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Sealed,
    Plain,
}

/// Both modes: a rule of the tunnel must hold in each.
pub const MODES: [Mode; 2] = [Mode::Sealed, Mode::Plain];

/// Which program both ends of a tunnel run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Skyorg,
    /// The benchmark's baseline (benches/tokio) on this runtime, `current` or `multi`.
    Tokio(&'static str),
}

impl Program {
    /// Its path, and the arguments that it gets beside those of skyorg.
    fn command(self) -> (PathBuf, Vec<&'static str>) {
        match self {
            Program::Skyorg => (SKYORG.into(), Vec::new()),
            Program::Tokio(threads) => {
                // Cargo builds examples before it runs all tests, and not before it runs one.
                let path = PathBuf::from(SKYORG).with_file_name("examples").join("tokio_tunnel");
                assert!(path.exists(), "cargo build --example tokio_tunnel makes {}", path.display());
                (path, vec!["--threads", threads])
            }
        }
    }
}

/// A growing list that others wait for.
pub struct Records<T> {
    entries: Mutex<Vec<T>>,
    grown: Condvar,
}

impl<T: Clone> Records<T> {
    pub fn new() -> Arc<Records<T>> {
        Arc::new(Records { entries: Mutex::new(Vec::new()), grown: Condvar::new() })
    }

    pub fn push(&self, entry: T) {
        self.entries.lock().expect("no holder panics").push(entry);
        self.grown.notify_all();
    }

    pub fn all(&self) -> Vec<T> {
        self.entries.lock().expect("no holder panics").clone()
    }

    /// Waits until `wanted` finds what it looks for.
    pub fn find<R>(&self, patience: Duration, mut wanted: impl FnMut(&[T]) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + patience;
        let mut entries = self.entries.lock().expect("no holder panics");
        loop {
            if let Some(found) = wanted(&entries) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            entries = self.grown.wait_timeout(entries, left).expect("no holder panics").0;
        }
    }

    /// Waits for `count` entries and returns them all.
    pub fn wait(&self, count: usize) -> Vec<T> {
        let found = self.find(PATIENCE, |entries| (entries.len() >= count).then(|| entries.to_vec()));
        found.unwrap_or_else(|| panic!("only {} of {count} records came", self.all().len()))
    }
}

/// A folder of its own for each test, removed at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skyorg-e2e-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    /// The path of a file in it, as an argument.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a temporary folder with a plain name").to_owned()
    }

    /// Writes a key file with a new key, and returns its path.
    pub fn key(&self) -> String {
        let key = keys::generate("default".parse().expect("a name")).expect("random bytes");
        self.secret("key", &keys::line(&key))
    }

    /// Writes a file that only its owner may read, and returns its path.
    pub fn secret(&self, name: &str, text: &str) -> String {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// Writes a file, and returns its path.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), text).expect("the folder can be written to");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A child process whose standard error is kept, line by line.
pub struct Process {
    child: Child,
    what: String,
    log: Arc<Records<String>>,
}

impl Process {
    pub fn start(what: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Process::start_with(what, command)
    }

    /// The same, with the standard input and output that the command has.
    pub fn start_with(what: &str, mut command: Command) -> Process {
        command.stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what} does not start: {error}"));
        let (log, stderr) = (Records::new(), child.stderr.take().expect("it is piped"));
        let lines = log.clone();
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| lines.push(line));
        });
        Process { child, what: what.to_owned(), log }
    }

    /// skyorg with these arguments, and with no key but those that it is shown.
    pub fn skyorg(arguments: &[&str], descriptors: Option<u32>) -> Process {
        Process::program(Program::Skyorg, arguments, descriptors)
    }

    fn program(program: Program, arguments: &[&str], descriptors: Option<u32>) -> Process {
        let (path, more) = program.command();
        let mut command = match descriptors {
            None => Command::new(path),
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\"")]).arg(path);
                shell
            }
        };
        command.args(arguments).args(more).env_remove("SKYORG_KEY");
        // No socket but one that is named: many processes run at once.
        command.env_remove("RUNTIME_DIRECTORY").env("XDG_RUNTIME_DIR", "/nonexistent");
        Process::start(&format!("{program:?} {}", arguments.join(" ")), command)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the child is ours and not reaped");
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the first line that contains `text`.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_within(text, PATIENCE).unwrap_or_else(|| panic!("no line '{text}' of {}", self.what))
    }

    pub fn wait_within(&self, text: &str, patience: Duration) -> Option<String> {
        self.log.find(patience, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// Waits for `count` lines that contain `text`.
    pub fn wait_for_count(&self, text: &str, count: usize) -> Vec<String> {
        let found = self.log.find(PATIENCE, |lines| {
            let found: Vec<String> = lines.iter().filter(|line| line.contains(text)).cloned().collect();
            (found.len() >= count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("not {count} lines '{text}' of {}", self.what))
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.all()
    }

    /// What follows `text` on its line, as an address.
    pub fn address(&self, text: &str) -> SocketAddr {
        let line = self.wait_for(text);
        let address = line.split(text).nth(1).and_then(|rest| rest.trim().parse().ok());
        address.unwrap_or_else(|| panic!("no address in '{line}'"))
    }

    /// Waits for something that no log line tells.
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{}: not so in time: {what}", self.what);
            measure(Duration::from_millis(1));
        }
    }

    /// Waits for the process to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.ended_within(PATIENCE).unwrap_or_else(|| panic!("{} does not end", self.what))
    }

    pub fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        // Its standard error is closed at its end; then waiting is short.
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return Some(status);
            }
            measure(Duration::from_millis(5));
        }
        None
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Processor time used so far, in ticks of 10 ms (proc(5), `/proc/pid/stat`).
    pub fn ticks(&self) -> u64 {
        let text = self.proc("stat");
        let fields: Vec<&str> = text.rsplit(") ").next().expect("a name in brackets").split(' ').collect();
        [11, 12].iter().map(|&place| fields[place].parse::<u64>().expect("utime and stime")).sum()
    }

    /// How often the loop has slept so far (proc(5), `/proc/pid/status`).
    pub fn wake_ups(&self) -> u64 {
        let text = self.proc("status");
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a count of context switches")
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("the child lives")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let mut text = format!("--- {}\n", self.what);
            let mut lines = self.log.all();
            if lines.len() > 60 {
                // Lines of sessions that ended well help least.
                lines.retain(|line| !line.ends_with(", finished"));
            }
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                let _ = writeln!(text, "    {line}");
            }
            eprint!("{text}");
        }
    }
}

/// Lets a window of measurement pass. A test that waits for something uses a deadline instead.
pub fn measure(window: Duration) {
    thread::sleep(window); // paces: the window itself is what is measured
}

/// How a tunnel is to be started.
pub struct Setup {
    program: Program,
    mode: Mode,
    server: Vec<String>,
    client: Vec<String>,
    descriptors: Option<u32>,
    relays: bool,
}

impl Setup {
    pub fn new(mode: Mode) -> Setup {
        let (server, client) = (Vec::new(), Vec::new());
        Setup { program: Program::Skyorg, mode, server, client, descriptors: None, relays: false }
    }

    pub fn program(mut self, program: Program) -> Setup {
        self.program = program;
        self
    }

    pub fn server(mut self, arguments: &[&str]) -> Setup {
        self.server.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    pub fn client(mut self, arguments: &[&str]) -> Setup {
        self.client.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// `ulimit -n` for both processes.
    pub fn descriptors(mut self, count: u32) -> Setup {
        self.descriptors = Some(count);
        self
    }

    /// Puts a relay before the control port, and another before the message port.
    pub fn relayed(mut self) -> Setup {
        self.relays = true;
        self
    }

    /// Starts everything, and waits until the client is admitted.
    pub fn start(self, local: SocketAddr) -> Tunnel {
        self.start_named(&local.to_string())
    }

    pub fn start_named(self, local: &str) -> Tunnel {
        let folder = Folder::new();
        let key = folder.key();
        let server = start_server(&self, &key);
        let users = server.address("service default: users connect to ");
        let message = server.address("message connections: ");
        let control = server.address("control connections: ");
        let relays =
            self.relays.then(|| Relays { control: relay::start(control), message: relay::start(message) });
        let mut tunnel = Tunnel {
            client: None,
            server,
            users,
            message,
            control,
            relays,
            key,
            setup: self,
            local: local.to_owned(),
            folder,
        };
        tunnel.start_client();
        tunnel
    }
}

fn start_server(setup: &Setup, key: &str) -> Process {
    start_server_at(setup, key, &["127.0.0.1:0"; 3])
}

/// A server at these addresses for users, message and control connections.
fn start_server_at(setup: &Setup, key: &str, addresses: &[&str; 3]) -> Process {
    let mut arguments = vec!["server", "--keys", key];
    for (port, address) in ["--request", "--message", "--control"].into_iter().zip(addresses) {
        arguments.extend([port, address]);
    }
    if setup.mode == Mode::Plain {
        arguments.push("--plain");
    }
    arguments.extend(setup.server.iter().map(String::as_str));
    Process::program(setup.program, &arguments, setup.descriptors)
}

/// The relays between the client and the server's two ports.
pub struct Relays {
    pub control: relay::Relay,
    pub message: relay::Relay,
}

/// A server and a client.
pub struct Tunnel {
    pub client: Option<Process>,
    pub server: Process,
    /// Where users connect.
    pub users: SocketAddr,
    pub message: SocketAddr,
    pub control: SocketAddr,
    pub relays: Option<Relays>,
    pub key: String,
    setup: Setup,
    local: String,
    pub folder: Folder,
}

impl Tunnel {
    pub fn start(mode: Mode, local: SocketAddr) -> Tunnel {
        Setup::new(mode).start(local)
    }

    /// Starts a client, and waits until it is admitted. One that runs is killed first.
    pub fn start_client(&mut self) {
        self.client = None;
        let (message, server) = match &self.relays {
            Some(relays) => (Some(relays.message.address.to_string()), relays.control.address.to_string()),
            None => (None, self.control.to_string()),
        };
        let mut arguments = vec!["client", "--server", &server, "--local", &self.local, "--key", &self.key];
        if self.setup.mode == Mode::Plain {
            arguments.push("--plain");
        }
        if let Some(message) = &message {
            arguments.extend(["--message", message]);
        }
        arguments.extend(self.setup.client.iter().map(String::as_str));
        let client = Process::program(self.setup.program, &arguments, self.setup.descriptors);
        client.wait_for("service default: users of port");
        self.client = Some(client);
    }

    /// Kills the server and starts another, to which the relays lead from now on.
    pub fn restart_server(&mut self) {
        self.server.kill();
        self.server = start_server(&self.setup, &self.key);
        self.users = self.server.address("service default: users connect to ");
        self.message = self.server.address("message connections: ");
        self.control = self.server.address("control connections: ");
        let relays = self.relays.as_ref().expect("a server that is restarted is behind relays");
        relays.control.lead_to(self.control);
        relays.message.lead_to(self.message);
    }

    /// Asks the server to end, and starts another at the same addresses as soon as they are free. Returns the old one,
    /// and when the new one listened.
    pub fn succeed_server(&mut self) -> (Process, Instant) {
        self.server.signal(Signal::TERM);
        self.server.wait_for("draining");
        let addresses = [self.users, self.message, self.control].map(|address| address.to_string());
        let server = start_server_at(&self.setup, &self.key, &addresses.each_ref().map(String::as_str));
        server.wait_for("control connections: ");
        (std::mem::replace(&mut self.server, server), Instant::now())
    }

    /// Lets the link grow so old that a drain of the server is no refusal.
    pub fn outlive_a_sudden_drain(&self) {
        measure(Limits::default().drain_sudden);
    }

    pub fn client(&mut self) -> &mut Process {
        self.client.as_mut().expect("a client runs")
    }

    pub fn relay(&self) -> &relay::Relay {
        &self.relays.as_ref().expect("started with relays").message
    }

    pub fn control_relay(&self) -> &relay::Relay {
        &self.relays.as_ref().expect("started with relays").control
    }

    /// Where the local server is.
    pub fn local(&self) -> String {
        self.local.clone()
    }

    /// A user.
    pub fn user(&self) -> TcpStream {
        connect(self.users)
    }
}
