//! Everything that fsck_ffs(8) finds, provoked one by one on a volume with files: the check finds it, the repair mends it,
//! and the files that had nothing to do with it are as they were.

mod blocks;
mod groups;
mod names;
#[path = "../rig/mod.rs"]
mod rig;
mod setup;
mod spoiled;

use std::mem::offset_of;

use blocks::BLOCKS;
use groups::{FRAGMENTS_ONLY, GROUPS, UFS2_ONLY};
use names::NAMES;
use rig::{Image, Rig, assert_consistent, attach, options};
use rumpfs_ffs::check::check;
use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::mkfs::Options;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpvfs::syscalls::OpenFlags;
use setup::{SETUP, UFS1_ONLY};
use spoiled::{Raw, Spoil, Spoiled, written};

const MEMORY: usize = 4 << 20;

/// Both formats and byte orders, small.
fn volumes() -> [Options; 4] {
    [
        options(Format::Ufs1, Order::Little, 4096, 8, 500),
        options(Format::Ufs1, Order::Big, 8192, 4, 300),
        options(Format::Ufs2, Order::Little, 4096, 1, 500),
        options(Format::Ufs2, Order::Big, 8192, 8, 300),
    ]
}

/// `/keep`, or what `lost+found` has instead, is as it was.
fn assert_kept(rig: &Rig, ino: u32, what: &str) {
    let lost = format!("/lost+found/#{ino:08}");
    let open = |path: &str| {
        rig.vfs
            .open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0)
            .ok()
    };
    let file = open("/keep").or_else(|| open(&lost));
    let file = file.unwrap_or_else(|| panic!("/keep is gone: {what}"));
    let mut bytes = [0; 3001];
    assert_eq!(file.read_at(0, &mut bytes), Ok(3000), "{what}");
    assert!(bytes[..3000].iter().all(|byte| *byte == 9), "{what}");
}

fn assert_found_and_repaired(options: Options, spoils: &[Spoil]) {
    let sound = Spoiled::new(options);
    for (name, spoil, is_it) in spoils {
        let what = format!("{name}, {options:?}");
        let mut it = Spoiled {
            image: Image(sound.image.0.clone()),
            sb: sound.sb.clone(),
            inodes: sound.inodes.clone(),
        };
        spoil(&mut it);
        let found = check(&it.image).unwrap_or_else(|fault| panic!("{fault:?}: {what}"));
        assert!(
            found.findings.iter().any(is_it),
            "{:?} instead of: {what}",
            found.findings
        );
        let done = repair(&mut it.image).unwrap_or_else(|fault| panic!("{fault:?}: {what}"));
        assert_consistent(&done.left, &what);
        assert!(done.repaired.iter().any(is_it), "{what}");
        let again = check(&it.image).expect("it can be checked");
        assert_consistent(&again, &what);
        let keep = it.ino("/keep");
        let rig = Rig::new(it.image.0);
        assert_kept(&rig, keep, &what);
        written(&rig, "/new", &[5; 9000]);
        rig.finish(&what);
    }
}

#[test]
fn a_superblock_that_is_wrong_is_found_and_repaired() {
    let _lwp = attach(MEMORY);
    for options in volumes() {
        assert_found_and_repaired(options, SETUP);
    }
}

#[test]
fn inodes_and_blocks_that_are_wrong_are_found_and_repaired() {
    let _lwp = attach(MEMORY);
    for options in volumes() {
        assert_found_and_repaired(options, BLOCKS);
    }
}

#[test]
fn names_and_links_that_are_wrong_are_found_and_repaired() {
    let _lwp = attach(MEMORY);
    for options in volumes() {
        assert_found_and_repaired(options, NAMES);
    }
}

#[test]
fn groups_and_totals_that_are_wrong_are_found_and_repaired() {
    let _lwp = attach(MEMORY);
    for options in volumes() {
        assert_found_and_repaired(options, GROUPS);
        match options.format {
            Format::Ufs1 => assert_found_and_repaired(options, UFS1_ONLY),
            _ => assert_found_and_repaired(options, UFS2_ONLY),
        }
        if options.bsize != options.fsize {
            assert_found_and_repaired(options, FRAGMENTS_ONLY);
        }
    }
}

#[test]
fn a_volume_that_was_not_left_clean_can_be_written_after_a_repair() {
    let _lwp = attach(MEMORY);
    for options in volumes() {
        let mut it = Spoiled::new(options);
        it.superblock(offset_of!(Raw, clean), 1, 0);
        let done = repair(&mut it.image).expect("it can be repaired");
        assert_consistent(&done.left, "only marked");
        let rig = Rig::new(it.image.0);
        written(&rig, "/new", b"x");
        rig.finish("clean again");
    }
}
