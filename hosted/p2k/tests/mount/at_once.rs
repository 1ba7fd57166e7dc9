//! Many programs at once: none waits for what another has asked of the disk, and every byte is right.

use crate::mounted::Mounted;
use crate::slow_disk::{Kind, SlowDisk};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Far longer than what is to be done takes on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Programs at once, more than there are threads that serve.
const CROWD: u8 = 6;
/// What each does.
const ROUNDS: u8 = 12;

/// Bytes that belong to one file of one program and no other.
fn bytes(who: u8, number: u8, length: usize) -> Vec<u8> {
    let bytes = (0..length).map(|at| (at / 3) as u8 ^ (who << 5) ^ number.wrapping_mul(37));
    bytes.collect()
}

/// The length of a file: none, less than a fragment, several blocks, or so many that an indirect block names them.
fn length(number: u8) -> usize {
    [0, 700, 70_000, 600_000][usize::from(number % 4)] + usize::from(number)
}

/// What one of the crowd does in a directory that it shares with the others and in one of its own: writes, reads what it and what
/// nobody wrote, renames, removes, and makes stable.
fn work(who: u8, mount: &Path) {
    let (own, shared) = (mount.join(format!("own{who}")), mount.join("shared"));
    fs::create_dir(&own).expect("a directory");
    for number in 0..ROUNDS {
        let file = own.join(format!("file{number}"));
        let contents = bytes(who, number, length(number));
        let written = File::create(&file).expect("a file");
        // Not in order, so that there are holes meanwhile.
        let middle = contents.len() / 2;
        for (at, part) in [(middle, &contents[middle..]), (0, &contents[..middle])] {
            written.write_all_at(part, at as u64).expect("room");
        }
        if number % 3 == 0 {
            written.sync_all().expect("stable");
        }
        drop(written);
        assert!(
            fs::read(&file).expect("the file") == contents,
            "{who}: {number}"
        );
        let common = fs::read(mount.join(format!("cold{who}"))).expect("a file that was there");
        assert!(common == bytes(who, 99, 300_000), "{who}");
        match number % 4 {
            0 => fs::rename(&file, shared.join(format!("{who}-{number}"))).expect("renamed"),
            1 => fs::remove_file(&file).expect("removed"),
            _ => {}
        }
        let there = fs::read_dir(&shared).expect("a directory");
        let mine = there.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().starts_with(&format!("{who}-"))
        });
        assert_eq!(mine.count(), usize::from(number / 4) + 1, "{who}: {number}");
    }
}

/// What must be there when the crowd is done.
fn assert_done(mount: &Path) {
    for who in 0..CROWD {
        let own = mount.join(format!("own{who}"));
        assert_eq!(
            fs::read_dir(&own).expect("a directory").count(),
            usize::from(ROUNDS / 2)
        );
        for number in 0..ROUNDS {
            let file = match number % 4 {
                0 => mount.join(format!("shared/{who}-{number}")),
                1 => continue,
                _ => own.join(format!("file{number}")),
            };
            let found = fs::read(&file).expect("a file that was not removed");
            assert!(found == bytes(who, number, length(number)), "{file:?}");
        }
    }
    let shared = fs::read_dir(mount.join("shared")).expect("a directory");
    assert_eq!(shared.count(), usize::from(CROWD * ROUNDS / 4));
    assert!(fs::read(mount.join("large")).expect("the file") == bytes(6, 6, 12 << 20));
}

/// Does it in a thread, and fails if it is held up.
fn in_time<T: Send + 'static>(what: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    let acting = thread::spawn(move || done.send(act()));
    let Ok(result) = end.recv_timeout(PATIENCE) else {
        panic!("{what}: failed, or held up");
    };
    acting.join().expect("it sent").expect("somebody waited");
    result
}

