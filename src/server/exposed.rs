//! Ports that clients ask for.
//!
//! | file | what it owns |
//! |---|---|
//! | [`permitted`] | which ports a key may ask for, and where the search for *any* begins |
//! | [`grants`] | who has which ports |
//! | [`asks`] | what clients ask for, and what became of it |
//! | [`deciding`] | what an ask gets |
//! | [`exposing`] | what is done about it, step by step |
//! | [`lent`] | listeners that grants give up, and get, for a configuration that is to hold |
//!
//! Rules:
//! - ports belong to a key and the name of a publication, whichever client comes with them;
//! - other addresses for the same ports change where it listens, and end no session;
//! - a range is had whole or not at all, and is one service, which nobody else can name;
//! - a client that is lost keeps its ports open for a day, one that leaves keeps them closed for its key;
//! - what was denied is granted, without being asked for again, once nothing is in the way any more.

mod asks;
mod deciding;
mod exposing;
mod grants;
mod lent;
mod permitted;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use crate::base::clocks::Clocks;
use crate::base::id::{AskId, LinkId, ListenerId, ServiceId};
use crate::base::name::Name;
use crate::base::ports::Ports;
use crate::base::sorted::{Map, Set, tree};
use crate::config::limits::Limits;
use crate::config::policy::PortRules;
use crate::config::{Policies, ServerConfig};
use crate::machine::CloseReason;
use crate::server::links::Links;
use crate::server::publishing::Asked;
use crate::wire::control::{Denial, GrantedAddress, PublicationNumber, Publish, Transports};
use asks::Asks;
use deciding::Until;
pub(super) use exposing::Exposing;
use grants::{Grant, Grants, Owner};
pub(super) use lent::{Lent, give};
use permitted::Permitted;

/// Mean time between listeners that a key may open for long.
const OPENED_INTERVAL: Duration = Duration::from_millis(1);
/// How far ahead of that pace it may be: by 10,000 listeners.
const OPENED_AHEAD: Duration = Duration::from_secs(10);

/// What is permitted to whom.
enum Rules {
    Alike(Permitted),
    Each(Map<Name, Permitted>),
}

/// What a configuration says about who may ask for which ports.
struct Rights {
    rules: Rules,
    /// Keys that there are: each is to have room for a link.
    keys: BTreeSet<Name>,
}

impl Rights {
    /// The system takes the ports of its own connections from `local`.
    fn new(config: &ServerConfig, local: Option<Ports>) -> Rights {
        let permitted = |ports: &PortRules| Permitted::new(ports, local);
        let rules = match &config.policies {
            Policies::Alike(ports) => Rules::Alike(permitted(ports)),
            Policies::Each(each) => {
                Rules::Each(each.iter().map(|(key, it)| (key.clone(), permitted(&it.ports))).collect())
            }
        };
        Rights { rules, keys: tree(config.keys.iter().map(|key| key.name.clone())) }
    }

    /// Why a grant ends; `None` if it is permitted.
    fn forbid(&self, grant: &Grant) -> Option<CloseReason> {
        match self.permitted(&grant.owner.key) {
            Some(permitted) if permitted.permits(grant.ports, &grant.places) => None,
            None if !self.keys.contains(&grant.owner.key) => Some(CloseReason::KeyRevoked),
            _ => Some(CloseReason::Policy),
        }
    }

    /// What a key may ask for.
    fn permitted(&self, key: &Name) -> Option<&Permitted> {
        match &self.rules {
            _ if !self.keys.contains(key) => None,
            Rules::Alike(permitted) => Some(permitted),
            Rules::Each(each) => each.get(key),
        }
    }
}

/// When what clients ask for is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    AtOnce,
    /// Another configuration is to hold. What that does not permit would be granted only to be withdrawn.
    AfterReload,
    /// The server ends.
    Never,
}

