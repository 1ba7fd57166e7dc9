//! Buffers, and a file system's way to them.

use super::order::Before;
use super::{BufCache, Found, Key, MAX_BUF, Settled, one};
use crate::specfs::{self, BlockIo};
use crate::vnode::Wait;
use crate::wapbl::Replay;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use rumpkern::kmem;
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::BioOp;
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{Errno, SECTOR_SIZE};

/// A part of a buffer.
#[derive(Clone, Copy)]
struct Place {
    key: Key,
    /// Bytes of the buffer.
    whole: usize,
    /// Where the part begins, and how long it is.
    offset: usize,
    len: usize,
}

impl Place {
    fn range(&self) -> core::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// A file system's way to the metadata on its device (`um_devvp`): cheap to clone.
#[derive(Clone)]
pub struct Devvp {
    cache: Arc<BufCache>,
    device: Arc<dyn BlockIo>,
    /// What is changed is held; the same for all clones.
    holds: Arc<AtomicBool>,
    /// A log that was not replayed on the disk: what is read is as if it had been.
    replay: Arc<Mutex<Option<Arc<Replay>>>>,
}

impl Devvp {
    /// The way to `device` through `cache`.
    pub fn new(cache: Arc<BufCache>, device: Arc<dyn BlockIo>) -> Devvp {
        Devvp {
            cache,
            device,
            holds: Arc::new(AtomicBool::new(false)),
            replay: Arc::new(Mutex::new(None)),
        }
    }

