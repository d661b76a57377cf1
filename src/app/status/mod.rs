//! What a process says of itself to those who look: people, scripts and scrapers.
//!
//! ```text
//!  loop ── Snapshot ──▶ exchange ──▶ desk (a thread) ──▶ unix socket: skyorg status
//!       ◀── it is asked for ──                      └──▶ TCP (--metrics): scrapers, health checks, the page
//! ```
//!
//! The loop only hands values over, and only when somebody has asked. The desk writes them down, in one of several
//! forms, and waits for those who read slowly. Both ways in speak the same small part of HTTP/1.1.
//!
//! Read [`view`] first: it is what every form is written from. [`judge`] says what holds of a service, once for all
//! forms.

pub mod desk;
pub mod document;
pub mod exchange;
mod history;
pub mod http;
pub mod judge;
pub mod metrics;
mod page;
mod reader;
pub mod screen;
pub mod socket;
mod system;
pub mod view;
pub mod ways;
