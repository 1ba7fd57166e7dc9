//! Buffer cache: the metadata of file systems, by device and sector.
//!
//! A buffer is at most a page: [`MAX_BUF`] bytes. A file system with larger blocks reads the piece of
//! the block that it needs, the 4 KiB around an inode or a block pointer instead of 64 KiB, which costs less
//! of a small memory, and less of the disk.
//!
//! - [`Buf`]: the contents as they were when read. It shares the cache's page; a later change does not show.
//! - [`BufMut`]: the buffer to be changed, by one thread at a time; others wait. It ends with
//!   [`bwrite`](BufMut::bwrite) (and waits for the disk), [`bawrite`](BufMut::bawrite) (starts), or
//!   [`bdwrite`](BufMut::bdwrite) (later: at a flush, or when room is needed). Everything that is ever written
//!   goes through one function, `start_write`.
//!
//! The number of buffers is fixed when the cache is made: about 5 % of the memory there is. When none can be
//! had, because all are being read or written, a reader reads past the cache.
//!
//! A thread that has a [`BufMut`] must not ask for the same buffer again. One that takes several takes them in an
//! order of the file system's.
//!
//! Locks: the table's lock is a leaf. Nothing waits under it, allocates, or calls a device: completions
//! of writes and the page daemon take it.
//!
//! Source: bread(9), for the names and what they mean.

use crate::hash::Seed;
use crate::lru::LruMap;
use crate::specfs::{self, BlockIo};
use crate::vnode::Wait;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};
use rumpkern::kmem;
use rumpkern::locks::{Condvar, Mutex, MutexGuard};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

/// The largest buffer, in bytes: one page.
pub const MAX_BUF: usize = PAGE_SIZE;

/// Device and sector.
type Key = (u64, u64);

struct Entry {
    bytes: usize,
    /// `None`: the buffer is busy. It is being read, written, or changed.
    frame: Option<Frame>,
    /// The disk does not have these contents yet.
    dirty: bool,
    /// The device, as long as it has to be written.
    device: Option<Arc<dyn BlockIo>>,
}

struct State {
    table: LruMap<Key, Entry>,
    dirty: usize,
    writing: usize,
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
}

/// The cache of a kernel.
pub struct BufCache {
    state: Mutex<State>,
    /// A buffer is no longer busy.
    settled: Condvar,
    hits: AtomicU64,
    misses: AtomicU64,
    writes: AtomicU64,
    evictions: AtomicU64,
}

/// Why the cache cannot hand out an entry at once.
enum Found {
    Frame(Frame, usize),
    /// A place was made for it, marked busy: the caller fills it.
    Place,
    /// There is no place, and none can be made.
    Full,
}

impl BufCache {
    /// A cache of `capacity` buffers; its table's hashes depend on `key`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(capacity: usize, key: [u64; 2]) -> Result<Arc<BufCache>, Errno> {
        Ok(Arc::new(BufCache {
            state: Mutex::new(State {
                table: LruMap::with_capacity(capacity.max(4), Seed::new(key))?,
                dirty: 0,
                writing: 0,
            }),
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
            capacity: state.table.capacity(),
            dirty: state.dirty,
        }
    }

    /// Finds the buffer of `key`, or makes a place for it. Waits while it is busy.
    fn find(self: &Arc<Self>, key: Key, bytes: usize) -> Found {
        let mut state = self.state.lock();
        loop {
            match state.table.peek(&key) {
                Some(Entry {
                    frame: Some(frame),
                    bytes: cached,
                    ..
                }) if *cached >= bytes => {
                    let found = Found::Frame(frame.clone(), bytes);
                    state.table.touch(&key);
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    return found;
                }
                Some(Entry { frame: Some(_), .. }) => {
                    // The same place as a shorter buffer: that one goes.
                    state = self.retire(state, key);
                }
                Some(Entry { frame: None, .. }) => state = self.settled.wait(state),
                None => break,
            }
        }
        loop {
            let entry = Entry {
                bytes,
                frame: None,
                dirty: false,
                device: None,
            };
            if state.table.insert(key, entry).is_ok() {
                return Found::Place;
            }
            let idle = |(_, entry): &(&Key, &Entry)| entry.frame.is_some();
            let clean = |found: &(&Key, &Entry)| idle(found) && !found.1.dirty;
            let oldest = state.table.oldest_first().find(clean);
            let oldest = oldest.or_else(|| state.table.oldest_first().find(idle));
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                return Found::Full;
            };
            state = self.retire(state, oldest);
            if state.table.peek(&key).is_some() {
                // Another thread made it while the lock was free.
                drop(state);
                return self.find(key, bytes);
            }
        }
    }

