//! From a bare TCP connection to a proved one, on both sides, and the control connection after it.
//!
//! Nothing here decides who is welcome: the machine is asked, with what was read and proved so far.

use std::io;

use super::Reactor;
use super::connection::{Connection, Control, Greeter, Message, Role, Stranger, Target};
use super::network::{Network, Socket};
use super::outgoing::stash;
use crate::machine::{CloseReason, ConnId, Greeting, Input, Machine};
use crate::session::End;
use crate::wire::frame::ControlFrame;
use crate::wire::handshake::{
    ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, HandshakeError, Initiator, Purpose, Responder, Secret,
};
use crate::wire::record::{Channel, RECORD_BYTES_MAX};

/// Bytes that a failed stranger may still send before his connection is no longer read.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;

impl<M: Machine, N: Network> Reactor<M, N> {
    /// A dialled connection may have been made, or have failed.
    pub(super) fn serve_connecting(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        let is_proxy = matches!(connection.role, Role::Connecting(Target::Proxy(_)));
        let broken = match connection.socket.is_connected() {
            Ok(false) => return,
            Ok(true) => None,
            // It stood already: a refusal is another error. What the local server said before it broke counts.
            Err(error) if is_proxy && is_end_of_connection(error.kind()) => Some(error.kind()),
            Err(error) => return self.close(id, CloseReason::DialFailed(error.kind())),
        };
        // What the event said of an end or an error stays.
        (connection.ready.readable, connection.ready.writable) = (true, true);
        connection.ready.ended |= broken.is_some();
        let placeholder = Role::Leaving { reason: CloseReason::Finished, shut: false };
        match std::mem::replace(&mut connection.role, placeholder) {
            Role::Connecting(Target::Greeting(greeting)) => self.greet(id, &greeting),
            Role::Connecting(Target::Proxy(local)) => {
                let message = local.peer;
                connection.role = Role::Local(local);
                self.set_deadline(id, None);
                if let Some(message) = message {
                    self.with_session(message, |session| session.started());
                    self.queue(message);
                }
                self.queue(id);
                self.tell(Input::Connected { id });
                if let Some(kind) = broken {
                    self.fail_local(id, kind);
                }
            }
            other => connection.role = other,
        }
    }

    /// Client: sends the first flight.
    fn greet(&mut self, id: ConnId, greeting: &Greeting) {
        let Ok((initiator, flight)) = Initiator::begin(greeting.hello, &greeting.secret, greeting.ticket)
        else {
            return self.close(id, CloseReason::BadRecord);
        };
        let control = greeting.hello.purpose == Purpose::Control;
        let greeter = Greeter { initiator, plain: greeting.plain, control, answer: [0; _], filled: 0 };
        if let Some(connection) = self.connections.find(id) {
            connection.role = Role::Greeting(Box::new(greeter));
        }
        self.send_bytes(id, &flight);
        self.set_deadline(id, Some(self.now + self.limits.handshake));
        self.flush(id);
    }

    /// Client: reads the answer.
    pub(super) fn serve_greeting(&mut self, id: ConnId) {
        self.flush(id);
        let Some(connection) = self.connections.find(id) else { return };
        let Role::Greeting(greeter) = &mut connection.role else { return };
        match read_exact(&mut connection.socket, &mut greeter.answer, &mut greeter.filled) {
            Progress::Whole => {}
            Progress::Partly => return connection.ready.readable = false,
            Progress::Over(reason) => return self.close(id, reason),
        }
        let placeholder = Role::Leaving { reason: CloseReason::Finished, shut: false };
        let Role::Greeting(greeter) = std::mem::replace(&mut connection.role, placeholder) else { return };
        let Ok(transport) = greeter.initiator.finish(&greeter.answer) else {
            return self.close(id, CloseReason::Stranger(HandshakeError::Unproved));
        };
        connection.role = if greeter.control {
            Role::Control(Box::new(Control { channel: Channel::new(transport, false), input: None }))
        } else {
            Role::Message(Message::new(End::Client, Channel::new(transport, greeter.plain)))
        };
        if greeter.control {
            // Until the server's first frame the handshake is not over.
            self.set_deadline(id, Some(self.now + self.limits.handshake));
        } else {
            self.set_deadline(id, None);
        }
        self.tell(Input::Connected { id });
        self.serve(id);
    }

