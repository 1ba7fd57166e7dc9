//! Logs made, looked at and removed, those of NetBSD too; and what NetBSD's tunefs asks for.

use rump_tests::disk::Disk;
use rump_tests::tree::{Node, fingerprint};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use ukfs::log::{self, Log, State};
use ukfs::{Errno, Image, Options, check, mkfs};

/// Where the journal's fields are in a superblock (NetBSD sys/ufs/ffs/fs.h): `fs_journal_version`.
const FIELDS: u64 = 864;

fn state(image: &Path) -> State {
    log::state(image, None).expect("it can be looked at")
}

fn assert_consistent(image: &Path) {
    let report = check::check(image, None).expect("it can be checked");
    assert!(report.is_consistent(), "{:#?}", report.findings);
}

fn free(image: &Path) -> u64 {
    let image = Image::open(image, Options::new()).expect("an image");
    image.statvfs().expect("numbers").bfree
}

/// Uses it with a log, as others do.
fn use_with_log(image: &Path) {
    let opened = Image::open(image, Options::new().write(true).log(true)).expect("an image");
    for n in 0..40 {
        opened
            .create_dir(format!("/of-a-test-{n}"))
            .expect("a directory");
    }
    for n in 0..40 {
        opened
            .remove_dir(format!("/of-a-test-{n}"))
            .expect("it is there");
    }
    opened.close().expect("nothing is in use");
    assert_consistent(image);
}

/// The bytes of the superblock's place, UFS1 and UFS2 (SBLOCK_UFS1, SBLOCK_UFS2).
fn superblock_at(version: u8) -> u64 {
    if version == 1 { 8192 } else { 65_536 }
}

#[test]
fn a_log_is_made_used_removed_and_made_of_another_size_in_every_kind_of_volume() {
    let folder = tempfile::tempdir().expect("a folder");
    for (version, big_endian) in [(1, false), (2, false), (1, true), (2, true)] {
        let image = &*folder.path().join(format!("{version}{big_endian}"));
        let options = mkfs::Options::new().version(version).size(24 << 20);
        mkfs::make(image, &options.big_endian(big_endian)).expect("a volume");
        let nothing = State {
            log: None,
            asked: None,
        };
        assert_eq!(state(image), nothing);
        let before = free(image);
        for (bytes, expected) in [(None, 1 << 20), (Some(5 << 20), 5 << 20)] {
            log::add(image, &Options::new(), bytes).expect("room");
            let log = state(image).log.expect("a log");
            assert_eq!(log.bytes, expected);
            assert!(log.inode.is_some() && !log.in_use && log.contents.is_none());
            assert!(log.start + log.bytes <= 24 << 20);
            assert_consistent(image);
            assert!(free(image) < before);
            let again = log::add(image, &Options::new(), None);
            let again = again.expect_err("there is one");
            assert_eq!(again.errno(), Errno::EEXIST);
            assert!(again.to_string().ends_with("it has a log already"));
            use_with_log(image);
            assert_eq!(state(image).log, Some(log));
            log::remove(image, &Options::new()).expect("it is there");
            assert_eq!(state(image), nothing);
            assert_consistent(image);
            assert_eq!(free(image), before);
        }
        let none = log::remove(image, &Options::new()).expect_err("there is none");
        assert_eq!(none.errno(), Errno::ENOENT);
    }
}

#[test]
fn a_log_lies_behind_the_volume_where_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &*folder.path().join("image");
    mkfs::make(image, &mkfs::Options::new().size(16 << 20)).expect("a volume");
    let before = free(image);
    let file = fs::File::options().write(true).open(image).expect("it");
    file.set_len(19 << 20).expect("its length");
    log::add(image, &Options::new(), None).expect("room");
    let log = state(image).log.expect("a log");
    let place = (log.inode, log.start, log.bytes);
    assert_eq!(place, (None, 16 << 20, 3 << 20));
    assert_eq!(free(image), before);
    use_with_log(image);
    log::remove(image, &Options::new()).expect("it is there");
    assert_eq!(state(image).log, None);
    assert_consistent(image);
}

#[test]
fn a_log_for_which_there_is_no_room_is_not_asked_for_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &*folder.path().join("image");
    mkfs::make(image, &mkfs::Options::new().size(8 << 20)).expect("a volume");
    let refused = log::add(image, &Options::new(), Some(64 << 20)).expect_err("too large");
    assert_eq!(refused.errno(), Errno::ENOSPC);
    assert!(refused.to_string().contains("no room for the log"));
    let left = state(image);
    assert_eq!((left.log, left.asked), (None, None));
    assert_consistent(image);
    // It is as clean as it was.
    use_with_log(image);
    log::remove(image, &Options::new()).expect("it is there");
    for bytes in [1, 65_535, 2 << 30] {
        let refused = log::add(image, &Options::new(), Some(bytes)).expect_err("no log");
        assert_eq!(refused.errno(), Errno::EINVAL, "{bytes}");
    }
}

