//! Memory: one region, zeroed, for the life of the process.

use rumpuser::{PAGE_SIZE, Region};
use std::alloc::{Layout, alloc_zeroed};
use std::num::NonZeroUsize;
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
        // A page more, and the beginning looked for here: what is asked for aligned is zeroed by the allocator, page by page, while
        // what comes fresh from the system is not touched before somebody uses it.
        let layout = Layout::array::<u64>((pages + 1) * PAGE_SIZE / size_of::<u64>());
        let layout = layout.expect("a possible size");
        // SAFETY: the layout is of at least a page.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).expect("the system has the memory of a universe");
        let base = base.map_addr(|addr| {
            let aligned = addr.get().next_multiple_of(PAGE_SIZE);
            NonZeroUsize::new(aligned).expect("it is no less than before")
        });
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
