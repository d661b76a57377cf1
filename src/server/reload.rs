//! From one configuration to the next, while the server runs: all of it or nothing.
//!
//! It begins when no ports are being opened that clients asked for, and what they ask for meanwhile is decided
//! afterwards: nothing is granted that would be withdrawn at once.
//!
//! 1. Listeners that are new are opened, and give nobody away: who connects waits in their queues.
//! 2. Where one of them overlaps one that is to go (`*:443` becomes `127.0.0.1:443`), that one is suspended for it,
//!    once all others are there.
//! 3. If some cannot be had, the new ones are closed and the suspended ones listen again: nothing has changed.
//! 4. Else everything changes in one step. A place that one service had and another gets changes hands as it is.
//!
//! What clients serve on ports that they asked for stays, as far as policies allow it; at other addresses, if these are
//! the ones that they allow. Where one of them is in the way of a service, that one gets the port. Listeners that are
//! in the way, or at addresses that go, are lent to the reload, and change hands or are closed.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::clients::Clients;
use super::exposed::{Exposing, Lent, give};
use super::listeners::{Listeners, Use};
use super::services::Services;
use crate::base::address::Listen;
use crate::base::id::{ListenerId, ServiceId};
use crate::base::name::Name;
use crate::base::sorted::Set;
use crate::config::ServerConfig;
use crate::config::difference::{Difference, NeedsRestart};
use crate::machine::{Agenda, CannotListen, Fact, Output, ReloadFault};

/// A configuration that is to hold, and where it comes from.
pub(super) struct Request {
    pub config: Arc<ServerConfig>,
    pub source: Arc<str>,
}

/// For whose users a listener is to be.
#[derive(Clone)]
enum Whose {
    /// Those of a service that the configuration declares.
    Declared(Name),
    /// Those of ports that a client has asked for.
    Granted(ServiceId),
}

/// A configuration whose listeners are being opened.
pub(super) struct Reload {
    request: Request,
    difference: Difference,
    /// Whose users each listener is for, where that is another service than before.
    uses: Vec<(Whose, ListenerId)>,
    /// Listeners that are for nobody then.
    closing: Vec<ListenerId>,
    /// Those that are new.
    opened: Vec<ListenerId>,
    /// Those of them that were asked for, and have not answered.
    awaited: Set<ListenerId>,
    /// Those that cannot be had.
    failed: Vec<CannotListen>,
    /// Those of them that are asked for at the end, and what they overlap.
    late: Vec<(ListenerId, Listen)>,
    overlapped: Set<ListenerId>,
    /// What was suspended for them, and whom it served.
    suspended: Vec<(ListenerId, Use)>,
    /// Listeners of ports that clients asked for and that are for others then, or for nobody.
    lent: Lent,
}

/// How far a reload has come.
#[derive(Debug)]
pub(super) enum Progress {
    /// Some listeners have not answered.
    Waits,
    /// All are there.
    Ready,
    /// Some cannot be had.
    Failed(ReloadFault),
}

impl Reload {
    /// Asks for the listeners of the configuration that comes after this one.
    pub fn begin(
        before: &ServerConfig,
        request: Request,
        exposing: &mut Exposing<'_>,
    ) -> Result<Reload, NeedsRestart> {
        let difference = Difference::between(before, &request.config)?;
        let mut reload = Reload {
            request,
            difference,
            uses: Vec::new(),
            closing: Vec::new(),
            opened: Vec::new(),
            awaited: Set::default(),
            failed: Vec::new(),
            late: Vec::new(),
            overlapped: Set::default(),
            suspended: Vec::new(),
            lent: Lent::default(),
        };
        reload.lent = Lent::to(&reload.request.config, exposing);
        let new = reload.place(&exposing.matching.services, exposing.listeners);
        reload.open(new, exposing.listeners, exposing.agenda);
        Ok(reload)
    }

