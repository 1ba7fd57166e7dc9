//! Disks: the host's block devices as the kernel's `ld0`, `ld1`…, and their partitions.
//!
//! A request is checked against the disk, or the partition, and split where the device takes less at
//! once. Errors are logged once, here, in the words of diskerr(9).

use crate::partition::{Partition, SectorReader};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rumpkern::kmem;
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::{Bio, BioOp, BlockQueue, DoneFn, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{BlockInfo, Errno, MAX_DISCARD_SECTORS, PAGE_SIZE, SECTOR_SIZE};
use rumpvfs::specfs::{self, BlockIo, DeviceInfo, Direct};

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

    /// Whether it has [`direct`](Backend::direct) transfers.
    fn has_direct(&self) -> bool {
        false
    }

    /// Moves whole sectors at once, in the calling thread; [`limits`](Backend::limits) are none of it.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: it has none. What the transfer ended with; it may be half done.
    fn direct(&self, _sector: u64, _memory: Direct<'_>) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
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
    /// Requests that made writes stable. One behind which nothing was written needs none.
    pub flushes: u64,
    /// Requests that discarded.
    pub discards: u64,
    /// Sectors that they discarded.
    pub discarded_sectors: u64,
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
    discards: AtomicU64,
    discarded_sectors: AtomicU64,
    errors: AtomicU64,
}

/// What of the writes to a disk is stable: with it a flush that would bring nothing need not be sent.
struct Stability {
    /// Counts writes that have completed, however.
    written: AtomicU64,
    /// What the count was when the last flush that succeeded was asked for.
    stable: AtomicU64,
}

impl Stability {
    /// Of a disk that was not written to here: what another wrote before may still be in its cache.
    fn unknown() -> Stability {
        Stability {
            written: AtomicU64::new(1),
            stable: AtomicU64::new(0),
        }
    }

    fn wrote(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// What a flush makes stable that is sent now; `None`: all is already.
    fn unstable(&self) -> Option<u64> {
        let written = self.written.load(Ordering::Acquire);
        (self.stable.load(Ordering::Acquire) < written).then_some(written)
    }

    fn flushed(&self, written: u64) {
        self.stable.fetch_max(written, Ordering::AcqRel);
    }
}

/// A disk.
pub struct Disk {
    name: Arc<str>,
    unit: u64,
    backend: Arc<dyn Backend>,
    counters: Arc<Counters>,
    stability: Arc<Stability>,
}

impl Disk {
    /// The disk `ld` and `unit` on `backend`.
    pub fn new(unit: u32, backend: Arc<dyn Backend>) -> Arc<Disk> {
        Arc::new(Disk {
            name: alloc::format!("ld{unit}").into(),
            unit: unit.into(),
            backend,
            counters: Arc::new(Counters::default()),
            stability: Arc::new(Stability::unknown()),
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
            discards: get(&self.counters.discards),
            discarded_sectors: get(&self.counters.discarded_sectors),
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
        who: &Arc<str>,
        base: u64,
        sectors: u64,
        bio: Bio,
    ) -> Result<(), (Errno, Bio)> {
        let bytes = bio.frames.iter().map(|io| io.len as u64).sum();
        let count = match self.check(sectors, bio.op, bio.sector, bytes) {
            Ok(count) => count,
            Err(errno) => return Err((errno, bio)),
        };
        let op = bio.op;
        let unstable = self.stability.unstable();
        if op == BioOp::Flush && unstable.is_none() {
            (bio.done)(bio.frames, Ok(()));
            return Ok(());
        }
        let report = self.report_of(who, base, op, (bio.sector, count));
        let stability = self.stability.clone();
        let done = move |done: DoneFn, frames, result: Result<(), Errno>| {
            match (op, unstable) {
                // Also one that failed may have written something.
                (BioOp::Write, _) => stability.wrote(),
                (BioOp::Flush, Some(written)) if result.is_ok() => stability.flushed(written),
                _ => {}
            }
            if let Err(errno) = result {
                report.report(errno);
            }
            done(frames, result);
        };
        let (slot, wrapped) = match prepare(done) {
            Ok(prepared) => prepared,
            Err(errno) => return Err((errno, bio)),
        };
        self.count(bio.op, count);
        *slot.lock() = Some(bio.done);
        let bio = Bio {
            sector: bio.sector + base,
            done: wrapped,
            ..bio
        };
        self.split(bio).map_err(|(errno, bio)| {
            // What the caller gave comes back as he gave it.
            let Bio {
                op, frames, done, ..
            } = bio;
            let done = slot.lock().take().unwrap_or(done);
            let bio = Bio {
                op,
                sector: bio.sector - base,
                frames,
                done,
            };
            (errno, bio)
        })
    }

    /// The same for a direct transfer, which is over when this returns.
    fn direct_within(
        &self,
        who: &Arc<str>,
        (base, sectors): (u64, u64),
        sector: u64,
        memory: Direct<'_>,
    ) -> Result<(), Errno> {
        let op = memory.op();
        let count = self.check(sectors, op, sector, memory.bytes() as u64)?;
        self.count(op, count);
        let done = self.backend.direct(base + sector, memory);
        if op == BioOp::Write {
            self.stability.wrote();
        }
        done.inspect_err(|&errno| self.report_of(who, base, op, (sector, count)).report(errno))
    }

    fn report_of(
        &self,
        who: &Arc<str>,
        base: u64,
        op: BioOp,
        (first, count): (u64, u64),
    ) -> DiskError {
        DiskError {
            who: who.clone(),
            disk: self.name.clone(),
            first,
            count,
            base,
            op,
            counters: self.counters.clone(),
        }
    }

    /// Whether a request for `bytes` bytes at `sector` lies within `sectors` sectors; answers how many it is about.
    fn check(&self, sectors: u64, op: BioOp, sector: u64, bytes: u64) -> Result<u64, Errno> {
        let info = self.backend.info();
        let unit = u64::from(info.sector_size);
        let count = match op {
            BioOp::Flush => return Ok(0),
            BioOp::Discard { .. } if !info.discard => return Err(Errno::EOPNOTSUPP),
            BioOp::Discard { sectors } if sectors > MAX_DISCARD_SECTORS => {
                return Err(Errno::EINVAL);
            }
            BioOp::Discard { sectors } => sectors,
            BioOp::Read | BioOp::Write => bytes / SECTOR_SIZE as u64,
        };
        if info.read_only && op != BioOp::Read {
            return Err(Errno::EROFS);
        }
        let end = sector.checked_add(count).ok_or(Errno::EINVAL)?;
        let start_bytes = sector
            .checked_mul(SECTOR_SIZE as u64)
            .ok_or(Errno::EINVAL)?;
        let aligned = bytes.is_multiple_of(unit)
            && start_bytes.is_multiple_of(unit)
            && count.is_multiple_of(unit / SECTOR_SIZE as u64);
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
            BioOp::Discard { .. } => (
                &self.counters.discards,
                Some(&self.counters.discarded_sectors),
            ),
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
        match self.parts(&bio.frames, segments, most) {
            Ok(parts) => self.start_parts(bio, parts),
            Err(errno) => Err((errno, bio)),
        }
    }

    /// Everything that a split request needs, so that nothing can fail once it is under way.
    fn parts(&self, frames: &[IoFrame], segments: usize, most: usize) -> Result<Parts, Errno> {
        let unit = self.backend.info().sector_size as usize;
        let ends = part_ends(frames, segments, most, unit)?;
        let mut places = kmem::try_vec(frames.len())?;
        places.resize_with(frames.len(), || None);
        let whole = kmem::try_arc(Whole {
            left: AtomicUsize::new(ends.len()),
            state: Mutex::new(WholeState {
                places,
                frames: kmem::try_vec(frames.len())?,
                result: Ok(()),
                done: None,
            }),
        })?;
        let mut starts = kmem::try_vec(ends.len())?;
        let mut begin = 0;
        for end in ends {
            let theirs = whole.clone();
            let done =
                kmem::try_box(move |frames, result| theirs.part_done(begin, frames, result))?;
            let count = end - begin;
            let room = kmem::try_vec(count)?;
            starts.push(Part { done, count, room });
            begin = end;
        }
        Ok(Parts { whole, starts })
    }

    fn start_parts(&self, bio: Bio, parts: Parts) -> Result<(), (Errno, Bio)> {
        parts.whole.state.lock().done = Some(bio.done);
        let mut frames = bio.frames.into_iter();
        let mut sector = bio.sector;
        for Part {
            done,
            count,
            mut room,
        } in parts.starts
        {
            room.extend(frames.by_ref().take(count));
            let bytes: usize = room.iter().map(|io| io.len).sum();
            let part = Bio {
                op: bio.op,
                sector,
                frames: room,
                done,
            };
            sector += (bytes / SECTOR_SIZE) as u64;
            if let Err((errno, part)) = self.backend.start(part) {
                (part.done)(part.frames, Err(errno));
            }
        }
        Ok(())
    }
}

/// A split request before it is started.
struct Parts {
    whole: Arc<Whole>,
    starts: Vec<Part>,
}

/// One of its parts: what is to be called, and room for its frames.
struct Part {
    done: DoneFn,
    count: usize,
    room: Vec<IoFrame>,
}

/// Where what a request was to call is put, once nothing can fail any more.
type Slot = Arc<Mutex<Option<DoneFn>>>;

/// A `done` that calls `wrap` with what is in the slot by then.
fn prepare(
    wrap: impl FnOnce(DoneFn, Vec<IoFrame>, Result<(), Errno>) + Send + 'static,
) -> Result<(Slot, DoneFn), Errno> {
    let slot: Slot = kmem::try_arc(Mutex::new(None))?;
    let theirs = slot.clone();
    let done = kmem::try_box(move |frames, result| {
        let done = theirs.lock().take();
        if let Some(done) = done {
            wrap(done, frames, result);
        }
    })?;
    Ok((slot, done))
}

/// Where to cut a list of frames: before which ones (the end of the list included), so that every part is
/// within the device's limits and made of whole sectors.
///
/// # Errors
/// `EINVAL` if that cannot be; `ENOMEM`.
fn part_ends(
    frames: &[IoFrame],
    segments: usize,
    most: usize,
    unit: usize,
) -> Result<Vec<usize>, Errno> {
    // Each part but the last is followed by a frame that did not fit.
    let mut ends = kmem::try_vec(frames.len().max(1))?;
    let (mut begin, mut bytes) = (0, 0);
    // The last place where a cut is allowed, and the bytes up to it.
    let mut cut = None;
    for (number, io) in frames.iter().enumerate() {
        if number - begin >= segments || bytes + io.len > most {
            let (at, upto): (usize, usize) = cut.take().ok_or(Errno::EINVAL)?;
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
    Ok(ends)
}

/// A request that was split. All its memory was taken before it was started: completions need none.
struct Whole {
    left: AtomicUsize,
    state: Mutex<WholeState>,
}

struct WholeState {
    /// The frames that have come back, each at its place.
    places: Vec<Option<IoFrame>>,
    /// Room for all of them.
    frames: Vec<IoFrame>,
    result: Result<(), Errno>,
    done: Option<DoneFn>,
}

impl Whole {
    /// The part whose frames begin at place `begin` is done.
    fn part_done(&self, begin: usize, frames: Vec<IoFrame>, result: Result<(), Errno>) {
        let mut state = self.state.lock();
        if result.is_err() {
            state.result = result;
        }
        for (place, io) in state.places.iter_mut().skip(begin).zip(frames) {
            *place = Some(io);
        }
        drop(state);
        if self.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.frames.extend(state.places.drain(..).flatten());
        let frames = core::mem::take(&mut state.frames);
        let (result, done) = (state.result, state.done.take());
        drop(guard);
        if let Some(done) = done {
            done(frames, result);
        }
    }
}

/// What to say if a request fails.
struct DiskError {
    who: Arc<str>,
    disk: Arc<str>,
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

    fn has_direct(&self) -> bool {
        self.backend.has_direct()
    }

    fn direct(&self, sector: u64, memory: Direct<'_>) -> Result<(), Errno> {
        let whole = (0, self.backend.info().sectors);
        self.direct_within(&self.name, whole, sector, memory)
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
    name: Arc<str>,
    /// 1 and up; 0 is the whole disk.
    number: u64,
    partition: Partition,
}

impl DiskPart {
    /// Partition `number` (counted from 1) of `disk`, called `name`.
    pub fn new(disk: Arc<Disk>, number: u64, name: String, partition: Partition) -> Arc<DiskPart> {
        Arc::new(DiskPart {
            disk,
            name: name.into(),
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

    fn has_direct(&self) -> bool {
        self.disk.backend.has_direct()
    }

    fn direct(&self, sector: u64, memory: Direct<'_>) -> Result<(), Errno> {
        let Partition { start, sectors, .. } = self.partition;
        self.disk
            .direct_within(&self.name, (start, sectors), sector, memory)
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
