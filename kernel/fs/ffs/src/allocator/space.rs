//! What is free on a volume, in numbers; and writing these numbers, with the superblock, to the disk.

use alloc::sync::Arc;
use alloc::vec::Vec;

use rumpkern::kmem::{self, Room};
use rumpkern::uvm;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::{BufMut, Devvp};
use rumpvfs::discard::Discards;
use rumpvfs::wapbl::Log;
use zerocopy::byteorder::{ByteOrder, I32, I64};
use zerocopy::{BE, FromBytes, LE};

use super::group::{Change, Group};
use crate::corrupt::Fault;
use crate::disk::{PIECE, read_with};
use crate::logging::{COUNTED_GROUPS, least_room};
use crate::order::Order;
use crate::raw::{RawCsum, RawSuperblock};
use crate::superblock::{Clean, Counts, Flags, Format, Superblock};

/// Bytes of a group's entry in the summary area.
const CSUM: usize = 16;

/// What allocation of fragments spares (`fs_optim`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optim {
    /// Copying: a tail that grows gets room to grow in.
    Time,
    /// Room: a tail gets what it needs.
    Space,
}

/// The counters of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Directories.
    pub directories: u32,
    /// Wholly free blocks.
    pub free_blocks: u32,
    /// Free inodes.
    pub free_inodes: u32,
    /// Free fragments in blocks that are partly used.
    pub free_fragments: u32,
    /// Directories made here one after another lately (`fs_contigdirs`).
    pub run_of_directories: u8,
    /// In blocks that are partly used there is no run of so many free fragments, or more: it was looked for in vain; 0: not known.
    no_run_of: u8,
    /// The summary area has other numbers.
    changed: bool,
}

impl GroupCounts {
    /// Whether it is known that no run of `count` free fragments is in a block that is partly used: the maps need not be looked at.
    pub(super) fn has_no_run(&self, count: u32) -> bool {
        self.free_fragments < count || self.no_run_of > 0 && count >= u32::from(self.no_run_of)
    }

    /// Fragments came to be free: runs may be longer.
    fn runs_grew(&mut self) {
        self.no_run_of = 0;
    }

    /// A run of `count` free fragments (fewer than a block has) was looked for in vain.
    pub(super) fn found_no_run(&mut self, count: u32) {
        // A block has at most 8.
        let count = count.clamp(1, 8) as u8;
        self.no_run_of = match self.no_run_of {
            0 => count,
            known => known.min(count),
        };
    }
}

/// What is free on a volume.
pub struct Space {
    /// Of the whole volume.
    pub totals: Counts,
    /// By group.
    pub groups: Vec<GroupCounts>,
    /// What growing tails spare.
    pub optim: Optim,
    /// Bytes that a file is expected to have (`fs_avgfilesize`), at least 1.
    pub average_file: u64,
    /// Files that a directory is expected to have (`fs_avgfpdir`), at least 1.
    pub files_per_directory: u64,
    /// The group used last.
    pub group: Option<Group>,
    /// The one used before it.
    pub(super) group_before: Option<Group>,
    /// Fragments that files have lost, but the disk may not know it yet: addresses and counts, of blocks that may be several
    /// where there is a log. Without one it does not grow.
    pub(super) held: Vec<(u64, u32)>,
    /// What is free is discarded.
    pub(crate) discards: Option<Arc<Discards>>,
    /// Of those, what the commit that is under way has made free.
    pub(super) freed: Vec<(u64, u32)>,
    /// Groups that what is held lies in, as far as they are counted.
    held_groups: [Option<u32>; COUNTED_GROUPS],
    /// The log, if one is kept.
    pub(super) log: Option<Arc<Log>>,
    /// The journal's fields of the superblock, if they are to be others than on the disk.
    pub(crate) journal: Option<[u8; 40]>,
    /// The superblock on the disk has other numbers (`fs_fmod`).
    changed: bool,
}

