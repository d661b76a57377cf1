//! What the client publishes: under which number, with which local server, and what the server has said to it.
//!
//! A publication is its name. It has a number, which no other one had before it, and an offer: the local server and
//! what else holds for its sessions. A changed offer holds for new sessions; each session keeps the one with which it
//! began. A publication that goes, or asks for something else, gives its number up: no session of that number is
//! served any more, and no other publication ever gets it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Instant;

use super::names::Names;
use crate::base::address::HostPort;
use crate::base::id::{AccountId, ConnId, NameId};
use crate::base::name::Name;
use crate::base::sorted::{Map, Set};
use crate::config::Publication;
use crate::config::client_difference::ClientDifference;
use crate::machine::status::PublicationState;
use crate::machine::{Agenda, Fact, NameFault, Output, Proving, Reason};
use crate::wire::control::{
    ControlFrame, Denial, GrantedAddress, PublicationNumber, Publish, Transports, Want,
};

/// Names an offer, as sessions keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OfferId(NonZeroU32);

/// A publication as it was made, or changed.
pub(super) struct Offer {
    /// Whose it is.
    number: PublicationNumber,
    pub publication: Publication,
    /// Where its local server's addresses are kept.
    pub name: NameId,
    /// Where its users are counted.
    pub account: Option<AccountId>,
}

impl Offer {
    pub fn tell_name(&self, fault: NameFault, agenda: &mut Agenda) {
        let (service, local) = (self.publication.name.clone(), self.publication.local.clone());
        agenda.fact(Fact::LocalName { service, local, fault });
    }

    /// How many ports its users connect to.
    pub fn port_count(&self) -> usize {
        if let Want::Ports(ports) = self.publication.want { ports.count() } else { 1 }
    }

    /// The local server of the port that lies so far behind the first one; `None` if there is none.
    pub fn local(&self, port_offset: u16) -> Option<HostPort> {
        let local = &self.publication.local;
        let is_own = usize::from(port_offset) < self.port_count();
        let port = local.port.checked_add(port_offset).filter(|_| is_own)?;
        Some(HostPort { host: local.host.clone(), port })
    }
}

/// An address of the local server of an offer, at the port that lies so far behind the first one.
pub(super) fn at_offset(address: SocketAddr, port_offset: u16) -> SocketAddr {
    let mut address = address;
    // The session was refused where there is no such port.
    address.set_port(address.port().saturating_add(port_offset));
    address
}

/// What the server said last.
enum Answer {
    Nothing,
    Granted {
        addresses: Vec<GrantedAddress>,
        /// A server that does not say so does not probe.
        is_probed: bool,
    },
    Denied(Denial),
}

/// What the server is asked for.
fn publish(number: PublicationNumber, publication: &Publication) -> Publish {
    Publish {
        number,
        name: publication.name.clone(),
        want: publication.want,
        transports: Transports::Tcp,
        dial_time: publication.dial_time,
        share: publication.share,
        probe: publication.probe,
    }
}

/// A publication that stands.
struct Standing {
    offer: OfferId,
    answer: Answer,
    proving: Proving,
}

/// What is shown of a publication.
pub(super) struct Shown<'p> {
    pub offer: &'p Offer,
    /// Where its users connect, as far as the server has said so.
    pub addresses: &'p [GrantedAddress],
    /// Whether the server probes it, as far as is known.
    pub is_probed: bool,
    pub state: PublicationState,
    pub proving: &'p Proving,
}

/// A control connection on which publications were said.
struct Hearer {
    /// The highest number that was said there.
    last: PublicationNumber,
    /// The server drains: it takes no new ones.
    is_draining: bool,
    /// Whether the server takes changes of what was said, once it has said so.
    takes_changes: Option<bool>,
    /// It has come in the place of another one: the server says there again what it has said.
    says_again: bool,
    /// What has changed before that.
    changed: Set<PublicationNumber>,
}

/// All publications.
#[derive(Default)]
pub(super) struct Publications {
    standing: Map<PublicationNumber, Standing>,
    numbers: Map<Name, PublicationNumber>,
    /// Those of the publications that stand, and those that sessions keep.
    offers: Map<OfferId, Offer>,
    hearers: Map<ConnId, Hearer>,
    /// Where the users of each name are counted, whatever number it has.
    accounts: Map<Name, AccountId>,
    last: PublicationNumber,
    last_offer: u32,
}

impl Publications {
    /// The offer that holds for new sessions of this number.
    pub fn offer_of(&self, number: PublicationNumber) -> Option<OfferId> {
        self.standing.get(&number).map(|standing| standing.offer)
    }

