//! What the operating system said when a call failed, in few bytes: its number, so that its own text can be told, and
//! what an operator can do about it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::num::NonZeroU16;

use rustix::io::Errno;

/// An error of the operating system, or of a kind that has no number there. Each connection has room for some of them,
/// so it is two bytes: a number (errno(3)) below [`NUMBERS`], with the option that it is about above that; or, from
/// [`FIRST_KIND`], a kind of [`KINDS`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault(NonZeroU16);

/// The system's numbers are smaller (Linux: MAX_ERRNO).
const NUMBERS: u16 = 4096;
const FIRST_KIND: u16 = 0x8000;

/// Kinds that occur without a number: a time that is over, what our own code finds, and what a test's network says.
const KINDS: [ErrorKind; 12] = [
    ErrorKind::Other,
    ErrorKind::TimedOut,
    ErrorKind::InvalidData,
    ErrorKind::UnexpectedEof,
    ErrorKind::WriteZero,
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::BrokenPipe,
    ErrorKind::NotConnected,
    ErrorKind::AddrInUse,
    ErrorKind::AddrNotAvailable,
    ErrorKind::PermissionDenied,
];

/// What a fault is, unpacked.
enum Unpacked {
    System(u16),
    /// The system does not have an option that a socket needs, and said this number.
    Option(Needed, u16),
    Kind(ErrorKind),
}

/// A socket option without which a socket is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Closing sends RST (socket(7)).
    Linger,
    /// Whether a listener takes IPv4, too (ipv6(7)).
    V6Only,
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Needed::Linger => "SO_LINGER",
            Needed::V6Only => "IPV6_V6ONLY",
        })
    }
}

/// A socket option that is needed could not be set.
#[derive(Debug)]
pub struct OptionFailed {
    /// The option.
    pub option: Needed,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for OptionFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.option, self.error)
    }
}

impl std::error::Error for OptionFailed {}

impl Fault {
    /// The system's error of this number.
    pub const fn of_number(number: u16) -> Fault {
        Fault::pack(if number < NUMBERS { number } else { 0 })
    }

    const fn pack(packed: u16) -> Fault {
        match NonZeroU16::new(packed) {
            Some(packed) => Fault(packed),
            None => Fault(NonZeroU16::MIN),
        }
    }

    fn unpack(self) -> Unpacked {
        let Fault(packed) = self;
        let (above, number) = (packed.get() / NUMBERS, packed.get() % NUMBERS);
        match above {
            0 => Unpacked::System(number),
            1 => Unpacked::Option(Needed::Linger, number),
            2 => Unpacked::Option(Needed::V6Only, number),
            _ => Unpacked::Kind(KINDS.get(usize::from(number)).copied().unwrap_or(ErrorKind::Other)),
        }
    }

    /// The kind, by which decisions are made.
    pub fn kind(self) -> ErrorKind {
        match self.unpack() {
            Unpacked::System(number) | Unpacked::Option(_, number) => system(number).kind(),
            Unpacked::Kind(kind) => kind,
        }
    }

    fn errno(self) -> Option<Errno> {
        match self.unpack() {
            Unpacked::System(number) => Some(Errno::from_raw_os_error(number.into())),
            _ => None,
        }
    }

    /// What an operator can do about it, where that follows from the error alone.
    pub fn advice(self) -> Option<&'static str> {
        match self.errno()? {
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
        matches!(self.errno(), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
    }
}

fn system(number: u16) -> io::Error {
    io::Error::from_raw_os_error(number.into())
}

fn number(error: &io::Error) -> Option<u16> {
    error.raw_os_error().and_then(|number| number.try_into().ok()).filter(|&number| number < NUMBERS)
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Fault {
        if let Some(number) = number(error) {
            return Fault::of_number(number);
        }
        let failed = error.get_ref().and_then(|inner| inner.downcast_ref::<OptionFailed>());
        match failed.and_then(|failed| Some((failed.option, number(&failed.error)?))) {
            Some((Needed::Linger, number)) => Fault::pack(NUMBERS + number),
            Some((Needed::V6Only, number)) => Fault::pack(2 * NUMBERS + number),
            None => error.kind().into(),
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
        let place = KINDS.iter().position(|&known| known == kind).unwrap_or(0);
        Fault::pack(FIRST_KIND + place as u16)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Fault {
        Fault::from(io::Error::from(errno))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unpack() {
            Unpacked::System(number) => write!(f, "{}", system(number)),
            Unpacked::Kind(kind) => write!(f, "{kind}"),
            Unpacked::Option(option, number) => write!(f, "{option}: {}", system(number)),
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
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
        let failed = io::Error::new(error.kind(), OptionFailed { option: Needed::Linger, error });
        let fault = Fault::from(&failed);
        assert_eq!(fault.to_string(), failed.to_string());
        assert!(fault.to_string().starts_with("SO_LINGER: Protocol not available (os error"), "{fault}");
    }

    /// Each connection holds some.
    #[test]
    fn it_takes_little_memory() {
        assert_eq!((size_of::<Fault>(), size_of::<crate::machine::CloseReason>()), (2, 4));
        assert!(KINDS.iter().all(|&kind| Fault::from(kind).kind() == kind));
    }

    #[test]
    fn advice_follows_from_the_error() {
        assert!(Fault::from(Errno::MFILE).advice().is_some_and(|advice| advice.contains("LimitNOFILE=")));
        assert_eq!(Fault::from(Errno::NETDOWN).advice(), None);
        assert!(Fault::from(Errno::NFILE).is_exhaustion() && !Fault::from(Errno::PERM).is_exhaustion());
    }
}
