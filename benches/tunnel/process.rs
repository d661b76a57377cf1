//! Processes that the benchmark starts, ends and looks at.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::{Add, Sub};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// How long a process may take until it says where it listens.
const READY: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What proc_pid_stat(5) counts in: sysconf(_SC_CLK_TCK), which is 100 on every architecture that we run on.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;
/// Below this sampled time, in seconds, the division into user-space and kernel is a guess.
const SAMPLED_MIN: f64 = 0.5;

/// A folder for key files, configurations and logs.
pub struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// The folder that was asked for, which is kept, or one that is removed at the end.
    pub fn new(wanted: Option<&Path>) -> io::Result<Folder> {
        let own = || std::env::temp_dir().join(format!("skyorg-bench-{}", std::process::id()));
        let path = wanted.map_or_else(own, Path::to_owned);
        fs::create_dir_all(&path)?;
        Ok(Folder { path, kept: wanted.is_some() })
    }

    /// A new file name in it.
    pub fn file(&self, name: &str) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        self.path.join(format!("{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Writes a new file that only its owner may read; returns its path.
    pub fn write_secret(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.file(name);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }

    /// Writes a new file; returns its path.
    pub fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A running process; it ends when this is dropped. Its output goes to a file, so that no pipe must be drained.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program.
    pub fn start(program: &Path, arguments: &[&str], log: PathBuf) -> io::Result<Process> {
        let file = File::create(&log)?;
        let child = Command::new(program)
            .args(arguments)
            // A helper ends when this pipe does.
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        Ok(Process { child, log })
    }

    /// Starts this very program as one of its helpers.
    pub fn helper(arguments: &[&str], log: PathBuf) -> io::Result<Process> {
        Process::start(&std::env::current_exe()?, arguments, log)
    }

    /// Waits for a log line that holds `text` and then an address; returns the address of loopback with its port.
    pub fn address_after(&mut self, text: &str) -> io::Result<SocketAddr> {
        let deadline = Instant::now() + READY;
        loop {
            let log = fs::read_to_string(&self.log)?;
            let found = log.lines().filter_map(|line| Some(line.split_once(text)?.1.trim()));
            if let Some(address) = found.filter_map(|word| word.parse::<SocketAddr>().ok()).next() {
                return Ok(loopback(address.port()));
            }
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                let error = format!("process {} did not say '{text}': {log}", self.child.id());
                return Err(io::Error::other(error));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// CPU time of its threads so far, in seconds: user-space and kernel together.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        cpu_seconds(self.child.id())
    }

    /// Its CPU time so far, user-space and kernel told apart.
    pub fn cpu_time(&self) -> io::Result<CpuTime> {
        CpuTime::of(self.child.id())
    }

    /// Has it read its configuration again.
    #[allow(dead_code)] // Only one of the benchmarks does.
    pub fn hang_up(&self) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::HUP)?)
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// The last line that it wrote, if it has ended.
    pub fn last_words(&mut self) -> io::Result<Option<String>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let log = fs::read_to_string(&self.log)?;
        Ok(Some(log.lines().last().map_or(format!("ended with {status}"), str::to_owned)))
    }

    /// Proportional set size in KiB: what is resident, and its share of what is shared (proc_pid_smaps(5)).
    pub fn memory_kib(&self) -> io::Result<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| io::Error::other("smaps_rollup without Pss"))
    }

    /// How often its threads have gone to sleep by themselves, which is about how often they woke.
    pub fn sleeps(&self) -> io::Result<u64> {
        let mut count = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            count += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(count)
    }

    /// Size of its executable, in bytes.
    pub fn executable_bytes(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/exe", self.child.id()))?.len())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process's threads, in seconds (proc_pid_schedstat(5), field 1, in nanoseconds). It is exact once they
/// wait.
fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let times = match fs::read_to_string(task.join("schedstat")) {
            // A thread that has just ended has no time any more.
            Err(_) if !task.exists() => continue,
            times => times?,
        };
        let spent = times.split_ascii_whitespace().next().and_then(|spent| spent.parse::<u64>().ok());
        nanoseconds += spent.ok_or_else(|| io::Error::other("schedstat without a time"))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// CPU time, user-space and kernel told apart.
///
/// The sum is exact. Its division is a sample: at each tick of its clock (CONFIG_HZ, mostly 250 a second) the kernel
/// looks where the process is (proc_pid_stat(5), fields 14 and 15, which count in 10 ms). A share that `n` ticks have met
/// is good to about 1 / √n: 2 s of user-space time are 500 ticks, and good to 5 %.
#[derive(Clone, Copy, Default)]
pub struct CpuTime {
    /// User-space and kernel together, in seconds.
    pub seconds: f64,
    /// What the ticks make of both, in seconds.
    user_sampled: f64,
    kernel_sampled: f64,
}

impl CpuTime {
    /// That of a process so far.
    pub fn of(pid: u32) -> io::Result<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in brackets, and may hold spaces.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let mut sampled = |skip: usize| {
            let count = fields.nth(skip).and_then(|count| count.parse::<u64>().ok());
            let count = count.ok_or_else(|| io::Error::other("stat without a time"))?;
            Ok::<_, io::Error>(count as f64 / CLOCK_TICKS_PER_SECOND)
        };
        // The rest begins with field 3.
        let (user_sampled, kernel_sampled) = (sampled(11)?, sampled(0)?);
        Ok(CpuTime { seconds: cpu_seconds(pid)?, user_sampled, kernel_sampled })
    }

    /// The part of the sum that was spent in user-space; `None` if too few ticks met the process to tell.
    pub fn user_seconds(&self) -> Option<f64> {
        let sampled = self.user_sampled + self.kernel_sampled;
        (sampled >= SAMPLED_MIN).then(|| self.seconds * self.user_sampled / sampled)
    }

    /// The part of the sum that was spent in the kernel, where it can be told.
    pub fn kernel_seconds(&self) -> Option<f64> {
        self.user_seconds().map(|user| self.seconds - user)
    }
}

