//! Hostile servers: a client dials them, they hold its key and speak the real wire, and ask for too much.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use skyorg::config::limits::Limits;
use skyorg::wire::control::{Capabilities, ControlFrame, Welcome};
use skyorg::wire::frame::{AbortReason, Frame, Sid, Start};
use skyorg::wire::handshake::{Purpose, Secret};

use super::wire::Wire;
use crate::process::key;
use crate::tcp::{Host, Kind, Listener, Net, Time};
use crate::world::{CONTROL_PORT, MESSAGE_PORT, SERVER_IP};

/// The slot of its listeners: no local server has it.
pub const SLOT: u32 = u32::MAX;

/// Message connections that a client has at most in these worlds.
const MESSAGES_MAX: usize = 60;
/// Message connections that it has on their way at most.
const AT_ONCE: usize = 16;
/// Control connections that it dials in one second at most: pauses are 100 ms at least.
const CONTROLS_A_SECOND: usize = 10;
/// Control connections that it dials in all, while every link fails: pauses double up to 30 s.
const CONTROLS_MAX: usize = 40;
/// Dials of message connections in a second beside the first ones, while these fail: one every half second.
const RETRIES_A_SECOND: usize = 3;
/// Turns of a client's loop in a second, while its server says little.
const TURNS_A_SECOND: usize = 600;

/// What a hostile server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// It takes connections, and answers no handshake.
    Silent,
    /// It proves itself, and welcomes nobody.
    Unwelcoming,
    /// It welcomes, and says nothing more.
    Speechless,
    /// It welcomes, and leaves.
    Leaves,
    /// It asks for 9,000 message connections without end, at a port where nothing listens.
    Opens(u16),
    /// The same at a port where all are taken.
    Takes,
    /// It begins sessions and aborts them without end.
    Pairs,
    /// It begins sessions of a publication that there is not.
    Unknown,
    /// It begins sessions whose numbers go back.
    Backwards,
    /// It says Drain without end.
    Drains,
    /// It pings without end.
    Pings,
    /// It says what means nothing.
    Babbles,
}

const CONDUCTS: [Conduct; 14] = [
    Conduct::Silent,
    Conduct::Unwelcoming,
    Conduct::Speechless,
    Conduct::Leaves,
    Conduct::Opens(33_399),
    Conduct::Opens(0),
    Conduct::Opens(CONTROL_PORT),
    Conduct::Takes,
    Conduct::Pairs,
    Conduct::Unknown,
    Conduct::Backwards,
    Conduct::Drains,
    Conduct::Pings,
    Conduct::Babbles,
];

/// The limits of a client in these worlds.
pub fn misled(limits: Limits) -> Limits {
    Limits {
        messages_per_client_max: MESSAGES_MAX,
        messages_at_once: AT_ONCE,
        tickets_max: 100,
        proxies_spare: 8,
        ..limits
    }
}

/// A message connection, and the session on it.
struct Message {
    wire: Wire,
    busy: Option<Sid>,
}

/// A hostile server.
pub struct HostileServer {
    pub conduct: Conduct,
    plain: bool,
    controls: Vec<(Wire, bool)>,
    messages: Vec<Message>,
    link: [u8; 16],
    pool_key: Secret,
    ticket: u64,
    sid: Sid,
    /// When it acts again by itself.
    pub due: Time,
    rng: Rng,
}

impl HostileServer {
    /// It listens where the client expects its server.
    pub fn new(net: &mut Net, plain: bool, seed: u64, rng: Rng) -> HostileServer {
        for at in doors() {
            let listener =
                Listener { host: Host::Outside, slot: SLOT, backlog: Default::default(), refuses: None };
            net.listeners.insert(at, listener);
        }
        HostileServer {
            conduct: CONDUCTS[seed as usize % CONDUCTS.len()],
            plain,
            controls: Vec::new(),
            messages: Vec::new(),
            link: [7; 16],
            pool_key: Secret::new([9; 32]),
            ticket: 1,
            sid: 100,
            due: Time::ZERO,
            rng,
        }
    }

