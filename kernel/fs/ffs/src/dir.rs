//! Directories: entries, what is checked of them, and reading one from any place on.
//!
//! A directory is a file of 512-byte units. Each unit is covered by its entries, none of which
//! crosses its end, so one unit is written or not written whatever happens. A place in a directory
//! (a *cookie*) is the byte offset of an entry; reading resumes by walking the unit it lies in
//! from the start, so that a cookie stays good when entries around it come and go.
//!
//! Volumes without short symlinks have the format of 4.2BSD: a 16-bit name length and no type. On
//! a little-endian one the length's low byte lies where others have the type.
//!
//! Source: NetBSD sys/ufs/ufs/dir.h; sys/ufs/ufs/ufs_lookup.c (`ufs_dirbadentry`).

use rumpvfs::vnode::VnodeType;

use crate::bmap;
use crate::corrupt::{Corrupt, EntryFault, Fault};
use crate::disk::{Metadata, read_with};
use crate::inode::Inode;
use crate::order::Order;
use crate::raw::{DIRBLKSIZ, FFS_MAXNAMLEN, UFS_WINO};
use crate::superblock::Superblock;

/// Bytes of an entry before its name.
pub const ENTRY_HEAD: usize = 8;

/// Bytes that an entry with a name of `name_len` bytes needs: the name is followed by at least
/// one NUL and padded to a multiple of four (`UFS_DIRSIZ`).
pub const fn entry_size(name_len: usize) -> usize {
    ENTRY_HEAD + ((name_len + 4) & !3)
}

/// An entry that names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where in the directory it lies.
    pub offset: u64,
    /// Its length: the next entry lies that many bytes further.
    pub reclen: u16,
    /// The file's inode.
    pub ino: u32,
    /// The file's type, where the directory says it.
    pub vtype: Option<VnodeType>,
    /// The name.
    pub name: &'a [u8],
}

/// How the entries of a volume are to be read.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    order: Order,
    old: bool,
    inodes: u32,
}

impl Shape {
    /// That of the volume `sb`.
    pub fn of(sb: &Superblock) -> Shape {
        Shape {
            order: sb.order,
            old: sb.has_old_directories(),
            inodes: sb.inodes(),
        }
    }

    /// Gives each entry of `unit`, which lies at `offset` of the directory, to `visit`, free ones as
    /// `None`; ends early, and answers `false`, when that does.
    pub fn walk_unit(
        &self,
        unit: &[u8],
        offset: u64,
        visit: &mut dyn FnMut(u64, Option<&Entry<'_>>) -> bool,
    ) -> Result<bool, (u64, EntryFault)> {
        let mut at = 0;
        while at < unit.len() {
            let here = offset + at as u64;
            let (entry, reclen) = self
                .entry(&unit[at..], here)
                .map_err(|fault| (here, fault))?;
            if !visit(here, entry.as_ref()) {
                return Ok(false);
            }
            at += reclen;
        }
        Ok(true)
    }

    /// The entry at the start of `rest`, and its length.
    pub(crate) fn entry<'a>(
        &self,
        rest: &'a [u8],
        offset: u64,
    ) -> Result<(Option<Entry<'a>>, usize), EntryFault> {
        let Some((head, body)) = rest.split_at_checked(ENTRY_HEAD) else {
            return Err(EntryFault::Length(rest.len() as u16));
        };
        let ino = self.order.u32([head[0], head[1], head[2], head[3]]);
        let reclen = self.order.u16([head[4], head[5]]);
        let length = usize::from(reclen);
        if !length.is_multiple_of(4) || length < ENTRY_HEAD {
            return Err(EntryFault::Length(reclen));
        }
        if length > rest.len() {
            return Err(EntryFault::CrossesUnit(reclen));
        }
        if ino == 0 {
            return Ok((None, length));
        }
        let (vtype, name_len) = if self.old {
            (None, self.order.u16([head[6], head[7]]))
        } else {
            (VnodeType::from_dirent_type(head[6]), u16::from(head[7]))
        };
        let name = name(body, usize::from(name_len), length)?;
        // A whiteout hides a name of a layer below; there is none.
        if ino == UFS_WINO {
            return Ok((None, length));
        }
        if ino >= self.inodes {
            return Err(EntryFault::InodeNumber(ino));
        }
        let entry = Entry {
            offset,
            reclen,
            ino,
            vtype,
            name,
        };
        Ok((Some(entry), length))
    }
}

