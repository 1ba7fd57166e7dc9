//! Page cache: the contents of files, page by page.
//!
//! Each vnode has a `PageObject`: its pages by index. A page is *here* (it has a frame), or *busy*: it
//! is being read, and has no frame yet; or being changed, and somebody else has the frame; or being
//! written back, and can be read meanwhile. Whoever needs a busy page waits on the object's condition.
//!
//! - `getpages.rs`: brings pages in, in runs, with read-ahead (`readahead.rs`);
//! - `writeback.rs`: brings dirty pages out, in runs;
//! - `io.rs`: read and write of bytes, and pages for the network, on top of the two;
//! - `direct.rs`: what goes past the cache;
//! - `share.rs`: how many pages writers hold;
//! - `tree.rs`: where the pages of an object are kept.
//!
//! Frames are shared by reference: a page that is under way to the network or the disk is the page of the
//! cache. Whoever wants to change a page that is shared copies it first, so that what was lent
//! does not change.
//!
//! Locks: the object's lock is a leaf but for uvm's own. Nothing waits under it, allocates, or calls a
//! file system or a device: completions of I/O and the page daemon take it.

mod direct;
mod getpages;
mod io;
mod readahead;
mod share;
mod tree;
mod writeback;

pub use io::{MAX_LOAN, Patience};
pub use readahead::{FIRST_WINDOW, MAX_WINDOW, ReadAhead};

use crate::vnode::Vnode;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rumpkern::locks::{Condvar, Mutex, MutexGuard, OnceLock};
use rumpkern::uvm::lru::{self, Object, Owner, Reclaim, Reclaimed};
use rumpkern::uvm::{self, Frame};
use rumpuser::{Errno, PAGE_SIZE};
use tree::{Spare, Tree};

const PAGE: u64 = PAGE_SIZE as u64;
/// The most pages that are reclaimed at once.
const RECLAIMED: usize = 16;

/// A page of a file.
struct Page {
    /// `None` only while the page is busy.
    frame: Option<Frame>,
    busy: bool,
    /// The disk does not have these contents yet. The page has a tag in the tree, too.
    dirty: bool,
    /// It is dirty, and the last attempt to write it failed.
    failed: bool,
}

impl Page {
    /// Clean, nobody's but the cache's, and not used lately.
    fn is_cold(&self) -> bool {
        let is_cold = |frame: &Frame| frame.is_unique() && lru::is_cold(frame);
        !self.busy && !self.dirty && self.frame.as_ref().is_some_and(is_cold)
    }
}

const CLAIMED: Page = Page {
    frame: None,
    busy: true,
    dirty: false,
    failed: false,
};

struct State {
    tree: Tree<Page>,
    /// Dirty pages.
    dirty: usize,
    /// Those of them that could not be written.
    failed: usize,
    /// Pages being written.
    writing: usize,
    /// Why a write failed that nobody waited for; told to the next who asks for the file to be stable.
    write_error: Option<Errno>,
}

/// The pages of a vnode (`uvm_object`).
pub(crate) struct PageObject {
    state: Mutex<State>,
    /// A page is no longer busy.
    settled: Condvar,
    /// The vnode's name among the owners of pages; made with the first page.
    owner: OnceLock<Owner>,
}

impl PageObject {
    pub(crate) const fn new() -> PageObject {
        PageObject {
            state: Mutex::new(State {
                tree: Tree::new(),
                dirty: 0,
                failed: 0,
                writing: 0,
                write_error: None,
            }),
            settled: Condvar::new(),
            owner: OnceLock::new(),
        }
    }
}

/// What the page cache of a kernel does. All but the three last only grow.
#[derive(Default)]
pub(crate) struct PageCacheStats {
    hits: AtomicU64,
    misses: AtomicU64,
    reads: AtomicU64,
    pages_read: AtomicU64,
    pages_ahead: AtomicU64,
    longest_read: AtomicU64,
    read_errors: AtomicU64,
    writes: AtomicU64,
    pages_written: AtomicU64,
    write_errors: AtomicU64,
    pages_lost: AtomicU64,
    dirty: AtomicUsize,
    failed: AtomicUsize,
    readers: AtomicUsize,
}

