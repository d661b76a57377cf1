//! What a process says of itself, asked for by its socket and by TCP, of the real binary.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, Mode, PATIENCE, Process, SKYORG, Setup, Tunnel, connect, echo_server};
use rustix::process::Signal;

/// `skyorg status` with these arguments, and no sockets but those that they name.
fn status(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(SKYORG);
    command.arg("status").args(arguments).env_remove("RUNTIME_DIRECTORY").env_remove("COLUMNS");
    let Output { status, stdout, stderr } =
        command.env("XDG_RUNTIME_DIR", "/nonexistent").stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// The answer to a request.
fn ask(mut stream: impl Read + Write, path: &str, host: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn get(at: SocketAddr, path: &str) -> String {
    ask(connect(at), path, "localhost")
}

/// A tunnel whose server is asked at these two places.
fn tunnel(local: SocketAddr, socket: &str) -> (Tunnel, SocketAddr) {
    let setup = Setup::new(Mode::Sealed).server(&["--status", socket, "--metrics", "0"]);
    let tunnel = setup.start(local);
    let line = tunnel.server.wait_for("metrics: http://");
    let address = line.split("http://").nth(1).and_then(|rest| rest.trim_end_matches('/').parse().ok());
    (tunnel, address.expect("an address"))
}

#[test]
fn a_process_is_asked_by_its_socket_until_it_ends() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let (mut tunnel, _) = tunnel(echo_server(), &socket);
    let (_, screen, _) = status(&["--status", &socket]);
    let pid = tunnel.server.pid().as_raw_nonzero().to_string();
    assert!(screen.starts_with(&format!("skyorg server, process {pid}, up ")), "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    let (_, document, _) = status(&["--json", "--status", &socket]);
    let head = format!("{{\"version\":1,\"processes\":[{{\"role\":\"server\",\"pid\":{pid},");
    assert!(document.starts_with(&head) && document.ends_with("]}\n"), "{document}");

    tunnel.server.kill();
    assert!(fs::exists(&socket).expect("the folder is ours"), "nobody has removed it");
    let (code, _, complaint) = status(&["--status", &socket]);
    assert!(code == Some(2) && complaint.contains("no process answers at"), "{complaint}");
    let arguments = ["server", "--keys", &tunnel.key, "--request", "127.0.0.1:0", "--message", "127.0.0.1:0"];
    let more = ["--control", "127.0.0.1:0", "--status", &socket];
    let mut successor = Process::skyorg(&[&arguments[..], &more].concat(), None);
    successor.wait_for("control connections: ");
    assert!(status(&["--status", &socket]).1.starts_with("skyorg server"), "the dead one is replaced");
    successor.signal(Signal::TERM);
    assert!(successor.ended().success());
    assert!(!fs::exists(&socket).expect("the folder is ours"));
}

#[test]
fn sockets_are_found_where_processes_make_them() {
    let folder = Folder::new();
    let key = folder.key();
    let start = || {
        let mut command = Command::new(SKYORG);
        command.args(["server", "--keys", &key, "--request", "127.0.0.1:0", "--message", "127.0.0.1:0"]);
        command.args(["--control", "127.0.0.1:0"]).env("XDG_RUNTIME_DIR", folder.path(""));
        command.env_remove("RUNTIME_DIRECTORY");
        let process = Process::start("server", command);
        process.wait_for("control connections: ");
        process
    };
    let found = |role: &str| {
        let mut command = Command::new(SKYORG);
        command.args(["status", role, "--json"]).env_remove("RUNTIME_DIRECTORY");
        let output = command.env("XDG_RUNTIME_DIR", folder.path("")).output().expect("it starts");
        String::from_utf8(output.stdout).expect("text")
    };
    let [first, second] = [start(), start()];
    second.wait_for("is that of another process; this one has");
    let both = found("server");
    for process in [&first, &second] {
        let pid = format!("\"pid\":{},", process.pid().as_raw_nonzero());
        assert_eq!(both.matches(&pid).count(), 1, "{both}");
    }
    assert!(!found("client").contains(&format!("\"pid\":{},", first.pid().as_raw_nonzero())));
}

#[test]
fn a_process_that_does_not_answer_is_named() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let (tunnel, _) = tunnel(echo_server(), &socket);
    tunnel.server.signal(Signal::STOP);
    let begun = Instant::now();
    let (code, _, complaint) = status(&["--status", &socket]);
    assert_eq!(
        complaint,
        format!("skyorg: process {} does not answer\n", tunnel.server.pid().as_raw_nonzero())
    );
    assert!(code == Some(2) && begun.elapsed() < Duration::from_secs(5));
    let (code, ..) = status(&["--wait", "1", "--status", &socket]);
    assert_eq!(code, Some(2));
    tunnel.server.signal(Signal::CONT);
}

#[test]
fn the_exit_status_is_that_of_all_services() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let setup = Setup::new(Mode::Sealed).server(&["--status", &socket, "--service", "other=127.0.0.1:0"]);
    let mut tunnel = setup.start(echo_server());
    let code = |wait: &str| status(&["--wait", wait, "--status", &socket]).0;
    // One service is proven by a probe, and the other one has no client.
    let deadline = Instant::now() + PATIENCE;
    while code("0") != Some(1) {
        assert!(Instant::now() < deadline, "{}", status(&["--status", &socket]).1);
    }
    let screen = status(&["--status", &socket]).1;
    assert!(screen.contains("\n  no client\n") && screen.contains(" proven "), "{screen}");
    let (begun, patience) = (Instant::now(), Duration::from_secs(1));
    assert!(code("1") == Some(1) && begun.elapsed() >= patience, "it waits for all");
    let arguments = ["--publish", &format!("other={}", tunnel.local())];
    tunnel.client = None;
    let control = tunnel.control.to_string();
    let local = tunnel.local();
    let client = ["client", "--server", &control, "--local", &local, "--key", &tunnel.key];
    let both = Process::skyorg(&[&client[..], &arguments].concat(), None);
    assert_eq!(code("20"), Some(0));
    drop(both);
    let deadline = Instant::now() + PATIENCE;
    while code("0") != Some(2) {
        assert!(Instant::now() < deadline, "{}", status(&["--status", &socket]).1);
    }
}

