//! Starting and running where the system refuses something: limits, ports that are taken, calls that fail.
//!
//! Calls are made to fail by strace(1), and networks of our own are made by unshare(1). Where a program is not installed
//! its tests are skipped, aloud; with `SKYORG_REQUIRE_PROGRAMS=1` that is a failure. So they are where the system lets
//! nobody make a network.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::own_network::{in_own_network, is_installed};
use common::{Ending, Folder, PATIENCE, Process, SKYORG, converse, echo, measure, read_out};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

/// Arguments of a server at ports that do not matter.
fn server<'t>(key: &'t str, more: &[&'t str]) -> Vec<&'t str> {
    let any = ["--request", "127.0.0.1:0", "--message", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let mut arguments = vec!["server", "--keys", key];
    for option in any.chunks(2).filter(|option| !more.contains(&option[0])) {
        arguments.extend(option);
    }
    arguments.extend(more);
    arguments
}

/// skyorg, started by a shell that runs this first.
fn after(script: &str, arguments: &[&str]) -> Process {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$0\" \"$@\"")]).arg(SKYORG).args(arguments);
    Process::start(script, shell)
}

fn is_required(program: &str) -> bool {
    let there = is_installed(program, &["-V"]);
    let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
    assert!(there || !required, "{program} is not installed");
    there
}

/// skyorg under strace, which notes some calls and makes some fail; where it writes them. The process is skyorg's own.
fn traced(folder: &Folder, options: &[&str], arguments: &[&str]) -> (Process, String) {
    let calls = folder.path("calls");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-qq", "-s", "100000", "-o", &calls]).args(options);
    strace.arg(SKYORG).args(arguments).env_remove("SKYORG_KEY").env("XDG_CONFIG_HOME", folder.path(""));
    (Process::start("strace", strace), calls)
}

// Limits.

#[test]
fn where_no_thread_can_be_made_standard_error_says_so() {
    let folder = Folder::new();
    let key = folder.key();
    // Root may make as many as it likes.
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65533", "--regid=65533", "--clear-groups", "prlimit", "--nproc=1", SKYORG]);
    nobody.args(server(&key, &[])).args(["--status", "none"]);
    if !is_installed("setpriv", &["--reuid=65533", "--clear-groups", SKYORG, "--version"]) {
        return;
    }
    let process = Process::start("setpriv", nobody);
    process.wait_for("the log cannot start");
}

#[test]
fn more_services_than_the_soft_limit_of_descriptors_start_where_the_hard_one_allows() {
    let folder = Folder::new();
    let key = folder.key();
    let services: Vec<String> = (0..1_100).map(|number| format!("--service=s{number}=127.0.0.1:0")).collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let process = after("ulimit -Sn 1024 && ulimit -Hn 20000", &server(&key, &services));
    process.wait_for("control connections: ");
    assert_eq!(process.lines().iter().filter(|line| line.contains("users connect to")).count(), 1_101);
}

#[test]
fn too_few_descriptors_are_named_as_the_cause_and_not_the_address() {
    let folder = Folder::new();
    let key = folder.key();
    for limit in [5, 6, 7, 8, 9] {
        let mut process = after(&format!("ulimit -n {limit}"), &server(&key, &[]));
        let line = process.wait_for("skyorg: ");
        assert_eq!(process.ended().code(), Some(1), "{line}");
        assert!(line.contains("Too many open files (os error 24); raise the limit"), "{line}");
        assert!(line.contains("LimitNOFILE=") && !line.contains("choose"), "{line}");
    }
}

#[test]
fn a_log_that_has_reached_the_limit_of_a_file_s_size_ends_nothing() {
    let folder = Folder::new();
    let (key, log) = (folder.key(), folder.path("log"));
    let services: Vec<String> = (0..30).map(|number| format!("--service=s{number}=127.0.0.1:0")).collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let mut process = after("ulimit -f 1", &server(&key, &[&services[..], &["--log-file", &log]].concat()));
    // A block of ulimit has 512 bytes, or 1,024.
    process.wait_until("the log is full", || fs::metadata(&log).is_ok_and(|file| file.len() >= 512));
    process.signal(Signal::TERM);
    assert_eq!(process.ended().code(), Some(0));
}

