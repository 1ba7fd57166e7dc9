//! Allocation: which fragments and inodes of a volume are free, and which of them a file gets.
//!
//! A volume mounted for writing has a [`Space`]: the counters of all groups, and the groups that were
//! used last, two of them where memory allows: in a directory whose group is full, each new file takes its inode in one and its
//! blocks in another. Whoever allocates or frees holds its lock through an [`Allocator`], one at a time. A group that was
//! changed goes to the buffer cache when others are used, and when the volume is synced: maps may be
//! behind what inodes claim, and a check rebuilds them. Only how many inodes of a group were ever written (UFS2) is
//! on the disk before any of them is used: a check believes it.
//!
//! What a file loses ([`Allocator::free_later`]) is nobody's until the disk has the file without it: it is
//! free from the next sync on, or when there is nothing else.
//!
//! Source: NetBSD sys/ufs/ffs/ffs_alloc.c (`ffs_alloc`, `ffs_realloccg`, `ffs_valloc`, `ffs_dirpref`,
//! `ffs_hashalloc`).

pub mod group;
mod inodes;
pub(crate) use inodes::generation;
pub mod space;

use rumpkern::kmem::Room;
use rumpkern::locks::MutexGuard;
use rumpkern::{lwp, uvm};
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;
use rumpvfs::vnode::Wait;

use crate::corrupt::{Corrupt, Fault};
use crate::superblock::Superblock;
use group::{Change, Group, full, mask};
use space::{Optim, Space};

/// Buffers beyond what a transaction should have that may be held for maps in which blocks are freed.
const MARGIN: usize = 16;

/// Whether a second group is kept: its maps take no more than a 32nd of memory.
fn keeps_two(sb: &Superblock) -> bool {
    sb.cgsize as usize <= uvm::limit_pages() * PAGE_SIZE / 32
}

/// The right to allocate and to free.
pub struct Allocator<'a> {
    sb: &'a Superblock,
    device: &'a Devvp,
    space: MutexGuard<'a, Option<Space>>,
}

/// What growing a block's fragments did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Where the block lies now.
    pub address: u64,
    /// It lies elsewhere than before: the old fragments are to be freed once nothing points to them.
    pub moved: bool,
}