#[test]
fn a_process_that_drains_gives_its_listener_to_the_next_one() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let (mut tunnel, metrics) = tunnel(echo_server(), &socket);
    let mut user = tunnel.user();
    user.write_all(b"hello").expect("the session stands");
    user.read_exact(&mut [0; 5]).expect("its echo");
    tunnel.server.signal(Signal::TERM);
    tunnel.server.wait_for("draining");
    let key = tunnel.key.clone();
    let arguments = ["server", "--keys", &key, "--request", "127.0.0.1:0", "--message", "127.0.0.1:0"];
    let place = metrics.to_string();
    let more = ["--control", "127.0.0.1:0", "--status", "none", "--metrics", &place];
    let next = Process::skyorg(&[&arguments[..], &more].concat(), None);
    next.wait_for(&format!("metrics: http://{metrics}/"));
    assert!(status(&["--status", &socket]).1.contains(", draining;"), "the old one is still asked");
    drop(user);
    assert!(tunnel.server.ended().success());
}

#[test]
fn the_live_screen_is_drawn_each_second_and_q_leaves_the_terminal_as_it_was() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let (_tunnel, _) = tunnel(echo_server(), &socket);
    // script(1) has a terminal.
    let line = format!("stty rows 24 cols 60; {SKYORG} status -f --status {socket}; echo exit=$?; stty -a");
    let mut command = Command::new("script");
    command
        .args(["-qfc", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let Ok(mut terminal) = command.spawn() else { return skip("script") };
    let (mut keys, mut shown) =
        (terminal.stdin.take().expect("piped"), terminal.stdout.take().expect("piped"));
    let mut text = String::new();
    let mut read_until = |is_there: &dyn Fn(&str) -> bool| {
        let mut bytes = [0; 4_096];
        while !is_there(&text) {
            let count = shown.read(&mut bytes).expect("it is open");
            assert!(count > 0, "it has ended: {text}");
            text += &String::from_utf8_lossy(&bytes[..count]);
        }
        text.clone()
    };
    let screens = read_until(&|text| {
        text.matches("\x1b[Hskyorg server").count() + text.matches("\x1b[1mskyorg").count() >= 2
    });
    assert!(screens.contains("\x1b[?1049h\x1b[?25l"));
    keys.write_all(b"q").expect("it is open");
    let all = read_until(&|text| text.contains("echok"));
    assert!(all.contains("\x1b[?25h\x1b[?1049l") && all.contains("exit=0"), "{all}");
    assert!(all.contains(" icanon") && all.contains(" echo "), "{all}");
    // What stands between sequences of the terminal.
    let is_narrow = |line: &str| {
        let mut parts = line.split('\x1b');
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| part.split_once(['m', 'K', 'H', 'J', 'h', 'l']).map_or("", |it| it.1));
        (first + &rest.collect::<String>()).trim_end().chars().count() <= 60
    };
    // A screen begins at the top, and the last one may be there in part.
    let screens = screens.replace("\x1b[H", "\n");
    let (whole, _) = screens.rsplit_once('\n').expect("lines");
    assert!(whole.lines().skip(1).all(is_narrow), "{screens}");
    let _ = terminal.wait();
}

#[test]
fn a_place_that_is_named_and_cannot_be_is_a_failure() {
    let folder = Folder::new();
    let key = folder.key();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let metrics = taken.local_addr().expect("bound").to_string();
    let socket = folder.path("nowhere/own.sock");
    for (flag, value, complaint) in [
        ("--metrics", &metrics, format!("cannot listen on {metrics} for metrics: ")),
        ("--status", &socket, format!("cannot make the socket {socket} for 'skyorg status': ")),
    ] {
        let arguments = ["server", "--keys", &key, "--request", "127.0.0.1:0", "--message", "127.0.0.1:0"];
        let mut process =
            Process::skyorg(&[&arguments[..], &["--control", "127.0.0.1:0", flag, value]].concat(), None);
        assert_eq!(process.ended().code(), Some(1));
        process.wait_for(&complaint);
    }
}

