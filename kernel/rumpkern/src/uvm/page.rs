//! Physical memory: the host's regions, one [`VmPage`] per page, the free lists, and [`Frame`].
//!
//! Free memory is kept by a buddy system, so a run of pages can be had as well as a single one, and
//! what is given back coalesces. A run is cut to its exact length: nothing is rounded up to a
//! power of two. Pages are taken into the free lists in small groups from the low end of each region on, so
//! that a host which commits memory lazily commits only what was needed, and `vm_page`s of memory
//! that is never used are never touched.
//!
//! A `VmPage` is 32 bytes and made of atomics only: any bytes are a valid one, and so the array lies
//! in the host's region as found. Its fields belong to whoever owns the page (a frame's references,
//! the LRU's links, a slab's free list) and are protected by the owner's lock.

use super::limit::{self, Purpose};
use crate::locks::short::{Short, enter};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use rumpuser::{Errno, PAGE_SIZE, Region};

/// The most regions that are used; a host with more has its small ones ignored.
const SEGMENTS: usize = 8;
/// Runs are at most `1 << (ORDERS - 1)` pages: 16 MiB.
const ORDERS: usize = 13;
/// Pages taken into the free lists at a time.
const READY_STEP: u32 = 64;
/// No page.
pub(crate) const NIL: u32 = u32::MAX;

/// The page is at the head of a free block of [`VmPage::order`].
const KIND_FREE: u8 = 1;
/// The page is inside a free block, or not in the free lists yet.
const KIND_NONE: u8 = 0;
/// The page is a [`Frame`].
pub(crate) const KIND_FRAME: u8 = 2;
/// The page is the first of a slab.
pub(crate) const KIND_SLAB: u8 = 3;
/// The page is a later one of a slab; `a` is the number of the first.
pub(crate) const KIND_SLAB_TAIL: u8 = 4;
/// The page is the first of a large allocation of `a` pages.
pub(crate) const KIND_LARGE: u8 = 5;

/// The frame was used since the pagedaemon last looked.
pub(crate) const FLAG_REFERENCED: u8 = 1;
/// The frame is on the inactive queue.
pub(crate) const FLAG_INACTIVE: u8 = 2;
/// The frame is on the active queue.
pub(crate) const FLAG_ACTIVE: u8 = 4;
/// The frame is on one of them, or on its way from one to the other.
pub(crate) const FLAG_QUEUED: u8 = 8;
/// It was read, and nobody has had it yet: the first use is what it was read for.
pub(crate) const FLAG_NEW: u8 = 16;

/// What is known of one page (struct vm_page).
#[repr(C)]
pub(crate) struct VmPage {
    /// Frame: handles.
    pub(crate) refs: AtomicU32,
    /// One of the `KIND_` values.
    pub(crate) kind: AtomicU8,
    /// Free: log2 of the block's length in pages. Slab: its class.
    pub(crate) order: AtomicU8,
    /// Frame: `FLAG_` bits.
    pub(crate) flags: AtomicU8,
    unused: AtomicU8,
    /// Links: free list, LRU queue, or list of slabs.
    pub(crate) next: AtomicU32,
    pub(crate) prev: AtomicU32,
    /// LRU: the owner's number. Slab: first free object and objects in use. Large: pages.
    pub(crate) a: AtomicU32,
    /// Slab: objects ever handed out.
    pub(crate) b: AtomicU32,
    /// LRU: the page's index in its object.
    pub(crate) index: AtomicU64,
}

const _: () = assert!(size_of::<VmPage>() == 32);

/// Bytes of bookkeeping per page.
pub(crate) const VM_PAGE_BYTES: usize = size_of::<VmPage>();

/// A run of the host's pages, and the numbers they have here.
#[derive(Clone, Copy)]
struct Segment {
    base: NonNull<u8>,
    pages: u32,
    first: u32,
}

/// All of it.
pub(crate) struct PhysMem {
    segments: [Segment; SEGMENTS],
    count: usize,
    pages: &'static [VmPage],
    /// Pages that the array takes.
    metadata: usize,
    free: Short<FreeLists>,
}