impl<'a> Allocator<'a> {
    /// The allocator of a volume. `EROFS` if it is not mounted for writing.
    pub fn new(
        sb: &'a Superblock,
        device: &'a Devvp,
        space: MutexGuard<'a, Option<Space>>,
    ) -> Result<Allocator<'a>, Fault> {
        if space.is_none() {
            return Err(Fault::Refused(Errno::EROFS));
        }
        Ok(Allocator { sb, device, space })
    }

    fn space(&mut self) -> Result<&mut Space, Fault> {
        self.space.as_mut().ok_or(Fault::Refused(Errno::EROFS))
    }

    /// Frees what was kept, once the disk has what was changed so far; and gives the group that was changed to the buffer
    /// cache.
    pub fn finish(mut self) -> Result<(), Fault> {
        self.free_held()?;
        self.store()
    }

    /// Frees `count` fragments from `address` on, all of one block, once the disk has everything that was changed so
    /// far.
    pub fn free_later(&mut self, address: u64, count: u32) -> Result<(), Fault> {
        let sb = self.sb;
        let (index, block, bits) = self.bits_of(address, count)?;
        let group = self.group(index)?;
        if group.block(sb, block) & bits != 0 {
            return Err(group.wrong("free map", block * sb.frag).into());
        }
        if self.space()?.hold(sb, address, count) {
            return Ok(());
        }
        self.free_held()?;
        match self.space()?.hold(sb, address, count) {
            true => Ok(()),
            false => Err(Fault::Refused(Errno::EAGAIN)),
        }
    }

    /// Sees to it that [`Allocator::free_later`] can be called for so many pieces, where there is a log.
    pub fn make_room(&mut self, pieces: usize) -> Result<(), Fault> {
        self.space()?.make_room(pieces)
    }

    /// What lies at `count` fragments from `address` on is not metadata any more.
    pub fn revoke(&mut self, address: u64, count: u32) -> Result<(), Fault> {
        let sector = self.sb.byte_of(address) / SECTOR_SIZE as u64;
        let bytes = count * self.sb.fsize;
        // Not `Refused`: it is said in the middle of a change.
        let at = self.sb.byte_of(address);
        let fault = |errno| Fault::Device { at, errno };
        match &self.space()?.log {
            Some(log) => log.revoke(sector, bytes).map_err(fault),
            None => Ok(()),
        }
    }

    /// Frees the old place of a tail that moved. Without a log, the disk has the inode with the new one.
    pub fn free_moved(&mut self, address: u64, count: u32) -> Result<(), Fault> {
        match self.space()?.log {
            Some(_) => self.free_later(address, count),
            None => self.free(address, count),
        }
    }

    /// For a commit: makes what is held free in the maps, as far as there are buffers for them, and stores the group that was
    /// changed.
    pub(crate) fn free_for_commit(&mut self) -> Result<(), Fault> {
        self.space()?.held.sort_unstable();
        let count = self.space()?.held.len();
        let room = self.space()?.freed.room(count);
        room.map_err(Fault::Refused)?;
        let cache = self.device.cache().clone();
        let most = cache.most_held() + MARGIN;
        while let Some((address, count)) = self.space()?.held.pop() {
            if cache.held_count() >= most {
                // The next commit frees it; after a crash before, a check does.
                self.space()?.held.push((address, count));
                break;
            }
            let freed = self.each_block(address, count, |this, address, count| {
                this.free(address, count)
            });
            match freed {
                Ok(()) => self.space()?.freed.push((address, count)),
                // What cannot be right is left to a check.
                Err(fault @ Fault::Corrupt(_)) => return Err(fault),
                Err(fault) => {
                    self.space()?.held.push((address, count));
                    return Err(fault);
                }
            }
        }
        if self.space()?.held.is_empty() {
            self.space()?.forget_groups();
        }
        self.store()
    }

    /// The commit is on the disk: what it freed is free.
    pub(crate) fn forget_freed(&mut self) {
        if let Some(space) = self.space.as_mut() {
            space.freed.clear();
            space.discard();
        }
    }

    /// The commit failed: what it freed is held until the next.
    pub(crate) fn take_back_freed(&mut self) -> Result<(), Fault> {
        let sb = self.sb;
        while let Some((address, count)) = self.space()?.freed.pop() {
            self.each_block(address, count, |this, address, count| {
                let (index, block, bits) = this.bits_of(address, count)?;
                let group = this.group(index)?;
                let free = group.block(sb, block);
                let change = group.set_block(sb, block, free & !bits)?;
                this.space()?.taken(sb, address, count);
                this.note(index, change)
            })?;
            if !self.space()?.hold(sb, address, count) {
                return Err(Fault::Refused(Errno::ENOMEM));
            }
        }
        Ok(())
    }

    /// Calls `act` for each block of `count` fragments from `address` on.
    fn each_block(
        &mut self,
        mut address: u64,
        mut count: u32,
        mut act: impl FnMut(&mut Self, u64, u32) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while count > 0 {
            let part = count.min(self.sb.frag);
            act(self, address, part)?;
            (address, count) = (address + u64::from(part), count - part);
        }
        Ok(())
    }

    /// Frees what is held. Answers whether that was anything.
    fn free_held(&mut self) -> Result<bool, Fault> {
        let space = self.space()?;
        // With a log, a commit does.
        if space.held.is_empty() || space.log.is_some() {
            return Ok(false);
        }
        let at = self.sb.location;
        let flushed = self.device.flush(Wait::Stable);
        flushed.map_err(|errno| Fault::Device { at, errno })?;
        // By address: each group once.
        self.space()?.held.sort_unstable();
        let mut freed = Ok(true);
        while let Some((address, count)) = self.space()?.held.pop() {
            match self.free(address, count) {
                Ok(()) => {}
                // What cannot be right is left to a check.
                Err(fault @ Fault::Corrupt(_)) => freed = Err(fault),
                Err(fault) => {
                    // There may be memory for its group, or the disk may answer, another time.
                    self.space()?.held.push((address, count));
                    return Err(fault);
                }
            }
        }
        self.space()?.discard();
        freed
    }

    /// Gives the groups in memory to the buffer cache, as far as they were changed.
    fn store(&mut self) -> Result<(), Fault> {
        let (sb, device) = (self.sb, self.device);
        let space = self.space()?;
        let groups = [&mut space.group, &mut space.group_before];
        groups
            .into_iter()
            .flatten()
            .try_for_each(|group| group.store(sb, device))
    }

    /// Group `index`, in memory.
    fn group(&mut self, index: u32) -> Result<&mut Group, Fault> {
        let (sb, device) = (self.sb, self.device);
        let loaded = self.space()?.group.as_ref().map(Group::index);
        if loaded != Some(index) {
            let space = self.space()?;
            core::mem::swap(&mut space.group, &mut space.group_before);
            if space.group.as_ref().map(Group::index) != Some(index) {
                self.store()?;
                // Two at most, also while it is read.
                let space = self.space()?;
                space.group = None;
                space.group_before.take_if(|_| !keeps_two(sb));
                let group = Group::load(sb, device, index)?;
                self.space()?.group = Some(group);
            }
        }
        self.space()?
            .group
            .as_mut()
            .ok_or(Fault::Refused(Errno::EIO))
    }

    fn note(&mut self, index: u32, change: Change) -> Result<(), Fault> {
        self.space()?.note(index, change);
        Ok(())
    }

    /// Takes `count` fragments (at most a block), next to `wish` if that is not 0, else in group
    /// `home`. `ENOSPC` if there are none, or only the reserve.
    pub fn take(&mut self, home: u32, wish: u64, count: u32) -> Result<u64, Fault> {
        match self.take_now(home, wish, count) {
            Err(Fault::Refused(Errno::ENOSPC)) if self.free_held()? => {
                self.take_now(home, wish, count)
            }
            taken => taken,
        }
    }

    /// Takes up to `most` blocks, at least one, that lie together: the first as [`Allocator::take`], and as many behind it as
    /// are free in its group. Answers where the first is, and how many.
    pub fn take_blocks(&mut self, home: u32, wish: u64, most: u32) -> Result<(u64, u32), Fault> {
        let sb = self.sb;
        let first = self.take(home, wish, sb.frag)?;
        let index = sb.group_of(first);
        let block = ((first - sb.cgbase(index)) / u64::from(sb.frag)) as u32;
        let mut count = 1;
        while count < most
            && (self.space()?.available(sb) >= i64::from(sb.frag) || may_use_reserve())
            && self.group(index)?.is_free(sb, block + count)
            && sb.is_data(first + u64::from(count * sb.frag), sb.frag)
        {
            let next = (block + count) * sb.frag;
            self.taken(index, block + count, 0, (next, sb.frag))?;
            count += 1;
        }
        Ok((first, count))
    }

    fn take_now(&mut self, home: u32, wish: u64, count: u32) -> Result<u64, Fault> {
        let sb = self.sb;
        let whole = count == sb.frag;
        let space = self.space()?;
        if whole && space.totals.free_blocks == 0 {
            return Err(Fault::Refused(Errno::ENOSPC));
        }
        if space.available(sb) < i64::from(count) && !may_use_reserve() {
            return Err(Fault::Refused(Errno::ENOSPC));
        }
        let wish = (wish != 0 && wish < sb.size).then_some(wish);
        let start = wish.map_or(home, |wish| sb.group_of(wish));
        let found = self.in_some_group(start, |this, index| {
            let wish = wish
                .filter(|wish| sb.group_of(*wish) == index)
                .map(|wish| (wish - sb.cgbase(index)) as u32);
            this.take_in(index, wish, count)
        })?;
        found.ok_or(Fault::Refused(Errno::ENOSPC))
    }

    /// Tries group `start`, then those 1, 3, 7 … behind it, then all.
    fn in_some_group<T>(
        &mut self,
        start: u32,
        mut attempt: impl FnMut(&mut Self, u32) -> Result<Option<T>, Fault>,
    ) -> Result<Option<T>, Fault> {
        let ncg = self.sb.ncg;
        let start = start % ncg;
        let doubling = core::iter::successors(Some(1u32), |step| step.checked_mul(2))
            .take_while(|step| *step < ncg)
            .scan(start, |at, step| {
                *at = (*at + step) % ncg;
                Some(*at)
            });
        let rest = (1..ncg).map(|step| (start + step) % ncg);
        for index in core::iter::once(start).chain(doubling).chain(rest) {
            if let Some(found) = attempt(self, index)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Takes `count` fragments in group `index`, if it has them.
    fn take_in(&mut self, index: u32, wish: Option<u32>, count: u32) -> Result<Option<u64>, Fault> {
        let sb = self.sb;
        let counts = self.space()?.groups[index as usize];
        let has_blocks = counts.free_blocks > 0;
        let tries_runs = count < sb.frag && !counts.has_no_run(count);
        if !has_blocks && !tries_runs {
            return Ok(None);
        }
        if tries_runs {
            let group = self.group(index)?;
            if let Some(first) = group.find_fragments(sb, wish, count) {
                let block = first / sb.frag;
                let bits = group.block(sb, block) & !mask(first % sb.frag, count);
                group.set_frotor(sb, first);
                return self.taken(index, block, bits, (first, count));
            }
            self.space()?.groups[index as usize].found_no_run(count);
        }
        if !has_blocks {
            return Ok(None);
        }
        let group = self.group(index)?;
        let Some(block) = group.find_block(sb, wish.map(|wish| wish / sb.frag)) else {
            return Err(group.wrong("nbfree", counts.free_blocks).into());
        };
        group.set_rotor(sb, block);
        let bits = full(sb) & !mask(0, count);
        self.taken(index, block, bits, (block * sb.frag, count))
    }

    fn taken(
        &mut self,
        index: u32,
        block: u32,
        bits: u8,
        (first, count): (u32, u32),
    ) -> Result<Option<u64>, Fault> {
        let sb = self.sb;
        let address = sb.cgbase(index) + u64::from(first);
        let group = self.group(index)?;
        if !sb.is_data(address, 1) {
            // The map says that metadata are free.
            return Err(group.wrong("free map", first).into());
        }
        let change = group.set_block(sb, block, bits)?;
        self.note(index, change)?;
        self.space()?.taken(sb, address, count);
        Ok(Some(address))
    }

    /// Frees `count` fragments from `address` on, all of one block: the disk knows nobody who has them.
    pub fn free(&mut self, address: u64, count: u32) -> Result<(), Fault> {
        let sb = self.sb;
        self.put_back(address, count)?;
        let (index, block, _) = self.bits_of(address, count)?;
        let is_whole = self.group(index)?.block(sb, block) == full(sb);
        let first = sb.cgbase(index) + u64::from(block * sb.frag);
        match is_whole {
            true => self.space()?.freed(sb, first, sb.frag),
            false => self.space()?.freed(sb, address, count),
        }
        Ok(())
    }

    /// Frees fragments that hold nothing.
    fn put_back(&mut self, address: u64, count: u32) -> Result<(), Fault> {
        let sb = self.sb;
        let (index, block, bits) = self.bits_of(address, count)?;
        let group = self.group(index)?;
        let old = group.block(sb, block);
        if old & bits != 0 {
            return Err(group.wrong("free map", block * sb.frag).into());
        }
        let change = group.set_block(sb, block, old | bits)?;
        self.note(index, change)
    }

    /// Group, block in it, and bits in that, of `count` fragments from `address` on.
    fn bits_of(&self, address: u64, count: u32) -> Result<(u32, u32, u8), Fault> {
        let sb = self.sb;
        if !sb.is_data(address, count) {
            return Err(Corrupt::FreedPlace { address }.into());
        }
        let index = sb.group_of(address);
        let first = (address - sb.cgbase(index)) as u32;
        if first % sb.frag + count > sb.frag {
            return Err(Corrupt::FreedPlace { address }.into());
        }
        Ok((index, first / sb.frag, mask(first % sb.frag, count)))
    }

    /// Makes the `old` fragments at `address` `new` fragments: where they are, or elsewhere.
    pub fn grow(
        &mut self,
        home: u32,
        address: u64,
        (old, new): (u32, u32),
    ) -> Result<Grown, Fault> {
        let sb = self.sb;
        let short = i64::from(new - old);
        if self.space()?.available(sb) < short && !may_use_reserve() {
            self.free_held()?;
        }
        if self.space()?.available(sb) < short && !may_use_reserve() {
            return Err(Fault::Refused(Errno::ENOSPC));
        }
        if (address % u64::from(sb.frag)) as u32 + new <= sb.frag {
            let behind = address + u64::from(old);
            let (index, block, bits) = self.bits_of(behind, new - old)?;
            let group = self.group(index)?;
            let free = group.block(sb, block);
            if free & bits == bits {
                let change = group.set_block(sb, block, free & !bits)?;
                self.note(index, change)?;
                self.space()?.taken(sb, behind, new - old);
                return Ok(Grown {
                    address,
                    moved: false,
                });
            }
        }
        let space = self.space()?;
        space.choose_optim(sb);
        let roomy = space.optim == Optim::Time && space.totals.free_blocks > 0 && new < sb.frag;
        let address = if roomy {
            // The next growth finds the room behind it free.
            let address = self.take(home, address, sb.frag)?;
            self.put_back(address + u64::from(new), sb.frag - new)?;
            address
        } else {
            self.take(home, address, new)?
        };
        Ok(Grown {
            address,
            moved: true,
        })
    }

    /// So many free blocks in one piece, or as many as there are: where they start, and how many. Looked for from the group
    /// in the middle outwards.
    pub(crate) fn find_run(&mut self, blocks: u32) -> Result<Option<(u64, u32)>, Fault> {
        let sb = self.sb;
        let middle = sb.ncg / 2;
        let outwards = (0..=sb.ncg).flat_map(|n| {
            let before = (n > 0).then(|| middle.checked_sub(n)).flatten();
            [before, middle.checked_add(n)]
        });
        let mut longest: Option<(u64, u32)> = None;
        for index in outwards.flatten().filter(|index| *index < sb.ncg) {
            let found = self.group(index)?.longest_run(sb, blocks);
            if let Some((first, count)) = found
                && longest.is_none_or(|(_, known)| count > known)
            {
                longest = Some((sb.cgbase(index) + u64::from(first * sb.frag), count));
                if count == blocks {
                    break;
                }
            }
        }
        Ok(longest)
    }

    /// Takes `blocks` free blocks of one group, from `start` on.
    pub(crate) fn take_run(&mut self, start: u64, blocks: u32) -> Result<(), Fault> {
        let sb = self.sb;
        let index = sb.group_of(start);
        let first = ((start - sb.cgbase(index)) / u64::from(sb.frag)) as u32;
        for block in first..first + blocks {
            self.taken(index, block, 0, (block * sb.frag, sb.frag))?;
        }
        Ok(())
    }

    /// A wish for a block that begins a new stretch of its file: in the first group from `from` on with
    /// at least the average number of free blocks.
    pub fn wish_from(&mut self, from: u32) -> Result<u64, Fault> {
        let sb = self.sb;
        let space = self.space()?;
        let average = space.totals.free_blocks / u64::from(sb.ncg);
        let suits = |index: &u32| u64::from(space.groups[*index as usize].free_blocks) >= average;
        let index = (0..sb.ncg).map(|n| (from + n) % sb.ncg).find(suits);
        Ok(sb.cgbase(index.unwrap_or(from % sb.ncg)) + u64::from(sb.frag))
    }
}

/// Whether whoever asks may have what is kept back: the superuser, and the kernel itself.
fn may_use_reserve() -> bool {
    lwp::curproc().map_or(true, |proc| proc.cred().is_root())
}
