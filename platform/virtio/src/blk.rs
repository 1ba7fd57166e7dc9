//! Block devices [virtio 1.2 §5.2].
//!
//! One request queue. A request is a chain of header, data and status byte; header and status lie
//! in pages of the driver's own, one record for each slot of the queue, the data wherever the caller has them.

use crate::dma::{Dma, Pages, Segment};
use crate::fault::{AttachError, Fault, RequestError};
use crate::queue::{ChainError, LOOKS, Queue, Shape, Used};
use crate::transport::{Device, Transport};
use bitflags::bitflags;
use core::sync::atomic::Ordering;

#[cfg(test)]
mod tests;

/// The unit of sector numbers, whatever the device's own block size.
pub const SECTOR_SIZE: u64 = 512;

bitflags! {
    /// Feature bits [virtio 1.2 §5.2.3].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct BlkFeatures: u64 {
        /// `size_max` holds.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` holds.
        const SEG_MAX = 1 << 2;
        /// Read-only.
        const RO = 1 << 5;
        /// `blk_size` holds.
        const BLK_SIZE = 1 << 6;
        /// There is a flush request.
        const FLUSH = 1 << 9;
        /// There is a discard request.
        const DISCARD = 1 << 13;
    }
}

/// Configuration: offset and end of the fields that are read [virtio 1.2 §5.2.4].
mod config {
    pub const CAPACITY: usize = 0;
    pub const CAPACITY_END: usize = 8;
    pub const SIZE_MAX: usize = 8;
    pub const SEG_MAX: usize = 12;
    pub const BLK_SIZE: usize = 20;
    pub const MAX_DISCARD_SECTORS: usize = 36;
    pub const MAX_DISCARD_SEG: usize = 40;
}

/// Request types and results [virtio 1.2 §5.2.6].
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_DISCARD: u32 = 11;
const STATUS_OK: u8 = 0;
const STATUS_IOERR: u8 = 1;
const STATUS_UNSUPP: u8 = 2;
/// What no device writes.
const STATUS_NONE: u8 = 0xff;

/// A slot's record: the header, the range of a discard, the status byte.
const RECORD_BYTES: usize = 40;
const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;
const RANGE: usize = HEADER_BYTES;
const STATUS: usize = RANGE + RANGE_BYTES;

/// Descriptors of a chain that are not data.
const OVERHEAD: u16 = 2;

/// The least that a request must be able to move: rumpuser's promise to the kernel.
const MIN_REQUEST_BYTES: u64 = 64 * 1024;
/// The most that one request moves: far below where 32-bit lengths end.
const MAX_REQUEST_BYTES: u64 = 4 * 1024 * 1024;

/// How a block device is to be driven.
#[derive(Clone, Copy, Debug)]
pub struct BlkConfig {
    /// Requests in flight, at most.
    pub queue_size: u16,
    /// Segments in a request, at most.
    pub segments: u16,
    /// MSI-X entry for changes of the configuration.
    pub configuration_vector: u16,
    /// MSI-X entry for finished requests.
    pub queue_vector: u16,
}

