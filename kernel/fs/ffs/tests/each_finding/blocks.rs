//! What pass1.c finds: inodes, and blocks that they claim.

use crate::spoiled::Spoil;
use rumpfs_ffs::check::Finding;
use rumpfs_ffs::corrupt::Corrupt;

pub const BLOCKS: &[Spoil] = &[
    (
        "an inode is of no type",
        |it| {
            let at = it.inode(it.ino("/other"));
            it.put(at, 2, 0o030_644);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::Inode { field: "mode", .. })
            )
        },
    ),
    (
        "a free inode has a size",
        |it| {
            let free = it.ino("/other") + 3;
            let (size, _, _) = it.fields(free, 0);
            it.put(size, 8, 77);
        },
        |finding| matches!(finding, Finding::PartlyAllocated { .. }),
    ),
    (
        "a file is longer than any",
        |it| {
            let (size, _, _) = it.fields(it.ino("/other"), 0);
            it.put(size, 8, 1 << 62);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::Inode { field: "size", .. })
            )
        },
    ),
    (
        "a directory ends within a unit",
        |it| {
            let (size, _, _) = it.fields(it.ino("/d/sub"), 0);
            it.put(size, 8, 500);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::Inode { field: "size", .. })
            )
        },
    ),
    (
        "a directory has nothing",
        |it| {
            let (size, _, _) = it.fields(it.ino("/d/sub"), 0);
            it.put(size, 8, 0);
        },
        |finding| matches!(finding, Finding::Dot { .. }),
    ),
    (
        "a count of links is negative",
        |it| {
            let at = it.inode(it.ino("/other"));
            it.put(at + 2, 2, 0x8001);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::Inode { field: "nlink", .. })
            )
        },
    ),
    (
        "a pointer is behind the end",
        |it| {
            let address = it.pointer("/big", 3);
            it.put_pointer("/other", 1, address);
        },
        |finding| matches!(finding, Finding::BeyondEnd { block: 1, .. }),
    ),
    (
        "a tree of pointers is behind the end",
        |it| {
            let address = it.pointer("/big", 12);
            it.put_pointer("/other", 13, address);
        },
        |finding| matches!(finding, Finding::BeyondEnd { .. }),
    ),
    (
        "a pointer in an indirect block is behind the end",
        |it| {
            let at = it.data("/big", 12) + 100 * it.width() as u64;
            let (address, width) = (it.pointer("/big", 3), it.width());
            it.put(at, width, address);
        },
        |finding| matches!(finding, Finding::BeyondEnd { block: 112, .. }),
    ),
    (
        "a pointer leads beyond the volume",
        |it| it.put_pointer("/other", 0, 1 << 30),
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Pointer { .. })),
    ),
    (
        "a pointer leads into metadata",
        |it| {
            let address = it.sb.cgimin(1);
            it.put_pointer("/other", 0, address);
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::Pointer { .. })),
    ),
    (
        "an indirect block lies nowhere",
        |it| it.put_pointer("/big", 12, 3),
        |finding| matches!(finding, Finding::Corrupt(Corrupt::IndirectPointer { .. })),
    ),
    (
        "a pointer in an indirect block leads nowhere",
        |it| {
            let (at, width) = (it.data("/big", 12), it.width());
            it.put(at, width, 1 << 30);
        },
        |finding| {
            matches!(
                finding,
                Finding::Corrupt(Corrupt::IndirectPointer { .. } | Corrupt::Pointer { .. })
            )
        },
    ),
    (
        "a block has two owners",
        |it| {
            let address = it.pointer("/big", 2);
            it.put_pointer("/other", 0, address);
        },
        |finding| matches!(finding, Finding::Duplicate { .. }),
    ),
    (
        "a count of blocks is wrong",
        |it| {
            let (_, blocks, _) = it.fields(it.ino("/other"), 0);
            it.put(blocks, 4, 9);
            it.put(blocks + 4, 4, 9);
        },
        |finding| matches!(finding, Finding::Blocks { .. }),
    ),
    (
        "a link's text has a byte that no path has",
        |it| {
            let at = it.data("/link", 0) as usize;
            it.image.0[at + 5] = 0;
        },
        |finding| matches!(finding, Finding::Corrupt(Corrupt::SymlinkText { .. })),
    ),
];
