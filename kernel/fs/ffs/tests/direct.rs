//! Transfers past the cache, on a disk that has them: the bytes are right, what is cached is newer and wins, and a disk that
//! fails half way is as one that fails under the cache.

mod rig;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rig::{Random, Rig, attach, kinds, make, options};
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::file::File;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::syscalls::{self, OpenFlags};

/// Half of it is less than the large files have.
const MEMORY: usize = 2 << 20;
const LARGE: usize = 1_500_000;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

fn rig(bytes: Vec<u8>) -> Rig {
    let rig = Rig::new(bytes);
    rig.disk.direct.store(true, Ordering::Relaxed);
    rig
}

fn open(rig: &Rig, path: &str) -> Arc<File> {
    let opened = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
    opened.unwrap_or_else(|errno| panic!("{path}: {errno}"))
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

fn contents(file: &File) -> Vec<u8> {
    let size = syscalls::fstat(file).expect("a file").attr.size as usize;
    let mut all = vec![0x11; size];
    let mut done = 0;
    while done < size {
        let read = file.read_at(done as u64, &mut all[done..]);
        done += read.unwrap_or_else(|errno| panic!("at {done}: {errno}"));
    }
    all
}

fn cached(file: &File) -> usize {
    syscalls::file_vnode(file).expect("a file").cached_pages()
}

fn sectors(file: &File, at: usize, len: usize) -> Range<u64> {
    let vnode = syscalls::file_vnode(file).expect("a file");
    let run = vnode.ops().bmap(at as u64, len as u64).expect("a place");
    let first = run.sector.expect("no hole");
    first..first + (run.bytes.min(len as u64) / SECTOR_SIZE as u64)
}

/// Blocks are given to files within operations of the log alone, which debug builds assert, and written before these end.
#[test]
fn large_files_are_written_past_the_cache_within_operations_of_a_log() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let what = format!("{options:?}");
        let rig = Rig::with(make(options), "log").expect("there is room for a log");
        rig.disk.direct.store(true, Ordering::Relaxed);
        let bytes = pattern(5, LARGE);
        let file = open(&rig, "/file");
        for (at, part) in bytes.chunks(300_000).enumerate() {
            let wrote = file.write_at((at * 300_000) as u64, part);
            assert_eq!(wrote, Ok(part.len()), "{what}");
        }
        assert!(contents(&file) == bytes, "{what}");
        assert!(cached(&file) < LARGE / 4096 / 2, "{what}");
        drop(file);
        rig.finish(&what);
    }
}

#[test]
fn large_files_written_and_read_in_pieces_of_any_size_are_right_and_hardly_cached() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let what = format!("{options:?}");
        let rig = rig(make(options));
        let bytes = pattern(1, LARGE);
        for (number, piece) in [LARGE, 1 << 20, 262_144, 100_000].into_iter().enumerate() {
            let file = open(&rig, &format!("/file{number}"));
            for (at, part) in bytes.chunks(piece).enumerate() {
                let wrote = file.write_at((at * piece) as u64, part);
                assert_eq!(wrote, Ok(part.len()), "{what}");
            }
            let pages = LARGE / 4096;
            let most = if piece.is_multiple_of(65_536) {
                pages / 8
            } else {
                pages
            };
            assert!(
                cached(&file) <= most,
                "{piece}: {} pages, {what}",
                cached(&file)
            );
            assert!(contents(&file) == bytes, "{piece}, {what}");
        }
        let bytes_on_disk = rig.finish(&what);
        let rig = self::rig(bytes_on_disk);
        for number in 0..4 {
            let file = open(&rig, &format!("/file{number}"));
            assert!(contents(&file) == bytes, "{number}, {what}");
            assert!(cached(&file) < 64, "{} pages, {what}", cached(&file));
        }
        rig.finish(&what);
    }
}

#[test]
fn what_is_cached_is_newer_than_the_disk_and_both_ways_of_writing_meet() {
    let _lwp = attach(MEMORY);
    for options in kinds().into_iter().step_by(2) {
        let what = format!("{options:?}");
        let rig = rig(make(options));
        let file = open(&rig, "/file");
        let mut bytes = pattern(1, LARGE);
        file.write_at(0, &bytes).expect("written");
        let mut random = Random(7);
        for round in 0..16 {
            let len = [10, 5_000, 70_000, 300_000][round % 4];
            let at = random.below((LARGE - len) as u64) as usize;
            let at = if round % 3 == 0 { at } else { at - at % 4096 };
            let part = pattern(round as u64, len);
            assert_eq!(file.write_at(at as u64, &part), Ok(len), "{what}");
            bytes[at..at + len].copy_from_slice(&part);
            assert!(contents(&file) == bytes, "round {round}, {what}");
        }
        drop(file);
        let rig = self::rig(rig.finish(&what));
        assert!(contents(&open(&rig, "/file")) == bytes, "{what}");
        rig.finish(&what);
    }
}

