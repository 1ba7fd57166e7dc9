//! The map of physical memory: which addresses are RAM, and who has them.
//!
//! Firmware's maps are unsorted and may overlap, so the map is painted: every range given replaces what was known of
//! those addresses. RAM is painted first, then what is not RAM, then what is taken.

use bootloader_api::info::{MemoryRegion, MemoryRegionKind};

/// Entries that a map holds. Firmware gives a dozen; each range painted inside another costs two more.
pub const CAPACITY: usize = 160;

/// A map of memory, sorted by address, without overlaps.
pub struct RegionMap {
    entries: [MemoryRegion; CAPACITY],
    len: usize,
}

impl RegionMap {
    /// A map in which nothing is known.
    pub const fn new() -> RegionMap {
        RegionMap {
            entries: [MemoryRegion {
                start: 0,
                end: 0,
                kind: MemoryRegionKind::Bootloader,
            }; CAPACITY],
            len: 0,
        }
    }

    /// The entries.
    pub fn as_slice(&self) -> &[MemoryRegion] {
        &self.entries[..self.len]
    }

    /// The entries, to hand on.
    pub fn as_mut_slice(&mut self) -> &mut [MemoryRegion] {
        &mut self.entries[..self.len]
    }

    /// Makes `start..end` of kind `kind`. What does not fit in a full map is forgotten, and so not used as RAM.
    pub fn paint(&mut self, start: u64, end: u64, kind: MemoryRegionKind) {
        if start >= end {
            return;
        }
        let mut index = 0;
        while index < self.len {
            let entry = self.entries[index];
            if entry.end <= start || entry.start >= end {
                index += 1;
                continue;
            }
            self.len -= 1;
            self.entries[index] = self.entries[self.len];
            // The pieces left over are beside what is painted: met again further on, they are passed by.
            self.append(MemoryRegion {
                end: start,
                ..entry
            });
            self.append(MemoryRegion {
                start: end,
                ..entry
            });
        }
        self.append(MemoryRegion { start, end, kind });
        self.as_mut_slice()
            .sort_unstable_by_key(|region| region.start);
    }

    fn append(&mut self, entry: MemoryRegion) {
        if entry.start < entry.end && self.len < CAPACITY {
            self.entries[self.len] = entry;
            self.len += 1;
        }
    }
}

impl Default for RegionMap {
    fn default() -> RegionMap {
        RegionMap::new()
    }
}

/// Whether any of `start..end` is memory (used or not) by `regions`: nothing that a device may claim.
pub fn overlaps_memory(regions: &[MemoryRegion], start: u64, end: u64) -> bool {
    regions.iter().any(|region| {
        matches!(
            region.kind,
            MemoryRegionKind::Usable | MemoryRegionKind::Bootloader
        ) && region.start < end
            && region.end > start
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryRegionKind::{Bootloader, UnknownBios, Usable};
    extern crate std;
    use std::vec::Vec;

    fn painted(ranges: &[(u64, u64, MemoryRegionKind)]) -> Vec<(u64, u64, MemoryRegionKind)> {
        let mut map = RegionMap::new();
        for &(start, end, kind) in ranges {
            map.paint(start, end, kind);
        }
        map.as_slice()
            .iter()
            .map(|region| (region.start, region.end, region.kind))
            .collect()
    }

    #[test]
    fn painting_inside_a_range_leaves_both_ends_of_it() {
        let map = painted(&[(0, 100, Usable), (40, 60, Bootloader)]);
        assert_eq!(
            map,
            [(0, 40, Usable), (40, 60, Bootloader), (60, 100, Usable)]
        );
    }

    #[test]
    fn a_range_painted_over_several_replaces_them_all() {
        let map = painted(&[
            (0, 10, Usable),
            (20, 30, Usable),
            (30, 40, UnknownBios(2)),
            (5, 35, Bootloader),
        ]);
        assert_eq!(
            map,
            [
                (0, 5, Usable),
                (5, 35, Bootloader),
                (35, 40, UnknownBios(2))
            ]
        );
    }

    #[test]
    fn unsorted_and_empty_entries_come_out_sorted_and_filled() {
        let map = painted(&[
            (50, 60, Usable),
            (0, 0, Usable),
            (9, 3, Usable),
            (0, 10, Usable),
        ]);
        assert_eq!(map, [(0, 10, Usable), (50, 60, Usable)]);
    }

    #[test]
    fn a_full_map_never_calls_reserved_memory_usable() {
        let mut map = RegionMap::new();
        map.paint(0, 1 << 40, Usable);
        for hole in 0..1000u64 {
            map.paint(hole * 1000 + 10, hole * 1000 + 20, UnknownBios(2));
        }
        assert!(map.as_slice().len() <= CAPACITY);
        for region in map.as_slice().iter().filter(|region| region.kind == Usable) {
            for hole in 0..1000u64 {
                let start = hole * 1000 + 10;
                assert!(
                    region.end <= start || region.start >= start + 10,
                    "{region:?} covers the hole at {start}"
                );
            }
        }
    }
}
