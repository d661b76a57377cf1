//! What honest users meet while somebody attacks the server: users served alone and beside each attack, and how soon
//! a client that is killed and started again serves. The server, the clients and the attackers are processes of their
//! own; the attackers stand nearer to the server than the client does, which the slow link keeps away.

#[path = "tunnel/alarm.rs"]
mod alarm;
#[path = "attacks/hostile.rs"]
mod hostile;
#[path = "tunnel/link.rs"]
mod link;
#[path = "tunnel/origin.rs"]
mod origin;
#[path = "tunnel/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "tunnel/start.rs"]
mod start;
#[path = "attacks/victim.rs"]
mod victim;

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use rustix::fs::OFlags;
use skyorg::config::keys::{self, Origin};

use hostile::Target;
use process::{Folder, Process};
use start::{Outcome, raise_descriptors};
use victim::Users;

/// Compares what users meet alone with what they meet beside an attack.
#[derive(FromArgs)]
struct Arguments {
    /// attacks, divided by commas [default: all]
    #[argh(option, default = "String::new()")]
    attacks: String,
    /// seconds of each measurement [default: 5]
    #[argh(option, default = "5.0")]
    seconds: f64,
    /// milliseconds of the round trip between client and server [default: 0]
    #[argh(option, default = "0")]
    round_trip: u64,
    /// an address of this host from which users and clients come that are not the victim's; of loopback, whose users
    /// have no share of their own, unless it is said [default: 127.0.0.2]
    #[argh(option, default = "Ipv4Addr::new(127, 0, 0, 2)")]
    from: Ipv4Addr,
    /// the program under attack [default: this build]
    #[argh(option)]
    program: Option<PathBuf>,
    /// FOLDER for keys and logs, which is kept
    #[argh(option)]
    logs: Option<PathBuf>,
}

/// An attack, and what it does.
struct Attack {
    name: &'static str,
    title: &'static str,
    /// Arguments of the server beside the usual ones.
    server: &'static [&'static str],
    /// Clients of the rival's key whose local server refuses.
    refusing: usize,
    /// Nobody reads the server's log.
    is_log_stuck: bool,
}

const fn attack(name: &'static str, title: &'static str) -> Attack {
    Attack { name, title, server: &[], refusing: 0, is_log_stuck: false }
}

const ATTACKS: [Attack; 12] = [
    attack("waiting", "4,200 silent users at a service without a client, 3,000/s from one address"),
    attack("strangers", "silent strangers at both ports, 3,000/s from the client's own address"),
    attack("strangers-fast", "silent strangers at both ports, 8,000/s from the client's own address"),
    attack("links", "75 links of another key that keep every message connection, and 100 users/s"),
    Attack {
        refusing: 30,
        ..attack("refusing", "1,000 users a second of a service with 30 clients that refuse")
    },
    Attack {
        server: &["--max-users", "2000"],
        ..attack("silent-users", "2,000 silent users of one address")
    },
    attack("comers", "control connections of another key that come and go as fast as they can"),
    attack("passers", "users of a service without a client that connect and leave as fast as they can"),
    attack("pings", "1,000 control connections of another key that ping 20 times a second"),
    attack("refused", "hellos that are refused, as fast as they can come"),
    attack("publishers", "30 links of another key that publish and withdraw as fast as they can"),
    Attack {
        is_log_stuck: true,
        ..attack(
            "watchers",
            "100 readers of the status that stop, 100 scrapers with a byte a minute, a log pipe that nobody reads",
        )
    },
];

fn main() -> ExitCode {
    let own = |words: &[&str]| match *words {
        ["hostile", name, control, message, other, web, from, key, status, metrics] => {
            let target = || -> Result<Target, Box<dyn Error>> {
                let [control, message] = [control.parse()?, message.parse()?];
                let [other, web] = [other.parse()?, web.parse()?];
                let keys = keys::parse(&std::fs::read(key)?, &Origin::File(key.into()));
                let key = keys.map_err(|error| error.to_string())?.remove(0);
                let (from, status, metrics) = (from.parse()?, status.into(), metrics.parse()?);
                Ok(Target { control, message, other, web, from, key, status, metrics })
            };
            Some(target().and_then(|target| attack_for_ever(name, &target)))
        }
        _ => None,
    };
    start::start("attacks", own, run)
}

