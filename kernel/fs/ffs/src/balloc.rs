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

use core::ops::Range;

use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::{BufMut, Devvp};
use rumpvfs::specfs;
use rumpvfs::vnode::VnodeType;

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

/// Pointers of an indirect block, one after another in one piece.
struct Pointers {
    first: i64,
    /// The one before, or 0 if that is in another piece.
    before: i64,
    /// How many are zero as the first is, or are not as it is not; it counts.
    alike: u32,
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
    /// it.
    pub fn block(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        block: u64,
        size: u64,
    ) -> Result<Place, Fault> {
        Ok(self.run(space, inode, block..block + 1, size)?.0)
    }

    /// The same for the first of `blocks`, and for those behind it of which the same becomes while that needs no other piece of
    /// an indirect block. Answers how many blocks it was.
    pub fn run(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        blocks: Range<u64>,
        size: u64,
    ) -> Result<(Place, u64), Fault> {
        let path = Path::to(self.sb.nindir, blocks.start).ok_or(Fault::Refused(Errno::EFBIG))?;
        if path.depth == 0 {
            Ok((self.direct(space, inode, path.direct, size)?, 1))
        } else {
            self.indirect(space, inode, &path, blocks.end - blocks.start)
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
            let is_data = inode.vtype != VnodeType::Dir;
            self.copy(from, grown.address, old).inspect_err(|_| {
                if is_data {
                    // The page cache has these, and what is read here again is to be what it has written.
                    self.invalidate(from, old);
                }
                // What could not be written stays dirty, and would be written over what comes to lie there.
                self.invalidate(grown.address, old);
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

    /// What the buffer cache has of these fragments is nothing any more.
    fn invalidate(&self, address: u64, count: u32) {
        let sector = self.sb.byte_of(address) / SECTOR_SIZE as u64;
        let bytes = (count * self.sb.fsize) as usize;
        self.device.invalidate(sector, bytes);
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

    /// As [`Balloc::run`], for up to `most` blocks.
    fn indirect(
        &self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        path: &Path,
        most: u64,
    ) -> Result<(Place, u64), Fault> {
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
        let (last, above) = path.indices[..path.depth]
            .split_last()
            .ok_or(Fault::Refused(Errno::EFBIG))?;
        for (step, index) in above.iter().enumerate() {
            let table = self.table(inode.ino, at, path.depth - step)?;
            let found = self.read_pointers(table, *index, 1)?;
            at = found.first;
            if at == 0 {
                let wish = self.wish(space, table, *index, found.before)?;
                let made = self.fresh(space, home, wish)?;
                self.point(space, table, *index, (made, 1))?;
                inode.blocks += whole;
                at = made as i64;
            }
        }
        let table = self.table(inode.ino, at, 1)?;
        // A file's stretch may end there: the next block is wished for elsewhere.
        let stretch = u64::from(sb.maxbpg - last % sb.maxbpg);
        let found = self.read_pointers(table, *last, most.min(stretch) as u32)?;
        if found.first != 0 {
            return Ok((Place::Had, u64::from(found.alike)));
        }
        let wish = self.wish(space, table, *last, found.before)?;
        let run = space.take_blocks(home, wish, found.alike)?;
        self.point(space, table, *last, run)?;
        inode.blocks += u64::from(run.1) * whole;
        Ok((Place::New, u64::from(run.1)))
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
                self.invalidate(address, sb.frag);
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

    /// Pointer `index` of an indirect block, what is before it, and how many of up to `most` from it on are of its kind.
    fn read_pointers(&self, table: u64, index: u32, most: u32) -> Result<Pointers, Fault> {
        let sb = self.sb;
        let width = sb.format.pointer_size();
        let byte = index as usize * width;
        let start = byte - byte % PIECE;
        read_in_block(self.device, sb.byte_of(table), start, |piece| {
            let (before, from) = piece.split_at_checked(byte - start).unwrap_or_default();
            let mut known = from.chunks_exact(width).map(|at| pointer(sb.order, at));
            let first = known.next().unwrap_or_default();
            let rest = known.take(most.saturating_sub(1) as usize);
            let alike = rest.take_while(|next| (*next == 0) == (first == 0));
            Pointers {
                first,
                before: match before.rchunks_exact(width).next() {
                    Some(bytes) => pointer(sb.order, bytes),
                    None => 0,
                },
                alike: 1 + alike.count() as u32,
            }
        })
    }

    /// Lets the pointers from `index` on find blocks that were taken for them: where the first lies, and how many. They lie in
    /// one piece, as [`Balloc::read_pointers`] counts.
    fn point(
        &self,
        space: &mut Allocator<'_>,
        table: u64,
        index: u32,
        (first, count): (u64, u32),
    ) -> Result<(), Fault> {
        let frag = self.sb.frag;
        let places = (0..count).map(|n| first + u64::from(n * frag));
        self.put(table, index, places.clone()).inspect_err(|_| {
            for place in places {
                // Nothing points to it: it stays taken only until a check, if this fails, too.
                self.invalidate(place, frag);
                let _ = space.free(place, frag);
            }
        })
    }

    /// Writes pointers from `index` on, all in one piece.
    fn put(&self, table: u64, index: u32, values: impl Iterator<Item = u64>) -> Result<(), Fault> {
        let sb = self.sb;
        let width = sb.format.pointer_size();
        let byte = index as usize * width;
        let start = byte - byte % PIECE;
        let at = sb.byte_of(table) + start as u64;
        let mut buf = self
            .device
            .bmodify(at / SECTOR_SIZE as u64, PIECE)
            .map_err(|errno| Fault::Device { at, errno })?;
        let places = buf.get_mut(byte - start..).unwrap_or_default();
        for (place, value) in places.chunks_exact_mut(width).zip(values) {
            put_pointer(sb.order, place, value as i64);
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
                at = self.read_pointers(at as u64, *index, 1)?.first;
            }
            let address = self.read_pointers(at as u64, *last, 1)?.first;
            self.put(at as u64, *last, core::iter::once(0))?;
            (address, sb.frag)
        };
        inode.blocks = inode
            .blocks
            .saturating_sub(u64::from(count) * u64::from(sb.fsize) / SECTOR_SIZE as u64);
        space.free_later(address as u64, count)
    }
}
