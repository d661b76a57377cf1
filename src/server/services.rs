//! Services, the publications by which links serve them, and the users who wait: which link may serve which user.
//!
//! A user needs a link that publishes its service and has an idle message connection; an idle message connection
//! needs a user of a service that its link publishes. Neither side walks over the other. A service lists the
//! publications that may be *ready* (the link may have an idle connection), and a link lists the publications that may
//! be *wanted* (users of the service may wait). An entry that turns out not to be true is dropped where it is met, and
//! listed again when it may have become true. So each entry is paid for by the event that listed it.

mod publication;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;

use super::queue::{Queue, Turn};
use super::refused::{Refused, Standing};
use crate::base::address::Origin;
use crate::base::id::{ConnId, LinkId, PublicationId, ServiceId, kind};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::base::slots::Slots;
use crate::base::table::Table;
use crate::config::limits::Limits;
use publication::{Offers, drop_stale};
pub(super) use publication::{Publication, Readiness, Unpublishable};

/// Publications that are looked at for one with an idle connection, before one without is taken.
pub(super) const LOOKED_AT_MAX: usize = 8;

/// A service: where its users connect, and who serves them.
struct Service {
    name: Name,
    /// The ports that a client asked for; `None` if the server declares the service.
    ports: Option<Ports>,
    /// By age, so that each has a next one.
    publications: BTreeSet<PublicationId>,
    /// Those that may be ready, each in turn.
    ready: VecDeque<PublicationId>,
    /// Those that their links do not list as wanted.
    unwanted: VecDeque<PublicationId>,
    waiting: Queue,
    /// The publication that was last asked for one more connection.
    asked: Option<PublicationId>,
    /// How many of its publications serve users that come.
    serving: usize,
}

/// Where a user waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Service(ServiceId),
    Link(LinkId),
}

/// All services; see the module.
#[derive(Default)]
pub(super) struct Services {
    services: Slots<kind::Service, Service>,
    names: HashMap<Name, ServiceId>,
    publications: Slots<kind::Publication, Publication>,
    offers: Table<kind::Link, Offers>,
    waiting: Table<kind::Connection, (Place, Turn)>,
    /// Services whose users wait, by how many do.
    by_waiting: BTreeSet<(usize, ServiceId)>,
    /// Services that somebody serves now, or nobody serves any more.
    turned: Vec<ServiceId>,
}

impl Services {
    // Services and publications.

    /// Adds a service that the server declares; `None` if there are as many as can be named.
    pub fn add(&mut self, name: &Name) -> Option<ServiceId> {
        let id = self.add_exposed(name)?;
        self.names.insert(name.clone(), id);
        Some(id)
    }

    /// Adds a service for ports that a client asks for: no other client can name it.
    pub fn add_exposed(&mut self, name: &Name) -> Option<ServiceId> {
        let service = Service {
            name: name.clone(),
            ports: None,
            publications: BTreeSet::new(),
            ready: VecDeque::new(),
            unwanted: VecDeque::new(),
            waiting: Queue::default(),
            asked: None,
            serving: 0,
        };
        self.services.insert(service).ok()
    }

    /// Sessions of a service say how far behind the first of these ports their users came.
    pub fn set_ports(&mut self, id: ServiceId, ports: Ports) {
        if let Some(service) = self.services.get_mut(id) {
            service.ports = Some(ports);
        }
    }

    /// Forgets a service; returns what links published of it. No user may wait for it.
    pub fn remove(&mut self, id: ServiceId) -> Vec<Publication> {
        let Some(service) = self.services.remove(id) else { return Vec::new() };
        debug_assert!(service.waiting.is_empty(), "its users have left");
        if self.names.get(&service.name) == Some(&id) {
            self.names.remove(&service.name);
        }
        let mut withdrawn = Vec::new();
        for publication in service.publications {
            let Some(it) = self.publications.remove(publication) else { continue };
            withdrawn.push(it);
            if let Some(offers) = self.offers.get_mut(it.link) {
                offers.forget(&it, &self.publications);
            }
        }
        withdrawn
    }

    /// The service of this name.
    pub fn id(&self, name: &Name) -> Option<ServiceId> {
        self.names.get(name).copied()
    }

