//! From logical blocks to addresses: every depth, holes, tails, and pointers that lie.

use super::*;
use crate::fixture::{Image, UFS1, UFS2, all_kinds};
use crate::raw::IFREG;

const INO: u32 = 4;

fn mapped(image: &Image, block: u64, want: u64) -> Result<Extent, Fault> {
    map(&image.sb, image, &image.inode(INO), block, want)
}

fn address(image: &Image, block: u64) -> Option<u64> {
    mapped(image, block, 1).expect("mapped").address
}

#[test]
fn a_path_has_one_index_for_each_level() {
    let to = |block| Path::to(10, block).map(|path| (path.depth, path.direct, path.indices));
    assert_eq!(to(11), Some((0, 11, [0, 0, 0])));
    assert_eq!(to(12), Some((1, 0, [0, 0, 0])));
    assert_eq!(to(21), Some((1, 0, [9, 0, 0])));
    assert_eq!(to(22), Some((2, 0, [0, 0, 0])));
    assert_eq!(to(121), Some((2, 0, [9, 9, 0])));
    assert_eq!(to(122), Some((3, 0, [0, 0, 0])));
    assert_eq!(to(122 + 345), Some((3, 0, [3, 4, 5])));
    assert_eq!(to(1121), Some((3, 0, [9, 9, 9])));
    assert_eq!(to(1122), None);
    assert_eq!(to(u64::MAX), None);
}

#[test]
fn blocks_at_the_edges_of_every_level_are_found_on_every_kind_of_volume() {
    for options in all_kinds() {
        let mut image = Image::new(options);
        let n = u64::from(image.sb.nindir);
        let edges = [0, 11, 12, 11 + n, 12 + n, 11 + n + n * n, 12 + n + n * n];
        let reached = |block: &u64| *block <= image.sb.maxfilesize >> image.sb.bshift;
        let edges: std::vec::Vec<u64> = edges.into_iter().filter(reached).collect();
        let size = image.sb.maxfilesize;
        image.put_inode(INO, IFREG, size);
        let mut places = std::vec::Vec::new();
        for block in &edges {
            let place = image.take_block();
            image.put_pointer(INO, *block, place);
            places.push((*block, place));
        }
        for (block, place) in places {
            assert_eq!(
                address(&image, block),
                Some(place),
                "{options:?} block {block}"
            );
        }
        assert_eq!(address(&image, 5), None);
        assert_eq!(address(&image, 13), None);
    }
}

#[test]
fn a_run_goes_on_while_blocks_follow_each_other() {
    let mut image = Image::small(UFS2);
    image.put_file(INO, IFREG, &[1; 40 * 4096]);
    // Direct blocks lie together; before the indirect ones comes the indirect block itself.
    assert_eq!(mapped(&image, 0, 100).unwrap().bytes, 12 * 4096);
    assert_eq!(mapped(&image, 3, 100).unwrap().bytes, 9 * 4096);
    assert_eq!(mapped(&image, 3, 2).unwrap().bytes, 2 * 4096);
    assert_eq!(mapped(&image, 13, 100).unwrap().bytes, 27 * 4096);
}

#[test]
fn a_run_ends_where_the_next_block_lies_elsewhere() {
    let mut image = Image::small(UFS1);
    image.put_file(INO, IFREG, &[1; 8 * 4096]);
    let elsewhere = image.take_block();
    let elsewhere = elsewhere + 8;
    image.put_pointer(INO, 4, elsewhere);
    assert_eq!(mapped(&image, 0, 8).unwrap().bytes, 4 * 4096);
    assert_eq!(mapped(&image, 4, 8).unwrap().bytes, 4096);
}

#[test]
fn the_last_block_of_a_short_file_is_some_fragments() {
    let mut image = Image::small(UFS2);
    image.put_file(INO, IFREG, &[1; 2 * 4096 + 700]);
    assert_eq!(mapped(&image, 0, 9).unwrap().bytes, 2 * 4096 + 1024);
    assert_eq!(mapped(&image, 2, 9).unwrap().bytes, 1024);
}

