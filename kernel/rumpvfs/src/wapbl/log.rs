//! Writing a log: operations join a transaction, and a flush commits it.
//!
//! # The interface
//!
//! A file system changes its metadata between [`Log::begin`] and the end of what that answers; the buffer cache
//! holds them meanwhile ([`Devvp::hold`]). It says which blocks are not metadata any more ([`Log::revoke`]), and which
//! inodes have no name ([`Log::register_inode`]). [`Log::flush`] commits; [`Client`] is what the file system does
//! when all operations have ended, before that: freeing blocks in its maps, for example, so that none is used again
//! before the transaction that frees it is on the disk.
//!
//! # A commit
//!
//! 1. No operation is running, and none begins.
//! 2. The records are written behind the head; the device is flushed. What was written to it before, such as file data,
//!    is stable then as well.
//! 3. The header with the new head is written: from here on the transaction counts. The device is flushed.
//! 4. The buffers are released. They are written in place when somebody wants room, or the log does.
//!
//! If the device does not take a header, either of both may count, and both are sound; before anything else is done, the old one
//! is written in the place of the new.
//!
//! A device without a volatile cache is never flushed, and the header cannot go past one
//! ([`DeviceInfo::volatile_cache`](specfs::DeviceInfo::volatile_cache)). Threads that flush at the same time share a commit: who finds that one
//! began after he came, and ended, has nothing left to do.
//!
//! # Room
//!
//! An operation says how many buffers it will change at most. If the transaction gets too large with them, or
//! holds too much of the memory, it is committed first. After a commit there is always room for the largest transaction:
//! else a *checkpoint* writes every released buffer in place, and the log is empty. It never comes before a commit:
//! buffers that the transaction holds, or has revoked, are in no other place than the log. So while the device does not take what
//! is committed in place, and there may be no room, no operation begins: each tries the checkpoint again, and gets its error.
//!
//! A checkpoint lets nobody else do anything, and costs flushes of its own. So that it is hardly ever needed, the tail follows by
//! itself: when more than a quarter of the log is in use, the thread that has committed marks the head, starts writing in place all
//! that is released, and lets the others go on. What was released before the mark is then, sooner or later, in place, or held by a
//! newer transaction; its buffers tell by their rank. The next commit that finds it so begins the log at the mark: its
//! records have what is held, and its first flush makes stable what is in place, before the header says so.
//!
//! # Locks
//!
//! An operation is like a lock held shared, a commit like one held exclusively. In this order, which debug builds check:
//!
//! 1. locks of vnodes: of the file system's callers;
//! 2. an operation, or a commit (rank 150). One at a time: whoever has an operation neither begins another nor commits, as a commit waits
//!    for all of them. Pages are made busy within one;
//! 3. locks of the file system's own (ranks up to 169), such as that of its maps;
//! 4. the log's own state (rank 170): nothing is waited for under it but memory;
//! 5. buffers, and the cache's table: see [`crate::bufcache`].
//!
//! # Memory
//!
//! Whoever waits for memory may have any of these, since the page daemon needs none: it begins no operation and never commits, it writes dirty
//! pages in place without either, and of buffers it takes those that are clean. What it cannot free are held buffers. So their number
//! is bounded when the cache is made ([`BufCache::most_held`](crate::bufcache::BufCache::most_held)), they count as
//! memory in use, and a transaction is committed at half of what it may hold when memory is short. A commit allocates a page for each
//! list that it writes, and waits for it; that it can get one does not depend on its own end. A thread that frees what a file without a name
//! had may be the page daemon, which has it done by another later.

use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::{Condvar, LockClass, Mutex, Ordered};
use rumpkern::lwp::{self, MemoryUse};
use rumpkern::uvm::dma::{BioOp, IoFrame};
use rumpkern::uvm::{self, Alloc, Frame};
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

