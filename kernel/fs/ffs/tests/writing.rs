//! Files of every kind are made, changed and removed on volumes of every kind, which stay consistent.

mod rig;

use std::sync::Arc;

use rig::{Bytes, Random, Rig, attach, kinds, make};
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::{self, Format, Tolerance};
use rumpkern::file::File;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::VnodeType;

const MEMORY: usize = 4 << 20;
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

fn open(rig: &Rig, path: &str, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0o644)
}

fn put(rig: &Rig, path: &str, bytes: &[u8]) -> Result<(), Errno> {
    let file = open(rig, path, RW | OpenFlags::CREAT | OpenFlags::TRUNC)?;
    let mut done = 0;
    while done < bytes.len() {
        done += file.write(&bytes[done..])?;
    }
    Ok(())
}

fn get(rig: &Rig, path: &str) -> Result<Vec<u8>, Errno> {
    let file = open(rig, path, OpenFlags::READ)?;
    let mut all = Vec::new();
    let mut buf = vec![0; 40_000];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

#[test]
fn files_of_sizes_around_every_border_keep_their_contents_over_a_mount() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let rig = Rig::new(make(options));
        let (bsize, fsize) = (
            options.bsize.unwrap() as usize,
            options.fsize.unwrap() as usize,
        );
        let sizes = [
            0,
            1,
            fsize - 1,
            fsize,
            fsize + 1,
            bsize - 1,
            bsize,
            bsize + 1,
            3 * bsize + fsize + 7,
            12 * bsize - 1,
            12 * bsize,
            12 * bsize + 1,
            20 * bsize + 5,
        ];
        for (n, size) in sizes.into_iter().enumerate() {
            put(&rig, &format!("/file{n}"), &pattern(n as u64, size)).expect("written");
        }
        let bytes = rig.finish(&format!("{options:?}"));
        let rig = Rig::new(bytes);
        for (n, size) in sizes.into_iter().enumerate() {
            let path = format!("/file{n}");
            assert!(
                get(&rig, &path).expect("read") == pattern(n as u64, size),
                "{path}"
            );
            rig.vfs.unlink(&rig.proc, path.as_bytes()).expect("removed");
        }
        let report = rig.check_mounted();
        assert_eq!(report.inodes, 1, "only the root is left");
        rig.finish("all removed");
    }
}

#[test]
fn a_file_that_grows_byte_by_byte_moves_with_its_contents() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let rig = Rig::new(make(options));
        let (a, b) = (pattern(1, 70_000), pattern(2, 70_000));
        let file_a = open(&rig, "/a", RW | OpenFlags::CREAT).unwrap();
        let file_b = open(&rig, "/b", RW | OpenFlags::CREAT).unwrap();
        let mut at = 0;
        while at < a.len() {
            let end = (at + 611).min(a.len());
            assert_eq!(file_a.write(&a[at..end]), Ok(end - at));
            assert_eq!(file_b.write(&b[at..end]), Ok(end - at));
            if at % 7 == 0 {
                syscalls::fsync(&file_a).unwrap();
            }
            at = end;
        }
        drop((file_a, file_b));
        let bytes = rig.finish(&format!("{options:?}"));
        let rig = Rig::new(bytes);
        assert!(get(&rig, "/a").unwrap() == a, "{options:?}");
        assert!(get(&rig, "/b").unwrap() == b, "{options:?}");
        rig.finish("read");
    }
}

