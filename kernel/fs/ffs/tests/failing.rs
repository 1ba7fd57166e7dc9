//! Disks that fail, in 1 MiB of memory: whoever writes is told, others go on, nothing hangs, and a volume of which a
//! change was left half done is not left clean; what a check then repairs has everything that was stable.
//!
//! `FFS_FAULT_SEEDS` says how many seeds the random failures are tried with.

mod rig;

use std::ops::Range;
use std::sync::Arc;

use rig::{Image, MOUNTS, Random, Rig, assert_consistent, attach, kinds, make};
use rumpfs_ffs::check::check;
use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::superblock::Format;
use rumpkern::file::File;
use rumpkern::{lwp, uvm};
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::Wait;

const MEMORY: usize = 1 << 20;
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);
const NEW: OpenFlags = RW.union(OpenFlags::CREAT);

/// Volumes of every `step`th kind, to be mounted without a log and with one.
fn cases(step: usize) -> impl Iterator<Item = (Options, &'static str)> {
    let kinds = kinds().into_iter().step_by(step);
    kinds.flat_map(|options| MOUNTS.map(|mount| (options, mount)))
}

fn mounted(options: Options, mount: &str) -> Rig {
    Rig::with(make(options), mount).expect("it can be mounted")
}

/// Where the superblock is.
fn superblock(options: &Options) -> usize {
    match options.format {
        Format::Ufs1 => 8192,
        _ => 65536,
    }
}

/// Whether the disk says that it is clean.
fn is_clean(rig: &Rig, options: &Options) -> bool {
    rig.disk.bytes()[superblock(options) + 209] == 1
}

fn open(rig: &Rig, path: &str) -> Arc<File> {
    let opened = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
    opened.unwrap_or_else(|errno| panic!("{path}: {errno}"))
}

fn put(rig: &Rig, path: &str, bytes: &[u8]) -> Arc<File> {
    let file = open(rig, path);
    assert_eq!(file.write_at(0, bytes), Ok(bytes.len()), "{path}");
    file
}

fn get(rig: &Rig, path: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len + 1];
    let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
    let file = file.unwrap_or_else(|errno| panic!("{path}: {errno}"));
    let mut done = 0;
    loop {
        match file.read_at(done as u64, &mut bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(errno) => panic!("{path} at {done}: {errno}"),
        }
    }
    bytes.truncate(done);
    bytes
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Where a file lies.
fn sectors(file: &File, len: u64) -> Vec<Range<u64>> {
    let vnode = syscalls::file_vnode(file).expect("it is a file");
    let (mut at, mut found) = (0, Vec::new());
    while at < len {
        let run = vnode.ops().bmap(at, len - at).expect("it can be read");
        if let Some(sector) = run.sector {
            found.push(sector..sector + run.bytes / SECTOR_SIZE as u64);
        }
        at += run.bytes;
    }
    found
}

/// Mends the disk and has the volume checked and repaired; it is to have the file `/kept` of `kept`.
fn repaired(rig: &Rig, kept: &[u8], what: &str) {
    *rig.disk.faults.lock().unwrap() = Default::default();
    let mut image = Image(rig.disk.bytes());
    let repaired = repair(&mut image).expect("it can be repaired");
    assert_consistent(&repaired.left, what);
    let rig = Rig::new(image.0);
    assert!(get(&rig, "/kept", kept.len()) == kept, "{what}");
    rig.finish(what);
}

#[test]
fn while_what_one_file_lies_on_takes_no_writes_others_are_written_and_read() {
    let _lwp = attach(MEMORY);
    for (options, mount) in cases(2) {
        let what = format!("{mount} {options:?}");
        let rig = Arc::new(mounted(options, mount));
        let size = 600_000;
        let kept = pattern(1, 100_000);
        syscalls::fsync(&put(&rig, "/kept", &kept)).expect("stable");
        let bad = put(&rig, "/bad", &pattern(2, size));
        rig.vfs.sync(Wait::Stable).expect("stable");
        rig.disk.faults.lock().unwrap().writes = sectors(&bad, size as u64);
        let other = rig.clone();
        let others = lwp::spawn("other", move || {
            for round in 0..4 {
                for number in 0..6 {
                    let bytes = pattern(round * 10 + number, 90_000);
                    let path = format!("/other{number}");
                    drop(put(&other, &path, &bytes));
                    assert!(get(&other, &path, bytes.len()) == bytes, "{path}");
                }
            }
        });
        let others = others.expect("a thread");
        let mut told = 0;
        for round in 0..60 {
            let piece = vec![round; 30_000];
            told += u64::from(bad.write_at(u64::from(round) * 9000, &piece) == Err(Errno::EIO));
        }
        others.join();
        assert_eq!(syscalls::fsync(&bad), Err(Errno::EIO), "{what}");
        assert!(told > 0, "no writer was told; {what}");
        assert_eq!(rig.vfs.sync(Wait::Stable), Err(Errno::EIO), "{what}");
        let (pages, stats) = (rig.vfs.stats().pages, uvm::stats());
        assert!(pages.failed <= stats.limit / 8, "{pages:?}");
        assert_eq!(stats.hopeless, 0, "{stats:?}");
        drop(bad);
        let mount = rig.vfs.mounts()[0].clone();
        assert_eq!(rig.vfs.unmount(&mount), Err(Errno::EIO), "{what}");
        // Nothing is wrong but the contents of one file; as soon as the disk takes them, all is well.
        *rig.disk.faults.lock().unwrap() = Default::default();
        let _ = rig.vfs.sync(Wait::Stable);
        let bytes = get(&rig, "/bad", size);
        assert_eq!(bytes.len(), size);
        let rig = Arc::into_inner(rig).expect("the thread is gone");
        drop(mount);
        let rig = Rig::new(rig.finish(&what));
        assert!(get(&rig, "/kept", kept.len()) == kept, "{what}");
        assert!(get(&rig, "/bad", size) == bytes, "{what}");
    }
}