// Ports.

/// A connection that goes out from a port; its other end, and its address. That is of this process alone: a port that
/// connect(2) gives may be given to others at the same time.
fn outgoing() -> (TcpStream, TcpStream, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let [.., high, low] = std::process::id().to_be_bytes();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 77, high, low], 0)).into()).expect("all of 127/8 is loopback");
    socket.connect(&listener.local_addr().expect("bound").into()).expect("it listens");
    let stream = TcpStream::from(socket);
    let address = stream.local_addr().expect("connected").to_string();
    (stream, listener.accept().expect("it has connected").0, address)
}

#[test]
fn a_port_that_an_outgoing_connection_has_is_waited_for() {
    let folder = Folder::new();
    let key = folder.key();
    let (here, there, address) = outgoing();
    let process = Process::skyorg(&server(&key, &["--message", &address]), None);
    process.wait_for(&format!("cannot listen on {address} yet: the address is in use; trying for 5 s"));
    common::reset(here);
    drop(there);
    assert!(process.wait_for("] message connections: ").ends_with(&address));
}

#[test]
fn a_port_for_metrics_is_waited_for_like_any_other_on_both_sides() {
    let folder = Folder::new();
    let key = folder.key();
    let client = ["client", "--server", "127.0.0.1:9", "--local", "9", "--key", &key, "--metrics"];
    for arguments in [&server(&key, &["--metrics"])[..], &client] {
        let (here, there, address) = outgoing();
        let process = Process::skyorg(&[arguments, &[&address]].concat(), None);
        process.wait_for(&format!("cannot listen on {address} yet: the address is in use; trying for 5 s"));
        common::reset(here);
        drop(there);
        assert!(process.wait_for("] metrics: http://").contains(&address));
    }
}

