//! Every bound of the program in one place: queues, buffers, counts and waits, each with what happens at it.

use std::time::Duration;

use crate::base::ports::Ports;

/// The limits and their defaults. Sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Users served at once; at the limit the request ports stop accepting, and shed after `wait`.
    pub users_max: usize,
    /// Idle message connections that were asked for, before file descriptors made it less; 0 if nothing did.
    pub pool_asked: usize,
    /// Whether the operator asked for that many users: only then is it told that fewer fit.
    pub users_max_is_said: bool,
    /// As many were asked for, before file descriptors made it less; 0 if nothing did.
    pub users_asked: usize,
    /// Links at once, all of them with one key if no other key exists; the next one is refused.
    pub links_max: usize,
    /// Places for users who wait for a message connection. When all are taken, the newest user of the service that
    /// has most of them goes.
    pub waiting_max: usize,
    /// Places that each service is sure of: as many as its part of all, and at least so many.
    pub waiting_sure: usize,
    /// How long a user may wait for a message connection, or in a full listener's queue, before it is reset. For a
    /// connection of a client whose line is slow it may wait four round trips, if that is more.
    pub wait: Duration,
    /// The server's count of idle message connections per client.
    pub pool: usize,
    /// Publications that one client may have; the next one is denied.
    pub publications_per_client_max: usize,
    /// Services that one server may declare; a file with more is refused.
    pub services_max: usize,
    /// Keys that one server may have policies for; a file with more is refused.
    pub policies_max: usize,
    /// Places where all services of a file may listen; a file with more is refused.
    pub places_max: usize,
    /// How long ports are kept for a client that is away.
    pub ports_kept: Duration,
    /// A port that another program has is tried again after this time, and after twice as long each further time.
    pub port_retry: Duration,
    /// How long a client may take to answer a ping when another one would have its ports, beside four round trips.
    pub contest: Duration,
    /// Message connections that each link may have whatever others have.
    pub messages_sure: usize,
    /// Message connections that one client may have, idle, busy or on their way.
    pub messages_per_client_max: usize,
    /// As many were meant, before file descriptors made it less; 0 if nothing did.
    pub messages_meant: usize,
    /// Message connections of one link that are on their way at once; the next one waits for its turn.
    pub messages_at_once: usize,
    /// Tickets of one link that wait for their turn; more are ignored, expire, and are handed out again.
    pub tickets_max: usize,
    /// Time between two dials of message connections while these fail, and between two of control connections while
    /// none is answered; four times what the last one took, if that is longer. Jittered by a quarter where dials fail.
    pub retry: Duration,
    /// Proxy connections beyond two per message connection; the next session is refused.
    pub proxies_spare: usize,
    /// A session that is not accepted after three round trips, and after this time, is late.
    pub accept: Duration,
    /// A user is given up when nothing was heard from its client since its `Start` for four round trips, and for this
    /// time.
    pub unheard: Duration,
    /// How long a user waits for one thing at most, however long a round trip takes.
    pub user_patience: Duration,
    /// How long a ticket may wait to be dialled for, and how long it counts at the server: another is issued then. It
    /// is good for as long as a link may be silent more, because the connection that brings it may be late. Four round
    /// trips, if they take longer.
    pub ticket: Duration,
    /// How long a ping of a message connection may go unanswered, beside four round trips.
    pub pong: Duration,
    /// How long a client may take to read the end of a session that sent it much, before its message connection is
    /// given up.
    pub settle: Duration,
    /// An idle message connection above the recent peak is retired after this time.
    pub retire: Duration,
    /// Silence on the control connection after which either side gives the other up, beside the time until TCP sends
    /// again; the smaller one of both sides holds. Four round trips, if they take longer.
    pub heartbeat: Duration,
    /// How long connecting to a peer may take, and each of its answers until it is admitted. No round trip is known by
    /// then, so this is more than the longest ones take.
    pub handshake: Duration,
    /// How long a peer may be silent after the system was suspended; four round trips, if they take longer.
    pub woken: Duration,
    /// Least heartbeat that a peer can ask for.
    pub heartbeat_min: Duration,
    /// A connection that is dialled is late after this time, and after twice what the last one there took: another one
    /// is tried beside it. It may still arrive: connecting and the answer may each take as long as a handshake may.
    pub late: Duration,
    /// People are told of a server that has not answered for this time.
    pub late_told: Duration,
    /// Least and most time that a stranger at the server has for its first flight; drawn for each. One that failed is
    /// closed then, too. One that proved a secret has the time of a handshake for the rest.
    pub flight: (Duration, Duration),
    /// Silent strangers at once; the oldest makes room.
    pub strangers_max: usize,
    /// Silent strangers at once per address (IPv6: per /64); the oldest of them makes room.
    pub strangers_per_address_max: usize,
    /// Strangers at once that proved the secret of one key or link and are not admitted yet; the oldest makes room.
    pub strangers_per_key_max: usize,
    /// Longest time to connect to a local server that a client can ask the server to wait for.
    pub local_dial_max: Duration,
    /// How long a resolved name of a local server is used before it is resolved anew.
    pub resolved: Duration,
    /// How long after a lookup a name is asked for again at the earliest, on behalf of sessions or after a failed dial.
    /// "No such name" counts when it comes again after that.
    pub resolve_retry: Duration,
    /// How long addresses are kept that could not be renewed.
    pub resolved_kept: Duration,
    /// How long a session waits for fresh addresses before it uses old ones.
    pub resolve_wait: Duration,
    /// Least and most delay before the client dials the server again after a link has ended, or something answered and
    /// did not prove to be the server; full jitter below the current one.
    pub reconnect: (Duration, Duration),
    /// Least delay before the client dials a server again that has refused it.
    pub refused: Duration,
    /// After an abort or an error: how long nothing may move until what was said before has arrived, and both ends are
    /// done; else the connection is reset. Four round trips, if they take longer.
    pub abort: Duration,
    /// How long that may take in all.
    pub abort_max: Duration,
    /// How long a good ending may take to be read by the peer; four round trips, if they take longer.
    pub linger: Duration,
    /// How long a session's last bytes may wait for a local side that is there and takes none of them.
    pub finish: Duration,
    /// How long a user or local server may acknowledge nothing while bytes are on their way to it. The kernel's probes
    /// of one that does not read count, and are two minutes apart at most.
    pub unacknowledged: Duration,
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
    /// How long a server that starts asks again for an address that is in use.
    pub listen: Duration,
    /// Time between two such attempts.
    pub listen_retry: Duration,
    /// Those who look at the status at once, of each way in; one more takes the place of the oldest.
    pub readers_max: usize,
    /// File descriptors kept back from users and strangers.
    pub descriptor_reserve: usize,
    /// File descriptors for users, links, message connections and ports that clients ask for, at the server.
    pub room: usize,
    /// The ports that the system takes for its own connections, if it says so. Where any port will do, it is none of
    /// them.
    pub local_ports: Option<Ports>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            users_max: 10_000,
            users_max_is_said: false,
            users_asked: 0,
            pool_asked: 0,
            links_max: 1_024,
            waiting_max: 4_096,
            waiting_sure: 8,
            wait: Duration::from_secs(5),
            pool: 10,
            publications_per_client_max: 1_024,
            services_max: 4_096,
            policies_max: 4_096,
            places_max: 16_384,
            ports_kept: Duration::from_secs(24 * 3600),
            port_retry: Duration::from_secs(5),
            contest: Duration::from_secs(1),
            messages_sure: 2,
            messages_per_client_max: 65_536,
            messages_meant: 0,
            messages_at_once: 128,
            tickets_max: 1_024,
            retry: Duration::from_millis(500),
            proxies_spare: 64,
            accept: Duration::from_millis(100),
            unheard: Duration::from_secs(10),
            user_patience: Duration::from_secs(60),
            ticket: Duration::from_secs(10),
            pong: Duration::from_secs(5),
            settle: Duration::from_secs(600),
            retire: Duration::from_secs(60),
            heartbeat: Duration::from_secs(30),
            handshake: Duration::from_secs(30),
            woken: Duration::from_secs(2),
            heartbeat_min: Duration::from_secs(1),
            late: Duration::from_millis(250),
            late_told: Duration::from_secs(5),
            flight: (Duration::from_secs(3), Duration::from_secs(5)),
            strangers_max: 1_024,
            strangers_per_address_max: 256,
            strangers_per_key_max: 256,
            local_dial_max: Duration::from_secs(30),
            resolved: Duration::from_secs(10),
            resolve_retry: Duration::from_secs(1),
            resolved_kept: Duration::from_secs(24 * 3600),
            resolve_wait: Duration::from_millis(100),
            reconnect: (Duration::from_millis(100), Duration::from_secs(30)),
            refused: Duration::from_secs(1),
            abort: Duration::from_secs(2),
            abort_max: Duration::from_secs(60),
            linger: Duration::from_secs(5),
            finish: Duration::from_secs(900),
            unacknowledged: Duration::from_secs(180),
            drain: Duration::from_secs(5),
            drain_retry: Duration::from_millis(500),
            drain_seek: Duration::from_secs(60),
            drain_sudden: Duration::from_secs(10),
            turn_bytes: 32 * 1024,
            turn_accepts: 16,
            rings_kept: 64,
            pipes_max: 64,
            listen: Duration::from_secs(5),
            listen_retry: Duration::from_millis(100),
            readers_max: 64,
            descriptor_reserve: 16,
            room: usize::MAX,
            local_ports: None,
        }
    }
}

