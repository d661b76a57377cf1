//! The server's listeners: where they are to be, and what became of them.
//!
//! While the server starts, an address that is in use is asked for again and again for some seconds: the process before
//! it may be about to end, or a connection that goes out from that very port.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::base::address::Listen;
use crate::base::id::{ListenerId, ServiceId, kind};
use crate::base::slots::Slots;
use crate::base::table::Table;
use crate::config::ServerConfig;
use crate::machine::{Agenda, Door, Fact, Output};

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
    /// Nobody yet: it belongs to a configuration that does not hold yet.
    Nobody,
}

impl Use {
    /// Those of clients, and where they are to be.
    pub(super) fn of_clients(config: &ServerConfig) -> Vec<(Use, Listen)> {
        match config.shares_a_port() {
            true => vec![(Use::Clients, config.control)],
            false => vec![(Use::Message, config.message), (Use::Control, config.control)],
        }
    }

    /// What the reactor needs to know of it.
    pub fn door(self) -> Door {
        match self {
            Use::Users(service) => Door::Users(service),
            Use::Message | Use::Control | Use::Clients => Door::Clients,
            Use::Nobody => Door::Shut,
        }
    }
}

/// What became of a listener.
#[derive(Debug)]
pub enum State {
    /// It was asked for.
    Asked,
    /// Its address is in use, and it is asked for again.
    InUse,
    /// It listens at this address.
    Listening(SocketAddr),
    /// It has this address, and refuses whoever comes.
    Suspended(SocketAddr),
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
    /// Whether it is not known yet what becomes of it.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Asked | State::InUse)
    }

    /// Where it is, with the real port if 0 was asked for.
    pub(super) fn place(&self) -> Listen {
        match (self.at, self.address()) {
            (Listen::Any(0), Some(address)) => Listen::Any(address.port()),
            (at, Some(address)) if at.port() == 0 => Listen::At(address),
            (at, _) => at,
        }
    }

    /// Its address, once it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.state {
            State::Listening(address) | State::Suspended(address) => Some(address),
            State::Asked | State::InUse | State::Failed(_) => None,
        }
    }
}

/// All listeners.
pub struct Listeners {
    slots: Slots<kind::Listener, Listener>,
    /// Those of each service.
    of_service: Table<kind::Service, Vec<ListenerId>>,
    message_port: u16,
    /// Until when addresses in use are asked for again.
    patient_until: Instant,
    /// Those that are, and when next.
    again: Vec<ListenerId>,
    again_at: Option<Instant>,
}

impl Listeners {
    /// No listeners. Those that are added are asked for until then.
    pub(super) fn new(patient_until: Instant) -> Listeners {
        Listeners {
            slots: Slots::default(),
            of_service: Table::default(),
            message_port: 0,
            patient_until,
            again: Vec::new(),
            again_at: None,
        }
    }

    /// Adds a listener that is to be asked for; `None` if there are as many as can be named.
    pub(super) fn add(&mut self, serves: Use, at: Listen) -> Option<ListenerId> {
        let id = self.slots.insert(Listener { serves, at, state: State::Asked }).ok()?;
        self.join(id, serves);
        Some(id)
    }

    /// Adds a listener, and asks for it.
    pub(super) fn open(&mut self, serves: Use, at: Listen, agenda: &mut Agenda) {
        if let Some(id) = self.add(serves, at) {
            agenda.push(Output::Listen { id, at, door: serves.door() });
        }
    }

    fn join(&mut self, id: ListenerId, serves: Use) {
        if let Use::Users(service) = serves {
            match self.of_service.get_mut(service) {
                Some(its) => its.push(id),
                None => self.of_service.insert(service, vec![id]),
            }
        }
    }

    fn leave(&mut self, id: ListenerId, serves: Use) {
        if let Use::Users(service) = serves
            && let Some(its) = self.of_service.get_mut(service)
        {
            its.retain(|&it| it != id);
            if its.is_empty() {
                self.of_service.remove(service);
            }
        }
    }

    /// A listener is for something else from now on: it keeps its port, and who waits in its queue.
    pub(super) fn set_use(&mut self, id: ListenerId, serves: Use, agenda: &mut Agenda) {
        let Some(listener) = self.slots.get_mut(id) else { return };
        let before = std::mem::replace(&mut listener.serves, serves);
        if before != serves {
            self.leave(id, before);
            self.join(id, serves);
            agenda.push(Output::SetDoor { id, door: serves.door() });
        }
    }