#[test]
fn directories_are_made_filled_moved_and_removed() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let rig = Rig::new(make(options));
        let (vfs, proc) = (&rig.vfs, &rig.proc);
        vfs.mkdir(proc, b"/d", 0o755).unwrap();
        vfs.mkdir(proc, b"/e", 0o755).unwrap();
        for n in 0..150 {
            put(&rig, &format!("/d/a file with a name {n}"), b"x").unwrap();
        }
        assert_eq!(vfs.rmdir(proc, b"/d"), Err(Errno::ENOTEMPTY));
        vfs.mkdir(proc, b"/d/sub", 0o755).unwrap();
        assert_eq!(vfs.stat(proc, b"/d").unwrap().attr.nlink, 3);
        vfs.rename(proc, b"/d/sub", b"/e/moved").unwrap();
        assert_eq!(vfs.stat(proc, b"/d").unwrap().attr.nlink, 2);
        assert_eq!(vfs.stat(proc, b"/e").unwrap().attr.nlink, 3);
        let parent = vfs.stat(proc, b"/e/moved/..").unwrap().attr.fileid;
        assert_eq!(parent, vfs.stat(proc, b"/e").unwrap().attr.fileid);
        rig::assert_consistent(&rig.check_mounted(), "moved");
        vfs.mkdir(proc, b"/d/other", 0o755).unwrap();
        vfs.rename(proc, b"/d/other", b"/e/moved").unwrap();
        assert_eq!(vfs.stat(proc, b"/e").unwrap().attr.nlink, 3);
        vfs.symlink(proc, b"short", b"/e/short").unwrap();
        let long = pattern(3, 1000)
            .into_iter()
            .map(|b| b'a' + b % 26)
            .collect::<Vec<_>>();
        vfs.symlink(proc, &long, b"/e/long").unwrap();
        assert_eq!(vfs.readlink(proc, b"/e/short").unwrap(), b"short");
        assert_eq!(vfs.readlink(proc, b"/e/long").unwrap(), long);
        vfs.mknod(proc, b"/e/fifo", VnodeType::Fifo, 0o600, 0)
            .unwrap();
        vfs.mknod(proc, b"/e/null", VnodeType::Chr, 0o666, 0x0202)
            .unwrap();
        assert_eq!(vfs.stat(proc, b"/e/null").unwrap().attr.rdev, 0x0202);
        vfs.link(proc, b"/d/a file with a name 7", b"/e/linked")
            .unwrap();
        assert_eq!(vfs.stat(proc, b"/e/linked").unwrap().attr.nlink, 2);
        rig::assert_consistent(&rig.check_mounted(), "filled");
        for n in 0..150 {
            let path = format!("/d/a file with a name {n}");
            vfs.unlink(proc, path.as_bytes()).unwrap();
        }
        vfs.rmdir(proc, b"/d").unwrap();
        assert_eq!(get(&rig, "/e/linked").unwrap(), b"x");
        for name in ["short", "long", "fifo", "null", "linked"] {
            vfs.unlink(proc, format!("/e/{name}").as_bytes()).unwrap();
        }
        vfs.rmdir(proc, b"/e/moved").unwrap();
        vfs.rmdir(proc, b"/e").unwrap();
        assert_eq!(rig.check_mounted().fragments, 1);
        rig.finish(&format!("{options:?}"));
    }
}

#[test]
fn a_byte_behind_the_last_that_a_file_can_have_is_of_a_file_too_large() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let bytes = make(options);
        let sb = superblock::find(&Bytes(&bytes), Tolerance::default()).unwrap();
        let most = sb.maxfilesize;
        let rig = Rig::new(bytes);
        let file = open(&rig, "/f", RW | OpenFlags::CREAT).unwrap();
        for at in [most, most + 1, 2 * most, 1 << 60] {
            assert_eq!(file.write_at(at, b"x"), Err(Errno::EFBIG), "{at}");
        }
        assert_eq!(file.read_at(0, &mut [0]), Ok(0));
        assert_eq!(file.write_at(most - 1, b"x"), Ok(1));
        assert_eq!(file.write_at(most, b"y"), Err(Errno::EFBIG));
        let mut last = [0];
        assert_eq!(file.read_at(most - 1, &mut last), Ok(1));
        assert_eq!(&last, b"x");
        drop(file);
        rig.finish("the largest");
    }
}

#[test]
fn an_open_file_without_a_name_lives_until_it_is_closed() {
    let _lwp = attach(MEMORY);
    let rig = Rig::new(make(kinds()[0]));
    let file = open(&rig, "/f", RW | OpenFlags::CREAT).unwrap();
    let bytes = pattern(1, 100_000);
    file.write(&bytes).unwrap();
    rig.vfs.unlink(&rig.proc, b"/f").unwrap();
    let mut buf = vec![0; 100_000];
    assert_eq!(file.read_at(0, &mut buf), Ok(100_000));
    assert!(buf == bytes);
    let mount = &rig.vfs.mounts()[0];
    assert_eq!(rig.vfs.remount(mount, "ro"), Err(Errno::EBUSY));
    drop(file);
    assert_eq!(rig.check_mounted().inodes, 1);
    rig.finish("closed");
}