use super::raw::{self, Fixed, Header};
use super::ring::Ring;
use super::{LogError, Orphan, Place, Replay};
use crate::bufcache::Devvp;
use crate::specfs;
use crate::vnode::Wait;

/// The most revocations of a transaction before it is committed.
const MOST_REVOCATIONS: usize = 512;
/// Buffers of a transaction at most, however short the log: fewer are of no use.
const LEAST_BUFFERS: usize = 4;

/// An operation, or a commit.
static OPERATION_CLASS: LockClass = LockClass {
    name: "operation of a log",
    rank: 150,
};
/// The state of a log.
static STATE_CLASS: LockClass = LockClass {
    name: "log",
    rank: 170,
};

/// What a file system has to do for its log.
pub trait Client {
    /// A commit is wanted: operations may still be running. What takes long and must be on the disk before the commit, such
    /// as the data of files that got blocks, is better written here than in [`Client::before_commit`].
    fn commit_wanted(&self) {}

    /// Buffers that [`Client::before_commit`] would change now, beside those that are held.
    fn reserve(&self) -> usize {
        0
    }

    /// A commit begins: no operation is running. What is changed here belongs to the transaction.
    ///
    /// # Errors
    /// The commit fails with it; the transaction goes on.
    fn before_commit(&self) -> Result<(), Errno>;

    /// The commit is over; still no operation is running. What was changed before it is stable, or, if not `committed`, may
    /// never be.
    fn after_commit(&self, committed: bool) {
        let _ = committed;
    }
}

/// How the tail follows.
#[derive(Clone, Copy)]
struct Passing {
    /// The header's when the head was marked.
    generation: u32,
    /// The mark.
    to: u64,
    /// The rank, at most, of the buffers that have to be in place.
    rank: u64,
}

struct State {
    /// Operations running, and the buffers that they may still change.
    open: usize,
    reserved: usize,
    committing: bool,
    /// The next commit ends with a checkpoint.
    settles: bool,
    /// Commits begun, and the last that succeeded.
    begun: u64,
    done: u64,
    /// What the newest header says.
    header: Header,
    /// Metadata that are none any more: sector and bytes.
    revoked: Vec<(u64, u32)>,
    /// Inodes without a name.
    inodes: Vec<Orphan>,
    /// The log has another list of them.
    inodes_changed: bool,
    /// Where the newest list begins.
    inodes_at: u64,
    /// Where the tail is to go next.
    passing: Option<Passing>,
    /// The generation of a header that could not be written: nobody knows whether it is on the disk.
    unknown: Option<u32>,
    /// A checkpoint failed that the log had to have: there may be no room for a transaction until one does not.
    stuck: bool,
}

/// A log that is written.
pub struct Log {
    devvp: Devvp,
    place: Place,
    fixed: Fixed,
    ring: Ring,
    /// Buffers of a transaction at most, with all that its operations may still change.
    most_buffers: usize,
    /// Buffers from which on a transaction is committed.
    enough_buffers: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// An operation that is running.
pub struct Operation {
    log: Arc<Log>,
    buffers: usize,
    _order: Ordered,
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut state = self.log.state.lock();
        state.open -= 1;
        state.reserved -= self.buffers;
        drop(state);
        self.log.changed.notify_all();
    }
}

impl Log {
    /// Begins an empty log at `place`; from now on writes through `devvp` are held. Nothing is dirty.
    ///
    /// # Errors
    /// `place` is none for a log, or its blocks are not the device's sectors. The device's.
    pub fn create(devvp: &Devvp, place: &Place) -> Result<Log, LogError> {
        Log::create_at(devvp, place, 0)
    }

    /// The same, whose first header is of this generation.
    fn create_at(devvp: &Devvp, place: &Place, generation: u32) -> Result<Log, LogError> {
        let log = Log::new(devvp, place)?;
        // Both slots, so that none has the header of an older log.
        for generation in [generation, generation.wrapping_add(1)] {
            log.write_header(Header {
                generation,
                ..Header::default()
            })?;
        }
        devvp.hold(true);
        Ok(log)
    }

