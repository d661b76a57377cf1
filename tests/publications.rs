//! What a client publishes, as those who run it see it: lines on standard output, the ready file, SIGHUP.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Folder, PATIENCE, Process, Records, SKYORG, connect, converse, echo_server, measure, serve};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, getpid, kill_process};
use skyorg::app::reload::Reread;
use skyorg::app::run::{Client, Server};
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::name::Name;
use skyorg::config::file::Running;
use skyorg::config::limits::Limits;
use skyorg::config::source::Places;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use skyorg::wire::handshake::Secret;

/// How long a process that is asked to end may take, though its standard output is not read.
const END: Duration = Duration::from_secs(5);

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// A server with two services: `default` at all interfaces, and `here` at one address.
fn server(folder: &Folder) -> (Process, [String; 2]) {
    let key = folder.key();
    let free = "127.0.0.1:0";
    let ports = ["--request", "0", "--service", "here=127.0.0.1:0", "--message", free, "--control", free];
    let server = Process::skyorg(&[&["server", "--keys", &key][..], &ports].concat(), None);
    let control = server.address("control connections: ").port().to_string();
    (server, [key, control])
}

/// A client of it whose standard output goes there.
fn client(arguments: &[&str], stdout: impl Into<Stdio>) -> (std::process::Child, Arc<Records<String>>) {
    let mut command = Command::new(SKYORG);
    command.args(arguments).env_remove("SKYORG_KEY");
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let log = Records::new();
    let (lines, stderr) = (log.clone(), child.stderr.take().expect("piped"));
    thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| lines.push(line))
    });
    (child, log)
}

fn wait_for(log: &Records<String>, text: &str) -> String {
    let found = log.find(PATIENCE, |lines| lines.iter().find(|line| line.contains(text)).cloned());
    found.unwrap_or_else(|| panic!("no line '{text}' in {:?}", log.all()))
}

fn terminate(mut child: std::process::Child) -> Duration {
    kill_process(Pid::from_child(&child), Signal::TERM).expect("the child is ours");
    let began = Instant::now();
    while child.try_wait().expect("a child of ours").is_none() {
        assert!(began.elapsed() < END, "it does not end");
        measure(Duration::from_millis(1));
    }
    began.elapsed()
}

#[test]
fn where_users_connect_is_told_on_standard_output_once_for_each_new_address() {
    let folder = Folder::new();
    let local = echo_server().to_string();
    let (first, [key, control]) = server(&folder);
    let at = format!("localhost:{control}");
    let here = format!("here={local}");
    let arguments = ["client", "--server", &at, "--key", &key, "--local", &local, "--publish", &here];
    let (mut child, log) = client(&arguments, Stdio::piped());
    let mut stdout: BufReader<ChildStdout> = BufReader::new(child.stdout.take().expect("piped"));
    let mut two_lines = || {
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            stdout.read_line(line).expect("text");
        }
        lines.sort();
        lines.map(|line| line.trim_end().to_owned())
    };
    let ports = |server: &Process| {
        ["default", "here"].map(|it| server.address(&format!("service {it}: users connect to ")).port())
    };
    let told = |[any, one]: [u16; 2]| {
        [
            format!("default: users connect to localhost:{any}"),
            format!("here: users connect to 127.0.0.1:{one}"),
        ]
    };
    assert_eq!(two_lines(), told(ports(&first)));
    // The same server on another link says nothing new; one with other ports does.
    let [any, one] = ports(&first).map(|port| port.to_string());
    drop(first);
    let again = |request: &str, here: &str| {
        let here = format!("here=127.0.0.1:{here}");
        let control = format!("127.0.0.1:{control}");
        let rest =
            ["--request", request, "--service", &here, "--message", "127.0.0.1:0", "--control", &control];
        let server = Process::skyorg(&[&["server", "--keys", &key][..], &rest].concat(), None);
        server.wait_for("publishes here");
        server
    };
    drop(again(&any, &one));
    let third = again("0", "0");
    assert_eq!(two_lines(), told(ports(&third)), "{:?}", log.all());
    terminate(child);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "");
}

#[test]
fn a_standard_output_that_nobody_reads_costs_lines_and_no_time() {
    const PIPE_BYTES: usize = 4096;
    let folder = Folder::new();
    let local = echo_server().to_string();
    let (server, [key, control]) = server(&folder);
    let at = format!("localhost:{control}");
    let (_reader, mut writer) = pipe().expect("a pipe");
    fcntl_setpipe_size(&writer, PIPE_BYTES).expect("a pipe of one page");
    writer.write_all(&[b'-'; PIPE_BYTES]).expect("there is room");
    let (child, log) = client(&["client", "--server", &at, "--key", &key, "--local", &local], writer);
    wait_for(&log, "service default: users of port");
    let users = server.address("service default: users connect to ").port();
    converse(&mut connect(SocketAddr::from((Ipv4Addr::LOCALHOST, users))), b"served all the same");
    // It has half a second for its lines, and the log says that they were not read.
    let took = terminate(child);
    assert!(took < Duration::from_secs(2), "{took:?}");
    wait_for(&log, "standard output was not read in time");
}

