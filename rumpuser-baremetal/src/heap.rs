//! The host's own heap: thread stacks, page tables, device rings. Not charged to the kernel, and of a fixed size.
//!
//! It has two pieces. The first is conventional memory, the half a megabyte below 640 KiB that is too scattered to be good for
//! anything else. The second is a reserve right behind the image, in proportion to the machine's memory, which is used
//! when the first is full.
//!
//! What is allocated here is at its physical address, so devices may be told it.
//!
//! Lock: one, a leaf, with interrupts off.

use core::alloc::Layout;
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use platform_x86_64::bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use platform_x86_64::without_interrupts;
use rumpuser::{Errno, PAGE_SIZE};
use spin::Mutex;

static PIECES: Mutex<[Heap; 2]> = Mutex::new([Heap::empty(), Heap::empty()]);

fn with<T>(body: impl FnOnce(&mut [Heap; 2]) -> T) -> T {
    without_interrupts(|| body(&mut PIECES.lock()))
}

/// Where conventional memory ends.
const CONVENTIONAL_END: u64 = 0xa_0000;
/// The entry code's page tables map no more than this, and page tables come from here before there are others.
const MAPPED_AT_ENTRY: u64 = 1 << 30;

/// The ranges that the heap takes of the machine's memory: conventional memory and the reserve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub(crate) ranges: [(u64, u64); 2],
}

impl Pieces {
    /// Chooses the pieces. The image ends at `image_end`.
    pub(crate) fn choose(regions: &[MemoryRegion], image_end: u64) -> Pieces {
        let usable = || {
            regions
                .iter()
                .filter(|region| region.kind == MemoryRegionKind::Usable)
        };
        let whole_pages = |region: &MemoryRegion| {
            let page = PAGE_SIZE as u64;
            (
                region.start.next_multiple_of(page),
                region.end & !(page - 1),
            )
        };
        let low = usable()
            .map(whole_pages)
            .find(|&(start, end)| start < end && end <= CONVENTIONAL_END);
        let total: u64 = usable().map(|region| region.end - region.start).sum();
        let behind_image = usable()
            .map(whole_pages)
            .filter(|&(start, end)| start >= image_end && start < end && end - start >= MIN_RESERVE)
            .find(|&(start, _)| start + MAX_RESERVE <= MAPPED_AT_ENTRY);
        let reserve = behind_image
            .map(|(start, end)| (start, start + reserve_bytes(total).min((end - start) / 2)));
        Pieces {
            ranges: [low.unwrap_or((0, 0)), reserve.unwrap_or((0, 0))],
        }
    }

    /// Total bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

/// The least that is worth taking.
const MIN_RESERVE: u64 = 64 * 1024;
const MAX_RESERVE: u64 = 64 << 20;

/// How large the reserve is on a machine of `total` bytes. Stacks of unoptimised code are four times as large. Page tables take 4 KiB of
/// each GiB.
fn reserve_bytes(total: u64) -> u64 {
    let share = if cfg!(debug_assertions) {
        total / 8
    } else {
        total / 64
    };
    share.clamp(MIN_RESERVE, MAX_RESERVE) & !(PAGE_SIZE as u64 - 1)
}

/// Sets the heap up.
///
/// # Safety
/// Once. The pieces must be RAM that is mapped at its own address and that nobody else uses, ever.
pub(crate) unsafe fn init(pieces: &Pieces) {
    with(|heaps| {
        for (heap, (start, end)) in heaps.iter_mut().zip(pieces.ranges) {
            if start < end {
                // SAFETY: the caller's promise.
                unsafe { heap.init(start as *mut u8, (end - start) as usize) };
            }
        }
    });
}

/// Memory of `layout`, with whatever it held.
///
/// # Errors
/// `ENOMEM`.
pub fn allocate(layout: Layout) -> Result<NonNull<u8>, Errno> {
    with(|heaps| {
        let found = heaps
            .iter_mut()
            .find_map(|heap| heap.allocate_first_fit(layout).ok());
        found.ok_or(Errno::ENOMEM)
    })
}

/// Memory of `layout`, zeroed.
///
/// # Errors
/// `ENOMEM`.
pub fn allocate_zeroed(layout: Layout) -> Result<NonNull<u8>, Errno> {
    let memory = allocate(layout)?;
    // SAFETY: fresh memory of that size.
    unsafe { memory.write_bytes(0, layout.size()) };
    Ok(memory)
}

/// Gives memory back.
///
/// # Safety
/// `memory` must come from [`allocate`] with this very layout, and be used by nobody any more.
pub unsafe fn free(memory: NonNull<u8>, layout: Layout) {
    with(|heaps| {
        for heap in heaps {
            let (bottom, top) = (heap.bottom(), heap.top());
            if (bottom..top).contains(&memory.as_ptr()) {
                // SAFETY: this piece gave it, and the rest is the caller's promise.
                unsafe { heap.deallocate(memory, layout) };
                return;
            }
        }
    });
}

/// Puts `value` there for ever.
///
/// # Errors
/// `ENOMEM`; the value is dropped.
pub fn place<T>(value: T) -> Result<&'static mut T, Errno> {
    let mut memory = allocate(Layout::new::<T>())?.cast::<T>();
    // SAFETY: fresh memory of that layout.
    unsafe { memory.write(value) };
    // SAFETY: written just now, and never freed.
    Ok(unsafe { memory.as_mut() })
}

/// Puts `len` elements there for ever, the one at index `i` being `make(i)`.
///
/// # Errors
/// `ENOMEM`.
pub fn place_slice<T>(
    len: usize,
    mut make: impl FnMut(usize) -> T,
) -> Result<&'static mut [T], Errno> {
    let layout = Layout::array::<T>(len).map_err(|_| Errno::ENOMEM)?;
    let memory = match layout.size() {
        0 => NonNull::dangling(),
        _ => allocate(layout)?.cast::<T>(),
    };
    for index in 0..len {
        // SAFETY: inside the fresh array (or of no size).
        let element = unsafe { memory.add(index) };
        // SAFETY: as above; nothing is there yet that would have to be dropped.
        unsafe { element.write(make(index)) };
    }
    // SAFETY: every element was written just now, and nothing of it is ever freed.
    Ok(unsafe { NonNull::slice_from_raw_parts(memory, len).as_mut() })
}

/// Bytes in use, and in all.
pub fn usage() -> (usize, usize) {
    with(|heaps| {
        heaps.iter().fold((0, 0), |(used, all), heap| {
            (used + heap.used(), all + heap.size())
        })
    })
}
