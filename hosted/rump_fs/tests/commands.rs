//! The program's commands one by one: what they show, what options they obey, and what they leave alone.

use rump_tests::setup;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that is over in a moment on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn rump_fs(words: &[&OsStr]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rump_fs"));
    command.args(words).output().expect("rump_fs runs")
}

/// The words of a command line; a path among them is a file.
macro_rules! run {
    ($($word:expr),* $(,)?) => { rump_fs(&[$(OsStr::new($word)),*]) };
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it speaks UTF-8")
}

/// What it says if it succeeds and has nothing to complain about.
fn succeeds(output: &Output) -> &str {
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{:?}: {}",
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// It fails with this status and these words.
fn fails(output: &Output, status: i32, words: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(words), "{said}");
}

/// A volume in a folder of its own, with the file `/d/f`.
fn volume(folder: &TempDir) -> PathBuf {
    let image = folder.path().join("disk.img");
    let file = folder.path().join("f");
    fs::write(&file, "contents\n").expect("a file");
    succeeds(&run!("mkfs", "--size", "16m", &image));
    succeeds(&run!("mkdir", &image, "/d"));
    succeeds(&run!("put", &image, &file, "/d"));
    image
}

/// A command line, its image marked `IMAGE`.
fn words<'a>(line: &'a str, image: &'a Path) -> Vec<&'a OsStr> {
    let word = |word| match word {
        "IMAGE" => image.as_os_str(),
        word => OsStr::new(word),
    };
    line.split(' ').map(word).collect()
}

#[test]
fn with_readonly_no_command_changes_an_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = volume(&folder);
    let before = fs::read(&image).expect("the image");
    for (line, status) in [
        ("mkfs IMAGE", 1),
        ("mkfs --size 8m IMAGE", 1),
        ("check --repair IMAGE", 8),
        ("log add IMAGE", 1),
        ("log remove IMAGE", 1),
        ("put IMAGE /etc/passwd /", 1),
        ("mkdir IMAGE /e", 1),
        ("rm IMAGE /d/f", 1),
        ("rm -r IMAGE /d", 1),
        ("mv IMAGE /d/f /g", 1),
        ("ln IMAGE /d/f /g", 1),
        ("ln -s IMAGE /d/f /g", 1),
        ("chmod IMAGE 600 /d/f", 1),
        ("chown IMAGE 1:2 /d/f", 1),
        ("truncate -s 1 IMAGE /d/f", 1),
    ] {
        // It may stand before the command and behind it.
        let line = words(line, &image);
        let option = [OsStr::new("--readonly")];
        for line in [[&option[..], &line].concat(), [&line, &option[..]].concat()] {
            let output = rump_fs(&line);
            fails(
                &output,
                status,
                "disk.img: --readonly: Read-only file system",
            );
            assert!(before == fs::read(&image).expect("the image"), "{line:?}");
        }
    }
    let new = folder.path().join("new.img");
    let refused = run!("--readonly", "mkfs", "--size", "8m", &new);
    fails(&refused, 1, "new.img: --readonly: Read-only file system");
    assert!(!new.exists());
    succeeds(&run!("--readonly", "check", &image));
    assert_eq!(
        succeeds(&run!("--readonly", "cat", &image, "/d/f")),
        "contents\n"
    );
    assert!(before == fs::read(&image).expect("the image"));
}

/// What a shell on the image says to lines.
fn shell(options: &[&str], image: &Path, lines: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rump_fs"))
        .args(options)
        .arg("sh")
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rump_fs runs");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(lines.as_bytes()).expect("it listens");
    drop(input);
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_shell_that_was_told_readonly_changes_nothing_and_one_that_was_not_is_not_told_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = volume(&folder);
    let before = fs::read(&image).expect("the image");
    let output = shell(&["--readonly"], &image, "mkdir /e\nls /d\n");
    fails(&output, 1, "--readonly: Read-only file system");
    assert!(text(&output.stdout).contains("f\n"));
    assert!(before == fs::read(&image).expect("the image"));
    let output = shell(&[], &image, "mkdir --readonly /e\nls --log\nls --json /d\n");
    fails(&output, 1, "mkdir: --readonly: not while the image is open");
    fails(&output, 1, "ls: --log: not while the image is open");
    assert!(text(&output.stdout).contains("\"path\":\"/d/f\""));
    assert_eq!(succeeds(&run!("ls", &image)), "d\n");
}

