//! Records: `length (4) body`, and the [`Channel`] that seals frames into them and opens them again.
//!
//! On a sealed channel the body is one Noise transport message (Noise specification, section 12) of at most
//! [`SEALED_CLEAR_MAX`] bytes of plaintext. On a plain channel (`--plain`, message connections only) the body is
//! the frame itself; a long `Data` frame is passed on in pieces as it arrives, so nothing is buffered by length.

use std::fmt;

use snow::TransportState;

use super::frame::{Frame, HEAD_BYTES, SMALL_FRAME_BYTES_MAX, Sid, decode_data_head, encode_data_head};

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
        remaining: usize,
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

    /// Opens the first frame of `input`, using `clear` (at least as long as `input`) for plaintext.
    pub fn open<'a>(&mut self, input: &'a [u8], clear: &'a mut [u8]) -> Result<Opened<'a>, BadRecord> {
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
        clear: &'a mut [u8],
    ) -> Result<Option<(usize, &'a [u8])>, BadRecord> {
        let Channel::Sealed(transport) = self else { return Err(BadRecord) };
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let body_bytes = u32::from_be_bytes(*length) as usize;
        if body_bytes <= TAG_BYTES || body_bytes > SEALED_CLEAR_MAX + TAG_BYTES {
            return Err(BadRecord);
        }
        let Some(body) = rest.get(..body_bytes) else { return Ok(None) };
        let clear_bytes = transport.read_message(body, clear).map_err(|_| BadRecord)?;
        Ok(Some((LENGTH_BYTES + body_bytes, &clear[..clear_bytes])))
    }
}

fn open_plain<'a>(sid: &mut Sid, remaining: &mut usize, input: &'a [u8]) -> Result<Opened<'a>, BadRecord> {
    let mut consumed = 0;
    if *remaining == 0 {
        let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(NEED_MORE) };
        let body_bytes = u32::from_be_bytes(*length) as usize;
        if !(HEAD_BYTES..=PLAIN_BODY_MAX).contains(&body_bytes) {
            return Err(BadRecord);
        }
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else { return Ok(NEED_MORE) };
        let Some(data_sid) = decode_data_head(head) else {
            if body_bytes > SMALL_FRAME_BYTES_MAX {
                return Err(BadRecord);
            }
            let Some(body) = rest.get(..body_bytes) else { return Ok(NEED_MORE) };
            let frame = Frame::decode(body).map_err(|_| BadRecord)?;
            return Ok(Opened { consumed: LENGTH_BYTES + body_bytes, frame: Some(frame) });
        };
        if data_sid == 0 || body_bytes == HEAD_BYTES {
            return Err(BadRecord);
        }
        (*sid, *remaining) = (data_sid, body_bytes - HEAD_BYTES);
        consumed = HEADROOM;
    }
    let available = &input[consumed..input.len().min(consumed + *remaining)];
    *remaining -= available.len();
    let frame = (!available.is_empty()).then_some(Frame::Data(*sid, available));
    Ok(Opened { consumed: consumed + available.len(), frame })
}
