//! What the pure part of the file system needs of a disk.

use rumpuser::Errno;

/// Metadata as the volume holds it: superblock, cylinder groups, inode and indirect blocks,
/// directories, long symlinks.
///
/// A mounted volume reads through the buffer cache of `rumpvfs`; a checker or a test may read an
/// image in memory. Reads are whole: of one group, one block, or the fragments of a directory's
/// last block, at the byte where that starts, so that a cache can key its buffers by that byte.
pub trait Metadata {
    /// Shows `visit` the `len` bytes of the volume from byte `offset` on. Does not call it if they
    /// cannot be had; has logged where, if so.
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;
}

/// The same with a result.
pub fn read_with<T>(
    disk: &dyn Metadata,
    offset: u64,
    len: usize,
    judge: impl FnOnce(&[u8]) -> T,
) -> Result<T, Errno> {
    let mut judge = Some(judge);
    let mut judged = None;
    disk.read(offset, len, &mut |bytes| {
        judged = judge.take().map(|judge| judge(bytes));
    })?;
    judged.ok_or(Errno::EIO)
}
