//! Links: each from the server's Welcome to the end of its control connection. A client may have two links to one
//! server, while the older one drains.
//!
//! What counts per link is kept here: where and with what its message connections are dialled, which of its sessions
//! were seen, and when its server was heard.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::names::Names;
use super::seen::Seen;
use super::sessions::Sessions;
use crate::base::id::{ConnId, LinkId, NameId, kind};
use crate::base::slots::Slots;
use crate::base::table::Table;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Greeting, Output};
use crate::wire::control::ControlFrame;

/// Where a link stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Standing,
    /// The server has said Drain: running sessions go on, and nothing new is dialled.
    Draining,
}

/// A link.
pub(super) struct Link {
    pub control: ConnId,
    life: Life,
    pub welcomed: Instant,
    heartbeat: Duration,
    heard: Instant,
    /// What its message connections prove; each with a ticket of its own.
    greeting: Greeting,
    /// Where message connections are dialled: the address that is tried next comes first.
    message_addresses: VecDeque<SocketAddr>,
    /// The name of those addresses, if they are not the server's own.
    message_name: Option<NameId>,
    /// Its sessions that were seen.
    pub seen: Seen,
}

impl Link {
    /// A link whose server has been heard just now.
    pub fn new(
        control: ConnId,
        heartbeat: Duration,
        greeting: Greeting,
        message_addresses: VecDeque<SocketAddr>,
        message_name: Option<NameId>,
        now: Instant,
    ) -> Link {
        Link {
            control,
            life: Life::Standing,
            welcomed: now,
            heartbeat,
            heard: now,
            greeting,
            message_addresses,
            message_name,
            seen: Seen::default(),
        }
    }

    /// The server was heard: it is asked for a sign of life if it is silent for half of the heartbeat. It pings more
    /// often than that, so it is asked only when it is late.
    pub fn heard(&mut self, agenda: &mut Agenda) {
        self.heard = agenda.now;
        agenda.after(self.control, self.heartbeat / 2);
    }

    /// The server was not heard for some time: it is asked for a sign of life, or given up.
    fn is_due(&mut self, agenda: &mut Agenda) {
        let silent_at = self.heard + self.heartbeat;
        if agenda.now >= silent_at {
            agenda.fact(Fact::ServerSilent { silence: self.heartbeat });
            agenda.reset(self.control, CloseReason::HeartbeatLost);
        } else {
            agenda.at(self.control, Some(silent_at));
            agenda.push(Output::Send { id: self.control, frame: ControlFrame::Ping });
        }
    }

    /// The server drains: it takes no message connection any more.
    pub fn drain(&mut self) {
        self.life = Life::Draining;
    }

    /// Dials message connections for the link of this id, one per ticket.
    pub fn open(
        &self,
        id: LinkId,
        (first_ticket, count): (u64, u32),
        names: &mut Names,
        sessions: &mut Sessions,
        agenda: &mut Agenda,
    ) {
        if self.life == Life::Draining {
            return;
        }
        let Some(&address) = self.message_addresses.front() else {
            if let Some(name) = self.message_name {
                names.tell_unresolved(name, "message connections", agenda);
                names.ask(name, agenda);
            }
            return;
        };
        let room = agenda.limits.messages_per_client_max.saturating_sub(sessions.message_count());
        let deadline = agenda.now + agenda.limits.handshake;
        for index in 0..room.min(count as usize) as u64 {
            let greeting = Greeting { ticket: first_ticket.wrapping_add(index), ..self.greeting.clone() };
            sessions.await_one();
            agenda.push(Output::Dial { dial: Dial::Message(id, greeting), address, deadline });
        }
    }

    /// Where message connections are dialled.
    pub fn message_address(&self) -> Option<SocketAddr> {
        self.message_addresses.front().copied()
    }

    /// A message connection could not be made: the next one tries another address, if the name has several.
    pub fn message_failed(&mut self, address: SocketAddr, reason: CloseReason, agenda: &mut Agenda) {
        // A server that drains has closed its message port.
        if self.life == Life::Draining {
            return;
        }
        if self.message_addresses.front() == Some(&address) {
            self.message_addresses.rotate_left(1);
        }
        agenda.fact(Fact::MessageFailed { address, reason });
    }
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    slots: Slots<kind::Link, Link>,
    controls: Table<kind::Connection, LinkId>,
}

impl Links {
    /// Adds a link; `None` if there are as many as can be named.
    pub fn add(&mut self, link: Link) -> Option<LinkId> {
        let control = link.control;
        let id = self.slots.insert(link).ok()?;
        self.controls.insert(control, id);
        Some(id)
    }

    /// Forgets the link whose control connection is gone.
    pub fn remove(&mut self, control: ConnId) -> Option<(LinkId, Link)> {
        let id = self.controls.remove(control)?;
        self.slots.remove(id).map(|link| (id, link))
    }

    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.slots.get_mut(id)
    }

    /// The link that a control connection is the head of.
    pub fn of_control(&self, control: ConnId) -> Option<LinkId> {
        self.controls.get(control).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A control connection's deadline has come; false if it is none of a link.
    pub fn is_due(&mut self, control: ConnId, agenda: &mut Agenda) -> bool {
        let link = self.of_control(control).and_then(|link| self.slots.get_mut(link));
        link.map(|link| link.is_due(agenda)).is_some()
    }

    /// A name was resolved: message connections of links that it leads are dialled at its addresses.
    pub fn resolved(&mut self, name: NameId, addresses: &[SocketAddr]) {
        let ids: Vec<LinkId> = self.slots.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(link) = self.slots.get_mut(id)
                && link.message_name == Some(name)
            {
                link.message_addresses = addresses.iter().copied().collect();
            }
        }
    }

    /// The client leaves: it says so on each link, and waits for the server to end it.
    pub fn leave(&self, agenda: &mut Agenda) {
        for (_, link) in self.slots.iter() {
            agenda.push(Output::Send { id: link.control, frame: ControlFrame::Drain });
        }
    }
}