    pub fn name(&self, id: ServiceId) -> Option<&Name> {
        self.services.get(id).map(|service| &service.name)
    }

    /// The services of this slot and of those behind it, and their names.
    pub fn iter_from(&self, slot: u32) -> impl Iterator<Item = (ServiceId, &Name)> {
        self.services.iter_from(slot).map(|(id, service)| (id, &service.name))
    }

    pub fn add_link(&mut self, link: LinkId) {
        self.offers.insert(link, Offers::default());
    }

    /// A link offers to serve a service.
    pub fn publish(
        &mut self,
        link: LinkId,
        number: u32,
        id: ServiceId,
        dial_ms: u32,
    ) -> Result<(), Unpublishable> {
        let (Some(service), Some(offers)) = (self.services.get_mut(id), self.offers.get_mut(link)) else {
            return Err(Unpublishable::UnknownService);
        };
        if offers.publications.contains_key(&id) || offers.numbers.contains_key(&number) {
            return Err(Unpublishable::AlreadyPublished);
        }
        let (serving, ports) = (!offers.drains, service.ports);
        let publication = Publication { link, service: id, number, dial_ms, serving, ports, is_used: false };
        let Ok(publication) = self.publications.insert(publication) else {
            return Err(Unpublishable::UnknownService);
        };
        offers.publications.insert(id, publication);
        offers.numbers.insert(number, publication);
        offers.unready.push_back(publication);
        service.publications.insert(publication);
        if serving {
            count_serving(service, id, 1, &mut self.turned);
        }
        if !service.waiting.is_empty() {
            offers.wanted.push_back(publication);
        } else {
            service.unwanted.push_back(publication);
        }
        Ok(())
    }

    /// A link no longer serves what it published under this number; false if it did not.
    pub fn unpublish(&mut self, link: LinkId, number: u32) -> bool {
        let Some((id, _)) = self.numbered(link, number) else { return false };
        if let Some(it) = self.withdraw(id)
            && let Some(offers) = self.offers.get_mut(link)
        {
            offers.forget(&it, &self.publications);
        }
        true
    }

    /// Forgets a link and its publications; returns the users who waited for it alone.
    pub fn remove_link(&mut self, link: LinkId) -> Vec<ConnId> {
        let users = self.take_waiting(link);
        let Some(offers) = self.offers.remove(link) else { return users };
        for id in offers.numbers.into_values() {
            self.withdraw(id);
        }
        users
    }

    /// What a link publishes.
    pub fn publications_on(&self, link: LinkId) -> impl Iterator<Item = PublicationId> {
        self.offers.get(link).into_iter().flat_map(|offers| offers.numbers.values().copied())
    }

    /// The client of a link is leaving: it serves no user that comes.
    pub fn drain_link(&mut self, link: LinkId) {
        let Some(offers) = self.offers.get_mut(link) else { return };
        offers.drains = true;
        for (&id, &publication) in offers.publications.iter() {
            if let Some(it) = self.publications.get_mut(publication)
                && std::mem::replace(&mut it.serving, false)
                && let Some(service) = self.services.get_mut(id)
            {
                count_serving(service, id, -1, &mut self.turned);
            }
        }
    }

    /// Whether somebody serves the users of a service that come.
    pub fn is_served(&self, id: ServiceId) -> bool {
        self.services.get(id).is_some_and(|service| service.serving > 0)
    }

    /// A service that somebody serves now, or nobody serves any more.
    pub fn next_turned(&mut self) -> Option<ServiceId> {
        self.turned.pop()
    }

    /// The users who wait for a link alone; they no longer do.
    pub fn take_waiting(&mut self, link: LinkId) -> Vec<ConnId> {
        let mut users = Vec::new();
        let Some(offers) = self.offers.get_mut(link) else { return users };
        while let Some(user) = offers.waiting.pop() {
            self.waiting.remove(user);
            users.push(user);
        }
        users
    }

