//! The parts of a relayed byte's way, one by one: `cargo bench --bench micro`.
//!
//! Nothing here touches the kernel, so these figures are what skyorg itself adds to the system calls.
//!
//! Bytes lie at the places in a page at which the product has them (see [`skyorg::buffer`]): every copy goes from one
//! half of a page to the other. Elsewhere a figure may be that of a slow copy, 8.5 µs instead of 0.3 for 16 KiB.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::buffer::Buffer;
use skyorg::base::clocks::Clocks;
use skyorg::base::id::{ConnId, ListenerId, NameId, ServiceId};
use skyorg::base::ring::{RING_BYTES, Rings};
use skyorg::config::limits::Limits;
use skyorg::config::{Key, Policies, ServerConfig, Service};
use skyorg::machine::{Door, Input, LINK_RANDOM_BYTES, Machine, Output, Place, Proof, Survey, Terms};
use skyorg::reactor::Reactor;
use skyorg::reactor::world::network::{Accepted, Event, Network, Socket};
use skyorg::reactor::world::tcp_info::TcpInfo;
use skyorg::server::Server;
use skyorg::session::{End, Session};
use skyorg::wire::control::{Capabilities, ControlFrame, Hello, Publish, Transports, VERSIONS, Want};
use skyorg::wire::frame::{Frame, Start};
use skyorg::wire::handshake::{
    ANSWER_BYTES, ClearHello, Initiator, Purpose, Responder, Secret, Suite, key_id,
};
use skyorg::wire::record::{Channel, HEADROOM};

/// A small request, and the largest record.
const SIZES: [usize; 2] = [64, 16 * 1024 - 9];
/// Bytes of each buffer of [`Buffer::clear`], as in the reactor; more than any record or write here.
const CLEAR_BYTES: usize = 2 * RING_BYTES;

fn main() {
    divan::main();
}

fn start(sid: u64) -> Start {
    let user = ([192, 0, 2, 1], 4000).into();
    Start { sid, first_sid: 0, publication: 1, port_offset: 0, user, asked: user, number: sid }
}

fn hello() -> ClearHello {
    ClearHello { suite: Suite::preferred(), purpose: Purpose::Message, key_id: [1; 16] }
}

fn secret() -> Secret {
    Secret::new([7; 32])
}

/// Both ends of a sealed message connection.
fn channels() -> (Channel, Channel) {
    let (initiator, flight) = Initiator::begin(hello(), &secret(), 1).expect("begins");
    let (responder, _) = Responder::verify(hello(), &secret(), &flight).expect("the same secret");
    let (answer, server) = responder.answer().expect("answers");
    let client = initiator.finish(&answer).expect("the same secret");
    (Channel::new(client, false), Channel::new(server, false))
}

#[divan::bench(args = SIZES)]
fn ring_push_and_consume(bencher: Bencher, bytes: usize) {
    let (mut rings, mut slot, piece) = (Rings::new(1), None, vec![1; bytes]);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        rings.push(&mut slot, black_box(&piece));
        if let Some(ring) = &mut slot {
            black_box(ring.slices());
            ring.consume(bytes);
        }
        rings.tidy(&mut slot);
    });
}

#[divan::bench]
fn ring_lease_and_give_back(bencher: Bencher) {
    let mut rings = Rings::new(1);
    bencher.bench_local(|| {
        let ring = rings.lease(RING_BYTES);
        rings.give_back(black_box(ring));
    });
}

#[divan::bench]
fn frame_encode_and_decode(bencher: Bencher) {
    bencher.bench_local(|| {
        let encoded = black_box(Frame::Start(start(5))).encode();
        black_box(Frame::decode(black_box(&encoded)).is_ok())
    });
}

/// What the other end says, and where its record lies, as if it had been read.
fn said_and_read() -> (Buffer, Buffer) {
    let mut said = Buffer::clear(CLEAR_BYTES);
    said.fill(1);
    (said, Buffer::raw(CLEAR_BYTES))
}

#[divan::bench(args = SIZES)]
fn seal(bencher: Bencher, bytes: usize) {
    let (mut channel, _) = channels();
    // What a local side said was read into `raw`, and is sealed into `clear`.
    let (mut raw, mut clear) = (Buffer::raw(RING_BYTES), Buffer::clear(CLEAR_BYTES));
    raw.fill(1);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let record = channel.seal_data(1, black_box(&mut raw[..HEADROOM + bytes]), &mut clear);
        black_box(record.expect("seals").len())
    });
}

