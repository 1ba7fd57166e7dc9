//! A volume as it was made is consistent; every finding is provoked, alone where that can be.

use super::*;
use crate::fixture::{Image, Random, UFS1, UFS2, all_kinds, install_host, options};
use crate::order::Order;
use crate::raw::{IFDIR, IFREG, RawSuperblock};
use core::mem::offset_of;
use zerocopy::LE;

type Raw = RawSuperblock<LE>;

fn findings(image: &Image) -> Vec<Finding> {
    check(image).expect("it can be checked").findings
}

/// What a volume with files has wrong after `spoil` that it had not before. Its files were put
/// there without being counted, so its groups are wrong in any case.
fn provoked(spoil: impl FnOnce(&mut Image)) -> Vec<Finding> {
    let mut image = Image::populated(options(UFS2, Order::Little, 4096, 1024));
    let before = findings(&image);
    spoil(&mut image);
    let mut after = findings(&image);
    after.retain(|finding| !before.contains(finding));
    after.retain(|finding| !matches!(finding, Finding::Number { .. } | Finding::Map { .. }));
    after
}

/// What a volume as it was made has wrong after `spoil`.
fn spoiled(spoil: impl FnOnce(&mut Image)) -> Vec<Finding> {
    let mut image = Image::small(UFS2);
    spoil(&mut image);
    findings(&image)
}

fn number(topic: Topic, field: &'static str, says: i64, right: i64) -> Finding {
    Finding::Number {
        topic,
        field,
        says,
        right,
    }
}

#[test]
fn every_volume_that_mkfs_makes_is_consistent() {
    for options in all_kinds() {
        let report = check(&Image::new(options)).expect("it can be checked");
        assert_eq!(report.findings, [], "{options:?}");
        assert_eq!(
            (report.inodes, report.directories, report.fragments),
            (1, 1, 1)
        );
    }
}

#[test]
fn files_put_there_are_found_and_only_the_groups_do_not_count_them() {
    let image = Image::populated(options(UFS1, Order::Big, 8192, 1024));
    let report = check(&image).expect("it can be checked");
    assert_eq!((report.inodes, report.directories), (11, 4));
    for finding in report.findings {
        // Links and sectors are not kept up by whoever put the files there.
        assert!(
            matches!(
                finding,
                Finding::Number { .. }
                    | Finding::Map { .. }
                    | Finding::Links { .. }
                    | Finding::Blocks { .. }
            ),
            "{finding}"
        );
    }
}

#[test]
fn bad_pointers_are_found_on_every_level() {
    let bad = 5;
    let found = provoked(|image| {
        for (ino, index) in [(5, 2), (5, 12), (6, 13), (6, 14)] {
            let at = image.pointer_byte(ino, index);
            image.put(at, 8, bad);
        }
    });
    let corrupt: Vec<_> = found
        .into_iter()
        .filter_map(|finding| match finding {
            Finding::Corrupt(Corrupt::Pointer { ino, block, .. }) => Some((ino, block, 0)),
            Finding::Corrupt(Corrupt::IndirectPointer {
                ino, block, level, ..
            }) => Some((ino, block, level)),
            _ => None,
        })
        .collect();
    let n = 512;
    assert_eq!(
        corrupt,
        [
            (5, 2, 0),
            (5, 12, 1),
            (6, 12 + n, 2),
            (6, 12 + n + n * n, 3)
        ]
    );
}

#[test]
fn a_link_whose_text_is_none_is_found() {
    let found = provoked(|image| {
        let short = image.pointer_byte(7, 0);
        image.put(short + 3, 1, 0);
        let long = image.sb.byte_of(image.pointer_at(image.pointer_byte(8, 0)));
        image.put(long + 699, 1, 0);
    });
    let broken = |ino| Finding::Corrupt(Corrupt::SymlinkText { ino });
    assert_eq!(found, [broken(7), broken(8)]);
    let nowhere = provoked(|image| {
        let pointer = image.pointer_byte(8, 0);
        image.put(pointer, 8, 0);
    });
    assert!(nowhere.contains(&broken(8)), "{nowhere:?}");
}

#[test]
fn a_fragment_with_two_owners_is_found_with_both() {
    let mut shared = 0;
    let found = provoked(|image| {
        shared = image.pointer_at(image.pointer_byte(4, 0));
        let at = image.pointer_byte(5, 3);
        image.put(at, 8, shared);
    });
    assert_eq!(
        found,
        [Finding::Duplicate {
            fragment: shared,
            first: 4,
            second: 5
        }]
    );
}

