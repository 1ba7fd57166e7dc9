//! Randomness: the universe's own stream. It deserves the name only here, where nobody attacks.

use crate::trace::Kind;
use crate::world;
use rumpuser::Errno;

/// The stream.
pub(crate) struct Entropy;

impl rumpuser::Random for Entropy {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno> {
        world::with(|world| {
            world.entropy.fill(buffer);
            let len = buffer.len();
            world.event(
                Kind::Random,
                [len as u64, 0, 0],
                format_args!("{len} bytes"),
            );
        });
        Ok(())
    }
}
