//! The buffer cache: metadata read, changed and written by several threads, with few buffers.

mod testfs;

use rumpuser::Errno;
use rumpvfs::bufcache::{BufCache, Devvp};
use rumpvfs::vnode::Wait;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use testfs::{TestDisk, attach, pattern};

const MEMORY: usize = 4 << 20;

fn rig(buffers: usize) -> (Arc<TestDisk>, Arc<BufCache>, Devvp) {
    let disk = TestDisk::new(1000);
    *disk.shared().bytes.lock().unwrap() = pattern(1, 512_000);
    let cache = BufCache::new(buffers, [3, 4]).unwrap();
    let devvp = Devvp::new(cache.clone(), disk.clone());
    (disk, cache, devvp)
}

fn on_disk(disk: &TestDisk, sector: u64, len: usize) -> Vec<u8> {
    let at = sector as usize * 512;
    disk.shared().bytes.lock().unwrap()[at..at + len].to_vec()
}

#[test]
fn a_buffer_is_read_once_whatever_its_size() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(8);
    for (sector, bytes) in [(0, 512), (8, 4096), (17, 1024), (998, 1024)] {
        for _ in 0..5 {
            assert!(devvp.bread(sector, bytes).unwrap()[..] == on_disk(&disk, sector, bytes));
        }
    }
    // The front of a longer buffer is in it.
    assert!(devvp.bread(8, 512).unwrap()[..] == on_disk(&disk, 8, 512));
    assert_eq!(disk.take_reads(), [512, 4096, 1024, 1024]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (17, 4));
    // A longer one is not in a shorter one.
    assert!(devvp.bread(17, 2048).unwrap()[..] == on_disk(&disk, 17, 2048));
    assert_eq!(disk.take_reads(), [2048]);
}

#[test]
fn sizes_and_places_that_are_none_are_einval() {
    let _lwp = attach(MEMORY);
    let (_, _, devvp) = rig(8);
    for (sector, bytes) in [
        (0, 0),
        (0, 100),
        (0, 4608),
        (0, 8192),
        (999, 1024),
        (1000, 512),
        (u64::MAX, 512),
        (u64::MAX, 4096),
    ] {
        assert_eq!(
            devvp.bread(sector, bytes).err(),
            Some(Errno::EINVAL),
            "{sector} {bytes}"
        );
    }
}

#[test]
fn the_least_recently_used_buffer_makes_room() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(4);
    for sector in [0, 8, 16, 24, 0, 32] {
        devvp.bread(sector, 4096).unwrap();
    }
    disk.take_reads();
    devvp.bread(0, 4096).unwrap();
    assert_eq!(disk.take_reads(), []);
    devvp.bread(8, 4096).unwrap();
    assert_eq!(disk.take_reads(), [4096]);
    assert_eq!(cache.stats().buffers, 4);
}

#[test]
fn what_was_read_does_not_change_when_the_buffer_does() {
    let _lwp = attach(MEMORY);
    let (disk, _, devvp) = rig(4);
    let before = on_disk(&disk, 0, 4096);
    let read = devvp.bread(0, 4096).unwrap();
    let mut changed = devvp.bmodify(0, 4096).unwrap();
    changed[0] ^= 0xff;
    changed.bdwrite();
    assert!(read[..] == before);
    assert_eq!(devvp.bread(0, 4096).unwrap()[0], before[0] ^ 0xff);
    assert!(on_disk(&disk, 0, 4096) == before, "it is written later");
    devvp.flush(Wait::Stable).unwrap();
    assert_eq!(on_disk(&disk, 0, 1)[0], before[0] ^ 0xff);
}

#[test]
fn every_way_to_write_writes_and_an_untouched_buffer_is_not_written() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(8);
    let mut buf = devvp.getblk(0, 512).unwrap();
    assert!(buf.iter().all(|&byte| byte == 0));
    buf.fill(1);
    buf.bwrite().unwrap();
    assert_eq!(on_disk(&disk, 0, 512), [1; 512]);
    let mut buf = devvp.bmodify(1, 512).unwrap();
    buf.fill(2);
    buf.bdwrite();
    let mut buf = devvp.bmodify(2, 512).unwrap();
    buf.fill(3);
    drop(buf);
    drop(devvp.bmodify(3, 512).unwrap());
    devvp.flush(Wait::Stable).unwrap();
    assert_eq!(on_disk(&disk, 1, 1024), [[2; 512], [3; 512]].concat());
    assert_eq!(disk.shared().writes.lock().unwrap().len(), 2);
    assert_eq!(cache.stats().dirty, 0);
}

