//! Memory: all RAM that nothing else has.

use crate::heap::Pieces;
use core::ptr::NonNull;
use platform_x86_64::bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use rumpuser::{PAGE_SIZE, Region};
use spin::Once;

/// The most regions that are handed on. Machines have two or three; further ones are not used.
const MAX_REGIONS: usize = 16;

pub(crate) struct Memory {
    regions: Once<([Region; MAX_REGIONS], usize)>,
}

pub(crate) static MEMORY: Memory = Memory {
    regions: Once::new(),
};

impl Memory {
    /// Takes what is usable and not the heap's. Once.
    pub(crate) fn init(&self, map: &[MemoryRegion], heap: &Pieces) {
        self.regions.call_once(|| {
            let nothing = Region {
                base: NonNull::dangling(),
                pages: 0,
            };
            let mut regions = ([nothing; MAX_REGIONS], 0);
            let usable = map
                .iter()
                .filter(|region| region.kind == MemoryRegionKind::Usable);
            for region in usable
                .filter_map(|region| without_heap(region, heap))
                .take(MAX_REGIONS)
            {
                regions.0[regions.1] = region;
                regions.1 += 1;
            }
            regions
        });
    }

    /// Pages in all regions.
    pub(crate) fn pages(&self) -> usize {
        rumpuser::Memory::regions(self)
            .iter()
            .map(|region| region.pages)
            .sum()
    }
}

/// The whole pages of `region` that the heap, whose pieces start where regions do, has not taken.
fn without_heap(region: &MemoryRegion, heap: &Pieces) -> Option<Region> {
    let page = PAGE_SIZE as u64;
    let mut start = region.start.next_multiple_of(page);
    for (taken, end) in heap.ranges {
        if taken == start && end > taken {
            start = end;
        }
    }
    let pages = (region.end & !(page - 1)).checked_sub(start)? / page;
    let base = NonNull::new(start as *mut u8)?;
    (pages > 0).then_some(Region {
        base,
        pages: pages as usize,
    })
}

impl rumpuser::Memory for Memory {
    fn regions(&self) -> &[Region] {
        self.regions.get().map_or(&[], |(list, len)| &list[..*len])
    }
}
