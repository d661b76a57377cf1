//! The log, between the threads that have something to say and the place where it is read.
//!
//! A line goes into a buffer of bounded size, and a thread of its own writes it from there. A write may wait for as
//! long as the place likes: a pipe that nobody reads, a slow disk. What finds the buffer full is dropped and counted,
//! and so is what cannot be written. One line says how many, as soon as lines can be written again. So a log that is
//! not read costs lines, and never time.
//!
//! The buffer holds bytes in order. A line is in it whole or not at all. Its lock is held for no longer than a copy.
//!
//! What is logged is decided elsewhere ([`super::report`]). A line is text by `simplelog`, or one object of JSON.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, LevelPadding, WriteLogger};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::aside::write_aside;
use super::json::Json;
use crate::config::moment::Stamp;
use crate::reactor::world::thread;
use waiting::{Buffer, count_lines};

mod waiting;

/// Lines are written together up to this size, PIPE_BUF of pipe(7): no other process that shares the pipe tears them.
const PIECE_BYTES: usize = 4096;
/// How long the log has to drain when the process ends.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// The writing thread formats one number and opens a file.
const STACK_BYTES: usize = 128 * 1024;

/// What [`Stamp`] writes, for the lines by `simplelog`.
const TIME_FORMAT: &[BorrowedFormatItem] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What our own lines come from.
const OWN: &str = "skyorg";

/// The log of this process, once it has begun. Like the logger of `log` it is there for all threads and set once.
static JOURNAL: OnceLock<Journal> = OnceLock::new();

struct Journal {
    buffer: Arc<Buffer>,
    is_file: AtomicBool,
}

/// Lines are objects of JSON. It holds for the whole process, like the level.
static IS_JSON: AtomicBool = AtomicBool::new(false);
/// Lines that were dropped since the process began.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level and a sentence.
    #[default]
    Text,
    /// One object of JSON, the same facts as fields.
    Json,
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Format, ()> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(()),
        }
    }
}

/// Where the log goes.
pub enum Place {
    /// To standard error.
    StandardError,
    /// To the end of a file.
    File(File),
}

/// Starts the log of this process. Only the first call has an effect.
pub fn start(level: LevelFilter, format: Format, place: Place) -> io::Result<()> {
    let mut config = ConfigBuilder::new();
    config.set_thread_level(LevelFilter::Off).set_location_level(LevelFilter::Off);
    config.set_level_padding(LevelPadding::Right).set_time_format_custom(TIME_FORMAT);
    // The libraries below have nothing to tell an operator.
    config.add_filter_allow_str(OWN);
    let buffer = Arc::new(Buffer::default());
    let journal = Journal { buffer: buffer.clone(), is_file: place.is_file().into() };
    if JOURNAL.get().is_some() {
        return Ok(());
    }
    let (lines, scribe) = (Lines { buffer: buffer.clone(), line: Vec::new() }, Scribe::new(place));
    let write = move || write_for_ever(&buffer, scribe, |output, place| *output = place);
    thread::start("log", STACK_BYTES, write)?;
    // Not before its thread is there: what fails until then is told without it.
    let _ = JOURNAL.set(journal);
    let text = WriteLogger::new(LevelFilter::Trace, config.build(), lines);
    // It fails only if a logger is set already, and that one serves as well.
    let _ = log::set_boxed_logger(Box::new(Logger { text }));
    // Level and format may change while the process runs.
    set_format(format);
    log::set_max_level(level);
    Ok(())
}

/// Has lines look like this from now on.
pub fn set_format(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// Logs a sentence, or where lines are JSON the event with its fields.
pub fn tell(level: Level, sentence: fmt::Arguments<'_>, event: &str, fields: &dyn Fn(&mut Json)) {
    if !IS_JSON.load(Ordering::Relaxed) {
        log::log!(level, "{sentence}");
    } else if level <= log::max_level() {
        tell_json(level, &event, fields);
    }
}

fn tell_json(level: Level, event: &dyn fmt::Display, fields: &dyn Fn(&mut Json)) {
    if let Some(Journal { buffer, .. }) = JOURNAL.get() {
        buffer.push(json_line(level, event, fields).as_bytes());
    }
}

/// Lines that were dropped since the process began, because the log was not read in time.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// An object of JSON and the end of the line.
fn json_line(level: Level, event: &dyn fmt::Display, fields: &dyn Fn(&mut Json)) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    let mut json = Json::default();
    json.open('{')
        .key("time")
        .shown(&Stamp(SystemTime::now()))
        .key("level")
        .text(level)
        .key("event")
        .shown(event);
    fields(&mut json);
    json.close('}');
    json.finish() + "\n"
}