    /// From now on, what is read through this way or a clone of it is as if `replay` were on the disk. What the cache has of
    /// the device is forgotten.
    pub fn show(&self, replay: Option<Arc<Replay>>) {
        *self.replay.lock() = replay;
        self.forget();
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<BufCache> {
        &self.cache
    }

    /// From now on, whether what is changed through this way or a clone of it is held, as part of a transaction.
    pub fn hold(&self, holds: bool) {
        self.holds.store(holds, Ordering::Release);
    }

    /// Whether what is changed is held.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }

    /// Adds the sectors of the held buffers of the device to `sectors`, in any order, as far as that has room
    /// without allocating.
    pub fn list_held(&self, sectors: &mut Vec<u64>) {
        self.cache.list_held(self.device.dev(), sectors);
    }

    /// The contents of the held buffer at `sector`, once nobody changes it, and how many bytes of them count.
    pub fn held(&self, sector: u64) -> Option<(Frame, usize)> {
        self.cache.held((self.device.dev(), sector))
    }

    /// The transaction is on the disk: what was held may be written in place. Answers how many buffers these are.
    pub fn release_held(&self) -> usize {
        self.cache.release_held(self.device.dev())
    }

    /// Starts writing in place what is dirty, as far as nobody changes it just now; it is all of one rank, as where writes are
    /// held. Answers that rank: [`is_in_place`](Devvp::is_in_place) tells when it is done. Waits for nothing but, perhaps, a flush.
    pub fn start_dirty(&self) -> u64 {
        self.cache.start_dirty(&self.device)
    }

    /// Whether everything that was released with a rank of at most `rank` has been written in place since, or is held anew.
    pub fn is_in_place(&self, rank: u64) -> bool {
        self.cache.is_in_place(self.device.dev(), rank)
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

    /// The buffer that holds the `bytes` bytes at `sector`: on a device with larger sectors than 512 bytes, whole ones.
    fn place(&self, sector: u64, bytes: usize) -> Result<Place, Errno> {
        let info = self.device.info();
        let unit = u64::from(info.sector_size) / SECTOR_SIZE as u64;
        let end = sector.checked_add((bytes / SECTOR_SIZE) as u64);
        let fits = end.is_some_and(|end| end <= info.sectors);
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_SIZE) || !fits || unit == 0 {
            return Err(Errno::EINVAL);
        }
        let aligned = sector - sector % unit;
        let offset = (sector - aligned) as usize * SECTOR_SIZE;
        let whole = (offset + bytes).next_multiple_of(info.sector_size as usize);
        if whole > MAX_BUF {
            return Err(Errno::EINVAL);
        }
        Ok(Place {
            key: (self.device.dev(), aligned),
            whole,
            offset,
            len: bytes,
        })
    }

    /// The `bytes` bytes (a multiple of 512, up to [`MAX_BUF`]) at `sector`, from the cache or
    /// the device.
    ///
    /// # Errors
    /// `EINVAL`: beyond the end of the device, or a size that is none. `EIO`: the device's error.
    pub fn bread(&self, sector: u64, bytes: usize) -> Result<Buf, Errno> {
        let place = self.place(sector, bytes)?;
        let placed = match self.cache.find(place.key, place.whole) {
            Found::Frame(frame) => return Ok(Buf::new(frame, &place)),
            Found::Place => true,
            Found::Full => false,
            Found::Error(errno) => return Err(errno),
        };
        match self.read(place.key, place.whole) {
            Ok(frame) => {
                if placed {
                    self.cache.settle(place.key, frame.clone(), Settled::Clean);
                }
                Ok(Buf::new(frame, &place))
            }
            Err(errno) => {
                if placed {
                    self.cache.abandon(place.key);
                }
                Err(errno)
            }
        }
    }

    fn read(&self, key: Key, bytes: usize) -> Result<Frame, Errno> {
        self.cache.misses.fetch_add(1, Ordering::Relaxed);
        let mut frames = kmem::insist(|| {
            let frames = one(Frame::alloc(Alloc::Wait)?, bytes)?;
            let (frames, result) = specfs::transfer(&*self.device, BioOp::Read, key.1, frames);
            result.map(|()| frames)
        })?;
        let mut frame = frames.pop().map(|io| io.frame).ok_or(Errno::EIO)?;
        let replay = self.replay.lock().clone();
        if let Some(replay) = replay
            && let Some(page) = frame.get_mut()
        {
            replay.overlay(&&*self.device, key.1, &mut page[..bytes])?;
        }
        Ok(frame)
    }

    /// The same buffer, to be changed by this thread alone.
    ///
    /// # Errors
    /// As [`Devvp::bread`]. `ENOMEM`.
    pub fn bmodify(&self, sector: u64, bytes: usize) -> Result<BufMut, Errno> {
        self.take(sector, bytes, true, &[])
    }

    /// The same, for a change that must not be on the disk before the buffers at the sectors `before` are,
    /// as they are now. May write, and wait.
    ///
    /// # Errors
    /// As [`Devvp::bmodify`].
    pub fn bmodify_after(
        &self,
        sector: u64,
        bytes: usize,
        before: &[u64],
    ) -> Result<BufMut, Errno> {
        match self.holds.load(Ordering::Acquire) {
            true => self.take(sector, bytes, true, &[]),
            false => self.take(sector, bytes, true, before),
        }
    }

    /// A buffer to be written over: its contents are zeroes, nothing is read.
    ///
    /// # Errors
    /// As [`Devvp::bread`]. `ENOMEM`.
    pub fn getblk(&self, sector: u64, bytes: usize) -> Result<BufMut, Errno> {
        self.getblk_after(sector, bytes, &[])
    }

    /// The same, in the order of [`Devvp::bmodify_after`].
    ///
    /// # Errors
    /// As there.
    pub fn getblk_after(&self, sector: u64, bytes: usize, before: &[u64]) -> Result<BufMut, Errno> {
        let mut buf = match self.holds.load(Ordering::Acquire) {
            true => self.take(sector, bytes, false, &[])?,
            false => self.take(sector, bytes, false, before)?,
        };
        buf.fill(0);
        Ok(buf)
    }

    fn take(
        &self,
        sector: u64,
        bytes: usize,
        contents: bool,
        before: &[u64],
    ) -> Result<BufMut, Errno> {
        let place = self.place(sector, bytes)?;
        let before = &Before {
            dev: place.key.0,
            unit: u64::from(self.device.info().sector_size) / SECTOR_SIZE as u64,
            sectors: before,
        };
        // For a buffer that is lent, or new. Taken before the buffer is: nobody shall wait for it in vain.
        let mut spare = None;
        loop {
            match self.take_cached(&place, &mut spare, before) {
                Taken::Buf(buf) => return Ok(buf),
                Taken::Early(rank) => {
                    self.cache.write_ranks(&self.device, rank);
                    continue;
                }
                Taken::NoSpare => {}
            }
            if spare.is_none() {
                spare = Some(kmem::insist(|| Frame::alloc(Alloc::Wait))?);
            }
            match self.cache.find(place.key, place.whole) {
                Found::Frame(frame) => drop(frame),
                Found::Error(errno) => return Err(errno),
                Found::Place => {
                    let frame = match spare.take() {
                        Some(spare) if !contents && place.len == place.whole => Ok(spare),
                        _ => self.read(place.key, place.whole),
                    };
                    let state = self.cache.state.lock();
                    let after = state.rank_after(before);
                    drop(state);
                    return match frame {
                        Ok(frame) => Ok(self.own(place, frame, (false, after))),
                        Err(errno) => {
                            self.cache.abandon(place.key);
                            Err(errno)
                        }
                    };
                }
                Found::Full => self.cache.wait_for_room()?,
            }
        }
    }

    /// Takes the buffer at `place` if it is in the cache and not busy; `spare` is used if it is lent.
    fn take_cached(&self, place: &Place, spare: &mut Option<Frame>, before: &Before<'_>) -> Taken {
        let mut state = self.cache.state.lock();
        let after = state.rank_after(before);
        let Some(entry) = state.table.peek_mut(&place.key) else {
            return Taken::NoSpare;
        };
        if entry.dirty && entry.failed.is_none() && entry.rank < after {
            return Taken::Early(entry.rank);
        }
        // It may be longer than what is asked for: all of it is taken, and written.
        let whole = entry.bytes;
        let Some(mut frame) = entry.frame.take_if(|_| whole >= place.whole) else {
            return Taken::NoSpare;
        };
        if !frame.is_unique() {
            let Some(mut copy) = spare.take() else {
                entry.frame = Some(frame);
                return Taken::NoSpare;
            };
            if let Some(bytes) = copy.get_mut() {
                bytes.copy_from_slice(frame.as_bytes());
            }
            core::mem::swap(&mut frame, &mut copy);
        }
        let order = (entry.dirty, after);
        drop(state);
        self.cache.hits.fetch_add(1, Ordering::Relaxed);
        Taken::Buf(self.own(Place { whole, ..*place }, frame, order))
    }

    fn own(&self, place: Place, frame: Frame, (was_dirty, after): (bool, u64)) -> BufMut {
        BufMut {
            devvp: self.clone(),
            place,
            frame: Some(frame),
            touched: false,
            was_dirty,
            after,
        }
    }

    /// Writes the buffers in `bytes` bytes from `sector` on, where they are dirty, after all that comes before them: others may have
    /// to come after what is in them now.
    pub fn write_through(&self, sector: u64, bytes: usize) {
        let sectors = (bytes / SECTOR_SIZE) as u64;
        let dev = self.device.dev();
        let state = self.cache.state.lock();
        let places = (sector..sector.saturating_add(sectors)).map(|sector| (dev, sector));
        let dirty = places.filter_map(|key| state.table.peek(&key).filter(|it| it.dirty));
        let highest = dirty.map(|entry| entry.rank).max();
        drop(state);
        if let Some(rank) = highest {
            self.cache.write_ranks(&self.device, rank);
        }
    }

    /// Writes every dirty buffer of the device, and the device's own cache.
    ///
    /// # Errors
    /// Why something could not be written: `EIO` and the like, `ENOMEM`.
    pub fn flush(&self, wait: Wait) -> Result<(), Errno> {
        self.cache.flush(&self.device, wait)?;
        match wait {
            Wait::Stable => specfs::flush(&*self.device),
            Wait::Started => Ok(()),
        }
    }

    /// Forgets the buffers of `bytes` bytes from `sector` on, dirty or not: they are not metadata any more,
    /// and nobody uses them.
    pub fn invalidate(&self, sector: u64, bytes: usize) {
        let sectors = (bytes / SECTOR_SIZE) as u64;
        for sector in sector..sector.saturating_add(sectors) {
            self.cache.invalidate((self.device.dev(), sector));
        }
    }

    /// Forgets every buffer of the device, dirty or not, after what is under way.
    pub fn forget(&self) {
        self.cache.forget(self.device.dev());
    }
}

/// How taking a buffer out of the cache went.
enum Taken {
    Buf(BufMut),
    /// It is dirty, with this rank, and would be written too early with the change.
    Early(u64),
    /// It is not there, or busy, or lent while there is no spare page.
    NoSpare,
}

/// The contents of a piece of metadata, as they were when it was read: a later change by a
/// writer does not show in it.
pub struct Buf {
    frame: Frame,
    offset: usize,
    len: usize,
}

impl Buf {
    fn new(frame: Frame, place: &Place) -> Buf {
        Buf {
            frame,
            offset: place.offset,
            len: place.len,
        }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.frame.as_bytes()[self.offset..self.offset + self.len]
    }
}

/// A piece of metadata that this thread may change. Dropped after a change, it is written later
/// ([`bdwrite`](BufMut::bdwrite)).
pub struct BufMut {
    devvp: Devvp,
    place: Place,
    /// `None` once it is on its way.
    frame: Option<Frame>,
    touched: bool,
    /// It was dirty before: others may have to come before it.
    was_dirty: bool,
    /// The rank that it gets at least.
    after: u64,
}

impl BufMut {
    /// Writes it, and waits until the device has it; if writes are held, that is left to the transaction.
    ///
    /// # Errors
    /// `EIO`, `ENOMEM`; the buffer stays dirty, and later flushes try again.
    pub fn bwrite(mut self) -> Result<(), Errno> {
        self.hold();
        self.bwrite_in_place()
    }