#[test]
fn a_port_that_stays_taken_is_given_up_after_five_seconds_with_its_cause() {
    let folder = Folder::new();
    let key = folder.key();
    let (_here, _there, outgoing) = outgoing();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let listening = listener.local_addr().expect("bound").to_string();
    let since = Instant::now();
    let start = |option, address: &str| Process::skyorg(&server(&key, &[option, address]), None);
    let mut processes =
        [start("--control", &outgoing), start("--control", &listening), start("--metrics", &outgoing)];
    let reserve = "sysctl net.ipv4.ip_local_reserved_ports=";
    let causes = [
        ["a connection that goes out from this host has the port", reserve],
        ["another program listens", ""],
        ["a connection that goes out from this host has the port", reserve],
    ];
    for (process, parts) in processes.iter_mut().zip(causes) {
        let line = process.wait_for("skyorg: cannot listen on");
        assert_eq!(process.ended().code(), Some(1), "{line}");
        assert!(since.elapsed() >= Duration::from_secs(5), "{:?}", since.elapsed());
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn a_server_that_waits_for_a_port_lets_nobody_in_whom_it_would_cut_off() {
    let folder = Folder::new();
    let key = folder.key();
    let (_here, _there, taken) = outgoing();
    let control = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").to_string();
    let mut process = Process::skyorg(&server(&key, &["--control", &control, "--request", &taken]), None);
    process.wait_for("the address is in use; trying");
    let client = Process::skyorg(&["client", "--server", &control, "--local", "9", "--key", &key], None);
    assert_eq!(process.ended().code(), Some(1));
    client.wait_for("trying again");
    assert!(!client.lines().iter().any(|line| line.contains("connected to")), "{:?}", client.lines());
}

/// How many ports a start may wait for.
const WAITING: usize = 3;

/// Arguments of servers and of a client that wait for an address.
fn waiting<'t>(key: &'t str, address: &'t str) -> [Vec<&'t str>; WAITING] {
    let client = ["client", "--server", "127.0.0.1:9", "--local", "9", "--key", key, "--metrics", address];
    [server(key, &["--control", address]), server(key, &["--metrics", address]), client.into()]
}

#[test]
fn a_process_that_waits_for_a_port_ends_when_it_is_asked_to() {
    let folder = Folder::new();
    let key = folder.key();
    let (_here, _there, address) = outgoing();
    for arguments in waiting(&key, &address) {
        let mut process = Process::skyorg(&arguments, None);
        process.wait_for("the address is in use; trying");
        let since = Instant::now();
        process.signal(Signal::HUP);
        process.signal(Signal::TERM);
        assert_eq!(process.ended().code(), Some(0), "{arguments:?}");
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
}

#[test]
fn a_reload_that_is_asked_for_while_a_port_is_waited_for_comes_after_it() {
    let folder = Folder::new();
    let key = folder.key();
    for number in 0..WAITING {
        let (here, there, address) = outgoing();
        let arguments = &waiting(&key, &address)[number];
        let process = Process::skyorg(arguments, None);
        process.wait_for("the address is in use; trying");
        process.signal(Signal::HUP);
        common::reset(here);
        drop(there);
        process.wait_for("reloaded keys: nothing changed");
    }
}

// Calls that fail.

#[test]
fn accepting_that_always_fails_takes_no_processor_and_is_told_of() {
    if !is_required("strace") {
        return;
    }
    for error in ["EPERM", "ENETDOWN", "ECONNABORTED"] {
        let folder = Folder::new();
        let key = folder.key();
        let inject = format!("inject=accept4:error={error}");
        let options = ["-e", "trace=accept4", "-e", &inject];
        let (process, calls) = traced(&folder, &options, &server(&key, &[]));
        let line = process.wait_for("users connect to ");
        let users: SocketAddr =
            line.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("an address");
        let _user = TcpStream::connect(users).expect("the kernel takes it");
        let told = process.wait_for("cannot take connections");
        assert!(told.contains(&users.to_string()) && told.contains("(os error "), "{told}");
        let before = (process.ticks(), count(&calls, "accept4("));
        measure(Duration::from_secs(2));
        // Each of the three listeners is tried ten times a second.
        let (ticks, tries) = (process.ticks() - before.0, count(&calls, "accept4(") - before.1);
        assert!(ticks <= 20 && tries <= 80, "{error}: {ticks} ticks, {tries} tries in two seconds");
        assert_eq!(process.lines().iter().filter(|line| line.contains("cannot take")).count(), 1, "{error}");
    }
}

fn count(path: &str, text: &str) -> usize {
    fs::read_to_string(path).expect("strace writes it").matches(text).count()
}

#[test]
fn a_first_start_makes_its_key_where_there_are_no_hard_links() {
    if !is_required("strace") {
        return;
    }
    for lacks in ["inject=?link,linkat:error=EPERM", "inject=?link,linkat,renameat2:error=EINVAL"] {
        let folder = Folder::new();
        let arguments = server("", &[]);
        let arguments: Vec<&str> =
            arguments.into_iter().filter(|word| !["--keys", ""].contains(word)).collect();
        let (process, calls) =
            traced(&folder, &["-e", "trace=?link,linkat,renameat2", "-e", lacks], &arguments);
        process.wait_for("control connections: ");
        let path = folder.path("skyorg/key");
        assert_eq!(fs::metadata(&path).expect("it was made").permissions().mode() & 0o777, 0o600, "{lacks}");
        assert!(fs::read_to_string(&path).expect("text").starts_with("default "), "{lacks}");
        assert_eq!(fs::read_dir(folder.path("skyorg")).expect("a folder").count(), 1, "{lacks}: no draft");
        assert!(count(&calls, "(INJECTED)") > 0, "{lacks}: a call was made to fail");
    }
}

#[test]
fn each_write_of_the_log_is_whole_lines_however_long() {
    if !is_required("strace") {
        return;
    }
    let folder = Folder::new();
    let deep = (0..6).fold(folder.0.clone(), |path, _| path.join("x".repeat(220)));
    fs::create_dir_all(&deep).expect("the folder is ours");
    let path = deep.join("key");
    fs::copy(folder.key(), &path).expect("copied");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let key = path.to_str().expect("a plain name");
    let (mut process, calls) = traced(&folder, &["-e", "trace=write"], &server(key, &[]));
    process.wait_for("control connections: ");
    process.signal(Signal::TERM);
    process.ended();
    let text = fs::read_to_string(&calls).expect("strace writes it");
    let writes: Vec<&str> = text.lines().filter(|call| call.contains("write(2, ")).collect();
    assert!(writes.iter().any(|call| call.len() > 1_400), "a line of more than 1 KiB");
    for call in writes {
        let whole = call.contains("\\n\", ") && !call.contains("unfinished");
        assert!(whole || call.contains("unfinished") && call.contains("\\n\""), "{call}");
    }
}

// Networks of our own.

#[test]
fn a_local_server_that_is_down_is_never_met_by_the_dial_itself() {
    if !in_own_network("a_local_server_that_is_down_is_never_met_by_the_dial_itself") {
        return;
    }
    let local_ports = |range| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range);
    local_ports("41000 41999").expect("the network is ours");
    let (users, local) = ("127.0.0.1:50001", "127.0.0.1:40008");
    let folder = Folder::new();
    let key = folder.key();
    let places =
        ["--request", users, "--message", "127.0.0.1:50002", "--control", "127.0.0.1:50003", "--pool", "2"];
    let server = Process::skyorg(&server(&key, &places), None);
    server.wait_for("control connections: ");
    let arguments = ["client", "--server", "127.0.0.1:50003", "--local", local, "--key", &key];
    let client = Process::skyorg(&arguments, None);
    client.wait_for("users of port ");
    // Of these ports the kernel gives the even ones first: one dial of eight gets the local server's own.
    local_ports("40000 40015").expect("the network is ours");
    for number in 0..150 {
        let mut user = connect(users.parse().expect("an address"));
        // An error is told once: a reset may have come before the write.
        if let Err(error) = user.write_all(b"hello") {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            continue;
        }
        assert_eq!(read_out(&mut user), (Vec::new(), Ending::Reset), "user {number}");
    }
    let told = client.wait_for("did not take the connection");
    assert!(told.contains("Connection refused (os error"), "{told}");
    // A message connection may have got the port, as any connection that goes out.
    drop(client);
    local_ports("41000 41999").expect("the network is ours");
    let listener = TcpListener::bind(local).expect("a dial that met itself has left nothing behind");
    std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
    let client = Process::skyorg(&arguments, None);
    client.wait_for("users of port ");
    converse(&mut connect(users.parse().expect("an address")), b"served");
}

/// Few ports are there: one that is not free yet is tried for again.
fn connect(to: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(to) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        measure(Duration::from_millis(5));
    }
}

