//! From a configuration to a running hub: the counterpart of the product's `run.rs`.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::info;
use skyorg::client::Client as ClientMachine;
use skyorg::config::{ClientConfig, Listen, ServerConfig};
use skyorg::machine::{ListenerId, Origin};
use skyorg::server::{Door, Server as ServerMachine, Setup};
use tokio::net::TcpListener;

use super::hub::Hub;
use super::sockets;

/// A server that is bound and not yet running.
pub struct Server {
    listeners: Vec<TcpListener>,
    /// Where each of them listens: the services, then the message and the control port.
    pub addresses: Vec<SocketAddr>,
    config: ServerConfig,
}

impl Server {
    /// Binds all ports. Must be called within a runtime.
    pub fn bind(config: ServerConfig) -> io::Result<Server> {
        let places = config.services.iter().map(|service| service.1).chain([config.message, config.control]);
        let listen = |at| match at {
            Listen::At(address) => sockets::listen(address),
            Listen::Any(port) => sockets::listen(SocketAddr::from(([0, 0, 0, 0], port))),
        };
        let listeners = places.map(listen).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        Ok(Server { listeners, addresses, config })
    }

    /// Runs until its machine says that it is done.
    pub async fn run(self) -> io::Result<()> {
        let Server { listeners, addresses, config } = self;
        let services = config.services.iter().map(|(name, _)| name.clone()).zip(addresses.iter());
        for (name, address) in services.clone() {
            info!("service {name}: users connect to {address}");
        }
        let doors = addresses.len() - 2;
        info!("message connections: {}", addresses[doors]);
        info!("control connections: {}", addresses[doors + 1]);
        let setup = Setup {
            services: services.map(|(name, address)| (name, address.port())).collect(),
            doors: (0..doors).map(Door::Users).chain([Door::Clients; 2]).collect(),
            message_port: addresses[doors].port(),
            keys: config.keys,
            plain: config.plain,
            limits: config.limits.clone(),
        };
        let machine = ServerMachine::new(setup, fastrand::Rng::new(), Instant::now());
        let mut hub = Hub::new(machine, Vec::new(), config.limits);
        for (index, listener) in listeners.into_iter().enumerate() {
            let origin = if index < doors { Origin::User } else { Origin::Stranger };
            hub.accept_from(ListenerId(index), origin, listener);
        }
        hub.run().await
    }
}

/// Runs a client until its machine says that it is done.
pub async fn run_client(config: ClientConfig) -> io::Result<()> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
    let (names, limits) = (ClientMachine::names(&config), config.limits.clone());
    let machine = ClientMachine::new(config, instance, fastrand::Rng::new(), Instant::now());
    Hub::new(machine, names, limits).run().await
}
