//! Reading a log that was left behind: what its transactions wrote, and where.
//!
//! Everything is judged before anything is used: nothing is replayed of a log with a record that is wrong. The walk ends
//! after as many bytes as the header says are in use, whatever the records say. Memory is bounded by the length of the log:
//! its contents are read when they are needed.
//!
//! Replaying for writing puts every sector in place, and can be repeated: the log stays as it is until
//! another is begun over it. Replaying for reading is a [`Replay`] that shows what it has ([`Replay::overlay`]).

use alloc::vec::Vec;
use rumpkern::kmem::{self, Room};
use rumpkern::locks::{Condvar, Mutex};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{Alloc, Frame};
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

use super::map::{Logged, Map};
use super::raw::{self, BadLog, Fixed, Header};
use super::ring::Ring;
use super::{Bounds, LogError, Place};
use crate::specfs::{self, BlockIo};
use alloc::sync::Arc;

/// The most bytes of a log that are in memory at once when it is replayed.
const WINDOW: u64 = 16 * PAGE_SIZE as u64;

const UNIT: u64 = SECTOR_SIZE as u64;

/// A device to read from.
pub trait Source {
    /// Reads `bytes`, whole sectors and at most a page of them, from `sector` on.
    ///
    /// # Errors
    /// The device's.
    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), Errno>;
}

impl Source for &dyn BlockIo {
    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let mut frames = kmem::try_vec(1)?;
        frames.push(IoFrame {
            frame: Frame::alloc(Alloc::Wait)?,
            offset: 0,
            len: bytes.len(),
        });
        let (frames, result) = specfs::transfer(*self, BioOp::Read, sector, frames);
        result?;
        let frame = frames.first().ok_or(Errno::EIO)?;
        bytes.copy_from_slice(&frame.frame.as_bytes()[..bytes.len()]);
        Ok(())
    }
}

/// An inode without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its number.
    pub ino: u32,
    /// Its mode, in case it was never written.
    pub mode: u32,
}

/// What a log has to say.
#[derive(Debug)]
pub struct Replay {
    place: Place,
    ring: Ring,
    header: Header,
    map: Map,
    orphans: Vec<Orphan>,
    transactions: u64,
}

impl Replay {
    /// Reads the log at `place`.
    ///
    /// # Errors
    /// What is wrong with it, or with the device; `ENOMEM`.
    pub fn read(source: &dyn Source, place: &Place, bounds: &Bounds) -> Result<Replay, LogError> {
        let fixed = place.fixed()?;
        let ring = Ring {
            start: fixed.circ_off(),
            size: fixed.circ_size,
        };
        let header = newest(source, place, &fixed)?;
        let mut replay = Replay {
            place: *place,
            ring,
            header,
            map: Map::default(),
            orphans: Vec::new(),
            transactions: 0,
        };
        replay.walk(source, &fixed, bounds)?;
        Ok(replay)
    }

    fn walk(
        &mut self,
        source: &dyn Source,
        fixed: &Fixed,
        bounds: &Bounds,
    ) -> Result<(), LogError> {
        let place = self.place;
        let mut left = self.ring.used(self.header.head, self.header.tail);
        let mut at = self.header.tail;
        let mut page = Frame::alloc(Alloc::Wait)?;
        let page = page.get_mut().ok_or(Errno::EIO)?;
        let head = &mut page[..fixed.block() as usize];
        while left > 0 {
            source.read(self.place.sector_of(at), head)?;
            let record = Record {
                fixed,
                bounds,
                place: &place,
                at,
                bytes: head,
            };
            let len = record.len(left)?;
            match record.kind() {
                raw::WC_BLOCKS => self.blocks(&record, len)?,
                raw::WC_REVOCATIONS => self.revocations(&record, len)?,
                raw::WC_INODES => self.inodes(&record, len)?,
                kind => return Err(record.bad("type", u64::from(kind)).into()),
            }
            at = self.ring.advance(at, len);
            left -= len;
        }
        Ok(())
    }

