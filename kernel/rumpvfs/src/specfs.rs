//! Block devices, as file systems see them.

use rumpuser::Errno;

/// A block device that a file system can be mounted from: a disk, or a partition of one.
pub trait BlockIo: Send + Sync {
    /// Its name, such as `"ld0a"`.
    fn name(&self) -> &str;

    /// Capacity in units of 512 bytes.
    fn sectors(&self) -> u64;

    /// Reads whole sectors from `sector` on into `buf`, and waits for them.
    ///
    /// # Errors
    /// `EINVAL`: not whole sectors, or beyond the end. `EIO`: the device's error.
    fn read(&self, sector: u64, buf: &mut [u8]) -> Result<(), Errno>;
}