    fn withdraw(&mut self, id: PublicationId) -> Option<Publication> {
        let publication = self.publications.remove(id)?;
        if let Some(service) = self.services.get_mut(publication.service) {
            service.publications.remove(&id);
            if publication.serving {
                count_serving(service, publication.service, -1, &mut self.turned);
            }
            let (live, publications) = (service.publications.len(), &self.publications);
            drop_stale(&mut service.ready, live, publications);
            drop_stale(&mut service.unwanted, live, publications);
        }
        Some(publication)
    }

    pub fn publication_mut(&mut self, id: PublicationId) -> Option<&mut Publication> {
        self.publications.get_mut(id)
    }

    pub fn publication(&self, id: PublicationId) -> Option<&Publication> {
        self.publications.get(id)
    }

    /// What a link publishes under this number, and of which service.
    pub fn numbered(&self, link: LinkId, number: u32) -> Option<(PublicationId, ServiceId)> {
        let id = *self.offers.get(link)?.numbers.get(&number)?;
        self.publications.get(id).map(|it| (id, it.service))
    }

    /// The publications of a service.
    pub fn publication_ids(&self, service: ServiceId) -> impl Iterator<Item = PublicationId> {
        self.publications_behind(service, None)
    }

    /// The same, and what they are.
    pub fn publications_of(&self, service: ServiceId) -> impl Iterator<Item = &Publication> {
        self.publication_ids(service).filter_map(|id| self.publications.get(id))
    }

