//! Frames: what one record says. [`Frame`]s travel on message connections, [`ControlFrame`]s on control
//! connections.
//!
//! A session frame is `kind (1) sid (8) body`; a control frame is `kind (1) body`. Integers are big-endian.
//! Encoding and decoding are each other's inverse, and decoding refuses trailing bytes, so that every frame
//! has exactly one form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Fields;
use super::handshake::Secret;
use crate::base::name::Name;

/// Version of the frames inside the sealed channel, exchanged in `Hello`.
pub const PROTOCOL_VERSION: u16 = 1;

/// Bytes in front of a session frame's body: kind and sid.
pub const HEAD_BYTES: usize = 9;

/// Most services that one client may publish.
pub const SERVICES_MAX: usize = 64;

/// Bytes of the longest session frame that is not `Data`.
pub const SMALL_FRAME_BYTES_MAX: usize = HEAD_BYTES + 28;

/// Number of a session, unique within one control session and growing; 0 names none.
pub type Sid = u64;

/// Why one side ended a session before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// The local side was reset, or could not be written to.
    Reset,
    /// The local server did not take the connection.
    Refused,
    /// The session had been seen before: its bytes must not be delivered twice.
    Duplicate,
    /// The process is ending and will not wait longer.
    Shutdown,
}

impl AbortReason {
    const ALL: [AbortReason; 4] = [Self::Reset, Self::Refused, Self::Duplicate, Self::Shutdown];

    fn code(self) -> u8 {
        match self {
            Self::Reset => 1,
            Self::Refused => 2,
            Self::Duplicate => 3,
            Self::Shutdown => 4,
        }
    }
}

impl fmt::Display for AbortReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "reset",
            Self::Refused => "the local server did not take the connection",
            Self::Duplicate => "a duplicate of a session already seen",
            Self::Shutdown => "the other side is shutting down",
        })
    }
}

/// The first frame of a session: server to client only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Start {
    /// This session's number.
    pub sid: Sid,
    /// The number under which this session was first sent, if it is sent again; 0 otherwise.
    pub first_sid: Sid,
    /// Position of the service in the client's `Hello`.
    pub service: u16,
    /// Who the user is.
    pub user: SocketAddr,
}

/// A session frame. `Data` borrows its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A user was assigned; both directions are open.
    Start(Start),
    /// The client has read `Start`.
    Accepted(Sid),
    /// The proxy connection stands.
    Started(Sid),
    /// Bytes of the session.
    Data(Sid, &'a [u8]),
    /// The sender will send no more; the stream is whole.
    Fin(Sid),
    /// The stream is broken and must not look whole.
    Abort(Sid, AbortReason),
    /// Are you there? Server to client, on an idle connection.
    Ping,
    /// I am.
    Pong,
    /// The client wants this idle connection to be closed.
    Drain,
}

/// Kind byte of `Data`, which the relay encodes in place.
const DATA: u8 = 4;

/// A frame that the network sent and that means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFrame;

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed frame")
    }
}

/// Writes the head of a `Data` frame.
pub fn encode_data_head(sid: Sid) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[0] = DATA;
    head[1..].copy_from_slice(&sid.to_be_bytes());
    head
}

/// Reads the head of a session frame: the sid, if the frame is `Data`.
pub fn decode_data_head(head: &[u8; HEAD_BYTES]) -> Option<Sid> {
    let [kind, sid @ ..] = *head;
    (kind == DATA).then(|| u64::from_be_bytes(sid))
}

/// A short frame's bytes, held in place: session frames other than `Data` never allocate.
#[derive(Clone, Copy)]
pub struct SmallFrame {
    bytes: [u8; SMALL_FRAME_BYTES_MAX],
    len: usize,
}

