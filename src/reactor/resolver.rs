//! Names to addresses, off the loop: getaddrinfo(3) blocks, so one helper thread asks it, in order.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::config::HostPort;
use crate::machine::NameId;

/// Most addresses that are tried for one name.
const ADDRESSES_MAX: usize = 16;

/// The thread's two queues.
pub struct Resolver {
    names: Vec<HostPort>,
    questions: Sender<(NameId, HostPort)>,
    answers: Receiver<(NameId, Vec<SocketAddr>)>,
}

impl Resolver {
    /// Starts the thread; `wake` is called after each answer. `names` are what a [`NameId`] counts.
    pub fn new(names: Vec<HostPort>, wake: impl Fn() + Send + 'static) -> io::Result<Resolver> {
        let (questions, asked) = channel::<(NameId, HostPort)>();
        let (answer, answers) = channel();
        thread::Builder::new().name("resolver".into()).stack_size(256 * 1024).spawn(move || {
            // Ends when the reactor, and with it the other end of either queue, is gone.
            for (id, name) in asked {
                let addresses = (name.host.as_str(), name.port).to_socket_addrs();
                let addresses = addresses.map_or(Vec::new(), |found| found.take(ADDRESSES_MAX).collect());
                if answer.send((id, addresses)).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Resolver { names, questions, answers })
    }

    /// Asks for a name.
    pub fn ask(&self, id: NameId) {
        if let Some(name) = self.names.get(id.0) {
            // The thread ends only with the queue: sending cannot fail while `self` lives.
            let _ = self.questions.send((id, name.clone()));
        }
    }

    /// The next answer, if there is one.
    pub fn answer(&self) -> Option<(NameId, Vec<SocketAddr>)> {
        self.answers.try_recv().ok()
    }
}