    /// The publications of a service behind this one, or all.
    pub fn publications_behind(
        &self,
        service: ServiceId,
        last: Option<PublicationId>,
    ) -> impl Iterator<Item = PublicationId> {
        let behind = (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let service = self.services.get(service).into_iter();
        service.flat_map(move |service| service.publications.range(behind)).copied()
    }

    /// The publication by which a link serves a service.
    pub fn publication_of(&self, link: LinkId, service: ServiceId) -> Option<PublicationId> {
        self.offers.get(link)?.publications.get(&service).copied()
    }

    // A user looks for a link.

    /// A publication of a service whose link is ready, each in turn; a failing one only if no other is near.
    pub fn next_ready(
        &mut self,
        service: ServiceId,
        mut readiness: impl FnMut(LinkId) -> Readiness,
    ) -> Option<PublicationId> {
        let service = self.services.get_mut(service)?;
        let (mut failing, mut looked_at) = (None, 0);
        while let Some(id) = service.ready.pop_front() {
            let Some(publication) = self.publications.get(id) else { continue };
            match readiness(publication.link) {
                Readiness::Ready => {
                    service.ready.push_back(id);
                    return Some(id);
                }
                Readiness::Failing => {
                    service.ready.push_back(id);
                    looked_at += 1;
                    if failing == Some(id) || looked_at == LOOKED_AT_MAX {
                        break;
                    }
                    failing = failing.or(Some(id));
                }
                Readiness::Not => {
                    if let Some(offers) = self.offers.get_mut(publication.link) {
                        offers.unready.push_back(id);
                    }
                }
            }
        }
        failing
    }

    /// A link has an idle connection: its services list it.
    pub fn became_ready(&mut self, link: LinkId) {
        let Some(offers) = self.offers.get_mut(link) else { return };
        for id in offers.unready.drain(..) {
            let service = self.publications.get(id).and_then(|it| self.services.get_mut(it.service));
            if let Some(service) = service {
                service.ready.push_back(id);
            }
        }
    }

    /// The publication to which a user goes that was refused, which is noted; see [`Refused`]. A link that `may_serve`
    /// denies is left out.
    pub fn next_after(
        &self,
        service: ServiceId,
        refused: &mut Refused,
        may_serve: impl Fn(LinkId) -> bool,
        standing: impl Fn(LinkId) -> Standing,
    ) -> Option<PublicationId> {
        let publications = &self.services.get(service)?.publications;
        let link = |id| self.publications.get(id).map(|it| it.link).filter(|&link| may_serve(link));
        refused.next(publications, link, standing)
    }

    /// The link that is asked for one more connection because a user of this service waits.
    pub fn next_to_ask(&mut self, id: ServiceId, may_serve: impl Fn(LinkId) -> bool) -> Option<LinkId> {
        let service = self.services.get_mut(id)?;
        for _ in 0..LOOKED_AT_MAX {
            let behind = service.asked.and_then(|asked| {
                service.publications.range((Bound::Excluded(asked), Bound::Unbounded)).next()
            });
            let next = *behind.or(service.publications.first())?;
            service.asked = Some(next);
            let link = self.publications.get(next).map(|publication| publication.link);
            if let Some(link) = link.filter(|&link| may_serve(link)) {
                return Some(link);
            }
        }
        None
    }

    // Users who wait.

    /// A user of this address waits for any link that serves its service; `first` if it has waited longest.
    pub fn wait(&mut self, user: ConnId, origin: Option<Origin>, id: ServiceId, first: bool) {
        let Some(service) = self.services.get_mut(id) else { return };
        let turn = service.waiting.push(user, origin, first);
        self.waiting.insert(user, (Place::Service(id), turn));
        note_waiting(&mut self.by_waiting, id, service.waiting.len() - 1, service.waiting.len());
        for id in service.unwanted.drain(..) {
            let offers = self.publications.get(id).and_then(|it| self.offers.get_mut(it.link));
            if let Some(offers) = offers {
                offers.wanted.push_back(id);
            }
        }
    }

    /// A user of this address waits for this link alone; `first` if it has waited longest.
    pub fn wait_for_link(&mut self, user: ConnId, origin: Option<Origin>, link: LinkId, first: bool) {
        if let Some(offers) = self.offers.get_mut(link) {
            let turn = offers.waiting.push(user, origin, first);
            self.waiting.insert(user, (Place::Link(link), turn));
        }
    }

    /// A user no longer waits; false if it did not.
    pub fn stop_waiting(&mut self, user: ConnId) -> bool {
        let Some((place, turn)) = self.waiting.remove(user) else { return false };
        match place {
            Place::Service(id) => {
                if let Some(service) = self.services.get_mut(id) {
                    note_waiting(&mut self.by_waiting, id, service.waiting.len(), service.waiting.len() - 1);
                    service.waiting.leave(turn);
                }
            }
            Place::Link(link) => {
                if let Some(offers) = self.offers.get_mut(link) {
                    offers.waiting.leave(turn);
                }
            }
        }
        true
    }

    /// The user that makes room for one of this address and service when all places are taken: the last of the service
    /// that has most of them, if it has more than it is sure of, and more than the one that asks. Within that service,
    /// it makes room for whoever would be served before it.
    pub fn must_make_room(&self, asks: ServiceId, origin: Option<Origin>, limits: &Limits) -> Option<ConnId> {
        let &(most, id) = self.by_waiting.last()?;
        let own = &self.services.get(asks)?.waiting;
        if own.len() >= most {
            return own.behind(origin);
        }
        if most <= limits.waiting_sure_of(self.services.len()) {
            return None;
        }
        self.services.get(id)?.waiting.last()
    }

    /// The link for whose connections a user waits: the one that was asked last, where several may serve it.
    pub fn awaited(&self, user: ConnId) -> Option<LinkId> {
        match self.waiting.get(user)?.0 {
            Place::Link(link) => Some(link),
            Place::Service(id) => self.publications.get(self.services.get(id)?.asked?).map(|it| it.link),
        }
    }

    /// Whether a user waits.
    pub fn is_waiting(&self, user: ConnId) -> bool {
        self.waiting.get(user).is_some()
    }

    /// How many users wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a link may have users to serve.
    pub fn is_wanted(&mut self, link: LinkId) -> bool {
        let Some(offers) = self.offers.get_mut(link) else { return false };
        while offers.wanted.front().is_some_and(|&id| self.publications.get(id).is_none()) {
            offers.wanted.pop_front();
        }
        !offers.waiting.is_empty() || !offers.wanted.is_empty()
    }

    /// The user that a link serves next, which no longer waits: one of its `own` first, and perhaps only, then one of
    /// each service in turn.
    pub fn next_user(&mut self, link: LinkId, own: bool) -> Option<ConnId> {
        let offers = self.offers.get_mut(link)?;
        if let Some(user) = offers.waiting.pop() {
            self.waiting.remove(user);
            return Some(user);
        }
        if own {
            return None;
        }
        while let Some(id) = offers.wanted.pop_front() {
            let Some(publication) = self.publications.get(id) else { continue };
            let Some(service) = self.services.get_mut(publication.service) else { continue };
            match service.waiting.pop() {
                Some(user) => {
                    let count = service.waiting.len();
                    note_waiting(&mut self.by_waiting, publication.service, count + 1, count);
                    self.waiting.remove(user);
                    offers.wanted.push_back(id);
                    return Some(user);
                }
                None => service.unwanted.push_back(id),
            }
        }
        None
    }
}

/// One more publication of a service serves users that come, or one less.
fn count_serving(service: &mut Service, id: ServiceId, by: isize, turned: &mut Vec<ServiceId>) {
    let before = service.serving;
    service.serving = before.saturating_add_signed(by);
    if (before == 0) != (service.serving == 0) {
        turned.push(id);
    }
}

/// Notes how many users of a service wait now.
fn note_waiting(by_waiting: &mut BTreeSet<(usize, ServiceId)>, id: ServiceId, before: usize, now: usize) {
    by_waiting.remove(&(before, id));
    if now > 0 {
        by_waiting.insert((now, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    const DIAL: u32 = 5_000;

    fn user(slot: u32) -> ConnId {
        ConnId::new(slot, 1).expect("it can be named")
    }

    fn link(slot: u32) -> LinkId {
        LinkId::new(slot, 1).expect("it can be named")
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    /// Two services, `a` and `b`, and as many links that publish both.
    fn two_services(links: u32) -> (Services, [ServiceId; 2]) {
        let mut services = Services::default();
        let ids = ["a", "b"].map(|text| services.add(&name(text)).expect("there is room"));
        for slot in 0..links {
            services.add_link(link(slot));
            for (number, id) in [(1, ids[0]), (2, ids[1])] {
                services.publish(link(slot), number, id, DIAL).expect("it is known");
            }
        }
        (services, ids)
    }

    fn links(services: &Services, ids: &[Option<PublicationId>]) -> Vec<u32> {
        let link =
            |id: &Option<PublicationId>| id.and_then(|id| services.publication(id)).map(|it| it.link.slot());
        ids.iter().filter_map(link).collect()
    }

    fn ready(_: LinkId) -> Readiness {
        Readiness::Ready
    }

    #[test]
    fn a_link_that_is_failing_goes_behind_the_others() {
        let (mut services, [a, _]) = two_services(3);
        (0..3).for_each(|slot| services.became_ready(link(slot)));
        let but = |good: LinkId| move |it| if it == good { Readiness::Ready } else { Readiness::Failing };
        let found: Vec<_> = (0..3).map(|_| services.next_ready(a, but(link(2)))).collect();
        assert_eq!(links(&services, &found), [2, 2, 2]);
        let found: Vec<_> = (0..9).map(|_| services.next_ready(a, |_| Readiness::Failing)).collect();
        assert_eq!(links(&services, &found).len(), 9, "one that is failing is better than none");
    }

    #[test]
    fn ready_links_are_used_in_turn_and_others_not_at_all() {
        let (mut services, [a, _]) = two_services(3);
        assert!(services.next_ready(a, ready).is_none(), "no link has said that it is ready");
        (0..3).for_each(|slot| services.became_ready(link(slot)));
        let found: Vec<_> = (0..4)
            .map(|_| {
                services.next_ready(a, |it| if it == link(1) { Readiness::Not } else { Readiness::Ready })
            })
            .collect();
        assert_eq!(links(&services, &found), [0, 2, 0, 2]);
    }

    #[test]
    fn a_link_that_was_not_ready_is_asked_again_once_it_is() {
        let (mut services, [a, _]) = two_services(1);
        services.became_ready(link(0));
        assert!(services.next_ready(a, |_| Readiness::Not).is_none());
        assert!(services.next_ready(a, ready).is_none(), "it is no longer listed");
        services.became_ready(link(0));
        assert!(services.next_ready(a, ready).is_some());
    }

    #[test]
    fn a_link_serves_its_own_users_first_and_then_each_service_in_turn() {
        let (mut services, [a, b]) = two_services(2);
        [1, 2].into_iter().for_each(|slot| services.wait(user(slot), None, a, false));
        services.wait(user(3), None, b, false);
        services.wait_for_link(user(4), None, link(0), false);
        assert_eq!(
            services.next_user(link(1), false),
            Some(user(1)),
            "users of the other link are not its own"
        );
        let next: Vec<_> = std::iter::from_fn(|| services.next_user(link(0), false)).collect();
        assert_eq!(next, [user(4), user(2), user(3)]);
        assert_eq!(services.waiting_count(), 0);
        // A service without waiting users is listed again when one comes.
        services.wait(user(5), None, a, false);
        assert_eq!(services.next_user(link(0), false), Some(user(5)));
    }

    #[test]
    fn a_user_that_leaves_is_passed_over() {
        let (mut services, [a, _]) = two_services(1);
        (1..100).for_each(|slot| services.wait(user(slot), None, a, false));
        (1..99).for_each(|slot| {
            assert!(services.stop_waiting(user(slot)) && !services.stop_waiting(user(slot)))
        });
        assert_eq!(
            (services.next_user(link(0), false), services.next_user(link(0), false)),
            (Some(user(99)), None)
        );
    }

    #[test]
    fn a_refused_user_goes_once_to_each_link() {
        let (services, [a, _]) = two_services(3);
        let of = |slot| services.publication_of(link(slot), a).expect("it publishes it");
        let walk = |standing: fn(LinkId) -> Standing| {
            let mut refused = Refused::by(of(1));
            let next = || services.next_after(a, &mut refused, |_| true, standing);
            let passed: Vec<_> = iter::from_fn(next).map(Some).collect();
            links(&services, &passed)
        };
        use Standing::{Busy, Failing, Ready};
        assert_eq!(walk(|_| Busy), [0, 2]);
        assert_eq!(walk(|_| Ready), [0, 2]);
        assert_eq!(walk(|it| if it == link(0) { Ready } else { Busy }), [0, 2]);
        assert_eq!(walk(|it| if it == link(0) { Failing } else { Busy })[..2], [2, 0]);
        assert_eq!(
            walk(|it| if it == link(2) { Ready } else { Busy }),
            [2, 0, 2],
            "a ready one is preferred, and then nobody is passed over"
        );
    }

    #[test]
    fn what_is_published_meanwhile_does_not_keep_a_refused_user_from_an_older_link() {
        let (mut services, [a, _]) = two_services(2);
        let first = services.publication_of(link(1), a).expect("it publishes it");
        for number in 10..20 {
            let before = services.publication_of(link(1), a).and_then(|it| services.publication(it)).copied();
            services.unpublish(link(1), before.expect("it publishes it").number);
            services.publish(link(1), number, a, DIAL).expect("it may");
            let next = services.next_after(a, &mut Refused::by(first), |_| true, |_| Standing::Busy);
            assert_eq!(links(&services, &[next]), [0]);
        }
    }

    #[test]
    fn what_a_link_published_goes_with_it_and_its_own_users_are_told() {
        let (mut services, [a, b]) = two_services(2);
        services.became_ready(link(0));
        services.wait_for_link(user(1), None, link(0), false);
        services.wait(user(2), None, a, false);
        assert_eq!(services.remove_link(link(0)), [user(1)]);
        assert!(services.next_ready(a, ready).is_none() && services.next_ready(b, ready).is_none());
        assert_eq!(services.next_user(link(1), false), Some(user(2)));
    }

    #[test]
    fn a_service_is_published_once_by_a_link_and_under_a_new_number() {
        let (mut services, [a, b]) = two_services(1);
        let refused = Err(Unpublishable::AlreadyPublished);
        assert_eq!(services.publish(link(0), 3, a, DIAL), refused);
        assert!(services.unpublish(link(0), 1) && !services.unpublish(link(0), 1));
        assert_eq!(services.publish(link(0), 2, a, DIAL), refused, "the number is taken");
        assert!(services.publish(link(0), 3, a, DIAL).is_ok());
        assert_eq!(services.remove(b).iter().map(|it| it.number).collect::<Vec<_>>(), [2]);
        assert_eq!(services.publish(link(0), 4, b, DIAL), Err(Unpublishable::UnknownService));
        assert_eq!((services.id(&name("b")), services.remove(b).len()), (None, 0));
    }
}