/// A record opens once, so each opening includes the sealing that [`seal`] measures.
#[divan::bench(args = SIZES)]
fn seal_and_open(bencher: Bencher, bytes: usize) {
    let (mut from, mut to) = channels();
    let ((mut said, mut raw), mut clear) = (said_and_read(), Buffer::clear(CLEAR_BYTES));
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let record = from.seal_data(1, black_box(&mut said[..HEADROOM + bytes]), &mut raw).expect("seals");
        let frame = to.open(record, &mut &mut clear[..]).expect("opens");
        black_box(frame.consumed)
    });
}

#[divan::bench]
fn handshake_of_both_ends(bencher: Bencher) {
    bencher.bench_local(channels);
}

/// A whole session of both ends: eight frames.
#[divan::bench]
fn session_from_start_to_idle(bencher: Bencher) {
    let (mut server, mut client) = (Session::new(End::Server), Session::new(End::Client));
    let mut sid = 0;
    bencher.bench_local(|| {
        sid += 1;
        let begun = server.start(start(sid)).expect("free");
        client.receive(&begun).expect("idle");
        let accepted = client.accept().expect("assigned");
        server.receive(&accepted).expect("assigned");
        let started = client.started().expect("accepted");
        server.receive(&started).expect("accepted");
        client.receive(&Frame::Data(sid, b"question")).expect("open");
        server.receive(&Frame::Data(sid, b"answer")).expect("open");
        let ends = [server.finish(), client.finish()].map(|frame| frame.expect("open"));
        client.receive(&ends[0]).expect("open");
        server.receive(&ends[1]).expect("open");
        assert!(black_box(server.is_free()));
    });
}

/// One turn of the server's loop that reads a user's bytes, seals them and writes them.
#[divan::bench(args = SIZES)]
fn relay_turn_up(bencher: Bencher, bytes: usize) {
    let mut bed = Bed::new();
    let piece = Buffer::raw(bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        bed.turn(Bed::USER, &piece);
        let mut wire = bed.wires[Bed::MESSAGE].borrow_mut();
        debug_assert!(wire.written.len() > bytes);
        wire.written.clear();
    });
}

/// What one turn of a server's loop gathers for somebody who looks, of so many services that clients serve.
#[divan::bench(args = [64, 1_000, 4_096])]
fn survey_of_one_turn(bencher: Bencher, services: usize) {
    let (server, now) = serving(services);
    bencher.bench_local(|| {
        let mut survey = Survey::new(now);
        survey.place = Place::Service(services as u32 / 2);
        server.survey(&mut survey, TURN_ROWS);
        black_box(survey)
    });
}

/// All of it.
#[divan::bench(args = [64, 1_000, 4_096])]
fn survey_of_everything(bencher: Bencher, services: usize) {
    let (server, now) = serving(services);
    bencher.bench_local(|| {
        let mut survey = Survey::new(now);
        while survey.place != Place::Over {
            server.survey(&mut survey, TURN_ROWS);
        }
        survey
    });
}

/// Rows of one turn, as in the reactor.
const TURN_ROWS: usize = 64;

/// A server with so many services, each served by one of its clients.
fn serving(services: usize) -> (Server, Instant) {
    let name = |text: String| text.parse().expect("a name");
    let key = Key { name: name("office".into()), secret: secret() };
    let limits = Limits { services_max: services, ..Limits::default() };
    let of_one = limits.publications_per_client_max;
    let config = ServerConfig {
        services: (0..services).map(|at| Service::new(name(format!("s{at}")), Listen::Any(0))).collect(),
        policies: Policies::default(),
        message: Listen::Any(1),
        control: Listen::Any(2),
        keys: vec![key],
        plain: false,
        limits: limits.clone(),
    };
    let now = Instant::now();
    let clocks = Clocks { now, wall: SystemTime::UNIX_EPOCH };
    let mut server = Server::new(config, Arc::new(limits), [2; 16], fastrand::Rng::with_seed(1), clocks);
    let peer = ([192, 0, 2, 9], 1024).into();
    let mut listening = Vec::new();
    while let Some(output) = server.poll_output() {
        if let Output::Listen { id, .. } = output {
            listening.push(id);
        }
    }
    listening.into_iter().for_each(|id| server.handle(Input::Listening { id, address: peer }, now));
    for first in (0..services).step_by(of_one) {
        let link = first as u32 / of_one as u32 + 1;
        let id = ConnId::new(link, link.into()).expect("it can be named");
        let hello = Hello {
            versions: VERSIONS,
            capabilities: Capabilities::new(false),
            heartbeat: Duration::from_secs(30),
            instance: [link as u8; 16],
            resumes: None,
        };
        let clear =
            ClearHello { suite: Suite::preferred(), purpose: Purpose::Control, key_id: key_id(&secret()) };
        let random = [link as u8; LINK_RANDOM_BYTES];
        for input in [
            Input::Accepted { id, door: Door::Clients, peer, asked: peer },
            Input::Greeted { id, hello: clear },
            Input::Proved { id, proof: Proof::control(&random, link.into()) },
            Input::Answered { id },
            Input::Control { id, frame: ControlFrame::Hello(hello) },
        ] {
            server.handle(input, now);
        }
        for at in first..services.min(first + of_one) {
            let publish = Publish {
                number: at as u32 + 1,
                name: name(format!("s{at}")),
                want: Want::Service,
                transports: Transports::Tcp,
                dial_time: Duration::from_secs(5),
                share: false,
                probe: false,
            };
            server.handle(Input::Control { id, frame: ControlFrame::Publish(publish) }, now);
        }
        while server.poll_output().is_some() {}
    }
    (server, now)
}

