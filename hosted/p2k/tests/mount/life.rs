//! A mount's life: how it begins, and every way in which it ends.

use crate::mounted::{Mounted, rump_ffs, run};
use rump_tests::setup;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn failed(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_cannot_be_mounted_is_said_with_file_and_cause() {
    if !setup::can_mount_by_fuse() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (image, dir) = (folder.path().join("image"), folder.path().join("dir"));
    fs::create_dir(&dir).expect("a directory");
    let mount = |image: &std::path::Path, dir: &std::path::Path| {
        failed(
            &rump_ffs()
                .args([image, dir])
                .output()
                .expect("rump_ffs runs"),
        )
    };
    let said = mount(&image, &dir);
    assert!(said.contains("image: No such file or directory"), "{said}");
    fs::write(&image, vec![0; 1 << 20]).expect("a file");
    let said = mount(&image, &dir);
    assert!(
        said.contains("image: ") && said.contains("no file system"),
        "{said}"
    );
    ukfs::mkfs::make(&image, &ukfs::mkfs::Options::new()).expect("a volume");
    let said = mount(&image, &folder.path().join("nowhere"));
    assert!(
        said.contains("nowhere: No such file or directory"),
        "{said}"
    );
    let said = mount(&image, &image);
    assert!(said.contains("image: "), "{said}");
    let said = failed(
        &rump_ffs()
            .args(["-o", "quota"])
            .args([&image, &dir])
            .output()
            .expect("it runs"),
    );
    assert!(said.contains("quota"), "{said}");
}

#[test]
fn an_image_is_mounted_once_at_a_time() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let elsewhere = mounted.dir().with_file_name("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let second = rump_ffs().args([mounted.image(), elsewhere]).output();
    let said = failed(&second.expect("rump_ffs runs"));
    assert!(said.contains("image: in use by another program"), "{said}");
    mounted.end();
}

#[test]
fn it_goes_to_the_background_when_the_mount_is_there() {
    let Some(mut mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    mounted.unmount();
    let (image, dir) = (mounted.image(), mounted.dir());
    let output = rump_ffs()
        .args([&image, &dir])
        .output()
        .expect("rump_ffs runs");
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    fs::write(dir.join("file"), "contents").expect("it is mounted");
    run(Command::new("umount").arg(&dir));
    // The daemon finishes the image, and lets it go.
    let start = Instant::now();
    let report = loop {
        match ukfs::check::check(&image, None) {
            Err(error) if error.errno() == ukfs::Errno::EBUSY => {
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "the daemon does not end"
                );
                thread::sleep(Duration::from_millis(10));
            }
            report => break report.expect("it can be checked"),
        }
    };
    assert!(report.is_consistent() && report.files == 2, "{report:?}");
}

#[test]
fn a_signal_unmounts_and_leaves_a_clean_volume() {
    for signal in ["TERM", "INT", "HUP"] {
        let Some(mut mounted) = Mounted::new(2, 16, "rw") else {
            return;
        };
        fs::write(mounted.path("file"), vec![3; 300_000]).expect("a file");
        mounted.signal(signal);
        let (status, said) = mounted.wait();
        assert!(
            status.success() && said.is_empty(),
            "{signal}: {status}: {said}"
        );
        assert!(!mounted.path("file").exists());
        let report = ukfs::check::check(mounted.image(), None).expect("it can be checked");
        assert!(report.is_consistent(), "{:?}", report.findings);
        mounted.mount("ro");
        assert!(fs::read(mounted.path("file")).expect("a file") == vec![3; 300_000]);
        mounted.end();
    }
}

#[test]
fn a_signal_cuts_off_who_has_files_open_and_leaves_a_clean_volume() {
    let Some(mut mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let mut file = File::options();
    let mut file = file
        .read(true)
        .write(true)
        .create(true)
        .open(mounted.path("open"))
        .expect("a file");
    file.write_all(b"written").expect("room");
    let nameless = File::create(mounted.path("nameless")).expect("a file");
    fs::remove_file(mounted.path("nameless")).expect("removed");
    mounted.signal("TERM");
    let (status, said) = mounted.wait();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    assert!(file.write_all(b"more").is_err() && file.read(&mut [0; 100]).is_err());
    drop((file, nameless));
    let report = ukfs::check::check(mounted.image(), None).expect("it can be checked");
    assert!(report.is_consistent() && report.files == 2, "{report:?}");
    mounted.mount("ro");
    assert_eq!(fs::read(mounted.path("open")).expect("a file"), b"written");
    mounted.end();
}

/// What makes a volume whole again.
#[derive(Clone, Copy, Debug)]
enum Cure {
    /// `check --repair`.
    Repair,
    /// The journal, by the next mount.
    Replay,
}

/// A daemon is killed in the midst of things; after the cure the volume is consistent and what was synced is there.
fn killed(version: u8, cure: Cure) {
    let options = match cure {
        Cure::Repair => "rw",
        Cure::Replay => "rw,log",
    };
    let Some(mut mounted) = Mounted::new(version, 64, options) else {
        return;
    };
    let synced: Vec<_> = (0..20).map(|number| format!("synced{number}")).collect();
    for (number, name) in synced.iter().enumerate() {
        let mut file = File::create(mounted.path(name)).expect("a file");
        file.write_all(&vec![number as u8; 1 + number * 9000])
            .expect("room");
        file.sync_all().expect("stable");
    }
    let (busy, done) = (mounted.dir(), Arc::new(AtomicU32::new(0)));
    let work = thread::spawn({
        let done = done.clone();
        move || loop {
            let number = done.load(Ordering::Relaxed);
            let dir = busy.join(format!("d{}", number % 50));
            let file = dir.join(format!("f{}", number % 7));
            let made = fs::create_dir_all(&dir)
                .and_then(|()| fs::write(&file, vec![9; number as usize % 40_000]))
                .and_then(|()| match number % 5 {
                    0 => fs::rename(&file, dir.join("renamed")),
                    1 => fs::remove_file(&file),
                    _ => Ok(()),
                });
            if made.is_err() {
                return;
            }
            done.store(number + 1, Ordering::Relaxed);
        }
    });
    // Every directory is there, and files come and go.
    let start = Instant::now();
    while done.load(Ordering::Relaxed) < 400 {
        assert!(start.elapsed() < Duration::from_secs(60), "it does nothing");
        thread::sleep(Duration::from_millis(1));
    }
    mounted.signal("KILL");
    let (status, _) = mounted.wait();
    assert!(!status.success());
    run(Command::new("umount").arg("-l").arg(mounted.dir()));
    work.join().expect("it gave up");
    match cure {
        Cure::Repair => {
            let done = ukfs::check::repair(mounted.image(), None).expect("it can be repaired");
            assert!(done.left.is_consistent(), "{:?}", done.left.findings);
        }
        Cure::Replay => {
            let state = ukfs::log::state(mounted.image(), None).expect("its state");
            let log = state.log.expect("a log");
            let contents = log.contents.expect("it is in use").expect("it is whole");
            assert!(log.in_use && contents.transactions > 0, "{contents:?}");
        }
    }
    mounted.mount(options);
    for (number, name) in synced.iter().enumerate() {
        let found = fs::read(mounted.path(name)).expect("what was synced");
        assert!(found == vec![number as u8; 1 + number * 9000], "{name}");
    }
    fs::write(mounted.path("after"), "life goes on").expect("it can be written");
    mounted.end();
}

#[test]
fn a_daemon_that_is_killed_leaves_an_image_that_can_be_repaired_and_what_was_synced_is_there() {
    for version in [1, 2] {
        killed(version, Cure::Repair);
    }
}

#[test]
fn after_a_daemon_with_a_log_was_killed_the_next_mount_replays_and_nothing_is_left_to_be_repaired()
{
    for version in [1, 2] {
        killed(version, Cure::Replay);
    }
}

#[test]
fn mount_can_make_linux_refuse_changes_later() {
    let Some(mounted) = Mounted::new(2, 16, "rw") else {
        return;
    };
    let remount = |options: &str| {
        run(rump_ffs()
            .args(["-o", options])
            .arg(mounted.image())
            .arg(mounted.dir()));
    };
    fs::write(mounted.path("a"), "a").expect("a file");
    // Linux counts the file as being written until it was told that it is closed.
    let start = Instant::now();
    while !rump_ffs()
        .args(["-o", "remount,ro"])
        .args([mounted.image(), mounted.dir()])
        .output()
        .expect("rump_ffs runs")
        .status
        .success()
    {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::write(mounted.path("b"), "b").is_err());
    remount("remount,rw");
    fs::write(mounted.path("b"), "b").expect("it may be written again");
    mounted.end();
}
