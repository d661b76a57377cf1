//! What the server knows of a user.

use std::net::SocketAddr;
use std::time::Instant;

use super::services::Refused;
use crate::base::address::PackedAddress;
use crate::base::id::{LinkId, ServiceId};
use crate::wire::control::PublicationNumber;
use crate::wire::frame::{Sid, Start};

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

    /// What a client is told of its session, which begins under this number on this link.
    pub fn start(&mut self, link: LinkId, sid: Sid, publication: PublicationNumber) -> Start {
        let first_sid = match self.first {
            Some((first, sid)) if first == link => sid,
            _ => {
                self.first = Some((link, sid));
                0
            }
        };
        let (user, asked) = (self.peer.into(), self.asked.into());
        Start { sid, first_sid, publication, port_offset: 0, user, asked, number: self.number }
    }
}
