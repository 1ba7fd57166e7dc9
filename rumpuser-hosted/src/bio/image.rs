//! An image: a file or a block device of the host's, opened and locked.

use crate::errno::{from_io, from_rustix};
use rumpuser::Errno;
use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// An image file, or a block device of the host.
///
/// It is locked as long as it is open, shared for reading and exclusively for writing (flock(2)), so
/// that two writers of one image are refused.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    bytes: u64,
    is_file: bool,
    is_in_memory: bool,
}

/// File systems that have nothing but memory: `f_type` of statfs(2), `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

impl ImageFile {
    /// Opens and locks `path`.
    ///
    /// # Errors
    /// `EBUSY` if somebody has it open for writing, or for reading when this one wants to write;
    /// `EFTYPE` for what is neither a file nor a block device; otherwise what the system says.
    pub fn open(path: &Path, read_only: bool) -> Result<ImageFile, Errno> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            // A FIFO without a writer is refused below, not waited for.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .map_err(|error| from_io(&error))?;
        let kind = file
            .metadata()
            .map_err(|error| from_io(&error))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Errno::EFTYPE);
        }
        let lock = match read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, lock).map_err(|error| match error {
            rustix::io::Errno::AGAIN => Errno::EBUSY,
            other => from_rustix(other),
        })?;
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|error| from_io(&error))?;
        let kept_in = fstatfs(&file).map_err(from_rustix)?.f_type;
        Ok(ImageFile {
            is_in_memory: kind.is_file() && IN_MEMORY.contains(&(kept_in as u32)),
            file,
            bytes,
            is_file: kind.is_file(),
        })
    }

    /// Its length when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is a file, not a device.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Whether the host keeps it in memory, as in a tmpfs: writing never waits, and what is written is as stable as it gets.
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Lets others lock it, though it stays open: for whoever will not use it any more.
    pub fn unlock(&self) {
        // What cannot be unlocked is when it is closed.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for ImageFile {
    /// A child of this process that has not become its own program yet has the file open still, and with it the lock.
    fn drop(&mut self) {
        self.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_closed_is_free_though_a_child_inherited_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let image = ImageFile::open(file.path(), false).unwrap();
        assert_eq!(
            ImageFile::open(file.path(), false).unwrap_err(),
            Errno::EBUSY
        );
        // What fork(2) does with it.
        let inherited = image.file().try_clone().unwrap();
        drop(image);
        ImageFile::open(file.path(), false).unwrap();
        drop(inherited);
    }
}
