//! Bringing dirty pages out.
//!
//! Pages are written in runs of neighbours by file offset, up to `CLUSTER` pages. The file system says where
//! they lie; their blocks were allocated when the pages were dirtied, so that cleaning needs no
//! allocation and takes no lock but the ones inside `bmap`. A page on its way out is busy, and
//! stays readable: the device reads the very frame that the cache holds.
//!
//! If there is no memory to start a write, the pages stay dirty, and only who waits for it is told.
//!
//! If a write fails, the pages stay dirty, the log says so, and the next who asks for the file to be
//! stable gets the error, as does whoever writes to the file before it could be made stable. The syncer, fsync
//! and sync try again; the pagedaemon does not. So that memory is not used up by pages that can never be
//! written, no more than an eighth of it may be kept so: pages that fail then are *lost*. They are dropped, the
//! log says which, and the error is told to the next fsync of the file and to the next sync or unmount of its mount.

use super::{PAGE, PageCacheStats, State};
use crate::vnode::{Vnode, Wait};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use rumpkern::kmem;
use rumpkern::locks::{Mutex, MutexGuard};
use rumpkern::uvm::dma::{Bio, BioOp, IoFrame};
use rumpkern::uvm::lru::{self, Reclaimed};
use rumpkern::uvm::{self, Frame, Pageout};
use rumpuser::{Errno, SECTOR_SIZE};

/// The most pages that are written as one run: 128 KiB.
const CLUSTER: usize = 32;
/// The most pages of one file that are under way at once.
const MAX_WRITING: usize = 4 * CLUSTER;

/// A run of pages under way to the disk, in however many requests. When the last of them is done, the
/// last reference goes, and that settles the pages.
struct Going {
    vnode: Arc<Vnode>,
    first: u64,
    count: u64,
    result: Mutex<Result<(), Errno>>,
    pageout: Mutex<Option<Pageout>>,
}

impl Drop for Going {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let result = *self.result.get_mut();
        let pageout = self.pageout.get_mut().take();
        self.vnode
            .write_done(self.first..self.first + self.count, result, pageout);
    }
}

impl Vnode {
    /// Starts writing page `index` and its dirty neighbours, to free them. Waits for nothing.
    pub(super) fn pageout(&self, index: u64) -> Reclaimed {
        let Some(vnode) = self.me() else {
            return Reclaimed::Gone;
        };
        match vnode.write_run(index, true) {
            Ok(0) | Err(_) => Reclaimed::Busy,
            Ok(pages) => Reclaimed::PageoutStarted(pages),
        }
    }

    /// Writes every dirty page, and waits for them as far as `wait` says.
    ///
    /// # Errors
    /// The first error of a write since the last call that waited.
    pub fn flush_pages(self: &Arc<Self>, wait: Wait) -> Result<(), Errno> {
        if wait == Wait::Stable {
            // What there was no memory for is tried now.
            let mut state = self.page_state();
            state.write_error.take_if(|errno| *errno == Errno::ENOMEM);
        }
        self.start_pages()?;
        if wait == Wait::Started {
            return Ok(());
        }
        let mut state = self.written();
        state.write_error.take().map_or(Ok(()), Err)
    }

    /// Writes every dirty page, and waits for them; if memory for that is short, for a while longer. How that went is told to whoever
    /// flushes the file next.
    pub fn settle_pages(self: &Arc<Self>) {
        // What comes after this is not to overtake the pages for want of memory.
        let settled = kmem::insist(|| {
            let started = self.start_pages();
            let mut state = self.written();
            if let Err(errno) = started {
                state.write_error = Some(errno);
            }
            let short = state.write_error.take_if(|errno| *errno == Errno::ENOMEM);
            short.map_or(Ok(()), Err)
        });
        if let Err(errno) = settled {
            self.page_state().write_error.get_or_insert(errno);
        }
    }

    /// Starts writing every dirty page.
    fn start_pages(self: &Arc<Self>) -> Result<(), Errno> {
        let mut at = 0;
        loop {
            let mut state = self.page_state();
            while state.writing > MAX_WRITING {
                state = self.pages.settled.wait(state);
            }
            let Some(index) = state.tree.next(at, true) else {
                return Ok(());
            };
            drop(state);
            let written = self.write_run(index, false)?;
            at = index + (written as u64).max(1);
        }
    }