#[test]
fn metadata_that_cannot_be_written_are_told_by_sync_and_the_volume_is_clean_only_when_they_were() {
    let _lwp = attach(MEMORY);
    for (options, mount) in cases(1) {
        let what = format!("{mount} {options:?}");
        let rig = mounted(options, mount);
        let kept = pattern(1, 50_000);
        drop(put(&rig, "/kept", &kept));
        rig.vfs.mkdir(&rig.proc, b"/d", 0o755).expect("made");
        rig.vfs.sync(Wait::Stable).expect("stable");
        // Everything behind the superblock.
        let from = (superblock(&options) + 8192) / SECTOR_SIZE;
        let behind = from as u64..u64::MAX;
        rig.disk.faults.lock().unwrap().writes = vec![behind];
        let mut made = Vec::new();
        for n in 0..40 {
            let path = format!("/d/f{n}");
            match rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644) {
                Ok(_) => made.push(path),
                Err(errno) => assert_eq!(errno, Errno::EIO, "{what}"),
            }
        }
        assert_eq!(rig.vfs.sync(Wait::Stable), Err(Errno::EIO), "{what}");
        assert!(get(&rig, "/kept", kept.len()) == kept, "{what}");
        let mount = rig.vfs.mounts()[0].clone();
        assert_eq!(rig.vfs.unmount(&mount), Err(Errno::EIO), "{what}");
        assert_eq!(rig.vfs.remount(&mount, "ro"), Err(Errno::EIO), "{what}");
        *rig.disk.faults.lock().unwrap() = Default::default();
        let _ = rig.vfs.sync(Wait::Stable);
        rig.unmount();
        if is_clean(&rig, &options) {
            assert_eq!(made.len(), 40, "{what}");
            let rig = Rig::new(rig.disk.bytes());
            for path in made {
                let found = rig.vfs.stat(&rig.proc, path.as_bytes());
                found.expect("the name was told to be there");
            }
            assert!(get(&rig, "/kept", kept.len()) == kept, "{what}");
            rig.finish(&what);
            continue;
        }
        assert_eq!(
            Rig::with(rig.disk.bytes(), "").err(),
            Some(Errno::EROFS),
            "{what}"
        );
        repaired(&rig, &kept, &what);
    }
}

