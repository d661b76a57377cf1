//! What a world is about, and what comes in it at which time.

use std::time::Duration;

use fastrand::Rng;
use skyorg::config::limits::Limits;

use super::faults::Fault;
use super::line::Line;
use super::reloads;
use super::shadow::Side;
use super::talker::Script;
use super::tcp::{EndId, Host, Kind, Time};

/// EPERM, ENETDOWN, EPROTO, ECONNABORTED, EMFILE and ENOMEM (errno(3)), as accept(2) may say them again and again.
const UNFORESEEN: [i32; 6] = [1, 100, 71, 103, 24, 12];

/// What comes at a set time.
pub enum Coming {
    User,
    /// A user with much to say, and as much to hear.
    Bulk,
    /// A user that is quiet for so long, again and again.
    Quiet(Duration),
    /// A user that says a little every few seconds, for minutes.
    Lasting,
    /// All connections between clients and the server are forgotten on their way, for good: nothing arrives on them
    /// any more, and new ones pass. The server may be killed and started again at the same time.
    Forget {
        restart: bool,
    },
    /// A user of the service whose users are judged.
    Steady,
    /// A user that means no good.
    Hostile(Script),
    Stranger,
    Fault(Fault),
    /// The victim's client is killed, and started again at once.
    Kill,
    /// Local servers take connections again.
    Locals,
    /// The server is asked to end.
    Retirement,
    /// Another server starts in its place.
    Successor,
    /// An honest server takes the place of a hostile one.
    Honest,
    /// A client gets another configuration: a drawn one, or the first one again.
    Republish {
        client: usize,
        drawn: bool,
    },
    /// These users and local servers must be gone.
    Gone(Vec<(Side, usize)>),
    /// Another configuration of the server; the first one again at the end.
    Reload {
        last: bool,
    },
    /// By now these connections of users must be gone at the server, by their ends there.
    Reset(Vec<EndId>),
}

/// What a world is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tale {
    Anything,
    /// Every pooled message connection goes silent and stays up; then, or when that was noticed, users come.
    Holed,
    /// The same, but some of those connections fail at once while users wait, and the others go on.
    Failed,
    /// Some of the pooled message connections go silent and stay up; then users come.
    PartlyHoled,
    /// The clients freeze; then users come.
    Frozen,
    /// The same, for 0.3 s to 4 s.
    Starved,
    /// The clients' hosts are gone without a word.
    Gone,
    /// The local servers' names take 3 s to be resolved, and many users come meanwhile.
    SlowName,
    /// The server is replaced by another while sessions run, and nothing else goes wrong.
    Replaced,
    /// The server's configuration changes again and again while users come, and nothing else goes wrong.
    Reloaded,
    /// A hostile server stands where the client expects its own, and an honest one takes its place.
    Misled,
    /// For some seconds no connection can be taken, for a reason that nobody foresaw; users come meanwhile.
    Forbidden,
    /// The name server answers once and fails from then on, soon or late; users come for a minute.
    Nameless,
    /// The local servers' names lead elsewhere of a sudden; where they led before, nobody answers or all is refused.
    Moved,
    /// Round trips of up to 10 s, which change; nothing else goes wrong.
    Distant,
    /// The line is down for a while, up to 20 s.
    Interrupted,
    /// The line is down for 15 s to 60 s while no user is there, and users come as soon as it is back.
    Unnoticed,
    /// The line is narrow, and packets wait for seconds before they are lost; bulk users share it with others.
    Bloated,
    /// Some connects to the server are never answered.
    Unanswered,
    /// A middlebox forgets connections that are quiet for 20 to 60 s.
    Forgetful,
    /// It forgets all connections at one moment.
    Forgotten,
    /// The same, and the server is killed and started again.
    Restarted,
    /// Clients get other configurations while sessions run, and nothing else goes wrong.
    Republished,
    /// No kernel splices anything for a plain tunnel, and nothing else goes wrong.
    Unspliced,
}

impl Tale {
    /// What goes wrong is the line's.
    pub fn is_of_a_line(self) -> bool {
        matches!(
            self,
            Tale::Distant
                | Tale::Interrupted
                | Tale::Unnoticed
                | Tale::Bloated
                | Tale::Unanswered
                | Tale::Forgetful
                | Tale::Forgotten
                | Tale::Restarted
        )
    }

