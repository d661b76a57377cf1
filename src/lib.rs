//! skyorg.

pub mod config;
pub mod deadlines;
pub mod limits;
pub mod machine;
pub mod ring;
pub mod session;
pub mod wire;