/// Ports that clients ask for; see the module.
pub(super) struct Exposed {
    rights: Rights,
    /// When keys may do nothing any more, as people say it, and as the machine goes by.
    ends: Vec<(Name, SystemTime)>,
    expiring: Set<(Instant, Name)>,
    /// Ports that the system takes for its own connections.
    local: Option<Ports>,
    grants: Grants,
    asks: Asks,
    /// Listeners of each key, also those that are about to be closed.
    listeners: HashMap<Name, usize>,
    /// Those that were closed before it was known what became of them.
    closing: HashMap<ListenerId, Name>,
    /// When all listeners that a key has opened so far were due, had it kept to its pace.
    paid_until: HashMap<Name, Instant>,
    /// Keys for which no port was free where any would do, and how it stood with free ports then.
    full: HashMap<Name, u64>,
    /// Links that did not answer in time when another client asked for their ports.
    given_up: Vec<LinkId>,
    /// Services without ports on which sessions of clients that leave go on.
    leaving: Vec<ServiceId>,
    decided: Decided,
}

impl Exposed {
    /// Nothing is granted yet. The system takes the ports of its own connections from `local`.
    pub fn new(config: &ServerConfig, local: Option<Ports>, clocks: Clocks) -> Exposed {
        let mut exposed = Exposed {
            rights: Rights::new(config, local),
            ends: Vec::new(),
            expiring: Set::default(),
            local,
            grants: Grants::default(),
            asks: Asks::default(),
            listeners: HashMap::new(),
            closing: HashMap::new(),
            paid_until: HashMap::new(),
            full: HashMap::new(),
            given_up: Vec::new(),
            leaving: Vec::new(),
            decided: Decided::AtOnce,
        };
        exposed.configure(config, clocks);
        exposed
    }

    /// Another configuration says what is permitted, and what the server has itself.
    fn configure(&mut self, config: &ServerConfig, clocks: Clocks) {
        self.rights = Rights::new(config, self.local);
        let places = config.services.iter().flat_map(|service| &service.listen);
        self.ends = match &config.policies {
            Policies::Alike(_) => Vec::new(),
            Policies::Each(each) => {
                each.iter().filter_map(|(key, it)| Some((key.clone(), it.expires?))).collect()
            }
        };
        self.set_clocks(clocks);
        self.grants.set_ours(places.copied().chain([config.message, config.control]));
    }

    /// This is what clocks say now.
    pub fn set_clocks(&mut self, clocks: Clocks) {
        let expiring = self.ends.iter().filter_map(|(key, end)| Some((clocks.when(*end)?, key.clone())));
        self.expiring = expiring.collect();
    }

    /// A key that may do nothing any more.
    fn pop_expired(&mut self, now: Instant) -> Option<Name> {
        let is_due = self.expiring.first().is_some_and(|it| it.0 <= now);
        if is_due { self.expiring.pop_first().map(|it| it.1) } else { None }
    }

    /// An ask is denied. If no port is free for its key where any would do, none is sought until one may be.
    fn note_full(&mut self, id: AskId, until: Until, links: &Links) {
        let link = self.asks.get(id).and_then(|ask| links.get(ask.link));
        let (Some(link), Until::AnyPort) = (link, until) else { return };
        let freed = self.grants.freed();
        self.full.retain(|_, full| *full == freed);
        self.full.insert(link.key().clone(), freed);
    }

    /// Whether it is known that no port is free for a key where any would do.
    fn is_full(&self, key: &Name) -> bool {
        self.full.get(key) == Some(&self.grants.freed())
    }

    /// Why a client may not ask for something, whatever it is; only what links `asked` for besides counts.
    pub fn refusal(&self, link: LinkId, publish: &Publish, asked: &Asked, limits: &Limits) -> Option<Denial> {
        // No number names two things at once, be one of them denied.
        if asked.has_number(link, publish.number) || self.asks.of(link, publish.number).is_some() {
            return Some(Denial::AlreadyPublished);
        }
        if asked.count(link) + self.asks.count(link) >= limits.publications_per_client_max {
            return Some(Denial::Limit);
        }
        (publish.transports == Transports::Udp).then_some(Denial::Policy)
    }

    /// The numbers under which a link asks for ports.
    pub fn numbers(&self, link: LinkId) -> impl Iterator<Item = PublicationNumber> {
        self.asks.of_link(link).into_iter().filter_map(|id| self.asks.get(id)).map(|ask| ask.publish.number)
    }

