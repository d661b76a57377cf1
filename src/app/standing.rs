//! How the process stands, in one line for those who look from outside. It follows from facts alone.

use std::fmt::{self, Write};

use crate::base::id::ConnId;
use crate::base::name::Name;
use crate::base::sorted::Map;
use crate::machine::Fact;

/// What is known of either side.
enum Role {
    Server { clients: usize },
    Client(Client),
}

/// What is known of a client.
struct Client {
    server: String,
    link: Link,
    /// Publications of the configuration.
    asked: usize,
    /// Those that were answered; the reason where one was denied.
    answers: Map<Name, Option<String>>,
    /// Those that fail, and why. A server names no failing service here: its facts do not tell when a publication that
    /// fails is no more.
    failing: Map<Name, String>,
}

/// A client's connection to its server.
#[derive(PartialEq)]
enum Link {
    Connecting,
    Stands(ConnId),
    Lost(String),
}

/// How the process stands.
pub struct Standing {
    role: Role,
    /// The place and the cause of the last reload that was refused, unless one has held since.
    refused: Option<String>,
    is_stopping: bool,
    is_changed: bool,
}

impl Standing {
    fn of(role: Role) -> Standing {
        Standing { role, refused: None, is_stopping: false, is_changed: false }
    }

    /// A server that no client has come to.
    pub fn of_server() -> Standing {
        Standing::of(Role::Server { clients: 0 })
    }

    /// A client that was not connected yet, with so many publications.
    pub fn of_client(server: String, asked: usize) -> Standing {
        let (answers, failing) = (Map::default(), Map::default());
        Standing::of(Role::Client(Client { server, link: Link::Connecting, asked, answers, failing }))
    }

    /// Takes a fact into account.
    pub fn take(&mut self, fact: &Fact) {
        self.is_changed |= match &mut self.role {
            Role::Server { clients } => match fact {
                Fact::ClientCame { .. } => {
                    *clients += 1;
                    true
                }
                Fact::ClientGone { .. } => {
                    *clients = clients.saturating_sub(1);
                    true
                }
                _ => false,
            },
            Role::Client(client) => client.link.take(fact) || client.take(fact),
        };
    }

    /// A configuration holds; with this fault another one does not.
    pub fn configuration(&mut self, refused: Option<&str>) {
        self.refused = refused.map(str::to_owned);
        self.is_changed = true;
    }

    /// The process ends.
    pub fn stopping(&mut self) {
        self.is_stopping = true;
    }

    /// Whether something has changed since it was said in words.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// What an operator is to know, what is wrong first.
    pub fn in_words(&mut self) -> String {
        self.is_changed = false;
        let mut text = String::from(if self.is_stopping { "stopping; " } else { "" });
        if let Some(refused) = &self.refused {
            text += &format!("configuration refused: {refused}; ");
        }
        // Writing into a text never fails.
        let _ = match &self.role {
            Role::Server { clients: 0 } => write!(text, "no client is connected"),
            Role::Server { clients: 1 } => write!(text, "1 client is connected"),
            Role::Server { clients } => write!(text, "{clients} clients are connected"),
            Role::Client(client) => client.write(&mut text),
        };
        text
    }
}

impl Link {
    fn take(&mut self, fact: &Fact) -> bool {
        // Beside a link that stands another one may end, and attempts to make one may fail.
        let stands = if let Link::Stands(link) = self { Some(*link) } else { None };
        let link = match fact {
            Fact::Connected { link, .. } => Link::Stands(*link),
            Fact::ServerBack { link, before: Some(before), .. } if stands == Some(*before) => {
                Link::Stands(*link)
            }
            Fact::LinkLost { link, reason, .. } if stands == Some(*link) => Link::Lost(reason.to_string()),
            _ if stands.is_some() => return false,
            Fact::ServerUnreachable { reason, .. } | Fact::NotWelcomed { reason, .. } => {
                Link::Lost(reason.to_string())
            }
            Fact::ServerUnproved { .. } => Link::Lost("it did not answer the handshake".to_owned()),
            Fact::Refused { refusal } => Link::Lost(refusal.to_string()),
            _ => return false,
        };
        std::mem::replace(self, link) != *self
    }
}

