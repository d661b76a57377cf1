//! The local side of a session: a user's connection on the server, a proxy connection on the client.

use std::future::poll_fn;
use std::io::{self, IoSlice};

use skyorg::base::id::ConnId;
use skyorg::base::ring::{Ring, Rings};
use skyorg::machine::{CloseReason, Manner, Traffic};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::control;
use super::hub::Shared;
use super::scratch::{with_scratch, write};
use super::sockets;

/// The direction to the local side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Bytes may come.
    Open,
    /// `Fin` has arrived: shut down once flushed.
    Finishing,
    /// Shut down.
    Ended,
}

/// The local side of a session.
pub struct Local {
    /// Its name for the machine.
    pub id: ConnId,
    /// Its connection.
    pub stream: TcpStream,
    /// What has passed it.
    pub traffic: Traffic,
    /// It has said all that it will say.
    pub read_ended: bool,
    /// What it hears.
    pub writing: Writing,
    /// Writing has failed: what arrives for it is thrown away, and what it says will not be whole.
    pub failed: Option<io::ErrorKind>,
    /// Bytes that its socket did not take.
    pub out: Option<Ring>,
    /// Server: what was read before `Started`, kept in case it must be sent again.
    pub retained: Option<Ring>,
    /// Server: its end must be sent again as well.
    pub finish_again: bool,
}

impl Local {
    /// A connection that has just been made.
    pub fn new(id: ConnId, stream: TcpStream) -> Local {
        Local {
            id,
            stream,
            traffic: Traffic::default(),
            read_ended: false,
            writing: Writing::Open,
            failed: None,
            out: None,
            retained: None,
            finish_again: false,
        }
    }

    /// Whether it can still be written to.
    pub fn takes_bytes(&self) -> bool {
        self.writing == Writing::Open && self.failed.is_none()
    }

    /// Whether both directions have ended.
    pub fn is_over(&self) -> bool {
        self.read_ended && self.writing == Writing::Ended
    }

    /// Writes `pieces` behind what is held. A failure is remembered.
    pub fn write(&mut self, pieces: &[IoSlice], rings: &mut Rings) -> io::Result<()> {
        match write(&self.stream, &mut self.out, rings, pieces) {
            Ok(count) => {
                self.traffic.sent += count as u64;
                Ok(())
            }
            Err(error) => {
                self.failed = Some(error.kind());
                self.out.take().into_iter().for_each(|ring| rings.give_back(ring));
                Err(error)
            }
        }
    }

    /// Writes what is held, and shuts down behind it if that is wanted.
    pub fn flush(&mut self, rings: &mut Rings) -> io::Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        if self.out.is_some() {
            self.write(&[], rings)?;
        }
        if self.writing == Writing::Finishing && self.out.is_none() {
            self.writing = Writing::Ended;
            sockets::shut_down(&self.stream).inspect_err(|error| self.failed = Some(error.kind()))?;
        }
        Ok(())
    }

    /// Closes it, and tells the machine.
    pub fn close(mut self, reason: CloseReason, rings: &mut Rings, shared: &Shared) {
        let held = [self.out.take(), self.retained.take()];
        held.into_iter().flatten().for_each(|ring| rings.give_back(ring));
        let whole = reason == CloseReason::Finished;
        control::end(self.stream, if whole { Manner::Whole } else { Manner::Reset });
        shared.closed(self.id, reason, self.traffic);
    }

    /// Flushes without a message connection, and closes for the given reason, or because that took too long.
    pub async fn finish_alone(mut self, deadline: Instant, reason: CloseReason, shared: Shared) {
        let mut flushed = Ok(());
        while self.out.is_some() && flushed.is_ok() {
            let ready = timeout_at(deadline, poll_fn(|context| self.stream.poll_write_ready(context))).await;
            flushed = match ready {
                Ok(_) => with_scratch(|scratch| self.flush(&mut scratch.rings)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
        }
        let reason = match flushed {
            Err(error) if reason == CloseReason::Finished => CloseReason::Io(error.into()),
            _ => reason,
        };
        with_scratch(|scratch| self.close(reason, &mut scratch.rings, &shared));
    }
}
