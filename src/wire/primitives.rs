//! Which library computes what of the handshake and the records: ring the ciphers and the randomness, snow's own
//! choice the hash, and graviola X25519 (RFC 7748), in the formally verified assembler of s2n-bignum. Where the CPU
//! lacks an instruction of that assembler, X25519 is snow's own choice, too: the same numbers, half as fast.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};

/// What [`snow::Builder`] is given.
pub(super) struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if *choice == DHChoice::Curve25519 && graviola::util::is_cpu_supported() {
            return Some(Box::new(assembler::X25519::default()));
        }
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            // The other hashes that snow knows are not linked.
            HashChoice::Blake2s => DefaultResolver.resolve_hash(&HashChoice::Blake2s),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod assembler {
    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};
    use snow::Error;
    use snow::types::{Dh, Random};
    use zeroize::Zeroizing;

    /// A key pair.
    #[derive(Default)]
    pub(super) struct X25519 {
        private: Zeroizing<[u8; 32]>,
        public: [u8; 32],
    }

    impl X25519 {
        fn publish(&mut self) {
            self.public = StaticPrivateKey::from_array(&self.private).public_key().as_bytes();
        }
    }

    impl Dh for X25519 {
        fn name(&self) -> &'static str {
            "25519"
        }

        fn pub_len(&self) -> usize {
            self.public.len()
        }

        fn priv_len(&self) -> usize {
            self.private.len()
        }

        fn set(&mut self, private: &[u8]) {
            self.private.copy_from_slice(private);
            self.publish();
        }

        fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
            random.try_fill_bytes(&mut *self.private)?;
            self.publish();
            Ok(())
        }

        fn pubkey(&self) -> &[u8] {
            &self.public
        }

        fn privkey(&self) -> &[u8] {
            &*self.private
        }

        /// Fails if the other key is a point of small order (RFC 7748, section 6.1).
        fn dh(&self, public: &[u8], shared: &mut [u8]) -> Result<(), Error> {
            let public = public.first_chunk().ok_or(Error::Dh)?;
            let agreed = StaticPrivateKey::from_array(&self.private)
                .diffie_hellman(&PublicKey::from_array(public))
                .map_err(|_| Error::Dh)?;
            shared.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(&agreed.0);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_snows_own_x25519() {
        let mut random = Primitives.resolve_rng().expect("ring has one");
        for _ in 0..50 {
            let mut ours = Primitives.resolve_dh(&DHChoice::Curve25519).expect("known");
            let mut snows = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("known");
            ours.generate(&mut *random).expect("random");
            snows.generate(&mut *random).expect("random");
            let (mut here, mut there) = ([0; 32], [0; 32]);
            ours.dh(snows.pubkey(), &mut here).expect("agrees");
            snows.dh(ours.pubkey(), &mut there).expect("agrees");
            assert_eq!(here, there, "private keys {:02x?} {:02x?}", ours.privkey(), snows.privkey());
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// The first vector of RFC 7748, section 5.2.
    #[test]
    fn agrees_with_the_rfc() {
        let mut key = Primitives.resolve_dh(&DHChoice::Curve25519).expect("known");
        key.set(&bytes("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"));
        let other = bytes("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let mut shared = [0; 32];
        key.dh(&other, &mut shared).expect("agrees");
        assert_eq!(shared[..], bytes("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"));
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_key_of_small_order_or_of_another_length_is_refused() {
        let mut key = assembler::X25519::default();
        key.set(&[7; 32]);
        let mut shared = [0; 32];
        assert!(key.dh(&[0; 32], &mut shared).is_err());
        assert!(key.dh(&[9; 31], &mut shared).is_err());
        assert!(key.dh(&[9; 32], &mut shared[..31]).is_err());
    }
}
