//! Images as a program uses them: several at once, from several threads, and their partitions.

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::tree::{Node, fingerprint};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use ukfs::{Errno, File, Image, Options, Source, check, mkfs, partitions};

#[test]
fn several_images_are_used_at_once_and_each_from_several_threads() {
    let disks = [Format::VARIED[0], Format::VARIED[1], Format::UFS2].map(Disk::of_everything);
    let images = disks
        .each_ref()
        .map(|disk| Image::open(&disk.image, Options::new()).expect("an image"));
    std::thread::scope(|scope| {
        for (disk, image) in disks.iter().zip(&images) {
            for thread in 0..3 {
                scope.spawn(move || {
                    let nodes = disk.tree.nodes.iter().skip(thread).step_by(3);
                    for (path, node) in nodes {
                        if let Node::File { .. } = node {
                            let bytes = image.read(path).expect("the file");
                            assert_eq!(fingerprint(&bytes), *node, "{path}");
                        }
                    }
                });
            }
        }
    });
    for image in images {
        image.close().expect("nothing is in use");
    }
}

#[test]
fn a_file_is_read_and_sought_as_any_other() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("f"), 1_000_000)
    });
    let image = Image::open(&disk.image, Options::new()).expect("an image");
    let whole = image.read("/f").expect("the file");
    let mut file: File = image.open_file("f").expect("the file");
    let mut end = Vec::new();
    file.seek(SeekFrom::End(-1000)).expect("a place");
    file.read_to_end(&mut end).expect("the end");
    assert_eq!(end, whole[999_000..]);
    assert_eq!(file.metadata().expect("what is known").len(), 1_000_000);
    let busy = image.clone().close();
    assert_eq!(busy.map_err(|error| error.errno()), Err(Errno::EBUSY));
    drop(file);
    image.close().expect("nothing is in use");
}

#[test]
fn an_image_that_was_closed_can_be_written_by_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    let options = mkfs::Options::new().size(4 << 20);
    mkfs::make(&*path, &options).expect("a volume");
    let image = Image::open(&*path, Options::new()).expect("an image");
    let refused = mkfs::make(&*path, &options);
    assert_eq!(refused.map_err(|error| error.errno()), Err(Errno::EBUSY));
    drop(image);
    mkfs::make(&*path, &options).expect("a volume");
}

#[test]
fn an_image_that_was_written_and_closed_is_free_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    mkfs::make(&*path, &mkfs::Options::new().size(4 << 20)).expect("a volume");
    for round in 0..30 {
        let image = Image::open(&*path, Options::new().write(true)).expect("an image");
        let name = format!("/{round}");
        let file = image.create_file(&name).expect("a file");
        file.write_all_at(name.as_bytes(), 5).expect("room");
        drop(file);
        image.close().expect("nothing is in use");
        let report = check::check(&*path, None).expect("a volume");
        assert!(report.is_consistent(), "{:?}", report.findings);
    }
    let image = Image::open(&*path, Options::new()).expect("an image");
    assert_eq!(image.read("/29").expect("the file"), b"\0\0\0\0\0/29");
}

#[test]
fn an_image_gives_up_the_room_of_a_file_that_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    mkfs::make(&*path, &mkfs::Options::new().size(16 << 20)).expect("a volume");
    let room = || fs::metadata(&path).expect("the image").blocks() * 512;
    let file = fs::File::options().write(true).open(&path).expect("it");
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let has_holes = fallocate(&file, flags, (16 << 20) - 4096, 4096).is_ok();
    drop(file);
    let mut left = Vec::new();
    for on in [false, true] {
        let options = Options::new().write(true).discard(on);
        let image = Image::open(&*path, options).expect("an image");
        let kept = image.create_file("/kept").expect("a file");
        kept.write_all_at(&[1; 1 << 20], 0).expect("room");
        let file = image.create_file("/file").expect("a file");
        file.write_all_at(&[2; 8 << 20], 0).expect("room");
        file.sync_all().expect("it is written");
        drop((kept, file));
        image.remove_file("/file").expect("it is there");
        image.close().expect("nothing is in use");
        left.push(room());
        let report = check::check(&*path, None).expect("a volume");
        assert!(report.is_consistent(), "{:?}", report.findings);
    }
    let given_up = left[0].saturating_sub(left[1]);
    assert!(given_up >= 8 << 20 || !has_holes, "{left:?}");
    let image = Image::open(&*path, Options::new()).expect("an image");
    assert!(image.read("/kept").expect("the file") == [1; 1 << 20]);
}

/// An MBR with two slices, of 4 MiB each: NetBSD sys/sys/bootblock.h, `struct mbr_sector`.
fn with_mbr(path: &Path) {
    let mut sector = [0; 512];
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    for (number, start) in [2048_u32, 2048 + 8192].into_iter().enumerate() {
        let slice = &mut sector[446 + 16 * number..][..16];
        // MBR_PTYPE_LNXEXT2: no disklabel is looked for in it.
        slice[4] = 0x83;
        slice[8..12].copy_from_slice(&start.to_le_bytes());
        slice[12..].copy_from_slice(&8192_u32.to_le_bytes());
    }
    fs::write(path, sector).expect("a file");
    let file = fs::File::options().write(true).open(path).expect("it");
    file.set_len((2048 + 2 * 8192) * 512).expect("its length");
}

#[test]
fn the_only_partition_with_a_file_system_is_taken_and_of_several_one_must_be_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    with_mbr(&path);
    let nothing = Image::open(&*path, Options::new()).map(drop);
    assert_eq!(nothing.map_err(|error| error.errno()), Err(Errno::EFTYPE));

    let second = Source::new(&*path).with_partition("f");
    let made = mkfs::make(second.clone(), &mkfs::Options::new().label("second"));
    assert_eq!(made.expect("a volume").bytes, 4 << 20);
    let found: Vec<_> = partitions(&path)
        .expect("the table")
        .into_iter()
        .map(|part| (part.name, part.start, part.bytes, part.fstype))
        .collect();
    assert_eq!(
        found,
        [
            ("ld0e".to_owned(), 1 << 20, 4 << 20, None),
            ("ld0f".to_owned(), 5 << 20, 4 << 20, Some("ffs")),
        ]
    );
    drop(Image::open(&*path, Options::new()).expect("the only one"));

    mkfs::make(
        Source::new(&*path).with_partition("1"),
        &mkfs::Options::new(),
    )
    .expect("a volume");
    let both = Image::open(&*path, Options::new())
        .map(drop)
        .expect_err("two");
    assert!(
        both.to_string().contains("ld0e") && both.to_string().contains("ld0f"),
        "{both}"
    );
    for name in ["e", "ld0f", "2"] {
        let source = Source::parse(format!("{}:{name}", path.display()));
        let image = Image::open(source.clone(), Options::new()).expect("a partition");
        assert_eq!(image.walk("/").count(), 1);
        drop(image);
        assert!(
            check::check(source, None)
                .expect("a volume")
                .is_consistent()
        );
    }
    let none = Image::open(Source::new(&*path).with_partition("q"), Options::new()).map(drop);
    assert_eq!(none.map_err(|error| error.errno()), Err(Errno::ENXIO));
}