    /// In half of its worlds what clients publish is probed.
    pub fn has_probes(self) -> bool {
        matches!(self, Tale::Anything | Tale::Holed | Tale::PartlyHoled) || self.is_of_a_line()
    }

    pub fn coming(self, rng: &mut Rng, clients: usize, line: &Line) -> Vec<(Time, Coming)> {
        if self.is_of_a_line() {
            return over_the_line(self, rng, line);
        }
        let at = Duration::from_secs(5);
        let later = if self == Tale::Holed && rng.bool() { Duration::from_secs(25) } else { Duration::ZERO };
        let lasts = match self {
            Tale::Starved => Duration::from_millis(rng.u64(300..4_000)),
            _ => Duration::from_secs(100),
        };
        if self == Tale::Replaced {
            return replacement(rng);
        }
        if self == Tale::Misled {
            return honesty(rng);
        }
        if self == Tale::Republished {
            return republications(rng, clients);
        }
        if self == Tale::Reloaded {
            return reloads::coming(rng);
        }
        let mut coming: Vec<_> = match self {
            Tale::Frozen | Tale::Starved => (0..clients)
                .map(|client| Fault::Freeze { host: Host::Client(client), lasts })
                .map(|fault| (at, Coming::Fault(fault)))
                .collect(),
            Tale::Gone => (0..clients)
                .map(|client| Fault::Crash { host: Host::Client(client), loudly: false, lasts })
                .map(|fault| (at, Coming::Fault(fault)))
                .collect(),
            Tale::Unspliced | Tale::SlowName | Tale::Nameless => Vec::new(),
            Tale::Moved => {
                let known = (0..5).map(|_| (Duration::from_millis(rng.u64(1_000..3_000)), Coming::User));
                let mut coming: Vec<_> = known.collect();
                coming.push((at, Coming::Fault(Fault::NamesMove { refuse: rng.bool() })));
                coming
            }
            Tale::Forbidden => {
                let error = UNFORESEEN[rng.usize(..UNFORESEEN.len())];
                vec![(at, Coming::Fault(Fault::NoAccept { error, lasts: Duration::from_secs(4) }))]
            }
            Tale::PartlyHoled => vec![(at, Coming::Fault(Fault::Hole { kind: Kind::Message, share: 0.3 }))],
            _ => vec![(at, Coming::Fault(Fault::Hole { kind: Kind::Message, share: 1.0 }))],
        };
        let span_ms = match self {
            Tale::Failed => 240,
            Tale::SlowName => 1_000,
            Tale::Nameless => 60_000,
            _ => 3_000,
        };
        let users = if self == Tale::SlowName { 250 } else { rng.usize(1..20) };
        let users: Vec<_> = (0..users).map(|_| Duration::from_millis(rng.u64(1..span_ms))).collect();
        coming.extend(users.into_iter().map(|after| (at + later + after, Coming::User)));
        coming
    }
}

/// Users come before a server is replaced and after that. The links are so old by then that it is no refusal.
fn replacement(rng: &mut Rng) -> Vec<(Time, Coming)> {
    let millis = Duration::from_millis;
    let retired = millis(15_200);
    let mut coming = vec![(retired, Coming::Retirement)];
    coming.push((retired + millis(rng.u64(100..400)), Coming::Successor));
    let before = (0..rng.usize(1..20)).map(|_| millis(rng.u64(12_000..15_000)));
    let before: Vec<Time> = before.collect();
    let after = (0..rng.usize(1..20)).map(|_| retired + millis(rng.u64(500..4_000)));
    coming.extend(before.into_iter().chain(after).map(|at| (at, Coming::User)));
    coming
}

/// Users come while clients get one configuration after the other; at last all is as it was.
fn republications(rng: &mut Rng, clients: usize) -> Vec<(Time, Coming)> {
    let millis = Duration::from_millis;
    let users = (0..rng.usize(10..60)).map(|_| (millis(rng.u64(3_000..13_000)), Coming::User));
    let mut coming: Vec<_> = users.collect();
    for _ in 0..rng.usize(1..12) {
        let reload = Coming::Republish { client: rng.usize(..clients), drawn: true };
        coming.push((millis(rng.u64(4_000..14_000)), reload));
    }
    coming.extend((0..clients).map(|client| (millis(15_000), Coming::Republish { client, drawn: false })));
    coming
}