    /// Goes on with the log at `place` of which `replay` was put in place, on the disk: all that it still has to say are the
    /// inodes without a name. Whenever the power fails, one of both logs is there. From now on writes through `devvp` are
    /// held. Nothing is dirty.
    ///
    /// # Errors
    /// As [`Log::create`]. `ENOSPC`: there is no room behind the old log.
    pub fn resume(devvp: &Devvp, place: &Place, replay: &Replay) -> Result<Log, LogError> {
        let old = replay.header();
        if replay.orphans().is_empty() {
            // The newest header is the last to go: with only the one before it, less would be replayed over what is in place.
            return Log::create_at(devvp, place, old.generation.wrapping_add(1));
        }
        let log = Log::new(devvp, place)?;
        let mut state = log.state.lock();
        state.inodes.room(replay.orphans().len())?;
        state.inodes.extend_from_slice(replay.orphans());
        let lists = state.inodes.len().div_ceil(log.fixed.inodes_per_list()) as u64;
        drop(state);
        let used = log.ring.used(old.head, old.tail);
        if used + lists * log.fixed.block() >= log.ring.size {
            return Err(Errno::ENOSPC.into());
        }
        let start = log.ring.advance(old.head, 0);
        let end = log.write_inodes(start)?;
        specfs::flush(&**devvp.device())?;
        log.write_header(Header {
            generation: old.generation.wrapping_add(1),
            head: end,
            tail: start,
        })?;
        log.state.lock().inodes_at = start;
        devvp.hold(true);
        Ok(log)
    }

    fn new(devvp: &Devvp, place: &Place) -> Result<Log, LogError> {
        let fixed = place.fixed()?;
        if u64::from(devvp.device().info().sector_size) != place.block_size {
            return Err(Errno::EINVAL.into());
        }
        let ring = Ring {
            start: fixed.circ_off(),
            size: fixed.circ_size,
        };
        // Half of the log, without what the lists take of it.
        let fits = (fixed.circ_size / 2) as usize / (PAGE_SIZE + fixed.block() as usize);
        let cache = devvp.cache();
        let most_buffers = fits.min(cache.most_held()).max(LEAST_BUFFERS);
        Ok(Log {
            devvp: devvp.clone(),
            place: *place,
            fixed,
            ring,
            most_buffers,
            enough_buffers: most_buffers / 2,
            state: Mutex::with_class(
                State {
                    open: 0,
                    reserved: 0,
                    committing: false,
                    settles: false,
                    begun: 0,
                    done: 0,
                    header: Header::default(),
                    revoked: kmem::try_vec(MOST_REVOCATIONS)?,
                    inodes: Vec::new(),
                    inodes_changed: false,
                    inodes_at: 0,
                    passing: None,
                    unknown: None,
                    stuck: false,
                },
                &STATE_CLASS,
            ),
            changed: Condvar::new(),
        })
    }

    /// How many buffers a transaction has at most.
    pub fn most_buffers(&self) -> usize {
        self.most_buffers
    }

