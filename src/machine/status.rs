//! What a machine and its reactor show of themselves when somebody looks: plain values, gathered a few rows a turn, and
//! written as text, JSON or metrics by a thread that may be slow.
//!
//! Counters begin with the process and only grow. A service is its name. What clients expose has names of their
//! own, and is counted for its key once it is gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::input::Traffic;
use crate::base::name::Name;

/// Everything that was gathered for one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// At the server: services that it declares, then what clients expose. At the client: its publications.
    pub services: Vec<ServiceStatus>,
    /// The links that stand, and at the client the one that it tries to make.
    pub links: Vec<LinkStatus>,
    /// What belongs to no service.
    pub totals: Totals,
}

/// One service, or at the client one publication.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: Name,
    /// The key of the client that asked for its ports; `None` for what the operator of this process named.
    pub exposed_by: Option<Name>,
    /// Whether the operator lets it be probed, on this side and the other as far as that is known.
    pub is_probed: bool,
    /// Where its users connect, as people write it.
    pub addresses: Vec<String>,
    /// Those who serve it. At the client: itself, once it has asked.
    pub publications: Vec<PublicationStatus>,
    /// Why nobody serves it, where there is no publication: `no client`.
    pub reason: Option<Box<str>>,
    /// Its counts.
    pub figures: Figures,
}

/// One client's offer of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct PublicationStatus {
    /// The key that the client holds.
    pub key: Name,
    /// Where the client comes from; at the client, its server. `None` where no address is known yet.
    pub client: Option<SocketAddr>,
    /// What is known of it.
    pub state: PublicationState,
    /// When a session or a probe was last started.
    pub proof: Option<Instant>,
    /// The last sessions that sent bytes and got none, in a row: told at the row, and never a failure.
    pub unanswered: u32,
}

/// What is known of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationState {
    /// A session or a probe was started within 60 seconds.
    Proven,
    /// It was not, since this moment, and no failure is known.
    Unproven(Instant),
    /// It fails, for a reason in words that scripts rely on.
    Failing(Box<str>),
}

/// The counts of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Users that are there now, those who wait included.
    pub users: u64,
    /// Most of them at once.
    pub peak: u64,
    /// Users who wait for a message connection.
    pub waiting: u64,
    /// Users that came: those of `ended` and `refused`, and those that are there.
    pub total: u64,
    /// Bytes read from users and written towards them, running sessions included.
    pub traffic: Traffic,
    /// Sessions by their end, one for each of [`ENDS`].
    pub ended: [u64; ENDS.len()],
    /// Users that were refused, one for each of [`CAUSES`].
    pub refused: [u64; CAUSES.len()],
    /// How long users waited for a message connection.
    pub waits: Waits,
}

impl Figures {
    /// Adds the counts of something that is gone.
    pub fn add(&mut self, other: &Figures) {
        let Figures { users, peak, waiting, total, traffic, ended, refused, waits } = other;
        self.users += users;
        self.peak = self.peak.max(*peak);
        self.waiting += waiting;
        self.total += total;
        self.traffic.received += traffic.received;
        self.traffic.sent += traffic.sent;
        self.ended.iter_mut().zip(ended).for_each(|(count, more)| *count += more);
        self.refused.iter_mut().zip(refused).for_each(|(count, more)| *count += more);
        self.waits.counts.iter_mut().zip(waits.counts).for_each(|(count, more)| *count += more);
        self.waits.sum += waits.sum;
    }
}

/// How sessions end, in the order of [`End`](super::End).
pub const ENDS: [&str; 7] =
    ["finished", "user_reset", "local_reset", "link_lost", "removed", "drained", "idle"];

/// Why users are refused, in the order of [`Cause`](super::Cause).
pub const CAUSES: [&str; 14] = [
    "no_client",
    "local_refused",
    "wait_over",
    "users_limit",
    "address_limit",
    "key_users_limit",
    "full",
    "from",
    "rate",
    "descriptors",
    "left",
    "removed",
    "drained",
    "other",
];

/// Why hellos are refused, in the order of [`HelloCause`](super::HelloCause).
pub const HELLO_CAUSES: [&str; 12] = [
    "unknown_key",
    "unknown_link",
    "replayed",
    "no_handshake",
    "evicted",
    "version",
    "not_skyorg",
    "policy",
    "from",
    "expired",
    "links",
    "other",
];

/// Upper bounds of [`Waits`], in microseconds; one more is without bound.
pub const WAIT_BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];
/// What a wait without bound counts as.
const LONGEST_US: u64 = 60_000_000;

/// How often waits of each length were met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waits {
    /// Those up to each of [`WAIT_BOUNDS_US`] and above the one before, and those above all.
    pub counts: [u64; WAIT_BOUNDS_US.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Waits {
    /// Counts one.
    pub fn add(&mut self, wait: Duration) {
        let place = WAIT_BOUNDS_US.partition_point(|&bound| Duration::from_micros(bound) < wait);
        self.counts[place] += 1;
        self.sum += wait;
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The wait that this share of all did not exceed, as the upper bound of its place. `None` without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).max(1);
        let mut met = 0;
        for (&here, bound) in self.counts.iter().zip(WAIT_BOUNDS_US.into_iter().chain([LONGEST_US])) {
            met += here;
            if count > 0 && met >= wanted {
                return Some(Duration::from_micros(bound));
            }
        }
        None
    }
}

/// One link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkStatus {
    /// The key that was proved.
    pub key: Name,
    /// The other side.
    pub address: Option<SocketAddr>,
    /// When it began; `None` where it does not stand.
    pub since: Option<Instant>,
    /// Smoothed; `None` before the first measurement.
    pub round_trip: Option<Duration>,
    /// Message connections that wait for users.
    pub idle: usize,
    /// Message connections with a session.
    pub busy: usize,
    /// Message connections that were asked for and are not there yet.
    pub coming: usize,
    /// How long its key is good.
    pub expires_in: Option<Duration>,
    /// Why it does not stand, or what is wrong with it though it does.
    pub reason: Option<Box<str>>,
}

/// What belongs to no service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Hellos with an unknown or wrong key in the last ten minutes, and where the last came from.
    pub unknown_hellos: Option<(u64, SocketAddr)>,
    /// Hellos that were refused, by cause; a cause is one of a fixed list of words.
    pub hellos_refused: Vec<(&'static str, u64)>,
    /// Sessions that were offered again.
    pub redeliveries: u64,
    /// How long users of all services waited for a message connection.
    pub waits: Waits,
    /// What clients exposed and expose no more, for each of their keys.
    pub gone: Vec<(Name, Figures)>,
    /// Whether the process has no file descriptor for one more user.
    pub is_out_of_descriptors: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_that_this_share_did_not_exceed() {
        let mut waits = Waits::default();
        assert_eq!(waits.quantile(0.5), None);
        (0..99).for_each(|_| waits.add(Duration::from_micros(100)));
        waits.add(Duration::from_millis(3));
        assert_eq!(
            (waits.quantile(0.5), waits.quantile(0.99), waits.quantile(1.0)),
            [100, 100, 5_000].map(|bound| Some(Duration::from_micros(bound))).into()
        );
        waits.add(Duration::from_secs(40));
        assert_eq!((waits.quantile(1.0), waits.count()), (Some(Duration::from_secs(60)), 101));
    }
}