    /// A role for whoever has just come to the control or message port.
    pub(super) fn stranger(&self) -> Role {
        Role::Stranger(Box::new(Stranger {
            since: self.now,
            flight: [0; FIRST_FLIGHT_BYTES],
            filled: 0,
            responder: None,
            control: false,
        }))
    }

    /// Server: reads a first flight, and lets the machine judge it once it is whole.
    pub(super) fn serve_stranger(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        let Role::Stranger(stranger) = &mut connection.role else { return };
        let progress = read_exact(&mut connection.socket, &mut stranger.flight, &mut stranger.filled);
        if matches!(progress, Progress::Partly) {
            connection.ready.readable = false;
        }
        let hello = match stranger.flight.first_chunk::<HELLO_BYTES>() {
            Some(clear) if stranger.filled >= HELLO_BYTES => Some(ClearHello::decode(clear)),
            _ => None,
        };
        match (progress, hello) {
            // What cannot become a hello is not waited for.
            (_, Some(Err(error))) => self.discard(id, CloseReason::Stranger(error)),
            (Progress::Over(reason), _) => self.discard(id, reason),
            (Progress::Whole, Some(Ok(hello))) => {
                stranger.control = hello.purpose == Purpose::Control;
                self.tell(Input::Greeted { id, hello });
                // The answer leaves before the next stranger is judged, with the first session if a user waits: of
                // a crowd that comes at once nobody waits for the others' handshakes.
                if let Some(Role::Message(_)) = self.connections.find(id).map(|connection| &connection.role) {
                    self.serve_message(id);
                }
            }
            (Progress::Partly | Progress::Whole, _) => {}
        }
    }

    /// Server: checks a first flight against the secret that the machine found.
    pub(super) fn verify(&mut self, id: ConnId, secret: &Secret) {
        let Some(Connection { role: Role::Stranger(stranger), .. }) = self.connections.find(id) else {
            return;
        };
        let proved = match stranger.flight.first_chunk::<HELLO_BYTES>() {
            Some(clear) => {
                ClearHello::decode(clear).and_then(|hello| Responder::verify(hello, secret, &stranger.flight))
            }
            None => Err(HandshakeError::NotSkyorg),
        };
        match proved {
            Ok((responder, ticket)) => {
                stranger.responder = Some(responder);
                self.machine.handle(Input::Proved { id, ticket }, self.now);
            }
            Err(error) => self.discard(id, CloseReason::Stranger(error)),
        }
    }

    /// Server: answers. The connection is now what it came to be.
    pub(super) fn admit(&mut self, id: ConnId, plain: bool) {
        let Some(Connection { role: Role::Stranger(stranger), .. }) = self.connections.find(id) else {
            return;
        };
        let control = stranger.control;
        let Some((answer, transport)) = stranger.responder.take().and_then(|it| it.answer().ok()) else {
            return self.close(id, CloseReason::Stranger(HandshakeError::Unproved));
        };
        if let Some(connection) = self.connections.find(id) {
            connection.role = if control {
                Role::Control(Box::new(Control { channel: Channel::new(transport, false), input: None }))
            } else {
                Role::Message(Message::new(End::Server, Channel::new(transport, plain)))
            };
        }
        self.send_bytes(id, &answer);
        // A control connection's first flight may be a recording: it stays a stranger until its first frame.
        if !control {
            self.strangers.remove(id);
            self.set_deadline(id, None);
        }
        self.queue(id);
    }

    /// Says nothing to a stranger who failed, and closes him at a time that tells him nothing.
    pub(super) fn discard(&mut self, id: ConnId, reason: CloseReason) {
        let Some(Connection { role: Role::Stranger(stranger), .. }) = self.connections.find(id) else {
            return self.close(id, reason);
        };
        let since = stranger.since;
        let (least, most) = (self.limits.stranger_min, self.limits.handshake);
        let pause = least + most.saturating_sub(least).mul_f64(self.jitter.f64());
        if let Some(connection) = self.connections.find(id) {
            connection.role = Role::Discarding { reason, left_bytes: DISCARDED_BYTES_MAX };
        }
        self.set_deadline(id, Some((since + pause).max(self.now)));
        self.queue(id);
    }

