//! The command line: every mistake is one sentence that says what was wanted, found and to do, and a status.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use common::{Folder, MODES, Mode, Process, SKYORG, Setup, Tunnel, converse, echo_server, read_out};

/// What a command that ends by itself leaves: its status, and its two outputs.
struct Outcome {
    status: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    let folder = Folder::new();
    let mut command = Command::new(SKYORG);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // No default key file but one in a folder of this test's own.
    command.env_remove("SKYORG_KEY").env("XDG_CONFIG_HOME", folder.path(""));
    command.envs(variables.iter().copied());
    let mut child = command.spawn().expect("the program starts");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    // A command that hangs instead of failing is killed by the deadline of the whole test.
    let status = wait(&mut child, arguments);
    let mut outcome = Outcome { status, stdout: String::new(), stderr: String::new() };
    stdout.read_to_string(&mut outcome.stdout).expect("text");
    stderr.read_to_string(&mut outcome.stderr).expect("text");
    outcome
}

fn wait(child: &mut std::process::Child, arguments: &[&str]) -> i32 {
    let deadline = std::time::Instant::now() + common::PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status.code().unwrap_or_else(|| panic!("{arguments:?} was killed: {status}"));
        }
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{arguments:?} does not end");
        }
        common::measure(std::time::Duration::from_millis(2));
    }
}

/// Runs a mistake: the status, and one sentence on standard error that holds all these parts.
fn fails(arguments: &[&str], status: i32, parts: &[&str]) {
    fails_with(arguments, &[], status, parts);
}

