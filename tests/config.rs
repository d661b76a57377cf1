//! The configuration file, with the real binary: what `check` says, what starts, and what may stand beside a file.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{Folder, Process, SKYORG, converse, echo_server};
use rustix::process::{Pid, Signal, kill_process};

/// How long a command may take that ends by itself.
const DEADLINE: Duration = Duration::from_secs(60);

const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";

/// Runs in a folder; the key file at the default place is one of that folder.
fn run(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(SKYORG);
    command.args(arguments).stdin(Stdio::null()).current_dir(&folder.0);
    command.env_remove("SKYORG_KEY").env("XDG_CONFIG_HOME", folder.path("home"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let pid = Pid::from_child(&child);
    let (ended, ends) = channel::<()>();
    let guard = thread::spawn(move || {
        if ends.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).expect("it is ours and not reaped");
        }
    });
    let output = child.wait_with_output().expect("it ends");
    drop(ended);
    guard.join().expect("it has watched");
    output
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("it ends by itself"), text(&output.stdout), text(&output.stderr))
}

fn check(folder: &Folder, files: &[&str]) -> (i32, String, String) {
    texts(&run(folder, &[&["check"], files].concat()))
}

/// A folder with the keys `office` and `home`.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.secret("keys", &format!("office {SECRET}\nhome {}\n", "A".repeat(43)));
    folder
}

/// Checks a broken file: each fault, in order, and nothing else. `server` and `client` tell the same.
fn faults(text: &str, expected: &[&str]) {
    let folder = folder();
    folder.file("f.toml", text);
    let (status, meaning, told) = check(&folder, &["f.toml"]);
    assert_eq!((status, meaning.as_str()), (2, ""), "{text}\n{told}");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}\n{told}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(expected) || line.contains(&format!("f.toml:{expected}")),
            "{expected}\n{told}"
        );
    }
    let side = if text.contains("server =") { "client" } else { "server" };
    assert_eq!(texts(&run(&folder, &[side, "--config", "f.toml"])), (2, String::new(), told));
}

#[test]
fn a_good_file_is_told_in_plain_words() {
    let folder = folder();
    folder.file(
        "server.toml",
        "keys = \"keys\"\nmessage = 4000\ncontrol = 4000\n[service.web]\nlisten = [\"443\", \"[::1]:8443\"]\n\
         from = [\"10.0.0.0/8\"]\nusers = 20\nusers-per-address = 2\nidle = \"5 min\"\nclose-when-unserved = true\n\
         [key.office]\nservices = \"web\"\nports = [8080, \"27000-27100\"]\nrate = \"1.5 Mbit/s\"\n\
         expires = 2099-01-31\n[key.home]\nports = \"*\"\nlinks = 2\n",
    );
    folder.file(
        "client.toml",
        "server = \"gw.example\"\nkey = \"keys\"\nready-file = \"ready\"\n[publish.web]\nlocal = 80\n\
         [expose.game]\nlocal = \"localhost:27000\"\nports = \"27000-27100\"\ndial-time = 0.5\nshare = true\n",
    );
    let (status, meaning, told) = check(&folder, &["server.toml", "client.toml"]);
    assert_eq!((status, told.as_str()), (0, ""));
    for part in [
        "server.toml: a server's file",
        "clients connect to *:4000",
        "keys in keys: office and home",
        "service web: users connect to *:443 and [::1]:8443; only from 10.0.0.0/8; at most 20 at once; at most 2 from one \
         address; a session without a byte for 5 min ends; closed while no client serves it",
        "key office may serve web, and ask for ports 8080 and 27000-27100; 1.5 Mbit/s each way; until \
         2099-02-01T00:00:00Z",
        "key home may ask for any port from 1024 up; at most 2 clients at once",
        "client.toml: a client's file",
        "connects to gw.example:33335 with key 'office' from keys, the first of 2",
        "service web: its users reach localhost:80",
        "game: users of ports 27000-27100 reach localhost:27000 to 27100; it has 500 ms to connect; shared",
    ] {
        assert!(meaning.contains(part), "{part}\n{meaning}");
    }
    assert!(!std::fs::exists(folder.path("ready")).expect("ours"), "nothing is written");
}

