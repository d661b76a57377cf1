//! The ways in for those who look, as the operator wants them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use log::Level;

use super::exchange::Door;
use super::socket::{self, Place, SocketError, SocketFile};
use crate::app::{in_use, journal};
use crate::base::address::Listen;
use crate::config::file::{Running, metrics_address};
use crate::config::options::Side;
use crate::reactor::world::inherited::Inherited;

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

    /// Opens the TCP listener, unless it was handed over or is open already.
    pub fn open_metrics(
        &self,
        open: Option<&Ways>,
        handed_over: Option<TcpListener>,
    ) -> Result<Door<TcpListener>, WayError> {
        match self.metrics {
            metrics if open.is_some_and(|open| open.metrics == metrics) => Ok(Door::Same),
            None => Ok(Door::Closed),
            Some(address) => {
                let listener = listen(address, handed_over);
                Ok(Door::New(listener.map_err(|error| WayError::Metrics(address, error))?))
            }
        }
    }

    /// Makes the unix socket, unless it is open already.
    pub fn open_socket(
        &self,
        open: Option<&Ways>,
    ) -> Result<(Door<UnixListener>, Option<SocketFile>), WayError> {
        if open.is_some_and(|open| open.socket == self.socket) {
            return Ok((Door::Same, None));
        }
        match socket::open(self.role, &self.socket) {
            Ok(Some((listener, made))) => Ok((Door::New(listener), Some(made))),
            Ok(None) => Ok((Door::Closed, None)),
            Err(failed) if failed.is_named => Err(WayError::Socket(failed)),
            Err(SocketError { path, error, .. }) => {
                let path = path.display();
                log::debug!(
                    "no socket {path} for 'skyorg status': {error}; --status PATH makes one elsewhere"
                );
                Ok((Door::Closed, None))
            }
        }
    }
}

fn listen(address: SocketAddr, handed_over: Option<TcpListener>) -> io::Result<TcpListener> {
    let listener = match handed_over {
        Some(listener) => listener,
        None => TcpListener::bind(address)?,
    };
    listener.set_nonblocking(true)?;
    let at = listener.local_addr()?;
    journal::tell(Level::Info, format_args!("metrics: http://{at}/"), "metrics", &|json| {
        json.key("address").shown(&at);
    });
    Ok(listener)
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
        let Ok(Door::New(listener)) = first.open_metrics(None, None) else { panic!("it is new") };
        assert!(matches!(first.open_metrics(Some(&first), None), Ok(Door::Same)));
        let taken = ways(&listener.local_addr().expect("bound").to_string());
        assert!(matches!(taken.open_metrics(Some(&first), None), Err(WayError::Metrics(..))));
        let without = Ways { metrics: None, ..first.clone() };
        assert!(matches!(without.open_metrics(Some(&first), None), Ok(Door::Closed)));
    }
}
