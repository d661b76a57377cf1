//! The client's machine: staying connected to the server, keeping the pool filled as the server asks, and dialling
//! local servers.
//!
//! | file | what it owns |
//! |---|---|
//! | [`gateway`], [`stage`], [`rounds`], [`pauses`], [`settings`] | the way to the server, and pauses on it |
//! | [`link`] | links that stand: the current one, and one that drains |
//! | [`names`] | host names and their addresses |
//! | [`dials`], [`message_port`] | message connections on their way, and where they go |
//! | [`publications`] | what is published, and what the server says to that |
//! | [`sessions`], [`session`], [`user`] | message connections, sessions, proxy connections; whose a session is |
//! | [`attempt`] | seeking a session's local server |
//! | [`seen`] | which sessions of a link have been seen |
//! | [`survey`] | what the client shows of itself |
//!
//! It closes no idle message connection of its own accord. It opens one only for a ticket, or while its server owes an
//! answer and cannot ask for one.

mod attempt;
mod dials;
mod gateway;
mod link;
mod message_port;
mod names;
mod pauses;
mod publications;
mod rounds;
mod seen;
mod session;
mod sessions;
mod settings;
mod stage;
mod survey;
mod user;

use std::sync::Arc;
use std::time::Instant;

use crate::base::address::HostPort;
use crate::base::id::{ConnId, LinkId, NameId};
use crate::config::ClientConfig;
use crate::config::client_difference::ClientDifference;
use crate::config::limits::Limits;
use crate::machine::{
    Agenda, CloseReason, Configuration, Dialled, Fact, Input, Lookup, Machine, Output, Reason, SessionEvent,
    Survey, Traffic,
};
use crate::wire::control::ControlFrame;
use crate::wire::handshake::Suite;
use gateway::Gateway;
use link::Links;
use names::Names;
use publications::Publications;
use sessions::Sessions;
use settings::Settings;
use survey::Surveyor;

/// The client's machine.
pub struct Client {
    gateway: Gateway,
    links: Links,
    names: Names,
    sessions: Sessions,
    agenda: Agenda,
    /// Until when running sessions may go on, once the process was asked to end.
    draining: Option<Instant>,
}

impl Client {
    /// A client that begins to connect as soon as it is polled. `instance` is random per process.
    pub fn new(
        config: ClientConfig,
        limits: Arc<Limits>,
        instance: [u8; 16],
        jitter: fastrand::Rng,
        now: Instant,
    ) -> Client {
        let mut names = Names::default();
        let mut add = |host: &HostPort| names.add(host).expect("there is room"); // invariant: names are few
        let settings = Settings {
            key: config.key,
            instance,
            plain: config.plain,
            suite: Suite::preferred(),
            name: add(&config.server),
            message_name: config.message.map(|host| add(&host)),
            server: config.server,
        };
        let mut publications = Publications::default();
        let mut agenda = Agenda::new(limits, jitter, now);
        for publication in publications::in_order(config.publications.iter()) {
            publications.add(publication.clone(), &mut names, &mut agenda);
        }
        let sessions = Sessions::new(publications, now);
        agenda.fact(Fact::Connecting { server: settings.server.clone() });
        let (gateway, links) = (Gateway::new(settings, now), Links::default());
        Client { gateway, links, names, sessions, agenda, draining: None }
    }

    /// Why nothing can be served now, if that is so: the server is not reached, or brings no session.
    fn fault(&self, now: Instant) -> Option<Reason> {
        match self.gateway.current() {
            Ok(_) if self.sessions.counts().are_short(&self.agenda.limits) => Some(Reason::NoDescriptor),
            Ok(link) => self.links.get(link)?.fault(self.sessions.counts().idle() > 0, now),
            Err(reason) => reason,
        }
    }

    fn dialling(&mut self, id: ConnId, purpose: Dialled) {
        match purpose {
            Dialled::Control => self.gateway.dialling(id, &self.names, &mut self.agenda),
            Dialled::Message(link) => {
                match self.links.get_mut(link).map(|it| it.dialling(id, &mut self.agenda)) {
                    Some(true) => self.sessions.dialling(id, link),
                    Some(false) => self.agenda.reset(id, CloseReason::Retired),
                    // The link ended meanwhile.
                    None => self.agenda.reset(id, CloseReason::LinkLost),
                }
            }
            Dialled::Proxy(message) => self.sessions.dialling_proxy(id, message, &mut self.agenda),
        }
    }

