//! Publications, and what each link has of them.

use std::collections::VecDeque;

use crate::base::id::{LinkId, PublicationId, ServiceId, kind};
use crate::base::ports::Ports;
use crate::base::slots::Slots;
use crate::base::sorted::Map;
use crate::server::queue::Queue;

/// Entries that a list may hold beyond those that count.
const STALE_MAX: usize = 8;

/// A link's offer to serve a service.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Publication {
    pub link: LinkId,
    pub service: ServiceId,
    /// The number that the client gave it.
    pub number: u32,
    /// How long the client tries to connect to its local server.
    pub dial_ms: u32,
    /// The ports that it asked for, if it did.
    pub ports: Option<Ports>,
    /// Whether it serves users that come: its client is not leaving.
    pub(super) serving: bool,
    /// It has been given a user.
    pub is_used: bool,
}

/// Whether a link may be given a user now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Readiness {
    Ready,
    /// It has accepted a session lately, and not started it.
    Failing,
    Not,
}

/// Why a service cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Unpublishable {
    UnknownService,
    AlreadyPublished,
}

/// What a link publishes, and which users wait for it alone.
#[derive(Default)]
pub struct Offers {
    pub(super) publications: Map<ServiceId, PublicationId>,
    pub(super) numbers: Map<u32, PublicationId>,
    /// Publications whose services may have users who wait, each in turn.
    pub(super) wanted: VecDeque<PublicationId>,
    /// Those that their services do not list as ready.
    pub(super) unready: VecDeque<PublicationId>,
    pub(super) waiting: Queue,
    /// The client is leaving.
    pub(super) drains: bool,
}

impl Offers {
    /// What the link published is no publication any more.
    pub fn forget(&mut self, it: &Publication, publications: &Slots<kind::Publication, Publication>) {
        self.numbers.remove(&it.number);
        self.publications.remove(&it.service);
        drop_stale(&mut self.wanted, self.numbers.len(), publications);
        drop_stale(&mut self.unready, self.numbers.len(), publications);
    }
}

/// Drops publications that were withdrawn from a list, once they may outnumber the `live` ones.
pub fn drop_stale(
    list: &mut VecDeque<PublicationId>,
    live: usize,
    publications: &Slots<kind::Publication, Publication>,
) {
    if list.len() > 2 * live + STALE_MAX {
        list.retain(|&id| publications.get(id).is_some());
    }
}
