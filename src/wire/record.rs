//! Records: `length (4) body`, and the [`Channel`] that seals frames into them and opens them again.
//!
//! On a sealed channel the body is one Noise transport message (Noise specification, section 12) of at most
//! [`SEALED_CLEAR_MAX`] bytes of plaintext. Each direction gets a new key (section 11.3, the nonce going on) before its
//! record number n × 2^20, counted from 0.
//!
//! On a plain channel (`--plain`, message connections only) the body is the frame itself, and behind every frame but
//! `Data` its tag (see [`super::tags`]). A long `Data` frame is passed on in pieces as it arrives, so nothing is
//! buffered by length.

use std::fmt;

use snow::TransportState;

use super::frame::{
    Frame, HEAD_BYTES, RECEIVED_FRAME_BYTES_MAX, SMALL_FRAME_BYTES_MAX, Sid, decode_data_head,
    encode_data_head,
};
use super::handshake::Proved;
use super::tags::{Progress, Sender, TAG_BYTES, TagKey, is_tag, tag};

/// Bytes of a record's length.
pub const LENGTH_BYTES: usize = 4;
/// Bytes that precede the payload of a `Data` record: length and head.
pub const HEADROOM: usize = LENGTH_BYTES + HEAD_BYTES;
/// Records under one key of a sealed direction.
const REKEY_STEP: u64 = 1 << 20;
/// Most plaintext in one sealed record: larger is slower and dearer.
pub const SEALED_CLEAR_MAX: usize = 16 * 1024;
/// Most payload in one sealed `Data` record.
const SEALED_DATA_MAX: usize = SEALED_CLEAR_MAX - HEAD_BYTES;
/// Most bytes of one plain record's body.
const PLAIN_BODY_MAX: usize = 1024 * 1024;
/// Most payload of one plain `Data` record.
pub const PLAIN_DATA_MAX: usize = PLAIN_BODY_MAX - HEAD_BYTES;
/// Most bytes of one record that is not plain `Data`.
pub const RECORD_BYTES_MAX: usize = LENGTH_BYTES + SEALED_CLEAR_MAX + TAG_BYTES;

/// Bytes of a small frame's record at most, as this program sends it, on either kind of channel.
pub const SMALL_RECORD_BYTES_MAX: usize = LENGTH_BYTES + SMALL_FRAME_BYTES_MAX + TAG_BYTES;

/// Bytes that `payload` bytes of `Data` take on the wire at most, on either kind of channel.
pub const fn wire_bytes(payload: usize) -> usize {
    payload + payload.div_ceil(SEALED_DATA_MAX) * (HEADROOM + TAG_BYTES)
}

/// Most payload whose records fit into `room` bytes, on either kind of channel.
pub const fn payload_fitting(room: usize) -> usize {
    let whole = SEALED_DATA_MAX + HEADROOM + TAG_BYTES;
    let rest = (room % whole).saturating_sub(HEADROOM + TAG_BYTES);
    room / whole * SEALED_DATA_MAX + rest
}

/// A record whose length is out of bounds, whose seal does not open, or whose frame means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record that does not open")
    }
}

/// What one call of [`Channel::open`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Bytes of the input that are done with; 0 if more input is needed.
    pub consumed: usize,
    /// The frame, if one is complete. A plain `Data` frame comes in pieces, each as a `Data` of its own.
    pub frame: Option<Frame<'a>>,
}

const NEED_MORE: Opened<'static> = Opened { consumed: 0, frame: None };

/// Both directions of a proved connection.
pub struct Channel(Kind);

/// What is larger than a few bytes is boxed, so that a connection's slot stays small.
enum Kind {
    /// Every record is sealed.
    Sealed(Box<Sealed>),
    /// `Data` travels as it is, every other frame with a tag.
    Plain {
        /// What it counts; nowhere only between [`Channel::unbox`] and [`Channel::rebox`].
        counts: Option<Box<Plain>>,
        /// Who this end is.
        end: Sender,
        /// Bytes of the unfinished `Data` frame that have not arrived.
        remaining: u32,
    },
}

/// The ciphers of a sealed channel.
struct Sealed {
    transport: TransportState,
    /// A direction gets its next key when these bits of its nonce are 0.
    rekey_mask: u64,
}

/// What a plain channel counts, and the key of its tags.
#[derive(Default)]
pub struct Plain {
    key: TagKey,
    sent: Progress,
    received: Progress,
    /// Session of the unfinished `Data` frame.
    sid: Sid,
}

impl Channel {
    /// The channel behind a finished handshake.
    pub fn new(proved: Proved, plain: bool) -> Channel {
        if !plain {
            return Channel::sealed(proved, REKEY_STEP);
        }
        let end = if proved.transport.is_initiator() { Sender::Initiator } else { Sender::Responder };
        let (sent, received) = (Progress::default(), Progress::default());
        let counts = Plain { key: proved.tag_key(), sent, received, sid: 0 };
        Channel(Kind::Plain { counts: Some(Box::new(counts)), end, remaining: 0 })
    }

    /// `rekey_step` is a power of two.
    fn sealed(proved: Proved, rekey_step: u64) -> Channel {
        let rekey_mask = rekey_step - 1;
        Channel(Kind::Sealed(Box::new(Sealed { transport: proved.transport, rekey_mask })))
    }

    /// Takes what a plain channel counts out of its place in memory, which is freed. It seals and opens nothing until
    /// [`Channel::rebox`].
    pub fn unbox(&mut self) -> Option<Plain> {
        match &mut self.0 {
            Kind::Sealed(_) => None,
            // Taken, not moved: what is left behind is wiped.
            Kind::Plain { counts, .. } => counts.take().map(|mut counts| std::mem::take(&mut *counts)),
        }
    }