impl Space {
    /// Reads the summary area and what else a writer needs.
    pub fn load(sb: &Superblock, device: &Devvp) -> Result<Space, Fault> {
        let mut groups = kmem::try_vec(sb.ncg as usize).map_err(Fault::Refused)?;
        let start = sb.byte_of(sb.csaddr);
        let piece = sb.tail_piece();
        let mut at = start;
        while groups.len() < sb.ncg as usize {
            read_with(device, at, piece, |bytes| {
                for entry in bytes.chunks_exact(CSUM) {
                    if groups.len() < sb.ncg as usize {
                        groups.push(counts(sb.order, entry));
                    }
                }
            })?;
            at += piece as u64;
        }
        let (optim, average_file, files) = read_with(device, sb.location, PIECE, |bytes| {
            let field = |at: usize| {
                let bytes = bytes.get(at..at + 4).unwrap_or_default();
                bytes.try_into().map_or(0, |bytes| sb.order.u32(bytes))
            };
            (
                field(core::mem::offset_of!(RawSuperblock<LE>, optim)),
                field(core::mem::offset_of!(RawSuperblock<LE>, avgfilesize)),
                field(core::mem::offset_of!(RawSuperblock<LE>, avgfpdir)),
            )
        })?;
        Ok(Space {
            totals: total(&groups),
            groups,
            optim: match optim {
                1 => Optim::Space,
                _ => Optim::Time,
            },
            average_file: u64::from(average_file).max(1),
            files_per_directory: u64::from(files).max(1),
            group: None,
            group_before: None,
            held: kmem::try_vec(most_held()).map_err(Fault::Refused)?,
            discards: None,
            freed: Vec::new(),
            held_groups: [None; COUNTED_GROUPS],
            log: None,
            journal: None,
            changed: false,
        })
    }

    /// Counters of group `index` changed.
    pub(super) fn note(&mut self, index: u32, change: Change) {
        let to = |count: u32, by: i64| (i64::from(count) + by).max(0) as u32;
        let group = &mut self.groups[index as usize];
        let before = *group;
        group.directories = to(group.directories, change.directories);
        group.free_blocks = to(group.free_blocks, change.blocks);
        group.free_inodes = to(group.free_inodes, change.inodes);
        group.free_fragments = to(group.free_fragments, change.fragments);
        if change.fragments > 0 {
            group.runs_grew();
        }
        group.changed = true;
        let group = *group;
        let moved = |total: &mut u64, before: u32, now: u32| {
            *total = (*total + u64::from(now)).saturating_sub(u64::from(before));
        };
        let totals = &mut self.totals;
        moved(
            &mut totals.directories,
            before.directories,
            group.directories,
        );
        moved(
            &mut totals.free_blocks,
            before.free_blocks,
            group.free_blocks,
        );
        moved(
            &mut totals.free_inodes,
            before.free_inodes,
            group.free_inodes,
        );
        moved(
            &mut totals.free_fragments,
            before.free_fragments,
            group.free_fragments,
        );
        self.changed = true;
    }

    /// Keeps fragments until they can be freed; answers whether there is room for it.
    pub(super) fn hold(&mut self, sb: &Superblock, address: u64, count: u32) -> bool {
        if self.log.is_some() {
            self.count_group(sb.group_of(address));
            let last = self.held.last_mut();
            if let Some(last) = last.filter(|last| adjoins(sb, **last, (address, count))) {
                *last = (last.0.min(address), last.1 + count);
                return true;
            }
            if self.held.room(1).is_err() {
                return false;
            }
        }
        let has_room = self.held.len() < self.held.capacity();
        if has_room {
            self.held.push((address, count));
        }
        has_room
    }

    /// Sees to it that so many more pieces can be kept.
    pub(super) fn make_room(&mut self, pieces: usize) -> Result<(), Fault> {
        match self.log {
            Some(_) => self.held.room(pieces).map_err(Fault::Refused),
            None => Ok(()),
        }
    }

    fn count_group(&mut self, index: u32) {
        for place in &mut self.held_groups {
            match place {
                Some(known) if *known == index => return,
                Some(_) => {}
                None => {
                    *place = Some(index);
                    return;
                }
            }
        }
    }

    /// Nothing is held any more.
    pub(super) fn forget_groups(&mut self) {
        self.held_groups = [None; COUNTED_GROUPS];
    }

    /// Groups that what is held lies in, as far as they are counted.
    pub(crate) fn kept_groups(&self) -> usize {
        self.held_groups.iter().flatten().count()
    }

    /// Whether there is hardly room but for what is held until a commit.
    pub(crate) fn is_tight(&self, sb: &Superblock) -> bool {
        let least = least_room(sb);
        let whole = (self.totals.free_blocks << sb.fragshift) as i64;
        self.log.is_some() && !self.held.is_empty() && (self.available(sb) < least || whole < least)
    }

