//! What of all that programs do reaches the daemon: Linux keeps what it knows, and is told much at once.

use crate::mounted::Mounted;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

/// Of what was asked, how often each that brings names, attributes or contents. What ends things comes whenever Linux is at leisure.
fn questions(asked: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for name in asked {
        let counted = [
            "LOOKUP",
            "GETATTR",
            "READ",
            "READLINK",
            "READDIR",
            "READDIRPLUS",
        ];
        if counted.contains(&name.as_str()) {
            *counts.entry(name.as_str()).or_default() += 1;
        }
    }
    counts
}

/// When each file of a directory is looked at.
#[derive(Clone, Copy, Debug)]
enum When {
    /// As soon as its name is read, as ls(1).
    AtOnce,
    /// When all names are read, as du(1).
    AtTheEnd,
}

#[test]
fn a_listing_with_attributes_asks_for_no_file_by_itself() {
    const FILES: usize = 2000;
    let Some(mut mounted) = Mounted::that_tells(2, 64, "rw") else {
        return;
    };
    let dir = mounted.path("many");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..FILES {
        let file = File::create(dir.join(format!("file{number:05}"))).expect("a file");
        file.set_len(number as u64).expect("a length");
    }
    for when in [When::AtOnce, When::AtTheEnd] {
        // Linux knows nothing.
        mounted.unmount();
        mounted.mount("ro");
        let asked = mounted.asked_while(|| {
            let mut entries: Vec<_> = Vec::new();
            for entry in fs::read_dir(&dir).expect("a directory") {
                let entry = entry.expect("an entry");
                if let When::AtOnce = when {
                    fs::metadata(entry.path()).expect("a file");
                }
                entries.push(entry);
            }
            assert_eq!(entries.len(), FILES);
            for entry in entries {
                let name = entry.file_name().into_string().expect("text");
                let length = fs::metadata(entry.path()).expect("a file").len();
                assert_eq!(name, format!("file{length:05}"));
            }
        });
        let questions = questions(&asked);
        let of = |name| questions.get(name).copied().unwrap_or_default();
        assert!(of("READDIRPLUS") > 0, "{when:?}: {questions:?}");
        // The directory itself is looked up, and what Linux forgot at once for want of memory.
        let single = of("LOOKUP") + of("GETATTR");
        assert!(single < FILES / 10, "{when:?}: {questions:?}");
    }
    mounted.end();
}

#[test]
fn what_linux_was_told_once_it_does_not_ask_for_again() {
    let Some(mut mounted) = Mounted::that_tells(2, 32, "rw") else {
        return;
    };
    let (file, dir) = (mounted.path("d/file"), mounted.path("d"));
    fs::create_dir(&dir).expect("a directory");
    let contents: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    fs::write(&file, &contents).expect("a file");
    symlink("file", mounted.path("d/link")).expect("a link");
    mounted.unmount();
    mounted.mount("rw");
    let look = || {
        assert!(fs::read(&file).expect("the file") == contents);
        assert_eq!(fs::metadata(&file).expect("the file").len(), 3_000_000);
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 2);
        let target = fs::read_link(mounted.path("d/link")).expect("the link");
        assert_eq!(target.as_os_str(), "file");
        assert!(!mounted.path("d/nothing").exists());
    };
    let first = mounted.asked_while(look);
    let first = questions(&first);
    for name in ["LOOKUP", "READ", "READLINK", "READDIRPLUS"] {
        assert!(first.contains_key(name), "{name}: {first:?}");
    }
    // What was read has another time of reading, Linux thinks, and asks for that once; and it may have been short of memory.
    let mut again = Vec::new();
    let is_quiet = (0..20).any(|_| {
        again = mounted.asked_while(look);
        questions(&again).is_empty()
    });
    assert!(is_quiet, "{again:?}");
    // It was opened all the same.
    assert!(again.iter().any(|name| name == "OPEN"), "{again:?}");
    mounted.end();
}

#[test]
fn what_is_changed_through_the_mount_is_seen_at_once_though_linux_keeps_it() {
    let Some(mounted) = Mounted::new(2, 32, "rw") else {
        return;
    };
    let (path, other) = (mounted.path("file"), mounted.path("other"));
    fs::write(&path, [1; 100_000]).expect("a file");
    let open = || File::options().read(true).write(true).open(&path);
    let (reader, mut writer) = (open().expect("the file"), open().expect("the file"));
    // Everything about it is known before each change.
    let length = || {
        let by_name = fs::metadata(&path).expect("the file");
        let by_handle = reader.metadata().expect("the file");
        assert_eq!(by_name.len(), by_handle.len());
        let read = fs::read(&path).expect("the file");
        assert_eq!(read.len() as u64, by_name.len());
        by_name.len()
    };
    let byte = |at| {
        let mut byte = [0xff];
        let count = reader.read_at(&mut byte, at).expect("a byte");
        (count == 1).then_some(byte[0])
    };
    let names = || {
        let entries = fs::read_dir(mounted.dir()).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!((length(), byte(5000)), (100_000, Some(1)));
    writer.write_all_at(&[2; 10], 4995).expect("room");
    assert_eq!(
        (byte(4994), byte(5000), byte(5005)),
        (Some(1), Some(2), Some(1))
    );
    writer.set_len(5001).expect("a length");
    assert_eq!((length(), byte(5000), byte(5001)), (5001, Some(2), None));
    writer.set_len(9000).expect("a length");
    assert_eq!((length(), byte(5000), byte(8999)), (9000, Some(2), Some(0)));
    writer.write_all(&[3; 20_000]).expect("room");
    assert_eq!(
        (length(), byte(5000), byte(19_999)),
        (20_000, Some(3), Some(3))
    );

    let before = fs::metadata(&path).expect("the file");
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(&path, mode(0o640)).expect("a mode");
    assert_ne!(before.mode() & 0o777, 0o640);
    assert_eq!(reader.metadata().expect("the file").mode() & 0o777, 0o640);

    assert!(!other.exists() && names() == ["file"]);
    fs::hard_link(&path, &other).expect("a link");
    assert!(names() == ["file", "other"]);
    assert_eq!(fs::metadata(&path).expect("the file").nlink(), 2);
    fs::remove_file(&path).expect("removed");
    assert!(!path.exists() && names() == ["other"]);
    assert_eq!(reader.metadata().expect("the file").nlink(), 1);
    fs::rename(&other, &path).expect("renamed");
    assert!(!other.exists() && names() == ["file"]);
    fs::write(&path, "short").expect("the file");
    let mut text = String::new();
    let mut again = File::open(&path).expect("the file");
    again.read_to_string(&mut text).expect("text");
    assert_eq!((text.as_str(), length()), ("short", 5));
    drop((reader, writer, again));
    mounted.end();
}
