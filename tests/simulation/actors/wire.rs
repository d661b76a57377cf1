//! The real wire on one simulated connection, spoken by an actor: the handshake and records of `skyorg::wire`, and
//! whatever the actor likes to say in them.

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

use skyorg::wire::control::ControlFrame;
use skyorg::wire::frame::Frame;
use skyorg::wire::handshake::{
    ANSWER_BYTES, ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, Initiator, Purpose, Responder, Secret,
};
use skyorg::wire::record::{Channel, RECORD_BYTES_MAX};

use crate::tcp::{EndId, Host, Net};

/// How far a connection has come.
enum Stage {
    /// The other end's answer is awaited.
    Dialled(Box<Initiator>),
    /// The other end's first flight is awaited.
    Taken,
    Proved(Box<Channel>),
    /// It ended, or the other end proved nothing.
    Over,
}

/// One connection of an actor.
pub struct Wire {
    pub end: EndId,
    stage: Stage,
    plain: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Wire {
    /// Dials, and begins the handshake. `plain` says how a message connection's payload will travel.
    pub fn dial(
        net: &mut Net,
        (from, to): (SocketAddr, SocketAddr),
        hello: ClearHello,
        secret: &Secret,
        ticket: u64,
        plain: bool,
    ) -> Wire {
        let end = net.connect(Host::Outside, from, to);
        let (initiator, flight) = Initiator::begin(hello, secret, ticket).expect("begins");
        let plain = plain && hello.purpose == Purpose::Message;
        let stage = Stage::Dialled(Box::new(initiator));
        Wire { end, stage, plain, input: Vec::new(), output: flight.to_vec() }
    }

    /// A connection that was taken from a listener.
    pub fn taken(end: EndId) -> Wire {
        Wire { end, stage: Stage::Taken, plain: false, input: Vec::new(), output: Vec::new() }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    pub fn is_proved(&self) -> bool {
        matches!(self.stage, Stage::Proved(_))
    }

    /// Reads what came, and writes what is to be said, as far as the network goes along.
    pub fn pump(&mut self, net: &mut Net) {
        match net.is_connected(self.end) {
            _ if self.is_over() => return,
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.close(net, true),
        }
        let mut buffer = [0; 16 * 1024];
        loop {
            match net.read(self.end, &mut buffer) {
                Ok(0) => return self.close(net, true),
                Ok(count) => self.input.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.close(net, true),
            }
        }
        if let Stage::Dialled(_) = self.stage
            && let Some(answer) = self.input.first_chunk::<ANSWER_BYTES>()
        {
            let Stage::Dialled(initiator) = std::mem::replace(&mut self.stage, Stage::Over) else { return };
            let proved = initiator.finish(answer).expect("the server holds the secret");
            self.stage = Stage::Proved(Box::new(Channel::new(proved, self.plain)));
            self.input.drain(..ANSWER_BYTES);
        }
        self.flush(net);
    }

    fn flush(&mut self, net: &mut Net) {
        while !self.output.is_empty() {
            match net.write(self.end, &[IoSlice::new(&self.output)]) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(net, true),
            }
        }
    }

    /// Answers the first flight once it is there; `secret` knows whose it is. True when it was answered just now.
    pub fn answer(
        &mut self,
        net: &mut Net,
        plain: bool,
        mut secret: impl FnMut(&ClearHello) -> Option<Secret>,
    ) -> bool {
        let (Stage::Taken, Some(flight)) = (&self.stage, self.input.first_chunk::<FIRST_FLIGHT_BYTES>())
        else {
            return false;
        };
        let clear = flight.first_chunk::<HELLO_BYTES>().expect("long enough");
        let hello = ClearHello::decode(clear).expect("a hello of the product");
        let Some(secret) = secret(&hello) else {
            self.close(net, true);
            return false;
        };
        let (responder, _) = Responder::verify(hello, &secret, flight).expect("the product holds the secret");
        let (answer, proved) = responder.answer().expect("answers");
        self.output.extend(answer);
        let plain = plain && hello.purpose == Purpose::Message;
        self.stage = Stage::Proved(Box::new(Channel::new(proved, plain)));
        self.input.drain(..FIRST_FLIGHT_BYTES);
        self.flush(net);
        true
    }

    /// Says a frame of a control connection.
    pub fn say_control(&mut self, net: &mut Net, frame: &ControlFrame) {
        let mut clear = Vec::new();
        frame.encode(&mut clear);
        self.say_bytes(net, &clear);
    }

    /// Says a frame of a message connection other than `Data`.
    pub fn say(&mut self, net: &mut Net, frame: Frame) {
        self.say_bytes(net, &frame.encode());
    }

    /// Says a record whose frame may mean nothing.
    pub fn say_bytes(&mut self, net: &mut Net, clear: &[u8]) {
        let Stage::Proved(channel) = &mut self.stage else { return };
        let mut record = [0; RECORD_BYTES_MAX];
        let count = channel.seal(clear, &mut record).expect("seals");
        self.output.extend(&record[..count]);
        self.flush(net);
    }

    /// The next frame of a control connection.
    pub fn next_control(&mut self) -> Option<ControlFrame> {
        let Stage::Proved(channel) = &mut self.stage else { return None };
        let mut clear = vec![0; self.input.len()];
        let opened = channel.open_sealed(&self.input, &mut &mut clear[..]).expect("a record of the product");
        let (consumed, clear) = opened?;
        let frame = ControlFrame::decode(clear).expect("a frame of the product");
        self.input.drain(..consumed);
        Some(frame)
    }

    /// The next frame of a message connection. Nobody cares for the payload of `Data`: it comes empty.
    pub fn next(&mut self) -> Option<Frame<'static>> {
        loop {
            let Stage::Proved(channel) = &mut self.stage else { return None };
            let mut clear = vec![0; self.input.len()];
            let opened = channel.open(&self.input, &mut &mut clear[..]).expect("a record of the product");
            let frame = opened.frame.map(|frame| match frame {
                Frame::Start(start) => Frame::Start(start),
                Frame::Accepted(sid) => Frame::Accepted(sid),
                Frame::Started(sid) => Frame::Started(sid),
                Frame::Data(sid, _) => Frame::Data(sid, &[]),
                Frame::Fin(sid) => Frame::Fin(sid),
                Frame::Abort(sid, reason) => Frame::Abort(sid, reason),
                Frame::Ping => Frame::Ping,
                Frame::Pong => Frame::Pong,
                Frame::Drain => Frame::Drain,
                Frame::Alive(sid) => Frame::Alive(sid),
                Frame::Skipped => Frame::Skipped,
            });
            let consumed = opened.consumed;
            self.input.drain(..consumed);
            if frame.is_some() || consumed == 0 {
                return frame;
            }
        }
    }

    /// Ends the connection.
    pub fn close(&mut self, net: &mut Net, reset: bool) {
        self.stage = Stage::Over;
        net.close(self.end, reset);
    }
}