#[test]
fn readers_who_stop_delay_nobody_and_are_sent_away() {
    let folder = Folder::new();
    let socket = folder.path("own.sock");
    let (tunnel, metrics) = tunnel(echo_server(), &socket);
    let begun = Instant::now();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(metrics);
            stream.write_all(b"GET /metrics HT").expect("it listens");
            stream
        })
        .collect();
    let silent: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    let mut user = tunnel.user();
    for _ in 0..20 {
        let asked = Instant::now();
        assert!(status(&["--status", &socket]).1.starts_with("skyorg server"));
        assert!(get(metrics, "/metrics").contains("skyorg_build_info"));
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        let asked = Instant::now();
        user.write_all(b"hello").expect("the session stands");
        user.read_exact(&mut [0; 5]).expect("its echo");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
    let deadline = begun + Duration::from_secs(15);
    let left = || Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let is_sent_away = |read: io::Result<usize>| match read {
        Ok(count) => count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    };
    for mut stream in slow {
        stream.set_read_timeout(left()).expect("a good time");
        assert!(is_sent_away(stream.read(&mut [0])), "it was not sent away within 15 s");
    }
    for mut stream in silent {
        stream.set_read_timeout(left()).expect("a good time");
        assert!(is_sent_away(stream.read(&mut [0])), "it was not sent away within 15 s");
    }
}

#[test]
fn a_reload_opens_the_new_listener_first_and_a_refused_one_is_told_at_the_head() {
    let folder = Folder::new();
    folder.key();
    let socket = folder.path("own.sock");
    let file = |more: &str| {
        let own =
            "message = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\nkeys = \"key\"\nstatus = \"own.sock\"\n"
                .to_owned();
        folder.file("server.toml", own + more + "\n[service.web]\nlisten = \"127.0.0.1:0\"\n")
    };
    let path = file("metrics = 0");
    let server = Process::skyorg(&["server", "--config", &path], None);
    server.wait_for("control connections: ");
    let metrics = |count| {
        let line = server.wait_for_count("metrics: http://", count).pop().expect("so many");
        let address = line.split("http://").nth(1).expect("an address").trim_end_matches('/');
        address.parse::<SocketAddr>().expect("an address")
    };
    let first = metrics(1);
    assert!(get(first, "/status.json").contains("\"refused\":null"));
    file("metrics = \"[::1]:0\"");
    server.signal(Signal::HUP);
    server.wait_for("reloaded");
    let second = metrics(2);
    assert!(get(second, "/metrics").contains("skyorg_configuration_refused 0"));
    server.wait_until("the old listener is closed", || TcpStream::connect(first).is_err());

    // One that is taken, and one that is none.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let _holder = TcpListener::bind(taken).expect("still free");
    file(&format!("metrics = \"{taken}\""));
    server.signal(Signal::HUP);
    let line = server.wait_for(&format!("cannot listen on {taken} for metrics: "));
    assert!(line.contains("refused ") && line.contains("server.toml:5:1: "), "{line}");
    assert!(get(second, "/metrics").contains("skyorg_configuration_refused 1"));
    file("metrics = \"nowhere\"\npool = 0");
    server.signal(Signal::HUP);
    server.wait_for("refused ".to_owned().as_str());
    server.wait_for("server.toml:5:11: ");
    let (code, screen, _) = status(&["--status", &socket]);
    let line = screen.lines().nth(1).expect("it is at the head");
    assert!(line.starts_with("configuration refused since 2") && code != Some(0), "{screen}");
    let (_, document, _) = status(&["--json", "--status", &socket]);
    assert!(document.contains("server.toml:5:11: wanted ") && document.contains("server.toml:6:8: wanted "));
    file("");
    server.signal(Signal::HUP);
    server.wait_for_count("reloaded", 2);
    server.wait_until("there are no metrics", || TcpStream::connect(second).is_err());
    assert!(!status(&["--status", &socket]).1.contains("refused"));
}

#[test]
fn promtool_has_nothing_against_the_metrics() {
    let folder = Folder::new();
    let (_tunnel, metrics) = tunnel(echo_server(), &folder.path("own.sock"));
    let answer = get(metrics, "/metrics");
    let (_, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else { return skip("promtool") };
    promtool.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let Output { status, stdout, stderr } = promtool.wait_with_output().expect("it ends");
    let said = [stdout, stderr].concat();
    assert!(status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Says that a test is skipped for want of this.
fn skip(name: &str) {
    println!("skipped: {name} is not installed");
    let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
    assert!(!required, "{name} is not installed");
}