#[test]
fn every_fault_is_told_with_its_place() {
    faults(
        "mesage = 1\nkeys = \"keys\"\npool = \"10\"\nplain = 1\ndrain = \"5s\"\nudp = 9\n\
         [service.web]\nlisten = [\"443\", 70000, \"host:1\"]\nform = \"::1\"\nusers = 0\nidle = \"31 d\"\n\
         [service.db]\n[service.'a b']\nlisten = 81\n[servcie.x]\n\
         [key.office]\nrate = \"7 kbit/s\"\nexpires = \"2027-02-29\"\nports = [\"9-8\", \"80/tcp+udp\"]\n[key.ofice]\n",
        &[
            "1:1: wanted a key or table of a server's file (the nearest is 'message'), found 'mesage'",
            "3:8: wanted a whole number from 1 to 1000, found the text '10'",
            "4:9: wanted true or false, found 1",
            "5:9: wanted a time from 0 s to 1 d, such as \"5 min\", or seconds as a number, found the text '5s'",
            "6:1: wanted a key or table of a server's file (the nearest is",
            "8:18: wanted PORT, or IP:PORT",
            "8:25: wanted PORT, or IP:PORT",
            "9:1: wanted a key of [service.NAME] (the nearest is 'from'), found 'form'",
            "10:9: wanted a whole number from 1 to 1000000, found 0",
            "11:8: wanted a time from 1 s to 30 d",
            "12:10: wanted 'listen' in it, found [service.db] without",
            "13:10: wanted a name of 1 to 64 letters",
            "15:2: wanted a key or table of a server's file (the nearest is 'service'), found 'servcie'",
            "17:8: wanted a rate of at least 8 kbit/s",
            "18:11: wanted a day such as 2027-01-31",
            "19:10: wanted a port or a range of ports",
            "19:17: wanted a port or a range of ports",
            "20:6: wanted the name of a key in keys (the nearest is 'office'), found 'ofice'",
        ],
    );
    faults(
        "key = \"keys\"\nkeys = \"keys\"\n[publish.web]\nlocal = \"http://x/\"\n[expose.web]\nlocal = 65535\nports = \"1-2\"\n\
         [expose.b]\nports = 0\nprobe = \"no\"\n[service.x]\nlisten = 1\n",
        &[
            "1:1: wanted server = \"HOST\", found none",
            "2:1: wanted a client's keys and tables alone, because of 'publish' at 3:2, found 'keys' of a server's file",
            "4:9: wanted HOST:PORT, such as localhost:8080; leave out http:// and any path, found 'http://x/'",
            "5:9: wanted a name of its own, found 'web' again; the first is at 3:10",
            "6:9: wanted 2 local ports up to 65535, found 65535",
            "8:9: wanted 'local' in it",
            "9:9: wanted a port or a range of ports",
            "10:9: wanted true or false, found the text 'no'",
        ],
    );
}

#[test]
fn after_a_fault_of_syntax_only_such_are_told() {
    faults(
        "pool = 0\na = \nb = 1 2\n[x\n[y]\nk = \"open\n[y]\nk = 1\nk = 2\n",
        &[
            "2:5: wanted a value: a text in quotes",
            "3:5: wanted ",
            "4:3: wanted ']', found the end of the line (unclosed table)",
            "6:10: wanted ",
            "7:2: wanted each name once, found 'y' again; the first is at 5:2",
            "8:1: wanted each name once, found 'k' again; the first is at 6:1",
            "9:1: wanted each name once, found 'k' again; the first is at 6:1",
        ],
    );
    faults("# ä\n\"ä\" = 1 \"ä\" = 2\n", &["2:9: wanted "]);
}

#[test]
fn places_that_overlap_are_told_at_the_second() {
    faults(
        "keys = \"keys\"\nmessage = \"127.0.0.1:4000\"\n[service.a]\nlisten = [4000, \"127.0.0.1:5000\"]\n\
         [service.b]\nlisten = \"*:5000\"\n[service.c]\nlisten = 33335\n",
        &[
            "4:11: wanted an address of its own, found *:4000, where 127.0.0.1:4000 of message connections is at 2:11",
            "6:10: wanted an address of its own, found *:5000, where 127.0.0.1:5000 of service a is at 4:17",
            "8:10: wanted an address of its own, found *:33335, where *:33335 of control connections is by default",
        ],
    );
    faults(
        "keys = \"keys\"\nports = 20000\n[service.a]\nlisten = 1\n[key.office]\nports = 1\n",
        &[
            "5:2: wanted no [key] table beside 'ports', which is for all keys; say 'ports' in each [key.NAME], found both; \
           the first is at 2:1",
        ],
    );
}

#[test]
fn what_is_wrong_hides_nothing_else_that_is() {
    faults(
        "[service.'a b']\nlisten = 5\n[service.c]\nlisten = 5\n",
        &[
            "1:10: wanted a name",
            "4:10: wanted an address of its own, found *:5, where *:5 of service 'a b' is at 2:10",
        ],
    );
    faults(
        "[service.d]\nlisten = [6, 'x']\n[service.e]\nlisten = [6]\n",
        &[
            "2:14: wanted PORT, or",
            "4:11: wanted an address of its own, found *:6, where *:6 of service d is at 2:11",
        ],
    );
    faults("message = 'x'\n[service.a]\nlisten = 33334\n", &["1:11: wanted PORT, or"]);
    faults(
        "metrics = 5\n[service.a]\nlisten = 5\n",
        &["3:10: wanted an address of its own, found *:5, where 127.0.0.1:5 of metrics is at 1:11"],
    );
    faults(
        "[service.a]\nlisten = '[::ffff:10.9.0.1]:6011'\n[service.b]\nlisten = '10.9.0.1:6011'\n",
        &[
            "4:10: wanted an address of its own, found 10.9.0.1:6011, where 10.9.0.1:6011 of service a is at 2:10",
        ],
    );
    faults(
        "\u{feff}\u{feff}[service.a]\nlisten = 5\n",
        &["1:1: wanted one byte order mark at most, found two"],
    );
    faults(
        "server = 'a'\nkey = 'keys'\n[expose.a]\nlocal = 80\nports = 8080\n[expose.b]\nlocal = 80\nports = '8000-8100'\n\
         [expose.'c d']\nlocal = 80\nports = 8100\n[expose.e]\nports = 8101\nlocal = 80\n",
        &[
            "8:9: wanted ports of its own, found 8000-8100, where 8080 is asked for at 5:9",
            "9:9: wanted a name",
            "11:9: wanted ports of its own, found 8100, where 8000-8100 is asked for at 8:9",
        ],
    );
}