#[test]
fn a_budget_and_a_kind_that_cannot_be_are_no_secret_to_any_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = volume(&folder);
    let disk = partitioned(&folder, "dos", "type=83");
    let first = PathBuf::from(format!("{}:1", disk.display()));
    let before = (
        fs::read(&image).expect("the image"),
        fs::read(&disk).expect("the disk"),
    );
    for (line, image, status) in [
        ("mkfs IMAGE", &first, 1),
        ("check IMAGE", &image, 8),
        ("check --repair IMAGE", &image, 8),
        ("log show IMAGE", &image, 1),
        ("log add IMAGE", &image, 1),
        ("log remove IMAGE", &image, 1),
        ("df IMAGE", &image, 1),
        ("mkdir IMAGE /e", &image, 1),
    ] {
        let line = words(line, image);
        let small = [&[OsStr::new("--memlimit"), OsStr::new("4k")], &line[..]].concat();
        fails(&rump_fs(&small), status, "a kernel cannot be booted");
        let other = [&[OsStr::new("--fstype"), OsStr::new("ext9")], &line[..]].concat();
        fails(&rump_fs(&other), status, "ext9");
    }
    assert!(before.0 == fs::read(&image).expect("the image"));
    assert!(before.1 == fs::read(&disk).expect("the disk"));
    for line in ["mkfs IMAGE", "check --repair IMAGE", "ls IMAGE"] {
        let line = words(line, &first);
        let given = ["--memlimit", "2m", "--fstype", "ffs"].map(OsStr::new);
        succeeds(&rump_fs(&[&given[..], &line].concat()));
    }
}

/// A disk of 24 MiB with partitions as sfdisk, Debian, understands them; `label`: the kind of table.
fn partitioned(folder: &TempDir, label: &str, partitions: &str) -> PathBuf {
    setup::need(&["sfdisk"]);
    let disk = folder.path().join(format!("{label}.img"));
    let file = File::create(&disk).expect("a file");
    file.set_len(24 << 20).expect("its length");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut sfdisk = Command::new("sfdisk")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .arg("--quiet")
        .arg(&disk)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk runs");
    let mut input = sfdisk.stdin.take().expect("a pipe");
    write!(input, "label: {label}\n{partitions}\n").expect("it listens");
    drop(input);
    assert!(sfdisk.wait().expect("it ends").success());
    disk
}

