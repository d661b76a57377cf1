//! Every bound of the program in one place: queues, buffers, counts and waits, each with what happens at it.

use std::time::Duration;

/// The limits and their defaults. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Users served at once; at the limit the request ports stop accepting, and shed after `wait`.
    pub users_max: usize,
    /// Clients connected at once; the next one is closed.
    pub clients_max: usize,
    /// Users waiting for a message connection, in all; the next one is reset at once.
    pub waiting_max: usize,
    /// How long a user may wait for a message connection, or in a full listener's queue, before it is reset.
    pub wait: Duration,
    /// The server's count of idle message connections per client.
    pub pool: usize,
    /// Publications that one client may have; the next one is denied.
    pub publications_per_client_max: usize,
    /// Message connections of all clients together, at the server; no more are asked for.
    pub messages_max: usize,
    /// Message connections that one client may have, idle, busy or on their way.
    pub messages_per_client_max: usize,
    /// Message connections of one link that are on their way at once; the next one waits for its turn.
    pub messages_at_once: usize,
    /// Tickets of one link that wait for their turn; more are ignored, expire, and are handed out again.
    pub tickets_max: usize,
    /// Time between two dials of message connections while these fail.
    pub message_retry: Duration,
    /// Proxy connections beyond two per message connection; the next session is refused.
    pub proxies_spare: usize,
    /// Least and most time a client has to accept a session; three round trips in between.
    pub accept: (Duration, Duration),
    /// How long a ticket is good.
    pub ticket: Duration,
    /// Mean time between pings of an idle message connection; jittered by a quarter.
    pub idle_ping: Duration,
    /// How long a ping of a message connection may go unanswered.
    pub pong: Duration,
    /// How long a client may take to read the end of a session that sent it much, before its message connection is
    /// given up.
    pub settle: Duration,
    /// An idle message connection above the recent peak is retired after this time.
    pub retire: Duration,
    /// Silence on the control connection after which either side gives the other up; the smaller one of both sides
    /// holds.
    pub heartbeat: Duration,
    /// Least heartbeat that a peer can ask for.
    pub heartbeat_min: Duration,
    /// From accept or dial to the end of the handshake.
    pub handshake: Duration,
    /// Least time after which a failed stranger is closed; the most is `handshake`.
    pub stranger_min: Duration,
    /// Strangers at once; the oldest makes room.
    pub strangers_max: usize,
    /// Strangers at once per address (IPv6: per /64); the oldest of them makes room.
    pub strangers_per_address_max: usize,
    /// Time to connect to a local server, all its addresses together.
    pub local_dial: Duration,
    /// Longest time to connect to a local server that a client can ask the server to wait for.
    pub local_dial_max: Duration,
    /// How long a resolved name of a local server is used before it is resolved anew.
    pub resolved: Duration,
    /// How long after a failed lookup a name is asked for again.
    pub resolve_retry: Duration,
    /// Least and most delay before the client dials the server again; full jitter below the current one.
    pub reconnect: (Duration, Duration),
    /// Least delay before the client dials a server again that has refused it.
    pub refused: Duration,
    /// How long bytes before an abort may take to reach the local side.
    pub abort_flush: Duration,
    /// After an abort: time for both ends to be done, else the message connection is reset.
    pub abort_drain: Duration,
    /// After an abort: bytes that are read and thrown away, else the message connection is reset.
    pub abort_drain_bytes: usize,
    /// How long a good ending may take to be read by the peer.
    pub linger: Duration,
    /// How long a session's last bytes may wait for a local side that reads nothing.
    pub finish: Duration,
    /// How long running sessions get after the operator asked the process to end.
    pub drain: Duration,
    /// Mean time between attempts to find another link while one drains; jittered by a quarter.
    pub drain_retry: Duration,
    /// How long another link is sought that often.
    pub drain_seek: Duration,
    /// A server that drains a link sooner than this after its Welcome has refused the client.
    pub drain_sudden: Duration,
    /// Bytes after which a socket lets others have their turn. A read is not cut short at this count, because a full
    /// ring and a few bytes more would then take two reads.
    pub turn_bytes: usize,
    /// Connections that one listener takes before others get their turn.
    pub turn_accepts: usize,
    /// Rings of each size kept for the next lease when none is leased; beyond that they are freed.
    pub rings_kept: usize,
    /// Pipes for splicing bulk flows of plain message connections; a flow that gets none is read and written.
    pub pipes_max: usize,
    /// File descriptors kept back from users and strangers.
    pub descriptor_reserve: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            users_max: 10_000,
            clients_max: 1_024,
            waiting_max: 4_096,
            wait: Duration::from_secs(5),
            pool: 10,
            publications_per_client_max: 1_024,
            messages_max: 65_536,
            messages_per_client_max: 65_536,
            messages_at_once: 128,
            tickets_max: 1_024,
            message_retry: Duration::from_millis(500),
            proxies_spare: 64,
            accept: (Duration::from_millis(250), Duration::from_secs(1)),
            ticket: Duration::from_secs(10),
            idle_ping: Duration::from_secs(15),
            pong: Duration::from_secs(5),
            settle: Duration::from_secs(600),
            retire: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            heartbeat_min: Duration::from_secs(1),
            handshake: Duration::from_secs(5),
            stranger_min: Duration::from_secs(1),
            strangers_max: 1_024,
            strangers_per_address_max: 256,
            local_dial: Duration::from_secs(5),
            local_dial_max: Duration::from_secs(30),
            resolved: Duration::from_secs(10),
            resolve_retry: Duration::from_secs(1),
            reconnect: (Duration::from_millis(100), Duration::from_secs(30)),
            refused: Duration::from_secs(1),
            abort_flush: Duration::from_secs(1),
            abort_drain: Duration::from_secs(2),
            abort_drain_bytes: 256 * 1024,
            linger: Duration::from_secs(5),
            finish: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            drain_retry: Duration::from_millis(500),
            drain_seek: Duration::from_secs(60),
            drain_sudden: Duration::from_secs(10),
            turn_bytes: 32 * 1024,
            turn_accepts: 16,
            rings_kept: 64,
            pipes_max: 64,
            descriptor_reserve: 16,
        }
    }
}

impl Limits {
    /// Lowers the counts so that everything at once fits into `room` file descriptors. A session takes two at each
    /// end: its message connection and its user or proxy connection.
    pub fn share_descriptors(&mut self, room: usize) {
        self.pipes_max = self.pipes_max.min(room / 32);
        let room = room - 2 * self.pipes_max;
        self.pool = self.pool.min((room / 4).max(1));
        self.strangers_max = self.strangers_max.min((room / 8).max(2));
        self.clients_max = self.clients_max.min((room / 16).max(1));
        let room_for_pairs = room.saturating_sub(self.pool + self.strangers_max + self.clients_max);
        self.users_max = self.users_max.min((room_for_pairs / 2).max(1));
        self.messages_max = self.messages_max.min(self.users_max + self.pool);
        self.messages_per_client_max = self.messages_per_client_max.min((room / 2).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_at_once_fits_into_the_descriptors() {
        for room in 16..5_000 {
            let mut limits = Limits::default();
            limits.share_descriptors(room);
            let others = limits.strangers_max + limits.clients_max + 2 * limits.pipes_max;
            assert!(limits.users_max + limits.messages_max + others <= room, "server, {room}: {limits:?}");
            assert!(2 * limits.messages_per_client_max + 2 * limits.pipes_max <= room, "client, {room}");
        }
    }
}
