//! Never green when dead: faults that are made for real, and what `skyorg status` says of them while somebody looks, after
//! nobody has looked, and once they are over.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::own_network::{in_own_network, is_installed};
use common::{Folder, Mode, Process, SKYORG, Setup, Tunnel, echo, echo_server, measure};
use rustix::process::Signal;

/// While somebody looks, a fault is named within this time, and its end is seen.
const LOOKING: Duration = Duration::from_secs(10);
/// While nobody looks, it is named within this time.
const NOT_LOOKING: Duration = Duration::from_secs(45);

/// Where to look at a process.
struct Look {
    socket: String,
}

impl Look {
    fn at(socket: &str) -> Look {
        Look { socket: socket.to_owned() }
    }

    fn once(&self) -> (i32, String) {
        let mut command = Command::new(SKYORG);
        command.args(["status", "--status", &self.socket]).env("COLUMNS", "300").stdin(Stdio::null());
        let Output { status, stdout, .. } = command.output().expect("it runs");
        (status.code().expect("it ends by itself"), String::from_utf8(stdout).expect("text"))
    }

    /// Looks once a second until it shows this; what it showed then.
    fn until(&self, what: &str, time: Duration, mut is_so: impl FnMut(i32, &str) -> bool) -> String {
        let since = Instant::now();
        loop {
            let (status, text) = self.once();
            if is_so(status, &text) {
                println!("{what}: after {:?}", since.elapsed());
                return text;
            }
            assert!(since.elapsed() < time, "{what}: not within {time:?}: {status} {text}");
            measure(Duration::from_millis(500));
        }
    }

    fn until_proven(&self) {
        self.until("proven", LOOKING, |status, _| status == 0);
    }

    fn until_named(&self, words: &str) -> String {
        self.until(words, LOOKING, |status, text| status != 0 && text.contains(words))
    }
}

/// A server and a client, and where to look at them.
struct Watched {
    tunnel: Tunnel,
    server: Look,
    client: Look,
    folder: Folder,
}

impl Watched {
    /// Starts both, and waits until everything is proven.
    fn start(local: &str) -> Watched {
        let it = Watched::begin(Setup::new(Mode::Sealed), local);
        it.until_proven();
        it
    }

    fn begin(setup: Setup, local: &str) -> Watched {
        let folder = Folder::new();
        let [server, client] = ["server.sock", "client.sock"].map(|name| folder.path(name));
        let tunnel = setup.server(&["--status", &server]).client(&["--status", &client]).start_named(local);
        Watched { tunnel, server: Look::at(&server), client: Look::at(&client), folder }
    }

    fn until_proven(&self) {
        self.server.until_proven();
        self.client.until_proven();
    }
}

/// A local server that can go and come back at the same address.
struct Local {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

impl Local {
    fn start() -> Local {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut local = Local { address, listener: None };
        local.serve(listener);
        local
    }

    fn serve(&mut self, listener: TcpListener) {
        let serving = listener.try_clone().expect("a descriptor");
        thread::spawn(move || serving.incoming().map_while(Result::ok).for_each(echo));
        self.listener = Some(listener);
    }

    /// Nobody listens there any more.
    fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).expect("it listens");
        }
    }

    fn start_again(&mut self) {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.set_reuse_address(true).expect("an option");
        listener.bind(&self.address.into()).and_then(|()| listener.listen(64)).expect("its port is free");
        self.serve(listener.into());
    }
}

#[test]
fn a_local_server_that_is_down_is_named_on_both_sides() {
    let mut local = Local::start();
    let it = Watched::start(&local.address.to_string());
    local.stop();
    it.server.until_named("local server refuses connections");
    it.client.until_named("local server refuses connections");
    local.start_again();
    it.until_proven();
}

#[test]
fn a_client_that_is_frozen_or_gone_is_named() {
    let mut it = Watched::start(&echo_server().to_string());
    it.tunnel.client().signal(Signal::STOP);
    it.server.until_named("client silent for ");
    it.tunnel.client().signal(Signal::CONT);
    it.until_proven();
    it.tunnel.client().kill();
    it.server.until_named("no client");
    it.tunnel.start_client();
    it.until_proven();
}

