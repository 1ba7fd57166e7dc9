//! Giving the blocks of a file places: the direct ones, which may be fragments, and those behind
//! indirect blocks.
//!
//! The inode given is a copy that whoever calls puts back when all went well; the maps of the volume
//! and indirect blocks change at once. An indirect block is on the disk, as zeroes, before anything
//! points to it. When a tail moves, what it held is on the disk at its new place before the inode can be, for it may
//! have been synced; its old fragments are freed by the caller ([`Move`]) once the inode on the disk has the
//! new place.
//!
//! Source: NetBSD sys/ufs/ffs/ffs_balloc.c, ffs_alloc.c (`ffs_blkpref_ufs1`).

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::{BufMut, Devvp};
use rumpvfs::specfs;

use crate::allocator::Allocator;
use crate::bmap::Path;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{PIECE, read_in_block};
use crate::inode::encode::put_pointer;
use crate::inode::{Contents, Inode, pointer};
use crate::raw::UFS_NDADDR;
use crate::superblock::Superblock;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It had all it needs.
    Had,
    /// It has a place now, which holds what it held for somebody else.
    New,
    /// Its fragments have become more, from so many on.
    Longer(u32),
    /// It lies elsewhere now, with more fragments than before.
    Moved(Move),
}

/// A tail that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its old place, to be freed when the inode on the disk has the new one.
    pub from: u64,
    /// Fragments there.
    pub old: u32,
    /// The new place.
    pub to: u64,
}

/// What has been written is stable from now on, also on a disk that writes in an order of its own; `at` is what it is
/// about. Where something that was synced lies in one of two places, the disk must not have the second half of the
/// move without the first.
pub(crate) fn barrier(device: &Devvp, at: u64) -> Result<(), Fault> {
    if device.holds() {
        // A commit is one.
        return Ok(());
    }
    specfs::flush(&**device.device()).map_err(|errno| Fault::Device { at, errno })
}

/// Blocks of one file, being given places.
pub struct Balloc<'a> {
    /// The volume.
    pub sb: &'a Superblock,
    /// The way to its metadata.
    pub device: &'a Devvp,
}

