//! skyorg.

pub mod cli;
pub mod client;
pub mod config;
pub mod deadlines;
pub mod demo;
pub mod keys;
pub mod limits;
pub mod machine;
pub mod reactor;
pub mod ring;
pub mod run;
pub mod server;
pub mod session;
pub mod table;
pub mod wire;
