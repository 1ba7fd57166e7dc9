//! Taking the blocks of a file away: all of them, or those behind a new end.
//!
//! The inode without the pointers is on the disk before any block it loses is anybody else's, and so is an
//! indirect block that is kept but loses some: whatever happens between, no block has two owners. The blocks
//! are kept until then ([`Allocator::free_later`]).
//!
//! Source: NetBSD sys/ufs/ffs/ffs_inode.c (`ffs_truncate`, `ffs_indirtrunc`).

use rumpuser::SECTOR_SIZE;
use rumpvfs::bufcache::{Buf, Devvp};
use rumpvfs::vnode::{VnodeType, Wait};

use crate::allocator::Allocator;
use crate::bmap;
use crate::corrupt::Fault;
use crate::disk::PIECE;
use crate::inode::{Contents, Inode, pointer};
use crate::raw::{UFS_NDADDR, UFS_NIADDR};
use crate::superblock::Superblock;

/// Blocks with places that are cut off in one operation of a log, at most.
pub const PIECE_BLOCKS: u64 = 128;

/// A file being cut.
pub struct Truncate<'a> {
    /// The volume.
    pub sb: &'a Superblock,
    /// The way to its metadata.
    pub device: &'a Devvp,
    /// Its blocks are in the buffer cache: a directory's, or a long link's.
    metadata: bool,
    /// The inode becomes a free one with its first write.
    erases: bool,
    /// Fragments freed.
    freed: u64,
    /// What was met first; the rest is freed all the same.
    fault: Option<Fault>,
}