    /// Begins an operation that changes up to `buffers` buffers, and registers an inode at most. Commits first if there is no room for
    /// that.
    ///
    /// # Errors
    /// Those of a commit, and of a checkpoint; `ENOMEM`.
    pub fn begin(self: &Arc<Log>, client: &dyn Client, buffers: usize) -> Result<Operation, Errno> {
        debug_assert!(lwp::memory_use() != Some(MemoryUse::Reserve));
        let order = self.enter();
        // Not under the lock: the file system may hold locks of its own when it revokes.
        let mut reserve = client.reserve();
        let mut state = self.state.lock();
        loop {
            if state.committing {
                state = self.changed.wait(state);
                continue;
            }
            let held = self.devvp.cache().held_count();
            let enough = match uvm::short() {
                true => self.enough_buffers / 2,
                false => self.enough_buffers,
            };
            let wanted = held + state.reserved + buffers + reserve;
            let fits = held <= enough
                && !state.stuck
                && state.unknown.is_none()
                && wanted <= self.most_buffers
                && state.revoked.len() < MOST_REVOCATIONS;
            let is_empty =
                held == 0 && !state.stuck && state.revoked.is_empty() && state.unknown.is_none();
            // What is too large for any transaction is tried alone; and a commit that would bring nothing brings no room.
            if fits || (is_empty && state.open == 0) {
                // So that each can register an inode when it is too late to fail.
                let open = state.open + 1;
                state.inodes.room(open)?;
                state.open = open;
                state.reserved += buffers;
                return Ok(Operation {
                    log: self.clone(),
                    buffers,
                    _order: order,
                });
            }
            drop(state);
            self.flush_ordered(client)?;
            reserve = client.reserve();
            state = self.state.lock();
        }
    }