#[test]
fn what_nobody_looks_at_is_known_all_the_same() {
    let mut local = Local::start();
    let down = Watched::start(&local.address.to_string());
    let mut frozen = Watched::start(&echo_server().to_string());
    local.stop();
    frozen.tunnel.client().signal(Signal::STOP);
    measure(NOT_LOOKING);
    let shown = [&down.server, &down.client, &frozen.server].map(Look::once);
    frozen.tunnel.client().signal(Signal::CONT);
    let [server, client, frozen] = shown;
    for (status, text) in [server, client] {
        assert!(status == 2 && text.contains("local server refuses connections"), "{status} {text}");
    }
    // Its link ends after the heartbeat.
    let is_named = ["client silent for ", "no client"].iter().any(|words| frozen.1.contains(words));
    assert!(frozen.0 == 2 && is_named, "{} {}", frozen.0, frozen.1);
}

#[test]
fn a_local_server_that_says_nothing_is_told_of_and_not_called_dead() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let it = Watched::start(&silent.local_addr().expect("bound").to_string());
    for _ in 0..3 {
        let mut user = it.tunnel.user();
        user.write_all(b"anybody?").expect("it takes it");
        measure(Duration::from_millis(100));
    }
    let words = "no answer: the last 3 sessions that sent bytes got none";
    for look in [&it.server, &it.client] {
        look.until(words, LOOKING, |status, text| status == 0 && text.contains(words));
    }
}

#[test]
fn a_wrong_key_is_named_at_the_head_of_the_server_and_by_the_client() {
    let it = Watched::start(&echo_server().to_string());
    let (other, socket) = (Folder::new(), it.folder.path("other.sock"));
    let control = it.tunnel.control.to_string();
    let arguments =
        ["client", "--server", &control, "--local", "1", "--key", &other.key(), "--status", &socket];
    let stranger = Process::skyorg(&arguments, None);
    stranger.wait_for("connecting");
    Look::at(&socket).until_named("the server does not take this key: wrong, unknown or revoked");
    let named = " hellos with an unknown or wrong key in 10 min, last from 127.0.0.1";
    it.server.until("a wrong key", LOOKING, |_, text| text.contains(named));
}

#[test]
fn a_key_that_is_revoked_or_expired_is_named() {
    let (folder, local) = (Folder::new(), echo_server().to_string());
    let key = folder.key();
    let [server, client] = ["server.sock", "client.sock"].map(|name| folder.path(name));
    let write = |text: &str| {
        let ends = "message = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\nkeys = \"keys\"\n";
        let service = "[service.default]\nlisten = \"127.0.0.1:0\"\n";
        folder.file("server.toml", format!("{ends}{service}{text}"));
    };
    let keys = fs::read_to_string(&key).expect("it was written");
    folder.secret("keys", &keys);
    let policy = "[key.default]\nservices = \"*\"\n";
    write(policy);
    let running =
        Process::skyorg(&["server", "--config", &folder.path("server.toml"), "--status", &server], None);
    let control = running.address("control connections: ").to_string();
    let arguments = ["client", "--server", &control, "--local", &local, "--key", &key, "--status", &client];
    let refused = Process::skyorg(&arguments, None);
    let (server, client) = (Look::at(&server), Look::at(&client));
    client.until_proven();
    write(&format!("{policy}expires = 2020-01-01\n"));
    running.signal(Signal::HUP);
    client.until_named("key expired");
    server.until_named("key expired");
    write(policy);
    running.signal(Signal::HUP);
    // The next attempt of a client that was refused comes after a pause.
    drop(refused);
    let _client = Process::skyorg(&arguments, None);
    client.until_proven();
    let other = Folder::new();
    folder.secret("keys", &fs::read_to_string(other.key()).expect("it was written"));
    running.signal(Signal::HUP);
    server.until_named("key revoked");
    client.until_named("the server does not take this key: wrong, unknown or revoked");
}

#[test]
fn a_service_that_nobody_publishes_has_no_client() {
    let it = Watched::begin(
        Setup::new(Mode::Sealed).server(&["--service", "other=127.0.0.1:0"]),
        &echo_server().to_string(),
    );
    it.client.until_proven();
    let text = it.server.until_named("no client");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("other "));
    assert!(lines.next().is_some_and(|row| row.contains(" failing ")), "{text}");
    assert_eq!(lines.next().map(str::trim), Some("no client"), "{text}");
}