#[test]
fn at_sighup_a_client_without_a_file_reads_its_key_again_and_its_sessions_go_on() {
    let folder = Folder::new();
    let local = echo_server().to_string();
    let (server, [key, control]) = server(&folder);
    let at = format!("localhost:{control}");
    // A copy that may change.
    let own = folder.secret("own", &fs::read_to_string(&key).expect("a key"));
    let client = Process::skyorg(&["client", "--server", &at, "--key", &own, "--local", &local], None);
    client.wait_for("service default: users of port");
    let users = server.address("service default: users connect to ").port();
    let mut user = connect(SocketAddr::from((Ipv4Addr::LOCALHOST, users)));
    converse(&mut user, b"before");
    client.signal(Signal::HUP);
    client.wait_for("reloaded keys: nothing changed");
    fs::write(&own, fs::read_to_string(folder.key()).expect("another key")).expect("it is ours");
    client.signal(Signal::HUP);
    client.wait_for("needs a restart; the running configuration stays");
    fs::remove_file(&own).expect("it is there");
    client.signal(Signal::HUP);
    let line = client.wait_for("no key file at");
    assert!(line.contains("refused keys: ") && line.ends_with("; the running configuration stays"), "{line}");
    converse(&mut user, b"after");
}

#[test]
fn a_client_s_log_file_that_was_renamed_is_left_by_sighup_and_one_that_cannot_be_opened_refuses() {
    let folder = Folder::new();
    let key = folder.key();
    fs::create_dir(folder.path("logs")).expect("a new folder");
    let (log, old) = (folder.path("logs/log"), folder.path("logs/old"));
    let arguments = ["client", "--server", "127.0.0.1:1", "--key", &key, "--local", "1", "--log-file", &log];
    let client = Process::skyorg(&arguments, None);
    let wait_for = |path: &str, text: &str| {
        client.wait_until(text, || fs::read_to_string(path).is_ok_and(|log| log.contains(text)));
    };
    wait_for(&log, "connecting to");
    fs::rename(&log, &old).expect("it is there");
    client.signal(Signal::HUP);
    wait_for(&log, "reloaded keys: nothing changed");
    fs::rename(folder.path("logs"), folder.path("moved")).expect("it is there");
    client.signal(Signal::HUP);
    wait_for(&folder.path("moved/log"), "the log file cannot be opened");
}

/// A server and a client in this process, whose configuration the test changes.
struct Ends {
    config: Arc<Mutex<ClientConfig>>,
    /// Where users connect to each service.
    users: Vec<(Name, SocketAddr)>,
    ready: Arc<Mutex<String>>,
    folder: Folder,
}

impl Ends {
    /// A server of these services, and a client that publishes the first ones of them.
    fn start(services: &[&str], publications: Vec<Publication>) -> Ends {
        let folder = Folder::new();
        let ready = folder.file("ready", "[]\n");
        let key = Key { name: name("office"), secret: Secret::new([7; 32]) };
        let free_port = Listen::At((Ipv4Addr::LOCALHOST, 0).into());
        let server = Server::bind(ServerConfig {
            services: services.iter().map(|service| Service::new(name(service), free_port)).collect(),
            policies: Policies::default(),
            message: free_port,
            control: free_port,
            keys: vec![key.clone()],
            plain: false,
            limits: Limits::default(),
        });
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let (users, control) = (server.bound().services.clone(), server.bound().control);
        let config = ClientConfig {
            server: host(control),
            message: None,
            publications,
            key,
            plain: false,
            limits: Limits::default(),
        };
        let mut client = Client::new(config.clone()).expect("a client");
        client.announce(Some(ready.clone().into())).expect("threads");
        assert!(
            !fs::exists(&ready).expect("the folder is there"),
            "what is left from before goes at the start"
        );
        let config = Arc::new(Mutex::new(config));
        let ready = Arc::new(Mutex::new(ready));
        let (source, to_read) = (config.clone(), ready.clone());
        let reader = move |_: &ClientConfig| {
            let config = source.lock().expect("no holder panics").clone();
            let format = skyorg::app::journal::Format::Text;
            let ready_file = Some(to_read.lock().expect("no holder panics").clone().into());
            let (level, ways, places) = (log::LevelFilter::Info, None, Places::default());
            let running = Running { ready_file, ..Running::default() };
            Ok(Reread { config, level, format, ways, running, places })
        };
        thread::spawn(move || server.run().expect("runs"));
        let run = move || client.run_and_reload("client.toml".into(), Running::default(), Box::new(reader));
        thread::spawn(move || run().expect("runs"));
        Ends { config, users, ready, folder }
    }

