//! A disk.
//!
//! A request takes a random time, so requests finish in any order. Memory is looked at when that time has passed: what was written is what
//! is there *then*, and must be what was there when the request was made; memory to be read into is spoiled at once. So a kernel that
//! touches memory under way is found out.

use super::record::Record;
use crate::seed::Stream;
use crate::threads::wake;
use crate::trace::Kind;
use crate::world::{self, Event};
use rumpuser::{
    BioDone, BioOp, BioRequest, BlockDevice, BlockInfo, Errno, IoVec, MAX_DISCARD_SECTORS,
    SECTOR_SIZE, ThreadId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What memory holds that is being read into.
const SPOILED: u8 = 0xdb;

/// How a disk behaves; chances are out of 1,000,000 for each request.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    /// The least time that a request takes, in nanoseconds.
    pub fastest: u64,
    /// The most time.
    pub slowest: u64,
    /// A request takes a hundred times as long.
    pub stall: u64,
    /// A read fails with `EIO`; the same read may work the next time.
    pub read_error: u64,
    /// A write fails with `EIO`, and leaves any part of its sectors written.
    pub write_error: u64,
    /// A flush fails with `EIO`.
    pub flush_error: u64,
    /// The sector at which a request begins fails from now on, for ever.
    pub permanent: u64,
    /// A bit of what a read gives is wrong; what is on the disk stays.
    pub read_rot: u64,
    /// A bit of the sector where a read begins is wrong from now on.
    pub rot: u64,
    /// A write is said to be done, and is not.
    pub lost_write: u64,
}

impl DiskFaults {
    /// A disk without faults, of 20 µs to 2 ms.
    pub const NONE: DiskFaults = DiskFaults {
        fastest: 20_000,
        slowest: 2_000_000,
        stall: 0,
        read_error: 0,
        write_error: 0,
        flush_error: 0,
        permanent: 0,
        read_rot: 0,
        rot: 0,
        lost_write: 0,
    };
}

struct InFlight {
    op: BioOp,
    sector: u64,
    token: u64,
    segments: Vec<IoVec>,
    /// Of a write, what the memory held when it was made.
    written: Vec<u8>,
}

struct State {
    stream: Stream,
    bytes: Vec<u8>,
    faults: DiskFaults,
    bad: BTreeSet<u64>,
    /// Sectors that it has room for, if fewer than it says, and those that take room.
    thin: Option<(u64, BTreeSet<u64>)>,
    next: u64,
    in_flight: BTreeMap<u64, InFlight>,
    done: VecDeque<BioDone>,
    listener: Option<ThreadId>,
    record: Option<Record>,
}

/// A disk.
pub struct SimDisk {
    name: String,
    info: BlockInfo,
    state: Mutex<State>,
    /// Itself, for events to come.
    own: OnceLock<&'static SimDisk>,
}