impl SmallFrame {
    fn push(&mut self, bytes: &[u8]) {
        // Never out of range: the caller is `Frame::encode`, whose longest form is SMALL_FRAME_BYTES_MAX.
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl std::ops::Deref for SmallFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<'a> Frame<'a> {
    /// Encodes any frame but `Data`, whose head is [`encode_data_head`] and whose body is its bytes.
    pub fn encode(&self) -> SmallFrame {
        let mut out = SmallFrame { bytes: [0; SMALL_FRAME_BYTES_MAX], len: 0 };
        let (kind, sid) = match *self {
            Frame::Start(start) => (1, start.sid),
            Frame::Accepted(sid) => (2, sid),
            Frame::Started(sid) => (3, sid),
            Frame::Data(sid, _) => (DATA, sid),
            Frame::Fin(sid) => (5, sid),
            Frame::Abort(sid, _) => (6, sid),
            Frame::Ping => (7, 0),
            Frame::Pong => (8, 0),
            Frame::Drain => (9, 0),
        };
        out.push(&[kind]);
        out.push(&sid.to_be_bytes());
        match *self {
            Frame::Start(start) => {
                out.push(&start.first_sid.to_be_bytes());
                out.push(&start.service.to_be_bytes());
                let ip = match start.user.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                out.push(&ip.octets());
                out.push(&start.user.port().to_be_bytes());
            }
            Frame::Abort(_, reason) => out.push(&[reason.code()]),
            _ => {}
        }
        out
    }

    /// Decodes the plaintext of one record.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, BadFrame> {
        Self::parse(bytes).ok_or(BadFrame)
    }

    fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let mut fields = Fields(bytes);
        let kind = fields.u8()?;
        let sid = fields.u64()?;
        let frame = match kind {
            1 => Frame::Start(Start {
                sid,
                first_sid: fields.u64()?,
                service: fields.u16()?,
                user: {
                    let ip = Ipv6Addr::from(fields.array::<16>()?).to_canonical();
                    SocketAddr::new(ip, fields.u16()?)
                },
            }),
            2 => Frame::Accepted(sid),
            3 => Frame::Started(sid),
            DATA => return (sid != 0 && !fields.is_empty()).then_some(Frame::Data(sid, fields.0)),
            5 => Frame::Fin(sid),
            6 => {
                let code = fields.u8()?;
                Frame::Abort(sid, AbortReason::ALL.into_iter().find(|reason| reason.code() == code)?)
            }
            7 => Frame::Ping,
            8 => Frame::Pong,
            9 => Frame::Drain,
            _ => return None,
        };
        // Sessions are numbered from 1; frames that belong to no session carry 0.
        let numbered = !matches!(frame, Frame::Ping | Frame::Pong | Frame::Drain);
        (fields.is_empty() && numbered == (sid != 0)).then_some(frame)
    }
}

/// The server's answer to one service of `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Users reach it at this port of the server.
    Port(u16),
    /// The server was started without this service.
    Unknown,
}

/// Why the server turned down a client that had proved its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The two ends speak different versions; this is the server's.
    Version(u16),
    /// One end runs with `--plain` and the other does not; this says whether the server does.
    Plain(bool),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version(version) => write!(
                f,
                "version mismatch: the server speaks protocol version {version}, this client {PROTOCOL_VERSION}; \
                 install the same skyorg on both sides"
            ),
            Refusal::Plain(true) => {
                f.write_str("the server runs with --plain and this client without; start both alike")
            }
            Refusal::Plain(false) => {
                f.write_str("this client runs with --plain and the server without; start both alike")
            }
        }
    }
}

/// A client's introduction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the client.
    pub version: u16,
    /// Whether the client was started with `--plain`.
    pub plain: bool,
    /// Random per process: the same instance coming back replaces its old self.
    pub instance: [u8; 16],
    /// The services it publishes.
    pub services: Vec<Name>,
}

/// What an admitted client needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Names this control session in the hello of message connections.
    pub session_id: [u8; 16],
    /// The psk of this control session's message connections.
    pub pool_key: Secret,
    /// Where the client dials message connections.
    pub message_port: u16,
    /// One answer per service of the `Hello`, in its order.
    pub grants: Vec<Grant>,
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
    /// Open `count` more message connections, with tickets counted from `first_ticket`.
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
    /// The client is leaving: assign it no more users.
    Drain,
}

