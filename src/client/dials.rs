//! Message connections of a link on their way: tickets that the server has handed out, and where they are taken.
//!
//! A server that is not heard cannot hand tickets out. Then the client takes the next numbers of its own accord: the
//! server takes each once, as if it had issued it.
//!
//! While dials fail, or the server is not heard, one every half second stands for all, at the message port and at the
//! control port in turn: that one admits message connections, too. The first that is proved ends the pause, and its
//! address is used from then on.
//!
//! A dial that is late gets one rival with the same ticket, and the first that is proved wins. Where others have
//! arrived meanwhile it was lost on the way, and rivals are a share of what arrives. Where none has, the port may be
//! blocked: that is a pause whose first dial is made at once. The late one goes on as long as a handshake may take,
//! because the line may have become that slow: when one is proved that took long, those that take no longer are not
//! late.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::message_port::MessagePort;
use crate::base::id::{ConnId, LinkId};
use crate::base::round_trip::RoundTrip;
use crate::base::share::Share;
use crate::machine::{Agenda, CloseReason, Dial, Fact, Greeting, Output};

/// Rivals that a link may have before its first message connection.
const RIVALS_FIRST: u32 = 4;

/// One dial that stands for all has no longer than this: the last one may have taken long because the line was down.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Most message connections that are to be spare while the server is not heard.
const SPARE_MAX: usize = 32;

/// A ticket that the server has handed out.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    number: u64,
    /// The server takes it no longer than that.
    until: Instant,
}

/// A message connection on its way: where it goes, and what it shows there.
#[derive(Clone, Copy, Debug)]
struct Way {
    address: SocketAddr,
    ticket: Ticket,
}

/// A message connection that was dialled and is not proved.
struct Coming {
    id: ConnId,
    way: Way,
    begun: Instant,
    is_late: bool,
}

/// Why others wait for one dial.
#[derive(Clone, Copy)]
enum Cause {
    /// One failed that went there.
    Failed(SocketAddr),
    /// The server is not heard, which people are told of elsewhere. Dials went there before, and will again.
    Silent(SocketAddr),
}

/// Dials fail, or would: others wait for one that succeeds.
struct Pause {
    /// When the next dial is made.
    next: Instant,
    since: Instant,
    cause: Cause,
    /// A failure was told of.
    told: bool,
}

impl Pause {
    fn is_silent(&self) -> bool {
        matches!(self.cause, Cause::Silent(_))
    }
}

/// The message connections of a link that are not proved yet.
pub(super) struct Dials {
    /// Where they go.
    pub port: MessagePort,
    /// The highest number so far that the server has handed out, or that was taken of the client's own accord.
    highest: u64,
    /// Message connections that were proved since the server was found to be silent.
    proved: usize,
    /// Tickets that wait for the end of the pause, or for their turn; the newest last.
    tickets: VecDeque<Ticket>,
    /// Asked of the reactor and not begun, in that order; `None` for what is not wanted any more.
    asked: VecDeque<Option<Way>>,
    /// Begun and not proved, in that order.
    coming: VecDeque<Coming>,
    pause: Option<Pause>,
    /// What the last one took that was proved: to connect, and to be answered.
    took: Duration,
    /// When that was.
    arrived_at: Option<Instant>,
    rivals: Share,
}

impl Dials {
    /// No dials, and where those to come go. Connecting to the control port took so long.
    pub fn new(port: MessagePort, took: Duration) -> Dials {
        Dials {
            port,
            highest: 0,
            proved: 0,
            tickets: VecDeque::new(),
            asked: VecDeque::new(),
            coming: VecDeque::new(),
            pause: None,
            took,
            arrived_at: None,
            rivals: Share::new(RIVALS_FIRST),
        }
    }

    /// Message connections that are on their way or wait to be.
    fn count(&self) -> usize {
        self.tickets.len() + self.asked.len() + self.coming.len()
    }

    /// When it wants to dial, or to look for dials that are late.
    pub fn due(&self, agenda: &Agenda) -> Option<Instant> {
        let retry = self.pause.as_ref().filter(|_| self.count() > 0).map(|pause| pause.next);
        let late_after = agenda.limits.late_after(self.took);
        let late = self.coming.iter().find(|coming| !coming.is_late).map(|coming| coming.begun + late_after);
        retry.into_iter().chain(late).min()
    }