/// What tunefs(8) `-l` of a machine leaves: version 0, inside the file system, create, the bytes (sbin/tunefs/tunefs.c).
fn as_tunefs_asks(bytes: u64, big_endian: bool) -> [u8; 40] {
    let mut fields = [0; 40];
    fields[1] = 2;
    match big_endian {
        true => {
            fields[4..8].copy_from_slice(&1_u32.to_be_bytes());
            fields[16..24].copy_from_slice(&bytes.to_be_bytes());
        }
        false => {
            fields[4..8].copy_from_slice(&1_u32.to_le_bytes());
            fields[16..24].copy_from_slice(&bytes.to_le_bytes());
        }
    }
    fields
}

#[test]
fn what_tunefs_asks_for_is_done_at_the_next_mount_with_a_log() {
    let folder = tempfile::tempdir().expect("a folder");
    for (version, big_endian) in [(1, false), (2, true), (2, false)] {
        let image = &*folder.path().join(format!("{version}{big_endian}"));
        let options = mkfs::Options::new().version(version).size(16 << 20);
        mkfs::make(image, &options).expect("a volume");
        let file = fs::File::options().write(true).open(image).expect("it");
        let at = superblock_at(version) + FIELDS;
        let asked = as_tunefs_asks(3 << 20, big_endian);
        file.write_all_at(&asked, at).expect("it is written");
        drop(file);
        assert_eq!(state(image).asked, Some(3 << 20));
        assert_consistent(image);
        // Without a log nobody makes one; who asked is still heard.
        let opened = Image::open(image, Options::new().write(true)).expect("an image");
        opened.create_dir("/d").expect("a directory");
        opened.close().expect("nothing is in use");
        assert_eq!(state(image).asked, Some(3 << 20));
        use_with_log(image);
        let found = state(image);
        assert_eq!(found.log.map(|log| log.bytes), Some(3 << 20));
        assert_eq!(found.asked, None);
    }
}

#[test]
fn what_tunefs_asked_for_is_taken_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &*folder.path().join("image");
    mkfs::make(image, &mkfs::Options::new().size(16 << 20)).expect("a volume");
    let fields = |image: &Path| {
        let mut fields = [0; 40];
        let file = fs::File::open(image).expect("the image");
        let read = file.read_exact_at(&mut fields, superblock_at(2) + FIELDS);
        read.expect("it is read");
        fields
    };
    let file = fs::File::options().write(true).open(image).expect("it");
    let at = superblock_at(2) + FIELDS;
    file.write_all_at(&as_tunefs_asks(3 << 20, true), at)
        .expect("it is written");
    log::remove(image, &Options::new()).expect("it was asked for");
    assert_eq!(fields(image), [0; 40]);
    // tunefs itself: `-l 0` after that.
    let mut removal = as_tunefs_asks(3 << 20, false);
    removal[4] = 2;
    file.write_all_at(&removal, at).expect("it is written");
    assert_eq!(state(image).asked, None);
    let opened = Image::open(image, Options::new().write(true)).expect("an image");
    opened.close().expect("nothing is in use");
    assert_eq!(fields(image), [0; 40]);
    assert_consistent(image);
}

fn assert_shows(disk: &Disk) {
    let image = Image::open(&disk.image, Options::new()).expect("an image");
    for (path, node) in &disk.tree.nodes {
        if let Node::File { .. } = node {
            let bytes = image.read(path).expect("the file");
            assert_eq!(fingerprint(&bytes), *node, "{path}");
        }
    }
}

#[test]
fn the_log_of_a_volume_that_netbsd_unmounted_is_found_removed_and_made_again() {
    let Some(disk) = Disk::by_netbsd("ffs2-log-unmounted") else {
        return;
    };
    let image = &*disk.image;
    let log = state(image).log.expect("a log");
    assert_eq!(
        (log.bytes, log.in_use, log.big_endian),
        (1 << 20, false, false)
    );
    assert!(log.inode.is_some());
    log::remove(image, &Options::new()).expect("it is there");
    assert_eq!(state(image).log, None);
    assert_consistent(image);
    log::add(image, &Options::new(), Some(512 << 10)).expect("room");
    assert_consistent(image);
    use_with_log(image);
    assert_shows(&disk);
}

