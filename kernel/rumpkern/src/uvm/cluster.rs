//! Packet buffers: clusters of 2 KiB (NetBSD's MCLBYTES), two to a page, and small ones for headers and
//! short data (MLEN), sixteen to a page.
//!
//! A [`Buffer`] is counted like a [`Frame`](super::Frame): a clone shares it, and only a sole holder writes. It
//! comes from kmem's slabs of its size, so it is charged to the budget on every host.

#![allow(unsafe_code)]

use super::Alloc;
use crate::kmem;
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};
use rumpuser::Errno;

/// Bytes of a cluster that hold data.
pub const MCLBYTES: usize = 2048 - size_of::<AtomicUsize>();
/// Bytes of a small buffer that hold data.
pub const MLEN: usize = 256 - size_of::<AtomicUsize>();

/// Buffers alive in the process: small ones, and clusters.
static SMALLS: AtomicUsize = AtomicUsize::new(0);
static CLUSTERS: AtomicUsize = AtomicUsize::new(0);

#[repr(C)]
struct Shared<const N: usize> {
    holders: AtomicUsize,
    bytes: [u8; N],
}

/// A packet buffer of `N` bytes with a count of its holders.
pub struct Buffer<const N: usize> {
    /// Allocated with `LAYOUT`, initialised, and alive while there are holders.
    shared: NonNull<Shared<N>>,
}

/// A buffer for a received packet.
pub type Cluster = Buffer<MCLBYTES>;
/// A buffer for headers and short data.
pub type SmallBuffer = Buffer<MLEN>;

const _: () = assert!(Cluster::LAYOUT.size() == 2048);
const _: () = assert!(SmallBuffer::LAYOUT.size() == 256);

// SAFETY: as for Arc<[u8; N]>: the count is atomic, and the bytes are shared for reading only.
unsafe impl<const N: usize> Send for Buffer<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Buffer<N> {}

impl<const N: usize> Buffer<N> {
    const LAYOUT: Layout = Layout::new::<Shared<N>>();

    /// Buffers of this size alive in the process.
    pub fn in_use() -> usize {
        Self::alive().load(Ordering::Relaxed)
    }

    fn alive() -> &'static AtomicUsize {
        match N {
            MLEN => &SMALLS,
            _ => &CLUSTERS,
        }
    }

    /// A buffer. What it contains is left over from before: any bytes.
    ///
    /// # Errors
    /// `ENOMEM`, depending on `how`.
    pub fn alloc(how: Alloc) -> Result<Buffer<N>, Errno> {
        let block = kmem::allocate(Self::LAYOUT, how).ok_or(Errno::ENOMEM)?;
        let shared = block.cast::<Shared<N>>();
        // SAFETY: the block is as large and aligned as a `Shared`, and nobody else's.
        let holders = unsafe { &raw mut (*shared.as_ptr()).holders };
        // SAFETY: as above; the place for the count. The bytes are memory of the host's, mapped and
        // so initialised with whatever is in them.
        unsafe { holders.write(AtomicUsize::new(1)) };
        Self::alive().fetch_add(1, Ordering::Relaxed);
        Ok(Buffer { shared })
    }

    fn holders(&self) -> &AtomicUsize {
        // SAFETY: alive while this holder is; the reference is to the count alone, so that one to the bytes
        // may be exclusive.
        unsafe { &(*self.shared.as_ptr()).holders }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8; N] {
        // SAFETY: alive while this holder is; written only through a sole holder's exclusive
        // reference, or by a device while the DMA table is the sole holder.
        unsafe { &(*self.shared.as_ptr()).bytes }
    }

    /// The bytes to write, if this is the only handle.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut [u8; N]> {
        if !self.is_unique() {
            return None;
        }
        // SAFETY: the only handle, borrowed exclusively; the Acquire in `is_unique` orders what former
        // holders read before.
        Some(unsafe { &mut (*self.shared.as_ptr()).bytes })
    }

    /// Whether this is the only handle.
    pub fn is_unique(&self) -> bool {
        self.holders().load(Ordering::Acquire) == 1
    }

    /// Whether both are handles of one buffer.
    pub fn ptr_eq(&self, other: &Buffer<N>) -> bool {
        self.shared == other.shared
    }

    /// Where the bytes are, for the DMA tables.
    pub(super) fn address(&self) -> NonNull<u8> {
        // SAFETY: inside the allocation, behind the count.
        unsafe { self.shared.cast::<u8>().add(size_of::<AtomicUsize>()) }
    }
}

impl<const N: usize> Clone for Buffer<N> {
    fn clone(&self) -> Buffer<N> {
        let before = self.holders().fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "too many handles of one buffer");
        Buffer {
            shared: self.shared,
        }
    }
}

impl<const N: usize> Drop for Buffer<N> {
    fn drop(&mut self) {
        if self.holders().fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        Self::alive().fetch_sub(1, Ordering::Relaxed);
        // SAFETY: allocated with `LAYOUT`, and this was the last holder.
        unsafe { kmem::release(self.shared.cast(), Self::LAYOUT) };
    }
}

impl<const N: usize> fmt::Debug for Buffer<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer<{N}>({:p})", self.shared)
    }
}
