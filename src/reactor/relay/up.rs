//! Local side → message connection.

use std::io::{self, IoSlice};

use super::splice::{SPARSE_BYTES, SPLICE_BYTES_MAX, Spliced, splices, unspliced};
use super::{Relay, SMALL_FRAMES_ROOM};
use crate::base::id::ConnId;
use crate::base::ring::{RING_BYTES, Ring};
use crate::machine::{CloseReason, Traffic};
use crate::reactor::buffers::stash;
use crate::reactor::connections::Kind;
use crate::reactor::rates::Direction;
use crate::reactor::world::network::Socket;
use crate::session::Stage;
use crate::wire::record::{HEADROOM, payload_fitting};

/// A read of this many bytes, in a session that has had [`BULK_SESSION_BYTES`], makes a flow bulk: it is spliced from
/// then on.
const BULK_READ_BYTES: usize = 32 * 1024;
const BULK_SESSION_BYTES: u64 = 256 * 1024;

/// A turn of one local side's bytes.
pub(super) struct Up<'r, 'a, S: Socket> {
    relay: &'r mut Relay<'a, S>,
    id: ConnId,
    /// Bytes that are left of the turn.
    budget: usize,
}

impl<'r, 'a, S: Socket> Up<'r, 'a, S> {
    pub fn new(relay: &'r mut Relay<'a, S>, id: ConnId) -> Up<'r, 'a, S> {
        let budget = relay.limits.turn_bytes;
        Up { relay, id, budget }
    }

    /// Moves bytes until a side has no more or takes no more, or the turn is over.
    pub fn pump(mut self) {
        let (id, now) = (self.id, self.relay.all.now);
        loop {
            let Some((local, message)) = self.relay.all.couple(id) else { return };
            let (Kind::Local(half), Kind::Message(other)) = (&mut local.kind, &mut message.kind) else {
                return;
            };
            let wanted = half.reads() && other.session.may_send() && other.failed.is_none();
            if !wanted || !local.ready.readable || !message.ready.writable || message.piped.is_some() {
                return;
            }
            if self.budget == 0 {
                return self.relay.all.queue_again(id);
            }
            let allowed = self.relay.rates.allow(id, half, Direction::Up, now);
            if allowed == 0 {
                return;
            }
            if other.is_bulk && allowed >= SPARSE_BYTES && splices(other) && message.is_flushed() {
                match self.splice(allowed) {
                    Spliced::Moved => continue,
                    Spliced::Stopped => return,
                    Spliced::Unavailable => {}
                }
            }
            let Some((local, message)) = self.relay.all.couple(id) else { return };
            let (Kind::Local(half), Kind::Message(other)) = (&mut local.kind, &mut message.kind) else {
                return;
            };
            let room = RING_BYTES - SMALL_FRAMES_ROOM;
            let held = message.out.as_ref().map_or(0, Ring::len);
            let mut limit = payload_fitting(room.saturating_sub(held));
            let unstarted = other.session.stage() < Some(Stage::Started);
            if unstarted {
                limit = limit.min(payload_fitting(room) - half.retained.as_ref().map_or(0, Ring::len));
            }
            if limit == 0 {
                return;
            }
            limit = limit.min(allowed);
            let raw = &mut self.relay.buffers.scratch.raw[..HEADROOM + limit];
            let count = match local.socket.read(&mut raw[HEADROOM..]) {
                Ok(0) => return self.relay.local_ended(id),
                Ok(count) => {
                    local.ready.note_read(count, limit);
                    count
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    local.ready.readable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Everything before it was passed on; `reap` sends the `Abort`.
                Err(error) => return self.relay.all.reset(id, CloseReason::Io(error.into())),
            };
            self.relay.rates.spend(id, half, Direction::Up, count);
            self.budget = self.budget.saturating_sub(count);
            half.traffic.received += count as u64;
            self.relay.meters.add(half, Traffic { received: count as u64, sent: 0 });
            other.carried_bytes = other.carried_bytes.saturating_add(count as u32);
            other.is_bulk = count >= BULK_READ_BYTES && half.traffic.received >= BULK_SESSION_BYTES;
            let raw = &mut raw[..HEADROOM + count];
            if unstarted {
                stash(&mut half.retained, &mut self.relay.buffers.rings, &raw[HEADROOM..]);
            }
            other.pulse.said();
            let sealed =
                other.channel.seal_data(other.session.sid(), raw, &mut self.relay.buffers.scratch.clear);
            let written = match sealed {
                // The end follows at once, and goes into the same write.
                Ok(sealed) if local.ready.ended && count < limit => {
                    stash(&mut message.out, &mut self.relay.buffers.rings, sealed);
                    Ok(())
                }
                Ok(sealed) => {
                    let pieces = [IoSlice::new(sealed)];
                    message.write(&mut self.relay.buffers.rings, &pieces, usize::MAX).map(drop)
                }
                Err(_) => Err(io::ErrorKind::InvalidData.into()),
            };
            let (message, left) = (message.id, message.out.is_some());
            if let Err(error) = written {
                return self.relay.buffers.fail(self.relay.all, message, error.into());
            }
            if left {
                self.relay.all.queue(message);
            }
        }
    }

    /// Local side → message connection, as one `Data` record of no more than these bytes.
    fn splice(&mut self, allowed: usize) -> Spliced {
        let id = self.id;
        let Some(connection) = self.relay.all.open(id) else { return Spliced::Stopped };
        let Some(mut piped) = self.relay.buffers.pipes.lease(&connection.socket) else {
            return Spliced::Unavailable;
        };
        let Some((local, message)) = self.relay.all.couple(id) else {
            self.relay.buffers.pipes.give_back(piped);
            return Spliced::Stopped;
        };
        let (Kind::Local(half), Kind::Message(other)) = (&mut local.kind, &mut message.kind) else {
            self.relay.buffers.pipes.give_back(piped);
            return Spliced::Stopped;
        };
        let held = match local.socket.splice_in(&mut piped.pipe, SPLICE_BYTES_MAX.min(allowed)) {
            Ok(count) if count > 0 => count,
            result => {
                self.relay.buffers.pipes.give_back(piped);
                return unspliced(self.relay.all, id, result);
            }
        };
        self.relay.rates.spend(id, half, Direction::Up, held);
        self.budget = self.budget.saturating_sub(held);
        half.traffic.received += held as u64;
        self.relay.meters.add(half, Traffic { received: held as u64, sent: 0 });
        other.carried_bytes = other.carried_bytes.saturating_add(held as u32);
        other.is_bulk = held >= SPARSE_BYTES;
        (piped.held, piped.header_left) = (held, HEADROOM);
        let Some(header) = other.channel.plain_data_header(other.session.sid(), held) else {
            self.relay.buffers.pipes.give_back(piped);
            let message = message.id;
            self.relay.all.reset(message, CloseReason::BadRecord);
            return Spliced::Stopped;
        };
        piped.header = header;
        message.piped = Some(piped);
        let message = message.id;
        if !self.relay.buffers.flush(self.relay.all, message) {
            self.relay.all.queue(message);
        }
        Spliced::Moved
    }
}