impl Balloc<'_> {
    /// Sees to it that logical block `block` of `inode` has a place for what a file of `size` bytes has in
    /// it. `holes`: a block inside that has none keeps none.
    pub fn block(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        block: u64,
        size: u64,
    ) -> Result<Place, Fault> {
        let path = Path::to(self.sb.nindir, block).ok_or(Fault::Refused(Errno::EFBIG))?;
        if path.depth == 0 {
            self.direct(space, inode, path.direct, size)
        } else {
            self.indirect(space, inode, &path)
        }
    }

    fn direct(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        index: usize,
        size: u64,
    ) -> Result<Place, Fault> {
        let sb = self.sb;
        let home = inode.ino / sb.ipg;
        let fragments = |size: u64| sb.block_bytes(size, index as u64) >> sb.fshift;
        let (old, new) = (fragments(inode.size), fragments(size));
        let sectors = |count: u32| u64::from(count) * u64::from(sb.fsize) / SECTOR_SIZE as u64;
        let Contents::Blocks { direct, .. } = &mut inode.contents else {
            return Err(Fault::Refused(Errno::EINVAL));
        };
        let address = direct[index];
        if address == 0 {
            let before = index.checked_sub(1).map_or(0, |n| direct[n]);
            let wish = match before {
                0 => sb.cgbase(home) + u64::from(sb.frag),
                before => (before as u64).saturating_add(u64::from(sb.frag)),
            };
            direct[index] = space.take(home, wish, new)? as i64;
            inode.blocks += sectors(new);
            return Ok(Place::New);
        }
        if old >= new {
            return Ok(Place::Had);
        }
        let place = u64::try_from(address).ok();
        let Some(from) = place.filter(|place| old > 0 && sb.is_data(*place, old)) else {
            return Err(Corrupt::Pointer {
                ino: inode.ino,
                block: index as u64,
                address,
            }
            .into());
        };
        let grown = space.grow(home, from, (old, new))?;
        if grown.moved {
            self.copy(from, grown.address, old).inspect_err(|_| {
                // Nothing points to it: it stays taken only until a check, if this fails, too.
                let _ = space.free(grown.address, new);
            })?;
        }
        direct[index] = grown.address as i64;
        inode.blocks += sectors(new - old);
        Ok(match grown.moved {
            false => Place::Longer(old),
            true => Place::Moved(Move {
                from,
                old,
                to: grown.address,
            }),
        })
    }

    /// Copies `count` fragments on the disk; the copy is stable then. Buffers of both places are left behind.
    fn copy(&self, from: u64, to: u64, count: u32) -> Result<(), Fault> {
        let piece = self.sb.tail_piece();
        for into in (0..(count * self.sb.fsize) as usize).step_by(piece) {
            let from = self.sb.byte_of(from) + into as u64;
            let to = self.sb.byte_of(to) + into as u64;
            let old = self
                .device
                .bread(from / SECTOR_SIZE as u64, piece)
                .map_err(|errno| Fault::Device { at: from, errno })?;
            let fault = |errno| Fault::Device { at: to, errno };
            let mut new = self
                .device
                .getblk(to / SECTOR_SIZE as u64, piece)
                .map_err(fault)?;
            new.copy_from_slice(&old);
            // Nobody's place so far; and data are not for a log.
            new.bwrite_in_place().map_err(fault)?;
        }
        barrier(self.device, self.sb.byte_of(to))
    }

    fn indirect(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        path: &Path,
    ) -> Result<Place, Fault> {
        let sb = self.sb;
        let home = inode.ino / sb.ipg;
        let whole = u64::from(sb.bsize) / SECTOR_SIZE as u64;
        let Contents::Blocks { direct, indirect } = &mut inode.contents else {
            return Err(Fault::Refused(Errno::EINVAL));
        };
        let root = &mut indirect[path.depth - 1];
        if *root == 0 {
            let wish = match direct[UFS_NDADDR - 1] {
                0 => space.wish_from(home)?,
                before => (before as u64).saturating_add(u64::from(sb.frag)),
            };
            *root = self.fresh(space, home, wish)? as i64;
            inode.blocks += whole;
        }
        let mut at = *root;
        for (step, index) in path.indices[..path.depth].iter().enumerate() {
            let level = path.depth - step;
            let table = self.table(inode.ino, at, level)?;
            let (next, before) = self.read_pointer(table, *index)?;
            if next != 0 {
                if level == 1 {
                    return Ok(Place::Had);
                }
                at = next;
                continue;
            }
            let wish = self.wish(space, at as u64, *index, before)?;
            let made = match level {
                1 => space.take(home, wish, sb.frag)?,
                _ => self.fresh(space, home, wish)?,
            };
            self.put(table, *index, made as i64).inspect_err(|_| {
                // Nothing points to it: it stays taken only until a check, if this fails, too.
                let _ = space.free(made, sb.frag);
            })?;
            inode.blocks += whole;
            at = made as i64;
        }
        Ok(Place::New)
    }

    /// Where a block that pointer `index` of the indirect block at `table` is to find should lie.
    fn wish(
        &self,
        space: &mut Allocator<'_>,
        table: u64,
        index: u32,
        before: i64,
    ) -> Result<u64, Fault> {
        let sb = self.sb;
        let last = if before > 0 { before as u64 } else { table };
        if index > 0 && index.is_multiple_of(sb.maxbpg) {
            return space.wish_from(sb.group_of(last.min(sb.size - 1)) + 1);
        }
        Ok(last.saturating_add(u64::from(sb.frag)))
    }

    /// A new indirect block: zeroes, on the disk before anything points to it.
    fn fresh(&self, space: &mut Allocator<'_>, home: u32, wish: u64) -> Result<u64, Fault> {
        let sb = self.sb;
        let address = space.take(home, wish, sb.frag)?;
        for piece in 0..(sb.bsize as usize / PIECE) {
            let at = sb.byte_of(address) + (piece * PIECE) as u64;
            let written = self
                .device
                .getblk(at / SECTOR_SIZE as u64, PIECE)
                .and_then(BufMut::bwrite_in_place);
            if let Err(errno) = written {
                let _ = space.free(address, sb.frag);
                return Err(Fault::Device { at, errno });
            }
        }
        Ok(address)
    }

    /// The indirect block at `address`, judged.
    fn table(&self, ino: u32, address: i64, level: usize) -> Result<u64, Corrupt> {
        match u64::try_from(address) {
            Ok(place) if self.sb.is_data(place, self.sb.frag) => Ok(place),
            _ => Err(Corrupt::IndirectPointer {
                ino,
                block: 0,
                level: level as u8,
                address,
            }),
        }
    }

    /// Pointer `index` of an indirect block, and the one before it if it is in the same piece.
    fn read_pointer(&self, table: u64, index: u32) -> Result<(i64, i64), Fault> {
        let sb = self.sb;
        let width = sb.format.pointer_size();
        let byte = index as usize * width;
        let start = byte - byte % PIECE;
        read_in_block(self.device, sb.byte_of(table), start, |piece| {
            let at = |byte: usize| {
                let bytes = piece.get(byte..byte + width).unwrap_or_default();
                pointer(sb.order, bytes)
            };
            let here = byte - start;
            (at(here), if here >= width { at(here - width) } else { 0 })
        })
    }

    fn put(&self, table: u64, index: u32, value: i64) -> Result<(), Fault> {
        let sb = self.sb;
        let width = sb.format.pointer_size();
        let byte = index as usize * width;
        let start = byte - byte % PIECE;
        let at = sb.byte_of(table) + start as u64;
        let mut buf = self
            .device
            .bmodify(at / SECTOR_SIZE as u64, PIECE)
            .map_err(|errno| Fault::Device { at, errno })?;
        if let Some(place) = buf.get_mut(byte - start..byte - start + width) {
            put_pointer(sb.order, place, value);
        }
        buf.bdwrite();
        Ok(())
    }

    /// Takes back that block `block` of `inode` was given a place: it is a hole again.
    pub fn undo(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        block: u64,
        size: u64,
    ) -> Result<(), Fault> {
        let sb = self.sb;
        let Some(path) = Path::to(sb.nindir, block) else {
            return Ok(());
        };
        let Contents::Blocks { direct, indirect } = &mut inode.contents else {
            return Ok(());
        };
        let (address, count) = if path.depth == 0 {
            let count = sb.block_bytes(size, block) >> sb.fshift;
            (core::mem::take(&mut direct[path.direct]), count)
        } else {
            let mut at = indirect[path.depth - 1];
            let (last, above) = match path.indices[..path.depth].split_last() {
                Some(split) => split,
                None => return Ok(()),
            };
            for index in above {
                at = self.read_pointer(at as u64, *index)?.0;
            }
            let address = self.read_pointer(at as u64, *last)?.0;
            self.put(at as u64, *last, 0)?;
            (address, sb.frag)
        };
        inode.blocks = inode
            .blocks
            .saturating_sub(u64::from(count) * u64::from(sb.fsize) / SECTOR_SIZE as u64);
        space.free_later(address as u64, count)
    }
}