#[test]
fn a_key_file_is_judged_with_the_file_that_names_it() {
    let folder = folder();
    let server =
        |keys: &str| format!("keys = \"{keys}\"\n[service.a]\nlisten = 1\n[key.office]\nservices = \"a\"\n");
    for (name, text, expected) in [
        ("missing", None, vec!["f.toml:1:8: wanted a key file, found none at missing"]),
        (".", None, vec!["f.toml:1:8: wanted a key file that can be read, found at .: "]),
        (
            "empty",
            Some("# nothing\n".to_owned()),
            vec!["empty:1:1: wanted at least one line NAME SECRET, as 'skyorg keygen' prints it, found none"],
        ),
        (
            "bad",
            Some(format!(
                "office {SECRET}\n  a/b {SECRET}\nhome  {}\none\noffice {}\nx {SECRET}\n",
                &SECRET[1..],
                "A".repeat(43)
            )),
            vec![
                "bad:2:3: wanted a name of 1 to 64",
                "bad:3:7: wanted a secret of 43 characters",
                "bad:4:1: wanted NAME SECRET",
                "bad:5:1: wanted a name of its own, found that of line 1",
                "bad:6:3: wanted a secret of its own, found that of line 1",
            ],
        ),
    ] {
        if let Some(text) = text {
            folder.secret(name, &text);
        }
        folder.file("f.toml", server(name));
        let (status, _, told) = check(&folder, &["f.toml"]);
        assert_eq!((status, told.lines().count()), (2, expected.len()), "{told}");
        for (line, expected) in told.lines().zip(expected) {
            assert!(line.starts_with(expected), "{expected}\n{told}");
        }
    }
}

#[test]
fn without_a_file_a_reload_tells_each_fault_of_the_key_file_with_its_place() {
    let folder = folder();
    let keys = folder.path("keys");
    let good = std::fs::read_to_string(&keys).expect("it is there");
    let any = ["--request", "127.0.0.1:0", "--message", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let arguments = [&["server", "--status", "none", "--keys", &keys][..], &any].concat();
    let process = Process::skyorg(&arguments, None);
    process.wait_for("control connections: ");
    let bad = [
        ("office\n".to_owned(), "1:1: wanted NAME SECRET"),
        (format!("\n  a/b {SECRET}\n"), "2:3: wanted a name of 1 to 64"),
        ("office short\n".to_owned(), "1:8: wanted a secret of 43 characters"),
        (format!("x {SECRET}\nx {}\none\n", "A".repeat(43)), "2:1: wanted a name of its own"),
        ("# nothing\n".to_owned(), "1:1: wanted at least one line NAME SECRET"),
        (String::new(), "1:1: wanted at least one line NAME SECRET"),
    ];
    for (number, (text, wanted)) in bad.iter().enumerate() {
        folder.secret("keys", text);
        process.signal(Signal::HUP);
        let line = &process.wait_for_count("; the running configuration stays", number + 1)[number];
        assert!(line.contains(&format!("refused {keys}:{wanted}")), "{line}");
        assert!(!line.contains(SECRET) && line.contains(", and 1 more") == text.contains("one"), "{line}");
    }
    folder.secret("keys", &good);
    process.signal(Signal::HUP);
    process.wait_for("reloaded keys: nothing changed");
}

#[test]
fn warnings_are_told_and_the_file_is_taken() {
    let folder = folder();
    let text = "keys = \"keys\"\n[service.web]\nlisten = 1\n[key.office]\nservices = [\"web\", \"wbe\"]\nexpires = \"2020-01-31\"\n";
    folder.file("f.toml", text);
    let (status, _, told) = check(&folder, &["f.toml"]);
    assert_eq!(status, 0);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "f.toml:5:20: warning: wanted a service that is declared (the nearest is 'web'), found 'wbe'",
            "f.toml:6:11: warning: the key 'office' may do nothing since 2020-02-01T00:00:00Z",
            "keys:2:1: warning: the key home has no [key.home], so it may do nothing",
        ]
    );
}

