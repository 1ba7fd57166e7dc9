//! A real tree, Debian's documentation, put on an image and got back: the same bytes, with times, modes, links and, as root, owners.

use rump_tests::setup;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Runs a program, which has to succeed and say nothing against it.
fn run(command: &mut Command) {
    let done = command.output().expect("the program is there");
    assert!(
        done.status.success() && done.stderr.is_empty(),
        "{command:?}: {}\n{}{}",
        done.status,
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

fn rump_fs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rump_fs"))
}

/// What is to come back of each file: mode, owner and group if they are kept, links, length, time, target.
fn attributes(root: &Path, owners: bool) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let at = fs::symlink_metadata(&path).expect("a file");
        let target = fs::read_link(&path).unwrap_or_default();
        // The length of a directory is the file system's business, and so is the count of its links.
        let size = match at.is_dir() {
            true => (0, 0),
            false => (at.len(), at.nlink()),
        };
        let time = (at.mtime(), at.mtime_nsec());
        let owner = owners.then(|| (at.uid(), at.gid()));
        let line = format!("{:o} {owner:?} {size:?} {time:?} {target:?}", at.mode());
        let relative = path.strip_prefix(root).expect("below the root");
        found.insert(relative.as_os_str().as_bytes().to_owned(), line);
        if at.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            ahead.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    found
}

fn there_and_back(version: &str) {
    let original = Path::new("/usr/share/doc");
    let folder = tempfile::tempdir().expect("a folder");
    let (image, back) = (folder.path().join("image"), folder.path().join("back"));
    fs::create_dir(&back).expect("a directory");
    run(rump_fs()
        .args(["mkfs", "-O", version, "--size", "512m"])
        .arg(&image));
    run(rump_fs()
        .args(["put", "-a"])
        .arg(&image)
        .arg(original)
        .arg("/"));
    run(rump_fs().arg("check").arg(&image));
    run(rump_fs()
        .args(["get", "-a"])
        .arg(&image)
        .arg("/doc")
        .arg(&back));
    let copy = back.join("doc");
    run(Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(original)
        .arg(&copy));
    // Who is not root cannot give files away.
    let owners = setup::is_root();
    let (wanted, found) = (attributes(original, owners), attributes(&copy, owners));
    assert!(wanted.len() > 100, "a real tree");
    for (path, line) in &wanted {
        assert_eq!(
            found.get(path),
            Some(line),
            "{}",
            String::from_utf8_lossy(path)
        );
    }
    assert_eq!(found.len(), wanted.len());
}

#[test]
fn the_documentation_of_debian_comes_back_as_it_went_by_ufs1() {
    there_and_back("1");
}

#[test]
fn the_documentation_of_debian_comes_back_as_it_went_by_ufs2() {
    there_and_back("2");
}
