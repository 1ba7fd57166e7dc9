//! Logs that NetBSD left behind: replayed on the disk and in memory, of both byte orders.

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
