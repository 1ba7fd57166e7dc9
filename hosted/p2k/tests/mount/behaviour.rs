//! What files on a mount do.

use crate::mounted::{Mounted, run, shell};
use rustix::fs::{self as sys, RenameFlags, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::Command;

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() {
    for version in [1, 2] {
        let Some(mut mounted) = Mounted::new(version, 16, "rw") else {
            return;
        };
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = [
            (time(-315_619_200, 123_456_789), time(-1, 999_999_999)),
            (time(0, 1), time(2_000_000_000, 999_999_999)),
        ];
        for (number, (atime, mtime)) in times.iter().enumerate() {
            let path = mounted.path(&format!("file{number}"));
            File::create(&path).expect("a file");
            let both = Timestamps {
                last_access: *atime,
                last_modification: *mtime,
            };
            sys::utimensat(sys::CWD, &path, &both, sys::AtFlags::empty()).expect("times");
        }
        mounted.unmount();
        mounted.mount("ro");
        for (number, (atime, mtime)) in times.iter().enumerate() {
            let found = fs::metadata(mounted.path(&format!("file{number}"))).expect("a file");
            assert_eq!(
                (found.atime(), found.atime_nsec()),
                (atime.tv_sec, atime.tv_nsec)
            );
            assert_eq!(
                (found.mtime(), found.mtime_nsec()),
                (mtime.tv_sec, mtime.tv_nsec)
            );
        }
        mounted.end();
    }
}

#[test]
fn a_time_that_ufs1_cannot_hold_is_the_nearest_that_it_can_at_once_and_later() {
    for (version, wanted) in [(1, i64::from(i32::MAX)), (2, 4_102_444_800)] {
        let Some(mut mounted) = Mounted::new(version, 16, "rw") else {
            return;
        };
        shell(&mounted.dir(), "touch -d @4102444800 file");
        for _ in 0..2 {
            let file = fs::metadata(mounted.path("file")).expect("a file");
            assert_eq!((file.mtime(), file.atime()), (wanted, wanted));
            mounted.unmount();
            mounted.mount("rw");
        }
        mounted.end();
    }
}

#[test]
fn a_rename_replaces_or_does_not_as_it_is_told_and_exchanges_nothing() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let (a, b, c) = (mounted.path("a"), mounted.path("b"), mounted.path("c"));
    fs::write(&a, "a").expect("a file");
    fs::write(&b, "b").expect("a file");
    let rename = |from, to, flags| sys::renameat_with(sys::CWD, from, sys::CWD, to, flags);
    assert_eq!(rename(&a, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename(&a, &b, RenameFlags::EXCHANGE), Err(Errno::INVAL));
    assert_eq!(rename(&a, &b, RenameFlags::WHITEOUT), Err(Errno::INVAL));
    assert_eq!(fs::read(&b).expect("a file"), b"b");
    assert_eq!(rename(&a, &c, RenameFlags::NOREPLACE), Ok(()));
    assert_eq!(rename(&c, &b, RenameFlags::empty()), Ok(()));
    assert_eq!(fs::read(&b).expect("a file"), b"a");
    assert!(!a.exists() && !c.exists());
    mounted.end();
}

#[test]
fn a_file_without_a_name_lives_until_it_is_closed_and_its_blocks_come_back() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let free = || sys::statvfs(mounted.dir()).expect("statvfs").f_bfree;
    let before = free();
    let path = mounted.path("file");
    let file = File::options();
    let file = file
        .clone()
        .read(true)
        .write(true)
        .create(true)
        .open(&path)
        .expect("a file");
    file.write_all_at(&[7; 1 << 20], 0).expect("room");
    fs::remove_file(&path).expect("removed");
    assert_eq!(file.metadata().expect("open").nlink(), 0);
    // Its number is not given to another while it lives.
    fs::write(mounted.path("other"), "x").expect("a file");
    file.write_all_at(&[8; 4096], 1 << 20).expect("room");
    let mut read = vec![0; 4096];
    file.read_exact_at(&mut read, (1 << 20) - 2048)
        .expect("bytes");
    assert!(
        read[..2048].iter().all(|byte| *byte == 7) && read[2048..].iter().all(|byte| *byte == 8)
    );
    assert!(free() < before - 512);
    drop(file);
    fs::remove_file(mounted.path("other")).expect("removed");
    // Linux says that it is closed a moment after it is.
    for _ in 0..1000 {
        if free() == before {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(free(), before);
    mounted.end();
}

#[test]
fn a_directory_that_was_removed_stays_somebodys_working_directory() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let told = shell(
        &mounted.dir(),
        "mkdir d; cd d; rmdir ../d; mkdir ../e; touch x 2>/dev/null && exit 1; stat -c '%h %F' .",
    );
    assert_eq!(told, "0 directory\n");
    mounted.end();
}

#[test]
fn holes_are_found_where_they_are_and_data_where_it_is() {
    for version in [1, 2] {
        let Some(mounted) = Mounted::new(version, 32, "rw") else {
            return;
        };
        let file = File::create(mounted.path("sparse")).expect("a file");
        file.write_all_at(b"start", 0).expect("room");
        file.write_all_at(b"middle", 1 << 20).expect("room");
        file.set_len(4 << 20).expect("a length");
        let data = |at| sys::seek(&file, SeekFrom::Data(at));
        let hole = |at| sys::seek(&file, SeekFrom::Hole(at));
        assert_eq!(data(0), Ok(0));
        let first = hole(0).expect("a hole");
        assert!((5..=64 << 10).contains(&first), "{first}");
        assert_eq!(data(first), Ok(1 << 20));
        assert!(hole(1 << 20).expect("a hole") < (2 << 20));
        assert_eq!(data(2 << 20), Err(Errno::NXIO));
        assert_eq!(hole(3 << 20), Ok(3 << 20));
        assert_eq!(hole(4 << 20), Err(Errno::NXIO));
        drop(file);
        // cp(1) copies by that.
        shell(
            &mounted.dir(),
            "cp --sparse=auto sparse copy; cmp sparse copy",
        );
        let blocks = |name| fs::metadata(mounted.path(name)).expect("a file").blocks();
        assert_eq!(blocks("copy"), blocks("sparse"));
        mounted.end();
    }
}

#[test]
fn what_there_is_not_is_said_so() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let path = mounted.path("file");
    let file = File::create(&path).expect("a file");
    let mut value = [0; 16];
    let none = Err(Errno::OPNOTSUPP);
    assert_eq!(
        sys::getxattr(&path, "user.a", &mut value),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(sys::listxattr(&path, &mut value), Err(Errno::OPNOTSUPP));
    assert_eq!(
        sys::setxattr(&path, "user.a", b"x", sys::XattrFlags::empty()),
        none
    );
    assert_eq!(
        sys::fallocate(&file, sys::FallocateFlags::empty(), 0, 1),
        none
    );
    drop(file);
    let long = mounted.path(&"n".repeat(256));
    let refused = File::create(long).expect_err("too long");
    assert_eq!(
        refused.raw_os_error(),
        Some(Errno::NAMETOOLONG.raw_os_error())
    );
    mounted.end();
}

#[test]
fn a_file_longer_than_the_format_can_have_is_too_large() {
    for version in [1, 2] {
        let Some(mounted) = Mounted::new(version, 16, "rw") else {
            return;
        };
        let file = File::create(mounted.path("file")).expect("a file");
        let refused = file.write_at(b"x", 1 << 60).expect_err("too far");
        assert_eq!(refused.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
        let refused = file.set_len(1 << 60).expect_err("too long");
        assert_eq!(refused.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
        assert_eq!(file.metadata().expect("a file").len(), 0);
        drop(file);
        mounted.end();
    }
}

#[test]
fn further_groups_count_for_permissions_and_for_set_group_id() {
    let Some(mounted) = Mounted::new(2, 16, "allow_other") else {
        return;
    };
    let way = mounted.image().with_file_name("");
    fs::set_permissions(way, fs::Permissions::from_mode(0o755)).expect("a mode");
    let dir = mounted.path("shared");
    fs::create_dir(&dir).expect("a directory");
    std::os::unix::fs::chown(&dir, Some(0), Some(4321)).expect("a group");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).expect("a mode");
    let as_user = |groups: &str, line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=1234", "--regid=1234"]);
        match groups {
            "" => command.arg("--clear-groups"),
            groups => command.arg(format!("--groups={groups}")),
        };
        command
            .args(["sh", "-c", line])
            .current_dir(&dir)
            .output()
            .expect("setpriv runs")
    };
    assert!(!as_user("", "touch no").status.success());
    assert!(
        as_user("77,4321", "umask 0; touch yes && chmod 2755 yes")
            .status
            .success()
    );
    let made = fs::metadata(dir.join("yes")).expect("a file");
    // The group is the directory's, and a member may have set-group-ID.
    assert_eq!(
        (made.uid(), made.gid(), made.mode() & 0o7777),
        (1234, 4321, 0o2755)
    );
    // Who is none, gets in by the last bits and makes a file that asks for it, gets it without.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("a mode");
    let python = "import os; os.close(os.open('made', os.O_CREAT | os.O_WRONLY, 0o2755))";
    let made_by = |groups: &str, name: &str| {
        let line = format!("umask 0; python3 -c \"{}\"", python.replace("made", name));
        assert!(as_user(groups, &line).status.success());
        fs::metadata(dir.join(name)).expect("a file").mode() & 0o7777
    };
    if Command::new("python3").arg("--version").output().is_ok() {
        assert_eq!(made_by("77", "stranger"), 0o755);
        assert_eq!(made_by("77,4321", "member"), 0o2755);
    }
    mounted.end();
}

#[test]
fn a_directory_of_thousands_is_listed_whole_also_while_it_is_emptied() {
    let Some(mounted) = Mounted::new(2, 64, "rw") else {
        return;
    };
    let dir = mounted.path("many");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..3000 {
        fs::write(
            dir.join(format!("{number:0width$}", width = 4 + number % 60)),
            "",
        )
        .expect("a file");
    }
    assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 3000);
    for entry in fs::read_dir(&dir).expect("a directory") {
        fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    fs::remove_dir(&dir).expect("it is empty");
    mounted.end();
}

#[test]
fn what_is_mapped_and_what_is_read_is_the_same() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let line = "import mmap; f = open('m', 'w+b'); f.truncate(100000); m = mmap.mmap(f.fileno(), 0); \
                m[70000:70005] = b'hello'; m.flush(); g = open('m', 'rb'); g.seek(70000); assert g.read(5) == b'hello'";
    if Command::new("python3").arg("--version").output().is_ok() {
        run(Command::new("python3")
            .args(["-c", line])
            .current_dir(mounted.dir()));
    }
    mounted.end();
}

