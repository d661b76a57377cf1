//! What clients ask to serve on links that stand: it is granted, or denied and remembered. What was denied, or was
//! withdrawn, is granted without being asked for again once it may be.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::exposed::{Exposed, Exposing};
use super::listeners::Listeners;
use super::matching::Matching;
use super::services::{Publication, Unpublishable};
use crate::base::id::{ConnId, LinkId, ServiceId, kind};
use crate::base::name::Name;
use crate::base::sorted::{Map, Set};
use crate::base::table::Table;
use crate::config::policy::UserRules;
use crate::machine::{Agenda, CloseReason, Fact, Output};
use crate::wire::control::{ControlFrame, Denial, GrantedAddress, Ports, PublicationNumber, Publish, Want};

/// What each link asks for, by its numbers.
///
/// No key has more of it than `publications_per_client_max` for each of its links, denied or not, and the ports that it
/// asks for count. What is more is denied and not remembered, and what a link asked for is forgotten with the link.
#[derive(Default)]
pub(super) struct Asked {
    links: Table<kind::Link, Map<PublicationNumber, Publish>>,
    /// The highest number under which each link has asked for something, denied or not.
    last: Table<kind::Link, PublicationNumber>,
    /// What of it is denied, by the names of the services.
    denied: BTreeSet<(Name, LinkId, PublicationNumber)>,
    /// Links whose clients have come back, and say again what they ask for.
    repeats: Table<kind::Link, Repeats>,
}

/// What a client that has come back has not said again yet.
struct Repeats {
    /// So many Publish frames are to come.
    awaited: u32,
    /// Numbers under which it asked for something before.
    unsaid: Set<PublicationNumber>,
}

impl Asked {
    fn add(&mut self, link: LinkId, publish: &Publish, is_granted: bool) {
        if !self.links.contains(link) {
            self.links.insert(link, Map::default());
        }
        if let Some(asked) = self.links.get_mut(link) {
            asked.insert(publish.number, publish.clone());
        }
        if !is_granted {
            self.deny(link, publish.number);
        }
    }

    /// What a link asks for is denied; false if it was so before.
    fn deny(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        let Some(service) = self.get(link, number).map(|publish| publish.name.clone()) else { return false };
        self.denied.insert((service, link, number))
    }

    /// It is not asked for any more, or granted.
    fn forget_denied(&mut self, service: &Name, link: LinkId, number: PublicationNumber) {
        self.denied.remove(&(service.clone(), link, number));
    }

    /// The links that ask for a service and are denied it.
    pub fn denied<'a>(&'a self, service: &'a Name) -> impl Iterator<Item = LinkId> + 'a {
        let from = (service.clone(), LinkId::LEAST, 0);
        self.denied.range(from..).take_while(move |it| it.0 == *service).map(|it| it.1)
    }

    /// The services that a link asks for, denied ones too.
    pub fn services_of(&self, link: LinkId) -> impl Iterator<Item = &Name> {
        self.links.get(link).into_iter().flat_map(Map::values).map(|publish| &publish.name)
    }

    /// A link asks with other options for what it asks for under this number; false if it asks for something else.
    fn change(&mut self, link: LinkId, publish: &Publish) -> bool {
        let asked = self.links.get_mut(link).and_then(|asked| asked.get_mut(&publish.number));
        let standing = asked.filter(|standing| publish.changes(standing));
        standing.is_some_and(|standing| {
            *standing = publish.clone();
            true
        })
    }

    /// How many asks a link has.
    pub fn count(&self, link: LinkId) -> usize {
        self.links.get(link).map_or(0, Map::len)
    }

    /// Whether a link asks for something under this number.
    pub fn has_number(&self, link: LinkId, number: PublicationNumber) -> bool {
        self.get(link, number).is_some()
    }

    fn get(&self, link: LinkId, number: PublicationNumber) -> Option<&Publish> {
        self.links.get(link)?.get(&number)
    }

    /// A link asks for something under this number, whatever comes of it.
    fn note(&mut self, link: LinkId, number: PublicationNumber) {
        let last = self.last.get(link).copied().unwrap_or(0);
        self.last.insert(link, last.max(number));
    }

    /// Whether a link says this again, as was announced.
    fn is_repeated(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        let Some(repeats) = self.repeats.get_mut(link) else { return false };
        repeats.awaited = repeats.awaited.saturating_sub(1);
        repeats.unsaid.remove(&number)
    }

