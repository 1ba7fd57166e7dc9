//! Bringing pages in.
//!
//! Pages are read in runs. The reader claims a run of absent pages (they are busy, and have no frame),
//! asks the file system where they lie and starts one request for every piece that lies together on
//! the device; completions publish the pages. Then it waits for the page that it needs.
//!
//! If a run fails, its pages are simply absent again: whoever waited for one reads it alone, and
//! gets that read's own result. So an error reaches exactly the readers of the bad page.

use super::{PAGE, PageCacheStats};
use crate::specfs::{self, BlockIo};
use crate::vnode::{Run, Vnode};
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::kmem;
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::{self, Alloc, Frame, Transit, lru};
use rumpuser::{Errno, PAGE_SIZE, SECTOR_SIZE};

/// The most pages that are read in one go.
const MAX_RUN: u64 = 128;
/// Pages that a sequential reader waits for if he must.
const MIN_RUN: u64 = 16;

/// Where a page lies.
enum Place {
    Disk(u64),
    Hole,
    /// In several pieces, or partly in a hole.
    Pieces,
}

/// A request in the making: whole pages (but for the end of the file) that lie together.
struct Batch {
    first: u64,
    sector: u64,
    bytes: u64,
    frames: Vec<IoFrame>,
}

/// The run found last: consecutive pages mostly lie in it.
struct Map {
    start: u64,
    run: Run,
}

impl Vnode {
    /// Page `index` of the file. If it must be read, so are the pages after it, `run` in all, as far as they are
    /// absent. `is_new`: the caller did not have the page just before.
    pub(super) fn page(
        self: &Arc<Self>,
        index: u64,
        run: u64,
        is_new: bool,
    ) -> Result<Frame, Errno> {
        let stats = self.mount().page_stats();
        let mut missed = false;
        let mut alone = run <= 1;
        loop {
            let mut state = self.page_state();
            while let Some(page) = state.tree.get(index) {
                if let Some(frame) = &page.frame {
                    if is_new {
                        lru::mark_used(frame);
                    }
                    if !missed {
                        PageCacheStats::add(&stats.hits, 1);
                    }
                    return Ok(frame.clone());
                }
                state = self.pages.settled.wait(state);
                // If it is absent now, its run failed, or it is gone already.
                alone = true;
            }
            drop(state);
            if !missed {
                missed = true;
                PageCacheStats::add(&stats.misses, 1);
            }
            if alone {
                if let Some(frame) = self.read_alone(index)? {
                    return Ok(frame);
                }
            } else {
                alone = true;
                self.start_run(index, run, true)?;
            }
        }
    }

    /// Page `index`, if it is here.
    pub(super) fn resident(&self, index: u64) -> Option<Frame> {
        let state = self.page_state();
        let frame = state.tree.get(index)?.frame.as_ref()?;
        lru::mark_used(frame);
        Some(frame.clone())
    }

    /// The pages from `first` on, before `past`, as far as all of them are here and `frames` has room.
    pub(super) fn resident_run(&self, first: u64, past: u64, frames: &mut [Option<Frame>]) {
        let state = self.page_state();
        let mut found = 0;
        for (place, index) in frames.iter_mut().zip(first..past) {
            let Some(frame) = state.tree.get(index).and_then(|page| page.frame.as_ref()) else {
                break;
            };
            lru::mark_used(frame);
            *place = Some(frame.clone());
            found += 1;
        }
        drop(state);
        PageCacheStats::add(&self.mount().page_stats().hits, found);
    }

    /// Starts reading what is absent of the `count` pages from `first` on, as far as memory is at hand.
    pub(super) fn read_ahead(self: &Arc<Self>, first: u64, count: u64) {
        let mut at = first;
        while at < first + count {
            let state = self.page_state();
            let next = (at..first + count).find(|&index| state.tree.get(index).is_none());
            drop(state);
            let Some(next) = next else {
                return;
            };
            match self.start_run(next, first + count - next, false) {
                Ok(started) if started > 0 => {
                    PageCacheStats::add(&self.mount().page_stats().pages_ahead, started);
                    at = next + started;
                }
                // No memory, or a map that cannot be read: whoever needs the page will see.
                _ => return,
            }
        }
    }

