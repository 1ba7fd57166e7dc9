//! Taking and freeing inodes.

use rumpkern::random;
use rumpuser::SECTOR_SIZE;

use super::{Allocator, Fault};
use crate::corrupt::Corrupt;
use crate::disk::PIECE;
use crate::raw;

impl Allocator<'_> {
    /// Takes an inode for a file in a directory of group `parent`, which is the root if `is_root`.
    /// `None`: there is none.
    pub fn take_inode(
        &mut self,
        parent: u32,
        is_root: bool,
        is_directory: bool,
    ) -> Result<Option<u32>, Fault> {
        let start = match (is_directory, is_root) {
            (false, _) => parent,
            (true, true) => self.group_below_root()?,
            (true, false) => self.group_for_directory(parent)?,
        };
        self.in_some_group(start, |this, index| this.take_inode_in(index, is_directory))
    }

    fn take_inode_in(&mut self, index: u32, is_directory: bool) -> Result<Option<u32>, Fault> {
        let sb = self.sb;
        let counts = self.space()?.groups[index as usize];
        if counts.free_inodes == 0 {
            return Ok(None);
        }
        let group = self.group(index)?;
        // Numbers 0 and 1 are no file's, whatever the map says.
        let wish = (index == 0).then_some(raw::UFS_ROOTINO);
        let found = group.find_inode(sb, wish);
        let Some(n) = found.filter(|n| index > 0 || *n >= raw::UFS_ROOTINO) else {
            return Err(group.wrong("nifree", counts.free_inodes).into());
        };
        self.initialise(index, n)?;
        let group = self.group(index)?;
        let change = group.set_inode(sb, n, true, is_directory)?;
        self.note(index, change)?;
        let run = &mut self.space()?.groups[index as usize].run_of_directories;
        *run = match is_directory {
            true => run.saturating_add(1),
            false => run.saturating_sub(1),
        };
        Ok(Some(index * sb.ipg + n))
    }

    /// Writes inode blocks of UFS2 that were never written, up to that of inode `n` and a block ahead;
    /// the group says so only when the disk has them.
    fn initialise(&mut self, index: u32, n: u32) -> Result<(), Fault> {
        let (sb, device) = (self.sb, self.device);
        let mut done = self.group(index)?.initialised(sb);
        let start = sb.byte_of(sb.cgimin(index));
        while n >= done && done < sb.ipg {
            let at = start + u64::from(done / sb.inopb) * u64::from(sb.bsize);
            for piece in 0..(sb.bsize as usize / PIECE) {
                let at = at + (piece * PIECE) as u64;
                let fault = |errno| Fault::Device { at, errno };
                // A spoiled count can end within a block: the inodes before it may be in use.
                let buf = match done.is_multiple_of(sb.inopb) {
                    true => device.getblk(at / SECTOR_SIZE as u64, PIECE),
                    false => device.bmodify(at / SECTOR_SIZE as u64, PIECE),
                };
                let mut buf = buf.map_err(fault)?;
                let size = sb.format.inode_size();
                let first = done / sb.inopb * sb.inopb + (piece * PIECE / size) as u32;
                let kept = done.saturating_sub(first) as usize;
                for inode in buf.chunks_exact_mut(size).skip(kept) {
                    inode.fill(0);
                    // di_gen of UFS2.
                    inode[80..84].copy_from_slice(&sb.order.bytes32(generation()));
                }
                match device.holds() && kept == 0 {
                    // Nothing leads there: a log need not have it.
                    true => buf.bwrite_in_place().map_err(fault)?,
                    false => buf.bdwrite(),
                }
            }
            // In one request. If it fails, so does the writing of every inode there.
            if !device.holds() {
                device.write_through(at / SECTOR_SIZE as u64, sb.bsize as usize);
            }
            done = ((done / sb.inopb + 1) * sb.inopb).min(sb.ipg);
            self.group(index)?.set_initialised(sb, done);
            self.store()?;
            let cg = sb.byte_of(sb.cgtod(index)) / SECTOR_SIZE as u64;
            if !device.holds() {
                device.write_through(cg, PIECE);
            }
        }
        Ok(())
    }

    /// Frees inode `ino`.
    pub fn free_inode(&mut self, ino: u32, is_directory: bool) -> Result<(), Fault> {
        let sb = self.sb;
        if !sb.is_inode_number(ino) {
            return Err(Corrupt::InodeNumber {
                ino: u64::from(ino),
            }
            .into());
        }
        let index = ino / sb.ipg;
        let group = self.group(index)?;
        let change = group.set_inode(sb, ino % sb.ipg, false, is_directory)?;
        self.note(index, change)
    }

    /// Directories of the root are spread: from a random group on, the one with fewest directories
    /// among those with no less than average room.
    fn group_below_root(&mut self) -> Result<u32, Fault> {
        let sb = self.sb;
        let start = generation() % sb.ncg;
        let space = self.space()?;
        let ncg = u64::from(sb.ncg);
        let (inodes, blocks) = (
            space.totals.free_inodes / ncg,
            space.totals.free_blocks / ncg,
        );
        let order = (0..sb.ncg).map(|n| (start + n) % sb.ncg);
        let roomy = order.filter(|index| {
            let group = &space.groups[*index as usize];
            u64::from(group.free_inodes) >= inodes && u64::from(group.free_blocks) >= blocks
        });
        let fewest = roomy.min_by_key(|index| space.groups[*index as usize].directories);
        Ok(fewest.unwrap_or(start))
    }

    /// Other directories stay near their parent, as long as a group does not get more of them than
    /// it has room for what will be in them (`ffs_dirpref`).
    fn group_for_directory(&mut self, parent: u32) -> Result<u32, Fault> {
        let sb = self.sb;
        let space = self.space()?;
        let ncg = u64::from(sb.ncg);
        let totals = &space.totals;
        let inodes = totals.free_inodes / ncg;
        let blocks = totals.free_blocks / ncg;
        let directories = totals.directories / ncg;
        let most_directories = (directories + u64::from(sb.ipg / 16)).min(u64::from(sb.ipg));
        let least_inodes = (inodes - inodes / 4).max(1);
        let least_blocks = (blocks - blocks / 4).max(1);
        let free_bytes = blocks * u64::from(sb.bsize);
        let group_bytes = u64::from(sb.fpg) * u64::from(sb.fsize);
        let mut expected = space.average_file.saturating_mul(space.files_per_directory);
        let used = group_bytes.saturating_sub(free_bytes);
        expected = expected.max(used.checked_div(directories).unwrap_or(0));
        let longest_run = match group_bytes / expected.max(1) {
            255.. => 255,
            _ => free_bytes / expected.max(1),
        };
        let longest_run = longest_run
            .min(u64::from(sb.ipg) / space.files_per_directory)
            .max(1);
        let order = || (0..sb.ncg).map(|n| (parent + n) % sb.ncg);
        let suits = |index: &u32| {
            let group = &space.groups[*index as usize];
            u64::from(group.directories) < most_directories
                && u64::from(group.free_inodes) >= least_inodes
                && u64::from(group.free_blocks) >= least_blocks
                && u64::from(group.run_of_directories) < longest_run
        };
        let has_inodes =
            |index: &u32| u64::from(space.groups[*index as usize].free_inodes) >= inodes;
        let found = order().find(suits).or_else(|| order().find(has_inodes));
        Ok(found.unwrap_or(parent))
    }
}

/// A generation to start with; one that can be guessed where the host has no randomness.
pub(crate) fn generation() -> u32 {
    random::u32().unwrap_or_else(|_| rumpkern::time::wall().nanos | 1)
}
