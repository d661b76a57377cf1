//! Programs that know nothing of skyorg, through the tunnel: nginx and curl, redis and its own tests, OpenSSH.
//!
//! Each is started by its test on a free port of loopback, with a configuration in a temporary folder, and ended
//! by it. One that is not installed is skipped, aloud; with `SKYORG_REQUIRE_PROGRAMS=1` that is a failure.

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use common::{Folder, MODES, Mode, Process, Tunnel};

/// Where a program is; none if one of them is missing.
fn programs<const COUNT: usize>(names: [&str; COUNT]) -> Option<[PathBuf; COUNT]> {
    let mut found = Vec::new();
    for name in names {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        match folders.map(|folder| folder.join(name)).find(|program| program.is_file()) {
            Some(program) => found.push(program),
            None => {
                skip(name);
                return None;
            }
        }
    }
    found.try_into().ok()
}

/// Says that a test is skipped for want of this.
fn skip(name: &str) {
    println!("skipped: {name} is not installed");
    let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
    assert!(!required, "{name} is not installed");
}

/// A free port below those that the kernel hands out for port 0 (ip(7), `ip_local_port_range`), so that no other
/// test gets it before the program has it.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 1_000) as u16 * 10;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (0..100).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed)).find(is_free);
    SocketAddr::from(([127, 0, 0, 1], port.expect("one of a hundred ports is free")))
}

/// Waits until a program listens.
fn listens(program: &Process, at: SocketAddr) {
    program.wait_until("it listens", || TcpStream::connect(at).is_ok());
}

/// Runs a program to its end.
fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the program starts");
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}\n{}{}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[test]
fn curl_gets_files_of_nginx() {
    let Some([nginx, curl]) = programs(["nginx", "curl"]) else { return };
    let (folder, port) = (Folder::new(), free_port());
    let mut page = vec![0; 3_000_001];
    common::Pattern::new(9).fill(&mut page);
    folder.file("page", &page);
    let root = folder.path("");
    let root = root.trim_end_matches('/');
    let config = format!(
        "daemon off; master_process off; pid {root}/pid; error_log stderr; events {{}}
         http {{
             access_log off; root {root}; client_max_body_size 100m;
             client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
             server {{ listen {port}; }}
         }}"
    );
    let config = folder.file("nginx.conf", config);
    let mut command = Command::new(nginx);
    command.args(["-p", root, "-e", "stderr", "-c", &config]);
    let server = Process::start("nginx", command);
    listens(&server, port);
    for mode in MODES {
        let tunnel = Tunnel::start(mode, port);
        let url = format!("http://{}/page", tunnel.users);
        // Several requests on one connection, whole and in part; then one connection each.
        for _ in 0..3 {
            let output = run(&curl, &["-sSf", "--noproxy", "*", "--max-time", "20", &url, &url, &url]);
            assert!(output.stdout == page.repeat(3), "{mode:?}");
        }
        let arguments = [
            "-sSf",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "-r",
            "1000-1999",
            "-H",
            "Connection: close",
            &url,
        ];
        assert!(run(&curl, &arguments).stdout == page[1_000..2_000], "{mode:?}");
    }
}

#[test]
fn redis_benchmark_finds_no_error_in_redis() {
    let Some([redis, benchmark]) = programs(["redis-server", "redis-benchmark"]) else { return };
    let (folder, port) = (Folder::new(), free_port());
    let _server = redis_server(&redis, &folder, port, &[]);
    for mode in MODES {
        let tunnel = Tunnel::start(mode, port);
        let number = tunnel.users.port().to_string();
        let common = ["-h", "127.0.0.1", "-p", &number, "-q"];
        let many = ["-t", "ping,set,get,lrange_100", "-n", "1000", "-c", "50"];
        let large = ["-t", "set,get", "-n", "2000", "-c", "20", "-P", "16", "-d", "30000"];
        for load in [&many[..], &large] {
            let output = run(&benchmark, &[&common[..], load].concat());
            let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
            assert!(text.contains("requests per second") && !text.contains("err"), "{mode:?}: {text}");
        }
        // A connection for every request: sessions as short as they can be.
        run(&benchmark, &[&common[..], &["-t", "ping", "-n", "500", "-c", "10", "-k", "0"]].concat());
    }
}

fn redis_server(program: &Path, folder: &Folder, port: SocketAddr, more: &[&str]) -> Process {
    let mut command = Command::new(program);
    let number = port.port().to_string();
    command.args(["--port", &number, "--bind", "127.0.0.1", "--save", "", "--dir", &folder.path("")]);
    command.args(["--appendonly", "no", "--daemonize", "no"]).args(more);
    let server = Process::start("redis-server", command);
    listens(&server, port);
    server
}

/// Where `.ci/run` puts the source of the package `redis-server`, which holds its tests. They fit one version of the
/// server only, the distribution's patches included.
fn redis_source() -> Option<PathBuf> {
    let mut query = Command::new("dpkg-query");
    let output = query.args(["-W", "-f", "${source:Version}", "redis-server"]).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    let folder = Path::new("/usr/local/src").join(format!("redis-{version}"));
    folder.join("runtest").is_file().then_some(folder)
}

