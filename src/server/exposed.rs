//! Ports that clients ask for.

mod grants;
mod permitted;
