//! Users of an honest client are served beside each attack of the benchmark `attacks`, on the real program.

#[path = "../benches/attacks/hostile.rs"]
mod hostile;

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{Folder, Process, connect, converse, echo_server, measure};
use hostile::Target;
use skyorg::config::keys;

/// How long each attack goes on.
const TIME: Duration = Duration::from_secs(2);
/// Users that come meanwhile, one after the other.
const USERS: u32 = 40;
/// Longest time for one of them on a machine that has other work, too.
const SERVED_IN: Duration = Duration::from_secs(2);

/// A server with two keys and three services, and a client of the first key that serves `default`.
struct House {
    server: Process,
    client: Process,
    users: SocketAddr,
    target: Target,
    _folder: Folder,
}

impl House {
    fn build(other: &str) -> House {
        let folder = Folder::new();
        let made = ["victim", "rival"].map(|name| {
            let key = keys::generate(name.parse().expect("a name")).expect("random bytes");
            let line = keys::line(&key).to_string();
            (key, line)
        });
        let all = folder.secret("keys", &format!("{}{}", made[0].1, made[1].1));
        let key = folder.secret("victim", &made[0].1);
        let free = "127.0.0.1:0";
        let mut arguments = vec!["server", "--keys", &all, "--max-users", "2000"];
        let status = folder.path("server.sock");
        arguments.extend(["--status", &status, "--metrics", "0"]);
        for port in ["--request", "--message", "--control"] {
            arguments.extend([port, free]);
        }
        arguments.extend(["--service", "other=127.0.0.1:0", "--service", "idle=127.0.0.1:0"]);
        let server = Process::skyorg(&arguments, None);
        let users = server.address("service default: users connect to ");
        let other = server.address(&format!("service {other}: users connect to "));
        let [message, control] =
            ["message", "control"].map(|it| server.address(&format!("{it} connections: ")));
        let local = echo_server().to_string();
        let client =
            ["client", "--server", &control.to_string(), "--local", &local, "--key", &key].map(str::to_owned);
        let client = Process::skyorg(&client.each_ref().map(String::as_str), None);
        client.wait_for("service default: users of port");
        let [(_, _), (rival, _)] = made;
        let metrics = server.wait_for("metrics: http://");
        let metrics = metrics.split("http://").nth(1).and_then(|it| it.trim_end_matches('/').parse().ok());
        let (from, metrics) = (Ipv4Addr::new(127, 0, 0, 2), metrics.expect("an address"));
        let (web, key, status) = (users, rival, status.into());
        let target = Target { control, message, other, web, from, key, status, metrics };
        House { server, client, users, target, _folder: folder }
    }

    /// Users come one after the other while this goes on, and each is served in time.
    fn withstands(&mut self, attack: &'static str) {
        // The sockets of two attackers are more than this process may have.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        thread::scope(|scope| {
            let attacker = scope.spawn(|| hostile::run(attack, &self.target, TIME));
            let began = Instant::now();
            for number in 0..USERS {
                let since = Instant::now();
                converse(&mut connect(self.users), b"beside an attack");
                assert!(since.elapsed() < SERVED_IN, "user {number} beside {attack}: {:?}", since.elapsed());
                measure((TIME * number / USERS).saturating_sub(began.elapsed()));
            }
            attacker.join().expect("it does not panic").expect("it attacks to the end");
        });
        assert!(self.server.is_running() && self.client.is_running());
    }
}

#[test]
fn silent_users_of_a_service_without_a_client_take_nothing_from_another() {
    House::build("idle").withstands("waiting");
}

#[test]
fn silent_strangers_from_the_clients_own_address_take_nothing() {
    House::build("other").withstands("strangers-fast");
}

#[test]
fn links_of_another_key_that_keep_every_message_connection_take_nothing() {
    House::build("other").withstands("links");
}

#[test]
fn links_of_another_key_that_ping_take_nothing() {
    House::build("other").withstands("pings");
}

#[test]
fn control_connections_that_come_and_go_take_nothing_and_fill_no_log() {
    let mut house = House::build("other");
    house.withstands("comers");
    let lines = house.server.lines().iter().filter(|line| line.contains("rival")).count();
    assert!(lines < 200, "{lines} lines");
}

#[test]
fn users_that_come_and_go_where_nobody_serves_fill_no_log() {
    let mut house = House::build("idle");
    house.withstands("passers");
    let lines = house.server.lines().iter().filter(|line| line.contains("of idle")).count();
    assert!(lines < 20, "{lines} lines");
}

#[test]
fn refused_hellos_take_nothing() {
    House::build("other").withstands("refused");
}

#[test]
fn those_who_look_and_stop_take_nothing() {
    House::build("other").withstands("watchers");
}
