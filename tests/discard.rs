//! With the mount option `discard` the disk's file gives back what the guest deletes, and nothing else.
//!
//! What becomes of discards when the power goes is the business of `power_cuts`.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rump_tests::disk::Format;
use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::{scratch, volume};
use rustix::fs::{FallocateFlags, fallocate};

/// Much: the machine may be busy.
const LONG: Duration = Duration::from_secs(300);
/// Bytes of the volume.
const VOLUME: u64 = 40 << 20;
/// Of the trees of the image `acid` this part is written.
const PART: u32 = 8;

/// Bytes that the file takes.
fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).expect("our own file").blocks() * 512
}

/// Whether files under target can have holes made; says so where not.
fn has_holes(folder: &Path) -> bool {
    let file = tempfile::tempfile_in(folder).expect("a file under target");
    file.set_len(1 << 20).expect("a file under target");
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = fallocate(&file, mode, 0, 65_536);
    if let Err(error) = punched {
        rump_tests::say(&format!(
            "no holes in files under target ({error}): discarding is not tried"
        ));
    }
    punched.is_ok()
}

/// Lets a guest do `steps` with these trees.
fn boot(disk: &Path, options: &str, trees: core::ops::Range<u32>, steps: &str) {
    let (first, threads) = (trees.start, trees.len());
    let mut guest = Boot::new(image("acid"))
        .memory("32")
        .disk(disk)
        .keeping_writes()
        .without_network()
        .append(&format!(
            "mount=ld0:/:ffs:{options} memlimit=2M first={first} threads={threads} part={PART} steps={steps}"
        ))
        .limit(LONG)
        .start();
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    volume::assert_clean(disk);
}

fn gives_back(name: &str, options: &str) {
    let folder = scratch("discard");
    if !has_holes(&folder) {
        return;
    }
    let disk = folder.join(name);
    volume::make(&disk, Format::UFS2, VOLUME);
    boot(&disk, options, 0..2, "write");
    File::open(&disk)
        .and_then(|file| file.sync_all())
        .expect("our own file");
    let full = allocated(&disk);
    let tree = |number| {
        acid_tree::files(number, PART)
            .map(|file| file.size)
            .sum::<u64>()
    };
    assert!(full > tree(0) + tree(1), "{full} bytes");
    // What was discarded is used again, too, and what was there before the discard never comes back.
    boot(&disk, options, 1..2, "delete,write,read,delete");
    let left = allocated(&disk);
    println!("{full} bytes, then {left}; the tree had {}", tree(1));
    assert!(left < full - tree(1) * 9 / 10, "{left} of {full} bytes");
    boot(&disk, options, 0..1, "read");
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn what_is_deleted_leaves_the_disks_file_and_nothing_else_does() {
    gives_back("plain", "rw,discard");
}

#[test]
fn what_is_deleted_leaves_the_disks_file_and_nothing_else_does_with_a_log() {
    gives_back("log", "rw,log,discard");
}
