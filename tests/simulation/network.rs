//! The reactor's view of the virtual world: the same traits that the product implements over mio.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use skyorg::base::address::{HostPort, Listen};
use skyorg::base::id::{ConnId, ListenerId, NameId};
use skyorg::machine::Lookup;
use skyorg::reactor::world::network::{Accepted, Event, Network, Socket};
use skyorg::reactor::world::tcp_info::TcpInfo;

use super::tcp::{EndId, Host, Listener, Net};

/// Bytes that a virtual pipe takes at once.
const PIPE_BYTES: usize = 48 * 1024;

/// One host's access to the world.
pub struct VirtualNetwork {
    pub net: Rc<RefCell<Net>>,
    pub host: Host,
    pub base: Instant,
    pub address: SocketAddr,
    /// What names lead to.
    pub names: BTreeMap<String, Vec<SocketAddr>>,
    /// Names that were answered. Only for those a name server may fail: nobody could use the others.
    pub answered: BTreeSet<String>,
}

impl Network for VirtualNetwork {
    type Socket = VirtualSocket;
    type Listener = VirtualListener;

    fn now(&mut self) -> Instant {
        self.base + self.net.borrow().now
    }

    fn wall(&mut self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.net.borrow().now
    }

    fn asleep(&mut self) -> Duration {
        Duration::ZERO
    }

    /// Never blocks: notes what was asked, and the world turns the host again when it is due.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        net.take_events(self.host, events);
        let kernel = &mut net.kernels[self.host.index()];
        (kernel.asked, kernel.had_events) = (timeout, !events.is_empty());
        if events.is_empty() && net.rng.f64() < net.shape.spurious {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn listen(&mut self, id: ListenerId, at: Listen) -> io::Result<(VirtualListener, SocketAddr)> {
        let address = match at {
            Listen::At(address) => address,
            Listen::Any(port) => SocketAddr::new(self.address.ip(), port),
        };
        self.open(id.slot(), address)?;
        let (net, slot) = (self.net.clone(), id.slot());
        Ok((VirtualListener { net, host: self.host, address, slot, suspended: false }, address))
    }

    fn suspend(&mut self, listener: &mut VirtualListener) -> io::Result<()> {
        listener.close();
        listener.suspended = true;
        Ok(())
    }

    fn resume(&mut self, listener: &mut VirtualListener) -> io::Result<()> {
        self.open(listener.slot, listener.address)?;
        listener.suspended = false;
        Ok(())
    }

    fn accept(&mut self, listener: &mut VirtualListener) -> io::Result<Accepted<VirtualSocket>> {
        let end = self.net.borrow_mut().accept(listener.address)?;
        let peer = self.net.borrow().ends[end ^ 1].address;
        Ok(Accepted { socket: self.socket(end), peer, asked: listener.address })
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<VirtualSocket> {
        let end = self.net.borrow_mut().connect(self.host, self.address, address);
        Ok(self.socket(end))
    }

    fn register(&mut self, socket: &mut VirtualSocket, id: ConnId) -> io::Result<()> {
        self.net.borrow_mut().register(socket.end, id.slot());
        Ok(())
    }

    fn random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        bytes.iter_mut().for_each(|byte| *byte = net.rng.u8(..));
        Ok(())
    }

    fn resolve(&mut self, name: NameId, host: HostPort) {
        let mut net = self.net.borrow_mut();
        let chance = net.shape.name_failures;
        let fails = self.answered.contains(&*host.host) && net.rng.f64() < chance;
        let leads_to = match host.host.strip_suffix(".lan") {
            Some(name) if net.names_moved => format!("{name}-2.lan"),
            _ => host.host.to_string(),
        };
        let lookup = match self.names.get(&leads_to) {
            _ if fails => Lookup::Failed("the name server is down".into()),
            Some(found) => Lookup::Found(found.clone()),
            None => Lookup::NoSuchName,
        };
        if let Lookup::Found(_) = lookup {
            self.answered.insert(host.host.to_string());
        }
        net.answer_later(self.host, Event::Resolved(name, lookup));
    }
}

/// A listener in the hands of a reactor.
pub struct VirtualListener {
    net: Rc<RefCell<Net>>,
    host: Host,
    address: SocketAddr,
    slot: u32,
    suspended: bool,
}

impl VirtualListener {
    fn close(&mut self) {
        if self.suspended {
            return;
        }
        // A failing test unwinds through here while the world is borrowed.
        let Ok(mut net) = self.net.try_borrow_mut() else { return };
        // After a crash the address may be another's.
        if net.listeners.get(&self.address).is_none_or(|listener| listener.host != self.host) {
            return;
        }
        let backlog = net.listeners.remove(&self.address).map(|listener| listener.backlog);
        backlog.into_iter().flatten().for_each(|end| {
            net.close(end, true);
        });
    }
}

impl Drop for VirtualListener {
    fn drop(&mut self) {
        self.close();
    }
}

impl VirtualNetwork {
    fn open(&self, slot: u32, address: SocketAddr) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        if net.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = Listener { host: self.host, slot, backlog: VecDeque::new(), refuses: None };
        net.listeners.insert(address, listener);
        net.progress += 1;
        Ok(())
    }

