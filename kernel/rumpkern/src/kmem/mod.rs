//! The kernel's allocator (kmem(9)): slabs over pages, behind `alloc`.
//!
//! Small objects come from slabs: one or a few pages cut into objects of one size. What a slab needs
//! to know is in the `vm_page` of its first page and in its free objects, so an object has no header and
//! a page of 64-byte objects holds 64. Larger ones are runs of whole pages. Sizes go in steps of 16
//! bytes up to 256 and then so that little of a slab is left over; see `classes.rs`.
//!
//! A class of which there are few objects has no slab of its own: it *borrows* free objects of the next larger classes,
//! up to half a slab's worth. So thirty kinds of object do not hold thirty pages that are nearly empty.
//!
//! An empty slab of one page is kept if its class has no other empty one and memory is plenty, or not short and the
//! class has slabs in use; else it goes back at once. The pagedaemon takes those that are kept. Each class has a lock of its own, held for some tens of nanoseconds.
//!
//! An allocation by an lwp waits for the pagedaemon when memory is short (see `uvm/limit.rs`). It fails
//! only if the request can never be met, or the thread must not wait. For what an input can make
//! arbitrarily large or many, use [`try_vec`], [`try_box`], [`try_arc`], [`Room`]: a refusal is then an `Errno`.

#![allow(unsafe_code)]

mod classes;
mod fallible;
mod stats;

pub use fallible::{Room, Run, insist, insist_box, room_by, try_arc, try_box, try_vec};
pub(crate) use stats::counters;
pub use stats::{ClassStats, KmemStats, class_stats, stats};

use crate::locks::short::{Short, enter};
use crate::uvm::{
    self, Alloc, KIND_LARGE, KIND_SLAB, KIND_SLAB_TAIL, NIL, PhysMem, Purpose, VmPage, physmem,
};
use classes::{CLASSES, class_for};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use rumpuser::PAGE_SIZE;

/// The global allocator of an image: `#[global_allocator] static KMEM: Kmem = Kmem;`.
pub struct Kmem;

/// No free object.
const NO_OBJECT: u16 = u16::MAX;

/// The slabs of one class.
struct Slabs {
    /// Those with free objects that are not empty; linked through their `vm_page`s.
    partial: u32,
    /// An empty one kept for the next allocation.
    spare: u32,
    /// Slabs in all.
    slabs: usize,
    /// Objects in use.
    objects: usize,
    /// Bytes that were asked for, of those in use.
    requested: usize,
}

const _: () = assert!(CLASSES.len() <= u64::BITS as usize);

static SLABS: [Short<Slabs>; CLASSES.len()] = [const {
    Short::new(Slabs {
        partial: NIL,
        spare: NIL,
        slabs: 0,
        objects: 0,
        requested: 0,
    })
}; CLASSES.len()];

/// Which classes have partial slabs: a bit each, set and cleared under the class's lock, read as a hint.
static PARTIAL: AtomicU64 = AtomicU64::new(0);
/// Bytes of larger classes' objects that each class borrows.
static BORROWED: [AtomicUsize; CLASSES.len()] = [const { AtomicUsize::new(0) }; CLASSES.len()];
/// An object that is borrowed is at most so many times as large as the class's own...
const BORROW_TIMES: usize = 4;
/// ...or as this, in bytes.
const BORROW_SMALL: usize = 256;

static LARGE_PAGES: AtomicUsize = AtomicUsize::new(0);
static LARGE_REQUESTED: AtomicUsize = AtomicUsize::new(0);

/// The state of a slab, as kept in `a` of its first page's `vm_page`.
#[derive(Clone, Copy)]
struct SlabState {
    /// First free object that was in use before.
    free: u16,
    in_use: u16,
}

impl SlabState {
    fn of(page: &VmPage) -> SlabState {
        let word = page.a.load(Ordering::Relaxed);
        SlabState {
            free: word as u16,
            in_use: (word >> 16) as u16,
        }
    }

    fn store(self, page: &VmPage) {
        let word = self.free as u32 | (self.in_use as u32) << 16;
        page.a.store(word, Ordering::Relaxed);
    }
}

/// Allocates `layout`. The bytes are whatever they were.
pub(crate) fn allocate(layout: Layout, how: Alloc) -> Option<NonNull<u8>> {
    match class_for(layout.size(), layout.align()) {
        Some(class) => allocate_small(class, layout, how),
        None => allocate_large(layout, how),
    }
}

