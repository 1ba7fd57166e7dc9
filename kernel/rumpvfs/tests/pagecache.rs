//! The page cache: contents, read-ahead, errors, writing.

mod testfs;

use rumpuser::Errno;
use rumpvfs::pagecache::{Patience, ReadAhead};
use rumpvfs::vfs::Sizes;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use testfs::{ROOT, Rig, attach, pattern};

const MEMORY: usize = 16 << 20;
const SIZES: Sizes = Sizes {
    vnodes: 16,
    names: 64,
    buffers: 8,
};

fn rig(block: u64, gap: u64, files: &[(&str, Vec<u8>)], holes: bool) -> Rig {
    let sectors = 64
        + files
            .iter()
            .map(|(_, bytes)| (bytes.len() as u64 / block + 2) * (block / 512 + gap))
            .sum::<u64>();
    Rig::new(SIZES, sectors * 2, (block, gap), |volume, disk| {
        for (name, bytes) in files {
            volume.file(disk, ROOT, name, bytes, holes);
        }
    })
}

/// Says where contents differ.
fn same(left: &[u8], right: &[u8], what: &str, block: u64) {
    assert_eq!(left.len(), right.len(), "{what}, block {block}");
    let differs = left
        .iter()
        .zip(right)
        .position(|(left, right)| left != right);
    assert_eq!(differs, None, "{what}, block {block}");
}

fn read_all(rig: &Rig, name: &str, step: usize) -> Result<Vec<u8>, Errno> {
    let vnode = rig.lookup(name)?;
    let mut reader = ReadAhead::new();
    let mut all = Vec::new();
    let mut buf = vec![0; step];
    loop {
        let count = vnode.read(all.len() as u64, &mut buf, &mut reader)?;
        if count == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buf[..count]);
    }
}

