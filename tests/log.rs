//! The log never stops the loop, and signals that are not about ending do not end the process.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeReader, Read, Write, pipe};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    Ending, Folder, MODES, Process, SKYORG, Tunnel, connect, converse, echo_server, finish_writing,
    json_line, measure, read_out,
};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};

/// The smallest pipe: some 35 lines fill it.
const PIPE_BYTES: usize = 4096;
/// How long a process that is asked to end may take, though its log is blocked.
const END: Duration = Duration::from_secs(5);

/// A child process whose standard error is a small pipe that is read only as far as a test asks.
struct Unread {
    child: Child,
    stderr: PipeReader,
}

impl Unread {
    /// `full`: the pipe has no room when the child starts.
    fn start(arguments: &[&str], full: bool) -> Unread {
        let (stderr, mut writer) = pipe().expect("a pipe");
        fcntl_setpipe_size(&writer, PIPE_BYTES).expect("a pipe of one page");
        if full {
            writer.write_all(&[b'-'; PIPE_BYTES]).expect("there is room");
        }
        let mut command = Command::new(SKYORG);
        command.args(arguments).env_remove("SKYORG_KEY");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        Unread { child: command.spawn().expect("the program starts"), stderr }
    }

    /// Reads one line, and not a byte further.
    fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.stderr.read_exact(&mut byte).expect("the child lives");
            match byte[0] {
                b'\n' => return String::from_utf8(line).expect("text"),
                letter => line.push(letter),
            }
        }
    }

    /// Reads up to the line that has this text; returns what follows the text.
    fn read_to(&mut self, text: &str) -> String {
        loop {
            if let Some((_, rest)) = self.read_line().split_once(text) {
                return rest.to_owned();
            }
        }
    }

    fn read_to_end(mut self) -> String {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).expect("text");
        text
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("the child is ours");
    }

    /// Its exit status, if it ends in time without being read.
    fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status.code();
            }
            measure(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server and a client, admitted, and where users connect.
fn unread_tunnel(folder: &Folder) -> (Unread, Unread, SocketAddr) {
    let (key, local, free) = (folder.key(), echo_server().to_string(), "127.0.0.1:0");
    let arguments = ["server", "--keys", &key, "--request", free, "--message", free, "--control", free];
    let mut server = Unread::start(&arguments, false);
    let users = server.read_to("service default: users connect to ").parse().expect("an address");
    let control = server.read_to("control connections: ");
    let arguments = ["client", "--server", &control, "--local", &local, "--key", &key];
    let mut client = Unread::start(&arguments, false);
    client.read_to("service default: users of port ");
    (server, client, users)
}

fn visit(users: SocketAddr) {
    let mut user = connect(users);
    converse(&mut user, b"hello");
    finish_writing(&user);
    assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean));
}

const VISITS: usize = 1_500;

#[test]
fn a_log_that_nobody_reads_stops_no_session_and_no_end() {
    let folder = Folder::new();
    let (mut server, mut client, users) = unread_tunnel(&folder);
    (0..VISITS).for_each(|_| visit(users));
    for process in [&mut server, &mut client] {
        process.terminate();
        assert_eq!(process.ends(), Some(0));
    }
}

#[test]
fn a_log_that_is_read_late_has_all_lines_that_the_buffer_held() {
    let folder = Folder::new();
    let (server, client, users) = unread_tunnel(&folder);
    (0..VISITS).for_each(|_| visit(users));
    for process in [server, client] {
        process.terminate();
        let text = process.read_to_end();
        assert_eq!(text.lines().filter(|line| line.ends_with(" s, finished")).count(), VISITS);
        assert!(text.ends_with("ended\n"));
    }
}