    /// Whose offer a session keeps.
    pub fn number_of(&self, id: Option<OfferId>) -> Option<PublicationNumber> {
        self.offer(id).map(|offer| offer.number)
    }

    /// How many stand.
    pub fn count(&self) -> usize {
        self.standing.len()
    }

    /// The numbers of publications that stand, from this one on.
    pub fn numbers_from(&self, number: PublicationNumber) -> impl Iterator<Item = PublicationNumber> {
        self.standing.range_from(number).map(|(&number, _)| number)
    }

    /// The offer that a session keeps.
    pub fn offer(&self, id: Option<OfferId>) -> Option<&Offer> {
        self.offers.get(&id?)
    }

    // What is known of them.

    /// The publication of an offer, while that is the one that holds for new sessions.
    fn standing_of(&mut self, id: Option<OfferId>) -> Option<(&Name, &mut Standing)> {
        let offer = self.offers.get(&id?)?;
        let standing = self.standing.get_mut(&offer.number)?;
        (Some(standing.offer) == id).then_some((&offer.publication.name, standing))
    }

    /// A session or a probe has found its local server.
    pub fn proved(&mut self, id: Option<OfferId>, agenda: &mut Agenda) {
        if let Some((service, standing)) = self.standing_of(id)
            && standing.proving.proved(agenda.now)
        {
            agenda.fact(Fact::ServiceProved { service: service.clone(), client: None });
        }
    }

    /// What is published fails; people are to be told if that is news, or know it.
    pub fn failed(&mut self, id: Option<OfferId>, reason: Reason, tells: bool, agenda: &mut Agenda) {
        if let Some((service, standing)) = self.standing_of(id)
            && standing.proving.failed(reason.clone())
            && tells
        {
            agenda.fact(Fact::ServiceFails { service: service.clone(), client: None, reason });
        }
    }

    /// The session of a user has ended, which sent bytes and was answered, or not.
    pub fn session_ended(&mut self, id: Option<OfferId>, sent: bool, answered: bool) {
        if let Some((_, standing)) = self.standing_of(id) {
            standing.proving.ended(sent, answered);
        }
    }

