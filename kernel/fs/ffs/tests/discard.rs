//! `-o discard`: what is freed is discarded, when the disk does not have it as anybody's any more, and nothing else is.

mod rig;

use rig::{DISCARDED, Image, Random, Rig, assert_consistent, attach, kinds, make};
use rumpfs_ffs::check::repair::repair;
use rumpuser::SECTOR_SIZE;
use rumpvfs::syscalls::OpenFlags;
use rumpvfs::vnode::Wait;

const MEMORY: usize = 2 << 20;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

/// Bytes of file `name`: no sector has the same as one of another file's.
fn contents(name: u64, len: usize) -> Vec<u8> {
    let mut random = Random(name);
    (0..len.div_ceil(8))
        .flat_map(|_| (random.next() | 1 << 63).to_le_bytes())
        .take(len)
        .collect()
}

fn put(rig: &Rig, name: u64, len: usize) {
    let path = format!("/{name}");
    let file = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
    let written = file.unwrap().write(&contents(name, len));
    assert_eq!(written, Ok(len));
}

/// What file `name` has, if it is there.
fn get(rig: &Rig, name: u64) -> Option<Vec<u8>> {
    let path = format!("/{name}");
    let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
    let file = file.ok()?;
    let mut bytes = vec![0; 1 << 20];
    let count = file.read_at(0, &mut bytes).expect("it can be read");
    bytes.truncate(count);
    Some(bytes)
}

/// How many whole sectors of file `name` the disk still has, wherever they are.
fn left(disk: &[u8], name: u64, len: usize) -> usize {
    let contents = contents(name, len);
    let sectors: std::collections::HashSet<_> = contents.chunks_exact(SECTOR_SIZE).collect();
    let on_disk = disk.chunks_exact(SECTOR_SIZE);
    on_disk.filter(|sector| sectors.contains(sector)).count()
}

#[test]
fn what_is_freed_is_discarded_at_the_next_sync_and_what_is_not_stays() {
    let _lwp = attach(MEMORY);
    const LEN: usize = 100_000;
    for options in kinds().into_iter().step_by(2) {
        for mount in ["discard", ""] {
            let rig = Rig::with(make(options), mount).unwrap();
            (1..4).for_each(|name| put(&rig, name, LEN));
            rig.vfs.sync(Wait::Stable).unwrap();
            rig.vfs.unlink(&rig.proc, b"/1").unwrap();
            rig.vfs.truncate(&rig.proc, b"/2", 40_000).unwrap();
            assert_eq!(left(&rig.disk.bytes(), 1, LEN), LEN / SECTOR_SIZE);
            rig.vfs.sync(Wait::Stable).unwrap();
            assert_eq!(get(&rig, 1), None);
            assert_eq!(get(&rig, 2), Some(contents(2, LEN)[..40_000].to_vec()));
            assert_eq!(get(&rig, 3), Some(contents(3, LEN)));
            let disk = rig.finish(mount);
            let bytes = |name| SECTOR_SIZE * left(&disk, name, LEN);
            if mount.is_empty() {
                assert_eq!(bytes(1), LEN - LEN % SECTOR_SIZE, "{options:?}");
                continue;
            }
            assert_eq!(bytes(1), 0, "{options:?}");
            // The last fragment that is kept may have more.
            let kept = 40_000..40_000 + options.fsize.unwrap() as usize;
            assert!(kept.contains(&(bytes(2) + SECTOR_SIZE)), "{options:?}");
            assert_eq!(bytes(3), LEN - LEN % SECTOR_SIZE, "{options:?}");
            let discarded = disk.chunks_exact(SECTOR_SIZE);
            let discarded = discarded.filter(|sector| **sector == [DISCARDED; SECTOR_SIZE]);
            let least = 2 * LEN - 40_000 - options.fsize.unwrap() as usize;
            assert!(discarded.count() * SECTOR_SIZE >= least, "{options:?}");
        }
    }
}

#[test]
fn whenever_the_power_goes_no_file_that_is_there_was_discarded() {
    let _lwp = attach(MEMORY);
    let cuts = std::env::var("POWER_CUTS").ok();
    let cuts = cuts.and_then(|cuts| cuts.parse().ok()).unwrap_or(14u64);
    let mut old = 0;
    for seed in 0..cuts {
        let mut random = Random(seed);
        let options = kinds()[seed as usize % 7];
        let what = format!("seed {seed}, {options:?}");
        let rig = Rig::with(make(options), "discard").unwrap();
        let mut sizes = Vec::new();
        for name in 0..20 {
            sizes.push(1 + random.below(60_000) as usize);
            put(&rig, name, sizes[name as usize]);
        }
        rig.vfs.sync(Wait::Stable).unwrap();
        *rig.disk.writes_left.lock().unwrap() = random.below(120);
        for _ in 0..40 {
            let name = random.below(20);
            let path = format!("/{name}");
            // What was freed may be needed at once.
            match random.below(8) {
                0..4 => drop(rig.vfs.unlink(&rig.proc, path.as_bytes())),
                4..7 => put(&rig, 20 + random.below(40), 40_000),
                _ => rig.vfs.sync(Wait::Stable).unwrap(),
            }
        }
        let mut image = Image(rig.disk.bytes());
        rig.unmount();
        let repaired = repair(&mut image).expect("it can be repaired");
        assert_consistent(&repaired.left, &what);
        let rig = Rig::with(image.0, "discard").unwrap();
        for (name, size) in sizes.into_iter().enumerate() {
            if let Some(bytes) = get(&rig, name as u64) {
                old += 1;
                assert!(bytes == contents(name as u64, size), "file {name}, {what}");
            }
        }
        rig.finish(&what);
    }
    println!("{old} of {} files were still there", 20 * cuts);
    assert!(old > 2 * cuts, "{old} files were there");
}