    /// Starts reading a run of absent pages: `first` and up to `count` in all. Waits for memory for the
    /// first ones if they are `needed`. Answers how many pages it is about.
    pub(super) fn start_run(
        self: &Arc<Self>,
        first: u64,
        count: u64,
        needed: bool,
    ) -> Result<u64, Errno> {
        let count = count
            .min(MAX_RUN)
            .min(self.end_page().saturating_sub(first));
        let mut frames = kmem::try_vec(count as usize)?;
        if needed && uvm::short() {
            // Where the first one lies is found out before there are pages in hand: readers who had theirs, and waited for one
            // more, for a map, would wait for each other.
            let end = self.size().next_multiple_of(SECTOR_SIZE as u64);
            self.extent(first * PAGE, 0, end)?;
        }
        // Even when memory is short a sequential reader moves in runs, of 64 KiB if that is little of it all.
        let waited_for = match needed {
            true => count.min((uvm::limit_pages() as u64 / 64).clamp(1, MIN_RUN)),
            false => 0,
        };
        while (frames.len() as u64) < waited_for {
            match Frame::alloc(Alloc::Wait) {
                Ok(frame) => frames.push(frame),
                Err(errno) if frames.is_empty() => return Err(errno),
                Err(_) => break,
            }
        }
        // The last of the memory is for those who need it; but what was read before can make room.
        let mut recycled = 0;
        while (frames.len() as u64) < count {
            if recycled == 0 && uvm::short() {
                recycled = uvm::recycle(count as usize - frames.len());
                if recycled == 0 {
                    break;
                }
            }
            match Frame::alloc(Alloc::NoWait) {
                Ok(frame) => frames.push(frame),
                Err(_) => break,
            }
            recycled = recycled.saturating_sub(1);
        }
        let claimed = self.claim(first, frames.len() as u64)?;
        frames.truncate(claimed as usize);
        self.read_claimed(first, frames)?;
        Ok(claimed)
    }

    /// Reads claimed pages into `frames`; the completions publish them.
    fn read_claimed(self: &Arc<Self>, first: u64, frames: Vec<Frame>) -> Result<(), Errno> {
        let device = self.mount().device().cloned();
        let unit = device
            .as_ref()
            .map_or(SECTOR_SIZE as u64, |it| it.info().sector_size.into());
        let most = device
            .as_ref()
            .map_or(PAGE, |it| it.info().max_bytes as u64);
        let past = first + frames.len() as u64;
        // What lies on the disk ends with the sector that the file ends in.
        let end = (past * PAGE).min(self.size().next_multiple_of(unit));
        let mut map = None;
        let mut batch: Option<Batch> = None;
        let mut result = Ok(());
        for (index, mut frame) in (first..).zip(frames) {
            let start = index * PAGE;
            let want = end.saturating_sub(start).min(PAGE);
            match self.place(&mut map, start, want, end) {
                Ok(Place::Disk(sector)) => {
                    let io = IoFrame {
                        frame,
                        offset: 0,
                        len: want as usize,
                    };
                    batch =
                        match self.add(batch, index, sector, io, most.min((past - index) * PAGE)) {
                            Ok(batch) => Some(batch),
                            Err(errno) => {
                                self.unclaim(index..past);
                                return if index == first { Err(errno) } else { Ok(()) };
                            }
                        };
                }
                Ok(Place::Hole) => {
                    if let Some(bytes) = frame.get_mut() {
                        bytes.fill(0);
                    }
                    self.publish_read(index, frame);
                }
                Ok(Place::Pieces) if index == first => match self.fill(index, frame) {
                    Ok(frame) => self.publish_read(index, frame),
                    Err(errno) => {
                        self.unclaim(index..past);
                        return Err(errno);
                    }
                },
                Ok(Place::Pieces) => {
                    self.unclaim(index..past);
                    break;
                }
                Err(errno) => {
                    self.unclaim(index..past);
                    if index == first {
                        result = Err(errno);
                    }
                    break;
                }
            }
        }
        if let Some(batch) = batch {
            self.submit(batch);
        }
        result
    }