impl SimDisk {
    /// A disk that holds `bytes`, with a volatile cache or not. It lives as long as the process. Its name is that of its random stream.
    pub fn new(name: &str, bytes: Vec<u8>, volatile_cache: bool) -> &'static SimDisk {
        let info = BlockInfo {
            parent: "sim0",
            sectors: (bytes.len() / SECTOR_SIZE) as u64,
            sector_size: SECTOR_SIZE as u32,
            read_only: false,
            volatile_cache,
            discard: true,
            max_segments: 32,
            max_bytes: 128 << 10,
            queue_depth: 32,
        };
        SimDisk::with_info(name, info, bytes)
    }

    /// A disk described by `info`; its `sectors` are taken from `bytes`.
    pub fn with_info(name: &str, mut info: BlockInfo, bytes: Vec<u8>) -> &'static SimDisk {
        info.sectors = (bytes.len() / SECTOR_SIZE) as u64;
        let seed = world::with(|world| world.seed);
        let state = State {
            stream: Stream::new(seed, &format!("disk {name}")),
            bytes,
            faults: DiskFaults::NONE,
            bad: BTreeSet::new(),
            thin: None,
            next: 0,
            in_flight: BTreeMap::new(),
            done: VecDeque::new(),
            listener: None,
            record: None,
        };
        let disk: &'static SimDisk = Box::leak(Box::new(SimDisk {
            name: name.to_owned(),
            info,
            state: Mutex::new(state),
            own: OnceLock::new(),
        }));
        disk.own.get_or_init(|| disk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it behaves from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state().faults = faults;
    }

    /// What it holds now.
    pub fn contents(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Changes what it holds, behind the kernel's back: rot, or another disk in its place.
    pub fn modify(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.state().bytes);
    }

    /// Sectors whose every use fails from now on.
    pub fn fail_sectors(&self, sectors: std::ops::Range<u64>) {
        self.state().bad.extend(sectors);
    }

    /// From now on it has room for `sectors` sectors that were never written before; then a write to another fails with `ENOSPC`.
    pub fn make_thin(&self, sectors: u64) {
        self.state().thin = Some((sectors, BTreeSet::new()));
    }

    /// Remembers from now on what is written, for a power cut.
    ///
    /// # Panics
    /// If requests are in flight.
    pub fn start_record(&self) {
        let mut state = self.state();
        assert!(state.in_flight.is_empty(), "recording starts in quiet");
        state.record = Some(Record::new(&state.bytes, self.info.volatile_cache));
    }

    /// The length of the record so far: a moment to which [`Record::cut`] can go back.
    pub fn moment(&self) -> usize {
        self.state().record.as_ref().map_or(0, Record::len)
    }

    /// Stops remembering, and gives the record.
    pub fn take_record(&self) -> Option<Record> {
        self.state().record.take()
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight.len()
    }

    fn check(&self, request: &BioRequest<'_>) -> Result<(), Errno> {
        let bytes: usize = request.segments.iter().map(|segment| segment.len).sum();
        let sectors = match request.op {
            BioOp::Read | BioOp::Write => (bytes / SECTOR_SIZE) as u64,
            BioOp::Discard { sectors } if self.info.discard => sectors,
            BioOp::Discard { .. } => return Err(Errno::EOPNOTSUPP),
            BioOp::Flush => return Ok(()),
        };
        if self.info.read_only && request.op != BioOp::Read {
            return Err(Errno::EROFS);
        }
        let end = request.sector.checked_add(sectors).ok_or(Errno::EINVAL)?;
        let unit = u64::from(self.info.sector_size) / SECTOR_SIZE as u64;
        let aligned = request.sector.is_multiple_of(unit) && sectors.is_multiple_of(unit);
        let whole = request
            .segments
            .iter()
            .all(|segment| segment.len.is_multiple_of(SECTOR_SIZE));
        let fits = bytes <= self.info.max_bytes && request.segments.len() <= self.info.max_segments;
        let is_discard = matches!(request.op, BioOp::Discard { .. });
        let fits = fits && !(is_discard && sectors > MAX_DISCARD_SECTORS);
        match sectors > 0 && end <= self.info.sectors && aligned && whole && fits {
            true => Ok(()),
            false => Err(Errno::EINVAL),
        }
    }

    /// The request `id` is over.
    fn finish(&self, id: u64) {
        let mut state = self.state();
        let Some(request) = state.in_flight.remove(&id) else {
            return;
        };
        let result = state.carry_out(id, &request, &self.name);
        state.done.push_back(BioDone {
            token: request.token,
            result,
        });
        let listener = state.listener;
        drop(state);
        world::with(|world| {
            let failed = result.err().map_or(0, |errno| u64::from(errno.get()));
            let numbers = [id, request.sector, failed];
            let name = &self.name;
            match result {
                Ok(()) => world.event(Kind::Disk, numbers, format_args!("{name} done {id}")),
                Err(errno) => {
                    world.event(
                        Kind::Fault,
                        numbers,
                        format_args!("{name} fails {id}: {errno}"),
                    );
                }
            }
        });
        wake(listener);
    }
}

