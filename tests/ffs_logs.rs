//! Logs that NetBSD left behind: replayed on the disk and in memory, of both byte orders; and spoiled ones.

use std::collections::BTreeSet;
use std::fs;

use rump_tests::disk::Disk;
use rump_tests::hosted::Mounted;
use rump_tests::random::Random;
use rump_tests::spoil::Image;
use rump_tests::tree::Tree;
use rump_tests::volume;
use rumpdev::md::MemoryDisk;
use rumpfs_ffs::check::check;
use rumpfs_ffs::superblock::{self, Clean, Flags, Superblock, Tolerance};
use rumpuser::Errno;

/// Volumes whose power was cut, with the trees that NetBSD shows after replay.
const CUT: [&str; 4] = [
    "ffs1-log-cut-a",
    "ffs2-log-cut-a",
    "ffs2-log-cut-b",
    "ffs2-log-cut-16k",
];

fn bytes_of(disk: &Disk) -> Vec<u8> {
    fs::read(&disk.image).expect("the image")
}

fn superblock(bytes: &[u8]) -> Superblock {
    superblock::find(&Image(bytes), Tolerance::default()).expect("a superblock")
}

fn assert_shows(mounted: &Mounted, tree: &Tree, what: &str) {
    let found = mounted.tree().expect("all of it can be read");
    let all: BTreeSet<&String> = found.nodes.keys().chain(tree.nodes.keys()).collect();
    for path in all {
        let (found, expected) = (found.nodes.get(path), tree.nodes.get(path));
        assert_eq!(found, expected, "{what}: {path}");
    }
    for (path, expected) in &tree.attributes {
        let file = mounted.file(&format!("/{path}")).expect("it is there");
        let found = file.ops().getattr().expect("it can be read");
        let found = (
            u32::from(found.vtype.mode_bits() | found.mode),
            found.nlink,
            found.uid,
            found.gid,
            found.fileid,
        );
        assert_eq!(found, *expected, "{what}: {path}");
    }
}

fn findings(bytes: &[u8]) -> Vec<String> {
    let report = check(&Image(bytes)).expect("it can be checked");
    report.findings.iter().map(ToString::to_string).collect()
}

fn assert_consistent(bytes: &[u8], what: &str) {
    let findings = findings(bytes);
    assert!(findings.is_empty(), "{what}: {findings:#?}");
}

/// What is on a disk after it was mounted with `options`, looked at, and unmounted.
fn after(bytes: &[u8], options: &str, look: impl FnOnce(&Mounted)) -> Result<Vec<u8>, Errno> {
    let disk = MemoryDisk::new(bytes.to_vec());
    let mounted = Mounted::new(disk.clone(), options)?;
    look(&mounted);
    mounted.end()?;
    Ok(disk.with_bytes(|bytes| bytes.to_vec()))
}

#[test]
fn a_log_of_netbsd_mounted_for_reading_shows_its_tree_and_the_disk_stays_as_it_is_to_the_byte() {
    for name in CUT {
        let Some(disk) = Disk::by_netbsd(name) else {
            continue;
        };
        let bytes = bytes_of(&disk);
        assert!(superblock(&bytes).flags.contains(Flags::DOWAPBL), "{name}");
        let left = after(&bytes, "", |mounted| {
            assert_shows(mounted, &disk.tree, name);
        });
        assert!(left.expect("mounted") == bytes, "{name} has changed");
        assert_consistent(&bytes, name);
    }
}

#[test]
fn a_log_of_netbsd_mounted_for_writing_is_replayed_to_its_tree_and_a_check_finds_nothing() {
    for name in CUT {
        let Some(disk) = Disk::by_netbsd(name) else {
            continue;
        };
        let left = after(&bytes_of(&disk), "rw", |mounted| {
            assert_shows(mounted, &disk.tree, name);
        });
        let left = left.expect("mounted");
        let sb = superblock(&left);
        assert!(!sb.flags.contains(Flags::DOWAPBL), "{name}");
        assert_eq!(sb.clean, Clean::IS_CLEAN, "{name}");
        assert_consistent(&left, name);
        let again = after(&left, "", |mounted| {
            assert_shows(mounted, &disk.tree, name);
        });
        assert!(again.expect("mounted") == left);
    }
}

#[test]
fn a_replay_that_was_cut_off_is_repeated() {
    let Some(disk) = Disk::by_netbsd("ffs2-log-cut-b") else {
        return;
    };
    let bytes = bytes_of(&disk);
    let whole = after(&bytes, "rw", |_| ()).expect("mounted");
    let sb = superblock(&bytes);
    let mut random = Random::new(7);
    for _ in 0..20 {
        // Some of the sectors that replaying writes are there already; not those that say that it was done.
        let mut part = bytes.clone();
        for (at, sector) in part.chunks_exact_mut(512).enumerate() {
            let at_superblock = (sb.location..sb.location + 8192).contains(&(at as u64 * 512));
            if !at_superblock && random.below(2) == 0 {
                sector.copy_from_slice(&whole[at * 512..at * 512 + 512]);
            }
        }
        let left = after(&part, "rw", |mounted| {
            assert_shows(mounted, &disk.tree, "repeated");
        });
        assert_consistent(&left.expect("mounted"), "repeated");
    }
}

