//! Name look-up, mounts, and the life of vnodes.

mod testfs;

use rumpkern::kauth::Cred;
use rumpkern::uvm::dma::Bio;
use rumpuser::Errno;
use rumpvfs::namei::{Last, Reached};
use rumpvfs::specfs::{BlockIo, DeviceInfo};
use rumpvfs::vfs::{MountRequest, Sizes};
use rumpvfs::vnode::VnodeRef;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use testfs::{ROOT, Rig, TestDisk, Volume, add_fs, attach};

const MEMORY: usize = 4 << 20;
const SIZES: Sizes = Sizes {
    vnodes: 16,
    names: 256,
    buffers: 8,
};

fn rig(make: impl FnOnce(&mut Volume, &TestDisk)) -> Rig {
    Rig::new(SIZES, 20_000, (4096, 0), make)
}

fn tree() -> Rig {
    rig(|volume, disk| {
        let a = volume.dir(ROOT, "a");
        let b = volume.dir(a, "b");
        volume.dir(ROOT, "c");
        volume.file(disk, b, "file", b"contents", false);
        volume.link(ROOT, "to-file", "a/b/file");
        volume.link(ROOT, "to-dir", "a/b");
        volume.link(b, "up", "../../a");
        volume.link(b, "absolute", "/a/b/file");
        volume.link(ROOT, "loop", "loop");
        volume.link(ROOT, "dangling", "nowhere");
        volume.link(ROOT, "empty", "");
    })
}

fn ino(found: Result<VnodeRef, Errno>) -> Result<u64, Errno> {
    found.map(|vnode| vnode.ino())
}

#[test]
fn paths_lead_where_posix_says() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let file = rig.lookup("/a/b/file").unwrap().ino();
    let a = rig.lookup("a").unwrap().ino();
    for path in [
        "a/b/file",
        "/a/b/file",
        "//a///b//file",
        "./a/./b/../b/file",
        "/../../a/b/file",
        "to-file",
        "to-dir/file",
        "a/b/up/b/file",
        "a/b/absolute",
    ] {
        assert_eq!(ino(rig.lookup(path)), Ok(file), "{path}");
    }
    for path in [
        "a",
        "a/",
        "a///",
        "a/.",
        "a/b/..",
        "a/b/up",
        "a/b/up/",
        "to-dir/..",
    ] {
        assert_eq!(ino(rig.lookup(path)), Ok(a), "{path}");
    }
    for path in ["/", "//", ".", "..", "a/..", "/a/../.."] {
        assert_eq!(ino(rig.lookup(path)), Ok(ROOT), "{path}");
    }
}

#[test]
fn wrong_paths_get_the_right_errors() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let long_name = "n".repeat(256);
    let long_path = "a/../".repeat(205);
    for (path, errno) in [
        ("", Errno::ENOENT),
        ("nowhere", Errno::ENOENT),
        ("nowhere/file", Errno::ENOENT),
        ("dangling", Errno::ENOENT),
        ("empty", Errno::ENOENT),
        ("a/b/file/x", Errno::ENOTDIR),
        ("a/b/file/", Errno::ENOTDIR),
        ("a/b/file/.", Errno::ENOTDIR),
        ("a/b/file/..", Errno::ENOTDIR),
        ("to-file/", Errno::ENOTDIR),
        ("loop", Errno::ELOOP),
        ("loop/x", Errno::ELOOP),
        (&long_name, Errno::ENAMETOOLONG),
        (&long_path, Errno::ENAMETOOLONG),
        ("a\0b", Errno::EINVAL),
    ] {
        assert_eq!(ino(rig.lookup(path)), Err(errno), "{path:?}");
    }
    assert_eq!(ino(rig.lookup(&"n".repeat(255))), Err(Errno::ENOENT));
}

#[test]
fn thirty_two_links_are_followed_and_thirty_three_are_not() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        volume.file(disk, ROOT, "l0", b"", false);
        for number in 1..=33 {
            volume.link(ROOT, &format!("l{number}"), &format!("l{}", number - 1));
        }
    });
    assert!(rig.lookup("l32").is_ok());
    assert_eq!(ino(rig.lookup("l33")), Err(Errno::ELOOP));
}