impl State {
    fn carry_out(&mut self, id: u64, request: &InFlight, name: &str) -> Result<(), Errno> {
        let faults = self.faults;
        if !matches!(request.op, BioOp::Flush) && self.happens(faults.permanent) {
            self.bad.insert(request.sector);
            told(id, request.sector, name, "breaks");
        }
        if request.op == BioOp::Read && self.happens(faults.rot) {
            let byte = self.stream.below(SECTOR_SIZE as u64) as usize;
            let bit = 1 << self.stream.below(8);
            self.bytes[request.sector as usize * SECTOR_SIZE + byte] ^= bit;
            told(id, request.sector, name, "rots");
        }
        match request.op {
            BioOp::Read => {
                let (error, rot) = (
                    self.happens(faults.read_error),
                    self.happens(faults.read_rot),
                );
                if rot {
                    told(id, request.sector, name, "is misread");
                }
                self.read(request, error, rot)
            }
            BioOp::Write if self.happens(faults.lost_write) => {
                told(id, request.sector, name, "is not written, but said to be");
                Ok(())
            }
            BioOp::Write => {
                let error = self.happens(faults.write_error);
                self.write(id, request, error, name)
            }
            BioOp::Flush if self.happens(faults.flush_error) => Err(Errno::EIO),
            BioOp::Flush => {
                self.note(|record| record.flushed(id));
                Ok(())
            }
            BioOp::Discard { sectors } => {
                let start = request.sector as usize * SECTOR_SIZE;
                let end = start + sectors as usize * SECTOR_SIZE;
                // What a discarded sector reads as is undefined.
                self.bytes[start..end].fill(SPOILED);
                let bytes = &self.bytes[start..end];
                if let Some(record) = &mut self.record {
                    record.submitted(id, request.sector, bytes);
                    record.completed(id);
                }
                Ok(())
            }
        }
    }

    /// Whether what has this chance happens now.
    fn happens(&mut self, chance: u64) -> bool {
        chance > 0 && self.stream.chance(chance, 1_000_000)
    }

    fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }

    fn is_bad(&self, request: &InFlight) -> bool {
        let bytes: usize = request.segments.iter().map(|segment| segment.len).sum();
        let end = request.sector + (bytes / SECTOR_SIZE) as u64;
        self.bad.range(request.sector..end).next().is_some()
    }

    fn read(&mut self, request: &InFlight, error: bool, rot: bool) -> Result<(), Errno> {
        if error || self.is_bad(request) {
            return Err(Errno::EIO);
        }
        let start = request.sector as usize * SECTOR_SIZE;
        let mut at = start;
        for segment in &request.segments {
            let from = &self.bytes[at..at + segment.len];
            at += segment.len;
            // SAFETY: whoever submitted the request promised that the memory stays, and that nobody
            // looks at it, until it is reaped, which comes later; the disk's bytes are elsewhere.
            unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), segment.base.as_ptr(), from.len())
            };
        }
        if rot && let Some(segment) = request.segments.first() {
            let byte = self.stream.below(segment.len as u64) as usize;
            let bit = 1 << self.stream.below(8);
            // SAFETY: a byte inside the segment.
            let place = unsafe { segment.base.add(byte) };
            // SAFETY: as for the copy above; no reference to it exists.
            let was = unsafe { place.read() };
            // SAFETY: as above.
            unsafe { place.write(was ^ bit) };
        }
        Ok(())
    }

    fn write(&mut self, id: u64, request: &InFlight, error: bool, name: &str) -> Result<(), Errno> {
        // SAFETY: whoever submitted the request promised that the memory stays until it is reaped.
        let now = unsafe { gather(&request.segments) };
        assert!(
            now == request.written,
            "{name}: memory changed while it was being written to sector {}",
            request.sector
        );
        let sectors = now.chunks_exact(SECTOR_SIZE).enumerate();
        if error || self.is_bad(request) {
            for (index, sector) in sectors {
                if self.stream.chance(1, 2) {
                    let at = (request.sector as usize + index) * SECTOR_SIZE;
                    self.bytes[at..at + SECTOR_SIZE].copy_from_slice(sector);
                }
            }
            return Err(Errno::EIO);
        }
        if let Some((room, taken)) = &mut self.thin {
            let end = request.sector + sectors.len() as u64;
            let new = (request.sector..end).filter(|sector| !taken.contains(sector));
            if new.count() as u64 + taken.len() as u64 > *room {
                return Err(Errno::ENOSPC);
            }
            taken.extend(request.sector..end);
        }
        let start = request.sector as usize * SECTOR_SIZE;
        self.bytes[start..start + now.len()].copy_from_slice(&now);
        self.note(|record| record.completed(id));
        Ok(())
    }
}

