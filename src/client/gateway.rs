//! The way to a server: dialling it, being admitted, saying what is published, and pauses before the next attempt.
//!
//! It leads to one current link. A link on which the server has said Drain is *draining*: its running sessions go on
//! while another link is sought, because a new server may take the place of the old one. There is one draining link
//! at most beside the current one.
//!
//! While the server of the current link owes an answer, another control connection is sought for that link, as for a
//! new one. If the old one is heard before it has said Hello, nothing has changed. Otherwise the Welcome says whether
//! the server has let it take the place of the old one, or knows the link no more: then that link is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dials::Dials;
use super::link::Links;
use super::message_port::MessagePort;
use super::names::Names;
use super::pauses::Pauses;
use super::publications::Publications;
use super::rounds::Rounds;
use super::settings::Settings;
use super::stage::{Begun, Stage};
use crate::base::address::HostPort;
use crate::base::id::{ConnId, LinkId};
use crate::base::name::Name;
use crate::base::round_trip::RoundTrip;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Manner, Output, Reason};
use crate::wire::control::{ControlFrame, Refusal, Welcome};

/// The way to a server.
pub(super) struct Gateway {
    settings: Settings,
    /// The current link.
    link: Option<LinkId>,
    stage: Stage,
    pauses: Pauses,
    /// When it wants attention: the end of a pause, or of the time for a Welcome, or when a dial is late.
    due: Option<Instant>,
    /// A dial that is late. It goes on, because the line may be slow, and others go on beside it, one after the other.
    /// The first that is proved wins.
    late: Option<Begun>,
    /// When people are told that the server does not answer.
    tell_at: Option<Instant>,
    /// What the last control connection took that was proved: to connect, and to be answered.
    took: Duration,
    /// The link on which the server has said Drain, while it stands.
    draining: Option<LinkId>,
    /// To the server, as its Welcomes took it.
    round_trip: RoundTrip,
    /// Which of the name's addresses this attempt has tried.
    rounds: Rounds,
    /// What an address said to this client in this attempt, unless it was told of. Others may take it.
    refusal: Option<Refusal>,
    /// The client leaves: no attempt follows.
    leaving: bool,
    /// Why the last attempt failed, or the last link ended; until the next link stands.
    reason: Option<Reason>,
    /// Where the server was reached last.
    address: Option<SocketAddr>,
}

impl Gateway {
    /// A way that is taken as soon as the machine is polled.
    pub fn new(settings: Settings, now: Instant) -> Gateway {
        Gateway {
            settings,
            link: None,
            stage: Stage::Pause,
            pauses: Pauses::default(),
            due: Some(now),
            late: None,
            tell_at: None,
            took: Duration::ZERO,
            draining: None,
            round_trip: RoundTrip::default(),
            rounds: Rounds::default(),
            refusal: None,
            leaving: false,
            reason: None,
            address: None,
        }
    }