/// One turn that reads a record, opens it and writes the user's bytes; includes the sealing that [`seal`] measures.
#[divan::bench(args = SIZES)]
fn relay_turn_down(bencher: Bencher, bytes: usize) {
    let mut bed = Bed::new();
    let (mut said, mut raw) = said_and_read();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let record = bed.client.seal_data(1, &mut said[..HEADROOM + bytes], &mut raw).expect("seals");
        bed.turn(Bed::MESSAGE, record);
        let mut wire = bed.wires[Bed::USER].borrow_mut();
        debug_assert_eq!(wire.written.len(), bytes);
        wire.written.clear();
    });
}

/// A server's reactor in a world without a kernel, with one session running.
struct Bed {
    reactor: Reactor<Matchmaker, Memory>,
    wires: [Wire; 2],
    ids: Rc<RefCell<Vec<ConnId>>>,
    events: Rc<RefCell<Vec<Event>>>,
    /// The client's end of the message connection.
    client: Channel,
}

impl Bed {
    const MESSAGE: usize = 0;
    const USER: usize = 1;

    fn new() -> Bed {
        let memory = Memory::default();
        let (wires, ids, events) =
            ([Wire::default(), Wire::default()], memory.ids.clone(), memory.events.clone());
        let pending = memory.pending.clone();
        let limits = Arc::new(Limits::default());
        let mut reactor = Reactor::new(Matchmaker::new(), memory, limits, fastrand::Rng::with_seed(1));
        reactor.begin();

        let (initiator, flight) = Initiator::begin(hello(), &secret(), 1).expect("begins");
        wires[Bed::MESSAGE].borrow_mut().arrived.push(&flight);
        pending.borrow_mut()[Bed::MESSAGE] = Some(wires[Bed::MESSAGE].clone());
        (0..3).for_each(|_| assert!(reactor.turn().expect("turns")));
        let mut answer = [0; ANSWER_BYTES];
        assert_eq!(wires[Bed::MESSAGE].borrow_mut().written.take(&mut answer), ANSWER_BYTES);
        let client = Channel::new(initiator.finish(&answer).expect("the same secret"), false);

        pending.borrow_mut()[Bed::USER] = Some(wires[Bed::USER].clone());
        events.borrow_mut().push(Event::Acceptable(Bed::USER as u32));
        let mut bed = Bed { reactor, wires, ids, events, client };
        (0..3).for_each(|_| assert!(bed.reactor.turn().expect("turns")));
        for frame in [Frame::Accepted(1), Frame::Started(1)] {
            let mut record = [0; 128];
            let count = bed.client.seal(&frame.encode(), &mut record).expect("seals");
            bed.turn(Bed::MESSAGE, &record[..count]);
        }
        bed.reactor.turn().expect("turns");
        bed.wires[Bed::MESSAGE].borrow_mut().written.clear();
        bed
    }

    /// Bytes arrive on a wire, and the loop turns once.
    fn turn(&mut self, wire: usize, bytes: &[u8]) {
        self.wires[wire].borrow_mut().arrived.push(bytes);
        let id = self.ids.borrow()[wire];
        self.events.borrow_mut().push(Event::Ready {
            slot: id.slot(),
            readable: true,
            writable: false,
            ended: false,
            error: false,
        });
        self.reactor.turn().expect("turns");
    }
}

/// Admits every connection that proves the secret, and gives the first message connection to the first user.
struct Matchmaker {
    message: Option<ConnId>,
    outputs: VecDeque<Output>,
}

impl Matchmaker {
    fn new() -> Matchmaker {
        let service = ServiceId::new(0, 1).expect("it can be named");
        let listener = |(slot, door)| {
            let id = ListenerId::new(slot as u32, 1).expect("it can be named");
            Output::Listen { id, at: Listen::Any(0), door }
        };
        let doors = [(Bed::MESSAGE, Door::Clients), (Bed::USER, Door::Users(service))];
        Matchmaker { message: None, outputs: doors.into_iter().map(listener).collect() }
    }
}

