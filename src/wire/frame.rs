//! Frames of message connections: what one record says. Integers are big-endian.
//!
//! A frame is `kind (1) sid (8) body`. `Start` ends with extensions, which are skipped if they are not known; so is a
//! whole frame of kind 128 or more. All other frames have exactly one form: trailing bytes are refused.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::control::PublicationNumber;
use super::{FIRST_SKIPPED_KIND, Fields, MAPPED_IP_BYTES, mapped, skip_extensions};

/// Bytes in front of a session frame's body: kind and sid.
pub const HEAD_BYTES: usize = 9;

/// Bytes of the longest frame that this version sends and that is not `Data`: `Start`.
pub const SMALL_FRAME_BYTES_MAX: usize = HEAD_BYTES + 8 + 4 + 2 + 2 * ADDRESS_BYTES + 8;

/// Bytes of the longest frame that is taken and that is not `Data`: a later version's `Start` may be longer.
pub const RECEIVED_FRAME_BYTES_MAX: usize = 512;

/// Bytes of an address on the wire: IP and port.
const ADDRESS_BYTES: usize = MAPPED_IP_BYTES + 2;

/// Number of a session, unique within one link and growing; 0 names none.
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
    /// No byte of it moved for as long as the server lets it be idle.
    Idle,
    /// What it belonged to was removed from the configuration.
    Removed,
    /// Of a probe: the name of the local server leads nowhere.
    Unresolved,
    /// Of a probe: the local server did not answer in time.
    Unanswered,
    /// Of a probe: the system could not reach the local server, or found no way to it.
    Unreachable,
    /// Of a probe: the client has no file descriptor left.
    NoDescriptor,
}

impl AbortReason {
    /// The last four are said to a server that has sent a probe, and so knows them.
    const ALL: [AbortReason; 10] = [
        Self::Reset,
        Self::Refused,
        Self::Duplicate,
        Self::Shutdown,
        Self::Idle,
        Self::Removed,
        Self::Unresolved,
        Self::Unanswered,
        Self::Unreachable,
        Self::NoDescriptor,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Reset => 1,
            Self::Refused => 2,
            Self::Duplicate => 3,
            Self::Shutdown => 4,
            Self::Idle => 5,
            Self::Removed => 6,
            Self::Unresolved => 7,
            Self::Unanswered => 8,
            Self::Unreachable => 9,
            Self::NoDescriptor => 10,
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
            Self::Idle => "idle",
            Self::Removed => "removed from the configuration",
            Self::Unresolved => "the name of the local server does not resolve",
            Self::Unanswered => "the local server does not answer",
            Self::Unreachable => "the local server cannot be reached",
            Self::NoDescriptor => "out of file descriptors",
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
    /// The publication that it is for.
    pub publication: PublicationNumber,
    /// Which port of the publication's range the user connected to, counted from its first.
    pub port_offset: u16,
    /// Where the user comes from.
    pub user: SocketAddr,
    /// The address that the user connected to.
    pub asked: SocketAddr,
    /// The server's own number of the user, in the logs of both sides.
    pub number: u64,
}

/// Where no user comes from: a session that says so is a probe, also to a client that does not know what that is.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Start {
    /// The start of a probe: a session without a user and without bytes, which proves that the local server is reached.
    pub fn probe(sid: Sid, publication: PublicationNumber, port_offset: u16) -> Start {
        Start { sid, first_sid: 0, publication, port_offset, user: NOBODY, asked: NOBODY, number: 0 }
    }

    /// Whether it is the start of a probe.
    pub fn is_probe(&self) -> bool {
        Start::is_nobody(self.user)
    }

