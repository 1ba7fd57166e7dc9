//! What pass5.c finds: groups, the summary, totals.

use std::mem::offset_of;

use crate::setup::is_number_of_superblock;
use crate::spoiled::{Raw, Spoil, Spoiled};
use rumpfs_ffs::check::{Finding, Topic};
use rumpfs_ffs::corrupt::Corrupt;

fn is_number_of_group(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Number {
            topic: Topic::Group(_),
            ..
        }
    )
}

fn is_bad_group(finding: &Finding) -> bool {
    matches!(finding, Finding::Corrupt(Corrupt::Group { .. }))
}

/// Writes over the field at `offset` of group 0.
fn group_field(it: &mut Spoiled, offset: u64, value: u64) {
    let at = it.group(0) + offset;
    it.put(at, 4, value);
}

/// Turns a bit of a map of group 0 whose place is told at `offset`.
fn turn(it: &mut Spoiled, offset: u64, bit: u64) {
    let at = it.group(0) + it.get(it.group(0) + offset, 4) + bit / 8;
    it.image.0[at as usize] ^= 1 << (bit % 8);
}

pub const GROUPS: &[Spoil] = &[
    (
        "a group has no magic",
        |it| group_field(it, 4, 0),
        is_bad_group,
    ),
    (
        "a group is another",
        |it| group_field(it, 12, 3),
        is_bad_group,
    ),
    (
        "a group has another size",
        |it| group_field(it, 20, 3),
        is_bad_group,
    ),
    ("ndir", |it| group_field(it, 24, 99), is_number_of_group),
    ("nbfree", |it| group_field(it, 28, 1), is_number_of_group),
    ("nifree", |it| group_field(it, 32, 1), is_number_of_group),
    ("nffree", |it| group_field(it, 36, 99), is_number_of_group),
    (
        "rotor",
        |it| group_field(it, 40, 1 << 30),
        is_number_of_group,
    ),
    (
        "frotor",
        |it| group_field(it, 44, 1 << 30),
        is_number_of_group,
    ),
    (
        "irotor",
        |it| group_field(it, 48, 1 << 30),
        is_number_of_group,
    ),
    (
        "iusedoff",
        |it| group_field(it, 92, 190),
        is_number_of_group,
    ),
    ("freeoff", |it| group_field(it, 96, 190), is_number_of_group),
    (
        "clustersumoff",
        |it| group_field(it, 104, 200),
        is_number_of_group,
    ),
    (
        "clusteroff",
        |it| group_field(it, 108, 200),
        is_number_of_group,
    ),
    (
        "nclusterblks",
        |it| group_field(it, 112, 1),
        is_number_of_group,
    ),
    (
        "the map of inodes",
        |it| turn(it, 92, 7),
        |finding| matches!(finding, Finding::Map { map: "inodes", .. }),
    ),
    (
        "the map of fragments",
        |it| {
            let bit = u64::from(it.sb.dblkno + 1);
            turn(it, 96, bit);
        },
        |finding| {
            matches!(
                finding,
                Finding::Map {
                    map: "fragments",
                    ..
                }
            )
        },
    ),
    (
        "the map of clusters",
        |it| turn(it, 108, 60),
        |finding| {
            matches!(
                finding,
                Finding::Map {
                    map: "clusters",
                    ..
                }
            )
        },
    ),
    (
        "no group has magic",
        |it| {
            for cg in 0..it.sb.ncg {
                let at = it.group(cg);
                it.put(at + 4, 4, 0);
            }
        },
        is_bad_group,
    ),
    (
        "a group has no magic, and a file of it a wrong count of links",
        |it| {
            let at = it.inode(it.ino("/other"));
            it.put(at + 2, 2, 5);
            let cg = it.ino("/other") / it.sb.ipg;
            let at = it.group(cg);
            it.put(at + 4, 4, 0);
        },
        is_bad_group,
    ),
    (
        "the summary",
        |it| {
            let at = it.sb.byte_of(it.sb.csaddr);
            it.put(at + 4, 4, 9999);
        },
        |finding| {
            matches!(
                finding,
                Finding::Number {
                    topic: Topic::Summary(0),
                    ..
                }
            )
        },
    ),
    (
        "the totals",
        |it| {
            let offset = if it.sb.updated {
                offset_of!(Raw, cstotal)
            } else {
                192
            };
            it.superblock(offset, 8, 9);
        },
        is_number_of_superblock,
    ),
];

/// On volumes of UFS2 only.
pub const UFS2_ONLY: &[Spoil] = &[(
    "more inodes were written than there are",
    |it| group_field(it, 120, 1 << 30),
    is_bad_group,
)];
/// Where blocks have fragments only.
pub const FRAGMENTS_ONLY: &[Spoil] = &[("frsum", |it| group_field(it, 56, 99), is_number_of_group)];