    /// A listener refuses whoever comes from now on, and keeps its port.
    pub(super) fn suspend(&mut self, id: ListenerId, agenda: &mut Agenda) {
        if let Some(listener) = self.slots.get_mut(id)
            && let State::Listening(address) = listener.state
        {
            listener.state = State::Suspended(address);
            self.again.retain(|&it| it != id);
            agenda.push(Output::Suspend(id));
        }
    }

    /// A suspended listener is to listen again.
    pub(super) fn resume(&mut self, id: ListenerId, agenda: &mut Agenda) {
        if let Some(listener) = self.slots.get_mut(id)
            && let State::Suspended(address) = listener.state
        {
            listener.state = State::Listening(address);
            agenda.push(Output::Resume(id));
        }
    }

    /// Closes a listener, and forgets it: what waits in its queue still comes.
    pub(super) fn close(&mut self, id: ListenerId, agenda: &mut Agenda) {
        if self.remove(id) {
            agenda.push(Output::StopListening(id));
        }
    }

    /// Closes the listeners of a service and forgets them. Returns those of which it is not known yet what becomes of
    /// them, and how many there were.
    pub(super) fn close_service(
        &mut self,
        service: ServiceId,
        agenda: &mut Agenda,
    ) -> (Vec<ListenerId>, usize) {
        let ids = self.of_service.remove(service).unwrap_or_default();
        let count = ids.len();
        let unknown = ids.into_iter().filter(|&id| {
            let is_known = self.slots.remove(id).is_some_and(|listener| !listener.is_open());
            if is_known {
                agenda.push(Output::StopListening(id));
            }
            !is_known
        });
        (unknown.collect(), count)
    }

    /// The listeners of a service.
    pub(super) fn of_service(&self, service: ServiceId) -> &[ListenerId] {
        self.of_service.get(service).map_or(&[], |its| its)
    }

    /// Where users of a service connect.
    pub(super) fn addresses(&self, service: ServiceId) -> Vec<SocketAddr> {
        let its = self.of_service(service).iter();
        its.filter_map(|&id| self.slots.get(id)?.address()).collect()
    }

    /// Notes what became of a listener.
    pub(super) fn note(&mut self, id: ListenerId, outcome: io::Result<SocketAddr>, agenda: &mut Agenda) {
        let Some(listener) = self.slots.get_mut(id) else {
            // It was closed before it was there.
            if outcome.is_ok() {
                agenda.push(Output::StopListening(id));
            }
            return;
        };
        listener.state = match outcome {
            Ok(address) => {
                if matches!(listener.serves, Use::Message | Use::Clients) {
                    self.message_port = address.port();
                }
                match listener.state {
                    // It was suspended again meanwhile.
                    State::Suspended(_) => State::Suspended(address),
                    _ => State::Listening(address),
                }
            }
            // Its port stays ours: somebody else may listen there for a moment.
            Err(error) if listener.address().is_some() => {
                agenda.fact(Fact::NotListening { at: listener.at, fault: error.into() });
                self.again.push(id);
                self.again_at = Some(agenda.now + agenda.limits.listen_retry);
                return;
            }
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && agenda.now < self.patient_until
                    && listener.serves != Use::Nobody
                    && listener.is_open() =>
            {
                if matches!(listener.state, State::Asked) {
                    agenda.fact(Fact::AddressInUse { at: listener.at, time: agenda.limits.listen });
                }
                self.again.push(id);
                self.again_at = Some(agenda.now + agenda.limits.listen_retry);
                State::InUse
            }
            Err(error) => State::Failed(error),
        };
    }