fn fails_with(arguments: &[&str], variables: &[(&str, &str)], status: i32, parts: &[&str]) {
    let outcome = run(arguments, variables);
    // The log may stand before it, and nothing behind it.
    let text = outcome.stderr.lines().last().unwrap_or_default();
    assert_eq!(outcome.status, status, "{arguments:?}: {}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "{arguments:?}");
    assert!(!outcome.stderr.contains("panicked"), "{arguments:?}: {}", outcome.stderr);
    assert!(text.starts_with("skyorg: "), "{arguments:?}: {}", outcome.stderr);
    for part in parts {
        assert!(text.contains(part), "{arguments:?} does not say '{part}': {text}");
    }
}

/// Local addresses for a server whose ports do not matter.
const ANY_PORTS: [&str; 6] =
    ["--request", "127.0.0.1:0", "--message", "127.0.0.1:0", "--control", "127.0.0.1:0"];

#[test]
fn what_cannot_be_read_is_bad_usage() {
    fails(&["serve"], 2, &["serve", "--help"]);
    fails(&["server", "--prot", "1"], 2, &["--prot", "skyorg server --help"]);
    fails(&["client", "--server"], 2, &["--server", "skyorg client --help"]);
    fails(&["server", "--request", "here"], 2, &["--request", "here"]);
    fails(&["server", "--request", "127.0.0.1:70000"], 2, &["--request", "127.0.0.1:70000"]);
    fails(&["server", "--service", "5432"], 2, &["NAME=ADDR"]);
    fails(&["server", "--service", "db=here"], 2, &["behind NAME=, wanted PORT"]);
    fails(&["server", "--pool", "0"], 2, &["--pool", "from 1 to 1000"]);
    fails(&["client", "--server", "host:port", "--local", "1"], 2, &["host:port"]);
    fails(&["client", "--server", "host", "--local", "[::1"], 2, &["[::1"]);
    fails(&["client", "--local", "8080"], 2, &["--server HOST"]);
    fails(&["client", "--server", "host"], 2, &["nothing to publish", "--local"]);
    fails(&["server", "--service", "a=1", "--service", "a=2"], 2, &["'a' is given twice"]);
    fails(&["server", "--request", "5000", "--control", "5000"], 2, &["5000", "a port of its own"]);
    let one_for_all = ["server", "--request", "5000", "--message", "5000", "--control", "5000"];
    fails(&one_for_all, 2, &["5000", "only --message and --control may share one"]);
    fails(&["keygen", "two words"], 2, &["letters, digits"]);
}

#[test]
fn a_key_file_that_is_wrong_is_named_with_each_of_its_faults() {
    let folder = Folder::new();
    let good = "office AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let client = ["client", "--server", "127.0.0.1", "--local", "1", "--key"];
    let server = [&["server"], &ANY_PORTS[..], &["--keys"]].concat();
    let secret = "A".repeat(43);
    let texts = [
        ("# comment\n\noffice\n".to_owned(), &["3:1: wanted NAME SECRET"][..]),
        (format!("{good}\nhome AAAA\n"), &["2:6: wanted a secret of 43 characters"]),
        (format!("{good}\n{good}\n"), &["2:1: wanted a name of its own, found that of line 1"]),
        (format!("of/fice {secret}\n{good}\nb c\n"), &["1:1: wanted a name of", "3:3: wanted a secret of"]),
        ("# nothing\n".to_owned(), &["1:1: wanted at least one line NAME SECRET, as 'skyorg keygen'"]),
    ];
    for (number, (text, faults)) in texts.iter().enumerate() {
        let path = folder.file(&format!("key{number}"), text);
        for command in [&client[..], &server[..]] {
            let outcome = run(&[command, &[&path]].concat(), &[]);
            let told: Vec<&str> = outcome.stderr.lines().collect();
            assert_eq!((outcome.status, told.len()), (2, faults.len()), "{}", outcome.stderr);
            for (line, fault) in told.iter().zip(*faults) {
                assert!(line.starts_with(&format!("{path}:{fault}")), "{fault}: {line}");
            }
        }
    }
    let missing = folder.path("missing");
    fails(&[&client[..], &[&missing]].concat(), 2, &[&missing, "SKYORG_KEY"]);
    let advice = format!("(umask 077; skyorg keygen > {missing})");
    fails(&[&server[..], &[&missing]].concat(), 2, &["no key file at", &advice]);
    assert!(!fs::exists(&missing).expect("the folder is ours"), "a file that was named is not made");
    let directory = folder.path("");
    fails(&[&client[..], &[&directory]].concat(), 2, &["cannot read the key file"]);
    fails(&[&server[..], &[&directory]].concat(), 2, &["cannot read the key file"]);
    fails_with(&client[..5], &[("SKYORG_KEY", "half")], 2, &["SKYORG_KEY, line 1: "]);
}

#[test]
fn a_secret_is_never_shown() {
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";
    let line = format!("office {secret}");
    for arguments in [
        &["client", "--server", "127.0.0.1", "--local", "1", "--key", &line][..],
        &["server", "--keys", secret],
        &["client", "--server", "127.0.0.1", "--local", "1", "--key", secret],
    ] {
        let outcome = run(arguments, &[]);
        assert_eq!(outcome.status, 2, "{}", outcome.stderr);
        assert!(!outcome.stderr.contains(secret), "{}", outcome.stderr);
    }
    let broken = format!("office {secret}x");
    let outcome = run(&["client", "--server", "127.0.0.1", "--local", "1"], &[("SKYORG_KEY", &broken)]);
    assert!(outcome.status == 2 && !outcome.stderr.contains(secret), "{}", outcome.stderr);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = Folder::new();
    let key = folder.key();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    // At once: each waits some seconds for the port.
    std::thread::scope(|scope| {
        for place in [1, 3, 5] {
            let (key, address) = (&key, &address);
            scope.spawn(move || {
                let mut arguments = ANY_PORTS;
                arguments[place] = address;
                let arguments = [&["server", "--keys", key][..], &arguments].concat();
                fails(&arguments, 1, &["cannot listen on", address, "choose another"]);
            });
        }
    });
    // An address of documentation is not this host's (RFC 5737).
    let mut arguments = ANY_PORTS;
    arguments[1] = "192.0.2.1:0";
    fails(
        &[&["server", "--keys", &key][..], &arguments].concat(),
        1,
        &["192.0.2.1:0", "address of this host"],
    );
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let folder = Folder::new();
    let path = folder.path("no/such/folder");
    fails(&["server", "--log-file", &path], 2, &["cannot open the log file", &path]);
}

#[test]
fn texts_go_to_standard_output_and_end_well() {
    for (arguments, part) in [
        (&["--help"][..], "Usage: skyorg"),
        (&["server", "--help"], "--request"),
        (&["client", "--help"], "--local"),
        (&["keygen", "--help"], "keygen"),
        (&["demo", "--help"], "--once"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let outcome = run(arguments, &[]);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(outcome.stdout.contains(part), "{arguments:?}: {}", outcome.stdout);
    }
}

#[test]
fn a_new_key_is_one_line_that_both_sides_take() {
    let outcome = run(&["keygen", "office"], &[]);
    assert_eq!((outcome.status, outcome.stdout.lines().count()), (0, 1));
    let other = run(&["keygen", "office"], &[]);
    assert_ne!(outcome.stdout, other.stdout, "each is random");
    let folder = Folder::new();
    let keys = folder.file("keys", format!("# keys\n\n{}home {}", outcome.stdout, &other.stdout[7..]));
    let server = Process::skyorg(&[&["server", "--keys", &keys][..], &ANY_PORTS].concat(), None);
    let line = server.wait_for("control connections: ");
    let control = line.rsplit(' ').next().expect("an address");
    // The client's line is in its environment.
    let mut command = Command::new(SKYORG);
    command.args(["client", "--server", control, "--local", "1"]);
    command.env("SKYORG_KEY", outcome.stdout.trim());
    let client = Process::start("skyorg client", command);
    client.wait_for("with key office");
    server.wait_for("client office connected from");
}

#[test]
fn a_server_makes_its_first_key_file_and_says_where() {
    let folder = Folder::new();
    let path = folder.path("new/skyorg/key");
    let start = || {
        let mut command = Command::new(SKYORG);
        command.arg("server").args(ANY_PORTS).env("XDG_CONFIG_HOME", folder.path("new"));
        Process::start("skyorg server", command)
    };
    let mut server = start();
    server.wait_for(&path);
    server.wait_for("control connections: ");
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&path).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(&path).expect("readable");
    server.kill();
    let server = start();
    server.wait_for("control connections: ");
    assert!(!server.lines().iter().any(|line| line.contains("no key file")), "it is there now");
    assert_eq!(fs::read(&path).expect("readable"), before);
}

#[test]
fn a_key_file_that_others_can_read_gets_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let path = folder.file("key", run(&["keygen"], &[]).stdout);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    let server = Process::skyorg(&[&["server", "--keys", &path][..], &ANY_PORTS].concat(), None);
    let line = server.wait_for("others have access");
    assert!(line.contains("chmod 600"), "{line}");
}

