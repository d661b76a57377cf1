//! Outputs that cost a system call of their own (a dial, a listener, a lookup): they wait here, and one step of the
//! loop carries out some of them each turn, those of links first. What is asked of listeners is done in its order: a
//! port that is given back may be asked for at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::address::{HostPort, Listen};
use crate::base::id::{ListenerId, NameId};
use crate::machine::{Dial, Door};

/// One thing to do.
pub(super) enum Errand {
    Listen { id: ListenerId, at: Listen, door: Door },
    StopListening(ListenerId),
    Resume(ListenerId),
    Resolve { name: NameId, host: HostPort },
    Dial { dial: Dial, address: SocketAddr, deadline: Instant },
}

/// What is to be done, in the order in which it was asked for.
#[derive(Default)]
pub(super) struct Errands {
    links: VecDeque<Errand>,
    others: VecDeque<Errand>,
}

impl Errands {
    pub fn push(&mut self, errand: Errand) {
        match errand {
            Errand::Dial { dial: Dial::Control(_) | Dial::Message(..), .. } => self.links.push_back(errand),
            _ => self.others.push_back(errand),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.others.is_empty()
    }

    pub fn next(&mut self) -> Option<Errand> {
        self.links.pop_front().or_else(|| self.others.pop_front())
    }
}
