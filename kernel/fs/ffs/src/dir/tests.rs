//! Directories: what an entry may look like, and reading from any place on.

use super::*;
use crate::fixture::{Image, Random, UFS1, UFS2, all_kinds};
use crate::lookup::lookup;
use crate::raw::{DT_WHT, IFDIR};
use std::string::String;
use std::vec::Vec;

const INO: u32 = 4;
const REG: u8 = 8;

fn names(image: &Image, from: u64) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let inode = image.inode(INO);
    walk(&image.sb, image, &inode, (from, u64::MAX), &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        true
    })?;
    Ok(names)
}

fn many(count: u32) -> Vec<(Vec<u8>, u32, u8)> {
    (0..count)
        .map(|n| (std::format!("file number {n}").into_bytes(), 5 + n % 9, REG))
        .collect()
}

fn put_many(image: &mut Image, count: u32) {
    let names = many(count);
    let names: Vec<_> = names
        .iter()
        .map(|(name, ino, t)| (&name[..], *ino, *t))
        .collect();
    image.put_directory(INO, &names);
}

#[test]
fn names_are_read_and_found_on_every_kind_of_volume() {
    for options in all_kinds() {
        let mut image = Image::new(options);
        put_many(&mut image, 300);
        assert_eq!(names(&image, 0).expect("read").len(), 300);
        let inode = image.inode(INO);
        for hint in [0, 512, 1 << 20] {
            let found = lookup(&image.sb, &image, &inode, b"file number 7", hint).unwrap();
            assert_eq!(found.map(|found| found.ino), Some(12));
            let none = lookup(&image.sb, &image, &inode, b"file number", hint).unwrap();
            assert_eq!(none, None);
        }
    }
}

#[test]
fn reading_resumes_at_the_place_of_any_entry() {
    let mut image = Image::small(UFS2);
    put_many(&mut image, 100);
    let all = names(&image, 0).unwrap();
    let mut places = Vec::new();
    let inode = image.inode(INO);
    let mut collect = |entry: &Entry<'_>| {
        places.push(entry.offset + u64::from(entry.reclen));
        true
    };
    walk(&image.sb, &image, &inode, (0, u64::MAX), &mut collect).unwrap();
    for (index, place) in places.into_iter().enumerate() {
        assert_eq!(names(&image, place).unwrap(), all[index + 1..]);
    }
    assert!(names(&image, u64::MAX - 3).unwrap().is_empty());
}

#[test]
fn names_of_1_and_of_255_bytes_fit() {
    let mut image = Image::small(UFS1);
    let long = [b'x'; 255];
    image.put_directory(INO, &[(b"a", 5, REG), (&long, 6, REG)]);
    assert_eq!(names(&image, 0).unwrap()[1].len(), 255);
}

#[test]
fn directories_of_42bsd_have_no_types_and_their_name_length_in_two_bytes() {
    for order in [Order::Little, Order::Big] {
        let mut image = Image::new(crate::fixture::options(UFS1, order, 4096, 1024));
        image.sb.maxsymlinklen = 0;
        image.put_directory(INO, &[(b".", 4, 0), (b"some name", 6, 0)]);
        assert_eq!(names(&image, 0).unwrap(), [".", "some name"]);
        let inode = image.inode(INO);
        let found = lookup(&image.sb, &image, &inode, b"some name", 0).unwrap();
        assert_eq!(found.map(|found| found.ino), Some(6));
    }
}

#[test]
fn free_entries_and_whiteouts_are_passed_over() {
    let mut image = Image::small(UFS2);
    let names_in = [
        (&b"gone"[..], 0, 0),
        (b"white", 1, DT_WHT),
        (b"here", 5, REG),
    ];
    image.put_directory(INO, &names_in);
    assert_eq!(names(&image, 0).unwrap(), ["here"]);
}

/// What becomes of a directory of one unit whose bytes at `at` are `bytes`.
fn spoiled(at: u64, bytes: &[u8]) -> Fault {
    let mut image = Image::small(UFS2);
    image.put_directory(INO, &[(b"first", 5, REG), (b"second", 6, REG)]);
    let inode = image.inode(INO);
    let start = bmap::map(&image.sb, &image, &inode, 0, 1)
        .unwrap()
        .address
        .unwrap();
    image.put_bytes(image.sb.byte_of(start) + at, bytes);
    names(&image, 0).unwrap_err()
}

#[test]
fn every_fault_of_an_entry_is_told_from_the_others() {
    // The first entry is 16 bytes long, the second takes the rest, 496.
    for (at, bytes, offset, fault) in [
        (4, &[14, 0][..], 0, EntryFault::Length(14)),
        (4, &[4, 0], 0, EntryFault::Length(4)),
        (4, &[0, 0], 0, EntryFault::Length(0)),
        (20, &[0xfc, 1], 16, EntryFault::CrossesUnit(508)),
        (20, &[0xec, 1], 508, EntryFault::Length(4)),
        (7, &[0], 0, EntryFault::NameLength(0)),
        (7, &[8], 0, EntryFault::NameLength(8)),
        (9, &[0], 0, EntryFault::NameByte(0)),
        (9, b"/", 0, EntryFault::NameByte(b'/')),
        (13, b"x", 0, EntryFault::Unterminated),
        (0, &[0xff; 4], 0, EntryFault::InodeNumber(u32::MAX)),
    ] {
        let right = Corrupt::Entry {
            ino: INO,
            offset,
            fault,
        };
        assert_eq!(spoiled(at, bytes), Fault::Corrupt(right));
    }
}

#[test]
fn a_directory_with_a_hole_is_corrupt_and_costs_nothing() {
    let mut image = Image::small(UFS2);
    image.put_inode(INO, IFDIR, 3 * 4096);
    let fault = names(&image, 512).unwrap_err();
    let right = Corrupt::DirectoryHole {
        ino: INO,
        offset: 512,
    };
    assert_eq!(fault, Fault::Corrupt(right));
}

#[test]
fn random_units_never_panic_and_never_yield_a_name_that_is_none() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    std::println!("SEED={seed}");
    let mut random = Random::new(seed);
    let image = Image::small(UFS2);
    let names = many(30);
    let names: Vec<_> = names
        .iter()
        .map(|(name, ino, t)| (&name[..], *ino, *t))
        .collect();
    let unit = image.directory(&names);
    for order in [Order::Little, Order::Big] {
        for old in [false, true] {
            let shape = Shape {
                order,
                old,
                inodes: 100,
            };
            for _ in 0..10_000 {
                let mut unit = unit[..512].to_vec();
                for _ in 0..=random.below(4) {
                    unit[random.below(512) as usize] = random.interesting() as u8;
                }
                let mut steps = 0;
                let _ = shape.walk_unit(&unit, 0, &mut |at, entry| {
                    steps += 1;
                    assert!(at < 512 && steps <= 64);
                    if let Some(entry) = entry {
                        assert!((2..100).contains(&entry.ino));
                        assert!((1..=255).contains(&entry.name.len()));
                        assert!(!entry.name.iter().any(|byte| matches!(byte, 0 | b'/')));
                    }
                    true
                });
            }
        }
    }
}

#[test]
fn an_entry_ends_the_walk_when_the_visitor_has_enough() {
    let mut image = Image::small(UFS2);
    put_many(&mut image, 50);
    let mut seen = 0;
    let inode = image.inode(INO);
    let ended = walk(&image.sb, &image, &inode, (0, u64::MAX), &mut |_| {
        seen += 1;
        seen < 3
    });
    assert_eq!((ended, seen), (Ok(false), 3));
}