#[test]
fn a_partition_is_named_on_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("f");
    fs::write(&file, "contents\n").expect("a file");
    let mbr = partitioned(&folder, "dos", "size=8MiB,type=83\nsize=8MiB,type=83");
    // NetBSD FFS (NetBSD sys/sys/disklabel_gpt.h, GPT_ENT_TYPE_NETBSD_FFS).
    let ffs = "type=49F48D5A-B10E-11DC-B99B-0019D1879648";
    let gpt = format!("size=8MiB,{ffs},name=\"boot\"\nsize=8MiB,{ffs},name=\"the files\"");
    let gpt = partitioned(&folder, "gpt", &gpt);
    for (disk, names, other) in [
        (mbr, &["2", "f", "ld0f"][..], "e"),
        (gpt, &["2", "the files", "dk1"], "boot"),
    ] {
        let part = |name: &str| format!("{}:{name}", disk.display());
        let whole = fs::read(&disk).expect("the disk");
        succeeds(&run!("mkfs", &part(names[0])));
        let made = fs::read(&disk).expect("the disk");
        // What is before the second partition, and behind it, is as it was.
        assert!(made[..9 << 20] == whole[..9 << 20] && made[17 << 20..] == whole[17 << 20..]);
        // The only one that has a file system needs no name.
        succeeds(&run!("put", &disk, &file, "/"));
        for name in names {
            assert_eq!(succeeds(&run!("ls", &part(name))), "f\n", "{name}");
            let to = tempfile::tempdir().expect("a folder");
            succeeds(&run!("get", &part(name), "/f", to.path()));
            let copy = fs::read(to.path().join("f")).expect("the copy");
            assert_eq!(copy, b"contents\n");
        }
        succeeds(&run!("check", &part(names[1])));
        succeeds(&run!("mkfs", &part(other)));
        succeeds(&run!("check", &part("1")));
        fails(&run!("ls", &disk), 1, "name one of its partitions: ");
        for (command, status) in [("ls", 1), ("mkfs", 1), ("check", 8)] {
            let wrong = run!(command, &part("nothing"));
            fails(&wrong, status, "no partition nothing among ");
            for name in &names[2..] {
                assert!(text(&wrong.stderr).contains(name), "{wrong:?}");
            }
        }
    }
    let image = folder.path().join("disk.img");
    succeeds(&run!("mkfs", "--size", "8m", &image));
    let wrong = run!("ls", &format!("{}:e", image.display()));
    fails(&wrong, 1, "no partition e: it has none");
}

/// A volume with files whose attributes are known to the last digit.
fn shown(folder: &TempDir) -> PathBuf {
    let image = folder.path().join("disk.img");
    let file = folder.path().join("file");
    fs::write(&file, [b'x'; 5000]).expect("a file");
    let set = File::options().write(true).open(&file).expect("the file");
    // 2001-09-09 01:46:40.123456789 UTC.
    let time = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    set.set_times(times).expect("times");
    succeeds(&run!(
        "mkfs", "--size", "8m", "-b", "8k", "-f", "1k", &image
    ));
    succeeds(&run!("mkdir", &image, "/d"));
    succeeds(&run!("put", "-a", &image, &file, "/d"));
    succeeds(&run!("ln", &image, "/d/file", "/second"));
    succeeds(&run!("ln", "-s", &image, "d/file", "/link"));
    succeeds(&run!("chown", &image, "1234:567", "/second"));
    succeeds(&run!("chmod", &image, "6751", "/second"));
    image
}

#[test]
fn ls_and_tree_show_what_is_there_as_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = shown(&folder);
    assert_eq!(succeeds(&run!("ls", &image)), "d\nlink\nsecond\n");
    let long = run!("ls", "-l", &image);
    let lines: Vec<&str> = succeeds(&long).lines().collect();
    let [directory, link, second] = lines[..] else {
        panic!("{lines:?}");
    };
    assert!(
        directory.starts_with("drwxr-xr-x   2     0     0        512 "),
        "{directory}"
    );
    assert!(directory.ends_with(" d"), "{directory}");
    assert!(
        link.starts_with('l') && link.ends_with(" link -> d/file"),
        "{link}"
    );
    assert_eq!(
        second,
        "-rwsr-s--x   2  1234   567       5000 2001-09-09 01:46:40 second"
    );
    let file = run!("ls", "-l", &image, "/d/file");
    assert!(succeeds(&file).ends_with(" 5000 2001-09-09 01:46:40 /d/file\n"));
    let tree = run!("tree", &image);
    assert_eq!(succeeds(&tree), "d/\nd/file\nlink -> d/file\nsecond\n");
    let below = run!("tree", "--hash", &image, "/d");
    // By sha256sum(1).
    let sum = "c59d3c0480cc2d71d8f646e735e92da65450311eec46e81a5db8c7e6e8a92054";
    assert_eq!(succeeds(&below), format!("{sum}  file\n"));
}