#[test]
fn on_a_disk_that_is_gone_everything_ends_with_eio_and_the_mount_can_be_ended_by_force() {
    let _lwp = attach(MEMORY);
    for (options, mount) in cases(3) {
        let what = format!("{mount} {options:?}");
        let rig = mounted(options, mount);
        let kept = pattern(1, 50_000);
        drop(put(&rig, "/kept", &kept));
        rig.vfs.mkdir(&rig.proc, b"/d", 0o755).expect("made");
        let written = put(&rig, "/d/written", &pattern(2, 300_000));
        rig.vfs.sync(Wait::Stable).expect("stable");
        let all = 0..u64::MAX;
        *rig.disk.faults.lock().unwrap() = rig::Faults {
            reads: vec![all.clone()],
            writes: vec![all],
            ..Default::default()
        };
        let (vfs, proc) = (&rig.vfs, &rig.proc);
        let mut random = Random(5);
        for n in 0..300u64 {
            let path = format!("/d/n{}", random.below(20));
            let path = path.as_bytes();
            // What is cached may still succeed.
            let done = match n % 7 {
                0 => vfs.open(proc, path, NEW, 0o644).map(drop),
                1 => vfs.mkdir(proc, path, 0o755),
                2 => vfs.unlink(proc, b"/d/written"),
                3 => vfs.rename(proc, b"/kept", path),
                4 => written
                    .write_at(random.below(300_000), &[1; 9000])
                    .map(drop),
                5 => written
                    .read_at(random.below(300_000), &mut [0; 9000])
                    .map(drop),
                _ => vfs.truncate(proc, b"/kept", random.below(90_000)),
            };
            let expected = [Errno::EIO, Errno::ENOENT, Errno::EEXIST, Errno::EISDIR];
            assert!(
                done.is_ok() || expected.contains(&done.unwrap_err()),
                "{done:?}"
            );
        }
        assert_eq!(vfs.sync(Wait::Stable), Err(Errno::EIO), "{what}");
        let mount = vfs.mounts()[0].clone();
        assert!(vfs.unmount(&mount).is_err(), "{what}");
        assert_eq!(vfs.unmount_forced(&mount), Ok(()), "{what}");
        assert_eq!(vfs.unmount_forced(&mount), Err(Errno::EINVAL), "{what}");
        // The file is still open, and of no use.
        assert_eq!(written.read_at(0, &mut [0; 10]), Err(Errno::EIO));
        assert_eq!(written.write_at(0, &[0; 10]), Err(Errno::EIO));
        assert_eq!(syscalls::fsync(&written), Err(Errno::EIO));
        assert_eq!(syscalls::ftruncate(&written, 0), Err(Errno::EIO));
        drop((written, mount));
        let stats = vfs.stats();
        assert_eq!((stats.pages.dirty, stats.pages.failed), (0, 0), "{what}");
        assert_eq!((stats.buffers.dirty, stats.vnodes.vnodes), (0, 0), "{what}");
        // The same device, mended and checked, can be mounted again.
        *rig.disk.faults.lock().unwrap() = Default::default();
        assert!(!is_clean(&rig, &options), "{what}");
        rig.mount("ro").expect("it can be read");
        rig.unmount();
        repaired(&rig, &kept, &what);
    }
}

/// Random work; what of it fails does not matter.
fn work(rig: &Rig, random: &mut Random, steps: u64) {
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    for _ in 0..steps {
        let mut path = || {
            let dir = ["", "/a", "/b", "/a/c"][random.below(4) as usize];
            format!("{dir}/n{}", random.below(8))
        };
        let (one, two) = (path(), path());
        let (from, to) = (one.as_bytes(), two.as_bytes());
        let data = vec![3; 1 + random.below(30_000) as usize];
        let _ = match random.below(13) {
            0..4 => vfs
                .open(proc, from, NEW, 0o666)
                .and_then(|file| file.write_at(data.len() as u64 / 2, &data).map(drop)),
            4 => vfs.mkdir(proc, from, 0o777),
            5 | 6 => vfs.rename(proc, from, to),
            7 => vfs.link(proc, from, to),
            8 => vfs.rmdir(proc, from),
            9 => vfs.truncate(proc, from, data.len() as u64),
            10 => vfs.symlink(proc, &data[..data.len().min(900)], from),
            11 => vfs.sync(Wait::Stable),
            _ => vfs.unlink(proc, from),
        };
    }
}

#[test]
fn whichever_requests_fail_a_volume_that_says_it_is_clean_is_consistent_and_others_are_repaired() {
    let _lwp = attach(MEMORY);
    let seeds = std::env::var("FFS_FAULT_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let (mut clean, mut unclean) = (0, 0);
    for seed in 0..seeds.unwrap_or(42u64) {
        let mut random = Random(seed);
        let all = kinds();
        let options = all[(seed % all.len() as u64) as usize];
        let mount = MOUNTS[(seed / all.len() as u64) as usize % 2];
        let what = format!("seed {seed}, {mount} {options:?}");
        let rig = mounted(options, mount);
        let kept = pattern(seed, 50_000);
        drop(put(&rig, "/kept", &kept));
        for dir in ["/a", "/b", "/a/c"] {
            rig.vfs.mkdir(&rig.proc, dir.as_bytes(), 0o777).unwrap();
        }
        work(&rig, &mut random, 40);
        rig.vfs.sync(Wait::Stable).unwrap();
        {
            let mut faults = rig.disk.faults.lock().unwrap();
            faults.random = Random(!seed);
            faults.one_in = 20 << random.below(4);
        }
        work(&rig, &mut random, 60);
        rig.disk.faults.lock().unwrap().one_in = 0;
        let mount = rig.vfs.mounts()[0].clone();
        // The first may tell of what was lost.
        let first = rig.vfs.unmount(&mount);
        assert!(
            matches!(first, Ok(()) | Err(Errno::EIO)),
            "{first:?}, {what}"
        );
        if first.is_err() {
            assert_eq!(rig.vfs.unmount(&mount), Ok(()), "{what}");
        }
        if is_clean(&rig, &options) {
            clean += 1;
            let report = check(&Image(rig.disk.bytes())).expect("it can be checked");
            assert_consistent(&report, &what);
        } else {
            unclean += 1;
        }
        repaired(&rig, &kept, &what);
    }
    println!("{clean} clean, {unclean} not");
    assert!(
        seeds.is_some() || clean > 2 && unclean > 2,
        "{clean}, {unclean}"
    );
}
