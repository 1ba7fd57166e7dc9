//! SipHash: a keyed hash of short inputs (Aumasson and Bernstein, "SipHash: a fast short-input
//! PRF", 2012).
//!
//! 1-3 rounds place connections in tables, where a secret key keeps a stranger from choosing which
//! collide; 2-4 rounds make initial sequence numbers and cookies, which a stranger must not guess.

/// A 128-bit key.
#[derive(Clone, Copy)]
pub struct Key(u64, u64);

impl Key {
    /// The key made of 16 bytes, which ought to be random.
    pub fn from_bytes(bytes: [u8; 16]) -> Key {
        let both = u128::from_le_bytes(bytes);
        Key(both as u64, (both >> 64) as u64)
    }

    /// The hash for tables: one round a word, three at the end. `words` stand for little-endian bytes.
    pub fn table_hash(self, words: &[u64]) -> u64 {
        self.hash::<1, 3>(words)
    }

    /// The hash for secrets: two rounds a word, four at the end.
    pub fn secret_hash(self, words: &[u64]) -> u64 {
        self.hash::<2, 4>(words)
    }

    fn hash<const EACH: usize, const LAST: usize>(self, words: &[u64]) -> u64 {
        let mut state = State {
            a: self.0 ^ 0x736f_6d65_7073_6575,
            b: self.1 ^ 0x646f_7261_6e64_6f6d,
            c: self.0 ^ 0x6c79_6765_6e65_7261,
            d: self.1 ^ 0x7465_6462_7974_6573,
        };
        for &word in words {
            state.absorb::<EACH>(word);
        }
        // The last block holds the length in bytes modulo 256 in its top byte.
        state.absorb::<EACH>((words.len() as u64 * 8) << 56);
        state.c ^= 0xff;
        for _ in 0..LAST {
            state.round();
        }
        state.a ^ state.b ^ state.c ^ state.d
    }
}

struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    fn absorb<const ROUNDS: usize>(&mut self, word: u64) {
        self.d ^= word;
        for _ in 0..ROUNDS {
            self.round();
        }
        self.a ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.a = self.a.rotate_left(32);
        self.c = self.c.wrapping_add(self.d);
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.wrapping_add(self.d);
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.wrapping_add(self.b);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.c = self.c.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's test vectors use the key 00..0f and inputs 00, 01, 02, ….
    fn key() -> Key {
        Key::from_bytes(core::array::from_fn(|i| i as u8))
    }

    fn words<const N: usize>() -> [u64; N] {
        core::array::from_fn(|i| u64::from_le_bytes(core::array::from_fn(|j| (8 * i + j) as u8)))
    }

    #[test]
    fn two_four_rounds_give_the_published_vectors() {
        assert_eq!(key().secret_hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(key().secret_hash(&words::<1>()), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn one_three_rounds_agree_with_the_standard_library() {
        // std's SipHasher13 hides behind DefaultHasher with the key 0.
        use std::hash::{DefaultHasher, Hasher};
        let mut theirs = DefaultHasher::new();
        for word in words::<4>() {
            theirs.write(&word.to_le_bytes());
        }
        let zero = Key::from_bytes([0; 16]);
        assert_eq!(zero.table_hash(&words::<4>()), theirs.finish());
    }
}
