//! Links: each from the server's Welcome to the end of its last control connection. A client may have two links to one
//! server, while the older one drains.
//!
//! What counts per link is kept here: its message connections on their way, which of its sessions were seen, and when
//! its server was heard.
//!
//! After an outage TCP pauses on the control connection for as long again as the line was down. New connections do not.
//! So when the server owes an answer, a message connection is dialled that it did not ask for, again and again until
//! one is proved. It serves the first user who waits, and more follow as these have sessions. Beside them another
//! control connection is sought, which takes the place of the silent one: the link goes on, with its sessions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dials::Dials;
use super::names::Names;
use super::seen::Seen;
use crate::base::id::{ConnId, LinkId, NameId, kind};
use crate::base::round_trip::RoundTrip;
use crate::base::slots::Slots;
use crate::base::table::Table;
use crate::machine::{
    Agenda, CloseReason, Fact, Greeting, Measured, Output, Reason, SILENT_AFTER, Silence, Verdict, quiet_for,
};
use crate::wire::control::{Capabilities, ControlFrame, Resumes};
use crate::wire::handshake::KeyId;

/// While somebody looks, it is asked again when it was not heard for this time.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(1);

/// Where a link stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Standing,
    /// The server has said Drain: running sessions go on, and nothing new is dialled.
    Draining,
}

/// A link.
pub(super) struct Link {
    pub control: ConnId,
    life: Life,
    pub welcomed: Instant,
    heartbeat: Duration,
    heard: Instant,
    /// The same; or when a message connection first showed after that that the line is back. The server has from then
    /// on until it is given up.
    alive: Instant,
    silence: Silence,
    /// As the server's answers took it.
    round_trip: RoundTrip,
    /// When the server's silence is looked at next.
    check_at: Instant,
    /// When it was pinged, if it has said nothing since.
    pinged_at: Option<Instant>,
    /// When a message connection is dialled that it did not ask for, if it says nothing until then. None for a silent
    /// server that is about to be given up: what is on its way may still show that the line is back.
    seek_at: Option<Instant>,
    /// When people are told that it is silent, if it says nothing until then.
    tell_at: Option<Instant>,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// What its message connections prove; each with a ticket of its own.
    greeting: Greeting,
    dials: Dials,
    /// The name of the host for message connections, if it is not the server's own.
    message_name: Option<NameId>,
    /// Its sessions that were seen.
    pub seen: Seen,
}

impl Link {
    /// A link whose server has been heard just now.
    pub fn new(
        control: ConnId,
        heartbeat: Duration,
        greeting: Greeting,
        dials: Dials,
        message_name: Option<NameId>,
        round_trip: RoundTrip,
        now: Instant,
    ) -> Link {
        Link {
            control,
            life: Life::Standing,
            welcomed: now,
            heartbeat,
            heard: now,
            alive: now,
            silence: Silence::default(),
            round_trip,
            check_at: now,
            pinged_at: None,
            seek_at: None,
            tell_at: None,
            capabilities: Capabilities::default(),
            greeting,
            dials,
            message_name,
            seen: Seen::default(),
        }
    }

    /// The server is asked for a sign of life when its next ping is late.
    pub fn await_ping(&mut self, agenda: &mut Agenda) {
        let late = self.pinged_again() + self.late_after(agenda);
        self.check_at = agenda.now + late.min(self.patience() / 2);
        self.schedule(agenda);
    }

    /// The server was heard.
    pub fn heard(&mut self, id: LinkId, names: &mut Names, agenda: &mut Agenda) {
        let was_told = self.pinged_at.is_some() && self.tell_at.is_none();
        if was_told {
            self.tell_back(None, agenda);
        }
        self.goes_on(id, names, agenda);
    }

    /// People are told that a silent server is heard again, on this control connection or on one that was before it.
    fn tell_back(&self, before: Option<ConnId>, agenda: &mut Agenda) {
        let (link, address) = (self.control, self.address());
        let silence = agenda.now.saturating_duration_since(self.heard);
        agenda.fact(Fact::ServerBack { link, before, address, silence });
    }