/// What `log` hands each line to: text to simplelog, the rest becomes JSON here.
struct Logger {
    text: Box<WriteLogger<Lines>>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(OWN)
    }

    fn log(&self, record: &Record<'_>) {
        if !IS_JSON.load(Ordering::Relaxed) {
            self.text.log(record);
        } else if self.enabled(record.metadata()) {
            // Names and numbers are no event.
            match record.args().as_str() {
                Some(event) => tell_json(record.level(), &event, &|_| {}),
                None => tell_json(record.level(), &"told", &|json| {
                    json.key("text").shown(&record.args());
                }),
            }
        }
    }

    fn flush(&self) {}
}

/// Has the log go on in another place, after the lines so far.
pub fn go_on_in(place: Place) {
    if let Some(journal) = JOURNAL.get() {
        journal.is_file.store(place.is_file(), Ordering::Relaxed);
        journal.buffer.ask_to_go_on_in(place);
    }
}

/// Says on standard error why the program fails, and in the log file if there is one.
pub fn tell_failure(failure: &dyn fmt::Display) {
    let sentence = format!("skyorg: {failure}\n");
    let failed = |json: &mut Json| {
        json.key("reason").shown(failure);
    };
    match JOURNAL.get() {
        // It comes after the lines so far, in their form.
        Some(Journal { buffer, is_file }) if !is_file.load(Ordering::Relaxed) => {
            match IS_JSON.load(Ordering::Relaxed) {
                true => buffer.push(json_line(Level::Error, &"failed", &failed).as_bytes()),
                false => buffer.push(sentence.as_bytes()),
            }
        }
        Some(_) => {
            tell(Level::Error, format_args!("{failure}"), "failed", &failed);
            write_aside(sentence, DRAIN_TIME);
        }
        None => write_aside(sentence, DRAIN_TIME),
    }
}

/// Lets the log drain for at most 1 s. Then the process may end.
pub fn close() {
    if let Some(journal) = JOURNAL.get() {
        journal.buffer.drain(DRAIN_TIME);
    }
}

impl Place {
    /// A log file, which is made if it is missing.
    pub fn file(path: &Path) -> io::Result<Place> {
        Ok(Place::File(crate::config::opening::append(path)?))
    }

    fn is_file(&self) -> bool {
        matches!(self, Place::File(_))
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Place::StandardError => io::stderr().write(bytes),
            Place::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects what a logger writes until a line is whole.
struct Lines {
    buffer: Arc<Buffer>,
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            self.buffer.push(&self.line);
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing thread.
fn write_for_ever<W: Write>(buffer: &Buffer, mut scribe: Scribe<W>, go_on_in: impl Fn(&mut W, Place)) {
    let mut lines = Vec::new();
    loop {
        let taken = buffer.take(&mut lines);
        let mut rest = &lines[..];
        if let Some((bytes, place)) = taken.next {
            let (before, behind) = lines.split_at_checked(bytes).unwrap_or((&lines, &[]));
            scribe.take_down(before, 0);
            go_on_in(&mut scribe.output, place);
            rest = behind;
        }
        scribe.take_down(rest, taken.dropped);
    }
}

/// Writes lines, and keeps count of those that were lost.
struct Scribe<W> {
    output: W,
    /// Lines that were lost and not yet told of.
    lost: u64,
    /// The last byte that was written is in the middle of a line.
    torn: bool,
}

impl<W: Write> Scribe<W> {
    fn new(output: W) -> Scribe<W> {
        Scribe { output, lost: 0, torn: false }
    }

    /// Writes these lines, after which others were dropped and counted.
    fn take_down(&mut self, lines: &[u8], dropped: u64) {
        let mut rest = lines;
        // If what was lost cannot be told, neither can these lines.
        if self.tell_lost() {
            while !rest.is_empty() {
                let piece = first_lines(rest);
                let written = self.write(piece);
                rest = &rest[written..];
                if written < piece.len() {
                    break;
                }
            }
        }
        let failed = count_lines(rest);
        DROPPED.fetch_add(failed, Ordering::Relaxed);
        self.lost += failed + dropped;
        if rest.is_empty() {
            self.tell_lost();
        }
    }

    /// Says how many lines were lost, if any; false if that fails.
    fn tell_lost(&mut self) -> bool {
        if self.lost == 0 {
            return true;
        }
        let line_end = if self.torn { "\n" } else { "" };
        let lost = self.lost;
        let line = match IS_JSON.load(Ordering::Relaxed) {
            true => json_line(Level::Warn, &"log lines dropped", &|json| {
                json.key("count").plain(&lost);
            }),
            false => {
                format!(
                    "{} [WARN ] {lost} log lines were dropped: the log was not read in time\n",
                    Stamp(SystemTime::now())
                )
            }
        };
        let line = format!("{line_end}{line}");
        let told = self.write(line.as_bytes()) == line.len();
        if told {
            self.lost = 0;
        }
        told
    }

    /// Writes bytes and returns how many; fewer if the output fails.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.output.write(&bytes[written..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(count) => written += count,
            }
        }
        if let Some(last) = written.checked_sub(1) {
            self.torn = bytes[last] != b'\n';
        }
        written
    }
}