#[test]
fn lines_that_find_no_room_are_counted_and_the_log_goes_on_once_it_is_read() {
    // Their lines are some 100 bytes each, and 512 KiB wait.
    const MANY: usize = 6_500;
    let folder = Folder::new();
    let (mut server, mut client, users) = unread_tunnel(&folder);
    (0..MANY).for_each(|_| visit(users));
    let is_session = |line: &&str| line.ends_with(" s, finished");
    let until_gap = [&mut server, &mut client].map(|process| {
        let (mut told, mut line) = (0, process.read_line());
        while !line.contains("log lines were dropped: the log was not read in time") {
            told += usize::from(is_session(&line.as_str()));
            line = process.read_line();
        }
        let dropped = line.split("[WARN ] ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        told + dropped.unwrap_or(0_usize)
    });
    for (process, until_gap) in [server, client].into_iter().zip(until_gap) {
        process.terminate();
        let rest = process.read_to_end();
        assert!(rest.contains("draining: ") && rest.ends_with("ended\n"), "{rest}");
        // The last one may have come after the gap.
        assert_eq!(until_gap + rest.lines().filter(is_session).count(), MANY);
    }
}

#[test]
fn a_failure_ends_the_program_though_nobody_reads_why() {
    let folder = Folder::new();
    let (key, log) = (folder.key(), folder.path("log"));
    // An address of documentation is not this host's (RFC 5737).
    let server = ["server", "--keys", &key, "--request", "192.0.2.1:0"];
    for (arguments, status) in [
        (&["client", "--local", "1"][..], 2),
        (&["client", "--local", "1", "--log-file", &log], 2),
        (&["server", "--keys", &key, "--log-file", "/no-such-folder/log"], 2),
        (&["no-command"], 2),
        (&server, 1),
    ] {
        let mut process = Unread::start(arguments, true);
        assert_eq!(process.ends(), Some(status), "{arguments:?}");
    }
}

#[test]
fn time_stamps_have_milliseconds_and_all_lines_align() {
    let tunnel = Tunnel::start(MODES[0], echo_server());
    let lines = tunnel.server.lines();
    let stamped: Vec<&String> = lines.iter().filter(|line| line.contains("Z [")).collect();
    assert!(stamped.len() >= 3, "{lines:?}");
    for line in stamped {
        assert_eq!((line.find("Z ["), line.find('.')), (Some(23), Some(19)), "{line}");
    }
}

#[test]
fn signals_that_are_not_about_ending_leave_both_sides_serving() {
    let mut tunnel = Tunnel::start(MODES[0], echo_server());
    let mut user = tunnel.user();
    converse(&mut user, b"before");
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        tunnel.server.signal(signal);
        tunnel.client().signal(signal);
    }
    tunnel.server.wait_for("reloaded keys: nothing changed");
    tunnel.client().wait_for("reloaded keys: nothing changed");
    converse(&mut user, b"after");
    converse(&mut tunnel.user(), b"a new one");
    assert!(tunnel.server.is_running() && tunnel.client().is_running());
}

/// A server that logs to a file in a folder of its own.
fn server_with_log(folder: &Folder) -> Process {
    fs::create_dir(folder.path("logs")).expect("a new folder");
    let (key, log, free) = (folder.key(), folder.path("logs/log"), "127.0.0.1:0");
    let ports = ["--request", free, "--message", free, "--control", free];
    let server =
        Process::skyorg(&[&["server", "--keys", &key, "--log-file", &log][..], &ports].concat(), None);
    wait_for_line(&server, &log, "control connections: ");
    server
}

fn wait_for_line(server: &Process, path: &str, text: &str) {
    server.wait_until(text, || fs::read_to_string(path).is_ok_and(|log| log.contains(text)));
}

#[test]
fn a_log_file_that_was_renamed_is_left_by_sighup() {
    let folder = Folder::new();
    let mut server = server_with_log(&folder);
    let (log, old) = (folder.path("logs/log"), folder.path("logs/old"));
    fs::rename(&log, &old).expect("it is there");
    server.signal(Signal::HUP);
    wait_for_line(&server, &log, "reloaded keys: nothing changed");
    server.signal(Signal::TERM);
    assert!(server.ended().success());
    let (log, old) = (fs::read_to_string(log).expect("new"), fs::read_to_string(old).expect("kept"));
    assert!(log.contains("draining") && log.ends_with("ended\n"), "{log}");
    assert!(old.contains("control connections: ") && !old.contains("draining"), "{old}");
}

#[test]
fn a_log_file_that_was_renamed_is_left_by_a_reload_that_is_refused_too() {
    let folder = Folder::new();
    let server = server_with_log(&folder);
    fs::rename(folder.path("logs/log"), folder.path("logs/old")).expect("it is there");
    fs::write(folder.path("key"), "no key\n").expect("it can be written");
    server.signal(Signal::HUP);
    wait_for_line(&server, &folder.path("logs/log"), "the running configuration stays");
}

#[test]
fn a_log_file_that_cannot_be_opened_again_stays() {
    let folder = Folder::new();
    let mut server = server_with_log(&folder);
    fs::rename(folder.path("logs"), folder.path("moved")).expect("it is there");
    server.signal(Signal::HUP);
    let log = folder.path("moved/log");
    wait_for_line(&server, &log, "the running configuration stays");
    server.signal(Signal::TERM);
    assert!(server.ended().success());
    let log = fs::read_to_string(log).expect("the old one");
    assert!(log.ends_with("ended\n"), "{log}");
}

/// The lines of a log, each an object, that tell of one event.
fn events(process: &Process, event: &str) -> Vec<BTreeMap<String, String>> {
    let lines = process.lines();
    let all = lines.iter().map(|line| json_line::read(line).unwrap_or_else(|| panic!("not JSON: {line}")));
    all.filter(|members| members["event"] == event).collect()
}

