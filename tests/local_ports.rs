//! A client's host that has no local port left for a local server: the operator is told what to do, the user is
//! refused at once, and other services go on.
//!
//! It needs a network of its own, which `unshare` makes (unshare(1)). Where that is not allowed, nothing is tested.
#![cfg(target_os = "linux")]

mod common;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use common::{Mode, Setup, converse, echo_server};

/// Set for the process that runs in the network of its own.
const INSIDE: &str = "SKYORG_TEST_INSIDE";
/// Local ports that the system may give in there.
const PORTS: usize = 40;

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

#[test]
fn a_host_without_local_ports_says_what_to_do_and_serves_its_other_services() {
    const NAME: &str = "a_host_without_local_ports_says_what_to_do_and_serves_its_other_services";
    const OWN_NETWORK: [&str; 2] = ["--map-root-user", "--net"];
    if env::var_os(INSIDE).is_some() {
        return no_local_port_is_left();
    }
    if !run("unshare", &[&OWN_NETWORK[..], &["ip", "link", "set", "lo", "up"]].concat()) {
        return println!("not tested: no network namespace can be made here");
    }
    let program = env::current_exe().expect("a path");
    let inside = Command::new("unshare")
        .args(OWN_NETWORK)
        .arg(program)
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("it was made before");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(inside.status.success(), "{}{}", text(&inside.stdout), text(&inside.stderr));
}

fn no_local_port_is_left() {
    assert!(run("ip", &["link", "set", "lo", "up"]));
    // An address that does not look like this host's own.
    assert!(run("ip", &["address", "add", "192.0.2.1/32", "dev", "lo"]));
    let range = format!("40000 {}", 40_000 + PORTS - 1);
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("it is ours to set");
    let crowded = TcpListener::bind("192.0.2.1:7000").expect("binds");
    let local = crowded.local_addr().expect("bound");
    let taken: Vec<TcpStream> = (0..PORTS).map_while(|_| TcpStream::connect(local).ok()).collect();
    assert!(taken.len() >= PORTS / 2 && TcpStream::connect(local).is_err(), "every port is taken");
    let publish = format!("crowded={local}");
    let setup = Setup::new(Mode::Sealed)
        .server(&["--service", "crowded=127.0.0.1:0"])
        .client(&["--publish", &publish]);
    let mut tunnel = setup.start(echo_server());
    let line = tunnel.server.wait_for("service crowded: users connect to ");
    let request: SocketAddr = line.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("an address");
    for _ in 0..3 {
        let mut user = TcpStream::connect(request).expect("the server listens");
        let since = Instant::now();
        assert!(user.read(&mut [0]).is_err(), "it is refused");
        assert!(since.elapsed() < Duration::from_secs(1), "at once: {:?}", since.elapsed());
        converse(&mut tunnel.user(), b"another service goes on");
    }
    let client = tunnel.client();
    let told = client.wait_for("no local port is left to connect to 192.0.2.1:7000");
    assert!(
        told.contains("net.ipv4.tcp_tw_reuse=1") && told.contains("net.ipv4.ip_local_port_range"),
        "{told}"
    );
    let lines = client.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("no local port")).count(), 1, "once: {lines:?}");
    assert!(!lines.iter().any(|line| line.contains("did not take the connection")), "{lines:?}");
    drop((taken, crowded));
}
