//! Frames of control connections: `kind (1) body`. Integers are big-endian.
//!
//! Hello, Welcome, Publish and Granted end with extensions, `(type u16, length u16, bytes)` each: what this version
//! does not know is skipped. So is a whole frame of kind 128 or more that it does not know; any other unknown one is an
//! error.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use zeroize::Zeroizing;

use super::frame::BadFrame;
use super::handshake::{KeyId, Secret};
pub use super::publication::{Denial, GrantedAddress, Ports, PublicationNumber, Publish, Transports, Want};
use super::publication::{options, ports, probed, put_options, put_ports, put_probed};
pub use super::resuming::Resumes;
use super::resuming::{put_resumes, resumes};
use super::{FIRST_SKIPPED_KIND, Fields, MAPPED_IP_BYTES, mapped, skip_extensions};
use crate::base::name::{NAME_BYTES_MAX, Name};

/// Versions of the frames inside the sealed channel that this program speaks.
pub const VERSIONS: Versions = Versions { least: 2, most: 2 };

/// Most addresses in one [`ControlFrame::Granted`].
pub const ADDRESSES_MAX: usize = 64;

/// A range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub least: u16,
    /// The highest.
    pub most: u16,
}

impl Versions {
    /// The highest version that both ranges hold.
    pub fn common(self, other: Versions) -> Option<u16> {
        let most = self.most.min(other.most);
        (most >= self.least.max(other.least)).then_some(most)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Versions { least, most } if least == most => write!(f, "{least}"),
            Versions { least, most } => write!(f, "{least} to {most}"),
        }
    }
}

/// What an end is able to do or insists on, a bit each. Bits without a meaning are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Payload of message connections travels unsealed. Both ends must say so, or neither.
    pub const PLAIN: Capabilities = Capabilities(1);
    /// It reads a denial that says which client has what it asked for.
    const READS_ADDRESSES: Capabilities = Capabilities(2);
    /// It reads of a publication that is granted whether it is probed.
    const READS_PROBED: Capabilities = Capabilities(4);
    /// It takes a Publish under a number that stands, for the same name and the same ports, as a change of the options.
    /// That is answered only where it changes what the client gets.
    const TAKES_CHANGES: Capabilities = Capabilities(8);
    /// It lets a link go on with a new control connection in the place of one that is silent.
    const RESUMES: Capabilities = Capabilities(16);

    /// Those of an end that runs with `--plain`, or without.
    pub fn new(plain: bool) -> Capabilities {
        let plain = if plain { Capabilities::PLAIN } else { Capabilities::default() };
        let all = [Self::READS_ADDRESSES, Self::READS_PROBED, Self::TAKES_CHANGES, Self::RESUMES, plain];
        Capabilities(all.into_iter().fold(0, |bits, it| bits | it.0))
    }

    /// Whether [`Denial::AlreadyPublishedBy`] may be said to it.
    pub fn reads_addresses(self) -> bool {
        self.0 & Capabilities::READS_ADDRESSES.0 != 0
    }

    /// Whether [`ControlFrame::Granted`] may say to it that a publication is probed.
    pub fn reads_probed(self) -> bool {
        self.0 & Capabilities::READS_PROBED.0 != 0
    }

    /// Whether it may be told of changed options of what is published.
    pub fn takes_changes(self) -> bool {
        self.0 & Capabilities::TAKES_CHANGES.0 != 0
    }

    /// Whether a link of it may go on with a new control connection.
    pub fn resumes(self) -> bool {
        self.0 & Capabilities::RESUMES.0 != 0
    }

    /// Whether payload travels unsealed.
    pub fn is_plain(self) -> bool {
        self.0 & Capabilities::PLAIN.0 != 0
    }
}

/// A client's introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions that it speaks.
    pub versions: Versions,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Silence after which it gives the server up; the smaller one of both ends holds. Whole milliseconds.
    pub heartbeat: Duration,
    /// Random per process: the same instance that comes back replaces its old self.
    pub instance: [u8; 16],
    /// The link that it comes back to, if it does.
    pub resumes: Option<Resumes>,
}

