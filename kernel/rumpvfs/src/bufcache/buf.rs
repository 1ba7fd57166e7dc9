//! Buffers, and a file system's way to them.

use super::{BufCache, Found, Key, MAX_BUF};
use crate::specfs::{self, BlockIo};
use crate::vnode::Wait;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering;
use rumpkern::kmem;
use rumpkern::uvm::dma::{BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{Errno, SECTOR_SIZE};

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
            Found::Frame(frame) => return Ok(Buf { frame, len: bytes }),
            Found::Place => true,
            Found::Full => false,
            Found::Error(errno) => return Err(errno),
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
                Found::Frame(frame) => drop(frame),
                Found::Error(errno) => return Err(errno),
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
                    self.cache.wait_for_room();
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
