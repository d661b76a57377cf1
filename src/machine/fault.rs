//! What the operating system said when a call failed, in few bytes: its number, so that its own text can be told, and
//! what an operator can do about it.

use std::fmt;
use std::io::{self, ErrorKind};

use rustix::io::Errno;

/// An error of the operating system, or of a kind that has no number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The system's number (errno(3)). All of them fit.
    System(u16),
    /// A kind without a number, such as a time that is over.
    Kind(ErrorKind),
    /// The system does not have an option that a socket needs.
    Option {
        /// The option.
        name: &'static str,
        /// The system's number.
        number: u16,
    },
}

/// A socket option that is needed could not be set.
#[derive(Debug)]
pub struct OptionFailed {
    /// The option, as socket(7) or tcp(7) calls it.
    pub name: &'static str,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for OptionFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.error)
    }
}

impl std::error::Error for OptionFailed {}

impl Fault {
    /// The kind, by which decisions are made.
    pub fn kind(self) -> ErrorKind {
        match self {
            Fault::System(number) | Fault::Option { number, .. } => system(number).kind(),
            Fault::Kind(kind) => kind,
        }
    }

    /// What an operator can do about it, where that follows from the error alone.
    pub fn advice(self) -> Option<&'static str> {
        let Fault::System(number) = self else { return None };
        match Errno::from_raw_os_error(number.into()) {
            Errno::MFILE => {
                Some("raise the limit of file descriptors (ulimit -n, or LimitNOFILE= of a systemd unit)")
            }
            Errno::NFILE => Some("raise the system's limit of open files (sysctl fs.file-max)"),
            Errno::NOMEM | Errno::NOBUFS => Some("the system is out of memory for sockets"),
            Errno::AFNOSUPPORT => Some("this system does not have that kind of address"),
            _ => None,
        }
    }

    /// Whether the system has run out of what every new connection takes.
    pub fn is_exhaustion(self) -> bool {
        let Fault::System(number) = self else { return false };
        let errno = Errno::from_raw_os_error(number.into());
        matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
    }
}

fn system(number: u16) -> io::Error {
    io::Error::from_raw_os_error(number.into())
}

fn number(error: &io::Error) -> Option<u16> {
    error.raw_os_error().and_then(|number| number.try_into().ok())
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Fault {
        if let Some(number) = number(error) {
            return Fault::System(number);
        }
        let option = error.get_ref().and_then(|inner| inner.downcast_ref::<OptionFailed>());
        match option.and_then(|option| Some((option.name, number(&option.error)?))) {
            Some((name, number)) => Fault::Option { name, number },
            None => Fault::Kind(error.kind()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::from(&error)
    }
}

impl From<ErrorKind> for Fault {
    fn from(kind: ErrorKind) -> Fault {
        Fault::Kind(kind)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::from(io::Error::from(errno))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::System(number) => write!(f, "{}", system(number)),
            Fault::Kind(kind) => write!(f, "{kind}"),
            Fault::Option { name, number } => write!(f, "{name}: {}", system(number)),
        }
    }
}

/// An error with what can be done about it, where that follows from it.
pub struct Advised(pub Fault);

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_own_text_and_number_are_kept() {
        for errno in [Errno::NETDOWN, Errno::CONNREFUSED, Errno::PROTO, Errno::MFILE] {
            let error = io::Error::from(errno);
            let fault = Fault::from(&error);
            assert_eq!((fault.to_string(), fault.kind()), (error.to_string(), error.kind()));
            assert!(fault.to_string().contains("os error"), "{fault}");
        }
        assert_eq!(Fault::from(ErrorKind::TimedOut).to_string(), "timed out");
    }

    #[test]
    fn an_option_that_is_missing_is_named() {
        let error = io::Error::from(Errno::NOPROTOOPT);
        let failed = io::Error::new(error.kind(), OptionFailed { name: "SO_LINGER", error });
        let fault = Fault::from(&failed);
        assert_eq!(fault.to_string(), failed.to_string());
        assert!(fault.to_string().starts_with("SO_LINGER: Protocol not available (os error"), "{fault}");
    }

    #[test]
    fn advice_follows_from_the_error() {
        assert!(Fault::from(Errno::MFILE).advice().is_some_and(|advice| advice.contains("LimitNOFILE=")));
        assert_eq!(Fault::from(Errno::NETDOWN).advice(), None);
        assert!(Fault::from(Errno::NFILE).is_exhaustion() && !Fault::from(Errno::PERM).is_exhaustion());
    }
}