#[test]
fn stat_shows_everything_about_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = shown(&folder);
    let stat = run!("stat", &image, "/second");
    let lines: Vec<&str> = succeeds(&stat).lines().collect();
    for line in [
        "    path: /second",
        "    kind: file",
        "    mode: -rwsr-s--x (106751)",
        "   owner: 1234, group 567",
        "    size: 5000 bytes, 5120 on the disk, in blocks of 8192",
        " written: 2001-09-09 01:46:40.123456789 UTC",
        "    read: 2001-09-09 01:46:40.123456789 UTC",
    ] {
        assert!(lines.contains(&line), "{line:?}: {lines:#?}");
    }
    let has = |end: &str| lines.iter().any(|line| line.ends_with(end));
    assert!(has(", 2 links, flags 0x0"), "{lines:#?}");
    // A link is looked at itself.
    let stat = run!("stat", &image, "/link");
    let said = succeeds(&stat);
    assert!(
        said.contains("  target: d/file\n    kind: symbolic link\n"),
        "{said}"
    );
    let stat = run!("--json", "stat", &image, "/d/file");
    let stat: Value = serde_json::from_str(succeeds(&stat)).expect("JSON");
    for (key, value) in [
        ("path", Value::from("/d/file")),
        ("kind", "file".into()),
        ("mode", "106751".into()),
        ("uid", 1234.into()),
        ("gid", 567.into()),
        ("nlink", 2.into()),
        ("size", 5000.into()),
        ("allocated", 5120.into()),
        ("mtime", 1_000_000_000.into()),
        ("mtime_nsec", 123_456_789.into()),
        ("flags", 0.into()),
    ] {
        assert_eq!(stat[key], value, "{key}");
    }
    fails(&run!("stat", &image, "/third"), 1, "/third: No such file");
}

#[test]
fn a_label_is_on_the_volume() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    // Where the superblock lies (SBLOCK_UFS1, SBLOCK_UFS2), and in it `fs_volname` (NetBSD sys/ufs/ffs/fs.h).
    for (version, at) in [("1", 8192), ("2", 65_536)] {
        for label in ["", "data of 2026", "a label of thirty-two characters"] {
            let size = ["--size", "8m"];
            succeeds(&run!(
                "mkfs", "-O", version, "--label", label, size[0], size[1], &image
            ));
            let mut name = [0xff; 32];
            let read = File::open(&image).expect("the image");
            read.read_exact_at(&mut name, at + 680).expect("bytes");
            let mut expected = [0; 32];
            expected[..label.len()].copy_from_slice(label.as_bytes());
            assert_eq!(name, expected, "{label}");
        }
    }
    let long = run!("mkfs", "--label", &"l".repeat(33), &image);
    fails(&long, 1, "the label is longer than 32 bytes");
}

#[test]
fn owners_and_modes_go_in_and_come_out() {
    if !setup::is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    fs::create_dir_all(place("in/d")).expect("a folder");
    fs::create_dir(place("out")).expect("a folder");
    fs::create_dir(place("plain")).expect("a folder");
    fs::write(place("in/f"), "contents\n").expect("a file");
    fs::write(place("in/d/s"), "contents\n").expect("a file");
    symlink("f", place("in/link")).expect("a link");
    // An owner's change takes set-ID bits away: the mode has to come after it.
    let files = [
        ("in", 0, 0, 0o755),
        ("in/f", 1234, 567, 0o640),
        ("in/d", 1234, 0, 0o2771),
        ("in/d/s", 4_000_000_000, 70_000, 0o6755),
        ("in/link", 12, 34, 0o777),
    ];
    for (name, uid, gid, mode) in files {
        std::os::unix::fs::lchown(place(name), Some(uid), Some(gid)).expect("an owner");
        if name != "in/link" {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(place(name), mode).expect("a mode");
        }
    }
    for version in ["1", "2"] {
        let image = place("disk.img");
        succeeds(&run!("mkfs", "-O", version, "--size", "8m", &image));
        succeeds(&run!("put", "-a", &image, &place("in"), "/"));
        succeeds(&run!("get", "-a", &image, "/in", &place("out")));
        for (name, uid, gid, mode) in files {
            let stat = run!("--json", "stat", &image, &format!("/{name}"));
            let stat: Value = serde_json::from_str(succeeds(&stat)).expect("JSON");
            assert_eq!(
                (&stat["uid"], &stat["gid"]),
                (&uid.into(), &gid.into()),
                "{name}"
            );
            let copy = fs::symlink_metadata(place("out").join(name)).expect("the copy");
            assert_eq!((copy.uid(), copy.gid()), (uid, gid), "{name}");
            if name != "in/link" {
                assert_eq!(copy.mode() & 0o7777, mode, "{name}");
                let shown = stat["mode"].as_str().expect("a mode");
                assert_eq!(shown[2..], format!("{mode:04o}"), "{name}");
            }
        }
        // Without -a they are whose who copies.
        succeeds(&run!("put", &image, &place("in/f"), "/"));
        let stat = run!("--json", "stat", &image, "/f");
        let stat: Value = serde_json::from_str(succeeds(&stat)).expect("JSON");
        assert_eq!((&stat["uid"], &stat["gid"]), (&0.into(), &0.into()));
        succeeds(&run!("get", &image, "/in/f", &place("plain")));
        let copy = fs::metadata(place("plain/f")).expect("the copy");
        assert_eq!((copy.uid(), copy.gid()), (0, 0));
        succeeds(&run!("check", &image));
    }
}