    /// Gives what [`Channel::unbox`] took a new place.
    pub fn rebox(&mut self, plain: &mut Plain) {
        if let Kind::Plain { counts, .. } = &mut self.0 {
            *counts = Some(Box::new(std::mem::take(plain)));
        }
    }

    /// Whether payload travels as it is.
    pub fn is_plain(&self) -> bool {
        matches!(self.0, Kind::Plain { .. })
    }

    /// Writes one record with `clear` as its plaintext to the front of `out`; returns its length. `clear` is a frame
    /// other than `Data` of at most [`SEALED_CLEAR_MAX`] bytes, and `out` at least [`LENGTH_BYTES`] and a tag longer.
    pub fn seal(&mut self, clear: &[u8], out: &mut [u8]) -> Result<usize, BadRecord> {
        let (length, body) = out.split_first_chunk_mut::<LENGTH_BYTES>().ok_or(BadRecord)?;
        let body_bytes = match &mut self.0 {
            Kind::Sealed(sealed) => sealed.seal(clear, body)?,
            Kind::Plain { counts, end, .. } => counts.as_mut().ok_or(BadRecord)?.seal(*end, clear, body)?,
        };
        *length = (body_bytes as u32).to_be_bytes();
        Ok(LENGTH_BYTES + body_bytes)
    }

    /// Makes `Data` records of the bytes in `buffer` after its first [`HEADROOM`] bytes. Returns what to write:
    /// part of `buffer` on a plain channel, of `sealed` on a sealed one, which must have [`wire_bytes`] of room.
    pub fn seal_data<'a>(
        &mut self,
        sid: Sid,
        buffer: &'a mut [u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], BadRecord> {
        // Empty `Data` is no frame: the other end would refuse it.
        if buffer.len() <= HEADROOM {
            return Ok(&[]);
        }
        if let Some(header) = self.plain_data_header(sid, buffer.len() - HEADROOM) {
            buffer[..HEADROOM].copy_from_slice(&header);
            return Ok(buffer);
        }
        let head = encode_data_head(sid);
        let mut written = 0;
        let mut from = HEADROOM;
        while from < buffer.len() {
            let to = buffer.len().min(from + SEALED_DATA_MAX);
            // The bytes before this piece are headroom, or already sealed: the head may overwrite them.
            buffer[from - HEAD_BYTES..from].copy_from_slice(&head);
            written += self.seal(&buffer[from - HEAD_BYTES..to], &mut sealed[written..])?;
            from = to;
        }
        Ok(&sealed[..written])
    }

    /// Length and head of a plain `Data` record, whose `payload` bytes (from 1 to [`PLAIN_DATA_MAX`]) the caller sends
    /// behind them; `None` on a sealed channel. Nothing else may be sealed in between.
    pub fn plain_data_header(&mut self, sid: Sid, payload: usize) -> Option<[u8; HEADROOM]> {
        let Kind::Plain { counts: Some(counts), .. } = &mut self.0 else { return None };
        counts.sent.note_data(HEADROOM + payload);
        let mut header = [0; HEADROOM];
        header[..LENGTH_BYTES].copy_from_slice(&((payload + HEAD_BYTES) as u32).to_be_bytes());
        header[LENGTH_BYTES..].copy_from_slice(&encode_data_head(sid));
        Some(header)
    }

    /// Bytes of the plain `Data` record whose head was opened that have not arrived; 0 on a sealed channel.
    pub fn plain_left(&self) -> usize {
        match &self.0 {
            Kind::Sealed(_) => 0,
            Kind::Plain { remaining, .. } => *remaining as usize,
        }
    }

    /// Notes that so many of [`Channel::plain_left`] were taken from the socket by other means than
    /// [`Channel::open`].
    pub fn take_plain(&mut self, count: usize) {
        debug_assert!(count <= self.plain_left(), "no byte of the next record");
        if let Kind::Plain { remaining, .. } = &mut self.0 {
            *remaining = remaining.saturating_sub(count as u32);
        }
    }

    /// Opens the first frame of `input`. Plaintext goes to the front of `clear`, which is at least as long as
    /// `input` and is cut down to what is left of it, so that several frames can be held at once.
    pub fn open<'a>(&mut self, input: &'a [u8], clear: &mut &'a mut [u8]) -> Result<Opened<'a>, BadRecord> {
        match &mut self.0 {
            Kind::Sealed(sealed) => match sealed.open(input, clear)? {
                None => Ok(NEED_MORE),
                Some((consumed, clear)) => {
                    let frame = Frame::decode(clear).map_err(|_| BadRecord)?;
                    Ok(Opened { consumed, frame: Some(frame) })
                }
            },
            Kind::Plain { counts, end, remaining } => {
                counts.as_mut().ok_or(BadRecord)?.open(*end, remaining, input)
            }
        }
    }

    /// Opens the first sealed record of `input`: the bytes consumed and the plaintext.
    pub fn open_sealed<'a>(
        &mut self,
        input: &[u8],
        clear: &mut &'a mut [u8],
    ) -> Result<Option<(usize, &'a [u8])>, BadRecord> {
        match &mut self.0 {
            Kind::Sealed(sealed) => sealed.open(input, clear),
            Kind::Plain { .. } => Err(BadRecord),
        }
    }
}

