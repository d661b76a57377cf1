//! The handshake, the same on the control and the message port: a fixed clear hello, bound into the prologue
//! of `Noise_NNpsk0_25519_{AESGCM|ChaChaPoly}_BLAKE2s` (Noise specification, sections 6 and 9).
//!
//! The initiator (client) sends [`FIRST_FLIGHT_BYTES`] in one flight, the responder (server) answers with
//! [`ANSWER_BYTES`]. Both are of fixed size, so nothing needs a length before it is proved. Because the psk is
//! mixed in first, garbage fails at the tag of message 1, before any Diffie-Hellman operation and before any
//! answer.

use std::fmt;
use std::sync::Arc;

use blake2::{Blake2s256, Digest};
use snow::{Builder, HandshakeState, TransportState};
use zeroize::{Zeroize, Zeroizing};

use super::primitives::Primitives;
use super::tags::TagKey;

/// Bytes of the clear hello.
pub const HELLO_BYTES: usize = 24;
/// Bytes of the initiator's only flight: hello, ephemeral key, sealed ticket.
pub const FIRST_FLIGHT_BYTES: usize = HELLO_BYTES + 32 + 8 + 16;
/// Bytes of the responder's answer: ephemeral key and tag.
pub const ANSWER_BYTES: usize = 32 + 16;

const MAGIC: [u8; 4] = *b"SKYO";
const VERSION: u8 = 2;

/// 32 secret bytes: a key's secret or a pool key. Never printed. Clones share one place in memory, which is wiped when
/// the last of them is dropped; moving one moves no secret byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<[u8; 32]>>);

impl Secret {
    /// Takes secret bytes, and wipes the copy that it was given.
    pub fn new(mut bytes: [u8; 32]) -> Secret {
        let secret = Secret::copy_of(&bytes);
        bytes.zeroize();
        secret
    }

    /// Copies secret bytes; their owner wipes them.
    pub fn copy_of(bytes: &[u8; 32]) -> Secret {
        // Filled in place, so that no copy is left where it was made.
        let mut place = Arc::new(Zeroizing::new([0; 32]));
        Arc::make_mut(&mut place).copy_from_slice(bytes);
        Secret(place)
    }

    /// The bytes themselves, for the wire and the key file only.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a hello names: a key, or a link.
pub type KeyId = [u8; 16];

/// The key id of a key on the control port: the first 16 bytes of BLAKE2s over its secret. So neither names nor
/// anything made from them travels in the clear, and both ends may call a key as they like.
pub fn key_id(secret: &Secret) -> KeyId {
    let digest = Blake2s256::new().chain_update(b"skyorg key id\0").chain_update(secret.bytes()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

/// The AEAD of a connection, chosen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM: fastest where the CPU has AES instructions.
    AesGcm,
    /// ChaCha20-Poly1305: fast everywhere.
    ChaChaPoly,
}

impl Suite {
    /// The faster suite on this CPU.
    pub fn preferred() -> Suite {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let has_aes = std::arch::is_x86_feature_detected!("aes");
        #[cfg(target_arch = "aarch64")]
        let has_aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let has_aes = false;
        if has_aes { Suite::AesGcm } else { Suite::ChaChaPoly }
    }

    fn pattern(self) -> &'static str {
        match self {
            Suite::AesGcm => "Noise_NNpsk0_25519_AESGCM_BLAKE2s",
            Suite::ChaChaPoly => "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s",
        }
    }
}

/// Which kind of connection the client opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A control connection; the key id names a key.
    Control,
    /// A message connection; the key id is a link's.
    Message,
}

/// The clear hello: `magic (4) version (1) suite (1) purpose (1) zero (1) key id (16)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClearHello {
    /// Which AEAD.
    pub suite: Suite,
    /// Which kind of connection.
    pub purpose: Purpose,
    /// Whose secret proves it.
    pub key_id: KeyId,
}

/// Why a first flight proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not skyorg at all.
    NotSkyorg,
    /// The hello has this version, and this program speaks another.
    Version(u8),
    /// A field of the hello has no meaning.
    Field,
    /// The sender does not hold the secret that the hello names.
    Unproved,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSkyorg => f.write_str("not a skyorg hello"),
            Self::Version(found) => {
                let older = if *found < VERSION { "there" } else { "here" };
                write!(
                    f,
                    "the hello has handshake version {found}, this skyorg speaks {VERSION}; install a newer skyorg \
                     {older}"
                )
            }
            Self::Field => f.write_str("a hello with an unknown suite or purpose"),
            Self::Unproved => f.write_str("the secret was not proved"),
        }
    }
}

