//! Names to addresses, off the loop: getaddrinfo(3) blocks, so each name that is asked for has a short-lived
//! thread, and a slow lookup delays no other. The machine asks for a name again only after its answer.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::base::address::HostPort;
use crate::base::id::NameId;

/// Most addresses that are tried for one name.
const ADDRESSES_MAX: usize = 16;
/// getaddrinfo(3) needs more than the smallest stack, and less than the usual one.
const STACK_BYTES: usize = 256 * 1024;

type Answer = (NameId, Vec<SocketAddr>);

/// The queue of answers.
pub struct Resolver {
    answer: Sender<Answer>,
    answers: Receiver<Answer>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Resolver {
    /// `wake` is called after each answer.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Resolver {
        let (answer, answers) = channel();
        Resolver { answer, answers, wake: Arc::new(wake) }
    }

    /// Asks for a name. There is an answer in any case: no addresses if it cannot be resolved.
    pub fn ask(&self, id: NameId, name: HostPort) {
        let (answer, wake) = (self.answer.clone(), self.wake.clone());
        let resolve = move || {
            let found = (&*name.host, name.port).to_socket_addrs();
            // If the reactor is gone, the answer is not needed.
            let _ = answer.send((id, found.map_or(Vec::new(), |found| found.take(ADDRESSES_MAX).collect())));
            wake();
        };
        if thread::Builder::new().name("resolver".into()).stack_size(STACK_BYTES).spawn(resolve).is_err() {
            let _ = self.answer.send((id, Vec::new()));
            (self.wake)();
        }
    }

    /// The next answer, if there is one.
    pub fn answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            while let Some((id, addresses)) = resolver.answer() {
                answers[id.index()] = Some(addresses);
            }
        }
        assert!(answers[0].as_ref().is_some_and(|found| found.iter().all(|at| at.ip().is_loopback())));
        assert_eq!(answers[1], Some(Vec::new()));
    }
}