fn attack_for_ever(name: &str, target: &Target) -> Outcome {
    process::end_with_parent();
    raise_descriptors();
    // Attackers have machines of their own.
    let _ = rustix::process::nice(19);
    Ok(hostile::run(name, target, FOR_EVER)?)
}

/// Whose key it is.
const VICTIM: usize = 0;
const RIVAL: usize = 1;

/// A server, the victim's client and local server, and the keys.
struct House {
    program: PathBuf,
    folder: Folder,
    server: Process,
    server_log: PathBuf,
    web: SocketAddr,
    other: SocketAddr,
    control: SocketAddr,
    message: SocketAddr,
    /// Where the victim's client finds the server: slow links, if there is a round trip.
    doors: [SocketAddr; 2],
    origin: SocketAddr,
    keys: [PathBuf; 2],
    from: Ipv4Addr,
    status: PathBuf,
    metrics: SocketAddr,
    _helpers: Vec<Process>,
}

impl House {
    fn build(arguments: &Arguments, attack: &Attack) -> Result<House, Box<dyn Error>> {
        let folder = Folder::new(arguments.logs.as_deref())?;
        let program = arguments.program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_skyorg").into());
        let [victim, rival] = ["victim", "rival"].map(|name| {
            let key = keys::generate(name.parse().expect("a name")).expect("random bytes");
            keys::line(&key).to_string()
        });
        let all = folder.write_secret("keys", &format!("{victim}{rival}"))?;
        let keys = [folder.write_secret("victim", &victim)?, folder.write_secret("rival", &rival)?];
        let free = "0.0.0.0:0";
        let mut words = vec!["server", "--request", free, "--message", free, "--control", free];
        let all = all.to_string_lossy();
        words.extend(["--service", "other=0.0.0.0:0", "--service", "idle=0.0.0.0:0", "--keys", &all]);
        words.extend(attack.server);
        let (status, metrics) = (folder.file("server.sock"), process::loopback(process::free_port()?));
        let (socket, at) = (status.to_string_lossy(), metrics.to_string());
        words.extend(["--status", &socket, "--metrics", &at]);
        let server_log = folder.file("server.log");
        let log = server_log.to_string_lossy();
        words.extend(["--log-file", &log]);
        let mut server = Process::start(&program, &words, server_log.clone())?;
        let web = server.address_after("service default: users connect to ")?;
        let which = if matches!(attack.name, "waiting" | "passers") { "idle" } else { "other" };
        let other = server.address_after(&format!("service {which}: users connect to "))?;
        let control = server.address_after("control connections: ")?;
        let message = server.address_after("message connections: ")?;
        let mut origin = Process::helper(&["origin"], folder.file("origin.log"))?;
        let origin_address = origin.address_after("listening ")?;
        let (mut helpers, mut doors) = (vec![origin], [control, message]);
        if arguments.round_trip > 0 {
            for door in &mut doors {
                let words = ["link", &door.to_string(), &arguments.round_trip.to_string()];
                let mut link = Process::helper(&words, folder.file("link.log"))?;
                *door = link.address_after("listening ")?;
                helpers.push(link);
            }
        }
        let origin = origin_address;
        Ok(House {
            program,
            folder,
            server,
            server_log,
            web,
            other,
            control,
            message,
            doors,
            origin,
            keys,
            from: arguments.from,
            status,
            metrics,
            _helpers: helpers,
        })
    }

    fn client(&self, whose: usize, local: &str) -> Result<Process, Box<dyn Error>> {
        let doors = if whose == RIVAL { [self.control, self.message] } else { self.doors };
        let [control, message] = doors.map(|door| door.to_string());
        let key = self.keys[whose].to_string_lossy();
        let words = ["client", "--server", &control, "--message", &message, "--key", &key];
        let words = [&words[..], &["--publish", local]].concat();
        let log = self.folder.file("client.log");
        if whose == VICTIM {
            return Ok(Process::start(&self.program, &words, log)?);
        }
        // It stands for another machine's.
        let program = self.program.to_string_lossy();
        Ok(Process::start("nice".as_ref(), &[&["-n", "19", &program], &words[..]].concat(), log)?)
    }