#[test]
fn a_secret_is_not_shown_wherever_it_stands() {
    for text in [
        format!("keys = \"{SECRET}\"\n"),
        format!("keys = \"office {SECRET}\"\n"),
        format!("{SECRET} = 1\n"),
        format!("[key.{SECRET}]\n"),
        format!("[service.{SECRET}]\nlisten = 1\n"),
        format!("secret = \"{SECRET}\"\n"),
        format!("office {SECRET}\n"),
        format!("a = {SECRET}\n"),
        format!("server = \"{SECRET} x\"\n[publish.a]\nlocal = \"{SECRET}\"\n"),
        format!("a = \"{SECRET}\n"),
        format!("pool = \"{SECRET}\"\nmessage = [\"{SECRET}\"]\nlog-level = \"{SECRET}\"\n"),
        format!("keys = \"./{SECRET}\"\n"),
        format!("keys = \"keys.d/{SECRET}\"\n"),
        format!("keys = \"/tmp/{SECRET}/key\"\n[key.a]\n"),
        format!("keys = \"office-{SECRET}\"\n"),
        format!("server = \"{SECRET}\"\nkey = \"{SECRET}.key\"\n[expose.a]\nlocal = \"{SECRET}:80\"\n"),
        format!("server = \"a\"\nkey = \"../{SECRET}\"\nlog-file = \"/tmp/{SECRET}\"\n"),
    ] {
        let folder = folder();
        folder.file("f.toml", &text);
        let (status, meaning, told) = check(&folder, &["f.toml"]);
        assert_eq!((status, meaning.as_str()), (2, ""), "{text}{told}");
        assert!(!told.contains(&SECRET[3..20]), "{text}{told}");
    }
    let folder = folder();
    folder.file("server.toml", "");
    let (below, with, long) = (format!("./{SECRET}"), format!("{SECRET}=80"), format!("/tmp/{SECRET}x/key"));
    for arguments in [
        &["check", SECRET][..],
        &["check", &below],
        &["check", &long],
        &["server", "--config", "server.toml", "--keys", SECRET],
        &["server", "--config", &long],
        &["server", "--keys", &below],
        &["server", "--keys", &long],
        &["server", "--service", &with],
        &["server", "--log-file", &long],
        &["server", "--config", "server.toml", "--service", &format!("{SECRET}x=80")],
        &["client", "--key", &below],
        &["client", "--server", "a", "--local", "80", "--key", &long],
        &["client", "--server", &below],
        &["client", "--expose", &with],
        &["unit", "server", "--keys", &long],
        &["unit", "client", "--server", SECRET, "--local", "80"],
        &["status", "--status", &long],
        &["keygen", SECRET],
        &[&below],
    ] {
        let (status, said, told) = texts(&run(&folder, arguments));
        assert!(status != 0 && !(said + &told).contains(&SECRET[3..40]), "{arguments:?}: {told}");
    }
}