impl ClearHello {
    /// The hello's bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let suite = match self.suite {
            Suite::AesGcm => 1,
            Suite::ChaChaPoly => 2,
        };
        let purpose = match self.purpose {
            Purpose::Control => 1,
            Purpose::Message => 2,
        };
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&[VERSION, suite, purpose, 0]);
        bytes[8..].copy_from_slice(&self.key_id);
        bytes
    }

    /// Reads a hello.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<ClearHello, HandshakeError> {
        let [m0, m1, m2, m3, version, suite, purpose, zero, key_id @ ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(HandshakeError::NotSkyorg);
        }
        if version != VERSION {
            return Err(HandshakeError::Version(version));
        }
        let suite = match suite {
            1 => Suite::AesGcm,
            2 => Suite::ChaChaPoly,
            _ => return Err(HandshakeError::Field),
        };
        let purpose = match purpose {
            1 => Purpose::Control,
            2 => Purpose::Message,
            _ => return Err(HandshakeError::Field),
        };
        if zero == 0 { Ok(ClearHello { suite, purpose, key_id }) } else { Err(HandshakeError::Field) }
    }

    fn builder<'a>(
        &self,
        prologue: &'a [u8; HELLO_BYTES],
        psk: &'a Secret,
    ) -> Result<Builder<'a>, snow::Error> {
        let builder = Builder::with_resolver(self.suite.pattern().parse()?, Box::new(Primitives));
        builder.prologue(prologue)?.psk(0, psk.bytes())
    }
}

/// A finished handshake: what the [`super::record::Channel`] behind it is made of.
pub struct Proved {
    pub(super) transport: TransportState,
    /// The handshake's hash (Noise specification, section 11.2): no other connection has it.
    hash: [u8; 32],
    psk: Secret,
}

impl Proved {
    fn new(state: HandshakeState, psk: Secret) -> Result<Proved, HandshakeError> {
        let hash = state.get_handshake_hash().try_into().map_err(|_| HandshakeError::Unproved)?;
        let transport = state.into_transport_mode().map_err(|_| HandshakeError::Unproved)?;
        Ok(Proved { transport, hash, psk })
    }

    /// The key of the tags of a plain channel: only the two ends of this connection can make it.
    pub(super) fn tag_key(&self) -> TagKey {
        TagKey::derive(&self.psk, &self.hash)
    }
}

/// The client's half of a handshake, waiting for the answer.
pub struct Initiator {
    state: HandshakeState,
    psk: Secret,
}

impl Initiator {
    /// Begins a handshake: the first flight to send. `ticket` is 0 on the control port.
    pub fn begin(
        hello: ClearHello,
        psk: &Secret,
        ticket: u64,
    ) -> Result<(Initiator, [u8; FIRST_FLIGHT_BYTES]), HandshakeError> {
        let prologue = hello.encode();
        let mut flight = [0; FIRST_FLIGHT_BYTES];
        flight[..HELLO_BYTES].copy_from_slice(&prologue);
        let state = hello.builder(&prologue, psk).and_then(|builder| {
            let mut state = builder.build_initiator()?;
            state.write_message(&ticket.to_be_bytes(), &mut flight[HELLO_BYTES..])?;
            Ok(state)
        });
        let state = state.map_err(|_| HandshakeError::Unproved)?;
        Ok((Initiator { state, psk: psk.clone() }, flight))
    }

    /// Reads the answer; the server has then proved that it holds the psk, too.
    pub fn finish(mut self, answer: &[u8; ANSWER_BYTES]) -> Result<Proved, HandshakeError> {
        let mut payload = [0; ANSWER_BYTES];
        self.state.read_message(answer, &mut payload).map_err(|_| HandshakeError::Unproved)?;
        Proved::new(self.state, self.psk)
    }
}

/// The server's half: a first flight that proved its secret, not yet answered.
pub struct Responder {
    state: HandshakeState,
    psk: Secret,
}

impl Responder {
    /// Verifies a first flight against the secret that its hello names; returns the ticket inside.
    pub fn verify(
        hello: ClearHello,
        psk: &Secret,
        flight: &[u8; FIRST_FLIGHT_BYTES],
    ) -> Result<(Responder, u64), HandshakeError> {
        let prologue = hello.encode();
        let mut payload = [0; FIRST_FLIGHT_BYTES];
        let state = hello.builder(&prologue, psk).and_then(|builder| {
            let mut state = builder.build_responder()?;
            let read = state.read_message(&flight[HELLO_BYTES..], &mut payload)?;
            Ok((state, read))
        });
        match state {
            Ok((state, 8)) => {
                let mut ticket = [0; 8];
                ticket.copy_from_slice(&payload[..8]);
                Ok((Responder { state, psk: psk.clone() }, u64::from_be_bytes(ticket)))
            }
            _ => Err(HandshakeError::Unproved),
        }
    }