impl BlkConfig {
    /// 64 requests of 32 segments (128 KiB of single pages) take 48 KiB of the host's memory.
    pub const DEFAULT: BlkConfig = BlkConfig {
        queue_size: 64,
        segments: 32,
        configuration_vector: 0,
        queue_vector: 1,
    };
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlkOp {
    /// Device to memory.
    Read,
    /// Memory to device.
    Write,
    /// Makes completed writes stable.
    Flush,
    /// What is there need not be kept.
    Discard {
        /// How many sectors.
        sectors: u32,
    },
}

/// What a block device is.
#[derive(Clone, Copy, Debug)]
pub struct BlkInfo {
    /// Capacity in units of [`SECTOR_SIZE`]; a multiple of the block size.
    pub sectors: u64,
    /// Bytes that it reads or writes at once; a power of two.
    pub block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Writes are stable only after a flush.
    pub volatile_cache: bool,
    /// The most sectors in one discard; 0: it discards nothing.
    pub max_discard_sectors: u32,
    /// The most segments in one request.
    pub max_segments: usize,
    /// The most bytes in one request.
    pub max_bytes: usize,
    /// How many requests may be in flight.
    pub queue_depth: usize,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlkResult {
    /// Well.
    Done,
    /// The device could not.
    IoError,
    /// The device does not know the request.
    Unsupported,
    /// The device was given up while the request was outstanding.
    Broken,
}

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlkDone {
    /// The request's token.
    pub token: u64,
    /// How it ended.
    pub result: BlkResult,
}

/// A block device.
pub struct VirtioBlk<T: Transport> {
    // First, so that the device is stopped before its memory goes.
    device: Device<T>,
    queue: Queue,
    records: Pages,
    /// The bytes that the device writes in each slot's request if all goes well, the status included.
    expected: crate::dma::Table<u32>,
    info: BlkInfo,
    segment_max: u32,
}

impl<T: Transport> VirtioBlk<T> {
    /// Brings the device up.
    pub fn attach(
        transport: T,
        dma: &'static dyn Dma,
        config: BlkConfig,
    ) -> Result<VirtioBlk<T>, AttachError> {
        let mut device = Device::negotiate(transport, BlkFeatures::all().bits())?;
        let limits = Limits::read(&device)?;
        let segments = u32::from(config.segments.max(1)).min(limits.seg_max) as u16;
        let shape = Shape {
            size: config.queue_size,
            chain: segments.saturating_add(OVERHEAD),
        };
        device.set_configuration_vector(config.configuration_vector)?;
        let queue = device.queue(dma, 0, shape, config.queue_vector)?;
        let slots = usize::from(queue.size());
        let records = Pages::allocate(dma, slots * RECORD_BYTES).ok_or(AttachError::NoMemory)?;
        let expected = crate::dma::Table::new(dma, slots, 0).ok_or(AttachError::NoMemory)?;
        let (max_segments, max_bytes) = limits
            .request(queue.max_chain())
            .ok_or(Fault::Configuration { field: "size_max" })?;
        let flags = |feature: BlkFeatures| device.has(feature.bits());
        let info = BlkInfo {
            sectors: limits.sectors,
            block_size: limits.block_size,
            read_only: flags(BlkFeatures::RO),
            volatile_cache: flags(BlkFeatures::FLUSH),
            max_discard_sectors: limits.max_discard_sectors,
            max_segments,
            max_bytes,
            queue_depth: usize::from(queue.depth()),
        };
        device.start();
        Ok(VirtioBlk {
            device,
            queue,
            records,
            expected,
            info,
            segment_max: limits.size_max,
        })
    }

    /// What it is.
    pub fn info(&self) -> &BlkInfo {
        &self.info
    }

    /// The device, as the transport sees it.
    pub fn device(&self) -> &Device<T> {
        &self.device
    }

    /// Starts a request for the blocks from `sector` (in units of [`SECTOR_SIZE`]) on. `token` comes
    /// back from [`reap`](Self::reap). A flush and a discard have no segments, and a flush ignores the sector.
    ///
    /// # Errors
    /// See [`RequestError`]; nothing was started.
    ///
    /// # Safety
    /// Until the request is reaped, or the driver dropped, the memory of every segment stays where it
    /// is; for a read nobody else looks at it, for a write nobody changes it.
    pub unsafe fn submit(
        &mut self,
        op: BlkOp,
        sector: u64,
        segments: impl Iterator<Item = Segment> + Clone,
        token: u64,
    ) -> Result<(), RequestError> {
        if self.device.fault().is_some() {
            return Err(RequestError::Broken);
        }
        let bytes = self.check(op, sector, segments.clone())?;
        let mut chain = self.queue.begin().ok_or(RequestError::Full)?;
        let head = usize::from(chain.head());
        let record = head * RECORD_BYTES;
        let (kind, sector_field) = match op {
            BlkOp::Read => (TYPE_IN, sector),
            BlkOp::Write => (TYPE_OUT, sector),
            BlkOp::Flush => (TYPE_FLUSH, 0),
            BlkOp::Discard { .. } => (TYPE_DISCARD, 0),
        };
        let records = &self.records;
        records.store64(record, kind.into(), Ordering::Relaxed);
        records.store64(record + 8, sector_field, Ordering::Relaxed);
        records.store8(record + STATUS, STATUS_NONE, Ordering::Relaxed);

        chain.push(records.bus(record), HEADER_BYTES as u32, false)?;
        if let BlkOp::Discard { sectors } = op {
            let range = record + RANGE;
            records.store64(range, sector, Ordering::Relaxed);
            // The flags behind the count are 0: only write-zeroes has one.
            records.store64(range + 8, sectors.into(), Ordering::Relaxed);
            chain.push(records.bus(range), RANGE_BYTES as u32, false)?;
        }
        let device_writes = op == BlkOp::Read;
        for segment in segments {
            chain.push_segment(segment, self.segment_max, device_writes)?;
        }
        chain.push(records.bus(record + STATUS), 1, true)?;
        // At most MAX_REQUEST_BYTES, as checked.
        self.expected[head] = 1 + if device_writes { bytes as u32 } else { 0 };
        chain.commit(token);
        self.device.kick(&mut self.queue);
        Ok(())
    }

