//! A bad line, packet by packet: a delay, a rate with a queue, and loss, each way.
//!
//! It is a network interface of its own (TUN). Whoever connects to [`FAR`] reaches this very host: the line gives each
//! packet back with its two addresses exchanged, later or never. Sums over both addresses stay the same, so that no
//! checksum changes. Making an interface needs CAP_NET_ADMIN.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::alarm::Alarm;

/// This host as seen from the line, and as reached over it.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const MTU: u16 = 1500;
const DEVICE: Token = Token(0);
const TIMER: Token = Token(1);

/// What is bad about a line.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// From one end to the other and back, without a queue.
    pub round_trip: Duration,
    /// Parts of packets that are lost, each way.
    pub loss: f64,
    /// Bits per second, each way; no limit if 0.
    pub rate: u64,
    /// How much of that rate waits in the queue before packets are dropped.
    pub buffer: Duration,
}

impl Shape {
    /// As arguments of the helper, and back.
    pub fn arguments(&self) -> [String; 4] {
        let (round_trip, buffer) = (self.round_trip.as_secs_f64(), self.buffer.as_secs_f64());
        [round_trip.to_string(), self.loss.to_string(), self.rate.to_string(), buffer.to_string()]
    }

    /// Reads arguments.
    pub fn parse(words: [&str; 4]) -> Option<Shape> {
        let [round_trip, loss, rate, buffer] = words;
        let seconds = |word: &str| word.parse().ok().map(Duration::from_secs_f64);
        Some(Shape {
            round_trip: seconds(round_trip)?,
            loss: loss.parse().ok()?,
            rate: rate.parse().ok()?,
            buffer: seconds(buffer)?,
        })
    }
}

/// The address over the line of what listens at this port of this host.
pub fn over(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(FAR), to.port())
}

/// One way: until when packets that wait keep it busy.
struct Way(Instant);

/// Carries packets for ever. Says that it is there once it is.
pub fn run(shape: Shape) -> io::Result<()> {
    let mut configuration = tun::Configuration::default();
    configuration.address(NEAR).netmask(NETMASK).mtu(MTU).up();
    let device = tun::create(&configuration).map_err(io::Error::other)?;
    device.set_nonblock()?;
    println!("listening {}", SocketAddr::new(IpAddr::V4(FAR), 0));
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(16);
    let mut alarm = Alarm::new()?;
    poll.registry().register(&mut SourceFd(&device.as_raw_fd()), DEVICE, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&alarm.timer.as_raw_fd()), TIMER, Interest::READABLE)?;
    let mut line = Line {
        shape,
        device,
        ways: [Way(Instant::now()), Way(Instant::now())],
        listening: HashSet::new(),
        packets: Slab::new(),
        chance: fastrand::Rng::new(),
    };
    loop {
        alarm.set()?;
        poll.poll(&mut events, None)?;
        line.take_in(&mut alarm);
        while alarm.due.peek().is_some_and(|Reverse((at, _))| *at <= Instant::now()) {
            let Some(Reverse((_, key))) = alarm.due.pop() else { break };
            // A packet that the host does not take is lost, as packets are.
            let _ = line.device.send(&line.packets.remove(key));
            // Giving a packet to the host takes microseconds, and the host often answers at once. The answer's way
            // begins now, not when all others have been given out.
            line.take_in(&mut alarm);
        }
    }
}

/// A line at work.
struct Line {
    shape: Shape,
    device: tun::Device,
    ways: [Way; 2],
    /// Ports of the end that was connected to.
    listening: HashSet<[u8; 2]>,
    /// On their way.
    packets: Slab<Vec<u8>>,
    chance: fastrand::Rng,
}

impl Line {
    /// Takes all packets that the host has sent, and notes when each is to arrive.
    fn take_in(&mut self, alarm: &mut Alarm) {
        let mut buffer = [0; MTU as usize];
        while let Ok(count) = self.device.recv(&mut buffer) {
            let packet = &buffer[..count];
            let Some(back) = is_back(packet, &mut self.listening) else { continue };
            if self.chance.f64() < self.shape.loss {
                continue;
            }
            if let Some(at) = self.ways[usize::from(back)].carry(count, &self.shape, Instant::now()) {
                alarm.due.push(Reverse((at, self.packets.insert(exchanged(packet)))));
            }
        }
    }
}

impl Way {
    /// When a packet of this size arrives; `None` if the queue is full.
    fn carry(&mut self, bytes: usize, shape: &Shape, now: Instant) -> Option<Instant> {
        let from = self.0.max(now);
        if from - now > shape.buffer && shape.rate > 0 {
            return None;
        }
        // At least a nanosecond, so that packets stay in their order.
        let sent_in = bytes as f64 * 8.0 / shape.rate.max(1) as f64 * f64::from(u8::from(shape.rate > 0));
        self.0 = from + Duration::from_secs_f64(sent_in).max(Duration::from_nanos(1));
        Some(self.0 + shape.round_trip / 2)
    }
}

/// Whether a packet goes back to who connected; `None` if it is not TCP over IPv4. Who connects is known by its SYN.
fn is_back(packet: &[u8], listening: &mut HashSet<[u8; 2]>) -> Option<bool> {
    const TCP: u8 = 6;
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let &[version, ..] = packet.first_chunk::<20>()?;
    let header = usize::from(version & 15) * 4;
    if version >> 4 != 4 || packet[9] != TCP {
        return None;
    }
    let tcp = packet.get(header..header + 14)?;
    let (from, to) = ([tcp[0], tcp[1]], [tcp[2], tcp[3]]);
    if tcp[13] & (SYN | ACK) == SYN {
        listening.insert(to);
    }
    Some(listening.contains(&from))
}

/// The packet with its two addresses exchanged.
fn exchanged(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (before, behind) = packet.split_at_mut(16);
    before[12..].swap_with_slice(&mut behind[..4]);
    packet
}
