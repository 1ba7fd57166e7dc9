//! What a power cut leaves can be repaired, and loses nothing that was stable; and so can what is spoiled.

mod rig;

use rig::{Image, Random, Rig, assert_consistent, attach, kinds, make};
use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::check::{Finding, check};
use rumpfs_ffs::corrupt::Corrupt;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::Wait;

const MEMORY: usize = 2 << 20;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);

/// Random work of all sorts; what of it fails does not matter.
fn work(rig: &Rig, random: &mut Random, steps: u64) {
    let (vfs, proc) = (&rig.vfs, &rig.proc);
    for _ in 0..steps {
        let mut path = || {
            let dir = ["", "/a", "/b", "/a/c"][random.below(4) as usize];
            format!("{dir}/n{}", random.below(8))
        };
        let (one, two) = (path(), path());
        let (from, to) = (one.as_bytes(), two.as_bytes());
        let data = vec![3; 1 + random.below(30_000) as usize];
        let _ = match random.below(12) {
            0..4 => vfs
                .open(proc, from, NEW, 0o666)
                .and_then(|file| file.write_at(data.len() as u64 / 2, &data).map(drop)),
            4 => vfs.mkdir(proc, from, 0o777),
            5 | 6 => vfs.rename(proc, from, to),
            7 => vfs.link(proc, from, to),
            8 => vfs.rmdir(proc, from),
            9 => vfs.truncate(proc, from, data.len() as u64),
            10 => vfs.symlink(proc, &data[..data.len().min(900)], from),
            _ => vfs.unlink(proc, from),
        };
    }
}

/// What must never be left behind, as no repair could tell what is right.
fn is_fatal(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::Duplicate { .. }
            | Finding::NameOfNothing { .. }
            | Finding::NameType { .. }
            | Finding::Root
            | Finding::Dot { .. }
            | Finding::Corrupt(
                Corrupt::Entry { .. }
                    | Corrupt::Pointer { .. }
                    | Corrupt::IndirectPointer { .. }
                    | Corrupt::DirectoryHole { .. }
                    | Corrupt::Inode { .. }
            )
    )
}

#[test]
fn a_power_cut_at_any_write_leaves_what_a_check_can_repair() {
    let _lwp = attach(MEMORY);
    let seeds = std::env::var("POWER_CUTS").ok();
    for seed in 0..seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(63u64) {
        let mut random = Random(seed);
        let all = kinds();
        let options = all[(seed % all.len() as u64) as usize];
        let what = format!("seed {seed}, {options:?}");
        let rig = Rig::new(make(options));
        for dir in ["/a", "/b", "/a/c"] {
            rig.vfs.mkdir(&rig.proc, dir.as_bytes(), 0o777).unwrap();
        }
        let kept = rig.vfs.open(&rig.proc, b"/kept", NEW, 0o644).unwrap();
        kept.write(&[9; 50_000]).unwrap();
        drop(kept);
        work(&rig, &mut random, 40);
        rig.vfs.sync(Wait::Stable).unwrap();
        *rig.disk.writes_left.lock().unwrap() = random.below([150, 40, 12][seed as usize / 7 % 3]);
        work(&rig, &mut random, 60);
        let _ = rig.vfs.sync(Wait::Stable);
        let mut image = Image(rig.disk.bytes());
        rig.unmount();
        let report = check(&image).expect("it can be checked");
        let fatal = report.findings.iter().find(|finding| is_fatal(finding));
        assert_eq!(fatal, None, "{what}");
        let repaired = repair(&mut image).expect("it can be repaired");
        assert_consistent(&repaired.left, &what);
        let rig = Rig::new(image.0);
        let file = rig.vfs.open(&rig.proc, b"/kept", OpenFlags::READ, 0);
        let mut bytes = vec![0; 60_000];
        assert_eq!(
            file.expect("it was stable").read_at(0, &mut bytes),
            Ok(50_000)
        );
        assert!(bytes[..50_000].iter().all(|byte| *byte == 9), "{what}");
        work(&rig, &mut random, 60);
        rig.finish(&what);
    }
}

