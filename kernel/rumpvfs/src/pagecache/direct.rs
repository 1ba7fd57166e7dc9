//! Transfers that go past the cache: between the device and the memory of whoever reads or writes.
//!
//! Where a device has them ([`BlockIo::direct`]: an image whose host has a cache of its own), large transfers of pages that
//! are not here need not come here: that would be a second copy of each byte, and of each page in memory. Small ones,
//! pieces of pages, and pages that are here in any state go through the cache as ever.
//!
//! - Written so is whatever is large, but for holes: a place that the file is given for it lies beyond its end until the
//!   transfer is done, and shows nobody what it held before. If the device fails half way, the rest goes through the cache,
//!   which keeps it, and tries again. A journaled file system has no commit between the two: both are in one operation.
//! - Read so is what the cache would not keep: of a file of more than half of memory, or when little memory is free.
//!
//! The vnode's lock keeps this right: without it no page comes here. A reader holds it shared, so that what is absent stays
//! as the device has it; a writer holds it exclusively.
//!
//! Source: NetBSD sys/miscfs/genfs/genfs_io.c (`genfs_directio`), which does it for files opened with `O_DIRECT`.
//!
//! [`BlockIo::direct`]: crate::specfs::BlockIo::direct

use super::{PAGE, PageCacheStats};
use crate::specfs::{BlockIo, Direct};
use crate::vnode::{Vnode, VnodeType};
use alloc::sync::Arc;
use rumpkern::uvm;
use rumpuser::{Errno, SECTOR_SIZE};

/// The least that is worth it, in bytes.
pub(super) const LEAST: u64 = 64 * 1024;
/// The most that is written in one go.
const MOST: u64 = 1 << 20;
/// The most bytes for which blocks are allocated in one operation, and at once where there is little room.
const ALLOCATED: u64 = 64 * 1024;

impl Vnode {
    fn direct_device(&self) -> Option<&Arc<dyn BlockIo>> {
        let device = self.mount().device().filter(|device| device.has_direct())?;
        (self.vtype() == VnodeType::Reg).then_some(device)
    }

    /// Whether to read `bytes` bytes of it past the cache.
    pub(super) fn reads_past_cache(&self, bytes: u64) -> bool {
        if bytes < LEAST || self.direct_device().is_none() {
            return false;
        }
        let half = uvm::limit_pages() as u64 / 2;
        self.size() / PAGE > half || !uvm::plenty()
    }

    /// Bytes from the start of page `first` on, up to `most`, in whole pages, none of which is here.
    fn absent_bytes(&self, first: u64, most: u64) -> u64 {
        let next = self.page_state().tree.next(first, false);
        let pages = next.map_or(u64::MAX, |next| next - first);
        (most / PAGE).min(pages) * PAGE
    }

    /// Reads past the cache as much of `buf` as is whole absent pages within the file, from byte `offset` on, where a page
    /// starts. Answers how many bytes: what it does not read, or cannot, is the cache's.
    pub(super) fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> usize {
        let wanted = (buf.len() as u64).min(self.size().saturating_sub(offset));
        let bytes = self.absent_bytes(offset / PAGE, wanted);
        let Some(device) = self.direct_device().filter(|_| bytes >= LEAST) else {
            return 0;
        };
        let mut done = 0;
        while done < bytes {
            let at = offset + done;
            let Ok(run) = self.extent(at, bytes - done, offset + bytes) else {
                break;
            };
            let len = run.bytes.min(bytes - done);
            let memory = &mut buf[done as usize..(done + len) as usize];
            match run.sector {
                None => memory.fill(0),
                Some(sector) => {
                    let stats = self.mount().page_stats();
                    PageCacheStats::add(&stats.reads, 1);
                    PageCacheStats::add(&stats.pages_read, len / PAGE);
                    if device.direct(sector, Direct::Read(memory)).is_err() {
                        break;
                    }
                }
            }
            done += len;
        }
        // Whole pages, for the cache goes on by pages.
        (done - done % PAGE) as usize
    }

