//! Mounting and using volumes by the traits of `rumpvfs`.

use core::mem::offset_of;
use std::sync::Arc;
use std::vec::Vec;

use rumpuser::WallTime;
use rumpvfs::vnode::DirEntry;
use zerocopy::LE;

use super::*;
use crate::fixture::{Image, TestDisk, UFS1, UFS2, all_kinds, devvp, logged, mount, options};
use crate::raw::{IFLNK, IFREG, RawSuperblock};

type Raw = RawSuperblock<LE>;

fn populated() -> Image {
    Image::populated(options(UFS2, Order::Little, 4096, 1024))
}

fn mounted(image: &Image) -> Arc<dyn FileSystem> {
    mount(TestDisk::new(image.bytes.clone()), "").expect("mounted")
}

fn file(image: &Image, ino: u64) -> Loaded {
    mounted(image).loadvnode(ino).expect("loaded")
}

/// Mounting `image`, and what was logged.
fn attempt(image: &Image, options: &str) -> (Result<(), Errno>, Vec<std::string::String>) {
    logged();
    let outcome = mount(TestDisk::new(image.bytes.clone()), options).map(|_| ());
    (outcome, logged())
}

fn device(image: &Image) -> Devvp {
    devvp(TestDisk::new(image.bytes.clone()))
}

#[test]
fn a_volume_is_recognised_by_its_superblock_even_by_a_bad_one() {
    let mut image = populated();
    assert_eq!(Ffs.probe(&device(&image)), Ok(true));
    image.put(image.sb.location + offset_of!(Raw, bsize) as u64, 4, 5000);
    assert_eq!(Ffs.probe(&device(&image)), Ok(true));
    let at = image.sb.location as usize;
    image.bytes[at..at + 8192].fill(0);
    assert_eq!(Ffs.probe(&device(&image)), Ok(false));
    image.bytes.truncate(512);
    assert_eq!(Ffs.probe(&device(&image)), Ok(false));
}

#[test]
fn every_kind_of_volume_is_mounted_with_a_line_that_says_what_it_is() {
    for options in all_kinds() {
        let (outcome, lines) = attempt(&Image::new(options), "");
        assert_eq!(outcome, Ok(()));
        assert!(lines.len() == 1 && lines[0].starts_with("INFO: ffs: test0: UFS"));
    }
}

#[test]
fn what_this_code_could_not_keep_right_is_not_mounted_for_writing() {
    let spoiled: [(usize, u64, &str); 4] = [
        (offset_of!(Raw, clean), 0, "cleanly"),
        (offset_of!(Raw, clean), 2, "cleanly"),
        (offset_of!(Raw, snapinum), 5 << 24, "snapshots"),
        (offset_of!(Raw, flags) + 1, 2, "quotas"),
    ];
    for (at, value, why) in spoiled {
        let mut image = Image::small(UFS2);
        let width = if value > 255 { 4 } else { 1 };
        image.put(image.sb.location + at as u64, width, value);
        let args = MountArgs {
            device: Some(device(&image)),
            options: MountOptions::default(),
        };
        logged();
        assert_eq!(Ffs.mount(&args).map(|_| ()), Err(Errno::EROFS));
        let lines = logged();
        assert!(lines[0].contains(why), "{lines:?}");
        let fs = mounted(&image);
        assert_eq!(fs.remount(&args.options), Err(Errno::EROFS));
        assert_eq!(fs.remount(&MountOptions::parse("ro")), Ok(()));
    }
}

#[test]
fn options_that_are_not_known_are_refused_by_name() {
    let (outcome, lines) = attempt(&populated(), "log,frobnicate");
    assert_eq!(outcome, Err(Errno::EINVAL));
    assert!(lines[0].contains("frobnicate"));
    assert_eq!(attempt(&populated(), "log").0, Ok(()));
}

#[test]
fn a_dirty_volume_is_mounted_with_a_warning() {
    for clean in [0, 2] {
        let mut image = populated();
        image.put(image.sb.location + offset_of!(Raw, clean) as u64, 1, clean);
        let (outcome, lines) = attempt(&image, "");
        assert_eq!(outcome, Ok(()));
        assert!(lines[1].starts_with("WARN: ffs: test0: not unmounted cleanly"));
    }
}

#[test]
fn a_journal_that_cannot_be_replayed_is_refused_unless_forced_for_reading() {
    let mut image = populated();
    image.put(image.sb.location + offset_of!(Raw, flags) as u64, 4, 0x100);
    let (outcome, lines) = attempt(&image, "log");
    assert_eq!(outcome, Err(Errno::EFTYPE));
    assert!(lines[0].starts_with("ERROR: ffs: test0: the journal"));
    let (outcome, lines) = attempt(&image, "force");
    assert_eq!(outcome, Ok(()));
    assert!(lines[2].starts_with("WARN: ffs: test0: its journal was not replayed"));
}