// SAFETY: segments are addresses of memory that belongs to the kernel for ever (contract of
// `rumpuser::Memory::regions`); the free lists are behind a lock, the rest does not change.
unsafe impl Send for PhysMem {}
// SAFETY: as above.
unsafe impl Sync for PhysMem {}

struct FreeLists {
    heads: [u32; ORDERS],
    /// How many pages of each segment have been taken into the free lists.
    ready: [u32; SEGMENTS],
}

static PHYSMEM: spin::Once<PhysMem> = spin::Once::new();

/// Physical memory, once [`load`] has been called.
#[inline]
pub(crate) fn physmem() -> Option<&'static PhysMem> {
    PHYSMEM.get()
}

/// Takes the host's regions into use; at most `wanted` pages of them if that is given. The first call
/// counts. Returns the pages managed, and how many more their `VmPage`s take.
pub(crate) fn load(regions: &[Region], wanted: Option<usize>) -> Option<(usize, usize)> {
    let physmem = PHYSMEM
        .try_call_once(|| PhysMem::new(regions, wanted).ok_or(()))
        .ok()?;
    Some((physmem.pages.len(), physmem.metadata))
}

impl PhysMem {
    fn new(regions: &[Region], wanted: Option<usize>) -> Option<PhysMem> {
        let mut segments = [Segment {
            base: NonNull::dangling(),
            pages: 0,
            first: 0,
        }; SEGMENTS];
        let mut count = 0;
        // NIL is no page number, and one region may not use the numbers up.
        let mut left = wanted.unwrap_or(usize::MAX).min(NIL as usize / 2);
        for region in regions.iter().take(SEGMENTS) {
            let pages = region.pages.min(left);
            if pages == 0 {
                continue;
            }
            left -= pages;
            segments[count] = Segment {
                base: region.base,
                pages: pages as u32,
                first: 0,
            };
            count += 1;
        }
        // The array goes to the start of the largest region.
        let total: usize = segments.iter().map(|s| s.pages as usize).sum();
        let metadata = (total * VM_PAGE_BYTES).div_ceil(PAGE_SIZE);
        let host = segments[..count].iter_mut().max_by_key(|s| s.pages)?;
        if host.pages as usize <= metadata + 1 {
            return None;
        }
        let array = host.base;
        // SAFETY: the region is `host.pages` pages long, more than `metadata`.
        host.base = unsafe { host.base.add(metadata * PAGE_SIZE) };
        host.pages -= metadata as u32;
        let mut first = 0;
        for segment in &mut segments[..count] {
            segment.first = first;
            first += segment.pages;
        }
        // SAFETY: `metadata` pages at `array` are the kernel's for ever, mapped and page aligned
        // (contract of `Memory::regions`), and hold `first <= total` elements; nobody else refers to
        // them since the segment was moved past them; any bytes make a valid `VmPage`.
        let pages =
            unsafe { core::slice::from_raw_parts(array.cast::<VmPage>().as_ptr(), first as usize) };
        Some(PhysMem {
            segments,
            count,
            pages,
            metadata,
            free: Short::new(FreeLists {
                heads: [NIL; ORDERS],
                ready: [0; SEGMENTS],
            }),
        })
    }

