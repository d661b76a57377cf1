//! From a command line to a running loop.

pub mod announce;
mod aside;
pub mod cli;
pub mod demo;
mod descriptors;
mod in_use;
pub mod journal;
pub mod json;
mod notify;
mod ready_file;
pub mod reload;
mod report;
pub mod run;
mod standing;
pub mod status;
