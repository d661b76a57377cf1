//! The status as text for people: one screen, what fails first.
//!
//! A line is never wider than the terminal; names and reasons are cut with `…`.

use std::collections::HashMap;
use std::time::Duration;

use super::judge::{self, Judgement, State};
use super::view::View;
use crate::base::decimal::Decimal;
use crate::base::name::Name;
use crate::base::sorted::by_rank;
use crate::config::moment::Shown;
use crate::machine::Traffic;
use crate::machine::status::{CAUSES, LinkStatus, PublicationStatus, ServiceStatus};

/// How the text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Most characters of a line.
    pub width: usize,
    /// Whether states have colours.
    pub has_colours: bool,
    /// Whether it comes each second: then bytes are told for each second, else in all.
    pub is_live: bool,
}

impl Format {
    /// Reads `width=100&colours=1&live=1`; what is not said is 80, no and no.
    pub fn of(query: &str) -> Format {
        let said = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse::<usize>().ok())
        };
        let width = said("width").unwrap_or(80).clamp(1, 1_000);
        Format { width, has_colours: said("colours") == Some(1), is_live: said("live") == Some(1) }
    }
}

/// Sessions in a row that sent bytes and got none, from which on that is told.
const UNANSWERED_TOLD: u32 = 3;

/// Colours of a terminal (ECMA-48, SGR).
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Writes a screen. `before` is what was known about a second before.
pub fn write(view: &View, before: Option<&View>, format: Format) -> String {
    let mut screen = Screen { format, text: String::new() };
    head(view, &mut screen);
    services(view, before, &mut screen);
    links(view, &mut screen);
    process(view, &mut screen);
    screen.text
}

/// Lines that fit.
struct Screen {
    format: Format,
    text: String,
}

impl Screen {
    /// A line of one colour.
    fn line(&mut self, colour: &str, line: &str) {
        self.painted(line, 0, usize::MAX, colour);
    }

    /// A line with a colour from one character to another.
    fn painted(&mut self, line: &str, from: usize, to: usize, colour: &str) {
        let line = cut(line, self.format.width);
        let place = |number: usize| line.char_indices().nth(number).map_or(line.len(), |(place, _)| place);
        let (from, to) = (place(from), place(to));
        if self.format.has_colours && !colour.is_empty() && from < to {
            let parts = [&line[..from], colour, &line[from..to], PLAIN, &line[to..]];
            parts.iter().for_each(|part| self.text.push_str(part));
        } else {
            self.text.push_str(&line);
        }
        self.text.push('\n');
    }
}

/// The text without control characters, and not wider than that.
pub fn cut(text: &str, width: usize) -> String {
    let mut shown: String =
        text.trim_end().chars().map(|it| if it.is_control() { '?' } else { it }).take(width + 1).collect();
    if let Some((place, _)) = shown.char_indices().nth(width) {
        shown.truncate(place);
        shown.pop();
        shown.push('…');
    }
    shown
}