    /// Acts on what came, and by itself when it is time.
    pub fn step(&mut self, net: &mut Net) {
        self.take(net);
        self.serve_controls(net);
        self.serve_messages(net);
        if self.due <= net.now {
            self.act(net);
            self.due = net.now + Duration::from_millis(self.rng.u64(2..40));
            check_held(net);
        }
    }

    fn take(&mut self, net: &mut Net) {
        for at in doors() {
            while net.listeners.get(&at).is_some_and(|listener| !listener.backlog.is_empty()) {
                let Ok(end) = net.accept(at) else { continue };
                // What it is for shows in its hello.
                self.controls.push((Wire::taken(end), false));
            }
        }
    }

    fn serve_controls(&mut self, net: &mut Net) {
        let (conduct, link) = (self.conduct, self.link);
        let takes = !matches!(conduct, Conduct::Opens(_));
        for (mut wire, mut welcome) in std::mem::take(&mut self.controls) {
            wire.pump(net);
            let mut is_message = false;
            if conduct != Conduct::Silent {
                let pool_key = self.pool_key.clone();
                wire.answer(net, self.plain, |hello| {
                    is_message = hello.purpose == Purpose::Message;
                    match hello.purpose {
                        Purpose::Control => Some(key(0).secret),
                        Purpose::Message => Some(pool_key.clone()).filter(|_| takes && hello.key_id == link),
                    }
                });
            }
            if is_message {
                self.messages.push(Message { wire, busy: None });
                continue;
            }
            while let Some(frame) = wire.next_control() {
                match frame {
                    ControlFrame::Hello(_) if conduct != Conduct::Unwelcoming => {
                        welcome = true;
                        let frame = self.welcome();
                        wire.say_control(net, &frame);
                        if conduct == Conduct::Leaves {
                            wire.close(net, self.rng.bool());
                        }
                    }
                    ControlFrame::Ping if conduct != Conduct::Speechless => {
                        wire.say_control(net, &ControlFrame::Pong);
                    }
                    _ => {}
                }
            }
            if !wire.is_over() {
                self.controls.push((wire, welcome));
            }
        }
    }

    fn welcome(&mut self) -> ControlFrame {
        // Each link has a name of its own.
        self.link = std::array::from_fn(|_| self.rng.u8(..));
        let message_port = if let Conduct::Opens(port) = self.conduct { port } else { MESSAGE_PORT };
        ControlFrame::Welcome(Welcome {
            version: 2,
            capabilities: Capabilities::new(self.plain),
            heartbeat: Duration::from_secs(30),
            instance: [3; 16],
            link: self.link,
            pool_key: self.pool_key.clone(),
            message_port,
        })
    }

    /// Hears when sessions are over.
    fn serve_messages(&mut self, net: &mut Net) {
        for message in &mut self.messages {
            message.wire.pump(net);
            while let Some(frame) = message.wire.next() {
                if let Frame::Abort(sid, reason) = frame {
                    if message.busy == Some(sid) && self.conduct != Conduct::Pairs {
                        message.wire.say(net, Frame::Abort(sid, reason));
                    }
                    message.busy = None;
                }
            }
        }
        self.messages.retain(|message| !message.wire.is_over());
    }

    /// Does what it does without end.
    fn act(&mut self, net: &mut Net) {
        let babble: Vec<u8> = (0..self.rng.usize(1..60)).map(|_| self.rng.u8(..)).collect();
        for (wire, _) in self.controls.iter_mut().filter(|(_, welcome)| *welcome) {
            match self.conduct {
                Conduct::Opens(_) | Conduct::Takes => {
                    let frame = ControlFrame::Open { first_ticket: self.ticket, count: 9_000 };
                    self.ticket += 9_000;
                    wire.say_control(net, &frame);
                }
                Conduct::Pairs | Conduct::Unknown | Conduct::Backwards => {
                    let frame = ControlFrame::Open { first_ticket: self.ticket, count: 20 };
                    self.ticket += 20;
                    if self.messages.len() < 8 {
                        wire.say_control(net, &frame);
                    }
                }
                Conduct::Drains => (0..20).for_each(|_| wire.say_control(net, &ControlFrame::Drain)),
                Conduct::Pings => (0..20).for_each(|_| wire.say_control(net, &ControlFrame::Ping)),
                Conduct::Babbles => wire.say_bytes(net, &babble),
                _ => {}
            }
        }
        for message in self.messages.iter_mut().filter(|message| message.busy.is_none()) {
            self.sid = if self.conduct == Conduct::Backwards {
                self.sid.saturating_sub(1).max(1)
            } else {
                self.sid + 1
            };
            let publication = if self.conduct == Conduct::Unknown { 999 } else { 1 };
            let user: SocketAddr = ([203, 0, 113, 5], 1_000).into();
            let start = Start {
                sid: self.sid,
                first_sid: 0,
                publication,
                port_offset: 0,
                user,
                asked: user,
                number: self.sid,
            };
            match self.conduct {
                Conduct::Pairs => {
                    message.wire.say(net, Frame::Start(start));
                    message.wire.say(net, Frame::Abort(self.sid, AbortReason::Reset));
                }
                Conduct::Unknown | Conduct::Backwards => message.wire.say(net, Frame::Start(start)),
                Conduct::Babbles => message.wire.say_bytes(net, &babble),
                _ => continue,
            }
            message.busy = Some(self.sid);
        }
    }