impl Machine for Matchmaker {
    fn handle(&mut self, input: Input, _: Instant) {
        let output = match (input, self.message) {
            (Input::Greeted { id, .. }, _) => Output::Verify { id, secret: secret() },
            (Input::Proved { id, .. }, _) => {
                Output::Answer { id, plain: false, heartbeat: Limits::default().heartbeat }
            }
            (Input::Answered { id }, _) => {
                self.message = Some(id);
                return;
            }
            (Input::Accepted { id: user, door: Door::Users(_), .. }, Some(message)) => {
                Output::Start { message, user, start: start(1), terms: Terms::default() }
            }
            _ => return,
        };
        self.outputs.push_back(output);
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn survey(&self, survey: &mut Survey, _: usize) {
        survey.place = Place::Over;
    }
}

/// What has arrived for a connection, and what it has written.
struct Bytes {
    arrived: Pile,
    written: Pile,
}

impl Default for Bytes {
    /// Bytes arrive half a page apart from the reactor's buffer that they are read into, and are written half a page
    /// apart from the one that they come from.
    fn default() -> Bytes {
        let pile = |bytes| Pile { bytes, from: 0, to: 0 };
        Bytes { arrived: pile(Buffer::clear(CLEAR_BYTES)), written: pile(Buffer::raw(CLEAR_BYTES)) }
    }
}

/// Bytes in the order in which they came. What comes into an empty pile lies at its front.
struct Pile {
    bytes: Buffer,
    from: usize,
    to: usize,
}

impl Pile {
    fn len(&self) -> usize {
        self.to - self.from
    }

    fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.len() == 0 {
            self.clear();
        }
        let to = self.to + bytes.len();
        self.bytes[self.to..to].copy_from_slice(bytes);
        self.to = to;
    }

    /// Moves as much as fits to the front of `out`; returns how much.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let count = self.len().min(out.len());
        out[..count].copy_from_slice(&self.bytes[self.from..self.from + count]);
        self.from += count;
        count
    }
}

type Wire = Rc<RefCell<Bytes>>;

struct MemorySocket(Wire);

impl Socket for MemorySocket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.borrow_mut().arrived.take(out) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }

    fn write(&mut self, slices: &[IoSlice]) -> io::Result<usize> {
        let written = &mut self.0.borrow_mut().written;
        slices.iter().for_each(|slice| written.push(slice));
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn is_connected(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    fn tcp_info(&self) -> Option<TcpInfo> {
        None
    }

    type Pipe = ();

    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(bytes)])
    }

    fn splice_in(&mut self, (): &mut (), _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn splice_out(&mut self, (): &mut (), _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pipe(&self) -> Option<()> {
        None
    }

    fn keep_alive(&mut self, _: Duration) {}

    fn close(self) {}
}

/// One connection per listener, in memory.
#[derive(Default)]
struct Memory {
    pending: Rc<RefCell<[Option<Wire>; 2]>>,
    ids: Rc<RefCell<Vec<ConnId>>>,
    events: Rc<RefCell<Vec<Event>>>,
}

impl Network for Memory {
    fn wall(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn suspend(&mut self, _: &mut usize) -> io::Result<()> {
        Ok(())
    }

    fn resume(&mut self, _: &mut usize) -> io::Result<()> {
        Ok(())
    }

    fn asleep(&mut self) -> Duration {
        Duration::ZERO
    }

    type Socket = MemorySocket;
    type Listener = usize;

    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn poll(&mut self, events: &mut Vec<Event>, _: Option<Duration>) -> io::Result<()> {
        events.append(&mut self.events.borrow_mut());
        Ok(())
    }

    fn listen(&mut self, id: ListenerId, _: Listen) -> io::Result<(usize, SocketAddr)> {
        Ok((id.index(), ([192, 0, 2, 2], 1).into()))
    }

    fn accept(&mut self, listener: &mut usize) -> io::Result<Accepted<MemorySocket>> {
        let wire = self.pending.borrow_mut()[*listener].take();
        let wire = wire.ok_or(io::Error::from(io::ErrorKind::WouldBlock))?;
        let (peer, asked) = (([192, 0, 2, 1], 4000).into(), ([192, 0, 2, 2], 1).into());
        Ok(Accepted { socket: MemorySocket(wire), peer, asked })
    }

    fn connect(&mut self, _: SocketAddr) -> io::Result<MemorySocket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn register(&mut self, _: &mut MemorySocket, id: ConnId) -> io::Result<()> {
        self.ids.borrow_mut().push(id);
        Ok(())
    }

    fn random(&mut self, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn resolve(&mut self, _: NameId, _: HostPort) {}
}
