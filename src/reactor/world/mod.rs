//! The world that the reactor lives in: sockets, the clock, names, signals and the allocator.

pub mod inherited;
pub mod mio_network;
pub mod network;
pub mod options;
pub mod ports;
pub mod resolver;
mod suspend;
pub mod tcp_info;
pub mod thread;
pub(super) mod trim;