impl Limits {
    /// Lowers the counts so that everything at once fits into `room` file descriptors. A session takes two at each
    /// end: its message connection and its user or proxy connection.
    pub fn share_descriptors(&mut self, room: usize) {
        self.pipes_max = self.pipes_max.min(room / 32);
        self.strangers_max = self.strangers_max.min((room / 8).max(2));
        self.strangers_per_key_max = self.strangers_per_key_max.min(self.strangers_max);
        let room = room - 2 * self.pipes_max;
        self.room = room.saturating_sub(self.strangers_max);
        self.pool_asked = self.pool;
        self.pool = self.pool.min((room / 4).max(1));
        self.users_asked = self.users_max;
        self.users_max = self.users_at_most(1, 0);
        self.messages_meant = self.messages_per_client_max;
        self.messages_per_client_max = self.messages_per_client_max.min((room / 2).max(1));
    }

    /// Idle message connections and users as they were asked for. What the system makes of them depends on the rest.
    pub fn asked(&self) -> [usize; 2] {
        let asked = |asked: usize, given| if asked == 0 { given } else { asked };
        [asked(self.pool_asked, self.pool), asked(self.users_asked, self.users_max)]
    }

    /// When a connection that is dialled is late; the last one there took so long.
    pub fn late_after(&self, took: Duration) -> Duration {
        self.late.max(2 * took)
    }

