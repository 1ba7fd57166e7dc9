//! FFS images of three makers, read in this process by the kernel's own VFS, page cache and buffer cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use rump_tests::disk::{Disk, FREEBSD_SPARSE3, Format, write_random};
use rump_tests::hosted::Mounted;
use rump_tests::random::Random;
use rump_tests::tree::Tree;
use rumpdev::disk::Backend;
use rumpdev::md::MemoryDisk;
use rumpkern::uvm::dma::Bio;
use rumpuser::{BlockInfo, Errno};

fn bytes_of(disk: &Disk) -> Vec<u8> {
    std::fs::read(&disk.image).expect("the image")
}

fn mounted(disk: &Disk) -> Mounted {
    Mounted::new(MemoryDisk::new(bytes_of(disk)), "").expect("mounted")
}

fn assert_shows(mounted: &Mounted, tree: &Tree) {
    let found = mounted.tree().expect("all of it can be read");
    let all: BTreeSet<&String> = found.nodes.keys().chain(tree.nodes.keys()).collect();
    for path in all {
        assert_eq!(found.nodes.get(path), tree.nodes.get(path), "{path}");
    }
}

#[test]
fn images_of_makefs_show_their_tree() {
    for format in Format::VARIED {
        let disk = Disk::of_everything(format);
        assert_shows(&mounted(&disk), &disk.tree);
    }
}

#[test]
fn images_of_netbsd_show_their_tree() {
    for name in ["ffs1-clean", "ffs2-clean", "ffs2-log-unmounted"] {
        if let Some(disk) = Disk::by_netbsd(name) {
            assert_shows(&mounted(&disk), &disk.tree);
        }
    }
}

#[test]
fn images_of_freebsd_show_their_tree_and_the_end_of_a_file_of_half_a_terabyte() {
    for big_endian in [false, true] {
        let disk = Disk::by_freebsd(big_endian);
        let mounted = mounted(&disk);
        assert_shows(&mounted, &disk.tree);
        let file = mounted.file("/sparse3").expect("there");
        let end = mounted
            .read(&file, FREEBSD_SPARSE3 - 5, 40_000)
            .expect("readable");
        assert_eq!(end, [vec![0; 5], vec![b'x'; 32_768]].concat());
    }
}

#[test]
fn a_directory_of_10_000_entries_is_listed_and_every_file_of_it_found() {
    let disk = Disk::of(Format::UFS2, |files| {
        // makefs makes an inode for each KiB.
        std::fs::write(files.join("room"), vec![1; 8 << 20]).expect("a file");
        for number in 0..10_000 {
            std::fs::write(files.join(format!("entry {number}")), "").expect("a file");
        }
    });
    assert_shows(&mounted(&disk), &disk.tree);
}

#[test]
fn reads_at_any_place_of_any_length_are_right() {
    let length = 3 << 20;
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("file"), length)
    });
    let mounted = mounted(&disk);
    let file = mounted.file("/file").expect("there");
    let right = mounted.read(&file, 0, length + 1).expect("readable");
    assert_eq!(
        rump_tests::tree::fingerprint(&right),
        disk.tree.nodes["file"]
    );
    let mut random = Random::announced();
    for _ in 0..300 {
        let at = random.below(length + 5000);
        let len = random.below(200_000);
        let read = mounted.read(&file, at as u64, len).expect("readable");
        assert!(read == right[at.min(length)..(at + len).min(length)]);
    }
}

#[test]
fn names_that_are_not_there_and_paths_through_files_are_errors() {
    let disk = Disk::by_freebsd(false);
    let mounted = mounted(&disk);
    let error = |path: &str| mounted.file(path).map(|_| ()).unwrap_err();
    assert_eq!(error("/absent"), Errno::ENOENT);
    assert_eq!(error("/dir1/absent/file"), Errno::ENOENT);
    assert_eq!(error("/file1/below"), Errno::ENOTDIR);
    assert_eq!(error(&format!("/{}", "n".repeat(256))), Errno::ENAMETOOLONG);
    assert!(
        mounted
            .file("/dir1/dir2/../../dir1/./dir2/dir3/file2")
            .is_ok()
    );
}

/// A disk of which some sectors cannot be read.
struct Broken {
    disk: Arc<MemoryDisk>,
    bad: std::ops::Range<u64>,
}

impl Backend for Broken {
    fn info(&self) -> &BlockInfo {
        self.disk.info()
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        let sectors = bio.frames.iter().map(|io| io.len as u64 / 512).sum::<u64>();
        if bio.sector < self.bad.end && self.bad.start < bio.sector + sectors {
            (bio.done)(bio.frames, Err(Errno::EIO));
            return Ok(());
        }
        self.disk.start(bio)
    }
}

#[test]
fn a_sector_that_cannot_be_read_costs_what_lies_there_and_no_more() {
    let length = 1 << 20;
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("a"), length);
        write_random(&files.join("b"), length);
    });
    let memory = MemoryDisk::new(bytes_of(&disk));
    let sound = Mounted::new(memory.clone(), "").expect("mounted");
    let file = sound.file("/a").expect("there");
    let right = sound.read(&file, 0, length).expect("readable");
    let run = file.ops().bmap(128 * 1024, 512).expect("mapped");
    let bad = run.sector.expect("no hole");
    let broken = Broken {
        disk: memory,
        bad: bad..bad + 8,
    };
    let mounted = Mounted::new(Arc::new(broken), "").expect("mounted");
    let file = mounted.file("/a").expect("there");
    // A page at a time, so that each answers for itself.
    for page in 0..length / 4096 {
        let read = mounted.read(&file, (page * 4096) as u64, 4096);
        match page {
            32 => assert_eq!(read, Err(Errno::EIO)),
            _ => assert!(
                read.as_deref() == Ok(&right[page * 4096..][..4096]),
                "page {page}"
            ),
        }
    }
    let other = mounted.file("/b").expect("there");
    assert_eq!(
        mounted.node(&other).expect("readable"),
        disk.tree.nodes["b"]
    );
}
