//! What clients ask to serve on links that stand: it is granted, or denied and remembered. What was denied, or was
//! withdrawn, is granted without being asked for again once it may be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::listeners::Listeners;
use super::matching::Matching;
use super::services::Unpublishable;
use crate::base::id::{LinkId, ServiceId, kind};
use crate::base::table::Table;
use crate::machine::{Agenda, Fact, Output};
use crate::wire::control::{
    ControlFrame, Denial, GrantedAddress, Ports, PublicationNumber, Publish, Transports, Want,
};

/// What each link asks for, by its numbers.
#[derive(Default)]
pub(super) struct Asked {
    links: Table<kind::Link, BTreeMap<PublicationNumber, Publish>>,
    /// What of it is denied.
    denied: BTreeSet<(LinkId, PublicationNumber)>,
}

impl Asked {
    fn add(&mut self, link: LinkId, publish: &Publish, is_granted: bool) {
        if !self.links.contains(link) {
            self.links.insert(link, BTreeMap::new());
        }
        if let Some(asked) = self.links.get_mut(link) {
            asked.insert(publish.number, publish.clone());
        }
        if !is_granted {
            self.denied.insert((link, publish.number));
        }
    }

    /// How many asks a link has.
    pub fn count(&self, link: LinkId) -> usize {
        self.links.get(link).map_or(0, BTreeMap::len)
    }

    /// Whether a link asks for something under this number.
    pub fn has_number(&self, link: LinkId, number: PublicationNumber) -> bool {
        self.get(link, number).is_some()
    }

    fn get(&self, link: LinkId, number: PublicationNumber) -> Option<&Publish> {
        self.links.get(link)?.get(&number)
    }

    /// A link asks for this no more; false if it did not.
    fn remove(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        self.denied.remove(&(link, number));
        self.links.get_mut(link).is_some_and(|asked| asked.remove(&number).is_some())
    }

    /// A link is gone.
    pub fn remove_link(&mut self, link: LinkId) {
        for number in self.links.remove(link).into_iter().flatten().map(|(number, _)| number) {
            self.denied.remove(&(link, number));
        }
    }

    /// What was granted under this number is not any more.
    pub fn withdrawn(&mut self, link: LinkId, number: PublicationNumber) {
        if self.get(link, number).is_some() {
            self.denied.insert((link, number));
        }
    }
}

/// One step with what clients ask for: it borrows what it works on.
pub(super) struct Publishing<'s> {
    pub matching: &'s mut Matching,
    pub listeners: &'s Listeners,
    pub asked: &'s mut Asked,
    pub agenda: &'s mut Agenda,
}

impl Publishing<'_> {
    /// A client would serve something.
    pub fn publish(&mut self, link: LinkId, publish: &Publish) {
        let answer = self.grant(link, publish);
        match answer {
            Ok(_) => self.asked.add(link, publish, true),
            // What another reload or client may change.
            Err(Denial::UnknownService | Denial::Policy | Denial::PortTaken) => {
                self.asked.add(link, publish, false);
            }
            Err(_) => {}
        }
        self.answer(link, publish, answer);
    }

    /// A client may not have what it asks for, which is not remembered.
    pub fn deny(&mut self, link: LinkId, publish: &Publish, reason: Denial) {
        self.answer(link, publish, Err(reason));
    }

    /// Tells a client what became of what it asked for.
    fn answer(&mut self, link: LinkId, publish: &Publish, answer: Result<Vec<SocketAddr>, Denial>) {
        let Some(it) = self.matching.sending.links.get(link) else { return };
        let (id, key) = (it.control, it.key().clone());
        let (number, service) = (publish.number, publish.name.clone());
        let frame = match answer {
            Ok(addresses) => {
                self.agenda.fact(Fact::Published { link: id, key, service });
                granted(number, &addresses)
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
        let limits = &self.agenda.limits;
        if self.asked.get(link, publish.number).is_none()
            && self.asked.count(link) >= limits.publications_per_client_max
        {
            return Err(Denial::Limit);
        }
        if publish.want != Want::Service || publish.transports == Transports::Udp {
            return Err(Denial::Policy);
        }
        let dial_ms = publish.dial_time.min(limits.local_dial_max).as_millis() as u32;
        let services = &mut self.matching.services;
        let service = services.id(&publish.name).ok_or(Denial::UnknownService)?;
        services.publish(link, publish.number, service, dial_ms).map_err(|error| match error {
            Unpublishable::UnknownService => Denial::UnknownService,
            Unpublishable::AlreadyPublished => Denial::AlreadyPublished,
        })?;
        Ok(self.listeners.addresses(service))
    }

    /// A client serves what it published under this number no more, and asks for it no more; false if it did not.
    pub fn unpublish(&mut self, link: LinkId, number: PublicationNumber) -> bool {
        self.matching.unpublish(link, number, self.agenda);
        self.asked.remove(link, number)
    }

    /// A service is gone: what clients published of it is withdrawn.
    pub fn remove_service(&mut self, service: ServiceId) {
        for it in self.matching.remove_service(service, self.agenda) {
            self.asked.withdrawn(it.link, it.number);
        }
    }

    /// Something changed: what was denied is granted where it may be now.
    pub fn grant_denied(&mut self) {
        for (link, number) in std::mem::take(&mut self.asked.denied) {
            let Some(publish) = self.asked.get(link, number).cloned() else { continue };
            match self.grant(link, &publish) {
                Ok(addresses) => self.answer(link, &publish, Ok(addresses)),
                Err(_) => drop(self.asked.denied.insert((link, number))),
            }
        }
    }

    /// The users of a service connect elsewhere now: its clients are told.
    pub fn moved(&mut self, service: ServiceId) {
        let addresses = self.listeners.addresses(service);
        for it in self.matching.services.publications_of(service) {
            if let Some(link) = self.matching.sending.links.get(it.link) {
                self.agenda.push(Output::Send { id: link.control, frame: granted(it.number, &addresses) });
            }
        }
    }
}

fn granted(number: PublicationNumber, addresses: &[SocketAddr]) -> ControlFrame {
    let address = |it: &SocketAddr| GrantedAddress { ip: it.ip(), ports: Ports::one(it.port()) };
    ControlFrame::Granted { number, addresses: addresses.iter().map(address).collect() }
}
