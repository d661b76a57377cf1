//! Stories: each rule of the two machines, told in a few inputs and the outputs that follow.

mod client;
mod server;
mod story;
