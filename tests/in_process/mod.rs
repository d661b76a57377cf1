//! A server and a client in this very process, for tests of limits that are no flags, and of what their threads do.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use skyorg::app::run::{Client, Server};
use skyorg::base::address::{HostPort, Listen};
use skyorg::base::name::Name;
use skyorg::config::limits::Limits;
use skyorg::config::policy::UserRules;
use skyorg::config::{ClientConfig, Key, Policies, Publication, ServerConfig, Service};
use skyorg::wire::handshake::Secret;

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Both, not yet running.
pub struct Ends {
    pub server: Server,
    pub client: Client,
    /// Where users connect.
    pub request: SocketAddr,
}

impl Ends {
    /// Both, before this local server.
    pub fn new(local: SocketAddr, plain: bool, limits: &Limits) -> Ends {
        Ends::with(local, plain, limits, UserRules::default(), Policies::default())
    }

    /// Both, with rules for the users of the service, and policies for the key `default`.
    pub fn with(
        local: SocketAddr,
        plain: bool,
        limits: &Limits,
        rules: UserRules,
        policies: Policies,
    ) -> Ends {
        let name: Name = "default".parse().expect("a name");
        let key = Key { name: name.clone(), secret: Secret::new([7; 32]) };
        let free_port = Listen::At((Ipv4Addr::LOCALHOST, 0).into());
        let host_port =
            |address: SocketAddr| HostPort { host: address.ip().to_string().into(), port: address.port() };
        let server = Server::bind(ServerConfig {
            services: vec![Service { rules, ..Service::new(name.clone(), free_port) }],
            policies,
            message: free_port,
            control: free_port,
            keys: vec![key.clone()],
            plain,
            limits: limits.clone(),
        });
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let (request, control) = (server.bound().services[0].1, server.bound().control);
        let client = Client::new(ClientConfig {
            server: host_port(control),
            message: None,
            publications: vec![Publication::of_service(name, host_port(local))],
            key,
            plain,
            limits: limits.clone(),
        });
        Ends { server, client: client.expect("a client"), request }
    }

    /// Lets both run until the test's process ends; returns where users connect.
    pub fn run(self) -> SocketAddr {
        let Ends { server, client, request } = self;
        thread::spawn(move || server.run().expect("runs"));
        thread::spawn(move || client.run().expect("runs"));
        request
    }
}

/// A user whose first byte was answered. Until the tunnel stands users may be reset.
pub fn come(request: SocketAddr, first: u8) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut user = TcpStream::connect(request).expect("the server listens");
        user.set_read_timeout(Some(PATIENCE)).expect("a time");
        if user.write_all(&[first]).and_then(|()| user.read_exact(&mut [0])).is_ok() {
            return user;
        }
        assert!(Instant::now() < deadline, "no session in time");
    }
}