    /// The `bytes` bytes at `sector` are no metadata any more: what the log has of them does not count. Within an operation.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn revoke(&self, sector: u64, bytes: u32) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.revoked.room(1)?;
        state.revoked.push((sector, bytes));
        Ok(())
    }

    /// Inode `ino` has no name: to be freed after a crash. Saying it twice is harmless. Within an operation.
    ///
    /// # Errors
    /// `ENOMEM`; not for the first of an operation.
    pub fn register_inode(&self, ino: u32, mode: u32) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.inodes.iter().all(|known| known.ino != ino) {
            state.inodes.room(1)?;
            state.inodes.push(Orphan { ino, mode });
            state.inodes_changed = true;
        }
        Ok(())
    }

    /// Inode `ino` has a name, or is freed. Within an operation.
    pub fn unregister_inode(&self, ino: u32) {
        let mut state = self.state.lock();
        let before = state.inodes.len();
        state.inodes.retain(|known| known.ino != ino);
        state.inodes_changed |= state.inodes.len() != before;
    }

    /// Makes everything stable that was done so far: the operations that have ended, and what was written to the device. The
    /// caller has no operation running.
    ///
    /// # Errors
    /// The client's, the device's, `ENOMEM`: nothing is lost then, and a later flush tries again.
    pub fn flush(&self, client: &dyn Client) -> Result<(), Errno> {
        let _order = self.enter();
        self.flush_ordered(client)
    }

    /// Whether an operation is running: for assertions.
    pub fn has_operation(&self) -> bool {
        self.state.lock().open > 0
    }

    /// The calling thread has an operation, or commits, from now on.
    fn enter(&self) -> Ordered {
        Ordered::enter(&OPERATION_CLASS, (&raw const *self).addr())
    }

    fn flush_ordered(&self, client: &dyn Client) -> Result<(), Errno> {
        if !self.state.lock().committing {
            client.commit_wanted();
        }
        let mut state = self.state.lock();
        let before = state.begun;
        loop {
            if state.done > before {
                return Ok(());
            }
            if !state.committing {
                break;
            }
            state = self.changed.wait(state);
        }
        state.committing = true;
        state.begun += 1;
        let this = state.begun;
        while state.open > 0 {
            state = self.changed.wait(state);
        }
        drop(state);
        let mut result = self.commit(client);
        client.after_commit(result.is_ok());
        let is_committed = result.is_ok();
        if is_committed && self.wants_checkpoint() {
            result = self.checkpoint();
            let mut state = self.state.lock();
            state.stuck = result.is_err() && self.is_half_full(&state.header);
        }
        let mut state = self.state.lock();
        state.committing = false;
        if is_committed {
            state.done = this;
        }
        let marked = self.mark(&mut state);
        drop(state);
        self.changed.notify_all();
        if let Some(marked) = marked {
            self.follow(marked);
        }
        result
    }

    /// Marks the head, if the tail should follow there and is not on its way. No commit is under way.
    fn mark(&self, state: &mut State) -> Option<Passing> {
        let Header {
            generation,
            head,
            tail,
        } = state.header;
        let is_due = self.ring.used(head, tail) > self.ring.size / 4;
        if state.passing.is_some() || state.unknown.is_some() || !is_due {
            return None;
        }
        // Until it is known which buffers these are: all.
        state.passing = Some(Passing {
            generation,
            to: head,
            rank: u64::MAX,
        });
        state.passing
    }

    /// Starts writing in place what was released before the mark. Others commit meanwhile; what they release may be written, too.
    fn follow(&self, marked: Passing) {
        let rank = self.devvp.start_dirty();
        let mut state = self.state.lock();
        let passing = state.passing.as_mut();
        if let Some(passing) = passing.filter(|it| it.generation == marked.generation) {
            passing.rank = rank;
        }
    }

    /// Commits, and writes everything in place: the disk says what the log does.
    ///
    /// # Errors
    /// As [`Log::flush`].
    pub fn settle(&self, client: &dyn Client) -> Result<(), Errno> {
        let mut state = self.state.lock();
        while state.committing {
            state = self.changed.wait(state);
        }
        state.settles = true;
        drop(state);
        self.flush(client)
    }

    /// Whether there are inodes without a name.
    pub fn has_orphans(&self) -> bool {
        self.first_orphan().is_some()
    }

    /// One of the inodes without a name.
    pub fn first_orphan(&self) -> Option<Orphan> {
        self.state.lock().inodes.first().copied()
    }

    /// Commits, writes everything in place, and stops holding writes: the log is empty.
    ///
    /// # Errors
    /// `EBUSY`: there are inodes without a name. As [`Log::flush`].
    pub fn stop(&self, client: &dyn Client) -> Result<(), Errno> {
        self.settle(client)?;
        if self.has_orphans() {
            return Err(Errno::EBUSY);
        }
        self.devvp.hold(false);
        Ok(())
    }

    fn commit(&self, client: &dyn Client) -> Result<(), Errno> {
        self.take_back_unknown()?;
        client.before_commit()?;
        let mut sectors = kmem::try_vec(self.devvp.cache().held_count())?;
        self.devvp.list_held(&mut sectors);
        sectors.sort_unstable();
        let state = self.state.lock();
        let lists_changed = state.inodes_changed || !state.revoked.is_empty();
        let (header, revoked) = (state.header, state.revoked.len());
        let inodes = state.inodes.len();
        let passing = state.passing;
        drop(state);
        if sectors.is_empty() && !lists_changed {
            return specfs::flush(&**self.devvp.device());
        }
        let block = self.fixed.block();
        let lists = |entries: usize, most: usize| entries.div_ceil(most) as u64 * block;
        let mut length = lists(sectors.len(), self.fixed.blocks_per_list())
            + lists(revoked, self.fixed.blocks_per_list())
            + lists(inodes, self.fixed.inodes_per_list()).max(block);
        for sector in &sectors {
            let (_, bytes) = self.devvp.held(*sector).ok_or(Errno::EIO)?;
            length += bytes as u64;
        }
        // A log that is full cannot be told from one that is empty.
        if length >= self.ring.size - self.ring.used(header.head, header.tail) {
            log::error!(
                "{}: a transaction of {length} bytes does not fit into the log",
                self.devvp.name()
            );
            return Err(Errno::ENOSPC);
        }
        // Before the flush that makes it stable.
        let passed = passing.filter(|passing| self.devvp.is_in_place(passing.rank));
        let start = self.ring.advance(header.head, 0);
        let mut at = start;
        for list in sectors.chunks(self.fixed.blocks_per_list()) {
            at = self.write_blocks(at, list)?;
        }
        at = self.write_revocations(at)?;
        let inodes_at = at;
        at = self.write_inodes(at)?;
        specfs::flush(&**self.devvp.device())?;
        let tail = match passed {
            Some(passed) => passed.to,
            None if header.tail == 0 => start,
            None => header.tail,
        };
        self.write_header(Header {
            generation: header.generation.wrapping_add(1),
            head: at,
            tail,
        })?;
        let mut state = self.state.lock();
        if passed.is_some() {
            state.passing = None;
        }
        state.inodes_at = inodes_at;
        state.inodes_changed = false;
        state.revoked.clear();
        drop(state);
        self.devvp.release_held();
        Ok(())
    }

    /// Whether everything is to be written in place now: somebody wants it, or more than half of the ring is in use.
    fn wants_checkpoint(&self) -> bool {
        let mut state = self.state.lock();
        core::mem::take(&mut state.settles) || self.is_half_full(&state.header)
    }

    /// Whether there may be no room for the largest transaction.
    fn is_half_full(&self, header: &Header) -> bool {
        self.ring.used(header.head, header.tail) > self.ring.size / 2
    }

    /// Writes everything that is committed in place, and lets the log begin behind it. Nothing is held.
    fn checkpoint(&self) -> Result<(), Errno> {
        self.devvp.flush(Wait::Stable)?;
        let mut state = self.state.lock();
        state.passing = None;
        let Header {
            generation, head, ..
        } = state.header;
        let header = match state.inodes.is_empty() {
            true => Header {
                generation: generation.wrapping_add(1),
                ..Header::default()
            },
            false => Header {
                generation: generation.wrapping_add(1),
                head,
                tail: state.inodes_at,
            },
        };
        drop(state);
        self.write_header(header)
    }

    /// Writes a list of held buffers, with their contents. Answers where the next record goes.
    fn write_blocks(&self, at: u64, sectors: &[u64]) -> Result<u64, Errno> {
        let mut frames = kmem::try_vec(sectors.len() + 1)?;
        let mut head = Frame::alloc(Alloc::Wait)?;
        let mut len = self.fixed.block();
        let page = head.get_mut().ok_or(Errno::EIO)?;
        let bytes = &mut page[..self.fixed.block() as usize];
        bytes.fill(0);
        for (n, sector) in sectors.iter().enumerate() {
            let (frame, count) = self.devvp.held(*sector).ok_or(Errno::EIO)?;
            len += count as u64;
            self.fixed.encode_block(bytes, n, *sector, count as u32);
            frames.push(IoFrame {
                frame,
                offset: 0,
                len: count,
            });
        }
        let list = (raw::WC_BLOCKS, len, sectors.len(), false);
        self.fixed.encode_list(bytes, list);
        frames.insert(0, self.block_of(head));
        self.write_record(at, frames, len)
    }

    fn write_revocations(&self, mut at: u64) -> Result<u64, Errno> {
        let most = self.fixed.blocks_per_list();
        let count = self.state.lock().revoked.len();
        for from in (0..count).step_by(most) {
            let entries = most.min(count - from);
            let list = (raw::WC_REVOCATIONS, self.fixed.block(), entries, false);
            at = self.write_list(at, list, |fixed, bytes| {
                let state = self.state.lock();
                let revoked = state.revoked[from..].iter().take(entries);
                for (n, (sector, len)) in revoked.enumerate() {
                    fixed.encode_block(bytes, n, *sector, *len);
                }
            })?;
        }
        Ok(at)
    }

    /// The whole list of inodes; the first record says that it begins anew.
    fn write_inodes(&self, mut at: u64) -> Result<u64, Errno> {
        let most = self.fixed.inodes_per_list();
        let count = self.state.lock().inodes.len();
        for from in (0..count.max(1)).step_by(most) {
            let entries = most.min(count - from);
            let list = (raw::WC_INODES, self.fixed.block(), entries, from == 0);
            at = self.write_list(at, list, |fixed, bytes| {
                let state = self.state.lock();
                let inodes = state.inodes[from..].iter().take(entries);
                for (n, orphan) in inodes.enumerate() {
                    fixed.encode_inode(bytes, n, orphan.ino, orphan.mode);
                }
            })?;
        }
        Ok(at)
    }

    /// Writes a record of one block.
    fn write_list(
        &self,
        at: u64,
        list: (u32, u64, usize, bool),
        fill: impl FnOnce(&Fixed, &mut [u8]),
    ) -> Result<u64, Errno> {
        let mut frame = Frame::alloc(Alloc::Wait)?;
        let page = frame.get_mut().ok_or(Errno::EIO)?;
        let bytes = &mut page[..self.fixed.block() as usize];
        bytes.fill(0);
        fill(&self.fixed, bytes);
        self.fixed.encode_list(bytes, list);
        let mut frames = kmem::try_vec(1)?;
        frames.push(self.block_of(frame));
        self.write_record(at, frames, self.fixed.block())
    }

    fn block_of(&self, frame: Frame) -> IoFrame {
        IoFrame {
            frame,
            offset: 0,
            len: self.fixed.block() as usize,
        }
    }

    /// Writes a record of `len` bytes at position `at`, in two pieces if it straddles the end.
    fn write_record(&self, at: u64, frames: Vec<IoFrame>, len: u64) -> Result<u64, Errno> {
        let [(_, first), (start, _)] = self.ring.parts(at, len);
        let mut before = kmem::try_vec(frames.len() + 1)?;
        let mut behind = kmem::try_vec(frames.len() + 1)?;
        let mut left = first as usize;
        for io in frames {
            let here = io.len.min(left);
            left -= here;
            if here > 0 {
                before.push(IoFrame {
                    frame: io.frame.clone(),
                    offset: io.offset,
                    len: here,
                });
            }
            if here < io.len {
                behind.push(IoFrame {
                    offset: io.offset + here,
                    len: io.len - here,
                    frame: io.frame,
                });
            }
        }
        self.transfer(at, before)?;
        if !behind.is_empty() {
            self.transfer(start, behind)?;
        }
        Ok(self.ring.advance(at, len))
    }

    fn transfer(&self, at: u64, frames: Vec<IoFrame>) -> Result<(), Errno> {
        let sector = self.place.start + at / SECTOR_SIZE as u64;
        specfs::transfer(&**self.devvp.device(), BioOp::Write, sector, frames).1
    }

    /// If a header could not be written, writes one in its place that says what the one before it did: it does not count, whether
    /// it is there or not. Until then nothing is written to the log, for what it speaks of may count.
    fn take_back_unknown(&self) -> Result<(), Errno> {
        let state = self.state.lock();
        let taken_back = state.unknown.map(|generation| Header {
            generation,
            ..state.header
        });
        drop(state);
        taken_back.map_or(Ok(()), |header| self.write_header(header))
    }

    /// Writes a commit header, and remembers what it says. If that fails, nobody knows what counts.
    fn write_header(&self, header: Header) -> Result<(), Errno> {
        let mut frame = Frame::alloc(Alloc::Wait)?;
        let page = frame.get_mut().ok_or(Errno::EIO)?;
        let now = rumpkern::time::wall();
        let bytes = &mut page[..self.fixed.block() as usize];
        self.fixed
            .encode_header(bytes, &header, (now.seconds, now.nanos));
        let mut frames = kmem::try_vec(1)?;
        frames.push(self.block_of(frame));
        let slot = u64::from(header.generation % 2) << self.fixed.shift;
        let written = self
            .transfer(slot, frames)
            .and_then(|()| specfs::flush(&**self.devvp.device()));
        let mut state = self.state.lock();
        match written {
            Ok(()) => {
                state.header = header;
                state.unknown = None;
            }
            Err(errno) => {
                log::error!("{}: the log cannot be written: {errno}", self.devvp.name());
                state.unknown = Some(header.generation);
            }
        }
        written
    }
}
