//! The sizes of slab objects.
//!
//! Up to 256 bytes in steps of 16. Above, each size is what a slab of one, two or four pages divides into
//! with the least left over, so that neither rounding up (at most about an eighth, on the average half of that)
//! nor the slab's end wastes much. What is larger than the last takes whole pages.

use rumpuser::PAGE_SIZE;

/// A size, and the length of its slabs.
#[derive(Clone, Copy)]
pub(super) struct Class {
    /// Bytes of an object; a multiple of 16.
    pub(super) size: u16,
    /// Pages of a slab.
    pub(super) pages: u8,
}

impl Class {
    /// Objects in a slab.
    pub(super) const fn objects(self) -> usize {
        self.pages as usize * PAGE_SIZE / self.size as usize
    }
}

const fn class(size: u16, pages: u8) -> Class {
    Class { size, pages }
}

/// All of them, small first.
pub(super) const CLASSES: [Class; 36] = [
    class(16, 1),
    class(32, 1),
    class(48, 1),
    class(64, 1),
    class(80, 1),
    class(96, 1),
    class(112, 1),
    class(128, 1),
    class(144, 1),
    class(160, 1),
    class(176, 1),
    class(192, 1),
    class(208, 1),
    class(224, 1),
    class(240, 1),
    class(256, 1),
    // 14, 12, 11, 10, 9, 8, 7, 6, 5, 4 in a page
    class(288, 1),
    class(336, 1),
    class(368, 1),
    class(400, 1),
    class(448, 1),
    class(512, 1),
    class(576, 1),
    class(672, 1),
    class(816, 1),
    // 9 in two pages
    class(896, 2),
    class(1024, 1),
    // 7 in two pages
    class(1168, 2),
    class(1360, 1),
    // 5 in two pages, 9 in four
    class(1632, 2),
    class(1808, 4),
    class(2048, 1),
    // 7 in four pages, 3 in two, 5 in four
    class(2336, 4),
    class(2720, 2),
    class(3264, 4),
    class(4096, 1),
];

/// The largest object in a slab.
const LARGEST: usize = 4096;

/// The class of each size in units of 16 bytes.
static BY_SIZE: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let mut class = 0;
    let mut units = 1;
    while units < table.len() {
        if units * 16 > CLASSES[class].size as usize {
            class += 1;
        }
        table[units] = class as u8;
        units += 1;
    }
    table
};

/// The class for objects of `size` bytes aligned to `align`; `None` if whole pages are to be taken.
#[inline]
pub(super) fn class_for(size: usize, align: usize) -> Option<usize> {
    if size > LARGEST {
        return None;
    }
    let class = BY_SIZE[size.div_ceil(16)] as usize;
    if align <= 16 {
        return Some(class);
    }
    // Objects lie at multiples of their size from a page's start.
    (class..CLASSES.len()).find(|class| (CLASSES[*class].size as usize).is_multiple_of(align))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_fits_and_wastes_little_of_its_slab() {
        let mut before = 0;
        for class in CLASSES {
            assert!(class.size > before && class.size % 16 == 0);
            before = class.size;
            let slab = class.pages as usize * PAGE_SIZE;
            let left = slab - class.objects() * class.size as usize;
            assert!(left * 20 < slab, "{}: {left} bytes left over", class.size);
        }
    }

    #[test]
    fn every_size_gets_the_smallest_class_that_fits() {
        for size in 0..=LARGEST {
            let class = class_for(size, 1).expect("small");
            assert!(CLASSES[class].size as usize >= size);
            assert!(class == 0 || (CLASSES[class - 1].size as usize) < size);
        }
        assert!(class_for(LARGEST + 1, 1).is_none());
    }

    #[test]
    fn an_alignment_divides_the_size_of_its_class() {
        for shift in 0..=12 {
            let align = 1 << shift;
            for size in [1, 24, 100, 600, 1500, 4096] {
                let class = class_for(size, align).expect("small");
                assert!(align <= 16 || (CLASSES[class].size as usize).is_multiple_of(align));
                assert!(CLASSES[class].size as usize >= size);
            }
        }
        assert!(class_for(64, 8192).is_none());
    }

    #[test]
    fn sizes_above_256_waste_at_most_a_quarter() {
        let mut below = 256;
        for class in CLASSES.iter().filter(|class| class.size > 256) {
            let size = class.size as usize;
            assert!((size - below - 1) * 4 <= size, "{below} to {size}");
            below = size;
        }
    }
}
