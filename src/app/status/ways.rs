//! The ways in for those who look, as the operator wants them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use log::Level;

use super::exchange::{Door, Doors};
use super::socket::{self, Place, SocketError, SocketFile};
use crate::app::{in_use, journal};
use crate::base::address::Listen;
use crate::config::file::{Running, metrics_address};
use crate::config::options::Side;
use crate::machine::Fact;
use crate::reactor::world::inherited::Inherited;

/// How long an address in use is tried at the start, as those of all other listeners, and how soon again.
const TRY_TIME: Duration = Duration::from_secs(5);
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// The ways in that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways {
    role: Side,
    metrics: Option<SocketAddr>,
    socket: Place,
}

/// A way in that cannot be opened.
#[derive(Debug)]
pub enum WayError {
    /// The TCP listener.
    Metrics(SocketAddr, io::Error),
    /// The unix socket, at a place that was named.
    Socket(SocketError),
}

impl WayError {
    /// The option that wants it.
    pub fn option(&self) -> &'static str {
        match self {
            WayError::Metrics(..) => "metrics",
            WayError::Socket(_) => "status",
        }
    }
}

impl fmt::Display for WayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WayError::Metrics(address, error) => {
                let advice = in_use::Advice(address.port(), error.kind());
                write!(f, "cannot listen on {address} for metrics: {error}{advice}")
            }
            WayError::Socket(SocketError { path, error, .. }) => {
                write!(f, "cannot make the socket {} for 'skyorg status': {error}", path.display())
            }
        }
    }
}

impl Ways {
    /// What a file or a command line says.
    pub fn of(role: Side, running: &Running) -> Ways {
        let metrics = running.metrics.map(metrics_address);
        Ways { role, metrics, socket: Place::of(running.status.as_deref()) }
    }

    /// Whose ways they are.
    pub fn role(&self) -> Side {
        self.role
    }

    /// The TCP listener, if the service manager has opened it.
    pub fn take(&self, inherited: &mut Inherited) -> Option<TcpListener> {
        inherited.take(Listen::At(self.metrics?)).map(|(_, listener)| listener)
    }

    /// Opens those that are not open yet, but for a TCP listener that was handed over. Only at the start, where none is
    /// open, an address in use is waited for.
    pub fn open(
        &self,
        open: Option<&Ways>,
        metrics: Option<TcpListener>,
    ) -> Result<(Doors, Option<SocketFile>), WayError> {
        let mut doors = Doors::default();
        if open.is_none_or(|open| open.metrics != self.metrics) {
            doors.metrics = match self.metrics {
                None => Door::Closed,
                Some(address) => {
                    let patience = if open.is_none() { TRY_TIME } else { Duration::ZERO };
                    let listener = listen(address, metrics, patience);
                    Door::New(listener.map_err(|error| WayError::Metrics(address, error))?)
                }
            };
        }
        let mut file = None;
        if open.is_none_or(|open| open.socket != self.socket) {
            doors.socket = match socket::open(self.role, &self.socket) {
                Ok(Some((listener, made))) => {
                    file = Some(made);
                    Door::New(listener)
                }
                Ok(None) => Door::Closed,
                Err(failed) if failed.is_named => return Err(WayError::Socket(failed)),
                Err(SocketError { path, error, .. }) => {
                    let path = path.display();
                    log::debug!(
                        "no socket {path} for 'skyorg status': {error}; --status PATH makes one elsewhere"
                    );
                    Door::Closed
                }
            };
        }
        Ok((doors, file))
    }
}

fn listen(
    address: SocketAddr,
    handed_over: Option<TcpListener>,
    patience: Duration,
) -> io::Result<TcpListener> {
    let listener = match handed_over {
        Some(listener) => listener,
        None => bind(address, patience)?,
    };
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    journal::tell(Level::Info, format_args!("metrics: http://{at}/"), "metrics", &|json| {
        json.key("address").shown(&at);
    });
    Ok(listener)
}

/// A process before this one gives the address up as it begins to drain, and a connection that goes out from it ends.
fn bind(address: SocketAddr, patience: Duration) -> io::Result<TcpListener> {
    let mut left = patience;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && !left.is_zero() => {
                if left == patience {
                    log::warn!("{}", Fact::AddressInUse { at: Listen::At(address), time: patience });
                }
                thread::sleep(TRY_INTERVAL);
                left = left.saturating_sub(TRY_INTERVAL);
            }
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(metrics: &str) -> Ways {
        let metrics = Some(metrics.parse().expect("a place"));
        let status = Some("none".into());
        Ways::of(Side::Server, &Running { metrics, status, ..Running::default() })
    }

    #[test]
    fn a_port_alone_is_for_this_host_alone() {
        assert_eq!(ways("9100").metrics, Some(([127, 0, 0, 1], 9100).into()));
        assert_eq!(ways("0.0.0.0:9100").metrics, Some(([0, 0, 0, 0], 9100).into()));
    }

    #[test]
    fn what_is_open_is_not_opened_again_and_what_is_taken_is_refused() {
        let first = ways("0");
        let (doors, _) = first.open(None, None).expect("any port");
        let Door::New(listener) = doors.metrics else { panic!("it is new") };
        assert!(matches!(first.open(Some(&first), None).expect("nothing to do").0.metrics, Door::Same));
        let taken = ways(&listener.local_addr().expect("bound").to_string());
        assert!(matches!(taken.open(Some(&first), None), Err(WayError::Metrics(..))));
        let without = Ways { metrics: None, ..first.clone() };
        assert!(matches!(without.open(Some(&first), None).expect("nothing to do").0.metrics, Door::Closed));
    }
}