#[test]
fn the_last_name_is_treated_as_asked() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let namei = |path: &str, last| rig.vfs.namei(&rig.context(), path.as_bytes(), last);
    let link = namei("to-file", Last::NoFollow).unwrap().file().unwrap();
    assert_ne!(link.ino(), rig.lookup("to-file").unwrap().ino());
    // With a slash behind it a link is followed all the same.
    assert_eq!(
        ino(namei("to-dir/", Last::NoFollow).unwrap().file()),
        ino(rig.lookup("a/b"))
    );
    for (path, last, expected) in [
        ("a/new", Last::Parent, (true, "new", false)),
        ("a/new/", Last::Create, (true, "new", true)),
        ("a/b", Last::Parent, (true, "b", false)),
        ("dangling", Last::Create, (false, "nowhere", false)),
    ] {
        let Reached::Name { dir, name, slash } = namei(path, last).unwrap() else {
            panic!("{path} leads to a file");
        };
        let in_a = ino(Ok(dir)) == ino(rig.lookup("a"));
        assert_eq!(
            (in_a, std::str::from_utf8(&name).unwrap(), slash),
            expected,
            "{path}"
        );
    }
    assert_eq!(namei("/", Last::Parent).err(), Some(Errno::EBUSY));
    assert_eq!(namei("a/.", Last::Parent).err(), Some(Errno::EINVAL));
    assert_eq!(namei("a/..", Last::Parent).err(), Some(Errno::EINVAL));
}

#[test]
fn names_and_their_absence_are_asked_of_the_file_system_once() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    rig.lookup("a/b/file").unwrap();
    assert!(rig.lookup("a/nothing").is_err());
    let before = rig.fs.lookups.load(Ordering::Relaxed);
    for _ in 0..100 {
        rig.lookup("a/b/file").unwrap();
        assert!(rig.lookup("a/nothing").is_err());
    }
    assert_eq!(rig.fs.lookups.load(Ordering::Relaxed), before);
    let names = rig.vfs.stats().names;
    assert!(names.hits >= 300 && names.negative_hits >= 100, "{names:?}");
}

#[test]
fn mount_points_are_crossed_both_ways_and_cannot_be_unmounted_while_used() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let disk = TestDisk::new(100);
    disk.shared().bytes.lock().unwrap()[..6].copy_from_slice(b"TESTFS");
    let mut volume = Volume::new(4096, 0);
    let sub = volume.dir(ROOT, "sub");
    volume.dir(sub, "deep");
    rig.vfs.add_device(disk.clone()).unwrap();
    let other = add_fs(&rig.vfs, "otherfs", volume);
    let cred = Arc::new(Cred::root());
    let request = MountRequest {
        device: disk.name(),
        path: "/a/b",
        fstype: Some("otherfs"),
        options: "ro",
    };
    let mount = rig.vfs.mount(&cred, &request).unwrap();
    assert_eq!(rig.vfs.mount(&cred, &request).err(), Some(Errno::EBUSY));
    assert!(mount.is_read_only());
    let deep = rig.lookup("/a/b/sub/deep").unwrap();
    assert_eq!(deep.mount().id(), mount.id());
    assert_eq!(
        ino(rig.lookup("/a/b/file")),
        Err(Errno::ENOENT),
        "it is covered"
    );
    assert_eq!(
        ino(rig.lookup("/a/b/sub/../../../a")),
        ino(rig.lookup("/a"))
    );
    assert_eq!(ino(rig.lookup("to-dir/sub")), Ok(sub));
    assert_eq!(rig.vfs.unmount(&mount).err(), Some(Errno::EBUSY));
    drop(deep);
    rig.vfs.unmount(&mount).unwrap();
    assert_eq!(other.unmounts.load(Ordering::Relaxed), 1);
    assert!(rig.lookup("/a/b/file").is_ok());
    assert_eq!(rig.vfs.unmount(&mount).err(), Some(Errno::EINVAL));
}

