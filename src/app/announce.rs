//! Where users connect, for those who started the client: lines on standard output, and the ready file.
//!
//! A line comes with each grant that is new or changed. The ready file is there while everything that is asked for is
//! granted, as far as the client knows: a link that is lost changes nothing of it. Both are written by threads of their
//! own. Standard output may be a pipe that nobody reads: then lines are dropped and counted. The ready file gets the
//! newest state.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use log::{error, warn};

use super::json::Json;
use super::ready_file::{remove, replace};
use crate::base::mailbox::Mailbox;
use crate::base::name::Name;
use crate::base::ports::PortsAt;
use crate::base::sorted::Map;
use crate::config::ClientConfig;
use crate::machine::Fact;
use crate::reactor::world::thread::start;
use crate::wire::control::GrantedAddress;

/// Most bytes of lines that wait for standard output: those of all publications that a client may have.
const LINES_BYTES_MAX: usize = 256 * 1024;
/// How long each of the two threads has when the process ends.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// A ready file that could not be changed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);
const STACK_BYTES: usize = 128 * 1024;

/// Lines that wait for standard output, and how many found no room.
#[derive(Default, PartialEq)]
struct Lines {
    text: String,
    dropped: usize,
}

/// What is to become of the ready file.
#[derive(PartialEq)]
enum Wanted {
    Text(String),
    Nothing,
}

/// What is known of a publication.
#[derive(PartialEq)]
enum Known {
    Asked,
    Denied,
    /// Where its users connect.
    Granted(Vec<String>),
}

/// Tells where users connect.
pub struct Announcer {
    /// The server, as it was typed.
    host: Arc<str>,
    publications: Map<Name, Known>,
    lines: Arc<Mailbox<Lines>>,
    ready: Option<Ready>,
}

impl Announcer {
    /// An announcer that has told nothing. A ready file that is left from before goes.
    pub fn new(config: &ClientConfig, ready_file: Option<PathBuf>) -> io::Result<Announcer> {
        let asked = config.publications.iter().map(|publication| (publication.name.clone(), Known::Asked));
        let publications = asked.collect();
        let lines = Arc::new(Mailbox::default());
        let to_print: Arc<Mailbox<Lines>> = lines.clone();
        start("standard output", STACK_BYTES, move || to_print.serve(print))?;
        if let Some(path) = &ready_file {
            remove(path)?;
        }
        let ready = ready_file.map(Ready::new).transpose()?;
        Ok(Announcer { host: config.server.host.clone(), publications, lines, ready })
    }

    /// Takes a fact into account.
    pub fn take(&mut self, fact: &Fact) {
        let (service, known) = match fact {
            Fact::Granted { service, addresses, .. } => {
                (service, Some(Known::Granted(self.shown(addresses))))
            }
            Fact::Denied { service, .. } => (service, Some(Known::Denied)),
            Fact::Asked { service } => (service, Some(Known::Asked)),
            Fact::Unpublished { service } => (service, None),
            _ => return,
        };
        let before = match known {
            Some(known) => self.publications.insert(service.clone(), known),
            None => self.publications.remove(service),
        };
        let known = self.publications.get(service);
        if before.as_ref() == known {
            return;
        }
        if let Some(Known::Granted(addresses)) = known {
            let line = format!("{service}: users connect to {}\n", addresses.join(", "));
            self.lines.leave(|lines| match lines.text.len() + line.len() <= LINES_BYTES_MAX {
                true => lines.text += &line,
                false => lines.dropped += 1,
            });
        }
        if let Some(ready) = &mut self.ready {
            ready.is_untrue |= matches!(before, Some(Known::Granted(_)));
            ready.is_changed = true;
        }
    }