    /// It ends. Nothing that it did was allowed to cost its client more than this.
    pub fn end(&mut self, net: &mut Net, turns: usize) {
        let wires = self.controls.drain(..).map(|(wire, _)| wire);
        for mut wire in wires.chain(self.messages.drain(..).map(|message| message.wire)) {
            wire.close(net, true);
        }
        for at in doors() {
            let backlog = net.listeners.remove(&at).map(|listener| listener.backlog);
            for end in backlog.into_iter().flatten() {
                net.close(end, true);
            }
        }
        self.check_dials(net);
        let seconds = net.now.as_secs() as usize + 1;
        let talks =
            matches!(self.conduct, Conduct::Pairs | Conduct::Pings | Conduct::Unknown | Conduct::Backwards);
        assert!(talks || turns <= seconds * TURNS_A_SECOND, "{turns} turns in {seconds} s");
    }

    fn check_dials(&self, net: &Net) {
        let dials = |kind: fn(Kind) -> bool| -> Vec<usize> {
            let mut seconds = vec![0; net.now.as_secs() as usize + 1];
            let dialled = net.dialled.iter().filter(|it| kind(it.1));
            dialled.for_each(|(at, _)| seconds[at.as_secs() as usize] += 1);
            seconds
        };
        let fails = matches!(self.conduct, Conduct::Opens(_));
        // Where message connections fail, they are tried at the control port as well.
        let retries = if fails { AT_ONCE + RETRIES_A_SECOND } else { 0 };
        let controls = dials(|kind| kind == Kind::Control);
        let most = controls.iter().max().copied().unwrap_or(0);
        assert!(most <= CONTROLS_A_SECOND + retries, "{most} control connections in a second");
        let all: usize = controls.iter().sum();
        let failing = all - if fails { all.min(AT_ONCE + controls.len() * RETRIES_A_SECOND) } else { 0 };
        assert!(failing <= CONTROLS_MAX, "{failing} control connections");
        if fails {
            // A port of the server that is none of ours looks like a user's.
            let messages = dials(|kind| matches!(kind, Kind::Message | Kind::User | Kind::Control));
            let all: usize = messages.iter().sum();
            let paced = 2 * AT_ONCE + messages.len() * RETRIES_A_SECOND + CONTROLS_MAX;
            assert!(all <= paced, "{all} dials, though all fail, not {paced}");
        }
    }
}

/// Whatever is asked of it, a client has no more than this at once.
fn check_held(net: &Net) {
    let held = |wanted: fn(Kind) -> bool| {
        let ends = net.ends.iter().step_by(2);
        ends.filter(|end| matches!(end.host, Host::Client(_)) && wanted(end.kind) && end.is_held()).count()
    };
    let messages = held(|kind| matches!(kind, Kind::Message | Kind::User));
    assert!(messages <= MESSAGES_MAX, "{messages} message connections");
    let proxies = held(|kind| kind == Kind::Proxy);
    assert!(proxies <= MESSAGES_MAX, "{proxies} proxy connections");
}

fn doors() -> [SocketAddr; 2] {
    [CONTROL_PORT, MESSAGE_PORT].map(|port| SocketAddr::new(SERVER_IP, port))
}
