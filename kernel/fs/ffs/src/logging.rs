//! A volume that keeps a log (WAPBL): operations, commits, and what is asked of both.
//!
//! # Operations
//!
//! Whatever changes metadata runs within an operation of the log ([`Volume::begin`]), which says how many buffers it
//! changes at most; the buffers are held until a commit has them on the disk. So the order of their writes does
//! not matter, and nobody waits for one: what `names.rs`, [`balloc`](crate::balloc) and [`mod@crate::truncate`] say of order is
//! for volumes without a log. What may change more, such as the end of a long file, is cut into several operations.
//!
//! # Blocks that files lose
//!
//! They are nobody's until a commit: its last act before the records are written is to free them in the maps, and no
//! operation runs until it is over. So what a transaction frees is used again only when that transaction is on the disk, by
//! metadata or by data, which are written in place at once. Blocks that were metadata are revoked besides, lest a replay
//! writes over what is there by then. (NetBSD frees the blocks of regular files at once.)
//!
//! # Blocks that files get
//!
//! A block that is new holds what it held for somebody else. A file has it, after a crash, once the transaction that
//! gave it is on the disk: so the data of every file that got blocks, or became longer within one, are written before each
//! commit. The page cache makes pages busy within an operation only ([`begin_write`](rumpvfs::vnode::VnodeOps::begin_write)), so a
//! commit finds none that waits for it.
//!
//! # Inodes without a name
//!
//! The log lists those in use, and those that are being erased; a replay frees them.
//!
//! # Locks
//!
//! An operation comes after the locks of vnodes, before a volume's space. A commit takes no lock of a vnode.
//!
//! Source: NetBSD sys/ufs/ffs/ffs_wapbl.c, sys/ufs/ufs/ufs_wapbl.h.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use rumpkern::kmem::{self, Room};
use rumpkern::locks::Mutex;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::vnode::{Vnode, Wait};
use rumpvfs::wapbl::{Client, Log, LogError, Operation, Replay};

use crate::corrupt::Fault;
use crate::disk::PIECE;
use crate::journal::Journal;
use crate::superblock::Superblock;
use crate::vnops::Node;
use crate::volume::Volume;

/// Buffers that an operation changes at most, as far as can be said: beyond, the buffer cache has a margin. A group is up to
/// four, a path to a block three.
pub(crate) mod cost {
    /// An inode.
    pub(crate) const INODE: usize = 2;
    /// Blocks for a write.
    pub(crate) const WRITE: usize = 12;
    /// A file made, or given one more name: its inode, the directory's, an entry, a block for that.
    pub(crate) const NAME: usize = 18;
    /// A name that goes.
    pub(crate) const REMOVE: usize = 8;
    /// A rename.
    pub(crate) const RENAME: usize = 22;
    /// A piece cut off a file.
    pub(crate) const CUT: usize = 8;
    /// The number of an inode given back.
    pub(crate) const RELEASE: usize = 6;
}

/// Buffers of a group that a change of its maps changes at most.
const GROUP: usize = 4;
/// Buffers of the summary and of the superblock that a commit changes, as a rule.
const SUMMARY: usize = 2;
/// Groups that blocks to be freed lie in, as far as they are counted.
pub(crate) const COUNTED_GROUPS: usize = 6;

/// The log of a volume, and the files whose data have to be on the disk before it is committed.
#[derive(Default)]
pub(crate) struct Logging {
    log: Mutex<Option<Arc<Log>>>,
    fresh: Mutex<Vec<Weak<Vnode>>>,
}

impl Volume {
    /// The log, if it keeps one.
    pub(crate) fn log(&self) -> Option<Arc<Log>> {
        self.logging.log.lock().clone()
    }

    /// Begins an operation that changes up to `buffers` buffers; `None` without a log. What was kept is made free before if
    /// there is little else.
    pub(crate) fn begin(&self, buffers: usize) -> Result<Option<Operation>, Fault> {
        let Some(log) = self.log() else {
            return Ok(None);
        };
        if self.needs_room() {
            log.flush(self).map_err(Fault::Refused)?;
        }
        log.begin(self, buffers).map(Some).map_err(Fault::Refused)
    }