impl ControlFrame {
    /// Encodes the frame onto the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ControlFrame::Hello(hello) => {
                out.push(1);
                out.extend(hello.version.to_be_bytes());
                out.push(u8::from(hello.plain));
                out.extend(hello.instance);
                out.push(hello.services.len() as u8);
                for name in &hello.services {
                    out.push(name.as_str().len() as u8);
                    out.extend(name.as_str().as_bytes());
                }
            }
            ControlFrame::Welcome(welcome) => {
                out.push(2);
                out.extend(welcome.session_id);
                out.extend(welcome.pool_key.bytes());
                out.extend(welcome.message_port.to_be_bytes());
                out.push(welcome.grants.len() as u8);
                for grant in &welcome.grants {
                    let (code, port) = match grant {
                        Grant::Port(port) => (1, *port),
                        Grant::Unknown => (0, 0),
                    };
                    out.push(code);
                    out.extend(port.to_be_bytes());
                }
            }
            ControlFrame::Refused(refusal) => {
                let (code, value) = match refusal {
                    Refusal::Version(version) => (1, *version),
                    Refusal::Plain(plain) => (2, u16::from(*plain)),
                };
                out.extend([3, code]);
                out.extend(value.to_be_bytes());
            }
            ControlFrame::Open { first_ticket, count } => {
                out.push(4);
                out.extend(first_ticket.to_be_bytes());
                out.extend(count.to_be_bytes());
            }
            ControlFrame::Ping => out.push(5),
            ControlFrame::Pong => out.push(6),
            ControlFrame::Drain => out.push(7),
        }
    }

    /// Decodes the plaintext of one record.
    pub fn decode(bytes: &[u8]) -> Result<ControlFrame, BadFrame> {
        let mut fields = Fields(bytes);
        let frame = Self::parse(&mut fields).ok_or(BadFrame)?;
        if fields.is_empty() { Ok(frame) } else { Err(BadFrame) }
    }

    fn parse(fields: &mut Fields) -> Option<ControlFrame> {
        Some(match fields.u8()? {
            1 => ControlFrame::Hello(Hello {
                version: fields.u16()?,
                plain: parse_bool(fields.u8()?)?,
                instance: fields.array()?,
                services: parse_list(fields, |fields| {
                    let len = usize::from(fields.u8()?);
                    std::str::from_utf8(fields.take(len)?).ok()?.parse().ok()
                })?,
            }),
            2 => ControlFrame::Welcome(Welcome {
                session_id: fields.array()?,
                pool_key: Secret::new(fields.array()?),
                message_port: fields.u16()?,
                grants: parse_list(fields, |fields| match (fields.u8()?, fields.u16()?) {
                    (1, port) => Some(Grant::Port(port)),
                    (0, 0) => Some(Grant::Unknown),
                    _ => None,
                })?,
            }),
            3 => ControlFrame::Refused(match (fields.u8()?, fields.u16()?) {
                (1, version) => Refusal::Version(version),
                (2, plain) => Refusal::Plain(parse_bool(u8::try_from(plain).ok()?)?),
                _ => return None,
            }),
            4 => ControlFrame::Open { first_ticket: fields.u64()?, count: fields.u32()? },
            5 => ControlFrame::Ping,
            6 => ControlFrame::Pong,
            7 => ControlFrame::Drain,
            _ => return None,
        })
    }
}

