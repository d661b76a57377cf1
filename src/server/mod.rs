//! The server's machine. It decides who is admitted; [`matching`] decides who gets which message connection.
//!
//! | file | what it owns |
//! |---|---|
//! | [`listeners`] | where the server listens |
//! | [`strangers`], [`controls`] | connections that are not admitted yet, and control connections |
//! | [`links`], [`tickets`] | clients that are connected, and what each may bring |
//! | [`services`] | services, publications, users who wait |
//! | [`refused`] | where a refused user goes |
//! | [`sending`], [`offers`] | sessions on their way to clients, and when they are late |
//! | [`pool`], [`refill`] | message connections, and how many more are asked for |
//! | [`users`] | users |
//! | [`drain`] | how far the server's own drain has come |

mod controls;
mod drain;
mod links;
mod listeners;
mod matching;
mod offers;
mod pool;
mod queue;
mod refill;
mod refused;
mod sending;
mod services;
mod strangers;
mod tickets;
mod turn;
mod users;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::base::id::{ConnId, LinkId, ListenerId};
use crate::base::name::Name;
use crate::config::limits::Limits;
use crate::config::{Key, ServerConfig};
use crate::machine::{Agenda, CloseReason, Door, Fact, Input, Machine, Manner, Output, Proof, Traffic};
use crate::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Transports, Versions,
    Want, Welcome,
};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, key_id};
use controls::{Controls, Stage};
use links::{Identity, Link};
pub use listeners::{Listener, Listeners, State as ListenerState, Use as ListenerUse};
use matching::Matching;
use services::Unpublishable;
use strangers::{Claim, Stranger, Strangers};

/// The server's machine.
pub struct Server {
    keys: HashMap<KeyId, Key>,
    plain: bool,
    /// Random per process.
    instance: [u8; 16],
    listeners: Listeners,
    strangers: Strangers,
    controls: Controls,
    matching: Matching,
    agenda: Agenda,
    /// Until when running sessions may go on, once the process was asked to end.
    draining: Option<Instant>,
}

impl Server {
    /// A server without clients. It asks for its listeners as soon as it is polled. `instance` is random per process.
    pub fn new(
        config: ServerConfig,
        limits: Arc<Limits>,
        instance: [u8; 16],
        jitter: fastrand::Rng,
        now: Instant,
    ) -> Server {
        let one_port = config.shares_a_port();
        let mut server = Server {
            keys: config.keys.into_iter().map(|key| (key_id(&key.secret), key)).collect(),
            plain: config.plain,
            instance,
            listeners: Listeners::new(now + limits.listen),
            strangers: Strangers::default(),
            controls: Controls::default(),
            matching: Matching::default(),
            agenda: Agenda::new(limits, jitter, now),
            draining: None,
        };
        server.matching.sending.limit_users(&mut server.agenda);
        let mut wanted = Vec::new();
        for service in &config.services {
            let Some(id) = server.matching.services.add(&service.name) else { continue };
            wanted.extend(service.listen.iter().map(|&at| (ListenerUse::Users(id), at)));
        }
        if one_port {
            wanted.push((ListenerUse::Clients, config.control));
        } else {
            wanted.extend([(ListenerUse::Message, config.message), (ListenerUse::Control, config.control)]);
        }
        for (serves, at) in wanted {
            if let Some(id) = server.listeners.add(serves, at) {
                server.agenda.push(Output::Listen { id, at, door: serves.door() });
            }
        }
        server
    }

    /// Its listeners.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// The name of the service that a listener's users get.
    pub fn service_name(&self, listener: &Listener) -> Option<&Name> {
        match listener.serves {
            ListenerUse::Users(service) => self.matching.services.name(service),
            ListenerUse::Message | ListenerUse::Control | ListenerUse::Clients => None,
        }
    }