#[test]
fn contents_are_right_for_every_block_size_scattered_or_not_with_holes_or_without() {
    let _lwp = attach(MEMORY);
    for (block, gap) in [
        (512, 0),
        (512, 3),
        (1024, 1),
        (2048, 0),
        (4096, 8),
        (8192, 0),
        (65536, 1),
    ] {
        for len in [0, 1, 511, 512, 4095, 4096, 4097, 100_000] {
            for holes in [false, true] {
                let mut bytes = pattern(block + len as u64, len);
                if holes && len > 20_000 {
                    bytes[2_000..18_000].fill(0);
                    bytes[60_000..90_000].fill(0);
                }
                let rig = rig(block, gap, &[("f", bytes.clone())], holes);
                for step in [7_000, 65_536] {
                    let read = read_all(&rig, "f", step).unwrap();
                    assert!(
                        read == bytes,
                        "block {block} gap {gap} length {len} holes {holes}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_hole_costs_no_request() {
    let _lwp = attach(MEMORY);
    let rig = rig(4096, 0, &[("f", vec![0; 300_000])], true);
    rig.disk.take_reads();
    assert!(read_all(&rig, "f", 10_000).unwrap() == vec![0; 300_000]);
    assert_eq!(rig.disk.take_reads(), []);
}

#[test]
fn sequential_reading_moves_in_runs_of_64_kib_and_more_and_random_reading_does_not() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(1, 600_000);
    let rig = rig(8192, 0, &[("f", bytes.clone())], false);
    rig.disk.take_reads();
    assert!(read_all(&rig, "f", 4096).unwrap() == bytes);
    let reads = rig.disk.take_reads();
    assert!(
        reads[..reads.len() - 1].iter().all(|&len| len >= 65_536),
        "{reads:?}"
    );
    assert!(reads.len() <= 600_000 / 65_536 + 1, "{reads:?}");

    let vnode = rig.lookup("f").unwrap();
    drop(vnode);
    let rig = self::rig(8192, 0, &[("g", bytes.clone())], false);
    let vnode = rig.lookup("g").unwrap();
    let mut reader = ReadAhead::new();
    let mut buf = [0; 100];
    rig.disk.take_reads();
    for page in [77u64, 5, 100, 31, 140, 2] {
        vnode.read(page * 4096 + 50, &mut buf, &mut reader).unwrap();
        assert_eq!(buf, bytes[page as usize * 4096 + 50..][..100]);
    }
    assert_eq!(rig.disk.take_reads(), [4096; 6]);
}

#[test]
fn the_second_reading_of_a_small_file_asks_the_disk_for_nothing() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(2, 30_000);
    let rig = rig(8192, 0, &[("f", bytes.clone())], false);
    assert!(read_all(&rig, "f", 5_000).unwrap() == bytes);
    let before = rig.vfs.stats().pages;
    rig.disk.take_reads();
    assert!(read_all(&rig, "f", 5_000).unwrap() == bytes);
    let after = rig.vfs.stats().pages;
    // Another test may have made the page daemon take pages; nothing else may.
    assert_eq!(
        rig.disk.take_reads().len() as u64,
        after.reads - before.reads
    );
    assert!(after.hits > before.hits);
}

#[test]
fn an_error_reaches_the_reader_of_the_bad_page_and_nobody_else_and_leaves_nothing_busy() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(4, 200_000);
    let rig = rig(4096, 0, &[("f", bytes.clone())], false);
    // Blocks start at sector 8; page 10 is bad.
    let bad = 8 + 10 * 8 + 3;
    *rig.disk.shared().bad.lock().unwrap() = BTreeSet::from([bad]);
    let vnode = rig.lookup("f").unwrap();
    let mut reader = ReadAhead::new();
    let mut buf = vec![0; 4096];
    for page in 0..48usize {
        let read = vnode.read(page as u64 * 4096, &mut buf, &mut reader);
        if page == 10 {
            assert_eq!(read, Err(Errno::EIO));
        } else {
            assert_eq!(read, Ok(4096), "page {page}");
            assert!(buf == bytes[page * 4096..][..4096], "page {page}");
        }
    }
    // A longer read stops before it.
    let mut long = vec![0; 100_000];
    assert_eq!(
        vnode.read(0, &mut long, &mut ReadAhead::new()),
        Ok(10 * 4096)
    );
    rig.disk.shared().bad.lock().unwrap().clear();
    assert_eq!(
        vnode.read(10 * 4096, &mut buf, &mut reader),
        Ok(4096),
        "after the disk was mended"
    );
    assert!(buf == bytes[10 * 4096..][..4096]);
    drop(vnode);
    rig.unmount().unwrap();
}

#[test]
fn threads_that_wait_for_the_same_bad_page_all_get_the_error() {
    let _lwp = attach(MEMORY);
    let rig = rig(4096, 0, &[("f", pattern(5, 50_000))], false);
    *rig.disk.shared().bad.lock().unwrap() = (8..16).collect();
    rig.disk.shared().delay_us.store(2000, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let _lwp = attach(MEMORY);
                let vnode = rig.lookup("f").unwrap();
                let read = vnode.read(0, &mut [0; 10], &mut ReadAhead::new());
                assert_eq!(read, Err(Errno::EIO));
            });
        }
    });
}

#[test]
fn lent_pages_are_the_pages_of_the_cache_and_do_not_change_when_the_file_does() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(6, 20_000);
    let rig = rig(4096, 0, &[("f", bytes.clone())], false);
    let vnode = rig.lookup("f").unwrap();
    let mut reader = ReadAhead::new();
    let mut lent = Vec::new();
    let mut at = 100;
    while at < 20_000 {
        let frames = vnode
            .read_frames(at, u64::MAX, &mut reader, Patience::Wait)
            .unwrap();
        at += frames.iter().map(|io| io.len as u64).sum::<u64>();
        lent.extend(frames);
    }
    let flat = |lent: &[rumpkern::uvm::dma::IoFrame]| -> Vec<u8> {
        lent.iter()
            .flat_map(|io| io.frame.as_bytes()[io.offset..io.offset + io.len].to_vec())
            .collect()
    };
    assert!(flat(&lent) == bytes[100..]);
    let again = vnode
        .read_frames(4096, 4096, &mut reader, Patience::Wait)
        .unwrap();
    assert!(
        again[0].frame.ptr_eq(&lent[1].frame),
        "the same page, not a copy"
    );
    {
        let _locked = vnode.lock_exclusive();
        assert_eq!(vnode.write(4000, &[0; 8000]), Ok(8000));
    }
    assert!(flat(&lent) == bytes[100..], "what was lent has changed");
    let mut expected = bytes.clone();
    expected[4000..12_000].fill(0);
    assert!(read_all(&rig, "f", 9_999).unwrap() == expected);
    assert_eq!(
        vnode
            .read_frames(20_000, 10, &mut reader, Patience::Wait)
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn a_try_starts_reading_and_says_eagain_and_succeeds_soon() {
    let _lwp = attach(MEMORY);
    let bytes = pattern(7, 10_000);
    let rig = rig(4096, 0, &[("f", bytes)], false);
    rig.disk.shared().delay_us.store(5000, Ordering::Relaxed);
    let vnode = rig.lookup("f").unwrap();
    let mut reader = ReadAhead::new();
    let first = vnode.read_frames(0, 10_000, &mut reader, Patience::Try);
    assert_eq!(first.err(), Some(Errno::EAGAIN));
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        if let Ok(frames) = vnode.read_frames(0, 10_000, &mut reader, Patience::Try) {
            assert_eq!(frames.len(), 3);
            return;
        }
    }
    panic!("the page never came");
}

