//! What pass2.c, pass3.c and pass4.c find: names, directories that nothing leads to, counts of links.

use crate::spoiled::Spoil;
use rumpfs_ffs::check::Finding;
use rumpfs_ffs::corrupt::Corrupt;
use rumpfs_ffs::raw;

pub const NAMES: &[Spoil] = &[
    (
        "the root is a file",
        |it| {
            let at = it.inode(2);
            it.put(at, 2, u64::from(raw::IFREG | 0o644));
        },
        |finding| matches!(finding, Finding::Root),
    ),
    (
        "the root is free",
        |it| {
            let at = it.inode(2) as usize;
            it.image.0[at..at + 100].fill(0);
        },
        |finding| matches!(finding, Finding::Root),
    ),
    (
        "the root has no block",
        |it| {
            let (_, _, at) = it.fields(2, 0);
            let width = it.width();
            it.put(at, width, 0);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::DirectoryHole { ino: 2, .. })
            )
        },
    ),
    (
        "the root's block lies nowhere",
        |it| {
            let (_, _, at) = it.fields(2, 0);
            let width = it.width();
            it.put(at, width, 1);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Pointer { ino: 2, .. })),
    ),
    (
        "a directory has a hole",
        |it| it.put_pointer("/d/sub", 0, 0),
        |finding| matches!(finding, Finding::Corrupt(Corrupt::DirectoryHole { .. })),
    ),
    (
        "an entry has no length",
        |it| {
            let at = it.entry("/d/sub/file");
            it.put(at + 4, 2, 0);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "an entry leaves its unit",
        |it| {
            let at = it.entry("/d/sub/file");
            it.put(at + 4, 2, 512);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "a name has no end",
        |it| {
            let at = it.entry("/d/sub/file") as usize;
            it.image.0[at + 12] = b'x';
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "a name has a slash",
        |it| {
            let at = it.entry("/d/sub/file") as usize;
            it.image.0[at + 9] = b'/';
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "an entry has a number that no inode has",
        |it| {
            let at = it.entry("/d/sub/file");
            it.put(at, 4, 0x7fff_ffff);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "a whiteout has no name",
        |it| {
            let at = it.entry("/d/sub/file");
            it.put(at, 4, 1);
            it.put(at + 7, 1, 0);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Entry { .. })),
    ),
    (
        "a dot leads elsewhere",
        |it| {
            let (at, other) = (it.data("/d/sub", 0), it.ino("/d"));
            it.put(at, 4, u64::from(other));
        },
        |finding| matches!(finding, Finding::Dot { .. }),
    ),
    (
        "two dots lead elsewhere",
        |it| {
            let at = it.data("/d/sub", 0);
            it.put(at + 12, 4, 2);
        },
        |finding| matches!(finding, Finding::DotDot { .. }),
    ),
    (
        "the dots are gone",
        |it| {
            let at = it.data("/d/sub", 0) as usize;
            it.image.0[at + 8..at + 10].copy_from_slice(b"a\0");
            it.image.0[at + 20..at + 23].copy_from_slice(b"bb\0");
        },
        |finding| matches!(finding, Finding::Dot { .. } | Finding::DotDot { .. }),
    ),
    (
        "a name leads to a free inode",
        |it| {
            let (at, free) = (it.entry("/other"), it.ino("/other") + 3);
            it.put(at, 4, u64::from(free));
        },
        |finding| matches!(finding, Finding::NameOfNothing { .. }),
    ),
    (
        "a name has another type than its file",
        |it| {
            let at = it.entry("/other") as usize;
            it.image.0[at + 6] = 4;
        },
        |finding| matches!(finding, Finding::NameType { .. }),
    ),
    (
        "a directory has two names",
        |it| {
            let (at, dir) = (it.entry("/other"), it.ino("/d/sub"));
            it.put(at, 4, u64::from(dir));
            it.put(at + 6, 1, 4);
        },
        |finding| matches!(finding, Finding::SecondName { .. }),
    ),
    (
        "directories lead to each other in a circle",
        |it| {
            let (d, sub) = (it.ino("/d"), it.ino("/d/sub"));
            let (from, to) = (it.entry("/d"), it.entry("/d/sub/file"));
            it.put(from, 4, 0);
            it.put(to, 4, u64::from(d));
            it.put(to + 6, 1, 4);
            let dots = it.data("/d", 0);
            it.put(dots + 12, 4, u64::from(sub));
        },
        |finding| matches!(finding, Finding::Unreached { .. }),
    ),
    (
        "a directory has lost its name",
        |it| {
            let at = it.entry("/d");
            it.put(at, 4, 0);
        },
        |finding| {
            matches!(
                finding,
                Finding::Unreached { .. } | Finding::Nameless { .. }
            )
        },
    ),
    (
        "a file has lost its name",
        |it| {
            let at = it.entry("/other");
            it.put(at, 4, 0);
        },
        |finding| matches!(finding, Finding::Nameless { .. }),
    ),
    (
        "an empty file has lost its name",
        |it| {
            let at = it.entry("/empty");
            it.put(at, 4, 0);
        },
        |finding| matches!(finding, Finding::Nameless { .. }),
    ),
    (
        "a file counts more links than it has",
        |it| {
            let at = it.inode(it.ino("/other"));
            it.put(at + 2, 2, 5);
        },
        |finding| matches!(finding, Finding::Links { .. }),
    ),
];