    /// Waits until no page is being written.
    fn written(&self) -> MutexGuard<'_, State> {
        let mut state = self.page_state();
        while state.writing > 0 {
            state = self.pages.settled.wait(state);
        }
        state
    }

    /// Starts writing page `index` and its dirty neighbours: those before it only for a pageout, since a
    /// flush has been there. Answers how many pages it is about.
    fn write_run(self: &Arc<Self>, index: u64, pageout: bool) -> Result<usize, Errno> {
        let mut frames: Vec<Frame> = kmem::try_vec(CLUSTER)?;
        // Made beforehand, for nothing is to be undone if there is no memory for it. It stands for no page yet.
        let mut going = kmem::try_arc(Going {
            vnode: self.clone(),
            first: 0,
            count: 0,
            result: Mutex::new(Ok(())),
            pageout: Mutex::new(None),
        })?;
        let Some(mut state) = self.pages.state.try_lock().or_else(|| {
            // The page daemon only tries.
            (!pageout).then(|| self.page_state())
        }) else {
            return Ok(0);
        };
        let ready = |index: u64| {
            let page = state.tree.get(index);
            page.is_some_and(|page| page.dirty && !page.busy && !(pageout && page.failed))
        };
        if !ready(index) {
            return Ok(0);
        }
        let mut first = index;
        while pageout && first > 0 && index - first < CLUSTER as u64 / 2 && ready(first - 1) {
            first -= 1;
        }
        let mut past = index + 1;
        while past - first < CLUSTER as u64 && ready(past) {
            past += 1;
        }
        for at in first..past {
            if let Some(page) = state.tree.get_mut(at)
                && let Some(frame) = &page.frame
            {
                frames.push(frame.clone());
                page.busy = true;
            }
        }
        state.writing += frames.len();
        drop(state);
        let count = frames.len();
        if let Some(going) = Arc::get_mut(&mut going) {
            going.first = first;
            going.count = count as u64;
            *going.pageout.get_mut() = pageout.then(|| uvm::pageout_started(count));
        }
        PageCacheStats::add(&self.mount().page_stats().pages_written, count as u64);
        if let Err(errno) = self.start_writes(&going, frames) {
            *going.result.lock() = Err(errno);
        }
        Ok(count)
    }

    /// Starts a request for every piece of the run that lies together on the device.
    fn start_writes(self: &Arc<Self>, going: &Arc<Going>, frames: Vec<Frame>) -> Result<(), Errno> {
        let device = self.mount().device().ok_or(Errno::ENXIO)?;
        let info = device.info();
        let start = going.first * PAGE;
        let file_end = self.size().next_multiple_of(u64::from(info.sector_size));
        let end = (start + going.count * PAGE).min(file_end);
        let mut at = start;
        while at < end {
            let run = self.extent(at, end - at, end)?;
            let bytes = run.bytes.min(end - at).min(info.max_bytes as u64);
            let Some(sector) = run.sector else {
                // A page may lie partly in a hole; that part is zeroes. One that lies there wholly was
                // dirtied without a block.
                if at.next_multiple_of(PAGE) + PAGE <= at + bytes {
                    log::error!("{self:?}: dirty page at byte {at} has no block");
                    return Err(Errno::EIO);
                }
                at += bytes;
                continue;
            };
            let pieces = pieces(&frames, at - start, bytes)?;
            PageCacheStats::add(&self.mount().page_stats().writes, 1);
            let theirs = going.clone();
            let done = move |frames: Vec<IoFrame>, result: Result<(), Errno>| {
                // The frames go first: the pages are freed when `theirs` is the last.
                drop(frames);
                if result.is_err() {
                    *theirs.result.lock() = result;
                }
            };
            let bio = Bio {
                op: BioOp::Write,
                sector,
                frames: pieces,
                done: kmem::try_box(done)?,
            };
            device.start(bio).map_err(|(errno, _)| errno)?;
            at += bytes;
        }
        Ok(())
    }

    /// A run was written, or not.
    fn write_done(
        &self,
        pages: core::ops::Range<u64>,
        result: Result<(), Errno>,
        pageout: Option<Pageout>,
    ) {
        // Where the pages lie could not be said without waiting, or there was no memory to start: the disk took nothing amiss, and
        // the page daemon or the syncer comes again.
        let untried = matches!(result, Err(Errno::EDEADLK | Errno::ENOMEM));
        let failed = result.err().filter(|_| !untried);
        if let Some(errno) = failed {
            PageCacheStats::add(&self.mount().page_stats().write_errors, 1);
            log::error!("{self:?}: pages {pages:?} could not be written: {errno}");
        }
        let (mut freed, mut lost) = (0, 0);
        let mut state = self.page_state();
        state.writing -= (pages.end - pages.start) as usize;
        if failed.is_some() {
            state.write_error = failed;
        } else if result == Err(Errno::ENOMEM) {
            // For those who wait.
            state.write_error.get_or_insert(Errno::ENOMEM);
        }
        for index in pages.clone() {
            let gives_up = failed.is_some() && !self.keep_failed(&mut state, index);
            if result.is_ok() || gives_up {
                self.clean(&mut state, index);
            }
            let Some(page) = state.tree.get_mut(index) else {
                continue;
            };
            page.busy = false;
            let sole = page.frame.as_ref().is_some_and(Frame::is_unique);
            let written_to_be_freed = pageout.is_some() && result.is_ok() && sole;
            if !written_to_be_freed && !gives_up {
                continue;
            }
            freed += usize::from(sole);
            lost += u64::from(gives_up);
            let page = state.tree.remove(index);
            if let Some(frame) = page.and_then(|page| page.frame).filter(|_| !sole) {
                // It may have been lent, and live on.
                lru::dequeue(&frame);
            }
        }
        drop(state);
        if let Some(errno) = failed.filter(|_| lost > 0) {
            PageCacheStats::add(&self.mount().page_stats().pages_lost, lost);
            log::error!("{self:?}: {lost} of pages {pages:?} are lost");
            self.mount().note_loss(errno);
        }
        self.pages.settled.notify_all();
        if let Some(pageout) = pageout {
            pageout.done(freed);
        }
    }

    /// Page `index` could not be written. Whether it is kept, to be tried again.
    fn keep_failed(&self, state: &mut State, index: u64) -> bool {
        let Some(page) = state.tree.get_mut(index).filter(|page| !page.failed) else {
            return true;
        };
        let stats = self.mount().page_stats();
        if stats.failed.fetch_add(1, Ordering::Relaxed) >= uvm::limit_pages() / 8 {
            stats.failed.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        page.failed = true;
        state.failed += 1;
        true
    }

    /// Makes the file stable: its pages, then its metadata, with the device.
    ///
    /// # Errors
    /// `EIO` and the like.
    pub fn fsync(self: &Arc<Self>) -> Result<(), Errno> {
        self.flush_pages(Wait::Stable)?;
        let locked = self.lock_exclusive();
        self.ops().update()?;
        // The device may take long: whoever looks at the file meanwhile, or lists a directory with it, is not to wait.
        drop(locked);
        self.ops().fsync(self, Wait::Stable)
    }
}

/// The parts of `frames` that make up the `bytes` bytes from `skip` on.
fn pieces(frames: &[Frame], skip: u64, bytes: u64) -> Result<Vec<IoFrame>, Errno> {
    let mut pieces = kmem::try_vec((bytes / PAGE) as usize + 2)?;
    let mut at = skip;
    let end = skip + bytes;
    while at < end {
        let frame = frames.get((at / PAGE) as usize).ok_or(Errno::EIO)?;
        let offset = at % PAGE;
        let len = (PAGE - offset).min(end - at);
        pieces.push(IoFrame {
            frame: frame.clone(),
            offset: offset as usize,
            len: len as usize,
        });
        at += len;
    }
    debug_assert!(bytes.is_multiple_of(SECTOR_SIZE as u64));
    Ok(pieces)
}
