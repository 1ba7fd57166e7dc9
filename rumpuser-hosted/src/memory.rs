//! Memory: one region of address space.

use crate::errno::from_rustix;
use rumpuser::{Errno, PAGE_SIZE, Region};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::ptr::NonNull;

/// What is committed page by page; the rest of a region may be committed in larger pieces (transparent huge pages).
const SMALL: usize = 8 << 20;

/// The region. Never unmapped: kernels and their pages live as long as the process.
pub(crate) struct Arena {
    region: [Region; 1],
}

impl Arena {
    pub(crate) fn new(bytes: usize) -> Result<Arena, Errno> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let length = pages.checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        // SAFETY: a fresh anonymous mapping at an address of the system's choice replaces nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(from_rustix)?;
        let base: NonNull<u8> = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
        if length > SMALL {
            // Memory is taken into use from the low end on: a kernel that keeps little commits little, and one that fills its caches
            // is not stopped at every page of them. An error means that pages stay small, which is allowed.
            // SAFETY: both lie within the mapping, which is nobody's yet.
            let rest = unsafe { base.add(SMALL) };
            // SAFETY: this changes how the mapping is backed, not what it holds.
            let _ = unsafe { madvise(rest.as_ptr().cast(), length - SMALL, Advice::LinuxHugepage) };
        }
        Ok(Arena {
            region: [Region { base, pages }],
        })
    }
}

impl rumpuser::Memory for Arena {
    fn regions(&self) -> &[Region] {
        &self.region
    }

    unsafe fn discard(&self, base: NonNull<u8>, pages: usize) {
        // An error means that the memory stays committed, which is allowed.
        // SAFETY: the caller vouches that nothing refers into these pages, and they lie in the
        // arena, so dropping their contents is seen by nobody.
        let _ = unsafe {
            madvise(
                base.as_ptr().cast(),
                pages * PAGE_SIZE,
                Advice::LinuxDontNeed,
            )
        };
    }
}
