//! What is known of each publication, and when it is probed next.
//!
//! Invariant: a publication that may be probed has at most one probe on its way, or stands in one of three queues:
//! in that of the proved ones, by its last proof, or in that of the untried or the retried ones, by its next attempt. A
//! session of a user proves it, too, and moves nothing: what stands too early is put where it belongs when its time has
//! come. So a proof costs a session nothing but a note, and nobody walks over all of them.
//!
//! [`Turns`] says which queue is next, and links take turns in the last two: a client whose publications all fail, or
//! come and go, does not keep the proofs of the others from being renewed.

mod range;
mod tries;
mod turns;

use std::time::{Duration, Instant};

use crate::base::deadlines::Deadlines;
use crate::base::id::{ConnId, LinkId, PublicationId, kind};
use crate::base::table::Table;
use crate::machine::{Proving, Reason};
use range::Range;
use tries::Tries;
use turns::{Due, Kind, Turns};

/// A proof is renewed after this time.
const RENEWED_AFTER: Duration = Duration::from_secs(30);
/// The same, while somebody looks.
const RENEWED_SOON: Duration = Duration::from_secs(5);
/// Somebody who has looked does so for this time.
const LOOK: Duration = Duration::from_secs(10);
/// What failed, or is not proved, is tried again after this time.
const RETRIED_AFTER: Duration = Duration::from_secs(5);
/// What was refused to a user is looked at at once, but not more often than that.
const SUSPECTED_AGAIN: Duration = Duration::from_secs(1);
/// What nobody probes fails after so many refused users in a row.
const REFUSALS: u8 = 3;
/// Between two probes of all.
const PACE: Duration = Duration::from_millis(20);
/// Publications that are looked at in one turn.
const LOOKS_MAX: usize = 64;
/// After this part of its time a probe that was not accepted has other message connections looked at.
pub(super) const DOUBT: Duration = Duration::from_secs(1);
/// How long the end of a probe may take that was started.
pub(super) const END_TIME: Duration = Duration::from_secs(1);

/// A probe on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    pub message: ConnId,
    pub began: Instant,
    pub port_offset: u16,
    /// The client has read it.
    pub accepted: bool,
}

/// Where a publication stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the queue of the proved ones.
    Proved,
    /// In the queue of the untried ones, to be tried then.
    Untried(Instant),
    /// In the queue of the retried ones, to be tried then.
    Retried(Instant),
    /// In none: its probe is on its way, or it is not to be probed.
    Nowhere,
}

/// What is known of a publication.
struct Known {
    link: LinkId,
    range: Range,
    proving: Proving,
    place: Place,
    probe: Option<Probe>,
    /// When its last probe began.
    attempted: Option<Instant>,
    /// Users in a row that its client refused.
    refusals: u8,
    /// Its client lets it be probed, and the rules of its service do.
    client_lets: bool,
    service_lets: bool,
}

impl Known {
    fn is_probed(&self) -> bool {
        self.client_lets && self.service_lets
    }

