//! Randomness for keys, sequence numbers, ports and identifiers (cprng(9)).
//!
//! A ChaCha generator of 20 rounds per kernel, seeded by the host at its first use and again after each
//! mebibyte. Each use overwrites the generator's key with its own output first, so what was given out cannot be
//! computed from a later state ("fast key erasure", D. J. Bernstein 2017). There is no generator
//! without a host's seed: then there is an error, never something that looks random.

use crate::locks::{LockClass, Mutex};
use crate::lwp;
use rumpuser::{Errno, host};

static RANDOM_CLASS: LockClass = LockClass {
    name: "random",
    rank: 940,
};

/// Bytes given out between two seeds of the host's.
const RESEED_AFTER: usize = 1 << 20;
/// Bytes of a ChaCha block.
const BLOCK: usize = 64;
/// Bytes of its key.
const KEY: usize = 32;

/// A generator.
pub struct Generator {
    state: Mutex<State>,
}

struct State {
    key: [u8; KEY],
    /// Bytes that may be given out before a new seed; 0 at first.
    left: usize,
    /// Output not yet given out; what was, is zero.
    pool: [u8; BLOCK],
    pool_left: usize,
}

impl Generator {
    pub(crate) const fn new() -> Generator {
        Generator {
            state: Mutex::with_class(
                State {
                    key: [0; KEY],
                    left: 0,
                    pool: [0; BLOCK],
                    pool_left: 0,
                },
                &RANDOM_CLASS,
            ),
        }
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// `ENXIO` if the host has no source of randomness.
    pub fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.left < buffer.len().min(RESEED_AFTER) {
            state.reseed()?;
        }
        state.left = state.left.saturating_sub(buffer.len());
        match buffer.len() <= 16 {
            true => state.fill_small(buffer),
            false => state.fill_large(buffer),
        }
        Ok(())
    }
}

impl State {
    fn reseed(&mut self) -> Result<(), Errno> {
        let mut seed = [0; KEY];
        host().random().fill(&mut seed)?;
        for (key, seed) in self.key.iter_mut().zip(seed) {
            *key ^= seed;
        }
        self.left = RESEED_AFTER;
        self.pool = [0; BLOCK];
        self.pool_left = 0;
        Ok(())
    }

    /// From the pool, so that a few bytes do not cost blocks.
    fn fill_small(&mut self, buffer: &mut [u8]) {
        if self.pool_left < buffer.len() {
            let mut pool = [0; BLOCK];
            self.fill_large(&mut pool);
            self.pool = pool;
            self.pool_left = BLOCK;
        }
        let start = BLOCK - self.pool_left;
        let given = &mut self.pool[start..start + buffer.len()];
        buffer.copy_from_slice(given);
        given.fill(0);
        self.pool_left -= buffer.len();
    }

    fn fill_large(&mut self, buffer: &mut [u8]) {
        let key = self.key;
        // Block 0 is the next key; it replaces this one before anything is given out.
        let first = chacha20_block(&key, 0);
        self.key.copy_from_slice(&first[..KEY]);
        for (counter, piece) in (1..).zip(buffer.chunks_mut(BLOCK)) {
            let block = chacha20_block(&key, counter);
            piece.copy_from_slice(&block[..piece.len()]);
        }
    }
}

/// A block of the ChaCha20 key stream with nonce 0 (RFC 8439 §2.3, with its 64-bit counter of before).
fn chacha20_block(key: &[u8; KEY], counter: u64) -> [u8; BLOCK] {
    let mut input = [0u32; 16];
    // "expand 32-byte k"
    input[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    for (word, bytes) in input[4..12].iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    input[12] = counter as u32;
    input[13] = (counter >> 32) as u32;
    let mut state = input;
    for _ in 0..10 {
        for column in 0..4 {
            quarter_round(&mut state, [column, column + 4, column + 8, column + 12]);
        }
        for start in 0..4 {
            let diagonal = [
                start,
                4 + (start + 1) % 4,
                8 + (start + 2) % 4,
                12 + (start + 3) % 4,
            ];
            quarter_round(&mut state, diagonal);
        }
    }
    let mut block = [0; BLOCK];
    for (index, bytes) in block.chunks_exact_mut(4).enumerate() {
        bytes.copy_from_slice(&state[index].wrapping_add(input[index]).to_le_bytes());
    }
    block
}

/// RFC 8439 §2.1.
fn quarter_round(state: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(12);
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(7);
}

/// Fills `buffer` from the calling lwp's kernel's generator; on a thread that is no lwp, from the host.
///
/// # Errors
/// `ENXIO` if the host has no source of randomness.
pub fn fill(buffer: &mut [u8]) -> Result<(), Errno> {
    match lwp::curkernel() {
        Some(kernel) => kernel.random().fill(buffer),
        None => host().random().fill(buffer),
    }
}

/// A random number.
///
/// # Errors
/// As [`fill`].
pub fn u32() -> Result<u32, Errno> {
    let mut bytes = [0; 4];
    fill(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// A random number.
///
/// # Errors
/// As [`fill`].
pub fn u64() -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_function_gives_rfc_8439s_zero_key_stream() {
        // RFC 8439 appendix A.1, test vectors 1 and 2.
        let first = chacha20_block(&[0; KEY], 0);
        assert_eq!(
            first[..16],
            [
                0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86,
                0xbd, 0x28
            ]
        );
        let second = chacha20_block(&[0; KEY], 1);
        assert_eq!(
            second[..8],
            [0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a]
        );
    }

    #[test]
    fn output_does_not_repeat_whatever_the_sizes_asked_for() {
        crate::testing::install_host();
        let generator = Generator::new();
        let mut seen = alloc::collections::BTreeSet::new();
        for len in (8..400).chain(8..40) {
            let mut buffer = alloc::vec![0; len];
            generator.fill(&mut buffer).expect("the host has a source");
            assert!(seen.insert(buffer[..8].to_vec()), "{len}");
        }
    }

    #[test]
    fn a_long_request_is_filled_to_its_end() {
        crate::testing::install_host();
        let generator = Generator::new();
        let mut buffer = alloc::vec![0; 3 << 20];
        generator.fill(&mut buffer).expect("the host has a source");
        assert!(
            buffer
                .chunks(64)
                .all(|piece| piece.iter().any(|byte| *byte != 0))
        );
    }
}
