//! The acid test of the memory limit: two trees of 80 MiB are copied to an FFS, read back and compared by two threads at once, in far
//! less memory than they are long. Then the volume is checked, programs that nobody here wrote read every file, which is compared, and
//! the trees are deleted under the same limit, after which the volume is checked again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Result;
use rump_tests::disk::Format;
use rump_tests::guest::Boot;
use rump_tests::image::image;
use rump_tests::readers::Reader::{self, Dissect, FuseUfs, Linux};
use rump_tests::readers::fuse_ufs;
use rump_tests::tree::{Node, Tree, fingerprint};
use rump_tests::{scratch, setup, volume};

/// Much: the machine may be busy, and half a megabyte is little.
const LONG: Duration = Duration::from_secs(600);
/// Bytes of the volume: room for both trees.
const VOLUME: u64 = 208 << 20;

/// Trees, and threads.
const TREES: u32 = 2;

/// An empty volume, made by makefs.
fn make_by_makefs(image: &Path, version: u8) {
    setup::need(&["makefs"]);
    let empty = scratch("acid/empty");
    let options = format!("version={version},bsize=8192,fsize=1024");
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let done = Command::new("makefs")
        .env("PATH", path)
        .args([
            "-t",
            "ffs",
            "-o",
            &options,
            "-f",
            "20000",
            "-s",
            &VOLUME.to_string(),
        ])
        .args([image, &empty])
        .output()
        .expect("makefs runs");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "makefs: {errors}");
}

/// What a reader of the trees must find.
fn expected() -> &'static Tree {
    static TREE: LazyLock<Tree> = LazyLock::new(|| {
        let mut tree = Tree::default();
        for number in 0..TREES {
            let path = acid_tree::directory(number)[1..].to_owned();
            tree.nodes.insert(path, Node::Directory);
            for file in acid_tree::files(number, 1) {
                let size = usize::try_from(file.size).expect("a part of memory");
                let mut bytes = vec![0; size];
                acid_tree::fill(file.seed, 0, &mut bytes);
                let path = file.path[1..].to_owned();
                tree.nodes.insert(path, fingerprint(&bytes));
            }
        }
        tree
    });
    &TREE
}

/// What fuse-ufs finds when it is asked for everything by name: of a directory as long as these it lists but a part.
fn found_by_name(image: &Path) -> Result<Tree> {
    let mount = fuse_ufs::Mount::new(image, &[])?;
    let mut tree = Tree::default();
    for (path, node) in &expected().nodes {
        let full = mount.path().join(path);
        let found = match node {
            Node::File { .. } => fingerprint(&fs::read(&full)?),
            _ if full.is_dir() => Node::Directory,
            _ => Node::Special,
        };
        tree.nodes.insert(path.clone(), found);
    }
    mount.unmount()?;
    Ok(tree)
}

/// Other readers find the trees; nothing else, if they list what there is.
fn assert_readable(image: &Path, by: &[Reader]) {
    for reader in by.iter().filter(|reader| reader.is_here()) {
        let found = match reader {
            FuseUfs => found_by_name(image),
            _ => reader.tree(image),
        };
        let compared = found.and_then(|found| expected().compare(&found));
        compared.unwrap_or_else(|error| panic!("{reader:?}: {error:#}"));
    }
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

/// An empty volume, by who makes it.
#[derive(Clone, Copy, Debug)]
enum Volume {
    /// Of that version of UFS.
    Makefs(u8),
    /// By the file system's own newfs, UFS2 as fuse-ufs takes it: makefs puts its superblock elsewhere.
    Newfs,
}

impl Volume {
    fn make(self, image: &Path) {
        match self {
            Volume::Makefs(version) => make_by_makefs(image, version),
            Volume::Newfs => {
                let format = Format {
                    fragment: 2048,
                    ..Format::UFS2
                };
                volume::make(image, format, VOLUME);
            }
        }
    }
}

/// Runs the acid test within `limit`, which is `pages` pages. What was written is read by these.
fn run(limit: (&str, u64), volume: Volume, mount: Mount, by: &[Reader]) {
    let disk = scratch("acid").join(format!("{}-{mount:?}", limit.0));
    volume.make(&disk);
    let pageouts = boot(&disk, limit, mount, "write,read");
    assert!(pageouts > 0, "nothing was ever short");
    volume::assert_consistent(&disk);
    assert_readable(&disk, by);
    boot(&disk, limit, mount, "delete");
    volume::assert_consistent(&disk);
    fs::remove_file(&disk).expect("our own file");
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_a_megabyte() {
    run(
        ("1M", 256),
        Volume::Newfs,
        Mount::Plain,
        &[Dissect, FuseUfs],
    );
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_half_a_megabyte() {
    run(
        ("512K", 128),
        Volume::Makefs(1),
        Mount::Plain,
        &[Dissect, Linux],
    );
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_within_three_megabytes() {
    run(("3M", 768), Volume::Makefs(2), Mount::Plain, &[Dissect]);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_a_megabyte() {
    run(("1M", 256), Volume::Makefs(2), Mount::Log, &[Dissect]);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_half_a_megabyte() {
    run(("512K", 128), Volume::Makefs(1), Mount::Log, &[Dissect]);
}

#[test]
fn trees_are_copied_to_and_from_an_ffs_with_a_log_within_three_megabytes() {
    run(("3M", 768), Volume::Makefs(2), Mount::Log, &[Dissect]);
}
