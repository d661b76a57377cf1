//! Hostile clients: they hold a valid key, speak the real wire, and serve nobody.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use skyorg::wire::control::{
    Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Frame, Start};
use skyorg::wire::handshake::{ClearHello, Purpose, Secret, Suite, key_id};

use super::wire::Wire;
use crate::tcp::{Net, Time};
use crate::world::{CONTROL_PORT, MESSAGE_PORT, SERVER_IP, SERVICES, STEADY};

/// Message connections that one of them dials at most.
const MESSAGES_MAX: usize = 40;
/// How long one whose link ended stays away, in milliseconds.
const AWAY_MS: std::ops::Range<u64> = 20..300;

/// How long it says that it takes to reach a local server.
const DIAL: Duration = Duration::from_secs(5);

/// What a hostile client does with its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Pings without end.
    Pings,
    /// Refuses each session.
    Refuses,
    /// Accepts each session and starts none.
    NeverStarts,
    /// Publishes and brings no message connection.
    NeverDials,
    /// Brings message connections, and says nothing on them.
    Mute,
    /// Withdraws its publication and publishes again without end.
    Fickle,
    /// Leaves as soon as it is welcome, and comes again.
    Returns,
}

/// A user that a hostile client was given and did not serve.
#[derive(Clone, Copy, Debug)]
pub struct Swallowed {
    pub user: SocketAddr,
    pub at: Time,
    /// The client, and which of its links.
    pub link: (usize, u32),
    /// After this time the server knows that the session is not served.
    pub known_after: Duration,
}

/// One of them.
pub struct HostileClient {
    number: usize,
    conduct: Conduct,
    secret: Secret,
    from: SocketAddr,
    plain: bool,
    links: u32,
    control: Option<Wire>,
    said_hello: bool,
    welcome: Option<Welcome>,
    messages: Vec<Wire>,
    publication: u32,
    /// When it acts again by itself.
    at: Time,
    rng: Rng,
}

impl HostileClient {
    pub fn new(
        (number, conduct): (usize, Conduct),
        secret: Secret,
        from: SocketAddr,
        plain: bool,
        at: Time,
        rng: Rng,
    ) -> HostileClient {
        HostileClient {
            number,
            links: 0,
            conduct,
            secret,
            from,
            plain,
            control: None,
            said_hello: false,
            welcome: None,
            messages: Vec::new(),
            publication: 1,
            at,
            rng,
        }
    }

    /// Acts on what came, and by itself when it is time. Returns when that is next.
    pub fn step(&mut self, net: &mut Net, swallowed: &mut Vec<Swallowed>) -> Time {
        self.go_on(net);
        self.serve_control(net);
        for index in 0..self.messages.len() {
            self.serve_message(index, net, swallowed);
        }
        self.messages.retain(|message| !message.is_over());
        if self.at <= net.now {
            self.act(net);
        }
        self.at
    }

    /// Dials when it has no link, and notices that a link has ended.
    fn go_on(&mut self, net: &mut Net) {
        if let Some(control) = &mut self.control {
            control.pump(net);
            if control.is_over() {
                self.lose(net);
            }
        } else if self.at <= net.now {
            let hello = ClearHello {
                suite: Suite::preferred(),
                purpose: Purpose::Control,
                key_id: key_id(&self.secret),
            };
            let way = (self.from, SocketAddr::new(SERVER_IP, CONTROL_PORT));
            self.control = Some(Wire::dial(net, way, hello, &self.secret, 0, false));
            (self.said_hello, self.welcome) = (false, None);
            self.at = net.now + Duration::from_secs(5);
        }
    }

    fn lose(&mut self, net: &mut Net) {
        self.control = None;
        self.messages.drain(..).for_each(|mut message| message.close(net, true));
        self.at = net.now + Duration::from_millis(self.rng.u64(AWAY_MS));
    }

    fn serve_control(&mut self, net: &mut Net) {
        let Some(control) = &mut self.control else { return };
        if control.is_proved() && !std::mem::replace(&mut self.said_hello, true) {
            let hello = Hello {
                versions: VERSIONS,
                capabilities: Capabilities::new(self.plain),
                heartbeat: Duration::from_secs(30),
                instance: std::array::from_fn(|_| self.rng.u8(..)),
                resumes: None,
            };
            control.say_control(net, &ControlFrame::Hello(hello));
            control.say_control(net, &ControlFrame::Publish(publish(self.publication)));
        }
        while let Some(frame) = self.control.as_mut().and_then(Wire::next_control) {
            match frame {
                ControlFrame::Welcome(welcome) => {
                    self.welcome = Some(welcome);
                    self.links += 1;
                    self.at = net.now + self.pause();
                }
                ControlFrame::Open { first_ticket, count } => self.open(net, first_ticket, count),
                ControlFrame::Ping => self.say(net, &ControlFrame::Pong),
                _ => {}
            }
        }
    }