    /// The bookkeeping of page `number`.
    #[inline]
    pub(crate) fn page(&self, number: u32) -> &'static VmPage {
        &self.pages[number as usize]
    }

    #[inline]
    fn segment_of(&self, number: u32) -> &Segment {
        let mut at = 0;
        while at + 1 < self.count && number >= self.segments[at + 1].first {
            at += 1;
        }
        &self.segments[at]
    }

    /// Whether page `next` lies right behind page `number`, in the same segment.
    fn is_next(&self, number: u32, next: u32) -> bool {
        number + 1 == next && self.segment_of(number).first == self.segment_of(next).first
    }

    /// Where page `number` lies.
    #[inline]
    pub(crate) fn address(&self, number: u32) -> NonNull<u8> {
        let segment = self.segment_of(number);
        let offset = (number - segment.first) as usize * PAGE_SIZE;
        debug_assert!(offset < segment.pages as usize * PAGE_SIZE);
        // SAFETY: every page number lies in the segment that `segment_of` finds for it, so the
        // offset is inside that region.
        unsafe { segment.base.add(offset) }
    }

    /// The number of the page that `address` lies in; `None` for an address that is not ours.
    #[inline]
    pub(crate) fn number(&self, address: NonNull<u8>) -> Option<u32> {
        let address = address.addr().get();
        for segment in &self.segments[..self.count] {
            let offset = address.wrapping_sub(segment.base.addr().get());
            if offset < segment.pages as usize * PAGE_SIZE {
                return Some(segment.first + (offset / PAGE_SIZE) as u32);
            }
        }
        None
    }

    /// Takes a run of `pages` pages off the free lists.
    pub(crate) fn take(&self, pages: u32) -> Option<u32> {
        let order = pages.next_power_of_two().trailing_zeros() as usize;
        if order >= ORDERS {
            return None;
        }
        let mut free = enter(&self.free);
        let number = loop {
            if let Some(number) = self.take_block(&mut free, order) {
                break number;
            }
            if !self.make_ready(&mut free) {
                return None;
            }
        };
        self.put_run(&mut free, number + pages, (1 << order) - pages);
        Some(number)
    }

    /// Puts a run back; none is none.
    pub(crate) fn put(&self, number: u32, pages: u32) {
        let mut free = enter(&self.free);
        self.put_run(&mut free, number, pages);
    }

    /// Takes the pages behind a run too, if they are free: `pages` long now, `wanted` afterwards.
    pub(crate) fn extend(&self, number: u32, pages: u32, wanted: u32) -> bool {
        // Only a block that starts right behind is looked at: cheap, and what a vector that
        // grows at the end of memory meets.
        let mut free = enter(&self.free);
        let next = number + pages;
        let segment = self.segment_of(number);
        if next >= segment.first + segment.pages {
            return false;
        }
        let relative = next - segment.first;
        let ready = free.ready[self.segment_index(segment)];
        if relative >= ready || self.page(next).kind.load(Ordering::Relaxed) != KIND_FREE {
            return false;
        }
        let order = self.page(next).order.load(Ordering::Relaxed) as usize;
        let more = wanted - pages;
        if more > 1 << order {
            return false;
        }
        self.unlink(&mut free, next, order);
        self.put_run(&mut free, next + more, (1 << order) - more);
        true
    }

    /// The longest free run that a request could get now, in pages.
    pub(crate) fn largest_free(&self) -> u32 {
        let free = enter(&self.free);
        let unready = self.segments[..self.count]
            .iter()
            .zip(&free.ready)
            .map(|(segment, ready)| (segment.pages - ready).min(1 << (ORDERS - 1)))
            .max();
        let block = free.heads.iter().rposition(|head| *head != NIL);
        block
            .map_or(0, |order| 1 << order)
            .max(unready.unwrap_or(0))
    }

    fn segment_index(&self, segment: &Segment) -> usize {
        self.segments[..self.count]
            .iter()
            .position(|other| other.first == segment.first)
            .unwrap_or(0)
    }

    /// Takes a block of exactly `order`, splitting a larger one.
    fn take_block(&self, free: &mut FreeLists, order: usize) -> Option<u32> {
        let from = (order..ORDERS).find(|o| free.heads[*o] != NIL)?;
        let number = free.heads[from];
        self.unlink(free, number, from);
        for half in (order..from).rev() {
            self.push(free, number + (1 << half), half);
        }
        Some(number)
    }

    /// Takes more pages into the free lists. False if there are none left.
    fn make_ready(&self, free: &mut FreeLists) -> bool {
        for (index, segment) in self.segments[..self.count].iter().enumerate() {
            let ready = free.ready[index];
            let pages = (segment.pages - ready).min(READY_STEP);
            if pages == 0 {
                continue;
            }
            let first = segment.first + ready;
            for number in first..first + pages {
                self.page(number).clear();
            }
            free.ready[index] = ready + pages;
            self.put_run(free, first, pages);
            return true;
        }
        false
    }

    /// Puts a run back as the largest aligned blocks that it is made of.
    fn put_run(&self, free: &mut FreeLists, mut number: u32, mut pages: u32) {
        while pages > 0 {
            let segment = self.segment_of(number);
            let relative = number - segment.first;
            let order = relative
                .trailing_zeros()
                .min(pages.ilog2())
                .min(ORDERS as u32 - 1);
            let ready = free.ready[self.segment_index(segment)];
            self.put_block(free, segment, ready, number, order as usize);
            number += 1 << order;
            pages -= 1 << order;
        }
    }

    /// Puts a block back, merged with its buddies as far as they are free.
    fn put_block(
        &self,
        free: &mut FreeLists,
        segment: &Segment,
        ready: u32,
        number: u32,
        mut order: usize,
    ) {
        let mut relative = number - segment.first;
        while order + 1 < ORDERS {
            let buddy = relative ^ (1 << order);
            if buddy + (1 << order) > ready {
                break;
            }
            let page = self.page(segment.first + buddy);
            if page.kind.load(Ordering::Relaxed) != KIND_FREE
                || page.order.load(Ordering::Relaxed) as usize != order
            {
                break;
            }
            self.unlink(free, segment.first + buddy, order);
            relative = relative.min(buddy);
            order += 1;
        }
        self.push(free, segment.first + relative, order);
    }

    fn push(&self, free: &mut FreeLists, number: u32, order: usize) {
        let page = self.page(number);
        let next = free.heads[order];
        page.kind.store(KIND_FREE, Ordering::Relaxed);
        page.order.store(order as u8, Ordering::Relaxed);
        page.next.store(next, Ordering::Relaxed);
        page.prev.store(NIL, Ordering::Relaxed);
        if next != NIL {
            self.page(next).prev.store(number, Ordering::Relaxed);
        }
        free.heads[order] = number;
    }

    fn unlink(&self, free: &mut FreeLists, number: u32, order: usize) {
        let page = self.page(number);
        let next = page.next.load(Ordering::Relaxed);
        let prev = page.prev.load(Ordering::Relaxed);
        match prev {
            NIL => free.heads[order] = next,
            prev => self.page(prev).next.store(next, Ordering::Relaxed),
        }
        if next != NIL {
            self.page(next).prev.store(prev, Ordering::Relaxed);
        }
        page.kind.store(KIND_NONE, Ordering::Relaxed);
    }
}

