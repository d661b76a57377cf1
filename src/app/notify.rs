//! What systemd is told (sd_notify(3)): that the process is ready, reloads and stops, how it stands, and that its loop
//! turns.
//!
//! A datagram never waits. One for which the system has no room is sent again with the next turn; the watchdog's is not
//! kept, because a newer one says more. Where nobody listens any more, nothing is lost.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::standing::Standing;
use crate::machine::Fact;

/// Most messages that wait for room.
const UNSENT_MAX: usize = 16;
/// Pause after the system had no room.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Between two statuses.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// Most bytes of a status.
const STATUS_BYTES_MAX: usize = 1024;

/// What a status begins with.
const STATUS: &str = "STATUS=";

/// How far the process has come, as systemd knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Ready,
    Reloading,
    Stopping,
}

/// Tells the service manager how the process stands.
pub struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    life: Life,
    standing: Standing,
    /// The last status, and when it was told.
    told: Option<(String, Instant)>,
    watchdog: Option<Watchdog>,
    unsent: VecDeque<String>,
    /// When what had no room is sent again.
    again_at: Option<Instant>,
}

/// Signs of life.
struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Notifier {
    /// The one that the environment asks for, if it does.
    pub fn of_environment(standing: Standing, now: Instant) -> Option<Notifier> {
        let variable = |name: &str| std::env::var_os(name).filter(|text| !text.is_empty());
        let place = variable("NOTIFY_SOCKET")?;
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours =
            variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let every = number("WATCHDOG_USEC").filter(|&time| time > 0 && is_ours);
        let every = every.map(|time| Duration::from_micros(time) / 2);
        let notifier = Notifier::new(&place, every, standing, now);
        notifier.inspect_err(|error| log::warn!("the service manager cannot be told anything: {error}")).ok()
    }

    fn new(place: &OsStr, every: Option<Duration>, standing: Standing, now: Instant) -> io::Result<Notifier> {
        let to = match place.as_bytes() {
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(place)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notifier {
            socket,
            to,
            life: Life::Starting,
            standing,
            told: None,
            watchdog: every.map(|every| Watchdog { every, next: now }),
            unsent: VecDeque::new(),
            again_at: None,
        })
    }

    /// Takes a fact into account.
    pub fn take(&mut self, fact: &Fact) {
        self.standing.take(fact);
    }

    /// The process serves, with what it was told or with what a reload left it.
    pub fn ready(&mut self, refused: Option<&str>, now: Instant) {
        if self.life != Life::Stopping {
            self.life = Life::Ready;
            self.standing.configuration(refused);
            self.tell("READY=1\n", now);
        }
    }

    /// Whether a reload was told, and not its end.
    pub fn is_reloading(&self) -> bool {
        self.life == Life::Reloading
    }

    /// A reload begins (systemd.service(5), `Type=notify-reload`).
    pub fn reloading(&mut self) {
        if self.life != Life::Stopping {
            self.life = Life::Reloading;
            let time = clock_gettime(ClockId::Monotonic);
            let microseconds = time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000;
            self.queue(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
        }
    }

    /// The process ends, and its sessions have some time.
    pub fn stopping(&mut self, now: Instant) {
        if self.life != Life::Stopping {
            self.life = Life::Stopping;
            self.standing.stopping();
            self.tell("STOPPING=1\n", now);
        }
    }

    /// Sends what is due, after the facts of a turn.
    pub fn settle(&mut self, now: Instant) {
        if self.status_due().is_some_and(|at| now >= at) {
            self.tell("", now);
        }
        if self.again_at.is_none_or(|at| now >= at) {
            self.again_at = None;
            while let Some(message) = self.unsent.front() {
                if !self.has_sent(message) {
                    self.again_at = Some(now + NO_ROOM_PAUSE);
                    break;
                }
                self.unsent.pop_front();
            }
        }
        if self.watchdog.as_ref().is_some_and(|watchdog| now >= watchdog.next) {
            let has_sent = self.has_sent("WATCHDOG=1\n");
            if let Some(Watchdog { every, next }) = &mut self.watchdog {
                *next = now + if has_sent { *every } else { NO_ROOM_PAUSE };
            }
        }
    }

    /// When it has to be settled again, if no fact comes before.
    pub fn due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.next);
        [self.again_at, self.status_due(), watchdog].into_iter().flatten().min()
    }

    fn status_due(&self) -> Option<Instant> {
        let (_, at) = self.told.as_ref()?;
        self.standing.is_changed().then(|| *at + STATUS_PAUSE)
    }

    /// Tells how the process stands, if that is news or stands behind something else.
    fn tell(&mut self, first: &str, now: Instant) {
        let status = one_line(self.standing.in_words());
        let is_news = self.told.as_ref().is_none_or(|(told, _)| *told != status);
        if is_news || !first.is_empty() {
            self.queue(format!("{first}{STATUS}{status}\n"));
            self.told = Some((status, now));
        }
    }

    /// Leaves a message for the end of the turn. A status that was not sent gives way to a later one.
    fn queue(&mut self, message: String) {
        if message.contains(STATUS) {
            self.unsent.retain(|unsent| !unsent.starts_with(STATUS));
        }
        // Only reloads by the dozen get here, and how the last of them ended says how the process stands.
        if self.unsent.len() == UNSENT_MAX {
            self.unsent.pop_front();
        }
        self.unsent.push_back(message);
    }

    /// Sends a message; false where the system has no room for it.
    fn has_sent(&self, message: &str) -> bool {
        let sent = self.socket.send_to_addr(message.as_bytes(), &self.to);
        !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A status without ends of lines, which would begin another message in it, and of bounded length.
fn one_line(text: String) -> String {
    let mut line = text.replace(char::is_control, " ");
    while line.len() > STATUS_BYTES_MAX {
        line.pop();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CloseReason;
    use std::time::Duration;

    /// A service manager, and a client that tells it.
    fn manager(name: &str, watchdog: Option<Duration>) -> (UnixDatagram, Notifier, Instant) {
        let name = format!("skyorg-notify-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a short name");
        let manager = UnixDatagram::bind_addr(&address).expect("a name of our own");
        manager.set_nonblocking(true).expect("a socket");
        let now = Instant::now();
        let place = format!("@{name}");
        let notifier =
            Notifier::new(OsStr::new(&place), watchdog, Standing::of_client("gw:1".into(), 1), now);
        (manager, notifier.expect("a good name"), now)
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut bytes = [0; 2_048];
        while let Ok(count) = manager.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        all
    }

    fn lost(reason: CloseReason) -> Fact {
        let server = crate::base::address::HostPort { host: "gw".into(), port: 1 };
        Fact::NotWelcomed { server, reason }
    }

    /// Fills a manager's queue (unix(7), `net.unix.max_dgram_qlen`), and says how many messages that took.
    fn fill(notifier: &Notifier) -> usize {
        (0..).take_while(|_| notifier.has_sent("X=1\n")).count()
    }

    #[test]
    fn it_is_ready_reloads_and_is_ready_again_also_where_that_was_refused() {
        let (manager, mut notifier, now) = manager("reload", None);
        notifier.ready(None, now);
        notifier.settle(now);
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=connecting to gw:1\n"]);
        notifier.reloading();
        assert!(notifier.is_reloading());
        notifier.settle(now);
        let told = heard(&manager);
        assert!(told.len() == 1 && told[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told:?}");
        notifier.ready(Some("file:1:2: wanted\nless"), now);
        notifier.stopping(now);
        notifier.ready(None, now);
        notifier.settle(now);
        let refused = "configuration refused: file:1:2: wanted less; connecting to gw:1";
        assert_eq!(
            heard(&manager),
            [format!("READY=1\nSTATUS={refused}\n"), format!("STOPPING=1\nSTATUS=stopping; {refused}\n")]
        );
    }

    #[test]
    fn a_status_is_told_when_it_changes_and_once_a_second_at_most() {
        let (manager, mut notifier, now) = manager("status", None);
        notifier.ready(None, now);
        notifier.settle(now);
        heard(&manager);
        assert_eq!(notifier.due(), None);
        notifier.take(&lost(CloseReason::PeerClosed));
        notifier.settle(now);
        assert_eq!((heard(&manager), notifier.due()), (vec![], Some(now + STATUS_PAUSE)));
        let later = now + STATUS_PAUSE;
        notifier.settle(later);
        let told = "STATUS=not connected to gw:1: closed by the peer\n";
        assert_eq!((heard(&manager), notifier.due()), (vec![told.to_owned()], None));
        notifier.take(&lost(CloseReason::PeerClosed));
        notifier.settle(later + STATUS_PAUSE);
        assert_eq!((heard(&manager), notifier.due()), (vec![], None), "it is no news");
    }

    #[test]
    fn signs_of_life_come_as_often_as_asked_and_what_finds_no_room_comes_later() {
        let every = Duration::from_secs(5);
        let (manager, mut notifier, now) = manager("watchdog", Some(every));
        notifier.settle(now);
        assert_eq!((heard(&manager), notifier.due()), (vec!["WATCHDOG=1\n".to_owned()], Some(now + every)));
        let sent = fill(&notifier);
        notifier.ready(None, now);
        notifier.settle(now + every);
        assert_eq!(notifier.due(), Some(now + every + NO_ROOM_PAUSE));
        assert_eq!(heard(&manager).len(), sent);
        notifier.settle(now + every + NO_ROOM_PAUSE);
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=connecting to gw:1\n", "WATCHDOG=1\n"]);
    }

    #[test]
    fn a_status_gives_way_to_a_later_one_and_nothing_else_does() {
        let (manager, mut notifier, mut now) = manager("replaced", None);
        let sent = fill(&notifier);
        notifier.ready(None, now);
        for number in 0..3 * UNSENT_MAX {
            now += STATUS_PAUSE;
            notifier.take(&lost([CloseReason::PeerClosed, CloseReason::HeartbeatLost][number % 2]));
            notifier.settle(now);
        }
        assert_eq!(heard(&manager).len(), sent);
        notifier.settle(now + NO_ROOM_PAUSE);
        let status = "STATUS=not connected to gw:1: heartbeat lost\n";
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=connecting to gw:1\n", status]);
    }

    #[test]
    fn where_nobody_listens_nothing_waits() {
        let (manager, mut notifier, now) = manager("gone", None);
        drop(manager);
        notifier.ready(None, now);
        notifier.settle(now);
        assert_eq!(notifier.due(), None);
    }
}
