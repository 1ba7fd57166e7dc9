//! A region of the disk that takes no writes, in 1 MiB of memory: whoever writes there is told, pages are kept as far as memory
//! allows, and everybody else goes on.

mod testfs;

use rumpkern::uvm;
use rumpuser::Errno;
use rumpvfs::pagecache::ReadAhead;
use rumpvfs::vfs::Sizes;
use rumpvfs::vnode::Wait;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use testfs::{ROOT, Rig, attach, pattern};

const MEMORY: usize = 1 << 20;
const SIZE: usize = 2 << 20;
const PIECE: usize = 40_960;
const SIZES: Sizes = Sizes {
    vnodes: 16,
    names: 64,
    buffers: 8,
};

/// The tests share the memory, and each wants to know how it is used.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two files, `bad` and `good`; what `bad` lies on is broken.
fn rig() -> Rig {
    let sectors = (2 * SIZE / 512 + 100) as u64;
    let rig = Rig::new(SIZES, sectors, (4096, 0), |volume, disk| {
        for name in ["bad", "good"] {
            volume.file(disk, ROOT, name, &vec![1; SIZE], false);
        }
    });
    break_disk(&rig);
    rig
}

fn break_disk(rig: &Rig) {
    let sectors = 8..8 + (SIZE / 512) as u64;
    *rig.disk.shared().bad.lock().unwrap() = sectors.collect();
}

fn write(rig: &Rig, name: &str, bytes: &[u8]) -> Vec<Result<usize, Errno>> {
    let vnode = rig.lookup(name).unwrap();
    let pieces = bytes.chunks(PIECE).enumerate();
    let wrote = pieces.map(|(number, piece)| {
        let _locked = vnode.lock_exclusive();
        vnode.write((number * PIECE) as u64, piece)
    });
    wrote.collect()
}

fn read(rig: &Rig, name: &str, len: usize) -> Result<Vec<u8>, Errno> {
    let vnode = rig.lookup(name)?;
    let mut reader = ReadAhead::new();
    let mut all = vec![0; len];
    for (number, piece) in all.chunks_mut(PIECE).enumerate() {
        vnode.read((number * PIECE) as u64, piece, &mut reader)?;
    }
    Ok(all)
}

#[test]
fn pages_that_cannot_be_written_are_kept_within_a_bound_and_others_read_and_write_meanwhile() {
    let _alone = alone();
    let _lwp = attach(MEMORY);
    let rig = rig();
    let bytes = pattern(1, SIZE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _lwp = attach(MEMORY);
            for round in 0..3 {
                let wrote = write(&rig, "bad", &bytes);
                assert!(wrote.contains(&Err(Errno::EIO)), "round {round}");
            }
        });
        scope.spawn(|| {
            let _lwp = attach(MEMORY);
            for round in 0..3 {
                let bytes = pattern(round, SIZE);
                let wrote = write(&rig, "good", &bytes);
                assert!(wrote.iter().all(Result::is_ok), "round {round}");
                assert!(read(&rig, "good", SIZE).unwrap() == bytes);
            }
        });
    });
    let pages = rig.vfs.stats().pages;
    let stats = uvm::stats();
    assert!(pages.failed > 0, "what cannot be written is kept");
    assert!(pages.failed <= stats.limit / 8, "{pages:?}");
    assert_eq!(
        pages.dirty,
        pages.failed + rig.lookup("good").unwrap().dirty_pages()
    );
    assert!(stats.high_water <= stats.limit, "{stats:?}");
    assert_eq!(stats.refused, 0, "{stats:?}");
    assert_eq!(rig.lookup("bad").unwrap().fsync(), Err(Errno::EIO));
    assert_eq!(rig.vfs.sync(Wait::Stable), Err(Errno::EIO));
    // Once the disk takes them, they are written.
    let kept = rig.lookup("bad").unwrap().dirty_pages();
    rig.disk.shared().bad.lock().unwrap().clear();
    assert_eq!(rig.vfs.sync(Wait::Stable), Ok(()));
    assert!(kept > 0);
    assert_eq!(rig.vfs.stats().pages.failed, 0);
    assert!(write(&rig, "bad", &bytes).iter().all(Result::is_ok));
    assert!(read(&rig, "bad", SIZE).unwrap() == bytes);
    rig.unmount().unwrap();
}

#[test]
fn whoever_writes_to_a_file_with_pages_that_could_not_be_written_is_told() {
    let _alone = alone();
    let _lwp = attach(MEMORY);
    let rig = rig();
    let vnode = rig.lookup("bad").unwrap();
    let locked = vnode.lock_exclusive();
    assert_eq!(vnode.write(0, &[7; 4096]), Ok(4096));
    drop(locked);
    assert_eq!(vnode.fsync(), Err(Errno::EIO));
    let locked = vnode.lock_exclusive();
    assert_eq!(vnode.write(8192, &[8; 4096]), Err(Errno::EIO));
    drop(locked);
    assert_eq!(vnode.dirty_pages(), 1, "nothing was added");
    rig.disk.shared().bad.lock().unwrap().clear();
    let locked = vnode.lock_exclusive();
    assert_eq!(vnode.write(8192, &[8; 4096]), Ok(4096));
    drop(locked);
    assert_eq!(vnode.fsync(), Ok(()));
    let bytes = rig.disk.shared().bytes.lock().unwrap();
    assert!(bytes[4096..8192].iter().all(|byte| *byte == 7));
    assert!(
        bytes[4096 + 8192..8192 + 8192]
            .iter()
            .all(|byte| *byte == 8)
    );
}

#[test]
fn a_loss_that_nobody_waited_for_is_told_by_the_next_sync_once() {
    let _alone = alone();
    let _lwp = attach(MEMORY);
    let rig = rig();
    let mount = rig.vfs.mounts()[0].clone();
    for round in 0..2 {
        // More than may be kept is dirtied at once; then the file is not looked at again.
        rig.disk.shared().bad.lock().unwrap().clear();
        let wrote = write(&rig, "bad", &[round; 80 * 4096]);
        assert!(wrote.iter().all(Result::is_ok));
        let lost = rig.vfs.stats().pages.pages_lost;
        break_disk(&rig);
        // The writes fail by themselves, before anybody asks.
        let _ = rig.vfs.sync_mount(&mount, Wait::Started);
        let deadline = Instant::now() + Duration::from_secs(60);
        while rig.vfs.stats().pages.pages_lost == lost {
            assert!(Instant::now() < deadline, "{:?}", rig.vfs.stats().pages);
            std::thread::yield_now();
        }
        let all_failed =
            || rig.lookup("bad").unwrap().dirty_pages() == rig.vfs.stats().pages.failed;
        while !all_failed() {
            assert!(Instant::now() < deadline, "{:?}", rig.vfs.stats().pages);
            std::thread::yield_now();
        }
        rig.disk.shared().bad.lock().unwrap().clear();
        assert_eq!(rig.vfs.sync_mount(&mount, Wait::Stable), Err(Errno::EIO));
        assert_eq!(rig.vfs.sync_mount(&mount, Wait::Stable), Ok(()));
    }
}
