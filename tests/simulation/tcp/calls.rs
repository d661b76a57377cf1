//! The calls that a program makes on its sockets, as a kernel answers them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

use skyorg::reactor::world::network::Event;
use skyorg::wire::handshake::FIRST_FLIGHT_BYTES;

use super::{End, EndId, Flying, Host, Kind, Net, Segment, State};
use crate::world::{CONTROL_PORT, MESSAGE_PORT, SERVER_IP};

impl Net {
    pub fn connect(&mut self, host: Host, from: SocketAddr, to: SocketAddr) -> EndId {
        let kind = match to.port() {
            MESSAGE_PORT => Kind::Message,
            CONTROL_PORT => Kind::Control,
            _ if to.ip() == SERVER_IP => Kind::User,
            _ => Kind::Proxy,
        };
        let far = match self.listeners.get(&to) {
            _ if kind == Kind::Proxy => Host::Outside,
            Some(listener) => listener.host,
            None => Host::Server,
        };
        let dialler = self.ends.len();
        for (host, address, state) in [(host, from, State::Connecting), (far, to, State::Embryo)] {
            self.ends.push(End::new(host, kind, address, state, self.shape.delay));
        }
        if kind == Kind::Proxy {
            self.ends[dialler + 1].last_at = self.now + self.shape.local_delay;
        }
        if let Host::Client(_) = host {
            self.dialled.push((self.now, kind));
        }
        self.controls += usize::from(kind == Kind::Control && host != Host::Outside);
        self.progress += 1;
        if kind == Kind::Proxy && self.rng.f64() < self.shape.instant {
            self.arrive_at_once(dialler);
        } else {
            self.send(dialler + 1, Segment::Syn);
        }
        dialler
    }

    /// A local server on the same host has answered before connect(2) returns.
    fn arrive_at_once(&mut self, dialler: EndId) {
        let address = self.ends[dialler + 1].address;
        match self.listeners.get_mut(&address) {
            Some(listener) if listener.refuses.is_none() => {
                listener.backlog.push_back(dialler + 1);
                (self.ends[dialler].state, self.ends[dialler + 1].state) = (State::Open, State::Open);
                self.kernels[Host::Outside.index()].alarms.push(Event::Acceptable(0));
            }
            _ => self.send(dialler + 1, Segment::Syn),
        }
    }

    pub fn register(&mut self, end: EndId, slot: u32) {
        self.ends[end].slot = Some(slot);
        let this = &self.ends[end];
        if this.state == State::Open {
            let marks = [!this.inbox.is_empty() || this.fin || this.reset, true, this.error.is_some()];
            self.mark(end, marks);
        }
    }