/// A volume with cold files, on a slow disk.
fn on_a_slow_disk(version: u8, options: &str) -> Option<(Mounted, SlowDisk)> {
    let mut mounted = Mounted::new(version, 128, options)?;
    fs::create_dir(mounted.path("shared")).expect("a directory");
    for who in 0..CROWD {
        let contents = bytes(who, 99, 300_000);
        fs::write(mounted.path(&format!("cold{who}")), contents).expect("a file");
    }
    fs::write(mounted.path("awaited"), bytes(7, 7, 500_000)).expect("a file");
    mounted.unmount();
    let disk = SlowDisk::new(&mounted.image(), mounted.image().with_file_name("slow"));
    mounted.mount_image(&disk.image(), options);
    Some((mounted, disk))
}

fn others_go_on(version: u8, options: &str) {
    let Some((mut mounted, disk)) = on_a_slow_disk(version, options) else {
        return;
    };
    let mount = mounted.dir();
    let awaited = File::open(mount.join("awaited")).expect("a file");
    disk.hold(Kind::Read);
    let reader = thread::spawn(move || {
        let mut found = vec![0; 500_000];
        awaited.read_exact_at(&mut found, 0).expect("the file");
        found
    });
    disk.wait();
    // From here on one of the requests is under way.
    in_time("while another waits for the disk", {
        let mount = mount.clone();
        move || {
            let crowd: Vec<_> = (0..CROWD)
                .map(|who| {
                    let mount = mount.clone();
                    thread::spawn(move || work(who, &mount))
                })
                .collect();
            let large = File::create(mount.join("large")).expect("a file");
            large.write_all_at(&bytes(6, 6, 12 << 20), 0).expect("room");
            large.sync_all().expect("stable");
            for one in crowd {
                one.join().expect("its work is done");
            }
        }
    });
    assert!(!reader.is_finished());
    assert!(disk.release());
    assert!(reader.join().expect("it reads") == bytes(7, 7, 500_000));
    assert_done(&mount);
    mounted.unmount();
    mounted.mount_image(&disk.image(), options);
    assert_done(&mount);
    mounted.unmount();
    drop(disk);
    mounted.mount(options);
    mounted.end();
}

#[test]
fn while_one_reader_waits_for_the_disk_a_crowd_does_all_its_work_on_ufs1() {
    others_go_on(1, "rw");
}

#[test]
fn while_one_reader_waits_for_the_disk_a_crowd_does_all_its_work_on_ufs2() {
    others_go_on(2, "rw");
}

#[test]
fn while_one_reader_waits_for_the_disk_a_crowd_does_all_its_work_with_a_log() {
    others_go_on(2, "rw,log");
}

#[test]
fn while_fsync_waits_for_the_disk_others_read_and_list() {
    let Some((mut mounted, disk)) = on_a_slow_disk(2, "rw") else {
        return;
    };
    let mount = mounted.dir();
    let large = File::create(mount.join("large")).expect("a file");
    large.write_all_at(&bytes(6, 6, 12 << 20), 0).expect("room");
    disk.hold(Kind::Flush);
    let syncer = thread::spawn(move || large.sync_all());
    disk.wait();
    in_time("while fsync waits", {
        let mount = mount.clone();
        move || {
            assert_eq!(
                fs::read_dir(&mount).expect("a directory").count(),
                usize::from(CROWD) + 3
            );
            for who in 0..CROWD {
                let found = fs::read(mount.join(format!("cold{who}"))).expect("a file");
                assert!(found == bytes(who, 99, 300_000), "{who}");
            }
            // Of the very file, too.
            assert!(fs::read(mount.join("large")).expect("the file") == bytes(6, 6, 12 << 20));
        }
    });
    assert!(!syncer.is_finished());
    assert!(disk.release());
    syncer.join().expect("it ends").expect("stable");
    mounted.unmount();
    drop(disk);
    mounted.mount("rw");
    assert!(fs::read(mount.join("large")).expect("the file") == bytes(6, 6, 12 << 20));
    mounted.end();
}
