//! What a client may ask for, and what it gets: publications.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Fields, MAPPED_IP_BYTES, extension, mapped};
use crate::base::name::Name;
pub use crate::base::ports::Ports;

/// A publication's number: the client counts from 1, and uses none twice on a link.
pub type PublicationNumber = u32;

/// What a client asks for with a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The service of this name, wherever the server has its users connect.
    Service,
    /// Any one port.
    AnyPort,
    /// These ports, all or none.
    Ports(Ports),
}

/// What users' traffic travels over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transports {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Both.
    Both,
}

/// A client's offer to serve a service or ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Its number.
    pub number: PublicationNumber,
    /// The service, or the name of what is exposed.
    pub name: Name,
    /// What is asked for.
    pub want: Want,
    /// Over what.
    pub transports: Transports,
    /// How long the client tries to connect to its local server, names included. Whole milliseconds.
    pub dial_time: Duration,
    /// Whether other clients with the same key may serve the same ports.
    pub share: bool,
    /// Whether the server may prove it by probes, where no user does.
    pub probe: bool,
}

impl Publish {
    /// Whether this one asks for the same as that one, be it with other options.
    pub fn changes(&self, standing: &Publish) -> bool {
        let asked = |it: &Publish| (it.number, it.want, it.transports);
        asked(self) == asked(standing) && self.name == standing.name
    }
}

/// Where users of a publication connect: one address, and one or more ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedAddress {
    /// The address; unspecified if all interfaces.
    pub ip: IpAddr,
    /// The ports.
    pub ports: Ports,
}

/// The code of the one reason that something follows.
const ALREADY_PUBLISHED_BY: u8 = 6;

/// Why a publication is not to be had, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The server has no such service.
    UnknownService,
    /// The key may not.
    Policy,
    /// The port belongs to another program or client.
    PortTaken,
    /// There are as many as may be.
    Limit,
    /// Another client, or this one, has it already.
    AlreadyPublished,
    /// The client at this address has it already.
    AlreadyPublishedBy(SocketAddr),
    /// A reason that this version does not know.
    Other(u8),
}

impl Denial {
    const KNOWN: [Denial; 5] =
        [Self::UnknownService, Self::Policy, Self::PortTaken, Self::Limit, Self::AlreadyPublished];

    pub(super) fn code(self) -> u8 {
        match self {
            Self::UnknownService => 1,
            Self::Policy => 2,
            Self::PortTaken => 3,
            Self::Limit => 4,
            Self::AlreadyPublished => 5,
            Self::AlreadyPublishedBy(_) => ALREADY_PUBLISHED_BY,
            Self::Other(code) => code,
        }
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.push(self.code());
        if let Self::AlreadyPublishedBy(address) = self {
            out.extend(mapped(address.ip()));
            out.extend(address.port().to_be_bytes());
        }
    }

    pub(super) fn read(fields: &mut Fields) -> Option<Denial> {
        match fields.u8()? {
            ALREADY_PUBLISHED_BY => {
                let ip = IpAddr::from(fields.array::<MAPPED_IP_BYTES>()?).to_canonical();
                Some(Self::AlreadyPublishedBy((ip, fields.u16()?).into()))
            }
            code => Some(Denial::from_code(code)),
        }
    }

    pub(super) fn from_code(code: u8) -> Denial {
        Denial::KNOWN.into_iter().find(|known| known.code() == code).unwrap_or(Denial::Other(code))
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownService => f.write_str("unknown service"),
            Self::Policy => f.write_str("policy"),
            Self::PortTaken => f.write_str("port taken"),
            Self::Limit => f.write_str("limit"),
            Self::AlreadyPublished => f.write_str("already published"),
            Self::AlreadyPublishedBy(address) => write!(f, "already published by {address}"),
            Self::Other(code) => write!(f, "reason {code}, which this version does not know"),
        }
    }
}

/// The extension of Publish that has its options, a bit each. It is left out where there are none.
const OPTIONS: u16 = 1;
const SHARE: u8 = 1;
const NO_PROBE: u8 = 2;

pub(super) fn put_options(out: &mut Vec<u8>, publish: &Publish) {
    let bits = u8::from(publish.share) * SHARE + u8::from(!publish.probe) * NO_PROBE;
    if bits > 0 {
        out.extend(OPTIONS.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        out.push(bits);
    }
}

/// Reads extensions to the end of the frame; those that this version does not know are skipped.
pub(super) fn options(fields: &mut Fields, mut publish: Publish) -> Option<Publish> {
    while let Some((kind, bytes)) = extension(fields)? {
        if let (OPTIONS, [bits, ..]) = (kind, bytes) {
            publish.share = bits & SHARE != 0;
            publish.probe = bits & NO_PROBE == 0;
        }
    }
    Some(publish)
}

/// The extension of Granted that has its options, a bit each. It is left out where there are none, and so it is to a
/// client that does not read it.
const GRANTED_OPTIONS: u16 = 1;
const PROBED: u8 = 1;

pub(super) fn put_probed(out: &mut Vec<u8>, is_probed: bool) {
    if is_probed {
        out.extend(GRANTED_OPTIONS.to_be_bytes());
        out.extend(1u16.to_be_bytes());
        out.push(PROBED);
    }
}

/// Reads extensions to the end of the frame: whether what is granted is probed.
pub(super) fn probed(fields: &mut Fields) -> Option<bool> {
    let mut is_probed = false;
    while let Some((kind, bytes)) = extension(fields)? {
        if let (GRANTED_OPTIONS, [bits, ..]) = (kind, bytes) {
            is_probed = bits & PROBED != 0;
        }
    }
    Some(is_probed)
}

pub(super) fn put_ports(out: &mut Vec<u8>, ports: Ports) {
    out.extend(ports.first.to_be_bytes());
    out.extend(ports.last.to_be_bytes());
}

pub(super) fn ports(fields: &mut Fields) -> Option<Ports> {
    let ports = Ports { first: fields.u16()?, last: fields.u16()? };
    (ports.first <= ports.last).then_some(ports)
}
