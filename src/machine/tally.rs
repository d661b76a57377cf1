//! What is counted. Facts are, as they are told, so that the log and the counters cannot disagree; and what happens too
//! often to be told.
//!
//! An *account* counts the users of a service, or at the client those of a publication. It lives as long as the name
//! that it counts for. What a client exposed is then counted for its key: clients come and go with names of their own,
//! and must not make a process count without bound.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use slab::Slab;

use super::close::CloseReason;
use super::ending::Ending;
use super::fact::Fact;
use super::input::Traffic;
use super::outcome::{Cause, HelloCause, Outcome};
use super::status::{Figures, HELLO_CAUSES, Totals, Waits};
use crate::base::id::AccountId;
use crate::base::name::Name;
use crate::base::sorted::Map;
use crate::wire::control::Refusal;
use crate::wire::handshake::HandshakeError;

/// Hellos with an unknown or wrong key are told of for so many minutes.
const MINUTES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Users of one name.
#[derive(Default)]
struct Account {
    figures: Figures,
    /// The key of the client that exposes it.
    exposed_by: Option<Name>,
    /// No user comes any more: it is forgotten with the last one.
    is_closed: bool,
}

/// Hellos with an unknown or wrong key, a count for each of the last minutes.
#[derive(Default)]
struct Unknown {
    /// This minute first.
    counts: [u64; MINUTES],
    /// When this minute began.
    since: Option<Instant>,
    last: Option<SocketAddr>,
}

impl Unknown {
    fn note(&mut self, peer: SocketAddr, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = self.passed(now);
        if passed > 0 {
            let gone = passed.min(MINUTES);
            self.counts.rotate_right(gone % MINUTES);
            self.counts[..gone].fill(0);
            self.since = Some(since + MINUTE * passed as u32);
        }
        self.counts[0] += 1;
        self.last = Some(peer);
    }

    /// Minutes since this one began.
    fn passed(&self, now: Instant) -> usize {
        let time = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        (time.as_secs() / MINUTE.as_secs()) as usize
    }

    /// How many there were lately, and where the last one came from.
    fn lately(&self, now: Instant) -> Option<(u64, SocketAddr)> {
        let kept = MINUTES.saturating_sub(self.passed(now));
        let count = self.counts[..kept].iter().sum();
        self.last.filter(|_| count > 0).map(|last| (count, last))
    }
}

/// All counts; see the module.
#[derive(Default)]
pub struct Tally {
    accounts: Slab<Account>,
    /// What was exposed by clients of each key, and is no more.
    gone: Map<Name, Figures>,
    waits: Waits,
    redeliveries: u64,
    hellos_refused: [u64; HELLO_CAUSES.len()],
    unknown: Unknown,
}

impl Tally {
    // Accounts.

    /// Opens an account; `exposed_by` is the key of the client that named it, if a client did. `None` if there are as
    /// many as can be named.
    pub fn open(&mut self, exposed_by: Option<Name>) -> Option<AccountId> {
        let vacant = self.accounts.vacant_entry();
        let id = AccountId::new(vacant.key())?;
        vacant.insert(Account { exposed_by, ..Account::default() });
        Some(id)
    }