    /// Where the `want` bytes from `start` on lie.
    fn place(
        &self,
        map: &mut Option<Map>,
        start: u64,
        want: u64,
        end: u64,
    ) -> Result<Place, Errno> {
        let known = map.as_ref().filter(|map| start < map.start + map.run.bytes);
        if known.is_none() {
            *map = Some(Map {
                start,
                run: self.extent(start, want, end)?,
            });
        }
        let Some(map) = map else {
            return Err(Errno::EIO);
        };
        let skip = start - map.start;
        if map.run.bytes - skip < want {
            let again = self.extent(start, want, end)?;
            *map = Map { start, run: again };
            if again.bytes < want {
                return Ok(Place::Pieces);
            }
        }
        let skip = start - map.start;
        Ok(match map.run.sector {
            Some(sector) => Place::Disk(sector + skip / SECTOR_SIZE as u64),
            None => Place::Hole,
        })
    }

    /// The run at `start`, put together from several of the file system's until it is `want` long, if
    /// they lie together.
    pub(super) fn extent(&self, start: u64, want: u64, end: u64) -> Result<Run, Errno> {
        let mut run = self.run_at(start, end)?;
        while run.bytes < want {
            let next = self.run_at(start + run.bytes, end)?;
            let follows = run
                .sector
                .map(|sector| sector + run.bytes / SECTOR_SIZE as u64);
            if next.sector != follows {
                break;
            }
            run.bytes += next.bytes;
        }
        Ok(run)
    }

    /// What the file system says, in whole sectors.
    fn run_at(&self, start: u64, end: u64) -> Result<Run, Errno> {
        let mut run = self.ops().bmap(start, end.saturating_sub(start))?;
        run.bytes -= run.bytes % SECTOR_SIZE as u64;
        if run.bytes == 0 {
            log::error!("{self:?}: no place for byte {start}");
            return Err(Errno::EIO);
        }
        Ok(run)
    }

    /// Adds a page to the request in the making, or starts that one and begins another, of `most` bytes at most.
    /// On an error the request has been started, and the page is the caller's to give up.
    fn add(
        self: &Arc<Self>,
        batch: Option<Batch>,
        index: u64,
        sector: u64,
        io: IoFrame,
        most: u64,
    ) -> Result<Batch, Errno> {
        let bytes = io.len as u64;
        if let Some(mut batch) = batch {
            let follows = batch.sector + batch.bytes / SECTOR_SIZE as u64 == sector
                && batch.first + batch.frames.len() as u64 == index
                && batch.frames.len() < batch.frames.capacity();
            if follows {
                batch.bytes += bytes;
                batch.frames.push(io);
                return Ok(batch);
            }
            self.submit(batch);
        }
        let mut frames = kmem::try_vec((most / PAGE).max(1) as usize)?;
        frames.push(io);
        Ok(Batch {
            first: index,
            sector,
            bytes,
            frames,
        })
    }

    fn submit(self: &Arc<Self>, batch: Batch) {
        let pages = batch.frames.len() as u64;
        let stats = self.mount().page_stats();
        PageCacheStats::add(&stats.reads, 1);
        PageCacheStats::add(&stats.pages_read, pages);
        stats
            .longest_read
            .fetch_max(pages, core::sync::atomic::Ordering::Relaxed);
        let first = batch.first;
        let Some(device) = self.mount().device() else {
            self.read_done(first, batch.frames, Err(Errno::ENXIO));
            return;
        };
        let vnode = self.clone();
        let transit = Transit::begin(pages as usize);
        let done = kmem::try_box(move |frames, result| {
            vnode.read_done(first, frames, result);
            drop(transit);
        });
        let done = match done {
            Ok(done) => done,
            Err(errno) => {
                self.read_done(first, batch.frames, Err(errno));
                return;
            }
        };
        let bio = Bio {
            op: BioOp::Read,
            sector: batch.sector,
            frames: batch.frames,
            done,
        };
        if let Err((errno, bio)) = device.start(bio) {
            log::error!("{self:?}: cannot read page {first}: {errno}");
            self.read_done(first, bio.frames, Err(errno));
        }
    }

