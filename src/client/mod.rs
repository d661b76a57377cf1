//! The client's machine: staying connected to the server, keeping the pool filled as the server asks, and dialling
//! local servers.
//!
//! | file | what it owns |
//! |---|---|
//! | [`link`] | the way to the server |
//! | [`names`] | host names and their addresses |
//! | [`sessions`] | message connections, sessions, proxy connections |
//! | [`seen`] | which sessions have been seen |
//!
//! It closes no idle message connection of its own accord, and opens one only for a ticket.

mod link;
mod names;
mod seen;
mod sessions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::base::address::HostPort;
use crate::base::id::{ConnId, NameId};
use crate::config::ClientConfig;
use crate::config::limits::Limits;
use crate::machine::{Agenda, CloseReason, Dialled, Fact, Input, Machine, Output, SessionEvent, Traffic};
use crate::wire::control::PublicationNumber;
use link::{Link, Settings};
use names::Names;
use sessions::{Published, Sessions};

/// The client's machine.
pub struct Client {
    link: Link,
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
            name: add(&config.server),
            message_name: config.message.map(|host| (add(&host), host)),
            server: config.server,
        };
        let mut published = BTreeMap::new();
        for (number, (service, local)) in (1 as PublicationNumber..).zip(config.services) {
            let name = add(&local);
            published.insert(number, Published { service, local, name });
        }
        let sessions = Sessions::new(published);
        let mut agenda = Agenda::new(limits, jitter, now);
        agenda.fact(Fact::Connecting { server: settings.server.clone() });
        Client { link: Link::new(settings, now), names, sessions, agenda, draining: None }
    }

    fn dialling(&mut self, id: ConnId, purpose: Dialled) {
        match purpose {
            Dialled::Control => self.link.dialling(id),
            Dialled::Message => match self.link.message_address() {
                Some(address) => self.sessions.dialling(id, address),
                // The link ended meanwhile.
                None => {
                    self.sessions.not_dialled();
                    self.agenda.reset(id, CloseReason::LinkLost);
                }
            },
            Dialled::Proxy(message) => self.sessions.dialling_proxy(id, message, &mut self.agenda),
        }
    }

    fn connected(&mut self, id: ConnId) {
        if self.sessions.is_message(id) {
            self.sessions.connected(id);
        } else if !self.sessions.is_proxy(id) {
            self.link.greeted(id, &self.names, &self.sessions, &mut self.agenda);
        }
    }

    fn resolved(&mut self, name: NameId, addresses: Vec<SocketAddr>) {
        let waiting = self.names.answer(name, addresses, self.agenda.now);
        self.link.resolved(name, &mut self.names, &mut self.agenda);
        self.sessions.resolved(waiting, &mut self.names, &mut self.agenda);
    }

    fn session(&mut self, id: ConnId, event: SessionEvent) {
        match event {
            SessionEvent::Start(start) => {
                self.sessions.begin(id, start, &mut self.names, &mut self.agenda);
            }
            SessionEvent::Idle { .. } => self.sessions.ended(id, &mut self.agenda),
            _ => {}
        }
    }

    fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: Traffic) {
        let Client { link, names, sessions, agenda, .. } = self;
        agenda.at(id, None);
        if sessions.is_message(id) {
            if let Some(address) = sessions.message_gone(id) {
                link.message_failed(address, reason, agenda);
            }
        } else if !sessions.proxy_gone(id, reason, traffic, names, agenda) {
            link.closed(id, reason, names, sessions, agenda);
        }
        self.exit_if_drained();
    }

    fn drain(&mut self) {
        let time = self.agenda.limits.drain;
        self.draining = Some(self.agenda.now + time);
        self.agenda.fact(Fact::Draining { sessions: self.sessions.running_count(), time });
        self.link.leave(&mut self.agenda);
        self.exit_if_drained();
    }

    /// Ends a client that has left the server, once local servers have taken the last bytes of sessions that are over.
    fn exit_if_drained(&mut self) {
        if self.draining.is_some() && self.link.has_left() && !self.sessions.has_proxies() {
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
            Input::Control { id, frame } => {
                let Client { link, names, sessions, agenda, .. } = self;
                link.control(id, frame, names, sessions, agenda);
            }
            Input::Session { id, event } => self.session(id, event),
            Input::Resolved { name, addresses } => self.resolved(name, addresses),
            Input::Closed { id, reason, traffic } => self.closed(id, reason, traffic),
            Input::Drain => self.drain(),
            Input::GiveUp => self.draining = Some(now),
            // A client listens nowhere.
            Input::Accepted { .. }
            | Input::Greeted { .. }
            | Input::Proved { .. }
            | Input::Answered { .. }
            | Input::Listening { .. }
            | Input::ListenFailed { .. }
            | Input::Returned { .. } => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agenda.now = now;
        if self.link.due().is_some_and(|at| at <= now) {
            self.link.is_due(&mut self.names, &mut self.agenda);
        }
        while let Some(id) = self.agenda.next_due() {
            self.sessions.due(id, &mut self.agenda);
        }
        if self.draining.take_if(|at| *at <= now).is_some() {
            self.agenda.fact(Fact::DrainOver { sessions: self.sessions.running_count() });
            self.sessions.give_up(&mut self.agenda);
            self.agenda.push(Output::Exit);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.agenda.next_output()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.link.due(), self.draining, self.agenda.next_deadline()].into_iter().flatten().min()
    }
}