    /// Until when the last of those that were dialled is in time, if it is.
    pub fn in_time_until(&self, agenda: &Agenda) -> Option<Instant> {
        let until = self.coming.back()?.begun + agenda.limits.late_after(self.took);
        (until > agenda.now).then_some(until)
    }

    // Tickets.

    /// Drops tickets: nothing more is dialled.
    pub fn stop(&mut self) {
        self.tickets.clear();
        self.pause = None;
    }

    /// The number behind all others.
    pub fn next(&self) -> u64 {
        self.highest.saturating_add(1)
    }

    /// Takes consecutive tickets, and leaves what is beyond the bounds: beside these there are so many `others`. Those
    /// that were taken before, of the client's own accord, are left as well.
    ///
    /// A server that asks for more at once is not cut off: tickets that nobody brings expire, and it asks again.
    pub fn take(
        &mut self,
        (first, count): (u64, u32),
        others: usize,
        round_trip: RoundTrip,
        agenda: &Agenda,
    ) {
        self.drop_expired(agenda);
        let limits = &agenda.limits;
        let room = limits.tickets_max.saturating_sub(self.tickets.len());
        let room = room.min(limits.messages_per_client_max.saturating_sub(others + self.count()));
        let until = agenda.now + round_trip.wait(limits.ticket);
        let end = first.saturating_add(count.into());
        let numbers = (first.max(self.next())..end).take(room);
        self.tickets.extend(numbers.map(|number| Ticket { number, until }));
        self.highest = self.highest.max(end.saturating_sub(1));
    }

    /// Whether the server would take one of those that are on their way or wait to be, as far as is known.
    pub fn has_good(&self, now: Instant) -> bool {
        let dialled = self.asked.iter().flatten().chain(self.coming.iter().map(|coming| &coming.way));
        dialled.map(|way| &way.ticket).chain(&self.tickets).any(|ticket| ticket.until > now)
    }

    /// How many message connections are missing while the server is not heard. As many are to be spare, proved or on
    /// their way, as have sessions.
    pub fn missing(&self, busy: usize) -> usize {
        busy.min(SPARE_MAX).saturating_sub(self.proved.saturating_sub(busy) + self.count())
    }

    /// The server is not heard: one dial stands for all from now on.
    pub fn seek(&mut self, now: Instant) {
        if self.pause.is_none() {
            let cause = Cause::Silent(self.port.address());
            self.pause = Some(Pause { next: now, since: now, cause, told: false });
            self.proved = 0;
        }
    }

    /// The server is heard again.
    pub fn heard(&mut self) {
        if let Some(Pause { cause: Cause::Silent(address), .. }) =
            self.pause.take_if(|pause| pause.is_silent())
        {
            self.port.prefer(address);
        }
    }

    fn drop_expired(&mut self, agenda: &Agenda) {
        self.tickets.retain(|ticket| ticket.until > agenda.now);
    }

    /// Whether a ticket waits, or a dial with it is on its way.
    fn has(&self, number: u64) -> bool {
        let mut dialled = self.asked.iter().flatten().chain(self.coming.iter().map(|coming| &coming.way));
        dialled.any(|way| way.ticket.number == number)
            || self.tickets.iter().any(|ticket| ticket.number == number)
    }

    /// How many dials with this ticket are on their way.
    fn dials_with(&self, number: u64) -> usize {
        let asked = self.asked.iter().flatten().filter(|way| way.ticket.number == number).count();
        asked + self.coming.iter().filter(|coming| coming.way.ticket.number == number).count()
    }

    // Dialling.

    /// Dials for as many tickets as may be dialled for now. Returns whether dials have become late.
    pub fn go(&mut self, link: LinkId, greeting: &Greeting, agenda: &mut Agenda) -> bool {
        let are_late = self.look_for_late(link, greeting, agenda);
        self.drop_expired(agenda);
        match &self.pause {
            Some(pause) if pause.next <= agenda.now => self.dial_for_all(link, greeting, agenda),
            Some(_) => {}
            None => {
                let coming = self.asked.len() + self.coming.len();
                // Those that are proved at the server, and have not heard it, count as well.
                for _ in coming..agenda.limits.messages_at_once {
                    let Some(ticket) = self.tickets.pop_front() else { break };
                    self.dial(ticket, link, greeting, agenda);
                }
            }
        }
        are_late
    }

