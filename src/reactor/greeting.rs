//! Client: from a connection that is being dialled to one that is proved.

use std::io;
use std::time::Duration;

use super::buffers::Buffers;
use super::connections::{Connections, Kind, Life, Message};
use super::control::Control;
use super::world::network::Socket;
use crate::base::id::ConnId;
use crate::machine::{CloseReason, Greeting, Input};
use crate::session::End;
use crate::wire::handshake::{ANSWER_BYTES, HandshakeError, Initiator, Purpose};
use crate::wire::record::Channel;

/// The client's half of a handshake.
pub(super) struct Greeter {
    greeting: Greeting,
    /// Once the first flight is sent.
    initiator: Option<Initiator>,
    answer: [u8; ANSWER_BYTES],
    filled: usize,
}

impl Greeter {
    pub fn new(greeting: Greeting) -> Greeter {
        Greeter { greeting, initiator: None, answer: [0; ANSWER_BYTES], filled: 0 }
    }
}

/// What a read came to.
pub(super) enum Progress {
    Whole,
    Partly,
    Over(CloseReason),
}

/// Reads until `buffer` is full or the socket has no more; `filled` counts.
pub(super) fn read_exact<S: Socket>(socket: &mut S, buffer: &mut [u8], filled: &mut usize) -> Progress {
    while *filled < buffer.len() {
        match socket.read(&mut buffer[*filled..]) {
            Ok(0) => return Progress::Over(CloseReason::PeerClosed),
            Ok(count) => *filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Partly,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Progress::Over(CloseReason::Io(error.into())),
        }
    }
    Progress::Whole
}

/// Sends the first flight on a connection that stands.
pub(super) fn begin<S: Socket>(
    all: &mut Connections<S>,
    buffers: &mut Buffers<S>,
    id: ConnId,
    limit: Duration,
) {
    let Some(connection) = all.find(id) else { return };
    let Kind::Greeting(greeter) = &mut connection.kind else { return };
    let greeting = &greeter.greeting;
    let Ok((initiator, flight)) = Initiator::begin(greeting.hello, &greeting.secret, greeting.ticket) else {
        return all.reset(id, CloseReason::BadRecord);
    };
    greeter.initiator = Some(initiator);
    connection.life = Life::Open;
    buffers.send_bytes(all, id, &flight);
    let deadline = all.now + limit;
    all.set_deadline(id, Some(deadline));
    buffers.flush(all, id);
}

/// Reads the answer. The connection is then what it was dialled for.
pub(super) fn serve<S: Socket>(all: &mut Connections<S>, buffers: &mut Buffers<S>, id: ConnId) {
    buffers.flush(all, id);
    let now = all.now;
    let Some(connection) = all.open(id) else { return };
    let Kind::Greeting(greeter) = &mut connection.kind else { return };
    match read_exact(&mut connection.socket, &mut greeter.answer, &mut greeter.filled) {
        Progress::Whole => {}
        Progress::Partly => return connection.ready.readable = false,
        Progress::Over(reason) => return all.end(id, reason),
    }
    let finished = greeter.initiator.take().map(|initiator| initiator.finish(&greeter.answer));
    let Some(Ok(proved)) = finished else {
        return all.end(id, CloseReason::Stranger(HandshakeError::Unproved));
    };
    let &Greeting { hello, plain, heartbeat, .. } = &greeter.greeting;
    connection.kind = match hello.purpose {
        Purpose::Control => Kind::Control(Box::new(Control::new(proved, now))),
        Purpose::Message => Kind::Message(Message::new(End::Client, Channel::new(proved, plain), heartbeat)),
    };
    connection.socket.keep_alive(heartbeat);
    // How long the server's first frame may take, the machine says.
    all.set_deadline(id, None);
    all.tell(Input::Connected { id });
    all.queue(id);
}
