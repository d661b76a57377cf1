//! How the process stands, in one line for those who look from outside. It follows from facts alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::base::name::Name;
use crate::machine::Fact;

/// What is known of either side.
enum Role {
    Server {
        clients: usize,
    },
    Client {
        server: String,
        link: Link,
        /// Publications of the configuration.
        asked: usize,
        /// Those that were answered; the reason where one was denied.
        answers: BTreeMap<Name, Option<String>>,
    },
}

/// A client's connection to its server.
enum Link {
    Connecting,
    Stands,
    Lost(String),
}

/// How the process stands.
pub struct Standing {
    role: Role,
    /// Services that fail, whose client offers them at a server, and why.
    failing: BTreeMap<(Name, Option<Name>), String>,
    /// The place and the cause of the last reload that was refused, unless one has held since.
    refused: Option<String>,
    is_stopping: bool,
    is_changed: bool,
}

impl Standing {
    fn of(role: Role) -> Standing {
        let failing = BTreeMap::new();
        Standing { role, failing, refused: None, is_stopping: false, is_changed: false }
    }

    /// A server that no client has come to.
    pub fn of_server() -> Standing {
        Standing::of(Role::Server { clients: 0 })
    }

    /// A client that was not connected yet, with so many publications.
    pub fn of_client(server: String, asked: usize) -> Standing {
        let (link, answers) = (Link::Connecting, BTreeMap::new());
        Standing::of(Role::Client { server, link, asked, answers })
    }

    /// Takes a fact into account.
    pub fn take(&mut self, fact: &Fact) {
        let has_changed = match &mut self.role {
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
            Role::Client { link, asked, answers, .. } => {
                take_link(link, fact) || take_answer(asked, answers, fact)
            }
        };
        self.is_changed |= has_changed;
        self.take_failure(fact);
    }

    fn take_failure(&mut self, fact: &Fact) {
        match fact {
            Fact::ServiceFails { service, key, reason } => {
                self.failing.insert((service.clone(), key.clone()), reason.to_string());
            }
            Fact::ServiceProved { service, key } => {
                drop(self.failing.remove(&(service.clone(), key.clone())))
            }
            // What is not offered any more does not fail.
            Fact::ClientGone { key, .. } => self.failing.retain(|(_, of), _| of.as_ref() != Some(key)),
            Fact::Reloaded { difference, .. } => {
                self.failing.retain(|(service, _), _| !difference.services.removed.contains(service));
            }
            Fact::Unpublished { service } => self.failing.retain(|(name, _), _| name != service),
            Fact::LinkLost { .. } => self.failing.clear(),
            _ => return,
        }
        self.is_changed = true;
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
        if let Some(((service, key), reason)) = self.failing.first_key_value() {
            let of = key.as_ref().map_or(String::new(), |key| format!(" of client {key}"));
            text += &format!("{service}{of}: failing: {reason}");
            match self.failing.len() - 1 {
                0 => text += "; ",
                more => text += &format!(", and {more} more; "),
            }
        }
        // Writing into a text never fails.
        let _ = match &self.role {
            Role::Server { clients: 0 } => write!(text, "no client is connected"),
            Role::Server { clients: 1 } => write!(text, "1 client is connected"),
            Role::Server { clients } => write!(text, "{clients} clients are connected"),
            Role::Client { server, link: Link::Connecting, .. } => write!(text, "connecting to {server}"),
            Role::Client { server, link: Link::Lost(reason), .. } => {
                write!(text, "not connected to {server}: {reason}")
            }
            Role::Client { server, link: Link::Stands, asked, answers } => {
                let denied = answers.iter().find_map(|(name, reason)| Some((name, reason.as_ref()?)));
                if let Some((name, reason)) = denied {
                    text += &format!("{name}: denied: {reason}; ");
                }
                let granted = answers.values().filter(|reason| reason.is_none()).count();
                write!(text, "connected to {server}, {granted} of {asked} publications granted")
            }
        };
        text
    }
}

fn take_link(link: &mut Link, fact: &Fact) -> bool {
    *link = match fact {
        Fact::Connected { .. } => Link::Stands,
        Fact::LinkLost { reason, .. } | Fact::NotWelcomed { reason, .. } => Link::Lost(reason.to_string()),
        // The link may stand beside an attempt to make a second one.
        Fact::ServerUnreachable { reason, .. } if !matches!(link, Link::Stands) => {
            Link::Lost(reason.to_string())
        }
        Fact::ServerUnproved { .. } => Link::Lost("it did not answer the handshake".to_owned()),
        Fact::Refused { refusal } => Link::Lost(refusal.to_string()),
        _ => return false,
    };
    true
}

fn take_answer(asked: &mut usize, answers: &mut BTreeMap<Name, Option<String>>, fact: &Fact) -> bool {
    match fact {
        Fact::Granted { service, .. } => answers.insert(service.clone(), None) != Some(None),
        Fact::Denied { service, reason, .. } => {
            let reason = Some(reason.to_string());
            answers.insert(service.clone(), reason.clone()) != Some(reason)
        }
        Fact::ClientReloaded { difference, .. } => {
            let gone = difference.removed.iter().chain(difference.asked_anew.iter().map(|it| &it.name));
            gone.for_each(|name| drop(answers.remove(name)));
            *asked = (*asked + difference.added.len()).saturating_sub(difference.removed.len());
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::address::HostPort;
    use crate::base::id::ConnId;
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
        let fails = |service| Fact::ServiceFails { service, key: None, reason: Reason::LocalRefused };
        standing.take(&fails(service("a")));
        standing.take(&fails(service("c")));
        let words = standing.in_words();
        let failing = "a: failing: local server refuses connections, and 1 more; b: denied: ";
        assert!(words.starts_with(failing), "{words}");
        standing.take(&Fact::ServiceProved { service: service("a"), key: None });
        assert!(standing.in_words().starts_with("c: failing: local server refuses connections; b: "));
        standing.take(&Fact::LinkLost { link, server, reason: CloseReason::HeartbeatLost });
        standing.configuration(Some("file:1:1: nothing"));
        assert_eq!(
            standing.in_words(),
            "configuration refused: file:1:1: nothing; not connected to gw:1: heartbeat lost"
        );
    }
}
