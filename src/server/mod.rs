//! The server's machine. It decides who is admitted; [`matching`] decides who gets which message connection.
//!
//! | file | what it owns |
//! |---|---|
//! | [`listeners`] | where the server listens |
//! | [`strangers`], [`controls`] | connections that are not admitted yet, and control connections |
//! | [`holders`], [`rates`] | keys, what each has and may do, and what its sessions share |
//! | [`clients`], [`links`], [`failing`] | clients that are connected, and which come last |
//! | [`client_pings`] | how often they ping |
//! | [`tickets`] | what each may bring |
//! | [`admission`] | which users services take, and whom they have |
//! | [`publishing`] | what clients ask to serve |
//! | [`exposed`] | ports that clients ask for |
//! | [`services`] | services, publications, users who wait |
//! | [`refused`] | where a refused user goes |
//! | [`sending`], [`offers`] | sessions on their way to clients, and when they are late |
//! | [`pool`], [`refill`] | message connections, and how many more are asked for |
//! | [`probes`] | what is known of publications, and when they are probed |
//! | [`users`] | users |
//! | [`reload`] | from one configuration to the next |
//! | [`drain`], [`survey`] | how far the server's own drain has come; what it shows of itself |

mod admission;
mod client_pings;
mod clients;
mod controls;
mod drain;
mod exposed;
mod failing;
mod holders;
mod identity;
mod links;
mod listeners;
mod matching;
mod offers;
mod pool;
mod probes;
mod publishing;
mod queue;
mod rates;
mod refill;
mod refused;
mod reload;
mod sending;
mod services;
mod strangers;
mod survey;
mod tickets;
mod turn;
mod users;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::base::clocks::Clocks;
use crate::base::id::{ConnId, LinkId, ListenerId};
use crate::base::name::Name;
use crate::config::ServerConfig;
use crate::config::limits::Limits;
use crate::machine::{
    Agenda, CloseReason, Configuration, Door, Fact, Input, Machine, Manner, Output, Proof, ReloadFault,
    Survey, Traffic,
};
use crate::wire::control::ControlFrame;
use crate::wire::handshake::{ClearHello, Purpose};
use clients::Clients;
use controls::{Controls, Stage};
use exposed::{Exposed, Exposing};
pub use listeners::{Listener, Listeners, State as ListenerState, Use as ListenerUse};
use matching::Matching;
use publishing::{Asked, Publishing};
use reload::{Progress, Reload, Request};
use sending::Sending;
use strangers::{Claim, Stranger, Strangers};
use survey::Surveyor;

