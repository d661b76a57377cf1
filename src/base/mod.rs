//! What every layer stands on: ids and tables of things that come and go, deadlines, bytes, and parsed values.

pub mod address;
pub mod bucket;
pub mod buffer;
pub mod clocks;
pub mod deadlines;
pub mod decimal;
pub mod id;
pub mod mailbox;
pub mod name;
pub mod network;
pub mod ports;
pub mod rate;
pub mod ring;
pub mod round_trip;
pub mod share;
pub mod slots;
pub mod sorted;
pub mod table;
