//! Buffer cache: the metadata of file systems, by device and sector.
//!
//! A buffer is at most a page: [`MAX_BUF`] bytes. A file system with larger blocks reads the piece of
//! the block that it needs, the 4 KiB around an inode or a block pointer instead of 64 KiB, which costs less
//! of a small memory, and less of the disk.
//!
//! - [`Buf`]: the contents as they were when read. It shares the cache's page; a later change does not show.
//! - [`BufMut`]: the buffer to be changed, by one thread at a time; others wait. It ends with
//!   [`bwrite`](BufMut::bwrite) (and waits for the disk) or [`bdwrite`](BufMut::bdwrite) (later: at a flush, or when
//!   room is needed). Everything that is ever written starts in `write.rs`.
//!
//! The number of buffers is fixed when the cache is made: about 5 % of the memory there is. When none can be
//! had, because all are being read or written, a reader reads past the cache.
//!
//! A buffer that cannot be written stays dirty, for what it holds is nowhere else: flushes try again, and answer
//! the reason (`EIO`, `ENOMEM`) as long as there is one. When such buffers are all that is left, others can be read, past the cache, but not
//! changed.
//!
//! # Order
//!
//! Without a log, what is on the disk after a crash depends on the order of writes. A file system says
//! with a change which other buffers, changed before, have to be on the disk before this one
//! ([`bmodify_after`](Devvp::bmodify_after)), and goes on without waiting. Each dirty buffer has a *rank*: it is written
//! only when no buffer of the device with a lower one is dirty. A change that must come after buffers of rank `r` makes its
//! buffer one of at least `r + 1`. A buffer that is dirty already with a lower rank cannot be changed so: it is written
//! first, with all that comes before it. What becomes dirty while buffers up to some rank are being written gets a
//! higher one, so this ends. A buffer that could not be written holds nobody else back. Where writes are held for a
//! transaction, that is what orders them. A device that has a cache is told to empty it between two ranks; a buffer that is
//! clean, but may be in such a cache only, counts with the rank that it was written with.
//!
//! The ranks are in `order.rs`, with all that writes more than one buffer: neighbours of a rank go in one request. What
//! devices' caches may hold is in `volatile.rs`.
//!
//! # Buffers of a transaction
//!
//! What is changed through a way that [holds](Devvp::hold) its writes is *held*: neither written in place nor dropped,
//! however it ended, until the log has it on the disk and [releases](Devvp::release_held) it. Then it is dirty like
//! any other. Held buffers come on top of the others, up to a number that is fixed as well
//! ([`BufCache::most_held`]); they count as memory in use like all pages. Whoever holds sees to it that the number
//! suffices: beyond it, and a margin, a buffer cannot be had (`ENOBUFS`).
//!
//! A thread that has a [`BufMut`] must not ask for the same buffer again. One that takes several takes them in an
//! order of the file system's.
//!
//! Locks: the table's lock is a leaf. Nothing waits under it, allocates, or calls a device: completions
//! of writes and the page daemon take it.
//!
//! Source: bread(9), for the names and what they mean.

mod buf;
mod held;
mod order;
mod volatile;
mod write;

pub use buf::{Buf, BufMut, Devvp};

use crate::lru::LruMap;
use crate::specfs::BlockIo;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::hash::HashKey;
use rumpkern::kmem;
use rumpkern::locks::{Condvar, Mutex, MutexGuard};
use rumpkern::lwp::{self, MemoryUse};
use rumpkern::uvm::Frame;
use rumpkern::uvm::dma::IoFrame;
use rumpuser::{Errno, PAGE_SIZE};
use volatile::Volatile;

/// The largest buffer, in bytes: one page.
pub const MAX_BUF: usize = PAGE_SIZE;

/// Buffers that may be held at least, however small the memory: what a rename on a volume with large blocks needs.
const LEAST_HELD: usize = 64;
/// Places beyond, for operations that need more than they said.
const HELD_MARGIN: usize = 32;

/// Devices whose caches are flushed no oftener than need be.
const STABLE: usize = 8;

/// Device and sector.
type Key = (u64, u64);

struct Entry {
    bytes: usize,
    /// `None`: the buffer is busy. It is being read, written, or changed.
    frame: Option<Frame>,
    /// The disk does not have these contents yet.
    dirty: bool,
    /// Why the last attempt to write it failed.
    failed: Option<Errno>,
    /// It is part of a transaction that is not on the disk yet; then it does not count as dirty.
    held: bool,
    /// The device, as long as it has to be written.
    device: Option<Arc<dyn BlockIo>>,
    /// While it is dirty: buffers with lower ones are written before it. Then the one it was written with, or a higher one.
    rank: u64,
    /// The number of the flush that tried to write it last.
    tried: u64,
}

