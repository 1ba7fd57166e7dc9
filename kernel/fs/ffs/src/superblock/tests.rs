//! Superblocks: found where they may be, and believed only if every field agrees.

use super::*;
use crate::fixture::{Image, UFS1, UFS2, all_kinds, options};
use core::mem::offset_of;
use std::vec::Vec;

type Raw = RawSuperblock<LE>;

fn judged(image: &Image, tolerance: Tolerance) -> Result<Option<Superblock>, Corrupt> {
    let at = image.sb.location;
    judge(&image.bytes[at as usize..], at, tolerance)
}

/// The superblock of a small volume after `width` bytes at `offset` became `value`.
fn with_field(
    format: Format,
    offset: usize,
    width: usize,
    value: u64,
) -> Result<Option<Superblock>, Corrupt> {
    let mut image = Image::small(format);
    image.put(image.sb.location + offset as u64, width, value);
    judged(&image, Tolerance::default())
}

#[test]
fn every_format_order_and_size_that_mkfs_makes_is_found() {
    for options in all_kinds() {
        let image = Image::new(options);
        let sb = image.find().expect("found");
        assert_eq!(sb.format, options.format);
        assert_eq!(sb.order, options.order);
        assert_eq!(Some(sb.bsize), options.bsize);
        assert_eq!(Some(sb.fsize), options.fsize);
        assert_eq!(sb.clean, Clean::IS_CLEAN);
        assert!(sb.ncg >= 1);
    }
}

#[test]
fn default_sizes_are_newfs_ones() {
    for (size, bsize, fsize) in [(8 << 20, 4096, 512), (64 << 20, 8192, 1024)] {
        let image = Image::new(crate::mkfs::Options::new(UFS2, size));
        assert_eq!((image.sb.bsize, image.sb.fsize), (bsize, fsize));
        assert!(image.sb.ncg >= 4);
    }
}

#[test]
fn nothing_but_zeroes_is_no_file_system() {
    struct Zeroes;
    impl Metadata for Zeroes {
        fn read(&self, _: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
            visit(&std::vec![0; len]);
            Ok(())
        }
    }
    let fault = find(&Zeroes, Tolerance::default()).unwrap_err();
    assert_eq!(fault, Fault::Corrupt(Corrupt::NoSuperblock));
}

#[test]
fn a_device_that_fails_everywhere_is_reported_as_that() {
    struct Broken;
    impl Metadata for Broken {
        fn read(&self, _: u64, _: usize, _: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
            Err(Errno::EIO)
        }
    }
    let fault = find(&Broken, Tolerance::default()).unwrap_err();
    let at = raw::SBLOCK_UFS2;
    assert_eq!(
        fault,
        Fault::Device {
            at,
            errno: Errno::EIO
        }
    );
}

#[test]
fn a_place_too_far_for_a_small_device_is_skipped() {
    let mut image = Image::new(options(UFS1, Order::Little, 4096, 512));
    image.bytes.truncate(60_000);
    assert_eq!(image.find().expect("found").location, raw::SBLOCK_UFS1);
}

#[test]
fn makefs_puts_the_superblock_of_ufs2_where_ufs1_has_it() {
    let mut image = Image::small(UFS2);
    let (from, to) = (raw::SBLOCK_UFS2 as usize, raw::SBLOCK_UFS1 as usize);
    image.bytes.copy_within(from..from + raw::SBLOCKSIZE, to);
    image.bytes[from..from + raw::SBLOCKSIZE].fill(0);
    let sblockloc = offset_of!(Raw, sblockloc) as u64;
    image.put(raw::SBLOCK_UFS1 + sblockloc, 8, raw::SBLOCK_UFS1);
    assert_eq!(image.find().expect("found").location, raw::SBLOCK_UFS1);
}

#[test]
fn a_superblock_that_belongs_elsewhere_is_skipped() {
    let mut image = Image::small(UFS2);
    image.put(
        image.sb.location + offset_of!(Raw, sblockloc) as u64,
        8,
        8192,
    );
    let fault = image.find().unwrap_err();
    assert_eq!(fault, Fault::Corrupt(Corrupt::NoSuperblock));
}

#[test]
fn a_ufs1_superblock_at_64_kib_is_a_backup() {
    let mut image = Image::small(UFS1);
    let from = image.sb.location as usize;
    let backup = image.bytes[from..from + raw::SBLOCKSIZE].to_vec();
    let at = raw::SBLOCK_UFS2;
    image.put_bytes(at, &backup);
    image.put(at + offset_of!(Raw, sblockloc) as u64, 8, at);
    assert!(
        judge(&image.bytes[at as usize..], at, Tolerance::default()).is_ok_and(|sb| sb.is_none())
    );
}

