//! Phase 1: every inode, and every block that it claims. (fsck_ffs, pass1.c, pass1b.c, inode.c.)

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use rumpvfs::vnode::VnodeType;
use zerocopy::byteorder::ByteOrder;
use zerocopy::{BE, FromBytes, LE};

use super::{Check, Finding, State};
use crate::cg::Head;
use crate::corrupt::{Corrupt, Fault};
use crate::disk::{PIECE, read_with};
use crate::inode::{Contents, Inode, MAX_SYMLINK, pointer};
use crate::link;
use crate::order::Order;
use crate::raw::{self, RawInode2};
use crate::superblock::Superblock;

/// An address of a snapshot's file that is none: a block that was not copied, or need not be.
const SNAPSHOT_MARKS: [i64; 2] = [1, 2];
/// File flag of a snapshot.
const SF_SNAPSHOT: u32 = 0x0020_0000;

/// Something that an inode claims.
#[derive(Clone, Copy)]
struct Claim {
    address: i64,
    fragments: u32,
    /// The logical block, or the first of those that an indirect block finds.
    block: u64,
    /// 0 for data, else levels of pointers.
    level: u8,
    /// The file ends before what this would find.
    is_beyond_end: bool,
}

impl Check<'_> {
    pub(super) fn check_blocks(&mut self) -> Result<(), Fault> {
        self.claim_metadata();
        let mut twice = Vec::new();
        for cg in 0..self.sb.ncg {
            self.each_inode(cg, |check, ino, bytes| check.inode(ino, bytes, &mut twice))?;
        }
        if !twice.is_empty() {
            self.name_first_owners(&twice)?;
        }
        Ok(())
    }

    /// What is no file's: boot area, superblocks, groups, inodes, the summary.
    fn claim_metadata(&mut self) {
        for cg in 0..self.sb.ncg {
            let first = match cg {
                0 => 0,
                _ => self.sb.cgsblock(cg),
            };
            let end = self.sb.cgdmin(cg).min(self.sb.size);
            self.claim(first, end.saturating_sub(first));
        }
        let summary = self.sb.summary();
        self.claim(summary.start, summary.end - summary.start);
    }

    /// Shows `visit` every inode of group `cg` that was ever written.
    fn each_inode<F>(&mut self, cg: u32, mut visit: F) -> Result<(), Fault>
    where
        F: FnMut(&mut Self, u32, &[u8]) -> Result<(), Fault>,
    {
        let head = match Head::load(&self.sb, self.disk, cg) {
            Ok(head) => head,
            // Phase 3 reports it.
            Err(Fault::Corrupt(_)) => Head {
                initialised_inodes: self.sb.ipg,
            },
            Err(fault) => return Err(fault),
        };
        let size = self.sb.format.inode_size();
        let per_piece = (PIECE / size) as u32;
        let start = self.sb.byte_of(self.sb.cgimin(cg));
        for piece in 0..head.initialised_inodes.div_ceil(per_piece) {
            let at = start + u64::from(piece) * PIECE as u64;
            let bytes = read_with(self.disk, at, PIECE, <[u8]>::to_vec)?;
            for (slot, bytes) in bytes.chunks_exact(size).enumerate() {
                let index = piece * per_piece + slot as u32;
                let ino = cg * self.sb.ipg + index;
                if index < head.initialised_inodes && ino >= raw::UFS_ROOTINO {
                    visit(self, ino, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn inode(&mut self, ino: u32, bytes: &[u8], twice: &mut Vec<(u64, u32)>) -> Result<(), Fault> {
        let inode = match Inode::decode(&self.sb, ino, bytes) {
            Ok(inode) => inode,
            Err(Corrupt::InodeFree { .. }) => {
                if self.has_remains(bytes) {
                    self.report.add(Finding::PartlyAllocated { ino });
                }
                return Ok(());
            }
            Err(corrupt) => {
                self.report.add(Finding::Corrupt(corrupt));
                self.inodes[ino as usize].state = State::Broken;
                return Ok(());
            }
        };
        let needs_no_name = self.needs_no_name(&inode);
        let known = &mut self.inodes[ino as usize];
        known.needs_no_name = needs_no_name;
        known.nlink = inode.nlink;
        known.state = match inode.vtype {
            VnodeType::Dir => State::Directory,
            other => State::File(other.dirent_type()),
        };
        self.report.inodes += 1;
        self.report.directories += u64::from(inode.vtype == VnodeType::Dir);
        let mut fragments = 0;
        self.claims(&inode, bytes, &mut |check, claim| {
            check.judge_claim(&inode, claim, &mut fragments, twice)
        })?;
        if inode.vtype == VnodeType::Lnk {
            self.judge_text(&inode)?;
        }
        let sectors = fragments * u64::from(self.sb.fsize / raw::DEV_BSIZE);
        if sectors != inode.blocks {
            self.report.add(Finding::Blocks {
                ino,
                says: inode.blocks,
                has: sectors,
            });
        }
        self.report.fragments += fragments;
        Ok(())
    }

    /// Whether a symbolic link has a text that can be one. A pointer that is wrong is a finding already.
    fn judge_text(&mut self, inode: &Inode) -> Result<(), Fault> {
        let mut text = [0; MAX_SYMLINK as usize];
        match link::read_text(&self.sb, self.disk, inode, &mut text) {
            Err(Fault::Corrupt(corrupt @ Corrupt::SymlinkText { .. })) => {
                self.report.add(Finding::Corrupt(corrupt));
                Ok(())
            }
            Ok(_) | Err(Fault::Corrupt(_)) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Whether an inode holds the journal, or quotas.
    fn needs_no_name(&self, inode: &Inode) -> bool {
        let log = self.sb.journal.and_then(|journal| journal.inode());
        log == Some(inode.ino) && inode.flags & raw::SF_LOG != 0
            || self.sb.quotafile.contains(&u64::from(inode.ino))
    }

    /// Whether a free inode has a size or pointers left.
    fn has_remains(&self, bytes: &[u8]) -> bool {
        let (size, pointers) = match self.sb.format.is_ufs2() {
            true => (16..24, 112..232),
            false => (8..16, 40..100),
        };
        let is_zero = |range| {
            bytes
                .get(range)
                .is_some_and(|b: &[u8]| b.iter().all(|b| *b == 0))
        };
        !is_zero(size) || !is_zero(pointers)
    }

    /// Takes a claim into account; whether what it points to is to be followed.
    fn judge_claim(
        &mut self,
        inode: &Inode,
        claim: Claim,
        fragments: &mut u64,
        twice: &mut Vec<(u64, u32)>,
    ) -> bool {
        let ino = inode.ino;
        if claim.is_beyond_end {
            self.report.add(Finding::BeyondEnd {
                ino,
                block: claim.block,
                address: claim.address,
            });
            return false;
        }
        if inode.flags & SF_SNAPSHOT != 0 && SNAPSHOT_MARKS.contains(&claim.address) {
            return false;
        }
        let address = match u64::try_from(claim.address) {
            Ok(address) if self.sb.is_data(address, claim.fragments) => address,
            _ => {
                self.report.add(Finding::Corrupt(match claim.level {
                    0 => Corrupt::Pointer {
                        ino,
                        block: claim.block,
                        address: claim.address,
                    },
                    level => Corrupt::IndirectPointer {
                        ino,
                        block: claim.block,
                        level,
                        address: claim.address,
                    },
                }));
                return false;
            }
        };
        *fragments += u64::from(claim.fragments);
        match self.claim(address, u64::from(claim.fragments)) {
            Some(fragment) => {
                twice.push((fragment, ino));
                false
            }
            None => true,
        }
    }

    /// Says of every fragment with two owners who was first: phase 1 knows only who came then. The
    /// inodes are visited in the same order, so it is whom it meets first.
    fn name_first_owners(&mut self, twice: &[(u64, u32)]) -> Result<(), Fault> {
        let summary = self.sb.summary();
        let mut first: BTreeMap<u64, Option<u32>> = twice
            .iter()
            .map(|(place, _)| (*place, summary.contains(place).then_some(0)))
            .collect();
        for cg in 0..self.sb.ncg {
            self.each_inode(cg, |check, ino, bytes| {
                let Ok(inode) = Inode::decode(&check.sb, ino, bytes) else {
                    return Ok(());
                };
                check.claims(&inode, bytes, &mut |check, claim| {
                    meet_owner(&check.sb, &mut first, ino, claim)
                })
            })?;
        }
        for (fragment, second) in twice {
            self.report.add(Finding::Duplicate {
                fragment: *fragment,
                first: first.get(fragment).copied().flatten().unwrap_or(0),
                second: *second,
            });
        }
        Ok(())
    }

    /// Shows `visit` everything that `inode` claims, and follows what it says is to be followed.
    fn claims(
        &mut self,
        inode: &Inode,
        bytes: &[u8],
        visit: &mut dyn FnMut(&mut Self, Claim) -> bool,
    ) -> Result<(), Fault> {
        for (size, address) in self.attribute_blocks(bytes) {
            let claim = Claim {
                address,
                fragments: size.div_ceil(self.sb.fsize),
                block: 0,
                level: 0,
                is_beyond_end: false,
            };
            visit(self, claim);
        }
        let Contents::Blocks { direct, indirect } = &inode.contents else {
            return Ok(());
        };
        for (block, address) in direct.iter().enumerate() {
            self.follow(inode, (*address, block as u64, 0), visit)?;
        }
        let n = u64::from(self.sb.nindir);
        let firsts = [12, 12 + n, 12 + n + n * n];
        for (level, (address, first)) in indirect.iter().zip(firsts).enumerate() {
            self.follow(inode, (*address, first, level as u8 + 1), visit)?;
        }
        Ok(())
    }

    /// One pointer: its address, the first block that it finds, and its level.
    fn follow(
        &mut self,
        inode: &Inode,
        (address, block, level): (i64, u64, u8),
        visit: &mut dyn FnMut(&mut Self, Claim) -> bool,
    ) -> Result<(), Fault> {
        if address == 0 {
            return Ok(());
        }
        let fragments = match level {
            0 => self.sb.block_bytes(inode.size, block) >> self.sb.fshift,
            _ => self.sb.frag,
        };
        let claim = Claim {
            address,
            fragments,
            block,
            level,
            is_beyond_end: block >= inode.size.div_ceil(u64::from(self.sb.bsize)),
        };
        if !visit(self, claim) || level == 0 {
            return Ok(());
        }
        let below = u64::from(self.sb.nindir).pow(u32::from(level) - 1);
        let start = self.sb.byte_of(address as u64);
        let width = self.sb.format.pointer_size();
        for piece in 0..self.sb.bsize as usize / PIECE {
            let at = start + (piece * PIECE) as u64;
            let order = self.sb.order;
            let pointers: Vec<i64> = read_with(self.disk, at, PIECE, |bytes| {
                let pointers = bytes.chunks_exact(width);
                pointers.map(|bytes| pointer(order, bytes)).collect()
            })?;
            let first = (piece * PIECE / width) as u64;
            for (index, address) in pointers.into_iter().enumerate() {
                let block = block + (first + index as u64) * below;
                self.follow(inode, (address, block, level - 1), visit)?;
            }
        }
        Ok(())
    }

    /// Sizes and addresses of an inode's attribute blocks. FreeBSD has them on plain UFS2 as well.
    fn attribute_blocks(&self, bytes: &[u8]) -> Vec<(u32, i64)> {
        match (self.sb.format.is_ufs2(), self.sb.order) {
            (false, _) => Vec::new(),
            (true, Order::Little) => attribute_blocks::<LE>(bytes, self.sb.bsize),
            (true, Order::Big) => attribute_blocks::<BE>(bytes, self.sb.bsize),
        }
    }
}

/// Makes `ino` the first owner of what `claim` covers and has none yet; whether to follow the claim.
fn meet_owner(
    sb: &Superblock,
    first: &mut BTreeMap<u64, Option<u32>>,
    ino: u32,
    claim: Claim,
) -> bool {
    let address = match u64::try_from(claim.address) {
        Ok(address) if !claim.is_beyond_end && sb.is_data(address, claim.fragments) => address,
        _ => return false,
    };
    let mut is_first = true;
    for (_, owner) in first.range_mut(address..address + u64::from(claim.fragments)) {
        is_first &= owner.is_none();
        owner.get_or_insert(ino);
    }
    is_first
}

fn attribute_blocks<O: ByteOrder>(bytes: &[u8], bsize: u32) -> Vec<(u32, i64)> {
    let Ok((raw, _)) = RawInode2::<O>::ref_from_prefix(bytes) else {
        return Vec::new();
    };
    let size = u32::try_from(raw.extsize.get()).unwrap_or(0).min(2 * bsize);
    let sizes = [size.min(bsize), size.saturating_sub(bsize)];
    let blocks = sizes
        .into_iter()
        .zip(raw.extb.iter().map(|address| address.get()));
    blocks
        .filter(|(size, address)| *size > 0 && *address != 0)
        .collect()
}