    fn listening(&mut self, id: ListenerId, outcome: io::Result<SocketAddr>) {
        self.listeners.note(id, outcome, &mut self.agenda);
        if let Some(listener) = self.listeners.get(id)
            && let (ListenerUse::Users(service), Some(address)) = (listener.serves, listener.address())
        {
            self.matching.services.set_address(service, address);
        }
    }

    // Strangers.

    fn accepted(&mut self, id: ConnId, door: Door, peer: SocketAddr, asked: SocketAddr) {
        match door {
            Door::Users(service) => self.matching.user_came(id, service, (peer, asked), &mut self.agenda),
            Door::Clients => self.strangers.came(id, peer),
        }
    }

    fn greeted(&mut self, id: ConnId, hello: ClearHello) {
        let Some(stranger) = self.strangers.get_mut(id) else { return };
        let links = &self.matching.sending.links;
        let found = match hello.purpose {
            Purpose::Control => {
                self.keys.get(&hello.key_id).map(|key| (Claim::Key(key.name.clone()), key.secret.clone()))
            }
            Purpose::Message => links
                .of_wire_id(&hello.key_id)
                .and_then(|link| Some((Claim::Link(link), links.get(link)?.pool_key.clone()))),
        };
        match found {
            Some((claim, secret)) => {
                stranger.claim = claim;
                self.agenda.push(Output::Verify { id, secret });
            }
            None => self.agenda.close(id, CloseReason::unknown(hello.purpose), Manner::Discard),
        }
    }

    fn proved(&mut self, id: ConnId, proof: Proof) {
        let Some(stranger) = self.strangers.get_mut(id) else { return };
        let (peer, links) = (stranger.peer, &mut self.matching.sending.links);
        match (stranger.claim.clone(), proof) {
            (Claim::Key(key), Proof::Control { link, pool_key, flight }) => {
                if !self.strangers.is_new(&key, flight) {
                    return self.agenda.close(id, CloseReason::Replayed, Manner::Discard);
                }
                self.strangers.remove(id);
                self.controls.add(id, peer, key, (link, pool_key), self.agenda.now);
                let heartbeat = self.agenda.limits.heartbeat;
                self.agenda.push(Output::Answer { id, plain: false, heartbeat });
            }
            (Claim::Link(link), Proof::Message { ticket }) if links.redeem(link, ticket, self.agenda.now) => {
                stranger.claim = Claim::Ticket(link);
                self.matching.sending.links.answer(link, id, self.plain, &mut self.agenda);
            }
            _ => self.agenda.close(id, CloseReason::UnknownLink, Manner::Discard),
        }
    }

    fn answered(&mut self, id: ConnId) {
        if !self.controls.answered(id, self.agenda.now)
            && let Some(Stranger { claim: Claim::Ticket(link), .. }) = self.strangers.remove(id)
        {
            self.matching.message_came(id, link, &mut self.agenda);
        }
    }

    // Control connections.

    fn control(&mut self, id: ConnId, frame: ControlFrame) {
        let Some(control) = self.controls.get(id) else { return };
        match (&control.stage, frame) {
            (Stage::Closing, _) | (Stage::Linked(_), ControlFrame::Skipped) => {}
            // The first frame is a Hello in every version.
            (Stage::Proved(wire_id, pool_key), ControlFrame::Hello(hello)) => {
                let names = (*wire_id, pool_key.clone());
                self.hello(id, names, &hello);
            }
            (&Stage::Linked(link), frame) => self.linked(id, link, frame),
            _ => self.fail(id),
        }
    }

