//! skyorg connects a public network with a private one.
//!
//! ```text
//!  user ──▶ request port 33333 ┐                                  ┌──▶ local server
//!                              │ skyorg server ═══════ skyorg client
//!       message port 33334 ◀───┤   (public)            (private)  │
//!       control port 33335 ◀───┴──── both dialled by the client ──┘
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | user | a program that connects to a request port; it knows nothing of skyorg |
//! | service | a name; the server gives it a request port, clients give it local servers |
//! | control connection | client → control port; carries commands and heartbeats |
//! | link | a control connection and all that hangs on it, from Welcome to its end; another one may take its place |
//! | publication | one client's offer to serve a service over one link |
//! | message connection | client → message port; pooled; carries one session at a time, many in its life |
//! | proxy connection | client → local server; one per session |
//! | local side | of a session at one end: the user's connection at the server, the proxy connection at the client |
//! | session | one user's bytes, from accept to the end of both directions |
//! | pool | a link's idle message connections at the server |
//! | key | 32 random bytes and a name; the holder may be that client |
//!
//! # Invariants
//!
//! - Each direction of a session ends with exactly one `Fin` or `Abort`; a message connection is idle again only
//!   when its end was both sent and received. Whatever else arrives closes it: nothing is guessed.
//! - A stream that broke anywhere ends in RST at both ends, never in a clean end.
//! - The local server gets a session's bytes at most once.
//! - Nothing is answered to anyone who has not proved a key.
//! - An idle session owns no buffer; nothing is allocated per session once warm.
//! - Nothing outside stops the loop. Once it runs, its thread writes no line of the log.
//! - Every queue, buffer, count and wait has a limit in [`config::limits::Limits`] and an answer at the limit.
//!
//! # Layers, from the top
//!
//! A layer imports from those below it only (`tests/tidy.rs` holds that).
//!
//! | module | what it owns | I/O |
//! |---|---|---|
//! | [`app`] | command line, assembling, the log, reload, the demo | files, terminal |
//! | [`reactor`] | the loop, sockets, the relay of bytes, reaping | all sockets |
//! | [`server`], [`client`] | machines: who gets what, what is opened, what is closed | no |
//! | [`machine`] | the seam between reactor and machines | no |
//! | [`config`] | what a command line or a file has become; keys; limits; policies; differences | files |
//! | [`session`] | the table that every message connection obeys | no |
//! | [`wire`] | frames, handshake, records | no |
//! | [`base`] | ids, tables, deadlines, rings, buffers, parsed values | no |
//!
//! Read [`machine`] first, then [`server`], [`client`] and [`reactor`].

pub mod app;
pub mod base;
pub mod client;
pub mod config;
pub mod machine;
pub mod reactor;
pub mod server;
pub mod session;
pub mod wire;