    /// Tells one first flight from another: the first 8 bytes of its ephemeral key, which is drawn for each.
    pub fn flight_mark(flight: &[u8; FIRST_FLIGHT_BYTES]) -> u64 {
        let mut mark = [0; 8];
        mark.copy_from_slice(&flight[HELLO_BYTES..HELLO_BYTES + 8]);
        u64::from_be_bytes(mark)
    }

    /// The answer to send, and what the channel behind it is made of.
    pub fn answer(mut self) -> Result<([u8; ANSWER_BYTES], Proved), HandshakeError> {
        let mut answer = [0; ANSWER_BYTES];
        self.state.write_message(&[], &mut answer).map_err(|_| HandshakeError::Unproved)?;
        Ok((answer, Proved::new(self.state, self.psk)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(suite: Suite) -> ClearHello {
        ClearHello { suite, purpose: Purpose::Message, key_id: key_id(&Secret::new([7; 32])) }
    }

    #[test]
    fn both_suites_prove_the_secret_and_carry_the_ticket() {
        let psk = Secret::new([7; 32]);
        for suite in [Suite::AesGcm, Suite::ChaChaPoly] {
            let (initiator, flight) = Initiator::begin(hello(suite), &psk, 42).expect("begins");
            let clear = ClearHello::decode(flight.first_chunk().expect("long enough")).expect("decodes");
            assert_eq!(clear, hello(suite));
            let (responder, ticket) = Responder::verify(clear, &psk, &flight).expect("proved");
            assert_eq!(ticket, 42);
            let (answer, server) = responder.answer().expect("answers");
            let client = initiator.finish(&answer).expect("finishes");
            assert!(server.hash == client.hash && server.hash != [0; 32]);
            let (mut server, mut client) = (server.transport, client.transport);
            let (mut sealed, mut clear) = ([0; 64], [0; 64]);
            let len = client.write_message(b"hello", &mut sealed).expect("seals");
            assert_eq!(server.read_message(&sealed[..len], &mut clear).expect("opens"), 5);
            assert_eq!(&clear[..5], b"hello");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_first_flight_is_refused() {
        let psk = Secret::new([7; 32]);
        let (_, flight) = Initiator::begin(hello(Suite::AesGcm), &psk, 1).expect("begins");
        for bit in 0..FIRST_FLIGHT_BYTES * 8 {
            let mut flipped = flight;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let proved = ClearHello::decode(flipped.first_chunk().expect("long enough"))
                .and_then(|hello| Responder::verify(hello, &psk, &flipped));
            assert!(proved.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_answer_is_refused() {
        let psk = Secret::new([7; 32]);
        for bit in 0..ANSWER_BYTES * 8 {
            let (initiator, flight) = Initiator::begin(hello(Suite::ChaChaPoly), &psk, 1).expect("begins");
            let (responder, _) = Responder::verify(hello(Suite::ChaChaPoly), &psk, &flight).expect("proved");
            let (mut answer, _) = responder.answer().expect("answers");
            answer[bit / 8] ^= 1 << (bit % 8);
            // X25519 masks the top bit of a public key (RFC 7748, section 5), but the hash of the handshake does not.
            assert!(initiator.finish(&answer).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_secret_proves_nothing() {
        let (_, flight) = Initiator::begin(hello(Suite::AesGcm), &Secret::new([7; 32]), 1).expect("begins");
        assert!(Responder::verify(hello(Suite::AesGcm), &Secret::new([8; 32]), &flight).is_err());
    }

    #[test]
    fn a_key_id_comes_from_the_secret_and_does_not_show_it() {
        let ids = [[7; 32], [8; 32]].map(|bytes| key_id(&Secret::new(bytes)));
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids[0], key_id(&Secret::new([7; 32])));
        assert_ne!(ids[0], [7; 16]);
    }

    #[test]
    fn another_handshake_version_is_named_beside_ours() {
        let mut bytes = hello(Suite::AesGcm).encode();
        for (version, text) in [
            (1, "the hello has handshake version 1, this skyorg speaks 2; install a newer skyorg there"),
            (3, "the hello has handshake version 3, this skyorg speaks 2; install a newer skyorg here"),
        ] {
            bytes[4] = version;
            let error = ClearHello::decode(&bytes).expect_err("another version");
            assert_eq!(error, HandshakeError::Version(version));
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new([0xab; 32])), "Secret(..)");
    }
}