#[test]
fn a_block_that_one_file_has_twice_is_found() {
    let mut shared = 0;
    let found = provoked(|image| {
        shared = image.pointer_at(image.pointer_byte(5, 1));
        let at = image.pointer_byte(5, 3);
        image.put(at, 8, shared);
    });
    assert_eq!(
        found,
        [Finding::Duplicate {
            fragment: shared,
            first: 5,
            second: 5
        }]
    );
}

#[test]
fn an_indirect_block_that_leads_to_itself_ends() {
    let found = provoked(|image| {
        let double = image.pointer_at(image.pointer_byte(6, 13));
        let at = image.sb.byte_of(double);
        image.put(at, 8, double);
    });
    assert!(matches!(
        found[..],
        [Finding::Blocks { ino: 6, .. }, Finding::Duplicate { .. }]
    ));
}

#[test]
fn pointers_behind_the_end_are_found() {
    let found = provoked(|image| {
        let block = image.take_block();
        for (ino, index) in [(4, 1), (4, 12)] {
            let at = image.pointer_byte(ino, index);
            image.put(at, 8, block);
        }
    });
    let blocks: Vec<_> = found
        .into_iter()
        .filter_map(|finding| match finding {
            Finding::BeyondEnd { ino: 4, block, .. } => Some(block),
            _ => None,
        })
        .collect();
    assert_eq!(blocks, [1, 12]);
}

#[test]
fn inodes_that_are_wrong_are_found() {
    let found = provoked(|image| image.put_inode(50, 0o030_000, 0));
    let right = Corrupt::Inode {
        ino: 50,
        field: "mode",
        value: 0o030_000,
    };
    assert_eq!(found, [Finding::Corrupt(right)]);
    let found = provoked(|image| image.put_inode(50, 0, 77));
    assert_eq!(found, [Finding::PartlyAllocated { ino: 50 }]);
    let found = provoked(|image| {
        let at = image.inode_byte(4) + 24;
        image.put(at, 8, 1000);
    });
    assert_eq!(
        found,
        [Finding::Blocks {
            ino: 4,
            says: 1000,
            has: 2
        }]
    );
}

#[test]
fn a_file_without_a_name_is_found_unless_it_holds_the_journal() {
    let found = provoked(|image| image.put_inode(50, IFREG, 0));
    assert_eq!(found, [Finding::Nameless { ino: 50 }]);
    let found = provoked(|image| {
        image.put_inode(50, IFREG, 0);
        let flags = image.inode_byte(50) + 88;
        image.put(flags, 4, u64::from(crate::raw::SF_LOG));
        let journal = image.sb.location + offset_of!(Raw, journal) as u64;
        image.put_bytes(journal, &[1, 2]);
        image.put(journal + 24, 8, 512);
        image.put(journal + 32, 8, 50);
    });
    assert_eq!(found, []);
}

#[test]
fn a_journal_in_use_that_lies_behind_the_end_of_everything_is_found() {
    install_host();
    for address in [1 << 40, u64::MAX / 512 + 1, u64::MAX - 10_000] {
        let found = spoiled(|image| {
            let sb = image.sb.location;
            let in_use = u64::from(superblock::Flags::DOWAPBL.bits());
            image.put(sb + offset_of!(Raw, flags) as u64, 4, in_use);
            let journal = sb + offset_of!(Raw, journal) as u64;
            image.put_bytes(journal, &[1, crate::journal::BEHIND_FILESYSTEM]);
            for (n, number) in [address, 1000, 512, 0].into_iter().enumerate() {
                image.put(journal + 8 + 8 * n as u64, 8, number);
            }
        });
        let wrong = Corrupt::Journal {
            field: "address",
            value: address,
        };
        assert_eq!(found[0], Finding::Corrupt(wrong));
    }
}

#[test]
fn a_root_that_is_no_directory_is_found() {
    let found = spoiled(|image| image.put_file(2, IFREG, b"no directory"));
    assert!(found.contains(&Finding::Root));
}

#[test]
fn what_is_wrong_with_dot_and_dotdot_is_found() {
    let directory = |names: &'static [(&'static [u8], u32, u8)]| {
        provoked(move |image| {
            let data = image.directory(names);
            let at = image
                .sb
                .byte_of(image.pointer_at(image.pointer_byte(13, 0)));
            image.put_bytes(at, &data);
        })
    };
    let found = directory(&[(b"x", 4, 8), (b"..", 12, 4), (b"file", 5, 8)]);
    assert!(found.contains(&Finding::Dot { ino: 13 }));
    let found = directory(&[(b".", 12, 4), (b"..", 12, 4), (b"file", 5, 8)]);
    assert!(found.contains(&Finding::Dot { ino: 13 }));
    let found = directory(&[(b".", 13, 4), (b"..", 2, 4), (b"file", 5, 8)]);
    assert!(found.contains(&Finding::DotDot {
        ino: 13,
        says: 2,
        parent: 12
    }));
    let found = directory(&[(b".", 13, 4), (b"file", 5, 8)]);
    assert!(found.contains(&Finding::DotDot {
        ino: 13,
        says: 0,
        parent: 12
    }));
}

