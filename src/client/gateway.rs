//! The way to a server: dialling it, being admitted, saying what is published, and pauses before the next attempt.
//!
//! It leads to one current link. A link on which the server has said Drain is *draining*: its running sessions go on
//! while another link is sought, because a new server may take the place of the old one. There is one draining link
//! at most beside the current one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dials::Dials;
use super::link::{Link, Links};
use super::names::Names;
use super::publications::Publications;
use super::settings::Settings;
use crate::base::address::HostPort;
use crate::base::id::{ConnId, LinkId};
use crate::base::name::Name;
use crate::base::round_trip::RoundTrip;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Greeting, Manner, Output, Reason};
use crate::wire::control::{Capabilities, ControlFrame, Hello, VERSIONS, Welcome};
use crate::wire::handshake::{ClearHello, Purpose, Suite, key_id};

/// Failures that a refusal counts for: nothing changes by itself, so the pauses are long at once.
const REFUSAL_FAILURES: u32 = 8;
/// A link that stood so many times as long as the last pause was no failure: pauses are short again after it.
const STOOD_PAUSES: u32 = 10;

/// The way to a server.
pub(super) struct Gateway {
    settings: Settings,
    suite: Suite,
    stage: Stage,
    /// Attempts that failed, and links that did not stand long, since the last link that did.
    failures: u32,
    last_pause: Duration,
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
    /// Until when another link is tried for often, because the one before drains.
    sought_until: Option<Instant>,
    /// To the server, as its Welcomes took it.
    round_trip: RoundTrip,
    /// Addresses that are tried next in this attempt.
    left: VecDeque<SocketAddr>,
    /// The client leaves: no attempt follows.
    leaving: bool,
    /// Why the last attempt failed, or the last link ended; until the next link stands.
    reason: Option<Reason>,
    /// Where the server was reached last.
    address: Option<SocketAddr>,
}

/// A dial that has begun.
#[derive(Clone, Copy)]
struct Begun {
    id: ConnId,
    address: SocketAddr,
    at: Instant,
}

/// How far the way to the current link has come.
enum Stage {
    /// Nothing, until the gateway is due.
    Pause,
    /// Names are resolved.
    Resolving,
    /// A control connection is asked for, to this address.
    Asked(SocketAddr),
    /// A control connection is on its way.
    Dialling(Begun),
    /// Proved, and Hello is said at this time; waiting for `Welcome`.
    Greeted(ConnId, SocketAddr, Instant),
    /// The server has said that it does not take this client; the connection closes.
    Refused(ConnId),
    /// Admitted: this is the current link.
    Up(LinkId),
}