    /// Addresses as people write them, each once.
    fn shown(&self, addresses: &[GrantedAddress]) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for &GrantedAddress { ip, ports } in addresses {
            let shown = match ip.is_unspecified() {
                false => PortsAt { ip: Some(ip), ports }.to_string(),
                true if self.host.contains(':') => format!("[{}]:{ports}", self.host),
                true => format!("{}:{ports}", self.host),
            };
            if !all.contains(&shown) {
                all.push(shown);
            }
        }
        all
    }

    /// The ready file is there from now on, or nowhere.
    pub fn move_ready_file(&mut self, path: Option<PathBuf>) -> io::Result<()> {
        if self.ready.as_ref().map(|ready| &ready.path) == path.as_ref() {
            return Ok(());
        }
        match (&mut self.ready, path) {
            (Some(ready), Some(path)) => {
                ready.want(Wanted::Nothing);
                ready.path = path;
            }
            (ready, None) => ready.take().iter().for_each(|ready| ready.want(Wanted::Nothing)),
            (ready, Some(path)) => *ready = Some(Ready::new(path)?),
        }
        // What stands there may be from before.
        self.ready.iter_mut().for_each(|ready| (ready.is_changed, ready.is_untrue) = (true, true));
        Ok(())
    }

    /// Brings the ready file up to date, once a turn's facts are taken.
    pub fn settle(&mut self) {
        let Some(ready) = &mut self.ready else { return };
        if std::mem::take(&mut ready.is_changed) {
            let all = self.publications.values().all(|known| matches!(known, Known::Granted(_)));
            let denied = self.publications.values().any(|known| matches!(known, Known::Denied));
            let is_untrue = std::mem::take(&mut ready.is_untrue);
            if all {
                ready.want(Wanted::Text(json(&self.publications)));
            } else if denied || is_untrue {
                ready.want(Wanted::Nothing);
            }
        }
    }

    /// The process ends: the ready file goes.
    pub fn close(self) {
        if let Some(ready) = &self.ready {
            ready.want(Wanted::Nothing);
            if !ready.wanted.wait_until_done(DRAIN_TIME) {
                warn!("the ready file {} may be there still", ready.path.display());
            }
        }
        if !self.lines.wait_until_done(DRAIN_TIME) {
            warn!("standard output was not read in time, and lines were dropped");
        }
    }
}

/// The ready file, as far as the loop is concerned.
struct Ready {
    path: PathBuf,
    /// What is to become of this file, and of one that was it before.
    wanted: Arc<Mailbox<Map<PathBuf, Wanted>>>,
    /// Something has changed since it was looked at.
    is_changed: bool,
    /// It may name an address that is not granted any more.
    is_untrue: bool,
}

impl Ready {
    fn new(path: PathBuf) -> io::Result<Ready> {
        let wanted = Arc::new(Mailbox::default());
        let to_write: Arc<Mailbox<Map<PathBuf, Wanted>>> = wanted.clone();
        start("ready file", STACK_BYTES, move || write_for_ever(&to_write))?;
        // Everything may be granted already: a client may ask for nothing.
        Ok(Ready { path, wanted, is_changed: true, is_untrue: false })
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.leave(|content| drop(content.insert(self.path.clone(), wanted)));
    }
}

/// Changes ready files as is wanted. What fails is told once and tried again, unless something else is wanted by then:
/// a disk may be full for a moment.
fn write_for_ever(to_write: &Mailbox<Map<PathBuf, Wanted>>) {
    let mut is_told = false;
    to_write.serve(|wanted| {
        let mut failed = Map::default();
        for (file, wanted) in wanted {
            let outcome = match &wanted {
                Wanted::Text(text) => replace(&file, text),
                Wanted::Nothing => remove(&file),
            };
            if let Err(error) = outcome {
                if !is_told {
                    error!("cannot change the ready file {} yet: {error}", file.display());
                }
                failed.insert(file, wanted);
            }
        }
        is_told = !failed.is_empty();
        if is_told {
            to_write.wait_for_more(AGAIN);
            to_write.leave(|content| {
                for (file, wanted) in failed {
                    if !content.contains_key(&file) {
                        content.insert(file, wanted);
                    }
                }
            });
        }
    });
}

fn print(lines: Lines) {
    // Lines in one piece, so that nothing of them stays in its buffer.
    match io::stdout().write_all(lines.text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            warn!("cannot write to standard output: {error}");
        }
        _ => {}
    }
    if lines.dropped > 0 {
        warn!("{} lines were dropped: standard output was not read in time", lines.dropped);
    }
}