#[test]
fn a_dirty_buffer_is_written_before_it_makes_room() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(4);
    for sector in 0..40 {
        let mut buf = devvp.bmodify(sector, 512).unwrap();
        buf.fill(sector as u8);
        buf.bdwrite();
    }
    for sector in 0..40 {
        assert_eq!(devvp.bread(sector, 512).unwrap()[..], [sector as u8; 512]);
    }
    devvp.flush(Wait::Stable).unwrap();
    let expected: Vec<u8> = (0..40).flat_map(|sector| [sector as u8; 512]).collect();
    assert!(on_disk(&disk, 0, 40 * 512) == expected);
    assert_eq!(cache.stats().dirty, 0);
}

#[test]
fn when_many_are_dirty_the_oldest_are_written_and_what_changes_again_and_again_is_not() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(8);
    for round in 0..20u64 {
        for sector in [0, 8 + 8 * round] {
            let mut buf = devvp.bmodify(sector, 4096).unwrap();
            buf[..8].copy_from_slice(&round.to_le_bytes());
            buf.bdwrite();
        }
    }
    // Those under way count until they are there.
    let are_written = (0..10_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_micros(100));
        cache.stats().dirty <= 4
    });
    assert!(are_written, "{:?}", cache.stats());
    assert!(
        on_disk(&disk, 0, 8) == pattern(1, 8),
        "written although it was just used"
    );
    devvp.flush(Wait::Stable).unwrap();
    assert_eq!(on_disk(&disk, 0, 8), 19u64.to_le_bytes());
    for round in 0..20u64 {
        assert_eq!(on_disk(&disk, 8 + 8 * round, 8), round.to_le_bytes());
    }
}

#[test]
fn a_part_of_a_longer_buffer_is_changed_and_the_rest_stays() {
    let _lwp = attach(MEMORY);
    let (disk, _, devvp) = rig(4);
    let mut expected = on_disk(&disk, 8, 4096);
    devvp.bread(8, 4096).unwrap();
    let mut buf = devvp.getblk(8, 512).unwrap();
    assert_eq!(buf.len(), 512);
    buf.fill(3);
    buf.bwrite().unwrap();
    expected[..512].fill(3);
    assert!(devvp.bread(8, 4096).unwrap()[..] == expected);
    assert!(on_disk(&disk, 8, 4096) == expected);
}

#[test]
fn on_a_device_with_large_sectors_pieces_of_them_are_read_and_changed() {
    let _lwp = attach(MEMORY);
    let disk = TestDisk::with_sector_size(800, 4096);
    *disk.shared().bytes.lock().unwrap() = pattern(2, 800 * 512);
    let devvp = Devvp::new(BufCache::new(4, [3, 4]).unwrap(), disk.clone());
    assert!(devvp.bread(9, 512).unwrap()[..] == on_disk(&disk, 9, 512));
    assert!(devvp.bread(12, 2048).unwrap()[..] == on_disk(&disk, 12, 2048));
    assert_eq!(
        devvp.bread(12, 2560).err(),
        Some(Errno::EINVAL),
        "it crosses a sector"
    );
    assert_eq!(disk.take_reads(), [4096]);
    let mut expected = on_disk(&disk, 16, 4096);
    let mut buf = devvp.getblk(18, 1024).unwrap();
    buf.fill(7);
    buf.bwrite().unwrap();
    expected[1024..2048].fill(7);
    assert!(on_disk(&disk, 16, 4096) == expected);
}

#[test]
fn errors_reach_whoever_waits_and_a_buffer_that_cannot_be_written_is_kept() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(4);
    disk.shared().bad.lock().unwrap().insert(5);
    assert_eq!(devvp.bread(4, 1024).err(), Some(Errno::EIO));
    assert!(devvp.bread(6, 512).is_ok());
    let mut buf = devvp.getblk(5, 512).unwrap();
    buf.fill(9);
    assert_eq!(buf.bwrite(), Err(Errno::EIO));
    assert_eq!(devvp.flush(Wait::Stable), Err(Errno::EIO));
    assert_eq!(devvp.bread(5, 512).unwrap()[..], [9; 512]);
    // Others still find room.
    for sector in 100..120 {
        devvp.bread(sector, 512).unwrap();
    }
    disk.shared().bad.lock().unwrap().clear();
    assert_eq!(devvp.flush(Wait::Stable), Ok(()));
    assert_eq!(on_disk(&disk, 5, 512), [9; 512]);
    assert_eq!(cache.stats().dirty, 0);
}

