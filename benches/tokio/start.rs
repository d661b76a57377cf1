//! From a configuration to a running hub: the counterpart of the product's `run.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use log::info;
use skyorg::base::clocks::Clocks;
use skyorg::client::Client as ClientMachine;
use skyorg::config::{ClientConfig, ServerConfig};
use skyorg::server::{ListenerState, Server as ServerMachine};

use super::hub::Hub;

/// A server that listens and does not run yet.
pub struct Server {
    hub: Hub<ServerMachine>,
    /// Where each of its listeners is: the services, then the message and the control port.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Listens at all ports. Must be called within a runtime.
    pub fn bind(config: ServerConfig) -> io::Result<Server> {
        let limits = Arc::new(config.limits.clone());
        let clocks = Clocks { now: Instant::now(), wall: SystemTime::now() };
        let jitter = fastrand::Rng::new();
        let machine = ServerMachine::new(config, limits.clone(), random_instance()?, jitter, clocks);
        let hub = Hub::new(machine, limits);
        let mut addresses = Vec::new();
        for listener in hub.machine().listeners().iter() {
            let address = match &listener.state {
                ListenerState::Listening(address) | ListenerState::Suspended(address) => address,
                ListenerState::Asked | ListenerState::InUse => continue,
                ListenerState::Failed(error) => return Err(io::Error::new(error.kind(), error.to_string())),
            };
            addresses.push(*address);
        }
        Ok(Server { hub, addresses })
    }

    /// Runs until its machine says that it is done.
    pub async fn run(self) -> io::Result<()> {
        let services = self.addresses.len().saturating_sub(2);
        for (place, address) in self.addresses.iter().enumerate() {
            match place.checked_sub(services) {
                None => info!("service default: users connect to {address}"),
                Some(0) => info!("message connections: {address}"),
                Some(_) => info!("control connections: {address}"),
            }
        }
        self.hub.run().await
    }
}

/// Runs a client until its machine says that it is done. Must be called within a runtime.
pub async fn run_client(config: ClientConfig) -> io::Result<()> {
    let instance = random_instance()?;
    let limits = Arc::new(config.limits.clone());
    let (jitter, now) = (fastrand::Rng::new(), Instant::now());
    let machine = ClientMachine::new(config, limits.clone(), instance, jitter, now);
    Hub::new(machine, limits).run().await
}

fn random_instance() -> io::Result<[u8; 16]> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(instance)
}