#[test]
fn mounting_what_cannot_be_mounted_says_why() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let blank = TestDisk::new(100);
    rig.vfs.add_device(blank.clone()).unwrap();
    assert_eq!(rig.vfs.add_device(blank.clone()).err(), Some(Errno::EEXIST));
    let cred = Arc::new(Cred::root());
    let somebody = Arc::new(Cred {
        uid: 1000,
        ..Cred::root()
    });
    for (device, path, fstype, cred, errno) in [
        ("nodisk", "/a", None, &cred, Errno::ENXIO),
        (blank.name(), "/a", None, &cred, Errno::EFTYPE),
        (blank.name(), "/a", Some("nofs"), &cred, Errno::ENODEV),
        (blank.name(), "/nowhere", None, &cred, Errno::ENOENT),
        (blank.name(), "/a/b/file", None, &cred, Errno::ENOTDIR),
        (blank.name(), "/", None, &cred, Errno::EBUSY),
        (rig.disk.name(), "/a", None, &cred, Errno::EBUSY),
        (blank.name(), "/a", None, &somebody, Errno::EPERM),
    ] {
        let request = MountRequest {
            device,
            path,
            fstype,
            options: "",
        };
        assert_eq!(
            rig.vfs.mount(cred, &request).err(),
            Some(errno),
            "{request:?}"
        );
    }
}

/// A partition of a disk, as far as mounting sees.
struct Part(Arc<TestDisk>);

impl BlockIo for Part {
    fn name(&self) -> &str {
        "part"
    }

    fn dev(&self) -> u64 {
        self.0.dev() + 1_000_000
    }

    fn part_of(&self) -> Option<u64> {
        Some(self.0.dev())
    }

    fn info(&self) -> DeviceInfo {
        self.0.info()
    }

    fn start(&self, bio: Bio) -> Result<(), (Errno, Bio)> {
        self.0.start(bio)
    }
}

#[test]
fn a_disk_and_a_partition_of_it_are_not_mounted_at_once() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let disk = TestDisk::new(100);
    disk.shared().bytes.lock().unwrap()[..6].copy_from_slice(b"TESTFS");
    rig.vfs.add_device(disk.clone()).unwrap();
    rig.vfs.add_device(Arc::new(Part(disk.clone()))).unwrap();
    add_fs(&rig.vfs, "otherfs", Volume::new(4096, 0));
    let cred = Arc::new(Cred::root());
    let mount = |device, path| {
        let request = MountRequest {
            device,
            path,
            fstype: Some("otherfs"),
            options: "ro",
        };
        rig.vfs.mount(&cred, &request)
    };
    for (first, second) in [("part", disk.name()), (disk.name(), "part")] {
        let mounted = mount(first, "/a").unwrap();
        assert_eq!(mount(second, "/c").err(), Some(Errno::EBUSY));
        rig.vfs.unmount(&mounted).unwrap();
        let mounted = mount(second, "/a/b").unwrap();
        rig.vfs.unmount(&mounted).unwrap();
    }
}

#[test]
fn idle_vnodes_are_forgotten_and_come_back_and_used_ones_stay() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        for number in 0..200 {
            volume.file(
                disk,
                ROOT,
                &format!("f{number}"),
                &[number as u8; 5000],
                false,
            );
        }
    });
    let kept = rig.lookup("f7").unwrap();
    for round in 0..3 {
        for number in 0..200 {
            let vnode = rig.lookup(&format!("f{number}")).unwrap();
            let mut byte = [0];
            vnode
                .read(4999, &mut byte, &mut Default::default())
                .unwrap();
            assert_eq!(byte, [number as u8], "round {round}");
        }
    }
    let stats = rig.vfs.stats().vnodes;
    assert!(stats.vnodes <= SIZES.vnodes + 1, "{stats:?}");
    assert!(stats.reclaims >= 500, "{stats:?}");
    assert!(
        rig.lookup("f7").unwrap().same(&kept),
        "it was used all the time"
    );
    drop(kept);
    rig.unmount().unwrap();
    let (loads, reclaims) = (&rig.fs.loads, &rig.fs.reclaims);
    assert_eq!(
        loads.load(Ordering::Relaxed),
        reclaims.load(Ordering::Relaxed)
    );
}