#[test]
fn a_log_of_json_has_the_facts_as_fields_that_find_each_other() {
    let format = ["--log-format", "json"];
    let folder = Folder::new();
    let (key, local, free) = (folder.key(), echo_server().to_string(), "127.0.0.1:0");
    let ports = ["--request", free, "--message", free, "--control", free];
    let server = Process::skyorg(&[&["server", "--keys", &key][..], &ports, &format].concat(), None);
    server.wait_for_count("\"event\":\"listening\"", 3);
    let listening = events(&server, "listening");
    let [users, _, control] = [0, 1, 2].map(|place| listening[place]["address"].as_str());
    assert_eq!(listening[0]["service"], "default");
    let client = ["client", "--server", control, "--local", &local, "--key", &key];
    let client = Process::skyorg(&[&client[..], &format].concat(), None);
    client.wait_for("\"event\":\"granted\"");
    let mut user = connect(users.parse().expect("an address"));
    let address = user.local_addr().expect("connected").to_string();
    converse(&mut user, b"hello");
    finish_writing(&user);
    assert_eq!(read_out(&mut user), (Vec::new(), Ending::Clean));
    for (process, local) in [(&server, None), (&client, Some(&local))] {
        process.wait_for("session ended");
        let ended = events(process, "session ended");
        let [ended] = &ended[..] else { panic!("{ended:?}") };
        for (name, value) in
            [("level", "info"), ("service", "default"), ("session", "1"), ("in", "5"), ("out", "5")]
        {
            assert_eq!(ended[name], value, "{name}");
        }
        assert_eq!((&ended["user"], &ended["reason"]), (&address, &"finished".to_owned()));
        assert_eq!(ended.get("local"), local);
        let key = local.is_none().then(|| "default".to_owned());
        assert_eq!(ended.get("key"), key.as_ref());
        assert!(ended["seconds"].parse::<f64>().is_ok_and(|seconds| seconds < 60.0));
        assert_eq!((ended["time"].find('T'), ended["time"].find('.')), (Some(10), Some(19)));
    }
    let came = events(&server, "client came");
    assert!(came.len() == 1 && came[0]["key"] == "default" && came[0].contains_key("link"), "{came:?}");
    assert_eq!(events(&client, "connected")[0]["server"], control);
}

#[test]
fn a_reload_changes_the_form_of_the_log() {
    let folder = Folder::new();
    let (_, local) = (folder.key(), "127.0.0.1:0");
    let write = |format: &str| {
        let text = format!(
            "keys = \"key\"\nmessage = \"{local}\"\ncontrol = \"{local}\"\nlog-format = \"{format}\"\n\
             [service.web]\nlisten = \"{local}\"\n"
        );
        folder.file("server.toml", text)
    };
    let server = Process::skyorg(&["server", "--config", &write("text")], None);
    server.wait_for("[INFO ] control connections: ");
    write("json");
    server.signal(Signal::HUP);
    let line = server.wait_for("\"event\":\"reloaded\"");
    let members = json_line::read(&line).expect("JSON");
    assert!(members["source"].ends_with("server.toml"), "{line}");
    write("xml");
    server.signal(Signal::HUP);
    let line = server.wait_for("wanted 'text' or 'json'");
    assert!(json_line::read(&line).is_some_and(|members| members["level"] == "error"), "{line}");
}

#[test]
fn a_disk_that_is_full_stops_no_session_and_the_next_log_file_says_what_was_lost() {
    let (folder, free) = (Folder::new(), "127.0.0.1:0");
    folder.key();
    let write = |log: &str| {
        let text = format!(
            "keys = \"key\"\nmessage = \"{free}\"\ncontrol = \"{free}\"\nlog-file = \"{log}\"\n\
             [service.default]\nlisten = \"{free}\"\n"
        );
        folder.file("server.toml", text)
    };
    let server = Process::skyorg(&["server", "--config", &write("log")], None);
    wait_for_line(&server, &folder.path("log"), "control connections: ");
    let log = fs::read_to_string(folder.path("log")).expect("it is there");
    let address = |text: &str| {
        let rest = log.split(text).nth(1).and_then(|rest| rest.lines().next());
        rest.and_then(|rest| rest.parse::<SocketAddr>().ok()).expect("an address")
    };
    let (users, control) = (address("users connect to "), address("control connections: ").to_string());
    // All writes fail there (full(4)).
    write("/dev/full");
    server.signal(Signal::HUP);
    let (local, key) = (echo_server().to_string(), folder.path("key"));
    let client = Process::skyorg(&["client", "--server", &control, "--local", &local, "--key", &key], None);
    client.wait_for("users of port ");
    (0..20).for_each(|_| visit(users));
    write("later");
    server.signal(Signal::HUP);
    wait_for_line(&server, &folder.path("later"), " log lines were dropped");
    visit(users);
    wait_for_line(&server, &folder.path("later"), "5 bytes in, 5 bytes out");
}
