//! `rump_fs log`: words, JSON and exit statuses.

use rump_tests::disk::Disk;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn rump_fs(words: &[&str], image: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    let words = words.iter().map(OsStr::new);
    command
        .args(words)
        .arg(image)
        .output()
        .expect("rump_fs runs")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).expect("it speaks UTF-8")
}

fn succeeds(words: &[&str], image: &Path) -> String {
    let output = rump_fs(words, image);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{words:?}: {}",
        said(&output)
    );
    said(&output)
}

fn fails(words: &[&str], image: &Path, message: &str) {
    let output = rump_fs(words, image);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    assert!(said(&output).contains(message), "{}", said(&output));
}

#[test]
fn a_log_is_shown_made_and_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = &*folder.path().join("disk.img");
    succeeds(&["mkfs", "--size", "16m"], image);
    assert!(succeeds(&["log", "show"], image).ends_with("disk.img: no log\n"));
    fails(&["log", "remove"], image, "it has no log");
    fails(
        &["--readonly", "log", "add"],
        image,
        "Read-only file system",
    );
    fails(&["log", "add", "--size", "10"], image, "a log has 65536 to");
    fails(
        &["log", "add", "--size", "512m"],
        image,
        "no room for the log",
    );
    assert_eq!(succeeds(&["log", "add", "--size", "2m"], image), "");
    let shown = succeeds(&["log", "show"], image);
    for part in ["a log of 2097152 bytes", "inside", "nothing to replay"] {
        assert!(shown.contains(part), "{shown}");
    }
    fails(&["log", "add"], image, "it has a log already");
    let json: Value =
        serde_json::from_str(&succeeds(&["--json", "log", "show"], image)).expect("JSON");
    assert_eq!(json["log"]["bytes"], 2 << 20);
    assert_eq!(json["log"]["location"], "inside");
    assert_eq!(json["log"]["in_use"], false);
    assert!(json["log"]["contents"].is_null() && json["asked"].is_null());
    succeeds(&["check"], image);
    let json: Value =
        serde_json::from_str(&succeeds(&["--json", "log", "remove"], image)).expect("JSON");
    assert!(json["log"].is_null());
    succeeds(&["check"], image);
    let other = rump_fs(&["--fstype", "ext9", "log", "show"], image);
    assert_eq!(other.status.code(), Some(1));
    assert_eq!(rump_fs(&["log"], image).status.code(), Some(2));
}

#[test]
fn what_is_to_be_replayed_is_told_and_damage_is_an_error() {
    let Some(disk) = Disk::by_netbsd("ffs2-log-cut-b") else {
        return;
    };
    let shown = succeeds(&["log", "show"], &disk.image);
    assert!(shown.contains("dirty: "), "{shown}");
    let json = succeeds(&["--json", "log", "show"], &disk.image);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["log"]["in_use"], true);
    assert!(json["log"]["contents"]["transactions"].as_u64() > Some(0));
    let mut bytes = fs::read(&disk.image).expect("the image");
    let start = json["log"]["start"].as_u64().expect("a place") as usize;
    bytes[start..start + 1024].fill(0xa5);
    fs::write(&disk.image, bytes).expect("the image");
    fails(&["log", "show"], &disk.image, "dirty, and damaged");
    for command in ["ls", "df", "check", "tree"] {
        let output = rump_fs(&[command], &disk.image);
        let name = disk.image.display();
        let cause = format!("{name}: the journal (WAPBL) cannot be replayed: ");
        assert!(!output.status.success(), "{command}");
        assert!(said(&output).contains(&cause), "{}", said(&output));
    }
}