/// `[{"publication":"web","addresses":["gw.example:443"]}]` and the end of the line.
fn json(publications: &Map<Name, Known>) -> String {
    let mut json = Json::default();
    json.open('[');
    for (name, known) in publications.iter() {
        let Known::Granted(addresses) = known else { continue };
        json.open('{').key("publication").text(name.as_str()).key("addresses").open('[');
        for address in addresses {
            json.text(address);
        }
        json.close(']').close('}');
    }
    json.close(']');
    json.finish() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::HostPort;
    use crate::base::ports::Ports;
    use crate::config::limits::Limits;
    use crate::config::{Key, Publication};
    use crate::wire::control::Denial;
    use crate::wire::handshake::Secret;
    use std::fs;

    /// An announcer whose lines and wishes nobody takes.
    fn announcer(server: &str, names: &[&str]) -> Announcer {
        let host = |text| HostPort::parse(text, None, None).expect("a place");
        let ready =
            Ready { path: "ready".into(), wanted: Arc::default(), is_changed: false, is_untrue: false };
        let publications = names.iter().map(|text| name(text));
        Announcer {
            host: host(server).host,
            publications: publications.map(|name| (name, Known::Asked)).collect(),
            lines: Arc::default(),
            ready: Some(ready),
        }
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn granted(service: &str, addresses: &[(&str, u16, u16)]) -> Fact {
        let address = |&(ip, first, last): &(&str, u16, u16)| GrantedAddress {
            ip: std::net::IpAddr::V6(ip.parse().expect("an address")).to_canonical(),
            ports: Ports { first, last },
        };
        let local = HostPort { host: "localhost".into(), port: 80 };
        Fact::Granted { service: name(service), addresses: addresses.iter().map(address).collect(), local }
    }

    fn denied(service: &str) -> Fact {
        Fact::Denied { service: name(service), reason: Denial::Policy, withdrawn: false }
    }

    impl Announcer {
        /// What the facts of one turn make it say, and what it wants of the ready file.
        fn hears(&mut self, facts: &[Fact]) -> (String, Option<String>) {
            facts.iter().for_each(|fact| self.take(fact));
            self.settle();
            let (mut said, mut wanted) = (String::new(), None);
            self.lines.leave(|lines| said = std::mem::take(&mut lines.text));
            let ready = self.ready.as_ref().expect("it has one");
            ready.wanted.leave(|content| wanted = std::mem::take(content).into_iter().next());
            let wanted = wanted.map(|(_, wanted)| match wanted {
                Wanted::Text(text) => text,
                Wanted::Nothing => "nothing".into(),
            });
            (said, wanted)
        }
    }

    #[test]
    fn a_wildcard_is_the_server_as_it_was_typed_and_an_address_is_itself() {
        for (server, shown) in [("gw.example:1", "gw.example:443"), ("[::1]:1", "[::1]:443")] {
            let mut announcer = announcer(server, &["web"]);
            for any in ["::", "::ffff:0.0.0.0"] {
                announcer.take(&Fact::Asked { service: name("web") });
                let (said, _) = announcer.hears(&[granted("web", &[(any, 443, 443)])]);
                assert_eq!(said, format!("web: users connect to {shown}\n"));
            }
        }
        let several = [
            ("::", 443, 443),
            ("::ffff:0.0.0.0", 443, 443),
            ("2001:db8::1", 80, 89),
            ("::ffff:192.0.2.7", 9, 9),
        ];
        let (said, _) = announcer("gw:1", &["web"]).hears(&[granted("web", &several)]);
        assert_eq!(said, "web: users connect to gw:443, [2001:db8::1]:80-89, 192.0.2.7:9\n");
    }

    #[test]
    fn only_a_new_or_changed_grant_is_told() {
        let mut announcer = announcer("gw:1", &["web"]);
        let grant = |port| granted("web", &[("::", port, port)]);
        let mut said = |fact| announcer.hears(&[fact]).0.lines().count();
        assert_eq!([said(grant(1)), said(grant(1)), said(grant(2))], [1, 0, 1]);
        assert_eq!([said(denied("web")), said(grant(2))], [0, 1], "it was denied meanwhile");
        assert_eq!([said(Fact::Asked { service: name("web") }), said(grant(2))], [0, 1]);
    }

    #[test]
    fn the_ready_file_comes_with_the_last_grant_and_names_all() {
        let mut announcer = announcer("gw:1", &["b", "a"]);
        assert_eq!(announcer.hears(&[granted("b", &[("::", 1, 2)])]).1, None);
        let text = r#"[{"publication":"a","addresses":["gw:3"]},{"publication":"b","addresses":["gw:1-2"]}]"#;
        let grant = granted("a", &[("::", 3, 3)]);
        assert_eq!(announcer.hears(std::slice::from_ref(&grant)).1, Some(text.to_owned() + "\n"));
        assert_eq!(announcer.hears(&[grant]).1, None, "nothing changes");
        let (_, text) = announcer.hears(&[granted("a", &[("::", 4, 4)])]);
        assert!(text.is_some_and(|text| text.contains("gw:4")));
    }

    #[test]
    fn the_ready_file_goes_with_a_denial_and_comes_again() {
        let mut announcer = announcer("gw:1", &["a", "b"]);
        let grant = granted("a", &[("::", 1, 1)]);
        assert!(announcer.hears(&[grant.clone(), granted("b", &[("::", 2, 2)])]).1.is_some());
        assert_eq!(announcer.hears(&[denied("a")]).1.as_deref(), Some("nothing"));
        assert!(announcer.hears(&[grant]).1.is_some_and(|text| text.contains("gw:1")));
    }

    #[test]
    fn the_ready_file_names_no_address_that_was_given_up() {
        let asked = |service| Fact::Asked { service: name(service) };
        let gone = |service| Fact::Unpublished { service: name(service) };
        let mut announcer = announcer("gw:1", &["a", "b"]);
        assert!(announcer.hears(&[granted("a", &[("::", 1, 1)]), granted("b", &[("::", 2, 2)])]).1.is_some());
        assert_eq!(announcer.hears(&[asked("c")]).1, None, "what it says is true");
        assert!(announcer.hears(&[granted("c", &[("::", 3, 3)])]).1.is_some());
        let text = announcer.hears(&[gone("a")]).1.expect("it is written anew");
        assert!(!text.contains("\"a\"") && text.contains("\"c\""), "{text}");
        assert_eq!(announcer.hears(&[gone("b"), asked("b")]).1.as_deref(), Some("nothing"));
    }

    #[test]
    fn lines_beyond_the_bound_are_counted() {
        let mut announcer = announcer("gw:1", &["web"]);
        for port in 1..=u16::MAX {
            announcer.take(&granted("web", &[("::", port, port)]));
        }
        let lines = std::mem::take(&mut announcer.lines);
        lines.leave(|lines| {
            assert!(lines.text.len() <= LINES_BYTES_MAX && lines.text.ends_with('\n'));
            assert_eq!(lines.text.lines().count() + lines.dropped, usize::from(u16::MAX));
        });
    }

    #[test]
    fn a_ready_file_that_cannot_be_written_comes_when_it_can() {
        let folder = std::env::temp_dir().join(format!("skyorg-no-room-{}", std::process::id()));
        let path = folder.join("ready");
        let ready = Ready::new(path.clone()).expect("a thread");
        ready.want(Wanted::Text("[]\n".to_owned()));
        assert!(!ready.wanted.wait_until_done(Duration::from_millis(100)), "it is tried again");
        fs::create_dir(&folder).expect("a new folder");
        assert!(ready.wanted.wait_until_done(Duration::from_secs(60)));
        assert_eq!(fs::read_to_string(&path).expect("it is written"), "[]\n");
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn an_announcer_that_nobody_reads_ends_in_time() {
        let config = ClientConfig {
            server: HostPort { host: "gw".into(), port: 1 },
            message: None,
            publications: vec![Publication::of_service(name("web"), HostPort { host: "h".into(), port: 1 })],
            key: Key { name: name("office"), secret: Secret::new([1; 32]) },
            plain: false,
            limits: Limits::default(),
        };
        let path = std::env::temp_dir().join(format!("skyorg-ready-{}", std::process::id()));
        fs::write(&path, "[]\n").expect("writes");
        let mut announcer = Announcer::new(&config, Some(path.clone())).expect("starts");
        assert!(!path.exists());
        announcer.take(&granted("web", &[("::", 1, 1)]));
        announcer.settle();
        assert!(announcer.ready.as_ref().expect("there").wanted.wait_until_done(Duration::from_secs(60)));
        assert_eq!(
            fs::read_to_string(&path).expect("it is written"),
            "[{\"publication\":\"web\",\"addresses\":[\"gw:1\"]}]\n"
        );
        announcer.close();
        assert!(!path.exists());
        // Everything is granted to a client that asks for nothing.
        let config = ClientConfig { publications: Vec::new(), ..config };
        let mut announcer = Announcer::new(&config, Some(path.clone())).expect("starts");
        announcer.settle();
        assert!(announcer.ready.as_ref().expect("there").wanted.wait_until_done(Duration::from_secs(60)));
        assert_eq!(fs::read_to_string(&path).expect("it is written"), "[]\n");
        announcer.close();
        assert!(!path.exists());
    }
}