impl<'a> Truncate<'a> {
    /// Of a file of type `vtype`.
    pub fn new(sb: &'a Superblock, device: &'a Devvp, vtype: VnodeType) -> Truncate<'a> {
        Truncate {
            sb,
            device,
            metadata: vtype != VnodeType::Reg,
            erases: false,
            freed: 0,
            fault: None,
        }
    }

    /// The same, of a file that nobody will use any more.
    pub fn erasing(mut self) -> Truncate<'a> {
        self.erases = true;
        self
    }

    fn store(&self, inode: &Inode, wait: Wait) -> Result<(), Fault> {
        match self.erases {
            true => Inode::erase(self.sb, self.device, inode.ino, wait),
            false => inode.store(self.sb, self.device, wait),
        }
    }

    /// Where the next piece that is cut off `inode`, on its way to `size`, may end: what lies behind is no more than
    /// [`PIECE_BLOCKS`] blocks, and holes.
    pub fn next_end(&self, inode: &Inode, size: u64) -> Result<u64, Fault> {
        let bsize = u64::from(self.sb.bsize);
        let keep = size.div_ceil(bsize);
        Ok(match bmap::last_block(self.sb, self.device, inode)? {
            Some(last) if last >= keep + PIECE_BLOCKS => (last + 1 - PIECE_BLOCKS) * bsize,
            _ => size,
        })
    }

    /// Cuts `inode` off at `size`, which is no more than its size. What is returned as a fault
    /// did not keep the file from being cut; blocks may then be lost until a check.
    pub fn cut(
        mut self,
        space: &mut Allocator<'_>,
        inode: &mut Inode,
        size: u64,
    ) -> Result<(), Fault> {
        let sb = self.sb;
        // While it can still fail.
        space.make_room(PIECE_BLOCKS as usize + 2 * UFS_NIADDR)?;
        let old = inode.clone();
        inode.size = size;
        let keep = size.div_ceil(u64::from(sb.bsize));
        let Contents::Blocks { direct, indirect } = &mut inode.contents else {
            return self.store(inode, Wait::Started);
        };
        let (was_direct, was_indirect) = (*direct, *indirect);
        for pointer in direct.iter_mut().skip(keep as usize) {
            *pointer = 0;
        }
        for (pointer, first) in indirect.iter_mut().zip(firsts(sb)) {
            if keep <= first {
                *pointer = 0;
            }
        }
        if was_direct.iter().chain(&was_indirect).all(|at| *at == 0) {
            return self.store(inode, Wait::Started);
        }
        self.store(inode, Wait::Started)?;
        for (level, (address, first)) in was_indirect.into_iter().zip(firsts(sb)).enumerate() {
            let kept = keep.saturating_sub(first);
            let span = u64::from(sb.nindir).saturating_pow(level as u32 + 1);
            if address != 0 && kept < span {
                self.tree(space, address, level + 1, kept);
            }
        }
        for (block, address) in was_direct.into_iter().enumerate() {
            let fragments = |size| sb.block_bytes(size, block as u64) >> sb.fshift;
            let (had, has) = (fragments(old.size), fragments(size));
            if address != 0 && had > has {
                self.give(space, address.wrapping_add(i64::from(has)), had - has);
            }
        }
        let sectors = self.freed * u64::from(sb.fsize) / SECTOR_SIZE as u64;
        inode.blocks = inode.blocks.saturating_sub(sectors);
        if !self.erases {
            self.store(inode, Wait::Started)?;
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// Frees what the indirect block at `address` finds, but for the first `keep` blocks; and itself, if
    /// it keeps none.
    fn tree(&mut self, space: &mut Allocator<'_>, address: i64, level: usize, keep: u64) {
        let sb = self.sb;
        let place = u64::try_from(address).unwrap_or(0);
        if !sb.is_data(place, sb.frag) {
            self.failed(crate::corrupt::Corrupt::FreedPlace { address: place }.into());
            return;
        }
        let width = sb.format.pointer_size();
        let per_piece = (PIECE / width) as u64;
        let span = u64::from(sb.nindir).saturating_pow(level as u32 - 1);
        for piece in 0..u64::from(sb.nindir) / per_piece {
            let first = piece * per_piece;
            if (first + per_piece).saturating_mul(span) <= keep {
                continue;
            }
            let at = sb.byte_of(place) + piece * PIECE as u64;
            // The first pointer of the piece that goes.
            let goes = keep.div_ceil(span).saturating_sub(first) as usize;
            match self.detach(at, goes * width, keep > 0) {
                Ok(old) => self.children(space, &old, (first, level, keep)),
                Err(fault) => self.failed(fault),
            }
            // A block that is found twice would go round for ever.
            if self.fault.is_some() {
                return;
            }
        }
        if keep == 0 {
            self.invalidate(place, sb.frag);
            if let Err(fault) = space.revoke(place, sb.frag) {
                self.failed(fault);
            }
            self.give(space, address, sb.frag);
        }
    }

    /// The piece of an indirect block at byte `at`, as it was; what of it lies behind `from` is zero
    /// from now on, if the block is `kept`.
    fn detach(&self, at: u64, from: usize, kept: bool) -> Result<Buf, Fault> {
        let fault = |errno| Fault::Device { at, errno };
        let sector = at / SECTOR_SIZE as u64;
        let old = self.device.bread(sector, PIECE).map_err(fault)?;
        if kept && old[from.min(PIECE)..].iter().any(|byte| *byte != 0) {
            let mut buf = self.device.bmodify(sector, PIECE).map_err(fault)?;
            buf[from.min(PIECE)..].fill(0);
            buf.bdwrite();
        }
        Ok(old)
    }

    fn children(
        &mut self,
        space: &mut Allocator<'_>,
        piece: &[u8],
        (first, level, keep): (u64, usize, u64),
    ) {
        let sb = self.sb;
        let span = u64::from(sb.nindir).saturating_pow(level as u32 - 1);
        let pointers = piece.chunks_exact(sb.format.pointer_size());
        for (index, bytes) in (first..).zip(pointers) {
            let address = pointer(sb.order, bytes);
            let kept = keep.saturating_sub(index.saturating_mul(span));
            if address == 0 || kept >= span || self.fault.is_some() {
                continue;
            }
            match level {
                1 => self.give(space, address, sb.frag),
                _ => self.tree(space, address, level - 1, kept),
            }
        }
    }

    fn give(&mut self, space: &mut Allocator<'_>, address: i64, count: u32) {
        let place = u64::try_from(address).unwrap_or(0);
        if self.metadata && self.sb.is_data(place, count) {
            // Files whose names were in a directory may not lose their inodes before the disk knows.
            let start = self.sb.byte_of(place) / SECTOR_SIZE as u64;
            let bytes = (count * self.sb.fsize) as usize;
            if !self.device.holds() {
                self.device.write_through(start, bytes);
            }
            self.invalidate(place, count);
            if let Err(fault) = space.revoke(place, count) {
                self.failed(fault);
            }
        }
        match space.free_later(place, count) {
            Ok(()) => self.freed += u64::from(count),
            Err(fault) => self.failed(fault),
        }
    }

    /// What the buffer cache has of these fragments is nothing any more.
    fn invalidate(&self, address: u64, count: u32) {
        if self.sb.is_data(address, count) {
            let start = self.sb.byte_of(address) / SECTOR_SIZE as u64;
            let bytes = count * self.sb.fsize;
            self.device.invalidate(start, bytes as usize);
        }
    }

    fn failed(&mut self, fault: Fault) {
        self.fault = self.fault.or(Some(fault));
    }
}

/// The first blocks behind each of the inode's indirect pointers.
fn firsts(sb: &Superblock) -> [u64; UFS_NIADDR] {
    let n = u64::from(sb.nindir);
    let direct = UFS_NDADDR as u64;
    [direct, direct + n, direct + n + n * n]
}
