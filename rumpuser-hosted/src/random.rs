//! Randomness: the Linux kernel's, by getrandom(2); or, for tests that must repeat, numbers from a seed.

use crate::errno::from_rustix;
use rumpuser::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::atomic::{AtomicU64, Ordering};

/// getrandom(2).
pub(crate) struct Kernel;

impl rumpuser::Random for Kernel {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        let mut filled = 0;
        while filled < buffer.len() {
            match getrandom(&mut buffer[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(from_rustix(error)),
            }
        }
        Ok(())
    }
}

/// The same numbers in every process that asks in the same order (SplitMix64: Steele, Lea, Flood 2014).
pub(crate) struct Seeded(pub AtomicU64);

impl rumpuser::Random for Seeded {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        for piece in buffer.chunks_mut(8) {
            let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            piece.copy_from_slice(&z.to_le_bytes()[..piece.len()]);
        }
        Ok(())
    }
}
