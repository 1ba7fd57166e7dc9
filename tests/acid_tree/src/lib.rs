//! The tree of the acid test: what files it has, and what is in them. All of it follows from the tree's number and the files' names,
//! so that the guest that writes it and the host that has it read by another program keep nothing to compare with.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

/// The largest file of a tree, in bytes.
const LARGE: u64 = 32 << 20;
/// Small files in a tree.
const SMALL: u32 = 2000;
/// Small files are shorter than this, in bytes.
const SMALL_BYTES: u32 = 4000;
/// A file ends before, at and behind each: fragments, blocks, and where single and double indirect blocks begin if a block
/// has 8 KiB and a pointer 8 bytes.
const BORDERS: [u64; 10] = [
    512,
    1024,
    4096,
    8192,
    12 * 8192,
    16_384,
    65_536,
    12 * 16_384,
    1 << 20,
    (12 + 1024) * 8192,
];
/// Where double indirect blocks begin if a block has 8 KiB and a pointer 4 bytes. One file of a tree ends at, behind
/// or before it, as the tree's number says: three of them were most of the tree.
const FAR_BORDER: u64 = (12 + 2048) * 8192;

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where it lies.
    pub path: String,
    /// What its contents follow from.
    pub seed: u64,
    /// How many bytes it has.
    pub size: u64,
}

/// The directory of tree `number`.
pub fn directory(number: u32) -> String {
    format!("/tree-{number}")
}

/// The files of tree `number`: one large one, sizes around every border, one around the far border, many small ones. Where `part` is not
/// 1, the large one is that part of its size, there are only that part of the small ones, and none is larger than the large one.
pub fn files(number: u32, part: u32) -> impl Iterator<Item = Planned> {
    let part = part.max(1);
    let largest = LARGE / u64::from(part);
    let large = core::iter::once((String::from("large"), largest));
    let borders = BORDERS.into_iter().filter(move |border| *border < largest);
    let around = borders.flat_map(|border| {
        [border - 1, border, border + 1].map(|size| (format!("border-{size}"), size))
    });
    let far = [FAR_BORDER, FAR_BORDER + 1, FAR_BORDER - 1][number as usize % 3];
    let far = (far < largest).then(|| (format!("border-{far}"), far));
    let small = (0..SMALL / part).map(|number| {
        let size = number.wrapping_mul(2_654_435_761) % SMALL_BYTES;
        (format!("small-{number}"), u64::from(size))
    });
    let first = u64::from(number) * 100_000;
    let all = large.chain(around).chain(far).chain(small).zip(first..);
    all.map(move |((name, size), seed)| Planned {
        path: format!("{}/{name}", directory(number)),
        seed,
        size,
    })
}

/// The eight bytes of file `seed` that begin at byte `8 * index`.
fn word(seed: u64, index: u64) -> [u8; 8] {
    (index ^ (seed << 40))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_le_bytes()
}

/// Puts the bytes of file `seed` from `offset` on into `bytes`.
pub fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    let into = (offset % 8) as usize;
    let (head, rest) = bytes.split_at_mut((8 - into).min(bytes.len()));
    head.copy_from_slice(&word(seed, offset / 8)[into..into + head.len()]);
    for (index, part) in (offset / 8 + 1..).zip(rest.chunks_mut(8)) {
        part.copy_from_slice(&word(seed, index)[..part.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_80_mib_and_a_file_the_same_bytes_however_they_are_asked_for() {
        let total = |number, part| files(number, part).map(|file| file.size).sum::<u64>();
        assert!((0..3).all(|number| total(number, 1) >> 20 == 80));
        assert!((2..8).contains(&(total(1, 16) >> 20)));
        let mut whole = [0; 100];
        fill(7, 3, &mut whole);
        for from in 0..100 {
            for past in from..100 {
                let mut part = [0; 100];
                fill(7, 3 + from as u64, &mut part[from..past]);
                assert_eq!(part[from..past], whole[from..past]);
            }
        }
    }
}