/// What an admitted client needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both ends speak from now on.
    pub version: u16,
    /// What the server can do.
    pub capabilities: Capabilities,
    /// Silence after which it gives the client up. Whole milliseconds.
    pub heartbeat: Duration,
    /// Random per process of the server.
    pub instance: [u8; 16],
    /// Names this link in the hello of message connections.
    pub link: KeyId,
    /// The psk of this link's message connections.
    pub pool_key: Secret,
    /// Where the client dials message connections.
    pub message_port: u16,
}

/// Why the server refuses a client that has proved its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The two ends have no version in common; these are the server's.
    Versions(Versions),
    /// One end runs with `--plain` and the other does not; this says whether the server does.
    Plain(bool),
    /// So many links stand, which is as many as there may be: of all keys, or of this one.
    Links {
        /// How many stand.
        count: u32,
        /// Whether they are this key's; else all.
        of_key: bool,
    },
    /// The policy allows this key nothing.
    Policy,
    /// The policy does not allow this key to connect from there.
    From,
    /// The key is good no longer.
    Expired,
    /// A reason that this version does not know.
    Other(u8),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Versions(server) => write!(
                f,
                "no protocol version in common: the server speaks {server}, this client {VERSIONS}; install the same \
                 skyorg on both sides"
            ),
            Refusal::Plain(true) => {
                f.write_str("the server runs with --plain and this client without; start both alike")
            }
            Refusal::Plain(false) => {
                f.write_str("this client runs with --plain and the server without; start both alike")
            }
            Refusal::Links { count, of_key: false } => {
                write!(f, "{count} clients are connected, which is as many as the server has room for")
            }
            Refusal::Links { count, of_key: true } => write!(
                f,
                "{count} clients with this key are connected, which is as many as one key may have at the server"
            ),
            Refusal::Policy => f.write_str("the server's policy allows this key nothing"),
            Refusal::From => f.write_str("the server's policy does not allow this key to connect from here"),
            Refusal::Expired => f.write_str("key expired"),
            Refusal::Other(code) => {
                write!(
                    f,
                    "the server refuses this client for reason {code}, which this version does not know"
                )
            }
        }
    }
}

/// A frame on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlFrame {
    /// Client to server, the first frame.
    Hello(Hello),
    /// Server to client, the answer.
    Welcome(Welcome),
    /// Server to client instead of `Welcome`; the connection ends after it.
    Refused(Refusal),
    /// Server to client: open `count` more message connections, with tickets counted from `first_ticket`.
    Open {
        /// The first connection's ticket.
        first_ticket: u64,
        /// How many connections.
        count: u32,
    },
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The sender is leaving: nothing new, and time for what runs.
    Drain,
    /// Client to server: it would serve this.
    Publish(Publish),
    /// Server to client: it does now, and users connect there.
    Granted {
        /// Which publication.
        number: PublicationNumber,
        /// At most [`ADDRESSES_MAX`].
        addresses: Vec<GrantedAddress>,
        /// It proves it by probes, where no user does.
        is_probed: bool,
    },
    /// Server to client: it does not.
    Denied {
        /// Which publication.
        number: PublicationNumber,
        /// Why.
        reason: Denial,
    },
    /// Client to server: it no longer serves this.
    Unpublish(PublicationNumber),
    /// Server to client: it no longer serves this.
    Withdrawn {
        /// Which publication.
        number: PublicationNumber,
        /// Why.
        reason: Denial,
    },
    /// Client to server: connections for these tickets will not come.
    Void {
        /// The first ticket.
        first_ticket: u64,
        /// How many.
        count: u32,
    },
    /// A frame of a later version that may be skipped.
    Skipped,
}