#[test]
fn names_that_lie_about_their_file_are_found() {
    let one_more = |name: (&'static [u8], u32, u8)| {
        provoked(move |image| {
            let names = [(&b"."[..], 13, 4), (b"..", 12, 4), (b"file", 5, 8), name];
            let data = image.directory(&names);
            let at = image
                .sb
                .byte_of(image.pointer_at(image.pointer_byte(13, 0)));
            image.put_bytes(at, &data);
        })
    };
    let (ino, offset) = (13, 40);
    let found = one_more((b"to nothing", 50, 8));
    assert_eq!(
        found,
        [Finding::NameOfNothing {
            ino,
            offset,
            target: 50
        }]
    );
    let found = one_more((b"to a file", 4, 4));
    assert!(found.contains(&Finding::NameType {
        ino,
        offset,
        target: 4
    }));
    let found = one_more((b"second", 11, 4));
    assert!(found.contains(&Finding::SecondName {
        ino,
        offset,
        target: 11
    }));
    assert!(
        found
            .iter()
            .any(|finding| matches!(finding, Finding::Links { ino: 11, .. }))
    );
}

#[test]
fn a_bad_unit_does_not_hide_those_behind_it() {
    let found = provoked(|image| {
        let at = image
            .sb
            .byte_of(image.pointer_at(image.pointer_byte(11, 0)));
        image.put(at + 512 + 4, 2, 7);
        image.put(at + 1536 + 4, 2, 7);
    });
    let places: Vec<_> = found
        .iter()
        .filter_map(|finding| match finding {
            Finding::Corrupt(Corrupt::Entry {
                ino: 11, offset, ..
            }) => Some(*offset),
            _ => None,
        })
        .collect();
    assert_eq!(places, [512, 1536]);
}

#[test]
fn directories_that_the_root_does_not_reach_are_found_even_in_a_circle() {
    let found = provoked(|image| {
        for (ino, parent) in [(20, 21), (21, 20)] {
            image.put_directory(
                ino,
                &[(b".", ino, 4), (b"..", parent, 4), (b"x", parent, 4)],
            );
        }
        image.put_inode(22, IFDIR, 0);
    });
    for ino in [20, 21, 22] {
        assert!(found.contains(&Finding::Unreached { ino }));
    }
}

#[test]
fn numbers_of_a_group_that_are_wrong_are_found() {
    let cg = |image: &Image| image.sb.byte_of(image.sb.cgtod(1));
    for (field, offset) in [("ndir", 24), ("nbfree", 28), ("nifree", 32), ("nffree", 36)] {
        let mut was = 0;
        let found = spoiled(|image| {
            let at = cg(image) + offset;
            was =
                i64::from(image.bytes[at as usize]) | i64::from(image.bytes[at as usize + 1]) << 8;
            image.put(at, 4, 12345);
        });
        assert_eq!(found, [number(Topic::Group(1), field, 12345, was)]);
    }
    for (field, offset) in [("rotor", 40), ("frotor", 44), ("irotor", 48)] {
        let found = spoiled(|image| image.put(cg(image) + offset, 4, 1 << 20));
        assert_eq!(found, [number(Topic::Group(1), field, 1 << 20, 0)]);
    }
    let found = spoiled(|image| image.put(cg(image) + 52 + 12, 4, 9));
    assert_eq!(found, [number(Topic::Group(1), "frsum", 9, 0)]);
    let layout = crate::cg::Layout::of(&Image::small(UFS2).sb);
    for (field, offset, right) in [
        ("iusedoff", 92, layout.iusedoff),
        ("freeoff", 96, layout.freeoff),
        ("clustersumoff", 104, layout.clustersumoff),
        ("clusteroff", 108, layout.clusteroff),
    ] {
        let found = spoiled(|image| image.put(cg(image) + offset, 4, 0xffff_fff0));
        let right = number(Topic::Group(1), field, 0xffff_fff0, right.into());
        assert_eq!(found, [right]);
    }
    let found = spoiled(|image| image.put(cg(image) + 4, 4, 0));
    let right = Corrupt::Group {
        group: 1,
        field: "magic",
        value: 0,
    };
    assert_eq!(found, [Finding::Corrupt(right)]);
}

