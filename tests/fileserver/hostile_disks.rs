//! Disks that are wrong: an error for the client and a line in the log, never a panic or a hang.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rump_tests::disk::{Disk, Format, write_random};
use rump_tests::guest::{Boot, Guest, SOON};
use rump_tests::http::{Connection, target_of};
use rump_tests::random::Random;
use rump_tests::scratch;
use rump_tests::tree::fingerprint;

use crate::{assert_sane, fileserver};

/// Waits until the guest serves, or has ended by itself with a status that says failure; true if it serves.
fn serves_or_ends_in_order(guest: &mut Guest) -> bool {
    let deadline = Instant::now() + SOON;
    while guest.is_running() {
        if guest.line_with("run-qemu: answers at ").is_some() {
            return true;
        }
        assert!(Instant::now() < deadline, "neither serves nor ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = guest.exit_status(SOON);
    assert!(status != 0 && status < 64, "ended with status {status}");
    false
}

/// Follows the links of every page, to a bounded number of requests; whatever comes back must be whole or a cut connection.
fn crawl(guest: &Guest, most: usize) {
    let mut seen = BTreeSet::new();
    let mut ahead = vec![String::from("/")];
    while let Some(target) = ahead.pop() {
        if seen.len() >= most || !seen.insert(target.clone()) {
            continue;
        }
        // A file with a damaged inode may be terabytes long.
        let started = Instant::now();
        let Ok(mut connection) = Connection::open(guest.address()) else {
            panic!("{target}: no connection")
        };
        let answer = connection.exchange("GET", &target, &["Range: bytes=0-1048575"]);
        assert!(
            started.elapsed() < Duration::from_secs(25),
            "{target} took {:?}",
            started.elapsed()
        );
        let Ok(response) = answer else { continue };
        if response
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
            && target.ends_with('/')
        {
            let page = response.text();
            for link in page
                .split("href=\"./")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
            {
                ahead.push(format!("{target}{link}"));
            }
        }
    }
}

fn folder_with(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(scratch("disks")).expect("a folder under target");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a file under target");
    (folder, path)
}

#[test]
fn no_disk_is_said() {
    let mut guest = Boot::new(fileserver()).start();
    if serves_or_ends_in_order(&mut guest) {
        assert!(guest.get("/").status >= 400, "there is nothing to serve");
    }
    assert!(
        guest.console().contains("ld0"),
        "the log does not say what is missing"
    );
    assert_sane(&guest);
}

#[test]
fn a_disk_of_zeroes_is_no_file_system() {
    let (_folder, disk) = folder_with("zeroes.img", &[0; 4 << 20]);
    let mut guest = Boot::new(fileserver()).disk(disk).start();
    if serves_or_ends_in_order(&mut guest) {
        assert!(guest.get("/").status >= 400, "there is nothing to serve");
    }
    assert!(
        guest.console().contains("ld0"),
        "the log does not say where"
    );
    assert_sane(&guest);
}

#[test]
fn a_tiny_disk_is_no_file_system() {
    for size in [512, 8192, 8192 + 512] {
        let (_folder, disk) = folder_with("tiny.img", &vec![0xff; size]);
        let mut guest = Boot::new(fileserver()).disk(disk).start();
        if serves_or_ends_in_order(&mut guest) {
            assert!(guest.get("/").status >= 400, "{size}");
        }
        assert_sane(&guest);
    }
}

#[test]
fn a_truncated_disk_serves_what_is_left_of_it_or_says_why_not() {
    let whole = Disk::of_everything(Format::UFS2);
    let bytes = fs::read(&whole.image).expect("the image");
    for eighths in [1, 4, 7] {
        let (_folder, disk) =
            folder_with("cut.img", &bytes[..bytes.len() / 8 * eighths / 512 * 512]);
        let mut guest = Boot::new(fileserver()).disk(disk).start();
        if serves_or_ends_in_order(&mut guest) {
            crawl(&guest, 400);
            assert!(guest.is_running(), "{eighths} eighths");
        }
        assert_sane(&guest);
    }
}

#[test]
fn a_read_error_is_told_to_the_client_and_to_the_log() {
    let disk = Disk::of(Format::UFS2, |files| {
        write_random(&files.join("file.bin"), 16 << 20);
        write_random(&files.join("other.bin"), 1 << 20);
    });
    // The file is most of the disk: its middle is the file's.
    let bytes = fs::read(&disk.image).expect("the image");
    let sector = bytes.len() as u64 / 2 / 512;
    let drive = format!(
        "if=none,id=bad,format=raw,cache=writeback,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=read_aio,file.inject-error.0.sector={sector},file.inject-error.0.errno=5",
        disk.image.display()
    );
    let mut guest = Boot::new(fileserver())
        .qemu_arg("-drive")
        .qemu_arg(&drive)
        .qemu_arg("-device")
        .qemu_arg("virtio-blk-pci,drive=bad")
        .start()
        .serving();
    let mut connection = Connection::open(guest.address()).expect("a connection");
    let broken = connection.exchange("GET", "/file.bin", &[]);
    // The head was sent before the error was met: the connection must end short of the promised length.
    assert!(
        broken
            .as_ref()
            .map_or(true, |response| response.status >= 500),
        "the error was not noticed"
    );
    guest.wait_for("ld0", SOON);
    assert!(guest.is_running());
    let other = guest.get("/other.bin");
    assert_eq!(fingerprint(&other.body), disk.tree.nodes["other.bin"]);
    assert_sane(&guest);
}

#[test]
fn corrupted_metadata_is_an_error_and_a_line_in_the_log() {
    let mut random = Random::announced();
    for format in [Format::VARIED[0], Format::UFS2, Format::VARIED[4]] {
        let whole = Disk::of_everything(format);
        let bytes = fs::read(&whole.image).expect("the image");
        let targets: Vec<String> = whole
            .tree
            .nodes
            .keys()
            .map(|path| target_of(path))
            .collect();
        for round in 0..10 {
            let mut bad = bytes.clone();
            damage(&mut bad, &mut random);
            let (_folder, disk) = folder_with("bad.img", &bad);
            let mut guest = Boot::new(fileserver()).disk(disk).start();
            if serves_or_ends_in_order(&mut guest) {
                crawl(&guest, 100);
                let some = &targets[random.below(targets.len())];
                let _ = rump_tests::http::get(guest.address(), some);
                assert!(guest.is_running(), "round {round}");
            }
            assert_sane(&guest);
        }
    }
}

/// Writes random values over a few words of the first blocks, where superblock, cylinder group, inodes and directories lie.
fn damage(image: &mut [u8], random: &mut Random) {
    const INTERESTING: [u32; 8] = [
        0,
        1,
        0xffff_ffff,
        0x7fff_ffff,
        0x8000_0000,
        0x1000,
        0xffff,
        0x00ff_ff00,
    ];
    let metadata = image.len().min(512 << 10);
    for _ in 0..1 + random.below(24) {
        let at = 8192 + random.below(metadata - 8192 - 4);
        let value = if random.below(2) == 0 {
            INTERESTING[random.below(INTERESTING.len())]
        } else {
            random.number() as u32
        };
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}
