//! From a bare TCP connection to a proved one, and the life of a control connection.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use skyorg::base::id::ConnId;
use skyorg::machine::{CloseReason, Greeting, Input, LINK_RANDOM_BYTES, Manner, Proof, Traffic};
use skyorg::session::End;
use skyorg::wire::control::ControlFrame;
use skyorg::wire::handshake::{
    ANSWER_BYTES, ClearHello, FIRST_FLIGHT_BYTES, HELLO_BYTES, HandshakeError, Initiator, Purpose, Responder,
};
use skyorg::wire::record::{Channel, RECORD_BYTES_MAX};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout, timeout_at};

use super::hub::{Command, Shared};
use super::relay::Relay;
use super::scratch::with_scratch;
use super::sockets;

type Commands = UnboundedReceiver<Command>;

/// Server: a connection at the message or control port, until it ends.
pub async fn stranger(id: ConnId, stream: TcpStream, mut commands: Commands, shared: Shared) {
    // Boxed, so that an idle message connection does not keep room for a handshake.
    let handshake = Box::pin(timeout(shared.limits.heartbeat, admit(id, &stream, &mut commands, &shared)));
    match handshake.await.unwrap_or(Err(CloseReason::HandshakeTimedOut)) {
        Ok((channel, heartbeat, Purpose::Message)) => {
            Relay::new(id, (End::Server, heartbeat), stream, channel, commands, shared).run().await;
        }
        Ok((channel, _, Purpose::Control)) => {
            Box::pin(Control { id, stream, channel, commands, shared }.run()).await;
        }
        Err(reason) => {
            // A stranger learns nothing from an answer, nor from the time of its closing.
            let (least, most) = shared.limits.flight;
            sleep(least + most.saturating_sub(least).mul_f64(fastrand::f64())).await;
            end(stream, Manner::Discard);
            shared.closed(id, reason, Traffic::default());
        }
    }
}

async fn admit(
    id: ConnId,
    stream: &TcpStream,
    commands: &mut Commands,
    shared: &Shared,
) -> Result<(Channel, Duration, Purpose), CloseReason> {
    let mut flight = [0; FIRST_FLIGHT_BYTES];
    let (clear, rest) = flight.split_at_mut(HELLO_BYTES);
    read_exact(stream, clear).await?;
    let clear = clear.first_chunk().ok_or(CloseReason::ProtocolError)?;
    let hello = ClearHello::decode(clear).map_err(CloseReason::Stranger)?;
    read_exact(stream, rest).await?;
    shared.input(Input::Greeted { id, hello });
    let secret = match commands.recv().await {
        Some(Command::Verify(secret)) => secret,
        Some(Command::Close(reason, _)) => return Err(reason),
        _ => return Err(CloseReason::Shutdown),
    };
    let (responder, ticket) = Responder::verify(hello, &secret, &flight).map_err(CloseReason::Stranger)?;
    let proof = match hello.purpose {
        Purpose::Message => Proof::Message { ticket },
        Purpose::Control => {
            let mut random = [0; LINK_RANDOM_BYTES];
            getrandom::fill(&mut random).map_err(|_| CloseReason::Shutdown)?;
            Proof::control(&random, Responder::flight_mark(&flight))
        }
    };
    shared.input(Input::Proved { id, proof });
    let (plain, heartbeat) = match commands.recv().await {
        Some(Command::Answer(how)) => *how,
        Some(Command::Close(reason, _)) => return Err(reason),
        _ => return Err(CloseReason::Shutdown),
    };
    let (answer, transport) = responder.answer().map_err(CloseReason::Stranger)?;
    write_all(stream, &answer).await?;
    shared.input(Input::Answered { id });
    Ok((Channel::new(transport, plain), heartbeat, hello.purpose))
}

/// Client: a control or message connection, from the dial to its end.
pub async fn dial(
    id: ConnId,
    address: SocketAddr,
    deadline: Instant,
    greeting: Greeting,
    control: bool,
    commands: Commands,
    shared: Shared,
) {
    let (handshake, heartbeat) = (shared.limits.heartbeat, greeting.heartbeat);
    let greeted = Box::pin(async {
        let connected = timeout_at(deadline.into(), sockets::connect(address)).await;
        let stream = match connected.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => return Err(CloseReason::DialFailed(error.into())),
        };
        let proved = timeout(handshake, greet(&stream, &greeting)).await;
        proved.unwrap_or(Err(CloseReason::HandshakeTimedOut)).map(|channel| (stream, channel))
    });
    match greeted.await {
        Ok((stream, channel)) => {
            shared.input(Input::Connected { id });
            if control {
                Box::pin(Control { id, stream, channel, commands, shared }.run()).await;
            } else {
                let end = (End::Client, heartbeat);
                Relay::new(id, end, stream, channel, commands, shared).run().await;
            }
        }
        Err(reason) => shared.closed(id, reason, Traffic::default()),
    }
}

