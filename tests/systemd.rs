//! What the service manager hands over, what it is told, and the units that it is to run.
//!
//! No manager runs: sockets of these tests stand in for it. Where systemd-analyze(1) is not installed, the test of units
//! is skipped, aloud; with `SKYORG_REQUIRE_PROGRAMS=1` that is a failure.

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::own_network::is_installed;
use common::{Folder, PATIENCE, Process, SKYORG, connect, converse, echo_server, measure};
use rustix::process::Signal;

const FREE: &str = "127.0.0.1:0";

/// The service manager's end of the notification socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &str) -> Manager {
        Manager(UnixDatagram::bind(path).expect("the folder is ours"))
    }

    /// One in the abstract name space (unix(7)), and how it is named in the environment.
    fn abstract_one(name: &str) -> (Manager, String) {
        let name = format!("skyorg-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        (Manager(UnixDatagram::bind_addr(&address).expect("a name of our own")), format!("@{name}"))
    }

    /// The next message within this time.
    fn hear(&self, patience: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(patience)).expect("not zero");
        let mut bytes = [0; 4_096];
        let count = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).expect("text"))
    }

    /// Waits for a message with this text; those before it are skipped.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.hear(Duration::from_millis(100)) {
                Some(message) if message.contains(text) => return message,
                _ => assert!(Instant::now() < deadline, "'{text}' is not told in time"),
            }
        }
    }
}

/// skyorg with these variables.
fn skyorg(arguments: &[&str], variables: &[(&str, &str)]) -> Process {
    let mut command = Command::new(SKYORG);
    command.args(arguments).env_remove("SKYORG_KEY").envs(variables.iter().copied());
    Process::start(&arguments.join(" "), command)
}

fn server<'t>(key: &'t str, request: &'t str) -> Vec<&'t str> {
    vec!["server", "--keys", key, "--request", request, "--message", FREE, "--control", FREE]
}

fn monotonic_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

#[test]
fn a_server_is_ready_once_bound_reloads_with_its_time_and_says_that_it_stops() {
    let folder = Folder::new();
    let (key, socket) = (folder.key(), folder.path("notify"));
    let manager = Manager::at(&socket);
    let mut process = skyorg(&server(&key, FREE), &[("NOTIFY_SOCKET", &socket)]);
    assert_eq!(manager.wait_for("READY=1\n"), "READY=1\nSTATUS=no client is connected\n");
    connect(process.address("users connect to "));

    let control = process.address("control connections: ").to_string();
    let local = echo_server().to_string();
    let client = skyorg(&["client", "--server", &control, "--local", &local, "--key", &key], &[]);
    manager.wait_for("STATUS=1 client is connected\n");
    drop(client);
    manager.wait_for("STATUS=no client is connected\n");

    let before = monotonic_us();
    process.signal(Signal::HUP);
    let told = manager.wait_for("RELOADING=1\n");
    let time = told.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let time = time.and_then(|time| time.parse::<u64>().ok()).expect("in the same message");
    assert!((before..=monotonic_us()).contains(&time), "{before} {told}");
    assert_eq!(manager.wait_for("READY=1\n"), "READY=1\nSTATUS=no client is connected\n");

    let good = fs::read_to_string(&key).expect("it is there");
    folder.file("key", "office\n");
    process.signal(Signal::HUP);
    manager.wait_for("RELOADING=1\n");
    let told = manager.wait_for("READY=1\n");
    assert!(told.contains(&format!("STATUS=configuration refused: {key}:1:1: wanted NAME SECRET")), "{told}");
    folder.file("key", good);
    process.signal(Signal::HUP);
    assert_eq!(manager.wait_for("READY=1\n"), "READY=1\nSTATUS=no client is connected\n");

    process.signal(Signal::TERM);
    manager.wait_for("STOPPING=1\n");
    assert!(process.ended().success());
}

#[test]
fn a_client_says_which_publication_fails() {
    let folder = Folder::new();
    let (key, (manager, name)) = (folder.key(), Manager::abstract_one("failing"));
    let server = skyorg(&server(&key, FREE), &[]);
    let control = server.address("control connections: ").to_string();
    let arguments = ["client", "--server", &control, "--local", "1", "--key", &key];
    let _client = skyorg(&arguments, &[("NOTIFY_SOCKET", &name)]);
    manager.wait_for("STATUS=default: failing: local server refuses connections; connected to ");
}