fn head(view: &View, screen: &mut Screen) {
    let head = &view.head;
    let since = |moment| age(view.wall.duration_since(moment).unwrap_or_default());
    let file = match &head.file {
        Some(file) => format!("{file} read {} ago", since(head.configured)),
        None => "configured by its command line".to_owned(),
    };
    let draining = if head.is_draining { ", draining" } else { "" };
    let (role, pid, up) = (head.role.name(), view.system.pid, since(head.since));
    screen.line(BOLD, &format!("skyorg {role}, process {pid}, up {up}{draining}; {file}"));
    if let Some(refused) = &head.refused {
        let more = match refused.faults.len() {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let first = refused.faults.first().map_or("", String::as_str);
        screen.line(RED, &format!("configuration refused since {}: {first}{more}", Shown(refused.since)));
    }
    if view.snapshot.totals.is_out_of_descriptors {
        screen.line(RED, "out of file descriptors");
    }
    if let Some((count, last)) = view.snapshot.totals.unknown_hellos {
        let text = format!("{count} hellos with an unknown or wrong key in 10 min, last from {}", last.ip());
        screen.line(YELLOW, &text);
    }
}

fn services(view: &View, before: Option<&View>, screen: &mut Screen) {
    let rates = screen.format.is_live.then(|| Rates::of(view, before));
    let rows = view.snapshot.services.iter().map(|service| (judge::of_service(service, view.at), service));
    // Whose client is away and may be has nothing to fail.
    let is_away = |service: &ServiceStatus| service.exposed_by.is_some() && service.publications.is_empty();
    let rank = |(judgement, service): &(Judgement, &ServiceStatus)| {
        u64::from(is_away(service)) << 8 | judgement.state as u64
    };
    let rows: Vec<(Judgement, &ServiceStatus)> = by_rank(rows, rank).collect();
    let names = rows.iter().map(|(_, service)| service.name.as_str().len());
    let wide = names.max().unwrap_or(0).clamp(7, screen.format.width.saturating_sub(67).max(8));
    screen.text.push('\n');
    let (bytes_in, bytes_out) = if rates.is_some() { ("IN/S", "OUT/S") } else { ("IN", "OUT") };
    screen.line(
        DIM,
        &format!(
            "{:wide$} {:15} {:>5} {:>5} {:>4} {bytes_in:>8} {bytes_out:>8} {:>6} {:>6}",
            "SERVICE", "STATE", "USERS", "PEAK", "WAIT", "P50 ms", "P99 ms"
        ),
    );
    if rows.is_empty() {
        screen.line("", "no service");
    }
    for (judgement, service) in rows {
        let (state, colour) = state(view, &judgement);
        let figures = &service.figures;
        let traffic = rates.as_ref().map_or(Some(figures.traffic), |rates| rates.of_service(service));
        let shown =
            |count: fn(Traffic) -> u64| traffic.map_or("-".to_owned(), |traffic| bytes(count(traffic)));
        let wait = |share| {
            figures.waits.quantile(share).map_or("-".to_owned(), |it| Decimal::milliseconds(it).to_string())
        };
        let name = cut(service.name.as_str(), wide);
        let row = format!(
            "{name:wide$} {state:15} {:>5} {:>5} {:>4} {:>8} {:>8} {:>6} {:>6}",
            figures.users,
            figures.peak,
            figures.waiting,
            shown(|it| it.received),
            shown(|it| it.sent),
            wait(0.5),
            wait(0.99),
        );
        screen.painted(&row, wide + 1, wide + 1 + state.len(), colour);
        details(view, &judgement, service, screen);
    }
}

/// The state in a word, with its age.
fn state(view: &View, judgement: &Judgement) -> (String, &'static str) {
    let ago = |moment| age(view.age(moment));
    match judgement.state {
        State::Failing => ("failing".to_owned(), RED),
        State::Unproven => {
            let since = judgement.since.map_or(String::new(), |since| format!(" {}", ago(since)));
            (format!("unproven{since}"), YELLOW)
        }
        State::Proven => {
            let proof = judgement.proof.map_or(String::new(), |proof| format!(" {} ago", ago(proof)));
            (format!("proven{proof}"), GREEN)
        }
    }
}

/// What stands below the row of a service.
fn details(view: &View, judgement: &Judgement, service: &ServiceStatus, screen: &mut Screen) {
    if let Some(reason) = judgement.reason {
        screen.line(RED, &format!("  {reason}"));
    }
    let publications = &service.publications;
    // One alone says no more than its service, but for where it comes from.
    for publication in publications.iter().filter(|_| publications.len() > 1) {
        let own = judge::of_publication(publication, view.at);
        let (state, colour) = state(view, &own);
        let reason = own.reason.map_or(String::new(), |reason| format!(": {reason}"));
        let text = format!("  {}: {state}{reason}", whence(publication));
        screen.line(if own.state == State::Proven { "" } else { colour }, &text);
    }
    for publication in publications.iter().filter(|it| it.unanswered >= UNANSWERED_TOLD) {
        let from = if publications.len() > 1 { format!("{}: ", whence(publication)) } else { String::new() };
        let count = publication.unanswered;
        let text = format!("  {from}no answer: the last {count} sessions that sent bytes got none");
        screen.line(YELLOW, &text);
    }
    let mut parts = Vec::new();
    if !service.addresses.is_empty() {
        parts.push(format!("users connect to {}", service.addresses.join(", ")));
    }
    if let ([publication], State::Failing | State::Unproven) = (&publications[..], judgement.state) {
        parts.push(format!("served by {}", whence(publication)));
    }
    if let Some(key) = &service.exposed_by {
        parts.push(format!("asked for by {key}"));
    }
    let refused: u64 = service.figures.refused.iter().sum();
    if refused > 0 {
        let causes = CAUSES.iter().zip(service.figures.refused).filter(|(_, count)| *count > 0);
        let causes: Vec<String> = causes.map(|(cause, count)| format!("{cause} {count}")).collect();
        parts.push(format!("refused {refused}: {}", causes.join(", ")));
    }
    if !parts.is_empty() {
        screen.line(DIM, &format!("  {}", parts.join("; ")));
    }
}

fn whence(publication: &PublicationStatus) -> String {
    match publication.client {
        Some(client) => format!("{} from {client}", publication.key),
        None => publication.key.to_string(),
    }
}

fn links(view: &View, screen: &mut Screen) {
    screen.text.push('\n');
    if view.snapshot.links.is_empty() {
        return screen.line("", "no link");
    }
    let names = view.snapshot.links.iter().map(|link| link.key.as_str().len());
    let wide = names.max().unwrap_or(0).clamp(7, screen.format.width.saturating_sub(67).max(8));
    screen.line(
        DIM,
        &format!(
            "{:wide$} {:24} {:>6} {:>10} {:>5} {:>5} {:>6} EXPIRES",
            "LINK", "ADDRESS", "UP", "ROUND TRIP", "IDLE", "BUSY", "COMING"
        ),
    );
    for link in &view.snapshot.links {
        let LinkStatus { idle, busy, coming, .. } = link;
        let address = link.address.map_or("-".to_owned(), |address| address.to_string());
        let up = link.since.map_or("-".to_owned(), |since| age(view.age(since)));
        let round_trip = |it: Duration| format!("{:.1} ms", Decimal::milliseconds(it));
        let round_trip = link.round_trip.map_or("-".to_owned(), round_trip);
        let expires = link.expires_in.map_or("-".to_owned(), |left| format!("in {}", age(left)));
        let (name, address) = (cut(link.key.as_str(), wide), cut(&address, 24));
        screen.line(
            "",
            &format!(
                "{name:wide$} {address:24} {up:>6} {round_trip:>10} {idle:>5} {busy:>5} {coming:>6} {expires}"
            ),
        );
        if let Some(reason) = &link.reason {
            screen.line(RED, &format!("  {reason}"));
        }
    }
}

fn process(view: &View, screen: &mut Screen) {
    let system = &view.system;
    let known = |number: Option<u64>| number.map_or("unknown".to_owned(), |number| number.to_string());
    let most = system.descriptors_max.map_or(String::new(), |most| format!(" of {most}"));
    let descriptors = format!("{} file descriptors{most}", known(system.descriptors));
    let memory = system.memory.map_or("unknown".to_owned(), bytes);
    let dropped = match system.log_lines_dropped {
        0 => String::new(),
        count => format!(", {count} log lines dropped"),
    };
    screen.text.push('\n');
    screen.line(DIM, &format!("{descriptors}, {memory} of memory{dropped}"));
}

/// Bytes a second of each service.
struct Rates<'v>(HashMap<(&'v Name, Option<&'v Name>), Traffic>);

impl<'v> Rates<'v> {
    fn of(view: &'v View, before: Option<&'v View>) -> Rates<'v> {
        let mut rates = HashMap::new();
        if let Some(before) = before {
            let passed = view.age(before.at).as_secs_f64().max(0.001);
            let services = before.snapshot.services.iter();
            let counts: HashMap<_, _> = services.map(|it| (key(it), it.figures.traffic)).collect();
            for service in &view.snapshot.services {
                let (now, Some(then)) = (service.figures.traffic, counts.get(&key(service))) else {
                    continue;
                };
                let rate = |now: u64, then: u64| (now.saturating_sub(then) as f64 / passed).round() as u64;
                let (received, sent) = (rate(now.received, then.received), rate(now.sent, then.sent));
                rates.insert(key(service), Traffic { received, sent });
            }
        }
        Rates(rates)
    }

    fn of_service(&self, service: &ServiceStatus) -> Option<Traffic> {
        self.0.get(&key(service)).copied()
    }
}