/// The server's machine.
pub struct Server {
    config: Arc<ServerConfig>,
    /// What the clocks said when they were last compared.
    clocks: Clocks,
    /// The configuration whose listeners are being opened, and the one that comes after it.
    reload: Option<Reload>,
    next: Option<Request>,
    /// Random per process.
    instance: [u8; 16],
    listeners: Listeners,
    strangers: Strangers,
    controls: Controls,
    matching: Matching,
    asked: Asked,
    exposed: Exposed,
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
        clocks: Clocks,
    ) -> Server {
        let exposed = Exposed::new(&config, limits.local_ports, clocks);
        let mut server = Server {
            config: Arc::new(config),
            clocks,
            reload: None,
            next: None,
            instance,
            listeners: Listeners::new(clocks.now + limits.listen),
            strangers: Strangers::default(),
            controls: Controls::default(),
            matching: Matching::default(),
            asked: Asked::default(),
            exposed,
            agenda: Agenda::new(limits, jitter, clocks.now),
            draining: None,
        };
        let (mut wanted, config) = (Vec::new(), server.config.clone());
        let Server { matching, listeners, agenda, .. } = &mut server;
        matching.sending.limit_users(agenda);
        for key in &config.keys {
            matching.sending.add_key(key, config.policies.of(&key.name), agenda);
        }
        for service in &config.services {
            let Some(id) = matching.add_service(&service.name, service.rules.clone(), agenda) else {
                continue;
            };
            wanted.extend(service.listen.iter().map(|&at| (ListenerUse::Users(id), at)));
        }
        wanted.extend(ListenerUse::of_clients(&config));
        wanted.into_iter().for_each(|(serves, at)| listeners.open(serves, at, agenda));
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
            _ => None,
        }
    }

    fn publishing(&mut self) -> Publishing<'_> {
        let Server { matching, listeners, asked, exposed, agenda, .. } = self;
        Publishing { matching, listeners, asked, exposed, agenda }
    }

    fn exposing(&mut self) -> Exposing<'_> {
        let Server { exposed, matching, listeners, agenda, .. } = self;
        Exposing { exposed, matching, listeners, agenda }
    }

    fn clients(&mut self) -> Clients<'_> {
        let Server { controls, matching, listeners, asked, exposed, agenda, clocks, .. } = self;
        let publishing = Publishing { matching, listeners, asked, exposed, agenda };
        Clients { controls, publishing, clocks: *clocks }
    }

    // Configurations.

    /// Begins with the configuration that is to hold next, once all ports are open that are to be granted before.
    fn reload_next(&mut self) {
        if self.next.is_none() || self.reload.is_some() {
            return;
        }
        self.exposed.wait_for_a_reload();
        let is_draining = self.draining.is_some();
        let Some(request) = self.next.take_if(|_| is_draining || !self.exposed.is_opening()) else { return };
        let (source, config) = (request.source.clone(), self.config.clone());
        if is_draining {
            return self.agenda.fact(Fact::ReloadRefused { source, fault: ReloadFault::Draining });
        }
        match Reload::begin(&config, request, &mut self.exposing()) {
            Ok(reload) => {
                self.reload = Some(reload);
                self.go_on_reloading();
            }
            Err(options) => {
                self.exposed.reload_is_over();
                self.agenda.fact(Fact::ReloadRefused { source, fault: options.into() });
            }
        }
    }

    fn go_on_reloading(&mut self) {
        let Some(mut reload) = self.reload.take() else { return };
        match reload.go_on(&mut self.listeners, &mut self.agenda) {
            Progress::Ready => self.config = reload.swap(&mut self.clients()),
            Progress::Waits => self.reload = Some(reload),
            Progress::Failed(fault) => {
                self.reload = Some(reload);
                self.give_reload_up(fault);
            }
        }
    }

    fn give_reload_up(&mut self, fault: ReloadFault) {
        let Some(reload) = self.reload.take() else { return };
        for service in reload.give_up(fault, &mut self.exposing()) {
            self.publishing().open_if_served(service);
            self.publishing().moved(service);
        }
        let (config, clocks) = (self.config.clone(), self.clocks);
        self.exposing().configure(&config, clocks);
    }

    /// What a listener came to.
    fn listening(&mut self, id: ListenerId, outcome: io::Result<SocketAddr>) {
        if self.exposing().listening(id, &outcome) {
            return;
        }
        let heard = outcome.as_ref().map(|_| ());
        let is_reload_s = self.reload.as_mut().is_some_and(|it| it.heard(id, heard, &self.listeners));
        self.listeners.note(id, outcome, &mut self.agenda);
        if is_reload_s {
            self.go_on_reloading();
        } else if let Some(ListenerUse::Users(service)) = self.listeners.get(id).map(|it| it.serves) {
            self.publishing().open_if_served(service);
        }
    }

    // Strangers.

    fn accepted(&mut self, id: ConnId, door: Door, peer: SocketAddr, asked: SocketAddr) {
        let Door::Users(service) = door else { return self.strangers.came(id, peer) };
        self.matching.coming(&mut self.agenda).came(id, service, (peer, asked));
    }

    fn greeted(&mut self, id: ConnId, hello: ClearHello) {
        let Some(stranger) = self.strangers.get_mut(id) else { return };
        let Sending { links, holders, .. } = &self.matching.sending;
        let found = match hello.purpose {
            Purpose::Control => holders
                .of_key_id(&hello.key_id)
                .and_then(|id| Some((Claim::Key(id), holders.get(id)?.key.secret.clone()))),
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
        let (peer, sending) = (stranger.peer, &mut self.matching.sending);
        match (stranger.claim.clone(), proof) {
            (Claim::Key(key), Proof::Control { link, pool_key, flight }) => {
                let Some(holder) = sending.holders.get_mut(key) else {
                    return self.agenda.close(id, CloseReason::UnknownKey, Manner::Discard);
                };
                if !holder.flights.is_new(flight) {
                    return self.agenda.close(id, CloseReason::Replayed, Manner::Discard);
                }
                self.strangers.remove(id);
                let holder = (key, holder.key.name.clone());
                self.controls.add(id, peer, holder, (link, pool_key), self.agenda.now);
                let heartbeat = self.agenda.limits.heartbeat;
                self.agenda.push(Output::Answer { id, plain: false, heartbeat });
            }
            (Claim::Link(link), Proof::Message { ticket }) if sending.redeem(link, ticket, &self.agenda) => {
                stranger.claim = Claim::Ticket(link);
                sending.links.answer(link, id, self.config.plain, &mut self.agenda);
            }
            _ => self.agenda.close(id, CloseReason::UnknownTicket, Manner::Discard),
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
                let (names, ours) = ((*wire_id, pool_key.clone()), (self.instance, self.config.plain));
                match self.draining {
                    None => self.clients().hello(id, names, &hello, ours),
                    // No link begins where users come no more, so none takes the place of one on which Drain was sent.
                    Some(_) => self.clients().close(id, CloseReason::Shutdown),
                }
            }
            (&Stage::Linked(link), frame) => self.linked(id, link, frame),
            _ => self.clients().fail(id),
        }
    }

    fn linked(&mut self, id: ConnId, link: LinkId, frame: ControlFrame) {
        let (now, links) = (self.agenda.now, &mut self.matching.sending.links);
        let Some(it) = links.get_mut(link) else { return };
        it.heard = now;
        match frame {
            ControlFrame::Ping if it.client_pings.take(now) => {
                self.agenda.push(Output::Send { id, frame: ControlFrame::Pong });
            }
            ControlFrame::Pong => {
                self.matching.sending.link_answered(link, &mut self.agenda);
                self.exposing().link_answered(link);
            }
            ControlFrame::Publish(publish) => self.publishing().publish(link, &publish),
            ControlFrame::Unpublish(number) => {
                if !self.publishing().unpublish(link, number) {
                    self.clients().fail(id);
                }
            }
            ControlFrame::Void { first_ticket, count } => {
                self.matching.sending.links.void(link, first_ticket, count, &mut self.agenda);
                self.matching.sending.want_refill(link);
            }
            ControlFrame::Drain => {
                self.agenda.fact(Fact::ClientLeaves { link: id, key: it.key().clone() });
                self.matching.drain_link(link, &mut self.agenda);
                self.exposing().link_drains(link);
            }
            _ => self.clients().fail(id),
        }
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
                Stage::Linked(link) => self.clients().forget(link, reason),
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
        self.exposed.stop();
        self.give_reload_up(ReloadFault::Draining);
        for id in self.listeners.stop() {
            self.agenda.push(Output::StopListening(id));
        }
    }

    /// A listener is closed. After the last one clients are told, so that their next attempt meets another process.
    fn stopped(&mut self, id: ListenerId) {
        if self.listeners.remove(id) && self.listeners.is_empty() {
            let (sessions, time) = (self.matching.user_count(), self.agenda.limits.drain);
            self.agenda.fact(Fact::Draining { sessions, time });
            self.matching.draining(&mut self.agenda).begin();
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
        } else {
            let awaited = self.draining.is_none();
            self.clients().due(id, awaited);
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
            Input::ClockSet { wall } => {
                self.clocks = Clocks { now, wall };
                self.clients().clock_set();
            }
            Input::Configure(configuration) => {
                let Configuration::Server { config, source, wall } = *configuration else { return };
                self.clocks = Clocks { now, wall };
                self.next = Some(Request { config, source });
            }
            Input::TurnedAway { service, peer, fault } => {
                self.matching.coming(&mut self.agenda).turned_away(service, peer, fault);
            }
            Input::Session { id, event } => self.matching.session_event(id, event, &mut self.agenda),
            Input::Unanswered { id } => self.matching.user_unanswered(id),
            Input::Returned { id, refused, spoken } => {
                self.matching.waiting(&mut self.agenda).returned(id, refused, spoken);
            }
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Look => self.matching.probes.look(now),
            Input::Drain => self.drain(),
            Input::GiveUp => self.draining = Some(now),
            // A server dials nothing.
            _ => {}
        }
        self.reload_next();
        while let Some(service) = self.matching.services.next_turned() {
            self.publishing().open_if_served(service);
        }
        self.matching.draining(&mut self.agenda).go_on();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agenda.now = now;
        while let Some(id) = self.agenda.next_due() {
            self.due(id);
        }
        self.listeners.try_again(&mut self.agenda);
        self.exposing().due();
        while let Some(link) = self.exposed.next_given_up() {
            self.clients().end(link, CloseReason::NoPong);
        }
        self.reload_next();
        self.exposing().look_again();
        if self.draining.take_if(|at| *at <= now).is_some() {
            let sessions = self.matching.draining(&mut self.agenda).give_up();
            if sessions > 0 {
                self.agenda.fact(Fact::DrainOver { sessions });
            }
            self.agenda.push(Output::Exit);
        }
        self.matching.waiting(&mut self.agenda).begin_more();
        self.matching.probing(&mut self.agenda).go_on();
        self.matching.refill(&mut self.agenda);
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.agenda.next_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let Server { matching, agenda, listeners, exposed, .. } = self;
        if matching.has_work() || exposed.has_work() {
            return Some(agenda.now);
        }
        let probe = matching.probes.next_due();
        let due = [agenda.next_deadline(), self.draining, listeners.due(), exposed.next_due(), probe];
        due.into_iter().flatten().min()
    }

    fn survey(&self, survey: &mut Survey, rows: usize) {
        Surveyor::of(self).go_on(survey, rows);
    }
}