struct State {
    table: LruMap<Key, Entry>,
    dirty: usize,
    writing: usize,
    held: usize,
    /// The rank of what becomes dirty with nothing before it.
    base: u64,
    /// The highest rank so far.
    top: u64,
    /// Buffers so far that became dirty with a lower rank than the highest.
    lower: u64,
    /// Flushes so far.
    flushes: u64,
    volatile: Volatile,
    /// Dirty buffers cannot be written before others are: looked for in vain since the last was.
    stuck: bool,
}

impl State {
    /// Buffers that are not held.
    fn others(&self) -> usize {
        self.table.len() - self.held
    }

    /// Takes an entry out.
    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let gone = self.table.remove(key)?;
        self.dirty -= usize::from(gone.dirty);
        self.held -= usize::from(gone.held);
        Some(gone)
    }
}

impl Entry {
    /// Whether it can make room for another.
    fn may_go(&self) -> bool {
        self.frame.is_some() && self.failed.is_none() && !self.held
    }
}

/// What the buffer cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufStats {
    /// Buffers found.
    pub hits: u64,
    /// Buffers that had to be read.
    pub misses: u64,
    /// Buffers written.
    pub writes: u64,
    /// Buffers dropped to make room, or for the page daemon.
    pub evictions: u64,
    /// Buffers there are.
    pub buffers: usize,
    /// Buffers there can be.
    pub capacity: usize,
    /// Buffers whose contents the disk does not have yet.
    pub dirty: usize,
    /// Those of them that could not be written so far.
    pub failed: usize,
    /// Buffers that a transaction holds: they are not dirty yet.
    pub held: usize,
}

/// The cache of a kernel.
pub struct BufCache {
    state: Mutex<State>,
    /// How many buffers there can be that are not held.
    capacity: usize,
    most_held: usize,
    /// A buffer is no longer busy.
    settled: Condvar,
    hits: AtomicU64,
    misses: AtomicU64,
    writes: AtomicU64,
    evictions: AtomicU64,
}

/// What becomes of a buffer that was busy.
enum Settled {
    /// As it was before.
    Same,
    /// The disk has these contents.
    Clean,
    /// The disk is to have them, not before those of lower ranks than this one.
    Dirty(Arc<dyn BlockIo>, u64),
    /// The disk did not take them, or there was no memory to ask it.
    Failed(Arc<dyn BlockIo>, Errno),
    /// The disk is to have them once a transaction is there.
    Held(Arc<dyn BlockIo>),
}

impl Settled {
    /// After it was written to `device`.
    fn after(result: Result<(), Errno>, device: Arc<dyn BlockIo>) -> Settled {
        match result {
            Ok(()) => Settled::Clean,
            Err(errno) => Settled::Failed(device, errno),
        }
    }
}

/// What was found of a buffer.
enum Found {
    Frame(Frame),
    /// A place was made for it, marked busy: the caller fills it.
    Place,
    /// There is no place: all buffers are busy, or held, or cannot be written.
    Full,
    /// Room could not be made: a dirty buffer cannot be written.
    Error(Errno),
}