#[test]
fn what_a_log_of_netbsd_holds_is_shown_and_replayed_before_the_log_goes() {
    let mut nameless = 0;
    for name in [
        "ffs1-log-cut-a",
        "ffs2-log-cut-a",
        "ffs2-log-cut-b",
        "ffs2-log-cut-16k",
    ] {
        let Some(disk) = Disk::by_netbsd(name) else {
            continue;
        };
        let bytes = fs::read(&disk.image).expect("the image");
        let log: Log = state(&disk.image).log.expect("a log");
        assert!(fs::read(&disk.image).expect("the image") == bytes, "{name}");
        let contents = log.contents.expect("it is in use").expect("it is sound");
        assert!(log.in_use && contents.transactions > 0, "{name}");
        assert!(contents.replayed > 0 && contents.replayed < contents.used);
        assert!(contents.used <= log.bytes - 2 * log.block_size);
        nameless += contents.nameless;
        log::remove(&*disk.image, &Options::new()).expect("it is there");
        assert_eq!(state(&disk.image).log, None, "{name}");
        assert_consistent(&disk.image);
        assert_shows(&disk);
        // The same where another is made at once: the old one is not gone on with.
        fs::write(&disk.image, &bytes).expect("the image");
        let at = superblock_at(if name.starts_with("ffs1") { 1 } else { 2 }) + FIELDS;
        let file = fs::File::options().write(true).open(&disk.image);
        let file = file.expect("the image");
        file.write_all_at(&2_u32.to_le_bytes(), at + 4)
            .expect("it is written");
        assert!(state(&disk.image).log.expect("a log").to_be_removed);
        use_with_log(&disk.image);
        let made = state(&disk.image).log.expect("another log");
        assert!(!made.in_use && !made.to_be_removed, "{name}");
        assert_shows(&disk);
    }
    println!("files without a name: {nameless}");
}

#[test]
fn a_damaged_log_is_shown_as_one_and_not_removed() {
    let Some(disk) = Disk::by_netbsd("ffs2-log-cut-b") else {
        return;
    };
    let log = state(&disk.image).log.expect("a log");
    let file = fs::File::options().write(true).open(&disk.image);
    let file = file.expect("the image");
    for slot in 0..2 {
        let at = log.start + slot * log.block_size;
        file.write_all_at(&[0xa5; 80], at).expect("it is written");
    }
    drop(file);
    let spoiled = fs::read(&disk.image).expect("the image");
    let damage = state(&disk.image).log.expect("a log").contents;
    let damage = damage.expect("it is in use").expect_err("it is damaged");
    assert_eq!(damage.errno(), Errno::EFTYPE);
    log::remove(&*disk.image, &Options::new()).expect_err("it holds what nobody can read");
    assert!(fs::read(&disk.image).expect("the image") == spoiled);
}

#[test]
fn an_image_whose_log_is_damaged_is_not_opened_unless_forced_and_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    for version in [1, 2] {
        let image = folder.path().join(format!("{version}"));
        let cut = &*folder.path().join(format!("{version}-cut"));
        let options = mkfs::Options::new().version(version).size(16 << 20);
        mkfs::make(&image, &options).expect("a volume");
        log::add(&*image, &Options::new(), None).expect("room");
        let options = Options::new().write(true).log(true);
        let opened = Image::open(&*image, options.clone()).expect("an image");
        opened.create_dir("/d").expect("a directory");
        opened.sync().expect("it is written");
        // As a power cut leaves it.
        fs::copy(&image, cut).expect("a copy");
        opened.close().expect("nothing is in use");
        let log = state(cut).log.expect("a log");
        assert!(log.in_use);
        let file = fs::File::options().write(true).open(cut);
        let file = file.expect("the image");
        for slot in 0..2 {
            let at = log.start + slot * log.block_size;
            file.write_all_at(&[0xa5; 80], at).expect("it is written");
        }
        drop(file);
        for options in [Options::new(), options.clone(), options.force(true)] {
            let refused = Image::open(cut, options).map(drop).expect_err("damage");
            assert_eq!(refused.errno(), Errno::EFTYPE);
            let told = refused.to_string();
            let cause = "-cut: the journal (WAPBL) cannot be replayed: ";
            assert!(told.contains(cause), "{told}");
        }
        Image::open(cut, Options::new().force(true)).expect("to read, in spite of it");
    }
}

#[test]
fn a_superblock_that_contradicts_itself_is_named_by_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &*folder.path().join("image");
    mkfs::make(image, &mkfs::Options::new().size(8 << 20)).expect("a volume");
    let file = fs::File::options().write(true).open(image).expect("it");
    // `fs_fragshift` (NetBSD sys/ufs/ffs/fs.h).
    let at = superblock_at(2) + 96;
    file.write_all_at(&[0x55; 4], at).expect("it is written");
    drop(file);
    let refused = Image::open(image, Options::new()).map(drop);
    let refused = refused.expect_err("no volume has such fragments");
    assert_eq!(refused.errno(), Errno::EINVAL);
    let told = refused.to_string();
    assert!(told.contains("image: superblock at byte 65536: "), "{told}");
}