    fn connected(&mut self, id: ConnId) {
        if self.sessions.is_message(id) {
            if let Some(link_id) = self.sessions.connected(id)
                && let Some(link) = self.links.get_mut(link_id)
            {
                link.arrived(link_id, id, &mut self.names, &mut self.agenda);
            }
        } else if self.sessions.is_proxy(id) {
            self.sessions.proxy_connected(id, &mut self.names, &mut self.agenda);
        } else {
            let publications = &mut self.sessions.publications;
            self.gateway.greeted(id, &self.links, publications, &mut self.agenda);
        }
    }

    fn resolved(&mut self, name: NameId, lookup: Lookup) {
        let waiting = self.names.answer(name, lookup, &self.agenda);
        self.links.resolved(name, self.names.found(name));
        self.gateway.resolved(&self.names, &mut self.agenda);
        self.sessions.resolved(waiting, &mut self.names, &mut self.agenda);
    }

    fn control(&mut self, id: ConnId, frame: ControlFrame) {
        match self.links.of_control(id) {
            Some(link) => self.linked(id, link, frame),
            None => {
                if let ControlFrame::Welcome(welcome) = &frame {
                    let takes_changes = welcome.capabilities.takes_changes();
                    self.sessions.publications.welcomed(id, takes_changes, &mut self.agenda);
                }
                if self.gateway.control(id, frame, &mut self.names, &mut self.links, &mut self.agenda) {
                    self.sessions.publications.says_again(id);
                }
            }
        }
    }

    /// A frame arrived on a link.
    fn linked(&mut self, id: ConnId, link_id: LinkId, frame: ControlFrame) {
        let Client { gateway, links, names, sessions, agenda, .. } = self;
        let Some(link) = links.get_mut(link_id) else { return };
        link.heard(link_id, names, agenda);
        gateway.heard(link_id, agenda);
        let is_withdrawn = matches!(frame, ControlFrame::Withdrawn { .. });
        match frame {
            ControlFrame::Open { first_ticket, count } => {
                link.open(link_id, (first_ticket, count), sessions.counts().proved(), names, agenda);
            }
            ControlFrame::Ping => agenda.push(Output::Send { id, frame: ControlFrame::Pong }),
            ControlFrame::Pong | ControlFrame::Skipped => {}
            ControlFrame::Granted { number, addresses, is_probed } => {
                sessions.publications.granted(id, number, (addresses, is_probed), agenda);
            }
            ControlFrame::Denied { number, reason } | ControlFrame::Withdrawn { number, reason } => {
                if sessions.publications.denied(id, number, (reason, is_withdrawn), agenda) {
                    // Its users were reset there.
                    sessions.end_sessions(number, Some(link_id), names, agenda);
                }
            }
            ControlFrame::Drain => {
                sessions.publications.drains(id);
                link.drain();
                let stood = agenda.now.saturating_duration_since(link.welcomed);
                let before = gateway.server_drains(link_id, stood, agenda);
                if let Some(before) = before.and_then(|before| links.get(before)) {
                    agenda.reset(before.control, CloseReason::Replaced);
                }
            }
            _ => agenda.reset(id, CloseReason::ProtocolError),
        }
    }

    fn session(&mut self, id: ConnId, event: SessionEvent) {
        match event {
            SessionEvent::Start(start) => {
                let Client { links, names, sessions, agenda, .. } = self;
                if let Some(link_id) = sessions.link_of(id)
                    && let Some(link) = links.get_mut(link_id)
                {
                    sessions.begin(id, start, &mut link.seen, names, agenda);
                    let ([.., busy], others) =
                        (sessions.counts().of_link(link_id), sessions.counts().proved());
                    link.began(link_id, (busy, others), names, agenda);
                }
            }
            SessionEvent::Idle { .. } => self.sessions.ended(id, &self.names, &mut self.agenda),
            _ => {}
        }
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        let Client { gateway, links, names, sessions, agenda, .. } = self;
        agenda.at(id, None);
        sessions.publications.closed(id);
        if sessions.is_message(id) {
            if let Some(link) = sessions.message_gone(id, reason, agenda)
                && let Some(link) = links.get_mut(link)
            {
                link.failed(id, reason, names, agenda);
            }
        } else if let Some((link_id, link)) = links.remove(id) {
            agenda.fact(Fact::LinkLost { link: id, server: gateway.server().clone(), reason });
            sessions.reset_all_of(link_id, agenda);
            gateway.link_ended(link_id, agenda.now.saturating_duration_since(link.welcomed), agenda);
        } else if !sessions.proxy_gone(id, reason, traffic, names, agenda) {
            gateway.closed(id, reason, names, agenda);
        }
        self.exit_if_drained();
    }