    fn blocks(&mut self, record: &Record<'_>, len: u64) -> Result<(), LogError> {
        let block = record.fixed.block();
        let mut taken = block;
        for n in 0..record.count(record.fixed.blocks_per_list())? {
            let (sector, bytes) = record.block(n)?;
            let new = Logged {
                sector,
                sectors: bytes / SECTOR_SIZE as u64,
                at: self.ring.advance(record.at, taken.min(self.ring.size)),
            };
            taken += bytes;
            if taken > len {
                return Err(record.bad("length of a block", bytes).into());
            }
            self.map.insert(&self.ring, new)?;
        }
        if taken.next_multiple_of(block) != len {
            return Err(record.bad("len", len).into());
        }
        Ok(())
    }

    fn revocations(&mut self, record: &Record<'_>, len: u64) -> Result<(), LogError> {
        record.is_one_block(len)?;
        for n in 0..record.count(record.fixed.blocks_per_list())? {
            let (sector, bytes) = record.block(n)?;
            let end = sector + bytes / SECTOR_SIZE as u64;
            self.map.forget(&self.ring, sector, end)?;
        }
        Ok(())
    }

    fn inodes(&mut self, record: &Record<'_>, len: u64) -> Result<(), LogError> {
        record.is_one_block(len)?;
        if record.clears() {
            self.orphans.clear();
            // Every transaction says the whole list, once.
            self.transactions += 1;
        }
        let count = record.count(record.fixed.inodes_per_list())?;
        self.orphans.room(count)?;
        for n in 0..count {
            self.orphans.push(record.inode(n)?);
        }
        Ok(())
    }

    /// The header that counts.
    pub fn header(&self) -> Header {
        self.header
    }

    /// How many bytes of it count.
    pub fn used(&self) -> u64 {
        self.ring.used(self.header.head, self.header.tail)
    }

    /// How many transactions it has.
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// What is logged, by sector.
    pub fn entries(&self) -> &[Logged] {
        self.map.entries()
    }

    /// Whether it has any of sectors `from..to`.
    pub fn is_logged(&self, from: u64, to: u64) -> bool {
        !self.map.within(from, to).is_empty()
    }

    /// The inodes without a name, which nobody uses any more.
    pub fn orphans(&self) -> &[Orphan] {
        &self.orphans
    }

    /// Puts what the log has of the sectors from `sector` on into `bytes`, which were read from there.
    ///
    /// # Errors
    /// The device's.
    pub fn overlay(&self, source: &dyn Source, sector: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let end = sector + (bytes.len() / SECTOR_SIZE) as u64;
        for entry in self.map.within(sector, end) {
            let Some(part) = entry.part(&self.ring, sector, end) else {
                continue;
            };
            let mut to = (part.sector - sector) as usize * SECTOR_SIZE;
            let whole = part.sectors * SECTOR_SIZE as u64;
            for (at, len) in self.ring.parts(part.at, whole) {
                let len = len as usize;
                if len > 0 {
                    source.read(self.place.sector_of(at), &mut bytes[to..to + len])?;
                }
                to += len;
            }
        }
        Ok(())
    }

    /// Puts everything in place, on the disk. Answers how many sectors that were.
    ///
    /// # Errors
    /// The device's; it can be repeated then.
    pub fn write(&self, device: &Arc<dyn BlockIo>) -> Result<u64, Errno> {
        let jobs = self.jobs()?;
        let mut rest = &jobs[..];
        let mut written = 0;
        while let Some(first) = rest.first() {
            let start = first.at;
            let fits = |job: &&Logged| end(job) <= start + WINDOW;
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            let bytes = now.last().map_or(0, end) - start;
            self.write_window(device, start, bytes as usize, now)?;
            written += now.iter().map(|job| job.sectors).sum::<u64>();
            rest = later;
        }
        specfs::flush(&**device)?;
        Ok(written)
    }