    /// Whether this is the address of no user, but that of a probe.
    pub fn is_nobody(address: SocketAddr) -> bool {
        address == NOBODY
    }
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
    /// The session still runs, though it says nothing.
    Alive(Sid),
    /// A frame of a later version that may be skipped.
    Skipped,
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
            Frame::Alive(sid) => (10, sid),
            Frame::Skipped => (FIRST_SKIPPED_KIND, 0),
        };
        out.push(&[kind]);
        out.push(&sid.to_be_bytes());
        match *self {
            Frame::Start(start) => {
                out.push(&start.first_sid.to_be_bytes());
                out.push(&start.publication.to_be_bytes());
                out.push(&start.port_offset.to_be_bytes());
                for address in [start.user, start.asked] {
                    out.push(&mapped(address.ip()));
                    out.push(&address.port().to_be_bytes());
                }
                out.push(&start.number.to_be_bytes());
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
            1 => {
                let start = Start {
                    sid,
                    first_sid: fields.u64()?,
                    publication: fields.u32().filter(|&number| number > 0)?,
                    port_offset: fields.u16()?,
                    user: address(&mut fields)?,
                    asked: address(&mut fields)?,
                    number: fields.u64()?,
                };
                skip_extensions(&mut fields)?;
                Frame::Start(start)
            }
            2 => Frame::Accepted(sid),
            3 => Frame::Started(sid),
            DATA => return (sid != 0 && !fields.is_empty()).then_some(Frame::Data(sid, fields.0)),
            5 => Frame::Fin(sid),
            6 => {
                let code = fields.u8()?;
                // A reason of a later version is as good as this one.
                let known = AbortReason::ALL.into_iter().find(|reason| reason.code() == code);
                Frame::Abort(sid, known.unwrap_or(AbortReason::Reset))
            }
            7 => Frame::Ping,
            8 => Frame::Pong,
            9 => Frame::Drain,
            10 => Frame::Alive(sid),
            FIRST_SKIPPED_KIND.. => return Some(Frame::Skipped),
            _ => return None,
        };
        // Sessions are numbered from 1; frames that belong to no session carry 0.
        let numbered = !matches!(frame, Frame::Ping | Frame::Pong | Frame::Drain);
        (fields.is_empty() && numbered == (sid != 0)).then_some(frame)
    }
}

fn address(fields: &mut Fields) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(fields.array::<MAPPED_IP_BYTES>()?).to_canonical();
    Some(SocketAddr::new(ip, fields.u16()?))
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
            (sid.clone(), any::<(u64, u16, u64)>(), 1..=u32::MAX, addresses(), addresses()).prop_map(
                |(sid, (first_sid, port_offset, number), publication, user, asked)| {
                    // An IPv4-mapped IPv6 address comes back as the IPv4 address that it is.
                    let [user, asked] =
                        [user, asked].map(|it| SocketAddr::new(it.ip().to_canonical(), it.port()));
                    Frame::Start(Start { sid, first_sid, publication, port_offset, user, asked, number })
                }
            ),
            sid.clone().prop_map(Frame::Alive),
            sid.clone().prop_map(Frame::Accepted),
            sid.clone().prop_map(Frame::Started),
            sid.clone().prop_map(Frame::Fin),
            (sid, 0..AbortReason::ALL.len()).prop_map(|(sid, at)| Frame::Abort(sid, AbortReason::ALL[at])),
            Just(Frame::Ping),
            Just(Frame::Pong),
            Just(Frame::Drain),
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
        fn what_decodes_has_one_form(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(frame) = Frame::decode(&bytes)
                && !matches!(frame, Frame::Data(..) | Frame::Skipped | Frame::Start(_) | Frame::Abort(..))
            {
                prop_assert_eq!(&frame.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let user = ([192, 0, 2, 1], 4000).into();
        let start =
            Start { sid: 7, first_sid: 0, publication: 1, port_offset: 0, user, asked: user, number: 9 };
        let mut bytes = Frame::Start(start).encode().to_vec();
        assert_eq!(bytes.len(), SMALL_FRAME_BYTES_MAX);
        bytes.extend([0, 1, 0, 2, 5, 5]);
        assert_eq!(Frame::decode(&bytes), Ok(Frame::Start(start)));
        bytes.pop();
        assert_eq!(Frame::decode(&bytes), Err(BadFrame), "half an extension");
        assert_eq!(Frame::decode(&[200, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2]), Ok(Frame::Skipped));
        assert_eq!(Frame::decode(&[11, 0, 0, 0, 0, 0, 0, 0, 7]), Err(BadFrame));
        let abort = [6, 0, 0, 0, 0, 0, 0, 0, 7, 99];
        assert_eq!(Frame::decode(&abort), Ok(Frame::Abort(7, AbortReason::Reset)));
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