#[test]
fn a_service_that_the_server_does_not_have_is_said_at_both_sides_and_the_rest_works() {
    let local = echo_server();
    let db = format!("db={local}");
    let mut tunnel = Setup::new(Mode::Sealed).client(&["--publish", &db]).start(local);
    let line = tunnel.client().wait_for("db: denied: unknown service");
    assert!(line.contains("--service db=ADDR"), "{line}");
    tunnel.server.wait_for("may not publish db: unknown service");
    converse(&mut tunnel.user(), b"the default works");
}

#[test]
fn several_services_lead_to_their_own_local_servers() {
    let named = |name: &'static str| {
        common::serve(move |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, name.as_bytes());
        })
    };
    let db = format!("db={}", named("db"));
    let setup = Setup::new(Mode::Sealed).server(&["--service", "db=127.0.0.1:0"]).client(&["--publish", &db]);
    let tunnel = setup.start(named("default"));
    let line = tunnel.server.wait_for("service db: users connect to ");
    let users = line.rsplit(' ').next().and_then(|address| address.parse().ok()).expect("an address");
    for _ in 0..3 {
        assert_eq!(read_out(&mut common::connect(users)).0, b"db");
        assert_eq!(read_out(&mut tunnel.user()).0, b"default");
    }
}

#[test]
fn sides_that_disagree_on_plain_say_so_and_keep_trying() {
    for (mode, other) in [(Mode::Sealed, Some("--plain")), (Mode::Plain, None)] {
        let tunnel = Tunnel::start(mode, echo_server());
        let control = tunnel.control.to_string();
        let mut arguments = vec!["client", "--server", &control, "--local", "1", "--key", &tunnel.key];
        arguments.extend(other);
        let mut client = Process::skyorg(&arguments, None);
        let line = client.wait_for("[ERROR]");
        assert!(line.contains("--plain"), "{line}");
        tunnel.server.wait_for("was refused");
        assert!(client.is_running());
        converse(&mut tunnel.user(), b"the right client works");
    }
}

#[test]
fn each_ended_session_is_one_line_at_each_side() {
    let mut tunnel = Tunnel::start(Mode::Sealed, echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"hello");
    let address = user.local_addr().expect("connected");
    drop(user);
    for line in [
        tunnel.server.wait_for(&format!("user {address} of default: 5 bytes in, 5 bytes out, ")),
        tunnel.client().wait_for(&format!("user {address} of default at ")),
    ] {
        assert!(line.contains("] #") && line.ends_with(" s, finished"), "{line}");
    }
    let count = tunnel.server.lines().iter().filter(|line| line.contains(&address.to_string())).count();
    assert_eq!(count, 1);
}

#[test]
fn the_log_goes_to_its_file() {
    let folder = Folder::new();
    let (key, log) = (folder.key(), folder.path("log"));
    let arguments = [&["server", "--keys", &key, "--log-file", &log][..], &ANY_PORTS].concat();
    let server = Process::skyorg(&arguments, None);
    server.wait_until("the log is written", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("control connections: "))
    });
    assert!(!server.lines().iter().any(|line| line.contains("[INFO")));
}

/// What a message suggests behind 'such as', up to the ';' before where help is.
fn suggestions(message: &str) -> Vec<String> {
    let examples = message.split_once("such as ").expect("a suggestion").1;
    let examples = examples.split(';').next().unwrap_or_default().replace(" or ", ", ");
    examples.split(", ").map(str::to_owned).collect()
}

