//! The way to the server: dialling it, being admitted, publishing, message connections as it asks for them, and its
//! silence.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::names::Names;
use super::sessions::Sessions;
use crate::base::address::HostPort;
use crate::base::id::{ConnId, NameId};
use crate::config::Key;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Greeting, Manner, Output};
use crate::wire::control::{Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want, Welcome};
use crate::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};

/// Failures that a refusal counts for: nothing changes by itself, so the pauses are long at once.
const REFUSAL_FAILURES: u32 = 8;

/// What the link is made with.
pub(super) struct Settings {
    pub key: Key,
    /// Random per process.
    pub instance: [u8; 16],
    pub plain: bool,
    pub server: HostPort,
    /// The server's name.
    pub name: NameId,
    /// The name of the host for message connections, if it is another.
    pub message_name: Option<(NameId, HostPort)>,
}

/// The way to the server.
pub(super) struct Link {
    settings: Settings,
    suite: Suite,
    stage: Stage,
    /// Attempts since the last good frame.
    failures: u32,
    /// When it wants attention: the end of a pause, or of the server's silence.
    due: Option<Instant>,
    /// The client leaves: no attempt follows.
    leaving: bool,
}

/// How far the link has come.
enum Stage {
    /// Nothing, until the link is due.
    Pause,
    /// Names are resolved.
    Resolving,
    /// A control connection is on its way to the address with this index; it has an id once it is dialled.
    Dialling(usize, Option<ConnId>),
    /// Proved; waiting for `Welcome`.
    Greeted(ConnId, SocketAddr),
    /// Admitted.
    Up(Up),
}

/// A link that stands.
struct Up {
    control: ConnId,
    wire_id: KeyId,
    pool_key: Secret,
    /// Where message connections are dialled: the address that is tried next comes first.
    message_addresses: VecDeque<SocketAddr>,
    heartbeat: Duration,
    heard: Instant,
}

impl Link {
    /// A link that is dialled as soon as the machine is polled.
    pub fn new(settings: Settings, now: Instant) -> Link {
        let suite = Suite::preferred();
        Link { settings, suite, stage: Stage::Pause, failures: 0, due: Some(now), leaving: false }
    }

    /// When it wants attention.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether there is nothing left of it, and nothing to come.
    pub fn has_left(&self) -> bool {
        self.leaving && matches!(self.stage, Stage::Pause)
    }

    // To the server.

    /// Begins an attempt: resolves the server's name anew, unless it is numeric.
    fn connect(&mut self, names: &mut Names, agenda: &mut Agenda) {
        self.due = None;
        let message_name = self.settings.message_name.as_ref().map(|name| name.0);
        let mut pending = false;
        for id in [Some(self.settings.name), message_name].into_iter().flatten() {
            if names.must_be_asked(id) {
                names.ask(id, agenda);
                pending = true;
            }
        }
        if pending {
            self.stage = Stage::Resolving;
        } else {
            self.dial(0, names, agenda);
        }
    }

    /// A name was resolved, or not.
    pub fn resolved(&mut self, name: NameId, names: &mut Names, agenda: &mut Agenda) {
        let message_name = self.settings.message_name.as_ref().map(|name| name.0);
        if message_name == Some(name)
            && let Stage::Up(up) = &mut self.stage
        {
            up.message_addresses = names.found(name).iter().copied().collect();
        }
        let pending =
            [Some(self.settings.name), message_name].into_iter().flatten().any(|id| names.is_asked(id));
        if matches!(self.stage, Stage::Resolving) && !pending {
            self.dial(0, names, agenda);
        }
    }