#[test]
fn writes_are_read_back_from_the_cache_and_from_the_disk() {
    let _lwp = attach(MEMORY);
    for (block, gap) in [(1024, 1), (4096, 0), (8192, 2), (65536, 0)] {
        let old = pattern(8, 50_000);
        let rig = rig(
            block,
            gap,
            &[("f", old.clone()), ("pad", pattern(9, 3_000_000))],
            true,
        );
        let mut expected = old;
        let vnode = rig.lookup("f").unwrap();
        for (number, (at, len)) in [
            (0, 10),
            (4096, 4096),
            (49_990, 30),
            (100_000, 70_000),
            (60_001, 3),
            (4_000, 20_000),
        ]
        .into_iter()
        .enumerate()
        {
            let data = pattern(100 + number as u64, len);
            expected.resize(expected.len().max(at + len), 0);
            expected[at..at + len].copy_from_slice(&data);
            let _locked = vnode.lock_exclusive();
            assert_eq!(vnode.write(at as u64, &data), Ok(len));
        }
        same(
            &read_all(&rig, "f", 9_000).unwrap(),
            &expected,
            "cached",
            block,
        );
        vnode.fsync().unwrap();
        assert_eq!(vnode.dirty_pages(), 0);
        drop(vnode);
        rig.unmount().unwrap();
        rig.mount().unwrap();
        same(
            &read_all(&rig, "f", 9_000).unwrap(),
            &expected,
            "from disk",
            block,
        );
    }
}

#[test]
fn a_write_error_is_told_by_fsync_and_the_data_stays() {
    let _lwp = attach(MEMORY);
    let rig = rig(
        4096,
        0,
        &[("f", vec![1; 8192]), ("pad", vec![1; 100_000])],
        false,
    );
    let vnode = rig.lookup("f").unwrap();
    {
        let _locked = vnode.lock_exclusive();
        vnode.write(0, &[7; 8192]).unwrap();
    }
    *rig.disk.shared().bad.lock().unwrap() = (8..16).collect();
    assert_eq!(vnode.fsync(), Err(Errno::EIO));
    assert!(
        read_all(&rig, "f", 8192).unwrap() == [7; 8192],
        "the pages stay dirty"
    );
    rig.disk.shared().bad.lock().unwrap().clear();
    assert_eq!(vnode.fsync(), Ok(()));
    assert_eq!(vnode.dirty_pages(), 0);
}

#[test]
fn a_truncated_file_reads_as_zeroes_when_it_grows_again() {
    let _lwp = attach(MEMORY);
    let rig = rig(4096, 0, &[("f", pattern(11, 20_000))], false);
    let vnode = rig.lookup("f").unwrap();
    let mut expected = pattern(11, 20_000);
    assert!(read_all(&rig, "f", 4096).unwrap() == expected);
    let locked = vnode.lock_exclusive();
    vnode.truncate_pages(5_000).unwrap();
    rig.fs
        .volume
        .lock()
        .unwrap()
        .nodes
        .get_mut(&vnode.ino())
        .unwrap()
        .blocks
        .truncate(2);
    vnode.write(19_000, &[9; 100]).unwrap();
    drop(locked);
    expected[5_000..].fill(0);
    expected.truncate(19_000);
    expected.extend([9; 100]);
    assert!(read_all(&rig, "f", 4096).unwrap() == expected);
}
