//! Where things lie on a volume: the arithmetic of a checked superblock.
//!
//! Addresses and lengths are in fragments, offsets in bytes. Source: NetBSD sys/ufs/ffs/fs.h
//! (`cgbase`, `cgstart`, `ino_to_fsba`, `ffs_blksize`, `ffs_blkoff`).

use core::ops::Range;

use crate::corrupt::Corrupt;
use crate::disk::PIECE;
use crate::raw;
use crate::superblock::{Format, Superblock};

/// Where an inode lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodePlace {
    /// Fragment of the inode block.
    pub block: u64,
    /// Byte within the block.
    pub byte: usize,
}

impl Superblock {
    /// First fragment of group `cg`.
    pub fn cgbase(&self, cg: u32) -> u64 {
        u64::from(cg) * u64::from(self.fpg)
    }

    /// Fragment from which the places of the group's metadata count.
    pub fn cgstart(&self, cg: u32) -> u64 {
        match self.format {
            Format::Ufs1 => {
                self.cgbase(cg) + u64::from(self.cgoffset) * u64::from(cg & !self.cgmask)
            }
            _ => self.cgbase(cg),
        }
    }

    /// Copy of the superblock in group `cg`.
    pub fn cgsblock(&self, cg: u32) -> u64 {
        self.cgstart(cg) + u64::from(self.sblkno)
    }

    /// Block of group `cg` itself.
    pub fn cgtod(&self, cg: u32) -> u64 {
        self.cgstart(cg) + u64::from(self.cblkno)
    }

    /// First inode block of group `cg`.
    pub fn cgimin(&self, cg: u32) -> u64 {
        self.cgstart(cg) + u64::from(self.iblkno)
    }

    /// First fragment for data behind the inodes of group `cg`.
    pub fn cgdmin(&self, cg: u32) -> u64 {
        self.cgstart(cg) + u64::from(self.dblkno)
    }

    /// One past the last fragment of group `cg`.
    pub fn cgend(&self, cg: u32) -> u64 {
        self.size.min(self.cgbase(cg) + u64::from(self.fpg))
    }

    /// Fragments of the summary area.
    pub fn summary(&self) -> Range<u64> {
        let fragments = u64::from(self.cssize).div_ceil(u64::from(self.fsize));
        self.csaddr..self.csaddr.saturating_add(fragments)
    }

    /// Group of fragment `address`, which lies inside the volume.
    pub fn group_of(&self, address: u64) -> u32 {
        (address / u64::from(self.fpg)) as u32
    }

    /// Byte of the volume at which fragment `address` starts.
    pub fn byte_of(&self, address: u64) -> u64 {
        address << self.fshift
    }

    /// Bytes of the whole volume.
    pub fn size_bytes(&self) -> u64 {
        self.size << self.fshift
    }

    /// Inodes of the whole volume, including the two that no file has.
    pub fn inodes(&self) -> u32 {
        self.ncg * self.ipg
    }

    /// Whether a directory entry may name inode `ino`.
    pub fn is_inode_number(&self, ino: u32) -> bool {
        (raw::UFS_ROOTINO..self.inodes()).contains(&ino)
    }

    /// Where inode `ino` lies.
    pub fn inode_place(&self, ino: u32) -> Result<InodePlace, Corrupt> {
        if !self.is_inode_number(ino) {
            return Err(Corrupt::InodeNumber {
                ino: u64::from(ino),
            });
        }
        let (cg, index) = (ino / self.ipg, ino % self.ipg);
        let blocks = u64::from(index / self.inopb);
        let slot = (index % self.inopb) as usize;
        Ok(InodePlace {
            block: self.cgimin(cg) + (blocks << self.fragshift),
            byte: slot * self.format.inode_size(),
        })
    }

    /// Whether `count` fragments from `address` on are a place for a file's block: at most a
    /// block, within the data of one group. (fsck_ffs, inode.c `chkrange`.)
    pub fn is_data(&self, address: u64, count: u32) -> bool {
        count <= self.frag && self.is_data_run(address, u64::from(count))
    }

    /// Whether `count` fragments from `address` on lie within the data of one group, on one side
    /// of its metadata.
    pub fn is_data_run(&self, address: u64, count: u64) -> bool {
        if address == 0 || count == 0 || count > self.size || address > self.size - count {
            return false;
        }
        let cg = self.group_of(address);
        let end = address + count;
        if address >= self.cgdmin(cg) {
            return end <= self.cgend(cg);
        }
        // What precedes the first superblock is the boot loader's.
        cg != 0 && end <= self.cgsblock(cg)
    }

    /// Bytes stored for logical block `block` of a file of `size` bytes: a whole block, or for
    /// the last of a file short enough to have only direct blocks, whole fragments. 0 behind the end.
    pub fn block_bytes(&self, size: u64, block: u64) -> u32 {
        let start = block.saturating_mul(u64::from(self.bsize));
        if start >= size {
            return 0;
        }
        let left = size - start;
        if block >= raw::UFS_NDADDR as u64 || left >= u64::from(self.bsize) {
            return self.bsize;
        }
        (left as u32).next_multiple_of(self.fsize)
    }

    /// Bytes in which directories and long symlinks are read ([`crate::disk`]).
    pub fn tail_piece(&self) -> usize {
        PIECE.min(self.fsize as usize)
    }

    /// Directory entries have 16-bit name lengths and no type.
    pub fn has_old_directories(&self) -> bool {
        self.maxsymlinklen == 0
    }
}
