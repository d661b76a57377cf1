//! What the server knows of a user.

use std::net::SocketAddr;
use std::time::Instant;

use super::services::Refused;
use crate::base::address::PackedAddress;
use crate::base::id::{LinkId, ServiceId};
use crate::wire::frame::Sid;

/// A user.
pub(super) struct User {
    pub service: ServiceId,
    peer: PackedAddress,
    asked: PackedAddress,
    pub since: Instant,
    /// Its number in the logs of both sides.
    pub number: u64,
    /// The link that its session was sent to, and its first number there.
    pub first: Option<(LinkId, Sid)>,
    /// It may go to no other link than `first`: bytes of it were sent.
    pub tied: bool,
    pub refused: Option<Refused>,
}

impl User {
    pub fn new(service: ServiceId, peer: SocketAddr, asked: SocketAddr, since: Instant, number: u64) -> User {
        let (peer, asked) = (peer.into(), asked.into());
        User { service, peer, asked, since, number, first: None, tied: false, refused: None }
    }

    /// Where it comes from.
    pub fn peer(&self) -> SocketAddr {
        self.peer.into()
    }

    /// The address that it connected to.
    pub fn asked(&self) -> SocketAddr {
        self.asked.into()
    }

    /// The number under which its bytes were sent to this link before; 0 if they were not.
    pub fn first_sid(&self, link: LinkId) -> Sid {
        match self.first {
            Some((first, sid)) if first == link => sid,
            _ => 0,
        }
    }
}