    /// A run has come, or not.
    fn read_done(&self, first: u64, frames: Vec<IoFrame>, result: Result<(), Errno>) {
        if result.is_err() {
            PageCacheStats::add(&self.mount().page_stats().read_errors, 1);
            self.unclaim(first..first + frames.len() as u64);
            return;
        }
        let mut frames = frames;
        for (index, io) in (first..).zip(&mut frames) {
            self.zero_tail(index, io.len, &mut io.frame);
        }
        let mut state = self.page_state();
        for (index, io) in (first..).zip(frames) {
            lru::mark_new(&io.frame);
            self.publish(&mut state, index, io.frame, false);
        }
        drop(state);
        self.pages.settled.notify_all();
    }

    fn publish_read(&self, index: u64, frame: Frame) {
        self.publish(&mut self.page_state(), index, frame, false);
        self.pages.settled.notify_all();
    }

    /// What is in a page beyond the end of the file, or was not read, reads as zeroes.
    fn zero_tail(&self, index: u64, read: usize, frame: &mut Frame) {
        let inside = self.size().saturating_sub(index * PAGE).min(PAGE) as usize;
        let valid = inside.min(read);
        if valid < PAGE_SIZE
            && let Some(bytes) = frame.get_mut()
        {
            bytes[valid..].fill(0);
        }
    }

    /// Reads one absent page, in this thread. `None`: it is not absent any more.
    fn read_alone(self: &Arc<Self>, index: u64) -> Result<Option<Frame>, Errno> {
        let frame = Frame::alloc(Alloc::Wait)?;
        if self.claim(index, 1)? == 0 {
            return Ok(None);
        }
        match self.fill(index, frame) {
            Ok(frame) => {
                self.publish_read(index, frame.clone());
                Ok(Some(frame))
            }
            Err(errno) => {
                PageCacheStats::add(&self.mount().page_stats().read_errors, 1);
                self.unclaim(index..index + 1);
                Err(errno)
            }
        }
    }

    /// Reads the contents of page `index` into `frame`, piece by piece.
    fn fill(&self, index: u64, mut frame: Frame) -> Result<Frame, Errno> {
        if let Some(bytes) = frame.get_mut() {
            bytes.fill(0);
        }
        let start = index * PAGE;
        let stats = self.mount().page_stats();
        PageCacheStats::add(&stats.pages_read, 1);
        let Some(device) = self.mount().device() else {
            return Ok(frame);
        };
        let unit = u64::from(device.info().sector_size);
        let end = (start + PAGE).min(self.size().next_multiple_of(unit));
        let mut at = start;
        while at < end {
            let run = self.extent(at, end - at, end)?;
            let bytes = run.bytes.min(end - at);
            if let Some(sector) = run.sector {
                PageCacheStats::add(&stats.reads, 1);
                let offset = (at - start) as usize;
                frame = read_piece(&**device, sector, frame, offset, bytes as usize)?;
            }
            at += bytes;
        }
        self.zero_tail(index, PAGE_SIZE, &mut frame);
        Ok(frame)
    }
}

fn read_piece(
    device: &dyn BlockIo,
    sector: u64,
    frame: Frame,
    offset: usize,
    len: usize,
) -> Result<Frame, Errno> {
    let mut frames = kmem::try_vec(1)?;
    frames.push(IoFrame { frame, offset, len });
    let (mut frames, result) = specfs::transfer(device, BioOp::Read, sector, frames);
    result?;
    frames.pop().map(|io| io.frame).ok_or(Errno::EIO)
}