    /// What is to be put in place, in the log's order, in pieces of at most a window.
    fn jobs(&self) -> Result<Vec<Logged>, Errno> {
        let mut jobs: Vec<Logged> = kmem::try_vec(self.map.entries().len())?;
        for entry in self.map.entries() {
            let mut sector = entry.sector;
            let parts = self.ring.parts(entry.at, entry.sectors * UNIT);
            for (at, len) in parts {
                for skip in (0..len).step_by(WINDOW as usize) {
                    let sectors = (len - skip).min(WINDOW) / UNIT;
                    jobs.room(1)?;
                    jobs.push(Logged {
                        sector,
                        sectors,
                        at: at + skip,
                    });
                    sector += sectors;
                }
            }
        }
        jobs.sort_unstable_by_key(|job| job.at);
        Ok(jobs)
    }

    /// Reads `bytes` bytes of the log from `start` on, and writes of them what `jobs` say.
    fn write_window(
        &self,
        device: &Arc<dyn BlockIo>,
        start: u64,
        bytes: usize,
        jobs: &[Logged],
    ) -> Result<(), Errno> {
        let mut frames = kmem::try_vec(bytes.div_ceil(PAGE_SIZE))?;
        for at in (0..bytes).step_by(PAGE_SIZE) {
            frames.push(IoFrame {
                frame: Frame::alloc(Alloc::Wait)?,
                offset: 0,
                len: PAGE_SIZE.min(bytes - at),
            });
        }
        let sector = self.place.sector_of(start);
        let (frames, result) = specfs::transfer(&**device, BioOp::Read, sector, frames);
        result?;
        let going = kmem::try_arc(Going {
            state: Mutex::new((0, Ok(()))),
            settled: Condvar::new(),
        })?;
        let mut started = Ok(());
        for job in jobs {
            let from = (job.at - start) as usize;
            let to = (from + job.sectors as usize * SECTOR_SIZE).min(bytes);
            started = started.and_then(|()| going.start(device, job.sector, &frames, from, to));
        }
        going.wait().and(started)
    }
}

/// The position behind the contents of a job, which do not straddle the end.
fn end(job: &Logged) -> u64 {
    job.at + job.sectors * UNIT
}

/// Requests under way.
struct Going {
    state: Mutex<(usize, Result<(), Errno>)>,
    settled: Condvar,
}

impl Going {
    /// Starts writing bytes `from..to` of `frames`, which are whole pages but for the last.
    fn start(
        self: &Arc<Self>,
        device: &Arc<dyn BlockIo>,
        sector: u64,
        frames: &[IoFrame],
        from: usize,
        to: usize,
    ) -> Result<(), Errno> {
        let mut pieces = kmem::try_vec((to - from) / PAGE_SIZE + 2)?;
        let mut at = from;
        while at < to {
            let offset = at % PAGE_SIZE;
            let len = (PAGE_SIZE - offset).min(to - at);
            let frame = &frames.get(at / PAGE_SIZE).ok_or(Errno::EIO)?.frame;
            pieces.push(IoFrame {
                frame: frame.clone(),
                offset,
                len,
            });
            at += len;
        }
        let theirs = self.clone();
        let done = kmem::try_box(move |frames: Vec<IoFrame>, result: Result<(), Errno>| {
            drop(frames);
            let mut state = theirs.state.lock();
            state.0 -= 1;
            state.1 = state.1.and(result);
            drop(state);
            theirs.settled.notify_all();
        })?;
        self.state.lock().0 += 1;
        let bio = Bio {
            op: BioOp::Write,
            sector,
            frames: pieces,
            done,
        };
        if let Err((errno, bio)) = device.start(bio) {
            (bio.done)(bio.frames, Err(errno));
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        while state.0 > 0 {
            state = self.settled.wait(state);
        }
        state.1
    }
}

/// The newest header that is sound. A torn one is as if it had not been written.
fn newest(source: &dyn Source, place: &Place, fixed: &Fixed) -> Result<Header, LogError> {
    let mut page = Frame::alloc(Alloc::Wait)?;
    let page = page.get_mut().ok_or(Errno::EIO)?;
    let bytes = &mut page[..fixed.block() as usize];
    let mut slot = |slot: u64| {
        source.read(place.sector_of(slot << fixed.shift), bytes)?;
        Ok::<_, LogError>(fixed.decode_header(bytes, slot))
    };
    match (slot(0)?, slot(1)?) {
        (Ok(even), Ok(odd)) => {
            // The generations of two headers differ by one, also where the number wraps.
            let is_newer = odd.generation.wrapping_sub(even.generation) as i32 > 0;
            Ok(if is_newer { odd } else { even })
        }
        (Ok(header), Err(_)) | (Err(_), Ok(header)) => Ok(header),
        (Err(bad), Err(_)) => Err(bad.into()),
    }
}

/// A record, and what it must be measured by.
struct Record<'a> {
    fixed: &'a Fixed,
    bounds: &'a Bounds,
    place: &'a Place,
    at: u64,
    bytes: &'a [u8],
}