    fn linked(&mut self, id: ConnId, link: LinkId, frame: ControlFrame) {
        let (now, links) = (self.agenda.now, &mut self.matching.sending.links);
        let Some(it) = links.get_mut(link) else { return };
        it.heard = now;
        match frame {
            ControlFrame::Ping if it.pinged(now) => {
                self.agenda.push(Output::Send { id, frame: ControlFrame::Pong });
            }
            ControlFrame::Pong => self.matching.sending.link_answered(link, &mut self.agenda),
            ControlFrame::Publish(publish) => self.publish(id, link, &publish),
            ControlFrame::Unpublish(number) => {
                if !self.matching.unpublish(link, number, &mut self.agenda) {
                    self.fail(id);
                }
            }
            ControlFrame::Void { first_ticket, count } => {
                self.matching.sending.links.void(link, first_ticket, count, &mut self.agenda);
                self.matching.sending.want_refill(link);
            }
            ControlFrame::Drain => {
                self.agenda.fact(Fact::ClientLeaves { link: id, key: it.key().clone() });
                self.matching.drain_link(link, &mut self.agenda);
            }
            _ => self.fail(id),
        }
    }

    /// A client's frame is none that it may send now.
    fn fail(&mut self, id: ConnId) {
        self.agenda.reset(id, CloseReason::ProtocolError);
        if let Some(link) = self.controls.closing(id) {
            self.forget_link(link, CloseReason::ProtocolError);
        }
    }

    fn hello(&mut self, id: ConnId, names: (KeyId, Secret), hello: &Hello) {
        // No link begins where users come no more, so none takes the place of one on which Drain was sent.
        if self.draining.is_some() {
            return self.close_control(id, CloseReason::Shutdown);
        }
        let Some(control) = self.controls.get(id) else { return };
        let (key, peer) = (control.key.clone(), control.peer);
        let version = match controls::version(hello, self.plain) {
            Ok(version) => version,
            Err(refusal) => return self.refuse(id, key, peer, hello.versions, refusal),
        };
        let identity = Identity { key, instance: hello.instance };
        if let Some(older) = self.matching.sending.links.older_self(&identity) {
            self.end_link(older, CloseReason::Replaced);
        }
        let links = &self.matching.sending.links;
        if let Some(refusal) = links.no_room(&identity.key, self.keys.len(), &self.agenda.limits) {
            return self.refuse(id, identity.key, peer, hello.versions, refusal);
        }
        self.open_link(id, identity, names, version, hello);
    }

    fn refuse(&mut self, id: ConnId, key: Name, peer: SocketAddr, versions: Versions, refusal: Refusal) {
        self.agenda.fact(Fact::ClientRefused { key, peer, versions, refusal });
        self.agenda.push(Output::Send { id, frame: ControlFrame::Refused(refusal) });
        self.close_control(id, CloseReason::Drained);
    }

    fn close_control(&mut self, id: ConnId, reason: CloseReason) {
        self.controls.closing(id);
        let manner = if reason == CloseReason::Drained { Manner::Whole } else { Manner::Reset };
        self.agenda.close(id, reason, manner);
    }

    fn open_link(
        &mut self,
        id: ConnId,
        identity: Identity,
        (wire_id, pool_key): (KeyId, Secret),
        version: u16,
        hello: &Hello,
    ) {
        let Some(control) = self.controls.get(id) else { return };
        let (now, peer, pool) = (self.agenda.now, control.peer, self.agenda.limits.pool);
        let welcome = Welcome {
            version,
            capabilities: Capabilities::new(self.plain),
            heartbeat: self.agenda.limits.heartbeat,
            instance: self.instance,
            link: wire_id,
            pool_key: pool_key.clone(),
            message_port: self.listeners.message_port(),
        };
        // The smaller heartbeat holds for both ends.
        let heartbeat =
            self.agenda.limits.heartbeat.min(hello.heartbeat).max(self.agenda.limits.heartbeat_min);
        let key = identity.key.clone();
        let mut link = Link::new(id, identity, peer, (wire_id, pool_key), heartbeat, (pool, now));
        link.round_trip.measured(now.saturating_duration_since(control.answered));
        let Some(link) = self.matching.sending.links.add(link) else {
            return self.close_control(id, CloseReason::Full);
        };
        self.controls.linked(id, link);
        self.agenda.fact(Fact::ClientCame { link: id, key, peer });
        self.agenda.push(Output::Admit(id));
        self.agenda.push(Output::Send { id, frame: ControlFrame::Welcome(welcome) });
        self.matching.add_link(link, &mut self.agenda);
        self.matching.sending.links.schedule(link, &mut self.agenda);
    }