#[test]
fn every_field_that_later_code_relies_on_is_checked() {
    let minus = u64::MAX;
    let cases: &[(&str, usize, usize, &[u64])] = &[
        (
            "sbsize",
            offset_of!(Raw, sbsize),
            4,
            &[0, 1375, 8193, minus],
        ),
        (
            "bsize",
            offset_of!(Raw, bsize),
            4,
            &[0, 2048, 5000, 131_072, minus],
        ),
        (
            "fsize",
            offset_of!(Raw, fsize),
            4,
            &[0, 256, 600, 8192, minus],
        ),
        ("frag", offset_of!(Raw, frag), 4, &[0, 1, 16, minus]),
        ("bmask", offset_of!(Raw, bmask), 4, &[0]),
        ("fmask", offset_of!(Raw, fmask), 4, &[0]),
        ("bshift", offset_of!(Raw, bshift), 4, &[0, 40]),
        ("fshift", offset_of!(Raw, fshift), 4, &[0, 40]),
        ("fragshift", offset_of!(Raw, fragshift), 4, &[0, 40]),
        ("nindir", offset_of!(Raw, nindir), 4, &[0, 1, minus]),
        ("inopb", offset_of!(Raw, inopb), 4, &[0, 1, minus]),
        ("minfree", offset_of!(Raw, minfree), 4, &[100, minus]),
        ("maxbpg", offset_of!(Raw, maxbpg), 4, &[0, minus]),
        ("ncg", offset_of!(Raw, ncg), 4, &[0, 1, minus]),
        ("ipg", offset_of!(Raw, ipg), 4, &[0, 1, minus, 0x8000_0000]),
        ("fpg", offset_of!(Raw, fpg), 4, &[0, minus]),
        ("sblkno", offset_of!(Raw, sblkno), 4, &[0, minus, 1 << 30]),
        ("cblkno", offset_of!(Raw, cblkno), 4, &[0, minus, 1 << 30]),
        ("iblkno", offset_of!(Raw, iblkno), 4, &[0, minus, 1 << 30]),
        ("dblkno", offset_of!(Raw, dblkno), 4, &[0, minus, 1 << 30]),
        ("cgsize", offset_of!(Raw, cgsize), 4, &[0, 176, 8192, minus]),
        ("cssize", offset_of!(Raw, cssize), 4, &[0, 1 << 30, minus]),
        (
            "csaddr",
            offset_of!(Raw, csaddr),
            8,
            &[0, 1, 1 << 40, minus],
        ),
        (
            "contigsumsize",
            offset_of!(Raw, contigsumsize),
            4,
            &[17, minus],
        ),
        (
            "maxsymlinklen",
            offset_of!(Raw, maxsymlinklen),
            4,
            &[121, 1 << 20],
        ),
        ("size", offset_of!(Raw, size), 8, &[0, minus, 1 << 60]),
        ("dsize", offset_of!(Raw, dsize), 8, &[1 << 40, minus]),
        (
            "cstotal.ndir",
            offset_of!(Raw, cstotal),
            8,
            &[1 << 40, minus],
        ),
        (
            "cstotal.nbfree",
            offset_of!(Raw, cstotal) + 8,
            8,
            &[1 << 40, minus],
        ),
        (
            "cstotal.nifree",
            offset_of!(Raw, cstotal) + 16,
            8,
            &[1 << 40, minus],
        ),
        (
            "cstotal.nffree",
            offset_of!(Raw, cstotal) + 24,
            8,
            &[1 << 40, minus],
        ),
    ];
    for (name, offset, width, values) in cases {
        for value in *values {
            let judged = with_field(UFS2, *offset, *width, *value);
            let Err(Corrupt::Superblock { field, .. }) = judged else {
                panic!("{name} = {value:#x} passed: {judged:?}");
            };
            // Fields that contradict each other may be reported by either name.
            if *name != "fpg" && *name != "fsize" && *name != "bsize" {
                assert_eq!(field, *name, "value {value:#x}");
            }
        }
    }
}

#[test]
fn shifts_of_metadata_that_leave_the_group_are_refused() {
    let cgoffset = offset_of!(Raw, old_cgoffset);
    for value in [u64::MAX, 1 << 30] {
        let judged = with_field(UFS1, cgoffset, 4, value);
        assert!(matches!(
            judged,
            Err(Corrupt::Superblock {
                field: "old_cgoffset",
                ..
            })
        ));
    }
    let mut image = Image::small(UFS1);
    image.put(image.sb.location + cgoffset as u64, 4, 8);
    image.put(
        image.sb.location + offset_of!(Raw, old_cgmask) as u64,
        4,
        0x8000_0000,
    );
    let judged = judged(&image, Tolerance::default());
    assert!(matches!(
        judged,
        Err(Corrupt::Superblock {
            field: "old_cgmask",
            ..
        })
    ));
}

#[test]
fn ufs1_shifts_metadata_from_group_to_group() {
    let mut image = Image::small(UFS1);
    image.put(
        image.sb.location + offset_of!(Raw, old_cgoffset) as u64,
        4,
        8,
    );
    image.put(
        image.sb.location + offset_of!(Raw, old_cgmask) as u64,
        4,
        !3,
    );
    let sb = judged(&image, Tolerance::default())
        .unwrap()
        .expect("a superblock");
    assert_eq!(sb.cgstart(0), 0);
    assert_eq!(sb.cgstart(3), sb.cgbase(3) + 24);
    assert_eq!(sb.cgtod(2), sb.cgbase(2) + 16 + u64::from(sb.cblkno));
}