    /// What a link asked for and has not said again, once it has said all that was announced.
    fn take_unsaid(&mut self, link: LinkId) -> Set<PublicationNumber> {
        let is_over = self.repeats.get(link).is_some_and(|repeats| repeats.awaited == 0);
        let over = if is_over { self.repeats.remove(link) } else { None };
        over.map(|repeats| repeats.unsaid).unwrap_or_default()
    }

    /// A link asks for this no more; false if it never did.
    fn remove(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        if let Some(publish) = self.links.get_mut(link).and_then(|asked| asked.remove(&number)) {
            self.forget_denied(&publish.name, link, number);
        }
        self.last.get(link).is_some_and(|&last| number <= last)
    }

    /// A link is gone.
    pub fn remove_link(&mut self, link: LinkId) {
        self.last.remove(link);
        self.repeats.remove(link);
        for (number, publish) in self.links.remove(link).into_iter().flatten() {
            self.forget_denied(&publish.name, link, number);
        }
    }
}

/// One step with what clients ask for: it borrows what it works on.
pub(super) struct Publishing<'s> {
    pub matching: &'s mut Matching,
    pub listeners: &'s mut Listeners,
    pub asked: &'s mut Asked,
    pub exposed: &'s mut Exposed,
    pub agenda: &'s mut Agenda,
}