#[test]
fn around_what_is_written_into_a_hole_or_beyond_the_end_there_are_zeroes() {
    let _lwp = attach(MEMORY);
    for options in kinds().into_iter().step_by(2) {
        let what = format!("{options:?}");
        let rig = rig(make(options));
        // What the blocks held before must not show.
        let old = open(&rig, "/old");
        for _ in 0..8 {
            file_grows(&old, &pattern(9, 1 << 20));
        }
        drop(old);
        rig.vfs.unlink(&rig.proc, b"/old").expect("removed");
        let file = open(&rig, "/file");
        let mut bytes = vec![0; 3 << 20];
        syscalls::ftruncate(&file, bytes.len() as u64).expect("a hole");
        let part = pattern(3, 200_704);
        for at in [4096, 12_288 + (1 << 20), (3 << 20) - 131_072] {
            assert_eq!(file.write_at(at as u64, &part), Ok(part.len()), "{what}");
            bytes.resize(bytes.len().max(at + part.len()), 0);
            bytes[at..at + part.len()].copy_from_slice(&part);
        }
        // From beyond the end, within a block, with a gap before it.
        let at = bytes.len() + 4096 * 5;
        assert_eq!(file.write_at(at as u64, &part), Ok(part.len()), "{what}");
        bytes.resize(at, 0);
        bytes.extend_from_slice(&part);
        assert!(contents(&file) == bytes, "{what}");
        drop(file);
        let rig = self::rig(rig.finish(&what));
        assert!(contents(&open(&rig, "/file")) == bytes, "{what}");
        rig.finish(&what);
    }
}

fn file_grows(file: &File, bytes: &[u8]) {
    let end = syscalls::fstat(file).expect("a file").attr.size;
    assert_eq!(file.write_at(end, bytes), Ok(bytes.len()));
}

#[test]
fn what_a_failing_disk_does_not_take_is_kept_told_to_fsync_and_written_when_it_is_mended() {
    let _lwp = attach(MEMORY);
    for options in kinds().into_iter().step_by(2) {
        let what = format!("{options:?}");
        let rig = rig(make(options));
        let file = open(&rig, "/file");
        let mut bytes = pattern(1, 1 << 20);
        file.write_at(0, &bytes).expect("written");
        syscalls::fsync(&file).expect("stable");
        let bad = sectors(&file, 524_288, 4096);
        rig.disk.faults.lock().unwrap().writes = vec![bad];
        let new = pattern(2, 262_144);
        let at = 458_752;
        assert_eq!(file.write_at(at as u64, &new), Ok(new.len()), "{what}");
        bytes[at..at + new.len()].copy_from_slice(&new);
        assert!(contents(&file) == bytes, "{what}");
        assert_eq!(syscalls::fsync(&file), Err(Errno::EIO), "{what}");
        rig.disk.faults.lock().unwrap().writes.clear();
        assert_eq!(syscalls::fsync(&file), Ok(()), "{what}");
        drop(file);
        let rig = self::rig(rig.finish(&what));
        assert!(contents(&open(&rig, "/file")) == bytes, "{what}");
        rig.finish(&what);
    }
}

#[test]
fn a_page_that_cannot_be_read_costs_only_those_who_read_it() {
    let _lwp = attach(MEMORY);
    let options = options(Format::Ufs2, Order::Little, 8192, 8, 1024);
    let rig = rig(make(options));
    let file = open(&rig, "/file");
    let bytes = pattern(1, LARGE);
    file.write_at(0, &bytes).expect("written");
    rig.disk.faults.lock().unwrap().reads = vec![sectors(&file, 819_200, 4096)];
    let mut all = vec![0; LARGE];
    let read = file.read_at(0, &mut all).expect("what comes before");
    assert_eq!(read, 819_200);
    assert!(all[..read] == bytes[..read]);
    assert_eq!(file.read_at(819_200, &mut all), Err(Errno::EIO));
    let read = file.read_at(823_296, &mut all).expect("what comes after");
    assert!(all[..read] == bytes[823_296..823_296 + read]);
    rig.disk.faults.lock().unwrap().reads.clear();
    assert!(contents(&file) == bytes);
    drop(file);
    rig.finish("mended");
}

#[test]
fn a_volume_runs_full_in_large_steps_and_nothing_is_lost() {
    let _lwp = attach(MEMORY);
    let small: [Options; 3] = [
        options(Format::Ufs1, Order::Little, 4096, 8, 512),
        options(Format::Ufs2, Order::Big, 8192, 8, 400),
        options(Format::Ufs2, Order::Little, 4096, 1, 512),
    ];
    for options in small {
        let what = format!("{options:?}");
        let rig = rig(make(options));
        let file = open(&rig, "/file");
        let bytes = pattern(1, 5 << 20);
        let mut done = 0;
        let refused = loop {
            match file.write_at(done as u64, &bytes[done..]) {
                Ok(count) => done += count,
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::ENOSPC, "{what}");
        assert!(done > 1 << 20, "{what}: {done}");
        assert!(contents(&file) == bytes[..done], "{what}");
        drop(file);
        let rig = self::rig(rig.finish(&what));
        assert!(contents(&open(&rig, "/file")) == bytes[..done], "{what}");
        rig.finish(&what);
    }
}