    fn goes_on(&mut self, id: LinkId, names: &mut Names, agenda: &mut Agenda) {
        (self.heard, self.alive) = (agenda.now, agenda.now);
        if self.pinged_at.take().is_some() {
            (self.seek_at, self.tell_at) = (None, None);
            self.dials.heard();
            self.dial(id, names, agenda);
        }
        self.await_ping(agenda);
    }

    /// So often the server pings, but not while a ping is on its way.
    fn pinged_again(&self) -> Duration {
        quiet_for(self.heartbeat).max(self.round_trip.smoothed())
    }

    /// Whether another control connection is to be sought, because the server owes an answer on this one.
    pub fn is_sought_anew(&self, agenda: &Agenda) -> bool {
        let is_late = |at: Instant| agenda.now >= at + self.late_after(agenda);
        self.life == Life::Standing && self.capabilities.resumes() && self.pinged_at.is_some_and(is_late)
    }

    /// What Hello says on another control connection, with so many publications.
    pub fn resumes(&self, publications: usize) -> Option<Resumes> {
        let (link, publications) = (self.wire_id(), u32::try_from(publications).ok()?);
        self.capabilities.resumes().then_some(Resumes { link, publications })
    }

    /// As its Welcome named it.
    pub fn wire_id(&self) -> KeyId {
        self.greeting.hello.key_id
    }

    /// When an answer is late.
    fn late_after(&self, agenda: &Agenda) -> Duration {
        agenda.limits.late.max(self.round_trip.times(3))
    }

    /// Where its server is.
    pub fn address(&self) -> SocketAddr {
        self.dials.port.control()
    }

    /// To its server and back.
    pub fn round_trip(&self) -> Duration {
        self.round_trip.smoothed()
    }

    /// How long the server may be silent.
    fn patience(&self) -> Duration {
        self.round_trip.wait(self.heartbeat)
    }

    fn schedule(&self, agenda: &mut Agenda) {
        let dial_at = [self.dials.due(agenda), self.seek_at];
        let dial_at = dial_at.into_iter().flatten().filter(|_| self.may_dial());
        agenda.at(self.control, Some(dial_at.chain(self.tell_at).fold(self.check_at, Instant::min)));
    }

    /// A server that drains has closed its ports, and one that is about to be given up is dialled no more.
    fn may_dial(&self) -> bool {
        self.life == Life::Standing && (self.pinged_at.is_none() || self.seek_at.is_some())
    }

    /// Dials message connections, if it may. Where one is late, the name of their host may lead elsewhere by now.
    fn dial(&mut self, id: LinkId, names: &mut Names, agenda: &mut Agenda) {
        if self.may_dial()
            && self.dials.go(id, &self.greeting, agenda)
            && let Some(name) = self.message_name
        {
            names.ask_again(name, agenda);
        }
        self.schedule(agenda);
    }

    /// Its time has come: to dial, to ask the server for a sign of life, or to give it up. There are so many `others`
    /// beside the message connections that are on their way.
    fn is_due(&mut self, id: LinkId, others: usize, names: &mut Names, agenda: &mut Agenda) {
        if agenda.now >= self.check_at {
            match self.silence.judge(self.alive, self.patience(), agenda.now) {
                Verdict::GiveUp => {
                    let coming = self.dials.in_time_until(agenda).filter(|_| self.seek_at.take().is_some());
                    let Some(until) = coming else {
                        let silence = agenda.now.saturating_duration_since(self.heard);
                        agenda.fact(Fact::ServerSilent { link: self.control, silence });
                        return agenda.reset(self.control, CloseReason::HeartbeatLost);
                    };
                    // The server may have given a user to it already.
                    self.silence.ends_at(self.alive, until);
                }
                Verdict::Ask => agenda.push(Output::Measure(self.control)),
                Verdict::Wait => self.ping(agenda),
            }
            self.check_at = self.silence.until(self.alive, self.patience());
        }
        if self.tell_at.take_if(|at| *at <= agenda.now).is_some() {
            let silence = agenda.now.saturating_duration_since(self.heard);
            agenda.fact(Fact::ServerSilent { link: self.control, silence });
        }
        if self.seek_at.is_some_and(|at| at <= agenda.now) {
            self.seek_at = Some(agenda.now + agenda.limits.retry);
            if !self.dials.has_good(agenda.now) {
                self.dials.take((self.dials.next(), 1), others, self.round_trip, agenda);
            }
            self.dials.seek(agenda.now);
        }
        self.dial(id, names, agenda);
    }