/// All connections are forgotten while some users are there. Others come two seconds after the client must have found
/// the server silent, and stay for longer than a link may be silent.
fn forgotten(restart: bool, rng: &mut Rng) -> Vec<(Time, Coming)> {
    let (limits, millis) = (Limits::default(), Duration::from_millis);
    let at = millis(rng.u64(20_000..40_000));
    let known = at + limits.heartbeat / 3 + 2 * limits.late;
    let mut coming = vec![(at, Coming::Forget { restart })];
    let before = (0..rng.usize(..10)).map(|_| millis(rng.u64(5_000..19_000)));
    let before: Vec<Time> = before.collect();
    let after = (0..rng.usize(1..20)).map(|_| known + millis(rng.u64(2_000..20_000)));
    coming.extend(before.into_iter().chain(after).map(|at| (at, Coming::Lasting)));
    coming
}

/// A hostile server is there for a while. Users come as soon as the client must have found the honest one.
fn honesty(rng: &mut Rng) -> Vec<(Time, Coming)> {
    let honest = Duration::from_secs(rng.u64(5..20));
    let found = honest + Limits::default().reconnect.1 + Duration::from_secs(3);
    let mut coming = vec![(honest, Coming::Honest)];
    coming.extend((0..10).map(|_| (found + Duration::from_millis(rng.u64(..3_000)), Coming::Steady)));
    coming
}

/// Users come while the line does what it does. The first one finds the link standing: it takes five round trips and
/// a few lost packets. Nobody comes while the line is down, or so soon after that it could not be heard of.
fn over_the_line(tale: Tale, rng: &mut Rng, line: &Line) -> Vec<(Time, Coming)> {
    if matches!(tale, Tale::Forgotten | Tale::Restarted) {
        return forgotten(tale == Tale::Restarted, rng);
    }
    if let (Tale::Unnoticed, Some((_, back))) = (tale, line.outage()) {
        let others = (0..rng.usize(..60)).map(|_| back + Duration::from_millis(rng.u64(..5_000)));
        let others: Vec<Time> = others.collect();
        return [back].into_iter().chain(others).map(|at| (at, Coming::User)).collect();
    }
    let (from_s, until_s) = match tale {
        Tale::Distant => (70, 250),
        Tale::Interrupted => (20, 120),
        Tale::Bloated => (5, 20),
        Tale::Unanswered => (70, 130),
        _ => (5, 300),
    };
    let away = line.outage().map(|(from, until)| {
        let lasts = until - from;
        (from.saturating_sub(Duration::from_secs(2)), until + lasts + Duration::from_secs(10))
    });
    let is_away = |at: Time| away.is_some_and(|(from, until)| at >= from && at < until);
    let users =
        (0..rng.usize(1..20)).map(|_| Duration::from_millis(rng.u64(from_s * 1_000..until_s * 1_000)));
    let users: Vec<_> = users.filter(|&at| !is_away(at)).collect();
    let mut coming: Vec<_> = users.into_iter().map(|at| (at, Coming::User)).collect();
    if tale == Tale::Bloated {
        coming.extend((0..8).map(|_| (Duration::from_millis(rng.u64(4_000..5_000)), Coming::Bulk)));
    }
    // They begin well before the line is down, and are quiet when it is back.
    if tale == Tale::Interrupted {
        let quiet = |_| (Duration::from_secs(rng.u64(5..20)), Duration::from_secs(rng.u64(100..110)));
        coming.extend((0..3).map(quiet).map(|(at, pause)| (at, Coming::Quiet(pause))));
    }
    if tale == Tale::Forgetful {
        let quiet = |_| (Duration::from_secs(rng.u64(5..100)), Duration::from_secs(rng.u64(45..110)));
        coming.extend((0..3).map(quiet).map(|(at, pause)| (at, Coming::Quiet(pause))));
    }
    coming
}
