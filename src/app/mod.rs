//! From a command line to a running loop.

pub mod cli;
pub mod demo;
mod in_use;
mod journal;
mod report;
pub mod run;
