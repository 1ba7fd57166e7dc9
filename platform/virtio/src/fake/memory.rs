//! Memory whose bus addresses differ from its addresses.

use crate::dma::{Dma, Extent, PAGE_SIZE};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

/// Bus addresses are this much above addresses where memory is contiguous.
const BIAS: u64 = 1 << 48;
/// Pages that [`Dma::allocate`] did not make are not contiguous: odd ones lie elsewhere.
const ODD_BIAS: u64 = 1 << 49;

/// See the module.
pub struct FakeDma {
    /// Address and pages of each allocation.
    allocations: Mutex<BTreeMap<usize, usize>>,
    /// Pages that may still be allocated.
    left: Mutex<usize>,
    /// Whether the callers' buffers are contiguous on the bus only within a page.
    scattered: bool,
}

impl FakeDma {
    /// Memory of `pages` pages.
    pub fn leak(pages: usize, scattered: bool) -> &'static FakeDma {
        Box::leak(Box::new(FakeDma {
            allocations: Mutex::default(),
            left: Mutex::new(pages),
            scattered,
        }))
    }

    /// How many allocations are not freed.
    pub fn live(&self) -> usize {
        self.allocations.lock().unwrap().len()
    }

    fn owns(&self, address: usize) -> bool {
        let allocations = self.allocations.lock().unwrap();
        let before = allocations.range(..=address).next_back();
        before.is_some_and(|(base, pages)| address < base + pages * PAGE_SIZE)
    }

    /// The device's way from a bus address to memory.
    pub fn pointer(bus: u64) -> *mut u8 {
        let address = match bus & ODD_BIAS {
            0 => bus.checked_sub(BIAS).expect("no bus address"),
            _ => bus - ODD_BIAS,
        };
        std::ptr::with_exposed_provenance_mut(address as usize)
    }

    /// Copies out of memory, as a device does.
    pub fn read<const N: usize>(bus: u64) -> [u8; N] {
        // SAFETY: the driver under test gave this address to the device, and its buffers live as
        // long as the test's.
        unsafe { Self::pointer(bus).cast::<[u8; N]>().read_unaligned() }
    }

    /// As [`read`](Self::read), of any length.
    pub fn read_vec(bus: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: as in `read`; the copy goes to memory of our own.
        unsafe { Self::pointer(bus).copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        bytes
    }

    /// Reads an index of a ring that the driver may be writing.
    pub fn load16(bus: u64) -> u16 {
        // SAFETY: as in `read`; the rings' words are aligned, and the driver accesses them atomically.
        let word = unsafe { AtomicU16::from_ptr(Self::pointer(bus).cast()) };
        u16::from_le(word.load(Ordering::Acquire))
    }

    /// Writes an index of a ring that the driver may be reading.
    pub fn store16(bus: u64, value: u16) {
        // SAFETY: as in `load16`.
        let word = unsafe { AtomicU16::from_ptr(Self::pointer(bus).cast()) };
        word.store(value.to_le(), Ordering::Release);
    }

    /// Copies into memory, as a device does.
    pub fn write(bus: u64, bytes: &[u8]) {
        let to = Self::pointer(bus);
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: the allocator's zeroed, aligned memory, handed out once; `translate` is the one inverse of
// `pointer`.
unsafe impl Dma for FakeDma {
    fn allocate(&self, pages: usize) -> Option<NonNull<u8>> {
        let mut left = self.left.lock().unwrap();
        *left = left.checked_sub(pages)?;
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout(pages)) })?;
        let address = base.as_ptr().expose_provenance();
        self.allocations.lock().unwrap().insert(address, pages);
        Some(base)
    }

    unsafe fn free(&self, base: NonNull<u8>, pages: usize) {
        let known = self.allocations.lock().unwrap().remove(&base.addr().get());
        assert_eq!(known, Some(pages), "freed what was not allocated so");
        *self.left.lock().unwrap() += pages;
        // SAFETY: allocated with this layout, as just checked.
        unsafe { dealloc(base.as_ptr(), layout(pages)) };
    }

    fn translate(&self, address: NonNull<u8>, len: usize) -> Option<Extent> {
        let address = address.as_ptr().expose_provenance();
        if !self.scattered || self.owns(address) {
            let bus = address as u64 + BIAS;
            return Some(Extent { bus, len });
        }
        let odd = !(address / PAGE_SIZE).is_multiple_of(2);
        Some(Extent {
            bus: address as u64 + if odd { ODD_BIAS } else { BIAS },
            len: len.min(PAGE_SIZE - address % PAGE_SIZE),
        })
    }
}
