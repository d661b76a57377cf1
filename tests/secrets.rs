//! What a process keeps of its secrets, seen from outside: its memory (proc(5), `/proc/pid/mem`) and its limits.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Folder, MODES, Process, SKYORG, Tunnel, converse, echo_server};

/// A key's secret, as text and as bytes.
struct Secret {
    text: String,
    bytes: Vec<u8>,
}

/// The secret of a file's only line.
fn secret(path: &str) -> Secret {
    let line = fs::read_to_string(path).expect("readable");
    let text = line.split_whitespace().nth(1).expect("a secret").to_owned();
    let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
    Secret { text, bytes }
}

/// Where in a process's own memory `wanted` stands: the names of the areas. What a kernel keeps is not among them.
fn places(process: &Process, wanted: &[u8]) -> Vec<String> {
    let folder = format!("/proc/{}", process.pid().as_raw_nonzero());
    let memory = File::open(format!("{folder}/mem")).expect("the process may be looked at");
    let mut found = Vec::new();
    for area in fs::read_to_string(format!("{folder}/maps")).expect("the process lives").lines() {
        let mut words = area.split_whitespace();
        let (range, rights) = (words.next().expect("a range"), words.next().expect("rights"));
        if !rights.starts_with("rw") {
            continue;
        }
        let number = |text| u64::from_str_radix(text, 16).expect("a hexadecimal number");
        let (from, to) =
            range.split_once('-').map(|(from, to)| (number(from), number(to))).expect("two ends");
        let mut bytes = vec![0; (to - from) as usize];
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            let count = bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
            found.extend((0..count).map(|_| words.clone().last().unwrap_or_default().to_owned()));
        }
    }
    found
}

#[test]
fn no_text_of_a_key_stays_in_memory() {
    for mode in MODES {
        let mut tunnel = Tunnel::start(mode, echo_server());
        converse(&mut tunnel.user(), b"hello");
        let secret = secret(&tunnel.key);
        // Half of it would help somebody, too.
        for part in [&secret.text[..16], &secret.text[16..32], &secret.text[27..]] {
            assert_eq!(places(&tunnel.server, part.as_bytes()), [""; 0], "{mode:?}, server");
            assert_eq!(places(tunnel.client(), part.as_bytes()), [""; 0], "{mode:?}, client");
        }
    }
}

#[test]
fn a_server_holds_a_secret_once_before_a_client_has_come() {
    let folder = Folder::new();
    let key = folder.key();
    let secret = secret(&key);
    // In a long text, whose memory is not used again at once: what was not wiped would be found.
    let comments = "# a comment\n".repeat(400);
    let line = fs::read_to_string(&key).expect("readable");
    fs::write(&key, format!("{comments}{line}{comments}")).expect("it is ours");
    let any = "127.0.0.1:0";
    let arguments = ["server", "--request", any, "--message", any, "--control", any, "--keys", &key];
    let server = Process::skyorg(&arguments, None);
    server.wait_for("control connections: ");
    assert_eq!(places(&server, &secret.bytes).len(), 1);
    assert_eq!(places(&server, secret.text.as_bytes()), [""; 0]);
}

#[test]
fn the_variable_is_held_by_nobody_but_the_environment() {
    let folder = Folder::new();
    let key = folder.key();
    // It is not used where a file is named.
    for more in [&[][..], &["--key", &key]] {
        let mut command = Command::new(SKYORG);
        command.args(["client", "--server", "127.0.0.1:1", "--local", "1"]).args(more);
        command.env("SKYORG_KEY", fs::read_to_string(&key).expect("readable").trim());
        let client = Process::start("skyorg client", command);
        client.wait_for("trying again");
        assert_eq!(places(&client, secret(&key).text.as_bytes()), ["[stack]"], "{more:?}");
    }
}

#[test]
fn no_core_is_dumped_and_the_owner_may_look() {
    let mut tunnel = Tunnel::start(common::Mode::Sealed, echo_server());
    let client = tunnel.client.take().expect("a client runs");
    for process in [&tunnel.server, &client] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid().as_raw_nonzero()));
        let limits = limits.expect("the process lives");
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
        fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid().as_raw_nonzero()))
            .expect("readable");
    }
}