#[test]
fn flags_that_are_not_known_are_refused_unless_forced() {
    for bit in [0x1, 0x4, 0x8, 0x20, 0x40, 0x400, 0x8000_0000_u64] {
        let mut image = Image::small(UFS2);
        image.put(image.sb.location + offset_of!(Raw, flags) as u64, 4, bit);
        let refused = judged(&image, Tolerance::default());
        assert_eq!(
            refused.unwrap_err(),
            Corrupt::Flags {
                unknown: bit as u32
            }
        );
        let forced = judged(&image, Tolerance { force: true });
        assert!(forced.is_ok_and(|sb| sb.is_some()));
    }
}

#[test]
fn flags_that_are_known_are_kept() {
    let sb = with_field(UFS2, offset_of!(Raw, flags), 4, 0x112)
        .unwrap()
        .unwrap();
    assert_eq!(
        sb.flags,
        Flags::DOSOFTDEP | Flags::POSIX1EACLS | Flags::DOWAPBL
    );
}

#[test]
fn an_old_ufs1_superblock_has_its_numbers_in_other_fields() {
    let mut image = Image::small(UFS1);
    let at = image.sb.location;
    let new = image.sb.clone();
    image.put(at + 211, 1, 0);
    // What the new layout put where the old one has nothing.
    for (offset, width) in [
        (offset_of!(Raw, sblockloc), 8),
        (offset_of!(Raw, time), 8),
        (offset_of!(Raw, size), 8),
        (offset_of!(Raw, dsize), 8),
        (offset_of!(Raw, csaddr), 8),
        (offset_of!(Raw, maxbsize), 4),
        (offset_of!(Raw, flags), 4),
    ] {
        image.put(at + offset as u64, width, u64::MAX);
    }
    image.bytes[at as usize + 1008..at as usize + 1072].fill(0xff);
    image.put(at + offset_of!(Raw, old_time) as u64, 4, 77);
    image.put(at + offset_of!(Raw, maxsymlinklen) as u64, 4, 0);
    image.put(at + offset_of!(Raw, old_inodefmt) as u64, 4, u64::MAX);
    let sb = image.find().expect("found");
    assert!(!sb.updated && sb.old_inodes && !sb.old_tables);
    assert!(sb.has_old_directories());
    assert_eq!(
        (sb.size, sb.dsize, sb.csaddr),
        (new.size, new.dsize, new.csaddr)
    );
    assert_eq!(sb.cstotal, new.cstotal);
    assert_eq!((sb.time, sb.flags), (77, Flags::empty()));
}

#[test]
fn the_largest_file_is_what_the_facts_say() {
    let sizes = |bsize: u32, pointer: u32| Sizes {
        bsize,
        fsize: bsize,
        frag: 1,
        bshift: bsize.ilog2(),
        fshift: bsize.ilog2(),
        nindir: bsize / pointer,
        inopb: 1,
    };
    // Pointers of 8 KiB blocks reach 70,403,120,791,551 bytes, addresses of 31 bits less.
    assert_eq!(max_file_size(UFS1, &sizes(8192, 4)), (8192 << 31) - 1);
    assert_eq!(max_file_size(UFS1, &sizes(4096, 4)), 4_402_345_721_855);
    assert_eq!(max_file_size(UFS2, &sizes(8192, 8)), 8_804_691_443_711);
    assert_eq!(max_file_size(UFS1, &sizes(65536, 4)), (65536 << 31) - 1);
}

#[test]
fn random_superblocks_never_panic_and_what_passes_has_sound_geometry() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    std::println!("SEED={seed}");
    let mut random = crate::fixture::Random::new(seed);
    let kinds: Vec<Image> = all_kinds().into_iter().map(Image::new).collect();
    for _ in 0..20_000 {
        let image = &kinds[random.below(kinds.len() as u64) as usize];
        let at = image.sb.location;
        let start = at as usize;
        let mut bytes = image.bytes[start..start + raw::SBLOCKSIZE].to_vec();
        for _ in 0..=random.below(3) {
            let field = random.below(343) as usize * 4;
            let value = random.interesting() as u32;
            bytes[field..field + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let Ok(Some(sb)) = judge(&bytes, at, Tolerance { force: true }) else {
            continue;
        };
        for cg in [0, sb.ncg / 2, sb.ncg - 1] {
            assert!(sb.cgsblock(cg) <= sb.cgtod(cg));
            assert!(sb.cgtod(cg) <= sb.cgimin(cg));
            assert!(sb.cgimin(cg) < sb.cgdmin(cg));
            assert!(sb.cgdmin(cg) <= sb.cgbase(cg) + u64::from(sb.fpg));
        }
        assert!(sb.cgdmin(sb.ncg - 1) <= sb.size);
        let last = sb
            .inode_place(sb.inodes() - 1)
            .expect("the last inode has a place");
        assert!(last.byte + sb.format.inode_size() <= sb.bsize as usize);
        assert!(sb.size.checked_mul(u64::from(sb.fsize)).is_some());
    }
}