    pub fn accept(&mut self, address: SocketAddr) -> io::Result<EndId> {
        let chance = self.rng.f64() < self.shape.accept_errors;
        let listener = self.listeners.get_mut(&address);
        let backlog = &mut listener.ok_or(ErrorKind::WouldBlock)?.backlog;
        if backlog.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        const EMFILE: i32 = 24;
        let (until, error) = self.accept_fails;
        if until > self.now {
            return Err(io::Error::from_raw_os_error(error));
        }
        if chance {
            match self.rng.u8(..3) {
                0 => {
                    let lasts = Duration::from_millis(self.rng.u64(..1_000));
                    self.accept_fails = (self.now + lasts, EMFILE);
                    return Err(io::Error::from_raw_os_error(EMFILE));
                }
                1 => return Err(ErrorKind::Interrupted.into()),
                _ => {
                    if let Some(end) = backlog.pop_front() {
                        self.close(end, true);
                    }
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
        }
        self.progress += 1;
        backlog.pop_front().ok_or(ErrorKind::WouldBlock.into())
    }

    pub fn is_connected(&mut self, end: EndId) -> io::Result<bool> {
        let this = &mut self.ends[end];
        match this.error.take() {
            Some(error) => Err(error.into()),
            None => Ok(this.state == State::Open),
        }
    }

    pub fn take_error(&mut self, end: EndId) -> Option<io::Error> {
        self.ends[end].error.take().map(io::Error::from)
    }

    pub fn read(&mut self, end: EndId, out: &mut [u8]) -> io::Result<usize> {
        let chance = self.rng.f64();
        let this = &mut self.ends[end];
        if chance < self.shape.short / 10.0 {
            return Err(ErrorKind::Interrupted.into());
        }
        if !this.inbox.is_empty() {
            let mut count = out.len().min(this.inbox.len());
            if chance < self.shape.short {
                count = 1 + self.rng.usize(..count);
            }
            for (place, byte) in out.iter_mut().zip(this.inbox.drain(..count)) {
                *place = byte;
            }
            if !this.inbox.is_empty() {
                // A kernel gives all it has: the rest is as good as arrived just after, and that is an event.
                self.mark(end, [true, false, false]);
            }
            self.progress += 1;
            self.tap(end, &out[..count]);
            self.give_room(end ^ 1);
            return Ok(count);
        }
        if this.fin {
            return Ok(0);
        }
        match this.error.take() {
            Some(error) => Err(error.into()),
            None if this.reset => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Notes what the server reads first from a client.
    fn tap(&mut self, end: EndId, bytes: &[u8]) {
        let from = self.ends[end ^ 1].host;
        let this = &mut self.ends[end];
        let missing = FIRST_FLIGHT_BYTES - this.first_flight.len();
        if matches!(this.host, Host::Client(_) | Host::Outside) || from == Host::Outside || missing == 0 {
            return;
        }
        this.first_flight.extend(&bytes[..missing.min(bytes.len())]);
        if this.first_flight.len() == FIRST_FLIGHT_BYTES {
            self.recorded.push((this.kind, this.first_flight.clone()));
        }
    }

    fn room(&self, end: EndId) -> usize {
        let far = &self.ends[end ^ 1];
        self.shape.pipe_bytes.saturating_sub(far.flight_bytes + far.inbox.len())
    }

    fn give_room(&mut self, end: EndId) {
        if self.ends[end].want_room && self.room(end) > self.shape.pipe_bytes / 3 {
            self.ends[end].want_room = false;
            self.mark(end, [false, true, false]);
        }
    }

    pub fn write(&mut self, end: EndId, slices: &[IoSlice]) -> io::Result<usize> {
        let chance = self.rng.f64();
        let room = self.room(end);
        let this = &mut self.ends[end];
        if let Some(error) = this.error.take() {
            return Err(error.into());
        }
        if this.reset || this.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if chance < self.shape.short / 10.0 {
            return Err(ErrorKind::Interrupted.into());
        }
        if this.state == State::Connecting || room == 0 {
            this.want_room = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let whole = bytes.len();
        bytes.truncate(room);
        if chance < self.shape.short && !bytes.is_empty() {
            bytes.truncate(1 + self.rng.usize(..bytes.len()));
        }
        let count = bytes.len();
        self.progress += 1;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = rest.len().min(1 + self.rng.usize(..self.shape.segment_bytes));
            self.send(end ^ 1, Segment::Bytes(rest[..piece].to_vec()));
            rest = &rest[piece..];
        }
        if count < whole && self.room(end) > 0 {
            // A kernel takes less than there is room for only for a moment.
            self.mark(end, [false, true, false]);
        } else if count < whole {
            self.ends[end].want_room = true;
        }
        Ok(count)
    }

    pub fn shutdown_write(&mut self, end: EndId) -> io::Result<()> {
        let this = &mut self.ends[end];
        if this.reset || this.state != State::Open {
            return Err(ErrorKind::NotConnected.into());
        }
        if !std::mem::replace(&mut this.shut, true) {
            self.progress += 1;
            self.send(end ^ 1, Segment::Fin);
        }
        Ok(())
    }

    /// Closes an end: by FIN if everything was read and no RST is wanted. True if the peer will see an end.
    pub fn close(&mut self, end: EndId, reset: bool) -> bool {
        let this = &mut self.ends[end];
        let (before, unread) = (this.state, !this.inbox.is_empty());
        if before == State::Closed {
            return false;
        }
        this.state = State::Closed;
        this.inbox = VecDeque::new();
        self.progress += 1;
        if this.reset {
            return false;
        }
        if before == State::Open && !reset && !unread {
            if !std::mem::replace(&mut this.shut, true) {
                self.send(end ^ 1, Segment::Fin);
            }
            return true;
        }
        // RST drops what was not sent; what travels already may or may not be overtaken.
        let peer = &mut self.ends[end ^ 1];
        let kept = if peer.flight.is_empty() { 0 } else { self.rng.usize(..=peer.flight.len()) };
        let syn = usize::from(matches!(
            peer.flight.front().map(|flying| &flying.segment),
            Some(Segment::Syn | Segment::SynAck | Segment::Ack)
        ));
        for Flying { segment, .. } in peer.flight.drain(kept.max(syn).min(peer.flight.len())..) {
            if let Segment::Bytes(bytes) = segment {
                peer.flight_bytes -= bytes.len();
            }
        }
        self.send(end ^ 1, Segment::Reset);
        false
    }
}
