//! A server and a client as processes of their own, for tests that look at them from outside.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

pub mod load;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skyorg::config::keys;

/// Longest wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One of the two, and what it logs.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(arguments: &[&str]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_skyorg"))
            .args(arguments)
            .env_remove("SKYORG_KEY")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        // It reads to the end, so that the child is never blocked by its log.
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Process { child, lines }
    }

    /// What follows `text` on the next line that has it.
    fn wait_for(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line '{text}'"));
            if let Some((_, rest)) = line.split_once(text) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that are its own and resident: heap, stacks and written data, not the kernel's buffers and
    /// not the pages of its file (proc(5), `smaps_rollup`).
    pub fn anonymous_bytes(&self) -> usize {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(path).expect("the child lives");
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|kib| kib.parse().ok());
        kib.map(|kib: usize| kib * 1024).expect("a size in kB")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let unusual = self.lines.iter().filter(|line| !line.ends_with(", finished"));
            unusual.take(40).for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// Both, with the client admitted.
pub struct Pair {
    pub server: Process,
    pub client: Process,
    /// Where users connect.
    pub request: SocketAddr,
    folder: PathBuf,
}

impl Pair {
    /// Starts both before `local`, with these arguments beside the usual ones.
    pub fn start(local: SocketAddr, arguments: &[&str]) -> Pair {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skyorg-pair-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).expect("a new folder");
        let key = folder.join("key");
        let made = keys::generate("default".parse().expect("a name")).expect("random bytes");
        fs::write(&key, keys::line(&made).as_bytes()).expect("the folder can be written to");
        let key = key.to_str().expect("a plain name");
        let free = "127.0.0.1:0";
        let server = ["server", "--request", free, "--message", free, "--control", free, "--keys", key];
        let server = Process::start(&[&server, arguments].concat());
        let request = server.wait_for("service default: users connect to ").parse().expect("an address");
        let control = server.wait_for("control connections: ");
        let local = local.to_string();
        let client = ["client", "--server", &control, "--local", &local, "--key", key];
        let client = Process::start(&[&client, arguments].concat());
        client.wait_for("service default: users of port ");
        Pair { server, client, request, folder }
    }

    /// What both have of their own.
    pub fn anonymous_bytes(&self) -> usize {
        self.server.anonymous_bytes() + self.client.anonymous_bytes()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Lets this process have as many file descriptors as it may.
pub fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}