#[test]
fn a_volume_larger_than_its_device_is_mounted_with_a_warning_and_fails_where_it_ends() {
    let mut image = populated();
    image.bytes.truncate(image.bytes.len() - 512);
    let (outcome, lines) = attempt(&image, "");
    assert_eq!(outcome, Ok(()));
    assert!(lines[1].contains("the device only"));
    let fs = mounted(&image);
    let last = u64::from(image.sb.inodes() - 1);
    image
        .bytes
        .truncate(image.sb.byte_of(image.sb.cgbase(1)) as usize);
    let short = mounted(&image);
    assert!(fs.loadvnode(2).is_ok());
    logged();
    assert_eq!(short.loadvnode(last).map(|_| ()), Err(Errno::EIO));
    assert!(logged()[0].starts_with("ERROR: ffs: test0: byte "));
}

#[test]
fn a_run_ends_where_the_device_ends() {
    let mut image = populated();
    let first = image.sb.byte_of(image.pointer_at(image.pointer_byte(5, 0)));
    image.bytes.truncate(first as usize + 4096 + 512);
    let long = file(&image, 5);
    let run = |offset| long.ops.bmap(offset, 1 << 20).map(|run| run.bytes);
    assert_eq!((run(0), run(4096)), (Ok(4096 + 512), Ok(512)));
    logged();
    assert_eq!(run(4096 + 512), Err(Errno::EIO));
    assert!(logged()[0].ends_with("is behind the end of the device"));
}

#[test]
fn an_empty_device_is_no_volume() {
    let disk = TestDisk::new(Vec::new());
    assert_eq!(mount(disk, "").map(|_| ()), Err(Errno::EINVAL));
}

#[test]
fn statvfs_counts_in_fragments_and_keeps_the_reserve_from_users() {
    let image = populated();
    let sb = &image.sb;
    let stat = mounted(&image).statvfs().expect("numbers are in memory");
    assert_eq!((stat.bsize, stat.frsize, stat.namemax), (4096, 1024, 255));
    assert_eq!(stat.blocks, sb.dsize);
    let free = sb.cstotal.free_blocks * 4 + sb.cstotal.free_fragments;
    assert_eq!((stat.bfree, stat.bresvd), (free, sb.dsize * 5 / 100));
    assert_eq!(stat.bavail, stat.bfree - stat.bresvd);
    assert_eq!(stat.files, u64::from(sb.inodes() - 2));
    assert!(stat.read_only);
}

#[test]
fn numbers_that_no_inode_has_are_no_file() {
    let fs = mounted(&populated());
    for ino in [0, 1, 3, 1 << 20, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(fs.clone().loadvnode(ino).map(|_| ()), Err(Errno::ENOENT));
    }
}

#[test]
fn attributes_come_from_the_inode() {
    let mut image = populated();
    let at = image.inode_byte(4);
    image.put(at, 2, u64::from(IFREG | 0o4751));
    image.put(at + 4, 4, 1000);
    image.put(at + 8, 4, 100);
    image.put(at + 24, 8, 8);
    image.put(at + 40, 8, 1_600_000_000);
    image.put(at + 64, 4, 5);
    image.put(at + 80, 4, 77);
    let attr = file(&image, 4).ops.getattr().expect("in memory");
    assert_eq!((attr.mode, attr.uid, attr.gid), (0o4751, 1000, 100));
    assert_eq!((attr.size, attr.bytes, attr.generation), (12, 4096, 77));
    let mtime = WallTime {
        seconds: 1_600_000_000,
        nanos: 5,
    };
    assert_eq!(attr.mtime, mtime);
}

#[test]
fn names_lead_to_files_and_reading_resumes_at_every_cookie() {
    let image = populated();
    let fs = mounted(&image);
    let many = fs.loadvnode(11).expect("loaded");
    assert_eq!(many.ops.lookup(b"name 199"), Ok(4));
    assert_eq!(many.ops.lookup(b".."), Ok(2));
    assert_eq!(many.ops.lookup(b"name 200"), Err(Errno::ENOENT));
    let (mut cookie, mut count) = (0, 0);
    loop {
        let before = count;
        many.ops
            .readdir(cookie, &mut |entry: &DirEntry<'_>| {
                // A sink with room for three.
                if count == before + 3 {
                    return false;
                }
                (cookie, count) = (entry.next_cookie, count + 1);
                true
            })
            .expect("readable");
        if count == before {
            break;
        }
    }
    assert_eq!(count, 202);
    assert_eq!(cookie, many.size);
    let ignore = &mut |_: &DirEntry<'_>| true;
    assert_eq!(many.ops.readdir(6, ignore), Err(Errno::EINVAL));
}

#[test]
fn links_short_and_long_are_read_and_cut_off_where_the_buffer_ends() {
    let image = populated();
    let mut text = [0; 1024];
    assert_eq!(file(&image, 7).ops.readlink(&mut text), Ok(10));
    assert_eq!(&text[..10], b"short/link");
    assert_eq!(file(&image, 8).ops.readlink(&mut text), Ok(700));
    assert!(text[..700].iter().all(|byte| *byte == b'x'));
    assert_eq!(file(&image, 8).ops.readlink(&mut text[..5]), Ok(5));
    assert_eq!(file(&image, 7).ops.readlink(&mut text[..5]), Ok(5));
}