/// The name at the start of `body`, in an entry of `length` bytes.
fn name(body: &[u8], name_len: usize, length: usize) -> Result<&[u8], EntryFault> {
    let fits = (1..=FFS_MAXNAMLEN).contains(&name_len) && entry_size(name_len) <= length;
    let name = match body.get(..name_len) {
        Some(name) if fits => name,
        _ => return Err(EntryFault::NameLength(name_len as u16)),
    };
    if let Some(byte) = name.iter().find(|byte| matches!(byte, 0 | b'/')) {
        return Err(EntryFault::NameByte(*byte));
    }
    if body.get(name_len) != Some(&0) {
        return Err(EntryFault::Unterminated);
    }
    Ok(name)
}

/// Gives the entries of directory `inode` in `from..to` to `visit`, until it answers `false`: then
/// so does this. The directory's end ends it as well.
pub fn walk(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    (from, to): (u64, u64),
    visit: &mut dyn FnMut(&Entry<'_>) -> bool,
) -> Result<bool, Fault> {
    let shape = Shape::of(sb);
    walk_units(sb, disk, inode, (from, to), &mut |unit, offset| {
        shape.walk_unit(unit, offset, &mut |at, entry| match entry {
            Some(entry) if at >= from => visit(entry),
            _ => true,
        })
    })
}

/// Is given a unit and where it lies; answers whether it wants more, or what is wrong with an entry, and where.
pub(crate) type UnitVisitor<'a> = dyn FnMut(&[u8], u64) -> Result<bool, (u64, EntryFault)> + 'a;

/// Gives the units of directory `inode` in `from..to`, and where each lies, to `visit`, until that answers `false` or says
/// what is wrong with an entry.
pub(crate) fn walk_units(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    (from, to): (u64, u64),
    visit: &mut UnitVisitor<'_>,
) -> Result<bool, Fault> {
    let end = to.min(inode.size);
    let mut offset = from - from % DIRBLKSIZ as u64;
    while offset < end {
        let (place, run) = place(sb, disk, inode, offset, end - offset)?;
        // A piece starts on a multiple of its size; the first may begin before `offset`.
        let piece = sb.tail_piece() as u64;
        let mut done = 0;
        while done < run {
            let into = (place + done) % piece;
            let bytes = (piece - into).min(run - done);
            let base = offset + done;
            let more = read_with(disk, place + done - into, piece as usize, |data| {
                let data = &data[into as usize..(into + bytes) as usize];
                walk_piece(inode.ino, data, base, visit)
            })??;
            if !more {
                return Ok(false);
            }
            done += bytes;
        }
        offset += run;
    }
    Ok(true)
}

/// Where on the volume byte `offset` of the directory lies, and how many of `want` bytes follow.
pub(crate) fn place(
    sb: &Superblock,
    disk: &dyn Metadata,
    inode: &Inode,
    offset: u64,
    want: u64,
) -> Result<(u64, u64), Fault> {
    let (block, into) = (offset >> sb.bshift, offset % u64::from(sb.bsize));
    let blocks = (into + want).div_ceil(u64::from(sb.bsize));
    let extent = bmap::map(sb, disk, inode, block, blocks)?;
    let run = extent.bytes.saturating_sub(into).min(want);
    match extent.address {
        Some(address) if run > 0 => Ok((sb.byte_of(address) + into, run)),
        _ => Err(Corrupt::DirectoryHole {
            ino: inode.ino,
            offset,
        }
        .into()),
    }
}

fn walk_piece(
    ino: u32,
    data: &[u8],
    base: u64,
    visit: &mut UnitVisitor<'_>,
) -> Result<bool, Corrupt> {
    for (index, unit) in data.chunks_exact(DIRBLKSIZ).enumerate() {
        match visit(unit, base + (index * DIRBLKSIZ) as u64) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err((offset, fault)) => return Err(Corrupt::Entry { ino, offset, fault }),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
