//! The page, in Debian's Chromium without a window. It is led by the protocol of its developer tools, over a pair of
//! pipes; where Chromium is not installed the test is skipped, aloud, and with `SKYORG_REQUIRE_PROGRAMS=1` it fails.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Folder, Mode, PATIENCE, Process, Setup, measure};
use std::io::BufRead;

/// A browser with one page.
struct Browser {
    _process: Process,
    to: File,
    from: BufReader<File>,
    number: u32,
    session: String,
}

impl Browser {
    /// Starts it; none where it is not installed.
    fn start(folder: &Folder, url: &str) -> Option<Browser> {
        let [to, from] = ["to", "from"].map(|name| folder.path(name));
        let script = format!(
            "mkfifo {to} {from} && exec chromium --headless --no-sandbox --disable-gpu --no-first-run \
             --user-data-dir={} --remote-debugging-pipe about:blank 3<{to} 4>{from}",
            folder.path("profile")
        );
        if !Command::new("sh")
            .args(["-c", "command -v chromium"])
            .output()
            .is_ok_and(|it| it.status.success())
        {
            println!("skipped: chromium is not installed");
            let required = std::env::var_os("SKYORG_REQUIRE_PROGRAMS").is_some_and(|value| value == "1");
            assert!(!required, "chromium is not installed");
            return None;
        }
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let process = Process::start("chromium", command);
        process.wait_until("its pipes are there", || std::path::Path::new(&from).exists());
        // The shell opens them in this order.
        let to = OpenOptions::new().write(true).open(to).expect("a pipe");
        let from = BufReader::new(File::open(from).expect("a pipe"));
        let mut browser = Browser { _process: process, to, from, number: 0, session: String::new() };
        let made = browser.call("Target.createTarget", &format!("{{\"url\":\"{url}\"}}"));
        let target = text_of(&made, "targetId").expect("a page");
        let attached =
            browser.call("Target.attachToTarget", &format!("{{\"targetId\":\"{target}\",\"flatten\":true}}"));
        browser.session = text_of(&attached, "sessionId").expect("a session");
        Some(browser)
    }

    /// Calls a method, and returns the whole answer.
    fn call(&mut self, method: &str, parameters: &str) -> String {
        self.number += 1;
        let session = match self.session.as_str() {
            "" => String::new(),
            session => format!(",\"sessionId\":\"{session}\""),
        };
        let number = self.number;
        let asked = format!("{{\"id\":{number},\"method\":\"{method}\",\"params\":{parameters}{session}}}\0");
        self.to.write_all(asked.as_bytes()).expect("it reads");
        loop {
            let mut told = Vec::new();
            assert!(self.from.read_until(0, &mut told).expect("it lives") > 0, "it has ended");
            let told = String::from_utf8_lossy(&told).into_owned();
            if told.starts_with(&format!("{{\"id\":{number},")) {
                return told;
            }
        }
    }

    /// What an expression of the page says, which is a text.
    fn say(&mut self, expression: &str) -> String {
        let told = self.call("Runtime.evaluate", &format!("{{\"expression\":\"{expression}\"}}"));
        text_of(&told, "value").unwrap_or_default()
    }

    /// Waits until an expression's text has a part; returns whether it came in time.
    fn waits(&mut self, expression: &str, part: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let text = self.say(expression);
            if text.contains(part) {
                return true;
            }
            if Instant::now() > deadline {
                println!("no '{part}' in {text}");
                return false;
            }
            measure(Duration::from_millis(50));
        }
    }
}

/// The text of a key, as JSON has it.
fn text_of(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{key}\":\""))?;
    let mut is_escaped = false;
    let end = rest.find(|letter| {
        let is_end = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        is_end
    });
    end.map(|end| rest[..end].to_owned())
}

#[test]
fn the_page_draws_the_status_and_a_row_turns_to_its_cause() {
    // Nobody accepts: its kernel does.
    let local = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let setup = Setup::new(Mode::Sealed).server(&["--metrics", "0"]);
    let tunnel = setup.start(local.local_addr().expect("bound"));
    let line = tunnel.server.wait_for("metrics: http://");
    let address: SocketAddr = line
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.trim_end_matches('/').parse().ok())
        .expect("its address");
    let folder = Folder::new();
    let Some(mut browser) = Browser::start(&folder, &format!("http://{address}/")) else { return };
    assert!(browser.waits("document.title", "skyorg server", PATIENCE));
    let row =
        "[...document.querySelectorAll('article')].map(it => it.className + ': ' + it.innerText).join('; ')";
    assert!(browser.waits(row, "proven: default", PATIENCE));
    assert_eq!(browser.say("String(document.querySelectorAll('article svg').length)"), "4");
    for width in [400, 1_400] {
        let size = format!("{{\"width\":{width},\"height\":900,\"deviceScaleFactor\":1,\"mobile\":false}}");
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        let fits = "String(document.documentElement.scrollWidth <= document.documentElement.clientWidth)";
        assert!(browser.waits(fits, "true", PATIENCE), "it is wider than {width}");
    }
    drop(local);
    assert!(browser.waits(row, "local server refuses connections", Duration::from_secs(10)));
    assert!(browser.say(row).starts_with("failing: default"));
}