impl VmPage {
    fn clear(&self) {
        self.refs.store(0, Ordering::Relaxed);
        self.kind.store(KIND_NONE, Ordering::Relaxed);
        self.flags.store(0, Ordering::Relaxed);
        self.unused.store(0, Ordering::Relaxed);
    }
}

/// How an allocation goes about it when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    /// Fails rather than waits.
    NoWait,
    /// Waits for the pagedaemon. Fails only if the request is larger than the limit, or if the
    /// pagedaemon has given up. A thread that must not wait ([`crate::lwp::MemoryUse`]) is treated as
    /// [`Alloc::PageDaemon`].
    Wait,
    /// May use the reserve, and does not wait: for whatever memory cannot be freed without.
    PageDaemon,
}

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE];

/// A page of memory with a count of its holders, like an `Arc<[u8; 4096]>`: cloning shares it,
/// the last drop frees it, and only a sole holder can write.
///
/// So a page of the cache can be lent to the network or be under way to the disk, while the cache
/// still holds it: whoever wants to change it finds it shared, and waits or copies.
pub struct Frame {
    /// Start of a page of `PHYSMEM` whose kind is `KIND_FRAME`; this handle is one of its `refs`.
    data: NonNull<PageBytes>,
}

// SAFETY: as for Arc<[u8; 4096]>: the count is atomic, the bytes are shared for reading only.
unsafe impl Send for Frame {}
// SAFETY: as above.
unsafe impl Sync for Frame {}