/// A look at what the page cache of a kernel did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCacheCounts {
    /// Accesses to a page that was there or on its way.
    pub hits: u64,
    /// Accesses to a page that had to be read.
    pub misses: u64,
    /// Requests that read pages.
    pub reads: u64,
    /// Pages that they read.
    pub pages_read: u64,
    /// Pages whose reading was started before anyone asked for them.
    pub pages_ahead: u64,
    /// Pages of the longest read.
    pub longest_read: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Requests that wrote pages.
    pub writes: u64,
    /// Pages that they wrote.
    pub pages_written: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Dirty pages that were given up, since they could not be written.
    pub pages_lost: u64,
    /// Dirty pages now.
    pub dirty: usize,
    /// Those of them that could not be written so far.
    pub failed: usize,
    /// Open files that are being read sequentially now.
    pub readers: usize,
}

impl PageCacheStats {
    pub(crate) fn counts(&self) -> PageCacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PageCacheCounts {
            hits: get(&self.hits),
            misses: get(&self.misses),
            reads: get(&self.reads),
            pages_read: get(&self.pages_read),
            pages_ahead: get(&self.pages_ahead),
            longest_read: get(&self.longest_read),
            read_errors: get(&self.read_errors),
            writes: get(&self.writes),
            pages_written: get(&self.pages_written),
            write_errors: get(&self.write_errors),
            pages_lost: get(&self.pages_lost),
            dirty: self.dirty.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            readers: self.readers.load(Ordering::Relaxed),
        }
    }

    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// One more open file is read sequentially, or one fewer.
    pub(crate) fn reader(&self, comes: bool) {
        if comes {
            self.readers.fetch_add(1, Ordering::Relaxed);
        } else {
            self.readers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The read-ahead window that memory allows, in pages: a quarter of it for all readers together.
    fn max_window(&self) -> u32 {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        let share = uvm::limit_pages() / 4 / readers;
        u32::try_from(share)
            .unwrap_or(MAX_WINDOW)
            .clamp(4, MAX_WINDOW)
    }
}

impl Vnode {
    fn page_state(&self) -> MutexGuard<'_, State> {
        self.pages.state.lock()
    }

    /// The index after the last page of the file.
    fn end_page(&self) -> u64 {
        self.size().div_ceil(PAGE)
    }

    /// Makes pages from `first` on busy that are not there, up to `count`, and stops at the first that is.
    /// Answers how many. They are the caller's to publish or to give up.
    fn claim(self: &Arc<Self>, first: u64, count: u64) -> Result<u64, Errno> {
        if self.pages.owner.get().is_none() {
            let object: Arc<dyn Object> = self.clone();
            // If another thread was quicker, its owner stays and this one goes.
            let _ = self.pages.owner.set(Owner::new(Arc::downgrade(&object))?);
        }
        let mut spare = Spare::new();
        loop {
            let mut state = self.page_state();
            let absent = |&at: &u64| state.tree.get(first + at).is_none();
            let count = (0..count).take_while(absent).count() as u64;
            if count == 0 {
                return Ok(0);
            }
            let levels = state.tree.levels_for(first, count);
            if levels <= spare.len() {
                let fits = |&at: &u64| state.tree.insert(first + at, CLAIMED, &mut spare).is_ok();
                return Ok((0..count).take_while(fits).count() as u64);
            }
            drop(state);
            spare.fill(levels)?;
        }
    }

    /// Gives busy pages up: they are not there any more.
    fn unclaim(&self, pages: core::ops::Range<u64>) {
        let mut state = self.page_state();
        for index in pages {
            state.tree.remove(index);
        }
        drop(state);
        self.pages.settled.notify_all();
    }

    /// Settles a busy page: it is here, with this frame.
    fn publish(&self, state: &mut State, index: u64, frame: Frame, dirty: bool) {
        let Some(page) = state.tree.get_mut(index) else {
            return;
        };
        if let Some(owner) = self.pages.owner.get() {
            lru::enqueue(&frame, owner, index);
        }
        page.frame = Some(frame);
        page.busy = false;
        if dirty && !page.dirty {
            page.dirty = true;
            state.dirty += 1;
            state.tree.tag(index, true);
            self.mount()
                .page_stats()
                .dirty
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Page `index` is as the disk has it, or will never be.
    fn clean(&self, state: &mut State, index: u64) {
        let Some(page) = state.tree.get_mut(index) else {
            return;
        };
        if core::mem::replace(&mut page.failed, false) {
            state.failed -= 1;
            let stats = self.mount().page_stats();
            stats.failed.fetch_sub(1, Ordering::Relaxed);
        }
        if core::mem::replace(&mut page.dirty, false) {
            state.dirty -= 1;
            state.tree.tag(index, false);
            self.mount()
                .page_stats()
                .dirty
                .fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many pages are cached.
    pub fn cached_pages(&self) -> usize {
        self.page_state().tree.len()
    }

    /// How many pages are dirty.
    pub fn dirty_pages(&self) -> usize {
        self.page_state().dirty
    }

    /// How many dirty pages could not be written so far.
    pub fn failed_pages(&self) -> usize {
        self.page_state().failed
    }

    /// Whether the pages could be dropped without waiting; `false` as well if that cannot be said now.
    pub(crate) fn pages_are_clean(&self) -> bool {
        let Some(state) = self.pages.state.try_lock() else {
            return false;
        };
        if state.dirty != 0 {
            return false;
        }
        let mut at = 0;
        while let Some(index) = state.tree.next(at, false) {
            if state.tree.get(index).is_some_and(|page| page.busy) {
                return false;
            }
            at = index + 1;
        }
        true
    }

    /// Writes what is dirty and drops all pages: the vnode is being forgotten.
    pub(crate) fn release_pages(self: &Arc<Self>) {
        if self.dirty_pages() > 0
            && let Err(errno) = self.flush_pages(crate::vnode::Wait::Stable)
        {
            log::error!("{self:?}: dirty pages are lost: {errno}");
            self.mount().note_loss(errno);
        }
        self.drop_pages(0);
    }

    /// Drops every page from index `from` on, dirty or not, after what is under way.
    pub(crate) fn drop_pages(&self, from: u64) {
        let mut state = self.page_state();
        let mut at = from;
        while let Some(index) = state.tree.next(at, false) {
            if state.tree.get(index).is_some_and(|page| page.busy) {
                state = self.pages.settled.wait(state);
                at = from;
                continue;
            }
            at = index + 1;
            self.clean(&mut state, index);
            if let Some(Page {
                frame: Some(frame), ..
            }) = state.tree.remove(index)
            {
                // It may have been lent, and live on.
                lru::dequeue(&frame);
            }
        }
    }
}

impl Object for Vnode {
    fn reclaim(&self, index: u64, most: usize, how: Reclaim) -> Reclaimed {
        let Some(mut state) = self.pages.state.try_lock() else {
            return Reclaimed::Busy;
        };
        let Some(page) = state.tree.get(index) else {
            return Reclaimed::Gone;
        };
        if page.busy {
            return Reclaimed::Busy;
        }
        if page.frame.as_ref().is_some_and(|frame| !frame.is_unique()) {
            return Reclaimed::Referenced;
        }
        if page.failed {
            // The syncer and whoever wants the file to be stable try again.
            return Reclaimed::Referenced;
        }
        if page.dirty {
            drop(state);
            return match how {
                Reclaim::CleanOnly => Reclaimed::Busy,
                Reclaim::MayWrite => self.pageout(index),
            };
        }
        let mut frames = [const { None }; RECLAIMED];
        let mut count = 0;
        loop {
            let page = state.tree.remove(index + count as u64);
            frames[count] = page.and_then(|page| page.frame);
            count += 1;
            if count >= most.min(RECLAIMED) {
                break;
            }
            let next = state.tree.get(index + count as u64);
            if !next.is_some_and(Page::is_cold) {
                break;
            }
        }
        drop(state);
        Frame::drop_all(frames.into_iter().flatten());
        Reclaimed::Freed(count)
    }
}