impl Publishing<'_> {
    /// With ports that clients ask for.
    pub fn exposing(&mut self) -> Exposing<'_> {
        let Publishing { exposed, matching, listeners, agenda, .. } = self;
        Exposing { exposed, matching, listeners, agenda }
    }

    /// A client has come back, and says again in so many frames what it asks for. What it was told may be lost, and
    /// what it does not say again is asked for no more.
    pub fn come_back(&mut self, link: LinkId, awaited: u32) {
        let numbers = self.asked.links.get(link).into_iter().flat_map(Map::keys).copied();
        let unsaid = numbers.chain(self.exposed.numbers(link)).collect();
        self.asked.repeats.insert(link, Repeats { awaited, unsaid });
        self.forget_unsaid(link);
    }

    fn forget_unsaid(&mut self, link: LinkId) {
        for number in self.asked.take_unsaid(link) {
            self.unpublish(link, number);
        }
    }

    /// A client would serve something.
    pub fn publish(&mut self, link: LinkId, publish: &Publish) {
        let is_repeated = self.asked.is_repeated(link, publish.number);
        let stands = self.asked.change(link, publish) || self.exposing().change(link, publish);
        match stands {
            true => self.change(link, publish),
            false => self.ask(link, publish),
        }
        if stands && is_repeated {
            self.answer_again(link, publish);
        }
        self.forget_unsaid(link);
    }

    /// Tells a client that has come back what became of what it asks for.
    fn answer_again(&mut self, link: LinkId, publish: &Publish) {
        let number = publish.number;
        let granted = self.matching.services.numbered(link, number);
        let frame = match (granted, publish.want) {
            (Some((_, service)), _) => self.matching.granted(link, number, self.addresses(service)),
            (None, Want::Service) => match self.grant(link, publish) {
                Ok(addresses) => {
                    self.asked.forget_denied(&publish.name, link, number);
                    return self.answer(link, publish, Ok(addresses));
                }
                Err(reason) => ControlFrame::Denied { number, reason },
            },
            (None, _) => match self.exposed.denial(link, number) {
                Some(reason) => ControlFrame::Denied { number, reason },
                // It is not decided yet.
                None => return,
            },
        };
        if let Some(it) = self.matching.sending.links.get(link) {
            self.agenda.push(Output::Send { id: it.control, frame });
        }
    }

    /// A client asks for something under a new number.
    fn ask(&mut self, link: LinkId, publish: &Publish) {
        self.asked.note(link, publish.number);
        if let Some(reason) = self.exposed.refusal(link, publish, self.asked, &self.agenda.limits) {
            return self.answer(link, publish, Err(reason));
        }
        if publish.want != Want::Service {
            return self.exposing().publish(link, publish);
        }
        let answer = self.grant(link, publish);
        match answer {
            Ok(_) => self.asked.add(link, publish, true),
            // What another reload or client may change.
            Err(Denial::UnknownService | Denial::Policy) => {
                self.asked.add(link, publish, false);
            }
            Err(_) => {}
        }
        self.answer(link, publish, answer);
    }

    /// What a link serves under this number has other options from now on.
    fn change(&mut self, link: LinkId, publish: &Publish) {
        let Matching { services, probes, .. } = &mut *self.matching;
        let Some((id, service)) = services.numbered(link, publish.number) else { return };
        if let Some(standing) = services.publication_mut(id) {
            standing.dial_ms = self.agenda.limits.dial_ms(publish.dial_time);
        }
        if probes.client_lets(id, publish.probe, self.agenda.now) {
            let frame = self.matching.granted(link, publish.number, self.addresses(service));
            let control = self.matching.sending.links.get(link).map(|it| it.control);
            control.into_iter().for_each(|id| self.agenda.push(Output::Send { id, frame: frame.clone() }));
        }
    }

    /// Tells a client what became of what it asked for.
    fn answer(&mut self, link: LinkId, publish: &Publish, answer: Result<Vec<SocketAddr>, Denial>) {
        let Some(it) = self.matching.sending.links.get(link) else { return };
        let (id, key) = (it.control, it.key().clone());
        let (number, service) = (publish.number, publish.name.clone());
        let frame = match answer {
            Ok(addresses) => {
                self.agenda.fact(Fact::Published { link: id, key, service });
                self.matching.granted(link, number, one_port_each(&addresses))
            }
            Err(reason) => {
                self.agenda.fact(Fact::PublicationDenied { key, service, reason });
                ControlFrame::Denied { number, reason }
            }
        };
        self.agenda.push(Output::Send { id, frame });
        self.matching.published(link, self.agenda);
    }

    fn grant(&mut self, link: LinkId, publish: &Publish) -> Result<Vec<SocketAddr>, Denial> {
        let sending = &self.matching.sending;
        let holder = sending.links.get(link).and_then(|link| sending.holders.get(link.identity.holder));
        if !holder.is_some_and(|holder| holder.may_serve(&publish.name)) {
            return Err(Denial::Policy);
        }
        let dial_ms = self.agenda.limits.dial_ms(publish.dial_time);
        let services = &mut self.matching.services;
        let service = services.id(&publish.name).ok_or(Denial::UnknownService)?;
        services.publish(link, publish.number, service, dial_ms).map_err(|error| match error {
            Unpublishable::UnknownService => Denial::UnknownService,
            Unpublishable::AlreadyPublished => Denial::AlreadyPublished,
        })?;
        self.matching.probing(self.agenda).published(link, service, publish.probe);
        Ok(self.listeners.addresses(service))
    }

    /// A client serves what it published under this number no more, and asks for it no more; false if it never did.
    /// Users whom its local server has taken are reset at once: the client's Abort may wait behind bytes for them.
    pub fn unpublish(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        let Matching { services, sending, .. } = &*self.matching;
        let service = services.numbered(link, number).map(|(_, service)| service);
        let mut users = self.users_of(link, number);
        users.retain(|&user| sending.users.get(user).is_some_and(|user| user.is_taken));
        let is_known = self.exposing().unpublish(link, number) || {
            self.matching.unpublish(link, number, self.agenda);
            self.asked.remove(link, number)
        };
        // A service that is gone has lost its users with it.
        let is_there = service.is_some_and(|service| self.matching.services.name(service).is_some());
        for user in users.into_iter().filter(|_| is_there) {
            self.agenda.reset(user, CloseReason::Removed);
        }
        is_known
    }

    /// The users that were given to what a link publishes under this number.
    fn users_of(&self, link: LinkId, number: PublicationNumber) -> Vec<ConnId> {
        let Matching { services, sending, .. } = &*self.matching;
        let numbered = services.numbered(link, number);
        let used = numbered.filter(|&(id, _)| services.publication(id).is_some_and(|it| it.is_used));
        let Some((id, service)) = used else { return Vec::new() };
        let is_given = |&user: &ConnId| {
            let it = sending.users.get(user);
            it.is_some_and(|it| it.served_by == Some(id) && it.first.is_some()) && !services.is_waiting(user)
        };
        sending.users.of_service(service).into_iter().filter(is_given).collect()
    }

    /// A service is gone: its users are reset, those that wait too, and its publications are withdrawn. The links
    /// stand.
    pub fn remove_service(&mut self, service: ServiceId) {
        for it in remove_service(service, CloseReason::Removed, self.matching, self.agenda) {
            self.asked.deny(it.link, it.number);
            self.tell_withdrawn(it.link, it.number, Denial::UnknownService);
        }
    }

    /// Withdraws what a link may not serve any more.
    pub fn withdraw_not_allowed(&mut self, link: LinkId) {
        let sending = &self.matching.sending;
        let holder = sending.links.get(link).and_then(|link| sending.holders.get(link.identity.holder));
        let Some(holder) = holder else { return };
        let asked = self.asked.links.get(link).into_iter().flat_map(Map::iter);
        let gone = asked.filter(|(_, it)| it.want == Want::Service && !holder.may_serve(&it.name));
        for number in gone.map(|it| *it.0).collect::<Vec<_>>() {
            if self.asked.deny(link, number) {
                self.withdraw(link, number, CloseReason::Policy);
                self.tell_withdrawn(link, number, Denial::Policy);
            }
        }
    }

    /// A link serves no more what it published under this number: its users there are reset.
    fn withdraw(&mut self, link: LinkId, number: PublicationNumber, reason: CloseReason) {
        let users = self.users_of(link, number);
        self.matching.unpublish(link, number, self.agenda);
        for user in users {
            self.agenda.reset(user, reason);
        }
    }

    fn tell_withdrawn(&mut self, link: LinkId, number: PublicationNumber, reason: Denial) {
        if let Some(link) = self.matching.sending.links.get(link) {
            let frame = ControlFrame::Withdrawn { number, reason };
            self.agenda.push(Output::Send { id: link.control, frame });
        }
    }

    /// New users of a service keep to other rules.
    pub fn set_rules(&mut self, service: &Name, rules: UserRules) {
        let Matching { services, admission, sending, .. } = &mut *self.matching;
        if let Some(id) = services.id(service) {
            let is_probed = rules.probe;
            let was_probed = admission.rules(id).is_some_and(|rules| rules.probe);
            let users = sending.users.iter().filter(|(_, user)| user.service == id);
            admission.set_rules(id, rules, users.map(|(_, user)| user.peer()));
            self.matching.probing(self.agenda).rules_changed(id);
            if was_probed != is_probed {
                self.moved(id);
            }
        }
    }

    /// Lets the listeners of a service take users, or refuse them, as its rules say and its clients are there.
    pub fn open_if_served(&mut self, service: ServiceId) {
        let closes = self.matching.admission.rules(service).is_some_and(|rules| rules.close_when_unserved);
        let open = !closes || self.matching.services.is_served(service);
        for id in self.listeners.of_service(service).to_vec() {
            match open {
                true => self.listeners.resume(id, self.agenda),
                false => self.listeners.suspend(id, self.agenda),
            }
        }
    }

    /// Something changed: what was denied is granted where it may be now.
    pub fn grant_denied(&mut self) {
        for (_, link, number) in std::mem::take(&mut self.asked.denied) {
            let Some(publish) = self.asked.get(link, number).cloned() else { continue };
            match self.grant(link, &publish) {
                Ok(addresses) => self.answer(link, &publish, Ok(addresses)),
                Err(_) => drop(self.asked.deny(link, number)),
            }
        }
    }

    /// The users of a service connect elsewhere now, or it is probed now, or not any more: its clients are told.
    pub fn moved(&mut self, service: ServiceId) {
        let addresses = self.addresses(service);
        for it in self.matching.services.publications_of(service) {
            if let Some(link) = self.matching.sending.links.get(it.link) {
                let frame = self.matching.granted(it.link, it.number, addresses.clone());
                self.agenda.push(Output::Send { id: link.control, frame });
            }
        }
    }

    /// Where users of a service connect, as its clients are told.
    fn addresses(&self, service: ServiceId) -> Vec<GrantedAddress> {
        let addresses = self.listeners.addresses(service);
        let asked_for = self.exposed.granted(service, &addresses);
        asked_for.unwrap_or_else(|| one_port_each(&addresses))
    }
}

/// A service is gone: its users are reset for this reason, those that wait too. Returns what clients published of it.
pub(super) fn remove_service(
    id: ServiceId,
    reason: CloseReason,
    matching: &mut Matching,
    agenda: &mut Agenda,
) -> Vec<Publication> {
    let account = matching.admission.account(id);
    account.into_iter().for_each(|account| agenda.tally.close(account));
    let users =
        if matching.admission.remove(id) { matching.sending.users.of_service(id) } else { Vec::new() };
    for user in users {
        matching.services.stop_waiting(user);
        agenda.reset(user, reason);
    }
    matching.barred.forget(id);
    matching.services.publication_ids(id).for_each(|id| matching.probes.forget(id));
    matching.services.remove(id)
}

fn one_port_each(addresses: &[SocketAddr]) -> Vec<GrantedAddress> {
    addresses.iter().map(|it| GrantedAddress { ip: it.ip(), ports: Ports::one(it.port()) }).collect()
}
