//! Disks: the host's block devices as the kernel's `ld0`, `ld1`…, and their partitions.
//!
//! A request is checked against the disk, or the partition, and split where the device takes less at
//! once. Errors are logged once, here, in the words of diskerr(9).

use crate::partition::{Partition, SectorReader};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rumpkern::kmem;
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::{Bio, BioOp, BlockQueue, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{BlockInfo, Errno, PAGE_SIZE, SECTOR_SIZE};
use rumpvfs::specfs::{self, BlockIo, DeviceInfo};

/// The block major number of `ld` (NetBSD `sys/arch/amd64/conf/majors.amd64`).
const LD_MAJOR: u64 = 69;
/// Minor numbers of a unit: the whole disk, and every partition.
const UNIT_MINORS: u64 = 256;

/// What a disk is on: the host's device, or anything else that moves sectors.
pub trait Backend: Send + Sync {
    /// What it is. The same answer at every call.
    fn info(&self) -> &BlockInfo;

    /// The most segments, and the most bytes, of one request.
    fn limits(&self) -> (usize, usize) {
        let info = self.info();
        (info.max_segments, info.max_bytes)
    }

    /// Starts a request within [`limits`](Backend::limits): `done` is called exactly once then, from wherever.
    ///
    /// # Errors
    /// Why it was not started; `done` is not called.
    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)>;
}

impl Backend for BlockQueue {
    fn info(&self) -> &BlockInfo {
        BlockQueue::info(self)
    }

    fn limits(&self) -> (usize, usize) {
        // The queue may take fewer segments than the device does.
        let bytes = self.max_bytes();
        let segments = BlockQueue::info(self).max_segments;
        (segments.min(bytes / PAGE_SIZE), bytes)
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        BlockQueue::start(self, bio)
    }
}

/// What a disk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Requests that read.
    pub reads: u64,
    /// Sectors that they read.
    pub read_sectors: u64,
    /// Requests that wrote.
    pub writes: u64,
    /// Sectors that they wrote.
    pub written_sectors: u64,
    /// Requests that made writes stable.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    read_sectors: AtomicU64,
    writes: AtomicU64,
    written_sectors: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
}

/// A disk.
pub struct Disk {
    name: String,
    unit: u64,
    backend: Arc<dyn Backend>,
    counters: Arc<Counters>,
}

impl Disk {
    /// The disk `ld` and `unit` on `backend`.
    pub fn new(unit: u32, backend: Arc<dyn Backend>) -> Arc<Disk> {
        Arc::new(Disk {
            name: alloc::format!("ld{unit}"),
            unit: unit.into(),
            backend,
            counters: Arc::new(Counters::default()),
        })
    }

    /// How the boot log describes it: `128 MB, 512 bytes/sector x 262144 sectors`.
    pub fn description(&self) -> String {
        let info = self.backend.info();
        let bytes = info.sectors * SECTOR_SIZE as u64;
        let own = bytes / u64::from(info.sector_size);
        let mut text = alloc::format!(
            "{}, {} bytes/sector x {own} sectors",
            human_size(bytes),
            info.sector_size
        );
        if info.read_only {
            text.push_str(", read-only");
        }
        text
    }