impl Gateway {
    /// A way that is taken as soon as the machine is polled.
    pub fn new(settings: Settings, now: Instant) -> Gateway {
        Gateway {
            settings,
            suite: Suite::preferred(),
            stage: Stage::Pause,
            failures: 0,
            last_pause: Duration::ZERO,
            due: Some(now),
            late: None,
            tell_at: None,
            took: Duration::ZERO,
            draining: None,
            sought_until: None,
            round_trip: RoundTrip::default(),
            left: VecDeque::new(),
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
        match self.stage {
            Stage::Up(link) => Ok(link),
            _ => Err(self.reason.clone()),
        }
    }

    /// Whether no attempt is made, and none is to come.
    pub fn has_left(&self) -> bool {
        self.leaving && matches!(self.stage, Stage::Pause)
    }

    // To the server.

    /// Begins an attempt: looks the names up anew, unless they need no resolver. What is known of the server's is used
    /// if no answer comes in a moment.
    fn connect(&mut self, names: &mut Names, agenda: &mut Agenda) {
        for id in self.settings.names() {
            names.ask(id, agenda);
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
    }

    fn begin_to_dial(&mut self, names: &Names, agenda: &mut Agenda) {
        self.due = None;
        self.left = names.found(self.settings.name).iter().copied().collect();
        if self.left.is_empty() || names.failure(self.settings.name).is_some() {
            names.tell_unresolved(self.settings.name, "the server", agenda);
            self.reason = Some(Reason::Unresolved(names.host(self.settings.name)));
        }
        self.dial_next(agenda);
    }

    /// Dials the next address, or makes a pause after the last one.
    fn dial_next(&mut self, agenda: &mut Agenda) {
        match self.left.pop_front() {
            Some(address) => self.dial(address, agenda),
            None => self.pause(agenda),
        }
    }

    fn dial(&mut self, address: SocketAddr, agenda: &mut Agenda) {
        (self.stage, self.due) = (Stage::Asked(address), None);
        let secret = self.settings.key.secret.clone();
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Control, key_id: key_id(&secret) };
        let heartbeat = agenda.limits.heartbeat;
        let greeting = Greeting { hello, secret, ticket: 0, plain: false, heartbeat };
        let deadline = agenda.now + agenda.limits.handshake;
        agenda.push(Output::Dial { dial: Dial::Control(greeting), address, deadline });
    }

    /// A control connection is dialled.
    pub fn dialling(&mut self, id: ConnId, agenda: &mut Agenda) {
        match self.stage {
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
    pub fn greeted(
        &mut self,
        id: ConnId,
        names: &mut Names,
        publications: &mut Publications,
        agenda: &mut Agenda,
    ) {
        let dialled = match self.stage {
            Stage::Dialling(begun) => Some(begun),
            Stage::Pause | Stage::Resolving | Stage::Asked(_) => None,
            _ => return,
        };
        let (winner, loser) = match (dialled, self.late) {
            (Some(begun), late) if begun.id == id => (begun, late),
            (begun, Some(late)) if late.id == id => (late, begun),
            // It was given up meanwhile.
            _ => return,
        };
        loser.iter().for_each(|loser| agenda.reset(loser.id, CloseReason::Retired));
        self.late = None;
        let Begun { address, at, .. } = winner;
        self.took = agenda.now.saturating_duration_since(at);
        names.worked(self.settings.name, address, at, agenda.now);
        self.stage = Stage::Greeted(id, address, agenda.now);
        self.due = Some(agenda.now + agenda.limits.handshake);
        let hello = Hello {
            versions: VERSIONS,
            capabilities: Capabilities::new(self.settings.plain),
            heartbeat: agenda.limits.heartbeat,
            instance: self.settings.instance,
        };
        agenda.push(Output::Send { id, frame: ControlFrame::Hello(hello) });
        publications.say_all(id, agenda);
    }

    // From the server.

    /// A frame arrived on a control connection that is no link's.
    pub fn control(
        &mut self,
        id: ConnId,
        frame: ControlFrame,
        names: &Names,
        links: &mut Links,
        agenda: &mut Agenda,
    ) {
        match (&self.stage, frame) {
            (&Stage::Greeted(control, address, since), ControlFrame::Welcome(welcome)) if control == id => {
                self.round_trip.measured(agenda.now.saturating_duration_since(since));
                self.welcomed(id, address, welcome, names, links, agenda);
            }
            (&Stage::Greeted(control, ..), ControlFrame::Refused(refusal)) if control == id => {
                agenda.fact(Fact::Refused { refusal });
                self.reason = Some(Reason::Refused(refusal));
                (self.stage, self.due) = (Stage::Refused(id), None);
                agenda.close(id, CloseReason::Drained, Manner::Whole);
            }
            (&Stage::Greeted(control, ..), frame) if control == id && frame != ControlFrame::Skipped => {
                agenda.reset(id, CloseReason::ProtocolError);
            }
            // What a connection says that was given up.
            _ => {}
        }
    }

    fn welcomed(
        &mut self,
        id: ConnId,
        address: SocketAddr,
        welcome: Welcome,
        names: &Names,
        links: &mut Links,
        agenda: &mut Agenda,
    ) {
        let (server, key) = (self.settings.server.clone(), self.settings.key.name.clone());
        agenda.fact(Fact::Connected { link: id, server, address, key });
        // The same address, with its scope if it is a link-local one.
        let mut message_address = address;
        message_address.set_port(welcome.message_port);
        let message_addresses = match self.settings.message_name {
            Some(name) => names.found(name),
            None => &[message_address],
        };
        let dials = Dials::new(message_addresses, address, self.took);
        let limits = &agenda.limits;
        let heartbeat = limits.heartbeat.min(welcome.heartbeat).max(limits.heartbeat_min);
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Message, key_id: welcome.link };
        let (secret, plain) = (welcome.pool_key, self.settings.plain);
        let greeting = Greeting { hello, secret, ticket: 0, plain, heartbeat };
        let message_name = self.settings.message_name;
        let mut link = Link::new(id, heartbeat, greeting, dials, message_name, self.round_trip, agenda.now);
        link.heard(agenda);
        (self.reason, self.address) = (None, Some(address));
        match links.add(link) {
            Some(link) => self.stage = Stage::Up(link),
            None => return agenda.reset(id, CloseReason::Full),
        }
        (self.due, self.sought_until) = (None, None);
        if self.leaving {
            agenda.push(Output::Send { id, frame: ControlFrame::Drain });
        }
    }

    /// The server has said Drain on a link that stood for this time: another link is sought while its sessions go on.
    ///
    /// Returns the link that drained before, if it still stands: it must end, because two at once would soon be many.
    pub fn server_drains(&mut self, link: LinkId, stood: Duration, agenda: &mut Agenda) -> Option<LinkId> {
        if !matches!(self.stage, Stage::Up(current) if current == link) {
            return None;
        }
        agenda.fact(Fact::ServerDrains { server: self.settings.server.clone() });
        let before = self.draining.replace(link);
        if stood < agenda.limits.drain_sudden {
            self.pause_refused(agenda);
        } else {
            self.forgive(stood);
            self.stage = Stage::Pause;
            // A new server may listen already.
            self.due = Some(agenda.now).filter(|_| !self.leaving);
            self.sought_until = Some(agenda.now + agenda.limits.drain_seek);
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
            Stage::Greeted(id, ..) => agenda.reset(id, CloseReason::HandshakeTimedOut),
            _ => {}
        }
    }

    /// The present dial is late: another is made beside it, or in its place if there is one beside it already.
    fn dial_beside(&mut self, begun: Begun, names: &Names, agenda: &mut Agenda) {
        match self.late {
            None => {
                self.late = Some(begun);
                self.tell_at = Some(begun.at + agenda.limits.late_told);
            }
            Some(_) => agenda.reset(begun.id, CloseReason::Retired),
        }
        if self.tell_at.take_if(|at| *at <= agenda.now).is_some() {
            let (server, reason) = (self.settings.server.clone(), CloseReason::HandshakeTimedOut);
            self.reason = Some(Reason::of_server(reason));
            agenda.fact(Fact::ServerUnreachable { server, reason });
        }
        if self.left.is_empty() {
            self.left.extend(names.found(self.settings.name));
        }
        let other = self.left.pop_front().unwrap_or(begun.address);
        self.dial(other, agenda);
    }

    /// The system was suspended: what failed before that says nothing, and no answer comes to what was asked then.
    pub fn woken(&mut self, agenda: &Agenda) {
        if matches!(self.stage, Stage::Pause | Stage::Dialling(..)) {
            self.due = self.due.map(|_| agenda.now);
        }
    }

    /// Waits before the next attempt.
    fn pause(&mut self, agenda: &mut Agenda) {
        if self.sought_until.is_some_and(|until| agenda.now < until) {
            let pause = agenda.jittered(agenda.limits.drain_retry);
            self.pause_for(pause, agenda);
        } else {
            let (least, _) = agenda.limits.reconnect;
            self.pause_from(least, agenda);
        }
    }

    /// Waits long, because the server has said no.
    fn pause_refused(&mut self, agenda: &mut Agenda) {
        (self.failures, self.sought_until) = (self.failures.max(REFUSAL_FAILURES), None);
        self.pause_from(agenda.limits.refused, agenda);
    }

    /// Full jitter between `least` and a cap that doubles with each failure.
    fn pause_from(&mut self, least: Duration, agenda: &mut Agenda) {
        let (first, most) = agenda.limits.reconnect;
        let cap = first.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(most);
        let pause = least + cap.saturating_sub(least).mul_f64(agenda.chance());
        (self.failures, self.last_pause) = (self.failures.saturating_add(1), pause);
        self.pause_for(pause, agenda);
    }

    fn pause_for(&mut self, pause: Duration, agenda: &mut Agenda) {
        (self.stage, self.due) = (Stage::Pause, None);
        if !self.leaving {
            agenda.fact(Fact::NextAttempt { pause });
            self.due = Some(agenda.now + pause);
        }
    }

    /// A link stood for this time. A server that admits and leaves at once is not dialled ten times a second for ever.
    fn forgive(&mut self, stood: Duration) {
        if stood >= self.last_pause * STOOD_PAUSES {
            self.failures = 0;
        }
    }

    /// A link is gone that stood for this time.
    pub fn link_ended(&mut self, link: LinkId, stood: Duration, agenda: &mut Agenda) {
        if self.draining == Some(link) {
            (self.draining, self.sought_until) = (None, None);
        }
        if matches!(self.stage, Stage::Up(current) if current == link) {
            self.reason = Some(Reason::NotConnected);
            self.forgive(stood);
            self.pause(agenda);
        }
    }

    /// A control connection is gone that was no link's.
    pub fn closed(&mut self, id: ConnId, reason: CloseReason, agenda: &mut Agenda) {
        let server = self.settings.server.clone();
        if self.late.take_if(|late| late.id == id).is_some() {
            let is_unproved = !matches!(reason, CloseReason::DialFailed(_) | CloseReason::Retired);
            if reason != CloseReason::Retired {
                self.reason = Some(Reason::of_server(reason));
            }
            if is_unproved {
                let key = self.settings.key.name.clone();
                agenda.fact(Fact::ServerUnproved { server, key, reason });
            }
            match self.stage {
                // The server took a connection and did not answer it. It would not answer this one, either.
                Stage::Dialling(begun) if is_unproved => {
                    agenda.reset(begun.id, CloseReason::Retired);
                    self.pause(agenda);
                }
                // The one that is asked for is reset as soon as it begins.
                Stage::Asked(_) if is_unproved => self.pause(agenda),
                // The other one may be late by now.
                Stage::Dialling(begun) => {
                    self.due = Some(agenda.now.max(begun.at + self.patience(agenda)));
                }
                _ => {}
            }
            return;
        }
        match self.stage {
            Stage::Greeted(control, ..) if control == id => {
                self.reason = Some(Reason::NotConnected);
                agenda.fact(Fact::NotWelcomed { server, reason });
                self.pause(agenda);
            }
            Stage::Refused(control) if control == id => self.pause_refused(agenda),
            Stage::Dialling(begun) if begun.id == id => {
                self.reason = Some(Reason::of_server(reason));
                agenda.fact(match reason {
                    CloseReason::DialFailed(_) => Fact::ServerUnreachable { server, reason },
                    _ => Fact::ServerUnproved { server, key: self.settings.key.name.clone(), reason },
                });
                self.dial_next(agenda);
            }
            _ => {}
        }
    }

    /// The client leaves: no attempt follows, and the one that has proved itself goes on to say so.
    pub fn leave(&mut self) {
        (self.leaving, self.late) = (true, None);
        if matches!(self.stage, Stage::Pause | Stage::Resolving | Stage::Asked(_) | Stage::Dialling(_)) {
            (self.stage, self.due) = (Stage::Pause, None);
        }
    }
}