#[test]
fn a_client_is_ready_though_its_server_is_not_there_and_says_so() {
    let folder = Folder::new();
    let (manager, name) = Manager::abstract_one("client");
    let nobody = TcpListener::bind(FREE).expect("a port").local_addr().expect("bound").to_string();
    let arguments = ["client", "--server", &nobody, "--local", "1", "--key", &folder.key()];
    let variables = [("NOTIFY_SOCKET", name.as_str()), ("WATCHDOG_USEC", "200000")];
    let process = skyorg(&arguments, &variables);
    manager.wait_for(&format!("READY=1\nSTATUS=connecting to {nobody}\n"));
    manager.wait_for(&format!("STATUS=not connected to {nobody}: could not connect"));
    // A server that is absent is no reason to be taken for dead.
    (0..10).for_each(|_| drop(manager.wait_for("WATCHDOG=1")));
    process.signal(Signal::STOP);
    while manager.hear(Duration::from_secs(1)).is_some() {}
    process.signal(Signal::CONT);
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let folder = Folder::new();
    let (manager, name) = Manager::abstract_one("other");
    let variables = [("NOTIFY_SOCKET", name.as_str()), ("WATCHDOG_USEC", "10000"), ("WATCHDOG_PID", "1")];
    let key = folder.key();
    let _process = skyorg(&server(&key, FREE), &variables);
    manager.wait_for("READY=1");
    measure(Duration::from_millis(300));
    assert_eq!(manager.hear(Duration::from_millis(1)), None);
}

/// skyorg with these listeners as its descriptors 3 and 4.
fn activated(arguments: &[&str], first: TcpListener, second: TcpListener) -> Process {
    let script = "exec 3<&0 4>&1 </dev/null >/dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, SKYORG]).args(arguments).env_remove("SKYORG_KEY");
    shell.stdin(OwnedFd::from(first)).stdout(OwnedFd::from(second));
    Process::start_with("activated", shell)
}

#[test]
fn listeners_of_the_service_manager_are_taken_by_their_addresses_and_leftovers_are_closed() {
    let folder = Folder::new();
    let key = folder.key();
    let [request, other] = [(); 2].map(|()| TcpListener::bind(FREE).expect("a port"));
    let [users, nobody] = [&request, &other].map(|it| it.local_addr().expect("bound"));
    // It came before the process did.
    let mut early = connect(users);
    let process = activated(&server(&key, &users.to_string()), other, request);
    process.wait_for(&format!("the service manager opened {nobody}, and nothing here listens there"));
    assert_eq!(process.address("users connect to "), users);
    process.wait_until("the leftover is closed", || TcpStream::connect(nobody).is_err());
    let (control, local) = (process.address("control connections: ").to_string(), echo_server().to_string());
    let _client = skyorg(&["client", "--server", &control, "--local", &local, "--key", &key], &[]);
    converse(&mut early, b"early");
    converse(&mut connect(users), b"later");
}

#[test]
fn a_listener_for_all_addresses_is_a_port() {
    let Ok(both) = TcpListener::bind("[::]:0") else { return println!("skipped: no IPv6 here") };
    let folder = Folder::new();
    let key = folder.key();
    let port = both.local_addr().expect("bound").port().to_string();
    let other = TcpListener::bind("0.0.0.0:0").expect("a port");
    let control = other.local_addr().expect("bound").port().to_string();
    let arguments = ["server", "--keys", &key, "--request", FREE, "--message", &port, "--control", &control];
    let process = activated(&arguments, both, other);
    assert!(process.wait_for("message connections: ").ends_with(&format!("[::]:{port}")));
    assert!(process.wait_for("control connections: ").ends_with(&format!("0.0.0.0:{control}")));
    assert!(!process.lines().iter().any(|line| line.contains("service manager")));
}

#[test]
fn the_key_of_the_service_manager_comes_before_the_place_for_people() {
    let folder = Folder::new();
    fs::create_dir(folder.path("credentials")).expect("a new folder");
    let key = folder.key();
    let credential = folder.path("credentials/key");
    fs::copy(&key, &credential).expect("copied");
    // As systemd's own, whose list of access shows like this.
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o440)).expect("it is ours");
    let (credentials, nothing) = (folder.path("credentials"), folder.path("nothing"));
    let variables = [("CREDENTIALS_DIRECTORY", credentials.as_str()), ("XDG_CONFIG_HOME", &nothing)];
    let arguments = ["server", "--request", FREE, "--message", FREE, "--control", FREE];
    let server = skyorg(&arguments, &variables);
    let control = server.address("control connections: ").to_string();
    let client = skyorg(&["client", "--server", &control, "--local", "1"], &variables);
    client.wait_for(&format!("from {credential}"));
    client.wait_for("users of port");
    assert!(!fs::exists(&nothing).expect("readable"), "no key was made");
    for process in [&server, &client] {
        assert!(!process.lines().iter().any(|line| line.contains("access to the key file")));
    }
    let line = fs::read_to_string(&key).expect("it is there");
    let variables = [variables[0], ("SKYORG_KEY", line.trim())];
    let client = skyorg(&["client", "--server", &control, "--local", "1"], &variables);
    client.wait_for("from SKYORG_KEY");
}

// Units.

fn unit(arguments: &[&str]) -> Output {
    unit_of(SKYORG, arguments)
}

fn unit_of(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.arg("unit").args(arguments).env_remove("SKYORG_KEY");
    command.output().expect("the program runs")
}