    /// Drops the buffer of `key`, which is not busy; writes it first if it is dirty.
    fn retire<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        key: Key,
    ) -> MutexGuard<'a, State> {
        let dirty = state.table.peek(&key).is_some_and(|entry| entry.dirty);
        if !dirty {
            let gone = state.table.remove(&key);
            self.evictions.fetch_add(1, Ordering::Relaxed);
            drop(state);
            drop(gone);
            return self.state.lock();
        }
        let taken = take(&mut state, &key);
        drop(state);
        if let Some((device, frame, bytes)) = taken {
            self.start_write(device, key, frame, bytes);
        }
        let mut state = self.state.lock();
        while state
            .table
            .peek(&key)
            .is_some_and(|entry| entry.frame.is_none())
        {
            state = self.settled.wait(state);
        }
        if state.table.peek(&key).is_some_and(|entry| entry.dirty) {
            // It cannot be written. Its contents go, for the disk is no longer what was mounted.
            log::error!("buffer at sector {} is lost: it cannot be written", key.1);
            state.dirty -= 1;
            state.table.remove(&key);
        }
        state
    }

    /// Settles a busy buffer.
    fn settle(&self, key: Key, frame: Frame, dirty: Option<Arc<dyn BlockIo>>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(entry) = state.table.peek_mut(&key) {
            entry.frame = Some(frame);
            let now = dirty.is_some();
            state.dirty = state.dirty + usize::from(now) - usize::from(entry.dirty);
            entry.dirty = now;
            entry.device = dirty;
        }
        state.table.touch(&key);
        drop(guard);
        self.settled.notify_all();
    }

    /// Forgets a busy buffer.
    fn abandon(&self, key: Key) {
        let mut guard = self.state.lock();
        if let Some(entry) = guard.table.remove(&key) {
            guard.dirty -= usize::from(entry.dirty);
        }
        drop(guard);
        self.settled.notify_all();
    }

    /// Starts writing a busy buffer, which settles when that is done.
    fn start_write(
        self: &Arc<Self>,
        device: Arc<dyn BlockIo>,
        key: Key,
        frame: Frame,
        bytes: usize,
    ) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.state.lock().writing += 1;
        let (cache, theirs, kept) = (self.clone(), device.clone(), frame.clone());
        let bio = Bio {
            op: BioOp::Write,
            sector: key.1,
            frames: alloc::vec![IoFrame {
                frame,
                offset: 0,
                len: bytes,
            }],
            done: Box::new(move |frames, result| {
                drop(frames);
                cache.written(theirs, key, kept, result);
            }),
        };
        if let Err((errno, bio)) = device.start(bio) {
            (bio.done)(bio.frames, Err(errno));
        }
    }

    fn written(&self, device: Arc<dyn BlockIo>, key: Key, frame: Frame, result: Result<(), Errno>) {
        if let Err(errno) = result {
            log::error!(
                "{}: sector {} could not be written: {errno}",
                device.name(),
                key.1
            );
        }
        self.state.lock().writing -= 1;
        self.settle(key, frame, result.is_err().then_some(device));
    }

    /// Writes every dirty buffer of `device`.
    fn flush(self: &Arc<Self>, device: &Arc<dyn BlockIo>, wait: Wait) -> Result<(), Errno> {
        let mut after = None;
        let mut tried = 0;
        loop {
            let mut state = self.state.lock();
            // By sector, each once: one that cannot be written stays dirty.
            let dirty = state.table.oldest_first().filter(|(key, entry)| {
                key.0 == device.dev() && entry.dirty && entry.frame.is_some() && Some(**key) > after
            });
            let Some(key) = dirty.map(|(key, _)| *key).min() else {
                break;
            };
            let taken = take(&mut state, &key);
            drop(state);
            if let Some((device, frame, bytes)) = taken {
                self.start_write(device, key, frame, bytes);
                tried += 1;
            }
            after = Some(key);
        }
        if wait == Wait::Started || tried == 0 {
            return Ok(());
        }
        let mut state = self.state.lock();
        while state.writing > 0 {
            state = self.settled.wait(state);
        }
        let failed = state
            .table
            .oldest_first()
            .any(|(key, entry)| key.0 == device.dev() && entry.dirty && Some(*key) <= after);
        if failed { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Forgets every buffer of device `dev`, dirty or not, after what is under way.
    fn forget(&self, dev: u64) {
        let mut state = self.state.lock();
        loop {
            let found = state.table.oldest_first().find(|(key, _)| key.0 == dev);
            let Some((&key, entry)) = found else {
                return;
            };
            if entry.frame.is_none() {
                state = self.settled.wait(state);
                continue;
            }
            state.dirty -= usize::from(entry.dirty);
            state.table.remove(&key);
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
                !entry.dirty && entry.frame.as_ref().is_some_and(Frame::is_unique)
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

/// Takes the frame out of a dirty buffer, which is busy then.
fn take(state: &mut MutexGuard<'_, State>, key: &Key) -> Option<(Arc<dyn BlockIo>, Frame, usize)> {
    let entry = state.table.peek_mut(key)?;
    let device = entry.device.clone()?;
    Some((device, entry.frame.take()?, entry.bytes))
}

/// A file system's way to the metadata on its device (`um_devvp`): cheap to clone.
#[derive(Clone)]
pub struct Devvp {
    cache: Arc<BufCache>,
    device: Arc<dyn BlockIo>,
}

impl Devvp {
    /// The way to `device` through `cache`.
    pub fn new(cache: Arc<BufCache>, device: Arc<dyn BlockIo>) -> Devvp {
        Devvp { cache, device }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn BlockIo> {
        &self.device
    }

    /// The device's name, such as `"ld0a"`.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// Capacity in units of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.device.info().sectors
    }

    fn key(&self, sector: u64, bytes: usize) -> Result<Key, Errno> {
        let fits = bytes > 0
            && bytes <= MAX_BUF
            && bytes.is_multiple_of(SECTOR_SIZE)
            && sector
                .checked_add((bytes / SECTOR_SIZE) as u64)
                .is_some_and(|end| end <= self.sectors());
        if !fits {
            return Err(Errno::EINVAL);
        }
        Ok((self.device.dev(), sector))
    }

    /// The `bytes` bytes (a multiple of 512, up to [`MAX_BUF`]) at `sector`, from the cache or
    /// the device.
    ///
    /// # Errors
    /// `EINVAL`: beyond the end of the device, or a size that is none. `EIO`: the device's error.
    pub fn bread(&self, sector: u64, bytes: usize) -> Result<Buf, Errno> {
        let key = self.key(sector, bytes)?;
        let placed = match self.cache.find(key, bytes) {
            Found::Frame(frame, len) => return Ok(Buf { frame, len }),
            Found::Place => true,
            Found::Full => false,
        };
        match self.read(key, bytes) {
            Ok(frame) => {
                if placed {
                    self.cache.settle(key, frame.clone(), None);
                }
                Ok(Buf { frame, len: bytes })
            }
            Err(errno) => {
                if placed {
                    self.cache.abandon(key);
                }
                Err(errno)
            }
        }
    }

    fn read(&self, key: Key, bytes: usize) -> Result<Frame, Errno> {
        self.cache.misses.fetch_add(1, Ordering::Relaxed);
        let mut frames = kmem::try_vec(1)?;
        frames.push(IoFrame {
            frame: Frame::alloc(Alloc::Wait)?,
            offset: 0,
            len: bytes,
        });
        let (mut frames, result) = specfs::transfer(&*self.device, BioOp::Read, key.1, frames);
        result?;
        frames.pop().map(|io| io.frame).ok_or(Errno::EIO)
    }

    /// The same buffer, to be changed by this thread alone.
    ///
    /// # Errors
    /// As [`Devvp::bread`]. `ENOMEM`.
    pub fn bmodify(&self, sector: u64, bytes: usize) -> Result<BufMut, Errno> {
        self.take(sector, bytes, true)
    }

    /// A buffer to be written over: its contents are zeroes, nothing is read.
    ///
    /// # Errors
    /// As [`Devvp::bread`]. `ENOMEM`.
    pub fn getblk(&self, sector: u64, bytes: usize) -> Result<BufMut, Errno> {
        let mut buf = self.take(sector, bytes, false)?;
        buf.fill(0);
        Ok(buf)
    }

    fn take(&self, sector: u64, bytes: usize, contents: bool) -> Result<BufMut, Errno> {
        let key = self.key(sector, bytes)?;
        // For a buffer that is lent, or new. Taken before the buffer is: nobody shall wait for it in vain.
        let mut spare = Frame::alloc(Alloc::Wait)?;
        loop {
            match self.cache.find(key, bytes) {
                Found::Frame(frame, _) => drop(frame),
                Found::Place => {
                    let frame = if contents {
                        self.read(key, bytes)
                    } else {
                        Ok(spare)
                    };
                    return match frame {
                        Ok(frame) => Ok(self.own(key, bytes, frame)),
                        Err(errno) => {
                            self.cache.abandon(key);
                            Err(errno)
                        }
                    };
                }
                Found::Full => {
                    let state = self.cache.state.lock();
                    drop(self.cache.settled.wait(state));
                    continue;
                }
            }
            let mut state = self.cache.state.lock();
            let Some(entry) = state.table.peek_mut(&key) else {
                continue;
            };
            let bytes = entry.bytes;
            let Some(frame) = entry.frame.take() else {
                continue;
            };
            drop(state);
            if frame.is_unique() {
                return Ok(self.own(key, bytes, frame));
            }
            if let Some(copy) = spare.get_mut() {
                copy.copy_from_slice(frame.as_bytes());
            }
            return Ok(self.own(key, bytes, spare));
        }
    }

    fn own(&self, key: Key, bytes: usize, frame: Frame) -> BufMut {
        BufMut {
            devvp: self.clone(),
            key,
            bytes,
            frame: Some(frame),
            touched: false,
        }
    }

    /// Writes every dirty buffer of the device, and the device's own cache.
    ///
    /// # Errors
    /// `EIO` if something could not be written.
    pub fn flush(&self, wait: Wait) -> Result<(), Errno> {
        self.cache.flush(&self.device, wait)?;
        match wait {
            Wait::Stable => specfs::flush(&*self.device),
            Wait::Started => Ok(()),
        }
    }

    /// Forgets every buffer of the device: after unmounting.
    pub(crate) fn forget(&self) {
        self.cache.forget(self.device.dev());
    }
}

/// The contents of a piece of metadata, as they were when it was read: a later change by a
/// writer does not show in it.
pub struct Buf {
    frame: Frame,
    len: usize,
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame.as_bytes()[..self.len]
    }
}

/// A piece of metadata that this thread may change. Dropped after a change, it is written later
/// ([`bdwrite`](BufMut::bdwrite)).
pub struct BufMut {
    devvp: Devvp,
    key: Key,
    bytes: usize,
    /// `None` once it is on its way.
    frame: Option<Frame>,
    touched: bool,
}

impl BufMut {
    /// Writes it, and waits until the device has it.
    ///
    /// # Errors
    /// `EIO`; the buffer stays dirty, and later flushes try again.
    pub fn bwrite(mut self) -> Result<(), Errno> {
        let Some(frame) = self.frame.take() else {
            return Ok(());
        };
        let cache = &self.devvp.cache;
        cache.writes.fetch_add(1, Ordering::Relaxed);
        let mut frames = match kmem::try_vec(1) {
            Ok(frames) => frames,
            Err(errno) => {
                cache.settle(self.key, frame, Some(self.devvp.device.clone()));
                return Err(errno);
            }
        };
        frames.push(IoFrame {
            frame: frame.clone(),
            offset: 0,
            len: self.bytes,
        });
        let device = &self.devvp.device;
        let (frames, result) = specfs::transfer(&**device, BioOp::Write, self.key.1, frames);
        drop(frames);
        let dirty = result.is_err().then(|| device.clone());
        cache.settle(self.key, frame, dirty);
        result
    }

    /// Starts writing it.
    pub fn bawrite(mut self) {
        if let Some(frame) = self.frame.take() {
            let device = self.devvp.device.clone();
            self.devvp
                .cache
                .start_write(device, self.key, frame, self.bytes);
        }
    }

    /// It is written later. At once, though without waiting, if half of all buffers are dirty already.
    pub fn bdwrite(mut self) {
        self.delay();
    }

    fn delay(&mut self) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let cache = &self.devvp.cache;
        let state = cache.state.lock();
        let many = state.dirty + state.writing > state.table.capacity() / 2;
        drop(state);
        let device = self.devvp.device.clone();
        if many {
            cache.start_write(device, self.key, frame, self.bytes);
        } else {
            cache.settle(self.key, frame, Some(device));
        }
    }
}

impl Deref for BufMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.frame {
            Some(frame) => &frame.as_bytes()[..self.bytes],
            None => &[],
        }
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.touched = true;
        match self.frame.as_mut().and_then(Frame::get_mut) {
            Some(bytes) => &mut bytes[..self.bytes],
            None => &mut [],
        }
    }
}

impl Drop for BufMut {
    fn drop(&mut self) {
        if self.frame.is_none() {
            return;
        }
        if self.touched {
            self.delay();
            return;
        }
        let Some(frame) = self.frame.take() else {
            return;
        };
        let cache = &self.devvp.cache;
        let state = cache.state.lock();
        let device = state
            .table
            .peek(&self.key)
            .and_then(|entry| entry.device.clone());
        drop(state);
        cache.settle(self.key, frame, device);
    }
}
