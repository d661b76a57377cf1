//! The server's listeners: where they are to be, and what became of them.

use std::io;
use std::net::SocketAddr;

use crate::base::address::Listen;
use crate::base::id::{ListenerId, ServiceId, kind};
use crate::base::slots::Slots;
use crate::machine::Door;

/// What connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Users of this service.
    Users(ServiceId),
    /// Message connections.
    Message,
    /// Control connections.
    Control,
    /// Both: the hello of a connection says which it is.
    Clients,
}

impl Use {
    /// What the reactor needs to know of it.
    pub fn door(self) -> Door {
        match self {
            Use::Users(service) => Door::Users(service),
            Use::Message | Use::Control | Use::Clients => Door::Clients,
        }
    }
}

/// What became of a listener.
#[derive(Debug)]
pub enum State {
    /// It was asked for.
    Asked,
    /// It listens at this address.
    Listening(SocketAddr),
    /// It could not be had.
    Failed(io::Error),
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// What it is for.
    pub serves: Use,
    /// Where it was asked for.
    pub at: Listen,
    /// What became of it.
    pub state: State,
}

impl Listener {
    /// Its address, once it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.state {
            State::Listening(address) => Some(address),
            State::Asked | State::Failed(_) => None,
        }
    }
}

/// All listeners.
#[derive(Default)]
pub struct Listeners {
    slots: Slots<kind::Listener, Listener>,
    message_port: u16,
}

impl Listeners {
    /// Adds a listener that is to be asked for; `None` if there are as many as can be named.
    pub(super) fn add(&mut self, serves: Use, at: Listen) -> Option<ListenerId> {
        self.slots.insert(Listener { serves, at, state: State::Asked }).ok()
    }

    /// Notes what became of a listener.
    pub(super) fn note(&mut self, id: ListenerId, outcome: io::Result<SocketAddr>) {
        let Some(listener) = self.slots.get_mut(id) else { return };
        listener.state = match outcome {
            Ok(address) => {
                if matches!(listener.serves, Use::Message | Use::Clients) {
                    self.message_port = address.port();
                }
                State::Listening(address)
            }
            Err(error) => State::Failed(error),
        };
    }

    /// The ids of all of them.
    pub(super) fn ids(&self) -> Vec<ListenerId> {
        self.slots.iter().map(|(id, _)| id).collect()
    }

    /// Forgets a listener.
    pub(super) fn remove(&mut self, id: ListenerId) {
        self.slots.remove(id);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Where clients bring message connections, as they are told.
    pub(super) fn message_port(&self) -> u16 {
        self.message_port
    }

    /// The listener of this id.
    pub fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.slots.get(id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.slots.iter().map(|(_, listener)| listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_the_real_port_of_the_message_listener() {
        let mut listeners = Listeners::default();
        let message = listeners.add(Use::Message, Listen::Any(0)).expect("there is room");
        let control = listeners.add(Use::Control, Listen::Any(0)).expect("there is room");
        listeners.note(message, Ok(([127, 0, 0, 1], 5).into()));
        listeners.note(control, Ok(([127, 0, 0, 1], 6).into()));
        assert_eq!(listeners.message_port(), 5);
    }

    #[test]
    fn one_port_for_both_is_the_message_port() {
        let mut listeners = Listeners::default();
        let both = listeners.add(Use::Clients, Listen::Any(6)).expect("there is room");
        listeners.note(both, Ok(([127, 0, 0, 1], 6).into()));
        assert_eq!((listeners.message_port(), Use::Clients.door()), (6, Door::Clients));
    }

    #[test]
    fn a_listener_that_is_gone_hears_nothing() {
        let mut listeners = Listeners::default();
        let id = listeners.add(Use::Control, Listen::Any(0)).expect("there is room");
        assert_eq!(listeners.ids(), [id]);
        listeners.remove(id);
        listeners.note(id, Ok(([127, 0, 0, 1], 6).into()));
        assert!(listeners.get(id).is_none() && listeners.is_empty());
    }
}