    /// Where it is tried that is not proved.
    fn to_be_tried(&self, at: Instant) -> Place {
        match self.attempted.or(self.proving.proof()) {
            None => Place::Untried(at),
            Some(_) => Place::Retried(at),
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Probes {
    known: Table<kind::Publication, Known>,
    /// By their last proofs, or earlier ones.
    proved: Deadlines<kind::Publication>,
    /// By their next attempts.
    untried: Tries,
    retried: Tries,
    look_until: Option<Instant>,
    /// When the next probe may begin.
    next_at: Option<Instant>,
    turns: Turns,
}

impl Probes {
    // Publications.

    /// A client serves something now. It lets that be probed, and the rules of the service do, or not.
    pub fn add(
        &mut self,
        (link, id): (LinkId, PublicationId),
        (client_lets, service_lets): (bool, bool),
        now: Instant,
    ) {
        let (proving, place) = (Proving::new(now), Place::Nowhere);
        let (probe, attempted, range, refusals) = (None, None, Range::default(), 0);
        self.known.insert(
            id,
            Known { link, range, proving, place, probe, attempted, refusals, client_lets, service_lets },
        );
        self.put(id, Place::Untried(now));
    }

    /// What was published is so no more.
    pub fn forget(&mut self, id: PublicationId) {
        self.put(id, Place::Nowhere);
        self.known.remove(id);
    }

    pub fn forget_link(&mut self, link: LinkId) {
        self.untried.forget(link);
        self.retried.forget(link);
    }

    /// The rules of its service let it be probed from now on, or not.
    pub fn service_lets(&mut self, id: PublicationId, lets: bool, now: Instant) {
        self.let_be_probed(id, now, |known| known.service_lets = lets);
    }

    /// Its client lets it be probed from now on, or not. Returns whether it is probed now and was not before, or the
    /// reverse.
    pub fn client_lets(&mut self, id: PublicationId, lets: bool, now: Instant) -> bool {
        self.let_be_probed(id, now, |known| known.client_lets = lets)
    }

    fn let_be_probed(&mut self, id: PublicationId, now: Instant, change: impl FnOnce(&mut Known)) -> bool {
        let Some(known) = self.known.get_mut(id) else { return false };
        let was_probed = known.is_probed();
        change(known);
        let is_news = known.is_probed() != was_probed;
        if is_news && was_probed {
            known.proving.forget_failure();
        }
        if is_news && known.probe.is_none() {
            let place = known.to_be_tried(now);
            self.put(id, place);
        }
        is_news
    }

    /// Puts a publication into another place. One that is not to be probed stands in none.
    fn put(&mut self, id: PublicationId, place: Place) {
        let Some(known) = self.known.get_mut(id) else { return };
        let place = if known.is_probed() { place } else { Place::Nowhere };
        match std::mem::replace(&mut known.place, place) {
            Place::Proved => self.proved.set(id, None),
            Place::Untried(at) => self.untried.remove(known.link, id, at),
            Place::Retried(at) => self.retried.remove(known.link, id, at),
            Place::Nowhere => {}
        }
        match place {
            Place::Proved => self.proved.set(id, known.proving.proof()),
            Place::Untried(at) => self.untried.add(known.link, id, at),
            Place::Retried(at) => self.retried.add(known.link, id, at),
            Place::Nowhere => {}
        }
    }

    /// What is known of a publication, if anything is.
    pub fn proving(&self, id: PublicationId) -> Option<&Proving> {
        self.known.get(id).map(|known| &known.proving)
    }

    /// Whether a publication is probed.
    pub fn is_probed(&self, id: PublicationId) -> bool {
        self.known.get(id).is_some_and(Known::is_probed)
    }

    // What proves or disproves it.

    /// The session of a user was started that came to this port of its range.
    pub fn served_at(&mut self, id: PublicationId, port_offset: u16) {
        if let Some(known) = self.known.get_mut(id) {
            known.range.served_at(port_offset);
        }
    }

    /// A session or a probe was started. Returns whether it failed before.
    pub fn proved(&mut self, id: PublicationId, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(id) else { return false };
        let had_failed = known.proving.proved(now);
        known.refusals = 0;
        if let Place::Untried(_) | Place::Retried(_) = known.place {
            self.put(id, Place::Proved);
        }
        had_failed
    }

    /// The session of a user has ended, which sent bytes and was answered, or not.
    pub fn session_ended(&mut self, id: PublicationId, sent: bool, answered: bool) {
        if let Some(known) = self.known.get_mut(id) {
            known.proving.ended(sent, answered);
        }
    }

    /// A probe was started.
    pub fn started(&mut self, id: PublicationId, probe: Probe) {
        if let Some(known) = self.known.get_mut(id) {
            known.range.proved_at(probe.port_offset);
        }
    }

    /// Whether a probe that failed for this reason is followed by one at another port of the range, which may do
    /// better. It is the next one's, from now on.
    pub fn has_another_port(&mut self, id: PublicationId, probe: Probe, reason: &Reason) -> bool {
        let known = self.known.get_mut(id).filter(|_| reason.is_of_local_port());
        known.is_some_and(|known| known.range.failed_at(probe.port_offset))
    }

    /// A probe that began then has failed. What was proved meanwhile counts more. Returns whether that is news.
    pub fn failed(&mut self, id: PublicationId, probe: Probe, reason: Reason) -> bool {
        let Some(known) = self.known.get_mut(id) else { return false };
        let is_outdated = known.proving.proof().is_some_and(|proof| proof >= probe.began);
        !is_outdated && known.is_probed() && known.proving.failed(reason)
    }

    /// A publication cannot even be probed, for this reason. Returns whether that is news.
    pub fn cannot(&mut self, id: PublicationId, reason: Reason) -> bool {
        self.known.get_mut(id).is_some_and(|known| known.proving.failed(reason))
    }

    /// A client has refused a user: whether its local server takes connections is looked at soon.
    pub fn suspect(&mut self, id: PublicationId, now: Instant) {
        let Some(known) = self.known.get(id).filter(|known| known.place != Place::Nowhere) else { return };
        let at = known.attempted.map_or(now, |at| now.max(at + SUSPECTED_AGAIN));
        if !matches!(known.place, Place::Untried(before) | Place::Retried(before) if before <= at) {
            let place = known.to_be_tried(at);
            self.put(id, place);
        }
    }

    /// A client has refused a user of what nobody probes: only users prove that, and so only they disprove it. One that
    /// is served ends it. Returns whether it is news that it fails.
    pub fn refused(&mut self, id: PublicationId, reason: Reason) -> bool {
        let Some(known) = self.known.get_mut(id).filter(|known| !known.is_probed()) else { return false };
        known.refusals = known.refusals.saturating_add(1);
        known.refusals >= REFUSALS && known.proving.failed(reason)
    }

    // When.

    /// Somebody looks.
    pub fn look(&mut self, now: Instant) {
        self.look_until = Some(now + LOOK);
    }

    fn due_after(&self, proof: Instant) -> Instant {
        let soon = proof + RENEWED_SOON;
        if self.look_until.is_some_and(|until| soon <= until) { soon } else { proof + RENEWED_AFTER }
    }

    /// When a publication is to be probed next.
    pub fn next_due(&self) -> Option<Instant> {
        let proved = self.proved.next().map(|proof| self.due_after(proof));
        let due = [proved, self.untried.next_due(), self.retried.next_due()].into_iter().flatten().min()?;
        Some(self.next_at.map_or(due, |at| due.max(at)))
    }

    fn due(&self, now: Instant) -> Due {
        let proof = self.proved.next();
        Due {
            proved: proof.is_some_and(|proof| self.due_after(proof) <= now),
            is_old: proof.is_some_and(|proof| proof + RENEWED_AFTER <= now),
            untried: self.untried.next_due().is_some_and(|at| at <= now),
            retried: self.retried.next_due().is_some_and(|at| at <= now),
        }
    }

    /// The publication that is to be probed now. It stands nowhere until it is said what became of that.
    pub fn next(&mut self, now: Instant) -> Option<PublicationId> {
        for _ in 0..LOOKS_MAX {
            if self.next_at.is_some_and(|at| now < at) {
                return None;
            }
            let kind = self.turns.next(self.due(now))?;
            let id = match kind {
                Kind::Proved => self.proved.pop(),
                Kind::Untried => self.untried.pop(now),
                Kind::Retried => self.retried.pop(now),
            }?;
            let Some(known) = self.known.get_mut(id) else { continue };
            let place = std::mem::replace(&mut known.place, Place::Nowhere);
            if place == Place::Proved
                && let Some(proof) = known.proving.proof()
                && self.due_after(proof) > now
            {
                self.put(id, Place::Proved);
                continue;
            }
            self.turns.take(kind);
            self.next_at = Some(match self.next_at {
                // A turn that began late makes the next one no later.
                Some(at) if now < at + PACE => at + PACE,
                _ => now + PACE,
            });
            return Some(id);
        }
        None
    }

    /// A probe begins; returns at which port of the range.
    pub fn begin(&mut self, id: PublicationId, message: ConnId, now: Instant) -> u16 {
        let Some(known) = self.known.get_mut(id) else { return 0 };
        let port_offset = known.range.next();
        known.attempted = Some(now);
        known.probe = Some(Probe { message, began: now, port_offset, accepted: false });
        port_offset
    }

    /// The probe on its way on this message connection.
    pub fn probe(&self, id: PublicationId, message: ConnId) -> Option<Probe> {
        self.known.get(id)?.probe.filter(|probe| probe.message == message)
    }

    /// The client has read the probe.
    pub fn accepted(&mut self, id: PublicationId) {
        if let Some(probe) = self.known.get_mut(id).and_then(|known| known.probe.as_mut()) {
            probe.accepted = true;
        }
    }

    /// The probe on this message connection is over, one way or the other.
    pub fn end(&mut self, id: PublicationId, message: ConnId) -> Option<Probe> {
        self.known.get_mut(id)?.probe.take_if(|probe| probe.message == message)
    }

    /// A publication stands among the proved ones.
    pub fn rest(&mut self, id: PublicationId) {
        self.put(id, Place::Proved);
    }

    /// A publication is tried again, at once or after a while.
    pub fn retry(&mut self, id: PublicationId, at_once: bool, now: Instant) {
        self.put(id, Place::Retried(if at_once { now } else { now + RETRIED_AFTER }));
    }

    // Message connections.

    /// A publication waits until its link has a message connection to spare, and so does all that is to be tried of it.
    pub fn wait(&mut self, id: PublicationId, link: LinkId, now: Instant) {
        if let Some(place) = self.known.get(id).map(|known| known.to_be_tried(now)) {
            self.put(id, place);
        }
        for tries in [&mut self.untried, &mut self.retried] {
            tries.rest(link, now + RETRIED_AFTER);
        }
    }

    /// A link has a message connection to spare.
    pub fn spare(&mut self, link: LinkId, now: Instant) {
        for tries in [&mut self.untried, &mut self.retried] {
            tries.end_rest(link, now);
        }
    }
}
