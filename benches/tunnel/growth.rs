//! The case of growth: whether a session, or an idle second of a connection, costs more where there are more clients,
//! services or idle sessions. It is flat if no event costs more than itself.
//!
//! Only builds of the product take part, and the direct way as what the kernel takes for one connection. Each point of
//! an axis starts every contender afresh, one after the other, and only once: a longer run (`--seconds`) says more
//! than several short ones, because the division of CPU time is a sample (see [`CpuTime`]).
//!
//! On the axis of clients one client serves all users, and the others publish a service that has none. On the axis of
//! *serving* clients all of them share the users. There the figures hold more than our own growth: in use each client
//! has a host of its own, while here a thousand processes push each other and the server out of the caches of a few
//! cores, and only the server's time is counted.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::cases::{CONNECTING, Setting};
use super::contenders::{Contender, Running, Size, Surroundings};
use super::load::{self, Plan};
use super::process::{CpuTime, Process};

/// A point is idle for so many times `--seconds`, and serves sessions for as long.
const STRETCH: u32 = 10;
/// A point is idle for this time at least: heartbeats are 10 s apart, and pings of idle message connections 15.
const IDLE_MIN: Duration = Duration::from_secs(20);

/// One axis: what there is more of, how it is called, and its points in rising order.
struct Axis {
    of: Of,
    one: &'static str,
    many: &'static str,
    counts: &'static [usize],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Clients,
    ServingClients,
    Services,
    Sessions,
}

const AXES: [Axis; 4] = [
    Axis { of: Of::Clients, one: "client", many: "clients", counts: &[1, 100, 1_000] },
    Axis { of: Of::ServingClients, one: "serving client", many: "serving clients", counts: &[1, 100, 1_000] },
    Axis { of: Of::Services, one: "service", many: "services", counts: &[1, 100, 1_000] },
    Axis { of: Of::Sessions, one: "idle session", many: "idle sessions", counts: &[10, 100, 1_000, 8_000] },
];

/// What later points of an axis are compared with.
#[derive(Clone, Default)]
struct Earlier {
    /// User-space time per session at the first point: of the server, of the client.
    server_us: Option<f64>,
    client_us: Option<f64>,
    /// The kernel's time per session at the first point.
    kernel_us: Option<f64>,
    /// The least CPU time per idle second and connection of all points so far. The first point will not do: what a
    /// process does once in a while, however little it carries, falls on few connections there.
    idle_us: Option<f64>,
}

/// Measures all points of all axes, up to `--sessions` idle sessions.
pub fn run<'a>(
    contenders: &'a [Contender],
    around: &Surroundings,
    setting: impl Fn(&'a Contender) -> Setting<'a>,
) {
    let takes_part = |contender: &&Contender| contender.is_direct() || contender.is_product();
    let contenders: Vec<&Contender> = contenders.iter().filter(takes_part).collect();
    for axis in &AXES {
        let mut earlier = vec![Earlier::default(); contenders.len()];
        for &count in axis.counts {
            for (contender, earlier) in contenders.iter().zip(&mut earlier) {
                let point = Point { axis, count, setting: &setting(contender) };
                if axis.of == Of::Sessions && count > point.setting.sessions {
                    continue;
                }
                if let Err(error) = point.measure(around, earlier) {
                    point.remark(&format!("not measured: {error}"));
                }
            }
        }
    }
}

/// One count of one axis, for one contender.
struct Point<'a> {
    axis: &'a Axis,
    count: usize,
    setting: &'a Setting<'a>,
}