    fn user(&self, service: &str) -> TcpStream {
        let found = self.users.iter().find(|(found, _)| found.as_str() == service);
        connect(found.expect("a service").1)
    }

    /// The client gets another configuration.
    fn reload(&self, publications: Vec<Publication>) {
        self.config.lock().expect("no holder panics").publications = publications;
        kill_process(getpid(), Signal::HUP).expect("it is us");
    }

    fn ready(&self) -> String {
        self.ready.lock().expect("no holder panics").clone()
    }

    /// Waits until the ready file names these services, and none other.
    fn wait_until_ready(&self, services: &[&str]) {
        let entry = |service: &&str| {
            let found = self.users.iter().find(|(found, _)| found.as_str() == *service).expect("a service");
            format!("{{\"publication\":\"{service}\",\"addresses\":[\"{}\"]}}", found.1)
        };
        let expected = format!("[{}]\n", services.iter().map(entry).collect::<Vec<_>>().join(","));
        self.wait_for(|text| text == Some(&expected));
    }

    fn wait_for(&self, wanted: impl Fn(Option<&String>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.ready()).ok();
            if wanted(text.as_ref()) {
                return;
            }
            assert!(Instant::now() < deadline, "the ready file says {text:?}");
            measure(Duration::from_millis(1));
        }
    }
}

fn host(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string().into(), port: address.port() }
}

/// A local server that greets with a word, and echoes after that.
fn greeter(word: &'static [u8; 3]) -> HostPort {
    host(serve(move |mut stream| {
        let _ = stream.write_all(word);
        let mut other = stream.try_clone().expect("a socket");
        let _ = std::io::copy(&mut stream, &mut other);
    }))
}

fn greeting(user: &mut TcpStream) -> [u8; 3] {
    let mut word = [0; 3];
    user.read_exact(&mut word).expect("a greeting");
    word
}

/// One test, because SIGHUP is for the whole process.
#[test]
fn a_reload_resets_what_is_removed_and_nothing_else_and_the_ready_file_follows() {
    let publication = |service: &str, local: &HostPort| Publication::of_service(name(service), local.clone());
    let [old, new, other] = [b"old", b"new", b"oth"].map(greeter);
    let (kept, gone) = (publication("kept", &other), publication("gone", &other));
    let before = vec![kept.clone(), publication("moved", &old), gone.clone()];
    let ends = Ends::start(&["kept", "moved", "gone", "added"], before.clone());
    ends.wait_until_ready(&["gone", "kept", "moved"]);
    let [mut kept_user, mut moved_user, mut gone_user] = ["kept", "moved", "gone"].map(|it| ends.user(it));
    assert_eq!([greeting(&mut kept_user), greeting(&mut gone_user)], [*b"oth"; 2]);
    assert_eq!(greeting(&mut moved_user), *b"old");

    ends.reload(vec![publication("added", &new), kept.clone(), publication("moved", &new)]);
    ends.wait_until_ready(&["added", "kept", "moved"]);
    let error = gone_user.read(&mut [0]).expect_err("it is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    converse(&mut kept_user, b"it goes on");
    converse(&mut moved_user, b"with the local server that it had");
    for (service, word) in [("moved", b"new"), ("added", b"new"), ("kept", b"oth")] {
        assert_eq!(greeting(&mut ends.user(service)), *word, "{service}");
    }

    ends.reload(vec![kept.clone(), gone.clone()]);
    ends.wait_until_ready(&["gone", "kept"]);
    assert_eq!(greeting(&mut ends.user("gone")), *b"oth");
    let before =
        std::mem::replace(&mut *ends.ready.lock().expect("no holder panics"), ends.folder.path("moved"));
    ends.reload(vec![kept.clone(), gone]);
    ends.wait_until_ready(&["gone", "kept"]);
    assert!(!fs::exists(before).expect("the folder is there"), "the ready file is elsewhere now");
    // What the server does not have is denied: then not everything is granted.
    ends.reload(vec![kept, publication("unknown", &new)]);
    ends.wait_for(|text| text.is_none());
    converse(&mut kept_user, b"through all of it");
}