#[test]
fn when_nothing_but_buffers_that_cannot_be_written_is_left_others_are_read_but_not_changed() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(4);
    disk.shared().bad.lock().unwrap().extend(0..4);
    for sector in 0..4 {
        let mut buf = devvp.getblk(sector, 512).unwrap();
        buf.fill(sector as u8);
        assert_eq!(buf.bwrite(), Err(Errno::EIO));
    }
    assert_eq!(cache.stats().failed, 4);
    let expected = on_disk(&disk, 100, 512);
    assert!(devvp.bread(100, 512).unwrap()[..] == expected);
    assert_eq!(devvp.getblk(100, 512).err(), Some(Errno::EIO));
    assert_eq!(devvp.bmodify(101, 512).err(), Some(Errno::EIO));
    for sector in 0..4 {
        assert_eq!(devvp.bread(sector, 512).unwrap()[..], [sector as u8; 512]);
    }
    // As soon as one can be written, there is room.
    disk.shared().bad.lock().unwrap().clear();
    devvp.getblk(100, 512).unwrap().bwrite().unwrap();
    assert_eq!(devvp.flush(Wait::Stable), Ok(()));
    assert_eq!(cache.stats().failed, 0);
    for sector in 0..4 {
        assert_eq!(on_disk(&disk, sector, 512), [sector as u8; 512]);
    }
}

#[test]
fn threads_that_add_to_the_same_buffers_lose_nothing() {
    let _lwp = attach(MEMORY);
    let (disk, _, devvp) = rig(6);
    disk.shared().bytes.lock().unwrap().fill(0);
    disk.shared().delay_us.store(20, Ordering::Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let devvp = devvp.clone();
            scope.spawn(move || {
                let _lwp = attach(MEMORY);
                let mut state = thread;
                for round in 0..200 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let sector = (state >> 33) % 10 * 8;
                    let mut buf = devvp.bmodify(sector, 4096).unwrap();
                    let count = u32::from_le_bytes(buf[..4].try_into().unwrap()) + 1;
                    buf[..4].copy_from_slice(&count.to_le_bytes());
                    match round % 3 {
                        0 => buf.bwrite().unwrap(),
                        _ => buf.bdwrite(),
                    }
                }
            });
        }
    });
    devvp.flush(Wait::Stable).unwrap();
    let total: u32 = (0..10)
        .map(|number| u32::from_le_bytes(on_disk(&disk, number * 8, 4).try_into().unwrap()))
        .sum();
    assert_eq!(total, 6 * 200);
}

#[test]
fn what_is_held_is_neither_written_nor_dropped_until_it_is_released() {
    let _lwp = attach(MEMORY);
    let (disk, cache, devvp) = rig(4);
    let before = on_disk(&disk, 0, 4096);
    devvp.hold(true);
    for (sector, end) in [(0, 0), (8, 1), (16, 2)] {
        let mut buf = devvp.bmodify(sector, 4096).unwrap();
        buf.fill(7);
        match end {
            0 => buf.bwrite().unwrap(),
            1 => buf.bdwrite(),
            _ => drop(buf),
        }
    }
    // More reads than there is room for, and a flush.
    for sector in (100..400).step_by(8) {
        devvp.bread(sector, 4096).unwrap();
    }
    devvp.flush(Wait::Stable).unwrap();
    assert!(on_disk(&disk, 0, 4096) == before);
    assert_eq!((cache.stats().held, cache.stats().dirty), (3, 0));
    let mut sectors = Vec::with_capacity(8);
    devvp.list_held(&mut sectors);
    sectors.sort();
    assert_eq!(sectors, [0, 8, 16]);
    assert!(devvp.held(8).unwrap().0.as_bytes()[..] == [7; 4096]);
    assert!(devvp.held(24).is_none());
    assert_eq!(devvp.release_held(), 3);
    assert_eq!((cache.stats().held, cache.stats().dirty), (0, 3));
    devvp.flush(Wait::Stable).unwrap();
    assert!(on_disk(&disk, 0, 4096) == [7; 4096]);
    assert_eq!(cache.stats().dirty, 0);
}

#[test]
fn a_held_buffer_that_is_invalidated_is_not_held_any_more() {
    let _lwp = attach(MEMORY);
    let (_, cache, devvp) = rig(4);
    devvp.hold(true);
    devvp.getblk(8, 512).unwrap().bdwrite();
    devvp.bmodify(16, 512).unwrap();
    assert_eq!(cache.stats().held, 1);
    devvp.invalidate(0, 8704);
    assert_eq!((cache.stats().held, cache.stats().buffers), (0, 0));
}

#[test]
fn more_held_buffers_than_there_are_places_for_are_enobufs() {
    let _lwp = attach(MEMORY);
    let (_, cache, devvp) = rig(4);
    devvp.hold(true);
    let held = (0..1000).take_while(|sector| match devvp.getblk(*sector, 512) {
        Ok(buf) => {
            buf.bdwrite();
            true
        }
        Err(errno) => {
            assert_eq!(errno, Errno::ENOBUFS);
            false
        }
    });
    assert!(held.count() > cache.most_held());
    // Others still read, past the cache if need be.
    devvp.bread(990, 512).unwrap();
}