    /// When it wants attention.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn server(&self) -> &HostPort {
        &self.settings.server
    }

    /// The key that is proved to it.
    pub fn key(&self) -> &Name {
        &self.settings.key.name
    }

    /// Where the server was reached last.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The current link, or why there is none, if that is known.
    pub fn current(&self) -> Result<LinkId, Option<Reason>> {
        self.link.ok_or_else(|| self.reason.clone())
    }

    /// Whether no attempt is made, and none is to come.
    pub fn has_left(&self) -> bool {
        self.leaving && matches!(self.stage, Stage::Pause)
    }

    /// Tells people what became of an attempt. Beside a link whose server is silent they know that.
    fn tell(&self, fact: Fact, agenda: &mut Agenda) {
        if self.link.is_none() {
            agenda.fact(fact);
        }
    }

    // To the server.

    /// Another control connection is sought for the current link, if its server owes an answer.
    pub fn look_after(&mut self, links: &Links, names: &mut Names, agenda: &mut Agenda) {
        let link = self.link.and_then(|link| links.get(link));
        let is_at_rest = matches!(self.stage, Stage::Pause) && self.due.is_none() && !self.leaving;
        if is_at_rest && link.is_some_and(|link| link.is_sought_anew(agenda)) {
            self.connect(names, agenda);
        }
    }

    /// The server was heard on a link: no other control connection is sought for it, unless one has said Hello.
    pub fn heard(&mut self, link: LinkId, agenda: &mut Agenda) {
        if self.link == Some(link) && !matches!(self.stage, Stage::Greeted(..)) {
            self.stop(agenda);
        }
    }

    /// Nothing is sought any more.
    fn stop(&mut self, agenda: &mut Agenda) {
        let begun = self.late.take().into_iter().chain(self.stage.begun());
        begun.for_each(|begun| agenda.reset(begun.id, CloseReason::Retired));
        (self.stage, self.due) = (Stage::Pause, None);
    }

    /// Begins an attempt: looks the names up anew, unless they need no resolver, or are known since a moment. What is
    /// known of the server's is used if no answer comes in a moment.
    fn connect(&mut self, names: &mut Names, agenda: &mut Agenda) {
        for id in self.settings.names() {
            match names.found(id) {
                [] => names.ask(id, agenda),
                _ => names.ask_again(id, agenda),
            }
        }
        (self.stage, self.due) = (Stage::Resolving, Some(agenda.now + agenda.limits.resolve_wait));
        self.resolved(names, agenda);
    }

    /// A name was looked up.
    pub fn resolved(&mut self, names: &Names, agenda: &mut Agenda) {
        // Only the server's own name is worth more than a moment: the control port admits message connections, too.
        let waits = names.is_asked(self.settings.name)
            || self.due.is_some() && self.settings.names().any(|id| names.is_asked(id));
        if matches!(self.stage, Stage::Resolving) && !waits {
            self.begin_to_dial(names, agenda);
        }
        // The name leads elsewhere by now.
        if let Stage::Dialling(begun) = self.stage
            && !names.found(self.settings.name).contains(&begun.address)
        {
            self.due = Some(agenda.now);
        }
    }

    fn begin_to_dial(&mut self, names: &Names, agenda: &mut Agenda) {
        self.due = None;
        (self.rounds, self.refusal) = (Rounds::default(), None);
        if names.found(self.settings.name).is_empty() || names.failure(self.settings.name).is_some() {
            names.tell_unresolved(self.settings.name, "the server", agenda);
            self.reason = Some(Reason::Unresolved(names.host(self.settings.name)));
        }
        self.dial_next(names, agenda);
    }

    /// Dials the next address, or makes a pause after the last one.
    fn dial_next(&mut self, names: &Names, agenda: &mut Agenda) {
        match self.rounds.next(names.found(self.settings.name)) {
            Some(address) if !self.leaving => self.dial(address, agenda),
            _ => self.give_up(agenda),
        }
    }

    /// No address is left in this attempt.
    fn give_up(&mut self, agenda: &mut Agenda) {
        let pause = match self.tell_refusal(agenda) {
            // The server asks meanwhile whether a client is there that has the place.
            Some(Refusal::Links { .. }) => self.pauses.next(agenda.limits.contest * 2, agenda),
            Some(_) => return self.pause_refused(agenda),
            None if self.rounds.has_denied() => return self.pause(agenda),
            // Nothing of it reached a server, which is to be found soon after it is back.
            None => agenda.jittered(agenda.limits.retry),
        };
        self.pause_for(pause, agenda);
    }

    /// Tells what an address has said to this client, because no other takes it, if one has said anything.
    fn tell_refusal(&mut self, agenda: &mut Agenda) -> Option<Refusal> {
        let refusal = self.refusal.take()?;
        agenda.fact(Fact::Refused { refusal });
        match (refusal, self.reason.replace(Reason::Refused(refusal))) {
            (Refusal::Links { .. }, Some(Reason::Refused(Refusal::Links { .. }))) => {}
            // The place may be free in a moment, and if it is not, pauses grow.
            (Refusal::Links { .. }, _) => self.pauses.forgive(Duration::MAX),
            _ => self.pauses.refused(),
        }
        Some(refusal)
    }

    fn dial(&mut self, address: SocketAddr, agenda: &mut Agenda) {
        (self.stage, self.due) = (Stage::Asked(address), None);
        let greeting = self.settings.greeting(agenda.limits.heartbeat);
        let deadline = agenda.now + agenda.limits.handshake;
        agenda.push(Output::Dial { dial: Dial::Control(greeting), address, deadline });
    }

    /// A control connection is dialled.
    pub fn dialling(&mut self, id: ConnId, names: &Names, agenda: &mut Agenda) {
        match self.stage {
            // Another dial has shown meanwhile that nothing proves itself there.
            Stage::Asked(address) if self.rounds.is_denied(address) => {
                agenda.reset(id, CloseReason::Retired);
                self.dial_next(names, agenda);
            }
            Stage::Asked(address) => {
                self.stage = Stage::Dialling(Begun { id, address, at: agenda.now });
                self.due = Some(agenda.now + self.patience(agenda));
            }
            // The one that was late has won meanwhile.
            _ => agenda.reset(id, CloseReason::Retired),
        }
    }

    /// How long the present dial may take until another is made.
    ///
    /// What the line loses is not left to the kernel, which tries again after 1 s, 3 s, 7 s and so on. Beside a dial
    /// that is late they are given up at a steady pace, because the server is to be found soon after it came back.
    /// Where no server was ever found the line may be slow, and each has as long as all before it together.
    fn patience(&self, agenda: &Agenda) -> Duration {
        let Some(late) = self.late else { return agenda.limits.late_after(self.took) };
        agenda.limits.retry.max(match self.took {
            Duration::ZERO => agenda.now.saturating_duration_since(late.at),
            took => took * 4,
        })
    }

    /// The server has proved itself: says Hello, and what is to be published.
    pub fn greeted(&mut self, id: ConnId, links: &Links, all: &mut Publications, agenda: &mut Agenda) {
        if let Stage::Greeted(..) = self.stage {
            return;
        }
        let (winner, loser) = match (self.stage.begun(), self.late) {
            (Some(begun), late) if begun.id == id => (begun, late),
            (begun, Some(late)) if late.id == id => (late, begun),
            // It was given up meanwhile.
            _ => return,
        };
        if let Some(loser) = loser {
            agenda.reset(loser.id, CloseReason::Retired);
            self.rounds.not_tried(loser.address);
        }
        self.late = None;
        self.took = agenda.now.saturating_duration_since(winner.at);
        self.stage = Stage::Greeted(winner, agenda.now);
        self.due = Some(agenda.now + agenda.limits.handshake);
        let link = self.link.and_then(|link| links.get(link));
        let resumes = link.and_then(|link| link.resumes(all.count()));
        let hello = self.settings.hello(agenda.limits.heartbeat, resumes);
        agenda.push(Output::Send { id, frame: ControlFrame::Hello(hello) });
        all.say_all(id, agenda);
    }

    // From the server.

    /// A frame arrived on a control connection that is no link's. Returns whether it has become the current link's, in
    /// the place of another one.
    pub fn control(
        &mut self,
        id: ConnId,
        frame: ControlFrame,
        names: &mut Names,
        links: &mut Links,
        agenda: &mut Agenda,
    ) -> bool {
        match (&self.stage, frame) {
            (&Stage::Greeted(begun, since), ControlFrame::Welcome(welcome)) if begun.id == id => {
                self.round_trip.measured(agenda.now.saturating_duration_since(since));
                names.worked(self.settings.name, begun.address, begun.at, since);
                return self.welcomed(begun, welcome, names, links, agenda);
            }
            // Another address may take this client.
            (&Stage::Greeted(begun, _), ControlFrame::Refused(refusal)) if begun.id == id => {
                agenda.close(id, CloseReason::Drained, Manner::Whole);
                self.refusal = Some(refusal);
                self.rounds.deny(begun.address);
                self.dial_next(names, agenda);
            }
            (&Stage::Greeted(begun, _), frame) if begun.id == id && frame != ControlFrame::Skipped => {
                agenda.reset(id, CloseReason::ProtocolError);
            }
            // What a connection says that was given up.
            _ => {}
        }
        false
    }

    fn welcomed(
        &mut self,
        Begun { id, address, .. }: Begun,
        welcome: Welcome,
        names: &mut Names,
        links: &mut Links,
        agenda: &mut Agenda,
    ) -> bool {
        let message_addresses = self.settings.message_addresses(address, &welcome, names);
        (self.reason, self.address) = (None, Some(address));
        (self.stage, self.due) = (Stage::Pause, None);
        self.pauses.not_soon();
        let before = self.link.and_then(|link| links.get(link)).map(|link| (link.wire_id(), link.control));
        let goes_on = self.link.filter(|_| before.is_some_and(|(wire_id, _)| wire_id == welcome.link));
        if let Some(link) = goes_on {
            links.renew(link, id, (address, &message_addresses), names, agenda);
        } else {
            agenda.fact(self.settings.connected(id, address));
            let dials = Dials::new(MessagePort::new(&message_addresses, address), self.took);
            self.link = links.add(self.settings.link(id, welcome, dials, self.round_trip, agenda));
            // The server knows that one no more.
            before.into_iter().for_each(|(_, before)| agenda.reset(before, CloseReason::LinkLost));
            if self.link.is_none() {
                agenda.reset(id, CloseReason::Full);
                self.pause(agenda);
            }
        }
        if self.leaving {
            agenda.push(Output::Send { id, frame: ControlFrame::Drain });
        }
        goes_on.is_some()
    }

    /// The server has said Drain on a link that stood for this time: another link is sought while its sessions go on.
    ///
    /// Returns the link that drained before, if it still stands: it must end, because two at once would soon be many.
    pub fn server_drains(&mut self, link: LinkId, stood: Duration, agenda: &mut Agenda) -> Option<LinkId> {
        if self.link != Some(link) {
            return None;
        }
        self.link = None;
        self.stop(agenda);
        agenda.fact(Fact::ServerDrains { server: self.settings.server.clone() });
        let before = self.draining.replace(link);
        if stood < agenda.limits.drain_sudden {
            self.pause_refused(agenda);
        } else {
            self.pauses.forgive(stood);
            // A new server may listen already.
            self.due = Some(agenda.now).filter(|_| !self.leaving);
            self.pauses.soon_until(agenda.now + agenda.limits.drain_seek);
        }
        before
    }

    // Time, and the end.

    /// The time of [`Gateway::due`] has come.
    pub fn is_due(&mut self, names: &mut Names, agenda: &mut Agenda) {
        self.due = None;
        match self.stage {
            Stage::Pause => self.connect(names, agenda),
            Stage::Resolving if !names.found(self.settings.name).is_empty() => {
                self.begin_to_dial(names, agenda);
            }
            Stage::Dialling(begun) => self.dial_beside(begun, names, agenda),
            // It may have said something, but not what was asked.
            Stage::Greeted(begun, _) => agenda.reset(begun.id, CloseReason::HandshakeTimedOut),
            _ => {}
        }
    }

    /// The present dial is late: another is made beside it, or in its place if there is one beside it already. The name
    /// may lead elsewhere by now.
    fn dial_beside(&mut self, begun: Begun, names: &mut Names, agenda: &mut Agenda) {
        names.ask_again(self.settings.name, agenda);
        match self.late {
            None => {
                self.late = Some(begun);
                self.tell_at = Some(begun.at + agenda.limits.late_told);
            }
            Some(_) => agenda.reset(begun.id, CloseReason::Retired),
        }
        if self.tell_at.take_if(|at| *at <= agenda.now).is_some() {
            let reason = CloseReason::HandshakeTimedOut;
            self.reason = Some(Reason::of_server(reason));
            self.tell(self.settings.unreachable(reason), agenda);
            self.tell_refusal(agenda);
        }
        match self.rounds.next_or_again(names.found(self.settings.name)) {
            Some(address) => self.dial(address, agenda),
            None => self.give_up(agenda),
        }
    }

    /// The system was suspended: what failed before that says nothing, and no answer comes to what was asked then.
    pub fn woken(&mut self, agenda: &Agenda) {
        if matches!(self.stage, Stage::Pause | Stage::Dialling(..)) {
            self.due = self.due.map(|_| agenda.now);
        }
    }

    /// Waits before the next attempt, because the last one cost a server work, or a link has ended.
    fn pause(&mut self, agenda: &mut Agenda) {
        let pause = self.pauses.usual(agenda);
        self.pause_for(pause, agenda);
    }

    /// Waits long, because the server has said no.
    fn pause_refused(&mut self, agenda: &mut Agenda) {
        let pause = self.pauses.after_refusal(agenda);
        self.pause_for(pause, agenda);
    }

    fn pause_for(&mut self, pause: Duration, agenda: &mut Agenda) {
        (self.stage, self.due) = (Stage::Pause, None);
        if !self.leaving {
            agenda.fact(Fact::NextAttempt { pause });
            self.due = Some(agenda.now + pause);
        }
    }

    /// A link is gone that stood for this time.
    pub fn link_ended(&mut self, link: LinkId, stood: Duration, agenda: &mut Agenda) {
        if self.draining == Some(link) {
            self.draining = None;
            self.pauses.not_soon();
        }
        if self.link == Some(link) {
            self.link = None;
            self.stop(agenda);
            self.reason = Some(Reason::NotConnected);
            self.pauses.forgive(stood);
            self.pause(agenda);
        }
    }

    /// A control connection is gone that was no link's. An address that was reached and has not proved itself would not
    /// answer another dial, either; the others of the name may.
    pub fn closed(&mut self, id: ConnId, reason: CloseReason, names: &Names, agenda: &mut Agenda) {
        let late = self.late.take_if(|late| late.id == id);
        let present = match self.stage {
            Stage::Greeted(begun, _) if begun.id == id => {
                self.reason = Some(Reason::NotConnected);
                self.tell(self.settings.not_welcomed(reason), agenda);
                self.rounds.deny(begun.address);
                return self.dial_next(names, agenda);
            }
            Stage::Dialling(begun) => Some(begun),
            _ => None,
        };
        let Some(gone) = late.or(present.filter(|begun| begun.id == id)) else { return };
        if reason != CloseReason::Retired {
            self.reason = Some(Reason::of_server(reason));
        }
        if !matches!(reason, CloseReason::DialFailed(_) | CloseReason::Retired) {
            self.tell(self.settings.unproved(reason), agenda);
            self.rounds.deny(gone.address);
        } else if late.is_some() {
            self.rounds.forgive();
        } else {
            self.tell(self.settings.unreachable(reason), agenda);
        }
        match present {
            Some(begun) if begun.id == id => self.dial_next(names, agenda),
            Some(begun) if self.rounds.is_denied(begun.address) => {
                agenda.reset(begun.id, CloseReason::Retired);
                self.dial_next(names, agenda);
            }
            // The other one may be late by now.
            Some(begun) => self.due = Some(agenda.now.max(begun.at + self.patience(agenda))),
            None => {}
        }
    }

    /// The client leaves: no attempt follows, and the one that has proved itself goes on to say so.
    pub fn leave(&mut self, agenda: &mut Agenda) {
        self.leaving = true;
        if !matches!(self.stage, Stage::Greeted(..)) {
            self.stop(agenda);
        }
    }
}
