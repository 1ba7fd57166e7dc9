//! Block I/O.

use crate::{Errno, IoVec, ThreadId};

/// The unit of every block address: 512 bytes (`DEV_BSIZE`), whatever the device's own sector.
pub const SECTOR_SIZE: usize = 512;

/// The most sectors in one [`BioOp::Discard`]: 16 MiB.
pub const MAX_DISCARD_SECTORS: u64 = 32_768;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BioOp {
    /// Device to memory.
    Read,
    /// Memory to device. Stable after completion only if the device has no volatile cache.
    Write,
    /// Makes every write that completed before this request was submitted stable.
    /// No segments; the sector is ignored.
    Flush,
    /// The `sectors` given need not be kept; what they read as afterwards is undefined. No segments.
    Discard {
        /// How many sectors: whole ones of the device, at most [`MAX_DISCARD_SECTORS`].
        sectors: u64,
    },
}

/// A request, as the kernel hands it over.
#[derive(Clone, Copy, Debug)]
pub struct BioRequest<'a> {
    /// What to do.
    pub op: BioOp,
    /// The first sector, in units of [`SECTOR_SIZE`].
    pub sector: u64,
    /// The memory, in order. The lengths add up to a multiple of the device's sector size; single
    /// ones are multiples of [`SECTOR_SIZE`]. The host copies this list if it needs it later.
    pub segments: &'a [IoVec],
    /// Comes back in [`BioDone`].
    pub token: u64,
}

/// A finished request.
#[derive(Clone, Copy, Debug)]
pub struct BioDone {
    /// The request's token.
    pub token: u64,
    /// `Ok`: all bytes were moved. On an error the contents of the memory (read) or the sectors
    /// (write) are undefined.
    pub result: Result<(), Errno>,
}

/// What a block device is.
#[derive(Clone, Debug)]
pub struct BlockInfo {
    /// Where it sits, for the boot log, such as `"virtio0"`; its parent in autoconf's words.
    pub parent: &'static str,
    /// Capacity in units of [`SECTOR_SIZE`].
    pub sectors: u64,
    /// Bytes that the device reads or writes at once: a power of two, at least [`SECTOR_SIZE`].
    /// Requests are aligned to it.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// It has a volatile write cache, so that only a [`BioOp::Flush`] makes writes stable.
    pub volatile_cache: bool,
    /// It takes [`BioOp::Discard`].
    pub discard: bool,
    /// The most segments in one request; at least 1.
    pub max_segments: usize,
    /// The most bytes in one request; at least 64 KiB.
    pub max_bytes: usize,
    /// How many requests may be in flight; at least 1.
    pub queue_depth: usize,
}

/// A block device.
///
/// Requests in flight are not ordered with respect to each other.
pub trait BlockDevice: Sync {
    /// What it is. The same answer at every call.
    fn info(&self) -> &BlockInfo;

    /// Starts a request.
    ///
    /// # Errors
    /// `EAGAIN`: as many as the device takes are in flight; submit again after the next completion.
    /// `EINVAL`: beyond the capacity, misaligned, or too large. `EROFS`: a write to a read-only
    /// device. `EOPNOTSUPP`: an operation it does not have. `EIO`, `ENXIO`: the device is broken or gone.
    ///
    /// # Safety
    /// Until the request is reaped, the memory of every segment must stay where it is; for a read
    /// nobody else may look at it, for a write nobody may change it.
    unsafe fn submit(&self, request: &BioRequest<'_>) -> Result<(), Errno>;

    /// Takes one finished request, if there is any. Requests finish in any order.
    fn reap(&self) -> Option<BioDone>;

    /// Unparks `thread` whenever something may be reaped. A later call replaces an earlier one. A
    /// request that finished before the call counts.
    fn listen(&self, thread: ThreadId);
}
