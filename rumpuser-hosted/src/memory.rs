//! Memory: one region of address space.

use crate::errno::from_rustix;
use rumpuser::{Errno, PAGE_SIZE, Region};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use std::ptr::NonNull;

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
        let base = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
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