#[test]
fn a_unit_says_the_command_line_with_absolute_paths_and_hands_the_key_over() {
    let folder = Folder::new();
    let key = folder.key();
    let log = "/var/log/skyorg/server.log";
    let output =
        unit(&["server", "--keys", &key, "--service=web=8080", "--pool", "3", "--log-file", log, "--plain"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && output.stderr.is_empty(), "{:?}", output.stderr);
    for line in [
        &format!("ExecStart={SKYORG} server --service web=8080 --pool 3 --log-file {log} --plain"),
        &format!("LoadCredential=key:{key}"),
        "Type=notify-reload",
        "RuntimeDirectory=skyorg/server",
        "LogsDirectory=skyorg",
        "CapabilityBoundingSet=",
        "DynamicUser=yes",
        "Restart=always",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
    // The folder that somebody is in means nothing to the service manager.
    let config = "message = 700\n[service.web]\nlisten = \"443\"\n";
    folder.file("server.toml", config);
    let mut command = Command::new(SKYORG);
    command.args(["unit", "server", "--config", "server.toml"]).current_dir(&folder.0);
    let output = command.env("XDG_CONFIG_HOME", folder.path("")).output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(&format!(" server --config {}\n", folder.path("server.toml"))), "{text}");
    assert!(text.contains(&format!("LoadCredential=key:{}\n", folder.path("skyorg/key"))), "{text}");
    assert!(text.contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no key file"));
}

#[test]
fn files_that_a_configuration_names_may_be_used_where_they_are() {
    let folder = Folder::new();
    folder.key();
    let config = "keys = \"key\"\nstatus = \"/srv/own/server.sock\"\nlog-file = \"/home/own/log\"\n";
    let text = String::from_utf8(unit(&["server", "--config", &folder.file("server.toml", config)]).stdout);
    let text = text.expect("text");
    for line in ["ReadWritePaths=/srv/own", "ReadWritePaths=/home/own", "ProtectHome=read-only"] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
    let config = "keys = \"key\"\nstatus = \"none\"\n";
    let text = unit(&["server", "--config", &folder.file("server.toml", config)]).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("\nProtectHome=yes\n") && !text.contains("ReadWritePaths="), "{text}");
}

#[test]
fn a_command_line_that_would_be_refused_has_no_unit() {
    let folder = Folder::new();
    let (key, missing) = (folder.key(), folder.path("missing"));
    for arguments in [
        &[][..],
        &["server", "--request", "33334", "--keys", &key],
        &["server", "--keys", &missing],
        &["server", "--config", &missing],
        &["client", "--local", "80", "--key", &key],
        &["client", "--server", "gw", "--local", "80", "--key", &missing],
        &["demo"],
    ] {
        let output = unit(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(output.stderr.starts_with(b"skyorg: ") || !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_program_that_a_unit_cannot_name_is_refused_and_a_key_that_it_may_not_read_is_a_warning() {
    let folder = Folder::new();
    let key = folder.key();
    folder.file("server.toml", "keys = \"key\"\n[service.web]\nlisten = 8080\n");
    let quoted = folder.path("it's");
    fs::copy(SKYORG, &quoted).expect("it is ours");
    let output = unit_of(&quoted, &["server", "--keys", &key]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{error}");
    assert!(error.contains("put it elsewhere"), "{error}");
    let output = unit_of(SKYORG, &["server", "--config", &folder.path("server.toml")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.contains("without 'keys' there"), "{error}");
}

#[test]
fn units_are_good_and_hardened() {
    if !is_installed("systemd-analyze", &["--version"]) {
        let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
        assert!(!required, "systemd-analyze is not installed");
        return println!("skipped: systemd-analyze is not installed");
    }
    let folder = Folder::new();
    let key = folder.key();
    let server = ["server", "--keys", &key, "--service", "web=8080", "--drain", "60"];
    let ready = ["--ready-file", "/run/skyorg/client/100% ready"];
    let client = [&["client", "--key", &key, "--server", "gw.example", "--local", "80"][..], &ready].concat();
    // Names that mean something to the service manager mean themselves.
    let odd = folder.path("w$d %n; ö");
    let (program, log) = (format!("{odd}/skyorg"), format!("{odd}/it's \"here\" \\x/log"));
    fs::create_dir_all(format!("{odd}/it's \"here\" \\x")).expect("it is ours");
    fs::copy(SKYORG, &program).expect("it is ours");
    let logged = [&server[..], &["--log-file", &log]].concat();
    for (program, arguments, name) in [
        (SKYORG, &server[..], "server.service"),
        (SKYORG, &client[..], "client.service"),
        (&program, &logged, "odd.service"),
    ] {
        let path = folder.file(name, unit_of(program, arguments).stdout);
        let analyze = |words: &[&str]| {
            let output = Command::new("systemd-analyze").args(words).arg(&path).output().expect("it runs");
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            (output.status.success(), text)
        };
        let (is_good, told) = analyze(&["verify"]);
        // An old systemd does not know what a newer one is told.
        let complaints = told.lines().filter(|line| !line.contains("ignoring: notify-reload"));
        assert_eq!((is_good, complaints.collect::<Vec<_>>()), (true, vec![]), "{name}");
        let (is_safe, told) = analyze(&["security", "--offline=yes", "--threshold=19"]);
        assert!(is_safe, "{told}");
    }
}