#[test]
fn a_log_in_the_other_byte_order_of_its_volume_is_replayed_as_netbsd_does() {
    let Some(dirty) = Disk::by_netbsd_untold("ffs2-be-log-cut-dirty") else {
        return;
    };
    let Some(replayed) = Disk::by_netbsd_untold("ffs2-be-log-cut-replayed") else {
        return;
    };
    let mut tree = Tree::default();
    after(&bytes_of(&replayed), "", |mounted| {
        tree = mounted.tree().expect("all of it can be read");
    })
    .expect("mounted");
    assert!(tree.nodes.len() > 10);
    let bytes = bytes_of(&dirty);
    for options in ["", "rw"] {
        let left = after(&bytes, options, |mounted| {
            assert_shows(mounted, &tree, options);
        });
        let left = left.expect("mounted");
        assert_eq!(left == bytes, options.is_empty());
        // NetBSD writes a counter of clusters in the machine's order, not in the volume's.
        assert_eq!(findings(&left), findings(&bytes_of(&replayed)));
    }
}

#[test]
fn repairing_replays_first() {
    for name in CUT {
        let Some(disk) = Disk::by_netbsd(name) else {
            continue;
        };
        let mut image = volume::Bytes(bytes_of(&disk));
        volume::repair(&mut image);
        let sb = superblock(&image.0);
        assert!(!sb.flags.contains(Flags::DOWAPBL), "{name}");
        after(&image.0, "", |mounted| {
            assert_shows(mounted, &disk.tree, name);
        })
        .expect("mounted");
    }
}

/// Where the headers and the heads of records of the image's log are, and how many bytes count of each.
fn places(bytes: &[u8], sb: &Superblock) -> Vec<(usize, usize)> {
    let journal = sb.journal.expect("a journal");
    let start = (journal.address * 512) as usize;
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
    let mut places = vec![
        (sb.location as usize + 864, 40),
        (start, 80),
        (start + 512, 80),
    ];
    for at in (start + 1024..start + journal.blocks as usize * 512).step_by(512) {
        if (0x5741_424d..=0x5741_424f).contains(&word(at)) {
            places.push((at, 16 + 16 * word(at + 8).min(31) as usize));
        }
    }
    places
}

#[test]
fn a_spoiled_log_is_refused_or_replayed_and_never_followed_out_of_bounds() {
    let disks: Vec<Disk> = ["ffs1-log-cut-a", "ffs2-log-cut-b"]
        .iter()
        .filter_map(|name| Disk::by_netbsd(name))
        .collect();
    let count = std::env::var("LOG_SEEDS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(40);
    let (mut refused, mut replayed) = (0, 0);
    for disk in &disks {
        let bytes = bytes_of(disk);
        let places = places(&bytes, &superblock(&bytes));
        assert!(places.len() > 10);
        for seed in 0..count {
            let mut random = Random::new(seed);
            let mut spoiled = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let (start, len) = places[random.below(places.len())];
                let at = start + random.below(len / 4) * 4;
                let old = u32::from_le_bytes(spoiled[at..at + 4].try_into().expect("four"));
                let new = match random.below(6) {
                    0 => old ^ 1 << random.below(32),
                    1 => random.number() as u32,
                    2 => u32::MAX,
                    3 => 0,
                    4 => old.wrapping_add(512),
                    _ => old.wrapping_sub(1),
                };
                spoiled[at..at + 4].copy_from_slice(&new.to_le_bytes());
            }
            let in_memory = after(&spoiled, "", |mounted| {
                let _: Result<Tree, Errno> = mounted.tree();
            });
            match &in_memory {
                Ok(left) => assert!(*left == spoiled, "seed {seed}"),
                Err(errno) => {
                    let known = [Errno::EFTYPE, Errno::EINVAL, Errno::EIO, Errno::ENOENT];
                    assert!(known.contains(errno), "seed {seed}: {errno}");
                }
            }
            let on_disk = after(&spoiled, "rw", |mounted| {
                let _: Result<Tree, Errno> = mounted.tree();
            });
            match on_disk {
                Ok(_) => replayed += 1,
                Err(_) => refused += 1,
            }
        }
    }
    println!("refused {refused}, replayed {replayed}");
    assert!(disks.is_empty() || refused > 10 && replayed > 10);
}