#[test]
fn what_an_error_suggests_is_taken() {
    let server = &["server"][..];
    let client = &["client", "--server", "localhost"];
    for (command, option, wrong) in [
        (server, "--service", "a"),
        (server, "--service", "8080"),
        (server, "--request", "here"),
        (server, "--message", "here"),
        (server, "--control", "here"),
        (client, "--publish", "a"),
        (client, "--local", "http://localhost/"),
        (client, "--local", "localhost"),
        (client, "--local", "[::1"),
        (client, "--message", ":8080"),
        (client, "--message", "8080"),
        (client, "--message", "localhost"),
    ] {
        let outcome = run(&[command, &[option, wrong]].concat(), &[]);
        assert_eq!(outcome.status, 2, "{option} {wrong}");
        let suggested = suggestions(outcome.stderr.trim());
        for (number, value) in suggested.iter().enumerate() {
            // It is taken if the complaint is of something else: here, of the key file that is not there.
            let more = ["--local", "1", if command == server { "--keys" } else { "--key" }, "/nowhere/key"];
            let more = if command == server || option == "--local" { &more[2..] } else { &more[..] };
            let outcome = run(&[command, &[option, value], more].concat(), &[]);
            let text = outcome.stderr;
            assert!(
                text.contains("no key file at /nowhere/key"),
                "{option} {wrong}, {number}: {value}: {text}"
            );
        }
    }
}

#[test]
fn one_port_serves_message_and_control_connections() {
    for mode in MODES {
        // Another program may take the free port first.
        let mut tries = 0;
        let tunnel = loop {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let free = free.expect("a free port").to_string();
            let folder = Folder::new();
            let key = folder.key();
            let mut arguments = vec!["server", "--keys", &key, "--request", "127.0.0.1:0"];
            arguments.extend(["--message", &free, "--control", &free]);
            arguments.extend((mode == Mode::Plain).then_some("--plain"));
            let server = Process::skyorg(&arguments, None);
            if server.wait_for("").contains("cannot listen on") && tries < 10 {
                tries += 1;
                continue;
            }
            break (server, free, key, folder);
        };
        let (server, port, key, _folder) = tunnel;
        assert!(server.wait_for("message connections: ").ends_with(&port));
        assert!(server.wait_for("control connections: ").ends_with(&port));
        let users = server.wait_for("users connect to ");
        let users = users.rsplit(' ').next().and_then(|address| address.parse().ok()).expect("an address");
        let local = echo_server().to_string();
        let mut arguments = vec!["client", "--server", &port, "--local", &local, "--key", &key];
        arguments.extend((mode == Mode::Plain).then_some("--plain"));
        let client = Process::skyorg(&arguments, None);
        client.wait_for("service default: users of port");
        for _ in 0..3 {
            converse(&mut common::connect(users), b"through one port");
        }
    }
}

#[test]
fn few_descriptors_are_told_where_more_users_were_asked_for_and_nowhere_else() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024; exec \"$0\" demo --once 2>&1"]).arg(SKYORG).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.starts_with("A request went through the tunnel"), "{text}");

    let key = folder.key();
    let arguments = [&["server", "--keys", &key][..], &ANY_PORTS].concat();
    let asked = Process::skyorg(&[&arguments[..], &["--max-users", "10000"]].concat(), Some(1024));
    let line = asked.wait_for("1024 file descriptors are enough for");
    assert!(line.contains("not for 10000") && line.contains("--max-users"), "{line}");
    for more in [&[][..], &["--max-users", "100"]] {
        let modest = Process::skyorg(&[&arguments[..], more].concat(), Some(1024));
        modest.wait_for("control connections: ");
        assert!(!modest.lines().iter().any(|line| line.contains("file descriptors")));
    }
}

#[test]
fn the_demo_shows_a_request_and_ends_well() {
    let mut command = Command::new(SKYORG);
    command.args(["demo", "--once"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok).collect();
    assert_eq!(wait(&mut child, &["demo", "--once"]), 0, "{lines:?}");
    assert!(lines.len() > 3, "{lines:?}");
}

/// More is published, and answered, than a control connection's ring holds.
#[test]
fn a_client_may_publish_a_thousand_services() {
    const OTHERS: usize = 1_023;
    let local = echo_server();
    let name = |number: usize| format!("service-with-a-name-that-takes-some-room-{number}");
    let services: Vec<String> =
        (0..OTHERS).map(|number| format!("--service={}=127.0.0.1:0", name(number))).collect();
    let publish: Vec<String> =
        (0..OTHERS).map(|number| format!("--publish={}={local}", name(number))).collect();
    let words = |words: &[String]| words.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert!(words(&publish).len() > 64 * 1024);
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let publish: Vec<&str> = publish.iter().map(String::as_str).collect();
    let mut tunnel = Setup::new(Mode::Sealed).server(&services).client(&publish).start(local);
    tunnel.client().wait_for_count("users of port", OTHERS + 1);
    converse(&mut tunnel.user(), b"one of many");
}