    /// Runs `change` as an operation.
    pub(crate) fn operate<T>(
        &self,
        buffers: usize,
        change: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let _operation = self.begin(buffers)?;
        change()
    }

    /// Whether there is hardly room but for what a commit would free.
    fn needs_room(&self) -> bool {
        let space = self.space.lock();
        space.as_ref().is_some_and(|space| space.is_tight(&self.sb))
    }

    /// Commits, if there is a log. Answers whether there is.
    pub(crate) fn commit(&self) -> Result<bool, Fault> {
        let Some(log) = self.log() else {
            return Ok(false);
        };
        log.flush(self).map_err(|errno| self.at_log(errno))?;
        Ok(true)
    }

    fn at_log(&self, errno: Errno) -> Fault {
        Fault::Device {
            at: self.sb.location,
            errno,
        }
    }

    /// Inode `ino` has no name from now on.
    pub(crate) fn register(&self, ino: u32, mode: u16) -> Result<(), Fault> {
        match self.log() {
            Some(log) => log
                .register_inode(ino, u32::from(mode))
                .map_err(Fault::Refused),
            None => Ok(()),
        }
    }

    /// Inode `ino` has a name again, or is a free one.
    pub(crate) fn unregister(&self, ino: u32) {
        if let Some(log) = self.log() {
            log.unregister_inode(ino);
        }
    }

    /// The data of `vnode` have to be on the disk before the next commit. Within an operation.
    pub(crate) fn note_fresh(&self, vnode: &Arc<Vnode>, node: &Node) -> Result<(), Fault> {
        if self.log().is_none() || node.is_fresh() {
            return Ok(());
        }
        let mut fresh = self.logging.fresh.lock();
        fresh.room(1).map_err(Fault::Refused)?;
        if node.set_fresh(true) {
            fresh.push(Arc::downgrade(vnode));
        }
        Ok(())
    }

    /// Writes the data that have to be on the disk before a commit; no operation is running. What cannot be written stays
    /// dirty, and whoever asks for the file is told.
    fn write_fresh(&self) {
        self.start_fresh();
        let fresh = core::mem::take(&mut *self.logging.fresh.lock());
        for vnode in fresh.iter().filter_map(Weak::upgrade) {
            if let Some(node) = vnode.inode::<Node>() {
                node.set_fresh(false);
            }
            vnode.settle_pages();
        }
    }

    /// Starts writing them. Those of operations that are running are not all dirty yet: the files stay listed.
    fn start_fresh(&self) {
        for n in 0.. {
            let fresh = self.logging.fresh.lock();
            let Some(vnode) = fresh.get(n) else {
                return;
            };
            let vnode = vnode.upgrade();
            drop(fresh);
            // What fails is seen when it is waited for.
            let _ = vnode.map(|vnode| vnode.flush_pages(Wait::Started));
        }
    }

    /// Begins to keep the log that the superblock names, or a new one. `replayed`: what was put in place of the log that was
    /// left in use, which still counts.
    pub(crate) fn start_log(&self, replayed: Option<&Replay>) -> Result<(), Fault> {
        let usable = self.usable_journal()?;
        let journal = match usable {
            Some(journal) => journal,
            None => self.make_log()?,
        };
        let place = journal.place(&self.sb, self.device.sectors())?;
        let fault = |error: LogError| Fault::of_log(place.start * SECTOR_SIZE as u64, error);
        // The log that is to be removed is not gone on with.
        let resumed = replayed.filter(|_| usable.is_some());
        let resumed = resumed.map(|replay| Log::resume(&self.device, &place, replay));
        let (log, orphans) = match resumed {
            Some(Ok(log)) => (log, &[][..]),
            Some(Err(error)) if error != LogError::Device(Errno::ENOSPC) => {
                return Err(fault(error));
            }
            // There was none that counts, or there is no room to say it twice: then for a moment nobody would free them.
            _ => {
                if replayed.is_some() {
                    self.begin_change()?;
                }
                let flushed = self.device.flush(Wait::Stable);
                flushed.map_err(|errno| self.at_log(errno))?;
                let log = Log::create(&self.device, &place).map_err(fault)?;
                (log, replayed.map_or(&[][..], Replay::orphans))
            }
        };
        let log = kmem::try_arc(log).map_err(Fault::Refused)?;
        for orphan in orphans {
            let registered = log.register_inode(orphan.ino, orphan.mode);
            registered.map_err(Fault::Refused)?;
        }
        if let Some(space) = self.space.lock().as_mut() {
            space.keep_log(Some(log.clone()));
        }
        *self.logging.log.lock() = Some(log.clone());
        self.says_in_use();
        // Only a superblock in place has anybody look at the log.
        log.settle(self).map_err(|errno| self.at_log(errno))
    }