impl ControlFrame {
    /// Encodes the frame onto the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ControlFrame::Hello(hello) => {
                out.push(1);
                put_versions(out, hello.versions);
                out.extend(hello.capabilities.0.to_be_bytes());
                put_duration(out, hello.heartbeat);
                out.extend(hello.instance);
                put_resumes(out, hello.resumes);
            }
            ControlFrame::Welcome(welcome) => {
                out.push(2);
                out.extend(welcome.version.to_be_bytes());
                out.extend(welcome.capabilities.0.to_be_bytes());
                put_duration(out, welcome.heartbeat);
                out.extend(welcome.instance);
                out.extend(welcome.link);
                out.extend(welcome.pool_key.bytes());
                out.extend(welcome.message_port.to_be_bytes());
            }
            ControlFrame::Refused(refusal) => {
                out.push(3);
                match *refusal {
                    Refusal::Versions(versions) => {
                        out.push(1);
                        put_versions(out, versions);
                    }
                    Refusal::Plain(plain) => out.extend([2, u8::from(plain)]),
                    Refusal::Links { count, of_key } => {
                        out.extend([3, u8::from(of_key)]);
                        out.extend(count.to_be_bytes());
                    }
                    Refusal::Policy => out.push(4),
                    Refusal::From => out.push(5),
                    Refusal::Expired => out.push(6),
                    Refusal::Other(code) => out.push(code),
                }
            }
            ControlFrame::Open { first_ticket, count } => put_tickets(out, 4, *first_ticket, *count),
            ControlFrame::Ping => out.push(5),
            ControlFrame::Pong => out.push(6),
            ControlFrame::Drain => out.push(7),
            ControlFrame::Publish(publish) => {
                out.push(8);
                out.extend(publish.number.to_be_bytes());
                out.push(publish.name.as_str().len() as u8);
                out.extend(publish.name.as_str().as_bytes());
                match publish.want {
                    Want::Service => out.push(1),
                    Want::AnyPort => out.push(2),
                    Want::Ports(ports) => {
                        out.push(3);
                        put_ports(out, ports);
                    }
                }
                out.push(match publish.transports {
                    Transports::Tcp => 1,
                    Transports::Udp => 2,
                    Transports::Both => 3,
                });
                put_duration(out, publish.dial_time);
                put_options(out, publish);
            }
            ControlFrame::Granted { number, addresses, is_probed } => {
                out.push(9);
                out.extend(number.to_be_bytes());
                let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
                out.push(addresses.len() as u8);
                for GrantedAddress { ip, ports } in addresses {
                    out.extend(mapped(*ip));
                    put_ports(out, *ports);
                }
                put_probed(out, *is_probed);
            }
            ControlFrame::Denied { number, reason } => put_denial(out, 10, *number, *reason),
            ControlFrame::Unpublish(number) => {
                out.push(11);
                out.extend(number.to_be_bytes());
            }
            ControlFrame::Withdrawn { number, reason } => put_denial(out, 12, *number, *reason),
            ControlFrame::Void { first_ticket, count } => put_tickets(out, 13, *first_ticket, *count),
            ControlFrame::Skipped => out.push(FIRST_SKIPPED_KIND),
        }
    }

    /// Decodes the plaintext of one record.
    pub fn decode(bytes: &[u8]) -> Result<ControlFrame, BadFrame> {
        let mut fields = Fields(bytes);
        let frame = Self::parse(&mut fields).ok_or(BadFrame)?;
        let grows = matches!(
            frame,
            ControlFrame::Welcome(_) | ControlFrame::Refused(Refusal::Other(_)) | ControlFrame::Skipped
        );
        match frame {
            ControlFrame::Hello(hello) => {
                let resumes = resumes(&mut fields).ok_or(BadFrame)?;
                Ok(ControlFrame::Hello(Hello { resumes, ..hello }))
            }
            ControlFrame::Publish(publish) => {
                options(&mut fields, publish).map(ControlFrame::Publish).ok_or(BadFrame)
            }
            ControlFrame::Granted { number, addresses, .. } => {
                let is_probed = probed(&mut fields).ok_or(BadFrame)?;
                Ok(ControlFrame::Granted { number, addresses, is_probed })
            }
            ControlFrame::Skipped | ControlFrame::Refused(Refusal::Other(_)) => Ok(frame),
            _ if grows => skip_extensions(&mut fields).map(|()| frame).ok_or(BadFrame),
            _ if fields.is_empty() => Ok(frame),
            _ => Err(BadFrame),
        }
    }

    fn parse(fields: &mut Fields) -> Option<ControlFrame> {
        Some(match fields.u8()? {
            1 => ControlFrame::Hello(Hello {
                versions: versions(fields)?,
                capabilities: Capabilities(fields.u64()?),
                heartbeat: duration(fields)?,
                instance: fields.array()?,
                resumes: None,
            }),
            2 => ControlFrame::Welcome(Welcome {
                version: fields.u16()?,
                capabilities: Capabilities(fields.u64()?),
                heartbeat: duration(fields)?,
                instance: fields.array()?,
                link: fields.array()?,
                pool_key: Secret::copy_of(&Zeroizing::new(fields.array()?)),
                message_port: fields.u16()?,
            }),
            3 => ControlFrame::Refused(match fields.u8()? {
                1 => Refusal::Versions(versions(fields)?),
                2 => Refusal::Plain(flag(fields)?),
                3 => Refusal::Links { of_key: flag(fields)?, count: fields.u32()? },
                4 => Refusal::Policy,
                5 => Refusal::From,
                6 => Refusal::Expired,
                code => Refusal::Other(code),
            }),
            4 => ControlFrame::Open { first_ticket: fields.u64()?, count: fields.u32()? },
            5 => ControlFrame::Ping,
            6 => ControlFrame::Pong,
            7 => ControlFrame::Drain,
            8 => ControlFrame::Publish(Publish {
                number: number(fields)?,
                name: name(fields)?,
                want: match fields.u8()? {
                    1 => Want::Service,
                    2 => Want::AnyPort,
                    3 => Want::Ports(ports(fields)?),
                    _ => return None,
                },
                transports: match fields.u8()? {
                    1 => Transports::Tcp,
                    2 => Transports::Udp,
                    3 => Transports::Both,
                    _ => return None,
                },
                dial_time: duration(fields)?,
                share: false,
                probe: true,
            }),
            9 => ControlFrame::Granted {
                number: number(fields)?,
                addresses: addresses(fields)?,
                is_probed: false,
            },
            10 => ControlFrame::Denied { number: number(fields)?, reason: Denial::read(fields)? },
            11 => ControlFrame::Unpublish(number(fields)?),
            12 => ControlFrame::Withdrawn { number: number(fields)?, reason: Denial::read(fields)? },
            13 => ControlFrame::Void { first_ticket: fields.u64()?, count: fields.u32()? },
            FIRST_SKIPPED_KIND.. => ControlFrame::Skipped,
            _ => return None,
        })
    }
}