impl Client {
    fn take(&mut self, fact: &Fact) -> bool {
        match fact {
            Fact::Granted { service, .. } => self.answers.insert(service.clone(), None) != Some(None),
            Fact::Denied { service, reason, .. } => {
                let reason = Some(reason.to_string());
                self.answers.insert(service.clone(), reason.clone()) != Some(reason)
            }
            Fact::ServiceFails { service, reason, .. } => {
                let reason = reason.to_string();
                self.failing.insert(service.clone(), reason.clone()) != Some(reason)
            }
            Fact::ServiceProved { service, .. } => self.failing.remove(service).is_some(),
            Fact::ClientReloaded { difference, .. } => {
                let anew = difference.asked_anew.iter().map(|it| &it.name);
                for name in difference.removed.iter().chain(anew) {
                    self.answers.remove(name);
                    self.failing.remove(name);
                }
                // Nothing is known of where their users go now.
                difference.changed.iter().for_each(|it| drop(self.failing.remove(&it.name)));
                self.asked = (self.asked + difference.added.len()).saturating_sub(difference.removed.len());
                true
            }
            _ => false,
        }
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let server = &self.server;
        match &self.link {
            Link::Connecting => write!(text, "connecting to {server}"),
            Link::Lost(reason) => write!(text, "not connected to {server}: {reason}"),
            Link::Stands(_) => {
                if let Some((service, reason)) = self.failing.iter().next() {
                    write!(text, "{service}: failing: {reason}")?;
                    match self.failing.len() - 1 {
                        0 => text.push_str("; "),
                        more => write!(text, ", and {more} more; ")?,
                    }
                }
                let denied = self.answers.iter().find_map(|(name, reason)| Some((name, reason.as_ref()?)));
                if let Some((name, reason)) = denied {
                    write!(text, "{name}: denied: {reason}; ")?;
                }
                let granted = self.answers.values().filter(|reason| reason.is_none()).count();
                write!(text, "connected to {server}, {granted} of {} publications granted", self.asked)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::address::HostPort;
    use crate::machine::{CloseReason, Reason};
    use crate::wire::control::Denial;

    #[test]
    fn a_server_says_how_many_clients_it_has() {
        let mut standing = Standing::of_server();
        let (link, key) = (ConnId::new(1, 1).expect("it can be named"), "office".parse().expect("a name"));
        let came = Fact::ClientCame { link, key, peer: ([192, 0, 2, 1], 1).into() };
        assert_eq!(standing.in_words(), "no client is connected");
        standing.take(&came);
        assert!(standing.is_changed());
        assert_eq!(standing.in_words(), "1 client is connected");
        assert!(!standing.is_changed());
    }

    #[test]
    fn a_client_says_whether_it_is_connected_and_what_was_denied() {
        let mut standing = Standing::of_client("gw:1".into(), 2);
        let server = HostPort { host: "gw".into(), port: 1 };
        let (link, key) = (ConnId::new(1, 1).expect("it can be named"), "office".parse().expect("a name"));
        let address = ([192, 0, 2, 1], 1).into();
        standing.take(&Fact::Connected { link, server: server.clone(), address, key });
        assert_eq!(standing.in_words(), "connected to gw:1, 0 of 2 publications granted");
        let service = |text: &str| text.parse().expect("a name");
        let local = server.clone();
        standing.take(&Fact::Granted { service: service("a"), addresses: Vec::new(), local });
        standing.take(&Fact::Denied { service: service("b"), reason: Denial::Policy, withdrawn: false });
        let words = standing.in_words();
        assert!(
            words.starts_with("b: denied: ") && words.ends_with(", 1 of 2 publications granted"),
            "{words}"
        );
        let fails = |service| Fact::ServiceFails { service, client: None, reason: Reason::LocalRefused };
        standing.take(&fails(service("a")));
        standing.take(&fails(service("c")));
        let words = standing.in_words();
        let failing = "a: failing: local server refuses connections, and 1 more; b: denied: ";
        assert!(words.starts_with(failing), "{words}");
        standing.take(&Fact::ServiceProved { service: service("a"), client: None });
        assert!(standing.in_words().starts_with("c: failing: local server refuses connections; b: "));
        standing.take(&Fact::LinkLost { link, server: server.clone(), reason: CloseReason::HeartbeatLost });
        standing.configuration(Some("file:1:1: nothing"));
        assert_eq!(
            standing.in_words(),
            "configuration refused: file:1:1: nothing; not connected to gw:1: heartbeat lost"
        );
    }

    #[test]
    fn what_ends_beside_the_link_that_stands_does_not_disconnect() {
        let mut standing = Standing::of_client("gw:1".into(), 0);
        let server = HostPort { host: "gw".into(), port: 1 };
        let [old, new] = [1, 2].map(|number| ConnId::new(number, 1).expect("it can be named"));
        let lost = |link| Fact::LinkLost { link, server: server.clone(), reason: CloseReason::HeartbeatLost };
        for link in [old, new] {
            let (address, key) = (([192, 0, 2, 1], 1).into(), "office".parse().expect("a name"));
            standing.take(&Fact::Connected { link, server: server.clone(), address, key });
        }
        let reason = CloseReason::HandshakeTimedOut;
        for fact in [
            lost(old),
            Fact::ServerUnproved { server: server.clone(), key: "office".parse().expect("a name"), reason },
            Fact::NotWelcomed { server: server.clone(), reason },
            Fact::ServerUnreachable { server: server.clone(), reason },
        ] {
            standing.take(&fact);
            assert_eq!(standing.in_words(), "connected to gw:1, 0 of 0 publications granted", "{fact:?}");
        }
        let newer = ConnId::new(3, 1).expect("it can be named");
        let (before, address, silence) = (Some(new), ([192, 0, 2, 1], 1).into(), Duration::from_secs(10));
        standing.take(&Fact::ServerBack { link: newer, before, address, silence });
        standing.take(&lost(new));
        assert_eq!(standing.in_words(), "connected to gw:1, 0 of 0 publications granted");
        standing.take(&lost(newer));
        assert_eq!(standing.in_words(), "not connected to gw:1: heartbeat lost");
    }

    #[test]
    fn a_server_that_stays_away_for_one_reason_is_one_change() {
        let mut standing = Standing::of_client("gw:1".into(), 0);
        let server = HostPort { host: "gw".into(), port: 1 };
        let mut changes = |reason| {
            standing.take(&Fact::ServerUnreachable { server: server.clone(), reason });
            let is_changed = standing.is_changed();
            standing.in_words();
            is_changed
        };
        let refused = CloseReason::DialFailed(std::io::ErrorKind::ConnectionRefused.into());
        let reasons = [refused, refused, CloseReason::HandshakeTimedOut];
        assert_eq!(reasons.map(&mut changes), [true, false, true]);
    }
}