    /// Finds out which listeners stay, change hands and go; returns the places where there is none.
    fn place(&mut self, services: &Services, listeners: &Listeners) -> Vec<(Whose, Listen)> {
        let Difference { services: changes, .. } = &self.difference;
        let its = |name: &Name| services.id(name).map_or(&[][..], |id| listeners.of_service(id));
        let at = |id: ListenerId| listeners.get(id).map(|listener| listener.at);
        let mut free: Vec<ListenerId> = changes.removed.iter().flat_map(its).copied().collect();
        free.extend(self.lent.listeners());
        let touched: HashSet<&Name> = changes.added.iter().chain(&changes.changed).collect();
        let mut wanted = Vec::new();
        for service in self.request.config.services.iter().filter(|it| touched.contains(&it.name)) {
            let mut own = its(&service.name).to_vec();
            for &place in &service.listen {
                match own.iter().position(|&id| at(id) == Some(place)) {
                    Some(found) => drop(own.swap_remove(found)),
                    None => wanted.push((Whose::Declared(service.name.clone()), place)),
                }
            }
            free.extend(own);
        }
        // Port 0 is another one each time.
        let placed = free.iter().filter_map(|&id| Some((id, at(id)?))).filter(|it| it.1.port() != 0);
        let mut free_at = by_port(placed);
        let mut taken = Set::default();
        let uses = &mut self.uses;
        wanted.retain(|(whose, place)| {
            let near = free_at.get_mut(&place.port());
            let found = near.and_then(|near| {
                let found = near.iter().rposition(|it| it.1 == *place)?;
                Some(near.remove(found).0)
            });
            uses.extend(found.map(|id| (whose.clone(), id)));
            taken.extend(found);
            found.is_none()
        });
        wanted.extend(self.lent.wanted().map(|(service, at)| (Whose::Granted(service), at)));
        self.closing = free.into_iter().filter(|id| !taken.contains(id)).collect();
        wanted
    }

    fn open(&mut self, new: Vec<(Whose, Listen)>, listeners: &mut Listeners, agenda: &mut Agenda) {
        let placed = self.closing.iter().filter_map(|&id| Some((id, listeners.get(id)?.place())));
        let closing = by_port(placed);
        for (whose, at) in new {
            let Some(id) = listeners.add(Use::Nobody, at) else { continue };
            self.opened.push(id);
            self.uses.push((whose, id));
            let near = closing.get(&at.port()).into_iter().flatten();
            let overlapped: Vec<ListenerId> = near.filter(|it| it.1.overlaps(at)).map(|it| it.0).collect();
            if overlapped.is_empty() {
                self.ask(id, at, agenda);
            } else {
                self.overlapped.extend(overlapped);
                self.late.push((id, at));
            }
        }
    }

    fn ask(&mut self, id: ListenerId, at: Listen, agenda: &mut Agenda) {
        self.awaited.insert(id);
        agenda.push(Output::Listen { id, at, door: Use::Nobody.door() });
    }

    /// A listener has answered; returns whether it waited for that one.
    pub fn heard(&mut self, id: ListenerId, outcome: Result<(), &io::Error>, listeners: &Listeners) -> bool {
        let is_awaited = self.awaited.remove(&id);
        if let (true, Err(error), Some(listener)) = (is_awaited, outcome, listeners.get(id)) {
            let service = self.uses.iter().find(|it| it.1 == id).and_then(|(whose, _)| match whose {
                Whose::Declared(name) => Some(name.clone()),
                Whose::Granted(_) => None,
            });
            self.failed.push(CannotListen { service, at: listener.at, fault: error.into() });
        }
        is_awaited
    }

    /// Goes on, if nothing is waited for.
    pub fn go_on(&mut self, listeners: &mut Listeners, agenda: &mut Agenda) -> Progress {
        if self.awaited.is_empty() && !self.failed.is_empty() {
            return Progress::Failed(ReloadFault::Listen(std::mem::take(&mut self.failed)));
        }
        if self.awaited.is_empty() && !self.late.is_empty() {
            for id in std::mem::take(&mut self.overlapped) {
                let Some(serves) = listeners.get(id).map(|listener| listener.serves) else { continue };
                listeners.suspend(id, agenda);
                listeners.set_use(id, Use::Nobody, agenda);
                self.suspended.push((id, serves));
            }
            for (id, at) in std::mem::take(&mut self.late) {
                self.ask(id, at, agenda);
            }
        }
        if self.awaited.is_empty() { Progress::Ready } else { Progress::Waits }
    }

    /// Nothing is to change: all is as it was. Returns what people are told, and the services whose listeners were
    /// suspended meanwhile.
    pub fn give_up(self, fault: ReloadFault, exposing: &mut Exposing<'_>) -> Vec<ServiceId> {
        let Exposing { listeners, agenda, .. } = exposing;
        for id in self.opened {
            listeners.close(id, agenda);
        }
        let mut services = Vec::new();
        for (id, serves) in self.suspended {
            listeners.set_use(id, serves, agenda);
            if let Use::Users(service) = serves {
                services.push(service);
            }
        }
        self.lent.give_back(exposing);
        exposing.agenda.fact(Fact::ReloadRefused { source: self.request.source, fault });
        services
    }