    /// Judges a request; answers how many bytes it moves.
    fn check(
        &self,
        op: BlkOp,
        sector: u64,
        segments: impl Iterator<Item = Segment>,
    ) -> Result<u64, RequestError> {
        let mut bytes = 0u64;
        let mut count = 0;
        for segment in segments {
            count += 1;
            if segment.len == 0 || !(segment.len as u64).is_multiple_of(SECTOR_SIZE) {
                return Err(RequestError::Invalid);
            }
            bytes = bytes.saturating_add(segment.len as u64);
        }
        if op == BlkOp::Flush {
            return match (self.info.volatile_cache, count) {
                (false, _) => Err(RequestError::Unsupported),
                (true, 0) => Ok(0),
                (true, _) => Err(RequestError::Invalid),
            };
        }
        if op != BlkOp::Read && self.info.read_only {
            return Err(RequestError::ReadOnly);
        }
        let mut most = self.info.max_bytes as u64;
        if let BlkOp::Discard { sectors } = op {
            most = u64::from(self.info.max_discard_sectors) * SECTOR_SIZE;
            if most == 0 {
                return Err(RequestError::Unsupported);
            }
            if count > 0 {
                return Err(RequestError::Invalid);
            }
            bytes = u64::from(sectors) * SECTOR_SIZE;
        }
        let block = u64::from(self.info.block_size);
        let sized = bytes > 0 && bytes <= most;
        let aligned = bytes.is_multiple_of(block) && sector.is_multiple_of(block / SECTOR_SIZE);
        let inside = sector
            .checked_add(bytes / SECTOR_SIZE)
            .is_some_and(|end| end <= self.info.sectors);
        if count > self.info.max_segments || !sized || !aligned || !inside {
            return Err(RequestError::Invalid);
        }
        Ok(bytes)
    }

    /// Takes one finished request. `None`: there is none now, and an interrupt will tell of the next.
    /// Once the device was given up, all that were outstanding come out as [`BlkResult::Broken`].
    pub fn reap(&mut self) -> Option<BlkDone> {
        for _ in 0..LOOKS {
            if self.device.fault().is_some() {
                return self.queue.abandon().map(|token| BlkDone {
                    token,
                    result: BlkResult::Broken,
                });
            }
            match self.queue.take() {
                Ok(Some(used)) => return Some(self.finish(used)),
                Ok(None) if self.queue.want_interrupt(1) => return None,
                // Finished meanwhile: take it.
                Ok(None) => {}
                Err(fault) => self.device.give_up(fault),
            }
        }
        None
    }

    fn finish(&mut self, used: Used) -> BlkDone {
        let head = usize::from(used.head);
        let status = head * RECORD_BYTES + STATUS;
        let result = match self.records.load8(status, Ordering::Relaxed) {
            // What lies beyond the bytes that the device answers for is nobody's [virtio 1.2 §2.7.8.3].
            STATUS_OK if used.len < self.expected[head] => BlkResult::IoError,
            STATUS_OK => BlkResult::Done,
            STATUS_IOERR => BlkResult::IoError,
            STATUS_UNSUPP => BlkResult::Unsupported,
            status => {
                self.device.give_up(Fault::BlockStatus { status });
                BlkResult::Broken
            }
        };
        BlkDone {
            token: used.token,
            result,
        }
    }