#[test]
fn holes_run_on_to_the_next_block() {
    let mut image = Image::small(UFS2);
    let n = u64::from(image.sb.nindir);
    image.put_inode(INO, IFREG, 1 << 39);
    let place = image.take_block();
    image.put_pointer(INO, 7, place);
    assert_eq!(
        mapped(&image, 2, 100).unwrap(),
        Extent {
            address: None,
            bytes: 5 * 4096
        }
    );
    // Nothing under the single, double and triple pointer.
    for (block, rest) in [(12, n), (14, n - 2), (12 + n + 5, n * n - 5)] {
        let extent = mapped(&image, block, 1).unwrap();
        assert_eq!(
            extent,
            Extent {
                address: None,
                bytes: rest * 4096
            }
        );
    }
    // Nothing under the first pointer of the triple's second level.
    image.put_pointer(INO, 12 + n + n * n + 2 * n, place);
    let extent = mapped(&image, 12 + n + n * n + 3, 1).unwrap();
    assert_eq!(
        extent,
        Extent {
            address: None,
            bytes: (n - 3) * 4096
        }
    );
}

#[test]
fn pointers_out_of_the_data_area_are_refused_where_they_are_followed() {
    for format in [UFS1, UFS2] {
        let mut image = Image::small(format);
        image.put_file(INO, IFREG, &[1; 14 * 4096]);
        let sb = image.sb.clone();
        let inodes = sb.cgimin(1);
        for bad in [
            u64::MAX,
            1,
            sb.size,
            sb.size - 1,
            inodes,
            sb.cgtod(0),
            0x7fff_fff0,
        ] {
            let width = format.pointer_size();
            let at = image.pointer_byte(INO, 2);
            image.put(at, width, bad);
            let fault = mapped(&image, 2, 1).unwrap_err();
            assert!(
                matches!(
                    fault,
                    Fault::Corrupt(Corrupt::Pointer {
                        ino: INO,
                        block: 2,
                        ..
                    })
                ),
                "{bad:#x}: {fault:?}"
            );
            // The blocks before it can still be read.
            assert_eq!(mapped(&image, 0, 12).unwrap().bytes, 2 * 4096);
        }
    }
}

#[test]
fn pointers_to_indirect_blocks_are_judged_on_every_level() {
    let mut image = Image::small(UFS2);
    let n = u64::from(image.sb.nindir);
    image.put_inode(INO, IFREG, image.sb.maxfilesize);
    let place = image.take_block();
    for (block, pointer, level) in [(12, 12, 1), (12 + n, 13, 2), (12 + n + n * n, 14, 3)] {
        image.put_pointer(INO, block, place);
        let at = image.pointer_byte(INO, pointer);
        image.put(at, 8, image.sb.size);
        let fault = mapped(&image, block, 1).unwrap_err();
        let right = Corrupt::IndirectPointer {
            ino: INO,
            block,
            level,
            address: image.sb.size as i64,
        };
        assert_eq!(fault, Fault::Corrupt(right));
    }
}

#[test]
fn a_block_that_no_pointer_reaches_is_of_a_file_too_large() {
    let mut image = Image::small(UFS2);
    image.put_file(INO, IFREG, b"x");
    let fault = mapped(&image, 1 << 50, 1).unwrap_err();
    assert_eq!(fault, Fault::Refused(Errno::EFBIG));
}

#[test]
fn a_device_that_cannot_read_an_indirect_block_is_reported_with_the_place() {
    let mut image = Image::small(UFS2);
    image.put_file(INO, IFREG, &[1; 14 * 4096]);
    let inode = image.inode(INO);
    let indirect = image.take_block() - 3 * 8;
    let indirect = image.sb.byte_of(indirect);
    image.bytes.truncate(indirect as usize);
    let fault = map(&image.sb, &image, &inode, 12, 1).unwrap_err();
    assert!(matches!(fault, Fault::Device { at, .. } if at >= indirect));
}
