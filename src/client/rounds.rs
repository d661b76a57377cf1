//! Rounds through the addresses of the server's name, in one attempt to reach it.
//!
//! It remembers addresses, because those of a name may change while they are tried.

use std::net::SocketAddr;

/// Which addresses an attempt has tried, and which have said no.
#[derive(Default)]
pub(super) struct Rounds {
    /// Addresses that were dialled in this round, and those that are denied.
    tried: Vec<SocketAddr>,
    /// Addresses where nothing proves itself, or where the server does not take this client. They are not dialled again
    /// while others may answer.
    denied: Vec<SocketAddr>,
}

impl Rounds {
    /// The address to be dialled next of these in this round, if one is left.
    pub fn next(&mut self, found: &[SocketAddr]) -> Option<SocketAddr> {
        let next = found.iter().copied().find(|address| !self.tried.contains(address))?;
        self.tried.push(next);
        Some(next)
    }

    /// The same, in another round if this one is over.
    pub fn next_or_again(&mut self, found: &[SocketAddr]) -> Option<SocketAddr> {
        self.next(found).or_else(|| {
            self.tried.clone_from(&self.denied);
            self.next(found)
        })
    }

    /// An address was given up for another one, and says nothing of itself.
    pub fn not_tried(&mut self, address: SocketAddr) {
        self.tried.retain(|&tried| tried != address);
    }

    /// An address says no.
    pub fn deny(&mut self, address: SocketAddr) {
        for list in [&mut self.tried, &mut self.denied] {
            if !list.contains(&address) {
                list.push(address);
            }
        }
    }

    pub fn is_denied(&self, address: SocketAddr) -> bool {
        self.denied.contains(&address)
    }

    /// Whether any has said no.
    pub fn has_denied(&self) -> bool {
        !self.denied.is_empty()
    }

    /// Those that have said no were long not asked.
    pub fn forgive(&mut self) {
        self.denied.clear();
    }
}