    /// Looks what a configuration interrupt was about. A device that asks for a reset is given up:
    /// what is outstanding is then to be reaped.
    pub fn configuration_changed(&mut self) {
        // The device keeps the fault, if there is one.
        let _ = self.device.check_status();
    }
}

impl From<ChainError> for RequestError {
    fn from(error: ChainError) -> RequestError {
        match error {
            ChainError::TooLong => RequestError::Invalid,
            ChainError::Full => RequestError::Full,
        }
    }
}

/// What the configuration says of sizes, judged.
struct Limits {
    sectors: u64,
    block_size: u32,
    size_max: u32,
    seg_max: u32,
    max_discard_sectors: u32,
}

impl Limits {
    fn read<T: Transport>(device: &Device<T>) -> Result<Limits, Fault> {
        let capacity = device.configuration("capacity", config::CAPACITY_END, |t| {
            let low = u64::from(t.configuration32(config::CAPACITY));
            let high = u64::from(t.configuration32(config::CAPACITY + 4));
            high << 32 | low
        })?;
        let block_size = optional(device, BlkFeatures::BLK_SIZE, "blk_size", config::BLK_SIZE)?;
        let size_max = optional(device, BlkFeatures::SIZE_MAX, "size_max", config::SIZE_MAX)?;
        let seg_max = optional(device, BlkFeatures::SEG_MAX, "seg_max", config::SEG_MAX)?;
        let limits = Limits {
            sectors: capacity,
            block_size: block_size.unwrap_or(SECTOR_SIZE as u32),
            size_max: size_max.unwrap_or(u32::MAX),
            seg_max: seg_max.unwrap_or(u32::MAX),
            max_discard_sectors: discard_max(device)?,
        };
        limits.judge()
    }

    fn judge(self) -> Result<Limits, Fault> {
        let bad = |field| Fault::Configuration { field };
        let block = u64::from(self.block_size);
        // A block must fit into the least request.
        if !block.is_power_of_two() || !(SECTOR_SIZE..=MIN_REQUEST_BYTES).contains(&block) {
            return Err(bad("blk_size"));
        }
        if self.sectors > u64::MAX / SECTOR_SIZE {
            return Err(bad("capacity"));
        }
        if self.seg_max == 0 {
            return Err(bad("seg_max"));
        }
        // Cut to whole sectors, so that a segment cut to it still is some.
        let size_max = self.size_max - self.size_max % SECTOR_SIZE as u32;
        if size_max == 0 {
            return Err(bad("size_max"));
        }
        let block_sectors = block / SECTOR_SIZE;
        Ok(Limits {
            sectors: self.sectors - self.sectors % block_sectors,
            size_max,
            ..self
        })
    }

    /// The most segments and bytes of a request that certainly fits in a chain of `chain`
    /// descriptors when longer segments are cut to `size_max`; `None` if that is too little.
    fn request(&self, chain: u16) -> Option<(usize, usize)> {
        let data = u64::from(chain.checked_sub(OVERHEAD).filter(|&data| data > 0)?);
        let size_max = u64::from(self.size_max);
        // Cutting n bytes in s segments gives at most s + n / size_max pieces.
        let (segments, bytes) = match size_max >= MAX_REQUEST_BYTES {
            true => (data, MAX_REQUEST_BYTES),
            false => (data.div_ceil(2), (data / 2) * size_max),
        };
        let bytes = bytes.min(MAX_REQUEST_BYTES);
        (bytes >= MIN_REQUEST_BYTES).then_some((segments as usize, bytes as usize))
    }
}

/// The most sectors in a discard; 0 if there is none, or none of any use.
fn discard_max<T: Transport>(device: &Device<T>) -> Result<u32, Fault> {
    let discard = BlkFeatures::DISCARD;
    let (sectors, ranges) = (config::MAX_DISCARD_SECTORS, config::MAX_DISCARD_SEG);
    let sectors = optional(device, discard, "max_discard_sectors", sectors)?;
    let ranges = optional(device, discard, "max_discard_seg", ranges)?;
    Ok(match ranges {
        None | Some(0) => 0,
        Some(_) => sectors.unwrap_or(0),
    })
}

/// A 32-bit field that holds only if `feature` was agreed on.
fn optional<T: Transport>(
    device: &Device<T>,
    feature: BlkFeatures,
    field: &'static str,
    offset: usize,
) -> Result<Option<u32>, Fault> {
    if !device.has(feature.bits()) {
        return Ok(None);
    }
    device
        .configuration(field, offset + 4, |t| t.configuration32(offset))
        .map(Some)
}