    /// Writes as much of `data` at `offset` as goes past the cache; the rest, and what fails, is the cache's. The file is
    /// longer by then if need be. Answers how many bytes.
    ///
    /// # Errors
    /// What the file system says of its blocks, for the first byte.
    pub(super) fn write_past_cache(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
    ) -> Result<usize, Errno> {
        if (data.len() as u64) < LEAST || !offset.is_multiple_of(PAGE) {
            return Ok(0);
        }
        let Some(device) = self.direct_device() else {
            return Ok(0);
        };
        let most = (data.len() as u64).min(MOST - offset % MOST);
        let bytes = self.absent_bytes(offset / PAGE, most);
        // The byte before, too: a block that begins in a hole before `offset` would show there.
        if bytes < LEAST || !self.has_places(offset.saturating_sub(PAGE), offset + bytes)? {
            return Ok(0);
        }
        let operation = self.ops().begin_write()?;
        // Until it ends the file has blocks that hold what they held for somebody else. One allocates no more than a part of these.
        let bytes = match operation.is_some() {
            true => bytes.min(ALLOCATED - offset % ALLOCATED),
            false => bytes,
        };
        let (placed, new) = self.allocate(offset, bytes)?;
        let written = self.write_placed(device, offset, &data[..placed as usize]);
        let end = offset + written;
        if end > self.size() {
            self.set_size(end);
        }
        self.zero_new(new, offset / PAGE..(offset + placed).div_ceil(PAGE))?;
        Ok(written as usize)
    }

    /// Whether what lies within the file of the bytes `from..to` has places.
    fn has_places(&self, from: u64, to: u64) -> Result<bool, Errno> {
        let end = self.size().min(to);
        let mut at = from;
        while at < end {
            let run = self.extent(at, end - at, end.next_multiple_of(PAGE))?;
            if run.sector.is_none() {
                return Ok(false);
            }
            at += run.bytes;
        }
        Ok(true)
    }

    /// Gives the `bytes` bytes from `offset` on places: how many have one, and what range of bytes is new.
    fn allocate(self: &Arc<Self>, offset: u64, bytes: u64) -> Result<(u64, (u64, u64)), Errno> {
        let mut new = (0, 0);
        let mut placed = 0;
        let mut at_once = MOST;
        while placed < bytes {
            let at = offset + placed;
            let len = (at_once - at % at_once).min(bytes - placed);
            match self.ops().balloc(self, at, len) {
                Ok(balloc) if balloc.new.0 >= balloc.new.1 => {}
                Ok(balloc) if new.0 >= new.1 => new = balloc.new,
                Ok(balloc) => new = (new.0.min(balloc.new.0), new.1.max(balloc.new.1)),
                // A part may fit.
                Err(_) if len > ALLOCATED => {
                    at_once = ALLOCATED;
                    continue;
                }
                Err(errno) if placed == 0 => return Err(errno),
                // Whoever writes the rest is told.
                Err(_) => break,
            }
            placed += len;
        }
        Ok((placed, new))
    }

    /// Writes `data`, which has places, past the cache. Answers how many bytes, in whole pages.
    fn write_placed(&self, device: &Arc<dyn BlockIo>, offset: u64, data: &[u8]) -> u64 {
        let (mut done, bytes) = (0, data.len() as u64);
        while done < bytes {
            let run = self.extent(offset + done, bytes - done, offset + bytes);
            let Some((sector, run)) = run.ok().and_then(|run| Some((run.sector?, run))) else {
                break;
            };
            let len = run.bytes.min(bytes - done);
            debug_assert!(len.is_multiple_of(SECTOR_SIZE as u64));
            let stats = self.mount().page_stats();
            PageCacheStats::add(&stats.writes, 1);
            PageCacheStats::add(&stats.pages_written, len / PAGE);
            let memory = &data[done as usize..(done + len) as usize];
            if device.direct(sector, Direct::Write(memory)).is_err() {
                break;
            }
            done += len;
        }
        done - done % PAGE
    }
}