    /// Where it sits, as the host says: its parent in the device tree.
    pub fn parent(&self) -> &'static str {
        self.backend.info().parent
    }

    /// What it did.
    pub fn stats(&self) -> DiskStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DiskStats {
            reads: get(&self.counters.reads),
            read_sectors: get(&self.counters.read_sectors),
            writes: get(&self.counters.writes),
            written_sectors: get(&self.counters.written_sectors),
            flushes: get(&self.counters.flushes),
            errors: get(&self.counters.errors),
        }
    }

    fn device_info(&self, sectors: u64) -> DeviceInfo {
        let info = self.backend.info();
        let (segments, bytes) = self.backend.limits();
        DeviceInfo {
            sectors,
            sector_size: info.sector_size,
            read_only: info.read_only,
            volatile_cache: info.volatile_cache,
            discard: info.discard,
            max_bytes: bytes.min(segments.saturating_mul(PAGE_SIZE)),
        }
    }

    /// Starts a request for `who`: the disk itself, or a partition that begins at sector `base` and has `sectors`.
    fn start_within(
        &self,
        who: &str,
        base: u64,
        sectors: u64,
        bio: Bio,
    ) -> Result<(), (Errno, Bio)> {
        let count = match self.check(sectors, &bio) {
            Ok(count) => count,
            Err(errno) => return Err((errno, bio)),
        };
        self.count(bio.op, count);
        let error = DiskError {
            who: String::from(who),
            disk: self.name.clone(),
            first: bio.sector,
            count,
            base,
            op: bio.op,
            counters: self.counters.clone(),
        };
        let done = bio.done;
        let bio = Bio {
            sector: bio.sector + base,
            done: Box::new(move |frames, result| {
                if let Err(errno) = result {
                    error.report(errno);
                }
                done(frames, result);
            }),
            ..bio
        };
        self.split(bio)
    }

    /// Whether a request lies within `sectors` sectors; answers how many it is about.
    fn check(&self, sectors: u64, bio: &Bio) -> Result<u64, Errno> {
        let info = self.backend.info();
        let unit = u64::from(info.sector_size);
        let bytes: u64 = bio.frames.iter().map(|io| io.len as u64).sum();
        let count = match bio.op {
            BioOp::Flush => return Ok(0),
            BioOp::Discard { .. } if !info.discard => return Err(Errno::EOPNOTSUPP),
            BioOp::Discard { sectors } => sectors,
            BioOp::Read | BioOp::Write => bytes / SECTOR_SIZE as u64,
        };
        if info.read_only && bio.op != BioOp::Read {
            return Err(Errno::EROFS);
        }
        let end = bio.sector.checked_add(count).ok_or(Errno::EINVAL)?;
        let start_bytes = bio
            .sector
            .checked_mul(SECTOR_SIZE as u64)
            .ok_or(Errno::EINVAL)?;
        let aligned = bytes.is_multiple_of(unit) && start_bytes.is_multiple_of(unit);
        if count == 0 || end > sectors || !aligned {
            return Err(Errno::EINVAL);
        }
        Ok(count)
    }

    fn count(&self, op: BioOp, sectors: u64) {
        let (requests, moved) = match op {
            BioOp::Read => (&self.counters.reads, Some(&self.counters.read_sectors)),
            BioOp::Write => (&self.counters.writes, Some(&self.counters.written_sectors)),
            BioOp::Flush => (&self.counters.flushes, None),
            BioOp::Discard { .. } => return,
        };
        requests.fetch_add(1, Ordering::Relaxed);
        if let Some(moved) = moved {
            moved.fetch_add(sectors, Ordering::Relaxed);
        }
    }

    /// Hands a request to the device: in parts, if it is more than the device takes at once.
    fn split(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let (segments, most) = self.backend.limits();
        let bytes: usize = bio.frames.iter().map(|io| io.len).sum();
        if bio.frames.len() <= segments && bytes <= most {
            return self.backend.start(bio);
        }
        let unit = self.backend.info().sector_size as usize;
        let Some(ends) = part_ends(&bio.frames, segments, most, unit) else {
            return Err((Errno::EINVAL, bio));
        };
        let whole = Arc::new(Whole {
            left: AtomicUsize::new(ends.len()),
            parts: Mutex::new(ends.iter().map(|_| Vec::new()).collect()),
            result: Mutex::new(Ok(())),
            done: Mutex::new(Some(bio.done)),
        });
        let mut frames = bio.frames.into_iter();
        let (mut sector, mut begin) = (bio.sector, 0);
        for (number, end) in ends.into_iter().enumerate() {
            let part: Vec<IoFrame> = frames.by_ref().take(end - begin).collect();
            begin = end;
            let bytes: usize = part.iter().map(|io| io.len).sum();
            let theirs = whole.clone();
            let part = Bio {
                op: bio.op,
                sector,
                frames: part,
                done: Box::new(move |frames, result| theirs.part_done(number, frames, result)),
            };
            sector += (bytes / SECTOR_SIZE) as u64;
            if let Err((errno, part)) = self.backend.start(part) {
                (part.done)(part.frames, Err(errno));
            }
        }
        Ok(())
    }
}

/// Where to cut a list of frames: before which ones (the end of the list included), so that every part is
/// within the device's limits and made of whole sectors. `None` if that cannot be.
fn part_ends(frames: &[IoFrame], segments: usize, most: usize, unit: usize) -> Option<Vec<usize>> {
    let mut ends = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    // The last place where a cut is allowed, and the bytes up to it.
    let mut cut = None;
    for (number, io) in frames.iter().enumerate() {
        let too_many = number - begin >= segments;
        if too_many || bytes + io.len > most {
            let (at, upto): (usize, usize) = cut.take()?;
            ends.push(at);
            begin = at;
            bytes -= upto;
        }
        bytes += io.len;
        if bytes.is_multiple_of(unit) {
            cut = Some((number + 1, bytes));
        }
    }
    ends.push(frames.len());
    Some(ends)
}

type Done = Box<dyn FnOnce(Vec<IoFrame>, Result<(), Errno>) + Send>;

/// A request that was split.
struct Whole {
    left: AtomicUsize,
    parts: Mutex<Vec<Vec<IoFrame>>>,
    result: Mutex<Result<(), Errno>>,
    done: Mutex<Option<Done>>,
}

