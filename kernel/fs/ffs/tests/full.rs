//! Volumes that run full, with a log and without, and threads that get in each other's way: what fails leaves nothing behind.

mod rig;

use std::sync::Arc;

use rig::{MOUNTS, Random, Rig, asking_for_log, assert_consistent, attach, make, options};
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::kauth::Cred;
use rumpkern::lwp;
use rumpuser::Errno;
use rumpvfs::syscalls::OpenFlags;
use rumpvfs::vnode::VnodeType;

const MEMORY: usize = 2 << 20;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

fn small() -> Vec<Options> {
    vec![
        options(Format::Ufs1, Order::Little, 4096, 8, 256),
        options(Format::Ufs2, Order::Big, 8192, 8, 200),
        options(Format::Ufs2, Order::Little, 4096, 1, 256),
    ]
}

/// The volume mounted; a log takes little of it.
fn mounted(options: Options, mount: &str) -> Rig {
    let volume = match mount {
        "" => make(options),
        _ => asking_for_log(make(options), 128 << 10),
    };
    Rig::with(volume, mount).expect("it can be mounted")
}

/// Fills files until there is no room, the last byte by byte of a fragment; what was written.
fn fill(rig: &Rig, step: usize) -> Vec<(String, usize)> {
    let mut files = Vec::new();
    let data = vec![7; step];
    loop {
        let path = format!("/fill{}-{step}", files.len());
        let file = match rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644) {
            Ok(file) => file,
            Err(errno) => {
                assert_eq!(errno, Errno::ENOSPC);
                return files;
            }
        };
        let mut size = 0;
        let outcome = loop {
            match file.write(&data) {
                Ok(count) => size += count,
                Err(errno) => break errno,
            }
            if size > 300_000 {
                break Errno::EAGAIN;
            }
        };
        files.push((path, size));
        if outcome == Errno::ENOSPC {
            return files;
        }
        assert_eq!(outcome, Errno::EAGAIN);
    }
}