/// Frees what [`allocate`] gave for `layout`.
///
/// # Safety
/// `address` came from [`allocate`] with this layout, and nothing refers to it.
pub(crate) unsafe fn release(address: NonNull<u8>, layout: Layout) {
    let physmem = physmem().expect("memory that was allocated is there");
    let number = physmem
        .number(address)
        .expect("kmem: freed memory is not kmem's");
    let page = physmem.page(number);
    match page.kind.load(Ordering::Relaxed) {
        KIND_SLAB => free_small(physmem, number, address, layout),
        KIND_SLAB_TAIL => {
            let head = page.a.load(Ordering::Relaxed);
            free_small(physmem, head, address, layout);
        }
        KIND_LARGE => {
            let pages = page.a.load(Ordering::Relaxed);
            LARGE_PAGES.fetch_sub(pages as usize, Ordering::Relaxed);
            LARGE_REQUESTED.fetch_sub(layout.size(), Ordering::Relaxed);
            uvm::give_pages(number, pages);
        }
        kind => panic!("kmem: free of {address:p}, which is in a page of kind {kind}"),
    }
}

fn allocate_small(index: usize, layout: Layout, how: Alloc) -> Option<NonNull<u8>> {
    let class = &CLASSES[index];
    loop {
        if let Some(physmem) = physmem() {
            let mut slabs = enter(&SLABS[index]);
            if let Some(number) = slabs.with_room(physmem, index) {
                return Some(slabs.take_object(physmem, number, index, layout.size()));
            }
            drop(slabs);
            if let Some(object) = borrow(physmem, index, layout) {
                return Some(object);
            }
        }
        let number = uvm::take_pages(class.pages as u32, how, Purpose::Kernel).ok()?;
        let physmem = physmem()?;
        make_slab(physmem, number, index);
        let mut slabs = enter(&SLABS[index]);
        slabs.slabs += 1;
        slabs.push(physmem, number, index);
    }
}

/// An object of a larger class, if the class has not borrowed too many.
fn borrow(physmem: &PhysMem, index: usize, layout: Layout) -> Option<NonNull<u8>> {
    // Objects of the class that the alignment led to need not be aligned in the next.
    if layout.align() > 16 {
        return None;
    }
    let larger = PARTIAL.load(Ordering::Relaxed) >> (index + 1);
    if larger == 0 {
        return None;
    }
    let lender = index + 1 + larger.trailing_zeros() as usize;
    let own = &CLASSES[index];
    let size = CLASSES[lender].size as usize;
    let borrowed = BORROWED[index].load(Ordering::Relaxed) + size;
    let too_large = size > (BORROW_TIMES * own.size as usize).max(BORROW_SMALL);
    if too_large || borrowed > own.pages as usize * PAGE_SIZE / 2 {
        return None;
    }
    let mut slabs = enter(&SLABS[lender]);
    if slabs.partial == NIL {
        return None;
    }
    let number = slabs.partial;
    let object = slabs.take_object(physmem, number, lender, layout.size());
    drop(slabs);
    BORROWED[index].fetch_add(size, Ordering::Relaxed);
    Some(object)
}

fn make_slab(physmem: &PhysMem, number: u32, index: usize) {
    let page = physmem.page(number);
    page.order.store(index as u8, Ordering::Relaxed);
    page.b.store(0, Ordering::Relaxed);
    SlabState {
        free: NO_OBJECT,
        in_use: 0,
    }
    .store(page);
    page.kind.store(KIND_SLAB, Ordering::Relaxed);
    for tail in 1..CLASSES[index].pages as u32 {
        let page = physmem.page(number + tail);
        page.a.store(number, Ordering::Relaxed);
        page.kind.store(KIND_SLAB_TAIL, Ordering::Relaxed);
    }
}

impl Slabs {
    /// A slab with a free object, on the partial list.
    fn with_room(&mut self, physmem: &PhysMem, index: usize) -> Option<u32> {
        if self.partial != NIL {
            return Some(self.partial);
        }
        if self.spare == NIL {
            return None;
        }
        let spare = core::mem::replace(&mut self.spare, NIL);
        self.push(physmem, spare, index);
        Some(spare)
    }