#[test]
fn files_that_are_no_text_or_too_large_are_refused_at_once() {
    let folder = folder();
    let mut texts: Vec<(String, Vec<u8>, &str)> = vec![
        ("latin".to_owned(), b"# ok\n# \xe4 \xff\n".to_vec(), ":2:3: wanted UTF-8 text, found the byte 0xe4"),
        ("large".to_owned(), vec![b'#'; 10 << 20], ":1:1: wanted at most 1048576 bytes, found 10485760"),
        ("nul".to_owned(), vec![0; 1 << 20], ":1:1: wanted "),
    ];
    for (number, piece) in [
        "[", "{", "a={", "a=[", "[a.", "a.", "\"", "x\n", "a=1\n", "=\n", "[[a]]\n", "a,", "\\", "[[",
        "a=[[]",
    ]
    .iter()
    .enumerate()
    {
        texts.push((format!("deep{number}"), piece.repeat((1 << 20) / piece.len()).into_bytes(), ":"));
    }
    let many: String =
        (0..20_000).map(|number| format!("[service.s{number}]\nlisten = {}\n", number % 70_000)).collect();
    texts.push(("many".to_owned(), many.into_bytes(), ":"));
    for (name, piece) in [
        ("policies", "[key.kN]\n"),
        ("policies of ports", "[key.kN]\nports = '*'\n"),
        ("places", "[service.sN]\nlisten = [1, 2, 3, 4, 5, 6, 7, 8]\n"),
        ("unknown", "kN = 1\n"),
    ] {
        let pieces = (1..).map(|number: u32| piece.replace('N', &number.to_string()));
        let mut text = String::new();
        text.extend(pieces.take((1 << 20) / (piece.len() + 12)));
        texts.push((name.to_owned(), text.into_bytes(), ":"));
    }
    let services = (0..3_000).map(|number| {
        let ports: Vec<u32> = (1..=6).map(|port| 6 * number + port).collect();
        format!("[service.s{number}]\nlisten = {ports:?}\n")
    });
    let most = "wanted at most 16384 addresses to listen at, found one more";
    texts.push(("addresses".to_owned(), services.collect::<String>().into_bytes(), ":5462:39: "));
    let list = format!("[service.a]\nlisten = [{}]\n", "1, ".repeat(2_000));
    texts.push(("list".to_owned(), list.into_bytes(), ":2:10: wanted 1 to 1024 ports or addresses"));
    for (name, bytes, expected) in texts {
        folder.file(&name, bytes);
        let begin = Instant::now();
        let (status, _, told) = check(&folder, &[&name]);
        let took = begin.elapsed();
        assert_eq!(status, 2, "{name}");
        assert!(
            told.starts_with(&format!("{name}{expected}")),
            "{name}: {}",
            told.lines().next().unwrap_or("")
        );
        assert!(told.lines().count() <= 101, "{name}");
        // The release build has 0.1 s. This one is not optimised and others run beside it; quadratic work takes minutes.
        assert!(took < Duration::from_secs(5), "{name} took {took:?}");
    }
    let (_, _, told) = check(&folder, &["addresses"]);
    assert!(told.ends_with(&format!("{most}\n")) && told.lines().count() == 1, "{told}");
    for (name, limit) in [("many", "services"), ("places", "services"), ("policies", "tables [key.NAME]")] {
        let (_, _, told) = check(&folder, &[name]);
        assert!(told.ends_with(&format!("wanted at most 4096 {limit}, found one more\n")), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    let (_, _, told) = check(&folder, &["deep8"]);
    assert!(
        told.lines().last().is_some_and(|line| line.starts_with("and ") && line.ends_with(" more")),
        "{told}"
    );
}

#[test]
fn line_ends_a_mark_at_the_beginning_and_relative_paths_are_taken() {
    let folder = folder();
    let text = "\u{feff}keys = \"keys\"\r\n[service.a]\r\nlisten = 1\r\n";
    folder.file("f.toml", text);
    let name = folder.path("f.toml");
    let elsewhere = Folder::new();
    assert_eq!(check(&elsewhere, &[&name]).0, 0);
    folder.file("f.toml", text.replace("keys =", "kezs ="));
    let (_, _, told) = check(&folder, &["f.toml"]);
    assert!(told.starts_with("f.toml:1:1: wanted"), "{told}");
    let (status, _, told) = check(&folder, &["nowhere.toml"]);
    assert!(
        status == 2 && told.starts_with("nowhere.toml:1:1: wanted a file that can be read, found: "),
        "{told}"
    );
}

#[test]
fn a_flag_beside_a_file_is_refused_with_both_places() {
    let folder = folder();
    folder.file("server.toml", "keys = \"keys\"\n\npool = 5\n[service.default]\nlisten = 1\n");
    folder.file("client.toml", "server = \"x\"\nkey = \"keys\"\n[publish.web]\nlocal = 1\n");
    for (arguments, expected) in [
        (
            &["server", "--config", "server.toml", "--pool", "7"][..],
            "skyorg: --pool (argument 4) beside server.toml:3:1: say it in one place\n",
        ),
        (
            &["server", "--max-users=5", "--config", "server.toml"],
            "skyorg: --max-users (argument 2) beside server.toml: write max-users = 5 into server.toml\n",
        ),
        (
            &[
                "server",
                "--config",
                "server.toml",
                "--request",
                "80",
                "--service",
                "db=127.0.0.1:1",
                "--plain",
            ],
            "skyorg: --request (argument 4) beside server.toml:5:1: say it in one place\n\
             skyorg: --service (argument 6) beside server.toml: write [service.db] with listen = \"127.0.0.1:1\" into server.toml\n\
             skyorg: --plain (argument 8) beside server.toml: write plain = true into server.toml\n",
        ),
        (
            &["client", "--config=client.toml", "--publish", "web=1", "--expose", "80=90", "--server", "y"],
            "skyorg: --publish (argument 3) beside client.toml:4:1: say it in one place\n\
             skyorg: --expose (argument 5) beside client.toml: write [expose.80] with local = 90 and ports = 80 into client.toml\n\
             skyorg: --server (argument 7) beside client.toml:1:1: say it in one place\n",
        ),
    ] {
        assert_eq!(texts(&run(&folder, arguments)), (2, String::new(), expected.to_owned()));
    }
    let (status, _, told) = texts(&run(&folder, &["server", "--config", "client.toml"]));
    assert_eq!(
        (status, told.as_str()),
        (
            2,
            "client.toml:1:1: wanted a server's file, found a client's; only clients have 'server', [publish] and [expose]\n"
        )
    );
}

#[test]
fn a_server_and_a_client_run_from_their_files() {
    let folder = folder();
    let local = echo_server();
    folder.file(
        "server.toml",
        "keys = \"keys\"\nmessage = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\nlog-level = \"info\"\n\
         [service.web]\nlisten = \"127.0.0.1:0\"\n",
    );
    let server = Process::skyorg(&["server", "--config", &folder.path("server.toml")], None);
    let address = |line: String| line.rsplit(' ').next().expect("an address").to_owned();
    let users = address(server.wait_for("service web: users connect to ")).parse().expect("an address");
    let control = address(server.wait_for("control connections: "));
    assert!(!server.lines().iter().any(|line| line.contains("service default")));
    folder.file(
        "client.toml",
        format!(
            "server = \"{control}\"\nkey = \"keys\"\nlog-file = \"log\"\n[publish.web]\nlocal = \"{local}\"\n"
        ),
    );
    let client =
        Process::skyorg(&["client", "--config", &folder.path("client.toml"), "--log-level", "debug"], None);
    client.wait_until("the log stands beside the file", || {
        std::fs::read_to_string(folder.path("log"))
            .is_ok_and(|text| text.contains("service web: users of port"))
    });
    converse(&mut common::connect(users), b"by two files");
}

/// The blocks of README that are files, with the names that they give themselves.
fn recipes() -> Vec<(String, String)> {
    let readme = include_str!("../README.md");
    let blocks =
        readme.split("```toml\n# ").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let name = |block: &str| block.split(".toml").next().unwrap_or_default().to_owned();
    blocks.map(|block| (name(block), format!("# {block}"))).collect()
}

#[test]
fn the_recipes_of_the_readme_mean_what_they_say() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("home/skyorg")).expect("ours");
    let keys = ["office", "anna", "ben", "customer"].iter().enumerate();
    let letter = |number: usize| ["A", "E", "I", "M"][number].to_owned();
    let of = |name: &str| {
        let keys = keys.clone().filter(|(_, key)| match name {
            "preview" => ["anna", "ben"].contains(*key),
            name => **key == name || !["office", "customer"].contains(&name) && **key == "office",
        });
        keys.map(|(number, key)| format!("{key} {}A\n", letter(number).repeat(42))).collect::<String>()
    };
    let parts = |name: &str| match name {
        "server" => &[
            "at most 500 users",
            "service default: users connect to *:8080; at most 50 from one address",
            "*:33334",
        ][..],
        "client" => &["connects to public.example:33335", "service db: its users reach db.lan:5432"],
        "office" => {
            &["service mail: users connect to *:993", "key office may serve mail; only from 203.0.113.0/24"]
        }
        "preview" => &["key anna may ask for ports 20000-20999; at most 50 users", "key ben may"],
        "customer" => &[
            "ask for ports 27000-27100; at most 200 users at once; at most 2 clients at once; 50 Mbit/s each way; until 2030-02-01",
        ],
        name => panic!("no test of the recipe {name}"),
    };
    let recipes = recipes();
    assert_eq!(recipes.len(), 5);
    for (name, text) in recipes {
        folder.secret("keys", &of(&name));
        folder.secret("home/skyorg/key", &of(&name));
        let file = format!("{name}.toml");
        folder.file(&file, text);
        let (status, meaning, told) = check(&folder, &[&file]);
        assert_eq!((status, told.as_str()), (0, ""), "{name}: {meaning}");
        for part in parts(&name) {
            assert!(meaning.contains(part), "{part}\n{meaning}");
        }
    }
}