impl Whole {
    fn part_done(&self, number: usize, frames: Vec<IoFrame>, result: Result<(), Errno>) {
        if result.is_err() {
            *self.result.lock() = result;
        }
        if let Some(part) = self.parts.lock().get_mut(number) {
            *part = frames;
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let parts = core::mem::take(&mut *self.parts.lock());
        let mut frames = Vec::with_capacity(parts.iter().map(Vec::len).sum());
        frames.extend(parts.into_iter().flatten());
        let result = *self.result.lock();
        let done = self.done.lock().take();
        if let Some(done) = done {
            done(frames, result);
        }
    }
}

/// What to say if a request fails.
struct DiskError {
    who: String,
    disk: String,
    first: u64,
    count: u64,
    base: u64,
    op: BioOp,
    counters: Arc<Counters>,
}

impl DiskError {
    fn report(&self, errno: Errno) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        let what = match self.op {
            BioOp::Read => "reading",
            BioOp::Write => "writing",
            BioOp::Discard { .. } => "discarding",
            BioOp::Flush => {
                log::error!("{}: error flushing the cache: {errno}", self.who);
                return;
            }
        };
        let (first, last) = (self.first, self.first + self.count.saturating_sub(1));
        let bn = first + self.base;
        log::error!(
            "{}: error {what} fsbn {first} of {first}-{last} ({} bn {bn}): {errno}",
            self.who,
            self.disk
        );
    }
}

impl BlockIo for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn dev(&self) -> u64 {
        (LD_MAJOR << 32) | (self.unit * UNIT_MINORS)
    }

    fn info(&self) -> DeviceInfo {
        self.device_info(self.backend.info().sectors)
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        self.start_within(&self.name, 0, self.backend.info().sectors, bio)
    }
}

impl SectorReader for Disk {
    fn sectors(&self) -> u64 {
        self.backend.info().sectors
    }

    fn sector_size(&self) -> u32 {
        self.backend.info().sector_size
    }

    fn read(&self, sector: u64, buf: &mut [u8]) -> Result<(), Errno> {
        read_bytes(self, sector, buf)
    }
}

/// Reads sectors into plain memory, a page at a time; on devices with larger sectors than 512 bytes, also pieces of
/// them.
///
/// # Errors
/// `EINVAL`: not whole units of 512 bytes, or beyond the end. The device's.
pub fn read_bytes(device: &dyn BlockIo, sector: u64, buf: &mut [u8]) -> Result<(), Errno> {
    if !buf.len().is_multiple_of(SECTOR_SIZE) {
        return Err(Errno::EINVAL);
    }
    let unit = u64::from(device.info().sector_size) / SECTOR_SIZE as u64;
    if unit > (PAGE_SIZE / SECTOR_SIZE) as u64 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut done = 0;
    while done < buf.len() {
        let at = sector + (done / SECTOR_SIZE) as u64;
        let aligned = at - at % unit;
        let skip = (at - aligned) as usize * SECTOR_SIZE;
        let len = (buf.len() - done).min(PAGE_SIZE - skip);
        let whole = (skip + len).next_multiple_of(unit as usize * SECTOR_SIZE);
        let mut frames = kmem::try_vec(1)?;
        frames.push(IoFrame {
            frame: Frame::alloc(Alloc::Wait)?,
            offset: 0,
            len: whole,
        });
        let (frames, result) = specfs::transfer(device, BioOp::Read, aligned, frames);
        result?;
        let bytes = frames.first().ok_or(Errno::EIO)?.frame.as_bytes();
        buf[done..done + len].copy_from_slice(&bytes[skip..skip + len]);
        done += len;
    }
    Ok(())
}

/// A partition of a disk.
pub struct DiskPart {
    disk: Arc<Disk>,
    name: String,
    /// 1 and up; 0 is the whole disk.
    number: u64,
    partition: Partition,
}

impl DiskPart {
    /// Partition `number` (counted from 1) of `disk`, called `name`.
    pub fn new(disk: Arc<Disk>, number: u64, name: String, partition: Partition) -> Arc<DiskPart> {
        Arc::new(DiskPart {
            disk,
            name,
            number,
            partition,
        })
    }

    /// What the table says of it.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }
}

impl BlockIo for DiskPart {
    fn name(&self) -> &str {
        &self.name
    }

    fn dev(&self) -> u64 {
        self.disk.dev() + self.number
    }

    fn part_of(&self) -> Option<u64> {
        Some(self.disk.dev())
    }

    fn info(&self) -> DeviceInfo {
        self.disk.device_info(self.partition.sectors)
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let Partition { start, sectors, .. } = self.partition;
        self.disk.start_within(&self.name, start, sectors, bio)
    }
}

/// A size for people, in KB, MB or GB (of 1024).
fn human_size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => alloc::format!("{} KB", bytes >> 10),
        0x10_0000..0x10_0000_0000 => alloc::format!("{} MB", bytes >> 20),
        _ => alloc::format!("{} GB", bytes >> 30),
    }
}