    fn dial(&mut self, ticket: Ticket, link: LinkId, greeting: &Greeting, agenda: &mut Agenda) {
        let address = self.port.address();
        self.asked.push_back(Some(Way { address, ticket }));
        let greeting = Greeting { ticket: ticket.number, ..greeting.clone() };
        let deadline = agenda.now + agenda.limits.handshake;
        agenda.push(Output::Dial { dial: Dial::Message(link, greeting), address, deadline });
    }

    /// One dial that stands for all, because the others fail. The first of those that are late goes on, because the
    /// line may be slow; this one takes the place of the others that went before it.
    fn dial_for_all(&mut self, link: LinkId, greeting: &Greeting, agenda: &mut Agenda) {
        let Some(pause) = &mut self.pause else { return };
        // Each has as long as the last one took that was proved, or the next would always take its place.
        pause.next = agenda.now + self.took.min(RETRY_MAX).max(agenda.limits.retry);
        let since = pause.since;
        for place in (1..self.coming.len()).rev() {
            if self.coming[place].is_late && self.coming[place].begun >= since {
                self.replace(place, agenda);
            }
        }
        // The newest is good for longest.
        let waiting = self.tickets.pop_back();
        let coming =
            || self.coming.iter().rev().map(|coming| coming.way.ticket).find(|it| it.until > agenda.now);
        let Some(ticket) = waiting.or_else(coming) else { return };
        if self.dials_with(ticket.number) > 1 {
            let newer = self.coming.iter().rposition(|coming| coming.way.ticket.number == ticket.number);
            newer
                .and_then(|place| self.coming.remove(place))
                .into_iter()
                .for_each(|newer| retire(&newer, agenda));
        }
        self.dial(ticket, link, greeting, agenda);
        self.port.turn();
    }

    /// Another dial takes the place of this one.
    fn replace(&mut self, place: usize, agenda: &mut Agenda) {
        let Some(coming) = self.coming.remove(place) else { return };
        retire(&coming, agenda);
        if !self.has(coming.way.ticket.number) {
            // Those that wait have been shown to no server.
            self.tickets.push_front(coming.way.ticket);
        }
    }

    /// The dial that was asked for first has begun; false if it is not wanted any more.
    pub fn begun(&mut self, id: ConnId, agenda: &Agenda) -> bool {
        let Some(Some(way)) = self.asked.pop_front() else { return false };
        self.coming.push_back(Coming { id, way, begun: agenda.now, is_late: false });
        true
    }

    fn look_for_late(&mut self, link: LinkId, greeting: &Greeting, agenda: &mut Agenda) -> bool {
        let late_after = agenda.limits.late_after(self.took);
        let mut are_late = false;
        for place in 0..self.coming.len() {
            let coming = &mut self.coming[place];
            if coming.is_late || coming.begun + late_after > agenda.now {
                continue;
            }
            (coming.is_late, are_late) = (true, true);
            let (way, begun) = (coming.way, coming.begun);
            let is_lost = self.arrived_at.is_some_and(|at| at >= begun);
            let is_silent = self.pause.as_ref().is_some_and(Pause::is_silent);
            if !is_silent && (self.pause.is_some() || !is_lost) {
                self.port.note(way.address, Some(CloseReason::HandshakeTimedOut), agenda.now);
            }
            if self.pause.is_some() {
                self.tell_late(way.address, agenda);
            } else if self.arrived_at.is_none_or(|at| at < begun) {
                // What has worked is tried once more.
                self.pause(way.address, agenda.now, self.arrived_at.is_none(), agenda);
            } else if self.dials_with(way.ticket.number) == 1 && self.rivals.spend() {
                self.dial(way.ticket, link, greeting, agenda);
            }
        }
        are_late
    }