    fn take_object(
        &mut self,
        physmem: &PhysMem,
        number: u32,
        index: usize,
        requested: usize,
    ) -> NonNull<u8> {
        let class = &CLASSES[index];
        let page = physmem.page(number);
        let base = physmem.address(number);
        let mut state = SlabState::of(page);
        let object = match state.free {
            NO_OBJECT => {
                let fresh = page.b.load(Ordering::Relaxed);
                page.b.store(fresh + 1, Ordering::Relaxed);
                fresh as usize
            }
            free => free as usize,
        };
        debug_assert!(object < class.objects());
        // SAFETY: object numbers are below the class's count, so the object lies inside the slab.
        let address = unsafe { base.add(object * class.size as usize) };
        if state.free != NO_OBJECT {
            // SAFETY: the object is free, its first two bytes hold the next free one's number since
            // `free_small` wrote them; objects are 16-byte aligned.
            state.free = unsafe { address.cast::<u16>().read() };
        }
        state.in_use += 1;
        state.store(page);
        if state.in_use as usize == class.objects() {
            self.unlink(physmem, number, index);
        }
        self.objects += 1;
        self.requested += requested;
        address
    }

    fn push(&mut self, physmem: &PhysMem, number: u32, index: usize) {
        if self.partial == NIL {
            PARTIAL.fetch_or(1 << index, Ordering::Relaxed);
        }
        let page = physmem.page(number);
        page.prev.store(NIL, Ordering::Relaxed);
        page.next.store(self.partial, Ordering::Relaxed);
        if self.partial != NIL {
            physmem
                .page(self.partial)
                .prev
                .store(number, Ordering::Relaxed);
        }
        self.partial = number;
    }

    fn unlink(&mut self, physmem: &PhysMem, number: u32, index: usize) {
        let page = physmem.page(number);
        let next = page.next.load(Ordering::Relaxed);
        let prev = page.prev.load(Ordering::Relaxed);
        match prev {
            NIL => self.partial = next,
            prev => physmem.page(prev).next.store(next, Ordering::Relaxed),
        }
        if next != NIL {
            physmem.page(next).prev.store(prev, Ordering::Relaxed);
        }
        if self.partial == NIL {
            PARTIAL.fetch_and(!(1 << index), Ordering::Relaxed);
        }
    }
}

/// Puts an object back; gives an empty slab back if there is another.
fn free_small(physmem: &PhysMem, number: u32, address: NonNull<u8>, layout: Layout) {
    let page = physmem.page(number);
    let index = page.order.load(Ordering::Relaxed) as usize;
    let class = &CLASSES[index];
    let offset = address.addr().get() - physmem.address(number).addr().get();
    let object = offset / class.size as usize;
    assert!(
        object * class.size as usize == offset && object < class.objects(),
        "kmem: free of {address:p}, which is no object of size {}",
        class.size
    );
    if let Some(own) = class_for(layout.size(), layout.align())
        && own != index
    {
        BORROWED[own].fetch_sub(class.size as usize, Ordering::Relaxed);
    }
    let empty = {
        let mut slabs = enter(&SLABS[index]);
        let mut state = SlabState::of(page);
        assert!(state.in_use > 0, "kmem: {address:p} is freed twice");
        // SAFETY: the caller of `release` gave the object up; it is at least 16 bytes long and aligned,
        // and the class's lock is held.
        unsafe { address.cast::<u16>().write(state.free) };
        let was_full = state.in_use as usize == class.objects();
        state.free = object as u16;
        state.in_use -= 1;
        state.store(page);
        slabs.objects -= 1;
        slabs.requested -= layout.size();
        if was_full {
            slabs.push(physmem, number, index);
        }
        if state.in_use > 0 {
            return;
        }
        slabs.unlink(physmem, number, index);
        // A class whose only slab this is can borrow, if memory matters.
        let may_keep = class.pages == 1 && slabs.spare == NIL;
        if may_keep && (uvm::plenty() || slabs.slabs > 1 && !uvm::short()) {
            slabs.spare = number;
            return;
        }
        slabs.slabs -= 1;
        number
    };
    uvm::give_pages(empty, class.pages as u32);
}

fn allocate_large(layout: Layout, how: Alloc) -> Option<NonNull<u8>> {
    let pages = u32::try_from(layout.size().div_ceil(PAGE_SIZE)).ok()?;
    // Runs are page aligned; for more, one is taken that must contain an aligned one.
    let more = u32::try_from(layout.align().div_ceil(PAGE_SIZE) - 1).ok()?;
    let number = uvm::take_pages(pages.checked_add(more)?, how, Purpose::Kernel).ok()?;
    let physmem = physmem()?;
    let before = match more {
        0 => 0,
        _ => physmem.address(number).align_offset(layout.align()) as u32 / PAGE_SIZE as u32,
    };
    if before > 0 {
        uvm::give_pages(number, before);
    }
    if more > before {
        uvm::give_pages(number + before + pages, more - before);
    }
    let number = number + before;
    let page = physmem.page(number);
    page.a.store(pages, Ordering::Relaxed);
    page.kind.store(KIND_LARGE, Ordering::Relaxed);
    LARGE_PAGES.fetch_add(pages as usize, Ordering::Relaxed);
    LARGE_REQUESTED.fetch_add(layout.size(), Ordering::Relaxed);
    Some(physmem.address(number))
}

