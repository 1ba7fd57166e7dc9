//! Symbolic links: their text lies in the inode if it is short, else in one block.

use crate::bmap;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{Metadata, read_with};
use crate::inode::{Contents, Inode};
use crate::superblock::Superblock;

/// Reads the text of the link `inode`, as far as it fits into `buf`; answers how long it is.
///
/// # Errors
/// [`Corrupt::SymlinkText`]: it lies nowhere, or has a NUL. The device's.
pub fn read_text(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    buf: &mut [u8],
) -> Result<usize, Fault> {
    let len = match &inode.contents {
        Contents::Text { bytes, len } => {
            let len = usize::from(*len).min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            len
        }
        _ => read_block(sb, disk, inode, buf)?,
    };
    if buf[..len].contains(&0) {
        return Err(Corrupt::SymlinkText { ino: inode.ino }.into());
    }
    Ok(len)
}

fn read_block(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    buf: &mut [u8],
) -> Result<usize, Fault> {
    let extent = bmap::map(sb, disk, inode, 0, 1)?;
    let len = buf.len().min(inode.size as usize);
    let Some(address) = extent.address else {
        return Err(Corrupt::SymlinkText { ino: inode.ino }.into());
    };
    let piece = sb.tail_piece();
    for (index, part) in buf[..len].chunks_mut(piece).enumerate() {
        let at = sb.byte_of(address) + (index * piece) as u64;
        read_with(disk, at, piece, |bytes| {
            part.copy_from_slice(&bytes[..part.len()]);
        })?;
    }
    Ok(len)
}
