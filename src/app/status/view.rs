//! What one answer is written from.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::options::Side;
use crate::machine::status::Snapshot;

/// Everything that was known at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// What the machine and its reactor say.
    pub snapshot: Snapshot,
    /// What the process says.
    pub head: Head,
    /// What the system says.
    pub system: System,
    /// When it was gathered.
    pub at: Instant,
    /// The same on the wall's clock.
    pub wall: SystemTime,
}

impl View {
    /// How long ago something was.
    pub fn age(&self, moment: Instant) -> Duration {
        self.at.saturating_duration_since(moment)
    }

    /// When it was, for people.
    pub fn wall_of(&self, moment: Instant) -> SystemTime {
        self.wall.checked_sub(self.age(moment)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Which process it is, and with which configuration it runs.
#[derive(Clone, Debug)]
pub struct Head {
    /// Server or client.
    pub role: Side,
    /// When it started.
    pub since: SystemTime,
    /// The configuration file; none where the command line says all.
    pub file: Option<Arc<str>>,
    /// When the configuration that runs was read.
    pub configured: SystemTime,
    /// What came after it and was not taken.
    pub refused: Option<RefusedConfiguration>,
    /// It ends, and takes no new users.
    pub is_draining: bool,
}

/// A configuration that was read at a reload and does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedConfiguration {
    /// When that was noticed first.
    pub since: SystemTime,
    /// Its faults, at least one, each with its place.
    pub faults: Arc<[String]>,
}

/// What the system says of the process. What it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// Its id.
    pub pid: u32,
    /// File descriptors in use.
    pub descriptors: Option<u64>,
    /// Most file descriptors that it may have.
    pub descriptors_max: Option<u64>,
    /// Memory that it holds, in bytes.
    pub memory: Option<u64>,
    /// Addresses that it has mapped, in bytes.
    pub mapped: Option<u64>,
    /// Processor time that it has used.
    pub processor: Duration,
    /// Lines of the log that were dropped.
    pub log_lines_dropped: u64,
}

#[cfg(test)]
pub(super) mod examples {
    //! A made-up view for the tests of all forms.

    use super::*;
    use crate::machine::Traffic;
    use crate::machine::status::{
        Figures, LinkStatus, PublicationState, PublicationStatus, ServiceStatus, Totals, Waits,
    };

    /// A publication in this state, whose proof is as old as that, if there is one.
    pub fn publication(state: PublicationState, proof_age_s: Option<u64>, at: Instant) -> PublicationStatus {
        PublicationStatus {
            key: "office".parse().expect("a name"),
            client: Some(([203, 0, 113, 7], 51034).into()),
            state,
            proof: proof_age_s.map(|age| at - Duration::from_secs(age)),
            unanswered: 0,
        }
    }

    /// A service that these publications serve.
    pub fn service(name: &str, publications: Vec<PublicationStatus>) -> ServiceStatus {
        ServiceStatus {
            name: name.parse().expect("a name"),
            exposed_by: None,
            is_probed: true,
            addresses: vec!["*:443".to_owned()],
            reason: publications.is_empty().then(|| "no client".into()),
            publications,
            figures: Figures::default(),
        }
    }

    /// A server with these services.
    pub fn view(services: impl FnOnce(Instant) -> Vec<ServiceStatus>) -> View {
        let at = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (services, mut totals) = (services(at), Totals::default());
        for Waits { counts, sum } in services.iter().map(|service| &service.figures.waits) {
            totals.waits.counts.iter_mut().zip(counts).for_each(|(all, more)| *all += more);
            totals.waits.sum += *sum;
        }
        let hour = Duration::from_secs(3_600);
        let link = LinkStatus {
            key: "office".parse().expect("a name"),
            address: Some(([203, 0, 113, 7], 51034).into()),
            since: Some(at - Duration::from_secs(90)),
            round_trip: Some(Duration::from_micros(12_345)),
            idle: 9,
            busy: 1,
            coming: 0,
            expires_in: None,
            reason: None,
        };
        View {
            snapshot: Snapshot { services, links: vec![link], totals },
            head: Head {
                role: Side::Server,
                since: wall - hour,
                file: Some("server.toml".into()),
                configured: wall - hour,
                refused: None,
                is_draining: false,
            },
            system: System { pid: 4711, descriptors: Some(20), memory: Some(5 << 20), ..System::default() },
            at,
            wall,
        }
    }

    /// A server with one service that is proven, one that fails and one without a client.
    pub fn mixed() -> View {
        view(|at| {
            let failing = PublicationState::Failing("local server refuses connections".into());
            let mut web = service("web", vec![publication(PublicationState::Proven, Some(4), at)]);
            web.figures = Figures { users: 2, peak: 3, total: 12, ..Figures::default() };
            web.figures.traffic = Traffic { received: 1_234_567, sent: 99 };
            web.figures.ended[0] = 8;
            web.figures.refused[0] = 2;
            web.figures.waits.add(Duration::from_micros(90));
            let db = service("db", vec![publication(failing, None, at)]);
            vec![web, db, service("mail", Vec::new())]
        })
    }
}