#[test]
fn maps_of_a_group_that_are_wrong_are_found() {
    let toggle = |field: u64, bit: u64| {
        spoiled(|image| {
            let cg = image.sb.byte_of(image.sb.cgtod(1));
            let at = (cg + field) as usize;
            let offset = u64::from(u16::from_le_bytes([image.bytes[at], image.bytes[at + 1]]));
            image.bytes[(cg + offset + bit / 8) as usize] ^= 1 << (bit % 8);
        })
    };
    for (map, field) in [("inodes", 92), ("fragments", 96), ("clusters", 108)] {
        let (group, first, count) = (1, 5, 1);
        assert_eq!(
            toggle(field, 5),
            [Finding::Map {
                group,
                map,
                first,
                count
            }]
        );
    }
    let found = toggle(104, 64);
    assert!(matches!(
        found[..],
        [Finding::Number {
            topic: Topic::Group(1),
            field: "clustersum",
            ..
        }]
    ));
}

#[test]
fn the_summary_the_totals_and_the_backups_are_compared() {
    let found = spoiled(|image| image.put(image.sb.byte_of(image.sb.csaddr) + 16, 4, 3));
    assert_eq!(found, [number(Topic::Summary(1), "ndir", 3, 0)]);
    let found = spoiled(|image| image.put(image.sb.location + 1008, 8, 3));
    assert_eq!(found, [number(Topic::Superblock, "ndir", 3, 1)]);
    let found = spoiled(|image| {
        let at = image.sb.byte_of(image.sb.cgsblock(2));
        image.put(at + offset_of!(Raw, ncg) as u64, 4, 3);
    });
    assert_eq!(found, [number(Topic::Backup(2), "ncg", 3, 4)]);
    for (field, offset, width) in [
        ("optim", offset_of!(Raw, optim), 4),
        ("qbmask", offset_of!(Raw, qbmask), 8),
        ("qfmask", offset_of!(Raw, qfmask), 8),
        ("maxfilesize", offset_of!(Raw, maxfilesize), 8),
        ("maxsymlinklen", offset_of!(Raw, maxsymlinklen), 4),
    ] {
        let found = spoiled(|image| image.put(image.sb.location + offset as u64, width, 99));
        assert!(
            matches!(
                found[..],
                [Finding::Number { topic: Topic::Superblock, field: found, says: 99, .. }] if found == field
            ),
            "{field}: {found:?}"
        );
    }
}

#[test]
fn volumes_with_tables_of_42bsd_are_refused() {
    let mut image = Image::small(UFS1);
    let at = image.sb.location;
    image.put(at + 211, 1, 0);
    image.put(at + offset_of!(Raw, old_postblformat) as u64, 4, u64::MAX);
    image.put(at + offset_of!(Raw, cgsize) as u64, 4, 4096);
    let fault = check(&image).unwrap_err();
    assert!(matches!(
        fault,
        Fault::Corrupt(Corrupt::Superblock {
            field: "old_postblformat",
            ..
        })
    ));
}

#[test]
fn random_corruption_never_makes_the_check_panic_or_go_on_for_ever() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    std::println!("SEED={seed}");
    let mut random = Random::new(seed);
    let mut image = Image::populated(options(UFS2, Order::Little, 4096, 4096));
    let sound = image.bytes.clone();
    let sb = image.sb.clone();
    for _ in 0..150 {
        for _ in 0..20 {
            let inode = image.inode_byte(2 + random.below(12) as u32) + random.below(64) * 4;
            let group = sb.byte_of(sb.cgtod(0)) + random.below(400) * 4;
            let pointer = sb.byte_of(image.pointer_at(image.pointer_byte(5, 12)) % sb.size);
            let places = [inode, group, pointer + random.below(16) * 4];
            let at = places[random.below(3) as usize];
            let value = match random.below(2) {
                0 => random.interesting(),
                _ => random.below(sb.size),
            };
            image.put(at, 4, value);
        }
        // Whatever it finds: it ends.
        let _ = check(&image);
        image.bytes.copy_from_slice(&sound);
    }
}

#[test]
fn a_finding_says_where_it_is() {
    let finding = Finding::Duplicate {
        fragment: 7,
        first: 3,
        second: 4,
    };
    let text = std::string::ToString::to_string(&finding);
    assert_eq!(text, "fragment 7 belongs to inode 3 and to inode 4");
    let finding = number(Topic::Backup(2), "ncg", 3, 4);
    let text = std::string::ToString::to_string(&finding);
    assert_eq!(text, "superblock's copy in group 2: ncg is 3, should be 4");
}
