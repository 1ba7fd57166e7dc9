//! The acid test of the memory limit: trees are copied to and from an FFS by two threads at once, in far less memory
//! than they are long, and every byte is compared; then the volume is checked.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::{scratch, setup};
use rumpfs_ffs::check::check;
use rumpfs_ffs::disk::Metadata;
use rumpuser::Errno;

/// Much: the machine may be busy, and half a megabyte is little.
const LONG: Duration = Duration::from_secs(600);
/// Bytes of the volume: room for both trees and their copies.
const VOLUME: &str = "160m";

/// An image file as a checker reads it.
struct ImageFile(RefCell<File>);

impl Metadata for ImageFile {
    fn read(&self, offset: u64, len: usize, visit: &mut dyn FnMut(&[u8])) -> Result<(), Errno> {
        let mut file = self.0.borrow_mut();
        let mut bytes = vec![0; len];
        let read = file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|_| Errno::EINVAL)?;
        visit(&bytes);
        Ok(())
    }
}

/// An empty volume, made by makefs.
fn volume(name: &str, version: u32) -> PathBuf {
    setup::need(&["makefs"]);
    let (folder, empty) = (scratch("acid"), scratch("acid/empty"));
    let image = folder.join(name);
    let options = format!("version={version},bsize=8192,fsize=1024");
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let done = Command::new("makefs")
        .env("PATH", path)
        .args(["-t", "ffs", "-o", &options, "-f", "20000", "-s", VOLUME])
        .args([&image, &empty])
        .output()
        .expect("makefs runs");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "makefs: {errors}");
    image
}

fn assert_consistent(image: &Path) {
    let file = ImageFile(RefCell::new(File::open(image).expect("the volume")));
    let report = check(&file).expect("a volume that can be checked");
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(report.is_consistent(), "{}", findings.join("\n"));
}

/// Runs the acid image within `limit`, which is `pages` pages.
fn run(limit: &str, pages: u64, version: u32) {
    let disk = volume(&format!("{limit}-ufs{version}"), version);
    let mut guest = Boot::new(image("acid"))
        .memory("32")
        .disk(&disk)
        .keeping_writes()
        .without_network()
        .append(&format!("memlimit={limit}"))
        .limit(LONG)
        .start();
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    let console = guest.console();
    assert!(!console.contains("out of memory"), "{console}");
    let line = guest.line_with("acid: high water").expect("the last line");
    let words: Vec<&str> = line
        .split_once("high water ")
        .expect("numbers")
        .1
        .split(' ')
        .collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let (high, of, pageouts) = (number(0), number(2), number(4));
    assert_eq!(of, pages, "{line}");
    assert!(high <= pages, "{line}");
    assert!(pageouts > 0, "nothing was ever short: {line}");
    assert_consistent(&disk);
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_a_megabyte() {
    run("1M", 256, 2);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_half_a_megabyte() {
    run("512K", 128, 1);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_three_megabytes() {
    run("3M", 768, 1);
}