/// Changes a large allocation's length in place, if that can be done.
fn resize_large(address: NonNull<u8>, old: usize, new: usize) -> bool {
    let Some(physmem) = physmem() else {
        return false;
    };
    let Some(number) = physmem.number(address) else {
        return false;
    };
    let page = physmem.page(number);
    if page.kind.load(Ordering::Relaxed) != KIND_LARGE {
        return false;
    }
    let pages = page.a.load(Ordering::Relaxed);
    let Ok(wanted) = u32::try_from(new.div_ceil(PAGE_SIZE)) else {
        return false;
    };
    if wanted > pages {
        if !uvm::extend(number, pages, wanted) {
            return false;
        }
        LARGE_PAGES.fetch_add((wanted - pages) as usize, Ordering::Relaxed);
    } else if wanted < pages {
        LARGE_PAGES.fetch_sub((pages - wanted) as usize, Ordering::Relaxed);
        uvm::give_pages(number + wanted, pages - wanted);
    }
    page.a.store(wanted, Ordering::Relaxed);
    LARGE_REQUESTED.fetch_add(new, Ordering::Relaxed);
    LARGE_REQUESTED.fetch_sub(old, Ordering::Relaxed);
    true
}

/// Counts an object as of another size, within its class.
fn note_new_size(address: NonNull<u8>, old: usize, new: usize) {
    let Some(physmem) = physmem() else {
        return;
    };
    let Some(mut number) = physmem.number(address) else {
        return;
    };
    if physmem.page(number).kind.load(Ordering::Relaxed) == KIND_SLAB_TAIL {
        number = physmem.page(number).a.load(Ordering::Relaxed);
    }
    // Its slab's class, which may have lent it.
    let index = physmem.page(number).order.load(Ordering::Relaxed) as usize;
    let mut slabs = enter(&SLABS[index]);
    slabs.requested = slabs.requested + new - old;
}

// SAFETY: blocks do not overlap (objects of a slab are disjoint, and handed out by its free list;
// runs are disjoint by the free lists of `uvm`), are at least as large and as aligned as asked (class_for,
// allocate_large), and stay until they are released. Nothing here unwinds but for bugs of the caller's.
unsafe impl GlobalAlloc for Kmem {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocate(layout, Alloc::Wait).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        let Some(address) = NonNull::new(address) else {
            return;
        };
        // SAFETY: the caller promises what `release` asks for.
        unsafe { release(address, layout) };
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(old) = NonNull::new(address) else {
            return core::ptr::null_mut();
        };
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return core::ptr::null_mut();
        };
        let old_class = class_for(layout.size(), layout.align());
        let new_class = class_for(new_size, layout.align());
        if old_class.is_some() && old_class == new_class {
            note_new_size(old, layout.size(), new_size);
            return address;
        }
        let both_large = old_class.is_none() && new_class.is_none();
        if both_large && resize_large(old, layout.size(), new_size) {
            return address;
        }
        let Some(new) = allocate(new_layout, Alloc::Wait) else {
            return core::ptr::null_mut();
        };
        let len = layout.size().min(new_size);
        // SAFETY: both blocks are at least `len` long, and a new block overlaps no old one.
        unsafe { core::ptr::copy_nonoverlapping(address, new.as_ptr(), len) };
        // SAFETY: the caller gives the old block up if this succeeds.
        unsafe { release(old, layout) };
        new.as_ptr()
    }
}

/// Gives the empty slabs that are kept back; returns the pages.
pub(crate) fn drain() -> usize {
    let mut freed = 0;
    for (index, slabs) in SLABS.iter().enumerate() {
        let spare = {
            let mut slabs = enter(slabs);
            let spare = core::mem::replace(&mut slabs.spare, NIL);
            slabs.slabs -= (spare != NIL) as usize;
            spare
        };
        if spare != NIL {
            uvm::give_pages(spare, CLASSES[index].pages as u32);
            freed += CLASSES[index].pages as usize;
        }
    }
    freed
}

#[cfg(test)]
mod tests;
