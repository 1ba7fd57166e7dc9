//! Seeded hashing: names and numbers come from disks and users, who must not be able to choose
//! where they collide.
//!
//! SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), with a random key.

use core::hash::{BuildHasher, Hasher};

/// The key.
#[derive(Clone, Copy)]
pub struct Seed([u64; 2]);

impl Seed {
    /// The key `key`.
    pub const fn new(key: [u64; 2]) -> Seed {
        Seed(key)
    }

    /// The hash of `name`.
    pub fn hash_name(self, name: &[u8]) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(name);
        hasher.finish()
    }
}

impl BuildHasher for Seed {
    type Hasher = Sip13;

    fn build_hasher(&self) -> Sip13 {
        let [k0, k1] = self.0;
        Sip13 {
            v: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            len: 0,
        }
    }
}

/// The state of one hash.
pub struct Sip13 {
    v: [u64; 4],
    /// Bytes that do not fill a word yet.
    tail: u64,
    len: u64,
}

impl Sip13 {
    fn round(v: &mut [u64; 4]) {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }

    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        Sip13::round(&mut self.v);
        self.v[0] ^= word;
    }
}

impl Hasher for Sip13 {
    fn write(&mut self, mut bytes: &[u8]) {
        if self.len.is_multiple_of(8) {
            while let Some((word, rest)) = bytes.split_first_chunk() {
                self.len += 8;
                self.word(u64::from_le_bytes(*word));
                bytes = rest;
            }
        }
        for &byte in bytes {
            self.tail |= u64::from(byte) << (8 * (self.len % 8));
            self.len += 1;
            if self.len.is_multiple_of(8) {
                let word = core::mem::take(&mut self.tail);
                self.word(word);
            }
        }
    }

    fn write_u64(&mut self, value: u64) {
        if self.len.is_multiple_of(8) {
            self.len += 8;
            self.word(value);
        } else {
            self.write(&value.to_le_bytes());
        }
    }

    fn finish(&self) -> u64 {
        let mut v = self.v;
        let word = self.tail | (self.len << 56);
        v[3] ^= word;
        Sip13::round(&mut v);
        v[0] ^= word;
        v[2] ^= 0xff;
        for _ in 0..3 {
            Sip13::round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    #[allow(
        deprecated,
        reason = "core's own SipHash-1-3 has no other name without std"
    )]
    fn agrees_with_the_standard_librarys_siphash() {
        let bytes: std::vec::Vec<u8> = (0..100).collect();
        for length in 0..100 {
            let mut ours = Seed::new([0, 0]).build_hasher();
            ours.write(&bytes[..length]);
            let mut theirs = std::hash::DefaultHasher::new();
            theirs.write(&bytes[..length]);
            assert_eq!(ours.finish(), theirs.finish(), "{length} bytes");
        }
    }
}
