//! Randomness.

use crate::Errno;

/// Randomness fit for keys and sequence numbers.
pub trait Random: Sync {
    /// Fills `buffer` wholly. May block until the source delivers.
    ///
    /// # Errors
    /// `ENXIO` if this host has no source that deserves the name: a host never pretends.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Errno>;
}