fn put_versions(out: &mut Vec<u8>, versions: Versions) {
    out.extend(versions.least.to_be_bytes());
    out.extend(versions.most.to_be_bytes());
}

/// A byte that says yes or no.
fn flag(fields: &mut Fields) -> Option<bool> {
    match fields.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn versions(fields: &mut Fields) -> Option<Versions> {
    let versions = Versions { least: fields.u16()?, most: fields.u16()? };
    (versions.least <= versions.most).then_some(versions)
}

/// Whole milliseconds; what is longer than they can say is as long as they can say.
fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    let millis = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    out.extend(millis.to_be_bytes());
}

fn duration(fields: &mut Fields) -> Option<Duration> {
    fields.u32().map(|millis| Duration::from_millis(millis.into()))
}

fn put_tickets(out: &mut Vec<u8>, kind: u8, first_ticket: u64, count: u32) {
    out.push(kind);
    out.extend(first_ticket.to_be_bytes());
    out.extend(count.to_be_bytes());
}

fn put_denial(out: &mut Vec<u8>, kind: u8, number: PublicationNumber, reason: Denial) {
    out.push(kind);
    out.extend(number.to_be_bytes());
    reason.put(out);
}

fn number(fields: &mut Fields) -> Option<PublicationNumber> {
    fields.u32().filter(|&number| number > 0)
}