#[test]
fn a_walk_over_many_files_leaves_the_pages_of_the_one_that_was_read() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        volume.file(disk, ROOT, "read", &[1; 50_000], false);
        for number in 0..200 {
            volume.file(disk, ROOT, &format!("f{number}"), b"", false);
        }
    });
    let read = || {
        let vnode = rig.lookup("read").unwrap();
        let mut buf = vec![0; 50_000];
        assert_eq!(vnode.read(0, &mut buf, &mut Default::default()), Ok(50_000));
    };
    read();
    for number in 0..200 {
        rig.lookup(&format!("f{number}")).unwrap();
    }
    rig.disk.take_reads();
    read();
    assert_eq!(rig.disk.take_reads(), []);
}

#[test]
fn sizes_up_to_the_largest_offset_are_read_and_larger_ones_refused() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        for (name, size) in [
            ("most", i64::MAX as u64),
            ("more", 1 << 63),
            ("all", u64::MAX),
        ] {
            let ino = volume.file(disk, ROOT, name, b"", false);
            volume.nodes.get_mut(&ino).unwrap().size = size;
        }
    });
    let most = rig.lookup("most").unwrap();
    let mut buf = [1; 10];
    let at = i64::MAX as u64 - 5;
    assert_eq!(most.read(at, &mut buf, &mut Default::default()), Ok(5));
    assert_eq!(buf, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    assert_eq!(
        most.read(u64::MAX, &mut buf, &mut Default::default()),
        Ok(0)
    );
    for name in ["more", "all"] {
        assert_eq!(ino(rig.lookup(name)), Err(Errno::EFBIG));
    }
}

#[test]
fn more_files_in_use_than_the_cache_holds_is_enfile() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        for number in 0..100 {
            volume.file(disk, ROOT, &format!("f{number}"), b"", false);
        }
    });
    let mut used = Vec::new();
    let errno = (0..100).find_map(|number| match rig.lookup(&format!("f{number}")) {
        Ok(vnode) => {
            used.push(vnode);
            None
        }
        Err(errno) => Some(errno),
    });
    assert_eq!(errno, Some(Errno::ENFILE));
    assert_eq!(used.len(), SIZES.vnodes * 2 - 1, "the root is used as well");
    used.pop();
    assert!(rig.lookup("f99").is_ok(), "there is room again");
}

#[test]
fn threads_that_look_up_use_and_forget_the_same_files_agree_on_them() {
    let _lwp = attach(MEMORY);
    let rig = rig(|volume, disk| {
        for number in 0..40u64 {
            volume.file(
                disk,
                ROOT,
                &format!("f{number}"),
                &number.to_le_bytes().repeat(800),
                false,
            );
        }
    });
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let rig = &rig;
            scope.spawn(move || {
                let _lwp = attach(MEMORY);
                let mut state = thread + 1;
                for _ in 0..500 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let number = (state >> 33) % 40;
                    let vnode = rig.lookup(&format!("f{number}")).unwrap();
                    let mut word = [0; 8];
                    let at = (state >> 40) % 799 * 8;
                    vnode.read(at, &mut word, &mut Default::default()).unwrap();
                    assert_eq!(u64::from_le_bytes(word), number);
                }
            });
        }
    });
    assert_eq!(rig.unmount(), Ok(()));
}

#[test]
fn permissions_are_those_of_owner_group_and_others() {
    let _lwp = attach(MEMORY);
    let rig = tree();
    let a = rig.lookup("a").unwrap().ino();
    let lookup = |uid, mode| {
        rig.fs
            .volume
            .lock()
            .unwrap()
            .nodes
            .get_mut(&a)
            .unwrap()
            .mode = mode;
        rig.fs.volume.lock().unwrap().nodes.get_mut(&a).unwrap().uid = 10;
        let mut context = rig.context();
        context.cred = Arc::new(Cred {
            uid,
            gid: 99,
            groups: Vec::new(),
        });
        ino(rig.vfs.lookup(&context, b"a/b"))
    };
    assert!(lookup(10, 0o100).is_ok());
    assert_eq!(lookup(10, 0o677), Err(Errno::EACCES));
    assert_eq!(lookup(11, 0o770), Err(Errno::EACCES));
    assert!(lookup(11, 0o001).is_ok());
    assert!(lookup(0, 0).is_ok());
}