    /// When some are asked for again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.again_at
    }

    /// Asks again for those whose address was in use, if it is time.
    pub(super) fn try_again(&mut self, agenda: &mut Agenda) {
        if self.again_at.take_if(|at| *at <= agenda.now).is_none() {
            return;
        }
        for id in std::mem::take(&mut self.again) {
            match self.slots.get(id) {
                Some(listener) if listener.is_open() => {
                    agenda.push(Output::Listen { id, at: listener.at, door: listener.serves.door() });
                }
                Some(_) => agenda.push(Output::Resume(id)),
                None => {}
            }
        }
    }

    /// Nothing is asked for any more: the ids of all that are to be closed.
    pub(super) fn stop(&mut self) -> Vec<ListenerId> {
        self.again_at = None;
        self.slots.iter().map(|(id, _)| id).collect()
    }

    /// Whether the server listens everywhere, or it is known that it cannot.
    pub fn are_settled(&self) -> bool {
        let mut failed = self.iter().filter(|listener| matches!(listener.state, State::Failed(_)));
        failed.next().is_some() || self.iter().all(|listener| !listener.is_open())
    }

    /// Forgets a listener; false if it is not known.
    pub(super) fn remove(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.slots.remove(id) else { return false };
        self.leave(id, listener.serves);
        true
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
    use crate::config::limits::Limits;
    use std::time::Duration;

    fn begin() -> (Listeners, Agenda) {
        let now = Instant::now();
        let agenda = Agenda::new(Limits::default().into(), fastrand::Rng::with_seed(1), now);
        (Listeners::new(now + agenda.limits.listen), agenda)
    }

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn clients_are_told_the_real_port_of_the_message_listener() {
        let (mut listeners, mut agenda) = begin();
        let message = listeners.add(Use::Message, Listen::Any(0)).expect("there is room");
        let control = listeners.add(Use::Control, Listen::Any(0)).expect("there is room");
        listeners.note(message, Ok(at(5)), &mut agenda);
        listeners.note(control, Ok(at(6)), &mut agenda);
        assert_eq!(listeners.message_port(), 5);
    }

    #[test]
    fn one_port_for_both_is_the_message_port() {
        let (mut listeners, mut agenda) = begin();
        let both = listeners.add(Use::Clients, Listen::Any(6)).expect("there is room");
        listeners.note(both, Ok(at(6)), &mut agenda);
        assert_eq!((listeners.message_port(), Use::Clients.door()), (6, Door::Clients));
    }

    #[test]
    fn a_listener_that_is_gone_hears_nothing() {
        let (mut listeners, mut agenda) = begin();
        let id = listeners.add(Use::Control, Listen::Any(0)).expect("there is room");
        assert_eq!(listeners.stop(), [id]);
        listeners.remove(id);
        listeners.note(id, Ok(at(6)), &mut agenda);
        assert!(listeners.get(id).is_none() && listeners.is_empty());
    }

    #[test]
    fn an_address_in_use_is_asked_for_again_for_some_seconds_and_told_of_once() {
        let (mut listeners, mut agenda) = begin();
        let id = listeners.add(Use::Control, Listen::Any(6)).expect("there is room");
        let (until, mut asked) = (agenda.now + agenda.limits.listen, 0);
        loop {
            listeners.note(id, Err(io::ErrorKind::AddrInUse.into()), &mut agenda);
            let Some(due) = listeners.due() else { break };
            assert!(!listeners.are_settled());
            agenda.now = due;
            listeners.try_again(&mut agenda);
            asked += 1;
        }
        assert!(agenda.now >= until && asked == 50, "{asked} times");
        assert!(matches!(listeners.get(id).expect("it is there").state, State::Failed(_)));
        let outputs: Vec<Output> = std::iter::from_fn(|| agenda.next_output()).collect();
        let told = outputs.iter().filter(|output| matches!(output, Output::Fact(_)));
        assert_eq!((told.count(), outputs.len()), (1, 1 + asked));
    }

    #[test]
    fn another_error_is_not_waited_for_and_nothing_is_asked_for_at_the_end() {
        let (mut listeners, mut agenda) = begin();
        let id = listeners.add(Use::Control, Listen::Any(6)).expect("there is room");
        let other = listeners.add(Use::Message, Listen::Any(7)).expect("there is room");
        listeners.note(other, Err(io::ErrorKind::AddrInUse.into()), &mut agenda);
        listeners.note(id, Err(io::ErrorKind::AddrInUse.into()), &mut agenda);
        listeners.stop();
        assert_eq!(listeners.due(), None);
        listeners.note(id, Err(io::ErrorKind::AddrNotAvailable.into()), &mut agenda);
        assert!(listeners.are_settled(), "nothing is waited for once one has failed");
        agenda.now += Duration::from_secs(1);
        listeners.try_again(&mut agenda);
        let outputs: Vec<Output> = std::iter::from_fn(|| agenda.next_output()).collect();
        assert!(outputs.iter().all(|output| matches!(output, Output::Fact(_))), "{outputs:?}");
    }
}