/// As many whole lines as one write takes, and at least one.
fn first_lines(lines: &[u8]) -> &[u8] {
    let is_end = |&byte: &u8| byte == b'\n';
    let within = lines.iter().take(PIECE_BYTES).rposition(is_end);
    let end = within.or_else(|| lines.iter().position(is_end));
    &lines[..end.map_or(lines.len(), |end| end + 1)]
}

#[cfg(test)]
mod tests {
    use super::waiting::WAITING_BYTES_MAX;
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use time::OffsetDateTime;

    /// An output that blocks in each write until the test lets go.
    struct Gate {
        entered: Sender<()>,
        open: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.open.recv();
            self.taken.lock().expect("no holder panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that has room for some bytes and then fails like a full disk.
    #[derive(Default)]
    struct Disk {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn text(bytes: &[u8]) -> &str {
        str::from_utf8(bytes).expect("text")
    }

    #[test]
    fn an_output_that_blocks_for_ever_blocks_no_sender_and_the_end_waits_only_so_long() {
        let buffer = Arc::new(Buffer::default());
        let ((entered, is_in), (open, may_go)) = (channel(), channel());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { entered, open: may_go, taken: taken.clone() };
        let scribe = Scribe::new(gate);
        let writing = buffer.clone();
        std::thread::spawn(move || write_for_ever(&writing, scribe, |_, _| {}));
        let mut lines = Lines { buffer: buffer.clone(), line: Vec::new() };
        writeln!(lines, "first").expect("never fails");
        is_in.recv().expect("the thread writes");
        // More than there is room for, while the thread is blocked.
        let line = "x".repeat(99);
        let count = 2 * WAITING_BYTES_MAX / 100;
        (0..count).for_each(|_| writeln!(lines, "{line}").expect("never fails"));
        let kept = WAITING_BYTES_MAX / 100;
        assert_eq!(buffer.held(), (kept * 100, (count - kept) as u64));
        assert!(dropped_lines() >= (count - kept) as u64, "they are counted while the thread is blocked");
        buffer.drain(Duration::from_millis(1));
        // The output takes bytes again: everything that was kept comes, and then the count.
        drop(open);
        buffer.drain(Duration::from_secs(60));
        let taken = taken.lock().expect("no holder panics");
        let all: Vec<&str> = text(&taken).lines().collect();
        assert_eq!((all.len(), all[0], all[1]), (kept + 2, "first", line.as_str()));
        assert!(
            all[kept + 1].contains(&format!("{} log lines were dropped", count - kept)),
            "{}",
            all[kept + 1]
        );
    }

    #[test]
    fn stamps_of_text_and_of_json_are_the_same_and_of_one_length() {
        for (nanoseconds, expected) in [
            (0_u64, "1970-01-01T00:00:00.000Z"),
            (1_795_600_776_880_000_000, "2026-11-25T09:59:36.880Z"),
            (1_795_600_776_880_999_999, "2026-11-25T09:59:36.880Z"),
        ] {
            let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into()).expect("a time");
            assert_eq!(time.format(TIME_FORMAT).expect("it can be written"), expected);
            let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
            assert_eq!(Stamp(time).to_string(), expected);
        }
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let buffer = Buffer::default();
        let mut scribe = Scribe::new(Vec::new());
        let (mut batch, mut expected) = (Vec::new(), String::new());
        for number in 0..5_000 {
            let line = format!("{number} {}\n", "y".repeat(number % 200));
            buffer.push(line.as_bytes());
            expected += &line;
            if number % 1_000 == 999 {
                let taken = buffer.take(&mut batch);
                scribe.take_down(&batch, taken.dropped);
            }
        }
        assert!(text(&scribe.output) == expected);
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_counted_and_told_once_there_is_room() {
        let mut scribe = Scribe::new(Disk { room: 9, ..Disk::default() });
        scribe.take_down(b"one\ntwo\nthree\nfour\n", 0);
        scribe.take_down(b"five\n", 0);
        assert_eq!((text(&scribe.output.taken), scribe.lost), ("one\ntwo\nt", 3));
        scribe.output.room = 1_000;
        scribe.take_down(b"six\n", 0);
        let all: Vec<&str> = text(&scribe.output.taken).lines().collect();
        assert_eq!((all.len(), all[2], all[4]), (5, "t", "six"));
        assert!(all[3].contains("3 log lines were dropped"), "{}", all[3]);
    }

    #[test]
    fn no_write_has_part_of_a_line_and_small_ones_go_together() {
        let long = "l".repeat(2 * PIECE_BYTES) + "\n";
        let lines = "short\n".repeat(PIECE_BYTES / 4) + &long + "end\n";
        let mut rest = lines.as_bytes();
        let mut sizes = Vec::new();
        while !rest.is_empty() {
            let piece = first_lines(rest);
            assert!(piece.ends_with(b"\n"));
            sizes.push(piece.len());
            rest = &rest[piece.len()..];
        }
        assert_eq!(sizes, [4092, 2052, long.len(), 4]);
        assert_eq!(first_lines(b"no end"), b"no end");
    }
}
