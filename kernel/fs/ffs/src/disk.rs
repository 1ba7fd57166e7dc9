//! How the file system reaches the metadata on its device.
//!
//! Metadata are read in *pieces* of at most [`PIECE`] bytes, so that nothing larger than a page is
//! ever held for the sake of one inode or one pointer. A place always belongs to a piece of the
//! same start and length, as the buffer cache demands:
//!
//! - whole blocks (superblock, groups, inode blocks, indirect blocks) in pieces of [`PIECE`];
//! - directories and long symlinks, whose last block may be a few fragments, in pieces of a
//!   fragment if that is smaller ([`crate::superblock::Superblock::tail_piece`]).

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;

use crate::corrupt::Fault;

/// The most bytes of metadata read at once: the smallest block that a volume may have.
pub const PIECE: usize = 4096;

/// Metadata as the volume holds it.
///
/// A mounted volume is read through the buffer cache; a checker or a test may read an image in
/// memory.
pub trait Metadata {
    /// Shows `visit` the `len` bytes (whole sectors, at most [`PIECE`]) of the volume from byte
    /// `offset` on. Does not call it if they cannot be had.
    ///
    /// # Errors
    /// `EINVAL`: beyond the end of the device. Others are the device's.
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno>;
}

impl Metadata for Devvp {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let buf = self.bread(offset / SECTOR_SIZE as u64, len)?;
        visit(&buf);
        Ok(())
    }
}

/// What `judge` says of the `len` bytes at `offset`.
pub fn read_with<T>(
    disk: &dyn Metadata,
    offset: u64,
    len: usize,
    judge: impl FnOnce(&[u8]) -> T,
) -> Result<T, Fault> {
    let mut judge = Some(judge);
    let mut judged = None;
    let read = disk.read(offset, len, &mut |bytes| {
        judged = judge.take().map(|judge| judge(bytes));
    });
    match (read, judged) {
        (Ok(()), Some(judged)) => Ok(judged),
        (Ok(()), None) => Err(Fault::Device {
            at: offset,
            errno: Errno::EIO,
        }),
        (Err(errno), _) => Err(Fault::Device { at: offset, errno }),
    }
}

/// What `judge` says of the piece of [`PIECE`] bytes that holds byte `byte` of the block that
/// starts at `block`, and of that byte's place in the piece.
pub fn read_in_block<T>(
    disk: &dyn Metadata,
    block: u64,
    byte: usize,
    judge: impl FnOnce(&[u8]) -> T,
) -> Result<T, Fault> {
    let start = byte - byte % PIECE;
    read_with(disk, block + start as u64, PIECE, |piece| {
        judge(piece.get(byte - start..).unwrap_or_default())
    })
}
