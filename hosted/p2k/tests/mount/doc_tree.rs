//! A real tree, Debian's documentation, copied in and read back through the mount.

use crate::mounted::{Mounted, run};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// What cp(1) is to keep of each file: mode, owner, group, links, length, time, target.
fn attributes(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let at = fs::symlink_metadata(&path).expect("a file");
        let target = fs::read_link(&path).unwrap_or_default();
        // The length of a directory is the file system's business, and so is the count of its links.
        let size = if at.is_dir() {
            (0, 0)
        } else {
            (at.len(), at.nlink())
        };
        let (mode, owner) = (at.mode(), (at.uid(), at.gid()));
        let time = (at.mtime(), at.mtime_nsec());
        let line = format!("{mode:o} {owner:?} {size:?} {time:?} {target:?}");
        let relative = path.strip_prefix(root).expect("below the root");
        found.insert(relative.as_os_str().as_bytes().to_owned(), line);
        if at.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            ahead.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    found
}

fn copied(version: u8) {
    let Some(mut mounted) = Mounted::new(version, 512, "rw") else {
        return;
    };
    let original = Path::new("/usr/share/doc");
    let copy = mounted.path("doc");
    run(Command::new("cp").arg("-a").arg(original).arg(&copy));
    // Once as Linux remembers it, once as it is on the image.
    for round in ["warm", "cold"] {
        run(Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(original)
            .arg(&copy));
        let (wanted, found) = (attributes(original), attributes(&copy));
        assert!(wanted.len() > 100, "a real tree");
        for (path, line) in &wanted {
            assert_eq!(
                found.get(path),
                Some(line),
                "{round}: {}",
                String::from_utf8_lossy(path)
            );
        }
        assert_eq!(found.len(), wanted.len());
        mounted.unmount();
        mounted.mount("rw");
    }
    run(Command::new("rm").arg("-r").arg(&copy));
    mounted.end();
}

#[test]
fn the_documentation_of_debian_comes_back_as_it_went_through_ufs1() {
    copied(1);
}

#[test]
fn the_documentation_of_debian_comes_back_as_it_went_through_ufs2() {
    copied(2);
}