async fn greet(stream: &TcpStream, greeting: &Greeting) -> Result<Channel, CloseReason> {
    let unproved = |_: HandshakeError| CloseReason::BadRecord;
    let (initiator, flight) =
        Initiator::begin(greeting.hello, &greeting.secret, greeting.ticket).map_err(unproved)?;
    write_all(stream, &flight).await?;
    let mut answer = [0; ANSWER_BYTES];
    read_exact(stream, &mut answer).await?;
    let transport = initiator.finish(&answer).map_err(unproved)?;
    Ok(Channel::new(transport, greeting.plain))
}

/// A proved control connection.
struct Control {
    id: ConnId,
    stream: TcpStream,
    channel: Channel,
    commands: Commands,
    shared: Shared,
}

enum Wake {
    Command(Option<Command>),
    Readable,
}

impl Control {
    async fn run(mut self) {
        let mut input = Vec::new();
        let (reason, manner) = loop {
            let outcome = match self.wait().await {
                Wake::Command(Some(Command::Send(frame))) => self.send(&frame).await,
                Wake::Command(Some(Command::Close(reason, manner))) => break (reason, manner),
                Wake::Command(Some(_)) => Ok(()),
                Wake::Command(None) => Err(CloseReason::Shutdown),
                Wake::Readable => self.receive(&mut input),
            };
            if let Err(reason) = outcome {
                break (reason, Manner::Reset);
            }
        };
        if manner == Manner::Whole {
            linger(&self.stream, &self.shared).await;
        }
        end(self.stream, manner);
        self.shared.closed(self.id, reason, Traffic::default());
    }

    async fn wait(&mut self) -> Wake {
        poll_fn(|context| match self.commands.poll_recv(context) {
            Poll::Ready(command) => Poll::Ready(Wake::Command(command)),
            Poll::Pending => self.stream.poll_read_ready(context).map(|_| Wake::Readable),
        })
        .await
    }

    async fn send(&mut self, frame: &ControlFrame) -> Result<(), CloseReason> {
        let mut clear = Vec::new();
        frame.encode(&mut clear);
        let mut record = vec![0; RECORD_BYTES_MAX];
        let count = self.channel.seal(&clear, &mut record).map_err(|_| CloseReason::BadRecord)?;
        write_all(&self.stream, &record[..count]).await
    }

    fn receive(&mut self, input: &mut Vec<u8>) -> Result<(), CloseReason> {
        with_scratch(|scratch| {
            match self.stream.try_read(&mut scratch.raw) {
                Ok(0) => return Err(CloseReason::PeerClosed),
                Ok(count) => input.extend_from_slice(&scratch.raw[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(CloseReason::Io(error.into())),
            }
            loop {
                let opened = self.channel.open_sealed(input, &mut &mut scratch.clear[..]);
                let Some((consumed, clear)) = opened.map_err(|_| CloseReason::BadRecord)? else {
                    return Ok(());
                };
                let frame = ControlFrame::decode(clear).map_err(|_| CloseReason::ProtocolError)?;
                self.shared.input(Input::Control { id: self.id, frame });
                input.drain(..consumed);
            }
        })
    }
}

/// Says no more, and reads to the end, so that what was said is read.
pub async fn linger(stream: &TcpStream, shared: &Shared) {
    if sockets::shut_down(stream).is_err() {
        return;
    }
    let mut rest = [0; 1024];
    let drained = async { while let Ok(()) = read_exact(stream, &mut rest).await {} };
    // A peer that does not end in time is left.
    let _ = timeout(shared.limits.linger, drained).await;
}

/// Closes in this manner.
pub fn end(stream: TcpStream, manner: Manner) {
    if manner == Manner::Reset { drop(stream) } else { sockets::close_in_peace(stream) }
}

async fn read_exact(stream: &TcpStream, mut buffer: &mut [u8]) -> Result<(), CloseReason> {
    while !buffer.is_empty() {
        stream.readable().await.map_err(|error| CloseReason::Io(error.into()))?;
        match stream.try_read(buffer) {
            Ok(0) => return Err(CloseReason::PeerClosed),
            Ok(count) => buffer = &mut buffer[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(CloseReason::Io(error.into())),
        }
    }
    Ok(())
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<(), CloseReason> {
    while !bytes.is_empty() {
        stream.writable().await.map_err(|error| CloseReason::Io(error.into()))?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(CloseReason::Io(error.into())),
        }
    }
    Ok(())
}