/// Notes a fault of request `id` in the trace.
fn told(id: u64, sector: u64, name: &str, what: &str) {
    let numbers = [id, sector, what.len() as u64];
    world::with(|world| {
        world.event(
            Kind::Fault,
            numbers,
            format_args!("{name}, request {id}: sector {sector} {what}"),
        );
    });
}

/// The bytes of the segments, one after the other.
///
/// # Safety
/// The memory must be there, and nobody may change it during the call.
pub(crate) unsafe fn gather(segments: &[IoVec]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for IoVec { base, len } in segments {
        // SAFETY: the caller vouches for each segment.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(base.as_ptr(), *len) });
    }
    bytes
}

impl BlockDevice for SimDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    unsafe fn submit(&self, request: &BioRequest<'_>) -> Result<(), Errno> {
        self.check(request)?;
        let mut state = self.state();
        // A place is free again when its completion is reaped.
        if state.in_flight.len() + state.done.len() >= self.info.queue_depth {
            return Err(Errno::EAGAIN);
        }
        let id = state.next;
        state.next += 1;
        let mut written = Vec::new();
        match request.op {
            BioOp::Write => {
                // SAFETY: the caller vouches for the segments.
                written = unsafe { gather(request.segments) };
                let sector = request.sector;
                state.note(|record| record.submitted(id, sector, &written));
            }
            BioOp::Read => {
                for segment in request.segments {
                    let base = segment.base.as_ptr();
                    // SAFETY: the caller vouches for the segment, which is to be read into.
                    unsafe { base.write_bytes(SPOILED, segment.len) };
                }
            }
            BioOp::Flush => state.note(|record| record.flush_submitted(id)),
            BioOp::Discard { .. } => {}
        }
        let faults = state.faults;
        let mut time = state.stream.between(faults.fastest, faults.slowest);
        if faults.stall > 0 && state.stream.chance(faults.stall, 1_000_000) {
            time *= 100;
        }
        let bytes: usize = request.segments.iter().map(|segment| segment.len).sum();
        let in_flight = InFlight {
            op: request.op,
            sector: request.sector,
            token: request.token,
            segments: request.segments.to_vec(),
            written,
        };
        state.in_flight.insert(id, in_flight);
        drop(state);
        let disk = *self.own.get().expect("set when it was made");
        world::with(|world| {
            let numbers = [id, request.sector, bytes as u64];
            let (name, op, sector) = (&self.name, request.op, request.sector);
            world.event(
                Kind::Disk,
                numbers,
                format_args!(
                    "{name} starts {id}: {op:?} {sector} +{} for {time} ns",
                    bytes / SECTOR_SIZE
                ),
            );
            world.plan(time, Event::Call(Box::new(move || disk.finish(id))));
        });
        Ok(())
    }

    fn reap(&self) -> Option<BioDone> {
        self.state().done.pop_front()
    }

    fn listen(&self, thread: ThreadId) {
        let waiting = {
            let mut state = self.state();
            state.listener = Some(thread);
            !state.done.is_empty()
        };
        if waiting {
            wake(Some(thread));
        }
    }
}
