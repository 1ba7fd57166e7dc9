//! Memory: one region, zeroed, for the life of the process.

use rumpuser::{PAGE_SIZE, Region};
use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;

/// The region.
pub(crate) struct Arena {
    region: [Region; 1],
}

impl Arena {
    /// At least `bytes` of it.
    ///
    /// # Panics
    /// If the system has not got it.
    pub(crate) fn new(bytes: usize) -> Arena {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let layout =
            Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a possible size");
        // SAFETY: the layout is of at least a page.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).expect("the system has the memory of a universe");
        Arena {
            region: [Region { base, pages }],
        }
    }
}

impl rumpuser::Memory for Arena {
    fn regions(&self) -> &[Region] {
        &self.region
    }
}
