//! Randomness: the processor's generator, else a virtio entropy device. A machine without either has none, and says so.

use crate::entropy;
use platform_x86_64::random::{available, word};
use rumpuser::Errno;

pub(crate) struct Random;

pub(crate) static RANDOM: Random = Random;

impl rumpuser::Random for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        if !available() {
            return entropy::fill(buffer);
        }
        for chunk in buffer.chunks_mut(size_of::<u64>()) {
            let bytes = word().ok_or(Errno::ENXIO)?.to_ne_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}