#[test]
fn every_operation_on_a_full_volume_fails_and_leaves_it_consistent() {
    let _lwp = attach(MEMORY);
    let all = small().into_iter();
    for (options, mount) in all.flat_map(|options| MOUNTS.map(|mount| (options, mount))) {
        let rig = mounted(options, mount);
        let empty = rig.check_mounted();
        let (vfs, proc) = (&rig.vfs, &rig.proc);
        vfs.mkdir(proc, b"/d", 0o755).unwrap();
        let mut files = fill(&rig, 50_000);
        assert_consistent(&rig.check_mounted(), "large pieces");
        files.extend(fill(&rig, 512));
        assert_consistent(&rig.check_mounted(), "small pieces");
        let stat = vfs.statvfs(proc, b"/").unwrap();
        assert_eq!(stat.bavail, 0);
        for (path, size) in &files {
            let stat = vfs.stat(proc, path.as_bytes()).unwrap();
            assert_eq!(stat.attr.size, *size as u64, "{path}");
        }
        let long = [b'x'; 900];
        // Names until the directory has to grow, too.
        let mut made = 0;
        let full = loop {
            let name = format!("/d/{}{made}", "name".repeat(50));
            match vfs.open(proc, name.as_bytes(), NEW, 0o644) {
                Ok(_) => made += 1,
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::ENOSPC);
        assert_consistent(&rig.check_mounted(), "names");
        let name = format!("/d/{}", "long".repeat(60));
        let to = name.as_bytes();
        let mut dirs = 0;
        let full = loop {
            match vfs.mkdir(proc, format!("/dir{dirs}").as_bytes(), 0o755) {
                Ok(()) => dirs += 1,
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::ENOSPC);
        assert_consistent(&rig.check_mounted(), "mkdir");
        assert_eq!(vfs.symlink(proc, &long, b"/new"), Err(Errno::ENOSPC));
        assert_consistent(&rig.check_mounted(), "symlink");
        let from = files[0].0.as_bytes();
        assert_eq!(vfs.link(proc, from, to), Err(Errno::ENOSPC));
        assert_consistent(&rig.check_mounted(), "link");
        assert_eq!(vfs.rename(proc, from, to), Err(Errno::ENOSPC));
        assert_consistent(&rig.check_mounted(), "rename");
        let node = vfs.mknod(proc, to, VnodeType::Chr, 0o600, 1);
        assert_eq!(node, Err(Errno::ENOSPC));
        assert_consistent(&rig.check_mounted(), "mknod");
        refuse_to_lengthen(&rig, &files, &options);
        let file = vfs.open(proc, from, NEW, 0).unwrap();
        assert_eq!(file.write_at(40 << 20, b"far"), Err(Errno::ENOSPC));
        assert_consistent(&rig.check_mounted(), "sparse write");
        drop(file);
        for (path, _) in &files {
            vfs.unlink(proc, path.as_bytes()).unwrap();
        }
        for n in 0..made {
            let name = format!("/d/{}{n}", "name".repeat(50));
            vfs.unlink(proc, name.as_bytes()).unwrap();
        }
        vfs.rmdir(proc, b"/d").unwrap();
        for n in 0..dirs {
            vfs.rmdir(proc, format!("/dir{n}").as_bytes()).unwrap();
        }
        let report = rig.check_mounted();
        assert_eq!(
            (report.inodes, report.fragments),
            (empty.inodes, empty.fragments),
            "all is free again, {mount}"
        );
        rig.finish("emptied");
    }
}

/// A file whose last block is not whole needs more of it to become longer; one whose last block is whole gets a hole, for which there is
/// always room.
fn refuse_to_lengthen(rig: &Rig, files: &[(String, usize)], options: &Options) {
    let (bsize, fsize) = (options.bsize.unwrap(), options.fsize.unwrap());
    let (bsize, fsize) = (bsize as usize, fsize as usize);
    let mut refused = 0;
    for (path, size) in files {
        let fragments = (size % bsize).div_ceil(fsize);
        let in_direct = *size < 12 * bsize;
        let must_grow = in_direct && fragments > 0 && fragments < bsize / fsize;
        let longer = (size + 3 * bsize) as u64;
        let expected = match must_grow {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        };
        let path = path.as_bytes();
        let now = || rig.vfs.stat(&rig.proc, path).unwrap().attr.size;
        assert_eq!(rig.vfs.truncate(&rig.proc, path, longer), expected);
        assert_consistent(&rig.check_mounted(), "truncate upwards");
        if must_grow {
            assert_eq!(now(), *size as u64);
            refused += 1;
        } else {
            assert_eq!(now(), longer);
            rig.vfs.truncate(&rig.proc, path, *size as u64).unwrap();
            assert_consistent(&rig.check_mounted(), "truncate back");
        }
    }
    assert_eq!(refused > 0, fsize < bsize);
}

#[test]
fn without_a_free_inode_nothing_is_made_and_everything_else_goes_on() {
    let _lwp = attach(MEMORY);
    let all = small().into_iter();
    for (options, mount) in all.flat_map(|options| MOUNTS.map(|mount| (options, mount))) {
        // As few as there can be: one block of them in each group.
        let options = Options {
            density: Some(1 << 20),
            ..options
        };
        run_out_of_inodes(mounted(options, mount), mount);
    }
}

/// What takes an inode, by what it is called.
const MAKERS: [&str; 5] = ["create", "mkdir", "symlink", "mknod", "mkfifo"];

fn make_one(rig: &Rig, how: &str, path: &[u8]) -> Result<(), Errno> {
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    match how {
        "create" => vfs.open(proc, path, NEW, 0o644).map(drop),
        "mkdir" => vfs.mkdir(proc, path, 0o755),
        // Too long to lie in the inode: what was taken for it is given back.
        "symlink" => vfs.symlink(proc, &[b'x'; 900], path),
        "mknod" => vfs.mknod(proc, path, VnodeType::Blk, 0o600, 7),
        _ => vfs.mknod(proc, path, VnodeType::Fifo, 0o600, 0),
    }
}

fn run_out_of_inodes(rig: Rig, mount: &str) {
    let empty = rig.check_mounted();
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    vfs.mkdir(proc, b"/d", 0o755).unwrap();
    let mut made = 0;
    let path = |n: usize| format!("/d/file{n}");
    let full = loop {
        match make_one(&rig, "create", path(made).as_bytes()) {
            Ok(()) => made += 1,
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, Errno::ENOSPC);
    assert!(made > 10, "{made} files");
    assert_consistent(&rig.check_mounted(), "no inode is left");
    let stat = vfs.statvfs(proc, b"/").unwrap();
    assert!(stat.ffree == 0 && stat.bavail > 0, "{stat:?}");
    let refuse_all = || {
        for how in MAKERS {
            assert_eq!(make_one(&rig, how, b"/d/new"), Err(Errno::ENOSPC), "{how}");
            assert_consistent(&rig.check_mounted(), how);
            assert_eq!(vfs.stat(proc, b"/d/new").err(), Some(Errno::ENOENT));
        }
        assert_eq!(vfs.statvfs(proc, b"/").unwrap().bfree, stat.bfree);
    };
    refuse_all();
    let file = vfs.open(proc, b"/d/file0", NEW, 0).unwrap();
    assert_eq!(file.write(&[5; 20_000]), Ok(20_000));
    vfs.truncate(proc, b"/d/file0", 30_000).unwrap();
    assert_consistent(&rig.check_mounted(), "write");
    vfs.link(proc, b"/d/file0", b"/d/linked").unwrap();
    vfs.rename(proc, b"/d/linked", b"/renamed").unwrap();
    vfs.rename(proc, b"/renamed", b"/d/file1").unwrap();
    assert_consistent(&rig.check_mounted(), "names");
    // The last name of the file that was replaced went with it, and so did its inode.
    make_one(&rig, "create", b"/d/replaced").unwrap();
    let mut read = [0; 30_000];
    assert_eq!(file.read_at(0, &mut read), Ok(read.len()));
    assert!(read[..20_000] == [5; 20_000] && read[20_000..] == [0; 10_000]);
    drop(file);
    vfs.unlink(proc, b"/d/file1").unwrap();
    vfs.truncate(proc, b"/d/file0", 0).unwrap();
    refuse_all();
    for how in MAKERS {
        vfs.unlink(proc, path(made - 1).as_bytes()).unwrap();
        assert_eq!(vfs.statvfs(proc, b"/").unwrap().ffree, 1, "{how}");
        make_one(&rig, how, b"/d/one").unwrap();
        assert_consistent(&rig.check_mounted(), how);
        let more = make_one(&rig, "create", b"/d/more");
        assert_eq!(more, Err(Errno::ENOSPC), "{how}");
        match how {
            "mkdir" => vfs.rmdir(proc, b"/d/one").unwrap(),
            _ => vfs.unlink(proc, b"/d/one").unwrap(),
        }
        make_one(&rig, "create", path(made - 1).as_bytes()).unwrap();
        assert_consistent(&rig.check_mounted(), how);
    }
    vfs.unlink(proc, b"/d/replaced").unwrap();
    for n in (0..made).filter(|n| *n != 1) {
        vfs.unlink(proc, path(n).as_bytes()).unwrap();
    }
    vfs.rmdir(proc, b"/d").unwrap();
    let report = rig.check_mounted();
    assert_eq!(
        (report.inodes, report.fragments),
        (empty.inodes, empty.fragments),
        "all is free again, {mount}"
    );
    rig.finish("emptied");
}

#[test]
fn the_reserve_is_the_superusers() {
    let _lwp = attach(MEMORY);
    for mount in MOUNTS {
        the_reserve_is(mount);
    }
}

fn the_reserve_is(mount: &str) {
    let rig = mounted(small()[0], mount);
    rig.vfs.chmod(&rig.proc, b"/", 0o777).unwrap();
    rig.proc.set_cred(Cred {
        uid: 100,
        gid: 100,
        groups: Vec::new(),
    });
    fill(&rig, 512);
    let stat = rig.vfs.statvfs(&rig.proc, b"/").unwrap();
    assert_eq!(stat.bavail, 0);
    assert!(stat.bfree >= stat.bresvd, "the reserve is whole: {stat:?}");
    rig.proc.set_cred(Cred::root());
    fill(&rig, 512);
    let stat = rig.vfs.statvfs(&rig.proc, b"/").unwrap();
    assert!(stat.bfree < stat.bresvd);
    rig.finish("full");
}

#[test]
fn eight_threads_that_make_move_and_remove_the_same_names_leave_a_consistent_volume() {
    let _lwp = attach(MEMORY);
    let kinds = rig::kinds().into_iter().enumerate().step_by(2);
    for ((n, options), mount) in kinds.flat_map(|kind| MOUNTS.map(|mount| (kind, mount))) {
        let rig = Arc::new(mounted(options, mount));
        for dir in ["/a", "/b", "/a/c"] {
            rig.vfs.mkdir(&rig.proc, dir.as_bytes(), 0o777).unwrap();
        }
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let rig = rig.clone();
                let seed = 100 * n as u64 + thread;
                lwp::spawn("worker", move || work(&rig, seed)).expect("a thread")
            })
            .collect();
        for thread in threads {
            thread.join();
        }
        assert_consistent(&rig.check_mounted(), &format!("{options:?}"));
        let rig = Arc::into_inner(rig).expect("the threads are gone");
        rig.finish(&format!("{options:?}"));
    }
}

fn work(rig: &Rig, seed: u64) {
    let mut random = Random(seed);
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    for _ in 0..120 {
        let mut path = || {
            let dir = ["", "/a", "/b", "/a/c"][random.below(4) as usize];
            format!("{dir}/n{}", random.below(6))
        };
        let (one, two) = (path(), path());
        let (from, to) = (one.as_bytes(), two.as_bytes());
        // Each may fail for what the others do; the volume must not.
        let _ = match random.below(8) {
            0..3 => vfs
                .open(proc, from, NEW, 0o666)
                .and_then(|file| file.write(&[seed as u8; 3000]).map(drop)),
            3 => vfs.mkdir(proc, from, 0o777),
            4 => vfs.rename(proc, from, to),
            5 => vfs.link(proc, from, to),
            6 => vfs.rmdir(proc, from),
            _ => vfs.unlink(proc, from),
        };
    }
}