#[test]
fn a_link_with_a_nul_or_without_a_block_is_corrupt() {
    let mut image = populated();
    let text = image.pointer_byte(7, 0);
    image.put(text + 2, 1, 0);
    image.put_inode(8, IFLNK, 700);
    for ino in [7, 8] {
        let link = file(&image, ino);
        logged();
        assert_eq!(link.ops.readlink(&mut [0; 100]), Err(Errno::EIO));
        let right =
            std::format!("ERROR: ffs: test0: symbolic link {ino}: empty, or has a NUL in it");
        assert_eq!(logged(), [right]);
    }
}

#[test]
fn operations_of_another_type_of_file_are_refused() {
    let image = populated();
    let short = file(&image, 4);
    assert_eq!(short.ops.lookup(b"x"), Err(Errno::ENOTDIR));
    let ignore = &mut |_: &DirEntry<'_>| true;
    assert_eq!(short.ops.readdir(0, ignore), Err(Errno::ENOTDIR));
    assert_eq!(short.ops.readlink(&mut [0; 10]), Err(Errno::EINVAL));
}

#[test]
fn a_run_starts_at_any_sector_and_ends_with_the_fragments_of_the_file() {
    let mut image = Image::small(UFS1);
    image.put_file(4, IFREG, &[7; 3 * 4096 + 600]);
    let first = image.sb.byte_of(image.pointer_at(image.pointer_byte(4, 0))) / 512;
    let short = file(&image, 4);
    let run = |offset| {
        let run = short.ops.bmap(offset, 1 << 20).expect("mapped");
        (run.sector, run.bytes)
    };
    assert_eq!(run(0), (Some(first), 3 * 4096 + 1024));
    assert_eq!(run(512), (Some(first + 1), 3 * 4096 + 512));
    assert_eq!(run(3 * 4096 + 512), (Some(first + 25), 512));
    // Within the last block, but behind the last fragment.
    assert_eq!(run(3 * 4096 + 1024), (None, 4096 - 1024));
}

#[test]
fn faults_are_logged_with_the_volume_and_the_place() {
    let mut image = populated();
    let at = image.pointer_byte(5, 2);
    image.put(at, 8, 5);
    let long = file(&image, 5);
    logged();
    assert_eq!(long.ops.bmap(2 * 4096, 512), Err(Errno::EIO));
    let right = "ERROR: ffs: test0: inode 5: block 2 is at fragment 5, which is no data";
    assert_eq!(logged(), [right]);
}

/// Makes a UFS1 volume one of 4.2BSD: old superblock, inodes, tables and directories.
fn make_old(image: &mut Image) {
    let at = image.sb.location;
    let root = image.sb.dblkno + image.sb.cssize / image.sb.fsize;
    image.put(at + offset_of!(Raw, old_flags) as u64, 1, 0);
    image.put(at + offset_of!(Raw, old_inodefmt) as u64, 4, u64::MAX);
    image.put(at + offset_of!(Raw, old_postblformat) as u64, 4, u64::MAX);
    image.put(at + offset_of!(Raw, maxsymlinklen) as u64, 4, 0);
    image.put(
        at + offset_of!(Raw, cgsize) as u64,
        4,
        u64::from(image.sb.bsize),
    );
    // What a kernel of 2003 would have put into the new fields.
    for byte in at + 860..at + 1312 {
        image.put(byte, 1, 0xaa);
    }
    for cg in 0..image.sb.ncg {
        let group = image.sb.byte_of(image.sb.cgtod(cg));
        image.put(group + 4, 4, 0);
        image.put(group + 980, 4, u64::from(crate::raw::CG_MAGIC));
    }
    image.sb.maxsymlinklen = 0;
    assert_eq!(image.pointer_at(image.pointer_byte(2, 0)), u64::from(root));
}

#[test]
fn a_volume_of_42bsd_is_mounted_and_read() {
    for order in [Order::Little, Order::Big] {
        let mut image = Image::new(options(UFS1, order, 8192, 1024));
        make_old(&mut image);
        image.put_directory(
            2,
            &[
                (b".", 2, 0),
                (b"..", 2, 0),
                (b"old file", 4, 0),
                (b"link", 5, 0),
            ],
        );
        image.put_file(4, IFREG, b"forty years old");
        let inode = image.inode_byte(4);
        image.put(inode + 4, 2, 10);
        image.put_file(5, IFLNK, b"old file");
        let sectors = image.inode_byte(5) + 104;
        image.put(sectors, 4, 2);

        let fs = mounted(&image);
        let root = fs.clone().loadvnode(2).expect("the root");
        assert_eq!(root.ops.lookup(b"old file"), Ok(4));
        let old = fs.clone().loadvnode(4).expect("loaded");
        assert_eq!(old.ops.getattr().expect("in memory").uid, 10);
        let run = old.ops.bmap(0, 512).expect("mapped");
        let start = run.sector.expect("no hole") as usize * 512;
        assert_eq!(&image.bytes[start..start + 15], b"forty years old");
        let link = fs.loadvnode(5).expect("loaded");
        let mut text = [0; 20];
        assert_eq!(link.ops.readlink(&mut text), Ok(8));
        assert_eq!(&text[..8], b"old file");
    }
}
