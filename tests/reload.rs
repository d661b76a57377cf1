//! A running server and its running client read other configurations, again and again, while a thousand sessions run.
//! Whom a change does not concern loses nothing; what was removed is reset at once.

mod common;
mod pair;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Ending, Folder, Process, connect, finish_writing, read_out, serve};
use rustix::process::Signal;

const RELOADS: usize = 200;
/// Sessions of each of the services that stay.
const SESSIONS: usize = 250;
/// The services that stay, each with the byte that its local server flips bits with.
const STAYING: [(&str, u8); 4] = [("keep", 0), ("move", 0x55), ("left", 0x11), ("right", 0x22)];
const GUEST_OLD: u8 = 0x33;
const GUEST_NEW: u8 = 0x44;

/// A local server that flips these bits of what it is told.
fn flipping(bits: u8) -> SocketAddr {
    serve(move |mut stream: TcpStream| {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            buffer[..count].iter_mut().for_each(|byte| *byte ^= bits);
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// Says something and wants it back with these bits flipped.
fn says(stream: &mut TcpStream, text: u8, bits: u8) {
    let mut buffer = [text; 512];
    stream.write_all(&buffer).expect("the session stands");
    stream.read_exact(&mut buffer).expect("the session stands");
    assert!(buffer.iter().all(|&byte| byte == text ^ bits), "bytes of another service");
}

/// Where everything is, and both files.
struct House {
    folder: Folder,
    ip: Ipv4Addr,
    locals: Vec<SocketAddr>,
    guest: [SocketAddr; 2],
}

impl House {
    fn new() -> House {
        // An address of this host that no other test uses, because the files name fixed ports.
        let [a, b] = [fastrand::u8(1..), fastrand::u8(1..)];
        let (folder, ip) = (Folder::new(), Ipv4Addr::new(127, a, b, 1));
        folder.key();
        let locals = STAYING.iter().map(|&(_, bits)| flipping(bits)).collect();
        House { folder, ip, locals, guest: [flipping(GUEST_OLD), flipping(GUEST_NEW)] }
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// Where the users of a service connect after so many reloads.
    fn place(&self, service: &str, reloads: usize) -> SocketAddr {
        let odd = reloads % 2 == 1;
        self.at(match service {
            "keep" => 40_000,
            "move" => 40_001 + (reloads % 3) as u16,
            "left" => 40_010 + u16::from(odd),
            "right" => 40_011 - u16::from(odd),
            _ => 40_020,
        })
    }

    /// The name under which a guest comes, if it is there after so many reloads.
    fn guest(reloads: usize) -> Option<&'static str> {
        [None, Some("guest"), Some("renamed"), Some("renamed")][reloads % 4]
    }

    fn write(&self, reloads: usize) {
        let ip = self.ip;
        let mut server = format!("message = \"{ip}:33334\"\ncontrol = \"{ip}:33335\"\nkeys = \"key\"\n");
        let mut client = format!("server = \"{ip}:33335\"\nkey = \"key\"\n");
        for (&(service, _), local) in STAYING.iter().zip(&self.locals) {
            let _ = write!(server, "[service.{service}]\nlisten = \"{}\"\n", self.place(service, reloads));
            let _ = writeln!(server, "users = {}", 500 + reloads);
            let _ = write!(client, "[publish.{service}]\nlocal = \"{local}\"\n");
        }
        if let Some(guest) = House::guest(reloads) {
            let local = self.guest[reloads % 2];
            let _ = write!(server, "[service.{guest}]\nlisten = \"{}\"\n", self.place(guest, reloads));
            let _ = write!(client, "[publish.{guest}]\nlocal = \"{local}\"\n");
        }
        if !reloads.is_multiple_of(5) {
            let _ = write!(server, "[key.default]\nservices = \"*\"\nfrom = \"127.0.0.0/8\"\n");
            let _ = writeln!(server, "users = {}", 5_000 + reloads);
        }
        self.folder.file("server.toml", server);
        self.folder.file("client.toml", client);
    }

    /// A user of this service that is served; its client may hear of a change a little later than the server.
    fn user(&self, service: &str, reloads: usize, bits: u8) -> TcpStream {
        let mut user = connect(self.place(service, reloads));
        says(&mut user, reloads as u8, bits);
        user
    }
}

#[test]
fn two_hundred_reloads_take_nothing_from_those_whom_they_do_not_concern() {
    pair::raise_descriptor_limit();
    let house = House::new();
    house.write(0);
    let file = |name| house.folder.path(name);
    let server = Process::skyorg(&["server", "--config", &file("server.toml")], None);
    server.wait_for("control connections");
    let client = Process::skyorg(&["client", "--config", &file("client.toml")], None);
    STAYING.iter().for_each(|(service, _)| drop(server.wait_for(&format!("publishes {service}"))));

    let done = Arc::new(AtomicBool::new(false));
    let talkers: Vec<_> = STAYING
        .iter()
        .map(|&(service, bits)| {
            let mut users: Vec<_> = (0..SESSIONS).map(|_| house.user(service, 0, bits)).collect();
            let done = done.clone();
            thread::spawn(move || {
                let mut rounds = 0u64;
                while !done.load(Ordering::Relaxed) {
                    rounds += 1;
                    users.iter_mut().for_each(|user| says(user, rounds as u8, bits));
                }
                for user in &mut users {
                    finish_writing(user);
                    assert_eq!(read_out(user), (Vec::new(), Ending::Clean), "{service}");
                }
                rounds
            })
        })
        .collect();

    let (mut guest, mut slowest): (Option<(&str, u8, TcpStream)>, Duration) = (None, Duration::ZERO);
    for reloads in 1..=RELOADS {
        house.write(reloads);
        let asked = Instant::now();
        server.signal(Signal::HUP);
        client.signal(Signal::HUP);
        // A guest whose service is removed, or has another name now, is reset at once.
        let stays = |name: &str| House::guest(reloads) == Some(name);
        if let Some((_, _, mut user)) = guest.take_if(|(name, ..)| !stays(name)) {
            assert_eq!(read_out(&mut user).1, Ending::Reset);
            slowest = slowest.max(asked.elapsed());
        }
        server.wait_for_count("reloaded ", reloads);
        client.wait_for_count("reloaded ", reloads);
        for &(service, bits) in &STAYING {
            house.user(service, reloads, bits);
        }
        // A changed local address holds for new sessions.
        if let Some(name) = House::guest(reloads) {
            let bits = [GUEST_OLD, GUEST_NEW][reloads % 2];
            let user = house.user(name, reloads, bits);
            let (_, bits, user) = guest.get_or_insert((name, bits, user));
            says(user, reloads as u8, *bits);
        }
    }
    done.store(true, Ordering::Relaxed);
    let rounds: Vec<u64> =
        talkers.into_iter().map(|talker| talker.join().expect("nothing was lost")).collect();
    println!(
        "rounds of {SESSIONS} sessions each: {rounds:?}; the slowest reset of what was removed: {slowest:?}"
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn a_service_that_is_declared_at_a_port_that_a_client_asked_for_is_there_after_one_reload() {
    let house = House::new();
    let (ip, at) = (house.ip, |port| house.at(port));
    let write = |service: &str| {
        let head = format!("message = \"{ip}:33334\"\ncontrol = \"{ip}:33335\"\nkeys = \"key\"\n");
        house.folder.file("server.toml", format!("{head}ports = \"{ip}:41000-41009\"\n{service}"));
    };
    write("");
    let server = Process::skyorg(&["server", "--config", &house.folder.path("server.toml")], None);
    server.wait_for("control connections");
    let (to, key) = (at(33_335).to_string(), house.folder.path("key"));
    let client = |rest: [&str; 2]| {
        Process::skyorg(&[&["client", "--server", &to, "--key", &key][..], &rest].concat(), None)
    };
    let own = client(["--expose", &format!("41000-41009={}", house.locals[1])]);
    // The local server of the range has one port only.
    own.wait_for("users of");
    let mut user = connect(at(41_000));
    says(&mut user, 1, 0x55);

    // It moves where it can be had, even if it was another's a moment ago; all or nothing.
    let other = std::net::TcpListener::bind(at(42_000)).expect("it is free");
    write(&format!("[service.web]\nlisten = [\"{ip}:41000\", \"{ip}:42000\"]\n"));
    server.signal(Signal::HUP);
    server.wait_for("the running configuration stays");
    says(&mut user, 2, 0x55);
    says(&mut connect(at(41_000)), 3, 0x55);

    drop(other);
    server.signal(Signal::HUP);
    server.wait_for("reloaded ");
    assert_eq!(read_out(&mut user).1, Ending::Reset);
    own.wait_for("port taken");
    let declared = client(["--publish", &format!("web={}", house.locals[2])]);
    declared.wait_for("users of");
    for port in [41_000, 42_000] {
        says(&mut connect(at(port)), 4, 0x11);
    }

    write("");
    server.signal(Signal::HUP);
    server.wait_for_count("reloaded ", 2);
    own.wait_for_count("users of", 2);
    says(&mut connect(at(41_000)), 5, 0x55);
}