    /// From now on there is a log, or none; the superblock is to say so.
    pub(crate) fn keep_log(&mut self, log: Option<Arc<Log>>) {
        self.log = log;
        self.changed = true;
    }

    /// Fragments that are kept.
    pub fn held_fragments(&self) -> u64 {
        self.held.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Fragments free for all but the superuser; negative when the reserve is being used.
    pub fn available(&self, sb: &Superblock) -> i64 {
        let free = (self.totals.free_blocks << sb.fragshift) + self.totals.free_fragments;
        let kept = u128::from(sb.dsize) * u128::from(sb.minfree) / 100;
        free as i64 - kept as i64
    }

    /// Decides anew what tails that have to move spare, by how many fragments lie free in pieces.
    pub(super) fn choose_optim(&mut self, sb: &Superblock) {
        let pieces = u128::from(self.totals.free_fragments);
        let percent = |of: u32| u128::from(sb.dsize) * u128::from(of);
        let optim = match self.optim {
            Optim::Space if sb.minfree >= 5 && pieces * 200 <= percent(sb.minfree) => Optim::Time,
            Optim::Time if pieces * 100 >= percent(sb.minfree.max(3) - 2) => Optim::Space,
            same => same,
        };
        if optim != self.optim {
            self.optim = optim;
            self.changed = true;
        }
    }

    /// Fragments are nobody's now: they are to be discarded.
    pub(super) fn freed(&self, sb: &Superblock, address: u64, count: u32) {
        if let Some(discards) = &self.discards {
            let (sector, sectors) = sectors(sb, address, count);
            discards.add(sector, sectors);
        }
    }

    /// Fragments are somebody's again. Waits until nothing is discarded there.
    pub(super) fn taken(&self, sb: &Superblock, address: u64, count: u32) {
        if let Some(discards) = &self.discards {
            let (sector, sectors) = sectors(sb, address, count);
            discards.taken(sector, sectors);
        }
    }

    /// The disk knows that all is free that is.
    pub(crate) fn discard(&self) {
        if let Some(discards) = &self.discards {
            discards.start();
        }
    }

    /// Whether the disk has other numbers.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Gives the summary area and the superblock to the buffer cache. Answers the superblock's buffer, to
    /// be written when all else is.
    pub fn store(
        &mut self,
        sb: &Superblock,
        device: &Devvp,
        clean: Clean,
    ) -> Result<BufMut, Fault> {
        self.store_summary(sb, device)?;
        let modify = |at: u64, len: usize| {
            device
                .bmodify(at / SECTOR_SIZE as u64, len)
                .map_err(|errno| Fault::Device { at, errno })
        };
        let mut buf = modify(sb.location, PIECE)?;
        match sb.order {
            Order::Little => self.write::<LE>(sb, &mut buf, clean)?,
            Order::Big => self.write::<BE>(sb, &mut buf, clean)?,
        }
        self.changed = false;
        Ok(buf)
    }

    fn store_summary(&mut self, sb: &Superblock, device: &Devvp) -> Result<(), Fault> {
        let piece = sb.tail_piece();
        let per_piece = piece / CSUM;
        let start = sb.byte_of(sb.csaddr);
        for (n, groups) in self.groups.chunks_mut(per_piece).enumerate() {
            if !groups.iter().any(|group| group.changed) {
                continue;
            }
            let at = start + (n * piece) as u64;
            let mut buf = device
                .bmodify(at / SECTOR_SIZE as u64, piece)
                .map_err(|errno| Fault::Device { at, errno })?;
            for (group, bytes) in groups.iter_mut().zip(buf.chunks_exact_mut(CSUM)) {
                let words = [
                    group.directories,
                    group.free_blocks,
                    group.free_inodes,
                    group.free_fragments,
                ];
                for (word, bytes) in words.into_iter().zip(bytes.chunks_exact_mut(4)) {
                    bytes.copy_from_slice(&sb.order.bytes32(word));
                }
                group.changed = false;
            }
            buf.bdwrite();
        }
        Ok(())
    }

    fn write<O: ByteOrder>(
        &self,
        sb: &Superblock,
        bytes: &mut [u8],
        clean: Clean,
    ) -> Result<(), Fault> {
        let (raw, _) =
            RawSuperblock::<O>::mut_from_prefix(bytes).map_err(|_| Fault::Refused(Errno::EIO))?;
        let now = rumpkern::time::wall().seconds;
        let totals = &self.totals;
        raw.time = I64::new(now);
        raw.cstotal.ndir = I64::new(totals.directories as i64);
        raw.cstotal.nbfree = I64::new(totals.free_blocks as i64);
        raw.cstotal.nifree = I64::new(totals.free_inodes as i64);
        raw.cstotal.nffree = I64::new(totals.free_fragments as i64);
        if sb.format == Format::Ufs1 {
            raw.old_time = I32::new(now as i32);
            raw.old_cstotal = RawCsum {
                ndir: I32::new(totals.directories as i32),
                nbfree: I32::new(totals.free_blocks as i32),
                nifree: I32::new(totals.free_inodes as i32),
                nffree: I32::new(totals.free_fragments as i32),
            };
        }
        raw.optim = I32::new(match self.optim {
            Optim::Time => 0,
            Optim::Space => 1,
        });
        // Leftovers of soft updates, which are gone.
        raw.pendingblocks = I64::new(0);
        raw.pendinginodes.set(0);
        let flags = Flags::DOWAPBL.bits();
        raw.flags.set(match self.log {
            Some(_) => raw.flags.get() | flags,
            None => raw.flags.get() & !flags,
        });
        if let Some(journal) = self.journal {
            raw.journal = journal;
        }
        raw.fmod = 0;
        raw.ronly = 0;
        raw.clean = clean.0;
        Ok(())
    }
}

/// The sectors of `count` fragments: the first, and how many.
fn sectors(sb: &Superblock, address: u64, count: u32) -> (u64, u64) {
    let per_fragment = u64::from(sb.fsize) / SECTOR_SIZE as u64;
    (address * per_fragment, u64::from(count) * per_fragment)
}

/// Whether whole blocks at `next` lie beside those of `held`, in the same group.
fn adjoins(sb: &Superblock, held: (u64, u32), next: (u64, u32)) -> bool {
    let are_whole = held.1.is_multiple_of(sb.frag) && next.1 == sb.frag;
    let is_beside = next.0 == held.0 + u64::from(held.1) || next.0 + u64::from(next.1) == held.0;
    are_whole && is_beside && sb.group_of(held.0) == sb.group_of(next.0)
}

/// Pieces of files that may be kept until they can be freed: of a small memory, little.
fn most_held() -> usize {
    (uvm::limit_pages() / 8).clamp(64, 4096)
}

/// The counters in a summary's entry; a negative one counts as none.
fn counts(order: Order, entry: &[u8]) -> GroupCounts {
    let mut words = entry.chunks_exact(4).map(|bytes| {
        let word = bytes.try_into().map_or(0, |bytes| order.u32(bytes));
        if word > i32::MAX as u32 { 0 } else { word }
    });
    let mut next = || words.next().unwrap_or(0);
    GroupCounts {
        directories: next(),
        free_blocks: next(),
        free_inodes: next(),
        free_fragments: next(),
        ..GroupCounts::default()
    }
}

fn total(groups: &[GroupCounts]) -> Counts {
    groups.iter().fold(Counts::default(), |sum, group| Counts {
        directories: sum.directories + u64::from(group.directories),
        free_blocks: sum.free_blocks + u64::from(group.free_blocks),
        free_inodes: sum.free_inodes + u64::from(group.free_inodes),
        free_fragments: sum.free_fragments + u64::from(group.free_fragments),
    })
}

#[cfg(test)]
mod tests {
    use super::GroupCounts;

    #[test]
    fn a_run_that_was_not_found_is_not_looked_for_again_until_fragments_come_free() {
        let mut group = GroupCounts {
            free_fragments: 5,
            ..GroupCounts::default()
        };
        assert!(group.has_no_run(6), "there are not even so many");
        assert!(!group.has_no_run(3), "nobody has looked");
        group.found_no_run(3);
        assert!(group.has_no_run(3) && group.has_no_run(4) && !group.has_no_run(2));
        group.found_no_run(4);
        assert!(group.has_no_run(3), "what is known stays known");
        group.runs_grew();
        assert!(!group.has_no_run(3));
    }
}
