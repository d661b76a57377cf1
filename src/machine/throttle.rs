//! How facts whose pace a peer sets are told apart, so that none fills a log and none hides another.

use crate::base::name::Name;

/// Clients of one key that come or go, and are told of before the others are counted.
pub(super) const LINKS_AT_ONCE: u32 = 20;
/// Publications of one key that are told of: a client may have 1,024.
pub(super) const PUBLICATIONS_AT_ONCE: u32 = 1_100;

/// Clients of one service that are told of, as what they offer fails or is proved again.
pub(super) const OFFERS_AT_ONCE: u32 = 4;

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
