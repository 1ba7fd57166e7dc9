//! A mounted volume: its superblock, the way to its metadata, and, mounted for writing, its space.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumpkern::locks::{LockClass, Mutex};
use rumpkern::lwp::{self, MemoryUse};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;
use rumpvfs::discard::Discards;
use rumpvfs::vnode::Wait;
use rumpvfs::wapbl::Replay;

use crate::allocator::Allocator;
use crate::allocator::space::Space;
use crate::corrupt::{Corrupt, Fault};
use crate::dirhash::Hashes;
use crate::disk::{PIECE, read_with};
use crate::inode::Inode;
use crate::journal::Journal;
use crate::logging::{Logging, cost};
use crate::raw::{RawSuperblock, SBLOCKSEARCH};
use crate::superblock::{Clean, Flags, Superblock};
use crate::truncate::Truncate;

/// A volume's space: within an operation of the log, where one is kept.
static SPACE_CLASS: LockClass = LockClass {
    name: "ffs space",
    rank: 160,
};

/// Inodes that the page daemon may let go of before anybody else comes by.
const MOST_ORPHANS: usize = 32;

/// A mounted volume.
pub struct Volume {
    /// Its superblock, as it was found.
    pub sb: Superblock,
    /// The way to its metadata.
    pub device: Devvp,
    /// What is free; `None` on a mount for reading.
    pub(crate) space: Mutex<Option<Space>>,
    /// The log that is kept, if one is.
    pub(crate) logging: Logging,
    /// What the superblock says of a journal.
    pub(crate) journal: Mutex<Option<Journal>>,
    writable: AtomicBool,
    /// The clean byte to be left behind.
    leaves_clean: AtomicBool,
    /// A change was left half done.
    needs_check: AtomicBool,
    /// The disk says that it is in use for writing.
    says_in_use: AtomicBool,
    /// It may say so: writing it was begun.
    may_say_in_use: AtomicBool,
    /// The log that was left behind, as long as the disk is not as it says.
    pub(crate) replay: Mutex<Option<Arc<Replay>>>,
    /// Files in use that have no name any more.
    pub(crate) nameless: AtomicUsize,
    /// The hashes of its large directories; `None` if there was no memory even for their list.
    pub(crate) hashes: Option<Arc<Hashes>>,
    /// Inodes to be freed that could not be at once, and whether each was a directory's.
    orphans: Mutex<[Option<(u32, bool)>; MOST_ORPHANS]>,
}

impl Volume {
    /// The volume with superblock `sb` on `device`, for reading.
    pub fn new(sb: Superblock, device: Devvp) -> Volume {
        Volume {
            journal: Mutex::new(sb.journal),
            sb,
            device,
            space: Mutex::with_class(None, &SPACE_CLASS),
            logging: Logging::default(),
            writable: AtomicBool::new(false),
            leaves_clean: AtomicBool::new(false),
            needs_check: AtomicBool::new(false),
            says_in_use: AtomicBool::new(false),
            may_say_in_use: AtomicBool::new(false),
            replay: Mutex::new(None),
            nameless: AtomicUsize::new(0),
            hashes: Hashes::new().ok(),
            orphans: Mutex::new([None; MOST_ORPHANS]),
        }
    }

    /// What a caller outside the component is told of `outcome`.
    pub fn told<T>(&self, outcome: Result<T, Fault>) -> Result<T, Errno> {
        outcome.map_err(|fault| fault.on(self.device.name()).into())
    }

    /// What a caller outside the component is told of the outcome of a change. One that failed for the device or for memory
    /// may be half done: the volume is not left clean then, so that it is checked before it is changed again.
    pub fn changed<T>(&self, outcome: Result<T, Fault>) -> Result<T, Errno> {
        self.told(self.or_unclean(outcome))
    }

