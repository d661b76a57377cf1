//! The server's rules.

mod clients;
mod end;
mod figures;
mod limits;
mod offers;
mod policies;
mod pool;
mod ports;
mod probes;
mod publications;
mod rates;
mod reload;
mod resuming;
mod strangers;
mod turns;
mod unserved;
mod users;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::story::{Outputs, Story, millis, name, secs};
use skyorg::base::address::Listen;
use skyorg::base::clocks::Clocks;
use skyorg::base::id::{ConnId, ListenerId};
use skyorg::config::limits::Limits;
use skyorg::config::{Key, Policies, ServerConfig, Service};
use skyorg::machine::{
    CloseReason, Configuration, Door, Fact, Input, LINK_RANDOM_BYTES, Manner, Output, Proof, SessionEvent,
};
use skyorg::server::Server;
use skyorg::wire::control::{
    Capabilities, ControlFrame, Denial, GrantedAddress, Hello, Ports, Publish, Refusal, Transports, VERSIONS,
    Versions, Want, Welcome,
};
use skyorg::wire::frame::{AbortReason, Start};
use skyorg::wire::handshake::{ClearHello, KeyId, Purpose, Secret, Suite, key_id};

const POOL: usize = 2;
const WEB: u16 = 33333;
const SSH: u16 = 33340;
const MESSAGE: u16 = 33334;
const CONTROL: u16 = 33335;
/// The client's time to dial its local server.
const DIAL: Duration = Duration::from_secs(5);

/// A server whose listeners listen.
struct Stage {
    story: Story<Server>,
    listeners: Vec<(ListenerId, u16, Door)>,
    links: u8,
}

impl Deref for Stage {
    type Target = Story<Server>;