    fn ping(&mut self, agenda: &mut Agenda) {
        if self.pinged_at.is_none() {
            (self.pinged_at, self.seek_at) = (Some(agenda.now), Some(agenda.now + self.late_after(agenda)));
            self.tell_at = Some(agenda.now + self.round_trip.wait(SILENT_AFTER));
        }
        agenda.push(Output::Send { id: self.control, frame: ControlFrame::Ping });
    }

    /// Somebody looks: the server is asked for a sign of life, unless it has given one a moment ago or is asked
    /// already.
    fn look(&mut self, agenda: &mut Agenda) {
        if self.pinged_at.is_none() && agenda.now >= self.heard + LOOKED_AT_AGAIN {
            self.ping(agenda);
        }
    }

    /// Why nothing can be served over it, if that is so. Some message connections wait for sessions, or none does.
    pub fn fault(&self, has_idle: bool, now: Instant) -> Option<Reason> {
        match self.is_silent(now) {
            true => Some(Reason::ServerSilent(now.saturating_duration_since(self.heard))),
            false => self.message_fault(now).filter(|_| !has_idle).cloned(),
        }
    }

    /// Whether the server is said to be silent.
    fn is_silent(&self, now: Instant) -> bool {
        self.pinged_at.is_some_and(|at| now >= at + self.round_trip.wait(SILENT_AFTER))
    }

    /// Why the message port does not work, if it does not.
    pub fn message_fault(&self, now: Instant) -> Option<&Reason> {
        self.dials.port.fault(now)
    }

    /// It is known how soon the server is tried again.
    pub fn measured(&mut self, it: Measured, agenda: &mut Agenda) {
        self.silence.measured(self.alive, self.patience(), None, it, agenda.now);
        self.check_at = self.silence.until(self.alive, self.patience());
        self.schedule(agenda);
    }

    /// The system was suspended: the server may have given this link up.
    fn woken(&mut self, agenda: &mut Agenda) {
        self.check_at = agenda.now + self.round_trip.wait(agenda.limits.woken);
        self.silence.ends_at(self.alive, self.check_at);
        self.ping(agenda);
        self.schedule(agenda);
    }

    /// The server drains: it takes no message connection any more.
    pub fn drain(&mut self) {
        self.life = Life::Draining;
        self.dials.stop();
    }

    // Message connections; `id` is this link's.

    /// Dials message connections, one per ticket; there are so many beside those that are on their way.
    pub fn open(
        &mut self,
        id: LinkId,
        (first_ticket, count): (u64, u32),
        others: usize,
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        if self.life == Life::Draining {
            return;
        }
        if let Some(name) = self.message_name {
            if names.failure(name).is_some() {
                names.tell_unresolved(name, "message connections", agenda);
                names.ask_again(name, agenda);
            }
            // The control port serves, too: nothing waits for the answer.
            names.consult(name, agenda);
        }
        self.dials.take((first_ticket, count), others, self.round_trip, agenda);
        self.dial(id, names, agenda);
    }

    /// A message connection is dialled; false if it is not wanted any more.
    pub fn dialling(&mut self, message: ConnId, agenda: &mut Agenda) -> bool {
        let is_wanted = self.dials.begun(message, agenda);
        self.schedule(agenda);
        is_wanted
    }

    /// A message connection is proved.
    pub fn arrived(&mut self, id: LinkId, message: ConnId, names: &mut Names, agenda: &mut Agenda) {
        // Connecting took one, and the answer another.
        if let Some(took) = self.dials.arrived(message, agenda) {
            self.round_trip.measured(took / 2);
        }
        if self.pinged_at.is_some() {
            if self.alive == self.heard {
                self.alive = agenda.now;
                self.check_at = self.silence.until(self.alive, self.patience());
            }
            // It may be down again.
            self.seek_at = Some(agenda.now + self.pinged_again() + self.late_after(agenda));
        }
        self.dial(id, names, agenda);
    }

