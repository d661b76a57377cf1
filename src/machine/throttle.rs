//! How facts whose pace a peer sets are told apart, so that none fills a log and none hides another.

use super::fact::Fact;
use super::words::has_no_port;
use crate::base::name::Name;
use crate::wire::control::Refusal;

/// Clients of one key that come or go, and are told of before the others are counted.
const LINKS_AT_ONCE: u32 = 20;
/// Publications of one key that are told of: a client may have 1,024.
const PUBLICATIONS_AT_ONCE: u32 = 1_100;

/// Clients of one service that are told of, as what they offer fails or is proved again.
const OFFERS_AT_ONCE: u32 = 4;

/// By what a fact is throttled: its cause, whose it is, and how many of both are told before the others are counted.
#[derive(Clone, Copy, Debug)]
pub struct Throttle<'f> {
    /// What happened.
    pub cause: &'static str,
    /// The key or the service that it happened to.
    pub key: Option<&'f Name>,
    /// How many are told at once.
    pub at_once: u32,
}

impl<'f> Throttle<'f> {
    /// How a fact is throttled, where strangers or peers set its pace. `None` if it is told each time.
    pub fn of(fact: &'f Fact) -> Option<Throttle<'f>> {
        let once = |cause, key| Some(Throttle { cause, key, at_once: 1 });
        let some = |cause, key, at_once| Some(Throttle { cause, key: Some(key), at_once });
        let named = |cause, key| Some(Throttle { cause, key, at_once: PUBLICATIONS_AT_ONCE });
        match fact {
            Fact::NotAdmitted { reason, .. } => once(reason.cause(), None),
            // Users of whatever the clients of a key name: no key may hide those of the server's own services.
            Fact::UserShed { exposed_by: Some(key), .. } => once("user of a client's port shed", Some(key)),
            Fact::UserShed { service, .. } => once("user shed", service.as_ref()),
            Fact::UserLeft { exposed_by: Some(key), served, reason, .. }
                if !served || reason.is_refusal() =>
            {
                once("user of a client's port unserved", Some(key))
            }
            Fact::UserLeft { service, reason, .. } if reason.is_refusal() => {
                once(reason.cause(), Some(service))
            }
            Fact::UserLeft { service, served: false, .. } => once("user left unserved", Some(service)),
            Fact::AcceptPaused { fault, .. } if fault.is_exhaustion() => once("accept exhausted", None),
            Fact::AcceptPaused { .. } => once("accept failed", None),
            Fact::NotListening { .. } => once("not listening", None),
            Fact::NotWatched { .. } => once("not watched", None),
            Fact::ClientCame { key, .. } => some("client came", key, LINKS_AT_ONCE),
            Fact::ClientGone { key, .. } => some("client gone", key, LINKS_AT_ONCE),
            Fact::ClientReturned { key, .. } => some("client returned", key, LINKS_AT_ONCE),
            Fact::ClientLeaves { key, .. } => some("client leaves", key, LINKS_AT_ONCE),
            Fact::Published { key, .. } => named("published", Some(key)),
            Fact::Exposed { key, .. } => named("exposed", Some(key)),
            Fact::PortNotOpened { key, .. } => once("port not opened", Some(key)),
            Fact::Granted { .. } => named("granted", None),
            Fact::Denied { .. } => named("denied", None),
            Fact::ClientRefused { key, .. } => once("client refused", Some(key)),
            // The names of these are the client's to make up.
            Fact::PublicationDenied { key, .. } => named("publication denied", Some(key)),
            Fact::ServiceFails { client: Some((key, _)), .. } => named("service fails", Some(key)),
            Fact::ServiceProved { client: Some((key, _)), .. } => named("service proved", Some(key)),
            Fact::TicketsExpired { key, .. } => once("tickets expired", Some(key)),
            Fact::ServerUnreachable { .. } => once("server unreachable", None),
            Fact::NextAttempt { .. } => once("next attempt", None),
            Fact::ServerUnproved { .. } => once("server unproved", None),
            Fact::NotWelcomed { .. } => once("not welcomed", None),
            Fact::Refused { refusal: Refusal::Policy } => once("refused: policy", None),
            Fact::Refused { refusal: Refusal::From } => once("refused: from", None),
            Fact::Refused { refusal: Refusal::Expired } => once("refused: expired", None),
            Fact::Refused { .. } => once("refused", None),
            Fact::Unresolved { purpose, .. } => once(purpose, None),
            Fact::MessageFailed { .. } => once("message failed", None),
            Fact::LocalName { service, fault, .. } => once(fault.cause(), Some(service)),
            Fact::LocalFailed { service, reason, .. } if has_no_port(*reason) => {
                once("no local port", Some(service))
            }
            Fact::LocalFailed { service, .. } => once("local failed", Some(service)),
            Fact::ServiceFails { service, .. } => some("service fails", service, OFFERS_AT_ONCE),
            Fact::ServiceProved { service, .. } => some("service proved", service, OFFERS_AT_ONCE),
            Fact::DialsSlow { .. } => once("dials slow", None),
            Fact::Duplicate { .. } => once("duplicate", None),
            _ => None,
        }
    }
}