impl Sealed {
    fn seal(&mut self, clear: &[u8], body: &mut [u8]) -> Result<usize, BadRecord> {
        let body_bytes = self.transport.write_message(clear, body).map_err(|_| BadRecord)?;
        if self.transport.sending_nonce() & self.rekey_mask == 0 {
            self.transport.rekey_outgoing();
        }
        Ok(body_bytes)
    }

    fn open<'a>(
        &mut self,
        input: &[u8],
        clear: &mut &'a mut [u8],
    ) -> Result<Option<(usize, &'a [u8])>, BadRecord> {
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let body_bytes = u32::from_be_bytes(*length) as usize;
        if body_bytes <= TAG_BYTES || body_bytes > SEALED_CLEAR_MAX + TAG_BYTES {
            return Err(BadRecord);
        }
        let Some(body) = rest.get(..body_bytes) else { return Ok(None) };
        let (out, rest) = std::mem::take(clear).split_at_mut_checked(body_bytes).ok_or(BadRecord)?;
        *clear = rest;
        let clear_bytes = self.transport.read_message(body, out).map_err(|_| BadRecord)?;
        if self.transport.receiving_nonce() & self.rekey_mask == 0 {
            self.transport.rekey_incoming();
        }
        Ok(Some((LENGTH_BYTES + body_bytes, &out[..clear_bytes])))
    }
}

impl Plain {
    fn seal(&mut self, end: Sender, frame: &[u8], body: &mut [u8]) -> Result<usize, BadRecord> {
        let body_bytes = frame.len() + TAG_BYTES;
        let body = body.get_mut(..body_bytes).ok_or(BadRecord)?;
        body[..frame.len()].copy_from_slice(frame);
        body[frame.len()..].copy_from_slice(&tag(&self.key, end, &self.sent, frame));
        self.sent.note_tagged();
        Ok(body_bytes)
    }