#[test]
fn a_volume_changes_between_read_only_and_read_write() {
    let _lwp = attach(MEMORY);
    let rig = Rig::new(make(kinds()[1]));
    put(&rig, "/f", b"one").unwrap();
    let mount = rig.vfs.mounts()[0].clone();
    rig.vfs.remount(&mount, "ro").unwrap();
    assert_eq!(put(&rig, "/f", b"two"), Err(Errno::EROFS));
    assert_eq!(rig.vfs.unlink(&rig.proc, b"/f"), Err(Errno::EROFS));
    assert_eq!(rig.vfs.mkdir(&rig.proc, b"/d", 0o755), Err(Errno::EROFS));
    rig.vfs.remount(&mount, "rw").unwrap();
    put(&rig, "/f", b"three").unwrap();
    assert_eq!(get(&rig, "/f").unwrap(), b"three");
    drop(mount);
    rig.finish("remounted");
}

#[test]
fn a_volume_that_was_not_unmounted_is_mounted_for_writing_only_by_force() {
    let _lwp = attach(MEMORY);
    let rig = Rig::new(make(kinds()[2]));
    // The disk says so from the first change on, and is clean again at the end.
    assert_eq!(rig.disk.bytes()[8192 + 209], 1);
    put(&rig, "/f", b"x").unwrap();
    assert_eq!(rig.disk.bytes()[8192 + 209], 2);
    rig.vfs.sync(rumpvfs::vnode::Wait::Stable).unwrap();
    let bytes = rig.disk.bytes();
    rig.unmount();
    assert_eq!(rig.disk.bytes()[8192 + 209], 1);
    assert_eq!(Rig::with(bytes.clone(), "").err(), Some(Errno::EROFS));
    let rig = Rig::with(bytes.clone(), "ro").unwrap();
    assert_eq!(get(&rig, "/f").unwrap(), b"x");
    rig.unmount();
    let rig = Rig::with(bytes, "force").unwrap();
    put(&rig, "/f", b"y").unwrap();
    rig.unmount();
    assert_eq!(Rig::with(rig.disk.bytes(), "").err(), Some(Errno::EROFS));
}

#[test]
fn a_volume_that_is_only_read_from_stays_as_it_is_to_the_byte() {
    let _lwp = attach(MEMORY);
    let rig = Rig::new(make(kinds()[0]));
    put(&rig, "/f", b"x").unwrap();
    let bytes = rig.finish("filled");
    let rig = Rig::with(bytes.clone(), "rw").unwrap();
    assert_eq!(get(&rig, "/f").unwrap(), b"x");
    rig.vfs.sync(rumpvfs::vnode::Wait::Stable).unwrap();
    assert!(rig.disk.bytes() == bytes, "reading wrote to the disk");
    rig.unmount();
    assert!(rig.disk.bytes() == bytes, "unmounting wrote to the disk");
    rig.mount("rw").unwrap();
    put(&rig, "/f", b"y").unwrap();
    assert!(
        rig.disk.bytes() != bytes,
        "the disk does not say that it is in use"
    );
    rig.finish("changed");
}

/// Times that metadata are looked at while files grow block by block, two at a time, one in each directory.
fn looks_while_growing(rig: &Rig, directories: [&str; 2], tag: &str) -> u64 {
    let block = pattern(3, 8192);
    let looks = || {
        let stats = rig.vfs.bufs().stats();
        stats.hits + stats.misses
    };
    let before = looks();
    for n in 0..4 {
        let files = [0, 1].map(|which| {
            let path = format!("{}/{tag}-{n}-{which}", directories[which]);
            open(rig, &path, RW | OpenFlags::CREAT).expect("made")
        });
        for _ in 0..10 {
            for file in &files {
                assert_eq!(file.write(&block), Ok(block.len()));
            }
        }
    }
    looks() - before
}

#[test]
fn files_that_grow_in_two_groups_in_turn_do_not_read_their_maps_again_and_again() {
    let _lwp = attach(MEMORY);
    let options = Options {
        max_fpg: Some(2048),
        ..rig::options(Format::Ufs2, Order::Little, 8192, 8, 2048)
    };
    let rig = Rig::new(make(options));
    for path in ["/a", "/b"] {
        // Directories of the root are spread over the groups.
        let made = rig.vfs.mkdir(&rig.proc, path.as_bytes(), 0o755);
        made.expect("made");
    }
    let one = looks_while_growing(&rig, ["/a", "/a"], "one");
    let two = looks_while_growing(&rig, ["/a", "/b"], "two");
    // 80 writes: a look more at each is what is not to be.
    assert!(two < one + 40, "{two} looks, {one} in one group");
    rig.finish("two groups");
}
