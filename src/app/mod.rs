//! From a command line to a running loop.

pub mod cli;
pub mod demo;
mod journal;
mod report;
pub mod run;
