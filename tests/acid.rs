//! The acid test of the memory limit: two trees of 64 MiB are copied to an FFS, read back and compared by two threads at once, in far
//! less memory than they are long. Then the volume is checked, a program that nobody here wrote reads and compares every file, and
//! the trees are deleted under the same limit, after which the volume is checked again.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::{scratch, setup};
use rumpfs_ffs::check::check;
use rumpfs_ffs::disk::Metadata;
use rumpuser::Errno;
use sha2::{Digest as _, Sha256};

/// Much: the machine may be busy, and half a megabyte is little.
const LONG: Duration = Duration::from_secs(600);
/// Bytes of the volume: room for both trees and their copies.
const VOLUME: &str = "160m";

/// Trees, and threads.
const TREES: u32 = 2;

/// Prints every file's path, length and checksum, as `dissect.ffs` reads them.
const LISTER: &str = r#"
import sys, hashlib
from dissect.ffs import FFS
def walk(node, path):
    for entry in node.iterdir():
        if entry.inum == 0 or entry.name in (".", ".."):
            continue
        here = path + "/" + entry.name
        if entry.is_dir():
            walk(entry, here)
        else:
            data = entry.open().read()
            print(here, len(data), hashlib.sha256(data).hexdigest())
walk(FFS(open(sys.argv[1], "rb")).root, "")
"#;

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

/// Where `dissect.ffs` is, installed if need be.
fn reader() -> Option<PathBuf> {
    static MODULES: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let modules = scratch("acid/python");
        let has = || {
            let found = python(&modules).args(["-c", "import dissect.ffs"]).output();
            found.is_ok_and(|output| output.status.success())
        };
        if !has() {
            let _ = Command::new("python3")
                .args(["-m", "pip", "install", "-q", "--target"])
                .arg(&modules)
                .arg("dissect.ffs")
                .output();
        }
        has().then_some(modules)
    };
    MODULES.get_or_init(install).clone()
}

fn python(modules: &Path) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", modules);
    command
}

/// What a reader of the trees must print, in order of names.
fn expected() -> String {
    let mut lines: Vec<String> = (0..TREES)
        .flat_map(|number| acid_tree::files(number, 1))
        .map(|file| {
            let mut sum = Sha256::new();
            let mut piece = vec![0; 1 << 20];
            for at in (0..file.size).step_by(piece.len()) {
                let count = (file.size - at).min(piece.len() as u64) as usize;
                acid_tree::fill(file.seed, at, &mut piece[..count]);
                sum.update(&piece[..count]);
            }
            let mut line = format!("{} {} ", file.path, file.size);
            for byte in sum.finalize() {
                write!(line, "{byte:02x}").expect("a string takes it");
            }
            line
        })
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Another reader finds the trees, and nothing else.
fn assert_readable(image: &Path) {
    let Some(modules) = reader() else {
        rump_tests::say(
            "neither is dissect.ffs there, nor can pip install it: nobody else read the trees",
        );
        return;
    };
    let output = python(&modules)
        .args(["-c", LISTER])
        .arg(image)
        .output()
        .expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert!(
        lines.join("\n") == expected(),
        "dissect.ffs reads something else"
    );
}

/// How the volume is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mount {
    /// Metadata are written in place, in order.
    Plain,
    /// With a journal.
    Log,
}

/// Lets the acid image do `steps` within `limit`, which is `pages` pages; answers how many pages were written out because memory
/// was short.
fn boot(disk: &Path, (limit, pages): (&str, u64), mount: Mount, steps: &str) -> u64 {
    let options = match mount {
        Mount::Plain => "",
        Mount::Log => "mount=ld0:/:ffs:log ",
    };
    let mut guest = Boot::new(image("acid"))
        .memory("32")
        .disk(disk)
        .keeping_writes()
        .without_network()
        .append(&format!(
            "{options}memlimit={limit} threads={TREES} steps={steps}"
        ))
        .limit(LONG)
        .start();
    assert_eq!(guest.exit_status(LONG), 0, "{}", guest.console());
    let console = guest.console();
    assert!(!console.contains("out of memory"), "{console}");
    let line = guest.line_with("acid: high water").expect("the last line");
    println!("{limit}, {mount:?}, {steps}: {line}");
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
    pageouts
}

/// Runs the acid test within `limit`, which is `pages` pages.
fn run(limit: (&str, u64), version: u32, mount: Mount) {
    let disk = volume(&format!("{}-ufs{version}-{mount:?}", limit.0), version);
    let pageouts = boot(&disk, limit, mount, "write,read");
    assert!(pageouts > 0, "nothing was ever short");
    assert_consistent(&disk);
    assert_readable(&disk);
    boot(&disk, limit, mount, "delete");
    assert_consistent(&disk);
    std::fs::remove_file(&disk).expect("our own file");
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_a_megabyte() {
    run(("1M", 256), 2, Mount::Plain);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_half_a_megabyte() {
    run(("512K", 128), 1, Mount::Plain);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_three_megabytes() {
    run(("3M", 768), 2, Mount::Plain);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_a_megabyte() {
    run(("1M", 256), 2, Mount::Log);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_half_a_megabyte() {
    run(("512K", 128), 1, Mount::Log);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_three_megabytes() {
    run(("3M", 768), 2, Mount::Log);
}
