//! The live screen: once a second, until `q`, a signal or a key that would send one. Afterwards the terminal is as it
//! was before.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::flag;

use super::Told;
use crate::app::cli::Failure;
use crate::app::cli::arguments::StatusArguments;
use crate::app::status::screen;

/// Time between two screens.
const INTERVAL: Duration = Duration::from_secs(1);
/// Another screen (xterm's), without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Keys that end it: the letter, and control with C, Z and backslash.
const ENDS: &[u8] = b"qQ\x03\x1a\x1c";

/// A terminal's size in characters.
pub struct Size {
    pub columns: usize,
    rows: usize,
}

/// The size of the terminal on standard output, if it is one.
pub fn size() -> Option<Size> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(Size { columns: size.ws_col.into(), rows: size.ws_row.into() })
}

/// Shows screens, and returns the exit status of the last one.
#[cold]
pub fn run(arguments: &StatusArguments) -> Result<u8, Failure> {
    let failed = |error| Failure::Io("the terminal does not do what the live screen needs", error);
    let signals = Signals::catch().map_err(failed)?;
    let terminal = Terminal::enter().map_err(failed)?;
    loop {
        let told = Told::ask(arguments, true);
        draw(&told).map_err(failed)?;
        if terminal.wait(INTERVAL, &signals) {
            return Ok(told.status);
        }
    }
}

/// Signals that came.
struct Signals {
    end: Arc<AtomicBool>,
    resized: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let signals = Signals { end: Arc::default(), resized: Arc::default() };
        // What would leave a terminal behind that shows nothing and hides what is typed; a pause is an end, too.
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP] {
            flag::register(signal, signals.end.clone())?;
        }
        flag::register(SIGWINCH, signals.resized.clone())?;
        Ok(signals)
    }
}

/// A terminal that shows another screen and gives each key at once, until this is dropped.
struct Terminal {
    /// How its keyboard was before, if standard input is one.
    before: Option<Termios>,
}

impl Terminal {
    fn enter() -> io::Result<Terminal> {
        let input = rustix::stdio::stdin();
        let before = if io::stdin().is_terminal() { Some(tcgetattr(input)?) } else { None };
        if let Some(before) = &before {
            let mut modes = before.clone();
            // Keys that would send a signal are read like others, and end it.
            modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            modes.special_codes[SpecialCodeIndex::VMIN] = 1;
            modes.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(input, OptionalActions::Now, &modes)?;
        }
        let terminal = Terminal { before };
        show(ENTER)?;
        Ok(terminal)
    }

    /// Waits for the next screen; true if there is to be none.
    fn wait(&self, time: Duration, signals: &Signals) -> bool {
        let next = Instant::now() + time;
        let input = rustix::stdio::stdin();
        let mut is_heard = self.before.is_some();
        loop {
            if signals.end.load(Ordering::Relaxed) {
                return true;
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || signals.resized.swap(false, Ordering::Relaxed) {
                return false;
            }
            let mut fds = [PollFd::new(&input, PollFlags::IN)];
            let fds = if is_heard { &mut fds[..] } else { &mut [] };
            let left = Timespec::try_from(left).ok();
            // A signal interrupts it, and is seen above.
            if poll(fds, left.as_ref()).unwrap_or(0) == 0 {
                continue;
            }
            let mut key = [0; 16];
            match read(input, &mut key) {
                Ok(count) if count > 0 => {
                    if key[..count].iter().any(|key| ENDS.contains(key)) {
                        return true;
                    }
                }
                // The terminal has gone.
                _ => is_heard = false,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = show(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Draws over the screen before. Lines that do not fit are counted in the last one.
fn draw(told: &Told) -> io::Result<()> {
    let rows = size().map_or(24, |size| size.rows);
    let rows = if rows == 0 { 24 } else { rows };
    let cut = |line: &str| screen::cut(line, super::width());
    let mut lines: Vec<String> = told.complaints.iter().map(|line| cut(line)).collect();
    lines.extend(told.text.lines().map(str::to_owned));
    if lines.len() > rows {
        let hidden = lines.len() - (rows - 1);
        lines.truncate(rows - 1);
        lines.push(cut(&format!("… {hidden} more lines")));
    }
    let drawn: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
    show(&format!("\x1b[H{}\x1b[J", drawn.join("\r\n")))
}

fn show(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
