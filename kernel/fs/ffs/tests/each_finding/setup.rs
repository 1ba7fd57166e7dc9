//! What setup.c finds: superblocks.

use std::mem::offset_of;

use crate::spoiled::{Raw, Spoil};
use rumpfs_ffs::check::{Finding, Topic};
use rumpfs_ffs::corrupt::Corrupt;

fn is_bad_superblock(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Corrupt(Corrupt::Superblock { .. } | Corrupt::NoSuperblock)
    )
}

pub fn is_number_of_superblock(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Number {
            topic: Topic::Superblock,
            ..
        }
    )
}

pub const SETUP: &[Spoil] = &[
    (
        "the superblock is gone",
        |it| it.image.0[it.sb.location as usize..][..1376].fill(0),
        is_bad_superblock,
    ),
    (
        "its magic is wrong",
        |it| it.superblock(offset_of!(Raw, magic), 4, 77),
        is_bad_superblock,
    ),
    (
        "the superblock and the first copy are gone",
        |it| {
            let (one, two) = (it.sb.location as usize, it.backup(0) as usize);
            it.image.0[one..one + 1376].fill(0);
            it.image.0[two..two + 1376].fill(0);
        },
        is_bad_superblock,
    ),
    (
        "its block size is none",
        |it| it.superblock(offset_of!(Raw, bsize), 4, 5000),
        is_bad_superblock,
    ),
    (
        "its reserve is more than all",
        |it| it.superblock(offset_of!(Raw, minfree), 4, 150),
        is_bad_superblock,
    ),
    (
        "a mask contradicts its size",
        |it| it.superblock(offset_of!(Raw, fmask), 4, 0),
        is_bad_superblock,
    ),
    (
        "its geometry is another than that of the copies",
        |it| {
            let cblkno = u64::from(it.sb.cblkno + it.sb.frag);
            it.superblock(offset_of!(Raw, cblkno), 4, cblkno);
        },
        is_number_of_superblock,
    ),
    (
        "it prefers neither time nor space",
        |it| it.superblock(offset_of!(Raw, optim), 4, 9),
        is_number_of_superblock,
    ),
    (
        "the mask of blocks is wrong",
        |it| it.superblock(offset_of!(Raw, qbmask), 8, 9),
        is_number_of_superblock,
    ),
    (
        "the mask of fragments is wrong",
        |it| it.superblock(offset_of!(Raw, qfmask), 8, 9),
        is_number_of_superblock,
    ),
    (
        "the largest file is another",
        |it| it.superblock(offset_of!(Raw, maxfilesize), 8, 1 << 20),
        is_number_of_superblock,
    ),
    (
        "the longest short link is another",
        |it| it.superblock(offset_of!(Raw, maxsymlinklen), 4, 20),
        is_number_of_superblock,
    ),
    (
        "it has flags that nobody knows",
        |it| it.superblock(offset_of!(Raw, flags), 4, 0x5),
        is_number_of_superblock,
    ),
    (
        "soft updates left blocks",
        |it| it.superblock(offset_of!(Raw, pendingblocks), 8, 3),
        is_number_of_superblock,
    ),
    (
        "soft updates left inodes",
        |it| it.superblock(offset_of!(Raw, pendinginodes), 4, 3),
        is_number_of_superblock,
    ),
    (
        "a copy is gone",
        |it| {
            let at = it.backup(1) as usize;
            it.image.0[at..at + 1376].fill(0);
        },
        |finding| {
            matches!(
                finding,
                Finding::Number {
                    topic: Topic::Backup(1),
                    ..
                }
            )
        },
    ),
    (
        "a copy has another geometry",
        |it| {
            let at = it.backup(1) + offset_of!(Raw, sbsize) as u64;
            it.put(at, 4, 4000);
        },
        |finding| {
            matches!(
                finding,
                Finding::Number {
                    topic: Topic::Backup(1),
                    field: "sbsize",
                    ..
                }
            )
        },
    ),
];

pub const UFS1_ONLY: &[Spoil] = &[(
    "no interleave",
    |it| it.superblock(offset_of!(Raw, old_interleave), 4, 0),
    is_number_of_superblock,
)];