#[test]
fn a_key_file_that_is_not_named_rightly_is_one_fault() {
    for value in ["5", "[]", "''", "true"] {
        let fault = "1:8: wanted the name of a file, found ";
        faults(&format!("keys = {value}\n[key.other]\n[service.a]\nlisten = 1\n"), &[fault]);
        let fault = "1:7: wanted the name of a file, found ";
        faults(&format!("key = {value}\nserver = 'a'\n[publish.a]\nlocal = 1\n"), &[fault]);
    }
}

#[test]
fn a_local_server_s_port_that_is_none_is_told_as_such() {
    let text = |local: &str| format!("server = 'a'\nkey = 'keys'\n[publish.web]\nlocal = {local}\n");
    faults(
        &text("70000"),
        &["4:9: wanted HOST:PORT, found '70000': the port is not a number from 1 to 65535"],
    );
    faults(
        &text("'::1:80'"),
        &["4:9: wanted brackets around an IPv6 address in front of its port, such as [::1]:8080"],
    );
}

#[test]
fn a_secret_in_the_place_of_a_file_is_a_fault() {
    let fault = "wanted the name of a file, because a secret stands in the key file alone, found the text '";
    for option in ["log-file", "ready-file", "status", "key"] {
        let key = if option == "key" { "" } else { "key = 'keys'\n" };
        for value in [SECRET.to_owned(), format!("/tmp/{SECRET}/log")] {
            let text = format!("{option} = '{value}'\n{key}server = 'a'\n[publish.a]\nlocal = 1\n");
            faults(&text, &[&format!("1:{}: {fault}", option.len() + 4)]);
        }
    }
}

#[test]
fn each_file_of_a_configuration_is_a_file_of_its_own() {
    let server = "keys = 'keys'\nlog-file = 'f.toml'\nstatus = './keys'\n[service.a]\nlisten = 5\n";
    faults(
        server,
        &[
            "2:12: wanted a file of its own, found this file itself",
            "3:10: wanted a file of its own, found that of 'keys' at 1:8",
        ],
    );
    faults(
        "server = 'a'\nkey = 'keys'\nlog-file = 'x'\nstatus = 'x'\n",
        &["4:10: wanted a file of its own, found that of 'log-file' at 3:12"],
    );
    let folder = folder();
    let here = folder.0.file_name().and_then(|name| name.to_str()).expect("plain");
    folder.file("f.toml", format!("server = 'a'\nready-file = '../{here}/keys'\nkey = 'keys'\n"));
    let (status, _, told) = check(&folder, &["f.toml"]);
    assert_eq!(status, 2);
    assert_eq!(told, "f.toml:3:7: wanted a file of its own, found that of 'ready-file' at 2:14\n");
}

#[test]
fn a_flag_names_a_file_of_its_own() {
    let folder = folder();
    let here = folder.0.file_name().and_then(|name| name.to_str()).expect("plain");
    let client = "server = '127.0.0.1:9'\nkey = 'keys'\nstatus = 'none'\n[publish.a]\nlocal = 9\n";
    folder.file("c.toml", client);
    folder.file("s.toml", "keys = 'keys'\n");
    std::os::unix::fs::symlink("c.toml", folder.path("link")).expect("a new link");
    std::fs::hard_link(folder.path("c.toml"), folder.path("name")).expect("a second name");
    let detour = format!("./../{here}/c.toml");
    let itself = |flag: &str, file: &str| {
        format!("{file}:1:1: wanted a file of its own for --{flag}, found this file itself\n")
    };
    let of = |flag: &str, other: &str| format!("wanted a file of its own{flag}, found that of --{other}\n");
    let of_log = of("", "log-file");
    for (arguments, expected) in [
        (&["client", "--config", "c.toml", "--ready-file", "c.toml"][..], itself("ready-file", "c.toml")),
        (&["client", "--config", "c.toml", "--ready-file", &detour], itself("ready-file", "c.toml")),
        (&["client", "--config", "c.toml", "--ready-file", "name"], itself("ready-file", "c.toml")),
        (&["client", "--config", "link", "--log-file", "c.toml"], itself("log-file", "link")),
        (&["unit", "client", "--config", "c.toml", "--status", "link"], itself("status", "c.toml")),
        (&["client", "--config", "c.toml", "--log-file", "keys"], format!("c.toml:2:7: {of_log}")),
        (&["server", "--config", "s.toml", "--log-file", "./keys"], format!("s.toml:1:8: {of_log}")),
        (
            &["client", "--config", "c.toml", "--log-file", "new", "--ready-file", "./new"],
            format!("c.toml:1:1: {}", of(" for --ready-file", "log-file")),
        ),
        (
            &["server", "--keys", "keys", "--log-file", "keys"],
            format!("skyorg: {}", of(" for --log-file", "keys")),
        ),
        (
            &["unit", "client", "--server=a", "--local=1", "--key=keys", "--status=keys"],
            format!("skyorg: {}", of(" for --status", "key")),
        ),
    ] {
        assert_eq!(texts(&run(&folder, arguments)), (2, String::new(), expected), "{arguments:?}");
    }
    let read = |name: &str| std::fs::read_to_string(folder.path(name)).expect("it is there");
    assert_eq!((read("c.toml"), read("keys").lines().count()), (client.to_owned(), 2));
    assert!(!std::fs::exists(folder.path("new")).expect("ours"));
}