    /// Another configuration takes the place of the one before. Links that stand keep their heartbeat.
    fn configure(&mut self, source: Arc<str>, difference: Box<ClientDifference>) {
        let mut limits = Limits::clone(&self.agenda.limits);
        limits.heartbeat = difference.heartbeat.unwrap_or(limits.heartbeat);
        limits.drain = difference.drain.unwrap_or(limits.drain);
        self.agenda.limits = Arc::new(limits);
        let leaving = self.draining.is_some();
        self.sessions.change(&difference, leaving, &mut self.names, &mut self.agenda);
        self.agenda.fact(Fact::ClientReloaded { source, difference });
    }

    fn drain(&mut self) {
        let time = self.agenda.limits.drain;
        self.draining = Some(self.agenda.now + time);
        self.agenda.fact(Fact::Draining { sessions: self.sessions.counts().users(), time });
        self.links.leave(&mut self.agenda);
        self.gateway.leave(&mut self.agenda);
        self.exit_if_drained();
    }

    /// Ends a client that has left the server, once local servers have taken the last bytes of sessions that are over.
    fn exit_if_drained(&mut self) {
        let has_left = self.gateway.has_left() && self.links.is_empty();
        if self.draining.is_some() && has_left && !self.sessions.has_proxies() {
            self.agenda.push(Output::Exit);
        }
    }
}

impl Machine for Client {
    fn handle(&mut self, input: Input, now: Instant) {
        self.agenda.now = now;
        match input {
            Input::Dialling { id, purpose } => self.dialling(id, purpose),
            Input::Connected { id } => self.connected(id),
            Input::Control { id, frame } => self.control(id, frame),
            Input::Measured { id, it } => {
                if let Some(link) = self.links.of_control(id).and_then(|link| self.links.get_mut(link)) {
                    link.measured(it, &mut self.agenda);
                }
            }
            Input::Woken => {
                self.links.woken(&mut self.agenda);
                self.gateway.woken(&self.agenda);
            }
            Input::Session { id, event } => self.session(id, event),
            Input::Resolved { name, lookup } => self.resolved(name, lookup),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            Input::Configure(configuration) => match *configuration {
                Configuration::Client { source, difference } => self.configure(source, difference),
                Configuration::Server { .. } => {}
            },
            Input::Unanswered { id } => self.sessions.unanswered(id),
            Input::Look => self.links.look(&mut self.agenda),
            Input::GiveUp => self.draining = Some(now),
            // A client listens nowhere.
            Input::Accepted { .. }
            | Input::TurnedAway { .. }
            | Input::Greeted { .. }
            | Input::Proved { .. }
            | Input::Answered { .. }
            | Input::ClockSet { .. }
            | Input::Listening { .. }
            | Input::ListenFailed { .. }
            | Input::Stopped { .. }
            | Input::Returned { .. } => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agenda.now = now;
        if self.gateway.due().is_some_and(|at| at <= now) {
            self.gateway.is_due(&mut self.names, &mut self.agenda);
        }
        while let Some(id) = self.agenda.next_due() {
            let others = self.sessions.counts().proved();
            if !self.links.is_due(id, others, &mut self.names, &mut self.agenda) {
                self.sessions.due(id, &mut self.names, &mut self.agenda);
            }
        }
        self.gateway.look_after(&self.links, &mut self.names, &mut self.agenda);
        if self.draining.take_if(|at| *at <= now).is_some() {
            self.agenda.fact(Fact::DrainOver { sessions: self.sessions.counts().users() });
            self.sessions.give_up(&mut self.agenda);
            self.agenda.push(Output::Exit);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.agenda.next_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.gateway.due(), self.draining, self.agenda.next_deadline()].into_iter().flatten().min()
    }

    fn survey(&self, survey: &mut Survey, rows: usize) {
        let Client { gateway, links, sessions, agenda, .. } = self;
        let fault = self.fault(survey.now);
        Surveyor { gateway, links, sessions, agenda, fault }.go_on(survey, rows);
    }
}