    /// The log that the superblock names, if it is to be used.
    fn usable_journal(&self) -> Result<Option<Journal>, Fault> {
        let Some(journal) = *self.journal.lock() else {
            return Ok(None);
        };
        if journal.is_removed() {
            self.remove_log()?;
            return Ok(None);
        }
        Ok(journal.is_made().then_some(journal))
    }

    /// Ends the log: everything is in place, and the disk says that there is nothing to be replayed.
    pub(crate) fn stop_log(&self) -> Result<(), Fault> {
        let Some(log) = self.log() else {
            return Ok(());
        };
        let says = |keeps: bool| {
            if let Some(space) = self.space.lock().as_mut() {
                space.keep_log(keeps.then(|| log.clone()));
            }
        };
        // Of one transaction any part may be put in place first: all else is there before the superblock, alone, says so.
        log.settle(self).map_err(|errno| self.at_log(errno))?;
        if log.has_orphans() {
            self.free_left(&log)?;
            log.settle(self).map_err(|errno| self.at_log(errno))?;
        }
        says(false);
        if let Err(errno) = log.stop(self) {
            says(true);
            return Err(self.at_log(errno));
        }
        *self.logging.log.lock() = None;
        Ok(())
    }

    /// Frees the files without a name that could not be freed when their last user had gone. No file is in use. What cannot be
    /// freed now either is for a check.
    fn free_left(&self, log: &Log) -> Result<(), Fault> {
        while let Some(orphan) = log.first_orphan() {
            match self.free_orphan(&orphan) {
                Ok(()) => {}
                Err(fault @ Fault::Refused(_)) => return Err(fault),
                Err(fault) if fault.is_of_memory() => return Err(fault),
                Err(fault) => {
                    self.left_taken(orphan.ino, fault);
                    log.unregister_inode(orphan.ino);
                }
            }
        }
        Ok(())
    }

    /// Forgets the log, which stays on the disk as it is.
    pub(crate) fn abandon_log(&self) {
        *self.logging.log.lock() = None;
        self.device.hold(false);
    }
}

impl Client for Volume {
    fn commit_wanted(&self) {
        self.start_fresh();
    }

    fn reserve(&self) -> usize {
        let groups = self.space.lock().as_ref().map_or(0, |it| it.kept_groups());
        let pieces = (self.sb.cgsize as usize).div_ceil(PIECE).min(GROUP);
        // Two are in memory, and may be other ones.
        (groups + 2) * pieces + SUMMARY
    }

    fn before_commit(&self) -> Result<(), Errno> {
        self.write_fresh();
        self.told(self.store_changed_space())
    }

    fn after_commit(&self, committed: bool) {
        let settled = self.allocator().and_then(|mut space| match committed {
            true => {
                space.forget_freed();
                Ok(())
            }
            false => space.take_back_freed(),
        });
        // It was logged; on a mount that ends there is nothing to be settled.
        if !matches!(settled, Err(Fault::Refused(Errno::EROFS))) {
            let _: Result<(), Errno> = self.told(settled);
        }
    }
}

/// The fewest fragments beside those kept with which an operation begins: what the largest takes.
pub(crate) fn least_room(sb: &Superblock) -> i64 {
    i64::from(sb.frag) * 8 + i64::from((64 * 1024) / sb.fsize)
}
