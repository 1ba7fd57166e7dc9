//! What the program makes and fills, read by programs that nobody here wrote.

use rump_tests::disk::write_random;
use rump_tests::readers::{self, Reader};
use rump_tests::setup;
use rump_tests::tree::Tree;
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs the program, which has to succeed and complain of nothing.
fn rump_fs(words: &[&str], paths: &[&Path]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    let done = command.args(words).args(paths).output();
    let done = done.expect("rump_fs runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.is_empty(),
        "{words:?}: {said}"
    );
    String::from_utf8(done.stdout).expect("it speaks UTF-8")
}

fn set_mtime(path: &Path, time: SystemTime) {
    let file = File::open(path).expect("our own file");
    file.set_modified(time).expect("a time");
}

/// A folder with what can go wrong in a copy.
fn fill(folder: &Path) {
    let path = |name: &str| folder.join(name);
    fs::create_dir_all(path("d/e")).expect("a folder");
    for (name, size) in [
        ("empty", 0),
        ("d/fragment", 1000),
        ("d/blocks", 100_000),
        ("d/indirect", 3 << 20),
    ] {
        write_random(&path(name), size);
    }
    fs::hard_link(path("d/blocks"), path("d/e/same")).expect("a link");
    // The target of a short link lies in its inode, that of a long one in a block.
    symlink("d/blocks", path("short")).expect("a link");
    symlink("../".repeat(100) + "x", path("long")).expect("a link");
    let sparse = File::create(path("sparse")).expect("a file");
    sparse.write_all_at(b"start", 0).expect("room");
    sparse.write_all_at(b"end", 5 << 20).expect("room");
    sparse.set_len(6 << 20).expect("a length");
    fs::create_dir(path("many")).expect("a folder");
    // More than a block of names; fuse-ufs lists what one answer of FUSE's holds, 32 KiB.
    for number in 0..300 {
        let name = format!("many/{number:0width$}", width = 5 + number % 90);
        write_random(&path(&name), number % 50);
    }
    // Linux' files come by tar(1), whose numbers have seven octal digits, and whose times no sign.
    for (name, uid, gid, mode) in [
        ("empty", 1234, 567, 0o400),
        ("d/fragment", 0, 70_000, 0o2755),
        ("d/indirect", 2_000_000, 0, 0o4711),
        ("d/e", 12, 34, 0o1777),
    ] {
        if setup::is_root() {
            lchown(path(name), Some(uid), Some(gid)).expect("an owner");
        }
        fs::set_permissions(path(name), Permissions::from_mode(mode)).expect("a mode");
    }
    // 1979, 1970 and 2001.
    set_mtime(
        &path("d/blocks"),
        UNIX_EPOCH + Duration::from_secs(300_000_000),
    );
    set_mtime(&path("d/fragment"), UNIX_EPOCH + Duration::from_secs(1));
    set_mtime(
        &path("many"),
        UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    );
}

fn others_read(options: &[&str], by: &[Reader]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, files) = (folder.path().join("image"), folder.path().join("files"));
    fs::create_dir(&files).expect("a folder");
    fill(&files);
    let tree = Tree::of_folder(&files).expect("our own folder");
    rump_fs(&[&["mkfs", "--size", "48m"], options].concat(), &[&image]);
    rump_fs(&["put", "-a"], &[&image, &files.join("."), Path::new("/")]);
    rump_fs(&["check"], &[&image]);
    let read = match readers::compare_all(&image, &tree) {
        Ok(read) => read,
        Err(error) => panic!("{error:#}"),
    };
    let here: Vec<Reader> = by.iter().copied().filter(|by| by.is_here()).collect();
    assert_eq!(read, here);
    // The hole was not filled.
    let stat = rump_fs(&["--json", "stat"], &[&image, Path::new("/sparse")]);
    let stat: Value = serde_json::from_str(&stat).expect("JSON");
    assert!(stat["allocated"].as_u64() < Some(1 << 20), "{stat}");
}

#[test]
fn a_volume_that_was_made_and_filled_others_read_as_ufs1() {
    others_read(&["-O", "1"], &[Reader::Dissect, Reader::Linux]);
}

#[test]
fn a_volume_that_was_made_and_filled_others_read_as_ufs2() {
    others_read(&["-O", "2", "-b", "16k", "-f", "2k"], &Reader::ALL);
}