    fn say(&mut self, net: &mut Net, frame: &ControlFrame) {
        if let Some(control) = &mut self.control {
            control.say_control(net, frame);
        }
    }

    /// How long it waits before it does what it does without end.
    fn pause(&mut self) -> Duration {
        match self.conduct {
            Conduct::Pings => Duration::from_millis(self.rng.u64(5..60)),
            Conduct::Fickle => Duration::from_millis(self.rng.u64(2..40)),
            Conduct::Returns => Duration::from_millis(self.rng.u64(..100)),
            _ => Duration::from_secs(3_600),
        }
    }

    fn act(&mut self, net: &mut Net) {
        if self.control.is_none() {
            return;
        }
        if self.welcome.is_none() {
            return self.lose_control(net);
        }
        match self.conduct {
            Conduct::Pings => {
                for _ in 0..self.rng.usize(1..20) {
                    self.say(net, &ControlFrame::Ping);
                }
            }
            Conduct::Fickle => {
                self.say(net, &ControlFrame::Unpublish(self.publication));
                self.publication += 1;
                let publish = publish(self.publication);
                self.say(net, &ControlFrame::Publish(publish));
            }
            Conduct::Returns => return self.lose_control(net),
            _ => {}
        }
        self.at = net.now + self.pause();
    }

    fn lose_control(&mut self, net: &mut Net) {
        if let Some(control) = &mut self.control {
            let reset = self.rng.bool();
            control.close(net, reset);
        }
        self.lose(net);
    }

    /// The server asks for message connections.
    fn open(&mut self, net: &mut Net, first_ticket: u64, count: u32) {
        if matches!(self.conduct, Conduct::NeverDials | Conduct::Returns) {
            return;
        }
        let Some(welcome) = &self.welcome else { return };
        let hello = ClearHello { suite: Suite::preferred(), purpose: Purpose::Message, key_id: welcome.link };
        let way = (self.from, SocketAddr::new(SERVER_IP, MESSAGE_PORT));
        let room = MESSAGES_MAX.saturating_sub(self.messages.len());
        for ticket in (first_ticket..).take(room.min(count as usize)) {
            self.messages.push(Wire::dial(net, way, hello, &welcome.pool_key, ticket, self.plain));
        }
    }

    fn serve_message(&mut self, index: usize, net: &mut Net, swallowed: &mut Vec<Swallowed>) {
        let link = (self.number, self.links);
        let message = &mut self.messages[index];
        message.pump(net);
        while let Some(frame) = message.next() {
            match frame {
                Frame::Start(start) => {
                    let known_after = begin(message, self.conduct, start, net);
                    let at = net.now;
                    // One that is offered again was swallowed before, and a probe is no user.
                    swallowed.extend(
                        known_after
                            .filter(|_| start.first_sid == 0 && !start.is_probe())
                            .map(|known_after| Swallowed { user: start.user, at, link, known_after }),
                    );
                }
                Frame::Abort(sid, reason) if self.conduct == Conduct::NeverStarts => {
                    message.say(net, Frame::Abort(sid, reason));
                }
                Frame::Ping if self.conduct != Conduct::Mute => message.say(net, Frame::Pong),
                _ => {}
            }
        }
    }

    /// It leaves.
    pub fn leave(&mut self, net: &mut Net) {
        self.messages.drain(..).chain(self.control.take()).for_each(|mut wire| wire.close(net, true));
    }
}

/// A session begins on a message connection. If it is swallowed, returns when the server knows.
fn begin(message: &mut Wire, conduct: Conduct, start: Start, net: &mut Net) -> Option<Duration> {
    match conduct {
        Conduct::NeverStarts => {
            message.say(net, Frame::Accepted(start.sid));
            Some(DIAL + Duration::from_secs(1))
        }
        // Three round trips, too, but no message connection of a hostile client is far away.
        Conduct::Mute => Some(Duration::from_secs(1)),
        _ => {
            message.say(net, Frame::Abort(start.sid, AbortReason::Refused));
            None
        }
    }
}

/// The victim's own service.
fn publish(number: u32) -> Publish {
    Publish {
        number,
        name: SERVICES[STEADY].parse().expect("a name"),
        want: Want::Service,
        transports: Transports::Tcp,
        dial_time: DIAL,
        share: false,
        probe: true,
    }
}