    /// What is known of the publication of this number. `link` says why none can be served, if that is so.
    pub fn numbered(
        &self,
        number: PublicationNumber,
        link: Option<Reason>,
        now: Instant,
    ) -> Option<Shown<'_>> {
        let Standing { offer, answer, proving } = self.standing.get(&number)?;
        let (addresses, server_probes, denied) = match answer {
            Answer::Granted { addresses, is_probed } => (&addresses[..], *is_probed, None),
            Answer::Denied(reason) => (&[][..], true, Some(Reason::Denied(*reason))),
            Answer::Nothing => (&[][..], true, None),
        };
        let (offer, state) = (self.offers.get(offer)?, proving.state(link.or(denied), now));
        let is_probed = server_probes && offer.publication.probe;
        Some(Shown { offer, addresses, is_probed, state, proving })
    }

    // Coming, changing, going.

    /// Adds a publication.
    pub fn add(&mut self, publication: Publication, names: &mut Names, agenda: &mut Agenda) {
        self.last += 1;
        self.numbers.insert(publication.name.clone(), self.last);
        if !self.accounts.contains_key(&publication.name)
            && let Some(account) = agenda.tally.open(None)
        {
            self.accounts.insert(publication.name.clone(), account);
        }
        let offer = self.make_offer(self.last, publication, names);
        let (answer, proving) = (Answer::Nothing, Proving::new(agenda.now));
        self.standing.insert(self.last, Standing { offer, answer, proving });
    }

    fn make_offer(
        &mut self,
        number: PublicationNumber,
        publication: Publication,
        names: &mut Names,
    ) -> OfferId {
        // What is known of a local server's name stays, whatever else changes.
        let before = self.standing.get(&number).and_then(|standing| self.offers.get(&standing.offer));
        let known =
            before.filter(|offer| offer.publication.local == publication.local).map(|offer| offer.name);
        let add = || names.add(&publication.local).expect("there is room"); // invariant: names are few
        let name = known.unwrap_or_else(add);
        let id = OfferId(NonZeroU32::MIN.saturating_add(self.last_offer));
        self.last_offer += 1;
        let account = self.accounts.get(&publication.name).copied();
        self.offers.insert(id, Offer { number, publication, name, account });
        id
    }

    /// Makes the publications what they are to be, and says so to the server; one that the client is leaving hears only
    /// what it gets no more. Returns the numbers that are no more.
    pub fn change(
        &mut self,
        difference: &ClientDifference,
        leaving: bool,
        names: &mut Names,
        agenda: &mut Agenda,
    ) -> Set<PublicationNumber> {
        let (anew, changed): (Vec<&Publication>, Vec<_>) =
            difference.changed.iter().partition(|publication| self.must_be_asked_anew(publication));
        let anew: Vec<&Publication> = difference.asked_anew.iter().chain(anew).collect();
        let gone = difference.removed.iter().chain(anew.iter().map(|publication| &publication.name));
        let removed = gone.filter_map(|name| self.remove(name, agenda)).collect();
        for publication in changed {
            self.change_offer(publication, leaving, names, agenda);
        }
        for publication in in_order(anew.into_iter().chain(&difference.added)) {
            self.add(publication.clone(), names, agenda);
            agenda.fact(Fact::Asked { service: publication.name.clone() });
        }
        for name in difference.removed.iter().filter(|name| !self.numbers.contains_key(name)) {
            if let Some(account) = self.accounts.remove(name) {
                agenda.tally.close(account);
            }
        }
        if !leaving {
            let controls: Vec<ConnId> = self.hearers.keys().copied().collect();
            controls.into_iter().for_each(|control| self.say_new(control, agenda));
        }
        removed
    }

    /// Whether a changed publication must be asked for anew, because a server does not take that change otherwise.
    fn must_be_asked_anew(&self, publication: &Publication) -> bool {
        let standing = self.numbers.get(&publication.name).and_then(|number| self.standing.get(number));
        let before = standing.and_then(|standing| self.offers.get(&standing.offer));
        before.is_some_and(|before| before.publication.share != publication.share)
            && self.hearers.values().any(|hearer| hearer.takes_changes == Some(false))
    }

    /// A publication has another local server, or other options.
    fn change_offer(
        &mut self,
        publication: &Publication,
        leaving: bool,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let Some(&number) = self.numbers.get(&publication.name) else { return };
        let offer = self.make_offer(number, publication.clone(), names);
        let Some(standing) = self.standing.get_mut(&number) else { return };
        let before = std::mem::replace(&mut standing.offer, offer);
        let Some(Offer { publication: before, .. }) = self.offers.get(&before) else { return };
        if before.local != publication.local {
            // Nothing is known of where its users go now.
            standing.proving = Proving::new(agenda.now);
        }
        let options = |it: &Publication| (it.dial_time, it.share, it.probe);
        let is_news = options(before) != options(publication);
        if leaving || !is_news {
            return;
        }
        let frame = ControlFrame::Publish(publish(number, publication));
        let hearers = self.hearers.iter_mut().filter(|(_, it)| !it.is_draining && it.last >= number);
        for (&id, hearer) in hearers {
            match hearer.takes_changes {
                Some(true) => agenda.push(Output::Send { id, frame: frame.clone() }),
                Some(false) => {}
                None => drop(hearer.changed.insert(number)),
            }
        }
    }

    /// The server of a control connection takes changes of what was said there, or not.
    pub fn welcomed(&mut self, id: ConnId, takes_changes: bool, agenda: &mut Agenda) {
        let Some(hearer) = self.hearers.get_mut(&id) else { return };
        hearer.takes_changes = Some(takes_changes);
        for number in std::mem::take(&mut hearer.changed).into_iter().filter(|_| takes_changes) {
            let standing = self.standing.get(&number);
            if let Some(offer) = standing.and_then(|standing| self.offers.get(&standing.offer)) {
                let frame = ControlFrame::Publish(publish(number, &offer.publication));
                agenda.push(Output::Send { id, frame });
            }
        }
    }

    /// Removes a publication: says so wherever it was published.
    fn remove(&mut self, name: &Name, agenda: &mut Agenda) -> Option<PublicationNumber> {
        let number = self.numbers.remove(name)?;
        self.standing.remove(&number)?;
        for (&id, _) in self.hearers.iter().filter(|(_, hearer)| hearer.last >= number) {
            agenda.push(Output::Send { id, frame: ControlFrame::Unpublish(number) });
        }
        agenda.fact(Fact::Unpublished { service: name.clone() });
        Some(number)
    }

    /// Forgets offers that hold for no new session and are not in use.
    pub fn forget_unused(&mut self, mut used: Set<OfferId>, names: &mut Names) {
        used.extend(self.standing.values().map(|standing| standing.offer));
        let mut unused = Vec::new();
        self.offers.retain(|id, offer| {
            let is_used = used.contains(id);
            unused.extend((!is_used).then_some(offer.name));
            is_used
        });
        let needed: Set<NameId> = self.offers.values().map(|offer| offer.name).collect();
        unused.into_iter().filter(|name| !needed.contains(name)).for_each(|name| names.remove(name));
    }

    // To the server.

    /// Publishes everything on a control connection that has proved itself.
    pub fn say_all(&mut self, control: ConnId, agenda: &mut Agenda) {
        let (takes_changes, changed) = (None, Set::default());
        let hearer = Hearer { last: 0, is_draining: false, takes_changes, says_again: false, changed };
        self.hearers.insert(control, hearer);
        self.say_new(control, agenda);
    }

    /// Publishes what was not yet.
    fn say_new(&mut self, control: ConnId, agenda: &mut Agenda) {
        let Some(hearer) = self.hearers.get_mut(&control).filter(|hearer| !hearer.is_draining) else {
            return;
        };
        for (&number, standing) in self.standing.range_from(hearer.last + 1) {
            let Some(Offer { publication, .. }) = self.offers.get(&standing.offer) else { continue };
            let frame = ControlFrame::Publish(publish(number, publication));
            agenda.push(Output::Send { id: control, frame });
        }
        hearer.last = self.last;
    }

    /// A control connection has come in the place of another one.
    pub fn says_again(&mut self, control: ConnId) {
        if let Some(hearer) = self.hearers.get_mut(&control) {
            hearer.says_again = true;
        }
    }

    /// The server drains: it is told of no new publication.
    pub fn drains(&mut self, control: ConnId) {
        if let Some(hearer) = self.hearers.get_mut(&control) {
            hearer.is_draining = true;
        }
    }

    /// A control connection is gone.
    pub fn closed(&mut self, control: ConnId) {
        self.hearers.remove(&control);
    }

    // From the server.

    /// Whether what a server says there of publications counts. What one says that drains does not: the next link
    /// tells.
    fn counts(&self, control: ConnId) -> bool {
        self.hearers.get(&control).is_some_and(|hearer| !hearer.is_draining)
    }

    /// The server serves a publication: where its users connect, and whether it is probed.
    pub fn granted(
        &mut self,
        control: ConnId,
        number: PublicationNumber,
        (addresses, is_probed): (Vec<GrantedAddress>, bool),
        agenda: &mut Agenda,
    ) {
        if !self.counts(control) || addresses.is_empty() {
            return;
        }
        let says_again = self.hearers.get(&control).is_some_and(|hearer| hearer.says_again);
        let Some(standing) = self.standing.get_mut(&number) else { return };
        let Some(Offer { publication, .. }) = self.offers.get(&standing.offer) else { return };
        let answer = Answer::Granted { addresses: addresses.clone(), is_probed };
        if let Answer::Granted { addresses: before, is_probed: was_probed } =
            std::mem::replace(&mut standing.answer, answer)
            && before == addresses
            && (was_probed != is_probed || says_again)
        {
            // Nothing else is new.
            return;
        }
        let (service, local) = (publication.name.clone(), publication.local.clone());
        agenda.fact(Fact::Granted { service, addresses, local });
    }

    /// The server does not serve a publication, or has withdrawn it; returns whether it was granted until now, which it
    /// may have been on the link before. People are told once of each cause.
    pub fn denied(
        &mut self,
        control: ConnId,
        number: PublicationNumber,
        (reason, withdrawn): (Denial, bool),
        agenda: &mut Agenda,
    ) -> bool {
        if !self.counts(control) {
            return false;
        }
        let Some(standing) = self.standing.get_mut(&number) else { return false };
        let Some(Offer { publication, .. }) = self.offers.get(&standing.offer) else { return false };
        let before = std::mem::replace(&mut standing.answer, Answer::Denied(reason));
        if !matches!(before, Answer::Denied(before) if before == reason) {
            agenda.fact(Fact::Denied { service: publication.name.clone(), reason, withdrawn });
        }
        matches!(before, Answer::Granted { .. })
    }
}

/// The order in which publications are asked for: one that any port will do for takes none that another one names.
pub(super) fn in_order<'p>(publications: impl Iterator<Item = &'p Publication>) -> Vec<&'p Publication> {
    let (any, mut publications): (Vec<_>, Vec<_>) =
        publications.partition(|publication| publication.want == Want::AnyPort);
    publications.extend(any);
    publications
}