#[test]
fn addresses_of_a_link_are_taken_by_the_name_of_its_interface_on_both_sides() {
    if !in_own_network("addresses_of_a_link_are_taken_by_the_name_of_its_interface_on_both_sides") {
        return;
    }
    let added = Command::new("ip").args(["address", "add", "fe80::1/64", "dev", "lo", "nodad"]).status();
    if !added.is_ok_and(|status| status.success()) {
        return println!("skipped: no IPv6 here");
    }
    // The loopback interface is the first one.
    let address =
        |port| SocketAddr::from(SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), port, 0, 1));
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket.bind(&address(8080).into()).expect("the address is ours");
    socket.listen(16).expect("it listens");
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || listener.incoming().flatten().for_each(echo));
    let folder = Folder::new();
    let key = folder.key();
    let places = ["[fe80::1%lo]:50001", "[fe80::1%lo]:50002", "[fe80::1%lo]:50003"];
    let arguments = ["--request", places[0], "--message", places[1], "--control", places[2]];
    let server = Process::skyorg(&server(&key, &arguments), None);
    server.wait_for("control connections: ");
    let arguments = ["client", "--server", places[2], "--local", "[fe80::1%lo]:8080", "--key", &key];
    Process::skyorg(&arguments, None).wait_for("users of port ");
    let client = Process::skyorg(&arguments, None);
    client.wait_for("users of port ");
    converse(&mut connect(address(50001)), b"served");
}

// Addresses that are not of this host.

#[test]
fn a_listen_address_that_is_not_of_this_host_is_named_as_that() {
    let folder = Folder::new();
    let key = folder.key();
    // An address of documentation (RFC 5737).
    let mut process = Process::skyorg(&server(&key, &["--request", "192.0.2.1:0"]), None);
    let line = process.wait_for("skyorg: cannot listen on 192.0.2.1:0");
    assert!(line.ends_with("(os error 99); choose an address of this host"), "{line}");
    assert_eq!(process.ended().code(), Some(1));
}