    fn open<'a>(
        &mut self,
        end: Sender,
        remaining: &mut u32,
        input: &'a [u8],
    ) -> Result<Opened<'a>, BadRecord> {
        let mut consumed = 0;
        if *remaining == 0 {
            let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
                return Ok(NEED_MORE);
            };
            let body_bytes = u32::from_be_bytes(*length) as usize;
            if !(HEAD_BYTES..=PLAIN_BODY_MAX).contains(&body_bytes) {
                return Err(BadRecord);
            }
            let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(NEED_MORE) };
            let Some(sid) = decode_data_head(head) else { return self.open_tagged(end, rest, body_bytes) };
            if sid == 0 || body_bytes == HEAD_BYTES {
                return Err(BadRecord);
            }
            self.received.note_data(LENGTH_BYTES + body_bytes);
            (self.sid, *remaining) = (sid, (body_bytes - HEAD_BYTES) as u32);
            consumed = HEADROOM;
        }
        let available = &input[consumed..input.len().min(consumed + *remaining as usize)];
        *remaining -= available.len() as u32;
        let frame = (!available.is_empty()).then_some(Frame::Data(self.sid, available));
        Ok(Opened { consumed: consumed + available.len(), frame })
    }

    /// Opens a record other than `Data`, whose length has been read.
    fn open_tagged<'a>(
        &mut self,
        end: Sender,
        rest: &'a [u8],
        body_bytes: usize,
    ) -> Result<Opened<'a>, BadRecord> {
        let frame_bytes = body_bytes.checked_sub(TAG_BYTES).ok_or(BadRecord)?;
        if !(HEAD_BYTES..=RECEIVED_FRAME_BYTES_MAX).contains(&frame_bytes) {
            return Err(BadRecord);
        }
        let Some(body) = rest.get(..body_bytes) else { return Ok(NEED_MORE) };
        let (frame, tag) = body.split_at(frame_bytes);
        if !is_tag(&self.key, end.other(), &self.received, frame, tag) {
            return Err(BadRecord);
        }
        self.received.note_tagged();
        let frame = Frame::decode(frame).map_err(|_| BadRecord)?;
        Ok(Opened { consumed: LENGTH_BYTES + body_bytes, frame: Some(frame) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::super::frame::{AbortReason, Start};
    use super::super::handshake::{ClearHello, Initiator, Purpose, Responder, Secret, Suite, key_id};
    use super::*;
    use proptest::prelude::*;

    /// What one turn of the relay reads at most: a ring, less the headroom in front of it.
    const RELAYED_MAX: usize = 64 * 1024 - HEADROOM;

    /// Both ends of a finished handshake. Suites take turns, so that both are used.
    fn proved() -> [Proved; 2] {
        static TURN: AtomicU8 = AtomicU8::new(0);
        let suite = [Suite::AesGcm, Suite::ChaChaPoly][usize::from(TURN.fetch_add(1, Ordering::Relaxed) % 2)];
        let psk = Secret::new([7; 32]);
        let hello = ClearHello { suite, purpose: Purpose::Message, key_id: key_id(&psk) };
        let (initiator, flight) = Initiator::begin(hello, &psk, 1).expect("begins");
        let (responder, _) = Responder::verify(hello, &psk, &flight).expect("proved");
        let (answer, server) = responder.answer().expect("answers");
        [initiator.finish(&answer).expect("finishes"), server]
    }

    /// Both ends of a proved connection.
    fn pair(plain: bool) -> (Channel, Channel) {
        let [client, server] = proved().map(|end| Channel::new(end, plain));
        (client, server)
    }

    /// Both ends of a sealed connection that gets new keys as often.
    fn rekeyed_pair(step: u64) -> (Channel, Channel) {
        let [client, server] = proved().map(|end| Channel::sealed(end, step));
        (client, server)
    }

    /// What was sent or has arrived. Where one `Data` ends and the next begins is no part of it.
    #[derive(Clone, Debug, PartialEq)]
    enum Said {
        Data(Sid, Vec<u8>),
        Small(Frame<'static>),
    }

    fn note_data(said: &mut Vec<Said>, sid: Sid, bytes: &[u8]) {
        match said.last_mut() {
            Some(Said::Data(last, noted)) if *last == sid => noted.extend(bytes),
            _ => said.push(Said::Data(sid, bytes.to_vec())),
        }
    }

    fn note(said: &mut Vec<Said>, frame: Frame) {
        said.push(Said::Small(match frame {
            Frame::Data(sid, bytes) => return note_data(said, sid, bytes),
            Frame::Start(start) => Frame::Start(start),
            Frame::Accepted(sid) => Frame::Accepted(sid),
            Frame::Started(sid) => Frame::Started(sid),
            Frame::Fin(sid) => Frame::Fin(sid),
            Frame::Abort(sid, reason) => Frame::Abort(sid, reason),
            Frame::Ping => Frame::Ping,
            Frame::Pong => Frame::Pong,
            Frame::Drain => Frame::Drain,
            Frame::Alive(sid) => Frame::Alive(sid),
            Frame::Skipped => Frame::Skipped,
        }));
    }

    fn sealed_small(channel: &mut Channel, frame: Frame) -> Vec<u8> {
        let mut out = [0; SMALL_RECORD_BYTES_MAX];
        let len = channel.seal(&frame.encode(), &mut out).expect("seals");
        out[..len].to_vec()
    }

    fn sealed_data(channel: &mut Channel, sid: Sid, payload: &[u8]) -> Vec<u8> {
        let mut buffer = [&[0; HEADROOM], payload].concat();
        let mut sealed = vec![0; wire_bytes(payload.len())];
        channel.seal_data(sid, &mut buffer, &mut sealed).expect("seals").to_vec()
    }

    fn sealed(channel: &mut Channel, said: &[Said]) -> Vec<u8> {
        let seal = |said: &Said| match said {
            Said::Data(sid, payload) => sealed_data(channel, *sid, payload),
            Said::Small(frame) => sealed_small(channel, *frame),
        };
        said.iter().flat_map(seal).collect()
    }

    /// The receiving end of a stream: keeps what is not yet done with, as the relay's input buffer does.
    struct Receiver {
        channel: Channel,
        input: Vec<u8>,
        clear: Vec<u8>,
        said: Vec<Said>,
    }

    impl Receiver {
        fn new(channel: Channel) -> Receiver {
            Receiver { channel, input: Vec::new(), clear: vec![0; 256 * 1024], said: Vec::new() }
        }

        fn feed(&mut self, bytes: &[u8]) {
            self.input.extend(bytes);
            loop {
                let opened = self.channel.open(&self.input, &mut &mut self.clear[..]).expect("opens");
                let consumed = opened.consumed;
                if let Some(frame) = opened.frame {
                    note(&mut self.said, frame);
                }
                if consumed == 0 {
                    break;
                }
                self.input.drain(..consumed);
            }
        }

        /// What was said since the last call, all of which must have been opened by now.
        fn heard(&mut self) -> Vec<Said> {
            assert!(self.input.is_empty(), "{} bytes were not opened", self.input.len());
            std::mem::take(&mut self.said)
        }
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    fn start() -> Start {
        let user = "[2001:db8::1]:443".parse().expect("an address");
        let asked = "192.0.2.1:80".parse().expect("an address");
        let publication = 1;
        Start { sid: 7, first_sid: 3, publication, port_offset: 2, user, asked, number: 9 }
    }

    /// A whole session, short enough to be cut everywhere.
    fn session() -> Vec<Said> {
        vec![
            Said::Small(Frame::Ping),
            Said::Small(Frame::Start(start())),
            Said::Data(7, b"hello".to_vec()),
            Said::Small(Frame::Accepted(7)),
            Said::Small(Frame::Started(7)),
            Said::Small(Frame::Alive(7)),
            Said::Data(7, payload(40)),
            Said::Small(Frame::Fin(7)),
            Said::Small(Frame::Abort(7, AbortReason::Reset)),
            Said::Small(Frame::Pong),
            Said::Small(Frame::Drain),
        ]
    }

    fn said() -> impl Strategy<Value = Vec<Said>> {
        let lengths = prop_oneof![
            8 => 1..200usize,
            1 => SEALED_DATA_MAX - 1..=SEALED_DATA_MAX + 1,
            1 => Just(RELAYED_MAX),
        ];
        let one = prop_oneof![
            (1..4u64, lengths).prop_map(|(sid, len)| Said::Data(sid, payload(len))),
            (1..4u64).prop_map(|sid| Said::Small(Frame::Fin(sid))),
            (1..4u64).prop_map(|sid| Said::Small(Frame::Abort(sid, AbortReason::Refused))),
            Just(Said::Small(Frame::Ping)),
        ];
        proptest::collection::vec(one, 1..8)
    }

    /// The same with neighbouring `Data` of one session joined, as [`note`] joins them.
    fn joined(said: &[Said]) -> Vec<Said> {
        let mut out = Vec::new();
        for one in said {
            match one {
                Said::Data(sid, bytes) => note_data(&mut out, *sid, bytes),
                Said::Small(frame) => note(&mut out, *frame),
            }
        }
        out
    }

    fn opens_nothing(channel: &mut Channel, input: &[u8]) -> bool {
        channel.open(input, &mut &mut [0; 64][..]) == Ok(NEED_MORE)
    }

    fn refuses(channel: &mut Channel, input: &[u8]) -> bool {
        channel.open(input, &mut &mut vec![0; input.len()][..]) == Err(BadRecord)
    }

    #[test]
    fn data_of_every_length_survives_the_wire() {
        let around = |len| [len - 1, len, len + 1];
        let mut lengths = vec![1, 2, RELAYED_MAX];
        lengths.extend((1..=3).flat_map(|records| around(records * SEALED_DATA_MAX)));
        for plain in [false, true] {
            let (mut client, server) = pair(plain);
            let mut server = Receiver::new(server);
            for &len in &lengths {
                let wire = sealed_data(&mut client, 9, &payload(len));
                let expected = if plain { len + HEADROOM } else { wire_bytes(len) };
                assert_eq!(wire.len(), expected, "plain: {plain}, {len} bytes");
                server.feed(&wire);
                assert!(server.heard() == [Said::Data(9, payload(len))], "plain: {plain}, {len} bytes");
            }
        }
    }

    #[test]
    fn no_payload_makes_no_record() {
        for plain in [false, true] {
            assert_eq!(sealed_data(&mut pair(plain).0, 9, &[]), [], "plain: {plain}");
        }
    }

    #[test]
    fn a_stream_may_be_cut_anywhere_once() {
        for plain in [false, true] {
            let (mut client, server) = pair(plain);
            let mut server = Receiver::new(server);
            let len = sealed(&mut client, &session()).len();
            // The first stream was sealed to be measured only; a sealed channel counts it.
            let (mut client, fresh) = pair(plain);
            server.channel = fresh;
            for cut in 0..=len {
                let wire = sealed(&mut client, &session());
                server.feed(&wire[..cut]);
                server.feed(&wire[cut..]);
                assert_eq!(server.heard(), session(), "plain: {plain}, cut at {cut}");
            }
        }
    }

    #[test]
    fn a_stream_may_come_byte_by_byte_and_both_ways() {
        for plain in [false, true] {
            let (client, server) = pair(plain);
            let (mut client, mut server) = (Receiver::new(client), Receiver::new(server));
            for _ in 0..2 {
                for (from, to) in [(0, 1), (1, 0)] {
                    let ends = [&mut client, &mut server];
                    let wire = sealed(&mut ends[from].channel, &session());
                    for byte in wire {
                        ends[to].feed(&[byte]);
                    }
                    assert_eq!(ends[to].heard(), session());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn a_stream_may_be_cut_anywhere_many_times(
            said in said(),
            plain in any::<bool>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..24),
        ) {
            let (mut client, server) = pair(plain);
            let mut server = Receiver::new(server);
            let wire = sealed(&mut client, &said);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for to in cuts.into_iter().chain([wire.len()]) {
                server.feed(&wire[from..to]);
                from = to;
            }
            prop_assert!(server.heard() == joined(&said));
        }

        #[test]
        fn garbage_neither_panics_nor_is_overrun(
            garbage in proptest::collection::vec(any::<u8>(), 0..80),
            length in prop_oneof![0..64u32, any::<u32>()],
            plain in any::<bool>(),
        ) {
            let (mut channel, _) = pair(plain);
            let input = [&length.to_be_bytes()[..], &garbage].concat();
            let mut at = 0;
            while let Ok(opened) = channel.open(&input[at..], &mut &mut [0; 128][..]) {
                at += opened.consumed;
                prop_assert!(at <= input.len());
                prop_assert!(plain || opened.frame.is_none(), "garbage must not open");
                if opened.consumed == 0 {
                    break;
                }
            }
        }

        #[test]
        fn a_payload_that_fits_fits_and_one_more_byte_does_not(room in 0..5 * RECORD_BYTES_MAX) {
            let payload = payload_fitting(room);
            prop_assert!(wire_bytes(payload) <= room);
            prop_assert!(wire_bytes(payload + 1) > room);
        }
    }

    #[test]
    fn a_plain_record_never_takes_more_than_a_sealed_one() {
        for len in [1, SEALED_DATA_MAX, SEALED_DATA_MAX + 1, RELAYED_MAX] {
            assert!(sealed_data(&mut pair(true).0, 1, &payload(len)).len() <= wire_bytes(len));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_sealed_record_is_refused() {
        let (mut client, mut server) = pair(false);
        let record = sealed_small(&mut client, Frame::Abort(7, AbortReason::Reset));
        let mut clear = vec![0; 2 * RECORD_BYTES_MAX];
        for bit in 0..record.len() * 8 {
            // A flipped length may ask for more: let it come, and be no better.
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped.resize(2 * RECORD_BYTES_MAX, 0);
            assert_eq!(server.open(&flipped, &mut &mut clear[..]), Err(BadRecord), "bit {bit}");
        }
        let opened =
            server.open(&record, &mut &mut clear[..]).expect("what was refused has not moved the channel");
        assert_eq!(opened.frame, Some(Frame::Abort(7, AbortReason::Reset)));
    }

    #[test]
    fn a_sealed_record_opens_once_in_its_order_and_at_the_other_end_only() {
        let (mut client, mut server) = pair(false);
        let first = sealed_small(&mut client, Frame::Accepted(7));
        let second = sealed_small(&mut client, Frame::Started(7));
        assert!(refuses(&mut server, &second), "one is missing before it");
        assert!(refuses(&mut client, &first), "reflected to its sender");
        assert!(refuses(&mut pair(false).1, &first), "of another connection");
        let opened = |channel: &mut Channel, record| {
            let mut clear = [0; SMALL_RECORD_BYTES_MAX];
            channel.open(record, &mut &mut clear[..]).map(|opened| opened.consumed)
        };
        assert_eq!(opened(&mut server, &first), Ok(first.len()));
        assert!(refuses(&mut server, &first), "a duplicate");
        assert_eq!(opened(&mut server, &second), Ok(second.len()));
    }

    #[test]
    fn a_bad_length_is_refused_before_anything_follows_it() {
        let longest = SEALED_CLEAR_MAX + TAG_BYTES;
        let (mut sealed, _) = pair(false);
        for length in [0, 1, TAG_BYTES - 1, TAG_BYTES, longest + 1, u32::MAX as usize] {
            assert!(refuses(&mut sealed, &(length as u32).to_be_bytes()), "sealed, {length}");
        }
        // One byte of plaintext is the shortest control frame: it may come, and is refused as a session frame.
        for length in [TAG_BYTES + 1, longest] {
            assert!(opens_nothing(&mut sealed, &(length as u32).to_be_bytes()), "sealed, {length}");
        }
        let (mut plain, _) = pair(true);
        for length in [0, 1, HEAD_BYTES - 1, PLAIN_BODY_MAX + 1, u32::MAX as usize] {
            assert!(refuses(&mut plain, &(length as u32).to_be_bytes()), "plain, {length}");
        }
        for length in [HEAD_BYTES, PLAIN_BODY_MAX] {
            assert!(opens_nothing(&mut plain, &(length as u32).to_be_bytes()), "plain, {length}");
        }
    }

    #[test]
    fn several_frames_are_held_at_once() {
        for plain in [false, true] {
            let (mut client, mut server) = pair(plain);
            let wire =
                [sealed_data(&mut client, 7, b"hello"), sealed_small(&mut client, Frame::Fin(7))].concat();
            let mut clear = vec![0; wire.len()];
            let mut clear = &mut clear[..];
            let first = server.open(&wire, &mut clear).expect("opens");
            let second = server.open(&wire[first.consumed..], &mut clear).expect("opens");
            assert_eq!(first.consumed + second.consumed, wire.len());
            assert_eq!((first.frame, second.frame), (Some(Frame::Data(7, b"hello")), Some(Frame::Fin(7))));
        }
    }

    #[test]
    fn too_little_room_for_plaintext_is_an_error_and_no_panic() {
        let (mut client, mut server) = pair(false);
        let record = sealed_small(&mut client, Frame::Ping);
        for room in 0..HEAD_BYTES + TAG_BYTES {
            assert_eq!(server.open(&record, &mut &mut vec![0; room][..]), Err(BadRecord), "{room}");
        }
    }

    #[test]
    fn a_sealed_record_that_is_no_session_frame_is_refused() {
        let (mut client, mut server) = pair(false);
        let mut unnumbered = encode_data_head(0).to_vec();
        unnumbered.push(1);
        for clear in [&[5][..], &encode_data_head(7), &unnumbered, &[11, 0, 0, 0, 0, 0, 0, 0, 7]] {
            let mut out = [0; SMALL_RECORD_BYTES_MAX];
            let len = client.seal(clear, &mut out).expect("seals");
            // It opens, so the channels stay in step; only what it says is refused.
            assert!(refuses(&mut server, &out[..len]), "{clear:?}");
        }
    }

    #[test]
    fn plain_data_without_a_session_or_bytes_is_refused_at_its_head() {
        let announced = |body_bytes: usize, sid| {
            let mut wire = (body_bytes as u32).to_be_bytes().to_vec();
            wire.extend(encode_data_head(sid));
            wire
        };
        assert!(refuses(&mut pair(true).0, &announced(HEAD_BYTES + 5, 0)));
        assert!(refuses(&mut pair(true).0, &announced(HEAD_BYTES, 7)));
        let opened = Opened { consumed: HEADROOM, frame: None };
        assert_eq!(pair(true).0.open(&announced(HEAD_BYTES + 5, 7), &mut &mut [][..]), Ok(opened));
    }

    /// The record of a frame that this program does not send.
    fn sealed_bytes(channel: &mut Channel, frame: &[u8]) -> Vec<u8> {
        let mut out = vec![0; LENGTH_BYTES + frame.len() + TAG_BYTES];
        let len = channel.seal(frame, &mut out).expect("seals");
        assert_eq!(len, out.len());
        out
    }

    #[test]
    fn an_unknown_plain_kind_is_refused_though_its_tag_is_good() {
        for kind in [0, 11, 127] {
            let (mut client, mut server) = pair(true);
            let mut frame = encode_data_head(7);
            frame[0] = kind;
            assert!(refuses(&mut server, &sealed_bytes(&mut client, &frame)), "kind {kind}");
        }
    }

    #[test]
    fn what_a_newer_version_adds_is_skipped() {
        for plain in [false, true] {
            let (mut client, mut server) = pair(plain);
            let mut newer = Frame::Start(start()).encode().to_vec();
            let extension = RECEIVED_FRAME_BYTES_MAX - newer.len() - 4;
            newer.extend([0xab, 0xcd]);
            newer.extend((extension as u16).to_be_bytes());
            newer.resize(RECEIVED_FRAME_BYTES_MAX, 1);
            let unknown = [&[200], &encode_data_head(7)[1..], b"more"].concat();
            for (frame, expected) in [(newer, Frame::Start(start())), (unknown, Frame::Skipped)] {
                let record = sealed_bytes(&mut client, &frame);
                let mut clear = vec![0; record.len()];
                let opened = server.open(&record, &mut &mut clear[..]).map(|opened| opened.frame);
                assert_eq!(opened, Ok(Some(expected)), "plain: {plain}");
            }
        }
    }

    #[test]
    fn a_plain_frame_that_is_too_short_for_a_tag_or_too_long_is_refused_at_its_head() {
        let least = HEAD_BYTES + TAG_BYTES;
        let most = RECEIVED_FRAME_BYTES_MAX + TAG_BYTES;
        let announced = |length: usize| {
            let mut fin = [&(length as u32).to_be_bytes()[..], &encode_data_head(7)].concat();
            fin[LENGTH_BYTES] = 5;
            fin
        };
        for length in [HEAD_BYTES, least - 1, most + 1] {
            assert!(refuses(&mut pair(true).0, &announced(length)), "{length}");
        }
        for length in [least, most] {
            assert!(opens_nothing(&mut pair(true).0, &announced(length)), "{length}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_tagged_frame_is_refused() {
        let (mut client, mut server) = pair(true);
        let record = sealed_small(&mut client, Frame::Fin(7));
        for bit in LENGTH_BYTES * 8..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if decode_data_head(flipped[LENGTH_BYTES..].first_chunk().expect("a head")).is_some() {
                // It has become `Data`, which has no tag: the next frame that has one tells.
                let (mut client, mut server) = pair(true);
                let _ = sealed_small(&mut client, Frame::Fin(7));
                assert!(opens_all(&mut server, &flipped));
                assert!(refuses(&mut server, &sealed_small(&mut client, Frame::Ping)), "bit {bit}");
                continue;
            }
            assert!(refuses(&mut server, &flipped), "bit {bit}");
        }
        let opened = server.open(&record, &mut &mut [][..]).map(|opened| opened.frame);
        assert_eq!(opened, Ok(Some(Frame::Fin(7))), "what was refused has not moved the channel");
    }

    #[test]
    fn a_flipped_length_of_a_tagged_frame_is_refused_once_all_of_it_is_there() {
        let record = sealed_small(&mut pair(true).0, Frame::Fin(7));
        for bit in 0..LENGTH_BYTES * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped.resize(RECEIVED_FRAME_BYTES_MAX + LENGTH_BYTES + TAG_BYTES, 0);
            assert!(refuses(&mut pair(true).1, &flipped), "bit {bit}");
        }
    }

    #[test]
    fn a_tagged_frame_opens_once_in_its_order_and_at_the_other_end_only() {
        let (mut client, mut server) = pair(true);
        let first = sealed_small(&mut client, Frame::Accepted(7));
        let second = sealed_small(&mut client, Frame::Started(7));
        assert!(refuses(&mut server, &second), "one is missing before it");
        assert!(refuses(&mut client, &first), "reflected to its sender");
        assert!(refuses(&mut pair(true).1, &first), "of another connection");
        let untagged = [&(HEAD_BYTES as u32).to_be_bytes()[..], &Frame::Accepted(7).encode()].concat();
        assert!(refuses(&mut server, &untagged), "of somebody without the key");
        assert!(server.open(&first, &mut &mut [][..]).is_ok());
        assert!(refuses(&mut server, &first), "a duplicate");
        assert!(server.open(&second, &mut &mut [][..]).is_ok());
    }

    /// Opens all of `wire`; true if every record was good.
    fn opens_all(channel: &mut Channel, mut wire: &[u8]) -> bool {
        while !wire.is_empty() {
            match channel.open(wire, &mut &mut [][..]) {
                Ok(opened) if opened.consumed > 0 => wire = &wire[opened.consumed..],
                _ => return false,
            }
        }
        true
    }

    #[test]
    fn a_data_record_forged_dropped_cut_or_lengthened_is_refused_with_the_next_tagged_frame() {
        let wires = || {
            let (mut client, server) = pair(true);
            let data = [sealed_data(&mut client, 7, &payload(60)), sealed_data(&mut client, 7, b"world")];
            (data, sealed_small(&mut client, Frame::Fin(7)), server)
        };
        let (forged, ..) = wires();
        type Change<'a> = &'a dyn Fn([Vec<u8>; 2]) -> Vec<Vec<u8>>;
        let changes: [(&str, Change); 8] = [
            ("whole", &|[one, two]| vec![one, two]),
            ("one is dropped", &|[one, _]| vec![one]),
            ("all are dropped", &|_| vec![]),
            ("one is doubled", &|[one, two]| vec![one.clone(), one, two]),
            ("one is forged", &|[one, two]| vec![one, two, forged[1].clone()]),
            ("one is a byte longer", &|[one, mut two]| {
                two.push(0);
                two[LENGTH_BYTES - 1] += 1;
                vec![one, two]
            }),
            ("one is a byte shorter", &|[one, mut two]| {
                two.pop();
                two[LENGTH_BYTES - 1] -= 1;
                vec![one, two]
            }),
            // As many bytes as before, but fewer of them payload.
            ("one is two", &|[mut one, two]| {
                one[LENGTH_BYTES - 1] = HEAD_BYTES as u8 + 30;
                let second = [&[0, 0, 0, HEAD_BYTES as u8 + 17][..], &one[LENGTH_BYTES..HEADROOM]].concat();
                one.splice(HEADROOM + 30..HEADROOM + 43, second);
                vec![one, two]
            }),
        ];
        for (case, change) in changes {
            let (data, fin, mut server) = wires();
            assert!(opens_all(&mut server, &change(data).concat()), "{case}: Data has no tag");
            assert_eq!(opens_all(&mut server, &fin), case == "whole", "{case}");
        }
    }

    #[test]
    fn data_that_passes_by_the_channel_is_counted() {
        let (mut client, mut server) = pair(true);
        for round in 0..3 {
            let header = client.plain_data_header(7, 100).expect("plain");
            let before = Opened { consumed: HEADROOM, frame: None };
            assert_eq!(server.open(&header, &mut &mut [][..]), Ok(before));
            server.take_plain(60);
            assert_eq!(server.plain_left(), 40, "{round}");
            let rest = Opened { consumed: 40, frame: Some(Frame::Data(7, &[1; 40])) };
            assert_eq!(server.open(&[1; 50], &mut &mut [][..]), Ok(rest));
            let ping = sealed_small(&mut client, Frame::Ping);
            assert!(opens_all(&mut server, &ping), "{round}");
        }
        assert_eq!(pair(false).0.plain_data_header(7, 100), None);
    }

    #[test]
    fn a_plain_channel_goes_on_after_its_counts_were_moved() {
        let (mut client, mut server) = pair(true);
        let before = sealed(&mut client, &session());
        let mut counts = [client.unbox().expect("it is plain"), server.unbox().expect("it is plain")];
        assert!(refuses(&mut server, &before), "nothing opens meanwhile");
        assert!(client.seal(&Frame::Ping.encode(), &mut [0; SMALL_RECORD_BYTES_MAX]).is_err());
        client.rebox(&mut counts[0]);
        server.rebox(&mut counts[1]);
        let after = sealed(&mut client, &session());
        assert!(opens_all(&mut server, &[before, after].concat()));
    }

    #[test]
    fn each_direction_gets_its_own_new_keys_and_thousands_of_records_pass() {
        let (mut client, mut server) = rekeyed_pair(8);
        for number in 0..3_000u64 {
            let mut clear = [0; SMALL_RECORD_BYTES_MAX];
            let record = sealed_small(&mut client, Frame::Fin(number + 1));
            let opened = server.open(&record, &mut &mut clear[..]).map(|opened| opened.frame);
            assert_eq!(opened, Ok(Some(Frame::Fin(number + 1))));
            // The other direction is slower.
            if number % 3 == 0 {
                let record = sealed_small(&mut server, Frame::Accepted(number + 1));
                let opened = client.open(&record, &mut &mut clear[..]).map(|opened| opened.frame);
                assert_eq!(opened, Ok(Some(Frame::Accepted(number + 1))));
            }
        }
    }

    #[test]
    fn a_record_of_the_old_key_does_not_open_after_the_step() {
        for step in [1, 8] {
            // The sender never changes its key; the receiver does.
            let [client, server] = proved();
            let mut client = Channel::sealed(client, 1 << 63);
            let mut server = Channel::sealed(server, step);
            for number in 0..step {
                let record = sealed_small(&mut client, Frame::Ping);
                let opened = server.open(&record, &mut &mut [0; 64][..]).map(|opened| opened.consumed);
                assert_eq!(opened, Ok(record.len()), "{number} of {step}");
            }
            assert!(refuses(&mut server, &sealed_small(&mut client, Frame::Ping)), "{step}");
        }
    }

    #[test]
    fn the_key_changes_before_record_2_to_the_20() {
        let (client, _) = pair(false);
        let Kind::Sealed(sealed) = client.0 else { panic!("sealed") };
        assert_eq!(sealed.rekey_mask, 0xf_ffff);
    }

    #[test]
    fn a_plain_channel_is_small() {
        assert!(size_of::<Channel>() <= 16 && size_of::<Plain>() <= 72, "{}", size_of::<Plain>());
    }

    #[test]
    fn a_long_plain_data_frame_is_passed_on_as_it_arrives() {
        let (mut client, mut server) = pair(true);
        let wire = sealed_data(&mut client, 7, b"hello, world");
        let (head, rest) = wire.split_at(HEADROOM);
        assert!(opens_nothing(&mut server, &head[..HEADROOM - 1]));
        let piece = |consumed, bytes| Ok(Opened { consumed, frame: Some(Frame::Data(7, bytes)) });
        assert_eq!(server.open(&wire[..HEADROOM + 5], &mut &mut [][..]), piece(HEADROOM + 5, b"hello"));
        assert!(opens_nothing(&mut server, &[]));
        let next = sealed_small(&mut client, Frame::Fin(7));
        let remaining = [&rest[5..], &next].concat();
        assert_eq!(
            server.open(&remaining, &mut &mut [][..]),
            piece(7, b", world"),
            "not a byte of the next frame"
        );
        assert_eq!(server.open(&next, &mut &mut [][..]).map(|opened| opened.frame), Ok(Some(Frame::Fin(7))));
    }

    #[test]
    fn too_little_room_is_an_error_and_no_panic() {
        for plain in [false, true] {
            let (mut client, _) = pair(plain);
            let clear = Frame::Fin(7).encode();
            let needed = LENGTH_BYTES + clear.len() + TAG_BYTES;
            for room in 0..needed {
                assert_eq!(client.seal(&clear, &mut vec![0; room]), Err(BadRecord), "plain: {plain}, {room}");
            }
            assert_eq!(client.seal(&clear, &mut vec![0; needed]), Ok(needed));
        }
    }

    #[test]
    fn a_plain_channel_opens_no_sealed_record() {
        let record = sealed_small(&mut pair(false).0, Frame::Ping);
        assert_eq!(pair(true).1.open_sealed(&record, &mut &mut [0; 64][..]), Err(BadRecord));
    }
}
