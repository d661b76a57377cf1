//! Where the message connections of a link go: to the addresses of the message port, and to the control port, which
//! admits them as well. They take turns where dials fail.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::machine::{CloseReason, Reason};

/// While the control port is used in its place, nothing new is known of the message port: a failure is told of for this
/// time.
const FAULT_KNOWN: Duration = Duration::from_secs(60);

/// The message port, and the control port beside it.
pub(super) struct MessagePort {
    /// The address that is tried next comes first.
    addresses: VecDeque<SocketAddr>,
    control: SocketAddr,
    /// The control port is tried next.
    is_at_control: bool,
    /// Why the message port does not work, as its last dial showed then; what the control port brings does not end it.
    fault: Option<(Reason, Instant)>,
}

impl MessagePort {
    pub fn new(addresses: &[SocketAddr], control: SocketAddr) -> MessagePort {
        let mut port = MessagePort { addresses: VecDeque::new(), control, is_at_control: true, fault: None };
        port.lead_to(addresses);
        port
    }

    /// The control port of the server.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// It is at these addresses from now on. New ones are tried first; the others keep their turns.
    pub fn lead_to(&mut self, addresses: &[SocketAddr]) {
        self.addresses.retain(|address| addresses.contains(address));
        for &address in addresses.iter().rev() {
            if address != self.control && !self.addresses.contains(&address) {
                self.addresses.push_front(address);
                self.is_at_control = false;
            }
        }
        self.is_at_control |= self.addresses.is_empty();
    }

    /// The server has come to be elsewhere.
    pub fn move_to(&mut self, control: SocketAddr, addresses: &[SocketAddr]) {
        self.control = control;
        self.lead_to(addresses);
    }

    /// Where the next dial goes.
    pub fn address(&self) -> SocketAddr {
        match self.addresses.front() {
            Some(&address) if !self.is_at_control => address,
            _ => self.control,
        }
    }

    /// The next dial goes elsewhere: to the other port.
    pub fn turn(&mut self) {
        if !self.is_at_control {
            self.addresses.rotate_left(1);
        }
        self.is_at_control = !self.is_at_control || self.addresses.is_empty();
    }

    /// A dial to this address failed. The next one goes elsewhere: the message port may have another address.
    pub fn leave(&mut self, failed: SocketAddr) {
        if self.address() != failed {
            return;
        }
        if !self.is_at_control && self.addresses.len() > 1 {
            self.addresses.rotate_left(1);
        } else {
            self.turn();
        }
    }

    /// The next dial goes there.
    pub fn prefer(&mut self, address: SocketAddr) {
        let place = self.addresses.iter().position(|&other| other == address);
        self.addresses.rotate_left(place.unwrap_or(0));
        self.is_at_control = place.is_none();
    }

    /// Why it does not work, if it did not lately.
    pub fn fault(&self, now: Instant) -> Option<&Reason> {
        let is_known = |at: Instant| now.saturating_duration_since(at) < FAULT_KNOWN;
        self.fault.as_ref().filter(|fault| is_known(fault.1)).map(|(reason, _)| reason)
    }

    /// A message connection to this address is proved, or could not be made for this reason.
    pub fn note(&mut self, address: SocketAddr, failure: Option<CloseReason>, now: Instant) {
        // Where both are one, it is the message port.
        if self.addresses.is_empty() || address != self.control {
            self.fault = failure.map(|reason| (Reason::of_message_port(reason), now));
        }
    }
}