fn parse_bool(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn parse_list<T>(fields: &mut Fields, item: impl Fn(&mut Fields) -> Option<T>) -> Option<Vec<T>> {
    let count = usize::from(fields.u8()?);
    if count > SERVICES_MAX {
        return None;
    }
    (0..count).map(|_| item(fields)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        let v6 = (any::<[u16; 8]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        prop_oneof![v4, v6]
    }

    fn frames() -> impl Strategy<Value = Frame<'static>> {
        let sid = 1..=u64::MAX;
        prop_oneof![
            (sid.clone(), any::<u64>(), any::<u16>(), addresses()).prop_map(
                |(sid, first_sid, service, user)| {
                    // An IPv4-mapped IPv6 address comes back as the IPv4 address that it is.
                    let user = SocketAddr::new(user.ip().to_canonical(), user.port());
                    Frame::Start(Start { sid, first_sid, service, user })
                }
            ),
            sid.clone().prop_map(Frame::Accepted),
            sid.clone().prop_map(Frame::Started),
            sid.clone().prop_map(Frame::Fin),
            (sid, 0..AbortReason::ALL.len()).prop_map(|(sid, at)| Frame::Abort(sid, AbortReason::ALL[at])),
            Just(Frame::Ping),
            Just(Frame::Pong),
            Just(Frame::Drain),
        ]
    }

    fn control_frames() -> impl Strategy<Value = ControlFrame> {
        let names = proptest::collection::vec("[a-z0-9._-]{1,64}", 0..=SERVICES_MAX);
        let grants = proptest::collection::vec(any::<Option<u16>>(), 0..=SERVICES_MAX);
        prop_oneof![
            (any::<u16>(), any::<bool>(), any::<[u8; 16]>(), names).prop_map(
                |(version, plain, instance, names)| {
                    let services = names.iter().map(|name| name.parse().expect("a good name")).collect();
                    ControlFrame::Hello(Hello { version, plain, instance, services })
                }
            ),
            (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<u16>(), grants).prop_map(
                |(session_id, key, message_port, grants)| {
                    let grants =
                        grants.into_iter().map(|port| port.map_or(Grant::Unknown, Grant::Port)).collect();
                    let pool_key = Secret::new(key);
                    ControlFrame::Welcome(Welcome { session_id, pool_key, message_port, grants })
                }
            ),
            any::<u16>().prop_map(|version| ControlFrame::Refused(Refusal::Version(version))),
            any::<bool>().prop_map(|plain| ControlFrame::Refused(Refusal::Plain(plain))),
            (any::<u64>(), any::<u32>())
                .prop_map(|(first_ticket, count)| ControlFrame::Open { first_ticket, count }),
            Just(ControlFrame::Ping),
            Just(ControlFrame::Pong),
            Just(ControlFrame::Drain),
        ]
    }

    proptest! {
        #[test]
        fn a_session_frame_survives_the_wire(frame in frames()) {
            let bytes = frame.encode();
            prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
        }

        #[test]
        fn every_cut_or_lengthened_session_frame_is_refused(frame in frames()) {
            let bytes = frame.encode().to_vec();
            for len in 0..bytes.len() {
                prop_assert_eq!(Frame::decode(&bytes[..len]), Err(BadFrame));
            }
            let lengthened = [&bytes[..], &[0]].concat();
            prop_assert_eq!(Frame::decode(&lengthened), Err(BadFrame));
        }

        #[test]
        fn a_control_frame_survives_the_wire_and_no_cut_of_it_does(frame in control_frames()) {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            prop_assert_eq!(ControlFrame::decode(&bytes), Ok(frame));
            for len in 0..bytes.len() {
                prop_assert_eq!(ControlFrame::decode(&bytes[..len]), Err(BadFrame));
            }
            bytes.push(0);
            prop_assert_eq!(ControlFrame::decode(&bytes), Err(BadFrame));
        }

        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = ControlFrame::decode(&bytes) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
            if let Ok(frame) = Frame::decode(&bytes)
                && !matches!(frame, Frame::Data(..))
            {
                prop_assert_eq!(&frame.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn a_data_frame_is_its_head_and_its_bytes() {
        let bytes = [&encode_data_head(7)[..], b"hello"].concat();
        assert_eq!(Frame::decode(&bytes), Ok(Frame::Data(7, b"hello")));
        assert_eq!(decode_data_head(&encode_data_head(7)), Some(7));
        assert_eq!(Frame::decode(&encode_data_head(7)), Err(BadFrame), "empty Data is no frame");
        let unnumbered = [&encode_data_head(0)[..], b"hello"].concat();
        assert_eq!(Frame::decode(&unnumbered), Err(BadFrame), "Data belongs to a session");
    }
}
