//! Names to addresses, off the loop: getaddrinfo(3) blocks, so each name that is asked for has a short-lived
//! thread, and a slow lookup delays no other. The machine asks for a name again only after its answer.

use std::sync::Arc;

use dns_lookup::{AddrInfoHints, LookupErrorKind, SockType, getaddrinfo};

use super::thread;
use crate::base::address::HostPort;
use crate::base::id::NameId;
use crate::base::mailbox::Mailbox;
use crate::machine::Lookup;

/// Most addresses that are tried for one name.
const ADDRESSES_MAX: usize = 16;
/// getaddrinfo(3) needs more than the smallest stack, and less than the usual one.
const STACK_BYTES: usize = 256 * 1024;

type Answer = (NameId, Lookup);

/// What the errors of lookups begin with, which says nothing.
const ERROR_PREFIX: &str = "failed to lookup address information: ";

/// The queue of answers.
pub struct Resolver {
    answers: Arc<Mailbox<Vec<Answer>>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Resolver {
    /// `wake` is called after each answer.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Resolver {
        Resolver { answers: Arc::default(), wake: Arc::new(wake) }
    }

    /// Asks for a name. There is an answer in any case.
    pub fn ask(&self, id: NameId, name: HostPort) {
        let (answers, wake) = (self.answers.clone(), self.wake.clone());
        let resolve = move || {
            let lookup = look_up(&name);
            answers.leave(|answers| answers.push((id, lookup)));
            wake();
        };
        if let Err(error) = thread::start("resolver", STACK_BYTES, resolve) {
            let lookup = Lookup::Failed(format!("no thread: {error}").into());
            self.answers.leave(|answers| answers.push((id, lookup)));
            (self.wake)();
        }
    }

    /// The answers that have come.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.take()
    }
}

fn look_up(name: &HostPort) -> Lookup {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..AddrInfoHints::default() };
    let found = match getaddrinfo(Some(&name.host), None, Some(hints)) {
        Ok(found) => found,
        Err(error) => {
            return match error.kind() {
                LookupErrorKind::NoName | LookupErrorKind::NoData => Lookup::NoSuchName,
                _ => {
                    let text = std::io::Error::from(error).to_string();
                    Lookup::Failed(text.strip_prefix(ERROR_PREFIX).unwrap_or(&text).into())
                }
            };
        }
    };
    let mut addresses: Vec<_> = found.flatten().map(|found| found.sockaddr).take(ADDRESSES_MAX).collect();
    addresses.iter_mut().for_each(|address| address.set_port(name.port));
    if addresses.is_empty() { Lookup::NoSuchName } else { Lookup::Found(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn every_question_is_answered() {
        let (woken, wakes) = channel();
        let resolver = Resolver::new(move || {
            let _ = woken.send(());
        });
        let mut answers = [None, None];
        for (slot, host) in ["localhost", "no-such-name.invalid"].into_iter().enumerate() {
            let id = NameId::new(slot as u32, 1).expect("it can be named");
            resolver.ask(id, HostPort { host: host.into(), port: 80 });
        }
        for _ in 0..2 {
            wakes.recv_timeout(Duration::from_secs(60)).expect("an answer");
            for (id, lookup) in resolver.answers() {
                answers[id.index()] = Some(lookup);
            }
        }
        let Some(Lookup::Found(found)) = &answers[0] else { panic!("{answers:?}") };
        assert!(found.iter().all(|at| at.ip().is_loopback() && at.port() == 80), "{found:?}");
        // Without a name server nobody can say that it does not exist.
        assert!(matches!(answers[1], Some(Lookup::NoSuchName | Lookup::Failed(_))), "{answers:?}");
    }
}
