//! Buffer cache: the metadata of file systems, by device and sector.

use crate::specfs::BlockIo;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Deref;
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

/// The largest buffer, in bytes: one page. A file system with larger blocks reads the piece of the
/// block that it needs: the 4 KiB around an inode or a block pointer instead of 64 KiB.
pub const MAX_BUF: usize = PAGE_SIZE;

/// A file system's way to the metadata on its device (`um_devvp`): cheap to clone.
#[derive(Clone)]
pub struct Devvp {
    device: Arc<dyn BlockIo>,
}

impl Devvp {
    /// The way to `device`.
    pub fn new(device: Arc<dyn BlockIo>) -> Devvp {
        Devvp { device }
    }

    /// The device's name, such as `"ld0a"`.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Capacity in units of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.device.sectors()
    }

    /// The `bytes` bytes (a multiple of 512, up to [`MAX_BUF`]) at `sector`, from the cache or
    /// the device. The same place must always be asked for with the same size.
    ///
    /// # Errors
    /// `EINVAL`: beyond the end of the device, or a size that is none. `EIO`: the device's error.
    pub fn bread(&self, sector: u64, bytes: usize) -> Result<Buf, Errno> {
        if bytes == 0 || bytes > MAX_BUF || !bytes.is_multiple_of(SECTOR_SIZE) {
            return Err(Errno::EINVAL);
        }
        let mut data = vec![0; bytes];
        self.device.read(sector, &mut data)?;
        Ok(Buf { data })
    }
}

/// The contents of a piece of metadata, as they were when it was read: a later change by a
/// writer does not show in it.
pub struct Buf {
    data: Vec<u8>,
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}
