//! Finding a name in a directory.
//!
//! A directory has no order, so all of it may have to be read. A search starts where the last one
//! ended: who looks up one name after another, in the order in which readdir(3) gives them, walks the
//! directory once in all. (NetBSD sys/ufs/ufs/ufs_lookup.c does the same, by `i_diroff`.) A large directory has
//! a hash ([`crate::dirhash`]), which says where to look.

use crate::corrupt::{Corrupt, Fault};
use crate::dir::{self, Entry, Shape};
use crate::disk::{Metadata, read_with};
use crate::inode::Inode;
use crate::raw::DIRBLKSIZ;
use crate::superblock::Superblock;

/// A name that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file's inode.
    pub ino: u32,
    /// Where in the directory its entry lies.
    pub offset: u64,
}

/// Looks `name` up in directory `inode`, first from offset `hint` on, then before it. `hint` is any number.
pub fn lookup(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    name: &[u8],
    hint: u64,
) -> Result<Option<Found>, Fault> {
    let start = if hint < inode.size { hint } else { 0 };
    let start = start - start % DIRBLKSIZ as u64;
    let mut found = None;
    let mut judge = |entry: &Entry<'_>| {
        if entry.name != name {
            return true;
        }
        found = Some(Found {
            ino: entry.ino,
            offset: entry.offset,
        });
        false
    };
    if dir::walk(sb, disk, inode, (start, inode.size), &mut judge)? {
        dir::walk(sb, disk, inode, (0, start), &mut judge)?;
    }
    Ok(found)
}

/// Looks `name` up at `offsets` of directory `inode`, where entries start.
pub fn among(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    name: &[u8],
    offsets: &[u64],
) -> Result<Option<Found>, Fault> {
    let shape = Shape::of(sb);
    for &offset in offsets {
        let unit = offset - offset % DIRBLKSIZ as u64;
        let (place, _) = dir::place(sb, disk, inode, unit, DIRBLKSIZ as u64)?;
        let piece = sb.tail_piece();
        let start = place - place % piece as u64;
        let (from, end) = (
            (place - start + offset - unit) as usize,
            (place - start) as usize + DIRBLKSIZ,
        );
        let ino = read_with(disk, start, piece, |bytes| {
            let (entry, _) = shape.entry(&bytes[from..end], offset)?;
            Ok(entry.filter(|entry| entry.name == name).map(|it| it.ino))
        })?;
        let ino = ino.map_err(|fault| Corrupt::Entry {
            ino: inode.ino,
            offset,
            fault,
        })?;
        if let Some(ino) = ino {
            return Ok(Some(Found { ino, offset }));
        }
    }
    Ok(None)
}