impl Add for CpuTime {
    type Output = CpuTime;

    fn add(self, other: CpuTime) -> CpuTime {
        CpuTime {
            seconds: self.seconds + other.seconds,
            user_sampled: self.user_sampled + other.user_sampled,
            kernel_sampled: self.kernel_sampled + other.kernel_sampled,
        }
    }
}

impl Sub for CpuTime {
    type Output = CpuTime;

    fn sub(self, before: CpuTime) -> CpuTime {
        CpuTime {
            seconds: self.seconds - before.seconds,
            user_sampled: self.user_sampled - before.user_sampled,
            kernel_sampled: self.kernel_sampled - before.kernel_sampled,
        }
    }
}

/// An address of loopback.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A listener on a free port, with a long queue: bursts are part of the benchmark. Users connect to it at more than
/// one address of loopback.
pub fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A free port for a program that cannot choose one itself.
pub fn free_port() -> io::Result<u16> {
    Ok(listen()?.local_addr()?.port())
}

/// Ends this helper when the benchmark that started it is gone.
pub fn end_with_parent() {
    thread::spawn(|| {
        let mut rest = Vec::new();
        let _ = io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
}

/// The output of a program that ends by itself.
pub fn output_of(program: &Path, arguments: &[&str]) -> io::Result<Vec<String>> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} failed: {}", program.display(), output.status)));
    }
    BufReader::new(&output.stdout[..]).lines().collect()
}

/// Where a program is installed: on PATH, or where cargo installs.
pub fn installed(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map_or(Vec::new(), |path| std::env::split_paths(&path).collect());
    // Where Debian puts daemons, which is not on every user's PATH.
    folders.push("/usr/sbin".into());
    folders.extend(std::env::home_dir().map(|home| home.join(".cargo/bin")));
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}
