//! Memory that a device reads and writes, and the driver's own tables.
//!
//! [`Pages`] is shared with a device: every access is one atomic load or store of the named width,
//! so a value is read once and then judged, whatever the device does meanwhile. [`Table`] is the
//! driver's alone; its address is never told to a device.

use core::mem::{align_of, size_of};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// A piece of memory by address and length. It borrows nothing: whoever hands it over promises
/// that the memory stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first byte.
    pub base: NonNull<u8>,
    /// Length in bytes.
    pub len: usize,
}

// SAFETY: an address and a length; what may be done with them is proven where they are used.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared reference gives no more than a copy of the two.
unsafe impl Sync for Segment {}

/// Where a piece of memory lies for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The address that a device uses.
    pub bus: u64,
    /// How many bytes from there are contiguous; at least 1.
    pub len: usize,
}

/// The host's memory, as devices need it.
///
/// # Safety
/// An implementation promises: what [`allocate`](Dma::allocate) returns is mapped, aligned to
/// [`PAGE_SIZE`], zeroed, and nobody else's until it is freed; what [`translate`](Dma::translate)
/// answers is true for as long as the memory exists.
pub unsafe trait Dma: Sync {
    /// `pages` pages that are contiguous on the bus too.
    fn allocate(&self, pages: usize) -> Option<NonNull<u8>>;

    /// Gives back what [`allocate`](Dma::allocate) returned.
    ///
    /// # Safety
    /// `base` and `pages` are those of one allocation that is not freed yet, and neither the
    /// processor nor a device uses it any more.
    unsafe fn free(&self, base: NonNull<u8>, pages: usize);

    /// Where the `len` (at least 1) bytes at `address` lie for a device, as far as they are
    /// contiguous there; `None` if a device cannot reach the first of them.
    fn translate(&self, address: NonNull<u8>, len: usize) -> Option<Extent>;
}

/// Contiguous pages that a device may read and write at any time.
pub struct Pages {
    base: NonNull<u8>,
    bytes: usize,
    bus: u64,
    dma: &'static dyn Dma,
}

// SAFETY: the pages are owned, and every access to them is atomic.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

macro_rules! accessors {
    ($($load:ident $store:ident $atomic:ident $int:ident $text:literal;)*) => {$(
        #[doc = concat!("Loads the ", $text, " at `offset` bytes.")]
        pub fn $load(&self, offset: usize, order: Ordering) -> $int {
            $int::from_le(self.$atomic(offset).load(order))
        }

        #[doc = concat!("Stores the ", $text, " at `offset` bytes.")]
        pub fn $store(&self, offset: usize, value: $int, order: Ordering) {
            self.$atomic(offset).store(value.to_le(), order);
        }
    )*};
}

impl Pages {
    /// Enough pages for `bytes` bytes, zeroed. `None`: no memory.
    pub fn allocate(dma: &'static dyn Dma, bytes: usize) -> Option<Pages> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let base = dma.allocate(pages)?;
        let bytes = pages * PAGE_SIZE;
        // Made before the checks, so that a failed one frees.
        let mut memory = Pages {
            base,
            bytes,
            bus: 0,
            dma,
        };
        let extent = dma.translate(base, bytes)?;
        memory.bus = extent.bus;
        (extent.len >= bytes).then_some(memory)
    }

    /// The address of the byte at `offset`, for a device.
    pub fn bus(&self, offset: usize) -> u64 {
        debug_assert!(offset < self.bytes);
        self.bus + offset as u64
    }

    /// Points at a `T` inside the pages.
    fn at<T>(&self, offset: usize) -> NonNull<T> {
        let inside = offset
            .checked_add(size_of::<T>())
            .is_some_and(|end| end <= self.bytes);
        assert!(inside && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: the whole `T` lies inside the allocation, as just checked.
        let byte = unsafe { self.base.add(offset) };
        byte.cast()
    }

    fn atomic8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: inside our pages and aligned (`at`), which live as long as `self`; nobody accesses
        // them but through these atomics and, outside the program, the device.
        unsafe { AtomicU8::from_ptr(self.at(offset).as_ptr()) }
    }

    fn atomic16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as for `atomic8`.
        unsafe { AtomicU16::from_ptr(self.at(offset).as_ptr()) }
    }

    fn atomic32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as for `atomic8`.
        unsafe { AtomicU32::from_ptr(self.at(offset).as_ptr()) }
    }

    fn atomic64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as for `atomic8`.
        unsafe { AtomicU64::from_ptr(self.at(offset).as_ptr()) }
    }

    accessors! {
        load8 store8 atomic8 u8 "byte";
        load16 store16 atomic16 u16 "little-endian 16-bit word";
        load32 store32 atomic32 u32 "little-endian 32-bit word";
        load64 store64 atomic64 u64 "little-endian 64-bit word";
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `allocate` made this allocation, only this value owns it, and the owner of the
        // queue quiesces the device before its memory goes (`Device`'s drop comes first).
        unsafe { self.dma.free(self.base, self.bytes / PAGE_SIZE) };
    }
}

/// A table of the driver's own, of a length fixed when it is made.
pub struct Table<T: Copy + Send + 'static> {
    base: NonNull<T>,
    len: usize,
    pages: usize,
    dma: &'static dyn Dma,
}

// SAFETY: the table owns its memory and its elements are `Send`.
unsafe impl<T: Copy + Send> Send for Table<T> {}

impl<T: Copy + Send> Table<T> {
    /// `len` times `value`. `None`: no memory.
    pub fn new(dma: &'static dyn Dma, len: usize, value: T) -> Option<Table<T>> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let bytes = len.checked_mul(size_of::<T>())?;
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let base: NonNull<T> = dma.allocate(pages)?.cast();
        for index in 0..len {
            // SAFETY: `len` elements fit in the pages just allocated.
            let element = unsafe { base.add(index) };
            // SAFETY: inside our allocation and aligned, since pages are more aligned than `T`.
            unsafe { element.write(value) };
        }
        Some(Table {
            base,
            len,
            pages,
            dma,
        })
    }
}

impl<T: Copy + Send> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` initialised `len` elements at `base`, which this value owns.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Copy + Send> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl<T: Copy + Send> Drop for Table<T> {
    fn drop(&mut self) {
        // SAFETY: `new` made this allocation and only this value owns it; no device knows it.
        unsafe { self.dma.free(self.base.cast(), self.pages) };
    }
}
