//! Control connections that have proved a key, from the answer to their end.

use std::net::SocketAddr;
use std::time::Instant;

use crate::base::id::{ConnId, HolderId, LinkId, kind};
use crate::base::name::Name;
use crate::base::table::Table;
use crate::wire::control::{Hello, Refusal, VERSIONS};
use crate::wire::handshake::{KeyId, Secret};

/// A proved control connection.
pub(super) struct Control {
    pub peer: SocketAddr,
    pub key: Name,
    pub holder: HolderId,
    /// When its first flight was answered.
    pub answered: Instant,
    pub stage: Stage,
    /// In whose place it came, until its client has closed that one.
    former: Option<ConnId>,
}

/// How far a control connection has come.
pub(super) enum Stage {
    /// Its Hello is awaited; with the id and the pool key of the link that may begin.
    Proved(KeyId, Secret),
    /// It is the head of a link.
    Linked(LinkId),
    /// It closes, and is not listened to.
    Closing,
}

/// All of them.
#[derive(Default)]
pub(super) struct Controls(Table<kind::Connection, Control>);

impl Controls {
    pub fn add(
        &mut self,
        id: ConnId,
        peer: SocketAddr,
        (holder, key): (HolderId, Name),
        (wire_id, pool_key): (KeyId, Secret),
        now: Instant,
    ) {
        let stage = Stage::Proved(wire_id, pool_key);
        self.0.insert(id, Control { peer, key, holder, answered: now, stage, former: None });
    }

    pub fn get(&self, id: ConnId) -> Option<&Control> {
        self.0.get(id)
    }

    /// The link that it is the head of.
    pub fn link(&self, id: ConnId) -> Option<LinkId> {
        match self.get(id)?.stage {
            Stage::Linked(link) => Some(link),
            Stage::Proved(..) | Stage::Closing => None,
        }
    }

    /// It was answered; false if it is no control connection.
    pub fn answered(&mut self, id: ConnId, now: Instant) -> bool {
        let control = self.0.get_mut(id);
        control.map(|control| control.answered = now).is_some()
    }

    /// It is the head of a link.
    pub fn linked(&mut self, id: ConnId, link: LinkId) {
        if let Some(control) = self.0.get_mut(id) {
            control.stage = Stage::Linked(link);
        }
    }

    /// It takes the place of another one as the head of a link. That one is not listened to any more. Returns the one
    /// in whose place that had come.
    pub fn take_place(&mut self, id: ConnId, before: ConnId) -> Option<ConnId> {
        let link = self.closing(before)?;
        let older = self.0.get_mut(before).and_then(|before| before.former.take());
        if let Some(control) = self.0.get_mut(id) {
            (control.stage, control.former) = (Stage::Linked(link), Some(before));
        }
        older
    }

    /// It is not listened to any more; returns its link, if it was the head of one.
    pub fn closing(&mut self, id: ConnId) -> Option<LinkId> {
        match std::mem::replace(&mut self.0.get_mut(id)?.stage, Stage::Closing) {
            Stage::Linked(link) => Some(link),
            Stage::Proved(..) | Stage::Closing => None,
        }
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Control> {
        self.0.remove(id)
    }
}

/// The version that both ends speak, unless they cannot work together. `plain` is the server's.
pub(super) fn version(hello: &Hello, plain: bool) -> Result<u16, Refusal> {
    let version = VERSIONS.common(hello.versions).ok_or(Refusal::Versions(VERSIONS))?;
    if hello.capabilities.is_plain() == plain { Ok(version) } else { Err(Refusal::Plain(plain)) }
}