    /// A dial is late while others fail. It may still arrive: people hear of it when that goes on.
    fn tell_late(&mut self, address: SocketAddr, agenda: &mut Agenda) {
        if let Some(pause) = &mut self.pause
            && !pause.is_silent()
            && agenda.now >= pause.since + agenda.limits.late_told
        {
            pause.told = true;
            agenda.fact(Fact::MessageFailed { address, reason: CloseReason::HandshakeTimedOut });
        }
    }

    /// Dials fail: from `next` on one of them stands for all. It goes elsewhere, if so told.
    fn pause(&mut self, failed: SocketAddr, next: Instant, elsewhere: bool, agenda: &Agenda) {
        if self.pause.is_none() {
            self.pause = Some(Pause { next, since: agenda.now, cause: Cause::Failed(failed), told: false });
            if elsewhere {
                self.port.leave(failed);
            }
        }
    }

    // What comes of it.

    /// A message connection is proved: its address works, and other dials with its ticket are not wanted any more.
    /// Returns how long it took.
    pub fn arrived(&mut self, id: ConnId, agenda: &mut Agenda) -> Option<Duration> {
        let Coming { way, begun, .. } = self.remove(id)?;
        self.port.note(way.address, None, agenda.now);
        (self.took, self.arrived_at) = (agenda.now.saturating_duration_since(begun), Some(agenda.now));
        self.rivals.earn();
        self.proved += 1;
        let number = way.ticket.number;
        self.tickets.retain(|ticket| ticket.number != number);
        let unwanted = |asked: &&mut Option<Way>| asked.is_some_and(|way| way.ticket.number == number);
        self.asked.iter_mut().filter(unwanted).for_each(|asked| *asked = None);
        self.coming.retain(|coming| {
            let loses = coming.way.ticket.number == number;
            if loses {
                retire(coming, agenda);
            }
            !loses
        });
        if let Some(pause) = self.pause.take() {
            self.resume(&pause, (way.address, begun), agenda);
        }
        Some(self.took)
    }

    /// Dials succeed again. Late ones that began before the one that succeeded have been lost, and others take their
    /// places; the rest may be as slow as that one, and a server takes their tickets once.
    fn resume(&mut self, pause: &Pause, (address, begun): (SocketAddr, Instant), agenda: &mut Agenda) {
        let (failed, used) = match pause.cause {
            Cause::Failed(failed) => (Some(failed).filter(|&failed| failed != address), address),
            Cause::Silent(before) => (None, before),
        };
        if let Some(address) = failed.filter(|_| !pause.told) {
            agenda.fact(Fact::MessageFailed { address, reason: CloseReason::HandshakeTimedOut });
        }
        if pause.told || failed.is_some() {
            agenda.fact(Fact::MessageArrived { address });
        }
        self.port.prefer(used);
        let late_after = agenda.limits.late_after(self.took);
        for place in (0..self.coming.len()).rev() {
            let coming = &mut self.coming[place];
            coming.is_late = coming.begun + late_after <= agenda.now;
            if coming.is_late && coming.begun < begun {
                self.replace(place, agenda);
            }
        }
    }

    /// A message connection could not be made. Returns its ticket, if nobody will bring it: a server may have seen it.
    pub fn failed(&mut self, id: ConnId, reason: CloseReason, agenda: &mut Agenda) -> Option<u64> {
        let Coming { way, is_late, .. } = self.remove(id)?;
        if reason != CloseReason::Retired {
            self.port.note(way.address, Some(reason), agenda.now);
        }
        if !is_late {
            self.pause(way.address, agenda.now + agenda.limits.retry, true, agenda);
            self.pause.iter_mut().for_each(|pause| pause.told = true);
            agenda.fact(Fact::MessageFailed { address: way.address, reason });
        }
        if let CloseReason::DialFailed(_) = reason {
            // No server has seen the ticket.
            if !self.has(way.ticket.number) {
                self.tickets.push_back(way.ticket);
            }
            return None;
        }
        (!self.has(way.ticket.number)).then_some(way.ticket.number)
    }

    fn remove(&mut self, id: ConnId) -> Option<Coming> {
        let place = self.coming.iter().position(|coming| coming.id == id)?;
        self.coming.remove(place)
    }
}

/// A dial is not wanted any more.
fn retire(coming: &Coming, agenda: &mut Agenda) {
    agenda.reset(coming.id, CloseReason::Retired);
}
