//! Records: `length (4) body`, and the [`Channel`] that seals frames into them and opens them again.
//!
//! On a sealed channel the body is one Noise transport message (Noise specification, section 12) of at most
//! [`SEALED_CLEAR_MAX`] bytes of plaintext. On a plain channel (`--plain`, message connections only) the body is
//! the frame itself; a long `Data` frame is passed on in pieces as it arrives, so nothing is buffered by length.

use std::fmt;

use snow::TransportState;

use super::frame::{
    Frame, HEAD_BYTES, SMALL_FRAME_BYTES_MAX, Sid, TAKEN_FRAME_BYTES_MAX, decode_data_head, encode_data_head,
};

/// Bytes of a record's length.
pub const LENGTH_BYTES: usize = 4;
/// Bytes that precede the payload of a `Data` record: length and head.
pub const HEADROOM: usize = LENGTH_BYTES + HEAD_BYTES;
/// Bytes of an AEAD tag.
const TAG_BYTES: usize = 16;
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

/// Bytes of a small frame's record at most, on either kind of channel.
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

/// Length and head of a plain `Data` record with `payload` bytes (at most [`PLAIN_DATA_MAX`]) to follow.
pub fn plain_data_header(sid: Sid, payload: usize) -> [u8; HEADROOM] {
    let mut header = [0; HEADROOM];
    header[..LENGTH_BYTES].copy_from_slice(&((payload + HEAD_BYTES) as u32).to_be_bytes());
    header[LENGTH_BYTES..].copy_from_slice(&encode_data_head(sid));
    header
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
pub enum Channel {
    /// Every record is sealed.
    Sealed(Box<TransportState>),
    /// Records travel as they are. `remaining` bytes of the `Data` frame of session `sid` are still to come.
    Plain {
        /// Session of the unfinished `Data` frame.
        sid: Sid,
        /// Its bytes that have not arrived.
        remaining: u32,
    },
}

impl Channel {
    /// The channel behind a finished handshake.
    pub fn new(transport: TransportState, plain: bool) -> Channel {
        if plain { Channel::Plain { sid: 0, remaining: 0 } } else { Channel::Sealed(Box::new(transport)) }
    }

    /// Writes one record with `clear` as its plaintext to the front of `out`; returns its length. `clear` is at
    /// most [`SEALED_CLEAR_MAX`] bytes and `out` at least [`LENGTH_BYTES`] and a tag longer.
    pub fn seal(&mut self, clear: &[u8], out: &mut [u8]) -> Result<usize, BadRecord> {
        let (length, body) = out.split_first_chunk_mut::<LENGTH_BYTES>().ok_or(BadRecord)?;
        let body_bytes = match self {
            Channel::Sealed(transport) => transport.write_message(clear, body).map_err(|_| BadRecord)?,
            Channel::Plain { .. } => {
                body.get_mut(..clear.len()).ok_or(BadRecord)?.copy_from_slice(clear);
                clear.len()
            }
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
        let head = encode_data_head(sid);
        if let Channel::Plain { .. } = self {
            let body_bytes = (buffer.len() - LENGTH_BYTES) as u32;
            buffer[..LENGTH_BYTES].copy_from_slice(&body_bytes.to_be_bytes());
            buffer[LENGTH_BYTES..HEADROOM].copy_from_slice(&head);
            return Ok(buffer);
        }
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

    /// Opens the first frame of `input`. Plaintext goes to the front of `clear`, which is at least as long as
    /// `input` and is cut down to what is left of it, so that several frames can be held at once.
    pub fn open<'a>(&mut self, input: &'a [u8], clear: &mut &'a mut [u8]) -> Result<Opened<'a>, BadRecord> {
        match self {
            Channel::Sealed(_) => match self.open_sealed(input, clear)? {
                None => Ok(NEED_MORE),
                Some((consumed, clear)) => {
                    let frame = Frame::decode(clear).map_err(|_| BadRecord)?;
                    Ok(Opened { consumed, frame: Some(frame) })
                }
            },
            Channel::Plain { sid, remaining } => open_plain(sid, remaining, input),
        }
    }

    /// Opens the first sealed record of `input`: the bytes consumed and the plaintext.
    pub fn open_sealed<'a>(
        &mut self,
        input: &[u8],
        clear: &mut &'a mut [u8],
    ) -> Result<Option<(usize, &'a [u8])>, BadRecord> {
        let Channel::Sealed(transport) = self else { return Err(BadRecord) };
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let body_bytes = u32::from_be_bytes(*length) as usize;
        if body_bytes <= TAG_BYTES || body_bytes > SEALED_CLEAR_MAX + TAG_BYTES {
            return Err(BadRecord);
        }
        let Some(body) = rest.get(..body_bytes) else { return Ok(None) };
        let (out, rest) = std::mem::take(clear).split_at_mut_checked(body_bytes).ok_or(BadRecord)?;
        *clear = rest;
        let clear_bytes = transport.read_message(body, out).map_err(|_| BadRecord)?;
        Ok(Some((LENGTH_BYTES + body_bytes, &out[..clear_bytes])))
    }
}

fn open_plain<'a>(sid: &mut Sid, remaining: &mut u32, input: &'a [u8]) -> Result<Opened<'a>, BadRecord> {
    let mut consumed = 0;
    if *remaining == 0 {
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(NEED_MORE) };
        let body_bytes = u32::from_be_bytes(*length) as usize;
        if !(HEAD_BYTES..=PLAIN_BODY_MAX).contains(&body_bytes) {
            return Err(BadRecord);
        }
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(NEED_MORE) };
        let Some(data_sid) = decode_data_head(head) else {
            if body_bytes > TAKEN_FRAME_BYTES_MAX {
                return Err(BadRecord);
            }
            let Some(body) = rest.get(..body_bytes) else { return Ok(NEED_MORE) };
            let frame = Frame::decode(body).map_err(|_| BadRecord)?;
            return Ok(Opened { consumed: LENGTH_BYTES + body_bytes, frame: Some(frame) });
        };
        if data_sid == 0 || body_bytes == HEAD_BYTES {
            return Err(BadRecord);
        }
        (*sid, *remaining) = (data_sid, (body_bytes - HEAD_BYTES) as u32);
        consumed = HEADROOM;
    }
    let available = &input[consumed..input.len().min(consumed + *remaining as usize)];
    *remaining -= available.len() as u32;
    let frame = (!available.is_empty()).then_some(Frame::Data(*sid, available));
    Ok(Opened { consumed: consumed + available.len(), frame })
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

    /// Both ends of a proved connection. Suites take turns, so that both are used.
    fn pair(plain: bool) -> (Channel, Channel) {
        static TURN: AtomicU8 = AtomicU8::new(0);
        let suite = [Suite::AesGcm, Suite::ChaChaPoly][usize::from(TURN.fetch_add(1, Ordering::Relaxed) % 2)];
        let hello = ClearHello { suite, purpose: Purpose::Message, key_id: key_id(&Secret::new([7; 32])) };
        let psk = Secret::new([7; 32]);
        let (initiator, flight) = Initiator::begin(hello, &psk, 1).expect("begins");
        let (responder, _) = Responder::verify(hello, &psk, &flight).expect("proved");
        let (answer, server) = responder.answer().expect("answers");
        let client = initiator.finish(&answer).expect("finishes");
        (Channel::new(client, plain), Channel::new(server, plain))
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

    /// A whole session, short enough to be cut everywhere.
    fn session() -> Vec<Said> {
        let user = "[2001:db8::1]:443".parse().expect("an address");
        vec![
            Said::Small(Frame::Ping),
            Said::Small(Frame::Start(Start {
                sid: 7,
                first_sid: 3,
                publication: 1,
                port_offset: 2,
                user,
                asked: user,
                number: 9,
            })),
            Said::Data(7, b"hello".to_vec()),
            Said::Small(Frame::Accepted(7)),
            Said::Small(Frame::Started(7)),
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

    #[test]
    fn an_unknown_plain_kind_is_refused_and_a_long_one_at_its_head() {
        for kind in [0, 11, 127] {
            let mut body = encode_data_head(7);
            body[0] = kind;
            let wire = [&(HEAD_BYTES as u32).to_be_bytes()[..], &body].concat();
            assert!(refuses(&mut pair(true).0, &wire), "kind {kind}");
        }
        let mut fin = [&(TAKEN_FRAME_BYTES_MAX as u32 + 1).to_be_bytes()[..], &encode_data_head(7)].concat();
        fin[LENGTH_BYTES] = 5;
        assert!(refuses(&mut pair(true).0, &fin), "only Data is longer than a small frame");
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
            let needed = LENGTH_BYTES + clear.len() + if plain { 0 } else { TAG_BYTES };
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