    fn dial(&mut self, index: usize, names: &Names, agenda: &mut Agenda) {
        let Some(&address) = names.found(self.settings.name).get(index) else {
            if index == 0 {
                let host = self.settings.server.clone();
                agenda.fact(Fact::Unresolved { host, purpose: "the server" });
            }
            return self.pause(agenda);
        };
        self.stage = Stage::Dialling(index, None);
        let secret = self.settings.key.secret.clone();
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Control, key_id: key_id(&secret) };
        let greeting = Greeting { hello, secret, ticket: 0, plain: false };
        let deadline = agenda.now + agenda.limits.handshake;
        agenda.push(Output::Dial { dial: Dial::Control(greeting), address, deadline });
    }

    /// Waits before the next attempt: full jitter below a cap that doubles with each failure.
    fn pause(&mut self, agenda: &mut Agenda) {
        self.stage = Stage::Pause;
        if self.leaving {
            self.due = None;
            return;
        }
        let (least, most) = agenda.limits.reconnect;
        let cap = least.saturating_mul(2u32.saturating_pow(self.failures.min(16))).min(most);
        let pause = least + cap.saturating_sub(least).mul_f64(agenda.chance());
        self.failures = self.failures.saturating_add(1);
        agenda.fact(Fact::NextAttempt { pause });
        self.due = Some(agenda.now + pause);
    }

    /// A control connection is dialled.
    pub fn dialling(&mut self, id: ConnId) {
        if let Stage::Dialling(_, dialled) = &mut self.stage {
            *dialled = Some(id);
        }
    }

    /// The server has proved itself: says Hello, and what is to be published.
    pub fn greeted(&mut self, id: ConnId, names: &Names, sessions: &Sessions, agenda: &mut Agenda) {
        let Stage::Dialling(index, Some(dialled)) = self.stage else { return };
        if dialled != id {
            return;
        }
        let Some(&address) = names.found(self.settings.name).get(index) else { return };
        self.stage = Stage::Greeted(id, address);
        self.due = Some(agenda.now + agenda.limits.handshake);
        let hello = Hello {
            versions: VERSIONS,
            capabilities: Capabilities::new(self.settings.plain),
            heartbeat: agenda.limits.heartbeat,
            instance: self.settings.instance,
        };
        agenda.push(Output::Send { id, frame: ControlFrame::Hello(hello) });
        for (&number, published) in &sessions.published {
            let publish = Publish {
                number,
                name: published.service.clone(),
                want: Want::Service,
                transports: Transports::Tcp,
                dial_time: agenda.limits.local_dial,
            };
            agenda.push(Output::Send { id, frame: ControlFrame::Publish(publish) });
        }
    }

    // From the server.

    /// A frame arrived on the control connection.
    pub fn control(
        &mut self,
        id: ConnId,
        frame: ControlFrame,
        names: &mut Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        match (&mut self.stage, frame) {
            (&mut Stage::Greeted(control, address), ControlFrame::Welcome(welcome)) if control == id => {
                self.failures = 0;
                self.welcomed(id, address, welcome, names, sessions, agenda);
            }
            (&mut Stage::Greeted(control, _), ControlFrame::Refused(refusal)) if control == id => {
                agenda.fact(Fact::Refused { refusal });
                self.failures = REFUSAL_FAILURES;
                agenda.close(id, CloseReason::Drained, Manner::Whole);
            }
            (Stage::Up(up), frame) if up.control == id => {
                up.heard = agenda.now;
                self.due = Some(agenda.now + up.heartbeat / 2);
                self.linked(id, frame, names, sessions, agenda);
            }
            (Stage::Greeted(..), ControlFrame::Skipped) => {}
            // What a connection says that was given up.
            (Stage::Pause | Stage::Resolving | Stage::Dialling(..), _) => {}
            _ => agenda.reset(id, CloseReason::ProtocolError),
        }
    }

    fn linked(
        &mut self,
        id: ConnId,
        frame: ControlFrame,
        names: &mut Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        match frame {
            ControlFrame::Open { first_ticket, count } => {
                self.open(first_ticket, count, names, sessions, agenda);
            }
            ControlFrame::Ping => agenda.push(Output::Send { id, frame: ControlFrame::Pong }),
            ControlFrame::Pong | ControlFrame::Skipped => {}
            ControlFrame::Granted { number, addresses } => {
                if let (Some(published), Some(address)) = (sessions.published.get(&number), addresses.first())
                {
                    let (service, local) = (published.service.clone(), published.local.clone());
                    agenda.fact(Fact::Granted { service, port: address.ports.first, local });
                }
            }
            ControlFrame::Denied { number, reason } | ControlFrame::Withdrawn { number, reason } => {
                if let Some(published) = sessions.published.get(&number) {
                    agenda.fact(Fact::Denied { service: published.service.clone(), reason });
                }
            }
            ControlFrame::Drain => agenda.fact(Fact::ServerDrains { server: self.settings.server.clone() }),
            _ => agenda.reset(id, CloseReason::ProtocolError),
        }
    }

    fn welcomed(
        &mut self,
        id: ConnId,
        address: SocketAddr,
        welcome: Welcome,
        names: &Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        let server = self.settings.server.clone();
        agenda.fact(Fact::Connected { link: id, server, address, key: self.settings.key.name.clone() });
        let message_addresses = match &self.settings.message_name {
            Some((name, _)) => names.found(*name).iter().copied().collect(),
            None => {
                // The same address, with its scope if it is a link-local one.
                let mut address = address;
                address.set_port(welcome.message_port);
                VecDeque::from([address])
            }
        };
        let limits = &agenda.limits;
        let heartbeat = limits.heartbeat.min(welcome.heartbeat).max(limits.heartbeat_min);
        self.due = Some(agenda.now + heartbeat / 2);
        sessions.begin_link();
        self.stage = Stage::Up(Up {
            control: id,
            wire_id: welcome.link,
            pool_key: welcome.pool_key,
            message_addresses,
            heartbeat,
            heard: agenda.now,
        });
        if self.leaving {
            agenda.push(Output::Send { id, frame: ControlFrame::Drain });
        }
    }

    /// Opens message connections, one per ticket.
    fn open(
        &mut self,
        first_ticket: u64,
        count: u32,
        names: &mut Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        let Stage::Up(up) = &self.stage else { return };
        let Some(&address) = up.message_addresses.front() else {
            if let Some((name, host)) = &self.settings.message_name {
                agenda.fact(Fact::Unresolved { host: host.clone(), purpose: "message connections" });
                names.ask(*name, agenda);
            }
            return;
        };
        let room = agenda.limits.messages_per_client_max.saturating_sub(sessions.message_count());
        let hello = ClearHello { suite: self.suite, purpose: Purpose::Message, key_id: up.wire_id };
        let deadline = agenda.now + agenda.limits.handshake;
        for index in 0..room.min(count as usize) as u64 {
            let ticket = first_ticket.wrapping_add(index);
            let (secret, plain) = (up.pool_key.clone(), self.settings.plain);
            let greeting = Greeting { hello, secret, ticket, plain };
            sessions.await_one();
            agenda.push(Output::Dial { dial: Dial::Message(greeting), address, deadline });
        }
    }

    /// A message connection is dialled; the address, if the link still stands.
    pub fn message_address(&self) -> Option<SocketAddr> {
        match &self.stage {
            Stage::Up(up) => up.message_addresses.front().copied(),
            _ => None,
        }
    }

    /// A message connection could not be made: the next one tries another address, if the name has several.
    pub fn message_failed(&mut self, address: SocketAddr, reason: CloseReason, agenda: &mut Agenda) {
        if let Stage::Up(up) = &mut self.stage {
            if up.message_addresses.front() == Some(&address) {
                up.message_addresses.rotate_left(1);
            }
            agenda.fact(Fact::MessageFailed { address, reason });
        }
    }

    // Time, and the end.

    /// The time of [`Link::due`] has come.
    pub fn is_due(&mut self, names: &mut Names, agenda: &mut Agenda) {
        match &self.stage {
            Stage::Pause => self.connect(names, agenda),
            Stage::Up(up) if agenda.now >= up.heard + up.heartbeat => {
                self.due = None;
                agenda.fact(Fact::ServerSilent { silence: up.heartbeat });
                agenda.reset(up.control, CloseReason::HeartbeatLost);
            }
            // It may have said something, but not what was asked.
            &Stage::Greeted(id, _) => {
                self.due = None;
                agenda.reset(id, CloseReason::HandshakeTimedOut);
            }
            // The server pings more often than that: it is asked only when it is late.
            Stage::Up(up) => {
                self.due = Some(up.heard + up.heartbeat);
                agenda.push(Output::Send { id: up.control, frame: ControlFrame::Ping });
            }
            _ => self.due = None,
        }
    }

    /// A control connection is gone.
    pub fn closed(
        &mut self,
        id: ConnId,
        reason: CloseReason,
        names: &mut Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        let server = self.settings.server.clone();
        match &self.stage {
            Stage::Up(up) if up.control == id => {
                agenda.fact(Fact::LinkLost { server, reason });
                sessions.reset_all(agenda);
                self.pause(agenda);
            }
            Stage::Greeted(control, _) if *control == id => {
                if reason != CloseReason::Drained {
                    agenda.fact(Fact::NotWelcomed { server, reason });
                }
                self.pause(agenda);
            }
            &Stage::Dialling(index, Some(dialled)) if dialled == id => {
                agenda.fact(match reason {
                    CloseReason::DialFailed(_) => Fact::ServerUnreachable { server, reason },
                    _ => Fact::ServerUnproved { server, key: self.settings.key.name.clone(), reason },
                });
                // Other addresses of the name, then a pause.
                if index + 1 < names.found(self.settings.name).len() {
                    self.dial(index + 1, names, agenda);
                } else {
                    self.pause(agenda);
                }
            }
            _ => {}
        }
    }

    /// The client leaves: it says so, and waits for the server to end the link.
    pub fn leave(&mut self, agenda: &mut Agenda) {
        self.leaving = true;
        match &self.stage {
            Stage::Up(up) => {
                agenda.push(Output::Send { id: up.control, frame: ControlFrame::Drain });
            }
            Stage::Greeted(..) => {}
            _ => self.pause(agenda),
        }
    }
}