    /// A session has begun, one of so many; message connections that are proved are so many `others`. The next users
    /// need some that the server cannot ask for, if its control connection is dead and others are not.
    pub fn began(
        &mut self,
        id: LinkId,
        (busy, others): (usize, usize),
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        if self.life == Life::Standing && self.pinged_at.is_some() && self.alive > self.heard {
            let missing = self.dials.missing(busy);
            self.dials.take((self.dials.next(), missing as u32), others, self.round_trip, agenda);
            self.dial(id, names, agenda);
        }
    }

    /// A message connection could not be made. The name of its host may lead elsewhere by now, and the server is told
    /// which ticket will not come.
    pub fn failed(&mut self, message: ConnId, reason: CloseReason, names: &mut Names, agenda: &mut Agenda) {
        // A server that drains has closed its ports.
        if self.life == Life::Standing {
            if let Some(name) = self.message_name {
                names.ask_again(name, agenda);
            }
            if let Some(first_ticket) = self.dials.failed(message, reason, agenda) {
                let frame = ControlFrame::Void { first_ticket, count: 1 };
                agenda.push(Output::Send { id: self.control, frame });
            }
            self.schedule(agenda);
        }
    }
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    slots: Slots<kind::Link, Link>,
    controls: Table<kind::Connection, LinkId>,
}

impl Links {
    /// Adds a link; `None` if there are as many as can be named.
    pub fn add(&mut self, link: Link) -> Option<LinkId> {
        let control = link.control;
        let id = self.slots.insert(link).ok()?;
        self.controls.insert(control, id);
        Some(id)
    }

    /// Forgets the link whose control connection is gone.
    pub fn remove(&mut self, control: ConnId) -> Option<(LinkId, Link)> {
        let id = self.controls.remove(control)?;
        self.slots.remove(id).map(|link| (id, link))
    }

    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id)
    }

    /// The link that a control connection is the head of.
    pub fn of_control(&self, control: ConnId) -> Option<LinkId> {
        self.controls.get(control).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.slots.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A control connection's deadline has come; false if it is none of a link.
    pub fn is_due(&mut self, control: ConnId, others: usize, names: &mut Names, agenda: &mut Agenda) -> bool {
        let Some(id) = self.of_control(control) else { return false };
        if let Some(link) = self.slots.get_mut(id) {
            link.is_due(id, others, names, agenda);
        }
        true
    }

    /// Another control connection takes the place of a link's silent one: its server goes on with it there, at these
    /// addresses.
    pub fn renew(
        &mut self,
        id: LinkId,
        control: ConnId,
        (address, message_addresses): (SocketAddr, &[SocketAddr]),
        names: &mut Names,
        agenda: &mut Agenda,
    ) {
        let Some(link) = self.slots.get_mut(id) else { return };
        let before = std::mem::replace(&mut link.control, control);
        self.controls.remove(before);
        self.controls.insert(control, id);
        agenda.at(before, None);
        agenda.reset(before, CloseReason::Replaced);
        link.dials.port.move_to(address, message_addresses);
        link.tell_back(Some(before), agenda);
        link.goes_on(id, names, agenda);
    }

    /// Somebody looks.
    pub fn look(&mut self, agenda: &mut Agenda) {
        self.slots.iter_mut().for_each(|(_, link)| link.look(agenda));
    }

    /// The system was suspended.
    pub fn woken(&mut self, agenda: &mut Agenda) {
        self.slots.iter_mut().for_each(|(_, link)| link.woken(agenda));
    }

    /// A name was resolved: message connections of links that it leads are dialled at its addresses.
    pub fn resolved(&mut self, name: NameId, addresses: &[SocketAddr]) {
        let ids: Vec<LinkId> = self.slots.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(link) = self.slots.get_mut(id)
                && link.message_name == Some(name)
            {
                link.dials.port.lead_to(addresses);
            }
        }
    }

    /// The client leaves: it says so on each link, and waits for the server to end it.
    pub fn leave(&self, agenda: &mut Agenda) {
        for (_, link) in self.slots.iter() {
            agenda.push(Output::Send { id: link.control, frame: ControlFrame::Drain });
        }
    }
}