    /// Writes it in place even if writes are held, and waits until the device has it: for what nothing that the disk has
    /// leads to yet.
    ///
    /// # Errors
    /// As [`BufMut::bwrite`].
    pub fn bwrite_in_place(mut self) -> Result<(), Errno> {
        if self.was_dirty || self.after > 0 {
            return self.bwrite_in_order();
        }
        let Some(frame) = self.frame.take() else {
            return Ok(());
        };
        let device = self.devvp.device.clone();
        let cache = &self.devvp.cache;
        cache.write(device, self.place.key, frame, self.place.whole)
    }

    /// The same, with what has to be written before it. No buffer is busy meanwhile.
    fn bwrite_in_order(mut self) -> Result<(), Errno> {
        self.settle_dirty();
        let (cache, key) = (&self.devvp.cache, self.place.key);
        let rank = cache.state.lock().table.peek(&key).map(|it| it.rank);
        if let Some(rank) = rank {
            cache.write_ranks(&self.devvp.device, rank);
        }
        let state = cache.state.lock();
        let failed = state.table.peek(&key).and_then(|entry| entry.failed);
        failed.map_or(Ok(()), Err)
    }

    /// It is written later. If more than half of all buffers are dirty then, the writing of the oldest is started.
    pub fn bdwrite(mut self) {
        self.delay();
    }

    fn delay(&mut self) {
        self.hold();
        self.settle_dirty();
    }

    fn settle_dirty(&mut self) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let (cache, device) = (&self.devvp.cache, &self.devvp.device);
        let dirty = Settled::Dirty(device.clone(), self.after);
        if cache.settle(self.place.key, frame, dirty) {
            cache.write_some(device);
        }
    }

    /// If writes are held, it becomes part of the transaction, and is gone from here.
    fn hold(&mut self) {
        if self.devvp.holds.load(Ordering::Acquire)
            && let Some(frame) = self.frame.take()
        {
            let how = Settled::Held(self.devvp.device.clone());
            self.devvp.cache.settle(self.place.key, frame, how);
        }
    }
}

impl Deref for BufMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.frame {
            Some(frame) => &frame.as_bytes()[self.place.range()],
            None => &[],
        }
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.touched = true;
        match self.frame.as_mut().and_then(Frame::get_mut) {
            Some(bytes) => &mut bytes[self.place.range()],
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
        cache.settle(self.place.key, frame, Settled::Same);
    }
}
