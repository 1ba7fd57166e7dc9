//! Keyed hashing: names, numbers and addresses come from disks, users and packets, none of which may choose where they
//! collide, or guess what is made of them.
//!
//! SipHash (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), as the crate `siphasher` has it: 1-3 rounds
//! for places in tables, 2-4 for what has to stay a secret.

use crate::random;
use core::hash::{BuildHasher, Hasher};
use rumpuser::Errno;
use siphasher::sip::{SipHasher13, SipHasher24};

/// A key of 128 bits.
#[derive(Clone, Copy)]
pub struct HashKey([u64; 2]);

impl HashKey {
    /// The key of these two words, which ought to be random.
    pub const fn new(words: [u64; 2]) -> HashKey {
        HashKey(words)
    }

    /// The key of 16 bytes, which ought to be random.
    pub fn from_bytes(bytes: [u8; 16]) -> HashKey {
        let both = u128::from_le_bytes(bytes);
        HashKey([both as u64, (both >> 64) as u64])
    }

    /// A key that nobody can guess.
    ///
    /// # Errors
    /// `ENXIO` if the host has no source of randomness.
    pub fn random() -> Result<HashKey, Errno> {
        Ok(HashKey([random::u64()?, random::u64()?]))
    }

    /// SipHash-1-3 of `name`: its place in a table.
    pub fn name_hash(self, name: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(name);
        hasher.finish()
    }

    /// SipHash-1-3 of `words`, as little-endian bytes: their place in a table.
    pub fn table_hash(self, words: &[u64]) -> u64 {
        of_words(self.build_hasher(), words)
    }

    /// SipHash-2-4 of `words`, as little-endian bytes: for what nobody else may guess.
    pub fn secret_hash(self, words: &[u64]) -> u64 {
        of_words(SipHasher24::new_with_keys(self.0[0], self.0[1]), words)
    }
}

impl BuildHasher for HashKey {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

fn of_words(mut hasher: impl Hasher, words: &[u64]) -> u64 {
    for word in words {
        hasher.write_u64(word.to_le());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::DefaultHasher;

    /// The paper's test vectors use the key 00..0f and inputs 00, 01, 02, ….
    fn key() -> HashKey {
        HashKey::from_bytes(core::array::from_fn(|i| i as u8))
    }

    fn words<const N: usize>() -> [u64; N] {
        core::array::from_fn(|i| u64::from_le_bytes(core::array::from_fn(|j| (8 * i + j) as u8)))
    }

    #[test]
    fn secrets_are_the_published_vectors() {
        assert_eq!(key().secret_hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(key().secret_hash(&words::<1>()), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn places_are_those_of_the_standard_library() {
        // Its hasher is SipHash-1-3 with the key 0.
        let zero = HashKey::new([0, 0]);
        let bytes: Vec<u8> = (0..100).collect();
        for length in 0..100 {
            let mut theirs = DefaultHasher::new();
            theirs.write(&bytes[..length]);
            assert_eq!(zero.name_hash(&bytes[..length]), theirs.finish());
        }
        let mut theirs = DefaultHasher::new();
        theirs.write(&bytes[..32]);
        assert_eq!(zero.table_hash(&words::<4>()), theirs.finish());
    }
}