    /// The outcome of a change, which may be half done if it failed for the device or for memory.
    pub(crate) fn or_unclean<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        if matches!(outcome, Err(Fault::Device { .. } | Fault::Corrupt(_))) {
            self.leave_unclean();
        }
        outcome
    }

    /// From now on the volume is not left clean, so that it is checked before it is changed again.
    pub(crate) fn leave_unclean(&self) {
        self.leaves_clean.store(false, Ordering::Release);
        if !self.needs_check.swap(true, Ordering::AcqRel) {
            let name = self.device.name();
            log::warn!("ffs: {name}: a change failed: please check it after unmounting");
        }
    }

    /// Something is about to be changed: refuses it on a mount for reading, and sees to it that the disk
    /// says that it is in use before anything else on it changes.
    ///
    /// NetBSD says so at mount. Said at the first change, a disk that was only read from stays as it is,
    /// to the byte, and clean even if the power fails.
    pub fn begin_change(&self) -> Result<(), Fault> {
        if !self.is_writable() {
            return Err(Fault::Refused(Errno::EROFS));
        }
        if self.says_in_use.load(Ordering::Acquire) {
            return Ok(());
        }
        let at = self.sb.location;
        let fault = |errno| Fault::Device { at, errno };
        let mut space = self.space.lock();
        if let Some(space) = space.as_mut()
            && !self.says_in_use.load(Ordering::Acquire)
        {
            let buf = space.store(&self.sb, &self.device, self.clean_in_use())?;
            // Also if it fails: then it stays dirty, and is tried again.
            self.may_say_in_use.store(true, Ordering::Release);
            buf.bwrite().map_err(fault)?;
            self.device.flush(Wait::Stable).map_err(fault)?;
            self.says_in_use.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether it is mounted for writing.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// The right to allocate and to free.
    pub fn allocator(&self) -> Result<Allocator<'_>, Fault> {
        let mut space = Allocator::new(&self.sb, &self.device, self.space.lock())?;
        while let Some((ino, is_directory)) = self.take_orphan() {
            match space.free_inode(ino, is_directory) {
                Ok(()) => self.unregister(ino),
                // Whoever asks may do without that group.
                Err(fault) if fault.is_of_memory() => {
                    self.free_inode_later(ino, is_directory);
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(space)
    }

    fn take_orphan(&self) -> Option<(u32, bool)> {
        self.orphans.lock().iter_mut().find_map(Option::take)
    }

    /// Frees the number of a file that is erased, whose vnode nobody finds any more. The page daemon
    /// may be who asks, or there may be no memory: then somebody else does it later.
    pub(crate) fn release(&self, ino: u32, is_directory: bool) {
        if lwp::memory_use() == Some(MemoryUse::Reserve) {
            return self.free_inode_later(ino, is_directory);
        }
        match self.operate(cost::RELEASE, || self.free_inode(ino, is_directory)) {
            Err(fault) if fault.is_of_memory() => self.free_inode_later(ino, is_directory),
            // It was logged; the inode stays taken until a check.
            freed => drop(self.changed(freed)),
        }
    }

    /// Leaves the number of a file that is erased to the next who allocates or frees something.
    fn free_inode_later(&self, ino: u32, is_directory: bool) {
        let mut orphans = self.orphans.lock();
        match orphans.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some((ino, is_directory)),
            None => {
                log::warn!(
                    "ffs: {}: inode {ino} stays taken until the volume is checked",
                    self.device.name()
                );
                self.leave_unclean();
            }
        }
    }

    /// Frees the number of a file that is erased, within an operation.
    pub(crate) fn free_inode(&self, ino: u32, is_directory: bool) -> Result<(), Fault> {
        self.allocator()?.free_inode(ino, is_directory)?;
        self.unregister(ino);
        Ok(())
    }

    /// Takes the blocks of a file without a name, and makes its inode a free one. Its number is still
    /// taken.
    pub(crate) fn erase(&self, inode: &mut Inode) -> Result<(), Fault> {
        if self.log().is_some() {
            self.cut_in_pieces(inode, 0, &|_| Ok(()))?;
        }
        self.operate(cost::CUT, || self.erase_at_once(inode))
    }

    /// Cuts pieces off a file, each an operation of the log, until one is left on the way to `size`. Calls `drop_pages` with the length that
    /// the file comes to have, within the operation.
    pub(crate) fn cut_in_pieces(
        &self,
        inode: &mut Inode,
        size: u64,
        drop_pages: &dyn Fn(u64) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let piece = Truncate::new(&self.sb, &self.device, inode.vtype);
            let end = piece.next_end(inode, size)?;
            if end == size {
                return Ok(());
            }
            self.operate(cost::CUT, || {
                drop_pages(end)?;
                piece.cut(&mut self.allocator()?, inode, end)
            })?;
        }
    }

    /// The same within an operation, for a file of few blocks.
    pub(crate) fn erase_at_once(&self, inode: &mut Inode) -> Result<(), Fault> {
        let (sb, device) = (&self.sb, &self.device);
        let attributes = Inode::attributes(sb, device, inode.ino)?;
        let mut space = self.allocator()?;
        let cut = Truncate::new(sb, device, inode.vtype).erasing();
        cut.cut(&mut space, inode, 0)?;
        if attributes.iter().any(|(address, _)| *address != 0) {
            // The inode that had them must not be on the disk any more, whatever else it had.
            Inode::erase(sb, device, inode.ino, Wait::Started)?;
        }
        for (address, bytes) in attributes {
            if address != 0 {
                space.free_later(address as u64, bytes.div_ceil(sb.fsize))?;
            }
        }
        Ok(())
    }

    /// What the buffer cache has of these fragments is nothing any more.
    pub(crate) fn invalidate(&self, address: u64, count: u32) {
        let sector = self.sb.byte_of(address) / SECTOR_SIZE as u64;
        self.device
            .invalidate(sector, (count * self.sb.fsize) as usize);
    }

    /// Why it cannot be mounted for writing, if it cannot.
    fn obstacle(&self, force: bool) -> Result<Option<&'static str>, Fault> {
        let sb = &self.sb;
        if sb.flags.contains(Flags::DOWAPBL) {
            return Ok(Some("it has a journal"));
        }
        if sb.flags.contains(Flags::DOQUOTA2) {
            return Ok(Some("it has quotas"));
        }
        if !sb.updated || sb.old_inodes || sb.has_old_directories() {
            return Ok(Some("its format is too old"));
        }
        if self.device.sectors() < sb.size_bytes() / SECTOR_SIZE as u64 {
            return Ok(Some("the device is shorter than the volume"));
        }
        let is_clean = sb.clean == Clean::IS_CLEAN && !self.needs_check.load(Ordering::Acquire);
        if !is_clean && !force {
            return Ok(Some("it was not unmounted cleanly: please check it"));
        }
        let at = core::mem::offset_of!(RawSuperblock<zerocopy::LE>, snapinum);
        let snapshots = read_with(&self.device, sb.location, PIECE, |bytes| {
            bytes.get(at..at + 4) != Some(&[0; 4][..])
        })?;
        Ok(snapshots.then_some("it has snapshots"))
    }

    /// Makes it writable, with a log if it `keeps_log`. The disk says so from the first change on: [`Volume::begin_change`];
    /// or, with a log, at once.
    ///
    /// # Errors
    /// `EROFS`: it cannot be; a log line says why.
    pub fn open_for_writing(&self, force: bool, keeps_log: bool) -> Result<(), Fault> {
        if let Some(why) = self.obstacle(force)? {
            log::warn!("ffs: {}: cannot be written: {why}", self.device.name());
            return Err(Fault::Refused(Errno::EROFS));
        }
        // The search for the superblock left buffers at places that are data's.
        for place in SBLOCKSEARCH {
            if place != self.sb.location {
                self.device.invalidate(place / SECTOR_SIZE as u64, PIECE);
            }
        }
        let replayed = self.replay_on_disk()?;
        let was_clean = self.sb.clean == Clean::IS_CLEAN;
        let leaves_clean = was_clean && !self.needs_check.load(Ordering::Acquire);
        self.leaves_clean.store(leaves_clean, Ordering::Release);
        let mut space = self.space.lock();
        *space = Some(Space::load(&self.sb, &self.device)?);
        drop(space);
        self.says_in_use.store(false, Ordering::Release);
        self.may_say_in_use.store(false, Ordering::Release);
        self.writable.store(true, Ordering::Release);
        let opened = self.take_over(replayed.as_deref(), keeps_log);
        if opened.is_err() {
            self.close_after_failure();
        }
        opened
    }

    /// It cannot be written after all. If nothing was left half done, the disk does not go on saying that it is in use.
    fn close_after_failure(&self) {
        if self.log().is_none() {
            // One that was begun, and is not kept, holds nothing yet.
            self.abandon_log();
        }
        let is_whole = !self.needs_check.load(Ordering::Acquire);
        if !is_whole || self.close_for_writing().is_err() {
            self.abandon_writing();
        }
    }

    /// Puts in order what was left behind, with a log or without.
    fn take_over(&self, replayed: Option<&Replay>, keeps_log: bool) -> Result<(), Fault> {
        let journal = *self.journal.lock();
        if keeps_log {
            self.start_log(replayed)?;
        } else {
            if replayed.is_some() {
                // From here on the log does not count.
                self.begin_change()?;
            }
            if journal.is_some_and(|journal| journal.is_removed()) {
                self.remove_log()?;
            }
        }
        if let Some(replay) = replayed {
            self.free_orphans(replay.orphans());
        }
        Ok(())
    }

    /// The disk says that it is in use.
    pub(crate) fn says_in_use(&self) {
        self.may_say_in_use.store(true, Ordering::Release);
        self.says_in_use.store(true, Ordering::Release);
    }

    /// The clean byte while it is mounted for writing.
    fn clean_in_use(&self) -> Clean {
        match self.leaves_clean.load(Ordering::Acquire) {
            true => Clean::WAS_CLEAN,
            false => Clean(0),
        }
    }

    /// Gives the superblock and the summary to the buffer cache, if they changed.
    pub fn store_superblock(&self) -> Result<(), Fault> {
        if !self.is_writable() {
            return Ok(());
        }
        self.allocator()?.finish()?;
        self.store_numbers()
    }

    /// For a commit: frees what was kept for it, and gives the maps, the summary and the superblock to the buffer cache.
    pub(crate) fn store_changed_space(&self) -> Result<(), Fault> {
        self.allocator()?.free_for_commit()?;
        self.store_numbers()
    }

    fn store_numbers(&self) -> Result<(), Fault> {
        let mut space = self.space.lock();
        if let Some(space) = space.as_mut().filter(|space| space.is_changed()) {
            let buf = space.store(&self.sb, &self.device, self.clean_in_use())?;
            buf.bdwrite();
        }
        Ok(())
    }

    /// Ends writing: everything is on the disk, and then the superblock says so. A disk that was not
    /// changed is not written to.
    pub fn close_for_writing(&self) -> Result<(), Fault> {
        if !self.is_writable() {
            return Ok(());
        }
        if !self.may_say_in_use.load(Ordering::Acquire) {
            self.writable.store(false, Ordering::Release);
            *self.space.lock() = None;
            return Ok(());
        }
        self.stop_log()?;
        self.allocator()?.finish()?;
        let at = self.sb.location;
        let fault = |errno| Fault::Device { at, errno };
        if self.orphans.lock().iter().any(Option::is_some) {
            return Err(fault(Errno::ENOMEM));
        }
        let mut space = self.space.lock();
        let Some(loaded) = space.as_mut() else {
            return Ok(());
        };
        loaded
            .store(&self.sb, &self.device, self.clean_in_use())?
            .bdwrite();
        self.device.flush(Wait::Stable).map_err(fault)?;
        let clean = match self.leaves_clean.load(Ordering::Acquire) {
            true => Clean::IS_CLEAN,
            false => Clean(0),
        };
        let buf = loaded.store(&self.sb, &self.device, clean)?;
        buf.bwrite().map_err(fault)?;
        self.writable.store(false, Ordering::Release);
        let discards = space.take().and_then(|space| space.discards);
        drop(space);
        if let Some(discards) = discards {
            discards.finish();
        }
        Ok(())
    }

    /// Ends writing at once, by force: the disk keeps saying that it is in use.
    pub fn abandon_writing(&self) {
        self.writable.store(false, Ordering::Release);
        self.abandon_log();
        let space = self.space.lock().take();
        if let Some(discards) = space.and_then(|space| space.discards) {
            discards.abandon();
        }
    }

    /// From now on, what is freed is discarded, if the device does that.
    pub fn discard_free(&self) {
        let name = self.device.name();
        let discards = match Discards::new(self.device.device()) {
            Ok(Some(discards)) => discards,
            Ok(None) => return log::warn!("ffs: {name}: the device does not discard"),
            Err(errno) => return log::warn!("ffs: {name}: nothing will be discarded: {errno}"),
        };
        if let Some(space) = self.space.lock().as_mut() {
            space.discards = Some(discards);
        }
    }

    /// What is free: counters in fragments, blocks, inodes.
    pub fn counts(&self) -> crate::superblock::Counts {
        let space = self.space.lock();
        let Some(space) = space.as_ref() else {
            return self.sb.cstotal;
        };
        // What is kept only until the disk knows that nobody has it any more is as good as free.
        let mut totals = space.totals;
        totals.free_fragments += space.held_fragments();
        totals
    }

    /// An inode number that has just been taken: the generation that its next file gets.
    pub(crate) fn next_generation(&self, ino: u32) -> Result<u32, Fault> {
        let (mode, generation) = Inode::vacant(&self.sb, &self.device, ino)?;
        if mode != 0 {
            return Err(Corrupt::Inode {
                ino,
                field: "mode",
                value: u64::from(mode),
            }
            .into());
        }
        Ok(match generation.wrapping_add(1) & 0x7fff_ffff {
            0 | 1 => crate::allocator::generation() & 0x7fff_ffff,
            next => next,
        })
    }
}