/// Redis' own tests through the tunnel: all that it runs against a server that it did not start itself.
fn redis_passes_its_own_tests(mode: Mode) {
    /// Units left out: they take minutes and test arithmetic, or they measure how late the machine is.
    const UNITS: [&str; 2] = ["unit/hyperloglog", "unit/latency-monitor"];
    /// Tests left out, by name or by pattern.
    const TESTS: [&str; 6] = [
        // Minutes of small commands, one at a time, on one connection.
        "/[Ff]uzz",
        "/^Stress",
        "SCAN regression test for issue #4906",
        // It waits 15 s for something within the server.
        "MIGRATE cached connections are released after some time",
        // It fails where a few commands take half a second, as they do on a machine that builds something else.
        "Redis should actively expire keys incrementally",
        // It came with a patch of Debian, and fails without a tunnel as well.
        "RESTORE fail with invalid payload size",
    ];
    /// The suite has some 1,900 tests that remain. Far fewer would mean that something left them out.
    const PASSED_MIN: usize = 1_500;

    let Some([redis, redis_cli, _]) = programs(["redis-server", "redis-cli", "tclsh"]) else { return };
    let Some(source) = redis_source() else { return skip("redis' source") };
    let (folder, port) = (Folder::new(), free_port());
    let allowed = ["--enable-debug-command", "yes", "--enable-protected-configs", "yes"];
    let _server = redis_server(&redis, &folder, port, &allowed);
    // The suite writes below its own folder, and looks for redis' programs in one called `src`.
    let copied =
        ["runtest", "tests"].map(|name| source.join(name).to_str().expect("a plain name").to_owned());
    run(Path::new("cp"), &["-r", &copied[0], &copied[1], &folder.path("")]);
    symlink(redis_cli.parent().expect("a file is in a folder"), folder.path("src")).expect("a new name");

    let tunnel = Tunnel::start(mode, port);
    // `timeout` ends the suite's whole process group. Before that, the suite itself gives up a test that hangs and
    // names it.
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "600", "./runtest", "--timeout", "90", "--host", "127.0.0.1"]);
    command.args(["--port", &tunnel.users.port().to_string()]);
    // Its parts talk to each other over one of the 32 ports below this.
    command.args(["--baseport", &(free_port().port() + 32).to_string()]);
    // Redis runs its tests against foreign servers without slow ones, too.
    command.args(["--tags", "-slow"]);
    command.args(UNITS.iter().flat_map(|unit| ["--skipunit", unit]));
    command.args(TESTS.iter().flat_map(|test| ["--skiptest", test]));
    command.current_dir(folder.path("")).env("TERM", "dumb").stdin(Stdio::null());
    let output = command.output().expect("the suite starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = text.lines().filter(|line| line.starts_with("[ok]: ")).count();
    // What is left of it says which tests failed, and why.
    let usual = |line: &&str| {
        ["[ok]", "[ignore]", "[skip]", "Testing "].iter().any(|start| line.starts_with(start))
            || [" done]: ", " seconds - "].iter().any(|part| line.contains(part))
    };
    let rest: Vec<&str> = text.lines().filter(|line| !usual(line)).collect();
    assert!(
        output.status.success() && passed >= PASSED_MIN,
        "{mode:?}: {}, {passed} tests passed\n{}\n{}",
        output.status,
        rest.join("\n"),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{mode:?}: {passed} tests of redis passed");
}

#[test]
fn redis_passes_its_own_tests_sealed() {
    redis_passes_its_own_tests(Mode::Sealed);
}

#[test]
fn redis_passes_its_own_tests_plain() {
    redis_passes_its_own_tests(Mode::Plain);
}

#[test]
fn ssh_works_in_sshd() {
    let Some([sshd, ssh, keygen]) = programs(["sshd", "ssh", "ssh-keygen"]) else { return };
    let (folder, port) = (Folder::new(), free_port());
    // sshd wants this when it runs as root, and the folder is made at boot where it is a service.
    let needed = Path::new("/run/sshd");
    if is_root() && !needed.is_dir() && fs::create_dir(needed).is_err() {
        println!("skipped: {} is missing", needed.display());
        return;
    }
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o700)).expect("it is ours");
    for name in ["host", "user"] {
        run(&keygen, &["-q", "-t", "ed25519", "-N", "", "-f", &folder.path(name)]);
    }
    fs::copy(folder.path("user.pub"), folder.path("authorized")).expect("copies");
    let config = folder.file(
        "sshd_config",
        format!(
            "ListenAddress {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPermitRootLogin yes\n",
            folder.path("host"),
            folder.path("authorized")
        ),
    );
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f", &config]);
    let server = Process::start("sshd", command);
    listens(&server, port);
    let user = String::from_utf8(run(Path::new("id"), &["-un"]).stdout).expect("a name");
    for mode in [Mode::Sealed, Mode::Plain] {
        let tunnel = Tunnel::start(mode, port);
        let number = tunnel.users.port().to_string();
        let identity = folder.path("user");
        let known = format!("UserKnownHostsFile={}", folder.path("known"));
        let arguments = ["-F", "none", "-i", &identity, "-p", &number, "-l", user.trim()];
        let options = ["-o", "StrictHostKeyChecking=no", "-o", &known, "-o", "BatchMode=yes"];
        let call = [&arguments[..], &options, &["-o", "ConnectTimeout=20", "127.0.0.1"]].concat();
        let output = run(&ssh, &[&call[..], &["echo through the tunnel; seq 1 100000"]].concat());
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.starts_with("through the tunnel\n1\n") && text.ends_with("\n100000\n"), "{mode:?}");
        assert_eq!(text.lines().count(), 100_001, "{mode:?}");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