    fn deref(&self) -> &Story<Server> {
        &self.story
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Story<Server> {
        &mut self.story
    }
}

/// A client as the server knows it, and the tickets that it may bring.
struct Client {
    control: ConnId,
    link: KeyId,
    tickets: VecDeque<u64>,
}

fn limits() -> Limits {
    Limits { pool: POOL, ..Limits::default() }
}

fn office() -> KeyId {
    key_id(&Secret::new([7; 32]))
}

fn user_address(id: ConnId) -> SocketAddr {
    ([198, 51, 100, 1], 1024 + id.slot() as u16).into()
}

fn peer() -> SocketAddr {
    ([192, 0, 2, 9], 1024).into()
}

fn at(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn hello(instance: u8) -> Hello {
    Hello {
        versions: VERSIONS,
        capabilities: Capabilities::new(false),
        heartbeat: secs(30),
        instance: [instance; 16],
        resumes: None,
    }
}

fn publish(number: u32, service: &str) -> ControlFrame {
    ControlFrame::Publish(Publish {
        number,
        name: name(service),
        want: Want::Service,
        transports: Transports::Tcp,
        dial_time: DIAL,
        share: false,
        probe: false,
    })
}

fn key(text: &str, byte: u8) -> Key {
    Key { name: name(text), secret: Secret::new([byte; 32]) }
}

fn config(limits: Limits) -> ServerConfig {
    ServerConfig {
        services: vec![
            Service::new(name("web"), Listen::Any(WEB)),
            Service::new(name("ssh"), Listen::Any(SSH)),
        ],
        policies: Policies::default(),
        message: Listen::Any(MESSAGE),
        control: Listen::Any(CONTROL),
        keys: vec![key("office", 7)],
        plain: false,
        limits,
    }
}

fn new_server(limits: Limits) -> Story<Server> {
    server_of(config(limits))
}

fn server_of(config: ServerConfig) -> Story<Server> {
    let (now, limits) = (Instant::now(), config.limits.clone());
    let clocks = Clocks { now, wall: SystemTime::UNIX_EPOCH };
    Story::new(Server::new(config, Arc::new(limits), [2; 16], fastrand::Rng::with_seed(1), clocks), now)
}

fn begin() -> Stage {
    begin_with(limits())
}

fn begin_with(limits: Limits) -> Stage {
    begin_as(config(limits))
}

fn begin_as(config: ServerConfig) -> Stage {
    begin_telling(config).0
}

/// A server whose listeners listen, and what else it asked for as it began.
fn begin_telling(config: ServerConfig) -> (Stage, Outputs) {
    let mut stage = Stage { story: server_of(config), listeners: Vec::new(), links: 0 };
    let outputs = stage.wait(Duration::ZERO);
    let outputs = stage.listen(outputs, |_| true);
    (stage, outputs)
}

impl Stage {
    /// The system does what the outputs say about listeners, where it `can` listen. Returns all that came of it, too.
    fn listen(&mut self, mut outputs: Outputs, can: impl Fn(Listen) -> bool) -> Outputs {
        let mut told = 0;
        while let Some(output) = outputs.0.get(told) {
            told += 1;
            let input = match *output {
                Output::Listen { id, at: listen, door } if can(listen) => {
                    self.listeners.push((id, listen.port(), door));
                    let address = match listen {
                        Listen::Any(port) => at(port),
                        Listen::At(address) => address,
                    };
                    Input::Listening { id, address }
                }
                Output::Listen { id, .. } => {
                    Input::ListenFailed { id, error: std::io::ErrorKind::AddrInUse.into() }
                }
                Output::Resume(id) => {
                    let it = self.listeners.iter().find(|it| it.0 == id).expect("it is there");
                    Input::Listening { id, address: at(it.1) }
                }
                Output::StopListening(id) => {
                    self.listeners.retain(|it| it.0 != id);
                    Input::Stopped { id }
                }
                Output::SetDoor { id, door } => {
                    self.listeners.iter_mut().filter(|it| it.0 == id).for_each(|it| it.2 = door);
                    continue;
                }
                _ => continue,
            };
            outputs.0.extend(self.tell(input).0);
        }
        outputs
    }

    /// Another configuration is to hold, and the clock on the wall stands where it stood.
    fn configure(&mut self, config: ServerConfig) -> Outputs {
        let (config, source, wall) = (Arc::new(config), "server.toml".into(), SystemTime::UNIX_EPOCH);
        self.tell(Input::Configure(Box::new(Configuration::Server { config, source, wall })))
    }

    /// The same, and the system can listen everywhere.
    fn reload(&mut self, config: ServerConfig) -> Outputs {
        let outputs = self.configure(config);
        self.listen(outputs, |_| true)
    }

    fn stranger(&mut self, purpose: Purpose, key_id: KeyId) -> (ConnId, Outputs) {
        let id = self.id();
        self.tell(Input::Accepted { id, door: Door::Clients, peer: peer(), asked: peer() });
        let hello = ClearHello { suite: Suite::AesGcm, purpose, key_id };
        (id, self.tell(Input::Greeted { id, hello }))
    }

    /// A connection at the control port has proved the key.
    fn control(&mut self) -> (ConnId, Outputs) {
        self.control_of(office())
    }

    fn control_of(&mut self, key: KeyId) -> (ConnId, Outputs) {
        self.links += 1;
        let (id, _) = self.stranger(Purpose::Control, key);
        (id, self.prove(id, Proof::control(&[self.links; LINK_RANDOM_BYTES], self.links.into())))
    }

    /// A connection at the message port has proved a link's key and shown this ticket.
    fn message(&mut self, link: KeyId, ticket: u64) -> (ConnId, Outputs) {
        let (id, _) = self.stranger(Purpose::Message, link);
        (id, self.prove(id, Proof::Message { ticket }))
    }

    /// A stranger proves a secret, and is answered if the server wants it to be.
    fn prove(&mut self, id: ConnId, proof: Proof) -> Outputs {
        let mut outputs = self.tell(Input::Proved { id, proof });
        if outputs.answered() == [id] {
            outputs.0.extend(self.tell(Input::Answered { id }).0);
        }
        outputs
    }

    /// A client says this and is welcome.
    fn greet(&mut self, hello: Hello) -> (Client, Outputs) {
        self.greet_with(office(), hello)
    }

    fn greet_with(&mut self, key: KeyId, hello: Hello) -> (Client, Outputs) {
        let (control, _) = self.control_of(key);
        let outputs = self.hear(control, ControlFrame::Hello(hello));
        let mut client = Client { control, link: [self.links; 16], tickets: VecDeque::new() };
        client.note(&outputs);
        (client, outputs)
    }

    /// A client that publishes `web` and has answered the first ping.
    fn client(&mut self, instance: u8) -> Client {
        self.client_of(office(), instance)
    }

    fn client_of(&mut self, key: KeyId, instance: u8) -> Client {
        let (client, _) = self.greet_with(key, hello(instance));
        self.hear(client.control, publish(1, "web"));
        self.hear(client.control, ControlFrame::Pong);
        client
    }

    /// A client brings a message connection.
    fn bring(&mut self, client: &mut Client) -> (ConnId, Outputs) {
        let ticket = client.tickets.pop_front().expect("a ticket is left");
        let (id, outputs) = self.message(client.link, ticket);
        client.note(&outputs);
        (id, outputs)
    }

    fn user(&mut self) -> (ConnId, Outputs) {
        self.user_at(WEB)
    }

    fn user_at(&mut self, port: u16) -> (ConnId, Outputs) {
        let door = self.listeners.iter().find(|it| it.1 == port).expect("it listens").2;
        let id = self.id();
        (id, self.tell(Input::Accepted { id, door, peer: user_address(id), asked: at(port) }))
    }

    /// The process is asked to end, and its listeners stop.
    fn drain(&mut self) -> Outputs {
        let mut outputs = self.tell(Input::Drain);
        for id in outputs.stopped() {
            outputs.0.extend(self.tell(Input::Stopped { id }).0);
        }
        outputs
    }

    fn accepted_and_started(&mut self, message: ConnId) {
        self.session(message, SessionEvent::Accepted);
        self.session(message, SessionEvent::Started);
    }

    /// Time passes, second by second; each ping is answered, and what is closed is gone. Returns what was closed.
    fn live(&mut self, seconds: u64) -> Vec<(ConnId, CloseReason, Manner)> {
        let mut closed = Vec::new();
        for _ in 0..seconds {
            let mut outputs = VecDeque::from(self.wait(secs(1)).0);
            while let Some(output) = outputs.pop_front() {
                match output {
                    Output::Ping(id) => drop(self.session(id, SessionEvent::Pong)),
                    Output::Send { id, frame: ControlFrame::Ping } => {
                        outputs.extend(self.hear(id, ControlFrame::Pong).0);
                    }
                    Output::Close { id, reason, manner } => {
                        closed.push((id, reason, manner));
                        self.gone(id, reason);
                    }
                    _ => {}
                }
            }
        }
        closed
    }
}

impl Client {
    fn note(&mut self, outputs: &Outputs) {
        for (first, count) in outputs.asked(self.control) {
            self.tickets.extend(first..first + u64::from(count));
        }
    }
}

impl Outputs {
    /// Places where the server would listen.
    fn places(&self) -> Vec<Listen> {
        let place = |output: &Output| match output {
            Output::Listen { at, .. } => Some(*at),
            _ => None,
        };
        self.0.iter().filter_map(place).collect()
    }

    /// What the last reload came to.
    fn reloaded(&self) -> Option<String> {
        let told = self
            .facts()
            .into_iter()
            .filter(|fact| matches!(fact, Fact::Reloaded { .. } | Fact::ReloadRefused { .. }));
        told.map(Fact::to_string).next_back()
    }

    /// Listeners that are to stop.
    fn stopped(&self) -> Vec<ListenerId> {
        let stopped = |output: &Output| match output {
            Output::StopListening(id) => Some(*id),
            _ => None,
        };
        self.0.iter().filter_map(stopped).collect()
    }
}

fn returned(id: ConnId, refused: bool, spoken: bool) -> Input {
    Input::Returned { id, refused, spoken }
}