#[test]
fn a_flag_beside_a_file_holds_at_a_reload_and_its_file_stays_its_own() {
    let folder = folder();
    let file = |key: &str, top: &str| {
        let text = format!("server = '127.0.0.1:9'\nkey = '{key}'\n{top}[publish.a]\nlocal = 9\n");
        folder.file("f.toml", text)
    };
    let path = file("keys", "");
    let (ready, log) = (folder.path("ready"), folder.path("log"));
    let flags = ["--log-level", "debug", "--ready-file", &ready, "--log-file", &log, "--status", "none"];
    let process = Process::skyorg(&[&["client", "--config", &path][..], &flags].concat(), None);
    let wait_for = |text: &str| {
        let read = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(text));
        process.wait_until(text, read);
    };
    wait_for("connecting to");
    file("keys", "log-level = 'warn'\nready-file = 'x'\nlog-file = 'y'\nstatus = 'z'\n");
    process.signal(Signal::HUP);
    wait_for("f.toml: nothing changed");
    file("log", "");
    process.signal(Signal::HUP);
    wait_for("f.toml:2:7: wanted a file of its own, found that of --log-file");
}

#[test]
fn a_reload_names_each_place_where_it_cannot_listen() {
    let folder = folder();
    let taken = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [first, second] = taken.each_ref().map(|it| it.local_addr().expect("bound"));
    let file = |metrics: &str, services: &str| {
        let text = "keys = 'keys'\nstatus = 'socket'\nmessage = '127.0.0.1:0'\ncontrol = '127.0.0.1:0'\n";
        folder.file("s.toml", format!("{text}metrics = '{metrics}'\n{services}"))
    };
    let path = file("127.0.0.1:0", "");
    let process = Process::skyorg(&["server", "--config", &path], None);
    process.wait_for("control connections: ");
    let at = |place: SocketAddr, name: &str| {
        format!("cannot listen on {place} for users of service {name}: Address already in use (os error 98)")
    };
    // The later one by name is the first in the file.
    file(
        "127.0.0.1:0",
        &format!("[service.b]\nidle = 9\nlisten = '{first}'\n[service.a]\nlisten = '{second}'\n"),
    );
    process.signal(Signal::HUP);
    let line = process.wait_for("; the running configuration stays");
    assert!(line.contains(&format!("refused {path}:8:1: {}", at(first, "b"))), "{line}");
    assert!(line.ends_with(", and 1 more; the running configuration stays"), "{line}");
    let (_, status, _) = texts(&run(&folder, &["status", "--json", "--status", "socket"]));
    for (place, what) in [("8:1", at(first, "b")), ("10:1", at(second, "a"))] {
        assert!(status.contains(&format!("\"{path}:{place}: {what}")), "{status}");
    }
    let metrics = process.wait_for("metrics: http://");
    let own = metrics.trim_end_matches('/').rsplit(':').next().expect("a port");
    file(&format!("0.0.0.0:{own}"), "");
    process.signal(Signal::HUP);
    let lines = process.wait_for_count("; the running configuration stays", 2);
    assert!(
        lines[1].contains(&format!("{path}:5:1: cannot listen on 0.0.0.0:{own} for metrics")),
        "{lines:?}"
    );
    assert!(lines[1].contains("this process listens there itself"), "{lines:?}");
}

#[test]
fn a_reload_names_all_that_cannot_be_had_and_leaves_nothing_behind() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound");
    let file = |top: &str| {
        let text = "server = '127.0.0.1:9'\nkey = 'keys'\n";
        folder.file("f.toml", format!("{text}{top}[publish.a]\nlocal = 9\n"))
    };
    let path = file("status = 'socket'\n");
    let process = Process::skyorg(&["client", "--config", &path], None);
    process.wait_for("connecting to");
    let refuse = |number: usize, top: &str| {
        file(top);
        process.signal(Signal::HUP);
        let lines = process.wait_for_count("; the running configuration stays", number);
        let (_, status, _) = texts(&run(&folder, &["status", "--json", "--status", "socket"]));
        (lines[number - 1].clone(), status)
    };
    // In the order of the file, whichever is found first.
    let metrics = format!("metrics = '{taken}'\n");
    let all = format!("status = 'none/s'\n{metrics}ready-file = 'none/r'\nlog-file = 'none/l'\n");
    let (line, status) = refuse(1, &all);
    assert!(line.contains(&format!("refused {path}:3:1: cannot make the socket ")), "{line}");
    assert!(line.ends_with(", and 3 more; the running configuration stays"), "{line}");
    for place in ["4:1: cannot listen on", "5:1: ", "6:1: "] {
        assert!(status.contains(&format!("\"{path}:{place}")), "{place}: {status}");
    }
    // A log file that was made for it goes, and one that was there stays.
    folder.file("old", "");
    for (number, log) in ["new", "old"].into_iter().enumerate() {
        refuse(2 + number, &format!("status = 'socket'\n{metrics}log-file = '{log}'\n"));
        assert_eq!(std::fs::exists(folder.path(log)).expect("ours"), log == "old", "{log}");
    }
    file("status = 'socket'\nlog-file = 'new'\n");
    process.signal(Signal::HUP);
    let reloaded = || std::fs::read_to_string(folder.path("new")).is_ok_and(|log| log.contains("reloaded "));
    process.wait_until("reloaded", reloaded);
}