#[test]
fn spoiled_volumes_are_repaired_or_what_is_left_is_told() {
    let _lwp = attach(MEMORY);
    let mut whole = 0;
    for seed in 0..42u64 {
        let mut random = Random(1000 + seed);
        let all = kinds();
        let options = all[(seed % all.len() as u64) as usize];
        let rig = Rig::new(make(options));
        rig.vfs.mkdir(&rig.proc, b"/a", 0o777).unwrap();
        work(&rig, &mut random, 60);
        let bytes = rig.finish("before");
        let mut image = Image(bytes);
        // Behind the superblock, in what the first group has before its data.
        let from = 65536 + 8192;
        for _ in 0..4 {
            let at = from + random.below(200_000) as usize;
            image.0[at] ^= 1 << random.below(8);
        }
        let Ok(repaired) = repair(&mut image) else {
            continue;
        };
        if repaired.left.is_consistent() {
            whole += 1;
            assert_consistent(&check(&image).expect("it can be checked"), "repaired");
            Rig::new(image.0).finish(&format!("seed {seed}"));
        }
    }
    println!("{whole} of 42 repaired");
    assert!(whole >= 35, "{whole} of 42 repaired");
}

#[test]
fn a_file_without_a_name_is_found_in_lost_and_found() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let rig = Rig::new(make(options));
        for n in 0..3 {
            let path = format!("/f{n}");
            let file = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
            file.unwrap().write(&[n; 3000]).unwrap();
        }
        let stat = rig.vfs.stat(&rig.proc, b"/f1").unwrap().attr;
        let bytes = rig.finish("made");
        // Its name goes, as if it had never been written.
        let mut image = Image(bytes);
        let at = (0..image.0.len() - 12)
            .step_by(4)
            .find(|at| image.0[at + 7..at + 11] == [2, b'f', b'1', 0])
            .expect("the name is there");
        image.0[at..at + 4].fill(0);
        let repaired = repair(&mut image).expect("it can be repaired");
        assert_consistent(&repaired.left, "repaired");
        let rig = Rig::new(image.0);
        let path = format!("/lost+found/#{:08}", stat.fileid);
        let file = rig.vfs.open(&rig.proc, path.as_bytes(), OpenFlags::READ, 0);
        let mut bytes = vec![0; 4000];
        let file = file.unwrap_or_else(|errno| panic!("{path}: {errno}; {options:?}"));
        assert_eq!(file.read_at(0, &mut bytes), Ok(3000));
        assert_eq!(bytes[..3000], [1; 3000]);
        assert_eq!(syscalls::fstat(&file).unwrap().attr.nlink, 1);
        drop(file);
        rig.finish("read");
    }
}

#[test]
fn hundreds_of_files_without_a_name_are_found_though_the_root_is_full() {
    let _lwp = attach(MEMORY);
    for options in kinds() {
        let rig = Rig::new(make(options));
        rig.vfs.mkdir(&rig.proc, b"/a", 0o777).unwrap();
        let write = |path: String| {
            let file = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, 0o644);
            file.unwrap().write(b"x").unwrap();
        };
        // With `.`, `..` and `a` (12 bytes each), 29 names of 16 bytes and one of 12 fill 512 bytes.
        (10..39).for_each(|n| write(format!("/ro{n}")));
        write("/rrr".to_owned());
        let root = rig.vfs.stat(&rig.proc, b"/").unwrap().attr;
        assert_eq!(root.size, 512);
        let room = rig.vfs.statvfs(&rig.proc, b"/").unwrap();
        let lost_files = 300.min(room.ffree - 60).min(room.bavail * 3 / 4);
        (100..100 + lost_files).for_each(|n| write(format!("/a/l{n}")));
        let mut image = Image(rig.finish("made"));
        for at in (0..image.0.len() - 16).step_by(4) {
            let entry = &image.0[at..at + 16];
            let is_lost = entry[7..10] == [4, b'l', entry[9]]
                && entry[9..12].iter().all(u8::is_ascii_digit)
                && entry[12] == 0;
            if is_lost {
                image.0[at..at + 4].fill(0);
            }
        }
        let repaired = repair(&mut image).expect("it can be repaired");
        assert_consistent(&repaired.left, "repaired");
        let rig = Rig::new(image.0);
        let lost = rig.vfs.open(
            &rig.proc,
            b"/lost+found",
            OpenFlags::READ | OpenFlags::DIRECTORY,
            0,
        );
        let mut found = 0;
        let mut count = |_: &rumpvfs::vnode::DirEntry<'_>| {
            found += 1;
            true
        };
        syscalls::getdents(&lost.unwrap(), &mut count).unwrap();
        assert_eq!(found, lost_files + 2, "{options:?}");
        // Names can still be made in both.
        for path in ["/lost+found/new", "/new"] {
            rig.vfs
                .open(&rig.proc, path.as_bytes(), NEW, 0o644)
                .unwrap();
        }
        rig.finish("read");
    }
}
