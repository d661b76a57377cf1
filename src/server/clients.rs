//! Clients, from the Hello of their control connection to the end of their link.

use std::net::SocketAddr;
use std::time::Instant;

use super::controls::{self, Control, Controls};
use super::identity::{Identity, Life};
use super::links::Link;
use super::matching::Matching;
use super::publishing::Publishing;
use crate::base::clocks::Clocks;
use crate::base::id::{ConnId, HolderId, LinkId};
use crate::base::name::Name;
use crate::machine::{CloseReason, Fact, Manner, Output, quiet_for};
use crate::wire::control::{Capabilities, ControlFrame, Hello, Refusal, Resumes, Versions, Welcome};
use crate::wire::handshake::{KeyId, Secret};

/// One step with clients: it borrows what it works on.
pub(super) struct Clients<'s> {
    pub controls: &'s mut Controls,
    pub publishing: Publishing<'s>,
    pub clocks: Clocks,
}

impl Clients<'_> {
    fn now(&self) -> Instant {
        self.publishing.agenda.now
    }

    /// A client introduces itself.
    pub fn hello(
        &mut self,
        id: ConnId,
        names: (KeyId, Secret),
        hello: &Hello,
        (instance, plain): ([u8; 16], bool),
    ) {
        let Some(control) = self.controls.get(id) else { return };
        let (key, holder, peer) = (control.key.clone(), control.holder, control.peer);
        let version = match controls::version(hello, plain) {
            Ok(version) => version,
            Err(refusal) => return self.refuse(id, key, peer, hello.versions, refusal),
        };
        // The key may have gone since it was proved.
        let now = self.now();
        let Matching { barred, services, sending, .. } = &mut *self.publishing.matching;
        let Some(it) = sending.holders.get(holder) else {
            return self.close(id, CloseReason::KeyRevoked);
        };
        let key_id = it.key_id;
        if let Some(refusal) = it.refusal(peer, self.clocks, now) {
            barred.came(it, peer, services);
            return self.refuse(id, key, peer, hello.versions, refusal);
        }
        let identity = Identity { key, key_id, holder, instance: hello.instance };
        let links = &self.publishing.matching.sending.links;
        if let Some(link) = links.older_self(&identity) {
            match hello.resumes.filter(|it| links.of_wire_id(&it.link) == Some(link)) {
                Some(Resumes { publications, .. }) => {
                    return self.resume(id, link, hello, publications, (version, instance, plain));
                }
                None => self.end(link, CloseReason::Replaced),
            }
        }
        let Publishing { matching, agenda, .. } = &mut self.publishing;
        let sending = &mut matching.sending;
        if let Some(refusal) = sending.holders.no_room(holder, &sending.links, &agenda.limits) {
            sending.contest_link(holder, agenda);
            return self.refuse(id, identity.key, peer, hello.versions, refusal);
        }
        let welcome = self.welcome(names.clone(), (version, instance, plain));
        self.open(id, identity, names, hello, welcome);
    }

    fn welcome(
        &self,
        (link, pool_key): (KeyId, Secret),
        (version, instance, plain): (u16, [u8; 16], bool),
    ) -> Welcome {
        let (capabilities, heartbeat) = (Capabilities::new(plain), self.publishing.agenda.limits.heartbeat);
        let message_port = self.publishing.listeners.message_port();
        Welcome { version, capabilities, heartbeat, instance, link, pool_key, message_port }
    }

    /// A client comes back to its link on another control connection, which takes the place of the old one. Its
    /// sessions and its message connections go on. It closes the old one when it has read its Welcome: what the server
    /// says there may overtake that.
    fn resume(
        &mut self,
        id: ConnId,
        link: LinkId,
        hello: &Hello,
        publications: u32,
        ours: (u16, [u8; 16], bool),
    ) {
        let Some(&Control { peer, answered, .. }) = self.controls.get(id) else { return };
        let sending = &self.publishing.matching.sending;
        let Some(it) = sending.links.get(link) else { return };
        let welcome = self.welcome((it.wire_id, it.pool_key.clone()), ours);
        let Publishing { matching, agenda, .. } = &mut self.publishing;
        let (now, sending) = (agenda.now, &mut matching.sending);
        let Some(it) = sending.links.get_mut(link) else { return };
        let unheard_since = it.owes_pong_since(now, &agenda.limits).unwrap_or(it.heard);
        let before = std::mem::replace(&mut it.control, id);
        (it.peer, it.capabilities, it.heard, it.ping_at) = (peer, hello.capabilities, now, now);
        it.round_trip.measured(now.saturating_duration_since(answered));
        let key = it.key().clone();
        // A link has one of these at most, and for as long as the Welcome may take.
        if let Some(older) = self.controls.take_place(id, before) {
            agenda.reset(older, CloseReason::Replaced);
        }
        agenda.after(before, agenda.limits.handshake);
        agenda.fact(Fact::ClientReturned { link: id, before, key, peer });
        agenda.push(Output::Admit(id));
        agenda.push(Output::Send { id, frame: ControlFrame::Welcome(welcome) });
        sending.links.ask_anew(link, agenda.limits.pool);
        // They may be as dead as the old control connection.
        sending.ping_unheard(link, unheard_since, agenda);
        sending.links.schedule(link, agenda);
        self.publishing.come_back(link, publications);
    }

    fn refuse(&mut self, id: ConnId, key: Name, peer: SocketAddr, versions: Versions, refusal: Refusal) {
        let agenda = &mut *self.publishing.agenda;
        agenda.fact(Fact::ClientRefused { key, peer, versions, refusal });
        agenda.push(Output::Send { id, frame: ControlFrame::Refused(refusal) });
        self.close(id, CloseReason::Drained);
    }

    fn open(
        &mut self,
        id: ConnId,
        identity: Identity,
        names: (KeyId, Secret),
        hello: &Hello,
        welcome: Welcome,
    ) {
        let Some(control) = self.controls.get(id) else { return };
        let Publishing { matching, agenda, .. } = &mut self.publishing;
        let (now, peer, pool) = (agenda.now, control.peer, agenda.limits.pool);
        // The smaller heartbeat holds for both ends.
        let heartbeat = agenda.limits.heartbeat.min(hello.heartbeat).max(agenda.limits.heartbeat_min);
        let (key, holder) = (identity.key.clone(), identity.holder);
        let mut link = Link::new(id, identity, peer, names, heartbeat, (pool, now));
        link.capabilities = hello.capabilities;
        link.round_trip.measured(now.saturating_duration_since(control.answered));
        link.expires = matching.sending.holders.get(holder).and_then(|it| it.expires(self.clocks));
        let Some(link) = matching.sending.links.add(link) else {
            return self.close(id, CloseReason::Full);
        };
        matching.sending.holders.link_came(holder, link);
        self.controls.linked(id, link);
        agenda.fact(Fact::ClientCame { link: id, key, peer });
        agenda.push(Output::Admit(id));
        agenda.push(Output::Send { id, frame: ControlFrame::Welcome(welcome) });
        matching.add_link(link, agenda);
        matching.sending.links.schedule(link, agenda);
    }

    /// A link wants attention, or the time of a control connection is over in whose place another came. `awaited` says
    /// whether message connections are.
    pub fn due(&mut self, id: ConnId, awaited: bool) {
        let Some(link) = self.controls.link(id) else {
            return self.publishing.agenda.reset(id, CloseReason::Replaced);
        };
        let Publishing { matching, agenda, .. } = &mut self.publishing;
        let now = agenda.now;
        let expired = matching.sending.links.expire(link, awaited, agenda);
        let Some(it) = matching.sending.links.get_mut(link) else { return };
        if it.expires.is_some_and(|at| at <= now) {
            return self.end(link, CloseReason::KeyExpired);
        }
        if it.is_gone(agenda) {
            return self.end(link, CloseReason::HeartbeatLost);
        }
        if !expired && it.ping_at <= now {
            it.ping_at = now + quiet_for(it.heartbeat);
            matching.sending.ping_link(link, agenda);
        }
        matching.sending.want_refill(link);
        matching.sending.links.schedule(link, agenda);
    }

    /// The clock on the wall says something else: keys expire sooner or later than it seemed.
    pub fn clock_set(&mut self) {
        let Publishing { matching, agenda, .. } = &mut self.publishing;
        let sending = &mut matching.sending;
        for id in sending.links.ids() {
            if let Some(link) = sending.links.get_mut(id) {
                let holder = sending.holders.get(link.identity.holder);
                link.expires = holder.and_then(|holder| holder.expires(self.clocks));
            }
            sending.links.schedule(id, agenda);
        }
        self.publishing.exposed.set_clocks(self.clocks);
    }

    // Policies.

    /// A key is good no more: its links end.
    pub fn revoke(&mut self, key: &Name) {
        for link in self.publishing.matching.sending.remove_key(key, self.publishing.agenda) {
            self.end(link, CloseReason::KeyRevoked);
        }
    }

    /// A key has another policy: what that does not allow ends.
    pub fn judge(&mut self, id: HolderId) {
        let Some(holder) = self.publishing.matching.sending.holders.get(id) else { return };
        let expires = holder.expires(self.clocks);
        for link in holder.links.clone() {
            let (now, sending) = (self.now(), &mut self.publishing.matching.sending);
            let (Some(it), Some(holder)) = (sending.links.get_mut(link), sending.holders.get(id)) else {
                continue;
            };
            it.expires = expires;
            match holder.refusal(it.peer, self.clocks, now) {
                Some(Refusal::Expired) => self.end(link, CloseReason::KeyExpired),
                Some(_) => self.end(link, CloseReason::Policy),
                None => {
                    self.publishing.withdraw_not_allowed(link);
                    let Publishing { matching, agenda, .. } = &mut self.publishing;
                    matching.sending.links.schedule(link, agenda);
                }
            }
        }
    }

    // Ends.

    /// A client's frame is none that it may send now.
    pub fn fail(&mut self, id: ConnId) {
        self.publishing.agenda.reset(id, CloseReason::ProtocolError);
        if let Some(link) = self.controls.closing(id) {
            self.forget(link, CloseReason::ProtocolError);
        }
    }

    /// Closes a control connection.
    pub fn close(&mut self, id: ConnId, reason: CloseReason) {
        self.controls.closing(id);
        let manner = if reason == CloseReason::Drained { Manner::Whole } else { Manner::Reset };
        self.publishing.agenda.close(id, reason, manner);
    }

    /// Resets a link's control connection, and forgets the link.
    pub fn end(&mut self, link: LinkId, reason: CloseReason) {
        let links = &self.publishing.matching.sending.links;
        let Some(control) = links.get(link).map(|link| link.control) else { return };
        self.close(control, reason);
        self.forget(link, reason);
    }

    /// Forgets a link, whose control connection is closing or gone.
    pub fn forget(&mut self, link: LinkId, reason: CloseReason) {
        let Publishing { matching, asked, agenda, .. } = &mut self.publishing;
        let Some(it) = matching.sending.links.get(link) else { return };
        let (control, peer) = (it.control, it.peer);
        agenda.fact(Fact::ClientGone { link: control, key: it.key().clone(), peer, reason });
        agenda.at(control, None);
        let client = (it.identity.key_id, peer);
        // One that was leaving is no reason why nobody serves what it asked for.
        let is_barred = it.life == Life::Standing && reason.bars_a_client();
        let asked_for = asked.services_of(link).filter(|_| is_barred);
        let asked_for: Vec<_> = asked_for.filter_map(|name| matching.services.id(name)).collect();
        asked.remove_link(link);
        matching.remove_link(link, reason, agenda);
        let Matching { barred, services, .. } = &mut **matching;
        asked_for.into_iter().for_each(|service| barred.note(service, client, services));
        self.publishing.exposing().link_gone(link, reason);
    }
}