impl BufCache {
    /// A cache of `capacity` buffers; its table's hashes depend on `key`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(capacity: usize, key: [u64; 2]) -> Result<Arc<BufCache>, Errno> {
        let capacity = capacity.max(4);
        let most_held = capacity.max(LEAST_HELD);
        let places = capacity + most_held + HELD_MARGIN;
        Ok(Arc::new(BufCache {
            state: Mutex::new(State {
                table: LruMap::with_capacity(places, HashKey::new(key))?,
                dirty: 0,
                writing: 0,
                held: 0,
                base: 1,
                top: 0,
                lower: 0,
                flushes: 0,
                volatile: Volatile::new(),
                stuck: false,
            }),
            capacity,
            most_held,
            settled: Condvar::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
        }))
    }

    /// The counters.
    pub fn stats(&self) -> BufStats {
        let state = self.state.lock();
        BufStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            buffers: state.table.len(),
            capacity: self.capacity,
            dirty: state.dirty,
            failed: state
                .table
                .oldest_first()
                .filter(|it| it.1.failed.is_some())
                .count(),
            held: state.held,
        }
    }

    /// Finds the buffer of `key`, or makes a place for it. Waits while it is busy.
    fn find(self: &Arc<Self>, key: Key, bytes: usize) -> Found {
        let mut state = self.state.lock();
        loop {
            match state.table.peek(&key) {
                // Who has it may wait for the page daemon to free memory.
                Some(Entry { frame: None, .. }) if is_page_daemon() => {
                    return Found::Error(Errno::EDEADLK);
                }
                Some(Entry { frame: None, .. }) => {
                    state = self.settled.wait(state);
                    continue;
                }
                Some(Entry {
                    frame: Some(frame),
                    bytes: cached,
                    ..
                }) => {
                    if *cached >= bytes {
                        let found = Found::Frame(frame.clone());
                        state.table.touch(&key);
                        self.hits.fetch_add(1, Ordering::Relaxed);
                        return found;
                    }
                    // The same place as a shorter buffer: that one goes, which no file system asks of one it holds.
                    if state.table.peek(&key).is_some_and(|entry| entry.held) {
                        return Found::Error(Errno::EBUSY);
                    }
                    let before = match state.table.peek(&key) {
                        Some(entry) if entry.dirty && entry.failed.is_none() => {
                            entry.device.clone().zip(Some(entry.rank))
                        }
                        _ => None,
                    };
                    if let Some((device, rank)) = before {
                        drop(state);
                        self.write_ranks(&device, rank);
                        state = self.state.lock();
                        continue;
                    }
                    let gone = self.retire(state, key);
                    state = match gone {
                        Ok(state) => state,
                        Err(errno) => return Found::Error(errno),
                    };
                    continue;
                }
                None => {}
            }
            let entry = Entry {
                bytes,
                frame: None,
                dirty: false,
                failed: None,
                held: false,
                device: None,
                // It was here before, perhaps.
                rank: state.volatile.highest(key.0),
                tried: 0,
            };
            if state.others() < self.capacity && state.table.insert(key, entry).is_ok() {
                return Found::Place;
            }
            let may_go = |(_, entry): &(&Key, &Entry)| entry.may_go();
            let clean = |found: &(&Key, &Entry)| may_go(found) && !found.1.dirty;
            let oldest = state.table.oldest_first().find(clean);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                let gone = state.remove(&oldest);
                self.evictions.fetch_add(1, Ordering::Relaxed);
                drop(state);
                drop(gone);
                state = self.state.lock();
                continue;
            }
            let dirty = state.table.oldest_first().find(may_go);
            let device = dirty.and_then(|(_, entry)| entry.device.clone());
            let Some(device) = device.filter(|_| !is_page_daemon()) else {
                return Found::Full;
            };
            drop(state);
            self.write_some(&device);
            state = self.wait_for_a_write(&device);
        }
    }

    /// Drops the buffer of `key`, which is not busy. If it is dirty, writes it, and leaves it to the caller to look again.
    fn retire<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        key: Key,
    ) -> Result<MutexGuard<'a, State>, Errno> {
        if state.table.peek(&key).is_some_and(|entry| entry.dirty) {
            let taken = take(&mut state, &key);
            drop(state);
            if let Some((device, frame, bytes)) = taken {
                self.write(device, key, frame, bytes)?;
            }
            return Ok(self.state.lock());
        }
        let gone = state.table.remove(&key);
        self.evictions.fetch_add(1, Ordering::Relaxed);
        drop(state);
        drop(gone);
        Ok(self.state.lock())
    }

    /// Waits until not all buffers are busy. If those that are not cannot be written, tries the oldest of them again.
    ///
    /// # Errors
    /// The device's, if that fails. `ENOBUFS`: all are held.
    fn wait_for_room(self: &Arc<Self>) -> Result<(), Errno> {
        let mut state = self.state.lock();
        while state.others() >= self.capacity || state.table.len() == state.table.capacity() {
            let idle = |(_, entry): &(&Key, &Entry)| entry.frame.is_some() && !entry.held;
            let oldest = state.table.oldest_first().find(idle);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                if state.others() == 0 {
                    log::error!("a transaction has more buffers than there are places for");
                    return Err(Errno::ENOBUFS);
                }
                state = self.settled.wait(state);
                continue;
            };
            if state.table.oldest_first().any(|(_, entry)| entry.may_go()) {
                return Ok(());
            }
            if state.writing > 0 {
                state = self.settled.wait(state);
                continue;
            }
            return self.retire(state, oldest).map(drop);
        }
        Ok(())
    }

    /// Settles a busy buffer. Answers whether so many are dirty that some should be written.
    fn settle(&self, key: Key, frame: Frame, how: Settled) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut ranked = None;
        if let Some(entry) = state.table.peek_mut(&key) {
            entry.frame = Some(frame);
            let was = (entry.dirty, entry.held);
            match how {
                Settled::Same => {}
                Settled::Clean => {
                    (entry.dirty, entry.failed) = (false, None);
                    entry.device = None;
                }
                Settled::Dirty(device, after) => {
                    if !entry.dirty {
                        entry.rank = after.max(state.base);
                        ranked = Some(entry.rank);
                    }
                    entry.dirty = true;
                    entry.device = Some(device);
                }
                Settled::Failed(device, errno) => {
                    (entry.dirty, entry.failed) = (true, Some(errno));
                    entry.device = Some(device);
                }
                Settled::Held(device) => {
                    (entry.dirty, entry.failed, entry.held) = (false, None, true);
                    entry.device = Some(device);
                }
            }
            state.dirty = state.dirty + usize::from(entry.dirty) - usize::from(was.0);
            state.held = state.held + usize::from(entry.held) - usize::from(was.1);
        }
        if let Some(rank) = ranked {
            state.ranked(rank);
        }
        state.table.touch(&key);
        let are_many = self.are_many_dirty(state) && !state.stuck;
        drop(guard);
        self.settled.notify_all();
        are_many
    }

    /// Whether more than half of all buffers are dirty. Those being written are not counted, although they are.
    fn are_many_dirty(&self, state: &State) -> bool {
        state.dirty.saturating_sub(state.writing) > self.capacity / 2
    }

    /// Forgets a busy buffer.
    fn abandon(&self, key: Key) {
        let mut guard = self.state.lock();
        let gone = guard.remove(&key);
        drop(guard);
        drop(gone);
        self.settled.notify_all();
    }

    /// Forgets the buffer of `key`, dirty or not, after what is under way.
    fn invalidate(&self, key: Key) {
        let mut state = self.state.lock();
        while let Some(entry) = state.table.peek(&key) {
            if entry.frame.is_none() {
                state = self.settled.wait(state);
                continue;
            }
            let gone = state.remove(&key);
            drop(state);
            drop(gone);
            return;
        }
    }

    /// Forgets every buffer of device `dev`, dirty or not, after what is under way.
    fn forget(&self, dev: u64) {
        let mut state = self.state.lock();
        loop {
            let found = state.table.oldest_first().find(|(key, _)| key.0 == dev);
            let Some((&key, entry)) = found else {
                state.volatile.forget(dev);
                return;
            };
            if entry.frame.is_none() {
                state = self.settled.wait(state);
                continue;
            }
            state.remove(&key);
        }
    }

    /// Gives clean buffers back, the oldest first, without waiting: about `want` pages.
    pub(crate) fn drain(&self, want: usize) -> usize {
        let mut freed = 0;
        while freed < want {
            let Some(mut state) = self.state.try_lock() else {
                break;
            };
            let clean = |(_, entry): &(&Key, &Entry)| {
                let is_clean = !entry.dirty && !entry.held;
                is_clean && entry.frame.as_ref().is_some_and(Frame::is_unique)
            };
            let Some(key) = state.table.oldest_first().find(clean).map(|(key, _)| *key) else {
                break;
            };
            let gone = state.table.remove(&key);
            drop(state);
            drop(gone);
            self.evictions.fetch_add(1, Ordering::Relaxed);
            freed += 1;
        }
        freed
    }
}

/// The front of a frame, as what a request moves.
fn one(frame: Frame, len: usize) -> Result<Vec<IoFrame>, Errno> {
    let mut frames = kmem::try_vec(1)?;
    frames.push(IoFrame {
        frame,
        offset: 0,
        len,
    });
    Ok(frames)
}

/// Whether the caller may wait for nobody: it reads past the cache where it must, with memory kept for it.
fn is_page_daemon() -> bool {
    lwp::memory_use() == Some(MemoryUse::Reserve)
}

/// Takes the frame out of a dirty buffer, which is busy then.
fn take(state: &mut MutexGuard<'_, State>, key: &Key) -> Option<(Arc<dyn BlockIo>, Frame, usize)> {
    let entry = state.table.peek_mut(key)?;
    let device = entry.device.clone()?;
    Some((device, entry.frame.take()?, entry.bytes))
}