fn name(fields: &mut Fields) -> Option<Name> {
    let len = usize::from(fields.u8()?);
    if len > NAME_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(fields.take(len)?).ok()?.parse().ok()
}

fn addresses(fields: &mut Fields) -> Option<Vec<GrantedAddress>> {
    let count = usize::from(fields.u8()?);
    if count > ADDRESSES_MAX {
        return None;
    }
    let address = |_| {
        let ip = Ipv6Addr::from(fields.array::<MAPPED_IP_BYTES>()?).to_canonical();
        Some(GrantedAddress { ip, ports: ports(fields)? })
    };
    (0..count).map(address).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn versions_of_any() -> impl Strategy<Value = Versions> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Versions { least: a.min(b), most: a.max(b) })
    }

    fn durations() -> impl Strategy<Value = Duration> {
        any::<u32>().prop_map(|millis| Duration::from_millis(millis.into()))
    }

    fn ranges() -> impl Strategy<Value = Ports> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Ports { first: a.min(b), last: a.max(b) })
    }

    fn publishes() -> impl Strategy<Value = ControlFrame> {
        let wants = prop_oneof![Just(Want::Service), Just(Want::AnyPort), ranges().prop_map(Want::Ports)];
        let transports = prop_oneof![Just(Transports::Tcp), Just(Transports::Udp), Just(Transports::Both)];
        (1..=u32::MAX, "[a-z0-9._-]{1,64}", wants, transports, durations(), any::<(bool, bool)>()).prop_map(
            |(number, name, want, transports, dial_time, (share, probe))| {
                let name = name.parse().expect("a good name");
                ControlFrame::Publish(Publish { number, name, want, transports, dial_time, share, probe })
            },
        )
    }

    fn denials() -> impl Strategy<Value = Denial> {
        let by = (any::<IpAddr>(), any::<u16>())
            .prop_map(|(ip, port)| Denial::AlreadyPublishedBy((ip.to_canonical(), port).into()));
        let others = any::<u8>().prop_filter("an address follows", |&code| code != 6);
        prop_oneof![others.prop_map(Denial::from_code), by]
    }

    fn granted() -> impl Strategy<Value = ControlFrame> {
        let address = (any::<IpAddr>(), ranges())
            .prop_map(|(ip, ports)| GrantedAddress { ip: ip.to_canonical(), ports });
        (1..=u32::MAX, proptest::collection::vec(address, 0..=ADDRESSES_MAX), any::<bool>())
            .prop_map(|(number, addresses, is_probed)| ControlFrame::Granted { number, addresses, is_probed })
    }

    fn frames() -> impl Strategy<Value = ControlFrame> {
        prop_oneof![
            (versions_of_any(), any::<u64>(), durations(), any::<([u8; 16], Option<([u8; 16], u32)>)>())
                .prop_map(|(versions, bits, heartbeat, (instance, resumes))| {
                    let capabilities = Capabilities(bits);
                    let resumes = resumes.map(|(link, publications)| Resumes { link, publications });
                    ControlFrame::Hello(Hello { versions, capabilities, heartbeat, instance, resumes })
                }),
            (any::<(u16, u64, u16)>(), durations(), any::<([u8; 16], [u8; 16], [u8; 32])>()).prop_map(
                |((version, bits, message_port), heartbeat, (instance, link, key))| {
                    let (capabilities, pool_key) = (Capabilities(bits), Secret::new(key));
                    ControlFrame::Welcome(Welcome {
                        version,
                        capabilities,
                        heartbeat,
                        instance,
                        link,
                        pool_key,
                        message_port,
                    })
                }
            ),
            versions_of_any().prop_map(|versions| ControlFrame::Refused(Refusal::Versions(versions))),
            any::<bool>().prop_map(|plain| ControlFrame::Refused(Refusal::Plain(plain))),
            any::<(u32, bool)>()
                .prop_map(|(count, of_key)| ControlFrame::Refused(Refusal::Links { count, of_key })),
            prop_oneof![Just(Refusal::Policy), Just(Refusal::From), Just(Refusal::Expired)]
                .prop_map(ControlFrame::Refused),
            any::<(u64, u32)>().prop_map(|(first_ticket, count)| ControlFrame::Open { first_ticket, count }),
            any::<(u64, u32)>().prop_map(|(first_ticket, count)| ControlFrame::Void { first_ticket, count }),
            publishes(),
            granted(),
            (1..=u32::MAX, denials()).prop_map(|(number, reason)| ControlFrame::Denied { number, reason }),
            (1..=u32::MAX, denials()).prop_map(|(number, reason)| ControlFrame::Withdrawn { number, reason }),
            (1..=u32::MAX).prop_map(ControlFrame::Unpublish),
            Just(ControlFrame::Ping),
            Just(ControlFrame::Pong),
            Just(ControlFrame::Drain),
        ]
    }

    fn encoded(frame: &ControlFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    /// How long the extension is that this version writes.
    fn extension_bytes(frame: &ControlFrame) -> usize {
        let has_options = match frame {
            ControlFrame::Hello(Hello { resumes: Some(_), .. }) => return 2 + 2 + 20,
            ControlFrame::Publish(publish) => publish.share || !publish.probe,
            ControlFrame::Granted { is_probed, .. } => *is_probed,
            _ => false,
        };
        if has_options { 2 + 2 + 1 } else { 0 }
    }

    proptest! {
        #[test]
        fn a_frame_survives_the_wire_and_no_cut_of_it_does(frame in frames()) {
            let mut bytes = encoded(&frame);
            prop_assert_eq!(ControlFrame::decode(&bytes), Ok(frame.clone()));
            // A whole extension is the only thing that may be missing.
            let without = bytes.len() - extension_bytes(&frame);
            for len in (0..bytes.len()).filter(|&len| len != without) {
                prop_assert_eq!(ControlFrame::decode(&bytes[..len]), Err(BadFrame));
            }
            bytes.push(0);
            prop_assert_eq!(ControlFrame::decode(&bytes), Err(BadFrame));
        }

        #[test]
        fn bytes_from_outside_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ControlFrame::decode(&bytes);
        }
    }

    #[test]
    fn extensions_of_a_later_version_are_skipped_where_frames_may_grow() {
        let hello = ControlFrame::Hello(Hello {
            versions: Versions { least: 2, most: 9 },
            capabilities: Capabilities(u64::MAX),
            heartbeat: Duration::from_secs(30),
            instance: [7; 16],
            resumes: Some(Resumes { link: [8; 16], publications: 9 }),
        });
        let mut bytes = encoded(&hello);
        bytes.extend([0, 9, 0, 3, 1, 2, 3, 0xff, 0xff, 0, 0]);
        assert_eq!(ControlFrame::decode(&bytes), Ok(hello));
        assert_eq!(ControlFrame::decode(&bytes[..bytes.len() - 1]), Err(BadFrame), "half an extension");
        assert_eq!(ControlFrame::decode(&[5, 0, 9, 0, 0]), Err(BadFrame), "a ping does not grow");
    }

    #[test]
    fn frames_and_reasons_of_a_later_version_are_met_as_the_design_says() {
        assert_eq!(ControlFrame::decode(&[128, 1, 2, 3]), Ok(ControlFrame::Skipped));
        assert_eq!(ControlFrame::decode(&[255]), Ok(ControlFrame::Skipped));
        assert_eq!(ControlFrame::decode(&[127]), Err(BadFrame));
        let refused = ControlFrame::decode(&[3, 77, 1, 2]);
        assert_eq!(refused, Ok(ControlFrame::Refused(Refusal::Other(77))));
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let range = |least, most| Versions { least, most };
        assert_eq!(range(2, 3).common(range(2, 2)), Some(2));
        assert_eq!(range(2, 4).common(range(3, 9)), Some(4));
        assert_eq!(range(2, 3).common(range(4, 9)), None);
    }

    #[test]
    fn a_refusal_names_both_versions() {
        let text = Refusal::Versions(Versions { least: 5, most: 7 }).to_string();
        assert!(text.contains("the server speaks 5 to 7, this client 2"), "{text}");
    }
}