    /// Everything changes, now.
    pub fn swap(self, clients: &mut Clients) -> Arc<ServerConfig> {
        let Reload {
            request: Request { config, source }, difference, uses, closing, suspended, lent, ..
        } = self;
        clients.publishing.agenda.limits = Arc::new(config.limits.clone());
        for key in difference.keys.removed.iter().chain(&difference.keys.changed) {
            clients.revoke(key);
        }
        for name in &difference.services.removed {
            if let Some(id) = clients.publishing.matching.services.id(name) {
                clients.publishing.remove_service(id);
            }
        }
        let fresh: HashSet<&Name> = difference.keys.added.iter().chain(&difference.keys.changed).collect();
        for key in config.keys.iter().filter(|key| fresh.contains(&key.name)) {
            let publishing = &mut clients.publishing;
            publishing.matching.sending.add_key(key, config.policies.of(&key.name), publishing.agenda);
        }
        for name in &difference.policies {
            let (matching, agenda) = (&mut clients.publishing.matching, &mut *clients.publishing.agenda);
            let Some(id) = matching.sending.holders.of_name(name) else { continue };
            matching.set_policy(id, config.policies.of(name), agenda);
            clients.judge(id);
        }
        let served = suspended.into_iter().filter_map(|(_, serves)| match serves {
            Use::Users(service) => Some(service),
            _ => None,
        });
        change_services(&config, &difference, uses, (closing, served.collect()), clients);
        for service in lent.end(&mut clients.publishing.exposing()) {
            clients.publishing.moved(service);
        }
        clients.publishing.exposing().configure(&config, clients.clocks);
        clients.publishing.grant_denied();
        let (matching, agenda) = (&mut *clients.publishing.matching, &mut *clients.publishing.agenda);
        matching.sending.limit_users(agenda);
        if difference.options.contains(&"pool") {
            matching.sending.links.ids().into_iter().for_each(|link| matching.sending.want_refill(link));
        }
        agenda.fact(Fact::Reloaded { source, difference: Box::new(difference) });
        config
    }
}

/// Listeners and their places, by port.
fn by_port(all: impl Iterator<Item = (ListenerId, Listen)>) -> HashMap<u16, Vec<(ListenerId, Listen)>> {
    let mut ports: HashMap<_, Vec<_>> = HashMap::new();
    for (id, at) in all {
        ports.entry(at.port()).or_default().push((id, at));
    }
    ports
}

/// Services change, and their listeners: some close, and services may have lost some already that gave way to others.
fn change_services(
    config: &ServerConfig,
    difference: &Difference,
    uses: Vec<(Whose, ListenerId)>,
    (closing, mut moved): (Vec<ListenerId>, Set<ServiceId>),
    clients: &mut Clients,
) {
    let publishing = &mut clients.publishing;
    let [added, changed]: [HashSet<&Name>; 2] =
        [&difference.services.added, &difference.services.changed].map(|names| names.iter().collect());
    for service in &config.services {
        if added.contains(&service.name) {
            publishing.matching.add_service(&service.name, service.rules.clone(), publishing.agenda);
        } else if changed.contains(&service.name) {
            publishing.set_rules(&service.name, service.rules.clone());
        }
    }
    for (whose, listener) in uses {
        match whose {
            Whose::Granted(id) => give(id, listener, &mut publishing.exposing()),
            Whose::Declared(name) => {
                if let Some(id) = publishing.matching.services.id(&name) {
                    publishing.listeners.set_use(listener, Use::Users(id), publishing.agenda);
                    moved.insert(id);
                }
            }
        }
    }
    for id in closing {
        if let Some(Use::Users(service)) = publishing.listeners.get(id).map(|listener| listener.serves) {
            moved.insert(service);
        }
        publishing.listeners.close(id, publishing.agenda);
    }
    let Difference { services, .. } = difference;
    for name in services.added.iter().chain(&services.changed) {
        if let Some(id) = publishing.matching.services.id(name) {
            publishing.open_if_served(id);
        }
    }
    moved.into_iter().for_each(|id| publishing.moved(id));
}