#[test]
fn a_mount_to_read_refuses_every_change_and_leaves_the_image_as_it_was() {
    let Some(mut mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    fs::write(mounted.path("file"), "contents").expect("a file");
    mounted.unmount();
    let before = fs::read(mounted.image()).expect("the image");
    mounted.mount("ro");
    let refused = File::create(mounted.path("other")).expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(Errno::ROFS.raw_os_error()));
    let mut text = String::new();
    let mut file = File::open(mounted.path("file")).expect("a file");
    file.read_to_string(&mut text).expect("text");
    assert_eq!(text, "contents");
    drop(file);
    mounted.unmount();
    assert!(before == fs::read(mounted.image()).expect("the image"));
}

#[test]
fn a_full_volume_says_so_to_who_writes_and_what_was_written_stays() {
    let Some(mounted) = Mounted::new(2, 8, "rw") else {
        return;
    };
    let mut file = File::create(mounted.path("file")).expect("a file");
    let refused = loop {
        if let Err(error) = file.write_all(&[1; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(refused.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    file.sync_all().expect("what was written is written");
    let length = file.metadata().expect("a length").len();
    assert!(length > 4 << 20);
    let contents = fs::read(mounted.path("file")).expect("contents");
    assert!(contents.len() as u64 == length && contents.iter().all(|byte| *byte == 1));
    drop(file);
    mounted.end();
}