#[test]
fn a_name_that_does_not_resolve_is_named_by_the_client() {
    let it = Watched::begin(Setup::new(Mode::Sealed), "nowhere.invalid:80");
    it.client.until_named("nowhere.invalid does not resolve");
    it.server.until("no proof", LOOKING, |status, _| status == 2);
}

#[test]
fn a_process_out_of_descriptors_says_so() {
    let setup = Setup::new(Mode::Sealed).descriptors(128);
    let it = Watched::begin(setup, &echo_server().to_string());
    it.until_proven();
    let users: Vec<TcpStream> = (0..120).filter_map(|_| TcpStream::connect(it.tunnel.users).ok()).collect();
    it.server.until("out of descriptors", LOOKING, |_, text| text.contains("out of file descriptors"));
    let count = |text: &str| {
        let number = |rest: &str| rest.split(|it: char| !it.is_ascii_digit()).next()?.parse::<usize>().ok();
        text.split("descriptors ").skip(1).find_map(number)
    };
    users.iter().for_each(|user| user.set_nonblocking(true).expect("a socket"));
    let is_reset =
        |user: &&TcpStream| user.peek(&mut [0]).is_err_and(|it| it.kind() == ErrorKind::ConnectionReset);
    it.server.until("their refusals", LOOKING, |_, text| {
        let reset = users.iter().filter(is_reset).count();
        reset > 0 && count(text) == Some(reset)
    });
    drop(users);
    it.until_proven();
}

#[test]
fn a_configuration_that_is_refused_is_named_at_the_head() {
    let folder = Folder::new();
    folder.key();
    let [file, socket] = ["server.toml", "server.sock"].map(|name| folder.path(name));
    let good = "message = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\nkeys = \"key\"\n";
    folder.file("server.toml", good);
    let server = Process::skyorg(&["server", "--config", &file, "--status", &socket], None);
    server.wait_for("control connections: ");
    let look = Look::at(&socket);
    folder.file("server.toml", format!("{good}pol = 3\n"));
    server.signal(Signal::HUP);
    let text = look.until_named("server.toml:4:1: ");
    assert!(text.contains("refused"), "{text}");
    folder.file("server.toml", good);
    server.signal(Signal::HUP);
    look.until("not refused", LOOKING, |_, text| !text.contains("server.toml:4:1"));
}

/// Runs a test in a network of its own, where nft works.
fn blocks_in_own_network(test: &str) -> bool {
    let has_nft = is_installed("nft", &["--version"]);
    let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
    assert!(has_nft || !required, "nft is not installed");
    has_nft && in_own_network(test)
}

fn nft(rules: &str) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft starts");
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("it reads");
    assert!(nft.wait().expect("it ends").success(), "{rules}");
}

fn block(rules: &str) {
    nft(&format!("table inet blocked {{ chain input {{ type filter hook input priority 0; {rules} }}\n}}\n"));
}

#[test]
fn message_connections_that_are_swallowed_while_control_lives_are_named() {
    if !blocks_in_own_network("message_connections_that_are_swallowed_while_control_lives_are_named") {
        return;
    }
    let it = Watched::start(&echo_server().to_string());
    let (port, control) = (it.tunnel.message.port(), it.tunnel.control.port());
    // Nor can others be made by the control port.
    let no_more = format!("tcp dport {control} tcp flags & (syn|ack) == syn drop;");
    block(&format!("tcp dport {port} drop; tcp sport {port} drop; {no_more}"));
    it.server.until_named("message connections silent");
    nft("delete table inet blocked");
    it.until_proven();
}

#[test]
fn a_message_port_that_is_blocked_while_control_works_is_named_by_the_client() {
    if !blocks_in_own_network("a_message_port_that_is_blocked_while_control_works_is_named_by_the_client") {
        return;
    }
    for (way, words) in
        [("reject with tcp reset", "message port refused"), ("drop", "message port does not answer")]
    {
        let mut it = Watched::start(&echo_server().to_string());
        block(&format!("tcp dport {} tcp flags & (syn|ack) == syn {way};", it.tunnel.message.port()));
        it.tunnel.start_client();
        it.client.until(words, LOOKING, |_, text| text.contains(words));
        nft("delete table inet blocked");
        it.until_proven();
    }
}