    pub(super) fn serve_discarding(&mut self, id: ConnId) {
        let Some(connection) = self.connections.find(id) else { return };
        let Role::Discarding { reason, left_bytes } = &mut connection.role else { return };
        let reason = *reason;
        while connection.ready.readable && *left_bytes > 0 {
            let limit = (*left_bytes).min(self.scratch.raw.len());
            match connection.socket.read(&mut self.scratch.raw[..limit]) {
                Ok(0) => return self.close(id, reason),
                Ok(count) => *left_bytes -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.ready.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(id, reason),
            }
        }
    }

    /// Seals a control frame and sends it.
    pub(super) fn send_control(&mut self, id: ConnId, frame: &ControlFrame) {
        let mut clear = std::mem::take(&mut self.scratch.control);
        clear.clear();
        frame.encode(&mut clear);
        let mut record = [0; RECORD_BYTES_MAX];
        let sealed = match self.connections.find(id).map(|connection| &mut connection.role) {
            Some(Role::Control(control)) => control.channel.seal(&clear, &mut record),
            _ => Ok(0),
        };
        self.scratch.control = clear;
        match sealed {
            Ok(count) => {
                self.send_bytes(id, &record[..count]);
                self.queue(id);
            }
            Err(_) => self.close(id, CloseReason::BadRecord),
        }
    }

    /// Reads control frames and tells the machine, one after the other.
    pub(super) fn serve_control(&mut self, id: ConnId) {
        self.flush(id);
        for _ in 0..self.limits.turn_accepts {
            let Some(connection) = self.connections.find(id) else { return };
            let Role::Control(control) = &mut connection.role else { return };
            let raw = &mut self.scratch.raw;
            let mut filled = control.input.as_mut().map_or(0, |ring| ring.drain_into(raw));
            self.rings.tidy(&mut control.input);
            let mut ended = None;
            if connection.ready.readable && filled < RECORD_BYTES_MAX {
                match connection.socket.read(&mut raw[filled..]) {
                    Ok(0) => ended = Some(CloseReason::PeerClosed),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        connection.ready.readable = false
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => ended = Some(CloseReason::Io(error.kind())),
                }
            }
            let frame = match control.channel.open_sealed(&raw[..filled], &mut &mut self.scratch.clear[..]) {
                Ok(Some((consumed, clear))) => Some((consumed, ControlFrame::decode(clear))),
                Ok(None) => None,
                Err(_) => return self.close(id, CloseReason::BadRecord),
            };
            let consumed = frame.as_ref().map_or(0, |frame| frame.0);
            stash(&mut control.input, &mut self.rings, &raw[consumed..filled]);
            match frame {
                Some((_, Ok(frame))) => {
                    // What came before an end is heard before it.
                    connection.ready.readable |= ended.is_some();
                    self.strangers.remove(id);
                    self.set_deadline(id, None);
                    self.tell(Input::Control { id, frame });
                }
                Some((_, Err(_))) => return self.close(id, CloseReason::ProtocolError),
                None => match ended {
                    Some(reason) => return self.close(id, reason),
                    None if !connection.ready.readable => return,
                    None => {}
                },
            }
        }
        self.queue(id);
    }
}

/// Whether an error ends a connection that stood: Linux says ECONNRESET, or EPIPE if a FIN came before the RST,
/// and ECONNREFUSED to whoever is still connecting (tcp(7)).
fn is_end_of_connection(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

enum Progress {
    Whole,
    Partly,
    Over(CloseReason),
}

/// Reads until `buffer` is full or the socket has no more; `filled` counts.
fn read_exact<S: Socket>(socket: &mut S, buffer: &mut [u8], filled: &mut usize) -> Progress {
    while *filled < buffer.len() {
        match socket.read(&mut buffer[*filled..]) {
            Ok(0) => return Progress::Over(CloseReason::PeerClosed),
            Ok(count) => *filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Partly,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Progress::Over(CloseReason::Io(error.kind())),
        }
    }
    Progress::Whole
}
