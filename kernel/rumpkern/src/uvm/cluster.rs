//! Packet buffers of 2 KiB (NetBSD's mbuf clusters, MCLBYTES): two to a page.
//!
//! A [`Cluster`] is counted like a [`Frame`](super::Frame): a clone shares it, and only a sole holder writes. It
//! comes from kmem's 2048-byte slabs, so it is charged to the budget on every host.

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

#[repr(C)]
struct Shared {
    holders: AtomicUsize,
    bytes: [u8; MCLBYTES],
}

const LAYOUT: Layout = Layout::new::<Shared>();
const _: () = assert!(LAYOUT.size() == 2048);

/// A packet buffer with a count of its holders.
pub struct Cluster {
    /// Allocated with `LAYOUT`, initialised, and alive while there are holders.
    shared: NonNull<Shared>,
}

// SAFETY: as for Arc<[u8; N]>: the count is atomic, and the bytes are shared for reading only.
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

impl Cluster {
    /// A cluster. What it contains is left over from before: any bytes.
    ///
    /// # Errors
    /// `ENOMEM`, depending on `how`.
    pub fn alloc(how: Alloc) -> Result<Cluster, Errno> {
        let block = kmem::allocate(LAYOUT, how).ok_or(Errno::ENOMEM)?;
        let shared = block.cast::<Shared>();
        // SAFETY: the block is as large and aligned as a `Shared`, and nobody else's.
        let holders = unsafe { &raw mut (*shared.as_ptr()).holders };
        // SAFETY: as above; the place for the count. The bytes are memory of the host's, mapped and
        // so initialised with whatever is in them.
        unsafe { holders.write(AtomicUsize::new(1)) };
        Ok(Cluster { shared })
    }

    fn holders(&self) -> &AtomicUsize {
        // SAFETY: alive while this holder is; the reference is to the count alone, so that one to the bytes
        // may be exclusive.
        unsafe { &(*self.shared.as_ptr()).holders }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8; MCLBYTES] {
        // SAFETY: alive while this holder is; written only through a sole holder's exclusive
        // reference, or by a device while the DMA table is the sole holder.
        unsafe { &(*self.shared.as_ptr()).bytes }
    }

    /// The bytes to write, if this is the only handle.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut [u8; MCLBYTES]> {
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

    /// Whether both are handles of one cluster.
    pub fn ptr_eq(&self, other: &Cluster) -> bool {
        self.shared == other.shared
    }

    /// Where the bytes are, for the DMA tables.
    pub(super) fn address(&self) -> NonNull<u8> {
        // SAFETY: inside the allocation, behind the count.
        unsafe { self.shared.cast::<u8>().add(size_of::<AtomicUsize>()) }
    }
}

impl Clone for Cluster {
    fn clone(&self) -> Cluster {
        let before = self.holders().fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "too many handles of one cluster");
        Cluster {
            shared: self.shared,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.holders().fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: allocated with `LAYOUT`, and this was the last holder.
        unsafe { kmem::release(self.shared.cast(), LAYOUT) };
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({:p})", self.shared)
    }
}