impl Record<'_> {
    fn bad(&self, field: &'static str, value: u64) -> BadLog {
        BadLog {
            at: self.at,
            field,
            value,
        }
    }

    fn word(&self, at: usize) -> u32 {
        self.fixed.order.u32(self.bytes, at)
    }

    fn kind(&self) -> u32 {
        self.word(0)
    }

    /// Its length, if it fits into the `left` bytes in use.
    fn len(&self, left: u64) -> Result<u64, BadLog> {
        let len = u64::from(self.word(4));
        if len == 0 || len > left || !len.is_multiple_of(self.fixed.block()) {
            return Err(self.bad("len", len));
        }
        Ok(len)
    }

    fn is_one_block(&self, len: u64) -> Result<(), BadLog> {
        if len != self.fixed.block() {
            return Err(self.bad("len", len));
        }
        Ok(())
    }

    fn count(&self, most: usize) -> Result<usize, BadLog> {
        let count = self.word(8) as usize;
        if count > most {
            return Err(self.bad("count", count as u64));
        }
        Ok(count)
    }

    fn clears(&self) -> bool {
        self.word(12) != 0
    }

    /// First sector and bytes of entry `n` of a list of blocks: inside the volume, and outside the log.
    fn block(&self, n: usize) -> Result<(u64, u64), BadLog> {
        let at = raw::LIST_HEAD + n * raw::BLOCK_ENTRY;
        let sector = self.fixed.order.u64(self.bytes, at);
        let bytes = u64::from(self.word(at + 12));
        let unit = self.fixed.block();
        if bytes == 0 || !bytes.is_multiple_of(unit) || bytes > self.fixed.circ_size {
            return Err(self.bad("length of a block", bytes));
        }
        let end = sector.checked_add(bytes / SECTOR_SIZE as u64);
        let in_volume = end.is_some_and(|end| end <= self.bounds.sectors);
        let aligned = sector.is_multiple_of(unit / SECTOR_SIZE as u64);
        if !in_volume || !aligned {
            return Err(self.bad("address of a block", sector));
        }
        let log = self.place.start..self.place.end();
        if sector < log.end && end.is_some_and(|end| end > log.start) {
            return Err(self.bad("address of a block", sector));
        }
        Ok((sector, bytes))
    }

    fn inode(&self, n: usize) -> Result<Orphan, BadLog> {
        let at = raw::LIST_HEAD + n * raw::INODE_ENTRY;
        let ino = self.word(at);
        if !self.bounds.inodes.contains(&ino) {
            return Err(self.bad("inode", u64::from(ino)));
        }
        Ok(Orphan {
            ino,
            mode: self.word(at + 4),
        })
    }
}
