//! What goes wrong in a world, and when: a plan drawn from the seed.

use std::time::Duration;

use fastrand::Rng;

use super::tcp::{Cut, Host, Kind, Net, Time};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Some pipes deliver nothing for a while.
    Stall { kind: Kind, share: f64, lasts: Duration },
    /// Some connections hold every byte until the faults end, and stay up.
    Hole { kind: Kind, share: f64 },
    /// Some pipes are late from now on: those to the even end, to the odd one, or both.
    Slow { kind: Kind, share: f64, towards: [bool; 2], delay: Duration },
    /// One connection is cut after so many more bytes.
    Cut { kind: Kind, after: usize, cut: Cut },
    /// No process can take connections: each try fails with this error.
    NoAccept { error: i32, lasts: Duration },
    /// A host's processes stop for a while, and its kernel goes on.
    Freeze { host: Host, lasts: Duration },
    /// A process dies, loudly or with its whole host.
    Crash { host: Host, loudly: bool, lasts: Duration },
    /// The operator asks a process to end, and again if it takes its time.
    Terminate { host: Host, again: Option<Duration> },
    /// Local servers refuse, or do not answer.
    LocalsAway { refuse: bool, lasts: Duration },
    /// Names lead to other local servers; those that they led to refuse, or do not answer.
    NamesMove { refuse: bool },
}

/// Draws the faults of a world: which kinds it knows, and when they strike.
pub fn plan(rng: &mut Rng, until: Time, clients: usize) -> Vec<(Time, Fault)> {
    let kinds: Vec<u8> = (0..8).filter(|_| rng.u8(..3) == 0).collect();
    if kinds.is_empty() {
        return Vec::new();
    }
    let most = if rng.bool() { 6 } else { 40 };
    let count = 1 + rng.usize(..most);
    let mut plan: Vec<_> = (0..count)
        .map(|_| {
            let at = until.mul_f64(rng.f64());
            let kind = rng.choice(kinds.iter().copied()).unwrap_or(0);
            (at, draw(rng, kind, clients))
        })
        .collect();
    plan.sort_by_key(|entry| entry.0);
    plan
}

fn draw(rng: &mut Rng, kind: u8, clients: usize) -> Fault {
    let host = match rng.usize(..=clients) {
        0 => Host::Server,
        client => Host::Client(client - 1),
    };
    let any = [Kind::Message, Kind::Message, Kind::Control, Kind::User, Kind::Proxy][rng.usize(..5)];
    let ours = if rng.u8(..4) > 0 { Kind::Message } else { Kind::Control };
    let share = if rng.bool() { 1.0 } else { rng.f64() };
    let mut millis = |most: u64| Duration::from_millis(rng.u64(10..most));
    let (short, long) = (millis(4_000), millis(12_000));
    match kind {
        0 => Fault::Stall { kind: any, share, lasts: short },
        1 => Fault::Hole { kind: ours, share },
        2 => {
            let towards = [[true, true], [true, false], [false, true]][rng.usize(..3)];
            Fault::Slow { kind: any, share, towards, delay: short / 2 }
        }
        3 => {
            let after = match rng.u8(..4) {
                0 => rng.usize(..200),
                1 => rng.usize(..100_000),
                _ => rng.usize(..3_000),
            };
            // An end that is forged on a user's own connection cannot be told from the user's end.
            let mine = matches!(any, Kind::Message | Kind::Control);
            let cut = match rng.u8(..3) {
                0 if mine => Cut::Fin,
                1 => Cut::TimedOut,
                _ => Cut::Reset,
            };
            Fault::Cut { kind: any, after, cut }
        }
        4 => Fault::Freeze { host, lasts: if rng.u8(..5) == 0 { long * 3 } else { short } },
        5 => Fault::Crash { host, loudly: rng.bool(), lasts: short },
        6 => Fault::Terminate { host, again: rng.bool().then_some(short) },
        _ => Fault::LocalsAway { refuse: rng.bool(), lasts: long },
    }
}

/// Does what a fault does to connections.
pub fn strike(net: &mut Net, fault: &Fault) {
    match *fault {
        Fault::Stall { kind, share, lasts } => {
            let until = net.now + lasts;
            for end in some(net, kind, share) {
                net.ends[end].stalled_until = until;
                net.ends[end ^ 1].stalled_until = until;
            }
        }
        Fault::NoAccept { error, lasts } => net.accept_fails = (net.now + lasts, error),
        Fault::Hole { kind, share } => {
            for end in some(net, kind, share) {
                net.ends[end].holed = true;
                net.ends[end ^ 1].holed = true;
            }
        }
        Fault::Slow { kind, share, towards, delay } => {
            for end in some(net, kind, share) {
                for side in [0, 1] {
                    if towards[side] {
                        net.ends[end + side].delay = delay;
                    }
                }
            }
        }
        Fault::Cut { kind, after, cut } => {
            let open = net.open(kind);
            if let Some(end) = net.rng.choice(open) {
                let end = end + net.rng.usize(..2);
                net.ends[end].cut = Some((after, cut));
            }
        }
        _ => {}
    }
}

fn some(net: &mut Net, kind: Kind, share: f64) -> Vec<usize> {
    let open = net.open(kind);
    open.into_iter().filter(|_| net.rng.f64() < share).collect()
}

/// Ends every fault that lasts. What was held comes late, or never.
pub fn relent(net: &mut Net) {
    net.line.relent();
    net.shape.short = 0.0;
    net.shape.spurious = 0.0;
    net.shape.accept_errors = 0.0;
    for listener in net.listeners.values_mut() {
        listener.refuses = None;
    }
    for end in 0..net.ends.len() {
        let delay = net.shape.delay;
        let this = &mut net.ends[end];
        (this.stalled_until, this.delay, this.cut) = (Time::ZERO, delay, None);
        if this.holed && end % 2 == 0 {
            net.ends[end].holed = false;
            net.ends[end ^ 1].holed = false;
            if net.rng.bool() {
                net.cut(end, Cut::TimedOut);
            }
        }
        net.pump(end & !1);
        net.pump(end | 1);
    }
}