    /// How long a client may try to connect to a local server that would try this long, in whole milliseconds.
    pub fn dial_ms(&self, dial_time: Duration) -> u32 {
        dial_time.min(self.local_dial_max).as_millis() as u32
    }

    /// File descriptors that one link is promised: its control connection, and its pool or what it is sure of.
    fn promised_to_link(&self) -> usize {
        1 + self.pool_promised()
    }

    fn pool_promised(&self) -> usize {
        self.pool.max(self.messages_sure)
    }

    /// Links that may stand at once beside so many ports that clients asked for: together they take at most half of
    /// the room from users.
    pub fn links_at_most(&self, ports: usize) -> usize {
        let room = (self.room / 2).saturating_sub(ports);
        self.links_max.min(room / self.promised_to_link()).max(1)
    }

    /// Links that one of so many keys may have: all but one for each other key.
    pub fn links_of_key_at_most(&self, keys: usize, ports: usize) -> usize {
        self.links_at_most(ports).saturating_sub(keys.saturating_sub(1)).max(1)
    }

    /// Ports that clients may have asked for beside so many links, if each of so many keys is to have room for one.
    pub fn ports_at_most(&self, links: usize, keys: usize) -> usize {
        (self.room / 2).saturating_sub(links.max(keys).max(1).saturating_mul(self.promised_to_link()))
    }

    /// Users that may be served at once beside so many links, and so many ports that clients asked for.
    pub fn users_at_most(&self, links: usize, ports: usize) -> usize {
        let taken = links.saturating_mul(self.promised_to_link()).saturating_add(ports);
        self.users_max.min(self.room.saturating_sub(taken) / 2).max(1)
    }

    /// Message connections of so many links together: one for each user, and the pools.
    pub fn messages_at_most(&self, links: usize, ports: usize) -> usize {
        self.users_at_most(links, ports).saturating_add(links.saturating_mul(self.pool_promised()))
    }

    /// Places for users who wait that each of so many services is sure of.
    pub fn waiting_sure_of(&self, services: usize) -> usize {
        (self.waiting_max / services.max(1)).max(self.waiting_sure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_at_once_fits_into_the_descriptors() {
        for room in 24..5_000 {
            let mut limits = Limits::default();
            limits.share_descriptors(room);
            for links in 0..=limits.links_at_most(0) {
                for ports in [0, limits.ports_at_most(links, 1) / 2, limits.ports_at_most(links, 1)] {
                    let others = links + ports + limits.strangers_max + 2 * limits.pipes_max;
                    let all = limits.users_at_most(links, ports) + limits.messages_at_most(links, ports);
                    assert!(all + others <= room, "{room}, {links} links, {ports} ports: {limits:?}");
                }
            }
            assert!(2 * limits.messages_per_client_max + 2 * limits.pipes_max <= room, "client, {room}");
        }
    }

    #[test]
    fn links_leave_half_of_the_room_to_users() {
        let mut limits = Limits::default();
        limits.share_descriptors(1_000);
        let (alone, most) = (limits.users_at_most(1, 0), limits.links_at_most(0));
        assert!(limits.users_at_most(most, 0) >= alone / 2 && most >= 30, "{most} links, {alone} users");
    }

    #[test]
    fn ports_leave_half_of_the_room_to_users_and_a_link_to_each_key() {
        let mut limits = Limits::default();
        limits.share_descriptors(1_000);
        let (alone, most) = (limits.users_at_most(1, 0), limits.ports_at_most(1, 5));
        assert!(limits.users_at_most(1, most) >= alone / 2 && most >= 300, "{most} ports, {alone} users");
        assert!(limits.links_at_most(most) >= 5, "{} links", limits.links_at_most(most));
    }

    #[test]
    fn each_key_has_room_for_a_link_of_its_own() {
        let limits = Limits { links_max: 10, ..Limits::default() };
        assert_eq!([1, 2, 10, 99].map(|keys| limits.links_of_key_at_most(keys, 0)), [10, 9, 1, 1]);
    }
}