impl Frame {
    /// A page. What it contains is left over from before: any bytes.
    ///
    /// # Errors
    /// `ENOMEM`, depending on `how`.
    pub fn alloc(how: Alloc) -> Result<Frame, Errno> {
        let number = limit::take_pages(1, how, Purpose::Frame)?;
        let physmem = physmem().ok_or(Errno::ENOMEM)?;
        let page = physmem.page(number);
        page.flags.store(0, Ordering::Relaxed);
        page.kind.store(KIND_FRAME, Ordering::Relaxed);
        page.refs.store(1, Ordering::Relaxed);
        Ok(Frame {
            data: physmem.address(number).cast(),
        })
    }

    /// A page of zeros.
    ///
    /// # Errors
    /// As [`Frame::alloc`].
    pub fn alloc_zeroed(how: Alloc) -> Result<Frame, Errno> {
        let mut frame = Frame::alloc(how)?;
        if let Some(bytes) = frame.get_mut() {
            bytes.fill(0);
        }
        Ok(frame)
    }

    /// Drops handles, and gives back what that frees at once: waiters are woken once, and neighbours in memory are put back as one.
    pub fn drop_all(frames: impl Iterator<Item = Frame>) {
        let Some(physmem) = physmem() else { return };
        let mut freed = 0;
        let (mut first, mut count) = (0, 0);
        for frame in frames {
            let Some(number) = frame.let_go() else {
                continue;
            };
            if count == 0 || !physmem.is_next(first + count - 1, number) {
                physmem.put(first, count);
                (first, count) = (number, 0);
            }
            count += 1;
            freed += 1;
        }
        physmem.put(first, count);
        limit::give_budget(freed);
    }

    /// Ends the handle, without giving the page back: that is left to whoever is answered its number, if it was the last.
    fn let_go(self) -> Option<u32> {
        let number = self.end();
        core::mem::forget(self);
        number
    }

    /// What ending the handle takes, once. Answers the page's number if it was the last.
    fn end(&self) -> Option<u32> {
        let (_, number, page) = self.page();
        if page.refs.fetch_sub(1, Ordering::Release) != 1 {
            return None;
        }
        fence(Ordering::Acquire);
        super::lru::forget(number, page);
        Some(number)
    }

    /// Its bookkeeping.
    pub(crate) fn page(&self) -> (&'static PhysMem, u32, &'static VmPage) {
        let found = physmem().and_then(|physmem| {
            let number = physmem.number(self.data.cast())?;
            Some((physmem, number, physmem.page(number)))
        });
        found.expect("a frame is a page of physical memory")
    }

    fn refs(&self) -> &'static AtomicU32 {
        &self.page().2.refs
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &PageBytes {
        // SAFETY: the page belongs to this frame's holders while `self` lives; it is written only by
        // a sole holder's exclusive reference (`get_mut`), which cannot coexist with `&self` on the same
        // handle, or with another handle, or by a device while the DMA table holds the only handle. The
        // bytes came mapped and readable from the host, so they are initialised.
        unsafe { self.data.as_ref() }
    }

    /// The bytes to write, if this is the only handle.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut PageBytes> {
        if !self.is_unique() {
            return None;
        }
        // SAFETY: the only handle, borrowed exclusively: nobody else can reach the bytes, and no handle
        // can be made but from this one. The Acquire in `is_unique` orders the reads of former holders before.
        Some(unsafe { self.data.as_mut() })
    }

    /// Whether this is the only handle.
    pub fn is_unique(&self) -> bool {
        self.refs().load(Ordering::Acquire) == 1
    }

    /// How many handles there are.
    pub fn holders(&self) -> usize {
        self.refs().load(Ordering::Acquire) as usize
    }

    /// Whether both are handles of one page.
    pub fn ptr_eq(&self, other: &Frame) -> bool {
        self.data == other.data
    }

    /// Where the bytes are, for the DMA tables.
    pub(super) fn address(&self) -> NonNull<u8> {
        self.data.cast()
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        let before = self.refs().fetch_add(1, Ordering::Relaxed);
        assert!(before < u32::MAX / 2, "too many handles of one frame");
        Frame { data: self.data }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(number) = self.end() {
            limit::give_pages(number, 1);
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:p} x{})", self.data, self.holders())
    }
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