    /// A client would serve something.
    fn publish(&mut self, id: ConnId, link: LinkId, publish: &Publish) {
        let answer = self.grant(link, publish);
        let Some(key) = self.matching.sending.links.get(link).map(|link| link.key().clone()) else { return };
        let (number, service) = (publish.number, publish.name.clone());
        let frame = match answer {
            Ok(address) => {
                self.agenda.fact(Fact::Published { link: id, key, service });
                let ports = Ports { first: address.port(), last: address.port() };
                ControlFrame::Granted { number, addresses: vec![GrantedAddress { ip: address.ip(), ports }] }
            }
            Err(reason) => {
                self.agenda.fact(Fact::PublicationDenied { key, service, reason });
                ControlFrame::Denied { number, reason }
            }
        };
        self.agenda.push(Output::Send { id, frame });
        self.matching.published(link, &mut self.agenda);
    }

    fn grant(&mut self, link: LinkId, publish: &Publish) -> Result<SocketAddr, Denial> {
        let limits = &self.agenda.limits;
        if publish.want != Want::Service || publish.transports == Transports::Udp {
            return Err(Denial::Policy);
        }
        if self.matching.services.published(link) >= limits.publications_per_client_max {
            return Err(Denial::Limit);
        }
        let dial_ms = publish.dial_time.min(limits.local_dial_max).as_millis() as u32;
        let services = &mut self.matching.services;
        let address = services.id(&publish.name).and_then(|service| services.address(service));
        let address = address.ok_or(Denial::UnknownService)?;
        services.publish(link, publish.number, &publish.name, dial_ms).map_err(|error| match error {
            Unpublishable::UnknownService => Denial::UnknownService,
            Unpublishable::AlreadyPublished => Denial::AlreadyPublished,
        })?;
        Ok(address)
    }

    fn link_due(&mut self, link: LinkId) {
        let now = self.agenda.now;
        let expired = self.matching.sending.links.expire(link, self.draining.is_none(), &mut self.agenda);
        let Some(it) = self.matching.sending.links.get_mut(link) else { return };
        if it.is_gone(&mut self.agenda) {
            return self.end_link(link, CloseReason::HeartbeatLost);
        }
        if !expired && it.ping_at <= now {
            it.ping_at = now + it.heartbeat / 3;
            self.matching.sending.ping_link(link, &mut self.agenda);
        }
        self.matching.sending.want_refill(link);
        self.matching.sending.links.schedule(link, &mut self.agenda);
    }

    /// Resets a link's control connection, and forgets the link.
    fn end_link(&mut self, link: LinkId, reason: CloseReason) {
        let Some(control) = self.matching.sending.links.get(link).map(|link| link.control) else { return };
        self.close_control(control, reason);
        self.forget_link(link, reason);
    }

    /// Forgets a link, whose control connection is closing or gone.
    fn forget_link(&mut self, link: LinkId, reason: CloseReason) {
        let Some(it) = self.matching.sending.links.get(link) else { return };
        let (control, peer) = (it.control, it.peer);
        self.agenda.fact(Fact::ClientGone { link: control, key: it.key().clone(), peer, reason });
        self.agenda.at(control, None);
        self.matching.remove_link(link, &mut self.agenda);
    }

