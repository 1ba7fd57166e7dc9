//! Randomness: the Linux kernel's, by getrandom(2).

use crate::errno::from_rustix;
use rumpuser::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

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
