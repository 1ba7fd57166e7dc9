//! Memory: the host's gift of pages, once.

use core::ptr::NonNull;

/// Bytes in a page, on every host.
pub const PAGE_SIZE: usize = 4096;

/// A run of pages that belongs to the kernel from now on.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Address of the first page; a multiple of [`PAGE_SIZE`].
    pub base: NonNull<u8>,
    /// Number of pages.
    pub pages: usize,
}

// SAFETY: an address and a count; the receiver owns the memory they describe, in whatever thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The memory that the kernel's page pool is made of.
///
/// What the host needs for itself (thread stacks, device rings) does not come from here and is not
/// charged to the kernel.
pub trait Memory: Sync {
    /// The regions, in no order, not overlapping, mapped readable and writable for ever, and
    /// touched by nobody but the kernel. The same answer at every call; the kernel takes them once.
    ///
    /// A host that can commit lazily (a process) answers with as much address space as the
    /// kernel might ever use; the kernel keeps to its own budget within it.
    fn regions(&self) -> &[Region];

    /// Tells the host that the `pages` pages at `base` (inside one region) hold nothing worth
    /// keeping: a host that can, may take their memory back until they are next written. Their
    /// contents become undefined.
    ///
    /// # Safety
    /// Nothing may hold a reference into those pages.
    unsafe fn discard(&self, base: NonNull<u8>, pages: usize) {
        let _ = (base, pages);
    }
}
