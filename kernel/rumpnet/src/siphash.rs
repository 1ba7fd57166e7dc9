//! SipHash: the keyed hash of every table that a stranger chooses the keys of, and of sequence numbers.
//!
//! Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), §2.

use core::hash::{BuildHasher, Hasher};
use rumpkern::random;
use rumpuser::Errno;

/// A 128-bit key.
#[derive(Clone, Copy)]
pub struct SipKey {
    k0: u64,
    k1: u64,
}

impl SipKey {
    /// A key from two words.
    pub const fn new(k0: u64, k1: u64) -> SipKey {
        SipKey { k0, k1 }
    }

    /// A key that nobody can guess.
    ///
    /// # Errors
    /// `ENXIO` if the host has no source of randomness.
    pub fn random() -> Result<SipKey, Errno> {
        Ok(SipKey::new(random::u64()?, random::u64()?))
    }

    /// SipHash-2-4 of `bytes`.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher::with_rounds(*self, 2, 4);
        hasher.write(bytes);
        hasher.finish()
    }
}

impl BuildHasher for SipKey {
    type Hasher = SipHasher;

    /// SipHash-1-3: enough where only the distribution over buckets matters.
    fn build_hasher(&self) -> SipHasher {
        SipHasher::with_rounds(*self, 1, 3)
    }
}

/// A hash under way.
#[derive(Clone)]
pub struct SipHasher {
    v: [u64; 4],
    tail: u64,
    tail_bytes: usize,
    length: u64,
    compress: u32,
    finalize: u32,
}

impl SipHasher {
    fn with_rounds(key: SipKey, compress: u32, finalize: u32) -> SipHasher {
        SipHasher {
            v: [
                key.k0 ^ 0x736f_6d65_7073_6575,
                key.k1 ^ 0x646f_7261_6e64_6f6d,
                key.k0 ^ 0x6c79_6765_6e65_7261,
                key.k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            tail_bytes: 0,
            length: 0,
            compress,
            finalize,
        }
    }

    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }

    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        for _ in 0..self.compress {
            Self::round(&mut self.v);
        }
        self.v[0] ^= word;
    }
}

impl Hasher for SipHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.tail |= u64::from(byte) << (8 * self.tail_bytes);
            self.tail_bytes += 1;
            if self.tail_bytes == 8 {
                let word = self.tail;
                self.word(word);
                (self.tail, self.tail_bytes) = (0, 0);
            }
        }
        self.length = self.length.wrapping_add(bytes.len() as u64);
    }

    fn finish(&self) -> u64 {
        let mut end = self.clone();
        let last = (self.length << 56) | self.tail;
        end.word(last);
        end.v[2] ^= 0xff;
        for _ in 0..self.finalize {
            Self::round(&mut end.v);
        }
        end.v[0] ^ end.v[1] ^ end.v[2] ^ end.v[3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_test_vector_comes_out() {
        // SipHash paper, appendix A: key 00..0f, message 00..0e.
        let key = SipKey::new(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let message: [u8; 15] = core::array::from_fn(|i| i as u8);
        assert_eq!(key.hash(&message), 0xa129_ca61_49be_45e5);
    }
}