    fn socket(&self, end: EndId) -> VirtualSocket {
        VirtualSocket { net: self.net.clone(), end }
    }
}

/// A connection's end in the hands of a reactor.
pub struct VirtualSocket {
    net: Rc<RefCell<Net>>,
    end: EndId,
}

impl Socket for VirtualSocket {
    type Pipe = VecDeque<u8>;

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.net.borrow_mut().read(self.end, out)
    }

    fn write(&mut self, slices: &[IoSlice]) -> io::Result<usize> {
        self.net.borrow_mut().write(self.end, slices)
    }

    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(bytes)])
    }

    fn splice_in(&mut self, pipe: &mut VecDeque<u8>, limit: usize) -> io::Result<usize> {
        assert!(pipe.is_empty(), "a pipe is leased empty");
        {
            let mut net = self.net.borrow_mut();
            let chance = net.shape.splice_errors;
            if net.rng.f64() < chance {
                net.spliced[1] += 1;
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        let mut bytes = vec![0; limit.min(PIPE_BYTES)];
        let count = self.read(&mut bytes)?;
        pipe.extend(&bytes[..count]);
        self.net.borrow_mut().spliced[0] += usize::from(count > 0);
        Ok(count)
    }

    fn splice_out(&mut self, pipe: &mut VecDeque<u8>, held: usize) -> io::Result<usize> {
        assert_eq!(pipe.len(), held, "what a pipe holds is known");
        let (first, second) = pipe.as_slices();
        let count = self.net.borrow_mut().write(self.end, &[IoSlice::new(first), IoSlice::new(second)])?;
        pipe.drain(..count);
        Ok(count)
    }

    fn pipe(&self) -> Option<VecDeque<u8>> {
        let mut net = self.net.borrow_mut();
        let chance = net.shape.accept_errors;
        (net.rng.f64() >= chance).then(VecDeque::new)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.net.borrow_mut().shutdown_write(self.end)
    }

    fn is_connected(&mut self) -> io::Result<bool> {
        self.net.borrow_mut().is_connected(self.end)
    }

    fn take_error(&mut self) -> Option<io::Error> {
        self.net.borrow_mut().take_error(self.end)
    }

    fn tcp_info(&self) -> Option<TcpInfo> {
        Some(self.net.borrow().tcp_info(self.end))
    }

    fn keep_alive(&mut self, _silence: Duration) {}

    fn close(self) {
        self.net.borrow_mut().close(self.end, false);
    }
}

impl Drop for VirtualSocket {
    fn drop(&mut self) {
        // A failing test unwinds through here while the world is borrowed.
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.close(self.end, true);
        }
    }
}