#[test]
fn a_log_file_that_was_made_for_a_reload_goes_if_a_port_refuses_that() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let file = |rest: &str| {
        let text = "keys = 'keys'\nstatus = 'none'\nmessage = '127.0.0.1:0'\ncontrol = '127.0.0.1:0'\n";
        folder.file("s.toml", format!("{text}{rest}"))
    };
    let path = file("");
    let process = Process::skyorg(&["server", "--config", &path], None);
    process.wait_for("control connections: ");
    file(&format!("log-file = 'new'\n[service.a]\nlisten = '{address}'\n"));
    process.signal(Signal::HUP);
    process.wait_for("; the running configuration stays");
    process.wait_until("it is gone", || !std::fs::exists(folder.path("new")).expect("ours"));
}

#[test]
fn no_key_is_removed_for_a_ready_file() {
    let folder = folder();
    std::fs::copy(folder.path("keys"), folder.path("text")).expect("a copy");
    let client = ["client", "--server", "127.0.0.1:9", "--local", "9", "--key", "keys", "--status", "none"];
    for (other, wanted, part) in [
        ("keys", 2, "wanted a file of its own for --ready-file, found that of --key"),
        ("text", 1, "no ready file"),
        ("none/x", 1, "No such file"),
    ] {
        let (status, _, told) = texts(&run(&folder, &[&client[..], &["--ready-file", other]].concat()));
        assert!(status == wanted && told.contains(part), "{told}");
    }
    let file = |ready: &str| {
        let text = format!("server = '127.0.0.1:9'\nkey = 'keys'\nstatus = 'none'\nready-file = '{ready}'\n");
        folder.file("f.toml", text + "[publish.a]\nlocal = 9\n")
    };
    let path = file("text");
    let (status, _, told) = texts(&run(&folder, &["client", "--config", "f.toml"]));
    assert!(status == 1 && told.contains("skyorg: f.toml:4:1: "), "{told}");
    let (status, _, told) = texts(&run(&folder, &["client", "--config", "f.toml", "--ready-file", "none/x"]));
    assert!(status == 1 && told.contains("skyorg: none/x: "), "the flag holds, and not line 4: {told}");

    file("ready");
    folder.file("ready", "");
    let process = Process::skyorg(&["client", "--config", &path], None);
    process.wait_until("the old one is gone", || !std::fs::exists(folder.path("ready")).expect("ours"));
    folder.file("ready", "[]\n");
    for (number, other) in ["text", "none/x", "keys.d"].into_iter().enumerate() {
        if other == "keys.d" {
            std::fs::create_dir(folder.path(other)).expect("a new folder");
        }
        file(other);
        process.signal(Signal::HUP);
        let lines = process.wait_for_count("; the running configuration stays", number + 1);
        assert!(lines[number].contains("f.toml:4:1: "), "{}", lines[number]);
    }
    let read = |name: &str| std::fs::read(folder.path(name)).expect("it is there");
    assert_eq!(read("text"), read("keys"));
    assert!(
        std::fs::exists(folder.path("ready")).expect("ours")
            && std::fs::exists(folder.path("keys")).expect("ours")
    );
}

#[test]
fn what_would_block_is_refused_at_the_start_and_at_a_reload() {
    let folder = folder();
    let pipe = |name: &str| {
        let path = folder.path(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))
            .expect("a new pipe");
        path
    };
    pipe("pipe");
    let (status, _, told) = check(&folder, &["pipe"]);
    assert!(status == 2 && told.contains("it is a pipe that nobody writes to"), "{told}");
    let file = |key: &str, log: &str| {
        let text =
            format!("server = '127.0.0.1:9'\nstatus = 'none'\nkey = '{key}'\n{log}[publish.a]\nlocal = 9\n");
        folder.file("f.toml", text)
    };
    let path = file("pipe", "");
    let (status, _, told) = check(&folder, &["f.toml"]);
    assert!(
        status == 2 && told.starts_with("f.toml:3:7: wanted a key file that can be read, found at pipe"),
        "{told}"
    );
    file("keys", "");
    let process = Process::skyorg(&["client", "--config", &path], None);
    process.wait_for("connecting to");
    for (number, (key, log, part)) in [
        ("pipe", "", "f.toml:3:7: "),
        ("keys", "log-file = 'pipe'\n", "nobody reads"),
        ("pipe", "", "f.toml:3:7: "),
    ]
    .into_iter()
    .enumerate()
    {
        file(key, log);
        process.signal(Signal::HUP);
        let lines = process.wait_for_count("; the running configuration stays", number + 1);
        assert!(lines[number].contains(part), "{}", lines[number]);
    }
    file("keys", "drain = 7\n");
    process.signal(Signal::HUP);
    process.wait_for("reloaded ");
}