fn key(service: &ServiceStatus) -> (&Name, Option<&Name>) {
    (&service.name, service.exposed_by.as_ref())
}

/// A time in its largest whole unit.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A count of bytes in three digits.
fn bytes(count: u64) -> String {
    if count < 1_000 {
        return format!("{count} B");
    }
    let rounded = |unit: u64| count / unit + u64::from(count % unit >= unit / 2);
    let mut unit = 1_000;
    for name in ["kB", "MB", "GB", "TB"] {
        let (tenths, whole) = (rounded(unit / 10), rounded(unit));
        if tenths < 100 {
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
        if whole < 1_000 {
            return format!("{whole} {name}");
        }
        unit *= 1_000;
    }
    format!("{} PB", rounded(unit))
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::{mixed, publication, service, view};
    use super::*;
    use crate::machine::status::PublicationState;
    use std::time::SystemTime;

    const NARROW: Format = Format { width: 80, has_colours: false, is_live: false };

    #[test]
    fn a_screen_shows_what_fails_first_and_why() {
        let text = write(&mixed(), None, NARROW);
        let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}\n{text}"));
        assert!(place("local server refuses connections") < place("web "), "{text}");
        assert!(place("\n  no client\n") < place("web "), "{text}");
        assert!(place("skyorg server, process 4711, up 60 min; server.toml read 60 min ago\n") == 0);
        let row = text.lines().find(|line| line.starts_with("web ")).expect("it has a row");
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row.join(" "), "web proven 4 s ago 2 3 0 1.2 MB 99 B 0.1 0.1");
        place("  users connect to *:443; refused 2: no_client 2\n");
        let row = text.lines().find(|line| line.starts_with("office ")).expect("it has a row");
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row.join(" "), "office 203.0.113.7:51034 90 s 12.3 ms 9 1 0 -");
        place("20 file descriptors, 5.2 MB of memory");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_names_are_cut() {
        let long = "x".repeat(64);
        let view = view(|at| {
            let failing = PublicationState::Failing("é".repeat(300).into());
            let mut one = service(&long, vec![publication(failing, None, at); 2]);
            one.addresses = vec![long.clone(); 9];
            one.figures.traffic = Traffic { received: u64::MAX, sent: u64::MAX };
            vec![one]
        });
        for width in [20, 40, 80, 200] {
            let text = write(&view, None, Format { width, ..NARROW });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
            assert!(text.contains('…'));
        }
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        assert!(!write(&mixed(), None, NARROW).contains('\x1b'));
        let text = write(&mixed(), None, Format { has_colours: true, ..NARROW });
        assert!(text.contains("\x1b[32mproven 4 s ago\x1b[0m"), "{text}");
        assert_eq!(cut("a\x1b[31mb", 80), "a?[31mb");
    }

    #[test]
    fn what_is_live_tells_bytes_a_second() {
        let (before, mut view) = (mixed(), mixed());
        view.at = before.at + Duration::from_secs(2);
        view.snapshot.services[0].figures.traffic.received += 3_000;
        let live = Format { is_live: true, ..NARROW };
        let text = write(&view, Some(&before), live);
        assert!(text.contains(" 1.5 kB      0 B "), "{text}");
        let text = write(&view, None, live);
        assert!(text.contains("       -        - "), "nothing to compare with\n{text}");
    }

    #[test]
    fn what_the_process_knows_of_itself_stands_at_the_head() {
        let mut view = mixed();
        let faults = ["server.toml:3:1: wanted a port".to_owned(), "other".to_owned()].into();
        let since = SystemTime::UNIX_EPOCH;
        view.head.refused = Some(super::super::view::RefusedConfiguration { since, faults });
        view.snapshot.totals.unknown_hellos = Some((3, ([203, 0, 113, 9], 1).into()));
        let text = write(&view, None, Format { width: 200, ..NARROW });
        let lines: Vec<&str> = text.lines().skip(1).take(2).collect();
        assert_eq!(
            lines,
            [
                "configuration refused since 1970-01-01T00:00:00Z: server.toml:3:1: wanted a port, and 1 more",
                "3 hellos with an unknown or wrong key in 10 min, last from 203.0.113.9"
            ]
        );
    }

    #[test]
    fn sizes_and_ages_have_their_unit() {
        let sizes = [0, 999, 1_000, 9_949, 9_950, 999_499, 999_500, 1_500_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.5 GB"]);
        let ages = [0, 119, 120, 7_200, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }

    #[test]
    fn a_format_is_read() {
        let read = Format::of("width=100&colours=1");
        assert_eq!(read, Format { width: 100, has_colours: true, is_live: false });
        assert_eq!((Format::of("width=10").width, Format::of("width=0").width), (10, 1));
        assert_eq!(Format::of("width=x&live=1").width, 80);
        assert_eq!(Format::of("width=99999999").width, 1_000);
    }
}