    /// Why a link does not get what it asks for under this number, as its client was told.
    pub fn denial(&self, link: LinkId, number: PublicationNumber) -> Option<Denial> {
        self.asks.get(self.asks.of(link, number)?)?.told
    }

    /// The grant that has the names of an ask.
    fn owned(&self, id: AskId, links: &Links) -> Option<ServiceId> {
        let ask = self.asks.get(id)?;
        let key = links.get(ask.link)?.key().clone();
        self.grants.of(&Owner { key, publication: ask.publish.name.clone() })
    }

    /// The reason as the client of an ask reads it: where another client has what it asks for, which one.
    fn named(&self, id: AskId, reason: Denial, until: Until, links: &Links) -> Denial {
        let (Denial::AlreadyPublished, Until::Changed(service)) = (reason, until) else { return reason };
        let link = |id: AskId| links.get(self.asks.get(id)?.link);
        let holder = self.grants.get(service).and_then(|grant| link(*grant.members.first()?));
        match (link(id), holder) {
            (Some(link), Some(holder)) if link.capabilities.reads_addresses() => {
                Denial::AlreadyPublishedBy(holder.peer)
            }
            _ => reason,
        }
    }

    /// A link that is to be ended, because it did not answer in time when another client asked for its ports.
    pub fn next_given_up(&mut self) -> Option<LinkId> {
        self.given_up.pop()
    }

    /// Another configuration is to hold, and decides what is asked for from now on.
    pub fn wait_for_a_reload(&mut self) {
        if self.decided != Decided::Never {
            self.decided = Decided::AfterReload;
        }
    }

    /// It is known which configuration holds: all that serve nothing are looked at again.
    pub fn reload_is_over(&mut self) {
        if self.decided != Decided::Never {
            self.decided = Decided::AtOnce;
        }
        self.asks.look_at_all_again();
    }

    /// Whether it is not known yet what becomes of some ports that are to be granted.
    pub fn is_opening(&self) -> bool {
        self.grants.are_opening()
    }

    /// The server ends: nothing is granted any more.
    pub fn stop(&mut self) {
        self.decided = Decided::Never;
    }

    /// Where the users of a grant connect, as its clients are told; the system gave its listeners these addresses.
    pub fn granted(&self, service: ServiceId, addresses: &[SocketAddr]) -> Option<Vec<GrantedAddress>> {
        Some(self.grants.get(service)?.granted(addresses))
    }

    /// Where users of a service connect, as people write it; `None` if it is none of these.
    pub fn addresses(&self, service: ServiceId) -> Option<Vec<String>> {
        let Grant { ports, places, .. } = self.grants.get(service)?;
        let address = |place: &Option<IpAddr>| match place {
            None => format!("*:{ports}"),
            Some(IpAddr::V4(ip)) => format!("{ip}:{ports}"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{ports}"),
        };
        Some(places.iter().map(address).collect())
    }

    /// When something is to be done.
    pub fn next_due(&self) -> Option<Instant> {
        let expires = self.expiring.first().map(|it| it.0);
        let due = [self.asks.next_due(), self.grants.next_due(), expires].into_iter().flatten().min();
        due.filter(|_| self.decided != Decided::Never)
    }

    /// Whether something is to be done in the next turn.
    pub fn has_work(&self) -> bool {
        self.asks.wait_for_a_look() && self.decided == Decided::AtOnce
    }

    /// When a key may open more listeners. One that opens and closes them without end slows the loop down for others.
    fn may_open_at(&self, key: &Name) -> Option<Instant> {
        self.paid_until.get(key)?.checked_sub(OPENED_AHEAD)
    }

    /// A key opens so many listeners.
    fn pay(&mut self, key: &Name, count: usize, now: Instant) {
        self.paid_until.retain(|_, until| *until > now);
        let until = self.paid_until.entry(key.clone()).or_insert(now);
        *until += OPENED_INTERVAL * count as u32;
    }

    /// A key has so many listeners more, or fewer.
    fn count_listeners(&mut self, key: &Name, more: isize) {
        let count = self.listeners.entry(key.clone()).or_default();
        *count = count.saturating_add_signed(more);
        if *count == 0 {
            self.listeners.remove(key);
        }
    }
}