/// A directory on which something may be mounted; nothing stays so.
struct MountPoint(PathBuf);

impl Drop for MountPoint {
    fn drop(&mut self) {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if table.contains(&*self.0.to_string_lossy()) {
            // A test has failed.
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// Tries until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// Unmounts it, and waits until the daemon has finished the image, which then is consistent.
fn umount(dir: &Path, image: &Path) {
    wait_until("it cannot be unmounted", || {
        // What this process had open there, children of other tests hold until they are programs of their own.
        let done = Command::new("umount").arg(dir).output();
        let done = done.expect("umount runs");
        assert!(done.status.success() || text(&done.stderr).contains("busy"));
        done.status.success()
    });
    wait_until("the daemon does not end", || {
        // A plain check could do its work beside a daemon that only reads.
        let checked = run!("check", "--repair", image);
        let in_use = text(&checked.stderr).contains("in use by another program");
        if !in_use {
            succeeds(&checked);
        }
        !in_use
    });
}

#[test]
fn mount_serves_in_the_background_until_it_is_unmounted() {
    if !setup::can_mount_by_fuse() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = volume(&folder);
    let dir = MountPoint(folder.path().join("dir"));
    let path = |name: &str| dir.0.join(name);
    fs::create_dir(&dir.0).expect("a folder");
    let nowhere = run!("mount", &image, &path("nowhere"));
    fails(&nowhere, 1, "nowhere: No such file or directory");

    assert_eq!(succeeds(&run!("mount", &image, &dir.0)), "");
    assert_eq!(fs::read(path("d/f")).expect("the file"), b"contents\n");
    fs::write(path("d/g"), "more\n").expect("it can be written");
    fails(&run!("ls", &image), 1, "in use by another program");
    umount(&dir.0, &image);
    assert_eq!(succeeds(&run!("cat", &image, "/d/g")), "more\n");

    let before = fs::read(&image).expect("the image");
    for options in ["rw", "ro"] {
        // Whatever -o says, --readonly holds.
        succeeds(&run!("--readonly", "mount", "-o", options, &image, &dir.0));
        assert_eq!(fs::read(path("d/g")).expect("the file"), b"more\n");
        let refused = fs::write(path("d/h"), "no\n").expect_err("read-only");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        umount(&dir.0, &image);
    }
    assert!(before == fs::read(&image).expect("the image"));

    let log = run!("--log", "mount", &image, &dir.0);
    succeeds(&log);
    fs::write(path("d/h"), "logged\n").expect("it can be written");
    umount(&dir.0, &image);
    assert!(succeeds(&run!("log", "show", &image)).contains("a log of "));
}