impl Point<'_> {
    fn measure(&self, around: &Surroundings, earlier: &mut Earlier) -> io::Result<()> {
        let contender = self.setting.contender;
        // The direct way has neither clients nor services, so one figure stands for all points.
        if contender.is_direct()
            && self.axis.of != Of::Sessions
            && let Some(kernel_us) = earlier.kernel_us
        {
            self.note("kernel µs", kernel_us);
            return Ok(());
        }
        let count = |of, otherwise| if self.axis.of == of { self.count } else { otherwise };
        let size = Size {
            clients: count(Of::ServingClients, 1),
            bystanders: count(Of::Clients, 1) - 1,
            services: count(Of::Services, 1),
            pool: Some(1),
        };
        let running = contender.start(&Surroundings { size, ..*around })?;
        let sessions = count(Of::Sessions, 0);
        let held = load::hold(running.address, sessions)?;
        running.calm_down()?;
        if contender.is_product() {
            self.measure_idle(&running, sessions, earlier)?;
        }
        self.measure_sessions(&running, earlier)?;
        drop(held);
        Ok(())
    }

    /// CPU time per idle second and connection: control connections, the pools' and the sessions' message connections.
    fn measure_idle(&self, running: &Running, sessions: usize, earlier: &mut Earlier) -> io::Result<()> {
        // A session takes the user's connection as well.
        let connections = running.connections()?.saturating_sub(sessions).max(1);
        let (began, before) = (Instant::now(), self.cpu_times(running)?);
        thread::sleep(IDLE_MIN.max(self.setting.time * STRETCH));
        let spent = since(&self.cpu_times(running)?, &before);
        let both = spent.iter().fold(CpuTime::default(), |sum, &time| sum + time);
        let each = 1e6 / (began.elapsed().as_secs_f64() * connections as f64);
        let idle_us = both.seconds * each;
        self.note("idle CPU µs/s", idle_us);
        if let Some(user) = both.user_seconds() {
            self.note("idle user µs/s", user * each);
        }
        if let Some(least_us) = earlier.idle_us {
            self.note("idle, of least", idle_us / least_us);
        }
        // A time without any event says nothing of what an event costs.
        if idle_us > 0.0 {
            earlier.idle_us = Some(earlier.idle_us.map_or(idle_us, |least_us| least_us.min(idle_us)));
        }
        Ok(())
    }

    /// CPU time per session while users come, ask once and leave.
    fn measure_sessions(&self, running: &Running, earlier: &mut Earlier) -> io::Result<()> {
        let time = self.setting.time * STRETCH;
        let plan =
            Plan { address: running.address, users: CONNECTING, fresh: true, time, requests: u64::MAX };
        let before = self.cpu_times(running)?;
        let outcome = load::run(&plan)?;
        let spent = since(&self.cpu_times(running)?, &before);
        if outcome.failures > 0 {
            self.remark(&format!("{} sessions failed", outcome.failures));
        }
        let each_us = |seconds: f64| seconds * 1e6 / outcome.latencies.len() as f64;
        if self.setting.contender.is_product() {
            let user_us = |index: usize| spent.get(index).and_then(CpuTime::user_seconds).map(each_us);
            if user_us(0).is_none() {
                self.remark("too short to tell user-space from the kernel: say more --seconds");
            }
            self.note_with_ratio("server, user µs", "server, of first", user_us(0), &mut earlier.server_us);
            self.note_with_ratio("client, user µs", "client, of first", user_us(1), &mut earlier.client_us);
        }
        let kernel: Option<f64> = spent.iter().map(CpuTime::kernel_seconds).sum();
        if let Some(kernel_us) = kernel.map(each_us) {
            self.note("kernel µs", kernel_us);
            earlier.kernel_us.get_or_insert(kernel_us);
        }
        Ok(())
    }

    /// Those of the server and of the client that serves the users; those of users and origin for the direct way.
    fn cpu_times(&self, running: &Running) -> io::Result<Vec<CpuTime>> {
        if self.setting.contender.is_direct() {
            return Ok(vec![running.ends_cpu_time()?]);
        }
        let looked_at = if self.axis.of == Of::ServingClients { 1 } else { 2 };
        running.processes.iter().take(looked_at).map(Process::cpu_time).collect()
    }

    fn note_with_ratio(&self, name: &str, ratio: &str, value: Option<f64>, first: &mut Option<f64>) {
        let Some(value) = value else { return };
        self.note(name, value);
        match *first {
            Some(first) => self.note(ratio, value / first),
            None => *first = Some(value),
        }
    }

    fn note(&self, figure: &str, value: f64) {
        // A figure's name lives as long as the program; there are some fifty.
        self.setting.note(format!("{self}: {figure}").leak(), value);
    }

    fn remark(&self, text: &str) {
        let Setting { results, case, contender, .. } = self.setting;
        results.remark(format!("{case}, {}, {self}: {text}", contender.name));
    }
}

impl std::fmt::Display for Point<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let name = if self.count == 1 { self.axis.one } else { self.axis.many };
        match self.count {
            count @ ..1_000 => write!(f, "{count} {name}"),
            count => write!(f, "{},{:03} {name}", count / 1_000, count % 1_000),
        }
    }
}

fn since(after: &[CpuTime], before: &[CpuTime]) -> Vec<CpuTime> {
    after.iter().zip(before).map(|(&after, &before)| after - before).collect()
}