    /// No user comes to an account any more. It counts those that it has to their end.
    pub fn close(&mut self, id: AccountId) {
        if let Some(account) = self.accounts.get_mut(id.index()) {
            account.is_closed = true;
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: AccountId) {
        let account = self.accounts.get(id.index());
        if account.is_none_or(|account| !account.is_closed || account.figures.users > 0) {
            return;
        }
        if let Account { figures, exposed_by: Some(key), .. } = self.accounts.remove(id.index()) {
            self.gone.or_default(key).add(&figures);
        }
    }

    fn figures_mut(&mut self, id: AccountId) -> Option<&mut Figures> {
        self.accounts.get_mut(id.index()).map(|account| &mut account.figures)
    }

    /// What an account has counted. Bytes of users that are there are not in it: the reactor counts them.
    pub fn figures(&self, id: AccountId) -> Option<&Figures> {
        self.accounts.get(id.index()).map(|account| &account.figures)
    }

    /// The key of the client that an account was opened for.
    pub fn exposed_by(&self, id: AccountId) -> Option<&Name> {
        self.accounts.get(id.index())?.exposed_by.as_ref()
    }

    // Users. Each that comes leaves.

    /// A user comes, and may be refused at once.
    pub fn user_came(&mut self, id: AccountId) {
        if let Some(figures) = self.figures_mut(id) {
            (figures.users, figures.total) = (figures.users + 1, figures.total + 1);
        }
    }

    /// A user that has come stays for now.
    pub fn user_stays(&mut self, id: AccountId) {
        if let Some(figures) = self.figures_mut(id) {
            figures.peak = figures.peak.max(figures.users);
        }
    }

    /// A user waits for a message connection from now on, or not any more.
    pub fn user_waits(&mut self, id: AccountId, waits: bool) {
        if let Some(figures) = self.figures_mut(id) {
            figures.waiting = figures.waiting.saturating_add_signed(if waits { 1 } else { -1 });
        }
    }

    /// A user is gone, of whom no fact tells by itself.
    pub fn user_gone(&mut self, id: AccountId, outcome: Outcome, traffic: Traffic) {
        self.passed(id, traffic);
        let Some(figures) = self.figures_mut(id) else { return };
        figures.users = figures.users.saturating_sub(1);
        match outcome {
            Outcome::Ended(end) => figures.ended[end as usize] += 1,
            Outcome::Refused(cause) => figures.refused[cause as usize] += 1,
        }
        self.forget_if_over(id);
    }

    /// Bytes of a user have passed whose connection is gone.
    pub fn passed(&mut self, id: AccountId, traffic: Traffic) {
        if let Some(figures) = self.figures_mut(id) {
            figures.traffic.received += traffic.received;
            figures.traffic.sent += traffic.sent;
        }
    }

    /// A user has waited so long for its first message connection.
    pub fn waited(&mut self, id: AccountId, wait: Duration) {
        if let Some(figures) = self.figures_mut(id) {
            figures.waits.add(wait);
        }
        self.waits.add(wait);
    }

    /// A session is offered again.
    pub fn redelivered(&mut self) {
        self.redeliveries += 1;
    }

    // Facts.

    /// A fact about a user of this account.
    pub fn take_of(&mut self, id: AccountId, fact: &Fact) {
        match *fact {
            Fact::UserLeft { traffic, served, reason, .. } => {
                self.user_gone(id, Outcome::of(Ending::User(reason), served), traffic);
            }
            Fact::UserShed { is_short, .. } => {
                let cause = if is_short { Cause::Descriptors } else { Cause::Full };
                self.user_came(id);
                self.user_gone(id, Outcome::Refused(cause), Traffic::default());
            }
            Fact::SessionEnded { traffic, reason, .. } => {
                self.user_gone(id, Outcome::of(Ending::Proxy(reason), true), traffic.mirrored());
            }
            Fact::LocalFailed { reason, .. } => {
                self.user_gone(id, Outcome::of(Ending::Proxy(reason), false), Traffic::default());
            }
            _ => {}
        }
    }

    /// Any other fact.
    pub fn take(&mut self, fact: &Fact, now: Instant) {
        let cause = match fact {
            Fact::NotAdmitted { reason, peer } => match reason {
                CloseReason::UnknownKey | CloseReason::Stranger(HandshakeError::Unproved) => {
                    self.unknown.note(*peer, now);
                    HelloCause::UnknownKey
                }
                CloseReason::UnknownLink | CloseReason::UnknownTicket => HelloCause::UnknownLink,
                CloseReason::Replayed => HelloCause::Replayed,
                CloseReason::HandshakeTimedOut => HelloCause::NoHandshake,
                CloseReason::Evicted => HelloCause::Evicted,
                CloseReason::Stranger(HandshakeError::Version(_)) => HelloCause::Version,
                CloseReason::Stranger(_) => HelloCause::NotSkyorg,
                // It said nothing.
                CloseReason::PeerClosed => return,
                _ => HelloCause::Other,
            },
            Fact::ClientRefused { refusal, .. } => match refusal {
                Refusal::Versions(_) | Refusal::Plain(_) => HelloCause::Version,
                Refusal::Policy => HelloCause::Policy,
                Refusal::From => HelloCause::From,
                Refusal::Expired => HelloCause::Expired,
                Refusal::Links { .. } => HelloCause::Links,
                Refusal::Other(_) => HelloCause::Other,
            },
            _ => return,
        };
        self.hellos_refused[cause as usize] += 1;
    }

    // Looking.

    /// What belongs to no account.
    pub fn totals(&self, now: Instant) -> Totals {
        Totals {
            unknown_hellos: self.unknown.lately(now),
            hellos_refused: HELLO_CAUSES.into_iter().zip(self.hellos_refused).collect(),
            redeliveries: self.redeliveries,
            waits: self.waits.clone(),
            gone: self.gone.iter().map(|(key, figures)| (key.clone(), figures.clone())).collect(),
            is_out_of_descriptors: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_exposed_counts_for_its_key_once_its_last_user_is_gone() {
        let key: Name = "office".parse().expect("a name");
        let mut tally = Tally::default();
        let id = tally.open(Some(key.clone())).expect("it can be named");
        tally.user_came(id);
        tally.user_stays(id);
        tally.close(id);
        assert!(tally.figures(id).is_some_and(|figures| figures.peak == 1) && tally.gone.is_empty());
        let traffic = Traffic { received: 3, sent: 4 };
        tally.user_gone(id, Outcome::Refused(Cause::Left), traffic);
        assert!(tally.figures(id).is_none());
        let gone = tally.gone.get(&key).expect("it counts there");
        assert_eq!((gone.users, gone.total, gone.refused[Cause::Left as usize]), (0, 1, 1));
        assert_eq!(gone.traffic, traffic);
    }

    #[test]
    fn what_the_operator_named_is_forgotten_with_its_name_and_its_slot_is_used_again() {
        let mut tally = Tally::default();
        let id = tally.open(None).expect("it can be named");
        tally.close(id);
        assert!(tally.figures(id).is_none() && tally.gone.is_empty());
        assert_eq!(tally.open(None), Some(id));
    }

    #[test]
    fn hellos_with_an_unknown_key_are_told_of_for_ten_minutes() {
        let (now, peer) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 1)));
        let mut tally = Tally::default();
        let fact = |reason| Fact::NotAdmitted { peer, reason };
        for minute in 0..12 {
            tally.take(&fact(CloseReason::UnknownKey), now + MINUTE * minute);
        }
        let lately = |after| tally.totals(now + MINUTE * after).unknown_hellos;
        assert_eq!(lately(11), Some((10, peer)));
        assert_eq!(lately(15), Some((6, peer)));
        assert_eq!(lately(21), None);
        tally.take(&fact(CloseReason::Stranger(HandshakeError::Unproved)), now + MINUTE * 500);
        assert_eq!(tally.totals(now + MINUTE * 500).unknown_hellos, Some((1, peer)));
        assert_eq!(tally.totals(now).hellos_refused[0], ("unknown_key", 13));
    }
}