    // Ends.

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        self.agenda.at(id, None);
        if let Some(stranger) = self.strangers.remove(id) {
            if let Claim::Ticket(link) = stranger.claim {
                self.matching.message_not_come(link);
            }
            self.agenda.fact(Fact::NotAdmitted { peer: stranger.peer, reason });
        } else if let Some(control) = self.controls.remove(id) {
            match control.stage {
                Stage::Linked(link) => self.forget_link(link, reason),
                Stage::Proved(..) => {
                    self.agenda.fact(Fact::NotAdmitted { peer: control.peer, reason });
                }
                Stage::Closing => {}
            }
        } else if self.matching.is_user(id) {
            self.matching.user_gone(id, reason, traffic, &mut self.agenda);
        } else {
            self.matching.message_gone(id, &mut self.agenda);
        }
        self.exit_if_drained();
    }

    /// The process was asked to end: it takes who came before that, and closes its listeners.
    fn drain(&mut self) {
        self.draining = Some(self.agenda.now + self.agenda.limits.drain);
        for id in self.listeners.stop() {
            self.agenda.push(Output::StopListening(id));
        }
    }

    /// A listener is closed. After the last one clients are told, so that their next attempt meets another process.
    fn stopped(&mut self, id: ListenerId) {
        self.listeners.remove(id);
        if self.listeners.is_empty() {
            let (sessions, time) = (self.matching.user_count(), self.agenda.limits.drain);
            self.agenda.fact(Fact::Draining { sessions, time });
            self.matching.drain(&mut self.agenda);
            self.exit_if_drained();
        }
    }

    fn exit_if_drained(&mut self) {
        if self.draining.is_some() && self.listeners.is_empty() && self.matching.is_over() {
            self.agenda.push(Output::Exit);
        }
    }

    /// A connection's deadline has come.
    fn due(&mut self, id: ConnId) {
        if self.matching.is_message(id) {
            self.matching.message_due(id, &mut self.agenda);
        } else if self.matching.is_user(id) {
            self.matching.user_due(id, &mut self.agenda);
        } else if let Some(link) = self.controls.link(id) {
            self.link_due(link);
        }
    }
}

impl Machine for Server {
    fn handle(&mut self, input: Input, now: Instant) {
        self.agenda.now = now;
        match input {
            Input::Accepted { id, door, peer, asked } => self.accepted(id, door, peer, asked),
            Input::Listening { id, address } => self.listening(id, Ok(address)),
            Input::ListenFailed { id, error } => self.listening(id, Err(error)),
            Input::Stopped { id } => self.stopped(id),
            Input::Greeted { id, hello } => self.greeted(id, hello),
            Input::Proved { id, proof } => self.proved(id, proof),
            Input::Answered { id } => self.answered(id),
            Input::Control { id, frame } => self.control(id, frame),
            Input::Measured { id, it } => {
                self.matching.sending.links.known(self.controls.link(id), it, &mut self.agenda)
            }
            Input::Woken => self.matching.sending.links.woken(&mut self.agenda),
            Input::Session { id, event } => self.matching.session_event(id, event, &mut self.agenda),
            Input::Returned { id, refused, spoken } => {
                self.matching.waiting(&mut self.agenda).returned(id, refused, spoken);
            }
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            Input::GiveUp => self.draining = Some(now),
            // A server dials nothing.
            _ => {}
        }
        self.matching.go_on_draining(&mut self.agenda);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agenda.now = now;
        while let Some(id) = self.agenda.next_due() {
            self.due(id);
        }
        self.listeners.try_again(&mut self.agenda);
        if self.draining.take_if(|at| *at <= now).is_some() {
            let sessions = self.matching.give_up(&mut self.agenda);
            if sessions > 0 {
                self.agenda.fact(Fact::DrainOver { sessions });
            }
            self.agenda.push(Output::Exit);
        }
        self.matching.waiting(&mut self.agenda).begin_more();
        self.matching.refill(&mut self.agenda);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.agenda.next_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.matching.has_work() {
            return Some(self.agenda.now);
        }
        [self.agenda.next_deadline(), self.draining, self.listeners.due()].into_iter().flatten().min()
    }
}