    /// Bytes that the server has logged.
    fn logged(&self) -> std::io::Result<u64> {
        Ok(std::fs::metadata(&self.server_log)?.len())
    }

    /// Has the server's log go on in a pipe that is full, for as long as the file that is returned is open.
    fn stick_log(&self) -> Result<File, Box<dyn Error>> {
        std::fs::rename(&self.server_log, self.folder.file("server.log"))?;
        process::output_of("mkfifo".as_ref(), &[&self.server_log.to_string_lossy()])?;
        let flags = OFlags::NONBLOCK.bits() as i32;
        let mut pipe = File::options().read(true).write(true).custom_flags(flags).open(&self.server_log)?;
        self.server.hang_up()?;
        // It says that it has read its keys again.
        let mut line = [0; 1];
        while pipe.read(&mut line).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        while pipe.write(&[b'\n'; 4096]).is_ok() {}
        Ok(pipe)
    }

    fn attack(&self, attack: &Attack) -> Result<Process, Box<dyn Error>> {
        let [control, message, other, web] =
            [self.control, self.message, self.other, self.web].map(|address| address.to_string());
        let key = self.keys[RIVAL].to_string_lossy();
        let (from, metrics, status) =
            (self.from.to_string(), self.metrics.to_string(), self.status.to_string_lossy());
        let words =
            ["hostile", attack.name, &control, &message, &other, &web, &from, &key, &status, &metrics];
        Ok(Process::helper(&words, self.folder.file("hostile.log"))?)
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    raise_descriptors();
    let names: Vec<&str> = arguments.attacks.split(',').filter(|name| !name.is_empty()).collect();
    if let Some(name) = names.iter().find(|name| ATTACKS.iter().all(|attack| attack.name != **name)) {
        return Err(format!("no attack '{name}'; there are {}", ATTACKS.map(|it| it.name).join(", ")).into());
    }
    println!(
        "| attack | alone: p50, p99 ms | lost | beside: p50, p99 ms | lost | client again after | server CPU | log |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for attack in ATTACKS.iter().filter(|attack| names.is_empty() || names.contains(&attack.name)) {
        measure(arguments, attack)?;
    }
    Ok(())
}

/// An attack is ended by ending its process.
const FOR_EVER: Duration = Duration::from_secs(100_000);
/// How long an attack goes on before it is looked at.
const WARM: Duration = Duration::from_secs(2);

fn measure(arguments: &Arguments, attack: &Attack) -> Result<(), Box<dyn Error>> {
    let house = House::build(arguments, attack)?;
    let local = format!("default={}", house.origin);
    let client = house.client(VICTIM, &local)?;
    victim::serves(house.web)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let alone = Users::come(house.web, time);
    let closed = process::free_port()?;
    let refusing: Result<Vec<Process>, _> =
        (0..attack.refusing).map(|_| house.client(RIVAL, &format!("other=127.0.0.1:{closed}"))).collect();
    let refusing = refusing?;
    let stuck = if attack.is_log_stuck { Some(house.stick_log()?) } else { None };
    let mut hostile = house.attack(attack)?;
    thread::sleep(WARM);
    let (began, cpu, log) = (Instant::now(), house.server.cpu_seconds()?, house.logged()?);
    let beside = Users::come(house.web, time);
    let passed = began.elapsed().as_secs_f64();
    let cpu = (house.server.cpu_seconds()? - cpu) / passed;
    let log = (house.logged()? - log) as f64 / passed;
    drop(client);
    let _client = house.client(VICTIM, &local)?;
    let again = victim::serves(house.web)?;
    if let Some(words) = hostile.last_words()? {
        return Err(format!("the attack {} ended: {words}", attack.name).into());
    }
    println!(
        "| {}: {} | {} | {} | {} | {} | {:.2} s | {:.0} % | {:.1} kB/s |",
        attack.name,
        attack.title,
        alone.times(),
        alone.lost(),
        beside.times(),
        beside.lost(),
        again.as_secs_f64(),
        cpu * 100.0,
        log / 1e3
    );
    drop((hostile, refusing, stuck));
    Ok(())
}
