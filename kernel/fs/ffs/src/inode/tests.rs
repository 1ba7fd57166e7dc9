//! Inodes: every kind of file, and what no file can be.

use super::*;
use crate::fixture::{Image, UFS1, UFS2, all_kinds};
use crate::raw::{IFBLK, IFCHR, IFDIR, IFIFO, IFLNK, IFREG, IFSOCK, IFWHT};

const INO: u32 = 4;

fn load(image: &Image) -> Result<Inode, Fault> {
    Inode::load(&image.sb, image, INO)
}

fn corrupt(image: &Image) -> Corrupt {
    match load(image) {
        Err(Fault::Corrupt(corrupt)) => corrupt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_root_directory_that_mkfs_makes_is_read_on_every_kind_of_volume() {
    for options in all_kinds() {
        let image = Image::new(options);
        let root = image.inode(raw::UFS_ROOTINO);
        assert_eq!((root.vtype, root.mode()), (VnodeType::Dir, 0o40755));
        assert_eq!((root.nlink, root.size), (2, 512));
        assert_eq!(root.blocks, u64::from(image.sb.fsize / 512));
        assert_eq!(root.birthtime.is_some(), image.sb.format.is_ufs2());
    }
}

#[test]
fn devices_have_their_number_where_files_have_their_first_pointer() {
    for (format, number) in [(UFS1, 0xffff_fff0_u64), (UFS2, 0x1234_5678_9abc)] {
        for mode in [IFBLK, IFCHR] {
            let mut image = Image::small(format);
            image.put_inode(INO, mode, 0);
            let at = image.pointer_byte(INO, 0);
            image.put(at, format.pointer_size(), number);
            let contents = image.inode(INO).contents;
            assert!(matches!(contents, Contents::Device(found) if found == number));
        }
    }
}

#[test]
fn fifos_and_sockets_have_no_blocks() {
    for mode in [IFIFO, IFSOCK] {
        let mut image = Image::small(UFS2);
        image.put_inode(INO, mode, 0);
        assert!(matches!(image.inode(INO).contents, Contents::Nothing));
    }
}

#[test]
fn a_short_link_lies_in_the_inode_and_a_long_one_in_a_block() {
    for (format, longest) in [(UFS1, 59), (UFS2, 119)] {
        let mut image = Image::small(format);
        image.put_inode(INO, IFLNK, longest);
        let at = image.pointer_byte(INO, 0);
        image.put_bytes(at, &[b'x'; 119][..longest as usize]);
        let Contents::Text { bytes, len } = image.inode(INO).contents else {
            panic!("a link of {longest} bytes is short");
        };
        assert_eq!(u64::from(len), longest);
        assert_eq!(bytes[longest as usize - 1], b'x');
        image.put_inode(INO, IFLNK, longest + 1);
        assert!(matches!(image.inode(INO).contents, Contents::Blocks { .. }));
    }
}

#[test]
fn without_short_links_a_link_that_has_no_blocks_is_short_all_the_same() {
    let mut image = Image::small(UFS1);
    image.sb.maxsymlinklen = 0;
    image.put_inode(INO, IFLNK, 5);
    assert!(matches!(
        image.inode(INO).contents,
        Contents::Text { len: 5, .. }
    ));
    let at = image.inode_byte(INO) + 104;
    image.put(at, 4, 8);
    assert!(matches!(image.inode(INO).contents, Contents::Blocks { .. }));
}

#[test]
fn owners_of_42bsd_inodes_have_16_bits() {
    let mut image = Image::small(UFS1);
    image.put_inode(INO, IFREG, 0);
    let at = image.inode_byte(INO);
    image.put(at + 4, 2, 7);
    image.put(at + 6, 2, 8);
    image.put(at + 112, 4, 1000);
    image.put(at + 116, 4, 1001);
    let inode = image.inode(INO);
    assert_eq!((inode.uid, inode.gid), (1000, 1001));
    image.sb.old_inodes = true;
    let inode = image.inode(INO);
    assert_eq!((inode.uid, inode.gid), (7, 8));
}

#[test]
fn sizes_that_no_file_can_have_are_refused() {
    for (mode, size) in [
        (IFREG, 1 << 63),
        (IFREG, u64::MAX),
        (IFDIR, 100),
        (IFDIR, 0x7fff_fe00),
        (IFDIR, 1 << 32),
        (IFLNK, 0),
        (IFLNK, 1024),
    ] {
        for format in [UFS1, UFS2] {
            let mut image = Image::small(format);
            image.put_inode(INO, mode, size);
            let right = Corrupt::Inode {
                ino: INO,
                field: "size",
                value: size,
            };
            assert_eq!(corrupt(&image), right);
        }
    }
}

#[test]
fn modes_that_are_none_and_negative_link_counts_are_refused() {
    let mut image = Image::small(UFS2);
    for mode in [IFWHT, 0o030_000, 0o777] {
        image.put_inode(INO, mode, 0);
        let value = u64::from(mode);
        assert_eq!(
            corrupt(&image),
            Corrupt::Inode {
                ino: INO,
                field: "mode",
                value
            }
        );
    }
    image.put_inode(INO, IFREG, 0);
    let at = image.inode_byte(INO);
    image.put(at + 2, 2, 0x8000);
    let value = 0x8000;
    assert_eq!(
        corrupt(&image),
        Corrupt::Inode {
            ino: INO,
            field: "nlink",
            value
        }
    );
}

#[test]
fn an_inode_that_is_free_or_was_never_written_is_no_file() {
    let mut image = Image::small(UFS2);
    assert_eq!(corrupt(&image), Corrupt::InodeFree { ino: INO });
    // The group says that nothing was written there, so what lies there does not count.
    image.put_inode(INO, IFREG, 0);
    let cg = image.sb.byte_of(image.sb.cgtod(0));
    image.put(cg + 120, 4, u64::from(INO));
    assert_eq!(corrupt(&image), Corrupt::InodeFree { ino: INO });
    image.put(cg + 120, 4, u64::from(INO) + 1);
    assert!(load(&image).is_ok());
}

#[test]
fn inode_numbers_that_no_file_has_are_refused() {
    let image = Image::small(UFS1);
    for ino in [0, 1, image.sb.inodes(), u32::MAX] {
        let fault = Inode::load(&image.sb, &image, ino).unwrap_err();
        let ino = u64::from(ino);
        assert_eq!(fault, Fault::Corrupt(Corrupt::InodeNumber { ino }));
    }
}

#[test]
fn a_group_that_contradicts_the_superblock_is_refused() {
    for (field, offset, value) in [
        ("magic", 4, 0x0009_0254),
        ("cgx", 12, 1),
        ("ndblk", 20, 1),
        ("initediblk", 120, 0xffff_ffff_u64),
    ] {
        let mut image = Image::small(UFS2);
        let cg = image.sb.byte_of(image.sb.cgtod(0));
        image.put(cg + offset, 4, value);
        assert_eq!(
            corrupt(&image),
            Corrupt::Group {
                group: 0,
                field,
                value
            }
        );
    }
}

#[test]
fn nanoseconds_that_are_none_count_as_zero() {
    assert_eq!(time((5, -1)).nanos, 0);
    assert_eq!(time((5, 1_000_000_000)).nanos, 0);
    assert_eq!(
        time((-5, 999_999_999)),
        WallTime {
            seconds: -5,
            nanos: 999_999_999
        }
    );
}
